"""MultiTrain: its losses against the paper's formulas as plain loops, who gets a gradient, mixing across data sets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vidbench.data.loading import ClipSpec
from vidbench.data.views import SETTINGS
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.methods import multitrain
from vidbench.methods.multitrain import RELEASED_CLASSES, MultiTrain, Part, Recipe, between
from vidbench.tensors.losses import covariance_floor, informative, soft_cross_entropy, widest
from vidbench.tensors.mixing import Mixed

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = {"a": ("x", "y", "z"), "b": ("p", "q"), "c": ("1", "2", "3", "4")}
SMALL = {"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4}
RECIPE = Recipe(parts=tuple(Part(name, "", classes) for name, classes in CLASSES.items()), network="csn",
                network_args=SMALL, hidden=8, dropout=0.0, expander=(8, 6), label_smoothing=0.0,
                clip=ClipSpec(frames=4, stride=2, views=1, augment=SETTINGS["toy"]),
                fit=Fit(epochs=1, batch=8, optimizer="adamw", lr=1e-3))


def batch_of(count=9, seed=0):
    torch.manual_seed(seed)
    dataset = torch.arange(count) % 3
    label = torch.tensor([int(torch.randint(len(CLASSES["abc"[d]]), ())) for d in dataset])
    return {"rgb": torch.randn(count, 1, 3, 4, 32, 32), "label": label, "dataset": dataset, "row": torch.arange(count)}


def method_of(**changes) -> MultiTrain:
    torch.manual_seed(1)
    return MultiTrain(replace(RECIPE, **changes))


# ---- losses ------------------------------------------------------------------------------------------------------


def test_informative_loss_has_vicregs_exact_cases():
    variance, covariance = informative(torch.ones(16, 5))
    assert float(variance) == pytest.approx(0.99) and float(covariance) == 0
    torch.manual_seed(0)
    found = [float(informative(torch.randn(32, 96))[1]) for _ in range(40)]
    assert np.mean(found) == pytest.approx(covariance_floor(32, 96), rel=0.05)
    rows = torch.randn(7, 4, dtype=torch.double)
    table = np.cov(rows.numpy(), rowvar=False)
    variance, covariance = informative(rows)
    assert float(variance) == pytest.approx(np.maximum(0, 1 - np.sqrt(np.diag(table) + 1e-4)).mean(), rel=1e-5)
    assert float(covariance) == pytest.approx((table**2).sum() / 4 - (np.diag(table) ** 2).sum() / 4, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2 rows"):
        informative(torch.randn(1, 4))


def test_the_widest_expander_reaches_unit_variance_and_a_wider_one_does_not():
    assert [widest(rows) for rows in (8, 16, 32, 64)] == [44, 94, 194, 394]
    for rows in (8, 32):
        for width, reached in ((widest(rows), True), (2 * widest(rows), False)):
            scales = np.linspace(0.2, 1.2, 1001)
            loss = 25 * np.maximum(0, 1 - scales) + scales**4 * covariance_floor(rows, width)
            assert (abs(scales[loss.argmin()] - 1) < 0.01) == reached


def test_soft_cross_entropy_is_torchs_and_a_row_of_zeros_costs_nothing():
    scores, target = torch.randn(5, 4), torch.rand(5, 4)
    target[2] = 0
    found = soft_cross_entropy(scores, target)
    for row in range(5):
        want = -sum(float(target[row, c]) * (float(scores[row, c]) - math.log(sum(math.exp(s) for s in scores[row])))
                    for c in range(4))
        assert float(found[row]) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("released", [False, True])
def test_the_loss_is_the_formula_clip_by_clip(released):
    """Section 2.1 of the fact sheet: L_cls, the mean over the other heads' maps, 0.1 (25 V + K)."""
    method, batch = method_of(released=released, label_smoothing=0.1).train(), batch_of()
    loss, numbers = method(batch)
    loss = loss.detach()
    method.eval()  # the network has batch norm, so features are taken in training mode
    method.encoder.train()
    with torch.no_grad():
        feature = method.encoder(batch["rgb"].flatten(0, 1)).mean(dim=(2, 3, 4))
        scores = {name: head(feature) for name, head in method.heads.items()}
        own = projected = 0.0
        for i in range(9):
            name = "abc"[batch["dataset"][i]]
            count = RELEASED_CLASSES if released else len(CLASSES[name])
            target = torch.full((len(CLASSES[name]),), 0.1 / count)
            target[batch["label"][i]] += 0.9
            own -= float((target * scores[name][i].log_softmax(0)).sum())
            for other in CLASSES:
                if other != name:
                    mapped = method.maps[between(other, name)].weight @ scores[other][i]
                    projected -= float((target * mapped.log_softmax(0)).sum()) / 2
        variance, covariance = informative(method.expander(feature))
    assert float(numbers["classification"]) == pytest.approx(own / 9, rel=1e-4)
    assert float(numbers["projection"]) == pytest.approx(projected / 9, rel=1e-4)
    assert float(loss) == pytest.approx(own / 9 + projected / 9 + 0.1 * float(25 * variance + covariance), rel=1e-4)


