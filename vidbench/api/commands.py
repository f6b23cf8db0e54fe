"""The commands `vidbench train | search | predict`: options over the front door."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.api.runs import Commands, add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import aligned, as_json, notes_to_stderr, printable, show

if TYPE_CHECKING:
    from vidbench.api.answers import Found
    from vidbench.api.trained import Trained

VIDEOS = "a folder, a csv with a column `path`, or video files; labels are optional"
RUN = "run directory, or the folder of all stages that `vidbench train` printed"

PAGE = b"<title>Nearest videos</title>"
SETTINGS = ("preset", "epochs", "network", "seed", "flow", "nproc", "processes")  # of vb.train


def add_verbs(commands: Commands) -> None:
    """Add the commands of the front door."""
    for add in (_add_train, _add_search, _add_predict):
        add(commands)


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
    show(f"next: vidbench search {shlex.quote(near(folder))} QUERY.mp4")
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


def _add_search(commands: Commands) -> None:
    one = add_command(
        commands,
        "search",
        "find the videos nearest to a query; labels are not used",
        """vidbench search runs/clips/coclr-toy-seed0 new.mp4
        vidbench search runs/clips/coclr-toy-seed0 new.mp4 -k 10 --fused --html page.html
        vidbench search RUN OTHER new.mp4 --gallery /data/archive --index hnsw --json""",
        "Queries that cannot be read are left out (exit code 1).",
    )
    one.add_argument(
        "words",
        nargs="+",
        metavar="RUN [RUN ...] QUERY",
        help=f"{RUN}; the cosines of several runs are summed. Then queries: {VIDEOS}",
    )
    one.add_argument("-k", type=at_least(1), default=5, help="hits of each query (%(default)s)")
    one.add_argument(
        "--gallery", default="", help="videos to search in; default: the training videos"
    )
    one.add_argument(
        "--index", default="auto", help="auto, exact, flat, ivf_sq8 or hnsw (%(default)s)"
    )
    one.add_argument(
        "--html", default="", metavar="FILE", help="also write a page that plays clips"
    )
    streams = one.add_mutually_exclusive_group()
    _add_stream(streams)
    streams.add_argument(
        "--fused", action="store_true", help="sum the cosines of a run's both streams"
    )


def search(given: argparse.Namespace) -> int:
    """Search, and print the hits."""
    with notes_to_stderr():
        found = at_the_door(_searched, given)
    hits = found.hits
    if given.json:
        show(
            as_json(
                {
                    "runs": hits.runs,
                    "index": hits.index,
                    "gallery": len(hits.gallery),
                    "hits": found.records,
                    "failed": hits.failed,
                    "html": given.html and str(Path(given.html).expanduser().resolve()),
                }
            )
        )
    else:
        show(_hit_table(found.records))
    return 1 if hits.failed else 0


def _searched(given: argparse.Namespace) -> Found:
    from vidbench.api.trained import Trained

    folders = [word for word in given.words if _is_run(word)]
    folders = folders if given.words[: len(folders)] == folders else given.words[:1]
    queries = given.words[max(1, len(folders)) :]
    if given.html:
        _check_page(given.html)
    if not queries:
        raise ValueError("search needs a query after the run; got none. Name a video or a folder.")
    if len(folders) < 2:
        trained = _loaded(given.words[0], given.stream)
    else:
        trained = Trained({folder: _loaded(folder, given.stream).run for folder in folders})
    return trained.search(
        _source(queries),
        given.k,
        among=given.gallery or None,
        fused=given.fused or len(folders) > 1,
        index=given.index,
        html=given.html,
    )


def _is_run(word: str) -> bool:
    """Whether a word names a run directory or a folder of runs."""
    place = Path(word).expanduser()
    return (place / "recipe.json").is_file() or any(place.glob("*/recipe.json"))


def _hit_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The hits as text, a table for each query."""
    tables = []
    for query in dict.fromkeys(line["query"] for line in records):
        rows = [
            (line["rank"], f"{line['score']:.3f}", line["label"] or "-", near(line["path"]))
            for line in records
            if line["query"] == query
        ]
        table = aligned([("rank", "score", "label", "path"), *rows], right=(0, 1))
        tables.append(f"{printable(near(query))}\n{table}")
    return "\n\n".join(tables)


def _add_predict(commands: Commands) -> None:
    one = add_command(
        commands,
        "predict",
        "compute class probabilities of videos",
        """vidbench predict runs/clips/classify-toy-seed0 new.mp4
        vidbench predict runs/clips/coclr-toy-seed0 new.mp4 other.mp4 -k 1 --json""",
        "A run without a classifier gets a linear probe, which is fitted once on its labeled "
        "training videos.",
    )
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument("videos", nargs="+", metavar="VIDEOS", help=VIDEOS)
    one.add_argument("-k", type=at_least(1), default=3, help="classes of each video (%(default)s)")
    _add_stream(one)
    _add_protocol(one)


def predict(given: argparse.Namespace) -> int:
    """Predict, and print the most probable classes."""
    from vidbench.api.videos import opened

    with notes_to_stderr():
        trained = at_the_door(_loaded, given.run, given.stream)
        wanted = at_the_door(lambda: opened(_source(given.videos)))
        found = at_the_door(trained.predict, wanted, protocol=given.protocol, data=given.data)
    lines = found.top(given.k)
    if given.json:
        show(as_json({"run": str(trained.run.folder), "classes": found.classes, "top": lines}))
    else:
        rows = [
            (near(line["path"]), line["rank"], line["label"], f"{100 * line['probability']:.1f} %")
            for line in lines
        ]
        show(aligned([("video", "rank", "class", "probability"), *rows], right=(1, 3)))
    return 1 if len(found) < len(wanted) else 0


def _add_stream(command: argparse._ActionsContainer) -> None:
    command.add_argument("--stream", default="", help="rgb or flow; default: rgb, if there is one")


def _add_protocol(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--protocol", default="vidbench", help="how clips become a vector (%(default)s)"
    )
    command.add_argument(
        "--data", default="", help="of a run on several data sets, as whose videos these are seen"
    )


def _loaded(folder: str, stream: str) -> Trained:
    """The run of a command line, of the stream that is wanted."""
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
    """The type of a whole number in a command line."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more; got {text}")
        return int(text)

    return whole


def _source(words: Sequence[str]) -> Any:
    """What the front door opens: a single folder, csv or file, several files, or None."""
    folders = [word for word in words if Path(word).expanduser().is_dir()]
    if folders and len(words) > 1:
        raise ValueError(
            f"several videos must be files; got the folder {folders[0]}. Name one folder alone, or "
            "write a csv with a column path."
        )
    return list(words) if len(words) > 1 else words[0] if words else None


def _check_page(path: str) -> None:
    """Refuse to replace a file that is no page of a search."""
    file = Path(path).expanduser()
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise ValueError(f"--html must be a file in a folder that exists; got {path}.")
    if file.exists() and PAGE not in file.read_bytes()[:1000]:
        raise ValueError(
            f"{path} exists, and is no page of a search: move it away, or use another name."
        )


def near(path: str | Path) -> str:
    """A path as a person types it: relative, if it is below the current folder."""
    place = Path(path)
    return str(place.relative_to(Path.cwd())) if place.is_relative_to(Path.cwd()) else str(place)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
    "search": search,
    "predict": predict,
}
