"""Losses: NCE with many positives, soft cross-entropy, MultiTrain's informative terms.

With query q, candidates k_a (the own key and the queue), temperature t and s_a = q . k_a / t,
InfoNCE is -log(exp s_0 / sum_a exp s_a), where k_0 is the own key. With a set P of positives there
are two forms:

    inside    -log(sum_{p in P} exp s_p / sum_a exp s_a)         CoCLR's supplement, Algorithm 1
    outside   -mean_{p in P} log(exp s_p / sum_a exp s_a)        UberNCE in the released code

Example: one query's own key is identical to it, the other query's own key is not.

>>> query, queue = torch.eye(3)[:2], torch.eye(3)[2:]
>>> logits = nce_logits(query, torch.eye(3)[[0, 2]], queue, temperature=0.1)
>>> positives = torch.tensor([[True, False], [True, False]])
>>> [round(loss, 2) for loss in multi_positive_nce(logits, positives).tolist()]
[0.0, 0.69]
"""

import torch
from torch import Tensor


def nce_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Compute similarities to the own key and to the queue (CoCLR supplement, Algorithm 1).

    Args:
        query, key: Unit rows [B,D].
        queue: Unit rows [K,D].

    Returns:
        Similarities over temperature [B,1+K], float32; column 0 is the own key.
    """
    query, key, queue = query.float(), key.float(), queue.float()
    # autocast would compute the product in half precision
    with torch.autocast(query.device.type, enabled=False):
        own = (query * key).sum(dim=1, keepdim=True)
        return torch.cat([own, query @ queue.T], dim=1) / temperature


def multi_positive_nce(
    logits: Tensor, positives: Tensor, form: str = "inside", ignored: Tensor | None = None
) -> Tensor:
    """Compute NCE with any number of positives; with one positive, both forms equal InfoNCE.

    Differences of log-sum-exps, so the loss is finite wherever the logits are.

    Args:
        logits: [B,1+K].
        positives: bool [B,1+K].
        form: "inside", the MIL-NCE form of CoCLR (supplement, Algorithm 1), or "outside", UberNCE's
            released form (main_nce.py, "SupCon-out"). The module's docstring has both equations.
        ignored: bool [B,1+K], left out of numerator and denominator; None ignores nothing.

    Returns:
        The loss of each row [B], float32.

    Raises:
        ValueError: `positives` is no bool mask of the logits' shape, the form is unknown, or,
            checked on the CPU only, a row has no positive.
    """
    if logits.shape != positives.shape or positives.dtype != torch.bool:
        raise ValueError(
            f"multi_positive_nce needs a bool mask of shape {tuple(logits.shape)}; "
            f"got {positives.dtype} {tuple(positives.shape)}."
        )
    logits = logits.float()
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
        positives = positives & ~ignored
    # Checked on the CPU only, as a GPU would have to be waited for; there the loss is not finite.
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
    """Compute -sum_c y_c log softmax(a)_c of each row (MultiTrain, models/losses.py).

    A target that sums to less than one, as in MultiTrain's released mixing, weighs its row by that
    sum; a row of zeros costs nothing.

    Args:
        logits: Scores a [B,classes].
        target: Class probabilities y [B,classes].

    Returns:
        The loss of each row [B], float32.
    """
    return -(target.float() * torch.log_softmax(logits.float(), dim=1)).sum(dim=1)


def informative(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute MultiTrain's informative loss: VICReg's variance and covariance terms of one branch.

    Both terms have the divisor B - 1 (models/losses.py). For independent rows of unit variance, the
    covariance is not 0 but `covariance_floor`.

    Args:
        rows: Expander outputs [B,E].

    Returns:
        The variance [], the mean over dimensions of max(0, 1 - sqrt(var + 1e-4)), and the
        covariance [], the sum of squared covariances between dimensions over E; both float32.

    Raises:
        ValueError: There are fewer than two rows, which have no variance.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(
            "informative needs at least 2 rows [B,E], as one has no variance; got "
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
    """Return `informative`'s covariance for independent rows of unit variance: (E - 1) / (B - 1).

    Args:
        rows: B, at least 2.
        width: E.
    """
    return (width - 1) / (rows - 1)


def widest(rows: int, variance: float = 25.0, covariance: float = 1.0) -> int:
    """Return the largest E whose rows can reach unit variance at the loss's minimum (derived).

    For independent rows of common deviation s, the loss is v (1 - s) + c s^4 floor. It falls up to
    s = 1 if 4 c floor <= v. With v = 25 and c = 1: (E - 1) / (B - 1) <= 6.25.

    Args:
        rows: B.
        variance, covariance: Weights v and c of the two terms.
    """
    return int(variance / (4 * covariance) * (rows - 1)) + 1
