"""Progress: a bar when a person watches, else a line every few seconds."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Literal, cast

Style = Literal["auto", "bar", "lines", "none"]
SECONDS = 10.0  # between lines; a saved notebook keeps each of them
DELAY = 2.0  # seconds before the bar of a job that may be quick


def style(wanted: Style = "auto") -> Style:
    """Resolve a style: bar on a terminal or in a notebook, else lines.

    The environment's VIDBENCH_PROGRESS (bar, lines or none) overrides what is wanted, except none.
    """
    if wanted != "none" and (named := os.environ.get("VIDBENCH_PROGRESS")):
        wanted = cast(Style, named)
    if wanted == "auto":
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        return "bar" if sys.stderr.isatty() or hasattr(shell, "kernel") else "lines"
    return wanted


class Every:
    """True when called, but at most once in so many seconds; `first`: at the first call, too."""

    def __init__(self, seconds: float = SECONDS, first: bool = False) -> None:
        self.seconds, self.last = seconds, -math.inf if first else time.monotonic()

    def __call__(self, always: bool = False) -> bool:
        if not always and time.monotonic() - self.last <= self.seconds:
            return False
        self.last = time.monotonic()
        return True


def words(numbers: dict[str, float | None], digits: str = ".4g") -> str:
    """Write numbers as `loss 0.693 lr 0.01`; None, NaN and infinite ones are left out.

    Args:
        numbers: Name -> value.
        digits: The format of a number, such as .3f.
    """
    known = {n: v for n, v in numbers.items() if v is not None and math.isfinite(v)}
    return " ".join(f"{name} {value:{digits}}" for name, value in known.items())


def _time(seconds: float) -> str:
    """A time to wait in the unit that people use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"


class Progress:
    """How far a job is. A context manager; `close` ends the bar.

    Args:
        what: The job's name.
        total: How much there is to do, counted in `unit`.
        wanted: See `style`.
        first: Whether the first call of `show` prints a line.
        late: Whether nothing is shown of a job that ends within DELAY seconds, or before a line is
            due.
        options: Further arguments of tqdm, such as position and bar_format.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        wanted: Style = "auto",
        first: bool = False,
        late: bool = False,
        **options,
    ) -> None:
        self.what, self.total, self.unit, self.style = what, total, unit, style(wanted)
        self.done: float = 0
        self.before: float = 0
        self.begun, self.due, self.late = time.monotonic(), Every(SECONDS, first), late
        self.bar = None
        if self.style == "bar" and total:
            from tqdm.auto import tqdm

            delay = DELAY if late else 0
            self.bar = tqdm(
                total=total, desc=what, unit=unit, mininterval=0.5, delay=delay, **options
            )

    def resume(self, done: float) -> None:
        """Start from what an earlier process did; the pace counts only what comes after it."""
        self.done = self.before = done
        if self.bar is not None:
            self.bar.n = self.bar.initial = self.bar.last_print_n = done
            self.bar.refresh()

    def show(self, done: float, text: str = "", line: str = "") -> None:
        """Show that so much is done.

        Args:
            done: How much of the total is done.
            text: Added to the bar or line.
            line: Printed instead of the usual line.
        """
        self.done = done
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(done - self.bar.n)
        elif self.style == "lines" and self.due(always=not self.late and done == self.total):
            self.late = False  # a job with lines has a last one
            rate = (done - self.before) / max(time.monotonic() - self.begun, 1e-9)
            left = (
                f"about {_time((self.total - done) / rate)} left"
                if 0 < rate and done < self.total
                else ""
            )
            said = ", ".join(filter(None, [text, f"{rate:.3g}/s", left]))
            print(
                line or f"{self.what}: {done:g} of {self.total:g} {self.unit}s, {said}", flush=True
            )

    def add(self, more: float = 1, text: str = "") -> None:
        """Show that so much more is done.

        Args:
            more: How much was done since the last call.
            text: Added to the bar or line.
        """
        self.show(self.done + more, text)

    def note(self, text: str) -> None:
        """Print a separate line, without tearing the bar."""
        if self.bar is not None:
            self.bar.write(text)
        elif self.style != "none":
            print(text, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.refresh()
            self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()
