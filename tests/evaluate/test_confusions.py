"""Which videos are behind the cells of a confusion matrix, and which are wrong or in doubt."""

import numpy as np
import pytest

from vidbench.evaluate import confusions
from vidbench.evaluate.tables import Features

VALUES = np.array(
    [
        [0.9, 0.1, 0.0],  # right
        [0.3, 0.6, 0.1],  # bow taken for clap
        [0.05, 0.9, 0.05],  # bow taken for clap, surer
        [0.45, 0.5, 0.05],  # right, in doubt
        [0.2, 0.1, 0.7],  # clap taken for wave
    ],
    np.float32,
)
LABEL = np.array([0, 0, 0, 1, 1])


def table(label=LABEL) -> Features:
    return Features(VALUES, np.array(label), np.arange(5), ("bow", "clap", "wave"), {})


def test_cells_hold_their_videos_mistakes_first():
    found = {cell: rows.tolist() for cell, rows in confusions.cells(table()).items()}
    assert found == {(0, 1): [2, 1], (1, 2): [4], (0, 0): [0], (1, 1): [3]}
    assert list(found) == [(0, 1), (1, 2), (0, 0), (1, 1)]
    with pytest.raises(ValueError, match="cells needs labels"):
        confusions.cells(table([-1] * 5))


def test_notable_videos_are_ordered_by_how_wrong_and_how_unsure_they_are():
    found = confusions.notable(VALUES, LABEL)
    assert found["most wrong"].tolist() == [2, 4, 1]
    assert found["least sure"].tolist() == [3, 1, 4, 0, 2]


def test_without_labels_nothing_is_wrong():
    assert list(confusions.notable(VALUES, np.full(5, -1))) == ["least sure"]
    some = confusions.notable(VALUES, np.array([0, -1, 0, -1, -1]))
    assert some["most wrong"].tolist() == [2]
    with pytest.raises(ValueError, match=r"notable needs probabilities .* got \[5, 1\]"):
        confusions.notable(VALUES[:, :1], LABEL)
