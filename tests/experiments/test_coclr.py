"""The replication: its ladder of equal budgets, its differences and shares by hand, and a small one
end to end."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from vidbench.engine.runs import Run
from vidbench.experiments import coclr as experiment
from vidbench.experiments.coclr import Case, Settings, ladders, outcome, pairs, stages, title
from vidbench.experiments.compare import pick
from vidbench.experiments.ladders import ABLATIONS, METRICS
from vidbench.experiments.records import Record
from vidbench.methods import coclr

TINY = replace(coclr.PRESETS["tiny"], cycles=2)


@pytest.fixture
def case(toy_tiny, tmp_path):
    toy_tiny.save(tmp_path / "videos")
    return Case(tmp_path / "seed-1", tmp_path / "videos", tmp_path / "flow", "test", 1)


def clips_of(made, name):
    """Epochs of a run and of the runs it continues, by its recipes."""
    recipe = made[name]
    return recipe.fit.epochs + (
        clips_of(made, recipe.student.rpartition("/")[2]) if recipe.student else 0
    )


def test_every_rung_has_one_clip_budget_and_ablations_differ_in_one_switch(case):
    made = stages(case, Settings(preset=TINY, clips=1000))
    rungs = ladders({*made, *(name.replace("rgb", "both") for name in made)})
    assert len(rungs) == 6 and rungs[0] == ("infonce-rgb-1", "coclr-rgb", "ubernce-rgb-1")
    for rung in rungs:
        if "both" not in rung[0]:
            assert len({clips_of(made, name) for name in rung}) == 1
            assert len({made[name].stream for name in rung}) == 1
    assert made["ubernce-flow-2"].student.endswith("seed-1/ubernce-flow-1")
    assert made["infonce-rgb-1"].student == made["coclr-rgb"].student
    for name, (fellow, changes) in ABLATIONS.items():
        differ = {k for k in vars(made[name]) if getattr(made[name], k) != getattr(made[fellow], k)}
        assert differ <= set(changes) and len(changes) == 1
    assert len({recipe.manifest for recipe in made.values()}) == 1


def test_small_data_sets_get_a_smaller_batch_queue_and_k():
    settings = Settings(preset=coclr.PRESETS["toy"], clips=1400)
    toy, small = experiment.fitted(settings, 720).together, experiment.fitted(settings, 32).together
    assert (toy.fit.batch, toy.queue, toy.topk, toy.held_out) == (32, 512, 20, 0.0)
    assert (small.fit.batch, small.queue, small.topk) == (16, 16, 1)
    assert (
        toy.fit.epochs * 22 * 32 == pytest.approx(1400, rel=0.05)
        and small.fit.epochs * 2 * 16 == 44 * 32
    )


def lines(seed, **arms):
    """Records of one repetition: the same hits by both metrics."""
    first = np.arange(4)
    made = []
    for arm, hits in arms.items():
        for metric in ("R@1", "probe"):
            numbers = {
                "clips": 10.0,
                "epochs": 1.0,
                "seconds": 1.0,
                "cross-entropy": 0.5,
                "calibration error": 0.1,
            }
            hit = np.array(hits, bool)
            name = arm.replace("_", "-")
            made.append(Record("toy", seed, name, metric, "x", hit, numbers, None, first, "c0"))
        first = None
    return made


def test_differences_and_shares_closed_are_those_of_the_means():
    one = dict(infonce_rgb_1=[1, 0, 0, 0], coclr_rgb=[1, 1, 0, 0], ubernce_rgb_1=[1, 1, 1, 0])
    two = dict(infonce_rgb_1=[0, 0, 0, 0], coclr_rgb=[0, 1, 1, 0], ubernce_rgb_1=[1, 1, 1, 1])
    found = outcome(
        [*lines(1, **one, coclr_rgb_k1=[0, 1, 0, 0]), *lines(2, **two, coclr_rgb_k1=[0, 1, 1, 0])]
    )
    values = {one.arm: one.value for one in pick(found, metric="R@1", minus="")}
    assert values == {
        "infonce-rgb-1": 0.125,
        "coclr-rgb": 0.5,
        "ubernce-rgb-1": 0.875,
        "coclr-rgb-k1": 0.375,
    }
    gaps = {(one.arm, one.minus): one for one in pick(found, metric="R@1") if one.minus}
    assert gaps["coclr-rgb", "infonce-rgb-1"].value == 0.375
    assert gaps["coclr-rgb", "infonce-rgb-1"].each == (0.25, 0.5)
    assert gaps["coclr-rgb-k1", "coclr-rgb"].each == (-0.25, 0.0)
    assert pairs(list(values)) == list(gaps)
    assert all(one.low <= one.value <= one.high for one in found if one.low is not None)
    (closed,) = pick(found, metric="R@1, share closed")
    assert (closed.arm, closed.value, closed.each) == ("coclr-rgb", 0.5, (0.5, 0.5))
    assert {one.value for one in pick(found, metric="probe, cross-entropy")} == {0.5}


def test_both_streams_are_compared_with_each():
    found = pairs(["coclr-rgb", "coclr-flow", "coclr-both", "infonce-both-1", "infonce-rgb-1"])
    assert ("coclr-both", "coclr-flow") in found and ("infonce-both-1", "infonce-rgb-1") in found


def test_the_names_of_a_repetition_are_those_of_its_stages(case):
    settings = Settings(preset=TINY, clips=1000)
    alone = [name for name in experiment.names(settings) if "-both" not in name]
    assert set(alone) == stages(case, settings).keys()
    assert experiment.names(settings).count("coclr-both-2") == 1


def test_a_named_world_is_compared_without_ablations():
    made = experiment.settings_for("toy-mixed", (1, 2), (), clips=800, cycles=2, quick=False)
    assert (made.kind, made.data, made.ablations, made.seeds) == ("mixed", "", False, (1, 2))
    assert experiment.toy_world("toy-mars") == "" == experiment.toy_world("mixed")


def test_a_quick_trial_is_one_repetition_of_one_cycle():
    made = experiment.settings_for("", seeds=(4, 5), folds=(), clips=800, cycles=2, quick=True)
    assert (made.seeds, made.clips, made.preset.cycles, made.ablations) == ((4,), 200, 1, False)
    whole = experiment.settings_for("", seeds=(4, 5), folds=(), clips=800, cycles=2, quick=False)
    assert (whole.seeds, whole.clips, whole.preset, whole.ablations) == (
        (4, 5),
        800,
        coclr.PRESETS["toy"],
        True,
    )
    real = experiment.settings_for(
        "videos", seeds=(1,), folds=(2, 3), clips=800, cycles=1, quick=False
    )
    assert (real.folds, real.short_side, real.ablations) == ((2, 3), 64, False)


def test_names_for_people():
    assert [
        title(name)
        for name in ("infonce-rgb", "infonce-flow-2", "coclr-rgb", "coclr-both-2", "coclr-rgb-k5")
    ] == [
        "InfoNCE RGB, init",
        "InfoNCE flow, cycle 2",
        "CoCLR RGB, cycle 1",
        "CoCLR two-stream, cycle 2",
        "CoCLR RGB, k = 5",
    ]


@pytest.mark.slow
def test_a_small_replication_end_to_end_and_again(tmp_path, monkeypatch):
    preset = replace(coclr.PRESETS["tiny"], cycles=1)
    for name in [*ABLATIONS][1:]:
        monkeypatch.delitem(ABLATIONS, name)
    settings = Settings(preset=preset, seeds=(1,), world="tiny", clips=200)
    path = experiment.replicate(tmp_path / "out", settings)
    facts = json.loads((tmp_path / "out" / "numbers.json").read_text())
    names = {row["arm"] for row in facts["numbers"]}
    assert {"infonce-rgb", "coclr-flow", "ubernce-both-1", "coclr-rgb-k1"} <= names and len(
        names
    ) == 16
    shares = [row for row in facts["numbers"] if not row["minus"] and row["metric"] in METRICS]
    own = [row for row in facts["numbers"] if not row["minus"]]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in shares)
    clips = {name: budget["clips"] for name, budget in facts["budgets"].items()}
    assert clips["coclr-both"] == clips["coclr-rgb"] + clips["coclr-flow"] > 0
    with (tmp_path / "out" / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(facts["numbers"]) > len(own) > len(shares) == 2 * len(names)
    alone = [row for row in own if row["metric"] == "train loss"]
    assert {row["arm"] for row in alone} == {name for name in names if "-both" not in name}
    page = path.read_text()
    assert "CoCLR RGB, cycle 1" in page and "k = 1" in page and 'src="http' not in page
    results = Run(tmp_path / "out" / "seed-1" / "coclr-rgb").results()
    assert {name.split()[0] for name in results} == {"retrieval", "probe"}
    first = (tmp_path / "out" / "numbers.csv").read_bytes()
    experiment.replicate(
        tmp_path / "out", settings
    )  # all complete: nothing is trained, the same numbers
    assert (tmp_path / "out" / "numbers.csv").read_bytes() == first
    elsewhere = tmp_path / "elsewhere"  # the record alone resumes there, without runs and videos
    elsewhere.mkdir()
    shutil.copy(tmp_path / "out" / "runs.csv", elsewhere)
    experiment.replicate(elsewhere, settings)
    assert (elsewhere / "numbers.csv").read_bytes() == first
    assert "CoCLR RGB, cycle 1 - InfoNCE RGB, cycle 1" in (elsewhere / "page.md").read_text()
