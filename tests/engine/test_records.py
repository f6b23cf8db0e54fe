"""Damaged records of a run are named, and a resumed run needs the videos it began with."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.engine.test_runs import run_of
from vidbench.engine.records import check_rows, check_videos, read_rows
from vidbench.engine.runs import Run, RunError

DAMAGES = [
    b'{"state"',
    b"[1]",
    b"7",
    b"null",
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b"{}",
    b'{"state": 3}',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_status_names_the_file_and_the_way_out(tmp_path, damage):
    run = run_of(tmp_path / "a", 1)
    (run.folder / "status.json").write_bytes(damage)
    with pytest.raises(RunError, match=r"a/status.json is damaged: .* Delete it and train again"):
        _ = run.state
    (run.folder / "status.json").unlink()
    assert run.state == "interrupted", "with a checkpoint the same call resumes"


@pytest.mark.parametrize("damage", [*DAMAGES, b'{"method": "x"}', b'{"method": 3, "recipe": {}}'])
def test_a_damaged_recipe_names_the_file_and_the_way_out(tmp_path, damage):
    run = run_of(tmp_path / "a", 1)
    (run.folder / "recipe.json").write_bytes(damage)
    with pytest.raises(RunError, match=r"a/recipe.json .*Restore it from a copy, or train"):
        Run(run.folder)


@pytest.mark.parametrize("file", ["rows.json", "videos.json"])
@pytest.mark.parametrize("damage", DAMAGES[:7])
def test_damaged_rows_and_videos_name_the_file(tmp_path, file, damage):
    run = run_of(tmp_path / "a", 1)
    (run.folder / file).write_bytes(damage)
    with pytest.raises(RunError, match=rf"a/{file} is damaged: .* Restore it from a copy, or"):
        check_rows(run.folder, {"train": "3-ab"})
        check_videos(run.folder, {}, resumed=True)


def test_one_damaged_line_of_a_log_stops_no_run(tmp_path):
    run = run_of(tmp_path / "a", 4)
    for step in range(6):
        run.log(step=step, loss=1.0)
    path = run.folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (b"\xff\xfe\x00\n", b"7\n", b'{"loss": 1.0}\n', b"\n", b'{"step": "x"}\n'):
        path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
        with pytest.warns(UserWarning, match=r"metrics.jsonl is damaged: 1 lines .* line 3"):
            assert [line["step"] for line in run.metrics()] == [0, 1, 3, 4, 5]
    with pytest.warns(UserWarning):
        run.rewind(4)
    assert [line["step"] for line in run.metrics()] == [0, 1, 3, 4]
    path.write_bytes(b"no log\n")
    with pytest.raises(RunError, match="none of its 1 lines is a JSON object with a step"):
        run.rewind(4)


def videos_in(folder: Path, count: int = 3) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(f"video {number}".encode() * 20)
    return {f"train/{number}.mp4": folder / f"{number}.mp4" for number in range(count)}


def test_a_changed_video_refuses_a_resumed_run(tmp_path):
    run, videos = run_of(tmp_path / "run", 1), videos_in(tmp_path / "videos")
    assert check_videos(run.folder, videos, resumed=False) == []
    for file in videos.values():
        os.utime(file, (1, 1))  # copied, or its time alone changed
    assert check_videos(run.folder, videos, resumed=True) == []
    for number in (1, 2):
        facts = videos[f"train/{number}.mp4"].stat()
        videos[f"train/{number}.mp4"].write_bytes(b"other 00" * 20)
        os.utime(videos[f"train/{number}.mp4"], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(RunError, match=r"2 of 3 videos changed since .*run began, first .*1.mp4: "):
        check_videos(run.folder, videos, resumed=True)


def test_a_missing_video_is_not_compared_and_an_old_run_says_so(tmp_path):
    run, videos = run_of(tmp_path / "run", 1), videos_in(tmp_path / "videos")
    (said,) = check_videos(run.folder, videos, resumed=True)
    assert said.startswith("this run is older than stamps of videos")
    videos["train/0.mp4"].unlink()
    assert check_videos(run.folder, videos, resumed=True) == []
    assert set(json.loads((run.folder / "videos.json").read_text())) == set(videos)


def test_rows_of_a_part_that_is_missing_are_named(tmp_path):
    run = run_of(tmp_path / "a")
    assert read_rows(run.folder, "train") is None
    check_rows(run.folder, {"train": "3-ab"})
    assert read_rows(run.folder, "train") == "3-ab"
    with pytest.raises(RunError, match="must have the rows of 'ucf'; it has train"):
        read_rows(run.folder, "ucf")


@pytest.mark.slow
def test_ten_thousand_videos_take_seconds(tmp_path):
    run, videos = run_of(tmp_path / "run", 1), videos_in(tmp_path / "videos", 10_000)
    start = time.process_time()
    check_videos(run.folder, videos, resumed=False)
    check_videos(run.folder, videos, resumed=True)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("fit", [3, {"epochs": "many"}, {"epochs": None}, []])
def test_a_recipe_with_another_fit_has_no_epochs(tmp_path, fit):
    (tmp_path / "recipe.json").write_text(json.dumps({"method": "coclr", "recipe": {"fit": fit}}))
    assert Run(tmp_path).epochs == 0
