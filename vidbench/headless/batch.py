"""A batch: the rows of a table, some at a time; complete rows are skipped, the others run."""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from datetime import datetime
from pathlib import Path

from vidbench.headless.execute import execute_all
from vidbench.headless.kernels import named
from vidbench.headless.status import read
from vidbench.headless.table import Row, check_rows, leaves
from vidbench.headless.values import ParameterError, yaml_text
from vidbench.system.files import write_text
from vidbench.system.processes import cores
from vidbench.system.progress import Every
from vidbench.system.signals import deferred

DONE = ("complete", "running")  # rows that need no start
SHOWN = ("row", "name", "state", "seconds", "cell", "error")  # the others are in summary.csv


def row_of(rows: list[Row], number: int) -> Row:
    """The row of that number. Raises ParameterError where there is none."""
    if number not in range(len(rows)):
        raise ParameterError(f"the table has rows 0 to {len(rows) - 1}; got {number}.")
    return rows[number]


def run_row(row: Row, timeout: int = 0, kernel: str = "") -> int:
    """Execute a row in this process, unless it is complete; returns its exit code. Raises
    ParameterError if its `data` is no data set, SystemExit after Ctrl-C or SIGTERM."""
    if row.status()["state"] == "complete":
        print(f"row {row.number}, {row.name}: complete before")
        return 0
    check_rows([row])
    return execute_all([(row.notebook, _prepared(row))], row.folder, timeout, named(kernel))


def run_rows(
    rows: list[Row], out: str | Path, processes: int = 1, timeout: int = 0, kernel: str = ""
) -> int:
    """Execute the rows that are not complete, at most `processes` at a time, each in a process of
    its own.

    The GPUs (of CUDA_VISIBLE_DEVICES, or all) are shared out: rows at one time have different ones,
    as long as there are as many. A row that fails stops no other. Ctrl-C and SIGTERM stop all,
    which save themselves, and a second one ends them at once. Writes summary.csv and prints it in
    short. Returns 0 where all rows are complete, 130 where it was stopped, else 1. The same call
    goes on."""
    batch = _Batch(rows, max(1, processes), timeout, kernel)
    with deferred() as stops:
        batch.execute(stops)
    print(summarize(rows, out))
    left = [row.name for row in rows if row.status()["state"] != "complete"]
    if stops:
        print(
            f"stopped; the same call goes on with the {len(left)} rows left: {', '.join(left)}",
            file=sys.stderr,
        )
        return 130
    return 1 if left else 0


class _Batch:
    """Rows that wait, and rows that run in processes."""

    def __init__(self, rows: list[Row], processes: int, timeout: int, kernel: str) -> None:
        states = [row.status()["state"] for row in rows]
        pairs = zip(rows, states, strict=True)
        self.total, self.processes = len(rows), processes
        self.options = ["--timeout", str(timeout), *(["--kernel", kernel] if kernel else [])]
        self.waiting = deque(row for row, state in pairs if state not in DONE)
        self.running: dict[subprocess.Popen, tuple[Row, int]] = {}  # the row, its share of GPUs
        self.shares = gpu_shares(_gpus(), processes)
        print(
            f"{len(rows)} rows: {states.count('complete')} complete, {states.count('running')} run "
            f"elsewhere, {len(self.waiting)} to do, {processes} at a time",
            flush=True,
        )

    def execute(self, stops: list[str]) -> None:
        """Execute all rows. stops: the signals that came; each new one stops the running rows."""
        due, reported = Every(), 0
        while self.running or (self.waiting and not stops):
            while self.waiting and len(self.running) < self.processes and not stops:
                self.start(self.waiting.popleft())
            if reported < len(stops):
                reported = len(stops)
                self.stop()
            time.sleep(0.2)
            self.collect()
            if self.running and due():
                self.report()

    def start(self, row: Row) -> None:
        """Start a row, unless another process completed or started it meanwhile."""
        if row.status()["state"] in DONE:
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

    def collect(self) -> None:
        """Print how the rows ended whose processes have ended."""
        for process in [process for process in self.running if process.poll() is not None]:
            row, _ = self.running.pop(process)
            ended = _line(_outcome(row, process.returncode))
            print(f"row {row.number}, {row.name}: {ended}", flush=True)

    def report(self) -> None:
        """Print how far the running rows are."""
        done = self.total - len(self.waiting) - len(self.running)
        rows = [f"{row.name} {_line(row.status())}" for row, _ in self.running.values()]
        print(" | ".join([f"{done} of {self.total} rows done", *rows]), flush=True)


def summarize(rows: list[Row], out: str | Path) -> str:
    """Write out/summary.csv, a line for each row with all its parameters, and return a table of it
    in short."""
    lines = []
    for row in rows:
        found = row.status()
        times = [
            datetime.fromisoformat(found[when]) for when in ("begun", "ended") if found.get(when)
        ]
        seconds = (times[1] - times[0]).total_seconds() if len(times) == 2 else ""
        error = " ".join((found.get("error") or _last_words(row)).split())
        line = {
            "row": row.number,
            "name": row.name,
            "state": found["state"],
            "seconds": seconds,
            "cell": f"{found['cell']}/{found['cells']}" if "cell" in found else "",
            "error": error,
            "exit": found.get("exit"),
            "notebook": row.notebook,
            "copy": row.copy,
        }
        lines.append(
            line | {f"parameter {name}": value for name, value in leaves(row.parameters).items()}
        )
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_text(Path(out) / "summary.csv", text.getvalue())
    cells = [SHOWN, *([str(line[name])[:80] for name in SHOWN] for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(SHOWN))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def gpu_shares(gpus: list[str], processes: int) -> list[list[str]]:
    """Which GPUs each of so many rows at a time may see: even shares, or one each in turn where
    there are fewer."""
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
    reach it."""
    _prepared(row)
    # what is read from now on is of this run
    row.copy.with_suffix(".status.json").unlink(missing_ok=True)
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // max(1, processes)))} | os.environ
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
    with _errors(row).open("w") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
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
    """What the status says, or, where the process ended before there was one, its own last
    words."""
    if not _errors(row).stat().st_size:
        _errors(row).unlink()
    found = row.status()
    return (
        found
        if found["state"] != "new"
        else {"state": f"exit code {code}", "error": _last_words(row)}
    )


def _errors(row: Row) -> Path:
    return row.folder / f"{row.notebook.stem}.errors.log"


def _last_words(row: Row) -> str:
    """Of a row that never had a status."""
    if read(row.copy)["state"] != "new" or not _errors(row).exists():
        return ""
    return _errors(row).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


def _line(found: dict) -> str:
    where = (
        f" in cell {found['cell']} of {found['cells']}"
        if found["state"] != "complete" and "cell" in found
        else ""
    )
    return (
        found["state"]
        + where
        + (f": {found['error'].splitlines()[0]}" if found.get("error") else "")
    )
