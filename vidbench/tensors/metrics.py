"""Measures: top-k, recall at k, mining purity, mean over views, bootstrap intervals."""

import torch
from torch import Tensor


def topk_hit(logits: Tensor, positives: Tensor, k: int = 1) -> Tensor:
    """Whether any of the k largest logits of a row is a positive (utils.py of CoCLR): [B,A], bool
    [B,A] -> bool [B]."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return positives.gather(1, best).any(dim=1)


def recall_at(neighbor_labels: Tensor, labels: Tensor, ks: tuple[int, ...]) -> dict[int, Tensor]:
    """R@k of retrieval: a hit if any of the k nearest has the query's label (CoCLR, section 4.4).

    neighbor_labels [N,k_max] in order of rank, labels [N] -> {k: bool [N]}; their mean is the R@k.
    Raises ValueError where fewer neighbors than the largest k were given.
    """
    if max(ks) > neighbor_labels.shape[1]:
        raise ValueError(
            f"R@{max(ks)} wants {max(ks)} neighbors; got {neighbor_labels.shape[1]}: "
            "ask the search for more or make the gallery larger."
        )
    same = neighbor_labels == labels[:, None]
    return {k: same[:, :k].any(dim=1) for k in ks}


def purity(mined: Tensor, slot_labels: Tensor, labels: Tensor) -> Tensor:
    """Share of mined positives with the query's own (hidden) label.

    mined bool [B,K], slot_labels [K], labels [B] -> scalar. Queries without label (-1) are not
    counted; NaN if nothing else was mined. A slot without label is never right."""
    counted = mined & (labels >= 0)[:, None]
    right = counted & (slot_labels[None, :] == labels[:, None])
    return right.sum() / counted.sum()


BINS = 15  # of `calibration_error`, as in Guo et al. 2017


def cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log probability of the right class in nats: [N,A], [N] -> scalar.

    A probability below float32's smallest step counts as that step, so the result is finite."""
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    return -own.clamp_min(torch.finfo(torch.float32).tiny).log().mean()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error (Guo et al. 2017, Eq. 3): [N,A], [N] -> scalar.

    The largest probability of a row is its confidence. Rows fall into `bins` intervals of equal
    width, open on the left. The error is the mean over rows of |accuracy - confidence| of their
    bin."""
    confidence, guess = probabilities.double().max(dim=1)
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (guess == labels).double() - confidence
    return torch.zeros(bins, dtype=torch.double).index_add_(0, number, gap).abs().sum() / len(gap)


def effective_rank(rows: Tensor) -> float:
    """How many directions the rows fill, their mean taken off: exp of the entropy of the normalized
    singular values (Roy and Vetterli 2007; RankMe, Garrido et al. 2023, without the mean).

    rows [N,D], N > 1 -> 1 up to min(N - 1, D); 0.0 where all rows are equal. Few directions mean
    collapse."""
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(dim=0))
    if float(values[0]) <= 1e-9 * max(float(rows.norm()), 1e-30):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def spread(rows: Tensor) -> float:
    """How far unit rows lie apart: sqrt(D) x the mean deviation of their coordinates, 1 on a
    sphere, 0 in one point.

    rows [N,D], made unit here (SimSiam's sign of collapse, Chen and He 2021, section 4.1).
    """
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * rows.shape[1] ** 0.5


def interval(draws: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Compute the percentile interval of a bootstrap's draws [n]: `level` of them are inside.

    The two quantiles stay as they are, even if they miss the estimate. A miss needs 97.5 % of the
    draws on one side of the estimate: the bootstrap is then biased, and stretching the interval to
    the estimate would hide it. Draws that are NaN do not count.
    """
    tail = (1 - level) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.double)
    low, high = torch.nanquantile(draws.double(), ends).tolist()
    return low, high


def bootstrap_interval(values: Tensor, *, seed: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of the mean of values [N] by 2,000 draws of
    rows (videos)."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double().flatten()
    means = torch.stack(
        [
            values[torch.randint(len(values), (len(values),), generator=generator)].mean()
            for _ in range(2000)
        ]
    )
    return interval(means)
