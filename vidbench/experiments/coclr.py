"""CoCLR's claim put to the test: all methods at equal clip budgets, several seeds, paired
differences."""

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.runs import Run, environment, recipe_dict, write_text
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import Evaluation, evaluate_all, sources, two_stream
from vidbench.evaluate.features import Protocol
from vidbench.methods import coclr
from vidbench.tensors.metrics import nested_bootstrap
from vidbench.view.figures import PALETTE, Bar, bars
from vidbench.view.html import Section, table, write_page

METHODS = {"infonce": "InfoNCE", "coclr": "CoCLR", "ubernce": "UberNCE"}
STREAMS = {"rgb": "RGB", "flow": "flow", "both": "two-stream"}
METRICS = ("R@1", "probe")
GAP = 0.2  # between InfoNCE and UberNCE, from which the share that CoCLR closes means something
# One switch of CoCLR's first half-cycle on RGB turned; each is compared with its untouched fellow.
ABLATIONS = {
    "coclr-rgb-k1": ("coclr-rgb", {"topk": 1}),
    "coclr-rgb-k5": ("coclr-rgb", {"topk": 5}),
    "coclr-rgb-drop0": ("coclr-rgb", {"self_drop": 0.0}),
    "coclr-rgb-positive": ("coclr-rgb", {"siblings": "positive"}),
    "coclr-rgb-negative": ("coclr-rgb", {"siblings": "negative"}),
}


@dataclass(frozen=True)
class Settings:
    """What is compared on what. Toy worlds: a world, rendered with that seed, for each seed; the
    recipe was chosen on a part of the training videos of world 0, which is none of them. Real data:
    the same videos for each seed, or a fold for each of `folds`.

    clips: views a stage trains on; epochs follow from it and the data set's size.
    """

    setting: coclr.Setting = coclr.SETTINGS["toy"]
    seeds: tuple[int, ...] = (1, 2, 3)
    world: str = "small"
    data: str = ""
    folds: tuple[int, ...] = ()
    clips: int = 14_000
    ablations: bool = True
    flow: str = "dis"
    short_side: int | None = None
    centring: str = "gallery"
    protocol: Protocol = Protocol()
    processes: int = 2


def settings_for(
    data: str, seeds: tuple[int, ...], folds: tuple[int, ...], clips: int, cycles: int, quick: bool
) -> Settings:
    """Toy worlds (no `data`), or real videos, decoded at 64 pixels, without the ablations; `quick`
    is a trial run."""
    made = Settings(seeds=seeds, folds=folds, clips=clips)
    made = replace(made, setting=replace(made.setting, cycles=cycles))
    if data:
        made = replace(made, data=data, short_side=64, ablations=False)
    if quick:
        made = replace(
            made,
            seeds=seeds[:1],
            folds=folds[:1],
            clips=clips // 4,
            ablations=False,
            setting=replace(made.setting, cycles=1),
        )
    return made


@dataclass(frozen=True)
class Case:
    """One repetition: its videos, its seed, and where its runs lie."""

    folder: Path
    videos: Path
    flow: Path
    held_out: str
    seed: int


def replicate(out: str | Path, settings: Settings = Settings()) -> Path:
    """Train and evaluate everything below `out`; write report.html, numbers.json and numbers.csv
    there. Resumable."""
    out, began = Path(out).resolve(), time.monotonic()
    found = cases(out, settings)
    recipes = {
        f"{case.folder.name}/{name}": recipe
        for case in found
        for name, recipe in stages(case, settings).items()
    }
    recipes = dict(
        sorted(recipes.items(), key=lambda item: Path(item[0]).name in ABLATIONS)
    )  # what matters most first
    print(
        f"{len(recipes)} runs: {len(recipes) // len(found)} for each of "
        f"{', '.join(c.folder.name for c in found)}",
        flush=True,
    )
    run_all(recipes, out, settings.processes)
    held = [evaluated(case, settings) for case in found]
    facts = {
        "settings": {**asdict(settings), "setting": recipe_dict(settings.setting)},
        "environment": environment(),
        "seconds": round(time.monotonic() - began),
        "training_seconds": _seconds(found, settings),
        "cases": [case.folder.name for case in found],
        **outcome(held, [_sources(case) for case in found]),
    }
    write_text(out / "numbers.json", json.dumps(facts, indent=1))
    _csv(out / "numbers.csv", facts)
    return report(out, facts)


