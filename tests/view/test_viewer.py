"""The clip viewer's script, and what a gallery and a kernel give it."""

import base64
import json
import re
from html import unescape

import ipywidgets
import numpy as np
import pytest

from tests.view.test_galleries import Skeleton, clip
from vidbench.data.video.clips import VideoError
from vidbench.view import clips, galleries, html, looks, viewer
from vidbench.view.galleries import Row, Source, Tile
from vidbench.view.widgets.pieces import Clicks, answered
from vidbench.view.widgets.videos import both_sides, whole_of

WEBP = galleries.encode(clip(), 12)


def facts(text, name="clip"):
    """What each tile's attribute says to the script."""
    return [json.loads(unescape(one)) for one in re.findall(rf' data-{name}="([^"]*)"', text)]


@pytest.fixture(scope="module")
def four(toy_tiny):
    return toy_tiny.select(mask=np.arange(4) * 9)


def test_the_script_comes_with_tiles_only():
    gallery = galleries.gallery([Row(Tile(WEBP, "a"), [])])
    names = f"<script>{viewer.PLOTS}</script>"  # of plots, which may be in any notebook
    assert gallery._repr_html_() == f"{gallery}<script>{viewer.VIEWER}</script>{names}"
    plain = looks.Html("<p>words, data-clip</p>")
    assert plain._repr_html_() == f"{plain}{names}"
    assert "</script" not in viewer.SCRIPT and viewer.VIEWER.count("\n") < 255
    bare, full = (html.page("t", [html.Section("h", parts)]) for parts in (["x"], [gallery] * 2))
    assert "<script>" not in bare and full.count("<script>") == 1


def test_a_tile_names_its_video_frames_and_times(four):
    tile = clips.playing(four, most=8)(1)
    said = facts(galleries.gallery([Row(tile, [])]))[0]
    assert said["path"] == str(four.path[1]) and said["kind"] == "rgb"
    assert len(said["frames"]) == len(said["times"]) == 8 < said["of"]
    assert said["frames"][0] == 0 and said["frames"][-1] == said["of"] - 1
    assert said["times"] == sorted(said["times"]) and said["times"][-1] > 0
    assert facts(galleries.gallery([Row(Tile(WEBP, "a"), [])])) == [{}]


def test_a_video_s_name_cannot_leave_its_attribute():
    name = "\"><script>alert(1)</script>' &quot;"
    text = galleries.gallery([Row(Tile(WEBP, "a", source=Source(name)), [])])
    plain = galleries.gallery([Row(Tile(WEBP, "a", source=Source("b")), [])])
    assert Skeleton(text).tags == Skeleton(plain).tags and facts(text)[0]["path"] == name
    shown = answered(name, lambda _: [Tile(WEBP, "a", source=Source(name))])
    assert {tag for tag, _ in Skeleton(shown).tags} == {"div", "img"}


def test_the_whole_clip_has_every_frame_and_its_flow(four, toy_flow, monkeypatch):
    rgb, flow = clips.whole(four, 2, flow_folder=toy_flow)
    said = rgb.source
    assert said.path == str(four.absolute(2).absolute()) and len(said.frames) == said.of
    assert flow.source.kind == "flow" and len(flow.source.frames) == said.of - 1
    assert np.allclose(flow.source.times, said.times[:-1], atol=0.02)
    monkeypatch.setattr(clips, "WHOLE", 5)
    (few,) = clips.whole(four, 2)
    assert len(few.source.frames) == 5 and few.source.frames[-1] == said.of - 1


def test_flow_is_estimated_where_no_store_is(four):
    """As where a store is, from the frames themselves: in tiles, and next to the whole video."""
    tile = clips.playing(four, most=8, flow_folder=clips.QUICK)(1)
    assert tile.source.kind == "flow" and len(tile.source.frames) == 8
    sides = both_sides(four, four)
    assert [one.source.kind for one in whole_of(sides, str(four.path[2]))] == ["rgb", "flow"]
    assert both_sides(four, four, clips.QUICK)["gallery"].clips.keys() == {"pictures", "flow"}
    assert sides["gallery"].clips.keys() == {"pictures"}


def test_the_estimated_flow_is_that_of_the_store(four, toy_flow):
    """The same estimator on the same frames; the store keeps 8 bits."""
    mine = clips._flows(four, clips.QUICK, 2, 6)
    held = clips._flows(four, toy_flow, 2, 6)
    assert mine.shape == held.shape and np.abs(mine - held).mean() < 0.1


def test_the_kernel_answers_with_clips_until_the_viewer_closes(four):
    sides = both_sides(four, four)
    clicks = Clicks(ipywidgets.VBox(), whole=lambda path: whole_of(sides, path))
    clicks.widget._handle_custom_msg({"view": str(four.path[3])}, [])
    said, flow = facts(clicks.answer.value, "facts")
    assert said["of"] == len(said["frames"]) and "hidden" in clicks.answer.value
    assert flow["kind"] == "flow" and len(flow["frames"]) == said["of"] - 1
    uri = re.search(r'src="data:image/webp;base64,([^"]*)"', clicks.answer.value).group(1)
    assert len(base64.b64decode(uri)) > 1000
    clicks.widget._handle_custom_msg({"view": ""}, [])
    assert clicks.answer.value == ""


def test_the_key_n_is_a_message_that_calls_for_the_next_failure():
    called = []
    clicks = Clicks(ipywidgets.VBox(), picked=called.append, next=lambda: called.append("next"))
    clicks.widget._handle_custom_msg({"next": True}, [])
    clicks.widget._handle_custom_msg({"view": "a"}, [])  # nothing answers here
    clicks.widget._handle_custom_msg({"pick": "a"}, [])
    assert called == ["next", "a"] and clicks.answer.value == ""


def test_a_video_that_cannot_be_read_is_a_sentence():
    def broken(path):
        raise VideoError(f"{path}: the file is empty")

    said = answered("a.mp4", broken)
    assert (
        "The whole video cannot be shown: a.mp4: the file is empty" in said and "<img" not in said
    )
    few = Source("a.mp4", "rgb", 900, range(3), range(3))
    assert "3 of 900 frames" in answered("a.mp4", lambda _: [Tile(WEBP, "a", source=few)])


def test_a_side_without_files_answers_with_its_tile(four):
    sides = both_sides(four, four)
    columns = {
        "ids": np.array(["one"]),
        "label": np.zeros(1, int),
        "source_video": np.zeros(1, int),
    }
    made = type(sides["gallery"])(
        **columns, classes=("a",), clips={"x": lambda row: Tile(WEBP, "a")}
    )
    (tile,) = whole_of({"gallery": made}, "one")
    assert tile.source.path == "one"
