"""Functions of notebooks 30 and 31: open data sets, plan a joint run, train and test it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import scan
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine import ranks, runs
from vidbench.engine.runs import Run
from vidbench.evaluate import projections
from vidbench.evaluate.evaluate import classified
from vidbench.evaluate.features import PROTOCOLS, fitting, load_or_extract
from vidbench.methods import multitrain
from vidbench.methods.common import data_set
from vidbench.system.processes import cores
from vidbench.tensors.losses import covariance_floor

if TYPE_CHECKING:
    from vidbench.evaluate.probe import Score

SMALL = 1000  # a data set with fewer videos is scanned here
MANY = 2000  # with more videos in all data sets, several processes read them
TRAIN = "vidbench.methods.multitrain:train"
# Supplement, 2.3, on 8 V100: (samples, seconds) of an epoch. For MViTv2's own code it gives only
# the rate, 91.0 clips per second.
EPOCHS = {
    "Kinetics-400": (240_000, 3200.0),
    "Kinetics-400, MViTv2's own code": (240_000, 240_000 / 91.0),
    "Kinetics-700": (525_460, 6900.0),
    "ImageNet-1K": (1_280_000, 1800.0),
    "ImageNet-21K-P": (11_060_000, 11_000.0),
}
# Epochs of video and of images, and seconds of an epoch of images. The supplement has 200 and 75
# and the seconds; 100, 300 and 90 are inferred from its 34 % and 92 %.
STARTS = {
    "video from scratch": (200, 0, 0),
    "ImageNet-1K, then video": (100, 300, 1800),
    "ImageNet-21K-P, then video": (75, 90, 11000),
}


class Opened(NamedTuple):
    """A data set of a joint run: the folder of its videos and flow, and its manifest."""

    place: Path
    manifest: Manifest


Sets = Mapping[str, Opened]  # by the name that the joint run uses


def open_sets(runs_dir: str | Path, data: Sequence[str]) -> tuple[Path, dict[str, Opened]]:
    """Open data sets; return the folder of their joint runs, and the data sets by name.

    Args:
        runs_dir: The folder of everything written.
        data: Names or folders of data sets.
    """
    opened = [Opened(*catalogue.prepare_dataset(runs_dir, one)) for one in data]
    sets = {one.place.name.replace(".", "_"): one for one in opened}
    return Path(runs_dir).resolve() / "+".join(sets), sets


def availability(sets: Sets) -> list[dict[str, Any]]:
    """List what each data set's lists name and what of it can be used: rows of a table.

    Small data sets are scanned here; of a large one an earlier scan is read, if there is one.
    """
    rows: list[dict[str, Any]] = []
    for name, (place, manifest) in sets.items():
        if len(manifest) < SMALL or (place / "scan" / "scan.csv").exists():
            out = place / "scan"
            one = scan.scan(manifest, out, workers=2, check_with=None, progress=False)
            facts = {"data": name, "classes": len(manifest.classes)}
            rows += [{**facts, **row} for row in one.availability()]
    return rows or [{"data": "none was scanned"}]


def recipe_of(
    sets: Sets, preset: str, segments: Sequence[int], epochs: int, changes: Mapping[str, Any]
) -> multitrain.Recipe:
    """Return the recipe of the joint run; if it reads flow, flow is computed.

    Args:
        preset: A name in multitrain.PRESETS.
        segments: Numbers of data sets seen as segments of whole videos and never flipped.
        epochs: 0 takes the preset's number.
        changes: Further fields.
    """
    base = runs.changed(multitrain.PRESETS[preset], dict(changes))
    base = replace(base, fit=replace(base.fit, epochs=epochs or base.fit.epochs))
    parts = []
    for number, (name, (place, manifest)) in enumerate(sets.items()):
        if base.stream == "flow":
            flow_store.complete(manifest, place / "flow", "dis", workers=2)
        kind = multitrain.SEGMENTS if number in segments else multitrain.ClipChange()
        paths = str(place / "videos"), str(place / "flow")
        parts.append(multitrain.Part(name, paths[0], flow=paths[1], clip=kind))
    return multitrain.rows_of(replace(base, parts=tuple(parts)))[1]


def plan_rows(recipe: multitrain.Recipe) -> list[dict[str, Any]]:
    """List how often each data set is seen, and which data sets its clips are mixed with.

    Returns:
        Rows of a table.
    """
    rows = []
    for row in multitrain.planned(recipe):
        kept = ("data", "videos", "share", "a step", "an epoch", "seen")
        mixed = {name: value for name, value in row.items() if name.startswith("mixed with ")}
        rows.append({**{name: row[name] for name in kept}, **mixed})
    return rows


def epoch_rows() -> list[dict[str, Any]]:
    """List what an epoch took the authors, and its cost per sample over Kinetics-400's.

    Returns:
        Rows of a table.
    """
    videos, seconds = EPOCHS["Kinetics-400"]
    return [
        {
            "epoch of": name,
            "samples": count,
            "seconds": took,
            "samples a second": count / took,
            "cost a sample": (took / count) / (seconds / videos),
        }
        for name, (count, took) in EPOCHS.items()
    ]


def cost_rows() -> list[dict[str, Any]]:
    """List costs of training from images, relative to 200 epochs of video: rows of a table."""
    rows = []
    for start, (video, images, seconds) in STARTS.items():
        times = multitrain.cost(video, images, seconds, 3200, scratch=200)
        rows.append(
            {"start": start, "video epochs": video, "image epochs": images, "times the cost": times}
        )
    return rows


def train_all(recipe: multitrain.Recipe, folder: Path, alone: bool) -> dict[str, Path]:
    """Train the joint run into `folder`, and a run on each data set; return data set -> folder.

    Args:
        alone: Train the runs on single data sets; otherwise {} is returned.
    """
    ranks.launch(TRAIN, runs.recipe_dict(recipe), str(folder), nproc=0)
    single = {part.name: folder.parent / f"alone-{part.name}" for part in recipe.parts if alone}
    for part in recipe.parts if alone else ():
        one = runs.recipe_dict(multitrain.alone(recipe, part))
        ranks.launch(TRAIN, one, str(single[part.name]), nproc=0)
    return single


def informative(run: Run) -> tuple[dict[str, tuple[list, list]], dict[str, float]]:
    """Return the informative loss's terms over epochs, and the covariance of noise alone."""
    recipe, log = run.recipe, run.curves()
    clips = recipe.fit.batch * recipe.clip.views // recipe.fit.accumulate
    terms: dict[str, tuple[list, list]] = {}
    for name in ("variance", "covariance"):
        if name in log:
            terms[name] = log["epoch"], log[name]
    return terms, {"noise alone": covariance_floor(clips, recipe.expander[1])}


