"""The browser of neighbors, as plain Python and under its controls, against plain loops; no
browser is started."""

import csv
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests import makes
from tests.view.test_galleries import HOSTILE, KEPT, Skeleton, clip, styles
from vidbench.data.manifest import Manifest
from vidbench.evaluate import search
from vidbench.evaluate.features import Features
from vidbench.view import looks, widgets
from vidbench.view.galleries import Tile, encode
from vidbench.view.widgets.controls import show
from vidbench.view.widgets.neighbors import Browser
from vidbench.view.widgets.videos import Videos

CLASSES = ("walk", HOSTILE, "sit")
WEBP = encode(clip(4), 12)


def videos(name, count, seed, made_clips=None, unknown=()):
    """Videos of three classes, three of each source; `made_clips` notes whose clips were made."""
    label = np.random.default_rng(seed).integers(0, len(CLASSES), count)
    label[list(unknown)] = -1

    def clip_of(row):
        if made_clips is not None:
            made_clips.append((name, row))
        return Tile(WEBP, [*CLASSES, ""][label[row]], f"{name}-{row}")

    ids = np.array([f"{name}/{row}.mp4" for row in range(count)])
    return Videos(ids, label, np.arange(count) // 3, CLASSES, {"pictures": clip_of})


def vectors(count, seed, width=6):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.fixture
def made_clips():
    """Whose clips were made."""
    return []


@pytest.fixture
def parts(made_clips):
    return {
        "gallery": videos("train", 40, 0, made_clips),
        "queries": videos("test", 12, 1, made_clips),
        "lists": {
            "rgb": (vectors(40, 2), vectors(12, 3)),
            "flow": (vectors(40, 4), vectors(12, 5)),
        },
    }


@pytest.fixture
def browser(parts):
    return Browser(**parts, k=5)


def cosines(gallery, query):
    """A plain loop, in double precision."""
    gallery, query = gallery.astype(np.float64), query.astype(np.float64)
    return [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in gallery]


def sorted_rows(scores, barred=()):
    return [
        row for row in sorted(range(len(scores)), key=lambda row: -scores[row]) if row not in barred
    ]


def test_rows_are_the_nearest_by_cosine_with_verdicts_and_shared_ids(browser, parts):
    browser.select(7)
    found, wanted = browser.rows(), {}
    for name, (gallery, queries) in parts["lists"].items():
        scores = cosines(gallery, queries[7])
        wanted[name] = sorted_rows(scores)[:5]
        assert [row["row"] for row in found[name]] == wanted[name]
        assert [row["rank"] for row in found[name]] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(
            [row["score"] for row in found[name]], sorted(scores)[::-1][:5], atol=1e-6
        )
    for name, other in (("rgb", "flow"), ("flow", "rgb")):
        for row in found[name]:
            number = row["row"]
            assert row["id"] == f"train/{number}.mp4"
            assert row["label"] == CLASSES[parts["gallery"].label[number]]
            assert row["right"] == (parts["gallery"].label[number] == parts["queries"].label[7])
            assert row["shared"] == (number in wanted[other]) and row["also in"] == (
                (other,) if row["shared"] else ()
            )


@pytest.mark.parametrize("centering", search.CENTERINGS)
def test_every_query_finds_what_retrieval_finds_for_all_at_once(parts, centering):
    streams = {
        "both": [[parts["lists"][name][side] for name in ("rgb", "flow")] for side in (0, 1)]
    }
    browser = Browser(
        parts["gallery"], parts["queries"], {**parts["lists"], **streams}, k=6, centering=centering
    )
    for name, sides in (*parts["lists"].items(), *streams.items()):
        near = search.search(*sides, 6, centering=centering)
        right = parts["gallery"].label[near.rows] == parts["queries"].label[:, None]
        np.testing.assert_array_equal(browser.right(name), right)
        for query in range(12):
            browser.select(query)
            rows, scores = browser.nearest(name)
            np.testing.assert_array_equal(rows, near.rows[query])
            np.testing.assert_array_equal(scores, near.scores[query])


def test_a_clicked_result_is_the_query_without_itself_and_back_goes_back(browser, parts):
    first = browser.rows()["rgb"][1]
    browser.select(first["id"])
    assert browser.query == ("gallery", first["row"])
    gallery = parts["lists"]["rgb"][0]
    wanted = sorted_rows(cosines(gallery, gallery[first["row"]]), {first["row"]})[:5]
    assert [row["row"] for row in browser.rows()["rgb"]] == wanted
    browser.select(3)
    browser.select(3)
    browser.back()
    assert browser.query == ("gallery", first["row"])
    browser.back()
    browser.back()
    assert browser.query == ("queries", 0)
    for wrong in (12, -1, "unknown"):
        with pytest.raises(ValueError, match="select: wanted a query from 0 to 11"):
            browser.select(wrong)


def test_hiding_the_same_source_leaves_it_out_and_shortens_a_list_that_has_no_more(browser, parts):
    browser.look(hide_source_video=True, k=39)
    assert parts["queries"].source_video[4] == 1
    browser.select(4)
    gallery, queries = parts["lists"]["rgb"]
    wanted = sorted_rows(cosines(gallery, queries[4]), {3, 4, 5})
    assert [row["row"] for row in browser.rows()["rgb"]] == wanted and len(wanted) == 37
    browser.select("train/39.mp4")  # alone in its source
    assert len(browser.rows()["rgb"]) == 39
    assert browser.right("rgb").shape == (12, 39)
    browser.look(hide_source_video=False)
    assert len(browser.rows()["rgb"]) == 39, "itself is left out in any case"


def test_queries_that_lie_in_the_gallery_do_not_find_themselves(parts):
    gallery, values = parts["gallery"], parts["lists"]["rgb"][0]
    browser = Browser(gallery, gallery, {"rgb": (values, values)}, k=3)
    for query in range(40):
        browser.select(query)
        assert [row["row"] for row in browser.rows()["rgb"]] == sorted_rows(
            cosines(values, values[query]), {query}
        )[:3]
    assert len(browser.drawn("queries")) == 0 and len(browser.map().data[1].x) == 0, "drawn once"


def test_filters_leave_the_failures_of_a_class(browser, parts):
    gallery, queries = parts["lists"]["flow"]
    label = parts["gallery"].label
    for k in (1, 2, 5):
        browser.look(failures="", of_class="", k=k)
        failing = [
            query
            for query in range(12)
            if not any(
                label[row] == parts["queries"].label[query]
                for row in sorted_rows(cosines(gallery, queries[query]))[:k]
            )
        ]
        browser.look(failures="flow")
        assert browser.choices().tolist() == failing
        browser.look(of_class=HOSTILE)
        assert browser.choices().tolist() == [
            query for query in failing if parts["queries"].label[query] == 1
        ]
    assert (
        browser.query == ("queries", int(browser.choices()[0])) if len(browser.choices()) else True
    )
    for wrong in (
        {"k": 0},
        {"of_class": "run"},
        {"failures": "blue"},
        {"compare": ("rgb",)},
        {"kind": "smell"},
    ):
        with pytest.raises(ValueError, match="look: wanted"):
            browser.look(**wrong)
    assert browser.k == 5


def test_a_filter_moves_on_to_the_first_query_that_is_left(browser, parts):
    one = next(
        query for query in range(12) if parts["queries"].label[query] != parts["queries"].label[0]
    )
    browser.look(of_class=CLASSES[parts["queries"].label[one]])
    assert browser.query == ("queries", one)
    browser.back()
    assert browser.query == ("queries", 0)


def test_next_failure_walks_through_the_queries_that_found_nothing_right(browser, parts):
    browser.look(k=1)
    for name in ("rgb", "flow"):
        failing = np.flatnonzero(~browser.right(name).any(axis=1)).tolist()
        assert 1 < len(failing) < 12
        browser.select(failing[-1])
        for query in failing:
            assert browser.next_failure(name) and browser.query == ("queries", query)
    browser.select("train/3.mp4")
    view = show(browser)
    view.next_failure()
    first = int(np.flatnonzero(~browser.right("rgb").any(axis=1))[0])
    assert browser.query == ("queries", first) and f"test/{first}.mp4" in view.said.value
    browser.look(failures="flow", of_class="walk")
    left = set(browser.choices().tolist())
    assert left and {browser.next_failure() and browser.query[1] for _ in range(12)} == left
    with pytest.raises(ValueError, match="next_failure: wanted one of the lists"):
        browser.next_failure("blue")
    every = Browser(parts["gallery"], parts["queries"], {"rgb": parts["lists"]["rgb"]}, k=40)
    assert not every.next_failure() and every.query == ("queries", 0)
    view = show(every)
    view.next_failure()
    assert "No query matches the filter" in view.said.value


def test_gained_lost_and_kept_are_differences_of_the_lists(browser, parts):
    browser.select(2)
    before, after = (
        set(sorted_rows(cosines(gallery, queries[2]))[:5])
        for gallery, queries in parts["lists"].values()
    )
    moved = browser.gained_lost("rgb", "flow")
    assert {name: {row["row"] for row in rows} for name, rows in moved.items()} == {
        "kept": before & after,
        "gained": after - before,
        "lost": before - after,
    }
    ranks = {row["row"]: row["rank"] for row in browser.rows()["flow"]}
    assert all(row["rank"] == ranks[row["row"]] for row in moved["gained"])


def test_unknown_labels_are_neither_right_nor_wrong(parts):
    gallery, queries = videos("train", 40, 0, unknown=range(20)), videos("test", 12, 1, unknown=[0])
    browser = Browser(gallery, queries, parts["lists"], k=30)
    assert {row["right"] for row in browser.rows()["rgb"]} == {None}
    browser.select(1)
    for row in browser.rows()["rgb"]:
        assert (row["right"] is None) == (row["row"] < 20)
    assert not browser.right("rgb")[0].any()


def test_csv_holds_ids_and_scores_of_the_queries_that_are_left(browser, parts, tmp_path):
    browser.look(of_class="sit", k=3)
    browser.select("train/0.mp4")
    path = browser.csv(tmp_path / "deep" / "neighbors.csv")
    assert [file.name for file in path.parent.iterdir()] == ["neighbors.csv"], (
        "no temporary file stays"
    )
    assert browser.query == ("gallery", 0)
    lines = list(csv.DictReader(open(path, encoding="utf-8")))
    left = [query for query in range(12) if parts["queries"].label[query] == 2]
    wanted = [
        (f"test/{query}.mp4", name, str(rank), f"train/{row}.mp4")
        for query in left
        for name in ("rgb", "flow")
        for rank, row in enumerate(
            sorted_rows(
                cosines(
                    *[
                        part if side == 0 else part[query]
                        for side, part in enumerate(parts["lists"][name])
                    ]
                )
            )[:3],
            1,
        )
    ]
    assert [tuple(line[key] for key in ("query", "list", "rank", "id")) for line in lines] == wanted
    assert {line["query_label"] for line in lines} == {"sit"}
    assert all(line["right"] == str(int(line["label"] == "sit")) for line in lines)
    score = max(cosines(parts["lists"]["rgb"][0], parts["lists"]["rgb"][1][left[0]]))
    assert float(lines[0]["score"]) == pytest.approx(score, abs=1e-5)


def test_what_does_not_fit_is_refused_at_the_door(parts):
    gallery, queries, (values, made_clips) = (
        parts["gallery"],
        parts["queries"],
        parts["lists"]["rgb"],
    )
    table = Features(values, gallery.label[::-1], gallery.source_video, CLASSES, {})
    for lists, says in (
        ({}, "wanted lists"),
        ({"a": (values[1:], made_clips)}, "40 gallery videos and 12 queries"),
        ({"a": (values, made_clips[:, 1:])}, "wanted features"),
        ({"a": (values[0], made_clips)}, "wanted feat"),
        ({"a": (table, made_clips)}, "of other videos than the gallery"),
    ):
        with pytest.raises(ValueError, match=says):
            Browser(gallery, queries, lists)
    for more, says in (
        ({"k": 0}, "k >= 1"),
        ({"centering": "odd"}, "centering is one of"),
        ({"compared": {"rgb": "x"}}, "`compared` between lists"),
    ):
        with pytest.raises(ValueError, match=says):
            Browser(gallery, queries, parts["lists"], **more)
    twice = Videos(
        np.array(["same"] * 12), queries.label, queries.source_video, CLASSES, queries.clips
    )
    with pytest.raises(ValueError, match="each id once"):
        Browser(gallery, twice, parts["lists"])


# ------------------------------------------------------------------------------ pictures and HTML


def test_html_plays_queries_and_neighbors_and_an_untrusted_notebook_keeps_it(browser, made_clips):
    assert made_clips == [], "clips are made when they are looked at"
    browser.look(compare=("rgb", "flow"))
    text = browser.html([0, "train/3.mp4"], "Neighbors")
    made, shown = list(made_clips), {3}
    for query in (0, "train/3.mp4"):
        browser.select(query)
        shown |= {row["row"] for rows in browser.rows().values() for row in rows}
    assert len(made) == len(set(made)), "a clip is made once"
    assert {row for name, row in made if name == "train"} == shown
    browser.back(), browser.back()
    page = Skeleton(text)
    assert {tag for tag, _ in page.tags} <= {"div", "span", "b", "img"}
    assert styles(text) <= KEPT and not re.search(r"(src|href)=\"(?!data:image/webp)", text)
    assert any(HOSTILE in word for word in page.words) and "<script" not in text
    alts = [value for _, name, value in page.attributes if name == "alt"]
    assert sum(alt.startswith("query") for alt in alts) == 2
    browser.select(0)
    for row in browser.rows()["rgb"]:
        verdict = f"{'right' if row['right'] else 'wrong'}"
        mark = ", also in flow" if row["shared"] else ""
        assert (
            f"rank {row['rank']}, {row['label']}, score {row['score']:.2f}, {verdict}{mark}" in alts
        )
    assert "gained: in flow, not in rgb" in text and "lost: in rgb, not in flow" in text
    assert browser.query == ("queries", 0), "looking at HTML moves nothing"


def test_html_spreads_over_the_queries_that_are_left_and_says_when_none_is(browser, parts):
    browser.look(of_class="walk")
    left = [query for query in range(12) if parts["queries"].label[query] == 0]
    text = browser.html(2)
    assert [query for query in range(12) if f">test-{query}</span>" in text] == [left[0], left[-1]]
    browser.look(of_class="")
    everything = Browser(parts["gallery"], parts["queries"], {"rgb": parts["lists"]["rgb"]}, k=40)
    everything.look(failures="rgb")
    assert len(everything.choices()) == 0 and "No query matches the filter" in everything.html()


def test_a_clip_that_cannot_be_read_says_so_and_the_others_play(parts):
    def broken(row):
        if row % 2:
            raise OSError(f"<b>{row}</b> is torn")
        return Tile(WEBP, "x", "fine")

    gallery = Videos(
        parts["gallery"].ids,
        parts["gallery"].label,
        parts["gallery"].source_video,
        CLASSES,
        {"pictures": broken},
    )
    browser = Browser(gallery, parts["queries"], parts["lists"], k=10)
    text, rows = browser.html([0]), browser.rows()
    odd = sum(row["row"] % 2 for one in rows.values() for row in one)
    assert (
        0 < odd < 20
        and text.count("cannot be shown: &lt;b&gt;") == odd
        and text.count(">fine<") == 20 - odd
    )


def test_grid_shows_videos_of_either_side_in_pages(browser):
    text = browser.grid(["train/3.mp4", "test/4.mp4"])
    assert (
        text.count("<img") == 2
        and ">train-3<" in text
        and ">test-4<" in text
        and "2 videos" in text
    )
    assert "Draw around" in browser.grid([])
    every = [f"train/{row}.mp4" for row in range(40)] + [f"test/{row}.mp4" for row in range(12)]
    pages = [browser.grid(every, page, picks=True) for page in range(3)]
    assert [page.count("<img") for page in pages] == [24, 24, 4]
    assert re.findall(r'data-pick="([^"]*)"', "".join(pages)) == every
    assert "52 videos, 25 to 48" in pages[1] and "52 videos, 49 to 52" in pages[2]


def named(figure):
    """What a map's legend names after its rings."""
    return [one.name for one in figure.data[5:] if one.visible]


def test_pca_is_that_of_the_gallery_and_its_points_are_drawn_by_class(browser, parts):
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts["lists"]["rgb"]]
    mean = unit[0].mean(0)
    axes = np.linalg.svd(unit[0] - mean)[2][:2]
    places = browser.places("rgb")
    for got, values in zip(places.values(), unit, strict=True):
        for axis in (0, 1):  # a direction's sign is arbitrary
            wanted = (values - mean) @ axes[axis]
            assert (
                min(np.abs(got[:, axis] - wanted).max(), np.abs(got[:, axis] + wanted).max()) < 1e-4
            )
    browser.select(5)
    figure = browser.map()
    np.testing.assert_array_equal(figure.data[0].x, places["gallery"][:, 0])
    np.testing.assert_array_equal(figure.data[0].marker.color, parts["gallery"].label)
    rings = {trace.marker.color for trace in figure.data[2:4]}
    assert rings == {color for color, _ in browser.looks().values()} and not rings & {
        color for _, color in figure.data[0].marker.colorscale[: 2 * len(looks.CLASS_COLORS)]
    }, "classes and lists have different colors"
    assert figure.data[0].type == "scatter" and figure.data[1].marker.symbol == "circle-open"
    star = figure.data[
        2 + len(browser.spaces)
    ]  # drawn after the rings, which would hide it, and first in the legend
    assert (star.name, star.x[0], star.legendrank) == ("query", places["queries"][5, 0], 1)
    near = [row["row"] for row in browser.rows()["flow"]]
    assert figure.data[3].name == "flow"
    np.testing.assert_array_equal(figure.data[3].y, places["gallery"][near, 1])
    assert "<script" not in figure.data[0].text[0]
    assert named(figure) == list(CLASSES[:1]) + [looks.plain(HOSTILE), "sit"]
    browser.look(of_class="sit")
    faint = np.asarray(browser.map().data[0].marker.opacity)
    assert ((faint > 0.5) == (parts["gallery"].label == 2)).all()


