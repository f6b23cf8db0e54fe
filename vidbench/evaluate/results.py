"""Every run's numbers, grouped by protocol and written as a csv.

Two numbers are in one column only if they were measured under one protocol: the same task, data and
protocol id (see `engine.runs`). What was measured otherwise gets another table, and the
switches that differ are its heading. `view.results` draws them, and `published` has the numbers to
compare with, in a separate block: their protocol, backbone and data are never ours."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidbench.engine.records import Result, read_record
from vidbench.engine.runs import Run, RunError, differences
from vidbench.methods.common import Recipe
from vidbench.system.errors import Brief
from vidbench.system.files import is_locked, write_text

BUDGET = ("batch", "iterations", "clips", "epochs")  # of Run.budget, as far as tables show it
OF_A_RUN = ("recipe.json", "environment.json", "status.json", "metrics.jsonl", "results.json")
# such a folder contains thousands of videos
OF_DATA = ("manifest.csv", "scan.csv", "flow.json", "store.json")
DIED = "its status says running, but no process holds its lock; the same call resumes it"
ROUNDING = 1e-9  # by which a mean of ones may exceed one


class ProtocolError(Brief, ValueError):
    """Numbers of two protocols where one was wanted; the message names the switches that differ."""


@dataclass(frozen=True)
class Number:
    """One number of one run: a fraction, its interval if it has one, how it was measured and at
    what budget."""

    run: str  # its folder below the one that was searched
    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    protocol: str  # its id: task and switches as text
    switches: Mapping[str, Any]
    budget: Mapping[str, Any]  # BUDGET, when it was measured
    data: str
    stream: str
    state: str  # of the run, as it is now (state_of)
    commit: str = ""  # of vidbench, that measured it, as `commit_of` names it


@dataclass(frozen=True)
class Folder:
    """A run folder as it was found, whole or not; `problems` say what of it cannot be used."""

    run: str
    method: str = ""
    state: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()
    problems: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------- collecting


def run_folders(
    runs_dir: str | Path, unread: Callable[[OSError], None] | None = None
) -> list[Path]:
    """Find every run folder below `runs_dir`, those that are broken or incomplete too, by name.

    Folders of videos and names that begin with a dot are left out. [] if the folder does not exist.

    Args:
        unread: Is given the error of a folder that cannot be read.
    """
    runs_dir, found = Path(runs_dir), []
    for here, folders, files in os.walk(runs_dir, onerror=unread):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name in files for name in OF_A_RUN):
            found.append(Path(here))
            folders.clear()
        elif Path(here) != runs_dir and any(name in files for name in OF_DATA):
            folders.clear()
    return sorted(found)


def name_below(runs_dir: str | Path, folder: Path) -> str:
    """Name a run folder by its path below the searched folder, or by its own name if it is that.

    Args:
        runs_dir: The folder that was searched.
        folder: The run's.
    """
    below = folder.relative_to(runs_dir)
    return below.as_posix() if below.parts else folder.resolve().name


def collect(runs_dir: str | Path) -> list[Folder]:
    """Read every run folder below `runs_dir`, those that are broken or incomplete too, by name.

    [] if the folder does not exist. A folder that cannot be read is one with a problem."""
    runs_dir, unread = Path(runs_dir), []

    def note(error: OSError) -> None:
        place = Path(error.filename)
        if place != runs_dir:
            name = place.relative_to(runs_dir).as_posix()
            unread.append(Folder(name, problems=(_said("the folder", error),)))

    found = [look_at(place, name_below(runs_dir, place)) for place in run_folders(runs_dir, note)]
    return sorted([*found, *unread], key=lambda folder: folder.run)


def state_of(run: Run) -> tuple[str, str]:
    """Say the state of a run as it is now, and why it is so.

    The state is that of status.json, but "died" if that says running and no process holds the run's
    lock.

    Raises:
        RunError: status.json is damaged.
    """
    state = run.state
    if state == "running" and not is_locked(run.folder / ".lock"):
        state = run.state  # it may have ended between the two looks
        if state == "running":
            return "died", DIED
    held = read_record(run.folder / "status.json", "") if state == "failed" else {}
    return state, str(held.get("error", ""))


def look_at(folder: Path, name: str) -> Folder:
    """Read a run folder.

    Args:
        name: The name that tables show.
    """
    try:  # a folder that someone edited may raise anything; it is named and the others are shown
        run = Run(folder)
        recipe: Recipe = run.recipe
        method, stream, data = run.method, recipe.stream, _data_of(run, recipe)
    except Exception as error:
        return Folder(name, problems=(_said("recipe.json", error),))
    problems: list[str] = []
    state = _tried("status.json", lambda: state_of(run)[0], "", problems)
    budget = _tried("the budget", run.budget, {}, problems)
    results = _tried("results.json", run.records, {}, problems)
    numbers: list[Number] = []
    for protocol, record in results.items():
        try:
            numbers += _numbers(
                name,
                protocol,
                Result.read(record),
                {"data": data, "stream": stream, "state": state},
            )
        except Exception as error:
            problems.append(_said(f"result {protocol!r}", error))
    return Folder(name, method, state, budget, tuple(numbers), tuple(problems))


def _data_of(run: Run, recipe: Recipe) -> str:
    """The directory a run is in, as notebooks name it after its data: its manifest's, if it has one
    data set, else the run's own."""
    sets = recipe.data_sets()
    if len(sets) == 1 and not sets[0].name and sets[0].manifest:
        return Path(sets[0].manifest).parent.name
    return run.folder.resolve().parent.name


