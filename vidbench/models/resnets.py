"""Residual networks as one family of blocks: SlowOnly, CSN, ResNet-50, networks of CIFAR size.

All are bare backbones of 3-D convolutions, clips [B,3,T,H,W] -> feature map [B,D,T',H',W'] with
`out_channels` = D; a net for images is one whose kernels are flat in time, so that frames pass one
by one. A regularizer is a callable that is given each `Site` once, while the net is built, and
returns the module for the end of that residual branch: after its last batch norm, before the
addition; the shortcut stays as it is.

Three arguments make a small form: `width` multiplies every channel count, `blocks` says how many
blocks each stage keeps, and `stem_stride` is what the stem divides height and width by: 4 is the
published stem (7x7 with stride 2, then a 3x3 max pool), 2 and 1 are a 3x3 convolution with that
stride and no pool. Weights start by Kaiming's normal law (fan out, ReLU) as in all sources;
`zero_gamma` starts the last batch norm of each branch at 0 instead of 1."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from vidbench.models.backbone import Backbone
from vidbench.models.planes import PlaneConv3d, PlaneMaxPool

# blocks of res2..res5
DEPTHS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# of the inner convolutions of res2..res5; a bottleneck's end has four times as many
CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Site:
    """The place of a regularizer: the end of one residual branch."""

    stage: int  # 2..5 for res2..res5, 1..3 in the CIFAR nets
    block: int  # 1-based over all blocks of the pathway, the l of survival rules
    blocks: int  # their number, the L
    channels: int  # of the branch's end
    pathway: str = ""  # "slow" or "fast" in SlowFast


Regularizer = Callable[[Site], nn.Module]


class Layer(NamedTuple):
    """A convolution without bias and its batch norm, perhaps with ReLU; kernel and stride as (time,
    space)."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    relu: bool = True


class Stage(NamedTuple):
    """Blocks of one map size: `branch` turns a stride into the layers of one residual branch."""

    number: int
    blocks: int
    stride: tuple[int, int]  # of the first block, (time, space)
    branch: Callable[[tuple[int, int]], list[Layer]]
    lateral_channels: int = 0  # channels that another pathway adds to the stage's input


def basic(stride: tuple[int, int], channels: int, times: tuple[int, int] = (1, 1)) -> list[Layer]:
    """Describe He et al.'s basic branch: two 3x3 convolutions.

    Args:
        stride: In time and space.
        times: Length of each kernel in time.
    """
    return [Layer(channels, (times[0], 3), stride), Layer(channels, (times[1], 3), relu=False)]


def bottleneck(stride: tuple[int, int], channels: int, time: int = 1) -> list[Layer]:
    """Describe a bottleneck: 1x1, 3x3 with the stride, 1x1 to four times the channels.

    Args:
        stride: In time and space.
        time: Length of the first kernel in time.
    """
    return [
        Layer(channels, (time, 1)),
        Layer(channels, (1, 3), stride),
        Layer(4 * channels, relu=False),
    ]


def separated(stride: tuple[int, int], channels: int, kind: str) -> list[Layer]:
    """Describe CSN's branch: the 3x3x3 convolution is depthwise.

    Args:
        stride: In time and space.
        kind: "ip" puts a 1x1x1 convolution without ReLU before the depthwise one; "ir" does not.
    """
    preserved = [Layer(channels, relu=False)] if kind == "ip" else []
    depthwise = Layer(channels, (3, 3), stride, groups=channels)
    return [Layer(channels), *preserved, depthwise, Layer(4 * channels, relu=False)]


