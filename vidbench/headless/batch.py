"""A batch: the rows of a table, some at a time and after those they need; complete ones are skipped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vidbench.headless.execute import execute_all
from vidbench.headless.kernels import named
from vidbench.headless.needs import groups
from vidbench.headless.states import LIVE, errors_of, last_words, line_of, states, summarize
from vidbench.headless.status import BATCH
from vidbench.headless.table import Row, check_rows
from vidbench.headless.values import ParameterError, yaml_text
from vidbench.system.files import write_text
from vidbench.system.processes import cores
from vidbench.system.progress import Every
from vidbench.system.signals import deferred

LOOK = 2.0  # seconds between two looks at rows that other processes execute


def run_row(rows: Sequence[Row], number: int, timeout: int = 0, kernel: str = "") -> int:
    """Execute a row of a table in this process, unless it is complete; return its exit code.

    Args:
        rows: All rows of the table.
        number: The row's number, from 0.
        timeout: Seconds for one cell; 0: no limit.
        kernel: The name of an installed kernel; empty is this interpreter.

    Raises:
        ParameterError: There is no such row, a row that it needs is not complete, or its `data` is
            no data set.
        SystemExit: After Ctrl-C or SIGTERM.
    """
    if number not in range(len(rows)):
        raise ParameterError(f"the table has rows 0 to {len(rows) - 1}; got {number}.")
    row, found = rows[number], states(rows)
    if found[number]["state"] == "complete":
        print(f"row {row.number}, {row.name}: complete before")
        return 0
    missing = [need for need in row.needs if found[need]["state"] != "complete"]
    if missing:
        said = ", ".join(f"{n}, {rows[n].name} ({found[n]['state']})" for n in missing)
        raise ParameterError(
            f"row {number}, {row.name}: the rows that it needs must be complete; these are not: "
            f"{said}. Run them first."
        )
    check_rows([row])
    return execute_all([(row.notebook, _prepared(row))], row.folder, timeout, named(kernel))


def order_of(rows: Sequence[Row]) -> str:
    """Return incomplete rows as lines for job arrays: rows, a blank, the rows they need."""
    left = [n for n, found in enumerate(states(rows)) if found["state"] != "complete"]
    lines = groups([row.needs for row in rows], left)
    return "\n".join(" ".join(",".join(map(str, part)) for part in line) for line in lines)


def run_rows(
    rows: list[Row], out: str | Path, processes: int = 1, timeout: int = 0, kernel: str = ""
) -> int:
    """Execute the rows that are not complete, each in a process and after the rows that it needs.

    The GPUs (of CUDA_VISIBLE_DEVICES, or all) are divided: rows at one time have different ones, as
    long as there are as many. A row that fails stops only those that need it. A row that another
    process executes is waited for, and runs here unless that completes it. Ctrl-C and SIGTERM stop
    all, which save themselves; a second one ends them at once. If this process is killed, they save
    themselves and end, too. Writes summary.csv and prints it in short. The same call resumes.

    Args:
        out: The folder of the rows' folders.
        processes: At most so many rows at a time.
        timeout: Seconds for one cell; 0: no limit.
        kernel: The name of an installed kernel; empty is this interpreter.

    Returns:
        0 if all rows are complete, 130 if it was stopped, else 1.
    """
    batch = _Batch(rows, max(1, processes), timeout, kernel)
    with deferred() as stops:
        batch.execute(stops)
    print(summarize(rows, out))
    found = states(rows)
    left = [row.name for row in rows if found[row.number]["state"] != "complete"]
    held = [row.name for row in rows if found[row.number]["state"] in ("need failed", "waits")]
    if stops:
        print(
            f"stopped; the same call resumes the {len(left)} rows left: {', '.join(left)}",
            file=sys.stderr,
        )
        return 130
    if held:
        print(
            f"{len(held)} rows did not run, because rows that they need are not complete: "
            f"{', '.join(held)}",
            file=sys.stderr,
        )
    return 1 if left else 0


class _Batch:
    """Rows that wait, and rows that run in processes."""

    def __init__(self, rows: list[Row], processes: int, timeout: int, kernel: str) -> None:
        self.rows, self.processes = rows, processes
        self.options = ["--timeout", str(timeout), *(["--kernel", kernel] if kernel else [])]
        self.running: dict[subprocess.Popen, tuple[Row, int]] = {}  # the row, its share of GPUs
        self.shares = gpu_shares(_gpus(), processes)
        self.look()
        self.waiting = [row for row in rows if self.found[row.number]["state"] != "complete"]
        count = Counter(found["state"] for found in self.found)
        live = sum(count[state] for state in LIVE)
        print(
            f"{len(rows)} rows: {count['complete']} complete, {live} run elsewhere, "
            f"{len(self.waiting) - live} to do, {processes} at a time",
            flush=True,
        )

    def look(self) -> None:
        """Read the states of all rows."""
        self.found, self.looked = states(self.rows), time.monotonic()

    def state(self, row: Row) -> str:
        return self.found[row.number]["state"]

    def execute(self, stops: list[str]) -> None:
        """Execute all rows. stops: the signals that came; each new one stops the running rows."""
        due, reported = Every(), 0
        while True:
            if not stops:
                self.begin()
            elsewhere = not stops and any(self.state(row) in LIVE for row in self.waiting)
            if not self.running and not elsewhere:
                return
            if reported < len(stops):
                reported = len(stops)
                self.stop()
            time.sleep(0.2)
            if self.collect() or elsewhere and time.monotonic() - self.looked > LOOK:
                self.look()
            if due():
                self.report()

    def begin(self) -> None:
        """Start the rows whose needs are complete, as many as there is room for."""
        for row in list(self.waiting):
            if self.state(row) == "complete":
                self.waiting.remove(row)
            ready = all(self.state(self.rows[need]) == "complete" for need in row.needs)
            busy = len(self.running) == self.processes
            if ready and not busy and self.state(row) not in ("complete", *LIVE):
                self.waiting.remove(row)
                self.start(row)

    def start(self, row: Row) -> None:
        """Start a row, unless another process started it meanwhile."""
        if row.status()["state"] in LIVE:
            self.waiting.append(row)
            self.look()
            return
        taken = {share for _, share in self.running.values()}
        share = next(number for number in range(len(self.shares)) if number not in taken)
        try:
            process = _start(row, self.processes, self.options, self.shares[share])
        except OSError as error:  # the other rows run
            said = f"{type(error).__name__}: {error}"
            print(f"row {row.number}, {row.name}: not started: {said}", file=sys.stderr, flush=True)
            return
        self.running[process] = row, share

    def stop(self) -> None:
        """Stop the running rows, which save themselves."""
        print(
            f"stopping {len(self.running)} rows, which save themselves", file=sys.stderr, flush=True
        )
        for process in self.running:
            process.send_signal(signal.SIGTERM)

    def collect(self) -> bool:
        """Print how the rows ended whose processes have ended; returns whether one has."""
        ended = [process for process in self.running if process.poll() is not None]
        for process in ended:
            row, _ = self.running.pop(process)
            said = line_of(_outcome(row, process.returncode))
            print(f"row {row.number}, {row.name}: {said}", flush=True)
        return bool(ended)

    def report(self) -> None:
        """Print how far the running rows are, and those that other processes execute."""
        here = [row for row, _ in self.running.values()]
        there = [row for row in self.waiting if self.state(row) in LIVE]
        done = len(self.rows) - len(self.waiting) - len(here)
        lines = [f"{row.name} {line_of(row.status())}" for row in here]
        lines += [f"{row.name} {line_of(self.found[row.number])}" for row in there]
        print(" | ".join([f"{done} of {len(self.rows)} rows done", *lines]), flush=True)


def gpu_shares(gpus: list[str], processes: int) -> list[list[str]]:
    """Divide GPUs evenly among rows that run at a time.

    If there are fewer GPUs than rows, each row has one, and rows share it.

    Args:
        gpus: Their numbers or names.
        processes: Rows at a time.

    Returns:
        The GPUs of each row; no GPU for any if there are none.
    """
    processes = max(1, processes)
    if len(gpus) < processes:
        return [[gpus[number % len(gpus)]] if gpus else [] for number in range(processes)]
    return [
        gpus[number * len(gpus) // processes : (number + 1) * len(gpus) // processes]
        for number in range(processes)
    ]


def _gpus() -> list[str]:
    """The GPUs that this process may use, without waiting for torch's import."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [
            name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()
        ]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True)
    return listed.stdout.split() if listed.returncode == 0 else []


