"""Published weight files of pytorchvideo, torchvision, timm, CoCLR and MultiTrain, loaded into our backbones.

Nothing is downloaded here: the file is on disk, as its publisher serves it or as safetensors. A
file fits one network alone (`SOURCES`), eps of norms included, which no shape would show; all else
is refused with what would fit. Two things are changed on the way: position embeddings, where the
network is for clips of another size, and the kernels of timm's image nets, which are inflated as
starts for video. The key maps were checked against pytorchvideo 0.1.5, torchvision 0.29 and timm
1.0.31: same keys, same outputs."""

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vidbench.models.keys import (
    HEAD,
    SKIP,
    coclr_key,
    multitrain_key,
    pytorchvideo_key,
    timm_mvit_key,
    torchvision_mvit_key,
    torchvision_resnet_key,
    torchvision_s3d_key,
)


@dataclass(frozen=True)
class Source:
    """A published file: the network it fits, how its keys read here, and the clips it was trained
    on."""

    network: str  # a key of models.BUILDERS
    arguments: Mapping  # in addition to the defaults
    ours: Callable[[str], str | None]  # a key map, see models.keys
    eps: tuple[float, ...]  # of the norms
    clips: str
    # attributes of the network which no shape shows
    settings: Mapping = field(default_factory=dict)
    inflate: bool = False  # an image net for a network with kernels in time
    classifier: bool = True  # the file must hold one


@dataclass(frozen=True)
class PublishedWeights:
    """A published file as a recipe holds it; the arguments of `load_published`."""

    source: str  # a key of SOURCES
    path: str
    inflation: str = ""


@dataclass(frozen=True)
class Published:
    """What `load_published` read: the file's classifier, which is not part of a backbone, and a
    report."""

    source: str
    weight: Tensor  # [classes, D]
    bias: Tensor  # [classes]
    report: str  # a sentence: what is where

    @property
    def classes(self) -> int:
        return len(self.bias)


_KINETICS = "frames, mean 0.45 and deviation 0.225 in each channel, short side 256"
_IMAGES = "ImageNet's mean and deviation, crop 224"
# in addition to preset and class token; the stride of keys and values is 4 in these image nets, 8 in the
# video nets
_TIMM = {"relative": True, "normed_skip": True, "pool_eps": 1e-6, "kv_stride": 4}
SOURCES = {
    # SLOW_8x8_R50.pyth, SLOWFAST_8x8_R50.pyth, CSN_32x2_R101.pyth of pytorchvideo's model zoo
    "pytorchvideo_slow_r50": Source(
        "slowonly", {}, pytorchvideo_key, (1e-5,), f"8 {_KINETICS}, every 8th of 30 per second"
    ),
    "pytorchvideo_slowfast_r50": Source(
        "slowfast",
        {},
        pytorchvideo_key,
        (1e-5,),
        f"32 {_KINETICS}, every 2nd of 30 per second",
        {"alpha": 4},
    ),
    # unlike VMZ and mmaction2, pytorchvideo's CSN has PyTorch's eps
    "pytorchvideo_csn_r101": Source(
        "csn",
        {"depth": 101, "norm_eps": 1e-5},
        pytorchvideo_key,
        (1e-5,),
        f"32 {_KINETICS}, every 2nd of 30 per second",
    ),
    "torchvision_resnet50": Source(
        "resnet50", {}, torchvision_resnet_key, (1e-5,), f"images as one frame, {_IMAGES}"
    ),
    "torchvision_s3d": Source(
        "s3d",
        {"norm_eps": 1e-3, "norm_momentum": 1e-3},
        torchvision_s3d_key,
        (1e-3,),
        "128 frames of 15 per second, Kinetics' mean and deviation, crop 224",
    ),
    "torchvision_mvit_v2_s": Source(
        "mvit",
        {"preset": "official_s"},
        torchvision_mvit_key,
        (1e-6,),
        f"16 {_KINETICS}, every 4th of 30 per second, crop 224",
        {"normed_skip": True, "kv_stride": 8, "token_query": False},
    ),
    # mvitv2_small.fb_in1k, mvitv2_base.fb_in1k and mvitv2_base_cls.fb_inw21k
    "timm_mvitv2_small": Source(
        "mvit",
        {"preset": "seed_s", **_TIMM},
        partial(timm_mvit_key, (1, 2, 11, 2)),
        (1e-6,),
        f"images of ImageNet-1K, {_IMAGES}",
        {"normed_skip": True, "kv_stride": 4},
        True,
    ),
    "timm_mvitv2_base": Source(
        "mvit",
        {"preset": "seed_b", **_TIMM},
        partial(timm_mvit_key, (2, 3, 16, 3)),
        (1e-6,),
        f"images of ImageNet-1K, {_IMAGES}",
        {"normed_skip": True, "kv_stride": 4},
        True,
    ),
    "timm_mvitv2_base_cls": Source(
        "mvit",
        {"preset": "seed_b", **_TIMM, "class_token": True, "token_query": True},
        partial(timm_mvit_key, (2, 3, 16, 3)),
        (1e-6,),
        f"images of ImageNet-21K, {_IMAGES}",
        {"normed_skip": True, "kv_stride": 4, "token_query": True},
        True,
    ),
    # CoCLR's released pre-training checkpoints, of either stream: UCF101-RGB-128-s3d-CoCLR.pth.tar ...
    "coclr_s3d": Source(
        "s3d",
        {},
        coclr_key,
        (1e-5,),
        f"32 frames of the video's own rate, {_IMAGES.replace('224', '128')}",
        classifier=False,
    ),
    # MultiTrain's released checkpoints, of Kinetics-400 and of the joint run
    "multitrain_mvit_v2_b": Source(
        "mvit",
        {"preset": "seed_b"},
        multitrain_key,
        (1e-6, 1e-5),
        f"32 {_KINETICS}, every 3rd of 30 per second, crop 224",
        {"normed_skip": False, "kv_stride": 8},
        classifier=False,
    ),
}


