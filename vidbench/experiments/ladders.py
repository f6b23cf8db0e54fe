"""The runs of CoCLR's replication by name, and its report and page.

A run's name contains its method, its stream and the cycle whose clip budget it has: "coclr-rgb-2".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from vidbench.experiments import pages
from vidbench.experiments.paired import Number, pick
from vidbench.experiments.records import Record
from vidbench.view.figures import bars, curves
from vidbench.view.html import Section, table

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

METHODS = {"infonce": "InfoNCE", "coclr": "CoCLR", "ubernce": "UberNCE"}
STREAMS = {"rgb": "RGB", "flow": "flow", "both": "two-stream"}
METRICS = ("R@1", "probe")
LOSS, CALIBRATION = "cross-entropy", "calibration error"  # of the probe, in nats and as a share
GAP = 0.2  # smallest gap between InfoNCE and UberNCE of which the share that CoCLR closes is shown
# CoCLR's first half-cycle on RGB with one switch changed, compared with the run without the change.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "coclr-rgb-k1": ("coclr-rgb", {"topk": 1}),
    "coclr-rgb-k5": ("coclr-rgb", {"topk": 5}),
    "coclr-rgb-drop0": ("coclr-rgb", {"drop_own_key": 0.0}),
    "coclr-rgb-positive": ("coclr-rgb", {"siblings": "positive"}),
    "coclr-rgb-negative": ("coclr-rgb", {"siblings": "negative"}),
}


def at(kind: str, stream: str, cycle: int) -> str:
    """Return the name of a method's run with as many clips as CoCLR's stages up to a cycle.

    Args:
        kind: A method, such as "coclr".
        stream: A name in STREAMS.
        cycle: 0 is before co-training.
    """
    if kind == "coclr":
        return f"coclr-{stream}" + (f"-{cycle}" if cycle > 1 else "")
    return f"{kind}-{stream}" + (f"-{cycle}" if cycle else "")


PROTOCOL = (
    "CE and ECE are the probe's cross-entropy in nats and calibration error of 15 bins of equal width. "
    "Train loss is the contrastive loss of the last logged step."
)


def ladders(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """List (InfoNCE, CoCLR, UberNCE) of one stream and one clip budget each."""
    names, rungs = set(names), []
    for stream, cycle in product(STREAMS, range(1, 9)):
        low, middle, high = (at(kind, stream, cycle) for kind in METHODS)
        if {low, middle, high} <= names:
            rungs.append((low, middle, high))
    return rungs


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """List the compared pairs of runs, the first minus the second.

    These are neighbors on each ladder, two streams and each single one, and each ablation and the
    run without the change.
    """
    steps = [
        pair for low, middle, high in ladders(names) for pair in ((middle, low), (high, middle))
    ]
    streams = [
        (at(kind, "both", cycle), at(kind, stream, cycle))
        for kind, cycle, stream in product(METHODS, range(1, 9), ("rgb", "flow"))
        if {at(kind, "both", cycle), at(kind, stream, cycle)} <= set(names)
    ]
    changed = [(name, fellow) for name, (fellow, _) in ABLATIONS.items() if name in names]
    return steps + streams + changed


def report(facts: Mapping, numbers: Sequence[Number]) -> list[Section]:
    """Make the report: the ladder as figures and a table, differences, the ablations.

    Args:
        facts: As numbers.json has them.
    """
    words = (
        f"Repetitions: {', '.join(facts['cases'])}. Numbers are means over them with 95 % "
        "intervals of Student's t over repetitions. Differences are paired."
    )
    differences = [one for one in numbers if one.minus and one.metric in METRICS]
    changed = [one for one in differences if one.arm in ABLATIONS]
    steps = [one for one in differences if one.arm not in ABLATIONS]
    figures = [_figure(numbers, metric) for metric in METRICS]
    made = [
        Section("The claim", [words, *figures, _closed(numbers)]),
        Section("Differences at equal clip budgets", [_differences(steps)]),
        Section("Over clips", over_clips(facts, numbers)),
        Section("All numbers", [_all(facts, numbers)]),
    ]
    if changed:
        base = facts["settings"]["preset"]["together"]
        words = (
            "The first half-cycle on RGB with one switch changed, minus the run without the change "
            f"(k = {base['topk']}, drop_own_key {base['drop_own_key']}, siblings {base['siblings']})."
        )
        made.append(Section("One switch changed", [words, _differences(changed)]))
    return made


def _all(facts: Mapping, numbers: Sequence[Number]):
    """A table of every run's own numbers."""
    settings = facts["settings"]
    own = {(one.arm, one.metric): one for one in numbers if not one.minus}
    rows = [
        {
            "run": title(name),
            "clips": facts["budgets"][name]["clips"],
            "epochs": facts["budgets"][name]["epochs"],
            **{metric: own[name, metric].percent for metric in METRICS},
            "CE": own[name, f"probe, {LOSS}"].value,
            "ECE": own[name, f"probe, {CALIBRATION}"].value,
            "train loss": own[name, "train loss"].value if (name, "train loss") in own else None,
        }
        for name in _order(facts["budgets"])
    ]
    note = (
        f"Percent. Test queries, train gallery, cosine, {settings['protocol']['windows']} windows "
        f"a video, center crop, centering {settings['centering']}, pooled features. Probe: logistic "
        f"regression on them. Clips include those of the runs a stage starts from; a pair of views "
        f"is one; two-stream adds both. {PROTOCOL}"
    )
    return table(rows, note=note, formats={"CE": ".3f", "ECE": ".3f", "train loss": ".3f"})


