"""A browser of neighbors: a query, what several searches find for it, clips that play, and a map
of all videos.

`Browser` is plain Python: what is looked at, the rows, HTML without a kernel or a network.
`controls.show` puts controls on it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.video import windows
from vidbench.evaluate import layout
from vidbench.system.files import written
from vidbench.system.processes import cores
from vidbench.view.galleries import Row, Tile, gallery
from vidbench.view.looks import Html
from vidbench.view.widgets import plane
from vidbench.view.widgets.pieces import said, video_grid
from vidbench.view.widgets.spaces import Searches, Space
from vidbench.view.widgets.videos import GRID, SIDE, SIDES, Videos, both_sides

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest

COLUMNS = ("query", "query_label", "list", "rank", "id", "label", "score", "right")  # of the csv
HELD = 4000  # clips kept in memory, of about 10 kB each


class Browser:
    """A query and its nearest videos by one or several searches; which are right, shared, gained,
    lost; and a map.

    gallery, queries: `Videos`, or data.Manifests. lists: name of a search ("rgb", "before") ->
    (features of the gallery, of the queries), each [N,D] or a Features table or a list of those,
    one a stream. k: neighbors;
    hide_source_video: leave out what is of the query's own source (a video is never its own neighbor);
    centering as in search.search; beside: list -> the list that it is held against for shared
    ids, the first two against each other and others against the first when left away; flow_folder:
    of Manifests, see `Videos.of`. Raises ValueError on what does not fit together."""

    def __init__(
        self,
        gallery: Videos | Manifest,
        queries: Videos | Manifest,
        lists: Mapping[str, Sequence],
        *,
        k: int = 5,
        centering: str = "none",
        hide_source_video: bool = False,
        beside: Mapping[str, str] | None = None,
        flow_folder: str | Path = "",
    ):
        self.sides = both_sides(gallery, queries, flow_folder)
        names = list(lists)
        standard = {
            name: names[0] if number else names[:2][-1] for number, name in enumerate(names)
        }
        self.beside = standard if beside is None else dict(beside)
        if (
            not names
            or k < 1
            or set(self.beside) - set(names)
            or set(self.beside.values()) - set(names)
        ):
            raise ValueError(
                "Browser: wanted lists of neighbors, k >= 1 and `beside` between lists; got "
                f"{names}, {k} and {self.beside}"
            )
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
        self._near = lru_cache(64)(self._searches.one)
        self._tile = lru_cache(HELD)(lambda kind, side, row: self.sides[side].tile(kind, row))
        self._lists: dict[tuple, np.ndarray] = {}
        self._places: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    # ---- what is looked at

    def select(self, which: int | str) -> None:
        """Make a video the query: the number of a query, or an id of either side. Raises ValueError
        on another."""
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
        """The query before this one; nothing where there was none."""
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
        """Change what is looked at; None leaves a thing as it is.

        of_class: queries of this class only, "" for all; failures: a list's name, for the queries
        of which its first k hold no right one, "" for all; compare: two lists, whose gained and
        lost neighbors are shown, () for none; kind: of clips. The first query that is left becomes
        the query where that of now is none of them. Raises ValueError on a thing that is not there.
        """
        given = {
            "k": k,
            "of_class": of_class,
            "failures": failures,
            "hide_source_video": hide_source_video,
            "kind": kind,
            "compare": None if compare is None else tuple(compare),
        }
        wanted: dict[str, Any] = {
            name: getattr(self, name) if value is None else value for name, value in given.items()
        }
        unknown = [
            name
            for name in (wanted["failures"], *wanted["compare"])
            if name and name not in self.spaces
        ]
        if (
            wanted["k"] < 1
            or wanted["of_class"] not in ("", *self.sides["queries"].classes)
            or unknown
            or len(wanted["compare"]) not in (0, 2)
            or wanted["kind"] not in self.kinds
        ):
            raise ValueError(
                f"look: wanted k >= 1, a class of the queries, lists of {list(self.spaces)} (two to "
                f"compare) and clips of {self.kinds}; got {wanted}"
            )
        for name, value in wanted.items():
            setattr(self, name, value)
        left = self.choices()
        if self.query[0] == "queries" and len(left) and self.query[1] not in left:
            self.select(int(left[0]))

    def choices(self) -> np.ndarray:
        """The queries that class and failures leave, as rows."""
        keep = np.ones(len(self.sides["queries"]), bool)
        if self.of_class:
            keep &= self.names["queries"] == self.of_class
        if self.failures:
            keep &= ~self.right(self.failures).any(axis=1)
        return np.flatnonzero(keep)

    # ---- as data

    def nearest(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the query's nearest gallery rows by one list, at most k, and similarities."""
        return self._near(name, *self.query, self.k, self.hide_source_video)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """For each list the query's neighbors, nearest first.

        Of each: rank from 1, score, row in the gallery, id, label, right (None where a label is
        unknown), shared (it is among the neighbors in the other list, too) and the names of all
        lists that it is in besides."""
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
                    "shared": int(row) in others.get(self.beside.get(name, ""), ()),
                    "also in": tuple(other for other, near in others.items() if int(row) in near),
                }
                for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
            ]
        return made

    def gained_lost(self, a: str, b: str) -> dict[str, list[dict[str, Any]]]:
        """What list b has of the query's k neighbors that a has not (gained), the reverse (lost),
        and both (kept).

        Each a row as in `rows`, of b for gained and kept, of a for lost.
        """
        rows = self.rows()
        there = {name: {row["row"] for row in rows[name]} for name in (a, b)}
        return {
            "kept": [row for row in rows[b] if row["row"] in there[a]],
            "gained": [row for row in rows[b] if row["row"] not in there[a]],
            "lost": [row for row in rows[a] if row["row"] not in there[b]],
        }

    def right(self, name: str) -> np.ndarray:
        """Of every query's k neighbors by one list, which show its class: bool [Q,k]; searched
        once."""
        rows = self._all(name)
        label = self.names["queries"][:, None]
        return (self.names["gallery"][rows] == label) & (label != "") & (rows >= 0)

    def csv(self, path: str | Path) -> Path:
        """Write the neighbors of the queries that are left, of all lists: ids and scores."""
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
        """Both sides' videos in the plane [N,2] by a list's features as they are compared; worked
        out once.

        name: the first list when empty. method: "pca" (of the gallery), "t-sne" and, where it is
        installed, "umap" (of all, from 50 principal components). Raises ValueError on another."""
        name = name or next(iter(self.spaces))
        if method not in layout.methods() or name not in self.spaces:
            raise ValueError(
                f"places: wanted one of {layout.methods()} and of {list(self.spaces)}; got "
                f"{method!r} and {name!r}"
            )
        if (name, method) not in self._places:
            self._places[name, method] = layout.lay(
                {side: self.spaces[name].units(side) for side in SIDES}, method
            )
        return self._places[name, method]

    def _line(self, row: int) -> dict[str, Any]:
        """What a gallery row is to the query."""
        label, own = self.names["gallery"][row], self.names[self.query[0]][self.query[1]]
        return {
            "row": row,
            "id": str(self.sides["gallery"].ids[row]),
            "label": str(label),
            "right": bool(label == own) if label and own else None,
        }

    def _all(self, name: str) -> np.ndarray:
        """Neighbors of every query [Q,k], -1 where it has fewer; searched once."""
        key = (name, self.k, self.hide_source_video)
        if key not in self._lists:
            self._lists[key] = self._searches.every(*key)
        return self._lists[key]

    # ---- as pictures and HTML

    def tiles(self, places: Sequence[tuple[str, int]]) -> list[Tile]:
        """Return the clips of videos, given as (side, row), each made once; see `Videos.tile`."""
        with ThreadPoolExecutor(min(8, cores())) as pool:  # decoders leave other threads their turn
            return list(pool.map(lambda place: self._tile(self.kind, *place), places))

    def shown(self) -> dict[str, Row]:
        """The query and its neighbors as a gallery's rows, a line a list, then what was gained and
        lost."""
        found, changes = self.rows(), {}
        if self.compare:
            a, b = self.compare
            moved = self.gained_lost(a, b)
            changes = {
                f"gained: in {b}, not in {a}": moved["gained"],
                f"lost: in {a}, not in {b}": moved["lost"],
            }
        lines = {**found, **changes}
        wanted = {row["row"] for rows in lines.values() for row in rows}
        *given, query = self.tiles([*(("gallery", row) for row in wanted), self.query])
        tiles, made = dict(zip(wanted, given, strict=True)), {}
        for name, rows in lines.items():
            shown = []
            for row in rows:
                tile = tiles[row["row"]]
                shown.append(
                    replace(
                        tile,
                        score=row["score"],
                        right=row["right"],
                        rank=row["rank"],
                        mark=row["shared"] and name in found,
                    )
                )
            beside = self.beside.get(name)
            made[name] = Row(query, shown, f"also in {beside}" if beside and beside != name else "")
        return made

    def html(self, queries: int | Iterable[int | str] = 6, title: str = "") -> Html:
        """Queries and their neighbors without a script, a kernel or a network.

        queries: so many, evenly spread over those that are left, or the ones to show, as `select`
        takes them."""
        chosen: Iterable[int | str] = () if isinstance(queries, int) else queries
        if isinstance(queries, int):
            chosen = self.choices()[windows.spread(len(self.choices()), queries)].tolist()
        kept, blocks = (self.query, list(self.past)), []
        for which in chosen:
            self.select(which if isinstance(which, str) else int(which))
            blocks.append(self.shown())
        self.query, self.past = kept
        if not blocks:
            return said("No query is left: widen the class, or look at all queries.")
        return gallery({name: [block[name] for block in blocks] for name in blocks[0]}, title, SIDE)

    def grid(self, ids: Iterable[str]) -> Html:
        """Clips of some videos of either side, at most 48, as a lasso on the map picks them."""
        ids = list(ids)
        if not ids:
            return said("Draw around points of the map to see their clips here.")
        sides = [next(side for side in SIDES if id in self.sides[side].rows) for id in ids[:GRID]]
        places = [(side, self.sides[side].rows[id]) for side, id in zip(sides, ids, strict=False)]
        left = f", the first {GRID}" if len(ids) > GRID else ""
        return video_grid(self.tiles(places), f"{len(ids)} videos{left}")

    def map(self, name: str = "", method: str = "pca") -> Figure:
        """All videos in the plane, colored by class, open marks for queries; the query and its
        neighbors ringed."""
        name = name or next(iter(self.spaces))
        places, layers = self.places(name, method), {}
        for side in SIDES:
            rows = self.drawn(side)
            layers[side] = plane.Layer(
                places[side][rows], self.names[side][rows], self.sides[side].ids[rows]
            )
        classes = tuple(dict.fromkeys(one for side in SIDES for one in self.sides[side].classes))
        rings = {ring: at[:2] for ring, at in self.rings(name, method).items()}
        return plane.scatter(layers, classes, rings, self.title(name, method), lit=self.of_class)

    def title(self, name: str, method: str) -> str:
        """What a map is of, in words."""
        return f"{name}: {layout.METHODS[method]}"

    def drawn(self, side: str) -> np.ndarray:
        """The rows of a side that a map draws: queries that lie in the gallery, too, are drawn
        once."""
        if side == "gallery":
            return np.arange(len(self.sides["gallery"]))
        return np.flatnonzero(self._searches.own[side] < 0)

    def rings(
        self, name: str = "", method: str = "pca"
    ) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
        """What a map rings: each list and "query" -> (x, y, ids)."""
        places, (side, row) = self.places(name, method), self.query
        rings, ids = {}, self.sides["gallery"].ids
        for other in self.spaces:
            rows = self.nearest(other)[0]
            rings[other] = (*places["gallery"][rows].T, [str(id) for id in ids[rows]])
        return {**rings, "query": (*places[side][[row]].T, [str(self.sides[side].ids[row])])}
