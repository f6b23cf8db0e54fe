"""The clips behind numbers: which videos a cell, row, point or bar leads to, as plain Python and
under its controls, without a browser."""

import re

import numpy as np
import pytest

from tests.evaluate.test_confusions import LABEL, table
from tests.evaluate.test_outcomes import RIGHT, kept, made, outcome
from tests.evaluate.test_searches import LABEL as THREE
from tests.evaluate.test_searches import tables
from tests.view.test_galleries import KEPT, clip, styles
from vidbench.data.manifest import Manifest
from vidbench.evaluate import probe, searches
from vidbench.evaluate.paired import paired
from vidbench.view import compare, widgets
from vidbench.view.galleries import Tile, encode
from vidbench.view.widgets import behind_controls, numbers
from vidbench.view.widgets.behind import PAGE, Behind, Cell
from vidbench.view.widgets.compare import Runs, of_searches, show
from vidbench.view.widgets.videos import Videos

CLASSES = ("bow", "clap", "wave")
WEBP = encode(clip(2), 12)


def videos(label=LABEL, classes=CLASSES) -> Videos:
    label = np.array(label)

    def tile(row: int) -> Tile:
        return Tile(WEBP, [*classes, ""][label[row]], f"v{row}")

    ids = np.array([f"v{row}.mp4" for row in range(len(label))])
    return Videos(ids, label, np.arange(len(label)), classes, {"pictures": tile})


def shown(html) -> list[int]:
    """The videos whose clips are drawn."""
    return [int(row) for row in re.findall(r'title="video [^"]*v(\d+)"', str(html))]


def click(view, *place):
    """What the page sends of a click in the figure."""
    view.ears._handle_custom_msg({"place": list(place)}, [])


@pytest.fixture
def matrix():
    return numbers.confusion(table(), videos(), "run, test")


# ---- cells


def test_a_cell_of_the_matrix_leads_to_its_videos(matrix):
    assert matrix.places == {(0, 0, 1): "0-1", (0, 1, 2): "1-2", (0, 0, 0): "0-0", (0, 1, 1): "1-1"}
    assert matrix.cells["0-1"].words == "bow taken for clap: 2 of 3 videos (67%)"
    html = matrix.clips("0-1")
    assert shown(html) == [2, 1] and html.count("✗") == 2
    assert "clap 90%, bow 5%" in html and "✓" in matrix.clips("0-0")
    assert matrix.figure.layout.meta == {"vidbench": matrix.key}


def test_a_view_without_a_kernel_has_the_figure_and_an_example(matrix, monkeypatch):
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    still = widgets.shown(matrix)
    assert still.parts == [matrix.figure, still.clips] and shown(still.clips) == [2, 1]
    assert "data-pick" not in still.clips and styles(still.clips) <= KEPT | {"overflow-wrap"}
    assert "4 numbers have clips" in still.clips


def test_rows_of_classes_are_buttons_and_the_worst_is_first():
    scores = {"new": probe.score(table()), "old": probe.score(table())}
    made = numbers.score_classes(scores, videos())
    assert [row["class"] for row in made.lines.rows.values()] == ["bow", "clap"]
    assert made.cells["bow"].words == "bow: 2 of 3 videos wrong"
    assert shown(made.clips("bow")) == [1, 2, 0], "the wrong ones first"
    buttons = re.findall(r'data-pick="(\w+)" tabindex="0" role="button"', made.table(picks=True))
    assert buttons == ["bow", "clap"] and "data-pick" not in made.table()
    assert "Macro mean, in which each class counts the same: new 41.7%, old 41.7%" in made.table()
    assert next(iter(made.lines.rows.values()))["old"] == pytest.approx(1 / 3)


def test_of_many_classes_the_table_has_both_ends_and_the_list_all():
    label, names = np.arange(100), [f"class {i:02}" for i in range(100)]
    made = numbers.classes({"run": label >= 50}, label, names, [""] * 100, videos(label, names))
    assert len(made.cells) == 100 and len(made.lines.rows) == numbers.MOST
    assert [*made.lines.rows][:2] + [*made.lines.rows][-1:] == ["class 00", "class 01", "class 99"]


def test_a_point_of_recall_leads_to_the_queries_that_miss():
    found = searches.search_all({"a": tables(0.3), "b": tables(9.0)})
    gallery = Manifest("x", ("a", "b", "c"), [f"{i}" for i in range(18)], THREE, THREE * 0, THREE)
    queries = videos(THREE, ("a", "b", "c"))
    made = numbers.recalls(found, gallery, queries)
    assert {made.figure.data[trace].name for trace, _ in made.places} == {"a", "b"}
    for (trace, point), name in made.places.items():
        run, metric = name.split()
        missed = np.flatnonzero(~found[run].hits[metric])
        assert made.cells[name].rows.tolist() == missed.tolist()
        assert made.figure.data[trace].y[point] == pytest.approx(100 - 100 * len(missed) / 18)
    assert made.cells["b R@1"].words.endswith("of 18 queries find none of their class")
    assert "nearest: " in made.clips("b R@1")
    rows = numbers.recall_classes(found, "b", gallery, queries)
    assert [*next(iter(rows.lines.rows.values()))] == ["class", "videos", "b", "a"]


