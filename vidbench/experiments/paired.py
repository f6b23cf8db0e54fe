"""Means of arms over repetitions and paired differences, with 95 % intervals.

A replication trains every arm once per repetition: a seed, or a fold of the data set. All arms of a
repetition have the same test videos. The interval of A - B comes from Student's t. With d_r the
difference of repetition r, and R repetitions of mean d and standard deviation s:

    d +- t(0.975, R - 1) s / sqrt(R)

What makes a repetition hard for both arms cancels. If each repetition has its own test videos, s
contains their variance too. If all repetitions share their test videos, s does not contain the
variance over source videos: it is added to s^2 / R, with Satterthwaite's degrees of freedom. A
single repetition has the variance over source videos alone.

A bootstrap over repetitions is too narrow, because it only draws the few values again. Of 4,000
simulated 95 % intervals each, 51 % contained the true mean for 2 normal repetitions, 75 % for 3 and
89 % for 8. The difference is significant if the interval excludes 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidbench.view.figures import Bar


@dataclass(frozen=True)
class Number:
    """A mean over repetitions with its 95 % interval: of an arm, or of an arm minus another.

    low, high: None if the number has no interval. each: the value of each repetition, or None where
    it does not exist.
    """

    data: str
    arm: str
    minus: str
    metric: str
    value: float
    low: float | None
    high: float | None
    each: tuple[float | None, ...]

    @property
    def percent(self) -> tuple[float, ...]:
        """Value, low and high times 100, as a cell of a table."""
        return tuple(100 * end for end in (self.value, self.low, self.high) if end is not None)

    def each_percent(self, sign: str = "") -> str:
        """Format each repetition's value times 100; sign "+" also shows a plus."""
        return "  ".join("-" if one is None else f"{100 * one:{sign}.1f}" for one in self.each)

    def bar(self, method: str, group: str) -> Bar:
        """Return the number as a bar or a dot of a figure.

        Args:
            method, group: The bar's labels.
        """
        return Bar(method, group, self.value, self.low, self.high)


def plain(data: str, arm: str, metric: str, each: Iterable[float]) -> Number:
    """Compute a mean over repetitions without an interval, such as seconds.

    Args:
        each: The value of each repetition.
    """
    each = tuple(map(float, each))
    return Number(data, arm, "", metric, float(np.mean(each)), None, None, each)


def pick(numbers: Iterable[Number], **wanted: str) -> list[Number]:
    """List the numbers whose fields have the wanted values.

    Args:
        wanted: Field -> value.
    """
    return [
        number
        for number in numbers
        if all(getattr(number, name) == value for name, value in wanted.items())
    ]


