"""What notebooks 30 and 31 do with several data sets."""

import json

import numpy as np
import pytest

from tests import copied
from vidbench.engine.runs import Run
from vidbench.evaluate.projections import Relation
from vidbench.experiments import joint


@pytest.fixture
def sets(toy_tiny, toy_flow, tmp_path):
    """The tiny world twice."""
    made = {}
    for name in ("tiny", "other"):
        copied(toy_tiny.root, tmp_path / name / "videos")
        copied(toy_flow, tmp_path / name / "flow")
        made[name] = joint.Opened(tmp_path / name, toy_tiny)
    return made


def test_the_recipe_reads_every_data_set_and_the_plan_counts_them(sets):
    recipe = joint.recipe_of(sets, "tiny", [1], 2, {"projection": 0.0})
    assert [part.name for part in recipe.parts] == ["tiny", "other"]
    assert recipe.fit.epochs == 2 and recipe.projection == 0.0
    assert [part.clip.flip for part in recipe.parts] == [None, 0.0]
    plan = joint.plan_rows(recipe)
    assert [row["data"] for row in plan] == ["tiny", "other"]
    assert {"mixed with tiny", "mixed with other", "seen"} <= set(plan[0])


def test_costs_are_those_of_the_supplement():
    assert [round(row["times the cost"], 2) for row in joint.cost_rows()] == [1.0, 1.34, 1.92]


def test_epochs_are_those_of_the_supplement():
    rows = {row["epoch of"]: row for row in joint.epoch_rows()}
    assert rows["Kinetics-400"]["samples a second"] == pytest.approx(75.2, rel=0.01)
    assert rows["Kinetics-400, MViTv2's own code"]["samples a second"] == pytest.approx(91.0)
    assert rows["Kinetics-700"]["seconds"] == 6900 and rows["ImageNet-1K"]["seconds"] == 1800
    # about a tenth a sample, as the supplement says
    assert rows["ImageNet-1K"]["cost a sample"] == pytest.approx(1 / 9.5, rel=0.01)
    assert rows["ImageNet-21K-P"]["cost a sample"] == pytest.approx(1 / 13.4, rel=0.01)


def test_a_joint_run_has_curves_scores_and_relations(multitrained, tmp_path):
    from vidbench.data.manifest import Manifest

    run = Run(copied(multitrained[0], tmp_path / "whole"))
    terms, levels = joint.informative(run)
    assert [*terms] == ["variance", "covariance"] and levels["noise alone"] > 0
    assert [*joint.accuracies(run)] == ["first", "second"]
    parts = {part.name: part.manifest for part in run.recipe.parts}
    sets = {name: joint.Opened(tmp_path, Manifest.load(at)) for name, at in parts.items()}
    found = joint.tested(sets, dict.fromkeys(sets, run.folder), ["one_view"])
    assert [*found] == ["first", "second"] and 0 <= found["first"].accuracy <= 1
    related = joint.relations_of(run, sets, "train")
    assert set(related) == {("first", "second"), ("second", "first")}
    assert joint.planted(related) == {}
    assert joint.planted_rows(related, {}) == [{"planted": "nothing"}]


def test_relations_see_segments_where_training_saw_them(multitrained, tmp_path):
    """Notebook 31's example of Something-Something: 32 consecutive frames are no such clip."""
    from vidbench.data.manifest import Manifest

    run = Run(copied(multitrained[0], tmp_path / "whole"))
    path = run.folder / "recipe.json"
    held = json.loads(path.read_text())
    parts = held["recipe"]["parts"]
    parts[1]["clip"] |= {"sampling": "random_segments", "flip": 0.0}
    path.write_text(json.dumps(held))
    sets = {one["name"]: joint.Opened(tmp_path, Manifest.load(one["manifest"])) for one in parts}
    joint.relations_of(Run(run.folder), sets, "test")
    files = [file.name for file in (run.folder / "features").glob("*.npz")]
    assert sorted("-segments-" in name for name in files) == [False, True]


def test_planted_pairs_are_known_between_toy_worlds():
    from vidbench.data.toy.world import WORLDS

    base, gym = (tuple(WORLDS[name].classes) for name in ("base", "gym"))
    rng = np.random.default_rng(0)
    found = {
        ("tiny", "tiny-gym"): Relation(
            "tiny", "tiny-gym", base, gym, {"raw": rng.random((len(base), len(gym)))}
        )
    }
    truth = joint.planted(found)
    assert truth["tiny", "tiny-gym"][base.index("squat"), gym.index("knee_bend")]
    rows = joint.planted_rows(found, truth)
    assert [row["ranked from"] for row in rows] == ["source", "target"]
