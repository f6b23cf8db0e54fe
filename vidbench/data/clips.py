"""Which frames of a video make a clip (pure integer arithmetic), and decoding them: one adapter over three decoders.

Frame choice. Every function returns int64 frame numbers and takes lengths, not files. A stride is a whole number or a
Fraction of source frames per clip frame (`stride_for` makes one from a target frame rate): clip frame i stands
floor(i * stride) frames after the first. A window that does not fit follows `pad`:
    "last"   starts at 0 and holds the last frame (default)
    "first"  repeats frame 0 on the LEFT, then runs to the end of the video (CoCLR code, dataset/lmdb_dataset.py)
    "loop"   starts at 0 and runs through the video again
Numbers come from an argument `rng`; nothing is drawn where there is no choice.

Decoding. Frame i of a file means the i-th frame that a full decode from the start shows. decord, the default, is exact
and fast on H.264, VP9 and plain AVI. It miscounts files without usable time stamps and AVIs with packets that code no
picture (HMDB51, part of UCF101 and UCF50: 20 may come back as 0, one frame too many is reported), files whose edit list
hides frames, and MPEG program and transport streams. torchcodec is one frame off on most of UCF101's AVIs. Such files
are recognised on opening and read by PyAV, which decodes from the start and counts; VideoInfo.decoder says who read.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

PADS = ("last", "first", "loop")
EMPTY = 16  # bytes; MPEG-4's "not coded" picture takes 6 to 8, a coded one where nothing moves over 20
STREAM_SUFFIXES = (".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts")  # containers without an index of frames
Stride = int | Fraction


# ---- which frames ------------------------------------------------------------------------------------------------


def stride_for(fps: float, target_fps: float) -> Fraction:
    """The stride that turns fps into target_fps: 30 to 8 gives 15/4; 29.97 is taken as 30000/1001.

    A target above fps gives a stride below 1: frames repeat. Raises ValueError unless both are positive.
    """
    if not (fps > 0 and target_fps > 0):
        raise ValueError(f"frame rates must be positive, got fps={fps} and target_fps={target_fps}")
    return Fraction(fps).limit_denominator(1001) / Fraction(target_fps).limit_denominator(1001)


def _offsets(length: int, frames: int, stride: Stride, pad: str) -> np.ndarray:
    """Frame numbers [T] of a window at 0, before padding. Raises ValueError on nonsense, at the door."""
    if length < 1 or frames < 1:
        raise ValueError(f"video and clip need at least one frame each, got length={length}, frames={frames}")
    if not stride > 0:
        raise ValueError(f"stride must be positive, got {stride}")
    if pad not in PADS:
        raise ValueError(f"pad must be one of {PADS}, got {pad!r}")
    step = Fraction(stride)
    return np.arange(frames, dtype=np.int64) * step.numerator // step.denominator


def span(frames: int, stride: Stride = 1) -> int:
    """Source frames a window covers, first to last; a video at least this long needs no padding."""
    return int(_offsets(1, frames, stride, "last")[-1]) + 1


def _windows(length: int, offsets: np.ndarray, starts: Sequence[int] | np.ndarray, pad: str) -> np.ndarray:
    """Windows [V,T] at the starts; a video shorter than a window gives its padded clip in each of them."""
    if offsets[-1] < length:
        return np.asarray(starts, dtype=np.int64)[:, None] + offsets
    if pad == "last":
        window = np.minimum(offsets, length - 1)
    elif pad == "loop":
        window = offsets % length
    else:
        inside = offsets[offsets < length]
        window = np.concatenate([np.zeros(len(offsets) - len(inside), np.int64), inside])
    return np.repeat(window[None], len(starts), axis=0)


def random_window(
    length: int, frames: int, stride: Stride = 1, *, rng: np.random.Generator, pad: str = "last"
) -> np.ndarray:
    """One window [T], its start uniform over all that fit (CoCLR's code leaves out the very last); short: `pad`."""
    offsets = _offsets(length, frames, stride, pad)
    room = length - 1 - int(offsets[-1])
    return _windows(length, offsets, [int(rng.integers(room + 1)) if room > 0 else 0], pad)[0]


def random_windows(
    length: int, frames: int, windows: int, stride: Stride = 1, *, rng: np.random.Generator, pad: str = "last"
) -> np.ndarray:
    """Independent windows [V,T]; they may overlap or coincide (CoCLR takes two: its dataset/lmdb_dataset.py)."""
    return np.stack([random_window(length, frames, stride, rng=rng, pad=pad) for _ in range(windows)])


def uniform_segments(length: int, segments: int, *, rng: np.random.Generator | None = None) -> np.ndarray:
    """One frame [T] from each of T equal segments: random, or with rng None the middle (TSN; Something-Something).

    Segment k is floor(k*length/T) up to floor((k+1)*length/T). A video shorter than T frames repeats frames, in order.
    """
    _offsets(length, segments, 1, "last")
    edges = np.arange(segments + 1, dtype=np.int64) * length // segments
    sizes = np.diff(edges)
    inside = sizes // 2 if rng is None else rng.integers(np.maximum(sizes, 1))
    return edges[:-1] + inside


def spread_windows(length: int, frames: int, windows: int, stride: Stride = 1, pad: str = "last") -> np.ndarray:
    """Windows [V,T] evenly spread: the first touches frame 0, the last the end; a single one stands in the middle.

    Short videos: every window is the same padded clip (`pad`).
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    offsets = _offsets(length, frames, stride, pad)
    room = max(0, length - 1 - int(offsets[-1]))
    if windows == 1:
        return _windows(length, offsets, [room // 2], pad)
    gaps = windows - 1
    starts = (2 * np.arange(windows, dtype=np.int64) * room + gaps) // (2 * gaps)  # rounded, not cut: symmetric
    return _windows(length, offsets, starts, pad)


def sliding_windows(length: int, frames: int, hop: int, stride: Stride = 1, pad: str = "last") -> np.ndarray:
    """Windows [V,T] every `hop` frames, and one that touches the end (CoCLR's test: 32 frames, hop 15).

    V follows from the length; it is 1, padded by `pad`, for a video that is too short.
    """
    if hop < 1:
        raise ValueError(f"hop must be at least 1 frame, got {hop}")
    offsets = _offsets(length, frames, stride, pad)
    room = max(0, length - 1 - int(offsets[-1]))
    starts = list(range(0, room + 1, hop))
    return _windows(length, offsets, starts if starts[-1] == room else [*starts, room], pad)


# ---- decoding ----------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Frames as asked for, in the order asked for."""

    frames: np.ndarray  # uint8 [T,H,W,C] RGB
    indices: np.ndarray  # int64 [T]
    times: np.ndarray  # float64 [T] presentation time, seconds


class VideoInfo(NamedTuple):
    """What a file holds, as it comes out of the decoder (turned and resized)."""

    frames: int
    fps: float
    height: int
    width: int
    decoder: str  # who read the file: the one asked for, or "pyav" where that one would miscount


class VideoError(RuntimeError):
    """A file or frame that cannot be had; names the path, the decoder, what came and what to do."""


def short_side(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) after a resize: None keeps, a number is the short side with the aspect kept, a pair is taken as it is."""
    if size is None:
        return height, width
    if isinstance(size, int):
        shorter = min(height, width)
        size = (round(height * size / shorter), round(width * size / shorter))
    if min(size) < 1:
        raise ValueError(f"size must be positive pixels, got {size}")
    return int(size[0]), int(size[1])


def _container(path: str | Path):
    import av

    # metadata in other encodings than UTF-8 (an HMDB51 clip) must not stop the decoding
    container = av.open(str(path), metadata_errors="ignore")
    container.streams.video[0].codec_context.thread_count = 1
    return container


@lru_cache(maxsize=100_000)
def _has_empty_packets(path: Path, changed: int) -> bool:
    """Whether packets are too small to code a picture: XviD placeholders, which shift the count of seeking readers."""
    with _container(path) as container:
        stream = container.streams.video[0]
        return any(packet.size <= EMPTY and packet.pts is not None for packet in container.demux(stream))


@lru_cache(maxsize=1024)
def _shown_times(path: str, changed: int, size: int) -> np.ndarray:
    """Presentation times [N] of all frames that a decode from the start shows; kept, as it decodes the whole file."""
    with _container(path) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 1)
        stamps = [frame.time for frame in container.decode(stream)]
    if None in stamps or len(set(stamps)) < len(stamps):
        return np.arange(len(stamps)) / fps
    # packed B-frames leave the stamps out of order; sorted, they are the times at which frames are shown
    return np.sort(np.array(stamps, np.float64))


class _PyAV:
    """Decodes from the start and counts shown frames: exact on every file, and as slow as the file is long."""

    def __init__(self, path: Path, size: int | tuple[int, int] | None) -> None:
        about = path.stat()
        self.times = _shown_times(str(path), about.st_mtime_ns, about.st_size)
        self.frames, self._path, self._size = len(self.times), path, size
        with _container(path) as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate or stream.guessed_rate or 0)

    def exact(self, path: Path) -> bool:
        """Always: it counts what it shows."""
        return True

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames [n,H,W,C] and their times of wanted [n], ascending without repeats."""
        frames, left = [], set(wanted.tolist())
        with _container(self._path) as container:
            for i, frame in enumerate(container.decode(container.streams.video[0])):
                if i in left:
                    frames.append(self._picture(frame))
                if i == wanted[-1]:
                    break
        return np.stack(frames), self.times[wanted]

    def _picture(self, frame) -> np.ndarray:
        quarter_turns = int(round(frame.rotation / 90)) % 4  # as players show it, and decord gives it
        height, width = (frame.width, frame.height) if quarter_turns % 2 else (frame.height, frame.width)
        height, width = short_side(height, width, self._size)
        if quarter_turns % 2:
            height, width = width, height
        picture = frame.to_ndarray(format="rgb24", height=height, width=width, interpolation="BICUBIC")
        return np.rot90(picture, quarter_turns) if quarter_turns else picture

    def close(self) -> None:
        """Nothing is held open between calls."""


class _Decord:
    """decord with one thread, its global bridge untouched, set to fail where it would hand out a neighbouring frame."""

    def __init__(self, path: Path, size: int | tuple[int, int] | None) -> None:
        import decord

        def reader(**resize: int):
            # fault_tol: the share of frames that may silently be replaced by a neighbour; the smallest means none
            return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9, **resize)

        self._reader, self._path, self._size = reader(), path, None
        self.frames = len(self._reader)
        self.fps = float(self._reader.get_avg_fps())
        stamps = np.asarray(self._reader.get_frame_timestamp(np.arange(self.frames)), np.float64)
        self.times = stamps[:, 0] if self.frames else np.empty(0)
        if size is not None and self.exact(path):
            shape = self._batch(np.zeros(1, np.int64)).shape
            height, width = short_side(shape[1], shape[2], size)
            self._reader, self._size = reader(height=height, width=width), (height, width)

    def exact(self, path: Path) -> bool:
        """Whether decord's frame numbers hold: it seeks by time stamp, and these must be there and in order."""
        ordered = not self.frames or bool(self.times[0] > -1e-6 and (np.diff(self.times) > 0).all())
        suffix = path.suffix.lower()
        packed = suffix == ".avi" and _has_empty_packets(path, path.stat().st_mtime_ns)
        return ordered and suffix not in STREAM_SUFFIXES and not packed

    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        import decord

        try:
            batch = self._reader.get_batch(wanted)
        except decord.DECORDError as error:
            if "The size must exactly match" not in str(error):
                raise
            return _PyAV(self._path, self._size).take(wanted)[0]  # it cannot copy frames 16, 24, 48 or 72 pixels wide
        self._reader.seek(0)  # else its thread decodes on in the background and fills memory (dmlc/decord issue 157)
        return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)  # others may have set the bridge

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._batch(wanted), self.times[wanted]

    def close(self) -> None:
        self._reader = None


