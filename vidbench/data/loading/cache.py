"""The decoded videos that a process keeps."""

from __future__ import annotations

import numpy as np


class VideoCache:
    """Whole decoded videos (uint8), kept in this process until `limit` bytes are used.

    A copy in another process starts empty, because each worker decodes its own videos."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.full = limit, 0, False
        self._held: dict[tuple[str, int], tuple[np.ndarray, float]] = {}

    def __getstate__(self) -> dict:
        return {"limit": self.limit, "used": 0, "full": False, "_held": {}}

    def get(self, stream: str, row: int) -> tuple[np.ndarray, float] | None:
        """Return the frames [T,H,W,C] and the frame rate of a row, or None.

        Args:
            stream: rgb or flow.
            row: Of the manifest.
        """
        return self._held.get((stream, row))

    @property
    def room(self) -> bool:
        """Whether another video may fit."""
        return self.used < self.limit and not self.full

    def keep(
        self, stream: str, row: int, frames: np.ndarray, fps: float
    ) -> tuple[np.ndarray, float]:
        """Remember a video if it fits, and return it either way.

        Args:
            stream: rgb or flow.
            row: Of the manifest.
            frames: uint8 [T,H,W,C].
        """
        if self.used + frames.nbytes <= self.limit:
            self._held[stream, row] = (frames, fps)
            self.used += frames.nbytes
        else:
            self.full = True  # else every further sample would decode its whole video in vain
        return frames, fps
