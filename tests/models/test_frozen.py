"""Encoders of other libraries: their own outputs, and weights that are missing or not theirs.

timm and transformers are compared where they are installed."""

import pytest
import torch
from torchvision import models

from vidbench.models.frozen import IMAGENET, VIDEO, Frozen, read


def normalized(frames: torch.Tensor, mean, std) -> torch.Tensor:
    """Frames [B,3,T,H,W] in 0..1 as a library normalizes them."""
    mean, std = (torch.tensor(list(part)).view(3, 1, 1, 1) for part in (mean, std))
    return (frames - mean) / std


def rows_of(source, weights, frames) -> torch.Tensor:
    """What the backbone makes of frames in 0..1, through a state as `read` returns it."""
    origin, state = read(source, weights)
    net = Frozen(source, origin.mean, origin.std, origin.config).eval()
    net.load_state_dict(state)
    with torch.no_grad():
        rows = net(normalized(frames, *IMAGENET))
    assert rows.shape == (len(frames), net.out_channels, 1, 1, 1)
    return rows.flatten(1)


@pytest.mark.parametrize(
    ("name", "clip", "inputs", "head"),
    [
        ("mc3_18", (4, 32), (16, 15.0, 112), "fc"),
        pytest.param("r3d_18", (4, 32), (16, 15.0, 112), "fc", marks=pytest.mark.slow),
        pytest.param("r2plus1d_18", (4, 32), (16, 15.0, 112), "fc", marks=pytest.mark.slow),
        pytest.param("s3d", (14, 224), (128, 15.0, 224), "", marks=pytest.mark.slow),
        pytest.param("mvit_v2_s", (16, 224), (16, 7.5, 224), "head", marks=pytest.mark.slow),
        pytest.param("swin3d_t", (4, 64), (32, 15.0, 224), "head", marks=pytest.mark.slow),
    ],
)
def test_torchvision_gives_its_own_features(tmp_path, name, clip, inputs, head):
    torch.manual_seed(0)
    theirs, file = models.get_model(name).eval(), tmp_path / "net.pth"
    torch.save(theirs.state_dict(), file)
    frames = torch.rand(2, 3, clip[0], clip[1], clip[1])
    ours = rows_of(f"torchvision:{name}", file, frames)
    origin, _ = read(f"torchvision:{name}", file)
    entry = models.get_model_weights(name)["DEFAULT"].transforms()
    assert (origin.frames, origin.fps, origin.size) == inputs
    assert list(origin.mean) == list(entry.mean) and list(origin.std) == list(entry.std)
    with torch.no_grad():
        wanted = features_of(theirs, head, normalized(frames, entry.mean, entry.std))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def features_of(net, head, clips) -> torch.Tensor:
    """What a network of torchvision passes to its last layer, `head` or, of S3D, a convolution."""
    kept = []
    layer = getattr(net, head) if head else net.classifier[1]
    linear = layer[-1] if isinstance(layer, torch.nn.Sequential) else layer
    linear.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    net(clips)
    return kept[0].flatten(1) if head else kept[0].mean(dim=(2, 3, 4))


def test_every_video_network_of_torchvision_is_built():
    with torch.device("meta"):
        widths = {name: Frozen(f"torchvision:{name}", *IMAGENET).out_channels for name in VIDEO}
    assert widths["s3d"] == 1024 and widths["swin3d_t"] == widths["mvit_v2_s"] == 768
    assert set(widths) <= set(models.list_models(models.video))


def test_timm_gives_its_own_features_averaged_over_frames(tmp_path):
    timm = pytest.importorskip("timm")
    theirs, file = timm.create_model("resnet10t", num_classes=5).eval(), tmp_path / "net.pth"
    torch.save(theirs.state_dict(), file)
    frames = torch.rand(2, 3, 3, 64, 64)
    ours = rows_of("timm:resnet10t", file, frames)
    theirs.reset_classifier(0)
    config = theirs.pretrained_cfg
    with torch.no_grad():
        pictures = normalized(frames, config["mean"], config["std"]).unbind(2)
        wanted = torch.stack([theirs(one) for one in pictures]).mean(0)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["videomae", "vjepa2"])
def test_transformers_gives_its_own_features(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    small = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=16)
    if name == "videomae":
        small |= dict(image_size=32, num_frames=4, intermediate_size=32)
    else:
        small |= dict(crop_size=32, frames_per_clip=4, mlp_ratio=2.0, pred_hidden_size=24)
        small |= dict(pred_num_attention_heads=2, pred_num_hidden_layers=1)
    made = transformers.AutoConfig.for_model(name, **small)
    theirs = transformers.AutoModel.from_config(made).eval()
    theirs.save_pretrained(tmp_path)
    frames = torch.rand(2, 3, 4, 32, 32)
    ours = rows_of(f"transformers:{name}", str(tmp_path), frames)
    more = {"skip_predictor": True} if name == "vjepa2" else {}
    with torch.no_grad():
        pixels = normalized(frames, *IMAGENET).transpose(1, 2)
        wanted = theirs(pixels, **more).last_hidden_state.mean(1)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("mvit_v2_s", "must be library:name"),
        ("torchvision:resnet18", "video networks are s3d"),
        ("torchvision:mc3_18", "vidbench downloads no weights"),
        ("keras:x", "a library of torchvision, timm, transformers"),
    ],
)
def test_a_wrong_source_or_no_weights_says_what_to_do(tmp_path, monkeypatch, source, says):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        read(source)


def test_the_weights_of_another_network_are_refused(tmp_path):
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="are not the weights of torchvision:mc3_18: 120 of 120"):
        read("torchvision:mc3_18", tmp_path / "other.pth")
