"""TV-L1 optical flow of many frame pairs at once in PyTorch, step for step as in OpenCV.

Zach, Pock, Bischof: A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007; Sanchez,
Meinhardt-Llopis, Facciolo: TV-L1 Optical Flow Estimation, IPOL 2013; with the numbers, borders,
median filter and stopping rule of `cv2.optflow.DualTVL1OpticalFlow` (OpenCV 5; 4.x rounds the
places it warps from to 1/32 pixel, this does not). Gamma, OpenCV's extra illumination term, is left
out: it is 0 by default.

One pair at one scale: warp the second frame by the flow found so far and linearize there; then iterate
    v = u + clamp(-rho / |grad I|^2, +-lambda theta) grad I      with rho = rho_c + grad I . u       (data)
    u = v + theta div p                                                                              (smoothness)
    p = (p + tau / theta grad u) / (1 + tau / theta |grad u|)                                        (dual)
until u moves by less than epsilon (root mean square over the picture) in an iteration, with a 5x5
median filter of u before each `inner` iterations; then warp again. Scales go from coarse to fine.

Made for a GPU: a pair that has stopped is frozen by its own step sizes, which become 0, so no pair
waits on the host's decision; the host reads how many are left once in CHECK iterations and then
drops finished pairs from the batch. The iterations between two questions, and the median, are one
compiled call each on CUDA. Batches should fill the device: some hundred pairs of 128x128. Compiled,
512 pairs of 128x128 take 0.48 ms a pair on an H200 (benchmarks/README.md). On one CPU core, 10 pairs
of 128x128 real motion, milliseconds a pair: at epsilon 0.01 OpenCV 250, this in eager mode 160,
compiled 65 (after a minute in the compiler); at 0.05 45, 65 and 35.

How near it is: 0.001 to 0.05 pixels in the mean at 128x128. OpenCV's flow moves as much when 1e-6
gray levels of noise are added to its frames; late iterations amplify rounding where the pictures
say nothing, mostly at borders. So results on other devices, or compiled, are not equal bit by bit
either.

Memory: about 180 bytes per pair and pixel at the peak in eager mode (measured on a CPU), up to 40
more where height or width are just above a power of two; the caller chooses the batch.

Example, a texture that moves two pixels to the right:

>>> texture = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 50, 70, generator=torch.manual_seed(0)), 7, 1)
>>> first, second = (255 * texture[0, :, :, 2 - d:50 - d] for d in (0, 2))
>>> flow = estimate(first.byte(), second.byte())
>>> flow.shape, [round(float(one), 1) for one in flow[0, 12:-12, 12:-12].mean((0, 1))]
(torch.Size([1, 44, 48, 2]), [2.0, 0.0])
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHECK = 10  # iterations between two questions to the device; best a divisor of Settings.inner
SMALLEST = 16  # pixels; OpenCV adds no coarser scale whose height or width would be below
# |grad I|^2 below which a pixel says nothing of motion: FLT_EPSILON, as in OpenCV
_FLAT = 1.1920929e-07

# Compare and exchange (smaller value to the first place): five values sorted
_SORT = ((0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2))
# Which places of each row may hold the median of a 5x5 window once its columns, then its rows are
# sorted: the other twelve have over twelve values on one side of them
_MIDDLE = ((3, 4), (2, 3, 4), (1, 2, 3), (0, 1, 2), (0, 1))
# Brings the median of those 13 to place 6; found by random search over pruned sorting networks,
# checked on all 252 ways in which zeros and ones can occur in such a window (the 0-1 principle)
_SELECT = (
    (8, 5),
    (3, 9),
    (12, 4),
    (10, 1),
    (5, 3),
    (12, 6),
    (11, 2),
    (3, 0),
    (9, 12),
    (7, 2),
    (9, 0),
    (10, 7),
    (0, 11),
    (12, 10),
    (6, 7),
    (9, 12),
    (6, 11),
    (12, 6),
)


@dataclass(frozen=True)
class Settings:
    """The numbers of the method, OpenCV's defaults; the comments hold its names for them."""

    tau: float = 0.25  # time step of the dual
    weight: float = 0.15  # lambda: of the data term; smaller is smoother
    theta: float = 0.3  # tightness: how near u and v are held
    scales: int = 5  # ScalesNumber, at most
    step: float = 0.8  # ScaleStep: size of a scale over that of the next finer one
    warps: int = 5  # WarpingsNumber, on each scale
    inner: int = 30  # InnerIterations, between two median filters
    outer: int = 10  # OuterIterations: median filters in a warp, at most

    def __post_init__(self):
        if min(self.tau, self.weight, self.theta) <= 0 or not 0 < self.step < 1:
            raise ValueError(
                f"wanted tau, weight, theta above 0 and step between 0 and 1, got {self}"
            )
        if min(self.scales, self.warps, self.inner, self.outer) < 1:
            raise ValueError(f"wanted scales, warps, inner, outer of at least 1, got {self}")


