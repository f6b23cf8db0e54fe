"""Probes on tables against plain loops, what is chosen on what, and what probabilities come to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidbench.data.manifest import Manifest
from vidbench.evaluate.confusions import ClassGain, confusion, gains
from vidbench.evaluate.features import Features
from vidbench.evaluate.probe import (
    Released,
    fuse,
    fuse_tables,
    held_out,
    logistic,
    numbers,
    released,
    score,
)

CLASSES = ("bow", "clap", "wave", "walk", "kick", "squat")
QUICK = Released(epochs=20, milestones=(12, 16), lrs=(0.1, 1.0), decays=(1e-4, 1e-1))


def made(
    count: int, signal: float, seed: int, classes=CLASSES, siblings: int = 3, **protocol
) -> Features:
    """Noise with `signal` on the coordinate of the class; `siblings` rows of one class share a
    source."""
    rng = np.random.default_rng(seed)
    source_video = np.arange(count) // siblings
    label = source_video % len(classes)
    values = rng.normal(0, 1, (count, 8)).astype(np.float32)
    values[np.arange(count), label] += signal
    return Features(
        values,
        label.astype(np.int64),
        source_video + 1000 * seed,
        classes,
        {"windows": 4, **protocol},
    )


def probabilities(count: int, seed: int, **protocol) -> Features:
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.ones(len(CLASSES)), count).astype(np.float32)
    table = made(count, 0, 7, **protocol)
    return replace(table, values=values)


@pytest.mark.parametrize(
    "probe",
    [logistic, lambda train, test: released(train, test, QUICK)],
    ids=["logistic", "released"],
)
def test_a_probe_tells_what_is_linear_and_guesses_at_noise(probe):
    for signal, low, high in ((5, 0.9, 1.0), (0, 0.0, 0.4)):
        train, test = made(180, signal, 1, rows="180-a"), made(90, signal, 2, rows="90-b")
        found = probe(train, test)
        assert low <= found.accuracy <= high
        predictions = found.probabilities
        assert predictions.shape == (90, 6) and np.allclose(predictions.sum(axis=1), 1, atol=1e-5)
        for row in range(90):  # top-1 and top-5 as plain loops
            order = sorted(range(6), key=lambda k, p=predictions[row]: -p[k])
            assert found.right[row] == (order[0] == test.label[row])
            assert found.top5[row] == (test.label[row] in order[:5])
        assert found.accuracy == found.right.mean() and not found.top5.all() or signal
        protocol = found.protocol
        assert (
            protocol["rows"] == "90-b"
            and protocol["train_rows"] == "180-a"
            and protocol["windows"] == 4
        )
        assert protocol["head"] and "train's sources" in protocol["selection"]
        assert found.table.protocol == protocol and found.chosen


def by_hand(train, test, lr, decay, epochs, milestones):
    """Softmax regression by SGD with momentum 0.9 on the whole table, without batch norm, as plain
    loops."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 6)
    torch.nn.init.normal_(layer.weight, std=0.01)
    weight, bias = layer.weight.detach().double().numpy(), np.zeros(6)
    pace = [np.zeros((6, 8)), np.zeros(6)]
    x, wanted = train.values.astype(float), np.eye(6)[train.label]
    for epoch in range(epochs):
        rate = lr * 0.1 ** sum(epoch >= at for at in milestones)
        scores = x @ weight.T + bias
        predictions = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        slopes = (
            (predictions - wanted).T @ x / len(x) + decay * weight,
            (predictions - wanted).mean(axis=0) + decay * bias,
        )
        pace = [0.9 * old + slope for old, slope in zip(pace, slopes, strict=True)]
        weight, bias = weight - rate * pace[0], bias - rate * pace[1]
    scores = test.values @ weight.T + bias
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def test_the_released_probe_is_sgd_with_momentum_decay_and_two_drops():
    train, test = made(60, 1, 1), made(30, 1, 2)
    recipe = Released(batch_norm=False, lrs=(0.7,), decays=(0.02,), epochs=9, milestones=(4, 7))
    wanted = by_hand(train, test, 0.7, 0.02, 9, (4, 7))
    np.testing.assert_allclose(released(train, test, recipe).probabilities, wanted, atol=1e-5)
    for other in (
        by_hand(train, test, 0.7, 0.02, 9, (4,)),
        by_hand(train, test, 0.7, 0.0, 9, (4, 7)),
    ):
        assert np.abs(other - wanted).max() > 1e-3  # the oracle sees each of them


