"""A classifier's numbers: every protocol named, kept apart, and the same net tested as was
trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import makes
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, recipe_dict
from vidbench.evaluate import probe
from vidbench.evaluate.evaluate import VIEWS, classified
from vidbench.evaluate.features import PROTOCOLS, Protocol, predict
from vidbench.methods import classify
from vidbench.models.resnets import Residual
from vidbench.tensors.regularizers import Regularizer

CLASSES = ("bow", "clap", "wave")
CLIP = ClipSpec(frames=4, stride=2, views=1, augment=replace(AUGMENTS["toy"], size=32))
SMALL = {"depth": 34, "width": 0.0625, "blocks": (1, 1, 1, 1), "stem_stride": 2}
RECIPE = classify.Recipe(
    network="slowonly", network_args=SMALL, clip=CLIP, fit=Fit(epochs=0, batch=2)
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine short videos, three of them for training, six sources."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(9):
        makes.encode(folder / f"{i}.mp4", [makes.picture(40 * i + t) for t in range(10 + 3 * i)])
    rows = [
        (f"{i}.mp4", CLASSES[i % 3], "train" if i < 3 else "test", f"source {i - i % 2}")
        for i in range(9)
    ]
    manifest = Manifest.from_rows(folder, rows, CLASSES)
    manifest.save(folder)
    return manifest


def made(videos, folder, **changes) -> tuple[Run, classify.Classifier]:
    """A run of no steps, but for weights that tell clips and classes apart, and its method in eval
    mode."""
    recipe = replace(RECIPE, manifest=str(videos.root), **changes)
    classify.train(recipe_dict(recipe), str(folder), "none")
    torch.manual_seed(0)
    method = classify.Classifier(replace(recipe, classes=CLASSES)).train()
    for module in method.encoder.modules():
        if isinstance(module, Residual):
            module.branch[-1].weight.data.fill_(
                1.0
            )  # else the branches were 0, and with them what stands at their end
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    batch = next(iter(classify.loader(replace(recipe, fit=replace(recipe.fit, batch=9)), videos)))
    method.encoder(batch["rgb"].flatten(0, 1))
    with torch.no_grad():  # scores of about unit size around 0
        pooled = method.eval().encoder(batch["rgb"].flatten(0, 1)).mean(dim=(2, 3, 4))
        method.head.fc.weight.copy_(
            torch.randn_like(method.head.fc.weight) / pooled.std(dim=0).mean()
        )
        method.head.fc.bias.copy_(-method.head.fc.weight @ pooled.mean(dim=0))
    run = Run(folder)
    (run.checkpoint() / "weights.safetensors").unlink()
    save_file(method.state_dict(), run.checkpoint() / "weights.safetensors")
    return run, method


@pytest.fixture(scope="module")
def run(videos, tmp_path_factory):
    return made(videos, tmp_path_factory.mktemp("runs") / "plain")[0]


@pytest.mark.parametrize(
    "regularizer",
    [
        {},
        {"name": "rms"},
        {"name": "rms", "law": (0.0, 1.0), "test": "expectation"},
        {"name": "random_drop"},
        {"name": "random_drop", "form": "library"},
        {"name": "shake_drop"},
    ],
    ids=lambda r: "-".join(map(str, r.values())),
)
def test_a_run_is_tested_with_its_regularizers_test_rule(regularizer, videos, tmp_path):
    """Eq. 2 and 3: p x and (p + (1 - p) E alpha) x in evaluation; without it the net is one that
    was never trained."""
    held = Regularizer(**regularizer) if regularizer else None
    run, method = made(videos, tmp_path / "run", regularizer=held)
    found = predict(run, videos, PROTOCOLS["one_view"])
    watched = {}
    with torch.no_grad():
        for batch in classify.Watch(
            method, videos
        ).loader:  # what training watches is the same view
            scores = method.scores(batch["rgb"].flatten(0, 1)).softmax(dim=1)
            watched.update(zip(batch["row"].tolist(), scores.numpy(), strict=True))
    np.testing.assert_allclose(
        found.values, np.stack([watched[row] for row in range(9)]), atol=1e-4
    )
    assert found.values.std(axis=0).min() > 0.01  # videos differ, so another net would show


def test_one_view_and_thirty_are_both_told_by_name_and_kept_apart(run, videos, capsys):
    found = classified(run.folder, "test")
    assert list(found) == list(VIEWS) == ["one view", "30 views"]
    said = capsys.readouterr().out.splitlines()
    for line, (name, protocol, views) in zip(
        said,
        (
            ("one view", "one_view", "1 windows x 1 crops"),
            ("30 views", "thirty_views", "10 windows x 3 crops"),
        ),
        strict=True,
    ):
        table = predict(run, videos.select(split="test"), PROTOCOLS[protocol])
        one = found[name]
        np.testing.assert_allclose(one.probabilities, table.values, atol=1e-6)
        right = [
            int(np.argmax(row)) == label
            for row, label in zip(table.values, table.label, strict=True)
        ]
        assert one.right.tolist() == right and one.numbers == probe.numbers(
            probe.score(table), by="source_video"
        )
        (top1, low, high), (top5, *_) = one.numbers["top-1"], one.numbers["top-5"]
        assert top1 == np.mean(right) and top5 == 1
        assert line == (
            f"plain, test, {name} ({views}): top-1 {top1:.1%} [{low:.1%}, {high:.1%}], top-5 "
            "100.0%, "
            "6 videos"
        )
    kept = run.results()
    assert len(kept) == 2 and {one.task for one in kept.values()} == {"classes"}
    by_windows = {one.protocol["windows"]: one for one in kept.values()}
    for name, windows in (("one view", 1), ("30 views", 10)):
        assert by_windows[windows].protocol == found[name].protocol
        assert by_windows[windows].numbers == {
            key: list(value) for key, value in found[name].numbers.items()
        }


def test_numbers_of_train_are_told_and_not_kept(run, capsys):
    before = run.results()
    found = classified(
        run.folder, "train", {"slid": Protocol(sampling="sliding", hop=7, crops="three")}
    )
    assert run.results() == before and len(found["slid"].right) == 3
    assert (
        "train, slid (every 7 frames, any number of windows x 3 crops): top-1"
        in capsys.readouterr().out
    )
    classified(run.folder, "test", {"slid": Protocol(sampling="sliding", hop=7)}, task="arid")
    added = {name: record for name, record in run.results().items() if name not in before}
    assert [one.task for one in added.values()] == ["arid"] and next(iter(added)).startswith(
        "arid "
    )
