"""What all replications share: paired arms, one bootstrap, the csv and parts of the report.

A replication trains every arm once per repetition: a seed, or a fold of the data set. All arms of a
repetition have the same test videos. One bootstrap serves them all: a draw takes repetitions with
replacement and, within each, source videos with all their test videos. With x_d(A) the mean of arm
A in draw d, the interval of A - B holds the middle 95 % of x_d(A) - x_d(B): what makes a draw hard
for both arms cancels. The difference is significant if the interval excludes 0.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.engine.environment import environment
from vidbench.engine.runs import Run
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import classified
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol
from vidbench.methods.common import data_set
from vidbench.system.files import write_text
from vidbench.system.processes import cores
from vidbench.system.processes import run_all as in_pool
from vidbench.system.progress import Progress
from vidbench.tensors.metrics import interval, nested_bootstrap
from vidbench.view.figures import Bar
from vidbench.view.html import Section, table, write_page


@dataclass(frozen=True)
class Number:
    """A mean over repetitions with its 95 % interval: of an arm, or of an arm minus another.

    low, high: None if the number has no interval. each: the value of each repetition, None if it
    does not exist there.
    """

    data: str
    arm: str
    minus: str
    metric: str
    value: float
    low: float | None
    high: float | None
    each: tuple[float | None, ...]

    @property
    def percent(self) -> tuple[float, ...]:
        """Value, low and high times 100, as a cell of a table."""
        return tuple(100 * end for end in (self.value, self.low, self.high) if end is not None)

    def each_percent(self, sign: str = "") -> str:
        """Each repetition's value times 100 as text; sign "+" also shows a plus."""
        return "  ".join("-" if one is None else f"{100 * one:{sign}.1f}" for one in self.each)

    def bar(self, method: str, group: str) -> Bar:
        """The number as a bar or a dot of a figure."""
        return Bar(method, group, self.value, self.low, self.high)


def plain(data: str, arm: str, metric: str, each: Iterable[float]) -> Number:
    """A mean over repetitions without an interval, such as seconds."""
    each = tuple(map(float, each))
    return Number(data, arm, "", metric, float(np.mean(each)), None, None, each)


def pick(numbers: Iterable[Number], **wanted: str) -> list[Number]:
    """The numbers whose fields have the wanted values."""
    return [
        number
        for number in numbers
        if all(getattr(number, name) == value for name, value in wanted.items())
    ]


class Paired:
    """All arms on the same test videos, and the bootstrap draws that they share."""

    def __init__(
        self,
        hits: Sequence[Mapping[str, np.ndarray]],
        source_videos: Sequence[np.ndarray],
        metric: str,
        *,
        data: str = "",
        shared: bool = False,
    ):
        """Draw once for all arms.

        Args:
            hits: of each repetition arm -> hit or score of each test video [N].
            sources: of each repetition the source video of each test video [N].
            metric: what the hits measure; data: on which data set.
            shared: all repetitions have the same test videos, so a draw takes the same sources.
        """
        arms, self.metric, self.data = list(hits[0]), metric, data
        parts = [torch.stack([torch.as_tensor(one[arm]) for arm in arms]) for one in hits]
        groups = [torch.as_tensor(source_video) for source_video in source_videos]
        draws = nested_bootstrap(parts, groups, seed=0, shared=shared)
        each = torch.stack([part.double().mean(dim=1) for part in parts])
        self.draws = dict(zip(arms, draws.T, strict=True))
        self.each = dict(zip(arms, each.T, strict=True))

    def mean(self, arm: str) -> Number:
        """The arm's mean over repetitions."""
        each = self.each[arm]
        return self._number(arm, "", self.metric, float(each.mean()), each, self.draws[arm])

    def difference(self, arm: str, minus: str) -> Number:
        """The mean of one arm minus that of another."""
        each, draws = (of[arm] - of[minus] for of in (self.each, self.draws))
        return self._number(arm, minus, self.metric, float(each.mean()), each, draws)

    def share(self, low: str, middle: str, high: str) -> Number:
        """How much of the gap between two arms a third one closes: (middle - low) / (high - low).

        The value is the ratio of the means. A draw or repetition without a gap has no share.
        """
        of = {arm: each.mean() for arm, each in self.each.items()}
        value = float((of[middle] - of[low]) / (of[high] - of[low]))
        each, draws = (
            (of[middle] - of[low]) / torch.where(of[high] == of[low], torch.nan, of[high] - of[low])
            for of in (self.each, self.draws)
        )
        ends = f"gap from {low} to {high}"
        return self._number(middle, ends, f"{self.metric}, share closed", value, each, draws)

    def _number(
        self, arm: str, minus: str, metric: str, value: float, each: Tensor, draws: Tensor
    ) -> Number:
        values = tuple(None if np.isnan(one) else one for one in each.tolist())
        return Number(self.data, arm, minus, metric, value, *interval(draws), values)


