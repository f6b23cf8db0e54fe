"""RMS's claim put to the test: it and its rivals on the same data with the same seeds, paired
differences."""

import csv
import json
import multiprocessing
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.data.video import clips
from vidbench.engine import ranks
from vidbench.engine.runs import Run, environment, recipe_dict, write_text
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import classified, interval
from vidbench.evaluate.features import PROTOCOLS, Protocol
from vidbench.evaluate.probe import gains
from vidbench.methods import classify
from vidbench.tensors.metrics import nested_bootstrap
from vidbench.view.figures import Bar, bars, whiskers
from vidbench.view.html import Section, table, write_page

# What is added to the baseline, by name: (words, regularizer, mixing). Filter, border and alpha's
# law are those of tensors.regularizers; sigma 1 of the Gaussian and the probability of CutMix (its
# code's for CIFAR) are assumptions.
ARMS = {
    "baseline": ("baseline", {}, {}),
    "rms": ("RMS, mean", {"name": "rms"}, {}),
    "rms-gauss": ("RMS, Gaussian", {"name": "rms", "sigma": 1.0}, {}),
    "whole": ("whole feature", {"name": "rms", "part": "whole"}, {}),
    "high": ("high-frequency", {"name": "rms", "part": "high"}, {}),
    "random-drop": ("RandomDrop", {"name": "random_drop"}, {}),
    "shake-drop": ("ShakeDrop", {"name": "shake_drop"}, {}),
    "cutmix": ("CutMix", {}, {"name": "cutmix", "p": 0.5}),
}
BASELINE = "baseline"
TOY = re.compile(
    r"toy-([1-9]\d*)"
)  # worlds of size `small`, so many training sources of each class


