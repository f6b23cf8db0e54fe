"""The board of runs in a notebook: charts that follow the logs on disk, and what a person can set.

A thread looks at the folders again every two seconds and sends only the lines that changed. The kernel
stays free, and the board only reads, so any notebook may open it during a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidbench.evaluate.board import Board, Curve, Folders, RunState, charted, curves
from vidbench.view.board import (
    DEFAULT,
    SCALES,
    X_WORDS,
    Look,
    axis_layout,
    figure,
    hover,
    time_unit,
    values,
)
from vidbench.view.looks import FAINT, FONT, colors_for, escaped
from vidbench.view.runs import count, row, rows
from vidbench.view.widgets.behind import Still
from vidbench.view.widgets.pieces import whole

if TYPE_CHECKING:
    from ipywidgets import HTML, Checkbox, Dropdown

ALL_NONE = ("all", "none")  # of the runs are drawn


def still(board: Board) -> Still:
    """Draw a board once: charts with buttons that need no kernel, and a line for each run."""
    states = board.look()
    return Still(figure(states), rows(states))


def show(folders: Board | Folders) -> BoardControls:
    """Show a board that a thread draws again every two seconds.

    It ends when all runs are over or `stop()` is called. The kernel stays free.

    Args:
        folders: Those of a `Board`, or a Board.
    """
    return BoardControls(folders if isinstance(folders, Board) else Board(folders))


class BoardControls:
    """A `Board` in a notebook: a switch for each run, charts, a button that pauses updates.

    Args:
        every: Seconds between two looks.

    Raises:
        ValueError: `every` is not positive.
    """

    def __init__(self, board: Board, every: float = 2.0):
        if not every > 0:
            raise ValueError(f"BoardControls: every must be above 0 seconds; got {every}")
        self.board, self.every = board, every
        self.switches: dict[str, Checkbox] = {}
        self._rows: dict[str, HTML] = {}
        self._names: list[str] = []  # of the rows
        self._lines: list[Curve] = []  # as they are drawn
        self._states: list[RunState] = []
        self._plot: Any = None
        self._busy = threading.RLock()  # the thread and the controls draw into one figure
        self._ended = threading.Event()
        self.thread: threading.Thread | None = None
        self._make_controls()
        self.watching.value = not self.draw()

    def _make_controls(self) -> None:
        import ipywidgets as made

        def chosen(description: str, options: Sequence[Any], wide: int, words: int) -> Dropdown:
            return made.Dropdown(
                options=options,
                description=description,
                style={"description_width": f"{words}px"},
                layout={"width": f"{wide}px"},
            )

        self.smoothing = made.FloatSlider(
            max=0.99,
            step=0.01,
            description="smoothing",
            continuous_update=False,
            style={"description_width": "72px"},
            layout={"width": "300px"},
        )
        self.axis = chosen("x", [(word, axis) for axis, word in X_WORDS.items()], 104, 14)
        self.axis.value = DEFAULT.axis
        self.scale = chosen("axes", list(SCALES), 170, 36)
        all_runs, no_run = (made.Button(description=w, layout={"width": "56px"}) for w in ALL_NONE)
        self.watching = made.ToggleButton(
            description="watching", icon="eye", layout={"width": "100px"}
        )
        self.when, self.counts = made.HTML(), made.HTML()
        self.runs, self.charts = made.VBox(), made.VBox()
        above = made.HBox([self.watching, all_runs, no_run, self.when])
        below = made.HBox([self.axis, self.scale, self.smoothing])
        self.box = made.VBox([above, self.runs, self.counts, below, self.charts])
        for control in (self.smoothing, self.axis, self.scale):
            control.observe(self._changed, "value")
        all_runs.on_click(lambda _: self._switch_all(True))
        no_run.on_click(lambda _: self._switch_all(False))
        self.watching.observe(self._toggled, "value")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.box._repr_mimebundle_(**kwargs)

    @property
    def look(self) -> Look:
        """What the controls say of how curves are drawn."""
        return Look(self.axis.value, self.smoothing.value, self.scale.value)

    # ---- drawing

    def draw(self) -> bool:
        """Look at the folders and draw what changed; whether all runs are over."""
        with self._busy:
            try:
                began = time.perf_counter()
                self._states = self.board.look()
                read = time.perf_counter() - began
                self._draw_rows()
                self._draw_charts()
                drawn = time.perf_counter() - began - read
            except Exception as error:  # a thread's error goes to a log that few see; the next look
                self.counts.value = f"<b>cannot be read: {escaped(error)}</b>"  # may find all well
                return False
            words = f"{time.strftime('%H:%M:%S')} · read in {read:.2f} s, drawn in {drawn:.2f} s"
            self.when.value = f'<span style="font-family:{FONT};color:{FAINT}">{words}</span>'
            return all(one.over for one in self._states)

    def _draw_rows(self) -> None:
        import ipywidgets

        looks = colors_for([one.name for one in self._states])
        for one in self._states:
            if one.name not in self._rows:
                self._rows[one.name] = ipywidgets.HTML(layout={"flex": "1 1 auto", "margin": "0"})
                self.switches[one.name] = ipywidgets.Checkbox(
                    True, indent=False, tooltip=f"draw {one.name}", layout={"width": "22px"}
                )
                self.switches[one.name].observe(self._switched, "value")
            _set(self._rows[one.name], row(one, looks[one.name]))
        _set(self.counts, count(self._states))
        names = [one.name for one in self._states]
        if names != self._names:
            self._names = names
            self.runs.children = [
                ipywidgets.HBox(
                    [self.switches[name], self._rows[name]], layout={"align_items": "center"}
                )
                for name in names
            ]

    def _draw_charts(self) -> None:
        lines, before = curves(self._states), self._lines
        same = _shape(lines) == _shape(before) and time_unit(lines) == time_unit(before)
        self._lines = lines
        if same and self._plot is not None:
            changed = [
                number
                for number, (new, old) in enumerate(zip(lines, before, strict=True))
                if new.whole is not old.whole
            ]
            if changed:
                self._send(changed)
            return
        drawn = figure(self._states, self.look, controls=False)
        self._plot = None if drawn is None else whole(drawn)
        self._show_switched()
        self.charts.children = [self._plot] if self._plot is not None else []

    def _send(self, changed: Sequence[int]) -> None:
        """Send the points of some lines to the figure in the page."""
        unit = time_unit(self._lines)
        with self._plot.batch_update():
            for number in changed:
                x, raw, smooth = values(self._lines[number], self.look, unit)
                faint, main = self._plot.data[2 * number : 2 * number + 2]
                faint.update(x=x, y=raw)
                main.update(x=x, y=smooth, customdata=raw, hovertemplate=hover(self.look.smoothing))

    # ---- what a person sets

    def _changed(self, _: Any) -> None:
        with self._busy:
            if self._plot is None:
                return
            unit, charts = time_unit(self._lines), charted(self._states)
            named = axis_layout(charts, self.look, unit, self._lines)
            self._send(range(len(self._lines)))
            auto = {key.replace("_type", "_autorange"): True for key in named if "_type" in key}
            self._plot.update_layout(named | auto)

    def _switched(self, _: Any) -> None:
        with self._busy:
            self._show_switched()

    def _show_switched(self) -> None:
        if self._plot is None:
            return
        with self._plot.batch_update():
            for number, line in enumerate(self._lines):
                for trace in self._plot.data[2 * number : 2 * number + 2]:
                    trace.visible = self.switches[line.run].value

    def _switch_all(self, on: bool) -> None:
        for switch in self.switches.values():
            switch.value = on

    def stop(self) -> None:
        """Draw no more; the thread has ended when this returns."""
        self.watching.value = False

    def _toggled(self, change: Any) -> None:
        if change["new"] and (self.thread is None or not self.thread.is_alive()):
            self._ended = threading.Event()
            self.thread = threading.Thread(target=self._watch, args=(self._ended,), daemon=True)
            self.thread.start()
        elif not change["new"]:
            self._ended.set()
            if self.thread is not None and self.thread is not threading.current_thread():
                self.thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(self.every):
            if self.draw():
                self.watching.value = False
                return


def _set(widget: HTML, html: str) -> None:
    """Set what an HTML widget shows; the same again is not sent."""
    if widget.value != html:
        widget.value = str(html)


def _shape(lines: Sequence[Curve]) -> list[tuple[str, str, str]]:
    return [(line.run, line.log, line.column) for line in lines]