def over_clips(facts: Mapping, numbers: Sequence[Number]) -> list[Figure]:
    """Draw R@1 and probe of each method on each stream over the clips that it was trained on.

    Args:
        facts: As numbers.json has them.
    """
    own = {(one.arm, one.metric): one for one in numbers if not one.minus}
    made = []
    for metric in METRICS:
        series = {}
        for kind, stream in product(METHODS, STREAMS):
            names = [at(kind, stream, cycle) for cycle in range(9) if cycle or kind != "coclr"]
            held = [name for name in names if (name, metric) in own]
            rows = sorted(
                (facts["budgets"][name]["clips"], own[name, metric].value) for name in held
            )
            if len(rows) > 1:
                series[f"{METHODS[kind]} {STREAMS[stream]}"] = tuple(
                    map(list, zip(*rows, strict=True))
                )
        if series:
            made.append(
                curves(series, "clips", f"{metric} (%)", f"{metric} over clips", percent=True)
            )
    return made


def _order(names) -> list[str]:
    """Runs by stream, then budget, then method; ablations last."""
    found = [
        name
        for stream in STREAMS
        for cycle in range(9)
        for kind in METHODS
        if (name := at(kind, stream, cycle)) in names and (cycle or kind != "coclr")
    ]
    return found + [name for name in ABLATIONS if name in names]


def _figure(numbers: Sequence[Number], metric: str):
    """The last cycle's ladder on each stream."""
    own = {one.arm: one for one in pick(numbers, metric=metric, minus="")}
    last = _last(own)
    made = [
        own[at(kind, stream, last)].bar(METHODS[kind], STREAMS[stream])
        for kind in METHODS
        for stream in STREAMS
    ]
    words = {"R@1": "R@1 of retrieval", "probe": "Linear probe"}[metric]
    return bars(made, f"{metric} (%)", f"{words}, equal clip budgets")


def _last(names: Iterable[str]) -> int:
    """The last cycle of co-training."""
    return max(cycle for cycle in range(1, 9) if at("coclr", "rgb", cycle) in set(names))


