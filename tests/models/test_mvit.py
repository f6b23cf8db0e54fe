"""MViTv2: exact sizes, plain loops and torchvision as oracles, embeddings at other sizes, a tiny
form that learns."""

import sys
from collections import Counter
from itertools import product
from math import prod

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.mvit import MSBlockConfig

from vidbench import models
from vidbench.models.attention import Attention, stretched, strided
from vidbench.models.keys import torchvision_mvit_key
from vidbench.models.mvit import MViT, inflated
from vidbench.models.planes import PlaneMaxPool
from vidbench.models.published import SOURCES, load_published

OFFICIAL = {"relative": True, "class_token": True, "normed_skip": True, "pool_eps": 1e-6}
MINI = {"preset": "tiny", "width": 8, "heads": 2, "frames": 4, "size": 32}
TABLE_2 = (2, 3, 16, 3)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def meta(**arguments):
    with torch.device("meta"):
        return models.build("mvit", **arguments)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def shaken(net):
    """Weights as after long training: nothing is 0 or 1, and positions matter."""
    torch.manual_seed(3)
    for name, weight in net.named_parameters():
        if weight.dim() < 2:
            nn.init.normal_(weight, 0.8 if "norm" in name and name.endswith("weight") else 0.1, 0.2)
        elif any(
            part in name for part in ("relative", "rel_pos", "space", "spatial", "time", "temporal")
        ):
            nn.init.normal_(weight, std=0.4)
        else:
            nn.init.normal_(weight, std=0.1)
    return net.eval()


# ---- sizes -------------------------------------------------------------------------------------

# Backbone's parameters, those with a linear layer for 400 classes, and GMAC of one clip, to the
# digits given. Counted on the released code of MultiTrain and on torchvision's classes;
# torchvision's own metadata has 34,537,744 and 64.224.
PUBLISHED = [
    ({}, 50_986_176, 51_293_776, "223.13"),
    ({"preset": "seed_s"}, 34_401_696, 34_709_296, "63.86"),
    ({"preset": "official_s"}, 34_230_144, 34_537_744, "64.224"),
    (OFFICIAL, 50_922_528, 51_230_128, "224.47"),
    ({"class_token": True}, 50_986_368, 51_293_968, "223.28"),
    ({"class_token": True, "size": 312}, 51_269_376, 51_576_976, "612.6"),
    # timm's mvitv2_small has 34,101,216 in its backbone; kernels in time and tables of time add
    # 111,168 and 23,040
    (
        {"preset": "seed_s", "relative": True, "normed_skip": True, "kv_stride": 4},
        34_235_424,
        34_543_024,
        "104.40",
    ),
    ({"preset": "tiny"}, 569_400, 646_600, "0.054"),
]


