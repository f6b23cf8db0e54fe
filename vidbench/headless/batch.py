"""A table of notebook runs, settings times seeds: some at a time, complete ones skipped, the rest
begun or resumed."""

import csv
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vidbench.headless.execute import execute_all
from vidbench.headless.parameters import (
    ParameterError,
    check,
    digest_of,
    known_parameters,
    load_yaml,
    spoken,
)
from vidbench.headless.status import read
from vidbench.system.files import write_text
from vidbench.system.processes import cores
from vidbench.system.progress import Every
from vidbench.system.signals import deferred

EVERY = 30.0  # seconds between lines about what runs
LONGEST = 100  # letters of a folder's name
SHOWN = ("row", "name", "state", "seconds", "cell", "error")  # the others are in summary.csv


@dataclass(frozen=True)
class Row:
    """One notebook with its parameters, and the folder that its executed copy lies in."""

    number: int
    name: str
    notebook: Path
    parameters: dict
    folder: Path
    digest: str

    @property
    def copy(self) -> Path:
        return self.folder / self.notebook.name

    def status(self) -> dict:
        """As status.read; state `new` also where the folder holds a run of other contents or
        parameters."""
        found = read(self.copy)
        return (
            found
            if found.get("digest") == self.digest or found["state"] == "running"
            else {"state": "new"}
        )


# -------------------------------------------------------------------------------------- the table


def read_table(table: str | Path, out: str | Path) -> list[Row]:
    """The rows of a table, each checked against its notebook.

    A .yaml holds one map or a list of maps: `notebook`, a path from the table's folder;
    `parameters`; `grid`, each combination of whose lists is a row, in order; `compose`, text made
    of the row's other parameters, such as {name: "{stream}-seed{changes[seed]}"}. A name with dots
    is a field of a map: changes.seed. In a grid a name of your own may hold a list of maps,
    settings of several parameters each. A .csv has a column `notebook` and one for each parameter,
    an empty cell being one not given. A row whose folder exists under another name, since the table
    has grown, keeps it. Raises ParameterError."""
    table, out = Path(table), Path(out)
    entries = _csv_entries(table) if table.suffix == ".csv" else load_yaml(table)
    entries = entries if isinstance(entries, list) else [entries]
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found += _expanded(entry, table.parent)
        except (ParameterError, OSError) as error:
            raise ParameterError(f"{table}, entry {number}: {error}") from None
    if not found:
        raise ParameterError(f"{table} has no rows.")
    return _placed(found, out)


def _csv_entries(table: Path) -> list[dict]:
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    entries = []
    for line in lines:
        given = {name: text for name, text in line.items() if text not in ("", None)}
        if None in given or "notebook" not in given:
            raise ParameterError(
                f"{table}: wanted a column notebook and a name over every other; got {line}."
            )
        notebook = given.pop("notebook")
        entries.append({"notebook": notebook, "parameters": spoken(table.parent / notebook, given)})
    return entries


def _expanded(entry, folder: Path) -> list[tuple[Path, dict, dict]]:
    """(notebook, parameters, those that name the row) of each row of an entry."""
    if (
        not isinstance(entry, dict)
        or "notebook" not in entry
        or set(entry) - {"notebook", "parameters", "grid", "compose"}
    ):
        raise ParameterError(
            "wanted a map of notebook, parameters, grid, compose, the first at least; got "
            f"{entry!r}."
        )
    parameters, grid, compose = (
        entry.get(part) or {} for part in ("parameters", "grid", "compose")
    )
    if not all(isinstance(part, dict) for part in (parameters, grid, compose)):
        raise ParameterError(f"parameters, grid and compose are maps; got {entry!r}.")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"grid: {name} wants a list of values; got {values!r}.")
    notebook = folder / entry["notebook"]
    known = known_parameters(notebook) if parameters or grid or compose else {}
    rows = []
    for values in itertools.product(*grid.values()):
        made = _fields(parameters)
        for name, value in zip(grid, values, strict=True):
            bundle = isinstance(value, dict) and name.split(".")[0] not in known
            _fields(value if bundle else {name: value}, made)
        named = deepcopy(made)
        try:
            _fields({name: text.format(**made) for name, text in compose.items()}, made)
        except (LookupError, ValueError, AttributeError) as error:
            raise ParameterError(
                f"compose {compose} of {named}: {type(error).__name__}: {error}"
            ) from None
        rows.append((notebook, check(notebook, made), named))
    return rows


def _fields(values: dict, into: dict | None = None) -> dict:
    """Set names with dots as fields of maps."""
    into = {} if into is None else into
    for name, value in values.items():
        *maps, last = name.split(".")
        place = into
        for field in maps:
            place = place.setdefault(field, {})
            if not isinstance(place, dict):
                raise ParameterError(f"{name}: {field} is no map but {place!r}.")
        place[last] = deepcopy(value)
    return into


