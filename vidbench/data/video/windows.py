"""Which frames of a video make a clip: pure integer arithmetic on lengths, no files.

Every function returns int64 frame numbers. A stride is a whole number or a Fraction of source
frames per clip frame (`stride_for` makes one from a target frame rate): clip frame i stands floor(i
* stride) frames after the first. A window that does not fit follows `pad`:
    "last"   starts at 0 and holds the last frame (default)
    "first"  repeats frame 0 on the LEFT, then runs to the end of the video (CoCLR code, dataset/lmdb_dataset.py)
    "loop"   starts at 0 and runs through the video again
Numbers come from an argument `rng`; nothing is drawn where there is no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

Pad = Literal["last", "first", "loop"]
PADS = get_args(Pad)
Stride = int | Fraction


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly spread, the first and the last among them.

    Returns:
        Rising int64 numbers [min(count, most)]; `most` = 1 gives [0].
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def stride_for(fps: float, target_fps: float) -> Fraction:
    """The stride that turns fps into target_fps: 30 to 8 gives 15/4; 29.97 is taken as 30000/1001.

    A target above fps gives a stride below 1: frames repeat. Raises ValueError unless both are
    positive."""
    if not (fps > 0 and target_fps > 0):
        raise ValueError(f"frame rates must be positive, got fps={fps} and target_fps={target_fps}")
    return Fraction(fps).limit_denominator(1001) / Fraction(target_fps).limit_denominator(1001)


def length_at(times: np.ndarray, fps: float) -> int:
    """Count the frames of a video resampled to fps; times [N]: seconds of its frames, ascending."""
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


def _offsets(length: int, frames: int, stride: Stride, pad: str) -> np.ndarray:
    """Frame numbers [T] of a window at 0, before padding. Raises ValueError on nonsense, at the
    door."""
    if length < 1 or frames < 1:
        raise ValueError(
            f"video and clip need at least one frame each, got length={length}, frames={frames}"
        )
    if not stride > 0:
        raise ValueError(f"stride must be positive, got {stride}")
    if pad not in PADS:
        raise ValueError(f"pad must be one of {PADS}, got {pad!r}")
    step = Fraction(stride)
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


def random_window(
    length: int, frames: int, stride: Stride = 1, *, rng: np.random.Generator, pad: str = "last"
) -> np.ndarray:
    """One window [T], its start uniform over all that fit (CoCLR's code leaves out the very last);
    short: `pad`."""
    offsets = _offsets(length, frames, stride, pad)
    room = length - 1 - int(offsets[-1])
    return _windows(length, offsets, [int(rng.integers(room + 1)) if room > 0 else 0], pad)[0]


def random_windows(
    length: int,
    frames: int,
    windows: int,
    stride: Stride = 1,
    *,
    rng: np.random.Generator,
    pad: str = "last",
) -> np.ndarray:
    """Independent windows [V,T]; they may overlap or coincide (CoCLR takes two: its
    dataset/lmdb_dataset.py)."""
    return np.stack(
        [random_window(length, frames, stride, rng=rng, pad=pad) for _ in range(windows)]
    )


def uniform_segments(
    length: int, segments: int, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """One frame [T] from each of T equal segments: random, or with rng None the middle (TSN;
    Something-Something).

    Segment k is floor(k*length/T) up to floor((k+1)*length/T). A video shorter than T frames
    repeats frames, in order."""
    _offsets(length, segments, 1, "last")
    edges = np.arange(segments + 1, dtype=np.int64) * length // segments
    sizes = np.diff(edges)
    inside = sizes // 2 if rng is None else rng.integers(np.maximum(sizes, 1))
    return edges[:-1] + inside


def spread_windows(
    length: int, frames: int, windows: int, stride: Stride = 1, pad: str = "last"
) -> np.ndarray:
    """Windows [V,T] evenly spread: the first touches frame 0, the last the end; a single one stands
    in the middle.

    Short videos: every window is the same padded clip (`pad`).
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    offsets = _offsets(length, frames, stride, pad)
    room = max(0, length - 1 - int(offsets[-1]))
    if windows == 1:
        return _windows(length, offsets, [room // 2], pad)
    gaps = windows - 1
    # rounded, not cut: symmetric
    starts = (2 * np.arange(windows, dtype=np.int64) * room + gaps) // (2 * gaps)
    return _windows(length, offsets, starts, pad)


def sliding_windows(
    length: int, frames: int, hop: int, stride: Stride = 1, pad: str = "last"
) -> np.ndarray:
    """Windows [V,T] every `hop` frames, and one that touches the end (CoCLR's test: 32 frames, hop
    15).

    V follows from the length; it is 1, padded by `pad`, for a video that is too short.
    """
    if hop < 1:
        raise ValueError(f"hop must be at least 1 frame, got {hop}")
    offsets = _offsets(length, frames, stride, pad)
    room = max(0, length - 1 - int(offsets[-1]))
    starts = list(range(0, room + 1, hop))
    return _windows(length, offsets, starts if starts[-1] == room else [*starts, room], pad)
