"""Optical flow: three estimators behind one function, its 8-bit form and its colors.

TV-L1 by OpenCV is the papers' flow and the reference; the same algorithm batched in PyTorch
(`tvl1`) is for GPUs; DIS is for a quick look. Flow i leads from frame i to frame i + 1. Values are
pixels of the frame they were computed on, (u, v) = (right, down). The module
`store` keeps flow on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vidbench.system.errors import Brief

METHODS = ("tvl1", "tvl1_fast", "tvl1_torch", "dis")
BOUND = 20.0  # pixels; MemDPC's extract_ff.py, which CoCLR's flow comes from
PIXELS = 2**22  # pixels that the batched estimator takes at once


class FlowError(Brief, RuntimeError):
    """A flow that cannot be computed, a store that refuses or a file that is not one."""


def estimator(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return OpenCV's function from two gray frames uint8 [H,W] to flow float32 [H,W,2].

    Its solver keeps buffers, so make one for each video, not for each pair.

    Raises:
        FlowError: OpenCV has no contrib modules.
        ValueError: the method is not one of OpenCV's.
    """
    import cv2

    solver: Any
    vision: Any = cv2  # its type stubs lack the contrib modules
    if method == "dis":
        solver = vision.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    elif method in ("tvl1", "tvl1_fast"):
        if not hasattr(cv2, "optflow"):
            raise FlowError(
                "TV-L1 lives in OpenCV's contrib modules: install opencv-contrib-python-headless"
            )
        # defaults: tau .25, lambda .15, theta .3, 5 scales, 5 warps
        solver = vision.optflow.DualTVL1OpticalFlow_create()
        if method == "tvl1_fast":
            solver.setEpsilon(0.05)  # default 0.01; the one knob that pays
    else:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return lambda first, second: solver.calc(first, second, None)


def estimate(frames: np.ndarray, method: str = "tvl1", device: str | None = None) -> np.ndarray:
    """Estimate flow between consecutive frames.

    Args:
        frames: uint8 [T,H,W,3] RGB, at least two.
        method: "tvl1": Zach et al. 2007 as OpenCV implements it, at its defaults (CoCLR's flow).
            "tvl1_fast": the same, stopping at epsilon 0.05 (about a fifth of the time).
            "tvl1_torch": the same algorithm for many pairs at once, on `device`. "dis": Kroeger et
            al. 2016, medium preset, for a quick look.
        device: Of tvl1_torch; None: CUDA if there is a card, else the CPU.

    Returns:
        float32 [T-1,H,W,2] in pixels: u to the right, v down.

    Raises:
        ValueError: other frames, or an unknown method.
        FlowError: OpenCV has no contrib modules, which tvl1 and tvl1_fast need.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise ValueError(
            f"wanted at least two frames, uint8 [T,H,W,3], got {frames.dtype} {frames.shape}"
        )
    gray = [to_gray(frame) for frame in frames]
    if method == "tvl1_torch":
        return np.concatenate([flow.cpu().numpy() for flow in batched(np.stack(gray), device)])
    calc = estimator(method)
    return np.stack([calc(first, second) for first, second in zip(gray, gray[1:], strict=False)])


def timed(clip: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Estimate a clip's flow by each of METHODS; returns the flows and the seconds a pair of frames.

    Args:
        clip: Frames uint8 [T,H,W,3].
    """
    flows, seconds = {}, {}
    for name in METHODS:
        began = time.perf_counter()
        flows[name] = estimate(clip, name)
        seconds[name] = (time.perf_counter() - began) / len(flows[name])
    return flows, seconds


def to_gray(frame: np.ndarray) -> np.ndarray:
    """Convert RGB uint8 [H,W,3] to the gray [H,W] that flow is computed on."""
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def batched(gray: np.ndarray, device: str | None = None) -> Iterator:
    """Yield TV-L1 flow of consecutive frames by PyTorch: tensors [n,H,W,2] on the device.

    All batches together are T - 1 flows.

    Args:
        gray: uint8 [T,H,W].
        device: See `tvl1.estimate`.
    """
    from vidbench.data.flow import tvl1

    step = max(1, PIXELS // gray[0].size)
    for start in range(0, len(gray) - 1, step):
        stop = min(start + step, len(gray) - 1)
        yield tvl1.estimate(gray[start:stop], gray[start + 1 : stop + 1], device=device)


def quantize(flow: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Store flow as MemDPC does: uint8 [T,H,W,3] = (u, v, 128).

    Args:
        flow: float [T,H,W,2] in pixels.
        bound: Pixels at which flow is clipped.
    """
    stored = np.full((*flow.shape[:-1], 3), 128, np.uint8)
    stored[..., :2] = levels(flow, bound)
    return stored


def levels(flow: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Round flow to the 256 levels of the store: float [...] to uint8 [...].

    Args:
        flow: In pixels.
        bound: Pixels at which flow is clipped.
    """
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def dequantize(stored: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Convert levels back to pixels: float32 [...,2], off by at most half a step, bound / 255.

    Args:
        stored: uint8 [...,2 or 3].
        bound: As in `quantize`.
    """
    return stored[..., :2].astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def colors(flow: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Color flow by the Middlebury wheel (Baker et al., IJCV 2011): uint8 [...,H,W,3].

    Direction is hue, speed is saturation: no motion is white, faster pixels than `limit` are
    darker.

    Args:
        flow: float [...,H,W,2] in pixels.
        limit: The speed of full color in pixels; None: that of the fastest pixel.

    Raises:
        ValueError: flow is not in pixels.
    """
    if flow.shape[-1] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(
            f"wanted flow in pixels, float [...,2], got {flow.dtype} {flow.shape}: see dequantize"
        )
    u, v = flow[..., 0], flow[..., 1]
    speed = np.hypot(u, v)
    speed = speed / max(float(speed.max(initial=0.0)) if limit is None else limit, 1e-6)
    ring = _ring()
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(ring) - 1)
    low = np.floor(place).astype(int)
    part = (place - low)[..., None]
    color = (1 - part) * ring[low] + part * ring[(low + 1) % len(ring)]
    inside = (speed <= 1)[..., None]
    color = np.where(inside, 1 - np.minimum(speed, 1)[..., None] * (1 - color), color * 0.75)
    return np.rint(255 * color).astype(np.uint8)


def _ring() -> np.ndarray:
    """55 colors [55,3] in 0..1: red, yellow, green, cyan, blue, magenta, with more steps where
    eyes see more."""
    corners = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float
    )
    steps = (15, 6, 4, 11, 13, 6)
    return np.concatenate(
        [
            a + (b - a) * np.arange(n)[:, None] / n
            for a, b, n in zip(corners[:-1], corners[1:], steps, strict=True)
        ]
    )


def wheel(size: int = 128) -> np.ndarray:
    """Draw the key to `colors`, a disc: uint8 [size,size,3].

    Each place has the color of the motion from the center to it.
    """
    line = (np.arange(size) + 0.5) * 2 / size - 1
    flow = np.stack(np.broadcast_arrays(line[None, :], line[:, None]), -1)
    disc = colors(flow, limit=1.0)
    disc[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 255
    return disc
