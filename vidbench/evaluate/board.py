"""What a board of runs shows, as data: states, curves, and what differs in the recipes.

A `Board` only reads, so any notebook may open it while a batch trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vidbench.data.video import windows
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.logs import BOOKS, Columns, Log, smoothed
from vidbench.evaluate.results import Folder, look_at, name_below, run_folders, state_of

Folders: TypeAlias = "str | Path | Iterable[str | Path] | Mapping[str, str | Path]"
LOGS = {"metrics": "training", "monitor": "held out"}  # a run's logs, and what they measure on
TITLES = {"knn": "R@1"}  # of columns of a log that have another name in words
AXES = ("step", "epoch", "seconds")  # what a curve can be drawn over
POINTS, ALL_POINTS = 400, 40_000  # of a curve, and of a board: a chart has few hundred pixels
OVER = ("complete", "interrupted", "failed", "died")  # an unreadable one may be whole again


@dataclass(frozen=True)
class RunState:
    """A run as it was found.

    state: that of status.json, or "waiting" (no run folder yet), "died" (it says running and no process
    holds its lock) or "unreadable"; said: why, in words; epochs: of the recipe, 0 if it names none;
    logs: name -> its columns; recipe: its fields by dotted names, the method among them."""

    name: str
    state: str
    said: str = ""
    epochs: int = 0
    logs: Mapping[str, Columns] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def over(self) -> bool:
        """Whether nothing more comes unless someone starts it again."""
        return self.state in OVER

    def last(self, column: str, log: str = "metrics") -> float | None:
        """Return the last value of a column, None if the log has none.

        Args:
            log: metrics or another log of the run.
        """
        values = self.logs.get(log, {}).get(column, np.empty(0))
        known = values[np.isfinite(values)]
        return float(known[-1]) if len(known) else None

    def left(self) -> float | None:
        """Estimate the seconds until the last epoch from the pace so far; None if it is unknown."""
        epoch, seconds = self.last("epoch"), self.last("seconds")
        known = epoch and seconds and self.epochs
        return seconds * (self.epochs / epoch - 1) if known and epoch and seconds else None


@dataclass(frozen=True)
class Curve:
    """A column of a run's log, thinned to what a chart can show.

    x: axis -> its places [n], NaN where a line has none; y: values [n]; whole: all values [m], of
    which `at` [n] are shown."""

    run: str
    log: str
    column: str
    x: Mapping[str, NDArray[np.float64]]
    whole: NDArray[np.float64]
    at: NDArray[np.int64]

    @property
    def y(self) -> NDArray[np.float64]:
        """The values as they were logged."""
        return self.whole[self.at]

    def smooth(self, weight: float) -> NDArray[np.float64]:
        """Return the values smoothed over all that were logged, then thinned."""
        return smoothed(self.whole, weight)[self.at]


class Board:
    """One or several folders of runs, read again at each look; a folder may come later.

    Args:
        folders: Paths, or name -> path; a path's last part is its name. A folder of run folders means
            all below it, those that come later, too.

    Raises:
        ValueError: No folders, or one name twice.
    """

    def __init__(self, folders: Folders):
        folders = [folders] if isinstance(folders, str | Path) else folders
        named = (
            list(folders.items())
            if isinstance(folders, Mapping)
            else [(Path(path).resolve().name, path) for path in folders]
        )
        if not named or len(dict(named)) < len(named):
            raise ValueError(
                f"Board: wanted folders of runs, each with another name; got {named or 'none'}; "
                "pass {name: folder} if two folders have one name"
            )
        self.folders = {name: Path(path) for name, path in named}
        self._logs: dict[Path, Log] = {}
        self._order: dict[str, None] = {}  # runs in the order of their first look

    def look(self) -> list[RunState]:
        """Read what is in the folders now.

        New runs are appended, so that the others keep their place and color.
        """
        found = {
            run: self._seen(run, place)
            if place
            else RunState(run, "waiting", f"no run in {root} yet")
            for run, place, root in self._runs()
        }
        self._order |= dict.fromkeys(found)
        return [found[run] for run in self._order if run in found]

    def results(self) -> list[Folder]:
        """Read the runs with their numbers, by the same names."""
        return [look_at(place, run) for run, place, _ in self._runs() if place]

    def _runs(self) -> Iterator[tuple[str, Path | None, Path]]:
        """(name, folder or None, where it was searched) of each run."""
        several = len(self.folders) > 1
        for name, root in self.folders.items():
            found = run_folders(root)
            for place in found:
                below = name_below(root, place)
                yield (
                    name if place == root else f"{name}/{below}" if several else below,
                    place,
                    root,
                )
            if not found:
                yield name, None, root

    def _seen(self, name: str, folder: Path) -> RunState:
        file = "recipe.json"
        try:  # a damaged file may raise anything; it is named, and the other runs are shown
            run = Run(folder)
            epochs, recipe = run.epochs, dict(_leaves({"method": run.method, **run.values}))
            file = "status.json"
            state, said = state_of(run)
            logs: dict[str, Columns] = {}
            for log in LOGS:
                file = f"{log}.jsonl"
                path = folder / file
                logs[log] = self._logs.setdefault(path, Log(path)).look()
        except RunError as error:
            return RunState(name, "unreadable", str(error), folder=folder)
        except Exception as error:
            why = f"{folder / file} is damaged ({type(error).__name__}: {error})"
            said = f"{why}; restore it or train in another folder"
            return RunState(name, "unreadable", said, folder=folder)
        return RunState(name, state, said, epochs, logs, recipe, folder)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested plain values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# ----------------------------------------------------------------------------------------- curves


def charted(states: Sequence[RunState]) -> list[tuple[str, str]]:
    """List the (log, column) pairs that have something to draw, training first."""
    found: dict[tuple[str, str], None] = {}
    for log in LOGS:
        for one in states:
            for column, values in one.logs.get(log, {}).items():
                if column not in BOOKS and np.isfinite(values).any():
                    found[log, column] = None
    return list(found)


def curves(states: Sequence[RunState]) -> list[Curve]:
    """Return the curve of each column of each run, thinned so that a board of many runs stays quick."""
    wanted = [
        (one, log, column)
        for log, column in charted(states)
        for one in states
        if np.isfinite(one.logs.get(log, {}).get(column, np.empty(0))).any()
    ]
    most = min(POINTS, max(2, ALL_POINTS // max(1, len(wanted))))
    return [_curve(one, log, column, most) for one, log, column in wanted]


def _curve(one: RunState, log: str, column: str, most: int) -> Curve:
    columns = one.logs[log]
    known = np.flatnonzero(~np.isnan(columns[column]))
    at = known[windows.spread(len(known), most)]
    places = {axis: _places(one, log, axis)[at] for axis in AXES}
    return Curve(one.name, log, column, places, columns[column], at)


def _places(one: RunState, log: str, axis: str) -> NDArray[np.float64]:
    """Places of a log's lines on an axis. The held-out log has no seconds: it gets those of
    training at the same step."""
    columns, training = one.logs[log], one.logs.get("metrics", {})
    if axis in columns:
        return columns[axis]
    steps = columns["step"]
    if axis not in training:
        return np.full(len(steps), np.nan)
    return np.interp(steps, training["step"], training[axis])


# ---------------------------------------------------------------------------------------- recipes


def recipe_differences(states: Sequence[RunState]) -> dict[str, dict[str, Any]]:
    """Return the fields in which recipes differ: dotted name -> run -> value, None if missing.

    Paths are cut to their last part if that part differs, too."""
    known = [one for one in states if one.recipe]
    fields = dict.fromkeys(name for one in known for name in one.recipe)
    found = {}
    for name in fields:
        values = {one.name: one.recipe.get(name) for one in known}
        if len({repr(value) for value in values.values()}) > 1:
            found[name] = _short(values)
    return found


def _short(values: dict[str, Any]) -> dict[str, Any]:
    """Paths by their last part, if no two paths become one."""
    cut = {
        run: Path(value).name if isinstance(value, str) and "/" in value else value
        for run, value in values.items()
    }
    alike = len(set(map(repr, cut.values()))) == len(set(map(repr, values.values())))
    return cut if alike else values
