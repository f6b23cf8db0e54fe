"""MultiTrain's claims put to the test: one net for several data sets against one each, with and
without its losses."""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vidbench.data.flow import store as flow_store
from vidbench.data.loading.joint import Mix
from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine import ranks
from vidbench.engine.runs import Run, environment, recipe_dict, write_text
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import classified, interval
from vidbench.evaluate.features import PROTOCOLS, Protocol, kept, part_of
from vidbench.evaluate.projections import READ, READOUTS, WORDS, asked, relations, truth
from vidbench.methods import multitrain
from vidbench.tensors.metrics import nested_bootstrap
from vidbench.view.figures import Bar, bars, whiskers
from vidbench.view.html import Section, table, write_page

# Of each arm: in words, and what is changed in the recipe of all losses. The first two are a run
# for each data set.
ARMS = {
    "alone": ("alone, same epochs", {}),
    "alone-long": ("alone, same steps", {}),
    "joint": ("jointly", {"projection": 0.0, "informative": 0.0}),
    "projection": ("+ projection", {"informative": 0.0}),
    "informative": ("+ informative", {"projection": 0.0}),
    "both": ("+ both", {}),
}
ALONE = ("alone", "alone-long")
TEST = {"4 views": Protocol(windows=4)}
SEEN = {"one view": PROTOCOLS["one_view"]}
WORLD = "toy-"  # and the name of a toy world: of size `small`, rendered with each seed


