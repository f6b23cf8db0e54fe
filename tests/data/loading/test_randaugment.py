"""RandAugment and random erasing: PIL and plain loops as the oracles, the draws' statistics, the
same in all frames."""

import json
import math
import pickle
import random
from collections import Counter
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tests.batches import on_device
from vidbench.data.loading import randaugment
from vidbench.data.loading.augmentation import PRESETS, Augment, View, draw, weak
from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.loading.transforms import apply
from vidbench.engine import runs

MULTITRAIN = PRESETS["multitrain"]
GRAY = (128, 128, 128)
NAMES = (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def moving_clip(frames=4, height=90, width=120, seed=0) -> torch.Tensor:
    """A drifting colored texture within 20..230, uint8 [T,C,H,W], in a decoder's memory order."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.random((height + frames, width + frames, 3)), (0, 0), 3)
    texture = cv2.normalize(texture, None, 20, 230, cv2.NORM_MINMAX)
    clip = np.stack([texture[t : t + height, t : t + width] for t in range(frames)])
    return torch.from_numpy(clip.astype(np.uint8)).permute(0, 3, 1, 2)


def levels(clip: torch.Tensor) -> np.ndarray:
    """Undo ImageNet's normalization: [C,T,H,W] to gray levels."""
    mean, std = (
        (torch.tensor(m).view(3, 1, 1, 1)) for m in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (clip * std + mean).numpy() * 255


def batched(clip: torch.Tensor, view: View, augment: Augment, stream="rgb") -> torch.Tensor:
    return on_device([(clip, view)], augment, stream)[0]


# ---- the operations


def by_pil(
    picture: Image.Image, name: str, value: float, resample: Image.Resampling
) -> Image.Image:
    """What the released code calls, in PIL's own functions."""
    if (
        name == "posterize" and value == 0
    ):  # new versions of PIL refuse what older ones did: keep no bit
        return picture.point([0] * 768)
    table = [level + value if level < 128 else level for level in range(256)]
    coefficients = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * picture.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * picture.height),
    }
    if name in coefficients:
        return picture.transform(
            picture.size, Image.Transform.AFFINE, coefficients[name], resample, fillcolor=GRAY
        )
    return {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "invert": lambda: ImageOps.invert(picture),
        "rotate": lambda: picture.rotate(value, resample, fillcolor=GRAY),
        "posterize": lambda: ImageOps.posterize(picture, value),
        "solarize": lambda: ImageOps.solarize(picture, value),
        "solarize_add": lambda: picture.point(table * 3),
        "color": lambda: ImageEnhance.Color(picture).enhance(value),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(value),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(value),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(value),
    }[name]()


@pytest.mark.parametrize("magnitude", [0, 2.5, 7.3, 10])
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_pils(name, magnitude):
    clip = moving_clip(2)
    for sign in (1, -1):
        value = randaugment.argument(name, magnitude, sign)
        got = randaugment.change(clip, ((name, value),))
        assert got.dtype == torch.uint8 and got.shape == clip.shape
        for resample, near, edge in ((Image.BILINEAR, 1, 0.05), (Image.BICUBIC, 5, 0.02)):
            for before, after in zip(clip, got, strict=True):
                want = by_pil(
                    Image.fromarray(before.permute(1, 2, 0).numpy()), name, value, resample
                )
                difference = np.abs(after.permute(1, 2, 0).numpy().astype(float) - np.asarray(want))
                if name not in WARPS:
                    assert difference.max() <= 1
                else:  # the edge is another one; PIL's bicubic is a little sharper
                    assert (difference > near).mean() <= edge and difference.mean() <= 1.3


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_does_something_from_a_small_magnitude_on(name):
    clip = moving_clip(1)
    still = {
        "rotate": 0.0,
        "solarize": 256,
        "solarize_add": 0,
        **dict.fromkeys(WARPS[1:], 0.0),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 1.0),
    }
    if name in still:
        assert randaugment.argument(name, 0) == still[name]
        assert torch.equal(randaugment.change(clip, ((name, still[name]),)), clip)
    changed = [
        randaugment.change(clip, ((name, randaugment.argument(name, m)),)).float()
        for m in (2.5, 7, 10)
    ]
    moved = [(c - clip).abs().mean().item() for c in changed]
    assert moved[0] > 0.3
    if name not in WARPS:
        assert moved[0] == moved[2] if name in NAMES[:3] else moved[0] < moved[1] < moved[2], (
            "increasing"
        )


