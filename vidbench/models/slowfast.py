"""SlowFast-50: a slow and a fast residual pathway over one clip, joined by lateral convolutions."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vidbench.models.backbone import Backbone
from vidbench.models.resnets import (
    CHANNELS,
    Regularizer,
    ResNet,
    Stage,
    bottleneck,
    stage_blocks,
    start,
    stem,
    wide,
)

PRESETS = {  # (batch norm and ReLU on the laterals, last batch norm of each branch starts at 0)
    "official": (True, True),  # PySlowFast, and its weights in pytorchvideo
    "paper": (False, False),  # the code which the RMS supplement names: r1ch88/SlowFastNetworks
}


def slow_frames(frames: int, alpha: int) -> list[int]:
    """Choose the frames that the slow pathway sees.

    They are torch.linspace(0, T - 1, T // alpha) cut to integers, as in PySlowFast and
    pytorchvideo, computed in whole numbers so that no device rounds them differently.

    Args:
        frames: T.
        alpha: How many times fewer the slow pathway sees.
    """
    count = frames // alpha
    return [i * (frames - 1) // max(count - 1, 1) for i in range(count)]


class SlowFast(Backbone):
    """SlowFast-50 (Feichtenhofer et al. 2019): clips [B,3,T,H,W] -> [B,D,T/alpha,H/32,W/32], D =
    2,304 at width 1.

    The map is the slow one followed by the fast one averaged over each alpha frames, so its mean over
    positions is the two pooled maps in a row. The slow pathway is SlowOnly-50; the fast one has
    1/beta_inv of its channels and kernels of 3 frames in all stages. Clips of 32 frames and alpha 4
    are the 8x8 model, whose `lateral_kernel` is 7 frames in the code bases; alpha 8 with 5 is 4x16.
    `preset` is a key of PRESETS, `zero_gamma` overrides its second part; the other two of the four
    differences between the presets, decay of batch norms and warm-up, belong to recipes. The
    regularizer gives the sites of both pathways, slow first. Raises ValueError."""

    def __init__(
        self,
        preset: str = "official",
        alpha: int = 4,
        beta_inv: int = 8,
        lateral_kernel: int = 7,
        width: float = 1.0,
        blocks: Sequence[int] | None = None,
        stem_stride: int = 4,
        zero_gamma: bool | None = None,
        regularizer: Regularizer | None = None,
    ):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset is one of {sorted(PRESETS)}; got {preset!r}.")
        if min(alpha, beta_inv) < 1 or lateral_kernel % 2 == 0:
            raise ValueError(
                "SlowFast needs alpha and beta_inv from 1 and an odd lateral_kernel; got "
                f"{alpha!r}, {beta_inv!r}, {lateral_kernel!r}."
            )
        lateral_norm, zeros = PRESETS[preset]
        counts = stage_blocks(blocks, 50, (50,))
        self.alpha = alpha
        slow = [wide(c, width) for c in (64, *CHANNELS)]
        fast = [wide(c, width / beta_inv) for c in (64, *CHANNELS)]
        ends = (fast[0], *(4 * c for c in fast[1:-1]))  # of the fast stem, res2, res3, res4
        self.laterals = nn.ModuleList(
            lateral(channels, lateral_kernel, alpha, lateral_norm) for channels in ends
        )
        stages = _stages(counts, slow[1:], (1, 1, 3, 3), lateral_channels=[2 * end for end in ends])
        self.slow = ResNet(stem(slow[0], 1, stem_stride), stages, regularizer, "slow")
        stages = _stages(counts, fast[1:], (3, 3, 3, 3), lateral_channels=[0, 0, 0, 0])
        self.fast = ResNet(stem(fast[0], 5, stem_stride), stages, regularizer, "fast")
        self.out_channels = self.slow.out_channels + self.fast.out_channels
        start(self, zeros if zero_gamma is None else zero_gamma)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips: [B,3,T,H,W] -> [B,D,T/alpha,H',W'].

        Raises:
            ValueError: T is no multiple of alpha.
        """
        if clips.shape[2] % self.alpha:
            raise ValueError(
                f"SlowFast needs frames in multiples of alpha = {self.alpha}; got {clips.shape[2]}."
            )
        slow = self.slow.stem(clips[:, :, slow_frames(clips.shape[2], self.alpha)])
        fast = self.fast.stem(clips)
        for lateral, slow_stage, fast_stage in zip(
            self.laterals, self.slow.stages, self.fast.stages, strict=True
        ):
            slow = slow_stage(torch.cat([slow, lateral(fast)], dim=1))
            fast = fast_stage(fast)
        return torch.cat([slow, fast.unflatten(2, (-1, self.alpha)).mean(dim=3)], dim=1)


def _stages(
    blocks: Sequence[int],
    channels: Sequence[int],
    times: Sequence[int],
    lateral_channels: Sequence[int],
) -> list[Stage]:
    """The stages res2 to res5 of a pathway, with kernels of `times` frames."""
    strides = [(1, 1), (1, 2), (1, 2), (1, 2)]
    numbers = range(2, 6)
    return [
        Stage(n, count, stride, partial(bottleneck, channels=c, time=time), more)
        for n, count, stride, c, time, more in zip(
            numbers, blocks, strides, channels, times, lateral_channels, strict=True
        )
    ]


def lateral(channels: int, kernel: int, alpha: int, norm: bool) -> nn.Sequential:
    """Build a connection from the fast to the slow pathway, to twice the channels.

    Args:
        channels: Of the fast pathway.
        kernel: Its length in time.
        alpha: Its stride in time.
        norm: Whether a norm and ReLU follow.
    """
    layers = nn.Sequential()
    layers.add_module(
        "conv1",
        nn.Conv3d(
            channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False
        ),
    )
    if norm:
        layers.add_module("norm1", nn.BatchNorm3d(2 * channels))
        layers.add_module("relu1", nn.ReLU(inplace=True))
    return layers