@dataclass(frozen=True)
class Experiment:
    """All arms on one group of data sets: toy worlds ("toy-base") and folders. A seed is that of
    weights and order, and of toy worlds that of the videos, too.

    start: epochs on the first data set before all else; every arm begins with that backbone, as
    MultiTrain does with one trained on Kinetics. 0 is from scratch, where both losses can keep a
    small MViT at constant features."""

    data: tuple[str, ...]
    recipe: multitrain.Recipe
    clips: Mapping[str, Mapping]  # of a folder's name: fields of its part's clip
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
    setting: str = "toy",
    seeds: Sequence[int] = (1, 2, 3),
    arms: Sequence[str] = (),
    quick: bool = False,
) -> Experiment:
    """The experiment on a group of data sets, with a named setting of methods.multitrain.

    Folders are decoded at short side 64, every 4th frame, Weizmann's every 3rd; as they are small
    beside a toy world, they come more often than their size says (Mix "balanced"). arms: of ARMS,
    all where empty. quick: one seed, a quarter of the epochs. Raises ValueError on fewer than two
    data sets, an unknown toy world, setting or arm."""
    worlds = [name.removeprefix(WORLD) for name in data if name.startswith(WORLD)]
    if len(set(data)) < 2 or len(set(data)) < len(data) or set(worlds) - set(toy.WORLDS):
        raise ValueError(
            "wanted two or more data sets, folders or toy worlds "
            f"({WORLD + f', {WORLD}'.join(toy.WORLDS)}"
            f"); got {', '.join(data)}."
        )
    if setting not in multitrain.SETTINGS or set(arms) - set(ARMS):
        raise ValueError(
            f"a setting is one of {', '.join(multitrain.SETTINGS)}, arms are of "
            f"{', '.join(ARMS)}; got "
            f"{setting}, {', '.join(arms)}."
        )
    recipe = multitrain.SETTINGS[setting]
    if quick:
        seeds, recipe = (
            seeds[:1],
            replace(recipe, fit=replace(recipe.fit, epochs=max(1, recipe.fit.epochs // 4))),
        )
    recipe = replace(recipe, fit=replace(recipe.fit, save_every=recipe.fit.epochs))
    clips = {
        catalogue.name_of(one): {
            "stride": 3 if catalogue.recognise(one) == "weizmann" else 4,
            "decode_size": 64,
        }
        for one in data
        if not one.startswith(WORLD)
    }
    recipe = replace(recipe, mix=Mix("balanced") if clips else recipe.mix)
    return Experiment(
        tuple(data),
        recipe,
        clips,
        6 if quick else 24,
        tuple(seeds),
        tuple(arm for arm in ARMS if not arms or arm in arms),
    )


def replicate(out: str | Path, one: Experiment, processes: int = 2) -> Path:
    """Train and test every arm below `out`; write report.html, numbers.json and numbers.csv there.

    Resumable: the same call goes on, and what is complete is neither trained nor tested again.
    """
    out, began = Path(out).resolve(), time.monotonic()
    recipes = {
        f"seed-{seed}/{name}": recipe
        for seed in one.seeds
        for name, recipe in stages(one, out, seed).items()
    }
    print(f"{len(recipes)} runs on {', '.join(one.names)}", flush=True)
    run_all(recipes, out, processes)
    found = tested(one, out, processes)
    facts = {
        "data": one.names,
        "recipe": recipe_dict(one.recipe),
        "environment": environment(),
        "seeds": list(one.seeds),
        **outcome(one, found),
        "pairs": planted(one, out),
        "training": round(sum(Run(out / name).metrics()[-1]["seconds"] for name in recipes)),
        "seconds": round(time.monotonic() - began),
    }
    write_text(out / "numbers.json", json.dumps(facts, indent=1))
    write_text(out / "numbers.csv", _csv(facts))
    return report(out, facts)


# ---- runs --------------------------------------------------------------------------------------


def parts(one: Experiment, out: Path, seed: int) -> list[multitrain.Part]:
    """Every data set's part, its videos and its flow made where they are missing."""
    made = []
    for data, name in zip(one.data, one.names, strict=True):
        folder = out / (f"seed-{seed}" if name in one.worlds else "data") / name
        if name in one.worlds:
            rows = toy.render(folder / "videos", "small", one.worlds[name], seed, progress=False)
        else:
            rows = catalogue.keep(folder / "videos", data)
        if one.recipe.stream == "flow":
            flow_store.complete(rows, folder / "flow", "dis", workers=ranks.cores())
        made.append(
            multitrain.Part(
                name,
                str(folder / "videos"),
                rows.classes,
                str(folder / "flow"),
                dict(one.clips.get(name, {})),
            )
        )
    return made


def stages(one: Experiment, out: Path, seed: int) -> dict[str, multitrain.Recipe]:
    """The recipes of a seed: `start`, `joint` and so on, and `alone-NAME` of each data set. All
    joint ones begin with the same weights, as far as they have the same, and see the same clips in
    the same order."""
    all_parts, made = parts(one, out, seed), {}
    base = replace(one.recipe, parts=tuple(all_parts), fit=replace(one.recipe.fit, seed=seed))
    if one.start:
        made["start"] = _on(base, all_parts[0], one.start)
        base = replace(
            base,
            init=str(out / f"seed-{seed}" / "start"),
            fit=replace(base.fit, lr=base.fit.lr / 2),
        )
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
    return replace(
        multitrain.alone(recipe, part),
        fit=replace(recipe.fit, epochs=epochs, save_every=epochs, warmup_epochs=warm),
    )


def tested(one: Experiment, out: Path, processes: int) -> dict[int, dict[str, dict[str, dict]]]:
    """Of each seed, arm and data set: {"hits" bool [N], "source" [N], "train" (top-1 of training
    videos)}."""
    jobs = [(seed, arm, name) for seed in one.seeds for arm in one.arms for name in one.names]
    folders = [
        out / f"seed-{seed}" / (f"{arm}-{name}" if arm in ALONE else arm)
        for seed, arm, name in jobs
    ]
    with ProcessPoolExecutor(
        processes,
        mp_context=get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(max(1, ranks.cores() // processes),),
    ) as pool:
        waiting = [
            pool.submit(_test, str(folder), job[2])
            for folder, job in zip(folders, jobs, strict=True)
        ]
        done = [job.result() for job in tqdm(waiting, desc="tests", unit="head", mininterval=10)]
    found = {seed: {arm: {} for arm in one.arms} for seed in one.seeds}
    for (seed, arm, name), result in zip(jobs, done, strict=True):
        found[seed][arm][name] = result
    return found


def _test(folder: str, name: str) -> dict:
    split = Manifest.load(part_of(Run(folder), name)["manifest"]).held_out()
    (held,) = classified(folder, split, TEST, data=name).values()
    (seen,) = classified(folder, "train", SEEN, data=name).values()
    return {"hits": held["right"], "source": held["table"].source, "train": seen["accuracy"]}


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Experiment, found: Mapping[int, Mapping[str, Mapping[str, dict]]]) -> dict:
    """{"rows"}: of each data set and arm top-1 with its interval, and less that of `alone`,
    `alone-long` and `joint`.

    A bootstrap draws seeds and sources of test videos, the same for all arms; of a folder, whose
    test videos are the same for all seeds, the same sources for each. The mean over data sets comes
    after them, without an interval."""
    rows = []
    for name in one.names:
        sources = [torch.from_numpy(arms[one.arms[0]][name]["source"]) for arms in found.values()]
        hits = [
            torch.from_numpy(np.stack([arms[arm][name]["hits"] for arm in one.arms]))
            for arms in found.values()
        ]
        draws = nested_bootstrap(hits, sources, seed=0, shared=name not in one.worlds).numpy()
        each = np.stack([part.double().mean(dim=1).numpy() for part in hits])  # [seeds,arms]
        for number, arm in enumerate(one.arms):
            less = {
                base: interval(
                    each[:, number] - each[:, one.arms.index(base)],
                    draws[:, number] - draws[:, one.arms.index(base)],
                )
                for base in (*ALONE, "joint")
                if base in one.arms and base != arm
            }
            rows.append(
                {
                    "data": name,
                    "arm": arm,
                    "videos": hits[0].shape[1],
                    **interval(each[:, number], draws[:, number]),
                    "less": less,
                    "train": float(np.mean([arms[arm][name]["train"] for arms in found.values()])),
                }
            )
    return {"rows": rows}


def planted(one: Experiment, out: Path) -> list[dict]:
    """Of each joint arm and read-out how many planted pairs of toy classes it finds, over seeds and
    ordered pairs.

    Each {"arm", "readout", "asked" (source or target, see projections.asked), "metric" (top-1 or
    reciprocal rank), "value", "low", "high", "chance", "classes"}; a bootstrap draws seeds and
    classes. Empty without two toy worlds."""
    rows, joint = [], [arm for arm in one.arms if arm not in ALONE]
    found = {
        arm: [_asked(one, out, seed, arm) for seed in one.seeds]
        for arm in joint
        if len(one.worlds) > 1
    }
    for arm, seeds in found.items():
        for (readout, side), metric in product(seeds[0], ("top-1", "reciprocal rank")):
            parts = [part[readout, side] for part in seeds]
            hits = [torch.from_numpy(part[metric])[None] for part in parts]
            draws = nested_bootstrap(
                hits, [torch.arange(part.shape[1]) for part in hits], seed=0, shared=True
            ).numpy()
            rows.append(
                {
                    "arm": arm,
                    "readout": readout,
                    "asked": side,
                    "metric": metric,
                    "classes": hits[0].shape[1],
                    "chance": float(np.mean([part[f"{metric} by chance"] for part in parts])),
                    **interval(np.array([float(part.mean()) for part in hits]), draws[:, 0]),
                }
            )
    return rows


def _asked(one: Experiment, out: Path, seed: int, arm: str) -> dict:
    """projections.asked of one run, on all pairs of its toy worlds."""
    run = Run(out / f"seed-{seed}" / arm)
    found = relations(run, {name: kept(run, "train", READ, data=name) for name in one.names})
    return asked(
        found,
        {
            pair: truth(toy.correspondence(), relation, one.worlds)
            for pair, relation in found.items()
            if set(pair) <= set(one.worlds)
        },
    )


def _csv(facts: Mapping) -> str:
    """All numbers as lines of one table: of a data set top-1, of planted pairs what a read-out
    finds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["data", "arm", "metric", "beside", "value", "low", "high", "each seed"])
    for row in facts["rows"]:
        for beside, one in {"": row, **row["less"]}.items():
            writer.writerow(
                [row["data"], row["arm"], "top-1", beside and f"less {beside}", *_rounded(one)]
            )
    for row in facts["pairs"]:
        beside = f"chance {row['chance']:.4f}"
        name = f"{row['metric']}, {row['readout']}, asked from the {row['asked']}"
        writer.writerow(["planted pairs", row["arm"], name, beside, *_rounded(row)])
    return file.getvalue()


def _rounded(row: Mapping) -> list[str]:
    return [
        *(f"{row[name]:.4f}" for name in ("value", "low", "high")),
        " ".join(f"{each:.4f}" for each in row["each"]),
    ]


# ---- report ------------------------------------------------------------------------------------


def report(out: Path, facts: Mapping) -> Path:
    """Write `out`/report.html: top-1 of each data set, what joint training and each loss add,
    planted pairs."""
    fit, machine = facts["recipe"]["fit"], facts["environment"]
    told = f"{len(facts['seeds'])} seeds, {fit['epochs']} epochs, the last one counts, {next(iter(TEST))}"
    sections = [
        Section(
            "Each data set",
            ["Top-1 of test videos, by the data set's own head.", numbers(facts, told)],
        )
    ]
    sections += [
        Section(heading, [gains(facts, base)])
        for base, heading in (
            ("alone", "Less a net of its own, the same epochs"),
            ("alone-long", "Less a net of its own, the same steps"),
            ("joint", "Less plain joint training"),
        )
        if any(base in row["less"] for row in facts["rows"])
    ]
    if facts["pairs"]:
        sections.append(
            Section(
                "Planted pairs found",
                [found_pairs(facts, "source"), found_pairs(facts, "target"), pair_numbers(facts)],
            )
        )
    sections.append(
        Section(
            "How it was made",
            [
                table(
                    [
                        {
                            "what": "training, all processes",
                            "hours": round(facts["training"] / 3600, 2),
                        },
                        {"what": "last call, wall", "hours": round(facts["seconds"] / 3600, 2)},
                    ],
                    note=f"{machine['cores']} cores, {machine['device']}.",
                )
            ],
        )
    )
    return write_page(out / "report.html", "vidbench: several data sets, one net", sections)


def numbers(facts: Mapping, told: str):
    """A table of all arms: top-1 of each data set, and last their mean."""
    rows, names = facts["rows"], facts["data"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    shown = []
    for arm in arms:
        mine = {row["data"]: row for row in rows if row["arm"] == arm}
        shown.append(
            {
                "trained": ARMS[arm][0],
                **{name: _percent(mine[name]) for name in names},
                "mean of these": 100 * float(np.mean([mine[name]["value"] for name in names])),
            }
        )
    videos = ", ".join(
        f"{name} {next(row['videos'] for row in rows if row['data'] == name)}" for name in names
    )
    return table(
        shown,
        note=f"Percent of test videos ({videos}) with 95 % intervals over seeds and sources; "
        f"{told}.",
    )


def gains(facts: Mapping, base: str):
    """Top-1 of each data set less that of the arm `base`, as dots with intervals."""
    rows = [row for row in facts["rows"] if base in row["less"] and row["arm"] not in ALONE]
    return whiskers(
        [
            Bar(
                ARMS[row["arm"]][0],
                row["data"],
                *(value / 100 for value in _percent(row["less"][base])),
            )
            for row in rows
        ],
        f"points of top-1 less {ARMS[base][0]}",
        "Each data set, with 95 % intervals",
    )


def found_pairs(facts: Mapping, side: str):
    """Of how many classes a planted match is the read-out's first choice, a bar an arm."""
    rows = [row for row in facts["pairs"] if (row["metric"], row["asked"]) == ("top-1", side)]
    return bars(
        [
            Bar(ARMS[row["arm"]][0], row["readout"], row["value"], row["low"], row["high"])
            for row in rows
        ],
        "top-1 (%)",
        f"Planted pairs found, asked from the {side} class",
        levels={"chance": rows[0]["chance"]},
    )


def pair_numbers(facts: Mapping):
    """The same and the mean reciprocal rank as a table, chance beside them."""
    shown, names = [], ("arm", "readout", "asked")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in facts["pairs"]):
        mine = {
            row["metric"]: row
            for row in facts["pairs"]
            if tuple(row[name] for name in names) == key
        }
        shown.append(
            {
                "trained": ARMS[key[0]][0],
                "read-out": key[1],
                "asked from": key[2],
                "top-1": _percent(mine["top-1"]),
                "chance": 100 * mine["top-1"]["chance"],
                "mean reciprocal rank": _percent(mine["reciprocal rank"]),
                "by chance": 100 * mine["reciprocal rank"]["chance"],
            }
        )
    words = "; ".join(f"{name}: {WORDS[name]}" for name in READOUTS)
    return table(
        shown,
        note=f"Percent of the classes with a planted match, {facts['pairs'][0]['classes']} over "
        "all "
        f"ordered pairs, 95 % intervals over seeds and classes. {words}.",
    )


def _percent(row: Mapping) -> tuple[float, float, float]:
    return tuple(100 * row[name] for name in ("value", "low", "high"))