def cases(out: Path, settings: Settings) -> list[Case]:
    """The repetitions, their videos rendered or read and their flow computed."""
    made = []
    parts = settings.folds or settings.seeds
    for part in parts:
        folder = out / (f"fold-{part}" if settings.folds else f"seed-{part}")
        if not settings.data:
            videos, flow = folder / "videos", folder / "flow"
            manifest = toy.render(videos, settings.world, seed=part, workers=settings.processes)
        else:
            options = {"fold": part} if settings.folds else {}
            videos, flow = (folder if settings.folds else out) / "videos", out / "flow"
            manifest = catalogue.keep(videos, settings.data, **options)
        done = flow_store.extract(
            manifest, flow, settings.flow, size=settings.short_side, workers=settings.processes
        )
        if done.failed:
            raise RuntimeError(
                f"flow failed on {len(done.failed)} videos, first {done.failed[0]}; repair them."
            )
        made.append(Case(folder, videos, flow, manifest.held_out(), part))
    return made


def fitted(settings: Settings, rows: int) -> coclr.Setting:
    """The setting with epochs that make up the clips of a stage and a queue of at most three
    quarters of the rows.

    topk stays the same share of the queue.
    """

    def fit(recipe: coclr.Recipe) -> coclr.Recipe:
        batch = recipe.fit.batch
        while batch > rows // 2:
            batch //= 2
        queue = max(batch, min(recipe.queue, 3 * rows // 4 // batch * batch))
        epochs = max(1, round(settings.clips / (rows // batch * batch)))
        return replace(
            recipe,
            queue=queue,
            topk=max(1, round(recipe.topk * queue / recipe.queue)),
            held_out=0.0,
            clip=replace(recipe.clip, decode_size=settings.short_side),
            fit=replace(recipe.fit, batch=batch, epochs=epochs, save_every=max(1, epochs // 10)),
        )

    return replace(
        settings.setting, alone=fit(settings.setting.alone), together=fit(settings.setting.together)
    )


def stages(case: Case, settings: Settings) -> dict[str, coclr.Recipe]:
    """All runs of a case by name. A number behind a name is that of the cycle whose clip budget it
    has in all.

    InfoNCE and UberNCE go on with the optimiser they began with, for as many epochs as a half-cycle
    has."""
    rows = len(Manifest.load(case.videos).select(split="train"))
    setting = fitted(settings, rows)
    made = coclr.graph(
        setting, case.folder, manifest=str(case.videos), flow=str(case.flow), seed=case.seed
    )
    for kind, positives in (("infonce", "self"), ("ubernce", "label")):
        for stream in coclr.OTHER:
            name = f"{kind}-{stream}"
            made[name] = last = replace(made[f"infonce-{stream}"], positives=positives)
            for cycle in range(1, setting.cycles + 1):
                fit = replace(
                    setting.alone.fit, epochs=setting.together.fit.epochs, seed=last.fit.seed + 100
                )
                last = replace(
                    made[name], fit=fit, student=str(case.folder / _at(kind, stream, cycle - 1))
                )
                made[_at(kind, stream, cycle)] = last
    for name, (fellow, changes) in ABLATIONS.items() if settings.ablations else ():
        made[name] = replace(made[fellow], **changes)
    return made


def _at(kind: str, stream: str, cycle: int) -> str:
    """The run of a method whose RGB or flow clips are those of CoCLR's stages up to a cycle."""
    if kind == "coclr":
        return f"coclr-{stream}" + (f"-{cycle}" if cycle > 1 else "")
    return f"{kind}-{stream}" + (f"-{cycle}" if cycle else "")


def evaluated(case: Case, settings: Settings) -> dict[str, Evaluation]:
    """Every run of a case and, at each cycle, both streams of a method together
    ("coclr-both-2")."""
    how = {
        "held_out": case.held_out,
        "how": settings.protocol,
        "centring": settings.centring,
        "seed": case.seed,
    }
    names = list(stages(case, settings))
    found = evaluate_all(
        [case.folder / name for name in names], processes=settings.processes, **how
    )
    for kind in METHODS:
        for cycle in range(0 if kind != "coclr" else 1, settings.setting.cycles + 1):
            pair = [found[_at(kind, stream, cycle)] for stream in coclr.OTHER]
            found[_at(kind, "both", cycle)] = two_stream(*pair, case.folder, **how)
    return found


def outcome(held: list[dict[str, Evaluation]], groups: list[np.ndarray]) -> dict:
    """Means over cases, paired differences, and shares closed of gaps from GAP up; 95 % intervals
    by nested bootstrap.

    held: for each case name -> Evaluation; groups: for each case the source of each query. Draws
    repetitions, and the sources of each; all methods share a draw, so their differences are paired.
    """
    names = list(held[0])
    made = {"numbers": [], "differences": [], "closed": []}
    for metric in METRICS:
        hits = [
            torch.from_numpy(np.stack([case[name].hits[metric] for name in names])) for case in held
        ]
        draws = nested_bootstrap(
            hits, [torch.from_numpy(group) for group in groups], seed=0
        ).numpy()
        each = np.stack([part.double().mean(dim=1).numpy() for part in hits])  # [cases, names]
        at = {name: i for i, name in enumerate(names)}
        for name in names:
            made["numbers"].append(
                {
                    "run": name,
                    "metric": metric,
                    **_interval(each[:, at[name]], draws[:, at[name]]),
                    "clips": held[0][name].budget["clips"],
                    "epochs": held[0][name].budget["epochs"],
                }
            )
        for better, worse in pairs(names):
            made["differences"].append(
                {
                    "better": better,
                    "worse": worse,
                    "metric": metric,
                    **_interval(
                        each[:, at[better]] - each[:, at[worse]],
                        draws[:, at[better]] - draws[:, at[worse]],
                    ),
                }
            )
        for low, middle, high in ladders(names):
            if abs(np.diff(each.mean(axis=0)[[at[low], at[high]]])[0]) < GAP:
                continue

            def share(values, low=at[low], middle=at[middle], high=at[high]):
                gap = values[:, high] - values[:, low]
                return (values[:, middle] - values[:, low]) / np.where(gap == 0, np.nan, gap)

            whole = share(each.mean(axis=0, keepdims=True))[0]
            made["closed"].append(
                {
                    "run": middle,
                    "between": [low, high],
                    "metric": metric,
                    **_interval(share(each), share(draws)),
                    "value": float(whole),
                }
            )
    return made


def ladders(names) -> list[tuple[str, str, str]]:
    """(InfoNCE, CoCLR, UberNCE) of one stream and one clip budget."""
    rungs = [
        tuple(_at(kind, stream, cycle) for kind in METHODS)
        for stream in STREAMS
        for cycle in range(1, 9)
    ]
    return [rung for rung in rungs if set(rung) <= set(names)]


def pairs(names) -> list[tuple[str, str]]:
    """What is compared with what: neighbours on each ladder, and each ablation with its untouched
    fellow."""
    steps = [
        pair for low, middle, high in ladders(names) for pair in ((middle, low), (high, middle))
    ]
    return steps + [(name, fellow) for name, (fellow, _) in ABLATIONS.items() if name in names]


def _interval(each: np.ndarray, draws: np.ndarray) -> dict:
    low, high = np.nanquantile(draws, (0.025, 0.975))
    each_or_none = [
        float(v) if np.isfinite(v) else None for v in each
    ]  # no share of a gap of nothing
    return {
        "value": float(each.mean()),
        "low": float(low),
        "high": float(high),
        "each": each_or_none,
    }


def _sources(case: Case) -> np.ndarray:
    return sources(case.folder / "infonce-rgb", case.held_out)


def _seconds(found: list[Case], settings: Settings) -> float:
    """What all runs took to train, summed over processes."""
    runs = [Run(case.folder / name) for case in found for name in stages(case, settings)]
    return sum(run.metrics()[-1]["seconds"] for run in runs)


def _csv(path: Path, facts: Mapping) -> None:
    """Every mean, difference and share with its interval and each case's value."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["what", "run", "beside", "metric", "value", "low", "high", *facts["cases"]]
        )
        for kind in ("numbers", "differences", "closed"):
            for row in facts[kind]:
                run, beside = (
                    row.get("run", row.get("better")),
                    row.get("worse", " and ".join(row.get("between", []))),
                )
                values = (row["value"], row["low"], row["high"], *row["each"])
                shown = ("" if value is None else f"{value:.5f}" for value in values)
                writer.writerow([kind, run, beside, row["metric"], *shown])
    temporary.replace(path)


def report(out: Path, facts: Mapping) -> Path:
    """Write `out`/report.html: the ladder as figures and a table, differences, the ablations."""
    settings, cases = facts["settings"], ", ".join(facts["cases"])
    named = {(row["run"], row["metric"]): row for row in facts["numbers"]}
    words = (
        f"Repetitions: {cases}. Numbers are means over them, with 95 % intervals of a bootstrap "
        "that draws "
        "repetitions and, within each, sources of test videos. Differences are paired: the same "
        "draws for both."
    )
    protocol = (
        f"Percent. Test queries, train gallery, cosine, {settings['protocol']['windows']} windows "
        "a video, "
        f"centre crop, centring {settings['centring']}, pooled features; probe: logistic "
        "regression on them. "
        "Clips include those of the runs a stage goes on from; a pair of views is one; two-stream "
        "adds both."
    )
    rows = [
        {
            "run": title(name),
            "clips": named[name, "R@1"]["clips"],
            "epochs": named[name, "R@1"]["epochs"],
            **{metric: _percent(named[name, metric]) for metric in METRICS},
        }
        for name in _order({name for name, _ in named})
    ]
    turned = [row for row in facts["differences"] if row["better"] in ABLATIONS]
    steps = [row for row in facts["differences"] if row["better"] not in ABLATIONS]
    sections = [
        Section(
            "The claim", [words, *(_figure(facts, metric) for metric in METRICS), _closed(facts)]
        ),
        Section("Differences at equal clip budgets", [_differences(steps)]),
        Section("All numbers", [table(rows, note=protocol)]),
    ]
    if turned:
        sections.append(
            Section(
                "One switch turned",
                [
                    "The first half-cycle on RGB with one switch turned, less the run it was "
                    "turned from "
                    f"(k = {settings['setting']['together']['topk']}, self_drop "
                    f"{settings['setting']['together']['self_drop']}, siblings "
                    f"{settings['setting']['together']['siblings']}).",
                    _differences(turned),
                ],
            )
        )
    made = [
        {"what": "training, all processes", "hours": round(facts["training_seconds"] / 3600, 2)},
        {"what": "last call, wall", "hours": round(facts["seconds"] / 3600, 2)},
    ]
    machine = facts["environment"]
    sections.append(
        Section(
            "How it was made", [table(made, note=f"{machine['cores']} cores, {machine['device']}.")]
        )
    )
    write_page(
        out / "report.html", "vidbench: InfoNCE, CoCLR, UberNCE at equal clip budgets", sections
    )
    return out / "report.html"


def _percent(row: Mapping) -> tuple[float, float, float]:
    return tuple(100 * row[name] for name in ("value", "low", "high"))


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


def _figure(facts: Mapping, metric: str):
    """The last cycle's ladder on each stream."""
    named = {row["run"]: row for row in facts["numbers"] if row["metric"] == metric}
    last = max(cycle for cycle in range(1, 9) if _at("coclr", "rgb", cycle) in named)
    made = [
        Bar(METHODS[kind], STREAMS[stream], row["value"], row["low"], row["high"])
        for kind in METHODS
        for stream in STREAMS
        for row in [named[_at(kind, stream, last)]]
    ]
    words = {"R@1": "R@1 of retrieval", "probe": "Linear probe"}[metric]
    return bars(
        made,
        f"{metric} (%)",
        f"{words}, equal clip budgets",
        colours=dict(zip(METHODS.values(), (PALETTE[0], PALETTE[1], PALETTE[2]), strict=True)),
    )


def _differences(rows):
    shown = []
    for row in rows:
        left, right = (title(row[side]).partition(" ") for side in ("better", "worse"))
        turned = row["better"] in ABLATIONS
        words = left[2].partition(", ")[2] if turned else f"{left[0]} less {right[0]}, {left[2]}"
        shown.append(
            {
                "difference": words,
                "of": row["metric"],
                "points": _percent(row),
                "each": "  ".join(f"{100 * value:+.1f}" for value in row["each"]),
            }
        )
    return table(
        shown,
        note="Points of percent, with 95 % intervals of the paired difference; each repetition's "
        "own.",
    )


def _closed(facts: Mapping):
    shown = [
        {"run": title(row["run"]), "of": row["metric"], "closed (%)": _percent(row)}
        for row in facts["closed"]
    ]
    note = f"What CoCLR closes of the gap between InfoNCE and UberNCE, where that is {GAP:.0%} or more."
    return (
        table(shown, note=note)
        if shown
        else "UberNCE is hardly above InfoNCE, so there is no gap to close."
    )


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
