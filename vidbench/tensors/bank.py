"""The queue of keys with its metadata (MoCo), and masked top-k search in it.

InfoNCE needs many negatives. MoCo keeps the last K keys, with K far larger than a batch. The newest
batch overwrites the oldest one: the next slot is (count mod K). CoCLR mines in the queue: for each
query, it takes the `topk` slots whose features in the other stream are most similar. In the
released code InfoNCE trains from the first batch, with random features in the queue, and CoCLR
waits until the queue is full; a recipe chooses (`fill_first`).

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
    """The newest K feature rows, with a label and a source video each (CoCLR, Algorithm 1).

    All of these are buffers, so every checkpoint contains them:
        features: [K,D], unit rows; random until they are filled.
        label, source_video: [K] int64; -1 until they are filled, so that they match nothing.
        other: [K,E], the other stream's features; None unless `other_dim` is given.
        count: [], the rows ever enqueued.
    """

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
            raise ValueError(f"FeatureQueue needs at least one slot; got {slots}.")
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
        """`count` as an int. It is read from the GPU only after a load."""
        if self._enqueued is None:
            self._enqueued = int(self.count)
        return self._enqueued

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        self._enqueued = None

    @property
    def slots(self) -> int:
        """The number of slots, K."""
        return self.features.shape[0]

    @property
    def full(self) -> bool:
        """Whether every slot holds a real feature."""
        return self.enqueued >= self.slots

    @torch.no_grad()
    def enqueue(
        self, features: Tensor, label: Tensor, source_video: Tensor, other: Tensor | None = None
    ) -> None:
        """Overwrite the oldest slots; after the last slot comes the first.

        Args:
            features: Keys [B,D].
            label, source_video: [B].
            other: The other stream's features [B,E], if and only if the queue has `other_dim`.

        Raises:
            ValueError: The batch exceeds the slots, so part of it would be lost, or `other` is
                missing or not expected.
        """
        rows = features.shape[0]
        if rows > self.slots:
            raise ValueError(
                f"FeatureQueue: a batch of {rows} does not fit into {self.slots} slots; "
                "make the queue at least as long as the global batch."
            )
        if (other is None) != (self.other is None):
            raise ValueError(
                "FeatureQueue: pass the other stream's features if and only if the queue has an "
                "other_dim."
            )
        self._enqueued = self.enqueued + rows
        places = (self.count + torch.arange(rows, device=features.device)) % self.slots
        self.features[places] = features.to(self.features.dtype)
        self.label[places], self.source_video[places] = label, source_video
        if other is not None and self.other is not None:
            self.other[places] = other.to(self.other.dtype)
        self.count += rows


def masked_topk(similarity: Tensor, k: int, excluded: Tensor) -> Tensor:
    """Select the k most similar columns of each row that are not excluded (main_coclr.py).

    Args:
        similarity: [B,K].
        k: At most so many; fewer if fewer columns are allowed.
        excluded: bool [B,K].

    Returns:
        bool [B,K], True in the selected columns.
    """
    chosen = torch.zeros_like(excluded)
    if k == 0:
        return chosen
    best = (
        similarity.masked_fill(excluded, -torch.inf)
        .topk(min(k, similarity.shape[1]), dim=1)
        .indices
    )
    return chosen.scatter(1, best, True) & ~excluded
