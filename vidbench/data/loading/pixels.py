"""Pixel operations of views in two forms: 8-bit frames of one clip, torch on a batch of clips.

The first form takes a clip as one tall picture, uint8 [T*H,W,3], and never changes it in place. The
second takes whole levels 0..255 as float32 [B,C,T,H,W] with a tensor of numbers, one a clip, on the
same device. It loops over neither clips nor frames, and the host never waits for the device. Both
follow PIL: blends cut to whole levels, luma 0.299 0.587 0.114, hue moved in 8-bit HSV."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, PIL's "L"
_CUT = -0.498  # PIL's blends cut to whole levels: rounding x - 0.498 does, without meeting a tie


def cut(frames: torch.Tensor, box: tuple[int, int, int, int], level: int) -> torch.Tensor:
    """Cut a box out of frames: uint8 [T,C,height,width].

    Args:
        frames: uint8 [T,C,H,W].
        box: Top, left, height, width; it may reach beyond the frame.
        level: Of pixels outside the frame.
    """
    top, left, height, width = box
    y, x = max(top, 0), max(left, 0)
    inside = frames[:, :, y : max(top + height, 0), x : max(left + width, 0)]
    h, w = inside.shape[-2:]
    if (h, w) == (height, width):
        return inside
    out = np.empty((len(frames), height, width, 3), np.uint8)  # a decoder's memory order
    out.fill(level)
    out[:, y - top : y - top + h, x - left : x - left + w] = inside.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def resize(frames: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """Resize uint8 [T,C,H,W] to [T,C,height,width], antialiased.

    torch's 8-bit kernel is PIL's to 0.02 of a level, and the fastest here.

    Args:
        interpolation: bilinear or bicubic.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode=interpolation, antialias=True)


def tall(frames: torch.Tensor) -> np.ndarray:
    """Lay out uint8 [T,3,H,W] as one picture [T*H,W,3]; no copy if memory is [T,H,W,3] already."""
    return frames.permute(0, 2, 3, 1).contiguous().numpy().reshape(-1, frames.shape[-1], 3)


def brightness(picture: np.ndarray, factor: float, height: int) -> np.ndarray:
    """Scale every level as PIL's ImageEnhance.Brightness does: the same shape.

    Args:
        picture: uint8 [T*H,W,3], frames one below the other.
        factor: 1 changes nothing.
        height: Rows of a frame; not used.
    """
    import cv2

    return cv2.addWeighted(picture, factor, picture, 0.0, _CUT)


def contrast(picture: np.ndarray, factor: float, height: int) -> np.ndarray:
    """Scale each pixel's distance from its frame's mean luma: the same shape.

    This is PIL's ImageEnhance.Contrast.

    Args:
        picture: uint8 [T*H,W,3], frames one below the other.
        factor: 1 changes nothing.
        height: Rows of a frame.
    """
    import cv2

    out = np.empty_like(picture)
    for y in range(0, len(picture), height):
        frame = picture[y : y + height]
        mean = int(np.dot(cv2.mean(frame)[:3], LUMA) + 0.5)
        cv2.addWeighted(
            frame, factor, frame, 0.0, (1 - factor) * mean + _CUT, dst=out[y : y + height]
        )
    return out


def saturation(picture: np.ndarray, factor: float, height: int) -> np.ndarray:
    """Scale each channel's distance from the pixel's luma: the same shape.

    This is PIL's ImageEnhance.Color.

    Args:
        picture: uint8 [T*H,W,3], frames one below the other.
        factor: 1 changes nothing.
        height: Rows of a frame; not used.
    """
    import cv2

    matrix = np.full((3, 4), _CUT, np.float32)
    matrix[:, :3] = factor * np.eye(3) + (1 - factor) * np.array(LUMA)
    return cv2.transform(picture, matrix)


def hue(picture: np.ndarray, turns: float, height: int) -> np.ndarray:
    """Shift hue as torchvision's adjust_hue does on PIL pictures: the same shape.

    Args:
        picture: uint8 [T*H,W,3], frames one below the other.
        turns: -0.5 to 0.5, cut to whole steps of 1 / 255.
        height: Rows of a frame; not used.
    """
    import cv2

    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(turns * 255) % 256)  # 8-bit hue wraps around by itself
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


