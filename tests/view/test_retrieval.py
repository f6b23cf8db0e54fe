"""Tables and curves of searches, and what changed between two of them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.test_searches import tables
from vidbench.evaluate import searches
from vidbench.view import exchanges, retrieval

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def found():
    return searches.search_all({"before": tables(9.0), "after": tables(0.01), "flow": tables(0.02)})


@pytest.fixture(scope="module")
def train(toy_tiny):
    """18 videos of three classes, as the tables have."""
    rows = np.concatenate([np.flatnonzero(toy_tiny.label == label)[:6] for label in range(3)])
    return replace(toy_tiny.select(mask=np.isin(np.arange(len(toy_tiny)), rows)), classes=CLASSES)


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_numbers_are_columns_and_differences_have_signs(found):
    numbers = text(retrieval.numbers_table(found, CLASSES))
    assert (
        numbers.startswith("percent before after flow R@1") and "right in 33.3% at R@1" in numbers
    )
    gaps = text(retrieval.differences_table(found, "before"))
    assert gaps.startswith("points after flow R@1 +") and "R@k - that of before" in gaps
    assert len(retrieval.recall_curve(found, CLASSES).data) >= 3
    protocol = text(retrieval.protocol_table(found))
    assert protocol.startswith("switch before after flow stream rgb rgb rgb windows 4 4 4")


def test_hubs_are_counted_over_at_most_ten_neighbors(found, train):
    assert "Over the 10 nearest" in text(retrieval.hub_table(found, train))
    curve = retrieval.hub_curve(found, train)
    assert sum(curve.data[0].y) == 10 * 18


def test_without_labels_tables_are_sentences(train):
    found = searches.search_all({"one": tables(1.0, labels=False)})
    for made in (
        retrieval.numbers_table(found, ()),
        retrieval.recall_curve(found, ()),
        retrieval.differences_table(found, "one"),
    ):
        assert made.startswith("no labels: ")
    assert len(retrieval.hub_curve(found, train).data) >= 1


def test_exchanges_show_what_the_teacher_names(found, train):
    pair = ("before", "after")
    curve = exchanges.overlap_curve(found, pair, "flow", 18)
    lines = {one.name: one.y for one in curve.data if one.name}
    assert lines["after"][0] > lines["before"][0]
    bars = exchanges.exchange_bars(found, pair, train, train, 5)
    assert {one.name for one in bars.data} == {"right", "wrong"}
    assert "also retrieved by flow" in exchanges.origin_table(found, pair, "flow", train, train, 5)
    same = exchanges.origin_table(found, ("after", "after"), "flow", train, train, 5)
    assert same == "no neighbor was gained"
    bare = train.without_labels()
    assert "no labels" in exchanges.origin_table(found, pair, "flow", bare, bare, 5)
