"""RMS's claim: RMS and its rivals on the same data with the same seeds, paired differences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue, folders
from vidbench.data.toy import world as toy
from vidbench.data.video import clips
from vidbench.engine.runs import recipe_dict
from vidbench.evaluate.confusions import gains
from vidbench.evaluate.features import PROTOCOLS, Protocol
from vidbench.experiments import compare
from vidbench.experiments.compare import Measured, Number, Paired, pick, plain
from vidbench.methods import classify
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import Regularizer
from vidbench.view.figures import bars, whiskers
from vidbench.view.html import Html, Section, table

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

# What is added to the baseline, by name: (words, regularizer, mixing). Filter, border and alpha's
# law are those of tensors.scaling; sigma 1 of the Gaussian and the probability of CutMix (its
# code's for CIFAR) are assumptions.
ARMS: dict[str, tuple[str, Regularizer | None, Mixing | None]] = {
    "baseline": ("baseline", None, None),
    "rms": ("RMS, mean", Regularizer("rms"), None),
    "rms-gauss": ("RMS, Gaussian", Regularizer("rms", sigma=1.0), None),
    "whole": ("whole feature", Regularizer("rms", part="whole"), None),
    "high": ("high-frequency", Regularizer("rms", part="high"), None),
    "random-drop": ("RandomDrop", Regularizer("random_drop"), None),
    "shake-drop": ("ShakeDrop", Regularizer("shake_drop"), None),
    "cutmix": ("CutMix", None, Mixing("cutmix", p=0.5)),
}
BASELINE = "baseline"
# worlds of size `small`, so many training sources of each class
TOY = re.compile(r"toy-([1-9]\d*)")
SEEN = "train"  # the metric: top-1 of training videos, one view


@dataclass(frozen=True)
class Experiment:
    """All arms on one data set.

    data: "toy-N" (a world for each seed, rendered with it) or a folder (the same videos for each
    seed, or with `folds` the fold of that number). sources: training source videos of each class,
    so few that a network can memorize them; 0 is all.
    """

    data: str
    recipe: classify.Recipe
    views: Mapping[str, Protocol]
    source_videos: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[str, ...] = tuple(ARMS)
    folds: bool = False

    @property
    def toy(self) -> bool:
        """Whether it is of toy worlds."""
        return bool(TOY.fullmatch(self.data))

    @property
    def name(self) -> str:
        """The folder's and the table's name of it."""
        return self.data if self.toy else catalogue.name_of(self.data)


def experiment(
    data: str,
    seeds: Sequence[int] = (1, 2, 3),
    quick: bool = False,
    longer: int = 1,
    arms: Sequence[str] = tuple(ARMS),
) -> Experiment:
    """Plan the experiment on toy worlds ("toy-5") or on the pictures or videos of a folder.

    The recipes are those of notebook 20, longer. Their length was chosen with the baseline
    alone, on held-out training videos. Weizmann, with 4 test videos a fold, has its nine folds in
    place of seeds.

    Args:
        quick: one repetition, a quarter of the epochs, only the baseline, RMS and its ablations.
        longer: times as many epochs.
        arms: which of ARMS; the baseline is always among them.

    Raises:
        ValueError: an arm is unknown.
    """
    if set(arms) - set(ARMS) or set(arms) <= {BASELINE}:
        raise ValueError(
            f"arms are of {', '.join(ARMS)}, at least one more than {BASELINE}; got "
            f"{', '.join(arms)}."
        )
    toy_world = TOY.fullmatch(data)
    name = "toy" if toy_world else catalogue.detect_dataset(data)
    pictures = name not in ("toy", "weizmann") and _of_pictures(data)
    recipe = classify.PRESETS["rms_tiny_image" if pictures else "rms_tiny"]
    clip, fit, source_videos = recipe.clip, recipe.fit, 0
    if pictures:
        recipe = replace(recipe, network_args={"depth": 14})
        fit, source_videos = replace(fit, epochs=45), 100
    elif toy_world:
        source_videos = int(toy_world[1])
        clip = replace(clip, stride=3)
        fit = replace(fit, epochs=max(1, round(200 / source_videos)))  # 9,600 clips
    else:
        stride, size = (3, None) if name == "weizmann" else (4, 64)
        clip, fit = replace(clip, stride=stride, decode_size=size), replace(fit, epochs=60)
    views = {"one view": PROTOCOLS["one_view"]}
    if not pictures:
        views["4 views"] = Protocol(windows=4)
    seeds = tuple(range(1, folders.WEIZMANN_ACTORS + 1)) if name == "weizmann" else tuple(seeds)
    fit = replace(fit, epochs=longer * fit.epochs)
    arms = tuple(arm for arm in ARMS if arm in {BASELINE, *arms})
    if quick:
        seeds, fit, arms = seeds[:1], replace(fit, epochs=fit.epochs // 4), arms[:5]
    recipe = replace(recipe, clip=clip, fit=replace(fit, save_every=fit.epochs))
    return Experiment(data, recipe, views, source_videos, seeds, arms, folds=name == "weizmann")


def _of_pictures(data: str) -> bool:
    rows = catalogue.open_dataset(catalogue.detect_dataset(data), data, missing="keep")
    return str(rows.path[0]).lower().endswith(clips.PICTURES)


def replicate(out: str | Path, experiments: Sequence[Experiment], processes: int = 2) -> Path:
    """Train and test every arm on every data set below `out`; return the report's path. Resumable."""
    job = compare.Replication(out)
    recipes = {
        f"{one.name}/seed-{seed}/{arm}": recipe
        for one in experiments
        for seed in one.seeds
        for arm, recipe in stages(one, job.out, seed).items()
    }
    # a seed of every arm and data set first, so that an early stop leaves whole comparisons
    by_seed = sorted(recipes.items(), key=lambda item: item[1].fit.seed)
    job.train(dict(by_seed), processes)
    numbers, facts = [], []
    for one in experiments:
        found = tested(one, job.out, processes)
        numbers += outcome(one, found)
        facts.append(
            {
                "name": one.name,
                "seeds": one.seeds,
                "recipe": recipe_dict(one.recipe),
                "tests": list(one.views),
                "test_videos": len(found[one.seeds[0], BASELINE].source_video),
                "classes": classes(one, found),
            }
        )
    title = "vidbench: random mean scaling and its rivals"
    return job.write(title, {"experiments": facts}, numbers, report)


