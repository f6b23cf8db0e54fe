"""S3D, the separable 3-D Inception of CoCLR, in torchvision's layout and state-dict keys.

Source: Xie et al. (ECCV 2018) through torchvision.models.video.s3d, whose blocks are used here;
CoCLR supplement, table 1, uses it without gating. Ours are: a `width` factor with a choice of
inception units, so that the same network fits the toy world; separable convolutions that run as 2-D
ones (`PlaneConv3d`); pools split over space and time in training on CUDA (`SplitMaxPool3d`).
"""

from functools import partial

from torch import Tensor, nn
from torchvision.models.video.s3d import SepInceptionBlock3D, TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from vidbench.models.backbone import Backbone
from vidbench.models.planes import PlaneConv3d, SplitMaxPool3d

__all__ = ["S3D", "UNITS", "PlaneConv3d"]

# Inception units per stage, widths as (branch0, (branch1 in, out), (branch2 in, out), pool
# projection).
UNITS = (
    ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    (
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ),
    ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
)


class S3D(Backbone):
    """The S3D backbone: clips [B,3,T,H,W] -> feature map [B,D,T/8,H/32,W/32]; D = 1024 at width 1.

    `width` multiplies every channel count. `units` says how many inception units each of the three
    stages keeps, (2, 5, 2) being S3D; a stage of 0 units also drops its pooling, so (2, 1, 0) is a
    shallow net for small clips with a temporal stride of 4 and a spatial one of 16. `norm_eps` and
    `norm_momentum` are PyTorch's defaults as in CoCLR's code; torchvision uses 1e-3 and 1e-3."""

    def __init__(
        self,
        width: float = 1.0,
        units: tuple[int, int, int] = (2, 5, 2),
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ):
        super().__init__()
        fit = all(0 <= n <= len(stage) for n, stage in zip(units, UNITS, strict=True))
        if not (0 < width <= 4 and fit):
            got = f"got width {width}, units {units}"
            raise ValueError(f"S3D needs 0 < width <= 4 and units within (2, 5, 2); {got}.")
        norm = partial(nn.BatchNorm3d, eps=norm_eps, momentum=norm_momentum)

        def wide(channels: int) -> int:
            return max(4, int(round(channels * width)))

        layers: list[nn.Module] = [
            TemporalSeparableConv(3, wide(64), 7, 2, 3, norm),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            Conv3dNormActivation(wide(64), wide(64), kernel_size=1, stride=1, norm_layer=norm),
            TemporalSeparableConv(wide(64), wide(192), 3, 1, 1, norm),
        ]
        pools = (
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d(3, 2, 1),
            nn.MaxPool3d(2, 2, 0),
        )
        channels = wide(192)
        for pool, stage, count in zip(pools, UNITS, units, strict=True):
            layers += [pool] if count else []
            for b0, (b1, b1_out), (b2, b2_out), b3 in stage[:count]:
                widths = [wide(c) for c in (b0, b1, b1_out, b2, b2_out, b3)]
                layers.append(SepInceptionBlock3D(channels, *widths, norm))
                channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.features = nn.Sequential(*layers)
        self.out_channels = channels
        PlaneConv3d.adopt(self)
        SplitMaxPool3d.adopt(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips: [B,3,T,H,W] -> [B,D,T',H',W'].

        PyTorch raises an error if a clip is too small to leave a position.
        """
        return self.features(clips)
