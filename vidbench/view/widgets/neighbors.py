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
from vidbench.view.widgets.lists import Lists
from vidbench.view.widgets.pieces import video_grid
from vidbench.view.widgets.videos import GRID, SIDE, SIDES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HELD = 4000  # clips kept in memory, of about 10 kB each


class Browser(Lists):
    """`Lists` as clips that play, and a map of all videos."""

    @cached_property
    def _tile(self) -> Callable[[str, str, int], Tile]:
        """Return the clip of (kind, side, row), made once."""
        return lru_cache(HELD)(lambda kind, side, row: self.sides[side].tile(kind, row))

    def tiles(self, places: Sequence[tuple[str, int]]) -> list[Tile]:
        """Return the clips of videos, given as (side, row), each made once; see `Videos.tile`."""
        with ThreadPoolExecutor(min(8, cores())) as pool:  # decoders leave other threads their turn
            return list(pool.map(lambda place: self._tile(self.kind, *place), places))

    def shown(self, picks: bool = False) -> dict[str, Row]:
        """Return the query and its neighbors as a gallery's rows, a line a list, then what was gained
        and lost. picks: the neighbors can be clicked, which needs controls."""
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
        return self._drawn({name: [block[name] for block in blocks] for name in blocks[0]}, title)

    def now(self, picks: bool = False) -> Html:
        """Draw the present query and its neighbors. picks: these can be clicked, see `pieces.Clicks`."""
        return self._drawn({name: [line] for name, line in self.shown(picks).items()})

    def _drawn(self, lines: Mapping[str, Sequence[Row]], title: str = "") -> Html:
        """Lines of neighbors with what explains them: the colors of flow, or that labels are
        unknown."""
        speed = self.sides["gallery"].speed if self.kind == "flow" else None
        key = wheel(speed(), 48) if speed else ""
        unlabeled = "" if self.judged else said(NO_LABELS)
        return Html(f"{key}{unlabeled}{gallery(lines, title, SIDE, self.looks())}")

    def looks(self) -> dict[str, tuple[str, str]]:
        """Color and dash of each list, alike on the map and in the lines of neighbors."""
        return colors_for(list(self.spaces))

    def grid(self, ids: Iterable[str], picks: bool = False) -> Html:
        """Clips of some videos of either side, at most 48, as a lasso on the map picks them. picks:
        they can be clicked."""
        ids = list(ids)
        if not ids:
            return said("Draw around points of the map to see their clips here.")
        sides = [next(side for side in SIDES if id in self.sides[side].rows) for id in ids[:GRID]]
        places = [(side, self.sides[side].rows[id]) for side, id in zip(sides, ids, strict=False)]
        left = f", the first {GRID}" if len(ids) > GRID else ""
        tiles = self.tiles(places)
        if picks:
            tiles = [replace(tile, pick=id) for tile, id in zip(tiles, ids, strict=False)]
        return video_grid(tiles, f"{len(ids)} videos{left}")

    def map(self, name: str = "", method: str = "pca") -> Figure:
        """All videos in the plane, colored by class, open marks for queries; the query and its
        neighbors ringed. Without labels the color is that of the source video, or the side's."""
        name = name or next(iter(self.spaces))
        places, layers = self.places(name, method), {}
        groups, order = self._groups()
        for side in SIDES:
            rows = self.drawn(side)
            layers[side] = plane.Layer(
                places[side][rows], groups[side][rows], self.sides[side].ids[rows]
            )
        rings = {ring: at[:2] for ring, at in self.rings(name, method).items()}
        title = self.title(name, method)
        return plane.scatter(layers, order, rings, title, lit=self.of_class, looks=self.looks())

    def _groups(self) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """What colors the points of the map: a name for each video of each side, and their order."""
        if any(videos.labeled for videos in self.sides.values()):
            classes = [one for side in SIDES for one in self.sides[side].classes]
            return self.names, tuple(dict.fromkeys(classes))
        sources = {side: np.asarray(self.sides[side].source_video) for side in SIDES}
        each = np.unique(np.concatenate([*sources.values()]))
        if 1 < len(each) <= plane.LISTED:
            words = {side: np.array([f"source {one}" for one in sources[side]]) for side in SIDES}
            return words, tuple(f"source {one}" for one in each)
        return {side: np.full(len(sources[side]), side) for side in SIDES}, SIDES

    def title(self, name: str, method: str) -> str:
        """What a map is of, in words."""
        if any(videos.labeled for videos in self.sides.values()):
            return f"{name}: {layout.METHODS[method]}"
        by = "side" if self._groups()[1] == SIDES else "source video"
        return f"{name}: {layout.METHODS[method]}; no labels, color by {by}"

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


def _judged(tile: Tile, row: Mapping[str, Any], listed: bool, picks: bool) -> Tile:
    """A neighbor's tile with what `Lists.rows` says of it. listed: it is in a list, where it may be
    shared; the lines gained and lost mark nothing."""
    said_of = {name: row[name] for name in ("score", "right", "sibling", "rank")}
    return replace(tile, **said_of, mark=row["shared"] and listed, pick=row["id"] if picks else "")
