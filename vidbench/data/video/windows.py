"""Which frames of a video make a clip: pure integer arithmetic on lengths, no files.

Every function returns int64 frame numbers. A stride is a whole number or a Fraction of source
frames per clip frame (`stride_for` makes one from a target frame rate): clip frame i is floor(i
* stride) frames after the first. A window that does not fit follows `pad`:
    "last"   starts at 0 and holds the last frame (default)
    "first"  repeats frame 0 on the LEFT, then runs to the end of the video (CoCLR code, dataset/lmdb_dataset.py)
    "loop"   starts at 0 and runs through the video again
Two arguments follow released code where it differs:
    grid       "stride": as above, and equal segments. "linspace": T frames evenly spread from the first to the last of
               T * stride frames, cut to whole numbers, so that 8 frames of stride 8 are every 9th; segments of
               (N - 1) / T frames with rounded ends (PySlowFast, pytorchvideo, MultiTrain)
    reach_end  True: every start that fits may come, the last too. False: T * stride frames are the window, a random
               start is never the last one (CoCLR, PySlowFast); `sliding_windows` adds no window that touches the end
               (CoCLR), and gaps of `spread_windows` are whole (PySlowFast with its offset option)
Numbers come from an argument `rng`; nothing is drawn where there is no choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

Pad = Literal["last", "first", "loop"]
PADS = get_args(Pad)
Grid = Literal["stride", "linspace"]
GRIDS = get_args(Grid)
Stride = int | Fraction


def spread(count: int, most: int) -> np.ndarray:
    """Choose at most `most` of the numbers below `count`, evenly spread from first to last.

    Args:
        count: Above 0.
        most: 1 gives [0].

    Returns:
        Rising int64 numbers [min(count, most)].
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def stride_for(fps: float, target_fps: float) -> Fraction:
    """Return the stride that turns one frame rate into another: 30 to 8 gives 15/4.

    A target above fps gives a stride below 1: frames repeat.

    Args:
        fps: Of the video; 29.97 counts as 30000/1001.
        target_fps: Of the clip.

    Raises:
        ValueError: a rate is not positive.
    """
    if not (fps > 0 and target_fps > 0):
        raise ValueError(f"frame rates must be positive, got fps={fps} and target_fps={target_fps}")
    return Fraction(fps).limit_denominator(1001) / Fraction(target_fps).limit_denominator(1001)


def length_at(times: np.ndarray, fps: float) -> int:
    """Count the frames of a video resampled to a frame rate.

    Args:
        times: Seconds of its frames [N], ascending.
        fps: The new rate.
    """
    return int((times[-1] - times[0]) * fps + 1e-6) + 1


def by_time(chosen: np.ndarray, times: np.ndarray, fps: float) -> np.ndarray:
    """Turn frame numbers of a video resampled to fps into the frames shown at these times.

    Args:
        chosen: Frame numbers, any shape, below `length_at(times, fps)`.
        times: Seconds [N] at which each frame of the file is first shown, ascending.
        fps: The even rate at which the numbers were chosen.
    """
    wanted = times[0] + chosen / fps + 1e-6  # a time stamp's own rounding
    return np.searchsorted(times, wanted, side="right") - 1


def _offsets(
    length: int, frames: int, stride: Stride, pad: str, grid: str = "stride"
) -> np.ndarray:
    """Frame numbers [T] of a window at 0, before padding. Raises ValueError if an argument is
    out of range."""
    if length < 1 or frames < 1:
        raise ValueError(
            f"video and clip need at least one frame each, got length={length}, frames={frames}"
        )
    if not stride > 0:
        raise ValueError(f"stride must be positive, got {stride}")
    if pad not in PADS:
        raise ValueError(f"pad must be one of {PADS}, got {pad!r}")
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {GRIDS}, got {grid!r}")
    step = Fraction(stride)
    if grid == "linspace":
        step = max(Fraction(0), frames * step - 1) / max(1, frames - 1)
    return np.arange(frames, dtype=np.int64) * step.numerator // step.denominator


def _windows(
    length: int, offsets: np.ndarray, starts: Sequence[int] | np.ndarray, pad: str
) -> np.ndarray:
    """Windows [V,T] at the starts; a video shorter than a window gives its padded clip in each of
    them."""
    if offsets[-1] < length:
        return np.asarray(starts, dtype=np.int64)[:, None] + offsets
    if pad == "last":
        window = np.minimum(offsets, length - 1)
    elif pad == "loop":
        window = offsets % length
    else:
        inside = offsets[offsets < length]
        window = np.concatenate([np.zeros(len(offsets) - len(inside), np.int64), inside])
    return np.repeat(window[None], len(starts), axis=0)


def _room(
    length: int, frames: int, stride: Stride, offsets: np.ndarray, reach_end: bool
) -> Fraction:
    """How many frames a window at 0 can move on; without `reach_end` it is as long as its strides."""
    taken = int(offsets[-1]) + 1 if reach_end else frames * Fraction(stride)
    return max(Fraction(0), Fraction(length) - taken)


