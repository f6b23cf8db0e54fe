"""A frozen encoder of another library as a run: read once, never trained, evaluated like every run.

`train` reads the weights (models/frozen.py) and writes the run's only checkpoint, so features,
retrieval, probes and notebooks need to know nothing of baselines."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from vidbench.data.loading.dataset import ClipSpec
from vidbench.engine import ranks
from vidbench.engine.records import check_rows
from vidbench.engine.runs import Run
from vidbench.methods import common
from vidbench.models import frozen
from vidbench.system.errors import InputError


@dataclass(frozen=True)
class Recipe(common.Recipe, method="baseline"):
    """network_args are those of `frozen.Frozen`; weights: where its weights were read."""

    network: str = "frozen"
    weights: str = ""
    manifest: str = ""

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """The videos that it is measured on; it was trained on others."""
        return (common.DataSet(self.manifest, "", self.clip),)


def recipe_for(source: str, weights: str, manifest: str, clip: ClipSpec | None = None) -> Recipe:
    """The recipe of an encoder with the input that its weights were made for.

    Args:
        source: "library:name", see models.frozen.
        weights: A file or folder; see models.frozen.read.
        manifest: Folder of the videos that it is measured on.
        clip: Another input, such as that of a run to compare with.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `frozen.read`.
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
    """Raise ValueError if the encoder does not take clips of the recipe's size."""
    shape = recipe.clip.frames, recipe.clip.augment.size
    clip = torch.zeros(1, 3, shape[0], shape[1], shape[1])
    try:
        with torch.no_grad():
            recipe.build_backbone().eval()(clip)
    except Exception as error:  # whatever the library raises
        raise InputError(
            f"{origin.source} takes no clips of {shape[0]} frames of {shape[1]} pixels; its weights are "
            f"for {origin.frames} of {origin.size}. Compare it with a run of such clips. It said: {error}"
        ) from error


def train(recipe: dict, folder: str, progress: str = "auto", threads: int = 0) -> str:
    """Read the weights into a run directory. Returns the directory.

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
            print(f"{run.folder.name}: {origin}; frozen", flush=True)
        run.status("complete")
    ranks.barrier()
    return folder
