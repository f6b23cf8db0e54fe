"""Files of many pictures: written whole or not at all, read at random.

A pack is an uncompressed .npz (any NumPy opens it) with `meta`, JSON as bytes, and either `rows`
(raw arrays, one per picture) or `data` and `ends` (compressed pictures one after the other, and
where each ends). NumPy would read and check a whole member; being stored as they are, parts of it
are read in place here.

Short-GOP mp4, the third form, is what `write_mp4` writes: H.264 with a key picture every 16 and no
B-frames, of RGB pictures (a reader like any other reads them: decoders.PyAV) or of gray ones, whose
256 levels are the luma plane's."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidbench.data.video.packets import PIXELS
from vidbench.system.errors import Brief
from vidbench.system.files import written

SUFFIX = ".frames.npz"
GOP = 16
JPEG_QUALITY = 90


MP4 = {"movflags": "+faststart", "use_editlist": "0", "fflags": "+bitexact"}
# no arithmetic coding, no deblocking: 1.5 times as fast to read for 5-8 % more bytes
FAST = {"tune": "fastdecode", "g": str(GOP)}
# x264's macroblock tree decides differently from run to run on small frames (measured at 32 px: one
# clip in hundreds; not without its assembler), so it is off
ALIKE = {"bf": "0", "sc_threshold": "0", "x264-params": "mbtree=0"}


class PackError(Brief, OSError):
    """A file that is not a pack, or a damaged one."""


def write_pack(
    file: Path, meta: dict, pieces: list[bytes] | None = None, rows: np.ndarray | None = None
) -> None:
    """Write a pack of compressed pieces or of raw rows; atomic.

    Args:
        meta: Facts, kept as JSON.
        pieces: One for each frame.
        rows: Frames [N,...], instead of pieces.
    """
    about = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with written(file) as temporary, open(temporary, "wb") as handle:
        if rows is not None:
            np.savez(handle, meta=about, rows=rows)
        else:
            ends = np.cumsum([len(piece) for piece in pieces or ()], dtype=np.int64)
            data = np.frombuffer(b"".join(pieces or ()), np.uint8)
            np.savez(handle, meta=about, ends=ends, data=data)


class _Member(NamedTuple):
    """Where an array is in a pack."""

    start: int  # bytes from the start of the file
    shape: tuple[int, ...]
    kind: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.kind.itemsize


class Pack:
    """An open pack: `meta`, and `piece(i)` or `rows(wanted)`; a context manager.

    Nothing is allocated before the headers agree with the size of the file.

    Raises:
        PackError: the file is not a pack, or it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.handle = Path(path), open(path, "rb")
        try:
            self._size = self.path.stat().st_size
            self._zip = zipfile.ZipFile(self.handle)
            self.meta: dict = json.loads(self._small("meta", np.uint8).tobytes())
            self.raw = "rows.npy" in self._zip.namelist()
            self._array = self._member("rows" if self.raw else "data")
            self._ends = np.empty(0, np.int64) if self.raw else self._small("ends", np.int64)
            self.shape, self.kind = self._array.shape, self._array.kind
            self._check_pieces()
            self.count = self._array.shape[0] if self.raw else len(self._ends)
        except Exception as error:
            # zipfile's and NumPy's parsers raise a dozen kinds on damaged bytes
            self.handle.close()
            raise PackError(
                f"{self.path} is not a whole pack ({error}): delete it and make it again"
            ) from error

    def _check_pieces(self) -> None:
        """Check that the pictures are where the pack says. Raises PackError."""
        size, kind = self._array.size, self._array.kind
        if self.raw:
            if not 1 < len(self._array.shape) < 5:
                raise PackError(f"rows must be pictures, got shape {self._array.shape}")
            return
        if kind != np.uint8 or len(self._array.shape) != 1:
            raise PackError(f"data must be bytes, got {kind} of shape {self._array.shape}")
        places = np.concatenate([[0], self._ends, [size]])
        if (np.diff(places) < 0).any():
            raise PackError(f"ends must rise from 0 to {size}, the bytes of the pictures")

    def _member(self, name: str) -> _Member:
        """Find a member's array and check its header against the file. Raises PackError."""
        about = self._zip.getinfo(f"{name}.npy")
        if about.compress_type != zipfile.ZIP_STORED or about.compress_size != about.file_size:
            raise PackError(f"{name} is compressed; a pack is not")
        self.handle.seek(about.header_offset + 26)
        first = about.header_offset + 30 + sum(struct.unpack("<HH", self.handle.read(4)))
        self.handle.seek(first)
        version = np.lib.format.read_magic(self.handle)
        if version != (1, 0):
            raise PackError(f"{name} has an array header of version {version}, not (1, 0)")
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(self.handle)
        member = _Member(self.handle.tell(), shape, kind)
        if kind.kind not in "uif" or by_columns or any(side < 0 for side in shape):
            raise PackError(f"{name} must be rows of plain numbers, got {kind} of shape {shape}")
        end = first + about.file_size
        if end > self._size or member.start + member.size != end:
            raise PackError(
                f"{name} must fill its {about.file_size} bytes of the file's {self._size}, its "
                f"header says {member.size}: it is cut short or damaged"
            )
        return member

    def _small(self, name: str, kind: type[np.generic]) -> np.ndarray:
        """Read a list of numbers whole, with its checksum. Raises PackError on another array."""
        member = self._member(name)
        if member.kind != kind or len(member.shape) != 1:
            raise PackError(
                f"{name} must be a list of {np.dtype(kind)}, got {member.kind} of shape "
                f"{member.shape}"
            )
        data = self._zip.read(f"{name}.npy")
        return np.frombuffer(data, kind, offset=len(data) - member.size)

    def piece(self, i: int) -> bytes:
        """Read the i-th compressed picture."""
        first = int(self._ends[i - 1]) if i else 0
        self.handle.seek(self._array.start + first)
        return self.handle.read(int(self._ends[i]) - first)

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Read raw frames [n,...] by number; neighbors are read in one go.

        Raises:
            PackError: the file is cut short.
        """
        out = np.empty((len(wanted), *self._array.shape[1:]), self._array.kind)
        step = out[0].nbytes
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        for run in np.split(np.arange(len(wanted)), breaks):
            self.handle.seek(self._array.start + int(wanted[run[0]]) * step)
            place = out[run[0] : run[-1] + 1].data.cast("B")
            if self.handle.readinto(place) != len(run) * step:
                raise PackError(f"{self.path} is cut short: delete it and make it again")
        return out

    def close(self) -> None:
        """Let the file go."""
        self.handle.close()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Pictures:
    """A video stored as a pack of RGB pictures, raw or JPEG: `frames`, `fps`, `take(wanted)`."""

    def __init__(self, path: str | Path) -> None:
        self._pack = Pack(path)
        problem = self._problem()
        if problem:
            self._pack.close()
            raise PackError(f"{path} is a pack, but not of a video's pictures: {problem}")
        self.frames, self.fps = self._pack.count, float(self._pack.meta["fps"])

    def _problem(self) -> str:
        fps = self._pack.meta.get("fps") if isinstance(self._pack.meta, dict) else None
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            return f"it has no frame rate (meta's fps must be positive, got {fps!r})"
        if not self._pack.raw or self._pack.kind == np.uint8 and self._pack.shape[3:] == (3,):
            return ""
        return f"rows must be uint8 [N,H,W,3], got {self._pack.kind} {list(self._pack.shape)}"

    def take(self, wanted: np.ndarray) -> np.ndarray:
        """Read frames by ascending number: uint8 [n,H,W,3]."""
        if self._pack.raw:
            return self._pack.rows(wanted)
        return np.stack([decode_jpeg(self._pack.piece(int(i)), self._pack.path) for i in wanted])

    def close(self) -> None:
        """Let the file go."""
        self._pack.close()


def encode_jpeg(frame: np.ndarray) -> bytes:
    """Encode RGB uint8 [H,W,3] as JPEG.

    Raises:
        PackError: OpenCV refuses it, such as for its size.
    """
    import cv2

    done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise PackError(f"OpenCV cannot encode a picture of {frame.shape} as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes, where: Path) -> np.ndarray:
    """Decode a JPEG to RGB uint8 [H,W,3].

    Args:
        where: The file that the error names.

    Raises:
        PackError: the picture is damaged or too large.
    """
    import cv2

    frame = None
    if 0 < _jpeg_pixels(data) <= PIXELS:  # OpenCV allocates them before it looks at the data
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if frame is None:
        raise PackError(f"{where} holds a damaged picture: delete it and make it again")
    return frame


def _jpeg_pixels(data: bytes) -> int:
    """Read the number of pixels from a JPEG's frame header; 0 if there is none."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height * width
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0


