"""A wheel has the notebooks and what they show; the package needs the notebooks' libraries only to run them."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests import ROOT
from vidbench.system.extras import check_installed, needed
from vidbench.system.share import share

TREE = (
    "pyproject.toml",
    "README.md",
    "vidbench",
    "notebooks",
    "assets",
)  # what a wheel is built of


def test_a_checkout_shares_its_own_files():
    assert share("notebooks/00_tour.ipynb") == ROOT / "notebooks" / "00_tour.ipynb"


def test_a_missing_package_names_its_extra():
    for check in (check_installed, needed):
        with pytest.raises(ImportError, match=r"no_such_package.*pip install 'vidbench\[lab\]'"):
            check("no_such_package", "lab")


WITHOUT_LAB = """
import importlib, pathlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"IPython", "ipywidgets", "anywidget", "jupyterlab", "papermill", "nbformat",
                                      "nbclient", "nbconvert", "jupyter_client"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
for file in sorted(pathlib.Path("vidbench").rglob("*.py")):
    name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    if name not in ("vidbench.headless.kernel", "vidbench.system.wheel"):
        importlib.import_module(name)
"""


@pytest.mark.slow
def test_the_package_imports_without_the_notebooks_libraries():
    subprocess.run([sys.executable, "-c", WITHOUT_LAB], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_wheel_works_from_an_empty_folder(tmp_path):
    """Built from a copy of the tree, installed with the other packages: a notebook runs in a copy."""
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    source.mkdir()
    for name in TREE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--quiet", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()

    def vidbench(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, "-m", "vidbench", *words],
            cwd=empty,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    shipped = json.loads(vidbench("notebooks", "ls", "--json"))
    assert sorted(shipped) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    vidbench("notebooks", "copy", "work")
    assert (empty / "work" / "assets" / "published.csv").is_file()
    vidbench("run", "work/notebooks/42_retrieval.ipynb", "--out", "out")
    executed = (empty / "out" / "42_retrieval.ipynb").read_text()
    assert "Results shipped with vidbench" in executed and str(site) not in executed
