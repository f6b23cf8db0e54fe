"""CoCLR's claim: all methods at equal clip budgets, several seeds, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.environment import made_by
from vidbench.engine.runs import Run, changed, recipe_dict
from vidbench.evaluate.evaluate import Evaluation, evaluate_all, two_stream
from vidbench.evaluate.features import Protocol
from vidbench.experiments import compare
from vidbench.experiments.ladders import (
    ABLATIONS,
    CALIBRATION,
    GAP,
    LOSS,
    METHODS,
    METRICS,
    STREAMS,
    at,
    ladders,
    page,
    pairs,
    report,
)
from vidbench.experiments.ladders import title as title
from vidbench.experiments.paired import Number, Paired, spread
from vidbench.experiments.records import Book, Record, mark, source_videos
from vidbench.methods import coclr
from vidbench.tensors.metrics import calibration_error, cross_entropy


@dataclass(frozen=True)
class Settings:
    """The data, methods and protocol of a comparison.

    For each seed a toy world is rendered. The recipe was chosen on training videos of the base
    world 0, which is none of them. Real data has the same videos for each seed, or a fold for each
    of `folds`. clips: views a stage trains on; epochs follow from it and the data set's size.
    """

    preset: coclr.Preset = coclr.PRESETS["toy"]
    seeds: tuple[int, ...] = (1, 2, 3)
    world: str = "small"
    kind: str = "base"  # of data.toy.world.WORLDS
    data: str = ""
    folds: tuple[int, ...] = ()
    clips: int = 14_000
    ablations: bool = True
    flow: str = "dis"
    short_side: int | None = None
    centering: str = "gallery"
    protocol: Protocol = Protocol()
    processes: int = 2


def settings_for(
    data: str, seeds: tuple[int, ...], folds: tuple[int, ...], clips: int, cycles: int, quick: bool
) -> Settings:
    """Choose toy worlds, or real videos at 64 pixels without ablations; shorten if `quick`.

    Args:
        data: "" is the base world with ablations, "toy-mixed" another world without, else a folder.
        seeds, folds: With folds, each fold is a repetition instead of each seed.
        clips: Views that a stage trains on.
        cycles: Of co-training.
        quick: One seed or fold, one cycle, a quarter of the clips, no ablations.
    """
    made = Settings(seeds=seeds, folds=folds, clips=clips)
    made = replace(made, preset=replace(made.preset, cycles=cycles))
    if world := toy_world(data):
        made = replace(made, kind=world, ablations=False)
    elif data:
        made = replace(made, data=data, short_side=64, ablations=False)
    if quick:
        made = replace(made, seeds=seeds[:1], folds=folds[:1], clips=clips // 4, ablations=False)
        made = replace(made, preset=replace(made.preset, cycles=1))
    return made


def toy_world(data: str) -> str:
    """Return the world that "toy-mixed" names, or "" if it names none."""
    prefix, _, world = data.partition("-")
    return world if prefix == "toy" and world in toy.WORLDS else ""


@dataclass(frozen=True)
class Case:
    """One repetition: the folder of its runs, its videos and its seed."""

    folder: Path
    videos: Path
    flow: Path
    held_out: str
    seed: int


def replicate(out: str | Path, settings: Settings = Settings()) -> Path:
    """Train and evaluate everything below `out`; return the path of the report. Resumable.

    After each repetition its evaluated runs are added to `out`/runs.csv. Repetitions in that file
    are not trained again, so the file alone resumes on another machine.

    Args:
        out: The experiment's folder.
    """
    job = compare.Replication(out)
    book, wanted = Book(job.out / "runs.csv"), names(settings)
    data = settings.data and catalogue.name_of(settings.data) or f"toy-{settings.kind}"
    for part in settings.folds or settings.seeds:
        own = _mark(settings)
        for name in wanted:
            book.check((data, part, name), own)
        if any((data, part, name) not in book for name in wanted):
            case = _case(job.out, settings, part)
            recipes = stages(case, settings)
            last = sorted(recipes.items(), key=lambda item: item[0] in ABLATIONS)
            job.train({f"{case.folder.name}/{name}": r for name, r in last}, settings.processes)
            book.add(_records(case, evaluated(case, settings), data, own))
    parts = settings.folds or settings.seeds
    mine = [one for one in book.of(data) if one.seed in parts]
    runs = {one.run: one.numbers for one in mine}
    facts = {
        "settings": {**asdict(settings), "preset": recipe_dict(settings.preset)},
        "cases": [f"{'fold' if settings.folds else 'seed'}-{part}" for part in parts],
        "budgets": {name: dict(runs[data, parts[0], name]) for name in wanted},
    }
    title = "vidbench: InfoNCE, CoCLR, UberNCE at equal clip budgets"
    shared = bool(settings.data) and not settings.folds
    numbers = outcome(mine, shared)
    training = sum(one["seconds"] for one in runs.values())
    return job.write(
        title, facts, numbers, report, training=training, page=page(facts, numbers, mine)
    )


def names(settings: Settings) -> list[str]:
    """List all runs of a repetition and, at each cycle, the fusion of a method's two streams."""
    cycles = settings.preset.cycles
    made = [
        at(kind, stream, cycle)
        for kind in METHODS
        for stream in STREAMS
        for cycle in range(1 if kind == "coclr" else 0, cycles + 1)
    ]
    return made + (list(ABLATIONS) if settings.ablations else [])


