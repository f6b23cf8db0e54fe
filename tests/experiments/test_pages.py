"""Verdicts follow from the numbers, and the seeds needed from their spread."""

import numpy as np
import pytest
from scipy import stats

from vidbench.experiments import pages
from vidbench.experiments.compare import spread
from vidbench.experiments.paired import Number


def number(*each):
    return spread("toy", "a", "top-1", each, "b")


@pytest.mark.parametrize(
    "each, says",
    [
        ((0.03, 0.04, 0.05), "holds"),
        ((-0.03, -0.04, -0.05), "does not hold: significantly below 0"),
        ((0.001, -0.001, 0.002, -0.002), "does not hold: a gain of 1 point is excluded"),
        ((0.05, -0.01, 0.03), "not decided: 10 seeds would be needed"),
        ((0.05, -0.05, 0.0001), "not decided: more than 1000 seeds, or more test videos"),
        ((0.05,), "not decided: one repetition has no interval"),
    ],
)
def test_verdicts(each, says):
    assert pages.verdict(number(*each)).startswith(says)


def test_the_cause_of_a_refuted_claim_is_named():
    assert pages.verdict(number(-0.03, -0.04), "short training").startswith("not decided")
    assert pages.verdict(number(-0.03, -0.04, -0.05), "training is short") == (
        "does not hold: training is short"
    )


def test_so_many_seeds_exclude_zero_and_one_fewer_do_not():
    each = (0.05, -0.01, 0.03)
    count = pages.needed(number(*each))
    mean, deviation = np.mean(each), np.std(each, ddof=1)

    def half(n):
        return stats.t.ppf(0.975, n - 1) * deviation / n**0.5

    assert half(count) < mean <= half(count - 1)


def test_the_spread_of_shared_test_videos_does_not_shrink_with_seeds():
    alone = number(0.05, -0.01, 0.03)
    mean, half = alone.value, alone.high - alone.value

    def wider(more):
        ends = mean - half - more, mean + half + more
        return Number("toy", "a", "b", "top-1", mean, *ends, alone.each)

    assert pages.needed(wider(0.001)) > pages.needed(alone)
    assert pages.needed(wider(0.05)) is None


def test_cells_and_tables_are_markdown():
    one = number(0.03, 0.05)
    assert pages.percent(one, "+") == f"+4.0 [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    assert pages.plain(number(0.25)) == "0.250" and pages.percent(None) == ""
    assert pages.table([{"a": 1, "b": "x"}, {"a": 2, "b": ""}]) == (
        "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 |  |\n"
    )
