"""A clip of 32 frames at a random start from each form of the store, one thread, and from decord on
the source video.

Kinetics files at short side 128; the files are in the page cache. The columns say what a second of
video takes on disk (the source's in decord's row) and how far the pictures are from the source's at
that size (PSNR of the worst clip; raw must be equal)."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import footage, measure
from benchmarks.reader import with_decord
from vidbench.data.prepare import store
from vidbench.data.video import clips

WANTED = {"mp4": ">= 5", "jpeg": ">= 10", "raw": ">= 50"}


def main(rounds: int = 9, count: int = 5) -> list[dict]:
    """A row for each form, and goal P2."""
    measure.one_thread()
    with tempfile.TemporaryDirectory() as scratch:
        paths = footage.files(footage.KINETICS, Path(scratch), count)
        made = {format: written(paths, Path(scratch) / format, format) for format in WANTED}
        folders = {
            format: [report.manifest.absolute(i) for i in range(len(paths))]
            for format, report in made.items()
        }
        length = made["raw"].manifest.frames.tolist()
        calls = {
            f"store, {format}": lambda draw, files=files: read(files, draw)
            for format, files in folders.items()
        }
        calls["decord, source"] = lambda draw: [with_decord(paths[i], start) for i, start in draw]
        draws = footage.draw(length, rounds)
        seconds = measure.in_turn(calls, draws=draws)
        kept = float((made["raw"].manifest.frames / made["raw"].manifest.fps).sum())
        size = {f"store, {format}": report.bytes for format, report in made.items()}
        size["decord, source"] = sum(path.stat().st_size for path in paths)
        table = []
        for name, times in seconds.items():
            format = name.removeprefix("store, ")
            fast = measure.spread(measure.ratios(seconds["decord, source"], times))
            table.append(
                {
                    "case": f"{len(paths)} {footage.KINETICS}",
                    "contestant": name,
                    "ms": round(1e3 * statistics.median(times) / len(paths), 3),
                    **dict(zip(("times_as_fast", "min", "max"), fast, strict=True)),
                    "rounds": rounds,
                    "kB_per_second": round(size[name] / kept / 1e3),
                    "psnr": worst(folders[format], paths, draws[0]) if format in made else "",
                }
            )
        return table + [
            measure.goal(
                "P2",
                f"store, {format}: times as fast as decord on the source",
                wanted,
                measure.ratios(seconds["decord, source"], seconds[f"store, {format}"]),
            )
            for format, wanted in WANTED.items()
        ]


def written(paths: list[Path], folder: Path, format: str) -> store.Report:
    """The videos stored in a form."""
    made = store.store(footage.manifest(paths), folder, format, progress=False)
    if made.failed:
        raise AssertionError(f"{format}: {made.failed}")
    return made


def read(files: list[Path], draw: list[tuple[int, int]]) -> list[np.ndarray]:
    """One clip of each file."""
    return [
        clips.read(files[i], np.arange(start, start + footage.FRAMES)).frames for i, start in draw
    ]


def worst(files: list[Path], paths: list[Path], draw: list[tuple[int, int]]) -> float | str:
    """PSNR in dB of the clip that is farthest from its source at the store's size; "equal" where
    none differs."""
    errors = []
    for (i, start), stored in zip(draw, read(files, draw), strict=True):
        wanted = clips.read(
            paths[i], np.arange(start, start + footage.FRAMES), size=stored.shape[1:3]
        ).frames
        errors.append(float(np.square(wanted.astype(np.float32) - stored).mean()))
    if not max(errors):
        return "equal"
    decibels = round(10 * float(np.log10(255**2 / max(errors))), 1)
    if decibels < 25:
        raise AssertionError(
            f"{files[0].parent.name} shows other pictures than the source: {decibels} dB"
        )
    return decibels
