"""Errors of a command that its caller can fix, shown without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vidbench.system.errors import Brief, InputError

T = TypeVar("T")


def at_the_door(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function whose errors say what to do.

    Args:
        *arguments, **options: What the function is called with.

    Returns:
        What the function returns.

    Raises:
        SystemExit: The call failed; the message is on stderr, the exit code is 2.
    """
    try:
        return function(*arguments, **options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        name = "" if isinstance(error, Brief) else f"{type(error).__name__}: "
        print(f"vidbench: {name}{error}", file=sys.stderr)
        raise SystemExit(2) from error


def refuse_file(path: str | Path, option: str = "--out") -> None:
    """Refuse a file where an option needs a folder; the folder need not exist.

    Args:
        option: The option that the message names.

    Raises:
        InputError: The path, or what would be a folder above it, is a file.
    """
    for place in (Path(path).expanduser(), *Path(path).expanduser().parents):
        if place.is_file():
            raise InputError(
                f"{option} must be a folder; got {path}: {place} is a file. Name another folder."
            )


def make_folder(path: str | Path, option: str = "--out") -> None:
    """Make the folder that an option names, and those above it.

    Args:
        option: The option that the message names.

    Raises:
        InputError: It cannot be made; the message says why.
    """
    refuse_file(path, option)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{option} must be a folder that can be made; got {path}: {error.strerror}. Name "
            "another folder."
        ) from None
