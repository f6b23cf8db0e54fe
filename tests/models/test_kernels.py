"""The kernels of MViT's pools without a GPU: Triton interprets them, or compiles them for one.

Triton decides when a kernel is defined whether it interprets it, so these cases run in processes of
their own (`interpret`). The interpreter takes seconds for a map of a few positions."""

import os
import re
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import nn

from tests import ROOT
from tests.models.test_mvit import shaken
from vidbench import models
from vidbench.models.attention import Attention, Pool, pools_fused
from vidbench.system import kernels as rule

triton = pytest.importorskip("triton", reason="triton's wheels exist for Linux only")
# Older interpreters cannot run `range` of a kernel's values with NumPy from 2.4 on.
interpreted = pytest.mark.skipif(
    Version(triton.__version__) < Version("3.9"), reason="the interpreter of triton before 3.9"
)
# A bound of the relative error. Triton's interpreter cuts bfloat16 off where a GPU rounds.
CLOSE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def interpret(what: str, **more: str) -> None:
    """Run a statement of this module where Triton interprets kernels."""
    run = subprocess.run(
        [sys.executable, "-c", f"from tests.models.test_kernels import *; {what}"],
        env={**os.environ, "TRITON_INTERPRET": "1", rule.SWITCH: "on", **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    got, want = got.detach().double(), want.detach()
    return float((got - want).norm() / want.norm().clamp(min=1e-9))


def same_as_pools(width, grid, strides, first, dtype=torch.float32, heads=1, clips=1, device="cpu"):
    """Values and all gradients are those of three Pool modules in float64; on a GPU twice to the bit."""
    from vidbench.models import kernels

    kernels.PROGRAMS = 4  # as on a GPU, each program of the sums has several items
    torch.manual_seed(0)
    layers = nn.ModuleList(Pool(width, stride, 1e-5) for stride in strides).to(device)
    for layer in layers:
        nn.init.normal_(layer.norm.weight)
        nn.init.normal_(layer.norm.bias)
    qkv = torch.randn(clips, first + prod(grid), 3 * heads * width, device=device)
    qkv = qkv.to(dtype).requires_grad_()

    def call():
        given = [qkv, *layers.parameters()]  # of each pool the convolution's, then the norm's
        pooled = kernels.pools(qkv, given[1:], grid, strides, 1e-5)
        torch.manual_seed(1)
        # as attention gives them: heads behind positions in memory
        grads = [torch.randn_like(y.transpose(1, 2)).transpose(1, 2) for y in pooled]
        return grads, [*pooled, *torch.autograd.grad(pooled, given, grads)]

    grads, got = call()
    assert all(x.dtype == dtype for x in got[:4])
    if qkv.is_cuda:
        assert all(torch.equal(x, y) for x, y in zip(got, call()[1], strict=True))
    exact = qkv.detach().double().requires_grad_()
    parts = exact.unflatten(2, (3, heads, width)).permute(2, 0, 3, 1, 4)
    pooled = [layer.double()(x, grid) for layer, x in zip(layers, parts, strict=True)]
    given = [exact, *layers.parameters()]
    want = [*pooled, *torch.autograd.grad(pooled, given, [g.double() for g in grads])]
    errors = [distance(x, y) for x, y in zip(got, want, strict=True)]
    assert len(errors) == 13 and max(errors) < CLOSE[dtype], errors


def attention(token: bool = False) -> tuple[Attention, torch.Tensor]:
    """A tiny attention with relative positions, and tokens of a grid (1,2,3)."""
    torch.manual_seed(0)
    layer = Attention(4, 4, 1, (1, 2), 1e-6, (1, 3, 5))
    nn.init.normal_(layer.qkv.weight)
    for table in layer.relative.values():
        nn.init.normal_(table)
    return layer, torch.randn(1, 6 + token, 4)


def same_compiled() -> None:
    """One graph, and the eager kernels' numbers to the bit, also of the gradients."""
    layer, x = attention()
    assert pools_fused(x.device)
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    compiled = whole(x, (1, 2, 3))  # imports the kernels, as a run's first step does
    plain = layer(x, (1, 2, 3))
    assert torch.equal(plain, compiled)
    pairs = [torch.autograd.grad(y.square().sum(), layer.parameters()) for y in (plain, compiled)]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


def same_network(**form) -> None:
    """A network's features and gradients are those of PyTorch's operations."""
    torch.manual_seed(0)
    net = shaken(models.build("mvit", **form)).train()
    clips, found = torch.randn(1, 3, net.form.frames, net.form.size, net.form.size), []
    for switch in ("on", "off"):
        os.environ[rule.SWITCH] = switch
        features = net(clips)
        torch.manual_seed(1)
        loss = (features * torch.randn_like(features)).sum()
        loss.backward()
        # attention does not change if all keys move: this gradient is 0 but for rounding
        seen = {n: p.grad for n, p in net.named_parameters() if "pool_k.norm.bias" not in n}
        found.append([features.detach(), *seen.values()])
        net.zero_grad(set_to_none=True)
    errors = [distance(x, y.double()) for x, y in zip(*found, strict=True)]
    assert max(errors) < 1e-4, errors
    assert any(errors)  # else both ran the same way


# ------------------------------------------------------------------------------------- interpreted


@pytest.mark.slow
@interpreted
def test_pools_and_their_gradients_are_the_modules():
    interpret("same_as_pools(5, (2, 3, 2), (1, 2, 2), first=1)")


@pytest.mark.slow
@interpreted
def test_attention_compiles_to_one_graph():
    interpret("same_compiled()")


# width, grid, strides, tokens before the grid's, type, heads, clips
SWEEP = [
    (12, (3, 5, 4), (2, 1, 4), 0, "float32", 2, 2),
    (8, (1, 9, 10), (1, 8, 8), 0, "float32", 1, 1),  # a picture
    (4, (9, 1, 5), (1, 4, 3), 2, "float32", 2, 1),  # two chunks of time, two blocks of a row
    (8, (2, 4, 3), (1, 3, 2), 1, "bfloat16", 1, 2),
    (6, (3, 2, 3), (1, 2, 4), 0, "float16", 2, 1),
    (130, (1, 2, 2), (1, 1, 2), 1, "float32", 1, 1),  # two warps
]


@pytest.mark.long
@interpreted
@pytest.mark.parametrize("width, grid, strides, first, dtype, heads, clips", SWEEP)
def test_pools_of_many_shapes(width, grid, strides, first, dtype, heads, clips):
    interpret(
        f"same_as_pools({width}, {grid}, {strides}, {first}, torch.{dtype}, {heads}, {clips})"
    )


@pytest.mark.long
@interpreted
@pytest.mark.parametrize("official", [False, True])
def test_a_network_by_kernels_is_the_one_by_modules(official):
    form = dict(preset="tiny", width=4, frames=4, size=16, kv_stride=4)
    interpret(f"same_network(**{form | dict(relative=official, class_token=official)})")


# ----------------------------------------------------------------------------------------- chosen


@pytest.mark.parametrize("why", ["a CPU", "switched off", "float64"])
def test_without_kernels_the_modules_run(why, monkeypatch):
    layer, x = attention(token=True)
    if why != "a CPU":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    if why == "float64":
        layer, x = layer.double(), x.double()
    if why == "switched off":
        monkeypatch.setenv(rule.SWITCH, "off")
    assert pools_fused(x.device) == (why == "float64")
    qkv = layer.qkv(x)
    parts = qkv.unflatten(2, (3, 1, 4)).permute(2, 0, 3, 1, 4)
    pools = layer.pool_q, layer.pool_k, layer.pool_v
    want = [pool(part, (1, 2, 3)) for pool, part in zip(pools, parts, strict=True)]
    assert all(map(torch.equal, layer.pooled(qkv, (1, 2, 3)), want))


# ------------------------------------------------------------------------------------- for a GPU


def compiled(kernel, pointers: dict[str, str], constants: dict[str, int]):
    """A kernel for compute capability 9.0, with strides and addresses as in MViT: multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vidbench.models import kernels

    kinds = dict.fromkeys(kernel.arg_names, "i32") | {"eps": "fp32"} | pointers
    signature = {
        name: "constexpr" if name in constants else kinds[name] for name in kernel.arg_names
    }
    even = {*pointers, "N", "M", "gb", "gh", "gn"} & set(kernel.arg_names) - set(constants)
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    options = {"num_warps": 1} | kernels.OPTIONS
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def resources(kernel, folder: Path) -> dict[str, int]:
    """Registers, stack and local memory of a compiled kernel in bytes."""
    tools, cubin = Path(triton.__file__).parent / "backends" / "nvidia" / "bin", folder / "kernel"
    cubin.write_bytes(kernel.asm["cubin"])
    text = subprocess.run(
        [tools / "cuobjdump", "--dump-resource-usage", cubin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def fits_hopper(folder: str) -> None:
    """No spills, and only wide loads and stores."""
    from vidbench.models import kernels

    x, w, width = "*bf16", "*fp32", {"D": 96, "BD": 128}
    for kernel, pointers, constants in [
        (kernels._forward, {"x": x, "y": x, "w": w}, {"S": 1}),
        (kernels._norm_backward, {"x": x, "g": x, "e": x, "s": w, "w": w}, {"S": 1}),
        (kernels._input_backward, {"e": x, "dx": x, "w": w}, {"S": 1, "K": 3}),
        (kernels._input_backward, {"e": x, "dx": x, "w": w}, {"S": 2, "K": 2}),
        (kernels._weight_backward, {"x": x, "e": x, "s": w}, {"S": 1}),
    ]:
        made = compiled(kernel, pointers, width | constants)
        used = resources(made, Path(folder))
        assert used["STACK"] == used["LOCAL"] == 0, (kernel, used)
        wide = re.findall(r"\b(?:ld|st)\.global\S*\.v(\d)\.b32", made.asm["ptx"])
        every = re.findall(r"\b(?:ld|st)\.global", made.asm["ptx"])
        # four numbers of a thread at once: 8 bytes in bfloat16, 16 of the float32 table
        assert len(wide) == len(every) and set(wide) <= {"2", "4"}, (kernel, every)


@pytest.mark.slow
def test_kernels_fit_the_registers_of_hopper(tmp_path):
    interpret(
        f"fits_hopper({str(tmp_path)!r})", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)
    )
