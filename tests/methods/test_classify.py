"""Supervised runs: heads, what is frozen, what is held out, resumed and on ranks, and the sweep."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidbench import models
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.loading.transforms import test_crops as crops_of
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_dict, recipe_from
from vidbench.experiments import sweep
from vidbench.methods import classify, common
from vidbench.methods.classify import PRESETS, Classifier, Recipe
from vidbench.models.heads import HEADS, build_head
from vidbench.models.published import PublishedWeights
from vidbench.tensors import regularizers
from vidbench.tensors.mixing import Mixing

NETWORK = {"width": 0.0625, "units": (1, 0, 0)}
CLIP = ClipSpec(frames=4, stride=2, views=1, augment=replace(AUGMENTS["toy"], size=32))
SMALL = Recipe(network_args=NETWORK, clip=CLIP)


@pytest.fixture(scope="module")
def world(classifier, tmp_path_factory):
    """The recipe of `classifier`, whose 18 test videos' files are missing, and its folder."""
    folder = tmp_path_factory.mktemp("classify")
    few = Manifest.load(classifier[1].manifest)
    gone = few.split == 2
    path = np.array(
        [f"gone/{name}" if lost else name for name, lost in zip(few.path, gone, strict=True)]
    )
    replace(few, path=path).save(folder / "videos")
    return folder, replace(classifier[1], manifest=str(folder / "videos"))


def trained(recipe: Recipe, folder) -> Run:
    classify.train(recipe_dict(recipe), str(folder), "none")
    return Run(folder)


@pytest.fixture
def scratch(classifier):
    """A complete run from scratch, two epochs."""
    return Run(classifier[0])


def lively(recipe: Recipe, rows: Manifest) -> Classifier:
    """A classifier with batch-norm statistics and large head weights, so that scores differ."""
    torch.manual_seed(0)
    method = Classifier(recipe).train()
    for module in method.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    method.encoder(next(iter(classify.loader(recipe, rows)))["rgb"].flatten(0, 1))
    method.head.fc.weight.data.normal_()
    return method


def same(left: dict, right: dict, prefix: str = "") -> bool:
    names = [name for name in left if name.startswith(prefix)]
    return bool(names) and all(torch.equal(left[name], right[name]) for name in names)


# ---- heads -------------------------------------------------------------------------------------


def test_heads_have_the_released_sizes_and_beginnings():
    sizes = {
        name: sum(p.numel() for p in build_head(name, 1024, 101).parameters()) for name in HEADS
    }
    assert sizes == {"linear": 103_525, "bn_linear": 105_573, "norm_linear": 105_573}
    net = Classifier(Recipe(classes=tuple(f"class {i}" for i in range(101)), dropout=0.9))
    assert sum(p.numel() for p in net.parameters()) == 7_910_048 + 103_525
    assert 0.0098 < float(net.head.fc.weight.detach().std()) < 0.0102 and not net.head.fc.bias.any()


