"""Decoding of videos whose frames carry their own number, and of real ones against a plain
decode."""

import gc
import sys
import time
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from tests.makes import SIZE, encode, numbers
from vidbench.data.video import clips, windows
from vidbench.data.video.clips import Video, VideoError, probe, read


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("numbered")
    return {
        "one keyframe, B-frames": encode(folder / "long.mp4", 300, g="250", bf="3"),
        "short GOP": encode(folder / "gop.mkv", 120, g="12", bf="0"),
        "vp9": encode(folder / "vp9.webm", 60, "libvpx-vp9", g="30", deadline="realtime"),
        "mpeg4 avi": encode(folder / "xvid.avi", 90, "mpeg4", g="40"),
        "mpeg4 avi, B-frames": encode(folder / "b.avi", 90, "mpeg4", g="40", bf="2"),
        "program stream": encode(folder / "ps.mpg", 60, "mpeg1video", g="12", bf="2"),
    }


# ---- decoding ----------------------------------------------------------------------------------


def usable(decoder: str, path: Path) -> None:
    try:
        probe(path, decoder)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("decoder", clips.DECODERS)
@pytest.mark.parametrize(
    "kind, count, rate",
    [
        ("one keyframe, B-frames", 300, 25),
        ("short GOP", 120, 25),
        ("vp9", 60, 25),
        ("mpeg4 avi", 90, 25),
        ("mpeg4 avi, B-frames", 90, 25),
        ("program stream", 60, 25),
    ],
)
def test_every_decoder_gives_the_frames_asked_for(videos, decoder, kind, count, rate):
    path = videos[kind]
    usable(decoder, path)
    info = probe(path, decoder)
    assert info[:4] == (count, rate, *SIZE)
    everything = read(path, decoder=decoder)
    assert numbers(everything.frames) == list(range(count)) == everything.indices.tolist()
    assert everything.frames.dtype == np.uint8 and everything.times.dtype == np.float64
    assert np.allclose(np.diff(everything.times), 1 / rate, atol=2e-3)
    rng = np.random.default_rng(3)
    with Video(path, decoder) as video:
        for _ in range(6):  # unsorted, with repeats, from one reader
            indices = rng.integers(0, count, size=7)
            clip = video.read(np.append(indices, indices[0]))
            assert numbers(clip.frames) == clip.indices.tolist() == [*indices.tolist(), indices[0]]
            assert (clip.frames == everything.frames[clip.indices]).all()
            assert np.allclose(clip.times, everything.times[clip.indices])


@pytest.mark.parametrize("decoder", clips.DECODERS)
def test_frames_that_are_not_there(videos, decoder, tmp_path):
    path = videos["short GOP"]
    usable(decoder, path)
    with pytest.raises(VideoError, match=r"gop\.mkv: frame 120 .* finds 120"):
        read(path, [0, 120], decoder)
    for wrong in ([], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="frame numbers from 0 up"):
            read(path, wrong, decoder)
    with pytest.raises(VideoError, match="no such file"):
        read(tmp_path / "gone.mp4", decoder=decoder)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(
        VideoError, match=rf"text\.mp4: {decoder} cannot open it .* try another decoder"
    ):
        read(tmp_path / "text.mp4", decoder=decoder)
    (tmp_path / "half.mkv").write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError, match="half.mkv"):
        read(tmp_path / "half.mkv", decoder=decoder)


@pytest.mark.parametrize("decoder", clips.DECODERS)
def test_resize_while_decoding(videos, decoder):
    path = videos["short GOP"]
    usable(decoder, path)
    indices = [7, 3, 90]
    for size, shape in ((24, (24, 54)), ((32, 36), (32, 36))):
        clip = read(path, indices, decoder, size)
        assert clip.frames.shape == (3, *shape, 3) and numbers(clip.frames) == indices


