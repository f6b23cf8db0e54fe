"""CutMix and Mixup on clips and images: shares against counted pixels, labels and losses against
plain sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidbench.engine.runs import RunError, recipe_dict, recipe_from
from vidbench.methods.classify import Classifier, Recipe
from vidbench.models.slowfast import slow_frames
from vidbench.tensors.mixing import Mixed, Mixing, cutmix, mix_batch, mixup, soft_labels

SHAPES = [
    (5, 2, 3, 4, 9, 14),
    (5, 3, 4, 9, 14),
    (5, 3, 9, 14),
    (4, 3, 2, 16, 16),
]  # views, clips, images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def constant(shape):
    """Sample i is i everywhere, so every value of a mixed batch shows its source."""
    return torch.arange(float(shape[0])).view(-1, *(1,) * (len(shape) - 1)).expand(shape).clone()


def counted(mixed, clips):
    """Each sample's own share of its values, and the partner's, by counting."""
    other = clips[mixed.partner]
    own = torch.stack(
        [(one == mine).float().mean() for one, mine in zip(mixed.clips, clips, strict=True)]
    )
    return own, torch.stack(
        [(one == their).float().mean() for one, their in zip(mixed.clips, other, strict=True)]
    )


def drawn(function, count, shape, **arguments):
    """Many mixed batches, each with other partners."""
    clips, generator = constant(shape), seeded(1)
    return clips, [function(clips, generator=generator, **arguments) for _ in range(count)]


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_share_is_the_area_that_was_kept(shape, each):
    clips, batches = drawn(cutmix, 40, shape, each=each)
    for mixed in batches:
        assert (
            mixed.share.shape == mixed.partner.shape == (shape[0],) and mixed.clips.shape == shape
        )
        assert sorted(mixed.partner.tolist()) == list(range(shape[0]))
        own, other = counted(mixed, clips)
        alone = mixed.partner == torch.arange(shape[0])
        torch.testing.assert_close(own[~alone], mixed.share[~alone])
        torch.testing.assert_close(own[~alone] + other[~alone], torch.ones(int((~alone).sum())))
        assert torch.equal(mixed.clips[alone], clips[alone])
    spread = torch.stack([mixed.share for mixed in batches])
    assert spread.min() < 0.3 and spread.max() > 0.9
    assert (spread.std(dim=1) > 0).any() == each  # a box for every sample, or one for the batch
    alone = sum(int((mixed.partner == torch.arange(shape[0])).sum()) for mixed in batches)
    assert alone / 40 == pytest.approx(
        1, abs=0.6
    )  # a random permutation leaves one in its place; also of odd batches


def boxes_of(mixed, clips):
    """Each mixed sample's box [n,H,W], checked to be the same in all views, channels and frames."""
    there = mixed.partner != torch.arange(len(clips))
    taken = (mixed.clips != clips)[there]
    flat = taken.flatten(1, -3)
    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    return flat[:, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_box_is_one_rectangle_in_height_and_width_of_every_frame(shape):
    """Another library applied the sides of height and width to time and height."""
    clips, batches = drawn(cutmix, 40, shape, each=True)
    ratios = []
    for box in torch.cat([boxes_of(mixed, clips) for mixed in batches]):
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns)  # a product of two sets
        for line in (rows, columns):  # which are intervals
            inside = line.nonzero().flatten()
            assert len(inside) == 0 or int(inside[-1] - inside[0]) + 1 == len(inside)
        touches = box[0].any() or box[-1].any() or box[:, 0].any() or box[:, -1].any()
        if box.any() and not touches:
            ratios.append(float(columns.sum() / rows.sum()))
    assert np.median(ratios) == pytest.approx(
        shape[-1] / shape[-2], rel=0.35
    )  # sides in proportion to the picture


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_cutmix_is_the_published_box(beta):
    """CutMix-PyTorch: sides of sqrt(1 - lambda), center uniform, clipped, lambda ~ Beta, again from
    the area."""
    height, width, count = 20, 32, 6000
    mixed = cutmix(constant((count, 1, height, width)), beta, each=True, generator=seeded(2))
    rng, wanted = np.random.default_rng(0), []
    for _ in range(count):
        cut = np.sqrt(1 - rng.beta(beta, beta))
        area = 1
        for size in (height, width):
            center, half = rng.integers(size), int(size * cut) // 2
            area *= min(center + half, size) - max(center - half, 0)
        wanted.append(1 - area / (height * width))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float(mixed.share.quantile(share)) == pytest.approx(
            np.quantile(wanted, share), abs=0.02
        )
    boxes = boxes_of(mixed, constant((count, 1, height, width))).float()
    cover = boxes.mean(dim=0)
    for mirrored in (
        cover.flip(0),
        cover.flip(1),
    ):  # a box of even sides reaches one further up and left
        torch.testing.assert_close(cover, mirrored, atol=0.06, rtol=0)
    assert (
        float(cover.min()) == float(cover[[0, 0, -1, -1], [0, -1, 0, -1]].min()) > 0.05
    )  # corners least, yet covered
    for edge in (boxes[:, 0], boxes[:, -1], boxes[:, :, 0], boxes[:, :, -1]):
        assert float(edge.any(dim=1).float().mean()) > 0.2


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_lambda_is_betas(beta):
    share = mixup(torch.zeros(3000, 1, 1, 1), beta, each=True, generator=seeded(3)).share.numpy()
    wanted = np.random.default_rng(0).beta(beta, beta, 200_000)
    for q in (0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95):
        assert float((share < np.quantile(wanted, q)).mean()) == pytest.approx(q, abs=0.035)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.07)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_mixup_is_the_weighted_sum(shape, each):
    clips, generator = torch.randn(shape, generator=seeded(4)), seeded(5)
    for _ in range(5):
        mixed = mixup(clips, 1.0, each=each, generator=generator)
        for i in range(shape[0]):
            share = float(mixed.share[i])
            torch.testing.assert_close(
                mixed.clips[i], share * clips[i] + (1 - share) * clips[int(mixed.partner[i])]
            )
        assert sorted(mixed.partner.tolist()) == list(range(shape[0]))
        assert (len(mixed.share.unique()) > 1) == each