@torch.no_grad()
def estimate(
    first: Tensor | np.ndarray,
    second: Tensor | np.ndarray,
    *,
    epsilon: float = 0.01,
    iterations: int | None = None,
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    compiled: bool | None = None,
) -> Tensor:
    """Estimate TV-L1 flow from each first to its second frame: float32 [B,H,W,2].

    Flow is in pixels: u to the right, v down. Each pair is computed as if it were alone, to float
    rounding (the module says how much that can change).

    Args:
        first, second: Gray [B,H,W]: uint8, or floating point in 0..255 (OpenCV: 0..1); H and W at
            least 3.
        epsilon: Pixels. A pair leaves a warp after the iteration in which its flow moved by at most
            this (root mean square), OpenCV's rule and default. "tvl1_fast" has 0.05.
        iterations: Exactly so many in each warp, whatever epsilon is; the host then never waits for
            the device. None: by epsilon.
        settings: The other numbers; None: OpenCV's defaults.
        device: Where to compute and leave the result; None: where `first` is (the CPU for arrays).
        compiled: Whether torch.compile makes the iterations and the median; None: on CUDA only. The
            first call then takes as long as the compiler does.

    Raises:
        TypeError: frames of another type.
        ValueError: frames of another shape, or numbers out of range.
    """
    settings = settings or Settings()
    if not epsilon >= 0 or (iterations is not None and iterations < 1):
        raise ValueError(
            f"wanted epsilon >= 0 and iterations >= 1 or None, got {epsilon!r} and {iterations!r}"
        )
    first, second = _frames(first, second, device)
    if not len(first):
        return first.new_zeros(*first.shape, 2)
    run = _compiled if (first.is_cuda if compiled is None else compiled) else _eager
    scales = _pyramid(first, second, settings)
    flow = torch.zeros_like(scales[-1][0]), torch.zeros_like(scales[-1][0])
    rate, pull = settings.tau / settings.theta, settings.weight * settings.theta
    # a tensor: a compiler neither bakes them in nor widens them
    numbers = torch.tensor((rate, pull, settings.theta, epsilon**2), device=first.device)
    for first, second in reversed(scales):
        (height, width), (low, narrow) = first.shape[-2:], flow[0].shape[-2:]
        if (low, narrow) != (height, width):
            size, ratio = (height, width), (low / height, narrow / width)
            u, v = (_resize(part, size, ratio) / settings.step for part in flow)
            flow = u, v
        flow = _one_scale(first, second, flow, numbers, settings, iterations, run)
    return torch.stack(flow, -1)


def _frames(first, second, device) -> tuple[Tensor, Tensor]:
    """Both as float32 in 0..255 on the device, or an error that says what was wrong."""
    pair = [  # a copy of arrays: read-only ones and negative strides are no concern of the caller's
        torch.tensor(np.ascontiguousarray(frames))
        if isinstance(frames, np.ndarray)
        else torch.as_tensor(frames)
        for frames in (first, second)
    ]
    if pair[0].shape != pair[1].shape or pair[0].ndim != 3 or min(pair[0].shape[1:]) < 3:
        raise ValueError(
            "wanted two batches of gray frames of one shape [B,H,W], H and W at least 3, got "
            f"{tuple(pair[0].shape)} and {tuple(pair[1].shape)}: add the batch axis to single "
            "frames, turn colors to gray"
        )
    kinds = [frames.dtype for frames in pair]
    if any(kind != torch.uint8 and not kind.is_floating_point for kind in kinds):
        raise TypeError(
            f"wanted uint8 or floating point frames in 0..255, got {kinds[0]} and {kinds[1]}: "
            "convert them"
        )
    device = pair[0].device if device is None else device
    pair = [frames.to(device, torch.float32).contiguous() for frames in pair]
    for frames, kind in zip(pair, kinds, strict=True):
        if kind != torch.uint8 and not bool(((frames >= 0) & (frames <= 255)).all()):
            raise ValueError(
                "wanted frames in 0..255, got "
                f"{frames.min().item():.4g}..{frames.max().item():.4g}:"
                " scale and clip them, and look for values that are not finite"
            )
    return pair[0], pair[1]


