"""Trackers that follow a run's log: TensorBoard, Weights & Biases, MLflow.

The json lines in the run directory stay the truth. A tracker gets the same numbers, with the step as
x and the recipe as configuration, from rank 0 alone. One that fails warns once and is left out;
training continues. The packages are optional and are imported when a tracker starts.
"""

import json
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from vidbench.engine.records import read_log, read_record
from vidbench.system.errors import InputError
from vidbench.system.extras import check_installed, needed
from vidbench.system.files import write_text

VARIABLE = "VIDBENCH_TRACK"  # names of trackers, separated by commas
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
LOGS = {"metrics": "train", "monitor": "monitor"}  # a log of a run -> the group of its curves
PROJECT = "vidbench"


class Tracker(Protocol):
    """What a tracker does. Its constructor takes the arguments of `start`."""

    def log(self, step: int, numbers: Mapping[str, float], when: float) -> None:
        """Add numbers at a step.

        Args:
            numbers: Name -> value.
            when: Seconds since 1970.
        """

    def close(self, state: str) -> None:
        """End with the run's state: complete, interrupted or failed."""


def chosen(text: str | None = None) -> tuple[str, ...]:
    """Read names of trackers; without a text those of VIDBENCH_TRACK.

    Raises:
        InputError: A tracker is unknown.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in PACKAGES:
            raise InputError(
                f"track must be names of {', '.join(PACKAGES)}, separated by commas; got {name!r}."
            )
    return names


def check(text: str) -> None:
    """Check that trackers are known and installed.

    Raises:
        InputError: A tracker is unknown.
        ImportError: Its package is missing.
    """
    for name in chosen(text):
        check_installed(PACKAGES[name], "track")


class Followers:
    """The trackers of a run. None of their errors reaches the caller."""

    def __init__(self, makers: Mapping[str, Callable[[], Tracker]]) -> None:
        self.open: dict[str, Tracker] = {}
        for name, make in makers.items():
            with self._warned(name):
                self.open[name] = make()

    def log(self, log: str, step: int, numbers: Mapping[str, Any]) -> None:
        """Add a line of a run's log to all trackers.

        Args:
            log: metrics or monitor.
            numbers: The line; trackers get its numbers without `step`.
        """
        named = _named(log, numbers)
        for name, tracker in [*self.open.items()]:
            with self._warned(name):
                tracker.log(step, named, time.time())

    def close(self, state: str) -> None:
        """End all trackers with the run's state."""
        for name, tracker in [*self.open.items()]:
            with self._warned(name):
                tracker.close(state)
        self.open = {}

    def _warned(self, name: str) -> "_Warned":
        return _Warned(self.open, name)


class _Warned:
    """A block whose error becomes a warning, once: the tracker is then left out."""

    def __init__(self, open_: dict[str, Tracker], name: str) -> None:
        self.open, self.name = open_, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self.open.pop(self.name, None)
        warnings.warn(
            f"{self.name} failed: {type(error).__name__}: {error} Training continues without it. "
            f"`vidbench runs export --to {self.name} OUT RUN` replays the run's log later.",
            stacklevel=2,
        )
        return True


