"""Views applied: clip-consistent augmentation on a CPU, or batched on a device; test crops.

Why two ways to apply: in a loader's worker, torch's 8-bit resize and OpenCV on 8-bit frames are
several times faster than PIL or torchvision's transforms (benchmarks/views.py); on a device the
same View is applied to a whole batch by matrix products and pointwise operations. Both follow PIL's
arithmetic (blends cut to whole levels, luma 0.299 0.587 0.114, hue in HSV), so a view is the same
picture either way, to about a gray level.

Streams: crop, flip and blur are shared by rgb and flow; jitter and gray touch flow only where
`flow_color` says so. Flow is stored as 8-bit (u, v, 128), see data.flow.estimate; under a flip u
becomes 255 - u, which negates it. Cropping does not rescale flow: its values stay in pixels of the
frame it was computed on. What `Augment.pad` puts around a frame is black in rgb and zero motion,
128, in flow, both before the normalization; lighting and erasing are for rgb only. RandAugment
moves things, and flow would not follow: a preset that has it refuses flow.

RandAugment comes after the crop, so it works on far fewer pixels than in the code it is from,
PySlowFast's, where whole frames go through it first. So here the gray that comes in at an edge is
never cut away, what lies outside of the crop never comes in, and histograms and mean levels are the
crop's. Where two forms differ by a level, an operation that stretches or cuts levels (equalize,
posterize) makes more of it.

Threads: importing sets nothing. In a loader pass `worker_init`; in a script that measures or mines,
set `cv2.setNumThreads(1)` and `torch.set_num_threads` before the first clip."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch

from vidbench.data.loading import pixels, randaugment
from vidbench.data.loading.augmentation import JITTERS, PRESETS, Augment, View
from vidbench.system.signals import ignore

Crops = Literal["center", "three", "five", "ten"]
CROPS = {"center": 1, "three": 3, "five": 5, "ten": 10}  # test crops of a window
Stream = Literal["rgb", "flow"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of values in 0..1
# zero flow becomes zero; the spread of ImageNet's mean channel
FLOW_MEAN, FLOW_STD = ((0.5,) * 3, (0.226,) * 3)
PADDING = {"rgb": 0, "flow": 128}  # stored levels: black, no motion


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
        raise ValueError(
            f"wanted a tensor [{','.join(axes)}] with 3 channels, got {tuple(clip.shape)}"
        )
    if clip.is_floating_point():  # values in 0..1
        return clip.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    if clip.dtype != torch.uint8:
        raise ValueError(f"wanted uint8 in 0..255 or floating point in 0..1, got {clip.dtype}")
    return clip


def moments(augment: Augment, stream: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values in 0..1, that views are normalized by."""
    return (MEAN, STD) if stream == "rgb" or augment.flow_as_rgb else (FLOW_MEAN, FLOW_STD)


def _color(view: View, augment: Augment, stream: str) -> View:
    """The view as this stream sees it. Raises ValueError on flow with RandAugment."""
    if stream == "rgb":
        return view
    if augment.randaugment or view.operations:
        raise ValueError(
            "RandAugment is for rgb alone: it turns, shears and moves pictures and flow would not "
            "follow. Where the streams have flow, choose an augmentation with randaugment=0"
        )
    if not augment.flow_color:
        view = replace(view, order=(), gray="", channels=())
    return replace(view, lighting=(), erase=())


def apply(clip: torch.Tensor, view: View, augment: Augment, stream: str = "rgb") -> torch.Tensor:
    """One clip through one view on the CPU: uint8 [T,C,H,W] (or floats in 0..1) to float32
    [C,T,size,size], normalized.

    A permuted view of the decoder's own [T,H,W,C] memory is the fastest input; do not call
    .contiguous() on it."""
    clip = _check(clip, stream, "TCHW")
    if clip.device.type != "cpu":
        raise ValueError(f"apply works on the CPU, the clip lies on {clip.device}: use apply_batch")
    view, size = _color(view, augment, stream), augment.size
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
        raise ValueError(
            f"the view was drawn for {len(view.channels)} frames, the clip has {frames}: draw again"
        )
    return view.channels[:frames]