def test_the_released_probe_takes_several_batches_and_batch_norm():
    train, test = made(180, 2, 1), made(60, 2, 2)
    recipe = replace(
        QUICK, lrs=(0.1,), decays=(1e-3,), epochs=150
    )  # batch norm's statistics need over 100 steps
    whole = released(train, test, recipe)
    parts = released(
        train, test, replace(recipe, batch=179)
    )  # one row is left over, and is no separate batch
    assert (
        np.isfinite(parts.probabilities).all()
        and (parts.probabilities != whole.probabilities).any()
    )
    scaled = [replace(part, values=part.values * 100 + 7) for part in (train, test)]
    moved = released(*scaled, recipe)  # batch norm takes scale and shift away
    np.testing.assert_allclose(moved.probabilities, whole.probabilities, atol=1e-3)
    assert "fixed" in whole.protocol["selection"] and whole.trials == []


def test_rate_and_decay_are_chosen_on_held_out_sources_and_test_is_not_looked_at():
    train, test = made(180, 1.5, 1), made(60, 1.5, 2)
    found = released(train, test, QUICK)
    assert [(trial["lr"], trial["weight_decay"]) for trial in found.trials] == [
        (0.1, 1e-4),
        (0.1, 1e-1),
        (1.0, 1e-4),
        (1.0, 1e-1),
    ]
    top = max(trial["accuracy"] for trial in found.trials)
    assert found.chosen in found.trials and found.chosen["accuracy"] == top
    assert len({trial["accuracy"] for trial in found.trials}) > 1  # there was something to choose
    shuffled = replace(test, values=test.values[::-1].copy(), label=np.roll(test.label, 5))
    assert released(train, shuffled, QUICK).trials == found.trials
    held = held_out(train, QUICK.held_out)
    assert not set(train.source_video[held]) & set(train.source_video[~held])  # whole sources
    assert (
        np.bincount(train.label[held]).tolist() == [6] * 6
    )  # 2 of 10 sources of 3 rows, of every class
    rows = Manifest(
        "",
        CLASSES,
        np.arange(180).astype(str),
        train.label,
        np.zeros(180, np.int8),
        train.source_video,
    )
    assert [int(path) for path in rows.hold_out(0.2)[1].path] == np.flatnonzero(held).tolist()
    # a trial by hand: fitted on the rest, scored on the held-out rows
    rest, part = (
        replace(
            train,
            values=train.values[which],
            label=train.label[which],
            source_video=train.source_video[which],
        )
        for which in (~held, held)
    )
    one = released(rest, part, replace(QUICK, lrs=(1.0,), decays=(1e-4,)))
    assert one.accuracy == pytest.approx(found.trials[2]["accuracy"])


