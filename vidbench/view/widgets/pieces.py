"""Pieces of controls: HTML whose tiles one clicks, a figure that reports what the pointer does in it,
a line of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from vidbench.view.galleries import Tile, clip_html, fitted
from vidbench.view.looks import FONT, INK, SOFT, Html, escaped
from vidbench.view.widgets.videos import SIDE

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from ipywidgets import Box
    from plotly.graph_objects import Figure, FigureWidget

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

# anywidget gives a module two seconds to load; a widget that takes longer gets no update any more.
# A slow machine needs more than that for plotly's 5 MB, so this small module answers at once and
# loads plotly afterwards, once a page. Updates that come in between wait until plotly is there.
LATER = """
const libraries = (globalThis.vidbenchLibraries ??= new Map());
const load = text => {
  if (!libraries.has(text)) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    libraries.set(text, import(url).finally(() => URL.revokeObjectURL(url)));
  }
  return libraries.get(text);
};
const UPDATES = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate",
  "removeLayoutProps", "removeTraceProps"].map(name => `_py2js_${name}`);
export default () => {
  let figure;
  const begin = async model => {
    const waiting = [];
    const keepers = UPDATES.map(name => [`change:${name}`, () => {
      if (model.get(name)) waiting.push([name, model.get(name)]);
    }]);
    keepers.forEach(keeper => model.on(...keeper));
    await new Promise(done => setTimeout(done));  // the small modules of a cell go first
    const made = (await load(model.get("_library"))).default();
    keepers.forEach(keeper => model.off(...keeper));
    await made.initialize({ model });
    for (const [name, value] of waiting) { model.set(name, value); model.set(name, null); }
    return made;
  };
  return {
    initialize({ model }) { figure = begin(model); figure.catch(() => {}); },
    async render({ model, el }) {
      try {
        return (await figure).render({ model, el });
      } catch (error) {
        el.textContent = `The plot could not be drawn (${error.message}). Run this cell again.`;
      }
    },
  };
};
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
def clickable() -> type[AnyWidget]:
    """The class of a piece of HTML whose tiles, found by `picks`, say their id when they are
    clicked."""
    import anywidget
    import traitlets

    class Clickable(anywidget.AnyWidget):
        _esm = CLICKS
        html = traitlets.Unicode().tag(sync=True)
        ids: traitlets.List = traitlets.List().tag(sync=True)
        picks = traitlets.Unicode().tag(sync=True)

    return Clickable


def whole(figure: Figure) -> FigureWidget:
    """Make a FigureWidget that a slow machine shows, too: it opens with its data in it, and loads
    plotly after anywidget's time limit for its module (see `LATER`)."""
    made = _whole()(figure)
    made.open()
    return made


@cache
def _whole() -> type[FigureWidget]:
    import traitlets
    from plotly.graph_objects import FigureWidget

    class Whole(FigureWidget):
        _esm = LATER
        _library = traitlets.Unicode(str(FigureWidget._esm)).tag(sync=True)

        def open(self) -> None:
            # plotly 7 opens an empty widget and sends the data later, which may come too late
            if self._widget_data:
                super().open()

    return Whole


def pointed(
    figure: FigureWidget,
    clicked: Callable[[dict], None],
    lassoed: Callable[[dict[int, list[int]]], None] | None = None,
) -> Box:
    """A FigureWidget in a box that reports what the pointer does in it.

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


def video_grid(tiles: Sequence[Tile], heading: str) -> Html:
    """Return clips side by side in rows, under a heading."""
    return Html(
        f'<div style="font-family:{FONT};color:{INK}"><div style="font-size:13px;margin:0 0 '
        f'4px">{escaped(heading)}</div><div style="display:flex;flex-wrap:wrap;gap:8px">'
        f"{''.join(map(_video, tiles))}</div></div>"
    )


def _video(tile: Tile) -> str:
    """A clip of a grid, its class and its name under it."""
    cut = f"width:{SIDE}px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    return (
        f'<div title="video {escaped(tile.label)}, {escaped(tile.caption)}" style="width:{SIDE}px">'
        f"{clip_html(tile.clip, tile.label, SIDE)}<div "
        f'style="font-size:12px;{cut}">{escaped(tile.label)}</div>'
        f'<div style="font-size:11px;color:{SOFT};{cut}">{escaped(fitted(tile.caption, SIDE))}'
        "</div></div>"
    )
