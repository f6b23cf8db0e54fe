"""Search against a full sort, two streams, exclusion, R@k with its protocol and intervals."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from vidbench.engine.runs import protocol_id
from vidbench.evaluate import search as exact
from vidbench.evaluate.features import Features
from vidbench.evaluate.retrieval import (
    macro,
    per_class,
    protocol_of,
    retrieve,
    summary,
)
from vidbench.evaluate.search import search, unit


def table(values, label, classes=("a", "b", "c"), source_video=None):
    label = np.asarray(label)
    source_video = np.arange(len(label)) if source_video is None else source_video
    return Features(np.asarray(values, np.float32), label, source_video, classes, {})


@pytest.mark.parametrize("centering", ["none", "gallery", "split"])
def test_search_is_a_full_sort_of_cosines(centering):
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(1, 1, (60, 9)), rng.normal(1, 1, (7, 9))
    found = search(gallery, queries, 5, centering=centering)
    off = {
        "none": (0, 0),
        "gallery": (gallery.mean(0),) * 2,
        "split": (gallery.mean(0), queries.mean(0)),
    }[centering]
    for i, query in enumerate(queries - off[1]):
        cosines = [
            float(row @ query / np.linalg.norm(row) / np.linalg.norm(query))
            for row in gallery - off[0]
        ]
        best = sorted(range(60), key=lambda j: -cosines[j])[:5]
        assert found.rows[i].tolist() == best
        np.testing.assert_allclose(found.scores[i], [cosines[j] for j in best], atol=1e-5)


def plain_search(gallery, queries, k, barred=()):
    """The k nearest of each query by cosine: a sort of all, equal ones in the gallery's order."""
    found = []
    for i, query in enumerate(queries):
        cosines = [
            float(np.dot(row, query) / np.linalg.norm(row) / np.linalg.norm(query))
            for row in gallery
        ]
        allowed = [j for j in range(len(gallery)) if (i, j) not in barred]
        found.append(sorted(allowed, key=lambda j: (-cosines[j], j))[:k])
    return found