class _TorchCodec:
    """torchcodec, exact seeking; it wants FFmpeg's shared libraries from the system or conda."""

    codecs = ("h264", "hevc", "vp8", "vp9", "av1")

    def __init__(self, path: Path, size: int | tuple[int, int] | None) -> None:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        settings = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
        try:
            self._decoder = VideoDecoder(str(path), **settings)
        except RuntimeError as error:
            if "load libtorchcodec" not in str(error):  # FFmpeg is looked for at first use, not at import
                raise
            raise _not_loaded("torchcodec", error) from error
        about = self._decoder.metadata
        if size is not None:
            resize = Resize(short_side(about.height, about.width, size))
            self._decoder = VideoDecoder(str(path), **settings, transforms=[resize])
        self.frames, self.fps, self._codec = len(self._decoder), float(about.average_fps), about.codec

    def exact(self, path: Path) -> bool:
        """Trusted on modern codecs only: with packed B-frames in AVI it returns frame i - 1 for i."""
        return self._codec in self.codecs and path.suffix.lower() not in (".avi", *STREAM_SUFFIXES)

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = self._decoder.get_frames_at(wanted.tolist())
        return batch.data.numpy(), batch.pts_seconds.numpy()

    def close(self) -> None:
        self._decoder = None


DECODERS = {"decord": _Decord, "torchcodec": _TorchCodec, "pyav": _PyAV}
_MODULES = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}
# their own exception classes, which are not below Python's
_FAILURES = {"decord": ("DECORDError", "DECORDLimitReachedError"), "pyav": ("FFmpegError",)}


