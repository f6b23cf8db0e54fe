"""RMS, RandomDrop, ShakeDrop: filters against plain loops, gradients against matrices, factors
against Eq. 1 to 3."""

import itertools
import math
import warnings
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vidbench import models
from vidbench.engine.runs import recipe_from
from vidbench.methods.classify import Classifier, Recipe
from vidbench.models.resnets import Residual, Site
from vidbench.tensors import regularizers
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import (
    DECAYS,
    NAMES,
    RandomDrop,
    Regularizer,
    ShakeDrop,
    build_regularizer,
    random_drop,
    shake_drop,
    survival,
)
from vidbench.tensors.scaling import (
    BORDERS,
    LEVELS,
    PARTS,
    Filter,
    RandomMeanScaling,
    random_scaling,
    taps,
)

ONES = (1, 1, 1, 1)
SMALL = {  # for clips of 8 frames and 32 pixels, cifar_resnet for images
    "slowonly": {
        "depth": 34,
        "width": 0.0625,
        "blocks": ONES,
        "stem_stride": 2,
        "zero_gamma": False,
    },
    "slowfast": {
        "width": 0.0625,
        "beta_inv": 4,
        "lateral_kernel": 5,
        "blocks": ONES,
        "stem_stride": 2,
        "zero_gamma": False,
    },
    "csn": {"width": 0.0625, "blocks": ONES, "stem_stride": 2},
    "resnet50": {"width": 0.0625, "blocks": ONES, "stem_stride": 2},
    "cifar_resnet": {"depth": 8, "width": 0.25},
}
PLACED = [{"name": "rms"}, {"name": "random_drop"}, {"name": "shake_drop"}]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(seed, *shape, dtype=torch.double):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def weights_by_hand(sizes, sigma=None, raw=False):
    """{offset: weight} of the mean or of Eq. 1's isotropic Gaussian, renormalized over the whole
    window or raw."""
    offsets = list(itertools.product(*(range(-(n // 2), n // 2 + 1) for n in sizes)))
    if sigma is None:
        return {offset: 1 / len(offsets) for offset in offsets}
    axes = sum(n > 1 for n in sizes)
    each = {offset: math.exp(-sum(x * x for x in offset) / (2 * sigma**2)) for offset in offsets}
    whole = (sigma * math.sqrt(2 * math.pi)) ** axes if raw else sum(each.values())
    return {offset: value / whole for offset, value in each.items()}


def filtered_by_hand(x, sizes, border, sigma=None, raw=False):
    """F x of one feature [T,H,W] or [H,W]: a loop over positions and one over the window."""
    weights, made = weights_by_hand(sizes, sigma, raw), np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        total = inside = 0.0
        for offset, weight in weights.items():
            at = tuple(p + o for p, o in zip(place, offset, strict=True))
            if border == "replicate":
                at = tuple(min(max(a, 0), n - 1) for a, n in zip(at, x.shape, strict=True))
            if all(0 <= a < n for a, n in zip(at, x.shape, strict=True)):
                total, inside = total + weight * x[at], inside + weight
        made[place] = total / inside * sum(weights.values()) if border == "valid" else total
    return made


def matrix(smoother, shape, transposed=False):
    """F as a matrix, a column for each basis vector."""
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.double).view(size, 1, *shape)
    return smoother(basis, transposed=transposed).view(size, size).T


def fixed(x, alpha, smoother, part="low"):
    """random_scaling whose factors are all alpha."""
    return random_scaling(x, True, smoother, part, (alpha, alpha))


# ---- the filter --------------------------------------------------------------------------------


SHAPES = [
    ((4, 5, 6), 3),
    ((1, 4, 3), 3),
    ((2, 3, 4), 3),
    ((3, 4, 5), (1, 3, 3)),
    ((5, 6), 3),
    ((2, 1), 3),
    ((2, 4, 3), 5),
    ((1, 7, 2), (3, 5, 1)),
    ((3, 2), (1, 7)),
]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape, kernel", SHAPES)
def test_the_filter_is_a_loop_over_positions_and_window(shape, kernel, border):
    x = rows(1, *shape).numpy()
    sizes = (kernel,) * len(shape) if isinstance(kernel, int) else kernel
    for sigma, raw in ((None, False), (0.8, False), (0.8, True)):
        got = Filter(kernel, sigma, border, raw)(torch.from_numpy(x)[None, None])[0, 0]
        # a valid border's divisors are float32 numbers
        np.testing.assert_allclose(
            got, filtered_by_hand(x, sizes, border, sigma, raw), atol=1e-6, rtol=0
        )


class OnCuda(torch.Tensor):
    """A CPU tensor that claims to be on a CUDA device, where the filter uses other operations."""

    is_cuda = True


def pooled(monkeypatch):
    """Records the sizes of each average pooling."""
    sizes, plain = [], F.avg_pool3d
    monkeypatch.setattr(
        F, "avg_pool3d", lambda x, size, *rest: sizes.append(size) or plain(x, size, *rest)
    )
    return sizes


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (5, 5, 5)])
@pytest.mark.parametrize("counted", [True, False])
def test_the_filter_is_average_pooling(kernel, counted):
    border, around = "zero" if counted else "valid", tuple(n // 2 for n in kernel)
    x = rows(2, 2, 3, 8, 7, 7, dtype=torch.float)
    wanted = F.avg_pool3d(x, kernel, 1, around, count_include_pad=counted)
    torch.testing.assert_close(Filter(kernel, border=border)(x), wanted)
    pictures = F.avg_pool2d(x[:, :, 0], kernel[1:], 1, around[1:], count_include_pad=counted)
    torch.testing.assert_close(Filter(kernel[1:], border=border)(x[:, :, 0]), pictures)


@pytest.mark.parametrize("kernel", [3, (1, 3, 3), 5])
def test_the_operations_of_cuda_devices_give_the_same(kernel, monkeypatch):
    smoother, sizes = Filter(kernel), pooled(monkeypatch)
    x, g = rows(2, 2, 3, 6, 7, 5, dtype=torch.float), rows(3, 2, 3, 6, 7, 5, dtype=torch.float)
    for transposed in (False, True):
        made = smoother(x.as_subclass(OnCuda), transposed=transposed).as_subclass(torch.Tensor)
        torch.testing.assert_close(made, smoother(x, transposed=transposed))
    assert len(sizes) == 2
    for level in (
        "clip",
        "frame",
    ):  # backward is a forward pooling, too, since the pooling's own has no fixed order
        grads = []
        for way in (False, True):
            monkeypatch.setattr(Filter, "_pools", lambda *_, way=way: way)
            leaf = x.clone().requires_grad_()
            y = random_scaling(leaf, True, smoother, level=level, generator=seeded(1))
            assert "AvgPool" not in str(graph(y))
            grads.append(torch.autograd.grad(y, leaf, g)[0])
        torch.testing.assert_close(*grads)
    assert len(sizes) == 6


def graph(y):
    """The names of all nodes behind y."""
    names, waiting = [], [y.grad_fn]
    while waiting:
        node = waiting.pop()
        names.append(node.name())
        waiting += [before for before, _ in node.next_functions if before is not None]
    return names


def test_pooling_takes_the_place_of_slices_only_where_it_is_the_same(monkeypatch):
    sizes, x = pooled(monkeypatch), rows(2, 2, 3, 4, 5, 5)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for smoother, given in (
        (Filter(1), x),
        (Filter(3, 1.0), x),
        (Filter(3, border="valid"), x),
        (Filter(3, border="replicate"), x),
        (Filter(3), x[:, :, 0]),
        (Filter(3), turned),
    ):
        made = smoother(given.as_subclass(OnCuda)).as_subclass(torch.Tensor)
        torch.testing.assert_close(made, smoother(given))
    assert sizes == []


@pytest.mark.parametrize(
    "shape, kernel", [((1, 7, 7), 3), ((2, 7, 7), 3), ((8, 2, 2), (1, 3, 3)), ((2, 2, 2), 5)]
)
def test_features_shorter_than_the_window_pass_on_cuda_devices_too(shape, kernel):
    """avg_pool3d refuses these on every device, padded or not: the few frames of late stages, the small
    maps of small clips."""
    x = rows(2, 2, 3, *shape)
    made = Filter(kernel)(x.as_subclass(OnCuda)).as_subclass(torch.Tensor)
    torch.testing.assert_close(made, Filter(kernel)(x))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    "shape, kernel, sigma, raw",
    [
        ((3, 4, 3), 3, None, False),
        ((1, 2, 4), (1, 3, 3), 0.7, False),
        ((2, 2, 3), 5, 1.3, False),
        ((4, 3), 3, 2.0, True),
        ((3, 2), (1, 5), None, False),
    ],
)
def test_transposed_is_the_transposed_matrix_and_rows_sum_to_one(shape, kernel, sigma, raw, border):
    smoother = Filter(kernel, sigma, border, raw)
    whole = matrix(smoother, shape)
    torch.testing.assert_close(
        matrix(smoother, shape, transposed=True), whole.T, atol=1e-12, rtol=0
    )
    x, y = rows(3, 2, 2, *shape), rows(4, 2, 2, *shape)
    torch.testing.assert_close((smoother(x) * y).sum(), (x * smoother(y, transposed=True)).sum())
    if not raw:
        sums = whole.sum(dim=1)
        if border == "zero":
            assert float(sums.min()) < 0.99 and float(sums.max()) <= 1 + 1e-9
        else:
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)


def test_only_some_borders_keep_the_filter_symmetric():
    """facts: zero padding, and a replicated border of three positions; so F must not replace its
    transpose."""

    def symmetric(kernel, border):
        whole = matrix(Filter(kernel, border=border), (3, 4, 4))
        return torch.allclose(whole, whole.T)

    assert [symmetric(3, border) for border in ("zero", "valid", "replicate")] == [
        True,
        False,
        True,
    ]
    assert not symmetric(5, "replicate")


def test_what_zeros_outside_do_to_a_constant():
    for shape, mean in (((8, 14, 14), 0.831), ((8, 7, 7), 0.750)):
        gain = Filter(3)(torch.ones(1, 1, *shape))[0, 0]
        assert float(gain.mean()) == pytest.approx(mean, abs=5e-4)
        assert float(gain[0, 0, 0]) == float(gain[-1, -1, -1]) == pytest.approx(8 / 27)
        assert float(gain.max()) == pytest.approx(1)
        inside = float((gain > 1 - 1e-6).float().mean())
        assert 1 - inside == pytest.approx(1 - math.prod(n - 2 for n in shape) / math.prod(shape))


GAUSSIANS = [
    (0.5, 1.042, 0.107, 0.787, 0.574),
    (0.6, 0.990, 0.166, 0.667, 0.334),
    (0.8, 0.872, 0.239, 0.522, 0.044),
    (1.0, 0.688, 0.274, 0.452, -0.096),
    (2.0, 0.168, 0.319, 0.362, -0.277),
    (5.0, 0.013, 0.331, 0.338, -0.324),
]


@pytest.mark.parametrize("sigma, whole, side, center, period_2", GAUSSIANS)
def test_the_gaussians_table(sigma, whole, side, center, period_2):
    assert taps(3, sigma) == pytest.approx((side, center, side), abs=6e-4)
    raw = Filter(3, sigma, raw=True)(torch.ones(1, 1, 3, 3, 3, dtype=torch.double))
    assert float(raw[0, 0, 1, 1, 1]) == pytest.approx(whole, abs=6e-4)
    wave = torch.tensor([1.0, -1.0]).double().repeat(4).view(1, 1, 8, 1, 1).expand(1, 1, 8, 5, 5)
    inside = (Filter(3, sigma, "replicate")(wave) / wave)[0, 0, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, period_2), atol=6e-4, rtol=0)