@pytest.mark.parametrize(("block", "spare"), [(16_384, 16), (16_384, 1), (7, 1)])
def test_neighbors_of_the_own_source_are_left_out(block, spare, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", block)
    monkeypatch.setattr(exact, "SPARE", spare)
    rng = np.random.default_rng(3)
    source_video = np.array([0] * 9 + [1] * 2 + [2] * 12 + [4] * 7)
    gallery = (
        rng.normal(0, 0.3, (30, 6)) + rng.normal(0, 1, (5, 6))[source_video]
    )  # siblings lie near one another
    gallery[24], gallery[10] = gallery[23], gallery[9]  # ties have to be looked at once more
    queries_of = np.array([0, 1, 2, 3, 4, 0])
    queries = gallery[[0, 9, 11, 20, 29, 5]]
    barred = {
        (i, j)
        for i, one in enumerate(queries_of)
        for j, other in enumerate(source_video)
        if one == other
    }
    found = search(gallery, queries, 18, source_videos=(source_video, queries_of))
    assert found.rows.tolist() == plain_search(gallery, queries, 18, barred)
    assert (
        found.rows.tolist()
        != search(gallery, queries, 18).rows.tolist()
        == plain_search(gallery, queries, 18)
    )
    with pytest.raises(
        ValueError,
        match="query 2 has 18 of the gallery's 30 rows left outside of its source, f",
    ):
        search(gallery, queries, 19, source_videos=(source_video, queries_of))
    with pytest.raises(
        ValueError, match="source for each of 30 gallery rows and 6 queries; got 29 and 6"
    ):
        search(gallery, queries, 3, source_videos=(source_video[1:], queries_of))


def test_ties_stand_in_the_gallerys_order_however_it_is_cut(monkeypatch):
    rng = np.random.default_rng(4)
    some = rng.normal(0, 1, (6, 40))
    gallery, queries = np.tile(some, (12, 1)), rng.normal(0, 1, (5, 40))  # row j is row j + 6 again
    wanted = plain_search(np.round(gallery, 12), queries, 30)
    for block, spare in ((16_384, 16), (16_384, 1), (5, 2), (1, 1)):
        monkeypatch.setattr(exact, "BLOCK", block)
        monkeypatch.setattr(exact, "SPARE", spare)
        found = search(gallery, queries, 30)
        for rows, scores in zip(found.rows, found.scores, strict=True):
            assert [rows[i : i + 12].tolist() for i in (0, 12)] == [
                sorted(rows[i : i + 12]) for i in (0, 12)
            ]
            assert [len(set(part % 6)) for part in (rows[:12], rows[12:24])] == [1, 1]
            assert len(set(scores[:12])) == 1 and scores[12] < scores[0]
        assert [rows[0::12].tolist() for rows in found.rows] == [rows[0::12] for rows in wanted]
        source_video = np.arange(72) // 24  # the first four copies are of the queries' source
        apart = search(gallery, queries, 30, source_videos=(source_video, np.zeros(5, int)))
        assert [rows[:8].tolist() for rows in apart.rows] == [
            rows[4:12].tolist() for rows in found.rows
        ]
        assert apart.rows.min() == 24


def test_blocks_and_order_of_rows_move_no_neighbor(monkeypatch):
    rng = np.random.default_rng(11)
    gallery, queries, order = (
        rng.normal(0, 1, (90, 7)),
        rng.normal(0, 1, (8, 7)),
        rng.permutation(90),
    )
    whole = search(gallery, queries, 12, centering="gallery")
    shuffled = search(gallery[order], queries, 12, centering="gallery")
    assert np.array_equal(order[shuffled.rows], whole.rows)
    monkeypatch.setattr(exact, "BLOCK", 5)
    monkeypatch.setattr(exact, "HELD", 1)
    parted = search(gallery, queries, 12, centering="gallery")
    assert np.array_equal(parted.rows, whole.rows)
    np.testing.assert_allclose(parted.scores, whole.scores, atol=1e-6)


def test_siblings_are_counted_and_nobody_elses():
    assert exact.siblings(np.array([4, 0, 4, 2]), np.array([2, 4, 1, 9, 0])).tolist() == [
        1,
        2,
        0,
        0,
        1,
    ]


@pytest.mark.parametrize(
    "rows", [200, 22]
)  # more rows than faiss proposes, so that all are looked at; all proposed
def test_order_is_that_of_double_precision_where_single_cannot_tell(rows):
    rng = np.random.default_rng(5)
    gallery = (np.ones((rows, 64)) + 3e-4 * rng.normal(0, 1, (rows, 64))).astype(
        np.float32
    )  # cosines within 1e-7
    queries = gallery[:4] + np.float32(0.05) * rng.normal(0, 1, (4, 64)).astype(np.float32)
    exact = (unit(queries).astype(np.float64) @ unit(gallery).astype(np.float64).T).astype(
        np.float32
    )
    found = search(gallery, queries, 20)
    for i in range(4):
        assert found.rows[i].tolist() == sorted(range(rows), key=lambda j: (-exact[i, j], j))[:20]
    assert np.array_equal(found.scores, np.take_along_axis(exact, found.rows, 1))


@pytest.mark.parametrize("centering", ["none", "gallery", "split"])
def test_two_streams_are_the_sum_of_their_cosines(centering):
    rng = np.random.default_rng(6)
    gallery = [
        rng.normal(1, 1, (40, 5)),
        1000 * rng.normal(1, 1, (40, 8)),
    ]  # one stream must not shout the other down
    queries = [rng.normal(1, 1, (6, 5)), 1000 * rng.normal(1, 1, (6, 8))]
    found = search(gallery, queries, 7, centering=centering)
    sums = np.zeros((6, 40))
    for g, q in zip(gallery, queries, strict=True):
        g, q = (
            (g, q)
            if centering == "none"
            else (g - g.mean(0), q - (q if centering == "split" else g).mean(0))
        )
        for i in range(6):
            for j in range(40):
                sums[i, j] += q[i] @ g[j] / np.linalg.norm(q[i]) / np.linalg.norm(g[j])
    for i in range(6):
        assert found.rows[i].tolist() == sorted(range(40), key=lambda j: -sums[i, j])[:7]
        np.testing.assert_allclose(found.scores[i], sums[i, found.rows[i]], atol=1e-5)
    alone = search(gallery[0], queries[0], 7, centering=centering)
    assert np.array_equal(
        search([gallery[0]], [queries[0]], 7, centering=centering).rows, alone.rows
    )
    assert not np.array_equal(alone.rows, found.rows)


def test_recall_on_a_toy_matrix():
    gallery = table(np.eye(4), [0, 0, 1, 2])
    queries = table([[1, 0.9, 0, 0], [0, 0, 0.4, 1], [0.1, 0, 1, 0.2]], [0, 1, 1])
    made = retrieve(gallery, queries, ks=(1, 2))
    found, hits = made.neighbors, made.hits
    assert found.rows[:, 0].tolist() == [0, 3, 2]
    assert hits["R@1"].tolist() == [True, False, True] and hits["R@2"].tolist() == [
        True,
        True,
        True,
    ]


def test_a_k_asked_for_is_kept_or_refused_and_the_usual_ones_are_cut_and_said():
    rng = np.random.default_rng(7)
    gallery = table(rng.normal(0, 1, (12, 4)), np.arange(12) % 3, source_video=np.arange(12) // 4)
    queries = table(
        rng.normal(0, 1, (5, 4)), [0, 1, 2, 0, 1], source_video=np.array([0, 1, 7, 8, 9])
    )
    assert list(retrieve(gallery, queries).hits) == ["R@1", "R@5", "R@10"]
    assert protocol_of(gallery, queries)["ks_left_out"] == "20,50"
    assert list(retrieve(gallery, queries, exclude_source_video=True).hits) == ["R@1", "R@5"]
    assert protocol_of(gallery, queries, exclude_source_video=True)["ks_left_out"] == "10,20,50"
    assert list(retrieve(gallery, queries, ks=(12, 2)).hits) == ["R@12", "R@2"]
    assert "ks_left_out" not in protocol_of(gallery, queries, ks=(12, 2))
    big = table(rng.normal(0, 1, (300, 4)), np.arange(300) % 3)
    assert list(retrieve(big, queries, ks=(200,)).hits) == ["R@200"]
    with pytest.raises(ValueError, match="R@50: the gallery has 12 rows, fewer than k = 50"):
        retrieve(gallery, queries, ks=(1, 50))
    with pytest.raises(
        ValueError,
        match="R@10: query 0 has 8 of the gallery's 12 rows left outside of its source",
    ):
        retrieve(gallery, queries, ks=(10,), exclude_source_video=True)
    with pytest.raises(ValueError, match="R@0"):
        retrieve(gallery, queries, ks=(0, 1))
    same = replace(gallery, source_video=gallery.source_video * 0)
    with pytest.raises(
        ValueError, match="'a' of the queries is nowhere in the gallery outside of a query's own"
    ):
        retrieve(
            same, replace(queries, source_video=queries.source_video * 0), exclude_source_video=True
        )


def test_a_hit_counts_only_outside_of_the_own_source():
    gallery = table(
        [[1, 0], [0, 1], [1, 1], [1, -1]], [0, 0, 1, 1], source_video=np.array([0, 1, 2, 3])
    )
    queries = table([[1, 0.1], [1, -0.9]], [0, 1], source_video=np.array([0, 3]))
    assert retrieve(gallery, queries, ks=(1,)).hits["R@1"].tolist() == [True, True]
    made = retrieve(gallery, queries, ks=(1, 2), exclude_source_video=True)
    found, hits = made.neighbors, made.hits
    assert found.rows[:, 0].tolist() == [2, 0] and hits["R@1"].tolist() == [False, False]
    assert hits["R@2"].tolist() == [False, True]


def test_two_streams_of_tables_and_what_does_not_belong_together():
    rng = np.random.default_rng(8)
    protocol = {"windows": 4, "stream": "rgb", "rows": "9-aa"}
    label, source_video = np.arange(9) % 3, np.arange(9) // 2
    rgb = replace(
        table(rng.normal(0, 1, (9, 4)), label, source_video=source_video), protocol=protocol
    )
    flow = replace(
        table(rng.normal(0, 1, (9, 6)), label, source_video=source_video),
        protocol={**protocol, "stream": "flow", "tv": 1},
    )
    queries_of = [
        replace(
            one,
            values=one.values + rng.normal(0, 0.3, one.values.shape),
            protocol={**one.protocol, "rows": "9-b"},
        )
        for one in (rgb, flow)
    ]
    found = retrieve([rgb, flow], queries_of, ks=(3,)).neighbors
    wanted = search([rgb.values, flow.values], [one.values for one in queries_of], 3)
    assert np.array_equal(found.rows, wanted.rows) and found.scores.max() > 1
    said = protocol_of([rgb, flow], queries_of, centering="gallery", ks=(3,))
    assert said == {
        "windows": 4,
        "stream": "rgb+flow",
        "tv": 1,
        "centering": "gallery",
        "exclude_source_video": False,
        "gallery": "9-aa",
        "queries": "9-b",
    }
    for gallery, queries, says in (
        (
            [rgb, replace(flow, protocol={**protocol, "rows": "9-cc"})],
            queries_of,
            "are of different videos (9-aa and 9-cc)",
        ),
        (
            [rgb, replace(flow, source_video=source_video[::-1])],
            queries_of,
            "gallery are of different videos",
        ),
        ([rgb, replace(flow, label=label[::-1])], queries_of, "gallery are of different videos"),
        (
            [rgb, flow],
            [queries_of[0], replace(queries_of[1], source_video=source_video[::-1])],
            "queries are of different videos",
        ),
        ([rgb, flow], queries_of[:1], "got 2 of the gallery and 1 of the queries"),
        ([rgb, flow], queries_of[::-1], "stream is 'rgb' and 'flow'"),
        (
            rgb,
            replace(queries_of[0], protocol={**queries_of[0].protocol, "windows": 10}),
            "windows is 4 and 10",
        ),
        (rgb, replace(queries_of[0], classes=("a", "c", "b")), "other class lists"),
        (rgb, table(np.zeros((0, 4)), np.zeros(0, int)), "no rows in the queries"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            retrieve(gallery, queries)


def test_each_switch_is_in_the_protocols_id():
    rng = np.random.default_rng(9)
    protocol = {"windows": 4, "stream": "rgb"}
    held = [
        replace(table(rng.normal(0, 1, (9, 4)), np.arange(9) % 3), protocol=protocol)
        for _ in range(2)
    ]
    ids = {
        protocol_id("retrieval", protocol_of(*held)),
        protocol_id("retrieval", protocol_of(*held, centering="split")),
        protocol_id("retrieval", protocol_of(*held, exclude_source_video=True)),
        protocol_id(
            "retrieval", protocol_of(*[replace(one, protocol={"windows": 10}) for one in held])
        ),
        protocol_id(
            "retrieval", protocol_of(held[0], replace(held[1], label=(np.arange(9) + 1) % 3))
        ),
        protocol_id(
            "retrieval", protocol_of(replace(held[0], source_video=np.arange(9) // 2), held[1])
        ),
        protocol_id("retrieval", protocol_of([held[0]] * 2, [held[1]] * 2)),
    }
    assert len(ids) == 7
    assert json.loads(json.dumps(protocol_of(*held))) == protocol_of(*held)


def test_search_refuses_what_would_give_a_false_number():
    good = np.ones((3, 2))
    with pytest.raises(ValueError, match="the gallery has 3 rows, fewer than k = 4"):
        search(good, good, 4)
    with pytest.raises(ValueError, match="counts neighbors from 1; got 0"):
        search(good, good, 0)
    bad = np.ones((6, 2))
    bad[[4, 5], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="gallery: row 4 contains NaN or infinity, and 1 more"):
        search(bad, good, 1)
    with pytest.raises(ValueError, match="queries: row 4 contains NaN"):
        search(good, bad, 1)
    with pytest.raises(ValueError, match="gallery: row 1 is zero, so"):
        search(np.array([[1.0, 2], [0, 0]]), good, 1)
    with pytest.raises(ValueError, match="queries: row 0 is zero after the mean is subtracted"):
        search(np.eye(2), np.eye(2)[:1], 1, centering="split")
    wide, two = np.ones((3, 5)), [good, good]
    for gallery, queries in (
        (good, wide),
        (good[0], good),
        (two, [good]),
        ([good, good[1:]], two),
        ([], []),
    ):
        with pytest.raises(ValueError, match=r"\[Q,D\]"):
            search(gallery, queries, 1)
    with pytest.raises(ValueError, match="centering"):
        search(good, good, 1, centering="mean")
    with pytest.raises(ValueError, match="1 rows of the queries have no label"):
        retrieve(table(np.eye(2), [0, 1]), table(np.eye(2), [0, -1]))
    with pytest.raises(ValueError, match="2 rows of the gallery have no label"):
        retrieve(table(np.eye(2), [-1, -1]), table(np.eye(2), [0, 1]))
    with pytest.raises(ValueError, match="'c' of the queries is nowhere in the gallery; its"):
        retrieve(table(np.eye(2), [0, 1]), table(np.eye(2), [0, 2]))


def test_tables_without_labels_have_neighbors_and_no_hits():
    values = np.random.default_rng(2).normal(size=(14, 5))
    bare = [table(part, np.full(len(part), -1), ()) for part in (values[:9], values[9:])]
    known = [table(part, np.arange(len(part)) % 3) for part in (values[:9], values[9:])]
    found, wanted = retrieve(*bare), retrieve(*known)
    assert found.hits == {} and wanted.hits and summary(found.hits) == {}
    np.testing.assert_array_equal(found.neighbors.rows, wanted.neighbors.rows)
    assert protocol_of(*bare)["centering"] == "none"


def test_a_bad_row_is_named_by_its_own_number_in_a_later_block(monkeypatch):
    monkeypatch.setattr(exact, "BLOCK", 4)
    gallery = np.ones((11, 2))
    gallery[9] = 0
    with pytest.raises(ValueError, match="gallery: row 9 is zero"):
        search(gallery, np.ones((1, 2)), 1)


def test_summary_is_shares_inside_their_intervals():
    hits = {"R@1": np.arange(40) < 10, "R@5": np.ones(40, dtype=bool)}
    share, low, high = summary(hits)["R@1"]
    assert share == 0.25 and 0.08 < low < 0.25 < high < 0.42
    assert summary(hits)["R@5"] == (1.0, 1.0, 1.0) and summary(hits, seed=3) == summary(
        hits, seed=3
    )
    by_source_video = summary(hits, 3, by="source_video", source_video=np.arange(40) // 4)
    assert by_source_video == summary(
        hits, 3, by="source_video", source_video=np.arange(40) // 4 + 100
    )  # ids are names, no more
    assert by_source_video["R@5"] == (1.0, 1.0, 1.0)


def width(interval):
    return interval[2] - interval[1]


def test_sources_are_drawn_whole_so_agreeing_siblings_widen_the_interval():
    rng = np.random.default_rng(10)
    takes = rng.random(60) < 0.5
    agree, source_video = np.repeat(takes, 9), np.repeat(np.arange(60), 9)
    single, cluster = (
        summary({"x": agree}, by=by, source_video=source_video)["x"]
        for by in ("video", "source_video")
    )
    assert single[0] == cluster[0] == takes.mean()
    assert 2.5 < width(cluster) / width(single) < 3.5  # nine clips that agree count as one: sqrt(9)
    # where no two are of one source, both bootstraps are one
    alone = [
        summary({"x": takes}, by=by, source_video=np.arange(60))["x"]
        for by in ("video", "source_video")
    ]
    assert (
        0.85 < width(alone[0]) / width(alone[1]) < 1.15
        and abs(width(alone[1]) / width(cluster) - 1) < 0.15
    )
    # sources of one size whose clips hold half of the hits each: nothing is left to chance
    even = summary(
        {"x": np.tile([True, False], 30)},
        by="source_video",
        source_video=np.repeat(np.arange(30), 2),
    )["x"]
    assert even == (0.5, 0.5, 0.5)


def test_sources_of_other_sizes_weigh_by_their_clips():
    source_video, hit = np.array([0] * 9 + [1]), np.array([True] * 9 + [False])
    mean, low, high = summary({"x": hit}, by="source_video", source_video=source_video)["x"]
    # two sources drawn of two: both the large one (1), one each (0.9), both the small one (0)
    assert (mean, low, high) == (0.9, 0.0, 1.0)
    many = np.repeat(
        np.arange(40), [9] * 20 + [1] * 20
    )  # nine in ten clips are hits, every second source
    mean, low, high = summary({"x": many < 20}, by="source_video", source_video=many)["x"]
    assert mean == 0.9 and 0.8 < low < 0.9 < high < 0.97


def test_a_paired_comparison_is_a_summary_of_differences():
    one, two = np.arange(50) % 5 > 0, np.arange(50) % 5 > 1
    mean, low, high = summary(
        {"x": 1.0 * one - two}, by="source_video", source_video=np.arange(50) // 5
    )["x"]
    assert mean == pytest.approx(0.2) and low == high == pytest.approx(
        0.2
    )  # each source has one video that differs


def test_summary_refuses():
    hits = {"R@1": np.ones(4, bool)}
    for arguments, says in (
        ({"by": "class"}, "by='class' and no s"),
        ({"by": "source_video"}, "by='source_video' and no s"),
        ({"by": "source_video", "source_video": np.arange(3)}, "3 sources, but 4 values of R@1"),
    ):
        with pytest.raises(ValueError, match=says):
            summary(hits, **arguments)


def test_each_class_counts_the_same_in_the_macro_mean():
    label, hit = np.array([0, 0, 0, 0, 2, 2]), np.array([1, 1, 1, 0, 0, 0], bool)
    assert per_class(hit, label, ("a", "b", "c")) == {"a": (0.75, 4), "c": (0.0, 2)}
    assert macro(hit, label) == 0.375 and hit.mean() == 0.5
