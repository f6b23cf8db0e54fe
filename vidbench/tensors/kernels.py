"""Random mean scaling as one Triton kernel: y = own x + low F x.

F is the mean over 3x3x3 or 1x3x3 positions with zeros outside. The kernel fuses the filter's sums
along three axes, both factors and their sum, which PyTorch computes as separate passes over memory.
It reads x once and writes y once. The zero border makes F its own transpose, so the backward pass
is the same kernel on the gradient. Sums are in float32. The order of additions is fixed, so results
repeat to the bit.

Bytes, counted by models.costs: two features forward and two backward. At the nine sites of
SlowOnly-50 (res4 and res5, 32 clips of 8x224x224, bfloat16) that adds 3.1 GB to a step's 101 GB;
slices and additions add 39 GB. Not measured on a GPU.

How: contiguous memory [B,C,T,H,W] is channels-last memory of B*C images with one channel, so one
kernel reads both. A program owns a block of positions (two rows each) times 128 bytes of channels
and walks along T. It keeps the sums over 3x3 positions of two frames in registers. For the two rows
it loads four rows at three columns each; of these loads only the first of each value leaves the
caches. Channels-last memory is read 16 bytes at a time if C is a multiple of 16.

vidbench.tensors.scaling decides when the kernel runs, and imports this module only then."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LINE, TILE = 128, 4096  # bytes of a program's channels and of its row: 16 for each of 256 threads
SCATTERED = 256  # values of a row if threads load single values: one for each thread
# At least two programs an SM, and nothing spills. Triton 3.10 will not fuse by default.
OPTIONS = {"num_warps": 8, "maxnreg": 128, "enable_fp_fusion": True}


@triton.jit
def _line(row, at, step, left, here, right):
    # The sum over three columns of a row, and the middle column
    middle = tl.load(row + at, mask=here, other=0.0)
    before = tl.load((row - step) + at, mask=left, other=0.0).to(tl.float32)
    after = tl.load((row + step) + at, mask=right, other=0.0).to(tl.float32)
    return middle.to(tl.float32) + (before + after), middle


@triton.jit
def _two_rows(x, at, row, step, left, here, right, above, second, below):
    # The 3x3 sums around two rows of a frame, and both rows
    over, _ = _line(x - row, at, step, left & above, here & above, right & above)
    top, x_top = _line(x, at, step, left, here, right)
    bottom, x_bottom = _line(x + row, at, step, left & second, here & second, right & second)
    under, _ = _line(x + 2 * row, at, step, left & below, here & below, right & below)
    middle = top + bottom
    return over + middle, middle + under, x_top, x_bottom


@triton.jit
def _factor(of, image, channel, here, images, channels, per, EACH: tl.constexpr):
    # One for each channel and image, [positions, channels], or for `per` images, [positions, 1]
    index = image * channels + channel if EACH else image // per
    known = here if EACH else image < images
    return tl.load(of + index, mask=known, other=0.0).to(tl.float32)


@triton.jit
def _store(y, at, keep, x, share, total, mask):
    tl.store(y + at, keep * x.to(tl.float32) + share * total, mask=mask)


@triton.jit
def scale_kernel(
    x,
    y,
    own,
    low,
    images,
    frames,
    height,
    width,
    channels,
    per,
    EACH: tl.constexpr,
    DEPTH: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write own x + low F x of channels-last features [images,frames,height,width,channels].

    Args:
        x: Pointer to the features.
        y: Pointer to the results, of the same layout.
        own: Pointer to the factors of x, or None for 1.
        low: Pointer to the factors of F x.
        images, frames, height, width, channels: Sizes.
        per: Images that share a factor.
        EACH: If true, each channel of each image has its own factor; `per` is ignored.
        DEPTH: Frames that F averages over, 1 or 3.
        POSITIONS, CHANNELS: The program's block, powers of two.
    """
    blocks = tl.cdiv(channels, CHANNELS)  # neighbors in memory run at the same time
    block, program = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    c = block * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    place = program * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    w = place % width
    pairs = (height + 1) // 2
    h = place // width % pairs * 2
    image = place // (width * pairs)

    here = (image < images) & (c < channels)
    left, right = here & (w > 0), here & (w < width - 1)
    above, second, below = h > 0, h + 1 < height, h + 2 < height
    row = width * channels
    frame = row * height
    at = image.to(tl.int64) * frames * frame + (h * width + w) * channels + c
    share = _factor(low, image, c, here, images, channels, per, EACH) * (1 / (9 * DEPTH))
    keep = 1.0 if own is None else _factor(own, image, c, here, images, channels, per, EACH)

    top, bottom, x_top, x_bottom = _two_rows(
        x, at, row, channels, left, here, right, above, second, below
    )
    # The sums leave out the next frame. Scalar pointers and a moving offset need the fewest
    # registers. The last frame is written at the first offset, whose layout does not change.
    sum_top, sum_bottom = top, bottom
    moving = at
    for _ in range(1, frames):
        moving += frame
        next_top, next_bottom, next_x_top, next_x_bottom = _two_rows(
            x, moving, row, channels, left, here, right, above, second, below
        )
        if DEPTH == 3:
            sum_top += next_top
            sum_bottom += next_bottom
        _store(y - frame, moving, keep, x_top, share, sum_top, here)
        _store(y - frame + row, moving, keep, x_bottom, share, sum_bottom, here & second)
        sum_top = top + next_top if DEPTH == 3 else next_top
        sum_bottom = bottom + next_bottom if DEPTH == 3 else next_bottom
        top, bottom, x_top, x_bottom = next_top, next_bottom, next_x_top, next_x_bottom
    y += tl.cast(frame, tl.int64) * (frames - 1)
    _store(y, at, keep, x_top, share, sum_top, here)
    _store(y + row, at, keep, x_bottom, share, sum_bottom, here & second)


