"""The network over stacked frames: ResNet-18's counts, what becomes a channel, what is refused."""

import pytest
import torch

from vidbench import models

SMALL = {"width": 0.07, "blocks": (1, 1, 1, 1), "stem_stride": 2}
RESNET_18 = 11_689_512 - 513_000  # torchvision's, without its classifier


def test_parameters_are_resnet_18s_with_a_wider_first_layer():
    for frames, channels in ((10, 2), (8, 2), (5, 3), (1, 3)):
        with torch.device("meta"):
            net = models.build("stacked_resnet", frames=frames, channels=channels)
        wider = (frames * channels - 3) * 64 * 7 * 7
        assert sum(one.numel() for one in net.parameters()) == RESNET_18 + wider
        assert net.out_channels == 512
        assert net(torch.empty(2, 3, frames, 224, 224, device="meta")).shape == (2, 512, 1, 7, 7)


def test_every_frame_of_u_and_v_counts_and_the_third_channel_does_not():
    torch.manual_seed(0)
    net = models.build("stacked_resnet", frames=4, **SMALL).eval()
    clips = torch.randn(2, 3, 4, 32, 32, requires_grad=True)
    net(clips).sum().backward()
    moved = clips.grad.abs().sum(dim=(0, 3, 4))  # [C,T]
    assert (moved[:2] > 0).all() and (moved[2] == 0).all()
    first = net.stem[0].weight  # [D,C*T,1,3,3]
    frame = torch.zeros(1, 3, 4, 32, 32)
    frame[:, 1, 2] = 1.0  # v of the third frame alone
    seen = net.stem[0](frame[:, :2].flatten(1, 2).unsqueeze(2))
    inside = first[:, 1 * 4 + 2].sum(dim=(1, 2, 3))
    assert torch.allclose(seen[0, :, 0, 5, 5], inside, atol=1e-5)


def test_other_clips_and_arguments_are_refused():
    net = models.build("stacked_resnet", frames=4, **SMALL)
    with pytest.raises(ValueError, match="stacks 4 frames; got clips of 8. Build it with frames=8"):
        net(torch.zeros(1, 3, 8, 32, 32))
    for wrong, says in (({"frames": 0}, "at least 1"), ({"channels": 1}, "2 .flow. or 3")):
        with pytest.raises(ValueError, match=says):
            models.build("stacked_resnet", **wrong)
