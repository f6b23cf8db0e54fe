"""The commands `vidbench run`, `vidbench batch` and `vidbench slurm`: options and exit codes."""

import argparse
from collections.abc import Callable

from vidbench.system.usage import Commands, add_command

_ENDS = """\
exit code  of run                              of batch (with --list, too)
---------  ----------------------------------  ------------------------------------
0          all notebooks are complete          all rows are complete
1          a notebook failed                   a row is not complete
2          nothing was done: the command is wrong, such as an unknown parameter
124        a cell reached its time limit       (1; with --row as of run)
130        stopped by Ctrl-C or SIGTERM        stopped by Ctrl-C or SIGTERM
138        the kernel died                     (1; with --row as of run)"""


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more; got {text}")
        return int(text)

    return whole


def _add_values(command: argparse.ArgumentParser, what: str) -> None:
    """Add the option -p NAME VALUE, which may be repeated; what: what it sets."""
    command.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help=f"{what}; a Python literal, or a value of YAML 1.2, or text",
    )


def add_run(commands: Commands) -> None:
    """Add the command `run`."""
    command = add_command(
        commands,
        "run",
        "execute notebooks headless, in the order given",
        """vidbench run notebooks/00_tour.ipynb
        vidbench run notebooks/10_coclr_alone.ipynb -p data runs/UCF101/store-jpeg -p stream flow""",
        "It trains on every GPU of the machine. The same command resumes what was stopped.",
        _ENDS,
    )
    command.add_argument("notebooks", nargs="+", help="run in order; stop at the first failure")
    command.add_argument(
        "--out",
        default="runs/notebooks",
        help="where the executed copies go, with HTML, log and status of each (%(default)s)",
    )
    _add_values(command, "a parameter of every notebook given")
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
    command.add_argument(
        "--track",
        metavar="NAME",
        help="training also logs to tensorboard, wandb or mlflow, separated by commas (or "
        "VIDBENCH_TRACK)",
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
        "--train-only",
        action="store_const",
        const=1,
        help="end after the last cell that trains (tag `train`): on all nodes but one, which then "
        "evaluates and draws",
    )
    launch.add_argument(
        "--restarts", type=int, help="of all processes after one failed; default: none"
    )
    launch.add_argument(
        "--hang-timeout", type=int, help="seconds that they wait for one that hangs; default: 600"
    )


def add_slurm(commands: Commands) -> None:
    """Add the command `slurm`."""
    command = add_command(
        commands,
        "slurm",
        "print a Slurm script for a table of notebook runs, or for a notebook on several nodes",
        """vidbench slurm --account lab TABLE.yaml > job.sh && sbatch job.sh
        vidbench slurm --nodes 2 --gpus 8 notebooks/10_coclr_alone.ipynb -p data /data/k400""",
    )
    command.add_argument("job", help="a table (.yaml, .csv) or a notebook (.ipynb)")
    command.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        help="after a table its output folder, after a notebook options of `vidbench run`",
    )
    command.add_argument("--nodes", type=_at_least(1), help="that train one notebook together (1)")
    command.add_argument("--gpus", type=_at_least(0), help="of each node; 0: none is requested")
    command.add_argument("--cores", type=_at_least(1), help="of each node")
    command.add_argument("--time", default="", help="limit, such as 2-00:00:00")
    command.add_argument("--account", default="", help="to which the time is charged")
    command.add_argument("--partition", default="", help="of the cluster")


def add_batch(commands: Commands) -> None:
    """Add the command `batch`."""
    command = add_command(
        commands,
        "batch",
        "execute a table of notebooks: settings times seeds",
        """vidbench batch assets/coclr.yaml --processes 2
        vidbench batch assets/coclr.yaml --list""",
        "Complete rows are skipped, others resume.",
        _ENDS,
    )
    command.add_argument(
        "table",
        help="a .yaml of notebook, parameters, grid, compose, row, needs, each (as"
        " headless.table.read_table), or a .csv with a column notebook",
    )
    _add_values(command, "replace a value of the table's settings")
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
        "--order",
        action="store_true",
        help="print for job arrays, line by line, rows that are not complete and those they need",
    )
    command.add_argument(
        "--timeout", type=_at_least(0), default=0, help="seconds for one cell; default: no limit"
    )
    _add_kernel(command)