# ---- short-GOP mp4 -----------------------------------------------------------------------------


def write_mp4(
    file: Path,
    pictures: Iterable[np.ndarray],
    fps: float,
    crf: int = 18,
    comment: str = "",
    **x264: str,
) -> int:
    """Write frames to an mp4 and return their number; atomic.

    No B-frames and no edit list, which decoders disagree about; one thread, so that the bytes are
    always the same.

    Args:
        pictures: uint8 [H,W,3] RGB or [H,W] gray, of even height and width.
        crf: x264's quality.
        comment: Kept in the file.
        **x264: x264's settings, instead of FAST.
    """
    settings = {"preset": "veryfast", "crf": str(crf), **(x264 or FAST), **ALIKE}
    return _write(file, pictures, fps, ("mp4", "libx264"), MP4, settings, comment)


def write_webm(file: Path, pictures: Iterable[np.ndarray], fps: float, crf: int = 52) -> int:
    """Write frames to a small WebM (VP9) and return their number; atomic.

    For clips to look at: at 64 pixels they take about 60 % of the bytes of H.264 of equal quality.

    Args:
        pictures: uint8 [H,W,3] of even height and width.
        crf: VP9's quality.
    """
    settings = {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "1", "g": "999"}
    return _write(file, pictures, fps, ("webm", "libvpx-vp9"), {"fflags": "+bitexact"}, settings)


def _write(
    file: Path,
    pictures: Iterable[np.ndarray],
    fps: float,
    form: tuple[str, str],
    muxer: dict[str, str],
    settings: dict[str, str],
    comment: str = "",
) -> int:
    """Encode pictures with one thread. form: container and codec."""
    import av

    count = 0
    with written(file) as temporary:
        with av.open(str(temporary), "w", format=form[0], options=muxer) as out:
            if comment:
                out.metadata["comment"] = comment
            rate = Fraction(fps).limit_denominator(1001) or Fraction(1, 1001)
            stream: Any = out.add_stream(form[1], rate=rate)
            stream.thread_count, stream.options = 1, settings
            for picture in pictures:
                if not count:
                    stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
                out.mux(stream.encode(_frame(picture)))
                count += 1
            out.mux(stream.encode())
    return count


def _frame(picture: np.ndarray):
    """A picture for the encoder; gray goes into the luma plane as it is, so that no range
    conversion touches it."""
    import av

    if picture.ndim == 3:
        return av.VideoFrame.from_ndarray(picture, "rgb24")
    height, width = picture.shape
    planes = np.full((height * 3 // 2, width), 128, np.uint8)
    planes[:height] = picture
    return av.VideoFrame.from_ndarray(planes, "yuv420p")
