"""What a CoCLR training step on a CPU costs besides its encoders, one thread: loss, queue, momentum,
optimizer, log.

Steps of the toy preset (a small network on small clips), and of CoCLR's S3D on fewer pixels than
its own, as `fit` runs them, on a batch that is ready in memory and with a full queue. Hooks note
the CPU time of each encoder's forward pass, of the backward pass from the gradient that reaches the
query encoder to its last parameter's, of the optimizer and of the momentum update; "rest" is
everything else in a step: shuffling keys, heads, loss, queue, mining, log. Saving a checkpoint,
once an epoch, is outside."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from benchmarks import measure
from vidbench.data.loading.dataset import Batches
from vidbench.engine.loop import fit
from vidbench.engine.runs import Run
from vidbench.methods import coclr

IN_SETS = True
PARTS = ("encoders", "optimizer", "momentum", "rest")
clock = time.process_time


class Ready:
    """A loader of one batch in memory; for each epoch it keeps the CPU seconds of the
    parts of a step."""

    def __init__(self, recipe: coclr.Recipe, steps: int, spans: Spans) -> None:
        size, frames, views = recipe.clip.augment.size, recipe.clip.frames, recipe.clip.views
        rows, draw = recipe.fit.batch, torch.Generator().manual_seed(0)
        self.batch = {
            s: torch.randn(rows, views, 3, frames, size, size, generator=draw) for s in coclr.OTHER
        }
        self.batch |= {name: torch.arange(rows) for name in ("label", "source_video", "row")}
        self.batch_sampler, self.spans = Batches(rows * steps, rows, seed=0), spans
        self.epochs: list[dict[str, float]] = []

    def __iter__(self):
        self.spans.seconds.clear()
        whole = 0.0
        for _ in self.batch_sampler:
            began = clock()
            yield self.batch
            whole += clock() - began
        parts = {part: self.spans.seconds[part] for part in PARTS[:-1]}
        parts["rest"] = whole - sum(parts.values())
        self.epochs.append(
            {part: seconds / len(self.batch_sampler) for part, seconds in parts.items()}
        )


class Spans:
    """CPU seconds between two events of a step, by the part they belong to."""

    def __init__(self, method: coclr.CoCLR) -> None:
        self.seconds: Counter = Counter()
        self.began = 0.0
        for encoder in (method.encoder, method.key_encoder, *(method.teacher or ())[:1]):
            encoder.register_forward_pre_hook(self.begin)
            encoder.register_forward_hook(lambda *_: self.end("encoders"))
        # the gradient reaches the query encoder, goes through it, and ends at its parameters, one
        # after the other
        method.encoder.register_forward_hook(
            lambda module, inputs, output: output.register_hook(self.begin) and None
        )
        for parameter in method.encoder.parameters():
            parameter.register_post_accumulate_grad_hook(lambda _: self.end("encoders"))
        self.handles = [
            register_optimizer_step_pre_hook(self.begin),
            register_optimizer_step_post_hook(lambda *_: self.end("optimizer")),
        ]
        update = method.after_step

        def after_step() -> None:
            self.begin()
            update()
            self.end("momentum")

        method.after_step = after_step

    def begin(self, *_) -> None:
        self.began = clock()

    def end(self, part: str) -> None:
        now = clock()
        self.seconds[part] += now - self.began
        self.began = now  # the next parameter's gradient starts here


def cases() -> dict[str, tuple[coclr.Recipe, int]]:
    """name -> (recipe, steps in a round)."""
    toy, paper = coclr.PRESETS["toy"].alone, coclr.PRESETS["ucf101_paper"].alone
    clip = replace(paper.clip, frames=16, augment=replace(paper.clip.augment, size=112))
    smaller = replace(paper, clip=clip, fit=replace(paper.fit, batch=4, workers=0))
    return {
        "toy, InfoNCE": (toy, 11),
        "toy, CoCLR": (replace(toy, positives="mined"), 11),
        "S3D 4x16x112, InfoNCE": (smaller, 1),
    }


def main(rounds: int = 9, chosen: dict[str, tuple[coclr.Recipe, int]] | None = None) -> list[dict]:
    """A row for each case and part of a step, and goal P7."""
    measure.one_thread()
    table, goals = [], []
    for name, (recipe, steps) in (chosen or cases()).items():
        found = epochs(recipe, rounds, steps)
        whole = [sum(parts.values()) for parts in found]
        for part in PARTS:
            times = [parts[part] for parts in found]
            middle, low, high = measure.spread(measure.ratios(times, whole))
            table.append(
                {
                    "case": name,
                    "part": part,
                    "ms": round(1e3 * measure.spread(times, 4)[0], 2),
                    "share_of_step": middle,
                    "min": low,
                    "max": high,
                    "rounds": rounds,
                }
            )
        overhead = [
            1 - parts["encoders"] / all_of_it for parts, all_of_it in zip(found, whole, strict=True)
        ]
        goals.append(
            measure.goal("P7", f"share of a step besides the encoders, {name}", "<= 0.03", overhead)
        )
    return table + goals


def epochs(recipe: coclr.Recipe, rounds: int, steps: int) -> list[dict[str, float]]:
    """Seconds of each part of a step, for each epoch after the first."""
    torch.manual_seed(0)
    fitting = replace(recipe.fit, epochs=1 + rounds, save_every=1 + rounds, log_every=steps)
    method, ids = coclr.CoCLR(recipe), torch.arange(recipe.queue)
    rows = torch.nn.functional.normalize(torch.randn(recipe.queue, recipe.dim), dim=1)
    method.queue.enqueue(rows, ids, ids, rows if recipe.positives == "mined" else None)
    spans = Spans(method)
    loader = Ready(recipe, steps, spans)
    with tempfile.TemporaryDirectory() as scratch:
        fit(
            method,
            loader,
            fitting,
            Run.create(Path(scratch) / "run", "coclr", replace(recipe, fit=fitting)),
            "none",
        )
    for handle in spans.handles:
        handle.remove()
    return loader.epochs[1:]
