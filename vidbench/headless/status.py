"""The status file of an executed notebook, and the lock that shows a live process."""

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from vidbench.system.errors import InputError
from vidbench.system.files import is_locked, lock_file, path_inside, write_text

# What a run of a notebook may come to -> exit code: 124 is timeout(1)'s, 130 a shell's for Ctrl-C,
# 138 papermill's.
EXIT = {"complete": 0, "failed": 1, "timed out": 124, "interrupted": 130, "kernel died": 138}
FIELDS = {
    "state": str,
    "digest": str,
    "cell": int,
    "cells": int,
    "pid": int,
    "host": str,
    "begun": str,
    "ended": str | None,
    "exit": int | None,
    "error": str | None,
}
BATCH = "VIDBENCH_BATCH"  # the process of the batch that started this one
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds


class Status:
    """The status file of one executed copy, and its lock while it runs.

    The files are STEM.status.json and .STEM.lock next to STEM.ipynb. So a folder may have many
    copies, and a training's run directory, which has its own status.json, may have one. The file is
    written under a temporary name and renamed.

    Fields: state (running or one of EXIT), notebook, digest, parameters, cells, cell (its number
    from 1, before papermill puts a banner over a failed one), pid, host, batch (the process of the
    batch that started it), begun, ended, exit, error, html."""

    def __init__(self, copy: Path, **facts):
        self.path = copy.with_suffix(".status.json")
        self.lock = lock_file(_lock_path(copy), "executes into", copy)
        self.facts = {
            "state": "running",
            **facts,
            "cell": 0,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "batch": int(os.environ.get(BATCH) or 0) or None,
            "begun": _now(),
            "ended": None,
            "exit": None,
            "error": None,
            "html": None,
        }
        self.write()

    def write(self, **facts) -> None:
        """Change some fields on disk, all at once."""
        self.facts.update(facts)
        write_text(self.path, json.dumps(self.facts, indent=1))

    def end(self, state: str, error: str | None) -> None:
        """Write how it ended, with its exit code.

        Args:
            state: A key of EXIT.
            error: What is wrong; None if nothing is.
        """
        self.write(state=state, error=error, exit=EXIT[state], ended=_now())

    def close(self) -> None:
        """Release the lock."""
        self.lock.close()


def read(copy: str | Path) -> dict:
    """Read the status of the executed copy at that path; {"state": "new"} if it has none.

    State `killed`: the file says running, but no process holds its lock (files.is_locked). State
    `orphaned`: it runs, but the batch that started it ended. State `damaged`: see `read_file`.
    """
    path = Path(copy).with_suffix(".status.json")
    facts = read_file(path)
    if facts["state"] == "running" and not is_locked(_lock_path(Path(copy))):
        facts = read_file(path)  # it may have ended between the two looks
        if facts["state"] == "running":
            facts |= {
                "state": "killed",
                "error": f"process {facts['pid']} on {facts['host']} was killed",
            }
    elif facts["state"] == "running" and facts["host"] == socket.gethostname():
        batch = facts.get("batch")
        facts |= {"state": "orphaned"} if batch and not _lives(batch) else {}
    return facts


def _lives(pid: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_file(path: Path) -> dict:
    """Read the content of a status file; {"state": "new"} if it is missing.

    State `damaged` if it is not what `Status` writes; `error` says what is wrong and what to do.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(facts)
    except FileNotFoundError:
        return {"state": "new"}
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
    if not problem:
        return facts
    way_out = "Delete it and run the same again: the notebook then starts with its first cell"
    return {"state": "damaged", "error": f"{path} is damaged ({problem}). {way_out}"}


def _problem(facts: Any) -> str:
    """What is wrong with the content of a status file; empty if nothing is."""
    if not isinstance(facts, dict):
        return f"it must hold a map; got {type(facts).__name__}"
    for name, kind in FIELDS.items():
        if name not in facts or not isinstance(facts[name], kind):
            return f"its {name} is {facts.get(name, 'missing')!r}"
    if facts["state"] not in ("running", *EXIT):
        return f"its state is {facts['state']!r}"
    for name in ("begun", "ended"):
        datetime.fromisoformat(facts[name] or facts["begun"])
    return ""


def copy_name(notebook: Path) -> str:
    """Return the file name of a notebook's executed copy: with several nodes, NAME-NODE.ipynb.

    Raises:
        ValueError: the node's name (--node, VIDBENCH_NODE) is no file name.
    """
    if os.environ.get("VIDBENCH_NNODES", "1") in ("", "1"):
        return notebook.name
    node = os.environ.get("VIDBENCH_NODE") or socket.gethostname()
    inside = path_inside("the folder of the copies", node)
    if len(inside.parts) != 2 or set(node) & set('\\/:*?"<>|'):
        raise ValueError(f"--node must be a file name without separators; got {node!r}")
    return f"{notebook.stem}-{node}{notebook.suffix}"


def refuse_others(out: str | Path, names: Sequence[str]) -> None:
    """Refuse to replace a notebook or page that is not an executed copy.

    Args:
        out: The folder of the copies.
        names: The copies' file names.

    Raises:
        InputError: the message names the file.
    """
    for copy in (Path(out, name) for name in names):
        executed = copy.with_suffix(".status.json").is_file() or '"papermill"' in _text(copy)
        for file in (copy, copy.with_suffix(".html")):
            if file.exists() and not executed:
                raise InputError(
                    f"{file} would be overwritten, and it is no executed copy: move it away, or "
                    "use another --out"
                )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def digest(cells: list, parameters: dict) -> str:
    """Identify what a notebook would do: 16 hex digits of its cells and parameters.

    Args:
        cells: Their kinds and sources count; papermill's own cell is left out.
        parameters: Name -> plain value.
    """
    sources = [
        [cell.cell_type, cell.source]
        for cell in cells
        if INJECTED not in cell.metadata.get("tags", [])
    ]
    text = json.dumps([sources, parameters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock_path(copy: Path) -> Path:
    return copy.with_name(f".{copy.stem}.lock")
