"""What makes training harder on purpose: RMS, RandomDrop and ShakeDrop on residual branches.

Source: Kim et al. (CVPR 2020), its abstract and its supplement (sections B to D, Eq. 1 to 3); the
paper's main text and code were not to be had. What follows from those is said where it is used;
what does not is called an assumption.

Features are [B,C,T,H,W] or, of images, [B,C,H,W]. Each regularizer is a function with a `training`
flag and a module that only remembers its arguments. Random numbers are drawn in float32 on the
feature's device, from `generator` or from torch's own state, which engine.loop seeds anew for each
step and rank."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Border = Literal["zero", "valid", "replicate"]
Part = Literal["low", "high", "whole", "both"]
Level = Literal["batch", "clip", "channel", "frame", "pixel"]
Test = Literal["identity", "expectation"]
Decay = Literal["l/L", "(l-1)/L", "(l-1)/(L-1)"]
Form = Literal["paper", "library"]
BORDERS, PARTS, LEVELS, TESTS, DECAYS, FORMS = map(
    get_args, (Border, Part, Level, Test, Decay, Form)
)


# ---- the low-frequency part --------------------------------------------------------------------


def taps(kernel: int, sigma: float | None = None, raw: bool = False) -> tuple[float, ...]:
    """The filter's weights along one axis: of the mean, or of a Gaussian (supplement, Eq. 1) where
    sigma is given.

    kernel: odd number of positions. A Gaussian is renormalized to sum 1 (assumption; else the low
    part nearly vanishes at larger sigma); raw keeps Eq. 1's own weights, normalized for a
    continuous axis. Raises ValueError."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a filter wants an odd kernel from 1 up; got {kernel}.")
    if sigma is None:
        return (1 / kernel,) * kernel
    if not sigma > 0:
        raise ValueError(f"a Gaussian filter wants a sigma above 0; got {sigma}.")
    weights = [math.exp(-((i - kernel // 2) ** 2) / (2 * sigma**2)) for i in range(kernel)]
    whole = sigma * math.sqrt(2 * math.pi) if raw else sum(weights)
    return tuple(weight / whole for weight in weights)


class Filter:
    """F: a separable symmetric filter over a feature's positions, depthwise, same size, and its
    transpose.

    kernel: positions along (T,H,W), or (H,W) of images; a lone number is that of every axis. sigma,
    raw: see `taps`. border: "zero" counts what lies outside as zeros (assumption: what average
    pooling with padding does), "valid" divides by the weights inside, "replicate" repeats the
    outermost position. Raises ValueError on other arguments."""

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
        """F x, or transposed F' x, of the same shape. Slices and additions: deterministic on every
        device."""
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
        # On CUDA one pass over memory instead of eight an axis. Only the pooling's backward adds in
        # random order, and that is never called: with zeros outside F is its own transpose. It
        # refuses features smaller than the kernel.
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
    """own * x + low * F x, keeping for the backward pass neither x nor F x, since it is linear in
    x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor | None, low: Tensor, smoother: Filter) -> Tensor:
        ctx.own, ctx.low, ctx.smoother = own, low, smoother
        return torch.addcmul(x if own is None else own * x, low, smoother(x))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        own, low = ctx.own, ctx.low
        base = g if own is None else own * g
        if all(
            size == 1 for size in low.shape[2:]
        ):  # F' and a factor shared by all positions may change places
            return torch.addcmul(base, low, ctx.smoother(g, transposed=True)), None, None, None
        return base + ctx.smoother(low * g, transposed=True), None, None, None


# ---- random mean scaling -----------------------------------------------------------------------


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
    """y = a_low F x + a_high (x - F x): random mean scaling (part "low": a_high = 1) and its
    relatives.

    RMS is y = x + (alpha - 1) F x with one alpha for each clip (abstract; supplement, D). law:
    alpha is uniform between the two; (1 - r, 1 + r) with r = 1 is an assumption. part: "high"
    scales what F leaves, "whole" both by one factor, "both" each by its own. level: what shares a
    factor: the batch, a clip, a clip's channel, a clip's frame, or nothing ("pixel"). p: the
    probability, for each of those, of being scaled at all. test: "identity", or "expectation",
    which scales by the mean of the law. Returns x itself in evaluation with "identity". Raises
    ValueError on other names."""
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
        factor = torch.empty(_shape(x, level), device=x.device).uniform_(*law, generator=generator)
        if p < 1:
            chosen = torch.rand(factor.shape, device=x.device, generator=generator) < p
            factor = torch.where(chosen, factor, 1.0)
        return factor

    if part == "whole":
        return x * draw().to(x.dtype)
    low = draw() if part in ("low", "both") else None
    high = draw() if part in ("high", "both") else None
    difference: Any = (1.0 if low is None else low) - (1.0 if high is None else high)
    return _Scaled.apply(
        x, None if high is None else high.to(x.dtype), difference.to(x.dtype), smoother
    )


class RandomMeanScaling(nn.Module):
    """`random_scaling` with its arguments; without state. kernel, sigma, border, raw: see Filter.

    Warns where the law's mean is not 1 and evaluation is the identity: the network is then tested
    on larger or smaller features than it was trained on."""

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
                f"the mean of {law} is {sum(law) / 2:g}, not 1, and evaluation is the identity; "
                "test='expectation' scales there, too.",
                stacklevel=2,
            )
        self.smoother = Filter(kernel, sigma, border, raw)
        self.part, self.level, self.p, self.test = part, level, p, test
        self.law = (law[0], law[1])

    def forward(self, x: Tensor) -> Tensor:
        """Feature of a residual branch -> the same shape; in evaluation the feature itself."""
        return random_scaling(
            x, self.training, self.smoother, self.part, self.law, self.level, self.p, self.test
        )

    def extra_repr(self) -> str:
        return f"{self.smoother}; {self.part} by {self.law[0]:g}..{self.law[1]:g} a {self.level}, p {self.p:g}"


# ---- its rivals --------------------------------------------------------------------------------


def survival(block: int, blocks: int, last: float = 0.5, decay: str = "l/L") -> float:
    """How likely block l of L survives, falling linearly to `last` = p_L, as three code bases have
    it.

    "l/L": 1 - l / L (1 - p_L), stochastic depth's own (Huang et al. 2016), whose first block may
    drop already; "(l-1)/L": torchvision's EfficientNet; "(l-1)/(L-1)": timm's and ConvNeXt's.
    Raises ValueError."""
    if not 1 <= block <= blocks or not 0 < last <= 1:
        raise ValueError(
            f"survival wants a block of 1..{blocks} and p_L above 0 up to 1; got {block} and "
            f"{last}."
        )
    match decay:
        case "l/L":
            share = block / blocks
        case "(l-1)/L":
            share = (block - 1) / blocks
        case "(l-1)/(L-1)":
            share = (block - 1) / max(blocks - 1, 1)
        case _:
            raise ValueError(f"decay is one of {', '.join(DECAYS)}; got {decay!r}.")
    return 1 - share * (1 - last)


def random_drop(
    x: Tensor,
    p: float,
    training: bool,
    form: str = "paper",
    level: str = "batch",
    generator: torch.Generator | None = None,
) -> Tensor:
    """RandomDrop, or stochastic depth: the branch survives with probability p.

    form "paper" (supplement, Eq. 2): b x in training, p x in evaluation. "library": b x / p and x,
    equal in expectation only. level "batch": one gate b for all, as in the official code of
    stochastic depth; "clip": one for each."""
    if form not in FORMS:
        raise ValueError(f"form is paper or library; got {form!r}.")
    if not training:
        return x * p if form == "paper" else x
    gate = (torch.rand(_shape(x, level), device=x.device, generator=generator) < p).to(x.dtype)
    return x * gate if form == "paper" else x * (gate / p)


class RandomDrop(nn.Module):
    """`random_drop` with its arguments; without state."""

    def __init__(self, p: float, form: str = "paper", level: str = "batch"):
        super().__init__()
        if not 0 < p <= 1 or form not in FORMS or level not in ("batch", "clip"):
            raise ValueError(
                "RandomDrop: p above 0 up to 1, form paper or library, level batch or clip; got "
                f"{p}, "
                f"{form!r}, {level!r}."
            )
        self.p, self.form, self.level = p, form, level

    def forward(self, x: Tensor) -> Tensor:
        """Feature of a residual branch -> the same shape."""
        return random_drop(x, self.p, self.training, self.form, self.level)

    def extra_repr(self) -> str:
        return f"survival {self.p:.3f}, {self.form}, a {self.level}"


class _TwoFactors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ahead: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x * ahead

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return g * ctx.back, None, None


def shake_drop(
    x: Tensor,
    p: float,
    training: bool,
    alpha: tuple[float, float] = (0, 0),
    beta: tuple[float, float] = (0, 1),
    level: str = "pixel",
    generator: torch.Generator | None = None,
) -> Tensor:
    """ShakeDrop (supplement, Eq. 3): forward times b + alpha - b alpha, backward times b + beta - b
    beta.

    b is one gate for the batch, 1 with probability p; alpha and beta are uniform between the two
    given, drawn for each of `level`. For ResNets the supplement has alpha = 0 and beta in (0, 1);
    that did not converge on Mini-Kinetics, so its authors halved beta's range, which leaves (0,
    0.5) or (0.5, 1) open. Evaluation: x times the forward factor's mean, p + (1 - p) E[alpha]."""
    if not training:
        return x * (p + (1 - p) * sum(alpha) / 2)
    gate = (torch.rand((1,) * x.ndim, device=x.device, generator=generator) < p).float()

    def factor(law: tuple[float, float]) -> Tensor:
        drawn = torch.empty(_shape(x, level), device=x.device).uniform_(*law, generator=generator)
        return (gate + drawn - gate * drawn).to(x.dtype)

    return _TwoFactors.apply(x, factor(alpha), factor(beta))


class ShakeDrop(nn.Module):
    """`shake_drop` with its arguments; without state."""

    def __init__(
        self,
        p: float,
        alpha: tuple[float, float] = (0, 0),
        beta: tuple[float, float] = (0, 1),
        level: str = "pixel",
    ):
        super().__init__()
        if (
            not 0 < p <= 1
            or level not in LEVELS
            or any(len(law) != 2 or law[0] > law[1] for law in (alpha, beta))
        ):
            raise ValueError(
                f"ShakeDrop: p above 0 up to 1, alpha and beta (from, to), level one of "
                f"{', '.join(LEVELS)}; got {p}, {alpha}, {beta}, {level!r}."
            )
        self.p, self.level = p, level
        self.alpha, self.beta = (alpha[0], alpha[1]), (beta[0], beta[1])

    def forward(self, x: Tensor) -> Tensor:
        """Feature of a residual branch -> the same shape."""
        return shake_drop(x, self.p, self.training, self.alpha, self.beta, self.level)

    def extra_repr(self) -> str:
        return f"survival {self.p:.3f}, alpha {self.alpha}, beta {self.beta}, a {self.level}"


def _shape(x: Tensor, level: str) -> tuple[int, ...]:
    """The shape of factors of which each is shared by one `level` of the feature."""
    if level not in LEVELS or level == "frame" and x.ndim != 5:
        raise ValueError(
            f"level is one of {', '.join(LEVELS)}, frame of clips only; got {level!r} for a "
            "feature "
            f"{list(x.shape)}."
        )
    shared = {"batch": 0, "clip": 1, "channel": 2, "pixel": x.ndim}.get(level)
    if shared is None:
        return x.shape[0], 1, x.shape[2], 1, 1
    return tuple(size if axis < shared else 1 for axis, size in enumerate(x.shape))


# ---- where they stand --------------------------------------------------------------------------

Name = Literal["rms", "random_drop", "shake_drop"]
NAMES = {"rms": RandomMeanScaling, "random_drop": RandomDrop, "shake_drop": ShakeDrop}


@dataclass(frozen=True)
class Regularizer:
    """A regularizer as a recipe holds it: which, where, and the arguments of its module.

    `build_regularizer` explains the fields. None leaves an argument at the module's default. Raises ValueError
    if the arguments do not fit the module."""

    name: Name
    stages: tuple[int, ...] = ()
    pathways: tuple[str, ...] = ()
    kernel: int | tuple[int, ...] | None = None
    sigma: float | None = None
    border: Border | None = None
    raw: bool | None = None
    part: Part | None = None
    law: tuple[float, float] | None = None
    level: Level | None = None
    p: float | None = None
    test: Test | None = None
    form: Form | None = None
    alpha: tuple[float, float] | None = None
    beta: tuple[float, float] | None = None
    last: float | None = None
    decay: Decay | None = None

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> Callable[[Any], nn.Module]:
        """Return what models.build takes."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return build_regularizer(**given)

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value not in (None, ())}
        return ", ".join(f"{name} {value}" for name, value in given.items())


def build_regularizer(
    name: str = "", stages: Sequence[int] = (), pathways: Sequence[str] = (), **arguments
) -> Callable[[Any], nn.Module]:
    """What stands at the end of each residual branch of a network: a callable of its site, as
    models.build takes it.

    name: rms, random_drop or shake_drop, with the arguments of their modules; p of the latter two
    is the `survival` of the site, whose arguments last and decay are given instead. stages,
    pathways: only there; empty is everywhere, for RMS's pathways all but the fast one (supplement,
    B.1). A site has stage, block (from 1), blocks and pathway. Raises ValueError, here and not
    later, for a name or arguments that do not fit."""
    if name not in NAMES:
        raise ValueError(f"a regularizer is one of {', '.join(NAMES)}; got {name!r}.")
    if isinstance(stages, int | str) or isinstance(pathways, str):
        raise ValueError(
            f"stages and pathways are lists, such as (4, 5) and ('slow',); got {stages!r}, "
            f"{pathways!r}."
        )
    pathways = pathways or (("", "slow") if name == "rms" else ())
    falling = {
        word: arguments.pop(word)
        for word in ("last", "decay")
        if word in arguments and name != "rms"
    }

    def made(block: int, blocks: int) -> nn.Module:
        return (
            NAMES[name](**arguments)
            if name == "rms"
            else NAMES[name](survival(block, blocks, **falling), **arguments)
        )

    try:
        made(1, 1)
    except TypeError as error:
        own = [
            word
            for word in inspect.signature(NAMES[name]).parameters
            if word != "p" or name == "rms"
        ]
        known = ["stages", "pathways", *own, *(("last", "decay") if name != "rms" else ())]
        raise ValueError(
            f"the regularizer {name!r} has the arguments {', '.join(known)}; {error}."
        ) from error

    def at(site) -> nn.Module:
        here = (not stages or site.stage in stages) and (not pathways or site.pathway in pathways)
        return made(site.block, site.blocks) if here else nn.Identity()

    return at
