"""Mixed training samples: CutMix and Mixup on clips or images, and their soft labels.

Whole clips are mixed, before a network takes slow and fast frames from them. The caller's batch
is not modified. Partners are a random permutation. Random numbers are drawn on the CPU, from
`generator` or torch's own state.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F


class Mixed(NamedTuple):
    """Mixed clips, the partner of each sample [B] and the share of the own label [B]."""

    clips: Tensor
    partner: Tensor
    share: Tensor


def cutmix(
    clips: Tensor,
    beta: float = 1.0,
    p: float = 1.0,
    each: bool = False,
    generator: torch.Generator | None = None,
) -> Mixed:
    """Replace a box, the same in all frames, by the partner's (CutMix; RMS supplement, Eq. 4).

    lambda ~ Beta(beta, beta) is the share of the area to keep. The box has sides of sqrt(1 -
    lambda) of the frame's and a uniform center, and is clipped at the frame. The returned share is
    that of the area which was kept after clipping.

    Args:
        clips: [B,...,H,W].
        beta: Above 0.
        p: The probability that a batch is mixed.
        each: Draw lambda, the box and whether to mix for every sample, not once for the batch.

    Raises:
        ValueError: beta is not positive, or p is outside 0..1.
    """
    count, size = (len(clips) if each else 1), torch.tensor(clips.shape[-2:])
    share, partner = _drawn(clips, beta, p, count, generator)
    sides = (size * (1 - share).sqrt()[:, None]).long()  # [n,2]
    center = (torch.rand(count, 2, generator=generator) * size).long()
    low = (center - sides // 2).clamp(min=0)
    high = torch.minimum(center + sides // 2, size)
    rows, columns = (_between(low[:, axis], high[:, axis], int(size[axis])) for axis in range(2))
    box = (rows[:, :, None] & columns[:, None, :]).to(clips.device, non_blocking=True)  # [n,H,W]
    kept = 1 - box.float().mean(dim=(1, 2))
    box = box.view(count, *(1,) * (clips.ndim - 3), *box.shape[1:])
    return Mixed(torch.where(box, clips[partner], clips), partner, kept.expand(len(clips)))


def mixup(
    clips: Tensor,
    beta: float = 0.2,
    p: float = 1.0,
    each: bool = False,
    generator: torch.Generator | None = None,
) -> Mixed:
    """Average every frame with the partner's, lambda to 1 - lambda (Zhang et al. 2018).

    lambda ~ Beta(beta, beta). The default of beta is common for images; for clips it is an
    assumption.

    Args:
        clips: [B,...,H,W].
        beta: Above 0.
        p: The probability that a batch is mixed.
        each: Draw lambda and whether to mix for every sample, not once for the batch.

    Raises:
        ValueError: beta is not positive, or p is outside 0..1.
    """
    share, partner = _drawn(clips, beta, p, len(clips) if each else 1, generator)
    share = share.to(clips.device, non_blocking=True)
    weight = share.view(-1, *(1,) * (clips.ndim - 1)).to(clips.dtype)
    return Mixed(clips * weight + clips[partner] * (1 - weight), partner, share.expand(len(clips)))


Name = Literal["cutmix", "mixup"]


@dataclass(frozen=True)
class Mixing:
    """`cutmix` or `mixup` with its arguments, for a recipe; beta None is the function's default."""

    name: Name
    beta: float | None = None
    p: float = 1.0
    each: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"mixing is one of {', '.join(get_args(Name))}; got {self.name!r}.")
        _check(1.0 if self.beta is None else self.beta, self.p)

    def __call__(self, clips: Tensor, generator: torch.Generator | None = None) -> Mixed:
        """Mix clips [B,...,H,W]."""
        mix = cutmix if self.name == "cutmix" else mixup
        beta = {} if self.beta is None else {"beta": self.beta}
        return mix(clips, p=self.p, each=self.each, generator=generator, **beta)


Mixings = Mixing | tuple[Mixing, ...]  # of several, one is drawn for each batch


def mix_batch(
    choices: Mixings | None, clips: Tensor, generator: torch.Generator | None = None
) -> Mixed | None:
    """Mix a batch by one mixing, or by a random one of several.

    Args:
        choices: If None or empty, nothing is mixed.
        clips: [B,...,H,W].

    Returns:
        The mixed batch, or None if nothing is mixed.
    """
    if not choices:
        return None
    if isinstance(choices, Mixing):
        return choices(clips, generator)
    drawn = int(torch.randint(len(choices), (), generator=generator))
    return choices[drawn](clips, generator)


def soft_labels(label: Tensor, mixed: Mixed, classes: int) -> Tensor:
    """Compute class probabilities of mixed samples, shared between own and partner's label.

    Args:
        label: [B].

    Returns:
        Probabilities [B,classes], float32.
    """
    own, other = (F.one_hot(value, classes).float() for value in (label, label[mixed.partner]))
    share = mixed.share.to(own)[:, None]
    return share * own + (1 - share) * other


def _drawn(clips: Tensor, beta: float, p: float, count: int, generator) -> tuple[Tensor, Tensor]:
    """(lambda [n], partner [B] on the clips' device); lambda is 1 for unmixed samples."""
    _check(beta, p)
    gamma = torch._standard_gamma(
        torch.full((2, count), float(beta), dtype=torch.double), generator=generator
    )
    share = (gamma[0] / gamma.sum(dim=0)).nan_to_num(0.5).float()
    share = torch.where(torch.rand(count, generator=generator) < p, share, 1.0)
    partner = torch.randperm(len(clips), generator=generator)
    return share, partner.to(clips.device, non_blocking=True)


def _check(beta: float, p: float) -> None:
    if not beta > 0 or not 0 <= p <= 1:
        raise ValueError(f"mixing needs beta above 0 and p in 0..1; got {beta} and {p}.")


def _between(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Whether each position is in [low, high): [n] and [n] -> bool [n,size]."""
    at = torch.arange(size)
    return (at >= low[:, None]) & (at < high[:, None])
