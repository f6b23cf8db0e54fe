"""The demo: what its report says in words, and what it keeps in small for notebooks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.data.video.clips import Video
from vidbench.evaluate.search import Neighbors
from vidbench.experiments import demo, report, small

CLASSES = ("bow", "clap", "wave")


@pytest.fixture(scope="module")
def queries(toy_tiny) -> Manifest:
    return toy_tiny.select(split="test")


def evaluation(name: str, right: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(run=name, hits={"R@1": right}, budget={"iterations": 880})


def test_the_report_says_the_difference_at_equal_budgets(queries):
    n = len(queries)
    found = {
        "coclr-rgb": evaluation("coclr-rgb", np.ones(n, bool)),
        "infonce-rgb-long": evaluation("infonce-rgb-long", np.zeros(n, bool)),
    }
    said = report.difference(found, queries)
    assert said == (
        "CoCLR RGB - InfoNCE RGB, CoCLR's budget = +100.0 points R@1 [100.0, 100.0], significant."
    )


def test_the_gallery_has_a_query_of_each_class_in_three_runs_and_the_share_in_words(
    toy_tiny, queries
):
    train = toy_tiny.select(split="train")
    right = np.stack([np.flatnonzero(train.label == label)[:5] for label in queries.label])
    near = {"right": right, "first": np.tile(np.arange(5), (len(queries), 1))}
    found = {
        name: SimpleNamespace(neighbors=Neighbors(rows, np.ones(rows.shape, np.float32)))
        for name, rows in zip(
            report.SHOWN, (near["first"], near["right"], near["right"]), strict=True
        )
    }
    words, gallery = report._neighbors(train, queries, found)
    share = (train.label[:5] == queries.label[:, None]).mean()
    assert f"{share:.0%} with InfoNCE RGB, CoCLR's budget, 100% with CoCLR RGB" in words
    assert "100% with InfoNCE flow" in words
    assert gallery.count('title="query') == len(np.unique(queries.label))


def test_small_clips_are_small_and_play(queries, tmp_path):
    some = queries.select(mask=np.arange(2))
    small.small_clips(some, tmp_path / "videos", 0)
    small.small_clips(some, tmp_path / "videos", 0)  # what is there stays
    made = Manifest.load(tmp_path / "videos")
    assert made.label.tolist() == some.label.tolist() and made.root == tmp_path / "videos"
    for row in range(2):
        assert made.absolute(row).suffix == ".webm" and made.absolute(row).stat().st_size < 4000
        with Video(some.absolute(row)) as whole, Video(made.absolute(row)) as one:
            assert one.frames == -(-whole.frames // small.STEP)
            assert one.fps == pytest.approx(whole.fps / small.STEP)
            ours, theirs = (np.float32(v.read(np.arange(1)).frames) for v in (whole, one))
            assert np.abs(ours - theirs).mean() < 12


def test_who_made_it_is_said_without_hosts_and_folders():
    from vidbench.engine.environment import environment

    facts = small.facts_of(environment(), {"videos": 1.5})
    assert facts["command"] == "make demo" and facts["cpu"] and facts["seconds"] == {"videos": 1.5}
    assert not {"host", "parameters", "notebook"} & facts.keys() and "/" not in json.dumps(
        {name: facts[name] for name in ("command", "date", "commit", "device")}
    )


def test_examples_are_of_different_source_videos(toy_tiny):
    train = toy_tiny.select(split="train")
    some = small._examples(train)
    assert np.bincount(some.label).tolist() == [small.EXAMPLES] * len(train.classes)
    assert len(np.unique(some.source_video)) == len(some)


def test_the_seconds_of_a_resumed_demo_are_those_of_all_calls(tmp_path):
    for _ in range(2):
        clock = demo.Clock(tmp_path / "seconds.json")
        clock.last -= 30  # half a minute of training
        clock.mark("training")
    assert 60 <= clock.seconds["training"] < 61
    assert json.loads((tmp_path / "seconds.json").read_text()) == clock.seconds
