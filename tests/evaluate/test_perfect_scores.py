"""Scores that would be perfect whatever the features are no numbers."""

from dataclasses import replace

import numpy as np
import pytest

from tests import makes
from vidbench.data.manifest import Manifest
from vidbench.evaluate.probe import Released, logistic, released, score
from vidbench.evaluate.retrieval import retrieve
from vidbench.evaluate.tables import Features, video_numbers

PROBES = {
    "logistic": logistic,
    "released": lambda train, test: released(train, test, Released(epochs=1, milestones=())),
}


def table(count: int = 12, classes=("a", "b", "c"), seed: int = 0, **changes) -> Features:
    values = np.random.default_rng(seed).normal(0, 1, (count, 4)).astype(np.float32)
    sources = np.arange(count) + 100 * seed
    made = Features(values, np.arange(count) % len(classes), sources, classes, {})
    return replace(made, **changes)


def test_queries_in_themselves_are_no_number():
    gallery = table()
    with pytest.raises(ValueError, match="12 of the 12 query videos are in the gallery themselves"):
        retrieve(gallery, gallery)
    assert retrieve(gallery, gallery, exclude_source_video=True).hits["R@1"].mean() < 1
    assert retrieve(gallery, table(seed=1)).hits["R@1"].mean() < 1


def test_some_queries_in_the_gallery_are_no_number():
    gallery, queries = table(), table(seed=1)
    values, sources = queries.values.copy(), queries.source_video.copy()
    values[:3], sources[:3] = gallery.values[:3], gallery.source_video[:3]
    with pytest.raises(ValueError, match="3 of the 12 query videos are in the gallery"):
        retrieve(gallery, replace(queries, values=values, source_video=sources))


def test_videos_are_known_by_their_paths_whatever_their_features(tmp_path):
    makes.encode(tmp_path / "any.mp4", [makes.picture(0)])
    rows = [(f"{i}.mp4", "abc"[i % 3], None, None) for i in range(12)]
    one, two = Manifest.from_rows(tmp_path, rows), Manifest.from_rows(tmp_path, rows[6:])
    other = Manifest.from_rows(tmp_path / "elsewhere", rows)
    gallery = table(video=video_numbers(one))
    with pytest.raises(ValueError, match="6 of the 6 query videos are in the gallery"):
        retrieve(gallery, table(6, seed=1, video=video_numbers(two)))
    retrieve(gallery, table(seed=1, video=video_numbers(other)))


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_is_not_tested_on_what_it_was_trained_on(probe):
    train = table(24)
    with pytest.raises(ValueError, match="24 of the 24 query videos are in the training table"):
        PROBES[probe](train, train)


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_of_one_class_is_no_number(probe):
    train = table(24)
    alike = replace(train, label=train.label * 0)
    with pytest.raises(ValueError, match="at least two classes among the training labels"):
        PROBES[probe](alike, table(24, seed=1))


def test_a_gallery_of_one_class_is_no_number():
    gallery, queries = table(), table(seed=1)
    alike = replace(gallery, label=gallery.label * 0), replace(queries, label=queries.label * 0)
    with pytest.raises(ValueError, match="one class only \\('a'\\), so R@k would be 100 %"):
        retrieve(*alike)
    assert retrieve(gallery, alike[1]).hits["R@1"].mean() < 1  # queries of one class are a number


def test_class_scores_want_two_classes_and_videos():
    sure = Features(np.ones((5, 1), np.float32), np.zeros(5, int), np.arange(5), ("a",), {})
    with pytest.raises(ValueError, match="at least two classes.*got 5 videos of 1 classes"):
        score(sure)
    empty = np.zeros((0, 2), np.float32), np.zeros(0, int), np.zeros(0, int)
    with pytest.raises(ValueError, match="got 0 videos of 2 classes"):
        score(Features(*empty, ("a", "b"), {}))


@pytest.mark.parametrize("label", [-2, 3])
def test_labels_outside_of_the_class_list_are_refused(label):
    labels = np.arange(12) % 3
    labels[4] = label
    with pytest.raises(ValueError, match=r"labels must be in -1\.\.2"):
        table(label=labels)
