"""Views applied to one clip on a CPU: clip-consistent augmentation; test crops.

A view has two parts. `cut` crops, scales and RandAugments 8-bit frames: torch's 8-bit resize is
several times faster than PIL or torchvision's transforms (benchmarks/views.py), and its pictures
all have one size. `apply` then does the rest by OpenCV; batched.py does it on a device for a whole
batch. Both follow PIL's arithmetic (blends cut to whole levels, luma 0.299 0.587 0.114, hue in
HSV).

Streams: crop, flip and blur are shared by rgb and flow; jitter and gray touch flow only where
`flow_color` says so. Flow is stored as 8-bit (u, v, 128), see data.flow.estimate; under a flip u
becomes 255 - u, which negates it. Cropping does not rescale flow: its values stay in pixels of the
frame it was computed on. What `Augment.pad` puts around a frame is black in rgb and zero motion,
128, in flow, both before the normalization; lighting and erasing are for rgb only. RandAugment
moves things, and flow would not follow: a preset that has it refuses flow.

RandAugment comes after the crop, so it works on far fewer pixels than in the code it is from,
PySlowFast's, where whole frames go through it first. So here the gray that comes in at an edge is
never cut away, pixels outside the crop never come in, and histograms and mean levels are the
crop's.

Threads: importing sets nothing. In a loader pass `worker_init`; in a script that measures or mines,
set `cv2.setNumThreads(1)` and `torch.set_num_threads` before the first clip."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch

from vidbench.data.loading import pixels, randaugment
from vidbench.data.loading.augmentation import PRESETS, Augment, View
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
    """Return the mean and standard deviation that views are normalized by, of each channel in 0..1.

    Args:
        stream: rgb or flow.
    """
    return (MEAN, STD) if stream == "rgb" or augment.flow_as_rgb else (FLOW_MEAN, FLOW_STD)


def seen_by(view: View, augment: Augment, stream: str) -> View:
    """Return the view without what this stream does not get.

    Flow gets no lighting and erasing, and jitter and gray only with `flow_color`.

    Args:
        stream: rgb or flow.

    Raises:
        ValueError: The stream is flow, and the view or the preset has RandAugment.
    """
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


def cut(clip: torch.Tensor, view: View, augment: Augment, stream: str = "rgb") -> torch.Tensor:
    """Do the first part of a view, in 8 bits: crop, resize, RandAugment.

    Args:
        clip: uint8 [T,C,H,W] (or floats in 0..1) on the CPU.
        view: As `seen_by` this stream.

    Returns:
        uint8 [T,C,size,size].

    Raises:
        ValueError: The clip is not on the CPU, or no such clip.
    """
    clip = _check(clip, stream, "TCHW")
    if clip.device.type != "cpu":
        raise ValueError(
            f"a clip must be on the CPU to be cut, got one on {clip.device}; see batched.apply_batch"
        )
    frames = pixels.cut(clip, _box(view, *clip.shape[-2:]), PADDING[stream])
    frames = pixels.resize(frames, augment.size, augment.size, augment.interpolation)
    return randaugment.change(frames, view.operations) if view.operations else frames


def apply(clip: torch.Tensor, view: View, augment: Augment, stream: str = "rgb") -> torch.Tensor:
    """Show one clip through one view on the CPU: float32 [C,T,size,size], normalized.

    A permuted view of the decoder's own [T,H,W,C] memory is the fastest input; do not call
    .contiguous() on it.

    Args:
        clip: uint8 [T,C,H,W] (or floats in 0..1).
        stream: rgb or flow.
    """
    view, size = seen_by(view, augment, stream), augment.size
    picture = pixels.tall(cut(clip, view, augment, stream))
    for name in view.order:
        picture = pixels.JITTERS[name](picture, getattr(view, name), size)
    if view.gray == "luma":
        picture = pixels.luma(picture)
    elif view.gray == "channel":
        picture = pixels.split_channels(picture, channels(view, len(clip)))
    if view.sigma > 0:
        picture = pixels.blur(picture, view.sigma, size)
    made = _finish(picture, view.flip, augment, stream, view.lighting).view(3, -1, size, size)
    if view.erase:
        drawn = randaugment.noise(tuple(made.shape), view.erase, view.seed)
        randaugment.erase(made, view.erase, drawn)
    return made


def channels(view: View, frames: int) -> tuple[int, ...]:
    """Return the color channel that each frame of a gray "channel" view shows, [T].

    Args:
        frames: Of the clip.

    Raises:
        ValueError: The view was drawn for fewer frames.
    """
    if len(view.channels) < frames:
        raise ValueError(
            f"the view was drawn for {len(view.channels)} frames, the clip has {frames}: draw again"
        )
    return view.channels[:frames]


def levels_to_values(
    flip: bool, augment: Augment, stream: str, lighting: tuple[float, ...] = ()
) -> tuple[list[float], list[float]]:
    """Return each channel's scale and shift: levels 0..255 * scale + shift are lit and normalized.

    Args:
        flip: Whether the view is flipped, which negates u of flow if `flow_negate_u`.
        stream: rgb or flow.
        lighting: Added to each channel, in 0..1.
    """
    mean, std = moments(augment, stream)
    scales, shifts = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    if lighting:
        shifts = [shift + light / s for shift, light, s in zip(shifts, lighting, std, strict=True)]
    if flip and stream == "flow" and augment.flow_negate_u:
        scales[0], shifts[0] = -scales[0], shifts[0] + 1 / std[0]  # u becomes 255 - u
    return scales, shifts


def _finish(
    picture: np.ndarray, flip: bool, augment: Augment, stream: str, lighting: tuple[float, ...] = ()
) -> torch.Tensor:
    """Flip, light and normalize: uint8 [R,W,3] or gray [R,W] to float32 [3,R,W]."""
    scales, shifts = levels_to_values(flip, augment, stream, lighting)
    return torch.from_numpy(pixels.planes(picture, scales, shifts, flip))


def pictures(views: torch.Tensor, augment: Augment, stream: str = "rgb") -> np.ndarray:
    """Undo the normalization of views, to look at them: uint8 [V,T,H,W,C].

    Args:
        views: float32 [V,C,T,H,W].
        stream: rgb or flow.
    """
    mean, std = (torch.tensor(m).view(3, 1, 1, 1) for m in moments(augment, stream))
    return (
        ((views * std + mean) * 255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 4, 1)
        .numpy()
    )


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
    """Cut fixed crops for testing: float32 [V,C,T,size,size], normalized; nothing is random.

    Args:
        clip: uint8 [T,C,H,W].
        crops: "center"; "three" along the longer side (left, center, right, or top, center,
            bottom); "five": center, then the corners row by row; "ten": those five, then the same
            five flipped.
        resize: The short side in pixels before cropping; None: unchanged. A frame whose short side
            is then below `size` is scaled up to it.
        stream: rgb or flow.
        augment: Only its interpolation and treatment of flow count.
        cut_first: Take the same share of the frame in whole pixels of the frame and scale it then,
            as CoCLR's code does: of 240 pixels 224, not 128 of 137.

    Raises:
        ValueError: Unknown crops, or no such clip.
    """
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
    """Set up a DataLoader's worker: one thread (of OpenCV, if safe), Ctrl-C left to its parent.

    A forked worker must not touch OpenCV's threads: where its parent has run some,
    `cv2.setNumThreads` waits for them without end. Left alone it works, on one thread."""
    ignore(signal.SIGINT)
    torch.set_num_threads(1)
    if not isinstance(
        multiprocessing.current_process(), getattr(multiprocessing.context, "ForkProcess", ())
    ):
        import cv2

        cv2.setNumThreads(1)


def training_worker(worker: int) -> None:
    """Set up a worker as `worker_init` does, and leave SIGTERM to the parent, too.

    A signal to the whole process group must not kill workers that the parent waits for. Use it only
    if the parent ends its workers itself, as engine.loop.fit does: Python's exit ends them with
    SIGTERM.
    """
    worker_init(worker)
    ignore(signal.SIGTERM)
