"""Residual nets: the counts and shapes of their papers, the door for regularizers, small forms that
train."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vidbench import models
from vidbench.models.planes import PlaneConv3d, PlaneMaxPool
from vidbench.models.resnets import DEPTHS, PaddedShortcut, Residual, Site
from vidbench.models.slowfast import slow_frames

ONES = (1, 1, 1, 1)
SMALL = {  # for clips of 8 frames and 48 pixels, cifar_resnet for images of 32
    "slowonly": {"depth": 34, "width": 0.125, "blocks": ONES, "stem_stride": 2},
    "slowfast": {
        "width": 0.125,
        "beta_inv": 4,
        "lateral_kernel": 5,
        "blocks": ONES,
        "stem_stride": 2,
    },
    "csn": {"width": 0.125, "blocks": ONES, "stem_stride": 2},
    "resnet50": {"width": 0.125, "blocks": ONES, "stem_stride": 2},
    "cifar_resnet": {"depth": 8, "width": 0.5},
}


def meta(name, **arguments):
    with torch.device("meta"):
        return models.build(name, **arguments)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def multiply_adds(net, frames, pixels):
    """Multiply-adds of all convolutions for one clip, and the map's shape."""
    counted = []
    hooks = [
        m.register_forward_hook(lambda m, _, out: counted.append(out.numel() * m.weight[0].numel()))
        for m in net.modules()
        if isinstance(m, nn.Conv3d)
    ]
    shape = net(torch.empty(1, 3, frames, pixels, pixels, device="meta")).shape
    for hook in hooks:
        hook.remove()
    assert len(counted) == len(hooks)  # each convolution once
    return sum(counted), tuple(shape)


# Parameters with a linear layer for so many classes, and GMAC for one clip at each size, to the
# digits given. The published figures behind them (model zoos of PySlowFast, pytorchvideo,
# mmaction2, VMZ) are MACs at 256 pixels.
PUBLISHED = [
    ("slowonly", {}, 400, 4, 32_454_096, {224: "20.87", 256: "27.26"}),
    ("slowonly", {}, 400, 8, 32_454_096, {224: "41.74", 256: "54.52"}),
    ("slowonly", {"depth": 34}, 400, 8, 61_008_080, {224: "60.75", 256: "79.35"}),
    (
        "slowonly",
        {"depth": 34, "temporal": "first"},
        400,
        8,
        39_774_416,
        {224: "44.10", 256: "57.60"},
    ),
    ("slowonly", {}, 200, 8, 32_044_296, {224: "41.74"}),
    ("slowonly", {}, 174, 8, 31_991_022, {224: "41.74"}),
    ("slowonly", {"depth": 34}, 200, 8, 60_905_480, {224: "60.75"}),
    ("slowfast", {}, 400, 32, 34_566_488, {224: "50.31", 256: "65.71"}),
    ("slowfast", {"preset": "paper"}, 400, 32, 34_565_560, {224: "50.31", 256: "65.71"}),
    ("slowfast", {"lateral_kernel": 5}, 400, 32, 34_480_216, {224: "49.99", 256: "65.30"}),
    (
        "slowfast",
        {"lateral_kernel": 5, "preset": "paper"},
        400,
        32,
        34_479_288,
        {224: "49.99", 256: "65.30"},
    ),
    (
        "slowfast",
        {"lateral_kernel": 5, "alpha": 8},
        400,
        32,
        34_480_216,
        {224: "27.64", 256: "36.10"},
    ),
    ("csn", {}, 400, 32, 13_131_152, {224: "42.31", 256: "55.26"}),
    ("csn", {}, 400, 8, 13_131_152, {224: "10.58", 256: "13.82"}),
    ("csn", {"kind": "ip"}, 400, 32, 14_396_176, {224: "47.65", 256: "62.24"}),
    ("csn", {"depth": 101}, 400, 32, 22_213_776, {224: "56.47", 256: "73.75"}),
    ("csn", {"depth": 152}, 400, 32, 29_703_568, {224: "74.05", 256: "96.71"}),
    ("csn", {"depth": 152, "kind": "ip"}, 400, 32, 33_016_592, {224: "83.29", 256: "108.79"}),
    ("resnet50", {}, 1000, 1, 25_557_032, {224: "4.09", 256: "5.34"}),
    ("cifar_resnet", {}, 100, 1, 1_733_812, {32: "0.253"}),
    ("cifar_resnet", {"shortcut": "B"}, 100, 1, 1_736_564, {32: "0.253"}),
    ("cifar_resnet", {"block": "bottleneck"}, 100, 1, 1_170_868, {32: "0.167"}),
]