@pytest.mark.parametrize(
    "name, low, seven, high",
    [
        ("rotate", 0, 21, 30),
        ("posterize", 4, 2, 0),
        ("solarize", 256, 256 - 179, 0),
        ("solarize_add", 0, 77, 110),
        ("color", 1, 1.63, 1.9),
        ("contrast", 1, 1.63, 1.9),
        ("brightness", 1, 1.63, 1.9),
        ("sharpness", 1, 1.63, 1.9),
        ("shear_x", 0, 0.21, 0.3),
        ("shear_y", 0, 0.21, 0.3),
        ("translate_x", 0, 0.315, 0.45),
        ("translate_y", 0, 0.315, 0.45),
    ],
)
def test_arguments_follow_the_released_formulas(name, low, seven, high):
    for magnitude, want in ((0, low), (7, seven), (10, high)):
        assert randaugment.argument(name, magnitude) == pytest.approx(want)
        if name in ("posterize", "solarize", "solarize_add"):
            assert randaugment.argument(name, magnitude, -1) == want, "one way only"
            assert isinstance(randaugment.argument(name, magnitude), int)
        else:
            mirrored = 2 - want if low == 1 else -want
            assert randaugment.argument(name, magnitude, -1) == pytest.approx(mirrored)


@pytest.mark.parametrize("name", NAMES)
def test_all_frames_get_the_same(name):
    operation = ((name, randaugment.argument(name, 7, -1)),)
    clip, still = moving_clip(19), moving_clip(1).expand(5, -1, -1, -1)
    before, out = clip.clone(), randaugment.change(clip, operation)
    assert torch.equal(
        out, torch.cat([randaugment.change(frame[None], operation) for frame in clip])
    )
    same = randaugment.change(still, operation)
    assert (same == same[:1]).all()
    assert torch.equal(randaugment.change(clip.contiguous(), operation), out), (
        "whatever the memory's order"
    )
    assert torch.equal(clip, before), "the input is left alone"


# ---- the draws


def test_draws_follow_the_rules():
    """Of 4 operations, drawn with replacement, each is applied with probability 0.5, at a magnitude
    near 7."""
    rng = np.random.default_rng(0)
    drawn = [randaugment.draw(4, 7.0, 0.5, rng) for _ in range(6000)]
    lengths = Counter(map(len, drawn))
    for k, share in enumerate((1, 4, 6, 4, 1)):
        assert abs(lengths[k] / 6000 - share / 16) < 0.02
    names = Counter(name for view in drawn for name, _ in view)
    assert set(names) == set(NAMES) and all(abs(n / 12000 - 1 / 15) < 0.01 for n in names.values())
    full = [{name for name, _ in view} for view in drawn if len(view) == 4]
    once = math.prod((15 - k) / 15 for k in range(4))  # all four different
    assert abs(np.mean([len(names) == 4 for names in full]) - once) < 0.08
    angles = np.array([value for view in drawn for name, value in view if name == "rotate"])
    assert abs(np.abs(angles).mean() - 21) < 0.2 and abs(np.abs(angles).std() - 1.5) < 0.15
    assert abs((angles > 0).mean() - 0.5) < 0.06
    bits = Counter(value for view in drawn for name, value in view if name == "posterize")
    assert bits[2] > 3 * bits[1] > 0, "a magnitude above 7.5 costs one more bit"
    apart = [np.abs([v for n, v in view if n in ("shear_x", "shear_y")]) for view in drawn]
    assert any(len(pair) == 2 and pair[0] != pair[1] for pair in apart), "a magnitude each"


def test_magnitudes_are_cut_to_their_range():
    rng = np.random.default_rng(0)
    for magnitude, end in ((10, 30.0), (0, 0.0)):
        drawn = [randaugment.draw(4, magnitude, 1.0, rng) for _ in range(3000)]
        angles = np.abs([value for view in drawn for name, value in view if name == "rotate"])
        assert abs((angles == end).mean() - 0.5) < 0.08 and angles.min() >= 0 and angles.max() <= 30
    fixed = [randaugment.draw(4, 4.0, 0.0, rng) for _ in range(500)]
    assert {round(abs(v), 6) for view in fixed for name, v in view if name == "shear_y"} == {0.12}


def test_views_repeat_and_are_plain():
    first, second = (
        [draw(MULTITRAIN, 90, 120, 4, np.random.default_rng(s)) for s in range(60)]
        for _ in range(2)
    )
    assert first == second and len(set(first)) == 60
    assert pickle.loads(pickle.dumps(first)) == first
    for view in first:
        assert json.loads(json.dumps(asdict(view))) == {
            k: [list(i) if isinstance(i, tuple) else i for i in v] if isinstance(v, tuple) else v
            for k, v in asdict(view).items()
        }


