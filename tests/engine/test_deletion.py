"""Deleting a run: all that vidbench wrote goes, all else stays, links lead nowhere."""

import os
from pathlib import Path

import pytest
import torch

from tests.evaluate.test_results import trained
from vidbench.engine.deletion import FILES, delete_run, needed_by
from vidbench.engine.runs import Run, RunError


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with every file that training and evaluation write."""
    made = trained(tmp_path / "runs/rgb")
    for name in FILES:
        (made.folder / name).touch()
    made.save(3, {"weight": torch.zeros(8)}, {})
    (made.folder / "features").mkdir()
    (made.folder / "features/a.npz").write_bytes(b"x" * 100)
    (made.folder / ".status.json.0a1b.tmp").write_bytes(b"x")
    return made


def test_a_run_goes_whole_and_its_bytes_are_counted(run):
    count = sum(file.stat().st_size for file in run.folder.rglob("*") if file.is_file())
    found = delete_run(run.folder)
    # taking the lock writes the process into it
    assert count < found.bytes < count + 200 and found.kept == ()
    assert not run.folder.exists() and run.folder.parent.is_dir()


def test_files_that_vidbench_did_not_write_stay(run):
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "checkpoints/step-best").mkdir()
    assert delete_run(run.folder).kept == ("checkpoints", "notes.txt")
    left = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
    assert left == {"notes.txt", "checkpoints", "checkpoints/step-best"}
    with pytest.raises(RunError, match="no run directory"):
        delete_run(run.folder)


@pytest.mark.parametrize("inner", ["features", "checkpoints", "features/there", "status.json"])
def test_what_links_lead_to_stays(run, tmp_path, inner):
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("a.mp4", "step-000000009"):
        (precious / name).write_text("mine")
    link = run.folder / inner
    if link.is_dir():
        link.rename(tmp_path / "moved")
    link.unlink(missing_ok=True)
    link.symlink_to(precious)
    assert delete_run(run.folder).kept == () and not run.folder.exists()
    assert sorted(os.listdir(precious)) == ["a.mp4", "step-000000009"]


def test_a_link_to_a_run_is_refused(run, tmp_path):
    (tmp_path / "link").symlink_to(run.folder)
    with pytest.raises(RunError, match="is a link to .*Name the run directory itself"):
        delete_run(tmp_path / "link")
    assert run.state == "complete"


def test_a_run_that_trains_is_refused(run):
    with run.lock(), pytest.raises(RunError, match=f"a process trains into it.*{os.getpid()}"):
        delete_run(run.folder)
    assert run.state == "complete"


def test_a_killed_deletion_can_be_repeated(run, monkeypatch):
    unlink = Path.unlink

    def killed(path: Path, *arguments) -> None:
        if path.name == "recipe.json":
            raise KeyboardInterrupt
        unlink(path, *arguments)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_run(run.folder)
    monkeypatch.undo()
    assert sorted(os.listdir(run.folder)) == [".lock", "recipe.json"]
    delete_run(run.folder)
    assert not run.folder.exists()


def test_needed_by_finds_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = trained(tmp_path / "runs/rgb").folder
    other = trained(tmp_path / "runs/other/rgb").folder
    users = [
        trained(tmp_path / "runs" / f"user{number}", student=student).folder
        for number, student in enumerate([str(alone), "../runs/rgb", "rgb", "runs/flow"])
    ]
    assert needed_by(alone, [alone, other, *users]) == users[:3]
    assert needed_by(other, [alone, other, *users]) == [users[2]]
    (users[0] / "recipe.json").write_text("{")
    assert needed_by(alone, users) == users[1:3]
