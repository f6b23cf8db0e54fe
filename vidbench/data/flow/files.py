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
from typing import Any

import numpy as np

from vidbench.data.flow.estimate import BOUND, METHODS, FlowError
from vidbench.data.prepare import jobs
from vidbench.data.prepare.outputs import name_of
from vidbench.data.video import clips, framestore
from vidbench.data.video.decoders import PyAV, container_of, failures
from vidbench.system.files import same_content

FORMATS = {"npz": ".flow.npz", "mp4": ".flow.mp4"}
VERSION = 2  # 1 did not record what the flow was computed from
BOUNDS = (0.1, 1000.0)  # pixels; 8 bits of more, or of less, hold nothing
SIZES = (2, 8192)  # pixels
LARGEST = 1 << 15  # pixels; height or width in a file
_RATIO = 1100  # zlib packs at most 1,032 bytes into one
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

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.format not in FORMATS:
            raise ValueError(
                f"method in {METHODS}, format in {tuple(FORMATS)}; got {self.method!r}, "
                f"{self.format!r}"
            )
        if isinstance(self.bound, bool) or not isinstance(self.bound, int | float):
            raise ValueError(f"bound must be a number of pixels; got {self.bound!r}")
        if not BOUNDS[0] <= self.bound <= BOUNDS[1]:  # not a number is refused, too
            raise ValueError(f"bound must be {BOUNDS[0]} to {BOUNDS[1]} pixels; got {self.bound}")
        whole = isinstance(self.size, int) and not isinstance(self.size, bool)
        if self.size is not None and not (whole and SIZES[0] <= self.size <= SIZES[1]):
            raise ValueError(
                f"size, the short side, must be {SIZES[0]} to {SIZES[1]} pixels, or nothing for "
                f"the video's own; got {self.size!r}"
            )
        object.__setattr__(self, "bound", float(self.bound))


Job = tuple[str, str, Settings, str | None]  # video, file to write, settings, the video's stamp


def facts_of(
    video: clips.Video, shape: tuple[int, ...], settings: Settings, stamp: str | None
) -> dict[str, Any]:
    """Collect what a flow file says about itself.

    Args:
        video: The opened video.
        shape: Height and width of the flow.
        settings: How the flow is made.
        stamp: Of the video's file.

    Raises:
        FlowError: the video has one frame.
    """
    if video.frames < 2:
        raise FlowError(f"flow needs two frames, {video.path} has {video.frames}")
    return {
        **asdict(settings),
        "source": stamp,
        "read_by": video.decoder,
        "frames": video.frames,
        "height": shape[0],
        "width": shape[1],
        "opencv": opencv(),
    }


def opencv() -> str:
    """Return OpenCV's version."""
    import cv2

    return cv2.__version__


def flow_path(folder: str | Path, relative_path: str | Path, format: str = "npz") -> Path:
    """Return the path of a video's flow in a store; it is always inside the folder.

    Args:
        folder: The store.
        relative_path: The video's path in its manifest.
        format: A key of FORMATS.
    """
    return Path(folder) / name_of(str(relative_path), FORMATS[format])


def write(file: Path, flows: Iterator[np.ndarray], facts: dict, fps: float) -> tuple[int, int]:
    """Write flows to a file.

    Args:
        flows: uint8 [H,W,2] each.
        facts: See `facts_of`.
        fps: Frame rate of format mp4; 0 means 25.

    Returns:
        The number of flows and the bytes of the file.
    """
    if facts["format"] == "npz":
        pieces = [
            zlib.compress(np.ascontiguousarray(f.transpose(2, 0, 1)).tobytes(), _LEVEL)
            for f in flows
        ]
        framestore.write_pack(file, facts, pieces)
        return len(pieces), file.stat().st_size
    wide = facts["width"] + facts["width"] % 2  # H.264 needs even sizes

    def stacked(flow: np.ndarray) -> np.ndarray:
        planes = flow.transpose(2, 0, 1).reshape(-1, flow.shape[1])
        return np.pad(planes, ((0, 0), (0, wide - planes.shape[1])), "edge")

    count = framestore.write_mp4(file, map(stacked, flows), fps or 25.0, _CRF, json.dumps(facts))
    return count, file.stat().st_size


# ---- reading -----------------------------------------------------------------------------------


