"""Pictures: pad-crop, lighting, RMS's settings and the recipes they follow, from PNG files to a
batch."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.batches import on_device
from vidbench.data.loading import augmentation, transforms
from vidbench.data.loading.augmentation import PRESETS, Augment, View, draw, weak
from vidbench.data.loading.dataset import Batches, Clips, ClipSpec
from vidbench.data.loading.transforms import apply
from vidbench.data.sets.catalogue import open_dataset

RMS = ("rms_kinetics", "rms_ssv2", "rms_cifar", "rms_imagenet")
CIFAR = PRESETS["rms_cifar"]
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(
    2, 3, 1, 1, 1
)  # mean, deviation
FLOW = torch.tensor([0.5, 0.226]).view(2, 1, 1, 1, 1)
# PCA of ImageNet's colors as the recipes print it
VALUES = (0.2175, 0.0188, 0.0045)
VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def noise(frames=1, height=32, width=32, seed=0) -> torch.Tensor:
    """uint8 [T,C,H,W] in a decoder's memory order; no two windows of it are alike."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        rng.integers(256, size=(frames, height, width, 3), dtype=np.uint8)
    ).permute(0, 3, 1, 2)


def smooth(frames, height, width, seed=0) -> torch.Tensor:
    """A picture with large shapes, the same in each frame."""
    small = noise(1, 5, 7, seed).float().expand(frames, -1, -1, -1)
    return F.interpolate(small, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


def normalized(clip: torch.Tensor, moments: torch.Tensor = IMAGENET) -> torch.Tensor:
    """[T,C,H,W] to [C,T,H,W], the plain formula."""
    return (clip.transpose(0, 1) / 255 - moments[0]) / moments[1]


def levels(out: torch.Tensor) -> torch.Tensor:
    return (out * IMAGENET[1] + IMAGENET[0]) * 255


def batched(clip, view, augment, stream="rgb"):
    return on_device([(clip, view)], augment, stream)[0]


# ---- pad-crop


@pytest.mark.parametrize("run", [apply, batched])
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_pad_crop_is_a_window_of_the_padded_frame(run, stream):
    """Every place a window can have: pad, cut, mirror, normalize, with black around rgb and zero
    motion around flow."""
    clip, augment = noise(2, 10, 10), Augment(size=10, pad=3)
    around = F.pad(clip, (3, 3, 3, 3), value=0 if stream == "rgb" else 128)
    for top in range(-3, 4):
        for left in range(-3, 4):
            window = around[:, :, 3 + top : 13 + top, 3 + left : 13 + left]
            for flip in (False, True):
                want = window.flip(-1) if flip else window.clone()
                if flip and stream == "flow":
                    want[:, 0] = 255 - want[:, 0]
                got = run(clip, View((10, 10), (top, left, 10, 10), flip), augment, stream)
                want = normalized(want, IMAGENET if stream == "rgb" else FLOW)
                assert torch.allclose(got, want, atol=1e-5), (top, left, flip)


@pytest.mark.parametrize("height, width", [(32, 32), (24, 40), (50, 33)])
def test_windows_lie_everywhere_in_the_padded_frame(height, width):
    rng, clip = np.random.default_rng(0), noise(1, height, width)
    around = F.pad(clip, (4, 4, 4, 4))
    drawn = [draw(CIFAR, height, width, 1, rng) for _ in range(4000)]
    assert {view.box[2:] for view in drawn} == {(32, 32)}
    for axis, room in ((0, height + 8 - 32), (1, width + 8 - 32)):
        counts = np.bincount([view.box[axis] + 4 for view in drawn], minlength=room + 1)
        expected = 4000 / (room + 1)
        assert (
            len(counts) == room + 1 and np.abs(counts - expected).max() < 5 * expected**0.5 + 1e-9
        )
    places = np.array([view.box[:2] for view in drawn])
    if height > 24:  # where there is a choice on both axes
        assert abs(np.corrcoef(places, rowvar=False)[0, 1]) < 0.06
    for view in drawn[:20]:
        top, left = view.box[0] + 4, view.box[1] + 4
        window = around[:, :, top : top + 32, left : left + 32]
        want = normalized(window.flip(-1) if view.flip else window)
        assert torch.allclose(apply(clip, view, CIFAR), want, atol=1e-5)


def test_padded_views_of_a_batch_are_those_of_its_clips():
    augment = Augment(size=24, pad=6, lighting=0.1)
    clips, rng = (
        torch.stack([smooth(2, 30, 26, seed) for seed in range(16)]),
        np.random.default_rng(1),
    )
    drawn = [draw(augment, 30, 26, 2, rng) for _ in clips]
    assert any(min(view.box[:2]) < 0 for view in drawn) and len({view.order for view in drawn}) > 4
    for stream in ("rgb", "flow"):
        before = clips.clone()
        batch = on_device(zip(clips, drawn, strict=True), augment, stream)
        for clip, view, got in zip(clips, drawn, batch, strict=True):
            assert (apply(clip, view, augment, stream) - got).abs().mean() * 255 * 0.225 <= 1.0, (
                view
            )
        assert torch.equal(clips, before)


def test_a_smaller_flow_is_padded_alike():
    """A flow store may be smaller than its video: the same part of the scene, the same share of
    padding."""
    half, augment = smooth(2, 20, 20), Augment(size=40, pad=8)
    view = View((40, 40), (-8, 6, 40, 40))
    window = F.pad(half, (4, 4, 4, 4), value=128)[:, :, 0:20, 7:27]  # from (-4, 3)
    want = normalized(F.interpolate(window, (40, 40), mode="bilinear", antialias=True), FLOW)
    for run in (apply, batched):
        assert (run(half, view, augment, "flow") - want).abs().max() * 0.226 * 255 < 1.1


# ---- lighting and jitter


@pytest.mark.parametrize("run", [apply, batched])
def test_lighting_is_added_last_and_to_rgb_only(run):
    clip, plain = noise(3), View((32, 32), (0, 0, 32, 32))
    lit = replace(plain, lighting=(0.5, -0.25, 0.125))
    shift = torch.tensor(lit.lighting).view(3, 1, 1, 1)
    for changes in ({}, {"order": ("contrast",), "contrast": 1.4}, {"gray": "luma", "flip": True}):
        dark, bright = (run(clip, replace(view, **changes), CIFAR) for view in (plain, lit))
        assert torch.allclose(bright - dark, (shift / IMAGENET[1]).expand_as(dark), atol=1e-5), (
            "not cut, either"
        )
    for preset in ("rms_cifar", "coclr_official"):
        augment = replace(PRESETS[preset], size=32)
        assert torch.equal(run(clip, lit, augment, "flow"), run(clip, plain, augment, "flow"))


def test_lighting_is_alexnets_noise():
    """rgb = sum over axes of vector * alpha * value with alpha ~ N(0, 0.1), drawn once a clip."""
    rng, augment = np.random.default_rng(0), PRESETS["rms_imagenet"]
    drawn = np.array([draw(augment, 64, 64, 4, rng).lighting for _ in range(4000)])
    alphas = np.linalg.solve(np.array(VECTORS) * VALUES, drawn.T)
    assert np.abs(alphas.mean(1)).max() < 0.006 and np.abs(alphas.std(1) - 0.1).max() < 0.004
    assert np.abs(np.corrcoef(alphas) - np.eye(3)).max() < 0.06
    one = [
        sum(VECTORS[c][axis] * alphas[axis, 7] * VALUES[axis] for axis in range(3))
        for c in range(3)
    ]
    assert np.allclose(one, drawn[7], atol=1e-12)
    still = smooth(4, 64, 64)
    out = apply(still, draw(augment, 64, 64, 4, rng), augment)
    assert (out == out[:, :1]).all()
    assert (
        not draw(weak(augment), 64, 64, 4, rng).lighting
        and not draw(Augment(), 64, 64, 4, rng).lighting
    )


def cutmix_code(picture: torch.Tensor, view: View) -> torch.Tensor:
    """CutMix-PyTorch's utils.py in words of our own: blends [C,H,W] in 0..1, here cut to whole
    levels after each."""
    for name in view.order:
        factor = getattr(view, name)
        gray = (
            (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1))
            .sum(0, keepdim=True)
            .expand(3, -1, -1)
        )
        other = {
            "brightness": torch.zeros_like(gray),
            "contrast": gray.mean().expand_as(gray),
            "saturation": gray,
        }
        picture = (torch.lerp(picture, other[name], 1 - factor) * 255 + 1e-3).floor().clamp(
            0, 255
        ) / 255
    return picture + torch.tensor(view.lighting).view(3, 1, 1)