def test_clips_of_files_and_of_flow(tmp_path):
    from vidbench.data.flow import store as flow_store

    for number in range(4):
        makes.encode(
            tmp_path / f"{number}.mp4", makes.texture(30, (48, 64), (number, 1.0), number), rate=15
        )
    few = Manifest.from_rows(
        tmp_path, [(f"{number}.mp4", "ab"[number % 2], "train", None) for number in range(4)]
    )
    flow_store.extract(few, tmp_path / "flow", "dis", workers=0)
    held = Videos.of(few, flow_folder=tmp_path / "flow")
    tiles = {kind: make(2) for kind, make in held.clips.items()}
    assert list(tiles) == ["pictures", "flow"] and len({tile.clip for tile in tiles.values()}) == 2
    for kind, tile in tiles.items():
        picture = Image.open(BytesIO(tile.clip))
        assert (
            picture.n_frames == 16
            and max(picture.size) == 96
            and tile.label == few.names(2)["label"]
        ), kind
        seconds = 0
        for frame in range(picture.n_frames):
            picture.seek(frame)
            picture.load()
            seconds += picture.info["duration"] / 1000
        assert seconds == pytest.approx(29 / 15, abs=0.02), "a clip keeps its video's length"
    values = vectors(4, 0)
    browser = Browser(held, held, {"x": (values, values)}, k=2)
    before = browser.html([0])
    browser.look(kind="flow")
    assert browser.html([0]) != before and browser.kinds == ("pictures", "flow")


