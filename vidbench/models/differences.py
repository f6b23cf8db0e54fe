"""Differences of frames in place of frames: motion without optical flow.

Source: Wang et al., Temporal Segment Networks (ECCV 2016), "RGB difference"."""

import torch
from torch import Tensor

from vidbench.models.backbone import Backbone


class Differences(Backbone):
    """A network that sees what changes from each frame to the next: clips [B,3,T,H,W] -> its map.

    Frame t is x_(t+1) - x_t, so what does not move is 0. The last difference is repeated, so that a
    clip keeps its length."""

    half_input = False  # 8 bits of mantissa are too few for the difference of two like frames

    def __init__(self, network: Backbone):
        super().__init__()
        self.network = network
        self.out_channels = network.out_channels

    def forward(self, clips: Tensor) -> Tensor:
        """Apply the network to differences: [B,3,T,H,W] -> [B,D,T',H',W'].

        Raises:
            ValueError: the clips have a single frame.
        """
        if clips.shape[2] < 2:
            raise ValueError(
                f"differences of frames want clips of 2 frames or more; got {clips.shape[2]}."
            )
        changes = clips.diff(dim=2)
        return self.network(torch.cat([changes, changes[:, :, -1:]], dim=2))
