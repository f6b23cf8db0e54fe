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

RMS and its rivals (Kim et al., CVPR 2020) are trained here, too: `regularizer` stands in the
residual branches, `mixing` mixes clips. Of RMS's paper only the supplement was to be had; a
preset's comment says what that leaves open."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vidbench import models
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import Clips, ClipSpec, processes
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run
from vidbench.methods import common
from vidbench.models.published import PublishedWeights
from vidbench.system.progress import Style
from vidbench.system.ranges import AT_LEAST_0, BELOW_1
from vidbench.tensors.metrics import topk_hit
from vidbench.tensors.mixing import Mixing, soft_labels
from vidbench.tensors.regularizers import NAMES, Regularizer


@dataclass(frozen=True)
class Recipe(common.Recipe, method="classify"):
    """One supervised run. Paths name what it reads: a manifest, a flow store, the run it starts
    from."""

    head: str = "linear"  # models.heads.HEADS
    dropout: Annotated[float, BELOW_1] = 0.0  # before the linear layer
    label_smoothing: Annotated[float, BELOW_1] = 0.0
    regularizer: Regularizer | None = None  # in the residual branches
    mixing: Mixing | None = None
    classes: tuple[
        str, ...
    ] = ()  # names in order of their numbers; empty takes the manifest's and writes them down
    freeze: bool = False  # the backbone stays as it is, its batch-norm statistics too
    backbone_lr: Annotated[float, AT_LEAST_0] = 1.0  # the backbone's rate over the head's
    held_out: Annotated[float, BELOW_1] = (
        0.0  # share of train, whole sources, that is watched and not trained on
    )
    selection: str = (
        ""  # what was chosen and on which videos, if anything: it goes with every number
    )
    clip: ClipSpec = ClipSpec(frames=32, stride=1, views=1, augment=AUGMENTS["coclr_finetune"])
    fit: Fit = Fit(epochs=100, batch=64)
    manifest: str = ""
    flow: str = ""
    init: str = ""  # the run whose backbone starts this one; empty is from scratch
    published: PublishedWeights | None = None  # a file whose backbone starts this one

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """The videos of the recipe's manifest, with their classes."""
        return (common.DataSet(self.manifest, self.flow, self.clip, self.classes),)

    @property
    def parent(self) -> str:
        """The run whose backbone starts this one."""
        return self.init

    def build_backbone(self) -> models.Backbone:
        """Build the backbone with its regularizer, as some of these scale in evaluation, too."""
        branches = self.regularizer.build() if self.regularizer else None
        return models.build(self.network, regularizer=branches, **self.network_args)

    def build_head(self, width: int, data: common.DataSet) -> common.Head:
        """Build the classifier, for evaluation (without dropout)."""
        return common.Head(models.build_head(self.head, width, len(self.classes)), "head.")

    def classifier_facts(self) -> dict[str, str]:
        """Say how the classifier was trained."""
        backbone = "frozen" if self.freeze else f"{self.backbone_lr} of the rate"
        return common.classifier_words(self.fit, self.head, self.dropout, backbone, self.selection)


