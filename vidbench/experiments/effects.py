"""The report and the page of RMS's replication: figures, tables and verdicts from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vidbench.experiments import pages
from vidbench.experiments.arms import ARMS, BASELINE, UNDRAWN
from vidbench.experiments.paired import Number, pick
from vidbench.experiments.records import Record
from vidbench.view.figures import bars, curves, whiskers
from vidbench.view.html import Html, Section, table

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

LOSS, CALIBRATION = "cross-entropy", "calibration error"
PROTOCOL = (
    "Cross-entropy (CE) is in nats. The calibration error (ECE) has 15 bins of equal width of the "
    "largest probability. Both are of the mean probabilities over a video's views, without temperature."
)


def report(facts: Mapping, numbers: Sequence[Number]) -> list[Section]:
    """Make the report: what each arm adds, then each data set's arms as a figure and a table.

    Args:
        facts: `experiments`: the facts of each experiment.
    """
    found = facts["experiments"]
    words = (
        "RMS and its rivals, each added to the same baseline. All arms of a seed have the same "
        "first weights, videos and order of clips. RMS's published tables are not available, so "
        "the report compares with none. Intervals are Student's t over seeds."
    )
    parts = [words, over_baseline(numbers, found), _all(numbers, found)]
    if over := over_steps(numbers, found):
        parts += over
    made = [Section("All data sets", parts)]
    for one in found:
        mine = pick(numbers, data=one["name"])
        made.append(Section(one["name"], [figure(mine, one), _arms(mine, one), *_gained(one)]))
    return made


def _gain(numbers: Sequence[Number], one: Mapping, arm: str, test: str = "") -> Number | None:
    """The arm minus the baseline by a test, the data set's main test unless given."""
    wanted = {"data": one["name"], "metric": test or one["tests"][-1], "minus": BASELINE}
    return next(iter(pick(numbers, arm=arm, **wanted)), None)


def over_baseline(numbers: Sequence[Number], found: Sequence[Mapping]) -> Figure:
    """Draw top-1 of all arms minus the baseline's on each data set.

    Args:
        found: The facts of each experiment.
    """
    gained = [_gain(numbers, one, arm) for one in found for arm in ARMS]
    rows = [one.bar(ARMS[one.arm].words, one.data) for one in gained if one]
    title = "Top-1 that each arm adds, with 95 % intervals"
    return whiskers(rows, "points of top-1 minus the baseline's", title)


def over_steps(numbers: Sequence[Number], found: Sequence[Mapping]) -> list[Figure]:
    """Draw top-1 and cross-entropy minus the baseline's over steps, for data with several lengths.

    Args:
        found: The facts of each experiment.
    """
    places = {one["place"] for one in found}
    made = []
    for place in sorted(places):
        lengths = sorted((o for o in found if o["place"] == place), key=lambda o: o["steps"])
        if len(lengths) < 2:
            continue
        for metric, words, scale in (("", "points of top-1", 100.0), (LOSS, "nats", 1.0)):
            series = {}
            for arm in ARMS:
                line = [(o["steps"], _gain(numbers, o, arm, _named(o, metric))) for o in lengths]
                held = [(step, number) for step, number in line if number]
                if len(held) > 1:
                    series[ARMS[arm].words] = _band(held, scale)
            title = f"{place}: each minus the baseline, over steps of training"
            made.append(curves(series, "steps", words, title, levels={"baseline": 0.0}))
    return made


def _named(one: Mapping, metric: str) -> str:
    return f"{one['tests'][-1]}, {metric}" if metric else one["tests"][-1]


def _band(held: Sequence[tuple[int, Number]], scale: float) -> tuple[list[float], ...]:
    """Steps, values and both ends of the intervals; a number without interval has a band of 0."""
    rows = []
    for steps, one in held:
        ends = [one.value if end is None else end for end in (one.low, one.high)]
        rows.append((float(steps), *(scale * value for value in (one.value, *ends))))
    return tuple(list(column) for column in zip(*rows, strict=True))


def _all(numbers: Sequence[Number], found: Sequence[Mapping]) -> Html:
    """A table of all arms: top-1 minus the baseline's on each data set."""
    rows = []
    for arm, (words, *_) in ARMS.items():
        gained = {one["name"]: _gain(numbers, one, arm) for one in found}
        if any(gained.values()):
            cells = {name: number and number.percent for name, number in gained.items()}
            rows.append({"added": words, **cells})
    runs = ", ".join(
        f"{one['name']} {len(one['seeds'])} seeds, {one['tests'][-1]}" for one in found
    )
    note = (
        f"Top-1 minus the baseline's, points of percent with 95 % intervals (at most {runs}; "
        "the number of seeds of each arm is below)."
    )
    return table(rows, note=note, formats={one["name"]: "+.1f" for one in found})


def figure(numbers: Sequence[Number], one: Mapping) -> Figure:
    """Draw top-1 of each arm by each test, with intervals.

    Args:
        one: The facts of the experiment.
    """
    own = [number for test in one["tests"] for number in pick(numbers, metric=test, minus="")]
    rows = [number.bar(number.metric, ARMS[number.arm].words) for number in own]
    return bars(rows, "top-1 (%)", f"{one['name']}: test videos")