def test_imagenets_chain_is_the_recipes():
    """Jitter in random order on every picture, no hue; then lighting; then the normalization."""
    augment, rng, orders = PRESETS["rms_imagenet"], np.random.default_rng(0), []
    small = replace(augment, size=48)
    for seed in range(200):
        view = draw(small, 48, 48, 1, rng)
        orders.append(view.order)
        assert (
            sorted(view.order) == ["brightness", "contrast", "saturation"]
            and len(view.lighting) == 3
        )
        assert all(0.6 <= getattr(view, name) <= 1.4 for name in view.order)
        assert (view.hue, view.gray, view.sigma) == (0.0, "", 0.0)
        if seed < 20:
            picture = smooth(1, 48, 48, seed)
            whole = replace(view, box=(0, 0, 48, 48), flip=False)
            difference = (
                levels(apply(picture, whole, small))[:, 0]
                - cutmix_code(picture[0] / 255, whole) * 255
            )
            assert difference.abs().mean() < 0.6, view
    assert len(set(orders)) == 6


# ---- the named settings


@pytest.mark.parametrize("preset", RMS)
def test_settings_repeat_by_seed_and_hold_what_they_say(preset):
    augment, size = PRESETS[preset], (32, 32) if preset == "rms_cifar" else (240, 320)
    first, second = (
        [draw(augment, *size, 2, np.random.default_rng(s)) for s in range(300)] for _ in range(2)
    )
    assert first == second and len(set(first)) > 100
    assert pickle.loads(pickle.dumps(first)) == first
    flips = np.mean([view.flip for view in first])
    assert flips == 0 if preset == "rms_ssv2" else abs(flips - 0.5) < 0.1
    if preset != "rms_imagenet":
        assert all(view == View(size, view.box, view.flip) for view in first), "crop and flip only"
    if preset != "rms_cifar":
        low, high = {"rms_ssv2": (0.15, 0.75)}.get(preset, (0.08, 1.0))
        shares = np.array([view.box[2] * view.box[3] / (240 * 320) for view in first])
        assert low - 0.01 < shares.min() < low + 0.05 and high - 0.15 < shares.max() < high + 0.01
        assert augment.size == 224