@pytest.mark.parametrize("name, arguments, classes, frames, size, gmacs", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(
    name, arguments, classes, frames, size, gmacs
):
    net = meta(name, **arguments)
    with torch.device("meta"):
        head = models.build_head("linear", net.out_channels, classes)
    assert parameters(net) + parameters(head) == size
    for pixels, printed in gmacs.items():
        count, shape = multiply_adds(net, frames, pixels)
        assert shape[1] == net.out_channels
        half_a_digit = 0.5 * 10 ** -len(printed.split(".")[1])
        assert abs((count + net.out_channels * classes) / 1e9 - float(printed)) <= half_a_digit, (
            pixels
        )


def stage_shapes(net, frames, pixels):
    """[C,T,H,W] after the stem's convolution, the stem and each stage."""
    shapes = []
    hooks = [
        m.register_forward_hook(lambda m, _, out: shapes.append(tuple(out.shape[1:])))
        for m in (net.stem[0], net.stem, *net.stages)
    ]
    net(torch.empty(1, 3, frames, pixels, pixels, device="meta"))
    for hook in hooks:
        hook.remove()
    return shapes


def kernels(net):
    """Of the first block of each stage, the kernels of the branch as (time, space)."""
    return [
        [m.kernel_size[:2] for m in stage[0].branch if isinstance(m, nn.Conv3d)]
        for stage in net.stages
    ]


def test_slowonly_is_table_a1_stage_by_stage():
    for depth, ends in ((34, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))):
        net = meta("slowonly", depth=depth)
        maps = [(c, 8, px, px) for c, px in zip(ends, (56, 28, 14, 7), strict=True)]
        assert stage_shapes(net, 8, 224) == [(64, 8, 112, 112), (64, 8, 56, 56), *maps]
        assert [len(stage) for stage in net.stages] == [3, 4, 6, 3]
    flat, deep = [(1, 3)] * 2, [(3, 3)] * 2
    assert kernels(meta("slowonly", depth=34)) == [flat, flat, deep, deep]
    assert kernels(meta("slowonly", depth=34, temporal="first"))[3] == [(3, 3), (1, 3)]
    flat, deep = [(1, 1), (1, 3), (1, 1)], [(3, 1), (1, 3), (1, 1)]
    assert kernels(meta("slowonly")) == [flat, flat, deep, deep]


@pytest.mark.parametrize(
    "frames, lengths", [(8, [8, 4, 2, 1]), (16, [16, 8, 4, 2]), (32, [32, 16, 8, 4])]
)
def test_csn_halves_the_time_with_the_size(frames, lengths):
    shapes = stage_shapes(meta("csn"), frames, 224)
    assert [s[1] for s in shapes] == [frames, frames, *lengths]
    assert [s[2] for s in shapes] == [112, 56, 56, 28, 14, 7]


