"""Convolutions and pools flat in time or space, computed as 2-D ones with the same weights."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# oneDNN reads the variable once, too
AVX2_ONLY = torch.backends.cpu.get_cpu_capability() == "AVX2" or os.environ.get(
    "ONEDNN_MAX_CPU_ISA", ""
).upper() in ("AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
WIDE = 48  # channels from which a product of matrices is faster than oneDNN without AVX-512


class PlaneConv3d(nn.Conv3d):
    """A 3-D convolution flat in time or space (1xkxk, kx1x1, 1x1x1), run as conv2d on channels-last
    views of the same memory, with the same weights and outputs.

    On a CPU over half of S3D's convolutions miss oneDNN as conv3d; as conv2d they do not, which
    makes the training step about 1.5 times as fast (benchmarks/s3d.py), without AVX-512 together
    with `_Columns`. On a GPU cuDNN is spared its copies between layouts: a step of S3D is 1.5 times
    as fast, of SlowOnly-50 1.3, of SlowFast-50 1.5 (H200, bfloat16, PyTorch 2.11). A lone clip, and
    any on a device that is not among `devices`, goes the way of nn.Conv3d. Where a clip is one
    frame (T = 1) and the kernel is flat in time, it is conv2d on every device, so that nets for
    images cost what 2-D nets cost.

    A strided 1x1x1 convolution subsamples its input first and then runs at stride 1, which is
    cheaper and exact. The strided form is unsafe: oneDNN's backward pass gives wrong weight
    gradients or corrupts the heap when the input is channels-last and has fewer channels than a
    vector register holds (uxlfoundation/oneDNN issue 6035)."""

    devices = ("cpu", "cuda")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: [B,C,T,H,W] -> [B,C',T',H',W'], in channels_last_3d memory if run as conv2d."""
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
        if AVX2_ONLY and self._by_products(columns):
            columns = _Columns.apply(columns, self.weight.squeeze(-1), stride[0], self.padding[0])
            return columns.unflatten(3, (height, width))
        stride = (stride[0], 1)
        padding: Any = (self.padding[0], 0)
        columns = F.conv2d(columns, self.weight.squeeze(-1), self.bias, stride, padding)
        return columns.unflatten(3, (height, width))

    def _by_products(self, columns: Tensor) -> bool:
        """Whether `_Columns` computes this kx1x1 convolution, because it learns in float32 on a CPU
        and is wide enough."""
        learns = self.weight.requires_grad and torch.is_grad_enabled()
        plain = columns.device.type == "cpu" and columns.dtype == self.weight.dtype == torch.float32
        wide = self.bias is None and min(self.in_channels, self.out_channels) >= WIDE
        elsewhere = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        return learns and plain and wide and not elsewhere

    @classmethod
    def adopt(cls, module: nn.Module, devices: tuple[str, ...] = devices) -> None:
        """Let each flat nn.Conv3d below a module run as a PlaneConv3d; weights and keys stay.

        Args:
            devices: Types of devices on which it runs so.
        """
        for conv in module.modules():
            if type(conv) is not nn.Conv3d or conv.groups > 1 or conv.dilation != (1, 1, 1):
                continue
            if conv.padding_mode != "zeros":
                continue
            if _pointwise(conv) or _flat(conv, slice(0, 1)) or _flat(conv, slice(1, 3)):
                adopted: Any = conv
                adopted.__class__, adopted.devices = cls, devices


