"""A net of several data sets tested head by head: against plain loops, on windows or segments,
gains and losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import makes
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.augmentation import draw
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.loading.transforms import test_crops as crops_of
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.evaluate import classified, gained
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol, fitting, predict
from vidbench.evaluate.probe import score
from vidbench.methods import multitrain
from vidbench.methods.common import data_set
from vidbench.methods.multitrain import MultiTrain, Part

CLASSES = {"a": ("bow", "clap", "wave"), "b": ("push left", "push right")}
CLIP = ClipSpec(frames=4, stride=2, views=1, augment=replace(AUGMENTS["toy"], size=32))
RECIPE = multitrain.Recipe(
    network="mvit",
    network_args={"preset": "tiny", "width": 8, "heads": 2, "frames": 4, "size": 32},
    hidden=8,
    expander=(8, 6),
    clip=CLIP,
    fit=Fit(batch=4),
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Data set -> manifest of four short videos of numbered frames, two of them for testing."""
    made = {}
    for name, classes in CLASSES.items():
        folder = tmp_path_factory.mktemp(name)
        for i, frames in enumerate((9, 14, 23, 31)):
            makes.encode(folder / f"{i}.mp4", [makes.picture(60 * i + t) for t in range(frames)])
        rows = [
            (f"{i}.mp4", classes[i % len(classes)], "test" if i % 2 else "train", f"source {i}")
            for i in range(4)
        ]
        made[name] = Manifest.from_rows(folder, rows, classes)
        made[name].save(folder)
    return made


def born(videos, folder, **changes) -> tuple[Run, MultiTrain]:
    """A run of no steps, `b` seen as segments, and its method, whose weights tell clips apart."""
    parts = (
        Part("a", str(videos["a"].root), CLASSES["a"]),
        Part("b", str(videos["b"].root), CLASSES["b"], clip=multitrain.SEGMENTS),
    )
    recipe = replace(RECIPE, parts=parts, **changes)
    torch.manual_seed(0)
    method, run = MultiTrain(recipe).eval(), Run.create(folder, "multitrain", recipe)
    for head in method.heads.values():
        head.fc2.weight.data.normal_()
        head.fc1.weight.data.normal_()
    run.save(1, method.state_dict(), {})
    run.status("complete")
    return run, method


@torch.no_grad()
def by_hand(
    method: MultiTrain, rows: Manifest, name: str, chosen, crops: str, short: int
) -> np.ndarray:
    """softmax of each clip by the data set's head, then the mean over windows and crops."""
    found = []
    for row in range(len(rows)):
        frames = torch.from_numpy(clips.read(rows.absolute(row)).frames).permute(0, 3, 1, 2)
        each = []
        for window in chosen(len(frames)):
            for view in crops_of(frames[window], crops, 32, short, "rgb", CLIP.augment):
                feature = method.encoder(view[None]).mean(dim=(2, 3, 4))
                each.append(method.heads[name](feature).softmax(dim=1)[0])
        found.append(torch.stack(each).mean(dim=0).numpy())
    return np.stack(found)


def test_each_head_is_tested_on_its_own_data_set_as_its_clips_are_seen(videos, tmp_path, capsys):
    run, method = born(videos, tmp_path / "run")
    spread = by_hand(
        method,
        videos["a"].select(split="test"),
        "a",
        lambda n: windows.spread_windows(n, 4, 3, 2),
        "three",
        round(32 * 256 / 224),
    )
    middles = by_hand(
        method,
        videos["b"].select(split="test"),
        "b",
        lambda n: windows.uniform_segments(n, 4)[None],
        "three",
        round(32 * 256 / 224),
    )
    assert np.ptp(spread, axis=0).max() > 0.01 and np.ptp(middles, axis=0).max() > 0.01
    for name, wanted in (("a", spread), ("b", middles)):
        found = classified(run.folder, "test", {"3 x 3": PROTOCOLS["multitrain"]}, data=name)[
            "3 x 3"
        ]
        np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
        assert found.protocol["data"] == name
    said = capsys.readouterr().out
    assert "run, a test, 3 x 3 (3 windows x 3 crops): top-1" in said
    assert "run, b test, 3 x 3 (1 windows x 3 crops): top-1" in said
    load_or_extract = {one.protocol["data"]: one.protocol for one in run.results().values()}
    assert (
        load_or_extract["a"]["sampling"],
        load_or_extract["b"]["sampling"],
        load_or_extract["b"]["windows"],
    ) == (
        "spread",
        "segments",
        1,
    )


