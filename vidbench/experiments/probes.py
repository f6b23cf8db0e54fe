"""Functions of notebook 40: linear probes on stored features, end to end, and of both streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidbench.data.manifest import Manifest
from vidbench.engine import ranks, runs
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes, probe
from vidbench.evaluate.features import Features, Protocol, load_or_extract
from vidbench.evaluate.probe import Score
from vidbench.experiments.sweep import sweep
from vidbench.methods import classify
from vidbench.system.processes import cores

END = "end to end"
# the values that `tune` tries
GRID: dict[str, Sequence[float]] = {
    "lr": (0.1, 0.3, 1.0),
    "weight_decay": (1e-4, 1e-3),
}
HELD_OUT = 0.2  # the share of train's source videos on which `tune` chooses
MANY = 1000  # with more videos, several processes read them
Found = dict[tuple[str, str], Score]  # (run, probe) -> score with its numbers


def stored(tables: Mapping[str, tuple[Features, Features]]) -> Found:
    """Probe stored features by logistic regression, and by the released code's SGD.

    Args:
        tables: Run -> features of the training videos and of the test videos.
    """
    found = {}
    for name, (train, test) in tables.items():
        found[name, "logistic"] = _numbered(probe.logistic(train, test))
        found[name, "released"] = _numbered(probe.released(train, test))
    return found


def _numbered(score: Score) -> Score:
    return replace(score, numbers=probe.numbers(score, by="source_video"))


def trial_rows(score: Score) -> list[dict[str, Any]]:
    """List the released probe's accuracy on held-out sources by rate and decay: rows of a table."""
    rows = []
    for rate in probe.Released().lrs:
        tried = [one for one in score.trials if one["lr"] == rate]
        cells = {f"decay {one['weight_decay']:g}": one["accuracy"] for one in tried}
        rows.append({"rate": rate, **cells})
    return rows


def end_to_end(
    trained: Mapping[str, Run], place: Path, preset: str, tune: bool
) -> tuple[dict[str, Run], list[dict[str, Any]]]:
    """Train a linear layer on each frozen backbone, with augmented clips.

    Args:
        trained: Runs by name.
        place: The folder of the data set's videos, flow and runs.
        preset: A name in classify.PRESETS; empty trains nothing.
        tune: Choose rate and decay on source videos held out of train, then train on all of it.

    Returns:
        The probes' runs by the same names, and the trials: rows of a table.
    """
    ends: dict[str, Run] = {}
    trials: list[dict[str, Any]] = []
    for name, run in trained.items() if preset else ():
        head = "linear" if preset == "probe_paper" else "norm_linear"
        base = replace(
            classify.PRESETS[preset],
            freeze=True,
            head=head,
            manifest=str(place / "videos"),
            flow=str(place / "flow"),
        )
        recipe = classify.starting_from(base, run)
        folder = place / f"probe-{run.folder.name}"
        if tune:
            kept = replace(recipe, held_out=HELD_OUT)
            swept = sweep(kept, GRID, place / f"sweep-{run.folder.name}", nproc=0)
            trials += [{"run": name, **trial.row} for trial in swept.trials]
            folder = Path(swept.run)
        else:
            values = runs.recipe_dict(recipe)
            ranks.launch("vidbench.methods.classify:train", values, str(folder), nproc=0)
        ends[name] = Run(folder)
    return ends, trials


def training_curves(ends: Mapping[str, Run]) -> dict[str, tuple[list, list]]:
    """Return the accuracy over epochs of each probe, in training and on rows held out of it."""
    lines = {}
    for name, run in ends.items():
        for log, words in (("metrics", "training"), ("monitor", "held out")):
            if held := run.curves(log):
                lines[f"{name}, {words}"] = held["epoch"], held["accuracy"]
    return lines


def tested(ends: Mapping[str, Run], manifest: Manifest, protocol: Protocol, flow: Path) -> Found:
    """Test the probes trained end to end on the held-out videos.

    Args:
        ends: What `end_to_end` returns.
        flow: The flow store.
    """
    workers = min(16, cores()) if len(manifest) > MANY else 0
    found = {}
    for name, run in ends.items():
        inputs: dict[str, Any] = {"manifest": manifest, "flow": flow, "workers": workers}
        table = load_or_extract(run, manifest.held_out(), protocol, what="probabilities", **inputs)
        found[name, END] = _numbered(probe.score(table))
    return found


def fused(found: Found, one: str, other: str) -> Found:
    """Average two runs' class probabilities, by each probe that both have.

    Args:
        one, other: Names of runs.
    """
    made = {}
    for form in dict.fromkeys(form for _, form in found):
        if (one, form) in found and (other, form) in found:
            both = probe.fuse_tables(found[one, form].table, found[other, form].table)
            made[f"{one} + {other}", form] = _numbered(probe.score(both))
    return made


def keep(
    found: Found, trained: Mapping[str, Run], ends: Mapping[str, Run], videos: Manifest
) -> None:
    """Write each number and outcome into its run, with every switch that affects it.

    The fused numbers of both streams are written into the first run. Results without runs are not
    stored.

    Args:
        trained: Runs by name.
        ends: What `end_to_end` returns.
        videos: Those that were tested.
    """
    first, *others = trained or [""]
    for (name, form), score in found.items() if trained else ():
        shelf = ends if form == END else trained
        extra = {} if name in trained else {"fused_with": ", ".join(others)}
        run = shelf[name if name in trained else first]
        outcomes.add(run, outcomes.of_score("probe", score, videos, extra), score.numbers)
