"""The states of a batch's rows, what they wait for, and the summary of all."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vidbench.headless.needs import in_order
from vidbench.headless.status import read
from vidbench.headless.table import Row, leaves
from vidbench.system.files import write_text

LIVE = ("running", "orphaned")  # a process executes the row
FAILED = ("failed", "timed out", "kernel died", "need failed")
SHOWN = ("row", "name", "state", "seconds", "cell", "error")  # the others are in summary.csv


def states(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """List the status of each row, as `Row.status`, and what follows from the rows it needs.

    | state | of a row that |
    | --- | --- |
    | waits | needs rows that are not complete |
    | need failed | needs a row that failed, or whose own need failed |
    | outdated | is complete, but a row that it needs is not, or ended later |
    | running, orphaned | is executed; `error` names the process |

    Args:
        rows: All rows of a table.
    """
    found = [row.status() for row in rows]
    for number in in_order([row.needs for row in rows]):
        status = found[number]
        if status["state"] in LIVE:
            batch = status.get("batch")
            who = f"process {status['pid']} on {status['host']}"
            said = f"{who}, of the batch {batch}" if batch else who
            if status["state"] == "orphaned":
                said = f"{who} saves itself and ends: its batch {batch} ended"
            found[number] = {"error": said} | {k: v for k, v in status.items() if v is not None}
        elif rows[number].needs:
            found[number] = _of_needs(status, [(rows[n], found[n]) for n in rows[number].needs])
    return found


def _of_needs(status: dict, needs: list[tuple[Row, dict]]) -> dict[str, Any]:
    """The status of a row that needs others, with theirs."""
    missing = [(row.name, one["state"]) for row, one in needs if one["state"] != "complete"]
    if status["state"] == "complete":
        later = [row.name for row, one in needs if one.get("ended", "") > status["begun"]]
        newer = [name for name, _ in missing] or later
        said = {"state": "outdated", "error": f"runs again after {', '.join(newer)}"}
        return status | said if newer else status
    failed = [f"{name} ({state})" for name, state in missing if state in FAILED]
    if failed:
        return {"state": "need failed", "error": f"needs {', '.join(failed)}"}
    names = [name for name, _ in missing]
    return {"state": "waits", "error": f"for {', '.join(names)}"} if names else status


def summarize(rows: Sequence[Row], out: str | Path) -> str:
    """Write out/summary.csv, a line for each row with all its parameters.

    Args:
        rows: All rows of a table.
        out: The folder of the rows' folders.

    Returns:
        A short table of it, the columns SHOWN, as text.
    """
    lines = []
    for row, found in zip(rows, states(rows), strict=True):
        times = [
            datetime.fromisoformat(found[when]) for when in ("begun", "ended") if found.get(when)
        ]
        seconds = (times[1] - times[0]).total_seconds() if len(times) == 2 else ""
        error = " ".join((found.get("error") or last_words(row)).split())
        line = {
            "row": row.number,
            "name": row.name,
            "state": found["state"],
            "seconds": seconds,
            "cell": f"{found['cell']}/{found['cells']}" if "cell" in found else "",
            "error": error,
            "exit": found.get("exit"),
            "needs": " ".join(rows[need].name for need in row.needs),
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


def errors_of(row: Row) -> Path:
    """Return the file of what a row's process prints before its notebook begins."""
    return row.folder / f"{row.notebook.stem}.errors.log"


def last_words(row: Row) -> str:
    """Return the last line that a row's process printed, if it never began the notebook."""
    if read(row.copy)["state"] != "new" or not errors_of(row).exists():
        return ""
    return errors_of(row).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


def line_of(found: dict) -> str:
    """Write a status in a line: its state, the cell and what is wrong."""
    where = (
        f" in cell {found['cell']} of {found['cells']}"
        if found["state"] != "complete" and "cell" in found
        else ""
    )
    said = found.get("error") or ""
    return found["state"] + where + (f": {said.splitlines()[0]}" if said else "")
