"""Ctrl-C and SIGTERM: note them until a good moment, or leave them to the parent.

A terminal sends Ctrl-C to every process of a job, a scheduler SIGTERM to a tree of them, and shells
and launchers pass both on. So the same stop arrives several times within seconds and counts once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PROGRAMS = ("<module>", "_run_module_as_main")  # names of a program's outermost function

PAUSE = 5.0  # seconds; a signal that comes later is a second stop
STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM stopped the work, which saved itself first."""


@contextmanager
def deferred(act: Callable[[list[str]], None] = lambda names: None) -> Iterator[list[str]]:
    """Note Ctrl-C and SIGTERM instead of raising.

    Yields the list of the signals' names that came; it stays empty outside the main thread, which
    alone gets signals. After the first, a signal counts if it comes PAUSE seconds later or more.

    Args:
        act: Called with that list at each signal that counts; what it raises stops the work.
    """
    names: list[str] = []
    last = 0.0

    def note(number: int, _) -> None:
        nonlocal last
        if not names or time.monotonic() - last > PAUSE:
            last = time.monotonic()
            names.append(signal.Signals(number).name)
            act(names)

    with kept(*STOPS) as ours:
        for number in STOPS if ours else ():
            signal.signal(number, note)
        yield names


def stop_at_second(names: list[str]) -> None:
    """Stop at the second signal, without saving; an `act` for `deferred`.

    Args:
        names: The signals that came so far.

    Raises:
        KeyboardInterrupt: a second signal came.
    """
    if len(names) > 1:
        raise KeyboardInterrupt(f"second {names[-1]}: stopped without saving")


@contextmanager
def kept(*numbers: int) -> Iterator[bool]:
    """Restore the signals' handlers afterwards; yields whether this thread may change them."""
    ours = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers if ours}
    try:
        yield ours
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def ignore(*numbers: int) -> None:
    """Leave signals to the parent process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def exit_on_term() -> None:
    """Exit in the usual way on SIGTERM, so that temporary files are deleted."""

    def leave(number: int, frame: FrameType | None) -> None:
        while frame and frame.f_back:
            frame = frame.f_back
        # While the interpreter exits, its callbacks are outermost. It would only print what is
        # raised in them.
        if not frame or frame.f_code.co_name in PROGRAMS:
            sys.exit(1)

    signal.signal(signal.SIGTERM, leave)


def end_with(file: int) -> None:
    """End as on SIGTERM when this file ends: a pipe that the parent alone holds open.

    Args:
        file: The file's descriptor.
    """

    def wait() -> None:
        while os.read(file, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def interrupt_on_term() -> list[int]:
    """Raise KeyboardInterrupt on SIGTERM, too; returns the list of the signals that came so."""
    came: list[int] = []

    def stop(number, frame) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGTERM, stop)
    return came
