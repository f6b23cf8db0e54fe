"""The difference of two runs on the same videos as one sentence, with its interval."""

import numpy as np

from vidbench.evaluate.probe import Score
from vidbench.evaluate.retrieval import summary

FEW = 1000  # iterations: a shorter training rarely separates two methods


def difference_words(
    names: tuple[str, str],
    hits: tuple[np.ndarray, np.ndarray],
    source_video: np.ndarray,
    measure: str = "R@1",
    iterations: int = 0,
) -> str:
    """Say by how many points one run is better than another, and whether that is significant.

    Args:
        names: Of the two runs, the first minus the second.
        hits: Of each run whether a video was right, or its score, [Q]; of the same videos.
        source_video: The source video of each query [Q]; the interval draws whole sources.
        measure: What the hits count.
        iterations: Of the shorter of the two trainings; 0 if it is unknown.

    Returns:
        "CoCLR - InfoNCE = +39.6 points R@1 [30.0, 49.2], significant.", or ": not significant",
        with a remark if the training was short.
    """
    apart = 100.0 * np.asarray(hits[0], float) - 100.0 * np.asarray(hits[1], float)
    found = summary({measure: apart}, by="source_video", source_video=source_video)
    value, low, high = found[measure]
    said = f"{names[0]} - {names[1]} = {value:+.1f} points {measure} [{low:.1f}, {high:.1f}]"
    if low > 0 or high < 0:
        return f"{said}, significant."
    short = f", and {iterations:,} iterations are too few to tell" * (0 < iterations < FEW)
    return f"{said}: not significant{short}."


def score_words(
    names: tuple[str, str], one: Score, other: Score | None = None, iterations: int = 0
) -> str:
    """Compare two classifiers, or one with chance, by top-1 (see `difference_words`).

    Args:
        names: Of both; the second is left out if there is no other.
        one, other: Scores of the same videos; None is chance.
        iterations: Of the shorter of the two trainings; 0 if it is unknown.
    """
    chance = np.full(len(one.right), 1 / len(one.table.classes))
    pair = names if other else (names[0], "chance")
    hits = one.right, other.right if other else chance
    return difference_words(pair, hits, one.table.source_video, "top-1", iterations)
