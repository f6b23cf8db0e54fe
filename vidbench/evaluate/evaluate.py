"""Evaluate one run on held-out videos; numbers are stored in the run with their protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidbench.data.loading.transforms import CROPS
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes
from vidbench.evaluate import probe as probes
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol, fitting, load_or_extract
from vidbench.evaluate.retrieval import Retrieved, protocol_of, retrieve, summary
from vidbench.evaluate.search import Neighbors
from vidbench.methods.common import data_set
from vidbench.system.processes import cores, run_all
from vidbench.system.progress import Progress
from vidbench.system.trusted import spread

KS = (1, 5, 10)
SIDES = ("alone", "together")
PROTOCOL = PROTOCOLS["vidbench"]
VIEWS = {"one view": PROTOCOLS["one_view"], "30 views": PROTOCOLS["thirty_views"]}


@dataclass(frozen=True)
class Evaluation:
    """What was found of one run, or of two runs of both streams together; one entry a query in
    every array."""

    run: str
    hits: dict[str, np.ndarray]  # "R@1", "R@5", ... and "probe": bool [Q]
    probabilities: np.ndarray  # of the probe [Q,classes]
    neighbors: Neighbors
    numbers: dict[str, tuple[float, float, float]]  # share with its interval over sources
    protocols: dict[str, dict]  # of "retrieval" and "probe"
    budget: dict


def evaluate(
    folder: str | Path,
    held_out: str,
    protocol: Protocol = PROTOCOL,
    centering: str = "gallery",
    seed: int = 0,
) -> Evaluation:
    """Evaluate a run by retrieval and probe: its split `held_out` against its split train.

    Args:
        held_out: The split of the queries and the probe's test.
        centering: See `search.search`.
        seed: Of the bootstrap and the probe's folds.
    """
    run = Run(folder)
    videos = Manifest.load(data_set(run).manifest).select(split=held_out)
    gallery, queries = (load_or_extract(run, part, protocol) for part in ("train", held_out))
    retrieved = retrieve(gallery, queries, centering=centering, ks=KS)
    probe = probes.logistic(gallery, queries, seed=seed)
    protocols = {
        "retrieval": protocol_of(gallery, queries, centering=centering, ks=KS),
        "probe": probe.protocol,
    }
    name, budget = run.folder.name, run.budget()
    found = _evaluation(name, queries, retrieved, probe.probabilities, protocols, budget, seed)
    recalls = {name: number for name, number in found.numbers.items() if name != "probe"}
    near, protocol_id = retrieved.neighbors, protocols["retrieval"]
    kept = outcomes.of_retrieval(near, retrieved.hits, protocol_id, gallery, videos)
    outcomes.add(run, kept, recalls)
    scored = outcomes.of_score("probe", probe, videos)
    outcomes.add(run, scored, {"top-1": found.numbers["probe"]})
    return found


def _evaluation(
    run: str,
    queries: Features,
    retrieved: Retrieved,
    probabilities: np.ndarray,
    protocols: dict[str, dict],
    budget: dict,
    seed: int,
) -> Evaluation:
    hits = {**retrieved.hits, "probe": probabilities.argmax(axis=1) == queries.label}
    numbers = summary(hits, seed, by="source_video", source_video=queries.source_video)
    return Evaluation(run, hits, probabilities, retrieved.neighbors, numbers, protocols, budget)


def two_stream(
    rgb: Evaluation,
    flow: Evaluation,
    folder: str | Path,
    held_out: str,
    protocol: Protocol = PROTOCOL,
    centering: str = "gallery",
    seed: int = 0,
) -> Evaluation:
    """Evaluate two runs as one: sum of cosines for retrieval, mean of probabilities for the probe.

    Args:
        rgb, flow: The runs' results, from `evaluate`.
        folder: The folder that contains both run directories.
        held_out: The split of the queries.
        centering: See `search.search`.
        seed: Of the bootstrap.
    """
    pair = [Run(Path(folder) / one.run) for one in (rgb, flow)]
    gallery, queries = (
        [load_or_extract(run, part, protocol) for run in pair] for part in ("train", held_out)
    )
    retrieved = retrieve(gallery, queries, centering=centering, ks=KS)
    mean = probes.fuse(rgb.probabilities, flow.probabilities)
    protocols = {
        "retrieval": protocol_of(gallery, queries, centering=centering, ks=KS),
        "probe": {**rgb.protocols["probe"], "stream": "rgb+flow"},
    }
    summed = ("iterations", "clips", "epochs", "seconds", "stages")
    budget = {name: rgb.budget[name] + flow.budget[name] for name in summed}
    budget["batch"] = rgb.budget["batch"]
    name = f"{rgb.run} + {flow.run}"
    return _evaluation(name, queries[0], retrieved, mean, protocols, budget, seed)


def evaluate_all(
    folders: Sequence[str | Path],
    held_out: str,
    protocol: Protocol = PROTOCOL,
    centering: str = "gallery",
    seed: int = 0,
    processes: int = 2,
) -> dict[str, Evaluation]:
    """Evaluate many runs, several at a time: run name -> evaluation.

    Args:
        held_out, protocol, centering, seed: As in `evaluate`.
        processes: How many runs are evaluated at a time.
    """
    for folder in folders:
        recipe = Run(folder).recipe
        spread(recipe.network, recipe.home)
    threads = max(1, cores() // processes)
    tasks = [(str(folder), held_out, protocol, centering, seed) for folder in folders]
    with Progress("features, search, probe", len(tasks), "run") as progress:
        done = run_all(
            evaluate,
            tasks,
            processes,
            torch.set_num_threads,
            (threads,),
            done=lambda _: progress.add(),
        )
    return {one.run: one for one in done}


def classified(
    folder: str | Path,
    split: str,
    views: Mapping[str, Protocol] = VIEWS,
    *,
    manifest: Manifest | None = None,
    flow: str | Path = "",
    workers: int = 0,
    task: str = "classes",
    data: str = "",
) -> dict[str, probes.Score]:
    """Test a run's classifier by each protocol: name -> score, with intervals over source videos.

    Every number is printed with its protocol's name. Users mistook the accuracy on one view, which
    training watches, for that of many, which papers report (SlowFast issue 138), so both are
    returned. Numbers are written to the run's results, unless the split is train.

    Args:
        split: The split of the tested videos.
        views: Name -> protocol.
        manifest, flow: Of another data set than the run's own, see `load_or_extract`.
        workers: Processes that read clips.
        task: The name under which results are written.
        data: One of several data sets, whose head is tested.
    """
    run = Run(folder)
    part = data_set(run, data)
    inputs: dict[str, Any] = {"manifest": manifest, "flow": flow, "workers": workers, "data": data}
    found: dict[str, probes.Score] = {}
    for name, protocol in views.items():
        protocol = fitting(protocol, part)
        table = load_or_extract(run, split, protocol, what="probabilities", **inputs)
        scored = probes.score(table)
        scored = found[name] = replace(scored, numbers=probes.numbers(scored, by="source_video"))
        if split != "train":
            rows = (manifest or Manifest.load(part.manifest)).select(split=split)
            outcomes.add(run, outcomes.of_score(task, scored, rows), scored.numbers)
        title = f"{run.folder.name}, {f'{data} {split}'.strip()}, {name}"
        print(f"{title} {_score_words(scored, protocol)}", flush=True)
    return found


def measure(folder: str | Path, split: str) -> None:
    """Evaluate a run as its method allows, by this module's protocols, and keep the numbers.

    A run with a classifier is tested on each of its data sets, any other by retrieval and a probe.

    Args:
        split: The split of the tested videos.

    Raises:
        RunError: It is no run directory, or has no checkpoint.
        ValueError: Its videos have no labels, or the split is empty.
    """
    run = Run(folder)
    parts = [one for one in run.recipe.data_sets() if one.classes]
    if parts and run.recipe.build_head(1, parts[0]) is not None:
        for part in parts:
            classified(folder, split, data=part.name)
    else:
        evaluate(folder, split)


def _score_words(scored: probes.Score, protocol: Protocol) -> str:
    (top1, low, high), (top5, *_) = (scored.numbers[metric] for metric in ("top-1", "top-5"))
    windows = {"spread": protocol.windows, "segments": 1}.get(
        protocol.sampling, f"every {protocol.hop} frames, any number of"
    )
    return (
        f"({windows} windows x {CROPS[protocol.crops]} crops): "
        f"top-1 {top1:.1%} [{low:.1%}, {high:.1%}], top-5 {top5:.1%}, {len(scored.right)} videos"
    )


@dataclass(frozen=True)
class Gained:
    """Top-1 of one data set by a joint run and by the run on it alone.

    gain: the difference, paired, with its interval over sources; the mean's has none."""

    data: str
    videos: int
    alone: float
    together: float
    gain: tuple[float, float, float] | float


def gained(
    together: Mapping[str, probes.Score], alone: Mapping[str, probes.Score], seed: int = 0
) -> list[Gained]:
    """Compare a joint run with one run per data set: data set -> score, of the same videos.

    A mean over data sets hides that one gains and another loses, so it is the last row and never
    appears without them.

    Args:
        together: Scores of the joint run.
        alone: Scores of the others.
        seed: Of the bootstrap.

    Raises:
        ValueError: A data set is missing or its videos differ.
    """
    rows = []
    for name, joint in together.items():
        if name not in alone or alone[name].protocol["rows"] != joint.protocol["rows"]:
            raise ValueError(
                f"gained needs both runs tested on the same videos of {name}; test them on one "
                "split."
            )
        left, right = (one.right.astype(float) for one in (joint, alone[name]))
        sources = joint.table.source_video
        found = summary({"gain": left - right}, seed, by="source_video", source_video=sources)
        means = float(right.mean()), float(left.mean())
        rows.append(Gained(name, len(left), *means, found["gain"]))
    before, after = (float(np.mean([getattr(row, of) for row in rows])) for of in SIDES)
    videos = sum(row.videos for row in rows)
    return [*rows, Gained("mean of these", videos, before, after, after - before)]