@pytest.mark.parametrize("function", [cutmix, mixup])
def test_the_given_batch_stays_and_a_generator_repeats(function):
    clips = torch.randn(7, 3, 4, 8, 8)
    before, mixed = clips.clone(), function(clips, 1.0, generator=seeded(6))
    assert torch.equal(clips, before) and mixed.clips.data_ptr() != clips.data_ptr()
    assert not torch.equal(mixed.clips, clips)
    again, other = (function(clips, 1.0, generator=seeded(seed)) for seed in (6, 7))
    assert all(torch.equal(left, right) for left, right in zip(mixed, again, strict=True))
    assert not torch.equal(mixed.clips, other.clips)
    torch.manual_seed(6)
    assert torch.equal(
        function(clips, 1.0).clips, mixed.clips
    )  # torch's own state, which the loop seeds


@pytest.mark.parametrize("function", [cutmix, mixup])
def test_p_is_the_share_of_batches_or_samples(function):
    clips = torch.randn(4, 2, 6, 6)
    never = function(clips, p=0.0, generator=seeded())
    assert torch.equal(never.clips, clips) and torch.equal(never.share, torch.ones(4))
    generator = seeded(8)
    for each in (False, True):
        share = torch.stack([function(clips, 5.0, 0.4, each, generator).share for _ in range(600)])
        units = (share if each else share[:, :1]) < 1
        assert torch.equal(units.expand_as(share), share < 1)
        assert float(units.float().mean()) == pytest.approx(0.4, abs=0.07)
    for wrong in ({"beta": 0.0}, {"beta": -1.0}, {"p": 1.5}, {"p": -0.1}):
        with pytest.raises(ValueError, match="beta above 0 and p in 0..1"):
            function(clips, **wrong)