# --------------------------------------------------------------------------------------- controls


def clicked(view, id):
    """What the page sends of a click on a tile."""
    view.clicks.widget._handle_custom_msg({"pick": id}, [])


def picks(place):
    """The ids of the tiles that can be clicked, in their order."""
    return re.findall(r'data-pick="([^"]*)"', place.value)


def pointed(view, **message):
    """What the page sends of the pointer in the view's plot."""
    view.open()
    boxes = [view.box]
    while "vidbench-plot" not in boxes[0]._dom_classes:
        boxes += getattr(boxes.pop(0), "children", ())
    boxes[0].children[1]._handle_custom_msg(message, [])


def test_a_click_on_a_tile_makes_it_the_query(browser):
    view = show(browser)
    assert picks(view.tiles) == [row["id"] for rows in browser.rows().values() for row in rows]
    assert len(picks(view.tiles)) == view.tiles.value.count('title="rank ')
    assert view.back.disabled and "data-pick" not in browser.html(1), "HTML alone takes no clicks"
    third = picks(view.tiles)[2]
    clicked(view, third)
    row = int(re.search(r"\d+", third)[0])
    assert (
        browser.query == ("gallery", row)
        and f">train-{row}</span>" in view.tiles.value.split('title="rank')[0]
    )
    assert view.map.figure.data[2 + len(browser.spaces)].x[0] == browser.places()["gallery"][row, 0]
    assert third in view.said.value and not view.back.disabled
    view.back.click()
    assert browser.query == ("queries", 0) and view.back.disabled