def _start(row: Row, processes: int, options: list[str], gpus: list[str]) -> subprocess.Popen:
    """`vidbench run` of a row: anyone can call the same by hand. Ctrl-C of a terminal does not
    reach it. Its standard input stays open as long as this process lives (signals.end_with)."""
    _prepared(row)
    # what is read from now on is of this run
    row.copy.with_suffix(".status.json").unlink(missing_ok=True)
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // max(1, processes)))} | os.environ
    environment[BATCH] = str(os.getpid())
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    command = [
        sys.executable,
        "-m",
        "vidbench",
        "run",
        str(row.notebook),
        "--out",
        str(row.folder),
        "-f",
        str(row.folder / "settings.yaml"),
        *options,
    ]
    with errors_of(row).open("w") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )


def _prepared(row: Row) -> dict:
    """Make the folder, with the row's parameters as a file for -f."""
    row.folder.mkdir(parents=True, exist_ok=True)
    write_text(row.folder / "settings.yaml", yaml_text(row.parameters))
    return row.parameters


def _outcome(row: Row, code: int) -> dict:
    """The status; if the process ended before it wrote one, its exit code and last line."""
    if not errors_of(row).stat().st_size:
        errors_of(row).unlink()
    found = row.status()
    return (
        found
        if found["state"] != "new"
        else {"state": f"exit code {code}", "error": last_words(row)}
    )
