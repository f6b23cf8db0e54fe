"""Optical flow: OpenCV's TV-L1 or DIS, batched over videos; how it is stored in 8 bits, read back and coloured.

Indices are those of the video's frames: flow i leads from frame i to frame i + 1, and a video of n frames has n - 1
flows; the last frame, which has no successor, takes the flow before it. Values are pixels of the frame the flow was
computed on, (u, v) = (right, down).

The store: folder/flow.json says how it was made, and one `<relative path>.flow.npz` for each video holds the two
channels as uint8, each flow compressed on its own (zlib), so that a clip's reading time does not grow with its video.
The constant third channel of CoCLR's flow pictures is not stored; `load` puts it back.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest

METHODS = ("tvl1", "tvl1_fast", "dis")
BOUND = 20.0  # pixels; MemDPC's extract_ff.py, which CoCLR's flow comes from
SUFFIX = ".flow.npz"
FORMAT = 1
_DIED = "its process died: a crash in the decoder, no memory, or a script without `if __name__ == '__main__'`"
_BLOCK = 256  # frames decoded at a time, so that long videos fit into memory
_LEVEL = 4  # of zlib: 15-17 % of raw for 2 % of TV-L1 fast's time; 1 gives 19-22 %, 6 gives 13-15 % for 5-7 %


class FlowError(RuntimeError):
    """A flow that cannot be computed, a store that refuses or a file that is not one."""


@dataclass(frozen=True)
class Settings:
    """What a store was made with; a folder holds one of these and refuses others."""

    method: str = "tvl1"
    bound: float = BOUND  # pixels at which values are clipped
    size: int | None = None  # short side of the frames in pixels; None: as the video is
    decoder: str = "decord"


class Report(NamedTuple):
    """What `extract` did: videos done, skipped because they were there, failed with their reasons."""

    done: int
    skipped: int
    failed: list[tuple[str, str]]  # (relative path, reason)
    seconds: float
    pairs: int  # flows computed in this call


def _estimator(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of two gray frames; its solver keeps buffers, so make one for each video, not for each pair."""
    import cv2

    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if method == "dis":
        solver = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    else:
        if not hasattr(cv2, "optflow"):
            raise FlowError("TV-L1 lives in OpenCV's contrib modules: install opencv-contrib-python-headless")
        solver = cv2.optflow.DualTVL1OpticalFlow_create()  # defaults: tau .25, lambda .15, theta .3, 5 scales, 5 warps
        if method == "tvl1_fast":
            solver.setEpsilon(0.05)  # default 0.01; the one knob that pays
    return lambda first, second: solver.calc(first, second, None)


def estimate(frames: np.ndarray, method: str = "tvl1") -> np.ndarray:
    """Flow between consecutive frames: uint8 [T,H,W,3] RGB to float32 [T-1,H,W,2], pixels (u right, v down).

    "tvl1": Zach et al. 2007 as OpenCV implements it, at its defaults (CoCLR's flow); "tvl1_fast": the same, stopping
    at epsilon 0.05 (about a fifth of the time); "dis": Kroeger et al. 2016, medium preset, for a quick look.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise ValueError(f"wanted at least two frames, uint8 [T,H,W,3], got {frames.dtype} {frames.shape}")
    return np.stack(list(_pairs(frames, _estimator(method))))


def _pairs(frames: np.ndarray, calc: Callable) -> Iterator[np.ndarray]:
    import cv2

    last = None
    for frame in frames:
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if last is not None:
            yield calc(last, gray)
        last = gray


def quantise(flow: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Flow pictures, MemDPC's way: float [T,H,W,2] in pixels, clipped at +-bound, to uint8 [T,H,W,3] = (u, v, 128)."""
    stored = np.full((*flow.shape[:-1], 3), 128, np.uint8)
    stored[..., :2] = np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound)))
    return stored


