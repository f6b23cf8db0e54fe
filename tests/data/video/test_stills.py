"""Pictures and animations are decoded as a good viewer shows them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vidbench.data.video import clips
from vidbench.data.video.clips import VideoError

SIDE = (20, 30)  # H, W


def ramp() -> np.ndarray:
    """A picture [20,30,3] without a symmetry."""
    y, x = np.mgrid[: SIDE[0], : SIDE[1]]
    return np.stack([8 * x, 12 * y, 4 * (x + y)], -1).astype(np.uint8)


def level(i: int) -> np.ndarray:
    return np.full((*SIDE, 3), 20 * i, np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("number", TURNS)
def test_orientation_of_exif(tmp_path, suffix, number):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = number
    more = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(ramp()).save(path, exif=exif, **more)
    got = clips.read(path).frames[0]
    assert got.shape == TURNS[number](ramp()).shape
    gap = np.abs(got.astype(int) - TURNS[number](ramp()))
    assert gap.mean() < 8 if suffix == "jpg" else not gap.any()


def test_damaged_exif_leaves_the_picture(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert (clips.read(tmp_path / "a.png").frames[0] == ramp()).all()


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tif"])
def test_animations_are_videos_of_all_their_frames(tmp_path, name):
    frames = [Image.fromarray(level(i)) for i in range(10)]
    more = {"a.webp": {"lossless": True, "duration": 40}, "a.png": {"duration": 40}}.get(name, {})
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
    info = clips.probe(tmp_path / name)
    assert (info.frames, info.fps, info.height, info.width) == (10, pytest.approx(25), *SIDE)
    clip = clips.read(tmp_path / name, [7, 2, 2, 9])
    assert clip.frames[:, 3, 4, 0].tolist() == [140, 40, 40, 180]
    assert np.allclose(clip.times, np.array([7, 2, 2, 9]) / 25)
    with clips.Video(tmp_path / name, size=10) as video:
        assert [frame.mean() for frame in video.stream()] == [20 * i for i in range(10)]


def test_frames_of_uneven_duration_have_their_times(tmp_path):
    frames = [Image.fromarray(level(i)) for i in range(4)]
    durations = [100, 50, 0, 200]  # 0: players take 100
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=durations)
    assert np.allclose(clips.read(tmp_path / "a.png").times, [0, 0.1, 0.15, 0.25])


def test_pages_that_only_repeat_another_are_no_frames(tmp_path):
    page, small = Image.fromarray(ramp()), Image.fromarray(ramp()[::2, ::2].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    page.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    clip = clips.read(tmp_path / "a.tif")
    assert clip.frames.shape == (1, *SIDE, 3) and (clip.frames[0] == ramp()).all()


def test_a_default_picture_is_no_frame_of_the_animation(tmp_path):
    frames = [Image.fromarray(level(i)) for i in range(1, 4)]
    path = tmp_path / "a.png"
    Image.fromarray(level(9)).save(
        path, save_all=True, default_image=True, append_images=frames, duration=40
    )
    assert clips.read(path).frames[:, 0, 0, 0].tolist() == [20, 40, 60]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    levels = np.linspace(0, 65_535, SIDE[0] * SIDE[1]).reshape(SIDE).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    got = clips.read(tmp_path / name).frames[0]
    assert (got[..., 0] == np.rint(levels / 257).astype(int)).all() and (got == got[..., :1]).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "PA", "RGBA", "CMYK"])
def test_modes(tmp_path, mode):
    half = ramp() // 128 * 255 if mode == "1" else ramp()
    picture = Image.fromarray(half).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "PA") else "a.png")
    picture.save(path)
    got = clips.read(path).frames[0].astype(int)
    assert np.abs(got - np.array(picture.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    alpha = np.zeros(SIDE, np.uint8)
    alpha[:, 15:] = 255
    picture = Image.fromarray(np.zeros((*SIDE, 3), np.uint8))
    picture.putalpha(Image.fromarray(alpha))
    if mode == "P":
        indexed = Image.fromarray(alpha // 255)
        indexed.putpalette([250, 0, 0, 0, 0, 0])
        indexed.save(tmp_path / "a.png", transparency=0)
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    got = clips.read(tmp_path / "a.png").frames[0]
    assert (got[:, :15] == 255).all() and (got[:, 15:] == 0).all()


def test_numbers_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.zeros(SIDE, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(VideoError, match=r"a\.tif: .*32-bit numbers .*convert it to 8 or 16"):
        clips.read(tmp_path / "a.tif")


def big_png(path: Path, side: int) -> Path:
    """A PNG of so many pixels a side and few bytes; its rows are never written."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("side", [13_000, 60_000])
def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path, side):
    with pytest.raises(VideoError, match=rf"a\.png: .*({side} x {side} pixels; at most|bomb)"):
        clips.read(big_png(tmp_path / "a.png", side))


def test_compressed_text_of_a_png_is_no_bomb(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * (1 << 26), zip=True)
    Image.fromarray(ramp()).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(VideoError, match=r"a\.png"):
        clips.read(tmp_path / "a.png")


def test_promised_frames_fit_the_file(tmp_path):
    frames = [Image.fromarray(level(i)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"acTL") - 4
    lie = chunk(b"acTL", struct.pack(">II", 1 << 30, 0))
    (tmp_path / "a.png").write_bytes(data[:at] + lie + data[at + len(lie) :])
    with pytest.raises(VideoError, match=r"a\.png: .*1073741824 frames in"):
        clips.read(tmp_path / "a.png")


@pytest.mark.parametrize("side", [13_000])
def test_a_gif_of_too_many_pixels_is_refused_unread(tmp_path, side):
    Image.fromarray(np.zeros(SIDE, np.uint8)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = struct.pack("<HH", side, side)
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(VideoError, match=rf"a\.gif: .*{side} x {side} pixels; at most"):
        clips.read(tmp_path / "a.gif")


def test_transparent_pixels_of_a_gif_are_white(tmp_path):
    indexed = Image.fromarray(np.repeat([[0, 1]], 15, 1).repeat(SIDE[0], 0).astype(np.uint8))
    indexed.putpalette([250, 0, 0, 0, 0, 0])
    indexed.save(tmp_path / "a.gif", transparency=0)
    got = clips.read(tmp_path / "a.gif").frames[0]
    assert (got[:, :15] == 255).all() and (got[:, 15:] == 0).all()
    assert (clips.read(tmp_path / "a.gif", size=10).frames[0, :, 9:] == 0).all()


def test_uneven_durations_are_read_without_decoding(tmp_path):
    frames = [Image.fromarray(level(i)) for i in range(4)]
    for name, durations in (("even", 40), ("uneven", [40, 40, 200, 40])):
        path = tmp_path / f"{name}.png"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations)
    assert clips.uneven_times(tmp_path / "even.png") is None
    assert np.allclose(clips.uneven_times(tmp_path / "uneven.png"), [0, 0.04, 0.08, 0.28])
