"""MultiTrain: one backbone, a head per data set, maps between heads, an informative loss.

Source: Liang et al. (NeurIPS 2022), its supplement, and the released code (JunweiLiang/MultiTrain),
which is of three data sets where the paper has four; the paper's main text was not to be had. Every
clip passes every head. Its own head's scores are trained with its label, and so are the other
heads' raw scores after a bias-free map into its own label space, one map for each ordered pair; an
expander's rows of the whole mixed batch are kept varied and uncorrelated. Maps and expander serve
training only.

Two things of the released code are quirks, kept by `released=True`: a clip mixed with one of
another data set loses the partner's share of the label, and label smoothing counts RELEASED_CLASSES
classes for every head, so targets sum to less than one. `released=False`, the default, trains both
clips' heads by their shares and smooths over each head's own classes. A third one: there the losses
of the gathered batch reach each rank's own rows alone, and the mean over ranks then divides all
gradients by their number, which AdamW hides and clipping by a norm does not; `released=True` has
that, too, and without it any number of ranks gives the gradient of the whole batch, the informative
loss included.

Departures: a mixed clip's partner is a random one, not the one as far from the batch's end;
RandAugment and crops are those of data.loading.transforms, augmentation; segments of
Something-Something are equal to a frame, not rounded at (N - 1) / T."""

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec, Sampling
from vidbench.data.loading.joint import Joint, JointBatches, Mix, plan_batches
from vidbench.data.loading.mirrored import flip_warning
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.methods import common
from vidbench.models.heads import mlp
from vidbench.models.published import PublishedWeights
from vidbench.system.progress import Style
from vidbench.system.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SHARE
from vidbench.tensors.losses import informative, soft_cross_entropy, widest
from vidbench.tensors.mixing import Mixed, Mixing

RELEASED_CLASSES = 700  # mixup's class count there, for all heads


@dataclass(frozen=True)
class ClipChange:
    """In which fields a data set's clips differ from the recipe's `clip`; None is no difference.

    A stride replaces the recipe's frame rate, and the other way round. Segments of whole videos have
    neither. flip is the augmentation's, as Something-Something's labels have directions."""

    sampling: Sampling | None = None
    stride: Annotated[int | None, AT_LEAST_1] = None
    target_fps: Annotated[float | None, ABOVE_0] = None
    decode_size: Annotated[int | None, AT_LEAST_1] = None
    flip: Annotated[float | None, SHARE] = None

    def applied(self, clip: ClipSpec) -> ClipSpec:
        """The clip with these fields changed."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        flip = given.pop("flip", clip.augment.flip)
        if self.sampling == "random_segments" or self.stride is not None:
            given.setdefault("target_fps", None)
        if self.target_fps is not None:
            given.setdefault("stride", 1)
        return replace(clip, augment=replace(clip.augment, flip=flip), **given)


@dataclass(frozen=True)
class Part:
    """One data set of several.

    classes: in order; if empty, they are taken from the manifest and written into the run. flow:
    the flow store if the stream is flow."""

    name: str
    manifest: str
    classes: tuple[str, ...] = ()
    flow: str = ""
    clip: ClipChange = ClipChange()
    weight: Annotated[float, ABOVE_0] = 1.0  # of its clips' losses


@dataclass(frozen=True)
class Recipe(common.Recipe, method="multitrain"):
    """One joint training. Defaults are the released configuration's, "supplement" where that says
    otherwise."""

    parts: tuple[Part, ...] = ()
    network: str = "mvit"
    hidden: Annotated[int, AT_LEAST_1] = 2048  # of each head
    dropout: Annotated[float, BELOW_1] = 0.5  # after both layers of a head
    projection: Annotated[float, AT_LEAST_0] = (
        1.0  # weight of the projection losses; 0 is without maps
    )
    informative: Annotated[float, AT_LEAST_0] = (
        0.1  # weight of the informative loss; 0 is without expander
    )
    variance: Annotated[float, AT_LEAST_0] = 25.0
    covariance: Annotated[float, AT_LEAST_0] = 1.0
    expander: Annotated[tuple[int, int], AT_LEAST_1] = (
        4096,
        768,
    )  # hidden and out; the supplement has 2,048 hidden
    label_smoothing: Annotated[float, BELOW_1] = 0.1
    mixing: tuple[Mixing, ...] = ()  # one of them is drawn for each batch
    released: bool = False
    mix: Mix = Mix()
    clip: ClipSpec = ClipSpec(frames=32, stride=3, views=2, augment=AUGMENTS["multitrain"])
    fit: Fit = Fit(
        epochs=50,
        batch=512,
        optimizer="adamw",
        lr=2e-4,
        weight_decay=0.05,
        decay_vectors=False,
        schedule="cosine",
        warmup_epochs=10,
        warmup_lr=2e-6,
        final_lr=2e-6,
        clip_norm=1.0,
        precision="bf16",
        workers=12,
    )
    init: str = ""  # the run whose backbone starts this one
    published: PublishedWeights | None = None  # a file whose backbone starts this one
    selection: str = (
        ""  # what was chosen and on which videos, if anything: it goes with every number
    )

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """The parts."""
        return tuple(
            common.DataSet(part.manifest, part.flow, spec_of(self, part), part.classes, part.name)
            for part in self.parts
        )

    @property
    def parent(self) -> str:
        """The run whose backbone starts this one."""
        return self.init

    def build_head(self, width: int, data: common.DataSet) -> common.Head:
        """Build a part's head, for evaluation (without dropout)."""
        head = mlp(width, self.hidden, len(data.classes))
        return common.Head(head, f"heads.{data.name}.")

    def classifier_facts(self) -> dict[str, str]:
        """Say how the heads were trained, which is alike for all."""
        head = f"mlp of {self.hidden}"
        return common.classifier_words(
            self.fit, head, self.dropout, "1.0 of the rate", self.selection
        )

    def map_name(self, source: str, target: str) -> str:
        """The weight of the map between two parts."""
        return f"maps.{between(source, target)}.weight" if self.projection else ""


