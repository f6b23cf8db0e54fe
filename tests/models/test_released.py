"""The checkpoints of CoCLR's and MultiTrain's authors, in files made in their format.

With random weights, their own networks gave what the networks here give after loading: CoCLR's S3D
to 7e-5 at a standard deviation of 6, MultiTrain's MViTv2-B to 5e-7 at 1. The checksums below are of
their state dicts."""

import hashlib

import pytest
import torch

from vidbench import models
from vidbench.models.published import load_published

# sha256 of the sorted lines "key [shape]" of their state_dict()
COCLR, MULTITRAIN = "35790384a3612484", "69a1deb6810c9c3c"
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCKS = {  # CoCLR's code registers each layer a second time, by its place in a block
    "block1": ("Conv_1a",),
    "block2": (None, "Conv_2b", "Conv_2c"),
    "block3": (None, "Mixed_3b", "Mixed_3c"),
    "block4": (None, *(f"Mixed_4{letter}" for letter in "bcdef")),
    "block5": (None, "Mixed_5b", "Mixed_5c"),
}


def checksum(tensors: dict) -> str:
    lines = sorted(f"{key} {list(value.shape)}" for key, value in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def layer_keys(name: str) -> list[str]:
    """The tensors of a layer in CoCLR's order, which is ours, too."""

    def units(prefix: str, separable: bool) -> list[str]:
        halves = ("1", "2") if separable else ("",)
        return [
            f"{prefix}{part}"
            for half in halves
            for part in (f"conv{half}.weight", *(f"bn{half}.{norm}" for norm in NORM))
        ]

    if not name.startswith("Mixed"):
        return units(f"{name}.", name != "Conv_2b")
    both = [(f"{name}.branch{i}.{j}.", j == 1) for i in (1, 2) for j in (0, 1)]
    parts = [(f"{name}.branch0.0.", False), *both, (f"{name}.branch3.1.", False)]
    return [key for prefix, separable in parts for key in units(prefix, separable)]


def coclr_file(path) -> dict[str, torch.Tensor]:
    """Write a checkpoint of CoCLR's code with random values; the values by our keys."""
    values = {
        key: torch.randn(value.shape) if value.is_floating_point() else torch.tensor(7)
        for key, value in models.build("s3d").state_dict().items()
    }
    left, encoder = iter(values.values()), {}
    for block, layers in BLOCKS.items():
        for place, layer in enumerate(layers):
            for key in layer_keys(layer) if layer else ():
                value = next(left)
                inner = key.removeprefix(f"{layer}.")
                encoder[f"0.{key}"] = encoder[f"0.{block}.{place}.{inner}"] = value
    for layer, width in ((2, 1024), (4, 128)):
        encoder[f"{layer}.weight"] = torch.randn(width, 1024, 1, 1, 1)
        encoder[f"{layer}.bias"] = torch.randn(width)
    query = {f"module.encoder_q.{key}": value for key, value in encoder.items()}
    assert checksum(query) == COCLR
    others = {
        f"module.{one}.{key}": torch.zeros_like(value)
        for one in ("encoder_k", "sampler")
        for key, value in encoder.items()
    }
    queues = {f"module.queue{name}": torch.zeros(4) for name in ("", "_ptr", "_second", "_vname")}
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    state = {**queues, **query, **others}
    torch.save({"epoch": 3, "state_dict": state, "best_acc": 0.5, "optimizer": optimizer}, path)
    return values


def multitrain_file(path, joint: bool) -> dict[str, torch.Tensor]:
    """Write a checkpoint of MultiTrain's code with random values; the values by our keys."""
    values = {
        key: torch.randn(value.shape)
        for key, value in models.build("mvit", preset="seed_b").state_dict().items()
    }
    names = {
        "patches.": "patch_embed.proj.",
        "attention.pool_q.conv": "attn.pool_q",
        "attention.pool_k.conv": "attn.pool_k",
        "attention.pool_v.conv": "attn.pool_v",
        "attention.pool_q.norm": "attn.norm_q",
        "attention.pool_k.norm": "attn.norm_k",
        "attention.pool_v.norm": "attn.norm_v",
        "attention.project": "attn.proj",
        "attention.qkv": "attn.qkv",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
        "skip.": "proj_max_pool.",
    }
    state = {}
    for key, value in values.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    state["pos_embed_spatial"] = state.pop("space").flatten(1).T[None]
    state["pos_embed_temporal"] = state.pop("time").T[None]
    alone = {
        "head.projection.weight": torch.randn(400, 768),
        "head.projection.bias": torch.randn(400),
    }
    assert checksum({**state, **alone}) == MULTITRAIN
    if joint:
        mlp = {f"fc{n}.{part}": torch.zeros(2) for n in (1, 2) for part in ("weight", "bias")}
        alone = {f"head.heads.kinetics.{key}": value for key, value in mlp.items()}
        alone |= {f"expander.{key}": value for key, value in mlp.items()}
        alone["head.cross_dataset_heads.kinetics_ssv2.weight"] = torch.zeros(2)
    torch.save({"epoch": 3, "model_state": {**state, **alone}, "cfg": "NUM_GPUS: 8"}, path)
    return values


def test_coclrs_query_encoder_arrives(tmp_path):
    values = coclr_file(tmp_path / "coclr.pth.tar")
    network = models.build("s3d")
    read = load_published(network, tmp_path / "coclr.pth.tar", "coclr_s3d")
    assert read.classes == 0 and "its heads are left, not loaded" in read.report
    for key, value in network.state_dict().items():
        assert torch.equal(value, values[key]), key


@pytest.mark.parametrize("joint", [False, True])
def test_multitrains_backbone_arrives(joint, tmp_path):
    values = multitrain_file(tmp_path / "multitrain.pyth", joint)
    network = models.build("mvit", preset="seed_b")
    read = load_published(network, tmp_path / "multitrain.pyth", "multitrain_mvit_v2_b")
    assert read.classes == (0 if joint else 400)
    for key, value in network.state_dict().items():
        assert torch.equal(value, values[key]), key


def test_a_layer_of_another_name_is_no_part_of_them(tmp_path):
    torch.save(
        {"state_dict": {"module.backbone.Conv_1a.conv1.weight": torch.zeros(1)}}, tmp_path / "x"
    )
    with pytest.raises(ValueError, match="file has, and the network does not .*module.backbone"):
        load_published(models.build("s3d"), tmp_path / "x", "coclr_s3d")
