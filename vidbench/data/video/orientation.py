"""How a player turns and mirrors decoded frames: the display matrix of a video.

A camera held sideways stores its frames as the sensor sees them, with a matrix that places them:
column x and row y are shown at column a*x + c*y and row b*x + d*y. The eight matrices of right
angles are the identity, three rotations and four mirrors. FFmpeg's angle is right for the first
four alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vidbench.data.video.packets import container_of, decoded

if TYPE_CHECKING:
    from av import VideoFrame


class Orientation(NamedTuple):
    """A display matrix of right angles: rows and columns swapped first, then mirrored."""

    swapped: bool = False  # rows and columns
    mirrored: bool = False  # left and right
    flipped: bool = False  # up and down

    def is_reflection(self) -> bool:
        """Return whether no rotation shows the frame like this."""
        return (self.swapped + self.mirrored + self.flipped) % 2 == 1

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Turn a decoded frame [H,W,C] into the shown one [H,W,C] or [W,H,C], without a copy."""
        if self.swapped:
            frame = frame.swapaxes(0, 1)
        if self.mirrored:
            frame = frame[:, ::-1]
        return frame[::-1] if self.flipped else frame


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read the orientation that a decoded frame carries."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV knows the matrix, but gives up on a frame with other data that is newer than itself
        return _rotation(frame.rotation)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


def _rotation(degrees: int) -> Orientation:
    """The orientation of a counterclockwise rotation."""
    turns = (UPRIGHT, Orientation(True, False, True), Orientation(False, True, True))
    return (*turns, Orientation(True, True, False))[round(degrees / 90) % 4]


def orientation(path: Path) -> Orientation:
    """Read the orientation of a video; decodes one frame, once per process and file.

    Raises:
        OSError, ValueError: no frame decodes.
    """
    about = path.stat()
    return _orientation(str(path), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16_384)
def _orientation(path: str, changed: int, size: int) -> Orientation:
    with container_of(path) as container:
        first = next(decoded(container), None)
        return UPRIGHT if first is None else orientation_of(first)