# Supplement: Mixup, crops of 224 after a short side of 256 to 320, expander 2,048 wide, AdamW,
# batch 512 (videos of two clips each are an assumption taken from the release), 2e-4 by a cosine
# from a linear warm-up at 2e-6, 50 epochs, no smoothing named (0.1 is the release's). Start it from
# a Kinetics run by `init`.
_PAPER = Recipe(
    expander=(2048, 768),
    mixing=(Mixing("mixup", beta=0.8),),
    clip=ClipSpec(frames=32, target_fps=10.0, views=2, augment=AUGMENTS["multitrain_supplement"]),
)
# Its two YAML files: RandAugment, random erasing, Mixup and CutMix in turn, quirks as released, 64
# videos by 8 parts. Its code multiplies the rate by the number of machines, so its README's run on
# two had 4e-4.
_RELEASED = replace(
    _PAPER,
    expander=(4096, 768),
    released=True,
    clip=replace(_PAPER.clip, augment=AUGMENTS["multitrain"]),
    mixing=(Mixing("mixup", beta=0.8), Mixing("cutmix", beta=1.0)),
    fit=replace(_PAPER.fit, accumulate=8),
)
_MILD = replace(AUGMENTS["toy"], jitter_p=0.3, gray_p=0.0, blur_p=0.0)  # as classify's toy settings
# The smallest MViTv2 on optical flow: on RGB it stays at chance on the toy worlds for 10,000 clips
# (measured). Every number is an assumption.
_TOY = Recipe(
    network_args={"preset": "tiny", "size": 48},
    hidden=128,
    dropout=0.1,
    expander=(256, 128),
    stream="flow",
    clip=ClipSpec(frames=8, stride=3, views=1, augment=_MILD),
    fit=Fit(
        epochs=8,
        batch=32,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        decay_vectors=False,
        schedule="cosine",
        warmup_epochs=1,
        warmup_lr=1e-5,
        clip_norm=1.0,
        log_every=11,
    ),
)
_CSN: dict[str, Any] = {
    "network": "csn",
    "network_args": {"width": 0.125, "blocks": (1, 1, 2, 2), "stem_stride": 2},
}
PRESETS = {
    # As notebook 30 opens: a net that learns from the few clips of a minute.
    "tiny": replace(
        _TOY,
        **_CSN,
        hidden=64,
        expander=(64, 64),
        clip=replace(_TOY.clip, stride=2),
        fit=replace(_TOY.fit, batch=16, lr=3e-3),
    ),
    "toy": _TOY,  # the toy worlds `small`
    "toy_rgb": replace(
        _TOY, **_CSN, stream="rgb", fit=replace(_TOY.fit, lr=3e-3)
    ),  # a net that learns them on RGB
    "paper": _PAPER,
    "released": _RELEASED,
}
SEGMENTS = ClipChange(sampling="random_segments", flip=0.0)
# What differs for a data set, by its name in data.datasets: of Something-Something segments of the
# whole video and no flip (supplement), as its labels have directions.
OF_DATA = {"ssv2": SEGMENTS}