def accuracies(run: Run) -> dict[str, tuple[list, list]]:
    """Return each data set's accuracy in training, over epochs."""
    log = run.curves()
    return {
        part.name: (log["epoch"], [value or 0.0 for value in log[f"{part.name} accuracy"]])
        for part in run.recipe.parts
    }


def tested(sets: Sets, folders: Mapping[str, Path], tests: Sequence[str]) -> dict[str, Score]:
    """Test runs on the held-out videos of each data set, by its own head: data set -> score.

    Args:
        folders: Data set -> the run.
        tests: A protocol for all, or one for each, in turn.
    """
    workers = _workers(sets)
    found = {}
    for number, (name, folder) in enumerate(folders.items()):
        test, split = tests[number % len(tests)], sets[name].manifest.held_out()
        views = {test: PROTOCOLS[test]}
        found[name] = classified(folder, split, views, data=name, workers=workers)[test]
    return found


def relations_of(run: Run, sets: Sets, split: str) -> dict[tuple[str, str], projections.Relation]:
    """Read the maps between the label spaces on the videos of a split.

    A data set that is trained on segments of whole videos is read on the middles of segments.

    Args:
        split: Of every data set.
    """
    workers, tables = _workers(sets), {}
    for name, one in sets.items():
        read = fitting(projections.READ, data_set(run, name))
        tables[name] = load_or_extract(
            run, split, read, manifest=one.manifest, data=name, workers=workers
        )
    return projections.relations(run, tables)


def planted(
    found: Mapping[tuple[str, str], projections.Relation],
) -> dict[tuple[str, str], np.ndarray]:
    """Return which classes of two toy worlds show the same: pair of worlds -> bool [C_s,C_t]."""
    rows, truth = toy.correspondence(), {}
    for pair, one in found.items():
        worlds = {
            name: name.partition("-")[2] or "base"
            for name in pair
            if name.partition("-")[0] in toy.PRESETS
        }
        if len(worlds) == len(pair):
            truth[pair] = projections.truth(rows, one, worlds)
    return truth


def planted_rows(
    found: Mapping[tuple[str, str], projections.Relation],
    truth: Mapping[tuple[str, str], np.ndarray],
) -> list[dict[str, Any]]:
    """List how often each read-out finds what was planted: rows of a table.

    Args:
        found: (source, target) -> relation.
        truth: What `planted` returns.
    """
    rows = [
        {
            "read-out": name,
            "ranked from": side,
            "classes": len(one["top-1"]),
            "top-1": one["top-1"].mean(),
            "chance": one["top-1 by chance"].mean(),
            "mean reciprocal rank": one["reciprocal rank"].mean(),
            "by chance": one["reciprocal rank by chance"].mean(),
        }
        for (name, side), one in projections.recovered_both_ways(found, truth).items()
    ]
    return rows or [{"planted": "nothing"}]


def _workers(sets: Sets) -> int:
    many = sum(len(one.manifest) for one in sets.values()) > MANY
    return min(16, cores()) if many else 0
