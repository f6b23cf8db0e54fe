"""Work on every video: a process that hangs, dies or errs, the cost estimated first, one owner a folder,
torn journals."""

import errno
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest

from tests import makes
from vidbench.data.prepare import jobs
from vidbench.data.prepare.jobs import DIED, Cost, Done, Journal
from vidbench.system.files import DiskError, explain_full_disk


def work(folder, trips: dict[int, str] | None = None, count=6, workers=0, **options) -> list[Done]:
    """So many jobs, some of which trip."""
    tasks = [((trips or {}).get(i, "fine"), i, str(folder)) for i in range(count)]
    options = {"progress": False, "timeout": 60, **options}
    return list(jobs.work(makes.trip, tasks, folder, workers=workers, **options))


def by_job(outcomes: list[Done]) -> dict[int, Done]:
    assert len({o.job for o in outcomes}) == len(outcomes), "no job is reported twice"
    return {o.job: o for o in outcomes}


@pytest.fixture
def disk(monkeypatch):
    """A disk with this much room: `disk(free=...)`."""

    def has(free: float) -> None:
        monkeypatch.setattr(jobs.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))

    return has


# ---- what comes of jobs ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_each_job_is_done_once_and_reported_with_its_place(tmp_path, workers):
    outcomes = by_job(work(tmp_path, count=9, workers=workers))
    assert {i: (o.value, o.bytes, o.error) for i, o in outcomes.items()} == {
        i: (2 * i, 100, "") for i in range(9)
    }
    assert sorted(makes.calls(tmp_path)) == list(range(9))
    assert not multiprocessing.active_children()


def test_an_even_sample_comes_first(tmp_path):
    assert [o.job for o in work(tmp_path, count=10)] == [0, 3, 6, 9, 1, 2, 4, 5, 7, 8]
    assert work(tmp_path, count=0) == [] and [o.job for o in work(tmp_path, count=1)] == [0]


@pytest.mark.parametrize("what", ["hangs", "deaf"])
def test_a_process_that_hangs_costs_its_own_video_only(tmp_path, what):
    """Timed from its own start; one that does not hear SIGTERM is killed."""
    began = time.monotonic()
    outcomes = by_job(work(tmp_path, {1: what}, workers=2, timeout=1.0))
    assert (
        outcomes[1].error == "no end after 1 s: its process was stopped"
        and outcomes[1].value is None
    )
    assert [outcomes[i].value for i in (0, 2, 3, 4, 5)] == [0, 4, 6, 8, 10]
    assert makes.calls(tmp_path).count(1) == 1, "a video that hangs is not tried again in this call"
    assert time.monotonic() - began < 120 and not multiprocessing.active_children()


def test_a_slow_import_in_one_process_makes_no_job_of_another_hang(tmp_path, monkeypatch):
    """pebble takes a task under the lock that a finished job needs to report itself."""
    name = "imported_slowly"
    code = "import time\n\ntime.sleep(2)\n\n\ndef twice(number):\n    return 2 * number, 0\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    twice = importlib.import_module(name).twice
    outcomes = list(jobs.work(twice, range(6), tmp_path, workers=2, timeout=1.0, progress=False))
    assert [(o.value, o.error) for o in sorted(outcomes)] == [(2 * i, "") for i in range(6)]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process")
def test_time_without_a_core_is_no_hang(tmp_path):
    """A process that is stopped waits as one does that gets no core on a busy machine."""

    def let_it_wait() -> None:
        while not (tmp_path / "calls").exists():
            time.sleep(0.01)
        time.sleep(2.5)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGCONT)

    thread = threading.Thread(target=let_it_wait)
    thread.start()
    outcomes = by_job(work(tmp_path, {0: "stops"}, count=1, workers=1, timeout=1.0))
    thread.join()
    assert (outcomes[0].value, outcomes[0].error) == (0, "")


def test_a_process_that_dies_is_tried_once_more_and_then_reported(tmp_path):
    outcomes = by_job(work(tmp_path, {1: "dies", 2: "dies once"}, workers=2))
    assert outcomes[1].error == DIED and "crash in the decoder" in DIED
    assert [outcomes[i].value for i in (0, 2, 3, 4, 5)] == [0, 4, 6, 8, 10]
    assert makes.calls(tmp_path).count(1) in (2, 3)  # 3: unheard of the first time


