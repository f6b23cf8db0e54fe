"""How keys of published weight files read here: functions from a published key to ours.

Each returns our key, HEAD + weight or bias for the classifier, SKIP for a tensor that is not part of
a backbone, or None for an unknown key."""

import re

HEAD = "head."  # where a key map sends what belongs to the published classifier
SKIP = ""  # left out on purpose


def pytorchvideo_key(key: str) -> str | None:
    """Translate a key of pytorchvideo's residual nets and SlowFast; None if it has no place here.

    There blocks.0 is the stem, 1 to 4 are res2 to res5, and the last is the head.
    """
    if not (parts := re.fullmatch(r"blocks\.(\d)\.(.+)", key)):
        return None
    block, rest, path = int(parts[1]), parts[2], ""
    if found := re.fullmatch(r"multipathway_fusion\.(conv_fast_to_slow|norm)\.(\w+)", rest):
        return f"laterals.{block}.{'norm1' if found[1] == 'norm' else 'conv1'}.{found[2]}"
    if found := re.fullmatch(r"multipathway_blocks\.([01])\.(.+)", rest):
        path, rest = ("slow.", "fast.")[int(found[1])], found[2]
    if found := re.fullmatch(r"res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.(\w+)", rest):
        return f"{path}stages.{block - 1}.{found[1]}.branch.{found[2]}{'abc'.index(found[3]) + 1}.{found[4]}"
    if found := re.fullmatch(r"res_blocks\.(\d+)\.branch1_(conv|norm)\.(\w+)", rest):
        return f"{path}stages.{block - 1}.{found[1]}.shortcut.{found[2]}1.{found[3]}"
    if block == 0 and (found := re.fullmatch(r"(conv|norm)\.(\w+)", rest)):
        return f"{path}stem.{found[1]}1.{found[2]}"
    return (
        HEAD + found[1]
        if block > 4 and (found := re.fullmatch(r"proj\.(weight|bias)", rest))
        else None
    )


def torchvision_resnet_key(key: str) -> str | None:
    """Translate a key of torchvision's ResNet: conv1 and bn1, layer1 to layer4, fc; else None."""
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"stem.{'conv1' if found[1] == 'conv' else 'norm1'}.{found[2]}"
    if found := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn)([123])\.(\w+)", key):
        kind = "conv" if found[3] == "conv" else "norm"
        return f"stages.{int(found[1]) - 1}.{found[2]}.branch.{kind}{found[4]}.{found[5]}"
    if found := re.fullmatch(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)", key):
        return f"stages.{int(found[1]) - 1}.{found[2]}.shortcut.{('conv1', 'norm1')[int(found[3])]}.{found[4]}"
    return HEAD + found[1] if (found := re.fullmatch(r"fc\.(weight|bias)", key)) else None


def torchvision_s3d_key(key: str) -> str | None:
    """Translate a key of torchvision's S3D, whose backbone has the same keys here; else None."""
    if found := re.fullmatch(r"classifier\.1\.(weight|bias)", key):
        return HEAD + found[1]
    return key if key.startswith("features.") else None


def torchvision_mvit_key(key: str) -> str | None:
    """Translate a key of torchvision's MViT with relative positions (mvit_v2_s), else None."""
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        for pattern, ours in _MVIT_BLOCK.items():
            if inner := re.fullmatch(pattern, found[2]):
                return f"blocks.{found[1]}.{inner.expand(ours)}"
        return None
    if key == "pos_encoding.class_token":
        return "class_token"
    if found := re.fullmatch(r"(conv_proj|norm|head\.1)\.(weight|bias)", key):
        return {"conv_proj": "patches.", "norm": "norm.", "head.1": HEAD}[found[1]] + found[2]
    return None


def timm_mvit_key(depths: tuple[int, ...], key: str) -> str | None:
    """Translate a key of timm's MViTv2 for images; None if it has no place here.

    Args:
        depths: Blocks of each stage; timm counts blocks from 0 in each.
        key: timm's key.
    """
    if found := re.fullmatch(r"stages\.([0-3])\.blocks\.(\d+)\.(.+)", key):
        stage, block = int(found[1]), int(found[2])
        for pattern, ours in _TIMM_BLOCK.items() if block < depths[stage] else ():
            if inner := re.fullmatch(pattern, found[3]):
                return f"blocks.{sum(depths[:stage]) + block}.{inner.expand(ours)}"
        return None
    if key == "cls_token":
        return "class_token"
    if found := re.fullmatch(r"(patch_embed\.proj|norm|head\.fc)\.(weight|bias)", key):
        return {"patch_embed.proj": "patches.", "norm": "norm.", "head.fc": HEAD}[found[1]] + found[
            2
        ]
    return None


