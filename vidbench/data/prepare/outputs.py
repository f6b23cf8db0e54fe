"""The files of an output folder: their names, and which of them vidbench made.

A manifest may list absolute paths and paths with `..`. What is made from such a video must not
leave the output folder, so its name comes from a checksum of the path (`name_of`).

A folder may hold other people's files. A command replaces only what it made: `Outputs` records the
names before it writes them, and for small files a checksum of what it wrote."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vidbench.system.errors import Brief
from vidbench.system.files import path_inside

OUTSIDE = "_outside"  # the subfolder for results of videos outside of the data set's folder
LONGEST = 200  # bytes of a name; file systems allow 255, and a temporary name is longer


class OutputError(Brief, RuntimeError):
    """An output folder with files that vidbench did not make."""


def name_of(path: str, suffix: str) -> str:
    """Name what is made from a video: a relative path that stays inside the output folder.

    Two paths never share a name. A path inside the data set's folder keeps its own.

    Args:
        path: The video's path in the manifest.
        suffix: Appended to it.
    """
    parts = path.split("/")
    if _is_plain(path) and parts[0] != OUTSIDE:
        if all(part not in ("", ".") and len(part.encode()) <= LONGEST for part in parts):
            return path + suffix
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    last = re.sub(r"[^\w.-]+", "_", parts[-1], flags=re.ASCII)[-80:].lstrip(".") or "video"
    return f"{OUTSIDE}/{digest}/{last}{suffix}"


def _is_plain(path: str) -> bool:
    try:
        path_inside("", path)
    except ValueError:
        return False
    return True


class Outputs:
    """The record of an output folder: which files vidbench made in it.

    Args:
        folder: The output folder.
        shard: The shard's name; each shard writes its own record.
    """

    def __init__(self, folder: Path, shard: str = "") -> None:
        self.folder, self.file = folder, folder / f".made{shard}.jsonl"
        self.known: dict[str, str] = {}  # name to checksum, "" for any content
        for record in sorted(folder.glob(".made*.jsonl")):
            for line in json_lines(record):
                if isinstance(line.get("name"), str):
                    self.known[line["name"]] = str(line.get("check", ""))

    def refuse_others(self, names: Iterable[str]) -> None:
        """Refuse a folder that holds a file of one of these names which vidbench did not make.

        Raises:
            OutputError: the message names the file.
        """
        for name in names:
            file = self.folder / name
            if not os.path.lexists(file):
                continue
            check = self.known.get(name)
            if check is None or check and check != _checksum(file):
                what = "vidbench did not make it" if check is None else "it was changed since"
                raise OutputError(
                    f"{file} would be overwritten, and {what}: move it away, or use another "
                    "output folder"
                )

    def claim(self, names: Iterable[str]) -> None:
        """Record that files of these names are vidbench's, before they are written."""
        self._add({name: "" for name in names if self.known.get(name) != ""})

    @contextmanager
    def writing(self, names: tuple[str, ...]) -> Iterator[None]:
        """Claim the names, write them in the body of the block, then record their checksums."""
        self.claim(names)
        yield
        there = [name for name in names if (self.folder / name).is_file()]
        self._add({name: _checksum(self.folder / name) for name in there})

    def _add(self, made: dict[str, str]) -> None:
        if made:
            self.known |= made
            lines = [json.dumps({"name": name, "check": check}) for name, check in made.items()]
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")  # the last line may have been torn


def json_lines(file: Path) -> Iterator[dict]:
    """Read the objects of a file with one line of JSON each; torn lines are left out."""
    if file.is_file():
        for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                line = json.loads(text or "null")
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict):
                yield line


def _checksum(file: Path) -> str:
    if not file.is_file():
        return "not a file"
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:24]
