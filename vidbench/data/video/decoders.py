"""The decoders behind `clips.Video`: PyAV, decord and torchcodec, each as a reader of numbered
frames of one file.

A reader has `frames`, `fps`, `exact(path)` (whether its frame numbers hold for this file),
`take(wanted)`, `stream()` and `close()`. Frame i means the i-th frame that a full decode from the
start shows.

PyAV reads the packets' time stamps once (no decoding) and seeks by them where they can be trusted:
every shown frame has one of its own. AVIs with B-frames or with packets that code no picture
(HMDB51, part of UCF101 and UCF50), MPEG program and transport streams are decoded from the start
and counted. decord is wrong on many of those (all HMDB51 clips tried, though not the UCF101 ones),
on files whose edit list hides frames and where pictures lead their key frame (open groups of
pictures, x265's default): it hands out other frames without a word. torchcodec is one frame off on
most of UCF101's AVIs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

EMPTY = (
    16  # bytes; MPEG-4's "not coded" picture takes 6 to 8, a coded one where nothing moves over 20
)
# packets of a file that code no picture and add no frame: 0 or 1 in the UCF101 and HMDB51 clips
# seen
PLACEHOLDERS = 2
BLOCK = 64  # frames
SEEK = 4  # frames; decoding so few on is cheaper than seeking
STREAMS = ("mpeg", "mpegts")  # containers without an index of frames
SKIPPING = (
    "h264",
    "hevc",
    "mpeg4",
)  # decoders that obey skip_frame packet by packet; dav1d does not
PLAYLISTS = (
    b"#EXTM3U",
    b"ffconcat",
    b"<?xml",
    b"<MPD",
    b"v=0",
)  # texts; FFmpeg would open what they name


def short_side(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) after a resize: None keeps, a number is the short side with the aspect kept, a pair is
    taken as it is."""
    if size is None:
        return height, width
    if isinstance(size, int):
        shorter = min(height, width)
        size = (round(height * size / shorter), round(width * size / shorter))
    if min(size) < 1:
        raise ValueError(f"size must be positive pixels, got {size}")
    return int(size[0]), int(size[1])


class Reader:
    """What readers share."""

    frames = 0

    def exact(self, path: Path) -> bool:
        """Whether the frame numbers hold for this file."""
        return True

    def stream(self) -> Iterator[np.ndarray]:
        """All frames in order, decoded a block at a time, so that long videos fit into memory."""
        for start in range(0, self.frames, BLOCK):
            yield from self.take(np.arange(start, min(start + BLOCK, self.frames)))[0]

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames [n,H,W,C] uint8 RGB and their times [n] in seconds of wanted [n], ascending
        without repeats."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the file go."""


# ---- PyAV --------------------------------------------------------------------------------------


class Index(NamedTuple):
    """What a file's packets say about its frames."""

    fps: float
    packets: int
    shown: (
        np.ndarray | None
    )  # int64 [N] time stamps of the shown frames, ascending; None: they can only be counted
    keys: np.ndarray | None  # int64 [K] time stamps at which decoding can start
    unit: float  # seconds of a time stamp's step
    why: str  # the reason for counting, or ""
    hidden: bool  # whether an edit list hides frames
    leading: bool  # whether pictures that are shown before a key frame come after it
    kind: str  # FFmpeg's name of the container, whatever the suffix says
    codec: str
    torn: bool  # whether the last packet is cut off; it is left out
    streams: int  # of video in the file; the first one is read


def container_of(path: str | Path):
    """An open PyAV container that decodes in one thread."""
    import av

    # metadata in other encodings than UTF-8 (an HMDB51 clip) must not stop the decoding; the whole
    # path, since FFmpeg would take "take:1.mp4" for an address
    container = av.open(os.path.abspath(path), metadata_errors="ignore")
    if not container.streams.video:
        container.close()
        raise ValueError("it holds no video stream")
    container.streams.video[0].codec_context.thread_count = 1
    return container


def untorn(packets: Iterable) -> Iterator:
    """A stream's packets but for a last one that is cut off, as a download that broke off leaves
    it.

    Raises OSError where another one is: a decoder would go on, with pictures that lean on what is
    missing."""
    torn = False
    for packet in packets:
        if torn and packet.size:
            raise OSError(
                "a part of the file is missing before "
                f"{float((packet.pts or 0) * packet.time_base):.2f} s"
            )
        torn = torn or packet.is_corrupt
        if not torn or not packet.size:
            yield packet


