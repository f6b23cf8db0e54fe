"""relations: what is drawn is what was given, blocks come together, 400 x 700 classes stay small
and readable."""

import json

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE
from vidbench.view import clouds, relations
from vidbench.view.looks import RULE
from vidbench.view.relations import Classes

SOURCES, TARGETS = ["walk", "bow", HOSTILE], ["go", "nod"]
CLASSES = Classes(SOURCES, TARGETS)
SCORES = np.array([[0.5, -0.1], [0.0, 0.4], [-0.2, 0.1]], dtype=np.float32)


def blocks(rows, columns, count, seed=0):
    """Scores [rows,columns] with so many planted blocks in noise, rows and columns shuffled; the
    block of each."""
    random = np.random.default_rng(seed)
    of_row, of_column = random.integers(0, count, rows), random.integers(0, count, columns)
    planted = 0.1 * (of_row[:, None] == of_column) * random.random((rows, columns))
    return (
        (planted + 0.02 * random.standard_normal((rows, columns))).astype(np.float32),
        of_row,
        of_column,
    )


def breaks(labels):
    """How often the block changes from one place to the next."""
    return int((labels[1:] != labels[:-1]).sum())


@pytest.fixture(scope="module")
def large():
    """400 x 700 classes with 20 planted blocks: scores, source names, target names."""
    return (
        blocks(400, 700, 20)[0],
        [f"source class {i}" for i in range(400)],
        [f"target class {i}" for i in range(700)],
    )


# ------------------------------------------------------------------------------------------ order


def test_clustering_puts_planted_blocks_together():
    scores, *planted = blocks(400, 700, 20)
    for labels, order in zip(planted, relations.clustered(scores), strict=True):
        assert sorted(order) == list(range(len(labels)))
        shuffled = np.random.default_rng(1).permutation(labels)
        assert breaks(shuffled) > 300 and breaks(labels[order]) <= 25  # 19 is the least


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3), (6, 7)])
@pytest.mark.parametrize("fill", [0.0, 2.5, np.nan])
def test_clustering_survives_zeros_constants_and_single_rows(shape, fill):
    rows, columns = relations.clustered(np.full(shape, fill))
    assert sorted(rows) == list(range(shape[0])) and sorted(columns) == list(range(shape[1]))


def test_rows_that_are_like_nothing_stand_last():
    scores = blocks(12, 9, 3)[0]
    scores[2], scores[7], scores[:, 4] = 0, np.nan, 0
    rows, columns = relations.clustered(scores)
    assert list(rows[-2:]) == [2, 7] and columns[-1] == 4
    for wrong in (np.zeros(3), np.zeros((0, 2)), np.array([[1.0, np.inf]])):
        with pytest.raises(ValueError, match="clustered: wanted"):
            relations.clustered(wrong)


# ---------------------------------------------------------------------------------------- heatmap


def test_heatmap_shows_scores_by_name_and_white_is_zero():
    figure = relations.heatmap(SCORES, Classes(SOURCES, TARGETS, ("A", "B")), "t", unit="weight")
    drawn = figure.data[0]
    assert (
        drawn.z.dtype == np.float32
        and drawn.zmin == -drawn.zmax == -0.5
        and drawn.colorscale[1][1] == "#FFFFFF"
    )
    names = [relations.plain(name) for name in SOURCES]
    for s, source in enumerate(names):
        for t, target in enumerate(TARGETS):
            assert drawn.z[list(drawn.y).index(source), list(drawn.x).index(target)] == SCORES[s, t]
    assert "<" not in "".join([*drawn.y, *drawn.x, *figure.layout.yaxis.ticktext])
    assert (
        figure.layout.xaxis.title.text == "B, 2 classes"
        and figure.layout.yaxis.title.text == "A, 3 classes"
    )
    kept = relations.heatmap(SCORES, CLASSES, order=(np.array([2, 0, 1]), np.array([1, 0])))
    np.testing.assert_array_equal(kept.data[0].z, SCORES[[2, 0, 1]][:, [1, 0]])
    assert kept.layout.yaxis.range == (2.5, -0.5), "the first row stands on top"


def test_heatmap_of_probabilities_starts_at_zero_and_what_is_unknown_is_gray():
    chances = np.abs(SCORES)
    figure = relations.heatmap(chances, CLASSES, signed=False)
    assert figure.data[0].zmin == 0 and figure.data[0].colorscale[0][1] == "#FFFFFF"
    assert figure.layout.plot_bgcolor == "white"
    chances[1] = np.nan
    for exact in (True, False):  # 8 bits know no NaN
        figure = relations.heatmap(chances, CLASSES, signed=False, exact=exact)
        assert np.isnan(figure.data[0].z[-1]).all() and figure.layout.plot_bgcolor == RULE
    with pytest.raises(ValueError, match="from 0 up, got -0.2"):
        relations.heatmap(SCORES, CLASSES, signed=False)


