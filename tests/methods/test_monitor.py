"""Measures between epochs: mining against plain loops, warnings at curves that look bad and only
there."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidbench.methods import coclr, monitor
from vidbench.methods.monitor import health, mining
from vidbench.tensors.bank import FeatureQueue
from vidbench.tensors.metrics import effective_rank, spread

TOGETHER = coclr.PRESETS["tiny"].together
RECIPE = replace(TOGETHER, drop_own_key=0.9, fit=replace(TOGETHER.fit, epochs=10))
FINE = {
    "knn": 0.5,
    "rank": 20.0,
    "spread": 0.9,
    "loss": 3.0,
    "accuracy": 0.4,
    "purity": 0.6,
    "chance": 0.1,
}


def queue_of(slots=40, classes=5, seed=0) -> FeatureQueue:
    """Labeled features that lean towards their class, in sources of four, one slot in ten without
    a label."""
    generator = torch.Generator().manual_seed(seed)
    source_video = torch.arange(slots) // 4
    label = source_video % classes
    other = F.normalize(
        F.one_hot(label, 8).float() + 0.8 * torch.randn(slots, 8, generator=generator), dim=1
    )
    label = torch.where(torch.arange(slots) % 10 == 9, -1, label)
    queue = FeatureQueue(slots, 8, other_dim=8)
    queue.enqueue(other, label, source_video, other)
    return queue


@pytest.mark.parametrize("mine_siblings", [False, True])
def test_mining_is_what_a_plain_loop_finds(mine_siblings):
    queue, k = queue_of(), 3
    label, source_video, similarity = (
        queue.label.tolist(),
        queue.source_video.tolist(),
        (queue.other @ queue.other.T).tolist(),
    )
    right, mined, allowed, same = ({c: 0 for c in range(5)} for _ in range(4))
    siblings = places = 0
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j: -similarity[i][j])
        siblings += sum(source_video[j] == source_video[i] for j in others[:k])
        places += k
        free = [j for j in others if mine_siblings or source_video[j] != source_video[i]]
        if label[i] < 0:
            continue
        right[label[i]] += sum(label[j] == label[i] for j in free[:k])
        mined[label[i]] += k
        allowed[label[i]] += len(free)
        same[label[i]] += sum(label[j] == label[i] for j in free)
    found = mining(queue, k, mine_siblings)
    assert found["purity"] == pytest.approx(sum(right.values()) / sum(mined.values()))
    assert found["chance"] == pytest.approx(sum(same.values()) / sum(allowed.values()))
    assert found["class_recall"] == pytest.approx(
        float(np.median([right[c] / same[c] for c in right]))
    )
    assert found["sibling_share"] == pytest.approx(siblings / places) and found["sibling_share"] > 0


def test_effective_rank_and_spread_show_a_collapse():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4000, 16, generator=generator)
    assert 15.5 < effective_rank(wide) <= 16 and 0.97 < spread(wide) < 1.03
    line = torch.randn(50, 1, generator=generator) @ torch.randn(1, 16, generator=generator)
    assert all(effective_rank(rows) == pytest.approx(1.0, abs=1e-4) for rows in (line, line + 5))
    point = torch.ones(30, 16)
    assert effective_rank(point) == 0.0 and spread(point) == pytest.approx(0.0, abs=1e-6)
    two = torch.zeros(4, 3)
    two[0, 0], two[1, 0], two[2, 1], two[3, 1] = 1, -1, 1, -1
    assert effective_rank(two) == pytest.approx(2.0)


def lines(steps=2000, **last):
    return [
        {"step": 0, "epoch": 0, **FINE, "knn": 0.2, "loss": None, "accuracy": None},
        {"step": steps // 2, "epoch": 5, **FINE},
        {"step": steps, "epoch": 10, **FINE, **last},
    ]


FAILURES = [
    ({"rank": 1.2}, "collapse", "effective rank is 1.2"),
    ({"spread": 0.02}, "collapse", "spread 0.02"),
    ({"accuracy": 0.045}, "accuracy", "4.5% after 100%"),
    ({"knn": 0.2}, "knn", "no more than the 20.0%"),
    ({"purity": 0.11}, "purity", "Purity is 11.0% and chance 10.0%"),
]


@pytest.mark.parametrize(("change", "kind", "says"), FAILURES)
def test_a_curve_that_looks_like_a_known_failure_is_named(change, kind, says):
    assert health(lines(), RECIPE, 100) == {}
    found = health(lines(**change), RECIPE, 100)
    assert list(found) == [kind] and says in found[kind] and "expected" not in found[kind]


@pytest.mark.parametrize(("change", "kind", "says"), FAILURES)
def test_nothing_is_said_of_few_rows_few_steps_or_a_queue_that_fills(change, kind, says):
    assert health(lines(**change), RECIPE, 99) == {}
    assert health(lines(steps=199, **change), RECIPE, 100) == {}
    assert kind in health(lines(steps=200, **change), RECIPE, 100)
    assert health(lines(**{**change, "loss": None, "accuracy": None}), RECIPE, 100) == {}
    early = [lines()[0], {"step": 1000, "epoch": 0.9, **FINE, **change}]
    assert health(early, RECIPE, 100) == {}


def test_after_a_short_training_a_warning_says_that_it_is_expected():
    found = health(lines(steps=440, rank=1.2), RECIPE, 100)
    assert found["collapse"].endswith("expected at this size (440 steps): train longer first.")


@pytest.mark.parametrize(
    "change",
    [
        {"first": {"knn": 0.97}, "last": {"knn": 0.96}},
        {"first": {}, "last": {"purity": 0.95, "chance": 0.9}},
        {"first": {}, "last": {"purity": 0.6, "chance": 0.5}},
    ],
)
def test_what_is_near_the_ceiling_cannot_rise_much(change):
    first, middle, last = lines()
    epochs = [{**first, **change["first"]}, middle, {**last, **change["last"]}]
    assert health(epochs, RECIPE, 100) == {}


def test_a_loss_that_the_own_key_satisfies_is_named_unless_it_is_dropped():
    low = [
        {"step": 200, "epoch": 1, **FINE, "loss": 0.3},
        {"step": 2000, "epoch": 10, **FINE, "knn": 0.6},
    ]
    assert "drop_own_key=0.9" in health(low, replace(RECIPE, drop_own_key=0.0), 100)["loss"]
    assert health(low, RECIPE, 100) == {}


def test_without_labels_nothing_that_counts_them_is_measured_or_warned_of():
    queue = queue_of()
    queue.label[:] = -1
    assert mining(queue, 3).keys() == {"sibling_share"}
    bare = {name: FINE[name] for name in ("rank", "spread", "loss", "accuracy")}
    epochs = [{"step": 200 * epoch, "epoch": epoch, **bare} for epoch in (0, 5, 10)]
    assert health(epochs, RECIPE, 100) == {}


def test_an_untrained_net_and_a_falling_accuracy_are_no_failures():
    untrained = {"step": 0, "epoch": 0, "knn": 0.1, "rank": 1.5, "spread": 0.01}
    assert health([untrained], RECIPE, 100) == {}
    dip = [
        {"step": 0, "epoch": 0, **FINE, "knn": 0.3},
        {"step": 200, "epoch": 1, **FINE, "accuracy": 0.05},
    ]
    assert health(dip, RECIPE, 100) == {}


def test_a_failure_is_said_once_after_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(monitor, "health", lambda lines, recipe, rows: {"collapse": f"{rows} rows"})
    run = SimpleNamespace(folder=tmp_path / "mine", metrics=lambda name: [])
    watch = SimpleNamespace(run=run, method=SimpleNamespace(recipe=RECIPE), held=range(120))
    monitor.Monitor.conclude(watch)
    assert capsys.readouterr().out == "mine: look at this\n  - 120 rows\n"
