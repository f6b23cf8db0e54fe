"""What is known of an executed notebook: a status file beside it that stays true, and a lock that
tells who lives."""

import fcntl
import hashlib
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

# What a run of a notebook may come to -> exit code: 124 is timeout(1)'s, 130 a shell's for Ctrl-C,
# 138 papermill's.
EXIT = {"complete": 0, "failed": 1, "timed out": 124, "interrupted": 130, "kernel died": 138}
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds


class BusyError(RuntimeError):
    """Another process executes into the same copy."""


class Status:
    """The status file of one executed copy, written under a temporary name and renamed, and its
    lock while it runs.

    The files are STEM.status.json and .STEM.lock beside STEM.ipynb, so that a folder holds many
    copies, and a run folder of training, whose status.json is the training's own, one of them.
    Fields: state (running or one of EXIT), notebook, digest, parameters, cells, cell (its number
    from 1, before papermill puts a banner over a failed one), pid, host, begun, ended, exit, error,
    html."""

    def __init__(self, copy: Path, **facts):
        self.path = copy.with_suffix(".status.json")
        self.lock = _lock(copy)
        self.facts = {
            "state": "running",
            **facts,
            "cell": 0,
            "pid": os.getpid(),
            "host": socket.gethostname(),
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
        """The last word: how it ended, with its exit code."""
        self.write(state=state, error=error, exit=EXIT[state], ended=_now())

    def close(self) -> None:
        self.lock.close()


def read(copy: str | Path) -> dict:
    """The status of the executed copy at that path, {"state": "new"} where there is none.

    State `killed`: the file says running, but nobody holds its lock, since its process was killed.
    Across machines that takes a shared file system that carries flock (assumption: NFS does, Lustre
    where mounted with it)."""
    path = Path(copy).with_suffix(".status.json")
    if not path.exists():
        return {"state": "new"}
    facts = json.loads(path.read_text())
    if facts["state"] == "running" and not _held(Path(copy)):
        facts = json.loads(path.read_text())  # it may have ended between the two looks
        if facts["state"] == "running":
            facts |= {
                "state": "killed",
                "error": f"process {facts['pid']} on {facts['host']} was killed",
            }
    return facts


def digest(cells: list, parameters: dict) -> str:
    """Names what a notebook would do: 16 hex digits of its cells' kinds and sources, less
    papermill's own, and of the parameters given."""
    sources = [
        [cell.cell_type, cell.source]
        for cell in cells
        if INJECTED not in cell.metadata.get("tags", [])
    ]
    text = json.dumps([sources, parameters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """As engine.runs.write_text, without waiting for torch's import: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk it takes what room is left


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock(copy: Path):
    """An open file that is locked until it is closed or this process ends; a kernel does not
    inherit it."""
    file = _lock_path(copy).open("w")
    for patience in (0.1, 0.3, 0.6, None):  # who only looks holds it for a moment, too
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if patience is None:
                file.close()
                raise BusyError(
                    f"another process executes into {copy} ({_who(copy)}); wait for it, or name "
                    "another "
                    "place."
                ) from None
            time.sleep(patience)


def _who(copy: Path) -> str:
    path = copy.with_suffix(".status.json")
    facts = json.loads(path.read_text()) if path.exists() else {}
    return (
        f"process {facts['pid']} on {facts['host']}"
        if facts.get("state") == "running"
        else "it has just begun"
    )


def _held(copy: Path) -> bool:
    if not _lock_path(copy).exists():
        return False
    with _lock_path(copy).open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_path(copy: Path) -> Path:
    return copy.with_name(f".{copy.stem}.lock")
