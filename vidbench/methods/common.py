"""What the methods share, and the interface through which other packages read their runs.

A method is a module with three things: a `Recipe` (a subclass of the one below, with the method's
name), an `nn.Module` with an `encoder`, and `train(recipe, folder, progress, threads)`. Evaluation
and views read a run through its recipe alone: the data sets, the backbone, the heads, the protocol
facts. So a new method is one module, and nothing in `evaluate` or `view` changes.

A run directory stores the names of its method and its network. registry.py and models/own.py turn a
name into code; a run directory from elsewhere cannot choose what is imported.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from vidbench import models
from vidbench.data.loading import batched
from vidbench.data.loading.dataset import FIXED, RANDOM, Batches, Clips, ClipSpec, processes
from vidbench.data.loading.joint import Joint
from vidbench.data.loading.mirrored import flip_warning
from vidbench.data.loading.transforms import Stream
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.loop import Fit, fit
from vidbench.engine.optimize import DTYPES
from vidbench.engine.prefetch import Prepare, moved
from vidbench.engine.records import check_rows, check_videos, read_rows
from vidbench.engine.runs import (
    Run,
    RunError,
    differences,
    read_recipes_with,
    recipe_dict,
    recipe_from,
)
from vidbench.methods.registry import import_method as import_method
from vidbench.methods.registry import recipe_class as recipe_class
from vidbench.methods.registry import register
from vidbench.models import own
from vidbench.models.backbone import Backbone
from vidbench.models.published import PublishedWeights, load_published
from vidbench.system.errors import InputError
from vidbench.system.progress import Style
from vidbench.system.ranges import check_fields
from vidbench.system.trusted import UntrustedError

CACHE = 1 << 29  # bytes of decoded videos that a loader without workers keeps


# ---- what other packages read of a run ---------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """One data set as a run was trained on it.

    name is empty if the run has a single data set. classes is empty if the method does not learn
    them. flow is the flow store.
    """

    manifest: str
    flow: str
    clip: ClipSpec
    classes: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Head:
    """A classifier without its weights, and the prefix of its weights' names in a checkpoint."""

    module: nn.Module
    prefix: str


