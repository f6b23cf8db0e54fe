"""Numbers, verdicts, report and tables of MultiTrain's claims, from the records alone.

Every number of a data set is of videos that no network was trained on: its test videos, its undrawn
training videos, or `unseen`, both together. `small sets` is `unseen` of all small data sets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.engine.environment import environment
from vidbench.evaluate.projections import READOUTS, WORDS
from vidbench.experiments.compare import Number, Paired, as_csv, pick, plain
from vidbench.experiments.joint_tests import (
    FEW,
    LABELED,
    PAIRS,
    PROBE,
    RANK,
    RECALL,
    SECONDS,
    TEST,
    TRAIN,
    UNDRAWN,
    chance,
    question,
)
from vidbench.experiments.pages import percent, verdict
from vidbench.experiments.pages import table as markdown
from vidbench.experiments.records import Book, Record, source_videos
from vidbench.system.files import write_text
from vidbench.view.figures import curves
from vidbench.view.html import Section, table, write_page

if TYPE_CHECKING:
    from vidbench.experiments.multitrain import Regime
    from vidbench.view.figures import Figure

NAMES = {
    "alone-steps": "alone, same steps",
    "alone-epochs": "alone, same epochs",
    "joint": "joint",
    "projection": "+ projection",
    "informative": "+ informative",
    "both": "+ both",
}
ALONE = ("alone-steps", "alone-epochs")
BASES = (*ALONE, "joint")
# Differences that the paper claims are positive: an arm minus another.
CLAIMS = (
    ("joint", "alone-steps"),
    ("joint", "alone-epochs"),
    ("projection", "joint"),
    ("informative", "joint"),
    ("both", "joint"),
)
UNSEEN, SMALL = "unseen", "small sets"
MEASURES = {
    RECALL: "R@1",
    PROBE: "linear probe",
    FEW: f"linear probe, {LABELED} source videos a class",
}
Runs = Mapping[tuple[int, str, str, str], Record]  # by seed, arm, data set and test


def write(
    place: Path, regimes: Mapping[str, Regime], kept: Mapping[str, Book], seeds: Sequence[int]
) -> Path:
    """Write numbers.json, numbers.csv, results.md and report.html; return the report's path.

    Args:
        place: The experiment's folder.
        regimes, kept: By the regime's name.
    """
    numbers, sections, pages = {}, [], []
    for name, one in regimes.items():
        rows = [row for row in kept[name].records if row.seed in seeds]
        numbers[name] = [
            number for steps in one.steps for number in outcome(one, rows, steps, seeds)
        ]
        made = how_made(rows)
        sections.append(section(one, numbers[name], made))
        pages.append(f"### {one.title}\n\n{page(one, numbers[name], made)}")
    record = {
        "environment": environment(),
        "seeds": list(seeds),
        "regimes": {name: one.plan for name, one in regimes.items()},
        "numbers": {name: [asdict(one) for one in each] for name, each in numbers.items()},
    }
    write_text(place / "numbers.json", json.dumps(record, indent=1))
    write_text(place / "numbers.csv", as_csv([one for each in numbers.values() for one in each]))
    write_text(place / "results.md", "\n".join(pages))
    return write_page(place / "report.html", "vidbench: several data sets, one network", sections)


def how_made(rows: Sequence[Record]) -> str:
    """Say in one sentence how many seeds, runs and hours of training, and which commits."""
    seconds = [row.numbers[SECONDS] for row in rows if SECONDS in row.numbers]
    count, commits = len({row.seed for row in rows}), sorted({row.commit for row in rows})
    return (
        f"{count} seeds, {len(seconds)} runs, {sum(seconds) / 3600:.1f} hours of training, commit "
        f"{', '.join(commits)}."
    )


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Regime, rows: Sequence[Record], steps: int, seeds: Sequence[int]) -> list[Number]:
    """Compute all numbers after `steps` steps: means over seeds, paired differences to BASES.

    A metric's name ends with the number of steps.

    Args:
        rows: The regime's records.
    """
    runs = {
        (row.seed, row.arm, row.data, row.test): row
        for row in rows
        if row.numbers["steps"] == steps
    }
    made: list[Number] = []
    for data, tests in groups(one).items():
        for test, wanted in tests.items():
            arms = [arm for arm in NAMES if all(_known(runs, seeds, arm, wanted))]
            if arms:
                made += _paired(runs, seeds, arms, wanted, (data, f"{test}, {steps} steps"))
    for name, test in ((TRAIN, TEST), (RANK, RECALL)):
        known = [(arm, data) for _, arm, data, other in runs if other == test]
        for arm, data in dict.fromkeys(known):
            each = [runs[seed, arm, data, test].numbers.get(name) for seed in seeds]
            values = [one for one in each if one is not None]
            if values:
                made.append(plain(data, arm, f"{name}, {steps} steps", values))
    return made


def groups(one: Regime) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Return data set -> test -> the pairs (data set, kept test) whose videos the test takes."""
    made: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for name in one.worlds:
        own = [(name, TEST), (name, UNDRAWN)] if name in one.small else [(name, TEST)]
        made[name] = {test: [(name, test)] for _, test in own} | {UNSEEN: own}
    made[SMALL] = {UNSEEN: [pair for name in one.small for pair in made[name][UNSEEN]]}
    tests = [question(readout, side) for readout in READOUTS for side in ("source", "target")]
    made[PAIRS] = {test: [(PAIRS, test)] for test in tests}
    if one.unseen:
        made[f"toy-{one.unseen}"] = {test: [(f"toy-{one.unseen}", test)] for test in MEASURES}
    return made


