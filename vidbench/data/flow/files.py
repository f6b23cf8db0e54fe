"""The flow file: an 8-bit file that describes itself, one for each video, read at random.

    npz   `<path>.flow.npz`: each flow compressed on its own (zlib); exact; 15 to 18 % of raw uint8
    mp4   `<path>.flow.mp4`: u above v in the luma plane of H.264, keyframe every 16; 3 to 4.5 % of raw, and it adds up
          to 0.04 px to the 0.07 px of the 8 bits (benchmarks/flow.py). For Kinetics.

The constant third channel of CoCLR's flow pictures is not stored; `load` puts it back. Flow i leads
from frame i to frame i + 1 of the video, as `clips.Video` with the same decoder numbers them. A
video of n frames has n - 1 flows. Its last frame has no successor and takes the flow before it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidbench.data.flow.estimate import BOUND, FlowError
from vidbench.data.video import clips, framestore
from vidbench.data.video.decoders import PyAV, container_of, failures

FORMATS = {"npz": ".flow.npz", "mp4": ".flow.mp4"}
VERSION = 1
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


def flow_path(folder: str | Path, relative_path: str | Path, format: str = "npz") -> Path:
    """Where a video's flow lies in a store."""
    return Path(folder) / f"{relative_path}{FORMATS[format]}"


def write(file: Path, flows: Iterator[np.ndarray], facts: dict, fps: float) -> tuple[int, int]:
    """Write uint8 flows [H,W,2] to a file; (their number, its bytes)."""
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
        bad: tuple[type[Exception], ...] = (*failures("pyav"), IndexError)
        try:
            luma = PyAV(self.path, None, _luma).take(wanted)[0]
        except bad as error:
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
