"""What a GPU gives: S3D in several forms and the card's bfloat16 product, CoCLR's steps, its
loader, TV-L1.

Wall time, synchronized; skipped where there is no CUDA device. Clips of CoCLR's size, 32 frames of
128 pixels, 32 in a batch, bfloat16 unless a row says otherwise. share_of_peak: operations of
forward and backward over those of a product of two 8192 x 8192 matrices in the same time.
"encoders" is the forward and backward pass of the query's and the forward passes of the other
encoders; what a step takes besides them is heads, queue, loss, optimizer and momentum. "fed" is
InfoNCE's step on batches that the loader's workers read, augmented by them or on the card;
"resident" is the same step on one batch that stays on the card. Parts, each at most ten minutes,
alone with --part: forms (S3D compared with torchvision's layout), networks and compiled
(benchmarks/switches.py), steps (of InfoNCE and CoCLR), fed, training (InfoNCE on frames and flow,
then CoCLR), flow. fed and training read clips that `python -m benchmarks.travel` makes beforehand,
on a machine that can encode videos."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import footage, measure, switches, travel
from benchmarks.multitrain import matmul_rate, step
from benchmarks.rms import finished
from benchmarks.s3d import operations
from vidbench import models
from vidbench.data.loading import batched
from vidbench.engine.prefetch import moved, prepared
from vidbench.methods import coclr
from vidbench.models.planes import PlaneConv3d

BATCH, FRAMES, SIZE = 32, 32, 128
STEPS = 32  # of a round of fed steps
PARTS = ("forms", "networks", "compiled", "steps", "fed", "training", "flow")


def main(rounds: int = 7, part: str = "") -> list[dict]:
    """Rows of the parts, or of one, and goals P7, G1 and G2."""
    parts = dict(zip(PARTS, (forms, networks, compiled, steps, fed, training, flow), strict=True))
    if not torch.cuda.is_available():
        raise measure.Skip("no CUDA device")
    table, goals = [], []
    for run in [parts[part]] if part else parts.values():
        try:
            rows, found = run(rounds)
        except measure.Skip as reason:  # the clips were not brought along
            print(f"{run.__name__} is skipped: {reason}")
            continue
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
    """A training step of unchanged S3D, in float32, with conv3d in both memory formats."""
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


def networks(rounds: int) -> tuple[list[dict], list[dict]]:
    """The networks with all switches and without each."""
    return switches.main(rounds), []


def compiled(rounds: int) -> tuple[list[dict], list[dict]]:
    """The networks compiled, which takes one to three minutes each, compared with the same networks eager."""
    return switches.main(rounds, only=frozenset({switches.ALL.name, switches.COMPILED.name})), []


# ---- CoCLR -------------------------------------------------------------------------------------


def steps(rounds: int) -> tuple[list[dict], list[dict]]:
    """A step of InfoNCE and one of CoCLR, compared with their encoders'."""
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
        rest = [1 - one for one in measure.ratios(seconds["encoders"], seconds[name])]
        goals.append(
            measure.goal(
                "P7", f"share of a step besides the encoders on a GPU, {name}", "<= 0.05", rest
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
    """InfoNCE's step on what the loader gives, compared with a resident batch; the batches alone. Twice:
    augmented by the workers, and on the card."""
    _, whole, batch = trained("instance")
    table, goals = [], []
    with tempfile.TemporaryDirectory() as scratch:
        clips = travel.many(travel.FOLDER, Path(scratch))
        for where in ("workers", "device"):
            one = recipe(manifest=str(clips.manifest), held_out=0.0)
            one = replace(one, fit=replace(one.fit, augment_on=where))
            loader = coclr.loader(one)
            batches = endless(loader, where)
            calls = {
                "resident": lambda: [whole(batch) for _ in range(STEPS)],
                "batches alone": lambda given=batches: drain(given),
                "fed": lambda given=batches: [whole(next(given)) for _ in range(STEPS)],
            }
            seconds = measure.in_turn(calls, min(rounds, 3), clock=time.perf_counter)
            loader._iterator._shutdown_workers()
            case = f"InfoNCE, {loader.num_workers} workers, augmented on {where}"
            store = f"jpeg store of short side {SIZE}"
            table += timed(seconds, "resident", f"{case}, {store}", BATCH * STEPS)
            speed = measure.ratios(seconds["resident"], seconds["fed"])
            over = "over the same step on a resident batch"
            goals.append(measure.goal("G1", f"{case}, {over}", ">= 0.9", speed))
    return table, goals


def endless(loader, where: str) -> Iterator[dict]:
    """Batches on the card, one ahead of the step."""
    ready = {"workers": moved, "device": partial(batched.finish, dtype=torch.bfloat16)}
    for epoch in itertools.count():
        loader.batch_sampler.epoch = epoch
        yield from prepared(loader, torch.device("cuda"), ready[where])


def drain(batches: Iterator[dict]) -> None:
    for _ in range(STEPS):
        next(batches)
    torch.cuda.synchronize()


# ---- training ----------------------------------------------------------------------------------


def training(rounds: int) -> tuple[list[dict], list[dict]]:
    """A run of each of CoCLR's stages from the store to the last checkpoint."""
    alone = recipe(held_out=0.0, queue=512)
    short = replace(alone, fit=replace(alone.fit, epochs=6, schedule="constant", log_every=5))
    with tempfile.TemporaryDirectory() as scratch:
        clips = travel.many(travel.FOLDER, Path(scratch))
        rows = travel.stages(short, clips, Path(scratch) / "runs")
    shares = [row["data_share"] for row in rows]
    return rows, [
        measure.goal("G1", "share of a run's time that waits for the loader", "<= 0.1", shares)
    ]


# ---- flow --------------------------------------------------------------------------------------


def flow(rounds: int, pairs: int = 4, batch: int = 512) -> tuple[list[dict], list[dict]]:
    """tvl1_torch, wall time a pair, compared with OpenCV's default TV-L1 on one core, CPU time a pair,
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
