"""widgets: a browser of class relations, as plain Python and under its controls, without a
browser."""

import json
import re
from html import unescape

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE, KEPT, Skeleton, clip, styles
from tests.view.test_html import cells
from tests.view.widgets.test_neighbors import pointed
from vidbench.evaluate.projections import Relation
from vidbench.view.galleries import Tile, encode
from vidbench.view.looks import plain
from vidbench.view.widgets.pair_controls import show
from vidbench.view.widgets.pairs import Browser, Examples

NAMES = {"A": ("walk", HOSTILE, "sit"), "B": ("go", "nod"), "C": ("one", "two", "three", "four")}


def made(names=NAMES, readouts=("raw", "behavioral"), seed=0):
    """Relations of all ordered pairs of data sets, random; probabilities where they are
    behavioral."""
    random, found = np.random.default_rng(seed), {}
    for source, sources in names.items():
        for target, targets in names.items():
            scores = {
                name: random.standard_normal((len(sources), len(targets))).astype(np.float32)
                for name in readouts
            }
            if "behavioral" in scores:
                scores["behavioral"] = np.abs(scores["behavioral"]) / 9
            if source != target:
                found[source, target] = Relation(source, target, sources, targets, scores)
    return found


@pytest.fixture
def requested():
    """Which clips were requested."""
    return []


@pytest.fixture
def browser(requested):
    webp = encode(clip(), 12)

    def clips_of(data, index):
        requested.append((data, index))
        return [Tile(webp, NAMES[data][index], f"{data}-{index}-{i}.mp4") for i in range(5)]

    return Browser(made(), clips_of, most=4, shown=2)


def test_rows_are_the_highest_scores_of_what_is_looked_at(browser):
    browser.look("C", "A", "behavioral", most=5)
    there, back = browser.relations["C", "A"], browser.relations["A", "C"]
    scores = there.scores["behavioral"]
    rows = browser.rows()
    assert [row["score"] for row in rows] == sorted(scores.ravel().tolist(), reverse=True)[:5]
    for row in rows:
        s, t = NAMES["C"].index(row["C"]), NAMES["A"].index(row["A"])
        assert row["score"] == scores[s, t] and row["raw"] == there.scores["raw"][s, t]
        assert (
            row["back rank"]
            == 1 + (back.scores["behavioral"][t] > back.scores["behavioral"][t, s]).sum()
        )
    assert len(Browser(made()).rows()) == 6, "no more than there are pairs"


def test_looking_and_selecting_keep_what_is_not_named_and_refuse_what_is_not_there(browser):
    browser.select("sit", "go")
    browser.look(readout="behavioral")
    assert (browser.source, browser.target, browser.most, browser.selected) == (
        "A",
        "B",
        4,
        ("sit", "go"),
    )
    browser.look(target="C")
    assert browser.selected is None, "another data set has other classes"
    for change in ({"target": "A"}, {"source": "Z"}, {"readout": "nonsense"}, {"most": 0}):
        with pytest.raises(ValueError, match="look: wanted"):
            browser.look(**change)
    assert (browser.source, browser.target) == ("A", "C")
    with pytest.raises(ValueError, match="C has no class 'go'"):
        browser.select("sit", "go")


def test_clips_are_requested_when_looked_at_and_once(browser, requested):
    assert "Choose a cell" in browser.chosen() and requested == []
    browser.select(HOSTILE, "nod")
    text = browser.chosen()
    assert requested == [("A", 1), ("B", 1)] and text.count("<img") == 4
    assert (
        text.index("A-1-0.mp4") < text.index("A-1-1.mp4") < text.index("B-1-0.mp4")
        and "A-1-2" not in text
    )
    scores = browser.there.scores
    assert f"raw {scores['raw'][1, 1]:.3f} · behavioral {scores['behavioral'][1, 1]:.3f}" in text
    browser.chosen()
    assert len(requested) == 2
    bare = Browser(made())
    bare.select("walk", "go")
    assert "no clips" in bare.chosen() and "<img" not in bare.html()


