"""Splits, classes, sizes and lengths of a manifest."""

import re
from dataclasses import replace

import numpy as np

from vidbench.view import manifests


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_splits_are_counted_and_a_shared_source_video_shows(toy_tiny):
    said = text(manifests.split_table(toy_tiny))
    assert "train 216 72 12 0 test 72 24 12 0" in said and said.endswith("held-out split: 0")
    leaking = replace(toy_tiny, source_video=np.zeros_like(toy_tiny.source_video))
    assert manifests.shared(leaking) == 1


def test_the_largest_classes_are_bars(toy_tiny):
    figure = manifests.class_bars(toy_tiny)
    assert {one.name for one in figure.data} == {"train", "test"}
    assert "12 largest of 12 classes" in figure.layout.title.text
    assert manifests.class_bars(toy_tiny.without_labels()).startswith("no labels: ")


def test_sizes_and_lengths_of_a_scan(toy_tiny):
    count = len(toy_tiny)
    facts = {"height": 64, "width": 64, "frames": 30, "fps": 15.0}
    scanned = replace(toy_tiny, **{name: np.full(count, value) for name, value in facts.items()})
    assert "64 64 288 pixels; number of sizes: 1" in text(manifests.size_table(scanned))
    assert "100 30 2.0" in text(manifests.length_table(scanned))
