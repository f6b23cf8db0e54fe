"""Runs on disk, the loop's exactness, and ranks."""

import json
import math
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch

from tests import stages
from vidbench.engine import loop
from vidbench.engine.loop import Fit, learning_rate, make_optimizer
from vidbench.engine.runs import Run, RunError, changed, recipe_dict, recipe_from
from vidbench.system.files import BusyError

SHORT = Fit(epochs=6, batch=8, lr=0.01, seed=3, log_every=2, schedule="cosine")


def weights_of(folder):
    return Run(folder).weights()


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@dataclass(frozen=True)
class Outer:
    fit: Fit = Fit()
    sizes: tuple[int, ...] = (1, 2)
    inner: Fit | None = None


def test_recipe_goes_to_json_and_back_and_refuses_unknown_fields():
    recipe = Outer(fit=Fit(milestones=(3, 4)), inner=Fit(epochs=9))
    assert recipe_from(Outer, json.loads(json.dumps(recipe_dict(recipe)))) == recipe
    with pytest.raises(
        RunError, match=r"Outer.fit has no field 'epoch'; the known ones are epochs, batch"
    ):
        recipe_from(Outer, {"fit": {"epoch": 3}})
    made = changed(recipe, {"fit": {"lr": 0.5}})
    assert made == Outer(fit=Fit(milestones=(3, 4), lr=0.5), inner=Fit(epochs=9))
    with pytest.raises(RunError, match=r"Fit has no field 'rate'"):
        changed(recipe, {"fit": {"rate": 1}})


def test_folder_refuses_another_recipe_and_prints_the_difference(tmp_path):
    Run.create(tmp_path / "a", "x", Outer())
    Run.create(tmp_path / "a", "x", Outer())
    with pytest.raises(RunError, match=r"fit.lr is 0.001 there, 0.5 here"):
        Run.create(tmp_path / "a", "x", Outer(fit=Fit(lr=0.5)))
    with pytest.raises(RunError, match="no run folder"):
        Run(tmp_path / "b")
    with pytest.raises(RunError, match="no checkpoint yet"):
        Run(tmp_path / "a").weights()


def test_a_run_from_before_a_field_was_there_has_its_default(tmp_path):
    run = Run.create(tmp_path / "a", "x", Outer())
    held = json.loads((run.folder / "recipe.json").read_text())
    del held["recipe"]["sizes"], held["recipe"]["fit"]["deterministic"]
    (run.folder / "recipe.json").write_text(json.dumps(held))
    assert "sizes" not in Run.create(tmp_path / "a", "x", Outer()).values
    with pytest.raises(RunError, match=r"sizes is \[1, 2\] there, \[3\] here"):
        Run.create(tmp_path / "a", "x", Outer(sizes=(3,)))
    with pytest.raises(RunError, match="another recipe"):
        Run.create(tmp_path / "a", "y", Outer())


def test_deterministic_algorithms_are_on_inside_and_off_after(tmp_path, monkeypatch):
    seen, plain = [], loop._Trainer.one_step
    monkeypatch.setattr(
        loop._Trainer,
        "one_step",
        lambda self, batch: (
            seen.append(torch.are_deterministic_algorithms_enabled()),
            plain(self, batch),
        )[1],
    )
    for wanted in (False, True):
        stages.regress(
            recipe_dict(replace(SHORT, epochs=1, deterministic=wanted)), str(tmp_path / str(wanted))
        )
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(weights_of(tmp_path / "False"), weights_of(tmp_path / "True"))


def test_log_survives_a_cut_line_and_rewinds(tmp_path):
    run = Run.create(tmp_path / "a", "x", Outer())
    for step in range(4):
        run.log(step=step, loss=float(step))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.metrics()] == [0, 1, 2, 3]
    run.rewind(1)
    assert run.curves() == {"step": [0, 1], "loss": [0.0, 1.0]}
    (run.folder / "metrics.jsonl").write_text('{"step": \n{"step": 1}\n')
    with pytest.warns(UserWarning, match="first line 1"):
        assert run.metrics() == [{"step": 1}]


def test_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "a", "x", Outer())
    run.save(5, {"w": torch.ones(2)}, {"step": 5})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        run.save(6, {"w": torch.zeros(2)}, {"step": 6})
    assert run.checkpoint().name == "step-000000005" and torch.equal(
        run.weights()["w"], torch.ones(2)
    )


