"""The command `vidbench compare`: two runs on the same videos, as text, JSON or an offline page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.api.arguments import check_page
from vidbench.api.runs import add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import aligned, as_json, notes_to_stderr, printable, show
from vidbench.system.usage import Commands

if TYPE_CHECKING:
    from vidbench.evaluate.paired import Difference, Paired

CLASSES = 5  # at each end that the text names


def add_compare(commands: Commands) -> None:
    """Add the command `compare`."""
    one = add_command(
        commands,
        "compare",
        "compare two runs on the same videos: gained and lost, per class and per clip",
        """vidbench compare runs/clips/infonce-rgb runs/clips/coclr-rgb --html compared.html
        vidbench compare runs/clips/infonce-rgb runs/clips/coclr-rgb --evaluate test --json""",
        "A - B has a paired 95 % bootstrap interval over source videos. Both runs must be measured "
        "by the same protocol on the same videos.",
    )
    one.add_argument("one", metavar="RUN_A", help="run directory")
    one.add_argument("other", metavar="RUN_B", help="run directory")
    one.add_argument(
        "--task", default="", help="only this one: retrieval, probe, classes, finetune"
    )
    one.add_argument(
        "--evaluate",
        default="",
        metavar="SPLIT",
        help="first evaluate both runs on a split (test, validate); their tables of features are "
        "read where they exist",
    )
    one.add_argument("--html", default="", metavar="FILE", help="write an offline page with clips")


def compare(given: argparse.Namespace) -> int:
    """Compare two runs; returns the exit code."""
    from vidbench.evaluate import inventory, paired
    from vidbench.evaluate.evaluate import measure
    from vidbench.view import compare as pages

    if given.html:
        at_the_door(check_page, given.html, f"<title>{pages.TITLE} of ", "page of a comparison")
    with notes_to_stderr():
        for folder in (given.one, given.other):
            at_the_door(inventory.run_directory, folder)
        for folder in (given.one, given.other) if given.evaluate else ():
            at_the_door(measure, folder, given.evaluate)
        found = at_the_door(paired.compare, given.one, given.other, given.task)
        if given.html:
            at_the_door(pages.write, given.html, found)
    if given.json:
        show(as_json({"runs": [given.one, given.other], "results": [*map(_json, found)]}))
    else:
        parts = [*map(_words, found)] + ([f"-> {given.html}"] if given.html else [])
        show("\n\n".join(parts))
    return 0


def _words(pair: Paired) -> str:
    """One measurement as text: the sentence, a line for each metric, the classes at both ends."""
    head = ("", "videos", "A", "B", "A - B", "95 % interval")
    classes = pair.classes
    ends = classes if len(classes) <= 2 * CLASSES else [*classes[:CLASSES], *classes[-CLASSES:]]
    moved = {name: len(rows) for name, rows in pair.moved().items()}
    rows = [head, *map(_line, pair.metrics), (f"{pair.metric} of", "", "", "", "", "")]
    rows += map(_line, ends)
    lines = [f"{pair.one.task}: {pair.sentence}", aligned(rows, right=(1, 2, 3, 4))]
    if len(ends) < len(classes):
        lines.append(f"{len(classes) - len(ends)} classes between these are left out")
    lines.append(", ".join(f"{count} {name}" for name, count in moved.items()))
    if pair.own:
        own = "; ".join(f"{name} {a} and {b}" for name, (a, b) in pair.own.items())
        lines.append(f"the runs differ in {own}")
    return _printable(lines)


def _printable(lines: Sequence[str]) -> str:
    """Join lines; letters that a terminal cannot show become `?`."""
    return "\n".join("\n".join(map(printable, line.splitlines())) for line in lines)


def _line(one: Difference) -> tuple[str, ...]:
    shares = (f"{100 * share:.1f} %" for share in (one.one, one.other))
    ends = "-"
    if one.low is not None and one.high is not None:
        ends = f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return (one.name, str(one.videos), *shares, f"{100 * one.gap:+.1f}", ends)


def _json(pair: Paired) -> dict[str, Any]:
    """One measurement as plain values; shares and differences are fractions."""
    root, path = pair.one.videos.root, pair.one.videos.path
    clips = {name: [str(Path(root, path[row])) for row in rows] for name, rows in _gone(pair)}
    return {
        "task": pair.one.task,
        "protocol": pair.one.protocol,
        "differs": {name: list(values) for name, values in pair.own.items()},
        "metric": pair.metric,
        "sentence": pair.sentence,
        "metrics": [*map(_difference, pair.metrics)],
        "classes": [*map(_difference, pair.classes)],
        **clips,
    }


def _gone(pair: Paired) -> list[tuple[str, Any]]:
    moved = pair.moved()
    return [(name, moved[name]) for name in ("gained", "lost")]


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "name": one.name,
        "videos": one.videos,
        "sources": one.sources,
        "a": one.one,
        "b": one.other,
        "difference": one.gap,
        "low": one.low,
        "high": one.high,
        "significant": one.significant,
    }