def test_the_gaussian_goes_from_the_feature_to_its_mean():
    x = rows(5, 1, 1, 4, 4, 4)
    torch.testing.assert_close(Filter(3, 1e3)(x), Filter(3)(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(Filter(3, 0.05)(x), x)


# ---- exact cases -------------------------------------------------------------------------------


def waves(axes, period, dims, size=6):
    """cos(2 pi i / period) along each of the axes, over positions [size] x dims."""
    made = torch.ones(1, 1, *(size,) * dims, dtype=torch.double)
    for axis in axes:
        line = torch.cos(2 * math.pi * torch.arange(size) / period).double()
        made = made * line.view(*(-1 if i == axis + 2 else 1 for i in range(dims + 2)))
    return made


@pytest.mark.parametrize("sigma", [None, 0.8])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.7])
def test_rms_scales_each_frequency_by_its_own_gain(alpha, dims, border, sigma):
    """1 + (alpha - 1) H, H the product of c + 2 s cos w over axes: alpha of constants, 1 + (1 -
    alpha)/3 of +1, -1."""
    side, center, _ = taps(3, sigma)
    inner = (0, 0, *(slice(1, -1),) * dims)
    for period, axes in itertools.product(
        (2, 3), (n for k in range(dims + 1) for n in itertools.combinations(range(dims), k))
    ):
        x = waves(axes, period, dims)
        response = (center + 2 * side * math.cos(2 * math.pi / period)) ** len(axes)
        y = fixed(x, alpha, Filter(3, sigma, border))
        torch.testing.assert_close(
            y[inner], (1 + (alpha - 1) * response) * x[inner], atol=1e-6, rtol=0
        )
        if sigma is None:  # the same in the paper's round numbers
            known = {
                (2, 0): alpha,
                (2, 1): 1 + (1 - alpha) / 3,
                (2, 3): 1 + (1 - alpha) / 27,
                (3, 1): 1.0,
            }
            if (period, len(axes)) in known:
                torch.testing.assert_close(
                    y[inner], known[period, len(axes)] * x[inner], atol=1e-6, rtol=0
                )


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 5), (2, 3, 1, 4, 4), (2, 3, 2, 4, 4), (2, 3, 5, 5)])
def test_low_and_high_add_up_and_one_leaves_the_feature(shape, border):
    for smoother in (Filter(3, None, border), Filter(3, 0.6, border), Filter(1, None, border)):
        x = rows(6, *shape, dtype=torch.float)
        for part in PARTS:
            assert torch.equal(fixed(x, 1, smoother, part), x)  # to the bit
        low, high = fixed(x, 0, smoother, "high"), fixed(x, 0, smoother, "low")
        torch.testing.assert_close(low, smoother(x))
        torch.testing.assert_close(low + high, x)
    assert torch.equal(Filter(1)(x), x)
    torch.testing.assert_close(fixed(x, 0.4, Filter(1)), 0.4 * x)  # the whole-feature ablation
    if border != "zero":
        constant = torch.full(shape, 3.0)
        torch.testing.assert_close(fixed(constant, 0.4, Filter(3, None, border)), 0.4 * constant)


