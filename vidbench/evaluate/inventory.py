"""Runs on disk for `vidbench runs`: a line for each, one run whole, two runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidbench.engine.deletion import Deleted, delete_run, needed_by, size_of
from vidbench.engine.recipes import differing
from vidbench.engine.records import read_last, read_record
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.results import OF_A_RUN, Folder, Number, collect, main_metric
from vidbench.system.files import is_locked

RUNS = "runs"  # the usual name of the folder of all runs
SHOWN = 5  # runs that a message names


@dataclass(frozen=True)
class Entry:
    """One run directory in a listing, whole or not.

    run: its name below the folder that was searched. state: that of status.json, or "died" (it
    says running, but no process holds the lock). epochs: trained so far, of `planned`. best: the
    highest R@1 of its results, without one the highest top-1. time: seconds since 1970 of the last
    change of state."""

    run: str
    folder: str
    method: str = ""
    stream: str = ""
    state: str = ""
    epochs: float = 0
    planned: int = 0
    best: Number | None = None
    time: float | None = None
    bytes: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Details:
    """One run whole: its line, recipe, budget, numbers with their protocols, and environment."""

    entry: Entry
    recipe: dict[str, Any]
    budget: dict[str, Any]
    numbers: tuple[Number, ...]
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A number of two runs under one protocol; None where a run lacks it."""

    one: Number | None
    other: Number | None

    @property
    def known(self) -> Number:
        """The number of the first run that has it."""
        found = self.one or self.other
        assert found is not None, "a pair has a number of one run at least"
        return found


@dataclass(frozen=True)
class Comparison:
    """Two runs: what differs in their recipes, as (dotted name, one, other), and their numbers."""

    runs: tuple[str, str]
    recipe: list[tuple[str, Any, Any]]
    results: list[Pair]


