"""Augmentation in two places: workers cut clips in 8 bits, a device does the rest for a batch.

A worker draws the View, crops, scales and RandAugments (`transforms.cut`), and sends uint8 pictures,
a quarter of the bytes of float32. What is left of the view goes along as a row of numbers: jitter,
gray, blur, flip, lighting, normalization, the box to erase. `finish` applies it. The draws are the
worker's, so both places show the same pictures:

- to 0.001 of 255 levels: crops, flips, RandAugment, lighting, single channels and erasing;
- to one level: brightness, contrast, saturation and luma, where a value is a rounding tie, and
  blur, which OpenCV computes in fixed point;
- to 0.3 levels on average and five at most: hue, as OpenCV's HSV has 8 bits.

A copy of the numbers stays on the host. So the host knows what to launch, and does not wait for the
device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.utils.data import default_collate

from vidbench.data.loading import pixels, randaugment, transforms
from vidbench.data.loading.augmentation import JITTERS, Augment, View
from vidbench.data.loading.transforms import STREAMS

# Columns of a view's numbers; behind the last one are the channels of a gray "channel" view, [T].
ORDER = slice(0, 4)  # which of JITTERS comes first, second, ...; -1: none
FACTORS = dict(zip(JITTERS, range(4, 8), strict=True))
GRAY, SIGMA, FLIP = 8, 9, 10
SCALE, SHIFT = slice(11, 14), slice(14, 17)  # of each channel: levels to normalized values
BOX = slice(17, 21)  # to erase: top, left, height, width
WIDTH = 21
AT_ONCE = 1 << 29  # bytes of clips in float32 that the device works on together
GRAYS = ("", "luma", "channel")
Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def names(stream: str) -> tuple[str, str]:
    """Return the keys of a stream's numbers and of its noise in a batch."""
    return f"{stream} view", f"{stream} noise"


def pack(
    drawn: Sequence[tuple[torch.Tensor, View]], augment: Augment, stream: str
) -> dict[str, torch.Tensor]:
    """Make what a worker sends of a stream.

    Args:
        drawn: V clips uint8 [T,C,H,W], each with its view.

    Returns:
        The clips uint8 [V,T,size,size,C], their numbers float32 [V,WIDTH+T], and the noise of all
        boxes to erase, float32 [n].
    """
    clips, numbers, noise = [], [], [torch.empty(0)]
    for clip, view in drawn:
        view = transforms.seen_by(view, augment, stream)
        frames = transforms.cut(clip, view, augment, stream)
        clips.append(frames.permute(0, 2, 3, 1))
        numbers.append(_numbers(view, augment, stream, len(frames)))
        if view.erase:
            shape = frames.shape[1], len(frames)
            noise.append(randaugment.noise(shape, view.erase, view.seed).flatten())
    row, sent = names(stream)
    return {stream: torch.stack(clips), row: torch.tensor(numbers), sent: torch.cat(noise)}


def _numbers(view: View, augment: Augment, stream: str, frames: int) -> list[float]:
    """A view's columns, in their order."""
    order = [JITTERS.index(name) for name in view.order]
    scales, shifts = transforms.levels_to_values(view.flip, augment, stream, view.lighting)
    gray = GRAYS.index(view.gray)
    shown = transforms.channels(view, frames) if view.gray == "channel" else (0,) * frames
    return [
        *order,
        *[-1] * (len(JITTERS) - len(order)),
        view.brightness,
        view.contrast,
        view.saturation,
        pixels.hue_steps(view.hue),
        gray,
        view.sigma,
        view.flip,
        *scales,
        *shifts,
        *(view.erase or (0,) * 4),
        *shown,
    ]


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Make a batch: tensors of `pack` are stacked [B,V,...], noise of any length is joined [n]."""
    flat = {names(stream)[1] for stream in STREAMS}
    held = [{name: one[name] for name in one if name not in flat} for one in samples]
    joined = {n: torch.cat([one[n] for one in samples]) for n in flat & samples[0].keys()}
    return {**default_collate(held), **joined}


def finish(
    batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Move a batch to the device and augment its clips there; everything else is unchanged.

    Args:
        batch: From `collate`.
        dtype: Of the finished clips.

    Returns:
        The batch, with clips [B,V,C,T,size,size] by stream.
    """
    packed = [stream for stream in STREAMS if names(stream)[0] in batch]
    rows = {stream: batch[names(stream)[0]] for stream in packed}
    made = {
        name: value.to(device, non_blocking=True)
        for name, value in batch.items()
        if name not in {names(stream)[0] for stream in packed}
    }
    for stream, numbers in rows.items():
        clips, noise = made[stream].flatten(0, 1), made.pop(names(stream)[1])
        views = apply_batch(clips, numbers.flatten(0, 1), noise, dtype)
        made[stream] = views.unflatten(0, numbers.shape[:2])
    return made


