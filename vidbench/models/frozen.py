"""Encoders of other libraries as backbones, to measure them as one measures a run.

`read(source, weights)` reads a pretrained encoder from a local file or folder, or from its library's
own cache; nothing is downloaded. It returns weights and an `Origin`: plain values from which `Frozen`
builds the network again, and the input for which the weights were made. A loader's clips have
ImageNet's mean and deviation; `Frozen` gives them those of the weights.

A source is "library:name":

    torchvision:mvit_v2_s     video networks; weights: a file, or none for torchvision's cache
    timm:vit_small_patch16_224  image networks, frame by frame, features averaged; weights: a file
    transformers:videomae     VideoMAE, V-JEPA 2 (vjepa2); weights: a folder of `save_pretrained`, or a
                              name of the Hugging Face hub whose files are in its cache
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidbench.models.backbone import Backbone
from vidbench.models.published import read_tensors
from vidbench.system.errors import InputError, MissingError
from vidbench.system.extras import needed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the clips that a loader gives
HEADS = ("classifier", "head", "fc")  # torchvision's names of the last layer
VIDEO = (  # torchvision's video networks
    *("s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"),
    *("r3d_18", "mc3_18", "r2plus1d_18"),
)
TOKENS = ("videomae", "vjepa2")  # model types of transformers
FRAMES = 8  # of a clip that an image network sees frame by frame: an assumption


@dataclass(frozen=True)
class Origin:
    """Where an encoder comes from and what it expects, as its library says.

    Args:
        source: "library:name".
        frames: Frames of a clip.
        fps: Their rate; None if the library names none.
        size: Height and width, pixels.
        mean: Of the three colors, in 0..1.
        std: Deviation of the same.
        config: The model's configuration (transformers only).
    """

    source: str
    frames: int
    fps: float | None
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = f" at {self.fps:g} fps" if self.fps else ""
        return f"{self.source}: {self.frames} frames{rate} of {self.size} pixels"


class Frozen(Backbone):
    """A network of another library: normalized clips [B,3,T,H,W] -> features [B,D,1,1,1].

    Args:
        source: "library:name".
        mean: Of the weights' inputs, by color.
        std: The same.
        config: Of a model of transformers.

    Raises:
        ImportError: The library is not installed.
        ValueError: It has no such network.
    """

    half_input = False
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        source: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        config: dict | None = None,
    ) -> None:
        super().__init__()
        self.library, self.name = _split(source)
        self.net, self.out_channels = _BUILD[self.library](self.name, config or {})
        # (x * s + m - mean) / std, with ImageNet's m and s
        scale = [old / new for old, new in zip(IMAGENET[1], std, strict=True)]
        shift = [(m - new) / s for m, new, s in zip(IMAGENET[0], mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1, 1), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips: [B,3,T,H,W] -> [B,D,1,1,1]."""
        x = clips * self.scale + self.shift
        if self.library == "torchvision":
            rows = self.net(x)
        elif self.library == "timm":
            frames = x.transpose(1, 2)  # [B,T,3,H,W]
            rows = self.net(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(dim=1)
        else:
            kind = {"skip_predictor": True} if self.name == "vjepa2" else {}
            rows = self.net(x.transpose(1, 2), **kind).last_hidden_state.mean(dim=1)
        return rows[:, :, None, None, None]


def read(source: str, weights: str | Path = "") -> tuple[Origin, dict[str, Tensor]]:
    """Read a pretrained encoder.

    Args:
        source: "library:name", see the module.
        weights: A file of tensors, a folder of transformers, or a name in its cache; empty for
            torchvision's cache.

    Returns:
        The origin, and the state of `Frozen(...)`, in the library's shapes.

    Raises:
        FileNotFoundError: The weights are not on this machine; the message says how to get them.
        ImportError: The library is not installed.
        InputError: The network is unknown, or the weights belong to another one.
    """
    library, name = _split(source)
    origin, state = _READ[library](name, str(weights))
    net = Frozen(source, origin.mean, origin.std, origin.config)
    wanted, left = net.net.state_dict(), dict(state)
    state = {key: left.pop(key) for key in wanted if key in left}
    bad = [
        key for key, value in wanted.items() if key not in state or state[key].shape != value.shape
    ]
    # what is left are the classifier's weights, or those of a decoder
    if bad:
        raise InputError(
            f"{weights or source} are not the weights of {source}: {len(bad)} of {len(wanted)} tensors "
            f"are missing or have another shape, the first is {bad[0]}. Name the file of this network."
        )
    return origin, {f"net.{key}": value for key, value in state.items()}


def _split(source: str) -> tuple[str, str]:
    library, _, name = source.partition(":")
    if library not in _BUILD or not name:
        raise InputError(
            f"a baseline must be library:name with a library of {', '.join(_BUILD)}; got {source!r}. "
            "For example torchvision:mvit_v2_s."
        )
    return library, name


# ---- torchvision -------------------------------------------------------------------------------


def _torchvision(name: str, config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    from torchvision import models

    if name not in VIDEO:
        raise InputError(f"torchvision's video networks are {', '.join(VIDEO)}; got {name!r}.")
    net = models.get_model(name, weights=None)
    head = next(part for part in HEADS if hasattr(net, part))
    last = [one for one in getattr(net, head).modules() if isinstance(one, nn.Linear | nn.Conv3d)][
        -1
    ]
    setattr(net, head, nn.Identity())
    return net, last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _read_torchvision(name: str, weights: str) -> tuple[Origin, dict[str, Tensor]]:
    from torchvision import models

    _torchvision(name, {})
    entry = models.get_model_weights(name)["DEFAULT"]
    inputs, said = entry.transforms(), dict(re.findall(r"`(\w+)=([\d.]+)`", entry.meta["_docs"]))
    origin = Origin(
        f"torchvision:{name}",
        int(said["clip_len"]),
        float(said["frame_rate"]),
        inputs.crop_size[0],
        tuple(inputs.mean),
        tuple(inputs.std),
    )
    file = Path(weights or Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2]))
    if not file.is_file():
        raise MissingError(
            f"{file} does not exist. vidbench downloads no weights: call "
            f'torchvision.models.get_model("{name}", weights="DEFAULT") once, or name your file.'
        )
    return origin, read_tensors(file)


