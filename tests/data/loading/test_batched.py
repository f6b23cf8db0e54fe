"""Augmentation in two places: the pictures are the worker's, to the bounds that batched.py states;
what travels; whole trainings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.batches import on_device
from tests.data.loading.test_transforms import levels, moving_clip
from vidbench.data.loading import batched
from vidbench.data.loading.augmentation import PRESETS, View
from vidbench.data.loading.batched import finish
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.loading.transforms import apply
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.methods import classify, coclr, multitrain
from vidbench.models import build

CPU = torch.device("cpu")
PLAIN = View((120, 160), (10, 20, 80, 90))
JITTER = {"brightness": 1.37, "contrast": 0.63, "saturation": 1.24, "hue": -0.07}
EXACT, LEVEL = (1e-3, 1e-3), (0.15, 1.001)  # levels: mean, largest
BOUNDS = {
    "crop": ({}, EXACT),
    "flip": ({"flip": True}, EXACT),
    "lighting": ({"lighting": (0.5, -0.2, 0.1)}, EXACT),
    "channel": ({"gray": "channel", "channels": (0, 1, 2, 0, 1, 2)}, EXACT),
    "erase": ({"erase": (3, 4, 20, 30), "seed": 5}, EXACT),
    "randaugment": ({"operations": (("equalize", 0.0), ("rotate", 20.0)), "flip": True}, EXACT),
    "luma": ({"gray": "luma"}, LEVEL),
    **{
        name: ({"order": (name,), name: JITTER[name]}, LEVEL)
        for name in ("brightness", "contrast", "saturation")
    },
    "narrow blur": ({"sigma": 0.4}, LEVEL),
    "wide blur": ({"sigma": 1.9}, LEVEL),
    "hue": ({"order": ("hue",), "hue": -0.07}, (0.3, 5.001)),
    "chain": ({"order": tuple(reversed(JITTER)), **JITTER, "sigma": 1.3}, (0.3, 8.0)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_each_operation_shows_the_workers_picture(name):
    changes, (mean, most) = BOUNDS[name]
    view, augment = replace(PLAIN, **changes), replace(PRESETS["vidbench"], size=64)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 120, 160, 3), dtype=np.uint8)
    for clip in (moving_clip(), torch.from_numpy(noise).permute(0, 3, 1, 2)):
        alone, got = apply(clip, view, augment), on_device([(clip, view)], augment)[0]
        far = np.abs(levels(alone, augment) - levels(got, augment))
        assert far.mean() <= mean and far.max() <= most


def loader_of(method: str, where: str, world: tuple):
    """A method's loader with this `augment_on`: two streams, several data sets, or one view."""
    toy_tiny, toy_flow, toy_three, recipe = world
    fit = replace(recipe.fit, augment_on=where)
    if method == "classify":
        alone = replace(recipe, fit=fit)
        return classify.loader(alone, classify.rows_of(alone)[0])
    if method == "coclr":
        tiny = replace(coclr.PRESETS["tiny"].alone, positives="mined", topk=2)
        place = {"manifest": str(toy_tiny.root), "flow": str(toy_flow)}
        return coclr.loader(replace(tiny, fit=replace(fit, batch=16), **place))
    augment = replace(recipe.clip.augment, randaugment=2, erase=0.5, lighting=0.1)
    joint = multitrain.Recipe(
        parts=tuple(multitrain.Part(name, str(toy_three)) for name in ("one", "two")),
        clip=replace(recipe.clip, augment=augment, views=2),
        fit=fit,
    )
    return multitrain.loader(joint, multitrain.rows_of(joint)[0])


@pytest.mark.parametrize("method", ["classify", "coclr", "multitrain"])
def test_batches_are_the_workers_in_a_quarter_of_the_bytes(
    method, toy_tiny, toy_flow, toy_three, classifier, monkeypatch
):
    world = toy_tiny, toy_flow, toy_three, classifier[1]
    wanted, sent = (next(iter(loader_of(method, w, world))) for w in ("workers", "device"))
    streams = [stream for stream in ("rgb", "flow") if stream in wanted]
    assert len(streams) == (2 if method == "coclr" else 1)
    for stream in streams:
        assert sent[stream].dtype == torch.uint8
        assert sent[stream].nbytes * 4 == wanted[stream].nbytes
    made = finish(sent, CPU)
    assert made.keys() == wanted.keys()
    for key, value in wanted.items():
        assert made[key].shape == value.shape and made[key].dtype == value.dtype
        if key in streams:
            assert (made[key] - value).abs().mean() * 255 * 0.226 <= 0.3
        else:
            assert torch.equal(made[key], value), key
    monkeypatch.setattr(batched, "AT_ONCE", 1)
    for key, value in finish(sent, CPU).items():
        torch.testing.assert_close(value, made[key], rtol=0, atol=1e-5)


def test_a_run_learns_the_same_and_another_place_is_refused(classifier, tmp_path):
    folder, recipe = classifier
    on_card = replace(recipe, fit=replace(recipe.fit, augment_on="device"))
    classify.train(recipe_dict(on_card), str(tmp_path / "run"), "none")
    # the first epoch: at this rate batch norm makes more of the difference with every step
    losses = [np.array(Run(one).curves()["loss"][:3]) for one in (folder, tmp_path / "run")]
    assert 0 < np.abs(losses[0] - losses[1]).max() < 5e-3
    with pytest.raises(RunError, match="fit.augment_on is 'device' there, 'workers' here"):
        classify.train(recipe_dict(recipe), str(tmp_path / "run"), "none")


def test_fixed_views_are_refused(classifier, tmp_path):
    recipe = replace(
        classifier[1],
        clip=replace(classifier[1].clip, sampling="spread"),
        fit=replace(classifier[1].fit, augment_on="device"),
    )
    with pytest.raises(ValueError, match="got sampling='spread'. Set augment_on='workers'"):
        classify.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    assert not (tmp_path / "run").exists()


def test_test_views_are_whole_either_way(toy_tiny):
    spec = ClipSpec(frames=4, sampling="spread", windows=1, augment=PRESETS["toy"])
    one, other = (Clips(toy_tiny, spec, packed=packed)[0, 0] for packed in (False, True))
    assert torch.equal(one["rgb"], other["rgb"])


def test_differences_of_frames_want_whole_values():
    assert build("s3d").half_input and not build("difference").half_input


@pytest.mark.slow
def test_workers_and_ranks_change_nothing(classifier, tmp_path):
    """The frozen backbone has no batch norm in training, so that ranks are no part of the run."""
    folder, recipe = classifier
    fit = replace(recipe.fit, augment_on="device", epochs=1, lr=1.0)
    recipe = replace(recipe, freeze=True, init=str(folder), fit=fit)
    classify.train(recipe_dict(recipe), str(tmp_path / "one"), "none")
    other = recipe_dict(replace(recipe, fit=replace(fit, workers=1)))
    train = "vidbench.methods.classify:train"
    ranks.launch(train, other, str(tmp_path / "two"), "none", nproc=2)
    one, two = (Run(tmp_path / name).weights() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-5)
