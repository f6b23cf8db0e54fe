"""Selected videos, the table of all, and the colors of the map; no browser is started."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE, Skeleton
from tests.view.widgets.test_neighbors import picks, pointed, vectors, videos
from vidbench.data.manifest import Manifest
from vidbench.system.files import unused
from vidbench.view import looks
from vidbench.view.widgets import hues
from vidbench.view.widgets.controls import show
from vidbench.view.widgets.neighbors import Browser
from vidbench.view.widgets.sheet import ROWS
from vidbench.view.widgets.videos import Videos

LISTS = {"rgb": (vectors(40, 2), vectors(12, 3)), "flow": (vectors(40, 4), vectors(12, 5))}


@pytest.fixture
def browser():
    """A browser over 40 gallery videos and 12 queries."""
    return Browser(videos("train", 40, 0), videos("test", 12, 1), LISTS, k=2)


# -------------------------------------------------------------------------------------- selection


def test_a_selection_is_read_tagged_and_saved_never_over_an_old_file(browser, tmp_path):
    ids = ["test/4.mp4", "train/3.mp4", "test/4.mp4"]
    browser.selection = ids
    chosen = browser.selection
    assert list(chosen) == ["test/4.mp4", "train/3.mp4"] and "test/4.mp4" in chosen
    assert len(chosen) == 2 and "2 videos" in repr(chosen)
    chosen.tag(" odd ")
    chosen.tag("dark")
    browser.selection = ["train/3.mp4"]
    browser.selection.untag("odd")
    browser.selection.untag("never given")
    assert browser.videos.tags == {"test/4.mp4": ("odd", "dark"), "train/3.mp4": ("dark",)}
    first, second = chosen.rows
    query = browser.sides["queries"]
    score, right = browser.verdicts("rgb")[1][4], int(browser.right("rgb")[4].any())
    assert first["path"] == "test/4.mp4" and first["class"] == query.names[4]
    assert first["score"] == pytest.approx(score) and first["right"] == ("wrong", "right")[right]
    assert second["score"] is None and second["right"] == "" and second["tags"] == ("dark",)
    written = [chosen.csv(tmp_path / "selection.csv") for _ in range(3)]
    assert [path.name for path in written] == [
        "selection.csv",
        "selection-2.csv",
        "selection-3.csv",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    rows = list(csv.DictReader(open(written[2], encoding="utf-8")))
    assert [row["path"] for row in rows] == list(chosen) and rows[0]["tags"] == "odd, dark"
    for word in ("", " ", "a,b"):
        with pytest.raises(ValueError, match="tag: wanted a word without a comma"):
            chosen.tag(word)
    browser.selection = ()
    assert (
        browser.selection.rows == []
        and len(browser.selection.csv(tmp_path / "x.csv").read_text().splitlines()) == 1
    )


def test_unknown_ids_are_refused_with_the_nearest_one(browser):
    browser.selection = ["train/1.mp4"]
    with pytest.raises(ValueError, match="such as 'train/39.mp4'; got 'train/39.mp' and 1 more"):
        browser.selection = ["train/2.mp4", "train/39.mp", "x"]
    assert browser.selection.ids == ("train/1.mp4",), "the old one stays"


def test_a_number_follows_a_taken_name(tmp_path):
    for name in ("a.csv", "a-2.csv", "a-3.csv"):
        assert unused(tmp_path / "a.csv") == tmp_path / name
        (tmp_path / name).touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert unused(tmp_path / "gone") == tmp_path / "gone-2"


# ---------------------------------------------------------------------------------- table of all


def test_rows_hold_each_video_once_with_the_manifests_columns(tmp_path):
    few = Manifest.from_rows(
        tmp_path,
        [
            (f"{row}.mp4", "ab"[row % 2], ("train", "test")[row % 2], f"take{row // 2}")
            for row in range(6)
        ],
    )
    few = replace(few, frames=np.arange(6) * 10, fps=np.full(6, 25.0))
    held = Videos.of(few)
    values = vectors(6, 0)
    browser = Browser(held, held, {"x": (values, values)}, k=1)
    assert len(browser.videos) == 6, "a query that is in the gallery counts once"
    assert browser.videos.names == (
        "path",
        "class",
        "split",
        "source video",
        "side",
        "right",
        "score",
        "tags",
        "frames",
        "fps",
    )
    line = browser.videos.lines([3])[0]
    assert (line["split"], line["source video"], line["frames"], line["fps"]) == (
        "test",
        "take1",
        30,
        25,
    )
    right, score = browser.verdicts("x")
    assert browser.videos.column("right").tolist() == [("wrong", "right")[one] for one in right]
    np.testing.assert_allclose(browser.videos.column("score"), score)
    browser.selection = ["5.mp4"]
    assert browser.selection.paths == [tmp_path / "5.mp4"]


def test_a_page_of_the_table_searches_with_its_own_queries_only(browser, monkeypatch):
    """All queries of a large data set take long; sorting by score says so and keeps them."""
    every, searched_rows = browser._searches.every, []

    def spy(name, k, hide, queries=None):
        searched_rows.append(len(queries) if queries is not None else "all")
        return every(name, k, hide, queries)

    monkeypatch.setattr(browser._searches, "every", spy)
    view, said = show(browser), []
    view.sheet.table.observe(lambda change: said.append(change["new"]), "value")
    view.table.value = True
    assert searched_rows == [], "the first page has gallery videos only"
    view.sheet.filter.value = "test/1"
    few = len(view.sheet.shown)
    assert searched_rows == [few] and few < len(browser.sides["queries"])
    lines = browser.videos.lines([browser.videos.row["test/1.mp4"]])
    view.sheet.act("sort score")
    assert (
        searched_rows == [few, 1, "all"]
        and "Searching with all 12 queries to sort by score" in said[-2]
    )
    right, score = browser.verdicts("rgb")
    assert lines[0]["score"] == score[1] and lines[0]["right"] == ("wrong", "right")[right[1]]
    view.sheet.act("sort score")
    assert searched_rows[-1] == "all" and len(searched_rows) == 3 and "Searching" not in said[-1]


def test_filter_and_order(browser):
    rows = browser.videos
    assert [rows.ids[row] for row in rows.matching("TEST/1")] == [
        "test/1.mp4",
        "test/10.mp4",
        "test/11.mp4",
    ]
    sits = {row for row, name in enumerate(rows.column("class")) if name == "sit"}
    assert set(rows.matching("sit")) == sits and len(rows.matching("")) == 52
    browser.selection = ["train/7.mp4"]
    browser.selection.tag("Odd")
    assert rows.matching("odd TRAIN").tolist() == [7] and not len(rows.matching("odd test"))
    every = np.arange(52)
    for down in (False, True):
        scores = rows.column("score")[rows.ordered(every, "score", down)]
        assert np.isnan(scores[12:]).all(), "videos without a value come last"
        assert (np.diff(scores[:12]) * (-1 if down else 1) >= 0).all()
    assert rows.ordered(every, "tags", True)[0] == 7
    names = rows.column("source video")[rows.ordered(every, "source video")]
    assert [name for at, name in enumerate(names) if not at or name != names[at - 1]] == [
        f"source {number}" for number in range(14)
    ], "2 comes before 10"
    with pytest.raises(ValueError, match="column: wanted one of"):
        rows.column("smell")


def test_columns_of_your_own(browser):
    browser.add_column("sharp", np.arange(40) / 40)
    browser.add_column("indoors", [row % 2 == 0 for row in range(40)], [None] * 12)
    first, query = browser.videos.lines([1, 45])
    assert first["sharp"] == 1 / 40 and query["sharp"] is None
    assert first["indoors"] == "no" and query["indoors"] == ""
    for name, values, says in (
        ("sharp", np.arange(3), "3 for 40 videos of the gallery"),
        ("score", np.arange(40), "makes path, class"),
        ("", np.arange(40), "wanted a new name"),
    ):
        with pytest.raises(ValueError, match=says):
            browser.add_column(name, values)


def test_the_sheet_selects_rows_sorts_and_filters(browser):
    view = show(browser)
    view.open()
    sheet = view.sheet
    assert not sheet.table.value and sheet.box.layout.display == "none", "the first look is simple"
    view.table.value = True
    assert sheet.box.layout.display == "flex" and picks(sheet.table) == browser.videos.ids[:ROWS]
    assert any(HOSTILE in word for word in Skeleton(sheet.table.value).words)
    sheet.filter.value = "test/"
    sheet.act("sort score")
    scores = [line["score"] for line in browser.videos.lines(sheet.rows())]
    assert scores == sorted(scores) and 'aria-sort="ascending"' in sheet.table.value
    sheet.act("sort score")
    assert 'aria-sort="descending"' in sheet.table.value
    sheet.act("sort score")
    assert 'aria-sort="ascending"' not in sheet.table.value, "a third click restores the order"
    shown = picks(sheet.table)
    sheet.act(f"row {shown[1]}", on=True)
    sheet.act(f"row {shown[4]}", on=True, shift=True)
    assert view.selection.ids == tuple(shown[1:5]) == tuple(picks(view.pane.clips))
    assert sheet.table.value.count(" checked") == 4
    sheet.act(f"row {shown[2]}", on=False)
    assert view.selection.ids == (shown[1], shown[3], shown[4])
    sheet.every.click()
    assert len(view.selection) == 12 and sheet.every.description == "select all 12"
    view.pane.word.value = "far"
    view.pane.tag.click()
    sheet.filter.value = "far"
    assert sheet.every.description == "select all 12" and "far" in sheet.table.value
    view.pane.untag.click()
    assert "contains this text" in sheet.table.value and sheet.every.disabled
    sheet.filter.value = ""
    sheet.pages.after.click()
    assert picks(sheet.table) == browser.videos.ids[ROWS : 2 * ROWS]


# ------------------------------------------------------------------------------- selection, shown


def heard(figure, name):
    """What goes to the page of a figure from now on: (properties, traces)."""
    sent = []
    figure.observe(lambda change: change["new"] and sent.append(change["new"]), f"_py2js_{name}")
    return sent


def test_lasso_pages_tag_and_csv(browser, tmp_path, monkeypatch):
    view = show(browser)
    restyled = heard(view.map.figure, "restyle")
    assert view.pane.acts.layout.display == "none" and "Draw around" in view.pane.clips.value
    pointed(view, event="lasso", points={"0": list(range(30)), "1": [5]})
    ids = (*(f"train/{row}.mp4" for row in range(30)), "test/5.mp4")
    assert view.selection.ids == browser.selection.ids == ids
    assert not restyled, "the page lights up its lasso by itself"
    assert picks(view.pane.clips) == list(ids[:24]) and view.pane.pages.before.disabled
    view.pane.pages.after.click()
    assert picks(view.pane.clips) == list(ids[24:]) and view.pane.pages.after.disabled
    view.pane.word.value = "odd"
    view.pane.tag.click()
    assert "31 videos have the tag" in view.pane.said.value
    view.pane.word.value = "a,b"
    view.pane.tag.click()
    assert "without a comma" in view.pane.said.value
    monkeypatch.chdir(tmp_path)
    for name in ("selection.csv", "selection-2.csv"):
        view.pane.save.click()
        rows = list(csv.DictReader(open(tmp_path / name, encoding="utf-8")))
        assert name in view.pane.said.value and {row["tags"] for row in rows} == {"odd"}
    for name in ("neighbors.csv", "neighbors-2.csv"):
        view.save.click()
        assert name in view.said.value and (tmp_path / name).exists()
    view.selection = ids[1:3]
    assert picks(view.pane.clips) == ["train/1.mp4", "train/2.mp4"]
    data, changes = restyled[-1]["restyle_data"], restyled[-1]["restyle_traces"]
    assert data == {"selectedpoints": [[1, 2], []]} and changes == [0, 1]
    view.pane.clear.click()
    assert len(browser.selection) == 0 and "Draw around" in view.pane.clips.value
    assert restyled[-1]["restyle_data"] == {"selectedpoints": [None, None]}


def test_enter_on_a_point_of_the_map_makes_it_the_query(browser):
    view = show(browser)
    view.open()
    plot = view.below.children[2].children[0]
    (steps,) = [one for one in plot.children if "vidbench-steps" in getattr(one, "_esm", "")]
    assert steps.sides == 2
    steps._handle_custom_msg({"trace": 0, "point": 8}, [])
    assert browser.query == ("gallery", 8)
    steps._handle_custom_msg({"trace": 1, "point": 3}, [])
    assert browser.query == ("queries", 3)


def test_what_floats_over_a_page_has_the_colors_of_its_theme(browser):
    """JupyterLab's dark theme; an offline page has no such variable, and falls back."""
    view = show(browser)
    view.open()
    for look in (view.map.tip.listener.look, browser.html(1)):
        assert "background-color:var(--jp-layout-color1,#FFFFFF)" in look
        assert "color:var(--jp-content-font-color1,#1F2328)" in look


