"""S3D's training step on CPU, one thread: vidbench's and torchvision's S3D with the same weights.

A step is forward, backward and SGD. "channels_last_3d" is torchvision's network in that memory
format. output_gap is the largest relative difference between the outputs of both networks in double
precision, from the same run. sgemm_share is the rate of floating point operations in forward and
backward over that of a product of two 2048x2048 float matrices, measured in turn with the steps.
"""

from __future__ import annotations

import copy
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import s3d

from benchmarks import measure
from vidbench import models

CASES = {
    "8x64, batch 8": (8, 8, 64),
    "16x112, batch 2": (2, 16, 112),
    "32x128, batch 2": (2, 32, 128),
}
IN_SETS = True
SQUARE = 2048  # rows and columns of the product


def main(rounds: int = 7, cases: dict[str, tuple[int, int, int]] = CASES) -> list[dict]:
    """A row for each case and contestant, and goal P6."""
    measure.one_thread()
    table, goals = [], []
    square = torch.randn(SQUARE, SQUARE)
    for name, case in cases.items():
        theirs, ours = networks()
        last = copy.deepcopy(theirs).to(memory_format=torch.channels_last_3d)
        clips = torch.randn(case[0], 3, *case[1:], case[2])
        gap, flops = output_gap(case), operations(theirs, clips)
        if gap > 1e-8:
            raise AssertionError(f"{name}: outputs differ by {gap} in double; wanted at most 1e-8")
        seconds = measure.in_turn(
            {
                "vidbench": step(ours, clips),
                "torchvision": step(theirs, clips),
                "torchvision, channels_last_3d": step(
                    last, clips.to(memory_format=torch.channels_last_3d)
                ),
                "sgemm": lambda: square @ square,
            },
            rounds=rounds,
        )
        gemm = [2 * SQUARE**3 / s for s in seconds.pop("sgemm")]
        share = {
            way: [flops / s / g for s, g in zip(times, gemm, strict=True)]
            for way, times in seconds.items()
        }
        for row in measure.rows(seconds, "vidbench", case=name, output_gap=f"{gap:.0e}"):
            table.append(
                {
                    **row,
                    "sgemm_share": measure.spread(share[row["contestant"]])[0],
                    "sgemm_gflops": round(statistics.median(gemm) / 1e9),
                }
            )
        speed = measure.ratios(seconds["torchvision"], seconds["vidbench"])
        goals.append(
            measure.goal("P6", f"S3D step, torchvision's time over ours, {name}", ">= 1.4", speed)
        )
        goals.append(
            measure.goal(
                "P6", f"S3D step, share of sgemm's rate, {name}", ">= 0.3", share["vidbench"]
            )
        )
        goals.append(
            measure.goal("P6", f"S3D outputs, relative difference, {name}", "<= 1e-4", gap)
        )
    return table + goals


def operations(net: torch.nn.Module, clips: torch.Tensor) -> int:
    """Floating point operations of a forward and backward pass, two a multiplication and
    addition."""
    with FlopCounterMode(display=False) as counter:
        net(clips).mean().backward()
    net.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def output_gap(case: tuple[int, int, int]) -> float:
    """Largest relative difference in training mode, in double: in float each is 1e-4 or more from
    its own double."""
    theirs, ours = (net.double() for net in networks())
    clips = torch.randn(case[0], 3, *case[1:], case[2], dtype=torch.double)
    with torch.no_grad():
        wanted, got = theirs.train()(clips), ours.train()(clips)
    return float((got - wanted).abs().max() / wanted.abs().max())


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """torchvision's and our backbone with the same weights."""
    torch.manual_seed(0)
    theirs, ours = s3d().features, models.build("s3d", norm_eps=1e-3, norm_momentum=1e-3)
    ours.features.load_state_dict(theirs.state_dict())
    return theirs, ours


def step(net: torch.nn.Module, clips: torch.Tensor):
    """One training step as a call without arguments."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        net(clips).mean().backward()
        optimizer.step()

    return run
