"""A 2-D residual network over stacked frames: the cheapest network that sees motion.

Source: the temporal stream of Simonyan and Zisserman (2014, section 3.1). The flow of L frames
becomes one image with 2 L channels, u and v of each frame, so that 2-D kernels see all frames at
once. The network here is ResNet-18 (He et al. 2016) in place of theirs. A step on 8 frames costs
about a tenth of that of a 3-D network with as many blocks.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from vidbench.models.resnets import (
    CHANNELS,
    Regularizer,
    ResNet,
    Stage,
    basic,
    stage_blocks,
    start,
    stem,
    wide,
)


class StackedResNet(ResNet):
    """A residual network whose input is all frames of a clip as channels of one image."""

    frames: int
    channels: int

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips of `frames` frames: [B,3,T,H,W] -> [B,D,1,H',W'].

        Raises:
            ValueError: T is another number.
        """
        if clips.shape[2] != self.frames:
            raise ValueError(
                f"this network stacks {self.frames} frames; got clips of {clips.shape[2]}. Build it "
                f"with frames={clips.shape[2]}, or set clip.frames to {self.frames}."
            )
        image = clips[:, : self.channels].flatten(1, 2)  # [B,C*T,H,W]
        return super().forward(image.unsqueeze(2))


def stacked_resnet(
    frames: int = 10,
    channels: int = 2,
    width: float = 1.0,
    blocks: Sequence[int] = (2, 2, 2, 2),
    stem_stride: int = 4,
    zero_gamma: bool = False,
    regularizer: Regularizer | None = None,
) -> StackedResNet:
    """Build ResNet-18 over so many stacked frames; the default takes 10 frames of flow.

    Args:
        frames: Frames T of a clip, all of which become channels of one image.
        channels: Of each frame: 2 are u and v of flow (the stored third one is constant), 3 are rgb.
        width: Multiplies all channel counts; D = 512 at width 1.
        blocks: Basic blocks of each of the four stages.
        stem_stride: What the stem divides height and width by: 4, 2 or 1.
        zero_gamma: Start the last batch norm of each branch at 0.
        regularizer: Takes each Site and returns the module for the end of that branch.

    Raises:
        ValueError: An argument is outside of its range.
    """
    if frames < 1 or channels not in (2, 3):
        raise ValueError(
            f"frames must be at least 1 and channels 2 (flow) or 3 (rgb); got {frames}, {channels}."
        )
    stages = [
        Stage(
            number,
            count,
            (1, 1 if number == 2 else 2),
            partial(basic, channels=wide(inner, width)),
        )
        for number, count, inner in zip(
            range(2, 6), stage_blocks(blocks, 34, (34,)), CHANNELS, strict=True
        )
    ]
    first = stem(wide(64, width), 1, stem_stride, inputs=channels * frames)
    made = start(StackedResNet(first, stages, regularizer), zero_gamma)
    made.frames, made.channels = frames, channels
    return made