def _decoded(container) -> Iterator:
    """PyAV's frames of a whole decode."""
    for packet in untorn(container.demux(container.streams.video[0])):
        yield from packet.decode()


class _About(NamedTuple):
    """A packet without its data."""

    pts: int | None
    size: int
    key: bool
    discard: bool
    corrupt: bool


@lru_cache(maxsize=4096)
def _index(path: str, changed: int, size: int) -> Index:
    with open(path, "rb") as handle:
        if handle.read(32).lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(PLAYLISTS):
            raise ValueError("it is a playlist, a text that names other files, not a video")
    with container_of(path) as container:
        stream, kind = container.streams.video[0], container.format.name
        avi, reordered = "avi" in kind, stream.codec_context.has_b_frames
        streams, codec = len(container.streams.video), stream.codec_context.name
        # plain values: packets hold their part of the file in memory
        packets = [
            _About(p.pts, p.size, p.is_keyframe, p.is_discard, p.is_corrupt)
            for p in container.demux(stream)
            if p.size
        ]
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        unit = float(stream.time_base or 0)
    torn = bool(packets) and packets[-1].corrupt
    packets = packets[: len(packets) - torn]
    shown = np.array([p.pts for p in packets if p.pts is not None and not p.discard], np.int64)
    why, hidden = "", any(p.discard for p in packets)
    if kind in STREAMS:
        why = "a stream without an index"
    elif any(p.pts is None for p in packets) or len(np.unique(shown)) < len(shown):
        why = "time stamps are missing or repeated"
    elif avi and any(p.size <= EMPTY for p in packets):
        why = "packets that code no picture"
    elif avi and reordered:
        why = "B-frames in AVI"
    if why:
        return Index(
            fps, len(packets), None, None, unit, why, hidden, False, kind, codec, torn, streams
        )
    stamps, key = (
        np.array([p.pts for p in packets], np.int64),
        np.array([p.key for p in packets], bool),
    )
    latest = np.maximum.accumulate(np.where(key, stamps, np.iinfo(np.int64).min))
    leading = bool((stamps < latest).any())
    return Index(
        fps,
        len(packets),
        np.sort(shown),
        np.sort(stamps[key]),
        unit,
        "",
        hidden,
        leading,
        kind,
        codec,
        torn,
        streams,
    )


def index(path: Path) -> Index:
    """The index of a file, read once per process as long as the file does not change."""
    about = path.stat()
    return _index(str(path), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16_384)
def _counted_times(path: str, changed: int, size: int) -> np.ndarray:
    """Presentation times [N] of all frames that a decode from the start shows; kept, as it decodes
    the whole file."""
    with container_of(path) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 1)
        stamps = [frame.time for frame in _decoded(container)]
    if None in stamps or len(set(stamps)) < len(stamps):
        return np.arange(len(stamps)) / fps
    # packed B-frames leave the stamps out of order; sorted, they are the times at which frames are
    # shown
    return np.sort(np.array(stamps, np.float64))


