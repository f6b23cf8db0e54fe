"""Overlap, exchange and hubs against plain loops over sets."""

import itertools
import re

import numpy as np
import pytest

from vidbench.evaluate.neighbors import chance_overlap, exchanged, hubness, overlap, shared


def lists(seed, queries=20, gallery=15, n=6):
    """Random neighbors [Q,n], no row twice in a list."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(gallery)[:n] for _ in range(queries)])


def test_hubness_of_a_case_made_by_hand():
    rows = np.array([[0, 1, 4], [0, 2, 4], [1, 0, 4]])
    found = hubness(rows, 5, 2)
    assert found.counts.tolist() == [3, 2, 1, 0, 0]
    mean = 6 / 5
    second = sum((n - mean) ** 2 for n in (3, 2, 1, 0, 0)) / 5
    third = sum((n - mean) ** 3 for n in (3, 2, 1, 0, 0)) / 5
    assert found.skewness == pytest.approx(third / second**1.5) and found.skewness > 0
    assert (found.never, found.hub, found.hub_share) == (0.4, 0, 1.0)
    assert hubness(rows, 5, 3).counts.tolist() == [3, 2, 1, 0, 3]
    even = hubness(np.array([[0, 1], [2, 3]]), 4, 2)
    assert (even.skewness, even.never, even.hub_share) == (0.0, 0.0, 0.5)


def test_shared_and_overlap_are_those_of_sets():
    one, two = lists(1), lists(2)
    for k in (1, 3, 6):
        sets = [(set(a[:k].tolist()), set(b[:k].tolist())) for a, b in zip(one, two, strict=True)]
        assert shared(one, two, k).tolist() == [
            [j in b for j in row[:k].tolist()] for row, (_, b) in zip(one, sets, strict=True)
        ]
        assert overlap(one, two, k).tolist() == pytest.approx(
            [len(a & b) / len(a | b) for a, b in sets]
        )
    assert (
        overlap(one, one[:, ::-1], 6).tolist() == [1.0] * 20
        and overlap(one, one[:, ::-1], 1).max() == 0
    )


@pytest.mark.parametrize(("k", "room"), [(1, 4), (2, 5), (3, 6), (4, 4)])
def test_two_random_lists_overlap_as_often_as_all_pairs_of_subsets_do(k, room):
    subsets = [set(subset) for subset in itertools.combinations(range(room), k)]
    every = [len(a & b) / len(a | b) for a in subsets for b in subsets]
    assert chance_overlap(k, room) == pytest.approx(sum(every) / len(every))
    assert 0 < chance_overlap(100, 240_000) < 1e-3  # larger than any float on the way


def test_exchanged_counts_right_and_wrong_ones_apart():
    before, after, k = lists(3), lists(4), 4
    gallery, label = np.arange(15) % 3, np.arange(20) % 3
    label[7] = gallery[before[7, 0]] = gallery[
        after[7, 0]
    ] = -1  # an unknown label is never right, not even here
    found = exchanged(before, after, (gallery, label), k)
    for i in range(20):
        old, new = set(before[i, :k].tolist()), set(after[i, :k].tolist())
        for name, rows in (("kept", old & new), ("gained", new - old), ("lost", old - new)):
            right = sum(gallery[j] == label[i] >= 0 for j in rows)
            assert (found[f"{name} right"][i], found[f"{name} wrong"][i]) == (
                right,
                len(rows) - right,
            )
    assert (
        found["gained right"].sum() > 0
        and found["lost right"].sum() > 0
        and found["kept wrong"][7] > 0
    )
    total = {
        name: found[f"{name} right"] + found[f"{name} wrong"] for name in ("kept", "gained", "lost")
    }
    assert np.array_equal(total["gained"], total["lost"]) and set(
        total["kept"] + total["gained"]
    ) == {k}


def test_lists_that_do_not_fit_are_refused():
    rows = lists(5)
    for call, says in (
        (lambda: hubness(rows, 15, 7), "1 <= k <= n; got [20, 6] and k = 7"),
        (lambda: hubness(rows, 9, 2), "the gallery has 9 rows"),
        (lambda: shared(rows, rows, 0), "k = 0"),
        (lambda: overlap(rows, rows[:5], 2), "got 20 and 5 queries"),
        (lambda: overlap(rows, rows[:, :2], 3), "got [20, 2] and k = 3"),
        (lambda: exchanged(rows[0], rows[0], (rows[0], rows[0]), 1), "wanted neighbors [Q,n]"),
        (lambda: chance_overlap(5, 4), "1 <= k <= room"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            call()
