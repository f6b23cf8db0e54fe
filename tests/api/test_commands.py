"""The verbs as commands: every example in a help can be typed, and what a newcomer does works."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidbench.__main__ import _parser, main

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
    assert [given.command] == prog.split()[1:2] or prog == "vidbench"


def test_each_verb_has_a_description_an_example_and_json():
    verbs = [
        f"vidbench {name}" for name in ("train", "embed", "search", "predict", "export", "compare")
    ]
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


@pytest.fixture
def call(capsys):
    """A function: words of a command -> (exit code, stdout, stderr)."""

    def called(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return called


def test_train_of_complete_runs_prints_them(front_door, call, monkeypatch):
    videos, run = front_door
    place = videos.folder.parents[1]
    monkeypatch.chdir(place)
    words = ("train", "clips", "--preset", "tiny", "--epochs", 2)
    code, out, _ = call(*words)
    folder = run.run.folder.parent
    assert code == 0 and out.splitlines() == [
        "stream  state     run",
        f"rgb     complete  {(folder / 'coclr-rgb').relative_to(place)}",
        f"flow    complete  {(folder / 'coclr-flow').relative_to(place)}",
        f"next: vidbench search {folder.relative_to(place)} QUERY.mp4",
    ]
    held = json.loads(call(*words, "--json")[1])
    assert held["folder"] == str(folder) and held["run"] == str(run.run.folder)
    assert [one["stream"] for one in held["runs"]] == ["rgb", "flow"]


def test_search_prints_hits_and_writes_a_page(front_door, call, monkeypatch, tmp_path):
    videos, run = front_door
    monkeypatch.chdir(tmp_path)
    folder, query = run.run.folder.parent, videos.paths[0]
    code, out, err = call("search", folder, query, "-k", 2, "--fused", "--html", "page.html")
    hits = list(run.search(query, k=2, fused=True))
    assert code == 0 and "gallery: " in err
    head, names, *lines = out.splitlines()
    assert head == query and names.split() == ["rank", "score", "label", "path"]
    assert [line.split()[-1] for line in lines] == [hit["path"] for hit in hits]
    assert b"data:image" in Path("page.html").read_bytes()
    words = (folder / "coclr-rgb", folder / "coclr-flow", query, "-k", 2, "--html", "page.html")
    held = json.loads(call("search", *words, "--json")[1])
    assert held["hits"] == hits and held["runs"] == ["coclr-rgb", "coclr-flow"]


def test_predict_prints_the_most_probable_classes(front_door, call):
    videos, run = front_door
    words = ("predict", "--json", run.run.folder.parent, *videos.paths[:2], "-k", 2)
    code, out, err = call(*words)
    assert code == 0, err
    held = json.loads(out)
    assert held["classes"] == list(videos.classes)
    assert held["top"] == run.predict(videos.paths[:2]).top(2)
    code, out, _ = call(*(word for word in words if word != "--json"))
    assert code == 0 and len(out.splitlines()) == 5 and out.count(" %") == 4


def test_embed_and_export_write_files_and_print_them(front_door, call, monkeypatch, tmp_path):
    videos, run = front_door
    monkeypatch.chdir(tmp_path)
    folder = run.run.folder.parent
    code, out, _ = call("embed", folder, *videos.paths[:2], "--out", "clips.csv")
    width = run.embed(videos.paths[:2]).vectors.shape[1]
    assert code == 0 and out == f"2 videos x {width} features -> clips.csv\n"
    assert Path("clips.csv").read_text().count("\n") == 3
    code, out, _ = call("export", folder, "exported", "--json")
    held = json.loads(out)
    assert code == 0 and Path(held["folder"]).resolve() == tmp_path / "exported"
    assert {"backbone.safetensors", "config.json", "README.md"} <= held["files"].keys()


def test_a_query_that_cannot_be_read_is_exit_code_1(front_door, call, tmp_path):
    videos, run = front_door
    (tmp_path / "no video.mp4").write_bytes(b"no video" * 100)
    words = ("search", "--json", run.run.folder, tmp_path / "no video.mp4")
    code, out, err = call(*words)
    assert (code, out) == (2, "") and "no video.mp4" in err
    code, out, _ = call(*words, videos.paths[0])
    held = json.loads(out)
    assert code == 1 and len(held["hits"]) == 5 and "no video.mp4" in held["failed"][0][0]


@pytest.mark.parametrize(
    "words, says",
    [
        (("train", "nowhere"), "no such folder: "),
        (("train", "clips", "-c", "seed", 3), "'seed' is set by another option. Use --seed."),
        (("train", "clips", "-o", "out", "x"), "'out' is set by another option. Use --out."),
        (("train", "clips", "-c", "lr", 1, "-c", "lr", 2), "'lr' is given twice"),
        (("train", "clips", "-c", "speed", 3), "the field 'speed' of coclr's recipe is unknown"),
        (("train", "clips", "clips", "--name", "a"), "--name is for one data set; got 2"),
        (("search", "nowhere", "a.mp4"), "no such run: nowhere. `vidbench runs ls FOLDER`"),
        (("search", "clips", "a.mp4"), "must contain a complete run"),
        (("search", "RUN"), "search needs a query after the run; got none"),
        (("search", "RUN", "a.mp4"), "a.mp4"),
        (("search", "RUN", "clips", "a.mp4"), "several videos must be files; got the folder clips"),
        (("search", "RUN", "a.mp4", "--stream", "depth"), "stream must be one of rgb, flow"),
        (("search", "RUN", "a.mp4", "--html", "clips"), "--html must be a file in a folder"),
        (("search", "RUN", "a.mp4", "--html", "my.txt"), "my.txt exists, and is no page"),
        (("embed", "RUN", "--out", "table.txt"), "--out must end in one of .parquet, .csv, .npz"),
        (("embed", "RUN", "clips", "a.mp4", "--out", "t.csv"), "several videos must be files"),
        (("export", "RUN", "."), "my.txt"),
        (("search", "RUN", "a.mp4", "-k", 0), "must be 1 or more; got 0"),
        (("search", "RUN", "QUERY", "--index", "fast"), "index must be one of auto, exact"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    front_door, call, tmp_path, monkeypatch, words, says
):
    videos, run = front_door
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(videos.folder.parents[1] / "clips")
    (tmp_path / "my.txt").write_text("mine")
    place = {"RUN": run.run.folder.parent, "QUERY": videos.paths[0]}
    code, out, err = call(*(place.get(word, word) for word in words))
    assert (code, out) == (2, "") and says in err
    assert sorted(os.listdir()) == ["clips", "my.txt"] or words[0] == "train"
    assert (tmp_path / "my.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_newcomer_with_unlabeled_clips_gets_everywhere_by_commands(toy_tiny, tmp_path):
    (tmp_path / "my clips").mkdir()
    rows = range(0, 288, 12)
    for number, row in enumerate(rows):
        os.link(toy_tiny.absolute(row), tmp_path / "my clips" / f"clip {number} é.mp4")
    os.link(toy_tiny.absolute(5), tmp_path / "new.mp4")

    def typed(*words: object) -> str:
        command = [sys.executable, "-m", "vidbench", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    settings = ("--method", "infonce", "--preset", "tiny", "--epochs", 2, "--json")
    trained = json.loads(typed("train", "my clips", *settings))
    folder = Path(trained["folder"])
    found = json.loads(typed("search", folder, "new.mp4", "--html", "page.html", "--json"))
    assert len(found["hits"]) == 5 and (tmp_path / "page.html").is_file()
    typed("embed", folder, "my clips", "--out", "clips.csv")
    assert (tmp_path / "clips.csv").read_text().count("\n") == len(rows) + 1
    typed("export", folder, "exported")
    listed = json.loads(typed("runs", "ls", "--json"))
    assert [one["state"] for one in listed] == ["complete"]
    run = listed[0]["folder"]
    assert json.loads(typed("runs", "show", run, "--json"))["recipe"]["fit"]["epochs"] == 2
    assert json.loads(typed("runs", "diff", run, run, "--json"))["recipe"] == []
    assert "bytes freed" in typed("runs", "rm", run, "--yes")
    assert json.loads(typed("runs", "ls", "--json")) == []


def test_a_dry_run_estimates_every_stage_and_trains_none(tmp_path, capsys):
    arguments = ["train", "tiny", "--preset", "tiny", "--out", str(tmp_path)]
    assert main([*arguments, "--dry-run", "--nproc", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["infonce-rgb", "infonce-flow", "coclr-rgb", "coclr-flow"]
    assert all(one["hours"] > 0 and one["memory"] > 0 for one in found.values())
    assert not list(tmp_path.rglob("recipe.json"))
