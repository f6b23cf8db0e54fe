"""Clip augmentation, one thread: vidbench beside per-frame PIL and torchvision's transforms.v2.

Clips of 32 frames 256x340 to 128, and toy clips. The full chain is random-resized crop, flip, brightness, contrast,
saturation, hue, Gaussian blur, normalise; "crop" leaves out jitter and blur. All contestants get the same drawn
parameters, several draws a round; v2's blur takes the 13 taps that ours has at sigma 2. The last column is the mean
difference to PIL in grey levels, from the same run.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional as pil
from torchvision.transforms.v2 import functional as v2

from benchmarks import measure
from vidbench.data import views

FRAMES, HEIGHT, WIDTH, DRAWS, GOAL = 32, 256, 340, 4, 3.5
MEAN, STD = views.MEAN, views.STD


def moving_clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A drifting, coloured, slightly noisy texture: uint8 [T,C,H,W] in a decoder's memory order."""
    rng = np.random.default_rng(seed)
    texture = cv2.normalize(cv2.GaussianBlur(rng.random((height, width + 2 * frames, 3)), (0, 0), 4), None, 0, 255, 32)
    clip = np.stack([texture[:, 2 * t : 2 * t + width] for t in range(frames)])
    return torch.from_numpy(np.clip(clip + rng.normal(0, 5, clip.shape), 0, 255).astype(np.uint8)).permute(0, 3, 1, 2)


def pil_chain(clip: torch.Tensor, view: views.View, size: int) -> torch.Tensor:
    """CoCLR's way: one PIL picture after the other."""
    top, left, height, width = view.box
    out = []
    for frame in clip.permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(frame).crop((left, top, left + width, top + height))
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        for name in view.order:
            picture = getattr(pil, f"adjust_{name}")(picture, getattr(view, name))
        if view.sigma:
            picture = picture.filter(ImageFilter.GaussianBlur(view.sigma))
        if view.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        out.append(pil.normalize(pil.to_tensor(picture), MEAN, STD))
    return torch.stack(out, 1)


def v2_chain(clip: torch.Tensor, view: views.View, size: int) -> torch.Tensor:
    """torchvision's tensors: uint8 [T,C,H,W], all frames in one call."""
    clip = v2.resized_crop(clip, *view.box, [size, size], antialias=True)
    for name in view.order:
        clip = getattr(v2, f"adjust_{name}")(clip, getattr(view, name))
    if view.sigma:
        clip = v2.gaussian_blur(clip, [13, 13], [view.sigma] * 2)
    if view.flip:
        clip = v2.horizontal_flip(clip)
    return v2.normalize(v2.to_dtype(clip, torch.float32, scale=True), MEAN, STD).transpose(0, 1)


def compare(case: str, clip: torch.Tensor, drawn: list[views.View], augment: views.Augment, rounds: int) -> list[dict]:
    """Rows of one case; a round runs every draw once with every contestant."""
    ways = {
        "PIL per frame": lambda v: pil_chain(clip, v, augment.size),
        "transforms.v2": lambda v: v2_chain(clip, v, augment.size),
        "vidbench apply_batch (CPU)": lambda v: views.apply_batch(clip[None], [v], augment)[0],
        "vidbench apply": lambda v: views.apply(clip, v, augment),
    }
    calls = {name: lambda way=way: [way(v) for v in drawn] for name, way in ways.items()}
    seconds = {n: [s / len(drawn) for s in times] for n, times in measure.in_turn(calls, rounds).items()}
    table = measure.rows(seconds, "vidbench apply", case=case)
    scale = 255 * torch.tensor(STD).view(3, 1, 1, 1)
    for row in table:
        differences = [(ways[row["contestant"]](v) - ways["PIL per frame"](v)).mul(scale).abs().mean() for v in drawn]
        row["levels_from_pil"] = round(float(max(differences)), 2)
        if row["contestant"].startswith("vidbench") and row["levels_from_pil"] > 1.5:
            raise AssertionError(f"{row['contestant']} shows other pictures than PIL: {row}")
    return table


def main(rounds: int = 9) -> list[dict]:
    """The full chain, crops only, and a toy clip."""
    measure.one_thread()
    augment, rng = replace(views.SETTINGS["vidbench"], jitter_p=1.0, gray_p=0.0, blur_p=1.0), np.random.default_rng(0)
    clip = moving_clip(FRAMES, HEIGHT, WIDTH)
    drawn = [views.draw(augment, HEIGHT, WIDTH, FRAMES, rng) for _ in range(DRAWS)]
    crops = [views.View(v.frame_size, v.box, v.flip) for v in drawn]
    table = compare("full 32x256x340 to 128", clip, drawn, augment, rounds)
    full = next(row for row in table if row["contestant"] == "PIL per frame")
    table += compare("crop 32x256x340 to 128", clip, crops, augment, rounds)
    toy = replace(views.SETTINGS["toy"], jitter_p=1.0, gray_p=0.0, blur_p=1.0)
    drawn = [views.draw(toy, 64, 64, 8, rng) for _ in range(10 * DRAWS)]
    table += compare("full 8x64x64 to 48", moving_clip(8, 64, 64), drawn, toy, rounds)
    verdict = "reached" if full["over_ours"] >= GOAL else "MISSED"
    print(f"goal: full chain at least {GOAL} times as fast as PIL per frame: {full['over_ours']} ({verdict})")
    return table
