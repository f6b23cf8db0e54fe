"""Files that do not fit on the disk: one line that says what to do, and nothing half written.

A limit of this process on the size of a file stands for a disk that is too small: the system then
refuses each write beyond it, in Python, in faiss's C++ and in safetensors' Rust."""

import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.evaluate import indexes
from vidbench.system.files import DiskError, written
from vidbench.view.html import Section, write_page

ROOM = 4096  # bytes of a file


@contextmanager
def little_room():
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def listed(rows: int) -> Manifest:
    return Manifest.from_rows(
        "/data", [(f"run/{i}.mp4", f"run{i}", "train", None) for i in range(rows)]
    )


def page(place: Path) -> None:
    write_page(place / "page.html", "page", [Section("heading", ["x" * ROOM])])


def manifest(place: Path) -> None:
    listed(ROOM // 10).save(place)


def index(kind: str):
    rows = np.eye(64, dtype=np.float32)
    return lambda place: indexes.build(rows, kind).save(place / "rows.faiss")


def weights(place: Path) -> None:
    from safetensors.numpy import save_file

    with written(place / "weights.safetensors") as temporary:
        save_file({"weight": np.zeros(ROOM)}, temporary)


@pytest.mark.parametrize(
    "save",
    [page, manifest, index("flat"), index("hnsw"), weights],
    ids=lambda save: save.__qualname__,
)
def test_what_does_not_fit_is_explained_and_leaves_nothing(tmp_path, save):
    place = tmp_path / "new"
    with little_room(), pytest.raises(DiskError) as caught:
        save(place)
    said = str(caught.value)
    assert f"the disk of {place}" in said and said.endswith("run the same again")
    assert ".cpp" not in said and "\n" not in said
    assert list(place.iterdir()) == []


def test_a_manifest_that_does_not_fit_leaves_the_old_one_whole(tmp_path):
    listed(3).save(tmp_path)
    with little_room(), pytest.raises(DiskError):
        listed(ROOM // 10).save(tmp_path)
    kept = Manifest.load(tmp_path)
    assert len(kept) == 3 and kept.classes == ("run0", "run1", "run2")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "classes.txt",
        "manifest.csv",
        "root.txt",
    ]


def test_an_index_that_cannot_be_written_says_so_without_lines_of_cpp(tmp_path):
    (tmp_path / "rows.faiss").mkdir()
    one = indexes.build(np.eye(4, dtype=np.float32), "flat")
    with pytest.raises(OSError) as caught:
        indexes._write(one.held, tmp_path / "rows.faiss")
    assert "faiss could not write the index: " in str(caught.value)
    assert ".cpp" not in str(caught.value)
