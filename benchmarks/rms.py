"""Random mean scaling compared with its plain form, x + (alpha - 1) avg_pool3d(x), and what it adds
to a training step.

One thread on a CPU, or the GPU where there is one (then wall time, synchronized). "kept" is what
autograd holds of one call until the backward pass, in sizes of the feature. Outputs and gradients
of both forms are compared first. Steps are of SlowOnly-50 and SlowFast-50 with and without RMS: on
a GPU with clips of the papers' size in bfloat16, on a CPU with small ones; the memory of a step is
the GPU's peak. "repeats" says whether two runs of five steps with torch's deterministic algorithms
are equal to the bit. On a GPU each case also runs with VIDBENCH_KERNELS=off; "GB_per_s" is what the
form must move at least (two features forward, two backward) over its time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import measure
from vidbench import models
from vidbench.system.kernels import SWITCH
from vidbench.tensors.regularizers import build_regularizer
from vidbench.tensors.scaling import Filter, random_scaling

ON_GPU = True  # with results of their own there
OFF = "kernels off"  # on a GPU only: a CPU has none
FEATURES = {
    "res4 of SlowOnly-50": (256, 8, 14, 14),
    "res5 of SlowOnly-50": (512, 8, 7, 7),
}  # a quarter of the channels
NETS = {"SlowOnly-50": ("slowonly", {"depth": 50}, 8), "SlowFast-50": ("slowfast", {}, 32)}


def main(rounds: int = 7, clips: int = 0, side: int = 0) -> list[dict]:
    """Rows of the two forms, of steps, and goals P15 and P16. clips, side: of the steps; 0 is the
    device's."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        measure.one_thread()
    table, goals = [], []
    for where, size in FEATURES.items():
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            rows, found = forms(where, (32 if gpu else 4, *size), layout, device, rounds)
            table, goals = table + rows, goals + found
    for name, (network, arguments, frames) in NETS.items():
        batch = torch.randn(
            clips or (32 if gpu else 2),
            3,
            frames,
            *(side or (224 if gpu else 64),) * 2,
            device=device,
        )
        rows, found = steps(name, network, arguments, batch, rounds)
        table, goals = table + rows, goals + found
    return table + goals