@pytest.mark.parametrize("part", PARTS)
def test_every_ablation_is_one_of_the_family(part):
    """y = a_low F x + a_high (x - F x), the two factors found again by least squares, clip by
    clip."""
    x, smoother, law = rows(7, 12, 3, 4, 5, 5), Filter(3, None, "replicate"), (0.2, 1.8)
    y = random_scaling(x, True, smoother, part, law, generator=seeded())
    factors = []
    for clip, made, low in zip(x, y, smoother(x), strict=True):
        parts = torch.stack([low.flatten(), (clip - low).flatten()], dim=1)
        factors.append(torch.linalg.lstsq(parts, made.reshape(-1, 1)).solution[:, 0])
        torch.testing.assert_close(parts @ factors[-1], made.flatten(), atol=1e-6, rtol=0)
    low, high = torch.stack(factors).T
    for name, factor in (("low", low), ("high", high)):
        if part in ("low", "high") and part != name:
            torch.testing.assert_close(factor, torch.ones_like(factor))
        else:
            assert (
                len({round(float(a), 4) for a in factor}) == 12
                and 0.2 <= factor.min()
                and factor.max() <= 1.8
            )
    gap = (low - high).abs()
    assert bool((gap < 1e-6).all()) == (part == "whole") and bool((gap > 1e-3).all()) == (
        part != "whole"
    )
    if part == "whole":
        torch.testing.assert_close(y, low.view(-1, 1, 1, 1, 1) * x, atol=1e-6, rtol=0)


# ---- gradients ---------------------------------------------------------------------------------


def scaled(x, smoother, part, level, p=1.0):
    return random_scaling(x, True, smoother, part, (0, 2), level, p, generator=seeded(11))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    "part, level",
    [
        ("low", "clip"),
        ("low", "channel"),
        ("low", "frame"),
        ("low", "pixel"),
        ("high", "clip"),
        ("whole", "clip"),
        ("both", "batch"),
        ("both", "pixel"),
    ],
)
def test_the_gradient_is_the_forward_passes_transpose(part, level, border):
    """own g + F'(low g): of the very factors drawn, and of a matrix of F made of basis vectors."""
    shape, smoother = (2, 2, 2, 3, 3), Filter(3, None, border)
    size = math.prod(shape)
    columns = [
        scaled(torch.eye(size, dtype=torch.double)[i].view(shape), smoother, part, level).flatten()
        for i in range(size)
    ]
    x, g = rows(8, *shape).requires_grad_(), rows(9, *shape)
    (grad,) = torch.autograd.grad(scaled(x, smoother, part, level), x, g)
    torch.testing.assert_close(
        grad.flatten(), torch.stack(columns) @ g.flatten(), atol=1e-12, rtol=0
    )
    # the same with F as a matrix and the factors read off constants, on which F leaves everything
    # or nothing
    if part == "whole":
        return
    ones = torch.ones(shape, dtype=torch.double)
    both = scaled(ones, Filter(3, None, "replicate"), part, level)  # a_low + a_high 0 of constants
    low = both if part in ("low", "both") else ones
    high = ones
    if part in ("high", "both"):
        sign = waves((2,), 2, 3, size=8)[..., :2, :3, :3].expand(
            shape
        )  # kernel 1 and a zero filter give a_high
        high = scaled(sign, _Nothing(), part, level) / sign
    whole = matrix(smoother, shape[2:])
    through = ((low - high) * g).flatten(2) @ whole  # rows times F: F' of each map
    torch.testing.assert_close(grad, high * g + through.view(shape), atol=1e-6, rtol=0)


