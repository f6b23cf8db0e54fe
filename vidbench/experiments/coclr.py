"""CoCLR's claim: all methods at equal clip budgets, several seeds, paired differences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.runs import changed, recipe_dict
from vidbench.evaluate.evaluate import Evaluation, evaluate_all, source_videos, two_stream
from vidbench.evaluate.features import Protocol
from vidbench.experiments import compare
from vidbench.experiments.compare import Number, Paired, pick
from vidbench.methods import coclr
from vidbench.view.figures import bars
from vidbench.view.html import Section, table

METHODS = {"infonce": "InfoNCE", "coclr": "CoCLR", "ubernce": "UberNCE"}
STREAMS = {"rgb": "RGB", "flow": "flow", "both": "two-stream"}
METRICS = ("R@1", "probe")
GAP = 0.2  # between InfoNCE and UberNCE, from which the share that CoCLR closes means something
# CoCLR's first half-cycle on RGB with one switch changed, compared with the run without the change.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "coclr-rgb-k1": ("coclr-rgb", {"topk": 1}),
    "coclr-rgb-k5": ("coclr-rgb", {"topk": 5}),
    "coclr-rgb-drop0": ("coclr-rgb", {"drop_own_key": 0.0}),
    "coclr-rgb-positive": ("coclr-rgb", {"siblings": "positive"}),
    "coclr-rgb-negative": ("coclr-rgb", {"siblings": "negative"}),
}


@dataclass(frozen=True)
class Settings:
    """What is compared on what.

    Each seed has one toy world, rendered with it; the recipe was chosen on training videos
    of world 0, which is none of them. Real data has the same videos for each seed, or a fold for
    each of `folds`. clips: views a stage trains on; epochs follow from it and the data set's size.
    """

    preset: coclr.Preset = coclr.PRESETS["toy"]
    seeds: tuple[int, ...] = (1, 2, 3)
    world: str = "small"
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
    """Choose toy worlds (no `data`), or real videos at 64 pixels without ablations; shorten if `quick`."""
    made = Settings(seeds=seeds, folds=folds, clips=clips)
    made = replace(made, preset=replace(made.preset, cycles=cycles))
    if data:
        made = replace(made, data=data, short_side=64, ablations=False)
    if quick:
        made = replace(made, seeds=seeds[:1], folds=folds[:1], clips=clips // 4, ablations=False)
        made = replace(made, preset=replace(made.preset, cycles=1))
    return made


@dataclass(frozen=True)
class Case:
    """One repetition: the folder of its runs, its videos and its seed."""

    folder: Path
    videos: Path
    flow: Path
    held_out: str
    seed: int


def replicate(out: str | Path, settings: Settings = Settings()) -> Path:
    """Train and evaluate everything below `out`; return the path of the report. Resumable."""
    job = compare.Replication(out)
    found = cases(job.out, settings)
    recipes = {
        f"{case.folder.name}/{name}": recipe
        for case in found
        for name, recipe in stages(case, settings).items()
    }
    ablations_last = sorted(recipes.items(), key=lambda item: Path(item[0]).name in ABLATIONS)
    job.train(dict(ablations_last), settings.processes)
    held = [evaluated(case, settings) for case in found]
    groups = [source_videos(case.folder / "infonce-rgb", case.held_out) for case in found]
    facts = {
        "settings": {**asdict(settings), "preset": recipe_dict(settings.preset)},
        "cases": [case.folder.name for case in found],
        "budgets": {name: one.budget for name, one in held[0].items()},
    }
    title = "vidbench: InfoNCE, CoCLR, UberNCE at equal clip budgets"
    return job.write(title, facts, outcome(held, groups), report)


def cases(out: Path, settings: Settings) -> list[Case]:
    """The repetitions, their videos rendered or read and their flow computed."""
    made = []
    for part in settings.folds or settings.seeds:
        folder = out / (f"fold-{part}" if settings.folds else f"seed-{part}")
        if not settings.data:
            videos, flow = folder / "videos", folder / "flow"
            manifest = toy.render(videos, settings.world, seed=part, workers=settings.processes)
        else:
            options = {"fold": part} if settings.folds else {}
            videos, flow = (folder if settings.folds else out) / "videos", out / "flow"
            manifest = catalogue.keep(videos, settings.data, **options)
        size, processes = settings.short_side, settings.processes
        compare.extract_flow(manifest, flow, settings.flow, size, processes)
        made.append(Case(folder, videos, flow, manifest.held_out(), part))
    return made


def fitted(settings: Settings, rows: int) -> coclr.Preset:
    """Fit epochs to the clips of a stage, and the queue to at most three quarters of the rows.

    topk stays the same share of the queue.
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
    """All runs of a case by name. The number in a name is the cycle whose clip budget the run has.

    InfoNCE and UberNCE continue with their first optimizer for as many epochs as a half-cycle has.
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
                student = str(case.folder / _at(kind, stream, cycle - 1))
                made[_at(kind, stream, cycle)] = last = replace(
                    made[name], fit=fit, student=student
                )
    for name, (fellow, changes) in ABLATIONS.items() if settings.ablations else ():
        made[name] = replace(made[fellow], **changes)
    return made


def _at(kind: str, stream: str, cycle: int) -> str:
    """The run of a method whose RGB or flow clips are those of CoCLR's stages up to a cycle."""
    if kind == "coclr":
        return f"coclr-{stream}" + (f"-{cycle}" if cycle > 1 else "")
    return f"{kind}-{stream}" + (f"-{cycle}" if cycle else "")


