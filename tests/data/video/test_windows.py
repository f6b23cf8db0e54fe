"""Frame arithmetic against plain loops."""

from fractions import Fraction

import numpy as np
import pytest

from vidbench.data.video import windows

CASES = [
    (length, frames, stride)
    for length in (1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 100)
    for frames in (1, 2, 8, 32)
    for stride in (1, 2, 3, Fraction(15, 4), Fraction(1, 2))
]


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
    every = [[start + int(i * stride) for i in range(frames)] for start in range(length)]
    return [window for window in every if window[-1] < length]


def test_spread_takes_both_ends_and_leaves_even_gaps():
    for count in range(60):
        for most in range(1, 20):
            found = windows.spread(count, most)
            assert len(found) == min(count, most) and found.dtype == np.int64
            if most >= count:
                assert found.tolist() == list(range(count))
            elif most > 1:
                assert (found[0], found[-1]) == (0, count - 1)
                gaps = np.diff(found)
                assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 2


@pytest.mark.parametrize("pad", windows.PADS)
def test_windows_are_those_that_fit_or_padded(pad):
    rng = np.random.default_rng(0)
    for length, frames, stride in CASES:
        allowed = fitting(length, frames, stride) or [padded(length, frames, stride, pad)]
        assert windows.random_window(length, frames, stride, rng=rng, pad=pad).tolist() in allowed
        drawn = windows.random_windows(length, frames, 2, stride, rng=rng, pad=pad)
        assert drawn.shape == (2, frames) and all(window in allowed for window in drawn.tolist())
        assert (
            windows.spread_windows(length, frames, 1, stride, pad)[0].tolist()
            == allowed[(len(allowed) - 1) // 2]
        )
        for count in (2, 3, 10):
            spread = windows.spread_windows(length, frames, count, stride, pad)
            assert spread.dtype == np.int64 and spread.shape == (count, frames)
            assert spread[0].tolist() == allowed[0] and spread[-1].tolist() == allowed[-1], (
                "must touch both ends"
            )
            gaps = np.diff(spread[:, 0]) if len(allowed) > 1 else np.zeros(1)
            assert gaps.max() - gaps.min() <= 1, "must be evenly spread"
        for hop in (1, 3, 15):
            sliding = windows.sliding_windows(length, frames, hop, stride, pad).tolist()
            assert sliding == allowed[::hop] + ([allowed[-1]] if (len(allowed) - 1) % hop else [])


def test_random_windows_reach_every_start_evenly_and_are_independent():
    rng = np.random.default_rng(1)
    pairs = np.array([windows.random_windows(12, 8, 2, rng=rng)[:, 0] for _ in range(5000)])
    counts = np.zeros((5, 5))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert (abs(counts - 200) < 5 * np.sqrt(200)).all()  # 5000 draws over 25 pairs of starts


def test_coclr_short_video_repeats_the_first_frame_on_the_left():
    assert windows.random_window(5, 8, rng=np.random.default_rng(0), pad="first").tolist() == [
        0,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
    ]


def test_coclr_test_windows():
    starts = windows.sliding_windows(100, 32, 15)
    assert starts[:, 0].tolist() == [0, 15, 30, 45, 60, 68] and starts[-1, -1] == 99


def test_segments_one_frame_from_each():
    rng = np.random.default_rng(2)
    for length in range(1, 70):
        for segments in (1, 3, 8, 16):
            middle = windows.uniform_segments(length, segments)
            drawn = windows.uniform_segments(length, segments, rng=rng)
            for k in range(segments):
                inside = [
                    i
                    for i in range(length)
                    if k * length // segments <= i < (k + 1) * length // segments
                ]
                inside = inside or [k * length // segments]
                assert middle[k] == inside[len(inside) // 2] and drawn[k] in inside
    seen = {int(i) for _ in range(200) for i in windows.uniform_segments(16, 4, rng=rng)}
    assert seen == set(range(16))


def released_frames(frames: int, stride) -> list[int]:
    """PySlowFast's temporal_sampling: linspace(0, T * stride - 1, T), cut to whole numbers."""
    last = frames * Fraction(stride) - 1
    return [int(i * last / (frames - 1)) for i in range(frames)]


def test_linspace_is_pyslowfasts_clip():
    every_ninth = windows.spread_windows(64, 8, 1, 8, grid="linspace")[0]
    assert every_ninth.tolist() == [0, 9, 18, 27, 36, 45, 54, 63]  # pytorchvideo's 8x8
    for frames, stride in ((32, 3), (16, 4), (32, Fraction(5, 2)), (32, Fraction(2997, 1000))):
        rng = np.random.default_rng(0)
        drawn = windows.random_window(300, frames, stride, rng=rng, grid="linspace")
        assert (drawn - drawn[0]).tolist() == released_frames(frames, stride)
        assert drawn[-1] - drawn[0] == int(frames * stride) - 1  # a stride's frames end before
    assert windows.random_window(9, 1, 4, rng=rng, grid="linspace").shape == (1,)
    short = windows.spread_windows(5, 8, 1, 8, grid="linspace")[0]
    assert short.tolist() == [0, 4, 4, 4, 4, 4, 4, 4]  # clamped to the last frame there
    with pytest.raises(ValueError, match="grid must be one of"):
        windows.spread_windows(9, 8, 1, grid="even")


def test_without_the_end_windows_are_the_released_ones():
    def starts(length: int) -> list[int]:
        return windows.sliding_windows(length, 32, 15, reach_end=False)[:, 0].tolist()

    # CoCLR: arange(0, N - 32 + 1, 15)
    assert starts(100) == [0, 15, 30, 45, 60] and starts(107) == [0, 15, 30, 45, 60, 75]
    assert starts(31) == starts(32) == [0]
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):  # CoCLR: choice(range(N - 32)); PySlowFast: int(uniform(0, N - 32))
        seen.add(int(windows.random_window(35, 32, rng=rng, reach_end=False)[0]))
    assert seen == {0, 1, 2}
    state = rng.bit_generator.state
    assert windows.random_window(33, 32, rng=rng, reach_end=False)[0] == 0
    assert rng.bit_generator.state == state  # nothing drawn
    # PySlowFast with its offset: i * floor(delta / (n - 1)), floor(delta / 2) of a single one
    spread = windows.spread_windows(300, 32, 5, 3, grid="linspace", reach_end=False)
    assert spread[:, 0].tolist() == [0, 51, 102, 153, 204]
    uneven = windows.spread_windows(299, 32, 5, 3, grid="linspace", reach_end=False)
    assert uneven[:, 0].tolist() == [0, 50, 100, 150, 200]
    one = windows.spread_windows(299, 32, 1, 3, grid="linspace", reach_end=False)
    assert one[0, 0] == 101


def test_linspace_segments_are_the_released_ones():
    """PySlowFast's and MultiTrain's Something-Something: ends rounded at (N - 1) / T, included."""
    rng = np.random.default_rng(3)
    for length in (1, 5, 32, 47, 90):
        ends = [round(k * (length - 1) / 8) for k in range(9)]
        pairs = list(zip(ends[:-1], ends[1:], strict=True))
        middle = windows.uniform_segments(length, 8, grid="linspace").tolist()
        assert middle == [(a + b) // 2 for a, b in pairs]
        drawn = [windows.uniform_segments(length, 8, rng=rng, grid="linspace") for _ in range(80)]
        for k, (a, b) in enumerate(pairs):
            seen = {int(one[k]) for one in drawn}
            assert min(seen) >= a and max(seen) <= b
            assert seen == set(range(a, b + 1)) or b - a > 7


def test_stride_from_frame_rates():
    assert (
        windows.stride_for(30, 8) == Fraction(15, 4)
        and windows.stride_for(29.97002997, 29.97002997) == 1
    )
    assert windows.stride_for(12, 24) == Fraction(1, 2)
    window = windows.random_window(
        300, 8, windows.stride_for(29.97002997, 8), rng=np.random.default_rng(0)
    )
    assert (window - window[0]).tolist() == [int(i * 30000 / 1001 / 8) for i in range(8)]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: windows.spread_windows(0, 8, 2), "at least one frame"),
        (lambda: windows.spread_windows(9, 8, 0), "windows"),
        (lambda: windows.sliding_windows(9, 8, 0), "hop"),
        (lambda: windows.spread_windows(9, 8, 1, 0), "stride"),
        (lambda: windows.spread_windows(9, 8, 1, 1, "mirror"), "pad must be one of"),
        (lambda: windows.stride_for(0, 8), "positive"),
    ],
)
def test_nonsense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