def plain(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The form one writes first; autograd goes through average pooling."""
    return x + (factor - 1) * F.avg_pool3d(x, 3, 1, 1)


def forms(
    where: str,
    size: tuple[int, ...],
    layout: torch.memory_format,
    device: torch.device,
    rounds: int,
) -> tuple[list[dict], list[dict]]:
    """Forward and backward of both forms on one feature: rows and goals."""
    x = torch.randn(size, device=device).to(memory_format=layout).requires_grad_()
    g, smoother = torch.randn_like(x), Filter(3)

    def ours() -> torch.Tensor:
        return random_scaling(x, True, smoother, generator=generator().manual_seed(0))

    def theirs() -> torch.Tensor:
        factor = torch.empty(size[0], 1, 1, 1, 1, device=device).uniform_(
            0, 2, generator=generator().manual_seed(0)
        )
        return plain(x, factor)

    def generator() -> torch.Generator:
        return torch.Generator(device)

    gap = max(
        float((a - b).abs().max())
        for a, b in zip(both(ours, x, g), both(theirs, x, g), strict=True)
    )
    if gap > 1e-4:
        raise AssertionError(f"{where}: the two forms differ by {gap}; wanted at most 1e-4")
    names = {"vidbench": ours, "plain avg_pool3d": theirs}
    if x.is_cuda:
        names[f"vidbench, {OFF}"] = without_kernels(ours)
    seconds = measure.in_turn(
        {name: lambda form=form: finished(both(form, x, g)) for name, form in names.items()},
        rounds=rounds,
        clock=clock(),
    )
    case = f"{where}, {str(layout).removeprefix('torch.')}"
    held = {
        name: round(kept(form) / (x.numel() * x.element_size()), 3) for name, form in names.items()
    }
    rows = [
        {**row, "kept": held[row["contestant"]]}
        for row in measure.rows(seconds, "vidbench", case=case)
    ]
    for row in rows if x.is_cuda else ():
        moved = 4 * x.numel() * x.element_size() / 1e9
        row["GB_per_s"] = round(moved / statistics.median(seconds[row["contestant"]]))
    speed = measure.ratios(seconds["plain avg_pool3d"], seconds["vidbench"])
    return rows, [
        measure.goal("P15", f"RMS, the plain form's time over ours, {case}", ">= 1", speed),
        measure.goal(
            "P15",
            f"RMS, features kept less than the plain form, {case}",
            ">= 1",
            held["plain avg_pool3d"] - held["vidbench"],
        ),
    ]


def without_kernels(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call with PyTorch's operations in place of vidbench's Triton kernels."""

    def run() -> Any:
        kept = os.environ.get(SWITCH, "on")
        os.environ[SWITCH] = "off"
        try:
            return call()
        finally:
            os.environ[SWITCH] = kept

    return run


def both(form, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient."""
    y = form()
    return y.detach(), torch.autograd.grad(y, x, g)[0]


def kept(form) -> int:
    """Bytes that autograd holds of a call's tensors until the backward pass, each storage once."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        form()
    return sum(held.values())


def steps(
    name: str, network: str, arguments: dict, batch: torch.Tensor, rounds: int
) -> tuple[list[dict], list[dict]]:
    """Training steps with and without RMS in res4 and res5: rows and goals."""
    calls = {
        "without": step(network, arguments, None, batch),
        "RMS": step(network, arguments, build_regularizer("rms", stages=(4, 5)), batch),
    }
    if batch.is_cuda:
        rms = step(network, arguments, build_regularizer("rms", stages=(4, 5)), batch)
        calls[f"RMS, {OFF}"] = without_kernels(rms)
    seconds, memory = measure.in_turn(calls, rounds=rounds, clock=clock()), {}
    if batch.is_cuda:
        for which, call in calls.items():
            torch.cuda.reset_peak_memory_stats()
            call()
            memory[which] = {"GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    case = f"{name}, {list(batch.shape)}"
    rows = [
        {
            **row,
            "clips_per_s": round(len(batch) / statistics.median(seconds[row["contestant"]]), 2),
            **memory.get(row["contestant"], {}),
        }
        for row in measure.rows(seconds, "without", case=case)
    ]
    share = measure.ratios(seconds["RMS"], seconds["without"])
    goals = [measure.goal("P16", f"step with RMS over one without, {case}", "<= 1.02", share)]
    if batch.is_cuda:
        goals.append(
            measure.goal(
                "P16",
                f"deterministic steps that differ, {case}",
                "<= 0",
                float(not repeats(network, arguments, batch[:8])),
            )
        )
    return rows, goals


def step(network: str, arguments: dict, regularizer, batch: torch.Tensor):
    """One training step, forward, backward and SGD, as a call without arguments; bfloat16 on a
    GPU."""
    torch.manual_seed(0)
    net = models.build(network, regularizer=regularizer, **arguments).to(batch.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
            loss = net(batch).mean()
        loss.backward()
        optimizer.step()
        finished(loss)
        run.net = net
        return loss

    return run


def repeats(network: str, arguments: dict, batch: torch.Tensor) -> bool:
    """Whether two runs of five steps with deterministic algorithms end with the same weights.
    Raises if one is missing."""
    torch.use_deterministic_algorithms(True)
    try:
        ends = []
        for _ in range(2):
            run = step(network, arguments, build_regularizer("rms", stages=(4, 5)), batch)
            for number in range(5):
                torch.manual_seed(number)
                run()
            ends.append([parameter.detach().clone() for parameter in run.net.parameters()])
        return all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def finished(value) -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock():
    """Wall time with a GPU, CPU time of this process without."""
    return time.perf_counter if torch.cuda.is_available() else time.process_time
