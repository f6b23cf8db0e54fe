"""Optical flow: `vidbench flow` on two processes and a plain OpenCV script; the fast preset; the
mp4 form; PyTorch.

Frames of Kinetics clips at 128x128. The whole commands are timed by the wall clock on as many cores
as there are, Python's start, decoding and writing among them (the script writes a JPEG a pair): on
a machine that others use, repeat it. All else is CPU time of one thread on one core. End-point
errors are in pixels, against OpenCV's default TV-L1 or the ground truth of RubberWhale."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import footage, measure
from benchmarks.startup import run

SIZE, PROCESSES = 128, 2
DEFAULT = "tvl1, OpenCV's defaults"


def main(rounds: int = 3, pairs: int = 6, videos: int = 8, frames: int = 19) -> list[dict]:
    """Rows of the commands, of the methods and of the forms, and goal P5."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = footage.files(footage.KINETICS, Path(scratch), 5)
        world = Path(scratch) / "world"
        paths = [short(sources[i % len(sources)], world, i, frames) for i in range(videos)]
        table, goals = commands(paths, Path(scratch) / "out", rounds)
        table[0]["cores"] = table[1]["cores"] = measure.cores()
        measure.one_thread()
        from vidbench.data.video import clips

        parts = [clips.read(path, np.arange(pairs // 2 + 1)).frames for path in paths[:2]]
        for more in (methods(parts, 7), forms(paths[0], Path(scratch) / "forms"), truth()):
            table, goals = table + more[0], goals + more[1]
    return table + goals


def error(flow: np.ndarray, other: np.ndarray) -> float:
    """Mean end-point error of flows [...,2], pixels."""
    return float(np.linalg.norm(flow - other, axis=-1).mean())


# ---- whole commands ----------------------------------------------------------------------------


def short(source: Path, world: Path, number: int, frames: int) -> Path:
    """The first frames of a video, at SIZE x SIZE, as a video of a data set of one class."""
    from vidbench.data.video import clips, framestore

    path = world / "any" / f"{number}.mp4"
    first = 60 * (number // 5)
    read = clips.read(source, np.arange(first, first + frames), size=(SIZE, SIZE))
    framestore.write_mp4(path, read.frames, 25.0)
    return path


def commands(paths: list[Path], out: Path, rounds: int) -> tuple[list[dict], list[dict]]:
    """The plain script and `vidbench flow` on the same videos."""
    from vidbench.data.flow import estimate as flow
    from vidbench.data.flow import store as flow_store
    from vidbench.data.video import clips

    world = paths[0].parents[1]
    script = [str(Path(__file__).with_name("plain_flow.py")), str(out), *map(str, paths)]
    plain, ours = "plain OpenCV script", f"vidbench flow, {PROCESSES} processes"
    command = ["-m", "vidbench", "flow", str(world), "--out", str(out), "--workers", str(PROCESSES)]
    programs = {plain: script, ours: command}

    def afresh(program: list[str]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        run(program)

    calls = {name: lambda program=program: afresh(program) for name, program in programs.items()}
    pairs = sum(clips.probe(path).frames - 1 for path in paths)
    seconds = measure.in_turn(calls, rounds, clock=time.perf_counter, warm_up=False)
    stored = flow_store.load(out, f"any/{paths[0].name}")[..., :2]
    if not np.array_equal(stored, flow.levels(flow.estimate(clips.read(paths[0]).frames))):
        raise AssertionError("vidbench flow stores another flow than OpenCV computes")
    table = []
    for name, times in seconds.items():
        middle, low, high = measure.spread([pairs / s for s in times])
        table.append(
            {
                "case": f"whole command, {pairs} pairs {SIZE}x{SIZE}",
                "contestant": name,
                "pairs_per_s": middle,
                "min": low,
                "max": high,
                "rounds": rounds,
            }
        )
    speed = measure.ratios(seconds[plain], seconds[ours])
    what = f"flow, {PROCESSES} processes: times as fast as a plain OpenCV script"
    return table, [measure.goal("P5", what, f">= {0.9 * PROCESSES:g}", speed)]


# ---- methods -----------------------------------------------------------------------------------


def methods(parts: list[np.ndarray], rounds: int) -> tuple[list[dict], list[dict]]:
    """The default, the fast preset, DIS and the PyTorch version on the same pairs."""
    from vidbench.data.flow import estimate as flow

    names = {
        DEFAULT: "tvl1",
        "tvl1_fast (epsilon 0.05)": "tvl1_fast",
        "tvl1_torch (CPU, eager)": "tvl1_torch",
        "dis": "dis",
    }
    ways = {
        name: lambda m=m: np.concatenate([flow.estimate(p, m, "cpu") for p in parts])
        for name, m in names.items()
    }
    wanted = ways[DEFAULT]()
    pairs = len(wanted)
    seconds = measure.in_turn(ways, rounds)
    table = []
    for name, times in seconds.items():
        fast = measure.spread(measure.ratios(seconds[DEFAULT], times))
        table.append(
            {
                "case": f"{pairs} pairs {SIZE}x{SIZE}",
                "contestant": name,
                "ms_per_pair": round(1e3 * measure.spread(times, 4)[0] / pairs, 2),
                **dict(zip(("times_as_fast", "min", "max"), fast, strict=True)),
                "epe": round(error(ways[name](), wanted), 3),
                "rounds": rounds,
            }
        )
    fast = table[1]
    return table, [
        measure.goal(
            "P5",
            "flow, fast preset: times as fast as the default",
            ">= 4",
            measure.ratios(seconds[DEFAULT], seconds[fast["contestant"]]),
        ),
        measure.goal(
            "P5",
            "flow, fast preset: end-point difference to the default, px",
            "<= 0.2",
            fast["epe"],
        ),
    ]


# ---- forms and truth ---------------------------------------------------------------------------


def forms(path: Path, folder: Path) -> tuple[list[dict], list[dict]]:
    """What a stored flow takes of raw 8-bit (u, v), and its error."""
    from vidbench.data.flow import estimate as flow
    from vidbench.data.flow import store as flow_store
    from vidbench.data.video import clips

    wanted, raw = flow.estimate(clips.read(path).frames), 2 * SIZE * SIZE
    table = [
        {
            "case": "stored flow",
            "contestant": "raw uint8",
            "share_of_raw": 1.0,
            "epe": round(error(flow.dequantize(flow.quantize(wanted)), wanted), 3),
        }
    ]
    for format in flow_store.FORMATS:
        made = flow_store.extract(
            footage.manifest([path]), folder / format, format=format, progress=False
        )
        size = flow_store.flow_path(folder / format, path.name, format).stat().st_size
        stored = flow.dequantize(flow_store.load(folder / format, path.name))
        table.append(
            {
                "case": "stored flow",
                "contestant": format,
                "share_of_raw": round(size / raw / made.pairs, 4),
                "epe": round(error(stored, wanted), 3),
            }
        )
    last = table[-1]
    return table, [
        measure.goal("P5", "flow, mp4 form: share of raw uint8", "<= 0.05", last["share_of_raw"]),
        measure.goal("P5", "flow, mp4 form: end-point error, px", "<= 0.1", last["epe"]),
    ]


def truth() -> tuple[list[dict], list[dict]]:
    """End-point errors on Middlebury's RubberWhale."""
    import cv2

    from vidbench.data.flow import estimate as flow

    folder = footage.data() / "flow_gt" / "middlebury_rubberwhale"
    if not folder.is_dir():
        print(
            "RubberWhale is skipped: there is no flow_gt/middlebury_rubberwhale in the data "
            "folder (VIDBENCH_DATA)"
        )
        return [], []
    frames = np.stack([cv2.imread(str(folder / f"rubberwhale{i}.png"))[..., ::-1] for i in (1, 2)])
    with open(folder / "flow_gt.flo", "rb") as file:
        file.seek(4)
        width, height = np.fromfile(file, np.int32, 2)
        wanted = np.fromfile(file, np.float32).reshape(height, width, 2)
    known = (np.abs(wanted) < 1e9).all(-1)
    return [
        {
            "case": "RubberWhale, to the ground truth",
            "contestant": method,
            "epe": round(error(flow.estimate(frames, method, "cpu")[0][known], wanted[known]), 3),
        }
        for method in flow.METHODS
    ], []
