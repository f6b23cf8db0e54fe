"""MultiTrain: its losses against the paper's formulas as plain loops, where gradients go, mixing
across data sets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.methods import classify, common, multitrain
from vidbench.methods.multitrain import RELEASED_CLASSES, MultiTrain, Part, Recipe, between
from vidbench.models.published import PublishedWeights
from vidbench.tensors.losses import covariance_floor, informative, soft_cross_entropy, widest
from vidbench.tensors.mixing import Mixed

CLASSES = {"a": ("x", "y", "z"), "b": ("p", "q"), "c": ("1", "2", "3", "4")}
SMALL = {"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 4}
RECIPE = Recipe(
    parts=tuple(Part(name, "", classes) for name, classes in CLASSES.items()),
    network="csn",
    network_args=SMALL,
    hidden=8,
    dropout=0.0,
    expander=(8, 6),
    label_smoothing=0.0,
    clip=ClipSpec(frames=4, stride=2, views=1, augment=PRESETS["toy"]),
    fit=Fit(epochs=1, batch=8, optimizer="adamw", lr=1e-3),
)


def batch_of(count=9, seed=0):
    torch.manual_seed(seed)
    dataset = torch.arange(count) % 3
    label = torch.tensor([int(torch.randint(len(CLASSES["abc"[d]]), ())) for d in dataset])
    return {
        "rgb": torch.randn(count, 1, 3, 4, 32, 32),
        "label": label,
        "dataset": dataset,
        "row": torch.arange(count),
    }


def method_of(**changes) -> MultiTrain:
    torch.manual_seed(1)
    return MultiTrain(replace(RECIPE, **changes))


# ---- losses ------------------------------------------------------------------------------------


def test_informative_loss_has_vicregs_exact_cases():
    variance, covariance = informative(torch.ones(16, 5))
    assert float(variance) == pytest.approx(0.99) and float(covariance) == 0
    torch.manual_seed(0)
    found = [float(informative(torch.randn(32, 96))[1]) for _ in range(40)]
    assert np.mean(found) == pytest.approx(covariance_floor(32, 96), rel=0.05)
    rows = torch.randn(7, 4, dtype=torch.double)
    table = np.cov(rows.numpy(), rowvar=False)
    variance, covariance = informative(rows)
    assert float(variance) == pytest.approx(
        np.maximum(0, 1 - np.sqrt(np.diag(table) + 1e-4)).mean(), rel=1e-5
    )
    assert float(covariance) == pytest.approx(
        (table**2).sum() / 4 - (np.diag(table) ** 2).sum() / 4, rel=1e-5
    )
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
        want = -sum(
            float(target[row, c])
            * (float(scores[row, c]) - math.log(sum(math.exp(s) for s in scores[row])))
            for c in range(4)
        )
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
    assert float(loss) == pytest.approx(
        own / 9 + projected / 9 + 0.1 * float(25 * variance + covariance), rel=1e-4
    )


def test_a_clip_reaches_every_head_and_the_maps_that_end_in_its_own_label_space():
    method, batch = method_of(informative=0.0).train(), batch_of()
    batch["dataset"][:], batch["label"][:] = 0, 1
    method(batch)[0].backward()
    for head in method.heads.values():
        assert all(float(p.grad.abs().sum()) > 0 for p in head.parameters())
    for name, made in method.maps.items():
        assert (
            made.weight.grad is not None and float(made.weight.grad.abs().sum()) > 0
        ) == name.endswith(">a")


def test_adding_a_constant_to_a_source_column_leaves_the_loss_as_it_is():
    method, batch = method_of(informative=0.0).train(), batch_of()
    before = float(method(batch)[1]["projection"])
    with torch.no_grad():
        method.maps[between("a", "c")].weight[:, 1] += 3.0
    assert float(method(batch)[1]["projection"]) == pytest.approx(before, rel=1e-5)
    with torch.no_grad():
        method.maps[between("a", "c")].weight[1] += 300.0
    assert float(method(batch)[1]["projection"]) != pytest.approx(before, rel=1e-3)


# ---- ranks -------------------------------------------------------------------------------------

NORMS_OF_ROWS = {
    "network": "mvit",
    "network_args": {"preset": "tiny", "width": 8, "heads": 2, "frames": 4, "size": 32},
}


def gradients(released: bool, folder: str = "") -> dict[str, torch.Tensor]:
    """Gradients of a batch of 8, the mean over ranks as in DDP, of a network that normalizes each
    clip alone."""
    method = method_of(released=released, **NORMS_OF_ROWS).train()
    batch = {name: value.chunk(ranks.world())[ranks.rank()] for name, value in batch_of(8).items()}
    method(batch)[0].backward()
    found = {
        name: ranks.mean(p.grad) for name, p in method.named_parameters() if p.grad is not None
    }
    if folder and ranks.rank() == 0:
        torch.save(found, f"{folder}/gradients.pt")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("released", "factor"), [(False, 1.0), (True, 0.5)])
def test_two_ranks_give_the_gradient_of_the_whole_and_as_released_half_of_it(
    released, factor, tmp_path
):
    whole = gradients(released)
    ranks.launch(
        "tests.methods.test_multitrain:gradients",
        released,
        str(tmp_path),
        nproc=2,
        log_dir=tmp_path,
    )
    halves = torch.load(tmp_path / "gradients.pt")
    assert halves.keys() == whole.keys() and any(name.startswith("expander") for name in whole)
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], factor * gradient, rtol=1e-3, atol=1e-6, msg=name)


# ---- mixing ------------------------------------------------------------------------------------


def test_released_mixing_drops_the_partners_share_and_ours_keeps_it():
    batch = batch_of(6)
    mixed = Mixed(
        batch["rgb"], torch.tensor([3, 1, 4, 0, 2, 5]), torch.full((6,), 0.7)
    )  # 0-3 a with a, 2-4 c with b
    for released in (True, False):
        targets = (
            method_of(released=released).train().targets(batch["label"], batch["dataset"], mixed)
        )
        sums = torch.stack([target.sum(dim=1) for target in targets], dim=1)  # [B,3]
        assert sums[0].tolist() == pytest.approx([1, 0, 0]) and sums[1].tolist() == pytest.approx(
            [0, 1, 0]
        )
        kept = 0.0 if released else 0.3
        assert sums[2].tolist() == pytest.approx([0, kept, 0.7]) and sums[
            4
        ].tolist() == pytest.approx([0, 0.7, kept])


def test_released_targets_are_smoothed_then_mixed_then_masked():
    batch = batch_of(6)
    partner, share = torch.tensor([3, 1, 4, 0, 2, 5]), 0.7  # 2 and 4 are of other data sets
    mixed = Mixed(batch["rgb"], partner, torch.full((6,), share))
    method = method_of(released=True, label_smoothing=0.1).train()
    for number, target in enumerate(method.targets(batch["label"], batch["dataset"], mixed)):
        classes = target.shape[1]
        smoothed = torch.full((6, classes), 0.1 / RELEASED_CLASSES)
        for row in (batch["dataset"] == number).nonzero().flatten().tolist():
            smoothed[row, batch["label"][row]] += 0.9
        wanted = share * smoothed + (1 - share) * smoothed[partner]
        wanted[batch["dataset"] != number] = 0
        torch.testing.assert_close(target, wanted)


@pytest.mark.parametrize(
    ("released", "mass"), [(True, lambda c: 0.9 + 0.1 * c / 700), (False, lambda c: 1.0)]
)
def test_smoothing_counts_700_classes_as_released_and_the_heads_own_otherwise(released, mass):
    batch = batch_of(6)
    method = method_of(released=released, label_smoothing=0.1)
    for mode, wanted in ((True, mass), (False, lambda c: 1.0)):
        targets = method.train(mode).targets(batch["label"], batch["dataset"], None)
        for number, classes in enumerate(CLASSES.values()):
            sums = targets[number].sum(dim=1)
            own = (batch["dataset"] == number).float() * wanted(len(classes))
            assert sums.tolist() == pytest.approx(own.tolist())


# ---- the module --------------------------------------------------------------------------------


def test_maps_and_expander_are_for_training_only():
    whole, plain, batch = (
        method_of().eval(),
        method_of(projection=0.0, informative=0.0).eval(),
        batch_of(),
    )
    plain.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k.startswith(("encoder.", "heads."))}
    )
    (left, numbers), (right, _) = whole(batch), plain(batch)
    assert torch.equal(left, right) and set(numbers) == {
        "classification",
        *(f"{n} accuracy" for n in CLASSES),
    }
    assert not [name for name in plain.state_dict() if name.startswith(("maps.", "expander."))]


def test_accuracy_is_each_data_sets_own_and_nan_where_it_has_no_clip():
    method, batch = method_of().eval(), batch_of()
    batch["dataset"] = torch.where(batch["dataset"] == 2, 0, batch["dataset"])
    batch["label"] %= 2
    numbers = method(batch)[1]
    assert math.isnan(float(numbers["c accuracy"])) and 0 <= float(numbers["a accuracy"]) <= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parts": RECIPE.parts[:1] * 2}, "different names"),
        ({"parts": (Part("k400.scan", "", ("x", "y")),)}, "without . or >"),
        ({"parts": (Part("a", "", ("x",)),)}, "at least 2 classes"),
        ({"fit": replace(RECIPE.fit, batch=1)}, "at least 2 clips at once"),
        ({"stream": "sound"}, "stream must be one of"),
    ],
)
def test_mistakes_are_refused_at_the_door(changes, says):
    with pytest.raises(ValueError, match=says):
        method_of(**changes)


def test_an_expander_too_wide_for_the_batch_is_warned_about():
    assert multitrain.warnings_of(RECIPE) == []
    (line,) = multitrain.warnings_of(replace(RECIPE, expander=(8, 768)))
    assert "768 dimensions" in line and "8 clips" in line and "44 would fit" in line
    (line,) = multitrain.warnings_of(
        replace(RECIPE, expander=(8, 64), fit=replace(RECIPE.fit, accumulate=2))
    )
    assert "4 clips" in line and "accumulation does not help" in line


def test_flipped_clips_of_classes_with_directions_are_warned_about():
    pushed = Part(
        "ssv2",
        "",
        ("Pushing [something] from left to right", "Pushing [something] from right to left"),
    )
    kept = Part("k400", "", ("left hook", "right of way", "yoga"))
    (line,) = multitrain.warnings_of(replace(RECIPE, parts=(pushed, kept)))
    assert "classes of ssv2 tell left from right" in line
    assert (
        multitrain.warnings_of(
            replace(RECIPE, parts=(replace(pushed, clip=multitrain.ClipChange(flip=0.0)), kept))
        )
        == []
    )
    spec = multitrain.spec_of(RECIPE, replace(pushed, clip=multitrain.OF_DATA["ssv2"]))
    assert (spec.augment.flip, spec.sampling) == (
        0.0,
        "random_segments",
    ) and RECIPE.clip.augment.flip == 0.5


# ---- runs --------------------------------------------------------------------------------------


def test_a_run_learns_from_both_and_resumes_to_the_bit(multitrained, tmp_path):
    folder, recipe = multitrained
    run = Run(folder)
    assert run.state == "complete" and [len(part.classes) for part in run.recipe.parts] == [
        3,
        2,
    ]
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


def test_classes_travel_with_the_run_and_another_list_is_refused(multitrained, tmp_path):
    manifests, recipe = multitrain.rows_of(multitrained[1])
    assert [part.classes for part in recipe.parts] == [rows.classes for rows in manifests]
    turned = replace(
        recipe,
        parts=(replace(recipe.parts[0], classes=recipe.parts[0].classes[::-1]), recipe.parts[1]),
    )
    with pytest.raises(ValueError, match="first: the recipe's 3 classes"):
        multitrain.rows_of(turned)
    run = Run.create(tmp_path / "init", "multitrain", recipe)
    with pytest.raises(RunError, match="is new, not complete"):
        common.load_init(run, MultiTrain(recipe))
    run.status("complete")
    with pytest.raises(
        RunError,
        match=r"network: wanted 'mvit', found 'csn'(?s:.)*stream: wanted 'flow', found 'rgb'",
    ):
        common.load_init(run, MultiTrain(replace(recipe, stream="flow", **NORMS_OF_ROWS)))


def test_a_run_starts_from_a_classifiers_backbone_of_other_clips(tmp_path):
    """From images (one frame), inflated, and from clips of another size; heads, maps and expander
    start from random weights."""
    small = NORMS_OF_ROWS["network_args"]
    for changes, said in (
        ({"frames": 1}, "Inflated from one frame to 4"),
        ({"size": 64}, "space from 16x16 to 8x8"),
    ):
        theirs = classify.Recipe(
            network="mvit", network_args={**small, **changes}, classes=("a", "b")
        )
        torch.manual_seed(5)
        held, run = (
            classify.Classifier(theirs),
            Run.create(tmp_path / str(changes), "classify", theirs),
        )
        run.save(1, held.state_dict(), {})
        run.status("complete")
        method = method_of(**NORMS_OF_ROWS)
        before = method.heads["a"].fc1.weight.clone()
        assert said in common.load_init(run, method)
        assert torch.equal(method.encoder.norm.weight, held.encoder.norm.weight)
        assert torch.equal(
            method.encoder.blocks[0].attention.qkv.weight,
            held.encoder.blocks[0].attention.qkv.weight,
        )
        assert torch.equal(method.heads["a"].fc1.weight, before)
        one = classify.Recipe(network="mvit", network_args=small, classes=("x", "y", "z"))
        assert said in common.load_init(run, classify.Classifier(one))


def test_named_settings_build_and_say_what_the_sources_say():
    for name, recipe in multitrain.PRESETS.items():
        parts = tuple(Part(part, "", classes) for part, classes in CLASSES.items())
        with torch.device("meta"):
            MultiTrain(replace(recipe, parts=parts))
        assert (
            recipe.fit.optimizer == "adamw"
            and not recipe.fit.decay_vectors
            and recipe.fit.clip_norm == 1.0
        ), name
    paper, released = multitrain.PRESETS["paper"], multitrain.PRESETS["released"]
    for one, hidden in ((paper, 2048), (released, 4096)):
        fit = one.fit
        assert (
            fit.epochs,
            fit.batch,
            fit.lr,
            fit.weight_decay,
            fit.warmup_epochs,
            fit.warmup_lr,
            fit.final_lr,
        ) == (50, 512, 2e-4, 0.05, 10, 2e-6, 2e-6)
        assert one.expander == (hidden, 768) and (one.hidden, one.dropout, one.informative) == (
            2048,
            0.5,
            0.1,
        )
        assert (one.clip.frames, one.clip.target_fps, one.clip.views) == (32, 10.0, 2)
        assert (one.clip.augment.randaugment, one.clip.augment.magnitude) == (4, 7.0)
    assert released.released and not paper.released
    assert released.clip.one_window and not paper.clip.one_window
    assert (released.clip.grid, released.clip.reach_end) == ("linspace", False)
    assert (paper.clip.grid, paper.clip.reach_end) == ("stride", True)


def test_a_run_starts_from_kinetics_weights_in_torchvisions_format(multitrained, tmp_path, capsys):
    """The format of torchvision's mvit_v2_s, with random weights in place of the published ones."""
    theirs = torchvision.models.video.mvit_v2_s()
    torch.save(theirs.state_dict(), tmp_path / "mvit_v2_s.pth")
    _, recipe = multitrained
    recipe = replace(
        recipe,
        network="mvit",
        network_args={"preset": "official_s"},
        fit=replace(recipe.fit, epochs=0),
        published=PublishedWeights("torchvision_mvit_v2_s", str(tmp_path / "mvit_v2_s.pth")),
    )
    run = Run(multitrain.train(recipe_dict(recipe), str(tmp_path / "run"), "none"))
    found = run.weights()
    assert torch.equal(found["encoder.patches.weight"], theirs.state_dict()["conv_proj.weight"])
    assert torch.equal(found["encoder.norm.weight"], theirs.state_dict()["norm.weight"])
    assert "are now in the backbone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "expander", "heads", "maps", "wide"),
    [
        ((400, 305, 174), (4096, 768), 6_525_807, 489_340, 6_296_320),
        ((400, 305, 174, 200), (4096, 768), 8_510_519, 840_940, 6_296_320),
    ],
)
def test_sizes_of_the_published_forms(classes, expander, heads, maps, wide):
    parts = tuple(
        Part(f"d{number}", "", tuple(map(str, range(count))))
        for number, count in enumerate(classes)
    )
    with torch.device("meta"):
        method = MultiTrain(replace(multitrain.PRESETS["released"], parts=parts, expander=expander))
    count = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in method.named_children()
    }
    assert count == {"encoder": 50_986_176, "heads": heads, "maps": maps, "expander": wide}
    assert sum(count.values()) == {3: 64_297_643, 4: 66_633_955}[len(classes)]
