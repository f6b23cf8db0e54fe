"""S3D's training step on CPU, one thread: vidbench beside torchvision's S3D with the same weights.

A step is forward, backward and SGD. "channels_last_3d" is torchvision's network in that memory format. The last column
is the largest relative difference between the outputs of both networks in double precision, from the same run.
"""

from __future__ import annotations

import copy

import torch
from torchvision.models.video import s3d

from benchmarks import measure
from vidbench import models

CASES = {"8x64, batch 8": (8, 8, 64), "16x112, batch 2": (2, 16, 112), "32x128, batch 2": (2, 32, 128)}


def main() -> list[dict]:
    """A row for each case and contestant."""
    measure.one_thread()
    table = []
    for name, case in CASES.items():
        theirs, ours = networks()
        last = copy.deepcopy(theirs).to(memory_format=torch.channels_last_3d)
        clips = torch.randn(case[0], 3, *case[1:], case[2])
        gap = output_gap(case)
        if gap > 1e-8:
            raise AssertionError(f"{name}: outputs differ by {gap} in double; wanted at most 1e-8")
        seconds = measure.in_turn({
            "vidbench": step(ours, clips), "torchvision": step(theirs, clips),
            "torchvision, channels_last_3d": step(last, clips.to(memory_format=torch.channels_last_3d)),
        }, rounds=7)
        table += measure.rows(seconds, "vidbench", case=name, output_gap=f"{gap:.0e}")
    return table


def output_gap(case: tuple[int, int, int]) -> float:
    """Largest relative difference in training mode, in double: in float each is 1e-4 or more from its own double."""
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
