"""The demo's report: one offline page with the numbers, the curves and a gallery of playing
clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.flow import estimate
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.engine.runs import Run
from vidbench.evaluate.search import Neighbors
from vidbench.view.clips import neighbors_gallery
from vidbench.view.figures import Bar, bars, curves
from vidbench.view.galleries import filmstrip
from vidbench.view.html import Html, Section, table, write_page
from vidbench.view.looks import PALETTE

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

COMPARED = ("infonce-rgb-long", "coclr-rgb")  # equal clip budgets
TITLES = {
    "random": "random net",
    "infonce-rgb": "InfoNCE RGB",
    "infonce-rgb-long": "InfoNCE RGB, CoCLR's budget",
    "coclr-rgb": "CoCLR RGB",
    "infonce-flow": "InfoNCE flow",
}
COLORS = {
    TITLES["random"]: PALETTE[6],
    TITLES["infonce-rgb"]: PALETTE[5],
    TITLES["infonce-rgb-long"]: PALETTE[0],
    TITLES["coclr-rgb"]: PALETTE[1],
    TITLES["infonce-flow"]: PALETTE[2],
}


def write_report(
    out: Path, manifest: Manifest, split: str, facts: dict, found: Mapping[str, Neighbors]
) -> Path:
    """Write `out`/report.html. facts: what demo's numbers.json holds; found: a run's neighbors of
    the split's rows."""
    gallery_rows, queries = manifest.select(split="train"), manifest.select(split=split)
    rows = sorted(facts["numbers"], key=lambda row: list(TITLES).index(row["run"]))
    sections = [
        Section(
            "Numbers",
            [
                _words(facts, manifest, gallery_rows, queries, split),
                numbers_table(rows, split),
                _bars(rows, len(manifest.classes)),
            ],
        ),
        Section(
            "Neighbors",
            [
                f"Queries from {split}, spread evenly over its list, not chosen; their nearest "
                "videos in train.",
                neighbors_gallery(
                    gallery_rows, queries, {name: found[name] for name in COMPARED}, titles=TITLES
                ),
            ],
        ),
        Section("Training", _curves(out / "runs")),
        Section("What the networks see", _strips(out, queries, facts["settings"]["flow"])),
        Section("How it was made", [_made(facts)]),
    ]
    write_page(out / "report.html", "vidbench demo: from video files to neighbors", sections)
    return out / "report.html"


def numbers_table(rows: list[dict], split: str) -> Html:
    """R@1, R@5 and probe of each run in percent, with bootstrap intervals over sources."""
    shown = [
        {
            "run": TITLES[row["run"]],
            "clips seen": row["clips"],
            **{key: tuple(100 * x for x in row[key]) for key in ("R@1", "R@5", "probe")},
        }
        for row in rows
    ]
    protocol = rows[0]["protocol"]
    note = (
        f"Percent, with 95 % bootstrap intervals over sources. R@k: {split} queries, train "
        "gallery, cosine, "
        f"{protocol['windows']} windows a video, {protocol['crops']} crop, pooled backbone "
        "features, "
        f"centering {protocol['centering']}. Probe: logistic regression on the same features, "
        "standardized, its C "
        "chosen on train. Clips seen include those of the run a stage starts from; a view pair "
        "counts as one."
    )
    return table(shown, best={"R@1": "max", "R@5": "max", "probe": "max"}, note=note)


def _words(facts: dict, manifest: Manifest, train: Manifest, queries: Manifest, split: str) -> str:
    source_videos = len(np.unique(manifest.source_video))
    method = facts["settings"]["flow"].upper()
    return (
        f"{len(manifest)} videos of {len(manifest.classes)} classes, cut from {source_videos} sources; "
        f"{len(train)} for "
        f"training, {len(queries)} held out ({split}). Flow: {method}. No label was used in "
        "training; labels serve "
        "the numbers below and the purity curve."
    )


def _bars(rows: list[dict], classes: int) -> Figure:
    groups = {"R@1": "R@1", "probe": "linear probe"}
    made = [
        Bar(TITLES[row["run"]], group, *row[key]) for key, group in groups.items() for row in rows
    ]
    return bars(
        made,
        "percent",
        "Retrieval and probe on held-out videos",
        levels={"chance": 1 / classes},
        colors=COLORS,
    )


def _curves(runs: Path) -> list:
    logs = {name: Run(runs / name).curves() for name in TITLES if name != "random"}
    figures = [
        "The first points are of steps that only fill the queue. CoCLR starts from InfoNCE RGB's "
        "weights."
    ]
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
        figures.append(curves(series, "epoch", key, words, percent=key != "loss", colors=COLORS))
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
    return [filmstrip(strips, titles)]


def _made(facts: dict) -> Html:
    rows = [{"part": name, "seconds": seconds} for name, seconds in facts["seconds"].items()]
    machine = facts["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = (
        f"{machine['cores']} cores, {machine['device']}, Python {machine['python']}; {versions}."
    )
    return table(rows, note=f"Seconds of the last call, on {where}")
