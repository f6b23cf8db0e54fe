"""Rates, codecs and packets that a container describes wrongly."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.makes import encode, numbers
from vidbench.data.loading.dataset import Clips, ClipSpec, _Row
from vidbench.data.manifest import Manifest
from vidbench.data.prepare.facts import examine
from vidbench.data.video import clips, windows
from vidbench.data.video.clips import VideoError
from vidbench.data.video.packets import index, rate


def flags_of(path: Path, check_with: str | None = None) -> tuple[str, ...]:
    facts, _ = examine((str(path), check_with))
    assert not facts.error, facts
    return facts.flags


# ---- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared, gap", [(1000, 33), (600, 40)])
def test_a_clock_is_not_taken_for_a_rate(tmp_path, declared, gap):
    path = encode(tmp_path / "clock.mkv", 30, rate=declared, pts=[gap * i for i in range(30)])
    assert index(path).fps == pytest.approx(1000 / gap)
    assert clips.probe(path).fps == clips.probe(path, "decord").fps == index(path).fps
    stride = windows.stride_for(clips.probe(path).fps, 8)
    chosen = windows.spread_windows(30, 5, 1, stride)[0]
    clip = clips.read(path, chosen)
    assert len(set(numbers(clip.frames))) == 5
    assert np.allclose(np.diff(clip.times), 1 / 8, atol=gap / 1000)
    assert "rate from time stamps" in flags_of(path)
    assert examine((str(path), None))[0].fps == index(path).fps


def test_a_declared_rate_that_agrees_is_kept(tmp_path):
    path = encode(tmp_path / "a.mkv", 20, rate=30)  # stamps of 33 and 34 ms
    assert clips.probe(path).fps == 30 and "rate from time stamps" not in flags_of(path)


def test_rate():
    steady, pause = np.arange(10) / 25, np.array([0, 0.04, 0.08, 0.12, 5.0])
    assert rate(steady, 25) == rate(pause, 25) == 25  # a pause does not change the rate
    assert rate(steady, 50) == rate(steady, 0) == pytest.approx(25)
    assert rate(steady[:1], 30) == rate(np.zeros(3), 30) == 30  # nothing to measure


@pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
@pytest.mark.parametrize("scanned", [False, True])
def test_clips_of_an_uneven_rate_are_chosen_by_time(tmp_path, scanned, cache_bytes):
    """20 frames at 25 per second, then 10 frames at 5 per second: 8 frames a second show each."""
    stamps = [40 * i for i in range(20)] + [800 + 200 * i for i in range(10)]
    path = encode(tmp_path / "a.mkv", 30, rate=25, pts=stamps)
    assert "variable rate" in flags_of(path)
    manifest = Manifest.from_rows(tmp_path, [("a.mkv", "a", "train", None)])
    if scanned:
        fps = np.array([clips.probe(path).fps])
        manifest = replace(manifest, fps=fps, frames=np.array([30]))
    spec = ClipSpec(frames=20, target_fps=8, sampling="spread", windows=1)
    data = Clips(manifest, spec, cache_bytes=cache_bytes)
    with _Row(data, 0) as row:
        chosen = data._windows(row.length, row.stride, np.random.default_rng(0))
        frames = row.frames(chosen)["rgb"][0].permute(0, 2, 3, 1).numpy()
        shown = np.array(stamps)[numbers(frames)] / 1000
    first = shown[0]
    wanted = first + np.arange(20) / 8
    assert (np.abs(shown - wanted) <= 0.2 + 0.04).all() and (np.diff(shown) >= 0).all()


def test_by_time():
    """A plain loop: the last frame that is shown at the wanted time or before."""
    times = np.array([0.5, 0.54, 0.58, 1.5, 1.54])
    assert windows.length_at(times, 25) == 27
    chosen = np.arange(27).reshape(3, 9)
    plain = [max(i for i, t in enumerate(times) if t <= 0.5 + n / 25 + 1e-6) for n in range(27)]
    assert windows.by_time(chosen, times, 25).reshape(-1).tolist() == plain
    even = np.arange(30) / 29.97
    assert windows.by_time(np.arange(30), even, 29.97).tolist() == list(range(30))


# ---- codecs ------------------------------------------------------------------------------------


def without_decoder(path: Path) -> Path:
    encode(path, 8)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz7q").replace(b"avcC", b"free"))
    return path


@pytest.mark.parametrize("decoder", clips.DECODERS)
def test_a_codec_without_decoder_is_an_error_of_its_file(tmp_path, decoder):
    path = without_decoder(tmp_path / "unknown.mp4")
    try:
        with pytest.raises(VideoError, match=r"unknown\.mp4: .*(no decoder|cannot open)"):
            clips.read(path, [0], decoder)
    except ImportError as error:
        pytest.skip(str(error))
    facts, _ = examine((str(path), "decord"))
    assert facts.flags == ("unreadable",) and "no decoder for its codec" in facts.error


@pytest.mark.parametrize(
    "raised", [KeyError("x"), RecursionError(), AttributeError("y"), MemoryError()]
)
def test_any_error_of_one_video_names_the_video(tmp_path, monkeypatch, raised):
    path = encode(tmp_path / "a.mp4", 5)
    video = clips.Video(path)

    def broken(wanted: np.ndarray):
        raise raised

    monkeypatch.setattr(video._reader, "take", broken)
    with pytest.raises(VideoError, match=rf"a\.mp4: pyav cannot .*{type(raised).__name__}"):
        video.read([0])


# ---- packets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_sync_sample_that_cannot_be_entered(tmp_path, codec):
    path = encode(tmp_path / "a.mp4", 40, codec, g="20", bf="0", sc_threshold="0")
    data = bytearray(path.read_bytes())
    at = data.index(b"stss")
    assert struct.unpack_from(">II", data, at + 8) == (2, 1)
    struct.pack_into(">I", data, at + 16, 26)  # instead of 21: a picture that needs others
    path.write_bytes(data)
    for i in (27, 30, 39, 3):
        assert numbers(clips.read(path, [i]).frames) == [i]
    assert numbers(clips.read(path, [2, 26, 38]).frames) == [2, 26, 38]
    assert "damaged" not in flags_of(path)


def test_a_comment_behind_the_last_frame_of_a_gif(tmp_path):
    frames = [Image.fromarray(np.full((20, 30), 40 * i, np.uint8)) for i in range(4)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    plain = clips.read(path).frames
    data = path.read_bytes()
    assert data[-1:] == b";"
    path.write_bytes(data[:-1] + b"\x21\xfe\x0bthe comment\x00;")
    clip = clips.read(path)
    assert (clip.frames == plain).all() and np.allclose(clip.times, np.arange(4) * 0.04)
    assert clips.probe(path).fps == 25 and (clips.read(path, [3]).frames == plain[3:]).all()
    assert "counted" in flags_of(path)
