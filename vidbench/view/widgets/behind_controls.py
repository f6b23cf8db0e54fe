"""Controls over the clips behind numbers: clicks in the figure, a list of cells, pages."""

from __future__ import annotations

from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from vidbench.view.looks import FAINT, FONT, Html, escaped
from vidbench.view.widgets.behind import PAGE, Behind
from vidbench.view.widgets.pieces import Clicks
from vidbench.view.widgets.videos import whole_of

if TYPE_CHECKING:
    from anywidget import AnyWidget

LISTED = 300  # cells that the list names; a click reaches the others, too

# The figure is a plain one, which a saved notebook shows without a kernel. This module looks for it
# in the page and listens to its clicks. JupyterLab may draw it late or once more, so it keeps
# looking. It listens to the buttons of a table, too.
EARS = """
export default { initialize({ model }) {
  const key = model.get("key"), buttons = `.${key} [data-pick]`, all = [];
  const style = document.createElement("style");
  style.textContent = `${buttons} { cursor: pointer; }
    ${buttons}:focus-visible { outline: 3px solid var(--jp-brand-color1, #0072B2); outline-offset: 1px; }`;
  document.head.append(style);
  const point = one => Array.isArray(one.pointNumber) ? one.pointNumber : [one.pointNumber ?? one.pointIndex];
  // where lines share an x, plotly names a point of each: the one nearest to the pointer is meant
  const away = (one, event) => {
    const frame = event.target.closest?.(".js-plotly-plot, .jp-RenderedPlotly")?.getBoundingClientRect();
    return frame && one.yaxis?.d2p ? Math.abs(one.yaxis.d2p(one.y) + one.yaxis._offset - event.clientY + frame.top) : 0;
  };
  const heard = ({ points, event }) => {
    const lines = points.every(one => one.data?.type?.startsWith("scatter"));
    const [one] = lines ? [...points].sort((a, b) => away(a, event) - away(b, event)) : points;
    model.send({ place: [one.curveNumber, ...point(one)] });
  };
  const look = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot, .jp-RenderedPlotly")) {
      if (plot.layout?.meta?.vidbench !== key || plot._ev?.listeners("plotly_click").includes(heard)) continue;
      plot.on("plotly_click", heard);
      plot.classList.add("vidbench-heard");
    }
  };
  look();
  const again = setInterval(look, 300);
  const listen = (event, act) => { document.addEventListener(event, act); all.push([event, act]); };
  listen("click", event => {
    const one = event.target.closest?.(buttons);
    if (one) model.send({ pick: one.dataset.pick });
  });
  listen("keydown", event => {
    const one = event.target.closest?.(buttons);
    if (!one || event.ctrlKey || event.altKey || event.metaKey) return;
    const others = [...document.querySelectorAll(buttons)];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") model.send({ pick: one.dataset.pick });
    else if (step) others[others.indexOf(one) + step]?.focus();
    else return;
    event.preventDefault();
  });
  return () => { clearInterval(again); style.remove(); all.forEach(one => document.removeEventListener(...one)); };
} };
"""


class BehindControls:
    """Controls over a `Behind`: a list of its cells, clicks, pages of clips."""

    def __init__(self, behind: Behind):
        import ipywidgets

        self.behind, self.name, self.page = behind, next(iter(behind.cells)), 0
        self.choice = ipywidgets.Dropdown(
            options=self._options(),
            description="clips of",
            layout={"width": "560px", "max_width": "100%"},
        )
        self.before = ipywidgets.Button(description="earlier", layout={"width": "80px"})
        self.after = ipywidgets.Button(description="more", layout={"width": "80px"})
        self.where, self.table = ipywidgets.HTML(), ipywidgets.HTML(behind.table(picks=True))
        self.table.add_class(behind.key)
        self.tiles = ipywidgets.HTML()
        self.tiles.add_class("vidbench-behind")
        head = ipywidgets.HBox([self.choice, self.before, self.after, self.where])
        head.layout.flex_flow = "row wrap"
        self.box = ipywidgets.VBox([self.table, self._hint(), head, self.tiles])
        self.clicks = Clicks(self.box, whole=partial(whole_of, {"": behind.videos}))
        self.choice.observe(self._chosen, "value")
        self.before.on_click(lambda _: self.turn(-1))
        self.after.on_click(lambda _: self.turn(1))
        self._play()

    @cached_property
    def ears(self) -> AnyWidget:
        """What listens to the figure and to the buttons of the table."""
        made = _ears()(key=self.behind.key)
        made.on_msg(lambda _, message, __: self._heard(message))
        return made

    def _ipython_display_(self) -> None:
        """Show the figure as a plain one, then the controls."""
        from IPython.display import display

        if self.behind.figure is not None:
            display(self.behind.figure)
        display(self.open())

    def open(self) -> Any:
        """Return the box of controls, which listens to clicks from then on."""
        ears = [self.ears, self.clicks.widget, self.clicks.late, self.clicks.answer]
        self.box.children = [*self.box.children[:4], *ears]
        return self.box

    def select(self, name: str) -> None:
        """Show the clips of a cell.

        Args:
            name: Of the cell. Any other name is passed over: a page may send one that is gone.
        """
        if name not in self.behind.cells or name == self.name:
            return
        self.name, self.page = name, 0
        self.choice.unobserve(self._chosen, "value")  # other options choose the first of them
        if name not in [value for _, value in self.choice.options]:
            self.choice.options = self._options()
        self.choice.value = name
        self.choice.observe(self._chosen, "value")
        self._play()

    def turn(self, by: int) -> None:
        """Show a later or earlier page of clips."""
        self.page = min(max(self.page + by, 0), self.behind.pages(self.name) - 1)
        self._play()

    def _chosen(self, change: Any) -> None:
        self.select(change["new"])

    def _heard(self, message: dict) -> None:
        """Take a click in the figure, or on a button of the table."""
        place = tuple(message.get("place", ()))
        self.select(message.get("pick", "") or self.behind.places.get(place, ""))

    def _options(self) -> list[tuple[str, str]]:
        """The first cells and the chosen one, in words."""
        listed = dict.fromkeys([*list(self.behind.cells)[:LISTED], self.name])
        return [(self.behind.cells[name].words, name) for name in listed]

    def _hint(self) -> Any:
        import ipywidgets

        look = f"font:13px/1.4 {FONT};color:{FAINT}"
        return ipywidgets.HTML(f'<div style="{look}">{escaped(self.behind.hint)}</div>')

    def _play(self) -> None:
        """Draw the clips, and where they are among the cell's."""
        count, last = len(self.behind.cells[self.name].rows), self.behind.pages(self.name) - 1
        first = self.page * PAGE
        self.where.value = Html(
            f'<span style="font-family:{FONT};color:{FAINT}">{min(first + 1, count)} to '
            f"{min(first + PAGE, count)} of {count}</span>"
        )
        self.before.disabled, self.after.disabled = self.page == 0, self.page >= last
        try:
            self.tiles.value = self.behind.clips(self.name, self.page)
        except Exception as error:  # a callback's error goes to a log that few see
            self.tiles.value = f"<b>no clips: {escaped(error)}</b>"
            raise


@cache
def _ears() -> type[AnyWidget]:
    import anywidget
    import traitlets

    class Ears(anywidget.AnyWidget):
        _esm = EARS
        key = traitlets.Unicode().tag(sync=True)

    return Ears


def show(behind: Behind) -> BehindControls:
    """Put controls on the clips behind numbers, for a notebook with a kernel."""
    return BehindControls(behind)
