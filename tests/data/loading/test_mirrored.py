"""Classes that a horizontal flip exchanges, and the warning of every method."""

from types import SimpleNamespace

import pytest
from torch import nn

from vidbench.data.loading.augmentation import Augment
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.loading.mirrored import flip_warning, mirrored_classes
from vidbench.data.manifest import Manifest
from vidbench.engine.loop import Fit
from vidbench.methods import common


@pytest.mark.parametrize(
    "one, other",
    [
        ("Pushing [something] from left to right", "Pushing [something] from right to left"),
        ("swipe_left", "swipe_right"),
        ("Swiping-Left", "Swiping-Right"),
        ("TurnLeft", "TurnRight"),
        ("left-handed wave", "right-handed wave"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
        ("spin clockwise", "spin anti-clockwise"),
    ],
)
def test_pairs_of_classes_that_a_flip_exchanges(one, other):
    assert mirrored_classes(["yoga", other, one]) in ([(one, other)], [(other, one)])


def test_classes_without_a_twin_are_no_pair():
    assert mirrored_classes(["left hook", "right of way", "turn left", "bright", "Turn Left"]) == []


def test_the_warning_names_the_classes_and_the_way_out():
    classes = [f"{side} {i}" for side in ("left", "right") for i in range(4)]
    (line,) = flip_warning("ssv2", classes, Augment())
    for part in ("classes of ssv2", "'left 0' and 'right 0'", "1 more pairs", "flip=0.0"):
        assert part in line
    assert flip_warning("ssv2", classes, Augment(flip=0.0)) == []


@pytest.mark.parametrize("flip", [0.5, 0.0])
def test_every_training_on_one_data_set_warns(tmp_path, capsys, monkeypatch, flip):
    """`common.train` looks at the clips, so CoCLR, classify and a method to come are covered."""
    rows = Manifest.from_rows(
        tmp_path, [(f"{name}.mp4", name, "train", None) for name in ("turn left", "turn right")]
    )
    clips = Clips(rows, ClipSpec(augment=Augment(flip=flip)))
    run = SimpleNamespace(
        check_rows=lambda rows: None, checkpoint=lambda: None, folder=tmp_path / "run"
    )
    monkeypatch.setattr(common.Run, "create", lambda *arguments: run)
    monkeypatch.setattr(common, "fit", lambda *arguments: None)
    recipe = SimpleNamespace(
        method="classify",
        home="vidbench.methods.classify",
        network="s3d",
        fit=Fit(),
    )
    batches = SimpleNamespace(dataset=clips)
    common.train(recipe, str(tmp_path / "run"), {}, lambda recipe: nn.Identity(), batches)
    assert ("'turn left' and 'turn right'" in capsys.readouterr().out) == (flip > 0)