def _known(
    runs: Runs, seeds: Sequence[int], arm: str, wanted: Sequence[tuple[str, str]]
) -> list[bool]:
    return [(seed, arm, *pair) in runs for seed in seeds for pair in wanted]


def _paired(
    runs: Runs,
    seeds: Sequence[int],
    arms: Sequence[str],
    wanted: Sequence[tuple[str, str]],
    name: tuple[str, str],
) -> list[Number]:
    hits, sources = [], []
    for seed in seeds:
        found = {arm: [runs[seed, arm, *pair] for pair in wanted] for arm in arms}
        hits.append({arm: np.concatenate([one.hits for one in found[arm]]) for arm in arms})
        each = [
            source_videos(row for (own, _, *of), row in runs.items() if (own, *of) == (seed, *pair))
            for pair in wanted
        ]
        # the tests of a data set share no source video, but two data sets both count from 0
        named = [np.char.add(f"{i} ", one.astype(str)) for i, one in enumerate(each)]
        sources.append(np.concatenate(named))
    data, metric = name
    # in each seed the planted pairs are of the same classes
    paired = Paired(hits, sources, metric, data=data, shared=data == PAIRS)
    made = [paired.mean(arm) for arm in arms]
    for base in BASES:
        made += [paired.difference(arm, base) for arm in arms if arm != base and base in arms]
    return made


# ---- claims ------------------------------------------------------------------------------------


def claims(one: Regime, numbers: Sequence[Number]) -> list[dict[str, str]]:
    """Judge each claim at the largest number of steps: rows of a table with difference and verdict.

    Args:
        numbers: What `outcome` returns, for all steps.
    """
    tested = [(SMALL, UNSEEN)]
    if one.unseen:
        tested += [(f"toy-{one.unseen}", test) for test in MEASURES]
    made = []
    for data, test in tested:
        for arm, minus in CLAIMS:
            at = {steps: _at(numbers, data, arm, minus, test, steps) for steps in one.steps}
            if (last := at[one.steps[-1]]) is not None:
                words = cause(one, numbers, arm, minus, at)
                measure = MEASURES.get(test, "top-1")
                made.append(
                    {
                        "difference": f"{NAMES[arm]} - {NAMES[minus]}",
                        "on": f"{data}, {measure}",
                        "points": percent(last, "+"),
                        "verdict": verdict(last, words),
                    }
                )
    return made