def test_moving_the_controls_changes_what_is_looked_at(browser, parts, monkeypatch, tmp_path):
    view = show(browser)
    view.number.value = 4
    assert browser.query == ("queries", 3)
    view.find.value = "EST/11"
    assert browser.query == ("queries", 11) and view.number.value == 12
    view.find.value = "nothing of it"
    assert "no video" in view.said.value and browser.query == ("queries", 11)
    view.find.value = "train/17"
    assert browser.query == ("gallery", 17)
    view.k.value = 10
    assert len(picks(view.tiles)) == 20 and len(view.map.figure.data[3].x) == 10
    view.compare.value = ("rgb", "flow")
    gained = browser.gained_lost("rgb", "flow")
    moved = [row["id"] for name in ("gained", "lost") for row in gained[name]]
    assert picks(view.tiles)[20:] == moved
    assert len(picks(view.tiles)) == view.tiles.value.count('title="rank ')
    view.of_class.value = "sit"
    assert (
        view.number.max == int((parts["queries"].label == 2).sum()) and "queries" in view.said.value
    )
    assert (
        (np.asarray(view.map.figure.data[0].marker.opacity) > 0.5) == (parts["gallery"].label == 2)
    ).all()
    view.k.value = 5
    view.failures.value = "flow"
    assert browser.failures == "flow" and view.number.max == max(1, len(browser.choices()))
    view.hide.value = True
    assert browser.hide_source_video
    monkeypatch.chdir(tmp_path)
    view.save.click()
    lines = (tmp_path / "neighbors.csv").read_text().splitlines()
    assert len(lines) == 1 + 10 * len(browser.choices()) and "neighbors.csv" in view.said.value