def load_published(network: Any, path: str | Path, source: str, inflation: str = "") -> Published:
    """Put a published file's weights into a bare backbone from models.build; return its classifier.

    Modules of a regularizer keep their values. Position embeddings of a network for clips of
    another size are interpolated, and the report says so. Nothing is loaded if anything is wrong.

    Args:
        network: The backbone.
        path: The published file.
        source: A key of SOURCES, which names the network that fits.
        inflation: How an image net is inflated for a video network, see mvit.inflated: "center"
            (the default) or "mean". For sources of images alone.

    Raises:
        ValueError: source or inflation is unknown, the file cannot be read as plain tensors, or its
            keys, shapes, eps of norms or other settings are not the network's.
    """
    if source not in SOURCES:
        raise ValueError(f"load_published needs a source of {sorted(SOURCES)}; got {source!r}.")
    fits = SOURCES[source]
    if inflation and not fits.inflate:
        inflated = [name for name, other in SOURCES.items() if other.inflate]
        raise ValueError(
            f"inflation={inflation!r} inflates an image net for video, and {source} is not "
            f"inflated; of the sources, {inflated} are. Leave it out."
        )
    found, unexpected = _renamed(read_tensors(path), fits)
    wanted = {k: v for k, v in network.state_dict().items() if ".regularizer." not in k}
    head = {name: found.pop(HEAD + name, None) for name in ("weight", "bias")}
    if head["weight"] is not None:
        head["weight"] = head["weight"].flatten(1)  # S3D's is a convolution
    elif not fits.classifier:
        head = {"weight": torch.zeros(0, network.out_channels), "bias": torch.zeros(0)}
    found, changed = _refitted(network, found, fits, inflation)
    # counters of batches came with PyTorch 0.4.1, files older than that have none; with momentum
    # they do nothing
    counters = [k for k in wanted if k.endswith("num_batches_tracked") and k not in found]
    complaints = _complaints(wanted, found, unexpected, counters, head, network.out_channels)
    complaints += _settings(network, fits)
    if complaints:
        arguments = "".join(f", {name}={value!r}" for name, value in fits.arguments.items())
        raise ValueError(
            f"{path} does not fit as {source}; nothing was loaded. The network for it is "
            f"models.build({fits.network!r}{arguments}). " + " ".join(complaints)
        )
    weight, bias = head["weight"], head["bias"]
    assert weight is not None and bias is not None, "a missing classifier is a complaint"
    network.load_state_dict({**network.state_dict(), **found})
    values = sum(found[name].numel() for name, _ in network.named_parameters() if name in found)
    classifier = f"classifier of {len(bias)} classes is returned" if len(bias) else "heads are left"
    report = [
        f"{Path(path).name} as {source}: {len(found)} tensors with {values:,} weights are now "
        f"in the backbone; its {classifier}, not loaded. Norms have eps {_eps(fits.eps)}. It was "
        f"trained on {fits.clips}.",
        changed,
        f"The file has no batch counters: {len(counters)} stay as they were." if counters else "",
    ]
    return Published(source, weight, bias, " ".join(filter(None, report)))


