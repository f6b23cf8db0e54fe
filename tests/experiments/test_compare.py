"""What the replications share: means, differences and shares by hand, and the csv."""

import csv
import io

import numpy as np
import pytest
import torch

from vidbench.experiments.compare import Paired, as_csv, pick, plain
from vidbench.tensors.metrics import nested_bootstrap

HITS = [
    {"a": np.array([1, 0, 0, 0]), "b": np.array([1, 1, 0, 0]), "c": np.array([1, 1, 1, 0])},
    {"a": np.array([0, 0, 1, 0]), "b": np.array([0, 1, 1, 0]), "c": np.array([0, 0, 1, 0])},
]
SOURCES = [np.array([0, 0, 1, 2]), np.array([4, 5, 5, 6])]


@pytest.fixture
def paired():
    return Paired(HITS, SOURCES, "top-1", data="toy")


def loop(arm):
    """Mean of the arm in each draw, by nested_bootstrap on the arm alone: the same draws."""
    parts = [torch.from_numpy(hits[arm])[None] for hits in HITS]
    return nested_bootstrap(parts, [torch.from_numpy(one) for one in SOURCES], seed=0)[:, 0].numpy()


def test_means_and_differences_are_quantiles_of_the_same_draws(paired):
    mean, less = paired.mean("b"), paired.difference("b", "a")
    assert (mean.arm, mean.minus, mean.metric, mean.data) == ("b", "", "top-1", "toy")
    assert (mean.value, mean.each) == (0.5, (0.5, 0.5))
    assert (less.minus, less.value, less.each) == ("a", 0.25, (0.25, 0.25))
    for number, draws in ((mean, loop("b")), (less, loop("b") - loop("a"))):
        low, high = np.quantile(draws, (0.025, 0.975))
        assert (number.low, number.high) == (pytest.approx(low), pytest.approx(high))
        assert number.low < number.value < number.high


def test_shares_leave_out_repetitions_and_draws_without_a_gap(paired):
    share = paired.share("a", "b", "c")  # the second repetition has no gap between a and c
    assert share.each == (0.5, None) and share.value == pytest.approx(0.25 / 0.25)
    gap = loop("c") - loop("a")
    assert (gap == 0).any()
    low, high = np.quantile((loop("b") - loop("a"))[gap != 0] / gap[gap != 0], (0.025, 0.975))
    assert (share.low, share.high) == (pytest.approx(low), pytest.approx(high))


def test_the_csv_holds_every_number(paired):
    numbers = [paired.mean("a"), paired.share("a", "b", "c"), plain("toy", "a", "time", [1, 2])]
    mean, share, time = csv.DictReader(io.StringIO(as_csv(numbers)))
    assert (mean["arm"], mean["value"], mean["each"]) == ("a", "0.25000", "0.25000 0.25000")
    assert (share["minus"], share["each"]) == ("gap from a to c", "0.50000 -")
    assert (time["value"], time["low"], time["each"]) == ("1.50000", "", "1.00000 2.00000")
    assert pick(numbers, arm="a", metric="time") == numbers[2:] and not pick(numbers, arm="c")