@pytest.mark.parametrize("times", [1, 9])
def test_a_process_that_dies_before_it_was_heard_of_takes_nobody_with_it(
    tmp_path, monkeypatch, times
):
    """Then pebble calls the whole pool broken, whose other videos did nothing wrong."""
    from pebble.pool.process import PoolManager

    known, left = PoolManager.find_expired_task, [None] * times

    def broken(self, worker):
        if left:
            left.pop()
            raise BrokenProcessPool("All workers expired")
        return known(self, worker)

    monkeypatch.setattr(PoolManager, "find_expired_task", broken)
    outcomes = by_job(work(tmp_path, {1: "dies"}, workers=2))
    assert outcomes[1].error == DIED and [outcomes[i].value for i in (0, 2, 3, 4, 5)] == [
        0,
        4,
        6,
        8,
        10,
    ]
    assert not multiprocessing.active_children()


def test_workers_that_never_start_are_said_to_do_so(tmp_path):
    """A script without a guard starts itself again in each worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "from tests import makes\nfrom vidbench.data.prepare import jobs\n"
        f"list(jobs.work(makes.trip, [('fine', 0, {str(tmp_path)!r})], {str(tmp_path)!r}, "
        "workers=1))\n"
    )
    place = os.pathsep.join(sys.path)
    heard = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": place},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        heard.returncode
        and "no worker process starts" in heard.stderr
        and "__main__" in heard.stderr
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_video_and_a_mistake_in_the_code_cost_that_video_only(tmp_path, workers, capsys):
    outcomes = by_job(work(tmp_path, {1: "bad"}, workers=workers, progress=True, what="try"))
    assert outcomes[1].error == "1 is bad" and [outcomes[i].value for i in (0, 2, 3, 4, 5)] == [
        0,
        4,
        6,
        8,
        10,
    ]
    said = capsys.readouterr()
    assert "try: 6 of 6 videos, 1 failed" in said.out + said.err
    outcomes = by_job(work(tmp_path, {0: "wrong"}, workers=workers))
    assert outcomes[0].error.startswith(
        "ZeroDivisionError: a mistake in the code at 0 (makes.py, l"
    )
    assert [outcomes[i].value for i in range(1, 6)] == [2, 4, 6, 8, 10]
    assert not outcomes[0].hung
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_and_says_so(tmp_path, workers, number):
    """A quota that is used up is a full disk, too."""
    with pytest.raises(
        DiskError, match=f"the disk of {tmp_path} is full; .* kept: make room, run the same"
    ) as caught:
        work(tmp_path, {5: f"errno {number}"}, workers=workers)
    assert caught.value.errno == number and not multiprocessing.active_children()


def test_other_errors_of_the_system_cost_that_video_only(tmp_path):
    outcomes = by_job(work(tmp_path, {0: f"errno {errno.EACCES}"}))
    assert outcomes[0].error.startswith("PermissionError: [Errno 13] said by the system (makes.py")
    assert [outcomes[i].value for i in range(1, 6)] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    "wrong, kind, said",
    [
        ({"sized": 3}, TypeError, "unknown options sized; known are workers, timeout"),
        ({"workers": -1}, ValueError, "workers must be 0 to 1024 processes; got -1"),
        ({"timeout": 0}, ValueError, "timeout must be a finite number of seconds above 0; got 0"),
        ({"timeout": float("nan")}, ValueError, "got nan"),
    ],
)
def test_options_are_checked_at_the_door(tmp_path, wrong, kind, said):
    with pytest.raises(kind, match=said):
        work(tmp_path, **wrong)
    assert not (tmp_path / "calls").exists()


# ---- the cost ----------------------------------------------------------------------------------


def test_the_cost_is_told_after_the_sample_and_scales_with_the_weights(tmp_path, disk):
    disk(free=1e9)
    heard = []
    outcomes = work(
        tmp_path, dict.fromkeys(range(20), "slow"), count=20, weights=[1.0] * 20, tell=heard.append
    )
    (cost,) = heard
    assert len(outcomes) == 20 and (cost.jobs, cost.bytes, cost.free, cost.measured) == (
        16,
        1600,
        1e9,
        4,
    )
    assert 0.7 < cost.seconds < 4, "sixteen jobs of a twentieth of a second"
    weights = [
        10.0 if i in (0, 6, 13, 19) else 1.0 for i in range(20)
    ]  # the sample is of long videos
    work(tmp_path, count=20, weights=weights, tell=heard.append)
    assert heard[1].bytes == pytest.approx(160)


def test_work_that_will_not_fit_is_refused_before_the_disk_is_full(tmp_path, disk):
    disk(free=1000)
    outcomes = []
    with pytest.raises(
        DiskError,
        match=r"try needs about 2 kB more and .* has 1 kB free: make room or choose a smal",
    ):
        tasks = [("fine", i, str(tmp_path)) for i in range(20)]
        for outcome in jobs.work(makes.trip, tasks, tmp_path, progress=False, what="try"):
            outcomes.append(outcome.job)
    assert outcomes == [0, 6, 13, 19], "the sample is done and was handed over"
    disk(free=2000)
    assert len(work(tmp_path, count=20)) == 20


def test_cost_in_words():
    assert (
        str(Cost(3, 130, 2.5e6, int(4e9), 8))
        == "3 to go: about 2.2 min and 2.5 MB (4.0 GB free); measured on 8"
    )
    assert [jobs.duration(s) for s in (0, 89, 90, 5399, 5400)] == [
        "0 s",
        "89 s",
        "1.5 min",
        "90.0 min",
        "1.5 h",
    ]
    assert [jobs.size(b) for b in (10, 999_499, 2e6, 3e9, 4e12)] == [
        "0 kB",
        "999 kB",
        "2.0 MB",
        "3.0 GB",
        "4.0 TB",
    ]


# ---- settings of a folder ------------------------------------------------------------------------


def test_a_folder_keeps_its_settings(tmp_path):
    file = tmp_path / "new/store.json"
    jobs.claim(file, {"format": "mp4", "size": 128}, LookupError, made="today")
    jobs.claim(file, {"format": "mp4", "size": 128}, LookupError, made="tomorrow")
    assert json.loads(file.read_text()) == {
        "settings": {"format": "mp4", "size": 128},
        "made": "today",
    }
    with pytest.raises(
        LookupError,
        match=r"new was made with other settings \(size: there 128, wanted 64\): use them",
    ):
        jobs.claim(file, {"format": "mp4", "size": 64}, LookupError)


# ---- the journal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        b'{"key": "b", "val',
        b"\x00" * 4096,
        b"\xff\xfe\x80 junk",
        b"[1]\n",
        b'"text"\n7\nnull\n',
        b'{"value": 3}\n',
        b"\n\n",
    ],
    ids=["torn", "zeros after a power cut", "not UTF-8", "list", "scalars", "no key", "blank"],
)
def test_a_journal_with_a_bad_tail_keeps_the_rest_and_goes_on(tmp_path, tail):
    file = tmp_path / "work.jsonl"
    with Journal(tmp_path, "work") as journal:
        journal.add("a", value=1)
        journal.add("ä\u2028\n", value=2)
    with open(file, "ab") as handle:
        handle.write(tail)
    known = {"a": {"value": 1}, "ä\u2028\n": {"value": 2}}
    with Journal(tmp_path, "work") as journal:
        assert journal.known == known
        journal.add("c", value=3)
        journal.add("a", value=4)
    assert Journal(tmp_path, "work").known == {**known, "c": {"value": 3}, "a": {"value": 4}}, (
        "the latest line of a key holds"
    )


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="needs Linux's /dev/full, where every write fails"
)
def test_a_journal_on_a_full_disk(tmp_path):
    (tmp_path / "work.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=f"the disk of {tmp_path} is full; .* make room"):
        with explain_full_disk(tmp_path), Journal(tmp_path, "work") as journal:
            journal.add("a", value=1)


# ---- stamps and whole files --------------------------------------------------------------------


def test_stamps_tell_a_changed_file(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"12")
    before = jobs.stamp(file)
    assert before.startswith(f"2-{file.stat().st_mtime_ns}-") and jobs.size_of(before) == 2
    os.utime(file, ns=(0, 5))
    assert jobs.stamp(file) == f"2-5-{before.rpartition('-')[2]}"
    file.write_bytes(b"21")
    os.utime(file, ns=(0, 5))
    assert jobs.stamp(file) not in (before, None), "other bytes of the same size and time"
    os.mkfifo(tmp_path / "fifo")
    assert jobs.stamp(tmp_path / "fifo") == "" == jobs.stamp(tmp_path), "opening it would hang"
    assert jobs.stamp(tmp_path / "none") is None and jobs.stamp(file / "below") is None
    assert jobs.stamp(tmp_path / "zero\0byte") is None, "no file can have such a name"
    assert jobs.stamp(tmp_path / ("n" * 300)) == "", (
        "its state is unknown: the work on it will say why"
    )