def _arms(numbers: Sequence[Number], one: Mapping) -> Html:
    """The arms' numbers by the main test."""
    main, rows = one["tests"][-1], []
    value = {(number.arm, number.metric): number.value for number in numbers if not number.minus}
    for top1 in pick(numbers, metric=main, minus=""):
        gain, arm = _gain(numbers, one, top1.arm), top1.arm
        calm = _gain(numbers, one, arm, f"{main}, {LOSS}")
        row = {
            "added": ARMS[arm].words,
            "seeds": len(top1.each),
            "top-1": top1.value,
            "- baseline": gain and gain.percent,
            "each seed": top1.each_percent(),
            "CE": value[arm, f"{main}, {LOSS}"],
            "CE - baseline": calm and _ends(calm),
            "ECE": value[arm, f"{main}, {CALIBRATION}"],
            "train": value[arm, "train"],
            "train CE": value[arm, f"train {LOSS}"],
            "train - test": value[arm, "train - test"],
            "learned": value[arm, "learned"],
            "time": value[arm, "time"],
        }
        if UNDRAWN in one["tests"]:
            apart = _gain(numbers, one, arm, UNDRAWN)
            row["undrawn - baseline"] = apart and apart.percent
        rows.append(row)
    percents = dict.fromkeys(("top-1", "train", "train - test"), ".1%")
    formats = {"- baseline": "+.1f", "CE": ".3f", "CE - baseline": "+.3f", "ECE": ".3f"}
    more = {"train CE": ".3f", "time": ".2f", "learned": ".0%"}
    if UNDRAWN in one["tests"]:
        more["undrawn - baseline"] = "+.1f"
    note = (
        f"{main}, {one['test_videos']} test videos, {one['recipe']['fit']['epochs']} epochs, "
        f"{one['steps']} steps, last epoch. `train` is top-1 of training videos on one view, without "
        "augmentation. `learned` is the share of seeds with top-1 of at least 50 %. `time` is "
        f"training time over the baseline's; other runs shared the machine. {PROTOCOL}"
    )
    return table(rows, formats={**percents, **formats, **more}, note=note)


def _ends(number: Number) -> tuple[float, ...]:
    """Value and interval as a cell of a table."""
    return tuple(end for end in (number.value, number.low, number.high) if end is not None)


def _gained(one: Mapping) -> list:
    rows = one["classes"]
    if not rows:
        return []
    shown = rows if len(rows) <= 12 else rows[:6] + rows[-6:]
    formats = {"before": ".1%", "after": ".1%", "gain": "+.1%"}
    note = "Classes by what RMS (mean) adds to the baseline, mean over seeds."
    return [table(shown, formats=formats, note=note)]


# ---- page --------------------------------------------------------------------------------------


def page(facts: Mapping, numbers: Sequence[Number], records: Sequence[Record]) -> str:
    """Format the tables of a results page in Markdown: the claim per data set, then all arms.

    Args:
        facts: `experiments`: the facts of each experiment.
    """
    found = facts["experiments"]
    claim = [
        {
            "data": one["name"],
            "steps": one["steps"],
            "seeds": len(gain.each),
            "RMS - baseline, points": pages.percent(gain, "+"),
            "cross-entropy, nats": pages.plain(_gain(numbers, one, "rms", _named(one, LOSS)), "+"),
            "baselines that learned": _learned(numbers, one),
            "verdict": pages.verdict(gain),
        }
        for one in found
        if (gain := _gain(numbers, one, "rms"))
    ]
    parts = [pages.provenance(records), f"{PROTOCOL}\n"]
    if claim:
        parts.append(pages.table(claim))
    for one in found:
        mine = pick(numbers, data=one["name"])
        heading = f"### {one['name']}: {one['steps']} steps, {one['test_videos']} test videos\n"
        parts += [heading, pages.table([_line(mine, one, arm) for arm in _of(mine, one)])]
    return "\n".join(parts)


def _learned(numbers: Sequence[Number], one: Mapping) -> str:
    (found,) = pick(numbers, data=one["name"], arm=BASELINE, metric="learned")
    return f"{sum(map(bool, found.each))} of {len(found.each)}"


def _of(numbers: Sequence[Number], one: Mapping) -> list[str]:
    """The arms of a data set, in their order."""
    return [number.arm for number in pick(numbers, metric=one["tests"][-1], minus="")]


def _line(numbers: Sequence[Number], one: Mapping, arm: str) -> dict[str, str]:
    """One arm as a row of the page's table."""
    own = {number.metric: number for number in pick(numbers, arm=arm, minus="")}
    main = one["tests"][-1]
    gain = _gain(numbers, one, arm)
    row = {
        "arm": ARMS[arm].words,
        "seeds": str(len(own[main].each)),
        "top-1": pages.percent(own[main]),
        "- baseline": pages.percent(gain, "+"),
    }
    if UNDRAWN in one["tests"]:
        row["undrawn - baseline"] = pages.percent(_gain(numbers, one, arm, UNDRAWN), "+")
    return row | {
        "CE": f"{own[_named(one, LOSS)].value:.3f}",
        "CE - baseline": pages.plain(_gain(numbers, one, arm, _named(one, LOSS)), "+"),
        "ECE": f"{own[_named(one, CALIBRATION)].value:.3f}",
        "train top-1": f"{100 * own['train'].value:.1f}",
        "train CE": f"{own[f'train {LOSS}'].value:.3f}",
        "verdict": pages.verdict(gain) if gain else "",
    }