# ---- from files to batches


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Twelve pictures of noise as CIFAR-100 is on disk, and their pixels by path."""
    root, pixels = tmp_path_factory.mktemp("cifar"), {}
    for i, split in enumerate(("train", "test")):
        for j, name in enumerate(("apple", "whale")):
            for k in range(3):
                path = root / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = noise(seed=100 * i + 10 * j + k)
                Image.fromarray(picture[0].permute(1, 2, 0).numpy()).save(path)
                pixels[f"{split}/{name}/{k}.png"] = picture
    return open_dataset("cifar100", root), pixels


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_a_picture_is_a_clip_of_one_frame(few, cache):
    manifest, pixels = few
    data = Clips(manifest, ClipSpec(frames=1, views=1, augment=CIFAR), seed=5, cache_bytes=cache)
    for epoch in (0, 1):  # with a cache, the second time out of it
        for row in range(len(manifest)):
            view = draw(
                CIFAR, 32, 32, 1, np.random.default_rng([5, epoch, row])
            )  # nothing else is drawn
            sample = data[epoch, row]
            assert sample["rgb"].shape == (1, 3, 1, 32, 32) and sample["rgb"].is_contiguous()
            assert torch.equal(
                sample["rgb"][0], apply(pixels[str(manifest.path[row])], view, CIFAR)
            )
            assert sample["label"] == ("whale" in str(manifest.path[row]))
    pictures = Batches(len(manifest), 4, seed=0)
    for batch in torch.utils.data.DataLoader(data, batch_sampler=pictures):
        assert batch["rgb"].shape == (4, 1, 3, 1, 32, 32) and batch["rgb"].dtype == torch.float32


@pytest.mark.parametrize("frames, chosen", [(1, 1), (1, 3), (4, 2)])
def test_a_picture_shown_more_than_once(few, frames, chosen):
    """More views differ in their crop only; more frames repeat the picture."""
    manifest, pixels = few
    sample = Clips(manifest, ClipSpec(frames=frames, views=chosen, augment=CIFAR), seed=2)[3, 0][
        "rgb"
    ]
    rng, picture = np.random.default_rng([2, 3, 0]), pixels[str(manifest.path[0])]
    drawn = augmentation.draw_pair(CIFAR, 32, 32, frames, rng).views if chosen == 2 else None
    drawn = drawn or [draw(CIFAR, 32, 32, frames, rng) for _ in range(chosen)]
    want = torch.stack([apply(picture.expand(frames, -1, -1, -1), view, CIFAR) for view in drawn])
    assert torch.equal(sample, want)


def test_testing_shows_the_picture_itself(few):
    manifest, pixels = few
    spec = ClipSpec(frames=1, augment=CIFAR, sampling="spread", windows=1, resize=32)
    data = Clips(manifest, spec)
    for row in range(len(manifest)):
        want = normalized(pixels[str(manifest.path[row])])[None]
        assert torch.allclose(data[0, row]["rgb"], want, atol=1e-6)
    picture = noise()
    for resize in (None, 32):
        assert torch.allclose(
            transforms.test_crops(picture, "center", 32, resize)[0], normalized(picture), atol=1e-6
        )


def test_a_picture_too_small_says_what_to_do(few):
    manifest, _ = few
    data = Clips(manifest, ClipSpec(frames=1, views=1, augment=replace(CIFAR, size=48)))
    with pytest.raises(
        ValueError, match="32x32, padded by 4 .* size=48: decode them at 40 or more"
    ):
        data[0, 0]
    large = Clips(
        manifest, ClipSpec(frames=1, views=1, augment=replace(CIFAR, size=48), decode_size=40)
    )
    assert large[0, 0]["rgb"].shape == (1, 3, 1, 48, 48)
