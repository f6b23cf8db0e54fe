"""The toy worlds: real mp4 files where motion is the label and appearance is noise.

A source is one long take: one figure, one background, one camera, one action again and again. Its
clips (siblings, as in UCF101) are cut from it at different times and share all of its appearance,
and all clips of a source are in one split."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.data.toy.figure import ACTIONS, ONE_WAY, REVERSED, pose
from vidbench.data.toy.worlds import RANGES, RELATED, VARIANTS, WORLDS, correspondence, parts_of
from vidbench.data.video import framestore
from vidbench.system.errors import Brief
from vidbench.system.files import write_text, written
from vidbench.system.processes import DiedError, cores, run_all
from vidbench.system.progress import Progress

FORMAT = (
    1  # raise it when the same settings draw other pictures: folders of another format are refused
)
TEST_EVERY = 4  # of a class's sources one in four is for testing
GOP = "8"  # frames; short, since every test reads a few frames of many clips


class ToyError(Brief, RuntimeError):
    """A folder that holds another toy world, or a preset or world that does not exist."""


@dataclass(frozen=True)
class Preset:
    """How big a toy world is. Clips in all: classes x sources x clips."""

    size: int  # pixels, square; even, for yuv420p
    fps: int
    frames: int  # of each clip
    source_videos: int  # per class
    clips: int  # per source


PRESETS = {
    "tiny": Preset(size=64, fps=15, frames=30, source_videos=8, clips=3),
    "small": Preset(size=64, fps=16, frames=40, source_videos=20, clips=4),
    "large": Preset(size=128, fps=25, frames=75, source_videos=80, clips=5),
}


class SourceVideo(NamedTuple):
    """One long take: plain values that cross to a worker."""

    label: str
    part: str  # the action or variant shown
    name: str
    split: str
    paths: tuple[str, ...]  # one per clip, relative to the folder


def render(
    folder: str | Path,
    preset: str | Preset = "small",
    world: str = "base",
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Draw a toy world's mp4 files into a folder, only missing ones, and return its manifest; ours.

    Writes videos/<class>/*.mp4, manifest.csv, classes.txt, correspondence.csv and toy.json. The
    same preset, world and seed give the same bytes.

    Args:
        preset: A name in PRESETS, or a Preset.
        world: A name in WORLDS.
        seed: Of the world.
        workers: Processes, spawned (so a script needs `if __name__ == "__main__":`); None: one for
            each core; 1: this process.

    Raises:
        ToyError: an unknown preset or world, or the folder was made with other arguments; the
            message names them.
    """
    folder = Path(folder)
    source_videos = plan_videos(preset, world, seed)
    size = _preset(preset)
    _claim(folder, {"format": FORMAT, "world": world, "seed": seed, **asdict(size)})
    missing = [
        (s, tuple(i for i, path in enumerate(s.paths) if not (folder / path).is_file()))
        for s in source_videos
    ]
    jobs = [(folder, s, clips, size, world, seed) for s, clips in missing if clips]
    for label in WORLDS[world].classes:
        (folder / "videos" / label).mkdir(parents=True, exist_ok=True)
    _run(jobs, cores() if workers is None else workers, progress)
    rows = [
        (path, s.label, s.split, f"{world}/{s.name}") for s in source_videos for path in s.paths
    ]
    manifest = Manifest.from_rows(folder, rows, tuple(WORLDS[world].classes))
    if world in RELATED:
        _write_csv(folder / "correspondence.csv", correspondence())
    manifest.save(folder)
    return manifest


