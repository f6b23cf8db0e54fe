"""The demo: videos to an HTML report with curves, retrieval, probes and a gallery."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.environment import environment
from vidbench.engine.runs import Run, recipe_dict
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import Evaluation, evaluate_all
from vidbench.evaluate.features import Protocol
from vidbench.evaluate.shipped import SMALL
from vidbench.experiments import small
from vidbench.experiments.compare import extract_flow
from vidbench.experiments.report import METRICS, TITLES, Made, write_report
from vidbench.methods import coclr, multitrain
from vidbench.system.files import write_text

SECONDS = "seconds.json"  # of a demo's folder: the seconds of its parts, over all calls


@dataclass(frozen=True)
class Settings:
    """The demo's settings: a toy world or a folder of videos, and what its stages share.

    clips: views a stage trains on, whatever the data set's size; epochs follow from it. flow: DIS
    by default, because TV-L1 on the toy world would take the demo's whole time budget. short_side:
    pixels to decode and compute flow at; None keeps the source's size. joint_epochs: of the joint
    run on three toy worlds whose class relations notebook 31 shows; not trained with `data`.
    """

    recipe: coclr.Recipe = coclr.PRESETS["toy"].alone
    clips: int = 14_000
    world: str = "small"
    data: str = ""
    flow: str = "dis"
    short_side: int | None = None
    joint_epochs: int = 16
    centering: str = "gallery"
    protocol: Protocol = Protocol()
    seed: int = 0
    processes: int = 2


def settings_for(data: str, seed: int) -> Settings:
    """Choose the demo's settings, for a toy world or for a folder of real videos at 64 pixels.

    Args:
        data: The folder; "" is the toy world.
    """
    return Settings(seed=seed) if not data else Settings(seed=seed, data=data, short_side=64)


def demo(out: str | Path, settings: Settings = Settings()) -> Path:
    """Run the demo from videos to `out`/report.html, and return the report's path. Resumable.

    It renders or reads videos, computes flow, trains five runs and evaluates them: a random
    network, InfoNCE on RGB and on flow, one CoCLR half-cycle on RGB mined by the flow run, and
    InfoNCE on RGB for as many further epochs (CoCLR's clip budget). Every number is of the held-out
    split, which no stage sees. With the toy world, it also trains a joint run on three toy worlds.
    `out`/small keeps features and small clips for notebooks (evaluate.shipped).

    Args:
        out: The demo's folder.
    """
    out = Path(out).resolve()  # runs name their manifest and parents by path
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / SECONDS)
    manifest = videos(out, settings)
    clock.mark("videos")
    print(f"flow: {settings.flow}", flush=True)
    size, processes = settings.short_side, settings.processes
    extract_flow(manifest, out / "flow", settings.flow, size, processes)
    joint = joint_run(out, settings)
    clock.mark("flow")
    settings = replace(settings, recipe=fitted(settings, len(manifest.select(split="train"))))
    run_all({**stages(out, settings), **joint}, out / "runs", settings.processes)
    clock.mark("training")
    held_out = manifest.held_out()
    found = evaluate_all(
        [out / "runs" / name for name in TITLES],
        held_out,
        settings.protocol,
        settings.centering,
        settings.seed,
        settings.processes,
    )
    clock.mark("evaluation")
    if joint:
        with one_thread():
            small.write_joint(out / SMALL, Run(out / "runs" / "joint"), processes)
        small.small_clips(manifest, out / SMALL / "videos", processes)
        clock.mark("small clips")
    made = Made(settings.flow, clock.seconds, environment())
    facts = {
        "settings": {**asdict(settings), "recipe": recipe_dict(settings.recipe)},
        "seconds": made.seconds,
        "environment": made.machine,
        "numbers": [_record(one) for one in found.values()],
    }
    write_text(out / "numbers.json", json.dumps(facts, indent=1))
    runs = (out / "runs", settings.protocol)
    about = small.facts_of(made.machine, made.seconds)
    small.write_small(out / SMALL, (manifest, held_out), runs, found, about, TITLES)
    path = write_report(out, manifest, held_out, found, made)
    for one in found.values():
        shares = "  ".join(f"{key} {one.numbers[key][0]:6.1%}" for key in METRICS)
        print(f"{TITLES[one.run]:28} {shares}")
    print(f"report: {path}", flush=True)
    return path


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread here.

    On the small tensors of toy videos, more threads spend most of their time waiting for one
    another if the cores are busy.
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def _record(one: Evaluation) -> dict:
    """An entry of numbers.json."""
    return {
        "run": one.run,
        "clips": one.budget["clips"],
        **one.numbers,
        "protocol": one.protocols["retrieval"],
        "probe protocol": one.protocols["probe"],
    }


def fitted(settings: Settings, rows: int) -> coclr.Recipe:
    """Fit the recipe's epochs to the clips of a stage, and its queue to under half of the rows.

    A queue near the data set's size would hold each query's own older keys as negatives.

    Args:
        rows: How many training videos there are.
    """
    recipe = coclr.fitted(settings.recipe, rows, share=0.5)
    batch = recipe.fit.batch
    epochs = max(1, round(settings.clips / (rows // batch * batch)))
    return replace(
        recipe,
        siblings="ignore",
        held_out=0.0,
        clip=replace(recipe.clip, decode_size=settings.short_side),
        fit=replace(recipe.fit, epochs=epochs),
    )


def videos(out: Path, settings: Settings) -> Manifest:
    """Render the toy world, or open the folder's data set; keep the manifest in `out`/videos.

    Args:
        out: The demo's folder.
    """
    if not settings.data:
        print(f"toy world {settings.world!r}", flush=True)
        return toy.render(
            out / "videos", settings.world, seed=settings.seed, workers=settings.processes
        )
    manifest = catalogue.keep(out / "videos", settings.data)
    manifest.need_labels("the demo's report")
    print(f"{settings.data}: {manifest.words}", flush=True)
    return manifest


def stages(out: Path, settings: Settings) -> dict[str, coclr.Recipe]:
    """Plan the five runs by name.

    Args:
        out: The demo's folder.
    """
    runs = out / "runs"
    rgb = replace(
        settings.recipe,
        manifest=str(out / "videos"),
        flow=str(out / "flow"),
        stream="rgb",
        positives="instance",
        fit=replace(settings.recipe.fit, seed=settings.seed),
    )
    further = replace(
        rgb, student=str(runs / "infonce-rgb"), fit=replace(rgb.fit, seed=settings.seed + 1)
    )
    near = replace(further, positives="mined", drop_own_key=0.9, teacher=str(runs / "infonce-flow"))
    return {
        "random": replace(rgb, fit=replace(rgb.fit, epochs=0)),
        "infonce-rgb": rgb,
        "infonce-flow": replace(rgb, stream="flow"),
        "coclr-rgb": near,
        "infonce-rgb-long": further,
    }


def joint_run(out: Path, settings: Settings) -> dict[str, multitrain.Recipe]:
    """Plan the joint run by name; a folder of videos has none.

    Args:
        out: The demo's folder.
    """
    if settings.data:
        return {}
    epochs, processes = settings.joint_epochs, settings.processes
    return {"joint": small.joint_recipe(out / "worlds", epochs, processes, settings.seed)}


class Clock:
    """Seconds of each part, printed and kept in a file; a resumed call adds its own.

    The time that a stopped call spent on its unfinished part is not counted.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        )
        self.last = time.monotonic()

    def mark(self, name: str) -> None:
        """End a part: print its seconds and add them to the file."""
        now = time.monotonic()
        took, self.last = now - self.last, now
        self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 1)
        write_text(self.file, json.dumps(self.seconds))
        print(f"{name}: {took:.1f} s", flush=True)
