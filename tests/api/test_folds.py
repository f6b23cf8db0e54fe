"""vb.cross_validate and `train --folds`: every fold trained, every video tested once, resumed."""

import json
import os
import subprocess

import pytest

import vidbench as vb
from tests import ROOT
from vidbench.__main__ import _parser, main
from vidbench.api import training
from vidbench.api.recipes import with_changes
from vidbench.data.manifest import Manifest
from vidbench.methods import classify, coclr

CHANGES = {"frames": 4, "held_out": 0.0, "batch": 8}
SETTINGS = {"preset": "tiny", "epochs": 1, **CHANGES}


@pytest.fixture
def clips(toy_tiny, tmp_path):
    """Twelve videos of three classes, each its own source video."""
    for name in ("wave", "squat", "kick"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for letter, file in zip(
            "abcd", sorted((toy_tiny.root / "videos" / name).iterdir()), strict=False
        ):
            os.link(file, tmp_path / "clips" / name / f"{letter}.mp4")
    return vb.videos(tmp_path / "clips", out=tmp_path / "runs")


def test_each_video_is_tested_once_by_a_run_that_never_saw_its_source_video(clips, capsys):
    found = vb.cross_validate(clips, "classify", "source:2", **SETTINGS)
    assert [run.run.folder.relative_to(clips.folder).parts[:2] for run in found.folds] == [
        ("folds-source-2-seed0", "fold-1"),
        ("folds-source-2-seed0", "fold-2"),
    ]
    tested: list[str] = []
    for run in found.folds:
        rows = Manifest.load(run.run.recipe.manifest)
        train, test = rows.select(split="train"), rows.select(split="test")
        assert not set(train.source_video) & set(test.source_video)
        tested += test.path.tolist()
    assert sorted(tested) == sorted(clips.manifest.path.tolist())
    top1 = next(one for one in found.numbers if one.metric == "top-1")
    assert (top1.task, top1.stream, top1.videos) == ("classes", "rgb", 12)
    assert top1.low <= top1.value <= top1.high and len(top1.each) == 2
    assert top1.protocol["folds"] == "2 by source video, seed 0"
    kept = json.loads(found.file.read_text(encoding="utf-8"))
    assert kept["numbers"][0]["value"] == found.numbers[0].value and len(kept["runs"]) == 2
    assert "rgb classes top-1" in repr(found) and "<table" in found._repr_html_()
    stamps = [run.run.checkpoint_stamp() for run in found.folds]
    capsys.readouterr()
    changes = [f"{name} {value}" for name, value in CHANGES.items()]
    words = " ".join(["-c " + change for change in changes])
    fixed = "--method classify --preset tiny --epochs 1 --folds source:2"
    place = clips.folder.parents[1]
    line = f"train {place / 'clips'} --out {place / 'runs'} {fixed} {words}"
    assert main(line.split()) == 0
    said = capsys.readouterr()
    assert (
        said.out.splitlines()[0].split()
        == "stream task metric % folds videos source videos".split()
    )
    assert "2 folds, kept in" in said.out and "runs, " not in said.err  # nothing was trained
    assert [run.run.checkpoint_stamp() for run in found.folds] == stamps
    again = json.loads(found.file.read_text(encoding="utf-8"))
    assert again["numbers"] == kept["numbers"]  # the command wrote the same file
    assert len(list(found.file.parent.glob("*.json"))) == 1


def test_flow_is_kept_once_for_all_folds(clips):
    fold = vb.Videos(clips.manifest, clips.folder / "folds" / "fold-1", clips.folder)
    job = training._Job([fold], "classify", "tiny", 0, "", {})
    assert job.store_of(fold) == clips.folder / "flow-64"
    assert fold.of("train").home == clips.folder


@pytest.mark.parametrize(
    ("method", "folds", "more", "says"),
    [
        ("multitrain", "source", {}, "for one data set"),
        ("classify", "source", {"out": "x"}, "in its own folder; got out"),
        ("classify", "five", {}, "folds must be source, source:K"),
        ("classify", "source", {"protocol": "all"}, "protocol must be one of"),
        ("classify", "source:13", {}, "13 folds need 13 source videos or more; got 12"),
    ],
)
def test_what_cross_validate_refuses(clips, method, folds, more, says):
    with pytest.raises(ValueError, match=says):
        vb.cross_validate(clips, method, folds, preset="tiny", **more)


def test_videos_without_labels_are_refused(clips):
    loose = vb.Videos(clips.manifest.without_labels(), clips.folder)
    with pytest.raises(ValueError, match="cross-validation needs labels"):
        vb.cross_validate(loose, "infonce")


def test_every_command_of_the_script_on_real_clips_can_be_parsed():
    """The script with `echo` in place of vidbench: a line for each call."""
    given = {**os.environ, "DATA": "/data", "VIDBENCH": "echo", "SEEDS": "1 2"}
    script = ROOT / "assets" / "real_clips.sh"
    said = subprocess.run(["bash", script], env=given, capture_output=True, text=True, check=True)
    calls = [_parser().parse_args(line.split()) for line in said.stdout.splitlines()]
    trained = [one for one in calls if one.command == "train"]
    assert [one.command for one in calls[:4]] == ["scan", "flow"] * 2 and len(trained) == 14
    for one in trained:
        presets = {"classify": classify.PRESETS, "coclr": coclr.PRESETS}[one.method]
        recipe = presets[one.preset]
        if one.method == "classify":
            with_changes(recipe, dict(one.change))
        assert one.folds == ("split" if one.videos == ["/data/arid6"] else "source:9")
        assert one.preset in training.SMALL  # which decode at the size of the flow above
    assert {dict(one.change).get("stream") for one in trained} == {None, "flow"}
