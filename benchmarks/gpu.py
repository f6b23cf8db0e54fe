"""What a GPU gives: S3D in several forms beside the card's bfloat16 product, CoCLR's steps, its
loader, TV-L1.

Wall time, synchronized; skipped where there is no CUDA device. Clips of CoCLR's size, 32 frames of
128 pixels, 32 in a batch, bfloat16 unless a row says otherwise. share_of_peak: operations of
forward and backward over those of a product of two 8192 x 8192 matrices in the same time.
"encoders" is the forward and backward pass of the query's and the forward passes of the other
encoders; what a step takes beside them is heads, queue, loss, optimizer and momentum. "fed" is
InfoNCE's step on batches that the loader's workers read from an mp4 store (drifting textures,
encoded here) and augment; "resident" is the same step on one batch that lies on the card."""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import footage, measure
from benchmarks.multitrain import matmul_rate, step
from benchmarks.rms import finished
from benchmarks.s3d import operations
from vidbench import models
from vidbench.data.prepare import store
from vidbench.methods import coclr
from vidbench.models.planes import PlaneConv3d

BATCH, FRAMES, SIZE = 32, 32, 128
VIDEOS, STEPS = 512, 32  # of the store; of a round of fed steps


def main(rounds: int = 7) -> list[dict]:
    """Rows of the forms, the steps, the loader and the flow; goals P7, G1 and G2."""
    if not torch.cuda.is_available():
        raise measure.Skip("no CUDA device")
    table, goals = [], []
    for part in (forms, steps, fed, flow):
        rows, found = part(rounds)
        table, goals = table + rows, goals + found
    return table + goals


def timed(seconds: dict[str, list[float]], ours: str, case: str, clips: int = BATCH) -> list[dict]:
    """Rows with clips a second."""
    rows = measure.rows(seconds, ours, case=case)
    return [
        {**row, "clips_per_s": round(clips / statistics.median(seconds[row["contestant"]]), 1)}
        for row in rows
    ]


# ---- S3D ---------------------------------------------------------------------------------------


def forms(rounds: int) -> tuple[list[dict], list[dict]]:
    """A training step of S3D as it stands, in float32, with conv3d in both memory formats."""
    calls = {
        "vidbench": form(),
        "vidbench, float32": form(precise=True),
        "conv3d": form(plain=True),
        "conv3d, channels_last_3d": form(torch.channels_last_3d, plain=True),
    }
    seconds = measure.in_turn(calls, rounds, clock=time.perf_counter)
    work = (
        operations(models.build("s3d").cuda(), torch.randn(2, 3, FRAMES, SIZE, SIZE, device="cuda"))
        / 2
    )
    rate = matmul_rate(torch.device("cuda"))
    rows = timed(seconds, "vidbench", f"S3D, {BATCH} clips {FRAMES}x{SIZE}")
    for row in rows:
        row["share_of_peak"] = round(row["clips_per_s"] * work / rate, 3)
        row["peak_tflops"] = round(rate / 1e12)
    shares = [BATCH / s * work / rate for s in seconds["vidbench"]]
    return rows, [
        measure.goal("G2", "S3D's step, share of the card's bfloat16 product", ">= 0.25", shares)
    ]


def form(
    layout: torch.memory_format = torch.contiguous_format,
    plain: bool = False,
    precise: bool = False,
) -> Callable:
    """A step of S3D and AdamW. plain: each convolution as conv3d; precise: float32 (cuDNN may use
    TF32)."""
    torch.manual_seed(0)
    net = models.build("s3d").cuda().to(memory_format=layout)
    clips = torch.randn(BATCH, 3, FRAMES, SIZE, SIZE, device="cuda").to(memory_format=layout)
    for conv in net.modules():
        if plain and isinstance(conv, PlaneConv3d):
            conv.devices = ()

    def loss() -> torch.Tensor:
        with torch.autocast("cuda", enabled=not precise, dtype=torch.bfloat16):
            return net(clips).float().mean()

    return step(net, loss)


# ---- CoCLR -------------------------------------------------------------------------------------


def steps(rounds: int) -> tuple[list[dict], list[dict]]:
    """A step of InfoNCE and one of CoCLR beside their encoders'."""
    table, goals = [], []
    for name, positives in (("InfoNCE", "instance"), ("CoCLR", "mined")):
        method, whole, batch = trained(positives)
        seconds = measure.in_turn(
            {
                name: lambda whole=whole, batch=batch: whole(batch),
                "encoders": lambda method=method, batch=batch: encoders(method, batch),
            },
            rounds,
            clock=time.perf_counter,
        )
        torch.cuda.reset_peak_memory_stats()
        whole(batch)
        rows = timed(seconds, name, f"{name}'s step, {BATCH} pairs of clips {FRAMES}x{SIZE}")
        rows[0]["GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        beside = [1 - one for one in measure.ratios(seconds["encoders"], seconds[name])]
        goals.append(
            measure.goal(
                "P7", f"share of a step beside the encoders on a GPU, {name}", "<= 0.05", beside
            )
        )
        table += rows
    return table, goals


def recipe(**changes) -> coclr.Recipe:
    alone = coclr.PRESETS["ucf101_paper"].alone
    return replace(
        alone, fit=replace(alone.fit, batch=BATCH, workers=max(1, measure.cores() - 2)), **changes
    )


def trained(positives: str) -> tuple[coclr.CoCLR, Callable, dict]:
    """The method with a full queue, its step on a batch, a batch."""
    torch.manual_seed(0)
    method, device = coclr.CoCLR(recipe(positives=positives)).cuda().train(), torch.device("cuda")
    ids = torch.arange(method.recipe.queue, device=device)
    rows = nn.functional.normalize(torch.randn(len(ids), method.recipe.dim, device=device), dim=1)
    method.queue.enqueue(rows, ids, ids, rows if positives == "mined" else None)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)

    def whole(batch: dict) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss, _ = method(batch)
        loss.backward()
        optimizer.step()
        method.after_step()
        finished(loss)

    batch = {
        stream: torch.randn(BATCH, 2, 3, FRAMES, SIZE, SIZE, device=device)
        for stream in coclr.OTHER
    }
    return (
        method,
        whole,
        batch | {name: torch.arange(BATCH, device=device) for name in ("label", "source_video")},
    )


