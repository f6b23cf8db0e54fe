"""Readers of one file by frame number: PyAV, decord, torchcodec.

A reader has `frames`, `fps`, `exact(path)` (whether its frame numbers hold for this file),
`take(wanted)`, `stream()` and `close()`. Frame i means the i-th frame that a full decode from the
start shows.

PyAV reads the packets' time stamps once (no decoding) and seeks by them where they can be trusted:
every shown frame has its own. AVIs with B-frames or with packets that code no picture
(HMDB51, part of UCF101 and UCF50), MPEG program and transport streams are decoded from the start
and counted. decord is wrong on many of those (all HMDB51 clips tried, though not the UCF101 ones),
on files whose edit list hides frames and where pictures lead their key frame (open groups of
pictures, x265's default): it hands out other frames without a word. torchcodec is one frame off on
most of UCF101's AVIs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.video.orientation import UPRIGHT, orientation, orientation_of
from vidbench.data.video.packets import (
    PLACEHOLDERS,
    STREAMS,
    container_of,
    counted_times,
    decoded,
    index,
    rate,
    untorn,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

BLOCK = 64  # frames
SEEK = 4  # frames; decoding so few on is cheaper than seeking
SKIPPING = ("h264", "hevc", "mpeg4")  # obey skip_frame packet by packet; dav1d does not
STRICT = ("h264", "hevc")  # show nothing before a picture that needs no other
Size = int | tuple[int, int] | None  # (H, W) or the short side in pixels; None keeps


def short_side(height: int, width: int, size: Size) -> tuple[int, int]:
    """Return height and width after a resize.

    Args:
        height, width: Of the frame, in pixels.
        size: None keeps both; a number is the short side, with the aspect kept; a pair (H, W) is
            returned unchanged.

    Raises:
        ValueError: a side would be below one pixel.
    """
    if size is None:
        return height, width
    if isinstance(size, int):
        shorter = min(height, width)
        size = (round(height * size / shorter), round(width * size / shorter))
    if min(size) < 1:
        raise ValueError(f"size must be positive pixels, got {size}")
    return int(size[0]), int(size[1])


class Reader:
    """What readers share."""

    frames = 0

    def exact(self, path: Path) -> bool:
        """Return whether the frame numbers hold for this file."""
        return True

    def stream(self) -> Iterator[np.ndarray]:
        """Yield all frames [H,W,3] in order, decoded in blocks, as long videos fill memory."""
        for start in range(0, self.frames, BLOCK):
            yield from self.take(np.arange(start, min(start + BLOCK, self.frames)))[0]

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode frames by number: uint8 RGB [n,H,W,3], and their times [n] in seconds.

        Args:
            wanted: Frame numbers [n], ascending without repeats.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let the file go."""