def _mark(settings: Settings) -> str:
    """The checksum of what decides a repetition's numbers, without paths."""
    sizes = (settings.world, settings.kind, settings.clips, settings.flow, settings.short_side)
    return mark(settings.preset, *sizes, settings.centering, settings.protocol, settings.ablations)


def _records(case: Case, found: Mapping[str, Evaluation], data: str, own: str) -> list[Record]:
    """The records of a repetition, one per run and metric."""
    rows = Manifest.load(case.videos).select(split=case.held_out)
    labels = torch.from_numpy(rows.label)
    commit = (made_by()["commit"] or "")[:10]
    made = []
    for number, (name, one) in enumerate(found.items()):
        kept = {key: float(one.budget[key]) for key in ("clips", "epochs")} | {"seconds": 0.0}
        if "-both" not in name:
            log = Run(case.folder / name).metrics()
            losses = [line["loss"] for line in log if line.get("loss") is not None]
            kept |= {"seconds": float(log[-1]["seconds"]), "train loss": float(losses[-1])}
        guess = torch.from_numpy(one.probabilities)
        kept |= {
            LOSS: float(cross_entropy(guess, labels)),
            CALIBRATION: float(calibration_error(guess, labels)),
        }
        for metric in METRICS:
            hits = one.hits[metric]
            record = Record(data, case.seed, name, metric, own, hits, kept, commit=commit)
            if not number:
                names = np.array(rows.classes)[rows.label]
                record = replace(record, labels=names, source_videos=rows.source_video)
            made.append(record)
    return made


def _case(out: Path, settings: Settings, part: int) -> Case:
    """A repetition; its videos are rendered or read, and their flow is computed."""
    folder = out / (f"fold-{part}" if settings.folds else f"seed-{part}")
    processes = settings.processes
    if not settings.data:
        videos, flow = folder / "videos", folder / "flow"
        size, world = settings.world, settings.kind
        manifest = toy.render(videos, size, world, seed=part, workers=processes)
    else:
        options = {"fold": part} if settings.folds else {}
        videos, flow = (folder if settings.folds else out) / "videos", out / "flow"
        manifest = catalogue.keep(videos, settings.data, **options)
    compare.extract_flow(manifest, flow, settings.flow, settings.short_side, processes)
    return Case(folder, videos, flow, manifest.held_out(), part)