def test_the_map_moves_in_the_same_figure_and_points_and_lassos_lead_to_clips(browser):
    view = show(browser)
    figure = view.map.figure
    view.map.of_map.value = "flow"
    assert view.map.figure is figure
    wanted = browser.map("flow")
    for old, new in zip(figure.data, wanted.data, strict=True):
        np.testing.assert_array_equal(old.x, new.x)
        np.testing.assert_array_equal(old.y, new.y)
    assert figure.layout.title.text == wanted.layout.title.text == "flow: principal components"
    pointed(view, event="click", trace=1, point=6, x=0.0, y=0.0)
    assert browser.query == ("queries", 6)
    pointed(view, event="click", trace=0, point=8, x=0.0, y=0.0)
    assert browser.query == ("gallery", 8)
    pointed(
        view, event="lasso", points={"1": [4], "0": [1, 2], "3": [0]}
    )  # JSON's keys; the third is a ring's
    assert (
        picks(view.pane.clips) == ["train/1.mp4", "train/2.mp4", "test/4.mp4"]
        and view.pane.clips.value.count("<img") == 3
    )
    assert view.pane.clips.value.count('title="video ') == 3
    clicked(view, "test/4.mp4")
    assert browser.query == ("queries", 4)
    pointed(view, event="lasso", points={})
    assert picks(view.pane.clips) == [] and "<img" not in view.pane.clips.value


