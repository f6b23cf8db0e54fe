"""What the readers of data sets share: rows, list files, the media below a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidbench.data.tables import is_plain, read_text, same_path
from vidbench.system.errors import InputError, MissingError

VIDEO_SUFFIXES = (
    ".mp4",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".mpg",
    ".mpeg",
    ".m4v",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)
CLIP_NUMBER = re.compile(r"_(?:c|clip)\d+$", re.IGNORECASE)
Rows = list[tuple[str, str | None, str, str | None]]


class Found(NamedTuple):
    """What a reader found: rows (path below root, label, split, source_video), the line of each, and the
    classes."""

    root: Path
    rows: Rows
    where: Sequence[str]
    classes: Sequence[str] | None


class Listing(NamedTuple):
    """What is below a folder, relative, with forward slashes, sorted, without hidden files."""

    files: list[str]
    odd: list[str]  # files and folders whose names no manifest can hold; they are left out
    closed: list[str]  # folders that could not be entered, with the reason
    again: list[str]  # links to folders that were already listed


def walk(folder: Path) -> Listing:
    """List each real folder below a folder once, whatever links lead to it; real folders first."""
    found, seen = Listing([], [], [], []), set()
    todo, links = [""], list[str]()
    while todo or links:
        inside = todo.pop() if todo else links.pop(0)
        place = os.path.join(folder, inside)
        try:
            facts = os.stat(place)
            if (facts.st_dev, facts.st_ino) in seen:
                found.again.append(inside)
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(place) as entries:
                kinds = [(e.name, _is_folder(e), e.is_symlink()) for e in entries]
        except OSError as error:
            found.closed.append(f"{inside or os.curdir} ({error.strerror})")
            continue
        for name, is_folder, is_link in sorted(kinds):
            path = f"{inside}/{name}" if inside else name
            if name.startswith("."):
                continue
            if not is_plain(name):
                found.odd.append(path)
            elif is_folder:
                (links if is_link else todo).append(path)
            else:
                found.files.append(path)
    return _one_spelling(found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere one may look
        return False


def _one_spelling(found: Listing) -> Listing:
    """Sort all parts. Of two names that differ only in the code of accents, leave out the second."""
    first: dict[str, str] = {}
    files: list[str] = []
    for path in sorted(found.files):
        if first.setdefault(same_path(path), path) == path:
            files.append(path)
        else:
            found.odd.append(path)
    return Listing(files, sorted(found.odd), sorted(found.closed), sorted(found.again))


def files_below(folder: Path, suffixes: tuple[str, ...] = VIDEO_SUFFIXES) -> list[str]:
    """List the videos below a folder, relative with forward slashes, sorted; see `walk`.

    `opened.left_out` says what is not among them.

    Args:
        suffixes: In lower case; others than those of videos list other files.
    """
    return [path for path in walk(folder).files if path.lower().endswith(suffixes)]


def read_json(file: Path, kind: type) -> Any:
    """Read a json file whose outermost value is a list or an object.

    Args:
        kind: list or dict.

    Raises:
        InputError: the text is not json (the message has the line), or its outermost value is of
            another kind.
    """
    try:
        value = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: not json ({error.msg})") from None
    if not isinstance(value, kind):
        raise InputError(f"{file}: wanted a json {kind.__name__}, got {type(value).__name__}")
    return value


def numbered(
    file: Path, separator: str | None, columns: int | Container[int], what: str
) -> Iterator[tuple[list[str], str]]:
    """Yield the lines of a list file that are not blank: (columns, "file, line n").

    Backslashes, which Windows writes in paths, become slashes.

    Args:
        separator: None splits at whitespace.
        columns: Their number, or the numbers allowed.
        what: The form wanted of a line, for the message.

    Raises:
        InputError: a line has another number of columns.
    """
    for number, line in enumerate(read_text(file).replace("\\", "/").split("\n"), 1):
        if line.strip():
            parts, where = line.rstrip().split(separator), f"{file}, line {number}"
            if len(parts) not in ((columns,) if isinstance(columns, int) else columns):
                raise InputError(
                    f"{where}: wanted {what}, got {len(parts)} columns: {line.rstrip()!r}"
                )
            yield parts, where


def class_list(file: Path, separator: str | None, first: int) -> list[str]:
    """Read class names from lines "number name".

    Args:
        separator: None splits at whitespace.
        first: The number of the first class; each next line must have the next number.

    Raises:
        InputError: a line does not have the next number, or not two columns.
    """
    names: list[str] = []
    for (number, name), where in numbered(file, separator, 2, "2 columns (number, class)"):
        if number != str(first + len(names)):
            raise InputError(f"{where}: wanted class number {first + len(names)}, got {number!r}")
        names.append(name)
    return names


def count_classes(what: str, classes: Sequence[str], wanted: Sequence[int], file: Path) -> None:
    """Check that a class list has the data set's length.

    Args:
        what: The data set's name, for the message.
        wanted: The lengths allowed.
        file: The list's file, for the message.

    Raises:
        InputError: the list has another length.
    """
    if len(classes) not in wanted:
        several = isinstance(wanted, range)
        counts = f"at most {wanted[-1]}" if several else " or ".join(map(str, wanted))
        some = ", ".join(list(classes)[:3])
        raise InputError(
            f"{file}: {what} has {counts} classes, this list has {len(classes)} ({some}, ...)"
        )


def holding(root: Path, names: Sequence[str]) -> Path | None:
    """Return root, or the first folder directly in it, that has all these files; None without one.

    Args:
        names: File names.
    """
    return next(
        (place for place in places(root) if all((place / name).is_file() for name in names)), None
    )


def places(root: Path) -> list[Path]:
    """Return a folder and the folders directly in it that may be entered; [] if it is no folder.

    List files are searched in these.
    """
    inside = sorted(root.iterdir()) if root.is_dir() else []
    return [root, *(p for p in inside if _may_enter(p))] if root.is_dir() else []


def _may_enter(place: Path) -> bool:
    """Whether a path is a folder that this user may list and enter."""
    try:
        os.scandir(place).close()
        os.stat(os.path.join(place, os.curdir))
    except OSError:
        return False
    return True


def lists_in(root: Path, lists: str | Path | None, names: Sequence[str]) -> Path:
    """Return the folder with all these list files.

    Args:
        lists: Where to look, there and one folder below; default: root.
        names: File names.

    Raises:
        MissingError: no folder has them (a FileNotFoundError).
    """
    place = holding(Path(lists or root), names)
    if place is None:
        raise MissingError(
            f"no lists at {lists or root}: wanted {', '.join(names)} there or one folder below"
        )
    return place


def one_of(what: str, value: int, known: Sequence[int]) -> int:
    """Return the value, if it is a known one.

    Args:
        what: The value's name, for the message.

    Raises:
        InputError: it is not one of `known`.
    """
    if value not in known:
        raise InputError(f"{what} must be one of {', '.join(map(str, known))}, got {value!r}")
    return value


def below(root: Path, paths: Iterable[str], guesses: Sequence[str]) -> str:
    """Return the folder below root that listed paths start from: "" (root itself) or "folder/".

    It is the first that has the first part of some path, in any capitals: root, then the guesses,
    then any folder directly in root. If none has, it is root.

    Args:
        guesses: Names of folders to try before the others.
    """
    inside = [place.name for place in places(root)[1:]]
    folders = [name for name in guesses if name in inside]
    folders += [name for name in inside if name not in folders]
    wanted = {path.split("/")[0].lower() for path in paths}
    for prefix in ["", *(f"{name}/" for name in folders)]:
        if any(entry.name.lower() in wanted for entry in os.scandir(root / prefix)):
            return prefix
    return ""


class Stems:
    """The videos below a folder by the stems of their names, for lists whose videos were re-encoded
    or moved to other folders."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, list[str]] = {}
        for path in files_below(root):
            self.paths.setdefault(_stem(path), []).append(path)

    def find(self, listed: str, prefix: str = "") -> str:
        """Find a listed video: as listed, else with other capitals, in such a folder, or anywhere.

        Args:
            listed: The path in the list; returned after the prefix if no video has its stem.
            prefix: The folder that listed paths start from (see `below`).
        """
        whole = prefix + listed
        folder, suffix = _folder(listed), os.path.splitext(listed)[1].lower()

        def likeness(path: str) -> tuple[bool, ...]:
            same = path.lower() == whole.lower()
            return path == whole, same, _folder(path) == folder, path.lower().endswith(suffix)

        return max(self.paths.get(_stem(listed), ()), key=likeness, default=whole)


def _stem(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0].lower()


def _folder(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2].lower()


def spelled_on_disk(root: Path, paths: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return which files exist below root, bool [N], and each path as the disk spells it.

    One listing per folder replaces a query per file, which is slow on network disks. A path whose
    accents are composed (NFC) also fits a name whose accents are not.

    Args:
        paths: N paths relative to root.
    """
    names: dict[str, dict[str, str]] = {}
    there, found = np.zeros(len(paths), bool), list(paths)
    for i, path in enumerate(paths):
        folder, file = os.path.split(path)
        if folder not in names:
            place = root / folder
            on_disk = os.listdir(place) if place.is_dir() else []
            names[folder] = {same_path(name): name for name in on_disk}
            names[folder] |= {name: name for name in on_disk}  # the exact name comes first
        known = names[folder].get(file) or names[folder].get(same_path(file))
        if known is not None:
            there[i], found[i] = True, os.path.join(folder, known) if known != file else path
    return there, found
