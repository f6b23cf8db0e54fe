"""MultiTrain's claims: one network for several data sets against one each, each loss alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.flow import store as flow_store
from vidbench.data.loading.joint import Mix
from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.runs import Run, recipe_dict
from vidbench.evaluate.features import Protocol, load_or_extract
from vidbench.evaluate.projections import (
    READ,
    READOUTS,
    WORDS,
    recovered_both_ways,
    relations,
    truth,
)
from vidbench.experiments import compare
from vidbench.experiments.compare import Measured, Number, Paired, pick, plain
from vidbench.methods import multitrain
from vidbench.system.processes import cores
from vidbench.view.figures import bars, whiskers
from vidbench.view.html import Html, Section, table

if TYPE_CHECKING:
    from vidbench.view.figures import Figure

# Of each arm: in words, and what is changed in the recipe of all losses. The first two are a run
# for each data set.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": ("alone, same epochs", {}),
    "alone-long": ("alone, same steps", {}),
    "joint": ("jointly", {"projection": 0.0, "informative": 0.0}),
    "projection": ("+ projection", {"informative": 0.0}),
    "informative": ("+ informative", {"projection": 0.0}),
    "both": ("+ both", {}),
}
ALONE = ("alone", "alone-long")
TEST = "4 views"
TOP1, RANK = "top-1", "reciprocal rank"
PAIRS = "planted pairs"  # in place of a data set's name
# whose classes look for their match, see projections.recovered_both_ways
SIDES = ("source", "target")
CHANCE = "chance"  # in place of an arm's name
WORLD = "toy-"  # and the name of a toy world: of size `small`, rendered with each seed


@dataclass(frozen=True)
class Experiment:
    """All arms on one group of data sets: toy worlds ("toy-base") and folders.

    A seed is that of weights and order, and of a toy world's videos. start: epochs of training on
    the first data set; every arm starts from that backbone, as MultiTrain's from one trained on
    Kinetics. 0 starts from scratch, where both losses can keep a small MViT at constant features.
    """

    data: tuple[str, ...]
    recipe: multitrain.Recipe
    clips: Mapping[str, multitrain.ClipChange]  # of a folder's name: what differs in its clips
    start: int = 24
    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[str, ...] = tuple(ARMS)

    @property
    def worlds(self) -> dict[str, str]:
        """Data set -> toy world, of those that are one."""
        return {
            name: name.removeprefix(WORLD)
            for name in self.names
            if name in self.data and name.startswith(WORLD)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the data sets."""
        return tuple(one if one.startswith(WORLD) else catalogue.name_of(one) for one in self.data)