class MultiTrain(nn.Module):
    """Backbone, heads, maps between heads, expander.

    forward: batch {stream: [B,V,C,T,H,W], label [B], dataset [B]} -> (loss [], its parts and each
    data set's accuracy; NaN for one without a clip in the batch). Raises ValueError on fewer than
    two classes, two parts of one name, an unknown mixing, and in training on a single clip where
    the informative loss is on."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        _check_parts(recipe)
        names = [part.name for part in recipe.parts]
        self.recipe, self.names = recipe, names
        self.encoder = recipe.build_backbone()
        width = self.encoder.out_channels
        self.heads = nn.ModuleDict(
            {
                part.name: mlp(width, recipe.hidden, len(part.classes), recipe.dropout)
                for part in recipe.parts
            }
        )
        self.maps = nn.ModuleDict()
        if recipe.projection:
            for source, target in permutations(recipe.parts, 2):
                made = self.maps[between(source.name, target.name)] = nn.Linear(
                    len(source.classes), len(target.classes), bias=False
                )
                nn.init.trunc_normal_(made.weight, std=0.02)
        if recipe.informative:
            self.expander = mlp(width, *recipe.expander)

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
        recipe, views = self.recipe, batch[self.recipe.stream]
        mixed = self._mixed(views) if self.training else None
        clips, count = (views if mixed is None else mixed.clips).flatten(0, 1), views.shape[1]
        feature = self.encoder(clips).mean(dim=(2, 3, 4))
        targets = [
            target.repeat_interleave(count, dim=0)
            for target in self.targets(batch["label"], batch["dataset"], mixed)
        ]
        scores = [head(feature) for head in self.heads.values()]
        weights = [part.weight for part in recipe.parts]
        triples = zip(weights, scores, targets, strict=True)
        own = _added(w * soft_cross_entropy(s, t) for w, s, t in triples).mean()
        numbers, loss = {"classification": own.detach()}, own
        if self.training and recipe.projection and len(self.names) > 1:
            projected = self._projected(scores, targets, weights)
            loss, numbers["projection"] = loss + recipe.projection * projected, projected.detach()
        if self.training and recipe.informative:
            variance, covariance = informative(_all(self.expander(feature).float()))
            loss = loss + recipe.informative * (
                recipe.variance * variance + recipe.covariance * covariance
            )
            numbers |= {"variance": variance.detach(), "covariance": covariance.detach()}
        if recipe.released and ranks.world() > 1:
            loss = loss.detach() + (loss - loss.detach()) / ranks.world()
        return loss, {**numbers, **self._accuracies(scores, batch, count)}

    def targets(self, label: Tensor, dataset: Tensor, mixed: Mixed | None) -> list[Tensor]:
        """For each data set the targets [B,C_d] of all clips, zeros for those without a share in
        it.

        With `released` the partner of another data set leaves nothing, and smoothing is over
        RELEASED_CLASSES."""
        recipe, made = self.recipe, []
        smooth = recipe.label_smoothing if self.training else 0.0
        for number, part in enumerate(recipe.parts):
            classes, here = len(part.classes), dataset == number
            full = F.one_hot(torch.where(here, label, 0), classes).float() * (1 - smooth)
            full = (full + smooth / (RELEASED_CLASSES if recipe.released else classes)) * here[
                :, None
            ]
            if mixed is not None:
                share = mixed.share.to(full)[:, None]
                full = share * full + (1 - share) * full[mixed.partner]
                if recipe.released:
                    full = full * here[:, None]
            made.append(full)
        return made

    def _projected(
        self, scores: list[Tensor], targets: list[Tensor], weights: list[float]
    ) -> Tensor:
        """Every other head's scores mapped into the clip's own label space: the mean over those
        heads."""
        total = _added(
            weights[n]
            * soft_cross_entropy(self.maps[between(source, target)](scores[k]), targets[n])
            for (k, source), (n, target) in permutations(enumerate(self.names), 2)
        )
        return total.mean() / (len(self.names) - 1)

    def _accuracies(self, scores: list[Tensor], batch: dict, count: int) -> dict[str, Tensor]:
        label, dataset = (batch[name].repeat_interleave(count) for name in ("label", "dataset"))
        found = {}
        for number, name in enumerate(self.names):
            here = dataset == number
            right = scores[number].detach().argmax(dim=1) == label
            found[f"{name} accuracy"] = (right & here).sum() / here.sum()
        return found

    def _mixed(self, views: Tensor) -> Mixed | None:
        if not self.recipe.mixing:
            return None
        return self.recipe.mixing[int(torch.randint(len(self.recipe.mixing), ()))](views)


def _check_parts(recipe: Recipe) -> None:
    """Raise ValueError on parts that cannot be trained on together."""
    names = [part.name for part in recipe.parts]
    # the names become parts of weights' names
    fit = all(name and not set(name) & set(".>") for name in names)
    if (
        not names
        or not fit
        or len(set(names)) < len(names)
        or any(len(part.classes) < 2 for part in recipe.parts)
    ):
        raise ValueError(
            "MultiTrain wants parts of different names without . or >, each with at least 2 "
            "classes; "
            f"got {[(part.name, len(part.classes)) for part in recipe.parts]}."
        )
    clips = recipe.fit.batch * recipe.clip.views // recipe.fit.accumulate
    if recipe.informative and clips < 2:
        raise ValueError(
            "the informative loss wants at least 2 clips at once, as one has no variance; got "
            f"{clips}: raise fit.batch or set informative to 0."
        )


def between(source: str, target: str) -> str:
    """The name of the map from one data set's scores to another's labels."""
    return f"{source}>{target}"


def _added(losses: Iterable[Tensor]) -> Tensor:
    """Losses of each clip [B], added in their order."""
    return functools.reduce(operator.add, losses)


class _Gathered(torch.autograd.Function):
    """All ranks' rows; the gradient of a rank's own rows is that of the whole, which DDP's mean
    over ranks expects times their number."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.part = slice(ranks.rank() * len(rows), (ranks.rank() + 1) * len(rows))
        return ranks.gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.part] * ranks.world()


