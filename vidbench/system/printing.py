"""What a command prints: its result on stdout as a table or as JSON, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any


@contextmanager
def notes_to_stderr() -> Iterator[None]:
    """Send to stderr what this process and those it starts print: stdout is for the result alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)


def show(text: str) -> None:
    """Print a result. If its reader stops early, as `head` does, the rest is dropped."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())  # the interpreter flushes stdout again at its end
        os.close(nothing)


def as_json(value: Any) -> str:
    """Write plain values as strict JSON in ASCII: numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def aligned(rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Lay out rows of cells as a table of text; letters that cannot be printed become `?`.

    Args:
        right: Numbers of the columns that end at the right.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Replace by `?` what a name of a file can contain and a terminal cannot show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
