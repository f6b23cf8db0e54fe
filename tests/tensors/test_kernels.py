"""The kernel of random mean scaling without a GPU: Triton interprets it, or compiles it for one.

Triton decides when it is imported whether it interprets kernels, so these cases run in a process of
their own (`interpret`)."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import ROOT
from vidbench.models.costs import count
from vidbench.system import kernels
from vidbench.tensors import scaling
from vidbench.tensors.scaling import Filter, _Scaled, random_scaling, scaled

triton = pytest.importorskip("triton", reason="triton's wheels exist for Linux only")
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# Relative error of one value. Triton's interpreter cuts bfloat16 off where a GPU rounds.
CLOSE = {torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-7}
# shape, dtype, channels-last, kernel, axes of the batch and of channels that have factors, own
CASES = [
    ((2, 70, 3, 5, 7), "bfloat16", True, 3, "clip", False),
    ((2, 70, 3, 5, 7), "float32", True, (1, 3, 3), "channel", True),
    ((2, 16, 4, 6, 6), "float16", True, 3, "clip", True),
    ((3, 5, 1, 2, 1), "float32", True, (3, 3, 3), "batch", True),
    ((1, 3, 2, 1, 9), "float32", True, 3, "channel", False),
    ((2, 24, 7, 5), "bfloat16", True, 3, "clip", False),
    ((2, 5, 4, 7, 6), "float32", False, 3, "clip", True),
]


def interpret(what: str) -> None:
    """Run a statement of this module where Triton interprets kernels."""
    run = subprocess.run(
        [sys.executable, "-c", f"from tests.tensors.test_kernels import *; {what}"],
        env={**os.environ, "TRITON_INTERPRET": "1", kernels.SWITCH: "on"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def inputs(shape, dtype, last, level, own):
    """x, the gradient of y, factors or None, factors of the low part: drawn once for each case."""
    torch.manual_seed(len(shape) * shape[1])
    dtype = getattr(torch, dtype)
    layout = LAST[len(shape)] if last else torch.contiguous_format
    x, g = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
    size = {"clip": (shape[0], 1), "batch": (1, 1), "channel": shape[:2]}[level]
    size += (1,) * (len(shape) - 2)
    factors = torch.rand(size).to(dtype) if own else None
    return x.requires_grad_(), g, factors, torch.randn(size).to(dtype)


def check(shape, dtype, last, kernel, level, own):
    """Compare one case, values and gradients, with PyTorch's operations in float64."""
    x, g, keep, low = inputs(shape, dtype, last, level, own)
    assert scaling._kernel_depth(x, low, Filter(kernel))
    y = scaled(x, keep, low, Filter(kernel))
    assert y.dtype == x.dtype and y.stride() == x.stride()
    double = x.detach().double().requires_grad_()
    wanted = _Scaled.apply(
        double, keep if keep is None else keep.double(), low.double(), Filter(kernel)
    )
    pairs = [
        (y, wanted),
        *zip(
            torch.autograd.grad(y, x, g),
            torch.autograd.grad(wanted, double, g.double()),
            strict=True,
        ),
    ]
    for found, exact in pairs:
        assert found.dtype == x.dtype
        torch.testing.assert_close(found.double(), exact, rtol=CLOSE[x.dtype], atol=1e-5)


def check_all(cases):
    for case in cases:
        check(*case)


def check_dispatch():
    """Autocast, an expanded gradient, torch's own checks, one whole graph, off by name."""
    from vidbench.tensors.kernels import scale_low

    x, g, keep, low = inputs((2, 3, 2, 3, 4), "float32", True, "clip", True)
    module = scaling.RandomMeanScaling().train()

    def seeded(call, x):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            return call(x)

    y = seeded(module, x)
    assert y.dtype == torch.float32 and seeded(module, x.bfloat16()).dtype == torch.bfloat16
    whole = torch.compile(module, backend="aot_eager", fullgraph=True)
    graph = seeded(whole, x)
    assert torch.equal(graph, y)
    (wanted,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(torch.autograd.grad(graph.sum(), x)[0], wanted)
    torch.library.opcheck(scale_low, (x, keep, low, 3))
    os.environ[kernels.SWITCH] = "off"
    torch.testing.assert_close(seeded(module, x), y)


@pytest.mark.slow
def test_the_kernel_gives_pytorchs_values_and_gradients_and_is_an_operation_of_torch():
    interpret("check_all(CASES); check_dispatch()")


@pytest.mark.long
def test_all_layouts_types_filters_and_factors():
    shapes = (
        (2, 70, 3, 5, 7),
        (1, 130, 2, 1, 5),
        (3, 4, 1, 1, 1),
        (2, 16, 3, 6, 6),
        (2, 5, 6, 7),
    )
    kinds = itertools.product(
        shapes,
        ("bfloat16", "float16", "float32"),
        (True, False),
        (3, (1, 3, 3)),
        ("clip", "batch", "channel"),
        (True, False),
    )
    cases = [case for case in kinds if len(case[0]) == 5 or case[3] == 3]
    interpret(f"check_all({cases!r})")


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 3, 2, 4, 5)),
        ({"border": "valid"}, (2, 3, 2, 4, 5)),
        ({"border": "replicate"}, (2, 3, 2, 4, 5)),
        ({"sigma": 0.8}, (2, 3, 2, 4, 5)),
        ({"kernel": 5}, (2, 3, 2, 4, 5)),
        ({"kernel": (3, 1, 1)}, (2, 3, 2, 4, 5)),
        ({}, (2, 3, 4)),
    ],
)
def test_pytorch_computes_all_else(options, shape, monkeypatch):
    """Tensors of a CPU have no kernel; other filters have none on any device."""
    x, low, smoother = (
        torch.randn(shape),
        torch.rand(2, *(1,) * (len(shape) - 1)),
        Filter(**options),
    )
    if options or len(shape) == 3:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    if len(shape) > 3:
        assert torch.equal(scaled(x, None, low, smoother), torch.addcmul(x, low, smoother(x)))
    assert scaling._kernel_depth(x, low, smoother) == 0


