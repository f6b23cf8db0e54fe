"""A log of a run as columns of numbers: read from where the last call ended, and smoothed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidbench.engine.records import read_log
from vidbench.engine.runs import RunError

# of a log line, what is no curve
BOOKS = ("step", "epoch", "seconds", "clips", "data_share")
BLOCK = 64  # values of a curve that are smoothed at a time
KNOWN_END = 256  # bytes before the place where the last look ended: the same if the log only grew
Columns = Mapping[str, NDArray[np.float64]]


class Log:
    """A log on disk, of which a look reads only what is new.

    Args:
        path: metrics.jsonl or monitor.jsonl of a run; it may come later.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._texts: set[str] = set()  # columns without numbers
        self._end, self._tail = 0, b""
        self._whole = True  # no line is damaged

    def look(self) -> Columns:
        """Read the log's columns: NaN where a line lacks a number; {} without a log.

        A line that is half written counts once it is whole.

        Raises:
            RunError: No line is readable, a line lacks its epoch, or a column has numbers and
                something else.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._stamp = None  # until it is read
            if not (self._whole and self._read_on()):
                self._forget()
                if not self._read_on():
                    self._forget()
                    self._add(read_log(self.path))  # names what is damaged
                    self._whole = False
            self._stamp = stamp
        return dict(self._columns)

    def _read_on(self) -> bool:
        """Read what is new; whether the log only grew, by whole lines alone."""
        with self.path.open("rb") as file:
            file.seek(self._end - len(self._tail))
            text = file.read()
        if not text.startswith(self._tail):
            return False
        text = text[len(self._tail) :]
        rest = text.rpartition(b"\n")[2]
        new = text[: len(text) - len(rest)]
        if rest and not rest.startswith(b"{"):
            return False
        try:
            lines = json.loads(b"[%b]" % b",".join(filter(None, new.splitlines())))
        except (ValueError, RecursionError):
            return False
        if not all(isinstance(line, dict) and _is_number(line.get("step")) for line in lines):
            return False
        self._end += len(new)
        self._tail = (self._tail + new)[-KNOWN_END:]
        self._add(lines)
        return True

    def _add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines to the columns. Raises RunError if they are no numbers where they must be."""
        names = dict.fromkeys(name for line in lines for name in line)
        old = len(self._columns.get("step", ()))
        for name in dict.fromkeys([*self._columns, *names]):
            values = [line.get(name) for line in lines]
            odd = [one for one in values if one is not None and not _is_number(one)]
            held = name in self._columns
            if odd and (name in BOOKS or held or len(odd) < len(values)):
                self._refuse(f"{name!r} must be a number in each line; got {odd[0]!r}")
            if odd or name in self._texts:
                self._texts.add(name)
                continue
            before = self._columns[name] if held else np.full(old, np.nan)
            new = np.array(values, np.float64)  # None becomes NaN
            self._columns[name] = np.concatenate([before, new])
        epochs = self._columns.get("epoch", np.array([np.nan]))
        if lines and np.isnan(epochs[old:] if len(epochs) > old else [np.nan]).any():
            self._refuse("each line must have its epoch; was the log edited?")

    def _refuse(self, why: str) -> None:
        self._forget()
        raise RunError(f"{self.path}: {why}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def smoothed(values: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Smooth a curve by an exponential moving average with debiasing, as TensorBoard does.

    The average starts at 0 and is divided by the sum of its weights, so that the first values count
    in full. NaN stays NaN and is left out of the average.

    Args:
        values: [n].
        weight: Of the average so far, 0 (no smoothing) to below 1.

    Returns:
        [n].

    Raises:
        ValueError: The weight is out of range.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1; got {weight}")
    if weight == 0:
        return values
    known = np.flatnonzero(np.isfinite(values))
    made = np.full(len(values), np.nan)
    sums = _decayed_sums(values[known], weight)
    made[known] = sums * (1 - weight) / (1 - weight ** np.arange(1, len(known) + 1))
    return made


def _decayed_sums(values: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """s[i] = values[i] + weight * s[i - 1], by blocks: a matrix within each; what a block
    hands on is such a sum, too."""
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK))
    blocks.flat[: len(values)] = values
    ages = np.arange(BLOCK)[:, None] - np.arange(BLOCK)
    sums = blocks @ np.where(ages >= 0, weight ** np.maximum(ages, 0), 0).T
    if len(sums) > 1:
        carried = _decayed_sums(sums[:-1, -1], weight**BLOCK)
        sums[1:] += carried[:, None] * weight ** np.arange(1, BLOCK + 1)
    return sums.ravel()[: len(values)]
