"""A run directory that users copy into, restore and damage."""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.engine.test_loop import Outer
from vidbench.engine import checkpoints
from vidbench.engine.runs import Run, RunError, find


def run_of(folder: Path, *steps: int) -> Run:
    run = Run.create(folder, "x", Outer())
    for step in steps:
        run.save(step, {"w": torch.full((3,), float(step))}, {"step": step})
    return run


@pytest.mark.parametrize(
    "name", ["step-best", "step-000000002-copy", "step-9", "step-000000009.bak", "step-zzzzzzzzz"]
)
def test_only_exact_names_are_checkpoints(tmp_path, name):
    run = run_of(tmp_path / "a", 1)
    kept = run.folder / "checkpoints" / name
    shutil.copytree(run.checkpoint(), kept)
    run.save(2, {"w": torch.full((3,), 2.0)}, {"step": 2})
    assert run.checkpoint().name == "step-000000002" and run.weights()["w"][0] == 2
    run.save(3, {"w": torch.full((3,), 3.0)}, {"step": 3})
    names = {place.name for place in kept.parent.iterdir()}
    assert names == {name, "step-000000003"} and run.training() == {"step": 3}


def test_a_file_named_like_a_checkpoint_is_none(tmp_path):
    run = run_of(tmp_path / "a", 1)
    (run.folder / "checkpoints" / "step-000000007").write_text("a note")
    assert run.checkpoint().name == "step-000000001"


def test_the_older_checkpoint_goes_after_the_newer_is_on_the_disk(tmp_path, monkeypatch):
    run = run_of(tmp_path / "a", 1)
    order, synced, replace, delete = [], os.fsync, os.replace, checkpoints.delete_folder

    def sync(number):
        order.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        synced(number)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    monkeypatch.setattr(
        checkpoints, "delete_folder", lambda old: (order.append("delete"), delete(old))
    )
    run.save(2, {"w": torch.ones(3)}, {"step": 2})
    assert order == ["file", "file", "folder", "rename", "folder", "delete"]


def test_the_stamp_follows_the_bytes_and_not_the_time(tmp_path):
    one, same, other = (run_of(tmp_path / name, 4) for name in "abc")
    assert one.checkpoint_stamp() == same.checkpoint_stamp()
    os.utime(one.checkpoint() / "weights.safetensors", (1, 1))
    assert one.checkpoint_stamp() == same.checkpoint_stamp()
    shutil.rmtree(other.checkpoint())
    other.save(4, {"w": torch.full((3,), 5.0)}, {"step": 4})
    assert other.checkpoint_stamp() != one.checkpoint_stamp()
    # restored from the other run: same step, same size, same time
    theirs = other.checkpoint() / "weights.safetensors"
    before = one.checkpoint_stamp()
    shutil.copyfile(theirs, one.checkpoint() / "weights.safetensors")
    os.utime(one.checkpoint() / "weights.safetensors", (1, 1))
    assert one.checkpoint_stamp() == other.checkpoint_stamp() != before
    with pytest.raises(RunError, match="no checkpoint yet"):
        run_of(tmp_path / "d").checkpoint_stamp()


@dataclass(frozen=True)
class Part:
    manifest: str = ""


@dataclass(frozen=True)
class Paths:
    init: str = ""
    teacher: str = ""
    parts: tuple[Part, ...] = ()


def test_a_recipe_keeps_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    run_of(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "here")
    given = Paths(init="../first", teacher="ema", parts=(Part("."), Part("")))
    values = Run.create("second", "x", given).values
    parts = [{"manifest": str(tmp_path / "here")}, {"manifest": ""}]
    assert values == {"init": str(tmp_path / "first"), "teacher": "ema", "parts": parts}
    assert Run.create("second", "x", given).values == values, "the same recipe resumes"
    assert find("/runs", "../first").folder == tmp_path / "first"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="holds a run of another recipe"):
        Run.create("here/second", "x", given)
