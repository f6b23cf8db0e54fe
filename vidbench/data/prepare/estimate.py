"""Estimate time and disk of a command from a bounded slice of its videos; nothing is written.

A sample of the videos is measured, of each at most some frames and some seconds (`Slice`), and
extrapolated to the whole video by whoever measures. So the cost of a call does not depend on how long
or how large the videos are. With processes, one of them measures, and it is stopped if the time is
over before it answers."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vidbench.data.prepare.jobs import duration, size
from vidbench.data.prepare.pool import one_thread
from vidbench.data.video import windows
from vidbench.system.processes import DiedError, Pool, cores, result_of

SECONDS = 12.0  # wall time of all measurements of a command; with start and stop less than 15
VIDEOS = 8  # in the sample
FRAMES = 64  # of each, at most
SHARE = 0.6  # of the time left: a video whose last frame is slow shall still answer before the end
T = TypeVar("T")


class Slice(NamedTuple):
    """How much of one video to measure. What is written goes into the folder `scratch`."""

    scratch: str
    frames: int
    seconds: float

    def of(self, frames: Iterable[T]) -> Iterator[T]:
        """Yield the first frames, at least one, until there are enough or the time is over."""
        end = time.perf_counter() + self.seconds
        for number, frame in enumerate(frames, 1):
            yield frame
            if number >= self.frames or time.perf_counter() > end:
                return


class Pace(NamedTuple):
    """What one whole video takes, extrapolated from the frames that were measured."""

    frames: int  # measured
    seconds: float
    bytes: float


Measure = Callable[[Any, Slice], Pace]  # of a job; an importable function, or a partial of one


class Cost(NamedTuple):
    """What the work will take."""

    jobs: int  # videos to do
    seconds: float  # wall time with all processes at work; NaN if nothing could be measured
    bytes: float
    free: int  # bytes free where they will be written
    videos: int  # that were measured
    frames: int
    problem: str = ""  # why nothing could be measured

    def __str__(self) -> str:
        if not self.jobs:
            return "0 to go"
        if not self.videos:
            return f"{self.jobs} to go; no estimate: {self.problem}"
        fits = "" if self.bytes < self.free else ", which is too little"
        return (
            f"{self.jobs} to go: about {duration(self.seconds)} and {size(self.bytes)} "
            f"({size(self.free)} free{fits}); "
            f"measured on {_count(self.frames, 'frame')} of {_count(self.videos, 'video')}"
        )


class Estimator:
    """A context manager that measures within a time limit.

    Args:
        workers: 0 measures in this process, which stops between two frames; else in another one,
            which can be stopped at any time. The work is divided among so many.
        seconds: The limit of everything measured.
        videos: How many to measure.
        frames: How many of each, at most.
    """

    def __init__(
        self, workers: int, seconds: float = SECONDS, videos: int = VIDEOS, frames: int = FRAMES
    ) -> None:
        self.workers, self.videos, self.frames = workers, videos, frames
        self.end = time.monotonic() + seconds
        self._stack = ExitStack()

    def __enter__(self) -> Estimator:
        self.scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vidbench-"))
        self._pool = self._stack.enter_context(Pool(1, _one_thread)) if self.workers else None
        if self._pool:
            wait([self._pool.submit(_one_thread)], self.end - time.monotonic())  # it has started
        else:
            self._stack.enter_context(one_thread())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def cost(
        self,
        measure: Measure,
        jobs: Sequence,
        folder: Path,
        *,
        weights: Sequence[float] | None = None,
        part: float = 1.0,
        parallel: bool = True,
    ) -> Cost:
        """Estimate what all jobs take.

        Args:
            folder: Where the work will write; it need not exist.
            weights: How much work each job is compared with the others, such as its frames.
            part: The part of the remaining time that may be used. The first video may use all of it.
            parallel: Whether the workers divide the work among them.
        """
        order = windows.spread(len(jobs), min(len(jobs), self.videos)).tolist()
        end = time.monotonic() + part * max(0.0, self.end - time.monotonic())
        paces: dict[int, Pace] = {}
        problem = ""
        for place, number in enumerate(order):
            left = end - time.monotonic()
            if left <= 0 and place:
                break
            sample = Slice(self.scratch, self.frames, SHARE * max(0.0, left) / (len(order) - place))
            pace = self._measured(measure, jobs[number], sample)
            if isinstance(pace, Pace):
                paces[number] = pace
            else:
                problem = pace
        share = np.ones(len(jobs)) if weights is None else np.asarray(weights, float)
        whole = float(share.sum() / max(share[list(paces)].sum(), 1e-9)) if paces else math.nan
        used = min(self.workers, cores()) if parallel else 1
        return Cost(
            len(jobs),
            whole * sum(pace.seconds for pace in paces.values()) / max(1, used),
            whole * sum(pace.bytes for pace in paces.values()),
            shutil.disk_usage(_existing(folder)).free,
            len(paces),
            sum(pace.frames for pace in paces.values()),
            problem,
        )

    def _measured(self, measure: Measure, job: Any, sample: Slice) -> Pace | str:
        """The pace of a job, or why there is none."""
        left = self.end - time.monotonic()
        if left <= 0:
            return "no time was left to measure it; estimate it alone"
        if self._pool is None:
            return _tried(measure, job, sample)
        future = self._pool.submit(_tried, measure, job, sample)
        if wait([future], left).not_done:
            future.cancel()  # stops its process
            return "its first frames took longer than the time limit; try a smaller size"
        try:
            return result_of(future)
        except DiedError as error:
            return str(error)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tried(measure: Measure, job: Any, sample: Slice) -> Pace | str:
    """Measure; a video that fails costs the estimate nothing but itself."""
    try:
        return measure(job, sample)
    except Exception as error:  # as in pool.here: any error is of its video only
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
