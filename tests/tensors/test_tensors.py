"""Losses, queue and metrics against the papers' formulas as plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from vidbench.tensors.bank import FeatureQueue, masked_topk
from vidbench.tensors.losses import multi_positive_nce, nce_logits
from vidbench.tensors.metrics import (
    bootstrap_interval,
    calibration_error,
    cross_entropy,
    interval,
    purity,
    recall_at,
    topk_hit,
)


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nce_logits_are_cosines_over_temperature():
    query, key, queue = (F.normalize(rows(i, n, 6), dim=1) for i, n in enumerate((3, 3, 5)))
    logits = nce_logits(query, key, queue, 0.07)
    for i in range(3):
        assert logits[i, 0] == pytest.approx(float(query[i] @ key[i]) / 0.07, rel=1e-5)
        for j in range(5):
            assert logits[i, 1 + j] == pytest.approx(
                float(query[i] @ queue[j]) / 0.07, rel=1e-4, abs=1e-5
            )


@pytest.mark.parametrize("form", ["inside", "outside"])
def test_multi_positive_nce_is_the_papers_formula(form):
    logits, mask = rows(1, 4, 9), torch.zeros(4, 9, dtype=torch.bool)
    mask[:, 0] = True
    mask[1, [3, 5]] = mask[2, 8] = True
    for i, loss in enumerate(multi_positive_nce(logits, mask, form)):
        total = sum(math.exp(s) for s in logits[i].tolist())
        shares = [math.exp(logits[i, p]) / total for p in range(9) if mask[i, p]]
        wanted = (
            -math.log(sum(shares))
            if form == "inside"
            else -sum(map(math.log, shares)) / len(shares)
        )
        assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_one_positive_is_cross_entropy_in_both_forms():
    logits, mask = rows(2, 5, 7), torch.zeros(5, 7, dtype=torch.bool)
    mask[:, 0] = True
    wanted = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    for form in ("inside", "outside"):
        torch.testing.assert_close(multi_positive_nce(logits, mask, form), wanted)


def test_ignored_entries_leave_numerator_and_denominator():
    logits, mask = rows(3, 2, 6), torch.zeros(2, 6, dtype=torch.bool)
    mask[:, 0] = True
    ignored = torch.zeros_like(mask)
    ignored[:, [2, 4]] = True
    kept = [0, 1, 3, 5]
    torch.testing.assert_close(
        multi_positive_nce(logits, mask, "inside", ignored),
        multi_positive_nce(logits[:, kept], mask[:, kept], "inside"),
    )


def test_loss_and_gradient_stay_finite_where_the_softmax_underflows():
    logits = torch.tensor([[-300.0, 300.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    mask = torch.tensor([[True, False, False]])
    loss = multi_positive_nce(logits, mask)
    loss.sum().backward()
    assert loss.item() == pytest.approx(600, rel=1e-2) and torch.isfinite(logits.grad).all()


def test_loss_refuses_a_row_without_a_positive_and_unknown_forms():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match="no positive"):
        multi_positive_nce(torch.zeros(2, 2), mask)
    with pytest.raises(ValueError, match="inside"):
        multi_positive_nce(torch.zeros(1, 2), mask[:1], "both")
    with pytest.raises(ValueError, match="bool mask of shape"):
        multi_positive_nce(torch.zeros(2, 3), mask)


def test_queue_keeps_the_newest_rows_across_its_end():
    queue = FeatureQueue(7, 3, other_dim=2)
    everything = [
        (rows(i, 3, 3), torch.arange(3) + 10 * i, torch.arange(3) + 100 * i, rows(50 + i, 3, 2))
        for i in range(4)
    ]
    for batch in everything:
        assert not queue.full or int(queue.count) >= 7
        queue.enqueue(*batch)
    newest = {
        int(label): (feature, int(source_video), other)
        for features, labels, source_videos, others in everything
        for feature, label, source_video, other in zip(
            features, labels, source_videos, others, strict=True
        )
    }
    kept = list(newest)[-7:]
    assert sorted(queue.label.tolist()) == sorted(kept) and queue.full
    for slot, label in enumerate(queue.label.tolist()):
        feature, source_video, other = newest[label]
        assert torch.equal(queue.features[slot], feature) and torch.equal(queue.other[slot], other)
        assert int(queue.source_video[slot]) == source_video


def test_queue_says_when_it_is_too_short_and_matches_nothing_unfilled():
    queue = FeatureQueue(4, 3)
    assert queue.label.tolist() == [-1] * 4 and not queue.full
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(4))
    with pytest.raises(ValueError, match="does not fit"):
        queue.enqueue(rows(0, 5, 3), torch.zeros(5), torch.zeros(5))
    with pytest.raises(ValueError, match="other stream"):
        queue.enqueue(rows(0, 2, 3), torch.zeros(2), torch.zeros(2), other=rows(0, 2, 3))


def test_masked_topk_is_a_full_sort_without_the_excluded():
    similarity, excluded = rows(4, 6, 20), rows(5, 6, 20) > 0.5
    excluded[5, 2:] = True
    found = masked_topk(similarity, 4, excluded)
    for i in range(6):
        allowed = [j for j in range(20) if not excluded[i, j]]
        best = sorted(allowed, key=lambda j: -float(similarity[i, j]))[:4]
        assert set(found[i].nonzero().flatten().tolist()) == set(best)
    assert not masked_topk(similarity, 0, excluded).any()


def test_recall_hits_and_purity_by_hand():
    neighbors = torch.tensor([[1, 0, 2], [2, 2, 1], [0, 0, 0]])
    hits = recall_at(neighbors, torch.tensor([0, 1, 2]), (1, 2, 3))
    assert [hits[k].tolist() for k in (1, 2, 3)] == [
        [False] * 3,
        [True, False, False],
        [True, True, False],
    ]
    with pytest.raises(ValueError, match="R@4"):
        recall_at(neighbors, torch.tensor([0, 1, 2]), (4,))
    logits = torch.tensor([[0.1, 0.9, 0.5]])
    assert topk_hit(logits, torch.tensor([[True, False, True]]), 1).tolist() == [False]
    assert topk_hit(logits, torch.tensor([[True, False, True]]), 2).tolist() == [True]
    mined = torch.tensor([[True, True, False], [False, True, False]])
    assert float(purity(mined, torch.tensor([4, 5, 4]), torch.tensor([4, 5]))) == pytest.approx(
        2 / 3
    )
    assert float(purity(mined, torch.tensor([4, 5, 4]), torch.tensor([4, -1]))) == 0.5
    assert bool(purity(mined, torch.tensor([-1] * 3), torch.tensor([-1, -1])).isnan())


def test_interval_is_the_two_quantiles_of_the_draws_that_exist():
    draws = torch.arange(1001, dtype=torch.double)
    assert interval(draws) == pytest.approx((25.0, 975.0))
    assert interval(draws, level=0.5) == pytest.approx((250.0, 750.0))
    missing = torch.cat([torch.full((300,), torch.nan, dtype=torch.double), draws])
    assert interval(missing) == interval(draws)


def test_bootstrap_interval_covers_like_the_normal_one_and_repeats():
    values = (rows(6, 400) > 0).float()
    low, high = bootstrap_interval(values, seed=3)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seed=3)


def test_cross_entropy_and_calibration_error_are_the_formulas():
    generator = torch.Generator().manual_seed(4)
    probabilities = (3 * torch.randn(60, 4, generator=generator)).softmax(dim=1)
    labels = torch.randint(4, (60,), generator=generator)
    wanted = -sum(math.log(float(p[y])) for p, y in zip(probabilities, labels, strict=True)) / 60
    assert float(cross_entropy(probabilities, labels)) == pytest.approx(wanted, rel=1e-5)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels, strict=True):
        bins.setdefault(math.ceil(10 * float(row.max())), []).append(
            (float(row.max()), int(row.argmax()) == int(label))
        )
    error = sum(
        len(rows)
        / 60
        * abs(sum(hit for _, hit in rows) / len(rows) - sum(p for p, _ in rows) / len(rows))
        for rows in bins.values()
    )
    assert float(calibration_error(probabilities, labels, bins=10)) == pytest.approx(error)
    sure = torch.eye(4)[labels]
    assert float(calibration_error(sure, labels)) == 0.0
    assert float(calibration_error(sure, (labels + 1) % 4)) == 1.0
    assert float(cross_entropy(sure, (labels + 1) % 4)) == pytest.approx(87.3, abs=0.1)