def test_switching_them_on_leaves_the_other_draws_alone():
    for name, augment in PRESETS.items():
        off = weak(augment) if not augment.strong else replace(augment, randaugment=0, erase=0.0)
        for seed in range(20):
            one = draw(off, 90, 120, 4, np.random.default_rng(seed))
            two = draw(
                replace(off, randaugment=4, erase=0.5), 90, 120, 4, np.random.default_rng(seed)
            )
            assert one == replace(two, operations=(), erase=(), seed=0), name
            assert (one.operations, one.erase, one.seed) == ((), (), 0)


def test_off_draws_no_number():
    """Where both are off the generator stands where box and flip left it, in a plain loop's
    words."""
    augment = Augment(size=64, pad=8, strong=0.0)
    ours, plain = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(50):
        view = draw(augment, 60, 70, 4, ours)
        place = [
            int(plain.integers(60 + 16 - 64 + 1)) - 8,
            int(plain.integers(70 + 16 - 64 + 1)) - 8,
        ]
        assert view == View((60, 70), (*place, 64, 64), bool(plain.random() < 0.5))
        plain.random()  # strong or not
    assert ours.bit_generator.state == plain.bit_generator.state


# ---- erasing


def released_box(size: int, rng: random.Random) -> tuple[int, ...]:
    """random_erasing.py's _erase_cube in words of our own."""
    for _ in range(100):
        area, ratio = (
            rng.uniform(0.02, 1 / 3) * size**2,
            math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3))),
        )
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < size and w < size:
            return rng.randint(0, size - h), rng.randint(0, size - w), h, w
    return ()


def test_boxes_are_the_released_ones():
    rng, theirs = np.random.default_rng(0), random.Random(0)
    ours = np.array([randaugment.draw_box(224, rng) for _ in range(5000)])
    want = np.array([released_box(224, theirs) for _ in range(5000)])
    top, left, h, w = ours.T
    assert top.min() == left.min() == 0 and (top + h).max() == (left + w).max() == 224
    assert max(h.max(), w.max()) < 224
    share = h * w / 224**2
    assert 0.0195 < share.min() < 0.025 and 0.32 < share.max() < 0.338
    ratio = h / w
    assert 0.28 < ratio.min() < 0.33 and 3 < ratio.max() < 3.5
    assert (
        np.abs(ours.mean(0) - want.mean(0)).max() < 3
        and np.abs(ours.std(0) - want.std(0)).max() < 3
    )
    assert abs(share.mean() - (want[:, 2] * want[:, 3]).mean() / 224**2) < 0.006


def test_a_quarter_of_views_is_erased():
    rng = np.random.default_rng(0)
    drawn = [draw(MULTITRAIN, 90, 120, 4, rng) for _ in range(3000)]
    erased = [view for view in drawn if view.erase]
    assert abs(len(erased) / 3000 - 0.25) < 0.025
    assert len({view.seed for view in erased}) == len(erased)
    assert all(view.seed == 0 for view in drawn if not view.erase)


@pytest.mark.parametrize("run", [apply, batched])
@pytest.mark.parametrize("changes", [{}, {"flip": True, "operations": (("rotate", 10.0),)}])
def test_noise_fills_the_box_and_nothing_else(run, changes):
    augment, clip = Augment(size=64), moving_clip(8)
    view = View((90, 120), (5, 10, 70, 80), erase=(7, 20, 40, 30), seed=3, **changes)
    plain, erased = run(clip, replace(view, erase=()), augment), run(clip, view, augment)
    box = torch.zeros(64, 64, dtype=torch.bool)
    box[7:47, 20:50] = True
    assert torch.equal(erased[..., ~box], plain[..., ~box])
    noise = erased[:, :, 7:47, 20:50]
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    for dim in (0, 1):  # as there: drawn for each frame, and for each channel
        flat = noise.transpose(0, dim).flatten(1)
        assert (torch.corrcoef(flat) - torch.eye(len(flat))).abs().max() < 0.08
    assert torch.equal(run(clip, view, augment), erased)
    assert not torch.equal(run(clip, replace(view, seed=4), augment)[:, :, 7:47, 20:50], noise)


# ---- in a view