def encoders(method: coclr.CoCLR, batch: dict) -> None:
    """Forward and backward of the query encoder, forward of the others."""
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = method.encoder(batch["rgb"][:, 0]).float().mean()
        with torch.no_grad():
            method.key_encoder(batch["rgb"][:, 1])
            if method.teacher is not None:
                method.teacher[0](batch["flow"][:, 1])
    loss.backward()
    finished(loss)


# ---- loader ------------------------------------------------------------------------------------


def fed(rounds: int) -> tuple[list[dict], list[dict]]:
    """InfoNCE's step on what the loader gives, beside a resident batch; the loader alone."""
    _, whole, batch = trained("instance")
    with tempfile.TemporaryDirectory() as scratch:
        loader = coclr.loader(recipe(manifest=str(videos(Path(scratch))), held_out=0.0))
        batches = endless(loader)
        calls = {
            "resident": lambda: [whole(batch) for _ in range(STEPS)],
            "loader alone": lambda: drain(batches),
            "fed": lambda: [whole(on_card(next(batches))) for _ in range(STEPS)],
        }
        seconds = measure.in_turn(calls, min(rounds, 3), clock=time.perf_counter)
    workers = loader.num_workers
    rows = timed(
        seconds,
        "resident",
        f"InfoNCE, {workers} workers, mp4 store of short side {SIZE}",
        BATCH * STEPS,
    )
    speed = measure.ratios(seconds["resident"], seconds["fed"])
    return rows, [
        measure.goal(
            "G1",
            f"InfoNCE fed by {workers} workers over the same step on a resident batch",
            ">= 0.9",
            speed,
        )
    ]


def videos(folder: Path) -> Path:
    """The manifest of VIDEOS stored videos of eight seconds."""
    sources = [footage.encode(folder / f"{number}.mp4", number) for number in range(4)]
    stored = store.store(
        footage.manifest(sources), folder / "store", "mp4", progress=False
    ).manifest
    copies = [folder / "copies" / f"{number}.mp4" for number in range(VIDEOS)]
    copies[0].parent.mkdir()
    for copy, path in zip(copies, itertools.cycle(stored.path), strict=False):
        shutil.copy(Path(stored.root) / str(path), copy)
    footage.manifest(copies).save(folder / "videos")
    return folder / "videos"


def endless(loader) -> Iterator[dict]:
    for epoch in itertools.count():
        loader.batch_sampler.epoch = epoch
        yield from loader


def drain(batches: Iterator[dict]) -> None:
    for _ in range(STEPS):
        next(batches)


def on_card(batch: dict) -> dict:
    return {name: value.cuda(non_blocking=True) for name, value in batch.items()}


# ---- flow --------------------------------------------------------------------------------------


def flow(rounds: int, pairs: int = 4, batch: int = 512) -> tuple[list[dict], list[dict]]:
    """tvl1_torch, wall time a pair, beside OpenCV's default TV-L1 on one core, CPU time a pair,
    where OpenCV has it."""
    import cv2

    from vidbench.data.flow import estimate as flow
    from vidbench.data.flow import tvl1

    frames = footage.moving(pairs + 1, SIZE, SIZE)
    gray = torch.from_numpy(np.stack([flow.to_gray(frame) for frame in frames])).cuda()
    many = gray.repeat(-(-batch // len(gray)) + 1, 1, 1)[: batch + 1]
    times = measure.in_turn(
        {"gpu": lambda: finished(tvl1.estimate(many[:-1], many[1:]))},
        min(rounds, 3),
        clock=time.perf_counter,
    )["gpu"]
    row = {
        "case": f"TV-L1, {batch} pairs {SIZE}x{SIZE}",
        "contestant": "tvl1_torch",
        "rounds": len(times),
        "ms": round(1e3 * statistics.median(times), 1),
        "ms_per_pair": round(1e3 * statistics.median(times) / batch, 4),
    }
    if hasattr(cv2, "optflow"):
        default = measure.in_turn({"cpu": lambda: flow.estimate(frames, "tvl1")}, len(times))["cpu"]
        ratios = [one / pairs / (s / batch) for one, s in zip(default, times, strict=True)]
        gap = np.linalg.norm(
            tvl1.estimate(gray[:-1], gray[1:]).cpu().numpy() - flow.estimate(frames, "tvl1"),
            axis=-1,
        )
        row |= {
            "times_as_fast_as_a_core": measure.spread(ratios)[0],
            "epe": round(float(gap.mean()), 4),
        }
    return [row], []
