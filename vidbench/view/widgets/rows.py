"""All videos of a browser as one table: each video once, columns of words or numbers, tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.view.widgets.videos import SIDES

if TYPE_CHECKING:
    from vidbench.view.widgets.lists import Lists

PATH, CLASS, SIDE, SOURCE, VERDICT, SCORE, TAGS = (
    "path",
    "class",
    "side",
    "source video",
    "right",
    "score",
    "tags",
)
VERDICTS = np.array(["wrong", "right", ""])  # by 0, 1 and -1


class VideoRows:
    """The videos of both sides, the gallery's first; a query that is in the gallery counts once.

    Columns are words, with "" where a video has none, or floats with NaN. `right` says whether one
    of a query's k neighbors shows its class, `score` is the similarity of its nearest; both are
    those of the list `judge`.
    """

    def __init__(self, lists: Lists):
        self._lists, sides = lists, lists.sides
        self.judge = next(iter(lists.spaces))
        self.drawn = {
            "gallery": np.arange(len(sides["gallery"])),
            "queries": np.flatnonzero(lists.in_gallery < 0),
        }
        self.ids = [str(one) for side in SIDES for one in sides[side].ids[self.drawn[side]]]
        self.row = {one: row for row, one in enumerate(self.ids)}
        self.tags: dict[str, tuple[str, ...]] = {}
        self._given = {
            name: {
                side: videos.columns[name]
                for side, videos in sides.items()
                if name in videos.columns
            }
            for videos in sides.values()
            for name in videos.columns
        }
        self._words = self._searched()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the order of the table."""
        labeled = any(videos.labeled for videos in self._lists.sides.values())
        own = {
            PATH: True,
            CLASS: labeled,
            "split": "split" in self._given,
            SOURCE: True,
            SIDE: True,
        }
        own |= {VERDICT: self._lists.judged, SCORE: True, TAGS: True}
        last = [name for name in self._given if name not in own]
        return (*(name for name, there in own.items() if there), *last)

    def add(self, name: str, gallery: Sequence, queries: Sequence = ()) -> None:
        """Add a column of yours, or replace it.

        Args:
            name: The column's name.
            gallery, queries: A word or number for each video of the side; () for no values.

        Raises:
            ValueError: The name is one of the table's own, or the number of values does not fit.
        """
        sides = self._lists.sides
        values = dict(zip(SIDES, (gallery, queries), strict=True))
        wrong = [
            f"{len(given)} for {len(sides[side])} videos of the {side}"
            for side, given in values.items()
            if len(given) not in (0, len(sides[side]))
        ]
        if name in (PATH, CLASS, SIDE, VERDICT, SCORE, TAGS) or not name or wrong:
            raise ValueError(
                "add_column: wanted a new name and a value for each video of a side; got "
                f"{name!r} with {'; '.join(wrong) or 'values that fit'}. The table makes "
                f"{', '.join((PATH, CLASS, SIDE, VERDICT, SCORE, TAGS))} itself."
            )
        self._given[name] = {side: np.asarray(one) for side, one in values.items() if len(one)}

    def column(self, name: str) -> np.ndarray:
        """Return the values of all videos [N]: words, or floats.

        Raises:
            ValueError: The table has no such column.
        """
        if name not in self.names:
            raise ValueError(f"column: wanted one of {list(self.names)}; got {name!r}")
        made = {PATH: self._paths, TAGS: self._tagged, VERDICT: self._rights, SCORE: self._scores}
        if name in made:
            return made[name]()
        sides = self._lists.sides
        if name == CLASS:
            held = {side: videos.names for side, videos in sides.items()}
        elif name == SIDE:
            held = {side: np.full(len(videos), side) for side, videos in sides.items()}
        else:
            held = dict(self._given.get(name, {}))
        if name == SOURCE:
            for side, videos in sides.items():
                held[side] = np.array(_named(held.get(side, videos.source_video)))
        return self._joined(held)

    def matching(self, text: str) -> np.ndarray:
        """Return the rows [n] whose path, class or tags have all words of a text, in any case."""
        words = text.lower().split()
        tags = {self.row[one]: " ".join(held).lower() for one, held in self.tags.items()}
        return np.array(
            [
                row
                for row, said in enumerate(self._words)
                if all(word in said or word in tags.get(row, "") for word in words)
            ],
            dtype=np.int64,
        )

    def ordered(self, rows: np.ndarray, by: str, down: bool = False) -> np.ndarray:
        """Sort rows [n] by a column; equal ones keep their order, those without a value come last.

        Args:
            rows: Numbers of the rows [n].
            by: The column's name.
            down: Whether the largest comes first.
        """
        values = self.column(by)[rows]
        if values.dtype.kind == "f":
            empty, keys = np.isnan(values), np.nan_to_num(values)
        else:
            each, at = np.unique(values, return_inverse=True)
            place = {one: number for number, one in enumerate(sorted(each.tolist(), key=natural))}
            empty, keys = values == "", np.array([place[one] for one in each.tolist()], int)[at]
        return rows[np.lexsort((-keys if down else keys, empty))]

    def lines(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Return rows as dicts: words, numbers (None where a video has none), a tuple of tags.

        Only the queries among them are searched for `right` and `score`."""
        rows = np.fromiter(rows, np.int64)
        judged = dict(zip((VERDICT, SCORE), self._judged(rows), strict=True))
        columns = {
            name: (judged[name] if name in judged else self.column(name)[rows]).tolist()
            for name in self.names
        }
        columns[TAGS] = [self.tags.get(self.ids[row], ()) for row in rows]
        return [
            {
                name: None if isinstance(value, float) and np.isnan(value) else value
                for name, value in zip(columns, values, strict=True)
            }
            for values in zip(*columns.values(), strict=True)
        ]

    def file(self, one: str) -> Path:
        """Return the file of a video, given by its id."""
        side = next(side for side in SIDES if one in self._lists.sides[side].rows)
        return Path(self._lists.sides[side].folder) / one

    def _searched(self) -> list[str]:
        """Path and class of each video in small letters, for `matching`."""
        sides = self._lists.sides
        names = self._joined({side: videos.names for side, videos in sides.items()})
        return [f"{one} {name}".lower() for one, name in zip(self.ids, names, strict=True)]

    def _joined(self, held: dict[str, Any]) -> np.ndarray:
        """Both sides' values as one column; a side without them is empty."""
        parts = {side: np.asarray(values) for side, values in held.items()}
        numbers = all(part.dtype.kind in "iuf" for part in parts.values())
        nothing: Any = np.nan if numbers else ""
        whole = [
            parts.get(side, np.full(len(self._lists.sides[side]), nothing))[self.drawn[side]]
            for side in SIDES
        ]
        if numbers:
            return np.concatenate([part.astype(np.float64) for part in whole])
        yes = {True: "yes", False: "no"}
        return np.array(
            [
                yes[bool(one)] if isinstance(one, bool) else "" if one is None else str(one)
                for part in whole
                for one in part.tolist()
            ],
            dtype=str,
        )

    def _paths(self) -> np.ndarray:
        return np.array(self.ids)

    def _tagged(self) -> np.ndarray:
        return np.array([", ".join(self.tags.get(one, ())) for one in self.ids])

    def _rights(self) -> np.ndarray:
        return self._judged(np.arange(len(self)))[0]

    def _scores(self) -> np.ndarray:
        return self._judged(np.arange(len(self)))[1]

    def _judged(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`right` and `score` of rows; a video that is no query has neither."""
        queries = self._query[rows]
        there = np.flatnonzero(queries >= 0)
        words, scores = np.full(len(rows), "", VERDICTS.dtype), np.full(len(rows), np.nan)
        if not len(there):
            return words, scores
        some = queries[there]
        if len(some) == len(self._lists.sides["queries"]):  # kept for the next time
            right, score = (part[some] for part in self._lists.verdicts(self.judge))
        else:
            right, score = self._lists.verdicts(self.judge, some)
        words[there], scores[there] = VERDICTS[right], score
        return words, scores

    @cached_property
    def _query(self) -> np.ndarray:
        """The number of each video among the queries, -1 if it is none."""
        own, made = self._lists.in_gallery, np.full(len(self), -1)
        made[own[own >= 0]] = np.flatnonzero(own >= 0)
        made[len(self.drawn["gallery"]) :] = np.flatnonzero(own < 0)
        return made


def natural(words: str) -> list:
    """Return the key by which words are sorted: take2 comes before take10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", words)]


def _named(names: Iterable) -> list[str]:
    """Names of source videos; names that are bare numbers say what they count."""
    words = [str(one) for one in names]
    return [f"source {one}" for one in words] if all(map(str.isdigit, words)) else words
