"""Embeddings of files outside of a data set, against the stored rows of the same files."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import copied, makes
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import embed as module
from vidbench.evaluate.embed import embed, left_out
from vidbench.evaluate.features import PROTOCOLS, load_or_extract

FAST = replace(PROTOCOLS["vidbench"], windows=2)


@pytest.fixture
def runs(infonce, tmp_path) -> dict[str, Run]:
    folder = copied(infonce[0], tmp_path / "runs")
    return {stream: Run(folder / stream) for stream in ("rgb", "flow")}


def loose(folder: Path, *files: Path) -> Manifest:
    """Files as a manifest without labels, by absolute paths."""
    return Manifest.from_rows(folder, [(str(file), None, "test", None) for file in files])


def copies(manifest: Manifest, folder: Path, count: int = 3) -> list[Path]:
    """Copies of some videos in a folder of the user's own."""
    folder.mkdir()
    return [
        Path(shutil.copy2(manifest.absolute(row), folder / f"mine {row}.mp4"))
        for row in range(count)
    ]


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_a_file_outside_has_the_row_that_the_data_set_stores(runs, toy_tiny, tmp_path, stream):
    run = runs[stream]
    test = toy_tiny.select(split="test")
    stored = load_or_extract(run, "test", FAST)
    files = copies(test, tmp_path / "mine")
    table = embed(run, loose(tmp_path, *files), FAST, cache=tmp_path / "cache").table
    # the convolutions see other batches than those of the stored table: equal up to rounding
    np.testing.assert_allclose(table.values, stored.values[:3], atol=1e-6)
    assert (table.label == -1).all() and table.classes == ()
    assert sorted(file.name for file in (tmp_path / "mine").iterdir()) == [
        f"mine {row}.mp4" for row in range(3)
    ]
    assert (tmp_path / "cache").exists() == (stream == "flow")
    assert not (run.folder / "outside").exists()


def test_rows_of_the_data_set_use_the_stored_flow_and_the_stored_table(
    runs, toy_tiny, tmp_path, monkeypatch
):
    run, train = runs["flow"], toy_tiny.select(split="train")
    stored = load_or_extract(run, "train", FAST)
    monkeypatch.setattr(module.flow_store, "complete", lambda *_, **__: pytest.fail("computed"))
    assert np.array_equal(embed(run, train, FAST).table.values, stored.values)
    monkeypatch.setitem(module.MAKERS, "features", lambda *_, **__: pytest.fail("made again"))
    assert np.array_equal(embed(run, train, FAST).table.values, stored.values)
    monkeypatch.undo()
    some = train.select(mask=np.array([4, 1]))
    absolute = loose(tmp_path, some.absolute(0), some.absolute(1))
    found = embed(run, absolute, FAST).table
    np.testing.assert_allclose(found.values, stored.values[[4, 1]], atol=1e-6)
    assert not (run.folder / "outside").exists()


def test_known_and_new_videos_come_in_the_order_of_the_manifest(runs, toy_tiny, tmp_path):
    run, test = runs["flow"], toy_tiny.select(split="test")
    mine = copies(test, tmp_path / "mine", 1)[0]
    mixed = loose(tmp_path, test.absolute(2), mine, test.absolute(1))
    rows = embed(run, mixed, FAST).table.values
    stored = load_or_extract(run, "test", FAST).values
    np.testing.assert_allclose(rows, stored[[2, 0, 1]], atol=1e-6)
    flow = list((run.folder / "outside").rglob("*.flow.npz"))
    assert [file.name for file in flow] == ["mine_0.mp4.flow.npz"]


def test_an_edited_file_is_computed_again_and_an_unchanged_one_is_not(runs, tmp_path):
    run, file = runs["flow"], tmp_path / "a.mp4"
    makes.encode(file, list(makes.texture(24, seed=1)))
    before = embed(run, loose(tmp_path, file), FAST).table.values
    (flow,) = (run.folder / "outside").rglob("*.flow.npz")
    made = flow.stat().st_mtime_ns
    assert np.array_equal(embed(run, loose(tmp_path, file), FAST).table.values, before)
    assert flow.stat().st_mtime_ns == made
    makes.encode(file, list(makes.texture(24, speed=(-2.0, 2.0), seed=2)))
    assert not np.allclose(embed(run, loose(tmp_path, file), FAST).table.values, before, atol=1e-3)
    assert flow.stat().st_mtime_ns != made


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_unreadable_files_are_named_and_the_rest_is_embedded(runs, toy_tiny, tmp_path, stream):
    run, whole = runs[stream], toy_tiny.absolute(0)
    torn, text = tmp_path / "torn.mp4", tmp_path / "text.mp4"
    torn.write_bytes(whole.read_bytes()[:300])
    text.write_text("not a video")
    mixed = loose(tmp_path, torn, whole, text, tmp_path / "missing.mp4")
    done = embed(run, mixed, FAST, cache=tmp_path / "cache")
    assert [str(path) for path in done.manifest.path] == [str(whole)]
    assert np.isfinite(done.table.values).all() and len(done.table.values) == 1
    assert done.table.protocol["rows"] == done.manifest.fingerprint()
    assert [Path(file).name for file, _ in done.failed] == ["torn.mp4", "text.mp4", "missing.mp4"]
    assert re.match(r"3 of 4 videos cannot be read: .*torn\.mp4", left_out(done.failed, 4))
    for file in (torn, text, tmp_path / "missing.mp4"):
        with pytest.raises(RunError, match=f"The video cannot be read. .*{file.name}"):
            embed(run, loose(tmp_path, file), FAST, cache=tmp_path / "cache")


def test_a_picture_is_too_short_for_flow_and_not_for_rgb(runs, tmp_path):
    file = tmp_path / "one.mp4"
    makes.encode(file, [makes.picture(3)])
    assert embed(runs["rgb"], loose(tmp_path, file), FAST).table.values.shape[0] == 1
    with pytest.raises(RunError, match="flow needs two frames"):
        embed(runs["flow"], loose(tmp_path, file), FAST)


def test_a_large_table_of_videos_outside_is_kept(runs, toy_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEEP_FROM", 2)
    files = copies(toy_tiny, tmp_path / "mine", 2)
    rows = embed(runs["rgb"], loose(tmp_path, *files), FAST).table.values
    assert len(list((runs["rgb"].folder / "outside" / "features").iterdir())) == 1
    monkeypatch.setitem(module.MAKERS, "features", lambda *_, **__: pytest.fail("made again"))
    assert np.array_equal(embed(runs["rgb"], loose(tmp_path, *files), FAST).table.values, rows)


def test_no_videos_and_a_lost_flow_store_are_said(runs, infonce, toy_tiny, tmp_path):
    with pytest.raises(RunError, match="no videos to embed"):
        embed(runs["rgb"], toy_tiny.select(mask=np.zeros(len(toy_tiny), bool)))
    lost = runs["flow"]
    lost.values["flow"] = str(tmp_path / "gone")
    with pytest.raises(RunError, match="its own flow store cannot be read"):
        embed(lost, loose(tmp_path, toy_tiny.absolute(0)))


def test_a_long_list_of_unreadable_videos_is_cut():
    failed = [(f"/v/{i}.mp4", "no such file.") for i in range(5)]
    said = left_out(failed, 9)
    assert said.startswith("5 of 9 videos cannot be read: /v/0.mp4: no such file; /v/1.mp4")
    assert said.endswith("; and 2 more.")
    assert left_out([("/v/a.mp4", "/v/a.mp4: torn.")], 1) == (
        "The video cannot be read. /v/a.mp4: torn."
    )
