"""Picture files as videos: one frame, the frames of an animation or the squares of a strip.

Shown as a good viewer shows them: turned by EXIF's orientation, 16 bits scaled to 8, transparent
pixels over white. Animated WebP, APNG and the pages of a TIFF are frames in order; a page that is
only a smaller copy of another one is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vidbench.data.video.decoders import Reader, Size, over_white, short_side
from vidbench.data.video.packets import PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
ANIMATED = ("WEBP", "PNG", "TIFF")  # a JPEG's further pictures are its thumbnails or depth
# frames; a picture so many whole times as wide as it is high, as no photograph is, is a strip of
# them
STRIP = 16
FPS = 25.0  # an assumption, PAL's: strips and TIFF name no rate
# seconds that players give a frame whose file says at most 10 ms
UNSAID = 0.1
REDUCED = 254  # TIFF's tag NewSubfileType; its bit 0 marks a smaller copy of another page


class Plan(NamedTuple):
    """The frames of a picture file."""

    places: tuple[int, ...]  # their numbers in the file
    times: np.ndarray  # float64 [N] seconds
    fps: float


class Still(Reader):
    """A picture file as a video, so that data sets of images need no separate code."""

    def __init__(self, path: Path, size: Size) -> None:
        self._path, self._size = path, size
        plan = plan_of(path)
        self._places, self.times, self.fps = plan.places, plan.times, plan.fps
        self._whole = next(self._frames(np.zeros(1, np.int64))) if len(self._places) == 1 else None
        if self._whole is not None:
            height, width = self._whole.shape[:2]
            count = width // height if width % height == 0 and width >= STRIP * height else 1
            self._strip = self._whole.reshape(height, count, width // count, 3).swapaxes(0, 1)
            if count > 1:
                self.fps, self.times = FPS, np.arange(count) / FPS
        self.frames = len(self.times)

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames [n,H,W,3] uint8 RGB and their times [n] in seconds of wanted [n]."""
        frames = self._frames(wanted) if self._whole is None else iter(self._strip[wanted])
        return np.stack([resized(frame, self._size) for frame in frames]), self.times[wanted]

    def stream(self) -> Iterator[np.ndarray]:
        """Yield all frames [H,W,3] in order, decoded one after the other."""
        if self._whole is not None:
            return super().stream()
        return (resized(frame, self._size) for frame in self._frames(np.arange(self.frames)))

    def _frames(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        with opened(self._path) as picture:
            for i in wanted.tolist():
                picture.seek(self._places[i])
                yield rgb(picture)


def resized(frame: np.ndarray, size: Size) -> np.ndarray:
    """Resize a frame by the mean over areas: [height,width,3]; the frame itself if it has the size.

    Args:
        frame: uint8 [H,W,3].
        size: See `short_side`.
    """
    import cv2

    height, width = short_side(frame.shape[0], frame.shape[1], size)
    if (height, width) == frame.shape[:2]:
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def opened(path: str | Path) -> Image:
    """Open a picture file and read its header.

    Raises:
        OSError: the header promises too many pixels.
    """
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        picture = PIL.Image.open(path)
    try:
        check_pixels(picture)
    except OSError:
        picture.close()
        raise
    return picture


def check_pixels(picture: Image) -> None:
    """Check a frame's size before it is decoded.

    Raises:
        OSError: it has too many pixels.
    """
    width, height = picture.size
    if width * height > PIXELS:
        raise OSError(
            f"it has {width} x {height} pixels; at most {PIXELS:,} are read, scale it down"
        )


def plan_of(path: Path) -> Plan:
    """Read which frames a picture file has and when they are shown; kept until the file changes."""
    about = path.stat()
    return _plan(str(path), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16_384)
def _plan(path: str, changed: int, size: int) -> Plan:
    with opened(path) as picture:
        count = getattr(picture, "n_frames", 1) if picture.format in ANIMATED else 1
        if count > size:
            raise OSError(f"it promises {count} frames in {size} bytes; it is damaged")
        if count == 1:
            return Plan((0,), np.zeros(1), 1.0)
        places, seconds = [], []
        for i in range(count):
            picture.seek(i)
            check_pixels(picture)
            if picture.format == "TIFF":
                if getattr(picture, "tag_v2", {}).get(REDUCED, 0) & 1:
                    continue
                seconds.append(1 / FPS)
            elif i or not picture.info.get("default_image"):
                seconds.append(_duration(picture))
            else:
                continue  # an APNG's picture for programs that show no animation
            places.append(i)
    if len(places) < 2:
        return Plan(tuple(places or (0,)), np.zeros(1), 1.0)
    ends = np.cumsum(seconds)
    times = np.concatenate([[0.0], ends[:-1]])
    return Plan(tuple(places), times, (len(times) - 1) / float(times[-1]))


def _duration(picture: Image) -> float:
    """Seconds for which players show this frame of an animation."""
    if picture.format == "WEBP":
        picture.load()  # the file names durations in each frame's data alone
    seconds = float(picture.info.get("duration") or 0) / 1000
    return seconds if seconds > 0.01 else UNSAID


def rgb(picture: Image) -> np.ndarray:
    """Decode the frame at which a picture is, as a viewer shows it: uint8 [H,W,3].

    Raises:
        OSError: the file is damaged, or its pixels have no range that viewers agree on.
    """
    from PIL import ImageOps

    check_pixels(picture)
    picture.load()
    try:
        shown = ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data, of any kind: viewers show the picture without them
        shown = picture
    if shown.mode.startswith("I;16") or shown.mode == "I" and picture.format in ("PNG", "PPM"):
        levels = np.array(shown).astype(np.int64).clip(0, 65_535)
        gray = ((levels * 255 + 32_767) // 65_535).astype(np.uint8)
        return np.repeat(gray[..., None], 3, -1)
    if shown.mode in ("I", "F"):
        raise OSError(
            f"its pixels are 32-bit numbers (mode {shown.mode}), which viewers show with different "
            "ranges; convert it to 8 or 16 bits"
        )
    if shown.has_transparency_data:
        return over_white(np.array(shown.convert("RGBA")))
    return np.array(shown.convert("RGB"))
