"""Scan a data set once: decode every video, check a second decoder, list and count what is bad.

What a scan leaves in its folder: `scan.jsonl`, a line a video as it is finished (the same call
resumes after it, and decodes again only files that changed, could not be read, or hung and now get more
time); `scan.csv`, all listed videos with what was found; and manifest.csv with classes.txt, the
videos that can be used, with frames, fps, height and width as columns: a data set like any other.

Bad, and left out of the manifest:
    missing      listed, but not there           unreadable   no permission, a folder, empty, no video in it, no frame
    damaged      frames do not decode, decode with errors or change their size; or seeking leads to other frames than
                 a whole decode
    cut short    holds fewer frames, or seconds, than its own header says (a download that broke off)
    hung         no end within the time limit, or the decoder killed its process
    too short    fewer than two frames: no flow, no clip
Remarks, which leave a video in: `decord differs` or `torchcodec differs` (it counts or shows other
frames: vidbench reads with PyAV, which is right, others may not be), `edit list` (frames hidden by the container),
`counted` (frame numbers need a decode from the start: slow), `variable rate`, `rotated` (or
mirrored), `rate from time stamps` (the container declares another rate), `pixel aspect` (pixels are
not square, and stay as stored), `interlaced` (frames hold two fields), `10 bit`, `full range`, `same
bytes` (as another video of the list)."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from vidbench.data.manifest import SCANNED, SPLITS, Manifest
from vidbench.data.prepare import jobs, shards
from vidbench.data.prepare.estimate import SECONDS, Cost, Estimator
from vidbench.data.prepare.facts import Facts, examine, pace
from vidbench.data.prepare.outputs import Outputs, json_lines
from vidbench.data.prepare.shards import WHOLE, Shard
from vidbench.data.video.decoders import failures
from vidbench.system.errors import InputError
from vidbench.system.files import explain_full_disk, lock_folder, written

OUTPUTS = ("scan.csv", "manifest.csv", "classes.txt", "root.txt")
BAD = ("missing", "unreadable", "damaged", "cut short", "hung", "too short")
CHECKERS = ("decord", "torchcodec")  # decoders that frames are compared with
TIMEOUT = 120.0  # seconds a video; ten seconds of 340x256 take half a second
FACTS = ("frames", "fps", "height", "width", "bytes", "codec", "sha256")


@dataclass(frozen=True)
class Scan:
    """A scanned data set: the list, the facts of each row, and the rows that can be used."""

    listed: Manifest
    facts: list[Facts]
    manifest: Manifest
    missing: tuple[int, ...] = ()  # numbers of shards; if any, this is one shard, not written

    def bad(self) -> list[tuple[str, str]]:
        """Return (path, reason) of each video that is left out."""
        return [
            (str(p), f.error) for p, f in zip(self.listed.path, self.facts, strict=True) if f.error
        ]

    def counts(self) -> dict[str, int]:
        """Count the videos with each flag, the most frequent first."""
        return dict(Counter(flag for f in self.facts for flag in f.flags).most_common())

    def availability(self) -> list[dict]:
        """Return a row for each split: videos listed, there and usable, and percent of the list.

        MultiTrain supplement, Table 1.
        """
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
        """Return the availability, the flags and the first bad videos, as lines of text."""
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
    check_with: str | None = "auto",
    keep: Sequence[str] = (),
    shard: Shard = WHOLE,
    **options: Unpack[jobs.Options],
) -> Scan:
    """Look at every video of a manifest and write the manifest of those that can be used.

    Of several shards, the one that ends last writes the manifest.

    Args:
        manifest: Missing files may be in it.
        check_with: The decoder to check against: "decord", "torchcodec", "auto" (the first of them
            that loads, else none, which a line says) or None.
        keep: Kinds of BAD to leave in: "cut short", "too short".
        shard: (k, n) for every n-th video from the k-th, for n machines on one folder.
        options: See jobs.Options.

    Raises:
        ValueError: an unknown word for check_with or keep, or no such shard.
        OutputError: the folder holds a manifest that no scan made.
        BusyError: another process writes the folder.
    """
    check_with = _checked(check_with, keep)
    jobs.check(options)
    folder, part, mine = Path(folder), shards.name(shard), shards.rows(len(manifest), shard)
    made = _outputs(folder, part)
    with (
        lock_folder(folder, shard=part),
        explain_full_disk(folder),
        jobs.Journal(folder, "scan", part) as journal,
    ):
        found = _work(manifest, folder, check_with, mine, journal, options)
        if part:
            known = shards.journaled(folder, "scan", part)
            found = _todo(manifest, known, check_with, None).found | found
        lacking = [row for row in range(len(manifest)) if row not in found]
        if lacking:
            return _part(manifest, mine, found, shards.missing(lacking, shard))
        with made.writing(OUTPUTS):
            return _conclude(manifest, [found[i] for i in range(len(manifest))], folder, set(keep))


def cost(
    manifest: Manifest,
    folder: str | Path,
    *,
    check_with: str | None = "auto",
    shard: Shard = WHOLE,
    workers: int = 0,
    seconds: float = SECONDS,
) -> Cost:
    """Estimate the time of `scan` from a bounded slice of the videos; write nothing.

    Args:
        workers: Processes that `scan` will use; 0 also measures in this process.
        seconds: Wall time of the measurements.

    Raises:
        ValueError: an unknown word for check_with.
    """
    check_with = _checked(check_with, ())
    mine = shards.rows(len(manifest), shard)
    known = shards.journaled(Path(folder), "scan", shards.name(shard))
    todo = _todo(manifest, known, check_with, TIMEOUT, mine)
    with Estimator(workers, seconds) as limited:
        jobs = [(str(manifest.absolute(i)), check_with) for i in todo.rows]
        return limited.cost(pace, jobs, Path(folder), weights=todo.weights)


def _checked(check_with: str | None, keep: Sequence[str]) -> str | None:
    """The decoder to check against. An ImportError is raised here rather than in each process."""
    if check_with not in ("auto", *CHECKERS, None) or not set(keep) <= set(BAD[3:]):
        raise InputError(
            f"check_with must be auto, {', '.join(CHECKERS)} or None, keep of {BAD[3:]}; got "
            f"{check_with!r} and {keep!r}"
        )
    if check_with != "auto":
        failures(check_with or "pyav")
        return check_with
    for name in CHECKERS:
        with suppress(ImportError):
            failures(name)
            return name
    print(
        f"scan: no second decoder loads ({', '.join(CHECKERS)}): frames are checked against none.",
        flush=True,
    )
    return None


def _outputs(folder: Path, part: str) -> Outputs:
    """The record of the folder; refuses one whose manifest a scan did not make."""
    made = Outputs(folder, part)
    if made.known or not any("facts" in line for line in json_lines(folder / "scan.jsonl")):
        made.refuse_others(OUTPUTS)
    return made  # else the scan of an earlier version, which kept no record


def _work(
    manifest: Manifest,
    folder: Path,
    check_with: str | None,
    mine: Iterable[int],
    journal: jobs.Journal,
    options: jobs.Options,
) -> dict[int, Facts]:
    """Facts of these rows: from the journal, else from a look at the file."""
    timeout = options.setdefault("timeout", TIMEOUT)
    todo = _todo(manifest, journal.known, check_with, timeout or math.inf, mine)
    found, tasks = todo.found, [(str(manifest.absolute(i)), check_with) for i in todo.rows]
    # not named: a traceback that a notebook holds would keep the processes
    for done in jobs.work(
        examine, tasks, folder, what="scan", weights=todo.weights, bad=_is_bad, **options
    ):
        i, key = todo.rows[done.job], todo.keys[done.job]
        kind = "hung" if done.hung else "unreadable"
        lost = Facts((kind,), f"{kind}: {done.error}", bytes=jobs.size_of(key[0]))
        found[i] = done.value or lost
        facts = found[i]._asdict()
        journal.add(str(manifest.path[i]), stamp=key, timeout=timeout, facts=facts)
    return found


class _Todo(NamedTuple):
    """The rows to look at, and the facts of the others."""

    found: dict[int, Facts]
    rows: list[int]
    keys: list[tuple[str, str | None]]  # of each row: its stamp, the second decoder
    weights: list[float]  # bytes


def _todo(
    manifest: Manifest,
    known: dict[str, dict],
    check_with: str | None,
    timeout: float | None,
    rows: Iterable[int] | None = None,
) -> _Todo:
    """Sort rows into known ones and those to look at.

    Args:
        known: What the journals say, by path.
        timeout: By which hung videos may get a second look, and unreadable ones do; None: no second
            look.
        rows: By default all.
    """
    todo = _Todo({}, [], [], [])
    for i in range(len(manifest)) if rows is None else rows:
        path = manifest.path[i]
        stamp, line = jobs.stamp(manifest.absolute(i)), known.get(str(path), {})
        if stamp is None:
            todo.found[i] = Facts(("missing",), "missing: no such file")
        elif (old := _known_facts(line, [stamp, check_with], timeout)) is not None:
            todo.found[i] = old
        else:
            todo.rows.append(i)
            todo.keys.append((stamp, check_with))
            todo.weights.append(jobs.size_of(stamp) + 1.0)
    return todo


def _is_bad(facts: Facts | None) -> bool:
    return facts is not None and bool(facts.error)


def _known_facts(known: dict, key: list, timeout: float | None) -> Facts | None:
    """The facts of a line of the journal; None if the video must be looked at."""
    try:
        facts = Facts(**{**known["facts"], "flags": tuple(known["facts"]["flags"])})
        again = timeout is not None and _once_more(known, timeout)
        return facts if known["stamp"] == key and not again else None
    except (KeyError, TypeError):
        return None  # a line of another version, or a damaged one


def _once_more(known: dict, timeout: float) -> bool:
    """Whether a video that was bad may be good now: permissions and network disks mend, and time
    limits are raised."""
    flags = known["facts"]["flags"]
    return "unreadable" in flags or "hung" in flags and timeout > (known.get("timeout") or math.inf)


def _part(
    listed: Manifest, mine: Iterable[int], found: dict[int, Facts], missing: tuple[int, ...]
) -> Scan:
    """What one of several shards found."""
    mine = np.array(mine, int)
    facts = [found[row] for row in mine.tolist()]
    rows = listed.select(mask=mine)
    usable = np.array([not one.error for one in facts], bool)
    return Scan(rows, facts, rows.select(mask=usable), missing)


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
    columns: dict[str, Any] = {
        n: np.array([getattr(f, n) for f in facts], kind)[good] for n, kind in SCANNED.items()
    }
    manifest = replace(listed.select(mask=good), **columns)
    manifest.save(folder)
    return Scan(listed, facts, manifest)
