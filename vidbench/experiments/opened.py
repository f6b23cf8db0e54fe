"""Videos and the runs on them, opened for notebooks: from the demo's results, or your own runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.engine.runs import Run
from vidbench.evaluate import searches
from vidbench.evaluate.features import PROTOCOLS
from vidbench.evaluate.projections import Relation
from vidbench.evaluate.shipped import demo_relations, demo_results
from vidbench.experiments import joint
from vidbench.experiments.ready import DEMO, ready_runs
from vidbench.view.clips import QUICK


@dataclass(frozen=True)
class Opened:
    """A gallery and queries, with features and facts of runs.

    Args:
        name: Of the data.
        place: The folder of the data's videos, flow and runs.
        train, queries: The gallery and the queries.
        tables: run -> features of both, and `searches.BOTH` if there are both streams.
        facts: run -> its row of a table: stream, positives, clips, stages.
        curves: run -> its log as columns.
        runs: The runs themselves; empty for the demo's results.
        folders: run -> its directory, from which its network is loaded; empty for shipped results.
        flow: The flow store; `QUICK` for shipped results, whose flow is estimated when it is shown.
        iterations: Of the shortest training; 0 if it is unknown.
    """

    name: str
    place: Path
    train: Manifest
    queries: Manifest
    tables: Mapping[str, tuple[Any, Any]]
    facts: Mapping[str, dict[str, Any]]
    curves: Mapping[str, dict[str, list]]
    runs: Mapping[str, Run]
    folders: Mapping[str, Path]
    flow: str | Path
    iterations: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The facts as rows of a table."""
        return [{"run": name, **facts} for name, facts in self.facts.items()]


def open_runs(
    runs_dir: str | Path,
    data: str,
    names: Sequence[str],
    *,
    fold: int = 1,
    split: str = "test",
    protocol: str = "vidbench",
    fuse: bool = True,
) -> Opened:
    """Open runs with their features of the training videos and of a split.

    Args:
        runs_dir: The folder of everything written.
        data: DEMO, or a data set. Its runs are loaded; on tiny toy worlds, missing ones are trained
            (`ready_runs`).
        names: Runs; empty ones are left out.
        fold: Of a data set that has several.
        split: Of the queries; empty is the held-out one, test or validate.
        protocol: How clips become a feature; the demo's results have "vidbench" only.
        fuse: Add `searches.BOTH` if there are two runs of both streams.

    Raises:
        ValueError: The demo has no such run, split or protocol.
        RunError: What `ready_runs` raises.
    """
    names = [name for name in names if name]
    if data == DEMO:
        return _demo(runs_dir, names, split, protocol, fuse)
    place, manifest = catalogue.prepare_dataset(runs_dir, data, fold)
    manifest = manifest.countable  # if some videos have labels, those without are left out
    trained, flow = ready_runs(place, *names), place / "flow"
    split, how = split or manifest.held_out(), PROTOCOLS[protocol]
    tables = searches.tables_of(trained, manifest, split, how, flow=flow, fuse=fuse)
    budgets = {name: run.budget() for name, run in trained.items()}
    facts = {
        name: {
            "stream": run.recipe.stream,
            "positives": "none: frozen"
            if run.method == "baseline"
            else getattr(run.recipe, "positives", "labels"),
            "clips": budgets[name]["clips"],
            "stages": " > ".join(budgets[name]["stages"]),
        }
        for name, run in trained.items()
    }
    return Opened(
        place.name,
        place,
        manifest.select(split="train"),
        manifest.select(split=split),
        tables,
        facts,
        {name: run.curves() for name, run in trained.items()},
        trained,
        {name: run.folder for name, run in trained.items()},
        flow,
        min(budget["iterations"] for budget in budgets.values()),
    )


def _demo(
    runs_dir: str | Path, names: Sequence[str], split: str, protocol: str, fuse: bool
) -> Opened:
    """Open the demo's results."""
    found = demo_results(runs_dir)
    split = split or found.manifest.held_out()
    splits = ("train", found.manifest.held_out())
    for what, value, known in (
        ("run", next((name for name in names if name not in found.tables), ""), [*found.tables]),
        ("split", split, splits),
        ("protocol", protocol, ("vidbench",)),
    ):
        if value and value not in known:
            raise ValueError(
                f"{what} of the demo's results must be one of {', '.join(known)}; got {value!r}. "
                "Choose one of these, or set data to tiny, small or your videos."
            )
    tables = {name: (found.tables[name]["train"], found.tables[name][split]) for name in names}
    place = Path(runs_dir).resolve() / DEMO
    # only the user's own demo has run directories
    folders = {name: place / "runs" / name for name in names if found.flow}
    return Opened(
        DEMO,
        place,
        found.manifest.select(split="train"),
        found.manifest.select(split=split),
        searches.with_both(tables) if fuse else tables,
        {name: found.facts[name] for name in names},
        {name: found.curves[name] for name in names},
        {},
        {name: folder for name, folder in folders.items() if (folder / "recipe.json").is_file()},
        found.flow or QUICK,
    )


def open_relations(
    runs_dir: str | Path, data: Sequence[str], run: str, split: str
) -> tuple[Mapping[tuple[str, str], Relation], Mapping[str, Manifest]]:
    """Open what a joint run's maps learned, with videos of each data set.

    Args:
        runs_dir: The folder of everything written.
        data: [DEMO], or the data sets of the joint run.
        run: Its name, or a path with a slash; on tiny worlds, a missing run is trained.
        split: On whose videos the read-outs are computed.

    Returns:
        (source, target) -> relation, and data set -> videos.
    """
    if list(data) == [DEMO]:
        shipped = demo_relations(runs_dir)
        return shipped.found, shipped.manifests
    place, sets = joint.open_sets(runs_dir, data)
    found = joint.relations_of(ready_runs(place, run)[run], sets, split)
    return found, {name: one.manifest.select(split=split) for name, one in sets.items()}
