"""The command line: the way a person takes through scan, store and flow, and what is said when
something is wrong."""

import argparse
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.headless.test_execute import handlers  # noqa: F401
from vidbench import __main__
from vidbench.__main__ import main
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips
from vidbench.system.version import version


@pytest.fixture
def folder(toy_tiny, tmp_path):
    """Six toy videos in class folders."""
    for row in (0, 1, 24, 25, 48, 49):
        target = tmp_path / "videos" / toy_tiny.names(row)["label"] / toy_tiny.absolute(row).name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(toy_tiny.absolute(row).read_bytes())
    return tmp_path / "videos"


def run(*words) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code


def test_scan_then_store_then_flow(folder, tmp_path, capsys, monkeypatch):
    broken = folder / "wave" / "broken.mp4"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"no video" * 100)
    monkeypatch.chdir(tmp_path)
    assert run("scan", folder, "--workers", 0) == 0
    said = capsys.readouterr().out
    assert "BAD unreadable: 1" in said and "wave/broken.mp4: unreadable" in said
    assert "runs/videos/scan/manifest.csv (6 videos)" in said

    assert (
        run(
            "store",
            "runs/videos/scan",
            "--format",
            "raw",
            "--size",
            32,
            "--workers",
            0,
            "--out",
            "stored",
        )
        == 0
    )
    assert "6 stored, 0 were there, 0 failed" in capsys.readouterr().out
    stored = Manifest.load("stored")
    assert len(stored) == 6 and (stored.height == 32).all() and (stored.frames == 30).all()
    scanned = Manifest.load("runs/videos/scan")
    source = clips.read(scanned.absolute(3), [5, 29], size=(32, 32)).frames
    assert np.array_equal(clips.read(stored.absolute(3), [5, 29]).frames, source)

    words = (
        "flow",
        "stored",
        "--method",
        "dis",
        "--format",
        "mp4",
        "--workers",
        0,
        "--out",
        "moves",
    )
    assert run(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "flow dis: 6 to go: about " in said and "174 frames of 6 videos" in said
    assert not os.path.exists("moves")
    assert run(*words) == 0
    assert "6 videos (174 pairs) done, 0 were there, 0 failed" in capsys.readouterr().out
    assert flow_store.load("moves", str(stored.path[0])).shape == (29, 32, 32, 3)


def test_a_data_set_option_may_say_what_becomes_of_missing_files(folder, tmp_path, capsys):
    rows = [f"{path.relative_to(folder)},wave" for path in sorted(folder.rglob("*.mp4"))]
    listed = folder / "manifest.csv"
    listed.write_text("\n".join(["path,label", *rows, "gone.mp4,wave"]) + "\n")
    words = (
        "store",
        listed,
        "--format",
        "raw",
        "--size",
        32,
        "--workers",
        0,
        "--out",
        tmp_path / "s",
    )
    assert run(*words) == 2 and "1 of 7 listed videos are missing" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="gone.mp4"):
        assert run(*words, "-o", "missing", "drop") == 0
    assert "6 stored" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (("scan", "nowhere"), "vidbench: no such folder: nowhere"),
        (("scan", "videos", "-o", "folds", "2"), "has no option 'folds'"),
        (("store", "videos", "-o", "missing", "skip"), "missing must be one of"),
        (("scan", "videos", "--dataset", "ucf102"), "unknown data set 'ucf102'; known are"),
        (("scan", "videos", "--keep", "missing"), "keep of ("),
        (("store", "videos", "--format", "gif"), "format is of mp4, jpeg, raw"),
        (
            ("store", "videos", "--decoder", "cv2"),
            "decoder must be one of decord, torchcodec, pyav",
        ),
        (("flow", "videos", "--decoder", "cv2"), "decoder must be one of decord, torchcodec, pyav"),
        (("flow", "videos", "--method", "raft"), "method in ('tvl1'"),
        (("flow", "videos", "--shard", "3of4"), "vidbench: --shard must be K/N"),
        (("flow", "videos", "--shard", "1"), "vidbench: --shard must be K/N"),
        (("flow", "videos", "--shard", "4/4"), "K from 0 to N - 1, such as 0/4; got '4/4'"),
    ],
)
def test_what_the_caller_can_mend_is_said_in_one_line(
    folder, tmp_path, capsys, monkeypatch, words, said
):
    monkeypatch.chdir(tmp_path)
    assert run(*words, "--workers", 0) == 2
    errors = capsys.readouterr().err
    assert said in errors and "Traceback" not in errors