def _renamed(tensors: dict[str, Tensor], fits: Source) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors by our names, and its keys that have none or one that is taken."""
    found: dict[str, Tensor] = {}
    unexpected = []
    for key, value in tensors.items():
        name = fits.ours(key)
        if name is None or name in found:
            unexpected.append(key)
        elif name != SKIP:
            found[name] = value
    return found, unexpected


def _refitted(
    network: Any, found: dict[str, Tensor], fits: Source, inflation: str
) -> tuple[dict[str, Tensor], str]:
    """A file's tensors for this network's clips, and what was done to them."""
    found = {name: _in_our_axes(name, value) for name, value in found.items()}
    if fits.inflate and hasattr(network, "inflated_state"):
        return network.inflated_state(found, inflation or "center")
    if hasattr(network, "resized_state"):
        return network.resized_state(found)
    return found, ""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a file to the CPU, with the shapes they have there.

    A .safetensors file is read by safetensors, any other by torch.load with weights only. A dict
    under "model_state" (pytorchvideo, MultiTrain) or "state_dict" (CoCLR) is taken out of it.

    Raises:
        ValueError: The file is missing or holds anything else.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"load_published needs a file; there is none at {path}. Fetch it from its publisher "
            "first."
        )
    content: Any
    try:
        if Path(path).suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a file of plain tensors: {error}") from error
    for name in ("model_state", "state_dict"):
        if isinstance(content, Mapping) and name in content:
            content = content[name]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise ValueError(
            f"{path} holds {type(content).__name__}; wanted a dict of tensors, or one as "
            "'model_state'."
        )
    return dict(content)


def _in_our_axes(name: str, value: Tensor) -> Tensor:
    """A tensor in our axes: kernels of a 2-D net [D,C,h,w] flat in time, a class token [1,1,D] as a
    vector, position embeddings [1,N,D] as [D,T] or [D,H,W]."""
    if value.dim() == 4:
        return value.unsqueeze(2)
    if value.dim() != 3:
        return value
    if name == "time":
        return value[0].T
    if name == "space":
        side = math.isqrt(value.shape[1])
        return value[0].T.unflatten(1, (side, -1))
    return value.flatten()


def _complaints(
    wanted: dict, found: dict, unexpected: list[str], counters: list[str], head: dict, channels: int
) -> list[str]:
    """Where keys and shapes of a file and a network differ, in sentences."""
    shapes = [
        f"{k} {list(found[k].shape)} for {list(wanted[k].shape)}"
        for k in wanted
        if k in found and found[k].shape != wanted[k].shape
    ]
    classes = 0 if head["bias"] is None else len(head["bias"])
    if any(value is None for value in head.values()) or head["weight"].shape != (classes, channels):
        shapes.append(
            f"a classifier {[None if v is None else list(v.shape) for v in head.values()]} for "
            f"[[classes, {channels}], [classes]]"
        )
    lists = {
        "The network needs, and the file lacks": [
            k for k in wanted if k not in found and k not in counters
        ],
        "The file has, and the network does not": unexpected
        + [k for k in found if k not in wanted],
        "Of another shape": shapes,
    }
    return [
        f"{says} ({len(names)}): {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}."
        for says, names in lists.items()
        if names
    ]


def _settings(network: nn.Module, fits: Source) -> list[str]:
    """What no shape shows: the eps of norms, and the source's settings, such as SlowFast's
    alpha."""
    eps = {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm3d | nn.LayerNorm)}
    complaints = (
        []
        if eps == set(fits.eps)
        else [f"Its norms have eps {_eps(fits.eps)}, the network's {sorted(eps)}."]
    )
    for name, value in fits.settings.items():
        if (own := getattr(network, name, value)) != value:
            complaints.append(f"Its {name} is {value!r}, the network's {own!r}.")
    return complaints


def _eps(values: tuple[float, ...]) -> str:
    return " and ".join(f"{value:g}" for value in values)
