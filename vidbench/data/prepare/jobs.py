"""Run a function over every video of a data set: in parallel, with a cost estimate first.

A job function gets one job (plain values), writes what it writes at once and whole, and returns
(value, bytes written). It raises Bad if this video cannot be worked on and others can; any other
exception costs that video only, too. A process that hangs costs its own video only; that of one
that died is tried once more (see `pool`). A full disk and Ctrl-C stop the work, and what is
finished stays."""

from __future__ import annotations

import errno
import json
import math
import shutil
import stat
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from vidbench.data.prepare import shards
from vidbench.data.prepare.pool import DIED, Bad, Done, Outcomes, here, in_pool
from vidbench.data.video import windows
from vidbench.system import files
from vidbench.system.errors import InputError
from vidbench.system.files import DiskError, explain_full_disk, write_text
from vidbench.system.progress import Progress

TIMEOUT = 600.0  # seconds for one video
MOST_WORKERS = 1024  # more is a slip of the pen: each is a process
__all__ = [
    "DIED",
    "Bad",
    "Cost",
    "Done",
    "Journal",
    "Options",
    "Outcomes",
    "check",
    "claim",
    "duration",
    "size",
    "digest",
    "size_of",
    "stamp",
    "state",
    "work",
]


State = Literal["there", "missing", "changed"]


class Options(TypedDict, total=False):
    """How to work, for every command over a data set."""

    workers: int  # 0 computes in this process, without a time limit; else spawned processes
    timeout: float | None  # seconds per video
    progress: bool  # whether to show a bar or lines


class Cost(NamedTuple):
    """What the rest of the work will take, from the jobs measured first."""

    jobs: int  # still to do
    seconds: float  # wall time with the processes at work
    bytes: float
    free: int  # bytes free where they will be written
    measured: int  # jobs behind the estimate

    def __str__(self) -> str:
        return (
            f"{self.jobs} to go: about {duration(self.seconds)} and {size(self.bytes)} "
            f"({size(self.free)} free); measured on {self.measured}"
        )