def test_heads_compute_what_they_are_called():
    rows = torch.randn(16, 8) * 5 + 1
    for name in HEADS:
        head = build_head(name, 8, 3, dropout=0.5).train()
        # PyTorch tests dropout itself; its place before the layer is tested below
        head.drop.p = 0.0
        wanted = rows
        if name == "norm_linear":
            wanted = torch.stack([row / row.square().sum().sqrt() for row in wanted])
        if name != "linear":
            wanted = (wanted - wanted.mean(0)) / (wanted.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(head(rows), wanted @ head.fc.weight.T, atol=1e-5, rtol=1e-4)
        assert (
            list(head._modules)[-2:] == ["drop", "fc"] and build_head(name, 8, 3, 0.9).drop.p == 0.9
        )
    for wrong in (("cosine", 8, 3), ("linear", 8, 1), ("linear", 8, 3, 1.0)):
        with pytest.raises(ValueError, match="got"):
            build_head(*wrong)


# ---- the method --------------------------------------------------------------------------------


def test_loss_and_accuracy_are_those_of_every_view():
    torch.manual_seed(0)
    method = Classifier(replace(SMALL, classes=("a", "b", "c"), label_smoothing=0.1)).eval()
    method.head.fc.weight.data.normal_(std=100)
    batch = {"rgb": torch.randn(5, 2, 3, 4, 32, 32), "label": torch.tensor([0, 1, 2, 1, 0])}
    loss, numbers = method(batch)
    losses, right = [], []
    for row in range(5):
        for view in range(2):
            scores = method.head(method.encoder(batch["rgb"][row, view][None]).mean(dim=(2, 3, 4)))[
                0
            ]
            spread = torch.full((3,), 0.1 / 3)
            spread[batch["label"][row]] += 0.9
            losses.append(-(spread * scores.log_softmax(0)).sum())
            right.append(float(scores.argmax() == batch["label"][row]))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)
    assert (
        float(numbers["accuracy"]) == pytest.approx(np.mean(right)) and float(numbers["top5"]) == 1
    )
    for wrong, says in (
        ({"stream": "depth"}, "stream must be one of rgb, flow"),
        ({"classes": ("a",)}, "at least 2"),
        ({"head": "cosine"}, "a head is one of"),
        ({"network": "c3d"}, "one of"),
    ):
        with pytest.raises(ValueError, match=says):
            Classifier(replace(SMALL, **{"classes": ("a", "b"), **wrong}))


@pytest.mark.parametrize("where", [{"stages": (4, 5)}, {"pathways": ("slow",)}, {"stages": (0,)}])
def test_a_regularizer_that_is_applied_nowhere_is_refused(where):
    """ResNets for CIFAR have the stages 1 to 3; with RMS in res4 and res5 alone, none would be
    applied silently."""
    recipe = Recipe(network="cifar_resnet", network_args={"depth": 8}, classes=("a", "b"))
    with pytest.raises(ValueError):
        Classifier(replace(recipe, regularizer=regularizers.Regularizer("rms", **where)))


@pytest.mark.parametrize(
    "wrong", [{"stages": (3,)}, {"name": "rms", "stages": 3}, {"name": "rms", "decay": "linear"}]
)
def test_settings_of_a_regularizer_are_refused_at_the_door(wrong):
    with pytest.raises(ValueError):
        regularizers.build_regularizer(**wrong)
    with pytest.raises((ValueError, TypeError)):
        regularizers.Regularizer(**wrong)
    with pytest.raises((ValueError, RunError)):
        recipe_from(Recipe, {"regularizer": wrong})


