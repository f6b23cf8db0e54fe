"""Measuring: contestants in turn, CPU time, ratios within a round; facts about the machine; tables and files."""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "pillow", "decord", "av")


class Skip(Exception):
    """A benchmark that cannot run here; its message says why."""


def one_thread() -> None:
    """One thread for torch and OpenCV: ratios on a shared machine are of work, not of luck with cores."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int = 9, repeat: int = 1) -> dict[str, list[float]]:
    """CPU seconds per call, one value a round, for each contestant; all run once in each round, after a warm-up.

    CPU time of this process (time.process_time): a neighbour's load counts little. Use time.perf_counter for devices.
    """
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            began = time.process_time()
            for _ in range(repeat):
                call()
            seconds[name].append((time.process_time() - began) / repeat)
    return seconds


def rows(seconds: dict[str, list[float]], ours: str, **columns) -> list[dict]:
    """A row for each contestant: median milliseconds; its time over that of `ours` (median, min, max of rounds)."""
    table = []
    for name, times in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True)]
        low, middle, high = (round(f(ratios), 2) for f in (min, statistics.median, max))
        table.append(
            {**columns, "contestant": name, "ms": round(1e3 * statistics.median(times), 3)}
            | {"over_ours": middle, "min": low, "max": high, "rounds": len(times)}
        )
    return table


def machine() -> dict[str, object]:
    """Where the numbers were taken: processor, cores, versions, command."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    command = " ".join(["python", "-m", "benchmarks", *sys.argv[1:]])
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
            "versions": versions, "command": command, "date": time.strftime("%Y-%m-%d")}  # fmt: skip


def show(table: list[dict]) -> str:
    """Rows as aligned text; rows may differ in their columns."""
    names = list(dict.fromkeys(name for row in table for name in row))
    cells = [names] + [[str(row.get(name, "")) for name in names] for row in table]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def save(name: str, table: list[dict], folder: Path = RESULTS) -> Path:
    """results/<name>.csv with the rows and <name>.json with rows and machine facts; each replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.tmp"
    with open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(dict.fromkeys(c for row in table for c in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    os.replace(temporary, folder / f"{name}.csv")
    temporary.write_text(json.dumps({"machine": machine(), "rows": table}, indent=1) + "\n")
    os.replace(temporary, folder / f"{name}.json")
    return folder / f"{name}.json"