def experiment(
    data: Sequence[str],
    preset: str = "toy",
    seeds: Sequence[int] = (1, 2, 3),
    arms: Sequence[str] = (),
    quick: bool = False,
) -> Experiment:
    """Plan the experiment on a group of data sets, with a named preset of methods.multitrain.

    Folders are decoded at short side 64, every 4th frame, Weizmann's every 3rd. They are small
    compared with a toy world, so they come more often than their size says (Mix "balanced").

    Args:
        arms: which of ARMS; all if empty.
        quick: one seed, a quarter of the epochs.

    Raises:
        ValueError: fewer than two data sets, or an unknown toy world, preset or arm.
    """
    worlds = [name.removeprefix(WORLD) for name in data if name.startswith(WORLD)]
    if len(set(data)) < 2 or len(set(data)) < len(data) or set(worlds) - set(toy.WORLDS):
        known = ", ".join(f"{WORLD}{name}" for name in toy.WORLDS)
        raise ValueError(
            f"data must be two or more data sets, folders or toy worlds ({known}); got "
            f"{', '.join(data)}."
        )
    if preset not in multitrain.PRESETS or set(arms) - set(ARMS):
        raise ValueError(
            f"a preset is one of {', '.join(multitrain.PRESETS)}, arms are of "
            f"{', '.join(ARMS)}; got {preset}, {', '.join(arms)}."
        )
    recipe = multitrain.PRESETS[preset]
    epochs, start = recipe.fit.epochs, 24
    if quick:
        epochs, start, seeds = max(1, epochs // 4), start // 4, seeds[:1]
    recipe = replace(recipe, fit=replace(recipe.fit, epochs=epochs, save_every=epochs))
    clips = {}
    for one in data:
        if not one.startswith(WORLD):
            stride = 3 if catalogue.detect_dataset(one) == "weizmann" else 4
            clips[catalogue.name_of(one)] = multitrain.ClipChange(stride=stride, decode_size=64)
    recipe = replace(recipe, mix=Mix("balanced") if clips else recipe.mix)
    arms = tuple(arm for arm in ARMS if not arms or arm in arms)
    return Experiment(tuple(data), recipe, clips, start, tuple(seeds), arms)


def replicate(out: str | Path, one: Experiment, processes: int = 2) -> Path:
    """Train and test every arm below `out`; return the path of the report. Resumable."""
    job = compare.Replication(out)
    recipes = {
        f"seed-{seed}/{name}": recipe
        for seed in one.seeds
        for name, recipe in stages(one, job.out, seed).items()
    }
    job.train(recipes, processes)
    found = tested(one, job.out, processes)
    first = {name: found[one.seeds[0], one.arms[0], name] for name in one.names}
    facts = {
        "data": one.names,
        "test_videos": {name: len(run.source_video) for name, run in first.items()},
        "recipe": recipe_dict(one.recipe),
        "seeds": list(one.seeds),
    }
    numbers = outcome(one, found) + planted(one, job.out)
    return job.write("vidbench: several data sets, one network", facts, numbers, report)


# ---- runs --------------------------------------------------------------------------------------


def parts(one: Experiment, out: Path, seed: int) -> list[multitrain.Part]:
    """Make the videos and flow of every data set if they are missing; the recipe's parts."""
    made = []
    for data, name in zip(one.data, one.names, strict=True):
        folder = out / (f"seed-{seed}" if name in one.worlds else "data") / name
        if name in one.worlds:
            rows = toy.render(folder / "videos", "small", one.worlds[name], seed, progress=False)
        else:
            rows = catalogue.keep(folder / "videos", data)
        if one.recipe.stream == "flow":
            flow_store.complete(rows, folder / "flow", "dis", workers=cores())
        manifest, flow = str(folder / "videos"), str(folder / "flow")
        clip = one.clips.get(name, multitrain.ClipChange())
        made.append(multitrain.Part(name, manifest, rows.classes, flow, clip))
    return made


def stages(one: Experiment, out: Path, seed: int) -> dict[str, multitrain.Recipe]:
    """The recipes of a seed: `start`, `joint` and so on, and `alone-NAME` of each data set.

    All joint runs start from the same weights and see the same clips in the same order.
    """
    all_parts, made = parts(one, out, seed), {}
    base = replace(one.recipe, parts=tuple(all_parts), fit=replace(one.recipe.fit, seed=seed))
    if one.start:
        made["start"] = _on(base, all_parts[0], one.start)
        fit = replace(base.fit, lr=base.fit.lr / 2)
        base = replace(base, init=str(out / f"seed-{seed}" / "start"), fit=fit)
    videos = [len(Manifest.load(part.manifest).select(split="train")) for part in all_parts]
    for arm in one.arms:
        if arm not in ALONE:
            made[arm] = replace(base, **ARMS[arm][1])
        for part, rows in zip(all_parts, videos, strict=True) if arm in ALONE else ():
            times = 1 if arm == "alone" else sum(videos) / rows
            made[f"{arm}-{part.name}"] = _on(base, part, round(times * base.fit.epochs))
    return made


def _on(recipe: multitrain.Recipe, part: multitrain.Part, epochs: int) -> multitrain.Recipe:
    """The recipe on one data set alone; the warm-up keeps its share of the epochs."""
    warm = recipe.fit.warmup_epochs * epochs / recipe.fit.epochs
    fit = replace(recipe.fit, epochs=epochs, save_every=epochs, warmup_epochs=warm)
    return replace(multitrain.alone(recipe, part), fit=fit)


def tested(one: Experiment, out: Path, processes: int) -> dict[tuple[int, str, str], Measured]:
    """Test every run, by (seed, arm, data set)."""
    jobs = {}
    for seed, arm, name in product(one.seeds, one.arms, one.names):
        run = f"{arm}-{name}" if arm in ALONE else arm
        jobs[seed, arm, name] = (str(out / f"seed-{seed}" / run), {TEST: Protocol(windows=4)}, name)
    return compare.tested_all(jobs, processes, "tests")


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Experiment, found: Mapping[tuple[int, str, str], Measured]) -> list[Number]:
    """Compare all arms on each data set: top-1, and top-1 minus that of both ALONE and of `joint`.

    All seeds of a folder have the same test videos, so a draw takes the same sources in each.

    Args:
        found: what `tested` returns.
    """
    made = []
    for name in one.names:
        source_videos = [found[seed, one.arms[0], name].source_video for seed in one.seeds]
        hits = [{arm: found[seed, arm, name].hits[TEST] for arm in one.arms} for seed in one.seeds]
        paired = Paired(hits, source_videos, TOP1, data=name, shared=name not in one.worlds)
        for arm in one.arms:
            bases = [base for base in (*ALONE, "joint") if base in one.arms and base != arm]
            on_train = [found[seed, arm, name].train for seed in one.seeds]
            made += [paired.mean(arm), *(paired.difference(arm, base) for base in bases)]
            made.append(plain(name, arm, "train", on_train))
    return made


def planted(one: Experiment, out: Path) -> list[Number]:
    """Count which planted pairs of toy classes each joint arm's read-outs find.

    A bootstrap draws seeds and classes. The numbers of the arm CHANCE are those of a random order.
    Nothing without two toy worlds.
    """
    made, joint = [], [arm for arm in one.arms if arm not in ALONE]
    for arm in joint if len(one.worlds) > 1 else ():
        seeds = [_asked(one, out, seed, arm) for seed in one.seeds]
        for (readout, side), metric in product(seeds[0], (TOP1, RANK)):
            parts, name = [part[readout, side] for part in seeds], _metric(metric, readout, side)
            classes = [np.arange(len(part[metric])) for part in parts]
            hits = [{arm: part[metric]} for part in parts]
            made.append(Paired(hits, classes, name, data=PAIRS, shared=True).mean(arm))
            if not pick(made, arm=CHANCE, metric=name):
                chances = [part[f"{metric} by chance"].mean() for part in parts]
                made.append(plain(PAIRS, CHANCE, name, chances))
    return made


