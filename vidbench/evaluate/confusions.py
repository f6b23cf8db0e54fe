"""Which classes are taken for each other, which videos are wrong or in doubt, what classes gain."""

from dataclasses import dataclass

import numpy as np

from vidbench.evaluate.tables import Features, class_words


@dataclass(frozen=True)
class ClassGain:
    """A class's share of right predictions before and after, and the difference."""

    action: str
    videos: int
    before: float
    after: float
    gain: float


def gains(better: Features, worse: Features) -> list[ClassGain]:
    """Compute what each class gains from one run to another, the largest gain first.

    Args:
        better, worse: Class probabilities of the same videos in the same order; their protocols
            differ only in what the runs differ in.

    Raises:
        ValueError: Videos, labels or classes differ, or rows have no label.
    """
    same = better.classes == worse.classes and np.array_equal(better.label, worse.label)
    if not same or better.protocol.get("rows") != worse.protocol.get("rows"):
        raise ValueError(
            f"gains needs two tables of the same videos and classes; got {len(better.label)} "
            f"videos of {class_words(better.classes)} and {len(worse.label)} of "
            f"{class_words(worse.classes)}."
        )
    check_labeled(better, "gains")
    after, before = (table.values.argmax(axis=1) == table.label for table in (better, worse))
    made = []
    for number in np.unique(better.label).tolist():
        here = better.label == number
        left, right = float(before[here].mean()), float(after[here].mean())
        made.append(ClassGain(better.classes[number], int(here.sum()), left, right, right - left))
    return sorted(made, key=lambda one: -one.gain)


def confusion(table: Features) -> np.ndarray:
    """Compute the confusion matrix as shares of each class's videos: [class, predicted class].

    A class without videos has NaN.

    Raises:
        ValueError: Rows have no label.
    """
    check_labeled(table, "confusion")
    counts = _counts(table)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def cells(table: Features) -> dict[tuple[int, int], np.ndarray]:
    """Collect the videos behind each cell of the confusion matrix.

    Returns:
        (class, predicted class) -> rows [n] of the table, for the cells that have any: mistakes
        first, the most frequent first, then the diagonal. Rows of a cell: the surest first.

    Raises:
        ValueError: Rows have no label.
    """
    check_labeled(table, "cells")
    predicted = table.values.argmax(axis=1)
    surest = np.argsort(-table.values.max(axis=1), kind="stable")
    keys = np.stack([table.label[surest], predicted[surest]], axis=1)
    found: dict[tuple[int, int], list[int]] = {}
    for (own, taken_for), row in zip(keys.tolist(), surest.tolist(), strict=True):
        found.setdefault((own, taken_for), []).append(row)
    order = sorted(found, key=lambda cell: (cell[0] == cell[1], -len(found[cell]), cell))
    return {cell: np.array(found[cell], np.int64) for cell in order}


def notable(values: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Order the videos that are worth a look, from class probabilities.

    Args:
        values: Probabilities [N,C].
        label: Index of each video's class [N], -1 where it is unknown.

    Returns:
        "most wrong": the wrong predictions, the surest first; missing if no video has a label.
        "least sure": all videos, the smallest margin between the first two classes first.

    Raises:
        ValueError: There are fewer than two classes, or not one label a video.
    """
    values, label = np.asarray(values), np.asarray(label)
    if values.ndim != 2 or values.shape[1] < 2 or label.shape != values.shape[:1]:
        raise ValueError(
            "notable needs probabilities [N,C], C > 1, and label [N]; got "
            f"{list(values.shape)} and {list(label.shape)}. Pass the table's values and label."
        )
    first = np.sort(values, axis=1)[:, -2:]
    found = {}
    if (label >= 0).any():
        wrong = np.flatnonzero((label >= 0) & (values.argmax(axis=1) != label))
        found["most wrong"] = wrong[np.argsort(-first[wrong, 1], kind="stable")]
    found["least sure"] = np.argsort(first[:, 1] - first[:, 0], kind="stable")
    return found


def _counts(table: Features) -> np.ndarray:
    """How many videos of each class get each prediction: int64 [classes,classes]."""
    counts = np.zeros((len(table.classes),) * 2, np.int64)
    np.add.at(counts, (table.label, table.values.argmax(axis=1)), 1)
    return counts


def check_labeled(table: Features, who: str) -> None:
    """Check that every row has a label.

    Args:
        who: The function that the message names.

    Raises:
        ValueError: Rows have no label.
    """
    if len(table.label) and (table.label < 0).all():
        raise ValueError(
            f"{who} needs labels; the {len(table.label)} videos have none. Use class folders, or a "
            "csv with a column label."
        )
    if (table.label < 0).any():
        raise ValueError(
            f"{who}: {int((table.label < 0).sum())} rows have no label; select the labeled ones."
        )
