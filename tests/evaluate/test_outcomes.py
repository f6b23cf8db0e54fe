"""What an evaluation keeps of each video, and two runs compared from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate import outcomes, paired
from vidbench.evaluate.outcomes import Outcome
from vidbench.methods import coclr

PROTOCOL = {"stream": "rgb", "windows": 4, "centering": "none"}
LABEL = np.repeat([0, 1, 2], 8)
RIGHT = np.array([1, 1, 1, 1, 0, 0, 0, 0] * 3, bool)


def manifest(**changes) -> Manifest:
    path, columns = np.array([f"{i}.mp4" for i in range(24)]), {"label": LABEL, **changes}
    columns = {"split": np.ones(24), "source_video": np.arange(24) // 2} | columns
    return Manifest(Path("videos"), ("bow", "clap", "wave"), path, **columns)


def outcome(right=RIGHT, task="retrieval", videos=None, **switches) -> Outcome:
    hits = {"R@1": right, "R@5": np.ones(24, bool)}
    predicted = np.where(right, LABEL, (LABEL + 1) % 3)
    protocol = {**PROTOCOL, **switches}
    return Outcome(task, protocol, videos or manifest(), hits, predicted, np.full(24, 0.5, "f4"))


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "runs" / "one")


def made(folder: Path) -> Run:
    folder.mkdir(parents=True)
    recipe = recipe_dict(coclr.PRESETS["tiny"].alone)
    (folder / "recipe.json").write_text(json.dumps({"method": "coclr", "recipe": recipe}))
    return Run(folder)


def kept(run: Run, one: Outcome) -> Outcome:
    numbers = {name: (float(hit.mean()), 0.0, 1.0) for name, hit in one.hits.items()}
    outcomes.add(run, one, numbers)
    return one


# ---- files


def test_an_outcome_is_read_back_whole_with_what_made_it(run):
    one = kept(run, outcome())
    other = kept(run, outcome(~RIGHT, centering="split"))
    for found, wanted in zip(outcomes.read(run.folder), (one, other), strict=True):
        assert (found.task, found.protocol) == (wanted.task, wanted.protocol)
        assert found.videos.fingerprint() == wanted.videos.fingerprint()
        assert found.videos.root == Path("videos").resolve()
        assert {name: hit.tolist() for name, hit in found.hits.items()} == {
            name: hit.tolist() for name, hit in wanted.hits.items()
        }
        assert np.array_equal(found.predicted, wanted.predicted)
        assert set(found.made_by) == {"version", "commit", "dirty"} and found.metric == "R@1"


def test_a_new_evaluation_replaces_the_outcome_of_its_protocol(run):
    kept(run, outcome())
    kept(run, outcome(~RIGHT))
    (found,) = outcomes.read(run.folder)
    assert np.array_equal(found.hits["R@1"], ~RIGHT)
    assert len(list((run.folder / "outcomes").iterdir())) == 1


def test_numbers_that_changed_without_their_videos_are_named(run):
    kept(run, outcome())
    run.add_result("retrieval", PROTOCOL, {"R@1": 0.75})
    with pytest.raises(RunError, match=r"its R@1 is 0.5000, there it is 0.75. Evaluate the run"):
        outcomes.read(run.folder)


@pytest.mark.parametrize("damage", ["cut", "pickle", "foreign"])
def test_a_damaged_outcome_is_named_and_nothing_in_it_runs(run, damage):
    kept(run, outcome())
    (path,) = (run.folder / "outcomes").iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "pickle":
        with np.load(path) as file:
            parts = {name: file[name] for name in file.files}
        np.savez(path, **{**parts, "path": np.array([{}] * 24, object)})
    else:
        np.savez(path, metrics=np.zeros(3))
    with pytest.raises(RunError, match="is damaged .* Delete it and evaluate the run again"):
        outcomes.read(run.folder)


def test_an_outcome_fits_its_videos():
    with pytest.raises(ValueError, match="one entry for each of its 24 videos"):
        replace(outcome(), predicted=np.zeros(3, int))
    with pytest.raises(ValueError, match=r"predicted must be -1..2; got 0..7"):
        replace(outcome(), predicted=np.arange(24) % 8)


# ---- two runs


def test_differences_are_paired_and_clips_are_gained_and_lost():
    better = RIGHT.copy()
    better[[4, 5, 6, 7]], better[8] = True, False  # bow gains four, clap loses one
    found = paired.paired(outcome(better), outcome(), ("new", "old"))
    assert {name: rows.tolist() for name, rows in found.moved().items()} == {
        "gained": [4, 5, 6, 7],
        "lost": [8],
        "both right": [0, 1, 2, 3, 9, 10, 11, 16, 17, 18, 19],
        "both wrong": [12, 13, 14, 15, 20, 21, 22, 23],
    }
    assert [(one.name, one.gap, one.videos, one.sources) for one in found.classes] == [
        ("bow", 0.5, 8, 4),
        ("wave", 0.0, 8, 4),
        ("clap", -0.125, 8, 4),
    ]
    gap = found.metrics[0]
    assert gap.low < gap.gap == 3 / 24 < gap.high and gap.significant is False
    assert found.sentence.startswith("new - old = +12.5 points R@1 [")
    assert found.sentence.endswith("]: not significant.")


def test_a_difference_that_every_source_shows_is_significant():
    found = paired.paired(outcome(np.ones(24, bool)), outcome(np.zeros(24, bool)))
    gap = found.metrics[0]
    assert (gap.low, gap.high, gap.significant) == (1.0, 1.0, True)
    assert found.sentence == "A - B = +100.0 points R@1 [+100.0, +100.0]: significant."


def test_one_source_video_has_no_interval():
    videos = manifest(source_video=np.zeros(24, int))
    found = paired.paired(outcome(videos=videos), outcome(~RIGHT, videos=videos))
    assert found.metrics[0].significant is None
    assert found.sentence.endswith("without an interval: all 24 videos are of one source video.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"centering": "split"}, "centering is 'none' and 'split'"),
        ({"task": "probe"}, "task is 'retrieval' and 'probe'"),
        ({"videos": manifest(label=LABEL[::-1].copy())}, "videos is '24-.*' and '24-"),
        ({"videos": manifest(source_video=LABEL)}, "source_video is 12 and 3"),
    ],
)
def test_what_keeps_two_runs_from_a_comparison_is_named(changes, words):
    with pytest.raises(ValueError, match=f"A and B cannot be compared: {words}"):
        paired.paired(outcome(), outcome(**changes))


def test_streams_may_differ_and_are_named():
    found = paired.paired(outcome(), outcome(stream="flow"))
    assert found.own == {"stream": ("rgb", "flow")}


def test_how_a_classifier_learned_is_the_run_and_how_a_probe_did_is_the_measurement():
    own = {"training": "sgd, 5 epochs", "head": "linear"}
    assert paired.paired(
        outcome(task="classes", **own), outcome(task="classes", **{**own, "head": "norm"})
    ).own == {"head": ("linear", "norm")}
    with pytest.raises(ValueError, match="head is 'logistic' and 'sgd'"):
        paired.paired(outcome(head="logistic"), outcome(head="sgd"))


def test_runs_are_compared_in_all_that_both_were_measured_in(tmp_path):
    one, other = (made(tmp_path / seed / "coclr-rgb") for seed in ("seed0", "seed1"))
    kept(one, outcome()), kept(one, outcome(task="probe")), kept(other, outcome(~RIGHT))
    (found,) = paired.compare(one.folder, other.folder)
    assert found.names == ("seed0/coclr-rgb", "seed1/coclr-rgb") and found.metric == "R@1"
    with pytest.raises(RunError, match="seed1/coclr-rgb keeps no predictions .* task 'probe'"):
        paired.compare(one.folder, other.folder, "probe")
    with pytest.raises(RunError, match="are the same run directory"):
        paired.compare(one.folder, one.folder)


def test_runs_without_a_common_measurement_say_the_nearest_switch(tmp_path):
    one, other = (made(tmp_path / name) for name in ("infonce", "coclr"))
    kept(one, outcome()), kept(one, outcome(task="probe", windows=1))
    kept(other, outcome(centering="gallery"))
    wanted = r"no measurement \(retrieval\) .*: centering is 'none' and 'gallery'. Evaluate both"
    with pytest.raises(RunError, match=wanted):
        paired.compare(one.folder, other.folder)