class _Nothing(Filter):
    """F = 0, so that only the high part is left."""

    def __call__(self, x, transposed=False):
        return torch.zeros_like(x)


@pytest.mark.parametrize("border", BORDERS)
def test_gradcheck(border):
    x = rows(10, 2, 1, 2, 3, 2).requires_grad_()
    for part, level in (("low", "clip"), ("both", "pixel")):

        def function(x, part=part, level=level):
            return scaled(x, Filter((3, 3, 1), 0.7, border), part, level, p=0.7)

        assert torch.autograd.gradcheck(function, x) and torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize(
    "make",
    [lambda x, s, part=part: random_scaling(x, True, s, part) for part in PARTS]
    + [lambda x, s: random_drop(x, 0.5, True), lambda x, s: shake_drop(x, 0.5, True, level="clip")],
)
def test_nothing_of_the_features_size_is_kept_for_the_backward_pass(make):
    made, kept = [], []

    class Seen(Filter):
        def __call__(self, x, transposed=False):
            out = super().__call__(x, transposed)
            made.append(weakref.ref(out))
            return out

    leaf = torch.randn(4, 3, 4, 6, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        x = leaf + 0
        y = make(x, Seen(3))
    assert sum(kept) <= 2 * len(leaf)  # the factors at most
    there = weakref.ref(x)
    del x
    assert there() is None and not any(one() is not None for one in made) and y.requires_grad
    y.sum().backward()
    assert torch.isfinite(leaf.grad).all()


# ---- evaluation and training -------------------------------------------------------------------


def refuse(*_, **__):
    raise AssertionError("the filter was called")


@pytest.mark.parametrize("part", PARTS)
def test_evaluation_returns_the_feature_and_calls_no_filter(part, monkeypatch):
    layer, x = RandomMeanScaling(part=part), torch.randn(2, 3, 4, 5, 5)
    monkeypatch.setattr(Filter, "__call__", refuse)
    state = torch.random.get_rng_state()
    assert layer.eval()(x) is x and random_scaling(x, False, layer.smoother, part) is x
    assert (
        random_scaling(x, False, layer.smoother, part, (0.5, 1.5), test="expectation") is x
    )  # its mean is 1
    assert torch.equal(torch.random.get_rng_state(), state)
    if part == "whole":
        assert not torch.equal(layer.train()(x), x)
    else:
        with pytest.raises(AssertionError, match="was called"):
            layer.train()(x)


@pytest.mark.parametrize("part, p", [("low", 1.0), ("high", 0.5), ("whole", 1.0), ("both", 0.25)])
def test_expectation_is_the_mean_of_training(part, p):
    law, smoother, x = (0.0, 1.0), Filter(3, None, "valid"), rows(14, 1, 2, 3, 4, 4)
    layer = RandomMeanScaling(border="valid", part=part, law=law, p=p, test="expectation").eval()
    mean = 1 - p / 2
    low, high = (mean if part in (name, "whole", "both") else 1 for name in ("low", "high"))
    torch.testing.assert_close(
        layer(x), low * smoother(x) + high * (x - smoother(x)), atol=1e-6, rtol=0
    )
    torch.manual_seed(0)
    many = layer.train()(x.expand(8000, *x.shape[1:])).mean(dim=0, keepdim=True)
    torch.testing.assert_close(many, layer.eval()(x), atol=0.03, rtol=0)


def axes_of(level, dims=5):
    return {
        "batch": (),
        "clip": (0,),
        "channel": (0, 1),
        "frame": (0, 2),
        "pixel": tuple(range(dims)),
    }[level]


@pytest.mark.parametrize("part", ["low", "whole"])
@pytest.mark.parametrize(
    "level, dims", [(level, 5) for level in LEVELS] + [(n, 4) for n in LEVELS if n != "frame"]
)
def test_a_factor_is_shared_by_its_level_and_no_more(level, dims, part):
    x = torch.ones(3, 4, 5, 6, 2)[..., 0] if dims == 4 else torch.ones(3, 4, 5, 6, 2)
    y = random_scaling(x, True, Filter(1), part, level=level, generator=seeded())
    first = y[
        tuple(slice(None) if axis in axes_of(level, dims) else slice(0, 1) for axis in range(dims))
    ]
    assert torch.equal(first.expand_as(y), y)  # shared along all other axes
    assert (
        first.unique().numel()
        == first.numel()
        == math.prod(x.shape[axis] for axis in axes_of(level, dims))
    )


def test_alphas_differ_between_clips_layers_and_steps_and_a_seed_repeats_them():
    layers = [RandomMeanScaling(1) for _ in range(2)]

    def steps():
        return torch.stack(
            [
                torch.stack([layer(torch.ones(6, 2, 1, 2, 2))[:, 0, 0, 0, 0] for layer in layers])
                for _ in range(3)
            ]
        )

    torch.manual_seed(3)
    first, later = steps(), steps()
    assert torch.cat([first, later]).unique().numel() == 2 * 3 * 2 * 6
    torch.manual_seed(3)
    assert torch.equal(steps(), first)
    x = torch.randn(4, 3, 2, 4, 4)
    alone = [
        random_scaling(x, True, Filter(3), generator=generator)
        for generator in (seeded(1), seeded(1), seeded(2))
    ]
    assert torch.equal(alone[0], alone[1]) and not torch.equal(alone[0], alone[2])


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda x, g, part=part: random_scaling(x, True, Filter(3, 0.7), part, generator=g)
            for part in PARTS
        ),
        *(
            lambda x, g, level=level: random_scaling(x, True, Filter(3), level=level, generator=g)
            for level in LEVELS
        ),
        lambda x, g: random_drop(x, 0.5, True, level="clip", generator=g),
        lambda x, g: shake_drop(x, 0.5, True, generator=g),
    ],
)
def test_a_clips_result_does_not_depend_on_the_other_clips(make):
    x = torch.randn(5, 3, 2, 4, 4)
    other = torch.randn_like(x) * 100
    other[2] = x[2]
    assert torch.equal(make(x, seeded(4))[2], make(other, seeded(4))[2])


