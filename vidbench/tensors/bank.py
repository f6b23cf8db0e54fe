"""The queue of keys with its metadata (MoCo), and masked top-k search in it.

InfoNCE needs many negatives. MoCo keeps the last K keys, K far larger than a batch: the newest batch
overwrites the oldest, so slot (count mod K) is next. CoCLR mines in it: for each query, the `topk`
slots whose features in the other stream are most similar. In the released
code InfoNCE trains from the first batch, with random features in the queue, and CoCLR waits until
the queue is full; a recipe chooses (`fill_first`).

Example: three keys in a queue of two, and the most similar slot that is allowed.

>>> queue = FeatureQueue(2, 3)
>>> for number in range(3):
...     queue.enqueue(torch.eye(3)[[number]], torch.tensor([number]), torch.tensor([number]))
>>> queue.label.tolist(), queue.full
([2, 1], True)
>>> masked_topk(torch.tensor([[0.9, 0.1]]), 1, excluded=torch.tensor([[True, False]])).tolist()
[[False, True]]
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureQueue(nn.Module):
    """The newest K feature rows with side columns that roll along (MoCo; CoCLR supplement,
    Algorithm 1).

    Buffers, so that they are part of every checkpoint: `features` [K,D], unit rows, random before
    they are filled; `label`, `source_video` [K] int64, -1 before they are filled, so that they match
    nothing; `other` [K,E], the other stream's features, only where `other_dim` is given; `count`
    [], rows ever enqueued."""

    features: Tensor
    label: Tensor
    source_video: Tensor
    other: Tensor | None
    count: Tensor

    def __init__(
        self, slots: int, dim: int, other_dim: int = 0, generator: torch.Generator | None = None
    ):
        super().__init__()
        if slots < 1:
            raise ValueError(f"FeatureQueue wants at least one slot; got {slots}.")
        self.register_buffer(
            "features", F.normalize(torch.randn(slots, dim, generator=generator), dim=1)
        )
        self.register_buffer("label", torch.full((slots,), -1))
        self.register_buffer("source_video", torch.full((slots,), -1))
        self.register_buffer("other", torch.zeros(slots, other_dim) if other_dim else None)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._enqueued: int | None = None

    @property
    def enqueued(self) -> int:
        """`count` as a number; the host waits for the GPU only after a load."""
        if self._enqueued is None:
            self._enqueued = int(self.count)
        return self._enqueued

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        self._enqueued = None

    @property
    def slots(self) -> int:
        """K."""
        return self.features.shape[0]

    @property
    def full(self) -> bool:
        """Whether every slot holds a real feature."""
        return self.enqueued >= self.slots

    @torch.no_grad()
    def enqueue(
        self, features: Tensor, label: Tensor, source_video: Tensor, other: Tensor | None = None
    ) -> None:
        """Overwrite the oldest slots with features [B,D], label [B], source_video [B], other [B,E]; wraps
        at the end.

        Raises ValueError where B exceeds the slots: part of the batch would be lost.
        """
        rows = features.shape[0]
        if rows > self.slots:
            raise ValueError(
                f"FeatureQueue: a batch of {rows} does not fit into {self.slots} slots; "
                "make the queue at least as long as the global batch."
            )
        if (other is None) != (self.other is None):
            raise ValueError(
                "FeatureQueue: the other stream's features are wanted exactly where other_dim was "
                "given."
            )
        self._enqueued = self.enqueued + rows
        places = (self.count + torch.arange(rows, device=features.device)) % self.slots
        self.features[places] = features.to(self.features.dtype)
        self.label[places], self.source_video[places] = label, source_video
        if other is not None and self.other is not None:
            self.other[places] = other.to(self.other.dtype)
        self.count += rows


def masked_topk(similarity: Tensor, k: int, excluded: Tensor) -> Tensor:
    """The k most similar columns of each row that are not excluded (mining in CoCLR,
    main_coclr.py).

    similarity [B,K], excluded bool [B,K] -> bool [B,K] with min(k, allowed columns) True in each
    row."""
    chosen = torch.zeros_like(excluded)
    if k == 0:
        return chosen
    best = (
        similarity.masked_fill(excluded, -torch.inf)
        .topk(min(k, similarity.shape[1]), dim=1)
        .indices
    )
    return chosen.scatter(1, best, True) & ~excluded
