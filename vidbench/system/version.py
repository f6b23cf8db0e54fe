"""The version of vidbench that runs: the package's number, and the commit of its checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, if vidbench runs from one
SECONDS = 10.0  # for a git command, on a slow disk


@dataclass(frozen=True)
class Version:
    """What was run. `commit` is empty if unknown; `dirty`: the package differs from the commit."""

    package: str
    commit: str = ""
    dirty: bool = False

    def __str__(self) -> str:
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        return f"vidbench {self.package}{commit}{' (dirty)' if self.dirty else ''}"


def version(root: Path = ROOT) -> Version:
    """Find out which vidbench runs. It takes about 20 ms.

    Args:
        root: The folder that contains the package's folder.

    Returns:
        The number of the installed package. The commit is that of the git checkout at `root`, or
        the one that pip installed. A checkout is dirty if a file below vidbench/ is changed or not
        in the commit.
    """
    number, installed = _installed()
    if not (root / ".git").exists():
        return Version(number, installed)
    said = _git(root, "status", "--porcelain=v2", "--branch", "--", "vidbench") or ""
    commit = re.search(r"^# branch.oid ([0-9a-f]{40,64})$", said, re.MULTILINE)
    changed = any(not line.startswith("#") for line in said.splitlines())
    return Version(number, commit[1] if commit else "", changed)


def _installed() -> tuple[str, str]:
    """The installed package's number, and the commit that it was installed from, if pip knows it."""
    try:
        package = metadata.distribution("vidbench")
    except metadata.PackageNotFoundError:
        return "unknown", ""
    try:
        origin = json.loads(package.read_text("direct_url.json") or "{}")
    except ValueError:
        origin = {}
    return package.version, str(origin.get("vcs_info", {}).get("commit_id", ""))


def _git(root: Path, *words: str) -> str | None:
    """What git prints, or None: git is not installed, or does not trust the folder."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set within a hook
    known = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *words],  # runs no hook
            env={**known, "GIT_OPTIONAL_LOCKS": "0"},  # only read
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
