"""Two runs on the same videos: differences with paired intervals, per class and per clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.engine.runs import RunError
from vidbench.evaluate import outcomes
from vidbench.evaluate.outcomes import Outcome
from vidbench.evaluate.retrieval import summary

# Switches of a run, not of its measurement: two runs may differ in them.
OF_A_RUN = ("stream", "flow", "frames", "stride", "size", "decode_size")
# With a key "training" in the protocol, the run itself trained the classifier.
OF_A_CLASSIFIER = ("head", "backbone", "training", "selection")


@dataclass(frozen=True)
class Difference:
    """A - B of one share: `name` is a metric or a class.

    Args:
        one, other: The shares of A and B.
        videos, sources: How many videos and source videos were counted.
        low, high: 95 % paired bootstrap interval over source videos of A - B, as fractions; None
            if there is only one source video.
    """

    name: str
    one: float
    other: float
    videos: int
    sources: int
    low: float | None = None
    high: float | None = None

    @property
    def gap(self) -> float:
        """A - B."""
        return self.one - self.other

    @property
    def significant(self) -> bool | None:
        """Whether the interval leaves out 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0 <= self.high

    def words(self, names: Sequence[str]) -> str:
        """State the difference as a sentence; names: of A and B."""
        gap = f"{names[0]} - {names[1]} = {100 * self.gap:+.1f} points {self.name}"
        if self.low is None or self.high is None:
            return f"{gap}, without an interval: all {self.videos} videos are of one source video."
        verdict = "significant" if self.significant else "not significant"
        return f"{gap} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]: {verdict}."


@dataclass(frozen=True)
class Paired:
    """Two runs measured alike on the same videos.

    Args:
        names: What A and B are called.
        one, other: What was found of A and of B, videos in the same order.
        metrics: A - B of each metric that both have.
        classes: A - B of each class in `metric`, the largest gain first.
        own: Switches of the runs themselves that differ: name -> values of A and B.
    """

    names: tuple[str, str]
    one: Outcome
    other: Outcome
    metrics: tuple[Difference, ...]
    classes: tuple[Difference, ...]
    own: Mapping[str, tuple[Any, Any]]

    @property
    def metric(self) -> str:
        """The metric of classes and clips."""
        return self.one.metric

    @property
    def sentence(self) -> str:
        """State the difference in `metric`."""
        main = next(one for one in self.metrics if one.name == self.metric)
        return main.words(self.names)

    def moved(self) -> dict[str, np.ndarray]:
        """Return the rows of the videos that A gained and lost, that both and neither have right."""
        left, right = (one.hits[self.metric] for one in (self.one, self.other))
        masks = {
            "gained": left & ~right,
            "lost": ~left & right,
            "both right": left & right,
            "both wrong": ~left & ~right,
        }
        return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def compare(one: str | Path, other: str | Path, task: str = "") -> list[Paired]:
    """Compare two runs in each measurement that both have on the same videos.

    Args:
        one, other: Run directories, A and B.
        task: Only this task (retrieval, probe, classes, finetune); "" takes all.

    Raises:
        RunError: One is no run directory, keeps no outcome of single videos, or no measurement of
            one has the same switches and videos as one of the other; the switch is named.
    """
    places = (Path(one), Path(other))
    names = short_names(*places)
    found = []
    for place in places:
        kept = [out for out in outcomes.read(place) if task in ("", out.task)]
        if not kept:
            of = f" of task {task!r}" if task else ""
            raise RunError(
                f"{place} keeps no predictions of single videos{of}: it was not evaluated, or by "
                "an older vidbench. Evaluate it again, for example by `vidbench compare A B "
                "--evaluate test`, which reads its tables of features where they exist."
            )
        found.append(kept)
    pairs = [(a, b) for a in found[0] for b in found[1] if not _switches(a, b)]
    if not pairs:
        raise RunError(_nearest(names, found))
    return [paired(a, b, names) for a, b in pairs]


