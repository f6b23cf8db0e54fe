"""What only a CUDA device can show, `make test-gpu`: the CPU's numbers, runs to the bit, NCCL,
shares of a batch."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import stages
from tests.batches import on_device
from tests.data.flow.test_tvl1 import end_point, textures
from tests.data.loading.test_transforms import levels, moving_clip
from tests.engine.test_loop import SHORT, same, weights_of
from tests.headless.test_batch import PARAMETERS, table
from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from tests.methods.test_classify import SMALL
from tests.methods.test_multitrain import RECIPE as JOINT
from vidbench import models
from vidbench.data.flow import store as flow_store
from vidbench.data.flow import tvl1
from vidbench.data.loading import augmentation, batched, transforms
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.prefetch import prepared
from vidbench.engine.runs import Run, recipe_dict
from vidbench.evaluate import features
from vidbench.methods import classify, coclr, multitrain
from vidbench.methods.multitrain import Part
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import Regularizer, build_regularizer
from vidbench.tensors.scaling import Filter, RandomMeanScaling, _Scaled, random_scaling, scaled

pytestmark = pytest.mark.gpu
TINY_S3D = {"width": 0.125, "units": (1, 1, 1)}
NETS = {
    "s3d": TINY_S3D,
    "slowonly": {"depth": 50},
    "slowfast": {},
    "csn": {"width": 0.25},
    "mvit": {"preset": "tiny"},
}


@pytest.fixture(scope="module", autouse=True)
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa: no comparison with a CPU
    yield torch.device("cuda")
    torch.backends.cudnn.allow_tf32 = kept


# ------------------------------------------------------------------------- the numbers of the CPU


@pytest.mark.parametrize("name", NETS)
def test_networks_and_their_gradients_are_the_cpus(name, device):
    torch.manual_seed(0)
    net = models.build(name, **NETS[name]).double()
    clips = torch.randn(2, 3, 16 if name == "slowfast" else 8, 64, 64, dtype=torch.double)
    found = []
    for where in ("cpu", device):
        net.to(where).zero_grad()
        out = net(clips.to(where))
        out.square().mean().backward()
        found.append(
            [
                t.detach().cpu().clone()
                for t in (out, *(p.grad for p in net.parameters()))
                if t is not None
            ]
        )
    assert len(found[0]) > 10
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kernel", [3, (1, 3, 3), 5])
def test_random_mean_scaling_is_the_cpus(kernel, device):
    torch.manual_seed(0)
    x, g, smoother, found = (
        torch.randn(2, 4, 6, 7, 5),
        torch.randn(2, 4, 6, 7, 5),
        Filter(kernel),
        [],
    )
    for where in ("cpu", device):
        leaf = x.to(where).requires_grad_()
        torch.manual_seed(1)
        factor = torch.empty(2, 1, 1, 1, 1).uniform_(0, 2)
        y = leaf + (factor.to(where) - 1) * smoother(leaf)
        found.append((y.detach().cpu(), torch.autograd.grad(y, leaf, g.to(where))[0].cpu()))
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=1e-5, rtol=1e-5)
    drawn = [
        random_scaling(
            x.to(device), True, smoother, generator=torch.Generator(device).manual_seed(3)
        )
        for _ in range(2)
    ]
    assert torch.equal(*drawn) and not torch.equal(drawn[0].cpu(), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kernel", [3, (1, 3, 3)])
def test_the_kernel_of_random_mean_scaling_gives_pytorchs_numbers(kernel, dtype, layout, device):
    torch.manual_seed(0)
    for shape in ((3, 70, 5, 7, 7), (2, 64, 4, 14, 14), (1, 1, 1, 1, 1), (2, 24, 1, 1, 6)):
        x, g = (
            torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout) for _ in "xg"
        )
        low = torch.rand(shape[0], 1, 1, 1, 1, device=device, dtype=dtype)
        x.requires_grad_()
        y = scaled(x, low, low, Filter(kernel))
        exact = x.detach().double().requires_grad_()
        wanted = _Scaled.apply(exact, low.double(), low.double(), Filter(kernel))
        assert "scale_low" in str(y.grad_fn) and y.stride() == x.stride()
        found = torch.autograd.grad(y, x, g)[0]
        close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-5}
        torch.testing.assert_close(y.double(), wanted, **close)
        torch.testing.assert_close(
            found.double(), torch.autograd.grad(wanted, exact, g.double())[0], **close
        )


def test_the_kernel_of_random_mean_scaling_counts_beyond_32_bits(device):
    """A feature of 2^31 + 2^22 values: the last clip is scaled as it is alone."""
    from vidbench.tensors.kernels import scale_low

    like = {"device": device, "dtype": torch.bfloat16, "memory_format": torch.channels_last_3d}
    x = torch.empty(2, 16, 2, 2**19 + 2**10, 64, **like).normal_()
    low = torch.tensor([0.5, -0.5], device=device, dtype=torch.bfloat16).view(2, 1, 1, 1, 1)
    whole, alone = scale_low(x, None, low, 3), scale_low(x[1:], None, low[1:], 3)
    assert x.numel() > 2**31 and torch.equal(whole[1:], alone)


def test_random_mean_scaling_is_one_graph_for_torch_compile(device):
    x = torch.randn(2, 64, 4, 7, 7, device=device).requires_grad_()
    module = RandomMeanScaling().train()
    found = []
    for call in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(0)
        y = call(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_pools_of_attention_are_the_modules_and_repeat(dtype, device):
    from tests.models.test_kernels import same_as_pools

    same_as_pools(96, (10, 9, 14), (1, 2, 8), 1, dtype, heads=2, clips=2, device=device)
    same_as_pools(64, (1, 14, 14), (2, 1, 4), 0, dtype, heads=3, clips=2, device=device)


@pytest.mark.parametrize("compiled", [False, True])
def test_flow_is_the_cpus(compiled, device):
    first, second = textures(3, 128, 128)
    found = tvl1.estimate(first, second, device=device, compiled=compiled)
    assert found.is_cuda and end_point(found.cpu(), tvl1.estimate(first, second)).mean() <= 0.02


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_batched_augmentation_shows_the_workers_pictures(stream, device):
    augment = replace(augmentation.PRESETS["vidbench"], size=64, strong=1.0)
    clips, rng = torch.stack([moving_clip(seed=s) for s in range(6)]), np.random.default_rng(2)
    drawn = [augmentation.draw(augment, *clips.shape[-2:], clips.shape[1], rng) for _ in clips]
    batch = on_device(zip(clips, drawn, strict=True), augment, stream, "cuda")
    assert batch.is_cuda
    for clip, view, got in zip(clips, drawn, batch.cpu(), strict=True):
        one = transforms.apply(clip, view, augment, stream)
        assert np.abs(levels(one, augment, stream) - levels(got, augment, stream)).mean() <= 1.0, (
            view
        )


# -------------------------------------------------------------------------------- whole trainings


@pytest.fixture(scope="module")
def world(toy_tiny, tmp_path_factory) -> Path:
    """The tiny toy world as `videos` with its flow, and as two data sets."""
    folder = tmp_path_factory.mktemp("world")
    assert not flow_store.extract(toy_tiny, folder / "flow", "dis", workers=1).failed
    toy_tiny.save(folder / "videos")
    for name, keep in (
        ("first", toy_tiny.label < 3),
        ("second", (toy_tiny.label >= 3) & (toy_tiny.label < 5)),
    ):
        rows = toy_tiny.select(mask=keep)
        low = int(rows.label.min())
        classes = tuple(toy_tiny.classes[low : int(rows.label.max()) + 1])
        replace(rows, label=rows.label - low, classes=classes).save(folder / name)
    return folder


def stage(name: str, world: Path, **fit):
    """A method's module and a recipe of two epochs on the toy world."""
    fit = Fit(**{"epochs": 2, "batch": 16, "lr": 0.01, "log_every": 1} | fit)
    videos, rms = str(world / "videos"), Regularizer("rms", stages=(4, 5))
    match name:
        case "infonce":
            return coclr, replace(
                coclr.PRESETS["tiny"].alone, network_args=TINY_S3D, fit=fit, manifest=videos
            )
        case "rms":
            return classify, replace(
                SMALL,
                network="slowonly",
                network_args={"depth": 50, "width": 0.125},
                regularizer=rms,
                fit=fit,
                manifest=videos,
            )
        case "multitrain":
            clip = replace(SMALL.clip, frames=8, augment=replace(SMALL.clip.augment, size=64))
            parts = tuple(Part(part, str(world / part)) for part in ("first", "second"))
            return multitrain, replace(
                JOINT,
                parts=parts,
                mixing=(Mixing("cutmix"),),
                network="mvit",
                fit=fit,
                network_args={"preset": "tiny"},
                clip=clip,
            )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["infonce", "rms", "multitrain"])