# ----------------------------------------------------------------------------------------- scales


def _pyramid(first: Tensor, second: Tensor, settings: Settings) -> list[tuple[Tensor, Tensor]]:
    """Both frames [B,H,W] at each scale, finest first."""
    scales, ratio = [(first, second)], (1 / settings.step, 1 / settings.step)
    while len(scales) < settings.scales:
        height, width = scales[-1][0].shape[-2:]
        size = round(height * settings.step), round(width * settings.step)
        if min(size) < SMALLEST:
            break
        scales.append((_resize(scales[-1][0], size, ratio), _resize(scales[-1][1], size, ratio)))
    return scales


def _resize(frames: Tensor, size: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    """[...,H,W] to [...,*size], bilinear, not antialiased; ratio: steps in the source for one in
    the result.

    Not F.interpolate: OpenCV goes down in steps of exactly 1 / 0.8 to a rounded size, which that
    cannot say."""
    for axis in (-1, -2):
        last = frames.shape[axis] - 1
        place = (torch.arange(size[axis], device=frames.device, dtype=torch.float64) + 0.5) * ratio[
            axis
        ] - 0.5
        low = place.clamp_(0, last).long()
        part = (place - low).float()
        part = part if axis == -1 else part[:, None]
        below, above = (
            frames.index_select(axis, low),
            frames.index_select(axis, (low + 1).clamp_(max=last)),
        )
        frames = torch.lerp(below, above, part)
    return frames


def _one_scale(
    first, second, flow, numbers, settings: Settings, iterations: int | None, run: Callable
) -> tuple:
    """The flow (u, v), each [B,H,W], after all warps of one scale."""
    # Zeros behind the last pixels up to powers of two: grid_sample's places in -1..1 are then exact
    # where nothing moves, and a still picture has no flow; else rounding becomes flow of some 0.1
    # pixels where the picture is flat.
    height, width = (1 << (n - 1).bit_length() for n in second.shape[-2:])
    looks = torch.stack((second, *_central_gradient(second)), 1)
    looks = F.pad(looks, (0, width - second.shape[2], 0, height - second.shape[1]))
    # u, v and their duals; these last over warps
    state = (*flow, *(torch.zeros_like(first) for _ in range(4)))
    for _ in range(settings.warps):
        data = _linearize(first, looks, *state[:2])
        state = _one_warp(state, data, numbers, settings, iterations, run)
    return state[:2]


def _central_gradient(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Half the difference of both neighbors to the right and down [B,H,W]; at borders of the one
    and the pixel."""
    padded = F.pad(frames[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    right, down = (
        padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2],
        padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1],
    )
    return 0.5 * right, 0.5 * down


def _linearize(
    first: Tensor, looks: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the iterations of a warp know of the pictures: gradient (x, y), -1 / |gradient|^2 and
    rho_c, all [B,H,W].

    looks: the second frame and its gradient, padded, looked up bicubically (A = -0.75) at x + u, 0
    outside."""
    x = torch.arange(u.shape[2], device=u.device, dtype=u.dtype) + u
    y = torch.arange(u.shape[1], device=u.device, dtype=u.dtype)[:, None] + v
    height, width = looks.shape[-2:]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    second, right, down = F.grid_sample(
        looks, grid, "bicubic", "zeros", align_corners=False
    ).unbind(1)
    rho = second - right * u - down * v - first
    return right.contiguous(), down.contiguous(), -1 / (right**2 + down**2).clamp_min(_FLAT), rho


# ------------------------------------------------------------------------------------- iterations


def _one_warp(
    state, data, numbers, settings: Settings, iterations: int | None, run: Callable
) -> tuple:
    """State (u, v, dual of u in x and y, dual of v in x and y), each [B,H,W], after the iterations
    of one warp."""
    total = iterations or settings.inner * settings.outer
    # 1 where the pair still moves, 0 where it has stopped [B,1,1]
    moving = torch.ones_like(state[0][:, :1, :1])
    whole = rows = None  # all pairs and which of them are in `state`, once some were dropped
    for start in range(0, total, settings.inner):
        state = (*run(_median)(state[0], state[1], moving), *state[2:])
        end = min(start + settings.inner, total)
        for at in range(start, end, CHECK):
            state, moving = run(_iterate)(
                state, data, moving, numbers, iterations is None, min(CHECK, end - at)
            )
            if iterations is not None:
                continue
            left = int(moving.sum())  # here the host waits for the device
            if not left:
                return _put_back(whole, rows, state)
            # few sizes, and never the 1 that compilers treat apart
            size = max(2, 1 << (left - 1).bit_length())
            if size <= len(moving) // 2:
                keep = moving.flatten().argsort(descending=True, stable=True)[:size]
                whole, rows = _put_back(whole, rows, state), keep if rows is None else rows[keep]
                state, data = (tuple(part[keep] for part in parts) for parts in (state, data))
                moving = moving[keep]
    return _put_back(whole, rows, state)


def _put_back(whole: tuple | None, rows: Tensor | None, state: tuple) -> tuple:
    if whole is None:
        return state
    for there, part in zip(whole, state, strict=True):
        there[rows] = part
    return whole


def _iterate(
    state: tuple, data: tuple, moving: Tensor, numbers: Tensor, stop: bool, steps: int
) -> tuple:
    """`steps` iterations of each pair that moves: (state, moving).

    numbers: tau / theta, lambda theta, theta, epsilon squared; stop: whether pairs that hardly move
    any more stop. Planes [B,H,W] are separate, not stacked, so that a compiler can make one kernel
    of everything up to the new (u, v) and one of the four duals: 22 floats read or written per
    pixel. Where moving is 0 all steps are 0, nothing changes."""
    u, v, ux, uy, vx, vy = state
    right, down, slope, rho_c = data
    rate, bound, theta, limit = numbers.unbind()
    for _ in range(steps):
        length = ((rho_c + right * u + down * v) * slope).clamp(-bound, bound) * moving
        pull = theta * moving
        new_u = u + length * right + pull * _divergence(ux, uy)
        new_v = v + length * down + pull * _divergence(vx, vy)
        ux, uy = _dual(new_u, ux, uy, rate * moving)
        vx, vy = _dual(new_v, vx, vy, rate * moving)
        if stop:  # a pair that has stopped moves by 0 and stays so
            moved = (
                ((new_u - u).square() + (new_v - v).square())
                .sum(2, keepdim=True)
                .sum(1, keepdim=True)
            )
            moving = (moved > limit * u.shape[1] * u.shape[2]).to(u.dtype)
        u, v = new_u, new_v
    return (u, v, ux, uy, vx, vy), moving


def _divergence(x: Tensor, y: Tensor) -> Tensor:
    """Backward differences, 0 before the first pixel: minus the transpose of the forward ones, as
    duality needs."""
    return x - F.pad(x[..., :-1], (1, 0)) + (y - F.pad(y[..., :-1, :], (0, 0, 1, 0)))


def _dual(flow: Tensor, x: Tensor, y: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """The dual (x, y) of one part of the flow after one step along its forward gradient, 0 behind
    the last pixel."""
    along, across = F.pad(flow.diff(dim=-1), (0, 1)), F.pad(flow.diff(dim=-2), (0, 0, 0, 1))
    scale = 1 + rate * (along.square() + across.square()).sqrt()
    return (x + rate * along) / scale, (y + rate * across) / scale


def _median(u: Tensor, v: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """5x5 median of each part of the flow [B,H,W], edges repeated, for the pairs that move."""
    return torch.where(moving > 0, median5(u), u), torch.where(moving > 0, median5(v), v)


def median5(planes: Tensor) -> Tensor:
    """Filter planes [B,H,W] by the median of 5x5 pixels, edges repeated.

    It only compares and exchanges values of shifted planes. Columns are sorted once for the five
    windows that share them.
    """
    height, width = planes.shape[-2:]
    padded = F.pad(planes[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    columns = _exchange([padded[:, i : i + height] for i in range(5)], _SORT)
    middle = []
    for column, places in zip(columns, _MIDDLE, strict=True):
        row = _exchange([column[..., j : j + width] for j in range(5)], _SORT)
        middle += [row[j] for j in places]
    return _exchange(middle, _SELECT)[6]


def _exchange(values: list[Tensor], network: tuple[tuple[int, int], ...]) -> list[Tensor]:
    for low, high in network:
        values[low], values[high] = (
            torch.minimum(values[low], values[high]),
            torch.maximum(values[low], values[high]),
        )
    return values


def _eager(function: Callable) -> Callable:
    return function


@functools.cache
def _compiled(function: Callable) -> Callable:
    """One compilation for all batches and scales: sizes stay symbols."""
    return torch.compile(function, dynamic=True)