@pytest.mark.parametrize("width", [16, 24, 48, 72, 80])
def test_narrow_videos(tmp_path, width):
    path = tmp_path / "narrow.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, width, "yuv420p"
        for level in range(0, 250, 10):
            frame = np.full((16, width, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    frames = read(path, [20, 3]).frames  # decord cannot copy frames of the first four widths
    assert (
        frames.shape == (2, 16, width, 3) and np.abs(frames.mean((1, 2, 3)) - [200, 30]).max() < 3
    )
    assert read(path, [3], size=8).frames.shape == (1, 8, width // 2, 3)


def test_unknown_decoder_lists_the_known():
    with pytest.raises(ValueError, match="decord, torchcodec, pyav"):
        read("x.mp4", decoder="ffmpeg")


def test_decords_global_bridge_is_left_alone_and_does_not_matter(videos):
    torch_frames = read(videos["short GOP"], [5]).frames
    decord.bridge.set_bridge("torch")
    try:
        assert isinstance(read(videos["short GOP"], [5]).frames, np.ndarray)
        assert (read(videos["short GOP"], [5]).frames == torch_frames).all()
        assert type(decord.VideoReader(str(videos["short GOP"]))[0]).__module__ == "torch", (
            "somebody else's preset"
        )
    finally:
        decord.bridge.set_bridge("native")


def resident() -> float:
    """MiB this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


linux = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc for the memory a process holds"
)


@linux
@pytest.mark.parametrize("decoder", clips.DECODERS)
def test_memory_is_flat_over_many_reads(videos, decoder):
    path = videos["short GOP"]
    usable(decoder, path)
    rng = np.random.default_rng(4)

    def some(count: int) -> None:
        for _ in range(count):
            read(path, windows.random_window(120, 8, 2, rng=rng), decoder)

    some(60)
    before = resident()
    some(500 if decoder == "decord" else 200)
    assert resident() - before <= 10


@linux
def test_an_idle_reader_does_not_decode_on(real_data):
    with Video(
        real_data / "real_clips/kinetics/R6llTwEh07w.mp4"
    ) as video:  # 303 frames: 75 MiB if all were decoded
        video.read([0, 1])
        before = resident()
        time.sleep(1)
        assert resident() - before < 10


# ---- real clips --------------------------------------------------------------------------------

REAL = {  # frames that a full decode shows, and which decoder reads when decord is requested
    "ucf101/Diving/v_Diving_g01_c01.avi": (259, "decord"),
    "ucf101/Archery/v_Archery_g03_c03.avi": (125, "pyav"),  # packed B-frames
    "ucf50/v_BaseballPitch_g01_c03.avi": (
        103,
        "pyav",
    ),  # a packet that codes nothing shifts decord's count
    "kinetics/abseiling_k400.mp4": (250, "decord"),
    "kinetics/flipping_a_pancake.mkv": (310, "decord"),
    "something_v2/166766.mp4": (49, "decord"),
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi": (
        48,
        "pyav",
    ),  # decord says 49, and gives 0 for 20
    "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (
        83,
        "pyav",
    ),  # metadata is not UTF-8
    "ucf11/biking/v_biking_01_01.mpg": (151, "pyav"),  # decord gives 12 for 0
    "edge_cases/hf_test_video_66x50.mov": (82, "pyav"),  # an edit list hides 5 of 87
    "edge_cases/decord_video_90.mov": (3, "decord"),  # rotated
}


@pytest.mark.parametrize("name", REAL)
def test_real_clips_random_order_equals_a_plain_decode(real_data, name):
    path = real_data / "real_clips" / name
    with av.open(str(path), metadata_errors="ignore") as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    plain = np.stack(plain) if "video_90" not in name else np.rot90(np.stack(plain), 3, axes=(1, 2))
    assert probe(path)[:1] + probe(path)[4:] == (len(plain), "pyav")
    info = probe(path, "decord")
    assert (info.frames, info.decoder) == REAL[name] and len(plain) == info.frames
    assert (info.height, info.width) == plain.shape[1:3]
    rng = np.random.default_rng(5)
    for decoder in ("pyav", "decord"):
        with Video(path, decoder) as video:
            for _ in range(3):
                clip = video.read(rng.integers(0, info.frames, size=6))
                # two FFmpegs: MPEG-4's inverse transform may round differently
                limit = 0 if decoder == "pyav" else 2
                assert np.abs(clip.frames.astype(int) - plain[clip.indices]).max() <= limit
    times = read(path).times
    assert (np.diff(times) > 0).all() and abs(
        times[-1] - times[0] - (len(times) - 1) / info.fps
    ) < 2.5 / info.fps


def test_a_corrupt_video_is_an_error_with_its_name(real_data):
    for decoder in ("decord", "pyav"):
        with pytest.raises(VideoError, match=r"decord_corrupted\.mp4: .* cannot"):
            read(real_data / "real_clips/edge_cases/decord_corrupted.mp4", [0, 40], decoder)