@dataclass(frozen=True)
class Recipe(ABC):
    """The fields that every method's recipe has, and what other packages read of it.

    Subclass it as `class Recipe(common.Recipe, method="name")`. Only `data_sets` must be written.
    The defaults describe a method without classifier that starts from random weights. `home` is the
    module with the method's `train`: the recipe's own, unless `home="package.module"` names
    another.
    """

    method: ClassVar[str] = ""
    home: ClassVar[str] = ""

    stream: Stream = "rgb"
    network: str = "s3d"
    network_args: dict = field(default_factory=dict)
    clip: ClipSpec = ClipSpec()
    fit: Fit = Fit()

    def __post_init__(self) -> None:
        check_fields(self, f"recipe of {self.method}")

    def __init_subclass__(cls, method: str = "", home: str = "", **rest) -> None:
        super().__init_subclass__(**rest)
        if method:
            cls.method, cls.home = method, home or cls.__module__
            register(method, cls)

    @abstractmethod
    def data_sets(self) -> tuple[DataSet, ...]:
        """Return the data sets that the run was trained on."""

    @property
    def parent(self) -> str:
        """The run whose weights this one starts from, or an empty string."""
        return ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The runs that must be complete before this one starts."""
        return (self.parent,) if self.parent else ()

    def build_backbone(self) -> Backbone:
        """Build the backbone without its weights: clips [B,3,T,H,W] -> map [B,D,T',H',W']."""
        return models.build(self.network, **self.network_args)

    @property
    def more_forwards(self) -> int:
        """The forward passes of networks other than the encoder in a step, each over one batch."""
        return 0

    def build_head(self, width: int, data: DataSet) -> Head | None:
        """Build a data set's classifier without its weights, or return None if the method has none.

        Args:
            width: The backbone's features, D.
        """
        return None

    def classifier_facts(self) -> dict[str, str]:
        """Say how the classifier was trained: head, backbone, training, selection."""
        return {}

    def map_name(self, source: str, target: str) -> str:
        """Return the checkpoint's name of the map between two data sets' scores, or "".

        Args:
            source, target: Names of data sets.
        """
        return ""


R = TypeVar("R", bound=Recipe)


class Trained(Protocol):
    """A method's module, as far as its backbone can start from another run's."""

    recipe: Any
    encoder: Backbone


read_recipes_with(recipe_class)


def data_set(run: Run, name: str = "") -> DataSet:
    """Return one of a run's data sets.

    Args:
        name: May be empty if the run has one data set.

    Raises:
        RunError: There is no data set of this name, or several and no name is given.
    """
    by_name = {one.name: one for one in run.recipe.data_sets()}
    if not name and len(by_name) == 1:
        return next(iter(by_name.values()))
    if not name or name not in by_name:
        names = ", ".join(filter(None, by_name)) or "one data set without a name"
        raise RunError(
            f"{run.folder} was trained on {names}; got data={name!r}. Choose one of them."
        )
    return by_name[name]


def load_encoder(run: Run) -> Backbone:
    """Load a run's backbone in eval mode: clips [B,3,T,H,W] -> map [B,D,T',H',W'].

    Raises:
        RunError: The weights do not fit, or the network is code that this program may not import.
    """
    try:
        encoder = run.recipe.build_backbone()
    except UntrustedError as error:
        raise RunError(f"{run.folder}: {error}") from error
    run.load_into(encoder, "encoder.")
    return encoder.eval()


def load_head(run: Run, width: int, data: str = "") -> nn.Module:
    """Load the classifier of a data set in eval mode: features [B,D] -> scores.

    Args:
        width: D.
        data: The data set's name; may be empty if the run has one.

    Raises:
        RunError: The run has no classifier, or no such data set.
    """
    head = run.recipe.build_head(width, data_set(run, data))
    if head is None:
        raise RunError(
            f"{run.folder} is a run of {run.method}, without a classifier; train one with "
            "methods.classify."
        )
    run.load_into(head.module, head.prefix)
    return head.module.eval()


def protocol_facts(run: Run, data: DataSet) -> dict[str, Any]:
    """Return what a classifier's numbers depend on: how it was trained, and on which rows.

    Args:
        data: The data set of the classifier.
    """
    rows = read_rows(run.folder, data.name or "train")
    return {**run.recipe.classifier_facts(), "train_rows": rows}


def classifier_words(
    fit: Fit, head: str, dropout: float, backbone: str, selection: str
) -> dict[str, str]:
    """Return `Recipe.classifier_facts` in the words that all methods use.

    Args:
        head: Its kind.
        backbone: How the backbone was trained.
        selection: What was chosen on which videos; empty if nothing was.
    """
    fixed = f"rate {fit.lr}, decay {fit.weight_decay}, fixed; last epoch"
    return {
        "head": f"{head}{f', dropout {dropout}' if dropout else ''}",
        "backbone": backbone,
        "training": f"{fit.optimizer}, {fit.epochs} epochs of batch {fit.batch}",
        "selection": selection or fixed,
    }


# ---- training ----------------------------------------------------------------------------------


def read_recipe(cls: type[R], values: dict, threads: int = 0) -> R:
    """Read a recipe from JSON's values, and set the number of threads.

    Args:
        threads: Of this process; 0 leaves torch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    return recipe_from(cls, values)


def train(
    recipe: Recipe,
    folder: str,
    rows: Mapping[str, Manifest | None],
    build: Callable[[Any], nn.Module],
    batches: DataLoader,
    *,
    start: Callable[[Any], Sequence[object]] = lambda module: (),
    notes: Sequence[str] = (),
    watch: Callable[[Any, Run], Callable[[float], dict] | None] = lambda module, run: None,
    progress: Style = "auto",
) -> str:
    """Train a method into a run directory, or resume there. Returns the directory.

    Args:
        rows: What is trained on and what is held out; a resumed run must find the same.
        build: The recipe -> the method's module. Its random numbers are the first ones drawn.
        start: Loads weights into the module before the first step, and returns what it loaded. A
            resumed run skips it, because its checkpoint contains everything.
        notes: Lines to print before training.
        watch: The module and its run -> what is measured between epochs, or None. If it has
            `conclude`, this is called after training.

    Raises:
        RunError: The directory holds another recipe or other rows, or a video's content changed.
        ValueError: A network of your own breaks the contract of models/own.py.
    """
    torch.manual_seed(recipe.fit.seed)
    module = build(recipe)  # before the folder: a network that is refused leaves none behind
    _check_own(recipe, module)
    run = Run.create(folder, recipe.method, recipe) if ranks.rank() == 0 else None
    if run:
        parts = {name: None if part is None else part.fingerprint() for name, part in rows.items()}
        check_rows(run.folder, parts)
        notes = [*notes, *check_videos(run.folder, _videos(rows), run.checkpoint() is not None)]
    ranks.barrier()
    run = run or Run(folder)
    lines = list(notes)
    if isinstance(clips := batches.dataset, Clips):
        lines += flip_warning("the data set", clips.manifest.classes, clips.spec.augment)
    if recipe.fit.augment_on == "device" and _randaugments(recipe):
        lines.append(
            "RandAugment stays in the loader's workers and takes most of their time, so "
            "augment_on='device' saves little."
        )
    if run.checkpoint() is None:
        lines += map(str, start(module))
    for line in lines if ranks.rank() == 0 else ():
        print(f"{run.folder.name}: {line}", flush=True)
    watched = watch(module, run)
    fit(module, batches, recipe.fit, run, progress, watched, _prepare(module, recipe.fit))
    getattr(watched, "conclude", lambda: None)()
    return folder


def _randaugments(recipe: Recipe) -> bool:
    return any(data.clip.augment.randaugment for data in recipe.data_sets())


def _prepare(module: Any, fit: Fit) -> Prepare:
    """The function that moves a batch to the device and, if the recipe says so, augments it."""
    if fit.augment_on == "workers":
        return moved
    half = getattr(module.encoder, "half_input", False)
    return partial(batched.finish, dtype=DTYPES[fit.precision] if half else torch.float32)


def _check_own(recipe: Recipe, module: nn.Module) -> None:
    """Raise ValueError if the user's own method or network cannot be trained and read again."""
    if not recipe.home.startswith("vidbench."):
        own.encoder_of(module)
    if own.is_own(recipe.network):
        for data in recipe.data_sets():
            clip, encoder = data.clip, own.encoder_of(module)
            own.check_trainable(recipe.network, encoder, clip.frames, clip.augment.size)


def _videos(rows: Mapping[str, Manifest | None]) -> dict[str, Path]:
    """Each video that is trained on or held out: its name in videos.json -> the file."""
    return {
        f"{name}/{part.path[row]}": part.absolute(row)
        for name, part in rows.items()
        if part is not None
        for row in range(len(part))
    }


def training_rows(manifest: str, held_out: float = 0.0) -> tuple[Manifest, Manifest | None]:
    """Return the rows of the train split to train on, and those held out (None if none are).

    The held-out rows follow from the manifest, so runs of all seeds share them.

    Args:
        manifest: Its folder.
        held_out: The share of train to hold out, whole source videos.
    """
    rows = Manifest.load(manifest).select(split="train")
    return rows.hold_out(held_out) if held_out else (rows, None)


def clips_of(rows: Manifest, spec: ClipSpec, flow: str, fit: Fit, cache: int = CACHE) -> Clips:
    """Return the rows' clips.

    Args:
        flow: The flow store, or "".
        cache: Bytes of decoded videos to keep in memory if there are no workers.

    Raises:
        InputError: The views are to be augmented on the device, but are not randomly drawn.
    """
    if fit.augment_on == "device" and spec.sampling in FIXED:
        raise InputError(
            f"augment_on='device' must have sampling {' or '.join(RANDOM)}, whose views are drawn; "
            f"got sampling={spec.sampling!r}. Set augment_on='workers'."
        )
    return Clips(
        rows,
        spec,
        flow_folder=flow or None,
        seed=fit.seed,
        cache_bytes=0 if fit.workers else cache,
        packed=fit.augment_on == "device",
    )


def loader(dataset: Clips | Joint, fit: Fit, batches: Batches | None = None) -> DataLoader:
    """Return this rank's loader of training batches, in the order of the recipe's seed.

    Args:
        batches: Replaces the order.
    """
    if batches is None:
        batches = Batches(
            len(dataset), fit.batch, seed=fit.seed, rank=ranks.rank(), world=ranks.world()
        )
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=batched.collate if fit.augment_on == "device" else None,
        pin_memory=ranks.device().type == "cuda",
        **processes(fit.workers, training=True),
    )