def test_a_point_of_the_hub_curve_leads_to_the_videos_found_so_often(toy_tiny):
    found = searches.search_all({"a": tables(0.3), "b": tables(9.0)})
    picked = np.concatenate([np.flatnonzero(toy_tiny.label == label)[:6] for label in range(3)])
    gallery = toy_tiny.select(mask=np.isin(np.arange(len(toy_tiny)), picked))
    made = numbers.hubs(found, gallery)
    traces = {trace.name: place for place, trace in enumerate(made.figure.data)}
    assert {place for place in made.places} == {(traces[n], p) for n in "ab" for p in range(18)}
    for (trace, point), name in made.places.items():
        run, times = name.split()
        near = found[run].neighbors.rows[:, :10]
        counts = np.bincount(near.ravel(), minlength=18)
        assert made.figure.data[trace].y[point] == int(times)
        assert made.cells[name].rows.tolist() == np.flatnonzero(counts == int(times)).tolist()
    first = next(iter(made.cells.values()))
    near = found["a"].neighbors.rows[:, :10]
    label = found["a"].queries.label[(near == first.rows[0]).any(axis=1)]
    often = np.bincount(label)
    says = first.said[0].removeprefix(f"near to {len(label)} queries: ").split(", ")
    assert {tuple(one.rsplit(" ", 1)) for one in says} == {
        (gallery.classes[number], str(count)) for number, count in enumerate(often) if count
    }
    assert made.html().count("<img") == len(first.rows) and "found" in made.html()


def test_without_labels_recall_is_a_sentence():
    found = searches.search_all({"a": tables(1.0, labels=False)})
    gallery = Manifest("x", (), [f"{i}" for i in range(18)], THREE * 0 - 1, THREE * 0, THREE)
    for words in (
        numbers.recalls(found, gallery, gallery),
        numbers.recall_classes(found, "a", gallery, gallery),
    ):
        assert words.startswith("no labels: ") and widgets.shown(words) == words


def test_a_bar_of_the_histogram_leads_to_its_videos():
    made = numbers.sureness(table(), videos())
    assert [trace.name for trace in made.figure.data] == ["right", "wrong"]
    assert sum(sum(trace.y) for trace in made.figure.data) == len(LABEL)
    for (trace, place), name in made.places.items():
        assert made.figure.data[trace].y[place] == len(made.cells[name].rows) > 0
    assert shown(made.clips("wrong-9")) == [2]
    unknown = numbers.sureness(table([-1] * 5), videos([-1] * 5))
    assert [trace.name for trace in unknown.figure.data] == ["videos"]
    assert sum(unknown.figure.data[0].y) == 5


def test_most_wrong_and_least_sure_are_listed_and_unlabeled_videos_have_the_latter():
    made = numbers.doubts(table(), videos())
    assert {name: cell.rows.tolist() for name, cell in made.cells.items()} == {
        "most wrong": [2, 4, 1],
        "least sure": [3, 1, 4, 0, 2],
    }
    assert made.html().count("✗") == 6 and "most wrong" in made.html()
    assert numbers.doubts(table(), videos(), "test").cells["most wrong"].words.startswith("test, ")
    unknown = numbers.doubts(table([-1] * 5), videos([-1] * 5))
    assert list(unknown.cells) == ["least sure"]
    assert "✗" not in unknown.html() and "✓" not in unknown.html()


def test_other_videos_than_were_counted_are_refused():
    with pytest.raises(ValueError, match="the numbers are of 5 videos; got 3"):
        numbers.confusion(table(), videos([0, 1, 2]))
    with pytest.raises(ValueError, match=r"numbers of its 5 videos; got 1 cells, other rows"):
        Behind({"a": Cell("a", np.array([5]))}, videos())


# ---- controls


def test_a_click_in_the_figure_and_a_choice_of_the_list_show_the_same_clips(matrix):
    view = behind_controls.show(matrix)
    assert view.choice.value == "0-1" and shown(view.tiles.value) == [2, 1]
    click(view, 0, 1, 2)
    assert view.choice.value == "1-2" and shown(view.tiles.value) == [4]
    click(view, 0, 2, 0)
    assert view.choice.value == "1-2", "no video is behind an empty cell"
    view.choice.value = "0-0"
    assert shown(view.tiles.value) == [0]
    assert [text for text, _ in view.choice.options] == [c.words for c in matrix.cells.values()]


