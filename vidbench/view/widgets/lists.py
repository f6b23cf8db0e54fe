"""The lists of neighbors that a browser shows, as data: query, filters, right, gained and lost."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.evaluate import layout
from vidbench.system.files import written
from vidbench.view.widgets.spaces import Searches, Space
from vidbench.view.widgets.videos import SIDES, Videos, both_sides

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest

COLUMNS = ("query", "query_label", "list", "rank", "id", "label", "score", "right")  # of the csv


class Lists:
    """A query and its nearest videos by one or several searches; which are right, shared, gained, lost.

    Args:
        gallery, queries: `Videos`, or data.Manifests.
        lists: Name of a search ("rgb", "before") -> (features of the gallery, of the queries), each
            [N,D] or a Features table or a list of those, one a stream.
        k: Neighbors of each query.
        hide_source_video: Leave out the query's own source video (a video is never its own
            neighbor).
        centering: As in search.search.
        compared: List -> the list with which it is compared for shared ids; by default the first two
            with each other, and the rest with the first.
        flow_folder: Of Manifests, see `Videos.of`.

    Raises ValueError if these do not fit together.
    """

    def __init__(
        self,
        gallery: Videos | Manifest,
        queries: Videos | Manifest,
        lists: Mapping[str, Sequence],
        *,
        k: int = 5,
        centering: str = "none",
        hide_source_video: bool = False,
        compared: Mapping[str, str] | None = None,
        flow_folder: str | Path = "",
    ):
        self.sides = both_sides(gallery, queries, flow_folder)
        self.compared = _compared(list(lists), k, compared)
        self.spaces = {
            name: Space(name, held, self.sides, centering) for name, held in lists.items()
        }
        self._searches = Searches(self.spaces, self.sides)
        self.k, self.hide_source_video, self.of_class, self.failures = k, hide_source_video, "", ""
        self.compare: tuple[str, str] | tuple[()] = ()
        self.kinds = tuple(
            kind for kind in self.sides["gallery"].clips if kind in self.sides["queries"].clips
        )
        self.kind = self.kinds[0]
        self.names = {side: videos.names for side, videos in self.sides.items()}
        self.query: tuple[str, int] = ("queries", 0)
        self.past: list[tuple[str, int]] = []
        self._selected: tuple[str, ...] = ()
        self._near = lru_cache(64)(self._searches.one)
        self._lists: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        self._places: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    # ---- what is looked at

    def select(self, which: int | str) -> None:
        """Make a video the query.

        Args:
            which: The number of a query, or an id of either side.

        Raises:
            ValueError: it is neither.
        """
        queries, gallery = self.sides["queries"], self.sides["gallery"]
        if isinstance(which, int | np.integer):
            found = [("queries", int(which))] if 0 <= which < len(queries) else []
        else:
            found = [
                (side, self.sides[side].rows.get(which, -1)) for side in ("queries", "gallery")
            ]
            found = [(side, row) for side, row in found if row >= 0]
        if not found:
            raise ValueError(
                f"select: wanted a query from 0 to {len(queries) - 1} or an id of either side, "
                f"such as {str(gallery.ids[0])!r}; got {which!r}"
            )
        if found[0] != self.query:
            self.past.append(self.query)
            self.query = found[0]

    def back(self) -> None:
        """Return to the query before this one, if there is one."""
        if self.past:
            self.query = self.past.pop()

    def look(
        self,
        *,
        k: int | None = None,
        of_class: str | None = None,
        failures: str | None = None,
        hide_source_video: bool | None = None,
        compare: Sequence[str] | None = None,
        kind: str | None = None,
    ) -> None:
        """Change what is looked at; None changes nothing.

        If the filters leave out the present query, the first query that they leave becomes it. A
        gallery video that is the query stays.

        Args:
            k: Neighbors of a query.
            of_class: Only queries of this class; "" for all.
            failures: Only queries for which this list's k neighbors contain no right one; "" for
                all.
            hide_source_video: Whether neighbors of the query's own source video are left out.
            compare: Two lists, whose gained and lost neighbors are shown; () for none.
            kind: The kind of clips shown, one of `kinds`.

        Raises:
            ValueError: a name is unknown, k is below 1, or `compare` is not two lists.
        """
        given = {
            "k": k,
            "of_class": of_class,
            "failures": failures,
            "hide_source_video": hide_source_video,
            "kind": kind,
            "compare": None if compare is None else tuple(compare),
        }
        wanted = {
            name: getattr(self, name) if value is None else value for name, value in given.items()
        }
        self._check_view(wanted)
        for name, value in wanted.items():
            setattr(self, name, value)
        left = self.choices()
        if self.query[0] == "queries" and len(left) and self.query[1] not in left:
            self.select(int(left[0]))

    def _check_view(self, wanted: Mapping[str, Any]) -> None:
        """Raise ValueError unless `look` can show what is wanted."""
        listed = [name for name in (wanted["failures"], *wanted["compare"]) if name]
        if (
            wanted["k"] < 1
            or wanted["of_class"] not in ("", *self.sides["queries"].classes)
            or not set(listed) <= set(self.spaces)
            or len(wanted["compare"]) not in (0, 2)
            or wanted["kind"] not in self.kinds
        ):
            raise ValueError(
                f"look: wanted k >= 1, a class of the queries, lists of {list(self.spaces)} (two to "
                f"compare) and clips of {self.kinds}; got {wanted}"
            )

    def choices(self) -> np.ndarray:
        """Return the rows [n] of the queries that class and failures leave."""
        return np.flatnonzero(self._left(self.failures))

    def _left(self, failures: str) -> np.ndarray:
        """Which queries the class leaves, and a list's failures if it is named: bool [Q]."""
        keep = np.ones(len(self.sides["queries"]), bool)
        if self.of_class:
            keep &= self.names["queries"] == self.of_class
        if failures:
            keep &= ~self.right(failures).any(axis=1)
        return keep

    def next_failure(self, name: str = "") -> bool:
        """Select the next query of which none of the k neighbors is right; after the last, the first.

        Args:
            name: The list that fails. Default: that of the filter `failures`, else the first list.

        Returns:
            Whether such a query exists. False without labels, and the query then stays.

        Raises:
            ValueError: No list has this name.
        """
        name = name or self.failures or next(iter(self.spaces))
        if name not in self.spaces:
            raise ValueError(
                f"next_failure: wanted one of the lists {list(self.spaces)}; got {name!r}"
            )
        failing = np.flatnonzero(self._left(name) & (self.names["queries"] != ""))
        if not self.judged or not len(failing):
            return False
        now = self.query[1] if self.query[0] == "queries" else -1
        self.select(int(failing[np.searchsorted(failing, now, "right") % len(failing)]))
        return True

    @property
    def judged(self) -> bool:
        """Whether neighbors can be right or wrong: both sides have labels."""
        return all(videos.labeled for videos in self.sides.values())

    @property
    def in_gallery(self) -> np.ndarray:
        """The gallery row of each query, -1 of one that is not in the gallery."""
        return self._searches.own["queries"]

    # ---- as data

    def nearest(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the query's n <= k nearest gallery rows by a list, and similarities: [n] each."""
        return self._near(name, *self.query, self.k, self.hide_source_video)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the query's neighbors by each list, nearest first.

        Each neighbor has its rank from 1, its score, its row in the gallery, its id and label, and:

        - right: whether it shows the query's class; None if a label is unknown
        - sibling: if a label is unknown, whether it is of the query's source video; else None
        - shared: whether it is also a neighbor by the list that `compared` names
        - also in: the names of all other lists by which it is a neighbor
        """
        found = {name: self.nearest(name) for name in self.spaces}
        made = {}
        for name, (rows, scores) in found.items():
            others = {
                other: set(near.tolist()) for other, (near, _) in found.items() if other != name
            }
            made[name] = [
                {
                    **self._line(int(row)),
                    "rank": rank,
                    "score": float(score),
                    "shared": int(row) in others.get(self.compared.get(name, ""), ()),
                    "also in": tuple(other for other, near in others.items() if int(row) in near),
                }
                for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
            ]
        return made

    def gained_lost(self, a: str, b: str) -> dict[str, list[dict[str, Any]]]:
        """Compare the query's k neighbors by two lists.

        Args:
            a, b: Names of lists.

        Returns:
            Neighbors as in `rows`: "kept" (by both lists) and "gained" (by b only), as b has them,
            and "lost" (by a only), as a has them.
        """
        rows = self.rows()
        there = {name: {row["row"] for row in rows[name]} for name in (a, b)}
        return {
            "kept": [row for row in rows[b] if row["row"] in there[a]],
            "gained": [row for row in rows[b] if row["row"] not in there[a]],
            "lost": [row for row in rows[a] if row["row"] not in there[b]],
        }

    def right(self, name: str) -> np.ndarray:
        """Return which of every query's k neighbors by one list show its class: bool [Q,k].

        The search runs once."""
        return self._same(self._all(name)[0], self.names["queries"])

    def _same(self, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Which neighbors [q,k] show the class of their query, given its name [q]."""
        label = names[:, None]
        return (self.names["gallery"][rows] == label) & (label != "") & (rows >= 0)

    def csv(self, path: str | Path) -> Path:
        """Write the neighbors, by all lists, of the queries that the filters leave.

        The columns are COLUMNS. The path is returned."""
        path, before = Path(path), self.query
        with (
            written(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for query in self.choices():
                self.query = ("queries", int(query))
                own = [self.sides["queries"].ids[query], self.names["queries"][query]]
                table.writerows(
                    [
                        *own,
                        name,
                        row["rank"],
                        row["id"],
                        row["label"],
                        f"{row['score']:.6f}",
                        "" if row["right"] is None else int(row["right"]),
                    ]
                    for name, rows in self.rows().items()
                    for row in rows
                )
        self.query = before
        return path

    def places(self, name: str = "", method: str = "pca") -> dict[str, np.ndarray]:
        """Lay both sides' videos out in the plane, by the features of a list.

        The features are those that the search compares. A layout is computed once.

        Args:
            name: The list; the first one if empty.
            method: "pca" (of the gallery), "t-sne" or "umap" (of all, from 50 principal components).

        Returns:
            Side (gallery, queries) -> places [N,2].

        Raises:
            ValueError: The list or method is unknown.
            ImportError: umap-learn is missing; the message names the extra.
        """
        name = name or next(iter(self.spaces))
        if method not in layout.METHODS or name not in self.spaces:
            raise ValueError(
                f"places: wanted one of {tuple(layout.METHODS)} and of {list(self.spaces)}; got "
                f"{method!r} and {name!r}"
            )
        if (name, method) not in self._places:
            self._places[name, method] = layout.lay(
                {side: self.spaces[name].units(side) for side in SIDES}, method
            )
        return self._places[name, method]

    def _line(self, row: int) -> dict[str, Any]:
        """What a gallery row is to the query."""
        (side, number), gallery = self.query, self.sides["gallery"]
        label, own = self.names["gallery"][row], self.names[side][number]
        known = bool(label and own)
        sibling = gallery.source_video[row] == self.sides[side].source_video[number]
        return {
            "row": row,
            "id": str(gallery.ids[row]),
            "label": str(label),
            "right": bool(label == own) if known else None,
            "sibling": None if known else bool(sibling),
        }

    def verdicts(
        self, name: str, queries: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Judge queries by one list.

        Args:
            name: The list.
            queries: Rows of the queries; only these are searched. Default: all queries.

        Returns:
            [Q] each: whether one of its k neighbors shows its class (1, 0, or -1 if a label is
            unknown), and the similarity of its nearest (NaN if it has none).
        """
        names = self.names["queries"] if queries is None else self.names["queries"][queries]
        rows, scores = self._all(name) if queries is None else self._some(name, queries)
        known = (names != "") & self.judged
        right = np.where(known, self._same(rows, names).any(axis=1), -1)
        return right, scores[:, 0].astype(np.float64)

    def searched(self, name: str) -> bool:
        """Return whether a list has searched all queries, with the present k and filter."""
        return (name, self.k, self.hide_source_video) in self._lists

    def _some(self, name: str, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbors of some queries as `_all` has them, which are kept if all were searched."""
        if self.searched(name):
            rows, scores = self._all(name)
            return rows[queries], scores[queries]
        return self._searches.every(name, self.k, self.hide_source_video, queries)

    def _all(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Neighbors of every query [Q,k], -1 where it has fewer, and similarities; searched once."""
        key = (name, self.k, self.hide_source_video)
        if key not in self._lists:
            self._lists[key] = self._searches.every(*key)
        return self._lists[key]


def _compared(names: Sequence[str], k: int, compared: Mapping[str, str] | None) -> dict[str, str]:
    """Return each list's partner for shared ids; raise ValueError unless names and k fit a browser."""
    standard = {name: names[0] if number else names[:2][-1] for number, name in enumerate(names)}
    pairs = standard if compared is None else dict(compared)
    if not names or k < 1 or not {*pairs, *pairs.values()} <= set(names):
        raise ValueError(
            "Browser: wanted lists of neighbors, k >= 1 and `compared` between lists; got "
            f"{list(names)}, {k} and {pairs}"
        )
    return pairs
