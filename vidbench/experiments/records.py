"""The record of a replication: one csv line per run and test, with the hit of each test video.

Run directories are large and are not kept in git. A record is small, so it can be: all numbers,
intervals, tables and figures are computed from it again without the runs. A replication adds the
lines of each seed as soon as its runs are tested, and skips the runs in the record. So it resumes
on another machine if the file is copied there.

Each further measure of a run, such as its number of steps, has a column. Hits are packed eight to a
byte, in base64. Labels (class names) and source videos of the test videos are stored once: in the
line of a seed's first arm, for each data set and test. They are runs of equal values:
"bow*4;kick*4" is 4 times bow, then 4 times kick.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.system.errors import InputError
from vidbench.system.files import write_text

FIELDS = ("data", "seed", "arm", "test", "recipe", "commit", "videos")
ARRAYS = ("hits", "labels", "source_videos")
LONGEST = 1 << 24  # characters of a cell
PATHS = {"manifest", "flow", "init", "student", "teacher", "classes", "parts"}


@dataclass(frozen=True)
class Record:
    """One run by one test.

    recipe: `mark` of its recipe. commit: of the vidbench that trained it. numbers: further measures
    by name. labels and source_videos are None except in the first arm's line of a seed.
    """

    data: str
    seed: int
    arm: str
    test: str
    recipe: str
    hits: np.ndarray  # bool [N]
    numbers: Mapping[str, float] = field(default_factory=dict)
    labels: np.ndarray | None = None  # class names [N]
    source_videos: np.ndarray | None = None  # names or numbers [N]
    commit: str = ""

    @property
    def run(self) -> tuple[str, int, str]:
        """Data, seed and arm: the run that was tested."""
        return self.data, self.seed, self.arm


class Book:
    """The records of a file, in the order in which they were added."""

    def __init__(self, file: str | Path):
        """Read the file if it exists.

        Raises:
            InputError: It is no record of this format; the message names the line.
        """
        self.file = Path(file)
        self.records = read(self.file) if self.file.exists() else []

    def __contains__(self, run: tuple[str, int, str]) -> bool:
        return any(one.run == run for one in self.records)

    def check(self, run: tuple[str, int, str], recipe: str) -> None:
        """Refuse to continue a record whose run has another recipe.

        Args:
            run: Data, seed and arm.
            recipe: `mark` of the recipe that this call would train.

        Raises:
            InputError: The message names the run.
        """
        for one in self.records:
            if one.run == run and one.recipe != recipe:
                raise InputError(
                    f"{self.file}: the run {'/'.join(map(str, run))} has the recipe {one.recipe}, "
                    f"this call {recipe}. Choose another folder, or delete its lines."
                )

    def add(self, records: Iterable[Record]) -> None:
        """Add records and rewrite the file; numbers are then rounded as in the file."""
        write_text(self.file, text([*self.records, *records]))
        self.records = read(self.file)

    def of(self, data: str) -> list[Record]:
        """List the records of a data set."""
        return [one for one in self.records if one.data == data]

    def at(self, data: str, test: str) -> dict[tuple[int, str], Record]:
        """Return the records of a data set and test by (seed, arm).

        Args:
            data, test: Names.
        """
        return {
            (one.seed, one.arm): one for one in self.records if (one.data, one.test) == (data, test)
        }


def mark(recipe: Any, *more: object) -> str:
    """Compute a short checksum of a recipe without its paths, and of what else decides the rows.

    Fields at their default do not count, so a record stays valid when recipes get a new field.

    Args:
        more: Whatever else decides the training rows.
    """
    kept = {name: value for name, value in _own_fields(recipe).items() if name not in PATHS}
    words = json.dumps([kept, *map(str, more)], sort_keys=True, default=_own_fields)
    return hashlib.sha256(words.encode()).hexdigest()[:10]


def _own_fields(recipe: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default."""
    found = {}
    for one in fields(recipe):
        default = one.default_factory() if callable(one.default_factory) else one.default
        if (value := getattr(recipe, one.name)) != default:
            found[one.name] = value
    return found


def source_videos(records: Iterable[Record]) -> np.ndarray:
    """Return the source videos of a seed's test videos [N], which the first arm's record has.

    Raises:
        InputError: No record has them.
    """
    for one in records:
        if one.source_videos is not None:
            return one.source_videos
    raise InputError("no record of this seed has the source videos; keep the first arm's line.")


def text(records: Sequence[Record]) -> str:
    """Return the csv of records; a number that a record lacks is empty."""
    names = list(dict.fromkeys(name for one in records for name in one.numbers))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*FIELDS, *names, *ARRAYS])
    for one in records:
        plain = [one.data, one.seed, one.arm, one.test, one.recipe, one.commit, len(one.hits)]
        numbers = [_digits(one.numbers.get(name)) for name in names]
        arrays = [_packed(one.hits), _runs(one.labels), _runs(one.source_videos)]
        writer.writerow([*plain, *numbers, *arrays])
    return file.getvalue()


def read(file: str | Path) -> list[Record]:
    """Read the csv of records.

    Raises:
        InputError: The header or a line is not as `text` writes it; the message names the line.
    """
    limit = csv.field_size_limit(LONGEST)  # of the process
    try:
        with Path(file).open(newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))
    finally:
        csv.field_size_limit(limit)
    head = rows[0] if rows else []
    edge = len(FIELDS), -len(ARRAYS)
    if tuple(head[: edge[0]]) != FIELDS or tuple(head[edge[1] :]) != ARRAYS:
        raise InputError(
            f"{file} must start with {','.join(FIELDS)} and end with {','.join(ARRAYS)}; got "
            f"{','.join(head) or 'an empty file'}. Choose another folder."
        )
    found = []
    for number, row in enumerate(rows[1:], 2):
        try:
            found.append(_record(row, head[slice(*edge)]))
        except (ValueError, IndexError) as error:
            raise InputError(f"{file}, line {number}: {error}. Delete the line.") from error
    return found


def _record(row: Sequence[str], names: Sequence[str]) -> Record:
    data, seed, arm, test, recipe, commit, videos = row[: len(FIELDS)]
    hits, labels, sources = row[-len(ARRAYS) :]
    values = row[len(FIELDS) : -len(ARRAYS)]
    if len(values) != len(names):
        raise ValueError(f"{len(row)} columns; need {len(names) + len(FIELDS) + len(ARRAYS)}")
    numbers = {name: float(v) for name, v in zip(names, values, strict=True) if v}
    bits = np.frombuffer(base64.b64decode(hits, validate=True), np.uint8)
    count = int(videos)
    if len(bits) != -(-count // 8):
        raise ValueError(f"{8 * len(bits)} hits of {count} videos")
    right = np.unpackbits(bits, count=count).astype(bool)
    shown, videos_of = _unrun(labels, count), _unrun(sources, count)
    return Record(data, int(seed), arm, test, recipe, right, numbers, shown, videos_of, commit)


def _digits(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.6g}"


def _packed(hits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(np.asarray(hits, bool)).tobytes()).decode()


def _runs(values: np.ndarray | None) -> str:
    if values is None:
        return ""
    words = [str(value).replace(";", ",") for value in values.tolist()]
    return ";".join(f"{value}*{len(list(same))}" for value, same in groupby(words))


def _unrun(words: str, count: int) -> np.ndarray | None:
    if not words:
        return None
    pairs = [word.rpartition("*")[::2] for word in words.split(";")]
    values = np.repeat([value for value, _ in pairs], [int(times) for _, times in pairs])
    if len(values) != count:
        raise ValueError(f"{len(values)} labels or source videos of {count} videos")
    return values
