"""A step of MultiTrain and the step of its backbone with one linear head, with and without
activation checkpointing.

One thread on a CPU, with the tiny MViTv2 and three toy label spaces; on a GPU the paper's net, 32
frames of 224 pixels, 400, 305 and 174 classes in bfloat16, then wall time, synchronized, the GPU's
peak memory, the share of a large matrix product's rate that forward and backward reach (three
times the forward's multiply-adds), and the step without Triton kernels. The paper reports 75.2 clips/s
on 8 V100 in training from scratch (supplement, 2.3)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure
from benchmarks.rms import clock, finished
from benchmarks.switches import no_kernels
from vidbench import models
from vidbench.methods import multitrain
from vidbench.methods.multitrain import MultiTrain, Part

ON_GPU = True  # with results of their own there
SPACES = {"cpu": (12, 10, 11), "cuda": (400, 305, 174)}
ARMS = {
    "jointly": {"projection": 0.0, "informative": 0.0},
    "projection": {"informative": 0.0},
    "informative": {"projection": 0.0},
    "both": {},
}


def main(rounds: int = 7, clips: int = 8) -> list[dict]:
    """Rows of the steps, and goals P20 and P21. clips: in a batch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        measure.one_thread()
    recipe = multitrain.PRESETS["released" if device.type == "cuda" else "toy"]
    if device.type == "cpu":
        recipe = replace(recipe, network_args={"preset": "tiny"})  # 8 frames of 64 pixels
    parts = tuple(
        Part(f"set {number}", "", tuple(map(str, range(count))))
        for number, count in enumerate(SPACES[device.type])
    )
    recipe = replace(
        recipe, parts=parts, stream="rgb", mixing=(), expander=(recipe.expander[0], 32)
    )
    form = models.build("mvit", **recipe.network_args).form
    batch = {
        "rgb": torch.randn(clips, 1, 3, form.frames, form.size, form.size, device=device),
        "dataset": torch.arange(clips, device=device) % 3,
        "label": torch.arange(clips, device=device) % 10,
    }
    calls = {"backbone, one linear head": plain(recipe, batch)}
    calls |= {
        f"MultiTrain, {arm}": joint(replace(recipe, **changes), batch)
        for arm, changes in ARMS.items()
    }
    lean = {**recipe.network_args, "checkpointing": True}
    calls["MultiTrain, both, checkpointing"] = joint(replace(recipe, network_args=lean), batch)
    if device.type == "cuda":
        calls["MultiTrain, both, without Triton kernels"] = no_kernels()(calls["MultiTrain, both"])
    seconds = measure.in_turn(calls, rounds=rounds, clock=clock())
    table = measure.rows(
        seconds, "backbone, one linear head", case=f"{list(batch['rgb'].shape)}, {device.type}"
    )
    for row in table:
        row["clips_per_s"] = round(clips / statistics.median(seconds[row["contestant"]]), 2)
        if device.type == "cuda":
            row["GiB"] = peak(calls[row["contestant"]])
            row["share_of_peak"] = round(
                row["clips_per_s"] * work(recipe, form) / matmul_rate(device), 3
            )
    share = measure.ratios(seconds["MultiTrain, both"], seconds["MultiTrain, jointly"])
    goals = [
        measure.goal(
            "P21", "MultiTrain's step with both losses over plain joint training", "<= 1.1", share
        )
    ]
    if device.type == "cpu":
        goals.append(
            measure.goal(
                "P20",
                "CPU seconds of a step of 8 clips, tiny MViTv2, both losses",
                "<= 0.3",
                seconds["MultiTrain, both"],
            )
        )
    return table + goals


def plain(recipe: multitrain.Recipe, batch: dict) -> Callable:
    """A supervised step of the same backbone."""
    torch.manual_seed(0)
    net = models.build(recipe.network, **recipe.network_args).to(batch["rgb"].device)
    head = models.build_head("linear", net.out_channels, len(recipe.parts[0].classes)).to(
        batch["rgb"].device
    )

    def loss() -> torch.Tensor:
        return F.cross_entropy(
            head(net(batch["rgb"].flatten(0, 1)).mean(dim=(2, 3, 4))), batch["label"]
        )

    return step(torch.nn.ModuleList([net, head]), loss)


def joint(recipe: multitrain.Recipe, batch: dict) -> Callable:
    """A step of MultiTrain."""
    torch.manual_seed(0)
    method = MultiTrain(recipe).to(batch["rgb"].device)
    return step(method, lambda: method(batch)[0])


def step(module: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable:
    """One training step, forward, backward and AdamW, as a call without arguments; bfloat16 on a
    GPU."""
    optimizer, device = (
        torch.optim.AdamW(module.train().parameters(), lr=1e-5),
        next(module.parameters()).device,
    )

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss()
        value.backward()
        optimizer.step()
        finished(value)

    return run


def peak(call: Callable) -> float:
    """GiB of the GPU at most during a step, the weights of all contestants among them."""
    torch.cuda.reset_peak_memory_stats()
    call()
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def work(recipe: multitrain.Recipe, form) -> float:
    """Floating-point operations of one clip, forward and backward."""
    with torch.device("meta"):
        net = models.build(recipe.network, **recipe.network_args)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, form.frames, form.size, form.size, device="meta"))
    return 3.0 * counter.get_total_flops()


def matmul_rate(device: torch.device, side: int = 8192, times: int = 20) -> float:
    """Floating-point operations a second of a large bfloat16 product: what this GPU does at
    best."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    a @ a
    finished(a)
    began = time.perf_counter()
    for _ in range(times):
        a @ a
    finished(a)
    return 2.0 * side**3 * times / (time.perf_counter() - began)