def test_html_is_a_table_and_clips_that_an_untrusted_notebook_keeps(browser, requested):
    text = browser.html(pairs=3)
    rows = browser.rows()
    head, *lines = cells(text)
    assert head == ["A", "B", "mutual", "raw", "back rank", "behavioral"]
    assert [line[2:] for line in lines] == [
        [row["mutual"], f"{row['score']:.3f}", str(row["back rank"]), f"{row['behavioral']:.3f}"]
        for row in rows
    ]
    browser.there.scores["behavioral"][:] = np.nan
    assert {line[5] for line in cells(browser.table())[1:]} == {"–"}
    assert ">–<" in show(browser).rows.children[1].children[1].value
    browser.look(readout="behavioral")
    assert cells(browser.table())[0][3:] == ["behavioral", "back rank", "raw"], (
        "the chosen one comes first"
    )
    assert {pair for pair in requested} == {
        (data, NAMES[data].index(row[data])) for row in rows[:3] for data in "AB"
    }
    assert text.count("<img") == 3 * 4
    page = Skeleton(text)
    assert {tag for tag, _ in page.tags} <= {
        "div",
        "span",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "img",
    }
    assert styles(text) <= KEPT and not re.search(r"(src|href)=\"(?!data:)", text)
    assert any(word == HOSTILE for word in page.words)


def test_figure_shows_the_scores_with_rings_at_mutual_best_pairs(browser):
    figure, scores = browser.figure(), browser.there.scores["raw"]
    back = browser.back.scores["raw"]
    best = {
        (NAMES["A"][s], NAMES["B"][t])
        for s in range(3)
        for t in range(2)
        if scores[s, t] == scores[s].max() and back[t, s] == back[t].max()
    }
    assert {(plain(s), plain(t)) for s, t in best} == set(
        zip(figure.data[1].y, figure.data[1].x, strict=True)
    )
    assert figure.data[0].zmin < 0
    browser.look(readout="behavioral")
    assert browser.figure().data[0].zmin == 0
    browser.there.scores["behavioral"][1] = np.nan  # a class without clips is no class's best
    assert plain(HOSTILE) not in browser.figure().data[1].y
    again = browser.order()
    assert browser.order() is again, "clusters are worked out once"


def test_browser_wants_both_directions_and_the_same_read_outs():
    relations = made()
    one_way = {pair: relations[pair] for pair in [("A", "B")]}
    differing = made(readouts=("raw",)) | {("A", "B"): relations["A", "B"]}
    for wrong in ({}, one_way, differing, made(readouts=())):
        with pytest.raises(ValueError, match="both directions with the same read-outs"):
            Browser(wrong)


# --------------------------------------------------------------------------------------- controls


def buttons(view):
    return [line.children[0] for line in view.rows.children[1:]]


def test_a_rows_button_plays_its_clips_and_sets_a_cross_hair(browser, requested):
    view = show(browser)
    assert requested == [] and len(buttons(view)) == 4 and "Choose a cell" in view.clips.value
    row = browser.rows()[2]
    buttons(view)[2].click()
    assert browser.selected == (row["A"], row["B"]) and view.clips.value.count("<img") == 4
    across, up = view.figure.layout.shapes
    heat = view.figure.data[0]
    assert heat.y[across.y0] == plain(row["A"]) and heat.x[up.x0] == plain(row["B"])


def test_a_click_on_a_cell_selects_by_the_names_that_are_drawn(browser):
    view = show(browser)
    pointed(view, event="click", trace=0, point=[0, 0], x="nod", y=plain(HOSTILE))
    assert browser.selected == (HOSTILE, "nod") and "B-1-0.mp4" in view.clips.value


