"""Clip-consistent augmentation: drawn once per clip, applied on a CPU or batched on a device; test crops.

Why two ways to apply: in a loader's worker, torch's 8-bit resize and OpenCV on 8-bit frames are several times faster
than PIL or torchvision's transforms (benchmarks/views.py); on a device the same View is applied to a whole batch by
matrix products and pointwise operations. Both follow PIL's arithmetic (blends cut to whole levels, luma 0.299 0.587
0.114, hue in HSV), so a view is the same picture either way, to about a grey level.

Streams: crop, flip and blur are shared by rgb and flow; jitter and gray touch flow only where `flow_colour` says so.
Flow is stored as 8-bit (u, v, 128), see vidbench.data.flow; under a flip u becomes 255 - u, which negates it. Cropping
does not rescale flow: its values stay in pixels of the frame it was computed on. What `Augment.pad` puts around a frame
is black in rgb and zero motion, 128, in flow, both before the normalisation; lighting and erasing are for rgb only.
RandAugment moves things, and flow would not follow: a setting that has it refuses flow.

RandAugment comes after the crop, so it works on far fewer pixels than in the code it is from, PySlowFast's, where whole
frames go through it first. So here the gray that comes in at an edge is never cut away, what lies outside of the crop
never comes in, and histograms and mean levels are the crop's. Where two forms differ by a level, an operation that
stretches or cuts levels (equalize, posterize) makes more of it.

Threads: importing sets nothing. In a loader pass `worker_init`; in a script that measures or mines, set
`cv2.setNumThreads(1)` and `torch.set_num_threads` before the first clip.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from vidbench.data import pixels, randaugment

STREAMS = ("rgb", "flow")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of values in 0..1
FLOW_MEAN, FLOW_STD = (0.5,) * 3, (0.226,) * 3  # zero flow becomes zero; the spread of ImageNet's mean channel
PADDING = {"rgb": 0, "flow": 128}  # stored levels: black, no motion
JITTERS = tuple(pixels.JITTERS)  # brightness, contrast, saturation, hue
# The principal axes of ImageNet's colours times their weights, [rgb, axis], for values in 0..1: the numbers of
# fb.resnet.torch (datasets/imagenet.lua), which clovaai's CutMix-PyTorch has, too; the noise itself is AlexNet's.
LIGHTING = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * (0.2175, 0.0188, 0.0045)  # fmt: skip


@dataclass(frozen=True)
class Augment:
    """What may be drawn: ranges and probabilities of one augmentation setting (see SETTINGS for the named ones)."""

    size: int = 128  # pixels, height and width of a view
    area: tuple[float, float] = (0.2, 1.0)  # crop's share of the frame
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # crop's width / height
    log_aspect: bool = True  # uniform in log(aspect), torchvision's way; False: uniform in aspect
    swap_aspect: bool = False  # exchange the drawn width and height with probability 0.5
    crop_tries: int = 10  # draws until a crop fits into the frame
    pad: int = 0  # above 0: any size x size of the frame with so many pixels around it, unscaled (no area, no aspect)
    short_side: tuple[int, ...] = ()  # (low, high), pixels: any size x size of the frame scaled to such a short side
    squeeze_on_misfit: bool = False  # no draw fitted: squeeze the whole frame to a square; False: central crop
    interpolation: str = "bilinear"  # or "bicubic"; both antialiased
    flip: float = 0.5
    strong: float = 1.0  # probability that jitter, gray, blur and lighting are considered at all
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8
    gray: str = "luma"  # or "channel": one colour channel, drawn for each frame, copied to three
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    lighting: float = 0.0  # standard deviation of AlexNet's noise along ImageNet's colour axes; each strong clip's
    randaugment: int = 0  # operations drawn for each clip, strong or not, each applied with probability 0.5; 0: off
    magnitude: float = 7.0  # of those operations, 0..10; see vidbench.data.randaugment
    magnitude_std: float = 0.5  # drawn for each operation
    erase: float = 0.0  # probability that a box of the normalised view becomes noise, strong or not
    one_clip: float = 0.0  # probability that both views of a pair show the same clip (draw_pair)
    flow_colour: bool = False  # jitter and gray on flow, too
    flow_negate_u: bool = True  # a flipped clip moves the other way
    flow_as_rgb: bool = False  # normalise flow with ImageNet's mean and deviation

    def __post_init__(self) -> None:
        for name, allowed in (("interpolation", ("bilinear", "bicubic")), ("gray", ("luma", "channel"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("flip", "strong", "jitter_p", "gray_p", "blur_p", "one_clip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability in 0..1, got {getattr(self, name)!r}")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"area must rise within 0..1 and aspect above 0, got {self.area} and {self.aspect}")
        if self.size < 1 or self.crop_tries < 1:
            raise ValueError(f"size and crop_tries must be at least 1, got {self.size} and {self.crop_tries}")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5 or self.blur_sigma[0] <= 0:
            raise ValueError(f"jitter must be >= 0, its hue <= 0.5, blur_sigma > 0: {self.jitter}, {self.blur_sigma}")
        if not isinstance(self.pad, int) or not 0 <= self.pad < self.size:
            raise ValueError(f"pad is a whole number of pixels from 0 to size - 1 = {self.size - 1}, got {self.pad!r}")
        if self.lighting < 0:
            raise ValueError(f"lighting is a standard deviation from 0 up, got {self.lighting!r}")
        if not isinstance(self.randaugment, int) or self.randaugment < 0:
            raise ValueError(f"randaugment is a whole number of operations from 0 up, got {self.randaugment!r}")
        if not 0 <= self.magnitude <= randaugment.MOST or not self.magnitude_std >= 0:
            raise ValueError(f"magnitude lies in 0..{randaugment.MOST:g}, magnitude_std is a standard deviation from 0 "
                             f"up, got {self.magnitude!r} and {self.magnitude_std!r}")  # fmt: skip
        if self.short_side and (len(self.short_side) != 2 or not self.size <= self.short_side[0] <= self.short_side[1]):
            raise ValueError(f"short_side is two numbers of pixels that rise from size = {self.size} up, or empty, got "
                             f"{self.short_side}")  # fmt: skip
        if self.short_side and self.pad:
            raise ValueError(f"short_side and pad are two kinds of crops, got {self.short_side} and pad={self.pad}: "
                             "set one of them")  # fmt: skip


SETTINGS = {
    # What CoCLR's paper says (crop, flip, jitter, blur), with its code's ranges and gray, without that code's
    # departures.
    "vidbench": Augment(),
    # CoCLR's code: misfit crops squeezed at the first try, aspect uniform and swapped, bicubic; the strong chain on
    # 30 % of clips (50 % in the one-clip branch, see draw_pair); gray flickers; flow is an ordinary picture.
    # Not followed: gray channels drawn for rgb and flow apart (here a frame's channel is shared), and flow's channel
    # order there, (128, v, u), as its JPEG files were written by OpenCV and read by PIL.
    "coclr_official": Augment(
        log_aspect=False, swap_aspect=True, crop_tries=1, squeeze_on_misfit=True, interpolation="bicubic", strong=0.3,
        gray="channel", one_clip=0.5, flow_colour=True, flow_negate_u=False, flow_as_rgb=True,
    ),
    # CoCLR's code, eval/: crops that are retried, jitter on 30 % of clips, no gray, no blur.
    "coclr_finetune": Augment(
        log_aspect=False, swap_aspect=True, interpolation="bicubic", jitter_p=0.3, gray_p=0.0, blur_p=0.0,
        flow_negate_u=False, flow_as_rgb=True,
    ),
    "weak": Augment(strong=0.0),  # CoCLR's "null" chain: crop and flip only
    # The toy world: small frames whose figure fills most of them; its labels survive a flip.
    "toy": Augment(size=48, area=(0.5, 1.0), blur_sigma=(0.1, 1.0)),
    # RMS, supplement B: what it and the recipes it follows say; what neither says is called assumed.
    # Kinetics: random resized crops, no range. Assumed: torchvision's, 8 to 100 %; 224; flip; no change of colours.
    "rms_kinetics": Augment(size=224, area=(0.08, 1.0), strong=0.0),
    # Something-Something-v2: crops of 15 to 75 %, and no more is said. Assumed: 224, and no flip, as labels have
    # directions ("pushing something from left to right"); PySlowFast does not flip there, either.
    "rms_ssv2": Augment(size=224, area=(0.15, 0.75), flip=0.0, strong=0.0),
    # CIFAR-100 "following CutMix", so train.py of clovaai's CutMix-PyTorch: 4 black pixels around, 32 x 32, flip.
    # Not followed: CIFAR's own mean and deviation there, (125.3, 123.0, 113.9) and (63.0, 62.1, 66.7) of 255; here rgb
    # is always normalised with ImageNet's.
    "rms_cifar": Augment(size=32, pad=4, strong=0.0),
    # ImageNet "following CutMix", the same file: torchvision's crop, flip, jitter without hue on each one, lighting.
    # Not followed: values there are not cut to whole levels in 0..255 after each jitter.
    "rms_imagenet": Augment(
        size=224, area=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, gray_p=0.0, blur_p=0.0, lighting=0.1,
    ),
    # MultiTrain's released code: its configurations of several data sets (AUG and DATA) and slowfast/datasets. Random
    # resized crops, bilinear (the "bicubic" there is RandAugment's), flip (not for SSv2: a part of a recipe says so),
    # "rand-m7-n4-mstd0.5-inc1", erasing; what it calls COLOR_JITTER is read by its ImageNet loader only.
    # Not followed: mean 0.45 and deviation 0.225 there; here rgb is always normalised with ImageNet's. Resizing there
    # is not antialiased. RandAugment: see the head of this file and of randaugment.
    "multitrain": Augment(size=224, area=(0.08, 1.0), strong=0.0, randaugment=4, erase=0.25),
    # MultiTrain's supplement: short side drawn in 256..320, a crop of 224, flip (not for SSv2). It names no RandAugment
    # and no erasing, only Mixup.
    # Not followed: the mean and deviation of the code, as above, as the supplement has none; one resize of the crop's
    # share of the frame, in whole pixels of the frame, stands for a resize of the frame and a crop.
    "multitrain_supplement": Augment(size=224, short_side=(256, 320), strong=0.0),
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """The parameters drawn for ONE clip: plain values, the same for all its frames, for rgb and for flow."""

    frame_size: tuple[int, int]  # H, W of the frames it was drawn for; frames of another size get the box rescaled
    box: tuple[int, int, int, int]  # top, left, height, width; may reach out of the frame, by up to Augment.pad
    flip: bool = False
    order: tuple[str, ...] = ()  # of JITTERS; empty: no jitter
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # turns
    gray: str = ""  # "", "luma" or "channel"
    channels: tuple[int, ...] = ()  # for "channel": one a frame
    sigma: float = 0.0  # of the blur; 0: none
    lighting: tuple[float, ...] = ()  # added to red, green and blue (values in 0..1) last, not cut; empty: nothing
    operations: tuple[tuple[str, float], ...] = ()  # RandAugment: (name, argument), one after another, before the flip
    erase: tuple[int, ...] = ()  # top, left, height, width of the view; empty: nothing
    seed: int = 0  # of the noise there


class Pair(NamedTuple):
    """Which of two temporal clips each view of a pair shows (0 or 1), and how."""

    clips: tuple[int, int]
    views: tuple[View, View]


def weak(augment: Augment) -> Augment:
    """The same crops and flips without jitter, gray, blur and lighting (CoCLR's "null" chain), RandAugment, erasing."""
    return replace(augment, strong=0.0, randaugment=0, erase=0.0)


def draw(augment: Augment, height: int, width: int, frames: int, rng: np.random.Generator) -> View:
    """One clip's parameters for frames of height x width pixels (SimCLR's chain, as in CoCLR).

    Raises ValueError where the padded frame (Augment.pad) is smaller than the view.
    """
    if min(height, width, frames) < 1:
        raise ValueError(f"a clip has at least one frame of one pixel, got {frames} frames of {height}x{width}")
    crop = _draw_window if augment.pad else _draw_scaled if augment.short_side else _draw_box
    box = crop(augment, height, width, rng)
    flip = bool(rng.random() < augment.flip)
    changes = _draw_colours(augment, frames, rng) if rng.random() < augment.strong else {}
    if augment.randaugment:  # what is off draws no number: earlier runs can be made again
        changes["operations"] = randaugment.draw(augment.randaugment, augment.magnitude, augment.magnitude_std, rng)
    if augment.erase and rng.random() < augment.erase:
        changes["erase"], changes["seed"] = randaugment.draw_box(augment.size, rng), int(rng.integers(2**32))
    return View((height, width), box, flip, **changes)


def _draw_colours(augment: Augment, frames: int, rng: np.random.Generator) -> dict:
    """Fields of a strong View."""
    changes = {}
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


def draw_pair(augment: Augment, height: int, width: int, frames: int, rng: np.random.Generator) -> Pair:
    """Two views of one video and the clip each of them shows (the controller of CoCLR's pre-training code).

    With probability `one_clip` both show the same clip, one strongly and one weakly changed, in random order; otherwise
    each shows its own clip, drawn from `augment` as it stands.
    """
    if rng.random() >= augment.one_clip:
        return Pair((0, 1), (draw(augment, height, width, frames, rng), draw(augment, height, width, frames, rng)))
    settings = [replace(augment, strong=1.0), weak(augment)]
    clip, first = rng.integers(2, size=2).tolist()
    views = [draw(settings[i], height, width, frames, rng) for i in (first, 1 - first)]
    return Pair((clip, clip), (views[0], views[1]))


def _draw_box(augment: Augment, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    low, high = augment.aspect
    for _ in range(augment.crop_tries):
        area = height * width * rng.uniform(*augment.area)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high))) if augment.log_aspect else rng.uniform(low, high)
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


