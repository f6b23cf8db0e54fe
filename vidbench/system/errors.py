"""Errors that a notebook shows in at most three lines, and stops that it shows without alarm."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

from vidbench.system.notices import show_notice

LINES = 2  # of a message; a third line says how to see the rest
REST = "%tb shows where this was raised."


class Brief(Exception):
    """An error whose message says what to do: mixed into the library's own error classes.

    IPython calls `_render_traceback_`. The first call gives the message, later ones (by %tb) the
    whole traceback, as does a notebook that runs without a browser."""

    _shown = False

    def _render_traceback_(self) -> list[str]:
        if self._shown or os.environ.get("VIDBENCH_HEADLESS") == "1":
            return whole(self)
        self._shown = True
        first, *rest = str(self).splitlines() or [""]
        said = [f"{type(self).__name__}: {first}", " ".join(line.strip() for line in rest)]
        return [*filter(None, said[:LINES]), REST]


class InputError(Brief, ValueError):
    """A value given by the caller that is not allowed."""


class MissingError(Brief, FileNotFoundError):
    """A file or folder named by the caller that does not exist."""


def whole(error: BaseException) -> list[str]:
    """Return the traceback as IPython shows it, or as Python does outside of it."""
    shell = shell_of_notebook()
    if shell is None:
        return traceback.format_exception(error)
    return shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)


def shell_of_notebook() -> Any:
    """IPython's shell of the kernel that runs this, or None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell if hasattr(shell, "kernel") else None


def calm_stops(kind: type[BaseException]) -> None:
    """Let a notebook that a person watches show stops of a kind as a notice instead of an error.

    The cell still ends there, and Run All with it. A handler of the user's own stays."""
    shell = shell_of_notebook()
    if shell is None or os.environ.get("VIDBENCH_HEADLESS") == "1" or shell.custom_exceptions:
        return
    shell.set_custom_exc((kind,), _notice)


def _notice(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    show_notice("Stopped", [str(error)], calm=True)
