"""Clip augmentation, one thread: vidbench, per-frame PIL, torchvision's transforms.v2 and
kornia.

Clips of 32 frames 256x340 to 128, and toy clips. The full chain is random-resized crop, flip,
brightness, contrast, saturation, hue, Gaussian blur, normalize; "crop" leaves out jitter and blur.
All contestants get the same drawn parameters, several draws a round; v2's and kornia's blur takes
the 13 taps that ours has at sigma 2. The last column is the mean difference to PIL in gray levels,
from the same run. kornia works on floats with its own functions of PIL's blends, and does not
smooth before it makes pictures smaller, as its RandomResizedCrop (which draws by itself)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional as pil
from torchvision.transforms.v2 import functional as v2

from benchmarks import footage, measure
from vidbench.data.loading import batched, transforms
from vidbench.data.loading.augmentation import PRESETS, Augment, View, draw

IN_SETS = True
FRAMES, HEIGHT, WIDTH, DRAWS = 32, 256, 340, 4
WANTED = {"PIL per frame": ">= 3.5", "kornia": ">= 4.5", "transforms.v2": ">= 6"}
OURS = "vidbench apply"
MEAN, STD = transforms.MEAN, transforms.STD


def moving_clip(frames: int, height: int, width: int) -> torch.Tensor:
    """uint8 [T,C,H,W] in a decoder's memory order."""
    return torch.from_numpy(footage.moving(frames, height, width)).permute(0, 3, 1, 2)


def pil_chain(clip: torch.Tensor, view: View, size: int) -> torch.Tensor:
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


def v2_chain(clip: torch.Tensor, view: View, size: int) -> torch.Tensor:
    """torchvision's tensors: uint8 [T,C,H,W], all frames in one call."""
    clip = v2.resized_crop(clip, *view.box, [size, size], antialias=True)
    for name in view.order:
        clip = getattr(v2, f"adjust_{name}")(clip, getattr(view, name))
    if view.sigma:
        clip = v2.gaussian_blur(clip, [13, 13], [view.sigma] * 2)
    if view.flip:
        clip = v2.horizontal_flip(clip)
    return v2.normalize(v2.to_dtype(clip, torch.float32, scale=True), MEAN, STD).transpose(0, 1)


def kornia_chain(clip: torch.Tensor, view: View, size: int) -> torch.Tensor:
    """kornia's functions, all frames in one call."""
    from kornia import enhance, filters, geometry

    adjust = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "saturation": enhance.adjust_saturation_with_gray_subtraction,
        "hue": lambda x, turn: enhance.adjust_hue(x, 2 * math.pi * turn),
    }
    top, left, height, width = view.box
    clip = clip[..., top : top + height, left : left + width].float() / 255
    clip = geometry.resize(clip, (size, size), align_corners=False)
    for name in view.order:
        clip = adjust[name](clip, getattr(view, name))
    if view.sigma:
        clip = filters.gaussian_blur2d(clip, (13, 13), (view.sigma, view.sigma))
    if view.flip:
        clip = geometry.hflip(clip)
    return enhance.normalize(clip, torch.tensor(MEAN), torch.tensor(STD)).transpose(0, 1)


def in_two_places(clip: torch.Tensor, view: View, augment: Augment) -> torch.Tensor:
    """A worker's part and the device's part, both on this CPU."""
    batch = batched.collate([batched.pack([(clip, view)], augment, "rgb")])
    return batched.finish(batch, torch.device("cpu"))["rgb"][0, 0]


def has_kornia() -> bool:
    """Whether kornia is installed."""
    try:
        import kornia  # noqa: F401
    except ImportError:
        return False
    return True


def compare(
    case: str, clip: torch.Tensor, drawn: list[View], augment: Augment, rounds: int
) -> tuple:
    """Rows and seconds of one case; a round runs every draw once with every contestant."""
    ways = {
        "PIL per frame": lambda v: pil_chain(clip, v, augment.size),
        "transforms.v2": lambda v: v2_chain(clip, v, augment.size),
        **({"kornia": lambda v: kornia_chain(clip, v, augment.size)} if has_kornia() else {}),
        "vidbench, in two places (CPU)": lambda v: in_two_places(clip, v, augment),
        OURS: lambda v: transforms.apply(clip, v, augment),
    }
    calls = {name: lambda way=way: [way(v) for v in drawn] for name, way in ways.items()}
    seconds = {
        n: [s / len(drawn) for s in times] for n, times in measure.in_turn(calls, rounds).items()
    }
    table = measure.rows(seconds, OURS, case=case)
    scale = 255 * torch.tensor(STD).view(3, 1, 1, 1)
    for row in table:
        differences = [
            (ways[row["contestant"]](v) - ways["PIL per frame"](v)).mul(scale).abs().mean()
            for v in drawn
        ]
        row["levels_from_pil"] = round(float(max(differences)), 2)
        if row["contestant"].startswith("vidbench") and row["levels_from_pil"] > 3:
            raise AssertionError(f"{row['contestant']} shows other pictures than PIL: {row}")
    return table, seconds


def main(rounds: int = 9) -> list[dict]:
    """The full chain, crops only, and a toy clip."""
    measure.one_thread()
    augment, rng = (
        replace(PRESETS["vidbench"], jitter_p=1.0, gray_p=0.0, blur_p=1.0),
        np.random.default_rng(0),
    )
    clip = moving_clip(FRAMES, HEIGHT, WIDTH)
    drawn = [draw(augment, HEIGHT, WIDTH, FRAMES, rng) for _ in range(DRAWS)]
    crops = [View(v.frame_size, v.box, v.flip) for v in drawn]
    if not has_kornia():
        print("kornia is skipped: it is not installed")
    table, seconds = compare("full 32x256x340 to 128", clip, drawn, augment, rounds)
    goals = [
        measure.goal(
            "P4",
            f"augmentation, full chain: {name}'s time over ours",
            wanted,
            measure.ratios(seconds[name], seconds[OURS]),
        )
        for name, wanted in WANTED.items()
        if name in seconds
    ]
    off = next(row["levels_from_pil"] for row in table if row["contestant"] == OURS)
    goals.append(
        measure.goal("P4", "augmentation, full chain: mean gray levels from PIL", "<= 1.5", off)
    )
    table += compare("crop 32x256x340 to 128", clip, crops, augment, rounds)[0]
    toy = replace(PRESETS["toy"], jitter_p=1.0, gray_p=0.0, blur_p=1.0)
    drawn = [draw(toy, 64, 64, 8, rng) for _ in range(10 * DRAWS)]
    return (
        table + compare("full 8x64x64 to 48", moving_clip(8, 64, 64), drawn, toy, rounds)[0] + goals
    )
