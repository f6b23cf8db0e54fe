"""A board of runs while they train: curves, progress and what became of them, read from their logs
on disk.

`Board` is plain Python and only reads, so any notebook may open it during a batch run. `show`
redraws it at intervals."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vidbench.data.video import windows
from vidbench.engine.runs import Run, RunError
from vidbench.system.files import is_locked
from vidbench.view.figures import curves
from vidbench.view.galleries import data_uri
from vidbench.view.looks import BAD, FAINT, FONT, GOOD, LINE, Html, colors_for, escaped, swatch
from vidbench.view.widgets.chart import TALL, WIDE, chart

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Folders = str | Path | Iterable[str | Path] | Mapping[str, str | Path]
LOGS = {"metrics": "training", "monitor": "watched"}
TITLES = {"knn": "R@1"}  # of columns of a log that have another name in words
BOOKS = ("step", "epoch", "seconds", "clips", "data_share")  # of a log line, what is no curve
POINTS = 400  # of a line at most: more than a chart has pixels is not seen
OVER = ("complete", "interrupted", "failed", "died")  # an unreadable one may be whole again
SIGNS = {
    "complete": ("✓", GOOD),
    "failed": ("✗", BAD),
    "died": ("✗", BAD),
    "unreadable": ("✗", BAD),
}


@dataclass(frozen=True)
class RunState:
    """A run as it was found.

    state: that of status.json, or "waiting" (no run folder yet), "died" (it says running and no process
    holds its lock) or "unreadable"; said: why, in words; epochs: of the recipe, 0 where it names
    none; logs: name -> its columns."""

    name: str
    state: str
    said: str = ""
    epochs: int = 0
    logs: Mapping[str, Mapping[str, list]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Nothing more comes of itself."""
        return self.state in OVER

    def last(self, column: str) -> float | None:
        """The last value of a training column, None where there is none."""
        return next(
            (
                value
                for value in reversed(self.logs.get("metrics", {}).get(column, []))
                if value is not None
            ),
            None,
        )

    def left(self) -> float | None:
        """Seconds until the last epoch at the pace so far; None if it is unknown."""
        epoch, seconds = self.last("epoch"), self.last("seconds")
        return (
            None if not (epoch and seconds and self.epochs) else seconds * (self.epochs / epoch - 1)
        )


