"""Fixtures that several rooms share: the real clips, the tiny toy world rendered once, one
thread."""

import os
from pathlib import Path

import pytest

from tests import ROOT


def pytest_configure(config):
    """Only `pytest -m gpu` sees GPUs: the other tests' numbers and numbers of processes are a
    CPU's."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips and list files: $VIDBENCH_DATA, else ../shared/data beside the
    project."""
    folder = Path(os.environ.get("VIDBENCH_DATA") or ROOT / ".." / "shared" / "data")
    if not (folder / "real_clips").is_dir():
        pytest.skip(
            f"no real data: {folder} has no real_clips; set VIDBENCH_DATA to the folder that "
            "holds it"
        )
    return folder.resolve()


@pytest.fixture(scope="module")
def one_thread():
    """Networks and matrices this small are ten times slower where threads wait for each other on
    busy cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy_tiny(tmp_path_factory):
    """The Manifest of the tiny toy world."""
    from vidbench.data.toy.world import render

    return render(
        tmp_path_factory.mktemp("toy_tiny"), setting="tiny", world="base", seed=0, progress=False
    )
