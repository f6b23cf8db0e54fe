"""Extract the flow of a data set, one file per video (see `files`).

A folder holds flow.json (how it was made) and one file for each video, by its relative path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from vidbench.data.flow.device import on_device
from vidbench.data.flow.estimate import FlowError, estimator, levels, to_gray
from vidbench.data.flow.files import (
    FORMATS,
    Job,
    Settings,
    facts_of,
    flow_path,
    length,
    load,
    meta,
    of_settings,
    opencv,
    opened,
    settings_of,
    write,
)
from vidbench.data.prepare import jobs, shards
from vidbench.data.prepare.outputs import Outputs, name_of
from vidbench.data.prepare.shards import WHOLE, Shard
from vidbench.data.video import clips
from vidbench.data.video.decoders import check_decoder
from vidbench.system.files import delete_leftovers, lock_folder

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest

__all__ = [
    "FORMATS",
    "FlowError",
    "Settings",
    "complete",
    "extract",
    "flow_path",
    "length",
    "load",
    "meta",
    "settings_of",
]
TIMEOUT = 3600.0  # seconds a video; TV-L1 of ten seconds at 340x256 takes about five minutes


class Options(jobs.Options, total=False):
    """How to compute flow (see `Settings`) and how to work."""

    bound: float
    size: int | None
    decoder: str
    format: str


class Report(NamedTuple):
    """What `extract` did: videos done, skipped because they were there, failed with their
    reasons."""

    done: int
    skipped: int
    failed: list[tuple[str, str]]  # (relative path, reason)
    seconds: float
    pairs: int  # flows computed in this call
    remade: int = 0  # of done: because the source or the settings changed


# ---- extraction --------------------------------------------------------------------------------


def extract(
    manifest: Manifest,
    folder: str | Path,
    method: str = "tvl1",
    *,
    device: str | None = None,
    shard: Shard = WHOLE,
    **options: Unpack[Options],
) -> Report:
    """Compute and store the flow of every video of a manifest; the same call resumes.

    Method "tvl1_torch" computes on `device` in this process and decodes in the others; each other
    method computes in the workers, with one OpenCV thread each. A video that cannot be read, or
    takes too long, is counted and named in the report and does not stop the rest; the next call
    tries it again.

    Args:
        device: For "tvl1_torch", such as "cuda:0".
        shard: (k, n) for every n-th video from the k-th, for n machines on one folder.
        options: See `Settings` and jobs.Options.

    Raises:
        ValueError: an argument is out of range.
        FlowError: the folder was made with other settings.
        OutputError: the folder holds a file of a name in use that vidbench did not make.
    """
    settings = Settings(method, **_only(Settings, options))
    check_decoder(settings.decoder)
    work: jobs.Options = {"timeout": TIMEOUT, **_without(Settings, options)}
    jobs.check(work)
    began, folder, mine = time.perf_counter(), Path(folder), _mine(manifest, shard)
    part = shards.name(shard)
    made = _outputs(folder, mine, settings, part)
    with lock_folder(folder, shard=part), jobs.Journal(folder, "flow", part) as journal:
        jobs.claim(folder / "flow.json", asdict(settings), FlowError, opencv=opencv())
        names = [name_of(path, FORMATS[settings.format]) for path in mine]
        made.claim(names)
        delete_leftovers(folder / name for name in names)
        states = _states(manifest, folder, mine, settings)
        todo = {path: stamp for path, (state, stamp) in states.items() if state != "there"}
        order, done, pairs, remade, failed = list(todo), 0, 0, 0, list[tuple[str, str]]()
        for outcome in _work(manifest, folder, todo, settings, device, work):
            path = order[outcome.job]
            if outcome.error:
                failed.append((path, outcome.error))
                continue
            done, pairs = done + 1, pairs + outcome.value
            remade += states[path][0] == "changed"
            journal.add(path, **_line(settings, todo[path], outcome.bytes))
    seconds = time.perf_counter() - began
    return Report(done, len(mine) - len(todo), failed, seconds, pairs, remade)


def jobs_of(
    manifest: Manifest, folder: Path, settings: Settings, shard: Shard = WHOLE
) -> tuple[list[Job], list[float] | None]:
    """List the jobs that `extract` would do. Nothing is written.

    Args:
        folder: The store.
        shard: The part of the videos that this machine does.

    Returns:
        The jobs, and their weights if the manifest knows numbers of frames.
    """
    paths = _mine(manifest, shard)
    todo: dict[str, str | None] = dict.fromkeys(paths)
    if folder.is_dir():  # else reading all stamps would only take time
        states = _states(manifest, folder, paths, settings)
        todo = {path: stamp for path, (state, stamp) in states.items() if state != "there"}
    return _jobs(manifest, folder, todo, settings)


def _mine(manifest: Manifest, shard: Shard) -> list[str]:
    """The paths of a shard, each once."""
    mine = shards.rows(len(manifest), shard)
    return list(dict.fromkeys(str(manifest.path[row]) for row in mine))


def _jobs(
    manifest: Manifest, folder: Path, todo: dict[str, str | None], settings: Settings
) -> tuple[list[Job], list[float] | None]:
    tasks = [
        (str(manifest.root / p), str(flow_path(folder, p, settings.format)), settings, stamp)
        for p, stamp in todo.items()
    ]
    if manifest.frames is None:
        return tasks, None
    frames = dict(zip(manifest.path.tolist(), manifest.frames.tolist(), strict=True))
    return tasks, [float(frames[p]) for p in todo]


def _outputs(folder: Path, paths: list[str], settings: Settings, part: str) -> Outputs:
    """The record of the folder; refuses one that holds files vidbench did not make."""
    made = Outputs(folder, part)
    names = [name_of(path, FORMATS[settings.format]) for path in paths]
    made.refuse_others(n for n in names if n in made.known or not _is_flow(folder / n))
    return made


def _is_flow(file: Path) -> bool:
    """Whether a file describes itself as flow, so that vidbench made it wherever it came from."""
    try:
        return file.is_file() and bool(opened(file))
    except FlowError:
        return False


def _line(settings: Settings, stamp: str | None, size: int) -> dict[str, Any]:
    """A file's line in the journal."""
    return {"stamp": stamp, "settings": jobs.digest(asdict(settings)), "bytes": size}


