"""Faults: whole jobs killed at random moments, on full disks, from damaged checkpoints, twice on
one folder.

Nothing finished is lost, the rest resumes to what an uninterrupted job makes, and the message says
what to do. `make test` and `make test-slow` kill each job once, at a moment that follows from a
seed: VIDBENCH_FAULT_SEED repeats it. `make test-long` runs all trials."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import copied, fault_jobs, makes, stages
from tests.headless.test_execute import notebook
from vidbench.data.manifest import Manifest
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.headless import status
from vidbench.system.files import BusyError

PATIENCE = 120.0  # seconds for what takes a few on an idle machine
TERM, KILL = signal.SIGTERM, signal.SIGKILL
# in the environment of all processes of a trial, by which those left behind are found
MARK = "VIDBENCH_FAULT_TRIAL"
NAMING = ("parameters", "digest")  # of an executed copy, which name its place
KILLS: list[
    tuple[str, str, bool]
] = []  # (trial, signal and whom it went to, whether it met a live process)


# ---- processes ---------------------------------------------------------------------------------


def begun(command: list, mark: str, said: Path) -> subprocess.Popen:
    """A command as its own process group, whose streams go to a file: those left behind would
    hold a pipe."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        MARK: mark,
        "PYTHONPATH": os.pathsep.join([str(makes.ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with said.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=makes.ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def left(mark: str, group: int) -> list[int]:
    """The live processes of a trial; where there is no /proc only whether its group has any."""
    if not Path("/proc/self/environ").exists():
        return [] if _gone(group) else [group]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # another user's, or gone meanwhile
            continue
    return found


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def until(there: Callable[[], object], printed: Callable[[], object]) -> None:
    """Wait; if it never comes, fail with this message."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline, printed()
        time.sleep(0.005)


def completed(command: list, mark: str, said: Path) -> str:
    """Run to the end, without a fault; what it said."""
    assert begun(command, mark, said).wait(PATIENCE) == 0, said.read_text()
    return said.read_text()


# ---- what is looked at -------------------------------------------------------------------------


def training(folder: Path, name: str = "") -> tuple[dict, dict]:
    """(what is finished and must stay as it is, what came of it) of a run folder, whose files must
    be whole."""
    finished, made = {}, {}
    if not (folder / "recipe.json").exists():
        return finished, made
    for file in ("recipe.json", "status.json", "rows.json"):
        if (folder / file).exists():
            json.loads((folder / file).read_text())
    steps = [int(place.name[5:]) for place in sorted((folder / "checkpoints").glob("step-*"))]
    for step in steps:
        place = folder / "checkpoints" / f"step-{step:09d}"
        made[f"{name}weights"] = {
            key: value.numpy().tobytes()
            for key, value in load_file(place / "weights.safetensors").items()
        }
        assert torch.load(place / "state.pt", weights_only=True)["step"] == step
    made[f"{name}state"] = Run(folder).state
    for log in ("metrics", "monitor"):
        path = folder / f"{log}.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        assert [line["step"] for line in lines] == sorted({line["step"] for line in lines}), (
            "each step once, in order"
        )
        # the seconds are those of the clock: a step that was taken twice would have others
        finished |= {
            f"{name}{log} {line['step']}": line
            for line in lines
            if steps and line["step"] <= steps[-1]
        }
        made[f"{name}{log}"] = [
            {key: value for key, value in line.items() if key not in ("seconds", "data_share")}
            for line in lines
        ]
    return finished, made


def files(folder: Path, pattern: str) -> tuple[dict, dict]:
    """The same of files under their final names: each is whole, so it is compared byte by byte."""
    paths = [path for path in sorted(folder.rglob(pattern)) if not path.name.startswith(".")]
    about = {str(path.relative_to(folder)): path.stat() for path in paths}
    return (
        {name: a.st_mtime_ns for name, a in about.items()},
        {name: (folder / name).read_bytes() for name in about},
    )


def scanned(folder: Path) -> tuple[dict, dict]:
    """The same of a scan: the journal's whole lines, and what it concludes."""
    path = folder / "scan.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]
    assert len({line["key"] for line in lines}) == len(lines), "no video is looked at twice"
    return (
        {line["key"]: line for line in lines},
        {
            name: (folder / name).read_bytes()
            for name in ("scan.csv", "manifest.csv", "classes.txt", "root.txt")
            if (folder / name).exists()
        },
    )


def executed(place: Path) -> dict:
    """What is made of an executed copy, where it is complete; it can be read, and no process is said to
    execute it."""
    copy, made = place / "out" / "book.ipynb", {}
    if copy.exists():
        cells = nbformat.read(copy, as_version=4).cells
        last = [
            [o.get("text", "").strip().rpartition("\n")[2] for o in cell.get("outputs", [])]
            for cell in cells
        ]
        made["cells"] = last  # the lines before it tell the time
    found = status.read(copy)
    full = found["state"] == "failed" and "No space left" in found["error"]
    assert full or found["state"] in ("new", "complete", "interrupted", "kernel died", "killed"), (
        found
    )
    return (
        made | {name: found.get(name) for name in ("state", "exit", "cell", "digest", "parameters")}
        if found["state"] == "complete"
        else {}
    )


def flow_book(place: Path) -> tuple[dict, dict]:
    finished, made = files(place / "flow", "*.npz")
    return finished, made | executed(place)


def train_book(place: Path) -> tuple[dict, dict]:
    first, second = training(place / "first", "first "), training(place / "second", "second ")
    return first[0] | second[0], first[1] | second[1] | executed(place)


def batched(place: Path) -> tuple[dict, dict]:
    runs = [training(place / name, name) for name in "abc"]
    return (
        {key: value for run in runs for key, value in run[0].items()},
        {key: value for run in runs for key, value in run[1].items()},
    )


def lines_of(place: Path, *patterns: str) -> int:
    """The number of lines in files; nothing is read twice for it, so that it can be called all the
    time."""
    return sum(
        path.read_bytes().count(b"\n") for pattern in patterns for path in place.glob(pattern)
    )


def count(place: Path, pattern: str) -> int:
    return sum(not path.name.startswith(".") for path in place.rglob(pattern))


# ---- jobs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job, what can be seen of its progress, and what is looked at afterwards."""

    command: Callable[[Path], list]
    events: Callable[[Path], int]
    look: Callable[[Path], tuple[dict, dict]]
    again: str = ""  # what a stopped job says
    prepare: Callable[[Path], object] = field(default=lambda place: place.mkdir())
    here: Callable[[Path], object] | None = (
        None  # the same in this process, which spares the imports
    )
    like: str = ""  # another job of the same events, which makes the same


@dataclass(frozen=True)
class Whole:
    """An uninterrupted job: where, when its events came and when it ended, in seconds, and what it
    made."""

    place: Path
    times: list[float]
    seconds: float
    made: dict


@pytest.fixture(scope="module")
def world(shared) -> dict[str, Path]:
    """Folders: 8, 20 and 60 clips of two classes; one notebook that computes flow and one that
    trains."""
    return {path.name: path for path in shared("faults_world", make_world).iterdir()}


def make_world(runs_dir: Path) -> None:
    for i in range(60):
        makes.encode(
            runs_dir / "many" / "ab"[i % 2] / f"{i}.mp4", makes.texture(7 + i % 4, (64, 64), seed=i)
        )
    rows = [(f"{'ab'[i % 2]}/{i}.mp4", "ab"[i % 2], "train", f"s{i}") for i in range(60)]
    for name, size in (("few", 8), ("clips", 20), ("many", 60)):
        Manifest.from_rows(runs_dir / "many", rows[:size], ("a", "b")).save(runs_dir / name)
    for name, cells in (("flow", fault_jobs.FLOW_BOOK), ("train", fault_jobs.TRAIN_BOOK)):
        notebook(runs_dir / f"{name}_book" / "book.ipynb", *cells, parameters=fault_jobs.PARAMETERS)


@pytest.fixture(scope="module")
def jobs(world, shared) -> dict[str, Job]:
    clips = str(world["clips"])

    def train(name: str, like: str = "") -> Job:
        return Job(
            lambda place: ["tests.fault_jobs", name, place, clips],
            lambda place: lines_of(place, "*.jsonl"),
            training,
            "The same call resumes it",
            like=like,
            here=lambda place: getattr(fault_jobs, name)(str(place), clips),
        )

    def shell(words: list) -> dict:
        return {
            "command": lambda place: ["vidbench", *words, "--out", place, "--workers", "2"],
            "again": "interrupted; run the same again to resume",
        }

    def book(name: str, look, door: str) -> Job:
        path, printed = world[f"{name}_book"] / "book.ipynb", ["-p", "runs_dir"]
        given = ["-p", "data", world["few"]]
        doors = {
            "run": lambda place: [
                "vidbench",
                "run",
                path,
                "--out",
                place / "out",
                *printed,
                place,
                *given,
            ],
            "papermill": lambda place: [
                "papermill",
                "--engine",
                "vidbench",
                path,
                place / "out" / "book.ipynb",
                *printed,
                place,
                *given,
            ],
        }

        def events(place: Path) -> int:
            return lines_of(place, "out/*.log", "*/*.jsonl") + count(place / "flow", "*.npz")

        like = "" if door == "run" else f"run {name}"
        return Job(
            doors[door],
            events,
            look,
            "run the same again",
            lambda place: (place / "out").mkdir(parents=True),
            like=like,
        )

    def with_run(place: Path) -> None:
        place.mkdir()
        copied(shared("faults_classify", train_classify) / "run", place / "run")

    def train_classify(folder: Path) -> None:
        completed(made["classify"].command(folder / "run"), "trained", folder / "said")

    made = {
        "regress": train("regress"),
        "loaded": train("loaded", "regress"),
        "classify": train("classify"),
        "coclr": train("coclr"),
        "flow": Job(
            events=lambda place: count(place, "*.npz"),
            look=lambda place: files(place, "*.npz"),
            **shell(["flow", world["clips"], "--method", "tvl1_fast"]),
        ),
        "scan": Job(
            events=lambda place: lines_of(place, "scan.jsonl"),
            look=scanned,
            **shell(["scan", world["many"]]),
        ),
        "features": Job(
            lambda place: ["tests.fault_jobs", "features", place, clips],
            lambda place: count(place / "run" / "features", "*.npz"),
            lambda place: files(place / "run" / "features", "*.npz"),
            prepare=with_run,
            here=lambda place: fault_jobs.features(str(place), clips),
        ),
        "batch": Job(
            lambda place: ["tests.fault_jobs", "batch", place, clips],
            lambda place: lines_of(place, "*/metrics.jsonl"),
            batched,
        ),
        "run flow": book("flow", flow_book, "run"),
        "papermill flow": book("flow", flow_book, "papermill"),
        "run train": book("train", train_book, "run"),
        "papermill train": book("train", train_book, "papermill"),
    }
    return made


@pytest.fixture(scope="module")
def whole(jobs, tmp_path_factory) -> Callable[[str], Whole]:
    """The uninterrupted job of a name, run at its first use."""
    known: dict[str, Whole] = {}

    def run(name: str) -> Whole:
        name = jobs[name].like or name
        if name not in known:
            place = tmp_path_factory.mktemp("whole") / "place"
            known[name] = of_batch(place) if name == "batch" else watched(jobs[name], place)
        return known[name]

    return run


def of_batch(place: Path) -> Whole:
    """The batch's three runs one after the other and without pauses; its times are a guess."""
    from tests.engine import test_stages

    for name, recipe in fault_jobs.batched().items():
        test_stages.train(recipe_dict(replace(recipe, pause=0.0)), str(place / name), "none", 1)
    return Whole(place, [6 + 0.05 * event for event in range(108)], 12.0, batched(place)[1])


def watched(job: Job, place: Path) -> Whole:
    """Run a job to its end, noting when its events come."""
    job.prepare(place)
    began, times = time.monotonic(), []
    process = begun(job.command(place), "whole", place.with_name("said"))
    while process.poll() is None:
        times += [time.monotonic() - began] * (job.events(place) - len(times))
        time.sleep(0.002)
        assert time.monotonic() - began < PATIENCE
    assert process.returncode == 0, place.with_name("said").read_text()
    seconds = time.monotonic() - began
    return Whole(
        place, times + [seconds] * (job.events(place) - len(times)), seconds, job.look(place)[1]
    )


# ---- killed at random moments ------------------------------------------------------------------


def moment(whole: Whole, seen: int, share: float) -> tuple[int, float]:
    """(events to wait for, seconds after them) of a moment: share 0 is the start, 0.1 the first
    event, 1 the end.

    It is counted in events, since a busy machine takes longer. Where they are there already, from a
    call before, it is a moment of the start."""
    first, end = (
        whole.times[0],
        min(whole.seconds, whole.times[-1] + 0.3),
    )  # later the interpreter only takes its leave
    at = first + (share - 0.1) / 0.9 * (end - first)
    events = sum(when <= at for when in whole.times)
    if share < 0.1 or events <= seen:
        return seen, first * share
    return events, at - whole.times[events - 1]


def send(number: int, whom: str, process: subprocess.Popen, place: Path, mark: str) -> None:
    """To the process; to its group, as a cluster does; to the kernel it executes with; to a process
    of its pool."""
    if whom == "group":
        os.killpg(process.pid, number)
    elif whom == "kernel":
        with suppress(ProcessLookupError):  # it ended a moment before, as send_signal allows, too
            os.kill(int((place / "kernel").read_text()), number)
    elif whom == "worker":
        if not Path("/proc").is_dir():
            pytest.skip("finds the pool's processes in /proc")
        workers = [
            pid
            for pid in left(mark, process.pid)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(workers[0], number)
    else:
        process.send_signal(number)


TRIALS = {  # job -> for each trial its faults, one after the other: the signal and whom it goes to
    "regress": [
        [(KILL, "process")],
        [(TERM, "process"), (KILL, "group"), (TERM, "group")],
    ],
    "loaded": [[(TERM, "group")], [(KILL, "process")]],
    "classify": [[(TERM, "process")], [(KILL, "process")], [(KILL, "group"), (TERM, "group")]],
    "coclr": [[(KILL, "process")], [(TERM, "process"), (KILL, "process")]],
    "flow": [
        [(TERM, "process")],
        [(KILL, "process")],
        [(TERM, "group")],
        [(KILL, "group")],
        [(TERM, "process"), (KILL, "process")],
        [(KILL, "group"), (TERM, "group")],
    ],
    "scan": [
        [(TERM, "process")],
        [(KILL, "process")],
        [(TERM, "group")],
        [(KILL, "group")],
        [(TERM, "process"), (KILL, "process")],
        [(KILL, "group"), (TERM, "group")],
    ],
    "features": [[(TERM, "process")], [(KILL, "process")], [(KILL, "group"), (TERM, "process")]],
    "run flow": [[(TERM, "process")], [(KILL, "process")], [(KILL, "kernel")]],
    "papermill flow": [[(KILL, "group"), (TERM, "process")]],
    "run train": [[(TERM, "group")]],
    "papermill train": [[(KILL, "kernel"), (KILL, "process")]],
    "batch": [[(KILL, "process")], [(KILL, "worker")]],
}
NUMBERED = [(name, number) for name, trials in TRIALS.items() for number in range(len(trials))]
# shares of the events between which one is at work: of the batch's two processes one idles while
# the third run ends, and its death changes nothing
BUSY = {"kernel": (0.33, 0.9), "worker": (0.33, 0.5)}
# one job of each kind (test_batch resumes a batch); `make test-slow` runs the others
FAST = {"regress", "flow", "scan", "run flow"}
# drawn again in each call, so that many calls reach many moments
SEED = int(os.environ.get("VIDBENCH_FAULT_SEED") or time.time_ns() // 1000 % 1_000_000)


def one_of(name: str, slow: bool = False):
    """A parameter set whose tests share a worker with the job that it is compared with."""
    group = name.replace("papermill", "run").replace("loaded", "regress")
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(name, marks=marks, id=f"{name}@faults {group}")


@pytest.mark.parametrize("name", [one_of(name, slow=name not in FAST) for name in TRIALS])
def test_killed_once_and_resumed(jobs, whole, tmp_path, name):
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    print(f"repeat this trial with VIDBENCH_FAULT_SEED={SEED}")
    trial(jobs[name], whole(name), tmp_path, name, int(rng.integers(len(TRIALS[name]))), rng)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "number"), NUMBERED, ids=["{} {}".format(*trial) for trial in NUMBERED]
)
def test_killed_at_spread_moments_and_resumed(jobs, whole, tmp_path, name, number):
    """The moments are spread over the job; which one a trial takes follows from its name, so it can
    be repeated."""
    rng = np.random.default_rng([number, zlib.crc32(name.encode())])
    KILLS.extend(trial(jobs[name], whole(name), tmp_path, name, number, rng))


def trial(
    job: Job, reference: Whole, tmp_path: Path, name: str, number: int, rng: np.random.Generator
) -> list[tuple[str, str, bool]]:
    """Send a trial's faults, resume to the end, and compare; (trial, signal, met a live process) of
    each."""
    place, faults, kills = tmp_path / "place", TRIALS[name][number], []
    job.prepare(place)
    finished: dict = {}
    for turn, (what, whom) in enumerate(faults):
        alone = len(faults) == 1
        share = (
            (number + rng.random()) / len(TRIALS[name])
            if alone
            else (turn + rng.random()) / len(faults)
        )
        mark, said = f"{name}-{number}-{turn}-{os.getpid()}", tmp_path / f"said-{turn}"
        events, delay = moment(reference, job.events(place), share)
        if whom in BUSY:  # it has begun, and has work left
            first, last = (int(part * len(reference.times)) for part in BUSY[whom])
            events = min(max(events, first), last)
        process = begun(job.command(place), mark, said)
        until(lambda: job.events(place) >= events or process.poll() is not None, said.read_text)  # noqa: B023
        time.sleep(delay)
        seen, live = job.events(place), process.poll() is None
        print(
            f"{name} {number}, fault {turn}: {what.name} to the {whom} {delay:.3f} s after "
            f"{events} of "
            f"{len(reference.times)} events; it reached {seen}, and {'lived' if live else 'ended before'}"
        )
        if live:
            send(what, whom, process, place, mark)
        kills.append((f"{name} {number}", f"{what.name} to the {whom}", live))
        code = process.wait(PATIENCE)
        until(lambda: not left(mark, process.pid), lambda: f"left: {left(mark, process.pid)}")  # noqa: B023
        before, (finished, made) = finished, job.look(place)
        assert before.items() <= finished.items(), "what was finished was lost or done again"
        check_words(job, what, whom, code, said.read_text())
        if made.get("state") == "interrupted" and what == TERM:
            assert len(made["metrics"]) == sum(key.startswith("metrics") for key in finished), (
                "it saved itself"
            )
            assert "SIGTERM" in json.loads((place / "status.json").read_text())["error"]
        if name == "batch" and whom == "process":  # its processes have noticed
            states = {made.get(f"{run}state", "new") for run in "abc"}
            assert states <= {"new", "interrupted", "complete"}, "they saved themselves"
    if job.here:
        job.here(place)
    else:
        completed(job.command(place), f"{name}-{number}-last-{os.getpid()}", tmp_path / "last")
    assert_same(job, place, finished, reference)
    return kills


def assert_same(job: Job, place: Path, finished: dict, reference: Whole) -> None:
    """What was finished is there as it was, and the end is that of the uninterrupted job."""
    kept, made = job.look(place)
    assert finished.items() <= kept.items(), "what was finished was lost or done again"
    assert made.keys() == reference.made.keys()
    assert [
        name for name in made if made[name] != reference.made[name] and name not in NAMING
    ] == []


def check_words(job: Job, what: int, whom: str, code: int, said: str) -> None:
    """How it ended, and what it says to do."""
    if what == KILL and whom in ("process", "group"):
        assert code in (-KILL, 0), said
    elif whom == "kernel":
        assert (
            code == 0 or code == 138 and "the kernel died of SIGKILL" in said and job.again in said
        )
    elif whom == "worker":
        assert code == 1 and "a process died" in said and "the same call resumes them" in said
    elif code not in (0, -TERM):  # -TERM: before it listened, or where nothing listens
        assert job.again and job.again in said, (code, said)


@pytest.mark.long
def test_thirty_faults_met_a_live_process():
    """A job may end a moment before its fault."""
    if len({trial for trial, _, _ in KILLS}) < len(NUMBERED):
        pytest.skip("a part of the trials was run")
    assert sum(live for _, _, live in KILLS) >= 30
    for what in ("SIGTERM", "SIGKILL"):
        assert sum(live for _, sent, live in KILLS if sent.startswith(what)) >= 10


# ---- two at once -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [one_of("regress"), *(one_of(name, slow=True) for name in ("flow", "scan", "run flow"))]
)
def test_a_second_process_is_refused_and_told_who_is_there(jobs, whole, tmp_path, name):
    """The first is held still meanwhile, so that it has not ended; then it continues."""
    job, reference, place = jobs[name], whole(name), tmp_path / "place"
    job.prepare(place)
    mark = f"two-{name}-{os.getpid()}"
    first = begun(job.command(place), mark, tmp_path / "first")
    try:
        until(lambda: job.events(place) or first.poll() is not None, (tmp_path / "first").read_text)
        first.send_signal(signal.SIGSTOP)
        if job.here:
            with pytest.raises(BusyError) as caught:
                job.here(place)
            said = str(caught.value)
        else:
            second = begun(job.command(place), mark, tmp_path / "second")
            assert second.wait(PATIENCE) in (1, 2)
            said = (tmp_path / "second").read_text()
    finally:
        first.send_signal(signal.SIGCONT)
    assert (
        "another process " in said and f"process {first.pid} on " in said and "wait for it" in said
    )
    assert first.wait(PATIENCE) == 0, (tmp_path / "first").read_text()
    assert_same(job, place, {}, reference)


@pytest.mark.slow
def test_two_processes_that_make_the_same_tables_both_get_them(jobs, whole, tmp_path):
    """None is refused: a table is written at once and whole, and both are the same."""
    job, reference, place = jobs["features"], whole("features"), tmp_path / "place"
    job.prepare(place)
    both = [begun(job.command(place), "tables", tmp_path / f"said-{number}") for number in range(2)]
    codes = [process.wait(PATIENCE) for process in both]
    assert codes == [0, 0], [(tmp_path / f"said-{number}").read_text() for number in range(2)]
    assert_same(job, place, {}, reference)


# ---- a full disk -------------------------------------------------------------------------------


def pages(folder: Path, pattern: str = "*") -> int:
    """What files take on a disk, in kB."""
    return sum(
        -(-path.stat().st_size // 4096) * 4 for path in folder.rglob(pattern) if path.is_file()
    )


def rooms(name: str, place: Path) -> int:
    """A size in kB on which a job begins and cannot end."""
    match name:
        case "classify":  # a second checkpoint next to the first, which knows no gradients yet
            return 2 * pages(place, "weights.safetensors") + pages(place, "state.pt") // 2 + 40
        case "features":
            return pages(place) - pages(place / "run" / "features") // 2
        case "run flow":  # the executed copy cannot be saved
            return 60
        case _:  # its log fills the disk
            return pages(place / "flow") + 60


@pytest.mark.parametrize(
    "name",
    [one_of(name, slow=True) for name in ("classify", "features", "run flow", "papermill flow")],
)
def test_a_full_disk_is_told_and_with_room_the_same_call_goes_on(jobs, whole, tmp_path, name):
    """A small disk, too small at first. Flow and stores: test_store; scans: test_scan."""
    job, reference = jobs[name], whole(name)
    place, before, alone = (
        tmp_path / "place",
        tmp_path / "before",
        ["unshare", "--map-root-user", "--mount"],
    )
    place.mkdir()
    job.prepare(before)
    if not shutil.which("unshare"):
        pytest.skip("needs util-linux's unshare, to mount a small disk")
    allowed = subprocess.run(
        [*alone, "mount", "-t", "tmpfs", "none", place], capture_output=True, text=True
    )
    if allowed.returncode:
        pytest.skip(f"may not mount a small disk: {allowed.stderr.strip()}")
    command = [sys.executable, "-m", *map(str, job.command(place))]
    words = [
        "on_a_small_disk",
        place,
        tmp_path,
        before,
        str(rooms(name, reference.place)),
        *command,
    ]
    printed = subprocess.run(
        [*alone, sys.executable, "-m", "tests.fault_jobs", *words],
        cwd=makes.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(makes.ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    assert printed.returncode == 0, printed.stderr
    full, roomy = json.loads(printed.stdout)
    assert full["code"] == 1, full
    assert (
        "full" in full["errors"]
        and "make room" in full["errors"]
        and "run the same again" in full["errors"]
    )
    assert not list((tmp_path / "full").rglob("*.tmp")), "half-written files take room"
    finished, made = job.look(tmp_path / "full")
    assert made.get("state") != "complete" and (finished or name in ("classify", "run flow"))
    assert roomy["code"] == 0, roomy
    assert_same(job, tmp_path / "roomy", finished, reference)


# ---- a damaged checkpoint ----------------------------------------------------------------------


FIT = Fit(epochs=6, batch=8, lr=0.01, log_every=1, schedule="cosine")


def trained(folder: Path) -> Run:
    stages.regress(recipe_dict(FIT), str(folder), 0.3)
    return Run(folder)


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("complete") / "run")


DAMAGES = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "its head": lambda data: data[:4],
    "zeros": lambda data: bytes(len(data)),
    "of something else": lambda data: b"<html>not found</html>",
}


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(complete, tmp_path, file, damage):
    shutil.copytree(complete.folder, tmp_path / "run")
    path = Run(tmp_path / "run").checkpoint() / file
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(DAMAGES[damage](data))
    with pytest.raises(RunError) as caught:
        trained(tmp_path / "run")
    said = str(caught.value)
    assert (
        said.startswith(f"{path} is damaged (")
        and f"or delete {path.parent}: no older one exists" in said
    )
    assert (
        "the same call then trains from the beginning" in said
        and Run(tmp_path / "run").state == "failed"
    )
    shutil.rmtree(path.parent)
    again = training(trained(tmp_path / "run").folder)[1]
    assert again == training(complete.folder)[1], (
        "from the start, and no line of the first time is left"
    )


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_no_byte_of_a_checkpoint_changes_unnoticed(complete, tmp_path, file):
    """Either the damage is named, or what is read is what was written: not every byte of a file
    means something."""
    shutil.copytree(complete.folder, tmp_path / "run")
    run, read = (
        Run(tmp_path / "run"),
        {"weights.safetensors": Run.weights, "state.pt": Run.training}[file],
    )
    path = run.checkpoint() / file
    data, right, noticed = path.read_bytes(), read(run), 0
    places = range(5, len(data), max(1, len(data) // 150))
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            found = read(run)
        except RunError as error:
            noticed += 1
            assert str(error).startswith(f"{path} is damaged (")
        else:
            assert equal(found, right), f"byte {at} of {len(data)}"
    assert noticed > len(places) // 4


def equal(left, right) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_an_older_checkpoint_is_named_where_there_is_one(complete, tmp_path, monkeypatch):
    monkeypatch.setattr("vidbench.engine.checkpoints.delete_folder", lambda folder: None)
    run = trained(tmp_path / "run")
    (run.checkpoint() / "state.pt").write_bytes(b"")
    with pytest.raises(
        RunError, match=f"delete {run.checkpoint()}: the same call then resumes from step-000000030"
    ):
        trained(run.folder)
    shutil.rmtree(run.checkpoint())
    assert (
        training(trained(run.folder).folder)[1]["metrics"]
        == training(complete.folder)[1]["metrics"]
    )


def test_another_networks_checkpoint_is_refused_by_name(complete, tmp_path):
    shutil.copytree(complete.folder, tmp_path / "run")
    place = Run(tmp_path / "run").checkpoint()
    weights = {
        name: torch.zeros([9, *value.shape[1:]]) for name, value in complete.weights().items()
    }
    save_file(weights, place / "weights.safetensors")
    with pytest.raises(
        RunError,
        match=f"(?s){place} holds another network's weights.*size mismatch.*another folder",
    ):
        trained(tmp_path / "run")
    shutil.copy(complete.checkpoint() / "weights.safetensors", place)
    state = complete.training()
    state["optimizer"]["param_groups"][0]["params"] = [0]
    torch.save(state, place / "state.pt")
    with pytest.raises(
        RunError, match=f"(?s){place} holds .* another optimizer's state.*start again"
    ):
        trained(tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_died_between_its_first_validation_and_its_first_checkpoint(
    jobs, whole, tmp_path, monkeypatch
):
    """It begins again, and its log does not say twice how it began."""

    class Dies(BaseException):
        pass

    def save(*_):
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", save)
        with pytest.raises(Dies):
            jobs["classify"].here(tmp_path / "run")
    assert len((tmp_path / "run" / "monitor.jsonl").read_text().splitlines()) == 1
    (tmp_path / "run" / "status.json").unlink()  # as if it was killed before its first line
    assert Run(tmp_path / "run").state == "new"
    jobs["classify"].here(tmp_path / "run")
    assert_same(jobs["classify"], tmp_path / "run", {}, whole("classify"))


def test_a_long_line_is_taken_up_at_once():
    """As a cell prints it that shows a large array; it used to take minutes, in which no signal was
    heard."""
    from vidbench.headless.streams import redrawn

    began, line = time.monotonic(), "0.123456789 " * 100_000
    assert redrawn("a\nb", f"{line}\rc\r\n{line}") == f"a\nc\r\n{line}"
    assert time.monotonic() - began < 10