# ---- PyAV --------------------------------------------------------------------------------------


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Blend RGBA uint8 [H,W,4] over white, as viewers do: uint8 [H,W,3]."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def pictures(size: Size = None) -> Callable[[VideoFrame], np.ndarray]:
    """Make a function from PyAV's frames to RGB uint8 [H,W,3].

    It turns them as players show them and resizes them to `size`. It raises OSError if a frame
    decoded with errors, which FFmpeg would paint over.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # kept: it prepares its tables once for all frames of a size

    def picture(frame) -> np.ndarray:
        if frame.is_corrupt:
            raise OSError(f"the frame at {frame.time} s is damaged")
        turned = orientation_of(frame)
        height, width = frame.height, frame.width
        if turned.swapped:
            width, height = short_side(width, height, size)
        else:
            height, width = short_side(height, width, size)
        alpha = any(component.is_alpha for component in frame.format.components)
        kind, channels = ("rgba", 4) if alpha else ("rgb24", 3)
        plane = reformatter.reformat(frame, width, height, kind, interpolation="AREA").planes[0]
        # as it is in memory, where a line may be longer than the picture is wide: copied once,
        # into the clip
        shown = np.ndarray(
            (height, width, channels),
            np.uint8,
            memoryview(plane),
            strides=(plane.line_size, channels, 1),
        )
        return turned.apply(over_white(shown) if alpha else shown)

    return picture


class PyAV(Reader):
    """FFmpeg through PyAV: exact on every file; seeks where the time stamps allow it, else counts
    from the start.

    frames: how many there are, where a scan found it: saves a whole decode where they can only be
    counted. It is believed where it is about the number of packets; a file that was changed since
    is counted."""

    def __init__(
        self,
        path: Path,
        size: Size,
        picture: Callable | None = None,
        frames: int | None = None,
    ) -> None:
        self._path, self._picture = path, picture or pictures(size)
        self._index = index(path)
        if self._index.shown is not None:
            self.times = self._index.shown * self._index.unit
        elif frames is not None and 0 <= self._index.packets - frames <= PLACEHOLDERS:
            self.times = np.arange(frames) / (self._index.fps or 1.0)
        else:
            self.times = counted_times(path)
        self.frames, self.fps = len(self.times), rate(self.times, self._index.fps)

    def stream(self) -> Iterator[np.ndarray]:
        """Yield all frames [H,W,3] in order."""
        return self._pictures(np.arange(self.frames))

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode frames by ascending number: uint8 [n,H,W,3], and their times [n] in seconds."""
        frames = None
        for i, picture in enumerate(self._pictures(wanted)):
            if frames is None:
                frames = np.empty((len(wanted), *picture.shape), np.uint8)
            frames[i] = picture
        return (np.empty(0) if frames is None else frames[: i + 1]), self.times[wanted]

    def _pictures(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        shown = self._index.shown
        return self._by_count(wanted) if shown is None else self._by_stamp(wanted, shown)

    def _by_count(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        left = set(wanted.tolist())
        with container_of(self._path) as container:
            for i, frame in enumerate(decoded(container)):
                if i in left:
                    yield self._picture(frame)
                if i == wanted[-1]:
                    return

    def _by_stamp(self, wanted: np.ndarray, shown: np.ndarray) -> Iterator[np.ndarray]:
        stamps = shown[wanted]
        # for frames before the first key: from the start (the last is place -1)
        keys = np.append(self._index.keys, shown[0])
        starts = keys[np.searchsorted(keys[:-1], stamps, "right") - 1]
        # a new seek pays where a keyframe is well beyond the frame before; otherwise decoding
        # continues
        skipped = np.searchsorted(shown, starts[1:]) - wanted[:-1]
        with container_of(self._path) as container:
            for group in np.split(np.arange(len(wanted)), np.flatnonzero(skipped > SEEK) + 1):
                start, left, done = int(starts[group[0]]), stamps[group], 0
                try:
                    if start > shown[0]:
                        container.seek(start, stream=container.streams.video[0])
                    for picture in self._onward(container, start, left):
                        yield picture
                        done += 1
                except (OSError, ValueError):
                    # a "key frame" that does not open the stream, or a real fault: a decode from
                    # the start shows which
                    if start <= shown[0]:
                        raise
                    with container_of(self._path) as again:
                        yield from self._onward(again, int(shown[0]), left[done:])

    def _onward(
        self, container: InputContainer, start: int, stamps: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Yield the pictures of these time stamps, decoding from where the container is."""
        stream = container.streams.video[0]
        context = stream.codec_context
        left = iter(stamps.tolist())
        want, first = next(left), True
        for packet in untorn(container.demux(stream)):
            # pictures that no other needs are not decoded before the first one wanted
            skip = context.name in SKIPPING and packet.pts is not None and packet.pts < stamps[0]
            context.skip_frame = "NONREF" if skip else "DEFAULT"
            for frame in packet.decode():
                if first and frame.pts > want:
                    raise OSError(
                        f"seeking to time stamp {start} led to {frame.pts}, {want} was wanted"
                    )
                if frame.pts == start and not frame.key_frame and context.name not in STRICT:
                    raise OSError(f"the packet at time stamp {start} is no key frame")
                first = False
                if frame.pts == want:
                    yield self._picture(frame)
                    want = next(left, None)
                    if want is None:
                        return
                elif frame.pts > want:
                    raise OSError(f"the frame at time stamp {want} does not decode")
        raise OSError(f"the frame at time stamp {want} does not decode")


# ---- decord ------------------------------------------------------------------------------------


class Decord(Reader):
    """decord with one thread, its global bridge untouched, set to fail where it would hand out a
    neighboring frame."""

    def __init__(self, path: Path, size: Size) -> None:
        import decord

        self._about = index(path)  # also keeps decord from what is no video

        def reader(**resize: int):
            # fault_tol: the share of frames that may silently be replaced by a neighbor; the
            # smallest means none
            return decord.VideoReader(
                os.path.abspath(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9, **resize
            )

        self._reader, self._path, self._size = reader(), path, None
        self.frames = len(self._reader)
        self.fps = self._about.fps
        stamps = np.asarray(self._reader.get_frame_timestamp(np.arange(self.frames)), np.float64)
        self.times = stamps[:, 0] if self.frames else np.empty(0)
        if size is not None and self.exact(path):
            shape = self._batch(np.zeros(1, np.int64)).shape
            height, width = short_side(shape[1], shape[2], size)
            self._reader, self._size = reader(height=height, width=width), (height, width)

    def exact(self, path: Path) -> bool:
        """Return whether decord's frame numbers hold for this file.

        decord seeks by time stamps, which must exist and ascend.
        """
        about, avi = self._about, "avi" in self._about.kind
        # elsewhere (H.264 in AVI, MPEG-4 in mp4, MPEG-2, WMV) it was seen to hand out other frames
        # after a seek
        if about.codec not in (("mpeg4",) if avi else ("h264", "hevc", "vp8", "vp9")):
            return False
        if about.shown is None or about.hidden or about.leading or about.streams > 1:
            return False
        if len(about.shown) != self.frames or orientation(path).is_reflection():
            return False
        return not self.frames or bool(self.times[0] > -1e-6 and (np.diff(self.times) > 0).all())

    def _batch(self, wanted: np.ndarray) -> np.ndarray:
        import decord

        try:
            batch = self._reader.get_batch(wanted)
        except decord.DECORDError as error:
            if "The size must exactly match" not in str(error):
                raise
            # it cannot copy frames 16, 24, 48 or 72 pixels wide
            return PyAV(self._path, self._size).take(wanted)[0]
        # else its thread decodes on in the background and fills memory (dmlc/decord issue 157)
        self._reader.seek(0)
        # others may have set the bridge
        return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode frames by ascending number: uint8 [n,H,W,3], and their times [n] in seconds."""
        return self._batch(wanted), self.times[wanted]

    def close(self) -> None:
        """Close the file."""
        self._reader = None


# ---- torchcodec --------------------------------------------------------------------------------


class TorchCodec(Reader):
    """torchcodec, exact seeking; it needs FFmpeg's shared libraries from the system or conda."""

    codecs = ("h264", "hevc", "vp8", "vp9", "av1")

    def __init__(self, path: Path, size: Size) -> None:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        def opened(transforms: list | None) -> VideoDecoder:
            return VideoDecoder(
                str(path),
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
                transforms=transforms,
            )

        self._decoder: VideoDecoder | None = opened(None)
        about = self._decoder.metadata
        if size is not None:
            resize = Resize(short_side(about.height or 0, about.width or 0, size))
            self._decoder = opened([resize])
        self.frames, self.fps = len(self._decoder), index(path).fps
        self._codec = about.codec

    def exact(self, path: Path) -> bool:
        """Return whether torchcodec's frame numbers hold: for modern codecs and upright frames.

        With packed B-frames in AVI it returns frame i - 1 for i, and not every release turns
        frames that should be shown rotated.
        """
        if any(kind in index(path).kind for kind in ("avi", *STREAMS)):
            return False
        return self._codec in self.codecs and orientation(path) == UPRIGHT

    def take(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode frames by ascending number: uint8 [n,H,W,3], and their times [n] in seconds."""
        assert self._decoder is not None, "the reader is closed"
        batch = self._decoder.get_frames_at(wanted.tolist())
        return batch.data.numpy(), batch.pts_seconds.numpy()

    def close(self) -> None:
        """Close the file."""
        self._decoder = None


# ---- the table ---------------------------------------------------------------------------------

DECODERS = {"decord": Decord, "torchcodec": TorchCodec, "pyav": PyAV}
_MODULES = {"decord": "decord", "torchcodec": "torchcodec.decoders", "pyav": "av"}


def check_decoder(decoder: str) -> None:
    """Check that files can be read by this decoder on this machine.

    Raises:
        ValueError: the name is unknown.
        ImportError: the decoder does not load.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    failures(decoder)


def _load(decoder: str) -> None:
    importlib.import_module(_MODULES.get(decoder, "builtins"))
    if decoder == "torchcodec":  # it looks for FFmpeg at first use, not at import
        from torchcodec.decoders import VideoDecoder

        try:
            VideoDecoder(b"no video")
        except (RuntimeError, ValueError) as error:
            if "load libtorchcodec" in str(error):
                raise


def _not_loaded(decoder: str, error: Exception) -> ImportError:
    """The error for a decoder that is not installed, with the ways out."""
    others = " or ".join(repr(name) for name in DECODERS if name != decoder)
    said = str(error).splitlines()[0][:200]
    return ImportError(
        f"decoder {decoder!r} does not load; use decoder={others}, or install it (torchcodec: "
        "vidbench[torchcodec] and "
        f"FFmpeg's shared libraries, as in environment.yml; decord: x86-64 only). It said: {said}"
    )


@cache
def failures(decoder: str) -> tuple[type[Exception], ...]:
    """Name what a decoder raises on a bad file: any error, as damaged bytes reach all its code.

    Raises:
        ImportError: the decoder does not load; the message says what to install or use.
    """
    try:
        _load(decoder)
    except (ImportError, RuntimeError, OSError) as error:
        raise _not_loaded(decoder, error) from error
    return (Exception,)
