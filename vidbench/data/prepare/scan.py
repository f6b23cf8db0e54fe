"""Scan a data set once: decode every video whole, check a second decoder against it, list what is
bad and count it.

What a scan leaves in its folder: `scan.jsonl`, a line a video as it is finished (the same call goes
on after it, and looks anew only at files that changed, could not be read, or hung and now get more
time); `scan.csv`, all listed videos with what was found; and manifest.csv with classes.txt, the
videos that can be used, with frames, fps, height and width as columns: a data set like any other.

Bad, and left out of the manifest:
    missing      listed, but not there           unreadable   no permission, a folder, empty, no video in it, no frame
    damaged      frames do not decode, decode with errors or change their size; or seeking leads to other frames than
                 a whole decode
    cut short    holds fewer frames, or seconds, than its own header says (a download that broke off)
    hung         no end within the time limit, or the decoder killed its process
    too short    fewer than two frames: no flow, no clip
Remarks, which leave a video in: `decord differs` (it counts or shows other frames: vidbench reads
with PyAV, which is right, others may not be), `edit list` (frames hidden by the container),
`counted` (frame numbers need a decode from the start: slow), `variable rate`, `rotated`, `10 bit`,
`full range`, `same bytes` (as another video of the list)."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidbench.data.manifest import SCANNED, SPLITS, Manifest
from vidbench.data.prepare import jobs
from vidbench.data.video import clips, framestore, windows
from vidbench.data.video.decoders import (
    Decord,
    PyAV,
    container_of,
    failures,
    index,
    pictures,
    untorn,
)
from vidbench.system.files import explain_full_disk, lock_folder, written

BAD = ("missing", "unreadable", "damaged", "cut short", "hung", "too short")
TIMEOUT = 120.0  # seconds a video; ten seconds of 340x256 take half a second
COMPARED = 5  # frames of each video that the decoders must agree on
# gray levels of mean difference; two decoders' colors differ by up to 3, a frame off by one by
# more
LEVELS = 6.0
LASTING = ("matroska", "flv")  # containers that promise no number of frames, but how long they last
MISSING = 0.5  # seconds; whole files are right to a frame
FACTS = ("frames", "fps", "height", "width", "bytes", "codec", "sha256")


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


@dataclass(frozen=True)
class Scan:
    """A scanned data set: the list as it came, what was found in each row, and the rows that can be
    used."""

    listed: Manifest
    facts: list[Facts]
    manifest: Manifest

    def bad(self) -> list[tuple[str, str]]:
        """(path, reason) of each video that is left out."""
        return [
            (str(p), f.error) for p, f in zip(self.listed.path, self.facts, strict=True) if f.error
        ]

    def counts(self) -> dict[str, int]:
        """How many videos carry each flag, the most frequent first."""
        return dict(Counter(flag for f in self.facts for flag in f.flags).most_common())

    def availability(self) -> list[dict]:
        """A row a split (MultiTrain supplement, Table 1): videos listed, there and usable, and
        percent of the list."""
        rows = []
        there = np.array(["missing" not in f.flags for f in self.facts], bool)
        usable = np.array([not f.error for f in self.facts], bool)
        for number, split in enumerate(SPLITS):
            in_split = self.listed.split == number
            if listed := int(in_split.sum()):
                good = int((usable & in_split).sum())
                rows.append(
                    {
                        "split": split,
                        "listed": listed,
                        "there": int((there & in_split).sum()),
                        "usable": good,
                        "percent": round(100 * good / listed, 1),
                    }
                )
        return rows

    def report(self) -> str:
        """The availability, the flags and the first bad videos, as lines of text."""
        lines = [
            "{split:9s} {usable} of {listed} usable ({percent} %), {there} there".format(**row)
            for row in self.availability()
        ]
        lines += [
            f"{'BAD ' if flag in BAD else ''}{flag}: {count}"
            for flag, count in self.counts().items()
        ]
        bad = self.bad()
        lines += [f"  {path}: {reason}" for path, reason in bad[:10]]
        return "\n".join(
            lines + ([f"  ... and {len(bad) - 10} more in scan.csv"] if len(bad) > 10 else [])
        )


def scan(
    manifest: Manifest,
    folder: str | Path,
    *,
    workers: int = 0,
    timeout: float = TIMEOUT,
    check_with: str | None = "decord",
    keep: Sequence[str] = (),
    progress: bool = True,
    dry_run: bool = False,
) -> Scan | None:
    """Look at every video of a manifest (missing files may be in it) and write the manifest of
    those that can be used.

    check_with: the decoder to check against ("decord" or None). keep: kinds of BAD to leave in ("cut
    short", "too short"). workers, timeout, progress, dry_run: see jobs.work; with dry_run the
    result is None. Raises ValueError on other words, BusyError where the folder is being
    written by another process."""
    if check_with not in ("decord", None) or not set(keep) <= set(BAD[3:]):
        raise ValueError(
            f"check_with is 'decord' or None, keep is of {BAD[3:]}; got {check_with!r} and {keep!r}"
        )
    folder = Path(folder)
    if check_with:
        failures(check_with)  # an ImportError here rather than in each process
    with (
        lock_folder(folder),
        explain_full_disk(folder),
        jobs.Journal(folder / "scan.jsonl") as journal,
    ):
        stamps = [jobs.stamp(manifest.absolute(i)) for i in range(len(manifest))]
        found: dict[int, Facts] = {}
        todo = []
        for i, path in enumerate(manifest.path):
            known = journal.known.get(str(path), {})
            if stamps[i] is None:
                found[i] = Facts(("missing",), "missing: no such file")
            elif known.get("stamp") == [*stamps[i], check_with] and not _once_more(known, timeout):
                found[i] = Facts(**{**known["facts"], "flags": tuple(known["facts"]["flags"])})
            else:
                todo.append(i)
        tasks = [(str(manifest.absolute(i)), check_with) for i in todo]
        weights = [float(stamps[i][0] + 1) for i in todo]
        for done in jobs.work(
            examine,
            tasks,
            folder,
            workers=workers,
            timeout=timeout,
            what="scan",
            weights=weights,
            progress=progress,
            dry_run=dry_run,
            bad=lambda facts: bool(facts.error),
        ):
            i, stamp = todo[done.job], [*stamps[todo[done.job]], check_with]
            found[i] = done.value or Facts(("hung",), f"hung: {done.error}", bytes=stamp[0])
            journal.add(
                str(manifest.path[i]), stamp=stamp, timeout=timeout, facts=found[i]._asdict()
            )
        return (
            None
            if dry_run
            else _conclude(manifest, [found[i] for i in range(len(manifest))], folder, set(keep))
        )


def _once_more(known: dict, timeout: float) -> bool:
    """Whether a video that was bad may be good now: permissions and network disks mend, and time
    limits are raised."""
    flags = known["facts"]["flags"]
    return "unreadable" in flags or "hung" in flags and timeout > known.get("timeout", 0)


def _conclude(listed: Manifest, facts: list[Facts], folder: Path, keep: set[str]) -> Scan:
    same = Counter(f.sha256 for f in facts if f.sha256)
    facts = [f._replace(flags=(*f.flags, "same bytes")) if same[f.sha256] > 1 else f for f in facts]
    facts = [
        f._replace(error="") if f.error and f.frames and {*f.flags} & set(BAD) <= keep else f
        for f in facts
    ]
    with (
        written(folder / "scan.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["path", "flags", "error", *FACTS])
        for path, f in zip(listed.path, facts, strict=True):
            writer.writerow(
                [path, "; ".join(f.flags), f.error, *(getattr(f, name) for name in FACTS)]
            )
    good = np.array([not f.error for f in facts], bool)
    columns = {
        n: np.array([getattr(f, n) for f in facts], kind)[good] for n, kind in SCANNED.items()
    }
    manifest = replace(listed.select(mask=good), **columns)
    manifest.save(folder)
    return Scan(listed, facts, manifest)


# ---- one video ---------------------------------------------------------------------------------


def examine(job: tuple[str, str | None]) -> tuple[Facts, int]:
    """Facts of one video; a job for jobs.work: (path, second decoder or None)."""
    path, check_with = Path(job[0]), job[1]
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
    except (clips.VideoError, *failures("pyav")) as error:
        said = " ".join(str(error).split())[:200]
        return facts._replace(
            flags=("unreadable",), error=f"unreadable: {type(error).__name__}: {said}"
        ), 0


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
        # it seeks wrongly where pictures lead their key frame, which the few frames compared may
        # miss
        flags += ["decord differs"] if about.leading or _decord_differs(path, decoded) else []
    kind = [problem.split(":")[0]] if problem else []
    return facts._replace(flags=(*kind, *flags), error=problem)


def _whole(container, stream, keep: set[int], picture) -> _Pass:
    times, shown, damaged, turned, size, ends = [], {}, "", False, None, [0.0]
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
                turned = turned or frame.rotation != 0
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
    return declared or (len(known) - 1) / (max(known) - min(known))


def _remarks(path: Path, about, decoded: _Pass) -> list[str]:
    flags = ["counted"] if about.shown is None else []
    if about.hidden:
        flags.append("edit list")
    if decoded.turned:
        flags.append("rotated")
    gaps = np.diff(np.sort([t for t in decoded.times if t is not None]))
    if about.shown is not None and len(gaps) > 1 and gaps.max() > 1.5 * np.median(gaps):
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


def _decord_differs(path: Path, decoded: _Pass) -> str:
    """What decord, left to itself, gets wrong."""
    try:
        reader = Decord(path, None)
        return _disagrees(reader.take, reader.frames, decoded, LEVELS)
    except failures("decord") as error:
        return str(error)[:100]
