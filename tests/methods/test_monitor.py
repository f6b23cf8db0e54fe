"""What is watched between epochs: mining against plain loops, warnings at curves that look bad and
only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidbench.methods import coclr
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


def test_effective_rank_and_spread_tell_a_collapse():
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


def lines(**last):
    return [
        {"epoch": 0, **FINE, "knn": 0.2, "loss": None, "accuracy": None},
        {"epoch": 5, **FINE},
        {"epoch": 10, **FINE, **last},
    ]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"rank": 1.2}, "collapse", "effective rank 1.2"),
        ({"spread": 0.02}, "collapse", "spread 0.02"),
        ({"accuracy": 0.045}, "accuracy", "4.5% after 100%"),
        ({"knn": 0.2}, "knn", "no more than the 20.0%"),
        ({"purity": 0.11}, "purity", "purity 11.0% against a chance of 10.0%"),
    ],
)
def test_a_curve_that_looks_like_a_known_failure_is_named(change, kind, says):
    assert health(lines(), RECIPE) == {}
    found = health(lines(**change), RECIPE)
    assert list(found) == [kind] and says in found[kind]


def test_a_loss_that_the_own_key_satisfies_is_named_unless_it_is_dropped():
    low = [{"epoch": 1, **FINE, "loss": 0.3}, {"epoch": 10, **FINE, "knn": 0.6}]
    assert "drop_own_key=0.9" in health(low, replace(RECIPE, drop_own_key=0.0))["loss"]
    assert health(low, RECIPE) == {}


def test_without_labels_nothing_that_counts_them_is_measured_or_warned_of():
    queue = queue_of()
    queue.label[:] = -1
    assert mining(queue, 3).keys() == {"sibling_share"}
    bare = {name: FINE[name] for name in ("rank", "spread", "loss", "accuracy")}
    assert health([{"epoch": epoch, **bare} for epoch in (0, 5, 10)], RECIPE) == {}


def test_an_untrained_net_and_a_falling_accuracy_are_no_failures():
    assert health([{"epoch": 0, "knn": 0.1, "rank": 1.5, "spread": 0.01}], RECIPE) == {}
    dip = [{"epoch": 0, **FINE, "knn": 0.3}, {"epoch": 1, **FINE, "accuracy": 0.05}]
    assert health(dip, RECIPE) == {}