def fitted(settings: Settings, rows: int) -> coclr.Preset:
    """Fit epochs to the clips of a stage, and the queue to at most three quarters of the rows.

    topk stays the same share of the queue.

    Args:
        rows: How many training videos there are.
    """

    def fit(recipe: coclr.Recipe) -> coclr.Recipe:
        recipe = coclr.fitted(recipe, rows, share=0.75)
        batch = recipe.fit.batch
        epochs = max(1, round(settings.clips / (rows // batch * batch)))
        return replace(
            recipe,
            held_out=0.0,
            clip=replace(recipe.clip, decode_size=settings.short_side),
            fit=replace(recipe.fit, epochs=epochs, save_every=max(1, epochs // 10)),
        )

    return replace(
        settings.preset, alone=fit(settings.preset.alone), together=fit(settings.preset.together)
    )


def stages(case: Case, settings: Settings) -> dict[str, coclr.Recipe]:
    """Plan all runs of a case by name; the number in a name is the cycle whose clip budget it has.

    InfoNCE and UberNCE continue, with the optimizer of their first stage, for as many epochs as a
    half-cycle has.

    Args:
        case: The repetition.
    """
    preset = fitted(settings, len(Manifest.load(case.videos).select(split="train")))
    places = {"manifest": str(case.videos), "flow": str(case.flow)}
    made = coclr.graph(preset, case.folder, **places, seed=case.seed)
    for kind, positives in (("infonce", "instance"), ("ubernce", "class")):
        for stream in coclr.OTHER:
            name = f"{kind}-{stream}"
            made[name] = last = changed(made[f"infonce-{stream}"], {"positives": positives})
            for cycle in range(1, preset.cycles + 1):
                epochs, seed = preset.together.fit.epochs, last.fit.seed + 100
                fit = replace(preset.alone.fit, epochs=epochs, seed=seed)
                student = str(case.folder / at(kind, stream, cycle - 1))
                made[at(kind, stream, cycle)] = last = replace(made[name], fit=fit, student=student)
    for name, (fellow, changes) in ABLATIONS.items() if settings.ablations else ():
        made[name] = replace(made[fellow], **changes)
    return made


def evaluated(case: Case, settings: Settings) -> dict[str, Evaluation]:
    """Evaluate every run of a case and, at each cycle, a method's two streams ("coclr-both-2").

    Args:
        case: The repetition.
    """
    switches: dict[str, Any] = {
        "held_out": case.held_out,
        "protocol": settings.protocol,
        "centering": settings.centering,
        "seed": case.seed,
    }
    folders = [case.folder / name for name in stages(case, settings)]
    found = evaluate_all(folders, processes=settings.processes, **switches)
    for kind in METHODS:
        for cycle in range(0 if kind != "coclr" else 1, settings.preset.cycles + 1):
            rgb, flow = (found[at(kind, stream, cycle)] for stream in ("rgb", "flow"))
            both = two_stream(rgb, flow, folder=case.folder, **switches)
            found[at(kind, "both", cycle)] = both
    return found


def outcome(records: Sequence[Record], shared: bool = False) -> list[Number]:
    """Compare all runs: means over repetitions, paired differences, shares closed of gaps.

    A share is computed for gaps of at least GAP. Then follow the probe's cross-entropy and
    calibration error, and the last training loss of each run.

    Args:
        records: Of all repetitions.
        shared: All repetitions have the same test videos.
    """
    made: list[Number] = []
    by: dict[str, dict[int, dict[str, Record]]] = {}
    for one in records:
        by.setdefault(one.test, {}).setdefault(one.seed, {})[one.arm] = one
    for metric in METRICS:
        held = list(by[metric].values())
        arms = list(held[0])
        hits = [{arm: case[arm].hits for arm in arms} for case in held]
        groups = [source_videos(case.values()) for case in held]
        paired = Paired(hits, groups, metric, shared=shared)
        made += [paired.mean(name) for name in arms]
        made += [paired.difference(*pair) for pair in pairs(arms)]
        made += [
            paired.share(*rungs)
            for rungs in ladders(arms)
            if abs(paired.difference(rungs[2], rungs[0]).value) >= GAP
        ]
    for name in (LOSS, CALIBRATION, "train loss"):
        metric = name if name == "train loss" else f"probe, {name}"
        for arm in arms:
            each = [case[arm].numbers.get(name) for case in held]
            known = [value for value in each if value is not None]
            if len(known) == len(each):
                made.append(spread("", arm, metric, known))
    return made