# ---- runs --------------------------------------------------------------------------------------


def videos(one: Experiment, out: Path, seed: int) -> Path:
    """Make a seed's manifest if it is missing: the chosen sources of train, and all test videos."""
    folder = out / one.name / (f"seed-{seed}" if one.toy or one.folds else "data")
    if one.toy:
        rows = toy.render(folder / "videos", "small", seed=seed, progress=False)
    else:
        rows = catalogue.keep(folder / "videos", one.data, seed if one.folds else None)
    if not one.source_videos:
        return folder / "videos"
    few = folder / f"few-{one.source_videos}"
    if not (few / "manifest.csv").exists():
        fewer(rows, one.source_videos).save(few)
    return few


def fewer(rows: Manifest, source_videos: int, seed: int = 0) -> Manifest:
    """Keep so many source videos of each class in train, drawn once for all; keep other splits."""
    train, rng = rows.select(split="train"), np.random.default_rng([seed, 11])
    kept: list[int] = []
    for label in np.unique(train.label):
        kept.extend(
            rng.permutation(np.unique(train.source_video[train.label == label]))[:source_videos]
        )
    return rows.select(mask=(rows.split != train.split[0]) | np.isin(rows.source_video, kept))


def stages(one: Experiment, out: Path, seed: int) -> dict[str, classify.Recipe]:
    """The recipes of a seed by arm, all with the same first weights and the same order of clips."""
    place, fit = videos(one, out, seed), replace(one.recipe.fit, seed=seed)
    classes = Manifest.load(place).classes
    base = replace(one.recipe, manifest=str(place), classes=classes, fit=fit)
    return {arm: with_arm(base, arm) for arm in one.arms}


def with_arm(recipe: classify.Recipe, arm: str) -> classify.Recipe:
    """Put one of ARMS in place of the recipe's regularizer and mixing.

    RMS and its ablations keep the stages and the kernel of the recipe's own RMS; RandomDrop and
    ShakeDrop are in every block, as published.

    Raises:
        ValueError: the arm is unknown, or the recipe has no RMS to take stages from.
    """
    if arm not in ARMS:
        raise ValueError(f"an arm is one of {', '.join(ARMS)}; got {arm!r}.")
    _, regularizer, mixing = ARMS[arm]
    if regularizer and regularizer.name == "rms":
        own = recipe.regularizer
        if own is None or not own.stages:
            raise ValueError(
                f"the recipe has no RMS whose stages {arm} could keep; give it a regularizer such "
                'as Regularizer("rms", stages=(4, 5)).'
            )
        regularizer = replace(regularizer, stages=own.stages, kernel=own.kernel)
    return replace(recipe, regularizer=regularizer, mixing=mixing)


def tested(one: Experiment, out: Path, processes: int) -> dict[tuple[int, str], Measured]:
    """Test every run, by (seed, arm)."""
    jobs = {
        (seed, arm): (str(out / one.name / f"seed-{seed}" / arm), one.views)
        for seed, arm in product(one.seeds, one.arms)
    }
    return compare.tested_all(jobs, processes, f"{one.name}: tests")


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Experiment, found: Mapping[tuple[int, str], Measured]) -> list[Number]:
    """Compare all arms: means over seeds and paired differences to the baseline, by each test.

    All seeds of a real data set have the same test videos, so a draw takes the same sources in each.
    Further numbers of each arm have no interval: top-1 of training videos, that minus the main
    test's top-1, and training time over the baseline's.

    Args:
        found: what `tested` returns.
    """
    made, others = [], [arm for arm in one.arms if arm != BASELINE]
    base = [found[seed, BASELINE] for seed in one.seeds]
    shared = not one.toy and not one.folds
    for test in one.views:
        hits = [{arm: found[seed, arm].hits[test] for arm in one.arms} for seed in one.seeds]
        source_videos = [run.source_video for run in base]
        paired = Paired(hits, source_videos, test, data=one.name, shared=shared)
        made += [paired.mean(arm) for arm in one.arms]
        made += [paired.difference(arm, BASELINE) for arm in others]
    for arm in one.arms:
        runs = [found[seed, arm] for seed in one.seeds]
        gaps = [run.train - run.hits[test].mean() for run in runs]
        times = [run.seconds / first.seconds for run, first in zip(runs, base, strict=True)]
        made.append(plain(one.name, arm, SEEN, [run.train for run in runs]))
        made.append(plain(one.name, arm, f"{SEEN} - test", gaps))
        made.append(plain(one.name, arm, "time", times))
    return made


