"""The verbs as commands: every example in a help can be typed, and what a newcomer does works."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vidbench.__main__ import _parser

PARSER = _parser()


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """The commands in the examples of a help."""
    lines = (parser.epilog or "").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("vidbench ")]


EXAMPLES = [(one.prog, line) for one in parsers(PARSER) for line in examples(one)]


@pytest.mark.parametrize("prog, line", EXAMPLES)
def test_every_example_of_a_help_can_be_parsed(prog, line):
    assert line.startswith(prog)
    given = PARSER.parse_args(shlex.split(line)[1:])
    assert given.command == prog.split()[1]


def test_each_verb_has_a_description_an_example_and_json():
    verbs = ["vidbench train"]
    wanted = [*verbs, *(f"vidbench runs {name}" for name in ("ls", "show", "diff", "rm"))]
    found = {one.prog: one for one in parsers(PARSER)}
    for name in wanted:
        assert found[name].description and examples(found[name]), name
        assert "--json" in found[name]._option_string_actions, name


def test_help_imports_no_torch():
    program = (
        "import sys; from vidbench.__main__ import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL).returncode == 0
    )
