"""Supervised training of a backbone and a head: from scratch, fine-tuned, or a linear probe.

Source: CoCLR's supplement (table 2) and its released evaluation (TengdaHan/CoCLR,
eval/main_classifier.py and model/classifier.py). What differs between the three is in the recipe:
`init` names the run whose backbone is taken, `freeze` keeps it as it is (in eval mode, batch-norm
statistics untouched), `backbone_lr` slows it down.

Departures from the released code. Nothing is selected on test videos: it keeps the epoch that is
best on 30 % of them; here the last epoch counts, watched and, by experiments.sweep, chosen on whole
sources held out of train. Its crop is cut at 224 pixels and then brought to 128, here at once; it
flips a batch by one coin, here each clip by its own. Batch-norm statistics are those of a rank's
part of the global batch, as there.

RMS and its rivals (Kim et al., CVPR 2020) are trained here, too: the regularizer is in the residual
branches, `mixing` mixes clips."""

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

    forward: batch {stream: [B,V,C,T,H,W], label [B]} -> (cross-entropy over views [], numbers
    accuracy and top5, of mixed samples by their own label). Raises ValueError on an unknown stream,
    fewer than two classes, or what the network and the head refuse."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.encoder = recipe.build_backbone()
        known = tuple(NAMES.values())
        if recipe.regularizer and not any(
            isinstance(module, known) for module in self.encoder.modules()
        ):
            raise ValueError(
                f"Classifier: the regularizer {recipe.regularizer} stands nowhere in "
                f"{recipe.network}: no site has such a stage or pathway."
            )
        self.head = models.build_head(
            recipe.head, self.encoder.out_channels, len(recipe.classes), recipe.dropout
        )
        self.encoder.requires_grad_(not recipe.freeze)

    def train(self, mode: bool = True) -> "Classifier":
        """A frozen backbone stays in eval mode, so that its batch-norm statistics stay, too."""
        super().train(mode)
        if self.recipe.freeze:
            self.encoder.eval()
        return self

    def parameter_groups(self) -> list[dict]:
        """The head at the recipe's rate, the backbone at `backbone_lr` times it; of a frozen one
        nothing."""
        groups = [{"params": list(self.head.parameters()), "scale": 1.0}]
        if not self.recipe.freeze:
            groups.append(
                {"params": list(self.encoder.parameters()), "scale": self.recipe.backbone_lr}
            )
        return groups

    def scores(self, clips: Tensor) -> Tensor:
        """Clips [B,C,T,H,W] -> class scores [B,classes], float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.recipe.freeze):
            pooled = self.encoder(clips).mean(dim=(2, 3, 4))
        return self.head(pooled).float()

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
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
        recipe: A Recipe in JSON's values (runs.recipe_dict), so that other processes can be given it.
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
    """The rows to train on and those of train that are held out (None where nothing is).

    The held-out part does not follow from the recipe's seed, so runs of several seeds are watched
    on the same videos. Raises ValueError where the split is empty, rows have no label, or the
    classes are not the recipe's."""
    rows, _ = common.training_rows(recipe.manifest)
    if not len(rows):
        raise ValueError(
            f"nothing to train on: the manifest in {recipe.manifest} has no train split."
        )
    unknown = (rows.label < 0).nonzero()[0]
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(rows)} training rows have no label, the first is "
            f"{rows.path[unknown[0]]}; a classifier wants labels, so name them or drop the rows."
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
    """What the run will take, in one line."""
    note = f", {held} held out, {len(recipe.classes)} classes"
    return common.budget_line(recipe.fit, rows, iterations, note)


def loader(recipe: Recipe, rows: Manifest) -> DataLoader:
    """This rank's batches of the rows to train on."""
    spec = replace(recipe.clip, streams=(recipe.stream,))
    return common.loader(common.clips_of(rows, spec, recipe.flow, recipe.fit), recipe.fit)


class Watch:
    """Loss and accuracy on held-out rows, without randomness: the center crop of the window in the
    middle.

    Calling it gives {"loss", "accuracy", "top5"}, the same on every rank; rows are shared out over
    ranks."""

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
