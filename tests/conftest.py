"""Fixtures that several rooms share: real clips, the toy world, trained runs.

pytest-xdist spreads the tests over processes. A shared fixture is made once in a folder that all
of them see, by the first that needs it. Read from it, never write: a test that adds files to a run, such
as a table of features or results, copies it by `tests.copied` (hard links, no time).

| fixture | what it holds |
| --- | --- |
| toy_tiny | Manifest of the tiny toy world |
| toy_three | folder of the manifest of its first three classes: 54 videos of train, 18 of test |
| toy_flow | folder of its flow (DIS) |
| infonce | (folder of the InfoNCE runs `rgb` and `flow` on toy_tiny, recipe) |
| classifier | (run directory, recipe): classify, two epochs from scratch on toy_three, a part held out |
| multitrained | (run directory, recipe): multitrain, two epochs on the parts `first` (toy_three) and `second` |
"""

import os

# Networks and matrices this small are up to ten times slower with a thread for each busy core.
os.environ["OMP_NUM_THREADS"] = "1"

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from tests import ROOT

WORKERS = 8  # each needs up to 1.5 GB


def pytest_configure(config):
    """Show GPUs to `pytest -m gpu` only: the other tests expect the numbers and ranks of a CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_xdist_auto_num_workers(config) -> int:
    """Start one worker for each core this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return min(WORKERS, len(usable(0)) if usable else os.cpu_count() or 1)


def group_of(nodeid: str) -> str:
    """Name what a test shares fixtures with: the group after the @ of its id, else its file."""
    named = re.search(r"@((?:faults|notebooks) [\w ]+)\]$", nodeid)
    return named[1] if named else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config, log):
    """Keep a group in one worker. xdist's own loadgroup does nothing with pytest 9.2: it renames
    tests by a private attribute that is gone."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


def pytest_collection_modifyitems(config, items):
    """Let workers begin with the named groups, which take longest, so that none ends late."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: group_of(item.nodeid).startswith("tests/"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and list files: $VIDBENCH_DATA, else ../shared/data next to the
    project."""
    folder = Path(os.environ.get("VIDBENCH_DATA") or ROOT / ".." / "shared" / "data")
    if not (folder / "real_clips").is_dir():
        pytest.skip(
            f"no real data: {folder} has no real_clips; set VIDBENCH_DATA to the folder that "
            "holds it"
        )
    return folder.resolve()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, request) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function (name, make) -> folder, which calls make(folder) once for all workers."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # each worker has its own folder below a common one
        base = base.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / "shared" / name, base / "shared" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(base / "shared" / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def toy_tiny(shared):
    """The Manifest of the tiny toy world."""
    from vidbench.data.manifest import Manifest
    from vidbench.data.toy.world import render

    return Manifest.load(
        shared("toy_tiny", lambda folder: render(folder, "tiny", "base", 0, progress=False))
    )


@pytest.fixture(scope="session")
def toy_flow(shared, toy_tiny) -> Path:
    """The DIS flow store of the tiny toy world."""
    from vidbench.data.flow import store as flow_store

    def make(folder: Path) -> None:
        assert not flow_store.extract(toy_tiny, folder, "dis", workers=1).failed

    return shared("toy_flow", make)


@pytest.fixture(scope="session")
def infonce(shared, toy_tiny, toy_flow):
    """(folder, recipe): InfoNCE runs `rgb` and `flow` on the tiny toy world, and their recipe.

    Do not change the folder: take a copy by `tests.copied`.
    """
    from vidbench.engine.runs import recipe_dict
    from vidbench.methods import coclr

    recipe = replace(coclr.PRESETS["tiny"].alone, manifest=str(toy_tiny.root), flow=str(toy_flow))

    def make(folder: Path) -> None:
        for stream in ("rgb", "flow"):
            coclr.train(recipe_dict(replace(recipe, stream=stream)), str(folder / stream), "none")

    return shared("infonce", make), recipe


@pytest.fixture(scope="session")
def toy_three(shared, toy_tiny) -> Path:
    """The folder of the manifest of the tiny toy world's first three classes."""
    return shared("toy_three", lambda folder: classes_of(toy_tiny, 0, 3).save(folder))


def classes_of(manifest, first: int, last: int):
    """The rows of the classes from `first` to before `last`, numbered from 0."""
    rows = manifest.select(mask=(manifest.label >= first) & (manifest.label < last))
    return replace(rows, label=rows.label - first, classes=manifest.classes[first:last])


@pytest.fixture(scope="session")
def classifier(shared, toy_three):
    """(run directory, recipe): a small S3D from scratch on `toy_three`, a quarter held out.

    Do not change the folder: take a copy by `tests.copied`.
    """
    from vidbench.engine.loop import Fit
    from vidbench.engine.runs import recipe_dict
    from vidbench.methods import classify

    recipe = classify.Recipe(
        network_args={"width": 0.0625, "units": (1, 0, 0)},
        clip=small_clips(),
        held_out=0.25,
        fit=Fit(epochs=2, batch=12, optimizer="sgd", lr=0.05, weight_decay=0.0, log_every=1),
        manifest=str(toy_three),
    )

    def make(folder: Path) -> None:
        classify.train(recipe_dict(recipe), str(folder / "scratch"), "none")

    return shared("classifier", make) / "scratch", recipe


@pytest.fixture(scope="session")
def multitrained(shared, toy_tiny, toy_three):
    """(run directory, recipe): a small CSN on two data sets of other classes, maps and expander on.

    Do not change the folder: take a copy by `tests.copied`.
    """
    from vidbench.engine.loop import Fit
    from vidbench.engine.runs import recipe_dict
    from vidbench.methods import multitrain
    from vidbench.tensors.mixing import Mixing

    two = shared("toy_two", lambda folder: classes_of(toy_tiny, 3, 5).save(folder))
    parts = {"first": toy_three, "second": two}
    recipe = multitrain.Recipe(
        parts=tuple(multitrain.Part(name, str(folder)) for name, folder in parts.items()),
        network="csn",
        network_args={"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4},
        hidden=8,
        dropout=0.0,
        expander=(8, 6),
        label_smoothing=0.0,
        mixing=(Mixing("cutmix"), Mixing("mixup", beta=0.8)),
        clip=small_clips(),
        fit=Fit(epochs=2, batch=8, optimizer="adamw", lr=1e-3, save_every=1),
    )

    def make(folder: Path) -> None:
        multitrain.train(recipe_dict(recipe), str(folder / "whole"), "none")

    return shared("multitrained", make) / "whole", recipe


def small_clips():
    """Clips of 4 frames of 32 pixels, a view each."""
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import ClipSpec

    return ClipSpec(frames=4, stride=2, views=1, augment=replace(PRESETS["toy"], size=32))


@pytest.fixture(scope="session")
def front_door(shared, toy_tiny):
    """(Videos, Trained) of vb.train: CoCLR's four stages on 36 labeled videos, for a few seconds.

    Do not change the folder.
    """
    import vidbench as vb

    def make(folder: Path) -> None:
        for name in ("wave", "squat", "kick"):
            (folder / "clips" / name).mkdir(parents=True)
            files = sorted((toy_tiny.root / "videos" / name).iterdir())[:12]
            for file in files:
                os.link(file, folder / "clips" / name / file.name)
        trained(folder)

    def trained(folder: Path):
        videos = vb.videos(folder / "clips", out=folder / "runs")
        return videos, vb.train(videos, "coclr", preset="tiny", epochs=2, processes=0)

    return trained(shared("front_door", make))