def _all(rows: Tensor) -> Tensor:
    return _Gathered.apply(rows) if ranks.world() > 1 else rows


# ---- a run -------------------------------------------------------------------------------------


def train(recipe: dict, folder: str, progress: Style = "auto", threads: int = 0) -> str:
    """Run one joint training into a run directory, or resume there. Returns the directory.

    The classes of each part go into the run. A part whose manifest has others is refused.

    Args:
        recipe: A Recipe in JSON's values (runs.recipe_dict), so that other processes can be given it.
        threads: Of this process; 0 leaves torch's choice.

    Raises:
        ValueError: The parts cannot be trained on together.
        RunError: The directory holds another recipe or other rows, or `init` does not fit.
    """
    own = common.read_recipe(Recipe, recipe, threads)
    manifests, own = rows_of(own)
    batches = loader(own, manifests)
    rows = dict(zip((part.name for part in own.parts), manifests, strict=True))
    total = sum(map(len, manifests))
    return common.train(
        own,
        folder,
        rows,
        MultiTrain,
        batches,
        start=lambda method: common.load_start(method, own.init, own.published),
        notes=[common.budget_line(own.fit, total, len(batches)), *warnings_of(own)],
        progress=progress,
    )


def rows_of(recipe: Recipe) -> tuple[list[Manifest], Recipe]:
    """Each part's training rows, and the recipe with their classes. Raises ValueError where a part
    has none, rows without label, or other classes than the recipe's."""
    manifests, parts = [], []
    for part in recipe.parts:
        rows, _ = common.training_rows(part.manifest)
        if not len(rows) or (rows.label < 0).any():
            raise ValueError(
                f"{part.name}: the manifest in {part.manifest} has {len(rows)} training rows, "
                f"{int((rows.label < 0).sum())} of them without label; MultiTrain wants labels."
            )
        if part.classes and part.classes != rows.classes:
            raise ValueError(
                f"{part.name}: the recipe's {len(part.classes)} classes are not the "
                f"{len(rows.classes)} "
                f"of {part.manifest}, or in another order. Leave `classes` empty to take them."
            )
        manifests.append(rows)
        parts.append(replace(part, classes=rows.classes))
    return manifests, replace(recipe, parts=tuple(parts))