def _draw_window(augment: Augment, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """torchvision's RandomCrop(size, padding=pad): size x size anywhere in the padded frame, each place as likely."""
    size, pad = augment.size, augment.pad
    room = height + 2 * pad - size, width + 2 * pad - size
    if min(room) < 0:
        raise ValueError(f"frames of {height}x{width}, padded by {pad} on each side, are smaller than size={size}: "
                         f"decode them at {size - 2 * pad} or more, raise pad or lower size")  # fmt: skip
    return int(rng.integers(room[0] + 1)) - pad, int(rng.integers(room[1] + 1)) - pad, size, size


def _draw_scaled(augment: Augment, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """size x size anywhere in the frame scaled to a short side drawn from Augment.short_side, in the frame's pixels."""
    side = max(1, round(min(height, width) * augment.size / round(rng.uniform(*augment.short_side))))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side


def _box(view: View, height: int, width: int) -> tuple[int, int, int, int]:
    """The view's box for frames of this size: a flow store may be smaller than its video."""
    if view.frame_size == (height, width):
        return view.box
    (top, left, h, w), fy, fx = view.box, height / view.frame_size[0], width / view.frame_size[1]
    y0, x0 = min(round(top * fy), height - 1), min(round(left * fx), width - 1)
    return y0, x0, max(1, round((top + h) * fy) - y0), max(1, round((left + w) * fx) - x0)


def _check(clip: torch.Tensor, stream: str, axes: str) -> torch.Tensor:
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {STREAMS}, got {stream!r}")
    if clip.ndim != len(axes) or clip.shape[-3] != 3:
        raise ValueError(f"wanted a tensor [{','.join(axes)}] with 3 channels, got {tuple(clip.shape)}")
    if clip.is_floating_point():  # values in 0..1
        return clip.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    if clip.dtype != torch.uint8:
        raise ValueError(f"wanted uint8 in 0..255 or floating point in 0..1, got {clip.dtype}")
    return clip


def _moments(augment: Augment, stream: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (MEAN, STD) if stream == "rgb" or augment.flow_as_rgb else (FLOW_MEAN, FLOW_STD)


def _colour(view: View, augment: Augment, stream: str) -> View:
    """The view as this stream sees it. Raises ValueError on flow with RandAugment."""
    if stream == "rgb":
        return view
    if augment.randaugment or view.operations:
        raise ValueError("RandAugment is for rgb alone: it turns, shears and moves pictures and flow would not follow. "
                         "Where the streams have flow, choose an augmentation with randaugment=0")  # fmt: skip
    plain = {} if augment.flow_colour else {"order": (), "gray": "", "channels": ()}
    return replace(view, lighting=(), erase=(), **plain)


def apply(clip: torch.Tensor, view: View, augment: Augment, stream: str = "rgb") -> torch.Tensor:
    """One clip through one view on the CPU: uint8 [T,C,H,W] (or floats in 0..1) to float32 [C,T,size,size], normalised.

    A permuted view of the decoder's own [T,H,W,C] memory is the fastest input; do not call .contiguous() on it.
    """
    clip = _check(clip, stream, "TCHW")
    if clip.device.type != "cpu":
        raise ValueError(f"apply works on the CPU, the clip lies on {clip.device}: use apply_batch")
    view, size = _colour(view, augment, stream), augment.size
    frames = pixels.cut(clip, _box(view, *clip.shape[-2:]), PADDING[stream])
    frames = pixels.resize(frames, size, size, augment.interpolation)
    if view.operations:
        frames = randaugment.change(frames, view.operations)
    picture = pixels.tall(frames)
    for name in view.order:
        picture = pixels.JITTERS[name](picture, getattr(view, name), size)
    if view.gray == "luma":
        picture = pixels.luma(picture)
    elif view.gray == "channel":
        picture = pixels.split_channels(picture, _channels(view, len(clip)))
    if view.sigma > 0:
        picture = pixels.blur(picture, view.sigma, size)
    made = _finish(picture, view.flip, augment, stream, view.lighting).view(3, -1, size, size)
    return randaugment.erase(made, view.erase, view.seed) if view.erase else made


def _channels(view: View, frames: int) -> tuple[int, ...]:
    if len(view.channels) < frames:
        raise ValueError(f"the view was drawn for {len(view.channels)} frames, the clip has {frames}: draw again")
    return view.channels[:frames]


def _finish(
    picture: np.ndarray, flip: bool, augment: Augment, stream: str, lighting: tuple[float, ...] = ()
) -> torch.Tensor:
    """Flip, light and normalise: uint8 [R,W,3] or gray [R,W] to float32 [3,R,W]."""
    mean, std = _moments(augment, stream)
    scales, shifts = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if lighting:
        shifts = [shift + light / s for shift, light, s in zip(shifts, lighting, std, strict=True)]
    if flip and stream == "flow" and augment.flow_negate_u:
        scales[0], shifts[0] = -scales[0], shifts[0] + 1 / std[0]  # u becomes 255 - u
    return torch.from_numpy(pixels.planes(picture, scales, shifts, flip))


def pictures(views: torch.Tensor, augment: Augment, stream: str = "rgb") -> np.ndarray:
    """Views to look at, the normalisation taken back: float32 [V,C,T,H,W] to uint8 [V,T,H,W,C]."""
    mean, std = (torch.tensor(m).view(3, 1, 1, 1) for m in _moments(augment, stream))
    return ((views * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()


def apply_batch(clips: torch.Tensor, views: Sequence[View], augment: Augment, stream: str = "rgb") -> torch.Tensor:
    """Each clip through its view, on the clips' device: uint8 [B,T,C,H,W] to float32 [B,C,T,size,size], normalised.

    The same pictures as `apply`, to about a grey level. On a CPU `apply` is several times faster.
    """
    clips = _check(clips, stream, "BTCHW")
    if len(views) != len(clips):
        raise ValueError(f"wanted one view a clip, got {len(views)} views for {len(clips)} clips")
    views, frames = [_colour(v, augment, stream) for v in views], clips.shape[1]
    boxes, flips = [_box(v, *clips.shape[-2:]) for v in views], [v.flip for v in views]
    clips, boxes = pixels.surround(clips, boxes, PADDING[stream])
    early = [v.flip and not v.operations for v in views]  # the cheap place for a flip, but RandAugment comes before it
    x = pixels.resample_batch(clips.transpose(1, 2), boxes, early, augment.size, augment.interpolation == "bicubic")

    def change(chosen: list[int], operation: Callable[[torch.Tensor, list[View]], torch.Tensor]) -> None:
        if chosen:
            x[chosen] = operation(x[chosen], [views[i] for i in chosen])

    change([i for i, v in enumerate(views) if v.operations], _operate)
    for step, name in itertools.product(range(len(JITTERS)), JITTERS):  # clips differ in the order of operations
        chosen = [i for i, v in enumerate(views) if v.order[step : step + 1] == (name,)]
        change(chosen, lambda part, vs, name=name: pixels.jitter_batch(part, name, [getattr(v, name) for v in vs]))
    change([i for i, v in enumerate(views) if v.gray == "luma"], lambda part, vs: pixels.luma_batch(part))
    change(
        [i for i, v in enumerate(views) if v.gray == "channel"],
        lambda part, vs: pixels.split_channels_batch(part, [_channels(v, frames) for v in vs]),
    )
    change([i for i, v in enumerate(views) if v.sigma > 0], lambda p, vs: pixels.blur_batch(p, [v.sigma for v in vs]))
    if stream == "flow" and augment.flow_negate_u:
        change([i for i, flip in enumerate(flips) if flip], lambda part, vs: _negate_u(part))
    mean, std = (torch.tensor(m, device=x.device).view(3, 1, 1, 1) for m in _moments(augment, stream))
    if any(v.lighting for v in views):
        mean = mean - torch.tensor([v.lighting or (0.0,) * 3 for v in views], device=x.device).view(-1, 3, 1, 1, 1)
    x = x.div_(255).sub_(mean).div_(std)
    for made, view in zip(x, views, strict=True):
        if view.erase:
            randaugment.erase(made, view.erase, view.seed)
    return x


def _operate(x: torch.Tensor, views: list[View]) -> torch.Tensor:
    """RandAugment and the flip after it: each clip of whole levels [B,C,T,H,W] has operations of its own."""
    for made, view in zip(x, views, strict=True):
        frames = randaugment.change(made.transpose(0, 1).to(torch.uint8), view.operations).transpose(0, 1)
        made.copy_(frames.flip(-1) if view.flip else frames)
    return x


def _negate_u(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 255 - x[:, 0]
    return x


def test_crops(
    clip: torch.Tensor, crops: str = "centre", size: int = 128, resize: int | None = None, stream: str = "rgb",
    augment: Augment = SETTINGS["vidbench"],
) -> torch.Tensor:  # fmt: skip
    """Fixed crops for testing: uint8 [T,C,H,W] to float32 [V,C,T,size,size], normalised; no randomness.

    "centre"; "three" along the longer side (left, centre, right, or top, centre, bottom); "five": centre, then the
    corners row by row; "ten": those five, then the same five flipped. `resize` is the short side in pixels before
    cropping (None: as it came); frames whose short side is then below `size` are scaled up until it equals `size`.
    Of `augment` only the interpolation and the treatment of flow count.
    """
    clip = _check(clip, stream, "TCHW")
    if crops not in ("centre", "three", "five", "ten"):
        raise ValueError(f"crops must be centre, three, five or ten, got {crops!r}")
    height, width = clip.shape[-2:]
    short = max(resize or min(height, width), size)
    scale = short / min(height, width)
    height, width = (short if n == min(height, width) else round(n * scale) for n in (height, width))
    frames = pixels.resize(clip, height, width, augment.interpolation).permute(0, 2, 3, 1).contiguous().numpy()
    y, x = height - size, width - size
    centre = (y // 2, x // 2)
    if crops == "three":
        corners = [(0, x // 2), centre, (y, x // 2)] if height > width else [(y // 2, 0), centre, (y // 2, x)]
    else:
        corners = [centre] if crops == "centre" else [centre, (0, 0), (0, x), (y, 0), (y, x)]
    pictures = [np.ascontiguousarray(frames[:, t : t + size, s : s + size]).reshape(-1, size, 3) for t, s in corners]
    flips = (False, True) if crops == "ten" else (False,)
    views = [_finish(picture, flip, augment, stream) for flip in flips for picture in pictures]
    return torch.stack(views).view(len(views), 3, -1, size, size)


test_crops.__test__ = False  # pytest: a function of ours, not a test


def worker_init(worker: int) -> None:
    """For a DataLoader: a worker keeps to one thread, of OpenCV where that is safe, and leaves Ctrl-C to its parent.

    A forked worker must not touch OpenCV's threads: where its parent has run some, `cv2.setNumThreads` waits for them
    for ever. Left alone it works, on one thread.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if not isinstance(multiprocessing.current_process(), getattr(multiprocessing.context, "ForkProcess", ())):
        import cv2

        cv2.setNumThreads(1)


def training_worker(worker: int) -> None:
    """worker_init, and SIGTERM left to the parent, too: a signal to the whole group must not kill what it waits for.

    Only where the parent ends its workers itself, as engine.loop.fit does: Python's exit ends them with SIGTERM.
    """
    worker_init(worker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