def test_csn_separates_channels_and_keeps_its_batch_norm():
    for kind in ("ir", "ip"):
        branch = list(meta("csn", kind=kind).stages[1][0].branch.named_children())
        convs = [m for _, m in branch if isinstance(m, nn.Conv3d)]
        assert [m.groups for m in convs] == ([1, 128, 1] if kind == "ir" else [1, 1, 128, 1])
        assert [m.stride for m in convs if m.groups > 1] == [(2, 2, 2)]
        assert [name for name, _ in branch if name.startswith("relu")] == (
            ["relu1", "relu2"] if kind == "ir" else ["relu1", "relu3"]
        )  # none before the depthwise one of "ip"
    for name, eps in (("csn", 1e-3), ("slowonly", 1e-5), ("resnet50", 1e-5)):
        assert {
            (m.eps, m.momentum) for m in meta(name).modules() if isinstance(m, nn.BatchNorm3d)
        } == {(eps, 0.1)}
    assert {
        m.eps for m in meta("csn", norm_eps=1e-5).modules() if isinstance(m, nn.BatchNorm3d)
    } == {1e-5}


# ---- SlowFast ----------------------------------------------------------------------------------


def test_slowfast_shapes_pathways_and_laterals():
    net = meta("slowfast")
    assert [m[0].kernel_size for m in net.laterals] == [(7, 1, 1)] * 4
    assert [m[0].out_channels for m in net.laterals] == [16, 64, 128, 256]
    assert [stage[0].branch[0].in_channels for stage in net.slow.stages] == [80, 320, 640, 1280]
    assert [stage[-1].branch[-2].out_channels for stage in net.fast.stages] == [32, 64, 128, 256]
    assert net.fast.stem[0].kernel_size == (5, 7, 7) and net.slow.stem[0].kernel_size == (1, 7, 7)
    assert [k[0] for k in kernels(net.fast)] == [(3, 1)] * 4
    assert [k[0] for k in kernels(net.slow)] == [(1, 1), (1, 1), (3, 1), (3, 1)]
    assert net(torch.empty(2, 3, 32, 224, 224, device="meta")).shape == (2, 2304, 8, 7, 7)
    assert net(torch.empty(1, 3, 32, 256, 256, device="meta")).shape == (1, 2304, 8, 8, 8)
    assert meta("slowfast", alpha=8)(torch.empty(1, 3, 32, 64, 64, device="meta")).shape == (
        1,
        2304,
        4,
        2,
        2,
    )
    with pytest.raises(ValueError, match="multiples of alpha = 4; got 30"):
        net(torch.empty(1, 3, 30, 64, 64, device="meta"))


def test_slowfast_presets_differ_in_laterals_and_gamma():
    official, paper = meta("slowfast"), meta("slowfast", preset="paper")
    assert [type(m) for m in official.laterals[0]] == [PlaneConv3d, nn.BatchNorm3d, nn.ReLU]
    assert all(len(m) == 1 for m in paper.laterals)
    assert gammas(models.build("slowfast", **SMALL["slowfast"])) == {0.0}
    assert gammas(models.build("slowfast", **SMALL["slowfast"], preset="paper")) == {1.0}
    assert gammas(
        models.build("slowfast", **SMALL["slowfast"], preset="paper", zero_gamma=True)
    ) == {0.0}