def test_a_lone_clip_is_its_own_partner():
    clips = torch.randn(1, 3, 2, 6, 6)
    for function in (cutmix, mixup):
        torch.testing.assert_close(function(clips, 1.0).clips, clips)


def test_labels_carry_both_shares():
    mixed = Mixed(
        torch.zeros(4, 1), torch.tensor([1, 2, 0, 3]), torch.tensor([0.75, 0.5, 0.0, 0.3])
    )
    found = soft_labels(torch.tensor([2, 0, 2, 1]), mixed, 4)
    wanted = [
        [0.25, 0, 0.75, 0],
        [0.5, 0, 0.5, 0],
        [0, 0, 1, 0],
        [0, 1, 0, 0],
    ]  # both of one class; alone
    torch.testing.assert_close(found, torch.tensor(wanted))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4))


# ---- in the classifier -------------------------------------------------------------------------


CIFAR = Recipe(
    network="cifar_resnet", network_args={"depth": 8, "width": 0.25}, classes=("a", "b", "c", "d")
)
CUT = {"name": "cutmix", "beta": 1.0}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", [CUT, {**CUT, "each": True}, {"name": "mixup", "beta": 1.0}])
def test_the_loss_is_the_weighted_sum_of_two_cross_entropies(mixing, smoothing):
    torch.manual_seed(0)
    method = Classifier(replace(CIFAR, mixing=Mixing(**mixing), label_smoothing=smoothing)).train()
    method.head.fc.weight.data.normal_()
    seen = []
    method.head.register_forward_hook(lambda m, x, out: seen.append(out.detach()))
    views, label = torch.randn(5, 2, 3, 1, 32, 32), torch.tensor([0, 1, 2, 3, 1])
    torch.manual_seed(9)
    loss, numbers = method({"rgb": views, "label": label})
    torch.manual_seed(9)
    arguments = {name: value for name, value in mixing.items() if name != "name"}
    mixed = (cutmix if mixing["name"] == "cutmix" else mixup)(views, **arguments)
    assert 0 < float(mixed.share.min()) < 1
    losses, right = [], []
    for i in range(5):
        for view in range(2):
            scores = seen[0][2 * i + view]
            pair = [
                F.cross_entropy(scores, wanted, label_smoothing=smoothing)
                for wanted in (label[i], label[mixed.partner[i]])
            ]
            losses.append(mixed.share[i] * pair[0] + (1 - mixed.share[i]) * pair[1])
            right.append(float(scores.argmax() == label[i]))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert float(numbers["accuracy"]) == pytest.approx(np.mean(right))


SWITCHED = (Mixing("mixup", beta=0.8), Mixing("cutmix", beta=1.0))


def test_one_of_two_mixings_is_drawn_for_each_batch_as_released():
    """PySlowFast's and MultiTrain's mixup.py: a coin, then lambda by the Beta of what it chose."""
    clips, generator = constant((2, 1, 8, 8)), seeded(9)
    shares = {True: [], False: []}
    for _ in range(600):
        mixed = mix_batch(SWITCHED, clips, generator)
        share = float(mixed.share[0])
        shares[(64 * share).is_integer()].append(share)  # a box has whole pixels
        assert torch.equal(mixed.share, mixed.share[:1].expand(2))  # one lambda for the batch
    assert len(shares[True]) / 600 == pytest.approx(0.5, abs=0.06)
    assert np.var(shares[False]) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.15)
    assert mix_batch(None, clips) is None and mix_batch((), clips) is None


def test_one_mixing_draws_the_same_numbers_with_and_without_the_switch():
    clips = torch.randn(4, 3, 6, 6)
    alone = SWITCHED[1](clips, seeded(3))
    again = mix_batch(SWITCHED[1], clips, seeded(3))
    assert again is not None and torch.equal(alone.clips, again.clips)


