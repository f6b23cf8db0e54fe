"""The commands `vidbench scan`, `store` and `flow`: options and exit codes."""

import argparse

from vidbench.system.usage import Commands, add_command

_ENDS = {
    0: "no video failed (scan: some can be used)",
    1: "some videos failed; the rest is done",
    2: "no video could be done, or the command is wrong and nothing was started",
    130: "stopped by Ctrl-C or SIGTERM",
}


def add_scan(commands: Commands) -> None:
    """Add the command `scan`."""
    command = add_command(
        commands,
        "scan",
        "decode every video of a data set once: what can be used, what is bad",
        "vidbench scan ~/UCF101",
        "It writes a manifest of what can be used. The same command resumes.",
        _ENDS,
    )
    _common(command, "scan")
    command.add_argument(
        "--keep", nargs="*", default=[], help="bad videos to leave in: 'cut short', 'too short'"
    )
    command.add_argument(
        "--check-with",
        default="auto",
        help="decoder to check against: decord, torchcodec, none, or auto (default): the first that "
        "loads",
    )


def add_store(commands: Commands) -> None:
    """Add the command `store`."""
    command = add_command(
        commands,
        "store",
        "store every frame at training size, in a form that reads fast at random",
        "vidbench store runs/UCF101/scan --format jpeg",
        "The same command resumes.",
        _ENDS,
    )
    _common(command, "store-FORMAT")
    command.add_argument("--format", default="mp4", help="mp4, jpeg or raw (%(default)s)")
    command.add_argument(
        "--size", type=int, default=128, help="short side in pixels, 2 to 8192 (%(default)s)"
    )
    command.add_argument("--crf", type=int, default=18, help="quality of format mp4 (%(default)s)")
    _decoder(command)


def add_flow(commands: Commands) -> None:
    """Add the command `flow`."""
    command = add_command(
        commands,
        "flow",
        "compute optical flow of every video, stored in 8 bits",
        "vidbench flow runs/UCF101/store-jpeg --method tvl1_fast",
        "The same command resumes.",
        _ENDS,
    )
    _common(command, "flow")
    command.add_argument(
        "--method",
        default="tvl1",
        help="tvl1, tvl1_fast, tvl1_torch or dis (%(default)s); with --dry-run also all",
    )
    command.add_argument(
        "--format", default="npz", help="npz, exact, or mp4, a quarter of that (%(default)s)"
    )
    command.add_argument(
        "--size",
        type=int,
        default=None,
        help="short side in pixels, 2 to 8192; default: as the video is",
    )
    command.add_argument(
        "--bound",
        type=float,
        default=20.0,
        help="pixels at which flow is clipped, 0.1 to 1000 (%(default)s)",
    )
    command.add_argument("--device", default=None, help="for tvl1_torch, such as cuda:0")
    _decoder(command)


def _decoder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--decoder", default="pyav", help="pyav, decord or torchcodec (%(default)s)"
    )


def _common(command: argparse.ArgumentParser, place: str) -> None:
    """What the commands over a whole data set share; the same call resumes."""
    from vidbench.system.processes import cores

    command.add_argument(
        "data", help="a data set's folder, a manifest csv, or what scan or store left"
    )
    data_set = command.add_argument_group("data set")
    data_set.add_argument(
        "--dataset", default="", help="its name (see data.sets.catalogue); default: recognized"
    )
    data_set.add_argument(
        "-o",
        "--option",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="of the data set, such as: -o fold 2, -o lists FOLDER",
    )
    where = command.add_argument_group("folder and processes")
    where.add_argument("--out", default="", help=f"default: runs/DATA/{place}")
    where.add_argument(
        "--shard",
        default="0/1",
        help="K/N: every N-th video from the K-th, for N machines on one folder (%(default)s)",
    )
    where.add_argument("--workers", type=int, default=cores(), help="processes (%(default)s)")
    where.add_argument(
        "--timeout", type=float, default=0.0, help="seconds for one video; 0: the command's own"
    )
    where.add_argument(
        "--dry-run",
        action="store_true",
        help="estimate time and disk from a few frames of a few videos, within 15 s; write nothing",
    )
