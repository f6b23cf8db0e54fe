"""The box for a video from outside: its lines, its sentences, and what the page sends of an upload."""

import re

import numpy as np
import pytest

from vidbench.evaluate.query import Hits
from vidbench.evaluate.search import Neighbors
from vidbench.view.widgets import query, shown
from vidbench.view.widgets.query import QueryBox, QueryControls


@pytest.fixture
def box(toy_tiny, tmp_path):
    """Two made-up searches in six videos, whatever the query."""
    gallery = toy_tiny.select(mask=np.arange(6) * 12)

    def search(rows, path):
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        one = type(gallery).from_rows(path.parent, [(path.name, None, "test", None)])
        return Hits(one, gallery, Neighbors(np.array([rows]), np.array([[0.9, 0.5]])), ("a",))

    searches = {"rgb": lambda path: search([1, 3], path), "flow": lambda path: search([3, 5], path)}
    return QueryBox(searches, tmp_path / "queries")


@pytest.fixture
def outside(toy_tiny):
    return toy_tiny.absolute(7)


def test_a_line_for_each_search(box, outside, toy_tiny):
    text = box.html(outside)
    assert text.count('title="query') == 1 and text.count('title="rank 1') == 2
    assert text.index("<b>rgb</b>") < text.index("<b>flow</b>")
    assert "source video" not in text and "No labels of the queries" in text
    clip, flow = box.whole(outside.name)
    assert flow.source.kind == "flow"
    assert clip.source.path == str(outside.absolute())
    assert box.whole(str(toy_tiny.path[36]))[0].source.path == str(toy_tiny.absolute(36).absolute())


def test_searches_of_other_galleries_get_a_picture_each(box, outside, toy_tiny):
    other = toy_tiny.select(mask=np.arange(4) * 20)
    one = box.searches["rgb"]

    def search(path):
        hits = one(path)
        return Hits(hits.queries, other, hits.neighbors, hits.runs)

    both = QueryBox({**box.searches, "other": search}, box.folder)
    assert both.html(outside).count('title="query') == 2


def test_what_cannot_be_searched_is_one_sentence(box, tmp_path):
    assert box.html(tmp_path / "a.mp4").count("no such file") == 1
    assert "<img" not in box.html(tmp_path / "a.mp4") and "drop one" in box.html()
    with pytest.raises(ValueError, match="at least one search"):
        QueryBox({}, tmp_path)


def sent(controls, name, data, part=3, id="1", **more):
    """What the page sends of a dropped file."""
    pieces = [data[at : at + part] for at in range(0, len(data), part)]
    for number, piece in enumerate(pieces):
        facts = {"name": name, "size": len(data), "id": id, "part": number, "parts": len(pieces)}
        controls.drop._handle_custom_msg({**facts, **more}, [memoryview(piece)])


def test_an_uploaded_video_is_written_once_and_searched(box, outside):
    controls = QueryControls(box)
    assert str(box.folder) in controls.said.value and not box.folder.exists()
    data = outside.read_bytes()
    for id in "12":
        sent(controls, "../../my clip?.mp4", data, part=4000, id=id)
    (file,) = box.folder.iterdir()
    assert file.read_bytes() == data and re.fullmatch(r"[0-9a-f]{8}-my_clip_.mp4", file.name)
    assert controls.tiles.value.count('title="rank 1') == 2 and controls.path.value == str(file)


def test_a_large_file_is_refused_and_half_an_upload_dropped(box, outside, monkeypatch):
    controls = QueryControls(box)
    controls.drop._handle_custom_msg({"name": "big.mp4", "size": 900 * 2**20}, [])
    assert "200 MB; big.mp4 has 900 MB" in controls.said.value
    half = {"name": "a.mp4", "size": 6, "id": "1", "part": 0, "parts": 2}
    controls.drop._handle_custom_msg(half, [b"abc"])
    controls.drop._handle_custom_msg({**half, "id": "2", "part": 1}, [b"def"])
    assert not box.folder.exists() and controls.tiles.value == ""


def test_a_typed_path_is_searched_and_headless_shows_the_first(box, outside, monkeypatch):
    controls = query.show(box)
    controls.path.value = f"  {outside} "
    assert controls.tiles.value.count('title="rank 1') == 2
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    first = QueryBox(box.searches, box.folder, path=outside)
    assert shown(first) == first.html() and 'title="rank 1' in shown(first)
