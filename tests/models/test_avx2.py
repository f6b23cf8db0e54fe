"""Training on a CPU without AVX-512: child processes in which oneDNN and PyTorch may use AVX2 only.

oneDNN's backward pass of a strided 1x1 convolution corrupts memory there (uxlfoundation/oneDNN
issue 6035), so each of these jobs has a process that may crash alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests import ROOT
from vidbench import models
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, recipe_dict
from vidbench.methods import classify, coclr, multitrain
from vidbench.models.planes import PlaneConv3d

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def child(job: str, *words: str, **environment: str):
    """Run a function of this module in a separate process and return what it gives."""
    code = f"import json, sys; from tests.models.test_avx2 import {job}; print(json.dumps({job}(*sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def smallest_case() -> float:
    """Relative error of the weight gradient of 4 channels into 8, stride 2, compared with double
    precision."""
    torch.manual_seed(0)
    conv = torch.nn.Sequential(torch.nn.Conv3d(4, 8, 1, (1, 2, 2), bias=False))
    PlaneConv3d.adopt(conv)
    weight, clips, grad = conv[0].weight, torch.randn(48, 4, 1, 8, 8), torch.randn(48, 8, 1, 4, 4)
    for _ in range(20):  # the heap is checked when memory is freed, so one pass may survive
        (found,) = torch.autograd.grad(conv(clips), weight, grad)
    right = F.conv3d(clips.double(), weight.double(), stride=(1, 2, 2))
    (right,) = torch.autograd.grad(right, weight, grad.double())
    return float((found - right).abs().max() / right.abs().max())


def small_slowonly() -> list[float]:
    """The losses of 30 steps on 12 clips of 4x32x32."""
    torch.manual_seed(0)
    net = models.build("slowonly", depth=34, width=0.0625, blocks=(1, 1, 1, 1), stem_stride=2)
    head = torch.nn.Linear(net.out_channels, 3)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    clips, labels, losses = torch.randn(12, 3, 4, 32, 32), torch.arange(12) % 3, []
    for _ in range(30):
        loss = F.cross_entropy(head(net(clips).mean((2, 3, 4))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def short_runs(videos: str, folder: str) -> dict[str, list[float]]:
    """The losses of one epoch of every method's tiny preset on the videos of a manifest."""
    classes = Manifest.load(videos).classes
    part = multitrain.Part("toy", videos, classes)
    recipes = {
        "coclr": (coclr, replace(coclr.PRESETS["tiny"].alone, manifest=videos, queue=16)),
        "classify": (classify, replace(classify.PRESETS["tiny"], manifest=videos)),
        "rms": (classify, replace(classify.PRESETS["rms_tiny"], manifest=videos)),
        "multitrain": (
            multitrain,
            replace(multitrain.PRESETS["tiny"], parts=(part,), stream="rgb"),
        ),
    }
    losses = {}
    for name, (method, recipe) in recipes.items():
        recipe = replace(recipe, fit=replace(recipe.fit, epochs=1, batch=8, workers=0, log_every=1))
        method.train(recipe_dict(recipe), f"{folder}/{name}", "none")
        losses[name] = Run(f"{folder}/{name}").curves()["loss"]
    return losses


def test_the_smallest_case_is_right():
    assert child("smallest_case", **AVX2) < 1e-4


@pytest.mark.slow
def test_a_small_slowonly_trains_as_with_any_cpu():
    narrow, wide = child("small_slowonly", **AVX2), child("small_slowonly")
    assert narrow[:5] == pytest.approx(wide[:5], rel=1e-3) and narrow[-1] < narrow[0] / 2


@pytest.mark.slow
def test_every_methods_tiny_preset_trains_as_with_any_cpu(toy_tiny, tmp_path):
    rows = np.flatnonzero(toy_tiny.split == 0)[::3]
    toy_tiny.select(mask=rows).save(tmp_path / "videos")
    narrow = child("short_runs", str(tmp_path / "videos"), str(tmp_path / "narrow"), **AVX2)
    wide = child("short_runs", str(tmp_path / "videos"), str(tmp_path / "wide"))
    for name, losses in wide.items():
        assert len(losses) >= 5 and len(narrow[name]) == len(losses), name
        assert narrow[name][:5] == pytest.approx(losses[:5], rel=0.02), name  # then rounding grows
