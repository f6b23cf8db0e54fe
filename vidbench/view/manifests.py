"""Tables and figures of a manifest: splits, classes, sizes and lengths of videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.manifest import SPLITS, Manifest
from vidbench.evaluate.chance import no_labels
from vidbench.view.figures import Bar, bars
from vidbench.view.html import table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.view.looks import Html

LARGEST = 12  # classes of the figure
SIZES = 6  # rows of the table of sizes
SHARES = (25, 50, 75, 100)  # percent of the videos


def split_table(manifest: Manifest) -> Html:
    """List videos, source videos and classes of each split.

    The note counts source videos that are in train and in another split; it must be 0."""
    parts = _parts(manifest)
    rows = [
        {
            "split": name,
            "videos": len(part),
            "source videos": len(np.unique(part.source_video)),
            "classes": len(np.unique(part.label[part.label >= 0])),
            "without a label": int((part.label < 0).sum()),
        }
        for name, part in parts.items()
    ]
    return table(rows, note=f"source videos in train and in a held-out split: {shared(manifest)}")


def shared(manifest: Manifest) -> int:
    """Count source videos that are both in train and in a held-out split."""
    train = manifest.select(split="train").source_video
    others = (manifest.select(split=name).source_video for name in SPLITS if name != "train")
    return sum(len(np.intersect1d(train, other)) for other in others)


def class_bars(manifest: Manifest) -> Figure | str:
    """Draw the number of videos of the largest classes by split; without labels, a sentence."""
    if not manifest.labeled:
        return no_labels("this figure")
    counts = {
        name: np.bincount(part.label[part.label >= 0], minlength=len(manifest.classes))
        for name, part in _parts(manifest).items()
    }
    total = sum(counts.values())
    largest = np.argsort(-np.asarray(total), kind="stable")[:LARGEST]
    made = []
    for number in largest.tolist():
        name = manifest.classes[number]
        made += [Bar(split, name, int(count[number])) for split, count in counts.items()]
    title = f"The {len(largest)} largest of {len(manifest.classes)} classes"
    return bars(made, "videos", title, percent=False)


def size_table(manifest: Manifest) -> Html:
    """List the most frequent frame sizes of a scanned manifest."""
    facts = manifest.scanned()
    sizes = np.stack([facts["height"], facts["width"]], 1)
    shapes, times = np.unique(sizes, axis=0, return_counts=True)
    rows = [
        {"height": shapes[at][0], "width": shapes[at][1], "videos": times[at]}
        for at in np.argsort(-times)[:SIZES]
    ]
    rates = len(np.unique(facts["fps"].round(2)))
    return table(rows, note=f"pixels; number of sizes: {len(shapes)}, of frame rates: {rates}")


def length_table(manifest: Manifest) -> Html:
    """List the frames and seconds that a share of a scanned manifest's videos does not exceed."""
    facts = manifest.scanned()
    frames, seconds = facts["frames"], facts["frames"] / np.maximum(facts["fps"], 1e-3)
    rows = [
        {
            "share of the videos, %": share,
            "frames": int(np.percentile(frames, share, method="lower")),
            "seconds": np.percentile(seconds, share),
        }
        for share in SHARES
    ]
    total = f"{frames.sum():,} frames, {seconds.sum() / 3600:.2f} hours"
    note = f"so many have at most these frames and seconds; total: {total}"
    return table(rows, formats={"seconds": ".1f"}, note=note)


def _parts(manifest: Manifest) -> dict[str, Manifest]:
    """The splits that have videos."""
    parts = {name: manifest.select(split=name) for name in SPLITS}
    return {name: part for name, part in parts.items() if len(part)}
