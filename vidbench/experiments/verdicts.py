"""A claim's verdict in one line, computed from a paired difference and its seeds."""

import math

import numpy as np

from vidbench.experiments.compare import Number

MOST = 1000  # seeds that a verdict still counts
SIGMAS = 1.96  # of a normal law, which leave 2.5 % on either side


def points(one: Number) -> str:
    """A difference as text: points of percent with its interval."""
    ends = [f"{100 * end:+.1f}" for end in (one.low, one.high) if end is not None]
    return f"{100 * one.value:+.1f}" + (f" [{', '.join(ends)}]" if ends else "")


def verdict(one: Number, cause: str) -> str:
    """Say whether a claimed gain holds.

    Args:
        one: The paired difference that the claim says is positive.
        cause: Why it does not hold, if it does not.

    Returns:
        "holds", "does not hold: cause" or "not decided: n seeds would be needed", where n is what
        would make the observed difference significant if more seeds differ as these do.
    """
    if one.low is not None and one.low > 0:
        return "holds"
    if one.high is not None and one.high < 0:
        return f"does not hold: {cause}"
    count = seeds_needed(one)
    if count is None:
        return "not decided: one seed says nothing of the others"
    return f"not decided: {f'over {MOST}' if count > MOST else count} seeds would be needed"


def seeds_needed(one: Number) -> int | None:
    """Seeds at which the mean difference would be SIGMAS standard errors; None from one seed."""
    each = np.array([value for value in one.each if value is not None])
    if len(each) < 2:
        return None
    deviation, mean = float(each.std(ddof=1)), abs(float(each.mean()))
    if mean < 1e-9 or deviation / mean > math.sqrt(MOST) / SIGMAS:
        return MOST + 1
    return max(len(each) + 1, math.ceil((SIGMAS * deviation / mean) ** 2))


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows of equal columns as a table of a Markdown page."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