def evaluated(case: Case, settings: Settings) -> dict[str, Evaluation]:
    """Evaluate every run of a case and, at each cycle, a method's two streams ("coclr-both-2")."""
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
            rgb, flow = (found[_at(kind, stream, cycle)] for stream in ("rgb", "flow"))
            both = two_stream(rgb, flow, folder=case.folder, **switches)
            found[_at(kind, "both", cycle)] = both
    return found


def outcome(held: Sequence[Mapping], groups: Sequence[np.ndarray]) -> list[Number]:
    """Compare all runs: means over cases, paired differences, and shares closed of gaps from GAP up.

    Args:
        held: of each case name -> Evaluation.
        groups: of each case the source video of each query.
    """
    names, made = list(held[0]), []
    for metric in METRICS:
        hits = [{name: one.hits[metric] for name, one in case.items()} for case in held]
        paired = Paired(hits, groups, metric)
        made += [paired.mean(name) for name in names]
        made += [paired.difference(*pair) for pair in pairs(names)]
        made += [
            paired.share(*rungs)
            for rungs in ladders(names)
            if abs(paired.difference(rungs[2], rungs[0]).value) >= GAP
        ]
    return made


def ladders(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(InfoNCE, CoCLR, UberNCE) of one stream and one clip budget."""
    names, rungs = set(names), []
    for stream, cycle in product(STREAMS, range(1, 9)):
        low, middle, high = (_at(kind, stream, cycle) for kind in METHODS)
        if {low, middle, high} <= names:
            rungs.append((low, middle, high))
    return rungs


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """What is compared with what: neighbors on each ladder, and each ablation with its untouched
    fellow."""
    steps = [
        pair for low, middle, high in ladders(names) for pair in ((middle, low), (high, middle))
    ]
    return steps + [(name, fellow) for name, (fellow, _) in ABLATIONS.items() if name in names]


def report(facts: Mapping, numbers: Sequence[Number]) -> list[Section]:
    """The report: the ladder as figures and a table, differences, the ablations."""
    words = (
        f"Repetitions: {', '.join(facts['cases'])}. Numbers are means over them with 95 % "
        "intervals. The bootstrap draws repetitions and, within each, source videos. Differences "
        "are paired: both methods have the same draws."
    )
    differences = [one for one in numbers if one.minus and one.metric in METRICS]
    changed = [one for one in differences if one.arm in ABLATIONS]
    steps = [one for one in differences if one.arm not in ABLATIONS]
    figures = [_figure(numbers, metric) for metric in METRICS]
    made = [
        Section("The claim", [words, *figures, _closed(numbers)]),
        Section("Differences at equal clip budgets", [_differences(steps)]),
        Section("All numbers", [_all(facts, numbers)]),
    ]
    if changed:
        base = facts["settings"]["preset"]["together"]
        words = (
            "The first half-cycle on RGB with one switch changed, minus the run without the change "
            f"(k = {base['topk']}, drop_own_key {base['drop_own_key']}, siblings {base['siblings']})."
        )
        made.append(Section("One switch changed", [words, _differences(changed)]))
    return made


def _all(facts: Mapping, numbers: Sequence[Number]):
    """A table of every run's own numbers."""
    settings = facts["settings"]
    at = {(one.arm, one.metric): one for one in numbers if not one.minus}
    rows = [
        {
            "run": title(name),
            "clips": facts["budgets"][name]["clips"],
            "epochs": facts["budgets"][name]["epochs"],
            **{metric: at[name, metric].percent for metric in METRICS},
        }
        for name in _order(facts["budgets"])
    ]
    note = (
        f"Percent. Test queries, train gallery, cosine, {settings['protocol']['windows']} windows "
        f"a video, center crop, centering {settings['centering']}, pooled features. Probe: logistic "
        "regression on them. Clips include those of the runs a stage starts from; a pair of views "
        "is one; two-stream adds both."
    )
    return table(rows, note=note)


def _order(names) -> list[str]:
    """Runs by stream, then budget, then method; ablations last."""
    found = [
        name
        for stream in STREAMS
        for cycle in range(9)
        for kind in METHODS
        if (name := _at(kind, stream, cycle)) in names and (cycle or kind != "coclr")
    ]
    return found + [name for name in ABLATIONS if name in names]


def _figure(numbers: Sequence[Number], metric: str):
    """The last cycle's ladder on each stream."""
    own = {one.arm: one for one in pick(numbers, metric=metric, minus="")}
    last = max(cycle for cycle in range(1, 9) if _at("coclr", "rgb", cycle) in own)
    made = [
        own[_at(kind, stream, last)].bar(METHODS[kind], STREAMS[stream])
        for kind in METHODS
        for stream in STREAMS
    ]
    words = {"R@1": "R@1 of retrieval", "probe": "Linear probe"}[metric]
    return bars(made, f"{metric} (%)", f"{words}, equal clip budgets")


def _differences(rows: Sequence[Number]):
    shown = []
    for row in rows:
        left, right = (title(name).partition(" ") for name in (row.arm, row.minus))
        words = f"{left[0]} - {right[0]}, {left[2]}"
        shown.append(
            {
                "difference": left[2].partition(", ")[2] if row.arm in ABLATIONS else words,
                "of": row.metric,
                "points": row.percent,
                "each": row.each_percent("+"),
            }
        )
    note = "Points of percent, with 95 % intervals of the paired difference; each repetition's own."
    return table(shown, note=note, formats={"points": "+.1f"})


def _closed(numbers: Sequence[Number]):
    shown = [
        {"run": title(one.arm), "of": one.metric.split(",")[0], "closed (%)": one.percent}
        for one in numbers
        if one.minus and one.metric not in METRICS
    ]
    note = (
        f"What CoCLR closes of the gap between InfoNCE and UberNCE, if that is {GAP:.0%} or more."
    )
    words = f"No gap between InfoNCE and UberNCE is {GAP:.0%} or more, so CoCLR closes none."
    return table(shown, note=note) if shown else words


def title(name: str) -> str:
    """A run's name for people: "coclr-rgb-2" -> "CoCLR RGB, cycle 2"."""
    kind, stream, *rest = name.split("-")
    words = {
        "k1": "k = 1",
        "k5": "k = 5",
        "drop0": "self always positive",
        "positive": "siblings positive",
        "negative": "siblings negative",
    }
    cycle = int(rest[0]) if rest and rest[0].isdigit() else 1 if kind == "coclr" else 0
    behind = words[rest[0]] if rest and rest[0] in words else f"cycle {cycle}" if cycle else "init"
    return f"{METHODS[kind]} {STREAMS[stream]}, {behind}"