def kolmogorov(values, low, high):
    """The largest distance of the values' distribution from the uniform one, times sqrt(n): 1 in
    1,000 passes 1.95."""
    u = (values.double().sort().values - low) / (high - low)
    n = len(u)
    above, below = (torch.arange(1, n + 1) / n - u).max(), (u - torch.arange(n) / n).max()
    return float(torch.maximum(above, below)) * n**0.5


@pytest.mark.parametrize("law", [(0, 2), (0.75, 1.25), (0.0, 1.0)])
def test_alpha_is_uniform(law):
    alpha = random_scaling(
        torch.ones(20_000, 1, 1, 1, 1), True, Filter(1), law=law, generator=seeded(5)
    ).flatten()
    assert (
        kolmogorov(alpha, *law) < 1.95 < kolmogorov(alpha**1.05, *law)
    )  # the oracle sees a slight bend
    assert float(alpha.mean()) == pytest.approx(sum(law) / 2, abs=0.02 * (law[1] - law[0]))
    assert float(alpha.var()) == pytest.approx((law[1] - law[0]) ** 2 / 12, rel=0.03)
    assert abs(float(np.corrcoef(alpha[1:], alpha[:-1])[0, 1])) < 0.03


def test_alphas_of_the_loops_seeds_are_uniform_and_unrelated():
    """engine.loop seeds torch at each step, with seeds that are close to one another."""
    alphas = []
    for step in range(800):
        torch.manual_seed((3 * 1_000_003 + step) * 1009)
        alphas.append(random_scaling(torch.ones(2, 1, 1, 1, 1), True, Filter(1)).flatten())
    first, second = torch.stack(alphas).T
    assert kolmogorov(first, 0, 2) < 1.95 and kolmogorov(second, 0, 2) < 1.95
    for left, right in ((first, second), (first[1:], first[:-1]), (second[1:], first[:-1])):
        assert abs(float(np.corrcoef(left, right)[0, 1])) < 0.12


@pytest.mark.parametrize("level", ["clip", "channel", "pixel"])
def test_p_is_the_share_that_is_scaled(level):
    x = torch.ones(4000, 3, 2, 1, 1)
    for p in (0.0, 0.3):
        y = random_scaling(x, True, Filter(1), level=level, p=p, generator=seeded(6))
        units = y[:, : 1 if level == "clip" else 3, : 2 if level == "pixel" else 1]
        assert float((units != 1).float().mean()) == pytest.approx(p, abs=0.025)
        assert torch.equal(y == 1, (units == 1).expand_as(y))  # all of a unit or nothing
        if p:
            assert kolmogorov(units[units != 1], 0, 2) < 1.95


@pytest.mark.parametrize("border, sigma", [("zero", None), ("valid", 0.8)])
def test_mean_and_variance_are_those_of_the_law(border, sigma):
    """E y = x and E |y - x|^2 = Var alpha |F x|^2, 1/3 of it for U(0, 2)."""
    x, smoother = rows(15, 1, 2, 3, 4, 4), Filter(3, sigma, border)
    y = random_scaling(x.expand(20_000, *x.shape[1:]), True, smoother, generator=seeded(7))
    low = smoother(x)
    error = float(low.abs().max()) / (3 * 20_000) ** 0.5
    torch.testing.assert_close(y.mean(dim=0, keepdim=True), x, atol=4 * error, rtol=0)
    energy = (y - x).square().sum(dim=(1, 2, 3, 4)).mean()
    assert float(energy / low.square().sum()) == pytest.approx(1 / 3, rel=0.03)
    noise = torch.randn(1, 1, 32, 66, 66, generator=seeded(8))
    for kernel, share in ((3, 27), ((1, 3, 3), 9)):
        inner = Filter(kernel)(noise)[:, :, 1:-1, 1:-1, 1:-1]
        assert float(inner.square().mean()) == pytest.approx(1 / share, rel=0.05)