class _Columns(torch.autograd.Function):
    """conv2d over time, [B,C,T,P] by [C',C,k,1], whose weights' gradient is a product of matrices
    for each of the k frames under the kernel.

    Without AVX-512, oneDNN computes that gradient of channels-last memory at a third of the rate of
    its other passes; the products run at their rate. The rule is the instruction set and the
    channels, not a measurement, so that a run repeats to the bit on its machine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, (stride, 1), (padding, 0))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        before = None
        if ctx.needs_input_grad[0]:
            place = [ctx.stride, 1], [ctx.padding, 0], [1, 1], False, [0, 0], 1
            before, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, *place, [True, False, False]
            )
        frames, wanted = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
        taps = _tap_gradients(frames, wanted, weight.shape[2], ctx.stride, ctx.padding)
        return before, taps.permute(1, 2, 0).unsqueeze(-1), None, None


def _tap_gradients(x: Tensor, grad: Tensor, taps: int, stride: int, padding: int) -> Tensor:
    """Inputs [B,T,P,C] and the outputs' gradient [B,T',P,C'] -> the weights' gradient [k,C',C]."""
    found = x.new_zeros(taps, grad.shape[3], x.shape[3])
    for tap in range(taps):
        # output frame t sees input frame t * stride + shift
        shift = tap - padding
        first = max(0, -(shift // stride))
        end = min(grad.shape[1], (x.shape[1] - 1 - shift) // stride + 1)
        if first >= end:
            continue
        wanted = grad[:, first:end]
        seen = x[:, first * stride + shift : (end - 1) * stride + shift + 1 : stride]
        if stride == 1:
            found[tap].addbmm_(wanted.flatten(1, 2).mT, seen.flatten(1, 2))
            continue
        for frames, gradients in zip(seen, wanted, strict=True):
            found[tap].addbmm_(gradients.mT, frames)
    return found


def _pointwise(conv: nn.Conv3d) -> bool:
    """Whether each output position depends on one input position."""
    return conv.kernel_size == (1, 1, 1) and set(conv.padding) == {0}


def _flat(conv: nn.Conv3d, axes: slice) -> bool:
    """Whether the convolution does nothing along these axes (0 time, 1 and 2 space)."""
    kernel, stride, padding = conv.kernel_size[axes], conv.stride[axes], conv.padding[axes]
    return set(kernel) == {1} and set(stride) == {1} and set(padding) == {0}


class SplitMaxPool3d(nn.MaxPool3d):
    """nn.MaxPool3d that runs as max_pool2d over space, then over time, where gradients are wanted on
    one of `devices`. Both are views of the same memory, contiguous or channels-last.

    Outputs and gradients are the same: of equal values both take the first in the order of time,
    height, width. On CUDA the backward pass of max_pool3d has no deterministic kernel. It adds with
    atomic operations, which in 16 bits are loops of compare-and-swap; that of max_pool2d reads
    instead. The gain was not measured on a GPU. A CPU gains nothing, and a sum of several gradients
    would be rounded in another order."""

    devices: tuple[str, ...] = ("cuda",)

    def forward(self, x: Tensor) -> Tensor:
        """Pool: [B,C,T,H,W] -> [B,C,T',H',W']."""
        if x.device.type in self.devices and x.requires_grad:
            return self.split(x)
        return super().forward(x)

    def split(self, x: Tensor) -> Tensor:
        """Pool over space, then over time: the shape of the whole pool's output."""
        kernel, stride, padding = (
            _triple(size) for size in (self.kernel_size, self.stride, self.padding)
        )
        x = _over_frames(x, kernel[1:], stride[1:], padding[1:])
        if kernel[0] == stride[0] == 1:
            return x
        columns = F.max_pool2d(x.flatten(3), (kernel[0], 1), (stride[0], 1), (padding[0], 0))
        return columns.unflatten(3, x.shape[3:])

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
        """Pool each frame: [B,C,T,H,W] -> [B,C,T,H',W']."""
        return _over_frames(x, self.kernel, self.stride, self.kernel // 2)

    def extra_repr(self) -> str:
        """Show kernel and stride."""
        return f"kernel={self.kernel}, stride={self.stride}"


def _over_frames(x: Tensor, *size: Any) -> Tensor:
    """max_pool2d of this kernel, stride and padding over each frame, without a copy in contiguous
    and in channels-last memory: [B,C,T,H,W] -> [B,C,T,H',W']."""
    if x.is_contiguous():  # frames next to channels
        return F.max_pool2d(x.flatten(1, 2), *size).unflatten(1, x.shape[1:3])
    # frames next to clips
    planes = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), *size)
    return planes.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
