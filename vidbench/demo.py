"""The main job end to end: videos to an HTML report with curves, retrieval, probes and a gallery."""

import json
import multiprocessing
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from vidbench.data import datasets, flow_store, toy
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, environment, recipe_dict, write_text
from vidbench.features import Protocol, kept, linear_probe
from vidbench.methods import coclr
from vidbench.report import TITLES, write_report
from vidbench.retrieval import Neighbours, retrieve, summary


@dataclass(frozen=True)
class Settings:
    """What the demo does: a toy world or a folder of videos, and what its stages share.

    clips: views a stage trains on, whatever the data set's size; epochs follow from it. flow: DIS by default, because
    TV-L1 on the toy world would take the demo's whole budget. short_side: pixels to decode and compute flow at; None
    keeps the source's size.
    """

    recipe: coclr.Recipe = coclr.SETTINGS["toy"]
    clips: int = 14_000
    world: str = "small"
    data: str = ""
    flow: str = "dis"
    short_side: int | None = None
    centring: str = "gallery"
    protocol: Protocol = Protocol()
    seed: int = 0
    processes: int = 2


def settings_for(data: str, seed: int) -> Settings:
    """The demo's settings for the toy world (no `data`) or for a folder of real videos, decoded at 64 pixels."""
    return Settings(seed=seed) if not data else Settings(seed=seed, data=data, short_side=64)


def demo(out: str | Path, settings: Settings = Settings()) -> Path:
    """Render or read videos, compute flow, train five runs, retrieve, and write `out`/report.html. Resumable.

    Runs: a random net, InfoNCE on RGB and on flow, one CoCLR half-cycle on RGB mined by the flow run, and InfoNCE on
    RGB for as many further epochs (CoCLR's clip budget). Every number is of the held-out split, which no stage sees.
    """
    out = Path(out).resolve()  # runs name their manifest and parents by path
    out.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    manifest = videos(out, settings)
    clock.mark("videos")
    flow_folder = out / "flow"
    print(f"flow: {settings.flow}", flush=True)
    size, processes = settings.short_side, settings.processes
    made = flow_store.extract(manifest, flow_folder, settings.flow, size=size, workers=processes)
    if made.failed:
        raise RuntimeError(f"flow failed on {len(made.failed)} videos, first {made.failed[0]}; repair or drop them.")
    clock.mark("flow")
    settings = replace(settings, recipe=fitted(settings, len(manifest.select(split="train"))))
    for wave in stages(out, settings):
        side_by_side(wave, out / "runs", settings.processes)
    clock.mark("training")
    numbers, neighbours = evaluate(out, manifest, settings)
    clock.mark("evaluation")
    facts = {"settings": {**asdict(settings), "recipe": recipe_dict(settings.recipe)}, "seconds": clock.seconds,
             "environment": environment(), "numbers": numbers}
    write_text(out / "numbers.json", json.dumps(facts, indent=1))
    path = write_report(out, manifest, manifest.held_out(), facts, neighbours)
    for row in numbers:
        shares = "  ".join(f"{key} {row[key][0]:6.1%}" for key in ("R@1", "R@5", "probe"))
        print(f"{TITLES[row['run']]:28} {shares}")
    print(f"report: {path}", flush=True)
    return path


