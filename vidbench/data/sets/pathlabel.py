"""Lists of lines "path label" without a header, as SlowFast, VideoMAE and MMAction2 read them.

train.csv, val.csv and test.csv (or .txt) are in the folder or one below; blanks, a tab or a comma
separate the path from the class number. The lists are often of another machine: a path that does
not exist is looked for by its last folder and its name below the folder."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from vidbench.data.sets.folders import source_of
from vidbench.data.sets.reading import (
    VIDEO_SUFFIXES,
    Found,
    Rows,
    Stems,
    places,
    read_text,
)
from vidbench.data.sets.youtube import SPLITS
from vidbench.data.tables import text_lines
from vidbench.system.errors import InputError, MissingError

LINE = re.compile(r"(.*\S)(?:\s*,\s*|\s+)(\d+)")
ORDER = ("train", "validate", "test")


def pathlabel_lists(root: Path) -> dict[str, Path]:
    """Return the lists by split in a folder, or in the first folder directly in it that has some."""
    for place in places(root):
        found: dict[str, Path] = {}
        for file in sorted(place.iterdir()):
            split = SPLITS.get(file.stem.lower())
            if split and file.suffix in (".csv", ".txt") and file.is_file() and _fits(file):
                found.setdefault(split, file)
        if found:
            return found
    return {}


def _fits(file: Path) -> bool:
    """Whether the first line that is not blank names a video and a class number."""
    with open(file, "rb") as handle:
        text = handle.read(5000).decode("utf-8-sig", errors="replace")
    line = LINE.fullmatch(text.strip().split("\n", 1)[0].strip())
    return line is not None and line[1].strip("\"'").lower().endswith(VIDEO_SUFFIXES)


def read_pathlabel(
    root: Path, *, lists: str | Path | None = None, classes: str | Path | None = None
) -> Found:
    """Read lists of "path label" lines over videos anywhere below a folder.

    A video that an earlier list contains is left out with a warning: VideoMAE's test list repeats
    its validation list.

    Args:
        lists: A folder, or one list (then all its videos are in no split).
        classes: A file with a name a line, in the order of the numbers; default: the videos'
            folder, if each number has its own folder, else the number.

    Raises:
        MissingError: there are no lists (a FileNotFoundError).
        InputError: a list has other lines.
    """
    place = Path(lists or root)
    files = {"none": place} if place.is_file() else pathlabel_lists(place)
    if not files:
        raise MissingError(
            f"no lists at {place}: wanted train.csv, val.csv or test.csv with lines such as "
            "'run/a.mp4 0', there or one folder below"
        )
    listed = [
        (path, number, split, where)
        for split in (*ORDER, "none")
        if split in files
        for path, number, where in _lines(files[split])
    ]
    names = _names(listed, None if classes is None else Path(classes))
    videos = Stems(root)
    rows: Rows = []
    wheres: list[str] = []
    first: dict[str, str] = {}
    again = 0
    for path, number, split, where in listed:
        if number not in names:
            raise InputError(
                f"{where}: class number {number} is not in {classes}, which has {len(names)} names"
            )
        found = _inside(root, path) or videos.find(path)
        if first.setdefault(found, split) != split:
            again += 1
            continue
        rows.append((found, names[number], split, source_of(names[number], found, [])))
        wheres.append(where)
    if again:
        warnings.warn(
            f"{again} lines of {', '.join(file.name for file in files.values())} name videos of an "
            "earlier list; they are left out",
            stacklevel=2,
        )
    return Found(root, rows, wheres, [names[number] for number in sorted(names)])


def _lines(file: Path) -> Iterator[tuple[str, int, str]]:
    """(path, class number, where) of each line. Raises ValueError with file and line."""
    for count, text in enumerate(read_text(file).split("\n"), 1):
        if not text.strip():
            continue
        where, line = f"{file}, line {count}", LINE.fullmatch(text.strip())
        path = line[1].strip("\"'").replace("\\", "/") if line else ""
        if line is None or not path.lower().endswith(VIDEO_SUFFIXES):
            raise InputError(
                f"{where}: wanted a video and its class number, such as 'run/a.mp4 0'; got "
                f"{text.strip()[:80]!r}"
            )
        yield path, int(line[2]), where


def _inside(root: Path, path: str) -> str | None:
    """The path of an existing video, relative if it is below root."""
    file = root / path
    if not file.is_file():
        return None
    whole, above = os.path.abspath(file), os.path.abspath(root)
    below = os.path.commonpath([whole, above]) == above
    return Path(os.path.relpath(whole, above)).as_posix() if below else whole


def _names(listed: list[tuple[str, int, str, str]], classes: Path | None) -> dict[int, str]:
    """The name of each class number."""
    if classes is not None:
        return dict(enumerate(text_lines(classes)))
    folders: dict[int, set[str]] = {}
    for path, number, _, _ in listed:
        folders.setdefault(number, set()).add(path.rpartition("/")[0].rpartition("/")[2])
    sole = [next(iter(names)) for names in folders.values() if len(names) == 1]
    if len(set(sole)) == len(folders) and all(sole):
        return {number: next(iter(names)) for number, names in folders.items()}
    return {number: str(number) for number in folders}
