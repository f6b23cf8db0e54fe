"""Training steps of four networks, with all that makes them fast and without each of it.

A step is forward, backward and AdamW in bfloat16 on clips on the card, inside
`optimize.backends` as in training. share_of_limit: clips per second over the limit that the
operations of the network allow without fusion (benchmarks/roofline.py)."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel

from benchmarks import measure, roofline
from benchmarks.rms import finished
from vidbench.engine import compiling, optimize
from vidbench.models.costs import count
from vidbench.models.planes import SplitMaxPool3d
from vidbench.system import kernels

WARM_UP = 3  # steps: cudnn.benchmark measures, Triton compiles


@contextmanager
def _set(owner: Any, name: str, value: object) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def no_kernels() -> Iterator[None]:
    """Let PyTorch's operations compute what Triton kernels would."""
    kept = os.environ.get(kernels.SWITCH)
    os.environ[kernels.SWITCH] = "off"
    try:
        yield
    finally:
        os.environ.pop(kernels.SWITCH)
        if kept is not None:
            os.environ[kernels.SWITCH] = kept


@dataclass(frozen=True)
class Variant:
    """A network's step in another form: under what, how many times the batch."""

    name: str
    under: Callable[[], AbstractContextManager] = nullcontext
    batch: int = 1
    fused: bool = True
    compiled: bool = False


ALL, COMPILED = Variant("all"), Variant("all, compiled", compiled=True)
VARIANTS = (
    ALL,
    Variant("without cudnn.benchmark", lambda: _set(torch.backends.cudnn, "benchmark", False)),
    Variant("without cuDNN's attention", lambda: sdpa_kernel(optimize.ATTENTION[1:])),
    Variant("without Triton kernels", no_kernels),
    Variant("without split pools", lambda: _set(SplitMaxPool3d, "devices", ())),
    Variant("without a fused optimizer", fused=False),
    COMPILED,
    Variant("all, twice the batch", batch=2),
    Variant("all, four times the batch", batch=4),
)
# what a network has none of would only be measured again
APPLIES = {
    "S3D": {"without cudnn.benchmark", "without split pools", "without a fused optimizer"},
    "SlowOnly-50": {"without cudnn.benchmark"},
    "SlowOnly-50, RMS": {"without Triton kernels"},
    "SlowFast-50": {"without cudnn.benchmark"},
    "MViTv2-B": {
        "without cuDNN's attention",
        "without Triton kernels",
        "all, four times the batch",
    },
}


def main(
    rounds: int = 7,
    cases: tuple[roofline.Case, ...] = roofline.CASES,
    only: frozenset[str] = frozenset(),
) -> list[dict]:
    """Rows of every network and its variants, or of `only` these; a variant that fails has a row
    with its error."""
    table = []
    for case in cases:
        limit = count(case.build, case.shape).limit(roofline.CARD) / case.shape[0]
        chosen = only or APPLIES.get(case.name, set()) | {ALL.name, "all, twice the batch"}
        for variant in VARIANTS:
            if variant.name not in chosen:
                continue
            row: dict[str, object] = {"case": case.name, "contestant": variant.name}
            try:
                row |= measured(case, variant, rounds)
                row["share_of_limit"] = round(float(row["clips_per_s"]) * limit, 3)
            except (RuntimeError, NotImplementedError) as error:  # such as too little memory
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            print(measure.show([row]).splitlines()[-1], flush=True)
            table.append(row)
    return table


def measured(case: roofline.Case, variant: Variant, rounds: int) -> dict:
    """Median milliseconds, clips per second and memory of a step on the card, or on the CPU without
    one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    net = case.build().to(device).train()
    clips = torch.randn(case.shape[0] * variant.batch, *case.shape[1:], device=device)
    # a rate of 0 keeps the weights, so that all variants compute the same
    fit = optimize.Fit(optimizer="adamw", lr=0.0, precision="bf16")
    optimizer = optimize.make_optimizer(fit, net)
    if not variant.fused:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
    if variant.compiled:
        compiling.compile_encoders(SimpleNamespace(encoder=net))
    cuda = device.type == "cuda"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = net(clips).float().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finished(loss)

    with ExitStack() as stack:
        stack.enter_context(optimize.backends(False))
        stack.enter_context(variant.under())
        began = time.perf_counter()
        for _ in range(WARM_UP):
            step()
        start = time.perf_counter() - began
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = measure.in_turn({"": step}, rounds, clock=time.perf_counter, warm_up=False)[""]
    row = {
        "ms": round(1e3 * statistics.median(seconds), 2),
        "clips_per_s": round(len(clips) / statistics.median(seconds), 1),
        "start_s": round(start, 1),
    }
    if cuda:
        row["GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        torch.cuda.empty_cache()
    return row
