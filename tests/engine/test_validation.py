"""Between epochs: validation, the plateau it steers, rates by group; budgets and results with their
protocol."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.stages import Points
from vidbench.data.loading.dataset import Batches
from vidbench.data.manifest import Manifest
from vidbench.engine.loop import Fit, fit
from vidbench.engine.runs import Run, RunError, find, protocol_id
from vidbench.methods import classify, coclr

FIT = Fit(epochs=6, batch=16, lr=0.1, optimizer="sgd", weight_decay=0.0, log_every=1)


class Line(nn.Module):
    """Two weights in groups of their own; the loss's gradient is one for both."""

    def __init__(self, grouped: bool = True):
        super().__init__()
        self.fast, self.slow = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)
        if grouped:
            self.parameter_groups = lambda: [
                {"params": [self.fast, self.frozen]},
                {"params": [self.slow], "scale": 0.1},
            ]

    def forward(self, batch):
        return self.fast + self.slow + 0 * batch["x"].sum(), {}


def trained(folder, recipe=FIT, method=None, validate=None) -> tuple[Run, Line]:
    run, method = Run.create(folder, "line", recipe), method or Line()
    loader = torch.utils.data.DataLoader(Points(), batch_sampler=Batches(48, recipe.batch, seed=0))
    return run, fit(method, loader, recipe, run, "none", validate)


def test_each_group_moves_at_its_own_rate(tmp_path):
    _, method = trained(tmp_path / "a", replace(FIT, epochs=1))
    assert (
        float(method.slow) == pytest.approx(0.1 * float(method.fast)) and float(method.fast) < -0.2
    )
    assert float(method.frozen) == 0
    _, plain = trained(tmp_path / "b", replace(FIT, epochs=1), Line(grouped=False))
    assert float(plain.slow) == float(plain.fast) == pytest.approx(float(method.fast))


def test_validation_comes_before_the_first_step_and_after_its_epochs(tmp_path):
    seen = []

    def validate(epoch):
        seen.append(epoch)
        return {"loss": 1.0, "knn": float("nan") if epoch == 0 else epoch / 10}

    run, _ = trained(tmp_path / "a", replace(FIT, epochs=5, validate_every=2), validate=validate)
    assert seen == [0, 2, 4, 5]
    assert run.curves("monitor") == {
        "step": [0, 6, 12, 15],
        "epoch": [0, 2, 4, 5],
        "loss": [1.0] * 4,
        "knn": [None, 0.2, 0.4, 0.5],
    }
    assert len(run.metrics()) == 15  # the training log has its own lines


@pytest.mark.parametrize(
    ("drops", "rates"),
    [(0, [0.1, 0.1, 0.1, 0.01, 0.001, 0.0001]), (2, [0.1, 0.1, 0.1, 0.01, 0.001, 0.001])],
)
def test_a_plateau_follows_the_validation_loss_and_drops_so_often(tmp_path, drops, rates):
    """The training loss falls throughout, so only validation can lower the rate; resumed equals
    uninterrupted."""
    losses = {0: 9.0, 1: 3.0, 2: 2.0, 3: 2.0, 4: 2.5, 5: 2.0, 6: 2.0}
    recipe = replace(FIT, schedule="plateau", patience=0, drops=drops)
    run, whole = trained(
        tmp_path / "a", recipe, validate=lambda epoch: {"loss": losses[round(epoch)]}
    )
    assert [run.curves()["lr"][i] for i in range(0, 18, 3)] == pytest.approx(rates)

    def dies(epoch):
        if epoch == 4:
            raise KeyboardInterrupt
        return {"loss": losses[round(epoch)]}

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", recipe, validate=dies)
    again, resumed = trained(
        tmp_path / "b", recipe, validate=lambda epoch: {"loss": losses[round(epoch)]}
    )
    assert again.curves()["lr"] == run.curves()["lr"] and again.curves("monitor") == run.curves(
        "monitor"
    )
    assert float(resumed.fast) == float(whole.fast)


