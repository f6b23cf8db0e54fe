"""A run directory: recipe, checkpoints, log, status, results.

A run belongs to one recipe for good. `Run.create` opens the directory of an equal recipe, so the
same call resumes, and refuses another recipe with the fields that differ. Each file is written
whole or not at all. The released code of the papers keeps a checkpoint and its arguments only; here
the directory also holds the rows that were trained on, the environment and every result with its
protocol.

Example:

>>> run_name("infonce", "rgb", "", 3)
'infonce-rgb-3'
>>> protocol_id("retrieval", {"windows": 10, "crops": "center"})
'retrieval crops=center windows=10'
"""

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vidbench.engine.checkpoints import (
    checkpoint_stamp,
    checkpoints,
    read_state,
    read_weights,
    write_checkpoint,
)
from vidbench.engine.environment import environment, made_by
from vidbench.engine.recipes import RunError, differing, recipe_from, stored
from vidbench.engine.recipes import changed as changed
from vidbench.engine.recipes import differences as differences
from vidbench.engine.recipes import recipe_dict as recipe_dict
from vidbench.engine.records import Result, read_last, read_log, read_record
from vidbench.system.files import (
    BusyError,
    explain_full_disk,
    lock_file,
    lock_folder,
    write_text,
)

STATES = ("new", "running", "complete", "interrupted", "failed")
DIFFERENCES = 4  # between recipes that an error names
RESULTS_WAIT = 60.0  # seconds to wait for another process that writes results

_recipe_class: Callable[[str], type] | None = None


def read_recipes_with(find: Callable[[str], type]) -> None:
    """Let `Run.recipe` find the recipe class of a method by its name.

    The engine knows no method; methods.common calls this when it is imported."""
    global _recipe_class
    _recipe_class = find


def find(place: str | Path, name: str) -> "Run":
    """Return the run of that name in a folder of runs, or at that path.

    Args:
        place: The folder of runs.
        name: The run's name. If it has a slash, the path of its directory, whatever `place` is.
    """
    return Run(Path(name).expanduser().resolve() if "/" in name else Path(place) / name)


def protocol_id(task: str, protocol: dict) -> str:
    """Return `task name=value name=value`, names in order; equal ids mean comparable numbers.

    Args:
        task: What was evaluated, such as retrieval.
        protocol: Switch -> plain value.
    """
    return " ".join([task, *(f"{name}={protocol[name]}" for name in sorted(protocol))])


def run_name(*parts: object) -> str:
    """Join the parts to a run directory's name: ("tour", "flow", 24) -> "tour-flow-24".

    Empty parts and None are left out."""
    return "-".join(str(part) for part in parts if part not in ("", None))


def _few(changes: list[tuple[str, Any, Any]]) -> str:
    """Name what differs from the run in the folder, in one line: the first DIFFERENCES of many."""
    said = [
        f"{name.removeprefix('recipe.')} is {there!r} there, {here!r} here"
        for name, there, here in changes[:DIFFERENCES]
    ]
    more = len(changes) - DIFFERENCES
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")


