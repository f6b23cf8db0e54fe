"""Measures: top-k, recall at k, mining purity, calibration, effective rank, bootstrap intervals."""

import torch
from torch import Tensor


def topk_hit(logits: Tensor, positives: Tensor, k: int = 1) -> Tensor:
    """Test whether any of a row's k largest logits is a positive (utils.py of CoCLR).

    Args:
        logits: [B,A] for A candidates.
        positives: bool [B,A].

    Returns:
        bool [B].
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return positives.gather(1, best).any(dim=1)


def recall_at(neighbor_labels: Tensor, labels: Tensor, ks: tuple[int, ...]) -> dict[int, Tensor]:
    """Compute R@k of retrieval: a hit if any of the k nearest has the query's label.

    Source: CoCLR, section 4.4.

    Args:
        neighbor_labels: Labels of the neighbors [N,k_max], nearest first.
        labels: Labels of the queries [N].

    Returns:
        Hits {k: bool [N]}; their mean is R@k.

    Raises:
        ValueError: There are fewer neighbors than the largest k.
    """
    if max(ks) > neighbor_labels.shape[1]:
        raise ValueError(
            f"R@{max(ks)} needs {max(ks)} neighbors; got {neighbor_labels.shape[1]}. "
            "Search for more, or make the gallery larger."
        )
    same = neighbor_labels == labels[:, None]
    return {k: same[:, :k].any(dim=1) for k in ks}


def purity(mined: Tensor, slot_labels: Tensor, labels: Tensor) -> Tensor:
    """Compute the share of mined positives with the query's own (hidden) label.

    Args:
        mined: bool [B,K].
        slot_labels: Labels of the slots [K]; a slot without label (-1) is never right.
        labels: Labels of the queries [B]; queries without label (-1) are not counted.

    Returns:
        The share, a scalar; NaN if nothing is counted.
    """
    counted = mined & (labels >= 0)[:, None]
    right = counted & (slot_labels[None, :] == labels[:, None])
    return right.sum() / counted.sum()


BINS = 15  # of `calibration_error`, as in Guo et al. 2017


def cross_entropy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean negative log probability of the right class in nats.

    Args:
        probabilities: [N,classes]. Values below float32's smallest normal number count as that
            number, so the result is finite.
        labels: [N].

    Returns:
        A scalar, float64.
    """
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    return -own.clamp_min(torch.finfo(torch.float32).tiny).log().mean()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """Compute the expected calibration error (Guo et al. 2017, Eq. 3).

    The largest probability of a row is its confidence. Rows fall into `bins` intervals of equal
    width, open on the left. The error is the mean over rows of |accuracy - confidence| of their
    bin.

    Args:
        probabilities: [N,classes].
        labels: [N].

    Returns:
        A scalar, float64.
    """
    confidence, guess = probabilities.double().max(dim=1)
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (guess == labels).double() - confidence
    return torch.zeros(bins, dtype=torch.double).index_add_(0, number, gap).abs().sum() / len(gap)


def effective_rank(rows: Tensor) -> float:
    """Count the directions that the centered rows fill; few directions mean collapse.

    The exp of the entropy of the normalized singular values (Roy and Vetterli 2007; RankMe, Garrido
    et al. 2023, which does not subtract the mean).

    Args:
        rows: [N,D], N > 1.

    Returns:
        A number from 1 to min(N - 1, D); 0.0 if all rows are equal.
    """
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(dim=0))
    if float(values[0]) <= 1e-9 * max(float(rows.norm()), 1e-30):
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def spread(rows: Tensor) -> float:
    """Measure how far apart unit rows are: 1 if uniform on the sphere, 0 if all are equal.

    sqrt(D) times the mean standard deviation of their coordinates, SimSiam's sign of collapse (Chen
    and He 2021, section 4.1).

    Args:
        rows: [N,D]; normalized here.
    """
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * rows.shape[1] ** 0.5


def interval(draws: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Compute the percentile interval of a bootstrap's draws.

    The two quantiles are not stretched to contain the estimate. They miss it only if 97.5 % of the
    draws are on one side of it: the bootstrap is then biased, and stretching would hide that.

    Args:
        draws: [n]; NaNs do not count.
        level: The share of the draws inside.
    """
    tail = (1 - level) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.double)
    low, high = torch.nanquantile(draws.double(), ends).tolist()
    return low, high


def bootstrap_interval(values: Tensor, *, seed: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of a mean, from 2,000 resamples of the rows.

    Args:
        values: One value for each video [N].
    """
    generator = torch.Generator().manual_seed(seed)
    values = values.double().flatten()
    means = torch.stack(
        [
            values[torch.randint(len(values), (len(values),), generator=generator)].mean()
            for _ in range(2000)
        ]
    )
    return interval(means)
