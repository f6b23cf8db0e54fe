"""The videos that a browser shows, as columns, with functions that make their clips."""

from __future__ import annotations

import zlib
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

    ids [N]: names, each once; label [N]: index into classes, -1 where unknown; source [N]: videos
    cut from one long take share one; clips: kind of picture ("pictures", "flow") -> a function from
    a row to its Tile, called when the row is first looked at, from several threads."""

    ids: np.ndarray
    label: np.ndarray
    source: np.ndarray
    classes: tuple[str, ...]
    clips: Mapping[str, Callable[[int], Tile]]

    @classmethod
    def of(
        cls,
        manifest,
        clip_of: Callable[[int], Tile] | None = None,
        *,
        flow_folder: str | Path = "",
        speed: Callable[[], float] | None = None,
    ) -> Videos:
        """The videos of a data.Manifest. clip_of: None decodes the files; flow_folder: a flow
        store, to see it, too.

        speed: what is flow's full colour, see `playing`; the same for two sides that one compares.
        """
        clips = {"pictures": clip_of or playing(manifest)}
        if flow_folder and (Path(flow_folder) / "flow.json").exists():
            clips["flow"] = playing(manifest, flow_folder=flow_folder, speed=speed)
        return cls(
            np.array([str(path) for path in manifest.path]),
            manifest.label,
            manifest.source,
            manifest.classes,
            clips,
        )

    @classmethod
    def joined(cls, sets: Mapping[str, Videos]) -> Videos:
        """Several data sets as one side: classes of one name are one class, ids begin with the data
        set's name."""
        classes = tuple(dict.fromkeys(name for part in sets.values() for name in part.classes))
        number = {name: index for index, name in enumerate(classes)}
        columns = [
            [
                np.array([f"{name}/{id}" for id in part.ids]),
                np.array(
                    [number[part.classes[label]] if label >= 0 else -1 for label in part.label]
                ),
                # sources of other data sets never meet; those of this one do, on the other side too
                part.source + (zlib.crc32(name.encode()) << 24),
            ]
            for name, part in sets.items()
        ]
        places = [(part, row) for part in sets.values() for row in range(len(part.ids))]
        kinds = [
            kind
            for kind in next(iter(sets.values())).clips
            if all(kind in part.clips for part in sets.values())
        ]

        def clip_of(kind: str) -> Callable[[int], Tile]:
            return lambda row: places[row][0].clips[kind](places[row][1])

        return cls(
            *map(np.concatenate, zip(*columns, strict=True)),
            classes,
            {kind: clip_of(kind) for kind in kinds},
        )

    @property
    def names(self) -> np.ndarray:
        """The class of each video in words [N], "" where it is unknown."""
        return np.array([*self.classes, ""])[np.asarray(self.label)]

    def __len__(self) -> int:
        return len(self.ids)