def pictures(size: int | tuple[int, int] | None = None):
    """A function from PyAV's frames to RGB uint8 [H,W,3], turned as players show them and resized
    to `size`.

    Raises OSError on a frame that decoded with errors, which FFmpeg would paint over.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # kept: it prepares its tables once for all frames of a size

    def picture(frame) -> np.ndarray:
        if frame.is_corrupt:
            raise OSError(f"the frame at {frame.time} s is damaged")
        quarter_turns = int(round(frame.rotation / 90)) % 4
        height, width = (
            (frame.width, frame.height) if quarter_turns % 2 else (frame.height, frame.width)
        )
        height, width = short_side(height, width, size)
        if quarter_turns % 2:
            height, width = width, height
        plane = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA").planes[0]
        # as it lies in memory, where a line may be longer than the picture is wide: copied once,
        # into the clip
        rgb = np.ndarray((height, width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        return np.rot90(rgb, quarter_turns) if quarter_turns else rgb

    return picture


class _Overshot(OSError):
    """The first frame after a seek lies behind the wanted one."""


class PyAV(Reader):
    """FFmpeg through PyAV: exact on every file; seeks where the time stamps allow it, else counts
    from the start.

    frames: how many there are, where a scan found it: saves a whole decode where they can only be
    counted. It is believed where it is about the number of packets; a file that was changed since
    is counted."""

    def __init__(
        self,
        path: Path,
        size: int | tuple[int, int] | None,
        picture: Callable | None = None,
        frames: int | None = None,
    ) -> None:
        self._path, self._picture = path, picture or pictures(size)
        self._index = index(path)
        if self._index.shown is not None:
            self.times = self._index.shown * self._index.unit
        elif frames is not None and 0 <= self._index.packets - frames <= PLACEHOLDERS:
            self.times = np.arange(frames) / (self._index.fps or 1.0)
        else:
            about = path.stat()
            self.times = _counted_times(str(path), about.st_mtime_ns, about.st_size)
        self.frames, self.fps = len(self.times), self._index.fps

    def stream(self) -> Iterator[np.ndarray]:
        return self._pictures(np.arange(self.frames))

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames = None
        for i, picture in enumerate(self._pictures(wanted)):
            if frames is None:
                frames = np.empty((len(wanted), *picture.shape), np.uint8)
            frames[i] = picture
        return (np.empty(0) if frames is None else frames[: i + 1]), self.times[wanted]

    def _pictures(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        return self._by_count(wanted) if self._index.shown is None else self._by_stamp(wanted)

    def _by_count(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        left = set(wanted.tolist())
        with container_of(self._path) as container:
            for i, frame in enumerate(_decoded(container)):
                if i in left:
                    yield self._picture(frame)
                if i == wanted[-1]:
                    return

    def _by_stamp(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        shown, keys = self._index.shown, self._index.keys
        stamps = shown[wanted]
        keys = np.append(
            keys, shown[0]
        )  # for frames before the first key: from the start (the last is place -1)
        starts = keys[np.searchsorted(keys[:-1], stamps, "right") - 1]
        # a new seek pays where a keyframe lies well beyond the frame before; otherwise decoding
        # goes on
        skipped = np.searchsorted(shown, starts[1:]) - wanted[:-1]
        with container_of(self._path) as container:
            for group in np.split(np.arange(len(wanted)), np.flatnonzero(skipped > SEEK) + 1):
                try:
                    yield from self._from_key(container, int(starts[group[0]]), stamps[group])
                except (
                    _Overshot
                ):  # a stream that refreshes bit by bit shows nothing right after a "keyframe"
                    with container_of(self._path) as afresh:
                        yield from self._from_key(afresh, int(shown[0]), stamps[group])

    def _from_key(self, container, start: int, stamps: np.ndarray) -> Iterator[np.ndarray]:
        stream = container.streams.video[0]
        context = stream.codec_context
        if start > self._index.shown[0]:
            container.seek(start, stream=stream)
        left = iter(stamps.tolist())
        want, first = next(left), True
        for packet in untorn(container.demux(stream)):
            # pictures that no other needs are not decoded before the first one wanted
            skip = context.name in SKIPPING and packet.pts is not None and packet.pts < stamps[0]
            context.skip_frame = "NONREF" if skip else "DEFAULT"
            for frame in packet.decode():
                if first and frame.pts > want:
                    raise _Overshot(
                        f"seeking to time stamp {start} led to {frame.pts}, {want} was wanted"
                    )
                first = False
                if frame.pts == want:
                    yield self._picture(frame)
                    want = next(left, None)
                    if want is None:
                        return
                elif frame.pts > want:
                    raise OSError(f"the frame at time stamp {want} does not decode")
        raise OSError(f"the frame at time stamp {want} does not decode")


# ---- decord ------------------------------------------------------------------------------------


class Decord(Reader):
    """decord with one thread, its global bridge untouched, set to fail where it would hand out a
    neighboring frame."""

    def __init__(self, path: Path, size: int | tuple[int, int] | None) -> None:
        import decord

        self._about = index(path)  # also keeps decord from what is no video

        def reader(**resize: int):
            # fault_tol: the share of frames that may silently be replaced by a neighbor; the
            # smallest means none
            return decord.VideoReader(
                os.path.abspath(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9, **resize
            )

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
        """Whether decord's frame numbers hold: it seeks by time stamp, and these must be there and
        in order."""
        about, avi = self._about, "avi" in self._about.kind
        # elsewhere (H.264 in AVI, MPEG-4 in mp4, MPEG-2, WMV) it was seen to hand out other frames
        # after a seek
        if about.codec not in (("mpeg4",) if avi else ("h264", "hevc", "vp8", "vp9")):
            return False
        if about.shown is None or about.hidden or about.leading or about.streams > 1:
            return False
        if len(about.shown) != self.frames:
            return False
        return not self.frames or bool(self.times[0] > -1e-6 and (np.diff(self.times) > 0).all())

    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        import decord

        try:
            batch = self._reader.get_batch(wanted)
        except decord.DECORDError as error:
            if "The size must exactly match" not in str(error):
                raise
            return PyAV(self._path, self._size).take(wanted)[
                0
            ]  # it cannot copy frames 16, 24, 48 or 72 pixels wide
        self._reader.seek(
            0
        )  # else its thread decodes on in the background and fills memory (dmlc/decord issue 157)
        return (
            batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
        )  # others may have set the bridge

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._batch(wanted), self.times[wanted]

    def close(self) -> None:
        self._reader = None


# ---- torchcodec --------------------------------------------------------------------------------


class TorchCodec(Reader):
    """torchcodec, exact seeking; it wants FFmpeg's shared libraries from the system or conda."""

    codecs = ("h264", "hevc", "vp8", "vp9", "av1")

    def __init__(self, path: Path, size: int | tuple[int, int] | None) -> None:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        settings = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
        self._decoder = VideoDecoder(str(path), **settings)
        about = self._decoder.metadata
        if size is not None:
            resize = Resize(short_side(about.height, about.width, size))
            self._decoder = VideoDecoder(str(path), **settings, transforms=[resize])
        self.frames, self.fps, self._codec = (
            len(self._decoder),
            float(about.average_fps),
            about.codec,
        )

    def exact(self, path: Path) -> bool:
        """Trusted on modern codecs only: with packed B-frames in AVI it returns frame i - 1 for
        i."""
        return self._codec in self.codecs and not any(
            kind in index(path).kind for kind in ("avi", *STREAMS)
        )

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = self._decoder.get_frames_at(wanted.tolist())
        return batch.data.numpy(), batch.pts_seconds.numpy()

    def close(self) -> None:
        self._decoder = None


