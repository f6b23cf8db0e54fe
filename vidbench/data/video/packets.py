"""The index of a video file: what its packets say about its frames, without decoding.

Every decoder needs it. It says whether each shown frame has its own time stamp, at which
stamps decoding can start, and which files can only be decoded from the start and counted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

# bytes; MPEG-4's "not coded" picture takes 6 to 8, a coded one where nothing moves over 20
EMPTY = 16
# packets of a file that code no picture and add no frame: 0 or 1 in the UCF101 and HMDB51 clips
# seen
PLACEHOLDERS = 2
STREAMS = ("mpeg", "mpegts")  # containers without an index of frames
AGREES = 0.1  # a declared rate this close to the time stamps' one is the exact value of it
UNEVEN = 1.5  # the longest gap between frames over the usual one
PROGRESSIVE = 1  # FFmpeg's number; 2 to 5 are interlaced fields by their order
PIXELS = 1 << 27  # of one frame; more take gigabytes, and few bytes can promise them
# texts; FFmpeg would open what they name
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")


class Index(NamedTuple):
    """What a file's packets say about its frames."""

    fps: float
    packets: int
    # int64 [N] time stamps of the shown frames, ascending; None: they can only be counted
    shown: np.ndarray | None
    keys: np.ndarray  # int64 [K] time stamps at which decoding can start; empty if shown is None
    unit: float  # seconds of a time stamp's step
    why: str  # the reason for counting, or ""
    hidden: bool  # whether an edit list hides frames
    leading: bool  # whether pictures that are shown before a key frame come after it
    kind: str  # FFmpeg's name of the container, whatever the suffix says
    codec: str
    torn: bool  # whether the last packet is cut off; it is left out
    streams: int  # of video in the file; the first one is read
    remarks: tuple[str, ...]  # what a viewer or another program may do in another way


class _About(NamedTuple):
    """A packet without its data."""

    pts: int | None
    size: int
    key: bool
    discard: bool
    corrupt: bool


def container_of(path: str | Path) -> InputContainer:
    """Open a PyAV container that decodes in one thread.

    Raises:
        ValueError: it has no video stream, no known codec, or too many pixels.
    """
    import av

    # metadata in other encodings than UTF-8 (an HMDB51 clip) must not stop the decoding; the whole
    # path, since FFmpeg would take "take:1.mp4" for an address
    container = av.open(os.path.abspath(path), metadata_errors="ignore")
    if not container.streams.video:
        container.close()
        raise ValueError("it holds no video stream")
    context = container.streams.video[0].codec_context
    problem = ""
    if context is None:
        problem = "FFmpeg has no decoder for its codec; re-encode it, such as to H.264"
    elif context.width * context.height > PIXELS:
        problem = (
            f"it has {context.width} x {context.height} pixels; at most {PIXELS:,} are read, scale "
            "it down"
        )
    if problem:
        container.close()
        raise ValueError(problem)
    context.thread_count = 1
    return container


