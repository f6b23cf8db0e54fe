"""Read-outs of MultiTrain's maps: their formulas, what they do not depend on, planted pairs found,
pairs of a run."""

from dataclasses import replace
from itertools import permutations
from math import factorial

import numpy as np
import pytest
import torch

from tests.methods.test_multitrain import CLASSES, RECIPE, method_of
from vidbench.data.toy import world as toy
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.features import Features
from vidbench.evaluate.projections import (
    READOUTS,
    Relation,
    behavior,
    mutual,
    of_weights,
    pairs,
    recovered,
    recovered_both_ways,
    relations,
    truth,
)


def test_read_outs_of_weights_are_their_formulas():
    rng = np.random.default_rng(0)
    weight, scores = (
        rng.normal(size=(4, 3)).astype(np.float32),
        rng.normal(size=(50, 4)) * (1, 2, 3, 0),
    )
    found = of_weights(weight, scores)
    for a in range(4):
        mean = sum(float(w) for w in weight[a]) / 3
        spread = np.sqrt(sum((s - scores[:, a].mean()) ** 2 for s in scores[:, a]) / 50)
        for b in range(3):
            assert found["raw"][a, b] == weight[a, b]
            assert found["centered"][a, b] == pytest.approx(float(weight[a, b]) - mean, abs=1e-5)
            assert found["scaled"][a, b] == pytest.approx(
                (float(weight[a, b]) - mean) * spread, abs=1e-4
            )


def test_centered_read_outs_do_not_see_what_the_loss_does_not():
    """A number added to all weights of a source class leaves the softmax of the mapped scores as it
    is."""
    rng = np.random.default_rng(1)
    weight, scores = rng.normal(size=(4, 3)), rng.normal(size=(9, 4))
    moved = weight + rng.normal(size=(4, 1))
    before, after = of_weights(weight, scores), of_weights(moved, scores)
    assert abs(before["raw"] - after["raw"]).min() > 0.01
    for name in ("centered", "scaled"):
        np.testing.assert_allclose(before[name], after[name], atol=1e-5)
    softmax = [torch.tensor(scores @ w).softmax(dim=1) for w in (weight, moved)]
    torch.testing.assert_close(*softmax)


def test_behavior_is_the_mean_probability_over_a_classs_clips():
    scores = np.log(np.array([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9], [0.4, 0.6]]))
    found = behavior(scores, np.array([0, 0, 2, -1]), 3)
    np.testing.assert_allclose(found[[0, 2]], [[0.6, 0.4], [0.1, 0.9]], rtol=1e-5)
    assert np.isnan(found[1]).all()  # no clip of it; the unlabeled one counts nowhere


def test_pairs_are_the_largest_scores_with_their_rank_the_other_way():
    forward = np.array([[5.0, 1.0, 0.0], [4.0, 3.0, np.nan]])  # [2,3]
    back = np.array([[1.0, 2.0], [0.0, 9.0], [3.0, 1.0]])  # [3,2]
    there = Relation(
        "s", "t", ("run", "sit"), ("jog", "rest", "fly"), {"raw": forward, "centered": -forward}
    )
    here = Relation("t", "s", there.targets, there.sources, {"raw": back})
    rows = pairs(there, here, "raw", most=4)
    assert [(row["s"], row["t"], row["score"], row["back"], row["back rank"]) for row in rows] == [
        ("run", "jog", 5, 1, 2),
        ("sit", "jog", 4, 2, 1),
        ("sit", "rest", 3, 9, 1),
        ("run", "rest", 1, 0, 2),
    ]
    assert [row["centered"] for row in rows] == [-5, -4, -3, -1] and [
        row["rank"] for row in rows
    ] == [1, 2, 3, 4]
    assert [row["mutual"] for row in rows] == ["", "yes", "", ""]
    assert mutual(forward, back).tolist() == [[False, False, False], [True, False, False]]
    unknown = np.full((2, 3), np.nan)
    assert not mutual(unknown, unknown.T).any()
    with pytest.raises(ValueError, match="read-outs raw, centered; got 'scaled'"):
        pairs(there, here, "scaled")


# ---- planted pairs -----------------------------------------------------------------------------


def relation(source: str, target: str) -> Relation:
    names = [tuple(toy.WORLDS[world].classes) for world in (source, target)]
    return Relation(source, target, *names, {})


def test_truth_is_the_toys_own_correspondence():
    one = relation("base", "gym")
    found = truth(toy.correspondence(), one, {"base": "base", "gym": "gym"})
    pick = {(one.sources[a], one.targets[b]) for a, b in np.argwhere(found)}
    assert (
        ("walk", "stroll") in pick and ("walk", "power_walk") in pick and ("kick", "strike") in pick
    )
    assert not any(source in ("clap", "throw", "cartwheel") for source, _ in pick)
    for source, target in permutations(toy.RELATED, 2):  # what matches one way matches the other
        there, back = (
            truth(toy.correspondence(), relation(a, b), {w: w for w in toy.RELATED})
            for a, b in ((source, target), (target, source))
        )
        assert (there == back.T).all() and there.any()


