"""What a run directory records as JSON, and the videos that a resumed run must find again."""

import json
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidbench.engine.recipes import RunError
from vidbench.system.files import same_content, stamp, write_text

TAIL = 1 << 16  # bytes at a log's end, many lines of it
THREADS = 8  # that read videos' stamps: on a network disk each waits for its answer


@dataclass(frozen=True)
class Result:
    """What an evaluation of a run found, as results.json holds it under its protocol's id.

    protocol contains every switch that moves the numbers. numbers are fractions: a value, or
    [value, low, high]. budget is `Run.budget` at the time, vidbench what measured it
    (environment.made_by), empty in results of older versions."""

    task: str
    protocol: dict[str, Any]
    numbers: dict[str, Any]
    budget: dict[str, Any]
    vidbench: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, record: Any) -> "Result":
        """Read an entry of results.json; fields that other versions wrote are left out.

        Raises:
            ValueError: A field is missing.
        """
        names = tuple(cls.__dataclass_fields__)
        needed = names[:-1]
        if not isinstance(record, dict) or not set(needed) <= set(record):
            raise ValueError(f"wanted {', '.join(needed)}; evaluate the run again")
        return cls(**{name: record[name] for name in names if name in record})


def read_record(path: Path, way_out: str) -> dict[str, Any]:
    """Read a JSON object from a file of a run.

    Args:
        way_out: What to do if it is damaged, a sentence.

    Raises:
        RunError: It is no JSON object, or cannot be read.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged: it must be a JSON object; {type(error).__name__}: {error}. "
            f"{way_out}"
        ) from error
    if not isinstance(held, dict):
        raise RunError(
            f"{path} is damaged: it must be a JSON object; got {held!r:.80}. {way_out}"
        ) from None
    return held


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a log that are JSON objects with a step.

    A last line cut off by a kill is left out, and so, with a warning, is any damaged one.

    Raises:
        RunError: No line is readable.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and lines[-1].startswith(b"{") and not lines[-1].endswith(b"\n"):
        lines = lines if _logged(lines[-1]) else lines[:-1]
    found = [_logged(line) for line in lines]
    damaged = [number for number, held in enumerate(found, 1) if held is None]
    read = [held for held in found if held is not None]
    if damaged and not read:
        raise RunError(
            f"{path} is damaged: none of its {len(lines)} lines is a JSON object with a step. "
            "Restore it from a copy, or delete it: the curves then begin at the last checkpoint."
        )
    if damaged:
        warnings.warn(
            f"{path} is damaged: {len(damaged)} lines are left out, first line {damaged[0]}, which "
            "must be a JSON object with a step. Restore the file from a copy if you need them.",
            stacklevel=2,
        )
    return read


def read_last(path: Path) -> dict[str, Any]:
    """Read the last line of a log that is a JSON object with a step; {} without one.

    It reads the file's end alone, unless no line there is such an object.

    Raises:
        RunError: No line is readable.
    """
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().splitlines()
    found = next(filter(None, map(_logged, reversed(lines))), None)
    return found or (read_log(path) or [{}])[-1]


def _logged(line: bytes) -> dict[str, Any] | None:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(held, dict) and isinstance(held.get("step"), int | float)
    return held if known else None


def check_rows(folder: Path, rows: Mapping[str, str | None]) -> None:
    """Keep in rows.json which rows are trained on, or compare them with those kept.

    Args:
        folder: The run directory.
        rows: Split or data set -> fingerprint of its rows, or None.

    Raises:
        RunError: The run began with other rows, or rows.json is damaged.
    """
    path = folder / "rows.json"
    if path.exists():
        before = read_record(path, "Restore it from a copy, or train in another folder.")
        if before != rows:
            raise RunError(
                f"the videos changed since {folder} began: it trained on {before}, now there is "
                f"{dict(rows)}. Use another folder."
            )
    else:
        write_text(path, json.dumps(dict(rows)))


def read_rows(folder: Path, part: str) -> str | None:
    """Read the fingerprint of the rows that a run trained on; None if the run kept none.

    Args:
        folder: The run directory.
        part: Split or data set.

    Raises:
        RunError: rows.json is damaged, or has no such part.
    """
    path, way_out = folder / "rows.json", "Restore it from a copy."
    rows = read_record(path, way_out) if path.exists() else {part: None}
    if part not in rows:
        raise RunError(
            f"{path} must have the rows of {part!r}; it has {', '.join(rows) or 'none'}. {way_out}"
        )
    return rows[part]


def check_videos(folder: Path, videos: Mapping[str, Path], resumed: bool) -> list[str]:
    """Keep the stamp of each video in videos.json, or compare it with the one kept.

    Videos are the same if their size and checksum are, whatever the time of their last change. A
    missing file is not compared: reading it fails, if it is read. It costs about 0.1 ms a video.

    Args:
        videos: The manifest's path -> the file.
        resumed: Whether the run has a checkpoint.

    Returns:
        What a user must know, a line each.

    Raises:
        RunError: A video changed, or videos.json is damaged.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(videos, pool.map(_stamp_of, videos.values()), strict=True))
    now = {name: text for name, text in found.items() if text}
    path = folder / "videos.json"
    if not path.exists():
        write_text(path, json.dumps(now))
        unknown = "this run is older than stamps of videos; its videos are assumed unchanged"
        return [unknown] if resumed else []
    before = read_record(
        path, "Restore it from a copy, or delete it if you know that no video changed."
    )
    changed = [
        name for name in now if name in before and not same_content(str(before[name]), now[name])
    ]
    if changed:
        raise RunError(
            f"{len(changed)} of {len(videos)} videos changed since {folder} began, first "
            f"{videos[changed[0]]}: its stamp was {before[changed[0]]}, now it is "
            f"{now[changed[0]]}. Restore the videos, or train in another folder."
        )
    return []


def _stamp_of(file: Path) -> str | None:
    try:
        return stamp(file)
    except OSError:
        return None
