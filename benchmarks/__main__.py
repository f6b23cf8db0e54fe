"""`python -m benchmarks [name ...]`: run all benchmarks, or the named ones; print tables, write benchmarks/results."""

import argparse
import importlib
import pkgutil
import sys

import benchmarks
from benchmarks import measure

HELPERS = ("__main__", "measure")


def names() -> list[str]:
    """The benchmark modules of this folder: each has a main() that returns rows, or raises measure.Skip."""
    return [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in HELPERS]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names())}; default: all")
    chosen = parser.parse_args().names or names()
    if unknown := set(chosen) - set(names()):
        parser.error(f"no benchmark called {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {module.__doc__.splitlines()[0]}", flush=True)
        try:
            table = module.main()
        except measure.Skip as reason:
            print(f"skipped: {reason}")
            continue
        print(measure.show(table))
        print(f"-> {measure.save(name, table)}")
    return 0


sys.exit(main())
