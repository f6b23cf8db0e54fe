"""What we report: top-k, recall at k, mining purity, mean over views, bootstrap intervals."""

import torch
from torch import Tensor


def topk_hit(logits: Tensor, positives: Tensor, k: int = 1) -> Tensor:
    """Whether any of the k largest logits of a row is a positive (utils.py of CoCLR): [B,A], bool [B,A] -> bool [B]."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return positives.gather(1, best).any(dim=1)


def recall_at(neighbour_labels: Tensor, labels: Tensor, ks: tuple[int, ...]) -> dict[int, Tensor]:
    """R@k of retrieval: a hit if any of the k nearest has the query's label (CoCLR, section 4.4).

    neighbour_labels [N,k_max] in order of rank, labels [N] -> {k: bool [N]}; their mean is the R@k.
    Raises ValueError where fewer neighbours than the largest k were given.
    """
    if max(ks) > neighbour_labels.shape[1]:
        raise ValueError(f"R@{max(ks)} wants {max(ks)} neighbours; got {neighbour_labels.shape[1]}: "
                         "ask the search for more or make the gallery larger.")
    same = neighbour_labels == labels[:, None]
    return {k: same[:, :k].any(dim=1) for k in ks}


def purity(mined: Tensor, slot_labels: Tensor, labels: Tensor) -> Tensor:
    """Share of mined positives with the query's own (hidden) label.

    mined bool [B,K], slot_labels [K], labels [B] -> scalar; NaN where nothing was mined. An unknown label (-1) is never
    right.
    """
    right = mined & (slot_labels[None, :] == labels[:, None]) & (labels >= 0)[:, None]
    return right.sum() / mined.sum()


def bootstrap_interval(values: Tensor, *, seed: int, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values [N], resampling rows (videos) with a seeded generator."""
    generator = torch.Generator().manual_seed(seed)
    values = values.double().flatten()
    means = torch.stack([
        values[torch.randint(len(values), (len(values),), generator=generator)].mean() for _ in range(draws)
    ])
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return low, high
