"""The demo's report: one offline page with numbers, curves and a gallery of playing clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.engine.runs import Run
from vidbench.evaluate.differences import difference_words
from vidbench.evaluate.evaluate import Evaluation
from vidbench.evaluate.search import Neighbors
from vidbench.view.clips import neighbors_gallery, wheel
from vidbench.view.figures import Bar, bars, curves
from vidbench.view.galleries import filmstrip
from vidbench.view.html import Html, Section, table, write_page

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

METRICS = ("R@1", "R@5", "probe")  # that the report shows
COMPARED = ("coclr-rgb", "infonce-rgb-long")  # equal clip budgets, the first minus the second
SHOWN = ("infonce-rgb-long", "coclr-rgb", "infonce-flow")  # in the gallery
NEAREST = 5  # neighbors of a query in the gallery
TITLES = {
    "random": "random net",
    "infonce-rgb": "InfoNCE RGB",
    "infonce-rgb-long": "InfoNCE RGB, CoCLR's budget",
    "coclr-rgb": "CoCLR RGB",
    "infonce-flow": "InfoNCE flow",
}


@dataclass(frozen=True)
class Made:
    """How the numbers were made: the flow's method, seconds of each part, runs.environment."""

    flow: str
    seconds: Mapping[str, float]
    machine: Mapping[str, Any]


def write_report(
    out: Path, manifest: Manifest, split: str, found: Mapping[str, Evaluation], made: Made
) -> Path:
    """Write `out`/report.html.

    Args:
        out: The demo's folder.
        split: Of the queries.
        found: The evaluation of each run of TITLES, on the rows of `split`.
        made: How the numbers were made.
    """
    train, queries = manifest.select(split="train"), manifest.select(split=split)
    runs = [found[name] for name in TITLES]
    words = (
        f"{len(manifest)} videos of {len(manifest.classes)} classes, cut from "
        f"{len(np.unique(manifest.source_video))} sources; {len(train)} for training, "
        f"{len(queries)} held out ({split}). Flow: {made.flow.upper()}. No label was used in "
        "training; labels serve the numbers below and the purity curve."
    )
    shown = [words, numbers_table(runs, split), difference(found, queries)]
    sections = [
        Section("Numbers", [*shown, _bars(runs, len(manifest.classes))]),
        Section("Neighbors", _neighbors(train, queries, found)),
        Section("Training", _curves(out / "runs")),
        Section("What the networks see", _strips(out, queries, made.flow)),
        Section("How it was made", [_how(made)]),
    ]
    return write_page(out / "report.html", "vidbench demo: from video files to neighbors", sections)


def numbers_table(runs: Sequence[Evaluation], split: str) -> Html:
    """Make a table of R@1, R@5 and probe in percent, with bootstrap intervals over sources.

    Args:
        split: Of the queries.
    """
    shown = [
        {
            "run": TITLES[one.run],
            "clips seen": one.budget["clips"],
            **{key: tuple(100 * x for x in one.numbers[key]) for key in METRICS},
        }
        for one in runs
    ]
    protocol = runs[0].protocols["retrieval"]
    note = (
        f"Percent, with 95 % bootstrap intervals over sources. R@k: {split} queries, train "
        f"gallery, cosine, {protocol['windows']} windows a video, {protocol['crops']} crop, pooled "
        f"backbone features, centering {protocol['centering']}. Probe: logistic regression on the "
        "same features, standardized, its C chosen on train. Clips seen include those of the run "
        "a stage starts from; a view pair counts as one."
    )
    return table(shown, best=dict.fromkeys(METRICS, "max"), note=note)


def difference(found: Mapping[str, Evaluation], queries: Manifest) -> str:
    """State CoCLR - InfoNCE at equal clip budgets in a sentence.

    Args:
        found: The evaluation of each run.
    """
    one, other = (found[name] for name in COMPARED)
    hits, names = (one.hits["R@1"], other.hits["R@1"]), (TITLES[one.run], TITLES[other.run])
    iterations = min(part.budget["iterations"] for part in (one, other))
    return difference_words(names, hits, queries.source_video, iterations=iterations)


def _neighbors(train: Manifest, queries: Manifest, found: Mapping[str, Evaluation]) -> list:
    """A query of each class with its neighbors by three runs, and the share of right neighbors."""
    first = np.sort(np.unique(queries.label, return_index=True)[1])
    lines, shares = {}, []
    for name in SHOWN:
        near = found[name].neighbors
        lines[name] = Neighbors(near.rows[first], near.scores[first])
        right = train.label[near.rows[:, :NEAREST]] == queries.label[:, None]
        shares.append(f"{right.mean():.0%} with {TITLES[name]}")
    how = (
        f"The first query of each class, and its {NEAREST} nearest videos in train. Right among the "
        f"{NEAREST} nearest, over all {len(queries)} queries: {', '.join(shares)}."
    )
    picked = queries.select(mask=first)
    return [
        how,
        neighbors_gallery(train, picked, lines, titles=TITLES, shown=len(first), results=NEAREST),
    ]


def _bars(runs: Sequence[Evaluation], classes: int) -> Figure:
    groups = {"R@1": "R@1", "probe": "linear probe"}
    made = [
        Bar(TITLES[one.run], group, *one.numbers[key])
        for key, group in groups.items()
        for one in runs
    ]
    title, chance = "Retrieval and probe on held-out videos", {"chance": 1 / classes}
    return bars(made, "percent", title, levels=chance)


def _curves(runs: Path) -> list:
    logs = {name: Run(runs / name).curves() for name in TITLES if name != "random"}
    figures = ["The first steps only fill the queue. CoCLR starts from InfoNCE RGB's weights."]
    for key, words, names in (
        ("loss", "Loss", logs),
        ("accuracy", "Contrastive accuracy, percent", logs),
        ("purity", "Purity of the mined positives, percent", ["coclr-rgb"]),
    ):
        series = {
            TITLES[name]: (
                logs[name]["epoch"],
                [np.nan if y is None else y for y in logs[name][key]],
            )
            for name in names
        }
        figures.append(curves(series, "epoch", key, words, percent=key != "loss"))
    return figures


def _strips(out: Path, queries: Manifest, method: str) -> list:
    picked = windows.spread(len(queries), 3)
    strips, titles = [], []
    for row in picked:
        path = str(queries.path[row])
        info = flow_store.meta(out / "flow", path, queries.absolute(row))
        colored = estimate.colors(
            estimate.dequantize(flow_store.load(out / "flow", path), info["bound"])
        )
        strips += [clips.read(queries.absolute(row)).frames, colored]
        titles += [str(queries.classes[queries.label[row]]), f"flow ({method})"]
    return [filmstrip(strips, titles), wheel()]


def _how(made: Made) -> Html:
    rows = [{"part": name, "seconds": seconds} for name, seconds in made.seconds.items()]
    machine = made.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = (
        f"{machine['cores']} cores, {machine['device']}, Python {machine['python']}; {versions}."
    )
    return table(rows, note=f"Seconds of the last call, on {where}")
