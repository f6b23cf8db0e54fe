"""The videos that a browser shows, as columns, and what makes clips of them: decoded files, or flow in colours."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from vidbench.view.galleries import Tile, encode

SIDE = 96  # pixels of a clip
GRID = 48  # clips of a lasso at most
SIDES = ("gallery", "queries")


@dataclass(frozen=True)
class Videos:
    """The videos of one side as columns, and how to see one.

    ids [N]: names, each once; label [N]: index into classes, -1 where unknown; source [N]: videos cut from one long
    take share one; clips: kind of picture ("pictures", "flow") -> a function from a row to its Tile, called when the
    row is first looked at, from several threads.
    """

    ids: np.ndarray
    label: np.ndarray
    source: np.ndarray
    classes: tuple[str, ...]
    clips: Mapping[str, Callable[[int], Tile]]

    @classmethod
    def of(
        cls, manifest, clip_of: Callable[[int], Tile] | None = None, *, flow_folder: str | Path = "",
        speed: Callable[[], float] | None = None,
    ) -> Videos:  # fmt: skip
        """The videos of a data.Manifest. clip_of: None decodes the files; flow_folder: a flow store, to see it, too.

        speed: what is flow's full colour, see `playing`; the same for two sides that one compares.
        """
        clips = {"pictures": clip_of or playing(manifest)}
        if flow_folder and (Path(flow_folder) / "flow.json").exists():
            clips["flow"] = playing(manifest, flow_folder=flow_folder, speed=speed)
        return cls(np.array([str(path) for path in manifest.path]), manifest.label, manifest.source, manifest.classes,
                   clips)

    @classmethod
    def joined(cls, sets: Mapping[str, Videos]) -> Videos:
        """Several data sets as one side: classes of one name are one class, ids begin with the data set's name."""
        classes = tuple(dict.fromkeys(name for part in sets.values() for name in part.classes))
        number = {name: index for index, name in enumerate(classes)}
        columns = [[np.array([f"{name}/{id}" for id in part.ids]),
                    np.array([number[part.classes[label]] if label >= 0 else -1 for label in part.label]),
                    # sources of other data sets never meet; those of this one do, on the other side too
                    part.source + (zlib.crc32(name.encode()) << 24)] for name, part in sets.items()]
        places = [(part, row) for part in sets.values() for row in range(len(part.ids))]
        kinds = [kind for kind in next(iter(sets.values())).clips if all(kind in part.clips for part in sets.values())]

        def clip_of(kind: str) -> Callable[[int], Tile]:
            return lambda row: places[row][0].clips[kind](places[row][1])

        return cls(*map(np.concatenate, zip(*columns, strict=True)), classes, {kind: clip_of(kind) for kind in kinds})

    @property
    def names(self) -> np.ndarray:
        """The class of each video in words [N], "" where it is unknown."""
        return np.array([*self.classes, ""])[np.asarray(self.label)]

    def __len__(self) -> int:
        return len(self.ids)


def playing(
    manifest, *, side: int = 96, most: int = 16, flow_folder: str | Path = "",
    speed: Callable[[], float] | None = None,
) -> Callable[[int], Tile]:  # fmt: skip
    """What makes a Tile of a manifest's row: at most so many frames, spread over the video, at its own pace.

    flow_folder: a flow store; the tiles then show flow in colours, `speed()` pixels a frame in full colour, by default
    `top_speed` of this manifest.
    """
    from vidbench.data.flow import estimate
    from vidbench.data.video import clips

    speed = speed or cache(partial(top_speed, manifest, flow_folder))

    def tile(row: int) -> Tile:
        with clips.Video(manifest.absolute(row), size=side) as video:
            at = _spread(video.frames, most)
            seen = video.read(at[[0, -1]] if flow_folder else at)
        frames = estimate.colours(_flows(manifest, flow_folder, row, most), speed()) if flow_folder else seen.frames
        seconds = max(float(seen.times[-1] - seen.times[0]), 0.1)
        named = manifest.names(row)
        clip = encode(frames, len(frames) / seconds, side=side, quality=60)  # a page holds dozens of them
        return Tile(clip, named["label"], Path(named["path"]).stem)

    return tile


def top_speed(manifest, flow_folder: str | Path, videos: int = 8) -> float:
    """Pixels a frame that 99 % of the pixels of some videos' flow stay below."""
    speeds = [np.linalg.norm(_flows(manifest, flow_folder, row, 4), axis=-1).ravel()
              for row in _spread(len(manifest), videos)]  # fmt: skip
    return float(np.quantile(np.concatenate(speeds), 0.99))


def _flows(manifest, folder: str | Path, row: int, most: int) -> np.ndarray:
    """At most so many flows of a video, evenly spread: float [T,H,W,2] in pixels."""
    from vidbench.data.flow import estimate
    from vidbench.data.flow import store as flow_store

    path = str(manifest.path[row])
    held = flow_store.meta(folder, path)
    return estimate.dequantise(flow_store.load(folder, path, _spread(held["frames"] - 1, most)), held["bound"])


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