def test_a_deterministic_run_repeats_and_resumes_to_the_bit(name, precision, world, tmp_path):
    method, recipe = stage(name, world, deterministic=True, precision=precision)
    for folder in ("whole", "again"):
        method.train(recipe_dict(recipe), str(tmp_path / folder), "none")
    half = replace(recipe, fit=replace(recipe.fit, epochs=1))
    method.train(recipe_dict(half), str(tmp_path / "half"), "none")
    held = tmp_path / "half" / "recipe.json"
    held.write_text(held.read_text().replace('"epochs": 1', '"epochs": 2'))
    method.train(recipe_dict(recipe), str(tmp_path / "half"), "none")
    whole, again, resumed = (weights_of(tmp_path / folder) for folder in ("whole", "again", "half"))
    assert same(whole, again), "the same seed on the same machine"
    assert same(whole, resumed), "a resumed run"
    assert Run(tmp_path / "whole").curves()["loss"] == Run(tmp_path / "half").curves()["loss"]
    assert all(
        bool(value.isfinite().all()) for value in whole.values() if value.is_floating_point()
    )


def test_augmentation_on_the_card_is_the_cpus_and_repeats(world, tmp_path, device):
    """The step's stream is busy, so that a batch which is used too early, or overwritten, shows."""
    method, recipe = stage("infonce", world, deterministic=True, augment_on="device")
    loader, wanted = (method.loader(recipe) for _ in range(2))
    for given, batch in zip(prepared(loader, device, batched.finish), wanted, strict=True):
        torch.cuda._sleep(10**8)
        given = {name: value.clone().cpu() for name, value in given.items()}
        for name, value in batched.finish(batch, torch.device("cpu")).items():
            # a rounding tie may fall to the other level
            assert (given[name] - value).abs().float().mean() < 0.01, name
    for folder in ("whole", "again"):
        method.train(recipe_dict(recipe), str(tmp_path / folder), "none")
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "again"))


