"""`python -m benchmarks [name ...]`: run all benchmarks, or the named ones; print tables, write
benchmarks/results."""

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from inspect import signature

import benchmarks
from benchmarks import measure

HELPERS = ("__main__", "measure", "footage", "plain_flow", "switches", "travel")


def names() -> list[str]:
    """The benchmark modules of this folder: each has a main() that returns rows, or raises
    measure.Skip."""
    return [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in HELPERS]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where a benchmark failed, as when contestants did not compute the same; a missed
    goal is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(names())}; default: all"
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="the largest sizes instead, where there are any; minutes",
    )
    parser.add_argument(
        "--part",
        default="",
        help="one part of a benchmark that has PARTS, into results/<name>-<part>",
    )
    given = parser.parse_args(arguments)
    chosen, flags = given.names or names(), ["--scale"] * given.scale
    if unknown := set(chosen) - set(names()):
        parser.error(
            f"no benchmark called {', '.join(sorted(unknown))}; there are {', '.join(names())}"
        )
    if given.part:
        known = {name: _parts(name) for name in names() if _parts(name)}
        if len(chosen) != 1 or given.part not in known.get(chosen[0], ()):
            parser.error(f"--part needs one benchmark and a part of it; there are {known}")
    if len(chosen) == 1:
        one(chosen[0], given.scale, given.part)
        return 0
    began = time.time()
    # a process for each: what one imports, pins or allocates is no matter for the next
    failed = [
        name
        for name in chosen
        if subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode
    ]
    summary(chosen, began)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def _parts(name: str) -> tuple[str, ...]:
    return getattr(importlib.import_module(f"benchmarks.{name}"), "PARTS", ())


def one(name: str, scale: bool = False, part: str = "") -> None:
    """Run one benchmark in this process; scale: at its largest sizes, where it has any, into
    results/<name>-scale; part: only that, into results/<name>-<part>."""
    module = importlib.import_module(f"benchmarks.{name}")
    print(f"\n{name}: {module.__doc__.splitlines()[0]}", flush=True)
    began = time.monotonic()
    try:
        scale = scale and "scale" in signature(module.main).parameters
        options: dict = {"scale": True} if scale else {"part": part} if part else {}
        both = getattr(module, "IN_SETS", False)
        table = measure.in_sets(module.main) if both else module.main(**options)
    except measure.Skip as reason:
        print(f"skipped: {reason}")
        return
    print(measure.show([row for row in table if "goal" not in row]))
    name += (
        "-scale" * scale
        + f"-{part}" * bool(part)
        + "-gpu" * (getattr(module, "ON_GPU", False) and measure.gpu() is not None)
    )
    print(
        f"-> {measure.save(name, table).relative_to(measure.RESULTS.parents[1])} "
        f"({time.monotonic() - began:.0f} s)"
    )


def summary(chosen: list[str], since: float) -> None:
    """All goals that were measured since then, as one table."""
    files = [
        measure.RESULTS / f"{name}{end}.json" for name in chosen for end in ("", "-scale", "-gpu")
    ]
    fresh = [file for file in files if file.is_file() and file.stat().st_mtime >= since]
    goals = [goal for file in fresh for goal in json.loads(file.read_text())["goals"]]
    goals.sort(key=lambda goal: int(goal["goal"][1:]))
    missed = sum(goal["verdict"] == "MISSED" for goal in goals)
    print(f"\n{len(goals)} goals measured, {missed} missed\n{measure.show(goals)}")


if __name__ == "__main__":
    sys.exit(main())