def paired(
    one: Outcome, other: Outcome, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> Paired:
    """Compare two outcomes: differences of all metrics and of each class, with intervals.

    Args:
        seed: Of the bootstrap.

    Raises:
        ValueError: They are of other videos, or a switch of the measurement differs.
    """
    if differing := _switches(one, other):
        raise ValueError(
            f"{names[0]} and {names[1]} cannot be compared: {_words(differing)}. Evaluate both "
            "by one protocol on the same videos."
        )
    videos = one.videos
    shared = [name for name in one.hits if name in other.hits]
    every = np.ones(len(videos), bool)
    metrics = [_difference(name, name, (one, other), every, seed) for name in shared]
    classes = [
        _difference(videos.classes[number], one.metric, (one, other), videos.label == number, seed)
        for number in np.unique(videos.label[videos.label >= 0]).tolist()
    ]
    classes.sort(key=lambda found: (-found.gap, found.name))
    own = {
        name: values for name, values in _apart(one, other).items() if name in _own(one.protocol)
    }
    return Paired(names, one, other, tuple(metrics), tuple(classes), own)


def short_names(one: Path, other: Path) -> tuple[str, str]:
    """Name two run directories by the shortest ends of their paths that differ.

    Args:
        one, other: Run directories.

    Raises:
        RunError: They are the same run directory.
    """
    ends = [place.expanduser().resolve().parts for place in (one, other)]
    for length in range(1, max(map(len, ends)) + 1):
        left, right = ("/".join(end[-length:]) for end in ends)
        if left != right:
            return left, right
    raise RunError(f"{one} and {other} are the same run directory. Name two runs.")


def _difference(
    name: str, metric: str, pair: tuple[Outcome, Outcome], where: np.ndarray, seed: int
) -> Difference:
    left, right = (one.hits[metric][where].astype(float) for one in pair)
    sources = pair[0].videos.source_video[where]
    count = len(np.unique(sources))
    ends: tuple[float, ...] = ()
    if count > 1:
        found = summary({"gap": left - right}, seed, by="source_video", source_video=sources)
        ends = found["gap"][1:]
    return Difference(name, float(left.mean()), float(right.mean()), len(left), count, *ends)


def _own(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    return OF_A_RUN + (OF_A_CLASSIFIER if "training" in protocol else ())


def _apart(one: Outcome, other: Outcome) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*one.protocol, *other.protocol])
    pairs = {name: (one.protocol.get(name), other.protocol.get(name)) for name in names}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _switches(one: Outcome, other: Outcome) -> dict[str, tuple[Any, Any]]:
    """What makes two outcomes incomparable: switch -> values of both."""
    if one.task != other.task:
        return {"task": (one.task, other.task)}
    own = {*_own(one.protocol)} & {*_own(other.protocol)}
    found = {name: values for name, values in _apart(one, other).items() if name not in own}
    videos = [(out.videos.classes, out.videos.fingerprint()) for out in (one, other)]
    if not found and videos[0] != videos[1]:
        found["videos"] = (videos[0][1], videos[1][1])
    sources = one.videos.source_video, other.videos.source_video
    if not found and not np.array_equal(sources[0], sources[1]):
        found["source_video"] = len(np.unique(sources[0])), len(np.unique(sources[1]))
    if not found and one.metric not in other.hits:
        found["metrics"] = (", ".join(one.hits), ", ".join(other.hits))
    return found


def _nearest(names: tuple[str, str], found: Sequence[Sequence[Outcome]]) -> str:
    """Name the switches by which the most similar measurements of two runs differ."""
    pairs = [(a, b) for a in found[0] for b in found[1]]
    a, b = min(pairs, key=lambda pair: (pair[0].task != pair[1].task, len(_switches(*pair))))
    task = f" ({a.task})" if a.task == b.task else ""
    return (
        f"{names[0]} and {names[1]} have no measurement{task} by the same protocol on the same "
        f"videos: {_words(_switches(a, b))}. Evaluate both alike."
    )


def _words(differing: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(
        f"{name} is {values[0]!r} and {values[1]!r}" for name, values in differing.items()
    )
