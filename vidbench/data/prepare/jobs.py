"""Work on every video of a data set: spawned processes, a time limit a video, one owner a folder,
the cost told first.

A job function gets one job (plain values), writes what it writes at once and whole, and returns
(value, bytes written). It raises Bad where this video cannot be worked on and others can. A process
that hangs costs its own video only; that of one that died is tried once more (pebble's pool). A
full disk, Ctrl-C or a mistake in the code stop the work, and what is finished stays."""

from __future__ import annotations

import errno
import json
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from vidbench.data.video import windows
from vidbench.system import files
from vidbench.system.files import DiskError, explain_full_disk, write_text
from vidbench.system.processes import DiedError, LostError, Pool, result_of
from vidbench.system.progress import Progress

TIMEOUT = 600.0  # seconds for one video
DIED = "its process died: a crash in the decoder, no memory, or a script without `if __name__ == '__main__'`"
# as an outcome: where no worker starts, or one dies before it was heard of
LOST = "the pool of processes broke"


class Bad(Exception):
    """This video cannot be worked on, for the reason given; others can."""


class Done(NamedTuple):
    """What came of one job."""

    job: int  # its place in the list of jobs
    value: Any = None
    error: str = ""  # why there is no value
    seconds: float = 0.0  # wall time in its process
    bytes: int = 0  # written


Outcomes = Generator[Done, None, None]


class Options(TypedDict, total=False):
    """How to work, for every command over a data set."""

    workers: int  # 0 computes in this process, without a time limit; else spawned processes
    timeout: float | None  # seconds per video
    progress: bool  # whether to show a bar or lines
    dry_run: bool  # measure the first videos, show time and disk, stop


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
            f"({size(self.free)} free); "
            f"measured on {self.measured}"
        )


def duration(seconds: float) -> str:
    """1.5 h, 12 min or 40 s."""
    for limit, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * limit:
            return f"{seconds / limit:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes in words: 1.2 GB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def claim(file: Path, settings: dict, error: type[Exception], **facts: object) -> None:
    """Write settings (and facts beside them) into a new folder, or refuse where other settings are
    there."""
    if not file.is_file():
        write_text(file, json.dumps({"settings": settings, **facts}, indent=1) + "\n")
        return
    there = json.loads(file.read_text(encoding="utf-8"))["settings"]
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
    the next one."""

    def __init__(self, file: Path) -> None:
        self.known: dict[str, dict] = {}
        for text in (
            file.read_text(encoding="utf-8", errors="replace").splitlines()
            if file.is_file()
            else ()
        ):
            try:
                line = json.loads(text or "{}")
                self.known[line.pop("key")] = line
            except (ValueError, KeyError, AttributeError, TypeError):
                continue  # a line that was torn when the disk was full or the machine stopped
        self._lines = open(file, "a", encoding="utf-8")
        if self._lines.tell():
            self._lines.write("\n")  # the last line may have been torn

    def add(self, key: str, **values: object) -> None:
        """Write a value down at once."""
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
    """The bytes of a stamped file."""
    return int(stamp.partition("-")[0] or 0)


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
    weights; `dry_run` stops there. With workers a script needs the `if __name__ == "__main__"`
    guard.

    Args:
        weights: How much work each job is compared with the others, such as its frames.
        tell: Called with the cost.
        bad: Which values count as failed in the progress bar.
        run: Makes the results from the order of jobs, instead of a loop or a pool of processes.
        options: See `Options`.
    """
    workers, dry_run = options.get("workers", 0), options.get("dry_run", False)
    sample, done = min(len(jobs), max(4, 2 * workers)), list[Done]()
    order = _sample_first(len(jobs), sample)
    share = np.ones(len(jobs)) if weights is None else np.asarray(weights, float)
    if run is not None:
        outcomes = run(order)
    elif workers < 1:
        outcomes = _here(function, jobs, order)
    else:
        outcomes = _in_pool(function, jobs, order, workers, options.get("timeout", TIMEOUT))
    chosen = islice(outcomes, sample) if dry_run else outcomes
    bar = Progress(what, len(jobs), "video", "auto" if options.get("progress", True) else "none")
    with explain_full_disk(folder), bar, closing(outcomes):
        failed = 0
        for outcome in chosen:
            failed += bool(outcome.error) or bad(outcome.value)
            bar.add(text=f"{failed} failed")
            yield outcome
            if len(done) < sample:
                done.append(outcome)
                if len(done) == sample and (sample < len(jobs) or dry_run):
                    _tell(done, share, folder, 1 if run else workers, what, bar, tell)
        if dry_run and not jobs:
            _tell([], share, folder, workers, what, bar, tell)


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
            "make "
            "room or choose a smaller form; what is finished is kept",
        )


def _call(function: Callable, number: int, job: object) -> Done:
    began = time.perf_counter()
    try:
        value, written = function(job)
    except Bad as error:
        return Done(number, error=str(error), seconds=time.perf_counter() - began)
    return Done(number, value, "", time.perf_counter() - began, written)


def _here(function: Callable, jobs: Sequence, order: list[int]) -> Outcomes:
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for number in order:
            yield _call(function, number, jobs[number])
    finally:
        cv2.setNumThreads(threads)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)


def _in_pool(
    function: Callable, jobs: Sequence, order: list[int], workers: int, timeout: float | None
) -> Outcomes:
    todo, lost = deque(order), deque[int]()
    died, finished = set[int](), 0
    while todo or lost:
        # Nobody knows who of the lost broke their pool, so each goes on alone.
        alone = bool(lost)
        jobs_now, processes = (
            (deque([lost.popleft()]), 1) if alone else (todo, min(workers, len(jobs)) or 1)
        )
        with closing(_in_one_pool(function, jobs, jobs_now, processes, timeout)) as outcomes:
            for outcome in outcomes:
                if outcome.error == LOST:
                    if not alone:
                        lost.append(outcome.job)
                        continue
                    if not finished:
                        raise RuntimeError(f"no worker process starts: {DIED}")
                    outcome = outcome._replace(error=DIED)
                if outcome.error == DIED and outcome.job not in died:
                    died.add(
                        outcome.job
                    )  # perhaps not its fault (the kernel's choice when memory ends): once more
                    (lost if alone else todo).append(outcome.job)
                else:
                    finished += 1
                    yield outcome


def _in_one_pool(
    function: Callable, jobs: Sequence, todo: deque[int], workers: int, timeout: float | None
) -> Outcomes:
    """What comes of jobs, taken off `todo`, until none is left or the pool is broken; then those it
    had are LOST."""
    running: dict[Future, int] = {}
    with Pool(workers, _start_worker) as pool:
        while running or todo and pool.active:
            while todo and pool.active and len(running) < 2 * workers + 2:
                number = todo.popleft()
                future = pool.submit(_call, function, number, jobs[number], timeout=timeout)
                running[future] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield _result(future, running.pop(future), timeout)


def _result(future: Future, number: int, timeout: float | None) -> Done:
    try:
        return result_of(future)
    except TimeoutError:
        return Done(number, error=f"no end after {timeout:g} s: its process was stopped")
    except LostError:
        return Done(number, error=LOST)
    except DiedError:
        return Done(number, error=DIED)
