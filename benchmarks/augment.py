"""A loader's process, one thread: it reads clips, and augments them or leaves that to the device.

CPU time of vidbench's Clips, from a file of stored frames to what is sent: with
Fit.augment_on="workers" float32 views, with "device" uint8 views and the numbers of their
augmentation. "reads" is the video alone, without a view. Clips of 32 frames from an encoded
texture, stored at short side 128 (CoCLR's augmentation) or 256 (MultiTrain's, with RandAugment,
which stays in the process)."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks import footage, measure
from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import store
from vidbench.data.video import clips

COUNT, VIDEOS = 12, 2  # clips a round
CASES = {"vidbench": (128, ("jpeg", "mp4")), "multitrain": (256, ("jpeg",))}  # short side, stores


def main(rounds: int = 9) -> list[dict]:
    """Rows of both augmentations."""
    measure.one_thread()
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        videos = [footage.encode(Path(scratch) / f"{seed}.mp4", seed) for seed in range(VIDEOS)]
        for preset, (side, formats) in CASES.items():
            for form in formats:
                folder = Path(scratch) / preset / form
                rows = store.store(
                    footage.manifest(videos), folder, form, size=side, progress=False
                ).manifest
                case = f"{preset}, {form} store of short side {side}"
                table += rated(compare(rows, preset, rounds), case)
    return table


def compare(rows: Manifest, preset: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a clip of each round."""
    spec = ClipSpec(frames=footage.FRAMES, views=1, augment=PRESETS[preset])
    given = {where: Clips(rows, spec, packed=where == "device") for where in ("workers", "device")}

    def read(round: int) -> None:
        for number in range(COUNT):
            row = number % len(rows)
            with clips.Video(rows.absolute(row)) as video:
                first = 7 * (COUNT * round + number) % (video.frames - footage.FRAMES)
                video.read(range(first, first + footage.FRAMES))

    def made(dataset: Clips, round: int) -> None:
        for number in range(COUNT):
            dataset[COUNT * round + number, number % len(rows)]

    calls = {"reads": read}
    calls |= {name: lambda round, one=dataset: made(one, round) for name, dataset in given.items()}
    seconds = measure.in_turn(calls, draws=range(rounds))
    return {name: [value / COUNT for value in times] for name, times in seconds.items()}


def rated(seconds: dict[str, list[float]], case: str) -> list[dict]:
    """Rows with clips a second."""
    table = measure.rows(seconds, "device", case=case)
    return [
        {**row, "clips_per_s": round(1 / statistics.median(seconds[row["contestant"]]), 1)}
        for row in table
    ]