# ---- timm --------------------------------------------------------------------------------------


def _timm(name: str, config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    timm = needed("timm", "frozen")
    if not timm.is_model(name):
        alike = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise InputError(f"timm has no network {name!r}. Similar names: {alike or 'none'}.")
    net = timm.create_model(name, pretrained=False, num_classes=0)
    return net, net.num_features


def _read_timm(name: str, weights: str) -> tuple[Origin, dict[str, Tensor]]:
    net, _ = _timm(name, {})
    from timm.data import resolve_data_config

    inputs = resolve_data_config({}, model=net)
    if not Path(weights).is_file():
        raise MissingError(
            f"{weights or 'no file'}: timm's weights must be a local file (.safetensors, .pth). "
            "vidbench downloads none."
        )
    size, mean, std = inputs["input_size"][-1], tuple(inputs["mean"]), tuple(inputs["std"])
    return Origin(f"timm:{name}", FRAMES, None, size, mean, std), read_tensors(weights)


# ---- transformers ------------------------------------------------------------------------------


def _transformers(name: str, config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    transformers = needed("transformers", "frozen")
    if name not in TOKENS:
        raise InputError(f"of transformers vidbench reads {', '.join(TOKENS)}; got {name!r}.")
    made = transformers.AutoConfig.for_model(name, **config)
    return transformers.AutoModel.from_config(made), made.hidden_size


def _read_transformers(name: str, weights: str) -> tuple[Origin, dict[str, Tensor]]:
    transformers = needed("transformers", "frozen")
    try:
        model = transformers.AutoModel.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingError(
            f"{weights or 'no folder'} is not on this machine as a folder of `save_pretrained` or in the "
            "Hugging Face cache. vidbench downloads no weights: load it once by transformers."
        ) from error
    config = model.config.to_dict()
    if model.config.model_type != name:
        raise InputError(f"{weights} holds a model of type {model.config.model_type}, not {name}.")
    frames = config.get("num_frames") or config["frames_per_clip"]
    mean, std = _pixels(weights)
    size = config.get("image_size") or config["crop_size"]
    origin = Origin(f"transformers:{name}", frames, None, size, mean, std, _plain(config))
    return origin, model.state_dict()


def _pixels(weights: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of the weights' preprocessor; ImageNet's if it names none."""
    from transformers.utils import cached_file

    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        file = cached_file(
            weights, name, local_files_only=True, _raise_exceptions_for_missing_entries=False
        )
        if file and "image_mean" in (found := json.loads(Path(file).read_text())):
            return tuple(found["image_mean"]), tuple(found["image_std"])
    return IMAGENET


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that a network is built from, as JSON's values."""
    left_out = ("model_type", "transformers_version", "architectures", "torch_dtype", "dtype")
    kept = {
        name: value for name, value in config.items() if name not in left_out and name[0] != "_"
    }
    return json.loads(json.dumps(kept))


LIBRARIES = ("torchvision", "timm", "transformers")
_BUILD = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}
_READ = {
    "torchvision": _read_torchvision,
    "timm": _read_timm,
    "transformers": _read_transformers,
}