@pytest.mark.parametrize("arguments, backbone, whole, printed", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(arguments, backbone, whole, printed):
    net = meta(**arguments)
    with torch.device("meta"):
        head = models.build_head("linear", net.out_channels, 400)
    assert parameters(net) == backbone and backbone + parameters(head) == whole
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head(
            net(
                torch.empty(1, 3, net.form.frames, net.form.size, net.form.size, device="meta")
            ).mean((2, 3, 4))
        )
    half_a_digit = 0.5 * 10 ** -len(printed.split(".")[1])
    assert abs(counter.get_total_flops() / 2e9 - float(printed)) <= half_a_digit


def test_a_class_token_costs_two_vectors():
    assert parameters(meta(class_token=True)) - parameters(meta()) == 192
    assert parameters(meta(relative=True, class_token=True)) - parameters(meta(relative=True)) == 96


@pytest.mark.parametrize(
    "arguments, depths, frames, pixels",
    [
        ({}, TABLE_2, 16, (56, 28, 14, 7)),
        ({"preset": "seed_s"}, (1, 2, 11, 2), 8, (56, 28, 14, 7)),
        ({"size": 312}, TABLE_2, 16, (78, 39, 20, 10)),
    ],
)
def test_stages_are_those_of_table_2(arguments, depths, frames, pixels):
    net, seen, keys = meta(**arguments), [], []
    for block in net.blocks:
        block.attention.register_forward_hook(
            lambda m, given, out: seen.append(
                (out.shape[1], out.shape[2], m.heads, m.project.in_features // m.heads, m.strides)
            )
        )
        block.attention.pool_k.register_forward_hook(
            lambda m, given, out: keys.append(out.shape[2])
        )
    assert net(
        torch.empty(1, 3, 2 * frames, 4 * pixels[0], 4 * pixels[0], device="meta")
    ).shape == (1, 768, frames, pixels[3], pixels[3])
    wanted, read = [], []
    for stage, (depth, size) in enumerate(zip(depths, pixels, strict=True)):
        for block in range(depth):
            first = stage > 0 and block == 0
            kv = 8 >> stage
            wanted.append(
                (
                    frames * size * size,
                    96 << stage,
                    1 << stage,
                    96,
                    ((1, 1 + first, 1 + first), (1, kv, kv)),
                )
            )
            read.append(frames * (-(-(pixels[stage - 1] if first else size) // kv)) ** 2)
    assert seen == wanted and keys == read
    assert [type(b.pool) for b in net.blocks if b.grows] == [PlaneMaxPool] * 3


def test_norms_have_the_sources_eps():
    counts = {
        name: Counter(m.eps for m in meta(**arguments).modules() if isinstance(m, nn.LayerNorm))
        for name, arguments in (("seed", {}), ("official", OFFICIAL))
    }
    assert counts == {"seed": {1e-6: 2 * 24 + 1, 1e-5: 3 * 24}, "official": {1e-6: 5 * 24 + 1}}


def test_first_weights():
    torch.manual_seed(0)
    net = models.build("mvit", preset="tiny", width=48, relative=True, class_token=True)
    for name, weight in net.named_parameters():
        if "norm" in name or name.endswith("bias") and "patches" not in name:
            assert (weight == float(name.endswith("weight"))).all(), name
        elif "conv" not in name and "patches" not in name and weight.numel() > 2000:
            assert (
                weight.std().item() == pytest.approx(0.02, rel=0.1) and weight.abs().max() < 0.2
            ), name
    absolute = models.build("mvit", preset="tiny")
    assert (
        absolute.space.std().item() == pytest.approx(0.02, rel=0.1)
        and absolute.time.abs().sum() > 0
    )


# ---- oracles -----------------------------------------------------------------------------------


def plain_pool(pool, x, grid):
    """Each head alone through the convolution, the class token unchanged, then the norm."""
    first, rows = x.shape[2] - prod(grid), []
    for head in x.unbind(1):
        maps = pool.conv(head[:, first:].transpose(1, 2).reshape(len(head), -1, *grid).contiguous())
        rows.append(torch.cat([head[:, :first], maps.flatten(2).transpose(1, 2)], 1))
    return pool.norm(torch.stack(rows, 1))


def plain_attention(net, x, grid):
    """softmax((q k + q r) / ...) v + q in loops over queries and keys (MViTv2, equations 1 to
    4)."""
    batch, heads = len(x), net.heads
    q, k, v = (
        part.reshape(batch, x.shape[1], heads, -1).transpose(1, 2)
        for part in net.qkv(x).chunk(3, 2)
    )
    q, k, v = (
        plain_pool(net.pool_q, q, grid),
        plain_pool(net.pool_k, k, grid),
        plain_pool(net.pool_v, v, grid),
    )
    grid_q, grid_k = (strided(grid, stride) for stride in net.strides)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    first = q.shape[2] - prod(grid_q)
    if net.relative is not None:
        for (i, at), (j, to) in product(
            *(enumerate(product(*map(range, g))) for g in (grid_q, grid_k))
        ):
            for axis in range(3):
                n, m, table = grid_q[axis], grid_k[axis], net.relative["thw"[axis]]
                distance = at[axis] * max(m / n, 1) - (to[axis] - m + 1) * max(n / m, 1)
                scores[:, :, first + i, first + j] += q[:, :, first + i] @ table[int(distance)]
    out = scores.softmax(-1) @ v
    out[:, :, first:] += q[:, :, first:]
    return net.project(out.transpose(1, 2).reshape(batch, -1, out.shape[1] * out.shape[3]))


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("token", [0, 1])
@pytest.mark.parametrize("q_stride, kv_stride", [(1, 4), (2, 2), (2, 1), (1, 1)])
def test_attention_is_the_plain_one(relative, token, q_stride, kv_stride):
    grid = (2, 4, 3)
    sides = zip(*(strided(grid, (1, s, s)) for s in (q_stride, kv_stride)), strict=True)
    tables = tuple(2 * max(pair) - 1 for pair in sides) if relative else None
    net = shaken(Attention(4, 8, 2, (q_stride, kv_stride), 1e-5, tables)).double()
    x = torch.randn(2, token + prod(grid), 4, dtype=torch.double, requires_grad=True)
    got, wanted = net(x, grid), plain_attention(net, x, grid)
    torch.testing.assert_close(got, wanted)
    probe, inputs = torch.randn_like(wanted), [x, *net.parameters()]
    pairs = zip(
        *(torch.autograd.grad((out * probe).sum(), inputs) for out in (got, wanted)), strict=True
    )
    for (name, _), (left, right) in zip([("x", x), *net.named_parameters()], pairs, strict=True):
        torch.testing.assert_close(left, right, msg=name)


def plain_net(net, clips, normed_skip):
    """The seed's net without class token, on contiguous maps, as the released code of MultiTrain
    goes."""
    x = net.patches(clips)
    grid = tuple(x.shape[2:])
    x = (
        x.flatten(2).transpose(1, 2)
        + (net.space[:, None] + net.time[:, :, None, None]).flatten(1).T
    )
    for block in net.blocks:
        normed, skip = block.norm1(x), x
        if block.grows:
            skip = (
                block.skip(normed if normed_skip else x)
                .transpose(1, 2)
                .reshape(len(x), -1, *grid)
                .contiguous()
            )
            skip = F.max_pool3d(skip, (1, 3, 3), (1, 2, 2), (0, 1, 1)).flatten(2).transpose(1, 2)
        x = skip + plain_attention(block.attention, normed, grid)
        x = x + block.mlp(block.norm2(x))
        grid = strided(grid, block.attention.strides[0])
    return net.norm(x).mean(1)


@torch.no_grad()
def test_the_net_is_the_plain_one_with_either_skip():
    clips = torch.randn(2, 3, 4, 40, 40, dtype=torch.double)
    pooled = []
    for normed_skip in (False, True):
        net = models.build(
            "mvit", **{**MINI, "size": 40}, depths=(1, 2, 1, 1), normed_skip=normed_skip
        )
        net = shaken(net).double()
        pooled.append(net(clips).mean((2, 3, 4)))
        torch.testing.assert_close(pooled[-1], plain_net(net, clips, normed_skip))
    assert (pooled[0] - pooled[1]).abs().max() > 0.1


def torchvision_net(relative, depths=(1, 2, 1, 1), width=8, heads=2, frames=4, size=32):
    """torchvision's class at the size of MINI."""
    blocks = [
        MSBlockConfig(
            heads << stage,
            width << (stage - 1 if stage and not index else stage),
            width << stage,
            [3, 3, 3],
            [3, 3, 3],
            [1, 2, 2] if stage and not index else [1, 1, 1],
            [1, max(8 >> stage, 1), max(8 >> stage, 1)],
        )
        for stage, depth in enumerate(depths)
        for index in range(depth)
    ]
    return torchvision.models.video.MViT((size, size), frames, blocks, True, False, relative, True)


@pytest.mark.parametrize("relative", [True, False])
def test_torchvisions_class_gives_the_same_outputs_and_gradients(relative):
    theirs = shaken(torchvision_net(relative)).double()
    ours = models.build(
        "mvit", **MINI, depths=(1, 2, 1, 1), **{**OFFICIAL, "relative": relative}
    ).double()
    state = {
        ours_for: value
        for name, value in theirs.state_dict().items()
        if (ours_for := torchvision_mvit_key(name))
    }
    if not relative:  # embeddings of theirs that no published file has
        at = theirs.pos_encoding
        state |= {
            "class_position": at.class_pos,
            "time": at.temporal_pos.T,
            "space": at.spatial_pos.T.unflatten(1, at.spatial_size),
        }
    ours.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith("head.")}
    )
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.double)
    theirs.head = nn.Identity()
    wanted, got = theirs(clips), ours.eval()(clips)
    assert got.shape == (2, 64, 1, 1, 1) and wanted.std() > 0.1
    torch.testing.assert_close(got.mean((2, 3, 4)), wanted)
    probe = torch.randn_like(wanted)
    (wanted * probe).sum().backward()
    (got.mean((2, 3, 4)) * probe).sum().backward()
    grads = {torchvision_mvit_key(name): weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in ours.named_parameters():
        if name in grads:
            torch.testing.assert_close(weight.grad, grads[name], msg=name)


def published_file(net, path):
    torch.save(net.state_dict(), path)
    return path


@torch.no_grad()
def test_torchvisions_mvit_v2_s_gives_the_same_scores(tmp_path):
    theirs = shaken(torchvision.models.video.mvit_v2_s())
    ours = models.build("mvit", preset="official_s").eval()
    read = load_published(ours, published_file(theirs, tmp_path / "s.pth"), "torchvision_mvit_v2_s")
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = (
        2,
        (16, 16),
    )  # both stretch as they go
    clips = torch.randn(2, 3, 4, 64, 64)
    scores, wanted = ours(clips).mean((2, 3, 4)) @ read.weight.T + read.bias, theirs(clips)
    assert read.classes == 400 and wanted.std() > 0.1
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-4)
    assert "every 4th of 30 per second" in read.report and "interpolated" not in read.report


def narrow_file(path, **arguments):
    """A file with mvit_v2_s's keys for a narrow net of 4 frames and 64 pixels; their net, too."""
    theirs = shaken(torchvision_net(True, (1, 2, 11, 2), heads=1, size=64, **arguments))
    return theirs, published_file(theirs, path)


SMALL = {"preset": "official_s", "width": 8, "frames": 4, "size": 64}


@pytest.mark.parametrize(
    "size, tables", [(96, 48), (88, 48)]
)  # as 312, 88 pixels leave odd grids: 22, 11, 6, 3
@torch.no_grad()
def test_published_weights_serve_clips_of_another_size(size, tables, tmp_path):
    theirs, path = narrow_file(tmp_path / "narrow.pth")
    ours = models.build("mvit", **{**SMALL, "frames": 8, "size": size}).eval()
    read = load_published(ours, path, "torchvision_mvit_v2_s")
    assert read.report.endswith(
        f"Position embeddings were interpolated for 8 frames of {size} pixels: {tables} tables "
        "of relative positions."
    )
    # theirs stretch as they go
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = 4, (size // 4, size // 4)
    clips = torch.randn(1, 3, 8, size, size)
    scores = ours(clips).mean((2, 3, 4)) @ read.weight.T + read.bias
    torch.testing.assert_close(scores, theirs(clips), atol=1e-4, rtol=1e-4)


def test_torchvisions_weights_start_a_net_for_32_frames_of_312_pixels(tmp_path):
    theirs = torchvision.models.video.mvit_v2_s()
    ours = models.build("mvit", preset="official_s", frames=32, size=312)
    read = load_published(ours, published_file(theirs, tmp_path / "s.pth"), "torchvision_mvit_v2_s")
    assert (
        "interpolated for 32 frames of 312 pixels: 48 tables of relative positions." in read.report
    )
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        if "rel_pos" in name:
            wanted = F.interpolate(
                value.T[None], state[torchvision_mvit_key(name)].shape[0], mode="linear"
            )[0].T
            torch.testing.assert_close(state[torchvision_mvit_key(name)], wanted, msg=name)
        elif not name.startswith("head."):
            assert torch.equal(state[torchvision_mvit_key(name)], value), name
    sides = {name: len(value) for name, value in state.items() if ".relative." in name}
    assert {sides[name] for name in sides if name.endswith("t")} == {31}
    assert [sides[f"blocks.{block}.attention.relative.h"] for block in (0, 1, 3, 14)] == [
        155,
        77,
        39,
        39,
    ]


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"normed_skip": False}, "Its normed_skip is True, the network's False"),
        ({"kv_stride": 4}, "Its kv_stride is 8, the network's 4"),
        ({"pool_eps": 1e-5}, r"Its norms have eps 1e-06, the network's \[1e-06, 1e-05\]"),
        ({"class_token": False}, r"does not \(1\): class_token"),
        ({"relative": False}, r"does not \(48\)"),
        ({"preset": "seed_s"}, r"models.build\('mvit', preset='official_s'\)"),
        ({"width": 16}, r"Of another shape \(396\): class_token \[8\] for \[16\]"),
        ({"heads": 2}, "Of another shape"),
        ({"depths": (1, 2, 10, 2)}, "and the network does not"),
    ],
)
def test_published_weights_are_refused_where_settings_differ(arguments, says, tmp_path):
    _, path = narrow_file(tmp_path / "narrow.pth")
    net = models.build("mvit", **{**SMALL, **arguments})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=says):
        load_published(net, path, "torchvision_mvit_v2_s")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# ---- other sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, {"class_token": True}, OFFICIAL])
