"""Flow of a data set: extracted from every video, into one file for each (see `files`).

A folder holds flow.json (how it was made) and one file for each video, by its relative path."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast

import numpy as np

from vidbench.data.flow.estimate import (
    BOUND,
    METHODS,
    FlowError,
    batched,
    estimator,
    levels,
    to_gray,
)
from vidbench.data.flow.files import (
    FORMATS,
    Settings,
    flow_path,
    length,
    load,
    meta,
    settings_of,
    write,
)
from vidbench.data.prepare import jobs
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


# ---- extraction --------------------------------------------------------------------------------


def extract(
    manifest: Manifest,
    folder: str | Path,
    method: str = "tvl1",
    *,
    device: str | None = None,
    shard: tuple[int, int] = (0, 1),
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
    """
    settings = _settings(method, options)
    work = jobs.Options(**{"timeout": TIMEOUT, **_only(jobs.Options, options)})
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard (k, n) with k < n; got {shard}")
    began, folder = time.perf_counter(), Path(folder)
    mine = list(dict.fromkeys(str(p) for p in manifest.path[shard[0] :: shard[1]]))
    with lock_folder(folder, shard="" if shard[1] == 1 else f"{shard[0]}of{shard[1]}"):
        jobs.claim(folder / "flow.json", asdict(settings), FlowError, opencv=_opencv())
        delete_leftovers(flow_path(folder, p, settings.format) for p in mine)
        todo = [p for p in mine if not flow_path(folder, p, settings.format).is_file()]
        done, pairs, failed = 0, 0, []
        for outcome in _work(manifest, folder, todo, settings, device, work):
            if outcome.error:
                failed.append((todo[outcome.job], outcome.error))
            else:
                done, pairs = done + 1, pairs + outcome.value
    return Report(done, len(mine) - len(todo), failed, time.perf_counter() - began, pairs)


def _settings(method: str, options: Options) -> Settings:
    settings = Settings(method, **_only(Settings, options))
    if method not in METHODS or settings.format not in FORMATS or not settings.bound > 0:
        raise ValueError(
            f"method in {METHODS}, format in {tuple(FORMATS)}, bound > 0; "
            f"got {method!r}, {settings.format!r}, {settings.bound}"
        )
    check_decoder(settings.decoder)
    return settings


def _only(kind: type, options: Options) -> Any:
    """The options that are fields of a kind."""
    return {name: value for name, value in options.items() if name in kind.__annotations__}


def _work(
    manifest: Manifest,
    folder: Path,
    todo: list[str],
    settings: Settings,
    device: str | None,
    options: jobs.Options,
) -> jobs.Outcomes:
    tasks = [
        (str(manifest.root / p), str(flow_path(folder, p, settings.format)), settings) for p in todo
    ]
    weights = None
    if manifest.frames is not None:
        frames = dict(zip(manifest.path.tolist(), manifest.frames.tolist(), strict=True))
        weights = [float(frames[p]) for p in todo]

    def run(order: list[int]) -> jobs.Outcomes:
        return _on_device(tasks, order, options.get("workers", 0), device)

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
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Extract what a store lacks, in the settings it was begun with; `method` makes it where there
    is none.

    Where nothing is missing no lock is taken, so several processes and nodes may ask at one time.
    """
    begun = Path(folder, "flow.json").is_file()
    held = settings_of(folder) if begun else Settings(method, BOUND, None, clips.DECODER, "npz")
    paths = dict.fromkeys(map(str, manifest.path))
    if begun and all(flow_path(folder, path, held.format).is_file() for path in paths):
        return Report(0, len(paths), [], 0.0, 0)
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


def one(job: tuple[str, str, Settings]) -> tuple[int, int]:
    """Flow of one video with OpenCV, its number; a job for jobs.work: (video, file to write,
    settings)."""
    import cv2

    source, file, settings = job
    try:
        with clips.Video(source, settings.decoder, settings.size) as video:
            frames = (to_gray(frame) for frame in video.stream())
            calc, last = estimator(settings.method), next(frames)

            def flows() -> Iterator[np.ndarray]:
                nonlocal last
                for gray in frames:
                    yield levels(calc(last, gray), settings.bound)
                    last = gray

            return write(Path(file), flows(), _facts(video, last.shape, settings), video.fps)
    except (clips.VideoError, FlowError, cv2.error) as error:
        raise jobs.Bad(f"{type(error).__name__}: {error}") from error


def _facts(video: clips.Video, shape: tuple[int, int], settings: Settings) -> dict:
    if video.frames < 2:
        raise FlowError(f"flow needs two frames, {video.path} has {video.frames}")
    return {
        **asdict(settings),
        "read_by": video.decoder,
        "frames": video.frames,
        "height": shape[0],
        "width": shape[1],
        "opencv": _opencv(),
    }


def _opencv() -> str:
    import cv2

    return cv2.__version__


# ---- on a GPU ----------------------------------------------------------------------------------


class _Gray:
    """Gray frames of one video after the other, for a DataLoader: (job, frames [T,H,W] or a reason,
    facts, fps)."""

    def __init__(self, tasks: list[tuple], order: list[int]) -> None:
        self.tasks, self.order = tasks, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int):
        number = self.order[place]
        source, _, settings = self.tasks[number]
        try:
            with clips.Video(source, settings.decoder, settings.size) as video:
                frames = np.stack([to_gray(frame) for frame in video.stream()])
                return number, frames, _facts(video, frames.shape[1:], settings), video.fps
        except (clips.VideoError, FlowError) as error:
            return number, f"{type(error).__name__}: {error}", {}, 0.0


def _as_is(sample):
    return sample


def _on_device(
    tasks: list[tuple], order: list[int], workers: int, device: str | None
) -> jobs.Outcomes:
    """Results for jobs.work: processes decode, this one estimates many pairs at once and writes."""
    import torch

    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        cast(torch.utils.data.Dataset, _Gray(tasks, order)),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context="spawn" if workers else None,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    for number, frames, facts, fps in loader:
        if isinstance(frames, str):
            yield jobs.Done(number, error=frames, seconds=time.perf_counter() - began)
        else:
            bound = facts["bound"]
            # estimate.levels on the device, to the bit: a fourth of the bytes come back
            parts = [
                ((f.clamp(-bound, bound) + bound) * (255 / (2 * bound)))
                .round()
                .byte()
                .cpu()
                .numpy()
                for f in batched(frames, device)
            ]
            count, size = write(
                Path(tasks[number][1]), (flow for part in parts for flow in part), facts, fps
            )
            yield jobs.Done(number, count, "", time.perf_counter() - began, size)
        began = time.perf_counter()