class Run:
    """One run directory, the only thing that training and evaluation share.

    It has recipe.json, environment.json, status.json, rows.json, videos.json, metrics.jsonl,
    monitor.jsonl, results.json and checkpoints/. Only rank 0 writes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "recipe.json").exists():
            raise RunError(
                f"{folder} is no run folder: it has no recipe.json. Train a run into it first."
            )
        way_out = "Restore it from a copy, or train the run again in another folder."
        held = read_record(self.folder / "recipe.json", way_out)
        if not isinstance(held.get("method"), str) or not isinstance(held.get("recipe"), dict):
            raise RunError(
                f"{folder}/recipe.json must have the fields 'method' (once 'stage') and 'recipe'; "
                f"it has {', '.join(held) or 'none'}. {way_out}"
            )
        self.method: str = held["method"]
        self.values: dict = held["recipe"]

    @property
    def recipe(self) -> Any:
        """The recipe as the dataclass of the run's method.

        Raises:
            RunError: The method is unknown, or its recipe has other fields or ranges: a run of
                another version. Or `methods.common` is not imported yet.
        """
        if _recipe_class is None:
            raise RunError(
                f"{self.folder}: nothing can read recipes yet; import vidbench.methods.common first."
            )
        where = f"{self.folder}: {self.method}.Recipe"
        try:
            return recipe_from(_recipe_class(self.method), self.values, where=where)
        except ValueError as error:  # a range that the version that wrote it did not check
            raise RunError(
                f"{self.folder}/recipe.json: {error} Train the run again in another folder."
            ) from error

    @property
    def epochs(self) -> int:
        """How many epochs the run trains; 0 if its recipe does not say it."""
        fit = self.values.get("fit", self.values)
        epochs = fit.get("epochs") if isinstance(fit, dict) else None
        return epochs if isinstance(epochs, int) else 0  # `recipe` says what is wrong with it

    @classmethod
    def create(cls, folder: str | Path, method: str, recipe: Any) -> "Run":
        """Make the folder, or open one that holds the same method and recipe.

        A field that the recipe did not have when the run began counts as its default.

        Args:
            folder: The run directory.
            method: The method's name, such as coclr.
            recipe: The method's recipe, a frozen dataclass.

        Raises:
            RunError: the folder holds another recipe (the message names the differences), or its
                recipe.json is damaged.
        """
        folder = Path(folder)
        wanted = {"method": method, "recipe": stored(recipe)}
        if (folder / "recipe.json").exists():
            run = cls(folder)
            held = (
                stored(recipe_from(type(recipe), run.values))
                if run.method == method
                else run.values
            )
            changes = differing({"method": run.method, "recipe": held}, wanted)
            if changes:
                raise RunError(
                    f"{folder} holds a run of another recipe: {_few(changes)}.\n"
                    "Set the parameter `name` to another name (of the run's folder), or delete this "
                    "folder to start over."
                )
            return run
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        decoder = getattr(getattr(recipe, "clip", None), "decoder", "")
        write_text(folder / "environment.json", json.dumps(environment(decoder), indent=1))
        write_text(folder / "recipe.json", json.dumps(wanted, indent=1))
        run = cls(folder)
        run.status("new")
        return run

    def lock(self) -> io.FileIO:
        """Keep other processes from training into the folder until the returned file is closed.

        Raises:
            BusyError: another process holds it.
        """
        return lock_folder(self.folder, "is training into")

    def status(self, state: str, **facts) -> None:
        """Write status.json.

        Args:
            state: new, running, complete, interrupted or failed.
            **facts: Further fields, plain values.
        """
        write_text(
            self.folder / "status.json", json.dumps({"state": state, "time": time.time(), **facts})
        )

    @property
    def state(self) -> str:
        """The state last written; without one, interrupted if there is a checkpoint, else new.

        Raises:
            RunError: status.json is damaged.
        """
        path = self.folder / "status.json"
        if not path.exists():
            return "interrupted" if self.checkpoint() else "new"
        way_out = "Delete it and train again: the same call resumes from the last checkpoint."
        held = read_record(path, way_out)
        if held.get("state") not in STATES:
            raise RunError(
                f"{path} is damaged: its state must be one of {', '.join(STATES)}; got "
                f"{held.get('state')!r}. {way_out}"
            )
        return held["state"]

    def log(self, name: str = "metrics", **numbers) -> None:
        """Append one JSON line to a log.

        Args:
            name: metrics, or monitor, which has a line for each validation.
            **numbers: The line's numbers; `step` is one of them.

        Raises:
            DiskError: the disk is full.
        """
        with explain_full_disk(self.folder), (self.folder / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(numbers) + "\n")

    def metrics(self, name: str = "metrics") -> list[dict]:
        """Return the logged lines; damaged ones are left out (read_log)."""
        return read_log(self.folder / f"{name}.jsonl")

    def curves(self, name: str = "metrics") -> dict[str, list]:
        """Return a log as columns of equal length, with None in lines that lack the number."""
        lines = self.metrics(name)
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name) for line in lines] for name in names}

    def rewind(self, step: int) -> None:
        """Drop the log lines after `step`, that of the checkpoint from which the run resumes."""
        for name in ("metrics", "monitor"):
            if not (self.folder / f"{name}.jsonl").exists():
                continue
            kept = [line for line in self.metrics(name) if line["step"] <= step]
            write_text(
                self.folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in kept)
            )

    def budget(self) -> dict:
        """Return what training took: global batch, iterations, clips, epochs, seconds.

        A pair of views counts as one clip. Iterations, clips, epochs and seconds include those of
        the runs it starts from (the recipe's `parent`), whose names are listed in `stages`. A
        teacher's training is not counted: it is of the other stream.
        """
        last = read_last(self.folder / "metrics.jsonl")
        own = {
            name: last.get(key, 0)
            for name, key in (
                ("iterations", "step"),
                ("clips", "clips"),
                ("epochs", "epoch"),
                ("seconds", "seconds"),
            )
        }
        recipe = self.recipe
        before = Run(recipe.parent).budget() if recipe.parent else {}
        total = {name: round(value + before.get(name, 0), 2) for name, value in own.items()}
        return {
            "batch": recipe.fit.batch,
            **total,
            "stages": [*before.get("stages", []), self.folder.name],
        }

    def results(self) -> dict[str, Result]:
        """Return what evaluations wrote about this run, by protocol id.

        Raises:
            RunError: results.json is damaged, or an entry lacks a field.
        """
        found = {}
        for name, record in self.records().items():
            try:
                found[name] = Result.read(record)
            except ValueError as error:
                raise RunError(f"{self.folder}/results.json: {name!r}: {error}") from error
        return found

    def records(self) -> dict[str, Any]:
        """Return the entries of results.json as they are on disk, unchecked; {} without the file.

        Raises:
            RunError: results.json is damaged.
        """
        path = self.folder / "results.json"
        if not path.exists():
            return {}
        return read_record(path, "Bring back a copy, or delete it and evaluate the run again.")

    def add_result(self, task: str, protocol: dict, numbers: dict) -> str:
        """Add an evaluation's numbers to results.json and return the protocol's id.

        The run's budget and vidbench's version and commit are kept with them. Several processes may
        add results of one run at a time.

        Args:
            task: What was evaluated, such as retrieval.
            protocol: Each switch that changes the numbers, as plain values.
            numbers: Name -> value or (value, low, high), as fractions.

        Raises:
            RunError: results.json or the recipe cannot be read.
            BusyError: another process holds the file's lock for a minute.
        """
        name = protocol_id(task, protocol)
        record = asdict(Result(task, protocol, numbers, self.budget(), made_by()))
        with self._writing_results():
            write_text(
                self.folder / "results.json", json.dumps({**self.records(), name: record}, indent=1)
            )
        return name

    def _writing_results(self) -> io.FileIO:
        """Wait for the lock of results.json, which another process holds for milliseconds."""
        path, end = self.folder / ".results.lock", time.monotonic() + RESULTS_WAIT
        while True:
            try:
                return lock_file(path, "is writing results into", self.folder)
            except BusyError:
                if time.monotonic() > end:
                    raise

    def checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint's folder, or None."""
        found = checkpoints(self.folder / "checkpoints")
        return found[-1] if found else None

    def checkpoint_stamp(self) -> str:
        """Read the stamp of the newest weights: what a cache of their features stores.

        It follows from the step and the file's bytes alone: another checkpoint in the same place
        has another stamp, a copy of the run in another folder has the same one. It reads the whole
        file (about 1 s for 1 GB).

        Returns:
            "step-NUMBER-SIZE-CHECKSUM".

        Raises:
            RunError: There is no checkpoint yet, or it cannot be read.
        """
        return checkpoint_stamp(self._trained())

    def _trained(self) -> Path:
        """The newest checkpoint; RunError if there is none."""
        if place := self.checkpoint():
            return place
        raise RunError(
            f"{self.folder} has no checkpoint yet (state: {self.state}). Train it first."
        )

    def save(self, step: int, weights: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint whole or not at all, then delete the older ones (write_checkpoint).

        Args:
            step: How many steps were taken.
            weights: Name -> tensor.
            state: What a resumed run needs in addition.

        Returns:
            The checkpoint's folder.
        """
        return write_checkpoint(self.folder / "checkpoints", step, weights, state)

    def weights(self) -> dict[str, torch.Tensor]:
        """Read the newest checkpoint's weights on the CPU.

        Raises:
            RunError: There is no checkpoint yet, or it is damaged.
        """
        return read_weights(self._trained())

    def training(self) -> dict[str, Any]:
        """Read what the newest checkpoint contains in addition to weights, on the CPU.

        Raises:
            RunError: There is no checkpoint yet, or it is damaged.
        """
        return read_state(self._trained())

    def load_into(
        self, module: torch.nn.Module, prefix: str, change: Callable = lambda part: (part, "")
    ) -> str:
        """Load the weights whose names start with a prefix into a module.

        Args:
            prefix: It is removed from the names.
            change: Their state dict -> (the one to load, a sentence on what changed). By default
                nothing changes.

        Returns:
            The sentence of `change`; empty by default.

        Raises:
            RunError: they do not fit the module, or there is no whole checkpoint.
        """
        part = {
            name.removeprefix(prefix): value
            for name, value in self.weights().items()
            if name.startswith(prefix)
        }
        part, said = change(part)
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise RunError(
                f"{self.folder} holds another network ({self.values.get('network')} "
                f"{self.values.get('network_args')}): {str(error).splitlines()[1].strip()}"
            ) from error
        return said
