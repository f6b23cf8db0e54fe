"""Convolutions and pools flat in time or space, computed as 2-D ones with the same weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlaneConv3d(nn.Conv3d):
    """A 3-D convolution flat in time or space (1xkxk, kx1x1, 1x1x1), run as conv2d on channels-last
    views of the same memory, with the same weights and outputs.

    On a CPU over half of S3D's convolutions miss oneDNN as conv3d; as conv2d they do not, which
    makes the training step about 1.5 times as fast (benchmarks/s3d.py). On a GPU cuDNN is spared
    its copies between layouts: a step of S3D is 1.5 times as fast, of SlowOnly-50 1.3, of
    SlowFast-50 1.5 (H200, bfloat16, PyTorch 2.11). A lone clip, and any on a device that is not
    among `devices`, goes the way of nn.Conv3d. Where a clip is one frame (T = 1) and the kernel is
    flat in time, it is conv2d on every device, so that nets for images cost what 2-D nets cost.

    A strided 1x1x1 convolution subsamples its input first and then runs at stride 1, which is
    cheaper and exact. The strided form is unsafe: oneDNN's backward pass gives wrong weight
    gradients or corrupts the heap when the input is channels-last and has fewer channels than a
    vector register holds (uxlfoundation/oneDNN issue 6035)."""

    devices = ("cpu", "cuda")

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,T,H,W] -> [B,C',T',H',W'], in channels_last_3d memory where it ran as conv2d."""
        stride: Any = self.stride
        pointwise = _pointwise(self)
        if pointwise:
            x, stride = x[..., :: stride[0], :: stride[1], :: stride[2]], (1, 1, 1)
        flat_in_time = pointwise or _flat(self, slice(0, 1))
        if x.dim() == 5 and x.shape[2] == 1 and flat_in_time:
            frames = x.squeeze(2)
            if x.device.type == "cpu" and x.shape[0] > 1:
                frames = frames.contiguous(memory_format=torch.channels_last)
            frames = F.conv2d(
                frames, self.weight.squeeze(2), self.bias, stride[1:], self.padding[1:]
            )
            return frames.unsqueeze(2)
        # of a lone clip conv2d, too, takes its slow path
        if x.device.type not in self.devices or x.shape[0] == 1:
            return F.conv3d(x, self.weight, self.bias, stride, self.padding)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        batch, _, length, height, width = x.shape
        if flat_in_time:
            images = x.transpose(1, 2).flatten(0, 1)
            images = F.conv2d(
                images, self.weight.squeeze(2), self.bias, stride[1:], self.padding[1:]
            )
            return images.unflatten(0, (batch, length)).transpose(1, 2)
        columns = x.flatten(3)
        stride = (stride[0], 1)
        padding: Any = (self.padding[0], 0)
        columns = F.conv2d(columns, self.weight.squeeze(-1), self.bias, stride, padding)
        return columns.unflatten(3, (height, width))

    @classmethod
    def adopt(cls, module: nn.Module, devices: tuple[str, ...] = devices) -> None:
        """Let each flat nn.Conv3d below `module` run as a PlaneConv3d on these devices; weights and
        keys stay."""
        for conv in module.modules():
            if type(conv) is not nn.Conv3d or conv.groups > 1 or conv.dilation != (1, 1, 1):
                continue
            if conv.padding_mode != "zeros":
                continue
            if _pointwise(conv) or _flat(conv, slice(0, 1)) or _flat(conv, slice(1, 3)):
                adopted: Any = conv
                adopted.__class__, adopted.devices = cls, devices


def _pointwise(conv: nn.Conv3d) -> bool:
    """Whether each output position depends on one input position."""
    return conv.kernel_size == (1, 1, 1) and set(conv.padding) == {0}


def _flat(conv: nn.Conv3d, axes: slice) -> bool:
    """Whether the convolution does nothing along these axes (0 time, 1 and 2 space)."""
    kernel, stride, padding = conv.kernel_size[axes], conv.stride[axes], conv.padding[axes]
    return set(kernel) == {1} and set(stride) == {1} and set(padding) == {0}


class SplitMaxPool3d(nn.MaxPool3d):
    """nn.MaxPool3d that asks for no nondeterministic kernel: where deterministic algorithms are
    wanted on CUDA, which has none for its backward pass, it runs as max_pool2d over space, then
    over time.

    Outputs and gradients are the same: of equal values both take the first in the order of time,
    height, width."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,T,H,W] -> [B,C,T',H',W']."""
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return self.split(x)
        return super().forward(x)

    def split(self, x: Tensor) -> Tensor:
        """The same, over space, then over time."""
        kernel, stride, padding = (
            _triple(size) for size in (self.kernel_size, self.stride, self.padding)
        )
        planes = F.max_pool2d(x.flatten(1, 2), kernel[1:], stride[1:], padding[1:]).unflatten(
            1, x.shape[1:3]
        )
        if kernel[0] == stride[0] == 1:
            return planes
        columns = F.max_pool2d(planes.flatten(3), (kernel[0], 1), (stride[0], 1), (padding[0], 0))
        return columns.unflatten(3, planes.shape[3:])

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Let each nn.MaxPool3d below `module` run as a SplitMaxPool3d."""
        for pool in module.modules():
            if (
                type(pool) is nn.MaxPool3d
                and not pool.ceil_mode
                and _triple(pool.dilation) == (1, 1, 1)
            ):
                pool.__class__ = cls


def _triple(size) -> tuple[int, int, int]:
    return (size,) * 3 if isinstance(size, int) else tuple(size)


class PlaneMaxPool(nn.Module):
    """nn.MaxPool3d((1,k,k), (1,s,s), (0,k//2,k//2)) as max_pool2d over frames: PyTorch lists the
    backward pass of max_pool3d on CUDA as one without a deterministic kernel, that of max_pool2d
    not."""

    def __init__(self, kernel: int = 3, stride: int = 2):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,T,H,W] -> [B,C,T,H',W']."""
        if x.is_contiguous():  # frames beside channels: a view
            planes = F.max_pool2d(x.flatten(1, 2), self.kernel, self.stride, self.kernel // 2)
            return planes.unflatten(1, x.shape[1:3])
        # frames next to clips: a view of channels-last memory
        planes = x.transpose(1, 2).flatten(0, 1)
        planes = F.max_pool2d(planes, self.kernel, self.stride, self.kernel // 2)
        return planes.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"
