"""Small results of the demo, which `evaluate.shipped` reads, for notebooks that train nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import STRINGS, Manifest
from vidbench.data.toy import world as toy
from vidbench.data.video.clips import shorten
from vidbench.engine.runs import Run
from vidbench.evaluate import projections
from vidbench.evaluate.evaluate import Evaluation
from vidbench.evaluate.features import Protocol, load_or_extract
from vidbench.evaluate.shipped import MADE, RUNS, save_relations, save_table
from vidbench.experiments.compare import extract_flow
from vidbench.methods import multitrain
from vidbench.system.files import write_text
from vidbench.system.processes import run_all
from vidbench.system.progress import Progress

STEP = 2  # small clips keep every second frame
CRF = 56  # of VP9: about 1.6 kB per clip of the toy world
EXAMPLES = 2  # clips per class of a joint run's data sets
WORLDS = {"tiny": "base", "tiny-gym": "gym", "tiny-street": "street"}  # data set -> toy world
LOGGED = ("epoch", "loss", "accuracy", "purity")


def write_small(
    place: Path,
    data: tuple[Manifest, str],
    runs: tuple[Path, Protocol],
    found: Mapping[str, Evaluation],
    made: Mapping[str, Any],
    titles: Mapping[str, str],
) -> None:
    """Write features, facts and curves of the demo's runs.

    Args:
        place: The folder of the small results.
        data: All videos, and the split of the queries.
        runs: The folder of the runs, and the protocol of the features.
        found: The evaluation of each run.
        made: How the demo was made: see `facts_of`.
        titles: run -> its name on pages.
    """
    (manifest, held_out), (folder, protocol) = data, runs
    kept = {}
    for name in RUNS:
        run = Run(folder / name)
        for split in ("train", held_out):
            save_table(place, name, split, load_or_extract(run, split, protocol))
        kept[name] = {
            "title": titles[name],
            "facts": _facts(run),
            "curves": {key: column for key, column in run.curves().items() if key in LOGGED},
            "numbers": found[name].numbers,
            "commit": _commit(run),  # a resumed demo may have runs of several commits
        }
    about = {**made, "videos": len(manifest), "worlds": list(WORLDS), "runs": kept}
    write_text(place / MADE, json.dumps(about, indent=1) + "\n")


def _commit(run: Run) -> str:
    """The commit of vidbench that started a run."""
    held = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return held["vidbench"]["commit"] or "unknown"


def _facts(run: Run) -> dict[str, Any]:
    """A row of a table of runs."""
    budget, recipe = run.budget(), run.recipe
    return {
        "stream": recipe.stream,
        "positives": recipe.positives,
        "clips": budget["clips"],
        "stages": " > ".join(budget["stages"]),
    }


def facts_of(environment: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return command, date, commit and machine of the results, without names of hosts and folders.

    Args:
        environment: runs.environment.
        seconds: Of each part of the demo.
    """
    names = ("python", "cpu", "cores", "device", "versions")
    return {
        "command": "make demo",
        "date": environment["date"][:10],
        "commit": environment["vidbench"]["commit"] or "unknown",
        "dirty": environment["vidbench"]["dirty"],
        **{name: environment[name] for name in names},
        "seconds": dict(seconds),
    }


def small_clips(manifest: Manifest, folder: Path, processes: int) -> None:
    """Write a small clip of every video (half its frames, VP9) into a folder, with a manifest.

    Args:
        processes: That encode.
    """
    paths = [str(Path(str(path)).with_suffix(".webm")) for path in manifest.path]
    small = replace(manifest, root=folder, path=np.array(paths, dtype=STRINGS))
    tasks = [
        (str(manifest.absolute(row)), str(small.absolute(row)), STEP, CRF)
        for row in range(len(manifest))
        if not small.absolute(row).is_file()
    ]
    with Progress("small clips", len(tasks), "clip") as bar:
        run_all(shorten, tasks, processes, done=lambda _: bar.add())
    small.save(folder)


# ---- a joint run -------------------------------------------------------------------------------


def joint_recipe(out: Path, epochs: int, processes: int, seed: int) -> multitrain.Recipe:
    """Render three toy worlds with their flow; return the recipe of notebook 31's joint run.

    The recipe is the preset tiny, trained longer.

    Args:
        out: The folder of the worlds.
        processes: That render videos and compute flow.
        seed: Of the worlds and of the run.
    """
    parts = []
    for name, world in WORLDS.items():
        videos, flow = out / name / "videos", out / name / "flow"
        rows = toy.render(videos, "tiny", world, seed=seed, workers=processes, progress=False)
        print(f"flow of the toy world {name!r}", flush=True)
        extract_flow(rows, flow, "dis", None, processes)
        parts.append(multitrain.Part(name, str(videos), rows.classes, str(flow)))
    recipe = replace(multitrain.PRESETS["tiny"], parts=tuple(parts))
    return replace(recipe, fit=replace(recipe.fit, epochs=epochs, save_every=epochs, seed=seed))


def write_joint(place: Path, run: Run, processes: int) -> None:
    """Write the joint run's class relations, and a few small clips of each class.

    Args:
        place: The folder of the small results.
        processes: That encode clips.
    """
    tables = {}
    for one in run.recipe.parts:
        rows = Manifest.load(one.manifest)
        tables[one.name] = load_or_extract(
            run, "train", projections.READ, manifest=rows, data=one.name
        )
        small_clips(_examples(rows.select(split="train")), place / "worlds" / one.name, processes)
    save_relations(place, projections.relations(run, tables))


def _examples(rows: Manifest) -> Manifest:
    """EXAMPLES videos of each class, of different source videos."""
    firsts = np.unique(rows.source_video, return_index=True)[1]
    picked = [firsts[rows.label[firsts] == label][:EXAMPLES] for label in np.unique(rows.label)]
    return rows.select(mask=np.sort(np.concatenate(picked)))
