"""Random mean scaling (RMS): a random factor on the low-frequency part of residual branches.

    y = x + (alpha - 1) F x,   alpha uniform in (0, 2) in training; y = x in evaluation

F is the mean over 3 x 3 x 3 positions, so the high-frequency part x - F x stays as it is. In
evaluation alpha is its expectation, 1.

Source: Kim et al. (CVPR 2020), its abstract and its supplement (sections B to D, Eq. 1 to 3); the
paper's main text and code are not available. Docstrings cite the source of each detail, or call it
an assumption.

Features are [B,C,T,H,W] or, of images, [B,C,H,W]. A regularizer is a function with a `training`
flag and a module that only remembers its arguments. Random numbers are drawn in float32 on the
feature's device, from `generator` or from torch's own state, which engine.loop seeds again for each
step and rank.

Example: inside a constant feature only the factor shows; evaluation changes nothing.

>>> x = torch.ones(2, 1, 3, 3, 3)
>>> y = random_scaling(x, True, Filter(3), generator=torch.Generator().manual_seed(0))
>>> [round(float(one), 3) for one in y[:, 0, 1, 1, 1]]
[0.993, 1.536]
>>> bool(torch.equal(random_scaling(x, False, Filter(3)), x))
True
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidbench.system.kernels import kernels_run

Border = Literal["zero", "valid", "replicate"]
Part = Literal["low", "high", "whole", "both"]
Level = Literal["batch", "clip", "channel", "frame", "pixel"]
Test = Literal["identity", "expectation"]
BORDERS, PARTS, LEVELS, TESTS = map(get_args, (Border, Part, Level, Test))


# ---- the low-frequency part --------------------------------------------------------------------


def taps(kernel: int, sigma: float | None = None, raw: bool = False) -> tuple[float, ...]:
    """Compute the weights along one axis, of the mean or of a Gaussian (supplement, Eq. 1).

    Args:
        kernel: Odd number of positions.
        sigma: Of the Gaussian, in positions; None is the mean.
        raw: Keep Eq. 1's own weights, normalized for a continuous axis. Otherwise they are
            renormalized to sum 1 (assumption: without it the low part nearly vanishes at larger
            sigma).

    Raises:
        ValueError: The kernel is not odd and positive, or sigma is not positive.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a filter needs an odd kernel of at least 1; got {kernel}.")
    if sigma is None:
        return (1 / kernel,) * kernel
    if not sigma > 0:
        raise ValueError(f"a Gaussian filter needs a sigma above 0; got {sigma}.")
    weights = [math.exp(-((i - kernel // 2) ** 2) / (2 * sigma**2)) for i in range(kernel)]
    whole = sigma * math.sqrt(2 * math.pi) if raw else sum(weights)
    return tuple(weight / whole for weight in weights)


class Filter:
    """F: a separable symmetric filter over a feature's positions, and its transpose.

    Depthwise; the output has the input's size. Raises ValueError on unknown arguments.

    Args:
        kernel: Positions along (T,H,W), or (H,W) for images; a single number is that of every axis.
        sigma, raw: See `taps`.
        border: "zero" counts positions outside as zeros (assumption: as average pooling with
            padding), "valid" divides by the weights inside, "replicate" repeats the outermost
            position.
    """

    def __init__(
        self,
        kernel: int | Sequence[int] = 3,
        sigma: float | None = None,
        border: str = "zero",
        raw: bool = False,
    ):
        if border not in BORDERS:
            raise ValueError(f"border is one of {', '.join(BORDERS)}; got {border!r}.")
        self.kernel = kernel if isinstance(kernel, int) else tuple(kernel)
        self.sigma, self.border, self.raw = sigma, border, raw
        if raw and sigma is None:
            raise ValueError("raw weights are a Gaussian's; a mean has none, so give a sigma.")
        for size in {kernel} if isinstance(kernel, int) else set(kernel):
            taps(size, sigma, raw)

    def __call__(self, x: Tensor, transposed: bool = False) -> Tensor:
        """Return F x, or transposed F' x, of the same shape; deterministic on every device."""
        axes = range(2, x.ndim)
        sizes = (self.kernel,) * len(axes) if isinstance(self.kernel, int) else self.kernel
        if len(sizes) != len(axes):
            raise ValueError(
                f"a kernel of {len(sizes)} axes does not fit a feature {list(x.shape)}."
            )
        if self._pools(x, sizes):
            return F.avg_pool3d(x, sizes, 1, tuple(size // 2 for size in sizes))
        for axis, size in zip(axes, sizes, strict=True):
            if size > 1:
                x = self._along(x, axis, taps(size, self.sigma, self.raw), transposed)
        return x

    def _pools(self, x: Tensor, sizes: Sequence[int]) -> bool:
        # On CUDA, pooling passes over memory once, not eight times per axis. Only its backward
        # adds in random order; it is never called, as F with zeros outside is its own transpose.
        # Pooling refuses features smaller than the kernel.
        return (
            x.is_cuda
            and x.ndim == 5
            and self.sigma is None
            and self.border == "zero"
            and x.is_contiguous()
            and max(sizes) > 1
            and all(n >= size for n, size in zip(x.shape[2:], sizes, strict=True))
        )

    def _along(self, x: Tensor, axis: int, weights: Sequence[float], transposed: bool) -> Tensor:
        size, center = x.shape[axis], len(weights) // 2
        scale: Tensor | float = 1.0
        if self.border == "valid":
            ones, line = (
                torch.tensor([[values]], dtype=torch.double) for values in ((1.0,) * size, weights)
            )
            inside = F.conv1d(ones, line, padding=center)
            scale = (
                (sum(weights) / inside).view([-1 if i == axis else 1 for i in range(x.ndim)]).to(x)
            )
            x = x * scale if transposed else x
        out = x * weights[center]
        for offset in range(1, center + 1):
            weight, beyond = weights[center + offset], min(offset, size)
            if size > offset:
                out.narrow(axis, 0, size - offset).add_(
                    x.narrow(axis, offset, size - offset), alpha=weight
                )
                out.narrow(axis, offset, size - offset).add_(
                    x.narrow(axis, 0, size - offset), alpha=weight
                )
            if self.border == "replicate":
                for edge, start in ((0, 0), (size - 1, size - beyond)):
                    if transposed:
                        more = x.narrow(axis, start, beyond).sum(axis, keepdim=True)
                        out.narrow(axis, edge, 1).add_(more, alpha=weight)
                    else:
                        out.narrow(axis, start, beyond).add_(x.narrow(axis, edge, 1), alpha=weight)
        return out * scale if self.border == "valid" and not transposed else out

    def __repr__(self) -> str:
        law = (
            "mean" if self.sigma is None else f"Gaussian, sigma {self.sigma:g}{', raw' * self.raw}"
        )
        return f"{law} of {self.kernel}, border {self.border}"


class _Scaled(torch.autograd.Function):
    """own * x + low * F x. It is linear in x, so the backward pass needs neither x nor F x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor | None, low: Tensor, smoother: Filter) -> Tensor:
        ctx.own, ctx.low, ctx.smoother = own, low, smoother
        return torch.addcmul(x if own is None else own * x, low, smoother(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        own, low = ctx.own, ctx.low
        base = g if own is None else own * g
        # F' and a factor shared by all positions commute
        if all(size == 1 for size in low.shape[2:]):
            return torch.addcmul(base, low, ctx.smoother(g, transposed=True)), None, None, None
        return base + ctx.smoother(low * g, transposed=True), None, None, None


def _kernels_run(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None:  # ROCm's devices are called cuda, too
        return kernels_run()
    found = torch.cuda.get_device_properties(device)  # torch.compile traces this as a constant
    return kernels_run((found.major, found.minor))


def scaled(x: Tensor, own: Tensor | None, low: Tensor, smoother: Filter) -> Tensor:
    """Compute own x + low F x, by one Triton kernel if it has this form (`tensors.kernels`).

    Args:
        x: Features [B,C,T,H,W] or [B,C,H,W].
        own: Factors that broadcast to x, of x's dtype; None is 1.
        low: Factors of F x, of the shape and dtype of `own`.
        smoother: F.

    Returns:
        The features, of the same shape and dtype. Gradients reach x alone.
    """
    depth = _kernel_depth(x, low, smoother)
    if not depth:
        return _Scaled.apply(x, own, low, smoother)
    from vidbench.tensors.kernels import scale_low

    if x.ndim == 5:
        return scale_low(x, own, low, depth)
    own = None if own is None else own.unsqueeze(2)
    return scale_low(x.unsqueeze(2), own, low.unsqueeze(2), depth).squeeze(2)


def _kernel_depth(x: Tensor, low: Tensor, smoother: Filter) -> int:
    """The frames over which the kernel's filter averages; 0 if PyTorch must compute this."""
    ours = {5: {3: 3, (3, 3, 3): 3, (1, 3, 3): 1}, 4: {3: 1, (3, 3): 1}}
    depth = ours.get(x.ndim, {}).get(smoother.kernel, 0)
    if not depth or smoother.sigma is not None or smoother.border != "zero":
        return 0
    (clips, channels), (height, width) = x.shape[:2], x.shape[-2:]
    ones = (1,) * (x.ndim - 2)  # F' and factors shared by all positions commute
    fits = (
        x.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and low.shape in ((1, 1, *ones), (clips, 1, *ones), (clips, channels, *ones))
        and x.numel() > 0
        and clips * channels * height * width < 2**31 - 2**12  # which the kernel counts in 32 bits
    )
    return depth if fits and _kernels_run(x.device) else 0


# ---- random mean scaling -----------------------------------------------------------------------


def factor_shape(x: Tensor, level: str) -> tuple[int, ...]:
    """Return the shape of factors that each `level` of a feature shares.

    Args:
        x: Feature [B,C,T,H,W] or [B,C,H,W].
        level: What shares a factor; see `random_scaling`.

    Raises:
        ValueError: The level is unknown, or "frame" of an image.
    """
    if level not in LEVELS or level == "frame" and x.ndim != 5:
        raise ValueError(
            f"level is one of {', '.join(LEVELS)}, frame of clips only; got {level!r} for a "
            f"feature {list(x.shape)}."
        )
    shared = {"batch": 0, "clip": 1, "channel": 2, "pixel": x.ndim}.get(level)
    if shared is None:
        return x.shape[0], 1, x.shape[2], 1, 1
    return tuple(size if axis < shared else 1 for axis, size in enumerate(x.shape))


def random_scaling(
    x: Tensor,
    training: bool,
    smoother: Filter,
    part: str = "low",
    law: tuple[float, float] = (0, 2),
    level: str = "clip",
    p: float = 1.0,
    test: str = "identity",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Apply random mean scaling or a relative: y = a_low F x + a_high (x - F x).

    RMS is y = x + (alpha - 1) F x with one alpha per clip (abstract; supplement, D).

    Args:
        x: Feature [B,C,T,H,W] or [B,C,H,W].
        smoother: F.
        part: "low" is RMS, with a_high = 1. "high" scales x - F x alone, "whole" both parts by one
            factor, "both" each by its own.
        law: alpha is uniform in this range; (1 - r, 1 + r) with r = 1 is an assumption.
        level: What shares a factor: the batch, a clip, a clip's channel, a clip's frame, or nothing
            ("pixel").
        p: The probability that a factor differs from 1.
        test: "identity" returns x in evaluation, "expectation" scales by the factor's mean.

    Returns:
        The feature, of the same shape; x itself in evaluation if nothing changes.

    Raises:
        ValueError: part, test or level is unknown.
    """
    if part not in PARTS or test not in TESTS:
        raise ValueError(
            f"part is one of {', '.join(PARTS)}, test of {', '.join(TESTS)}; got {part!r}, "
            f"{test!r}."
        )
    mean = 1 + p * ((law[0] + law[1]) / 2 - 1)
    if not training and (test == "identity" or mean == 1):
        return x

    def draw() -> Tensor:
        if not training:
            return torch.full((1,) * x.ndim, mean, device=x.device)
        factor = torch.empty(factor_shape(x, level), device=x.device).uniform_(
            *law, generator=generator
        )
        if p < 1:
            chosen = torch.rand(factor.shape, device=x.device, generator=generator) < p
            factor = torch.where(chosen, factor, 1.0)
        return factor

    if part == "whole":
        return x * draw().to(x.dtype)
    low = draw() if part in ("low", "both") else None
    high = draw() if part in ("high", "both") else None
    difference: Any = (1.0 if low is None else low) - (1.0 if high is None else high)
    return scaled(x, None if high is None else high.to(x.dtype), difference.to(x.dtype), smoother)


class RandomMeanScaling(nn.Module):
    """`random_scaling` with its arguments, without state; `Filter` explains kernel to raw.

    Warns if the law's mean is not 1 and evaluation is the identity: the network is then tested on
    larger or smaller features than it was trained on.
    """

    def __init__(
        self,
        kernel: int | Sequence[int] = 3,
        sigma: float | None = None,
        border: str = "zero",
        raw: bool = False,
        part: str = "low",
        law: tuple[float, float] = (0, 2),
        level: str = "clip",
        p: float = 1.0,
        test: str = "identity",
    ):
        super().__init__()
        if part not in PARTS or level not in LEVELS or test not in TESTS or not 0 <= p <= 1:
            raise ValueError(
                f"RandomMeanScaling: part is one of {', '.join(PARTS)}, level of "
                f"{', '.join(LEVELS)}, "
                f"test of {', '.join(TESTS)}, p in 0..1; got {part!r}, {level!r}, {test!r}, {p}."
            )
        if len(law) != 2 or law[0] > law[1]:
            raise ValueError(
                f"RandomMeanScaling: law is (from, to) of a uniform factor; got {law}."
            )
        if p and sum(law) != 2 and test == "identity":
            warnings.warn(
                f"the mean of {law} is {sum(law) / 2:g}, not 1, and evaluation is the identity. "
                "Set test='expectation' to scale in evaluation, too.",
                stacklevel=2,
            )
        self.smoother = Filter(kernel, sigma, border, raw)
        self.part, self.level, self.p, self.test = part, level, p, test
        self.law = (law[0], law[1])

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to a residual branch's feature; the shape stays."""
        return random_scaling(
            x, self.training, self.smoother, self.part, self.law, self.level, self.p, self.test
        )

    def extra_repr(self) -> str:
        """Return the arguments, for printing the module."""
        return f"{self.smoother}; {self.part} by {self.law[0]:g}..{self.law[1]:g} a {self.level}, p {self.p:g}"
