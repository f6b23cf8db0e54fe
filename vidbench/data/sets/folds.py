"""Cross-validation by source video: folds in which every video is tested once.

All clips of a source video are in one fold, so no network is tested on a source video that it was
trained on. With labels, each fold gets its share of each class, as far as whole source videos allow
(scikit-learn's StratifiedGroupKFold). The folds follow from the videos and a seed alone, so that
several methods and training seeds can be compared on them."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.data.tables import SPLITS
from vidbench.system.errors import InputError

COUNT = 5  # folds unless a number is given
TRIES = 20  # seeds, until every fold can be trained and tested
TRAIN, TEST, NONE = (SPLITS.index(name) for name in ("train", "test", "none"))


@dataclass(frozen=True)
class Folds:
    """How many folds, and the seed by which source videos are dealt to them.

    A single fold is the data set's own split: its held-out videos are tested once."""

    count: int = COUNT
    seed: int = 0

    def __str__(self) -> str:
        if self.count == 1:
            return "the data set's own split"
        return f"{self.count} by source video, seed {self.seed}"

    @property
    def name(self) -> str:
        """What a folder of these folds is called."""
        return f"folds-source-{self.count}-seed{self.seed}" if self.count > 1 else "folds-split"


def folds_of(text: str, seed: int = 0) -> Folds:
    """Read "source", which is five folds, "source:9", or "split", the data set's own split.

    Args:
        seed: Which source videos share a fold.

    Raises:
        InputError: The text has another form, or there are fewer than two folds.
    """
    if text == "split":
        return Folds(1)
    found = re.fullmatch(r"source(?::(\d+))?", text)
    if not found or int(found[1] or COUNT) < 2:
        raise InputError(
            f"folds must be source, source:K with two or more folds, or split; got {text!r}. source "
            f"is {COUNT} folds, split the data set's own held-out videos."
        )
    return Folds(int(found[1] or COUNT), seed)


def fold_numbers(manifest: Manifest, folds: Folds) -> np.ndarray:
    """Return the fold in which each video is tested, from 1: int64 [N]; 0 for videos of no split.

    The videos' own splits are ignored, unless there is a single fold: then videos to train on have
    the number 2.

    Args:
        folds: From `folds_of`.

    Raises:
        InputError: There are fewer source videos than folds, a class has a single one, or a single
            fold has nothing to test.
    """
    if folds.count == 1:
        tested = manifest.split == SPLITS.index(manifest.held_out())
        return np.where(tested, 1, np.where(manifest.split == TRAIN, 2, 0))
    rows = np.flatnonzero(manifest.split != NONE)
    source_video, label = manifest.source_video[rows], manifest.label[rows]
    _check(manifest, source_video, label, folds)
    numbers = np.zeros(len(manifest), np.int64)
    # with nearly as many folds as source videos, classes in proportion would leave a fold empty
    most = np.bincount(label[label >= 0]).max(initial=0)
    for stratified in (True, False) if most >= folds.count else (False,):
        for attempt in range(TRIES):
            seed = folds.seed + 7919 * attempt
            dealt = _dealt(source_video, label, folds.count, seed, stratified)
            if _usable(dealt, label, folds.count):
                numbers[rows] = dealt + 1
                return numbers
    raise InputError(
        f"the {len(np.unique(source_video))} source videos of {manifest.root} could not be dealt "
        f"to {folds.count} folds so that each class that is tested is trained on, too. Use fewer "
        "folds, or add source videos to the small classes."
    )


def _check(manifest: Manifest, source_video: np.ndarray, label: np.ndarray, folds: Folds) -> None:
    """Raise ValueError if no dealing could give usable folds."""
    count = len(np.unique(source_video))
    if count < folds.count:
        more = f"Use source:{count}" if count > 1 else "Name the source videos in a csv"
        raise InputError(
            f"{folds.count} folds need {folds.count} source videos or more; got {count} in "
            f"{len(source_video)} videos of {manifest.root}. {more}, or add source videos."
        )
    for number in np.unique(label[label >= 0]):
        if len(np.unique(source_video[label == number])) < 2:
            raise InputError(
                f"class {manifest.classes[number]!r} has a single source video, so no fold could "
                "train on it and test it. Add source videos of it, or leave the class out."
            )


def _dealt(
    source_video: np.ndarray, label: np.ndarray, count: int, seed: int, stratified: bool
) -> np.ndarray:
    """The fold of each row, from 0."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    kind = StratifiedGroupKFold if stratified else GroupKFold
    numbers = np.empty(len(label), np.int64)
    with warnings.catch_warnings():
        # of a class with fewer videos than folds, which some folds then lack
        warnings.simplefilter("ignore", UserWarning)
        parts = kind(count, shuffle=True, random_state=seed).split(label, label, source_video)
        for number, (_, tested) in enumerate(parts):
            numbers[tested] = number
    return numbers


def _usable(dealt: np.ndarray, label: np.ndarray, count: int) -> bool:
    """Whether each fold tests something, and nothing of a class that it does not train on."""
    for number in range(count):
        here = dealt == number
        if not here.any() or not np.isin(label[here], label[~here]).all():
            return False
    return True


def write(manifest: Manifest, folder: Path, folds: Folds) -> list[Path]:
    """Write each fold's manifest into `folder`/fold-K/videos; return the folders fold-K.

    A fold's videos are its test split, all others its train split. What exists is kept.

    Args:
        folds: From `folds_of`.

    Raises:
        InputError: There are too few source videos, or the folder holds folds of other videos.
    """
    numbers = fold_numbers(manifest, folds)
    places = [folder / f"fold-{number}" for number in range(1, folds.count + 1)]
    for number, place in enumerate(places, 1):
        split = np.where(numbers == number, TEST, np.where(numbers, TRAIN, NONE))
        wanted = replace(manifest, split=split)
        if not (place / "videos" / "manifest.csv").is_file():
            wanted.save(place / "videos")
        found = Manifest.load(place / "videos")
        if found.fingerprint() != wanted.fingerprint() or not np.array_equal(
            found.split, wanted.split
        ):
            raise InputError(
                f"{place} holds a fold of other videos ({found.words}); got {wanted.words}. "
                f"Delete {folder}, or open the videos under another name."
            )
    return places