class Board:
    """One or several run folders, read again at each look; a folder may come later.

    folders: paths, or name -> path; a path's last part is its name. A folder of run folders means
    all in it, those that come later, too. Raises ValueError on no folders or one name twice."""

    def __init__(self, folders: Folders):
        folders = [folders] if isinstance(folders, str | Path) else folders
        named = (
            dict(folders)
            if isinstance(folders, Mapping)
            else [(Path(path).name, path) for path in folders]
        )
        if not named or len(dict(named)) < len(named):
            raise ValueError(
                f"Board: wanted run folders, each with a name of its own; got {named or 'none'}; "
                "pass {name: folder} where two folders are called the same"
            )
        self.folders = {name: Path(path) for name, path in dict(named).items()}
        self._read: dict[Path, tuple] = {}

    # ---- as data

    def look(self) -> list[RunState]:
        """What is found in the folders now."""
        return [self._seen(name, folder) for name, folder in self._runs().items()]

    def _runs(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for name, folder in self.folders.items():
            within = (
                []
                if _is_run(folder)
                else sorted(path for path in folder.glob("*") if _is_run(path))
            )
            prefix = f"{name}/" if len(self.folders) > 1 else ""
            found |= {f"{prefix}{path.name}": path for path in within} or {name: folder}
        return found

    def _seen(self, name: str, folder: Path) -> RunState:
        if not _is_run(folder):
            return RunState(name, "waiting", f"no run in {folder} yet")
        file = "recipe.json"
        try:  # a damaged file may raise anything; it is named, and the other runs are shown
            run = Run(folder)
            epochs = run.epochs
            file = "status.json"
            state, said = _status(run)
            logs = {}
            for log in LOGS:
                file = f"{log}.jsonl"
                logs[log] = self._columns(run, log)
        except RunError as error:
            return RunState(name, "unreadable", str(error))
        except Exception as error:
            why = f"{folder / file} is damaged ({type(error).__name__}: {error})"
            return RunState(name, "unreadable", f"{why}; restore it or train in another folder")
        return RunState(name, state, said, epochs, logs)

    def _columns(self, run: Run, log: str) -> dict[str, list]:
        """A log's columns, read again where the file changed. A line half written counts once it is
        whole."""
        path = run.folder / f"{log}.jsonl"
        if not path.exists():
            return {}
        stamp = (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino)
        if self._read.get(path, (None,))[0] != stamp:
            self._read[path] = stamp, _numbers(path, run.curves(log))
        return self._read[path][1]

    def series(
        self, states: Sequence[RunState], column: str, log: str = "metrics"
    ) -> dict[str, tuple[list, list]]:
        """name of a run -> (epochs, values) of one column, at most 400 points each; a value that is
        missing is NaN."""
        lines = {}
        for one in states:
            columns = one.logs.get(log, {})
            if any(value is not None for value in columns.get(column, [])):
                at = _thinned(len(columns[column]))
                lines[one.name] = (
                    [columns["epoch"][i] for i in at],
                    [math.nan if columns[column][i] is None else columns[column][i] for i in at],
                )
        return lines

    def drawn(self, states: Sequence[RunState]) -> list[tuple[str, str]]:
        """The (log, column) pairs there is something to draw of, training first."""
        there: dict[tuple[str, str], None] = {}
        for log in LOGS:
            for one in states:
                for column, values in one.logs.get(log, {}).items():
                    number = any(isinstance(value, int | float) for value in values)
                    if number and column not in BOOKS:
                        there[log, column] = None
        return sorted(there, key=lambda pair: list(LOGS).index(pair[0]))

    # ---- as pictures and HTML

    def figure(self, column: str = "loss") -> Figure:
        """One column of all runs as a plotly figure, for when they are done. Raises ValueError
        where none has it."""
        states = self.look()
        lines = self.series(states, column, "metrics")
        if not lines:
            raise ValueError(
                f"figure: no run of {list(self.folders)} has {column!r} in metrics.jsonl yet; "
                f"there is {self.drawn(states)}"
            )
        title = TITLES.get(column, column)
        return curves(lines, "epoch", title, f"{title} ({LOGS['metrics']})")

    def html(self, states: Sequence[RunState] | None = None) -> Html:
        """A line for each run and a small chart for each column, as pictures that need no script
        and no kernel."""
        states = self.look() if states is None else states
        colors, charts = colors_for([one.name for one in states]), []
        for log, column in self.drawn(states):
            lines = self.series(states, column, log)
            words = ", ".join(f"{name} {ys[-1]:.4g}" for name, (_, ys) in lines.items())
            title = TITLES.get(column, column)
            picture = data_uri(chart(lines, colors).encode(), "image/svg+xml")
            charts.append(
                '<div style="margin:0 0 6px"><div '
                f'style="font-size:13px;font-weight:600">{escaped(title)} <span '
                f'style="color:{FAINT};font-weight:400">{LOGS[log]}</span></div><img '
                f'src="{picture}" width="{WIDE}" '
                f'height="{TALL}" alt="{escaped(f"{title}, {LOGS[log]}: {words}")}" '
                'style="display:block"></div>'
            )
        rows = "".join(_row(one, colors[one.name]) for one in states)
        return Html(
            f'<div style="font-family:{FONT};line-height:1.4">{rows}<div '
            'style="display:flex;'
            f'flex-wrap:wrap;gap:16px;margin:10px 0 0">{"".join(charts)}</div></div>'
        )


def _status(run: Run) -> tuple[str, str]:
    """The state of a run, and why it is so, in words."""
    try:
        status = json.loads((run.folder / "status.json").read_text())
    except FileNotFoundError:  # a moment old
        return "new", ""
    state, said = str(status["state"]), str(status.get("error", ""))
    if state != "running" or held(run.folder):
        return state, said
    again = run.state  # it may have ended between the two looks
    if again != "running":
        return again, ""
    return (
        "died",
        "its status says running, but no process holds its lock; the same call resumes it",
    )


def _numbers(path: Path, columns: dict[str, list]) -> dict[str, list]:
    """A log's columns of numbers. Raises RunError on a column with numbers and something else, and
    on a line without its epoch."""
    kept = {}
    for name, values in columns.items():
        odd = [one for one in values if one is not None and not _is_number(one)]
        if odd and (name in BOOKS or len(odd) < len(values)):
            raise RunError(f"{path}: {name!r} must be a number in each line; got {odd[0]!r}")
        if not odd:
            kept[name] = values
    if columns and None in kept.get("epoch", [None]):
        raise RunError(f"{path}: each line must have its epoch; was the log edited?")
    return kept


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.json").is_file()


def held(folder: str | Path) -> bool:
    """Whether a process trains into a run folder: it holds the folder's lock until it ends."""
    return is_locked(Path(folder) / ".lock")


def _thinned(count: int) -> list[int]:
    """At most POINTS of so many places, the first and the last among them."""
    return windows.spread(count, POINTS).tolist()


def _row(one: RunState, look: tuple[str, str]) -> str:
    """A run's line: its color, state, progress, pace."""
    sign, color = SIGNS.get(one.state, ("", "inherit"))
    epoch, facts = one.last("epoch"), []
    if epoch is not None:
        facts.append(f"epoch {epoch:.4g}" + f" of {one.epochs}" * bool(one.epochs))
    clips, seconds, left = one.last("clips"), one.last("seconds"), one.left()
    if clips and seconds:
        facts.append(f"{clips / seconds:.3g} clips/s")
    if one.state == "running" and left is not None:
        facts.append(f"{_time(left)} left")
    facts += filter(None, [one.said])
    share = min(1.0, epoch / one.epochs) if epoch and one.epochs else 0.0
    bar = (
        f'<div style="width:120px;height:6px;background-color:{LINE}"><div '
        f'style="width:{round(120 * share)}px;'
        f'height:6px;background-color:{look[0]}"></div></div>'
    )
    cut = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    line = f"display:flex;gap:12px;align-items:center;font-size:13px;padding:4px 0;border-bottom:1px solid {LINE}"
    return (
        f'<div style="{line}"><b style="width:190px;{cut}" title="{escaped(one.name)}">'
        f'{swatch(look)}{escaped(one.name)}</b>{bar}<b style="width:90px;{cut};color:{color}">{sign} '
        f"{escaped(one.state)}</b>"
        f'<span style="flex:1;color:{FAINT}">{escaped(" · ".join(facts))}</span></div>'
    )


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{round(seconds)} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )


