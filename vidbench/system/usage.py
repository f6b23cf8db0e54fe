"""The help of a command: a sentence, an example, a table of exit codes; the same form for all."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
ENDS = {
    0: "done",
    2: "nothing was done: the command is wrong, or an input cannot be used",
    130: "stopped by Ctrl-C or SIGTERM",
}


def add_command(
    commands: Commands,
    name: str,
    what: str,
    example: str,
    more: str = "",
    ends: Mapping[int, str] | str = ENDS,
) -> argparse.ArgumentParser:
    """Add a command whose help has a description, an example and the exit codes.

    Args:
        what: One line, which the list of commands shows, too.
        example: One or several commands, a line each.
        more: A paragraph of the description.
        ends: What each exit code means, or a table of it.
    """
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[:1].upper()}{what[1:]}.{more and f' {more}'}",
        epilog=closing(example, ends),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def grouped(commands: Commands, groups: Mapping[str, Sequence[str]]) -> str:
    """List the commands by group, each with the line that its own help begins with.

    Args:
        groups: Heading -> names of commands.

    Raises:
        ValueError: a command is in no group.
    """
    about = {one.dest: one.help or "" for one in commands._get_subactions()}
    if missing := about.keys() - {name for names in groups.values() for name in names}:
        raise ValueError(f"each command needs a group; none has {', '.join(sorted(missing))}")
    width, lines = max(map(len, about)), list[str]()
    for heading, names in groups.items():
        lines += ["", f"{heading}:", *(f"  {name:<{width}}  {about[name]}" for name in names)]
    return "\n".join(lines[1:])


def closing(example: str, ends: Mapping[int, str] | str = ENDS) -> str:
    """Return the end of a help text: examples and exit codes.

    Args:
        example: Lines.
        ends: What each exit code means, or a table of it.
    """
    lines = "".join(f"\n  {line.strip()}" for line in example.strip().splitlines())
    if not isinstance(ends, str):
        rows = "".join(f"\n{code:<9}  {meaning}" for code, meaning in ends.items())
        ends = f"exit code  meaning\n---------  -------{rows}"
    return f"example:{lines}\n\n{ends}\n"
