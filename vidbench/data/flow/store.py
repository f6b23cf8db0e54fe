"""Flow on disk: extracted from every video of a data set, a self-describing 8-bit file each, read
back at random.

A folder holds flow.json (how it was made) and one file for each video, by its relative path:
    npz   `<path>.flow.npz`: each flow compressed on its own (zlib); exact; 15 to 18 % of raw uint8
    mp4   `<path>.flow.mp4`: u above v in the luma plane of H.264, keyframe every 16; 3 to 4.5 % of raw, and it adds up
          to 0.04 px to the 0.07 px of the 8 bits (benchmarks/flow.py). For Kinetics.
The constant third channel of CoCLR's flow pictures is not stored; `load` puts it back. Flow i leads
from frame i to frame i + 1 of the video, as `clips.Video` with the same decoder numbers them; a
video of n frames has n - 1 flows, and its last frame, which has no successor, takes the flow before
it."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
from vidbench.data.prepare import jobs
from vidbench.data.video import clips, framestore
from vidbench.data.video.decoders import PyAV, check_decoder, container_of, failures
from vidbench.system.files import delete_leftovers, lock_folder

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest

FORMATS = {"npz": ".flow.npz", "mp4": ".flow.mp4"}
VERSION = 1
TIMEOUT = 3600.0  # seconds a video; TV-L1 of ten seconds at 340x256 takes about five minutes
# of zlib: 15-17 % of raw for 2 % of TV-L1 fast's time; 1 gives 19-22 %, 6 gives 13-15 % for 5-7 %
_LEVEL = 4
_CRF = 16  # of x264; 12 makes files half as large again and takes away 0.01 px


@dataclass(frozen=True)
class Settings:
    """What a store was made with; a folder holds one of these and refuses others."""

    method: str = "tvl1"
    bound: float = BOUND  # pixels at which values are clipped
    size: int | None = None  # short side of the frames in pixels; None: as the video is
    decoder: str = clips.DECODER
    format: str = "npz"
    channels: str = "u, v"
    version: int = VERSION


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
    bound: float = BOUND,
    size: int | None = None,
    format: str = "npz",
    decoder: str = clips.DECODER,
    workers: int = 0,
    timeout: float | None = TIMEOUT,
    device: str | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
    dry_run: bool = False,
) -> Report:
    """Compute and store the flow of every video of a manifest; call it again to go on where it
    stopped.

    `size`: short side in pixels to which frames are brought before estimation (None: as they are).
    `workers`: 0 computes in this process, else in as many spawned processes with one OpenCV thread
    each; method "tvl1_torch" computes on `device` in this process and decodes in the others. `shard`
    (k, n): every n-th video from the k-th, for n machines on one folder. The time and disk it takes
    are measured on the first videos and told (`dry_run`: no more than that). A video that cannot
    be read, or takes over `timeout` seconds, is counted and named in the report and does not stop
    the rest; the next call tries it again. A folder made with other settings is refused
    (FlowError)."""
    if (
        method not in METHODS
        or format not in FORMATS
        or not bound > 0
        or workers < 0
        or not 0 <= shard[0] < shard[1]
    ):
        raise ValueError(
            f"method in {METHODS}, format in {tuple(FORMATS)}, bound > 0, workers >= 0, shard (k, n) "
            "with "
            f"k < n; got {method!r}, {format!r}, {bound}, {workers}, {shard}"
        )
    check_decoder(decoder)
    began, folder = time.perf_counter(), Path(folder)
    settings = Settings(method, float(bound), size, decoder, format)
    mine = list(dict.fromkeys(str(p) for p in manifest.path[shard[0] :: shard[1]]))
    weights = None
    if manifest.frames is not None:
        frames = dict(zip(manifest.path.tolist(), manifest.frames.tolist(), strict=True))
    with lock_folder(folder, shard="" if shard[1] == 1 else f"{shard[0]}of{shard[1]}"):
        jobs.claim(folder / "flow.json", asdict(settings), FlowError, opencv=_opencv())
        todo = [p for p in mine if not flow_path(folder, p, format).is_file()]
        if manifest.frames is not None:
            weights = [float(frames[p]) for p in todo]
        tasks = [
            (str(manifest.root / p), str(flow_path(folder, p, format)), settings) for p in todo
        ]
        run = (
            None
            if method != "tvl1_torch"
            else lambda order: _on_device(tasks, order, workers, device)
        )
        done, pairs, failed = 0, 0, []
        delete_leftovers(flow_path(folder, p, format) for p in mine)
        for outcome in jobs.work(
            one,
            tasks,
            folder,
            workers=workers,
            timeout=timeout,
            what=f"flow {method}",
            weights=weights,
            progress=progress,
            dry_run=dry_run,
            run=run,
        ):
            if outcome.error:
                failed.append((todo[outcome.job], outcome.error))
            else:
                done, pairs = done + 1, pairs + outcome.value
    return Report(done, len(mine) - len(todo), failed, time.perf_counter() - began, pairs)


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


def flow_path(folder: str | Path, relative_path: str | Path, format: str = "npz") -> Path:
    """Where a video's flow lies in a store."""
    return Path(folder) / f"{relative_path}{FORMATS[format]}"


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

            return _write(Path(file), flows(), _facts(video, last.shape, settings), video.fps)
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


