"""The difference of two runs as a sentence: significant if the interval leaves out 0."""

import numpy as np

from vidbench.evaluate.differences import difference_words
from vidbench.evaluate.retrieval import summary

SOURCES = np.repeat(np.arange(20), 4)


def test_the_sentence_has_the_paired_difference_and_its_interval():
    rng = np.random.default_rng(0)
    one, other = rng.random(80) < 0.9, rng.random(80) < 0.2
    points = {"R@1": 100.0 * one - 100.0 * other}
    value, low, high = summary(points, by="source_video", source_video=SOURCES)["R@1"]
    said = difference_words(("CoCLR", "InfoNCE"), (one, other), SOURCES, iterations=10)
    wanted = f"CoCLR - InfoNCE = {value:+.1f} points R@1 [{low:.1f}, {high:.1f}]"
    assert low > 0 and said == f"{wanted}, significant."


def test_no_difference_is_not_significant_and_a_short_training_is_named():
    hit = np.arange(80) % 2 == 0
    said = [
        difference_words(("a", "b"), (hit, hit), SOURCES, "top-1", steps) for steps in (0, 66, 1000)
    ]
    assert said[0] == said[2] == "a - b = +0.0 points top-1 [0.0, 0.0]: not significant."
    assert said[1].endswith("not significant, and 66 iterations are too few to tell.")
