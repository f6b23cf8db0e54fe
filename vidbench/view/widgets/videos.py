"""The videos that a browser shows, as columns, with functions that make their clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.manifest import SPLITS
from vidbench.view.clips import QUICK, playing, top_speed, whole
from vidbench.view.galleries import Tile, encode

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest

SIDE = 96  # pixels of a clip
GRID = 24  # clips of a page of selected videos
SIDES = ("gallery", "queries")


@dataclass(frozen=True)
class Videos:
    """The videos of one side as columns, and how to see one.

    Args:
        ids: Names [N], each once.
        label: Index into classes [N], -1 where unknown.
        source_video: [N]; videos cut from one long take share one.
        classes: None, if no label is known.
        clips: Kind of picture ("pictures", "flow") -> a function from a row to its Tile, called
            when the row is first looked at, from several threads.
        speed: Returns the pixels a frame that get full color in flow; None if no flow can be seen.
        columns: Name -> a value for each video [N], words or numbers, by which a map is colored and
            a table sorted.
        whole: A function from a row to its clips for the viewer, see `clips.whole`; None if there
            are none but the tiles'.
        folder: That ids are below, if they are paths of files.
    """

    ids: np.ndarray
    label: np.ndarray
    source_video: np.ndarray
    classes: tuple[str, ...]
    clips: Mapping[str, Callable[[int], Tile]]
    speed: Callable[[], float] | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    whole: Callable[[int], list[Tile]] | None = None
    folder: str | Path = ""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        flow_folder: str | Path = "",
        speed: Callable[[], float] | None = None,
    ) -> Videos:
        """Make the columns of a data.Manifest, whose files are decoded when they are looked at.

        Args:
            flow_folder: A flow store, or clips.QUICK. If it exists, tiles of flow can be seen. The
                viewer always shows flow, estimated without a store.
            speed: The pixels a frame that get full color, see `playing`. Two sides that are
                compared share one.
        """
        clips = {"pictures": playing(manifest)}
        there = flow_folder == QUICK or (Path(flow_folder or ".") / "flow.json").exists()
        if there:
            speed = speed or cache(partial(top_speed, manifest, flow_folder))
            clips["flow"] = playing(manifest, flow_folder=flow_folder, speed=speed)
        else:
            speed = None
        return cls(
            np.array([str(path) for path in manifest.path]),
            manifest.label,
            manifest.source_video,
            manifest.classes,
            clips,
            speed,
            _columns(manifest),
            partial(whole, manifest, flow_folder=flow_folder if there else QUICK, speed=speed),
            manifest.root,
        )

    @cached_property
    def labeled(self) -> bool:
        """Whether the class of any video is known."""
        return bool((np.asarray(self.label) >= 0).any())

    @property
    def names(self) -> np.ndarray:
        """The class of each video in words [N], "" where it is unknown."""
        return np.array([*self.classes, ""])[np.asarray(self.label, dtype=np.int64)]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each id."""
        return {str(id): row for row, id in enumerate(self.ids)}

    def tile(self, kind: str, row: int) -> Tile:
        """Return a video's clip; a video that cannot be read is gray, and its caption says why.

        Args:
            kind: A key of `clips`, such as pictures or flow.
            row: The video's row.
        """
        try:
            tile = self.clips[kind](row)
            return replace(tile, source=replace(tile.source, path=str(self.ids[row])))
        except Exception as error:  # one video that cannot be read must not hide the others
            blank = encode(np.full((1, 48, 64, 3), 225, np.uint8), 1)
            return Tile(blank, str(self.names[row]), f"cannot be shown: {error}")

    def __len__(self) -> int:
        return len(self.ids)


def _columns(manifest: Manifest) -> dict[str, np.ndarray]:
    """The columns of a manifest that describe a video: split, source video, and what a scan found."""
    scanned = {name: getattr(manifest, name) for name in ("frames", "fps", "height", "width")}
    return {
        "split": np.array(SPLITS)[manifest.split],
        "source video": np.array(manifest.source_videos[manifest.source_video].tolist(), str),
        **{name: values for name, values in scanned.items() if values is not None},
    }


def whole_of(sides: Mapping[str, Videos], id: str) -> list[Tile]:
    """Return the viewer's clips of a video of either side; its tile's clip if there are no others.

    Args:
        sides: Name of a side -> videos.
        id: The video's id.
    """
    videos = next(one for one in sides.values() if id in one.rows)
    row = videos.rows[id]
    return videos.whole(row) if videos.whole else [videos.tile(next(iter(videos.clips)), row)]


def both_sides(
    gallery: Videos | Manifest, queries: Videos | Manifest, flow_folder: str | Path = ""
) -> dict[str, Videos]:
    """Return the videos of both sides; manifests' flows share one scale of colors.

    Args:
        gallery, queries: `Videos`, or manifests, of which `Videos.of` makes them.
        flow_folder: A flow store for manifests, see `Videos.of`.

    Raises:
        ValueError: a side without videos, or with one id twice.
    """
    given = dict(zip(SIDES, (gallery, queries), strict=True))
    raw = [one for one in given.values() if not isinstance(one, Videos)]
    speed = cache(partial(top_speed, raw[0], str(flow_folder))) if raw else None
    sides = {
        side: one
        if isinstance(one, Videos)
        else Videos.of(one, flow_folder=flow_folder, speed=speed)
        for side, one in given.items()
    }
    for side, videos in sides.items():
        if not len(videos) or len(videos.rows) < len(videos):
            raise ValueError(
                f"Browser: wanted videos in the {side}, each id once; got {len(videos)}"
            )
    return sides
