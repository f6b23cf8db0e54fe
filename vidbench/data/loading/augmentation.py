"""Augmentation presets by name, and the draw of one View that all frames and streams share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from vidbench.data.loading import pixels, randaugment

JITTERS = tuple(pixels.JITTERS)  # brightness, contrast, saturation, hue
# The principal axes of ImageNet's colors times their weights, [rgb, axis], for values in 0..1: the
# numbers of fb.resnet.torch (datasets/imagenet.lua), which clovaai's CutMix-PyTorch has, too; the
# noise itself is AlexNet's.
LIGHTING = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * (0.2175, 0.0188, 0.0045)


@dataclass(frozen=True)
class Augment:
    """What may be drawn: ranges and probabilities of one augmentation preset (see PRESETS for the
    named ones)."""

    size: int = 128  # pixels, height and width of a view
    area: tuple[float, float] = (0.2, 1.0)  # crop's share of the frame
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # crop's width / height
    log_aspect: bool = True  # uniform in log(aspect), torchvision's way; False: uniform in aspect
    swap_aspect: bool = False  # exchange the drawn width and height with probability 0.5
    crop_tries: int = 10  # draws until a crop fits into the frame
    # above 0: any size x size of the frame with so many pixels around it, unscaled (no area, no
    # aspect)
    pad: int = 0
    short_side: tuple[
        int, ...
    ] = ()  # (low, high), pixels: any size x size of the frame scaled to such a short side
    squeeze_on_misfit: bool = (
        False  # no draw fitted: squeeze the whole frame to a square; False: central crop
    )
    interpolation: str = "bilinear"  # or "bicubic"; both antialiased
    flip: float = 0.5
    strong: float = 1.0  # probability that jitter, gray, blur and lighting are considered at all
    # brightness, contrast, saturation, hue
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.8
    gray: str = "luma"  # or "channel": one color channel, drawn for each frame, copied to three
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    # standard deviation of AlexNet's noise along ImageNet's color axes; each strong clip's
    lighting: float = 0.0
    # operations drawn for each clip, strong or not, each applied with probability 0.5; 0: off
    randaugment: int = 0
    magnitude: float = 7.0  # of those operations, 0..10; see vidbench.data.loading.randaugment
    magnitude_std: float = 0.5  # drawn for each operation
    erase: float = 0.0  # probability that a box of the normalized view becomes noise, strong or not
    one_clip: float = 0.0  # probability that both views of a pair show the same clip (draw_pair)
    flow_color: bool = False  # jitter and gray on flow, too
    flow_negate_u: bool = True  # a flipped clip moves the other way
    flow_as_rgb: bool = False  # normalize flow with ImageNet's mean and deviation

    def __post_init__(self) -> None:
        for name, allowed in (
            ("interpolation", ("bilinear", "bicubic")),
            ("gray", ("luma", "channel")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("flip", "strong", "jitter_p", "gray_p", "blur_p", "one_clip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability in 0..1, got {getattr(self, name)!r}")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(
                f"area must rise within 0..1 and aspect above 0, got {self.area} and {self.aspect}"
            )
        if self.size < 1 or self.crop_tries < 1:
            raise ValueError(
                f"size and crop_tries must be at least 1, got {self.size} and {self.crop_tries}"
            )
        if min(self.jitter) < 0 or self.jitter[3] > 0.5 or self.blur_sigma[0] <= 0:
            raise ValueError(
                f"jitter must be >= 0, its hue <= 0.5, blur_sigma > 0: {self.jitter}, "
                f"{self.blur_sigma}"
            )
        self._check_crops()
        if self.lighting < 0:
            raise ValueError(f"lighting is a standard deviation from 0 up, got {self.lighting!r}")
        if not isinstance(self.randaugment, int) or self.randaugment < 0:
            raise ValueError(
                f"randaugment is a whole number of operations from 0 up, got {self.randaugment!r}"
            )
        if not 0 <= self.magnitude <= randaugment.MOST or not self.magnitude_std >= 0:
            raise ValueError(
                f"magnitude must be in 0..{randaugment.MOST:g}, magnitude_std is a standard "
                f"deviation from 0 up, got {self.magnitude!r} and {self.magnitude_std!r}"
            )

    def _check_crops(self) -> None:
        if not isinstance(self.pad, int) or not 0 <= self.pad < self.size:
            raise ValueError(
                f"pad is a whole number of pixels from 0 to size - 1 = {self.size - 1}, got "
                f"{self.pad!r}"
            )
        if self.short_side and (
            len(self.short_side) != 2 or not self.size <= self.short_side[0] <= self.short_side[1]
        ):
            raise ValueError(
                f"short_side is two numbers of pixels that rise from size = {self.size} up, or "
                f"empty, got {self.short_side}"
            )
        if self.short_side and self.pad:
            raise ValueError(
                f"short_side and pad are two kinds of crops, got {self.short_side} and "
                f"pad={self.pad}: set one of them"
            )


PRESETS = {
    # What CoCLR's paper says (crop, flip, jitter, blur), with its code's ranges and gray, without
    # that code's departures.
    "vidbench": Augment(),
    # CoCLR's code: misfit crops squeezed at the first try, aspect uniform and swapped, bicubic; the
    # strong chain on 30 % of clips (50 % in the one-clip branch, see draw_pair); gray flickers;
    # flow is an ordinary picture. Not followed: gray channels drawn for rgb and flow apart (here a
    # frame's channel is shared), and flow's channel order there, (128, v, u), as its JPEG files
    # were written by OpenCV and read by PIL.
    "coclr_official": Augment(
        log_aspect=False,
        swap_aspect=True,
        crop_tries=1,
        squeeze_on_misfit=True,
        interpolation="bicubic",
        strong=0.3,
        gray="channel",
        one_clip=0.5,
        flow_color=True,
        flow_negate_u=False,
        flow_as_rgb=True,
    ),
    # CoCLR's code, eval/: crops that are retried, jitter on 30 % of clips, no gray, no blur.
    "coclr_finetune": Augment(
        log_aspect=False,
        swap_aspect=True,
        interpolation="bicubic",
        jitter_p=0.3,
        gray_p=0.0,
        blur_p=0.0,
        flow_negate_u=False,
        flow_as_rgb=True,
    ),
    "weak": Augment(strong=0.0),  # CoCLR's "null" chain: crop and flip only
    # The toy world: small frames whose figure fills most of them; its labels survive a flip.
    "toy": Augment(size=48, area=(0.5, 1.0), blur_sigma=(0.1, 1.0)),
    # RMS, supplement B: what it and the recipes it follows say; what neither says is called
    # assumed. Kinetics: random resized crops, no range. Assumed: torchvision's, 8 to 100 %; 224;
    # flip; no change of colors.
    "rms_kinetics": Augment(size=224, area=(0.08, 1.0), strong=0.0),
    # Something-Something-v2: crops of 15 to 75 %, and no more is said. Assumed: 224, and no flip,
    # as labels have directions ("pushing something from left to right"); PySlowFast does not flip
    # there, either.
    "rms_ssv2": Augment(size=224, area=(0.15, 0.75), flip=0.0, strong=0.0),
    # CIFAR-100 "following CutMix", so train.py of clovaai's CutMix-PyTorch: 4 black pixels around,
    # 32 x 32, flip. Not followed: CIFAR's own mean and deviation there, (125.3, 123.0, 113.9) and
    # (63.0, 62.1, 66.7) of 255; here rgb is always normalized with ImageNet's.
    "rms_cifar": Augment(size=32, pad=4, strong=0.0),
    # ImageNet "following CutMix", the same file: torchvision's crop, flip, jitter without hue on
    # each one, lighting. Not followed: values there are not cut to whole levels in 0..255 after
    # each jitter.
    "rms_imagenet": Augment(
        size=224,
        area=(0.08, 1.0),
        jitter=(0.4, 0.4, 0.4, 0.0),
        jitter_p=1.0,
        gray_p=0.0,
        blur_p=0.0,
        lighting=0.1,
    ),
    # MultiTrain's released code: its configurations of several data sets (AUG and DATA) and
    # slowfast/datasets. Random resized crops, bilinear (the "bicubic" there is RandAugment's), flip
    # (not for SSv2: a part of a recipe says so), "rand-m7-n4-mstd0.5-inc1", erasing; what it calls
    # COLOR_JITTER is read by its ImageNet loader only. Not followed: mean 0.45 and deviation 0.225
    # there; here rgb is always normalized with ImageNet's. Resizing there is not antialiased.
    # RandAugment: see the heads of views and of randaugment.
    "multitrain": Augment(size=224, area=(0.08, 1.0), strong=0.0, randaugment=4, erase=0.25),
    # MultiTrain's supplement: short side drawn in 256..320, a crop of 224, flip (not for SSv2),
    # RandAugment and Mixup, no erasing. It gives neither magnitude nor layers of RandAugment:
    # those of the release are an assumption. Not followed: the mean and deviation of the
    # code, as above, as the supplement has none; one resize of the crop's share of the frame, in
    # whole pixels of the frame, replaces a resize of the frame and a crop.
    "multitrain_supplement": Augment(size=224, short_side=(256, 320), strong=0.0, randaugment=4),
}


@dataclass(frozen=True)
class View:
    """The parameters drawn for ONE clip: plain values, the same for all its frames, for rgb and for
    flow."""

    # H, W of the frames it was drawn for; frames of another size get the box rescaled
    frame_size: tuple[int, int]
    # top, left, height, width; may reach out of the frame, by up to Augment.pad
    box: tuple[int, int, int, int]
    flip: bool = False
    order: tuple[str, ...] = ()  # of JITTERS; empty: no jitter
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns
    gray: str = ""  # "", "luma" or "channel"
    channels: tuple[int, ...] = ()  # for "channel": one a frame
    sigma: float = 0.0  # of the blur; 0: none
    lighting: tuple[
        float, ...
    ] = ()  # added to red, green and blue (values in 0..1) last, not cut; empty: nothing
    operations: tuple[
        tuple[str, float], ...
    ] = ()  # RandAugment: (name, argument), one after another, before the flip
    erase: tuple[int, ...] = ()  # top, left, height, width of the view; empty: nothing
    seed: int = 0  # of the noise there


class Pair(NamedTuple):
    """Which of two temporal clips each view of a pair shows (0 or 1), and how."""

    clips: tuple[int, int]
    views: tuple[View, View]


def weak(augment: Augment) -> Augment:
    """Return the same crops and flips without color changes, RandAugment and erasing.

    CoCLR's "null" chain: no jitter, gray, blur or lighting.
    """
    return replace(augment, strong=0.0, randaugment=0, erase=0.0)


def draw(augment: Augment, height: int, width: int, frames: int, rng: np.random.Generator) -> View:
    """Draw one clip's parameters (SimCLR's chain, as in CoCLR).

    Args:
        height, width: Of the frames, in pixels.
        frames: Of the clip; channel gray draws one channel for each.

    Raises:
        ValueError: an empty clip, or a padded frame (Augment.pad) smaller than the view.
    """
    if min(height, width, frames) < 1:
        raise ValueError(
            f"a clip has at least one frame of one pixel, got {frames} frames of {height}x{width}"
        )
    crop = _draw_window if augment.pad else _draw_scaled if augment.short_side else _draw_box
    box = crop(augment, height, width, rng)
    flip = bool(rng.random() < augment.flip)
    changes = _draw_colors(augment, frames, rng) if rng.random() < augment.strong else {}
    if augment.randaugment:  # what is off draws no number: earlier runs can be made again
        changes["operations"] = randaugment.draw(
            augment.randaugment, augment.magnitude, augment.magnitude_std, rng
        )
    if augment.erase and rng.random() < augment.erase:
        changes["erase"], changes["seed"] = (
            randaugment.draw_box(augment.size, rng),
            int(rng.integers(2**32)),
        )
    return View((height, width), box, flip, **changes)


def _draw_colors(augment: Augment, frames: int, rng: np.random.Generator) -> dict:
    """Fields of a strong View."""
    changes: dict[str, Any] = {}
    if rng.random() < augment.jitter_p:
        changes["order"] = tuple(JITTERS[i] for i in rng.permutation(4) if augment.jitter[i] > 0)
        for name, reach in zip(JITTERS[:3], augment.jitter[:3], strict=True):
            changes[name] = rng.uniform(max(0.0, 1 - reach), 1 + reach)
        changes["hue"] = rng.uniform(-augment.jitter[3], augment.jitter[3])
    if rng.random() < augment.gray_p:
        changes["gray"] = augment.gray
        if augment.gray == "channel":
            changes["channels"] = tuple(rng.integers(3, size=frames).tolist())
    if rng.random() < augment.blur_p:
        changes["sigma"] = rng.uniform(*augment.blur_sigma)
    if augment.lighting > 0:
        changes["lighting"] = tuple((LIGHTING @ rng.normal(0.0, augment.lighting, 3)).tolist())
    return changes


def draw_pair(
    augment: Augment, height: int, width: int, frames: int, rng: np.random.Generator
) -> Pair:
    """Draw two views of one video, and which clip each of them shows (CoCLR's pre-training code).

    With probability `one_clip` both show the same clip, one with strong and one with weak changes,
    in random order; otherwise each shows its own clip, drawn from `augment` unchanged.

    Args:
        height, width: Of the frames, in pixels.
        frames: Of each clip.
    """
    if rng.random() >= augment.one_clip:
        return Pair(
            (0, 1),
            (draw(augment, height, width, frames, rng), draw(augment, height, width, frames, rng)),
        )
    settings = [replace(augment, strong=1.0), weak(augment)]
    clip, first = rng.integers(2, size=2).tolist()
    views = [draw(settings[i], height, width, frames, rng) for i in (first, 1 - first)]
    return Pair((clip, clip), (views[0], views[1]))


def _draw_box(
    augment: Augment, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    low, high = augment.aspect
    for _ in range(augment.crop_tries):
        area = height * width * rng.uniform(*augment.area)
        aspect = (
            math.exp(rng.uniform(math.log(low), math.log(high)))
            if augment.log_aspect
            else rng.uniform(low, high)
        )
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if augment.swap_aspect and rng.random() < 0.5:
            w, h = h, w
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    if augment.squeeze_on_misfit:
        return 0, 0, height, width
    # torchvision's fallback: the largest central crop whose aspect is allowed
    h, w = min(height, round(width / low)), min(width, round(height * high))
    return (height - h) // 2, (width - w) // 2, h, w


def _draw_window(
    augment: Augment, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """torchvision's RandomCrop(size, padding=pad): size x size anywhere in the padded frame, each
    place as likely."""
    size, pad = augment.size, augment.pad
    room = height + 2 * pad - size, width + 2 * pad - size
    if min(room) < 0:
        raise ValueError(
            f"frames of {height}x{width}, padded by {pad} on each side, are smaller than "
            f"size={size}: decode them at {size - 2 * pad} or more, raise pad or lower size"
        )
    return int(rng.integers(room[0] + 1)) - pad, int(rng.integers(room[1] + 1)) - pad, size, size


def _draw_scaled(
    augment: Augment, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """size x size anywhere in the frame scaled to a short side drawn from Augment.short_side, in
    the frame's pixels."""
    low, high = augment.short_side
    side = max(1, round(min(height, width) * augment.size / round(rng.uniform(low, high))))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side