@torch.no_grad()
def test_a_state_at_another_size_is_what_the_net_saw_there(form):
    net = shaken(models.build("mvit", **MINI, **form))
    state = net.state_dict()
    same, said = net.resized_state(state)
    assert said == "" and all(same[name] is state[name] for name in state)
    large = models.build("mvit", **{**MINI, "frames": 10, "size": 56}, **form).eval()
    changed, said = large.resized_state(state)
    large.load_state_dict(changed)
    assert said == "Position embeddings were interpolated for 10 frames of 56 pixels: " + (
        "12 tables of relative positions."
        if form is OFFICIAL
        else "space from 8x8 to 14x14, time from 2 to 5."
    )
    clips = torch.randn(2, 3, 10, 56, 56)
    torch.testing.assert_close(large(clips), net(clips), atol=1e-5, rtol=1e-5)
    assert net(torch.randn(1, 3, 5, 50, 70)).shape == (1, 64, *((1, 1, 1) if form else (3, 2, 3)))


def test_embeddings_are_stretched_linearly():
    torch.testing.assert_close(
        stretched(torch.tensor([[0.0, 1.0]]), [4]), torch.tensor([[0, 0.25, 0.75, 1]])
    )
    ramp = torch.arange(8.0).expand(1, 8, 8)
    wide = stretched(ramp + 10 * ramp.mT, (16, 16))
    torch.testing.assert_close(wide[0, 1:-1, 1:-1].diff(dim=1), torch.full((14, 13), 0.5))
    torch.testing.assert_close(wide[0, 1:-1, 1:-1].diff(dim=0), torch.full((13, 14), 5.0))
    assert stretched(ramp, (8, 8)) is ramp
    assert stretched(ramp.half(), (4, 4)).dtype == torch.half