def _write(file: Path, flows: Iterator[np.ndarray], facts: dict, fps: float) -> tuple[int, int]:
    """uint8 flows [H,W,2] to a file; (their number, its bytes)."""
    if facts["format"] == "npz":
        pieces = [
            zlib.compress(np.ascontiguousarray(f.transpose(2, 0, 1)).tobytes(), _LEVEL)
            for f in flows
        ]
        framestore.write_pack(file, facts, pieces)
        return len(pieces), file.stat().st_size
    wide = facts["width"] + facts["width"] % 2  # H.264 wants even sizes

    def stacked(flow: np.ndarray) -> np.ndarray:
        planes = flow.transpose(2, 0, 1).reshape(-1, flow.shape[1])
        return np.pad(planes, ((0, 0), (0, wide - planes.shape[1])), "edge")

    count = framestore.write_mp4(file, map(stacked, flows), fps or 25.0, _CRF, json.dumps(facts))
    return count, file.stat().st_size


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
) -> Iterator[jobs.Done]:
    """Results for jobs.work: processes decode, this one estimates many pairs at once and writes."""
    import torch

    loader = torch.utils.data.DataLoader(
        _Gray(tasks, order),
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
            count, size = _write(
                Path(tasks[number][1]), (flow for part in parts for flow in part), facts, fps
            )
            yield jobs.Done(number, count, "", time.perf_counter() - began, size)
        began = time.perf_counter()


# ---- reading -----------------------------------------------------------------------------------


def settings_of(folder: str | Path) -> Settings:
    """How a store was made. Raises FlowError where there is none."""
    file = Path(folder) / "flow.json"
    if not file.is_file():
        raise FlowError(
            f"no flow in {folder}: run vidbench flow, or vidbench.data.flow.store.extract"
        )
    held = json.loads(file.read_text(encoding="utf-8"))["settings"]
    if set(held) != set(asdict(Settings())):
        raise FlowError(
            f"{file} must have the settings {', '.join(asdict(Settings()))}; it has "
            f"{', '.join(held)}. Extract the flow again into another folder."
        )
    return Settings(**held)


def meta(folder: str | Path, relative_path: str | Path) -> dict:
    """How a video's flow was made: method, bound, frames, sizes, decoder, OpenCV's version."""
    return _open(folder, relative_path).meta


def length(folder: str | Path, relative_path: str | Path) -> int:
    """Number of flows stored for a video: its frames less one."""
    return meta(folder, relative_path)["frames"] - 1


def load(
    folder: str | Path, relative_path: str | Path, indices: np.ndarray | None = None
) -> np.ndarray:
    """Stored flow at the video's frame indices: uint8 [T,H,W,3] = (u, v, 128); None: all flows.

    The index of the video's last frame gives the last flow; an index outside of the video is an
    IndexError."""
    file = _open(folder, relative_path)
    count = file.meta["frames"] - 1
    indices = np.arange(count) if indices is None else np.asarray(indices)
    if len(indices) and not (0 <= indices.min() and indices.max() <= count):
        raise IndexError(
            f"{file.path} holds flow for frames 0..{count}, got {indices.min()}..{indices.max()}"
        )
    out = np.full((len(indices), file.meta["height"], file.meta["width"], 3), 128, np.uint8)
    if len(indices):
        wanted, place = np.unique(np.minimum(indices, count - 1), return_inverse=True)
        planes = file.planes(wanted)[place]
        out[..., 0], out[..., 1] = planes[:, 0], planes[:, 1]
    return out


def _open(folder: str | Path, relative_path: str | Path) -> _Npz | _Mp4:
    folder = Path(folder)
    for format, kind in (("npz", _Npz), ("mp4", _Mp4)):
        path = flow_path(folder, relative_path, format)
        if path.is_file():
            try:
                return kind(path)
            except (OSError, ValueError, KeyError) as error:
                raise FlowError(
                    f"{path} is not a flow file ({error}): delete it and extract again"
                ) from error
    raise FlowError(
        f"no flow of {relative_path} in {folder}: run vidbench flow, or "
        "vidbench.data.flow.store.extract"
    )


class _Npz:
    """A .flow.npz."""

    def __init__(self, path: Path) -> None:
        self.path, self.meta = path, _packed_meta(str(path), path.stat().st_mtime_ns)

    def planes(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 [n,2,H,W]."""
        out = np.empty((len(wanted), 2, self.meta["height"], self.meta["width"]), np.uint8)
        with framestore.Pack(self.path) as pack:
            for row, i in enumerate(wanted):
                try:
                    out[row] = np.frombuffer(zlib.decompress(pack.piece(int(i))), np.uint8).reshape(
                        out.shape[1:]
                    )
                except (zlib.error, ValueError) as error:
                    raise FlowError(
                        f"{self.path}: flow {i} is damaged ({error}): delete the file and extract "
                        "again"
                    ) from error
        return out


class _Mp4:
    """A .flow.mp4."""

    def __init__(self, path: Path) -> None:
        self.path, about = path, path.stat()
        self.meta = _comment(str(path), about.st_mtime_ns)

    def planes(self, wanted: np.ndarray) -> np.ndarray:
        """uint8 [n,2,H,W]."""
        height, width = self.meta["height"], self.meta["width"]
        try:
            luma = PyAV(self.path, None, _luma).take(wanted)[0]
        except (*failures("pyav"), IndexError) as error:
            raise FlowError(
                f"{self.path} is damaged ({error}): delete the file and extract again"
            ) from error
        return luma.reshape(len(wanted), 2, height, -1)[..., :width]


@lru_cache(maxsize=10_000)
def _packed_meta(path: str, changed: int) -> dict:
    with framestore.Pack(path) as pack:
        return pack.meta


@lru_cache(maxsize=10_000)
def _comment(path: str, changed: int) -> dict:
    with container_of(path) as container:
        return json.loads(container.metadata["comment"])


def _luma(frame) -> np.ndarray:
    """The luma plane [H,W] of PyAV's frame, untouched by any conversion."""
    plane = frame.planes[0]
    return (
        np.frombuffer(plane, np.uint8)
        .reshape(-1, plane.line_size)[: frame.height, : frame.width]
        .copy()
    )