def test_a_point_under_the_pointer_shows_its_clip(browser):
    view = show(browser)
    view.open()
    view.map.tip.listener._handle_custom_msg({"trace": 1, "point": 6}, [])
    assert (
        view.map.tip.seat.value.startswith('<div data-of="1:6"><img')
        and "test-6" in view.map.tip.seat.value
    )
    view.map.tip.listener._handle_custom_msg({"trace": 3, "point": 0}, [])
    assert "1:6" in view.map.tip.seat.value, "a ring has no clip"
    view.map.tip.forget()
    assert not view.map.tip.seat.value


# ----------------------------------------------------------------------------------------- colors


def test_few_words_have_a_look_each_and_many_a_rest(browser):
    rows = browser.videos
    few = hues.by_column(rows, "class", ("sit", "walk"))
    assert [name for name, _, _ in few.entries] == ["sit", "walk", HOSTILE]
    assert len({look for look in few.entries}) == 3 and few.bar == ()
    browser.add_column("many", [f"word {min(row, 30)}" for row in range(40)])
    many = hues.by_column(rows, "many")
    names = [name for name, _, _ in many.entries]
    assert names[:2] == ["word 0", "word 1"] and names[-2:] == ["other (11 more)", "no value"]
    assert "word 30" in names, "the most frequent word is named"
    assert len(names) == hues.LISTED + 1 and len({entry[1:] for entry in many.entries[:-2]}) == 20
    assert many.codes["gallery"][25] == hues.COLORS == many.codes["queries"][0]
    assert many.shapes["queries"][0] == "circle-open" and "square" in many.shapes["gallery"]
    lists = {color for color, _ in browser.looks().values()}
    assert not lists & {color for _, color, _ in many.entries[:-2]} and not lists & {*hues.SCALE}


