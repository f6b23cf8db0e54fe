"""Views: PIL's chain as the oracle, flow under flip, the batched form, the draws' statistics, test
crops."""

import multiprocessing
import pickle
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tests.batches import on_device
from vidbench.data.loading import augmentation, pixels, transforms
from vidbench.data.loading.augmentation import PRESETS, Augment, View, draw, draw_pair, weak
from vidbench.data.loading.transforms import apply


def moving_clip(frames=6, height=120, width=160, seed=0) -> torch.Tensor:
    """A drifting colored texture with a little noise, uint8 [T,C,H,W], in a decoder's memory
    order."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.random((height + 40, width + 40, 3)), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    clip = np.stack([texture[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])
    clip = np.clip(clip + rng.normal(0, 4, clip.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


def levels(clip: torch.Tensor, augment: Augment, stream="rgb") -> np.ndarray:
    """Undo the normalization: [C,T,H,W] to gray levels."""
    as_rgb = stream == "rgb" or augment.flow_as_rgb
    mean, std = (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if as_rgb else ((0.5,) * 3, (0.226,) * 3)
    )
    return (
        clip * torch.tensor(std).view(3, 1, 1, 1) + torch.tensor(mean).view(3, 1, 1, 1)
    ).numpy() * 255


def pil_chain(frame: np.ndarray, view: View, augment: Augment, t: int) -> np.ndarray:
    """One frame [H,W,C] through the same parameters with PIL and torchvision's functions."""
    # here, not above: the spawned worker imports this file, and torchvision takes seconds
    from torchvision.transforms import functional as TF

    top, left, height, width = view.box
    mode = TF.InterpolationMode(augment.interpolation)
    picture = TF.resized_crop(
        Image.fromarray(frame), top, left, height, width, [augment.size] * 2, mode
    )
    for name in view.order:
        picture = getattr(TF, f"adjust_{name}")(picture, getattr(view, name))
    if view.gray == "luma":
        picture = TF.rgb_to_grayscale(picture, 3)
    elif view.gray == "channel":
        picture = Image.merge("RGB", [picture.split()[view.channels[t]]] * 3)
    if view.sigma > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(view.sigma))
    return np.asarray(TF.hflip(picture) if view.flip else picture)


@pytest.mark.parametrize("preset", ["vidbench", "coclr_official", "weak"])
def test_apply_is_pils_chain(preset):
    augment = replace(PRESETS[preset], size=96, strong=float(preset != "weak"))
    clip, rng, seen = moving_clip(), np.random.default_rng(1), set()
    for _ in range(25):
        view = draw(augment, *clip.shape[-2:], len(clip), rng)
        seen |= {*view.order, view.gray, view.sigma > 0, view.flip}
        got = levels(apply(clip, view, augment), augment)
        frames = clip.permute(0, 2, 3, 1).numpy()
        want = np.stack([pil_chain(f, view, augment, t) for t, f in enumerate(frames)])
        assert np.abs(got - want.transpose(3, 0, 1, 2)).mean() <= 1.5, view
        assert abs((got - want.transpose(3, 0, 1, 2)).mean()) <= 0.6, "no brighter, no darker"
    if preset != "weak":
        assert seen >= {
            "brightness",
            "contrast",
            "saturation",
            "hue",
            augment.gray,
            "",
            True,
            False,
        }


@pytest.mark.parametrize(
    "name, factor", [("brightness", 1.4), ("contrast", 0.6), ("saturation", 1.4), ("hue", 0.1)]
)
def test_each_jitter_alone_is_pils(name, factor):
    augment, clip = Augment(size=120), moving_clip(2, 120, 120)
    view = View((120, 120), (0, 0, 120, 120), order=(name,), **{name: factor})
    got = levels(apply(clip, view, augment), augment)
    want = np.stack(
        [pil_chain(f, view, augment, 0) for f in clip.permute(0, 2, 3, 1).numpy()]
    ).transpose(3, 0, 1, 2)
    assert np.abs(got - want).mean() <= (0.9 if name == "hue" else 0.35)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("preset", ["vidbench", "coclr_official"])