def fitted(settings: Settings, rows: int) -> coclr.Recipe:
    """The recipe with epochs that make up the clips of a stage, and a queue that holds under half of the train rows.

    A queue near the data set's size would hold each query's own older keys as negatives.
    """
    recipe, batch = settings.recipe, settings.recipe.fit.batch
    if rows < batch:
        raise ValueError(f"the demo trains on batches of {batch}; the train split has only {rows} videos.")
    epochs = max(1, round(settings.clips / (rows // batch * batch)))
    queue = max(batch, min(recipe.queue, rows // 2 // batch * batch))
    return replace(recipe, queue=queue, siblings="ignore",
                   clip=replace(recipe.clip, decode_size=settings.short_side), fit=replace(recipe.fit, epochs=epochs))


def videos(out: Path, settings: Settings) -> Manifest:
    """The toy world, or whatever data set is recognised in the folder; its manifest is kept in `out`/videos."""
    if not settings.data:
        print(f"toy world {settings.world!r}", flush=True)
        return toy.render(out / "videos", settings.world, seed=settings.seed, workers=settings.processes)
    manifest = datasets.keep(out / "videos", settings.data)
    print(f"{settings.data}: {len(manifest)} videos, {len(manifest.classes)} classes", flush=True)
    return manifest


def stages(out: Path, settings: Settings) -> list[dict[str, coclr.Recipe]]:
    """The runs by name, in waves: a wave needs only runs of the waves before it."""
    runs = out / "runs"
    rgb = replace(settings.recipe, manifest=str(out / "videos"), flow=str(out / "flow"), stream="rgb", positives="self",
                  fit=replace(settings.recipe.fit, seed=settings.seed))
    further = replace(rgb, student=str(runs / "infonce-rgb"), fit=replace(rgb.fit, seed=settings.seed + 1))
    near = replace(further, positives="near", self_drop=0.9, teacher=str(runs / "infonce-flow"))
    random = replace(rgb, fit=replace(rgb.fit, epochs=0))
    return [{"random": random}, {"infonce-rgb": rgb, "infonce-flow": replace(rgb, stream="flow")},
            {"coclr-rgb": near, "infonce-rgb-long": further}]


def side_by_side(recipes: dict[str, coclr.Recipe], folder: Path, processes: int) -> None:
    """Train the stages, at most `processes` at a time, each in a process of its own; shows all their progress.

    The first failure stops the wave and is raised with the name of its run. Finished runs are not trained again.
    """
    todo = {name: recipe for name, recipe in recipes.items() if not _complete(folder / name, recipe)}
    threads = max(1, ranks.cores() // max(1, min(processes, len(todo))))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(todo)) or 1, mp_context=context) as pool:
        jobs = {pool.submit(coclr.train, recipe_dict(recipe), str(folder / name), "none", threads): name
                for name, recipe in todo.items()}
        watch = _Watch({name: recipe.fit.epochs for name, recipe in todo.items()}, folder)
        pending = set(jobs)
        try:
            while pending:
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                watch.look()
                for job in done:
                    if job.exception():
                        raise RuntimeError(f"the run {jobs[job]} failed: {job.exception()}") from job.exception()
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # the other stages save themselves and stop
            raise
        finally:
            watch.close()


def _complete(folder: Path, recipe: coclr.Recipe) -> bool:
    if not (folder / "recipe.json").exists():
        return False
    return Run.create(folder, "coclr", recipe).state == "complete"


class _Watch:
    """Reads the runs' logs: a bar for each when a person watches, a line for all every ten seconds otherwise."""

    def __init__(self, epochs: dict[str, int], folder: Path):
        self.epochs, self.folder, self.spoken = epochs, folder, time.monotonic()
        watched = sys.stderr.isatty()
        self.bars = {name: tqdm(total=total, desc=name, position=i, unit="epoch", bar_format=_BAR)
                     for i, (name, total) in enumerate(epochs.items())} if watched else {}

    def look(self) -> None:
        last = {}
        for name in self.epochs:
            if (self.folder / name / "recipe.json").exists():
                lines = Run(self.folder / name).metrics()
                last[name] = lines[-1] if lines else {"epoch": 0, "loss": float("nan")}
        for name, line in last.items():
            if name in self.bars:
                self.bars[name].n = round(line["epoch"], 1)
                self.bars[name].set_postfix(loss=f"{line['loss']:.3f}", refresh=True)
        if not self.bars and last and time.monotonic() - self.spoken > 10:
            self.spoken = time.monotonic()
            print(" | ".join(f"{name} epoch {line['epoch']:.0f}/{self.epochs[name]} loss {line['loss']:.3f}"
                             for name, line in last.items()), flush=True)

    def close(self) -> None:
        self.look()
        for bar in self.bars.values():
            bar.close()


_BAR = "{desc:18} {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"


def evaluate(out: Path, manifest: Manifest, settings: Settings) -> tuple[list[dict], dict]:
    """Features of train and held-out rows, retrieval and probe of each run; the numbers go into the runs too."""
    with ProcessPoolExecutor(settings.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(evaluate_run, str(out / "runs" / name), manifest.held_out(), settings) for name in TITLES]
        done = [job.result() for job in tqdm(jobs, desc="features, search, probe", unit="run")]
    return [row for row, _ in done], {row["run"]: found for row, found in done}


def evaluate_run(folder: str, split: str, settings: Settings) -> tuple[dict, Neighbours]:
    """One run's numbers on the held-out rows, kept in the run, and the neighbours they rest on."""
    torch.set_num_threads(max(1, ranks.cores() // settings.processes))
    run = Run(folder)
    gallery, queries = (kept(run, part, settings.protocol) for part in ("train", split))
    neighbours, hits = retrieve(gallery, queries, centring=settings.centring, ks=(1, 5, 10))
    probe = linear_probe(gallery, queries, seed=settings.seed)
    shares = summary({**hits, "probe": probe["right"]}, settings.seed)
    row = {"run": run.folder.name, "clips": clips_seen(run), **shares, "probe protocol": probe["protocol"],
           "protocol": {**gallery.protocol, "centring": settings.centring, "queries": split, "gallery": "train"}}
    run.add_result(f"demo: {split} against train", row)
    return row, neighbours


def clips_seen(run: Run) -> int:
    """Clips a run was trained on, those of the runs it started from included."""
    lines = run.metrics()
    before = clips_seen(Run(run.recipe["student"])) if run.recipe["student"] else 0
    return before + (lines[-1]["clips"] if lines else 0)


class _Clock:
    """Seconds of each part, spoken as they pass."""

    def __init__(self):
        self.seconds, self.last = {}, time.monotonic()

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 1), now
        print(f"{name}: {self.seconds[name]} s", flush=True)