def test_one_outlier_does_not_turn_the_rest_white():
    scores = np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)
    scores[3, 4] = 1000
    figure = relations.heatmap(
        scores, Classes(list(map(str, range(100))), [f"t{i}" for i in range(100)]), unit="u"
    )
    assert 2 < figure.data[0].zmax < 10 and figure.data[0].colorbar.title.text == "u<br>up to 1e+03"
    assert "up to" not in relations.heatmap(SCORES, CLASSES, unit="u").data[0].colorbar.title.text


def test_eight_bits_say_the_same_in_whole_percents():
    exact, coarse = (relations.heatmap(SCORES, CLASSES, exact=e).data[0] for e in (True, False))
    assert coarse.z.dtype == np.int8 and coarse.zmax == 100
    np.testing.assert_allclose(coarse.z / 100 * 0.5, exact.z, atol=0.5 / 200 + 1e-9)
    assert coarse.hovertemplate.endswith("%{z} % of 0.5<extra></extra>")
    assert (
        list(coarse.colorbar.tickvals) == [-75, -50, -25, 0, 25, 50, 75]
        and coarse.colorbar.ticktext[-1] == "0.38"
    )


def test_heatmap_of_many_classes_is_small_and_names_them_on_hover_alone(large):
    exact, coarse = (
        relations.heatmap(large[0], Classes(*large[1:]), exact=e) for e in (True, False)
    )
    assert len(exact.to_json()) < 2_000_000 and len(coarse.to_json()) < 700_000
    for axis in (exact.layout.xaxis, exact.layout.yaxis):
        assert axis.showticklabels is False and axis.showspikes
    assert "%{y}" in exact.data[0].hovertemplate and exact.data[0].x[0].startswith("target class")
    assert exact.layout.height < 700
    few = relations.heatmap(large[0][:40, :41], Classes(large[1][:40], large[2][:41])).layout
    assert few.yaxis.showticklabels and not few.xaxis.showticklabels


def test_marks_are_rings_on_their_cells():
    marks = [("bow", "nod"), (HOSTILE, "go")]
    figure = relations.heatmap(SCORES, Classes(SOURCES, TARGETS, marks=marks, marked="planted"))
    for ring in figure.data[1:]:
        assert list(ring.x) == ["nod", "go"] and list(ring.y) == ["bow", relations.plain(HOSTILE)]
        assert ring.marker.symbol == "circle-open" and ring.hoverinfo == "skip"
    assert [ring.showlegend for ring in figure.data[1:]] == [False, True] and figure.data[
        2
    ].name == "planted"
    assert len(relations.heatmap(SCORES, Classes(SOURCES, TARGETS, marks=[])).data) == 3, (
        "the same traces with no mark"
    )
    with pytest.raises(ValueError, match="no such pair"):
        relations.heatmap(SCORES, Classes(SOURCES, TARGETS, marks=[("go", "walk")]))


@pytest.mark.parametrize(
    ("scores", "sources", "targets", "says"),
    [
        (SCORES.T, SOURCES, TARGETS, "is the other direction meant"),
        (SCORES, SOURCES[:2], TARGETS, "a row for each"),
        (np.zeros((0, 2)), [], TARGETS, "a row for each"),
        (SCORES + np.inf, SOURCES, TARGETS, "infinite"),
        (SCORES, ["a", "b", "a"], TARGETS, "'a' twice"),
        (SCORES, SOURCES, ["x", "x"], "'x' twice"),
    ],
)
def test_figures_refuse_what_does_not_fit(scores, sources, targets, says):
    for draw in (
        relations.heatmap,
        lambda a, classes: clouds.asymmetry(a, a.T, classes),
        lambda a, classes: clouds.against(a, a, classes),
    ):
        with pytest.raises(ValueError, match=says):
            draw(scores, Classes(sources, targets))


# ------------------------------------------------------------------------------- links and points


def test_sankey_draws_the_strongest_positive_links():
    random = np.random.default_rng(0)
    rows = [
        {"A": f"a{i % 7}", "B": f"b{i}", "score": float(score)}
        for i, score in enumerate(random.standard_normal(80))
    ]
    rows += [
        {"A": HOSTILE, "B": HOSTILE, "score": 9.0},
        {"A": "n", "B": "n", "score": float("nan")},
    ]
    figure = relations.sankey(rows, "A", "B", links=20)
    (drawn,) = figure.data
    wanted = sorted((row["score"] for row in rows if row["score"] > 0), reverse=True)[:20]
    np.testing.assert_allclose(drawn.link.value, wanted, rtol=1e-6)
    named = {(row["A"], row["B"]): row["score"] for row in rows}
    for s, t, value in zip(drawn.link.source, drawn.link.target, drawn.link.value, strict=True):
        pair = tuple(
            relations.plain(HOSTILE) == drawn.node.customdata[i]
            and HOSTILE
            or drawn.node.customdata[i]
            for i in (s, t)
        )
        assert named[pair] == pytest.approx(value)
    assert not any("<" in name for name in (*drawn.node.label, *drawn.node.customdata))
    assert set(drawn.link.source) & set(drawn.link.target) == set(), (
        "a class of both sets is two nodes"
    )
    with pytest.raises(ValueError, match="positive scores, got none among 1"):
        relations.sankey([{"A": "a", "B": "b", "score": -1.0}], "A", "B")


