"""The pool: results in order, failures, time limits, deaths, and no process without its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import makes
from vidbench.system.processes import DiedError, Pool, cores, result_of, run_all


def square(number: int, wait: float = 0.0) -> int:
    if number < 0:
        raise ValueError(f"no square of {number}")
    time.sleep(wait)
    return number * number


def end(how: int) -> None:
    os.kill(os.getpid(), how)
    time.sleep(60)


def sleep_near(folder: str) -> None:
    """Name this process in a folder, and leave it in the usual way when it is stopped."""
    place = Path(folder, f"{os.getpid()}")
    place.touch()
    try:
        time.sleep(60)
    finally:
        place.rename(place.with_suffix(".ended"))


def until(there) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == os.cpu_count()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_each_is_reported(workers):
    reported = []
    tasks = [(3, 0.3), (1,), (2,)]
    assert run_all(square, tasks, workers, done=reported.append) == [9, 1, 4]
    assert sorted(reported) == [1, 4, 9]
    with pytest.raises(ValueError, match="no square of -1"):
        run_all(square, [(1,), (-1,)], workers)


def test_a_task_that_dies_or_hangs_costs_itself_only():
    with Pool(1) as pool:
        killed, stopped = pool.submit(end, signal.SIGKILL), pool.submit(end, signal.SIGTERM)
        hung, fine = pool.submit(square, 1, 60.0, timeout=1), pool.submit(square, 5)
        for future in (killed, stopped):
            with pytest.raises(DiedError, match="killed, or out of memory"):
                result_of(future)
        with pytest.raises(TimeoutError):
            result_of(hung)
        assert result_of(fine) == 25


def test_terminate_lets_every_call_end_in_its_own_way(tmp_path):
    with pytest.raises(KeyError):
        with Pool(2) as pool:
            running = [pool.submit(sleep_near, str(tmp_path)) for _ in range(2)]
            until(lambda: len(list(tmp_path.iterdir())) == 2)
            pool.terminate(running)
            raise KeyError
    assert [path.suffix for path in tmp_path.iterdir()] == [".ended", ".ended"]


def test_the_processes_end_with_a_killed_parent(tmp_path):
    code = (
        "import sys\nfrom tests.system.test_processes import run_all, sleep_near\n"
        "if __name__ == '__main__': run_all(sleep_near, [(sys.argv[1],)] * 2, 2)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    place = tmp_path / "place"
    place.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, place], cwd=makes.ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        until(lambda: len(list(place.iterdir())) == 2)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: all(path.suffix == ".ended" for path in place.iterdir()))
