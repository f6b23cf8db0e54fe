"""`vidbench demo | run`: a door, no logic."""

import argparse
import ast
import logging
import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and hand over. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="vidbench", description="A workbench for video representation learning.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="videos to an HTML report: flow, InfoNCE, CoCLR, retrieval, gallery")
    demo.add_argument("--out", default="runs/demo", help="where everything goes (%(default)s); the same call resumes")
    demo.add_argument("--data", default="", help="a folder of class folders, or with list files; default: toy videos")
    demo.add_argument("--seed", type=int, default=0)
    run = commands.add_parser("run", help="execute notebooks headless, in the order given")
    run.add_argument("notebooks", nargs="+")
    run.add_argument("--out", default="runs/notebooks", help="where the executed copies go (%(default)s)")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a person's: save, then end
    try:
        return _demo(given) if given.command == "demo" else _run(given)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def _demo(given) -> int:
    from vidbench.demo import demo, settings_for

    demo(given.out, settings_for(given.data, given.seed))
    return 0


def _run(given) -> int:
    from vidbench.headless import check, execute

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = {name: _literal(value) for name, value in given.parameter}
    for notebook in given.notebooks:
        check(notebook, values)
    for notebook in given.notebooks:
        print(f"{notebook} -> {execute(notebook, given.out, values)}", flush=True)
    return 0


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