def test_a_clip_reaches_every_head_and_the_maps_that_end_in_its_own_label_space():
    method, batch = method_of(informative=0.0).train(), batch_of()
    batch["dataset"][:], batch["label"][:] = 0, 1
    method(batch)[0].backward()
    for head in method.heads.values():
        assert all(float(p.grad.abs().sum()) > 0 for p in head.parameters())
    for name, made in method.maps.items():
        assert (made.weight.grad is not None and float(made.weight.grad.abs().sum()) > 0) == name.endswith(">a")


def test_adding_a_constant_to_a_source_column_leaves_the_loss_as_it_is():
    method, batch = method_of(informative=0.0).train(), batch_of()
    before = float(method(batch)[1]["projection"])
    with torch.no_grad():
        method.maps[between("a", "c")].weight[:, 1] += 3.0
    assert float(method(batch)[1]["projection"]) == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        method.maps[between("a", "c")].weight[1] += 300.0
    assert float(method(batch)[1]["projection"]) != pytest.approx(before, rel=1e-3)


# ---- mixing ------------------------------------------------------------------------------------------------------


def test_released_mixing_drops_the_partners_share_and_ours_keeps_it():
    batch = batch_of(6)
    mixed = Mixed(batch["rgb"], torch.tensor([3, 1, 4, 0, 2, 5]), torch.full((6,), 0.7))  # 0-3 a with a, 2-4 c with b
    for released in (True, False):
        targets = method_of(released=released).train().targets(batch["label"], batch["dataset"], mixed)
        sums = torch.stack([target.sum(dim=1) for target in targets], dim=1)  # [B,3]
        assert sums[0].tolist() == pytest.approx([1, 0, 0]) and sums[1].tolist() == pytest.approx([0, 1, 0])
        kept = 0.0 if released else 0.3
        assert sums[2].tolist() == pytest.approx([0, kept, 0.7]) and sums[4].tolist() == pytest.approx([0, 0.7, kept])


@pytest.mark.parametrize(("released", "mass"), [(True, lambda c: 0.9 + 0.1 * c / 700), (False, lambda c: 1.0)])
def test_smoothing_counts_700_classes_as_released_and_the_heads_own_otherwise(released, mass):
    batch = batch_of(6)
    method = method_of(released=released, label_smoothing=0.1)
    for mode, wanted in ((True, mass), (False, lambda c: 1.0)):
        targets = method.train(mode).targets(batch["label"], batch["dataset"], None)
        for number, classes in enumerate(CLASSES.values()):
            sums = targets[number].sum(dim=1)
            own = (batch["dataset"] == number).float() * wanted(len(classes))
            assert sums.tolist() == pytest.approx(own.tolist())


# ---- the module --------------------------------------------------------------------------------------------------


def test_maps_and_expander_are_for_training_only():
    whole, plain, batch = method_of().eval(), method_of(projection=0.0, informative=0.0).eval(), batch_of()
    plain.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith(("encoder.", "heads."))})
    (left, numbers), (right, _) = whole(batch), plain(batch)
    assert torch.equal(left, right) and set(numbers) == {"classification", *(f"{n} accuracy" for n in CLASSES)}
    assert not [name for name in plain.state_dict() if name.startswith(("maps.", "expander."))]


