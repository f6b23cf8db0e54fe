"""How a method is optimized: the settings, the optimizer, the learning rate, the precision."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vidbench.system.errors import InputError
from vidbench.system.ranges import AT_LEAST_0, AT_LEAST_1, SHARE, Range, check_fields

Schedule = Literal["constant", "cosine", "cosine_whole", "milestones", "plateau"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
SEED = Range(0, 2**32 - 1)  # a step's seed is a billion times as large and must fit 64 bits


@dataclass(frozen=True)
class Fit:
    """How a method is optimized.

    Batches are global: the number of processes is a fact of the launch.

    schedule: constant, cosine (to `final_lr`, from where the warm-up ends), cosine_whole (the same
    over all epochs, the warm-up over its beginning, as in PySlowFast), milestones (times `gamma` at
    each of `milestones`, in epochs) or plateau (times `gamma` when the validation loss, or without
    validation the epoch's mean loss, has not fallen for `patience` epochs, at most `drops` times
    unless that is 0). The warm-up is linear, from `warmup_lr` on. nesterov: of SGD's momentum.
    decay_vectors: whether weight_decay acts on biases and norms, too. precision: fp32, bf16 or fp16
    autocast. deterministic: torch's deterministic algorithms only, so that a GPU, too, repeats a
    run to the bit, more slowly; an operation that has none raises RuntimeError. compile: "default"
    trains with encoders compiled by torch.compile, "" without; compiled encoders draw other random
    numbers. augment_on: where views get their colors, flips and noise: in the loader's workers, or
    on the device, so that fewer workers feed it. Crops, scaling and RandAugment stay in the
    workers."""

    epochs: Annotated[int, AT_LEAST_0] = 1
    batch: Annotated[int, AT_LEAST_1] = 32
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, AT_LEAST_0] = 1e-3
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-5
    decay_vectors: bool = True
    nesterov: bool = False
    schedule: Schedule = "constant"
    milestones: Annotated[tuple[int, ...], AT_LEAST_0] = ()
    gamma: Annotated[float, SHARE] = 0.1
    patience: Annotated[int, AT_LEAST_0] = 10
    drops: Annotated[int, AT_LEAST_0] = 0
    warmup_epochs: Annotated[float, AT_LEAST_0] = 0.0
    warmup_lr: Annotated[float, AT_LEAST_0] = 0.0
    final_lr: Annotated[float, AT_LEAST_0] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    deterministic: bool = False
    compile: Literal["", "default"] = ""
    accumulate: Annotated[int, AT_LEAST_1] = 1
    clip_norm: Annotated[float, AT_LEAST_0] = 0.0
    seed: Annotated[int, SEED] = 0
    workers: Annotated[int, AT_LEAST_0] = 0
    augment_on: Literal["workers", "device"] = "workers"
    save_every: Annotated[int, AT_LEAST_1] = 1
    validate_every: Annotated[int, AT_LEAST_1] = 1
    log_every: Annotated[int, AT_LEAST_1] = 20

    def __post_init__(self) -> None:
        check_fields(self)
        if self.compile and self.deterministic:
            raise InputError(
                "Fit: compile must be '' if deterministic is true, since compiled kernels need not "
                f"repeat to the bit; got {self.compile!r}. Leave one of the two out."
            )


def learning_rate(recipe: Fit, epoch: float, scale: float = 1.0) -> float:
    """Compute the learning rate at an epoch.

    Args:
        epoch: Epochs since the beginning; may be fractional.
        scale: Factor by which the schedule plateau has lowered the rate so far.
    """
    if epoch < recipe.warmup_epochs:
        share = (epoch + 1e-9) / recipe.warmup_epochs
        return (
            recipe.warmup_lr
            + (learning_rate(recipe, recipe.warmup_epochs, scale) - recipe.warmup_lr) * share
        )
    if recipe.schedule in ("cosine", "cosine_whole"):
        start = recipe.warmup_epochs if recipe.schedule == "cosine" else 0.0
        share = (epoch - start) / max(recipe.epochs - start, 1e-9)
        return recipe.final_lr + (recipe.lr - recipe.final_lr) * 0.5 * (
            1 + math.cos(math.pi * min(share, 1))
        )
    if recipe.schedule == "milestones":
        return recipe.lr * recipe.gamma ** sum(
            epoch >= milestone for milestone in recipe.milestones
        )
    return recipe.lr * scale  # constant or plateau


def make_optimizer(recipe: Fit, method: Any) -> torch.optim.Optimizer:
    """Make Adam, AdamW or SGD with momentum 0.9 over the parameters that require gradients.

    Without `decay_vectors`, parameters of fewer than two axes (biases, norms) are separate groups
    without decay.

    Args:
        method: If it has `parameter_groups()`, that returns dicts {"params", "scale"}; the rate of
            each is multiplied by its scale.

    Raises:
        ValueError: `nesterov` is set and the optimizer is not SGD.
    """
    groups = (
        method.parameter_groups()
        if hasattr(method, "parameter_groups")
        else [{"params": method.parameters()}]
    )
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    if not recipe.decay_vectors:
        groups = [
            {
                **group,
                "params": [p for p in group["params"] if (p.ndim > 1) == decayed],
                **({} if decayed else {"weight_decay": 0.0}),
            }
            for group in groups
            for decayed in (True, False)
        ]
    if recipe.nesterov and recipe.optimizer != "sgd":
        raise ValueError(f"nesterov is of SGD's momentum; got the optimizer {recipe.optimizer!r}.")
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    devices = {one.device.type for group in groups for one in group["params"]}
    # On a card: fewer launches, and fp16's scaler reads nothing from it. On a CPU it differs in the
    # last bit, so one with AVX-512 keeps to the loop, which gave the published numbers.
    avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if devices == {"cuda"} or (devices == {"cpu"} and avx2):
        common["fused"] = True
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(groups, **common)
        case "adamw":
            return torch.optim.AdamW(groups, **common)
        case "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=recipe.nesterov, **common)


@contextmanager
def backends(deterministic: bool) -> Iterator[None]:
    """Choose torch's kernels inside the block: deterministic ones only, or the fastest.

    The fastest convolution of each shape is measured (cudnn.benchmark), so two runs on one GPU may
    differ by rounding. On Hopper GPUs attention first tries cuDNN's kernels, which were 1.7 to 2.3
    times as fast as FlashAttention-2 in training (huggingface/transformers, pull request 48163).
    """
    kept = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
    try:
        with sdpa_kernel(ATTENTION, set_priority=True) if hopper else nullcontext():
            yield
    finally:
        torch.use_deterministic_algorithms(kept[0])
        torch.backends.cudnn.benchmark = kept[1]