def test_wrong_arguments_are_refused():
    for arguments, says in (
        ({"part": "middle"}, "low, high, whole, both"),
        ({"level": "video"}, "batch, clip, channel"),
        ({"test": "mean"}, "identity, expectation"),
        ({"p": 1.5}, r"p in 0\.\.1"),
        ({"law": (2, 0)}, "law is"),
        ({"law": (1,)}, "law is"),
        ({"border": "reflect"}, "zero, valid"),
        ({"kernel": 2}, "odd kernel"),
        ({"kernel": (1, 3, 4)}, "odd kernel"),
        ({"kernel": -1}, "odd kernel"),
        ({"sigma": 0.0}, "sigma above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            RandomMeanScaling(**arguments)
    x = torch.zeros(2, 3, 4, 5, 5)
    for call, says in (
        (lambda: random_scaling(x, True, Filter(3), "middle"), "low, high"),
        (lambda: random_scaling(x, False, Filter(3), test="mean"), "identity, expectation"),
        (lambda: random_scaling(x, True, Filter(3), level="video"), "level is one of"),
        (lambda: random_scaling(x[:, :, 0], True, Filter(3), level="frame"), "frame of clips only"),
        (lambda: Filter((3, 3))(x), "2 axes does not fit"),
        (lambda: Filter((1, 3, 3))(x[:, :, 0]), "3 axes does not"),
        (lambda: random_drop(x, 0.5, True, form="mine"), "paper or library"),
        (lambda: RandomDrop(0.0), "p above 0"),
        (lambda: RandomDrop(0.5, level="pixel"), "batch or clip"),
        (lambda: RandomDrop(0.5, "mine"), "paper or library"),
        (lambda: ShakeDrop(1.1), "p above 0"),
        (lambda: ShakeDrop(0.5, (1, 0)), "alpha and beta"),
        (lambda: ShakeDrop(0.5, level="video"), "level one of"),
        (lambda: survival(0, 3), "1..3"),
        (lambda: survival(1, 3, 0.0), "p_L"),
        (lambda: survival(1, 3, 0.5, "linear"), "decay is one of"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_a_biased_law_is_warned_of_where_evaluation_ignores_it():
    with pytest.warns(UserWarning, match="0.5, not 1.*test='expectation'"):
        RandomMeanScaling(law=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RandomMeanScaling(law=(0, 1), test="expectation"), RandomMeanScaling(law=(0, 1), p=0)
        for r in np.linspace(0.01, 1, 100):
            RandomMeanScaling(law=(1 - r, 1 + r))


# ---- rivals ------------------------------------------------------------------------------------


def drawn(function, count=400, shape=(3, 2, 2, 2, 2)):
    """(factors forward, factors backward) of many calls, each [count, *shape]."""
    ahead, back, generator = [], [], seeded(9)
    for _ in range(count):
        x = torch.full(shape, 2.0, requires_grad=True)
        y = function(x, generator)
        back.append(torch.autograd.grad(y, x, torch.full(shape, 3.0))[0] / 3)
        ahead.append(y.detach() / 2)
    return torch.stack(ahead), torch.stack(back)


@pytest.mark.parametrize(
    "form, level, p",
    [
        ("paper", "batch", 0.7),
        ("paper", "clip", 0.3),
        ("library", "batch", 0.5),
        ("library", "clip", 0.8),
    ],
)
def test_random_drop_is_equation_2(form, level, p):
    ahead, back = drawn(lambda x, g: random_drop(x, p, True, form, level, g))
    assert torch.equal(ahead, back)  # one gate for both
    alive = 1.0 if form == "paper" else 1 / p
    torch.testing.assert_close(ahead.unique(), torch.tensor([0.0, alive]))
    gates = ahead.flatten(2)[:, :, 0] > 0  # [count, clips]
    assert torch.equal((ahead > 0).flatten(2), gates[:, :, None].expand(-1, -1, 16))
    together = (gates == gates[:, :1]).all(dim=1).float().mean()
    assert float(together) == (
        1 if level == "batch" else pytest.approx(p**3 + (1 - p) ** 3, abs=0.08)
    )
    independent = gates[:, :1] if level == "batch" else gates
    assert float(independent.float().mean()) == pytest.approx(p, abs=0.08)
    x = torch.randn(2, 3, 4, 4)
    tested = random_drop(x, p, False, form, level)
    assert torch.equal(tested, p * x) if form == "paper" else tested is x
    assert float(ahead.mean()) == pytest.approx(p if form == "paper" else 1, abs=0.1)
    layer = RandomDrop(p, form, level)
    torch.testing.assert_close(layer.eval()(x), tested)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "alpha, beta", [((0, 0), (0, 1)), ((-1, 1), (0, 1)), ((0.2, 0.6), (0.5, 1))]
)
def test_shake_drop_is_equation_3(alpha, beta, level):
    p, shape = 0.6, (3, 2, 2, 2, 2)
    ahead, back = drawn(lambda x, g: shake_drop(x, p, True, alpha, beta, level, g), shape=shape)
    alive = ((ahead - 1).abs() < 1e-6).flatten(1).all(dim=1) & ((back - 1).abs() < 1e-6).flatten(
        1
    ).all(dim=1)
    assert float(alive.float().mean()) == pytest.approx(
        p, abs=0.08
    )  # one gate for the batch, and for both passes
    for factors, law in ((ahead[~alive], alpha), (back[~alive], beta)):
        assert factors.min() >= law[0] - 1e-6 and factors.max() <= law[1] + 1e-6
        shared = tuple(slice(None) if axis in axes_of(level) else slice(0, 1) for axis in range(5))
        first = factors[(slice(None), *shared)]
        assert torch.equal(first.expand_as(factors), factors)
        if law[0] < law[1]:
            assert (
                first.unique().numel() > 0.99 * first.numel()
            )  # float32 holds few numbers, so some are equal
            assert kolmogorov(first.flatten(), *law) < 1.95
    if alpha[0] < alpha[1] and level == "pixel":  # two variables, not one
        assert abs(float(np.corrcoef(ahead[~alive].flatten(), back[~alive].flatten())[0, 1])) < 0.05
    factor = p + (1 - p) * sum(alpha) / 2
    x = torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(shake_drop(x, p, False, alpha, beta, level), factor * x)
    assert float(ahead.mean()) == pytest.approx(factor, abs=0.08)
    torch.testing.assert_close(ShakeDrop(p, alpha, beta, level).eval()(x), factor * x)


@pytest.mark.parametrize(
    "decay, rule",
    [
        ("l/L", lambda k, n: k / n),
        ("(l-1)/L", lambda k, n: (k - 1) / n),
        ("(l-1)/(L-1)", lambda k, n: (k - 1) / (n - 1) if n > 1 else 0),
    ],
)
def test_survival_falls_by_one_of_three_rules(decay, rule):
    for blocks, last in ((1, 0.5), (2, 0.8), (16, 0.5), (54, 0.1)):
        for block in {1, max(1, blocks // 2), blocks}:
            assert survival(block, blocks, last, decay) == pytest.approx(
                1 - rule(block, blocks) * (1 - last)
            )
    ends = {"l/L": (1 - 0.5 / 16, 0.5), "(l-1)/L": (1, 1 - 0.5 * 15 / 16), "(l-1)/(L-1)": (1, 0.5)}
    assert (survival(1, 16, 0.5, decay), survival(16, 16, 0.5, decay)) == pytest.approx(ends[decay])


# ---- where they are applied --------------------------------------------------------------------


def layers_of(net):
    """[(pathway, stage, block's number in the pathway, module)] of every regularizer that does
    something."""
    found = []
    for pathway in ("slow", "fast") if hasattr(net, "slow") else ("",):
        one, number = getattr(net, pathway) if pathway else net, 0
        for stage, blocks in enumerate(one.stages, 2 if len(one.stages) == 4 else 1):
            for block in blocks:
                number += 1
                assert isinstance(block, Residual)
                if not isinstance(block.regularizer, nn.Identity):
                    found.append((pathway, stage, number, block.regularizer))
    assert len(found) == sum(isinstance(module, tuple(NAMES.values())) for module in net.modules())
    return found


def build(name, regularizer=None, **changes):
    return models.build(name, regularizer=regularizer, **{**SMALL[name], **changes})


def test_rms_is_applied_in_the_named_stages_and_never_in_the_fast_pathway():
    for name in ("slowonly", "csn", "resnet50"):
        net = build(
            name, build_regularizer("rms", stages=(4, 5), kernel=(1, 3, 3)), blocks=(1, 2, 2, 3)
        )
        assert [place[:3] for place in layers_of(net)] == [("", 4, n) for n in (4, 5)] + [
            ("", 5, n) for n in (6, 7, 8)
        ]
        assert all(isinstance(place[3], RandomMeanScaling) for place in layers_of(net))
    assert [
        place[1]
        for place in layers_of(
            build("cifar_resnet", build_regularizer("rms", stages=(3,)), depth=20)
        )
    ] == [3] * 3
    found = layers_of(build("slowfast", build_regularizer("rms", stages=(4, 5))))
    assert [place[:3] for place in found] == [("slow", 4, 3), ("slow", 5, 4)]
    assert [place[0] for place in layers_of(build("slowfast", build_regularizer("rms")))] == [
        "slow"
    ] * 4  # every stage
    assert [
        place[0]
        for place in layers_of(build("slowfast", build_regularizer("rms", pathways=("fast",))))
    ] == ["fast"] * 4
    assert [
        place[0] for place in layers_of(build("slowfast", build_regularizer("random_drop")))
    ] == ["slow"] * 4 + ["fast"] * 4


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", ["random_drop", "shake_drop"])
def test_rivals_survive_by_their_depth(name, decay):
    found = layers_of(
        build("slowonly", build_regularizer(name, last=0.4, decay=decay), blocks=(1, 2, 2, 1))
    )
    assert [place[3].p for place in found] == pytest.approx(
        [survival(n, 6, 0.4, decay) for n in range(1, 7)]
    )
    late = layers_of(
        build(
            "slowonly",
            build_regularizer(name, stages=(5,), last=0.4, decay=decay),
            blocks=(1, 2, 2, 1),
        )
    )
    assert [place[3].p for place in late] == pytest.approx([survival(6, 6, 0.4, decay)])


def test_arguments_reach_the_modules():
    ask = build_regularizer(
        "rms",
        kernel=(1, 3, 3),
        sigma=0.7,
        border="valid",
        part="high",
        law=(0.5, 1.5),
        level="channel",
        p=0.5,
    )
    layer = ask(Site(4, 1, 4, 8))
    assert (layer.part, layer.law, layer.level, layer.p) == ("high", (0.5, 1.5), "channel", 0.5)
    assert (layer.smoother.kernel, layer.smoother.sigma, layer.smoother.border) == (
        (1, 3, 3),
        0.7,
        "valid",
    )
    drop = build_regularizer("random_drop", form="library", level="clip")(Site(2, 1, 4, 8))
    shake = build_regularizer("shake_drop", alpha=(-1, 1), beta=(0.5, 1), level="clip")(
        Site(2, 1, 4, 8, "fast")
    )
    assert (drop.form, drop.level) == ("library", "clip")
    assert (shake.alpha, shake.beta, shake.level) == ((-1, 1), (0.5, 1), "clip")


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"name": "rmss"}, "rms, random_drop, shake_drop; got 'rmss'"),
        ({"name": "rms", "alpha": 1}, "kernel, sigma.*alpha"),
        ({"name": "rms", "kernel": 4}, "odd"),
        ({"name": "rms", "border": "same"}, "border is one of"),
        ({"name": "random_drop", "p": 0.5}, "form, level"),
        ({"name": "random_drop", "last": 0.0}, "p_L"),
        ({"name": "shake_drop", "decay": "linear"}, "l/L"),
        ({"name": "shake_drop", "gamma": 1}, "alpha, beta, level"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_net_is_built(arguments, says):
    with pytest.raises(ValueError, match=says):
        build_regularizer(**arguments)
    if "gamma" in arguments:
        return  # no field of a Regularizer
    with pytest.raises(ValueError, match=says):
        recipe_from(Recipe, {"network": "slowonly", "regularizer": arguments})


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("regularizer", PLACED, ids=lambda r: r["name"])
def test_state_dicts_are_the_same_and_load_both_ways(name, regularizer):
    plain, other = build(name), build(name, build_regularizer(**regularizer))
    assert list(plain.state_dict()) == list(other.state_dict())
    other.load_state_dict(plain.state_dict())
    plain.load_state_dict(other.state_dict())
    assert not list(regularizers.build_regularizer(**regularizer)(Site(4, 1, 4, 8)).state_dict())
    clips = torch.randn(2, 3, 1 if name == "cifar_resnet" else 8, 32, 32)
    with torch.no_grad():
        bare, made = plain.eval()(clips), other.eval()(clips)
        assert torch.equal(bare, made) == (
            regularizer["name"] == "rms"
        )  # the others test with their factor


@pytest.mark.parametrize("regularizer", PLACED, ids=lambda r: r["name"])
def test_the_training_flag_of_a_net_acts(regularizer):
    """Another library's drop-connect never dropped, because its call did not pass the flag."""
    plain, net = build("slowonly"), build("slowonly", build_regularizer(**regularizer))
    net.load_state_dict(plain.state_dict())
    clips, made = torch.randn(4, 3, 4, 32, 32), []
    for seed in (0, 0, 1, 2, 3, 4, 5, 6):
        torch.manual_seed(seed)
        made.append(net.train()(clips).detach())
    bare = plain.train()(clips)
    assert torch.equal(made[0], made[1])
    # four blocks of 7/8, 3/4, 5/8 and 1/2 all survive in a fifth of the steps
    assert sum(not torch.equal(one, bare) for one in made[1:]) >= (
        7 if regularizer["name"] == "rms" else 3
    )
    assert torch.equal(net.eval()(clips), net.eval()(clips))


def test_only_the_branch_is_scaled():
    """relu(shortcut + y): with alpha 0 and F = I nothing of the branch is left, and the shortcut is
    whole."""
    net = build(
        "slowonly", build_regularizer("rms", kernel=1, law=(0, 0), test="expectation")
    ).train()
    shown = []
    for block in net.modules():
        if isinstance(block, Residual):
            block.shortcut.register_forward_hook(
                lambda m, x, out: shown.append([F.relu(out.detach())])
            )
            block.register_forward_hook(lambda m, x, out: shown[-1].append(out.detach().clone()))
    net(torch.randn(2, 3, 4, 32, 32))
    assert len(shown) == 4
    for wanted, got in shown:
        torch.testing.assert_close(got, wanted)


def learned(recipe, steps=3, seed=1):
    """Weights after a few steps of training, with the loop's way of seeding."""
    torch.manual_seed(0)
    method = Classifier(recipe).train()
    data = seeded(2)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        batch = {
            "rgb": torch.randn(4, 1, 3, 4, 32, 32, generator=data),
            "label": torch.tensor([0, 1, 2, 1]),
        }
        torch.manual_seed(1000 * seed + step)
        optimizer.zero_grad()
        method(batch)[0].backward()
        optimizer.step()
    return method.state_dict()


RECIPE = Recipe(network="slowonly", network_args=SMALL["slowonly"], classes=("a", "b", "c"))


@pytest.mark.parametrize(
    "change",
    [
        {"regularizer": Regularizer("rms", stages=(4, 5))},
        {"regularizer": Regularizer("shake_drop"), "mixing": Mixing("cutmix")},
    ],
)
def test_equal_runs_end_in_equal_bits(change):
    torch.use_deterministic_algorithms(True)
    try:
        first, again, other, plain = (
            learned(replace(RECIPE, **change)),
            learned(replace(RECIPE, **change)),
            learned(replace(RECIPE, **change), seed=2),
            learned(RECIPE),
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for different in (other, plain):
        assert not torch.equal(
            first["encoder.stages.3.0.branch.conv2.weight"],
            different["encoder.stages.3.0.branch.conv2.weight"],
        )


# ---- half precision, compiled ------------------------------------------------------------------


@pytest.mark.parametrize("border", BORDERS)
def test_half_precision_agrees_with_whole(border):
    x, g = rows(16, 6, 4, 4, 7, 7, dtype=torch.float), rows(17, 6, 4, 4, 7, 7, dtype=torch.float)
    for dtype, tolerance in ((torch.bfloat16, 2.0**-5), (torch.float16, 2.0**-8)):
        half, whole = x.to(dtype).requires_grad_(), x.to(dtype).float().requires_grad_()
        made = [
            random_scaling(one, True, Filter(3, None, border), generator=seeded(3))
            for one in (half, whole)
        ]
        grads = [
            torch.autograd.grad(y, one, g.to(y.dtype))[0]
            for y, one in zip(made, (half, whole), strict=True)
        ]
        assert made[0].dtype == grads[0].dtype == dtype
        for left, right in (made, grads):
            torch.testing.assert_close(left.float(), right, atol=tolerance, rtol=tolerance)
            assert float((left.float() - right).mean().detach().abs()) < tolerance / 30  # no bias


@pytest.mark.parametrize("regularizer", PLACED, ids=lambda r: r["name"])
def test_autocast_trains_as_float32_does(regularizer):
    losses, slopes = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        method = Classifier(replace(RECIPE, regularizer=Regularizer(**regularizer))).train()
        batch = {
            "rgb": torch.randn(8, 1, 3, 4, 32, 32, generator=seeded(2)),
            "label": torch.arange(8) % 3,
        }
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = method(batch)
        loss.backward()
        losses.append(loss.item())
        slopes.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert float(F.cosine_similarity(*slopes, dim=0)) > 0.98


@pytest.mark.parametrize(
    "layer",
    [
        RandomMeanScaling((1, 3, 3), 0.8, "valid", part="both"),
        RandomMeanScaling(border="replicate", level="frame", p=0.5),
        RandomDrop(0.5, level="clip"),
        ShakeDrop(0.5),
    ],
    ids=["both", "frame", "drop", "shake"],
)
@pytest.mark.slow
def test_compiled_agrees_with_eager(layer):
    compiled = torch.compile(layer.train(), backend="aot_eager", fullgraph=True)
    x, g = rows(18, 3, 2, 3, 5, 5, dtype=torch.float), rows(19, 3, 2, 3, 5, 5, dtype=torch.float)
    made = []
    for function in (layer, compiled):
        one = x.clone().requires_grad_()
        torch.manual_seed(6)
        y = function(one)
        made.append((y, *torch.autograd.grad(y, one, g)))
    for left, right in zip(*made, strict=True):
        torch.testing.assert_close(left, right)
    assert not torch.equal(made[0][0], x)
    torch._dynamo.reset()


def test_names_are_distinguished():
    assert Counter(type(build_regularizer(name)(Site(4, 2, 4, 8))) for name in NAMES) == Counter(
        NAMES.values()
    )
    text = repr(build("slowonly", build_regularizer("rms", sigma=1.0, border="valid")))
    assert "Gaussian, sigma 1 of 3, border valid; low by 0..2 a clip, p 1" in text
