"""Frame arithmetic against plain loops, and decoding of videos whose frames carry their own number."""

import gc
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from vidbench.data import clips
from vidbench.data.clips import Video, VideoError, probe, read

SIZE, BITS = (48, 108), 9  # pixels; vertical bars, black or white, that spell the frame's number
CASES = [(length, frames, stride) for length in (1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 100) for frames in (1, 2, 8, 32)
         for stride in (1, 2, 3, Fraction(15, 4), Fraction(1, 2))]  # fmt: skip


def picture(number: int) -> np.ndarray:
    """A frame that carries its number."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    return np.broadcast_to(np.repeat(np.array(bars, np.uint8), SIZE[1] // BITS)[None, :, None], (*SIZE, 3))


def numbers(frames: np.ndarray) -> list[int]:
    """What the frames carry."""
    bars = frames.mean((1, 3)).reshape(len(frames), BITS, -1).mean(-1) > 127
    return (bars * (1 << np.arange(BITS))).sum(1).tolist()


def encode(path: Path, frames: int, codec: str = "libx264", rate: int = 25, **options: str) -> Path:
    """A video of numbered frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(number)), "rgb24")))
        container.mux(stream.encode())
    return path


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


# ---- which frames ------------------------------------------------------------------------------------------------


def padded(length: int, frames: int, stride, pad: str) -> list[int]:
    """The rule for a video that is too short, as a plain loop."""
    steps = [int(i * stride) for i in range(frames)]
    if pad == "last":
        return [min(step, length - 1) for step in steps]
    if pad == "loop":
        return [step % length for step in steps]
    inside = [step for step in steps if step < length]
    return [0] * (frames - len(inside)) + inside


def fitting(length: int, frames: int, stride) -> list[list[int]]:
    """Every window that fits, found by trying each start."""
    windows = [[start + int(i * stride) for i in range(frames)] for start in range(length)]
    return [window for window in windows if window[-1] < length]


