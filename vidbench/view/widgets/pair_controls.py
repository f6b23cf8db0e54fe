"""Controls over the browser of class pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vidbench.view.looks import FONT, PALETTE, escaped, plain
from vidbench.view.widgets.pairs import Browser
from vidbench.view.widgets.pane import LINE
from vidbench.view.widgets.pieces import Clicks, pointed, whole

if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget

MANY = (10, 20, 50)  # rows that one can choose


class PairControls:
    """Controls over a `Browser`: data sets, read-out, number of rows, heatmap, clips, row buttons."""

    def __init__(self, browser: Browser):
        import ipywidgets

        pairs = [(f"{source} → {target}", (source, target)) for source, target in browser.relations]
        self.browser = browser
        self.pair = ipywidgets.Dropdown(
            options=pairs, value=(browser.source, browser.target), description="data sets"
        )
        self.readout = ipywidgets.Dropdown(
            options=browser.readouts, value=browser.readout, description="read-out"
        )
        self.most = ipywidgets.Dropdown(
            options=sorted({*MANY, browser.most}), value=browser.most, description="pairs"
        )
        self.clips, self.rows = ipywidgets.HTML(), ipywidgets.VBox(layout={"overflow": "auto"})
        self.plot = ipywidgets.VBox()  # of the heatmap, once it is opened
        choices = ipywidgets.HBox([self.pair, self.readout, self.most], layout=LINE)
        self.clips.add_class("vidbench-tiles")
        self.box = ipywidgets.VBox()
        self.clicks = Clicks(self.box, whole=getattr(browser.clips_of, "whole", None))
        parts = [choices, self.plot, self.clicks.answer, self.clips, self.rows]
        self.box.children = parts
        for control in (self.pair, self.readout, self.most):
            control.observe(self._moved, "value")
        self._list()
        self._play()

    @cached_property
    def figure(self) -> FigureWidget:
        """The heatmap. It weighs megabytes, so it is made after the rest is on its way."""
        return whole(self.browser.figure(exact=True).update_layout(shapes=self._cross()))

    @property
    def _opened(self) -> bool:
        """Whether the heatmap has been made."""
        return "figure" in self.__dict__

    def _ipython_display_(self) -> None:
        """Show choices, clips and rows first, then open the heatmap."""
        from IPython.display import display

        display(self.box)
        self.open()

    def open(self) -> None:
        """Add the heatmap; nothing, if it is there."""
        if not self.plot.children:
            self.box.children = [*self.box.children, self.clicks.widget]  # before the megabytes
            self.plot.children = [pointed(self.figure, self._clicked)]

    def select(self, source_class: str, target_class: str) -> None:
        """Choose a pair: a cross-hair in the heatmap, its clips below.

        Args:
            source_class, target_class: Names of the classes.
        """
        self.browser.select(source_class, target_class)
        self._play()

    def _moved(self, _change) -> None:
        """Redraw all after a control has moved, in the same FigureWidget: each takes megabytes."""
        source, target = self.pair.value
        self.browser.look(source, target, self.readout.value, self.most.value)
        if self._opened:
            self._redraw()
        self._list()
        self._play()

    def _redraw(self) -> None:
        drawn = self.browser.figure(exact=True)
        with self.figure.batch_update():
            for old, new in zip(self.figure.data, drawn.data, strict=True):
                old.update(
                    {
                        key: value
                        for key, value in new.to_plotly_json().items()
                        if key not in ("type", "uid")
                    },
                    overwrite=True,
                )
            self.figure.layout.update(drawn.layout.to_plotly_json(), overwrite=True)

    def _clicked(self, place: dict) -> None:
        """A cell of the heatmap was clicked; names come as they are drawn."""
        sources, targets = (
            {plain(name): name for name in names}
            for names in (self.browser.there.sources, self.browser.there.targets)
        )
        self.select(sources[place["y"]], targets[place["x"]])

    def _list(self) -> None:
        """The head of the table, then a button and a line for each row."""
        import ipywidgets

        rows = self.browser.lines()
        fixed, rest = {"flex": "none"}, {"flex": "1 1 0", "min_width": "0"}
        narrow = {"width": "34px", "height": "22px", **fixed}
        head = ipywidgets.HTML(self._line(rows[0], head=True), layout=rest)
        lines = [ipywidgets.HBox([ipywidgets.Label(layout=narrow), head])]
        for row in rows:
            button = ipywidgets.Button(
                icon="play", tooltip="play clips of both classes", layout=narrow
            )
            button.on_click(
                lambda _, pair=(row[self.browser.source], row[self.browser.target]): self.select(
                    *pair
                )
            )
            lines.append(ipywidgets.HBox([button, ipywidgets.HTML(self._line(row), layout=rest)]))
        self.rows.children = lines

    def _line(self, row: Mapping[str, Any], head: bool = False) -> str:
        """A row, or the names of its columns, in columns of fixed widths."""
        cells, weight = [], 600 if head else 400
        look = "display:inline-block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;"
        for name, value in row.items():
            shown = "–" if value is None else f"{value:.3f}" if isinstance(value, float) else value
            text = escaped(name if head else shown)
            named = name in (self.browser.source, self.browser.target)
            wide = (
                "width:160px"
                if named
                else f"width:{12 + max(32, 7 * len(name))}px;text-align:right"
            )
            cells.append(
                f'<span style="{look}padding-right:8px;{wide}" title="{text}">{text}</span>'
            )
        look = f"font-family:{FONT};font-size:13px;line-height:22px;font-weight:{weight}"  # numbers without room wrap
        return f'<div style="{look}">{"".join(cells)}</div>'

    def _play(self) -> None:
        """The selected pair's cross-hair and clips."""
        if self._opened:
            self.figure.layout.shapes = self._cross()
        try:
            self.clips.value = self.browser.chosen()
        except Exception as error:  # a callback's error goes to a log that few see
            self.clips.value = f"<b>no clips: {escaped(error)}</b>"
            raise

    def _cross(self) -> list[dict[str, Any]]:
        """The lines of the cross-hair on the selected pair; none while no pair is selected."""
        browser = self.browser
        if not browser.selected:
            return []
        sides = zip(
            browser.order(),
            (browser.there.sources, browser.there.targets),
            browser.selected,
            strict=True,
        )
        places = [list(order).index(names.index(name)) for order, names, name in sides]
        look = dict(type="line", line=dict(color=PALETTE[4], width=1.4))
        return [
            dict(xref="paper", x0=0, x1=1, y0=places[0], y1=places[0], **look),
            dict(yref="paper", y0=0, y1=1, x0=places[1], x1=places[1], **look),
        ]


def show(browser: Browser) -> PairControls:
    """Return the browser with controls, for a notebook with a kernel.

    A cell of the heatmap, or a row's button, plays clips of a pair. The heatmap is a FigureWidget,
    which makes a saved notebook about 5 MB larger; to keep it, show `browser.html()` and
    `browser.figure()` instead.
    """
    return PairControls(browser)
