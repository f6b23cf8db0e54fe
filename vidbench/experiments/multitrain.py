"""MultiTrain's claims: one network for several data sets against one network each; each loss alone.

Two regimes on toy worlds whose classes are related in a known way, from random weights:

- POWER: one large data set and two with 2 training source videos per class. There are several
numbers
  of steps, each a run with its own schedule, because a loss that helps early can cost later.
- DISAGREE: two large data sets and two small ones, whose classes are parts or unions of the others'
  and which have 1 source video of each action. The backbones are also tested on a world that no
  network was trained on.

All arms of a seed see the same videos in the same order and start from the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.loading.joint import Mix, epoch_clips, shares
from vidbench.data.manifest import Manifest
from vidbench.data.toy import world as toy
from vidbench.engine.environment import made_by
from vidbench.engine.runs import recipe_dict
from vidbench.engine.stages import run_all
from vidbench.experiments.joint_report import write
from vidbench.experiments.joint_tests import Scored, drawn, of_run
from vidbench.experiments.records import Book, Record, mark
from vidbench.methods import multitrain
from vidbench.system.errors import InputError
from vidbench.system.processes import cores
from vidbench.system.processes import run_all as in_pool
from vidbench.system.progress import Progress

# Changes of the recipe with both losses. The arms of ALONE have a run for each data set.
ARMS: dict[str, dict[str, Any]] = {
    "alone-steps": {},
    "alone-epochs": {},
    "joint": {"projection": 0.0, "informative": 0.0},
    "projection": {"informative": 0.0},
    "informative": {"projection": 0.0},
    "both": {},
}
ALONE = ("alone-steps", "alone-epochs")
WORLD = "toy-"  # and the name of a toy world: the name of a data set
_TOY = multitrain.PRESETS["toy"]
# Chosen on worlds of seed 0, which is none of the seeds below, on their undrawn training videos.
RECIPE = replace(
    _TOY,
    network="stacked_resnet",
    network_args={"frames": 8, "width": 0.25, "blocks": (1, 1, 1, 1), "stem_stride": 2},
    projection=0.3,
    informative=0.01,
    fit=replace(_TOY.fit, lr=3e-3, log_every=50),
)
WARM_UP = 0.1  # of all steps


@dataclass(frozen=True)
class Regime:
    """All arms on one group of toy worlds.

    Args:
        name: Of its folder and its csv.
        title: Its heading in the report.
        data: Toy world -> training source videos per class, at least one of each action; 0 is all.
        recipe: With both losses; its epochs are replaced.
        steps: Of every joint run. Each number has its own runs.
        alone: Worlds with a network of their own that trains for as many steps as the joint run.
            The arm `alone-epochs` has a network for every world, with as many epochs, so fewer
            steps.
        unseen: A world on which all backbones are tested that saw a large data set.
        arms: Names in ARMS.
        size: Of the worlds.
    """

    name: str
    title: str
    data: Mapping[str, int]
    steps: tuple[int, ...]
    alone: tuple[str, ...]
    unseen: str = ""
    arms: tuple[str, ...] = tuple(ARMS)
    recipe: multitrain.Recipe = RECIPE
    size: str | toy.Preset = "small"

    @property
    def worlds(self) -> dict[str, str]:
        """Data set -> toy world."""
        return {f"{WORLD}{world}": world for world in self.data}

    @property
    def small(self) -> tuple[str, ...]:
        """The data sets with few training videos."""
        return tuple(f"{WORLD}{world}" for world, count in self.data.items() if count)

    @property
    def plan(self) -> dict[str, Any]:
        """What its rows depend on in addition to seed and steps."""
        size = self.size if isinstance(self.size, str) else list(vars(self.size).values())
        values = {"data": dict(self.data), "alone": list(self.alone), "unseen": self.unseen}
        return {**values, "arms": list(self.arms), "size": size, "recipe": recipe_dict(self.recipe)}

    @property
    def mark(self) -> str:
        """The checksum of the plan."""
        plan = {name: value for name, value in self.plan.items() if name != "recipe"}
        return mark(self.recipe, plan)


REGIMES = {
    one.name: one
    for one in (
        Regime(
            "power",
            "Small data sets next to a large one",
            # on worlds of seed 7, a network alone then misses 13 and 26 % of unseen videos
            {"base": 0, "gym": 2, "street": 2},
            (300, 600, 1500),
            alone=("gym", "street"),
        ),
        Regime(
            "disagree",
            "Label spaces that disagree, and a world never trained on",
            {"base": 0, "street": 0, "gym": 1, "club": 1},
            (1200,),
            alone=("base", "gym", "club"),
            unseen="park",
            arms=tuple(arm for arm in ARMS if arm != "alone-epochs"),
            recipe=replace(RECIPE, mix=Mix("balanced")),
        ),
    )
}


def regimes(names: Sequence[str], quick: bool = False) -> list[Regime]:
    """Choose REGIMES by name.

    Args:
        names: Of the regimes.
        quick: A tenth of the steps.

    Raises:
        InputError: A name is unknown.
    """
    if unknown := sorted(set(names) - set(REGIMES)):
        known = ", ".join(REGIMES)
        raise InputError(f"a regime must be one of {known}; got {', '.join(unknown)}.")
    chosen = [REGIMES[name] for name in dict.fromkeys(names)]
    if not quick:
        return chosen
    return [replace(one, steps=tuple(steps // 10 for steps in one.steps)) for one in chosen]


def replicate(
    out: str | Path, regimes: Sequence[Regime], seeds: Sequence[int], processes: int = 2
) -> Path:
    """Train and test every arm below `out`; return the path of the report. Resumable.

    A unit is all arms of a seed and a number of steps. It is neither trained nor tested again once
    its rows are in the regime's csv, even if the runs are deleted.

    Args:
        out: The experiment's folder.
        processes: At a time; 0 does everything in this process, which suits tests.

    Raises:
        ValueError: A csv in `out` has rows of other settings.
    """
    place = Path(out).resolve()  # runs name parents by path
    kept = books(place, regimes)
    for seed, one in product(seeds, regimes):
        known = {(row.seed, row.numbers["steps"]) for row in kept[one.name].records}
        for steps in one.steps:
            if (seed, steps) not in known:
                print(f"{one.name}, seed {seed}, {steps} steps", flush=True)
                kept[one.name].add(_unit(one, place, seed, steps, processes))
    return write(place, {one.name: one for one in regimes}, kept, seeds)


def books(out: str | Path, regimes: Sequence[Regime]) -> dict[str, Book]:
    """Read what `out` already has of each regime.

    Args:
        out: The experiment's folder.

    Raises:
        ValueError: A csv in `out` has rows of other settings.
    """
    made = {one.name: Book(Path(out) / f"{one.name}.csv") for one in regimes}
    for one in regimes:
        for row in made[one.name].records:
            made[one.name].check(row.run, one.mark)
    return made


def _unit(one: Regime, place: Path, seed: int, steps: int, processes: int) -> list[Record]:
    """Train and test all arms of a seed and a number of steps; the records."""
    folder = place / one.name / f"seed-{seed}" / str(steps)
    recipes = stages(one, place, seed, steps, processes)
    if processes:
        run_all(recipes, folder, processes)
    for name, recipe in {} if processes else recipes.items():
        multitrain.train(recipe_dict(recipe), str(folder / name), "none")
    unseen = _data(one, place, seed, one.unseen, processes) if one.unseen else None
    tasks = [
        (str(folder / name), one.worlds, str(unseen) if unseen and _whole(name, one) else "")
        for name in recipes
    ]
    with Progress("tests", len(tasks), "run") as bar:
        threads = max(1, cores() // max(1, processes))
        done = in_pool(
            of_run, tasks, processes, torch.set_num_threads, (threads,), lambda _: bar.add()
        )
    return records(one, seed, steps, dict(zip(recipes, done, strict=True)))


def records(
    one: Regime, seed: int, steps: int, done: Mapping[str, Sequence[Scored]]
) -> list[Record]:
    """Return the records of a unit, from each run's tests.

    Only the first record of a data set and test has source videos, as they are the same in all
    arms.

    Args:
        done: Run name -> its tests.
    """
    made, listed = [], set()
    commit = (made_by()["commit"] or "")[:10]
    for name, tests in done.items():
        arm = name.partition("/")[0]
        for data, test, right, source_video, numbers in tests:
            numbers = {"steps": steps, **numbers}
            videos = None if (data, test) in listed else source_video
            listed.add((data, test))
            row = Record(data, seed, arm, test, one.mark, right, numbers, commit=commit)
            made.append(replace(row, source_videos=videos))
    return made


def _whole(name: str, one: Regime) -> bool:
    """Whether a run's backbone saw a large data set, so it is tested on the unseen world."""
    arm, _, data = name.partition("/")
    return arm not in ALONE or data not in one.small


