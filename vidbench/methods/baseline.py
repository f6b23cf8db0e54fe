"""A frozen encoder of another library as a run: never trained, evaluated like every run.

`train` reads the weights (models/frozen.py) and writes the run's only checkpoint. Features,
retrieval, probes and notebooks then need no special case for baselines.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips
from vidbench.engine import ranks
from vidbench.engine.records import check_rows
from vidbench.engine.runs import Run, recipe_dict, run_name
from vidbench.methods import common
from vidbench.models import frozen
from vidbench.system.errors import InputError


@dataclass(frozen=True)
class Recipe(common.Recipe, method="baseline"):
    """A frozen encoder; `weights` is where its weights were read.

    network_args are those of `frozen.Frozen`.
    """

    network: str = "frozen"
    weights: str = ""
    manifest: str = ""

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """Return the videos that it is evaluated on; it was trained on others."""
        return (common.DataSet(self.manifest, "", self.clip),)


def is_baseline(name: str) -> bool:
    """Return whether a run's name means another library's encoder, as in "timm:resnet50=FILE"."""
    return name.partition(":")[0] in frozen.LIBRARIES


def make(
    source: str,
    weights: str | Path,
    manifest: str,
    place: Path,
    *,
    clip: ClipSpec | None = None,
    folder: Path | None = None,
) -> Run:
    """Make the run of a frozen encoder, or read the one that exists.

    Args:
        source: "library:name", see models.frozen.
        weights: A file or folder, or a name in the library's cache; see models.frozen.read.
        manifest: Folder of the videos that it is evaluated on.
        place: The folder of its run directory, whose name contains source, weights and clips.
        clip: Replaces the input of the weights, to compare with a run of such clips.
        folder: The run directory, instead of one in `place`.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `frozen.read`.
        RunError: The directory holds another recipe.
    """
    local = Path(weights).expanduser()
    weights = str(local.resolve() if str(weights) and local.exists() else weights)
    recipe = recipe_for(source, weights, manifest, clip)
    like = f"{clip.frames}x{clip.target_fps or clip.stride}x{clip.augment.size}" if clip else ""
    name = run_name("baseline", source, Path(weights).stem if weights else "", like)
    folder = folder or place / name.replace(":", "-").replace("/", "-")
    train(recipe_dict(recipe), str(folder))
    return Run(folder)


def recipe_for(source: str, weights: str, manifest: str, clip: ClipSpec | None = None) -> Recipe:
    """Return the recipe of an encoder with the input that its weights were made for.

    Args:
        source: "library:name", see models.frozen.
        weights: A file or folder; see models.frozen.read.
        manifest: Folder of the videos that it is evaluated on.
        clip: Replaces the input, to compare with a run of such clips.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `frozen.read`; or the encoder does not take
            such clips.
    """
    origin, _ = frozen.read(source, weights)
    own = ClipSpec(frames=origin.frames, target_fps=origin.fps)
    own = replace(own, augment=replace(own.augment, size=origin.size))
    arguments = {"source": source, "mean": origin.mean, "std": origin.std, "config": origin.config}
    recipe = Recipe(network_args=arguments, clip=clip or own, weights=weights, manifest=manifest)
    if clip:
        _check_takes(recipe, origin)
    return recipe


def _check_takes(recipe: Recipe, origin: frozen.Origin) -> None:
    """Raise InputError if the encoder does not take clips of the recipe's size."""
    shape = recipe.clip.frames, recipe.clip.augment.size
    clip = torch.zeros(1, 3, shape[0], shape[1], shape[1])
    try:
        with torch.no_grad():
            recipe.build_backbone().eval()(clip)
    except Exception as error:  # whatever the library raises
        raise InputError(
            f"{origin.source} takes no clips of {shape[0]} frames of {shape[1]} pixels; its weights are "
            f"for {origin.frames} of {origin.size}. Compare it with a run of such clips. Its error: {error}"
        ) from error


def _words(recipe: Recipe, origin: frozen.Origin) -> str:
    """Say which clips the encoder gets, and how they differ from those of its weights."""
    clip, size = recipe.clip, recipe.clip.augment.size
    rate = f"at {clip.target_fps:g} fps" if clip.target_fps else f"of stride {clip.stride}"
    said = f"frozen, with clips of {clip.frames} frames {rate}, {size} pixels"
    if (clip.frames, clip.target_fps, size) != (origin.frames, origin.fps, origin.size):
        said += f". Its weights are made for {origin}, so its numbers may be too low"
    rows = Manifest.load(recipe.manifest)
    with clips.Video(rows.absolute(0)) as video:
        side, fps = min(video.read([0]).frames.shape[1:3]), video.fps or 1.0
        seconds = video.frames / fps
    wanted = clip.frames * (1 / clip.target_fps if clip.target_fps else clip.stride / fps)
    if seconds < wanted or side < size:
        said += (
            f". The first video has {seconds:.1f} s of {side} pixels. Videos shorter than "
            f"{wanted:.1f} s repeat their last frame, smaller ones are enlarged"
        )
    return said


def train(recipe: dict, folder: str, progress: str = "auto", threads: int = 0) -> str:
    """Read the weights into a run directory. Returns the directory.

    Args:
        recipe: A Recipe in JSON's values (runs.recipe_dict).
        folder: The run directory.
        progress: Ignored, as nothing is trained.
        threads: Of this process; 0 leaves torch's choice.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `frozen.read`.
        RunError: The directory holds another recipe.
    """
    own = common.read_recipe(Recipe, recipe, threads)
    if ranks.rank() == 0:
        origin, state = frozen.read(own.network_args["source"], own.weights)
        module = nn.ModuleDict({"encoder": own.build_backbone()})
        module["encoder"].load_state_dict(state)
        run = Run.create(folder, own.method, own)
        check_rows(run.folder, {"train": None})
        if run.checkpoint() is None:
            run.save(0, module.state_dict(), {})
            print(f"{run.folder.name}: {_words(own, origin)}", flush=True)
        run.status("complete")
    ranks.barrier()
    return folder
