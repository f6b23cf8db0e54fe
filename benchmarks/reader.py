"""Reading a clip of 32 frames at a random start, file newly opened, one thread: vidbench and
decord and torchcodec.

"limit" is PyAV that decodes from the keyframe before the start to the last frame wanted and
converts nothing. vidbench keeps a file's index (its time stamps) in the process; "file new" is the
first clip of a file, without it. AVIs whose frames can only be counted (packed B-frames) stand in a
row of their own as well.

"levels_off" is the largest mean difference between a clip and the same frames of a plain decode of
the whole file, in gray levels: over about 3 means other frames (decord converts colors a little
differently). vidbench's must be 0."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks import footage, measure
from vidbench.data.video import clips, decoders

WANTED = {footage.KINETICS: ">= 1.2", footage.UCF: ">= 1.8"}
LIMIT, NEW = "limit (decoding only)", "vidbench, file new"


def main(rounds: int = 9, count: int = 24) -> list[dict]:
    """Rows of Kinetics and UCF101 files, and goal P1."""
    measure.one_thread()
    table, goals = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in footage.KINDS:
            paths = [
                copy(path, Path(scratch)) for path in footage.files(kind, Path(scratch), count)
            ]
            seconds, off = compare(paths, rounds)
            for name, members in groups(kind, paths).items():
                mine = {way: list(times[:, members].sum(1)) for way, times in seconds.items()}
                for row in measure.rows(mine, "vidbench", case=f"{name}, {len(members)} files"):
                    levels = (
                        ""
                        if row["contestant"] == LIMIT
                        else off[row["contestant"]][members].max().round(2)
                    )
                    table.append(
                        {**row, "ms": round(row["ms"] / len(members), 2), "levels_off": levels}
                    )
                speed = measure.ratios(mine["decord"], mine["vidbench"])
                over = measure.ratios(mine["vidbench"], mine[LIMIT])
                goals.append(
                    measure.goal(
                        "P1", f"reader: decord's time over ours, {name}", WANTED[kind], speed
                    )
                )
                goals.append(
                    measure.goal(
                        "P1", f"reader: our time over decoding alone, {name}", "<= 1.5", over
                    )
                )
    return table + goals


def groups(kind: str, paths: list[Path]) -> dict[str, list[int]]:
    """Which files a row is of: all, and those that can be sought in or only counted where there are
    both."""
    counted = [i for i, path in enumerate(paths) if decoders.index(path).shown is None]
    rest = [i for i in range(len(paths)) if i not in counted]
    parts = {f"{kind} (seeking)": rest, f"{kind} (counting)": counted} if counted and rest else {}
    return {kind: list(range(len(paths))), **parts}


def compare(paths: list[Path], rounds: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Seconds [rounds, files] of each contestant, and how far [files] its clips are from a whole
    decode."""
    ways = contestants()
    lengths = [min(clips.probe(path).frames, clips.probe(path, "decord").frames) for path in paths]
    for path in paths:
        known(path)
    draws = [clip for one in footage.draw(lengths, rounds) for clip in one]
    calls = {name: lambda clip, way=way: way(paths[clip[0]], clip[1]) for name, way in ways.items()}
    seconds = measure.in_turn(calls, draws=draws)
    off = {name: np.zeros(len(paths)) for name in ways if name != LIMIT}
    for i, path in enumerate(paths):
        frames = footage.whole(path)
        for start in {start for j, start in draws if j == i}:
            wanted = frames[start : start + footage.FRAMES].astype(np.int16)
            for name in off:
                off[name][i] = max(off[name][i], np.abs(ways[name](path, start) - wanted).mean())
    if off["vidbench"].any() or off[NEW].any():
        raise AssertionError(
            f"vidbench reads other frames than a decode from the start: {off['vidbench']} levels "
            "off"
        )
    return {name: np.reshape(times, (rounds, len(paths))) for name, times in seconds.items()}, off


def contestants() -> dict:
    """name -> function of (path, first frame) that returns frames uint8 [T,H,W,3]."""
    ways = {"vidbench": ours, NEW: file_new, "decord": with_decord, LIMIT: decode_only}
    if reason := footage.no_torchcodec():
        print(f"torchcodec is skipped: {reason}")
    else:
        ways["torchcodec"] = with_torchcodec
    return ways


def ours(path: Path, start: int) -> np.ndarray:
    return clips.read(path, np.arange(start, start + footage.FRAMES)).frames


def file_new(path: Path, start: int) -> np.ndarray:
    """Ours on a file that seems to have changed, so that nothing is known of it."""
    os.utime(path)
    return ours(path, start)


def copy(path: Path, scratch: Path) -> Path:
    """The file in a folder of ours, under a name that no other has; its time is changed there."""
    if path.parent == scratch:
        return path
    return Path(shutil.copyfile(path, scratch / f"{path.parent.name}_{path.name}"))


def with_decord(path: Path, start: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(np.arange(start, start + footage.FRAMES)).asnumpy()


def with_torchcodec(path: Path, start: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
    )
    return decoder.get_frames_in_range(start, start + footage.FRAMES).data.numpy()


@cache
def known(path: Path) -> np.ndarray | None:
    """Time stamps of the frames, for the limit, which looks nothing up while it is timed; None:
    they are counted."""
    return decoders.index(path).shown


def decode_only(path: Path, start: int) -> None:
    """From the keyframe before `start` to the last frame wanted, converting nothing."""
    import av

    stamps, last = known(path), start + footage.FRAMES - 1
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if stamps is not None:
            container.seek(int(stamps[start]), stream=stream)
        for i, frame in enumerate(container.decode(stream)):
            if (i if stamps is None else frame.pts) >= (last if stamps is None else stamps[last]):
                return
