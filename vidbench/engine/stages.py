"""Many runs that need one another: in parallel, complete ones skipped, the rest resumed."""

import importlib
from collections.abc import Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from pathlib import Path
from typing import Any

from vidbench.engine.runs import Run, recipe_dict
from vidbench.system.errors import calm_stops
from vidbench.system.processes import DiedError, Pool, cores, result_of
from vidbench.system.progress import Every, Progress, style, words
from vidbench.system.signals import Interrupted, deferred, stop_at_second
from vidbench.system.trusted import spread


def run_all(recipes: Mapping[str, Any], folder: str | Path, processes: int = 2) -> None:
    """Train each recipe into `folder`/name, several runs at a time, each in its own process.

    Complete runs are skipped. The progress of all is shown. The first failure, or Ctrl-C, stops the
    others, which save themselves; they also do so when this process is killed. The same call
    resumes them.

    Args:
        recipes: Name (a path below `folder`) -> recipe of a method, in any order; its module's
            `train` is called. A run waits for those of its recipe's `needs` that are among the
            names.
        folder: The folder of the run directories.
        processes: At most so many runs at a time.

    Raises:
        RuntimeError: a run failed; the message names it.
        RunError: a folder holds a run of another recipe.
        ValueError: runs wait for one another.
        Interrupted: Ctrl-C was pressed.
    """
    folder = Path(folder)
    waiting = {
        name: recipe for name, recipe in recipes.items() if not complete(folder / name, recipe)
    }
    if not waiting:
        return
    for recipe in waiting.values():
        spread(getattr(recipe, "network", ""), recipe.home)
    try:
        _train_all(waiting, folder, max(1, min(processes, len(waiting))))
    except KeyboardInterrupt:
        calm_stops(Interrupted)
        raise Interrupted(_stopped(recipes, folder)) from None


def _train_all(recipes: Mapping[str, Any], folder: Path, processes: int) -> None:
    """Train these recipes in a pool of so many processes."""
    needs = {name: _needs(recipe, folder) & recipes.keys() for name, recipe in recipes.items()}
    waiting, open_ = dict(recipes), set(recipes)
    threads = max(1, cores() // processes)
    watch = _Watch({name: recipe.fit.epochs for name, recipe in recipes.items()}, folder)
    running: dict[Future, str] = {}
    with closing(watch), Pool(processes) as pool:
        try:
            while waiting or running:
                ready = [n for n in waiting if not needs[n] & open_][: processes - len(running)]
                if not ready and not running:
                    raise ValueError(f"these runs wait for one another: {sorted(waiting)}")
                for name in ready:
                    recipe = waiting.pop(name)
                    module, values = recipe.home, recipe_dict(recipe)
                    job = pool.submit(_train, module, values, str(folder / name), threads)
                    running[job] = name
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                watch.look(running.values())
                for job in done:
                    name = running[job]
                    _check(job, name, running.values())
                    del running[job]
                    open_.discard(name)
        except BaseException:
            with deferred(stop_at_second):  # a nervous second Ctrl-C must not cost a checkpoint
                pool.terminate(running)  # the other runs save themselves and stop
            raise


def _stopped(recipes: Mapping[str, Any], folder: Path) -> str:
    """Say in a sentence what a stop left: complete runs, saved ones, others that began."""
    begun = {name: Run(folder / name) for name in recipes if (folder / name).is_dir()}
    states = {name: run.state for name, run in begun.items()}
    complete = sum(state == "complete" for state in states.values())
    saved = [name for name, state in states.items() if state == "interrupted"]
    rest = [name for name, state in states.items() if state not in ("complete", "interrupted")]
    parts = [
        f"{complete} of {len(recipes)} runs {'is' if complete == 1 else 'are'} complete",
        f"saved: {', '.join(saved)}" if saved else "",
        f"at the last checkpoint: {', '.join(rest)}" if rest else "",
    ]
    return f"Training stopped; {'; '.join(filter(None, parts))}. The same call resumes it."


def _check(job: Future, name: str, all_names) -> None:
    """Raise a run's failure as RuntimeError with its name."""
    try:
        result_of(job)
    except DiedError as error:
        raise RuntimeError(
            "a process died (killed, or out of memory) while these ran: "
            f"{', '.join(all_names)}; the same call resumes them"
        ) from error
    except BaseException as error:
        raise RuntimeError(f"the run {name} failed: {error}") from error


def _train(module: str, recipe: dict, folder: str, threads: int) -> None:
    """A run in a process of the pool."""
    importlib.import_module(module).train(recipe, folder, "none", threads)


def complete(folder: Path, recipe: Any) -> bool:
    """Return whether the folder holds this recipe's complete run.

    Args:
        folder: The run directory.

    Raises:
        RunError: it holds another recipe's run.
    """
    if not (folder / "recipe.json").exists():
        return False
    return Run.create(folder, recipe.method, recipe).state == "complete"


def _needs(recipe, folder: Path) -> set[str]:
    parents = [Path(run) for run in recipe.needs]
    return {
        parent.relative_to(folder).as_posix() for parent in parents if parent.is_relative_to(folder)
    }


class _Watch:
    """Reads the runs' logs: a bar for each when a person watches, else a line for those that run."""

    def __init__(self, epochs: dict[str, int], folder: Path):
        self.epochs, self.folder = epochs, folder
        self.begun: list[str] = []
        self.style, self.due = style(), Every()
        self.bars: dict[str, Progress] = {}

    def look(self, names: Collection[str]) -> None:
        """Show the progress of the named runs."""
        self.begun = list(dict.fromkeys([*self.begun, *names]))
        if self.style == "bar":
            for name in self.begun:
                line = self._last(name)
                self._bar(name).show(round(line["epoch"], 1), _loss(line))
        elif self.style == "lines" and names and self.due():
            lines = {name: self._last(name) for name in names}
            print(
                f"{len(self.begun) - len(lines)} of {len(self.epochs)} runs done | "
                + " | ".join(
                    f"{name} epoch {line['epoch']:.0f}/{self.epochs[name]} {_loss(line)}".rstrip()
                    for name, line in lines.items()
                ),
                flush=True,
            )

    def _bar(self, name: str) -> Progress:
        if name not in self.bars:
            self.bars[name] = Progress(
                name, self.epochs[name], "epoch", "bar", position=len(self.bars), bar_format=_BAR
            )
        return self.bars[name]

    def _last(self, name: str) -> dict:
        there = (self.folder / name / "recipe.json").exists()
        lines = Run(self.folder / name).metrics() if there else []
        return lines[-1] if lines else {"epoch": 0}

    def close(self) -> None:
        if self.style == "bar":
            self.look([])
        for bar in self.bars.values():
            bar.close()


def _loss(line: dict) -> str:
    """The loss in a line of a run's log, nothing before the first one."""
    return words({"loss": line.get("loss")}, ".3f")


_BAR = "{desc:18} {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
