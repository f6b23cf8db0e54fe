"""A browser of neighbors: a query, what several searches find for it, clips that play, and a map
of all videos.

`Browser` is plain Python: what is looked at, the rows, HTML without a kernel or a network.
`controls.show` puts controls on it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.video import windows
from vidbench.evaluate import layout, search
from vidbench.system.files import written
from vidbench.system.processes import cores
from vidbench.view.clips import top_speed
from vidbench.view.figures import FONT, INK, SOFT, Html, escaped
from vidbench.view.galleries import Row, Tile, clip_html, encode, fitted, gallery
from vidbench.view.widgets import plane
from vidbench.view.widgets.pieces import said
from vidbench.view.widgets.videos import GRID, SIDE, SIDES, Videos

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HELD = 4000  # clips kept in memory, of about 10 kB each


class _Space:
    """One search: the vectors of both sides, a part a stream, with their means taken off once."""

    def __init__(self, name: str, held: Sequence, sides: Mapping[str, Videos], centering: str):
        tables = {
            side: list(table) if isinstance(table, list | tuple) else [table]
            for side, table in zip(SIDES, held, strict=True)
        }
        for side, parts in tables.items():
            for part in parts:
                columns = [column for column in ("label", "source_video") if hasattr(part, column)]
                if any(
                    not np.array_equal(getattr(part, one), getattr(sides[side], one))
                    for one in columns
                ):
                    raise ValueError(
                        f"{name}: the features of the {side} are of other videos than the {side}; "
                        "extract "
                        "them from this manifest"
                    )
        values = {
            side: [np.asarray(getattr(part, "values", part), dtype=np.float32) for part in parts]
            for side, parts in tables.items()
        }
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
        self.parts = (
            values
            if centering == "none"
            else {
                side: [
                    part - mean
                    for part, mean in zip(
                        values[side], self._means(values, side, centering), strict=True
                    )
                ]
                for side in SIDES
            }
        )

    def _means(self, values: dict[str, list[np.ndarray]], side: str, centering: str) -> list:
        """What comes off each stream, as in search.search, whose queries here are one at a
        time."""
        if centering not in search.CENTERINGS:
            raise ValueError(f"centering is one of {search.CENTERINGS}; got {centering!r}")
        streams = values["queries" if (side, centering) == ("queries", "split") else "gallery"]
        return [part.mean(0, dtype=np.float64).astype(np.float32) for part in streams]

    def units(self, side: str) -> np.ndarray:
        """The vectors of a side as they are compared: unit length in each stream, streams side by
        side."""
        return np.concatenate([search.unit(part) for part in self.parts[side]], axis=1)


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
        gallery,
        queries,
        lists: Mapping[str, Sequence],
        *,
        k: int = 5,
        centering: str = "none",
        hide_source_video: bool = False,
        beside: Mapping[str, str] | None = None,
        flow_folder: str | Path = "",
    ):
        given, flow_folder = dict(zip(SIDES, (gallery, queries), strict=True)), str(flow_folder)
        raw = [one for one in given.values() if not isinstance(one, Videos)]
        speed = (
            cache(partial(top_speed, raw[0], flow_folder)) if raw else None
        )  # one scale of colors on both sides
        self.sides = {
            side: one
            if isinstance(one, Videos)
            else Videos.of(one, flow_folder=flow_folder, speed=speed)
            for side, one in given.items()
        }
        for side, videos in self.sides.items():
            if not len(videos) or len(set(videos.ids.tolist())) < len(videos):
                raise ValueError(
                    f"Browser: wanted videos in the {side}, each id once; got {len(videos)}"
                )
        names = list(lists)
        standard = {
            name: names[0] if number else names[min(1, len(names) - 1)]
            for number, name in enumerate(names)
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
                f"{names}, "
                f"{k} and {self.beside}"
            )
        self.spaces = {
            name: _Space(name, held, self.sides, centering) for name, held in lists.items()
        }
        self.k, self.hide_source_video, self.of_class, self.failures = k, hide_source_video, "", ""
        self.compare: tuple[str, str] | tuple[()] = ()
        self.kinds = tuple(
            kind for kind in self.sides["gallery"].clips if kind in self.sides["queries"].clips
        )
        self.kind = self.kinds[0]
        self.names = {side: videos.names for side, videos in self.sides.items()}
        self._rows = {
            side: {str(id): row for row, id in enumerate(videos.ids)}
            for side, videos in self.sides.items()
        }
        own = self._rows["gallery"]
        self._own = {
            "gallery": np.arange(len(own)),
            "queries": np.array([own.get(str(id), -1) for id in self.sides["queries"].ids]),
        }
        self.query: tuple[str, int] = ("queries", 0)
        self.past: list[tuple[str, int]] = []
        self._tile, self._near = lru_cache(HELD)(self._made), lru_cache(64)(self._searched)
        self._lists: dict[tuple, np.ndarray] = {}
        self._places: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    # ---- what is looked at

    def select(self, which: int | str) -> None:
        """Make a video the query: the number of a query, or an id of either side. Raises ValueError
        on another."""
        number = isinstance(which, int | np.integer)
        found = [
            (side, int(which) if number else self._rows[side].get(which))
            for side in ("queries", "gallery")
        ]
        found = [
            (side, row)
            for side, row in found
            if row is not None and 0 <= row < len(self.sides[side])
        ]
        if not found or number and found[0][0] != "queries":
            raise ValueError(
                f"select: wanted a query from 0 to {len(self.sides['queries']) - 1} or an id of "
                "either "
                f"side, such as {str(self.sides['gallery'].ids[0])!r}; got {which!r}"
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
        wanted = {
            "k": k,
            "of_class": of_class,
            "failures": failures,
            "hide_source_video": hide_source_video,
            "kind": kind,
            "compare": None if compare is None else tuple(compare),
        }
        wanted = {
            name: getattr(self, name) if value is None else value for name, value in wanted.items()
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
                f"look: wanted k >= 1, a class of the queries, lists of {list(self.spaces)} (two "
                "to "
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
        """The query's nearest gallery rows by one list, and their similarities; fewer than k where
        there are fewer."""
        return self._near(name, *self.query, self.k, self.hide_source_video)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """For each list the query's neighbors, nearest first.

        Of each: rank from 1, score, row in the gallery, id, label, right (None where a label is
        unknown), shared (it is among the neighbors in the list beside, too) and the names of all
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
        """Neighbors of the queries that are left, all lists, as a table of ids and scores; whole
        or not at all."""
        path, before = Path(path), self.query
        with (
            written(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(
                ["query", "query_label", "list", "rank", "id", "label", "score", "right"]
            )
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
                f"{method!r} and "
                f"{name!r}"
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
        """Neighbors of every query [Q,k], -1 where it has fewer."""
        key = (name, self.k, self.hide_source_video)
        if key not in self._lists:
            query_rows = np.arange(len(self.sides["queries"]))
            room = self._room("queries", query_rows, self.hide_source_video)
            self._lists[key] = np.full((len(query_rows), self.k), -1)
            for few in np.unique(np.minimum(room, self.k)):  # nearly always one value
                some = query_rows[np.minimum(room, self.k) == few]
                self._lists[key][some, :few] = self._search(
                    name, "queries", some, int(few), self.hide_source_video
                )[0]
        return self._lists[key]

    def _searched(
        self, name: str, side: str, row: int, k: int, hide: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        query_rows = np.array([row])
        room = int(self._room(side, query_rows, hide)[0])
        rows, scores = self._search(name, side, query_rows, min(k, room), hide)
        return rows[0], scores[0]

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
        """What must not be equal in a neighbor and its query: sources, or else the videos
        themselves."""
        if hide:
            return self.sides["gallery"].source_video, self.sides[side].source_video[query_rows]
        return np.arange(len(self.sides["gallery"])), self._own[side][query_rows]

    # ---- as pictures and HTML

    def tiles(self, places: Sequence[tuple[str, int]]) -> list[Tile]:
        """Clips of videos, as (side, row), each made once; one that cannot be had is gray and says
        why."""
        with ThreadPoolExecutor(min(8, cores())) as pool:  # decoders leave other threads their turn
            return list(pool.map(lambda place: self._tile(self.kind, *place), places))

    def _made(self, kind: str, side: str, row: int) -> Tile:
        try:
            return self.sides[side].clips[kind](row)
        except Exception as error:  # one video that cannot be read must not hide the others
            blank = encode(np.full((1, 48, 64, 3), 225, np.uint8), 1)
            return Tile(blank, str(self.names[side][row]), f"cannot be shown: {error}")

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
        if isinstance(queries, int):
            left = self.choices()
            queries = left[windows.spread(len(left), queries)]
        kept, blocks = (self.query, list(self.past)), []
        for which in queries:
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
        sides = [next(side for side in SIDES if id in self._rows[side]) for id in ids[:GRID]]
        tiles = self.tiles(
            [(side, self._rows[side][id]) for side, id in zip(sides, ids, strict=False)]
        )
        left = f", the first {GRID}" if len(ids) > GRID else ""
        return Html(
            f'<div style="font-family:{FONT};color:{INK}"><div style="font-size:13px;margin:0 0 '
            '4px">'
            f'{len(ids)} videos{left}</div><div style="display:flex;flex-wrap:wrap;gap:8px">'
            f"{''.join(map(_small, tiles))}</div></div>"
        )

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
        return (
            np.arange(len(self.sides["gallery"]))
            if side == "gallery"
            else np.flatnonzero(self._own[side] < 0)
        )

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


def _small(tile: Tile) -> str:
    """A clip of a grid: its class and its name under it."""
    cut = f"width:{SIDE}px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    return (
        f'<div title="video {escaped(tile.label)}, {escaped(tile.caption)}" style="width:{SIDE}px">'
        f"{clip_html(tile.clip, tile.label, SIDE)}<div "
        f'style="font-size:12px;{cut}">{escaped(tile.label)}</div>'
        f'<div style="font-size:11px;color:{SOFT};{cut}">{escaped(fitted(tile.caption, SIDE))}</div></div>'
    )