def cause(
    one: Regime,
    numbers: Sequence[Number],
    arm: str,
    minus: str,
    at: Mapping[int, Number | None],
) -> str:
    """Say why an arm may lose: its early gain ended, or it fits the training videos less.

    Args:
        at: Steps -> the difference.
    """
    said = []
    first = at[one.steps[0]]
    if len(one.steps) > 1 and first is not None and first.value > 0:
        said.append(
            f"an early gain, {percent(first, '+')} at {one.steps[0]} steps, turns into a loss"
        )
    fits = [
        fit
        for name in one.small
        if (fit := _fit(numbers, name, arm, minus, one.steps[-1])) is not None
    ]
    if fits:
        mean = 100 * float(np.mean(fits))
        words = "fits the training videos less" if mean < -0.5 else "fits the training videos alike"
        said.append(f"{words} ({mean:+.1f} points)")
    return "; ".join(said) or "worse at every number of steps"


def _fit(numbers: Sequence[Number], data: str, arm: str, minus: str, steps: int) -> float | None:
    """Top-1 of training videos of one arm minus that of another."""
    own, other = (_at(numbers, data, name, "", TRAIN, steps) for name in (arm, minus))
    return None if own is None or other is None else own.value - other.value


def _at(
    numbers: Sequence[Number], data: str, arm: str, minus: str, test: str, steps: int
) -> Number | None:
    wanted = {"data": data, "arm": arm, "minus": minus, "metric": f"{test}, {steps} steps"}
    return next(iter(pick(numbers, **wanted)), None)


# ---- tables and figures ------------------------------------------------------------------------


def levels(one: Regime, numbers: Sequence[Number], steps: int) -> list[dict[str, Any]]:
    """List top-1 of each data set's unseen videos and of training videos, a row per arm.

    Args:
        numbers: What `outcome` returns.
    """
    rows = []
    for arm, words in NAMES.items():
        row: dict[str, Any] = {"trained": words}
        for data in (*one.worlds, SMALL):
            row[data] = _at(numbers, data, arm, "", UNSEEN, steps)
        fits = [_at(numbers, data, arm, "", TRAIN, steps) for data in one.small]
        seen = [fit.value for fit in fits if fit is not None]
        row["small sets, train"] = f"{100 * np.mean(seen):.1f}" if seen else None
        rows.append(row)
    return rows


def gains(one: Regime, numbers: Sequence[Number], steps: int) -> list[dict[str, Any]]:
    """List differences on each data set's test videos and undrawn videos, a row per difference.

    Args:
        numbers: What `outcome` returns.
    """
    rows = []
    for base in BASES:
        for arm, words in NAMES.items():
            row: dict[str, Any] = {"difference": f"{words} - {NAMES[base]}"}
            for data in one.worlds:
                tests = (TEST, UNDRAWN) if data in one.small else (TEST,)
                for test in tests:
                    row[f"{data}, {test}"] = _at(numbers, data, arm, base, test, steps)
            row[SMALL] = _at(numbers, SMALL, arm, base, UNSEEN, steps)
            if arm not in ALONE and any(isinstance(cell, Number) for cell in row.values()):
                rows.append(row)
    return rows


