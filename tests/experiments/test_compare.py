"""Means, differences and shares against scipy and by hand, and the csv."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from vidbench.experiments.compare import Paired, as_csv, pick, plain, spread

HITS = [
    {"a": np.array([1, 0, 0, 0]), "b": np.array([1, 1, 0, 0]), "c": np.array([1, 1, 1, 0])},
    {"a": np.array([0, 0, 1, 0]), "b": np.array([0, 1, 1, 1]), "c": np.array([0, 1, 1, 1])},
    {"a": np.array([0, 0, 0, 0]), "b": np.array([0, 0, 1, 0]), "c": np.array([1, 1, 1, 0])},
]
SOURCES = [np.array([0, 0, 1, 2]), np.array([4, 5, 5, 6]), np.array([7, 7, 8, 9])]


@pytest.fixture
def paired():
    return Paired(HITS, SOURCES, "top-1", data="toy")


def means(arm):
    return np.array([part[arm].mean() for part in HITS])


def test_a_difference_of_repetitions_with_own_videos_has_the_paired_t_interval(paired):
    less = paired.difference("b", "a")
    wanted = stats.ttest_rel(means("b"), means("a")).confidence_interval()
    assert (less.data, less.arm, less.minus, less.metric) == ("toy", "b", "a", "top-1")
    assert less.value == pytest.approx(1 / 3) and less.each == (0.25, 0.5, 0.25)
    assert (less.low, less.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    mean = paired.mean("a")  # of shares: the t interval, cut at 0
    assert mean.value == pytest.approx(1 / 6)
    t = stats.t.interval(0.95, 2, means("a").mean(), stats.sem(means("a")))
    assert t[0] < 0 and (mean.low, mean.high) == (0.0, pytest.approx(t[1]))


def test_shared_test_videos_add_their_variance_by_source_video():
    generator = np.random.default_rng(0)
    source = np.repeat(np.arange(10), [1, 2, 3, 4, 5] * 2)
    hits = [{"a": generator.random(30) < 0.5, "b": generator.random(30) < 0.7} for _ in range(4)]
    found = Paired(hits, [source] * 4, "top-1", shared=True).difference("b", "a")
    rows = np.mean([1.0 * one["b"] - one["a"] for one in hits], axis=0)
    sums = [sum(rows[i] - rows.mean() for i in range(30) if source[i] == g) for g in range(10)]
    videos = 10 / 9 * sum(one**2 for one in sums) / 30**2
    seeds = np.var([one["b"].mean() - one["a"].mean() for one in hits], ddof=1) / 4
    freedom = (seeds + videos) ** 2 / (seeds**2 / 3 + videos**2 / 9)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(seeds + videos)
    assert (found.low, found.high) == (
        pytest.approx(rows.mean() - half),
        pytest.approx(rows.mean() + half),
    )
    alone = Paired(hits[:1], [source], "top-1").difference("b", "a")  # the videos alone
    rows = 1.0 * hits[0]["b"] - hits[0]["a"]
    ratio = np.array(
        [rows[source == g].sum() - rows.mean() * (source == g).sum() for g in range(10)]
    )
    half = stats.t.ppf(0.975, 9) * math.sqrt(10 / 9 * (ratio**2).sum()) / 30
    assert alone.high == pytest.approx(rows.mean() + half)
    single = Paired([{"a": np.ones(3)}], [np.zeros(3)], "top-1").mean("a")
    assert (single.value, single.low, single.high) == (1.0, None, None)
    with pytest.raises(ValueError, match="must list the same ones"):
        Paired(HITS, SOURCES[::-1], "top-1", shared=True)
    with pytest.raises(ValueError, match=r"needs a score per test video; got \[4, 4, 4\]"):
        Paired(HITS, [one[:3] for one in SOURCES], "top-1")


def test_three_repetitions_cover_the_truth_as_often_as_promised():
    """A bootstrap of three repetitions covers it in three cases of four."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(600):
        chance = np.clip(generator.normal(0.6, 0.05, 3), 0, 1)  # of this seed's network
        hits = [{"a": generator.random(200) < p} for p in chance]
        found = Paired(hits, [np.arange(200)] * 3, "top-1").mean("a")
        inside += found.low <= 0.6 <= found.high
    assert 0.925 < inside / 600 < 0.975


def test_a_share_closed_has_fiellers_interval(paired):
    share = paired.share("a", "b", "c")
    gap, part = means("c") - means("a"), means("b") - means("a")
    assert share.each == (0.5, 1.0, pytest.approx(1 / 3))
    assert share.value == pytest.approx(part.mean() / gap.mean())
    assert (share.minus, share.metric) == ("gap from a to c", "top-1, share closed")
    for end in (share.low, share.high):  # where middle - low - q (high - low) = 0 has p = 0.05
        assert stats.ttest_1samp(part - end * gap, 0).pvalue == pytest.approx(0.05)
    level = Paired([{**HITS[0], "c": HITS[0]["a"]}, HITS[1]], SOURCES[:2], "top-1")
    none = level.share("a", "b", "c")  # the first repetition has no gap, and the gap may be 0
    assert none.each == (None, 1.0) and none.low is None and none.high is None


def test_a_spread_is_the_t_interval_of_the_repetitions():
    values = [1.5, 2.0, 1.0, 1.75]
    found = spread("toy", "a", "cross-entropy", values, minus="b")
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.minus, found.value, found.each) == ("b", 1.5625, tuple(values))
    assert spread("toy", "a", "cross-entropy", [1.0]).low is None


def test_the_csv_holds_every_number(paired):
    numbers = [paired.mean("a"), paired.share("a", "b", "c"), plain("toy", "a", "time", [1, 2])]
    mean, share, time = csv.DictReader(io.StringIO(as_csv(numbers)))
    assert (mean["arm"], mean["value"], mean["each"]) == ("a", "0.16667", "0.25000 0.25000 0.00000")
    assert (share["minus"], share["each"]) == ("gap from a to c", "0.50000 1.00000 0.33333")
    assert (time["value"], time["low"], time["each"]) == ("1.50000", "", "1.00000 2.00000")
    assert pick(numbers, arm="a", metric="time") == numbers[2:] and not pick(numbers, arm="c")
