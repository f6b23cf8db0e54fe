"""Delete runs: what training and evaluation wrote into a run directory, and nothing else.

A link is deleted, never what it leads to. Files that vidbench did not write stay, and the directory
with them. recipe.json goes last, so a killed deletion leaves a run that can be deleted again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from vidbench.engine.checkpoints import DIGITS
from vidbench.engine.runs import Run, RunError
from vidbench.system.files import BusyError, lock_folder

FILES = (  # in the order in which they are deleted
    *("status.json", "results.json", "metrics.jsonl", "monitor.jsonl", "rows.json", "videos.json"),
    *("track.json", "environment.json", ".results.lock", "recipe.json", ".lock"),
)
FOLDERS = (
    *("features", "outcomes", "outside", "probe"),  # of evaluation
    *("tensorboard", "wandb", "mlflow"),  # of engine.trackers
)
CHECKPOINTS = (f"step-{DIGITS}", f".step-{DIGITS}.*.tmp")  # another name is a user's own copy


@dataclass(frozen=True)
class Deleted:
    """A deleted run: the bytes that it freed, and the files in it that are not vidbench's."""

    folder: str
    bytes: int
    kept: tuple[str, ...] = ()


def delete_run(folder: str | Path) -> Deleted:
    """Delete a run.

    Returns:
        What was freed. If `kept` is not empty, the directory with these files still exists.

    Raises:
        RunError: It is no run directory, or a link to one, or a process trains into it.
        OSError: A file cannot be deleted.
    """
    folder = Path(folder)
    if folder.is_symlink():
        raise RunError(
            f"{folder} is a link to {folder.resolve()}. Name the run directory itself to delete it."
        )
    if not (folder / "recipe.json").is_file():
        raise RunError(f"{folder} is no run directory: it has no recipe.json. Nothing was deleted.")
    try:
        lock = lock_folder(folder, "is training into")
    except BusyError as error:
        raise RunError(
            f"{folder} cannot be deleted while a process trains into it. Stop it first: {error}."
        ) from error
    freed = 0
    with lock:
        for path in _made(folder):
            freed += size_of(path)
            _delete(path)
    if not any(folder.iterdir()):
        folder.rmdir()
        return Deleted(str(folder), freed)
    kept = sorted(path.name for path in folder.iterdir())
    return Deleted(str(folder), freed, tuple(kept))


def _made(folder: Path) -> Iterator[Path]:
    """What vidbench made in a run directory, in the order in which it is deleted."""
    yield from (path for name in FILES[:-2] if (path := folder / name).exists())
    yield from list(folder.glob(".*.tmp"))  # of a killed process
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_symlink() and checkpoints.is_dir():
        yield from [path for name in CHECKPOINTS for path in checkpoints.glob(name)]
    if checkpoints.is_symlink() or (checkpoints.is_dir() and not any(checkpoints.iterdir())):
        yield checkpoints
    yield from (path for name in FOLDERS if os.path.lexists(path := folder / name))
    yield from (folder / name for name in FILES[-2:])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # deletes links in it, not what they lead to
    else:
        path.unlink()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder, without the targets of links."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    total = 0
    for here, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):  # training replaces files
                total += Path(here, name).lstat().st_size
    return total


def needed_by(folder: str | Path, runs: Iterable[Path]) -> list[Path]:
    """List the runs whose recipe names a run: they start from it, or it teaches them.

    A relative path in a recipe counts if the run's path ends with it, because the folder from which
    it was given is not known.

    Args:
        runs: Run directories to look through.
    """
    target = Path(folder).resolve()
    users = []
    for run in runs:
        if run.resolve() == target or not (run / "recipe.json").is_file():
            continue
        try:
            named = _named(Run(run))
        except RunError:
            continue  # what it starts from is not known; it cannot be resumed either
        if any(_leads_to(text, target) for text in named):
            users.append(run)
    return users


def _named(run: Run) -> set[str]:
    """Every text in a recipe that can be the path of a run."""
    try:
        needs = set(run.recipe.needs)
    except RunError:  # of another version; its values are still readable
        needs = set()
    return needs | {text for text in _texts(run.values) if "/" in text or "\\" in text}


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _leads_to(text: str, target: Path) -> bool:
    parts = tuple(part for part in PurePath(text).parts if part != "..")
    if not parts or "\0" in text:
        return False
    if PurePath(text).is_absolute():
        return Path(text).resolve() == target
    return target.parts[-len(parts) :] == parts
