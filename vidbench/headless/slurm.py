"""Slurm scripts: the shipped ones with a table's or a notebook's arguments and a cluster's options."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vidbench.headless.table import read_table
from vidbench.headless.values import ParameterError
from vidbench.system.errors import MissingError
from vidbench.system.share import share

ARRAY, NODES = "slurm_array.sh", "slurm_nodes.sh"
VALUE = re.compile(r"[\w:.,/%+@=-]+")  # of an option, which is a word of a comment line


def print_script(given: argparse.Namespace) -> None:
    """Print the script for the options of `vidbench slurm`.

    Raises:
        ParameterError: The table is wrong, the job is missing, or an option cannot be used.
    """
    job = Path(given.job)
    options: dict[str, object] = {
        "nodes": given.nodes,
        "gpus-per-node": given.gpus,
        "cpus-per-task": given.cores,
        "time": given.time,
        "account": given.account,
        "partition": given.partition,
    }
    if not job.is_file():
        raise MissingError(f"no such file: {job}. Name a table or a notebook.")
    if not is_notebook(given.job):
        if given.nodes:
            raise ParameterError("--nodes is for a notebook; each row of a table has one node.")
        rows = read_table(job, *(given.words[:1] or ["runs"]))
        options["array"] = f"0-{len(rows) - 1}"
        if any(row.needs for row in rows):
            print(
                "vidbench: rows of this table need other rows, so one array is not enough. Submit all "
                f"of them by {share('assets/slurm_table.sh')} TABLE OUT -- OPTIONS OF SBATCH.",
                file=sys.stderr,
            )
    elif not given.nodes:
        options["nodes"] = 1
    said = shlex.join(["vidbench", *sys.argv[1:]])
    print(script(given.job, given.words, options, said), end="")


def is_notebook(job: str) -> bool:
    """Return whether a job is a notebook; else it is a table of a batch."""
    return Path(job).suffix.lower() == ".ipynb"


def script(job: str, words: Sequence[str], options: Mapping[str, object], said: str) -> str:
    """Write a Slurm script for a table, or for a notebook on one or several nodes.

    Args:
        words: Further arguments of the script: of a table its output folder, of a notebook those of
            `vidbench run`.
        options: Of sbatch, by their names; empty ones leave the shipped script's. 0 GPUs removes the
            line.
        said: The command that printed it, for the head of the script.

    Raises:
        ParameterError: An option has blanks or other signs that a line of sbatch cannot have.
    """
    name = NODES if is_notebook(job) else ARRAY
    lines = share(f"assets/{name}").read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("#SBATCH"))
    last = max(n for n, line in enumerate(lines) if line.startswith("#SBATCH"))
    settings = lines[first : last + 1]
    for option, value in options.items():
        settings = _with(settings, option, value)
    head = [lines[0], f"# Printed by: {said}", "# Save it to a file, then submit that by sbatch."]
    call = f"set -- {shlex.join([job, *words])}"
    return "\n".join([*head, *settings, "", call, *lines[last + 1 :]]) + "\n"


def _with(settings: list[str], option: str, value: object) -> list[str]:
    """The lines with an option replaced or added."""
    if value in (None, ""):
        return settings
    line, start = f"#SBATCH --{option}={value}", f"#SBATCH --{option}="
    if not VALUE.fullmatch(str(value)):
        raise ParameterError(
            f"--{option} must be one word of letters, digits and :.,/%+@=-; got {value!r}."
        )
    others = [one for one in settings if not one.startswith(start)]
    if option == "gpus-per-node" and value == 0:
        return others
    if len(others) == len(settings):
        return [*settings, line]
    return [line if one.startswith(start) else one for one in settings]
