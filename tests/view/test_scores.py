"""Scores of classifiers as tables and bars."""

import re
from dataclasses import replace

import numpy as np

from vidbench.evaluate import probe
from vidbench.evaluate.differences import score_words
from vidbench.evaluate.tables import Features
from vidbench.view import scores

CLASSES = ("a", "b", "c")


def scored(share: float):
    """A score of 12 videos, of which a share is right, with its numbers."""
    label = np.arange(12) % 3
    taken = np.where(np.arange(12) < 12 * share, label, (label + 1) % 3)
    values = 0.1 + np.eye(3)[taken] * (0.5 + np.arange(12)[:, None] / 100)
    values = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    table = Features(values, label, np.arange(12) // 2, CLASSES, {"windows": 1, "rows": "same"})
    one = probe.score(table)
    return replace(one, numbers=probe.numbers(one, by="source_video"))


FOUND = {("rms", "one view"): scored(1.0), ("baseline", "one view"): scored(0.5)}


def test_scores_are_rows_and_bars():
    said = re.sub(r"<[^>]+>", " ", scores.score_table(FOUND, CLASSES, "12 videos"))
    assert "rms" in said and "100.0%" in said and "12 videos. 95 % bootstrap" in said
    assert len(scores.score_bars(FOUND, CLASSES, "title").data) >= 2
    assert "windows" in scores.protocol_table(FOUND)


def test_a_gap_is_in_points_with_a_sign():
    assert "+50.0" in scores.gap_table({"one view": (0.5, 0.2, 0.8)}, "rms", "baseline")


def test_a_score_is_compared_with_another_or_with_chance_in_words():
    good, half = FOUND["rms", "one view"], FOUND["baseline", "one view"]
    said = score_words(("rms", "baseline"), good, half, 88)
    assert said.startswith("rms - baseline = +50.0 points top-1 [") and said.endswith(
        "significant."
    )
    assert score_words(("rms", ""), good).startswith("rms - chance = +66.7 points top-1 [")
    assert "88 iterations are too few to tell" in score_words(("a", "b"), good, good, 88)
