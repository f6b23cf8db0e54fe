"""Pieces of controls: a listener to clicks on tiles, a figure that reports the pointer's events."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from vidbench.view.clips import said
from vidbench.view.galleries import Tile, attributes, clip_html, fitted, uri
from vidbench.view.looks import CONFIG, FAINT, FONT, Html, escaped
from vidbench.view.viewer import SCRIPT
from vidbench.view.widgets.videos import SIDE

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from ipywidgets import HTML, Box
    from plotly.graph_objects import Figure, FigureWidget

# The tiles are HTML, which ipywidgets draws without a module to load. This module only listens, on
# the whole page: it needs no answer of the kernel, so it may load late (anywidget drops what the
# kernel sends if loading takes over two seconds), and tiles may come, go and be redrawn meanwhile.
CLICKS = (
    f"{SCRIPT}\n"
    + """
export default { initialize({ model }) {
  const key = model.get("key"), place = `.${key}`, tiles = `${place} [data-clip]`, all = [];
  const style = document.createElement("style");
  style.textContent = `${place} .vidbench-late { display: none; } ${place} [data-pick] { cursor: pointer; }`;
  document.head.append(style);
  const listen = (event, act) => { document.addEventListener(event, act); all.push([event, act]); };
  const tile = event => event.target.closest?.(tiles);
  const near = one => [...one.closest(".vidbench-tiles, " + place).querySelectorAll("[data-clip]")];
  const keep = (one, number) => {  // the focus, when the tiles are drawn again
    const around = one.closest(".vidbench-tiles");
    if (!around) return;
    const watch = new MutationObserver(() => {
      const tiles = around.querySelectorAll("[data-clip]");
      if (!one.isConnected && tiles.length) { watch.disconnect(); tiles[Math.min(number, tiles.length - 1)].focus(); }
    });
    watch.observe(around, { childList: true, subtree: true });
  };
  listen("vidbench-view", ({ detail }) => {
    if (model.get("views") && detail.tile.closest(place)) detail.ask = view => model.send({ view });
  });
  listen("click", event => {  // on a tile that cannot be picked, the viewer takes it
    const one = tile(event);
    if (one) model.send({ pick: one.dataset.pick });
  });
  listen("keydown", event => {
    const one = tile(event);
    if (!one || event.ctrlKey || event.altKey || event.metaKey) return;
    const others = near(one), at = others.indexOf(one);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (["Enter", " ", "n"].includes(event.key)) {
      keep(one, at);
      model.send(event.key === "n" ? { next: true } : { pick: one.dataset.pick });
    } else if (step) {
      others[at + step]?.focus();
    } else return;
    event.preventDefault();
  });
  return () => { style.remove(); all.forEach(one => document.removeEventListener(...one)); };
} };
"""
)
# In a page where nothing listens after 20 seconds, the tiles are a static view, and this says so.
LATE = """<style>
@keyframes vidbench-late { to { max-height: 6em; visibility: visible; } }
.vidbench-late { max-height: 0; overflow: hidden; visibility: hidden; animation: vidbench-late 0s 20s forwards; }
</style><div class="vidbench-late">%s</div>"""
STATIC = (
    "The page has not answered yet, so a click on a clip does nothing: this is a static view. If "
    "it stays so, reload the page and run the cell again."
)

# anywidget gives a module two seconds to load; a widget that takes longer gets no update any more.
# A slow machine needs more than that for plotly's 5 MB, so this small module answers at once and
# loads plotly afterwards, once a page. Updates that come in between wait until plotly is there. On a
# busy page even this module may come late: it then takes the kernel's messages itself, and requests
# those that were lost.
LATER = """
const direct = model => {
  let whole;
  const hear = found => { whole = found; };  // anywidget gives only a part of the model
  model.on("change:_whole", hear);
  model.set("_whole", {});
  model.off("change:_whole", hear);
  const handle = Object.getPrototypeOf(Object.getPrototypeOf(whole))?._handle_comm_msg;
  if (handle) whole.comm?.on_msg?.(message => handle.call(whole, message));
};
const libraries = (globalThis.vidbenchLibraries ??= new Map());
const load = async model => {  // the text is in a widget that all figures of a kernel share
  const key = model.get("_library");
  if (!libraries.has(key)) {
    libraries.set(key, model.widget_manager.get_model(key).then(held => {
      const url = URL.createObjectURL(new Blob([held.get("value")], { type: "text/javascript" }));
      return import(url).finally(() => URL.revokeObjectURL(url));
    }));
  }
  return libraries.get(key);
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
    direct(model);
    model.send({ event: "opened" });
    await new Promise(done => setTimeout(done));  // the small modules of a cell go first
    const made = (await load(model)).default();
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

# what sets values in the page
UPDATES = [f"_py2js_{name}" for name in ("restyle", "relayout", "update")]

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


class Clicks:
    """Clicks on tiles of HTML in a box, and the keys Enter, Space and arrows.

    A tile is what has the attribute `data-pick`, see `galleries.attributes`.

    Args:
        box: Holds the HTML; it gets a class by which the page finds its tiles.
        picked: Is given the `data-pick` of a tile.
        whole: Is given the path of a tile's `Source`, and returns the clips that the viewer shows.
            Without it, the viewer shows the tile's own clip.
        next: Is called on the key n.
    """

    def __init__(
        self,
        box: Box,
        picked: Callable[[str], None] | None = None,
        whole: Callable[[str], Sequence[Tile]] | None = None,
        next: Callable[[], None] | None = None,
    ):
        import ipywidgets

        self.key = f"vidbench-{uuid.uuid4().hex[:12]}"
        self.picked, self.whole, self.next = picked, whole, next
        box.add_class(self.key)
        self.late = ipywidgets.HTML(LATE % said(STATIC))
        # goes into the box as well; it is HTML because a module that came late would get no answer
        self.answer = ipywidgets.HTML(layout={"display": "none"})

    @cached_property
    def widget(self) -> AnyWidget:
        """What listens in the page. It goes there when it is first looked at: after the tiles."""
        made = _clicks()(key=self.key, views=self.whole is not None)
        made.on_msg(lambda _, message, __: self._heard(message))
        return made

    def _heard(self, message: Mapping[str, Any]) -> None:
        if "next" in message and self.next:
            self.next()
        elif "pick" in message and self.picked:
            self.picked(message["pick"])
        elif (
            "view" in message and self.whole
        ):  # an empty path: the viewer has closed, and megabytes leave the page
            self.answer.value = answered(message["view"], self.whole) if message["view"] else ""


def answered(path: str, whole: Callable[[str], Sequence[Tile]]) -> str:
    """Return the viewer's clips of a video as hidden HTML, which viewer.js waits for.

    Args:
        path: The video, as its tile's source names it.
        whole: Makes the viewer's tiles from that path.
    """
    try:
        tiles, words = whole(path), ""
    except Exception as error:  # one video that cannot be read must not end the controls
        tiles, words = [], f"The whole video cannot be shown: {error}"
    if tiles and len(tiles[0].source.frames) < tiles[0].source.of:
        words = f"{len(tiles[0].source.frames)} of {tiles[0].source.of} frames, evenly spread."
    pictures = "".join(
        f'<img alt="" src="{uri(tile.clip)}" data-facts="{tile.source.facts}">' for tile in tiles
    )
    return f'<div hidden data-whole="{escaped(path)}" data-said="{escaped(words)}">{pictures}</div>'


@cache
def _clicks() -> type[AnyWidget]:
    import anywidget
    import traitlets

    class Listener(anywidget.AnyWidget):
        _esm = CLICKS
        key = traitlets.Unicode().tag(sync=True)
        views = traitlets.Bool().tag(sync=True)

    return Listener


def whole(figure: Figure) -> FigureWidget:
    """Make a FigureWidget that a slow machine shows, too.

    It opens with its data in it. Its module loads plotly later, outside anywidget's time limit for
    modules (see `LATER`)."""
    made = _whole()(figure)
    made._config = {**made._config, **CONFIG}
    made.open()
    return made


@cache
def library() -> HTML:
    """Make the widget that holds plotly's module, 5 MB, for all figures of this kernel.

    It is never displayed. It is HTML because a module that came late would get no answer."""
    import ipywidgets
    from plotly.graph_objects import FigureWidget

    return ipywidgets.HTML(str(FigureWidget._esm))


@cache
def _whole() -> type[FigureWidget]:
    import traitlets
    from plotly.graph_objects import FigureWidget

    class Whole(FigureWidget):
        _esm = LATER
        _library = traitlets.Unicode().tag(sync=True)

        @traitlets.default("_library")
        def _held(self) -> str:
            return library().model_id

        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            self._sent: list[tuple[str, dict]] = []  # before the page has opened the widget
            self.observe(self._keep, UPDATES)
            self.on_msg(self._opened)

        def _keep(self, change: Any) -> None:
            if change["new"] is not None:
                self._sent.append((change["name"], change["new"]))

        def _opened(self, _: Any, message: Any, __: Any) -> None:
            """Send the updates once more: they set values, so that twice is as good as once."""
            if not isinstance(message, dict) or message.get("event") != "opened":
                return
            self.unobserve(self._keep, UPDATES)
            for name, update in self._sent:
                setattr(self, name, update)
                setattr(self, name, None)
            self._sent = []

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
    """Put a FigureWidget into a box that reports what the pointer does in it.

    Args:
        clicked: Called with a dict of `trace` and `point` (their numbers; for a heatmap's cell,
            row and column), and `x` and `y` as they are drawn.
        lassoed: Called with a dict: number of a trace -> numbers of its points in the lasso. It is
            empty after the lasso was removed.
    """
    import ipywidgets

    ears = _ears()()

    def heard(_, message: dict, __) -> None:
        if message["event"] == "click":
            clicked(message)
        elif lassoed:
            lassoed({int(trace): points for trace, points in message["points"].items()})

    ears.on_msg(heard)
    box = ipywidgets.VBox([figure, ears])  # the figure is as wide as the box
    box.add_class("vidbench-plot")
    return box


@cache
def _ears():
    import anywidget

    class Ears(anywidget.AnyWidget):
        _esm = SCRIPT + EARS

    return Ears


def video_grid(tiles: Sequence[Tile], heading: str) -> Html:
    """Return clips side by side in rows, under a heading.

    Args:
        heading: Text above them.
    """
    return Html(
        f'<div style="font-family:{FONT}"><div style="font-size:13px;margin:0 0 '
        f'4px">{escaped(heading)}</div><div style="display:flex;flex-wrap:wrap;gap:8px">'
        f"{''.join(map(_video, tiles))}</div></div>"
    )


def _video(tile: Tile) -> str:
    """A clip of a grid, its class and its name under it."""
    cut = f"width:{SIDE}px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    title = "video " + ", ".join(filter(None, (tile.label, tile.caption)))
    return (
        f'<div title="{escaped(title)}" style="width:{SIDE}px"{attributes(tile)}>'
        f"{clip_html(tile.clip, tile.label, SIDE)}<div "
        f'style="font-size:12px;{cut}">{escaped(tile.label)}</div>'
        f'<div style="font-size:11px;color:{FAINT};{cut}">{escaped(fitted(tile.caption, SIDE))}'
        "</div></div>"
    )
