"""The numbers of a cross-validation: each video is tested once, by the run of its fold.

A number is the mean over all videos, so a fold counts by its videos. Its interval draws whole
source videos of all folds with replacement. Folds share most of their training videos, so the
interval does not cover what another draw of training videos would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate.evaluate import Evaluation, classified, evaluate, two_stream
from vidbench.evaluate.protocols import Protocol
from vidbench.evaluate.retrieval import summary
from vidbench.methods.common import data_set
from vidbench.system.errors import InputError

SPLIT = "test"  # of a fold's manifest


@dataclass(frozen=True)
class FoldHits:
    """What one measurement found of a fold's test videos."""

    task: str  # classes, retrieval or probe
    stream: str
    hits: Mapping[str, np.ndarray]  # metric -> whether a video is right, bool [N]
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class FoldNumber:
    """A share of all videos that are right, with its 95 % interval over source videos."""

    task: str
    stream: str
    metric: str
    value: float
    low: float
    high: float
    each: tuple[float, ...]  # of each fold
    videos: int
    source_videos: int
    protocol: Mapping[str, Any]
    hits: tuple[bool, ...] = ()  # of each video, in the order of the folds

    def __str__(self) -> str:
        folds = ", ".join(f"{100 * one:.1f}" for one in self.each)
        name = " ".join(dict.fromkeys((self.task, self.metric)))
        return (
            f"{self.stream} {name} {self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of "
            f"{self.videos} videos from {self.source_videos} source videos; folds {folds}"
        )


def tested(runs: Mapping[str, Run], name: str, protocol: Protocol) -> list[FoldHits]:
    """Test a fold's runs on its test videos.

    A run with a classifier is tested by it, any other by retrieval and a linear probe. Two streams
    without classifier are tested together, too.

    Args:
        runs: Stream (rgb, flow) -> the last run of it.
        name: Of the protocol.
        protocol: How clips become a row of a video.
    """
    found: list[FoldHits] = []
    evaluations: dict[str, Evaluation] = {}
    for stream, run in runs.items():
        (data,) = run.recipe.data_sets()
        if data.classes and run.recipe.build_head(1, data) is not None:
            score = classified(run.folder, SPLIT, {name: protocol})[name]
            hits = {"top-1": score.right, "top-5": score.top5}
            found.append(FoldHits("classes", stream, hits, score.protocol))
        else:
            evaluations[stream] = evaluate(run.folder, SPLIT, protocol)
    if len(evaluations) == 2:
        rgb, flow = evaluations["rgb"], evaluations["flow"]
        both = two_stream(rgb, flow, runs["rgb"].folder.parent, SPLIT, protocol)
        evaluations["rgb+flow"] = both
    for stream, one in evaluations.items():
        recall = {metric: hit for metric, hit in one.hits.items() if metric != "probe"}
        found.append(FoldHits("retrieval", stream, recall, one.protocols["retrieval"]))
        probed = {"top-1": one.hits["probe"]}
        found.append(FoldHits("probe", stream, probed, one.protocols["probe"]))
    return found


def tested_videos(run: Run) -> Manifest:
    """List the test videos of a fold, in the order of `FoldHits.hits`."""
    return Manifest.load(data_set(run).manifest).select(split=SPLIT)


def pooled(
    folds: Sequence[Sequence[FoldHits]], videos: Sequence[Manifest], words: str, seed: int = 0
) -> list[FoldNumber]:
    """Put the folds together.

    Args:
        folds: Of each fold what `tested` returns.
        videos: Of each fold the test videos.
        words: How the folds were made; it becomes part of each protocol.
        seed: Of the bootstrap.

    Raises:
        InputError: A video or a source video is in two folds, or the folds have other measurements.
    """
    source_video = np.concatenate([one.source_video for one in videos])
    paths = np.concatenate([one.path for one in videos])
    groups = sum(len(np.unique(one.source_video)) for one in videos)
    if len(np.unique(paths)) != len(paths) or len(np.unique(source_video)) != groups:
        raise InputError(
            "each video and each source video must be tested in one fold; some are in several. "
            "Make the folds again."
        )
    kinds = [[(one.task, one.stream) for one in fold] for fold in folds]
    if any(kind != kinds[0] for kind in kinds):
        raise InputError(f"the folds were measured differently: {kinds}. Test all of them alike.")
    made = []
    for parts in zip(*folds, strict=True):
        first = parts[0]
        facts = {
            name: value
            for name, value in first.protocol.items()
            if all(one.protocol.get(name) == value for one in parts)
        } | {"folds": words}
        shared = [m for m in first.hits if all(m in one.hits for one in parts)]
        hits = {metric: np.concatenate([one.hits[metric] for one in parts]) for metric in shared}
        numbers = summary(hits, seed, by="source_video", source_video=source_video)
        for metric, ends in numbers.items():
            each = tuple(float(np.mean(one.hits[metric])) for one in parts)
            made.append(
                FoldNumber(
                    task=first.task,
                    stream=first.stream,
                    metric=metric,
                    value=ends[0],
                    low=ends[1],
                    high=ends[2],
                    each=each,
                    videos=len(paths),
                    source_videos=groups,
                    protocol=facts,
                    hits=tuple(hits[metric].tolist()),
                )
            )
    return made
