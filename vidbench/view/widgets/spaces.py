"""The searches of a browser of neighbors: vectors of both sides, and what is nearest by each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidbench.evaluate import search
from vidbench.view.widgets.videos import SIDES, Videos


class Space:
    """One search: the vectors of both sides, one part a stream, without their means."""

    def __init__(self, name: str, held: Sequence, sides: Mapping[str, Videos], centering: str):
        tables = {
            side: list(table) if isinstance(table, list | tuple) else [table]
            for side, table in zip(SIDES, held, strict=True)
        }
        for side, parts in tables.items():
            for part in parts:
                _check_videos(name, side, part, sides[side])
        values = {
            side: [np.asarray(getattr(part, "values", part), dtype=np.float32) for part in parts]
            for side, parts in tables.items()
        }
        _check_shapes(name, values, sides)
        self.parts = (
            values
            if centering == "none"
            else {side: _centered(values, side, centering) for side in SIDES}
        )

    def units(self, side: str) -> np.ndarray:
        """Return the vectors [N,D] of a side as they are compared.

        Each stream's part has unit length; the streams are joined."""
        return np.concatenate([search.unit(part) for part in self.parts[side]], axis=1)


class Searches:
    """The spaces of a browser, and which gallery videos a query may find.

    Args:
        spaces: Name of a list -> its space.
        sides: The gallery and the queries.
    """

    def __init__(self, spaces: Mapping[str, Space], sides: Mapping[str, Videos]):
        self.spaces, self.sides = spaces, sides
        rows = sides["gallery"].rows
        self.own = {  # the row of each video in the gallery, -1 where it is not there
            "gallery": np.arange(len(rows)),
            "queries": np.array([rows.get(str(id), -1) for id in sides["queries"].ids]),
        }

    def one(
        self, name: str, side: str, row: int, k: int, hide: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one video's nearest gallery rows, at most k, and their similarities: [n] each.

        Args:
            name: The list's name.
            side, row: Where the video is.
            k: How many at most.
            hide: Whether gallery videos of its source video are left out.
        """
        query_rows = np.array([row])
        room = int(self._room(side, query_rows, hide)[0])
        rows, scores = self._search(name, side, query_rows, min(k, room), hide)
        return rows[0], scores[0]

    def every(
        self, name: str, k: int, hide: bool, queries: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbors of every query and their similarities: [Q,k] each.

        If a query has fewer than k neighbors, the rest of its row is -1, and NaN.

        Args:
            name: The list's name.
            k: How many neighbors of each query.
            hide: Whether gallery videos of the query's source video are left out.
            queries: Rows of the queries that are searched; None: all.
        """
        every = np.arange(len(self.sides["queries"]))
        query_rows = every if queries is None else np.asarray(queries, np.int64)
        room = np.minimum(self._room("queries", query_rows, hide), k)
        found, scores = np.full((len(room), k), -1), np.full((len(room), k), np.nan, np.float32)
        for few in np.unique(room):  # nearly always one value
            some = np.flatnonzero(room == few)
            near = self._search(name, "queries", query_rows[some], int(few), hide)
            found[some, :few], scores[some, :few] = near
        return found, scores

    def _search(
        self, name: str, side: str, query_rows: np.ndarray, k: int, hide: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest gallery rows [q,k] of some videos of a side, and their similarities."""
        if k < 1:
            return np.empty((len(query_rows), 0), np.int64), np.empty(
                (len(query_rows), 0), np.float32
            )
        space = self.spaces[name]
        near = search.search(
            space.parts["gallery"],
            [part[query_rows] for part in space.parts[side]],
            k,
            source_videos=self._barred(side, query_rows, hide),
        )
        return near.rows, near.scores

    def _room(self, side: str, query_rows: np.ndarray, hide: bool) -> np.ndarray:
        """Count the gallery videos [q] that each query may find."""
        return len(self.sides["gallery"]) - search.siblings(*self._barred(side, query_rows, hide))

    def _barred(
        self, side: str, query_rows: np.ndarray, hide: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """What must differ between a neighbor and its query: the source video, or else the video."""
        if hide:
            return self.sides["gallery"].source_video, self.sides[side].source_video[query_rows]
        return np.arange(len(self.sides["gallery"])), self.own[side][query_rows]


def _check_videos(name: str, side: str, table: Any, videos: Videos) -> None:
    """Raise ValueError where a table of features is of other videos than a side."""
    columns = [column for column in ("label", "source_video") if hasattr(table, column)]
    if any(not np.array_equal(getattr(table, one), getattr(videos, one)) for one in columns):
        raise ValueError(
            f"{name}: the features of the {side} are of other videos than the {side}; extract "
            "them from this manifest"
        )


def _check_shapes(
    name: str, values: Mapping[str, list[np.ndarray]], sides: Mapping[str, Videos]
) -> None:
    """Raise ValueError where streams differ in width, or vectors and videos in number."""
    shapes = {side: [part.shape for part in parts] for side, parts in values.items()}
    widths = [[shape[1:] for shape in shapes[side]] for side in SIDES]
    counts = {side: {shape[0] for shape in shapes[side]} for side in SIDES}
    if (
        widths[0] != widths[1]
        or any(len(width) != 1 for width in widths[0])
        or any(counts[side] != {len(sides[side])} for side in SIDES)
    ):
        raise ValueError(
            f"{name}: wanted features [N,D] of {len(sides['gallery'])} gallery videos and "
            f"{len(sides['queries'])} queries, or a list of those, one a stream; got {shapes}"
        )


def _centered(
    values: Mapping[str, list[np.ndarray]], side: str, centering: str
) -> list[np.ndarray]:
    """Take each stream's mean off, as search.search does; queries here are one at a time."""
    if centering not in search.CENTERINGS:
        raise ValueError(f"centering is one of {search.CENTERINGS}; got {centering!r}")
    streams = values["queries" if (side, centering) == ("queries", "split") else "gallery"]
    means = [part.mean(0, dtype=np.float64).astype(np.float32) for part in streams]
    return [part - mean for part, mean in zip(values[side], means, strict=True)]
