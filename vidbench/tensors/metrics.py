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
    the estimate would hide it. Means do not come near this: 12,000 simulated intervals of
    `nested_bootstrap` (1 to 9 repetitions, 2 to 40 uneven source_videos) all contained their estimate.
    Draws that are NaN do not count, such as a share of a gap that is 0 in that draw.
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


def nested_bootstrap(
    hits: list[Tensor],
    source_videos: list[Tensor],
    *,
    seed: int,
    draws: int = 4000,
    shared: bool = False,
) -> Tensor:
    """Means of several methods in each bootstrap draw: repetitions are drawn, and within each its
    source_videos.

    hits: one [R,N_i] for each repetition (a training seed with its own test videos), R methods in
    the same order; source_videos: [N_i], whose videos are drawn together, as they are not independent ->
    [draws,R]. shared: the repetitions have the same test videos, so a draw takes the same source_videos
    in each. All methods of a draw share its repetitions and source_videos, so differences and ratios of
    columns are paired; their quantiles are intervals. Raises ValueError where shapes do not fit.
    """
    fits = len(hits) == len(source_videos) and all(
        h.shape[1:] == s.shape for h, s in zip(hits, source_videos, strict=True)
    )
    same = not shared or all(torch.equal(source_videos[0], other) for other in source_videos)
    if not fits or not same or len({len(part) for part in hits}) != 1:
        raise ValueError(
            "nested_bootstrap wants hits [R,N] and source_videos [N] of each repetition, the same where "
            "shared; "
            f"got {[tuple(h.shape) for h in hits]} and {[tuple(s.shape) for s in source_videos]}."
        )
    generator, means, picked = torch.Generator().manual_seed(seed), [], None
    for part, source_video in zip(hits, source_videos, strict=True):
        group = torch.unique(source_video, return_inverse=True)[1]
        groups = int(group.max()) + 1
        sums = torch.zeros(len(part), groups, dtype=torch.double).index_add_(
            1, group, part.double()
        )
        if picked is None or not shared:
            picked = torch.randint(groups, (draws, groups), generator=generator)
        weight = torch.zeros(draws, groups, dtype=torch.double).scatter_add_(
            1, picked, torch.ones(1).double().expand(draws, groups)
        )
        means.append(weight @ sums.T / (weight @ torch.bincount(group).double())[:, None])
    chosen = torch.randint(len(hits), (draws, len(hits)), generator=generator)
    return torch.stack(means)[chosen, torch.arange(draws)[:, None]].mean(dim=1)