def check(options: Options) -> None:
    """Refuse unknown options and values out of range.

    Raises:
        TypeError: an unknown option.
        ValueError: a value out of range.
    """
    if unknown := set(options) - set(Options.__annotations__):
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"unknown options {', '.join(sorted(unknown))}; known are {known}")
    workers, timeout = options.get("workers", 0), options.get("timeout")
    if not 0 <= workers <= MOST_WORKERS:
        raise InputError(f"workers must be 0 to {MOST_WORKERS} processes; got {workers}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise InputError(f"timeout must be a finite number of seconds above 0; got {timeout}")


def duration(seconds: float) -> str:
    """Return seconds in words: 1.5 h, 12 min or 40 s."""
    for limit, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * limit:
            return f"{seconds / limit:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Return bytes in words: 1.2 GB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def claim(file: Path, settings: dict, error: type[Exception], **facts: object) -> None:
    """Write settings into a new folder, or refuse a folder made with other settings.

    Args:
        file: Where settings are written.
        error: The class to raise if `file` has other settings, or is not vidbench's.
        **facts: Further values to write; they are not compared.
    """
    if not file.is_file():
        write_text(file, json.dumps({"settings": settings, **facts}, indent=1) + "\n")
        return
    try:
        there = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise error(f"{file} was not written by vidbench: use another folder") from problem
    differ = [name for name in {**settings, **there} if there.get(name) != settings.get(name)]
    if differ:
        listed = "; ".join(
            f"{n}: there {there.get(n)!r}, wanted {settings.get(n)!r}" for n in differ
        )
        raise error(
            f"{file.parent} was made with other settings ({listed}): use them or another folder"
        )


class Journal:
    """Values by key, a JSON line each, written as they come: what a stopped call found is there for
    the next one. `known` has the other shards' lines, too.

    Args:
        shard: shards.name of the shard that writes.
    """

    def __init__(self, folder: Path, stem: str, shard: str = "") -> None:
        self.known = shards.journaled(folder, stem, shard)
        self._lines = open(folder / f"{stem}{shard}.jsonl", "a", encoding="utf-8")
        # The last line may have been torn; and on a disk that fills up, this takes the room for the
        # first values.
        self._lines.write("\n")
        self._lines.flush()

    def add(self, key: str, **values: object) -> None:
        """Write a value at once.

        Args:
            key: The video's key, such as its path.
            **values: Plain values.
        """
        self.known[key] = values
        self._lines.write(json.dumps({"key": key, **values}) + "\n")
        self._lines.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()


def stamp(file: Path) -> str | None:
    """Read the stamp of a file (see system.files.stamp); None if it does not exist.

    The stamp is empty if the file is there and cannot be read: the work on it will say why.
    """
    try:
        return files.stamp(file) if stat.S_ISREG(file.stat().st_mode) else ""
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # ValueError: no file can have such a name
    except OSError:
        return ""


def size_of(stamp: str) -> int:
    """Return the bytes of a stamped file."""
    return int(stamp.partition("-")[0] or 0)


def digest(settings: dict) -> str:
    """Compute a checksum of settings, for the record of a file that was made with them."""
    return f"{zlib.crc32(json.dumps(settings, sort_keys=True).encode()):08x}"


def state(file: Path, known: dict | None, stamp: str | None, settings: str) -> State:
    """Compare what was made from a video with the video and the settings of now.

    A video that was deleted or cannot be read is no reason to make its file again.

    Args:
        file: What was made.
        known: Its line in the journal, with the source's `stamp`, `settings` and `bytes`.
        stamp: The stamp of the source.
        settings: The digest of the settings.
    """
    try:
        size = file.stat().st_size
    except OSError:
        return "missing"
    if not known or size != known.get("bytes"):
        return "missing"  # half-made, or not all of it is left
    same = known.get("settings") == settings and stamp in (None, "", known.get("stamp"))
    return "there" if same else "changed"


def work(
    function: Callable,
    jobs: Sequence,
    folder: Path,
    *,
    what: str = "work",
    weights: Sequence[float] | np.ndarray | None = None,
    tell: Callable[[Cost], None] | None = None,
    bad: Callable[[Any], bool] = lambda value: False,
    run: Callable[[list[int]], Outcomes] | None = None,
    **options: Unpack[Options],
) -> Outcomes:
    """Do all jobs and yield each result as it comes; raises DiskError before the disk is full.

    The first jobs are an even sample of all. Their cost gives the cost of the rest, scaled by the
    weights (before any work, `estimate` gives it). With workers a script needs the
    `if __name__ == "__main__"` guard.

    Args:
        weights: How much work each job is compared with the others, such as its frames.
        tell: Called with the cost.
        bad: Which values count as failed in the progress bar.
        run: Makes the results from the order of jobs, instead of a loop or a pool of processes.
        options: See `Options`.
    """
    check(options)
    workers = options.get("workers", 0)
    sample, done = min(len(jobs), max(4, 2 * workers)), list[Done]()
    order = _sample_first(len(jobs), sample)
    share = np.ones(len(jobs)) if weights is None else np.asarray(weights, float)
    if run is not None:
        outcomes = run(order)
    elif workers < 1:
        outcomes = here(function, jobs, order)
    else:
        outcomes = in_pool(function, jobs, order, workers, options.get("timeout", TIMEOUT))
    bar = Progress(what, len(jobs), "video", "auto" if options.get("progress", True) else "none")
    with explain_full_disk(folder), bar, closing(outcomes):
        failed = 0
        for outcome in outcomes:
            failed += bool(outcome.error) or bad(outcome.value)
            bar.add(text=f"{failed} failed")
            yield outcome
            if len(done) < sample:
                done.append(outcome)
                if len(done) == sample < len(jobs):
                    _tell(done, share, folder, 1 if run else workers, what, bar, tell)


def _sample_first(count: int, sample: int) -> list[int]:
    """All numbers below count, an even sample of them first: list files are sorted, by class or by
    length."""
    first = windows.spread(count, sample).tolist()
    taken = set(first)
    return first + [i for i in range(count) if i not in taken]


def _tell(
    done: list[Done],
    share: np.ndarray,
    folder: Path,
    workers: int,
    what: str,
    bar: Progress,
    tell: Callable | None,
) -> None:
    finished = share[[outcome.job for outcome in done]].sum()
    rest = float((share.sum() - finished) / max(finished, 1e-9))
    cost = Cost(
        len(share) - len(done),
        rest * sum(o.seconds for o in done) / max(1, workers),
        rest * sum(o.bytes for o in done),
        shutil.disk_usage(folder).free,
        len(done),
    )
    if tell:
        tell(cost)
    bar.note(f"{what}: {cost}")
    if cost.bytes > 0.98 * cost.free:
        raise DiskError(
            errno.EDQUOT,
            f"{what} needs about {size(cost.bytes)} more and {folder} has {size(cost.free)} free: "
            "make room or choose a smaller form; what is finished is kept",
        )
