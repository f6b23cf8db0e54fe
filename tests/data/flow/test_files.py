"""The flow file: what it says of itself is checked before use, and it belongs to one source."""

import json
import os
import zlib
from dataclasses import replace

import numpy as np
import pytest

from tests.makes import encode, texture
from vidbench.data.flow import estimate, files
from vidbench.data.flow import store as flow_store
from vidbench.data.flow.estimate import FlowError
from vidbench.data.manifest import Manifest
from vidbench.data.video import framestore


@pytest.fixture
def data(tmp_path) -> Manifest:
    """Two videos in which something moves."""
    for i in range(2):
        encode(tmp_path / f"data/{i}.mp4", texture(4, (32, 48), seed=i), crf="8")
    rows = [(f"{i}.mp4", None, "train", None) for i in range(2)]
    return Manifest.from_rows(tmp_path / "data", rows)


def replaced(data: Manifest, row: int) -> None:
    """Another video of equal length in the place of a row's."""
    encode(data.absolute(row), texture(4, (32, 48), seed=7), crf="8")


# ---- promises ----------------------------------------------------------------------------------

PROMISES = [
    {"frames": 10**12},
    {"frames": 5},
    {"frames": 1},
    {"frames": -3},
    {"frames": "4"},
    {"frames": 4.0},
    {"frames": True},
    {"height": 10**9},
    {"height": 0},
    {"width": -48},
    {"height": 30_000, "width": 30_000},
    {"width": None},
]


@pytest.mark.parametrize("format", ["npz", "mp4"])
@pytest.mark.parametrize("promise", PROMISES, ids=str)
def test_a_promise_that_the_bytes_do_not_keep(tmp_path, format, promise):
    """A message, never an allocation: 10^12 frames of this size are 4 PB."""
    flows = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 2), np.uint8)
    facts = {"format": format, "frames": 4, "height": 32, "width": 48, "bound": 20.0}
    file = flow_store.flow_path(tmp_path, "a.mp4", format)
    files.write(file, iter(flows), facts, 25.0)
    assert flow_store.load(tmp_path, "a.mp4").shape == (3, 32, 48, 3)
    file.unlink()
    if format == "npz":
        pieces = [zlib.compress(f.transpose(2, 0, 1).tobytes()) for f in flows]
        framestore.write_pack(file, {**facts, **promise}, pieces)
    else:
        pictures = [f.transpose(2, 0, 1).reshape(-1, 48) for f in flows]
        framestore.write_mp4(file, pictures, 25.0, 16, json.dumps({**facts, **promise}))
    for call in (flow_store.load, flow_store.meta, flow_store.length):
        with pytest.raises(FlowError, match=r"a\.mp4\.flow.* is not a flow file .*extract again"):
            call(tmp_path, "a.mp4")


@pytest.mark.parametrize("plain", [0, 100, 2 * 32 * 48 - 1, 2 * 32 * 48 + 1, 50_000_000])
def test_a_piece_that_unpacks_to_another_size(tmp_path, plain):
    facts = {"frames": 2, "height": 32, "width": 48}
    piece = zlib.compress(bytes(plain))
    framestore.write_pack(flow_store.flow_path(tmp_path, "a.mp4"), facts, [piece])
    with pytest.raises(FlowError, match="flow 0 is damaged .*of 3072 bytes"):
        flow_store.load(tmp_path, "a.mp4")


def test_a_pack_of_pictures_is_no_flow(tmp_path):
    facts = {"frames": 3, "height": 32, "width": 48}
    rows = np.zeros((2, 32, 48, 3), np.uint8)
    framestore.write_pack(flow_store.flow_path(tmp_path, "a.mp4"), facts, rows=rows)
    with pytest.raises(FlowError, match="it holds pictures, not flow"):
        flow_store.meta(tmp_path, "a.mp4")


@pytest.mark.parametrize(
    "text, said",
    [
        ("not json", "does not describe flow"),
        ("[]", "does not describe flow"),
        ('{"settings": 3}', "does not describe flow"),
        ("[" * 100_000, "does not describe flow"),
        ('{"settings": {"method": "dis"}}', "must have the settings"),
        ("version 1", "and version 2; it has .* and version 1"),
        ("bound NaN", "bound must be 0.1 to 1000.0 pixels; got nan"),
    ],
)
def test_a_damaged_description_is_refused(data, tmp_path, text, said):
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    place = tmp_path / "flow/flow.json"
    held = json.loads(place.read_text())
    if text == "version 1":
        held["settings"]["version"] = 1
    held["settings"]["bound"] = float("nan") if text == "bound NaN" else 20.0
    place.write_text(json.dumps(held) if text[:1] in "bv" else text)
    os.utime(place, ns=(1, 1))
    with pytest.raises(FlowError, match=said):
        flow_store.settings_of(tmp_path / "flow")
    with pytest.raises(FlowError, match=said):
        flow_store.load(tmp_path / "flow", "0.mp4")