def _finish(
    picture: np.ndarray, flip: bool, augment: Augment, stream: str, lighting: tuple[float, ...] = ()
) -> torch.Tensor:
    """Flip, light and normalize: uint8 [R,W,3] or gray [R,W] to float32 [3,R,W]."""
    mean, std = moments(augment, stream)
    scales, shifts = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if lighting:
        shifts = [shift + light / s for shift, light, s in zip(shifts, lighting, std, strict=True)]
    if flip and stream == "flow" and augment.flow_negate_u:
        scales[0], shifts[0] = -scales[0], shifts[0] + 1 / std[0]  # u becomes 255 - u
    return torch.from_numpy(pixels.planes(picture, scales, shifts, flip))


def pictures(views: torch.Tensor, augment: Augment, stream: str = "rgb") -> np.ndarray:
    """Views to look at, the normalization taken back: float32 [V,C,T,H,W] to uint8 [V,T,H,W,C]."""
    mean, std = (torch.tensor(m).view(3, 1, 1, 1) for m in moments(augment, stream))
    return (
        ((views * std + mean) * 255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 4, 1)
        .numpy()
    )


def apply_batch(
    clips: torch.Tensor, views: Sequence[View], augment: Augment, stream: str = "rgb"
) -> torch.Tensor:
    """Each clip through its view, on the clips' device: uint8 [B,T,C,H,W] to float32
    [B,C,T,size,size], normalized.

    The same pictures as `apply`, to about a gray level. On a CPU `apply` is several times faster.
    """
    clips = _check(clips, stream, "BTCHW")
    if len(views) != len(clips):
        raise ValueError(f"wanted one view a clip, got {len(views)} views for {len(clips)} clips")
    views, frames = [_color(v, augment, stream) for v in views], clips.shape[1]
    boxes, flips = [_box(v, *clips.shape[-2:]) for v in views], [v.flip for v in views]
    clips, boxes = pixels.surround(clips, boxes, PADDING[stream])
    # the cheap place for a flip, but RandAugment comes before it
    early = [v.flip and not v.operations for v in views]
    x = pixels.resample_batch(
        clips.transpose(1, 2), boxes, early, augment.size, augment.interpolation == "bicubic"
    )
    _change_colors(x, views, frames)
    if stream == "flow" and augment.flow_negate_u:
        _change(x, views, flips, lambda part, vs: _negate_u(part))
    mean, std = (
        torch.tensor(m, device=x.device).view(3, 1, 1, 1) for m in moments(augment, stream)
    )
    if any(v.lighting for v in views):
        mean = mean - torch.tensor([v.lighting or (0.0,) * 3 for v in views], device=x.device).view(
            -1, 3, 1, 1, 1
        )
    x = x.div_(255).sub_(mean).div_(std)
    for made, view in zip(x, views, strict=True):
        if view.erase:
            randaugment.erase(made, view.erase, view.seed)
    return x


def _change(
    x: torch.Tensor,
    views: Sequence[View],
    chosen: Iterable[bool],
    operation: Callable[[torch.Tensor, list[View]], torch.Tensor],
) -> None:
    """Apply an operation to the chosen clips, in place."""
    rows = [i for i, this in enumerate(chosen) if this]
    if rows:
        x[rows] = operation(x[rows], [views[i] for i in rows])


def _change_colors(x: torch.Tensor, views: Sequence[View], frames: int) -> None:
    """RandAugment, jitter, gray and blur of each clip's own view, in place."""
    _change(x, views, (bool(v.operations) for v in views), _operate)
    # clips differ in the order of operations
    for step, name in itertools.product(range(len(JITTERS)), JITTERS):
        _change(
            x, views, (v.order[step : step + 1] == (name,) for v in views), partial(_jittered, name)
        )
    _change(x, views, (v.gray == "luma" for v in views), lambda part, vs: pixels.luma_batch(part))
    _change(
        x,
        views,
        (v.gray == "channel" for v in views),
        lambda part, vs: pixels.split_channels_batch(part, [_channels(v, frames) for v in vs]),
    )
    _change(
        x,
        views,
        (v.sigma > 0 for v in views),
        lambda part, vs: pixels.blur_batch(part, [v.sigma for v in vs]),
    )


