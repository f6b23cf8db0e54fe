"""Call a function for every job, here or in spawned processes; a bad job costs itself only.

A time limit counts the seconds a job has used: its process's CPU time, and time in which the
process sleeps. Time in which it waits for a core does not count, so a busy machine makes no video
`hung`."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from vidbench.system.files import FULL
from vidbench.system.processes import DiedError, LostError, Pool, result_of

DIED = "its process died: a crash in the decoder, no memory, or a script without `if __name__ == '__main__'`"
# as an outcome: where no worker starts, or one dies before it was heard of
LOST = "the pool of processes broke"
TICK = 0.25  # seconds between two looks at the processes
SLEEPS = 0.05  # of a tick; a process that sleeps uses less CPU time than this


class Bad(Exception):
    """This video cannot be worked on, for the reason given; others can."""


class Done(NamedTuple):
    """The outcome of one job."""

    job: int  # its place in the list of jobs
    value: Any = None
    error: str = ""  # why there is no value
    seconds: float = 0.0  # wall time in its process
    bytes: int = 0  # written
    hung: bool = False  # its process used up its time or died


Outcomes = Generator[Done, None, None]


def unforeseen(error: Exception) -> str:
    """Describe an error that no code expected, with the line it came from.

    Raises:
        OSError: the disk is full, which stops all jobs.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        raise error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said} ({Path(frame.filename).name}, line {frame.lineno})"


def _call(function: Callable, number: int, job: object) -> Done:
    began = time.perf_counter()
    try:
        value, written = function(job)
    except Bad as error:
        return Done(number, error=str(error), seconds=time.perf_counter() - began)
    except Exception as error:
        return Done(number, error=unforeseen(error), seconds=time.perf_counter() - began)
    return Done(number, value, "", time.perf_counter() - began, written)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV use one thread in this process."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def here(function: Callable, jobs: Sequence, order: list[int]) -> Outcomes:
    """Call the function for each job in this process, with one OpenCV thread.

    Args:
        order: The numbers of the jobs to do, in this order.
    """
    with one_thread():
        for number in order:
            yield _call(function, number, jobs[number])


def in_pool(
    function: Callable, jobs: Sequence, order: list[int], workers: int, timeout: float | None
) -> Outcomes:
    """Call the function for each job in spawned processes; one that dies is tried once more.

    Args:
        function: It must be importable, because a spawned process imports it.
        order: The numbers of the jobs to do, in this order.
        workers: The number of processes.
        timeout: Seconds for one job (see the module); None: no limit.

    Raises:
        RuntimeError: no process starts.
    """
    todo, lost = deque(order), deque[int]()
    died, finished = set[int](), 0
    while todo or lost:
        # Any of the lost may have broken the pool, so each runs alone.
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
                    # perhaps not its fault (the kernel's choice when memory ends): once more
                    died.add(outcome.job)
                    (lost if alone else todo).append(outcome.job)
                else:
                    finished += 1
                    yield outcome


def _in_one_pool(
    function: Callable, jobs: Sequence, todo: deque[int], workers: int, timeout: float | None
) -> Outcomes:
    """Run the jobs of `todo` until none is left or the pool is broken; its jobs are then LOST."""
    running: dict[Future, int] = {}
    clock = _Clock(len(jobs))
    with Pool(workers, _start_worker, (clock.pids, function)) as pool:
        while running or todo and pool.active:
            while todo and pool.active and len(running) < 2 * workers + 2:
                number = todo.popleft()
                clock.pids[number] = 0  # a job whose process died begins once more
                running[pool.submit(_timed, function, number, jobs[number])] = number
            # a full disk ends the loop, so what was finished with it comes before
            for future in sorted(wait(running, TICK, FIRST_COMPLETED).done, key=_raised):
                yield _result(future, running.pop(future))
            if timeout is not None and clock.tick(running.values()):
                for future in [f for f, n in running.items() if clock.used[n] > timeout]:
                    if future.cancel():  # stops its process
                        error = f"no end after {timeout:g} s: its process was stopped"
                        yield Done(running.pop(future), error=error, hung=True)


def _raised(future: Future) -> bool:
    return future.cancelled() or future.exception() is not None


def _result(future: Future, number: int) -> Done:
    try:
        return result_of(future)
    except LostError:
        return Done(number, error=LOST, hung=True)
    except DiedError:
        return Done(number, error=DIED, hung=True)


_pids: Any = None  # in a worker: where it writes which job it is at


def _start_worker(pids: Any, function: Callable) -> None:
    """Begin a worker; its modules are imported here, by unpickling the function.

    A worker that imports them with its first job holds pebble's lock meanwhile, and a finished job
    of another worker waits for that lock as if it hung.
    """
    import cv2

    global _pids
    _pids = pids
    cv2.setNumThreads(1)


def _timed(function: Callable, number: int, job: object) -> Done:
    _pids[number] = multiprocessing.current_process().pid
    return _call(function, number, job)


class _Clock:
    """The seconds that each job has used, see the module."""

    def __init__(self, jobs: int) -> None:
        self.pids = RawArray("q", max(1, jobs))  # the process at each job; 0 before it begins
        self.used: dict[int, float] = {}
        self._looks: dict[int, tuple[int, float, float]] = {}  # process, its CPU time, when
        self._due = time.monotonic()

    def tick(self, jobs: Iterable[int]) -> bool:
        """Look at the processes of these jobs; False if the last look was less than TICK ago."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + TICK
        for job in jobs:
            self.used.setdefault(job, 0.0)
            if process := self.pids[job]:
                self._look(job, process, now)
        return True

    def _look(self, job: int, process: int, now: float) -> None:
        try:
            times = psutil.Process(process).cpu_times()
            spent = times.user + times.system
            sleeps = not _wants_a_core(process)
        except (psutil.Error, OSError):
            return  # it ended; the pool says how
        last = self._looks.get(job)
        self._looks[job] = process, spent, now
        if last is None or last[0] != process:
            return
        spent, passed = spent - last[1], now - last[2]
        if sleeps and spent < SLEEPS * passed:
            self.used[job] += min(passed, 2 * TICK)  # more: this process did not get a core itself
        else:
            self.used[job] += min(spent, passed)


def _wants_a_core(process: int) -> bool:
    """Whether a thread of a process runs, waits for a core or was stopped by a signal."""
    threads = list(Path(f"/proc/{process}/task").glob("*/stat"))
    if not threads:
        return psutil.Process(process).status() in (psutil.STATUS_RUNNING, psutil.STATUS_STOPPED)
    states = [file.read_text().rpartition(")")[2].split()[0] for file in threads]
    return any(state in "RTt" for state in states)
