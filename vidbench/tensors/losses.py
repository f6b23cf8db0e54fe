"""What we minimise: multi-positive NCE."""

import torch
from torch import Tensor


def nce_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Similarities to the own key and to the queue (CoCLR supplement, Algorithm 1).

    query, key [B,D] and queue [K,D], all of unit length -> logits [B,1+K] in float32; column 0 is the own key.
    """
    query, key, queue = query.float(), key.float(), queue.float()
    with torch.autocast(query.device.type, enabled=False):  # else it would take the product in half precision
        own = (query * key).sum(dim=1, keepdim=True)
        return torch.cat([own, query @ queue.T], dim=1) / temperature


def multi_positive_nce(logits: Tensor, positives: Tensor, form: str = "inside",
                       ignored: Tensor | None = None) -> Tensor:
    """NCE with any number of positives in each row; with one positive both forms are InfoNCE's cross-entropy.

    inside:  -log( sum_p exp s_p / sum_a exp s_a ), the MIL-NCE form of CoCLR (supplement, Algorithm 1);
    outside: -mean_p log( exp s_p / sum_a exp s_a ), UberNCE's released form (main_nce.py, "SupCon-out").

    logits [B,1+K], positives bool [B,1+K], ignored bool [B,1+K] or None (left out of numerator and denominator)
    -> loss of each row [B], float32. Differences of log-sum-exps, so finite wherever the logits are.
    Raises ValueError where a row has no positive or the form is unknown.
    """
    if logits.shape != positives.shape or positives.dtype != torch.bool:
        raise ValueError(f"multi_positive_nce wants a bool mask of shape {tuple(logits.shape)}; "
                         f"got {positives.dtype} {tuple(positives.shape)}.")
    logits = logits.float()
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
        positives = positives & ~ignored
    if not bool(positives.any(dim=1).all()):
        raise ValueError("multi_positive_nce: a row has no positive; keep at least the own key, column 0.")
    everything = torch.logsumexp(logits, dim=1)
    if form == "inside":
        return everything - torch.logsumexp(logits.masked_fill(~positives, -torch.inf), dim=1)
    if form == "outside":
        return everything - logits.masked_fill(~positives, 0).sum(dim=1) / positives.sum(dim=1)
    raise ValueError(f"multi_positive_nce: form is 'inside' or 'outside'; got {form!r}.")