def plan_videos(
    preset: str | Preset = "small", world: str = "base", seed: int = 0
) -> list[SourceVideo]:
    """List all source videos of a world with their clips' paths and splits; ours.

    About 75 % train and 25 % test in each class.

    Args:
        preset: A name in PRESETS, or a Preset.
        world: A name in WORLDS.
        seed: Of the world.

    Raises:
        ToyError: an unknown preset or world.
    """
    size = _preset(preset)
    if world not in WORLDS:
        raise ToyError(f"wanted one of the worlds {', '.join(WORLDS)}; got {world!r}")
    source_videos = []
    for label, shown in WORLDS[world].classes.items():
        parts = [
            parts_of(action)[(i // len(shown)) % len(parts_of(action))]
            for i, action in zip(
                range(size.source_videos), shown * size.source_videos, strict=False
            )
        ]
        test = _tested(
            parts, np.random.default_rng([seed, zlib.crc32(f"{world}/{label}".encode())])
        )
        for i, part in enumerate(parts):
            name = f"{label}_s{i:02d}"
            paths = tuple(f"videos/{label}/{name}_c{k}.mp4" for k in range(size.clips))
            source_videos.append(
                SourceVideo(label, part, name, "test" if i in test else "train", paths)
            )
    return source_videos


def _tested(parts: list[str], rng: np.random.Generator) -> set[int]:
    """Which sources of a class are for testing: one in TEST_EVERY, spread over its parts as far as
    they go."""
    order = [
        int(i)
        for part in dict.fromkeys(parts)
        for i in rng.permutation(len(parts))
        if parts[i] == part
    ]
    # evenly along the parts in turn; the middle of each stretch, so that a part shorter than a
    # stretch is not missed
    count = max(1, round(len(parts) / TEST_EVERY))
    return (
        {order[int((k + 0.5) * len(parts) / count)] for k in range(count)}
        if len(parts) > 1
        else set()
    )


def _preset(preset: str | Preset) -> Preset:
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ToyError(f"wanted a Preset or one of {', '.join(PRESETS)}; got {preset!r}")
        preset = PRESETS[preset]
    if (
        preset.size % 2
        or min(preset.size, preset.fps, preset.frames, preset.source_videos, preset.clips) < 1
    ):
        raise ToyError(f"wanted an even size and positive numbers throughout; got {preset}")
    return preset


def _claim(folder: Path, wanted: dict) -> None:
    """Write toy.json into a new folder, or refuse a folder that holds something else."""
    card = folder / "toy.json"
    if card.is_file():
        found = json.loads(card.read_text())
        different = [
            f"{key}: the folder has {found.get(key)!r}, this call needs {wanted.get(key)!r}"
            for key in dict.fromkeys([*wanted, *found])
            if found.get(key) != wanted.get(key)
        ]
        if different:
            raise ToyError(
                f"{folder} holds another toy world ({'; '.join(different)}): choose another or "
                "delete it"
            )
        return
    names = ("manifest.csv", "videos", "classes.txt", "root.txt", "correspondence.csv")
    if other := [name for name in names if (folder / name).exists()]:
        raise ToyError(
            f"{folder} holds {other[0]} but no toy.json, so it is not a toy world; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(card, json.dumps(wanted, indent=1) + "\n")


def _write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with written(file) as temporary, temporary.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _run(jobs: list[tuple], workers: int, progress: bool) -> None:
    """All jobs, in this process or in spawned ones; the first failure stops the rest and is
    raised."""
    if not jobs:
        return
    total = sum(len(job[2]) for job in jobs)
    with Progress("toy world", total, "clip", "auto" if progress else "none") as bar:
        try:
            run_all(_shoot, jobs, workers if workers > 1 else 0, _one_thread, done=bar.add)
        except DiedError as error:
            raise ToyError(
                "a rendering process died: in a script, call render below `if __name__ == "
                "'__main__':`, or pass workers=1; else the machine may be short of memory"
            ) from error


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _shoot(
    folder: Path,
    source_video: SourceVideo,
    clips: tuple[int, ...],
    preset: Preset,
    world: str,
    seed: int,
) -> int:
    """Draw and write the numbered clips of one source; the choice does not change any
    of them."""
    for k, frames in draw(source_video, clips, preset, world, seed):
        framestore.write_mp4(folder / source_video.paths[k], frames, preset.fps, crf=19, g=GOP)
    return len(clips)


def draw(
    source_video: SourceVideo, clips: Iterable[int], preset: Preset, world: str, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Draw the numbered clips of a source video: pairs of number and frames uint8 [T,H,W,3].

    Args:
        clips: Their numbers.
        world: A name in WORLDS.
        seed: Of the world.
    """
    from vidbench.data.toy.scene import draw_look, paint

    style = WORLDS[world]
    # This text seeds the drawing. Any other text would change every rendered video.
    size = f"size={preset.size}, fps={preset.fps}, frames={preset.frames}"
    size = f"Setting({size}, sources={preset.source_videos}, clips={preset.clips})"
    rng = np.random.default_rng([seed, zlib.crc32(f"{world}/{source_video.name}/{size}".encode())])
    prop = style.props.get(source_video.label, "")
    look = draw_look(preset.size, style.background, style.camera, rng, prop)
    action, _, variant = source_video.part.partition("/")
    ranges = RANGES[""] | (VARIANTS[action][variant] if variant else {})
    speed, amplitude = rng.uniform(*ranges["speed"]), rng.uniform(*ranges["amplitude"])
    takes = [_take(action, speed, preset, k, rng) for k in range(preset.clips)]
    for k in clips:
        times, phases, nudge = takes[k]
        yield k, paint(pose(action, phases, amplitude), times, look, preset.size, nudge)


def _take(
    action: str, speed: float, preset: Preset, k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """When clip k of a source is cut: its times in the source (seconds) [T], phases [T], the
    figure's small move."""
    local = np.arange(preset.frames) / preset.fps
    lasts = ACTIONS[REVERSED.get(action, action)].seconds / (speed * rng.uniform(0.95, 1.05))
    start, hold = rng.uniform(size=2)
    nudge = tuple(rng.uniform(-0.025, 0.025, 2) * (1.0, 0.4))
    if action in ONE_WAY:
        # one transition between two holds, placed by a law that is its own mirror image in time:
        # only the order of frames distinguishes the twins
        lasts = min(lasts, 0.8 * local[-1])
        phases = np.clip((local - (0.2 + 0.6 * hold) * (local[-1] - lasts)) / lasts, 0, 1)
    else:
        phases = (start + local / lasts) % 1
    begin = (k + 0.5 * hold) * 1.5 * preset.frames / preset.fps
    return begin + local, phases, nudge