class Residual(nn.Module):
    """relu(shortcut(x) + regularizer(branch(x)))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, regularizer: nn.Module):
        super().__init__()
        self.branch, self.shortcut, self.regularizer = branch, shortcut, regularizer

    def forward(self, x: Tensor) -> Tensor:
        """Add the regularized branch to the shortcut: [B,C,T,H,W] -> [B,C',T',H',W']."""
        return F.relu(self.shortcut(x) + self.regularizer(self.branch(x)), inplace=True)


class PaddedShortcut(nn.Module):
    """He et al.'s shortcut A: every stride-th position, new channels of zeros on both sides; no
    parameters."""

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        before = (channels - inputs) // 2
        self.stride, self.padding = stride, (0, 0, 0, 0, 0, 0, before, channels - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        """Subsample space and pad channels with zeros: [B,C,T,H,W] -> [B,C',T,H',W']."""
        return F.pad(x[:, :, :, :: self.stride, :: self.stride], self.padding)


class ResNet(Backbone):
    """A stem and stages of residual blocks: clips [B,3,T,H,W] -> feature map [B,D,T',H',W']."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        regularizer: Regularizer | None = None,
        pathway: str = "",
        shortcut: str = "B",
        eps: float = 1e-5,
    ):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList()
        norm: Any = stem.norm1
        channels: int = norm.num_features
        block, total = 0, sum(stage.blocks for stage in stages)
        for stage in stages:
            residuals = []
            for index in range(stage.blocks):
                stride, inputs = (
                    ((1, 1), channels)
                    if index
                    else (stage.stride, channels + stage.lateral_channels)
                )
                layers, block = stage.branch(stride), block + 1
                channels = layers[-1].channels
                site = Site(stage.number, block, total, channels, pathway)
                end = nn.Identity() if regularizer is None else regularizer(site)
                short: nn.Module = nn.Identity()
                if stride != (1, 1) or inputs != channels:
                    short = (
                        PaddedShortcut(inputs, channels, stride[1])
                        if shortcut == "A"
                        else convolutions(inputs, [Layer(channels, stride=stride, relu=False)], eps)
                    )
                residuals.append(Residual(convolutions(inputs, layers, eps), short, end))
            self.stages.append(nn.Sequential(*residuals))
        self.out_channels = channels

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips: [B,3,T,H,W] -> [B,D,T',H',W']."""
        x = self.stem(clips)
        for stage in self.stages:
            x = stage(x)
        return x


def convolutions(inputs: int, layers: Sequence[Layer], eps: float) -> nn.Sequential:
    """Chain the layers as conv1, norm1, relu1, conv2 and so on.

    Args:
        inputs: Channels.
        eps: Of the norms.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (channels, (time, space), stride, groups, relu) in enumerate(layers, 1):
        parts[f"conv{number}"] = nn.Conv3d(
            inputs,
            channels,
            (time, space, space),
            (stride[0], stride[1], stride[1]),
            (time // 2, space // 2, space // 2),
            groups=groups,
            bias=False,
        )
        parts[f"norm{number}"] = nn.BatchNorm3d(channels, eps=eps)
        if relu:
            parts[f"relu{number}"] = nn.ReLU(inplace=True)
        inputs = channels
    return nn.Sequential(parts)


def stem(
    channels: int, time: int, stride: int, eps: float = 1e-5, inputs: int = 3
) -> nn.Sequential:
    """Build the first layer.

    Args:
        channels: Of its output.
        time: Length of its kernel in time.
        stride: 1, 2 or 4, see the module.
        eps: Of its norm.
        inputs: Channels of its input.

    Raises:
        ValueError: another stride.
    """
    if stride not in (1, 2, 4):
        raise ValueError(
            f"stem_stride is 4, the published stem, or 2 or 1 for small clips; got {stride!r}."
        )
    space, step = (7, 2) if stride == 4 else (3, stride)
    layers = convolutions(inputs, [Layer(channels, (time, space), (1, step))], eps)
    if stride == 4:
        layers.append(PlaneMaxPool(3, 2))
    return layers


def wide(channels: int, width: float) -> int:
    """Scale a channel count, to at least 4.

    Args:
        width: The factor.

    Raises:
        ValueError: width is not within 0 to 4.
    """
    if not 0 < width <= 4:
        raise ValueError(
            f"width multiplies the channel counts and is over 0, at most 4; got {width!r}."
        )
    return max(4, int(round(channels * width)))


def stage_blocks(blocks: Sequence[int] | None, depth: int, known: Sequence[int]) -> tuple[int, ...]:
    """Return the blocks of res2..res5.

    Args:
        blocks: Four numbers; None: those of `depth`.
        known: The depths to choose from.

    Raises:
        ValueError: an unknown depth, or other than four numbers from 1.
    """
    if depth not in known:
        raise ValueError(f"depth is one of {tuple(known)}; got {depth!r}.")
    counts = DEPTHS[depth] if blocks is None else tuple(blocks)
    if len(counts) != 4 or any(not isinstance(n, int) or n < 1 for n in counts):
        raise ValueError(
            f"blocks are four numbers from 1, one of each stage res2..res5; got {blocks!r}."
        )
    return counts


Net = TypeVar("Net", bound=Backbone)


def start(net: Net, zero_gamma: bool) -> Net:
    """Draw first weights of a whole net; then let flat convolutions run as 2-D ones if faster.

    Args:
        zero_gamma: Whether the last norm of each branch starts at zero.
    """
    for module in net.modules():
        # of a depthwise one the fan is that of all channels, as in the sources
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Residual) and zero_gamma:
            branch: Any = module.branch
            last = next(m for m in reversed(branch) if isinstance(m, nn.BatchNorm3d))
            nn.init.zeros_(last.weight)
    depthwise = any(isinstance(module, nn.Conv3d) and module.groups > 1 for module in net.modules())
    # on a GPU depthwise convolutions want contiguous memory, and PlaneConv3d would hand them
    # channels last
    PlaneConv3d.adopt(net, ("cpu",) if depthwise else PlaneConv3d.devices)
    return net


# ---- the nets ----------------------------------------------------------------------------------


def slowonly(
    depth: int = 50,
    temporal: str = "both",
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    stem_stride: int = 4,
    zero_gamma: bool = True,
    regularizer: Regularizer | None = None,
) -> ResNet:
    """Build SlowOnly-34 or -50 (RMS supplement, table A1).

    It has no stride in time, and kernels of 3 frames in res4 and res5 only. zero_gamma is on as in
    PySlowFast and mmaction2; the paper does not say. D = 512 or 2,048 at width 1.

    Args:
        depth: 34: basic blocks. 50: bottlenecks, whose first convolution is 3 frames long.
        temporal: With depth 34, whether "both" convolutions of a block are 3 frames long (table A1)
            or the "first" only, as PySlowFast's basic block would be.
        width: Factor of the channel counts.
        blocks: Four numbers, of each stage.
        stem_stride: 1, 2 or 4.

    Raises:
        ValueError: an argument is out of range.
    """
    counts = stage_blocks(blocks, depth, (34, 50))
    if temporal not in ("both", "first"):
        raise ValueError(f"temporal is 'both' (table A1) or 'first'; got {temporal!r}.")
    if depth == 50 and temporal != "both":
        raise ValueError(
            "temporal is a choice of depth 34: a bottleneck has one convolution that can be "
            "temporal."
        )
    stages = []
    for number, count, channels in zip(range(2, 6), counts, CHANNELS, strict=True):
        time = 3 if number > 3 else 1
        branch = (
            partial(
                basic,
                channels=wide(channels, width),
                times=(time, time if temporal == "both" else 1),
            )
            if depth == 34
            else partial(bottleneck, channels=wide(channels, width), time=time)
        )
        stages.append(Stage(number, count, (1, 1 if number == 2 else 2), branch))
    return start(ResNet(stem(wide(64, width), 1, stem_stride), stages, regularizer), zero_gamma)


def csn(
    kind: str = "ir",
    depth: int = 50,
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    stem_stride: int = 4,
    zero_gamma: bool = False,
    norm_eps: float = 1e-3,
    regularizer: Regularizer | None = None,
) -> ResNet:
    """Build CSN, interaction-reduced ("ir") or -preserved ("ip") (Tran et al. 2019; VMZ).

    res3, res4 and res5 halve the time, too: 8 frames leave 8, 4, 2, 1. Batch norm has eps 1e-3 and
    zero_gamma is off as in VMZ and mmaction2; pytorchvideo has 1e-5. Momentum is PyTorch's 0.1,
    as in VMZ's Caffe2 net (its PyTorch port writes 0.9, the other way round). D = 2,048 at width 1.

    Args:
        kind: ir or ip.
        depth: 50, 101 or 152.
        width: Factor of the channel counts.
        blocks: Four numbers, of each stage.
        stem_stride: 1, 2 or 4.

    Raises:
        ValueError: an argument is out of range.
    """
    if kind not in ("ir", "ip"):
        raise ValueError(f"kind is 'ir' or 'ip'; got {kind!r}.")
    counts = stage_blocks(blocks, depth, (50, 101, 152))
    stages = [
        Stage(
            number,
            count,
            (1, 1) if number == 2 else (2, 2),
            partial(separated, channels=wide(channels, width), kind=kind),
        )
        for number, count, channels in zip(range(2, 6), counts, CHANNELS, strict=True)
    ]
    first = stem(wide(64, width), 3, stem_stride, norm_eps)
    return start(ResNet(first, stages, regularizer, eps=norm_eps), zero_gamma)


def resnet50(
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    stem_stride: int = 4,
    zero_gamma: bool = False,
    regularizer: Regularizer | None = None,
) -> ResNet:
    """Build ResNet-50 for images, which are clips of one frame [B,3,1,H,W].

    The stride is in the 3x3 convolution, as in torchvision. More frames pass one by one. zero_gamma
    is off as in torchvision and Clova's CutMix code, whose recipe the RMS paper follows. D = 2,048
    at width 1.

    Args:
        width: Factor of the channel counts.
        blocks: Four numbers, of each stage.
        stem_stride: 1, 2 or 4.

    Raises:
        ValueError: an argument is out of range.
    """
    stages = [
        Stage(
            number,
            count,
            (1, 1 if number == 2 else 2),
            partial(bottleneck, channels=wide(channels, width)),
        )
        for number, count, channels in zip(
            range(2, 6), stage_blocks(blocks, 50, (50,)), CHANNELS, strict=True
        )
    ]
    return start(ResNet(stem(wide(64, width), 1, stem_stride), stages, regularizer), zero_gamma)


def cifar_resnet(
    depth: int = 110,
    block: str = "basic",
    shortcut: str = "",
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    zero_gamma: bool = False,
    regularizer: Regularizer | None = None,
) -> ResNet:
    """Build He et al.'s net for CIFAR: three stages of 16, 32 and 64 channels.

    Images are clips of one frame of 32 pixels. D = 64, or 256 with bottlenecks, at width 1. The RMS
    paper does not say which block it has.

    Args:
        depth: Basic nets have (depth - 2)/6 blocks in each stage, bottleneck nets (depth - 2)/9.
        block: "basic", or "bottleneck" as in Clova's CutMix code by default.
        shortcut: "A" (zeros, the default of basic) or "B" (1x1 convolutions; bottleneck has only
            this).
        blocks: Replaces the depth: three numbers, the blocks of each stage.

    Raises:
        ValueError: an argument is out of range.
    """
    shortcuts = {"basic": ("A", "B"), "bottleneck": ("B",)}
    if block not in shortcuts:
        raise ValueError(f"block is 'basic' or 'bottleneck'; got {block!r}.")
    shortcut = shortcut or shortcuts[block][0]
    if shortcut not in shortcuts[block]:
        raise ValueError(
            f"the shortcut of {block} blocks is one of {shortcuts[block]}; got {shortcut!r}."
        )
    branch = basic if block == "basic" else bottleneck
    counts = _cifar_blocks(blocks, depth, block)
    stages = [
        Stage(
            number,
            count,
            (1, 1 if number == 1 else 2),
            partial(branch, channels=wide(channels, width)),
        )
        for number, count, channels in zip(range(1, 4), counts, (16, 32, 64), strict=True)
    ]
    return start(
        ResNet(stem(wide(16, width), 1, 1), stages, regularizer, shortcut=shortcut), zero_gamma
    )


def _cifar_blocks(blocks: Sequence[int] | None, depth: int, block: str) -> tuple[int, ...]:
    """Count the blocks of the three stages: those given, else those of `depth`."""
    if blocks is not None:
        counts = tuple(blocks)
        if len(counts) != 3 or any(not isinstance(n, int) or n < 1 for n in counts):
            raise ValueError(f"blocks are three numbers from 1, one of each stage; got {blocks!r}.")
        return counts
    convs = 2 if block == "basic" else 3
    count, rest = divmod(depth - 2, 3 * convs)
    if count < 1 or rest:
        raise ValueError(
            f"depth is {3 * convs} n + 2 with {block} blocks, such as {3 * convs + 2}; got "
            f"{depth!r}."
        )
    return (count,) * 3