@dataclass(frozen=True)
class Measured:
    """What one run of supervised training is worth on one data set."""

    hits: dict[str, np.ndarray]  # by test: whether the first guess of each test video is right [N]
    source_video: np.ndarray  # the source video of each test video [N]
    train: float  # top-1 of training videos, one view
    seconds: float  # of training
    table: Features  # class probabilities of the last test


def tested(folder: str, views: Mapping[str, Protocol], data: str = "") -> Measured:
    """Test one run, or its head of the data set `data`, on the held-out videos by each protocol."""
    run = Run(folder)
    held_out = Manifest.load(data_set(run, data).manifest).held_out()
    found = classified(folder, held_out, views, data=data)
    one_view = {"one view": PROTOCOLS["one_view"]}
    (seen,) = classified(folder, "train", one_view, data=data).values()
    hits = {name: one.right for name, one in found.items()}
    table = list(found.values())[-1].table
    return Measured(hits, table.source_video, seen.accuracy, run.metrics()[-1]["seconds"], table)


def tested_all(jobs: Mapping[tuple, tuple], processes: int, what: str) -> dict[tuple, Measured]:
    """Call `tested` with each job's arguments in spawned processes; the results by the jobs' keys."""
    threads, tasks = max(1, cores() // processes), list(jobs.values())
    with Progress(what, len(tasks), "run") as bar:
        done = in_pool(
            tested, tasks, processes, torch.set_num_threads, (threads,), lambda _: bar.add()
        )
    return dict(zip(jobs, done, strict=True))


def extract_flow(
    manifest: Manifest, folder: Path, method: str, size: int | None, processes: int
) -> None:
    """Compute the flow of every video into `folder`; what is there is kept.

    Raises:
        RuntimeError: A video failed.
    """
    made = flow_store.extract(manifest, folder, method, size=size, workers=processes)
    if made.failed:
        raise RuntimeError(
            f"flow failed on {len(made.failed)} videos, first {made.failed[0]}; repair or drop "
            "them."
        )


class Replication:
    """One call of a replication: trains all runs, then writes numbers and report into its folder.

    The same call resumes: complete runs are neither trained nor tested again.
    """

    def __init__(self, out: str | Path):
        """Start the clock; all runs go below the folder `out`."""
        self.out, self.began = Path(out).resolve(), time.monotonic()  # runs name parents by path
        self.recipes: Mapping[str, object] = {}

    def train(self, recipes: Mapping[str, object], processes: int) -> None:
        """Train run name -> recipe, the most important first."""
        self.recipes = recipes
        print(f"{len(recipes)} runs below {self.out}", flush=True)
        run_all(recipes, self.out, processes)

    def write(
        self,
        title: str,
        facts: Mapping,
        numbers: Sequence[Number],
        sections: Callable[[Mapping, Sequence[Number]], list[Section]],
    ) -> Path:
        """Write numbers.json, numbers.csv and report.html.

        Args:
            facts: what numbers.json keeps about the experiment.
            sections: makes the report's sections from facts and numbers.

        Returns:
            The path of the report.
        """
        seconds = [Run(self.out / name).metrics()[-1]["seconds"] for name in self.recipes]
        made = {
            "environment": environment(),
            "training": round(sum(seconds)),
            "seconds": round(time.monotonic() - self.began),
        }
        record = {**made, **facts, "numbers": [asdict(number) for number in numbers]}
        write_text(self.out / "numbers.json", json.dumps(record, indent=1))
        write_text(self.out / "numbers.csv", as_csv(numbers))
        pages = [*sections(facts, numbers), _how_made(made)]
        return write_page(self.out / "report.html", title, pages)


def as_csv(numbers: Iterable[Number]) -> str:
    """All numbers as the text of a csv, a line each; `each` has a blank between repetitions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(Number)])
    for number in numbers:
        *words, value, low, high, each = astuple(number)
        ends = (_digits(one) for one in (value, low, high))
        writer.writerow([*words, *ends, " ".join(_digits(one) or "-" for one in each)])
    return file.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _how_made(facts: Mapping) -> Section:
    machine = facts["environment"]
    rows = [
        {"what": "training, all processes", "hours": round(facts["training"] / 3600, 2)},
        {"what": "last call, wall", "hours": round(facts["seconds"] / 3600, 2)},
    ]
    note = f"{machine['cores']} cores, {machine['device']}."
    return Section("How it was made", [table(rows, note=note)])