def test_moving_the_controls_redraws_the_same_figure(browser):
    view = show(browser)
    figure = view.figure
    buttons(view)[0].click()
    view.pair.value = ("C", "B")
    assert (
        view.figure is figure
        and "Choose a cell" in view.clips.value
        and len(figure.layout.shapes) == 0
    )
    wanted = browser.figure(exact=True)
    for old, new in zip(figure.data, wanted.data, strict=True):
        for key in ("x", "y", "z", "zmin", "hovertemplate", "name"):
            if key in new:
                np.testing.assert_array_equal(old[key], new[key])
    assert figure.layout.title.text == wanted.layout.title.text == "C → B, raw"
    assert tuple(figure.layout.yaxis.categoryarray) == tuple(wanted.layout.yaxis.categoryarray)
    view.most.value = 50
    assert len(buttons(view)) == 8
    view.readout.value = "behavioral"
    assert "behavioral" in figure.layout.title.text and figure.data[0].zmin == 0
    assert HOSTILE not in "".join(line.children[1].value for line in view.rows.children)
    view.open()
    assert [one.children[0] for one in view.plot.children] == [figure]


def test_clips_that_fail_are_said_where_one_looks():
    def broken(data, index):
        raise OSError(f"<b>{data}</b> cannot be read")

    view = show(Browser(made(), broken))
    with pytest.raises(OSError):
        view.select("walk", "go")
    assert "&lt;b&gt;A&lt;/b&gt; cannot be read" in view.clips.value


def test_four_hundred_by_seven_hundred_classes_are_a_small_figure_and_quick_rows():
    names = {"K400": tuple(f"k{i}" for i in range(400)), "K700": tuple(f"m{i}" for i in range(700))}
    browser = Browser(made(names))
    assert len(browser.rows()) == 20
    browser.select("k399", "m0")
    assert (
        len(browser.figure().to_json())
        < 800_000
        < len(browser.figure(exact=True).to_json())
        < 2_500_000
    )
    assert len(browser.html()) < 30_000


def test_examples_are_clips_of_the_class_from_different_sources_first(toy_tiny):
    requested = Examples({"toy": toy_tiny, "none": toy_tiny.select(mask=toy_tiny.label > 0)})
    for label in (0, 5):
        tiles = requested("toy", label)
        assert len(tiles) == 3 and {tile.label for tile in tiles} == {toy_tiny.classes[label]}
        stems = {tile.caption.rsplit("_c", 1)[0] for tile in tiles}
        assert len(stems) == 3  # eight sources a class, three clips each
    assert requested("none", 0) == []
    few = toy_tiny.select(
        mask=(toy_tiny.label == 1)
        & (toy_tiny.source_video == toy_tiny.source_video[toy_tiny.label == 1][0])
    )
    alone = Examples({"toy": few})("toy", 1)
    assert len(alone) == 3 and len({tile.caption for tile in alone}) == 3  # all of one source


def test_a_pair_s_clips_open_in_the_viewer_with_flow_and_the_kernel_answers(toy_tiny):
    two = toy_tiny.select(mask=toy_tiny.label < 2)
    browser = Browser(
        made({"A": two.classes[:2], "B": two.classes[:2]}), Examples(dict.fromkeys("AB", two))
    )
    view = show(browser)
    view.open()
    view.select(*two.classes[:2])
    others = [
        json.loads(unescape(one)) for one in re.findall(r' data-facts="([^"]*)"', view.clips.value)
    ]
    assert {one["kind"] for one in others} == {"flow"} and len(others) == 6
    path = others[-1]["path"]
    assert path.startswith("videos/") and view.clicks.widget in view.box.children
    said = re.findall(r' data-clip="([^"]*)"', view.clips.value)
    paths = [json.loads(unescape(one))["path"] for one in said]
    assert [one[:2] for one in paths] == ["A/"] * 3 + ["B/"] * 3, (
        "two sets may have files of one name"
    )
    view.clicks.widget._handle_custom_msg({"view": paths[-1]}, [])
    assert view.clicks.answer.value.count("<img") == 2, "RGB and flow of the whole video"


def test_the_name_under_a_clip_fills_its_width():
    webp = encode(clip(), 12)
    browser = Browser(made(), lambda data, index: [Tile(webp, "walk", "walk_s00_c1_of_many_more")])
    shown = re.findall(r">([^<]*…[^<]*)</div>", browser.html(pairs=1))
    assert shown and all(len(name) >= 12 for name in shown), shown
