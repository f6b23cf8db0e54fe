"""TV-L1 in PyTorch: OpenCV's flow on real and made motion, the formulas as plain loops, batches,
doors."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vidbench.data.flow import tvl1
from vidbench.data.flow.tvl1 import Settings, estimate
from vidbench.data.video import clips


def textures(
    batch=2, height=64, width=64, speed=(1.5, -0.75), seed=0
) -> tuple[np.ndarray, np.ndarray]:
    """Textures that move, each pair by another multiple of speed = (right, down) pixels: two uint8
    [B,H,W]."""
    rng, pairs = np.random.default_rng(seed), []
    for i in range(batch):
        texture = cv2.GaussianBlur(rng.random((2 * height, 2 * width)), (0, 0), 2)
        texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.float32)
        for t in (0, 1):
            shift = np.float32(
                [
                    [1, 0, t * speed[0] * (i + 1) - width / 2],
                    [0, 1, t * speed[1] * (i + 1) - height / 2],
                ]
            )
            moved = cv2.warpAffine(texture, shift, (width, height), flags=cv2.INTER_CUBIC)
            pairs.append(np.clip(np.rint(moved), 0, 255).astype(np.uint8))
    return np.stack(pairs[::2]), np.stack(pairs[1::2])


def opencv(first, second, epsilon=0.01) -> np.ndarray:
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    solver.setEpsilon(epsilon)
    return np.stack([solver.calc(a, b, None) for a, b in zip(first, second, strict=True)])


def end_point(flow_a, flow_b) -> np.ndarray:
    return np.hypot(*np.moveaxis(np.asarray(flow_a) - np.asarray(flow_b), -1, 0))


def gray(file) -> np.ndarray:
    return cv2.cvtColor(np.asarray(Image.open(file).convert("RGB")), cv2.COLOR_RGB2GRAY)


# --------------------------------------------------------------------------- against OpenCV and truth


@pytest.mark.parametrize("epsilon, error", [(0.01, 0.157), (0.05, 0.198)])
def test_rubberwhale(real_data, epsilon, error):
    """OpenCV's end-point errors on Middlebury's RubberWhale, unknown ground truth masked."""
    folder = real_data / "flow_gt/middlebury_rubberwhale"
    raw = (folder / "flow_gt.flo").read_bytes()
    width, height = np.frombuffer(raw, np.int32, 2, 4)
    truth = np.frombuffer(raw, np.float32, -1, 12).reshape(height, width, 2)
    known = (np.abs(truth) < 1e9).all(-1)
    first, second = (gray(folder / f"rubberwhale{i}.png")[None] for i in (1, 2))
    found = end_point(estimate(first, second, epsilon=epsilon)[0], truth)[known].mean()
    assert abs(found - error) < 0.005


@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_real_motion_is_opencvs(real_data, epsilon):
    """Frames at 128x128. OpenCV differs from itself as much when 1e-6 gray levels of noise are
    added to its frames (0.001 to 0.05 px): the method amplifies rounding where the pictures say
    nothing, mostly at borders."""
    names = ("R6llTwEh07w", "SOX5yA1l24A", "WUzgd7C1pWA", "abseiling_k400")
    first, second = [], []
    for name in names:
        frames = clips.read(
            real_data / f"real_clips/kinetics/{name}.mp4", np.arange(10, 12), size=128
        ).frames
        pair = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:128, :128] for frame in frames]
        first.append(pair[0])
        second.append(pair[1])
    first, second = np.stack(first), np.stack(second)
    expected = opencv(first, second, epsilon)
    difference = end_point(estimate(first, second, epsilon=epsilon), expected)
    assert np.hypot(*np.moveaxis(expected, -1, 0)).mean() > 0.5, "there is motion"
    assert (
        difference.mean() <= 0.05
        and (difference > 0.5).mean() <= 0.01
        and np.median(difference) <= 0.02
    )


@pytest.mark.parametrize("epsilon", [0.01, 0.05])
@pytest.mark.parametrize("height, width", [(128, 128), (47, 83), (16, 16), (17, 40)])
def test_moving_texture_is_opencvs(height, width, epsilon):
    first, second = textures(1 if height < 20 else 2, height, width)
    found, expected = estimate(first, second, epsilon=epsilon), opencv(first, second, epsilon)
    assert (
        found.shape == (*first.shape, 2)
        and found.dtype == torch.float32
        and found.device.type == "cpu"
    )
    difference = end_point(found, expected)
    assert difference.mean() <= 0.05 and (difference > 0.5).mean() <= 0.01


def test_sign_and_size_of_a_known_motion():
    found = estimate(*textures(1, 128, 128))
    assert np.allclose(np.median(found[0], (0, 1)), (1.5, -0.75), atol=0.05), (
        "u to the right, v down"
    )


def test_median_is_the_median():
    planes = torch.randn(3, 33, 18, generator=torch.Generator().manual_seed(0))
    planes[1] = planes[1].round()  # with ties
    expected = np.stack([cv2.medianBlur(plane.numpy(), 5) for plane in planes])
    assert np.array_equal(tvl1.median5(planes), expected)
    padded = np.pad(planes[0], 2, mode="edge")
    assert tvl1.median5(planes)[0, 0, 7] == np.median(padded[0:5, 7:12])
    assert tvl1.median5(torch.arange(9.0).reshape(1, 3, 3)).shape == (1, 3, 3)


@pytest.mark.parametrize("height, width", [(128, 128), (102, 103), (47, 62)])
def test_scales_are_opencvs(height, width):
    frames = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0)) * 255
    scales, expected = tvl1._pyramid(frames, frames, Settings()), frames[0].numpy()
    for found, _ in scales[1:]:
        expected = cv2.resize(expected, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
        assert np.allclose(found[0], expected, atol=1e-3)
    assert len(scales) == 5 and min(expected.shape) >= 16
    ratio = expected.shape[0] / height, expected.shape[1] / width
    up = tvl1._resize(torch.from_numpy(expected)[None], (height, width), ratio)
    assert np.allclose(
        up[0], cv2.resize(expected, (width, height), interpolation=cv2.INTER_LINEAR), atol=1e-3
    )
    assert len(tvl1._pyramid(frames[:, :19], frames[:, :19], Settings())) == 1, (
        "15 pixels are too few"
    )


# -------------------------------------------------------------------------- formulas, plain loops


def cubic(distance: float) -> float:
    """The kernel of bicubic look-up with A = -0.75."""
    a, d = -0.75, abs(distance)
    if d < 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0


def look_up(picture: np.ndarray, x: float, y: float) -> float:
    """Bicubic, 0 outside of the picture."""
    total = 0.0
    for row in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
        for column in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
                total += picture[row, column] * cubic(y - row) * cubic(x - column)
    return total


def one_scale(
    first: np.ndarray, second: np.ndarray, settings: Settings, iterations: int
) -> np.ndarray:
    """TV-L1 on one scale, iterations in each warp, pixel by pixel as written in Sanchez et al., in
    float64."""
    height, width = first.shape
    every = [(y, x) for y in range(height) for x in range(width)]
    u, dual = (
        np.zeros((2, height, width)),
        np.zeros((2, 2, height, width)),
    )  # part (u, v); of it along (x, y)
    slopes = np.zeros((2, height, width))
    for y, x in every:
        slopes[0, y, x] = (second[y, min(x + 1, width - 1)] - second[y, max(x - 1, 0)]) / 2
        slopes[1, y, x] = (second[min(y + 1, height - 1), x] - second[max(y - 1, 0), x]) / 2
    bound, rate = settings.weight * settings.theta, settings.tau / settings.theta
    for _ in range(settings.warps):
        gradient, rho_c = np.zeros_like(u), np.zeros((height, width))
        for y, x in every:
            at = x + u[0, y, x], y + u[1, y, x]
            gradient[:, y, x] = look_up(slopes[0], *at), look_up(slopes[1], *at)
            rho_c[y, x] = look_up(second, *at) - gradient[:, y, x] @ u[:, y, x] - first[y, x]
        for iteration in range(iterations):
            if iteration % settings.inner == 0:
                padded = np.pad(u, ((0, 0), (2, 2), (2, 2)), mode="edge")
                for y, x in every:
                    u[:, y, x] = np.median(padded[:, y : y + 5, x : x + 5], (1, 2))
            for y, x in every:
                slope = gradient[:, y, x]
                rho, square = rho_c[y, x] + slope @ u[:, y, x], slope @ slope
                step = 0.0 if square < 1e-7 else np.clip(-rho / square, -bound, bound)
                for part in (0, 1):
                    p = dual[part]
                    divergence = (
                        p[0, y, x]
                        - (p[0, y, x - 1] if x else 0)
                        + p[1, y, x]
                        - (p[1, y - 1, x] if y else 0)
                    )
                    u[part, y, x] += step * slope[part] + settings.theta * divergence
            for y, x in every:
                for part in (0, 1):
                    right = u[part, y, x + 1] - u[part, y, x] if x < width - 1 else 0.0
                    down = u[part, y + 1, x] - u[part, y, x] if y < height - 1 else 0.0
                    step = rate * np.array([right, down])
                    dual[part, :, y, x] = (dual[part, :, y, x] + step) / (1 + np.hypot(*step))
    return u.transpose(1, 2, 0)


@pytest.mark.parametrize("warps, iterations", [(1, 1), (1, 5), (3, 5)])
def test_one_scale_is_the_formulas(warps, iterations):
    """With inner = 4 the fifth iteration comes after a median filter; CHECK cuts nothing into
    it."""
    first, second = textures(2, 11, 9)
    settings = Settings(scales=1, warps=warps, inner=4)
    found = estimate(first, second, iterations=iterations, settings=settings)
    expected = np.stack(
        [
            one_scale(a.astype(float), b.astype(float), settings, iterations)
            for a, b in zip(first, second, strict=True)
        ]
    )
    assert np.abs(expected).max() > 0.1 * warps and np.abs(found.numpy() - expected).max() < 2e-3


def test_a_pair_stops_after_the_iteration_that_moved_it_little():
    first, second = textures(1, 32, 32)
    settings, before, epsilon = Settings(scales=1, warps=1, inner=200), 0.0, 0.004
    for iterations in range(1, 200):
        found = estimate(first, second, iterations=iterations, settings=settings)
        if (found - before).square().sum(-1).mean().sqrt() <= epsilon:
            break
        before = found
    assert 20 < iterations < 199 and iterations % tvl1.CHECK
    assert torch.equal(estimate(first, second, epsilon=epsilon, settings=settings), found)


# ---------------------------------------------------------------------------------------- batches


def mixed() -> tuple[np.ndarray, np.ndarray]:
    """Seven pairs that stop at very different times, the second one at once."""
    first, second = textures(7, 48, 56, speed=(0.5, 0.25))
    second[1] = first[1]
    return first, second


def test_a_pair_does_not_depend_on_its_batch():
    first, second = mixed()
    together = estimate(first, second)
    assert (together[1] == 0).all(), "no motion is no flow"
    order = [4, 0, 6, 2]
    assert end_point(estimate(first[order], second[order]), together[order]).mean() < 1e-3
    for i in (0, 1, 5):
        assert (
            end_point(estimate(first[i : i + 1], second[i : i + 1])[0], together[i]).mean() < 1e-3
        )


def test_finished_pairs_leave_the_batch(monkeypatch):
    sizes, whole = [], tvl1._iterate

    def iterate(state, data, moving, *rest):
        sizes.append(len(moving))
        return whole(state, data, moving, *rest)

    monkeypatch.setattr(tvl1, "_iterate", iterate)
    estimate(*mixed())
    assert {7, 2} <= set(sizes) and 1 not in sizes


def test_twice_the_same():
    first, second = mixed()
    assert torch.equal(estimate(first, second, epsilon=0.05), estimate(first, second, epsilon=0.05))


def test_forms_of_frames_are_one():
    first, second = textures(2, 24, 24)
    expected = estimate(first, second, epsilon=0.05)
    for kind in (np.float32, np.float64, np.float16):
        assert torch.equal(
            estimate(first.astype(kind), second.astype(kind), epsilon=0.05), expected
        )
    tensors = torch.from_numpy(first), torch.from_numpy(second).float().requires_grad_()
    found = estimate(*tensors, epsilon=0.05, device="cpu")
    assert torch.equal(found, expected) and not found.requires_grad
    mirrored = first[:, :, ::-1], second[:, :, ::-1]  # negative strides
    assert torch.equal(
        estimate(*mirrored, epsilon=0.05), estimate(*(m.copy() for m in mirrored), epsilon=0.05)
    )
    assert estimate(first[:0], second[:0]).shape == (0, 24, 24, 2)
    assert estimate(first[:, :3, :3], second[:, :3, :3]).isfinite().all()


def test_compiled_goes_through_the_compiler(monkeypatch):
    """The compiler itself is too slow for a test; that its results are those of eager mode is
    checked by hand."""
    compiled_ones = []

    def compile(function, dynamic):
        compiled_ones.append((function.__name__, dynamic))
        return function

    monkeypatch.setattr(torch, "compile", compile)
    tvl1._compiled.cache_clear()
    try:
        first, second = textures(2, 24, 24)
        assert torch.equal(estimate(first, second, compiled=True), estimate(first, second))
    finally:
        tvl1._compiled.cache_clear()
    assert sorted(compiled_ones) == [("_iterate", True), ("_median", True)]


def test_doors():
    first, second = textures(2, 24, 24)
    with pytest.raises(
        ValueError, match=r"\[B,H,W\].*got \(24, 24\) and \(24, 24\): add the batch axis"
    ):
        estimate(first[0], second[0])
    with pytest.raises(ValueError, match=r"got \(2, 24, 24\) and \(2, 24, 23\)"):
        estimate(first, second[..., 1:])
    with pytest.raises(ValueError, match="at least 3"):
        estimate(first[:, :2], second[:, :2])
    with pytest.raises(
        TypeError, match="uint8 or floating point.*got torch.int64 and torch.uint8: convert"
    ):
        estimate(first.astype(np.int64), second)
    for bad in (-1.0, 256.0, np.nan):
        broken = first.astype(np.float32)
        broken[1, 3, 4] = bad
        with pytest.raises(ValueError, match="wanted frames in 0..255, got .*scale and clip"):
            estimate(broken, second)
    for wrong in ({"epsilon": -0.1}, {"epsilon": np.nan}, {"iterations": 0}):
        with pytest.raises(ValueError, match="wanted epsilon >= 0 and iterations >= 1"):
            estimate(first, second, **wrong)
    for wrong in ({"theta": 0.0}, {"step": 1.0}, {"warps": 0}, {"inner": 0}):
        with pytest.raises(ValueError, match="wanted .*got Settings"):
            Settings(**wrong)
