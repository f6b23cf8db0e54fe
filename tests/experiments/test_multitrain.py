"""MultiTrain's experiment: what its runs are, its records, numbers by hand, a miniature whole."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.data.tables import SPLITS
from vidbench.data.toy import world as toy
from vidbench.experiments import joint_report as report
from vidbench.experiments import joint_tests as tests
from vidbench.experiments import multitrain as multi
from vidbench.experiments.compare import pick
from vidbench.experiments.joint_tests import Scored
from vidbench.experiments.records import Book

MINI = toy.Preset(size=32, fps=8, frames=10, source_videos=4, clips=1)
PLANNED = replace(toy.PRESETS["small"], clips=1)  # the sources of `small`, a clip of each
POWER, DISAGREE = multi.REGIMES["power"], multi.REGIMES["disagree"]


def mini(one: multi.Regime, **changes) -> multi.Regime:
    """The regime on worlds of four source videos a class, with a network of a few channels."""
    recipe = replace(
        one.recipe,
        network_args={"frames": 4, "width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4},
        hidden=8,
        expander=(8, 8),
        fit=replace(one.recipe.fit, batch=8),
        clip=replace(
            one.recipe.clip, frames=4, stride=2, augment=replace(one.recipe.clip.augment, size=24)
        ),
    )
    return replace(one, recipe=recipe, size=MINI, **changes)


@pytest.fixture
def listed(monkeypatch):
    """Worlds that are planned and not drawn: manifests without videos."""

    def plan(folder, size, world, seed, *_, progress=False):
        rows = [
            (path, one.label, one.split, f"{world}/{one.name}")
            for one in toy.plan_videos(size, world, seed)
            for path in one.paths
        ]
        made = Manifest.from_rows(folder, rows, tuple(toy.WORLDS[world].classes))
        made.save(folder)
        return made

    monkeypatch.setattr(multi.toy, "render", plan)
    monkeypatch.setattr(multi.flow_store, "complete", lambda *_, **__: None)


def test_a_few_source_videos_of_each_class_and_at_least_one_of_each_action(listed, tmp_path):
    for world, count in (("street", 3), ("club", 1)):
        rows = multi.toy.render(tmp_path / world, PLANNED, world, 1)
        few = tests.drawn(rows, world, PLANNED, count, 1)
        shown = {f"{world}/{one.name}": one for one in toy.plan_videos(PLANNED, world, 1)}
        drawn = few.split == SPLITS.index("train")
        for label, name in enumerate(few.classes):
            mine = np.unique(few.source_video[drawn & (few.label == label)])
            parts = {shown[str(few.source_videos[one])].part for one in mine}
            every = {one.part for one in shown.values() if one.label == name}
            assert parts == every and len(mine) == max(count, len(every))
        undrawn = few.split == SPLITS.index("validate")
        assert (drawn | undrawn).sum() == (rows.split == SPLITS.index("train")).sum()
        assert (few.split == SPLITS.index("test")).sum() == (rows.split == 2).sum() > 0
        again = tests.drawn(rows, world, PLANNED, count, 1)
        assert np.array_equal(again.split, few.split)
    assert tests.drawn(rows, "club", PLANNED, 0, 1) is rows


def test_arms_differ_in_their_losses_and_single_ones_in_their_length(listed, tmp_path):
    fit = replace(POWER.recipe.fit, batch=8)
    one = replace(POWER, size=PLANNED, recipe=replace(POWER.recipe, fit=fit))
    made = multi.stages(one, tmp_path, 1, 600)
    assert list(made) == [
        *("joint", "projection", "informative", "both", "alone-epochs/toy-base"),
        *("alone-steps/toy-gym", "alone-epochs/toy-gym"),
        *("alone-steps/toy-street", "alone-epochs/toy-street"),
    ]
    weights = {name: (one.projection, one.informative) for name, one in made.items()}
    assert weights["joint"] == weights["alone-steps/toy-gym"] == (0.0, 0.0)
    assert weights["projection"] == (0.3, 0.0) and weights["informative"] == (0.0, 0.01)
    assert weights["both"] == (0.3, 0.01)
    videos = {"toy-base": 180, "toy-gym": 21, "toy-street": 22}
    for part in made["joint"].parts:
        assert len(Manifest.load(part.manifest).select("train")) == videos[part.name]
    steps = {
        name: one.fit.epochs * (sum(videos[part.name] for part in one.parts) // one.fit.batch)
        for name, one in made.items()
    }
    for name in ("joint", "alone-steps/toy-gym", "alone-steps/toy-street"):  # whole epochs
        assert steps[name] == pytest.approx(600, rel=0.01)
    clips = sum(videos.values())
    for name, count in videos.items():  # as often as the joint run sees each video
        assert steps[f"alone-epochs/{name}"] == pytest.approx(600 * count / clips, rel=0.05)
    for one in made.values():
        assert one.fit.warmup_epochs == pytest.approx(one.fit.epochs / 10)
        assert one.fit.seed == 1 and one.init == "" and one.mix == multi.Mix()


def test_regimes_are_chosen_by_name_and_each_has_small_sets():
    assert multi.regimes(["power"]) == [POWER] and POWER.small == ("toy-gym", "toy-street")
    (quick,) = multi.regimes(["disagree"], quick=True)
    assert quick.steps == (120,) and quick.small == ("toy-gym", "toy-club")
    assert quick.plan == DISAGREE.plan != POWER.plan
    with pytest.raises(ValueError, match="power, disagree; got all"):
        multi.regimes(["all"])
    for name in ("gym", "club"):  # parts and unions of base's classes
        found = [
            row["relation"]
            for row in toy.correspondence()
            if (row["world"], row["other_world"]) == (name, "base")
        ]
        assert {"merged", "split"} <= set(found)
        assert name == "gym" or set(found) == {"merged", "split"}


def test_records_are_read_again_and_others_refused(tmp_path):
    one = Scored("toy-gym", "test", np.arange(5) > 2, np.array([7, 7, 2, 7, 2]), {"seconds": 2.0})
    runs = {"joint": [one, one._replace(test="undrawn", numbers={})], "both": [one]}
    (book,) = multi.books(tmp_path, [POWER]).values()
    book.add(multi.records(POWER, 1, 600, runs))
    (again,) = multi.books(tmp_path, [POWER]).values()
    for rows in (book.records, again.records):
        assert [row.run for row in rows] == [
            ("toy-gym", 1, arm) for arm in ("joint",) * 2 + ("both",)
        ]
        assert all(row.hits.tolist() == one.right.tolist() for row in rows)
        assert [row.numbers for row in rows] == [
            {"steps": 600, "seconds": 2},
            {"steps": 600},
            {"steps": 600, "seconds": 2},
        ]
        assert rows[0].source_videos.tolist() == ["7", "7", "2", "7", "2"]
        assert rows[1].source_videos is not None and rows[2].source_videos is None
    assert report.how_made(book.records).startswith("1 seeds, 2 runs, 0.0 hours")
    with pytest.raises(ValueError, match="the run toy-gym/1/joint has the recipe"):
        multi.books(tmp_path, [replace(POWER, alone=())])


def filled(place, one: multi.Regime, rates: dict, seeds=(1, 2, 3)) -> dict[str, Book]:
    """Records of each seed and number of steps: (arm, data set) -> of ten videos so many right."""
    (book,) = multi.books(place, [one]).values()
    rng, sources = np.random.default_rng(0), np.arange(10)
    for seed in seeds:
        for number, steps in enumerate(one.steps):
            runs = {}
            for (arm, data), each in rates.items():
                count, numbers = each[number], {"train": each[number] / 20, "seconds": 1800.0}
                runs[f"{arm}/{data}"] = [
                    Scored(data, test, rng.permutation(10) < count, sources, kept)
                    for test, kept in (("test", numbers), ("undrawn", {}))
                    if test == "test" or data in one.small
                ]
            book.add(multi.records(one, seed, steps, runs))
    return {one.name: book}


def test_numbers_are_paired_over_all_small_sets_and_claims_get_a_verdict(tmp_path):
    one = replace(POWER, steps=(300, 600))
    sets = ("toy-base", "toy-gym", "toy-street")
    counts = {"joint": (4, 7), "projection": (6, 4), "informative": (4, 9)}
    rates = {(arm, data): each for arm, each in counts.items() for data in sets}
    rates[("alone-steps", "toy-gym")] = rates[("alone-steps", "toy-street")] = (5, 7)
    kept = filled(tmp_path, one, rates)
    page = report.write(tmp_path, {"power": one}, kept, (1, 2, 3))
    numbers = report.outcome(one, kept["power"].records, 600, (1, 2, 3))
    (own,) = pick(numbers, data="small sets", arm="joint", minus="", metric="unseen, 600 steps")
    assert own.value == pytest.approx(0.7) and len(own.each) == 3
    (less,) = pick(numbers, data="small sets", arm="projection", minus="joint")
    assert less.value == pytest.approx(-0.3) and less.high < 0
    assert not pick(numbers, data="toy-base", minus="alone-steps")  # it has no such network
    text = (tmp_path / "results.md").read_text()
    assert "| + projection - joint | small sets, top-1 | -30.0 [" in text
    assert "does not hold: an early gain, +20.0 [" in text
    assert "fits the training videos less (-15.0 points)" in text
    assert "| + informative - joint | small sets, top-1 | +20.0 [" in text and "| holds |" in text
    assert "| joint - alone, same steps | small sets, top-1 | +0.0 [" in text
    assert "does not hold: fits the training videos alike (+0.0 points)" in text
    assert "3 seeds, 66 runs, 33.0 hours of training, commit " in text
    assert "One network" not in text and "steps" in page.read_text()
    lines = list(csv.DictReader((tmp_path / "numbers.csv").open()))
    assert {line["metric"] for line in lines} >= {"unseen, 300 steps", "undrawn, 600 steps"}
    facts = json.loads((tmp_path / "numbers.json").read_text())
    assert facts["seeds"] == [1, 2, 3] and list(facts["numbers"]) == ["power"]


def records_of(place, one: multi.Regime) -> dict:
    (book,) = multi.books(place, [one]).values()
    return {(row.numbers["steps"], row.arm, row.data, row.test): row for row in book.records}


def test_the_regime_of_few_videos_in_small(tmp_path):
    arms = ("alone-steps", "joint", "both")
    one = mini(POWER, data={"gym": 0, "street": 1}, alone=("street",), steps=(5,), arms=arms)
    page = multi.replicate(tmp_path, [one], (1,), processes=0)
    assert "Small data sets next to a large one" in page.read_text()
    found = records_of(tmp_path, one)
    assert {arm for _, arm, _, _ in found} == set(arms)
    for arm in arms:
        assert found[5, arm, "toy-street", "test"].hits.shape == (11,)
        assert found[5, arm, "toy-street", "undrawn"].hits.shape == (20,)
    assert (5, "alone-steps", "toy-gym", "test") not in found
    matches = [
        row
        for row in toy.correspondence()
        if row["matches"] and {row["world"], row["other_world"]} == {"gym", "street"}
    ]
    for arm, readouts in (("joint", {"behavioral"}), ("both", set(report.READOUTS))):
        mine = [test for _, name, data, test in found if (name, data) == (arm, tests.PAIRS)]
        assert {test.partition(",")[0] for test in mine} == readouts
        assert all(len(found[5, arm, tests.PAIRS, test].hits) == len(matches) for test in mine)
    assert 0.05 < tests.chance(one.worlds) < 0.2
    shutil.rmtree(tmp_path / "power")  # records need no runs
    before = (tmp_path / "numbers.csv").read_text()
    assert multi.replicate(tmp_path, [one], (1,), processes=0) == page
    assert not (tmp_path / "power").exists() and (tmp_path / "numbers.csv").read_text() == before


@pytest.mark.slow
def test_the_regime_of_label_spaces_in_small(tmp_path):
    arms = ("alone-steps", "joint", "both")
    data = {"gym": 0, "club": 1}
    one = mini(DISAGREE, data=data, alone=("gym", "club"), unseen="street", steps=(4,), arms=arms)
    multi.replicate(tmp_path, [one], (1,), processes=0)
    found = records_of(tmp_path, one)
    for arm in arms:
        for test in report.MEASURES:
            row = found[4, arm, "toy-street", test]
            assert row.hits.shape == (11,) and 1 <= row.numbers[tests.RANK] <= 11
        assert (4, arm, "toy-club", "test") in found
    text = (tmp_path / "results.md").read_text()
    assert "| joint - alone, same steps | toy-street, linear probe |" in text
    assert "| toy-base alone |" in text


@pytest.mark.slow
def test_units_that_follow_one_another_equal_an_uninterrupted_call(tmp_path):
    one = mini(POWER, data={"gym": 0, "street": 1}, steps=(2, 4), arms=("joint",))
    first = replace(one, steps=(2,))
    multi.replicate(tmp_path / "a", [first], (1,), processes=0)
    for place in ("a", "b"):
        multi.replicate(tmp_path / place, [one], (1,), processes=0)
    parted, whole = (records_of(tmp_path / place, one) for place in "ab")
    assert parted.keys() == whole.keys()
    for key, row in whole.items():
        assert np.array_equal(parted[key].hits, row.hits)
        own, other = (
            {name: value for name, value in one.numbers.items() if name != "seconds"}
            for one in (row, parted[key])
        )
        assert own == other
