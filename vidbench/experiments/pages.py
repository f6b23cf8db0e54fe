"""A results page's tables as Markdown; each difference gets a verdict computed from its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidbench.experiments.paired import Number, quantile
from vidbench.experiments.records import Record

SMALLEST = 0.01  # a gain below one point counts as none
MOST = 1000  # seeds that `needed` tries


def needed(number: Number) -> int | None:
    """Count the repetitions that would exclude 0 if mean and variances stayed the same.

    The smallest n with t(0.975, n - 1)^2 s^2 / n + 1.96^2 v < mean^2, where s is the standard
    deviation of the repetitions and v the variance over test videos, if the interval contains it.
    None if more than MOST are needed, or there is only one repetition.
    """
    each = np.array([one for one in number.each if one is not None])
    if len(each) < 2 or number.low is None or number.high is None or not number.value:
        return None
    spread = float(each.var(ddof=1))
    own = quantile(len(each) - 1) ** 2 * spread / len(each)
    videos = max(0.0, ((number.high - number.low) / 2) ** 2 - own)
    for count in range(2, MOST + 1):
        half = quantile(count - 1) ** 2 * spread / count + videos
        if half < number.value**2:
            return count
    return None


def verdict(number: Number, cause: str = "", smallest: float = SMALLEST) -> str:
    """Judge the claim that a difference is above 0, in one line.

    "holds" if the interval is above 0. "does not hold" if it is below 0, or contains 0 and ends
    below `smallest`, with the cause if one is given. Else "not decided", with the seeds needed.

    Args:
        cause: Why the claim may fail.
        smallest: The smallest gain that counts.
    """
    if number.low is None or number.high is None:
        return "not decided: one repetition has no interval"
    if number.low > 0:
        return "holds"
    if number.high < 0:
        return f"does not hold: {cause or 'significantly below 0'}"
    if number.high < smallest:
        return f"does not hold: {cause or f'a gain of {_points(smallest)} is excluded'}"
    count = needed(number)
    if count is None:
        return f"not decided: more than {MOST} seeds, or more test videos, would be needed"
    return f"not decided: {count} seeds would be needed"


def _points(share: float) -> str:
    return f"{100 * share:g} point" + "s" * (share != 0.01)


def percent(number: Number | None, sign: str = "") -> str:
    """Format a number in percent with its interval.

    Args:
        sign: "+" also shows a plus.
    """
    return _cell(number, 100.0, f"{sign}.1f", ".1f")


def plain(number: Number | None, sign: str = "", digits: int = 3) -> str:
    """Format a number with its interval.

    Args:
        sign: "+" also shows a plus.
    """
    return _cell(number, 1.0, f"{sign}.{digits}f", f".{digits}f")


def _cell(number: Number | None, scale: float, spec: str, ends: str) -> str:
    if number is None:
        return ""
    words = format(scale * number.value, spec)
    if number.low is None or number.high is None:
        return words
    return f"{words} [{scale * number.low:{ends}}, {scale * number.high:{ends}}]"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a Markdown table; the columns are the first row's."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def provenance(records: Iterable[Record]) -> str:
    """State runs, hours of training and commits in one line."""
    runs = {one.run: one for one in records}
    hours = sum(one.numbers.get("seconds", 0.0) for one in runs.values()) / 3600
    commits = sorted({one.commit for one in runs.values() if one.commit})
    where = f"commit {', '.join(commits)}" if commits else "commit unknown"
    return f"{len(runs)} runs, {hours:.1f} hours of one core's training, {where}.\n"