@pytest.mark.parametrize("pad", clips.PADS)
def test_windows_are_those_that_fit_or_padded(pad):
    rng = np.random.default_rng(0)
    for length, frames, stride in CASES:
        allowed = fitting(length, frames, stride) or [padded(length, frames, stride, pad)]
        assert clips.random_window(length, frames, stride, rng=rng, pad=pad).tolist() in allowed
        drawn = clips.random_windows(length, frames, 2, stride, rng=rng, pad=pad)
        assert drawn.shape == (2, frames) and all(window in allowed for window in drawn.tolist())
        assert clips.spread_windows(length, frames, 1, stride, pad)[0].tolist() == allowed[(len(allowed) - 1) // 2]
        for windows in (2, 3, 10):
            spread = clips.spread_windows(length, frames, windows, stride, pad)
            assert spread.dtype == np.int64 and spread.shape == (windows, frames)
            assert spread[0].tolist() == allowed[0] and spread[-1].tolist() == allowed[-1], "must touch both ends"
            gaps = np.diff(spread[:, 0]) if len(allowed) > 1 else np.zeros(1)
            assert gaps.max() - gaps.min() <= 1, "must be evenly spread"
        for hop in (1, 3, 15):
            sliding = clips.sliding_windows(length, frames, hop, stride, pad).tolist()
            assert sliding == allowed[::hop] + ([allowed[-1]] if (len(allowed) - 1) % hop else [])


def test_random_windows_reach_every_start_evenly_and_are_independent():
    rng = np.random.default_rng(1)
    pairs = np.array([clips.random_windows(12, 8, 2, rng=rng)[:, 0] for _ in range(5000)])
    counts = np.zeros((5, 5))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert (abs(counts - 200) < 5 * np.sqrt(200)).all()  # 5000 draws over 25 pairs of starts


def test_coclr_short_video_repeats_the_first_frame_on_the_left():
    assert clips.random_window(5, 8, rng=np.random.default_rng(0), pad="first").tolist() == [0, 0, 0, 0, 1, 2, 3, 4]


def test_coclr_test_windows():
    windows = clips.sliding_windows(100, 32, 15)
    assert windows[:, 0].tolist() == [0, 15, 30, 45, 60, 68] and windows[-1, -1] == 99


def test_segments_one_frame_from_each():
    rng = np.random.default_rng(2)
    for length in range(1, 70):
        for segments in (1, 3, 8, 16):
            middle, drawn = clips.uniform_segments(length, segments), clips.uniform_segments(length, segments, rng=rng)
            for k in range(segments):
                inside = [i for i in range(length) if k * length // segments <= i < (k + 1) * length // segments]
                inside = inside or [k * length // segments]
                assert middle[k] == inside[len(inside) // 2] and drawn[k] in inside
    seen = {int(i) for _ in range(200) for i in clips.uniform_segments(16, 4, rng=rng)}
    assert seen == set(range(16))


def test_stride_from_frame_rates():
    assert clips.stride_for(30, 8) == Fraction(15, 4) and clips.stride_for(29.97002997, 29.97002997) == 1
    assert clips.stride_for(12, 24) == Fraction(1, 2)
    window = clips.random_window(300, 8, clips.stride_for(29.97002997, 8), rng=np.random.default_rng(0))
    assert (window - window[0]).tolist() == [int(i * 30000 / 1001 / 8) for i in range(8)]
    assert clips.span(8, Fraction(15, 4)) == 27


@pytest.mark.parametrize("call, said", [
    (lambda: clips.spread_windows(0, 8, 2), "at least one frame"), (lambda: clips.spread_windows(9, 8, 0), "windows"),
    (lambda: clips.sliding_windows(9, 8, 0), "hop"), (lambda: clips.spread_windows(9, 8, 1, 0), "stride"),
    (lambda: clips.spread_windows(9, 8, 1, 1, "mirror"), "pad must be one of"),
    (lambda: clips.stride_for(0, 8), "positive"),
])  # fmt: skip
def test_nonsense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# ---- decoding ----------------------------------------------------------------------------------------------------


def usable(decoder: str, path: Path) -> None:
    try:
        probe(path, decoder)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("decoder", clips.DECODERS)
@pytest.mark.parametrize("kind, count, rate", [
    ("one keyframe, B-frames", 300, 25), ("short GOP", 120, 25), ("vp9", 60, 25), ("mpeg4 avi", 90, 25),
    ("mpeg4 avi, B-frames", 90, 25), ("program stream", 60, 25),
])  # fmt: skip
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
    with pytest.raises(VideoError, match=rf"text\.mp4: {decoder} cannot open it .* try another decoder"):
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
    assert probe(path, decoder, 24)[2:4] == (24, 54)


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
    assert frames.shape == (2, 16, width, 3) and np.abs(frames.mean((1, 2, 3)) - [200, 30]).max() < 3
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
        assert type(decord.VideoReader(str(videos["short GOP"]))[0]).__module__ == "torch", "somebody else's setting"
    finally:
        decord.bridge.set_bridge("native")


def resident() -> float:
    """MiB this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory a process holds")


@linux
@pytest.mark.parametrize("decoder", clips.DECODERS)
def test_memory_is_flat_over_many_reads(videos, decoder):
    path = videos["short GOP"]
    usable(decoder, path)
    rng = np.random.default_rng(4)

    def some(count: int) -> None:
        for _ in range(count):
            read(path, clips.random_window(120, 8, 2, rng=rng), decoder)

    some(60)
    before = resident()
    some(500 if decoder == "decord" else 200)
    assert resident() - before <= 10


@linux
def test_an_idle_reader_does_not_decode_on(real_data):
    with Video(real_data / "real_clips/kinetics/R6llTwEh07w.mp4") as video:  # 303 frames: 75 MiB if all were decoded
        video.read([0, 1])
        before = resident()
        time.sleep(1)
        assert resident() - before < 10


# ---- real clips --------------------------------------------------------------------------------------------------

REAL = {  # frames that a full decode shows, and who is trusted with them
    "ucf101/Diving/v_Diving_g01_c01.avi": (259, "decord"),
    "ucf101/Archery/v_Archery_g03_c03.avi": (125, "pyav"),  # packed B-frames
    "ucf50/v_BaseballPitch_g01_c03.avi": (103, "pyav"),  # a packet that codes nothing shifts decord's count
    "kinetics/abseiling_k400.mp4": (250, "decord"),
    "kinetics/flipping_a_pancake.mkv": (310, "decord"),
    "something_v2/166766.mp4": (49, "decord"),
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, "pyav"),  # decord says 49, and gives 0 for 20
    "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (83, "pyav"),  # metadata is not UTF-8
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
    info = probe(path)
    assert (info.frames, info.decoder) == REAL[name] and len(plain) == info.frames
    assert (info.height, info.width) == plain.shape[1:3]
    rng = np.random.default_rng(5)
    with Video(path) as video:
        for _ in range(3):
            clip = video.read(rng.integers(0, info.frames, size=6))
            # two FFmpegs: MPEG-4's inverse transform may round differently
            assert np.abs(clip.frames.astype(int) - plain[clip.indices]).max() <= 2
    times = read(path).times
    assert (np.diff(times) > 0).all() and abs(times[-1] - times[0] - (len(times) - 1) / info.fps) < 2.5 / info.fps


def test_a_corrupt_video_is_an_error_with_its_name(real_data):
    for decoder in ("decord", "pyav"):
        with pytest.raises(VideoError, match=r"decord_corrupted\.mp4: .* cannot"):
            read(real_data / "real_clips/edge_cases/decord_corrupted.mp4", [0, 40], decoder)