def _tried(what: str, read, otherwise, problems: list[str]):
    try:
        return read()
    except Exception as error:
        problems.append(_said(what, error))
        return otherwise


def _said(what: str, error: Exception) -> str:
    reason = str(error.args[0]).splitlines()[0] if error.args else ""
    return (
        f"{what}: {reason}"
        if isinstance(error, RunError)
        else f"{what}: {type(error).__name__}: {error}"
    )


def _numbers(run: str, protocol: str, result: Result, facts: dict) -> list[Number]:
    """Checked numbers of one result; facts: of the run, where the protocol does not
    say them itself."""
    switches, budget = dict(result.protocol), dict(result.budget)
    budget = {name: budget[name] for name in BUDGET if name in budget}
    named = {name: str(switches[name]) for name in ("data", "stream") if name in switches}
    facts = {**facts, **named, "commit": commit_of(result.vidbench)}
    common = {"protocol": protocol, "switches": switches, "budget": budget, **facts}
    return [
        Number(run, str(result.task), metric, *_fraction(metric, given), **common)
        for metric, given in result.numbers.items()
    ]


def commit_of(made_by: Any) -> str:
    """Name the commit that made a record: 12 digits, and "(dirty)" if files differed from it.

    Without a commit it is the package's version, without both it is empty.

    Args:
        made_by: The record's `vidbench`, see engine.environment.made_by.
    """
    if not isinstance(made_by, Mapping):
        return ""
    commit = str(made_by.get("commit") or "")[:12]
    dirty = " (dirty)" if made_by.get("dirty") else ""
    version = made_by.get("version")
    return f"{commit}{dirty}" if commit else f"version {version}" if version else ""


def _fraction(metric: str, given) -> tuple[float, float | None, float | None]:
    parts = given if isinstance(given, list) else [given]
    real = all(
        isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part)
        for part in parts
    )
    if (
        not real
        or len(parts) not in (1, 3)
        or not all(-ROUNDING <= part <= 1 + ROUNDING for part in parts)
    ):
        raise ValueError(
            f"{metric} is {given!r}; wanted a fraction within 0 and 1, or [value, low, high]"
        )
    if len(parts) == 3 and not parts[1] - ROUNDING <= parts[0] <= parts[2] + ROUNDING:
        raise ValueError(f"{metric} is {given!r}; its interval misses its value")
    return (parts[0], None, None) if len(parts) == 1 else tuple(parts)


def numbers_of(folders: Iterable[Folder], task: str = "") -> list[Number]:
    """Collect the numbers of all runs, or of the tasks whose name contains `task`.

    Args:
        task: Part of a name; empty: every task.
    """
    return [number for folder in folders for number in folder.numbers if task in number.task]


# -------------------------------------------------------------------------------------- protocols


def _task_and_switches(number: Number) -> dict:
    return {"task": number.task, "data": number.data, **number.switches}


