"""Measuring: contestants in turn, CPU time, ratios within a round, goals; the machine, its browser;
tables, files."""

from __future__ import annotations

import csv
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from vidbench.system.version import version

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-contrib-python-headless",
    "pillow",
    "decord",
    "av",
    "torchcodec",
    "faiss-cpu",
    "papermill",
    "kornia",
    "mmaction2",
    "mmcv-lite",
    "pytorchvideo",
)
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "AVX2",
    "OPENCV_CPU_DISABLE": "AVX512-SKX",
}  # what keeps the libraries to AVX2 on a CPU with AVX-512
PRESETS = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
)  # of the environment
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)  # root may have no sandbox; nothing is fetched
GOAL = ("goal", "what", "wanted", "got", "min", "max", "verdict")  # the columns of a goal


class Skip(Exception):
    """A benchmark that cannot run here; its message says why."""


@contextmanager
def chromium() -> Iterator:
    """The system's Chromium, headless, as playwright's Browser. Raises Skip where either is
    missing."""
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        raise Skip("no Chromium; install the system's package (Debian: chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise Skip("no playwright; pip install -e .[browser]") from None
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=[f"--{flag}" for flag in FLAGS]
        )
        yield browser
        browser.close()


def one_thread() -> None:
    """One core, and one thread for torch, OpenCV and BLAS: ratios on a shared machine are of work,
    not of luck."""
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threadpool_limits(1)


def sets() -> dict[str, dict[str, str]]:
    """The instruction sets to measure with, by name: the variables of a process that uses it."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX-512": {}, "AVX2": AVX2} if capability == "AVX512" else {capability: {}}


def in_sets(main: Callable[[], list[dict]]) -> list[dict]:
    """The rows of an importable function with each instruction set, in column `set`; libraries
    choose theirs when they are loaded, so each has a process."""
    table, kept = [], dict(os.environ)
    for which, variables in sets().items():
        print(f"with {which}:", flush=True)
        os.environ.update(variables)
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found = pool.submit(main).result()
        finally:
            for name in variables:
                os.environ.pop(name)
            os.environ.update(kept)
        table += [{"set": which, **row} for row in found]
    return table


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def children() -> float:
    """CPU seconds of all processes that were started here and have ended: a clock for in_turn."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_turn(
    contestants: dict[str, Callable],
    rounds: int = 9,
    repeat: int = 1,
    *,
    draws: Sequence | None = None,
    clock: Callable[[], float] = time.process_time,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds per call, one value a round, for each contestant; all run once in each round, after a
    warm-up.

    CPU time of this process (time.process_time): a neighbor's load counts little. Use `children`
    for processes, time.perf_counter for devices. draws: one argument a round, the same for all
    contestants, instead of `rounds`."""
    arguments = [()] * rounds if draws is None else [(draw,) for draw in draws]
    for call in contestants.values() if warm_up else ():
        call(*arguments[0])
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for argument in arguments:
        for name, call in contestants.items():
            began = clock()
            for _ in range(repeat):
                call(*argument)
            seconds[name].append((clock() - began) / repeat)
    return seconds


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round, one contestant's time over another's."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> tuple[float, float, float]:
    """Median, smallest, largest; so many digits count."""
    return tuple(float(f"{f(values):.{digits}g}") for f in (statistics.median, min, max))


def rows(seconds: dict[str, list[float]], ours: str, **columns) -> list[dict]:
    """A row for each contestant: median milliseconds; its time over that of `ours` (median, min,
    max of rounds)."""
    table = []
    for name, times in seconds.items():
        middle, low, high = spread(ratios(times, seconds[ours]))
        table.append(
            {**columns, "contestant": name, "ms": round(1e3 * statistics.median(times), 3)}
            | {"over_ours": middle, "min": low, "max": high, "rounds": len(times)}
        )
    return table


def goal(name: str, what: str, wanted: str, values: float | Sequence[float]) -> dict:
    """A goal of the project as a row, printed as a line; `wanted` is such as ">= 1.2", `values` one
    or one a round.

    The median is judged. A goal that is missed is said, and stops nothing.
    """
    relation, limit = wanted.split()
    got, low, high = spread([values] if isinstance(values, float | int) else values)
    reached = {">=": got >= float(limit), "<=": got <= float(limit)}[relation]
    verdict = "reached" if reached else "MISSED"
    between = f", {low} to {high}" if low < high else ""
    print(f"goal {name}: {what}: wanted {wanted}, got {got}{between} ({verdict})", flush=True)
    return dict(zip(GOAL, (name, what, wanted, got, low, high, verdict), strict=True))


def gpu() -> str | None:
    """The GPU's name, where torch was imported and sees one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def machine() -> dict[str, object]:
    """What made the numbers: processor, cores, versions, command, the commit of vidbench."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                model,
            )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    command = " ".join(["python", "-m", "benchmarks", *sys.argv[1:]])
    return {
        "cpu": model,
        "gpu": gpu(),
        "cores": os.cpu_count(),
        "cores_used": cores(),
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": versions,
        "command": command,
        "vidbench": str(version()),
        "environment": {name: os.environ[name] for name in PRESETS if name in os.environ},
        "date": time.strftime("%Y-%m-%d"),
    }


def show(table: list[dict]) -> str:
    """Rows as aligned text; rows may differ in their columns."""
    names = list(dict.fromkeys(name for row in table for name in row))
    cells = [names] + [[str(row.get(name, "")) for name in names] for row in table]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def save(name: str, table: list[dict], folder: Path = RESULTS) -> Path:
    """results/<name>.csv with the measured rows, <name>.json with rows, goals and machine; each
    replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    measured, goals = (
        [row for row in table if ("goal" in row) is wanted] for wanted in (False, True)
    )
    temporary = folder / f"{name}.tmp"
    with open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(
            handle, list(dict.fromkeys(c for row in measured for c in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(measured)
    os.replace(temporary, folder / f"{name}.csv")
    temporary.write_text(
        json.dumps({"machine": machine(), "rows": measured, "goals": goals}, indent=1) + "\n"
    )
    os.replace(temporary, folder / f"{name}.json")
    return folder / f"{name}.json"
