"""The command `vidbench train`: options over the front door."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidbench.api.runs import Commands, add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import aligned, as_json, notes_to_stderr, show

VIDEOS = "a folder, a csv with a column `path`, or video files; labels are optional"

SETTINGS = ("preset", "epochs", "network", "seed", "flow", "nproc", "processes")  # of vb.train


def add_verbs(commands: Commands) -> None:
    """Add the command `train`."""
    _add_train(commands)


def _add_train(commands: Commands) -> None:
    one = add_command(
        commands,
        "train",
        "train all stages of a method on videos; the same command resumes",
        """vidbench train ~/clips
        vidbench train ~/clips --method infonce --epochs 40 -c lr 1e-3 --out runs
        vidbench train ~/clips --network mypackage.mine:Net -c network_args '{"width": 64}' --nproc 2
        vidbench train small-base small-gym --method multitrain""",
        "Labels never enter the training of coclr and infonce.",
    )
    one.add_argument("videos", nargs="+", metavar="VIDEOS", help=f"{VIDEOS}; or a toy world: tiny")
    one.add_argument(
        "--method",
        default="coclr",
        help="infonce, ubernce, coclr, classify, multitrain, or the name of your module "
        "(%(default)s)",
    )
    one.add_argument(
        "--preset", default="toy", help="of the method: tiny, toy, ucf101_paper, ... (%(default)s)"
    )
    one.add_argument("--epochs", type=at_least(0), default=0, help="default: the preset's")
    one.add_argument("--network", default="", help="its name, or yours: mypackage.mine:Net")
    _add_pairs(one, "-c", "--change", "a field of the recipe, such as: -c clip.frames 16")
    one.add_argument("--seed", type=int, default=0, help="of weights, batches and views")
    _add_places(one)


def _add_places(one: argparse.ArgumentParser) -> None:
    """Where `train` reads and writes, and on how many processes it runs."""
    _add_pairs(one, "-o", "--option", "of the data set's reader, such as: -o fold 2")
    one.add_argument(
        "--out", default="runs", help="folder of video lists, flow and runs (%(default)s)"
    )
    one.add_argument("--name", default="", help="of the videos' folder below it")
    one.add_argument("--flow", default="", help="dis, tvl1, tvl1_torch, ...; default: by preset")
    one.add_argument(
        "--nproc", type=at_least(0), default=0, help="ranks of each stage; 0: one for each GPU"
    )
    one.add_argument(
        "--processes",
        type=at_least(0),
        default=2,
        help="stages side by side on a CPU; 0: all in this process (%(default)s)",
    )


def _add_pairs(command: argparse.ArgumentParser, short: str, long: str, what: str) -> None:
    """Add an option that takes a name and a value, and may be given many times."""
    command.add_argument(
        short, long, nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=what
    )


def train(given: argparse.Namespace) -> int:
    """Train, and print the runs that are the result."""
    from vidbench.api.training import train as train_all

    with notes_to_stderr():
        at_the_door(_check_names, given)
        settings = {name: getattr(given, name) for name in SETTINGS} | given.change
        done = at_the_door(lambda: train_all(_opened(given), given.method, **settings))
        runs = [one.run for one in done.streams.values()]
        made = [
            {
                "stream": run.recipe.stream,
                "folder": str(run.folder),
                "state": run.state,
                "budget": run.budget(),
            }
            for run in runs
        ]
    folder = done.run.folder.parent
    if given.json:
        show(as_json({"folder": str(folder), "run": str(done.run.folder), "runs": made}))
        return 0
    lines = [(run.recipe.stream, run.state, near(run.folder)) for run in runs]
    show(aligned([("stream", "state", "run"), *lines]))
    return 0


def _check_names(given: argparse.Namespace) -> None:
    """Refuse a pair that another option sets."""
    fixed = {*SETTINGS, "method", "out", "name"} - {"epochs", "network"}
    for name in fixed & {*given.change, *given.option}:
        raise ValueError(f"{name!r} is set by another option. Use --{name}.")


def _opened(given: argparse.Namespace) -> Any:
    """The videos of a command line: one source, several files, or several data sets."""
    from vidbench.api.videos import videos

    options: dict[str, Any] = {"name": given.name, "out": given.out, **given.option}
    words = given.videos
    if len(words) == 1:
        return videos(words[0], **options)
    if all(Path(word).expanduser().is_file() for word in words):
        return videos(words, **options)
    if given.name:
        raise ValueError(f"--name is for one data set; got {len(words)} of them. Leave it out.")
    return [videos(word, **options) for word in words]


def at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number in a command line."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more; got {text}")
        return int(text)

    return whole


def near(path: str | Path) -> str:
    """A path as a person types it: relative, if it is below the current folder."""
    place = Path(path)
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else str(place)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
}
