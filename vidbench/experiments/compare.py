"""What all replications share: tests of runs, the csv and parts of the report.

`paired` has the numbers and their intervals, `records` the file of tested runs.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.engine.environment import environment
from vidbench.engine.runs import Run
from vidbench.engine.stages import run_all
from vidbench.evaluate.evaluate import classified
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol
from vidbench.experiments.paired import Number as Number
from vidbench.experiments.paired import Paired as Paired
from vidbench.experiments.paired import pick as pick
from vidbench.experiments.paired import plain as plain
from vidbench.experiments.paired import spread as spread
from vidbench.methods.common import data_set
from vidbench.system.files import write_text
from vidbench.system.processes import cores
from vidbench.system.processes import run_all as in_pool
from vidbench.system.progress import Progress
from vidbench.tensors.metrics import calibration_error, cross_entropy
from vidbench.view.html import Section, table, write_page


@dataclass(frozen=True)
class Measured:
    """The measures of one supervised run on one data set.

    hits, labels, sources, loss and calibration are by test: whether the first guess of each test
    video is right [N], its label [N] and source video [N], cross-entropy in nats, and the
    calibration error (tensors.metrics, 15 bins), both of the mean probabilities over views.
    """

    hits: dict[str, np.ndarray]
    source_video: np.ndarray  # the source video of each video of the last test [N]
    train: float  # top-1 of training videos, one view, without augmentation
    seconds: float  # of training
    table: Features  # class probabilities of the last test
    train_loss: float = float("nan")  # cross-entropy of the same
    steps: int = 0
    loss: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, np.ndarray] = field(default_factory=dict)


def tested(
    folder: str, views: Mapping[str, Protocol], data: str = "", apart: Mapping[str, str] = {}
) -> Measured:
    """Test one run, or its head of the data set `data`, on the held-out videos by each protocol.

    Args:
        folder: The run directory.
        views: Test -> protocol.
        data: The data set of the head; may be empty if the run has one.
        apart: Further tests by one view: name -> folder of a manifest, whose held-out split counts.
    """
    run = Run(folder)
    held_out = Manifest.load(data_set(run, data).manifest).held_out()
    one_view = {"one view": PROTOCOLS["one_view"]}
    found = {}
    for name, place in apart.items():
        others = Manifest.load(place)
        split = others.held_out()
        scores = classified(folder, split, one_view, manifest=others, task=name, data=data)
        (found[name],) = scores.values()
    found |= classified(folder, held_out, views, data=data)
    (seen,) = classified(folder, "train", one_view, data=data).values()
    tables = {name: one.table for name, one in found.items()}
    last, table = run.metrics()[-1], list(tables.values())[-1]
    return Measured(
        hits={name: one.right for name, one in found.items()},
        source_video=table.source_video,
        train=seen.accuracy,
        seconds=last["seconds"],
        table=table,
        train_loss=loss_of(seen.table),
        steps=last["step"],
        loss={name: loss_of(one) for name, one in tables.items()},
        calibration={name: calibration_of(one) for name, one in tables.items()},
        labels={name: one.label for name, one in tables.items()},
        sources={name: one.source_video for name, one in tables.items()},
    )


def loss_of(table: Features) -> float:
    """Compute the cross-entropy of class probabilities in nats."""
    return float(cross_entropy(torch.from_numpy(table.values), torch.from_numpy(table.label)))


def calibration_of(table: Features) -> float:
    """Compute the expected calibration error of class probabilities."""
    return float(calibration_error(torch.from_numpy(table.values), torch.from_numpy(table.label)))


def tested_all(jobs: Mapping[tuple, tuple], processes: int, what: str) -> dict[tuple, Measured]:
    """Call `tested` with each job's arguments in spawned processes; return the results by key.

    Args:
        jobs: Key -> arguments of `tested`.
        what: The words of the progress bar.
    """
    threads, tasks = max(1, cores() // processes), list(jobs.values())
    with Progress(what, len(tasks), "run") as bar:
        done = in_pool(
            tested, tasks, processes, torch.set_num_threads, (threads,), lambda _: bar.add()
        )
    return dict(zip(jobs, done, strict=True))


def extract_flow(
    manifest: Manifest, folder: Path, method: str, size: int | None, processes: int
) -> None:
    """Compute the flow of every video into `folder`; existing flow is kept.

    Args:
        folder: The flow store.
        method: Of data.flow.
        size: Pixels of the short side at which flow is computed; None keeps the video's.

    Raises:
        RuntimeError: A video failed.
    """
    made = flow_store.extract(manifest, folder, method, size=size, workers=processes)
    if made.failed:
        raise RuntimeError(
            f"flow failed on {len(made.failed)} videos, the first is {made.failed[0]}. Repair or "
            "drop them."
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
        """Train all runs, the most important first.

        Args:
            recipes: Run name -> recipe.
        """
        self.recipes = recipes
        print(f"{len(recipes)} runs below {self.out}", flush=True)
        run_all(recipes, self.out, processes)

    def write(
        self,
        title: str,
        facts: Mapping,
        numbers: Sequence[Number],
        sections: Callable[[Mapping, Sequence[Number]], list[Section]],
        *,
        training: float | None = None,
        page: str = "",
    ) -> Path:
        """Write numbers.json, numbers.csv, report.html and, if there is a page, page.md.

        Args:
            facts: What numbers.json stores about the experiment.
            sections: Makes the report's sections from facts and numbers.
            training: Seconds of all runs; None reads them from the runs.
            page: Markdown tables with verdicts, for a results page.

        Returns:
            The path of the report.
        """
        if training is None:
            logs = [Run(self.out / name).metrics()[-1] for name in self.recipes]
            training = sum(log["seconds"] for log in logs)
        made = {
            "environment": environment(),
            "training": round(training),
            "seconds": round(time.monotonic() - self.began),
        }
        record = {**made, **facts, "numbers": [asdict(number) for number in numbers]}
        write_text(self.out / "numbers.json", json.dumps(record, indent=1))
        write_text(self.out / "numbers.csv", as_csv(numbers))
        if page:
            write_text(self.out / "page.md", page)
        pages = [*sections(facts, numbers), _how_made(made)]
        return write_page(self.out / "report.html", title, pages)


def as_csv(numbers: Iterable[Number]) -> str:
    """Format all numbers as a csv, a line each; `each` has a blank between repetitions."""
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
