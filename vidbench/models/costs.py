"""What a training step of a network costs: operations, bytes moved, launches, bytes kept.

Counted on the meta device, so neither a GPU nor memory for the network is needed. Each operation
(forward and backward) reads every distinct input once and writes its output once. Its time on a card
is at least the larger of bytes / bandwidth and FLOP / rate. The sum over all operations is the
step's limit without fusion: the roofline of the operations that the network has today.

Precision "bf16" follows CUDA's autocast: products in bfloat16, normalizations and softmax in
float32. Attention counts as one fused kernel whose backward pass computes the scores again."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
PRODUCTS = {
    torch.conv2d,
    torch.conv3d,
    F.linear,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}
PRECISE = {F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax}
FREE = {aten.empty.memory_format, aten.empty_like.default, aten.detach.default}


@dataclass(frozen=True)
class Card:
    """A GPU's rates that a large kernel reaches: bytes per second, bfloat16 FLOP per second, bytes."""

    bandwidth: float
    rate: float
    memory: float


# H200: a copy and a product of two 8192 x 8192 matrices, measured (benchmarks/results/gpu.csv).
# A100: assumption, the same shares (0.9 and 0.81) of the data sheet's 2.04 TB/s and 312 TFLOP/s.
CARDS = {"H200": Card(4.3e12, 802e12, 139e9), "A100": Card(1.83e12, 253e12, 80e9)}


@dataclass(frozen=True)
class Cost:
    """One operation, or the sum of one kind: how often, its FLOP and its bytes."""

    calls: int
    flop: float
    bytes: float


@dataclass(frozen=True)
class StepCost:
    """A step's operations in their order, what is kept for the backward pass, and the weights.

    operations: pairs of a name and its `Cost`; the first `forward` are the forward pass. kept,
    weights: bytes.
    """

    operations: tuple[tuple[str, Cost], ...]
    forward: int
    kept: float
    weights: float

    @property
    def flop(self) -> float:
        """Floating point operations, two for a multiplication and addition."""
        return sum(cost.flop for _, cost in self.operations)

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return sum(cost.bytes for _, cost in self.operations)

    def limit(self, card: Card, forward: bool = False) -> float:
        """Return the seconds on a card if each operation reaches the card's rates.

        Args:
            forward: Of the forward pass alone.
        """
        chosen = self.operations[: self.forward] if forward else self.operations
        return sum(_seconds(cost, card) for _, cost in chosen)

    def kinds(self, card: Card) -> dict[str, tuple[Cost, float]]:
        """Sum the cost of each kind of operation, with its seconds on a card, the longest first."""
        names = {name for name, _ in self.operations}
        found = {}
        for name in names:
            ours = [cost for other, cost in self.operations if other == name]
            whole = Cost(len(ours), sum(c.flop for c in ours), sum(c.bytes for c in ours))
            found[name] = whole, sum(_seconds(cost, card) for cost in ours)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def _seconds(cost: Cost, card: Card) -> float:
    return max(cost.bytes / card.bandwidth, cost.flop / card.rate)


def count(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    precision: Literal["bf16", "fp32"] = "bf16",
) -> StepCost:
    """Count one forward and backward pass in training mode.

    Args:
        build: Makes the network; its weights take no memory.
        shape: Of the clips, [B,3,T,H,W].
        precision: "bf16" as CUDA's autocast rounds, or all in float32.
    """
    with torch.device("meta"):
        net = build().train()
        clips = torch.empty(shape)
    kept: dict[int, int] = {}
    own = {id(one.untyped_storage()) for one in net.parameters()}

    def keep(value: Tensor) -> Tensor:
        store = value.untyped_storage()
        if id(store) not in own:
            kept[store._cdata] = store.nbytes()
        return value

    counter = _Count()
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        with _Autocast(precision == "bf16"):
            loss = net(clips).float().mean()
        forward = len(counter.found)
        loss.backward()
    weights = sum(one.numel() * one.element_size() for one in net.parameters())
    return StepCost(tuple(counter.found), forward, sum(kept.values()), weights)


class _Count(TorchDispatchMode):
    """Notes every operation that moves bytes; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Cost]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = op(*args, **kwargs)
        returns = op._schema.returns
        views = any(one.alias_info and not one.alias_info.is_write for one in returns)
        if views or op in FREE or op.overloadpacket is aten._unsafe_view:
            return out
        read = {_place(one): _size(one) for one in _tensors((args, kwargs))}
        written = sum(map(_size, _tensors(out)))
        flop = _flop(op, args, kwargs, out)
        self.found.append((op.overloadpacket.__name__, Cost(1, flop, sum(read.values()) + written)))
        return out


def _flop(op: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Operations of a product; 0 for all else."""
    if op is aten.convolution_backward.default:
        # torch's formula counts every group of a grouped convolution as the whole
        gradient, x, weight, *_, mask = args
        return 2 * gradient.numel() * prod(weight.shape[1:]) * sum(mask[:2])
    formula = flop_registry.get(op.overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for one in value for tensor in _tensors(one)]


def _place(value: Tensor) -> tuple:
    return value.untyped_storage()._cdata, value.storage_offset(), tuple(value.shape)


def _size(value: Tensor) -> int:
    # an expanded axis is read once
    sizes = zip(value.shape, value.stride(), strict=True)
    return prod(size for size, stride in sizes if stride or size == 0) * value.element_size()


class _Autocast(TorchFunctionMode):
    """CUDA's autocast for meta tensors, which torch's own leaves alone; each weight is cast once."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.cast: dict[int, Tensor] = {}

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if call is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if call in PRODUCTS:
            args, kwargs = self.all(args, torch.bfloat16), self.all(kwargs, torch.bfloat16)
        elif call in PRECISE and not _rounded(args, kwargs):
            args, kwargs = self.all(args, torch.float32), self.all(kwargs, torch.float32)
        return call(*args, **kwargs)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Call the fused kernels that CUDA uses, by name: on the meta device torch uses none."""
        q, k, v, mask = self.all((q, k, v, attn_mask), torch.bfloat16)
        if mask is None:
            return aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]

    def all(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return self.to(value, dtype)
        if isinstance(value, dict):
            return {name: self.all(one, dtype) for name, one in value.items()}
        return type(value)(self.all(one, dtype) for one in value) if _plain(value) else value

    def to(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if not self.enabled or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self.cast:
            self.cast[id(value)] = value.to(dtype)
        return self.cast[id(value)]


def _rounded(args: Any, kwargs: Any) -> bool:
    """Whether a norm's weights are bfloat16, too: it then runs outside autocast (AutocastNorm)."""
    norm = [one for one in _tensors((args, kwargs)) if one.is_floating_point()]
    return len(norm) > 1 and all(one.dtype == torch.bfloat16 for one in norm)


def _plain(value: Any) -> bool:
    return type(value) in (list, tuple)