def coclr_key(key: str) -> str | None:
    """Translate a key of CoCLR's released pre-training checkpoints (S3D), else None.

    The query encoder is the backbone. The checkpoints hold each layer twice, by name and in
    `block1` to `block5`; key encoder, sampler, queues and projection head are left out.
    """
    rest = key.removeprefix("module.")
    if re.match(r"(encoder_k|sampler)\.|queue|encoder_q\.([234]|0\.block\d)\.", rest):
        return SKIP
    if not (parts := re.fullmatch(r"encoder_q\.0\.(\w+?)\.(.+)", rest)):
        return None
    if parts[1] not in _COCLR_LAYERS:
        return None
    layer, inner = str(_COCLR_LAYERS[parts[1]]), parts[2]
    if found := re.fullmatch(r"(branch[0-3]\.[01])\.(.+)", inner):
        layer, inner = f"{layer}.{found[1]}", found[2]
    found = re.fullmatch(r"(conv|bn)([12]?)\.(\w+)", inner)
    if not found:
        return None
    half = f".{int(found[2]) - 1}" if found[2] else ""  # of a separable convolution
    made = f"features.{layer}{half}.{'conv bn'.split().index(found[1])}.{found[3]}"
    # our branch0 is the layer itself, not a list with one
    return made.replace(".branch0.0.", ".branch0.")


def multitrain_key(key: str) -> str | None:
    """Translate a key of MultiTrain's released checkpoints (MViTv2, absolute positions), else None.

    The classifier is that of a run on Kinetics alone. Of a joint run the heads, the maps between
    them and the expander are left out."""
    if re.match(r"head\.(heads|acts|cross_dataset_heads)\.|expander\.", key):
        return SKIP
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        for pattern, ours in _MULTITRAIN_BLOCK.items():
            if inner := re.fullmatch(pattern, found[2]):
                return f"blocks.{found[1]}.{inner.expand(ours)}"
        return None
    if found := re.fullmatch(r"pos_embed_(spatial|temporal)", key):
        return {"spatial": "space", "temporal": "time"}[found[1]]
    if found := re.fullmatch(r"(patch_embed\.proj|norm|head\.projection)\.(weight|bias)", key):
        names = {"patch_embed.proj": "patches.", "norm": "norm.", "head.projection": HEAD}
        return names[found[1]] + found[2]
    return None


_COCLR_LAYERS = {
    "Conv_1a": 0,
    "Conv_2b": 2,
    "Conv_2c": 3,
    **{f"Mixed_{name}": 5 + n for n, name in enumerate(("3b", "3c"))},
    **{f"Mixed_{name}": 8 + n for n, name in enumerate(("4b", "4c", "4d", "4e", "4f"))},
    **{f"Mixed_{name}": 14 + n for n, name in enumerate(("5b", "5c"))},
}
_MVIT_BLOCK = {
    r"(norm[12])\.(weight|bias)": r"\1.\2",
    r"attn\.qkv\.(weight|bias)": r"attention.qkv.\1",
    r"attn\.project\.0\.(weight|bias)": r"attention.project.\1",
    r"attn\.pool_([qkv])\.pool\.weight": r"attention.pool_\1.conv.weight",
    r"attn\.pool_([qkv])\.norm_act\.0\.(weight|bias)": r"attention.pool_\1.norm.\2",
    r"attn\.rel_pos_([thw])": r"attention.relative.\1",
    r"mlp\.0\.(weight|bias)": r"mlp.0.\1",
    r"mlp\.3\.(weight|bias)": r"mlp.2.\1",  # torchvision has a dropout between
    r"project\.(weight|bias)": r"skip.\1",
}
_TIMM_BLOCK = {
    r"(norm[12])\.(weight|bias)": r"\1.\2",
    r"attn\.qkv\.(weight|bias)": r"attention.qkv.\1",
    r"attn\.proj\.(weight|bias)": r"attention.project.\1",
    r"attn\.pool_([qkv])\.weight": r"attention.pool_\1.conv.weight",
    r"attn\.norm_([qkv])\.(weight|bias)": r"attention.pool_\1.norm.\2",
    r"attn\.rel_pos_([hw])": r"attention.relative.\1",
    r"mlp\.fc1\.(weight|bias)": r"mlp.0.\1",
    r"mlp\.fc2\.(weight|bias)": r"mlp.2.\1",
    r"shortcut_proj_attn\.(weight|bias)": r"skip.\1",
}
_MULTITRAIN_BLOCK = {
    name: ours
    for name, ours in _TIMM_BLOCK.items()
    if not name.startswith((r"attn\.rel_pos", "shortcut"))
} | {r"proj_max_pool\.(weight|bias)": r"skip.\1"}
