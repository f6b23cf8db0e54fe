"""The commands `vidbench runs ls | show | diff | rm | export`: options, and results as text or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vidbench.system import usage
from vidbench.system.door import at_the_door
from vidbench.system.printing import aligned, as_json, notes_to_stderr, printable, show
from vidbench.system.usage import Commands

if TYPE_CHECKING:
    from vidbench.evaluate.inventory import Comparison, Details, Entry
    from vidbench.evaluate.results import Number

BUDGET = ("epochs", "iterations", "clips", "batch", "seconds")


def add_command(commands: Commands, *words: str, **options: Any) -> argparse.ArgumentParser:
    """Add a command by `usage.add_command`, with the option --json.

    Args:
        *words, **options: As in `usage.add_command`.
    """
    command = usage.add_command(commands, *words, **options)
    command.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return command


def add_runs(commands: Commands) -> None:
    """Add the command `runs` and its commands."""
    runs = commands.add_parser(
        "runs", help="list, show, compare and delete runs", description="Runs on disk."
    )
    inner = runs.add_subparsers(dest="action", required=True)
    one = add_command(inner, "ls", "list the runs below a folder", "vidbench runs ls runs")
    one.add_argument("folder", nargs="?", default="runs", help="folder of runs (%(default)s)")
    one = add_command(
        inner,
        "show",
        "show a run: recipe, state, budget, results, environment",
        "vidbench runs show runs/clips/coclr-toy-seed0/coclr-rgb",
    )
    one.add_argument("run", help="run directory")
    one = add_command(
        inner,
        "diff",
        "compare two runs: recipe fields that differ, results side by side",
        "vidbench runs diff runs/clips/coclr-toy-seed0/infonce-rgb "
        "runs/clips/coclr-toy-seed0/coclr-rgb",
    )
    one.add_argument("one", metavar="RUN", help="run directory")
    one.add_argument("other", metavar="OTHER", help="run directory")
    _add_rm(inner)
    one = add_command(
        inner,
        "export",
        "write the logs of runs for a tracker, as `vidbench train --track` does",
        "vidbench runs export --to tensorboard curves runs/clips/coclr-toy-seed0",
    )
    one.add_argument(
        "--to", required=True, metavar="NAME", help="tensorboard, wandb or mlflow; see trackers.md"
    )
    one.add_argument("out", metavar="OUT", help="folder of what the tracker writes")
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of runs")


def _add_rm(commands: Commands) -> None:
    one = add_command(
        commands,
        "rm",
        "delete runs",
        "vidbench runs rm runs/clips/coclr-toy-seed0/coclr-rgb --yes",
        "Only what vidbench wrote is deleted. Links are not followed.",
    )
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    one.add_argument("--yes", action="store_true", help="do not wait for a confirmation")
    one.add_argument(
        "--force", action="store_true", help="delete a run that another run starts from, too"
    )
    one.add_argument(
        "--among",
        default="",
        metavar="FOLDER",
        help="where to look for runs that need these; default: the folder `runs` above each run, "
        "else the folder that it is in",
    )


def runs(given: argparse.Namespace) -> int:
    """Run one of the commands; returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "ls": _ls,
        "show": _show,
        "diff": _diff,
        "rm": _rm,
        "export": _export,
    }
    return actions[given.action](given)


def _ls(given: argparse.Namespace) -> int:
    from vidbench.evaluate import inventory

    with notes_to_stderr():
        found = at_the_door(inventory.entries, given.folder)
    if given.json:
        show(as_json([_entry_json(entry) for entry in found]))
    elif not found:
        show(f"no runs below {given.folder}")
    else:
        head = ("run", "method", "stream", "state", "epochs", "best", "date", "size")
        show(aligned([head, *map(_line, found)], right=(4, 7)))
        for entry in found:
            for problem in entry.problems:
                print(f"{printable(entry.run)}: {printable(problem)}", file=sys.stderr)
    return 0


def _line(entry: Entry) -> tuple[str, ...]:
    best = "-"
    if entry.best:
        best = f"{entry.best.metric} {100 * entry.best.value:.1f} % ({entry.best.task})"
    return (
        entry.run,
        entry.method or "-",
        entry.stream or "-",
        entry.state or "broken",
        f"{round(entry.epochs, 1):g}/{entry.planned}" if entry.method else "-",
        best,
        _date(entry.time),
        _size(entry.bytes),
    )


def _entry_json(entry: Entry) -> dict[str, Any]:
    best = entry.best and _number_json(entry.best)
    held = {**dataclasses.asdict(dataclasses.replace(entry, best=None)), "best": best}
    return held | {"time": None if entry.time is None else _iso(entry.time)}


def _number_json(number: Number) -> dict[str, Any]:
    names = ("task", "metric", "value", "low", "high", "data", "stream", "commit")
    held = {name: getattr(number, name) for name in names}
    return held | {"protocol": dict(number.switches), "budget": dict(number.budget)}


def _show(given: argparse.Namespace) -> int:
    from vidbench.evaluate import inventory

    with notes_to_stderr():
        found = at_the_door(inventory.details, given.run)
    if given.json:
        numbers = [_number_json(number) for number in found.numbers]
        held = {**_entry_json(found.entry), "recipe": found.recipe, "budget": found.budget}
        show(as_json({**held, "results": numbers, "environment": found.environment}))
    else:
        show(_words(found))
    return 0