@pytest.mark.parametrize("run", [apply, batched])
@pytest.mark.parametrize("flip", [False, True])
def test_operations_come_after_the_crop_and_before_everything_else(run, flip):
    """Crop, RandAugment by PIL, brightness by PIL, flip: other orders give other pictures, by many
    levels."""
    clip = moving_clip(2)
    view = View(
        (90, 120),
        (10, 20, 64, 64),
        flip,
        ("brightness",),
        brightness=1.5,
        operations=(("invert", 0.0), ("rotate", 20.0), ("translate_x", 0.2)),
    )
    got = levels(run(clip, view, Augment(size=64)))
    for t, frame in enumerate(clip):
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy()).crop((20, 10, 84, 74))
        for name, value in view.operations:
            picture = by_pil(picture, name, value, Image.BILINEAR)
        picture = ImageEnhance.Brightness(picture).enhance(1.5)
        want = np.asarray(ImageOps.mirror(picture) if flip else picture).transpose(2, 0, 1)
        assert np.median(np.abs(got[:, t] - want)) <= 1 and np.abs(got[:, t] - want).mean() <= 2.5


def test_a_batch_shows_the_same_pictures():
    augment = replace(MULTITRAIN, size=64, erase=0.5, strong=0.5)
    clips = torch.stack([moving_clip(3, seed=s) for s in range(40)])
    rng = np.random.default_rng(4)
    drawn = [draw(augment, 90, 120, 3, rng) for _ in clips]
    assert {name for view in drawn for name, _ in view.operations} == set(NAMES)
    assert any(v.flip and v.operations for v in drawn) and any(
        v.order and v.operations for v in drawn
    )
    batch, far = on_device(zip(clips, drawn, strict=True), augment), []
    for clip, view, got in zip(clips, drawn, batch, strict=True):
        alone = apply(clip, view, augment)
        far.append(np.abs(levels(alone) - levels(got)).mean())
        assert far[-1] <= (1.0 if view.order or view.gray or view.sigma else 1e-4), view
        if view.erase:
            top, left, h, w = view.erase
            part = (slice(None), slice(None), slice(top, top + h), slice(left, left + w))
            assert torch.equal(alone[part], got[part]), "the very same noise"
    assert min(far) < 1e-4


def test_a_still_clip_stays_still_but_for_the_noise():
    still, rng = moving_clip(1).expand(5, -1, -1, -1), np.random.default_rng(3)
    for _ in range(15):
        view = draw(replace(MULTITRAIN, size=64), 90, 120, 5, rng)
        out = apply(still, replace(view, erase=()), replace(MULTITRAIN, size=64))
        assert (out == out[:, :1]).all()


def test_flow_is_refused_with_randaugment_and_never_erased():
    clip, view = moving_clip(), View((90, 120), (0, 0, 90, 90))
    for augment, drawn in (
        (MULTITRAIN, view),
        (Augment(size=32), replace(view, operations=(("rotate", 9.0),))),
    ):
        for run in (apply, batched):
            with pytest.raises(ValueError, match="rgb alone.*randaugment=0"):
                run(clip, drawn, augment, "flow")
    for run in (apply, batched):
        plain = run(clip, view, Augment(size=32), "flow")
        assert torch.equal(
            run(clip, replace(view, erase=(2, 2, 9, 9), seed=1), Augment(size=32), "flow"), plain
        )


def test_settings_are_multitrains():
    """What the released configurations say, and the supplement; a recipe carries them through
    JSON."""
    augment = PRESETS["multitrain"]
    assert (augment.size, augment.area, augment.aspect, augment.flip) == (
        224,
        (0.08, 1.0),
        (3 / 4, 4 / 3),
        0.5,
    )
    assert (augment.randaugment, augment.magnitude, augment.magnitude_std, augment.erase) == (
        4,
        7.0,
        0.5,
        0.25,
    )
    supplement = PRESETS["multitrain_supplement"]
    assert (supplement.size, supplement.short_side, supplement.flip) == (224, (256, 320), 0.5)
    assert (
        supplement.randaugment == 4
        and not supplement.erase
        and not augment.strong
        and not supplement.strong
    )
    rng = np.random.default_rng(0)
    for drawn in (draw(weak(augment), 90, 120, 4, rng) for _ in range(50)):
        assert drawn == View((90, 120), drawn.box, drawn.flip)
    for preset in ("multitrain", "multitrain_supplement"):
        spec = ClipSpec(augment=PRESETS[preset])
        assert runs.recipe_from(ClipSpec, runs.recipe_dict(spec)) == spec


@pytest.mark.parametrize(
    "values, message",
    [
        ({"randaugment": -1}, "whole number of operations"),
        ({"randaugment": 1.5}, "whole number of operations"),
        ({"magnitude": 10.5}, r"0\.\.10"),
        ({"magnitude": -1}, r"0\.\.10"),
        ({"magnitude_std": -0.5}, "standard deviation"),
        ({"erase": 1.5}, "erase is a probability"),
    ],
)
def test_doors(values, message):
    with pytest.raises(ValueError, match=message):
        Augment(**values)
