"""Losses: NCE with many positives, soft cross-entropy, MultiTrain's informative terms.

With query q, candidates k_a (the own key and the queue), temperature t and s_a = q . k_a / t, InfoNCE
is -log(exp s_0 / sum_a exp s_a) for the own key 0. With a set P of positives there are two forms:

    inside    -log(sum_{p in P} exp s_p / sum_a exp s_a)         CoCLR's supplement, Algorithm 1
    outside   -mean_{p in P} log(exp s_p / sum_a exp s_a)        UberNCE in the released code

Example: the loss of a query whose key is near and of one whose key is not.

>>> query, queue = torch.eye(3)[:2], torch.eye(3)[2:]
>>> logits = nce_logits(query, torch.eye(3)[[0, 2]], queue, temperature=0.1)
>>> positives = torch.tensor([[True, False], [True, False]])
>>> [round(loss, 2) for loss in multi_positive_nce(logits, positives).tolist()]
[0.0, 0.69]
"""

import torch
from torch import Tensor


def nce_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Similarities to the own key and to the queue (CoCLR supplement, Algorithm 1).

    query, key [B,D] and queue [K,D], all of unit length -> logits [B,1+K] in float32; column 0 is
    the own key."""
    query, key, queue = query.float(), key.float(), queue.float()
    # else it would take the product in half precision
    with torch.autocast(query.device.type, enabled=False):
        own = (query * key).sum(dim=1, keepdim=True)
        return torch.cat([own, query @ queue.T], dim=1) / temperature


def multi_positive_nce(
    logits: Tensor, positives: Tensor, form: str = "inside", ignored: Tensor | None = None
) -> Tensor:
    """NCE with any number of positives in each row; with one positive both forms are InfoNCE's
    cross-entropy.

    inside:  -log( sum_p exp s_p / sum_a exp s_a ), the MIL-NCE form of CoCLR (supplement, Algorithm 1);
    outside: -mean_p log( exp s_p / sum_a exp s_a ), UberNCE's released form (main_nce.py, "SupCon-out").

    logits [B,1+K], positives bool [B,1+K], ignored bool [B,1+K] or None (left out of numerator and
    denominator) -> loss of each row [B], float32. Differences of log-sum-exps, so finite wherever
    the logits are. Raises ValueError if the form is unknown or, on a CPU, a row has no positive."""
    if logits.shape != positives.shape or positives.dtype != torch.bool:
        raise ValueError(
            f"multi_positive_nce wants a bool mask of shape {tuple(logits.shape)}; "
            f"got {positives.dtype} {tuple(positives.shape)}."
        )
    logits = logits.float()
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
        positives = positives & ~ignored
    # On a card the host would wait for the answer; there such a row's loss is not finite instead.
    if logits.device.type == "cpu" and not bool(positives.any(dim=1).all()):
        raise ValueError(
            "multi_positive_nce: a row has no positive; keep at least the own key, column 0."
        )
    everything = torch.logsumexp(logits, dim=1)
    if form == "inside":
        return everything - torch.logsumexp(logits.masked_fill(~positives, -torch.inf), dim=1)
    if form == "outside":
        return everything - logits.masked_fill(~positives, 0).sum(dim=1) / positives.sum(dim=1)
    raise ValueError(f"multi_positive_nce: form is 'inside' or 'outside'; got {form!r}.")


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_c y_c log softmax(a)_c of each row (MultiTrain, models/losses.py): logits and target
    [B,C] -> [B], float32.

    A target that sums to less than one, as MultiTrain's released mixing makes them, weighs its row
    by its sum; a row of zeros costs nothing."""
    return -(target.float() * torch.log_softmax(logits.float(), dim=1)).sum(dim=1)


def informative(rows: Tensor) -> tuple[Tensor, Tensor]:
    """MultiTrain's informative loss, VICReg's variance and covariance terms of one branch
    (models/losses.py).

    rows [B,E] -> (variance, covariance), float32: the mean over dimensions of max(0, 1 - sqrt(var +
    1e-4)), and the sum of squared covariances between dimensions over E; both with divisor B - 1.
    Independent rows of unit variance do not bring the latter to 0 but to `covariance_floor`. Raises
    ValueError for fewer than two rows, which have no variance."""
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(
            "informative wants at least 2 rows [B,E], as one has no variance; got "
            f"{list(rows.shape)}."
        )
    rows = rows.float()
    count, width = rows.shape
    with torch.autocast(rows.device.type, enabled=False):
        centered = rows - rows.mean(dim=0)
        variance = torch.relu(1 - (centered.square().sum(dim=0) / (count - 1) + 1e-4).sqrt()).mean()
        table = centered.T @ centered / (count - 1)
        covariance = (table.square().sum() - table.diagonal().square().sum()) / width
    return variance, covariance


def covariance_floor(rows: int, width: int) -> float:
    """What `informative`'s covariance is for independent rows of unit variance: (E - 1) / (B -
    1)."""
    return (width - 1) / (rows - 1)


def widest(rows: int, variance: float = 25.0, covariance: float = 1.0) -> int:
    """The largest E whose rows can reach unit variance at the optimum of variance V + covariance K
    (derived).

    At a common deviation s of independent rows the loss is v (1 - s) + c s^4 floor; it falls up to
    s = 1 where 4 c floor <= v. With 25 and 1: (E - 1) / (B - 1) <= 6.25."""
    return int(variance / (4 * covariance) * (rows - 1)) + 1
