"""Whole jobs for the fault tests, each a command: python -m tests.fault_jobs JOB PLACE
DATA.

What a job needs is imported when it runs, so that a process may be killed before its imports as
well as after."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

PAUSE = 0.03  # seconds a step of the regression, so that it takes longer than its import
# An executed notebook that computes flow (quick to import), and one that trains twice.
PARAMETERS = 'runs_dir: str = ""\ndata: str = ""'
BEGIN = """import os
from pathlib import Path
Path(runs_dir, "kernel").write_text(str(os.getpid()))
print("begun", flush=True)"""
FLOW_BOOK = (
    BEGIN,
    """from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest""",
    """place = Path(runs_dir, "flow")
report = flow_store.extract(Manifest.load(data), place, "tvl1_fast", progress=False)
print(report.done + report.skipped, report.failed)""",
    """print("a wide table of numbers " * 4000)""",
    """print(sorted(path.name for path in place.rglob("*.npz")))""",
)
TRAIN_BOOK = (
    BEGIN,
    """from tests import fault_jobs
from vidbench.engine import ranks, runs""",
    """ranks.launch("tests.fault_jobs:regress", str(Path(runs_dir, "first")))
print(runs.Run(Path(runs_dir, "first")).state)""",
    """ranks.launch("tests.fault_jobs:regress", str(Path(runs_dir, "second")), data, 1)
print(runs.Run(Path(runs_dir, "second")).curves()["loss"][-1])""",
)


def regress(folder: str, data: str = "", seed: int = 0, workers: int = 0) -> None:
    """The smallest training: 36 steps of a net with dropout, a checkpoint every sixth."""
    from tests import stages
    from vidbench.engine.loop import Fit
    from vidbench.engine.runs import recipe_dict

    recipe = Fit(
        epochs=6, batch=8, lr=0.01, seed=seed, log_every=1, schedule="cosine", workers=workers
    )
    stages.regress(recipe_dict(recipe), folder, 0.3, pause=PAUSE)


def loaded(folder: str, data: str) -> None:
    """The same with two loader processes."""
    regress(folder, workers=2)


def classify(folder: str, data: str) -> None:
    """A small S3D on real clips, watched on held-out ones: 24 steps."""
    from dataclasses import replace

    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import ClipSpec
    from vidbench.engine.loop import Fit
    from vidbench.engine.runs import recipe_dict
    from vidbench.methods import classify

    clip = ClipSpec(frames=4, stride=2, views=1, augment=replace(PRESETS["toy"], size=32))
    fit = Fit(epochs=6, batch=4, lr=0.01, schedule="plateau", patience=0, log_every=1)
    recipe = classify.Recipe(
        manifest=data,
        network_args={"width": 0.125, "units": (1, 0, 0)},
        clip=clip,
        held_out=0.25,
        dropout=0.3,
        fit=fit,
    )
    classify.train(recipe_dict(recipe), folder, "none", 1)


def coclr(folder: str, data: str) -> None:
    """InfoNCE with a queue that fills, on real clips: 24 steps, the first of which are only
    seen."""
    from dataclasses import replace

    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import ClipSpec
    from vidbench.engine.loop import Fit
    from vidbench.engine.runs import recipe_dict
    from vidbench.methods import coclr

    clip = ClipSpec(frames=4, stride=2, views=2, augment=replace(PRESETS["toy"], size=32))
    recipe = coclr.Recipe(
        manifest=data,
        queue=20,
        dim=16,
        momentum=0.9,
        clip=clip,
        network_args={"width": 0.125, "units": (1, 0, 0)},
        fit=Fit(epochs=6, batch=4, lr=0.01, log_every=1),
    )
    coclr.train(recipe_dict(recipe), folder, "none", 1)


PROTOCOLS = [
    {"windows": windows, "crops": crops} for windows in (1, 2, 3) for crops in ("center", "three")
]


def features(place: str, data: str) -> None:
    """Tables of six protocols of a run that is there."""
    import torch

    from vidbench.engine.runs import Run
    from vidbench.evaluate import features

    torch.set_num_threads(1)
    run = Run(Path(place) / "run")
    for protocol in PROTOCOLS:
        features.load_or_extract(run, "train", features.Protocol(**protocol))


def batched() -> dict:
    """The recipes of three runs."""
    from tests.engine.test_stages import Recipe
    from vidbench.engine.loop import Fit

    return {
        name: Recipe(fit=Fit(epochs=6, batch=8, seed=seed, log_every=1), pause=PAUSE)
        for seed, name in enumerate("abc")
    }


def batch(place: str, data: str) -> None:
    """Three runs, two at a time."""
    from vidbench.engine.stages import run_all

    run_all(batched(), place, processes=2)


def on_a_small_disk(place: str, kept: str, before: str, kilobytes: int, command: list[str]) -> None:
    """A command on a disk that is too small, then, with room, again; prints what came of both as
    JSON.

    place: where the disk is mounted, which begins with a copy of `before`; kept: where copies of
    its contents go, since no other process sees the disk. Wants the right to mount, as `unshare
    --map-root-user --mount` gives it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place], check=True)
    shutil.copytree(before, place, dirs_exist_ok=True)
    said = []
    for state in ("full", "roomy"):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        said.append({"code": ended.returncode, "out": ended.stdout, "errors": ended.stderr})
        shutil.copytree(place, Path(kept) / state)
        subprocess.run(["mount", "-o", "remount,size=100m", "none", place], check=True)
    print(json.dumps(said))


if __name__ == "__main__":
    job, *words = sys.argv[1:]
    if job == "on_a_small_disk":
        on_a_small_disk(*words[:3], int(words[3]), words[4:])
    else:
        globals()[job](*words)
