"""Recipes at the front door: fields changed by plain or dotted names, batch and queue fitted to few
videos, and a folder's name that carries what differs."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from vidbench.engine.runs import changed
from vidbench.methods import coclr, common

R = TypeVar("R", bound=common.Recipe)

FIXED = ("manifest", "flow", "student", "teacher", "parts", "positives", "seed")  # what train sets
LEAST = 4  # training videos
STEPS = 200  # of the optimizer, below which a network hardly learns
LONG = 80  # letters of changes in a folder's name


def with_changes(recipe: R, changes: Mapping[str, Any]) -> R:
    """Change fields of a recipe. Another network starts from its own default arguments.

    Args:
        changes: By plain or dotted names: epochs, lr, "fit.lr", "clip.frames".

    Raises:
        ValueError: A name is unknown or set by `train`; the known ones are listed.
    """
    nested: dict[str, Any] = {}
    if "network" in changes and "network_args" not in changes:
        nested["network_args"] = {}
        recipe = replace(recipe, network=changes["network"], network_args={})
    for name, value in changes.items():
        *homes, field = _path_of(recipe, name).split(".")
        inner = nested
        for home in homes:
            inner = inner.setdefault(home, {})
        inner[field] = value
    return changed(recipe, nested)


def _path_of(recipe: Any, name: str) -> str:
    """The dotted name of a field, the one nearest to the recipe's root."""
    known = [path for path in _fields(recipe) if path.split(".")[-1] not in FIXED]
    found = [path for path in known if f".{path}".endswith(f".{name}")]
    if not found:
        reason = "is set by train itself" if name.split(".")[-1] in FIXED else "is unknown"
        raise ValueError(
            f"the field {name!r} of {recipe.method}'s recipe {reason}; the known ones are "
            f"{', '.join(known)}."
        )
    return min(found, key=lambda path: path.count("."))


def _fields(recipe: Any, home: str = "") -> Iterator[str]:
    for field in dataclasses.fields(recipe):
        yield home + field.name
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{home}{field.name}.")


def fitted(recipe: Any, rows: int) -> tuple[Any, list[str]]:
    """Fit batch, and CoCLR's queue, to few training videos; returns what was changed in words, too.

    Args:
        rows: Videos to train on.

    Raises:
        ValueError: There are fewer than four.
    """
    made = recipe
    said: list[str] = []
    if isinstance(recipe, coclr.Recipe):
        made = coclr.fitted(recipe, rows)
        said = [coclr.fitted_words(recipe, made, rows)] if made != recipe else []
    elif rows < LEAST:
        raise ValueError(
            f"training needs at least {LEAST} videos that are not held out; got {rows}. Add "
            "videos, or move some into the train split."
        )
    elif (batch := min(recipe.fit.batch, 1 << (rows // 2).bit_length() - 1)) < recipe.fit.batch:
        made = replace(recipe, fit=replace(recipe.fit, batch=batch))
        said = [f"changed to fit {rows} training videos: batch {recipe.fit.batch} -> {batch}"]
    epochs = made.fit.epochs
    steps = rows // made.fit.batch * epochs
    if epochs and steps < STEPS:
        said.append(
            f"{steps} steps in {epochs} epochs are enough to try things out, but a network learns "
            f"little; epochs={-(-STEPS * epochs // max(1, steps))} gives {STEPS} steps"
        )
    return made, said


def label(method: str, preset: str, seed: int, changes: Mapping[str, Any]) -> str:
    """Name a folder of runs by all that differs between two calls of `train`.

    Args:
        changes: Fields of the preset that are changed, and their values.
    """
    said = [_word(name, value) for name, value in sorted(changes.items())]
    if len("-".join(said)) > LONG:
        said = [_word("changes", changes)]
    return "-".join([method, preset, *said, f"seed{seed}"])


def _word(name: str, value: Any) -> str:
    """A change as a part of a folder's name, with a checksum in place of what is long or special."""
    if re.fullmatch(r"[\w.,+-]{1,24}", str(value)):
        return f"{name}={value}"
    digest = zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())
    return f"{name}={digest:08x}"
