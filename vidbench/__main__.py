"""The command line: a door, no logic. `vidbench train | embed | search | predict | export | compare | runs`,
`scan | store | flow | demo | replicate-coclr, -rms, -multitrain | run | batch`."""

import argparse
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidbench.system.usage import Commands

_GROUPS = {
    "your videos": ("train", "embed", "search", "predict", "export"),
    "runs": ("runs", "compare", "board"),
    "notebooks": ("lab", "notebooks", "run", "batch", "slurm"),
    "data sets": ("scan", "store", "flow"),
    "experiments": ("demo", "replicate-coclr", "replicate-rms", "replicate-multitrain"),
    "this machine": ("doctor",),
}


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
    if track := getattr(given, "track", "") or os.environ.get("VIDBENCH_TRACK"):
        from vidbench.engine import trackers

        at_the_door(trackers.check, track)
        os.environ["VIDBENCH_TRACK"] = track
    if os.environ.get("WORLD_SIZE") and given.command != "train":
        from vidbench.engine import outside

        at_the_door(outside.refuse, f"vidbench {given.command}")
    warnings.formatwarning = lambda message, *_, **__: f"vidbench: {message}\n"  # no source line
    came = interrupt_on_term()  # a scheduler's stop is a person's: save, then end
    commands = {
        **dict.fromkeys(VERBS, _verb),
        **experiments.COMMANDS,
        "runs": runs,
        "run": _run,
        "batch": _batch,
        "slurm": _slurm,
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
    from vidbench.data.prepare.commands import add_flow, add_scan, add_store
    from vidbench.experiments.commands import add_all
    from vidbench.headless.commands import add_batch, add_run, add_slurm
    from vidbench.system.usage import closing, grouped

    parser = argparse.ArgumentParser(
        prog="vidbench",
        usage="vidbench COMMAND ...",
        epilog=closing("vidbench train ~/clips\nvidbench lab"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action=_Version,
        help="print the version and the commit, and whether it is dirty",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="vidbench", required=True, help=argparse.SUPPRESS
    )
    data = (add_scan, add_store, add_flow)
    for add in (add_verbs, add_runs, *data, add_all, add_run, add_batch, add_slurm):
        add(commands)
    _add_import(commands)
    parser.description = (
        "A workbench for video representation learning. `vidbench COMMAND --help` describes each "
        f"command.\n\n{grouped(commands, _GROUPS)}"
    )
    return parser


def _add_import(commands: "Commands") -> None:
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


def _verb(given: argparse.Namespace) -> int:
    """A command of the front door, with the values of its options read."""
    from vidbench.api.commands import VERBS
    from vidbench.system.door import at_the_door

    for kind in ("change", "option"):
        if hasattr(given, kind):
            setattr(given, kind, at_the_door(_options, getattr(given, kind), kind))
    return VERBS[given.command](given)


def _scan(given: argparse.Namespace) -> int:
    from vidbench.data.prepare import scan, shards
    from vidbench.system.door import at_the_door

    out, manifest, common, shard = _opened(given, "scan", scan.TIMEOUT)
    how = {"check_with": None if given.check_with == "none" else given.check_with, "shard": shard}
    if given.dry_run:
        cost = at_the_door(scan.cost, manifest, out, workers=given.workers, **how)
        return _estimated({"scan": cost})
    found = at_the_door(scan.scan, manifest, out, keep=given.keep, **how, **common)
    if found.missing:
        print(f"{found.report()}\n{shards.words(found.missing, shard)}")
        return 0
    print(f"{found.report()}\n-> {out}/manifest.csv ({len(found.manifest)} videos), scan.csv (all)")
    return 0 if len(found.manifest) else 2


def _store(given: argparse.Namespace) -> int:
    from vidbench.data.prepare import jobs, shards, store
    from vidbench.system.door import at_the_door

    out, manifest, common, shard = _opened(given, f"store-{given.format}", jobs.TIMEOUT)
    settings = {name: getattr(given, name) for name in ("size", "crf", "decoder")}
    settings["shard"] = shard
    if given.dry_run:
        settings["workers"] = given.workers
        cost = at_the_door(store.cost, manifest, out, given.format, **settings)
        return _estimated({f"store {given.format}": cost})
    made = at_the_door(store.store, manifest, out, given.format, **settings, **common)
    size, done = jobs.size(made.bytes), f"{made.done} stored, {made.skipped} were there"
    if made.missing:
        size = shards.words(made.missing, shard)
    print(f"{done}, {len(made.failed)} failed{_again(made)}; {size} -> {out}")
    return _ended(made)


def _flow(given: argparse.Namespace) -> int:
    from vidbench.data.flow import store as flow_store
    from vidbench.data.flow.cost import costs
    from vidbench.data.flow.estimate import METHODS
    from vidbench.system.door import at_the_door

    at_the_door(_one_method, given)
    out, manifest, common, shard = _opened(given, "flow", flow_store.TIMEOUT)
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
) -> tuple[str, Any, dict[str, Any], Any]:
    """Where to write, the data set, the arguments that all commands take, and the shard."""
    from vidbench.data.prepare import shards
    from vidbench.data.sets import catalogue
    from vidbench.system.door import at_the_door

    shard = at_the_door(shards.parse, given.shard)
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
    return out, manifest, common, shard


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
    from vidbench.headless.status import BATCH, copy_name, refuse_others
    from vidbench.system.door import at_the_door, make_folder
    from vidbench.system.extras import check_installed
    from vidbench.system.signals import end_with

    at_the_door(check_installed, "papermill", "lab")

    for name in (
        "nproc",
        "nnodes",
        "endpoint",
        "trusted_network",
        "node",
        "train_only",
        "restarts",
        "hang_timeout",
    ):
        if getattr(given, name) is not None:
            os.environ[f"VIDBENCH_{name.upper()}"] = str(getattr(given, name))
    if os.environ.get(BATCH):
        end_with(0)
    words = (given.notebooks, given.out, given.file, given.parameter, given.kernel)
    planned = at_the_door(plan, *words)
    at_the_door(refuse_others, given.out, [copy_name(notebook) for notebook, _ in planned])
    at_the_door(make_folder, given.out)
    return execute_all(planned, given.out, given.timeout, named(given.kernel))


def _batch(given: argparse.Namespace) -> int:
    from vidbench.headless.batch import order_of, run_row, run_rows
    from vidbench.headless.states import states, summarize
    from vidbench.headless.table import check_rows, read_table
    from vidbench.system.door import at_the_door, make_folder
    from vidbench.system.extras import check_installed

    at_the_door(check_installed, "papermill", "lab")

    out = given.out or os.path.join("runs", os.path.splitext(os.path.basename(given.table))[0])
    rows = at_the_door(read_table, given.table, out, given.kernel, given.parameter)
    if given.row is not None:
        return at_the_door(run_row, rows, given.row, given.timeout, given.kernel)
    if given.order:
        print(order_of(rows))
        return 0
    if given.list:
        print(summarize(rows, out))
        return 0 if all(found["state"] == "complete" for found in states(rows)) else 1
    at_the_door(check_rows, rows)
    at_the_door(make_folder, out)
    return run_rows(rows, out, given.processes, given.timeout, given.kernel)


def _slurm(given: argparse.Namespace) -> int:
    from vidbench.headless.slurm import print_script
    from vidbench.system.door import at_the_door

    at_the_door(print_script, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