def _named(log: str, line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log's line by the names of their curves."""
    return {
        f"{LOGS[log]}/{name}": float(value)
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    }


def start(
    name: str, folder: Path, title: str, recipe: Mapping[str, Any], known: str, step: int
) -> Tracker:
    """Start a tracker.

    Args:
        folder: Where its files go, in a subfolder named after it.
        title: The run's name.
        recipe: The run's recipe, plain values.
        known: The run's id: a later call with the same one continues the tracker's run.
        step: The run continues after this step; -1 is a new one.
    """
    kinds: dict[str, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "mlflow": _Mlflow,
    }
    return kinds[name](folder, title, recipe, known, step)


def follow(folder: Path, recipe: Mapping[str, Any], step: int) -> Followers:
    """Start the trackers that VIDBENCH_TRACK names for a run directory.

    Args:
        folder: The run directory.
        recipe: The run's recipe, plain values.
        step: The step from which the run resumes; -1 is a new run.

    Raises:
        InputError: A tracker is unknown.
        RunError: track.json is damaged.
    """
    names = chosen()
    if not names:
        return Followers({})
    kept = folder / "track.json"
    if not kept.exists():
        write_text(kept, json.dumps({"id": uuid.uuid4().hex[:12]}))
    known = str(read_record(kept, "Delete it: trackers then begin a new run.").get("id", ""))
    title = f"{folder.parent.name}/{folder.name}"
    given = (folder, title, recipe, known, step)
    return Followers({name: partial(start, name, *given) for name in names})


def replay_all(runs: Iterable[Path], names: Iterable[str], out: str | Path) -> dict[Path, int]:
    """Write the logs of run directories for trackers, each into its own folder below `out`.

    Args:
        names: Trackers, such as tensorboard.

    Returns:
        Run directory -> the number of lines in its logs.

    Raises:
        InputError: A folder below `out` already has files of such a tracker.
        RunError: A recipe is damaged, or no line of a log is readable.
        ImportError: A tracker's package is missing.
    """
    places = {run: run.resolve() for run in runs}
    above = Path(os.path.commonpath([place.parent for place in places.values()]))
    folders = {run: Path(out).expanduser() / places[run].relative_to(above) for run in places}
    names = tuple(names)
    for there in (folder / name for folder in folders.values() for name in names):
        if there.exists():
            raise InputError(f"{there} already exists. Use another folder, or delete it.")
    return {run: _replay(run, names, folder) for run, folder in folders.items()}


def _replay(run: Path, names: Iterable[str], folder: Path) -> int:
    recipe = read_record(run / "recipe.json", "Restore it from a copy.").get("recipe", {})
    lines = [(log, line) for log in LOGS for line in read_log(run / f"{log}.jsonl")]
    seconds = [line.get("seconds", 0.0) for log, line in lines if log == "metrics"]
    end = (run / "metrics.jsonl").stat().st_mtime if seconds else 0.0
    given = (folder, f"{folder.parent.name}/{folder.name}", recipe, uuid.uuid4().hex[:12], -1)
    for tracker in (start(name, *given) for name in names):
        passed = 0.0  # a line of the monitor has no time: it comes right after those of its step
        for log, line in sorted(lines, key=lambda one: (one[1]["step"], one[0] == "monitor")):
            passed = line.get("seconds", passed)
            when = end - seconds[-1] + passed if seconds else time.time()
            tracker.log(line["step"], _named(log, line), when)
        tracker.close("complete")
    return len(lines)


# ---- the trackers ------------------------------------------------------------------------------


class _TensorBoard:
    """Event files in FOLDER/tensorboard. A resumed run hides what came after its checkpoint."""

    def __init__(self, folder: Path, title: str, recipe: Mapping, known: str, step: int) -> None:
        needed("tensorboard", "track")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        if step < 0:
            self.writer.add_text("recipe", f"```\n{json.dumps(recipe, indent=1)}\n```", 0)

    def log(self, step: int, numbers: Mapping[str, float], when: float) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step, when)
        self.writer.flush()

    def close(self, state: str) -> None:
        self.writer.close()


class _Wandb:
    """Weights & Biases; offline in FOLDER/wandb unless WANDB_MODE says otherwise.

    `wandb sync` uploads it; a resumed run has a second folder with the same id (--append)."""

    def __init__(self, folder: Path, title: str, recipe: Mapping, known: str, step: int) -> None:
        wandb = needed("wandb", "track")
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=known,
            resume="allow",
            config=dict(recipe),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, numbers: Mapping[str, float], when: float) -> None:
        self.run.log({**numbers, "_timestamp": when}, step=step)

    def close(self, state: str) -> None:
        self.run.finish(exit_code=0 if state == "complete" else 1)


class _Mlflow:
    """MLflow: the server or folder of MLFLOW_TRACKING_URI, else files in FOLDER/mlflow."""

    STATES = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def __init__(self, folder: Path, title: str, recipe: Mapping, known: str, step: int) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve() / "mlflow").as_uri()
        if uri.startswith("file:"):  # MLflow prefers a database, which needs a server's packages
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        needed("mlflow", "track")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self.metric, self.client = Metric, MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self.client.get_experiment_by_name(name)
        number = there.experiment_id if there else self.client.create_experiment(name)
        before = self.client.search_runs([number], f"tags.`vidbench.id` = '{known}'")
        if before:
            self.run = before[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        tags = {"vidbench.id": known}
        self.run = self.client.create_run(number, run_name=title, tags=tags).info.run_id
        settings = [Param(_plain(key), text) for key, text in _leaves(recipe)]
        for first in range(0, len(settings), 100):  # its limit for a call
            self.client.log_batch(self.run, params=settings[first : first + 100])

    def log(self, step: int, numbers: Mapping[str, float], when: float) -> None:
        stamp = round(1000 * when)
        made = [self.metric(_plain(name), value, stamp, step) for name, value in numbers.items()]
        self.client.log_batch(self.run, metrics=made)

    def close(self, state: str) -> None:
        self.client.set_terminated(self.run, self.STATES.get(state, "FAILED"))


def _plain(name: str) -> str:
    """A name of the signs that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain values as (dotted name, text)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