def test_the_same_seed_gives_the_same_probe_and_leaves_randomness_alone():
    train, test = made(90, 1, 1), made(30, 1, 2)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (
        released(train, test, QUICK, seed=seed).probabilities for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(*(logistic(train, test, seed=3).probabilities for _ in range(2)))


def test_a_class_that_train_lacks_is_never_told():
    train, test = made(60, 3, 1), made(60, 3, 2)
    kept = train.label != 2
    train = replace(
        train,
        values=train.values[kept],
        label=train.label[kept],
        source_video=train.source_video[kept],
    )
    predictions = logistic(train, test).probabilities
    assert (
        (predictions[:, 2] == 0).all()
        and predictions[:, 3].max() > 0.5
        and np.allclose(predictions.sum(axis=1), 1, atol=1e-5)
    )


@pytest.mark.parametrize("probe", [logistic, released])
def test_tables_that_do_not_belong_together_are_refused(probe):
    train, test = made(36, 1, 1), made(36, 1, 2)
    for left, right, says in (
        (replace(train, label=train.label * 0), test, "at least two classes"),
        (train, replace(test, label=test.label - 1), "no label"),
        (
            train,
            replace(test, classes=CLASSES[::-1]),
            r"classes differ, 6 classes \(bow, clap, wave, walk, ...\)",
        ),
        (train, replace(test, protocol={"windows": 10}), "made differently"),
        (replace(train, source_video=train.source_video * 0), test, "only one|hold out"),
    ):
        with pytest.raises(ValueError, match=says):
            probe(left, right)


def test_fusion_is_the_mean_of_the_probabilities():
    rgb, flow = (
        probabilities(24, 1, stream="rgb", rows="24-a"),
        probabilities(24, 2, stream="flow", rows="24-a"),
    )
    fused = fuse_tables(rgb, replace(flow, protocol={**flow.protocol, "flow": "tvl1"}))
    for row in range(24):
        for k in range(6):
            assert fused.values[row, k] == pytest.approx(
                (float(rgb.values[row, k]) + float(flow.values[row, k])) / 2
            )
    assert np.array_equal(fuse(rgb.values, flow.values), fused.values)
    assert fused.protocol == {"windows": 4, "stream": "rgb+flow", "rows": "24-a", "flow": "tvl1"}
    predictions = [
        max(range(6), key=lambda k, row=row: rgb.values[row, k] + flow.values[row, k])
        for row in range(24)
    ]
    assert score(fused).right.tolist() == [
        predictions[row] == fused.label[row] for row in range(24)
    ]
    assert (
        predictions != rgb.values.argmax(axis=1).tolist()
        and predictions != flow.values.argmax(axis=1).tolist()
    )


def test_tables_of_other_videos_or_classes_are_not_fused():
    rgb, flow = probabilities(24, 1, rows="24-a"), probabilities(24, 2, rows="24-a")
    for other, says in (
        (replace(flow, classes=CLASSES[::-1]), "same classes"),
        (replace(flow, label=flow.label[::-1].copy()), "same videos"),
        (replace(flow, source_video=flow.source_video + 1), "same videos"),
        (replace(flow, protocol={**flow.protocol, "rows": "24-b"}), "fingerprints 24-a and 24-b"),
        (replace(flow, values=flow.values * 2), "sum to 1"),
        (replace(flow, values=flow.values[:, :5]), r"\(24, 6\) and \(24, 5\)"),
        (replace(flow, values=flow.values * np.nan), "sum to 1"),
    ):
        with pytest.raises(ValueError, match=says):
            fuse_tables(rgb, other)
    with pytest.raises(ValueError, match="no probabilities: predict or probe"):
        score(made(24, 1, 1))
    with pytest.raises(ValueError, match="1 rows have no label"):
        score(replace(rgb, label=np.where(np.arange(24) == 3, -1, rgb.label)))
    bare = replace(made(24, 1, 1), label=np.full(24, -1), classes=())
    with pytest.raises(ValueError, match="logistic needs labels; the 24 videos have none"):
        logistic(bare, bare)


def test_numbers_lie_inside_their_intervals():
    scored = score(probabilities(60, 3))
    found, coarse = numbers(scored), numbers(scored, by="source_video")
    assert list(found) == ["top-1", "top-5"]
    for name, hits in (("top-1", scored.right), ("top-5", scored.top5)):
        share, low, high = found[name]
        assert share == hits.mean() and 0 <= low < share < high <= 1 and coarse[name][0] == share
    assert coarse != found


def predictions(labels, answers, **protocol) -> Features:
    """A table whose probabilities tell these classes."""
    values = np.full((len(labels), len(CLASSES)), 0.1, np.float32)
    values[np.arange(len(labels)), answers] = 0.5
    return Features(
        values, np.array(labels), np.arange(len(labels)), CLASSES, {"rows": "a", **protocol}
    )


def test_what_classes_gain_is_counted():
    labels = [0, 0, 0, 0, 1, 1, 3, 3]
    worse = predictions(labels, [0, 1, 1, 1, 1, 1, 3, 2], training="one")
    better = predictions(
        labels, [0, 0, 0, 1, 1, 0, 3, 2], training="another"
    )  # how it was trained may differ
    assert gains(better, worse) == [
        ClassGain("bow", 4, 0.25, 0.75, 0.5),
        ClassGain("walk", 2, 0.5, 0.5, 0.0),
        ClassGain("clap", 2, 1.0, 0.5, -0.5),
    ]
    assert [row.gain for row in gains(worse, better)] == [0.5, 0.0, -0.5]
    for other in (
        replace(worse, label=worse.label[::-1].copy()),
        replace(worse, classes=CLASSES[::-1]),
        replace(worse, protocol={"rows": "b"}),
        predictions(labels[:-1], [0] * 7),
    ):
        with pytest.raises(
            ValueError, match="gains needs two tables of the same videos and classes; got 8"
        ):
            gains(better, other)


def test_the_confusion_matrix_is_shares_of_each_classs_videos():
    found = confusion(predictions([0, 0, 0, 0, 1, 1, 3], [0, 1, 1, 5, 1, 1, 2]))
    assert found.shape == (6, 6)
    np.testing.assert_allclose(found[0], [0.25, 0.5, 0, 0, 0, 0.25])
    np.testing.assert_allclose(found[1], [0, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(found[3], [0, 0, 1, 0, 0, 0])
    assert np.isnan(found[[2, 4, 5]]).all()  # no videos of these


@pytest.mark.parametrize(
    "function",
    [lambda table: gains(table, table), confusion],
    ids=["gains", "matrix"],
)
def test_rows_without_label_are_no_class(function):
    """Label -1 must not be counted as the last class."""
    with pytest.raises(ValueError, match="no label"):
        function(predictions([0, 1, -1], [0, 1, 5]))
