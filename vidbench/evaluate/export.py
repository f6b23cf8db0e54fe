"""A run's backbone as a folder that other programs load.

    backbone.safetensors    weights of the encoder alone, without heads and without an "encoder." prefix
    config.json             `Config`: network, clips, normalization, classes, flow
    README.md               the model card (`card`)
    backbone.onnx           if wanted: clips [B,3,T,H,W] -> features [B,D], any B
    backbone.pt2            if wanted: the same as a torch.export program

Both programs end in the mean over positions, which is how `embed` pools a clip. Each is run on fixed
clips in three batch sizes and compared with the network before it is kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import ExportedProgram

from vidbench import models
from vidbench.data.flow.store import settings_of
from vidbench.data.loading.transforms import moments
from vidbench.data.manifest import Manifest
from vidbench.data.prepare.outputs import Outputs
from vidbench.engine.recipes import recipe_dict, recipe_from
from vidbench.engine.records import read_record
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.card import Export, card
from vidbench.evaluate.features import spec_of
from vidbench.evaluate.protocols import PROTOCOLS
from vidbench.methods.common import data_set, load_encoder
from vidbench.models.backbone import Backbone
from vidbench.models.published import HEAD, SOURCES
from vidbench.system.extras import needed
from vidbench.system.files import write_text, written
from vidbench.tensors.regularizers import Regularizer

WEIGHTS, CONFIG, CARD = "backbone.safetensors", "config.json", "README.md"
ONNX, PROGRAM = "backbone.onnx", "backbone.pt2"
FILES = (CONFIG, WEIGHTS, CARD, ONNX, PROGRAM)
TOLERANCE = 1e-4  # of the largest feature, that a program may differ from the network by
BATCHES = (2, 1, 3)  # clips, in each check
TORCHVISION = {"s3d": "torchvision_s3d", "mvit": "torchvision_mvit_v2_s"}


@dataclass(frozen=True)
class Config:
    """What config.json contains: how to build the network and what clips it takes.

    network and network_args: those of models.build. features: D. frames, and stride in frames or
    fps, make a clip; a frame's short side is resized to `resize` pixels, then its center is cropped
    to `size`. Values in 0..1 are normalized by mean and std of each channel; flow has the channels
    (u, v, constant). classes: of the training videos, empty if they have no labels. flow: the
    settings of the flow store. license: null, as none is given."""

    network: str
    features: int
    frames: int
    size: int
    resize: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stream: str = "rgb"
    stride: int = 1
    fps: float | None = None
    network_args: dict = field(default_factory=dict)
    regularizer: dict | None = None
    classes: tuple[str, ...] = ()
    flow: dict | None = None
    license: str | None = None
    format: int = 1

    def build(self) -> Backbone:
        """Build the network without its weights."""
        branches = recipe_from(Regularizer, self.regularizer).build() if self.regularizer else None
        arguments = recipe_from(_Arguments, {"values": self.network_args}).values
        return models.build(self.network, regularizer=branches, **arguments)


@dataclass(frozen=True)
class _Arguments:
    """Arguments of a network, whose lists `recipe_from` turns into tuples."""

    values: dict


class Pooled(nn.Module):
    """Clips [B,3,T,H,W] -> features [B,D]: a backbone's map, averaged over positions."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips and average over time and space: [B,C,T,H,W] -> [B,D]."""
        return self.backbone(clips).mean(dim=(2, 3, 4))