def test_other_settings_are_refused(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("flow", folder, "--method", "dis", "--workers", 0, "--out", "moves")
    assert run(*words) == 0
    assert run(*words, "--size", 32) == 2
    assert "size: there None, wanted 32" in capsys.readouterr().err


def test_the_version_is_printed_without_importing_torch():
    program = (
        "import sys; from vidbench.__main__ import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(version()), "0 False"] and done.stderr == ""


@pytest.mark.parametrize("command", ["run", "batch"])
def test_help_documents_the_exit_codes(capsys, command):
    assert run(command, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "exit code of run of batch (with --list, too)",
        "0 all notebooks are complete all rows are complete",
        "1 a notebook failed a row is not complete",
        "2 nothing was done: the command is wrong",
        "124 a cell reached its time limit (1;",
        "130 stopped by Ctrl-C or SIGTERM stopped by",
        "138 the kernel died (1;",
    ):
        assert words in said


def test_each_command_is_described_with_an_example_and_exit_codes():
    commands = [("vidbench", __main__._parser())]
    for name, command in commands:
        inner = [one for one in command._actions if isinstance(one, argparse._SubParsersAction)]
        commands += [
            (f"{name} {word}", one) for both in inner for word, one in both.choices.items()
        ]
        said = command.format_help()
        assert (command.description or "").partition("\n")[0].endswith("."), name
        if not inner or name == "vidbench":
            assert f"example:\n  {name}" in said and "\nexit code" in said, name


def test_the_help_lists_each_command_once_in_a_group(capsys, monkeypatch):
    listed = __main__._parser().format_help()
    names = [name for group in __main__._GROUPS.values() for name in group]
    assert len(names) == len(set(names)) > 20
    assert all(listed.count(f"\n  {name} ") == 1 for name in names)
    monkeypatch.setattr(__main__, "_GROUPS", {"one": ("train",)})
    with pytest.raises(ValueError, match="each command needs a group; none has batch, board,"):
        __main__._parser()


@pytest.mark.parametrize("kind", [ImportError, SystemError])
def test_a_signal_that_falls_into_an_import_is_a_signal(capsys, monkeypatch, kind):
    """As numpy makes ImportError of it; without a signal the error is shown as it is."""

    def torn(given):
        try:
            if given.dry_run:
                os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            pass
        raise kind("PyCapsule_Import could not import module")

    monkeypatch.setattr(__main__, "_scan", torn)
    assert (
        main(["scan", "x", "--dry-run"]) == 130
        and "run the same again to resume" in capsys.readouterr().err
    )
    with pytest.raises(kind):
        main(["scan", "x"])


def test_a_warning_is_one_line_without_its_source(tmp_path):
    (tmp_path / "videos/run").mkdir(parents=True)
    (tmp_path / "videos/run/broken.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "videos/train.csv").write_text("run/broken.mp4 run\n")
    command = [sys.executable, "-m", "vidbench", "scan", "videos", "--out", "out", "--workers", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "train.csv" in line]
    assert len(lines) == 1 and lines[0].startswith("vidbench: opened ")
    assert "UserWarning" not in done.stderr


@pytest.mark.parametrize("command", ["demo", "replicate-coclr"])
def test_an_experiment_on_videos_without_labels_is_refused_before_it_writes(
    command,
    tmp_path,
    capsys,
    handlers,  # noqa: F811
):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "one.mp4").write_bytes(b"x")
    out = tmp_path / "out"
    assert run(command, "--data", tmp_path / "flat", "--out", out) == 2
    assert "needs labels; got 1 videos without labels" in capsys.readouterr().err
    assert not out.exists()
