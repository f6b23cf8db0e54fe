"""Many runs that need one another: as many at a time as processes allow, complete ones skipped, the
rest resumed."""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from vidbench.engine import ranks
from vidbench.engine.runs import Run, recipe_dict

PARENTS = ("student", "teacher", "init")  # fields of a recipe that name a run it starts from
EVERY = 10.0  # seconds between lines where nobody watches


def run_all(recipes: Mapping[str, object], folder: str | Path, processes: int = 2) -> None:
    """Train each recipe into `folder`/name, at most `processes` runs at a time, each in a process
    of its own.

    recipes: name (a path below `folder`) -> recipe of a method, in any order; its module's `train`
    is called. A run waits for those of its parents (PARENTS) that are among the names. Shows all
    their progress. The first failure stops the others, which save themselves, and is raised as
    RuntimeError with the name of its run; the same call goes on. They also save themselves and end
    where this process is killed."""
    folder = Path(folder)
    needs = {name: _needs(recipe, folder) & recipes.keys() for name, recipe in recipes.items()}
    waiting = {
        name: recipe for name, recipe in recipes.items() if not complete(folder / name, recipe)
    }
    if not waiting:
        return
    open_, processes = set(waiting), max(1, min(processes, len(waiting)))
    threads = max(1, ranks.cores() // processes)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
        watch, running = (
            _Watch({name: recipe.fit.epochs for name, recipe in waiting.items()}, folder),
            {},
        )
        try:
            while waiting or running:
                ready = [name for name in waiting if not needs[name] & open_][
                    : processes - len(running)
                ]
                if not ready and not running:
                    raise ValueError(f"these runs wait for one another: {sorted(waiting)}")
                for name in ready:
                    recipe = waiting.pop(name)
                    module = type(recipe).__module__
                    job = pool.submit(
                        _train, module, recipe_dict(recipe), str(folder / name), threads
                    )
                    running[job] = name
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                watch.look(running.values())
                for job in done:
                    if isinstance(job.exception(), BrokenProcessPool):
                        raise RuntimeError(
                            "a process died, of a kill or for want of memory, while these ran: "
                            f"{', '.join(running.values())}; the same call goes on"
                        ) from job.exception()
                    name = running.pop(job)
                    if job.exception():
                        raise RuntimeError(
                            f"the run {name} failed: {job.exception()}"
                        ) from job.exception()
                    open_.discard(name)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # the other runs save themselves and stop
            raise
        finally:
            watch.close()


def _end_with_parent() -> None:
    """In a process of the pool: once the parent is gone, stop as on SIGTERM, which saves a run.

    Nobody else would say so: it waits at a queue that it holds both ends of.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _train(module: str, recipe: dict, folder: str, threads: int) -> None:
    """A run in a process of the pool, which ends where the run was asked to stop.

    An idle process of the pool dies of the same signal, with the lock of the queue of work in its
    hands. If this one lived on and asked the queue for more, it and the pool would wait for ever.
    """
    try:
        importlib.import_module(module).train(recipe, folder, "none", threads)
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)


def complete(folder: Path, recipe) -> bool:
    """Whether the folder holds this recipe's complete run. Raises RunError where it holds another
    recipe's."""
    if not (folder / "recipe.json").exists():
        return False
    return (
        Run.create(folder, type(recipe).__module__.rpartition(".")[2], recipe).state == "complete"
    )


def _needs(recipe, folder: Path) -> set[str]:
    parents = [Path(getattr(recipe, field)) for field in PARENTS if getattr(recipe, field, "")]
    return {
        parent.relative_to(folder).as_posix() for parent in parents if parent.is_relative_to(folder)
    }


class _Watch:
    """Reads the runs' logs: a bar for each when a person watches, else a line for those that run,
    now and then."""

    def __init__(self, epochs: dict[str, int], folder: Path):
        self.epochs, self.folder, self.spoken, self.begun = epochs, folder, time.monotonic(), []
        self.watched = sys.stderr.isatty()
        self.bars = {}

    def look(self, names) -> None:
        """Show where the named runs stand."""
        self.begun = list(dict.fromkeys([*self.begun, *names]))
        for name in names if self.watched else ():
            if name not in self.bars:
                self.bars[name] = tqdm(
                    total=self.epochs[name],
                    desc=name,
                    position=len(self.bars),
                    unit="epoch",
                    bar_format=_BAR,
                )
        for name, bar in self.bars.items():
            line = self._last(name)
            bar.n = round(line["epoch"], 1)
            bar.set_postfix_str(_loss(line), refresh=True)
        if not self.watched and time.monotonic() - self.spoken > EVERY:
            self.spoken = time.monotonic()
            lines = {name: self._last(name) for name in names}
            print(
                f"{len(self.begun) - len(lines)} of {len(self.epochs)} runs done | "
                + " | ".join(
                    f"{name} epoch {line['epoch']:.0f}/{self.epochs[name]} {_loss(line)}".rstrip()
                    for name, line in lines.items()
                ),
                flush=True,
            )

    def _last(self, name: str) -> dict:
        there = (self.folder / name / "recipe.json").exists()
        lines = Run(self.folder / name).metrics() if there else []
        return lines[-1] if lines else {"epoch": 0}

    def close(self) -> None:
        self.look(self.begun[-1:] if self.watched else [])
        for bar in self.bars.values():
            bar.close()


def _loss(line: dict) -> str:
    """The loss of a line of a run's log in words, nothing before the first one is logged."""
    return f"loss {line['loss']:.3f}" if "loss" in line else ""


_BAR = "{desc:18} {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