def test_accuracy_is_each_data_sets_own_and_nan_where_it_has_no_clip():
    method, batch = method_of().eval(), batch_of()
    batch["dataset"] = torch.where(batch["dataset"] == 2, 0, batch["dataset"])
    batch["label"] %= 2
    numbers = method(batch)[1]
    assert math.isnan(float(numbers["c accuracy"])) and 0 <= float(numbers["a accuracy"]) <= 1


@pytest.mark.parametrize(("changes", "says"), [
    ({"parts": RECIPE.parts[:1] * 2}, "different names"), ({"parts": (Part("a", "", ("x",)),)}, "at least 2 classes"),
    ({"mixing": ({"name": "cutout"},)}, "cutmix, mixup"), ({"stream": "sound"}, "stream is one of")])
def test_mistakes_are_refused_at_the_door(changes, says):
    with pytest.raises(ValueError, match=says):
        method_of(**changes)


def test_an_expander_too_wide_for_the_batch_is_warned_about():
    assert multitrain.warnings_of(RECIPE) == []
    (line,) = multitrain.warnings_of(replace(RECIPE, expander=(8, 768)))
    assert "768 dimensions" in line and "8 clips" in line and "44 would fit" in line
    (line,) = multitrain.warnings_of(replace(RECIPE, expander=(8, 64), fit=replace(RECIPE.fit, accumulate=2)))
    assert "4 clips" in line and "accumulation does not help" in line


# ---- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def worlds(toy_tiny, tmp_path):
    """Two data sets of different classes and sizes."""
    parts = []
    for name, keep in (("first", toy_tiny.label < 3), ("second", (toy_tiny.label >= 3) & (toy_tiny.label < 5))):
        rows = toy_tiny.select(mask=keep)
        low = int(rows.label.min())
        classes = tuple(toy_tiny.classes[low : int(rows.label.max()) + 1])
        replace(rows, label=rows.label - low, classes=classes).save(tmp_path / name)
        parts.append(Part(name, str(tmp_path / name)))
    return replace(RECIPE, parts=tuple(parts), mixing=({"name": "cutmix"}, {"name": "mixup", "beta": 0.8}),
                   clip=replace(RECIPE.clip, augment=replace(SETTINGS["toy"], size=32)))


def test_a_run_learns_from_both_and_resumes_to_the_bit(worlds, tmp_path):
    recipe = replace(worlds, fit=replace(RECIPE.fit, epochs=2, save_every=1))
    multitrain.train(recipe_dict(recipe), str(tmp_path / "whole"), "none")
    run = Run(tmp_path / "whole")
    assert run.state == "complete" and [len(part["classes"]) for part in run.recipe["parts"]] == [3, 2]
    assert {"first accuracy", "second accuracy", "projection", "variance"} <= set(run.metrics()[-1])
    half = replace(recipe, fit=replace(recipe.fit, epochs=1))
    multitrain.train(recipe_dict(half), str(tmp_path / "half"), "none")
    held = (tmp_path / "half" / "recipe.json").read_text().replace('"epochs": 1', '"epochs": 2')
    (tmp_path / "half" / "recipe.json").write_text(held)
    multitrain.train(recipe_dict(recipe), str(tmp_path / "half"), "none")
    other = Run(tmp_path / "half").weights()
    assert all(torch.equal(value, other[name]) for name, value in run.weights().items())
    table = multitrain.planned(recipe)
    assert [row["data"] for row in table] == ["first", "second"] and table[0]["videos"] == 54


def test_classes_travel_with_the_run_and_another_list_is_refused(worlds, tmp_path):
    manifests, recipe = multitrain.rows_of(worlds)
    assert [part.classes for part in recipe.parts] == [rows.classes for rows in manifests]
    turned = replace(recipe, parts=(replace(recipe.parts[0], classes=recipe.parts[0].classes[::-1]), recipe.parts[1]))
    with pytest.raises(ValueError, match="first: the recipe's 3 classes"):
        multitrain.rows_of(turned)
    run = Run.create(tmp_path / "init", "multitrain", recipe)
    with pytest.raises(RunError, match="is new, not complete"):
        multitrain.load_init(run, MultiTrain(recipe))
