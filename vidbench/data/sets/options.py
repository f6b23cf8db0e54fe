"""Options of a data set's reader: their names and kinds, by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.system.errors import InputError

TEXTS = ("str", "str | Path | None")
# what an option may be, by its annotation in a reader, and in words
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int, np.integer), "a whole number"),
    "float": ((int, float, np.number), "a number"),
    "float | None": ((int, float, np.number, type(None)), "a number"),
    "str": ((str,), "text"),
    "str | Path | None": ((str, Path, type(None)), "a path"),
}


def options_of(reader: Callable[..., Any]) -> dict[str, str]:
    """Return the options of a reader, each with its annotation."""
    parameters = inspect.signature(reader).parameters.values()
    return {one.name: str(one.annotation) for one in parameters if one.kind is one.KEYWORD_ONLY}


def check_options(name: str, reader: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check the options of a data set.

    Args:
        name: The data set's name, for messages.
        reader: Its keyword-only arguments are the options.

    Raises:
        InputError: one is unknown, or of another kind.
    """
    known = options_of(reader)
    if unknown := sorted(options.keys() - set(known)):
        raise InputError(
            f"data set {name!r} has no option {unknown[0]!r}; its options are "
            f"{', '.join(known) or 'none'}"
        )
    for key, value in options.items():
        wanted, words = KINDS[known[key]]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise InputError(f"option {key} of data set {name!r} must be {words}; got {value!r}")


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to what JSON can hold: paths as text, NumPy's numbers as Python's."""
    made = {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in made.items()
    }
