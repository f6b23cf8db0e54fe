"""The videos that a browser shows, as columns, with functions that make their clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidbench.view.clips import playing
from vidbench.view.galleries import Tile

SIDE = 96  # pixels of a clip
GRID = 48  # clips of a lasso at most
SIDES = ("gallery", "queries")


@dataclass(frozen=True)
class Videos:
    """The videos of one side as columns, and how to see one.

    ids [N]: names, each once; label [N]: index into classes, -1 where unknown; source_video [N]: videos
    cut from one long take share one; clips: kind of picture ("pictures", "flow") -> a function from
    a row to its Tile, called when the row is first looked at, from several threads."""

    ids: np.ndarray
    label: np.ndarray
    source_video: np.ndarray
    classes: tuple[str, ...]
    clips: Mapping[str, Callable[[int], Tile]]

    @classmethod
    def of(
        cls,
        manifest,
        *,
        flow_folder: str | Path = "",
        speed: Callable[[], float] | None = None,
    ) -> Videos:
        """Make the columns of a data.Manifest, whose files are decoded when they are looked at.

        Args: flow_folder: a flow store. If it exists, the flow can be seen, too. speed: the pixels
            a frame that get full color, see `playing`. Two sides that are compared share one.
        """
        clips = {"pictures": playing(manifest)}
        if flow_folder and (Path(flow_folder) / "flow.json").exists():
            clips["flow"] = playing(manifest, flow_folder=flow_folder, speed=speed)
        return cls(
            np.array([str(path) for path in manifest.path]),
            manifest.label,
            manifest.source_video,
            manifest.classes,
            clips,
        )

    @property
    def names(self) -> np.ndarray:
        """The class of each video in words [N], "" where it is unknown."""
        return np.array([*self.classes, ""])[np.asarray(self.label)]

    def __len__(self) -> int:
        return len(self.ids)