def test_a_state_of_another_width_is_left_for_loading_to_refuse():
    net = models.build("mvit", **{**MINI, "size": 64})
    state, said = net.resized_state(models.build("mvit", **{**MINI, "width": 16}).state_dict())
    assert said == "" and state["space"].shape == (16, 8, 8)
    with pytest.raises(RuntimeError, match="size mismatch for space"):
        net.load_state_dict(state)
    assert net.resized_state({"other": torch.ones(2)})[1] == ""


# ---- inflation ---------------------------------------------------------------------------------

IMAGE = {**MINI, "frames": 1}
PLAIN, RELATIVE, TOKEN = {}, {"relative": True, "normed_skip": True}, {"class_token": True}


def still(images, frames):
    return images[:, :, None].expand(-1, -1, frames, -1, -1)


@pytest.mark.parametrize("form", [PLAIN, RELATIVE, TOKEN, OFFICIAL])
def test_a_net_for_one_frame_is_the_2d_net(form):
    net, seen, learned = shaken(models.build("mvit", **{**IMAGE, "size": 64}, **form)), [], 0
    for conv in net.modules():
        if isinstance(conv, nn.Conv3d):
            conv.register_forward_hook(lambda m, given, out: seen.append((m, given[0], out)))
    net(torch.randn(2, 3, 1, 64, 64)).square().sum().backward()
    assert len(seen) == 1 + 3 * 4
    for conv, given, out in seen:
        flat = F.conv2d(
            given[:, :, 0],
            conv.weight[:, :, 1],
            conv.bias,
            conv.stride[1:],
            conv.padding[1:],
            1,
            conv.groups,
        )
        assert given.shape[2] == out.shape[2] == 1
        torch.testing.assert_close(out[:, :, 0], flat, atol=1e-5, rtol=1e-5)
        grads = conv.weight.grad.abs().amax((0, 1, 3, 4))
        assert grads[0] == grads[2] == 0  # the outer slices learn nothing
        learned += (grads[1] > 0).item()
    assert learned == 13 - (
        "class_token" in form
    )  # of the last queries the token alone counts, which passes the pool


