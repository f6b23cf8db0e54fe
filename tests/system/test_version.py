"""Which vidbench runs: a checkout's commit, whether its files differ, a package without git."""

import subprocess
from importlib import metadata

import pytest

from vidbench.system.version import Version, version


@pytest.fixture
def checkout(tmp_path):
    """A folder with a package, committed; and its commit."""

    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *name, "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "vidbench").mkdir()
    (tmp_path / "vidbench/__init__.py").write_text("")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "A package")
    return tmp_path, git("rev-parse", "HEAD")


def test_the_commit_of_a_checkout(checkout):
    root, commit = checkout
    number = metadata.version("vidbench")
    assert version(root) == Version(number, commit)
    assert str(version(root)) == f"vidbench {number}, commit {commit[:12]}"
    (root / "notes.txt").write_text("outside of the package")
    assert not version(root).dirty


@pytest.mark.parametrize("file", ["__init__.py", "new.py"])
def test_a_changed_or_new_module_makes_it_dirty(checkout, file):
    root, commit = checkout
    (root / "vidbench" / file).write_text("x = 1")
    assert version(root) == Version(metadata.version("vidbench"), commit, dirty=True)
    assert str(version(root)).endswith(" (dirty)")


def test_without_git_only_the_number_is_known(checkout, tmp_path_factory, monkeypatch):
    root, _ = checkout
    number = metadata.version("vidbench")
    assert version(tmp_path_factory.mktemp("installed")) == Version(number)
    monkeypatch.setenv("PATH", "")
    assert version(root) == Version(number) and str(version(root)) == f"vidbench {number}"


def test_a_hook_s_repository_is_not_the_checkout(checkout, monkeypatch):
    root, commit = checkout
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))
    assert version(root).commit == commit
