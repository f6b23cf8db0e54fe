"""What the commands of the front door read from a command line: runs, videos, files, options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidbench.api.trained import Trained

PAGE = "<title>Nearest videos</title>"  # how the page of a search begins


def add_pairs(command: argparse._ActionsContainer, short: str, long: str, what: str) -> None:
    """Add an option that takes a name and a value, and may be given many times.

    Args:
        short, long: The option, such as -c and --change.
        what: Its help.
    """
    command.add_argument(
        short, long, nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=what
    )


def add_stream(command: argparse._ActionsContainer) -> None:
    """Add the option --stream."""
    command.add_argument("--stream", default="", help="rgb or flow; default: rgb, if there is one")


def add_protocol(command: argparse.ArgumentParser) -> None:
    """Add the options --protocol and --data."""
    command.add_argument(
        "--protocol", default="vidbench", help="how clips become a vector (%(default)s)"
    )
    add_data(command)


def add_data(command: argparse.ArgumentParser) -> None:
    """Add the option --data."""
    command.add_argument(
        "--data", default="", help="of a run on several data sets, which one is meant"
    )


def is_run(word: str) -> bool:
    """Return whether a word names a run directory or a folder of runs."""
    place = Path(word).expanduser()
    return (place / "recipe.json").is_file() or any(place.glob("*/recipe.json"))


def loaded(folder: str, stream: str) -> Trained:
    """Load the run of a command line, of the requested stream.

    Args:
        stream: rgb, flow, or empty for the one that `load` chooses.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no run of the folder has this stream.
    """
    from vidbench.api.trained import load

    if not Path(folder).expanduser().exists():
        raise FileNotFoundError(f"no such run: {folder}. `vidbench runs ls FOLDER` lists runs.")
    trained = load(folder)
    if not stream:
        return trained
    if stream not in trained.streams:
        raise ValueError(
            f"stream must be one of {', '.join(trained.streams)} in {folder}; got {stream!r}."
        )
    return trained.streams[stream]


def at_least(least: int) -> Callable[[str], int]:
    """Make the type of a whole number in a command line; below `least` it is refused."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more; got {text}")
        return int(text)

    return whole


def source(words: Sequence[str]) -> Any:
    """Return what the front door opens: a single folder, csv or file, several files, or None.

    Raises:
        ValueError: a folder is one of several words.
    """
    folders = [word for word in words if Path(word).expanduser().is_dir()]
    if folders and len(words) > 1:
        raise ValueError(
            f"several videos must be files; got the folder {folders[0]}. Name one folder alone, or "
            "write a csv with a column path."
        )
    return list(words) if len(words) > 1 else words[0] if words else None


def check_page(path: str, mark: str = PAGE, what: str = "page of a search") -> None:
    """Refuse to replace a file that is no page of this command.

    Args:
        mark: Text in the head of such a page.
        what: The page's name, for the message.

    Raises:
        ValueError: the file is another page, or its folder does not exist.
    """
    file = Path(path).expanduser()
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ValueError(f"--html must be a file in a folder that exists; got {path}.")
    if file.exists() and mark.encode() not in file.read_bytes()[:1000]:
        raise ValueError(f"{path} exists, and is no {what}: move it away, or use another name.")


def check_table(path: str) -> None:
    """Refuse a table's name before the work, not after it.

    Raises:
        ValueError: the ending is of no known format.
    """
    from vidbench.evaluate.exchange import SUFFIXES

    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"--out must end in one of {', '.join(SUFFIXES)}; got {path}.")


def near(path: str | Path) -> str:
    """Write a path as a person types it: relative, if it is below the current folder."""
    place = Path(path)
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else str(place)
