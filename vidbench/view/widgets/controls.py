"""Controls over the browser of neighbors: filters, tiles that one clicks, a way back, a map and
its lasso's grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from vidbench.evaluate import layout
from vidbench.view.clips import said
from vidbench.view.looks import plain
from vidbench.view.widgets import plane
from vidbench.view.widgets.neighbors import Browser
from vidbench.view.widgets.pieces import Clicks, pointed, whole
from vidbench.view.widgets.videos import SIDES, whole_of

if TYPE_CHECKING:
    from ipywidgets import Box, Dropdown
    from plotly.graph_objects import FigureWidget

DEPTHS = (5, 10, 20, 50)  # neighbors that one can choose
NO_WIDGETS = "This page shows no controls (it lacks ipywidgets), so this is a static view."


BARE = {"description_width": "initial"}


def _choice(options: Sequence, value: object, description: str, width: str) -> Dropdown:
    import ipywidgets

    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=description,
        layout={"width": width},
        style=BARE,
    )


class NeighborControls:
    """Controls over a `Browser`: query, filters, depth, way back, tiles that one clicks, a map and
    its lasso's grid."""

    CSV = "neighbors.csv"

    def __init__(self, browser: Browser):
        import ipywidgets

        self.browser = browser
        self._make_choices()
        self.said, self.tiles = ipywidgets.HTML(), ipywidgets.HTML()
        self.chosen = ipywidgets.HTML(str(browser.grid([])))
        self.chosen.layout = {
            "max_height": f"{plane.TALL}px",
            "overflow": "auto",
            "flex": "1 1 220px",
            "margin": "0 0 0 12px",
        }
        for place in (self.tiles, self.chosen):
            place.add_class("vidbench-tiles")
        self._draw()
        self.box = self._boxed()
        self._connect()

    @cached_property
    def figure(self) -> FigureWidget:
        """The map. It weighs megabytes, so it is made after the tiles are on their way."""
        return whole(self.browser.map(self.of_map.value, self.method.value))

    def _make_choices(self) -> None:
        """Make what sets the query, the filters and the map."""
        import ipywidgets as w

        browser, names = self.browser, list(self.browser.spaces)
        pairs = [(f"{a} → {b}", (a, b)) for a in names for b in names if a != b]
        self.back = w.Button(
            description="back", icon="arrow-left", layout={"width": "80px"}, disabled=True
        )
        self.number = w.BoundedIntText(
            value=1, min=1, max=1, description="query", layout={"width": "110px"}, style=BARE
        )
        self.find = w.Text(
            placeholder="part of an id, then Enter",
            description="find",
            continuous_update=False,
            layout={"width": "210px"},
            style=BARE,
        )
        labeled = bool(browser.sides["queries"].classes)  # failures need labels
        counted = names if labeled or browser.failures else ()
        self.of_class = _choice(
            [("all classes", ""), *((one, one) for one in browser.sides["queries"].classes)],
            browser.of_class,
            "class",
            "170px",
        )
        self.failures = _choice(
            [("all queries", ""), *((f"only failures of {name}", name) for name in counted)],
            browser.failures,
            "show",
            "270px",
        )
        self.k = _choice(sorted({*DEPTHS, browser.k}), browser.k, "k", "90px")
        self.hide = w.Checkbox(
            value=browser.hide_source_video,
            description="hide same source",
            indent=False,
            layout={"width": "140px"},
        )
        self.compare = _choice([("none", ()), *pairs], browser.compare, "gained and lost", "310px")
        self.kind = _choice(browser.kinds, browser.kind, "clips", "130px")
        self.of_map = _choice(names, names[0], "map of", "230px")
        self.method = _choice(layout.methods(), "pca", "by", "110px")
        self.save = w.Button(
            description="save csv",
            icon="download",
            layout={"width": "110px"},
            tooltip=f"ids and scores of the queries that are left, to {self.CSV} in this folder",
        )

    def _boxed(self) -> Box:
        """The controls, one line of them below the other."""
        import ipywidgets as w

        browser = self.browser
        of_class = [self.of_class] * browser.sides["queries"].labeled
        failures = [self.failures] * browser.judged  # without labels no neighbor is wrong
        kind = [self.kind] * (len(browser.kinds) > 1)
        compare = [self.compare] * (len(browser.spaces) > 1)
        # 850 pixels: next to an open file browser
        line = {"flex_flow": "row wrap", "align_items": "center"}
        box = w.VBox()
        self.clicks = Clicks(box, self.select, partial(whole_of, browser.sides))
        self.below = w.VBox()  # of the map, once it is opened
        box.children = [
            w.HBox([self.back, self.number, self.find, *of_class, *kind, self.save], layout=line),
            w.HBox([*failures, *compare, self.k, self.hide], layout=line),
            self.said,
            self.clicks.late,
            self.clicks.answer,
            self.tiles,
            self.below,
        ]
        return box

    def open(self) -> None:
        """Add the listener to clicks and the map; nothing, if they are there."""
        import ipywidgets as w

        if self.below.children:
            return
        line = {"flex_flow": "row wrap", "align_items": "center"}
        self.below.children = [self.clicks.widget]  # goes first: the map weighs megabytes
        plot = pointed(self.figure, self._clicked, self._lassoed)
        self.below.children = [
            self.clicks.widget,
            w.HBox([self.of_map, self.method], layout=line),
            w.HBox([plot, self.chosen], layout=line),
        ]

    def _connect(self) -> None:
        """Let controls, tiles and buttons do what they are for."""
        for control in (self.of_class, self.failures, self.k, self.hide, self.compare, self.kind):
            control.observe(self._moved, "value")
        for control in (self.of_map, self.method):
            control.observe(lambda _: self._map(), "value")
        self.number.observe(self._stepped, "value")
        self.find.observe(self._sought, "value")
        self.back.on_click(lambda _: self._went())
        self.save.on_click(lambda _: self._saved())

    def _ipython_display_(self) -> None:
        """Show the tiles first, then open the map. A page without ipywidgets shows a static view."""
        from IPython.display import display

        bundle = self.box._repr_mimebundle_()
        static = f"{said(NO_WIDGETS)}{self.browser.now()}"
        display({**bundle, "text/html": static}, raw=True)
        self.open()

    def select(self, which: int | str) -> None:
        """Make a video the query: its neighbors play, its place on the map is ringed."""
        self.browser.select(which)
        self._draw()

    def _saved(self) -> None:
        path = self.browser.csv(self.CSV).resolve()
        self.said.value = said(f"{len(self.browser.choices())} queries' neighbors are in {path}")

    def _went(self) -> None:
        self.browser.back()
        self._draw()

    def next_failure(self) -> None:
        """Make the next query that found no right neighbor the query."""
        if self.browser.next_failure():
            self._draw()
        else:
            self.said.value = said("No query is left of which all neighbors are wrong.")

    def _stepped(self, change) -> None:
        left = self.browser.choices()
        if len(left) and self.browser.query != ("queries", int(left[change["new"] - 1])):
            self.select(int(left[change["new"] - 1]))

    def _sought(self, _change) -> None:
        """The next query, after that of now, whose id holds the text; else a gallery video's."""
        text, browser = self.find.value.strip().lower(), self.browser
        if not text:
            return
        now = browser.query[1] if browser.query[0] == "queries" else -1
        ids = browser.sides["queries"].ids.tolist()
        ids = [*ids[now + 1 :], *ids[: now + 1], *browser.sides["gallery"].ids.tolist()]
        found = next((id for id in ids if text in id.lower()), None)
        if found is None:
            self.said.value = said(f"no video's id holds {text!r}")
        else:
            self.select(found)

    def _moved(self, change) -> None:
        """A filter was moved."""
        self.browser.look(
            k=self.k.value,
            of_class=self.of_class.value,
            failures=self.failures.value,
            hide_source_video=self.hide.value,
            compare=self.compare.value,
            kind=self.kind.value,
        )
        self._draw()
        if change["owner"] is self.of_class and self._opened:
            with self.figure.batch_update():
                for side, trace in zip(SIDES, self.figure.data, strict=False):
                    names = self.browser.names[side][self.browser.drawn(side)]
                    trace.marker.opacity = plane.faded(names, self.of_class.value)

    def _ids_at(self, trace: int, points: list[int]) -> list[str]:
        """The ids of points of the map; rings and star, which are traces after the sides', have
        none."""
        if trace >= len(SIDES):
            return []
        side = SIDES[trace]
        return [str(one) for one in self.browser.sides[side].ids[self.browser.drawn(side)[points]]]

    def _clicked(self, place: dict) -> None:
        for one in self._ids_at(place["trace"], [place["point"]]):
            self.select(one)

    def _lassoed(self, points: dict[int, list[int]]) -> None:
        ids = [one for trace in sorted(points) for one in self._ids_at(trace, points[trace])]
        self.chosen.value = str(self.browser.grid(ids, picks=True))

    def _draw(self) -> None:
        """The query, its neighbors and its rings."""
        browser, (side, row) = self.browser, self.browser.query
        left = browser.choices()
        self.back.disabled = not browser.past
        self.tiles.value = str(browser.now(picks=True))
        words = [
            f"{len(left)} of {len(browser.sides['queries'])} queries"
            if len(left)
            else "no query is left: widen the class, or look at all queries",
            ""
            if side == "queries"
            else "the query is a gallery video, without itself among its neighbors",
        ]
        self.said.value = said(
            " · ".join(filter(None, [str(browser.sides[side].ids[row]), *words]))
        )
        self.number.unobserve(self._stepped, "value")
        self.number.max = max(1, len(left))
        at = np.flatnonzero(left == row) if side == "queries" else left[:0]
        if len(at):
            self.number.value = int(at[0]) + 1
        self.number.observe(self._stepped, "value")
        if self._opened:
            with self.figure.batch_update():
                self._ring()

    @property
    def _opened(self) -> bool:
        """Whether the map has been made."""
        return "figure" in self.__dict__

    def _ring(self) -> None:
        rings = self.browser.rings(self.of_map.value, self.method.value)
        for trace, (x, y, _) in zip(self.figure.data[len(SIDES) :], rings.values(), strict=False):
            trace.x, trace.y = x, y

    def _map(self) -> None:
        """Other places for the same points, in the same FigureWidget, of which each weighs
        megabytes."""
        if not self._opened:
            return
        name, method = self.of_map.value, self.method.value
        places = self.browser.places(name, method)
        with self.figure.batch_update():
            for side, trace in zip(SIDES, self.figure.data, strict=False):
                trace.x, trace.y = places[side][self.browser.drawn(side)].T
            self._ring()
            self.figure.layout.title.text = plain(self.browser.title(name, method))
            self.figure.layout.xaxis.autorange = self.figure.layout.yaxis.autorange = True


def show(browser: Browser) -> NeighborControls:
    """Put controls on a browser: a click on a clip makes it the query. Needs a kernel.

    The map is a FigureWidget, which adds about 5 MB to a saved notebook: see
    `vidbench.view.widgets.shown`."""
    return NeighborControls(browser)
