"""What notebook 20 shows and compares, on videos and on images."""

from dataclasses import replace

import numpy as np
import pytest

from tests import copied
from tests.view.test_scores import FOUND
from vidbench.data.sets import catalogue
from vidbench.experiments import regularized
from vidbench.experiments.rms import with_arm
from vidbench.methods.classify import PRESETS
from vidbench.tensors.mixing import Mixing


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return catalogue.prepare_dataset(tmp_path_factory.mktemp("runs"), "digits")


def test_digits_are_images_seen_whole_and_never_mirrored(digits):
    place, manifest = digits
    assert regularized.of_images(manifest)
    base = regularized.base_recipe(place, manifest, "", 3, {"dropout": 0.5})
    assert (base.fit.epochs, base.fit.batch, base.dropout) == (3, 16, 0.5)
    assert base.clip.augment.flip == 0.0 and base.stream == "rgb"
    assert [*regularized.views_of(manifest, base)] == ["whole image"]
    shown = regularized.mixed_clips(manifest.select(split="train"), base)
    assert len(shown) == 4 and shown[0][0].dtype == np.uint8 and "%" in shown[0][1]


def test_the_tiny_world_is_seen_in_flow(toy_tiny, toy_flow, tmp_path):
    copied(toy_tiny.root, tmp_path / "tiny" / "videos")
    copied(toy_flow, tmp_path / "tiny" / "flow")
    base = regularized.base_recipe(tmp_path / "tiny", toy_tiny, "", 0, {})
    assert base.stream == "flow" and not regularized.of_images(toy_tiny)
    assert [*regularized.views_of(toy_tiny, base)] == ["one view", "30 views"]
    rows = regularized.sites(with_arm(base, "rms"), toy_tiny.classes)
    words = [row["at the end of its branch"] for row in rows]
    assert words[0] == "nothing" and "nothing" not in words[-1]
    assert {
        row["at the end of its branch"]
        for row in regularized.sites(with_arm(base, "baseline"), toy_tiny.classes)
    } == {"nothing"}
    with pytest.raises(ValueError, match="preset must be one of .*got 'rms'"):
        regularized.base_recipe(tmp_path / "tiny", toy_tiny, "rms", 0, {})


def test_rivals_have_the_other_settings_of_their_sources():
    """RMS's supplement, D: half of ShakeDrop's beta; the CutMix code on ImageNet: every batch."""
    base = PRESETS["rms_imagenet"]
    half, always = (regularized.with_arm(base, arm) for arm in ("shake-drop-half", "cutmix-always"))
    assert half.mixing is None and half.regularizer.beta == (0.5, 1.0)
    assert always.regularizer is None and always.mixing == Mixing("cutmix", p=1.0)
    usual = regularized.with_arm(base, "cutmix")
    assert usual == with_arm(base, "cutmix") and usual.mixing.p == 0.5
    assert "beta (0.5, 1.0)" in regularized.sites(half, ("a", "b"))[0]["at the end of its branch"]
    with pytest.raises(ValueError, match="arm must be one of .*shake-drop-half.*got 'shake'"):
        regularized.with_arm(base, "shake")


def test_a_run_is_tested_by_each_view_and_compared_video_by_video(classifier, toy_three, tmp_path):
    from vidbench.data.manifest import Manifest

    folder = copied(classifier[0], tmp_path / "one")
    views = {"one view": regularized.VIEWS["one view"]}
    found = regularized.tested({"one": folder}, Manifest.load(toy_three), views)
    assert [*found] == [("one", "one view")] and "top-1" in found["one", "one view"].numbers
    gaps = regularized.paired(FOUND, "rms", "baseline")
    assert gaps["one view"][0] == pytest.approx(0.5)
    same = {("a", "x"): FOUND["rms", "one view"], ("b", "x"): replace(FOUND["rms", "one view"])}
    assert regularized.paired(same, "a", "b") == {"x": (0.0, 0.0, 0.0)}