def test_a_button_of_a_class_row_shows_its_clips():
    view = behind_controls.show(numbers.score_classes({"a": probe.score(table())}, videos()))
    view.open()
    view.ears._handle_custom_msg({"pick": "clap"}, [])
    assert shown(view.tiles.value) == [4, 3] and view.choice.value == "clap"
    view.ears._handle_custom_msg({"pick": "gone"}, [])
    assert view.choice.value == "clap"


def test_many_clips_come_in_pages_and_many_cells_are_reached_by_clicks():
    count = PAGE + 3
    cells = {"all": Cell("all", np.arange(count))}
    cells |= {str(n): Cell(str(n), np.array([n % count])) for n in range(400)}
    cells["last"] = Cell("last", np.array([1]), places=((0, 7),))
    view = behind_controls.show(Behind(cells, videos([0] * count)))
    assert len(shown(view.tiles.value)) == PAGE and view.before.disabled
    assert f"1 to {PAGE} of {count}" in view.where.value
    view.after.click()
    assert shown(view.tiles.value) == [PAGE, PAGE + 1, PAGE + 2] and view.after.disabled
    view.before.click()
    assert shown(view.tiles.value)[0] == 0
    assert len(view.choice.options) == behind_controls.LISTED
    click(view, 0, 7)
    assert view.choice.value == "last" and shown(view.tiles.value) == [1]


# ---- two runs


@pytest.fixture
def pair():
    better = RIGHT.copy()
    better[[4, 5]], better[8] = True, False
    return paired(outcome(better), outcome(stream="flow"), ("coclr-rgb", "infonce-flow"))


def test_gained_and_lost_clips_are_behind_a_comparison(pair):
    label = pair.one.videos.label
    made = compare.behind(pair, videos(label))
    assert shown(made.clips("gained")) == [4, 5] and shown(made.clips("lost")) == [8]
    assert "A: bow 0.50; B: clap 0.50" in made.clips("gained")
    for place, name in enumerate(["class bow", "class wave", "class clap"]):
        assert made.places[0, place] == name
    assert list(made.figure.layout.yaxis.ticktext) == ["bow", "wave", "clap"]
    assert shown(made.clips("class clap")) == [8, 12, 13, 14, 15]
    assert shown(made.html()) == [4, 5, 8], "both lists, without a kernel"


def test_two_searches_are_compared_without_run_directories(toy_tiny):
    found = searches.search_all({"a": tables(0.3), "b": tables(9.0)})
    picked = np.concatenate([np.flatnonzero(toy_tiny.label == label)[:6] for label in range(3)])
    queries = toy_tiny.select(mask=np.isin(np.arange(len(toy_tiny)), picked))
    made = of_searches(found, "a", "b", queries)
    gained = found["a"].hits["R@1"] & ~found["b"].hits["R@1"]
    assert made.cells["gained"].rows.tolist() == np.flatnonzero(gained).tolist() and gained.any()
    gap = 100 * (found["a"].hits["R@1"].mean() - found["b"].hits["R@1"].mean())
    assert made.hint.startswith(f"a - b = {gap:+.1f} points R@1 [")
    assert of_searches(found, "a", "", queries) == "one search only: nothing to compare"
    bare = searches.search_all({"a": tables(1.0, labels=False)})
    assert of_searches(bare, "a", "a", queries).startswith("no labels: ")


def test_the_page_is_offline_and_says_what_differs(pair, tmp_path):
    place = compare.write(tmp_path / "page.html", [pair])
    text = place.read_text()
    assert pair.sentence in text and "default-src 'none'" in text
    assert "A is coclr-rgb, B is infonce-flow" in text and text.count("<section>") == 1
    assert not re.search(r'(?:src|href)="https?:', re.sub(r"(?s)<script.*?</script>", "", text))


def test_runs_are_chosen_and_what_cannot_be_compared_is_said(tmp_path):
    one, two, three = (made(tmp_path / name) for name in ("one", "two", "three"))
    kept(one, outcome()), kept(one, outcome(task="probe"))
    kept(two, outcome(~RIGHT)), kept(two, outcome(task="probe"))
    view = show(Runs([one.folder, two.folder, three.folder]))
    assert [text for text, _ in view.which.options] == ["retrieval", "probe"]
    assert [text for text, _ in view.one.options] == ["one", "two", "three"]
    assert "one - two = +0.0 points R@1" in view.head.value
    drawn = view.figure.outputs[0]["data"]["application/vnd.plotly.v1+json"]
    assert drawn["layout"]["meta"]["vidbench"].startswith("vidbench-")
    view.which.value = 1
    assert "probe, 24 videos" in view.head.value
    view.other.value = 2
    assert "three keeps no predictions of single videos" in view.head.value
    assert view.figure.outputs == () and view.body.children == ()
    with pytest.raises(ValueError, match="at least two run directories; got 1"):
        Runs(["one"])