def loader(recipe: Recipe, manifests: list[Manifest]) -> DataLoader:
    """This rank's batches, mixed as the recipe says."""
    clips = [
        common.clips_of(rows, spec_of(recipe, part), part.flow, recipe.fit)
        for part, rows in zip(recipe.parts, manifests, strict=True)
    ]
    batches = JointBatches(
        [len(rows) for rows in manifests],
        recipe.fit.batch,
        recipe.mix,
        seed=recipe.fit.seed,
        rank=ranks.rank(),
        world=ranks.world(),
    )
    return common.loader(Joint(clips), recipe.fit, batches)


def spec_of(recipe: Recipe, part: Part) -> ClipSpec:
    """How a part's videos become clips."""
    return replace(part.clip.applied(recipe.clip), streams=(recipe.stream,))


def warnings_of(recipe: Recipe) -> list[str]:
    """What in a recipe cannot come out well, in plain words. Classes are those of the recipe's
    parts."""
    rows = recipe.fit.batch * recipe.clip.views // recipe.fit.accumulate
    found: list[str] = []
    for part in recipe.parts:
        found += flip_warning(part.name, part.classes, spec_of(recipe, part).augment)
    if recipe.informative and recipe.expander[1] > widest(rows, recipe.variance, recipe.covariance):
        found.append(
            f"the expander's {recipe.expander[1]} dimensions are too many for the informative "
            f"loss on {rows} "
            "clips at once: noise in the covariance weighs more than the variance it asks for; "
            f"{widest(rows, recipe.variance, recipe.covariance)} would fit"
            f"{' (accumulation does not help)' * (recipe.fit.accumulate > 1)}"
        )
    return found


def alone(recipe: Recipe, part: Part) -> Recipe:
    """The recipe on one data set alone, which joint training is compared with: no maps, no
    expander."""
    return replace(recipe, parts=(part,), projection=0.0, informative=0.0)


def cost(
    video_epochs: float,
    image_epochs: float,
    image_seconds: float,
    video_seconds: float,
    scratch: float,
) -> float:
    """What training on images first and then on video takes, over `scratch` epochs of video alone
    (supplement, 2.3).

    seconds: of an epoch of images and of video. There an epoch of Kinetics takes about 3,200; 1,800
    for ImageNet-1K and 11,000 for ImageNet-21K-P are derived, as with them its 34 % and 92 % more
    come out."""
    return (video_epochs + image_epochs * image_seconds / video_seconds) / scratch


def planned(recipe: Recipe) -> list[dict]:
    """data.joint.plan_batches of a recipe: what training will see, before it runs."""
    manifests, recipe = rows_of(recipe)
    return plan_batches(
        [part.name for part in recipe.parts],
        [len(rows) for rows in manifests],
        recipe.fit.batch,
        recipe.mix,
        recipe.fit.epochs,
    )
