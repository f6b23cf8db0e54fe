"""A notebook executed headless and the same code as a script, whole processes, wall time.

The smoke notebook renders the tiny toy world, trains InfoNCE on it for an epoch. The allowance over
the script is 1.2 times a run of a notebook of one trivial cell. One thread trains: on a machine
that others use, the wall time of two that wait for each other says little."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from benchmarks.startup import run

RUNS_DIR = 'runs_dir: str = "../runs"'
SMOKE = (
    "from dataclasses import replace\nfrom pathlib import Path",
    "from vidbench.data.toy.world import render\nfrom vidbench.engine.runs import recipe_dict\n"
    "from vidbench.methods import coclr",
    'toy = render(Path(runs_dir) / "toy", preset="tiny", world="base", seed=0, workers=1, '
    "progress=False)\n"
    'toy.save(Path(runs_dir) / "toy")',
    'recipe = coclr.PRESETS["tiny"].alone\n'
    'recipe = replace(recipe, manifest=f"{runs_dir}/toy", fit=replace(recipe.fit, epochs=1))',
    'coclr.train(recipe_dict(recipe), f"{runs_dir}/run", "none", threads=1)',
)
NOTEBOOK, SCRIPT, EMPTY = "notebook", "script", "empty notebook"


def main(rounds: int = 5) -> list[dict]:
    """A row for each contestant, and goal P11."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder / "smoke.ipynb", SMOKE)
        write(folder / "empty.ipynb", ("1 + 1",))
        runs_dir = folder / "runs_dir"
        (folder / "smoke.py").write_text("\n".join((f"runs_dir = {str(runs_dir)!r}", *SMOKE)))
        execute = [
            "-m",
            "vidbench",
            "run",
            "-p",
            "runs_dir",
            str(runs_dir),
            "--out",
            str(folder / "out"),
        ]
        programs = {
            SCRIPT: [str(folder / "smoke.py")],
            NOTEBOOK: [*execute, str(folder / "smoke.ipynb")],
            EMPTY: [*execute, str(folder / "empty.ipynb")],
        }
        calls = {
            name: lambda program=program: afresh(program, runs_dir)
            for name, program in programs.items()
        }
        cpu: dict[str, list[float]] = {name: [] for name in calls}
        calls = {name: noting(call, cpu[name]) for name, call in calls.items()}
        seconds = measure.in_turn(calls, rounds, clock=time.perf_counter)
    table = []
    for name, times in seconds.items():
        middle, low, high = measure.spread(times)
        table.append(
            {
                "contestant": name,
                "wall_s": middle,
                "min": low,
                "max": high,
                "cpu_s": round(statistics.median(cpu[name][1:]), 2),
                "rounds": rounds,
            }
        )
    allowed = [
        script + 1.2 * empty for script, empty in zip(seconds[SCRIPT], seconds[EMPTY], strict=True)
    ]
    what = "notebook's wall time over the script's and 1.2 empty runs"
    return table + [measure.goal("P11", what, "<= 1", measure.ratios(seconds[NOTEBOOK], allowed))]


def noting(call, times: list[float]):
    """The call, with the CPU time of its processes appended to times."""

    def noted() -> None:
        began = measure.children()
        call()
        times.append(measure.children() - began)

    return noted


def afresh(program: list[str], runs_dir: Path) -> None:
    """Run a program without what an earlier one left."""
    shutil.rmtree(runs_dir, ignore_errors=True)
    run(program)


def write(path: Path, sources: tuple[str, ...]) -> None:
    """A notebook of these code cells after a parameters cell."""
    import nbformat

    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (RUNS_DIR, *sources)]
    )
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    book.cells[0].metadata["tags"] = ["parameters"]
    path.write_text(json.dumps(book))
