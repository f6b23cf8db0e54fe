"""What a command writes: inside its folder only, and over no file that it did not make."""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.makes import encode, texture
from vidbench.__main__ import main
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import scan, store
from vidbench.data.prepare.outputs import OUTSIDE, OutputError, Outputs, name_of
from vidbench.data.sets import catalogue
from vidbench.data.toy import world
from vidbench.data.video import clips
from vidbench.system.files import path_inside


def run(*words) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        return int(stopped.code)


def moving(path: Path, frames: int = 4, seed: int = 0) -> Path:
    """A small video in which something moves."""
    return encode(path, texture(frames, (32, 48), seed=seed), crf="8")


def listed(folder: Path, paths: list[str]) -> Path:
    """A hand-made manifest.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([path, "a"] for path in paths)])
    return folder / "manifest.csv"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# ---- names -------------------------------------------------------------------------------------

ODD = [
    "/x/clip.mp4",
    "/y/clip.mp4",
    "../clip.mp4",
    "a/../clip.mp4",
    "./clip.mp4",
    "a//clip.mp4",
    "C:/x/clip.mp4",
    "\\x\\clip.mp4",
    f"{OUTSIDE}/clip.mp4",
    "a/b\nc.mp4",
    "n" * 250 + ".mp4",
    "ä" * 120 + ".mp4",
    "/x/clip mp4",
    "..",
    ".",
]


def test_a_name_stays_inside_and_two_paths_share_none(tmp_path):
    paths = [*ODD, "clip.mp4", "a/clip.mp4", "wave/käse 1.mp4", "a/.hidden.mp4", "a/b..c.mp4"]
    names = [name_of(path, ".flow.npz") for path in paths]
    assert len({name.casefold() for name in names}) == len(paths)
    for path, name in zip(paths, names, strict=True):
        file = path_inside(tmp_path, name)
        assert file.resolve().is_relative_to(tmp_path.resolve())
        assert all(len(part.encode()) < 230 for part in name.split("/"))
        assert name == f"{path}.flow.npz" or path in ODD, "a plain path keeps its name"


@pytest.mark.parametrize("command", ["store", "flow"])
def test_no_path_leads_a_write_out_of_the_folder(tmp_path, command):
    """`store` of /x/clip as mp4 would else overwrite /x/clip.mp4."""
    aside = tmp_path / "aside"
    moving(aside / "clip.mp4", seed=1)
    moving(aside / "two/clip.mp4", seed=2)
    (aside / "clip").write_bytes(moving(tmp_path / "third.mp4", seed=3).read_bytes())
    paths = [str(aside / "clip"), str(aside / "two/clip.mp4"), "../aside/clip.mp4"]
    place = listed(tmp_path / "data", paths)
    before = contents(aside)
    words = ("--method", "dis") if command == "flow" else ("--size", 32)
    assert run(command, place, *words, "--workers", 0, "--out", tmp_path / "out") == 0
    assert contents(aside) == before
    assert {p.name for p in tmp_path.iterdir()} == {"aside", "data", "out", "third.mp4"}
    made = [f for f in (tmp_path / "out").rglob("*") if f.suffix in (".mp4", ".npz")]
    assert len(made) == 3 and len({f.read_bytes() for f in made}) == 3, "one file for each"
    if command == "flow":
        for path in paths:  # found again
            stored = flow_store.load(tmp_path / "out", path, source=tmp_path / "data" / path)
            assert stored.shape == (3, 32, 48, 3)
    else:
        stored = Manifest.load(tmp_path / "out")
        for row, path in enumerate(paths):
            right = clips.read(tmp_path / "data" / path, size=32).frames
            assert np.abs(clips.read(stored.absolute(row)).frames - right.astype(int)).mean() < 8


# ---- files that vidbench did not make ----------------------------------------------------------


def test_scan_keeps_a_hand_made_manifest(tmp_path, capsys):
    moving(tmp_path / "data/a/one.mp4")
    listed(tmp_path / "data", ["a/one.mp4", "a/later.mp4"])
    before = contents(tmp_path / "data")
    for data in (tmp_path / "data", tmp_path / "data/manifest.csv"):
        assert run("scan", data, "--out", tmp_path / "data", "--workers", 0) == 2
        assert "is the data set's own manifest: use another --out" in capsys.readouterr().err
    assert contents(tmp_path / "data") == before

    moving(tmp_path / "other/a/two.mp4")
    assert run("scan", tmp_path / "other", "--out", tmp_path / "data", "--workers", 0) == 2
    assert "manifest.csv would be overwritten, and vidbench did not make it" in (
        capsys.readouterr().err
    )
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("name", ["scan.csv", "manifest.csv", "classes.txt", "root.txt"])
def test_scan_and_store_refuse_before_work_begins(tmp_path, name, monkeypatch):
    data = Manifest.load(listed(tmp_path / "data", ["one.mp4"]))
    moving(data.absolute(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine\n")
    looked: list = []
    monkeypatch.setattr(scan, "examine", looked.append)
    monkeypatch.setattr(store, "one", looked.append)
    for work in (scan.scan, store.store)[: 1 if name == "scan.csv" else 2]:
        with pytest.raises(OutputError, match=f"{name} would be overwritten, .* move it away"):
            work(data, tmp_path / "out", progress=False)
    assert not looked and (tmp_path / "out" / name).read_text() == "mine\n"


@pytest.mark.parametrize("work", [scan.scan, store.store])
def test_a_manifest_that_was_edited_by_hand_is_kept(tmp_path, work):
    data = Manifest.load(listed(tmp_path / "data", ["one.mp4"]))
    moving(data.absolute(0))
    work(data, tmp_path / "out", progress=False)
    work(data, tmp_path / "out", progress=False)
    with open(tmp_path / "out/manifest.csv", "a") as file:
        file.write("extra.mp4,a,train,extra,4,25.0,32,48\n")
    with pytest.raises(OutputError, match="manifest.csv would be overwritten, and it was changed"):
        work(data, tmp_path / "out", progress=False)
    (tmp_path / "out/manifest.csv").unlink()
    work(data, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    "name, work",
    [
        ("one.mp4.mp4", store.store),
        ("one.mp4.flow.npz", flow_store.extract),
        ("store.json", store.store),
        ("flow.json", flow_store.extract),
    ],
)
def test_store_and_flow_keep_other_files(tmp_path, name, work):
    data = Manifest.load(listed(tmp_path / "data", ["one.mp4"]))
    moving(data.absolute(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(RuntimeError, match="vidbench did not make it|was not written by vidbench"):
        work(data, tmp_path / "out", progress=False)
    assert (tmp_path / "out" / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    "command", ["demo", "replicate-coclr", "replicate-rms", "replicate-multitrain"]
)
@pytest.mark.parametrize("name", ["report.html", "numbers.json"])
def test_experiments_keep_other_reports(tmp_path, capsys, command, name):
    (tmp_path / name).write_text("mine")
    assert run(command, "--out", tmp_path) == 2
    assert f"{name} would be overwritten, and vidbench did not make it" in capsys.readouterr().err
    assert contents(tmp_path) == {name: b"mine"}, "nothing was started"


@pytest.mark.parametrize("name", ["book.ipynb", "book.html"])
def test_run_keeps_other_notebooks(tmp_path, capsys, name):
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / "book.ipynb")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    assert run("run", tmp_path / "book.ipynb", "--out", tmp_path / "out") == 2
    assert f"{name} would be overwritten, and it is no executed copy" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {name: b"mine"}


@pytest.mark.parametrize("name", ["manifest.csv", "classes.txt"])
def test_a_kept_manifest_and_a_toy_world_replace_no_others(tmp_path, name):
    moving(tmp_path / "data/a/one.mp4")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / name).write_text("mine")
    with pytest.raises(OutputError, match=f"{name} would be overwritten"):
        catalogue.keep(tmp_path / "place", tmp_path / "data")
    with pytest.raises(world.ToyError, match=f"holds {name} but no toy.json"):
        world.render(tmp_path / "place", "tiny")
    assert contents(tmp_path / "place") == {name: b"mine"}
    made = catalogue.keep(tmp_path / "new", tmp_path / "data")
    assert len(catalogue.keep(tmp_path / "new", tmp_path / "data")) == len(made) == 1


def test_a_torn_record_and_a_stop_while_writing(tmp_path):
    made = Outputs(tmp_path)
    made.claim(["a.txt", "b.txt"])
    with open(tmp_path / ".made.jsonl", "ab") as file:
        file.write(b'{"name": "c.tx')
    (tmp_path / "a.txt").write_text("half")
    again = Outputs(tmp_path)
    again.refuse_others(["a.txt", "b.txt"])
    with again.writing(("a.txt",)):
        (tmp_path / "a.txt").write_text("whole")
    Outputs(tmp_path).refuse_others(["a.txt"])
    (tmp_path / "a.txt").write_text("other")
    (tmp_path / "c.txt").symlink_to(tmp_path / "nowhere")
    for name in ("a.txt", "c.txt"):
        with pytest.raises(OutputError, match=name):
            Outputs(tmp_path).refuse_others([name])


# ---- made again --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["store", "flow"])
def test_another_video_of_the_same_length_is_noticed(tmp_path, command, capsys):
    paths = ["0.mp4", "1.mp4", "2.mp4"]
    data = Manifest.load(listed(tmp_path / "data", paths))
    for i in range(3):
        moving(data.absolute(i), seed=i)
    words = ("--method", "dis") if command == "flow" else ("--size", 32)
    words = (command, tmp_path / "data", *words, "--workers", 0, "--out", tmp_path / "out")
    assert run(*words) == 0
    assert "made again" not in capsys.readouterr().out
    about = data.absolute(1).stat()
    moving(data.absolute(1), seed=9)
    os.utime(data.absolute(1), ns=(about.st_atime_ns, about.st_mtime_ns))
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "2 were there, 0 failed, 1 made again: the source or a setting changed" in said
    assert run(*words) == 0 and "made again" not in capsys.readouterr().out


def test_a_deleted_settings_file_lets_no_two_settings_mix(tmp_path):
    data = Manifest.load(listed(tmp_path / "data", ["0.mp4", "1.mp4"]))
    for i in range(2):
        moving(data.absolute(i), seed=i)
    flow, stored = tmp_path / "flow", tmp_path / "store"
    flow_store.extract(data, flow, "dis", progress=False)
    store.store(data, stored, size=32, progress=False)
    (flow / "flow.json").unlink()
    (stored / "store.json").unlink()
    report = flow_store.extract(data, flow, "dis", bound=5.0, progress=False)
    assert (report.done, report.skipped, report.remade) == (2, 0, 2)
    assert flow_store.meta(flow, "1.mp4")["bound"] == 5.0
    again = store.store(data, stored, size=16, progress=False)
    assert (again.done, again.skipped, again.remade) == (2, 0, 2)
    assert clips.probe(again.manifest.absolute(1)).height == 16


def test_ten_thousand_videos_are_compared_in_seconds(tmp_path):
    """CPU seconds, so that a busy machine changes nothing."""
    (tmp_path / "data").mkdir()
    whole = moving(tmp_path / "data/0.mp4").read_bytes()
    names = [f"{i}.mp4" for i in range(200)]
    for name in names:
        (tmp_path / "data" / name).write_bytes(whole)
    data = Manifest.from_rows(tmp_path / "data", [(name, None, "none", None) for name in names])
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    before = time.process_time()
    report = flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    assert (report.done, report.skipped) == (0, 200)
    assert time.process_time() - before < 0.2, "a fiftieth of ten seconds"
