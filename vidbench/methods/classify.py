"""Supervised training of a backbone and a head: from scratch, fine-tuned, or a linear probe.

Source: CoCLR's supplement (table 2) and its released evaluation (TengdaHan/CoCLR,
eval/main_classifier.py and model/classifier.py). The recipe decides which of the three it is:
`init` names the run whose backbone is loaded, `freeze` keeps the backbone fixed (in eval mode, with
its batch-norm statistics), `backbone_lr` scales its learning rate.

Departures from the released code:
- It keeps the epoch that is best on 30 % of the test videos. Here the last epoch counts, and
nothing
  is selected on test videos: whole sources held out of train are watched, and experiments.sweep
  selects on them.
- It crops at 224 pixels and then resizes to 128; here one step does both.
- It flips a whole batch or none; here each clip is flipped or not.

As in the released code, batch-norm statistics are those of a rank's part of the global batch.

RMS and its rivals (Kim et al., CVPR 2020) are trained here, too: the regularizer is in the residual
branches, and `mixing` mixes clips.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vidbench import models
from vidbench.data.loading.dataset import Clips, processes
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.methods import common
from vidbench.methods.recipes.classify import PRESETS, Recipe, starting_from  # noqa: F401
from vidbench.system.progress import Style
from vidbench.tensors.metrics import topk_hit
from vidbench.tensors.mixing import mix_batch, soft_labels
from vidbench.tensors.regularizers import NAMES


class Classifier(nn.Module):
    """A backbone, the global average of its map, and a head.

    Raises ValueError on an unknown stream, fewer than two classes, or what the network and the head
    refuse.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.encoder = recipe.build_backbone()
        known = tuple(NAMES.values())
        if recipe.regularizer and not any(
            isinstance(module, known) for module in self.encoder.modules()
        ):
            raise ValueError(
                f"Classifier: the regularizer {recipe.regularizer} is applied nowhere in "
                f"{recipe.network}: no residual branch has such a stage or pathway. Choose others."
            )
        self.head = models.build_head(
            recipe.head, self.encoder.out_channels, len(recipe.classes), recipe.dropout
        )
        self.encoder.requires_grad_(not recipe.freeze)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; a frozen backbone and its batch-norm statistics stay in eval mode."""
        super().train(mode)
        if self.recipe.freeze:
            self.encoder.eval()
        return self

    def parameter_groups(self) -> list[dict]:
        """List the parameters of the head and, unless it is frozen, of the backbone.

        `scale` multiplies the recipe's rate: 1 for the head, `backbone_lr` for the backbone.
        """
        groups = [{"params": list(self.head.parameters()), "scale": 1.0}]
        if not self.recipe.freeze:
            groups.append(
                {"params": list(self.encoder.parameters()), "scale": self.recipe.backbone_lr}
            )
        return groups

    def scores(self, clips: Tensor) -> Tensor:
        """Compute class scores [B,classes], float32, of clips [B,C,T,H,W]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.recipe.freeze):
            pooled = self.encoder(clips).mean(dim=(2, 3, 4))
        return self.head(pooled).float()

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
        """Compute the loss and the accuracies of a batch.

        Args:
            batch: {stream: [B,V,C,T,H,W], label: [B]}.

        Returns:
            The cross-entropy over all views [], and the numbers accuracy and top5. A mixed sample
            counts as right if its own label is found.
        """
        views, label = batch[self.recipe.stream], batch["label"]
        mixed = mix_batch(self.recipe.mixing, views) if self.training else None
        clips = (views if mixed is None else mixed.clips).flatten(0, 1)
        scores, count = self.scores(clips), views.shape[1]
        right = F.one_hot(label.repeat_interleave(count), scores.shape[1]).bool()
        wanted = (
            right.float()
            if mixed is None
            else soft_labels(label, mixed, scores.shape[1]).repeat_interleave(count, dim=0)
        )
        loss = F.cross_entropy(scores, wanted, label_smoothing=self.recipe.label_smoothing)
        return loss, {
            "accuracy": topk_hit(scores.detach(), right).float().mean(),
            "top5": topk_hit(scores.detach(), right, 5).float().mean(),
        }


# ---- a run -------------------------------------------------------------------------------------