def _not_loaded(decoder: str, error: Exception) -> ImportError:
    others = " or ".join(repr(name) for name in DECODERS if name != decoder)
    said = str(error).splitlines()[0][:200]
    return ImportError(
        f"decoder {decoder!r} does not load; use decoder={others}, or install it (torchcodec: vidbench[torchcodec] and "
        f"FFmpeg's shared libraries, as in environment.yml; decord: x86-64 only). It said: {said}"
    )


def _failures(decoder: str) -> tuple[type[Exception], ...]:
    """What a decoder raises on a bad file. Raises ImportError, with the ways out, where the decoder does not load."""
    try:
        module = importlib.import_module(_MODULES[decoder])
    except (ImportError, RuntimeError, OSError) as error:
        raise _not_loaded(decoder, error) from error
    own = (getattr(module, name) for name in _FAILURES.get(decoder, ()))
    return (*own, RuntimeError, OSError, ValueError, IndexError)


class Video:
    """One open file: `frames`, `fps`, and `read(indices)`; open per sample, close after (it cannot be pickled).

    decoder: a name in DECODERS. size: (H, W) or short side in pixels, resized while decoding. Raises VideoError where
    the file is missing or does not open, ValueError on an unknown decoder, ImportError where it is not installed.
    """

    def __init__(self, path: str | Path, decoder: str = "decord", size: int | tuple[int, int] | None = None) -> None:
        if decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
        self.path = Path(path)
        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file; check the manifest's root and paths")
        self._open(decoder, size)
        if not self._reader.exact(self.path):
            self._reader.close()
            self._open("pyav", size)
        self.frames, self.fps = self._reader.frames, self._reader.fps
        if not self.frames:
            raise VideoError(f"{self.path}: {self.decoder} finds no frame in it; re-encode it or drop it")

    def _open(self, decoder: str, size: int | tuple[int, int] | None) -> None:
        self.decoder, self._failures = decoder, _failures(decoder)
        self._reader = self._try("open", DECODERS[decoder], self.path, size)

    def _try(self, what: str, function, *arguments):
        try:
            return function(*arguments)
        except self._failures as error:
            said = " ".join(str(error).split())[:300]
            others = ", ".join(name for name in DECODERS if name != self.decoder)
            raise VideoError(
                f"{self.path}: {self.decoder} cannot {what} it ({type(error).__name__}: {said}); try another decoder "
                f"({others}), re-encode the file or drop it from the manifest"
            ) from error

    def read(self, indices: Sequence[int] | np.ndarray | None = None) -> Clip:
        """Frames by number, in any order, repeats allowed (decoded once); None for all of them.

        Raises ValueError on an empty or negative choice, VideoError where a frame cannot be had.
        """
        indices = np.asarray(np.arange(self.frames) if indices is None else indices)
        if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu" or indices.min() < 0:
            raise ValueError(f"indices must be a list of frame numbers from 0 up, got {indices!r}")
        indices = indices.astype(np.int64)
        if indices.max() >= self.frames:
            raise VideoError(
                f"{self.path}: frame {indices.max()} was asked for and {self.decoder} finds {self.frames} "
                f"(0 to {self.frames - 1}); choose frames by probe() or Video.frames, not by another tool's count"
            )
        wanted, place = np.unique(indices, return_inverse=True)
        frames, times = self._try(f"decode frames {wanted[0]} to {wanted[-1]} of", self._reader.take, wanted)
        if len(frames) != len(wanted):
            raise VideoError(f"{self.path}: {self.decoder} gave {len(frames)} of {len(wanted)} frames; re-encode it")
        if not np.array_equal(indices, wanted):
            frames, times = frames[place], times[place]
        return Clip(frames, indices, np.asarray(times, np.float64))

    def close(self) -> None:
        """Let the file go."""
        self._reader.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def probe(path: str | Path, decoder: str = "decord", size: int | tuple[int, int] | None = None) -> VideoInfo:
    """What a file holds: frames that can be had, frame rate, height and width as decoded (one frame is decoded)."""
    with Video(path, decoder, size) as video:
        _, height, width, _ = video.read([0]).frames.shape
        return VideoInfo(video.frames, video.fps, height, width, video.decoder)


def read(
    path: str | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    decoder: str = "decord",
    size: int | tuple[int, int] | None = None,
) -> Clip:
    """Open, decode the frames of these numbers (None: all; any order, repeats allowed), close; see Video for errors."""
    with Video(path, decoder, size) as video:
        return video.read(indices)
