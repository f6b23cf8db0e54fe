"""Decoding clips: one door, `Video`, over the decoders, the packs of a store and single pictures.

Frame i of a file means the i-th frame that a full decode from the start shows, whoever reads it.
PyAV is the default: exact on every file that was tried, and 1.4 to 2 times as fast as decord
(benchmarks/reader.py). decord and torchcodec read what they are exact on; other files go to PyAV,
and VideoInfo.decoder says who read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidbench.data.video import framestore
from vidbench.data.video.decoders import (
    DECODERS,
    PyAV,
    Reader,
    Size,
    check_decoder,
)
from vidbench.data.video.packets import index, uneven
from vidbench.data.video.stills import PICTURES, Still, plan_of, resized
from vidbench.system.errors import Brief

DECODER = "pyav"  # the default


class Clip(NamedTuple):
    """The requested frames, in the requested order."""

    frames: np.ndarray  # uint8 [T,H,W,C] RGB
    indices: np.ndarray  # int64 [T]
    times: np.ndarray  # float64 [T] presentation time, seconds


class VideoInfo(NamedTuple):
    """What a file holds, as it comes out of the decoder (turned and resized)."""

    frames: int
    fps: float
    height: int
    width: int
    # who read the file: the requested decoder, "pyav" if that would miscount, "pack" or
    # "picture"
    decoder: str


class VideoError(Brief, RuntimeError):
    """A file or frame that cannot be read; names the path, the decoder, what came and what to do."""


class _Stored(Reader):
    """A video of a decode-once store (see packs)."""

    def __init__(self, path: Path, size: Size) -> None:
        self._pack, self._size = framestore.Pictures(path), size
        self.frames, self.fps = self._pack.frames, self._pack.fps

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        frames = self._pack.take(wanted)
        if self._size is not None:
            frames = np.stack([resized(frame, self._size) for frame in frames])
        return frames, wanted / self.fps

    def close(self) -> None:
        self._pack.close()


def _reader_of(path: Path, decoder: str) -> tuple[str, Callable[..., Reader]]:
    name = path.name.lower()
    if name.endswith(framestore.SUFFIX):
        return "pack", _Stored
    if name.endswith(PICTURES):
        return "picture", Still
    return decoder, DECODERS[decoder]


def _at_the_door(path: Path) -> str:
    """Why a file need not be opened, and what to do; "" where it may hold a video."""
    try:
        if not path.is_file():
            what = "a folder or device, not a file" if path.exists() else "no such file"
            return f"{what}; check the manifest's root and paths"
        if not path.stat().st_size:
            return "the file is empty (0 bytes); fetch it again or drop it"
    except OSError as error:  # such as a folder above it that is closed to this user
        return (
            f"it cannot be looked at ({error.strerror}); let this user into its folder, or drop it"
        )
    return ""


class Video:
    """One open file: `frames`, `fps`, and `read(indices)`; open per sample, close after (it cannot
    be pickled).

    decoder: a name in DECODERS. size: (H, W) or short side in pixels, resized while decoding.
    Raises VideoError where the file is missing or does not open, ValueError on an unknown decoder,
    ImportError where it is not installed. frames: what a scan counted, if it is known (see
    decoders.PyAV)."""

    def __init__(
        self,
        path: str | Path,
        decoder: str = DECODER,
        size: Size = None,
        frames: int | None = None,
    ) -> None:
        check_decoder(decoder)
        self.path = Path(path)
        if problem := _at_the_door(self.path):
            raise VideoError(f"{self.path}: {problem}")
        self._open(decoder, size, frames)
        if not self._try("open", self._reader.exact, self.path):
            self._reader.close()
            self._open("pyav", size, frames)
        self.frames, self.fps = self._reader.frames, self._reader.fps
        if not self.frames:
            raise VideoError(
                f"{self.path}: {self.decoder} finds no frame in it; re-encode it or drop it"
            )

    def _open(self, decoder: str, size: Size, frames: int | None) -> None:
        self.decoder, make = _reader_of(self.path, decoder)
        known = {"frames": frames} if make is PyAV else {}
        self._reader = self._try("open", partial(make, **known), self.path, size)

    def _try(self, what: str, function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:  # of whatever kind: this file's error must not end the others
            said = " ".join(str(error).split())[:300]
            others = ", ".join(name for name in DECODERS if name != self.decoder)
            ways = (
                f"try another decoder ({others}), re-encode the file or drop it from the manifest"
            )
            if self.decoder not in DECODERS:
                ways = "make it again or drop it from the manifest"
            if isinstance(error, PermissionError):
                ways = "let this user read it, or drop it from the manifest"
            reason = f"{type(error).__name__}: {said}"
            raise VideoError(
                f"{self.path}: {self.decoder} cannot {what} it ({reason}); {ways}"
            ) from error

    def read(self, indices: Sequence[int] | np.ndarray | None = None) -> Clip:
        """Read frames by number, in any order; repeated ones are decoded once.

        Args:
            indices: Frame numbers from 0; None: all frames.

        Raises:
            ValueError: the choice is empty or has negative numbers.
            VideoError: a frame does not exist or could not be read.
        """
        indices = np.asarray(np.arange(self.frames) if indices is None else indices)
        if (
            indices.ndim != 1
            or not len(indices)
            or indices.dtype.kind not in "iu"
            or indices.min() < 0
        ):
            raise ValueError(f"indices must be a list of frame numbers from 0 up, got {indices!r}")
        indices = indices.astype(np.int64)
        if indices.max() >= self.frames:
            raise VideoError(
                f"{self.path}: frame {indices.max()} does not exist: {self.decoder} finds "
                f"{self.frames} frames (0 to {self.frames - 1}); choose frames by probe() or "
                "Video.frames, not by another tool's count"
            )
        wanted, place = np.unique(indices, return_inverse=True)
        frames, times = self._try(
            f"decode frames {wanted[0]} to {wanted[-1]} of", self._reader.take, wanted
        )
        if len(frames) != len(wanted):
            raise VideoError(
                f"{self.path}: {self.decoder} gave {len(frames)} of {len(wanted)} frames; "
                "re-encode it"
            )
        if not np.array_equal(indices, wanted):
            frames, times = frames[place], times[place]
        return Clip(frames, indices, np.asarray(times, np.float64))

    def stream(self) -> Iterator[np.ndarray]:
        """Yield all frames [H,W,3] in order, one at a time, with a few in memory.

        Raises:
            VideoError: a frame could not be read, or has another size.
        """
        frames, shape = self._reader.stream(), None
        for i in range(self.frames):
            frame = self._try(f"decode frame {i} of", next, frames, None)
            if frame is None:
                raise VideoError(
                    f"{self.path}: {self.decoder} gave {i} of {self.frames} frames; re-encode it"
                )
            if frame.shape != (shape := shape or frame.shape):
                sizes = f"{shape[0]}x{shape[1]} to {frame.shape[0]}x{frame.shape[1]}"
                raise VideoError(
                    f"{self.path}: from frame {i} on its size is another ({sizes} pixels); "
                    "re-encode it"
                )
            yield frame

    def close(self) -> None:
        """Let the file go."""
        self._reader.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def uneven_times(path: str | Path) -> np.ndarray | None:
    """Read the times [N] in seconds of a file's frames, if these are shown for different lengths.

    Nothing is decoded. The result is None for even rates, for packs, for files whose
    frames can only be counted, and for files that are missing or damaged.
    """
    path = Path(path)
    kind, times = _reader_of(path, DECODER)[0], None
    try:
        if kind == "picture":
            times = plan_of(path).times
        elif kind == DECODER:
            about = index(path)
            times = None if about.shown is None else about.shown * about.unit
    except Exception:  # whoever opens the file names what is wrong with it
        return None
    return times if times is not None and uneven(times) else None


def probe(path: str | Path, decoder: str = DECODER) -> VideoInfo:
    """Count a file's frames and read its frame rate, height and width; one frame is decoded.

    Args:
        decoder: pyav, decord or torchcodec.
    """
    with Video(path, decoder) as video:
        _, height, width, _ = video.read([0]).frames.shape
        return VideoInfo(video.frames, video.fps, height, width, video.decoder)


def read(
    path: str | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    decoder: str = DECODER,
    size: Size = None,
) -> Clip:
    """Open a video, decode frames, close it. Errors: see `Video`.

    Args:
        indices: Frame numbers in any order, repeats allowed; None: all frames.
        decoder: pyav, decord or torchcodec.
        size: See `short_side`.
    """
    with Video(path, decoder, size) as video:
        return video.read(indices)


def shorten(video: str, file: str, step: int, crf: int) -> None:
    """Write some frames of a video as a small WebM that lasts as long.

    Args:
        step: Every how many frames one is kept.
        crf: VP9's quality.
    """
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with Video(Path(video)) as one:
        at = np.arange(0, one.frames, step)
        framestore.write_webm(Path(file), one.read(at).frames, one.fps / step, crf)