# ---- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [float("inf"), 1e30, 1e-30, float("nan"), 0, -1, True, "20"])
def test_a_bound_out_of_range_is_refused(data, tmp_path, bound):
    with pytest.raises(
        ValueError, match=r"bound must be (0\.1 to 1000\.0|a number of) pixels; got"
    ):
        flow_store.extract(data, tmp_path / "flow", "dis", bound=bound, progress=False)
    assert not (tmp_path / "flow").exists()


@pytest.mark.parametrize("size", [0, -1, 1, 10_000, 32.0, True])
def test_a_size_out_of_range_is_refused(data, tmp_path, size):
    with pytest.raises(ValueError, match="size, the short side, must be 2 to 8192 pixels.*; got"):
        flow_store.extract(data, tmp_path / "flow", "dis", size=size, progress=False)
    assert not (tmp_path / "flow").exists()


# ---- one source --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["npz", "mp4"])
def test_flow_of_a_replaced_video_is_refused_and_then_made_again(data, tmp_path, format):
    """Of equal length, so that the number of frames says nothing."""
    folder = tmp_path / "flow"
    flow_store.extract(data, folder, "dis", format=format, progress=False)
    before = flow_store.load(folder, "0.mp4", source=data.absolute(0))
    replaced(data, 0)
    for call in (flow_store.load, flow_store.meta, flow_store.length):
        with pytest.raises(FlowError, match="from another version of .*0.mp4 .*run vidbench flow"):
            call(folder, "0.mp4", source=data.absolute(0))
    assert flow_store.length(folder, "1.mp4", source=data.absolute(1)) == 3
    report = flow_store.complete(data, folder, progress=False)
    assert (report.done, report.skipped, report.remade) == (1, 1, 1)
    after = flow_store.load(folder, "0.mp4", source=data.absolute(0))
    assert before.shape == after.shape and not np.array_equal(before, after)


def test_flow_stays_when_its_source_is_gone(data, tmp_path):
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    data.absolute(0).unlink()
    assert flow_store.load(tmp_path / "flow", "0.mp4", source=data.absolute(0)).any()
    report = flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    assert (report.done, report.skipped, report.failed) == (0, 2, [])


def test_training_refuses_flow_of_a_replaced_video(data, tmp_path):
    from vidbench.data.loading.augmentation import PRESETS
    from vidbench.data.loading.dataset import Clips, ClipSpec

    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    small = replace(PRESETS["vidbench"], size=16)
    for streams in (("flow",), ("rgb", "flow")):
        spec = ClipSpec(frames=2, stride=1, streams=streams, views=1, augment=small)
        samples = Clips(data, spec, flow_folder=tmp_path / "flow")
        assert samples[0, 1]["flow"].shape[2] == 2
        replaced(data, 1 if streams == ("flow",) else 0)
        with pytest.raises(FlowError, match="was computed from another version of"):
            samples[0, 1 if streams == ("flow",) else 0]
        flow_store.extract(data, tmp_path / "flow", "dis", progress=False)


def test_flow_of_a_copied_video_is_read(data, tmp_path):
    """A copy has another time of change and the same bytes."""
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    os.utime(data.absolute(0), ns=(7, 7))
    assert len(flow_store.load(tmp_path / "flow", "0.mp4", source=data.absolute(0)))


def test_files_from_another_machine_describe_themselves(data, tmp_path):
    """Shards made without a shared disk: the files come without journal and record."""
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    for name in (".made.jsonl", "flow.jsonl"):
        (tmp_path / "flow" / name).unlink()
    report = flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    assert (report.done, report.skipped) == (0, 2)
    os.truncate(tmp_path / "flow/1.mp4.flow.npz", 500)
    with pytest.raises(RuntimeError, match="1.mp4.flow.npz is not a flow file|did not make it"):
        (tmp_path / "flow/.made.jsonl").unlink()
        flow_store.extract(data, tmp_path / "flow", "dis", progress=False)


def test_a_file_of_other_settings_is_not_read(data, tmp_path):
    flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    flow_store.extract(data, tmp_path / "other", "dis", bound=5.0, progress=False)
    os.replace(tmp_path / "other/0.mp4.flow.npz", tmp_path / "flow/0.mp4.flow.npz")
    with pytest.raises(FlowError, match="made with other settings than .*flow.json says"):
        flow_store.load(tmp_path / "flow", "0.mp4")
    report = flow_store.extract(data, tmp_path / "flow", "dis", progress=False)
    assert (report.done, report.skipped, report.remade) in ((1, 1, 0), (1, 1, 1))
    assert estimate.dequantize(flow_store.load(tmp_path / "flow", "0.mp4")).any()