@pytest.fixture
def sent(monkeypatch):
    """What goes to the page, in order: the comm id of an opened widget with its state, and the
    bundles that are displayed."""
    import comm
    from IPython import display

    messages = []

    def publish(self, kind, data=None, *rest, **more):
        if kind == "comm_open":
            messages.append((self.comm_id, data["state"]))

    monkeypatch.setattr(comm.DummyComm, "publish_msg", publish)
    monkeypatch.setattr(display, "display", lambda bundle, raw: messages.append(("shown", bundle)))
    return messages


def test_tiles_are_shown_before_the_map_is_opened_with_its_points_in_it(browser, sent):
    """Updates that follow an open message may be lost while a machine is busy."""
    view = show(browser)
    assert not [state for _, state in sent if "_esm" in state], "no module before the tiles"
    view._ipython_display_()
    kinds = [kind for kind, _ in sent]
    after, bundle = kinds.index("shown"), dict(sent)["shown"]
    assert "application/vnd.jupyter.widget-view+json" in bundle and kinds.count("shown") == 1
    assert str(browser.now()) in bundle["text/html"] and "static view" in bundle["text/html"]
    assert "data-pick" not in bundle["text/html"], "what cannot be clicked is no button"
    opened = kinds.index(view.map.figure.comm.comm_id), kinds.index(view.clicks.widget.comm.comm_id)
    assert after < opened[1] < opened[0], "the listener does not wait for the map"
    assert len(dict(sent)[view.map.figure.comm.comm_id]["_widget_data"]) == 2 + 3 + 24
    assert sum(len(str(state)) for _, state in sent[:after]) < 500_000, "a small first message"
    assert "static view" in view.clicks.late.value
    view.open()
    assert len(view.below.children) == 4


