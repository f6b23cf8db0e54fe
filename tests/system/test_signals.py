"""Signals that are noted, counted once, restored."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from vidbench.system import signals
from vidbench.system.signals import deferred, stop_at_second


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_stops_are_noted_once_and_handlers_come_back(monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    acted = []
    with deferred(lambda names: acted.append(list(names))) as stops:
        send(signal.SIGTERM)
        send(signal.SIGINT)  # a launcher passes on what the terminal sent, too
        assert stops == ["SIGTERM"] and acted == [["SIGTERM"]]
        monkeypatch.setattr(signals, "PAUSE", -1.0)
        send(signal.SIGINT)
        assert stops == ["SIGTERM", "SIGINT"] and len(acted) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_second_stop_raises(monkeypatch):
    monkeypatch.setattr(signals, "PAUSE", -1.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="second SIGINT: stopped without saving"):
        with deferred(stop_at_second):
            send(signal.SIGTERM)
            send(signal.SIGINT)
            raise AssertionError("the second stop did not raise")
    assert signal.getsignal(signal.SIGINT) == before


def test_another_thread_gets_no_signals_and_changes_no_handlers():
    seen = []

    def work():
        with deferred() as stops:
            seen.append((stops, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [([], signal.getsignal(signal.SIGINT))]


def test_sigterm_interrupts_like_ctrl_c():
    with signals.kept(signal.SIGTERM):
        came = signals.interrupt_on_term()
        with pytest.raises(KeyboardInterrupt):
            send()
            raise AssertionError("SIGTERM did not interrupt")
        assert came == [signal.SIGTERM]


def test_sigterm_exits_and_is_silent_during_the_exit():
    head = "import os, signal, threading, time; from vidbench.system import signals; signals.exit_on_term(); "
    kill = "os.kill(os.getpid(), signal.SIGTERM)"
    for body, code in (
        (f"{kill}; time.sleep(60)", 1),
        (f"threading.Thread(target=lambda: (time.sleep(0.3), {kill}, time.sleep(0.3))).start()", 0),
        (f"import atexit; atexit.register(lambda: ({kill}, time.sleep(0.3)))", 0),
    ):
        done = subprocess.run([sys.executable, "-c", head + body], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, "")
