"""A batch of clips as training makes it, on the device that a test names."""

from collections.abc import Iterable

import torch

from vidbench.data.loading.augmentation import Augment, View
from vidbench.data.loading.batched import collate, finish, pack


def on_device(
    drawn: Iterable[tuple[torch.Tensor, View]],
    augment: Augment,
    stream: str = "rgb",
    device: str = "cpu",
) -> torch.Tensor:
    """Each clip uint8 [T,C,H,W] through its view in two places: float32 [B,C,T,size,size]."""
    samples = [pack([one], augment, stream) for one in drawn]
    return finish(collate(samples), torch.device(device))[stream][:, 0]
