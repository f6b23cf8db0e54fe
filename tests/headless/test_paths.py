"""Paths among parameters: relative to who wrote them, and `data` looked at before a kernel starts."""

import json
import re
from pathlib import Path

import pytest

from tests.headless.test_batch import table
from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from vidbench.data.sets import catalogue
from vidbench.headless import parameters
from vidbench.headless.parameters import ParameterError
from vidbench.headless.paths import absolute
from vidbench.headless.table import read_table

CELL = 'runs_dir: str = "../runs"\ndata: str = "tiny"\nrun: str = "a"\noptions: dict = {}'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an odd name, a folder of videos in it, and a notebook elsewhere."""
    notebook(tmp_path / "books/book.ipynb", parameters=CELL)
    place = tmp_path / "my vidéos"
    (place / "clips").mkdir(parents=True)
    (place / "clips/a.mp4").write_bytes(b"not looked into")
    monkeypatch.chdir(place)
    return place


def test_paths_are_known_by_their_names(folder, monkeypatch):
    (folder.parent / "link").symlink_to(folder)
    values = {
        "data": ["clips", "tiny-gym", "digits", "", "../link/clips", "/data/x"],
        "weights_file": "w.pt",
        "run": "infonce-rgb",
        "init": "runs/x",
        "options": {"lists": "lists", "held_out": 0.5},
        "name": "long/name",
        "split": "test",
    }
    assert absolute(values, folder) == values | {
        "data": [f"{folder}/clips", "tiny-gym", "digits", "", f"{folder}/clips", "/data/x"],
        "weights_file": f"{folder}/w.pt",
        "init": f"{folder}/runs/x",
        "options": {"lists": f"{folder}/lists", "held_out": 0.5},
    }
    frozen = {"run": "timm:vit=clips/a.mp4", "other": "transformers:videomae=MCG-NJU/videomae-base"}
    assert absolute(frozen, folder) == frozen | {"run": f"timm:vit={folder}/clips/a.mp4"}
    assert absolute({"data": "clips"}, "../link") == {"data": f"{folder}/clips"}
    monkeypatch.setenv("HOME", str(folder))
    assert absolute({"out": "~/page.html"}, "/") == {"out": f"{folder}/page.html"}
    with pytest.raises(ParameterError, match="out must be a path; got"):
        absolute({"out": "a\0b"}, folder)


def test_a_command_line_means_the_callers_folder_and_a_file_its_own(folder):
    (folder / "deep").mkdir()
    (folder / "deep/s.yaml").write_text("data: ../clips\nrun: ./b\nruns_dir: here\n")
    book = "../books/book.ipynb"
    plan = parameters.plan([book], "out", ["deep/s.yaml"], [("run", "../c/d")])
    named = {"data": f"{folder}/clips", "run": f"{folder.parent}/c/d"}
    assert plan == [(Path(book), named | {"runs_dir": f"{folder}/deep/here"})]
    assert parameters.plan([book], "out") == [(Path(book), {})], "a default is the notebook's"


def test_a_table_means_its_own_folder(folder, tmp_path, monkeypatch):
    grid = {"notebook": "../books/book.ipynb", "grid": {"data": ["clips", "tiny"]}}
    monkeypatch.chdir(tmp_path)
    rows = read_table(table(folder / "t.yaml", json.dumps(grid)), "out")
    assert [row.parameters["data"] for row in rows] == [f"{folder}/clips", "tiny"]
    assert [row.name for row in rows] == ["book/data=clips", "book/data=tiny"]
    (folder / "t.csv").write_text("notebook,run\n../books/book.ipynb,x/y\n")
    assert read_table(folder / "t.csv", "out")[0].parameters == {"run": f"{folder}/x/y"}


BAD = {
    "clipz": "no such folder: .*my vidéos/clipz",
    "../clips": "no such folder: ",
    "tinny": "Did you mean the built-in data set 'tiny'",
    "empty": "empty",
}


@pytest.mark.parametrize("given", BAD)
def test_data_that_is_no_data_set_starts_nothing(folder, tmp_path, capsys, given):
    (folder / "empty").mkdir()
    assert run("run", "../books/book.ipynb", "-p", "data", given, "--out", tmp_path / "out") == 2
    (folder / "t.csv").write_text(f"notebook,data\n../books/book.ipynb,{given}\n")
    assert run("batch", "t.csv", "--out", tmp_path / "out") == 2
    assert run("batch", "t.csv", "--out", tmp_path / "out", "--row", 0) == 2
    said = capsys.readouterr().err
    assert len(re.findall(rf"book.ipynb: data: .*{BAD[given]}", said)) == 3
    assert "Traceback" not in said and not (tmp_path / "out").exists()


def test_one_of_several_data_sets_is_looked_at_too(folder, tmp_path):
    many = notebook(tmp_path / "books/many.ipynb", parameters='data: list = ["tiny"]')
    with pytest.raises(ParameterError, match="no such folder: .*/gone"):
        parameters.plan([many], "out", texts=[("data", "[clips, tiny, gone]")])
    ((_, values),) = parameters.plan([many], "out", texts=[("data", "[clips, tiny]")])
    assert values == {"data": [f"{folder}/clips", "tiny"]}


def test_a_data_set_that_was_read_before_is_not_recognized_once_more(folder, monkeypatch):
    kept = folder.parent / "runs/clips/videos/origin.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    monkeypatch.setattr(catalogue, "detect_dataset", lambda root: pytest.fail("it looks again"))
    parameters.plan(["../books/book.ipynb"], "out", texts=[("data", "clips")])


def test_data_is_looked_at_without_what_is_slow_to_import(folder):
    import subprocess
    import sys

    program = (
        "import sys; from vidbench.__main__ import main\n"
        "try: main(['run', '../books/book.ipynb', '-p', 'data', 'gone'])\n"
        "except SystemExit: print({'nbformat', 'papermill', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n" and "no such folder" in done.stderr
