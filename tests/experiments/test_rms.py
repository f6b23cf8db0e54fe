"""The paired experiment on RMS: arms that differ in one thing, differences by hand, a small one
whole."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate.features import Features, Protocol
from vidbench.experiments import arms, effects, rms
from vidbench.experiments.compare import Measured, pick
from vidbench.experiments.records import Book
from vidbench.methods import classify


def tiny(data: str = "toy-1", **changes) -> arms.Experiment:
    one = arms.experiment(data, (1,), quick=True)
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
    made = {arm: rms.with_arm(base, arm) for arm in arms.ARMS}
    assert not made["baseline"].regularizer and not made["baseline"].mixing
    for arm, recipe in made.items():
        differ = {
            name
            for name in vars(recipe)
            if getattr(recipe, name) != getattr(made["baseline"], name)
        }
        changed = {"baseline": set(), "cutmix": {"mixing"}, "decay": {"fit"}}
        assert differ == changed.get(arm, {"regularizer"})
        assert classify.Classifier(replace(recipe, classes=("a", "b"))).encoder.out_channels
    assert made["decay"].fit == replace(base.fit, weight_decay=5e-4)
    assert made["random-drop-8"].regularizer.last == 0.8
    for arm in ("rms", "rms-gauss", "whole", "high", "rms-valid", "rms-replicate", "rms-half"):
        assert made[arm].regularizer.stages == (4, 5) and made[arm].regularizer.kernel == (
            1,
            3,
            3,
        )
    assert (
        made["random-drop"].regularizer.stages == ()
        and made["shake-drop"].regularizer.kernel is None
    )
    with pytest.raises(ValueError, match="an arm must be one of baseline, rms"):
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
        arms.experiment("toy-5", (4, 5)),
        arms.experiment(str(tmp_path / "pictures"), (4, 5)),
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
    quick = arms.experiment("toy-10", (4, 5), quick=True)
    assert (quick.seeds, quick.source_videos, quick.recipe.fit.epochs, toy.recipe.fit.epochs) == (
        (4,),
        10,
        5,
        40,
    )
    longer = arms.experiment("toy-10", (4,), longer=3, arms=("rms",))
    assert longer.recipe.fit.epochs == 60 and longer.arms == ("baseline", "rms")
    for chosen in (("cutout",), ("baseline",), ()):
        with pytest.raises(ValueError, match="arms must be among baseline, rms"):
            arms.experiment("toy-10", arms=chosen)
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


def folder_of_pictures(place, each=6):
    """Pictures of two classes: `each` for training and one for testing per class."""
    for split, count in (("train", each), ("test", 1)):
        for number, kind in enumerate(("cat", "dog")):
            (place / split / kind).mkdir(parents=True)
            for i in range(count):
                picture = np.full((32, 32, 3), 20 * i + 120 * number, np.uint8)
                Image.fromarray(picture).save(place / split / kind / f"{i}.png")
    return place


def test_the_cifar_plan_has_the_seeds_and_arms_that_two_hours_allow(tmp_path):
    data = str(folder_of_pictures(tmp_path / "cifar"))
    short, middle, long = arms.pictures(data)
    assert [one.recipe.fit.epochs for one in (short, middle, long)] == [40, 120, 240]
    assert [len(one.seeds_of("rms")) for one in (short, middle, long)] == [6, 12, 4]
    assert middle.seeds_of("cutmix") == middle.seeds_of("decay") == (1, 2, 3)
    assert long.arms == ("baseline", "rms") and "random-drop-8" in short.arms
    steps = sum(
        15 * one.recipe.fit.epochs * len(one.seeds_of(arm))
        for one in (short, middle, long)
        for arm in one.arms
    )
    assert steps == 135_000  # 0.09 CPU seconds each: 1.7 hours of two cores
    assert {one.place for one in (short, middle, long)} == {"cifar"}
    fit = middle.recipe.fit
    assert (fit.optimizer, fit.lr, fit.batch, fit.schedule) == ("sgd", 0.1, 32, "cosine")
    whole = arms.pictures(data, whole=True)
    assert all(len(one.seeds_of("cutmix")) == len(one.seeds) for one in whole)
    marks = {rms.recipe_mark(one, "rms", 1) for one in (short, middle, long)}
    assert len(marks) == 3 and rms.recipe_mark(whole[0], "rms", 1) in marks
    (video,) = arms.long_video()
    assert (len(video.seeds), video.seeds_of("rms-half"), video.recipe.fit.epochs) == (
        8,
        (1, 2, 3),
        60,
    )
    (quick,) = arms.shorter([video])
    assert (quick.seeds, quick.recipe.fit.epochs) == ((1,), 6)


def test_training_pictures_that_are_not_drawn_are_a_test(tmp_path):
    data = str(folder_of_pictures(tmp_path / "pictures"))
    one = replace(arms.pictures(data)[0], source_videos=4)
    few = Manifest.load(rms.videos(one, tmp_path / "out", 1))
    apart = Manifest.load(tmp_path / "out" / "pictures" / "data" / "few-4" / "undrawn")
    drawn = set(few.select(split="train").path)
    assert len(drawn) == 8 and len(apart) == 4 and not drawn & set(apart.path)
    assert apart.held_out() == "test" and apart.classes == few.classes


def result(hits, train=1.0, seconds=1.0, loss=0.5):
    hits = np.asarray(hits, bool)
    values = np.stack([1.0 - hits, hits], axis=1).astype(np.float32)
    rows, labels = np.arange(len(hits)), np.ones(len(hits), np.int64)
    table = Features(values, labels, rows, ("a", "b"), {"rows": "x"})
    test = "one view"
    return Measured(
        {test: hits},
        rows,
        train,
        seconds,
        table,
        train_loss=0.1,
        steps=30,
        loss={test: loss},
        calibration={test: 0.05},
        labels={test: labels},
        sources={test: rows},
    )


def test_differences_gaps_and_times_are_those_of_the_same_seed(tmp_path):
    views = {"one view": Protocol(windows=1)}
    one = tiny(views=views, arms=("baseline", "rms"), seeds=(1, 2, 3), few={"rms": 2})
    found = {
        (1, "baseline"): result([1, 0, 0, 0], seconds=2.0),
        (1, "rms"): result([1, 1, 1, 0], train=0.8, seconds=3.0, loss=0.3),
        (2, "baseline"): result([1, 1, 0, 0]),
        (2, "rms"): result([1, 1, 1, 0], train=0.8, loss=0.4),
        (3, "baseline"): result([1, 1, 1, 1]),
    }
    book = Book(tmp_path / "runs.csv")
    for (seed, arm), run in found.items():
        book.add(rms.records(one, seed, arm, run))
    made = rms.outcome(one, Book(tmp_path / "runs.csv"))
    base, ours = pick(made, metric="one view", minus="")
    assert (base.value, ours.value, ours.each) == (pytest.approx(7 / 12), 0.75, (0.75, 0.75))
    (gain,) = pick(made, minus="baseline", metric="one view")
    assert (gain.arm, gain.value, gain.each) == ("rms", 0.375, (0.5, 0.25))
    low, high = stats.t.interval(0.95, 1, 0.375, 0.125)
    assert (gain.low, gain.high) == (pytest.approx(low), pytest.approx(high))
    base, ours = pick(made, metric="train - test")
    assert ours.value == pytest.approx(0.05) and base.value == pytest.approx(5 / 12)
    assert [time.value for time in pick(made, metric="time")] == [1.0, 1.25]
    assert [one.each for one in pick(made, metric="learned")] == [(0, 1, 1), (1, 1)]
    (calm,) = pick(made, metric="one view, cross-entropy", minus="baseline")
    assert calm.each == pytest.approx((-0.2, -0.1))
    assert pick(made, metric="one view, calibration error", arm="rms", minus="")[0].value == 0.05
    (row,) = rms.classes(one, book)
    assert (row["action"], row["before"], row["after"], row["gain"]) == ("b", 0.375, 0.75, 0.375)


def test_the_page_and_the_figures_over_steps_come_from_the_record(tmp_path):
    """Three lengths of one place; the whole record is written, read and shown without any run."""
    data = str(folder_of_pictures(tmp_path / "cifar"))
    plan = [
        replace(one, seeds=(1, 2), arms=("baseline", "rms"), few={}) for one in arms.pictures(data)
    ]
    book = Book(tmp_path / "out" / "runs.csv")
    for number, one in enumerate(plan):
        for seed, arm in product(one.seeds, one.arms):
            hits = np.arange(200) < 80 + 20 * number * (arm == "rms") + seed
            run = result(hits)
            tests = {"one view": hits, "undrawn": ~hits}
            names = ("loss", "calibration", "labels", "sources")
            both = {name: dict.fromkeys(tests, getattr(run, name)["one view"]) for name in names}
            run = replace(run, hits=tests, steps=15 * one.recipe.fit.epochs, **both)
            book.add(rms.records(one, seed, arm, run))
    path = rms.replicate(tmp_path / "out", plan)
    words = (tmp_path / "out" / "page.md").read_text()
    assert "12 runs" in words and "| cifar-240 | 3600 | 2 | +20.0 [14." in words
    claims = {line.split(" | ")[0]: line.split(" | ")[-1] for line in words.splitlines()}
    assert claims["| cifar-240"] == "holds |" and claims["| cifar-40"].startswith("does not hold")
    assert "undrawn - baseline" in words and "0 of 2" in words
    page = path.read_text()
    assert "each minus the baseline, over steps of training" in page and "1800" in page
    facts = json.loads((tmp_path / "out" / "numbers.json").read_text())
    figures = effects.over_steps(rms.outcome(plan[0], book), facts["experiments"][:1])
    assert figures == []  # one length has no line


@pytest.mark.slow
def test_a_small_experiment_whole_and_again(tmp_path, monkeypatch, toy_tiny):
    monkeypatch.setattr(
        rms.toy, "render", lambda folder, *_, **__: (toy_tiny.save(folder), toy_tiny)[1]
    )
    one = tiny(arms=("baseline", "shake-drop"))
    data = str(folder_of_pictures(tmp_path / "pictures"))
    two = replace(
        arms.pictures(data)[0], source_videos=4, seeds=(1,), arms=("baseline", "rms"), few={}
    )
    fit = replace(two.recipe.fit, epochs=1, save_every=1, batch=4)
    plan = [one, replace(two, recipe=replace(two.recipe, fit=fit))]
    path = rms.replicate(tmp_path / "out", plan)
    facts = json.loads((tmp_path / "out" / "numbers.json").read_text())
    own = [row for row in facts["numbers"] if row["data"] == one.name]
    rows = [row for row in own if row["metric"] in one.views and not row["minus"]]
    assert [(row["arm"], row["metric"]) for row in rows] == [
        (arm, test) for test in one.views for arm in one.arms
    ]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    losses = [row["value"] for row in facts["numbers"] if row["metric"].endswith("cross-entropy")]
    assert len(losses) > 8 and all(value == value for value in losses)
    with (tmp_path / "out" / "numbers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(facts["numbers"])
    page = path.read_text()
    assert "ShakeDrop" in page and "not available" in page and 'src="http' not in page
    run = Run(tmp_path / "out" / "toy-1" / "seed-1" / "shake-drop")
    assert len(run.results()) == 2 and all(name.startswith("classes ") for name in run.results())
    apart = Book(tmp_path / "out" / "runs.csv").at("cifar-40", "undrawn")
    assert apart.keys() == {(1, "baseline"), (1, "rms")}
    assert apart[1, "baseline"].labels.tolist() == ["cat", "cat", "dog", "dog"]
    first = (tmp_path / "out" / "numbers.csv").read_bytes()
    monkeypatch.setattr(rms.classify, "train", None)  # all complete: nothing is trained
    rms.replicate(tmp_path / "out", plan)
    assert (tmp_path / "out" / "numbers.csv").read_bytes() == first
    elsewhere = tmp_path / "elsewhere"  # the record alone resumes there, without runs and videos
    elsewhere.mkdir()
    shutil.copy(tmp_path / "out" / "runs.csv", elsewhere)
    rms.replicate(elsewhere, plan)
    assert (elsewhere / "numbers.csv").read_bytes() == first
    assert {file.name for file in elsewhere.iterdir()} >= {"runs.csv", "page.md", "report.html"}
    assert not (elsewhere / "toy-1").exists()
