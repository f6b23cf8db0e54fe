"""Pieces of controls: HTML whose tiles one clicks, a figure that tells what the pointer does in it,
a line of words."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from vidbench.view.figures import FONT, SOFT, Html, escaped

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

# A FigureWidget keeps one event of the pointer at a time, hovering among them: a lasso is lost
# where the kernel is busy when it is drawn, and of many points it sends all coordinates. Here its
# listeners go, and numbers of points are sent.
EARS = """
const EVENTS = ["click", "hover", "unhover", "selected", "deselect"].map(name => `plotly_${name}`);
export default { render({ model, el }) {
  el.style.display = "none";
  let waits = true;
  const listen = () => {
    const plot = el.closest(".vidbench-plot")?.querySelector(".js-plotly-plot");
    if (!plot?._ev?.listenerCount(EVENTS[0])) { if (waits) setTimeout(listen, 50); return; }  // not drawn yet
    EVENTS.forEach(name => plot.removeAllListeners(name));
    plot.on("plotly_click", ({ points: [one] }) => model.send({
      event: "click", trace: one.curveNumber, point: one.pointNumber, x: one.x, y: one.y }));
    const lasso = chosen => {
      const points = {};
      for (const one of chosen?.points ?? []) (points[one.curveNumber] ??= []).push(one.pointNumber);
      model.send({ event: "lasso", points });
    };
    plot.on("plotly_selected", lasso);
    plot.on("plotly_deselect", () => lasso());
  };
  listen();
  return () => { waits = false; };
} };
"""


@cache
def clickable():
    """The class of a piece of HTML whose tiles, found by `picks`, say their id when they are
    clicked."""
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

    plotly 7 opens it empty and sends the data after it; a busy machine then draws before they are
    there."""
    from plotly.graph_objects import FigureWidget

    class Whole(FigureWidget):
        def open(self) -> None:
            if self._widget_data:  # not yet, where its own beginning calls this
                super().open()

    made = Whole(figure)
    made.open()
    return made


def pointed(
    figure,
    clicked: Callable[[dict], None],
    lassoed: Callable[[dict[int, list[int]]], None] | None = None,
):
    """A FigureWidget in a box that tells what the pointer does in it.

    clicked: is given trace and point, numbers (of a heatmap's cell row and column), and x and y, as
    they are drawn. lassoed: the numbers of the points in a lasso by that of their trace; empty
    where it was taken away."""
    import ipywidgets

    ears = _ears()()

    def heard(_, message: dict, __) -> None:
        if message["event"] == "click":
            clicked(message)
        elif lassoed:
            lassoed({int(trace): points for trace, points in message["points"].items()})

    ears.on_msg(heard)
    box = ipywidgets.Box([figure, ears])
    box.add_class("vidbench-plot")
    return box


@cache
def _ears():
    import anywidget

    class Ears(anywidget.AnyWidget):
        _esm = EARS

    return Ears


def said(words: str) -> Html:
    """A line of words among clips."""
    return Html(
        f'<div style="font-family:{FONT};font-size:13px;color:{SOFT};padding:8px '
        f'0">{escaped(words)}</div>'
    )