def test_numbers_have_a_scale_and_few_counts_are_words(browser):
    values = np.arange(40) / 4.0
    values[3] = math.nan
    browser.add_column("sharp", values)
    sharp = hues.by_column(browser.videos, "sharp")
    assert sharp.bar == (0.0, 9.75) and [name for name, _, _ in sharp.entries] == ["no value"]
    codes = sharp.codes["gallery"].astype(int)
    assert codes[0] == 0 and codes[39] == hues.LEVELS - 1 and codes[3] == hues.LEVELS
    assert (np.diff(np.delete(codes, 3)) >= 0).all()
    figure = browser.map(color="sharp")
    assert figure.data[-1].visible and figure.data[-1].marker.colorbar.title.text == "sharp"
    assert figure.layout.title.text == "rgb: principal components; color by sharp"
    browser.add_column("people", np.arange(40) % 3)
    assert [name for name, _, _ in hues.by_column(browser.videos, "people").entries] == [
        "0",
        "1",
        "2",
        "no value",
    ]
    assert not browser.map(color="people").data[-1].visible
    with pytest.raises(ValueError, match="column: wanted one of"):
        browser.map(color="smell")


def test_right_and_wrong_follow_the_list_of_the_map_and_k(browser):
    view = show(browser)
    figure = view.map.figure
    view.map.color.value = "right"
    for name in ("rgb", "flow"):
        view.map.of_map.value = name
        right = browser.right(name).any(axis=1)
        wanted = np.where(right, hues.FIXED["right"], hues.FIXED["wrong"])
        np.testing.assert_array_equal(figure.data[1].marker.color, wanted)
    view.k.value = 20
    np.testing.assert_array_equal(
        figure.data[1].marker.color == hues.FIXED["right"], browser.right("flow").any(axis=1)
    )
    shown = {trace.name: trace.marker.color for trace in figure.data[5:] if trace.visible}
    assert shown["right"] == looks.CLASS_COLORS[2] and "no value" in shown
    assert figure.layout.title.text == "flow: principal components; color by right"
    view.map.color.value = "class"
    assert figure.layout.title.text == "flow: principal components"
    assert [one.name for one in figure.data[5:] if one.visible] == [
        one.name for one in browser.map().data[5:] if one.visible
    ]