def test_recovered_counts_first_matches_and_knows_chance():
    matches = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    scores = np.array([[9.0, 1, 2, 3], [5.0, 1, 4, 0], [1.0, 2, 3, 4], [7.0, 7, 7, 7]])
    found = recovered(scores, matches)
    assert found["top-1"].tolist() == [1, 0, 0] and found["reciprocal rank"].tolist() == [
        1,
        1 / 2,
        1 / 4,
    ]
    assert found["top-1 by chance"].tolist() == [1 / 4, 2 / 4, 1 / 4]
    for row, number in ((0, 0), (1, 1)):  # every order of four, as a plain mean
        ranks = [
            1 + min(order.index(b) for b in np.flatnonzero(matches[row]))
            for order in permutations(range(4))
        ]
        wanted = sum(1 / rank for rank in ranks) / factorial(4)
        assert found["reciprocal rank by chance"][number] == pytest.approx(wanted)
    rng = np.random.default_rng(0)
    tries = [recovered(rng.normal(size=matches.shape), matches) for _ in range(3000)]
    for metric in ("top-1", "reciprocal rank"):
        assert np.mean([one[metric].mean() for one in tries]) == pytest.approx(
            found[f"{metric} by chance"].mean(), abs=0.02
        )
    empty = recovered(np.full_like(scores, np.nan), matches)
    assert (empty["top-1"] == empty["top-1 by chance"]).all()


def test_both_sides_are_asked_and_centering_moves_one_of_them_alone():
    rng = np.random.default_rng(4)
    weight, spread = (
        rng.normal(size=(5, 6)) + 3 * rng.normal(size=(5, 1)),
        rng.normal(size=(40, 5)) * (1, 9, 2, 5, 3),
    )
    found = {
        ("s", "t"): Relation("s", "t", tuple("abcde"), tuple("uvwxyz"), of_weights(weight, spread))
    }
    true = rng.random((5, 6)) < 0.3
    got = recovered_both_ways(found, {("s", "t"): true})
    assert set(got) == {
        (name, side) for name in ("raw", "centered", "scaled") for side in ("source", "target")
    }
    for name in ("raw", "centered", "scaled"):
        scores = found["s", "t"].scores[name]
        for side, (table, matches) in {
            "source": (scores, true),
            "target": (scores.T, true.T),
        }.items():
            assert np.array_equal(
                got[name, side]["reciprocal rank"], recovered(table, matches)["reciprocal rank"]
            )
        assert np.array_equal(
            got[name, "source"]["reciprocal rank"], got["raw", "source"]["reciprocal rank"]
        )
    assert not np.array_equal(
        got["raw", "target"]["reciprocal rank"], got["centered", "target"]["reciprocal rank"]
    )


# ---- a run -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run", "multitrain", RECIPE)
    run.save(1, method_of().state_dict(), {})
    return run


def tables(width: int, **protocol) -> dict[str, Features]:
    rng, made = np.random.default_rng(2), {}
    for name, classes in CLASSES.items():
        values = rng.normal(size=(12, width)).astype(np.float32)
        made[name] = Features(
            values,
            np.arange(12) % len(classes),
            np.arange(12),
            classes,
            {"normalize_clips": False, **protocol},
        )
    return made


def test_relations_of_a_run_are_its_maps_and_its_heads_on_its_tables(run):
    method = method_of().eval()
    features = tables(method.encoder.out_channels)
    found = relations(run, features)
    assert list(found) == list(permutations("abc", 2))
    for (source, target), one in found.items():
        assert tuple(one.scores) == READOUTS and (one.sources, one.targets) == (
            CLASSES[source],
            CLASSES[target],
        )
        assert np.array_equal(
            one.scores["raw"], method.maps[f"{source}>{target}"].weight.detach().numpy().T
        )
        with torch.no_grad():
            values = torch.from_numpy(features[source].values)
            chances = method.heads[target](values).softmax(dim=1).numpy()
            deviation = method.heads[source](values).numpy().std(axis=0)
        for a in range(len(CLASSES[source])):
            mean = chances[features[source].label == a].mean(axis=0)
            np.testing.assert_allclose(one.scores["behavioral"][a], mean, rtol=1e-4)
        np.testing.assert_allclose(
            one.scores["scaled"], one.scores["centered"] * deviation[:, None], rtol=1e-4
        )


def test_relations_refuse_what_would_mean_nothing(run, tmp_path):
    features = tables(method_of().encoder.out_channels)
    with pytest.raises(
        ValueError, match="of b, features of that data set.s classes without unit length; got none"
    ):
        relations(run, {"a": features["a"]})
    with pytest.raises(ValueError, match="normalize_clips=False"):
        relations(run, tables(4, normalize_clips=True))
    turned = {**features, "c": replace(features["c"], classes=CLASSES["c"][::-1])}
    with pytest.raises(ValueError, match="of c, features of that data set.s classes"):
        relations(run, turned)
    alone = Run.create(tmp_path / "alone", "multitrain", replace(RECIPE, parts=RECIPE.parts[:1]))
    with pytest.raises(RunError, match="want two or more"):
        relations(alone, features)
    plain = Run.create(tmp_path / "plain", "multitrain", replace(RECIPE, projection=0.0))
    plain.save(1, method_of(projection=0.0).state_dict(), {})
    assert all(tuple(one.scores) == ("behavioral",) for one in relations(plain, features).values())
