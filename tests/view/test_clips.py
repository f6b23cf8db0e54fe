"""The gallery of neighbors: what it counts, marks and calls by another name, in RGB and in flow."""

import re

import numpy as np
import pytest

from tests.view.test_galleries import KEPT, Skeleton, styles
from vidbench.evaluate.search import Neighbors
from vidbench.view import looks
from vidbench.view.clips import neighbors_gallery


@pytest.fixture(scope="module")
def world(toy_tiny, toy_flow):
    """Eight training videos, three queries, flow of them all, and two made-up searches."""
    train = toy_tiny.select(split="train").select(mask=np.arange(8) * 9)
    queries = toy_tiny.select(split="test").select(mask=np.arange(3) * 5)
    rows = {
        "before": [[0, 1, 2], [3, 4, 5], [6, 7, 0]],
        "after": [[2, 0, 3], [5, 6, 7], [1, 2, 3]],
        "flow": [[0, 2, 4], [0, 1, 2], [1, 2, 3]],
    }
    found = {
        name: Neighbors(np.array(near), np.linspace(0.9, 0.1, 9).reshape(3, 3))
        for name, near in rows.items()
    }
    return train, queries, toy_flow, found


def test_without_labels_no_neighbor_is_right_or_wrong(world):
    train, queries, _, found = world
    bare = train.without_labels(), queries.without_labels()
    page = Skeleton(neighbors_gallery(*bare, {"before": found["before"]}, shown=2))
    assert not re.search("right|wrong|[✓✗]", " ".join(page.words))
    assert "before" in page.words and str(train.names(0)["path"].split("/")[-1][:-4]) in page.words


def test_the_gallery_counts_and_marks_what_stands_in_both_lists(world):
    train, queries, _, found = world
    text = neighbors_gallery(
        train, queries, found, compared={"before": "flow", "after": "flow"}, shown=3
    )
    page = Skeleton(text)
    counts = [
        tuple(map(int, re.findall(r"(\d+) (?:of|also)", words)))
        for words in page.words
        if " right" in words
    ]
    right = [
        sum(train.label[row] == queries.label[q] for row in found[name].rows[q])
        for q in range(3)
        for name in ("before", "after", "flow")
    ]
    assert [count[0] for count in counts] == right
    both = [
        len(set(found[name].rows[q]) & set(found["flow"].rows[q]))
        for q in range(3)
        for name in ("before", "after")
    ]
    assert [count[1] for count in counts if len(count) == 2] == both == [2, 2, 0, 0, 0, 3]
    assert page.words.count("in both") == sum(both)
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert sum(alt.endswith("also in flow") for alt in alts) == sum(both)
    assert "also in" not in neighbors_gallery(train, queries, found, shown=1)
    titles = {"flow": "InfoNCE flow"}
    named = neighbors_gallery(
        train, queries, found, compared={"before": "flow"}, titles=titles, shown=1
    )
    assert "also in InfoNCE flow" in named and "InfoNCE flow" not in text


def test_the_gallery_of_flow_shows_it_in_colors_with_a_wheel(world):
    train, queries, folder, found = world
    text = neighbors_gallery(
        train, queries, {"flow": found["flow"]}, flow_folder=folder, shown=2, results=2
    )
    plain = neighbors_gallery(train, queries, {"flow": found["flow"]}, shown=2, results=2)
    assert text.count("<img ") == plain.count("<img ") + 1 == 2 * 3 + 1
    assert re.search(r"at the rim \d+\.\d pixels per frame", text) and "at the rim" not in plain
    assert not set(re.findall(r"base64,([^\"]+)", text)) & set(
        re.findall(r"base64,([^\"]+)", plain)
    )
    assert styles(text) <= KEPT


def test_videos_without_labels_get_frames_of_their_source_and_no_verdict(world):
    train, queries, _, found = world
    apart = train.without_labels(), queries.without_labels()
    text = neighbors_gallery(*apart, {"flow": found["flow"]}, shown=3)
    words = " ".join(Skeleton(text).words)
    assert "No labels of the queries." in words and "blue frame" not in words
    assert looks.RIGHT not in text and looks.WRONG not in text
    assert "source video" not in words, "the training videos are of other source videos"
    own = neighbors_gallery(apart[0], apart[0], {"flow": found["flow"]}, shown=1)
    alike = int((train.source_video[found["flow"].rows[0]] == train.source_video[0]).sum())
    assert alike and f" · {alike} of 3 from the query's source video" in Skeleton(own).words
    assert own.count(f"3px solid {looks.PALETTE[0]}") == alike
