"""What people type and hand over in error: one line with the file, what was found and what to do.

Each case runs the command in this process; its exit code is 2 and nothing is written."""

import signal
from pathlib import Path

import numpy as np
import pytest

from vidbench.__main__ import main
from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.system.errors import Brief

SCANNED = "path,label,split,frames,fps,height,width\na.mp4,run,train,"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with one video's name, as the working directory; SIGTERM's handler stays."""
    kept = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video")
    yield tmp_path
    signal.signal(signal.SIGTERM, kept)


def said(capsys, *words) -> str:
    """The one line that a wrong command prints."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and errors.count("\n") == 1, errors
    assert errors.startswith("vidbench: ")
    return errors


def listed(text: str, encoding: str = "utf-8") -> None:
    (Path("videos") / "manifest.csv").write_bytes(text.encode(encoding))


@pytest.mark.parametrize(
    "text, line",
    [
        (f"path,label\na.mp4,{'x' * 140000}\n", "line 2: a cell must have at most 131,072"),
        (f"path,{'x' * 140000}\n", "line 1: a cell must have at most 131,072"),
        (SCANNED + "nan,25,8,8\n", "line 2: frames must be a whole number from 1"),
        (SCANNED + "1e12,25,8,8\n", "got '1e12'. Correct it, or remove the columns"),
        (SCANNED + "1.5,25,8,8\n", "line 2: frames must be a whole number from 1"),
        (SCANNED + "9,0,8,8\n", "line 2: fps must be above 0; got '0'"),
        (SCANNED + "9,25,0,8\n", "line 2: height must be a whole number from 1"),
    ],
)
def test_a_bad_cell_of_a_csv(capsys, text, line):
    listed(text)
    errors = said(capsys, "scan", "videos")
    assert line in errors and "videos/manifest.csv" in errors


def test_a_scanned_frame_without_a_rate_is_read_and_whole_floats_are_numbers():
    listed(SCANNED + "1,0,8.0,8\n")
    manifest = Manifest.load("videos")
    assert manifest.scanned()["fps"].tolist() == [0] and manifest.height.tolist() == [8]


@pytest.mark.parametrize("encoding", ["latin1", "utf-16"])
def test_a_csv_of_another_encoding_names_its_line_and_the_way_out(capsys, encoding):
    listed("path,label\na.mp4,caf\xe9\n", encoding)
    number = 2 if encoding == "latin1" else 1
    errors = said(capsys, "scan", "videos")
    assert f"manifest.csv, line {number}: must be UTF-8 text; got the byte 0x" in errors
    assert f"iconv -f {encoding} -t utf-8" in errors


def test_an_empty_root_and_an_empty_name(capsys):
    listed("path\na.mp4\n")
    (Path("videos") / "root.txt").touch()
    assert "root.txt must have one line" in said(capsys, "scan", "videos")
    for command in ("scan", "store", "flow"):
        assert "must be a folder or a csv; got an empty name" in said(capsys, command, "")
    assert [place.name for place in Path().iterdir()] == ["videos"]


@pytest.mark.parametrize("command", ["run", "batch", "scan", "store", "flow", "train", "demo"])
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_as_the_output_folder(capsys, command, out):
    Path("file").touch()
    words = () if command == "demo" else ("videos",)
    assert "--out must be a folder; got " in said(capsys, command, *words, "--out", out)


@pytest.mark.parametrize("shard", ["1", "4/4", "a/b", "-1/4", "1/2/3"])
def test_a_shard_is_checked_before_the_videos_are_opened(capsys, shard):
    assert f"got {shard!r}" in said(capsys, "flow", "nowhere", f"--shard={shard}")


def test_options_of_a_data_set_have_types(capsys):
    ucf = ("scan", "videos", "--dataset", "ucf101")
    assert "option fold of data set 'ucf101' must be a whole number; got 'x'" in said(
        capsys, *ucf, "-o", "fold", "x"
    )
    assert "no lists at 2020: wanted classInd.txt" in said(capsys, *ucf, "-o", "lists", "2020")
    folder = ("scan", "videos", "--dataset", "folder")
    assert "held_out of data set 'folder' must be a number" in said(
        capsys, *folder, "-o", "held_out", "x"
    )
    with pytest.raises(Brief, match="option lists of data set 'ucf101' must be a path; got 2020"):
        catalogue.open_dataset("ucf101", "videos", lists=2020)


def test_numbers_of_numpy_are_options(tmp_path):
    for name in "abcd":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(name.encode())
    kept = catalogue.keep("kept", "videos", held_out=np.float64(0.5), seed=np.int64(1))
    assert (kept.split == 2).sum() == 2
    assert len(catalogue.keep("kept", "videos", held_out=0.5, seed=1)) == 4


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_a_missing_member_of_cifar100(capsys, kind):
    place = Path("cifar") / f"cifar-100-{kind}"
    place.mkdir(parents=True)
    (place / "file.txt~").touch()
    errors = said(capsys, "scan", "cifar")
    member = "meta" if kind == "python" else "fine_label_names.txt"
    assert f"{place} must contain {member}; got file.txt~. Unpack the archive again" in errors


def test_every_reader_raises_what_a_notebook_shows_in_three_lines():
    for file in Path(catalogue.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert "raise ValueError(" not in text and "raise FileNotFoundError(" not in text, file