JITTERS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def luma(picture: np.ndarray) -> np.ndarray:
    """Compute luma as PIL's convert("L") does: uint8 [R,W,3] to [R,W]."""
    import cv2

    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def split_channels(picture: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Take one color channel of each frame (CoCLR's "gray"): uint8 [T*H,W].

    Args:
        picture: uint8 [T*H,W,3], frames one below the other.
        channels: 0, 1 or 2 for each of the T frames.
    """
    frames = picture.reshape(len(channels), -1, *picture.shape[1:])
    return np.concatenate([frame[..., c] for frame, c in zip(frames, channels, strict=True)])


def blur(picture: np.ndarray, sigma: float, height: int) -> np.ndarray:
    """Blur every frame by a Gaussian, cut at three sigma, border pixels repeated: the same shape.

    Args:
        picture: uint8 [T*H,W,3] or [T*H,W], frames one below the other.
        sigma: Pixels.
        height: Rows of a frame.
    """
    import cv2

    out, taps = np.empty_like(picture), (2 * _reach(sigma) + 1,) * 2
    for y in range(0, len(picture), height):
        rows = slice(y, y + height)
        cv2.GaussianBlur(picture[rows], taps, sigma, dst=out[rows], borderType=cv2.BORDER_REPLICATE)
    return out


def planes(
    picture: np.ndarray, scales: Sequence[float], shifts: Sequence[float], flip: bool
) -> np.ndarray:
    """Flip, split the channels, scale and shift them: float32 [3,R,W].

    Args:
        picture: uint8 [R,W,3], or gray [R,W].
        scales, shifts: Of each channel.
    """
    import cv2

    if flip:
        picture = cv2.flip(picture, 1)
    channels = [picture] * 3 if picture.ndim == 2 else cv2.split(picture)
    out = np.empty((3, *picture.shape[:2]), np.float32)
    for channel, scale, shift, plane in zip(channels, scales, shifts, out, strict=True):
        cv2.addWeighted(channel, scale, channel, 0.0, shift, dst=plane, dtype=cv2.CV_32F)
    return out


def _reach(sigma: float) -> int:
    return math.ceil(3 * sigma)


# The batched form


def _luma(x: torch.Tensor) -> torch.Tensor:
    return x[:, :1] * LUMA[0] + x[:, 1:2] * LUMA[1] + x[:, 2:] * LUMA[2]


def _hue_batch(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The HSV hexagon without its saturation: each channel is the top minus the chroma times a
    trapezium of the hue."""
    r, g, b = x.unbind(1)
    top = x.amax(1)
    chroma = top - x.amin(1)
    sector = torch.where(top == r, g - b, torch.where(top == g, b - r, r - g)) / chroma.clamp(min=1)
    sector += torch.where(top == r, 0.0, torch.where(top == g, 2.0, 4.0)) + turns[:, 0] * 6
    k = torch.stack([(sector + n) % 6 for n in (5, 3, 1)], 1)
    return (top[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)).round_()


def jitter_batch(x: torch.Tensor, name: str, factors: torch.Tensor) -> torch.Tensor:
    """Apply one of JITTERS to each clip, with its own factor: the same shape.

    Args:
        x: Clips [B,C,T,H,W] of levels 0..255.
        name: A key of JITTERS.
        factors: [B]; for hue turns in steps of 1 / 256.
    """
    factor = factors.view(-1, 1, 1, 1, 1)
    if name == "hue":
        return _hue_batch(x, factor)
    other: torch.Tensor | float = 0.0
    if name != "brightness":
        luma = _luma(x)
        contrast = name == "contrast"
        other = (luma.mean((-1, -2), keepdim=True) + 0.5).floor_() if contrast else luma
    return (x * factor + (1 - factor) * other + _CUT).round_().clamp_(0, 255)


def hue_steps(turns: float) -> float:
    """Return the turns by which `hue` shifts for these: whole steps of 1 / 256."""
    return int(turns * 255) / 256


def luma_batch(x: torch.Tensor) -> torch.Tensor:
    """Compute `luma`, copied to three channels: the same shape."""
    return _luma(x).round_().expand_as(x)


def split_channels_batch(x: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Do `split_channels`, copied to three channels: the same shape.

    Args:
        x: Clips [B,C,T,H,W].
        channels: int64 [B,T].
    """
    return x.gather(1, channels.view(len(x), 1, -1, 1, 1).expand_as(x))


def blur_batch(x: torch.Tensor, sigmas: torch.Tensor, most: float) -> torch.Tensor:
    """Do `blur` on square pictures, each clip with its own sigma: the same shape.

    A band matrix for each clip blurs its rows, then its columns.

    Args:
        x: Clips [B,C,T,H,H].
        sigmas: [B], in pixels.
        most: The largest sigma.
    """
    size, reach = x.shape[-1], _reach(most)
    taps = torch.arange(-reach, reach + 1, device=x.device)
    sigma = sigmas[:, None]
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2) * (taps.abs() <= (3 * sigma).ceil())
    kernel = kernel / kernel.sum(1, keepdim=True)
    line = torch.arange(size, device=x.device)
    source = (line[:, None] + taps).clamp_(0, size - 1)  # [size,taps]
    shows = (source[..., None] == line).to(x.dtype)  # [size,taps,size]
    matrix = kernel @ shows.transpose(0, 1).flatten(1)  # [B,size*size]
    matrix = matrix.view(-1, size, size).transpose(1, 2)
    for _ in range(2):
        x = torch.bmm(x.flatten(1, -2), matrix).view_as(x).transpose(-1, -2).contiguous()
    return x.round_().clamp_(0, 255)
