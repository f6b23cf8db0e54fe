"""Memory over 2,000 clips, each from a newly opened file: the growth of the resident size from clip
200 to clip 2,000.

A process for each case: short clips out of the store, source AVIs (with and without an index),
samples of the loader. Each visits several files at random starts."""

from __future__ import annotations

import gc
import tempfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import footage, measure

FRAMES, SIZE, MARKS = 16, 64, (200, 500, 1000, 2000)
CASES = ("reader, mp4 store", "reader, UCF101 AVI", "loader, mp4 store", "decord, mp4 store")


def main(marks: tuple[int, ...] = MARKS) -> list[dict]:
    """A row for each case, and goal P9."""
    from vidbench.data.prepare import store

    measure.one_thread()
    table, goals = [], []
    with tempfile.TemporaryDirectory() as scratch:
        sources = footage.files(footage.UCF, Path(scratch), 6)
        store.store(footage.manifest(sources), Path(scratch) / "store", size=SIZE, progress=False)
        for case in CASES:
            with get_context("spawn").Pool(1) as pool:
                sizes = pool.apply(resident, (case, sources, Path(scratch) / "store", marks))
            row = {
                "case": case,
                **{f"MiB_at_{n}": round(size, 1) for n, size in zip(marks, sizes, strict=True)},
            }
            table.append({**row, "growth_MiB": round(sizes[-1] - sizes[0], 1)})
            if not case.startswith("decord"):
                growth = table[-1]["growth_MiB"]
                what = f"{case}: MiB that {marks[-1] - marks[0]} clips add"
                goals.append(measure.goal("P9", what, "<= 5", growth))
    return table + goals


def resident(case: str, sources: list[Path], folder: Path, marks: tuple[int, ...]) -> list[float]:
    """Resident MiB of this process after so many clips."""
    import psutil

    measure.one_thread()
    process, found, rng = psutil.Process(), [], np.random.default_rng(0)
    visit = visitor(case, sources, folder)
    for number in range(1, marks[-1] + 1):
        visit(number, rng)
        if number in marks:
            gc.collect()
            found.append(process.memory_info().rss / 2**20)
    return found


def visitor(case: str, sources: list[Path], folder: Path):
    """Reads one clip: a function of the clip's number and a generator."""
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import Clips, ClipSpec
    from vidbench.data.manifest import Manifest
    from vidbench.data.video import clips

    stored = Manifest.load(folder)
    if case.startswith("loader"):
        sample = Clips(stored, ClipSpec(frames=FRAMES, augment=PRESETS["toy"]))
        return lambda number, rng: sample[number, number % len(stored)]
    files = sources if "AVI" in case else [stored.absolute(i) for i in range(len(stored))]
    lengths = [clips.probe(file).frames for file in files]

    def visit(number: int, rng: np.random.Generator) -> None:
        i = number % len(files)
        start = int(rng.integers(0, lengths[i] - FRAMES))
        clips.read(
            files[i],
            np.arange(start, start + FRAMES),
            "decord" if case.startswith("decord") else "pyav",
        )

    return visit
