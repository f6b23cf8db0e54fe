"""MultiTrain: one backbone, a head per data set, maps between heads, an informative loss.

Source: Liang et al. (NeurIPS 2022), its supplement, and the released code (JunweiLiang/MultiTrain),
which has three data sets where the paper has four; the paper's main text is not available. Every
clip passes through every head. Its own head's scores are trained with its label. So are the other
heads' scores, after a bias-free map into the clip's label space; there is one map for each ordered
pair of data sets. The informative loss keeps an expander's rows of the whole batch varied and
uncorrelated. Maps and expander serve training only. With the scores s_d = head_d(backbone(x)) of a
clip x of data set a with label y:

    loss = CE(s_a, y) + projection * mean over d != a of CE(M_da s_d, y)
           + informative * (variance * v + covariance * c)

where M_da is the map from d's labels to a's, v and c are those of tensors.losses.informative, and
the weights are fields of the recipe.

The released code has three quirks, which `released=True` keeps:
- A clip mixed with one of another data set loses the partner's share of the label, because targets
  are smoothed, then mixed, then masked.
- Label smoothing counts RELEASED_CLASSES classes for every head, so targets sum to less than one.
- The loss of the gathered batch reaches each rank's own rows alone. The mean over ranks then
divides
  all gradients by the number of ranks, which matters to clipping by a norm, but not to AdamW.

With `released=False`, the default, both clips' heads are trained by their shares, each head smooths
over its own classes, and any number of ranks gives the gradient of the whole batch.

Departures: a mixed clip's partner is random, not the clip as far from the batch's end; RandAugment
and crops are those of data.loading.transforms, augmentation.

Example: heads of three and two classes on one backbone, and the map between them each way.

>>> parts = Part("a", "", ("x", "y", "z")), Part("b", "", ("v", "w"))
>>> method = MultiTrain(replace(PRESETS["toy"], parts=parts))
>>> {name: one.weight.shape for name, one in method.maps.items()}
{'a>b': torch.Size([2, 3]), 'b>a': torch.Size([3, 2])}
"""

import functools
import operator
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vidbench.data.loading.joint import Joint, JointBatches, plan_batches
from vidbench.data.loading.mirrored import flip_warning
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.methods import common
from vidbench.methods.recipes.multitrain import (  # noqa: F401
    OF_DATA,
    PRESETS,
    SEGMENTS,
    ClipChange,
    Part,
    Recipe,
    alone,
    between,
    spec_of,
)
from vidbench.models.heads import mlp
from vidbench.system.progress import Style
from vidbench.tensors.losses import informative, soft_cross_entropy, widest
from vidbench.tensors.mixing import Mixed, mix_batch

RELEASED_CLASSES = 700  # mixup's class count there, for all heads


class MultiTrain(nn.Module):
    """Backbone, heads, maps between heads, expander.

    Raises ValueError on fewer than two classes, two parts of one name, an unknown mixing, and the
    informative loss with a single clip at once.
    """

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
        """Compute the loss of a batch, its parts, and each data set's accuracy.

        Args:
            batch: {stream: [B,V,C,T,H,W], label: [B], dataset: [B]}.

        Returns:
            The loss [], and numbers by name; the accuracy of a data set without a clip is NaN.
        """
        recipe, views = self.recipe, batch[self.recipe.stream]
        mixed = mix_batch(recipe.mixing, views) if self.training else None
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
        """Compute each data set's targets; clips without a share in a data set have zeros there.

        With `released`, a partner from another data set adds only its label smoothing.

        Args:
            label: The class of each clip in its data set [B].
            dataset: The number of each clip's data set [B].
            mixed: Partners and shares, or None if nothing is mixed.

        Returns:
            For each data set [B,classes].
        """
        recipe, made = self.recipe, []
        smooth = recipe.label_smoothing if self.training else 0.0
        for number, part in enumerate(recipe.parts):
            classes, here = len(part.classes), dataset == number
            mask = here[:, None]
            full = F.one_hot(torch.where(here, label, 0), classes) * mask * (1 - smooth)
            if recipe.released:
                full = full + smooth / RELEASED_CLASSES  # of every clip: masked after mixing
            else:
                full = full + mask * smooth / classes
            if mixed is not None:
                share = mixed.share.to(full)[:, None]
                full = share * full + (1 - share) * full[mixed.partner]
            made.append(full * mask if recipe.released else full)
        return made

    def _projected(
        self, scores: list[Tensor], targets: list[Tensor], weights: list[float]
    ) -> Tensor:
        """The loss of the other heads' mapped scores, the mean over these heads."""
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