def settings_of(folder: str | Path) -> Settings:
    """Read how a store was made.

    Raises:
        FlowError: the folder holds no store, or one of another version.
    """
    file = Path(folder) / "flow.json"
    if not file.is_file():
        raise FlowError(
            f"no flow in {folder}: run vidbench flow, or vidbench.data.flow.store.extract"
        )
    return _settings_of(str(file), file.stat().st_mtime_ns)


@lru_cache(maxsize=100)
def _settings_of(file: str, changed: int) -> Settings:
    ways = "Extract the flow again into another folder."
    try:
        held = dict(json.loads(Path(file).read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FlowError(f"{file} does not describe flow ({error!r}). {ways}") from error
    if set(held) != set(asdict(Settings())) or held["version"] != VERSION:
        raise FlowError(
            f"{file} must have the settings {', '.join(asdict(Settings()))} and version {VERSION}; "
            f"it has {', '.join(held)} and version {held.get('version')}. {ways}"
        )
    try:
        return Settings(**held)
    except ValueError as error:
        raise FlowError(f"{file}: {error}. {ways}") from error


def meta(
    folder: str | Path, relative_path: str | Path, source: str | Path | None = None
) -> dict[str, Any]:
    """Read how a video's flow was made: method, bound, frames, sizes, decoder, OpenCV's version.

    Args:
        source: The video; if it is given and exists, the flow must be of it as it is now.

    Raises:
        FlowError: the flow is missing, damaged, or of another version of the video.
    """
    return _open(folder, relative_path, source).meta


def length(folder: str | Path, relative_path: str | Path, source: str | Path | None = None) -> int:
    """Count the flows stored for a video: its frames less one.

    Args:
        folder, relative_path, source: See `meta`.
    """
    return meta(folder, relative_path, source)["frames"] - 1


def load(
    folder: str | Path,
    relative_path: str | Path,
    indices: np.ndarray | None = None,
    source: str | Path | None = None,
) -> np.ndarray:
    """Stored flow at the video's frame indices: uint8 [T,H,W,3] = (u, v, 128); None: all flows.

    The index of the video's last frame gives the last flow.

    Args:
        source: See `meta`.

    Raises:
        IndexError: an index outside of the video.
        FlowError: see `meta`.
    """
    file = _open(folder, relative_path, source)
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


def _open(folder: str | Path, relative_path: str | Path, source: str | Path | None) -> _Npz | _Mp4:
    made = settings_of(folder) if Path(folder, "flow.json").is_file() else None
    for format in FORMATS if made is None else (made.format,):
        path = flow_path(folder, relative_path, format)
        if path.is_file():
            file = opened(path)
            if made is not None and not of_settings(file.meta, made):
                raise FlowError(
                    f"{path} was made with other settings than {folder}/flow.json says: run "
                    "vidbench flow again"
                )
            _check_source(file, source)
            return file
    raise FlowError(
        f"no flow of {relative_path} in {folder}: run vidbench flow, or "
        "vidbench.data.flow.store.extract"
    )


def opened(path: Path) -> _Npz | _Mp4:
    """Open a flow file by its own name.

    Raises:
        FlowError: it is not one, or what it says of itself does not fit its bytes.
    """
    try:
        return _Npz(path) if path.name.endswith(FORMATS["npz"]) else _Mp4(path)
    except (OSError, ValueError, LookupError, TypeError, MemoryError, RecursionError) as error:
        raise FlowError(
            f"{path} is not a flow file ({error}): delete it and extract again"
        ) from error


def of_settings(facts: dict[str, Any], settings: Settings) -> bool:
    """Return whether a flow file was made with these settings.

    Args:
        facts: See `facts_of`.
    """
    return all(facts.get(name) == value for name, value in asdict(settings).items())


def _check_source(file: _Npz | _Mp4, source: str | Path | None) -> None:
    stamp = None if source is None else _stamp_of(Path(source))
    if stamp and not same_content(str(file.meta.get("source")), stamp):
        raise FlowError(
            f"{file.path} was computed from another version of {source} (stamp "
            f"{file.meta.get('source')}, now {stamp}): run vidbench flow again"
        )


def _stamp_of(source: Path) -> str | None:
    try:
        about = source.stat()
    except (OSError, ValueError):
        return None
    return _stamp(str(source), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _stamp(source: str, size: int, changed: int) -> str | None:
    return jobs.stamp(Path(source))


def _checked(facts: Any, size: int, flows: int, packed: bool) -> dict[str, Any]:
    """A file's facts, if they fit its bytes and the number of flows in it.

    Raises:
        ValueError: they do not, and must not decide how much memory is taken.
    """
    numbers = [facts[name] for name in ("frames", "height", "width")]
    if any(type(number) is not int for number in numbers):
        raise ValueError(f"frames, height and width must be whole numbers, got {numbers}")
    frames, height, width = numbers
    if frames - 1 != flows or not (1 <= flows <= size):
        raise ValueError(f"it promises {frames - 1} flows and holds {flows}")
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ValueError(f"it promises flow of {height} x {width} pixels")
    if packed and 2 * flows * height * width > _RATIO * size:
        raise ValueError(f"{size} bytes cannot hold {flows} flows of {height} x {width} pixels")
    return facts


class _Npz:
    """A .flow.npz."""

    def __init__(self, path: Path) -> None:
        about = path.stat()
        self.path, self.meta = path, _packed_meta(str(path), about.st_size, about.st_mtime_ns)

    def planes(self, wanted: np.ndarray) -> np.ndarray:
        """Read flows by number: uint8 [n,2,H,W]."""
        out = np.empty((len(wanted), 2, self.meta["height"], self.meta["width"]), np.uint8)
        with framestore.Pack(self.path) as pack:
            for row, i in enumerate(wanted):
                try:
                    plain = _unpacked(pack.piece(int(i)), out[row].nbytes)
                    out[row] = np.frombuffer(plain, np.uint8).reshape(out.shape[1:])
                except (zlib.error, ValueError, OSError, MemoryError, OverflowError) as error:
                    raise FlowError(
                        f"{self.path}: flow {i} is damaged ({error}): delete the file and extract "
                        "again"
                    ) from error
        return out


def _unpacked(piece: bytes, size: int) -> bytes:
    """Unpack a zlib stream that must give so many bytes; more are never made."""
    stream = zlib.decompressobj()
    plain = stream.decompress(piece, size + 1)
    if len(plain) != size or not stream.eof:
        raise ValueError(f"it is not of {size} bytes, or cut short")
    return plain


class _Mp4:
    """A .flow.mp4."""

    def __init__(self, path: Path) -> None:
        about = path.stat()
        self.path, self.meta = path, _comment(str(path), about.st_size, about.st_mtime_ns)

    def planes(self, wanted: np.ndarray) -> np.ndarray:
        """Read flows by number: uint8 [n,2,H,W]."""
        height, width = self.meta["height"], self.meta["width"]
        bad: tuple[type[Exception], ...] = (*failures("pyav"), IndexError)
        try:
            luma = PyAV(self.path, None, _luma).take(wanted)[0]
            return luma.reshape(len(wanted), 2, height, -1)[..., :width]
        except bad as error:
            raise FlowError(
                f"{self.path} is damaged ({error}): delete the file and extract again"
            ) from error


@lru_cache(maxsize=10_000)
def _packed_meta(path: str, size: int, changed: int) -> dict[str, Any]:
    with framestore.Pack(path) as pack:
        if pack.raw:
            raise ValueError("it holds pictures, not flow")
        return _checked(pack.meta, size, pack.count, packed=True)


@lru_cache(maxsize=10_000)
def _comment(path: str, size: int, changed: int) -> dict[str, Any]:
    with container_of(path) as container:
        stream = container.streams.video[0]
        facts = _checked(json.loads(container.metadata["comment"]), size, stream.frames, False)
        shape = stream.codec_context.height, stream.codec_context.width
    wanted = 2 * facts["height"], facts["width"] + facts["width"] % 2
    if shape != wanted:
        raise ValueError(f"its pictures are of {shape} pixels, not {wanted}")
    return facts


def _luma(frame) -> np.ndarray:
    """The luma plane [H,W] of PyAV's frame, untouched by any conversion."""
    plane = frame.planes[0]
    return (
        np.frombuffer(plane, np.uint8)
        .reshape(-1, plane.line_size)[: frame.height, : frame.width]
        .copy()
    )
