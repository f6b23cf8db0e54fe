"""What a run keeps of what made it: commit, notebook with its parameters or command, machine."""

import json
import sys
from dataclasses import dataclass

import pytest

from vidbench.data.loading.dataset import ClipSpec
from vidbench.engine import environment as environments
from vidbench.engine.environment import environment, made_by
from vidbench.engine.runs import Run
from vidbench.system import version as versions
from vidbench.system.version import Version


@dataclass(frozen=True)
class Fit:
    batch: int = 4


@dataclass(frozen=True)
class Recipe:
    clip: ClipSpec = ClipSpec()
    fit: Fit = Fit()
    parent: str = ""


@pytest.fixture
def words(monkeypatch):
    """The words of the command line: `words("vidbench", "demo")`."""
    monkeypatch.delenv("VIDBENCH_NOTEBOOK", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return lambda *given: monkeypatch.setattr(sys, "argv", list(given))


def test_a_run_keeps_its_environment(tmp_path, words):
    words("/bin/vidbench", "demo", "x")
    run = Run.create(tmp_path / "run", "coclr", Recipe())
    kept = json.loads((run.folder / "environment.json").read_text())
    assert kept["vidbench"] == made_by() and kept["command"] == ["vidbench", "demo", "x"]
    assert kept["notebook"] is None and kept["parameters"] is None
    assert kept["decoder"]["name"] == "pyav" and kept["decoder"]["version"][0].isdigit()
    assert kept["host"] and kept["date"].endswith("+00:00") and kept["versions"]["torch"]
    assert isinstance(kept["gpus"], list) and "driver" in kept


def test_a_kernel_names_its_notebook(words, monkeypatch):
    words("/lib/ipykernel_launcher.py", "-f", "/run/kernel-1.json")
    assert environment()["notebook"] == "notebook" and environment()["command"] is None
    monkeypatch.setenv("JPY_SESSION_NAME", "/books/mine.ipynb")
    assert environment()["notebook"] == "mine.ipynb" and environment()["parameters"] is None
    given = {"notebook": "/books/10.ipynb", "parameters": {"epochs": 2}}
    monkeypatch.setenv("VIDBENCH_NOTEBOOK", json.dumps(given))
    assert given.items() <= environment().items()
    monkeypatch.setenv("VIDBENCH_NOTEBOOK", "[no json")
    assert environment()["notebook"] == "mine.ipynb"


@pytest.mark.parametrize("dirty", [False, True])
def test_the_commit_is_looked_up_once(monkeypatch, dirty):
    calls = []
    found = Version("1.0", "ab" * 20, dirty)
    monkeypatch.setattr(environments, "version", lambda: calls.append(1) or found)
    made_by.cache_clear()
    try:
        assert made_by() == made_by() == {"version": "1.0", "commit": "ab" * 20, "dirty": dirty}
        assert len(calls) == 1
    finally:
        made_by.cache_clear()


def test_without_git_the_commit_is_null(monkeypatch):
    monkeypatch.setattr(versions, "_git", lambda *_: None)
    monkeypatch.setattr(versions, "_installed", lambda: ("1.0", ""))
    made_by.cache_clear()
    try:
        assert made_by() == {"version": "1.0", "commit": None, "dirty": None}
    finally:
        made_by.cache_clear()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n",
            "570.86.10",
        ),
        ("something else", None),
        (None, None),
    ],
)
def test_the_driver_is_read_from_the_system(tmp_path, monkeypatch, text, wanted):
    monkeypatch.setattr(environments, "DRIVER", tmp_path / "version")
    if text is not None:
        (tmp_path / "version").write_text(text)
    assert environments.driver() == wanted
