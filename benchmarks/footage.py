"""What is decoded: real Kinetics and UCF101 clips if they exist, else clips like them, encoded on
the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

KINETICS, UCF = "Kinetics mp4", "UCF101 AVI"
KINDS = {KINETICS: ("kinetics", "*.mp4"), UCF: ("ucf101", "*/*.avi")}
FRAMES = 32  # of a clip


def data() -> Path:
    """The folder of real data: $VIDBENCH_DATA, else ../shared/data next to the project; it need not
    exist."""
    return Path(
        os.environ.get("VIDBENCH_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    )


def files(kind: str, scratch: Path, limit: int | None = None) -> list[Path]:
    """Videos of a kind, at most `limit` of them, evenly chosen; written to `scratch` where there
    are no real ones."""
    folder, pattern = KINDS[kind]
    found = sorted((data() / "real_clips" / folder).glob(pattern))
    if not found:
        print(
            f"no real {kind} in {folder}/ of the data folder (VIDBENCH_DATA): clips like them are "
            "encoded instead"
        )
        found = [encode(scratch / f"{folder}{i}{Path(pattern).suffix}", seed=i) for i in range(2)]
    return found[:: -(-len(found) // (limit or len(found)))]


def encode(path: Path, seed: int = 0, frames: int = 240) -> Path:
    """A drifting texture as Kinetics (H.264 340x256, keyframe every 250) or UCF101 (MPEG-4 320x240
    AVI) files are."""
    import av

    avi = path.suffix == ".avi"
    height, width = (240, 320) if avi else (256, 340)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4" if avi else "libx264", rate=25 if avi else 30)
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = (
            height,
            width,
            "yuv420p",
            1,
        )
        stream.options = {"g": "12"} if avi else {"g": "250", "preset": "veryfast"}
        stream.bit_rate = 700_000
        for frame in moving(frames, height, width, seed):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
    return path


def moving(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A drifting, colored, slightly noisy texture: uint8 [T,H,W,3]."""
    import cv2

    rng = np.random.default_rng(seed)
    texture = cv2.normalize(
        cv2.GaussianBlur(rng.random((height, width + 2 * frames, 3)), (0, 0), 4), None, 0, 255, 32
    )
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        out[t] = np.clip(texture[:, 2 * t : 2 * t + width] + rng.normal(0, 5, out[t].shape), 0, 255)
    return out


def whole(path: Path) -> np.ndarray:
    """Every frame by a plain decode from the start, uint8 [T,H,W,3]: the reference for frame
    numbers and pictures."""
    import av
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        return np.stack(
            [to_rgb.reformat(f, format="rgb24", interpolation="AREA").to_ndarray() for f in decoded]
        )


def draw(lengths: list[int], rounds: int, seed: int = 0) -> list[list[tuple[int, int]]]:
    """For each round and file, (file's number, first frame of a clip)."""
    rng = np.random.default_rng(seed)
    return [
        [(i, int(rng.integers(0, max(1, n - FRAMES + 1)))) for i, n in enumerate(lengths)]
        for _ in range(rounds)
    ]


def no_torchcodec() -> str:
    """Why torchcodec cannot be a contestant here; "" where it can."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError:
        return "torchcodec is not installed"
    except RuntimeError:
        return "torchcodec does not find FFmpeg's shared libraries"
    try:
        VideoDecoder(b"no video")
    except (RuntimeError, ValueError) as error:
        return (
            "torchcodec does not find FFmpeg's shared libraries"
            if "load libtorchcodec" in str(error)
            else ""
        )
    return ""


def manifest(paths: list[Path]):
    """The Manifest of some videos: one class, one split, each its own source."""
    from vidbench.data.manifest import Manifest

    root = Path(os.path.commonpath([path.parent for path in paths]))
    return Manifest.from_rows(
        root, [(path.relative_to(root).as_posix(), "any", "train", None) for path in paths]
    )