@pytest.mark.parametrize(
    "form, frames, size",
    [
        (PLAIN, 8, 32),
        (RELATIVE, 8, 32),
        (PLAIN, 1, 32),
        (PLAIN, 7, 48),
        (RELATIVE, 7, 48),
        (TOKEN, 2, 32),
        (OFFICIAL, 2, 32),
        ({**OFFICIAL, "token_query": True}, 2, 48),
    ],
)
@torch.no_grad()
def test_a_still_clip_gives_the_frames_features(form, frames, size):
    images = torch.randn(2, 3, size, size)
    one = shaken(models.build("mvit", **IMAGE, **form))
    wanted = one(images[:, :, None])
    net = models.build("mvit", **{**MINI, "frames": frames, "size": size}, **form).eval()
    state, said = net.inflated_state(one.state_dict())
    net.load_state_dict(state)
    got = net(still(images, frames))
    assert (
        got.shape[2] == (1 if net.class_token is not None else -(-frames // 2))
        and wanted.std() > 0.1
    )
    torch.testing.assert_close(got, wanted.expand_as(got), atol=1e-4, rtol=1e-4)
    time = "4 tables of time start" if form.get("relative") else "the embedding of time starts"
    assert said.startswith(
        f"Inflated from one frame to {frames}: 13 kernels stand in the middle slice, zeros around, "
        f"{time} the same at each position."
    )
    assert ("interpolated" in said) == (size != 32) and set(state) == set(one.state_dict())


@torch.no_grad()
def test_against_more_times_a_class_token_weighs_less():
    one = shaken(models.build("mvit", **IMAGE, **OFFICIAL))
    net = models.build("mvit", **{**MINI, "frames": 8}, **OFFICIAL).eval()
    net.load_state_dict(net.inflated_state(one.state_dict())[0])
    images = torch.randn(2, 3, 32, 32)
    assert (net(still(images, 8)) - one(images[:, :, None])).abs().max() > 1e-3


def test_slices_of_inflated_kernels():
    kernel = torch.randn(4, 2, 3, 7, 7)
    center, mean = inflated(kernel, 3, "center"), inflated(kernel, 5, "mean")
    assert torch.equal(center[:, :, 1], kernel[:, :, 1]) and not center[:, :, ::2].any()
    assert mean.shape == (4, 2, 5, 7, 7) and all(
        torch.equal(mean[:, :, t], kernel[:, :, 1] / 5) for t in range(5)
    )
    lone = torch.randn(4, 2, 1, 3, 3)  # of a 2-D net
    assert torch.equal(inflated(lone, 3, "center")[:, :, 1:2], lone) and torch.equal(
        inflated(lone, 1, "mean"), lone
    )


@torch.no_grad()
def test_mean_is_the_frames_own_inside_a_still_clip_and_less_at_its_start():
    one = shaken(models.build("mvit", **IMAGE))
    net = models.build("mvit", **{**MINI, "frames": 8})
    state, said = net.inflated_state(one.state_dict(), "mean")
    net.load_state_dict(state)
    assert (
        "13 kernels are spread evenly over their slices, the embedding of time starts the same"
        in said
    )
    images = torch.randn(2, 3, 32, 32)
    wanted, bias = one.patches(images[:, :, None]), one.patches.bias[:, None, None, None]
    got = net.patches(
        still(images, 8)
    )  # with padding of one frame at each end and stride 2, the start alone sees it
    assert got.shape[2] == 4
    torch.testing.assert_close(
        got[:, :, 1:], wanted.expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(got[:, :, :1] - bias, (wanted - bias) * 2 / 3, atol=1e-5, rtol=1e-5)
    pool, flat = net.blocks[0].attention.pool_k.conv, one.blocks[0].attention.pool_k.conv
    maps = torch.randn(2, 4, 8, 8)
    inner = pool(still(maps, 6))[:, :, 1:-1]
    torch.testing.assert_close(inner, flat(maps[:, :, None]).expand_as(inner), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inflation, share", [("center", 1), ("mean", 3)])
def test_inflation_keeps_all_but_kernels_and_time(inflation, share):
    one = shaken(models.build("mvit", **IMAGE, **RELATIVE)).state_dict()
    net = models.build("mvit", **{**MINI, "frames": 8}, **RELATIVE)
    state, _ = net.inflated_state(one, inflation)
    kernels = [name for name in one if one[name].dim() == 5]
    changed = {name for name in one if state[name] is not one[name]}
    assert changed == {*kernels, *(name for name in one if name.endswith("relative.t"))}
    weights = sum(one[name].numel() for name in kernels)
    assert sum(state[name].count_nonzero().item() for name in kernels) == weights * share // 3
    for name in kernels:
        torch.testing.assert_close(state[name].sum(2), one[name][:, :, 1], msg=name)
    assert {state[name].shape[0] for name in changed if name.endswith(".t")} == {7}


def test_a_run_on_single_frames_goes_on_as_one_on_eight():
    pictures, label = torch.randn(8, 3, 1, 64, 64), torch.arange(8) % 2
    one = models.build("mvit", preset="tiny", frames=1)
    head = models.build_head("linear", one.out_channels, 2)
    net, losses = models.build("mvit", preset="tiny", frames=8), []
    for model, clips in ((one, pictures), (net, still(pictures[:, :, 0], 8).contiguous())):
        if model is net:
            net.load_state_dict(net.inflated_state(one.state_dict())[0])
        learned = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
        for _ in range(6):
            loss = F.cross_entropy(head(model(clips).mean((2, 3, 4))), label)
            learned.zero_grad()
            loss.backward()
            learned.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(F.cross_entropy(head(model(clips).mean((2, 3, 4))), label).item())
    assert losses[7] == pytest.approx(losses[6], rel=1e-4) and losses[6] < 0.6 * losses[0]
    assert losses[-1] < losses[7]
    assert net.patches.weight[:, :, ::2].abs().min() > 0  # what stood at zero learns


def test_states_that_are_not_of_one_frame_are_refused():
    net = models.build("mvit", **{**MINI, "frames": 8})
    one = models.build("mvit", **IMAGE).state_dict()
    with pytest.raises(ValueError, match=r"one of \('center', 'mean'\); got 'repeat'"):
        net.inflated_state(one, "repeat")
    with pytest.raises(
        ValueError, match="an image net or a net for one frame; time has 2 entries.*resized_state"
    ):
        net.inflated_state(models.build("mvit", **MINI).state_dict())
    long = models.build("mvit", **{**MINI, **RELATIVE})
    with pytest.raises(ValueError, match="blocks.0.attention.relative.t has 3 entries, not 1"):
        long.inflated_state(long.state_dict())
    wide = models.build("mvit", **{**IMAGE, "width": 16}).state_dict()
    with pytest.raises(
        RuntimeError, match="size mismatch for time: .*16, 4.* shape in current model is .*8, 4"
    ):
        net.load_state_dict(net.inflated_state(wide)[0])
    with pytest.raises(
        RuntimeError,
        match='Missing key.* "blocks.0.attention.relative.t", (.|\n)*Unexpected.*"time"',
    ):
        long.load_state_dict(long.inflated_state(one)[0])
    assert net.inflated_state({"other": torch.ones(2)})[0].keys() == {"other"}


# timm's image nets: their layout and their computation in two dimensions, written down here, and
# timm itself if there

TIMM = {"timm_mvitv2_small": ((1, 2, 11, 2), False), "timm_mvitv2_base_cls": ((2, 3, 16, 3), True)}


def timm_state(depths, token, width=8, size=64):
    """Random weights in the layout of timm's mvitv2 nets, narrow and for small images, with 5
    classes."""
    shapes = {"patch_embed.proj.weight": (width, 3, 7, 7), "patch_embed.proj.bias": (width,)}
    if token:
        shapes["cls_token"] = (1, 1, width)
    side, channels = size // 4, width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            at, inputs, channels = f"stages.{stage}.blocks.{block}.", channels, width << stage
            first = stage > 0 and block == 0
            keys, side = side // max(4 >> stage, 1), side // 2 if first else side
            for name, (out, given) in {
                "attn.qkv": (3 * channels, inputs),
                "attn.proj": (channels, channels),
                "mlp.fc1": (4 * channels, channels),
                "mlp.fc2": (channels, 4 * channels),
                **({"shortcut_proj_attn": (channels, inputs)} if first else {}),
            }.items():
                shapes |= {f"{at}{name}.weight": (out, given), f"{at}{name}.bias": (out,)}
            norms = {
                "norm1": inputs,
                "norm2": channels,
                "attn.norm_q": width,
                "attn.norm_k": width,
                "attn.norm_v": width,
            }
            shapes |= {
                f"{at}{name}.{part}": (n,)
                for name, n in norms.items()
                for part in ("weight", "bias")
            }
            shapes |= {f"{at}attn.pool_{letter}.weight": (width, 1, 3, 3) for letter in "qkv"}
            shapes |= {
                f"{at}attn.rel_pos_{axis}": (2 * max(side, keys) - 1, width) for axis in "hw"
            }
    shapes |= {
        "norm.weight": (channels,),
        "norm.bias": (channels,),
        "head.fc.weight": (5, channels),
        "head.fc.bias": (5,),
    }
    scale = {name: 0.4 if "rel_pos" in name or "cls" in name else 0.15 for name in shapes}
    return {
        name: (
            torch.randn(shape) * scale[name] + ("norm" in name and name.endswith("weight"))
        ).double()
        for name, shape in shapes.items()
    }


def plain_image_net(state, depths, images):
    """Features [B,N,D] of a state in timm's layout, by 2-D operations; a class token is the first
    of them."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 4, 3)
    side, x = x.shape[2], x.flatten(2).transpose(1, 2)
    first = int("cls_token" in state)
    if first:
        x = torch.cat([state["cls_token"].expand(len(x), 1, -1), x], 1)

    def on_maps(function, tokens):
        maps = function(tokens[:, first:].transpose(1, 2).unflatten(2, (side, side)))
        return torch.cat([tokens[:, :first], maps.flatten(2).transpose(1, 2)], 1)

    for stage, depth in enumerate(depths):
        for block in range(depth):
            at, heads = f"stages.{stage}.blocks.{block}.", 1 << stage
            own = {
                name.removeprefix(at): value for name, value in state.items() if name.startswith(at)
            }
            q_stride, kv_stride = 2 if stage and not block else 1, max(4 >> stage, 1)

            def linear(name, tokens, own=own):
                return F.linear(tokens, own[f"{name}.weight"], own[f"{name}.bias"])

            def norm(name, tokens, own=own):
                return F.layer_norm(
                    tokens, tokens.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"], 1e-6
                )

            normed = norm("norm1", x)
            parts = (
                linear("attn.qkv", normed)
                .unflatten(2, (3, heads, -1))
                .permute(2, 0, 3, 1, 4)
                .flatten(1, 2)
            )
            pooled = []
            for letter, part, stride in zip(
                "qkv", parts, (q_stride, kv_stride, kv_stride), strict=True
            ):
                weight = own[f"attn.pool_{letter}.weight"]
                part = on_maps(
                    lambda maps, w=weight, s=stride: F.conv2d(maps, w, None, s, 1, 1, len(w)), part
                )
                pooled.append(norm(f"attn.norm_{letter}", part))
            q, k, v = pooled
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            new, keys = side // q_stride, side // kv_stride
            for (i, (y, w)), (j, (to_y, to_w)) in product(
                *(enumerate(product(range(n), repeat=2)) for n in (new, keys))
            ):
                for axis, here, there in (("h", y, to_y), ("w", w, to_w)):
                    row = here * max(keys / new, 1) - (there - keys + 1) * max(new / keys, 1)
                    add = q[:, first + i] @ own[f"attn.rel_pos_{axis}"][int(row)]
                    scores[:, first + i, first + j] += add
            out = scores.softmax(2) @ v + q
            out = linear(
                "attn.proj", out.unflatten(0, (len(images), heads)).transpose(1, 2).flatten(2)
            )
            if "shortcut_proj_attn.weight" in own:
                x = on_maps(
                    lambda maps: F.max_pool2d(maps, 3, 2, 1), linear("shortcut_proj_attn", normed)
                )
            x, side = x + out, new
            x = x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))
    return F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)


@pytest.mark.parametrize("source", TIMM)
@torch.no_grad()
def test_timms_image_nets_give_the_same_features_on_a_still_clip(source, tmp_path):
    depths, token = TIMM[source]
    state = timm_state(depths, token, size=32)
    torch.save(state, tmp_path / "image.pth")
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    wanted = plain_image_net(state, depths, images)
    wanted = (
        wanted[:, :1, :, None, None].transpose(1, 2)
        if token
        else wanted.transpose(1, 2)[:, :, None, None]
    )
    for frames in (1, 2) if token else (1, 6):
        net = models.build(
            "mvit", **SOURCES[source].arguments, **{"width": 8, "size": 32, "frames": frames}
        ).double()
        read = load_published(net.eval(), tmp_path / "image.pth", source)
        got = net(still(images, frames))
        torch.testing.assert_close(got, wanted.expand_as(got))
    assert torch.equal(read.weight, state["head.fc.weight"]) and wanted.std() > 0.1


@pytest.mark.parametrize("source", TIMM)
@torch.no_grad()
def test_the_plain_image_net_is_timms(source):
    timm = pytest.importorskip(
        "timm.models.mvitv2", reason="timm is no dependency; where it is, its class is compared"
    )
    depths, token = TIMM[source]
    state = timm_state(depths, token)
    config = timm.MultiScaleVitCfg(depths=depths, embed_dim=8, num_heads=1, use_cls_token=token)
    theirs = timm.MultiScaleVit(config, img_size=64, num_classes=5).double().eval()
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    torch.testing.assert_close(
        plain_image_net(state, depths, images), theirs.forward_features(images)
    )


# ---- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, OFFICIAL])
def test_checkpointing_gives_the_same_gradients(form, monkeypatch):
    clips, grads, calls = torch.randn(3, 3, 4, 32, 32), [], []
    module = sys.modules[MViT.__module__]
    real = module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: calls.append(a) or real(*a, **k))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = models.build(
            "mvit", **MINI, **form, stochastic_depth=0.5, checkpointing=checkpointing
        )
        torch.manual_seed(1)
        net.train()(clips).square().sum().backward()
        grads.append({name: weight.grad for name, weight in net.named_parameters()})
        assert len(calls) == 4 * checkpointing
        with torch.no_grad():
            net(clips), net.eval()(clips)
        net(clips)
        assert len(calls) == 4 * checkpointing  # for training alone
    for name, grad in grads[0].items():
        assert grad is not None and torch.equal(grad, grads[1][name]), name


def test_stochastic_depth_grows_linearly_drops_rows_and_rests_in_evaluation():
    for preset, last in (("seed_b", 0.1), ("seed_s", 0.2), ("official_s", 0.2), ("tiny", 0.0)):
        rates = [block.stochastic_depth.p for block in meta(preset=preset).blocks]
        assert rates == pytest.approx(torch.linspace(0, last, len(rates)).tolist())
    torch.manual_seed(0)
    net, seen = models.build("mvit", **MINI, stochastic_depth=0.75), []
    for block in net.blocks:
        block.stochastic_depth.register_forward_hook(
            lambda m, given, out: seen.append((m.p, given[0], out))
        )
    clips = torch.randn(16, 3, 4, 32, 32)
    net.train()(clips)
    assert len(seen) == 8 and torch.equal(seen[0][1], seen[0][2])
    for rate, branch, out in seen[2:]:
        kept = out.flatten(1).any(1)
        torch.testing.assert_close(out[kept], branch[kept] / (1 - rate))
        assert 0 < kept.sum() < 16 and not out[~kept].any()
    seen.clear()
    first, second = net.eval()(clips), net(clips)
    assert torch.equal(first, second) and all(out is branch for _, branch, out in seen)


@pytest.mark.parametrize("form", [{}, OFFICIAL])
def test_bfloat16_and_single_clips(form):
    net = shaken(models.build("mvit", **MINI, **form))
    clips = torch.randn(3, 3, 4, 32, 32)
    with torch.no_grad():
        wanted = net(clips)
        torch.testing.assert_close(net(clips[1:2]), wanted[1:2], atol=1e-4, rtol=1e-4)
    grads = []
    for enabled in (False, True, True, True):  # garbage would not be the same each time
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            got = net(clips)
        got.float().square().sum().backward()
        grads.append([weight.grad.flatten() for weight in net.parameters()])
    assert F.cosine_similarity(got.flatten(1), wanted.flatten(1)).min() > 0.99
    for (name, _), exact, *rough in zip(net.named_parameters(), *grads, strict=True):
        for grad in rough:
            assert F.cosine_similarity(grad, exact, dim=0) > 0.9 or exact.norm() < 1e-3, name


@pytest.mark.parametrize("form", [{}, OFFICIAL])
def test_the_tiny_form_learns_a_few_clips_by_heart(form):
    losses = []
    for steps in (7, 2):  # the same twice
        torch.manual_seed(0)
        net = models.build("mvit", preset="tiny", **form)
        head = models.build_head("linear", net.out_channels, 2)
        clips, label = torch.randn(8, 3, 8, 64, 64), torch.arange(8) % 2
        learned = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=1e-3)
        losses.append([])
        for _ in range(steps):
            loss = F.cross_entropy(head(net(clips).mean((2, 3, 4))), label)
            learned.zero_grad()
            loss.backward()
            learned.step()
            losses[-1].append(loss.item())
    assert net.out_channels == 192 and losses[0][:2] == losses[1]
    assert losses[0][-1] < 0.5 * losses[0][0]


# ---- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"preset": "mine"}, r"preset is one of \['official_s', 'seed_b', 'seed_s', 'tiny'\]"),
        (
            {"drop_path": 0.1},
            "unknown .'drop_path'.; its arguments are .*checkpointing.*kv_stride.*stochastic_depth",
        ),
        ({"depths": (1, 1, 1)}, "four numbers"),
        ({"depths": (1, 1, 0, 1)}, "four numbers"),
        ({"depths": 4}, "four"),
        ({"width": 0}, "width is a whole number"),
        ({"heads": 1.5}, "heads is a whole"),
        ({"size": "224"}, "size is"),
        ({"frames": -8}, "frames is"),
        ({"kv_stride": 0}, "kv_stride is"),
        ({"heads": 5}, "width is a multiple of heads"),
        ({"relative": "yes"}, "relative is true or false"),
        ({"token_query": True}, "it needs class_token=True"),
        ({"stochastic_depth": 1.0}, "under 1"),
        ({"pool_eps": 0}, "pool_eps over 0"),
    ],
)
def test_odd_requests_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        meta(**arguments)


def test_arguments_may_come_from_json():
    net = meta(preset="tiny", depths=[1, 1, 2, 1], checkpointing=True)
    assert (
        isinstance(net, MViT)
        and len(net.blocks) == 5
        and net.checkpointing
        and net.form.depths == (1, 1, 2, 1)
    )


# ---- precision ---------------------------------------------------------------------------------


class Float32(TorchDispatchMode):
    """Notes operations with a float32 feature of 5 clips as a result; statistics are not features."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple) else (out,):
            if isinstance(one, torch.Tensor) and one.dtype == torch.float32 and one.dim() > 2:
                feature = one.shape[0] % 5 == 0 and one.shape[-1] > 1
                self.found += [str(op)] * (feature and "attention" not in str(op))
        return out


def test_norms_of_autocast_leave_no_feature_in_float32():
    found, outputs, clips = {}, {}, torch.randn(5, 3, 4, 32, 32)
    for norms in ("float32", "autocast"):
        torch.manual_seed(1)
        net = models.build("mvit", **MINI, norms=norms)
        with Float32() as features:
            with torch.autocast("cpu", torch.bfloat16):
                half = net(clips)
            half.backward(torch.ones_like(half))
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        found[norms], outputs[norms] = features.found, net(clips).detach()
        half = half.detach().float()
    assert found["float32"] and not found["autocast"]
    torch.testing.assert_close(outputs["autocast"], outputs["float32"])  # without autocast
    assert float((half - outputs["float32"]).norm() / half.norm()) < 0.03  # products round, too
    with pytest.raises(ValueError, match="norms is one of .*'bfloat16'"):
        meta(preset="tiny", norms="bfloat16")