@pytest.mark.parametrize(
    "workers, optimizer", [(0, "adam"), (0, "sgd"), pytest.param(2, "adam", marks=pytest.mark.slow)]
)
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, workers, optimizer):
    recipe = replace(
        SHORT, workers=workers, optimizer=optimizer, schedule="milestones", milestones=(2, 5)
    )
    stages.regress(recipe_dict(recipe), str(tmp_path / "whole"), 0.3)
    half = tmp_path / "parts"
    _stop_after(recipe, half, epochs=3)
    assert Run(half).checkpoint().name == f"step-{3 * 6:09d}"
    stages.regress(recipe_dict(recipe), str(half), 0.3)
    assert same(weights_of(tmp_path / "whole"), weights_of(half))
    losses = [Run(folder).curves()["loss"] for folder in (tmp_path / "whole", half)]
    assert losses[0] == losses[1] and len(losses[0]) == 18


def _stop_after(recipe, folder, epochs):
    """Train into `folder` with `recipe` but end after some epochs, as a kill right after a
    checkpoint would."""
    made = Run.create(folder, "regress", recipe)
    saved = Run.save

    def save(self, step, weights, state):
        place = saved(self, step, weights, state)
        if step == epochs * 6:
            raise KeyboardInterrupt
        return place

    Run.save = save
    try:
        with pytest.raises(KeyboardInterrupt):
            stages.regress(recipe_dict(recipe), str(folder), 0.3)
    finally:
        Run.save = saved
    made.log(step=epochs * 6 + 1, loss=123.0)  # a line after the checkpoint, to be rewound
    assert made.state == "interrupted"


def test_a_stop_at_an_epochs_end_keeps_the_plateau_exact(tmp_path, monkeypatch):
    recipe = replace(SHORT, schedule="plateau", patience=0, lr=0.5, epochs=8)
    stages.regress(recipe_dict(recipe), str(tmp_path / "whole"))
    saved, sent = Run.log, []

    def log(self, name, **numbers):
        saved(self, name, **numbers)
        if numbers["step"] == 18 and not sent:  # the last step of the third epoch
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr(Run, "log", log)
    with pytest.raises(KeyboardInterrupt, match="step 18"):
        stages.regress(recipe_dict(recipe), str(tmp_path / "cut"))
    stages.regress(recipe_dict(recipe), str(tmp_path / "cut"))
    assert Run(tmp_path / "whole").curves()["lr"] == Run(tmp_path / "cut").curves()["lr"]
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))


def test_an_interrupted_run_goes_on_in_the_same_process(tmp_path, monkeypatch):
    """As in a notebook, which keeps the last traceback and with it everything the interrupted call
    held."""
    saved, sent = Run.log, []

    def log(self, name, **numbers):
        saved(self, name, **numbers)
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(Run, "log", log)
    with pytest.raises(KeyboardInterrupt) as kept:
        stages.regress(recipe_dict(SHORT), str(tmp_path / "a"))
    stages.regress(recipe_dict(SHORT), str(tmp_path / "a"))
    assert Run(tmp_path / "a").state == "complete" and kept.tb is not None


def test_two_processes_never_train_into_one_folder(tmp_path):
    held = Run.create(tmp_path / "a", "regress", SHORT).lock()
    with pytest.raises(BusyError, match="another process is training into"):
        stages.regress(recipe_dict(SHORT), str(tmp_path / "a"))
    held.close()
    stages.regress(recipe_dict(replace(SHORT)), str(tmp_path / "a"))
    assert Run(tmp_path / "a").state == "complete"


def test_broken_weights_are_never_saved(tmp_path, monkeypatch):
    """A finite loss, then a step that overflows: the checkpoint before it must stay."""
    step = torch.optim.Adam.step

    def overflow(self, *args):
        step(self, *args)
        if Run(tmp_path / "a").checkpoint().name == "step-000000006":
            self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    monkeypatch.setattr(
        stages.Regression,
        "forward",
        lambda self, batch: (
            self.encoder[0].weight[0, 0] * 0.0 + 1.0
            if torch.isfinite(self.encoder[0].weight).all()
            else torch.ones((), requires_grad=True),
            {},
        ),
    )
    with pytest.raises(
        FloatingPointError, match="encoder.0.weight is not finite at step 12.*not saved"
    ):
        stages.regress(recipe_dict(SHORT), str(tmp_path / "a"))
    assert Run(tmp_path / "a").checkpoint().name == "step-000000006"


def test_nan_loss_names_step_and_rows(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at step \d+ .*rows \[[\d, ]*\b11\b"
    ) as caught:
        stages.regress(recipe_dict(SHORT), str(tmp_path / "a"), poison=11)
    assert Run(tmp_path / "a").state == "failed" and "checkpoint is whole" in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accumulation_takes_the_same_steps(tmp_path, precision):
    recipe = replace(SHORT, precision=precision)
    for accumulate in (1, 4):
        stages.regress(
            recipe_dict(replace(recipe, accumulate=accumulate)), str(tmp_path / str(accumulate))
        )
    left, right = (weights_of(tmp_path / n) for n in "14")
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=1e-5 if precision == "fp32" else 0.05, rtol=1e-3
        )


