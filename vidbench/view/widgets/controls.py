"""Controls over the browser of neighbors: filters, tiles that one clicks, a way back, a map, the
selected videos and the table of all."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vidbench.system.files import unused
from vidbench.view.clips import said
from vidbench.view.widgets.map_controls import MapControls
from vidbench.view.widgets.neighbors import Browser
from vidbench.view.widgets.pane import BARE, LINE, Pane, button, choice
from vidbench.view.widgets.pieces import Clicks
from vidbench.view.widgets.rows import SCORE, TAGS, VERDICT
from vidbench.view.widgets.selection import Selection
from vidbench.view.widgets.sheet import Sheet
from vidbench.view.widgets.videos import whole_of

if TYPE_CHECKING:
    from ipywidgets import Box

DEPTHS = (5, 10, 20, 50)  # neighbors that one can choose
NO_WIDGETS = "This page shows no controls (it lacks ipywidgets), so this is a static view."


class NeighborControls:
    """Controls over a `Browser` of neighbors.

    They are the query, filters, depth, way back, tiles to click, a map, the selected videos and a
    table of all."""

    CSV = "neighbors.csv"

    def __init__(self, browser: Browser):
        import ipywidgets as w

        self.browser = browser
        self._make_query()
        self._make_filters()
        self.said, self.tiles = w.HTML(), w.HTML()
        self.tiles.add_class("vidbench-tiles")
        self.map = MapControls(browser, self.select, self._lassoed)
        self.pane, self.sheet = Pane(browser), Sheet(browser)
        self.table = w.ToggleButton(
            description="table of all videos",
            icon="table",
            layout={"width": "170px"},
            tooltip="filter, sort and select videos",
        )
        self._draw()
        self.box = self._boxed()
        self._connect()

    @property
    def selection(self) -> Selection:
        """The selected videos. Set it to ids of videos to select them."""
        return self.browser.selection

    @selection.setter
    def selection(self, ids: Iterable[str]) -> None:
        self.browser.selection = ids

    def _make_query(self) -> None:
        """Make what sets the query."""
        import ipywidgets as w

        self.back = button("back", "arrow-left", "80px", "the query before this one")
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
        tip = f"ids and scores of the queries that are left, to a new {self.CSV} in this folder"
        self.save = button("save csv", "download", "110px", tip)

    def _make_filters(self) -> None:
        """Make what filters the queries and sets their lists."""
        import ipywidgets as w

        browser, names = self.browser, list(self.browser.spaces)
        classes = browser.sides["queries"].classes
        counted = names if classes or browser.failures else ()  # failures need labels
        self.of_class = choice(
            [("all classes", ""), *((one, one) for one in classes)],
            browser.of_class,
            "class",
            "170px",
        )
        self.failures = choice(
            [("all queries", ""), *((f"only failures of {name}", name) for name in counted)],
            browser.failures,
            "show",
            "270px",
        )
        self.k = choice(sorted({*DEPTHS, browser.k}), browser.k, "k", "90px")
        self.hide = w.Checkbox(
            value=browser.hide_source_video,
            description="hide same source",
            indent=False,
            layout={"width": "140px"},
        )
        pairs = [(f"{a} → {b}", (a, b)) for a in names for b in names if a != b]
        self.compare = choice([("none", ()), *pairs], browser.compare, "gained and lost", "310px")
        self.kind = choice(browser.kinds, browser.kind, "clips", "130px")

    def _boxed(self) -> Box:
        """The controls, one line of them below the other."""
        import ipywidgets as w

        browser = self.browser
        of_class = [self.of_class] * browser.sides["queries"].labeled
        failures = [self.failures] * browser.judged  # without labels no neighbor is wrong
        kind = [self.kind] * (len(browser.kinds) > 1)
        compare = [self.compare] * (len(browser.spaces) > 1)
        box = w.VBox()
        self.clicks = Clicks(box, self.select, partial(whole_of, browser.sides), self.next_failure)
        self.below = w.VBox()  # of the map, once it is opened
        # lines of 850 pixels: next to an open file browser
        box.children = [
            w.HBox([self.back, self.number, self.find, *of_class, *kind, self.save], layout=LINE),
            w.HBox([*failures, *compare, self.k, self.hide], layout=LINE),
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
        self.below.children = [self.clicks.widget]  # goes first: the map weighs megabytes
        plot = self.map.open()
        self.below.children = [
            self.clicks.widget,
            w.HBox([*self.map.choices, self.table], layout=LINE),
            w.HBox([plot, self.pane.box], layout=LINE | {"align_items": "flex-start"}),
            self.sheet.box,
        ]

    def _connect(self) -> None:
        """Let controls, tiles and buttons do what they are for."""
        for control in (self.of_class, self.failures, self.k, self.hide, self.compare, self.kind):
            control.observe(self._moved, "value")
        self.number.observe(self._stepped, "value")
        self.find.observe(self._sought, "value")
        self.back.on_click(lambda _: self._went())
        self.save.on_click(lambda _: self._saved())
        self.table.observe(lambda _: self._tabled(), "value")
        self.sheet.box.layout.display = "none"
        self.browser.changed = self._changed

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
        path = self.browser.csv(unused(self.CSV)).resolve()
        self.said.value = said(f"{len(self.browser.choices())} queries' neighbors are in {path}")

    def _went(self) -> None:
        self.browser.back()
        self._draw()

    def next_failure(self) -> None:
        """Make the next query that found no right neighbor the query."""
        if self.browser.next_failure():
            self._draw()
        else:
            self.said.value = said("No query matches the filter and has only wrong neighbors.")

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
            self.said.value = said(f"no video's id contains {text!r}")
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
        if change["owner"] is self.of_class:
            self.map.fade()
        elif change["owner"] is self.kind:
            self.map.tip.forget()
        elif change["owner"] in (self.k, self.hide):  # others are right or wrong
            self.map.recolor(VERDICT, SCORE)
            self.sheet.draw()

    def _lassoed(self, ids: list[str]) -> None:
        """Select videos that the map shows as selected already."""
        self.map.lassoing = True
        self.browser.selection = ids
        self.map.lassoing = False

    def _tabled(self) -> None:
        """The table was opened or closed."""
        self.sheet.box.layout.display = "flex" if self.table.value else "none"
        if self.table.value:
            self.sheet.show()

    def _changed(self, what: str) -> None:
        """The selection, the tags or the columns of the browser changed."""
        if what == "selection":
            self.pane.renew()
            self.map.light()
        elif what == "tags":
            self.map.recolor(TAGS)
        else:
            self.map.offer()
        self.sheet.draw()

    def _draw(self) -> None:
        """The query, its neighbors and its rings."""
        browser, (side, row) = self.browser, self.browser.query
        left = browser.choices()
        self.back.disabled = not browser.past
        self.tiles.value = str(browser.now(picks=True))
        words = [
            f"{len(left)} of {len(browser.sides['queries'])} queries"
            if len(left)
            else "no query matches the filter: widen the class, or look at all queries",
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
        self.map.ring()


def show(browser: Browser) -> NeighborControls:
    """Put controls on a browser: a click on a clip makes it the query. Needs a kernel.

    The map is a FigureWidget, which adds about 5 MB to a saved notebook: see
    `vidbench.view.widgets.shown`."""
    return NeighborControls(browser)
