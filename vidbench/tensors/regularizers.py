"""RandomDrop and ShakeDrop, and where a network applies them or random mean scaling.

With a residual branch G and block l of L, which survives with probability p_l (see `survival`):

    RandomDrop   x + b_l G(x)                              b_l: 1 with probability p_l, else 0
    ShakeDrop    x + (b_l + alpha - b_l alpha) G(x)        alpha: random; backward uses another,
    beta

Source: the supplement of Kim et al. (CVPR 2020). `vidbench.tensors.scaling` describes this source
and the conventions for features, functions, modules and random numbers.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vidbench.tensors.scaling import (
    LEVELS,
    Border,
    Level,
    Part,
    RandomMeanScaling,
    Test,
    factor_shape,
)

Decay = Literal["l/L", "(l-1)/L", "(l-1)/(L-1)"]
Form = Literal["paper", "library"]
DECAYS, FORMS = map(get_args, (Decay, Form))


# ---- the rivals --------------------------------------------------------------------------------


def survival(block: int, blocks: int, last: float = 0.5, decay: str = "l/L") -> float:
    """Compute the probability that block l of L survives, falling linearly to `last` = p_L.

    Args:
        block, blocks: l, counted from 1, and L.
        decay: "l/L" is 1 - l / L (1 - p_L), stochastic depth's own (Huang et al. 2016), whose first
            block may drop already; "(l-1)/L" is torchvision's EfficientNet; "(l-1)/(L-1)" is timm's
            and ConvNeXt's.

    Raises:
        ValueError: The block is not in 1..L, p_L is not in (0, 1], or the decay is unknown.
    """
    if not 1 <= block <= blocks or not 0 < last <= 1:
        raise ValueError(
            f"survival needs a block of 1..{blocks} and p_L above 0 up to 1; got {block} and "
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
    """Apply RandomDrop (stochastic depth) to a branch, which survives with probability p.

    Args:
        x: Feature [B,C,T,H,W] or [B,C,H,W].
        form: "paper" (supplement, Eq. 2) is b x in training and p x in evaluation. "library" is
            b x / p and x, equal to it in expectation only.
        level: "batch" draws one gate b for all clips, as in the official code of stochastic depth;
            "clip" draws one for each.

    Returns:
        The feature, of the same shape.

    Raises:
        ValueError: The form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form is paper or library; got {form!r}.")
    if not training:
        return x * p if form == "paper" else x
    gate = (torch.rand(factor_shape(x, level), device=x.device, generator=generator) < p).to(
        x.dtype
    )
    return x * gate if form == "paper" else x * (gate / p)


class RandomDrop(nn.Module):
    """`random_drop` with its arguments; without state."""

    def __init__(self, p: float, form: str = "paper", level: str = "batch"):
        super().__init__()
        if not 0 < p <= 1 or form not in FORMS or level not in ("batch", "clip"):
            raise ValueError(
                "RandomDrop: p above 0 up to 1, form paper or library, level batch or clip; got "
                f"{p}, {form!r}, {level!r}."
            )
        self.p, self.form, self.level = p, form, level

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to a residual branch's feature; the shape stays."""
        return random_drop(x, self.p, self.training, self.form, self.level)

    def extra_repr(self) -> str:
        """Return the arguments, for printing the module."""
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
    """Apply ShakeDrop (supplement, Eq. 3).

    Forward multiplies by b + alpha - b alpha, backward by b + beta - b beta. b is one gate for the
    batch, 1 with probability p. Evaluation multiplies by the forward factor's mean,
    p + (1 - p) E[alpha].

    For ResNets the supplement has alpha = 0 and beta in (0, 1). That did not converge on
    Mini-Kinetics, so its authors halved beta's range; (0, 0.5) and (0.5, 1) are both possible.

    Args:
        x: Feature [B,C,T,H,W] or [B,C,H,W].
        alpha, beta: Ranges of the two uniform factors.
        level: What shares a factor alpha or beta; see `random_scaling`.

    Returns:
        The feature, of the same shape.
    """
    if not training:
        return x * (p + (1 - p) * sum(alpha) / 2)
    gate = (torch.rand((1,) * x.ndim, device=x.device, generator=generator) < p).float()

    def factor(law: tuple[float, float]) -> Tensor:
        drawn = torch.empty(factor_shape(x, level), device=x.device).uniform_(
            *law, generator=generator
        )
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
        """Apply it to a residual branch's feature; the shape stays."""
        return shake_drop(x, self.p, self.training, self.alpha, self.beta, self.level)

    def extra_repr(self) -> str:
        """Return the arguments, for printing the module."""
        return f"survival {self.p:.3f}, alpha {self.alpha}, beta {self.beta}, a {self.level}"


# ---- where they are applied -------------------------------------------------------------------

Name = Literal["rms", "random_drop", "shake_drop"]
NAMES = {"rms": RandomMeanScaling, "random_drop": RandomDrop, "shake_drop": ShakeDrop}


@dataclass(frozen=True)
class Regularizer:
    """A regularizer in a recipe: its name, where it is applied, and the arguments of its module.

    `build_regularizer` explains the fields. None leaves an argument at the module's default. Raises
    ValueError if the arguments do not fit the module.
    """

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
        """Return the callable that models.build takes."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return build_regularizer(**given)

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value not in (None, ())}
        return ", ".join(f"{name} {value}" for name, value in given.items())


def build_regularizer(
    name: str = "", stages: Sequence[int] = (), pathways: Sequence[str] = (), **arguments
) -> Callable[[Any], nn.Module]:
    """Build what is applied at the end of each residual branch: a callable for models.build.

    Args:
        name: rms, random_drop or shake_drop.
        stages, pathways: Apply it only there. Empty stages mean all. Empty pathways mean all, for
            RMS all but the fast one (supplement, B.1).
        arguments: Those of the module. Instead of p, random_drop and shake_drop take `last` and
            `decay` of `survival`.

    Returns:
        A function of a site (with stage, block from 1, blocks, pathway) that makes its module.

    Raises:
        ValueError: The name or an argument does not fit. It is raised here, not when the network
            is built.
    """
    if name not in NAMES:
        raise ValueError(f"a regularizer is one of {', '.join(NAMES)}; got {name!r}.")
    if isinstance(stages, int | str) or isinstance(pathways, str):
        raise ValueError(
            f"stages and pathways are lists, such as (4, 5) and ('slow',); got {stages!r}, "
            f"{pathways!r}."
        )
    pathways = pathways or (("", "slow") if name == "rms" else ())
    of_survival = () if name == "rms" else ("last", "decay")
    falling = {word: arguments.pop(word) for word in of_survival if word in arguments}

    def made(block: int, blocks: int) -> nn.Module:
        if name == "rms":
            return NAMES[name](**arguments)
        return NAMES[name](survival(block, blocks, **falling), **arguments)

    try:
        made(1, 1)
    except TypeError as error:
        own = inspect.signature(NAMES[name]).parameters
        words = [word for word in own if word != "p" or name == "rms"]
        known = ", ".join(["stages", "pathways", *words, *of_survival])
        raise ValueError(f"the regularizer {name!r} has the arguments {known}; {error}.") from error

    def at(site) -> nn.Module:
        here = (not stages or site.stage in stages) and (not pathways or site.pathway in pathways)
        return made(site.block, site.blocks) if here else nn.Identity()

    return at
