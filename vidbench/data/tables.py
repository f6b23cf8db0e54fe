"""A manifest's rows at the door: read a csv, check paths and names.

A name (a label, a source video) fits in one line of a text file: no control characters, no line
ends of any alphabet. Blanks and characters of no width around it are removed, and its accents are
composed (NFC). A path has forward slashes and no `.` in it. So two spellings of one name or file
cannot be two."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vidbench.system.errors import InputError, MissingError

SPLITS = ("train", "validate", "test", "none")
SPLIT_WORDS = {
    "train": 0,
    "training": 0,
    "validate": 1,
    "validation": 1,
    "val": 1,
    "valid": 1,
    "test": 2,
    "testing": 2,
    "none": 3,
}
COLUMNS = ("path", "label", "split", "source_video")
# columns that a scan adds
SCANNED = {"frames": np.int32, "fps": np.float32, "height": np.int32, "width": np.int32}
# in a path: control characters, and bytes of a file name that are not UTF-8
ODD_PATH = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
# in a name: the line ends of Unicode too, because lists have one name a line
ODD_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# what other programs write for a missing value
NO_NAMES = ("nan", "none", "null", "<na>", "na", "n/a", "#n/a", "nat")
# blanks, and characters of no width, which editors and web pages leave at the ends of a name
ENDS = re.compile("^[\\s\u200b-\u200f\u2060\ufeff]+|[\\s\u200b-\u200f\u2060\ufeff]+$")
MEND = ". Correct it, or remove the columns that a scan added and scan again"
Line = tuple[list[str], int]


def is_plain(name: str) -> bool:
    """Return whether a manifest can hold this name of a file or a folder."""
    return "\\" not in name and not ODD_PATH.search(name)


def tidy_name(name: str, place: str, what: str = "label") -> str:
    """Strip a name and compose its accents.

    Args:
        place: Where it comes from, for the message.
        what: What it names, for the message.

    Raises:
        InputError: it contains a control character or a line end.
    """
    text = name.strip(" \t")
    if odd := ODD_NAME.search(text):
        raise InputError(
            f"{place}: {what} {name!r} contains the character {odd[0]!r}: use one line of plain "
            "text (a quote that is not closed swallows the lines below it)"
        )
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", ENDS.sub("", text))


def tidy_path(path: str, place: str) -> str:
    """Write a path with forward slashes, without `.` and doubled slashes.

    Args:
        place: Where it comes from, for the message.

    Raises:
        InputError: it is empty or contains a control character.
    """
    if odd := ODD_PATH.search(path):
        raise InputError(
            f"{place}: path {path!r} contains the character {odd[0]!r}: rename the file (a quote "
            "that is not closed swallows the lines below it)"
        )
    path = path.replace("\\", "/")
    if "./" not in path and "//" not in path and "/." not in path:
        short = path.rstrip("/")
    else:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        short = ("/" if path.startswith("/") else "") + "/".join(parts)
    if not short.strip() or short == ".":
        raise InputError(f"{place}: the path is empty")
    return short


def same_path(path: str) -> str:
    """Return what two spellings of one path share: its accents composed (NFC)."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def check_row(
    row: Sequence[str | None], number: dict[str, int], place: str
) -> tuple[str, str, str, str]:
    """Check one row and return its path, label or "", split and source video or "".

    Args:
        row: Path, label, split and source video.
        number: The classes.
        place: Where the row comes from, for messages.

    Raises:
        InputError: a cell cannot be used; the message names the place.
    """
    if len(row) != 4:
        raise InputError(f"{place}: wanted 4 columns {COLUMNS}, got {len(row)}: {row!r}")
    path, name, part, origin = (cell or "" for cell in row)
    if not path:
        raise InputError(f"{place}: the path is empty")
    path, name = tidy_path(path, place), tidy_name(name, place)
    origin, part = tidy_name(origin, place, "source_video"), part.strip() or "none"
    if name and name not in number:
        known = ", ".join(list(number)[:5]) + (", ..." if len(number) > 5 else "")
        raise InputError(
            f"{place}: label {name!r} is not among the {len(number)} classes ({known})"
        )
    if part not in SPLIT_WORDS:
        raise InputError(f"{place}: split {part!r} is not one of {', '.join(SPLIT_WORDS)}")
    return path, name, part, origin


def spelled_twice(labels: Iterable[tuple[str, str]]) -> list[str]:
    """Say which labels have two spellings that differ in blanks or in how accents are written.

    Args:
        labels: Each label as it was written, and its place.
    """
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, str] = {}
    for label, place in labels:
        tidy = tidy_name(label, place)
        known, where = first.setdefault(tidy, (label, place))
        if known != label and tidy not in found:
            found[tidy] = f"{label!r} ({place}) and {known!r} ({where}) are one class, {tidy!r}"
    return list(found.values())


