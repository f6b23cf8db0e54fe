"""A browser of neighbors: a query, what several searches find for it, clips that play, and a map
of all videos.

`Browser` is plain Python: `lists.Lists` and HTML without a kernel or a network. `controls.show`
puts controls on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.video import windows
from vidbench.evaluate import layout
from vidbench.system.processes import cores
from vidbench.view.clips import NO_LABELS, said, wheel
from vidbench.view.galleries import Row, Tile, gallery
from vidbench.view.looks import Html, colors_for
from vidbench.view.widgets import plane
from vidbench.view.widgets.hues import Hues, by_column, standard
from vidbench.view.widgets.lists import Lists
from vidbench.view.widgets.pieces import video_grid
from vidbench.view.widgets.rows import CLASS, VideoRows
from vidbench.view.widgets.selection import Selection
from vidbench.view.widgets.videos import GRID, SIDE, SIDES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NOTHING = "Draw around points of the map to see their clips here."
HELD = 4000  # clips kept in memory, of about 10 kB each


class Browser(Lists):
    """`Lists` as clips that play, a map of all videos, and a selection of them.

    `changed` is called with "selection", "tags" or "columns" when one of these changes: controls
    that are shown set it.
    """

    changed: Callable[[str], None] = staticmethod(lambda what: None)

    # ---- videos, selected ones

    @cached_property
    def videos(self) -> VideoRows:
        """All videos as a table: columns, tags, filter, order."""
        return VideoRows(self)

    @property
    def selection(self) -> Selection:
        """The selected videos. Set it to ids of videos to select them."""
        return Selection(self.videos, self._selected, self.changed)

    @selection.setter
    def selection(self, ids: Iterable[str]) -> None:
        self._selected = Selection(self.videos, ids).ids
        self.changed("selection")

    def add_column(self, name: str, gallery: Sequence, queries: Sequence = ()) -> None:
        """Add a column of yours to the videos, for the map's color and the table.

        Args:
            name: The column's name.
            gallery, queries: A word or number for each video of the side; () for no values.

        Raises:
            ValueError: The name is taken by a column of the browser's own, or the number of values
                does not fit.
        """
        self.videos.add(name, gallery, queries)
        self.changed("columns")

    # ---- clips

    @cached_property
    def _tile(self) -> Callable[[str, str, int], Tile]:
        """Return the clip of (kind, side, row), made once."""
        return lru_cache(HELD)(lambda kind, side, row: self.sides[side].tile(kind, row))

    def tiles(self, places: Sequence[tuple[str, int]]) -> list[Tile]:
        """Return the clips of videos, given as (side, row), each made once; see `Videos.tile`."""
        with ThreadPoolExecutor(min(8, cores())) as pool:  # decoders leave other threads their turn
            return list(pool.map(lambda place: self._tile(self.kind, *place), places))

    def shown(self, picks: bool = False) -> dict[str, Row]:
        """Return the query and its neighbors as a gallery's rows: a line for each list.

        If two lists are compared, the gained and the lost neighbors follow.

        Args:
            picks: The neighbors can be clicked, which needs controls.
        """
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
            shown = [_judged(tiles[row["row"]], row, name in found, picks) for row in rows]
            compared = self.compared.get(name)
            made[name] = Row(
                query, shown, f"also in {compared}" if compared and compared != name else ""
            )
        return made

    def html(self, queries: int | Iterable[int | str] = 6, title: str = "") -> Html:
        """Draw queries and their neighbors without a script, a kernel or a network.

        Args:
            queries: How many, evenly spread over those that the filters leave; or which ones, as
                `select` takes them.
            title: A heading.
        """
        chosen: Iterable[int | str] = () if isinstance(queries, int) else queries
        if isinstance(queries, int):
            chosen = self.choices()[windows.spread(len(self.choices()), queries)].tolist()
        kept, blocks = (self.query, list(self.past)), []
        for which in chosen:
            self.select(which if isinstance(which, str) else int(which))
            blocks.append(self.shown())
        self.query, self.past = kept
        if not blocks:
            return said("No query matches the filter: widen the class, or look at all queries.")
        return self._drawn({name: [block[name] for block in blocks] for name in blocks[0]}, title)

    def now(self, picks: bool = False) -> Html:
        """Draw the present query and its neighbors.

        Args:
            picks: The neighbors can be clicked, see `pieces.Clicks`.
        """
        return self._drawn({name: [line] for name, line in self.shown(picks).items()})

    def _drawn(self, lines: Mapping[str, Sequence[Row]], title: str = "") -> Html:
        """Lines of neighbors, below the key to the colors of flow and a note if labels are unknown."""
        speed = self.sides["gallery"].speed if self.kind == "flow" else None
        key = wheel(speed(), 48) if speed else ""
        unlabeled = "" if self.judged else said(NO_LABELS)
        return Html(f"{key}{unlabeled}{gallery(lines, title, SIDE, self.looks())}")

    def looks(self) -> dict[str, tuple[str, str]]:
        """Return color and dash of each list, equal on the map and in the lines of neighbors."""
        return colors_for(list(self.spaces))

    def grid(self, ids: Iterable[str], page: int = 0, picks: bool = False) -> Html:
        """Draw a page of the clips of some videos of either side.

        Args:
            ids: The videos' ids.
            page: Number of the page, from 0.
            picks: Whether the clips can be clicked.
        """
        ids = list(ids)
        if not ids:
            return said(NOTHING)
        shown = ids[GRID * page : GRID * (page + 1)]
        sides = [next(side for side in SIDES if id in self.sides[side].rows) for id in shown]
        places = [(side, self.sides[side].rows[id]) for side, id in zip(sides, shown, strict=True)]
        tiles = self.tiles(places)
        if picks:
            tiles = [replace(tile, pick=id) for tile, id in zip(tiles, shown, strict=True)]
        first, many = GRID * page + 1, len(ids) > GRID
        part = f", {first} to {first + len(shown) - 1}" if many else ""
        return video_grid(tiles, f"{len(ids)} video{'s' * (len(ids) > 1)}{part}")

    # ---- the map

    def map(self, name: str = "", method: str = "pca", color: str = "") -> Figure:
        """Draw all videos in the plane, open marks for queries, the query and its neighbors ringed.

        Args:
            name: A list; the first one if empty.
            method: See `places`.
            color: A column of the videos; `hues.standard` if empty.

        Raises:
            ValueError: No list, method or column has this name.
        """
        name = name or next(iter(self.spaces))
        places, layers = self.places(name, method), {}
        words = self._words()
        for side in SIDES:
            rows = self.drawn(side)
            layers[side] = plane.Layer(
                places[side][rows], words[side][rows], self.sides[side].ids[rows]
            )
        rings = {ring: at[:2] for ring, at in self.rings(name, method).items()}
        made = self.hues(color, name)
        title = self.title(name, method, color)
        return plane.scatter(layers, made, rings, title, lit=self.of_class, looks=self.looks())

    def hues(self, color: str = "", judge: str = "") -> Hues:
        """Return the colors of the map's points by a column.

        Args:
            color: The column; empty: `hues.standard`.
            judge: The list that decides `right` and `score`; empty: the first.
        """
        self.videos.judge = judge or next(iter(self.spaces))
        classes = dict.fromkeys(one for side in SIDES for one in self.sides[side].classes)
        return by_column(self.videos, color or standard(self.videos), tuple(classes))

    def _words(self) -> dict[str, np.ndarray]:
        """What the map says first of each video: its class, else its source video."""
        if any(videos.labeled for videos in self.sides.values()):
            return self.names
        return {
            side: np.array([f"source {one}" for one in videos.source_video])
            for side, videos in self.sides.items()
        }

    def title(self, name: str, method: str, color: str = "") -> str:
        """Return the title of a map.

        Args:
            name: The list's name.
            method: A key of layout.METHODS.
            color: The column that colors it; `hues.standard` if empty.
        """
        color, labeled = color or standard(self.videos), CLASS in self.videos.names
        words = ["no labels"] * (not labeled) + [f"color by {color}"] * (color != CLASS)
        return "; ".join(filter(None, [f"{name}: {layout.METHODS[method]}", ", ".join(words)]))

    def drawn(self, side: str) -> np.ndarray:
        """Return the rows [n] of a side that a map draws.

        A query that is in the gallery is drawn once."""
        return self.videos.drawn[side]

    def rings(
        self, name: str = "", method: str = "pca"
    ) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
        """Return the places of a map's rings: each list and "query" -> (x, y, ids), [n] each.

        Args:
            name: The list whose map it is; the first one if empty.
            method: A key of layout.METHODS.
        """
        places, (side, row) = self.places(name, method), self.query
        rings, ids = {}, self.sides["gallery"].ids
        for other in self.spaces:
            rows = self.nearest(other)[0]
            rings[other] = (*places["gallery"][rows].T, [str(id) for id in ids[rows]])
        return {**rings, "query": (*places[side][[row]].T, [str(self.sides[side].ids[row])])}


def _judged(tile: Tile, row: Mapping[str, Any], listed: bool, picks: bool) -> Tile:
    """A neighbor's tile with what `Lists.rows` says of it. listed: it is in a list, where it may be
    shared; the lines gained and lost mark nothing."""
    said_of = {name: row[name] for name in ("score", "right", "sibling", "rank")}
    return replace(tile, **said_of, mark=row["shared"] and listed, pick=row["id"] if picks else "")
