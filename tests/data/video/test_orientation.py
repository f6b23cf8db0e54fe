"""Frames are turned and mirrored as players show them, by every decoder."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from tests.makes import encode
from vidbench.data.prepare.facts import examine
from vidbench.data.video import clips
from vidbench.data.video.orientation import Orientation, orientation, orientation_of

MATRICES = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)]
MATRICES += [(0, b, c, 0) for b, c in product((1, -1), repeat=2)]


def corners() -> np.ndarray:
    """A frame [48,64,3] with four different corners: red, green, blue, white."""
    frame = np.full((48, 64, 3), 90, np.uint8)
    frame[:16, :16] = 230, 20, 20
    frame[:16, -16:] = 20, 230, 20
    frame[-16:, :16] = 20, 20, 230
    frame[-16:, -16:] = 230, 230, 230
    return frame


def shown_by(matrix: tuple[int, int, int, int], frame: np.ndarray) -> np.ndarray:
    """The oracle: each pixel goes where the matrix sends it (column a*x + c*y, row b*x + d*y)."""
    a, b, c, d = matrix
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width]
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    shown = np.empty((row.max() + 1, column.max() + 1, 3), np.uint8)
    shown[row, column] = frame
    return shown


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    a, b, c, d = (65_536 * number for number in matrix)
    plain = encode(path, [corners()] * 6, crf="10")
    data, one = plain.read_bytes(), (65_536).to_bytes(4, "big")
    upright = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    at = data.rindex(upright)  # the track's; the first is the whole file's
    rows = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    turned = b"".join(number.to_bytes(4, "big", signed=True) for number in rows)
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    return path


@pytest.fixture(scope="module")
def turned(tmp_path_factory) -> dict[tuple, Path]:
    folder = tmp_path_factory.mktemp("turned")
    return {m: with_matrix(folder / f"{n}.mp4", m) for n, m in enumerate(MATRICES)}


@pytest.mark.parametrize("decoder", clips.DECODERS)
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_all_eight_matrices(turned, matrix, decoder):
    expected = shown_by(matrix, corners())
    try:
        got = clips.read(turned[matrix], [0, 3], decoder).frames
    except ImportError as error:
        pytest.skip(str(error))
    assert got.shape == (2, *expected.shape)
    assert np.abs(got[1].astype(int) - expected).mean() < 12
    small = clips.read(turned[matrix], [2], decoder, size=24).frames[0]
    assert min(small.shape[:2]) == 24
    assert np.abs(small.astype(int) - expected[::2, ::2]).mean() < 25


def test_a_reflection_is_no_rotation(turned):
    kinds = {matrix: orientation(path) for matrix, path in turned.items()}
    assert len(set(kinds.values())) == 8
    for (a, b, c, d), kind in kinds.items():
        assert kind.is_reflection() == (a * d - b * c < 0)


def test_other_data_of_a_frame_does_not_hide_its_rotation():
    class Frame:
        """A frame with data that this PyAV does not know."""

        rotation = -90

        @property
        def side_data(self):
            raise ValueError("31 is not a valid Type")

    frame = corners()
    assert orientation_of(Frame()) == Orientation(True, True, False)
    assert (orientation_of(Frame()).apply(frame) == np.rot90(frame, -1)).all()


def test_pixel_aspect_and_fields_are_remarks(tmp_path):
    def wide(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    plain = encode(tmp_path / "plain.mp4", 8)
    squeezed = encode(tmp_path / "wide.mp4", 8, prepare=wide)
    fields = encode(tmp_path / "fields.mp4", 8, flags="+ilme+ildct", **{"x264-params": "tff=1"})
    for path, remark in ((squeezed, "pixel aspect"), (fields, "interlaced")):
        facts, _ = examine((str(path), None))
        assert remark in facts.flags and not facts.error, facts
    assert not {"pixel aspect", "interlaced"} & set(examine((str(plain), None))[0].flags)
