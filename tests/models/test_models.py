"""Networks: shape tables, parameter counts, and torchvision as the oracle."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.video import s3d

from vidbench import models
from vidbench.models import planes
from vidbench.models.planes import SplitMaxPool3d
from vidbench.models.s3d import PlaneConv3d


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_s3d_has_the_papers_size_and_map():
    net = models.build("s3d")
    assert parameters(net) == 7_910_048 and net.out_channels == 1024
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, 32, 128, 128)).shape == (1, 1024, 4, 4, 4)
        assert net(torch.zeros(1, 3, 8, 64, 64)).shape == (1, 1024, 1, 2, 2)


def test_s3d_is_torchvisions_in_keys_outputs_and_gradients():
    torch.manual_seed(0)
    theirs = s3d()
    ours = models.build("s3d", norm_eps=1e-3, norm_momentum=1e-3)
    state = {
        name: value for name, value in theirs.state_dict().items() if name.startswith("features.")
    }
    ours.load_state_dict(state)  # strict: the same keys and shapes
    clips = torch.randn(2, 3, 16, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.eval()(clips), theirs.eval().features(clips), atol=1e-4, rtol=1e-4
        )
    # Training in double: batch norm over a few positions blows rounding up, a wrong gradient would
    # show all the same.
    ours.double().train(), theirs.double().train()
    wanted, got = theirs.features(clips.double()), ours(clips.double())
    torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)
    probe = torch.randn_like(wanted)
    (wanted * probe).sum().backward()
    (got * probe).sum().backward()
    for (name, left), right in zip(
        theirs.features.named_parameters(), ours.features.parameters(), strict=True
    ):
        assert (left.grad - right.grad).norm() <= 1e-6 * left.grad.norm() + 1e-9, name


@pytest.mark.parametrize(
    "kernel, stride, padding, flat",
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1), True),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0), True),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0), True),
        ((7, 1, 1), (2, 1, 1), (3, 0, 0), True),
        ((1, 1, 1), (2, 2, 2), (0, 0, 0), True),
        ((1, 1, 1), (1, 2, 2), (0, 0, 0), True),
        ((1, 1, 1), (2, 2, 2), (1, 1, 1), False),
        ((5, 1, 1), (1, 2, 2), (2, 0, 0), False),
        ((1, 3, 3), (2, 1, 1), (0, 1, 1), False),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), False),
    ],
)
def test_plane_convolution_is_the_3d_one(kernel, stride, padding, flat):
    conv = nn.Sequential(nn.Conv3d(5, 7, kernel, stride, padding))
    clips = torch.randn(2, 5, 6, 8, 10)
    wanted = conv(clips)
    PlaneConv3d.adopt(conv)
    assert (type(conv[0]) is PlaneConv3d) == flat
    torch.testing.assert_close(conv(clips), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (7, 2, 3), (3, 2, 0), (2, 3, 0), (5, 1, 2), (3, 1, 3)]
)
def test_gradients_without_avx512_are_the_3d_ones(kernel, stride, padding, frames, monkeypatch):
    monkeypatch.setattr(planes, "AVX2_ONLY", True)
    frames = max(frames, kernel - 2 * padding)  # one output frame at least
    place = (kernel, 1, 1), (stride, 1, 1), (padding, 0, 0)
    conv = nn.Sequential(nn.Conv3d(planes.WIDE, planes.WIDE + 2, *place, bias=False))
    clips = torch.randn(3, planes.WIDE, frames, 2, 3, requires_grad=True)
    wide = F.conv3d(clips.double(), conv[0].weight.double(), None, *place[1:])
    grad = torch.randn_like(wide)
    wanted = torch.autograd.grad(wide, (clips, conv[0].weight), grad)
    PlaneConv3d.adopt(conv)
    made = conv(clips)
    assert made.grad_fn.next_functions[0][0].name() == "_ColumnsBackward"
    found = torch.autograd.grad(made, (clips, conv[0].weight), grad.float())
    torch.testing.assert_close(made.double(), wide, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inputs", range(1, 25))
def test_gradients_of_a_strided_pointwise_convolution_do_not_depend_on_the_memory_format(inputs):
    conv = nn.Sequential(nn.Conv3d(inputs, 8, 1, (1, 2, 2), bias=False)).double()
    PlaneConv3d.adopt(conv)
    clips, grad = torch.randn(12, inputs, 4, 8, 8).double(), torch.randn(12, 8, 4, 4, 4).double()
    wanted = torch.autograd.grad(
        nn.functional.conv3d(clips, conv[0].weight, stride=(1, 2, 2)), conv[0].weight, grad
    )
    conv.float()
    clips = clips.float().contiguous(memory_format=torch.channels_last_3d)
    found = torch.autograd.grad(conv(clips), conv[0].weight, grad.float())
    torch.testing.assert_close(found[0].double(), wanted[0], atol=1e-4, rtol=1e-4)


SMALL = {name: {"width": 0.0625} for name in ("s3d", "slowonly", "slowfast", "csn", "resnet50")}
SMALL["difference"] = {"network": "csn", "arguments": {"width": 0.0625}}


@pytest.mark.parametrize("name", sorted({*models.BUILDERS} - {"frozen"}))  # our own networks
def test_no_network_runs_a_strided_pointwise_convolution(name):
    net = models.build(name, **SMALL.get(name, {}))
    strided = [
        m
        for m in net.modules()
        if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and set(m.kernel_size) == {1}
        and set(m.stride) != {1}
    ]
    assert {type(m) for m in strided} <= {PlaneConv3d}
    assert bool(strided) == (name not in ("s3d", "cifar_resnet", "mvit"))


class Copies(TorchDispatchMode):
    """Counts the operations that copy a tensor."""

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op.overloadpacket.__name__ in ("clone", "copy_", "_to_copy", "contiguous")
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "size", [((1, 3, 3), (1, 2, 2), (0, 1, 1)), (3, 2, 1), (2, 2, 0), (3, 1, 1)]
)
def test_split_pools_are_max_pools_and_of_equal_values_take_the_same(size, layout):
    torch.manual_seed(0)
    pool, plain = torch.nn.Sequential(torch.nn.MaxPool3d(*size)), torch.nn.MaxPool3d(*size)
    x = torch.randint(3, (2, 3, 4, 7, 6)).double().to(memory_format=layout).requires_grad_()
    SplitMaxPool3d.adopt(pool)
    wanted = plain(x)
    g = torch.randint_like(wanted, 9).to(memory_format=layout)  # sums of whole numbers are exact
    assert torch.equal(pool(x), wanted)
    pool[0].devices = ("cpu",)
    with Copies() as copies:
        found = pool(x)
        (gradient,) = torch.autograd.grad(found, x, g)
    assert found.is_contiguous(memory_format=layout) and copies.count == 0
    assert torch.equal(found, wanted)
    assert torch.equal(gradient, torch.autograd.grad(wanted, x, g)[0])
    assert pool(x.detach()).grad_fn is None and torch.equal(pool(x.detach()), wanted)


def test_every_pool_of_s3d_can_split():
    assert {
        type(m) for m in models.build("s3d").modules() if isinstance(m, torch.nn.MaxPool3d)
    } == {SplitMaxPool3d}


def test_small_s3d_fits_the_toy_world_and_odd_requests_are_refused():
    net = models.build("s3d", width=0.25, units=(2, 2, 0))
    assert net(torch.zeros(2, 3, 8, 48, 48)).shape == (2, net.out_channels, 2, 3, 3)
    with pytest.raises(ValueError, match="units within"):
        models.build("s3d", units=(3, 5, 2))
    with pytest.raises(ValueError, match="one of"):
        models.build("s3dg")
    with pytest.raises(ValueError, match="widht"):
        models.build("s3d", widht=1.0)


def test_differences_of_frames_are_what_the_network_sees():
    inner = {"width": 0.0625, "blocks": (1, 1, 1, 1), "stem_stride": 2}
    net = models.build("difference", network="csn", arguments=inner).eval()
    assert parameters(net) == parameters(models.build("csn", **inner))
    assert net.out_channels == net.network.out_channels
    clips = torch.randn(2, 3, 4, 32, 32)
    seen = torch.stack([clips[:, :, t + 1] - clips[:, :, t] for t in (0, 1, 2, 2)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(net(clips), net.network(seen))
        still = clips[:, :, :1].expand(-1, -1, 4, -1, -1)
        torch.testing.assert_close(net(still), net(2 * still))
    with pytest.raises(ValueError, match="clips of 2 frames or more; got 1"):
        net(clips[:, :, :1])


def test_a_regularizer_reaches_the_network_behind_differences():
    arguments = {"width": 0.0625, "blocks": (1, 1, 1, 1), "stem_stride": 2}
    seen = []

    def at(site):
        seen.append(site.stage)
        return nn.Identity()

    models.build("difference", at, network="csn", arguments=arguments)
    assert seen == [2, 3, 4, 5]