def test_segments_rise_cover_the_video_and_are_never_flipped(videos, tmp_path):
    """Something-Something's way (facts 2.7), in training and in testing."""
    run, _ = born(videos, tmp_path / "run")
    assert fitting(PROTOCOLS["multitrain"], data_set(run, "b")).sampling == "segments"
    assert fitting(PROTOCOLS["multitrain"], data_set(run, "a")).sampling == "spread"
    recipe = run.recipe
    part, rng = recipe.parts[1], np.random.default_rng(0)
    loaded = Clips(videos["b"], multitrain.spec_of(recipe, part))
    for length in (3, 9, 31, 200):
        draws = np.stack([loaded._windows(length, 1, rng)[0] for _ in range(300)])
        assert (np.diff(draws, axis=1) >= 0).all()
        if length > 4:  # first and last segment reach the ends
            assert draws.min() == 0 and draws.max() == length - 1
    kinds = {part.name: multitrain.spec_of(recipe, part).augment for part in recipe.parts}
    flips = {
        name: sum(draw(augment, 48, 108, 4, rng).flip for _ in range(200))
        for name, augment in kinds.items()
    }
    assert flips["b"] == 0 and 60 < flips["a"] < 140


def test_maps_and_expander_do_not_count_in_a_test(videos, tmp_path):
    run, method = born(videos, tmp_path / "whole")
    plain, _ = born(videos, tmp_path / "plain", projection=0.0, informative=0.0)
    heads = {
        name: value
        for name, value in method.state_dict().items()
        if name.startswith(("encoder.", "heads."))
    }
    plain.save(2, heads, {})
    rows = videos["a"].select(split="test")
    left, right = (predict(one, rows, Protocol(windows=2), data="a").values for one in (run, plain))
    assert np.array_equal(left, right)


def test_a_head_of_other_classes_is_refused(videos, tmp_path):
    run, _ = born(videos, tmp_path / "run")
    with pytest.raises(
        RunError, match=r"tells 3 classes .*; the manifest has 2 classes \(push left"
    ):
        predict(run, videos["b"], data="a")
    turned = replace(videos["a"], classes=CLASSES["a"][::-1])
    with pytest.raises(RunError, match="in another order. Its scores would be of other classes"):
        predict(run, turned, data="a")
    for data in ("", "c"):
        with pytest.raises(RunError, match=f"was trained on a, b; got data='{data}'"):
            predict(run, videos["a"], data=data)


def predictions(right: list[bool], rows: str = "x") -> dict:
    values = np.array([[1.0, 0.0] if one else [0.0, 1.0] for one in right], np.float32)
    table = Features(
        values, np.zeros(len(right), np.int64), np.arange(len(right)), ("u", "v"), {"rows": rows}
    )
    return score(table)


def test_gains_and_losses_stand_for_each_data_set_before_their_mean():
    together = {
        "a": predictions([True, True, True, False]),
        "b": predictions([False, False, True, False]),
    }
    apart = {
        "a": predictions([True, False, False, False]),
        "b": predictions([True, True, True, False]),
    }
    rows = gained(together, apart)
    assert [(row.data, row.videos, row.alone, row.together) for row in rows] == [
        ("a", 4, 0.25, 0.75),
        ("b", 4, 0.75, 0.25),
        ("mean of these", 8, 0.5, 0.5),
    ]
    assert rows[0].gain[0] == 0.5 and rows[1].gain[0] == -0.5 and rows[2].gain == 0
    assert rows[0].gain[1] < 0.5 < rows[0].gain[2]
    with pytest.raises(ValueError, match="same videos of b"):
        gained(together, {**apart, "b": predictions([True], rows="y")})


def test_what_training_from_images_costs_is_the_supplements():
    """34 % and 92 % more than 200 epochs from scratch (supplement, 2.3)."""
    assert multitrain.cost(100, 300, 1800, 3200, scratch=200) == pytest.approx(1.344, abs=5e-4)
    assert multitrain.cost(75, 90, 11000, 3200, scratch=200) == pytest.approx(1.922, abs=5e-4)
    assert multitrain.cost(200, 0, 0, 3200, scratch=200) == 1