def tile(channels: int, size: int) -> tuple[int, int]:
    """Return how many positions and channels one program computes.

    Args:
        channels: Channels in memory; 1 if the features are contiguous.
        size: Bytes of a value.
    """
    block = min(LINE // size, triton.next_power_of_2(channels))
    values = SCATTERED if channels % 16 else TILE // size
    return values // block, block


@torch.library.custom_op(
    "vidbench::scale_low",
    mutates_args=(),
    schema="(Tensor x, Tensor? own, Tensor low, int depth) -> Tensor",
)
def scale_low(x: Tensor, own: Tensor | None, low: Tensor, depth: int) -> Tensor:
    """Compute own x + low F x, differentiable in x alone.

    Args:
        x: Features [B,C,T,H,W], bfloat16, float16 or float32. Contiguous or channels-last memory
            is read in place; any other layout is copied first.
        own: Factors of x, [B,C,1,1,1], with 1 instead of B or C if all share a factor. None is 1.
        low: Factors of F x, of the shape of `own`.
        depth: Frames that F averages over, 1 or 3.

    Returns:
        The result [B,C,T,H,W], in the dtype and layout of x.
    """
    x = _dense(x)
    y = torch.empty_like(x)
    clips, channels, frames, height, width = x.shape
    images, inner = (clips * channels, 1) if x.is_contiguous() else (clips, channels)
    each = low.shape[1] > 1
    per = images if low.shape[0] == 1 else images // clips
    positions, block = tile(inner, x.element_size())
    programs = triton.cdiv(images * ((height + 1) // 2) * width, positions)
    with torch.cuda.device_of(x):
        scale_kernel[(programs * triton.cdiv(inner, block),)](
            x,
            y,
            None if own is None else own.contiguous(),
            low.contiguous(),
            images,
            frames,
            height,
            width,
            inner,
            per,
            EACH=each,
            DEPTH=depth,
            POSITIONS=positions,
            CHANNELS=block,
            **OPTIONS,
        )
    return y


@scale_low.register_fake
def _(x: Tensor, own: Tensor | None, low: Tensor, depth: int) -> Tensor:
    return torch.empty_like(_dense(x))


def _dense(x: Tensor) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return x if last or x.is_contiguous() else x.contiguous()


def _remember(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, own, low, ctx.depth = inputs
    ctx.save_for_backward(own, low)


def _backward(ctx: Any, g: Tensor) -> tuple:
    own, low = ctx.saved_tensors
    return scale_low(g, own, low, ctx.depth), None, None, None


scale_low.register_autograd(_backward, setup_context=_remember)