def test_a_budget_counts_the_runs_a_stage_goes_on_from(tmp_path):
    for name, student, steps in (
        ("first", "", 30),
        ("second", str(tmp_path / "first"), 20),
        ("third", "second", 5),
    ):
        run = Run.create(tmp_path / name, coclr.Recipe.method, Fit())
        student = str(tmp_path / student) if name == "third" else student
        held = {"method": "coclr", "recipe": {"student": student, "fit": {"batch": 8}}}
        (run.folder / "recipe.json").write_text(json.dumps(held))
        run.log(step=steps, clips=8 * steps, epoch=steps / 10, seconds=1.5)
    assert Run(tmp_path / "third").budget() == {
        "batch": 8,
        "iterations": 55,
        "clips": 440,
        "epochs": 5.5,
        "seconds": 4.5,
        "stages": ["first", "second", "third"],
    }


def test_results_keep_protocol_and_budget_side_by_side(tmp_path):
    run, _ = trained(tmp_path / "a", replace(FIT, epochs=1))
    with pytest.raises(RunError, match="must be one of baseline, classify.*; got 'line'"):
        run.add_result("probe", {}, {})  # this recipe's batch cannot be read
    held = {"method": classify.Recipe.method, "recipe": {"fit": {"batch": 16}}}
    (run.folder / "recipe.json").write_text(json.dumps(held))
    run = find(tmp_path, "a")
    first = run.add_result(
        "retrieval", {"windows": 4, "centering": "none"}, {"R@1": (0.5, 0.4, 0.6)}
    )
    second = run.add_result("retrieval", {"windows": 10, "centering": "none"}, {"R@1": 0.6})
    assert (
        first
        == "retrieval centering=none windows=4"
        == protocol_id("retrieval", {"centering": "none", "windows": 4})
    )
    found = Run(run.folder).results()
    assert list(found) == [first, second] and found[first].numbers == {"R@1": [0.5, 0.4, 0.6]}
    assert found[second].protocol == {"windows": 10, "centering": "none"}
    assert found[second].budget["iterations"] == 3 and found[second].budget["clips"] == 48
    assert find("elsewhere", str(run.folder)).folder == run.folder
    with pytest.raises(RunError, match="no run folder"):
        find(tmp_path, "b")


def manifest_of(sources_per_class=(5, 4, 1), clips=3) -> Manifest:
    rows = [
        (f"{c}/{s}_{k}.mp4", f"class {c}", "train", f"{c}_{s}")
        for c, count in enumerate(sources_per_class)
        for s in range(count)
        for k in range(clips)
    ]
    return Manifest.from_rows("videos", rows)


def test_hold_out_takes_whole_sources_of_each_class_and_leaves_one():
    manifest = manifest_of()
    train, held = manifest.hold_out(0.4)
    assert len(train) + len(held) == len(manifest) and not set(train.source_video) & set(
        held.source_video
    )
    assert np.bincount(held.label, minlength=3).tolist() == [
        6,
        6,
        0,
    ]  # two sources, two, none of a single one
    again = manifest.hold_out(0.4)[1]
    assert (
        again.path.tolist() == held.path.tolist() != manifest.hold_out(0.4, seed=1)[1].path.tolist()
    )
    assert np.bincount(manifest.hold_out(0.999)[0].label).tolist() == [3, 3, 3]
    for share in (0, 1, 1.5):
        with pytest.raises(ValueError, match="share between 0 and 1"):
            manifest.hold_out(share)
    with pytest.raises(ValueError, match="no class has two source videos"):
        manifest_of((1, 1, 1)).hold_out(0.5)


def test_a_fingerprint_tells_other_rows_labels_and_orders():
    manifest = manifest_of()
    same = manifest_of()
    reordered = manifest.select(mask=np.arange(len(manifest))[::-1])
    relabeled = replace(manifest, label=np.zeros(len(manifest), np.int64))
    marks = {
        m.fingerprint() for m in (manifest, reordered, relabeled, manifest.select(mask=[0, 1]))
    }
    assert manifest.fingerprint() == same.fingerprint() and len(marks) == 4
    assert manifest.fingerprint().startswith("30-")
