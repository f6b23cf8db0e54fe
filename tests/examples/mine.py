"""Networks of your own: one from scratch, one with the layers of a torchvision model."""

import torch
from torch import Tensor, nn
from torchvision.models.video import r3d_18

from vidbench.models import Backbone


class Block(nn.Module):
    """A spatial and a temporal convolution with a shortcut: [B,C,T,H,W] -> [B,D,T,H/2,W/2]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.space = nn.Conv3d(channels, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(width)
        self.shortcut = nn.Conv3d(channels, width, 1, (1, 2, 2), bias=False)

    def forward(self, clips: Tensor) -> Tensor:
        found = self.norm(self.time(self.space(clips).relu()))
        return torch.relu(found + self.shortcut(clips))


class Net(Backbone):
    """Blocks that double their width: clips [B,3,T,H,W] -> map [B,D,T,H/2^blocks,W/2^blocks].

    Args:
        width: Channels of the first block; D is width * 2^(blocks - 1).
        blocks: How many blocks.
    """

    def __init__(self, width: int = 16, blocks: int = 3):
        super().__init__()
        widths = [3, *(width * 2**number for number in range(blocks))]
        self.blocks = nn.Sequential(*map(Block, widths[:-1], widths[1:]))
        self.out_channels = widths[-1]

    def forward(self, clips: Tensor) -> Tensor:
        return self.blocks(clips)


class R3D(Backbone):
    """torchvision's R3D-18 without pooling and classifier: map [B,512,T/8,H/16,W/16]."""

    out_channels = 512

    def __init__(self):
        super().__init__()
        net = r3d_18()
        self.body = nn.Sequential(net.stem, net.layer1, net.layer2, net.layer3, net.layer4)

    def forward(self, clips: Tensor) -> Tensor:
        return self.body(clips)


def tiny(blocks: int = 2) -> Backbone:
    """A builder is a function annotated to return a Backbone; it may choose among classes."""
    return Net(width=4, blocks=blocks)
