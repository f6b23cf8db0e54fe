"""RandAugment and random erasing, drawn once per clip for all of its frames.

The draws are those of MultiTrain's released code: slowfast/datasets/rand_augment.py and
random_erasing.py there, PySlowFast's files, which come from timm, under "rand-m7-n4-mstd0.5-inc1"
and erasing in "pixel" mode as a "cube". The operations are torchvision's, on 8-bit frames of any
device.

Departures: rotated, sheared and moved pictures are bilinear (there PIL's bicubic, which torchvision
has not for tensors), and their edge fades into the gray around it over one pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MOST = 10.0  # the largest magnitude: _MAX_LEVEL there
APPLIED = 0.5  # probability of each drawn operation: `prob` in rand_augment_ops
GRAY = [
    128.0
] * 3  # what comes in from outside of a picture: _FILL, as create_random_augment gives no img_mean
# frames: on a CPU the pictures between two operations then stay in its cache: a third less time
_TOGETHER = 8
# RandomErasing's defaults, which the released configuration leaves alone; one box (RE_COUNT: 1)
ERASED_AREA = (0.02, 1 / 3)  # of the view
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASING_TRIES = 100  # draws until a box fits, those of _erase_cube


def _nothing(share: float, sign: int) -> float:
    return 0.0


def _enhance(share: float, sign: int) -> float:
    return 1 + sign * 0.9 * share


def _shear(share: float, sign: int) -> float:
    return sign * 0.3 * share


def _translate(share: float, sign: int) -> float:
    return sign * 0.45 * share  # translate_pct, left at its default


def _affine(
    functional: Any, x: torch.Tensor, shear: tuple[float, float], move: tuple[float, float]
) -> torch.Tensor:
    """PIL's affine transform about the upper left corner: (x, y) shows what was at (x + shear y, y)
    and so on."""
    angles = [math.degrees(math.atan(tangent)) for tangent in shear]
    return functional.affine(
        x,
        0.0,
        [-move[0], -move[1]],
        1.0,
        angles,
        functional.InterpolationMode.BILINEAR,
        GRAY,
        [0.0, 0.0],
    )


# name -> its argument for a share 0..1 of the largest magnitude and a sign, 1 or -1; the work. The
# 15 names are _RAND_INCREASING_TRANSFORMS in its order, the arguments LEVEL_TO_ARG, "increasing"
# where there are several.
OPERATIONS: dict[
    str, tuple[Callable[[float, int], float], Callable[[Any, torch.Tensor, Any], torch.Tensor]]
] = {
    "autocontrast": (
        _nothing,
        lambda f, x, _: f.autocontrast(x),
    ),  # by each frame's own range, as there
    "equalize": (_nothing, lambda f, x, _: f.equalize(x)),
    "invert": (_nothing, lambda f, x, _: f.invert(x)),
    "rotate": (
        lambda share, sign: sign * 30 * share,
        lambda f, x, angle: f.rotate(x, angle, f.InterpolationMode.BILINEAR, fill=GRAY),
    ),
    "posterize": (
        lambda share, sign: 4 - int(4 * share),
        lambda f, x, bits: f.posterize(x, bits),
    ),  # bits kept
    # torchvision refuses a threshold above 255, which is one that no level reaches
    "solarize": (
        lambda share, sign: 256 - int(256 * share),
        lambda f, x, low: x if low > 255 else f.solarize(x, low),
    ),
    "solarize_add": (
        lambda share, sign: int(110 * share),
        lambda f, x, add: torch.where(x < 128, x + add, x),
    ),
    "color": (_enhance, lambda f, x, factor: f.adjust_saturation(x, factor)),
    "contrast": (_enhance, lambda f, x, factor: f.adjust_contrast(x, factor)),
    "brightness": (_enhance, lambda f, x, factor: f.adjust_brightness(x, factor)),
    "sharpness": (_enhance, lambda f, x, factor: f.adjust_sharpness(x, factor)),
    "shear_x": (_shear, lambda f, x, tangent: _affine(f, x, (tangent, 0.0), (0.0, 0.0))),
    "shear_y": (_shear, lambda f, x, tangent: _affine(f, x, (0.0, tangent), (0.0, 0.0))),
    "translate_x": (
        _translate,
        lambda f, x, share: _affine(f, x, (0.0, 0.0), (share * x.shape[-1], 0.0)),
    ),
    "translate_y": (
        _translate,
        lambda f, x, share: _affine(f, x, (0.0, 0.0), (0.0, share * x.shape[-2])),
    ),
}


def argument(name: str, magnitude: float, sign: int = 1) -> float:
    """Return the number that an operation is called with.

    It is degrees, bits, a level, a factor, a tangent or a share.

    Args:
        name: A key of OPERATIONS.
        magnitude: 0 to 10.
        sign: 1 or -1, for operations that go both ways: rotate, the four enhancements, shear,
            translate.
    """
    return OPERATIONS[name][0](magnitude / MOST, sign)


def draw(
    count: int, magnitude: float, deviation: float, rng: np.random.Generator
) -> tuple[tuple[str, float], ...]:
    """Draw operations with replacement, and apply each with probability 0.5.

    Args:
        count: Operations drawn.
        magnitude: Mean of a normal distribution, cut to 0..10; each operation draws its own
            magnitude, and its sign.
        deviation: The standard deviation of that distribution.

    Returns:
        (operation, argument) of each that is applied.
    """
    drawn = []
    for number in rng.integers(len(OPERATIONS), size=count):
        if rng.random() < APPLIED:
            level = min(MOST, max(0.0, rng.normal(magnitude, deviation)))
            name = tuple(OPERATIONS)[number]
            drawn.append((name, argument(name, level, 1 if rng.random() < 0.5 else -1)))
    return tuple(drawn)


def change(frames: torch.Tensor, operations: tuple[tuple[str, float], ...]) -> torch.Tensor:
    """Apply operations to all frames of a clip, one after another: uint8 [T,3,H,W].

    Args:
        frames: uint8 [T,3,H,W]; not changed.
        operations: From `draw`.
    """
    # seconds to import, and for those who use it only
    from torchvision.transforms.v2 import functional

    # a decoder's: one order of sums for all inputs
    frames = frames.contiguous(memory_format=torch.channels_last)
    parts = []
    for part in frames.split(_TOGETHER if frames.device.type == "cpu" else len(frames)):
        for name, value in operations:
            part = OPERATIONS[name][1](functional, part, value)
        parts.append(part)
    return torch.cat(parts)


def draw_box(size: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the box (top, left, height, width) to erase; empty if none of 100 draws fits.

    Args:
        size: Pixels of a view's side.
    """
    for _ in range(ERASING_TRIES):
        area = size * size * rng.uniform(*ERASED_AREA)
        low, high = (math.log(a) for a in ERASED_ASPECT)
        aspect = math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < size and w < size:  # a box never spans the view
            return int(rng.integers(size - h + 1)), int(rng.integers(size - w + 1)), h, w
    return ()


def noise(shape: tuple[int, ...], box: tuple[int, ...], seed: int) -> torch.Tensor:
    """Draw standard normal noise float32 [C,T,height,width] for a box.

    It is drawn on the CPU, so that it is the same for clips on every device.

    Args:
        shape: Of the clip [C,T,H,W].
        box: From `draw_box`.
    """
    height, width = box[2:]
    drawn = np.random.default_rng(seed).standard_normal((*shape[:2], height, width), np.float32)
    return torch.from_numpy(drawn)


def erase(clip: torch.Tensor, box: tuple[int, ...], drawn: torch.Tensor) -> torch.Tensor:
    """Put `noise` into a box of a clip in place, and return the clip [C,T,H,W].

    Args:
        clip: Normalized, [C,T,H,W].
        box: From `draw_box`.
        drawn: From `noise`.
    """
    top, left, height, width = box
    clip[:, :, top : top + height, left : left + width] = drawn
    return clip