# ---- the table ---------------------------------------------------------------------------------

DECODERS = {"decord": Decord, "torchcodec": TorchCodec, "pyav": PyAV}
_MODULES = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}
# exception classes that are not below Python's; all ask PyAV for the index of a file
_FAILURES = {
    "decord": ("decord.DECORDError", "decord.DECORDLimitReachedError", "av.FFmpegError"),
    "torchcodec": ("av.FFmpegError",),
    "pyav": ("av.FFmpegError",),
}


def check_decoder(decoder: str) -> None:
    """Check that files can be read by this decoder on this machine.

    Raises: ValueError: the name is unknown. ImportError: the decoder does not load.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    failures(decoder)


def _load(decoder: str) -> None:
    importlib.import_module(_MODULES.get(decoder, "builtins"))
    if decoder == "torchcodec":  # it looks for FFmpeg at first use, not at import
        from torchcodec.decoders import VideoDecoder

        try:
            VideoDecoder(b"no video")
        except (RuntimeError, ValueError) as error:
            if "load libtorchcodec" in str(error):
                raise


def _not_loaded(decoder: str, error: Exception) -> ImportError:
    """The error for a decoder that is not installed, with the ways out."""
    others = " or ".join(repr(name) for name in DECODERS if name != decoder)
    said = str(error).splitlines()[0][:200]
    return ImportError(
        f"decoder {decoder!r} does not load; use decoder={others}, or install it (torchcodec: "
        "vidbench[torchcodec] and "
        f"FFmpeg's shared libraries, as in environment.yml; decord: x86-64 only). It said: {said}"
    )


@cache
def failures(decoder: str) -> tuple[type[Exception], ...]:
    """What a decoder raises on a bad file. Raises ImportError, with the ways out, where the decoder
    does not load."""
    try:
        _load(decoder)
    except (ImportError, RuntimeError, OSError) as error:
        raise _not_loaded(decoder, error) from error
    names = (name.split(".") for name in _FAILURES.get(decoder, ()))
    own = (getattr(importlib.import_module(module), name) for module, name in names)
    return (*own, RuntimeError, OSError, ValueError, IndexError)
