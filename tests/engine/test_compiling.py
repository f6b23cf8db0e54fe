"""Fit.compile: compiled encoders train as eager ones, and validation stays eager."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests import stages
from tests.engine.test_loop import SHORT, same, weights_of
from tests.methods.test_synchronization import RECIPES, batch_of
from vidbench.data.loading.dataset import Batches
from vidbench.engine import loop, ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError
from vidbench.system.errors import InputError

CSN = RECIPES["rms"][1]
NETS = {
    "coclr": RECIPES["coclr"],  # three S3Ds: query, key, teacher
    "rms": RECIPES["rms"],
    "mvit": (
        RECIPES["rms"][0],
        replace(
            CSN,
            network="mvit",
            network_args={
                "preset": "tiny",
                "width": 8,
                "size": 48,
                "stochastic_depth": 0.2,
                "norms": "autocast",
                "checkpointing": True,
            },
            regularizer=None,
        ),
    ),
    "csn": (RECIPES["rms"][0], replace(CSN, regularizer=None)),
}
FIT = Fit(batch=4, optimizer="sgd", lr=0.1)


def trained(name: str, compiled: str) -> tuple[list[float], dict]:
    """Losses and state of two steps."""
    build, recipe = NETS[name]
    torch.manual_seed(0)
    method, run = build(recipe).train(), SimpleNamespace(folder=Path())
    if name == "coclr":
        method.queue._enqueued = recipe.queue  # as after the first steps
    loader, fit = SimpleNamespace(batch_sampler=range(10)), replace(FIT, compile=compiled)
    trainer = loop._Trainer(method, loader, fit, run, "none", None)
    for seed in range(2):
        batch, rng = batch_of(4 // ranks.world()), torch.Generator().manual_seed(seed)
        shape = batch["rgb"].shape
        batch |= {stream: torch.randn(shape, generator=rng) for stream in ("rgb", "flow")}
        trainer.one_step(batch)
    return [float(numbers["loss"]) for _, _, numbers in trainer.pending], method.state_dict()


def compare(name: str, backend: str | None = "aot_eager", atol: float = 1e-6) -> None:
    """Check that compiled steps are eager ones, with the same names in the state."""
    losses, state = trained(name, "")
    with torch.compiler.set_stance(force_backend=backend):
        found, compiled = trained(name, "default")
    assert found == pytest.approx(losses, rel=10 * atol)
    torch.testing.assert_close(compiled, state, atol=atol, rtol=10 * atol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coclr", "rms", "mvit"])
def test_traced_encoders_train_as_eager_ones(name):
    compare(name)


@pytest.mark.slow
def test_traced_encoders_train_as_eager_ones_on_two_ranks():
    ranks.launch("tests.engine.test_compiling:compare", "mvit", nproc=2)


@pytest.mark.long
def test_inductor_trains_as_eager():
    # rounding grows in batch norms of few values: a clip times 1 + 1e-7 moves weights as far
    compare("csn", None, atol=1e-3)


class Small(nn.Linear):
    """A layer with dropout, so that random numbers matter."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.2, self.training)


class Chooses(nn.Linear):
    """A layer with a branch that depends on values, which no graph can hold."""

    def forward(self, x):
        return super().forward(x) if float(x.sum()) > 0 else x[:, :1]


def run_of(folder: Path, compiled: str, layer: type[nn.Linear] = Small) -> Path:
    """Three epochs with dropout, validated on clips of another number each time."""
    recipe = replace(SHORT, epochs=3, compile=compiled)
    torch.manual_seed(recipe.seed)
    method = stages.Regression(0.0)
    method.encoder = layer(6, 1)
    loader = DataLoader(stages.Points(), batch_sampler=Batches(48, recipe.batch, seed=recipe.seed))

    @torch.no_grad()
    def validate(epoch: float) -> dict[str, float]:
        method.eval()
        return {"mean": float(method.encoder(torch.ones(1 + int(epoch), 6)).mean())}

    loop.fit(method, loader, recipe, Run.create(folder, "line", recipe), "none", validate)
    return folder


def test_a_compiled_run_has_one_graph_and_validates_eagerly(tmp_path):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with torch.compiler.set_stance(force_backend=backend):
        compiled = run_of(tmp_path / "compiled", "default")
    assert len(graphs) == 1
    eager = run_of(tmp_path / "eager", "")
    assert same(weights_of(compiled), weights_of(eager))
    seen, wanted = (Run(folder).metrics("monitor") for folder in (compiled, eager))
    assert seen == wanted
    with pytest.raises(RunError, match="compile is 'default' there, '' here"):
        run_of(compiled, "")


def test_what_cannot_be_compiled_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"(?s)cannot be compiled: .*fit.compile = ''"):
        run_of(tmp_path / "run", "default", Chooses)
    assert Run(tmp_path / "run").state == "failed"
    with pytest.raises(InputError, match="compile must be '' if deterministic is true"):
        Fit(compile="default", deterministic=True)