class Paired:
    """All arms on the same test videos: means, differences and shares with 95 % intervals."""

    def __init__(
        self,
        hits: Sequence[Mapping[str, np.ndarray]],
        source_videos: Sequence[np.ndarray],
        metric: str,
        *,
        data: str = "",
        shared: bool = False,
    ):
        """Keep the arms' hits.

        Args:
            hits: Of each repetition arm -> hit or score of each test video [N].
            source_videos: Of each repetition the source video of each test video [N].
            metric: What the hits measure.
            data: The name of the data set.
            shared: All repetitions have the same test videos.

        Raises:
            ValueError: The repetitions' arms or shapes differ, or those shared are not the same.
        """
        arms, self.metric, self.data = list(hits[0]), metric, data
        self.videos = [np.unique(part, return_inverse=True)[1] for part in source_videos]
        if shared and any(not np.array_equal(self.videos[0], part) for part in self.videos):
            raise ValueError("Paired: repetitions that share test videos must list the same ones.")
        self.scores = {arm: [np.asarray(one[arm], float) for one in hits] for arm in arms}
        for arm, parts in self.scores.items():
            if [len(part) for part in parts] != [len(part) for part in self.videos]:
                raise ValueError(
                    f"Paired needs a score per test video; got {[len(part) for part in parts]} of "
                    f"{arm} and {[len(part) for part in self.videos]} videos."
                )
        self.each = {arm: np.array([part.mean() for part in self.scores[arm]]) for arm in arms}
        self.crossed = shared or len(hits) == 1  # the variance over source videos counts

    def mean(self, arm: str) -> Number:
        """Compute the arm's mean over repetitions; intervals of scores in 0..1 are cut there."""
        value, low, high = self._interval({arm: 1.0})
        scores = np.concatenate(self.scores[arm])
        if low is not None and high is not None and 0 <= scores.min() and scores.max() <= 1:
            low, high = max(low, 0.0), min(high, 1.0)
        return self._number(arm, "", self.metric, (value, low, high), self.each[arm])

    def difference(self, arm: str, minus: str) -> Number:
        """Compute the mean of one arm minus that of another.

        Args:
            arm, minus: The result is `arm` minus `minus`.
        """
        each = self.each[arm] - self.each[minus]
        found = self._interval({arm: 1.0, minus: -1.0})
        return self._number(arm, minus, self.metric, found, each)

    def share(self, low: str, middle: str, high: str) -> Number:
        """Compute the share of a gap that a third arm closes: (middle - low) / (high - low).

        The value is the ratio of the means, its interval Fieller's: all shares q for which
        (middle - low) - q (high - low) = 0 is not rejected. There is no interval if the gap itself
        is not significant. A repetition without a gap has no share.

        Args:
            low, middle, high: Arms.
        """
        part, gap = ({middle: 1.0, low: -1.0}, {high: 1.0, low: -1.0})
        a, b = (sum(w * self.each[arm].mean() for arm, w in of.items()) for of in (part, gap))
        both = {arm: part.get(arm, 0.0) + gap.get(arm, 0.0) for arm in {**part, **gap}}
        (va, _), (vb, _), (vab, _) = (self._variance(of) for of in (part, gap, both))
        t = quantile(self._least_freedom())
        cross = (vab - va - vb) / 2
        square, middle_, rest = b * b - t * t * vb, a * b - t * t * cross, a * a - t * t * va
        with np.errstate(divide="ignore", invalid="ignore"):
            each = (self.each[middle] - self.each[low]) / (self.each[high] - self.each[low])
            each[~np.isfinite(each)] = np.nan
            value = float(np.divide(a, b))
        ends: tuple[float | None, float | None] = (None, None)
        if square > 0:
            root = np.sqrt(max(0.0, middle_**2 - square * rest))
            ends = (float((middle_ - root) / square), float((middle_ + root) / square))
        metric = f"{self.metric}, share closed"
        return self._number(middle, f"gap from {low} to {high}", metric, (value, *ends), each)

    def _interval(self, weights: Mapping[str, float]) -> tuple[float, float | None, float | None]:
        """The mean of a weighted sum of arms and its interval, without ends if nothing varies."""
        value = float(sum(w * self.each[arm].mean() for arm, w in weights.items()))
        variance, freedom = self._variance(weights)
        if not freedom:
            return value, None, None
        half = quantile(freedom) * variance**0.5
        return value, value - half, value + half

    def _variance(self, weights: Mapping[str, float]) -> tuple[float, float]:
        """The variance of the mean of a weighted sum of arms, and its degrees of freedom."""
        parts = []  # (variance, degrees of freedom)
        repetitions = len(self.videos)
        if repetitions > 1:
            each = sum(w * self.each[arm] for arm, w in weights.items())
            parts.append((float(np.var(each, ddof=1)) / repetitions, repetitions - 1))
        groups = int(self.videos[0].max()) + 1
        if self.crossed and groups > 1:
            rows = sum(w * np.mean(self.scores[arm], axis=0) for arm, w in weights.items())
            sums = np.bincount(self.videos[0], rows - rows.mean(), groups)
            scale = groups / (groups - 1) / len(rows) ** 2
            parts.append((float((sums**2).sum()) * scale, groups - 1))
        total = sum(variance for variance, _ in parts)
        if not total:
            return 0.0, float(sum(freedom for _, freedom in parts))
        return total, total**2 / sum(variance**2 / freedom for variance, freedom in parts)

    def _least_freedom(self) -> float:
        if len(self.videos) > 1:
            return len(self.videos) - 1
        return max(1, int(self.videos[0].max()))

    def _number(
        self,
        arm: str,
        minus: str,
        metric: str,
        found: tuple[float, float | None, float | None],
        each: np.ndarray,
    ) -> Number:
        values = tuple(None if np.isnan(one) else one for one in each.tolist())
        return Number(self.data, arm, minus, metric, *found, values)


def spread(data: str, arm: str, metric: str, each: Iterable[float], minus: str = "") -> Number:
    """Compute a mean over repetitions with the t interval over them, such as cross-entropy.

    The interval is for more seeds on these test videos; it does not contain the variance over
    videos.

    Args:
        each: The value of each repetition.
        minus: The arm that was subtracted, if `each` are differences.
    """
    values = np.array(list(each), float)
    if len(values) < 2:
        return replace(plain(data, arm, metric, values), minus=minus)
    half = quantile(len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    mean = float(values.mean())
    return Number(data, arm, minus, metric, mean, mean - half, mean + half, tuple(values.tolist()))


def quantile(freedom: float) -> float:
    """Compute the 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
