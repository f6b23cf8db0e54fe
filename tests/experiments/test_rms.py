"""The paired experiment on RMS: arms that differ in one thing, differences by hand, a small one
whole."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vidbench.engine.runs import Run
from vidbench.evaluate.features import Features, Protocol
from vidbench.experiments import rms
from vidbench.experiments.compare import Measured, pick
from vidbench.methods import classify


def tiny(data: str = "toy-1", **changes) -> rms.Experiment:
    one = rms.experiment(data, (1,), quick=True)
    recipe = replace(
        one.recipe, network_args={"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4}
    )
    recipe = replace(
        recipe,
        fit=replace(recipe.fit, epochs=1, save_every=1),
        clip=replace(recipe.clip, frames=4, augment=replace(recipe.clip.augment, size=32)),
    )
    return replace(one, recipe=recipe, **changes)


def test_arms_differ_from_the_baseline_in_one_field_and_rms_keeps_its_place():
    base = classify.PRESETS["rms_tiny"]
    made = {arm: rms.with_arm(base, arm) for arm in rms.ARMS}
    assert not made["baseline"].regularizer and not made["baseline"].mixing
    for arm, recipe in made.items():
        differ = {
            name
            for name in vars(recipe)
            if getattr(recipe, name) != getattr(made["baseline"], name)
        }
        assert differ == (
            set() if arm == "baseline" else {"mixing" if arm == "cutmix" else "regularizer"}
        )
        assert classify.Classifier(replace(recipe, classes=("a", "b"))).encoder.out_channels
    for arm in ("rms", "rms-gauss", "whole", "high"):
        assert made[arm].regularizer.stages == (4, 5) and made[arm].regularizer.kernel == (
            1,
            3,
            3,
        )
    assert (
        made["random-drop"].regularizer.stages == ()
        and made["shake-drop"].regularizer.kernel is None
    )
    with pytest.raises(ValueError, match="an arm is one of baseline, rms"):
        rms.with_arm(base, "cutout")
    with pytest.raises(ValueError, match="no RMS whose stages high could keep"):
        rms.with_arm(classify.PRESETS["slowfast_official"], "high")


def test_the_experiment_fits_what_the_folder_holds(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "pictures" / "train" / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(
            tmp_path / "pictures" / "train" / kind / "a.png"
        )
    toy, pictures = (
        rms.experiment("toy-5", (4, 5)),
        rms.experiment(str(tmp_path / "pictures"), (4, 5)),
    )
    assert (toy.seeds, toy.recipe.network, toy.source_videos, toy.folds) == (
        (4, 5),
        "csn",
        5,
        False,
    )
    assert (pictures.recipe.network, pictures.recipe.clip.frames, list(pictures.views)) == (
        "cifar_resnet",
        1,
        ["one view"],
    )
    quick = rms.experiment("toy-10", (4, 5), quick=True)
    assert (quick.seeds, quick.source_videos, quick.recipe.fit.epochs, toy.recipe.fit.epochs) == (
        (4,),
        10,
        5,
        40,
    )
    longer = rms.experiment("toy-10", (4,), longer=3, arms=("rms",))
    assert longer.recipe.fit.epochs == 60 and longer.arms == ("baseline", "rms")
    for arms in (("cutout",), ("baseline",), ()):
        with pytest.raises(ValueError, match="arms are of baseline, rms"):
            rms.experiment("toy-10", arms=arms)
    assert quick.arms == ("baseline", "rms", "rms-gauss", "whole", "high")


def test_few_sources_of_each_class_and_all_test_videos(toy_tiny):
    few = rms.fewer(toy_tiny, 2)
    train, test = few.select(split="train"), few.select(split="test")
    assert test.fingerprint() == toy_tiny.select(split="test").fingerprint()
    assert {
        len(np.unique(train.source_video[train.label == label])) for label in np.unique(train.label)
    } == {2}
    assert set(train.path) < set(toy_tiny.select(split="train").path)
    assert rms.fewer(toy_tiny, 2).fingerprint() == few.fingerprint()


def result(hits, train=1.0, seconds=1.0):
    hits = np.asarray(hits, bool)
    values = np.stack([1.0 - hits, hits], axis=1).astype(np.float32)
    table = Features(
        values, np.ones(len(hits), np.int64), np.arange(len(hits)), ("a", "b"), {"rows": "x"}
    )
    return Measured({"one view": hits}, np.arange(len(hits)), train, seconds, table)


def test_differences_gaps_and_times_are_those_of_the_same_seed():
    one = tiny(views={"one view": Protocol(windows=1)}, arms=("baseline", "rms"), seeds=(1, 2))
    found = {
        (1, "baseline"): result([1, 0, 0, 0], seconds=2.0),
        (1, "rms"): result([1, 1, 1, 0], train=0.8, seconds=3.0),
        (2, "baseline"): result([1, 1, 0, 0]),
        (2, "rms"): result([1, 1, 1, 0], train=0.8),
    }
    made = rms.outcome(one, found)
    base, ours = pick(made, metric="one view", minus="")
    assert (base.value, ours.value, ours.each) == (0.375, 0.75, (0.75, 0.75))
    (gain,) = pick(made, minus="baseline")
    assert (gain.arm, gain.value, gain.each) == ("rms", 0.375, (0.5, 0.25))
    assert gain.low < gain.value < gain.high
    base, ours = pick(made, metric="train - test")
    assert ours.value == pytest.approx(0.05) and base.value == pytest.approx(0.625)
    assert [time.value for time in pick(made, metric="time")] == [1.0, 1.25]
    (row,) = rms.classes(one, found)
    assert (row["action"], row["before"], row["after"], row["gain"]) == ("b", 0.375, 0.75, 0.375)


@pytest.mark.slow
def test_a_small_experiment_whole_and_again(tmp_path, monkeypatch, toy_tiny):
    monkeypatch.setattr(
        rms.toy, "render", lambda folder, *_, **__: (toy_tiny.save(folder), toy_tiny)[1]
    )
    one = tiny(arms=("baseline", "rms", "shake-drop", "cutmix"))
    path = rms.replicate(tmp_path / "out", [one])
    facts = json.loads((tmp_path / "out" / "numbers.json").read_text())
    rows = [row for row in facts["numbers"] if row["metric"] in one.views and not row["minus"]]
    assert [(row["arm"], row["metric"]) for row in rows] == [
        (arm, test) for test in one.views for arm in one.arms
    ]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    with (tmp_path / "out" / "numbers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(facts["numbers"])
    page = path.read_text()
    assert "ShakeDrop" in page and "not available" in page and 'src="http' not in page
    run = Run(tmp_path / "out" / "toy-1" / "seed-1" / "rms")
    assert len(run.results()) == 2 and all(name.startswith("classes ") for name in run.results())
    first = (tmp_path / "out" / "numbers.csv").read_bytes()
    monkeypatch.setattr(rms.classify, "train", None)  # all complete: nothing is trained
    rms.replicate(tmp_path / "out", [one])
    assert (tmp_path / "out" / "numbers.csv").read_bytes() == first
