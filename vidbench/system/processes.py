"""The cores this process may use, and one pool of processes.

The pool is pebble's: it knows a time limit for each task and notices when a process dies. Processes
are spawned, never forked: libraries such as OpenCV may run threads here, which a fork would break.
They leave Ctrl-C to their parent, and they stop as on SIGTERM when it is gone, even after kill -9.
What crosses to a process is an importable function and plain values; a script needs the
`if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from vidbench.system import signals
from vidbench.system.errors import Brief


class DiedError(Brief, RuntimeError):
    """The process of a task died: killed, out of memory, or a crash in a library."""


class LostError(DiedError):
    """A process died before it began a task, which breaks the pool: all its tasks are lost."""


def cores() -> int:
    """Count the cores this process may use; on a cluster they are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_main() -> Iterator[None]:
    """Let processes that start meanwhile skip the caller's script: it then needs no guard.

    Spawned processes run the script again to find functions that it defines. Ours call importable
    functions only, so the script's file is hidden from them.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, object] = {
        name: value for name, value in vars(main).items() if name in ("__file__", "__spec__")
    }
    # as in an interpreter without a script: a __file__ of None breaks `inspect`, and pydantic with it
    vars(main).pop("__file__", None)
    vars(main)["__spec__"] = None
    try:
        yield
    finally:
        vars(main).update(hidden)


class Pool:
    """So many processes; at the end of a with block they finish, after an error they are stopped.

    start: an importable function that each process calls first, with `arguments`.
    """

    def __init__(
        self, workers: int, start: Callable | None = None, arguments: Sequence = ()
    ) -> None:
        from pebble import ProcessPool

        spawn = multiprocessing.get_context("spawn")
        self._others = multiprocessing.active_children()
        self._pool = ProcessPool(
            max(1, workers), initializer=_begin, initargs=(start, arguments), context=spawn
        )

    @property
    def active(self) -> bool:
        """Whether the pool takes tasks; it breaks if a process dies before it begins one."""
        return self._pool.active

    def submit(self, function: Callable, *arguments, timeout: float | None = None) -> Future:
        """Begin a call; `result_of` waits for what it returns.

        Args:
            function: An importable one.
            *arguments: Plain values for it.
            timeout: Seconds after which the call's process is stopped; None: no limit.
        """
        return self._pool.schedule(_call, args=(function, arguments), timeout=timeout)

    def terminate(self, running: Collection[Future]) -> None:
        """Send SIGTERM to every process and wait until the running calls end.

        Training then saves itself first. `__exit__` would kill it after three seconds.
        """
        stopped = set(self._others)
        while wait(running, timeout=0.2).not_done:
            for process in set(multiprocessing.active_children()) - stopped:
                process.terminate()
                stopped.add(process)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and self._pool.active:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()


def result_of(future: Future) -> Any:
    """Return what a pool's call returned.

    Raises:
        DiedError: its process died.
        LostError: a process died before it began a call; pebble cannot say which.
        TimeoutError: the time limit passed.
        Exception: what the call raised.
    """
    from pebble import ProcessExpired

    try:
        return future.result()
    except ProcessExpired as error:
        raise DiedError(f"a process died ({error.exitcode}): killed, or out of memory") from error
    except BrokenProcessPool as error:
        raise LostError("the pool of processes broke: a process died as it started") from error


def run_all(
    function: Callable,
    tasks: Sequence[tuple],
    workers: int,
    start: Callable | None = None,
    arguments: Sequence = (),
    done: Callable[[Any], object] = lambda result: None,
) -> list:
    """Call `function(*task)` for every task in a pool and return the results in order.

    The first failure stops the rest and is raised.

    Args:
        function: An importable one.
        tasks: Arguments of each call.
        workers: How many processes; 0 calls in this process, without `start`.
        start, arguments: See `Pool`.
        done: Called here with each result as it comes, for a progress bar.
    """
    if workers < 1:
        results = []
        for task in tasks:
            results.append(function(*task))
            done(results[-1])
        return results
    with Pool(min(workers, len(tasks)), start, arguments) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        for future in as_completed(futures):
            done(result_of(future))
        return [future.result() for future in futures]


def _begin(start: Callable | None, arguments: Sequence) -> None:
    signals.ignore(signal.SIGINT)
    signals.exit_on_term()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start:
        _call(start, arguments)  # stopped while it imports: no traceback from pebble


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a process that another one started"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _call(function: Callable, arguments: Sequence):
    """Call in a process of the pool; a stopped call ends its process.

    pebble would hold a SystemExit back and begin the next task, to be killed in the middle of it.
    """
    try:
        return function(*arguments)
    except (KeyboardInterrupt, SystemExit):
        sys.stdout.flush()
        os._exit(130)