def test_switched_mixing_smooths_and_then_mixes_targets_as_released():
    """mixup.py there: off = s / C, on = 1 - s + off; then lambda, 1 - lambda."""
    torch.manual_seed(0)
    method = Classifier(replace(CIFAR, mixing=SWITCHED, label_smoothing=0.1)).train()
    assert recipe_from(Recipe, recipe_dict(method.recipe)) == method.recipe
    method.head.fc.weight.data.normal_()
    seen = []
    method.head.register_forward_hook(lambda m, x, out: seen.append(out.detach()))
    views, label = torch.randn(4, 2, 3, 1, 32, 32), torch.tensor([0, 1, 2, 3])
    for seed in range(4):
        torch.manual_seed(seed)
        loss, _ = method({"rgb": views, "label": label})
        torch.manual_seed(seed)
        mixed = mix_batch(SWITCHED, views)
        losses = []
        for i in range(4):
            share, other = float(mixed.share[i]), int(mixed.partner[i])
            for view in range(2):
                target = torch.full((4,), 0.1 / 4)
                target[i] += share * 0.9
                target[other] += (1 - share) * 0.9
                losses.append(-(target * seen[-1][2 * i + view].log_softmax(0)).sum())
        torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_a_classifier_mixes_in_training_only(name):
    torch.manual_seed(0)
    method, plain = (
        Classifier(replace(CIFAR, mixing=mixing)) for mixing in (Mixing(name, beta=1.0), None)
    )
    plain.load_state_dict(method.state_dict())
    batch = {"rgb": torch.randn(6, 1, 3, 1, 32, 32), "label": torch.arange(6) % 4}
    state = torch.random.get_rng_state()
    losses = [[one.train(mode)(batch)[0] for one in (method, plain)] for mode in (False, True)]
    assert torch.equal(*losses[0]) and not torch.equal(*losses[1])
    method.eval()(batch)
    torch.random.set_rng_state(state)
    plain.train()(batch), method.eval()(batch)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing drawn
    with pytest.raises(ValueError, match="cutmix, mixup; got"):
        Mixing("cutmixx")


@pytest.mark.parametrize(
    "mixing",
    [
        {"name": "mixup", "p": 2.0},
        {"name": "cutmix", "beta": 0.0},
    ],
)
def test_arguments_of_mixing_are_refused_at_the_door(mixing):
    with pytest.raises(ValueError, match="beta above 0 and p in 0..1; got"):
        Mixing(**mixing)
    with pytest.raises(RunError, match="no field 'alpha'; the known ones are name, beta, p, each"):
        recipe_from(Recipe, {"mixing": {"name": "cutmix", "alpha": 1.0}})


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_slow_and_fast_frames_show_the_same_mixture(name):
    """Another library mixed the first of two inputs and the label, but not the fast clip."""
    small = {
        "width": 0.0625,
        "beta_inv": 4,
        "lateral_kernel": 5,
        "blocks": (1, 1, 1, 1),
        "stem_stride": 2,
    }
    torch.manual_seed(0)
    method = Classifier(
        Recipe(
            network="slowfast",
            network_args=small,
            mixing=Mixing(name, beta=1.0),
            classes=("a", "b"),
        )
    ).train()
    seen = {}
    for pathway in ("slow", "fast"):
        getattr(method.encoder, pathway).stem.register_forward_pre_hook(
            lambda m, x, pathway=pathway: seen.update({pathway: x[0]})
        )
    batch = {"rgb": torch.randn(4, 1, 3, 8, 32, 32), "label": torch.tensor([0, 1, 0, 1])}
    torch.manual_seed(3)
    method(batch)
    torch.manual_seed(3)
    mixed = {"cutmix": cutmix, "mixup": mixup}[name](batch["rgb"], 1.0).clips[:, 0]
    assert torch.equal(seen["fast"], mixed) and not torch.equal(mixed, batch["rgb"][:, 0])
    assert torch.equal(seen["slow"], mixed[:, :, slow_frames(8, 4)])