def _metric(metric: str, readout: str, side: str) -> str:
    """The name of what a read-out finds if one asks for the matches of a class of that side."""
    return f"{metric}, {readout}, from the {side}"


def _asked(one: Experiment, out: Path, seed: int, arm: str) -> dict:
    """projections.recovered_both_ways of one run, on all pairs of its toy worlds."""
    run = Run(out / f"seed-{seed}" / arm)
    found = relations(
        run, {name: load_or_extract(run, "train", READ, data=name) for name in one.names}
    )
    matches = {
        pair: truth(toy.correspondence(), relation, one.worlds)
        for pair, relation in found.items()
        if set(pair) <= set(one.worlds)
    }
    return recovered_both_ways(found, matches)


# ---- report ------------------------------------------------------------------------------------


def report(facts: Mapping, numbers: Sequence[Number]) -> list[Section]:
    """The report: each data set's top-1, what joint training and each loss add, planted pairs."""
    words = "Top-1 of test videos, by the data set's own head."
    made = [Section("Each data set", [words, top1(facts, numbers)])]
    for base, heading in (
        ("alone", "Minus one network per data set, the same epochs"),
        ("alone-long", "Minus one network per data set, the same steps"),
        ("joint", "Minus plain joint training"),
    ):
        if found := [one for one in pick(numbers, minus=base) if one.arm not in ALONE]:
            made.append(Section(heading, [gains(found, base)]))
    if found := pick(numbers, data=PAIRS):
        figures = [found_pairs(found, side) for side in SIDES]
        made.append(Section("Planted pairs found", [*figures, pair_numbers(found)]))
    return made


def top1(facts: Mapping, numbers: Sequence[Number]) -> Html:
    """A table of all arms: top-1 of each data set, and last their mean."""
    names, rows = facts["data"], []
    own = pick(numbers, metric=TOP1, minus="")
    for arm in dict.fromkeys(number.arm for number in own):
        mine = {number.data: number for number in pick(own, arm=arm)}
        mean = 100 * float(np.mean([mine[name].value for name in names]))
        cells = {name: mine[name].percent for name in names}
        rows.append({"trained": ARMS[arm][0], **cells, "mean of these": mean})
    videos = ", ".join(f"{name} {count}" for name, count in facts["test_videos"].items())
    note = (
        f"Percent of test videos ({videos}) with 95 % intervals over seeds and source videos; "
        f"{len(facts['seeds'])} seeds, {facts['recipe']['fit']['epochs']} epochs, the last one "
        f"counts, {TEST}."
    )
    return table(rows, note=note)


def gains(found: Sequence[Number], base: str) -> Figure:
    """Top-1 of each data set minus that of the arm `base`, as dots with intervals."""
    rows = [one.bar(ARMS[one.arm][0], one.data) for one in found]
    title = "Each data set, with 95 % intervals"
    return whiskers(rows, f"points of top-1 minus {ARMS[base][0]}", title)


def found_pairs(numbers: Sequence[Number], side: str) -> Figure:
    """The share of classes whose planted match is the read-out's first choice, a bar an arm."""
    readouts = {_metric(TOP1, readout, side): readout for readout in READOUTS}
    found = [one for one in numbers if one.metric in readouts]
    (chance, *_) = [one.value for one in found if one.arm == CHANCE]
    arms = [one for one in found if one.arm != CHANCE]
    rows = [one.bar(ARMS[one.arm][0], readouts[one.metric]) for one in arms]
    title = f"Planted pairs found, from the {side} class"
    return bars(rows, "top-1 (%)", title, levels={"chance": chance})


def pair_numbers(numbers: Sequence[Number]) -> Html:
    """The same and the mean reciprocal rank as a table, with chance."""
    at, rows = {(one.arm, one.metric): one for one in numbers}, []
    arms = [arm for arm in ARMS if any(one.arm == arm for one in numbers)]
    for arm, readout, side in product(arms, READOUTS, SIDES):
        first, rank = (_metric(metric, readout, side) for metric in (TOP1, RANK))
        if (arm, first) in at:
            rows.append(
                {
                    "trained": ARMS[arm][0],
                    "read-out": readout,
                    "from": side,
                    "top-1": at[arm, first].percent,
                    "chance": 100 * at[CHANCE, first].value,
                    "mean reciprocal rank": at[arm, rank].percent,
                    "by chance": 100 * at[CHANCE, rank].value,
                }
            )
    words = "; ".join(f"{name}: {WORDS[name]}" for name in READOUTS)
    note = (
        "Percent of the classes with a planted match, over all ordered pairs of data sets, with "
        f"95 % intervals over seeds and classes. {words}."
    )
    return table(rows, note=note)
