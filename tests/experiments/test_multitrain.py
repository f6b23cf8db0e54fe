"""The experiment on joint training: arms that differ in what they say, numbers by hand, a small one
whole."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from vidbench.data.toy import world as toy
from vidbench.engine.runs import Run
from vidbench.experiments import multitrain as multi
from vidbench.experiments.compare import Measured, pick
from vidbench.methods import multitrain

WORLDS = ("toy-base", "toy-gym")


@pytest.fixture
def small(monkeypatch):
    """Worlds of two classes' worth of rendering time: the tiny ones under the name of the small."""
    monkeypatch.setitem(
        toy.PRESETS, "small", replace(toy.PRESETS["tiny"], source_videos=4, clips=2)
    )


def tiny(data=WORLDS, **changes) -> multi.Experiment:
    one = multi.experiment(data, "toy_rgb", (1,), quick=True)
    recipe = replace(
        one.recipe,
        network_args={"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4},
        hidden=8,
        expander=(8, 8),
    )
    recipe = replace(
        recipe,
        fit=replace(recipe.fit, epochs=1, save_every=1),
        clip=replace(recipe.clip, frames=4, augment=replace(recipe.clip.augment, size=32)),
    )
    return replace(one, recipe=recipe, **{"start": 1, **changes})


def test_the_experiment_reads_its_data_and_refuses_what_it_does_not_know(tmp_path):
    one = multi.experiment(["toy-base", "toy-street"], seeds=(4, 5), arms=("both", "joint"))
    assert one.names == ("toy-base", "toy-street") and one.worlds == {
        "toy-base": "base",
        "toy-street": "street",
    }
    assert (one.arms, one.seeds, one.start) == (("joint", "both"), (4, 5), 24)
    quick = multi.experiment(WORLDS, quick=True)
    assert (quick.seeds, quick.start, quick.recipe.fit.epochs * 4) == (
        (1,),
        6,
        one.recipe.fit.epochs,
    )
    for data, changes, says in (
        (["toy-base"], {}, "two or more"),
        (["toy-base", "toy-moon"], {}, "toy-gym"),
        (WORLDS, {"preset": "huge"}, "tiny, toy, toy_rgb"),
        (WORLDS, {"arms": ("all",)}, "alone, alone-long, joint"),
        (["toy-base", "toy-base"], {}, "two or more"),
    ):
        with pytest.raises(ValueError, match=says):
            multi.experiment(data, **changes)
    (tmp_path / "mine" / "jump").mkdir(parents=True)
    (tmp_path / "mine" / "jump" / "a.mp4").touch()
    mixed = multi.experiment(["toy-base", str(tmp_path / "mine")])
    assert mixed.names == ("toy-base", "mine") and mixed.worlds == {"toy-base": "base"}
    assert mixed.clips == {"mine": multitrain.ClipChange(stride=4, decode_size=64)}
    assert (mixed.recipe.mix.kind, one.recipe.mix.kind) == ("balanced", "natural")


@pytest.mark.slow
def test_arms_differ_in_their_losses_and_single_ones_in_their_length(small, tmp_path):
    one = tiny()
    one = replace(
        one, recipe=replace(one.recipe, fit=replace(one.recipe.fit, epochs=4, warmup_epochs=1))
    )
    made = multi.stages(one, tmp_path, 1)
    assert list(made) == [
        "start",
        "alone-toy-base",
        "alone-toy-gym",
        "alone-long-toy-base",
        "alone-long-toy-gym",
        "joint",
        "projection",
        "informative",
        "both",
    ]
    weights = {name: (made[name].projection, made[name].informative) for name in made}
    assert weights["joint"] == weights["start"] == weights["alone-toy-gym"] == (0.0, 0.0)
    assert (weights["projection"], weights["informative"], weights["both"]) == (
        (1.0, 0.0),
        (0.0, 0.1),
        (1.0, 0.1),
    )
    videos = {
        part.name: len(multitrain.rows_of(replace(made["joint"], parts=(part,)))[0][0])
        for part in made["joint"].parts
    }
    for name, count in videos.items():
        long = made[f"alone-long-{name}"].fit
        assert made[f"alone-{name}"].fit.epochs == 4 and long.epochs == round(
            4 * sum(videos.values()) / count
        )
        assert long.warmup_epochs / long.epochs == pytest.approx(1 / 4)
    assert {recipe.init for name, recipe in made.items() if name != "start"} == {
        str(tmp_path / "seed-1" / "start")
    }
    assert made["start"].init == "" and made["joint"].fit.lr == made["start"].fit.lr / 2
    scratch = multi.stages(replace(one, start=0), tmp_path, 1)
    assert "start" not in scratch and scratch["joint"].init == ""


def found(rates: dict) -> dict:
    """Of each arm and data set so many of ten test videos right, each a source video, two seeds."""
    rng = np.random.default_rng(0)
    return {
        (seed, arm, name): Measured(
            {"4 views": rng.permutation(10) < right}, np.arange(10), 1.0, 1.0, None
        )
        for seed in (1, 2)
        for arm, of in rates.items()
        for name, right in of.items()
    }


def test_numbers_are_means_over_seeds_and_differences_are_paired():
    rates = {
        "alone": {"toy-base": 5, "toy-gym": 9},
        "joint": {"toy-base": 8, "toy-gym": 7},
        "both": {"toy-base": 8, "toy-gym": 7},
    }
    one = tiny(seeds=(1, 2), arms=tuple(rates))
    numbers = multi.outcome(one, found(rates))
    for name, gain in (("toy-base", 0.3), ("toy-gym", -0.2)):  # one gains, the other loses
        (own,) = pick(numbers, data=name, arm="joint", metric="top-1", minus="")
        assert own.value == pytest.approx(rates["joint"][name] / 10)
        assert own.low < own.value < own.high
        (less,) = pick(numbers, data=name, arm="joint", minus="alone")
        assert less.value == pytest.approx(gain)
        bases = {arm: [x.minus for x in pick(numbers, data=name, arm=arm)] for arm in rates}
        assert bases["both"] == ["", "alone", "joint", ""] and bases["alone"] == ["", "joint", ""]
    facts = {"data": WORLDS, "seeds": one.seeds, "test_videos": dict.fromkeys(WORLDS, 10)}
    facts["recipe"] = {"fit": {"epochs": 1}}
    pair = [number for number in numbers if "both" not in (number.arm, number.minus)]
    for some, count in ((numbers, 3), (pair, 2)):  # joint is compared with nothing but `alone`
        assert len(multi.report(facts, some)) == count
    table = multi.top1(facts, numbers)
    assert (
        "75.0" in table and "80.0" in table and "70.0" in table
    )  # the mean never without its parts


@pytest.mark.slow
def test_a_small_one_whole(small, tmp_path, capsys):
    one = tiny(arms=("alone", "joint", "both"))
    page = multi.replicate(tmp_path, one)
    text, facts = page.read_text(), json.loads((tmp_path / "numbers.json").read_text())
    assert "Planted pairs found" in text and "jointly" in text and "+ both" in text
    top1 = {(row["data"], row["arm"]) for row in facts["numbers"] if row["metric"] == "top-1"}
    assert top1 == {(name, arm) for name in WORLDS for arm in one.arms}
    pairs = [row for row in facts["numbers"] if row["data"] == "planted pairs"]
    for arm, readouts in (
        ("joint", {"behavioral"}),
        ("both", {"raw", "centered", "scaled", "behavioral"}),
    ):
        metrics = [row["metric"].split(", ") for row in pairs if row["arm"] == arm]
        assert {name for _, name, _ in metrics} == readouts
        assert len(metrics) == 4 * len(readouts)  # top-1 and rank, from the source and the target
    chances = [row for row in pairs if row["arm"] == "chance"]
    assert len(chances) == 16 and all(0 < row["value"] < 0.5 for row in chances)
    matches = {
        line["class"]
        for line in toy.correspondence()
        if {line["world"], line["other_world"]} == {"base", "gym"} and line["matches"]
    }
    for row in pairs:  # 9 + 8 classes of the two worlds have a match in the other
        if row["metric"].startswith("top-1") and row["arm"] != "chance":
            assert row["value"] * len(matches) == pytest.approx(round(row["value"] * len(matches)))
    with (tmp_path / "numbers.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["metric"] for line in lines} >= {
        "top-1",
        "reciprocal rank, raw, from the target",
    }
    run = Run(tmp_path / "seed-1" / "both")
    assert {one.protocol["data"] for one in run.results().values()} == set(WORLDS)
    before = run.checkpoint().stat().st_mtime_ns
    multi.replicate(tmp_path, one)
    assert run.checkpoint().stat().st_mtime_ns == before  # what is complete is not trained again