def test_batch_shows_the_same_pictures(preset, stream):
    augment = replace(PRESETS[preset], size=64, strong=1.0)
    clips = torch.stack([moving_clip(seed=s) for s in range(12)])
    rng = np.random.default_rng(2)
    drawn = [draw(augment, *clips.shape[-2:], clips.shape[1], rng) for _ in clips]
    assert (
        len({v.order for v in drawn}) > 4
        and any(v.flip for v in drawn)
        and any(v.gray for v in drawn)
    )
    batch = on_device(zip(clips, drawn, strict=True), augment, stream)
    assert (
        batch.shape == (12, 3, 6, 64, 64) and batch.dtype == torch.float32 and batch.is_contiguous()
    )
    for clip, view, got in zip(clips, drawn, batch, strict=True):
        difference = levels(apply(clip, view, augment, stream), augment, stream) - levels(
            got, augment, stream
        )
        assert np.abs(difference).mean() <= 0.5, view


def test_a_still_clip_stays_still():
    still = moving_clip(1).expand(5, -1, -1, -1)
    rng = np.random.default_rng(3)
    for _ in range(10):
        out = apply(still, draw(PRESETS["vidbench"], 120, 160, 5, rng), PRESETS["vidbench"])
        assert (out == out[:, :1]).all(), "every frame has the same parameters"


def test_official_gray_flickers_between_channels():
    augment, still = PRESETS["coclr_official"], moving_clip(1).expand(4, -1, -1, -1)
    view = View((120, 160), (0, 0, 120, 160), gray="channel", channels=(0, 2, 2, 1))
    out = levels(apply(still, view, augment), augment)
    plain = levels(apply(still, replace(view, gray=""), augment), augment)
    for t, channel in enumerate(view.channels):
        assert np.allclose(out[:, t], plain[channel, t], atol=1e-2)
    with pytest.raises(ValueError, match="drawn for 4 frames, the clip has 5"):
        apply(moving_clip(5), view, augment)


def test_flip_mirrors_and_negates_only_us_flow():
    clip = moving_clip()
    view = View((120, 160), (10, 20, 80, 90), sigma=1.0)
    mirrored = replace(view, flip=True)
    for preset, stream in (("vidbench", "rgb"), ("vidbench", "flow"), ("coclr_official", "flow")):
        augment = PRESETS[preset]
        for run in (apply, lambda c, v, a, s: on_device([(c, v)], a, s)[0]):
            plain, flipped = (
                levels(run(clip, v, augment, stream), augment, stream) for v in (view, mirrored)
            )
            plain = plain[..., ::-1].copy()
            if (preset, stream) == ("vidbench", "flow"):
                plain[0] = 255 - plain[0]
            difference = np.abs(
                flipped - plain
            )  # the batched form may meet a rounding tie from the other side
            assert difference.mean() < 0.01 and difference.max() < 1.01, (preset, stream)


def test_flow_keeps_its_colors_by_default():
    clip, plain = moving_clip(), View((120, 160), (0, 0, 120, 160))
    strong = replace(plain, order=("hue", "contrast"), hue=0.1, contrast=0.5, gray="luma")
    ours, official = PRESETS["vidbench"], PRESETS["coclr_official"]
    assert torch.equal(apply(clip, strong, ours, "flow"), apply(clip, plain, ours, "flow"))
    assert not torch.equal(
        apply(clip, strong, official, "flow"), apply(clip, plain, official, "flow")
    )
    zero = torch.full((2, 3, 40, 40), 128, dtype=torch.uint8)
    out = apply(zero, View((40, 40), (0, 0, 40, 40)), ours, "flow")
    assert torch.allclose(out, torch.tensor((128 / 255 - 0.5) / 0.226)), (
        "no motion is zero to half a storage step"
    )


