"""A stored table of features is used again only while all that it was made from is unchanged."""

import json
import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import makes
from vidbench.data.flow import store as flow_store
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.prepare.store import store
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import features
from vidbench.evaluate.features import Protocol, load_or_extract
from vidbench.evaluate.tables import Features
from vidbench.methods import classify

CLIP = ClipSpec(frames=2, stride=1, views=1, augment=replace(AUGMENTS["toy"], size=32))
ONE = Protocol(windows=1)


def videos_in(folder, first: int = 0) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        frames = [makes.picture(first + 20 * i + 3 * t) for t in range(4)]
        makes.encode(folder / f"{i}.mp4", frames)
    rows = [(f"{i}.mp4", "ab"[i], "test", f"source {i}") for i in range(2)]
    manifest = Manifest.from_rows(folder, rows, ("a", "b"))
    manifest.save(folder)
    return manifest


def network(seed: int, **changes) -> tuple[classify.Recipe, classify.Classifier]:
    torch.manual_seed(seed)
    arguments = {"width": 0.125, "units": (1, 0, 0)}
    recipe = classify.Recipe(network_args=arguments, clip=CLIP, classes=("a", "b"), **changes)
    return recipe, classify.Classifier(recipe)


def run_in(folder, manifest: Manifest, **changes) -> Run:
    recipe, method = network(0, manifest=str(manifest.root), **changes)
    run = Run.create(folder, "classify", recipe)
    run.save(1, method.state_dict(), {})
    run.status("complete")
    return run


def table(run: Run, **given) -> np.ndarray:
    return load_or_extract(run, "test", ONE, **given).values


@pytest.fixture
def made(tmp_path):
    videos = videos_in(tmp_path / "videos")
    return run_in(tmp_path / "run", videos), videos


@pytest.fixture
def counted(monkeypatch):
    """The calls that compute a table."""
    calls, plain = [], features._table
    monkeypatch.setattr(features, "_table", lambda *given: calls.append(1) or plain(*given))
    return calls


def test_an_unchanged_table_is_read_back(made, counted):
    run, _ = made
    assert np.array_equal(table(run), table(run)) and len(counted) == 1


def test_a_replaced_video_of_equal_length_gives_new_features(made):
    run, videos = made
    before, facts = table(run), videos.absolute(0).stat()
    makes.encode(videos.absolute(0), [makes.picture(90 + 3 * t) for t in range(4)])
    os.utime(videos.absolute(0), ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = table(run)
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_two_stores_of_one_data_set_have_their_own_tables(made, tmp_path, counted):
    run, videos = made
    stored = [
        store(videos, tmp_path / f"store-{size}", "raw", size=size, progress=False).manifest
        for size in (48, 24)
    ]
    assert stored[0].fingerprint() == stored[1].fingerprint()
    one, two = (table(run, manifest=manifest) for manifest in stored)
    assert not np.array_equal(one, two)
    assert np.array_equal(table(run, manifest=stored[0]), one) and len(counted) == 2


def test_another_root_with_the_same_names_has_its_own_table(made, tmp_path):
    run, videos = made
    other = videos_in(tmp_path / "elsewhere", first=50)
    assert other.fingerprint() == videos.fingerprint()
    assert not np.array_equal(table(run), table(run, manifest=other))


def test_flow_made_again_with_another_bound_gives_new_features(tmp_path):
    videos = videos_in(tmp_path / "videos")
    run = run_in(tmp_path / "run", videos, flow=str(tmp_path / "flow"), stream="flow")
    found = []
    for bound in (20.0, 2.0):
        shutil.rmtree(tmp_path / "flow", ignore_errors=True)
        flow_store.extract(videos, tmp_path / "flow", "dis", bound=bound, progress=False)
        found.append(load_or_extract(run, "test", ONE))
    assert not np.array_equal(found[0].values, found[1].values)
    assert [one.protocol["flow"] for one in found] == ["dis", "dis, bound 2"]


def test_a_restored_checkpoint_gives_its_own_features(made, tmp_path):
    run, _ = made
    first = table(run)
    shutil.copytree(run.checkpoint(), tmp_path / "kept")
    run.save(2, network(1)[1].state_dict(), {})
    second = table(run)
    shutil.rmtree(run.checkpoint())
    shutil.copytree(tmp_path / "kept", run.folder / "checkpoints" / "step-000000001")
    assert not np.array_equal(first, second) and np.array_equal(table(run), first)


@pytest.mark.parametrize("name, value", [("decoder", "decord"), ("target_fps", 12.5)])
def test_settings_of_the_extraction_count(made, monkeypatch, name, value):
    run, _ = made
    table(run)
    monkeypatch.setitem(run.values["clip"], name, value)
    calls = []
    monkeypatch.setattr(
        features, "_table", lambda *given: calls.append(1) or np.zeros((2, 3), np.float32)
    )
    table(run)
    assert calls


def test_a_checkpoint_written_meanwhile_is_refused(made, monkeypatch):
    run, _ = made
    plain = features._table

    def trained_meanwhile(*given):
        values = plain(*given)
        run.save(2, network(1)[1].state_dict(), {})
        return values

    monkeypatch.setattr(features, "_table", trained_meanwhile)
    with pytest.raises(RunError, match="another checkpoint while"):
        table(run)
    assert not list((run.folder / "features").glob("*.npz"))


def damaged(path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("no table")
    elif how == "flipped":
        place = data.index(b"NUMPY") + 200
        data[place] ^= 255
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped"])
def test_a_damaged_table_is_made_again_with_one_sentence(made, counted, capsys, how):
    run, _ = made
    before = table(run)
    (path,) = (run.folder / "features").glob("*.npz")
    damaged(path, how)
    assert np.array_equal(table(run), before) and len(counted) == 2
    said = capsys.readouterr().out
    assert str(path) in said and "It is made again now." in said and said.count("\n") == 1


def written(path, **changes) -> None:
    parts = {
        "values": np.eye(2, dtype=np.float32),
        "label": np.array([0, 1]),
        "source_video": np.array([0, 1]),
        "classes": np.array(["a", "b"]),
        "protocol": np.array(json.dumps({})),
        "made_from": np.array(""),
        "video": np.array([7, 8]),
    }
    np.savez(path, **{**parts, **changes})


WRONG = {
    "objects": {"values": np.array([[{}, {}], [{}, {}]], object)},
    "kind": {"label": np.array([0.0, 1.0])},
    "shape": {"values": np.zeros(2, np.float32)},
    "rows": {"label": np.array([0, 1, 1])},
    "label": {"label": np.array([0, 2])},
    "another": {"more": np.zeros(3)},
    "list": {"protocol": np.array("[1]")},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_with_other_arrays_is_refused(tmp_path, name):
    written(tmp_path / "good.npz")
    assert len(Features.load(tmp_path / "good.npz").values) == 2
    written(tmp_path / "bad.npz", **WRONG[name])
    with pytest.raises(ValueError, match=r"bad\.npz is not a whole table of features"):
        Features.load(tmp_path / "bad.npz")


def test_a_header_that_promises_more_than_the_file_has_is_refused_unread(tmp_path):
    written(tmp_path / "good.npz")
    with (
        zipfile.ZipFile(tmp_path / "good.npz") as good,
        zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad,
    ):
        for name in good.namelist():
            data = good.read(name)
            if name == "values.npy":
                assert data.count(b"(2, 2), }        ") == 1
                data = data.replace(b"(2, 2), }        ", b"(2, 200000000), }")
            bad.writestr(name, data)
    with pytest.raises(ValueError, match=r"needs 1600000128 bytes, it has 144"):
        Features.load(tmp_path / "bad.npz")