def _words(found: Details) -> str:
    entry = found.entry
    budget = ", ".join(f"{name} {found.budget[name]:g}" for name in BUDGET if name in found.budget)
    stages = found.budget.get("stages", ())
    facts = [
        ("run", entry.folder),
        ("method", f"{entry.method}, stream {entry.stream}"),
        ("state", f"{entry.state}, epoch {round(entry.epochs, 1):g} of {entry.planned}"),
        ("date", _date(entry.time)),
        ("size", _size(entry.bytes)),
        ("budget", budget + f" (of {' > '.join(stages)})" * (len(stages) > 1)),
        *(("problem", problem) for problem in entry.problems),
    ]
    parts = [aligned(facts)]
    parts.append(f"recipe\n{_indented(_leaves(found.recipe))}")
    parts.append(f"results\n{_results(found.numbers)}")
    parts.append(f"environment\n{_indented(_leaves(found.environment))}")
    return "\n\n".join(parts)


def _results(numbers: Sequence[Number]) -> str:
    from vidbench.evaluate.results import by_task

    if not numbers:
        return "  none; evaluate the run, for example by notebooks/42_retrieval.ipynb"
    lines = []
    for task, shared, headed in by_task(numbers):
        for heading, group in headed:
            lines += [f"  {heading}"]
            lines += [f"    {number.metric:8} {_percent(number)}" for number in group]
        lines += [f"  protocol of {task}", *_indented(_leaves(shared), 4).splitlines()]
    return "\n".join(lines)


def _diff(given: argparse.Namespace) -> int:
    from vidbench.evaluate import inventory

    with notes_to_stderr():
        found = at_the_door(inventory.compare, given.one, given.other)
    if given.json:
        recipe = [{"field": name, "values": [a, b]} for name, a, b in found.recipe]
        pairs = [[n and _number_json(n) for n in (p.one, p.other)] for p in found.results]
        show(as_json({"runs": found.runs, "recipe": recipe, "results": pairs}))
    else:
        show(_compared(found))
    return 0


def _compared(found: Comparison) -> str:
    from vidbench.evaluate.results import in_words

    parts = ["the recipes are equal"]
    if found.recipe:
        fields = [(name, _short(a), _short(b)) for name, a, b in found.recipe]
        parts = [aligned([("recipe", *found.runs), *fields])]
    if not found.results:
        return "\n\n".join([*parts, "neither run was evaluated yet"])
    protocols = list(dict.fromkeys(pair.known.protocol for pair in found.results))
    rows = [("result", "protocol", *found.runs)]
    for pair in found.results:
        result = f"{pair.known.task} {pair.known.metric}"
        marked = f"[{protocols.index(pair.known.protocol) + 1}]"
        one, other = ("-" if n is None else _percent(n) for n in (pair.one, pair.other))
        rows.append((result, marked, one, other))
    switches = {pair.known.protocol: pair.known.switches for pair in found.results}
    notes = [f"[{i + 1}] {in_words(switches[name])}" for i, name in enumerate(protocols)]
    return "\n\n".join([*parts, aligned(rows), *notes])


def _rm(given: argparse.Namespace) -> int:
    from vidbench.evaluate import inventory

    with notes_to_stderr():
        for folder in given.runs:
            at_the_door(inventory.run_directory, folder)
        needed = at_the_door(inventory.users, given.runs, given.among)
    for folder, others in needed.items():
        print(f"{folder} is needed by {', '.join(others)}", file=sys.stderr)
    if needed and not given.force:
        print(
            "vidbench: nothing was deleted. Delete the runs that need them, too, or use --force.",
            file=sys.stderr,
        )
        return 2
    if not given.yes and not _confirmed(given.runs):
        print(
            "vidbench: nothing was deleted. Use --yes to delete without a question.",
            file=sys.stderr,
        )
        return 2
    with notes_to_stderr():
        deleted = at_the_door(inventory.delete, given.runs)
    if given.json:
        show(as_json([dataclasses.asdict(one) for one in deleted]))
        return 0
    for one in deleted:
        kept = f"; kept what vidbench did not write: {', '.join(one.kept)}" if one.kept else ""
        show(printable(f"deleted {one.folder}: {one.bytes:,} bytes freed{kept}"))
    return 0


def _export(given: argparse.Namespace) -> int:
    from vidbench.engine import trackers
    from vidbench.evaluate import inventory

    with notes_to_stderr():
        at_the_door(trackers.check, given.to)
        found = [one for name in given.runs for one in at_the_door(inventory.below, name)]
        lines = at_the_door(trackers.replay_all, found, trackers.chosen(given.to), given.out)
    if given.json:
        show(as_json([{"run": str(run), "lines": count} for run, count in lines.items()]))
    else:
        show(aligned([("lines", "run"), *((str(n), str(run)) for run, n in lines.items())], (0,)))
    return 0


def _confirmed(folders: Sequence[str]) -> bool:
    """Wait for a yes on the terminal. Without one the answer is no."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    print(f"delete {', '.join(folders)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain values as (dotted name, text)."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", _short(value)))
    return found


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value)) or "none"
    return "none" if value in ("", None) else str(value)


def _indented(rows: Sequence[tuple[str, str]], by: int = 2) -> str:
    lines = aligned(rows).splitlines() if rows else ["unknown"]
    return "\n".join(" " * by + line for line in lines)


def _percent(number: Number) -> str:
    ends = ""
    if number.low is not None and number.high is not None:
        ends = f" [{100 * number.low:.1f}, {100 * number.high:.1f}]"
    return f"{100 * number.value:.1f} %{ends}"


def _date(seconds: float | None) -> str:
    return "-" if seconds is None else _iso(seconds).replace("T", " ")[:16]


def _iso(seconds: float) -> str:
    """Local time with its offset."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat("T", "seconds")


def _size(count: int) -> str:
    from vidbench.data.prepare.jobs import size

    return size(count)
