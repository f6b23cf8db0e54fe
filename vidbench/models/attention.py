"""Pooling attention on tokens of a grid, and the block around it (MViTv2, section 4.1)."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from vidbench.models.planes import PlaneMaxPool
from vidbench.system.kernels import kernels_run

Grid = tuple[int, int, int]  # positions along time, height and width
MLP_RATIO = 4
AXES = ("t", "h", "w")
KERNEL_TYPES = (torch.bfloat16, torch.float16, torch.float32)
norm_layer = partial(nn.LayerNorm, eps=1e-6)


class AutocastNorm(nn.LayerNorm):
    """nn.LayerNorm in the precision of its input: its statistics are float32, its weights are
    rounded to the input's precision. Under CUDA's autocast nn.LayerNorm makes all of it float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [...,D] in its own precision: the same shape."""
        kind = x.device.type
        # torch knows no autocast for the meta device, where costs.py counts
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Let each nn.LayerNorm below `module` run as an AutocastNorm; weights and keys stay."""
        for norm in module.modules():
            if type(norm) is nn.LayerNorm:
                norm.__class__ = cls


def strided(grid: Sequence[int], stride: Sequence[int]) -> Grid:
    """Return the grid that a convolution or pool with odd kernel k and padding k // 2 leaves.

    Args:
        grid, stride: Of time, height, width.
    """
    t, h, w = (-(-n // s) for n, s in zip(grid, stride, strict=True))
    return t, h, w


def stretched(table: Tensor, size: Sequence[int]) -> Tensor:
    """Resize an embedding, linearly or bilinearly: [D,n] or [D,n,m].

    Args:
        table: [D,n] or [D,n,m]; returned itself if it has the size.
        size: The new n, or n and m.
    """
    if table.shape[1:] == tuple(size):
        return table
    mode = "linear" if table.dim() == 2 else "bilinear"
    return F.interpolate(table[None].float(), tuple(size), mode=mode, align_corners=False)[0].to(
        table.dtype
    )


def distances(table: Tensor, queries: int, keys: int) -> Tensor:
    """Read a table of relative positions for each pair along one axis: [queries,keys,d].

    MViTv2, section 4.1. The finer of the two sides counts: the table is stretched to 2 max(queries,
    keys) - 1 distances.

    Args:
        table: [L,d].
        queries, keys: Their numbers along the axis.
    """
    table = stretched(table.T, [2 * max(queries, keys) - 1]).T
    q = torch.arange(queries, device=table.device)[:, None] * max(keys / queries, 1.0)
    k = (torch.arange(keys, device=table.device) + 1.0 - keys) * max(queries / keys, 1.0)
    return table[(q - k).long()]


def on_grid(layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """Apply a layer for maps to tokens; a class token before the grid's passes unchanged.

    Args:
        layer: From maps [B,d,T,H,W] to maps.
        x: Tokens [B,N,d] or [B,heads,N,d].
        grid: T, H, W of the tokens.

    Returns:
        Tokens [B,N',d] or [B,heads,N',d].
    """
    if first := x.shape[-2] - prod(grid):
        return torch.cat([x[..., :first, :], on_grid(layer, x[..., first:, :], grid)], dim=-2)
    # On a CPU channels last, as they are in memory: a copy to contiguous memory makes a depthwise
    # convolution far slower. In bfloat16 it is needed there, without it the weight's gradient is
    # garbage (PyTorch 2.15). On a GPU a depthwise convolution's step on channels-last maps needs up
    # to 28 times as long as on contiguous ones (H200, PyTorch 2.11).
    maps = x.flatten(0, -3).transpose(1, 2).unflatten(2, grid)
    channels_last = x.device.type == "cpu" and x.dtype != torch.bfloat16
    maps = layer(maps if channels_last else maps.contiguous())
    return maps.flatten(2).transpose(1, 2).unflatten(0, x.shape[:-2])


@torch.compiler.assume_constant_result
def pools_fused(device: torch.device) -> bool:
    """Say whether the pools of tensors on a device are Triton kernels, see models/kernels.py."""
    if device.type != "cuda" or torch.version.cuda is None:  # ROCm's devices are called cuda, too
        return kernels_run()
    found = torch.cuda.get_device_properties(device)  # torch.compile traces this as a constant
    return kernels_run((found.major, found.minor))


class Pool(nn.Module):
    """Queries, keys or values [B,heads,N,d] through a depthwise convolution, the same in each head,
    and a norm."""

    def __init__(self, channels: int, stride: int, eps: float):
        super().__init__()
        self.conv = nn.Conv3d(
            channels, channels, 3, (1, stride, stride), 1, groups=channels, bias=False
        )
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Pool and normalize tokens: [B,heads,N,d] -> [B,heads,N',d].

        Args:
            grid: T, H, W of the tokens.
        """
        return self.norm(on_grid(self.conv, x, grid))


class Attention(nn.Module):
    """Pooling attention with the query added to its result (MViTv2, section 4.1): tokens [B,N,C] ->
    [B,N',D].

    It runs as scaled_dot_product_attention, and what relative positions add to the scores is its
    mask, of their size."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        heads: int,
        strides: tuple[int, int],
        eps: float,
        tables: Grid | None,
        token_query: bool = False,
    ):
        super().__init__()
        (q_stride, kv_stride), width = strides, channels // heads  # in height and width
        self.token_query = token_query
        self.heads, self.strides = heads, ((1, q_stride, q_stride), (1, kv_stride, kv_stride))
        self.qkv, self.project = nn.Linear(inputs, 3 * channels), nn.Linear(channels, channels)
        self.pool_q, self.pool_k, self.pool_v = (
            Pool(width, s, eps) for s in (q_stride, kv_stride, kv_stride)
        )
        self.relative = (
            None
            if tables is None
            else nn.ParameterDict(
                {
                    axis: torch.empty(length, width)
                    for axis, length in zip(AXES, tables, strict=True)
                }
            )
        )

    def pooled(self, qkv: Tensor, grid: Grid) -> Sequence[Tensor]:
        """Pool queries, keys and values: three of [B,heads,N',d].

        Kernels read the modules' weights without calling them, and return the product's type; under
        autocast the modules' norms return float32.

        Args:
            qkv: The product [B,N,3D].
            grid: T, H, W of the tokens.
        """
        pools: tuple[Pool, ...] = (self.pool_q, self.pool_k, self.pool_v)
        if qkv.dtype in KERNEL_TYPES and pools_fused(qkv.device):
            from vidbench.models import kernels

            layers = [(pool.conv.weight, pool.norm.weight, pool.norm.bias) for pool in pools]
            strides = [pool.conv.stride[1] for pool in pools]
            parameters = [parameter for layer in layers for parameter in layer]
            return kernels.pools(qkv, parameters, grid, strides, self.pool_q.norm.eps)
        parts = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return [pool(x, grid) for pool, x in zip(pools, parts, strict=True)]

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Attend over pooled tokens: [B,N,C] -> [B,N',D].

        Args:
            grid: T, H, W of the tokens.
        """
        q, k, v = self.pooled(self.qkv(x), grid)
        grid_q, grid_k = (strided(grid, stride) for stride in self.strides)
        first = q.shape[2] - prod(grid_q)  # 1 with a class token, which has no relative position
        bias = None
        if self.relative is not None:
            bias = F.pad(
                self.bias(q[:, :, first:].unflatten(2, grid_q), grid_k), (first, 0, first, 0)
            )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out + (
            F.pad(q[:, :, first:], (0, 0, first, 0)) if first and not self.token_query else q
        )
        return self.project(out.transpose(1, 2).flatten(2))

    def bias(self, q: Tensor, grid: Grid) -> Tensor:
        """Compute what relative positions add to the scores of queries: [B,heads,N',N].

        Args:
            q: Queries on their grid [B,heads,T,H,W,d].
            grid: T, H, W of the keys.
        """
        tables = self.relative
        assert tables is not None, "a net without relative positions needs no bias"
        t, h, w = (
            distances(tables[axis], q.shape[2 + at], grid[at]) for at, axis in enumerate(AXES)
        )
        t = torch.einsum("bnthwd,tkd->bnthwk", q, t)[..., :, None, None]
        h = torch.einsum("bnthwd,hkd->bnthwk", q, h)[..., None, :, None]
        w = torch.einsum("bnthwd,wkd->bnthwk", q, w)[..., None, None, :]
        return (t + h + w).flatten(5).flatten(2, 4)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); tokens [B,N,C] on a grid -> [B,N',D] on the
    next.

    Where the channels grow, the stride of the queries is 2 and the skip path is projected and
    max-pooled."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        attention: Attention,
        normed_skip: bool,
        stochastic_depth: float,
    ):
        super().__init__()
        self.norm1, self.attention, self.norm2 = norm_layer(inputs), attention, norm_layer(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, MLP_RATIO * channels),
            nn.GELU(),
            nn.Linear(MLP_RATIO * channels, channels),
        )
        self.grows, self.normed_skip = inputs != channels, normed_skip
        if self.grows:
            self.skip, self.pool = nn.Linear(inputs, channels), PlaneMaxPool(3, 2)
        self.stochastic_depth = StochasticDepth(stochastic_depth, "row")

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens: [B,N,C] -> [B,N',D].

        Args:
            grid: T, H, W of the tokens.
        """
        normed = self.norm1(x)
        if self.grows:
            x = on_grid(self.pool, self.skip(normed if self.normed_skip else x), grid)
        x = x + self.stochastic_depth(self.attention(normed, grid))
        return x + self.stochastic_depth(self.mlp(self.norm2(x)))
