"""The commands `vidbench train | embed | search | predict | export | compare`: options over the front door."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.api.arguments import (
    add_data,
    add_pairs,
    add_protocol,
    add_stream,
    at_least,
    check_page,
    check_table,
    is_run,
    loaded,
    near,
    source,
)
from vidbench.api.board import add_board, board
from vidbench.api.compare import add_compare, compare
from vidbench.api.doctor import add_doctor, run_doctor
from vidbench.api.notebooks import add_notebooks, lab, notebooks
from vidbench.api.runs import add_command
from vidbench.system.door import at_the_door
from vidbench.system.printing import aligned, as_json, notes_to_stderr, printable, show
from vidbench.system.usage import Commands

if TYPE_CHECKING:
    from vidbench.api.answers import Found

VIDEOS = "a folder, a csv with a column `path`, or video files; labels are optional"
RUN = "run directory, or the folder of all stages that `vidbench train` printed"

SETTINGS = ("preset", "epochs", "network", "seed", "flow", "nproc", "processes")  # of vb.train


def add_verbs(commands: Commands) -> None:
    """Add the commands of the front door."""
    for add in (
        _add_train,
        _add_embed,
        _add_search,
        _add_predict,
        _add_export,
        add_compare,
        add_board,
        add_notebooks,
        add_doctor,
    ):
        add(commands)


def _add_train(commands: Commands) -> None:
    one = add_command(
        commands,
        "train",
        "train all stages of a method on videos; the same command resumes",
        """vidbench train ~/clips
        vidbench train ~/clips --method infonce --epochs 40 -c lr 1e-3 --out runs
        vidbench train ~/clips --network mypackage.mine:Net -c network_args '{"width": 64}' --nproc 2
        vidbench train small-base small-gym --method multitrain
        vidbench train ~/clips --method classify --folds source""",
        "Labels never enter the training of coclr and infonce.",
    )
    one.add_argument("videos", nargs="+", metavar="VIDEOS", help=f"{VIDEOS}; or a toy world: tiny")
    recipe = one.add_argument_group("recipe")
    recipe.add_argument(
        "--method",
        default="coclr",
        help="infonce, ubernce, coclr, classify, multitrain, or the name of your module "
        "(%(default)s)",
    )
    recipe.add_argument(
        "--preset", default="toy", help="of the method: tiny, toy, ucf101_paper, ... (%(default)s)"
    )
    recipe.add_argument("--epochs", type=at_least(0), default=0, help="default: the preset's")
    recipe.add_argument("--network", default="", help="its name, or yours: mypackage.mine:Net")
    add_pairs(recipe, "-c", "--change", "a field of the recipe, such as: -c clip.frames 16")
    recipe.add_argument("--seed", type=int, default=0, help="of weights, batches and views")
    recipe.add_argument(
        "--folds",
        default="",
        metavar="source[:K]",
        help="cross-validation: K folds by source video (5), each video tested once; or split: the "
        "data set's own split",
    )
    _add_places(one)


def _add_places(one: argparse.ArgumentParser) -> None:
    """Add the options for where `train` reads and writes, and on how many processes it runs."""
    places = one.add_argument_group("videos and folders")
    add_pairs(places, "-o", "--option", "of the data set's reader, such as: -o fold 2")
    places.add_argument("--flow", default="", help="dis, tvl1, tvl1_torch, ...; default: by preset")
    places.add_argument(
        "--out", default="runs", help="folder of video lists, flow and runs (%(default)s)"
    )
    places.add_argument("--name", default="", help="of the videos' folder below it")
    machine = one.add_argument_group("processes and progress")
    machine.add_argument(
        "--nproc", type=at_least(0), default=0, help="ranks of each stage; 0: one for each GPU"
    )
    machine.add_argument(
        "--processes",
        type=at_least(0),
        default=2,
        help="stages side by side on a CPU; 0: all in this process (%(default)s)",
    )
    machine.add_argument(
        "--track",
        default="",
        metavar="NAME",
        help="also log to tensorboard, wandb or mlflow, separated by commas (or VIDBENCH_TRACK)",
    )
    machine.add_argument(
        "--dry-run",
        action="store_true",
        help="print steps, hours, memory, cores and disk of each stage on GPUs, and stop",
    )
    machine.add_argument("--card", default="H200", help="of --dry-run: H200 or A100 (%(default)s)")


def train(given: argparse.Namespace) -> int:
    """Train, and print the runs that are the result."""
    from vidbench.api.training import train as train_all
    from vidbench.engine import outside

    if given.dry_run:
        return _estimate(given)
    if given.folds:
        return _cross_validate(given)
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
    if not outside.speaks():
        return 0
    if given.json:
        show(as_json({"folder": str(folder), "run": str(done.run.folder), "runs": made}))
        return 0
    lines = [(run.recipe.stream, run.state, near(run.folder)) for run in runs]
    show(aligned([("stream", "state", "run"), *lines]))
    show(f"next: vidbench search {shlex.quote(near(folder))} QUERY.mp4")
    return 0


def _estimate(given: argparse.Namespace) -> int:
    """Print what each stage takes on --nproc GPUs."""
    from vidbench.api.training import sizes

    with notes_to_stderr():
        at_the_door(_check_names, given)
        names = ("preset", "epochs", "network")
        settings = {name: getattr(given, name) for name in names} | given.change
        card, gpus = given.card, given.nproc or 1
        found = at_the_door(
            lambda: sizes(_opened(given), given.method, card=card, gpus=gpus, **settings)
        )
    if given.json:
        show(as_json({name: asdict(one) for name, one in found.items()}))
        return 0
    show(f"estimate for {gpus} {card}; assumptions: vidbench/api/sizing.py")
    show(aligned([(name, one.words(card)) for name, one in found.items()]))
    return 0


def _cross_validate(given: argparse.Namespace) -> int:
    """Train and test each fold, and print the numbers of all videos."""
    from vidbench.api.folds import cross_validate

    with notes_to_stderr():
        at_the_door(_check_names, given)
        settings = {name: getattr(given, name) for name in SETTINGS} | given.change
        videos = at_the_door(lambda: _one(_opened(given)))
        done = at_the_door(cross_validate, videos, given.method, given.folds, **settings)
    if given.json:
        numbers = [asdict(one) for one in done.numbers]
        show(as_json({"file": str(done.file), "numbers": numbers}))
        return 0
    rows = done.rows()
    show(aligned([tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)]))
    show(f"{len(done.folds)} folds, kept in {near(done.file)}")
    return 0


def _one(videos: Any) -> Any:
    if isinstance(videos, list):
        raise ValueError(f"--folds is for one data set; got {len(videos)} of them.")
    return videos


def _check_names(given: argparse.Namespace) -> None:
    """Refuse a pair that another option sets."""
    fixed = {*SETTINGS, "method", "out", "name", "folds"} - {"epochs", "network"}
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


def _add_embed(commands: Commands) -> None:
    one = add_command(
        commands,
        "embed",
        "compute a vector for each video, and write the table to a file",
        """vidbench embed runs/clips/coclr-toy-seed0 ~/clips --out clips.parquet
        vidbench embed runs/clips/coclr-toy-seed0 --stream flow --out clips.csv""",
    )
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument(
        "videos", nargs="*", metavar="VIDEOS", help=f"{VIDEOS}; default: the run's own"
    )
    one.add_argument(
        "--out", required=True, metavar="FILE", help="the table: .parquet, .csv or .npz"
    )
    one.add_argument("--overwrite", action="store_true", help="replace a file of another program")
    add_stream(one)
    add_protocol(one)


def embed(given: argparse.Namespace) -> int:
    """Embed videos, and print where the table is."""
    from vidbench.api.videos import opened

    with notes_to_stderr():
        at_the_door(check_table, given.out)
        named = at_the_door(source, given.videos)
        trained = at_the_door(loaded, given.run, given.stream)
        wanted = None if named is None else at_the_door(opened, named)
        table = at_the_door(trained.embed, wanted, protocol=given.protocol, data=given.data)
        file = at_the_door(table.save, given.out, overwrite=given.overwrite)
    rows, width = table.vectors.shape
    facts = {"table": str(file), "videos": rows, "width": width, "run": str(trained.run.folder)}
    show(as_json(facts) if given.json else f"{rows} videos x {width} features -> {near(file)}")
    return 0 if wanted is None or rows == len(wanted) else 1


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
    add_stream(streams)
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

    folders = [word for word in given.words if is_run(word)]
    folders = folders if given.words[: len(folders)] == folders else given.words[:1]
    queries = given.words[max(1, len(folders)) :]
    if given.html:
        check_page(given.html)
    if not queries:
        raise ValueError("search needs a query after the run; got none. Name a video or a folder.")
    if len(folders) < 2:
        trained = loaded(given.words[0], given.stream)
    else:
        trained = Trained({folder: loaded(folder, given.stream).run for folder in folders})
    return trained.search(
        source(queries),
        given.k,
        among=given.gallery or None,
        fused=given.fused or len(folders) > 1,
        index=given.index,
        html=given.html,
    )


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
    add_stream(one)
    add_protocol(one)


def predict(given: argparse.Namespace) -> int:
    """Predict, and print the most probable classes."""
    from vidbench.api.videos import opened

    with notes_to_stderr():
        trained = at_the_door(loaded, given.run, given.stream)
        wanted = at_the_door(lambda: opened(source(given.videos)))
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


def _add_export(commands: Commands) -> None:
    one = add_command(
        commands,
        "export",
        "write a run's backbone for use elsewhere: weights, config.json, a model card",
        """vidbench export runs/clips/coclr-toy-seed0 exported
        vidbench export runs/clips/coclr-toy-seed0/coclr-flow exported-flow --onnx --torch-export""",
    )
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument("out", metavar="OUT", help="a new folder")
    one.add_argument("--onnx", action="store_true", help="also write ONNX, checked on a clip")
    one.add_argument(
        "--torch-export", action="store_true", help="also write a torch.export program, checked"
    )
    add_stream(one)
    add_data(one)


def export(given: argparse.Namespace) -> int:
    """Export, and print the files."""
    from vidbench.evaluate.export import export as export_run

    wanted = {"onnx": given.onnx, "torch_export": given.torch_export, "data": given.data}
    with notes_to_stderr():
        trained = at_the_door(loaded, given.run, given.stream)
        out = Path(given.out).expanduser()
        folder = at_the_door(lambda: export_run(trained.run, out, **wanted))
    files = {
        file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name[0] != "."
    }
    if given.json:
        show(as_json({"folder": str(folder), "run": str(trained.run.folder), "files": files}))
    else:
        show(aligned([("file", "bytes"), *((name, f"{n:,}") for name, n in files.items())], (1,)))
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": train,
    "embed": embed,
    "search": search,
    "predict": predict,
    "export": export,
    "compare": compare,
    "board": board,
    "notebooks": notebooks,
    "lab": lab,
    "doctor": run_doctor,
}