def _states(
    manifest: Manifest, folder: Path, paths: list[str], settings: Settings
) -> dict[str, tuple[jobs.State, str | None]]:
    """Whether the flow of each path is there, missing or of another source; the source's stamp.

    What no journal knows, such as a file from another machine, describes itself.
    """
    known = shards.journaled(folder, "flow")
    digest, states = jobs.digest(asdict(settings)), {}
    for path in paths:
        file, stamp = flow_path(folder, path, settings.format), jobs.stamp(manifest.root / path)
        state = jobs.state(file, known.get(path), stamp, digest)
        if state != "there" and _is_flow(file):
            facts = opened(file).meta
            same = of_settings(facts, settings) and stamp in (None, "", facts.get("source"))
            state = "there" if same else "changed"
        states[path] = state, stamp
    return states


def _only(kind: type, options: Options) -> Any:
    """The options that are fields of a kind."""
    return {name: value for name, value in options.items() if name in kind.__annotations__}


def _without(kind: type, options: Options) -> Any:
    return {name: value for name, value in options.items() if name not in kind.__annotations__}


def _work(
    manifest: Manifest,
    folder: Path,
    todo: dict[str, str | None],
    settings: Settings,
    device: str | None,
    options: jobs.Options,
) -> jobs.Outcomes:
    tasks, weights = _jobs(manifest, folder, todo, settings)

    def run(order: list[int]) -> jobs.Outcomes:
        return on_device(tasks, order, options.get("workers", 0), device)

    return jobs.work(
        one,
        tasks,
        folder,
        what=f"flow {settings.method}",
        weights=weights,
        run=run if settings.method == "tvl1_torch" else None,
        **options,
    )


def complete(
    manifest: Manifest,
    folder: str | Path,
    method: str = "tvl1",
    *,
    settings: Settings | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Extract the flow that a store lacks, with the store's own settings.

    If nothing is missing no lock is taken, so several processes and nodes may call at one time.

    Args:
        method: Estimator of a new store. Any other than TV-L1, the papers', is named in a line.
        settings: All settings of a new store, instead of a method.
    """
    begun = Path(folder, "flow.json").is_file()
    held = settings_of(folder) if begun else settings or Settings(method)
    paths = list(dict.fromkeys(map(str, manifest.path)))
    if begun:
        states = _states(manifest, Path(folder), paths, held)
        if all(state == "there" for state, _ in states.values()):
            return Report(0, len(paths), [], 0.0, 0)
    elif method != "tvl1":
        print(
            f"no flow in {folder}: computing it by {method}. The papers use TV-L1; for numbers to "
            "compare with theirs, run 02_flow or `vidbench flow` first."
        )
    return extract(
        manifest,
        folder,
        held.method,
        bound=held.bound,
        size=held.size,
        format=held.format,
        decoder=held.decoder,
        workers=workers,
        progress=progress,
    )


def one(job: Job) -> tuple[int, int]:
    """Compute and write the flow of one video with OpenCV; a function for jobs.work.

    Returns:
        The number of flows and the bytes written.

    Raises:
        Bad: the video cannot be read, or has one frame.
    """
    import cv2

    source, file, settings, stamp = job
    try:
        with clips.Video(source, settings.decoder, settings.size) as video:
            frames = (to_gray(frame) for frame in video.stream())
            calc, last = estimator(settings.method), next(frames)

            def flows() -> Iterator[np.ndarray]:
                nonlocal last
                for gray in frames:
                    yield levels(calc(last, gray), settings.bound)
                    last = gray

            return write(
                Path(file), flows(), facts_of(video, last.shape, settings, stamp), video.fps
            )
    except (clips.VideoError, FlowError, cv2.error) as error:
        raise jobs.Bad(f"{type(error).__name__}: {error}") from error
