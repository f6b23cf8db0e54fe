"""Clip settings: each has its range, checked when they are made; windows of training views."""

from dataclasses import replace

import pytest
import torch

from vidbench.data.loading.augmentation import Augment
from vidbench.data.loading.dataset import Clips, ClipSpec


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("frames", 0, "at least 1; got 0"),
        ("stride", True, "a whole number; got True"),
        ("resize", 0, "at least 1; got 0"),
        ("resize", -1, "at least 1; got -1"),
        ("decode_size", 0, "at least 1; got 0"),
        ("decode_size", (48, 0), r"at least 1; got \(48, 0\)"),
        ("target_fps", float("inf"), "a finite number; got inf"),
        ("augment", 3, "of Augment; got 3"),
        ("pad", "x", "one of "),
    ],
)
def test_a_setting_outside_its_range_is_named(name, value, says):
    with pytest.raises(ValueError, match=f"^clip: {name} must be {says}"):
        ClipSpec(**{name: value})


def test_sizes_that_fit_pass():
    assert ClipSpec(decode_size=(48, 64), resize=50).decode_size == (48, 64)
    assert ClipSpec(decode_size=48).resize is None


@pytest.mark.parametrize("sampling", ["random", "random_segments"])
def test_views_of_one_window_show_the_same_frames(toy_tiny, sampling):
    still = Augment(size=32, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, strong=0.0)
    spec = ClipSpec(frames=4, views=2, sampling=sampling, augment=still)
    one, two = Clips(toy_tiny, replace(spec, one_window=True)), Clips(toy_tiny, spec)
    for epoch in range(3):
        first, second = one[epoch, 0]["rgb"]
        assert torch.equal(first, second)
    assert not all(torch.equal(*two[epoch, 0]["rgb"]) for epoch in range(3))