def apply_batch(
    clips: torch.Tensor,
    numbers: torch.Tensor,
    noise: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Do the second part of views for a batch, on the clips' device.

    Args:
        clips: uint8 [B,T,size,size,C].
        numbers: float32 [B,WIDTH+T] on the CPU.
        noise: float32 [n] on the device, of all boxes to erase.

    Returns:
        [B,C,T,size,size], normalized; in channels_last_3d memory on CUDA.
    """
    count, frames, height, width, channels = clips.shape
    layout = torch.channels_last_3d if clips.is_cuda else torch.contiguous_format
    made = torch.empty(
        (count, channels, frames, height, width),
        dtype=dtype,
        device=clips.device,
        memory_format=layout,
    )
    together = max(1, AT_ONCE // (4 * clips[0].numel()))
    parts = zip(*(each.split(together) for each in (clips, numbers, made)), strict=True)
    for some, rows, out in parts:
        _apply(some, rows, out)
    boxes = numbers[:, BOX].long()
    sizes = boxes[:, 2:].prod(dim=1) * channels * frames
    for clip, box, drawn in zip(made, boxes.tolist(), noise.split(sizes.tolist()), strict=True):
        if len(drawn):
            drawn = drawn.view(channels, frames, *box[2:])
            randaugment.erase(clip, tuple(box), drawn)
    return made


def _apply(clips: torch.Tensor, numbers: torch.Tensor, out: torch.Tensor) -> None:
    """All but erasing of some clips, into `out`."""
    x = clips.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    steps = _steps(numbers)
    chosen = torch.cat([torch.empty(0, dtype=torch.long), *(rows for _, rows in steps)])
    table, chosen = _sent(numbers, x.device), _sent(chosen, x.device)
    sizes = [len(rows) for _, rows in steps]
    for (operation, _), rows in zip(steps, chosen.split(sizes), strict=True):
        x[rows] = operation(x[rows], table[rows])
    scale, shift = (table[:, columns].view(-1, 3, 1, 1, 1) for columns in (SCALE, SHIFT))
    out.copy_(torch.addcmul(shift, x, scale))


def _sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device, which the host does not wait for."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _steps(numbers: torch.Tensor) -> list[tuple[Operation, torch.Tensor]]:
    """Operations in their order, each with the rows of the clips that it changes."""
    order, gray, sigma = numbers[:, ORDER], numbers[:, GRAY], numbers[:, SIGMA]
    steps: list[tuple[Operation, torch.Tensor]] = []
    for place in range(len(JITTERS)):  # clips differ in the order of operations
        for code, name in enumerate(JITTERS):
            steps.append((partial(_jittered, name), order[:, place] == code))
    steps += [
        (lambda x, _: pixels.luma_batch(x), gray == GRAYS.index("luma")),
        (_split, gray == GRAYS.index("channel")),
        (partial(_blurred, float(sigma.max())), sigma > 0),
        (lambda x, _: x.flip(-1), numbers[:, FLIP] > 0),
    ]
    return [(step, rows.nonzero()[:, 0]) for step, rows in steps if bool(rows.any())]


def _jittered(name: str, x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return pixels.jitter_batch(x, name, numbers[:, FACTORS[name]])


def _split(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return pixels.split_channels_batch(x, numbers[:, WIDTH:].long())


def _blurred(most: float, x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return pixels.blur_batch(x, numbers[:, SIGMA], most)
