"""Starting: the command's help and imports of vidbench, compared with `import torch`, each a fresh process,
bytecode on.

CPU seconds of whole processes, Python's own start among them ("python" is an empty program). The
full import is every module of the package, against torch and torchvision."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks import measure

EVERY = """
import importlib, pkgutil, vidbench
for module in pkgutil.walk_packages(vidbench.__path__, "vidbench."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
PROGRAMS = {
    "import torch": ["-c", "import torch"],
    "import torch, torchvision": ["-c", "import torch, torchvision"],
    "python": ["-c", "pass"],
    "vidbench --help": ["-m", "vidbench", "--help"],
    "import vidbench": ["-c", "import vidbench"],
    "import vidbench.data.video.clips": ["-c", "import vidbench.data.video.clips"],
    "import every module of vidbench": ["-c", EVERY],
}
SMALL = ("vidbench --help", "import vidbench", "import vidbench.data.video.clips")


def main(rounds: int = 7) -> list[dict]:
    """A row for each program, and goal P10."""
    seconds = measure.in_turn(
        {name: start(PROGRAMS[name]) for name in PROGRAMS}, rounds, clock=measure.children
    )
    table = []
    for name, times in seconds.items():
        middle, low, high = measure.spread(measure.ratios(times, seconds["import torch"]))
        table.append(
            {
                "program": name,
                "ms": round(1e3 * sorted(times)[len(times) // 2], 1),
                "of_import_torch": middle,
                "min": low,
                "max": high,
                "rounds": rounds,
            }
        )
    goals = [
        measure.goal(
            "P10",
            f"{name}: its time over import torch",
            "<= 0.15",
            measure.ratios(seconds[name], seconds["import torch"]),
        )
        for name in SMALL
    ]
    every = measure.ratios(
        seconds["import every module of vidbench"], seconds["import torch, torchvision"]
    )
    return (
        table
        + goals
        + [
            measure.goal(
                "P10", "every module: its time over torch and torchvision", "<= 1.1", every
            )
        ]
    )


def start(program: list[str]) -> Callable[[], None]:
    """A call that runs a program in a fresh process and waits for it."""
    return lambda: run(program)


def run(program: list[str]) -> None:
    """Raises where the program fails."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    done = subprocess.run(
        [sys.executable, *program],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(program)[:80]} failed:\n{done.stdout[-2000:]}")