def _check_parts(recipe: Recipe) -> None:
    """Raise ValueError on parts that cannot be trained on together."""
    names = [part.name for part in recipe.parts]
    # weights' names contain the parts' names
    fit = all(name and not set(name) & set(".>") for name in names)
    if (
        not names
        or not fit
        or len(set(names)) < len(names)
        or any(len(part.classes) < 2 for part in recipe.parts)
    ):
        raise ValueError(
            "MultiTrain needs parts with different names without . or >, each with at least 2 "
            f"classes; got {[(part.name, len(part.classes)) for part in recipe.parts]}."
        )
    clips = recipe.fit.batch * recipe.clip.views // recipe.fit.accumulate
    if recipe.informative and clips < 2:
        raise ValueError(
            "the informative loss needs at least 2 clips at once, as one has no variance; got "
            f"{clips}. Raise fit.batch, or set informative to 0."
        )


def _added(losses: Iterable[Tensor]) -> Tensor:
    """Losses of each clip [B], added in their order."""
    return functools.reduce(operator.add, losses)


class _Gathered(torch.autograd.Function):
    """All ranks' rows. The gradient of a rank's rows is multiplied by the number of ranks, because
    DDP divides by it.
    """

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

    The run stores the classes of each part. A part whose manifest has others is refused.

    Args:
        recipe: A Recipe in JSON's values (runs.recipe_dict), so that it can be sent to processes.
        folder: The run directory.
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
    """Return each part's training rows, and the recipe with their classes.

    Raises:
        ValueError: A part has no training rows, rows without label, or other classes than the
            recipe's.
    """
    manifests, parts = [], []
    for part in recipe.parts:
        rows, _ = common.training_rows(part.manifest)
        if not len(rows) or (rows.label < 0).any():
            raise ValueError(
                f"{part.name}: the manifest in {part.manifest} has {len(rows)} training rows, "
                f"{int((rows.label < 0).sum())} of them without label. MultiTrain needs labels."
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
    """Return this rank's loader of training batches, mixed as `recipe.mix` says.

    Args:
        manifests: The training rows of each part.
    """
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


def warnings_of(recipe: Recipe) -> list[str]:
    """List sentences about what in a recipe cannot work well; its parts must have their classes."""
    rows = recipe.fit.batch * recipe.clip.views // recipe.fit.accumulate
    found: list[str] = []
    for part in recipe.parts:
        found += flip_warning(part.name, part.classes, spec_of(recipe, part).augment)
    if recipe.informative and recipe.expander[1] > widest(rows, recipe.variance, recipe.covariance):
        found.append(
            f"the expander's {recipe.expander[1]} dimensions are too many for the informative loss "
            f"on {rows} clips at once: noise in the covariance weighs more than the variance it "
            f"needs; {widest(rows, recipe.variance, recipe.covariance)} would "
            f"fit{' (accumulation does not help)' * (recipe.fit.accumulate > 1)}"
        )
    return found


def cost(
    video_epochs: float,
    image_epochs: float,
    image_seconds: float,
    video_seconds: float,
    scratch: float,
) -> float:
    """Compute the cost of training on images, then on video, over `scratch` epochs of video alone.

    The supplement (2.3) gives 3,200 seconds for an epoch of Kinetics, 1,800 of ImageNet-1K and
    11,000 of ImageNet-21K-P. The epochs of images are inferred: 300 and 90 give its 34 % and 92 %.

    Args:
        video_epochs, image_epochs: Epochs on video and on images.
        image_seconds, video_seconds: Seconds of an epoch.
        scratch: Epochs of the training from scratch that this is compared with.
    """
    return (video_epochs + image_epochs * image_seconds / video_seconds) / scratch


def planned(recipe: Recipe) -> list[dict]:
    """Plan a recipe's batches (data.loading.joint.plan_batches): what training will see."""
    manifests, recipe = rows_of(recipe)
    return plan_batches(
        [part.name for part in recipe.parts],
        [len(rows) for rows in manifests],
        recipe.fit.batch,
        recipe.mix,
        recipe.fit.epochs,
    )
