"""Tests of one run on several data sets: own heads, planted pairs, a world it never saw."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vidbench.data.manifest import Manifest
from vidbench.data.tables import SPLITS
from vidbench.data.toy import world as toy
from vidbench.engine.runs import Run
from vidbench.evaluate import probe
from vidbench.evaluate.evaluate import classified
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol, load_or_extract
from vidbench.evaluate.projections import READ, recovered_both_ways, relations, truth
from vidbench.evaluate.retrieval import retrieve
from vidbench.methods.common import data_set
from vidbench.tensors.metrics import effective_rank

VIEWS = Protocol(windows=2)
TEST, UNDRAWN = "test", "undrawn"
TRAIN = "train"  # top-1 of training videos
# Test -> split. Undrawn training videos are not trained on either, and there are more of them.
PARTS = {TEST: "test", UNDRAWN: "validate"}
PAIRS = "planted pairs"  # instead of a data set's name
PROBE, FEW, RECALL = "probe", "probe, few labels", "R@1"
RANK, SECONDS = "effective rank", "seconds"
LABELED = 2  # source videos of each class that the probe with few labels has


class Scored(NamedTuple):
    """One test of a run.

    Args:
        data: The data set that was tested.
        test: What was measured.
        right: Whether each video is right, bool [N].
        source_video: The number of each video's source video [N].
        numbers: Further measures by name.
    """

    data: str
    test: str
    right: np.ndarray
    source_video: np.ndarray
    numbers: Mapping[str, float] = {}


def drawn(
    rows: Manifest, world: str, size: str | toy.Preset, source_videos: int, seed: int
) -> Manifest:
    """Keep `source_videos` training source videos per class in train; others become `validate`.

    They are spread over the class's actions and variants, at least one of each. So a union of
    three actions keeps three source videos: without a video of an action, nothing shows that the
    action belongs to the class.

    Args:
        rows: All videos of a toy world.
        world: Its name.
        size: Its preset.
        source_videos: 0 keeps all.
        seed: Of the world and of the draw.
    """
    if not source_videos:
        return rows
    shown = {f"{world}/{one.name}": one.part for one in toy.plan_videos(size, world, seed)}
    parts = np.array([shown[str(name)] for name in rows.source_videos])
    train, rng = rows.split == SPLITS.index("train"), np.random.default_rng([seed, 18])
    kept: list[int] = []
    for label in np.unique(rows.label):
        mine = rng.permutation(np.unique(rows.source_video[train & (rows.label == label)]))
        by_part = [[one for one in mine if parts[one] == part] for part in np.unique(parts[mine])]
        longest = max(map(len, by_part))
        in_turn = [part[i] for i in range(longest) for part in by_part if i < len(part)]
        kept += in_turn[: max(source_videos, len(by_part))]
    split = rows.split.copy()
    split[train & ~np.isin(rows.source_video, kept)] = SPLITS.index("validate")
    return Manifest(
        rows.root, rows.classes, rows.path, rows.label, split, rows.source_video, rows.source_videos
    )


def of_run(folder: str, worlds: Mapping[str, str], unseen: str = "") -> list[Scored]:
    """Test a run on every data set that it was trained on; its seconds are in the first test.

    Args:
        folder: The run directory.
        worlds: Data set -> toy world.
        unseen: A folder with `videos` and `flow` of a world that no run was trained on; empty
            tests on none.
    """
    run = Run(folder)
    names = [one.name for one in run.recipe.data_sets()]
    found = [one for name in names for one in own_head(run, name)]
    if len(names) > 1:
        found += pairs(run, {name: worlds[name] for name in names})
    if unseen:
        found += transferred(run, Path(unseen))
    numbers = {**found[0].numbers, SECONDS: float(run.metrics()[-1]["seconds"])}
    return [found[0]._replace(numbers=numbers), *found[1:]]


def own_head(run: Run, name: str) -> list[Scored]:
    """Test the head of one data set on unseen videos, and on its training videos (one view).

    Args:
        name: The data set.
    """
    splits = Manifest.load(data_set(run, name).manifest).split
    (seen,) = classified(run.folder, "train", {"one": PROTOCOLS["one_view"]}, data=name).values()
    found = []
    for test, split in PARTS.items():
        if (splits == SPLITS.index(split)).any():
            (one,) = classified(run.folder, split, {"2 views": VIEWS}, data=name).values()
            numbers = {TRAIN: seen.accuracy}
            found.append(Scored(name, test, one.right, one.table.source_video, numbers))
    return found


def pairs(run: Run, worlds: Mapping[str, str]) -> list[Scored]:
    """Test which planted pairs of classes each read-out ranks first, from either side.

    Args:
        worlds: Data set -> toy world.
    """
    tables = {name: load_or_extract(run, "train", READ, data=name) for name in worlds}
    known = toy.correspondence()
    related = relations(run, tables)
    matches = {pair: truth(known, one, worlds) for pair, one in related.items()}
    return [
        Scored(PAIRS, question(readout, side), one["top-1"] > 0.5, np.arange(len(one["top-1"])))
        for (readout, side), one in recovered_both_ways(related, matches).items()
    ]


def question(readout: str, side: str) -> str:
    """Return the name of a read-out's test from the classes of one side.

    Args:
        readout: A name in READOUTS.
        side: "source" or "target": of its classes, the matches on the other side are ranked.
    """
    return f"{readout}, from the {side}"


def chance(worlds: Mapping[str, str]) -> float:
    """Compute the share of planted pairs that a random order ranks first, the same from both sides.

    Args:
        worlds: Data set -> toy world.
    """
    count = {world: len(toy.WORLDS[world].classes) for world in worlds.values()}
    shares = [
        len(row["matches"].split(";")) / count[row["other_world"]]
        for row in toy.correspondence()
        if row["matches"] and {row["world"], row["other_world"]} <= count.keys()
    ]
    return float(np.mean(shares))


def transferred(run: Run, place: Path) -> list[Scored]:
    """Test the backbone on a world that it was never trained on.

    The tests are retrieval and a linear probe from the world's training videos to its test videos,
    a probe with LABELED source videos per class, and the effective rank of the test videos'
    features.

    Args:
        place: The folder with the world's `videos` and `flow`.
    """
    rows, name = Manifest.load(place / "videos"), run.recipe.data_sets()[0].name
    given = {"manifest": rows, "flow": place / "flow", "data": name}
    gallery, queries = (load_or_extract(run, split, VIEWS, **given) for split in ("train", "test"))
    data, sources = place.name, queries.source_video
    full, few = (probe.logistic(table, queries) for table in (gallery, fewer(gallery)))
    hits = {
        RECALL: retrieve(gallery, queries, centering="gallery", ks=(1,)).hits["R@1"],
        PROBE: full.right,
        FEW: few.right,
    }
    numbers = {RANK: effective_rank(torch.from_numpy(queries.values))}
    return [Scored(data, test, right, sources, numbers) for test, right in hits.items()]


def fewer(table: Features, source_videos: int = LABELED) -> Features:
    """Keep the rows of each class's first source videos.

    Args:
        source_videos: How many per class.
    """
    kept = [
        np.unique(table.source_video[table.label == label])[:source_videos]
        for label in np.unique(table.label)
    ]
    mask = np.isin(table.source_video, np.concatenate(kept))
    return table.select(mask, f"{table.protocol['rows']}, {source_videos} source videos a class")