def test_asymmetry_sets_each_pair_against_itself():
    back = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=np.float32)
    classes = Classes(SOURCES, TARGETS, ("A", "B"), [("walk", "nod")])
    figure = clouds.asymmetry(SCORES, back, classes, unit="w")
    found = dict(
        zip(figure.data[0].text, zip(figure.data[0].x, figure.data[0].y, strict=True), strict=True)
    )
    assert len(found) == 6 and found["walk<br>→ nod"] == (SCORES[0, 1], back[1, 0])
    assert found[f"{relations.plain(HOSTILE)}<br>→ go"] == (SCORES[2, 0], back[0, 2])
    assert (
        figure.layout.xaxis.title.text == "w, A → B"
        and figure.layout.yaxis.title.text == "w, B → A"
    )
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    line = figure.layout.shapes[0]
    assert (line.x0, line.x1) == (line.y0, line.y1) == figure.layout.xaxis.range
    assert (figure.data[1].x[0], figure.data[1].y[0]) == (SCORES[0, 1], back[1, 0])
    assert not any("<b>" in (note.text or "") for note in figure.layout.annotations)
    with pytest.raises(ValueError, match="backward"):
        clouds.asymmetry(SCORES, SCORES, CLASSES)


def test_against_says_spearmans_correlation_of_all_known_pairs():
    random = np.random.default_rng(0)
    x, y = random.random((30, 20)).astype(np.float32), random.random((30, 20)).astype(np.float32)
    y += x
    y[3] = np.nan
    classes = Classes([f"s{i}" for i in range(30)], [f"t{i}" for i in range(20)])
    figure = clouds.against(x, y, classes, drawn=10)
    ranks = [
        np.delete(a, 3, axis=0).ravel().argsort().argsort() for a in (x, y)
    ]  # no ties: Pearson of the ranks
    said = [note.text for note in figure.layout.annotations][0]
    assert f"580 pairs: {np.corrcoef(*ranks)[0, 1]:.2f}" in said
    assert "not defined" in clouds.against(np.ones((30, 20)), x, classes).layout.annotations[0].text
    with pytest.raises(ValueError, match="both scores are known"):
        clouds.against(np.full((30, 20), np.nan), x, classes)


def test_of_many_pairs_the_highest_by_either_are_drawn_and_the_others_counted(large):
    scores, sources, targets = large
    other = blocks(400, 700, 20, seed=3)[0]
    figure = clouds.against(scores, other, Classes(sources, targets), drawn=500, labels=7)
    points = {(float(x), float(y)) for x, y in zip(figure.data[0].x, figure.data[0].y, strict=True)}
    for array in (scores, other):
        for flat in np.argsort(-array, axis=None)[:500]:
            assert (float(scores.ravel()[flat]), float(other.ravel()[flat])) in points
    assert len(points) <= 1000
    said = figure.layout.annotations[0].text
    assert f"the {len(points):,} pairs" in said and f"the other {280_000 - len(points):,}" in said
    (shade,) = [trace for trace in figure.data if trace.type == "heatmap"]
    assert shade.z.dtype == np.uint8 and shade.z.max() == 255
    assert 1 <= len(figure.layout.annotations) - 1 <= 7
    assert len(json.dumps(json.loads(figure.to_json()))) < 300_000


def test_names_of_points_never_cover_each_other():
    random = np.random.default_rng(0)
    points = random.random((60, 2)) * (600, 400)
    texts = {i: "a name of some length" for i in range(60)}
    found = clouds.placed(points, texts, (600, 400), 12)
    assert len(found) == 12 and list(found)[0] < 5
    boxes = [box[1:] for box in found.values()]
    for i, (left, low, right, top) in enumerate(boxes):
        assert 0 <= left < right <= 600 and 0 <= low < top <= 400
        for other in boxes[:i]:
            assert left >= other[2] or right <= other[0] or low >= other[3] or top <= other[1]
    assert (
        clouds.placed(np.array([[5.0, 5.0]] * 9), texts={0: "x", 1: "y"}, size=(8, 8), most=3) == {}
    )