def entries(runs_dir: str | Path) -> list[Entry]:
    """List every run directory below a folder by name, broken ones too.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    place = Path(runs_dir)
    if not place.is_dir():
        raise FileNotFoundError(f"no such folder: {place}. Name the folder that your runs are in.")
    return [_entry(found, _path(place, found)) for found in collect(place)]


def details(folder: str | Path) -> Details:
    """Read all that is known of a run.

    Raises:
        RunError: It is no run directory, or its recipe cannot be read.
    """
    place = run_directory(folder)
    found = collect(place)[0]
    run = Run(place)
    environment: dict[str, Any] = {}
    problems = list(found.problems)
    if (place / "environment.json").is_file():
        try:
            environment = read_record(place / "environment.json", "Restore it from a copy.")
        except RunError as error:
            problems.append(str(error))
    entry = _entry(Folder(**{**vars(found), "problems": tuple(problems)}), place)
    return Details(entry, run.values, dict(found.budget), found.numbers, environment)


def compare(one: str | Path, other: str | Path) -> Comparison:
    """Compare two runs' recipes, and their numbers wherever at least one of them was measured.

    Args:
        one, other: Run directories.

    Raises:
        RunError: One of them is no run directory.
    """
    pair = [run_directory(folder) for folder in (one, other)]
    runs = [Run(place) for place in pair]
    recipes = [{"method": run.method, **run.values} for run in runs]
    numbers = [collect(place)[0].numbers for place in pair]
    keyed = [{(n.task, n.data, n.protocol, n.metric): n for n in each} for each in numbers]
    keys = sorted({*keyed[0], *keyed[1]})
    results = [Pair(keyed[0].get(key), keyed[1].get(key)) for key in keys]
    changes = differing(recipes[0], recipes[1])
    return Comparison((str(one), str(other)), changes, results)


def users(folders: Sequence[str | Path], among: str | Path = "") -> dict[str, list[str]]:
    """List the other runs that need each of these runs.

    Args:
        folders: Run directories that will be deleted; what they need of each other does not count.
        among: The folder of runs to look through; by default the outermost folder above a run that
            is named `runs`, else the folder that the run is in.

    Returns:
        Folder -> run directories, for each folder that another run needs.
    """
    gone = {Path(folder).resolve() for folder in folders}
    known: dict[Path, list[Path]] = {}
    found: dict[str, list[str]] = {}
    for folder in folders:
        place = Path(among) if among else _home(Path(folder).resolve())
        if place not in known:
            known[place] = [_path(place, one) for one in collect(place)]
        others = [run for run in known[place] if run.resolve() not in gone]
        if needed := needed_by(folder, others):
            found[str(folder)] = [str(run) for run in needed]
    return found


def delete(folders: Sequence[str | Path]) -> list[Deleted]:
    """Delete runs, after looking whether each of them can be deleted.

    Raises:
        RunError: One of them is no run directory, or a process trains into it.
    """
    places = [run_directory(folder) for folder in folders]
    for place in places:
        if is_locked(place / ".lock"):
            raise RunError(
                f"{place} cannot be deleted while a process trains into it. Stop it first; nothing "
                "was deleted."
            )
    return [delete_run(place) for place in places]


def below(folder: str | Path) -> list[Path]:
    """List the run directories in a folder, or the folder itself if it is one.

    Raises:
        RunError: There is none.
    """
    place = Path(folder)
    if place.is_dir() and (inside := [place / one.run for one in collect(place)]):
        return [place] if (place / "recipe.json").is_file() else inside
    return [run_directory(place)]


def run_directory(folder: str | Path) -> Path:
    """Check that a folder is a run directory, and return it.

    Raises:
        RunError: It does not exist, is no run directory, or contains several; they are named.
    """
    place = Path(folder)
    if (place / "recipe.json").is_file():
        return place
    if not place.exists():
        raise RunError(f"{place} does not exist. `vidbench runs ls FOLDER` lists runs.")
    inside = [one.run for one in collect(place)] if place.is_dir() else []
    if not inside:
        raise RunError(
            f"{place} is no run directory: it has no recipe.json. `vidbench runs ls FOLDER` lists "
            "runs."
        )
    named = ", ".join(str(place / name) for name in inside[:SHOWN])
    more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
    raise RunError(
        f"{place} is no run directory, but contains {len(inside)} of them. Name one: {named}{more}."
    )


def _home(run: Path) -> Path:
    """The folder in which other runs can need this one."""
    named = [folder for folder in run.parents if folder.name == RUNS]
    return named[-1] if named else run.parent


def _path(place: Path, found: Folder) -> Path:
    """The directory of what `collect` found below a folder, or as the folder itself."""
    itself = any((place / name).is_file() for name in OF_A_RUN)
    return place if itself else place / found.run


def _entry(found: Folder, place: Path) -> Entry:
    common: dict[str, Any] = {
        "run": found.run,
        "folder": str(place),
        "bytes": size_of(place),
        "problems": found.problems,
        "time": _time(place),
    }
    if not found.method:
        return Entry(**common)
    run = Run(place)
    last = read_last(place / "metrics.jsonl")
    return Entry(
        method=found.method,
        stream=run.recipe.stream,
        state=found.state,
        epochs=last.get("epoch", 0),
        planned=run.epochs,
        best=_best(found.numbers),
        **common,
    )


def _best(numbers: Sequence[Number]) -> Number | None:
    if not numbers:
        return None
    metric = main_metric(numbers)
    return max((one for one in numbers if one.metric == metric), key=lambda one: one.value)


def _time(place: Path) -> float | None:
    """When the state last changed; without a status, when the recipe was written."""
    try:
        held = read_record(place / "status.json", "").get("time")
        if isinstance(held, int | float):
            return held
    except RunError:
        pass
    times = [
        path.stat().st_mtime
        for name in ("recipe.json", "status.json")
        if (path := place / name).is_file()
    ]
    return max(times, default=None)
