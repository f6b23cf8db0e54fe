"""The map's points by keyboard: Tab to the map, arrows from point to point, Enter chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from vidbench.view.widgets.videos import SIDES

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from ipywidgets import Box

# A layer over the plot has the focus and the name of the point. The pointer goes through it. An arrow
# goes to the nearest point in a quarter of the plane, else in the half of it; points on one place are
# reached in their order. The card at the pointer (hover.TIP) shows the point's clip, too.
STEPS = """
const STEP = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
const ORDER = { PageDown: 1, PageUp: -1 };
const HELP = "Arrows go to the next video, Page Down and Page Up through all, Enter makes it the query.";
export default { render({ model, el }) {
  el.style.display = "none";
  const style = document.createElement("style");
  style.textContent = `
    .vidbench-steps { position: absolute; inset: 0; z-index: 1; pointer-events: none; }
    .vidbench-steps:focus { outline: none; }
    .vidbench-steps:focus-visible { outline: 3px solid var(--jp-brand-color1, #0072B2); outline-offset: -3px; }
    .vidbench-at { position: absolute; width: 15px; height: 15px; transform: translate(-50%, -50%); display: none;
      border-radius: 50%; box-shadow: 0 0 0 3px #1F2328, 0 0 0 5px #FFFFFF, inset 0 0 0 2px #FFFFFF; }`;
  document.head.append(style);
  const layer = document.createElement("div"), mark = document.createElement("div");
  layer.className = "vidbench-steps";
  layer.tabIndex = 0;
  layer.dataset.lmSuppressShortcuts = "true";  // JupyterLab leaves the map its keys
  layer.setAttribute("role", "application");
  layer.setAttribute("aria-roledescription", "map of videos");
  layer.setAttribute("aria-live", "polite");
  mark.className = "vidbench-at";
  layer.append(mark);
  let waits = true, plot, at = null;  // [trace, point]
  const sides = () => plot._fullData.slice(0, model.get("sides"));
  const seat = ([side, point]) => {
    const { xaxis, yaxis } = plot._fullLayout, { x, y } = sides()[side];
    return [xaxis._offset + xaxis.d2p(x[point]), yaxis._offset + yaxis.d2p(y[point])];
  };
  const seen = ([x, y]) => {
    const { xaxis, yaxis } = plot._fullLayout, dx = x - xaxis._offset, dy = y - yaxis._offset;
    return dx >= 0 && dy >= 0 && dx <= xaxis._length && dy <= yaxis._length;
  };
  const count = () => sides().map(({ x }) => x.length);
  const words = text => {
    const page = new DOMParser().parseFromString(String(text ?? "").replaceAll("<br>", ", "), "text/html");
    return page.body.textContent;
  };
  const number = () => at[1] + count().slice(0, at[0]).reduce((a, b) => a + b, 0);  // of the point among all
  const name = () => {
    if (!at) return `${plot.getAttribute("aria-label") || "map"}. ${HELP}`;
    const [side, point] = at, one = sides()[side];
    return `${words(one.text?.[point])}, ${one.name}, video ${number() + 1} of ${count().reduce((a, b) => a + b)}`;
  };
  const draw = () => {
    const room = plot.querySelector(".svg-container");
    if (layer.parentElement !== room) room.prepend(layer);  // Tab comes here before plotly's buttons
    if (at && !(at[1] < sides()[at[0]]?.x.length)) at = null;
    layer.setAttribute("aria-label", name());
    mark.style.display = "none";
    const place = at && seat(at);
    if (!place || !seen(place) || document.activeElement !== layer) return;
    [mark.style.left, mark.style.top, mark.style.display] = [`${place[0]}px`, `${place[1]}px`, "block"];
  };
  const go = place => {
    at = place;
    draw();
    const { left, top } = plot.getBoundingClientRect(), [x, y] = seat(at);
    plot.emit("plotly_hover", { points: [{ curveNumber: at[0], pointNumber: at[1] }],
      event: { clientX: left + x, clientY: top + y } });
  };
  const nearest = (from, toward = [0, 0]) => {
    let found = null, best = Infinity, wide = null, far = Infinity;
    const { xaxis, yaxis } = plot._fullLayout, free = !toward[0] && !toward[1];
    sides().forEach(({ x, y }, side) => {
      for (let point = 0; point < x.length; point++) {
        const place = [xaxis._offset + xaxis.d2p(x[point]), yaxis._offset + yaxis.d2p(y[point])];
        const dx = place[0] - from[0], dy = place[1] - from[1], away = Math.hypot(dx, dy);
        const along = free ? 1 : dx * toward[0] + dy * toward[1], off = Math.abs(dx * toward[1] + dy * toward[0]);
        if (along <= 0.01 || !seen(place)) continue;
        if ((free || off <= along) && away < best) [found, best] = [[side, point], away];
        if (away + off < far) [wide, far] = [[side, point], away + off];
      }
    });
    return found ?? wide;
  };
  const first = () => {  // the point of the query
    const star = plot._fullData.find(one => one.name === "query"), { xaxis, yaxis } = plot._fullLayout;
    const from = star ? [xaxis._offset + xaxis.d2p(star.x[0]), yaxis._offset + yaxis.d2p(star.y[0])] : [0, 0];
    return nearest(from) ?? [0, 0];
  };
  layer.onfocus = () => { if (at) draw(); else go(first()); };
  layer.onblur = () => { mark.style.display = "none"; plot.emit("plotly_unhover", {}); };
  layer.onkeydown = event => {
    if (event.ctrlKey || event.altKey || event.metaKey || !at) return;
    const { key } = event, order = ORDER[key];
    if (key === "Enter" || key === " ") model.send({ trace: at[0], point: at[1] });
    else if (key === "Escape") plot.emit("plotly_unhover", {});
    else if (STEP[key]) go(nearest(seat(at), STEP[key]) ?? at);
    else if (order || key === "Home" || key === "End") {
      const counts = count(), total = counts.reduce((a, b) => a + b);
      let next = order ? (number() + order + total) % total : key === "Home" ? 0 : total - 1, side = 0;
      while (next >= counts[side]) next -= counts[side++];
      go([side, next]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const listen = () => {
    plot = el.closest(".vidbench-plot")?.querySelector(".js-plotly-plot");
    if (!plot?._fullLayout?.xaxis || !plot._ev?.listenerCount("plotly_click")) {  // not drawn yet
      if (waits) setTimeout(listen, 100);
      return;
    }
    plot.on("plotly_afterplot", draw);
    draw();
  };
  listen();
  return () => { waits = false; layer.remove(); style.remove(); };
} };
"""


class Steps:
    """The keys of a map.

    Args:
        chosen: Is given {"trace": number, "point": number} of the point at which Enter was pressed.
    """

    def __init__(self, chosen: Callable[[dict], None]):
        self.listener: AnyWidget = _listener()(sides=len(SIDES))
        self.listener.on_msg(lambda _, message, __: chosen(message))

    def join(self, plot: Box) -> None:
        """Add this to a box that `pieces.pointed` made."""
        plot.children = (*plot.children, self.listener)


@cache
def _listener() -> type[AnyWidget]:
    import anywidget
    import traitlets

    class Listener(anywidget.AnyWidget):
        _esm = STEPS
        sides = traitlets.Int().tag(sync=True)

    return Listener
