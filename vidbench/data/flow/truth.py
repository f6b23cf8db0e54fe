"""Ground truth for flow: Middlebury's .flo files, pairs with a known motion, end-point error."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UNKNOWN = 1e9  # Middlebury marks pixels without ground truth by larger values
TAG = 202021.25  # the first four bytes of a .flo, as a float


def read_flo(path: str | Path) -> np.ndarray:
    """Read a .flo file (Baker et al., IJCV 2011): float32 [H,W,2] in pixels.

    Pixels without known truth are NaN.

    Raises:
        ValueError: another tag, or another number of bytes than its sizes need.
    """
    data = Path(path).read_bytes()
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != TAG:
        raise ValueError(f"{path} is no .flo file: wanted the tag {TAG} in its first four bytes")
    width, height = (int(n) for n in np.frombuffer(data, "<i4", 2, 4))
    if min(width, height) < 1 or len(data) != 12 + 8 * width * height:
        raise ValueError(
            f"{path}: wanted {12 + 8 * width * height} bytes for {width} x {height}, got "
            f"{len(data)}"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    return np.where(np.abs(flow).max(-1, keepdims=True) > UNKNOWN, np.nan, flow)


def read_pair(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a folder of two pictures and one .flo file.

    Returns:
        The pictures in the order of their names, uint8 [2,H,W,3], and the flow float32 [H,W,2].

    Raises:
        ValueError: other numbers of files.
    """
    from vidbench.data.video import clips

    folder = Path(folder)
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in clips.PICTURES)
    truths = sorted(folder.glob("*.flo"))
    if len(pictures) != 2 or len(truths) != 1:
        raise ValueError(
            f"{folder}: wanted two pictures and one .flo, got {len(pictures)} and {len(truths)}"
        )
    frames = np.concatenate([clips.read(picture).frames for picture in pictures])
    return frames, read_flo(truths[0])


def turning_pair(size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Draw a texture that turns by 2 degrees and grows by 2 % about its middle.

    Returns:
        Two frames uint8 [2,size,size,3], and their true flow float32 [size,size,2].
    """
    import cv2

    rng = np.random.default_rng(0)
    layers = [
        cv2.GaussianBlur(rng.random((2 * size, 2 * size, 3)), (0, 0), s) * s
        for s in (1.5, 3, 6, 12)
    ]
    texture = np.sum(layers, axis=0)
    texture = cv2.normalize(texture, texture, 0, 255, cv2.NORM_MINMAX).astype(np.float32)
    middle = (size - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), -2.0, 1.02)
    # the part of the texture that is seen first
    shift = np.array([[1, 0, -size / 2], [0, 1, -size / 2]], np.float32)
    both = (np.vstack([turn, [0, 0, 1]]) @ np.vstack([shift, [0, 0, 1]]))[:2]
    frames = [
        cv2.warpAffine(texture, matrix, (size, size), flags=cv2.INTER_CUBIC)
        for matrix in (shift, both)
    ]
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    moved = np.stack([x, y, np.ones_like(x)], -1) @ turn.T
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8), (moved - np.stack([x, y], -1)).astype(
        np.float32
    )


def end_point(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the end-point error [...,H,W] in pixels, NaN where the truth is unknown.

    Args:
        flow, truth: [...,H,W,2] in pixels.
    """
    return np.hypot(*np.moveaxis(flow - truth, -1, 0))
