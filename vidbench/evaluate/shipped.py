"""Results of `make demo` in small: the user's own, or those shipped in assets/demo.

A folder of small results contains:

    made.json              who made it (command, date, commit, machine), and of each run its title,
                           facts, curves, numbers and commit; in assets/demo also `since`, the first
                           commit that has these results, and a note
    features/RUN-SPLIT.npz the run's features of a split in 16 bits
    videos/                small clips of all videos, with their manifest (toy world only)
    relations.npz          read-outs of a joint run on three toy worlds (toy world only)
    worlds/NAME/           a few small clips of each class of those worlds, with their manifest

Nothing in it is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.evaluate.projections import Relation
from vidbench.evaluate.tables import Features, video_numbers
from vidbench.system.errors import MissingError
from vidbench.system.files import written
from vidbench.system.share import share

SHIPPED = share("assets/demo")
SMALL = "small"  # of a demo's folder: its results in this form
RUNS = ("infonce-rgb", "infonce-rgb-long", "coclr-rgb", "infonce-flow")  # whose features are kept
MADE, RELATIONS = "made.json", "relations.npz"


@dataclass(frozen=True)
class Results:
    """A demo's results, as notebooks show them: of each run (by name) features, facts and curves.

    Args:
        manifest: All videos.
        tables: run -> split -> features of that split, in the manifest's order.
        facts: run -> what a table says of it: stream, positives, clips, stages.
        curves: run -> its log as columns, see `Run.curves`.
        titles: run -> what a page calls it.
        flow: The flow store of the videos, "" if it is not there.
        words: One line that says where the results come from.
    """

    manifest: Manifest
    tables: Mapping[str, Mapping[str, Features]]
    facts: Mapping[str, dict[str, Any]]
    curves: Mapping[str, dict[str, list]]
    titles: Mapping[str, str]
    flow: str
    words: str


@dataclass(frozen=True)
class Related:
    """Class relations of the demo's joint run.

    Args:
        found: (source, target) -> `projections.Relation`.
        manifests: data set -> a few videos of each of its classes.
        words: One line that says where they come from.
    """

    found: Mapping[tuple[str, str], Relation]
    manifests: Mapping[str, Manifest]
    words: str


def demo_results(runs_dir: str | Path) -> Results:
    """Read the results of the demo in `runs_dir`/demo if it is complete, else the shipped ones.

    Prints one line that says which.

    Raises:
        FileNotFoundError: There is no demo, and this installation has no assets.
        ValueError: A file is damaged.
    """
    place, made, words = _found(runs_dir)
    own = place != SHIPPED
    manifest = Manifest.load(place.parent / "videos" if own else place / "videos")
    rows = {split: manifest.select(split=split) for split in ("train", manifest.held_out())}
    tables = {
        run: {split: _table(place, run, split, part) for split, part in rows.items()}
        for run in made["runs"]
    }
    parts = {
        name: {run: one[name] for run, one in made["runs"].items()}
        for name in ("facts", "curves", "title")
    }
    flow = str(place.parent / "flow") if own else ""
    return Results(manifest, tables, parts["facts"], parts["curves"], parts["title"], flow, words)


def demo_relations(runs_dir: str | Path) -> Related:
    """Read the class relations of the demo's joint run, like `demo_results`.

    Raises:
        FileNotFoundError: There is no demo, and this installation has no assets.
        ValueError: A file is damaged.
    """
    place, made, words = _found(runs_dir, RELATIONS)
    manifests = {name: Manifest.load(place / "worlds" / name) for name in made["worlds"]}
    return Related(read_relations(place / RELATIONS), manifests, words)


def _found(runs_dir: str | Path, needed: str = MADE) -> tuple[Path, dict[str, Any], str]:
    """The folder of small results, its made.json, and the line about it, which is printed."""
    own = Path(runs_dir).resolve() / "demo" / SMALL
    place = own if (own / MADE).is_file() and (own / needed).is_file() else SHIPPED
    if not (place / needed).is_file():
        raise MissingError(
            f"no results of the demo in {own.parent}, and none shipped in {SHIPPED}. Run `make demo`."
        )
    made = json.loads((place / MADE).read_text(encoding="utf-8"))
    of = f"made by `{made['command']}` on {made['date']}"
    if place == own:
        words = f"Results of your demo in {own.parent}, {of}."
    else:
        words = (
            f"Results shipped with vidbench, {of} ({made['cpu']}, {made['cores']} cores, since commit "
            f"{made['since'][:7]}); set data to tiny, small or your videos to train your own."
        )
    print(words)
    return place, made, words


def table_path(place: Path, run: str, split: str) -> Path:
    """Return the file of a run's features of one split, in a folder of small results.

    Args:
        place: The folder.
        run: Its name.
    """
    return place / "features" / f"{run}-{split}.npz"


def save_table(place: Path, run: str, split: str, table: Features) -> None:
    """Write a run's features of one split in 16 bits, without what depends on where videos are.

    Args:
        place: The folder of small results.
        run: Its name.
    """
    values = table.values.astype(np.float16)
    replace(table, values=values, made_from="", video=None).save(table_path(place, run, split))


def _table(place: Path, run: str, split: str, rows: Manifest) -> Features:
    table = Features.load(table_path(place, run, split))
    if not np.array_equal(table.label, rows.label):
        raise ValueError(
            f"{table_path(place, run, split)} is of other videos than the manifest in {rows.root}. "
            "Run `make demo` again."
        )
    values = table.values.astype(np.float32)
    return replace(table, values=values, video=video_numbers(rows))


def save_relations(place: Path, found: Mapping[tuple[str, str], Relation]) -> None:
    """Write relations as arrays: `SOURCE|TARGET|READOUT`, and the class names of each data set.

    Args:
        place: The folder of small results.
        found: (source, target) -> relation.
    """
    arrays: dict[str, Any] = {
        f"{source}|{target}|{readout}": scores.astype(np.float32)
        for (source, target), one in found.items()
        for readout, scores in one.scores.items()
    }
    arrays |= {source: np.array(one.sources, np.str_) for (source, _), one in found.items()}
    place.mkdir(parents=True, exist_ok=True)
    with written(place / RELATIONS) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_relations(path: Path) -> dict[tuple[str, str], Relation]:
    """Read what `save_relations` wrote.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except Exception as error:  # damaged bytes raise many kinds
        raise ValueError(
            f"{path} is not a whole file of relations ({type(error).__name__}: {error}). Restore "
            "it, or run `make demo`."
        ) from error
    classes = {name: tuple(map(str, one)) for name, one in arrays.items() if "|" not in name}
    scores: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, one in arrays.items():
        if "|" in name:
            source, target, readout = name.split("|")
            scores.setdefault((source, target), {})[readout] = one
    return {
        (source, target): Relation(source, target, classes[source], classes[target], one)
        for (source, target), one in scores.items()
    }
