"""A run on disk: recipe, checkpoints, log, status, numbers."""

import dataclasses
import fcntl
import json
import os
import platform
import shutil
import sys
import time
import types
import typing
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says what was wanted, what came and what to do."""


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, then rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def recipe_dict(recipe) -> dict:
    """A recipe (frozen dataclass of plain values, nested ones too) as JSON's own types."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def recipe_from(cls, values: dict, where: str = ""):
    """The recipe of class `cls` from JSON's values. An unknown field is an error that lists the known ones."""
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise RunError(f"{where or cls.__name__} has no field {unknown[0]!r}; the known ones are {', '.join(known)}.")
    made = {}
    for name, value in values.items():
        kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        nested = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if nested and isinstance(value, dict):
            value = recipe_from(nested, value, where=f"{where or cls.__name__}.{name}")
        made[name] = _tuples(value)
    return cls(**made)


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def differences(wanted: dict, found: dict, prefix: str = "") -> list[str]:
    """Lines `field: wanted X, found Y` for two nested dictionaries of plain values."""
    lines = []
    for name in sorted(set(wanted) | set(found)):
        left, right = wanted.get(name, "nothing"), found.get(name, "nothing")
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: wanted {left!r}, found {right!r}")
    return lines


class Run:
    """One run folder: recipe.json, environment.json, status.json, metrics.jsonl, results.json, checkpoints/.

    A run folder is the only thing that training and evaluation share. All writing is done by rank 0.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "recipe.json").exists():
            raise RunError(f"{folder} is no run folder: it has no recipe.json. Train a run into it first.")
        held = json.loads((self.folder / "recipe.json").read_text())
        self.stage: str = held["stage"]
        self.recipe: dict = held["recipe"]

    @classmethod
    def create(cls, folder: str | Path, stage: str, recipe) -> "Run":
        """Make the folder, or take up one that holds the same stage and recipe.

        Raises RunError that prints the difference where it holds another recipe.
        """
        folder = Path(folder)
        wanted = {"stage": stage, "recipe": recipe_dict(recipe)}
        if (folder / "recipe.json").exists():
            run = cls(folder)
            changed = differences(wanted, {"stage": run.stage, "recipe": run.recipe})
            if changed:
                raise RunError(f"{folder} holds a run of another recipe:\n  " + "\n  ".join(changed)
                               + "\nUse another folder, or delete this one to start anew.")
            return run
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_text(folder / "environment.json", json.dumps(environment(), indent=1))
        write_text(folder / "recipe.json", json.dumps(wanted, indent=1))
        run = cls(folder)
        run.status("new")
        return run

    def lock(self):
        """An open file that keeps other processes from training into the folder until it is closed or its process ends.

        Raises RunError where another process holds it.
        """
        file = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise RunError(f"another process is training into {self.folder}; wait for it or stop it first.") from None
        return file

    def status(self, state: str, **facts) -> None:
        """Write status.json: state is new, running, complete, interrupted or failed."""
        write_text(self.folder / "status.json", json.dumps({"state": state, "time": time.time(), **facts}))

    @property
    def state(self) -> str:
        """The state last written."""
        return json.loads((self.folder / "status.json").read_text())["state"]

    def log(self, **numbers) -> None:
        """Append one JSON line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(numbers) + "\n")

    def metrics(self) -> list[dict]:
        """The logged lines; a last line cut off by a kill is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        read = []
        for number, line in enumerate(lines):
            try:
                read.append(json.loads(line))
            except json.JSONDecodeError:
                if number != len(lines) - 1:
                    raise RunError(f"{path}, line {number + 1} is no JSON; was the log edited?") from None
        return read

    def curves(self) -> dict[str, list]:
        """The log as columns of equal length, None where a line lacks a number."""
        lines = self.metrics()
        names = dict.fromkeys(name for line in lines for name in line)
        return {name: [line.get(name) for line in lines] for name in names}

    def rewind(self, step: int) -> None:
        """Drop log lines after `step`: they were written after the checkpoint a run resumes from."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def results(self) -> dict:
        """What evaluations wrote about this run, by protocol name."""
        path = self.folder / "results.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def add_result(self, protocol: str, numbers: dict) -> None:
        """Keep an evaluation's numbers under the name of their protocol."""
        write_text(self.folder / "results.json", json.dumps({**self.results(), protocol: numbers}, indent=1))

    def checkpoint(self) -> Path | None:
        """The newest whole checkpoint's folder, or None."""
        found = sorted((self.folder / "checkpoints").glob("step-*"))
        return found[-1] if found else None

    def save(self, step: int, weights: dict[str, torch.Tensor], state: dict, keep: int = 1) -> Path:
        """Write checkpoints/step-N/{weights.safetensors, state.pt} whole or not at all; keep the newest `keep`.

        weights: the method's state dict (buffers such as the queue among them); state: optimiser, schedule, position.
        """
        place = self.folder / "checkpoints" / f"step-{step:09d}"
        if place.exists():
            return place  # the same run at the same step
        for left in place.parent.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        temporary.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / "weights.safetensors")
        torch.save(state, temporary / "state.pt")
        os.replace(temporary, place)
        for old in sorted(place.parent.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
        return place

    def weights(self) -> dict[str, torch.Tensor]:
        """The newest checkpoint's weights on the CPU. Raises RunError where there is none yet."""
        place = self.checkpoint()
        if place is None:
            raise RunError(f"{self.folder} has no checkpoint yet (state: {self.state}). Train it first.")
        return load_file(place / "weights.safetensors")

    def load_into(self, module: torch.nn.Module, prefix: str) -> None:
        """Load the weights whose names start with `prefix` into a module. Raises RunError where they do not fit."""
        part = {name.removeprefix(prefix): value for name, value in self.weights().items() if name.startswith(prefix)}
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise RunError(f"{self.folder} holds another network ({self.recipe['network']} "
                           f"{self.recipe['network_args']}): {str(error).splitlines()[1].strip()}") from error


def environment() -> dict:
    """What a number depends on besides the recipe: versions, machine, command."""
    packages = ("torch", "torchvision", "numpy", "decord", "av", "opencv-contrib-python-headless", "faiss-cpu")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
            "device": device, "versions": versions, "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