def csv_lines(file: Path, strict: bool = True) -> list[Line]:
    """Read a csv as (cells, line number), without empty lines and BOM.

    Args:
        file: The csv.
        strict: False stops at the first bad line, to recognize a file.

    Raises:
        InputError: it is not UTF-8, or a quoted cell continues past the end of its line. The
            message names file and line.
    """
    lines: list[Line] = []
    begins = 1
    try:
        with open(file, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            for row in reader:
                if reader.line_num > begins:
                    raise csv.Error("a quoted cell continues in the next line")
                if row:
                    lines.append((row, begins))
                begins = reader.line_num + 1
    except csv.Error as error:
        if not strict:
            return lines
        raise InputError(f"{file}, line {begins}: {csv_fault(error)}") from None
    except UnicodeDecodeError:
        if not strict:
            return lines
        raise InputError(not_utf8(file)) from None
    return lines


def read_text(file: Path) -> str:
    """Read a text file without its BOM.

    Raises:
        MissingError: it does not exist, or is a folder (a FileNotFoundError).
        InputError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingError(f"no such file: {file}. Name a text file") from None
    except UnicodeDecodeError:
        raise InputError(not_utf8(file)) from None


def csv_fault(error: csv.Error) -> str:
    """Say what is wrong with a line of a csv, and what to do."""
    if "field limit" in str(error):
        return (
            f"a cell must have at most {csv.field_size_limit():,} characters; got a longer one. "
            "Shorten it, or close the quote that opens before it"
        )
    return f"a row must end with its line, and every quote must be closed; got {error}"


def not_utf8(file: Path) -> str:
    """Say where a file is not UTF-8, and what to do."""
    data = file.read_bytes()
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
        line, odd = data.count(b"\n", 0, at) + 1, f"the byte 0x{error.object[at]:02x}"
    else:  # another process mended it
        return f"{file} must be UTF-8 text. Save it as UTF-8, then try again"
    guess = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
    return (
        f"{file}, line {line}: must be UTF-8 text; got {odd}. Save it as UTF-8 "
        f"(iconv -f {guess} -t utf-8)"
    )


def columns_of(file: Path) -> list[str]:
    """Return the names in a csv's first line that is not empty; [] if there is none.

    Raises:
        InputError: that line is no csv.
    """
    with open(file, newline="", encoding="utf-8-sig", errors="replace") as handle:
        try:
            return [name.strip() for name in next(filter(None, csv.reader(handle)), [])]
        except csv.Error as error:
            raise InputError(f"{file}, line 1: {csv_fault(error)}") from None


def manifest_rows(
    file: Path, classes: Sequence[str] | None
) -> tuple[list[tuple[str, ...]], list[int], dict[str, np.ndarray]]:
    """Read a manifest's csv.

    Args:
        file: The csv.
        classes: The class list, or None if there is none: then a label such as `nan` is refused.

    Returns:
        Rows (path, label, split, source_video) with "" for a missing column, the line of each, and
        the columns of a scan.

    Raises:
        InputError: a line cannot be used; the message names it.
    """
    (head, _), *lines = csv_lines(file) or [([], 1)]
    header = [name.strip() for name in head]
    known = set(header) <= {*COLUMNS, *SCANNED}
    if "path" not in header or not known or len(set(header)) != len(header):
        raise InputError(
            f"{file}, line 1: wanted a header of path and some of {COLUMNS[1:]} and "
            f"{tuple(SCANNED)}, each once, got {header}"
        )
    order = [header.index(name) if name in header else None for name in COLUMNS]
    numbers: dict[str, tuple[int, list[float]]] = {
        name: (header.index(name), []) for name in SCANNED if name in header
    }
    rows: list[tuple[str, ...]] = []
    for row, line in lines:
        place = f"{file}, line {line}"
        if len(row) != len(header):
            raise InputError(
                f"{place}: wanted {len(header)} columns {header}, got {len(row)}: {row}"
            )
        path, label, split, origin = ("" if at is None else row[at] for at in order)
        _refuse_no_names(place, () if classes else (label,), origin)
        rows.append((path, label, split, origin))
        found = {name: _number(row[at], name, place) for name, (at, _) in numbers.items()}
        if found.get("fps") == 0 and found.get("frames", 2) > 1:
            raise InputError(f"{place}: fps must be above 0; got {row[numbers['fps'][0]]!r}{MEND}")
        for name, (_, values) in numbers.items():
            values.append(found[name])
    scanned = {name: np.array(values, SCANNED[name]) for name, (_, values) in numbers.items()}
    return rows, [line for _, line in lines], scanned


def _refuse_no_names(place: str, labels: Iterable[str], source_video: str) -> None:
    for what, name in (*(("label", label) for label in labels), ("source_video", source_video)):
        if name.strip().lower() in NO_NAMES:
            raise InputError(
                f"{place}: {what} {name!r} is how other programs write a missing value: leave the "
                "cell empty if it is unknown; if it is a class, list all classes in classes.txt"
            )


def _number(cell: str, name: str, place: str) -> float:
    """The number of a cell: any from 0 as fps, else a whole one from 1."""
    least = 0 if name == "fps" else 1
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not least <= value < 2**31 or least and value != int(value):
        what = "a number" if name == "fps" else "a whole number"
        raise InputError(
            f"{place}: {name} must be {what} from {least} to {2**31 - 1:,}; got {cell!r}{MEND}"
        )
    return value


def text_lines(file: Path) -> list[str]:
    """Return the lines of a small text file that are not blank, stripped.

    CRLF and LF are the same.

    Raises:
        MissingError, InputError: see `read_text`.
    """
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]