def test_schedules_by_hand():
    cosine = Fit(epochs=10, lr=1.0, schedule="cosine", warmup_epochs=2)
    assert learning_rate(cosine, 1) == pytest.approx(0.5) and learning_rate(
        cosine, 6
    ) == pytest.approx(0.5)
    assert learning_rate(cosine, 10) == pytest.approx(0, abs=1e-9)
    ends = replace(cosine, final_lr=0.2)
    assert learning_rate(ends, 6) == pytest.approx(0.6) and learning_rate(
        ends, 10
    ) == pytest.approx(0.2)
    steps = Fit(epochs=10, lr=1.0, schedule="milestones", milestones=(4, 8))
    assert [learning_rate(steps, e) for e in (3.9, 4, 8)] == pytest.approx([1, 0.1, 0.01])
    with pytest.raises(ValueError, match="schedule must be one of constant, .*plateau; got .cosin"):
        learning_rate(Fit(schedule="cosin"), 0)


def pyslowfast_rate(epoch, base, epochs, warmup, start, after_warmup):
    """lr_policy.get_lr_at_epoch of PySlowFast with the cosine policy, COSINE_END_LR 0."""

    def cosine(at):
        offset = warmup if after_warmup else 0.0
        return base * (math.cos(math.pi * (at - offset) / (epochs - offset)) + 1) * 0.5

    if epoch < warmup:
        return start + epoch * (cosine(warmup) - start) / warmup
    return cosine(epoch)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_whole"])
@pytest.mark.parametrize(
    "epochs, lr, warmup, start",
    [
        (196, 0.1, 34, 0.01),
        (250, 0.2, 20, 0.1),
        (8, 0.05, 1, 0.0),
        (10, 1.0, 0, 0.5),
        (10, 0.1, 2.5, 0.3),
    ],
)
def test_warm_up_and_cosine_are_pyslowfasts(schedule, epochs, lr, warmup, start):
    recipe = Fit(epochs=epochs, lr=lr, schedule=schedule, warmup_epochs=warmup, warmup_lr=start)
    for epoch in (
        0,
        0.25,
        0.999,
        1,
        2.4,
        warmup / 2,
        warmup,
        warmup + 0.1,
        epochs / 2,
        epochs - 0.01,
        epochs,
    ):
        wanted = pyslowfast_rate(epoch, lr, epochs, warmup, start, schedule == "cosine")
        assert learning_rate(recipe, epoch) == pytest.approx(wanted, abs=1e-6 * lr)
    if warmup:
        assert learning_rate(recipe, 0) == pytest.approx(start, abs=1e-6)
        top = lr if schedule == "cosine" else lr * 0.5 * (1 + math.cos(math.pi * warmup / epochs))
        assert learning_rate(recipe, warmup) == pytest.approx(top)


def test_a_warm_up_before_steps_ends_at_the_rate():
    steps = Fit(
        epochs=10, lr=1.0, schedule="milestones", milestones=(4,), warmup_epochs=2, warmup_lr=0.2
    )
    assert [learning_rate(steps, e) for e in (0, 1, 2, 4)] == pytest.approx([0.2, 0.6, 1, 0.1])
    plateau = Fit(lr=1.0, schedule="plateau", warmup_epochs=1, warmup_lr=0.5)
    assert [learning_rate(plateau, e, 0.1) for e in (0, 1, 2)] == pytest.approx([0.5, 0.1, 0.1])