def dequantise(stored: np.ndarray, bound: float = BOUND) -> np.ndarray:
    """Back to pixels: uint8 [...,2 or 3] to float32 [...,2]; off by at most half a step, bound / 255."""
    return stored[..., :2].astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def flow_path(folder: str | Path, relative_path: str | Path) -> Path:
    """Where a video's flow lies in a store."""
    return Path(folder) / f"{relative_path}{SUFFIX}"


def _write(file: Path, packed: list[bytes], meta: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            np.savez(
                handle,
                meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
                ends=np.cumsum([len(p) for p in packed], dtype=np.int64),
                data=np.frombuffer(b"".join(packed), np.uint8),
            )
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


class _File:
    """An open .flow.npz: its meta, and the place of each compressed flow in it."""

    def __init__(self, folder: str | Path, relative_path: str | Path):
        self.path = flow_path(folder, relative_path)
        if not self.path.is_file():
            raise FlowError(f"no flow of {relative_path}: {self.path} is not there; run vidbench.data.flow.extract")

    def __enter__(self) -> _File:
        self.handle = open(self.path, "rb")
        try:
            self.zip = zipfile.ZipFile(self.handle)
            self.meta = json.loads(bytes(np.load(self.zip.open("meta.npy"))))
            self.ends = np.load(self.zip.open("ends.npy"))
            # np.load would read and check the whole member; it is stored as it is, so a clip's part can be read alone
            at = self.zip.getinfo("data.npy").header_offset
            self.handle.seek(at + 26)
            at += 30 + sum(struct.unpack("<HH", self.handle.read(4)))
            self.handle.seek(at)
            np.lib.format.read_magic(self.handle)
            np.lib.format.read_array_header_1_0(self.handle)
            self.start = self.handle.tell()
        except (zipfile.BadZipFile, KeyError, ValueError, struct.error) as error:
            self.handle.close()
            raise FlowError(f"{self.path} is not a flow file ({error}): delete it and extract again") from error
        return self

    def __exit__(self, *_) -> None:
        self.handle.close()

    def flow(self, i: int) -> np.ndarray:
        first = int(self.ends[i - 1]) if i else 0
        self.handle.seek(self.start + first)
        try:
            raw = zlib.decompress(self.handle.read(int(self.ends[i]) - first))
        except zlib.error as error:
            raise FlowError(f"{self.path}: flow {i} is damaged ({error}): delete the file and extract again") from error
        return np.frombuffer(raw, np.uint8).reshape(2, self.meta["height"], self.meta["width"])


def length(folder: str | Path, relative_path: str | Path) -> int:
    """Number of flows stored for a video: its frames less one."""
    with _File(folder, relative_path) as file:
        return len(file.ends)


def meta(folder: str | Path, relative_path: str | Path) -> dict:
    """How a video's flow was made: method, bound, frames, sizes, decoder, OpenCV's version."""
    with _File(folder, relative_path) as file:
        return file.meta


def load(folder: str | Path, relative_path: str | Path, indices: np.ndarray | None = None) -> np.ndarray:
    """Stored flow at the video's frame indices: uint8 [T,H,W,3] = (u, v, 128); None: all flows.

    The index of the video's last frame gives the last flow; an index outside of the video is an IndexError.
    """
    with _File(folder, relative_path) as file:
        count = len(file.ends)
        indices = np.arange(count) if indices is None else np.asarray(indices)
        if len(indices) and not (0 <= indices.min() and indices.max() <= count):
            raise IndexError(f"{file.path} holds flow for frames 0..{count}, got {indices.min()}..{indices.max()}")
        out = np.full((len(indices), file.meta["height"], file.meta["width"], 3), 128, np.uint8)
        seen: dict[int, int] = {}
        for row, i in enumerate(np.minimum(indices, count - 1).tolist()):
            if i in seen:
                out[row] = out[seen[i]]
            else:
                out[row, ..., 0], out[row, ..., 1] = file.flow(i)
                seen[i] = row
        return out


def extract(
    manifest: Manifest, folder: str | Path, method: str = "tvl1", *, bound: float = BOUND, size: int | None = None,
    workers: int = 0, decoder: str = "decord", progress: bool = True,
) -> Report:  # fmt: skip
    """Compute and store the flow of every video of a manifest; call it again to go on where it stopped.

    `size`: short side in pixels to which frames are brought before estimation (None: as they are). `workers`: 0 or 1
    computes in this process, more in as many spawned processes with one OpenCV thread each (a script then needs the
    `if __name__ == "__main__"` guard). A video that cannot be read is counted and named in the report and does not stop
    the rest; it is tried again by the next call. A folder made with other settings is refused with a FlowError.
    """
    if method not in METHODS or not bound > 0 or workers < 0:
        raise ValueError(f"method in {METHODS}, bound > 0, workers >= 0; got {method!r}, {bound}, {workers}")
    from tqdm import tqdm

    began, folder = time.perf_counter(), Path(folder)
    settings = Settings(method, float(bound), size, decoder)
    _claim(folder, settings)
    paths = [str(p) for p in manifest.path]
    todo = [p for p in dict.fromkeys(paths) if not flow_path(folder, p).is_file()]
    jobs = [(str(manifest.root / p), p, str(folder), settings) for p in todo]
    done, pairs, failed = 0, 0, []
    slow = 0.1 if sys.stderr.isatty() else 10.0  # a log wants few lines
    quiet = not (progress and jobs)
    with tqdm(total=len(jobs), desc=f"flow {method}", unit="video", disable=quiet, mininterval=slow) as bar:
        for path, count, reason in _in_process(jobs) if workers <= 1 else _in_pool(jobs, workers):
            if reason:
                failed.append((path, reason))
            else:
                done, pairs = done + 1, pairs + count
            rate = round(pairs / (time.perf_counter() - began), 1)
            bar.set_postfix(pairs_per_s=rate, failed=len(failed), refresh=False)
            bar.update()
    return Report(done, len(set(paths)) - len(todo), failed, time.perf_counter() - began, pairs)


def _claim(folder: Path, settings: Settings) -> None:
    """Write flow.json into a new folder, or compare with the one that is there."""
    import cv2

    file = folder / "flow.json"
    if file.is_file():
        there, wanted = json.loads(file.read_text())["settings"], asdict(settings)
        differ = [k for k in {**wanted, **there} if there.get(k) != wanted.get(k)]
        if differ:
            listed = "; ".join(f"{k}: there {there.get(k)!r}, wanted {wanted.get(k)!r}" for k in differ)
            raise FlowError(f"{folder} was made with other settings ({listed}): use them or another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"flow.json.{os.getpid()}.tmp"
    facts = {"format": FORMAT, "settings": asdict(settings), "versions": {"opencv": cv2.__version__}}
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(temporary, file)


class _Stopped(Exception):
    """The parent asked this worker to leave its video unfinished."""


_stop = None  # in a worker: the parent's event


def _start_worker(stop) -> None:
    import cv2

    global _stop
    _stop = stop
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sets the event


def _in_process(jobs: list[tuple]) -> Iterator[tuple[str, int, str]]:
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for job in jobs:
            yield _extract_one(job)
    finally:
        cv2.setNumThreads(threads)


def _in_pool(jobs: list[tuple], workers: int) -> Iterator[tuple[str, int, str]]:
    """Results as they come. A decoder that kills its process breaks the pool: its videos are then tried one by one."""
    context = get_context("spawn")  # never fork: OpenCV may have run threads here
    queue, suspects = deque(jobs), deque()
    while queue or suspects:
        todo, width = (suspects, 1) if suspects else (queue, workers)
        stop, running = context.Event(), {}
        with ProcessPoolExecutor(width, context, _start_worker, (stop,)) as pool:
            try:
                while todo or running:
                    while todo and len(running) < width:
                        running[pool.submit(_extract_one, todo[0])] = todo[0]
                        todo.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield future.result()
                        del running[future]
            except BrokenProcessPool:
                if width > 1:
                    suspects.extend(running.values())
                    continue
                for job in running.values():
                    yield job[1], 0, _DIED
            except BaseException:  # Ctrl-C, a full disk: let the workers leave their videos, then pass it on
                stop.set()
                raise


def _extract_one(job: tuple[str, str, str, Settings]) -> tuple[str, int, str]:
    """(relative path, flows, reason of failure or ""). Errors of writing are raised: they concern all videos."""
    import cv2

    from vidbench.data.clips import VideoError

    video, path, folder, settings = job
    try:
        packed, shape, source = _compute(video, settings)
    except _Stopped:
        raise
    except (VideoError, FlowError, OSError, cv2.error) as error:  # what a broken file does; named in the report
        return path, 0, f"{type(error).__name__}: {error}"
    facts = {"format": FORMAT, **asdict(settings), "frames": len(packed) + 1, "height": shape[0], "width": shape[1]}
    facts |= {"source_height": source[0], "source_width": source[1], "opencv": cv2.__version__}
    _write(flow_path(folder, path), packed, facts)
    return path, len(packed), ""


def _compute(video: str, settings: Settings) -> tuple[list[bytes], tuple[int, int], tuple[int, int]]:
    from vidbench.data import clips

    calc, packed = _estimator(settings.method), []
    with clips.Video(video, settings.decoder, settings.size) as source:
        if source.frames < 2:
            raise FlowError(f"flow needs two frames, {video} has {source.frames}")
        for start in range(0, source.frames - 1, _BLOCK):
            frames = source.read(np.arange(start, min(start + _BLOCK + 1, source.frames))).frames
            for flow in _pairs(frames, calc):
                if _stop is not None and _stop.is_set():
                    raise _Stopped
                planes = quantise(flow, settings.bound)[..., :2].transpose(2, 0, 1)
                packed.append(zlib.compress(planes.tobytes(), _LEVEL))
    size = clips.probe(video, settings.decoder)[2:4] if settings.size else frames.shape[1:3]
    return packed, frames.shape[1:3], tuple(size)


def colours(flow: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Flow as colours: float [...,H,W,2] in pixels to uint8 [...,H,W,3] (Middlebury wheel: Baker et al., IJCV 2011).

    Direction is hue, speed is saturation: no motion is white, `limit` pixels (None: the fastest pixel) full colour,
    faster ones darker.
    """
    if flow.shape[-1] != 2 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"wanted flow in pixels, float [...,2], got {flow.dtype} {flow.shape}: see dequantise")
    u, v = flow[..., 0], flow[..., 1]
    speed = np.hypot(u, v)
    speed = speed / max(float(speed.max(initial=0.0)) if limit is None else limit, 1e-6)
    ring = _ring()
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(ring) - 1)
    low = np.floor(place).astype(int)
    part = (place - low)[..., None]
    colour = (1 - part) * ring[low] + part * ring[(low + 1) % len(ring)]
    inside = (speed <= 1)[..., None]
    colour = np.where(inside, 1 - np.minimum(speed, 1)[..., None] * (1 - colour), colour * 0.75)
    return np.rint(255 * colour).astype(np.uint8)


def _ring() -> np.ndarray:
    """55 colours [55,3] in 0..1: red, yellow, green, cyan, blue, magenta, with more steps where eyes see more."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)
    steps = (15, 6, 4, 11, 13, 6)
    return np.concatenate([
        a + (b - a) * np.arange(n)[:, None] / n for a, b, n in zip(corners[:-1], corners[1:], steps, strict=True)
    ])  # fmt: skip


def wheel(size: int = 128) -> np.ndarray:
    """The key to `colours`: uint8 [size,size,3], a disc; a place has the colour of motion from the centre to it."""
    line = (np.arange(size) + 0.5) * 2 / size - 1
    flow = np.stack(np.broadcast_arrays(line[None, :], line[:, None]), -1)
    disc = colours(flow, limit=1.0)
    disc[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 255
    return disc