@pytest.mark.parametrize(
    "frames, alpha", [(32, 4), (32, 8), (64, 4), (64, 8), (16, 4), (8, 4), (8, 2), (4, 4)]
)
def test_slow_frames_are_those_of_the_published_code(frames, alpha):
    assert (
        slow_frames(frames, alpha) == torch.linspace(0, frames - 1, frames // alpha).long().tolist()
    )


def test_slowfasts_mean_is_the_two_pooled_maps_in_a_row():
    net = models.build("slowfast", **SMALL["slowfast"]).eval()
    ends = {}
    for name in ("slow", "fast"):
        getattr(net, name).stages[-1].register_forward_hook(
            lambda m, _, out, name=name: ends.update({name: out})
        )
    clips = torch.randn(2, 3, 16, 32, 32)
    with torch.no_grad():
        wide = net(clips)
    assert ends["slow"].shape[2] == 4 and ends["fast"].shape[2] == 16
    pooled = torch.cat([ends["slow"].mean((2, 3, 4)), ends["fast"].mean((2, 3, 4))], 1)
    torch.testing.assert_close(wide.mean((2, 3, 4)), pooled, atol=1e-5, rtol=1e-5)
    seen = []
    net.slow.stem.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    with torch.no_grad():
        net(clips)
    torch.testing.assert_close(seen[0], clips[:, :, [0, 5, 10, 15]])


# ---- the door for regularizers -----------------------------------------------------------------


class Zero(nn.Module):
    """Leaves nothing of a branch, and remembers what it was given."""

    def __init__(self, site, log):
        super().__init__()
        self.site, self.log = site, log

    def forward(self, x):
        self.log.append((self.site, x))
        return torch.zeros_like(x)


def test_every_block_has_one_site_in_order():
    sites = []
    meta("slowonly", regularizer=lambda site: sites.append(site) or nn.Identity())
    stages = [
        stage for stage, count in zip(range(2, 6), DEPTHS[50], strict=True) for _ in range(count)
    ]
    assert sites == [
        Site(stage, block, 16, 256 << stage - 2, "") for block, stage in enumerate(stages, 1)
    ]
    sites.clear()
    meta("cifar_resnet", regularizer=lambda site: sites.append(site) or nn.Identity())
    assert sites == [Site(1 + i // 18, 1 + i, 54, 16 << i // 18) for i in range(54)]
    sites.clear()
    meta("slowfast", regularizer=lambda site: sites.append(site) or nn.Identity())
    assert [s.pathway for s in sites] == ["slow"] * 16 + ["fast"] * 16
    assert [s.block for s in sites] == 2 * list(range(1, 17)) and {s.blocks for s in sites} == {16}
    assert [s.channels for s in sites if s.stage == 5] == [2048] * 3 + [256] * 3
    sites.clear()
    meta("csn", depth=101, regularizer=lambda site: sites.append(site) or nn.Identity())
    assert [s.stage for s in sites] == [2] * 3 + [3] * 4 + [4] * 23 + [5] * 3 and sites[
        -1
    ].block == 33


@pytest.mark.parametrize("name", SMALL)
def test_a_regularizer_is_given_the_branch_alone(name):
    log, wanted = [], []
    net = models.build(name, regularizer=lambda site: Zero(site, log), **SMALL[name])
    ends = []
    blocks = [m for m in net.modules() if isinstance(m, Residual)]
    for block in blocks:
        block.branch.register_forward_hook(lambda m, _, out: ends.append((m[-1], out)))
        block.register_forward_hook(
            lambda m, x, out: wanted.append((F.relu(m.shortcut(x[0])), out))
        )
    net(torch.randn(2, 3, 8, 32, 32))
    assert len(log) == len(blocks) == len({site for site, _ in log})  # once per block
    for (site, given), (last, end) in zip(log, ends, strict=True):
        assert given is end and isinstance(last, nn.BatchNorm3d) and site.channels == given.shape[1]
    for shortcut, out in wanted:
        torch.testing.assert_close(out, shortcut)


def test_the_state_dict_does_not_know_the_regularizer():
    for name, arguments in SMALL.items():
        plain = models.build(name, zero_gamma=False, **arguments)
        regularized = models.build(
            name, regularizer=lambda site: nn.Dropout3d(0.5), zero_gamma=False, **arguments
        )
        regularized.load_state_dict(plain.state_dict())
        plain.load_state_dict(regularized.state_dict())
        clips = torch.randn(2, 3, 4, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(plain.eval()(clips), regularized.eval()(clips))
            assert not torch.equal(plain.train()(clips), regularized.train()(clips))


def test_a_net_without_residual_branches_refuses_a_regularizer():
    with pytest.raises(ValueError, match="no place for a regularizer.*cifar_resnet.*slowonly"):
        models.build("s3d", regularizer=lambda site: nn.Identity())


# ---- weights, arguments, small forms -----------------------------------------------------------


def gammas(net):
    """The first weights of the last batch norm of each branch, having seen that all others are
    1."""
    last = [block.branch[-1] for block in net.modules() if isinstance(block, Residual)]
    others = [
        m for m in net.modules() if isinstance(m, nn.BatchNorm3d) and not any(m is n for n in last)
    ]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in others)
    return {value for m in last for value in m.weight.unique().tolist()}


def test_first_weights_follow_the_sources():
    for name, zero in (
        ("slowonly", True),
        ("csn", False),
        ("resnet50", False),
        ("cifar_resnet", False),
    ):
        assert gammas(models.build(name, **SMALL[name])) == ({0.0} if zero else {1.0}), name
        assert gammas(models.build(name, **SMALL[name], zero_gamma=not zero)) == (
            {1.0} if zero else {0.0}
        )
    torch.manual_seed(0)
    conv = models.build("slowonly", depth=34, blocks=ONES, width=0.5).stages[3][0].branch.conv2
    assert conv.weight.std().item() == pytest.approx(
        (2 / (256 * 27)) ** 0.5, rel=0.01
    )  # fan out, ReLU


@pytest.mark.parametrize(
    "name, arguments, says",
    [
        (
            "slowonly",
            {"depht": 50},
            "unknown .'depht'.; its arguments are .*blocks.*depth.*stem_stride.*zero_gamma",
        ),
        ("slowonly", {"depth": 101}, "depth is one of"),
        ("slowonly", {"temporal": "second", "depth": 34}, "table A1"),
        ("slowonly", {"temporal": "first"}, "depth 34"),
        ("slowonly", {"blocks": [1, 1, 1]}, "four numbers"),
        ("slowonly", {"blocks": [1, 1, 1, 0]}, "four numbers"),
        ("slowonly", {"width": 0}, "width"),
        ("slowonly", {"width": 5}, "width"),
        ("slowonly", {"stem_stride": 3}, "stem_stride"),
        ("slowonly", {"blocks": 3}, "iterable"),
        ("csn", {"kind": "xx"}, "'ir' or 'ip'"),
        ("csn", {"depth": 34}, "depth"),
        ("slowfast", {"preset": "mine"}, "official.*paper"),
        ("slowfast", {"lateral_kernel": 4}, "odd"),
        ("slowfast", {"alpha": 0}, "alpha"),
        ("resnet50", {"depth": 50}, "unknown"),
        ("cifar_resnet", {"depth": 109}, "6 n . 2"),
        ("cifar_resnet", {"depth": 2}, "such as 8"),
        ("cifar_resnet", {"depth": 20, "block": "bottleneck", "shortcut": "A"}, "shortcut"),
        ("cifar_resnet", {"block": "wide"}, "'basic' or 'bottleneck'"),
        ("cifar_resnet", {"shortcut": "C"}, "shortcut"),
        ("cifar_resnet", {"blocks": (1, 1, 2, 2)}, "three numbers"),
        ("cifar_resnet", {"blocks": (1, 0, 4)}, "three numbers"),
    ],
)
def test_odd_requests_are_refused(name, arguments, says):
    with pytest.raises(ValueError, match=says):
        meta(name, **arguments)


def test_blocks_of_the_cifar_net_replace_its_depth():
    sites = []
    net = meta(
        "cifar_resnet",
        blocks=(1, 1, 4),
        regularizer=lambda site: sites.append(site) or nn.Identity(),
    )
    assert [len(stage) for stage in net.stages] == [1, 1, 4]
    assert [(site.stage, site.block, site.blocks) for site in sites] == [
        (1, 1, 6),
        (2, 2, 6),
        *((3, block, 6) for block in (3, 4, 5, 6)),
    ]
    # a stem of 3 channels, then two 3x3 convolutions a block, each with its batch norm
    pairs = [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), *[(64, 64)] * 7]
    assert parameters(net) == sum(9 * a * b + 2 * b for a, b in pairs)
    assert parameters(meta("cifar_resnet", blocks=(18, 18, 18))) == parameters(meta("cifar_resnet"))


def test_frames_pass_nets_for_images_one_by_one():
    for name in ("resnet50", "cifar_resnet"):
        net = models.build(name, **SMALL[name]).eval()
        clips = torch.randn(2, 3, 3, 32, 32)
        with torch.no_grad():
            alone = torch.cat([net(clips[:, :, [t]]) for t in range(3)], dim=2)
            torch.testing.assert_close(net(clips), alone, atol=1e-5, rtol=1e-5)


def test_shortcut_a_takes_every_second_position_and_adds_zeros():
    x = torch.randn(2, 4, 3, 6, 6)
    short = PaddedShortcut(4, 8, 2)
    out = short(x)
    assert parameters(short) == 0 and out.shape == (2, 8, 3, 3, 3)
    torch.testing.assert_close(out[:, 2:6], x[:, :, :, ::2, ::2])
    assert not out[:, :2].any() and not out[:, 6:].any()


@pytest.mark.parametrize(
    "name, size",
    [
        ("slowonly", 215_592),
        ("slowfast", 213_228),
        ("csn", 82_144),
        ("resnet50", 127_432),
        ("cifar_resnet", 18_888),
    ],
)
def test_small_forms_learn_a_few_clips_by_heart(name, size):
    torch.manual_seed(0)
    net = models.build(name, **SMALL[name])
    assert parameters(net) == size
    head = models.build_head("linear", net.out_channels, 2)
    clips = torch.randn(4, 3, 1, 32, 32) if name == "cifar_resnet" else torch.randn(4, 3, 8, 48, 48)
    label = torch.tensor([0, 1, 0, 1])
    learned = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(head(net(clips).mean((2, 3, 4))), label)
        learned.zero_grad()
        loss.backward()
        learned.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    if name != "cifar_resnet":
        assert net(clips).shape[3:] == (3, 3)  # res5's map of 48 pixels


# ---- planes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_plane_convolution_of_one_frame_is_the_3d_one(kernel, stride, batch):
    conv = nn.Sequential(
        nn.Conv3d(5, 7, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2))
    )
    clips = torch.randn(batch, 5, 1, 9, 10)
    wanted = conv(clips)
    (grads,) = torch.autograd.grad(wanted.square().sum(), [conv[0].weight])
    PlaneConv3d.adopt(conv)
    got = conv(clips)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    (again,) = torch.autograd.grad(got.square().sum(), [conv[0].weight])
    torch.testing.assert_close(again, grads, atol=1e-3, rtol=1e-4)


def test_nets_for_images_run_as_2d_ones_on_every_device(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a 3-D convolution")

    images = meta("resnet50", **SMALL["resnet50"])
    clips = meta("slowonly", **SMALL["slowonly"])
    monkeypatch.setattr(F, "conv3d", refuse)
    assert images(torch.empty(2, 3, 1, 48, 48, device="meta")).shape[2] == 1
    with pytest.raises(AssertionError, match="a 3-D convolution"):
        clips(torch.empty(2, 3, 1, 48, 48, device="meta"))  # res4 is temporal, whatever the clip


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("size", [8, 9])
def test_plane_max_pool_is_the_3d_one(layout, size):
    clips = torch.randn(2, 3, 4, size, size).contiguous(memory_format=layout).requires_grad_()
    wanted = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))(clips)
    got = PlaneMaxPool(3, 2)(clips)
    assert torch.equal(got, wanted)
    probe = torch.randn_like(wanted)
    left, right = (torch.autograd.grad((y * probe).sum(), clips)[0] for y in (wanted, got))
    torch.testing.assert_close(right, left)
