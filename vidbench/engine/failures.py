"""What a failing rank leaves for its launcher, and which failure came first."""

import faulthandler
import json
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from vidbench.engine import meeting
from vidbench.system.files import write_text

# seconds that a failing rank stays: a killed one must be seen dead before those that lost it
GRACE = 2.0
# seconds in which a rank notices that another failed; one that does not hangs, and is ended
NOTICE = 5.0
FIRST = "failed"  # the first report's key in the ranks' store
LEFT = re.compile(r"failed-\d+-\d+\.json|stack-\d+-\d+\.txt")
SHOWN = 20  # lines of a log or a stack in a message
LOST = re.compile(
    r"Connection (reset|closed|refused)|closed by peer|Timed out|timed out|timeout|DistBackendError"
)


def report(folder: str, rank: str, error: BaseException, store: dist.Store | None = None) -> None:
    """Write failed-ATTEMPT-RANK.json into the folder; then wait GRACE seconds.

    Args:
        folder: The folder of the ranks' logs.
        rank: This rank's number.
        error: What the rank raised.
        store: The ranks' store, which keeps the first report for other nodes; None writes the file
            only.
    """
    facts = {
        "rank": rank,
        "nanoseconds": time.time_ns(),
        "stopped": isinstance(error, KeyboardInterrupt),
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exc(),
    }
    _write(folder, facts)
    if store is not None:
        with suppress(RuntimeError):  # the node that holds it may be gone
            store.compare_set(FIRST, "", json.dumps(facts))
    time.sleep(GRACE)


def watch(folder: str, rank: str, store: dist.Store | None) -> threading.Event:
    """Watch in a thread for another rank's failure, and end this rank NOTICE seconds after it.

    First it writes stack-ATTEMPT-RANK.txt, with what this rank does. A rank that is still there
    after NOTICE hangs, or it would have failed, too. Without the watch it would delay the others:
    torch's launcher waits 30 seconds between SIGTERM, at which training tries to save, and SIGKILL.
    On another node it would hang for good. The report of another node is written into the folder,
    too.

    Args:
        folder: The folder of the ranks' logs.
        rank: This rank's number.
        store: On several nodes, a connection to the ranks' store that only the watch uses; else
            None.

    Returns:
        An event to set when this rank has done its part: it ends the watch.
    """
    done = threading.Event()

    def look() -> None:
        while not (first := _first(folder, rank, store)):
            if done.wait(0.5):
                return
        _write(folder, first)
        with Path(folder, f"stack-{meeting.attempt()}-{rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file)
        time.sleep(NOTICE)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    return done


def _first(folder: str, rank: str, store) -> dict | None:
    """The attempt's first report, of any node; or one that says that this rank's launcher ended."""
    for path in Path(folder).glob(f"failed-{meeting.attempt()}-*.json"):
        return json.loads(path.read_text())
    try:
        parent = multiprocessing.parent_process()
        if parent is None or os.getppid() != parent.pid:
            raise RuntimeError("its process has ended")
        return json.loads(store.get(FIRST)) if store and store.check([FIRST]) else None
    except RuntimeError as error:
        said = f"Connection closed: the node that started the ranks is gone ({error})"
        return {
            "rank": rank,
            "nanoseconds": time.time_ns(),
            "stopped": False,
            "error": said,
            "traceback": said,
        }


def _write(folder: str, facts: dict) -> None:
    path = Path(folder, f"failed-{meeting.attempt()}-{facts['rank']}.json")
    if not path.exists():
        write_text(path, json.dumps(facts))


def clear(folder: Path) -> None:
    """Forget what an earlier launch left; a user's files in the folder stay."""
    for old in [*_left(folder, "failed"), *_left(folder, "stack")]:
        old.unlink()


def _left(folder: Path, kind: str) -> list[Path]:
    """The ranks' files of one kind, failed or stack: KIND-ATTEMPT-RANK and nothing else."""
    return sorted(
        path for path in folder.iterdir() if LEFT.fullmatch(path.name) and kind in path.name
    )


def known(folder: Path) -> bool:
    """Return whether any rank left a report."""
    return bool(_reports(folder))


def stopped(folder: Path) -> str:
    """Return why the ranks stopped, if a signal stopped them and they saved; else an empty text."""
    reports = _reports(folder)
    return reports[0]["error"] if reports and reports[0]["stopped"] else ""


def root_cause(failures: dict, folder: Path, nnodes: int) -> str:
    """Describe the first of all failures of this node, with the last lines or the traceback.

    Args:
        failures: Rank -> torch's ProcessFailure.
        folder: The folder of the ranks' logs.
        nnodes: The number of nodes.
    """
    where = f"Every rank's output is below {folder}"
    for rank, failure in failures.items():
        if failure.exitcode < 0:
            hint = "; out of memory?" if failure.exitcode == -signal.SIGKILL else ""
            return f"rank {rank} was ended by {failure.signal_name()}{hint}. {_tail(folder, failure)}{where}"
    reports = _reports(folder)
    if not reports:
        return (
            "\n".join(
                f"rank {rank} ended with exit code {failure.exitcode} and no word. "
                f"{_tail(folder, failure)}"
                for rank, failure in failures.items()
            )
            + where
        )
    first = reports[0]
    lost = LOST.search(first["error"])
    hung = _hung(folder, {one["rank"] for one in reports}) if lost else ""
    if hung:
        return f"rank {first['rank']} waited in vain ({first['error'].splitlines()[0][:200]}).\n{hung}{where}"
    elsewhere = (
        "It lost a rank of another node: the cause is in that node's output.\n"
        if lost and nnodes > 1
        else ""
    )
    return f"rank {first['rank']} failed first:\n{first['traceback']}\n{elsewhere}{where}"


def _reports(folder: Path) -> list[dict]:
    """Those of the last attempt, the earliest first."""
    by_attempt: dict[int, list[dict]] = {}
    for path in _left(folder, "failed"):
        by_attempt.setdefault(int(path.stem.split("-")[1]), []).append(json.loads(path.read_text()))
    return (
        sorted(by_attempt[max(by_attempt)], key=lambda one: one["nanoseconds"])
        if by_attempt
        else []
    )


def _hung(folder: Path, heard: set[str]) -> str:
    """The ranks of this node that never failed by themselves, with what they did."""
    said = ""
    for path in _left(folder, "stack"):
        rank = path.stem.split("-")[2]
        if rank not in heard:
            said += f"rank {rank} hung, most recent call first:\n{_main(path.read_text())}\n"
    return said


def _main(stack: str) -> str:
    """The main thread's part of faulthandler's text, which comes last."""
    threads = re.split(r"\n\n(?=Thread|Current thread)", stack.strip())
    return "\n".join(threads[-1].splitlines()[: SHOWN + 1])


def _tail(folder: Path, failure) -> str:
    """The last lines that a rank wrote to its standard error."""
    logs = sorted(
        folder.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"),
        key=lambda path: path.stat().st_mtime,
    )
    lines = logs[-1].read_text(errors="backslashreplace").split("\n") if logs else []
    text = "\n".join(lines[-SHOWN:]).strip()
    return f"The last it wrote:\n{text}\n" if text else ""