def random_window(
    length: int,
    frames: int,
    stride: Stride = 1,
    *,
    rng: np.random.Generator,
    pad: str = "last",
    grid: str = "stride",
    reach_end: bool = True,
) -> np.ndarray:
    """Draw one window [T]; its start is uniform over all that fit.

    Args:
        length: Frames of the video.
        frames: Of the window.
        stride, grid, reach_end: See the module.
        pad: How a short video is filled: last, first or loop; see the module.

    Raises:
        ValueError: length, frames or stride is not positive, or pad or grid is unknown.
    """
    offsets = _offsets(length, frames, stride, pad, grid)
    room = _room(length, frames, stride, offsets, reach_end)
    starts = int(room) + 1 if reach_end else math.ceil(room)
    start = int(rng.integers(starts)) if starts > 1 else 0
    return _windows(length, offsets, [start], pad)[0]


def random_windows(
    length: int,
    frames: int,
    windows: int,
    stride: Stride = 1,
    *,
    rng: np.random.Generator,
    pad: str = "last",
    grid: str = "stride",
    reach_end: bool = True,
) -> np.ndarray:
    """Draw independent windows [V,T], which may overlap or coincide.

    Args:
        length: Frames of the video.
        frames: Of a window.
        windows: V; CoCLR draws two (dataset/lmdb_dataset.py).
        stride, pad, grid, reach_end: See `random_window`.
    """
    drawn = [
        random_window(length, frames, stride, rng=rng, pad=pad, grid=grid, reach_end=reach_end)
        for _ in range(windows)
    ]
    return np.stack(drawn)


def uniform_segments(
    length: int,
    segments: int,
    *,
    rng: np.random.Generator | None = None,
    grid: str = "stride",
) -> np.ndarray:
    """Take one frame [T] from each of T equal segments (TSN; Something-Something).

    Segment k is floor(k*length/T) up to floor((k+1)*length/T). With grid "linspace" it is
    round(k*(length-1)/T) to round((k+1)*(length-1)/T), both ends included. A video shorter than T
    frames repeats frames, in order.

    Args:
        length: Frames of the video.
        segments: T.
        rng: Draws the frame of each segment; None takes the middle one.
        grid: stride or linspace.
    """
    _offsets(length, segments, 1, "last", grid)
    if grid == "linspace":
        ends = np.round((length - 1) / segments * np.arange(segments + 1)).astype(np.int64)
        first, last = ends[:-1], ends[1:]
        return (first + last) // 2 if rng is None else rng.integers(first, last + 1)
    edges = np.arange(segments + 1, dtype=np.int64) * length // segments
    sizes = np.diff(edges)
    inside = sizes // 2 if rng is None else rng.integers(np.maximum(sizes, 1))
    return edges[:-1] + inside


def spread_windows(
    length: int,
    frames: int,
    windows: int,
    stride: Stride = 1,
    pad: str = "last",
    grid: str = "stride",
    reach_end: bool = True,
) -> np.ndarray:
    """Spread windows [V,T] evenly: the first touches frame 0, the last the end.

    A single window is in the middle. Of a short video every window is the same padded clip.

    Args:
        length: Frames of the video.
        frames: Of a window.
        windows: V.
        stride, pad, grid, reach_end: See `random_window`.

    Raises:
        ValueError: windows is below 1; else see `random_window`.
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    offsets = _offsets(length, frames, stride, pad, grid)
    room = _room(length, frames, stride, offsets, reach_end)
    if windows == 1:
        return _windows(length, offsets, [int(room // 2)], pad)
    gaps = windows - 1
    numbers = np.arange(windows, dtype=np.int64)
    # rounded, not cut: symmetric
    even = (2 * numbers * int(room) + gaps) // (2 * gaps)
    starts = even if reach_end else numbers * int(room // gaps)
    return _windows(length, offsets, starts, pad)


def sliding_windows(
    length: int,
    frames: int,
    hop: int,
    stride: Stride = 1,
    pad: str = "last",
    grid: str = "stride",
    reach_end: bool = True,
) -> np.ndarray:
    """Place windows [V,T] every `hop` frames, and one that touches the end (see reach_end).

    CoCLR tests with 32 frames and hop 15. V follows from the length; it is 1, padded by `pad`, for
    a video that is too short.

    Args:
        length: Frames of the video.
        frames: Of a window.
        hop: Frames between two starts.
        stride, pad, grid, reach_end: See `random_window`.

    Raises:
        ValueError: hop is below 1; else see `random_window`.
    """
    if hop < 1:
        raise ValueError(f"hop must be at least 1 frame, got {hop}")
    offsets = _offsets(length, frames, stride, pad, grid)
    room = int(_room(length, frames, stride, offsets, reach_end))
    starts = list(range(0, room + 1, hop))
    if reach_end and starts[-1] != room:
        starts.append(room)
    return _windows(length, offsets, starts, pad)
