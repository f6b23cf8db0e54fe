"""Recipes are checked at the door, whatever the method."""

import dataclasses
import math
import typing
from dataclasses import fields, replace
from numbers import Real

import pytest
from torch.utils.data import DataLoader

from vidbench.engine.loop import Fit
from vidbench.engine.runs import RunError, recipe_dict, recipe_from
from vidbench.methods import classify, coclr, common, multitrain
from vidbench.system.ranges import Range

RECIPES = {
    "coclr": coclr.PRESETS["tiny"].alone,
    "classify": classify.PRESETS["tiny"],
    "multitrain": multitrain.PRESETS["tiny"],
}
NUMBERS = [
    (name, field.name)
    for name, recipe in RECIPES.items()
    for field in fields(recipe)
    if isinstance(getattr(recipe, field.name), Real)
    and not isinstance(getattr(recipe, field.name), bool)
]
OF_FIT = [
    field.name
    for field in fields(Fit)
    if isinstance(getattr(Fit(), field.name), Real)
    and not isinstance(getattr(Fit(), field.name), bool)
]


def range_of(cls: type, name: str) -> Range:
    hint = typing.get_type_hints(cls, include_extras=True)[name]
    return typing.get_args(hint)[1]


@pytest.mark.parametrize(("method", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "1", None])
def test_every_number_of_a_recipe_has_a_range(method, name, value):
    assert isinstance(range_of(type(RECIPES[method]), name), Range)
    with pytest.raises(ValueError, match=f"^recipe of {method}: {name} must be .*; got {value!r}"):
        replace(RECIPES[method], **{name: value})


@pytest.mark.parametrize("name", OF_FIT)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "1", None])
def test_every_number_of_a_fit_has_a_range(name, value):
    assert isinstance(range_of(Fit, name), Range)
    with pytest.raises(ValueError, match=f"^Fit: {name} must be .*; got {value!r}"):
        Fit(**{name: value})


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"accumulate": 0},
        {"save_every": 0},
        {"log_every": 0},
        {"validate_every": 0},
        {"gamma": 1.5},
        {"precision": "fp8"},
        {"optimizer": "lamb"},
        {"schedule": "cosin"},
        {"milestones": (3, -1)},
        {"deterministic": 1},
    ],
)
def test_a_fit_that_cannot_train_is_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"^Fit: {name} must be "):
        Fit(**change)
    with pytest.raises(ValueError, match=f"{name} must be "):
        recipe_from(Fit, recipe_dict(Fit()) | change)


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("coclr", {"temperature": 0}),
        ("coclr", {"dim": 0}),
        ("coclr", {"queue": 0}),
        ("coclr", {"key_groups": 0}),
        ("coclr", {"momentum": 1.1}),
        ("coclr", {"drop_own_key": 2}),
        ("coclr", {"held_out": 1}),
        ("classify", {"dropout": 1}),
        ("classify", {"label_smoothing": 1}),
        ("multitrain", {"expander": (64, 0)}),
        ("multitrain", {"hidden": 0}),
        ("multitrain", {"dropout": 1}),
    ],
)
def test_a_recipe_that_cannot_learn_is_refused(method, change):
    (name,) = change
    with pytest.raises(ValueError, match=f"^recipe of {method}: {name} must be .*; got "):
        replace(RECIPES[method], **change)


@pytest.mark.parametrize("method", RECIPES)
def test_numbers_deep_in_a_recipe_are_finite(method):
    recipe = RECIPES[method]
    augment = replace(recipe.clip.augment, lighting=math.nan)
    with pytest.raises(
        ValueError, match=r"clip: augment.lighting must be a finite number; got nan"
    ):
        replace(recipe, clip=replace(recipe.clip, augment=augment))
    with pytest.raises(ValueError, match=r"network_args\['width'\] must be a finite number"):
        replace(recipe, network_args={"width": math.inf})


def test_a_part_of_a_joint_training_is_checked():
    part = multitrain.Part("a", "videos")
    for change, says in (
        ({"weight": 0}, "parts.weight must be above 0; got 0"),
        ({"clip": multitrain.ClipChange(stride=0)}, "parts.clip.stride must be at least 1; got 0"),
        ({"clip": multitrain.ClipChange(flip=2)}, "parts.clip.flip must be at least 0 and at most"),
    ):
        with pytest.raises(ValueError, match=says):
            replace(RECIPES["multitrain"], parts=(replace(part, **change),))


def test_all_presets_are_within_their_ranges():
    presets = [p for m in (classify, multitrain) for p in m.PRESETS.values()]
    presets += [p for pair in coclr.PRESETS.values() for p in (pair.alone, pair.together)]
    for preset in presets:
        assert dataclasses.replace(preset) == preset
        assert recipe_from(type(preset), recipe_dict(preset)) == preset


def test_topk_needs_a_larger_queue_only_where_positives_are_mined():
    recipe = replace(RECIPES["coclr"], queue=16, topk=5, fit=replace(Fit(), batch=4))
    assert replace(recipe, queue=4).queue == 4
    with pytest.raises(ValueError, match="topk must be below the queue's 4 slots; got 5"):
        replace(recipe, queue=4, positives="mined")


def test_a_budget_that_never_fills_the_queue_is_refused():
    recipe = replace(RECIPES["coclr"], queue=64, fit=Fit(epochs=2, batch=16))
    with pytest.raises(ValueError, match=r"2 epochs of 16 clips must fill the queue of 64 slots"):
        coclr.check_budget(recipe, 31)
    coclr.check_budget(recipe, 32)
    coclr.check_budget(replace(recipe, fit=Fit(epochs=0, batch=16)), 31)  # the network as it is


def test_a_queue_larger_than_the_data_set_gets_a_warning():
    recipe = replace(RECIPES["coclr"], queue=64)
    (said,) = coclr.warnings_of(recipe, 63)
    assert "own older views" in said and "64 slots exceed the 63 training videos" in said
    assert not coclr.warnings_of(recipe, 64)
    assert not coclr.warnings_of(replace(recipe, siblings="ignore"), 63)


def test_a_stored_recipe_outside_the_ranges_names_its_run(tmp_path):
    from vidbench.engine.runs import Run

    recipe = recipe_dict(RECIPES["coclr"])
    run = Run.create(tmp_path / "a", "coclr", RECIPES["coclr"])
    run.values = recipe | {"temperature": 0}
    with pytest.raises(RunError, match=r"a/recipe.json: .*temperature must be above 0; got 0"):
        _ = run.recipe


def test_a_network_that_is_refused_leaves_no_run_behind(tmp_path):
    recipe = replace(RECIPES["coclr"], network="no such network")
    with pytest.raises(ValueError, match="models.build needs one of"):
        common.train(recipe, str(tmp_path / "run"), {}, coclr.CoCLR, DataLoader([]))
    assert not (tmp_path / "run").exists()
