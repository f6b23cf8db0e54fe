"""The moving clip of a map's point under the pointer, made when the pointer rests there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from vidbench.view.looks import CARD, FONT, LINE, Html

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from ipywidgets import Box

# The clip comes as the HTML of a hidden widget, which needs no module to load, and the page keeps
# it. A point is requested when the pointer rests on it, so that a sweep over the map costs nothing.
TIP = """
export default { render({ model, el }) {
  el.style.display = "none";
  const KEPT = 400, kept = new Map(), tip = document.createElement("div");
  tip.className = "vidbench-hover";
  tip.style.cssText = "position:fixed;z-index:10000;pointer-events:none;display:none;" + model.get("look");
  document.body.append(tip);
  let waits = true, want = "", at = [0, 0], timer = 0;
  const show = () => {
    if (!kept.has(want)) return;
    tip.innerHTML = kept.get(want);
    tip.style.display = "block";
    const { width, height } = tip.getBoundingClientRect(), [x, y] = at;
    tip.style.left = `${Math.max(4, Math.min(x - width / 2, innerWidth - width - 4))}px`;
    tip.style.top = `${y + 18 + height < innerHeight ? y + 18 : y - height - 18}px`;
  };
  const hide = () => { clearTimeout(timer); want = ""; tip.style.display = "none"; };
  const watch = new MutationObserver(() => {
    const made = el.closest(".vidbench-plot")?.querySelector(".vidbench-tip [data-of]");
    if (!made) { kept.clear(); return; }
    kept.set(made.dataset.of, made.innerHTML);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    show();
  });
  const listen = () => {
    const box = el.closest(".vidbench-plot"), plot = box?.querySelector(".js-plotly-plot");
    const heard = name => plot?._ev?.listenerCount(`plotly_${name}`);
    const seat = box?.querySelector(".vidbench-tip");
    // the figure's own listeners go first, see pieces.EARS
    if (!seat || !heard("click") || heard("hover")) { if (waits) setTimeout(listen, 100); return; }
    watch.observe(seat, { childList: true, subtree: true });
    plot.on("plotly_hover", ({ points: [one], event }) => {
      clearTimeout(timer);
      want = `${one.curveNumber}:${one.pointNumber}`;
      at = [event.clientX, event.clientY];
      tip.style.display = "none";
      if (kept.has(want)) show();
      else timer = setTimeout(() => model.send({ trace: one.curveNumber, point: one.pointNumber }), 80);
    });
    plot.on("plotly_unhover", hide);
    plot.addEventListener("mousedown", hide, true);
    plot.addEventListener("mouseleave", hide);
  };
  listen();
  return () => { waits = false; hide(); watch.disconnect(); tip.remove(); };
} };
"""
LOOK = (
    f"padding:4px;border:1px solid {LINE};border-radius:4px;font:12px {FONT};max-width:220px;{CARD}"
)


class Tip:
    """The clip of the point under the pointer.

    Args:
        clip: Returns what is shown of a point, given the numbers of its trace and itself; "" for
            none.
    """

    def __init__(self, clip: Callable[[int, int], str]):
        import ipywidgets

        self.clip = clip
        self.seat = ipywidgets.HTML(layout={"display": "none"})
        self.seat.add_class("vidbench-tip")
        self.listener: AnyWidget = _listener()(look=LOOK)
        self.listener.on_msg(lambda _, message, __: self._rested(message))

    def join(self, plot: Box) -> None:
        """Add this to a box that `pieces.pointed` made."""
        plot.children = (*plot.children, self.seat, self.listener)

    def forget(self) -> None:
        """Let the page forget its clips: they changed."""
        self.seat.value = ""

    def _rested(self, place: dict) -> None:
        trace, point = int(place["trace"]), int(place["point"])
        shown = self.clip(trace, point)
        if shown:
            self.seat.value = Html(f'<div data-of="{trace}:{point}">{shown}</div>')


@cache
def _listener() -> type[AnyWidget]:
    import anywidget
    import traitlets

    class Listener(anywidget.AnyWidget):
        _esm = TIP
        look = traitlets.Unicode().tag(sync=True)

    return Listener
