"""Tables as files for other programs, read back by pandas, pyarrow and numpy."""

import builtins
import json

import numpy as np
import pandas
import pytest
from pyarrow import parquet

from vidbench.data.manifest import Manifest
from vidbench.evaluate.exchange import save_table, to_frame
from vidbench.evaluate.tables import Features, video_numbers

COLUMNS = ["id", "path", "label", "split", "source_video"]


@pytest.fixture
def made(tmp_path) -> tuple[Features, Manifest]:
    rows = [
        ("a,1.mp4", "wave", "train", "long"),
        ('b "2".mp4', None, "test", None),
        ("c/ü.mp4", "bow", "train", "long"),
    ]
    manifest = Manifest.from_rows(tmp_path / "videos", rows)
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    facts = {"rows": manifest.fingerprint(), "stream": "rgb"}
    columns = manifest.label, manifest.source_video, manifest.classes, facts
    return Features(values, *columns, video=video_numbers(manifest)), manifest


def test_a_frame_has_a_row_for_each_video(made):
    table, manifest = made
    frame = to_frame(table, manifest)
    assert list(frame) == [*COLUMNS, "vector"]
    assert frame["id"].tolist() == [0, 1, 2]
    assert frame["path"][1] == str(manifest.absolute(1))
    assert frame["label"].tolist() == ["wave", "", "bow"]
    assert frame["source_video"].tolist() == ["long", 'b "2".mp4', "long"]
    assert np.array_equal(np.stack(frame["vector"]), table.values)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "npz"])
def test_a_file_is_read_back_by_other_programs(made, tmp_path, suffix):
    table, manifest = made
    path = save_table(table, manifest, tmp_path / "out" / f"clips.{suffix}")
    if suffix == "npz":
        with np.load(path, allow_pickle=False) as held:
            frame = pandas.DataFrame(
                {name: held[name].tolist() for name in (*COLUMNS, "x", "y", "vector")}
            )
    elif suffix == "csv":
        frame = pandas.read_csv(path, keep_default_na=False)
        frame["vector"] = frame["vector"].map(json.loads)
    else:
        frame = pandas.read_parquet(path)
        assert json.loads(parquet.read_schema(path).metadata[b"protocol"]) == table.protocol
        assert str(parquet.read_schema(path).field("vector").type.value_type) == "float"
    assert list(frame) == [*COLUMNS, "x", "y", "vector"]
    found = np.stack([np.asarray(one, np.float32) for one in frame["vector"]])
    assert np.array_equal(found, table.values)
    assert frame["path"].tolist() == to_frame(table, manifest)["path"].tolist()
    plane = frame[["x", "y"]].to_numpy(float)
    assert np.isfinite(plane).all() and abs(plane.mean(0)).max() < 1e-6


def test_only_an_own_unchanged_file_is_replaced(made, tmp_path):
    table, manifest = made
    path = save_table(table, manifest, tmp_path / "clips.csv")
    save_table(table, manifest, path)
    path.write_text(path.read_text() + "a note of mine\n")
    with pytest.raises(FileExistsError, match="changed since.*overwrite=True"):
        save_table(table, manifest, path)
    other = tmp_path / "theirs.csv"
    other.write_text("theirs\n")
    with pytest.raises(FileExistsError, match="vidbench did not make it.*overwrite=True"):
        save_table(table, manifest, other)
    assert other.read_text() == "theirs\n"
    save_table(table, manifest, other, overwrite=True)
    assert other.read_text().startswith("id,path")


def test_another_manifest_and_another_suffix_are_refused(made, tmp_path):
    table, manifest = made
    turned = manifest.select(mask=np.array([1, 0, 2]))
    for wrong in (turned, manifest.select(split="train")):
        with pytest.raises(ValueError, match="others or in another order"):
            to_frame(table, wrong)
    with pytest.raises(ValueError, match=r"saved as .parquet, .csv, .npz; got 'clips.xlsx'"):
        save_table(table, manifest, tmp_path / "clips.xlsx")
    assert not any(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(made, tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest, **others):
        if name.partition(".")[0] in ("pandas", "pyarrow"):
            raise ImportError(name)
        return plain(name, *rest, **others)

    monkeypatch.setattr("vidbench.system.extras.importlib.import_module", without)
    for call in (
        lambda: to_frame(*made),
        lambda: save_table(*made, tmp_path / "clips.parquet"),
        lambda: save_table(*made, tmp_path / "clips.csv"),
    ):
        with pytest.raises(ImportError, match="needs the package pandas.*extra 'table'"):
            call()
    assert save_table(*made, tmp_path / "clips.npz").is_file()
