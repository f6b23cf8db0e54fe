"""MViTv2: exact sizes, plain loops and torchvision as oracles, embeddings at other sizes, a tiny form that learns."""

import sys
from collections import Counter
from itertools import product
from math import prod

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.mvit import MSBlockConfig

from vidbench import models
from vidbench.models.mvit import Attention, MViT, stretched, strided
from vidbench.models.planes import PlaneMaxPool
from vidbench.models.published import load_published, torchvision_mvit_key

OFFICIAL = {"relative": True, "class_token": True, "normed_skip": True, "pool_eps": 1e-6}
MINI = {"preset": "tiny", "width": 8, "heads": 2, "frames": 4, "size": 32}
TABLE_2 = (2, 3, 16, 3)
pytestmark = pytest.mark.usefixtures("one_thread")


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
        elif any(part in name for part in ("relative", "rel_pos", "space", "spatial", "time", "temporal")):
            nn.init.normal_(weight, std=0.4)
        else:
            nn.init.normal_(weight, std=0.1)
    return net.eval()


# ---- sizes -------------------------------------------------------------------------------------------------------

# Backbone's parameters, those with a linear layer for 400 classes, and GMAC of one clip, to the digits given. Counted
# on the released code of MultiTrain and on torchvision's classes; torchvision's own metadata has 34,537,744 and 64.224.
PUBLISHED = [
    ({}, 50_986_176, 51_293_776, "223.13"),
    ({"preset": "seed_s"}, 34_401_696, 34_709_296, "63.86"),
    ({"preset": "official_s"}, 34_230_144, 34_537_744, "64.224"),
    (OFFICIAL, 50_922_528, 51_230_128, "224.47"),
    ({"class_token": True}, 50_986_368, 51_293_968, "223.28"),
    ({"class_token": True, "size": 312}, 51_269_376, 51_576_976, "612.6"),
    ({"preset": "tiny"}, 569_400, 646_600, "0.054"),
]


