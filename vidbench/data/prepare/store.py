"""Store every frame of a data set at training size, in a form that reads fast at random.

    format content                                           a second of video*   clips of 32, over decord on source*
    mp4    H.264, a keyframe every 16, no B-frames           59 kB                11 times as fast
    jpeg   JPEGs of quality 90 in one pack a video           249 kB               13
    raw    uint8 in one pack a video                         2.0 MB               95, from the page cache
    *five Kinetics clips at short side 128, median of nine rounds (benchmarks/store.py); small AVIs gain less

The store's folder is a data set like any other (manifest.csv, classes.txt), so notebooks and
commands take it as `data`. Frame i of a stored video is frame i of its source, and its time is i /
fps. Flow for it is computed from it (the same frames, the same numbers). A video smaller than
`size` keeps its size."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from vidbench.data.manifest import SCANNED, STRINGS, Manifest
from vidbench.data.prepare import jobs, shards
from vidbench.data.prepare.estimate import SECONDS, Cost, Estimator, Pace, Slice
from vidbench.data.prepare.outputs import Outputs, name_of
from vidbench.data.prepare.shards import WHOLE, Shard
from vidbench.data.video import clips, framestore
from vidbench.data.video.decoders import check_decoder, short_side
from vidbench.system.errors import Brief, InputError
from vidbench.system.files import delete_leftovers, explain_full_disk, lock_folder

FORMATS = {"mp4": ".mp4", "jpeg": framestore.SUFFIX, "raw": framestore.SUFFIX}
OUTPUTS = ("manifest.csv", "classes.txt", "root.txt")
LARGEST = 8192  # pixels, short side
VERSION = 1
SIZE = 128  # pixels, short side: crops of 128 (CoCLR) and 112


class StoreError(Brief, RuntimeError):
    """A folder that holds another store, or nothing that could be stored."""


@dataclass(frozen=True)
class Settings:
    """What a store was made with; a folder holds one of these and refuses others."""

    format: str = "mp4"
    size: int = SIZE
    crf: int = 18  # of x264, format mp4: 34 to 36 dB
    decoder: str = clips.DECODER
    version: int = VERSION


Job = tuple[str, str, Settings]  # source, file to write, settings


class Report(NamedTuple):
    """What `store` did."""

    manifest: Manifest  # of the store: the videos that are in it
    done: int
    skipped: int  # were there
    failed: list[tuple[str, str]]  # (path, reason); not in the manifest
    bytes: int  # of all videos in the manifest
    remade: int = 0  # of done: because the source or the settings changed
    missing: tuple[int, ...] = ()  # numbers of shards; if any, the manifest is not written


def store(
    manifest: Manifest,
    folder: str | Path,
    format: str = "mp4",
    *,
    size: int = SIZE,
    crf: int = 18,
    decoder: str = clips.DECODER,
    shard: Shard = WHOLE,
    **options: Unpack[jobs.Options],
) -> Report:
    """Store every video of a manifest; the same call resumes and repeats only what changed.

    Of several shards, the one that ends last writes the manifest.

    The first videos give the time and disk of the rest. Videos that cannot be read are counted and
    named in the report.

    Args:
        shard: (k, n) for every n-th video from the k-th, for n machines on one folder.
        options: See jobs.Options.

    Raises:
        ValueError: an argument is out of range.
        StoreError: the folder holds a store of other settings, or no video could be stored.
        OutputError: the folder holds a file of a name in use that vidbench did not make.
        DiskError: the store does not fit on the disk.
    """
    settings, folder = _checked(manifest, Path(folder), Settings(format, size, crf, decoder))
    jobs.check(options)
    part, mine = shards.name(shard), shards.rows(len(manifest), shard)
    with (
        lock_folder(folder, shard=part),
        explain_full_disk(folder),
        jobs.Journal(folder, "store", part) as journal,
    ):
        jobs.claim(folder / "store.json", asdict(settings), StoreError)
        names = [name_of(str(path), FORMATS[format]) for path in manifest.path]
        made = _outputs(folder, part, [names[row] for row in mine], journal)
        delete_leftovers(folder / names[row] for row in mine)
        work = _work(manifest, folder, names, settings, journal, mine, options)
        known = shards.journaled(folder, "store", part) if part else journal.known
        if part:
            lacking, failed = _others(manifest, folder, names, settings, known, mine)
            work = work._replace(failed=work.failed + failed)
            if lacking:
                return _part(manifest, mine, work, shards.missing(lacking, shard))
        with made.writing(OUTPUTS):
            return _conclude(manifest, names, known, folder, work)


def cost(
    manifest: Manifest,
    folder: str | Path,
    format: str = "mp4",
    *,
    size: int = SIZE,
    crf: int = 18,
    decoder: str = clips.DECODER,
    shard: Shard = WHOLE,
    workers: int = 0,
    seconds: float = SECONDS,
) -> Cost:
    """Estimate time and disk of `store` from a bounded slice of the videos; write nothing.

    Args:
        workers: Processes that `store` will use; 0 also measures in this process.
        seconds: Wall time of the measurements.

    Raises:
        ValueError: an argument is out of range.
        StoreError: the folder is the data set's own.
    """
    settings, folder = _checked(manifest, Path(folder), Settings(format, size, crf, decoder))
    names = [name_of(str(path), FORMATS[format]) for path in manifest.path]
    known = shards.journaled(folder, "store", shards.name(shard))
    mine = shards.rows(len(manifest), shard)
    todo = list(mine)
    if folder.is_dir():
        states, _ = _states(manifest, folder, names, settings, known, mine)
        todo = [i for i in mine if states[i] != "there"]
    with Estimator(workers, seconds) as limited:
        return limited.cost(
            pace,
            [(str(manifest.absolute(i)), names[i], settings) for i in todo],
            folder,
            weights=_weights(manifest, todo),
        )


def pace(job: Job, sample: Slice) -> Pace:
    """Measure the first frames of one video; return the cost of the whole video.

    Args:
        job: Source, file and settings.
        sample: How many frames to try, for how long, and where to write.
    """
    source, name, settings = job
    began = time.perf_counter()
    video, shape = _opened(source, settings)
    with video:
        start = time.perf_counter()
        frames = list(sample.of(video.stream()))
        file = Path(sample.scratch, "pace").with_suffix(FORMATS[settings.format])
        _write(file, frames, len(frames), video.fps or 1.0, shape, settings)
        each = (time.perf_counter() - start) / len(frames)
        bytes = file.stat().st_size / len(frames)
        seconds = start - began + each * video.frames
        return Pace(len(frames), seconds, bytes * video.frames)


def _outputs(folder: Path, part: str, names: list[str], journal: jobs.Journal) -> Outputs:
    """The record of the folder with these names claimed; refuses what vidbench did not make."""
    made = Outputs(folder, part)
    if made.known or not journal.known:
        made.refuse_others(OUTPUTS)
        made.refuse_others(names)
    made.claim(names)
    return made  # else the store of an earlier version, which kept no record


def _checked(manifest: Manifest, folder: Path, settings: Settings) -> tuple[Settings, Path]:
    """Settings and folder; ValueError or StoreError unless they are usable."""
    format, size, crf = settings.format, settings.size, settings.crf
    if format not in FORMATS or not 2 <= size <= LARGEST or not 0 <= crf <= 51:
        said = f"format is of {', '.join(FORMATS)}, size in 2..{LARGEST} pixels, crf in 0..51"
        raise InputError(f"{said}; got {format!r}, {size}, {crf}")
    check_decoder(settings.decoder)
    if folder.resolve() == manifest.root.resolve():
        raise StoreError(f"{folder} is the data set's own folder: take another one")
    return settings, folder


class _Work(NamedTuple):
    """What `_work` did."""

    tried: int
    remade: int  # because the source or the settings changed
    failed: list[tuple[str, str]]


def _work(
    manifest: Manifest,
    folder: Path,
    names: list[str],
    settings: Settings,
    journal: jobs.Journal,
    mine: Iterable[int],
    options: jobs.Options,
) -> _Work:
    """Store what is missing or changed of these rows."""
    states, stamps = _states(manifest, folder, names, settings, journal.known, mine)
    made_with = jobs.digest(asdict(settings))
    todo = [i for i, state in states.items() if state != "there"]
    tasks = [(str(manifest.absolute(i)), str(folder / names[i]), settings) for i in todo]
    weights = _weights(manifest, todo)
    what, failed, remade = f"store {settings.format}", list[tuple[str, str]](), 0
    for done in jobs.work(one, tasks, folder, what=what, weights=weights, **options):
        i = todo[done.job]
        if done.error:
            failed.append((str(manifest.path[i]), done.error))
            journal.add(names[i], stamp=stamps[i], failed=done.error)
        else:
            facts = {"stamp": stamps[i], "settings": made_with, "bytes": done.bytes}
            journal.add(names[i], **facts, **done.value)
            remade += states[i] == "changed"
    return _Work(len(todo), remade, failed)


def _others(
    manifest: Manifest,
    folder: Path,
    names: list[str],
    settings: Settings,
    known: dict[str, dict],
    mine: range,
) -> tuple[list[int], list[tuple[str, str]]]:
    """The rows that other shards have not tried yet, and the videos that failed there."""
    rows = [row for row in range(len(manifest)) if row not in mine]
    states, stamps = _states(manifest, folder, names, settings, known, rows)
    lacking, failed = list[int](), list[tuple[str, str]]()
    for row in rows:
        line = known.get(names[row], {})
        if "failed" in line and line.get("stamp") == stamps[row]:
            failed.append((str(manifest.path[row]), str(line["failed"])))
        elif states[row] != "there":
            lacking.append(row)
    return lacking, failed


def _part(manifest: Manifest, mine: range, work: _Work, missing: tuple[int, ...]) -> Report:
    """What one of several shards did."""
    rows = manifest.select(mask=np.array(mine, int))
    done = work.tried - len(work.failed)
    return Report(rows, done, len(mine) - work.tried, work.failed, 0, work.remade, missing)


def _states(
    manifest: Manifest,
    folder: Path,
    names: list[str],
    settings: Settings,
    lines: dict[str, dict],
    rows: Iterable[int],
) -> tuple[dict[int, jobs.State], dict[int, str | None]]:
    """Whether each row's video is stored, missing or changed, and the source's stamp.

    Args:
        lines: What the journals know, by name.
    """
    stamps = {row: jobs.stamp(manifest.absolute(row)) for row in rows}
    made_with = jobs.digest(asdict(settings))
    known = {  # a damaged line is no line
        name: line
        for name, line in lines.items()
        if all(isinstance(line.get(column), int | float) for column in SCANNED)
    }
    states = {
        row: jobs.state(folder / names[row], known.get(names[row]), stamp, made_with)
        for row, stamp in stamps.items()
    }
    return states, stamps


def _weights(manifest: Manifest, todo: list[int]) -> list[float] | None:
    return None if manifest.frames is None else manifest.frames[todo].astype(float).tolist()


def _conclude(
    manifest: Manifest, names: list[str], known: dict, folder: Path, work: _Work
) -> Report:
    bad = {path for path, _ in work.failed}
    good = [i for i, path in enumerate(manifest.path) if str(path) not in bad]
    if not good:
        first = work.failed[:1]
        raise StoreError(f"none of {len(manifest)} videos could be stored; the first: {first}")
    facts = [known[names[i]] for i in good]
    columns: dict[str, Any] = {
        name: np.array([fact[name] for fact in facts], kind) for name, kind in SCANNED.items()
    }
    paths = np.array([names[i] for i in good], STRINGS)
    stored = replace(manifest.select(mask=np.array(good)), root=folder, path=paths, **columns)
    stored.save(folder)
    size = sum(fact["bytes"] for fact in facts)
    done, skipped = work.tried - len(work.failed), len(manifest) - work.tried
    return Report(stored, done, skipped, work.failed, size, work.remade)


def one(job: Job) -> tuple[dict, int]:
    """Store one video; a function for jobs.work.

    Args:
        job: Source, file to write and settings.

    Returns:
        frames, fps, height and width of what is stored, and the bytes written.

    Raises:
        Bad: the video cannot be read.
    """
    source, file, settings = job[0], Path(job[1]), job[2]
    try:
        video, shape = _opened(source, settings)
        with video:
            count, fps = video.frames, video.fps or 1.0
            _write(file, video.stream(), count, fps, shape, settings)
    except clips.VideoError as error:
        raise jobs.Bad(str(error)) from error
    facts = {"frames": count, "fps": fps, "height": shape[0], "width": shape[1]}
    return facts, file.stat().st_size


def _opened(source: str, settings: Settings) -> tuple[clips.Video, tuple[int, int]]:
    """The video at the size in which it is stored, and that size."""
    with clips.Video(source, settings.decoder) as video:
        height, width = video.read([0]).frames.shape[1:3]
    shape = _shape(height, width, settings)
    return clips.Video(source, settings.decoder, None if shape == (height, width) else shape), shape


def _shape(height: int, width: int, settings: Settings) -> tuple[int, int]:
    """Pixels as stored: never larger than the source, and even for mp4."""
    if min(height, width) > settings.size:
        height, width = short_side(height, width, settings.size)
    if settings.format == "mp4":
        height, width = (max(2, n - n % 2) for n in (height, width))
    return height, width


def _write(
    file: Path,
    frames: Iterable[np.ndarray],
    count: int,
    fps: float,
    shape: tuple[int, int],
    settings: Settings,
) -> None:
    if settings.format == "mp4":
        framestore.write_mp4(file, frames, fps, settings.crf)
    elif settings.format == "jpeg":
        framestore.write_pack(
            file, {"fps": fps}, pieces=[framestore.encode_jpeg(frame) for frame in frames]
        )
    else:
        rows = np.empty((count, *shape, 3), np.uint8)
        for i, frame in enumerate(frames):
            rows[i] = frame
        framestore.write_pack(file, {"fps": fps}, rows=rows)
