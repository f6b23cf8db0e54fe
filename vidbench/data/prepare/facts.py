"""Look at one video: decode it whole, compare a second decoder, say what is bad and why."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidbench.data.prepare.estimate import Pace, Slice
from vidbench.data.video import clips, framestore, windows
from vidbench.data.video.decoders import (
    DECODERS,
    PyAV,
    container_of,
    failures,
    index,
    pictures,
    untorn,
)
from vidbench.data.video.orientation import UPRIGHT, orientation_of
from vidbench.data.video.packets import rate, uneven

COMPARED = 5  # frames of each video that the decoders must agree on
# gray levels of mean difference; two decoders' colors differ by up to 3, a frame off by one by
# more
LEVELS = 6.0
LASTING = ("matroska", "flv")  # containers that promise no number of frames, but how long they last
MISSING = 0.5  # seconds; whole files are right to a frame


class Facts(NamedTuple):
    """What was found in one video."""

    flags: tuple[str, ...] = ()
    error: str = ""  # a bad video's reason
    frames: int = 0  # that a whole decode shows
    fps: float = 0.0
    height: int = 0
    width: int = 0  # pixels, as shown
    bytes: int = 0
    codec: str = ""
    sha256: str = ""


def examine(job: tuple[str, str | None]) -> tuple[Facts, int]:
    """Examine one video; a function for jobs.work.

    Args:
        job: Path, and the second decoder or None.

    Returns:
        What was found, and 0 bytes written.
    """
    path, check_with = Path(job[0]), job[1]
    bad: tuple[type[Exception], ...] = (clips.VideoError, *failures("pyav"))
    facts = Facts()
    try:
        facts = facts._replace(bytes=path.stat().st_size)
        if not path.is_file():
            return facts._replace(
                flags=("unreadable",), error="unreadable: a folder or a device, not a file"
            ), 0
        if not facts.bytes:
            return facts._replace(
                flags=("unreadable",), error="unreadable: the file is empty (0 bytes)"
            ), 0
        with open(path, "rb") as handle:
            facts = facts._replace(sha256=hashlib.file_digest(handle, "sha256").hexdigest())
        if path.name.lower().endswith((*clips.PICTURES, framestore.SUFFIX)):
            return _look(path, facts), 0
        return _decode(path, facts, check_with), 0
    except bad as error:
        said = " ".join(str(error).split())[:200]
        return facts._replace(
            flags=("unreadable",), error=f"unreadable: {type(error).__name__}: {said}"
        ), 0


def pace(job: tuple[str, str | None], sample: Slice) -> Pace:
    """Measure `examine`: the whole video if it is short, else by decoding its first frames.

    Args:
        job: Path, and the second decoder or None.
        sample: How many frames to try, and for how long.
    """
    path, began = Path(job[0]), time.perf_counter()
    frames = packets = 1
    seconds = 0.0
    if not path.name.lower().endswith((*clips.PICTURES, framestore.SUFFIX)):
        with container_of(path) as container:
            packets = index(path).packets
            start = time.perf_counter()
            decoded = container.decode(container.streams.video[0])
            frames = sum(1 for _ in sample.of(decoded))
            seconds = start - began + (time.perf_counter() - start) / max(frames, 1) * packets
    if frames >= packets:
        began = time.perf_counter()
        examine(job)
        seconds = time.perf_counter() - began
    return Pace(frames, seconds, 0.0)


def _look(path: Path, facts: Facts) -> Facts:
    """A picture, or a pack of a store: no other decoder could read it."""
    with clips.Video(path) as video:
        height, width = [frame.shape for frame in video.stream()][-1][:2]
        return facts._replace(
            frames=video.frames, fps=video.fps, height=height, width=width, codec=video.decoder
        )


class _Pass(NamedTuple):
    """A decode from the first to the last frame."""

    times: list
    shown: dict[int, np.ndarray]  # the frames to compare
    damaged: str  # what is wrong with a frame, or ""
    declared: int  # frames the header promises, 0 where it does not say
    # seconds the header promises beyond the last packet, where it does not promise frames
    missing: float
    turned: bool  # shown rotated


def _decode(path: Path, facts: Facts, check_with: str | None) -> Facts:
    about = index(path)
    reader = PyAV(path, None) if about.shown is not None else None
    with container_of(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        flags, pixels = [], context.format
        if pixels is not None and pixels.components[0].bits > 8:
            flags.append("10 bit")
        full = (
            int(context.color_range) == 2 or pixels is not None and pixels.name.startswith("yuvj")
        )
        if full and not (pixels is not None and pixels.is_rgb):
            flags.append("full range")
        facts = facts._replace(codec=context.codec.canonical_name)
        last = about.packets - 1 if reader is None else reader.frames - 1
        compared = windows.spread(max(last, 0) + 1, COMPARED)
        decoded = _whole(container, stream, set(compared.tolist()), pictures())
    count = len(decoded.times)
    turned = decoded.shown[0].shape[:2] if 0 in decoded.shown else (0, 0)
    facts = facts._replace(
        frames=count, height=turned[0], width=turned[1], fps=_rate(decoded.times, about.fps)
    )
    flags += _remarks(path, about, decoded)
    problem = _damage(reader, decoded) or _shortness(about, decoded)
    if check_with and count and not problem:
        # decord seeks wrongly where pictures lead their key frame, which the few frames compared
        # may miss
        wrong = check_with == "decord" and about.leading
        flags += [f"{check_with} differs"] if wrong or _differs(check_with, path, decoded) else []
    kind = [problem.split(":")[0]] if problem else []
    return facts._replace(flags=(*kind, *flags), error=problem)


def _whole(container, stream, keep: set[int], picture) -> _Pass:
    times: list[float | None] = []
    shown, damaged, turned, size, ends = {}, "", False, None, [0.0]
    try:
        for packet in untorn(_of(stream, container.demux(stream, *container.streams.audio), ends)):
            for frame in packet.decode():
                if frame.is_corrupt and not damaged:
                    damaged = f"frame {len(times)} decodes with errors"
                if (frame.width, frame.height) != (
                    size := size or (frame.width, frame.height)
                ) and not damaged:
                    damaged = f"frame {len(times)} is of another size than those before"
                if len(times) in keep:
                    shown[len(times)] = picture(frame)
                times.append(frame.time)
                turned = turned or orientation_of(frame) != UPRIGHT
    except failures("pyav") as error:
        damaged = damaged or f"after frame {len(times) - 1}: {' '.join(str(error).split())[:200]}"
    promised = (
        container.duration / 1e6
        if container.format.name.startswith(LASTING) and container.duration
        else 0.0
    )
    return _Pass(
        times, shown, damaged, stream.frames, 0.0 if stream.frames else promised - max(ends), turned
    )


def _of(stream, packets: Iterator, ends: list[float]) -> Iterator:
    """A stream's packets out of several streams'; `ends` takes when the last packet of any of them
    ends."""
    for packet in packets:
        if packet.pts is not None:
            ends[0] = max(ends[0], float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index == stream.index:
            yield packet


def _rate(times: list, declared: float) -> float:
    known = [t for t in times if t is not None]
    if len(known) < 2 or len(known) < len(times) or max(known) <= min(known):
        return declared
    return rate(np.sort(np.array(known)), declared)


def _remarks(path: Path, about, decoded: _Pass) -> list[str]:
    flags = ["counted"] if about.shown is None else []
    if about.hidden:
        flags.append("edit list")
    if decoded.turned:
        flags.append("rotated")
    flags += about.remarks
    times = np.sort([t for t in decoded.times if t is not None])
    if about.shown is not None and uneven(times):
        flags.append("variable rate")
    return flags


def _damage(reader: PyAV | None, decoded: _Pass) -> str:
    count = len(decoded.times)
    if not count:
        return f"unreadable: no frame decodes{decoded.damaged and f' ({decoded.damaged})'}"
    if decoded.damaged:
        return f"damaged: {decoded.damaged}"
    if reader is None:
        return ""
    if count != reader.frames:
        return f"damaged: {reader.frames} frames by their time stamps, {count} decode"
    try:
        problem = _disagrees(reader.take, reader.frames, decoded, 0.0)
    except failures("pyav") as error:
        problem = str(error)[:200]
    return problem and f"damaged: seeking shows other frames than a whole decode ({problem})"


def _shortness(about, decoded: _Pass) -> str:
    # placeholders that code nothing and frames that an edit list hides are promised, too
    if decoded.declared > about.packets:
        return f"cut short: {decoded.declared} frames promised, {about.packets} there"
    if about.torn:
        return f"cut short: {about.packets} frames are whole, the next one is not"
    if decoded.missing > MISSING:
        return f"cut short: {decoded.missing:.1f} s are promised beyond what is there"
    if len(decoded.times) < 2:
        return f"too short: {len(decoded.times)} frame"
    return ""


def _disagrees(take, frames: int, decoded: _Pass, levels: float) -> str:
    """How a reader's frames differ from those of a whole decode, or "": count, then the pictures,
    last first."""
    if frames != len(decoded.times):
        return f"{frames} frames for {len(decoded.times)}"
    for i in sorted(decoded.shown, reverse=True):  # backwards: each needs a seek
        got = take(np.array([i]))[0][0]
        if got.shape != decoded.shown[i].shape:
            return f"frames of {got.shape[:2]} pixels for {decoded.shown[i].shape[:2]}"
        gap = float(np.abs(got.astype(np.int16) - decoded.shown[i]).mean())
        if gap > levels:
            return f"frame {i} by {gap:.1f} gray levels"
    return ""


def _differs(decoder: str, path: Path, decoded: _Pass) -> str:
    """What another decoder, left to itself, gets wrong."""
    try:
        reader = DECODERS[decoder](path, None)
        return _disagrees(reader.take, reader.frames, decoded, LEVELS)
    except failures(decoder) as error:
        return str(error)[:100]