def test_nesterov_is_set_and_looks_ahead():
    layer, pace = torch.nn.Linear(3, 2, bias=False), 0.0
    recipe = Fit(optimizer="sgd", lr=0.1, weight_decay=0.0, nesterov=True)
    optimizer, by_hand = make_optimizer(recipe, layer), layer.weight.detach().clone()
    for step in range(3):
        slope = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        layer.weight.grad = slope
        optimizer.step()
        pace = 0.9 * pace + slope
        by_hand = by_hand - 0.1 * (slope + 0.9 * pace)
        torch.testing.assert_close(layer.weight.detach(), by_hand)
    assert not make_optimizer(replace(recipe, nesterov=False), layer).param_groups[0]["nesterov"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_fused_optimizer_of_a_cpu_with_avx2_differs_by_rounding(optimizer, monkeypatch):
    recipe, found = Fit(optimizer=optimizer, lr=0.1, weight_decay=0.1), {}
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        torch.manual_seed(0)
        layer = torch.nn.Linear(30, 20)
        made = make_optimizer(recipe, layer)
        assert bool(made.defaults["fused"]) == (capability == "AVX2")
        for _ in range(5):
            layer.weight.grad, layer.bias.grad = torch.randn(20, 30), torch.randn(20)
            made.step()
        found[capability] = layer.weight.detach()
    torch.testing.assert_close(found["AVX2"], found["AVX512"], atol=1e-6, rtol=1e-5)


class Grouped(torch.nn.Module):
    """A backbone at a third of the rate, a head, and a part that is frozen."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.BatchNorm3d(4))
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
        self.head = torch.nn.Linear(4, 2)

    def parameter_groups(self):
        return [
            {"params": list(self.head.parameters()) + list(self.frozen.parameters()), "scale": 1.0},
            {"params": list(self.encoder.parameters()), "scale": 0.3},
        ]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_vectors", [True, False])
def test_decay_spares_norms_and_biases_where_asked(decay_vectors, optimizer):
    method = Grouped()
    recipe = Fit(optimizer=optimizer, lr=0.5, weight_decay=0.2, decay_vectors=decay_vectors)
    made, names = make_optimizer(recipe, method), {p: name for name, p in method.named_parameters()}
    held = [(names[p], group) for group in made.param_groups for p in group["params"]]
    wanted = {name for p, name in names.items() if p.requires_grad}
    assert sorted(name for name, _ in held) == sorted(wanted)  # every one, once
    for name, group in held:
        vector = method.get_parameter(name).ndim == 1
        assert group["weight_decay"] == (0.0 if vector and not decay_vectors else 0.2), name
        assert group["scale"] == (0.3 if name.startswith("encoder") else 1.0)
    before = {name: torch.ones_like(p) for p, name in names.items()}
    for p in names:
        p.data.fill_(1.0)
        p.grad = torch.zeros_like(p)
    made.step()
    for p, name in names.items():  # without a slope only decay moves
        moves = p.requires_grad and (p.ndim > 1 or decay_vectors)
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.2 * moves))


def test_every_step_and_every_rank_draws_its_own_numbers(tmp_path, monkeypatch):
    """Ranks that are seeded alike would give each other's clips the same alpha."""
    drawn = {}

    class Draws(stages.Regression):
        def forward(self, batch):
            drawn.setdefault(key, []).append(torch.rand(2).tolist())
            return super().forward(batch)

    batches = torch.utils.data.DataLoader(
        stages.Points(), batch_sampler=[[(0, row) for row in range(8)]]
    )
    batch = next(iter(batches))
    for key in ((0, 0), (0, 1), (0, 7), (1, 0)):
        monkeypatch.setattr(loop.ranks, "rank", lambda rank=key[1]: rank)
        recipe = Fit(seed=key[0], batch=8, accumulate=2)
        run = Run.create(tmp_path / f"{key}", "x", recipe)
        trainer = loop._Trainer(Draws(0.0), batches, recipe, run, "none", None)
        for _ in range(3):
            trainer.one_step(batch)
    rows = [tuple(numbers) for several in drawn.values() for numbers in several]
    assert len(rows) == len(set(rows)) == 4 * 3 * 2


def test_plateau_lowers_the_rate_and_the_state_is_resumed(tmp_path):
    recipe = replace(SHORT, schedule="plateau", patience=0, lr=0.5, epochs=8)
    stages.regress(recipe_dict(recipe), str(tmp_path / "a"))
    rates = Run(tmp_path / "a").curves()["lr"]
    assert rates[0] == 0.5 and rates[-1] < 0.5


def test_batch_must_divide_over_ranks_and_parts(tmp_path):
    with pytest.raises(ValueError, match="not divisible"):
        stages.regress(recipe_dict(replace(SHORT, accumulate=3)), str(tmp_path / "a"))
    with pytest.raises(ValueError, match="optimizer must be one of adam, adamw, sgd; got .lamb"):
        stages.regress(recipe_dict(replace(SHORT, optimizer="lamb")), str(tmp_path / "b"))


def test_a_log_gets_the_first_line_the_last_and_few_between(tmp_path, capsys):
    recipe = recipe_dict(SHORT)
    stages.regress(recipe, str(tmp_path / "run"), 0.3, progress="lines")
    said = [line for line in capsys.readouterr().out.splitlines() if " step " in line]
    steps = [line["step"] for line in Run(tmp_path / "run").metrics()]
    assert len(steps) > 2 and [int(line.split(" step ")[1].split()[0]) for line in said] == [
        steps[0],
        steps[-1],
    ]


def test_a_run_without_one_optimizer_step_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(stages.Regression, "ready", False, raising=False)
    with pytest.raises(RunError, match="took no optimizer step in 36 iterations"):
        stages.regress(recipe_dict(SHORT), str(tmp_path / "a"))
    assert Run(tmp_path / "a").state == "failed"
