"""What an evaluation found of each video, kept next to a run's results.

    <run>/outcomes/<digest of the protocol's id>.npz    one file for each result of results.json

Two runs are compared from these files (`paired`), without a network, features or videos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.engine.environment import made_by
from vidbench.engine.runs import Run, RunError, protocol_id
from vidbench.evaluate.tables import check_arrays
from vidbench.system.files import written

if TYPE_CHECKING:
    from vidbench.evaluate.probe import Score
    from vidbench.evaluate.retrieval import Tables
    from vidbench.evaluate.search import Neighbors

FOLDER = "outcomes"
# what a file contains: the kind of each array's numbers, and its dimensions
ARRAYS = {
    "metrics": ("U", 1),
    "hits": ("b", 2),
    "predicted": ("i", 1),
    "score": ("f", 1),
    "path": ("U", 1),
    "label": ("i", 1),
    "split": ("i", 1),
    "source_video": ("i", 1),
    "classes": ("U", 1),
    "facts": ("U", 0),
}
ROUNDING = 1e-6  # of a share that results.json has as text


@dataclass(frozen=True)
class Outcome:
    """What one evaluation of a run found of each of N videos.

    Args:
        task, protocol: As in results.json.
        videos: The videos that were tested, in the order of the arrays.
        hits: Metric ("R@1", "top-1") -> whether a video is right [N].
        predicted: Index of the class that was predicted [N]: of a retrieval, that of the nearest
            neighbor; -1 where it is unknown.
        score: Probability of that class, or cosine of that neighbor [N].
        made_by: The vidbench that measured it (environment.made_by).
        checkpoint: Stamp of the weights, see Run.checkpoint_stamp.
    """

    task: str
    protocol: dict[str, Any]
    videos: Manifest
    hits: dict[str, np.ndarray]
    predicted: np.ndarray
    score: np.ndarray
    made_by: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = ""

    def __post_init__(self) -> None:
        count = len(self.videos)
        columns = {**self.hits, "predicted": self.predicted, "score": self.score}
        wrong = {name: len(one) for name, one in columns.items() if np.shape(one) != (count,)}
        if wrong or not count:
            raise ValueError(
                f"an outcome needs one entry for each of its {count} videos (at least one); got "
                f"{wrong}. Pass the manifest of the videos that were tested."
            )
        if self.predicted.min() < -1 or self.predicted.max() >= len(self.videos.classes):
            raise ValueError(
                f"predicted must be -1..{len(self.videos.classes) - 1}; got "
                f"{self.predicted.min()}..{self.predicted.max()}."
            )

    @property
    def metric(self) -> str:
        """The metric that clips are compared by: R@1, else top-1, else the first."""
        return next((one for one in ("R@1", "top-1") if one in self.hits), next(iter(self.hits)))


def of_score(
    task: str, scored: Score, videos: Manifest, extra: Mapping[str, Any] | None = None
) -> Outcome:
    """Make the outcome of class probabilities: top-1, top-5, and the class predicted.

    Args:
        videos: Those that were scored.
        extra: Further switches of the protocol, such as {"fused_with": run}.
    """
    values = scored.probabilities
    hits = {"top-1": scored.right, "top-5": scored.top5}
    predicted, score = values.argmax(axis=1), values.max(axis=1)
    protocol = {**scored.protocol, **(extra or {})}
    return Outcome(task, protocol, videos, hits, predicted, score)


def of_retrieval(
    neighbors: Neighbors,
    hits: Mapping[str, np.ndarray],
    protocol: Mapping[str, Any],
    gallery: Tables,
    videos: Manifest,
) -> Outcome:
    """Make the outcome of a retrieval: R@k, and class and cosine of the nearest neighbor.

    Args:
        neighbors, hits: What was found, see retrieval.Retrieved.
        gallery: The table that was searched, or one of each stream.
        videos: The queries.
    """
    label = (gallery if hasattr(gallery, "label") else gallery[0]).label
    nearest = np.asarray(label)[neighbors.rows[:, 0]]
    score = np.asarray(neighbors.scores[:, 0])
    return Outcome("retrieval", dict(protocol), videos, dict(hits), nearest, score)


def add(run: Run, outcome: Outcome, numbers: Mapping[str, Any]) -> str:
    """Keep an evaluation: its numbers in results.json, and what they are made of.

    Without labels nothing is counted, so nothing is kept of single videos.

    Args:
        numbers: See Run.add_result.

    Returns:
        The protocol's id.

    Raises:
        RunError, BusyError, OSError: See Run.add_result.
    """
    name = run.add_result(outcome.task, outcome.protocol, dict(numbers))
    if outcome.hits:
        _write(run, name, outcome)
    return name


def read(folder: str | Path) -> list[Outcome]:
    """Read the outcomes of a run that belong to its present results, in the order of these.

    Raises:
        RunError: A file is damaged, or its shares are not those of results.json.
    """
    run, found = Run(folder), []
    for name, result in run.results().items():
        path = _path(run, name)
        if path.is_file():
            outcome = _read(path)
            held = protocol_id(outcome.task, outcome.protocol)
            _check(path, name, held, outcome, result.numbers)
            found.append(outcome)
    return found


def _check(path: Path, name: str, held: str, outcome: Outcome, numbers: Mapping[str, Any]) -> None:
    """Raise RunError if an outcome is not what its entry of results.json was counted from."""
    shares = {metric: float(hit.mean()) for metric, hit in outcome.hits.items()}
    known = {
        metric: value[0] if isinstance(value, list | tuple) else value
        for metric, value in numbers.items()
        if metric in shares
    }
    apart = [metric for metric in known if abs(known[metric] - shares[metric]) > ROUNDING]
    if held != name or apart:
        what = f"its {apart[0]} is {shares[apart[0]]:.4f}" if apart else f"it is of {held!r}"
        raise RunError(
            f"{path} does not belong to results.json: {what}, there it is "
            f"{known[apart[0]] if apart else name!r}. Evaluate the run again."
        )


def _path(run: Run, name: str) -> Path:
    return run.folder / FOLDER / f"{blake2b(name.encode(), digest_size=8).hexdigest()}.npz"


def _write(run: Run, name: str, outcome: Outcome) -> None:
    path, videos = _path(run, name), outcome.videos
    path.parent.mkdir(exist_ok=True)
    facts = {
        "task": outcome.task,
        "protocol": outcome.protocol,
        "root": str(videos.root.resolve()),
        "made_by": made_by(),
        "checkpoint": run.checkpoint_stamp() if run.checkpoint() else "",
    }
    with written(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            metrics=np.array(list(outcome.hits), np.str_),
            hits=np.array(list(outcome.hits.values()), bool),
            predicted=outcome.predicted.astype(np.int64),
            score=outcome.score.astype(np.float32),
            path=np.array([str(one) for one in videos.path], np.str_),
            label=videos.label,
            split=videos.split,
            source_video=videos.source_video,
            classes=np.array(videos.classes, np.str_),
            facts=json.dumps(facts),
        )


def _read(path: Path) -> Outcome:
    try:
        check_arrays(path, ARRAYS)
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in ARRAYS}
        facts = json.loads(str(parts["facts"]))
        columns = (parts[name] for name in ("path", "label", "split", "source_video"))
        videos = Manifest(Path(facts["root"]), tuple(map(str, parts["classes"])), *columns)
        hits = dict(zip(map(str, parts["metrics"]), parts["hits"], strict=True))
        arrays = videos, hits, parts["predicted"], parts["score"]
        made = facts["made_by"], facts["checkpoint"]
        return Outcome(facts["task"], facts["protocol"], *arrays, *made)
    except Exception as error:  # on damaged bytes zipfile, zlib, numpy and json raise many kinds
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete it and evaluate the run "
            "again."
        ) from error
