"""The headers of a pack are checked before anything is read or allocated."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidbench.data.video import clips, framestore
from vidbench.data.video.clips import VideoError

GOOD = {
    "meta": np.frombuffer(b'{"fps": 25}', np.uint8),
    "rows": np.zeros((3, 4, 6, 3), np.uint8),
}
PIECES = {
    "meta": GOOD["meta"],
    "ends": np.array([4, 9], np.int64),
    "data": np.arange(9, dtype=np.uint8),
}


def header_of(shape: tuple[int, ...], kind: str) -> bytes:
    buffer = io.BytesIO()
    about = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def pack(path: Path, members: dict[str, np.ndarray | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in members.items():
            if isinstance(array, bytes):
                archive.writestr(f"{name}.npy", array)
            else:
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, version=(1, 0))
                archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


WRONG = {
    "objects for facts": ({**GOOD, "meta": np.array([{"fps": 25}], object)}, "plain numbers"),
    "numbers for facts": ({**GOOD, "meta": np.zeros(3)}, "meta must be a list of uint8"),
    "objects for rows": ({**GOOD, "rows": np.array([[1, "a"]], object)}, "plain numbers"),
    "more rows than bytes": ({**GOOD, "rows": header_of((1 << 40, 4, 6, 3), "u1")}, "must fill"),
    "fewer rows than bytes": (
        {**GOOD, "rows": header_of((1, 4, 6, 3), "u1") + bytes(500)},
        "must fill",
    ),
    "negative sides": ({**GOOD, "rows": header_of((-1, -4, 6, 3), "u1")}, "plain numbers"),
    "huge facts": ({**GOOD, "meta": header_of((3 << 30,), "u1")}, "must fill"),
    "rows of no pictures": ({**GOOD, "rows": np.zeros(3, np.uint8)}, "rows must be pictures"),
    "gray rows": ({**GOOD, "rows": np.zeros((3, 4, 6), np.uint8)}, "uint8 .N,H,W,3."),
    "rows of floats": ({**GOOD, "rows": np.zeros((3, 4, 6, 3), "f4")}, "uint8 .N,H,W,3."),
    "by columns": ({**GOOD, "rows": np.asfortranarray(np.zeros((3, 4, 6, 3), "u1"))}, "rows"),
    "ends that fall": ({**PIECES, "ends": np.array([5, 4], np.int64)}, "ends must rise"),
    "ends below 0": ({**PIECES, "ends": np.array([-1, 4], np.int64)}, "ends must rise"),
    "ends beyond": ({**PIECES, "ends": np.array([4, 10], np.int64)}, "ends must rise"),
    "ends of objects": ({**PIECES, "ends": np.array([4, None], object)}, "plain numbers"),
    "ends of floats": ({**PIECES, "ends": np.array([4.0, 9.0])}, "ends must be a list of int64"),
    "data of floats": ({**PIECES, "data": np.zeros(9)}, "data must be bytes"),
    "no rate": ({**GOOD, "meta": np.frombuffer(b'{"fps": NaN}', np.uint8)}, "no frame rate"),
    "a true rate": ({**GOOD, "meta": np.frombuffer(b'{"fps": true}', np.uint8)}, "no frame rate"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_pack_with_wrong_arrays_is_refused(tmp_path, what):
    members, said = WRONG[what]
    with pytest.raises(VideoError, match=rf"a\.frames\.npz: pack cannot open it .*{said}"):
        clips.read(pack(tmp_path / "a.frames.npz", members))


def test_an_array_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path = pack(tmp_path / "bomb.frames.npz", {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("meta", "rows"):
            with archive.open(f"{name}.npy", "w") as member:
                member.write(header_of((64 << 20,), "u1"))
                for _ in range(64):
                    member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(VideoError, match="meta is compressed; a pack is not"):
        clips.read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.frames.npz"
    framestore.write_pack(path, {"fps": 25.0}, rows=GOOD["rows"] + 7)
    assert (clips.read(path).frames == 7).all()
    with framestore.Pack(pack(path, PIECES)) as opened:
        assert opened.piece(1) == bytes(range(4, 9)) and opened.count == 2


@pytest.mark.parametrize("kind", ["a JPEG of 60,000 pixels a side", "a PNG"])
def test_a_piece_that_is_no_jpeg_of_a_frame_is_refused(tmp_path, kind):
    piece = framestore.encode_jpeg(np.full((16, 24, 3), 90, np.uint8))
    path = tmp_path / "a.frames.npz"
    framestore.write_pack(path, {"fps": 25}, pieces=[piece])
    assert clips.read(path).frames.shape == (1, 16, 24, 3)
    if kind == "a PNG":
        piece = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    else:
        at = piece.index(b"\xff\xc0") + 5
        piece = piece[:at] + struct.pack(">HH", 60_000, 60_000) + piece[at + 4 :]
    framestore.write_pack(path, {"fps": 25}, pieces=[piece])
    with pytest.raises(VideoError, match=r"a\.frames\.npz: .*holds a damaged picture"):
        clips.read(path)
