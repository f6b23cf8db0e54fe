"""A training step must not wait for the GPU: it reads nothing from it, and no copy blocks.

The meta device replaces the GPU: its tensors have no values. Each operation for which a CUDA
device would make the host wait is recorded with the line of vidbench that calls it. The GradScaler
is not tested, because it is off here."""

import traceback
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vidbench.data.loading.augmentation import PRESETS, draw
from vidbench.data.loading.batched import collate, finish, pack
from vidbench.engine import loop, ranks
from vidbench.engine.prefetch import moved
from vidbench.methods import classify, coclr, multitrain
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import Regularizer

aten = torch.ops.aten
CARD = torch.device("meta")
SIZED_BY_VALUES = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}


class Waits(TorchDispatchMode):
    """Counts operations after which the host waits for the GPU; reads of CPU tensors are free."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op is aten._local_scalar_dense.default:
            if args[0].is_meta:
                self.note(op)
                return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 0.25)
        if op is aten._to_copy.default:
            aim = torch.device(kwargs.get("device") or args[0].device)
            if aim.type != args[0].device.type and not kwargs.get("non_blocking"):
                self.note(op)
        if op is aten.copy_.default and args[0].device.type != args[1].device.type:
            if not (args[2:] and args[2]) and not kwargs.get("non_blocking"):
                self.note(op)
        on_card = [one for one in args if isinstance(one, torch.Tensor) and one.is_meta]
        if on_card and op in SIZED_BY_VALUES:
            self.note(op)
        if op is aten.index.Tensor and on_card:
            if any(one is not None and one.dtype == torch.bool for one in args[1]):
                self.note(op)
        return op(*args, **kwargs)

    def note(self, op):
        lines = [line for line in traceback.extract_stack() if "/vidbench/" in line.filename]
        where = f"{lines[-1].filename.rpartition('/vidbench/')[2]}:{lines[-1].lineno}"
        self.found.append(f"{op} at {where}: {lines[-1].line}")


TINY = coclr.PRESETS["tiny"].alone
FIT = replace(TINY.fit, batch=4, accumulate=2, clip_norm=1.0, optimizer="sgd")
CLIP = replace(TINY.clip, frames=8)
CLASSES = ("bow", "kick", "wave")
PARTS = tuple(multitrain.Part(name, "m", classes=CLASSES) for name in ("one", "two"))
MIXINGS = (Mixing("cutmix"), Mixing("mixup", each=True))

RECIPES = {
    "infonce": (coclr.CoCLR, TINY),
    "ubernce": (coclr.CoCLR, replace(TINY, positives="class", drop_own_key=0.5)),
    "coclr": (coclr.CoCLR, replace(TINY, positives="mined", siblings="ignore", topk=2)),
    "rms": (
        classify.Classifier,
        classify.Recipe(
            network="csn",
            network_args={"width": 0.125, "blocks": (1, 1, 1, 1)},
            regularizer=Regularizer("rms"),
            classes=CLASSES,
            mixing=MIXINGS,
            label_smoothing=0.1,
        ),
    ),
    "multitrain": (
        multitrain.MultiTrain,
        replace(
            multitrain.PRESETS["tiny"],
            parts=PARTS,
            mixing=MIXINGS,
            projection=0.3,
            informative=0.01,
        ),
    ),
}


def batch_of(size=4):
    views = torch.zeros(size, 2, 3, 8, 48, 48)
    names = ("label", "source_video", "row", "dataset")
    return {"rgb": views, "flow": views, **{name: torch.arange(size) % 2 for name in names}}


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_does_not_wait_for_the_gpu(name, tmp_path, monkeypatch):
    build, recipe = RECIPES[name]
    monkeypatch.setattr(ranks, "device", lambda: CARD)
    autocast = torch.autocast  # which the meta device lacks
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *rest, **more: autocast("cpu", *rest, **more)
    )
    method = build(recipe).train().to(CARD)
    if isinstance(method, coclr.CoCLR):
        method.queue._enqueued = recipe.queue  # as after the first step
    loader = SimpleNamespace(batch_sampler=range(10))
    run = SimpleNamespace(folder=tmp_path)
    trainer = loop._Trainer(method, loader, FIT, run, "none", None)
    with Waits() as waits:
        trainer.one_step(moved(batch_of(), CARD))
    assert not waits.found, "\n".join(waits.found)


def test_augmentation_on_the_gpu_does_not_wait_for_it():
    """With every operation: jitter, gray of both kinds, blur, flip, lighting, erasing."""
    rng, samples = np.random.default_rng(0), []
    frames = torch.zeros(8, 3, 60, 80, dtype=torch.uint8)
    for gray in ("luma", "channel") * 4:
        augment = replace(PRESETS["toy"], strong=1.0, jitter_p=1.0, gray=gray, gray_p=0.5)
        augment = replace(augment, blur_p=0.8, erase=0.8, lighting=0.1)
        drawn = [(frames, draw(augment, 60, 80, 8, rng)) for _ in range(2)]
        samples.append(pack(drawn, augment, "rgb") | pack(drawn, augment, "flow"))
    batch = collate([sample | {"row": row} for row, sample in enumerate(samples)])
    with Waits() as waits:
        made = finish(batch, CARD, torch.bfloat16)
    assert not waits.found, "\n".join(waits.found)
    assert {name: (one.shape, one.dtype, one.is_meta) for name, one in made.items()} == {
        **dict.fromkeys(("rgb", "flow"), ((8, 2, 3, 8, 48, 48), torch.bfloat16, True)),
        "row": ((8,), torch.int64, True),
    }
