"""The command line: a door, no logic. `vidbench train | embed | search | predict | export | compare | runs`,
`scan | store | flow | demo | replicate-coclr, -rms, -multitrain | run | batch`."""

import argparse
import os
import sys
import warnings
from typing import Any, TypeAlias

_ENDS = (
    "Exit codes: 0 no video failed (scan: some can be used); 1 some videos failed, the rest is done;"
    " 2 no video could be done, or the command is wrong and nothing was started; 130 stopped by"
    " Ctrl-C or SIGTERM."
)
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class _Version(argparse.Action):
    """`--version`, which looks for the commit only if it is wanted."""

    def __init__(self, option_strings: list[str], dest: str, help: str = "") -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from vidbench.system.version import version

        print(version())
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and hand over. Exit codes: 0, 2 for what the caller can mend, 130 for
    Ctrl-C."""
    from vidbench.api.commands import VERBS
    from vidbench.api.runs import runs
    from vidbench.experiments import commands as experiments
    from vidbench.system import trusted
    from vidbench.system.door import at_the_door, refuse_file
    from vidbench.system.signals import interrupt_on_term

    given = _parser().parse_args(arguments)
    out = getattr(given, "out", None)
    if out and given.command not in ("embed", "board"):  # theirs is a file
        at_the_door(refuse_file, out, "OUT" if given.command == "export" else "--out")
    at_the_door(trusted.trust, *getattr(given, "imports", ()))
    warnings.formatwarning = lambda message, *_, **__: f"vidbench: {message}\n"  # no source line
    came = interrupt_on_term()  # a scheduler's stop is a person's: save, then end
    commands = {
        **dict.fromkeys(VERBS, _verb),
        **experiments.COMMANDS,
        "runs": runs,
        "run": _run,
        "batch": _batch,
        "scan": _scan,
        "store": _store,
        "flow": _flow,
    }
    try:
        return commands[given.command](given)
    except (KeyboardInterrupt, ImportError, SystemError) as error:
        if not (came or isinstance(error, KeyboardInterrupt)):
            raise
        # Into the import of a compiled module a signal falls as ImportError or SystemError.
        print("interrupted; run the same again to resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from vidbench.api.commands import add_verbs
    from vidbench.api.runs import add_runs
    from vidbench.experiments.commands import add_all
    from vidbench.headless.commands import add_batch, add_run

    parser = argparse.ArgumentParser(
        prog="vidbench", description="A workbench for video representation learning."
    )
    parser.add_argument(
        "--version",
        action=_Version,
        help="print the version and the commit, and whether it is dirty",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (add_verbs, add_runs, _add_scan, _add_store, _add_flow, add_all, add_run, add_batch):
        add(commands)
    _add_import(commands)
    return parser


def _add_import(commands: Commands) -> None:
    """Let commands that read or train runs import modules of your own."""
    for name, command in commands.choices.items():
        inner = [one for one in command._actions if isinstance(one, argparse._SubParsersAction)]
        for one in inner:
            _add_import(one)
        if not inner and name not in ("scan", "store", "flow"):
            command.add_argument(
                "--import",
                dest="imports",
                action="append",
                default=[],
                metavar="MODULE",
                help="a module with your own network or method (assets/docs/extending.md)",
            )


def _add_scan(commands: Commands) -> None:
    command = commands.add_parser(
        "scan",
        help="decode every video of a data set once: what can be used, what is bad",
        epilog=_ENDS,
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


def _add_store(commands: Commands) -> None:
    command = commands.add_parser(
        "store",
        help="every frame at training size, in a form that reads fast at random",
        epilog=_ENDS,
    )
    _common(command, "store-FORMAT")
    command.add_argument("--format", default="mp4", help="mp4, jpeg or raw (%(default)s)")
    command.add_argument(
        "--size", type=int, default=128, help="short side in pixels, 2 to 8192 (%(default)s)"
    )
    command.add_argument("--crf", type=int, default=18, help="quality of format mp4 (%(default)s)")
    _decoder(command)


def _add_flow(commands: Commands) -> None:
    command = commands.add_parser(
        "flow", help="optical flow of every video, stored in 8 bits", epilog=_ENDS
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
    command.add_argument(
        "--shard",
        default="0/1",
        help="K/N: every N-th video from the K-th, for N machines (%(default)s)",
    )


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
    command.add_argument(
        "--dataset", default="", help="its name (see data.sets.catalogue); default: recognized"
    )
    command.add_argument(
        "-o",
        "--option",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="of the data set, such as: -o fold 2, -o lists FOLDER",
    )
    command.add_argument("--out", default="", help=f"default: runs/DATA/{place}")
    command.add_argument("--workers", type=int, default=cores(), help="processes (%(default)s)")
    command.add_argument(
        "--timeout", type=float, default=0.0, help="seconds for one video; 0: the command's own"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="estimate time and disk from a few frames of a few videos, within 15 s; write nothing",
    )


def _verb(given: argparse.Namespace) -> int:
    """A command of the front door, with the values of its options read."""
    from vidbench.api.commands import VERBS
    from vidbench.system.door import at_the_door

    for kind in ("change", "option"):
        if hasattr(given, kind):
            setattr(given, kind, at_the_door(_options, getattr(given, kind), kind))
    return VERBS[given.command](given)


def _scan(given: argparse.Namespace) -> int:
    from vidbench.data.prepare import scan
    from vidbench.system.door import at_the_door

    out, manifest, common = _opened(given, "scan", scan.TIMEOUT)
    check_with = None if given.check_with == "none" else given.check_with
    if given.dry_run:
        cost = at_the_door(scan.cost, manifest, out, check_with=check_with, workers=given.workers)
        return _estimated({"scan": cost})
    found = at_the_door(scan.scan, manifest, out, check_with=check_with, keep=given.keep, **common)
    print(f"{found.report()}\n-> {out}/manifest.csv ({len(found.manifest)} videos), scan.csv (all)")
    return 0 if len(found.manifest) else 2


def _store(given: argparse.Namespace) -> int:
    from vidbench.data.prepare import jobs, store
    from vidbench.system.door import at_the_door

    out, manifest, common = _opened(given, f"store-{given.format}", jobs.TIMEOUT)
    settings = {"size": given.size, "crf": given.crf, "decoder": given.decoder}
    if given.dry_run:
        settings["workers"] = given.workers
        cost = at_the_door(store.cost, manifest, out, given.format, **settings)
        return _estimated({f"store {given.format}": cost})
    made = at_the_door(store.store, manifest, out, given.format, **settings, **common)
    size, done = jobs.size(made.bytes), f"{made.done} stored, {made.skipped} were there"
    print(f"{done}, {len(made.failed)} failed{_again(made)}; {size} -> {out}")
    return _ended(made)


def _flow(given: argparse.Namespace) -> int:
    from vidbench.data.flow import store as flow_store
    from vidbench.data.flow.cost import costs
    from vidbench.data.flow.estimate import METHODS
    from vidbench.system.door import at_the_door

    shard = at_the_door(_shard, given.shard)
    at_the_door(_one_method, given)
    out, manifest, common = _opened(given, "flow", flow_store.TIMEOUT)
    settings = {name: getattr(given, name) for name in ("format", "size", "bound", "decoder")}
    settings |= {"device": given.device, "shard": shard}
    if given.dry_run:
        methods = METHODS if given.method == "all" else (given.method,)
        settings["workers"] = given.workers
        found = at_the_door(costs, manifest, out, methods, **settings)
        return _estimated({f"flow {method}": cost for method, cost in found.items()})
    made = at_the_door(flow_store.extract, manifest, out, given.method, **settings, **common)
    done = f"{made.done} videos ({made.pairs} pairs) done, {made.skipped} were there"
    print(f"{done}, {len(made.failed)} failed{_again(made)} -> {out}")
    return _ended(made)


def _estimated(costs: dict[str, Any]) -> int:
    """Print a line for each estimate; the exit code: 2 if none could be made."""
    for what, cost in costs.items():
        print(f"{what}: {cost}")
    return 0 if any(cost.videos or not cost.jobs for cost in costs.values()) else 2


def _opened(
    given: argparse.Namespace, place: str, timeout: float
) -> tuple[str, Any, dict[str, Any]]:
    """Where to write, the data set, and the arguments that all commands take."""
    from vidbench.data.sets import catalogue
    from vidbench.system.door import at_the_door

    options: dict[str, Any] = {"missing": "keep"} if given.command == "scan" else {}
    options |= at_the_door(_options, given.option)
    name = given.dataset or at_the_door(catalogue.detect_dataset, given.data)
    manifest = at_the_door(catalogue.open_dataset, name, given.data, **options)
    print(
        f"{name}: {manifest.words} below {manifest.root}",
        flush=True,
    )
    common = {
        "workers": given.workers,
        "timeout": given.timeout if given.timeout != 0 else timeout,
    }
    dataset_dir = catalogue.name_of(given.data, options.get("fold", 1))
    out = given.out or os.path.join("runs", dataset_dir, place)
    at_the_door(_keep_input, given.data, out, given.command)
    return out, manifest, common


def _keep_input(data: str, out: str, command: str) -> None:
    """Refuse to replace the manifest that the command reads."""
    from vidbench.system.errors import InputError

    csv = os.path.join(data, "manifest.csv") if os.path.isdir(data) else data
    other = os.path.join(out, "manifest.csv")
    if (
        command != "flow"
        and all(map(os.path.isfile, (csv, other)))
        and os.path.samefile(csv, other)
    ):
        raise InputError(f"{other} is the data set's own manifest: use another --out")


def _options(texts: list[tuple[str, str]], kind: str = "option") -> dict[str, Any]:
    from vidbench.data.sets.catalogue import is_text
    from vidbench.headless.values import once, value_of

    return {
        name: text if kind == "option" and is_text(name) else value_of(text)
        for name, text in once(texts, kind).items()
    }


def _one_method(given: argparse.Namespace) -> None:
    from vidbench.system.errors import InputError

    if given.method == "all" and not given.dry_run:
        raise InputError("--method all needs --dry-run: a folder has the flow of one method")


def _shard(text: str) -> tuple[int, int]:
    from vidbench.system.errors import InputError

    numbers = text.split("/")
    shard = tuple(int(number) for number in numbers if number.isdecimal())
    if len(numbers) != 2 or len(shard) != 2 or shard[0] >= shard[1]:
        raise InputError(
            "--shard must be K/N, the K-th of N shards, with K from 0 to N - 1, such as 0/4; got "
            f"{text!r}"
        )
    return shard[0], shard[1]


def _again(made: Any) -> str:
    return f", {made.remade} made again: the source or a setting changed" if made.remade else ""


def _ended(made: Any) -> int:
    """Name what failed; the exit code: 1 if any video failed, 2 if none could be done."""
    failed = made.failed
    for path, reason in failed[:20]:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    if len(failed) > 20:
        print(f"... and {len(failed) - 20} more", file=sys.stderr)
    return (1 if made.done or made.skipped else 2) if failed else 0


def _run(given: argparse.Namespace) -> int:
    from vidbench.headless.execute import execute_all
    from vidbench.headless.kernels import named
    from vidbench.headless.parameters import plan
    from vidbench.headless.status import copy_name, refuse_others
    from vidbench.system.door import at_the_door, make_folder
    from vidbench.system.extras import check_installed

    at_the_door(check_installed, "papermill", "lab")

    for name in (
        "nproc",
        "nnodes",
        "endpoint",
        "trusted_network",
        "node",
        "restarts",
        "hang_timeout",
    ):
        if getattr(given, name) is not None:
            os.environ[f"VIDBENCH_{name.upper()}"] = str(getattr(given, name))
    words = (given.notebooks, given.out, given.file, given.parameter, given.kernel)
    planned = at_the_door(plan, *words)
    at_the_door(refuse_others, given.out, [copy_name(notebook) for notebook, _ in planned])
    at_the_door(make_folder, given.out)
    return execute_all(planned, given.out, given.timeout, named(given.kernel))


def _batch(given: argparse.Namespace) -> int:
    from vidbench.headless.batch import row_of, run_row, run_rows, summarize
    from vidbench.headless.table import check_rows, read_table
    from vidbench.system.door import at_the_door, make_folder
    from vidbench.system.extras import check_installed

    at_the_door(check_installed, "papermill", "lab")

    out = given.out or os.path.join("runs", os.path.splitext(os.path.basename(given.table))[0])
    rows = at_the_door(read_table, given.table, out, given.kernel)
    if given.row is not None:
        row = at_the_door(row_of, rows, given.row)
        return at_the_door(run_row, row, given.timeout, given.kernel)
    if given.list:
        print(summarize(rows, out))
        return 0 if all(row.status()["state"] == "complete" for row in rows) else 1
    at_the_door(check_rows, rows)
    at_the_door(make_folder, out)
    return run_rows(rows, out, given.processes, given.timeout, given.kernel)


if __name__ == "__main__":
    sys.exit(main())