_CIFAR = AUGMENTS["rms_cifar"]
_LAST_FLAT = Regularizer("rms", stages=(3,), kernel=(1, 3, 3))  # of pictures, clips of one frame
_TINY = {"width": 0.125, "units": (1, 1, 0)}
_MILD = replace(
    AUGMENTS["toy"], jitter_p=0.3, gray_p=0.0, blur_p=0.0
)  # as coclr_finetune changes vidbench's
# CoCLR's code, README and issue 30: 2 GPUs of 32 clips. S3D, 32 frames, 128 pixels.
_FINETUNE = Recipe(
    dropout=0.9,
    backbone_lr=0.1,
    fit=Fit(
        epochs=500,
        batch=64,
        optimizer="adam",
        lr=1e-3,
        weight_decay=1e-3,
        schedule="milestones",
        milestones=(400, 450),
        workers=12,
    ),
)
_PROBE = Recipe(
    head="norm_linear",
    freeze=True,
    fit=Fit(
        epochs=100,
        batch=64,
        optimizer="sgd",
        lr=0.1,
        weight_decay=1e-3,
        schedule="milestones",
        milestones=(60, 80),
        workers=12,
    ),
)
# RMS's supplement, B.1: SlowOnly-50 on Kinetics-400, 4 GPUs. 8 frames of 224 pixels are table A1's;
# their stride of 8, Nesterov's momentum and the crops' range are assumptions. alpha: see
# tensors.scaling.
_RMS = Recipe(
    network="slowonly",
    network_args={"depth": 50},
    dropout=0.5,
    regularizer=Regularizer("rms", stages=(4, 5)),
    clip=ClipSpec(frames=8, stride=8, views=1, augment=AUGMENTS["rms_kinetics"]),
    fit=Fit(
        epochs=250,
        batch=128,
        optimizer="sgd",
        nesterov=True,
        lr=0.2,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_epochs=20,
        warmup_lr=0.1,
        precision="fp16",
        workers=12,
    ),
)
# Supplement B.1: the cited code's SlowFast. The warm-up's start is said to be above the official
# one's 0.01, not where: half the rate, as of SlowOnly, is an assumption, and so are its length, the
# epochs and full precision.
_SLOWFAST = replace(
    _RMS,
    network="slowfast",
    network_args={"preset": "paper"},
    clip=replace(_RMS.clip, frames=32, stride=2),
    fit=replace(_RMS.fit, batch=64, lr=0.1, warmup_lr=0.05, precision="fp32"),
)
_IMAGE = ClipSpec(frames=1, views=1, augment=AUGMENTS["rms_imagenet"])
PRESETS = {
    # Tests and notebooks as opened: seconds on a CPU. Every number is an assumption.
    "tiny": Recipe(
        network_args=_TINY,
        backbone_lr=0.3,
        held_out=0.2,
        clip=ClipSpec(frames=8, stride=2, views=1, augment=_MILD),
        fit=Fit(epochs=8, batch=16, lr=1e-2, weight_decay=1e-4, schedule="cosine", log_every=11),
    ),
    # The toy world `small`: about a minute on one core. Every number is an assumption.
    "toy": Recipe(
        network_args={"width": 0.25, "units": (2, 2, 0)},
        backbone_lr=0.3,
        held_out=0.1,
        clip=ClipSpec(frames=8, stride=3, views=1, augment=_MILD),
        fit=Fit(epochs=20, batch=32, lr=3e-3, weight_decay=1e-4, schedule="cosine", log_every=11),
    ),
    # The supplement's table 2: one linear layer on the pooled features. It does not say how it was
    # trained; rate, decay and schedule are assumptions, those of the released code.
    "probe_paper": replace(_PROBE, head="linear"),
    # README of the released code: SGD, rate 0.1 and decay 1e-3 (tune 0.1 to 1.0, 1e-4 to 1e-1),
    # dropped at 60 and 80.
    "probe_official": _PROBE,
    # README and code: Adam, 1e-3 and for the backbone 1e-4, decay 1e-3, dropout 0.9, dropped at 400
    # and 450.
    "finetune_official": _FINETUNE,
    # Issue 30 of the released code: the same at one rate, dropped at 300 and 400.
    "scratch_official": replace(
        _FINETUNE, backbone_lr=1.0, fit=replace(_FINETUNE.fit, milestones=(300, 400))
    ),
    # ir-CSN made small for the toy worlds, as notebook 20 opens: under a minute. A small SlowOnly,
    # whose first kernels in time see maps of a few positions only, does not learn their motion so
    # soon. Every number is an assumption.
    "rms_tiny": Recipe(
        network="csn",
        network_args={"width": 0.125, "blocks": (1, 1, 2, 2), "stem_stride": 2},
        regularizer=Regularizer("rms", stages=(4, 5), kernel=(1, 3, 3)),
        clip=ClipSpec(frames=8, stride=2, views=1, augment=_MILD),
        fit=Fit(
            epochs=8,
            batch=16,
            optimizer="sgd",
            nesterov=True,
            lr=0.05,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_epochs=1,
            log_every=11,
        ),
    ),
    # ResNet-8 for pictures of 32 pixels, as notebook 21 opens. Every number is an assumption.
    "rms_tiny_image": Recipe(
        network="cifar_resnet",
        network_args={"depth": 8},
        regularizer=_LAST_FLAT,
        clip=replace(_IMAGE, augment=_CIFAR),
        fit=Fit(
            epochs=8,
            batch=64,
            optimizer="sgd",
            nesterov=True,
            lr=0.1,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_epochs=1,
            log_every=11,
        ),
    ),
    # RMS's supplement, B.1 and table A1.
    "rms_kinetics400": _RMS,
    # The same with batch 64, whose rate is not said: 0.1 is the linear rule's. Mini-Kinetics ran on
    # 4 GPUs, in fp32.
    "rms_minikinetics": replace(
        _RMS, fit=replace(_RMS.fit, batch=64, lr=0.1, warmup_lr=0.05, precision="fp32")
    ),
    "rms_slowfast": _SLOWFAST,
    # PySlowFast's SLOWFAST_8x8_R50 without RMS, the other side of the four differences of B.1:
    # lateral batch norm, zero gamma, no decay of batch norms, a warm-up of 34 epochs from 0.01. Its
    # one decayed vector, the last layer's bias, is not decayed here.
    "slowfast_official": replace(
        _SLOWFAST,
        network_args={"preset": "official"},
        regularizer=None,
        fit=replace(
            _SLOWFAST.fit,
            epochs=196,
            schedule="cosine_whole",
            warmup_epochs=34,
            warmup_lr=0.01,
            decay_vectors=False,
        ),
    ),
    # B.1: the filter is 1x3x3, as the time may be shorter than 3. Kind, depth, clip and schedule
    # are assumptions.
    "rms_csn": replace(
        _RMS,
        network="csn",
        network_args={"kind": "ir", "depth": 50},
        regularizer=Regularizer("rms", stages=(4, 5), kernel=(1, 3, 3)),
    ),
    # B.2: fine-tuned SlowFast, 40 epochs at 0.01, dropped at 24 and 30, crops of 15 to 75 %. Start
    # it from Kinetics by `init` or `published` (assumption); the batch is that of SlowFast, an
    # assumption, too.
    "rms_ssv2": replace(
        _SLOWFAST,
        clip=replace(_SLOWFAST.clip, augment=AUGMENTS["rms_ssv2"]),
        fit=replace(
            _SLOWFAST.fit,
            epochs=40,
            lr=0.01,
            schedule="milestones",
            milestones=(24, 30),
            warmup_epochs=0,
        ),
    ),
    # B.3: 300 epochs, batch 1,024, 0.2 dropped at 150 and 225, RMS in the last stage; decay and
    # Nesterov of the CutMix code, whose recipe it follows. Basic blocks are an assumption.
    "rms_cifar100": Recipe(
        network="cifar_resnet",
        network_args={"depth": 110},
        regularizer=_LAST_FLAT,
        clip=replace(_IMAGE, augment=_CIFAR),
        fit=Fit(
            epochs=300,
            batch=1024,
            optimizer="sgd",
            nesterov=True,
            lr=0.2,
            weight_decay=1e-4,
            schedule="milestones",
            milestones=(150, 225),
            workers=8,
        ),
    ),
    # B.3: 300 epochs, batch 1,024, 0.4 by a cosine after 5 epochs of warm-up, RMS in res4 and res5;
    # the rest is the CutMix code's.
    "rms_imagenet": Recipe(
        network="resnet50",
        regularizer=replace(_LAST_FLAT, stages=(4, 5)),
        clip=_IMAGE,
        fit=Fit(
            epochs=300,
            batch=1024,
            optimizer="sgd",
            nesterov=True,
            lr=0.4,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_epochs=5,
            workers=16,
        ),
    ),
}


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
                f"{recipe.network}: no "
                "site has such a stage or pathway."
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
        mixing = self.recipe.mixing if self.training else None
        mixed = mixing(views) if mixing else None
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
            "manifest "
            f"in {recipe.manifest}: only in the recipe {here[:5]}, only in the manifest {there[:5]}"
            f"{', the order differs' * (not here and not there)}. Leave `classes` empty to take "
            "them."
        )
    return rows.hold_out(recipe.held_out) if recipe.held_out else (rows, None)


def starting_from(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with a run's backbone as `init`: its network, its stream and how it sees flow."""
    theirs = run.recipe
    augment = replace(
        recipe.clip.augment,
        flow_as_rgb=theirs.clip.augment.flow_as_rgb,
        flow_negate_u=theirs.clip.augment.flow_negate_u,
    )
    # RandomDrop and ShakeDrop scale in evaluation, too: without them the backbone would be another
    # function
    regularizer = recipe.regularizer or getattr(theirs, "regularizer", None)
    return replace(
        recipe,
        regularizer=regularizer,
        init=str(run.folder),
        stream=theirs.stream,
        network=theirs.network,
        network_args=theirs.network_args,
        clip=replace(recipe.clip, augment=augment),
    )


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
        size = (
            None if augment.pad else round(augment.size * 256 / 224)
        )  # as features.PROTOCOLS["one_view"]
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
        )  # asked every epoch

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