def test_a_smaller_flow_gets_the_same_part_of_the_scene():
    augment, view = Augment(size=40), View((120, 160), (20, 40, 60, 80))
    clip = moving_clip()
    half = (
        torch.nn.functional.interpolate(clip.float(), (60, 80), mode="area").round().to(torch.uint8)
    )
    difference = levels(apply(half, view, augment), augment) - levels(
        apply(clip, view, augment), augment
    )
    assert np.abs(difference).mean() < 3
    moved = levels(apply(half, replace(view, box=(0, 0, 60, 80)), augment), augment)
    assert np.abs(moved - levels(apply(clip, view, augment), augment)).mean() > 10


def test_input_forms_agree_and_are_left_alone():
    augment, clip = PRESETS["vidbench"], moving_clip()
    view = draw(augment, 120, 160, 6, np.random.default_rng(6))
    view = replace(view, order=augmentation.JITTERS, brightness=1.3, hue=0.05, sigma=1.2)
    before, out = clip.clone(), apply(clip, view, augment)
    assert torch.equal(apply(clip.contiguous(), view, augment), out)
    assert torch.equal(apply(clip.float() / 255, view, augment), out)
    whole = View(
        (120, 120),
        (0, 0, 120, 120),
        order=augmentation.JITTERS,
        brightness=1.3,
        hue=0.05,
        sigma=1.2,
    )
    apply(
        clip[..., :120], whole, replace(augment, size=120)
    )  # no resize: works on the clip's own memory
    assert torch.equal(clip, before)


def test_draws_repeat_and_stay_inside():
    augment = PRESETS["vidbench"]
    first, second = (
        [draw(augment, 90, 160, 8, np.random.default_rng(s)) for s in range(300)] for _ in range(2)
    )
    assert first == second and len(set(first)) == 300
    assert pickle.loads(pickle.dumps(first[0])) == first[0]
    for view in first:
        top, left, height, width = view.box
        assert (
            0 <= top <= 90 - height
            and 0 <= left <= 160 - width
            and 0.19 < height * width / (90 * 160) <= 1
        )
    square = [
        draw(augment, 160, 160, 8, np.random.default_rng(s)) for s in range(300)
    ]  # no aspect fits better here
    ratios = np.log([v.box[3] / v.box[2] for v in square])
    assert abs(np.median(ratios)) < 0.05 and np.abs(ratios).max() < np.log(4 / 3) + 0.05
    for name, share in (("flip", 0.5), ("order", 0.8), ("gray", 0.2), ("sigma", 0.5)):
        assert abs(np.mean([bool(getattr(v, name)) for v in first]) - share) < 0.09, name
    for seed in range(30):
        view = draw(weak(augment), 90, 160, 8, np.random.default_rng(seed))
        assert view == View((90, 160), view.box, view.flip)


DRAWN = {
    "vidbench": 824307698,
    "coclr_official": 1439933671,
    "coclr_finetune": 1287481215,
    "weak": 2035036038,
    "toy": 1988932026,
    "rms_kinetics": 3223104938,
    "rms_ssv2": 1145424104,
    "rms_imagenet": 1708427525,
}


@pytest.mark.parametrize("preset", DRAWN)
def test_draws_are_those_of_earlier_runs(preset):
    """A published run can be made again: what a seed draws under a preset stays as it was,
    whatever is added later.

    The checksums were taken before pad and lighting came, those of RMS before RandAugment and
    erasing. Only a numpy whose generators draw other numbers may move them."""

    def values(view: View) -> tuple:
        numbers = (view.brightness, view.contrast, view.saturation, view.hue, view.sigma)
        return (
            view.box,
            view.flip,
            view.order,
            *(round(n, 6) for n in numbers),
            view.gray,
            view.channels,
        )

    rng, augment = np.random.default_rng(7), PRESETS[preset]
    sizes = ((32, 32), (120, 160), (20, 400))
    drawn = [values(draw(augment, *size, 4, rng)) for size in sizes for _ in range(100)]
    pairs = [draw_pair(augment, 120, 160, 4, rng) for _ in range(100)]
    text = repr(drawn + [(pair.clips, *map(values, pair.views)) for pair in pairs])
    assert zlib.crc32(text.encode()) == DRAWN[preset]