@pytest.mark.parametrize("name", ["infonce", "rms", "multitrain"])
def test_compiled_encoders_train(name, world, tmp_path):
    method, recipe = stage(name, world, compile="default", precision="bf16")
    if name == "multitrain":
        recipe = replace(recipe, network_args={**recipe.network_args, "norms": "autocast"})
    method.train(recipe_dict(recipe), str(tmp_path / "run"), "none")
    assert Run(tmp_path / "run").state == "complete"  # losses and weights are finite


def test_co_training_of_both_streams_runs_and_its_features_are_the_cpus(
    world, tmp_path, monkeypatch
):
    method, recipe = stage("infonce", world)
    recipe = replace(recipe, flow=str(world / "flow"))
    for stream in ("rgb", "flow"):
        method.train(recipe_dict(replace(recipe, stream=stream)), str(tmp_path / stream), "none")
    near = replace(
        recipe, positives="mined", student=str(tmp_path / "rgb"), teacher=str(tmp_path / "flow")
    )
    method.train(recipe_dict(near), str(tmp_path / "coclr"), "none")
    trained = Run(tmp_path / "coclr")
    assert trained.state == "complete" and [v for v in trained.curves()["purity"] if v is not None]
    rows = Manifest.load(world / "videos").select(split="test")
    gpu = features.extract(trained, rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = features.extract(trained, rows)
    np.testing.assert_allclose(gpu.values, cpu.values, atol=1e-4)


# -------------------------------------------------------------------------- processes and devices


def test_one_rank_with_nccl_gives_one_processes_weights_and_goes_on_after_a_kill(tmp_path):
    backend = ranks.launch(
        "torch.distributed:get_backend", nproc=1, restarts=1, log_dir=tmp_path / "logs"
    )
    assert backend == "nccl"
    recipe = recipe_dict(replace(SHORT, epochs=3))
    stages.regress(recipe, str(tmp_path / "one"), 0.2)
    torn = (recipe, str(tmp_path / "run"), 0.2, -1, 0.0, (str(tmp_path / "torn"), "killed"))
    ranks.launch("tests.stages:regress", *torn, nproc=1, restarts=1, log_dir=tmp_path / "logs")
    assert (tmp_path / "torn").exists() and same(
        weights_of(tmp_path / "one"), weights_of(tmp_path / "run")
    )


def test_more_ranks_than_gpus_are_refused():
    count = torch.cuda.device_count() + 1
    with pytest.raises(
        ValueError, match=f"{count} processes want {count} GPUs, one each; here are {count - 1}"
    ):
        ranks.launch("tests.stages:says", "hi", nproc=count)


def test_rows_of_a_batch_see_their_share_of_the_gpus(tmp_path):
    code = """import os, torch
from pathlib import Path
Path(runs_dir, str(epochs)).write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {torch.cuda.get_device_name()}")"""
    notebook(tmp_path / "book.ipynb", code, parameters=PARAMETERS)
    (tmp_path / "runs_dir").mkdir()
    rows = f"notebook: book.ipynb\nparameters: {{runs_dir: {tmp_path / 'runs_dir'}}}\ngrid: {{epochs: [1, 2]}}\n"
    assert (
        run("batch", table(tmp_path / "t.yaml", rows), "--out", tmp_path / "out", "--processes", 2)
        == 0
    )
    name = torch.cuda.get_device_name()
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    wanted = [f"{first} {name}"] * 2 if torch.cuda.device_count() == 1 else None
    said = sorted(path.read_text() for path in (tmp_path / "runs_dir").iterdir())
    assert len(said) == 2 and (said == wanted or wanted is None and len(set(said)) == 2)


def test_memory_of_a_regularized_step_is_that_of_a_plain_one(device):
    """RMS keeps no feature for the backward pass, so the peak hardly moves."""
    clips, peaks = torch.randn(4, 3, 8, 112, 112, device=device), []
    for regularizer in (None, build_regularizer("rms", stages=(4, 5))):
        net = models.build("slowonly", depth=50, regularizer=regularizer).to(device).train()
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            net(clips).mean().backward()
        peaks.append(torch.cuda.max_memory_allocated())
        del net
    assert peaks[1] < 1.02 * peaks[0]