# --------------------------------------------------------------------------------------- controls


def show(folders: Board | Folders) -> BoardControls:
    """Show a board that a thread draws again every two seconds.

    It ends when all runs are over or `stop()` is called. The kernel stays free.

    Args: folders: those of a `Board`, or a Board.
    """
    return BoardControls(folders if isinstance(folders, Board) else Board(folders))


class BoardControls:
    """A `Board` in a notebook: its HTML, redrawn by a thread, and a button that stops and starts
    it."""

    def __init__(self, board: Board, every: float = 2.0):
        import ipywidgets

        if not every > 0:
            raise ValueError(f"BoardControls: wanted every > 0 seconds, got {every}")
        self.board, self.every = board, every
        self.html = ipywidgets.HTML()
        self.watching = ipywidgets.ToggleButton(
            description="watching", icon="eye", layout={"width": "110px"}
        )
        self.when = ipywidgets.HTML()
        self.box = ipywidgets.VBox([ipywidgets.HBox([self.watching, self.when]), self.html])
        self._ended = threading.Event()
        self.thread: threading.Thread | None = None
        self.watching.observe(self._toggled, "value")
        self.watching.value = not self.draw()

    def _repr_mimebundle_(self, **kwargs):
        return self.box._repr_mimebundle_(**kwargs)

    def draw(self) -> bool:
        """Draw once; whether all runs are over."""
        try:
            states = self.board.look()
            html, over = self.board.html(states), all(one.over for one in states)
        except (
            Exception
        ) as error:  # a thread's error goes to a log that few see; the next look may find all well
            html, over = Html(f"<b>cannot be read: {escaped(error)}</b>"), False
        if html != self.html.value:
            self.html.value = html
        self.when.value = (
            f'<span style="font-family:{FONT};color:{FAINT}">{time.strftime("%H:%M:%S")}</span>'
        )
        return over

    def stop(self) -> None:
        """Draw no more; the thread has ended when this returns."""
        self.watching.value = False

    def _toggled(self, change) -> None:
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