@pytest.mark.parametrize("height, width, share", [(240, 320, 0.29), (256, 454, 0.53)])
def test_official_crop_squeezes_misfits(height, width, share):
    """Facts about CoCLR's code: about 29 % and 53 % of clips show the whole frame squeezed to a
    square."""
    rng, augment = np.random.default_rng(0), PRESETS["coclr_official"]
    whole = [draw(augment, height, width, 1, rng).box == (0, 0, height, width) for _ in range(3000)]
    assert abs(np.mean(whole) - share) < 0.03
    retried = replace(augment, crop_tries=10)
    assert (
        np.mean(
            [draw(retried, height, width, 1, rng).box == (0, 0, height, width) for _ in range(500)]
        )
        < 0.02
    )


def test_a_frame_no_crop_fits_gives_the_largest_allowed_central_one():
    view = draw(Augment(area=(0.9, 1.0)), 20, 400, 1, np.random.default_rng(0))
    assert view.box == (0, (400 - 27) // 2, 20, 27)
    view = draw(Augment(area=(0.9, 1.0)), 400, 20, 1, np.random.default_rng(0))
    assert view.box == ((400 - 27) // 2, 0, 27, 20)


@pytest.mark.parametrize("height, width", [(256, 340), (340, 256), (128, 170)])
def test_short_side_crops_are_squares_of_the_scaled_frame(height, width):
    """A short side uniform in 256..320, then 224 x 224 anywhere: in pixels of the frame, short *
    224 / drawn."""
    rng, augment, short = (
        np.random.default_rng(0),
        PRESETS["multitrain_supplement"],
        min(height, width),
    )
    top, left, h, w = np.array([draw(augment, height, width, 4, rng).box for _ in range(4000)]).T
    assert (
        (h == w).all()
        and h.min() == round(short * 224 / 320)
        and h.max() == round(short * 224 / 256)
    )
    drawn = short * 224 / h
    assert abs(drawn.mean() - 288) < 2 and abs(drawn.std() - 64 / 12**0.5) < 1.5
    for start, side in ((top, height), (left, width)):
        room = side - h
        assert start.min() == 0 and (start <= room).all() and (start == room).any(), (
            "up to both edges"
        )
        place = start / room
        assert abs(place.mean() - 0.5) < 0.02 and abs(place.std() - 12**-0.5) < 0.02
    assert abs(np.corrcoef(top / (height - h), left / (width - w))[0, 1]) < 0.06


def test_short_side_views_are_the_scaled_frames_crop():
    """One resize of the box against the two steps of the supplement, on a size where the box has
    whole pixels."""
    clip, augment = moving_clip(2, 128, 160), Augment(size=120, short_side=(128, 160), strong=0.0)
    for short, box in ((128, (5, 31, 120, 120)), (160, (0, 40, 96, 96)), (160, (32, 64, 96, 96))):
        scale = short / 128
        scaled = pixels.resize(clip, short, round(160 * scale), "bilinear")
        top, left = (round(n * scale) for n in box[:2])
        want = scaled[:, :, top : top + 120, left : left + 120].transpose(0, 1).numpy()
        got = levels(apply(clip, View((128, 160), box), augment), augment)
        assert np.abs(got - want)[..., 1:-1, 1:-1].max() < 1.1, (
            "but for the border, which has no neighbors here"
        )


def test_official_pairs():
    """One clip twice in half of the samples, one view of it strong, one weak; the strong chain on
    40 % overall."""
    rng, augment = np.random.default_rng(0), PRESETS["coclr_official"]
    augment = replace(augment, jitter_p=1.0)  # so that a strong view is recognizable
    pairs = [draw_pair(augment, 120, 160, 4, rng) for _ in range(2000)]
    strong = np.array([[bool(v.order) for v in p.views] for p in pairs])
    same = np.array([p.clips[0] == p.clips[1] for p in pairs])
    assert abs(same.mean() - 0.5) < 0.04 and abs(strong.mean() - 0.4) < 0.03
    assert (strong[same].sum(1) == 1).all() and abs(strong[same, 0].mean() - 0.5) < 0.05
    assert abs(strong[~same].mean() - 0.3) < 0.04
    assert {p.clips for p in pairs} == {(0, 0), (1, 1), (0, 1)}
    assert {draw_pair(PRESETS["vidbench"], 120, 160, 4, rng).clips for _ in range(50)} == {(0, 1)}


def coded_clip(height, width) -> torch.Tensor:
    """Row in channel 0, column in channel 1, 128 in channel 2."""
    clip = torch.full((2, 3, height, width), 128, dtype=torch.uint8)
    clip[:, 0] = torch.arange(height)[:, None]
    clip[:, 1] = torch.arange(width)
    return clip


def corners(clip, crops, size, **options):
    out = transforms.test_crops(clip, crops, size, **options)
    assert out.shape[1:] == (3, len(clip), size, size)
    return [
        tuple(np.rint(levels(v, Augment(), "rgb")[:2, 0, 0, 0]).astype(int).tolist()) for v in out
    ]


def test_crops_are_where_they_should_be():
    clip = coded_clip(100, 140)
    assert corners(clip, "center", 60) == [(20, 40)]
    assert corners(clip, "three", 60) == [(20, 0), (20, 40), (20, 80)]
    assert corners(coded_clip(140, 100), "three", 60) == [(0, 20), (40, 20), (80, 20)]
    five = [(20, 40), (0, 0), (0, 80), (40, 0), (40, 80)]
    assert corners(clip, "five", 60) == five
    assert corners(clip, "ten", 60) == five + [(y, x + 59) for y, x in five], (
        "the last five are mirrored"
    )


def test_crops_cut_first_are_coclrs():
    """eval/main_classifier.py: 224 of 240 pixels are cut, then scaled to 128 by PIL's bicubic."""
    augment = PRESETS["coclr_finetune"]
    clip = moving_clip(1, 240, 320)
    picture = Image.fromarray(clip[0].permute(1, 2, 0).numpy())
    where = [(48, 8), (0, 0), (96, 0), (0, 16), (96, 16)]  # left, top; the center first
    wanted = [
        np.asarray(picture.crop((x, y, x + 224, y + 224)).resize((128, 128), Image.BICUBIC))
        for x, y in where
    ]
    crops = {
        first: transforms.test_crops(clip, "five", 128, 137, "rgb", augment, first)
        for first in (True, False)
    }
    seen = {first: levels(crop, augment, "rgb") for first, crop in crops.items()}
    gaps = {
        first: [
            np.abs(np.moveaxis(one[:, 0], 0, -1) - two).mean()
            for one, two in zip(found, wanted, strict=True)
        ]
        for first, found in seen.items()
    }
    assert max(gaps[True]) < 0.3  # of 255 levels
    assert gaps[False][0] > 3 * gaps[True][0]  # scaled first, the center is a pixel off
    odd = coded_clip(101, 140)
    one = levels(transforms.test_crops(odd, "center", 60, None, cut_first=True), Augment(), "rgb")
    assert np.rint(one[0, :2, 0, 0, 0]).astype(int).tolist() == [20, 40]  # 20.5 to even


def test_crops_mirror_flow_and_scale_small_clips_up():
    clip = coded_clip(100, 140)
    ten = levels(transforms.test_crops(clip, "ten", 60, stream="flow"), Augment(), "flow")
    assert np.allclose(ten[5:, 0], 255 - ten[:5, 0, ..., ::-1], atol=1e-2), "u is negated"
    assert np.allclose(ten[5:, 1:], ten[:5, 1:, ..., ::-1], atol=1e-2)
    small = transforms.test_crops(clip[..., :30, :40], "three", 60)
    whole = transforms.test_crops(clip[..., :30, :40], "three", 30)
    assert small.shape == (3, 3, 2, 60, 60)
    assert torch.allclose(
        small[..., 29:31, 29:31].mean(), whole[..., 14:16, 14:16].mean(), atol=0.02
    ), "scaled by two"
    crops = (transforms.test_crops(clip, "center", 50, resize=side) for side in (50, 20))
    assert torch.equal(*crops)


def test_doors():
    clip, view, augment = moving_clip(), View((120, 160), (0, 0, 60, 60)), PRESETS["vidbench"]
    for call, message in (
        (lambda: apply(clip, view, augment, "depth"), "stream"),
        (lambda: apply(clip.permute(0, 2, 3, 1), view, augment), "3 channels"),
        (lambda: apply(clip.to(torch.int32), view, augment), "uint8"),
        (lambda: apply(clip.to("meta"), view, augment), "must be on the CPU"),
        (lambda: transforms.test_crops(clip, "six"), "center, three"),
        (lambda: draw(augment, 0, 10, 1, np.random.default_rng(0)), "0x10"),
        (lambda: Augment(gray="green"), "luma"),
        (lambda: Augment(flip=2.0), "probability"),
        (lambda: Augment(area=(0.5, 0.2)), "area"),
        (lambda: Augment(size=32, pad=32), "from 0 to size - 1 = 31, got 32"),
        (lambda: Augment(pad=-1), "whole number of pixels"),
        (lambda: Augment(pad=1.5), "whole number of pixels"),
        (lambda: Augment(lighting=-0.1), "standard deviation"),
        (lambda: Augment(size=224, short_side=(200, 320)), "rise from size = 224 up"),
        (lambda: Augment(size=224, short_side=(320, 256)), "rise from size = 224 up"),
        (lambda: Augment(size=224, short_side=(256,)), "two numbers"),
        (lambda: Augment(size=32, short_side=(32, 40), pad=4), "set one of them"),
        (
            lambda: draw(Augment(size=32, pad=4), 40, 23, 1, np.random.default_rng(0)),
            "40x23, padded .* at 24 or more",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


class _Threads(torch.utils.data.Dataset):
    """Augments a clip and says how many threads OpenCV has in this worker."""

    def __len__(self):
        return 1

    def __getitem__(self, i):
        apply(moving_clip(), View((120, 160), (0, 0, 60, 60), sigma=1.0), PRESETS["weak"])
        return cv2.getNumThreads()


@pytest.mark.parametrize("method, threads", [("fork", 2), ("spawn", 1)])
def test_workers_get_one_thread_but_never_where_that_can_hang(method, threads):
    """cv2.setNumThreads in a forked child hangs, in about half of the trials, once the parent ran
    OpenCV's threads."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((4096, 128, 3), np.uint8), (13, 13), 2)
        options = {
            "worker_init_fn": transforms.worker_init,
            "multiprocessing_context": method,
            "timeout": 300,
        }
        assert [
            int(n) for n in torch.utils.data.DataLoader(_Threads(), num_workers=1, **options)
        ] == [threads]
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("preset", ["toy", "coclr_official"])
def test_pictures_take_the_normalization_back(preset, stream):
    clip, augment = moving_clip(), weak(PRESETS[preset])
    whole = View(tuple(clip.shape[-2:]), (0, 0, *clip.shape[-2:]))
    shown = transforms.pictures(apply(clip, whole, augment, stream)[None], augment, stream)
    assert shown.dtype == np.uint8 and shown.shape == (1, len(clip), augment.size, augment.size, 3)
    assert np.array_equal(shown[0].transpose(0, 3, 1, 2), resized(clip, augment))


def resized(clip: torch.Tensor, augment: Augment) -> np.ndarray:
    return pixels.resize(clip, augment.size, augment.size, augment.interpolation).numpy()