@pytest.mark.parametrize("arguments, backbone, whole, printed", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(arguments, backbone, whole, printed):
    net = meta(**arguments)
    with torch.device("meta"):
        head = models.build_head("linear", net.out_channels, 400)
    assert parameters(net) == backbone and backbone + parameters(head) == whole
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head(net(torch.empty(1, 3, net.form.frames, net.form.size, net.form.size, device="meta")).mean((2, 3, 4)))
    half_a_digit = 0.5 * 10 ** -len(printed.split(".")[1])
    assert abs(counter.get_total_flops() / 2e9 - float(printed)) <= half_a_digit


def test_a_class_token_costs_two_vectors():
    assert parameters(meta(class_token=True)) - parameters(meta()) == 192
    assert parameters(meta(relative=True, class_token=True)) - parameters(meta(relative=True)) == 96


@pytest.mark.parametrize("arguments, depths, frames, pixels", [
    ({}, TABLE_2, 16, (56, 28, 14, 7)), ({"preset": "seed_s"}, (1, 2, 11, 2), 8, (56, 28, 14, 7)),
    ({"size": 312}, TABLE_2, 16, (78, 39, 20, 10))])
def test_stages_are_those_of_table_2(arguments, depths, frames, pixels):
    net, seen, keys = meta(**arguments), [], []
    for block in net.blocks:
        block.attention.register_forward_hook(lambda m, given, out: seen.append(
            (out.shape[1], out.shape[2], m.heads, m.project.in_features // m.heads, m.strides)))
        block.attention.pool_k.register_forward_hook(lambda m, given, out: keys.append(out.shape[2]))
    assert net(torch.empty(1, 3, 2 * frames, 4 * pixels[0], 4 * pixels[0], device="meta")).shape == (
        1, 768, frames, pixels[3], pixels[3])
    wanted, read = [], []
    for stage, (depth, size) in enumerate(zip(depths, pixels, strict=True)):
        for block in range(depth):
            first = stage > 0 and block == 0
            kv = 8 >> stage
            wanted.append((frames * size * size, 96 << stage, 1 << stage, 96, ((1, 1 + first, 1 + first), (1, kv, kv))))
            read.append(frames * (-(-(pixels[stage - 1] if first else size) // kv)) ** 2)
    assert seen == wanted and keys == read
    assert [type(b.pool) for b in net.blocks if b.grows] == [PlaneMaxPool] * 3


def test_norms_have_the_sources_eps():
    counts = {name: Counter(m.eps for m in meta(**arguments).modules() if isinstance(m, nn.LayerNorm))
              for name, arguments in (("seed", {}), ("official", OFFICIAL))}
    assert counts == {"seed": {1e-6: 2 * 24 + 1, 1e-5: 3 * 24}, "official": {1e-6: 5 * 24 + 1}}


def test_first_weights():
    torch.manual_seed(0)
    net = models.build("mvit", preset="tiny", width=48, relative=True, class_token=True)
    for name, weight in net.named_parameters():
        if "norm" in name or name.endswith("bias") and "patches" not in name:
            assert (weight == float(name.endswith("weight"))).all(), name
        elif "conv" not in name and "patches" not in name and weight.numel() > 2000:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1) and weight.abs().max() < 0.2, name
    absolute = models.build("mvit", preset="tiny")
    assert absolute.space.std().item() == pytest.approx(0.02, rel=0.1) and absolute.time.abs().sum() > 0


# ---- oracles -----------------------------------------------------------------------------------------------------


def plain_pool(pool, x, grid):
    """Each head alone through the convolution, the class token beside it, then the norm."""
    first, rows = x.shape[2] - prod(grid), []
    for head in x.unbind(1):
        maps = pool.conv(head[:, first:].transpose(1, 2).reshape(len(head), -1, *grid).contiguous())
        rows.append(torch.cat([head[:, :first], maps.flatten(2).transpose(1, 2)], 1))
    return pool.norm(torch.stack(rows, 1))


def plain_attention(net, x, grid):
    """softmax((q k + q r) / ...) v + q in loops over queries and keys (MViTv2, equations 1 to 4)."""
    batch, heads = len(x), net.heads
    q, k, v = (part.reshape(batch, x.shape[1], heads, -1).transpose(1, 2) for part in net.qkv(x).chunk(3, 2))
    q, k, v = plain_pool(net.pool_q, q, grid), plain_pool(net.pool_k, k, grid), plain_pool(net.pool_v, v, grid)
    grid_q, grid_k = (strided(grid, stride) for stride in net.strides)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    first = q.shape[2] - prod(grid_q)
    if net.relative is not None:
        for (i, at), (j, to) in product(*(enumerate(product(*map(range, g))) for g in (grid_q, grid_k))):
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
    pairs = zip(*(torch.autograd.grad((out * probe).sum(), inputs) for out in (got, wanted)), strict=True)
    for (name, _), (left, right) in zip([("x", x), *net.named_parameters()], pairs, strict=True):
        torch.testing.assert_close(left, right, msg=name)


def plain_net(net, clips, normed_skip):
    """The seed's net without class token, on contiguous maps, as the released code of MultiTrain goes."""
    x = net.patches(clips)
    grid = tuple(x.shape[2:])
    x = x.flatten(2).transpose(1, 2) + (net.space[:, None] + net.time[:, :, None, None]).flatten(1).T
    for block in net.blocks:
        normed, skip = block.norm1(x), x
        if block.grows:
            skip = block.skip(normed if normed_skip else x).transpose(1, 2).reshape(len(x), -1, *grid).contiguous()
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
        net = models.build("mvit", **{**MINI, "size": 40}, depths=(1, 2, 1, 1), normed_skip=normed_skip)
        net = shaken(net).double()
        pooled.append(net(clips).mean((2, 3, 4)))
        torch.testing.assert_close(pooled[-1], plain_net(net, clips, normed_skip))
    assert (pooled[0] - pooled[1]).abs().max() > 0.1


def torchvision_net(relative, depths=(1, 2, 1, 1), width=8, heads=2, frames=4, size=32):
    """torchvision's class at the size of MINI."""
    blocks = [MSBlockConfig(heads << stage, width << (stage - 1 if stage and not index else stage), width << stage,
                            [3, 3, 3], [3, 3, 3], [1, 2, 2] if stage and not index else [1, 1, 1],
                            [1, max(8 >> stage, 1), max(8 >> stage, 1)])
              for stage, depth in enumerate(depths) for index in range(depth)]
    return torchvision.models.video.MViT((size, size), frames, blocks, True, False, relative, True)


@pytest.mark.parametrize("relative", [True, False])
def test_torchvisions_class_gives_the_same_outputs_and_gradients(relative):
    theirs = shaken(torchvision_net(relative)).double()
    ours = models.build("mvit", **MINI, depths=(1, 2, 1, 1), **{**OFFICIAL, "relative": relative}).double()
    state = {ours_for: value for name, value in theirs.state_dict().items() if (ours_for := torchvision_mvit_key(name))}
    if not relative:  # embeddings of theirs that no published file has
        at = theirs.pos_encoding
        state |= {"class_position": at.class_pos, "time": at.temporal_pos.T,
                  "space": at.spatial_pos.T.unflatten(1, at.spatial_size)}
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("head.")})
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
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = 2, (16, 16)  # both stretch as they go
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


@torch.no_grad()
def test_published_weights_serve_clips_of_another_size(tmp_path):
    theirs, path = narrow_file(tmp_path / "narrow.pth")
    ours = models.build("mvit", **{**SMALL, "frames": 8, "size": 96}).eval()
    read = load_published(ours, path, "torchvision_mvit_v2_s")
    assert read.report.endswith("Position embeddings were interpolated for 8 frames of 96 pixels: 48 tables of "
                                "relative positions.")
    theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = 4, (24, 24)  # theirs stretch as they go
    clips = torch.randn(1, 3, 8, 96, 96)
    scores = ours(clips).mean((2, 3, 4)) @ read.weight.T + read.bias
    torch.testing.assert_close(scores, theirs(clips), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arguments, says", [
    ({"normed_skip": False}, "Its normed_skip is True, the network's False"),
    ({"kv_stride": 4}, "Its kv_stride is 8, the network's 4"),
    ({"pool_eps": 1e-5}, r"Its norms have eps 1e-06, the network's \[1e-06, 1e-05\]"),
    ({"class_token": False}, r"does not \(1\): class_token"), ({"relative": False}, r"does not \(48\)"),
    ({"preset": "seed_s"}, r"models.build\('mvit', preset='official_s'\)"),
    ({"width": 16}, r"Of another shape \(396\): class_token \[8\] for \[16\]"), ({"heads": 2}, "Of another shape"),
    ({"depths": (1, 2, 10, 2)}, "and the network does not")])
def test_published_weights_are_refused_where_settings_differ(arguments, says, tmp_path):
    _, path = narrow_file(tmp_path / "narrow.pth")
    net = models.build("mvit", **{**SMALL, **arguments})
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=says):
        load_published(net, path, "torchvision_mvit_v2_s")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# ---- other sizes -------------------------------------------------------------------------------------------------


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
        "12 tables of relative positions." if form is OFFICIAL else "space from 8x8 to 14x14, time from 2 to 5.")
    clips = torch.randn(2, 3, 10, 56, 56)
    torch.testing.assert_close(large(clips), net(clips), atol=1e-5, rtol=1e-5)
    assert net(torch.randn(1, 3, 5, 50, 70)).shape == (1, 64, *((1, 1, 1) if form else (3, 2, 3)))


def test_embeddings_are_stretched_linearly():
    torch.testing.assert_close(stretched(torch.tensor([[0.0, 1.0]]), [4]), torch.tensor([[0, 0.25, 0.75, 1]]))
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


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, OFFICIAL])
def test_checkpointing_gives_the_same_gradients(form, monkeypatch):
    clips, grads, calls = torch.randn(3, 3, 4, 32, 32), [], []
    module = sys.modules[MViT.__module__]
    real = module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: calls.append(a) or real(*a, **k))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = models.build("mvit", **MINI, **form, stochastic_depth=0.5, checkpointing=checkpointing)
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
        block.stochastic_depth.register_forward_hook(lambda m, given, out: seen.append((m.p, given[0], out)))
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


# ---- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, says", [
    ({"preset": "mine"}, r"preset is one of \['official_s', 'seed_b', 'seed_s', 'tiny'\]"),
    ({"drop_path": 0.1}, "unknown .'drop_path'.; its arguments are .*checkpointing.*kv_stride.*stochastic_depth"),
    ({"depths": (1, 1, 1)}, "four numbers"), ({"depths": (1, 1, 0, 1)}, "four numbers"), ({"depths": 4}, "four"),
    ({"width": 0}, "width is a whole number"), ({"heads": 1.5}, "heads is a whole"), ({"size": "224"}, "size is"),
    ({"frames": -8}, "frames is"), ({"kv_stride": 0}, "kv_stride is"), ({"heads": 5}, "width is a multiple of heads"),
    ({"relative": "yes"}, "relative is true or false"), ({"stochastic_depth": 1.0}, "under 1"),
    ({"pool_eps": 0}, "pool_eps over 0")])
def test_odd_requests_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        meta(**arguments)


def test_arguments_may_come_from_json():
    net = meta(preset="tiny", depths=[1, 1, 2, 1], checkpointing=True)
    assert isinstance(net, MViT) and len(net.blocks) == 5 and net.checkpointing and net.form.depths == (1, 1, 2, 1)