def export(
    run: Run,
    out: str | Path,
    *,
    onnx: bool = False,
    torch_export: bool = False,
    data: str = "",
) -> Path:
    """Export a run's backbone into a folder: weights, configuration, model card.

    An earlier export in the folder is replaced, with all its files.

    Args:
        onnx: Write backbone.onnx as well, checked with ONNX Runtime.
        torch_export: Write backbone.pt2 as well, by torch.export.
        data: Of a run on several data sets, the one whose clips and classes are described.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder contains a file that vidbench did not write.
        RunError: The run has no checkpoint, or a program gives other features than the network.
        ImportError: A package of the extra "onnx" is missing.
    """
    out = Path(out)
    for package in ("onnx", "onnxscript", "onnxruntime") if onnx else ():
        needed(package, "onnx")
    encoder = load_encoder(run)
    config = _config(run, encoder, data)
    rebuilt = config.build().eval()
    rebuilt.load_state_dict(encoder.state_dict())
    clips = _clips(config)
    network = Pooled(rebuilt).eval()
    checks = {WEIGHTS: _difference(network, Pooled(encoder).eval(), clips, WEIGHTS, run)}
    made = _emptied(out)
    with made.writing(FILES):
        state = {name: value.contiguous() for name, value in encoder.state_dict().items()}
        with written(out / WEIGHTS) as temporary:
            temporary.write_bytes(save(state))  # save_file would make a file only its owner reads
        wanted = {PROGRAM: _pt2} if torch_export else {}
        wanted |= {ONNX: _onnx} if onnx else {}
        if wanted:
            program = _program(network, clips)
        for name, write in wanted.items():
            with written(out / name) as temporary:
                call = write(program, temporary)
                checks[name] = _difference(network, call, clips, name, run)
        write_text(out / CONFIG, json.dumps(asdict(config), indent=1) + "\n")
        about = Export(asdict(config), checks, tuple(clips.shape), data)
        write_text(out / CARD, card(run, about))
    return out


def load_exported(folder: str | Path) -> Backbone:
    """Load the backbone of an exported folder in eval mode: clips [B,3,T,H,W] -> [B,D,T',H',W'].

    Raises:
        RunError: A file is missing or damaged, or the weights do not fit the configuration.
        UntrustedError: The network is your own and its module was not imported (models/own.py).
    """
    folder = Path(folder)
    config = exported_config(folder)
    network = config.build()
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # a damaged file, or weights of another network
        said = " ".join(str(error).split())[:300]
        raise RunError(
            f"{folder / WEIGHTS} does not fit {CONFIG} ({said}). Export the run again."
        ) from error
    return network.eval()


def exported_config(folder: str | Path) -> Config:
    """Read the config.json of an exported folder.

    Raises:
        RunError: It is missing, damaged or of another version.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise RunError(f"{folder} is no exported backbone: it has no {CONFIG}. Export a run first.")
    values = read_record(file, "Export the run again.")
    if values.get("format") != Config.format:
        raise RunError(
            f"{file} must have format {Config.format}; got {values.get('format')}. Export the run "
            "again."
        )
    return recipe_from(Config, values, where=str(file))


@torch.no_grad()
def load_into_torchvision(folder: str | Path, network: nn.Module) -> nn.Module:
    """Load an exported S3D or MViT into torchvision.models.video.s3d() or mvit_v2_s().

    The classifier keeps its weights, as a backbone has none. Norms get the eps of the exported
    network, which torchvision's default differs from.

    Args:
        network: torchvision's, which is changed.

    Returns:
        The same network in eval mode.

    Raises:
        ValueError: The exported network is none of the two, or of another size or preset.
    """
    config, ours = exported_config(folder), load_exported(folder)
    if config.network not in TORCHVISION:
        raise ValueError(
            f"torchvision has {' and '.join(TORCHVISION)} of the networks here; {folder} contains "
            f"{config.network!r}. Use load_exported."
        )
    fits, state = SOURCES[TORCHVISION[config.network]], ours.state_dict()
    names = {name: fits.ours(name) or "" for name in network.state_dict()}
    backbone = {name: mine for name, mine in names.items() if not mine.startswith(HEAD)}
    wrong = [
        name
        for name, mine in backbone.items()
        if mine not in state or state[mine].shape != network.state_dict()[name].shape
    ] + sorted(set(state) - set(backbone.values()))
    wrong += [
        f"{name} {getattr(ours, name, value)}, not {value}"
        for name, value in fits.settings.items()
        if getattr(ours, name, value) != value
    ]
    if wrong:
        raise ValueError(
            f"{folder} does not fit {type(network).__name__}: {len(wrong)} differences, first "
            f"{', '.join(wrong[:3])}. Only full-size networks with torchvision's form fit: "
            f"models.build({fits.network!r}) with {dict(fits.arguments)}."
        )
    (eps,) = {one.eps for one in ours.modules() if isinstance(one, _NORMS)}
    for one in network.modules():
        if isinstance(one, _NORMS):
            one.eps = eps
    network.load_state_dict(
        {**network.state_dict(), **{name: state[mine] for name, mine in backbone.items()}}
    )
    return network.eval()


_NORMS = (nn.BatchNorm3d, nn.LayerNorm)


# ---- what is written ---------------------------------------------------------------------------


def _config(run: Run, encoder: Backbone, data: str) -> Config:
    part, recipe = data_set(run, data), run.recipe
    spec, values = spec_of(run, PROTOCOLS["vidbench"], data), recipe_dict(recipe)
    try:
        classes = part.classes or Manifest.load(part.manifest).classes
    except FileNotFoundError:  # the data set is gone, and a method without classifier kept none
        classes = ()
    mean, std = moments(spec.augment, recipe.stream)
    return Config(
        network=recipe.network,
        network_args=values["network_args"],
        regularizer=values.get("regularizer"),
        features=encoder.out_channels,
        frames=spec.frames,
        stride=spec.stride,
        fps=spec.target_fps,
        size=spec.augment.size,
        resize=spec.resize if isinstance(spec.resize, int) else None,
        mean=tuple(mean),
        std=tuple(std),
        stream=recipe.stream,
        classes=tuple(classes),
        flow=asdict(settings_of(part.flow)) if recipe.stream == "flow" else None,
    )


def _emptied(out: Path) -> Outputs:
    """The record of a folder without an earlier export. Raises FileExistsError at others' files."""
    made = Outputs(out)
    names = sorted(file.name for file in out.iterdir()) if out.is_dir() else []
    others = [name for name in names if name not in made.known and name != made.file.name]
    if others or out.is_file():
        raise FileExistsError(
            f"{out} contains what vidbench did not write: {', '.join(others[:3]) or 'it is a file'}. "
            "Export into a new or an empty folder."
        )
    for name in FILES:  # config.json first: what is left of a stopped export is not loaded
        (out / name).unlink(missing_ok=True)
    return made


