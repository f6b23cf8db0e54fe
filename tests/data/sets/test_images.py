"""The digits that come with scikit-learn: as many as there are, the same each time, whole or not
there."""

import numpy as np
import pytest
from PIL import Image

from vidbench.data.manifest import Manifest
from vidbench.data.sets import images
from vidbench.data.sets.catalogue import prepare_dataset
from vidbench.data.video import clips


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder they were written to, and their manifest."""
    return prepare_dataset(tmp_path_factory.mktemp("runs_dir"), "digits")


def test_the_digits_are_all_there_at_their_levels(digits):
    from sklearn.datasets import load_digits

    place, manifest = digits
    found = load_digits()
    assert place.name == "digits" and [p.name for p in place.iterdir()] == ["videos"]
    assert len(manifest) == 1797 and manifest.classes == tuple("0123456789")
    np.testing.assert_array_equal(manifest.label, found.target)
    for row in range(0, 1797, 97):
        pixels = clips.read(manifest.absolute(row)).frames
        assert pixels.shape == (1, 32, 32, 3) and str(manifest.path[row]).endswith(
            f"/{row:04d}.png"
        )
        np.testing.assert_array_equal(
            pixels[0, ::4, ::4, 0] / (255 / 16), pixels[0, 3::4, 3::4, 2] / (255 / 16)
        )
        np.testing.assert_array_equal(
            (pixels[0, 1::4, 1::4, 1] / (255 / 16)).round(), found.images[row]
        )


def test_a_form_is_a_source_and_lies_in_one_split(digits):
    manifest = digits[1]
    train, test = manifest.select(split="train"), manifest.select(split="test")
    assert (len(train), len(test)) == (898, 899) and manifest.held_out() == "test"
    assert len(set(train.source_video)) == len(set(test.source_video)) == 7 and not set(
        train.source_video
    ) & set(test.source_video)
    for part in (train, test):  # about as many of each digit
        assert np.bincount(part.label, minlength=10).min() >= 84
    for start in images.FORMS:  # every form begins with the digits in order
        assert "".join(map(str, manifest.label[start : start + 30])).count("123456") >= 2


def test_the_digits_are_the_same_each_time_and_written_once(digits, tmp_path, monkeypatch):
    place, manifest = digits
    again = images.digits(tmp_path / "videos")
    assert again.fingerprint() == manifest.fingerprint()
    assert (tmp_path / "videos/manifest.csv").read_bytes() == (
        place / "videos/manifest.csv"
    ).read_bytes()
    for row in (0, 900, 1796):
        assert again.absolute(row).read_bytes() == manifest.absolute(row).read_bytes()
    monkeypatch.setattr(Image, "fromarray", None)  # nothing is written a second time
    assert images.digits(tmp_path / "videos").fingerprint() == manifest.fingerprint()
    with pytest.raises(ValueError, match="'digits' has no folds; got fold 2"):
        prepare_dataset(tmp_path, "digits", 2)


def test_an_interrupted_write_leaves_nothing_and_the_next_one_is_whole(tmp_path, monkeypatch):
    whole = Image.fromarray

    def stops(levels):
        stops.left -= 1
        if stops.left < 0:
            raise KeyboardInterrupt
        return whole(levels)

    stops.left = 40
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image, "fromarray", stops)
        images.digits(tmp_path / "videos")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".videos.killed").mkdir()  # what a kill leaves disturbs no later call
    assert len(images.digits(tmp_path / "videos")) == 1797


def test_two_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    save = Manifest.save

    def faster(self, folder):
        monkeypatch.setattr(Manifest, "save", save)
        images.digits(tmp_path / "videos")
        return save(self, folder)

    monkeypatch.setattr(Manifest, "save", faster)
    assert len(images.digits(tmp_path / "videos")) == 1797
    assert [p.name for p in tmp_path.iterdir()] == ["videos"]