def test_which_tensors_have_a_kernel(monkeypatch):
    x, low = torch.randn(2, 3, 2, 4, 5), torch.rand(2, 1, 1, 1, 1)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert scaling._kernel_depth(x, low, Filter(3)) == 3
    assert scaling._kernel_depth(x, low, Filter((1, 3, 3))) == 1
    assert scaling._kernel_depth(x[:, :, 0], low[:, :, 0], Filter(3)) == 1
    for other, factors in (
        (x.double(), low),
        (x[:0], low[:0]),
        (x[:, :, :0], low),
        (x, torch.rand(2, 1, 2, 1, 1)),
        (x, torch.rand(1, 3, 1, 1, 1)),
        (x[:1].to("meta").expand(2**30, 3, 2, 4, 5), low),
    ):
        assert scaling._kernel_depth(other, factors, Filter(3)) == 0


@pytest.mark.slow
def test_sizes_of_one_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    ones = ("images", "frames", "height", "width", "per")
    for rich in (False, True):
        assert compiled(tmp_path, "bf16", 1, 3, rich, ones)[1]["STACK"] == 0


@pytest.mark.parametrize("level", ["frame", "pixel"])
def test_factors_of_positions_have_no_kernel(level, monkeypatch):
    """F' and such a factor do not commute, so the kernel cannot compute the backward pass."""
    x = torch.randn(2, 3, 2, 4, 5)
    wanted = random_scaling(x, True, Filter(3), level=level, generator=torch.Generator())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = random_scaling(x, True, Filter(3), level=level, generator=torch.Generator())
    assert torch.equal(found, wanted)


def test_the_kernel_reads_and_writes_a_feature_once_each_way(monkeypatch):
    import vidbench.tensors.kernels  # noqa: F401  before the variable, for a later test compiles it

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    feature = 2 * 16 * 4 * 8 * 8 * 4  # bytes
    moved = []
    for switch, layers in (("on", 0), ("on", 1), ("off", 1)):
        monkeypatch.setenv(kernels.SWITCH, switch)
        rms = [scaling.RandomMeanScaling() for _ in range(layers)]
        net = torch.nn.Sequential(torch.nn.Conv3d(3, 16, 1), *rms)
        moved.append(count(lambda net=net: net.to("meta"), (2, 3, 4, 8, 8), "fp32").bytes / feature)
    plain, on, off = moved
    assert 4 <= on - plain < 4.01 and off - plain > 20


def compiled(folder: Path, dtype: str, channels: int, depth: int, rich: bool, ones: tuple = ()):
    """The kernel's machine code for compute capability 9.0, and what it uses: {"REG": 114, ...}.

    ones: sizes that are 1, which Triton compiles in.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vidbench.tensors.kernels import OPTIONS, scale_kernel, tile

    names = scale_kernel.arg_names
    positions, block = tile(channels, {"bf16": 2, "fp16": 2, "fp32": 4}[dtype])
    fixed = {"EACH": rich, "DEPTH": depth, "POSITIONS": positions, "CHANNELS": block}
    fixed |= {} if rich else {"own": None}
    fixed |= dict.fromkeys(ones, 1) | ({"channels": 1} if channels == 1 else {})
    kinds = dict.fromkeys(("x", "y", "own", "low"), f"*{dtype}")
    kinds = {name: kinds.get(name, "i32") for name in names} | dict.fromkeys(fixed, "constexpr")
    aligned = [name for name in ("x", "y", "own", "low") if name not in fixed]
    aligned += ["channels"] if channels % 16 == 0 else []
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(scale_kernel, kinds, fixed, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=OPTIONS)
    binary = folder / "kernel.cubin"
    binary.write_bytes(made.asm["cubin"])

    def tool(name, option):
        path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
        call = subprocess.run([path, option, binary], capture_output=True, text=True, check=True)
        return call.stdout

    used = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", tool("cuobjdump", "--dump-resource-usage")))
    return tool("nvdisasm", "-c"), {name: int(number) for name, number in used.items()}


@pytest.mark.parametrize(
    ("dtype", "channels", "depth", "rich"),
    [
        ("bf16", 64, 3, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("bf16", 64, 1, True),
                ("fp16", 64, 3, True),
                ("fp32", 64, 3, False),
                ("bf16", 24, 3, True),
                ("bf16", 1, 3, False),
                ("fp32", 1, 1, True),
            ]
        ),
    ],
)
def test_compiled_for_an_h100_nothing_spills(dtype, channels, depth, rich, tmp_path, monkeypatch):
    """Channels-last memory is read and written 16 bytes at a time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code, used = compiled(tmp_path, dtype, channels, depth, rich)
    assert used["STACK"] == 0 and 0 < used["REG"] <= 128, used
    loads = re.findall(r"\bLDG\.E(\S*)", code)
    stores = re.findall(r"\bSTG\.E(\S*)", code)
    # twice: the first frame, and those of the loop. Four rows, three columns
    assert loads.count(".128") == (24 + 2 * rich if channels % 16 == 0 else 0), loads
    assert set(stores) == ({".128"} if channels % 16 == 0 else {".U16" if dtype == "bf16" else ""})
