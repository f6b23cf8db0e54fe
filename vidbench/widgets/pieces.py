"""Pieces of controls: HTML whose tiles one clicks, a figure that is opened with its data in it, a line of words."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vidbench.figures import FONT, SOFT, Html, escaped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CLICKS = """
export default { render({ model, el }) {
  el.classList.add("vidbench-tiles");
  const draw = () => {
    const ids = model.get("ids");
    el.innerHTML = model.get("html");
    el.querySelectorAll(model.get("picks")).forEach((tile, i) => {
      Object.assign(tile, { tabIndex: 0, onclick: () => model.send({ pick: ids[i] }),
        onkeydown: event => { if (event.key === "Enter") model.send({ pick: ids[i] }); } });
      tile.style.cursor = "pointer";
      tile.setAttribute("role", "button");
    });
  };
  model.on("change:html", draw);
  draw();
} };
"""


@cache
def clickable():
    """The class of a piece of HTML whose tiles, found by `picks`, say their id when they are clicked."""
    import anywidget
    import traitlets

    class Clickable(anywidget.AnyWidget):
        _esm = CLICKS
        html = traitlets.Unicode().tag(sync=True)
        ids = traitlets.List().tag(sync=True)
        picks = traitlets.Unicode().tag(sync=True)

    return Clickable


def whole(figure: Figure):
    """A FigureWidget that is opened with its data in it.

    plotly 7 opens it empty and sends the data after it; a busy machine then draws before they are there.
    """
    from plotly.graph_objects import FigureWidget

    class Whole(FigureWidget):
        def open(self) -> None:
            if self._widget_data:  # not yet, where its own beginning calls this
                super().open()

    made = Whole(figure)
    made.open()
    return made


def said(words: str) -> Html:
    """A line of words among clips."""
    return Html(f'<div style="font-family:{FONT};font-size:13px;color:{SOFT};padding:8px 0">{escaped(words)}</div>')