def classes(one: Experiment, found: Mapping[tuple[int, str], Measured]) -> list[dict]:
    """What each class gains by RMS, mean over seeds, the largest gain first."""
    columns = ("before", "after", "gain")
    each: dict[str, list[list[float]]] = {}
    for seed in one.seeds if "rms" in one.arms else ():
        for row in gains(found[seed, "rms"].table, found[seed, BASELINE].table):
            each.setdefault(row.action, []).append([getattr(row, name) for name in columns])
    rows = [
        {"action": action} | dict(zip(columns, np.mean(values, axis=0).tolist(), strict=True))
        for action, values in each.items()
    ]
    return sorted(rows, key=lambda row: -row["gain"])


# ---- report ------------------------------------------------------------------------------------


def report(facts: Mapping, numbers: Sequence[Number]) -> list[Section]:
    """The report: what each arm adds, then each data set's arms as a figure and a table."""
    found = facts["experiments"]
    words = (
        "RMS and its rivals, each added to the same baseline. All arms of a seed have the same "
        "first weights, videos and order of clips. RMS's published tables are not available, so "
        "the report compares with none."
    )
    made = [Section("All data sets", [words, over_baseline(numbers, found), _all(numbers, found)])]
    for one in found:
        mine = pick(numbers, data=one["name"])
        made.append(Section(one["name"], [figure(mine, one), _arms(mine, one), *_gained(one)]))
    return made


def _gain(numbers: Sequence[Number], one: Mapping, arm: str) -> Number | None:
    """The arm minus the baseline by the data set's main test, its last."""
    wanted = {"data": one["name"], "metric": one["tests"][-1], "minus": BASELINE}
    return next(iter(pick(numbers, arm=arm, **wanted)), None)


def over_baseline(numbers: Sequence[Number], found: Sequence[Mapping]) -> Figure:
    """Top-1 of all arms minus the baseline's on each data set, as a figure."""
    gained = [_gain(numbers, one, arm) for one in found for arm in ARMS]
    rows = [one.bar(ARMS[one.arm][0], one.data) for one in gained if one]
    title = "What each adds, with 95 % intervals"
    return whiskers(rows, "points of top-1 minus the baseline's", title)


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
    note = f"Top-1 minus the baseline's, points of percent with 95 % intervals ({runs})."
    return table(rows, note=note, formats={one["name"]: "+.1f" for one in found})


def figure(numbers: Sequence[Number], one: Mapping) -> Figure:
    """Top-1 of each arm by each test, with intervals."""
    own = [number for test in one["tests"] for number in pick(numbers, metric=test, minus="")]
    rows = [number.bar(number.metric, ARMS[number.arm][0]) for number in own]
    return bars(rows, "top-1 (%)", f"{one['name']}: test videos")


def _arms(numbers: Sequence[Number], one: Mapping) -> Html:
    """The arms' numbers by the main test."""
    main, rows = one["tests"][-1], []
    value = {(number.arm, number.metric): number.value for number in numbers if not number.minus}
    for top1 in pick(numbers, metric=main, minus=""):
        gain = _gain(numbers, one, top1.arm)
        rows.append(
            {
                "added": ARMS[top1.arm][0],
                "top-1": top1.value,
                "- baseline": gain and gain.percent,
                "each seed": top1.each_percent(),
                "train": value[top1.arm, SEEN],
                "train - test": value[top1.arm, f"{SEEN} - test"],
                "time": value[top1.arm, "time"],
            }
        )
    formats = {"top-1": ".1%", "- baseline": "+.1f", "train": ".1%", "train - test": ".1%"}
    note = (
        f"{main}, {one['test_videos']} test videos, {one['recipe']['fit']['epochs']} epochs, last "
        "epoch. `train` is top-1 of training videos on one view, without augmentation. `time` is "
        "training time over the baseline's; other runs shared the machine."
    )
    return table(rows, formats={**formats, "time": ".2f"}, note=note)


def _gained(one: Mapping) -> list:
    rows = one["classes"]
    if not rows:
        return []
    shown = rows if len(rows) <= 12 else rows[:6] + rows[-6:]
    formats = {"before": ".1%", "after": ".1%", "gain": "+.1%"}
    note = "Classes by what RMS (mean) adds to the baseline, mean over seeds."
    return [table(shown, formats=formats, note=note)]