def untorn(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yield a stream's packets but for a last one that is cut off by a broken download.

    Raises:
        OSError: another packet is cut off. A decoder would continue, with pictures that depend on
            what is missing.
    """
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


def decoded(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield PyAV's frames of a whole decode."""
    for packet in untorn(container.demux(container.streams.video[0])):
        yield from packet.decode()


def index(path: Path) -> Index:
    """Read the index of a file, once per process as long as the file does not change."""
    about = path.stat()
    return _index(str(path), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _index(path: str, changed: int, size: int) -> Index:
    with open(path, "rb") as handle:
        if handle.read(32).lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(PLAYLISTS):
            raise ValueError("it is a playlist, a text that names other files, not a video")
    with container_of(path) as container:
        stream, kind = container.streams.video[0], container.format.name
        # plain values: packets hold their part of the file in memory
        packets = [
            _About(p.pts, p.size, p.is_keyframe, p.is_discard, p.is_corrupt)
            for p in container.demux(stream)
            if p.size
        ]
        torn = bool(packets) and packets[-1].corrupt
        packets = packets[: len(packets) - torn]
        why = _why_counted(kind, bool(stream.codec_context.has_b_frames), packets)
        shown, keys, leading = (None, np.empty(0, np.int64), False) if why else _stamps(packets)
        declared = float(stream.average_rate or stream.guessed_rate or 0)
        unit, pts = float(stream.time_base or 0), [p.pts for p in packets if p.pts is not None]
        times = np.unique(pts if shown is None else shown) * unit
        # counted packets without stamps say nothing about the rate
        fps = declared if len(times) < len(packets) and shown is None else rate(times, declared)
        return Index(
            fps=fps,
            packets=len(packets),
            shown=shown,
            keys=keys,
            unit=unit,
            why=why,
            hidden=any(p.discard for p in packets),
            leading=leading,
            kind=kind,
            codec=stream.codec_context.name,
            torn=torn,
            streams=len(container.streams.video),
            remarks=_remarks(stream, declared, fps),
        )


def _why_counted(kind: str, reordered: bool, packets: list[_About]) -> str:
    """Why time stamps do not number the frames of this file, or ""."""
    shown = [p.pts for p in packets if not p.discard]
    if kind in STREAMS:
        return "a stream without an index"
    if any(p.pts is None for p in packets) or len(set(shown)) < len(shown):
        return "time stamps are missing or repeated"
    if kind == "gif":
        return "packets that code no picture"  # such as a comment behind the last one
    if "avi" in kind and any(p.size <= EMPTY for p in packets):
        return "packets that code no picture"
    if "avi" in kind and reordered:
        return "B-frames in AVI"
    return ""


def _stamps(packets: list[_About]) -> tuple[np.ndarray, np.ndarray, bool]:
    """The shown frames' time stamps, the key frames' ones, and whether pictures lead a key frame."""
    stamps = np.array([p.pts for p in packets], np.int64)
    key = np.array([p.key for p in packets], bool)
    shown = np.array([not p.discard for p in packets], bool)
    latest = np.maximum.accumulate(np.where(key, stamps, np.iinfo(np.int64).min))
    return np.sort(stamps[shown]), np.sort(stamps[key]), bool((stamps < latest).any())


def rate(times: np.ndarray, declared: float) -> float:
    """Frames per second: as declared, unless the time stamps disagree.

    Containers declare their clock (1000 per second), the fields of interlaced video or nothing.

    Args:
        times: Presentation times [N] in seconds, ascending.
        declared: Frames per second that the container names; 0 if it names none.
    """
    gaps = np.diff(times)
    if not len(gaps) or not gaps.sum() > 0:
        return declared
    mean, typical = len(gaps) / float(gaps.sum()), 1 / max(float(np.median(gaps)), 1e-9)
    believed = any(abs(declared / found - 1) <= AGREES for found in (mean, typical))
    return declared if believed else mean


def uneven(times: np.ndarray) -> bool:
    """Return whether frames are shown for different lengths of time.

    Args:
        times: Seconds [N], ascending.
    """
    gaps = np.diff(times)
    return len(gaps) > 1 and bool(gaps.max() > UNEVEN * np.median(gaps))


def _remarks(stream: VideoStream, declared: float, fps: float) -> tuple[str, ...]:
    remarks = []
    if declared and fps != declared:
        remarks.append("rate from time stamps")
    if stream.sample_aspect_ratio not in (None, 0, 1):
        remarks.append("pixel aspect")
    if stream.codec_context.field_order > PROGRESSIVE:
        remarks.append("interlaced")
    return tuple(remarks)


def counted_times(path: Path) -> np.ndarray:
    """Presentation times [N] in seconds of all frames that a decode from the start shows.

    It decodes the whole file; the result is kept as long as the file does not change."""
    about = path.stat()
    return _counted_times(str(path), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16_384)
def _counted_times(path: str, changed: int, size: int) -> np.ndarray:
    with container_of(path) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or stream.guessed_rate or 1)
        stamps = [frame.time for frame in decoded(container)]
    known = [stamp for stamp in stamps if stamp is not None]
    if len(set(known)) < len(stamps):
        return np.arange(len(stamps)) / fps
    # packed B-frames leave the stamps out of order; sorted, they are the times at which frames are
    # shown
    return np.sort(np.array(known, np.float64))