def test_tags_and_new_columns_color_a_map_that_is_shown(browser):
    view = show(browser)
    figure = view.map.figure
    view.map.color.value = "tags"
    browser.selection = ["train/2.mp4"]
    browser.selection.tag("odd")
    assert figure.data[0].marker.color[2] == 0 and figure.data[0].marker.color[3] == hues.COLORS
    browser.add_column("sharp", np.arange(40) / 4)
    assert "sharp" in view.map.color.options and view.map.color.value == "tags"
    view.map.color.value = "sharp"
    assert figure.data[-1].visible and figure.data[0].marker.cmax == hues.LEVELS + 0.5


def test_without_labels_everything_but_right_and_wrong_works():
    sides = videos("train", 40, 0), videos("test", 12, 1)
    sides = [replace(side, label=np.full(len(side), -1), classes=()) for side in sides]
    browser = Browser(*sides, LISTS, k=2)
    assert "class" not in browser.videos.names and "right" not in browser.videos.names
    browser.selection = ["train/3.mp4"]
    assert browser.selection.rows[0]["source video"] == "source 1"
    assert hues.standard(browser.videos) == "source video"
    view = show(browser)
    view.map.color.value = "score"
    assert "no labels, color by score" in view.map.figure.layout.title.text
    view.table.value = True
    assert "✓" not in view.sheet.table.value
