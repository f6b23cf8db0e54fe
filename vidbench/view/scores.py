"""Scores of classifiers as tables and bars: a row a run and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vidbench.evaluate.chance import chance_level, guess_words
from vidbench.view.figures import Bar, bars
from vidbench.view.html import table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.evaluate.probe import Score
    from vidbench.view.looks import Html

Scores = Mapping[tuple[str, str], "Score"]  # (run, test) -> score, with its numbers
OVER = "95 % bootstrap over source videos, of one training seed"


def score_table(found: Scores, classes: Sequence[str], note: str = "") -> Html:
    """List top-1 and top-5 with intervals.

    Args:
        found: (run, test) -> score.
        classes: Their names, for the share of right guesses in the line below.
        note: What that line begins with.
    """
    rows = [{"run": run, "test": test, **one.numbers} for (run, test), one in found.items()]
    words = [note, OVER, guess_words(classes, "top-1")]
    formats = {"top-1": ".1%", "top-5": ".1%"}
    return table(rows, formats=formats, note=". ".join(filter(None, words)))


def score_bars(found: Scores, classes: Sequence[str], title: str) -> Figure:
    """Draw top-1 with intervals: a group for each test, a bar for each run.

    Args:
        found: (run, test) -> score.
    """
    made = [Bar(run, test, *one.numbers["top-1"]) for (run, test), one in found.items()]
    return bars(made, "top-1 (%)", title, levels=chance_level(classes))


def gap_table(gaps: Mapping[str, tuple[float, float, float]], one: str, other: str) -> Html:
    """List the differences of top-1 in points, with intervals: a row a test.

    Args:
        gaps: Test -> difference with its interval, as fractions.
        one, other: Names of the runs; the difference is one - other.
    """
    name = f"{one} - {other}"
    rows = [{"test": test, name: tuple(100 * x for x in gap)} for test, gap in gaps.items()]
    return table(rows, formats={name: "+.1f"}, note=f"Points of top-1, paired; {OVER}.")


def protocol_table(found: Scores) -> Html:
    """List the switches that change each number: a column a test, from the first run with it."""
    first = {test: one.protocol for (_, test), one in reversed(list(found.items()))}
    tests = list(dict.fromkeys(test for _, test in found))
    switches: dict[str, None] = {}
    for test in tests:
        switches |= dict.fromkeys(first[test])
    rows = [
        {"switch": name, **{test: _short(first[test].get(name, "")) for test in tests}}
        for name in switches
    ]
    return table(rows)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
