"""Clip settings: each has its range, checked when they are made."""

import pytest

from vidbench.data.loading.dataset import ClipSpec


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