def unlabeled(parts):
    """The same videos without classes and labels."""
    return {
        name: replace(parts[name], label=np.full(len(parts[name]), -1), classes=())
        for name in ("gallery", "queries")
    }


def test_videos_without_labels_are_neither_right_nor_wrong_and_say_so(parts):
    browser = Browser(**{**parts, **unlabeled(parts)}, k=5)
    text, view = browser.html(2), show(browser)
    assert "No labels" in text and "✓" not in text and "✗" not in text
    assert (
        looks.RIGHT not in text and looks.WRONG not in text and " right" not in Skeleton(text).words
    )
    for row in browser.rows()["rgb"]:
        same = parts["gallery"].source_video[row["row"]] == parts["queries"].source_video[0]
        assert row["right"] is None and row["sibling"] == same
    shown = [one for line in view.box.children for one in getattr(line, "children", ())]
    assert view.of_class not in shown and view.failures not in shown and view.k in shown
    assert not browser.next_failure(), "without labels no query fails"
    figure = browser.map()
    assert "no labels, color by source video" in figure.layout.title.text
    sources = np.unique(np.concatenate([parts[one].source_video for one in ("gallery", "queries")]))
    assert named(figure) == [f"source {one}" for one in sources]
    many = {
        name: replace(one, source_video=np.arange(len(one)))
        for name, one in unlabeled(parts).items()
    }
    figure = Browser(**{**parts, **many}, k=5).map()
    assert named(figure) == ["gallery", "queries"]
    assert {int(one) for one in figure.data[0].marker.color} == {0}
    assert "color by side" in figure.layout.title.text


def test_headless_runs_get_html_and_people_controls(browser, monkeypatch):
    monkeypatch.delenv("VIDBENCH_HEADLESS", raising=False)
    assert type(widgets.shown(browser)).__name__ == "NeighborControls"
    monkeypatch.setenv("VIDBENCH_HEADLESS", "0")
    assert type(widgets.shown(browser)).__name__ == "NeighborControls"
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    assert widgets.shown(browser, [2]) == browser.html([2])


def test_ten_thousand_videos_are_a_small_map_and_a_small_page():
    from benchmarks.browsing import acts, synthetic

    assert {len(values) for values in acts(synthetic(150, 20, 3), 2).values()} == {2}
    browser = synthetic(10_000, 50)
    assert len(browser.map().to_json()) < 800_000 and browser.map().data[0].type == "scattergl"
    assert len(browser.html(2)) < 300_000