def _differences(rows: Sequence[Number]):
    shown = []
    for row in rows:
        left, right = (title(name).partition(" ") for name in (row.arm, row.minus))
        words = f"{left[0]} - {right[0]}, {left[2]}"
        if left[0] == right[0]:  # both streams minus one
            words = f"{title(row.arm)} - {right[2].partition(',')[0]}"
        shown.append(
            {
                "difference": left[2].partition(", ")[2] if row.arm in ABLATIONS else words,
                "of": row.metric,
                "points": row.percent,
                "each": row.each_percent("+"),
            }
        )
    note = "Points of percent, with 95 % intervals of the paired difference; each repetition's own."
    return table(shown, note=note, formats={"points": "+.1f"})


def _closed(numbers: Sequence[Number]):
    shown = [
        {"run": title(one.arm), "of": one.metric.split(",")[0], "closed (%)": one.percent}
        for one in numbers
        if one.minus and one.metric not in METRICS
    ]
    note = (
        f"The share of the gap between InfoNCE and UberNCE that CoCLR closes, if that is {GAP:.0%} "
        "or more."
    )
    words = f"No gap between InfoNCE and UberNCE is {GAP:.0%} or more, so no share is shown."
    return table(shown, note=note) if shown else words


def title(name: str) -> str:
    """Return a run's name for readers: "coclr-rgb-2" -> "CoCLR RGB, cycle 2"."""
    kind, stream, *rest = name.split("-")
    words = {
        "k1": "k = 1",
        "k5": "k = 5",
        "drop0": "own key always positive",
        "positive": "siblings positive",
        "negative": "siblings negative",
    }
    cycle = int(rest[0]) if rest and rest[0].isdigit() else 1 if kind == "coclr" else 0
    behind = words[rest[0]] if rest and rest[0] in words else f"cycle {cycle}" if cycle else "init"
    return f"{METHODS[kind]} {STREAMS[stream]}, {behind}"


# ---- page --------------------------------------------------------------------------------------

PUBLISHED = {  # S3D on UCF101: R@1 of InfoNCE and CoCLR
    "rgb": "R@1 33.1 to 51.8",
    "flow": "R@1 45.2 to 48.4",
}


def page(facts: Mapping, numbers: Sequence[Number], records: Sequence[Record]) -> str:
    """Return the tables of a results page in Markdown: the claims with verdicts, then all runs.

    Args:
        facts: As numbers.json has them.
    """
    names = list(facts["budgets"])
    last = _last(names)
    claims = []
    for stream in STREAMS:
        low, middle, high = (at(kind, stream, last) for kind in METHODS)
        claims += [_claim(numbers, middle, low, stream), _claim(numbers, high, middle)]
    both = at("coclr", "both", last)
    claims += [_claim(numbers, both, at("coclr", stream, last)) for stream in ("rgb", "flow")]
    parts = [pages.provenance(records), f"{PROTOCOL}\n", pages.table(claims)]
    own = {(one.arm, one.metric): one for one in numbers if not one.minus}
    rows = []
    for name in _order(names):
        loss = own.get((name, "train loss"))
        rows.append(
            {
                "run": title(name),
                "clips": f"{facts['budgets'][name]['clips']:.0f}",
                **{metric: pages.percent(own[name, metric]) for metric in METRICS},
                "probe CE": f"{own[name, f'probe, {LOSS}'].value:.3f}",
                "probe ECE": f"{own[name, f'probe, {CALIBRATION}'].value:.3f}",
                "train loss": f"{loss.value:.3f}" if loss else "",
            }
        )
    heading = f"### All runs: {len(facts['cases'])} repetitions\n"
    return "\n".join([*parts, heading, pages.table(rows)])


def _claim(numbers: Sequence[Number], arm: str, minus: str, stream: str = "") -> dict[str, str]:
    """One difference as a row of the claims."""
    row = {"difference": f"{title(arm)} - {title(minus)}"}
    for metric in METRICS:
        (one,) = pick(numbers, arm=arm, minus=minus, metric=metric)
        row |= {metric: pages.percent(one, "+"), f"verdict, {metric}": pages.verdict(one)}
    return row | {"published": PUBLISHED.get(stream, "")}