@dataclass(frozen=True)
class Experiment:
    """All arms on one data set.

    data: "toy-N" (for each seed a world, rendered with it) or a folder (the same videos for each
    seed, or with `folds` those of the fold of that number). sources: of each class that are trained
    on, so few that a net can learn them by heart; 0 is all."""

    data: str
    recipe: classify.Recipe
    views: Mapping[str, Protocol]
    sources: int = 0
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
    """The experiment on toy worlds ("toy-5"), on pictures or on videos, told by what the folder
    holds.

    The recipes are those of notebooks 20 and 21, longer; how long was chosen with the baseline
    alone, on training videos that were held out. Weizmann, with 4 test videos a fold, is repeated
    on its nine folds instead of seeds. quick: one repetition, a quarter of the epochs, baseline,
    RMS and its two ablations. longer: times as many epochs. arms: which of ARMS; the baseline is
    always among them. Raises ValueError on an unknown arm."""
    if set(arms) - set(ARMS):
        raise ValueError(f"arms are of {', '.join(ARMS)}; got {', '.join(arms)}.")
    toy_world = TOY.fullmatch(data)
    name = "toy" if toy_world else catalogue.recognise(data)
    pictures = name not in ("toy", "weizmann") and _of_pictures(data)
    recipe = classify.SETTINGS["rms_tiny_image" if pictures else "rms_tiny"]
    clip, fit, sources = recipe.clip, recipe.fit, 0
    if pictures:
        recipe, fit, sources = (
            replace(recipe, network_args={"depth": 14}),
            replace(fit, epochs=45),
            100,
        )
    elif toy_world:
        sources = int(toy_world[1])
        clip, fit = (
            replace(clip, stride=3),
            replace(fit, epochs=max(1, round(200 / sources))),
        )  # 9,600 clips
    else:
        stride, size = (3, None) if name == "weizmann" else (4, 64)
        clip, fit = replace(clip, stride=stride, decode_size=size), replace(fit, epochs=60)
    views = {"one view": PROTOCOLS["one_view"]}
    if not pictures:
        views["4 views"] = Protocol(windows=4)
    seeds = tuple(range(1, catalogue.WEIZMANN_ACTORS + 1)) if name == "weizmann" else tuple(seeds)
    fit, arms = (
        replace(fit, epochs=longer * fit.epochs),
        tuple(arm for arm in ARMS if arm in {BASELINE, *arms}),
    )
    if quick:
        seeds, fit, arms = seeds[:1], replace(fit, epochs=fit.epochs // 4), arms[:5]
    recipe = replace(recipe, clip=clip, fit=replace(fit, save_every=fit.epochs))
    return Experiment(data, recipe, views, sources, seeds, arms, folds=name == "weizmann")


def _of_pictures(data: str) -> bool:
    rows = catalogue.open_dataset(catalogue.recognise(data), data, missing="keep")
    return str(rows.path[0]).lower().endswith(clips.PICTURES)


def replicate(out: str | Path, experiments: Sequence[Experiment], processes: int = 2) -> Path:
    """Train and test every arm on every data set below `out`; write report.html, numbers.json and
    numbers.csv there.

    Resumable: the same call goes on, and what is complete is neither trained nor tested again.
    """
    out, began = Path(out).resolve(), time.monotonic()
    recipes = {
        f"{one.name}/seed-{seed}/{arm}": recipe
        for one in experiments
        for seed in one.seeds
        for arm, recipe in stages(one, out, seed).items()
    }
    # a seed of every arm and data set first, so that an early stop leaves whole comparisons
    recipes = dict(sorted(recipes.items(), key=lambda item: item[1].fit.seed))
    print(f"{len(recipes)} runs on {', '.join(one.name for one in experiments)}", flush=True)
    run_all(recipes, out, processes)
    found = [outcome(one, tested(one, out, processes)) for one in experiments]
    facts = {
        "environment": environment(),
        "seconds": round(time.monotonic() - began),
        "experiments": found,
    }
    write_text(out / "numbers.json", json.dumps(facts, indent=1))
    _csv(out / "numbers.csv", found)
    return report(out, facts)


# ---- runs --------------------------------------------------------------------------------------


def videos(one: Experiment, out: Path, seed: int) -> Path:
    """The manifest's folder of a seed, made where it is missing: the chosen sources of train, and
    all test videos."""
    folder = out / one.name / (f"seed-{seed}" if one.toy or one.folds else "data")
    if one.toy:
        rows = toy.render(folder / "videos", "small", seed=seed, progress=False)
    else:
        rows = catalogue.keep(folder / "videos", one.data, seed if one.folds else None)
    if not one.sources:
        return folder / "videos"
    few = folder / f"few-{one.sources}"
    if not (few / "manifest.csv").exists():
        fewer(rows, one.sources).save(few)
    return few


def fewer(rows: Manifest, sources: int, seed: int = 0) -> Manifest:
    """Rows with so many sources of each class in train, drawn once for all; other splits as they
    are."""
    train, rng, kept = rows.select(split="train"), np.random.default_rng([seed, 11]), []
    for label in np.unique(train.label):
        kept.extend(rng.permutation(np.unique(train.source[train.label == label]))[:sources])
    return rows.select(mask=(rows.split != train.split[0]) | np.isin(rows.source, kept))


def stages(one: Experiment, out: Path, seed: int) -> dict[str, classify.Recipe]:
    """The recipes of a seed by arm: all of one seed begin with the same weights and see the same
    clips in one order."""
    place = videos(one, out, seed)
    base = replace(
        one.recipe,
        manifest=str(place),
        classes=Manifest.load(place).classes,
        fit=replace(one.recipe.fit, seed=seed),
    )
    return {arm: with_arm(base, arm) for arm in one.arms}


def with_arm(recipe: classify.Recipe, arm: str) -> classify.Recipe:
    """The recipe with one of ARMS in place of its regularizer and mixing.

    RMS and its ablations keep the stages and the kernel of the recipe's own RMS; RandomDrop and
    ShakeDrop stand in every block, as published. Raises ValueError on an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"an arm is one of {', '.join(ARMS)}; got {arm!r}.")
    _, regularizer, mixing = ARMS[arm]
    where = {
        name: recipe.regularizer[name]
        for name in ("stages", "kernel")
        if name in recipe.regularizer
    }
    places = where if regularizer.get("name") == "rms" else {}
    if regularizer.get("name") == "rms" and "stages" not in where:
        raise ValueError(
            f"the recipe has no RMS whose stages {arm} could keep; give it a regularizer such as "
            '{"name": "rms", "stages": (4, 5)}.'
        )
    return replace(recipe, regularizer={**regularizer, **places}, mixing=mixing)


def tested(one: Experiment, out: Path, processes: int) -> dict[int, dict[str, dict]]:
    """Of each seed and arm: per-video hits by test, right on training videos, seconds, per-class
    gains."""
    jobs = [(seed, arm) for seed in one.seeds for arm in one.arms]
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, ranks.cores() // processes),),
    ) as pool:
        waiting = [
            pool.submit(_test, str(out / one.name / f"seed-{seed}" / arm), one.views)
            for seed, arm in jobs
        ]
        done = [
            job.result()
            for job in tqdm(waiting, desc=f"{one.name}: tests", unit="run", mininterval=10)
        ]
    return {
        seed: {arm: result for (s, arm), result in zip(jobs, done, strict=True) if s == seed}
        for seed in one.seeds
    }


def _test(folder: str, views: Mapping[str, Protocol]) -> dict:
    run = Run(folder)
    found = classified(folder, Manifest.load(run.recipe["manifest"]).held_out(), views)
    seen = classified(folder, "train", {"one view": PROTOCOLS["one_view"]})["one view"]
    last = list(found)[-1]
    return {
        "hits": {name: one["right"] for name, one in found.items()},
        "source": found[last]["table"].source,
        "train": float(seen["accuracy"]),
        "loss": run.metrics()[-1]["loss"],
        "seconds": run.metrics()[-1]["seconds"],
        "table": found[last]["table"],
    }


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Experiment, found: Mapping[int, Mapping[str, dict]]) -> dict:
    """Means over seeds and paired differences to the baseline with 95 % intervals; train less test;
    time over time.

    A bootstrap draws seeds and sources of test videos, the same for all arms; of real data the same
    sources for all seeds, as their test videos are the same."""
    seeds, sources = (
        list(found),
        [torch.from_numpy(arms[BASELINE]["source"]) for arms in found.values()],
    )
    made = {
        "name": one.name,
        "seeds": seeds,
        "recipe": recipe_dict(one.recipe),
        "rows": [],
        "test_videos": [len(source) for source in sources],
    }
    for test in one.views:
        hits = [
            torch.from_numpy(np.stack([arms[arm]["hits"][test] for arm in one.arms]))
            for arms in found.values()
        ]
        draws = nested_bootstrap(
            hits, sources, seed=0, shared=not one.toy and not one.folds
        ).numpy()
        each = np.stack([part.double().mean(dim=1).numpy() for part in hits])  # [seeds,arms]
        base = one.arms.index(BASELINE)
        for number, arm in enumerate(one.arms):
            of = [arms[arm] for arms in found.values()]
            gap = np.array([result["train"] for result in of]) - each[:, number]
            made["rows"].append(
                {
                    "arm": arm,
                    "test": test,
                    **interval(each[:, number], draws[:, number]),
                    "difference": interval(
                        each[:, number] - each[:, base], draws[:, number] - draws[:, base]
                    ),
                    "train": float(np.mean([result["train"] for result in of])),
                    "gap": float(gap.mean()),
                    "time": float(
                        np.mean(
                            [
                                r["seconds"] / arms[BASELINE]["seconds"]
                                for r, arms in zip(of, found.values(), strict=True)
                            ]
                        )
                    ),
                    "seconds": float(np.mean([result["seconds"] for result in of])),
                }
            )
    last = list(one.views)[-1]
    if "rms" in one.arms:
        made["classes"] = _classes(
            [gains(arms["rms"]["table"], arms[BASELINE]["table"]) for arms in found.values()]
        )
    made["main"] = last
    return made


def _classes(tables: Sequence[list[dict]]) -> list[dict]:
    """What each class gains by RMS, mean over seeds, the largest gain first."""
    found: dict[str, list] = {}
    for row in chain.from_iterable(tables):
        found.setdefault(row["action"], []).append(
            [row[name] for name in ("before", "after", "gain")]
        )
    rows = [
        {
            "action": action,
            **dict(zip(("before", "after", "gain"), np.mean(each, axis=0).tolist(), strict=True)),
        }
        for action, each in found.items()
    ]
    return sorted(rows, key=lambda row: -row["gain"])


def _csv(path: Path, found: Sequence[Mapping]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "data",
                "arm",
                "test",
                "top-1",
                "low",
                "high",
                "less baseline",
                "less low",
                "less high",
                "train",
                "gap",
                "time",
                "each seed",
            ]
        )
        for one in found:
            for row in one["rows"]:
                less = row["difference"]
                values = (
                    row["value"],
                    row["low"],
                    row["high"],
                    less["value"],
                    less["low"],
                    less["high"],
                    row["train"],
                    row["gap"],
                    row["time"],
                )
                writer.writerow(
                    [
                        one["name"],
                        row["arm"],
                        row["test"],
                        *(f"{value:.4f}" for value in values),
                        " ".join(f"{value:.4f}" for value in row["each"]),
                    ]
                )
    temporary.replace(path)


# ---- report ------------------------------------------------------------------------------------


def report(out: Path, facts: Mapping) -> Path:
    """Write `out`/report.html: for each data set the arms as a figure and a table, and what each
    class gains."""
    found = facts["experiments"]
    sections = [
        Section(
            "All data sets",
            [
                "RMS and its rivals, each added to the same baseline: the same first weights, "
                "videos and order of clips for "
                "all arms of a seed. The published tables of RMS could not be had, so nothing "
                "stands beside these numbers.",
                beside_baseline(found),
                differences(found),
            ],
        )
    ]
    for one in found:
        sections.append(Section(one["name"], [figure(one), numbers(one), *_gained(one)]))
    hours = (
        sum(
            row["seconds"] * len(one["seeds"])
            for one in found
            for row in one["rows"]
            if row["test"] == one["main"]
        )
        / 3600
    )
    machine = facts["environment"]
    sections.append(
        Section(
            "How it was made",
            [
                table(
                    [
                        {"what": "training, all processes", "hours": round(hours, 2)},
                        {"what": "last call, wall", "hours": round(facts["seconds"] / 3600, 2)},
                    ],
                    note=f"{machine['cores']} cores, {machine['device']}.",
                )
            ],
        )
    )
    write_page(out / "report.html", "vidbench: random mean scaling and its rivals", sections)
    return out / "report.html"


def beside_baseline(found: Sequence[Mapping]):
    """Top-1 of all arms less the baseline's on each data set, as a figure."""
    rows = [
        Bar(
            ARMS[row["arm"]][0],
            one["name"],
            *(row["difference"][name] for name in ("value", "low", "high")),
        )
        for one in found
        for row in one["rows"]
        if row["test"] == one["main"] and row["arm"] != BASELINE
    ]
    return whiskers(
        rows, "points of top-1 less the baseline's", "What each adds, with 95 % intervals"
    )


def differences(found: Sequence[Mapping]):
    """A table of all arms: top-1 less the baseline's on each data set."""
    arms = [arm for arm in ARMS if any(row["arm"] == arm for one in found for row in one["rows"])]
    rows = [
        {"added": ARMS[arm][0], **{one["name"]: _points(one, arm) for one in found}}
        for arm in arms
        if arm != BASELINE
    ]
    told = ", ".join(f"{one['name']} {len(one['seeds'])} seeds, {one['main']}" for one in found)
    return table(
        rows,
        note=f"Top-1 less the baseline's, points of percent with 95 % intervals ({told}).",
        formats={one["name"]: "+.1f" for one in found},
    )


def _points(one: Mapping, arm: str) -> tuple | None:
    row = next(
        (row for row in one["rows"] if (row["arm"], row["test"]) == (arm, one["main"])), None
    )
    return row and tuple(100 * row["difference"][name] for name in ("value", "low", "high"))


def figure(one: Mapping):
    """Top-1 of each arm by each test, with intervals."""
    return bars(
        [
            Bar(row["test"], ARMS[row["arm"]][0], row["value"], row["low"], row["high"])
            for row in one["rows"]
        ],
        "top-1 (%)",
        f"{one['name']}: test videos",
    )


def numbers(one: Mapping):
    """The arms' numbers by the main test."""
    fit = one["recipe"]["fit"]
    rows = [
        {
            "added": ARMS[row["arm"]][0],
            "top-1": row["value"],
            "less baseline": _points(one, row["arm"]),
            "each seed": "  ".join(f"{100 * value:.1f}" for value in row["each"]),
            "train": row["train"],
            "train less test": row["gap"],
            "time": row["time"],
        }
        for row in one["rows"]
        if row["test"] == one["main"]
    ]
    return table(
        rows,
        formats={
            "top-1": ".1%",
            "less baseline": "+.1f",
            "train": ".1%",
            "train less test": ".1%",
            "time": ".2f",
        },
        note=f"{one['main']}, {one['test_videos'][0]} test videos, {fit['epochs']} epochs, last "
        "epoch. "
        "`train` is top-1 of training videos on one view, without augmentation. `time` is that of "
        "training over the baseline's, while another run went on beside.",
    )


def _gained(one: Mapping) -> list:
    rows = one.get("classes", [])
    if not rows:
        return []
    shown = rows if len(rows) <= 12 else rows[:6] + rows[-6:]
    return [
        table(
            shown,
            formats={name: ".1%" for name in ("before", "after")} | {"gain": "+.1%"},
            note="Classes by what RMS (mean) adds to the baseline, mean over seeds.",
        )
    ]