# ---- runs --------------------------------------------------------------------------------------


def _data(one: Regime, place: Path, seed: int, world: str, processes: int) -> Path:
    """Make the videos and flow of a world if they are missing; both regimes share them."""
    folder = place / "worlds" / f"seed-{seed}" / f"{WORLD}{world}"
    rows = toy.render(folder / "videos", one.size, world, seed, max(1, processes), progress=False)
    flow_store.complete(rows, folder / "flow", "dis", workers=processes, progress=False)
    return folder


def parts(one: Regime, place: Path, seed: int, processes: int) -> list[multitrain.Part]:
    """Make the data sets of a seed if they are missing; return the recipe's parts.

    Args:
        place: The experiment's folder.
        processes: That render videos and compute flow.
    """
    made = []
    for world, source_videos in one.data.items():
        folder = _data(one, place, seed, world, processes)
        few = folder / f"few-{source_videos}"
        if not (few / "manifest.csv").exists():
            rows = Manifest.load(folder / "videos")
            drawn(rows, world, one.size, source_videos, seed).save(few)
        classes = tuple(toy.WORLDS[world].classes)
        name, flow = f"{WORLD}{world}", str(folder / "flow")
        made.append(multitrain.Part(name, str(few), classes, flow))
    return made


def stages(
    one: Regime, place: Path, seed: int, steps: int, processes: int = 2
) -> dict[str, multitrain.Recipe]:
    """Plan the runs of a seed by name: `joint` and so on, and `alone-steps/NAME` of each data set.

    Args:
        place: The experiment's folder.
        steps: Of the joint runs.
        processes: That render videos and compute flow.
    """
    every = parts(one, place, seed, processes)
    base = replace(one.recipe, parts=tuple(every), fit=replace(one.recipe.fit, seed=seed))
    rows = [len(Manifest.load(part.manifest).select(split="train")) for part in every]
    batch = base.fit.batch
    long = round(steps / (epoch_clips(rows, base.mix) // batch))
    joint = [arm for arm in one.arms if arm not in ALONE]
    made = {arm: _lasting(replace(base, **ARMS[arm]), long) for arm in joint}
    for part, count, share in zip(every, rows, shares(rows, base.mix), strict=True):
        single = replace(multitrain.alone(base, part), mix=Mix())
        lengths = {"alone-epochs": steps * share}
        if part.name.removeprefix(WORLD) in one.alone:
            lengths["alone-steps"] = steps
        for arm in (name for name in ALONE if name in lengths and name in one.arms):
            epochs = round(lengths[arm] / (count // batch))
            made[f"{arm}/{part.name}"] = _lasting(single, epochs)
    return made


def _lasting(recipe: multitrain.Recipe, epochs: int) -> multitrain.Recipe:
    epochs = max(1, epochs)
    warm = WARM_UP * epochs
    return replace(
        recipe, fit=replace(recipe.fit, epochs=epochs, save_every=epochs, warmup_epochs=warm)
    )
