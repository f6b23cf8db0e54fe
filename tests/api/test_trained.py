"""What a trained network does for videos: embed, search, predict, probe, browse, export."""

import numpy as np
import pytest

import vidbench as vb
from vidbench.evaluate.features import load_or_extract


@pytest.fixture(scope="module")
def table(front_door):
    videos, run = front_door
    return run.embed(videos)


def test_a_table_has_a_vector_for_each_video_in_order(front_door, table):
    videos, run = front_door
    assert table.paths == videos.paths and table.splits == videos.splits
    assert table.labels == [path.split("/")[-2] for path in videos.paths]
    assert table.vectors.shape[0] == len(table) == len(videos)
    stored = load_or_extract(run.run, "train")
    np.testing.assert_array_equal(table.of("train").vectors, stored.values)
    assert repr(table).startswith("Table(36 videos x 64 features of coclr-rgb; 3 classes)")
    assert "the first 5 rows" in table._repr_html_()


def test_a_file_has_the_row_of_the_table(front_door, table):
    videos, run = front_door
    for stream in run.streams.values():
        one = stream.embed(videos.paths[5])
        whole = stream.embed(videos)
        np.testing.assert_allclose(one.vectors[0], whole.vectors[5], atol=1e-5)


def test_a_probe_says_top1_its_interval_and_protocol(front_door, table):
    found = table.probe()
    assert 0 <= found.low <= found.top1 <= found.high <= 1
    assert found.videos == table.splits.count("test") and found.chance == pytest.approx(1 / 3)
    assert found.protocol["rows"].startswith(f"{found.videos}-") and "top-1" in repr(found)
    assert front_door[1].probe() == found


def test_search_finds_the_video_itself_and_shows_clips(front_door, tmp_path, capsys):
    videos, run = front_door
    known = videos.of("train").paths[3]
    for fused in (False, True):
        found = run.search(known, k=3, fused=fused)
        assert len(found) == 3 and found.paths[0] == known
        assert [hit["rank"] for hit in found] == [1, 2, 3]
    lines = repr(found).splitlines()
    assert lines[0] == known and lines[1].startswith("  1. +") and known in lines[1]
    assert found._repr_html_().count("data:image/webp") == 4
    assert found.hits.runs == ("coclr-rgb", "coclr-flow")
    page = run.search(known, k=2, html=tmp_path / "found.html")
    assert "found.html" in capsys.readouterr().out and len(page) == 2
    assert "data:image/webp" in (tmp_path / "found.html").read_text()


def test_search_among_other_videos(front_door):
    videos, run = front_door
    found = run.search(videos.paths[:2], k=2, among=videos.paths[10:14])
    assert len(found) == 4 and set(found.paths) <= set(videos.paths[10:14])


def test_fused_needs_both_streams(front_door):
    _, run = front_door
    with pytest.raises(ValueError, match="fused=True needs runs on rgb and flow; got rgb"):
        run.streams["rgb"].search("x.mp4", fused=True)


def test_predictions_sum_to_one_and_name_classes(front_door):
    videos, run = front_door
    found = run.predict(videos.paths[:2])
    assert found.classes == videos.classes and len(found) == 2
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert found.labels[0] == found.top(1)[0]["label"]
    assert videos.paths[0] in repr(found) and "%" in repr(found)
    assert "probability" in found._repr_html_()


def test_tables_and_hits_become_data_frames_and_files(front_door, table, tmp_path):
    videos, run = front_door
    frame = table.to_pandas()
    assert list(frame["path"]) == videos.paths and len(frame["vector"][0]) == 64
    assert table.save(tmp_path / "clips.csv").is_file()
    assert list(run.search(videos.paths[0], k=2).to_pandas()["rank"]) == [1, 2]
    assert len(run.predict(videos.paths[0]).to_pandas()) == 3


def test_an_export_loads_and_gives_the_same_features(front_door, table, tmp_path):
    from vidbench.evaluate.export import load_exported

    folder = front_door[1].export(tmp_path / "out")
    assert (folder / "backbone.safetensors").is_file() and (folder / "README.md").is_file()
    assert load_exported(folder).out_channels == table.vectors.shape[1]


def test_the_browser_opens_headless(front_door, monkeypatch):
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    assert "data:image/webp" in front_door[1].browse()


def test_an_unlabeled_table_says_that_a_probe_needs_labels(front_door):
    videos, run = front_door
    loose = run.embed(videos.paths[:4])
    assert "no labels" in repr(loose) and loose.labels == [""] * 4
    with pytest.raises(ValueError, match="a probe needs labels; got 4 videos without any"):
        loose.probe()


def test_an_unknown_protocol_lists_the_known_ones(front_door):
    with pytest.raises(ValueError, match="protocol must be one of .*vidbench.*got 'best'"):
        front_door[1].embed(protocol="best")
    assert isinstance(front_door[1], vb.Trained)


def test_a_query_from_outside_meets_each_run_and_both_streams(front_door, monkeypatch, tmp_path):
    videos, run = front_door
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    shown = run.query(path=videos.paths[0], k=2)
    lines = [f"<b>{name}</b>" for name in ("coclr-rgb", "coclr-flow", "coclr-rgb + coclr-flow")]
    assert [shown.count(line) for line in lines] == [1, 1, 1]
    more = run.streams["rgb"].query(run.streams["rgb"], path=videos.paths[0], k=2)
    assert "<b>coclr-rgb</b>" in more and f"<b>{run.run.folder.parent.name}/coclr-rgb</b>" in more
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    said = run.query(path=tmp_path / "broken.mp4")
    assert said.count("The video cannot be read.") == 1 and "<img" not in said
    assert not (run.run.folder.parent / "queries").exists(), "nothing is written but uploads"