def train(recipe: dict, folder: str, progress: Style = "auto", threads: int = 0) -> str:
    """Run one supervised training into a run directory, or resume there. Returns the directory.

    Args:
        recipe: A Recipe in JSON's values (runs.recipe_dict), so that it can be sent to processes.
        folder: The run directory.
        threads: Of this process; 0 leaves torch's choice.

    Raises:
        ValueError: Rows have no label, or other classes than the recipe's.
        RunError: The directory holds another recipe or other rows, or `init` is not complete or has
            another network, stream or flow normalization.
    """
    own = common.read_recipe(Recipe, recipe, threads)
    rows, held = rows_of(own)
    own = replace(own, classes=rows.classes)
    batches = loader(own, rows)
    notes = [budget_line(own, len(rows), 0 if held is None else len(held), len(batches))]
    notes += ["the backbone is frozen"] if own.freeze else []
    return common.train(
        own,
        folder,
        {"train": rows, "held_out": held},
        Classifier,
        batches,
        start=lambda method: common.load_start(method, own.init, own.published),
        notes=notes,
        watch=lambda method, run: None if held is None else Watch(method, held),
        progress=progress,
    )


def rows_of(recipe: Recipe) -> tuple[Manifest, Manifest | None]:
    """Return the rows to train on, and the rows of train that are held out (None if none are).

    The held-out part does not depend on the recipe's seed, so runs of several seeds are watched on
    the same videos.

    Raises:
        ValueError: The split is empty, rows have no label, or the classes are not the recipe's.
    """
    rows, _ = common.training_rows(recipe.manifest)
    if not len(rows):
        raise ValueError(
            f"nothing to train on: the manifest in {recipe.manifest} has no train split."
        )
    unknown = (rows.label < 0).nonzero()[0]
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(rows)} training rows have no label, the first is "
            f"{rows.path[unknown[0]]}. A classifier needs labels: add them, or drop the rows."
        )
    if recipe.classes and recipe.classes != rows.classes:
        here, there = (
            [name for name in left if name not in right]
            for left, right in ((recipe.classes, rows.classes), (rows.classes, recipe.classes))
        )
        raise ValueError(
            f"the recipe's {len(recipe.classes)} classes are not the {len(rows.classes)} of the "
            f"manifest in {recipe.manifest}: only in the recipe {here[:5]}, only in the manifest "
            f"{there[:5]}{', the order differs' * (not here and not there)}. Leave `classes` empty "
            "to take them."
        )
    return rows.hold_out(recipe.held_out) if recipe.held_out else (rows, None)


def budget_line(recipe: Recipe, rows: int, held: int, iterations: int) -> str:
    """Say in one line what the run will take.

    Args:
        rows, held: How many rows are trained on, and how many are held out.
        iterations: Of an epoch.
    """
    note = f", {held} held out, {len(recipe.classes)} classes"
    return common.budget_line(recipe.fit, rows, iterations, note)


def loader(recipe: Recipe, rows: Manifest) -> DataLoader:
    """Return this rank's loader of training batches.

    Args:
        rows: The rows to train on.
    """
    spec = replace(recipe.clip, streams=(recipe.stream,))
    return common.loader(common.clips_of(rows, spec, recipe.flow, recipe.fit), recipe.fit)


class Watch:
    """Loss and accuracy on held-out rows, of the middle window's center crop, without randomness.

    A call returns {"loss", "accuracy", "top5"}, the same on every rank, as each computes a share.
    """

    def __init__(self, method: Classifier, rows: Manifest):
        recipe, self.method = method.recipe, method
        augment = recipe.clip.augment
        # as features.PROTOCOLS["one_view"]
        size = None if augment.pad else round(augment.size * 256 / 224)
        spec = replace(
            recipe.clip,
            streams=(recipe.stream,),
            sampling="spread",
            windows=1,
            crops="center",
            resize=size,
        )
        workers = recipe.fit.workers
        cache = 0 if workers else common.CACHE
        clips = Clips(rows, spec, flow_folder=recipe.flow or None, cache_bytes=cache)
        mine, step = (
            [(0, row) for row in range(ranks.rank(), len(rows), ranks.world())],
            max(1, recipe.fit.batch // 2),
        )
        self.loader = DataLoader(
            clips,
            batch_sampler=[mine[i : i + step] for i in range(0, len(mine), step)],
            **{**processes(workers), "persistent_workers": workers > 0},
        )  # used every epoch

    @torch.no_grad()
    def __call__(self, epoch: float = 0.0) -> dict[str, float]:
        self.method.eval()
        device, names, sums = ranks.device(), ("loss", "accuracy", "top5"), torch.zeros(4)
        for batch in self.loader:
            batch = {name: value.to(device) for name, value in batch.items()}
            loss, numbers = self.method(batch)
            numbers = {"loss": loss, **numbers}
            sums += torch.tensor([*(float(numbers[name]) for name in names), 1.0]) * len(
                batch["row"]
            )
        *totals, count = (ranks.mean(sums.to(device)) * ranks.world()).tolist()
        return {name: value / count for name, value in zip(names, totals, strict=True)}
