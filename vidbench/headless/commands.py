"""The commands `vidbench run` and `vidbench batch`: their options and exit codes."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_ENDS = """
exit code  of run                              of batch (with --list, too)
---------  ----------------------------------  ------------------------------------
0          all notebooks are complete          all rows are complete
1          a notebook failed                   a row is not complete
2          nothing was done: the command is wrong, such as an unknown parameter
124        a cell reached its time limit       (1; with --row as of run)
130        stopped by Ctrl-C or SIGTERM        stopped by Ctrl-C or SIGTERM
138        the kernel died                     (1; with --row as of run)
"""
_RAW = argparse.RawDescriptionHelpFormatter


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more; got {text}")
        return int(text)

    return whole


def add_run(commands: Commands) -> None:
    """Add the command `run`."""
    command = commands.add_parser(
        "run",
        help="execute notebooks headless, in the order given",
        epilog=_ENDS,
        formatter_class=_RAW,
    )
    command.add_argument(
        "notebooks", nargs="+", help="the first that does not complete is the last"
    )
    command.add_argument(
        "--out",
        default="runs/notebooks",
        help="where the executed copies go, with HTML, log and status of each (%(default)s)",
    )
    command.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="of every notebook given; a Python literal, or a value of YAML 1.2, or text",
    )
    command.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="SETTINGS.yaml",
        help="a map of parameters; of several files the last wins, and -p over all of them",
    )
    command.add_argument(
        "--timeout", type=_at_least(0), default=0, help="seconds for one cell; default: no limit"
    )
    _add_kernel(command)
    _add_processes(command)


def _add_kernel(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kernel",
        default="",
        metavar="NAME",
        help="an installed kernel (jupyter kernelspec list); default: the Python that runs this, "
        "whatever kernel a notebook names",
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    launch = command.add_argument_group(
        "processes",
        "Also by the environment: VIDBENCH_NPROC and so on. Several nodes exchange data "
        "unencrypted: the network between them must be trusted. To join, each needs the same "
        "secret in VIDBENCH_SECRET.",
    )
    launch.add_argument(
        "--nproc", type=int, help="of a node that train together; default: one for each GPU"
    )
    launch.add_argument(
        "--nnodes",
        type=int,
        help="machines, on each of which the same command is given; default: 1",
    )
    launch.add_argument("--endpoint", help="host:port of one of them, where they meet")
    launch.add_argument(
        "--trusted-network",
        action="store_const",
        const=1,
        help="allow a public endpoint: only trusted users reach it",
    )
    launch.add_argument(
        "--node", help="this machine's name, part of the names of its copies; default: the host's"
    )
    launch.add_argument(
        "--restarts", type=int, help="of all processes after one failed; default: none"
    )
    launch.add_argument(
        "--hang-timeout", type=int, help="seconds that they wait for one that hangs; default: 600"
    )


def add_batch(commands: Commands) -> None:
    """Add the command `batch`."""
    command = commands.add_parser(
        "batch",
        help="execute a table of notebooks: settings times seeds",
        epilog=_ENDS,
        formatter_class=_RAW,
    )
    command.add_argument(
        "table",
        help="a .yaml of notebook, parameters, grid, compose (as headless.table.read_table), or"
        " a .csv with a column notebook",
    )
    command.add_argument(
        "--out",
        default="",
        help="where each row gets a folder; default: runs/ and the table's name",
    )
    command.add_argument(
        "--processes", type=_at_least(1), default=1, help="rows at a time (%(default)s)"
    )
    command.add_argument(
        "--row", type=int, default=None, help="only the row of this number, from 0: for job arrays"
    )
    command.add_argument(
        "--list", action="store_true", help="show the rows, their numbers and states, and stop"
    )
    command.add_argument(
        "--timeout", type=_at_least(0), default=0, help="seconds for one cell; default: no limit"
    )
    _add_kernel(command)