def one_step(recipe: Recipe, folder) -> tuple[dict, dict, dict]:
    """Weights before and after one optimizer step of a run, and the gradients of that step by
    hand."""
    rows, _ = classify.rows_of(recipe)
    recipe = replace(
        recipe, classes=rows.classes, fit=replace(recipe.fit, batch=len(rows), epochs=1)
    )
    torch.manual_seed(recipe.fit.seed)
    method = Classifier(recipe).train()
    if recipe.init:
        common.load_init(Run(recipe.init), method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    batch = next(iter(classify.loader(recipe, rows)))
    method(batch)[0].backward()
    slopes = {name: value.grad for name, value in method.named_parameters()}
    return before, trained(recipe, folder).weights(), slopes


def test_backbone_and_head_move_at_their_own_rates(world, tmp_path):
    _, recipe = world
    before, after, slopes = one_step(
        replace(recipe, backbone_lr=0.1, fit=replace(recipe.fit, lr=2.0)), tmp_path / "a"
    )
    for name, slope in slopes.items():
        rate = 2.0 if name.startswith("head") else 0.2
        torch.testing.assert_close(after[name], before[name] - rate * slope, atol=1e-6, rtol=1e-4)
    moved = [name for name, slope in slopes.items() if slope.abs().max() > 1e-4]
    assert {name.split(".")[0] for name in moved} == {"encoder", "head"}
    assert [line["lr"] for line in Run(tmp_path / "a").metrics()] == [
        2.0
    ]  # the log shows the head's


@pytest.mark.parametrize("head", ["linear", "norm_linear"])
def test_a_frozen_backbone_stays_to_the_bit_with_its_statistics(head, world, scratch, tmp_path):
    _, recipe = world
    run = trained(
        replace(recipe, freeze=True, head=head, init=str(scratch.folder)), tmp_path / "probe"
    )
    left, right = scratch.weights(), run.weights()
    buffers = [name for name in left if name.startswith("encoder.") and "running" in name]
    assert len(buffers) > 4 and same(left, right, "encoder.")
    assert not torch.equal(left["head.fc.weight"], right["head.fc.weight"])
    if head == "norm_linear":
        assert float(right["head.norm.running_mean"].abs().max()) > 0
    else:  # what moves when it is not frozen
        free = trained(replace(recipe, init=str(scratch.folder)), tmp_path / "free").weights()
        assert not any(torch.equal(left[name], free[name]) for name in buffers)
    method = Classifier(replace(recipe, freeze=True, classes=("a", "b", "c"))).train()
    assert method.head.training and not any(module.training for module in method.encoder.modules())


# ---- a run -------------------------------------------------------------------------------------


def test_validation_is_the_middle_window_of_held_out_rows_of_train(world, scratch):
    _, recipe = world
    rows, held = classify.rows_of(recipe)
    everything = Manifest.load(recipe.manifest)
    test_sources = set(everything.select(split="test").source_video)
    assert len(rows) + len(held) == 54 and not set(rows.source_video) & set(held.source_video)
    assert not test_sources & {*rows.source_video, *held.source_video} and 9 <= len(held) <= 18
    method = lively(replace(recipe, classes=rows.classes), rows).eval()
    losses, right, apart = [], [], []
    for row in range(len(held)):
        frames = clips.read(held.absolute(row)).frames
        room = len(frames) - 7  # a window of 4 frames, stride 2
        window = [room // 2 + 2 * i for i in range(4)]
        picture = torch.from_numpy(frames[window]).permute(0, 3, 1, 2)
        with torch.no_grad():
            scores = method.scores(
                crops_of(picture, "center", 32, round(32 * 256 / 224), "rgb", CLIP.augment)
            )
        losses.append(float(F.cross_entropy(scores, torch.tensor([int(held.label[row])]))))
        right.append(int(scores.argmax()) == held.label[row])
        apart.append(scores)
    # scores differ between videos, so another window would change the loss
    assert float(torch.cat(apart).std(dim=0).min()) > 0.1
    found = classify.Watch(method, held)(0.0)
    assert found == {
        "loss": pytest.approx(np.mean(losses), abs=1e-3),
        "accuracy": pytest.approx(np.mean(right)),
        "top5": 1.0,
    }
    assert found == classify.Watch(method, held)(1.0)
    lines = scratch.metrics("monitor")
    assert [line["epoch"] for line in lines] == [0, 1, 2] and {"loss", "accuracy", "top5"} <= lines[
        -1
    ].keys()
    born = Classifier(scratch.recipe)
    born.load_state_dict(scratch.weights())
    assert lines[-1]["loss"] == pytest.approx(classify.Watch(born, held)()["loss"])
    assert json.loads((scratch.folder / "rows.json").read_text()) == {
        "train": rows.fingerprint(),
        "held_out": held.fingerprint(),
    }


def test_a_run_says_what_it_takes_and_carries_its_classes(world, tmp_path, capsys):
    _, recipe = world
    run = trained(
        replace(recipe, fit=replace(recipe.fit, epochs=0, accumulate=2)), tmp_path / "run"
    )
    rows, held = classify.rows_of(recipe)
    said = capsys.readouterr().out
    assert (
        f"{len(rows)} training videos, {len(held)} held out, 3 classes; batch 12 (1 ranks x 2 "
        "parts x 6)" in said
    )
    assert f"{len(rows) // 12} iterations an epoch, 0 epochs: 0 iterations, 0 clips" in said
    assert run.recipe.classes == rows.classes and "no backbone" not in said
    # with nothing held out nothing is watched
    whole = trained(
        replace(recipe, held_out=0.0, fit=replace(recipe.fit, epochs=1)), tmp_path / "whole"
    )
    assert whole.metrics("monitor") == [] and whole.curves()["clips"][-1] == 48


SLOWONLY = {"depth": 34, "width": 0.0625, "blocks": (1, 1, 1, 1), "stem_stride": 2}
RESUMED = {
    "dropout": ({"dropout": 0.5, "head": "norm_linear"}, {"optimizer": "adam", "lr": 1e-3}),
    "rms and cutmix": (
        {
            "network": "slowonly",
            "network_args": SLOWONLY,
            "regularizer": regularizers.Regularizer("rms", stages=(4, 5)),
            "mixing": Mixing("cutmix", p=0.7, each=True),
        },
        {
            "nesterov": True,
            "decay_vectors": False,
            "weight_decay": 1e-2,
            "schedule": "cosine_whole",
            "warmup_epochs": 1.5,
            "warmup_lr": 0.01,
        },
    ),
    "shake_drop and mixup": (
        {
            "network": "slowonly",
            "network_args": SLOWONLY,
            "regularizer": regularizers.Regularizer("shake_drop", alpha=(-1, 1)),
            "mixing": Mixing("mixup"),
        },
        {"accumulate": 2},
    ),
    "augmentation on the device": ({"mixing": Mixing("mixup")}, {"augment_on": "device"}),
}


@pytest.mark.parametrize("change", RESUMED)
def test_resumed_equals_uninterrupted(change, world, tmp_path, monkeypatch):
    _, recipe = world
    changes, fit = RESUMED[change]
    recipe = replace(recipe, **changes, fit=replace(recipe.fit, **fit))
    whole, saved = trained(recipe, tmp_path / "whole"), Run.save

    def stop(self, step, *given, **options):
        place = saved(self, step, *given, **options)
        if step:
            raise KeyboardInterrupt
        return place

    monkeypatch.setattr(Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path / "cut")
    monkeypatch.undo()
    assert Run(tmp_path / "cut").state == "interrupted"
    cut = trained(recipe, tmp_path / "cut")
    assert same(whole.weights(), cut.weights()) and cut.state == "complete"
    assert (
        cut.metrics("monitor") == whole.metrics("monitor")
        and cut.curves()["loss"] == whole.curves()["loss"]
    )


@pytest.mark.slow
def test_two_ranks_train_one_processes_probe(world, scratch, tmp_path):
    """Without batch norm in the head, and the backbone frozen, the number of ranks is no part of
    the experiment."""
    _, recipe = world
    recipe = replace(recipe, freeze=True, init=str(scratch.folder), fit=replace(recipe.fit, lr=1.0))
    for name, nproc in (("one", 1), ("two", 2)):
        ranks.launch(
            "vidbench.methods.classify:train",
            recipe_dict(recipe),
            str(tmp_path / name),
            "none",
            nproc=nproc,
            log_dir=tmp_path / "logs",
        )
    one, two = (Run(tmp_path / name) for name in ("one", "two"))
    left, right = one.weights(), two.weights()
    assert same(left, right, "encoder.")
    torch.testing.assert_close(
        left["head.fc.weight"], right["head.fc.weight"], atol=1e-5, rtol=1e-4
    )
    assert float((left["head.fc.weight"] - scratch.weights()["head.fc.weight"]).abs().max()) > 1e-3
    for a, b in zip(one.metrics("monitor"), two.metrics("monitor"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["accuracy"] == pytest.approx(
            b["accuracy"]
        )


def test_a_pretrained_backbone_is_taken_over_and_its_budget_counted(world, infonce, tmp_path):
    recipe = replace(world[1], network_args=infonce[1].network_args)
    before = Run(infonce[0] / "rgb")
    run = trained(
        classify.starting_from(replace(recipe, fit=replace(recipe.fit, epochs=0)), before),
        tmp_path / "run",
    )
    assert same(
        {name: value for name, value in before.weights().items() if name.startswith("encoder.")},
        run.weights(),
    )
    assert run.budget()["clips"] == before.budget()["clips"] > 0 and run.budget()["stages"] == [
        "rgb",
        "run",
    ]


def test_a_run_that_does_not_fit_is_no_beginning(world, scratch, tmp_path):
    _, recipe = world
    recipe = replace(recipe, init=str(scratch.folder), classes=("a", "b", "c"))
    for change, says in (
        (
            {"network_args": {"width": 0.125, "units": (1, 0, 0)}},
            r"network_args.width: wanted 0.125, found 0.0625",
        ),
        ({"stream": "flow"}, "stream: wanted 'flow', found 'rgb'"),
    ):
        with pytest.raises(RunError, match=f"does not fit this recipe:\n  {says}"):
            common.load_init(scratch, Classifier(replace(recipe, **change)))
    other = recipe_dict(
        replace(
            recipe, stream="flow", clip=replace(CLIP, views=2, augment=AUGMENTS["coclr_official"])
        )
    )
    flow = Run.create(tmp_path / "flow", "classify", recipe_from(Recipe, other))
    flow.status("complete")
    with pytest.raises(RunError, match="flow_as_rgb: wanted False, found True"):
        common.load_init(flow, Classifier(replace(recipe, stream="flow")))
    took = classify.starting_from(recipe, flow)
    assert (
        took.stream == "flow"
        and took.clip.augment.flow_as_rgb
        and not took.clip.augment.flow_negate_u
    )
    assert took.clip.augment.size == 32 and took.init == str(flow.folder)
    flow.status("interrupted")
    with pytest.raises(RunError, match="is interrupted, not complete"):
        trained(replace(recipe, classes=(), init=str(flow.folder)), tmp_path / "run")


def test_rows_that_cannot_be_learned_are_refused(world, tmp_path):
    folder, recipe = world
    manifest = Manifest.load(recipe.manifest)
    for name, changed in (
        ("unlabeled", replace(manifest, label=np.where(manifest.label == 1, -1, manifest.label))),
        ("empty", manifest.select(split="test")),
    ):
        changed.save(tmp_path / name)
    for change, says in (
        (
            {"manifest": str(tmp_path / "unlabeled")},
            "18 of 54 training rows have no label, the first is ",
        ),
        ({"manifest": str(tmp_path / "empty")}, "has no train split"),
        (
            {"classes": ("wave", "squat")},
            r"2 classes are not the 3 .* only in the manifest \['jumping_jack'\]",
        ),
        ({"classes": manifest.classes[::-1]}, "the order differs"),
    ):
        with pytest.raises(ValueError, match=says):
            trained(replace(recipe, **change), tmp_path / "run")
    kept = Manifest.load(recipe.manifest)
    kept.save(tmp_path / "mine")
    mine = replace(recipe, manifest=str(tmp_path / "mine"), fit=replace(recipe.fit, epochs=0))
    trained(mine, tmp_path / "run")
    kept.select(mask=np.arange(len(kept)) > 0).save(tmp_path / "mine")
    with pytest.raises(RunError, match="changed since"):
        trained(mine, tmp_path / "run")


# ---- settings and sweep ------------------------------------------------------------------------


def test_published_settings_say_what_the_released_code_does():
    fine, probe, scratch = (
        PRESETS[name] for name in ("finetune_official", "probe_official", "scratch_official")
    )
    assert (fine.fit.optimizer, fine.fit.lr, fine.fit.lr * fine.backbone_lr) == ("adam", 1e-3, 1e-4)
    assert (fine.fit.weight_decay, fine.dropout, fine.head, fine.freeze) == (
        1e-3,
        0.9,
        "linear",
        False,
    )
    assert (fine.fit.epochs, fine.fit.milestones, fine.fit.batch) == (500, (400, 450), 64)
    assert (scratch.backbone_lr, scratch.fit.milestones) == (
        1.0,
        (300, 400),
    ) and scratch.dropout == 0.9
    assert (probe.fit.optimizer, probe.fit.lr, probe.fit.weight_decay) == ("sgd", 0.1, 1e-3)
    assert (probe.fit.epochs, probe.fit.milestones, probe.head, probe.freeze) == (
        100,
        (60, 80),
        "norm_linear",
        True,
    )
    for recipe in (fine, probe, scratch):  # dataset/lmdb_dataset.py
        assert recipe.clip.pad == "first" and not recipe.clip.reach_end
    assert PRESETS["slowfast_official"].clip.grid == PRESETS["multitrain_k400"].clip.grid
    assert PRESETS["slowfast_official"].clip.grid == "linspace"
    assert PRESETS["rms_slowfast"].clip.grid == "stride"
    assert probe.dropout == 0 and replace(probe, head="linear") == PRESETS["probe_paper"]
    for recipe in PRESETS.values():
        assert recipe_dict(recipe_from(Recipe, recipe_dict(recipe))) == recipe_dict(recipe)
        with torch.device("meta"):
            assert models.build(recipe.network, **recipe.network_args).out_channels


@pytest.mark.parametrize(
    ("name", "frames", "fps", "epochs", "rate", "ends", "depth"),
    [
        ("multitrain_k400", 32, 10.0, 200, 1.6e-3, 4e-6, 0.3),
        ("multitrain_k400_16x4", 16, 7.5, 200, 3.2e-3, 3.2e-5, 0.2),
        ("multitrain_k400_images", 16, 7.5, 75, 3.2e-3, 3.2e-5, 0.2),
    ],
)
def test_multitrain_starts_from_kinetics_as_released(name, frames, fps, epochs, rate, ends, depth):
    """configs/Kinetics of the released code; the supplement's table 3 has the epochs."""
    recipe = PRESETS[name]
    fit, clip = recipe.fit, recipe.clip
    assert (clip.frames, clip.target_fps, clip.views, clip.one_window) == (frames, fps, 2, True)
    assert (fit.epochs, fit.batch, fit.lr, fit.warmup_lr, fit.final_lr) == (
        *(epochs, 512, rate),
        *(ends, ends),
    )
    assert (fit.optimizer, fit.weight_decay, fit.decay_vectors) == ("adamw", 0.05, False)
    assert (fit.schedule, fit.warmup_epochs, fit.clip_norm) == ("cosine", 30, 1.0)
    assert (recipe.head, recipe.dropout, recipe.label_smoothing) == ("linear", 0.5, 0.1)
    assert recipe.mixing == (Mixing("mixup", beta=0.8), Mixing("cutmix", beta=1.0))
    augment = clip.augment
    assert (augment.randaugment, augment.magnitude, augment.erase) == (4, 7.0, 0.25)
    with torch.device("meta"):
        net = Classifier(replace(recipe, classes=tuple(map(str, range(400)))))
    assert net.encoder.form.stochastic_depth == depth
    count = sum(p.numel() for p in net.parameters())
    assert count == {32: 51_293_776, 16: 34_709_296}[frames]  # the authors' nets of 400 classes


def test_slowonly_34_keeps_its_own_batch_on_mini_kinetics():
    """RMS's supplement, B.1: only SlowOnly-50 has batch 64 there."""
    small, large = PRESETS["rms_minikinetics_34"], PRESETS["rms_minikinetics"]
    assert (small.network_args, small.fit.batch, small.fit.lr) == ({"depth": 34}, 128, 0.2)
    assert (small.fit.epochs, small.fit.warmup_epochs, small.fit.warmup_lr) == (250, 20, 0.1)
    assert (large.network_args, large.fit.batch, large.fit.lr) == ({"depth": 50}, 64, 0.1)


def test_a_run_starts_from_published_weights_and_says_so(world, tmp_path, capsys):
    from torchvision.models import resnet50

    _, recipe = world
    theirs = resnet50(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet50.pth")
    recipe = replace(
        recipe,
        network="resnet50",
        network_args={},
        head="linear",
        freeze=True,
        held_out=0.0,
        clip=replace(recipe.clip, frames=1),
        fit=replace(recipe.fit, epochs=0),
        published=PublishedWeights("torchvision_resnet50", str(tmp_path / "resnet50.pth")),
    )
    held = trained(recipe, tmp_path / "run").weights()
    assert torch.equal(held["encoder.stem.conv1.weight"], theirs["conv1.weight"][:, :, None])
    said = capsys.readouterr().out
    assert "torchvision_resnet50" in said and "ImageNet" in said
    with pytest.raises(ValueError, match="torchvision_resnet50"):
        trained(replace(recipe, network="csn"), tmp_path / "other")


def test_a_backbone_of_a_run_keeps_what_scales_it_in_evaluation(world, scratch):
    run = Run(scratch.folder)
    run.values = {**run.values, "regularizer": {"name": "random_drop"}}
    drop = regularizers.Regularizer("random_drop")
    assert classify.starting_from(world[1], run).regularizer == drop
    own = replace(world[1], regularizer=regularizers.Regularizer("rms"))
    assert classify.starting_from(own, run).regularizer == own.regularizer


def test_a_sweep_chooses_on_held_out_rows_of_train_and_never_sees_test(
    world, tmp_path, monkeypatch
):
    _, recipe = world
    recipe = replace(
        recipe, fit=replace(recipe.fit, epochs=2, schedule="milestones", milestones=(1,))
    )
    rows, held = classify.rows_of(recipe)
    seen, plain = [], Clips.__getitem__

    def recorded(self, key):
        seen.append((len(self), str(self.manifest.path[key[1]]), int(self.manifest.split[key[1]])))
        return plain(self, key)

    monkeypatch.setattr(Clips, "__getitem__", recorded)
    grid = {"lr": (1e-6, 0.05, 1e30), "weight_decay": (0.0,)}
    found = sweep.sweep(recipe, grid, tmp_path, epochs=1, progress="none")
    assert {split for *_, split in seen} == {0}  # train; the files of test are not even there
    sizes = {
        size: {path for other, path, _ in seen if other == size}
        for size in {size for size, *_ in seen}
    }
    assert sizes[len(held)] == set(held.path) and sizes[len(rows)] <= set(rows.path)
    assert set(sizes) == {
        len(rows),
        len(held),
        54,
    }  # trials leave the held-out part alone, the best one has all
    by_rate = {trial.chosen["lr"]: trial for trial in found.trials}
    assert by_rate[1e30].row == {"lr": 1e30, "weight_decay": 0.0, "accuracy": 0.0, "loss": None}
    for rate in (1e-6, 0.05):
        last = Run(tmp_path / f"lr-{rate}-weight_decay-0.0").metrics("monitor")[-1]
        assert (by_rate[rate].accuracy, by_rate[rate].loss) == (
            last["accuracy"],
            last["loss"],
        )
    top = max(found.trials, key=lambda trial: (trial.accuracy, -(trial.loss or np.inf))).chosen
    assert found.best == {"lr": top["lr"], "weight_decay": 0.0} and top["lr"] != 1e30
    best, trial = Run(found.run), Run(tmp_path / "lr-1e-06-weight_decay-0.0")
    assert (
        best.recipe.held_out,
        best.recipe.fit.epochs,
        best.recipe.fit.milestones,
    ) == (0.0, 2, (1,))
    assert (trial.recipe.held_out, trial.recipe.fit.epochs) == (0.25, 1)
    assert (
        "lr of 1e-06, 0.05, 1e+30 x weight_decay of 0.0 by the accuracy on 25%"
        in best.recipe.selection
    )
    seen.clear()
    assert sweep.sweep(recipe, grid, tmp_path, epochs=1, progress="none") == found
    assert {size for size, *_ in seen} == {len(rows)} and len(seen) < 2 * len(
        rows
    )  # the broken trial only, once more
    with pytest.raises(ValueError, match="held_out=0.2"):
        sweep.sweep(replace(recipe, held_out=0.0), grid, tmp_path)
    with pytest.raises(RunError, match="has no field 'rate'"):
        sweep.sweep(recipe, {"rate": (1,)}, tmp_path)
