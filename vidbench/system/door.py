"""Errors of a command that its caller can fix, shown without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from vidbench.system.errors import InputError, MissingError

T = TypeVar("T")


def at_the_door(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function whose errors say what to do.

    Raises:
        SystemExit: The call failed; the message is on stderr, the exit code is 2.
    """
    try:
        return function(*arguments, **options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        plain = isinstance(error, InputError | MissingError)
        name = "" if plain else f"{type(error).__name__}: "
        print(f"vidbench: {name}{error}", file=sys.stderr)
        raise SystemExit(2) from error
