"""CIFAR-100's pickles: exactly what the official archives contain is read, by code of our own."""

import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vidbench.data.sets.catalogue import open_dataset
from vidbench.data.sets.images import CIFAR100


def archive(root: Path, train: bytes, names=CIFAR100) -> Path:
    """cifar-100-python with one picture in test, and these bytes as train."""
    place = root / "cifar-100-python"
    place.mkdir()
    (place / "meta").write_bytes(pickle.dumps({"fine_label_names": list(names)}, protocol=2))
    one = {"fine_labels": [3], "data": np.zeros((1, 3072), np.uint8)}
    (place / "test").write_bytes(pickle.dumps(one, protocol=2))
    (place / "train").write_bytes(train)
    return root


def batch(**values) -> bytes:
    whole = {"fine_labels": [0, 1], "data": np.full((2, 3072), 7, np.uint8)}
    return pickle.dumps(whole | values, protocol=2)


def array(kind: bytes, state: bytes) -> bytes:
    """A pickle of numpy's own form with a dtype and a state of the attacker's choice."""
    return (
        b"\x80\x02}(X\x0b\x00\x00\x00fine_labelsq\x00]K\x00aX\x04\x00\x00\x00data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + state + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )


def test_python_2_wrote_the_official_files_like_this(tmp_path):
    pixels = bytes(range(256)) * 12
    text = b"T" + len(pixels).to_bytes(4, "little") + pixels
    train = array(b"U\x02u1", b"K\x01M\x00\x0c\x86") + b"\x89" + text + b"tbu."
    manifest = open_dataset("cifar100", archive(tmp_path, train))
    assert len(manifest) == 2 and manifest.absolute(1).is_file()


def test_an_array_of_pointers_is_refused(tmp_path):
    """numpy would take the bytes for the addresses of objects."""
    text = b"T" + (3072 * 8).to_bytes(4, "little") + b"A" * 3072 * 8
    train = array(b"U\x02O8", b"K\x01M\x00\x0c\x86") + b"\x89" + text + b"tbu."
    with pytest.raises(ValueError, match=r"not a CIFAR-100 pickle .*uint8 \(u1\), got 'O8'"):
        open_dataset("cifar100", archive(tmp_path, train))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"data": np.zeros((2, 3072), np.float32)}, "must be of uint8"),
        ({"data": np.zeros((2, 3072), np.uint8, order="F")}, "row by row"),
        ({"data": np.zeros((3, 2048), np.uint8)}, r"shape \(pictures, 3072\), got \(3, 2048\)"),
        ({"data": np.array([{}, []], object)}, "uint8"),
        ({"data": [1, 2]}, "wanted an array `data`"),
        ({"data": None}, "wanted an array `data`"),
        ({"fine_labels": [0]}, "1 labels for 2 pictures in train"),
        ({"fine_labels": [0, 100]}, "a label must be a number in 0..99, got 100"),
        ({"fine_labels": [0, -1]}, "got -1"),
        ({"fine_labels": [0, "apple"]}, "got 'apple'"),
        ({"more": Path("x")}, "it asks for"),
    ],
)
def test_other_contents_are_refused(tmp_path, values, said):
    with pytest.raises(ValueError, match=said):
        open_dataset("cifar100", archive(tmp_path, batch(**values)))


@pytest.mark.parametrize(
    "train",
    [b"", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02]q\x00.", batch()[:-900], b"\x80\x63garbage"],
)
def test_damaged_and_hostile_files_are_one_kind_of_error(tmp_path, train):
    with pytest.raises(ValueError, match="cifar-100-python"):
        open_dataset("cifar100", archive(tmp_path, train))


def test_a_length_that_does_not_fit_the_shape_is_refused(tmp_path):
    train = array(b"U\x02u1", b"M\x00\x0cM\x00\x0c\x86") + b"\x89U\x04abcdtbu."
    with pytest.raises(ValueError, match="shape"):
        open_dataset("cifar100", archive(tmp_path, train))


@pytest.mark.parametrize("content", ["nothing", "no tar", "cut", "a link"])
def test_a_bad_archive_is_named(tmp_path, content):
    place = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(place, "w:gz") as tar:
        if content in ("cut", "a link"):
            link = tarfile.TarInfo("cifar-100-python/meta")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(link)
    if content == "no tar":
        place.write_bytes(b"<html>not found</html>")
    if content == "cut":
        place.write_bytes(place.read_bytes()[:60])
    with pytest.raises(ValueError, match="cifar-100-python.tar.gz: cannot read meta"):
        open_dataset("cifar100", tmp_path)


def test_a_short_file_takes_no_memory_for_objects_that_it_does_not_have(tmp_path):
    """The number of an object: pickle in C makes room for twice as many."""
    train = b"\x80\x02}r" + (1 << 24).to_bytes(4, "little") + b"."
    root = archive(tmp_path, train)
    tracemalloc.start()
    with pytest.raises(ValueError, match="wanted an array `data`"):
        open_dataset("cifar100", root)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6