def budget_line(fit: Fit, rows: int, steps: int, note: str = "") -> str:
    """Say in one line what a run will take.

    Args:
        rows: How many rows are trained on.
        steps: Iterations per epoch.
        note: More about the rows, such as how many are held out.
    """
    parts = ranks.world() * fit.accumulate
    shared = (
        f" ({ranks.world()} ranks x {fit.accumulate} parts x {fit.batch // parts})"
        if parts > 1
        else ""
    )
    return (
        f"{rows} training videos{note}; batch {fit.batch}{shared}, {steps} iterations an epoch, "
        f"{fit.epochs} epochs: {steps * fit.epochs:,} iterations, "
        f"{steps * fit.epochs * fit.batch:,} clips"
    )


def load_start(module: Trained, init: str, published: PublishedWeights | None) -> list[str]:
    """Load the backbone of the run `init`, then published weights; return a line for each.

    Raises what `load_init` and `load_published` raise.

    Args:
        init: The run directory, or "".
        published: None loads none.
    """
    said = [load_init(Run(init), module)] if init else []
    if published:
        path, source, inflation = published.path, published.source, published.inflation
        said.append(load_published(module.encoder, path, source, inflation).report)
    return said


def load_init(run: Run, module: Trained) -> str:
    """Load a complete run's backbone, of any method, and say what was loaded.

    Args:
        module: Gets the weights.

    Raises:
        RunError: The run is not complete, or has another network, another stream or, on flow,
            another normalization.
    """
    if run.state != "complete":
        raise RunError(
            f"{run.folder} is {run.state}, not complete; finish its training before another "
            "starts from it."
        )
    theirs = run.recipe
    flow = module.recipe.stream == theirs.stream == "flow"
    other = differences(
        _backbone_facts(module.recipe, module.encoder, flow),
        _backbone_facts(theirs, module.encoder, flow),
    )
    if other:
        raise RunError(
            f"{run.folder} does not fit this recipe:\n  "
            + "\n  ".join(other)
            + "\nUse the run's network, stream and flow settings, as classify.starting_from does."
        )
    said = run.load_into(
        module.encoder,
        "encoder.",
        lambda state: module.encoder.refit(theirs.network_args, state),
    )
    return f"backbone from {run.folder.name}{said and '. '}{said}"


def _backbone_facts(recipe: Recipe, encoder: Backbone, flow: bool) -> dict[str, Any]:
    """What two recipes must share for one to start from the other's backbone."""
    arguments = recipe_dict(recipe)["network_args"].items()
    facts: dict[str, Any] = {
        "network": recipe.network,
        "stream": recipe.stream,
        "network_args": {name: value for name, value in arguments if name not in encoder.refits},
    }
    for name in ("flow_as_rgb", "flow_negate_u") if flow else ():
        facts[name] = getattr(recipe.clip.augment, name)
    return facts