def one_protocol(numbers: Sequence[Number]) -> Number:
    """Return the first of numbers that were measured under one protocol.

    Raises:
        ProtocolError: they were measured under several, or there is none; it names the switches.
    """
    if not numbers:
        raise ProtocolError("wanted at least one number, got none; evaluate a run first")
    first = numbers[0]
    for other in numbers:
        if (other.task, other.data, other.protocol) != (first.task, first.data, first.protocol):
            lines = differences(_task_and_switches(first), _task_and_switches(other)) or [
                f"id: {first.protocol}",
                f"id: {other.protocol}",
            ]
            raise ProtocolError(
                f"{first.run} and {other.run} were measured under two protocols, and one column "
                "holds one:\n  " + "\n  ".join(lines) + "\nby_protocol makes a group of each."
            )
    return first


def by_protocol(numbers: Iterable[Number]) -> list[list[Number]]:
    """Group numbers that were measured under one protocol, by task, data and protocol id."""
    groups: dict[tuple, list[Number]] = {}
    for number in numbers:
        groups.setdefault((number.task, number.data, number.protocol), []).append(number)
    return [groups[key] for key in sorted(groups)]


def by_task(numbers: Iterable[Number]) -> list[tuple[str, dict, list[tuple[str, list[Number]]]]]:
    """Group numbers by task: (task, switches that its protocols share, [(heading, group)]).

    A heading says the task and the switches by which the group differs from the task's other
    groups."""
    tasks: dict[str, list[list[Number]]] = {}
    for group in by_protocol(numbers):
        tasks.setdefault(group[0].task, []).append(group)
    made = []
    for task, groups in tasks.items():
        protocols = [_task_and_switches(group[0]) for group in groups]
        shared = {
            name: value
            for name, value in protocols[0].items()
            if all(name in other and other[name] == value for other in protocols)
        }
        headed = []
        for group, switches in zip(groups, protocols, strict=True):
            own = {name: value for name, value in switches.items() if name not in shared}
            headed.append((": ".join(filter(None, (task, in_words(own)))), group))
        made.append(
            (task, {name: value for name, value in shared.items() if name != "task"}, headed)
        )
    return made


def in_words(switches: Mapping[str, Any], prefix: str = "") -> str:
    """Write switches as text, nested ones with their path: `centering none, crops.size 112`.

    Args:
        prefix: Path of these switches.
    """
    parts = []
    for name, value in sorted(switches.items(), key=lambda item: (item[0] != "data", item[0])):
        nested = isinstance(value, Mapping)
        shown = f"{value:.6g}" if isinstance(value, float) else value
        parts.append(in_words(value, f"{prefix}{name}.") if nested else f"{prefix}{name} {shown}")
    return ", ".join(filter(None, parts))


def mixed_commits(numbers: Sequence[Number]) -> str:
    """Say which rows of a table which commits measured; empty if one commit measured all."""
    runs: dict[str, list[str]] = {}
    for number in numbers:
        held = runs.setdefault(number.commit, [])
        if number.run not in held:
            held.append(number.run)
    if len(runs) < 2:
        return ""
    said = [f"{commit or 'an unknown commit'} ({', '.join(rows)})" for commit, rows in runs.items()]
    return (
        f"One column mixes {len(runs)} commits of vidbench: {'; '.join(said)}. Evaluate the runs again "
        "with one commit before you compare them."
    )


def main_metric(numbers: Sequence[Number]) -> str:
    """Return the metric that a figure shows for a protocol."""
    held = [number.metric for number in numbers]
    return next((metric for metric in ("R@1", "top-1") if metric in held), held[0])


# ------------------------------------------------------------------------------------------ files

CSV = (
    *("run", "task", "metric", "value", "low", "high", "protocol", *BUDGET, "data", "stream"),
    "commit",
)


def write_csv(path: str | Path, numbers: Iterable[Number]) -> Path:
    """Write all numbers in long form, one per line, with all digits of each fraction.

    The file is written under a temporary name, then renamed.

    Args:
        path: The csv.
    """
    path, text = Path(path), io.StringIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    for n in numbers:
        budget = [n.budget.get(name, "") for name in BUDGET]
        given = ["" if part is None else repr(part) for part in (n.value, n.low, n.high)]
        last = (n.protocol, *budget, n.data, n.stream, n.commit)
        writer.writerow([n.run, n.task, n.metric, *given, *last])
    write_text(path, text.getvalue())
    return path
