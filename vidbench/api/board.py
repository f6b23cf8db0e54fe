"""The command `vidbench board`: all runs of folders as one offline page."""

from __future__ import annotations

import argparse
from pathlib import Path

from vidbench.api.runs import add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import as_json, notes_to_stderr, printable, show
from vidbench.system.usage import Commands


def add_board(commands: Commands) -> None:
    """Add the command `board`."""
    one = add_command(
        commands,
        "board",
        "write a page of runs: curves, recipe differences, numbers with their protocol",
        "vidbench board runs/tiny --out board.html",
        "The page opens without a network. Notebook 91_board shows the same while runs train.",
    )
    one.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, or run directories")
    one.add_argument("--out", default="board.html", help="the page (%(default)s)")


def board(given: argparse.Namespace) -> int:
    """Write the page; returns the exit code."""
    with notes_to_stderr():
        page, states = at_the_door(_written, given.runs, given.out)
    if given.json:
        runs = [{"run": one.name, "state": one.state, "said": one.said} for one in states]
        show(as_json({"page": str(page), "runs": runs}))
    else:
        show(printable(f"{len(states)} runs -> {page}"))
    return 0


def _written(folders: list[str], out: str):
    from vidbench.evaluate.board import Board
    from vidbench.view.board import write_board

    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no such folder: {folder}. Name the folder your runs are in.")
    found = Board(folders)
    states = [one for one in found.look() if one.state != "waiting"]
    if not states:
        raise ValueError(
            f"no runs below {', '.join(folders)}. Train one first, or name another folder."
        )
    return write_board(out, found), states