def _jittered(name: str, part: torch.Tensor, drawn: list[View]) -> torch.Tensor:
    """One jitter of some clips, each by its own view's factor."""
    return pixels.jitter_batch(part, name, [getattr(view, name) for view in drawn])


def _operate(x: torch.Tensor, views: list[View]) -> torch.Tensor:
    """RandAugment and the flip after it: each clip of whole levels [B,C,T,H,W] has operations of
    its own."""
    for made, view in zip(x, views, strict=True):
        frames = randaugment.change(
            made.transpose(0, 1).to(torch.uint8), view.operations
        ).transpose(0, 1)
        made.copy_(frames.flip(-1) if view.flip else frames)
    return x


def _negate_u(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 255 - x[:, 0]
    return x


def _corners(crops: str, y: int, x: int, center: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of each crop, where the last is at (y, x)."""
    if crops == "center":
        return [center]
    if crops != "three":
        return [center, (0, 0), (0, x), (y, 0), (y, x)]
    if y > x:
        return [(0, center[1]), center, (y, center[1])]
    return [(center[0], 0), center, (center[0], x)]


def test_crops(
    clip: torch.Tensor,
    crops: str = "center",
    size: int = 128,
    resize: int | None = None,
    stream: str = "rgb",
    augment: Augment = PRESETS["vidbench"],
    cut_first: bool = False,
) -> torch.Tensor:
    """Fixed crops for testing: uint8 [T,C,H,W] to float32 [V,C,T,size,size], normalized; no
    randomness.

    "center"; "three" along the longer side (left, center, right, or top, center, bottom); "five":
    center, then the corners row by row; "ten": those five, then the same five flipped. `resize` is
    the short side in pixels before cropping (None: as it came); frames whose short side is then
    below `size` are scaled up until it equals `size`. `cut_first` takes the same share of the frame
    in whole pixels of the frame and scales it then, as CoCLR's code does: of 240 pixels 224, not 128
    of 137. Of `augment` only the interpolation and the treatment of flow count."""
    clip = _check(clip, stream, "TCHW")
    if crops not in CROPS:
        raise ValueError(f"crops must be one of {', '.join(CROPS)}, got {crops!r}")
    height, width = clip.shape[-2:]
    short = max(resize or min(height, width), size)
    scale, side = short / min(height, width), size
    if cut_first:
        side = max(1, round(size / scale))
    else:
        height, width = (
            short if n == min(height, width) else round(n * scale) for n in (height, width)
        )
        clip = pixels.resize(clip, height, width, augment.interpolation)
    y, x = height - side, width - side
    center = (round(y / 2), round(x / 2)) if cut_first else (y // 2, x // 2)
    pictures = []
    for top, left in _corners(crops, y, x, center):
        part = clip[:, :, top : top + side, left : left + side]
        pictures.append(pixels.tall(pixels.resize(part, size, size, augment.interpolation)))
    flips = (False, True) if crops == "ten" else (False,)
    views = [_finish(picture, flip, augment, stream) for flip in flips for picture in pictures]
    return torch.stack(views).view(len(views), 3, -1, size, size)


vars(test_crops)["__test__"] = False  # pytest: a function of ours, not a test


def worker_init(worker: int) -> None:
    """For a DataLoader: a worker keeps to one thread, of OpenCV where that is safe, and leaves
    Ctrl-C to its parent.

    A forked worker must not touch OpenCV's threads: where its parent has run some,
    `cv2.setNumThreads` waits for them for ever. Left alone it works, on one thread."""
    ignore(signal.SIGINT)
    torch.set_num_threads(1)
    if not isinstance(
        multiprocessing.current_process(), getattr(multiprocessing.context, "ForkProcess", ())
    ):
        import cv2

        cv2.setNumThreads(1)


def training_worker(worker: int) -> None:
    """worker_init, and SIGTERM left to the parent, too: a signal to the whole group must not kill
    what it waits for.

    Only where the parent ends its workers itself, as engine.loop.fit does: Python's exit ends them
    with SIGTERM."""
    worker_init(worker)
    ignore(signal.SIGTERM)