def _placed(found: list[tuple[Path, dict, dict]], out: Path) -> list[Row]:
    """The rows with their folders: below the notebook's name, what distinguishes the row from
    others of it."""
    import nbformat

    books = {notebook: nbformat.read(notebook, as_version=4) for notebook, _, _ in found}
    digests = [digest_of(books[notebook], parameters) for notebook, parameters, _ in found]
    twice = next((d for i, d in enumerate(digests) if d in digests[:i]), None)
    if twice:
        same = [i for i, d in enumerate(digests) if d == twice]
        raise ParameterError(
            f"rows {same} are the same: {found[same[0]][0].name} with {found[same[0]][1]}."
        )
    there = {
        json.loads(path.read_text()).get("digest"): path.parent
        for path in out.rglob("*.status.json")
    }
    taken = {there[d] for d in digests if d in there}
    rows = []
    for number, ((notebook, parameters, named), mark) in enumerate(
        zip(found, digests, strict=True)
    ):
        others = [_leaves(other) for book, _, other in found if book.stem == notebook.stem]
        folder = there.get(mark) or out / notebook.stem / _name(_leaves(named), others)
        if mark not in there and folder in taken:
            folder = folder.with_name(f"{folder.name}-{mark[:8]}")
        taken.add(folder)
        rows.append(
            Row(
                number,
                folder.relative_to(out).as_posix(),
                notebook.resolve(),
                parameters,
                folder,
                mark,
            )
        )
    return rows


def _leaves(values: dict, prefix: str = "") -> dict:
    leaves = {}
    for name, value in values.items():
        leaves |= (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else {prefix + name: value}
        )
    return leaves


def _name(own: dict, others: list[dict]) -> str:
    """What differs, as name=value; empty where nothing does."""
    differing = [
        name
        for name, value in own.items()
        if any(other.get(name, ...) != value for other in others)
    ]
    words = [
        f"{name}={re.sub(r'[^A-Za-z0-9._+-]+', '-', str(own[name])).strip('-')}"
        for name in differing
    ]
    text = ",".join(words)
    if not text and any(set(other) - set(own) for other in others):
        text = "plain"
    return text[:LONGEST]


# -------------------------------------------------------------------------------------- executing


def row_of(rows: list[Row], number: int) -> Row:
    """The row of that number. Raises ParameterError where there is none."""
    if number not in range(len(rows)):
        raise ParameterError(f"the table has rows 0 to {len(rows) - 1}; got {number}.")
    return rows[number]


def run_row(row: Row, timeout: int = 0) -> int:
    """Execute a row in this process, unless it is complete; returns its exit code. Raises
    SystemExit after Ctrl-C or SIGTERM."""
    if row.status()["state"] == "complete":
        print(f"row {row.number}, {row.name}: complete before")
        return 0
    return execute_all([(row.notebook, _prepared(row))], row.folder, timeout)


def run_rows(rows: list[Row], out: str | Path, processes: int = 1, timeout: int = 0) -> int:
    """Execute the rows that are not complete, at most `processes` at a time, each in a process of
    its own.

    The GPUs (of CUDA_VISIBLE_DEVICES, or all) are shared out: rows at one time have different ones,
    as long as there are as many. A row that fails stops no other. Ctrl-C and SIGTERM stop all,
    which save themselves, and a second one ends them at once. Writes summary.csv and prints it in
    short. Returns 0 where all rows are complete, 130 where it was stopped, else 1. The same call
    goes on."""
    states = [row.status()["state"] for row in rows]
    waiting = [
        row for row, state in zip(rows, states, strict=True) if state not in ("complete", "running")
    ]
    print(
        f"{len(rows)} rows: {states.count('complete')} complete, {states.count('running')} run "
        "elsewhere, "
        f"{len(waiting)} to do, {processes} at a time",
        flush=True,
    )
    running: dict[subprocess.Popen, Row] = {}
    shares, taken = gpu_shares(_gpus(), processes), {}
    due, reported = Every(EVERY), 0
    with deferred() as stops:
        while running or (waiting and not stops):
            while waiting and len(running) < max(1, processes) and not stops:
                row = waiting.pop(0)
                if row.status()["state"] not in ("complete", "running"):  # meanwhile, elsewhere
                    share = next(
                        number for number in range(len(shares)) if number not in taken.values()
                    )
                    process = _start(row, processes, timeout, shares[share])
                    running[process], taken[process] = row, share
            if reported < len(stops):
                reported = len(stops)
                print(
                    f"stopping {len(running)} rows, which save themselves",
                    file=sys.stderr,
                    flush=True,
                )
                for process in running:
                    process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                row, _ = running.pop(process), taken.pop(process)
                print(
                    f"row {row.number}, {row.name}: {_line(_outcome(row, process.returncode))}",
                    flush=True,
                )
            if running and due():
                done = len(rows) - len(waiting) - len(running)
                print(
                    f"{done} of {len(rows)} rows done | "
                    + " | ".join(f"{row.name} {_line(row.status())}" for row in running.values()),
                    flush=True,
                )
    print(summarize(rows, out))
    left = [row.name for row in rows if row.status()["state"] != "complete"]
    if stops:
        print(
            f"stopped; the same call goes on with the {len(left)} rows left: {', '.join(left)}",
            file=sys.stderr,
        )
        return 130
    return 1 if left else 0


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
            line | {f"parameter {name}": value for name, value in _leaves(row.parameters).items()}
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


def _start(row: Row, processes: int, timeout: int, gpus: list[str]) -> subprocess.Popen:
    """`vidbench run` of a row: anyone can call the same by hand. Ctrl-C of a terminal does not
    reach it."""
    _prepared(row)
    row.copy.with_suffix(".status.json").unlink(
        missing_ok=True
    )  # what is read from now on is of this run
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
        "--timeout",
        str(timeout),
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
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in row.parameters.items()
    ]
    write_text(row.folder / "settings.yaml", "\n".join(lines or ["{}"]) + "\n")
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
    return _errors(row).read_text().strip().rpartition("\n")[2]


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