def _clips(config: Config) -> Tensor:
    """The clips of the checks: float32 [3,3,T,H,W], the same each time."""
    shape = max(BATCHES), 3, config.frames, config.size, config.size
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _difference(
    network: nn.Module, other: Callable[[Tensor], Any], clips: Tensor, name: str, run: Run
) -> float:
    """The largest absolute difference of features in all batch sizes.

    Raises:
        RunError: It is more than TOLERANCE of the largest feature.
    """
    worst = 0.0
    for batch in BATCHES:
        wanted = network(clips[:batch])
        found = torch.as_tensor(other(clips[:batch]))
        gap = float((found - wanted).abs().max())
        if not gap <= TOLERANCE * float(wanted.abs().max()):  # not a number is refused, too
            raise RunError(
                f"{name} of {run.folder} gives other features than the network, by {gap:.2g} of "
                f"{float(wanted.abs().max()):.2g} with {batch} clips, so it is not kept. Export "
                "without it."
            )
        worst = max(worst, gap)
    return worst


def _program(network: nn.Module, clips: Tensor) -> ExportedProgram:
    """The network as a program for any number of clips."""
    batch = {"clips": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(network, (clips[: BATCHES[0]],), dynamic_shapes=batch)


def _pt2(program: ExportedProgram, file: Path) -> Callable[[Tensor], Any]:
    """Write a torch.export program; returns what the file computes."""
    with open(file, "wb") as stream:
        torch.export.save(program, stream)
    with open(file, "rb") as stream:
        return torch.export.load(stream).module()


def _onnx(program: ExportedProgram, file: Path) -> Callable[[Tensor], Any]:
    """Write an ONNX file; returns what ONNX Runtime computes from it."""
    import onnxruntime

    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [log.level for log in loud]
    try:
        for log in loud:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["clips"],
                output_names=["features"],
                external_data=False,
                verbose=False,
            )
    finally:
        for log, level in zip(loud, before, strict=True):
            log.setLevel(level)
    assert made is not None  # it is None for the older exporter alone
    made.save(str(file))
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["features"], {"clips": clips.numpy()})[0]
