"""The map of a browser of neighbors under controls: places, colors, rings, clicks, lasso, hover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vidbench.evaluate import layout
from vidbench.view.galleries import clip_html
from vidbench.view.looks import escaped, plain
from vidbench.view.widgets import hues, plane
from vidbench.view.widgets.hover import Tip
from vidbench.view.widgets.keys import Steps
from vidbench.view.widgets.neighbors import Browser
from vidbench.view.widgets.pane import choice
from vidbench.view.widgets.pieces import pointed, whole
from vidbench.view.widgets.rows import SCORE, VERDICT
from vidbench.view.widgets.videos import SIDE, SIDES

if TYPE_CHECKING:
    from ipywidgets import Box
    from plotly.graph_objects import FigureWidget


class MapControls:
    """The map of a browser, what sets it, and what the pointer does in it.

    Args:
        browser: The browser whose map it is.
        clicked: Is given the id of a point that was clicked.
        lassoed: Is given the ids of the points in a lasso; none if it was taken away.
    """

    def __init__(
        self,
        browser: Browser,
        clicked: Callable[[str], None],
        lassoed: Callable[[list[str]], None],
    ):
        names, videos = list(browser.spaces), browser.videos
        self.browser, self._clicked, self._lassoed = browser, clicked, lassoed
        self.lassoing = False  # whether the page lights up the selection by itself
        self.of_map = choice(names, names[0], "map of", "230px")
        self.method = choice(layout.methods(), "pca", "by", "110px")
        self.color = choice(hues.choices(videos), hues.standard(videos), "color", "170px")
        self.choices = (self.of_map, self.method, self.color)
        for control in (self.of_map, self.method):
            control.observe(lambda _: self._move(), "value")
        self.color.observe(lambda _: self.recolor(self.color.value), "value")

    @cached_property
    def figure(self) -> FigureWidget:
        """The map. It weighs megabytes, so it is made after the tiles are on their way."""
        return whole(self.browser.map(self.of_map.value, self.method.value, self.color.value))

    @cached_property
    def tip(self) -> Tip:
        """The clip at the pointer."""
        return Tip(self._clip)

    @property
    def opened(self) -> bool:
        """Whether the map has been made."""
        return "figure" in self.__dict__

    def open(self) -> Box:
        """Make the map and return its box."""
        plot = pointed(self.figure, self._at, self._within)
        plot.layout = {"flex": f"0 1 {plane.WIDE}px", "min_width": "0"}
        self.tip.join(plot)
        Steps(self._at).join(plot)
        if self.browser.selection:
            self.light()
        return plot

    def ring(self) -> None:
        """Ring the query and its neighbors of now."""
        if self.opened:
            with self.figure.batch_update():
                self._ring()

    def fade(self) -> None:
        """Light up the class of now before the others."""
        if not self.opened:
            return
        with self.figure.batch_update():
            for side, trace in zip(SIDES, self.figure.data, strict=False):
                names = self.browser.names[side][self.browser.drawn(side)]
                trace.marker.opacity = plane.faded(names, self.browser.of_class)

    def recolor(self, *columns: str) -> None:
        """Color the points again if their color is that of one of these columns."""
        if not self.opened or self.color.value not in columns:
            return
        with self.figure.batch_update():
            self._color()

    def offer(self) -> None:
        """Offer the browser's columns of now as colors."""
        now = self.color.value
        self.color.options = hues.choices(self.browser.videos)
        self.color.value = now
        self.recolor(now)

    def light(self) -> None:
        """Show which points are selected, in place of the page's own lasso."""
        if self.lassoing or not self.opened:
            return
        chosen = set(self.browser.selection.ids)
        points: list[list[int] | None] = [
            np.flatnonzero([str(one) in chosen for one in self._side_ids(side)]).tolist()
            if chosen
            else None
            for side in SIDES
        ]
        # The page's lasso is unknown to the kernel's figure, which sends only what differs from its
        # own state: so this goes to the page directly.
        self.figure._send_relayout_msg({"selections": []})
        self.figure._send_restyle_msg({"selectedpoints": points}, trace_indexes=[0, 1])

    def _at(self, place: dict) -> None:
        """A point was clicked."""
        for one in self._ids(place["trace"], [place["point"]]):
            self._clicked(one)

    def _within(self, points: dict[int, list[int]]) -> None:
        """A lasso was drawn around points, given by trace, or taken away."""
        self._lassoed([one for trace in sorted(points) for one in self._ids(trace, points[trace])])

    def _side_ids(self, side: str) -> np.ndarray:
        """The ids of a side's points."""
        return self.browser.sides[side].ids[self.browser.drawn(side)]

    def _ids(self, trace: int, points: Sequence[int]) -> list[str]:
        """The ids of points; rings, star and legend, which are traces after the sides', have none."""
        if trace >= len(SIDES):
            return []
        return [str(one) for one in self._side_ids(SIDES[trace])[list(points)]]

    def _clip(self, trace: int, point: int) -> str:
        """What is shown of a point under the pointer."""
        for one in self._ids(trace, [point]):
            browser, side = self.browser, SIDES[trace]
            tile = browser.tiles([(side, int(browser.drawn(side)[point]))])[0]
            words = ", ".join(filter(None, (tile.label, tile.caption or one)))
            return f"{clip_html(tile.clip, words, SIDE)}<div>{escaped(words)}</div>"
        return ""

    def _ring(self) -> None:
        rings = self.browser.rings(self.of_map.value, self.method.value)
        for trace, (x, y, _) in zip(self.figure.data[len(SIDES) :], rings.values(), strict=False):
            trace.x, trace.y = x, y

    def _color(self) -> None:
        """Set the colors, the legend, and the title that names the column."""
        name, color = self.of_map.value, self.color.value
        made = self.browser.hues(color, name)
        for side, trace in zip(SIDES, self.figure.data, strict=False):
            trace.marker.update(hues.marked(made, side))
        entries = hues.legend(made)
        for trace, entry in zip(self.figure.data[-len(entries) :], entries, strict=True):
            trace.update(entry)
        title = self.browser.title(name, self.method.value, color)
        self.figure.layout.title.text = plain(title)

    def _move(self) -> None:
        """Move the points to other places in the same FigureWidget: a new one takes megabytes."""
        name = self.of_map.value
        self.browser.videos.judge = name
        if not self.opened:
            return
        places = self.browser.places(name, self.method.value)
        with self.figure.batch_update():
            for side, trace in zip(SIDES, self.figure.data, strict=False):
                trace.x, trace.y = places[side][self.browser.drawn(side)].T
            self._ring()
            if self.color.value in (VERDICT, SCORE):
                self._color()
            title = self.browser.title(name, self.method.value, self.color.value)
            self.figure.layout.title.text = plain(title)
            self.figure.layout.xaxis.autorange = self.figure.layout.yaxis.autorange = True
        if self.browser.selection:
            self.light()
