"""Clips that go to a machine with a GPU, and training stages on them.

`python -m benchmarks.travel` writes them into runs/gpu-clips where videos can be encoded: the toy
world at the size `large`, two source videos a class, one clip each, as a jpeg store and its flow,
at most LARGEST MB. There `python -m benchmarks gpu` reads them; nothing is encoded or estimated."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import measure
from vidbench.data.flow import store as flow_store
from vidbench.data.flow.files import flow_path
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import store
from vidbench.data.toy import world as toy
from vidbench.engine.runs import recipe_dict
from vidbench.methods import coclr

FOLDER = Path("runs/gpu-clips")
SIZE = replace(toy.PRESETS["large"], source_videos=2, clips=1)
LARGEST = 40.0  # MB
VIDEOS = 640  # on the other machine: each clip many times, by hard links


@dataclass(frozen=True)
class Clips:
    """Where videos and their flow are."""

    manifest: Path
    flow: Path


def make(folder: Path = FOLDER, size: toy.Preset = SIZE) -> float:
    """Write the clips and their flow, only what is missing; MB of both."""
    with tempfile.TemporaryDirectory() as scratch:
        rendered = toy.render(scratch, size)
        stored = store.store(rendered, folder / "store", "jpeg", size=size.size).manifest
    flow_store.extract(stored, folder / "flow", "tvl1_fast")
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    if megabytes > LARGEST:
        raise ValueError(f"the clips must take at most {LARGEST} MB; they take {megabytes:.1f} MB.")
    return megabytes


def many(folder: Path, scratch: Path, count: int = VIDEOS) -> Clips:
    """`count` videos of the clips in `folder`, each clip many times, as hard links below `scratch`.

    Raises:
        measure.Skip: There are no clips.
    """
    if not (folder / "store" / "manifest.csv").is_file():
        raise measure.Skip(f"no clips in {folder}: python -m benchmarks.travel makes them")
    rows = Manifest.load(folder / "store")
    made = []
    for number in range(count):
        row = number % len(rows)
        source = str(rows.path[row])
        name = f"{number // len(rows)}/{source}"
        copied = (
            (folder / "store" / source, scratch / "videos" / name),
            (flow_path(folder / "flow", source), flow_path(scratch / "flow", name)),
        )
        for old, new in copied:
            new.parent.mkdir(parents=True, exist_ok=True)
            _link(old, new)
        made.append((name, rows.classes[rows.label[row]], "train", str(number)))
    shutil.copy(folder / "flow" / "flow.json", scratch / "flow")
    Manifest.from_rows(scratch / "videos", made, rows.classes).save(scratch / "rows")
    return Clips(scratch / "rows", scratch / "flow")


def stages(recipe: coclr.Recipe, clips: Clips, out: Path) -> list[dict]:
    """InfoNCE on frames and on flow, then a half-cycle of CoCLR: a row of each, whose numbers leave
    out the first epoch, in which processes and kernels start."""
    base = replace(recipe, manifest=str(clips.manifest), flow=str(clips.flow))
    recipes = {
        "InfoNCE, RGB": replace(base, stream="rgb"),
        "InfoNCE, flow": replace(base, stream="flow"),
        "CoCLR, RGB by flow": replace(
            base, stream="rgb", positives="mined", student=str(out / "0"), teacher=str(out / "1")
        ),
    }
    table = []
    for number, (name, one) in enumerate(recipes.items()):
        coclr.train(recipe_dict(one), str(out / str(number)), "none")
        lines = (out / str(number) / "metrics.jsonl").read_text().splitlines()
        table.append({"case": f"training: {name}", **_speed([json.loads(line) for line in lines])})
    return table


def _speed(lines: list[dict]) -> dict:
    begun = next(number for number, line in enumerate(lines) if line["epoch"] >= 1)
    first, last = lines[begun], lines[-1]
    return {
        "clips_per_s": round(
            (last["clips"] - first["clips"]) / (last["seconds"] - first["seconds"]), 1
        ),
        "data_share": statistics.median(line["data_share"] for line in lines[begun + 1 :]),
        "steps": last["step"],
        "seconds": round(last["seconds"]),
        "loss": round(last["loss"], 3),
    }


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # another file system
        shutil.copy(old, new)


if __name__ == "__main__":
    print(f"{make(Path(sys.argv[1]) if sys.argv[1:] else FOLDER):.1f} MB")