def found_pairs(one: Regime, numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """List the planted pairs ranked first from each side, a row per arm and read-out.

    Args:
        numbers: What `outcome` returns, for all steps.
    """
    rows = []
    for arm in (name for name in NAMES if name not in ALONE):
        for readout in READOUTS:
            row: dict[str, Any] = {"trained": NAMES[arm], "read-out": readout}
            for steps in one.steps:
                for side in ("source", "target"):
                    number = _at(numbers, PAIRS, arm, "", question(readout, side), steps)
                    row[f"{steps} steps, from the {side}"] = number
            if any(isinstance(cell, Number) for cell in row.values()):
                rows.append(row)
    return rows


def transfer(one: Regime, numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """List what each arm's backbone reaches on the world that no network was trained on.

    Args:
        numbers: What `outcome` returns, for all steps.
    """
    data, steps, rows = f"toy-{one.unseen}", one.steps[-1], []
    for arm, words in NAMES.items():
        row: dict[str, Any] = {"backbone": words if arm != "alone-steps" else "toy-base alone"}
        row |= {say: _at(numbers, data, arm, "", test, steps) for test, say in MEASURES.items()}
        rank = _at(numbers, data, arm, "", RANK, steps)
        if rank is not None:
            rows.append(row | {RANK: f"{rank.value:.1f}"})
    return rows


def by_steps(one: Regime, numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """List each claimed gain on the small data sets after each number of steps, a row per gain.

    Args:
        numbers: What `outcome` returns, for all steps.
    """
    rows = []
    for arm, base in CLAIMS:
        row: dict[str, Any] = {"difference": f"{NAMES[arm]} - {NAMES[base]}"}
        for steps in one.steps:
            row[f"{steps} steps"] = _at(numbers, SMALL, arm, base, UNSEEN, steps)
        if any(isinstance(cell, Number) for cell in row.values()):
            rows.append(row)
    return rows


def over_steps(one: Regime, numbers: Sequence[Number]) -> Figure:
    """Draw `by_steps` as lines with intervals.

    Args:
        numbers: What `outcome` returns, for all steps.
    """
    lines = {}
    for row in by_steps(one, numbers):
        at = [(steps, row[f"{steps} steps"]) for steps in one.steps]
        known = [(steps, 100 * np.array([n.value, *_ends(n)])) for steps, n in at if n]
        xs, ends = zip(*known, strict=True)
        lines[row["difference"]] = (xs, *np.stack(ends, axis=1))
    title = f"{one.title}: unseen videos of the small data sets"
    return curves(lines, "steps", "points of top-1", title, levels={"no difference": 0.0})


def _ends(one: Number) -> tuple[float, float]:
    """The interval, or the value twice if there is none."""
    if one.low is None or one.high is None:
        return one.value, one.value
    return one.low, one.high


def tables(
    one: Regime, numbers: Sequence[Number], short: bool = False
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return all tables: a sentence and its rows each.

    Args:
        short: Only those of a results page, top-1 at the largest number of steps.
    """
    made: list[tuple[str, list[dict[str, Any]]]] = []
    if len(one.steps) > 1:
        words = "Differences in points of top-1 on unseen videos of the small data sets"
        made.append((words, by_steps(one, numbers)))
    for steps in one.steps[-1:] if short else one.steps:
        words = f"Top-1 in percent after {steps} steps, unseen videos"
        made.append((words, levels(one, numbers, steps)))
    for steps in () if short else one.steps:
        words = f"Differences in points of top-1 after {steps} steps"
        made.append((words, gains(one, numbers, steps)))
    if one.unseen:
        words = f"Backbones on toy-{one.unseen}, in percent; the rank has no unit"
        made.append((words, transfer(one, numbers)))
    if len(one.steps) > 1 or not short:
        said = "; ".join(f"{name}: {WORDS[name]}" for name in READOUTS)
        chances = f"chance {100 * chance(one.worlds):.1f}"
        words = f"Planted pairs ranked first, in percent; {chances}. {said}"
        made.append((words, found_pairs(one, numbers)))
    return [(words, rows) for words, rows in made if rows]


def section(one: Regime, numbers: Sequence[Number], made: str) -> Section:
    """Make the regime's section of the report.

    Args:
        made: The sentence of `how_made`.
    """
    found: list[Any] = [made]
    if said := claims(one, numbers):
        found.append(table(said, note="At the largest number of steps."))
    if len(one.steps) > 1 and said:
        found.append(over_steps(one, numbers))
    for words, rows in tables(one, numbers):
        cells = [
            {name: cell.percent if isinstance(cell, Number) else cell for name, cell in row.items()}
            for row in rows
        ]
        found.append(table(cells, note=f"{words}."))
    return Section(one.title, found)


def page(one: Regime, numbers: Sequence[Number], made: str) -> str:
    """Return the regime's tables in Markdown, for a results page.

    Args:
        made: The sentence of `how_made`.
    """
    said = claims(one, numbers)
    text = [f"{made}\n", *([markdown(said)] if said else [])]
    for words, rows in tables(one, numbers, short=True):
        text += [f"{words}.\n", markdown([_texts(row) for row in rows])]
    return "\n".join(text)


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    made = {}
    for name, cell in row.items():
        if not isinstance(cell, Number):
            made[name] = "-" if cell is None else str(cell)
        elif cell.minus:
            made[name] = percent(cell, "+")
        else:
            made[name] = percent(cell)
    return made
