"""Recipes of supervised training, with presets for CoCLR's evaluation, RMS and MultiTrain's start.

Of RMS's paper (Kim et al., CVPR 2020) only the supplement is available; a preset's comment names
what the supplement leaves open. MultiTrain's first step is training on Kinetics alone: its
supplement (Liang et al., NeurIPS 2022, 2.1 and table 3) and the released code's configs/Kinetics.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from vidbench import models
from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run
from vidbench.methods import common
from vidbench.models.published import PublishedWeights
from vidbench.system.ranges import AT_LEAST_0, BELOW_1
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import Regularizer


@dataclass(frozen=True)
class Recipe(common.Recipe, method="classify", home="vidbench.methods.classify"):
    """One supervised run. Paths name what it reads: a manifest, a flow store, the parent run."""

    head: str = "linear"  # models.heads.HEADS
    dropout: Annotated[float, BELOW_1] = 0.0  # before the linear layer
    label_smoothing: Annotated[float, BELOW_1] = 0.0
    regularizer: Regularizer | None = None  # in the residual branches
    # of several, one is drawn per batch
    mixing: Mixing | tuple[Mixing, ...] | None = None
    # names in order of their numbers; if empty, the run takes and stores the manifest's
    classes: tuple[str, ...] = ()
    freeze: bool = False  # keep the backbone fixed, with its batch-norm statistics
    backbone_lr: Annotated[float, AT_LEAST_0] = 1.0  # the backbone's rate over the head's
    held_out: Annotated[float, BELOW_1] = 0.0  # of train, whole sources: watched, not trained on
    selection: str = ""  # what was chosen on which videos; stored with every number
    clip: ClipSpec = ClipSpec(frames=32, stride=1, views=1, augment=AUGMENTS["coclr_finetune"])
    fit: Fit = Fit(epochs=100, batch=64)
    manifest: str = ""
    flow: str = ""
    init: str = ""  # the run whose backbone starts this one; empty is from scratch
    published: PublishedWeights | None = None  # a file whose backbone starts this one

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """Return the videos of the recipe's manifest, with their classes."""
        return (common.DataSet(self.manifest, self.flow, self.clip, self.classes),)

    @property
    def parent(self) -> str:
        """The run whose backbone starts this one."""
        return self.init

    def build_backbone(self) -> models.Backbone:
        """Build the backbone with its regularizer, which may scale in evaluation, too."""
        branches = self.regularizer.build() if self.regularizer else None
        return models.build(self.network, regularizer=branches, **self.network_args)

    def build_head(self, width: int, data: common.DataSet) -> common.Head:
        """Build the classifier, for evaluation (without dropout).

        Args:
            width: The backbone's features, D.
            data: Ignored, as the run has one data set.
        """
        return common.Head(models.build_head(self.head, width, len(self.classes)), "head.")

    def classifier_facts(self) -> dict[str, str]:
        """Say how the classifier was trained."""
        backbone = "frozen" if self.freeze else f"{self.backbone_lr} of the rate"
        return common.classifier_words(self.fit, self.head, self.dropout, backbone, self.selection)


def starting_from(recipe: Recipe, run: Run) -> Recipe:
    """Return the recipe with a run's backbone as `init`, and its network and kind of input.

    Args:
        run: The run to start from. Its regularizer is kept if the recipe has none.
    """
    theirs = run.recipe
    augment = replace(
        recipe.clip.augment,
        flow_as_rgb=theirs.clip.augment.flow_as_rgb,
        flow_negate_u=theirs.clip.augment.flow_negate_u,
    )
    # RandomDrop and ShakeDrop scale in evaluation, too: without them the backbone would compute
    # another function
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


_CIFAR = AUGMENTS["rms_cifar"]
_LAST_FLAT = Regularizer("rms", stages=(3,), kernel=(1, 3, 3))  # of pictures, clips of one frame
_TINY = {"width": 0.125, "units": (1, 1, 0)}
# as coclr_finetune changes vidbench's
_MILD = replace(AUGMENTS["toy"], jitter_p=0.3, gray_p=0.0, blur_p=0.0)
# CoCLR's code, README and issue 30: 2 GPUs of 32 clips. S3D, 32 frames, 128 pixels.
_STEPS = Fit(batch=64, weight_decay=1e-3, schedule="milestones", workers=12)
# dataset/lmdb_dataset.py: left padding, the last window is never read
_WINDOWS = replace(Recipe().clip, pad="first", reach_end=False)
_FINETUNE = Recipe(
    clip=_WINDOWS,
    dropout=0.9,
    backbone_lr=0.1,
    fit=replace(_STEPS, epochs=500, optimizer="adam", lr=1e-3, milestones=(400, 450)),
)
_PROBE = Recipe(
    clip=_WINDOWS,
    head="norm_linear",
    freeze=True,
    fit=replace(_STEPS, epochs=100, optimizer="sgd", lr=0.1, milestones=(60, 80)),
)
_SGD = Fit(optimizer="sgd", nesterov=True, weight_decay=1e-4, schedule="cosine")
# RMS's supplement, B.1: SlowOnly-50 on Kinetics-400, 4 GPUs. 8 frames of 224 pixels are table A1's;
# their stride of 8, Nesterov's momentum and the crops' range are assumptions. alpha: see
# tensors.scaling.
_RMS = Recipe(
    network="slowonly",
    network_args={"depth": 50},
    dropout=0.5,
    regularizer=Regularizer("rms", stages=(4, 5)),
    clip=ClipSpec(frames=8, stride=8, views=1, augment=AUGMENTS["rms_kinetics"]),
    fit=replace(
        _SGD,
        epochs=250,
        batch=128,
        lr=0.2,
        warmup_epochs=20,
        warmup_lr=0.1,
        precision="fp16",
        workers=12,
    ),
)
# Supplement B.1: the cited code's SlowFast. The warm-up starts above the official 0.01; the value
# is not given. Half the rate, as for SlowOnly, is an assumption, and so are the warm-up's length,
# the epochs and full precision.
_SLOWFAST = replace(
    _RMS,
    network="slowfast",
    network_args={"preset": "paper"},
    clip=replace(_RMS.clip, frames=32, stride=2),
    fit=replace(_RMS.fit, batch=64, lr=0.1, warmup_lr=0.05, precision="fp32"),
)
# MVITV2_FULL_B_32x3_CONV_k400.yaml: the net of joint training with stochastic depth 0.3, a linear
# head, two augmented views of one window, Mixup or CutMix for each batch. The file has the rate
# 4e-4 "for batch_size=128" and, for the paper's 512, 1.6e-3; its 4e-6 at both ends belong to 4e-4,
# and its code multiplies all three by the number of machines. Assumptions: 4e-6 also at 512, and
# bf16. Not followed: the last layer starts with deviation 0.02 there, here with 0.01.
_KINETICS = Recipe(
    network="mvit",
    network_args={"preset": "seed_b", "stochastic_depth": 0.3},
    dropout=0.5,
    label_smoothing=0.1,
    mixing=(Mixing("mixup", beta=0.8), Mixing("cutmix", beta=1.0)),
    clip=ClipSpec(
        frames=32,
        target_fps=10.0,
        views=2,
        one_window=True,
        augment=AUGMENTS["multitrain"],
        grid="linspace",
        reach_end=False,
    ),
    fit=Fit(
        epochs=200,
        batch=512,
        optimizer="adamw",
        lr=1.6e-3,
        weight_decay=0.05,
        decay_vectors=False,
        schedule="cosine",
        warmup_epochs=30,
        warmup_lr=4e-6,
        final_lr=4e-6,
        clip_norm=1.0,
        precision="bf16",
        workers=12,
    ),
)
# MVITV2_B_16x4_CONV_k400.yaml: 16 frames at a rate of 4, the smaller net with stochastic depth 0.2,
# twice the rate as it has no class token.
_KINETICS_16 = replace(
    _KINETICS,
    network_args={"preset": "seed_s"},
    clip=replace(_KINETICS.clip, frames=16, target_fps=7.5),
    fit=replace(_KINETICS.fit, lr=3.2e-3, warmup_lr=3.2e-5, final_lr=3.2e-5),
)
_FEW = Recipe(
    network="csn",
    network_args={"width": 0.125, "blocks": (1, 1, 2, 2), "stem_stride": 2},
    clip=ClipSpec(frames=8, stride=4, views=1, augment=_MILD, decode_size=64),
    fit=replace(_SGD, epochs=100, batch=16, lr=0.05, warmup_epochs=1, log_every=11),
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
    # A small ir-CSN for the toy worlds, as notebook 20 opens: under a minute. A small SlowOnly
    # learns their motion later, as its first kernels in time see maps of only a few positions.
    # Every number is an assumption.
    "rms_tiny": Recipe(
        network="csn",
        network_args={"width": 0.125, "blocks": (1, 1, 2, 2), "stem_stride": 2},
        regularizer=Regularizer("rms", stages=(4, 5), kernel=(1, 3, 3)),
        clip=ClipSpec(frames=8, stride=2, views=1, augment=_MILD),
        fit=replace(_SGD, epochs=8, batch=16, lr=0.05, warmup_epochs=1, log_every=11),
    ),
    # ResNet-8 for pictures of 32 pixels, as notebook 20 opens on digits. Every number is an
    # assumption.
    "rms_tiny_image": Recipe(
        network="cifar_resnet",
        network_args={"depth": 8},
        regularizer=_LAST_FLAT,
        clip=replace(_IMAGE, augment=_CIFAR),
        fit=replace(_SGD, epochs=8, batch=64, lr=0.1, warmup_epochs=1, log_every=11),
    ),
    # Few real videos, 30 to 500, on a CPU: 8 frames of 64 pixels over about a second. Network, rate
    # and length, 9,600 clips (here of 96 training videos), are those of `replicate-rms` on toy
    # worlds with 5 and 10 source videos a class. They were chosen there with the baseline alone, on
    # held-out training videos. The stride of 4 is an assumption: 30 frames per second.
    "few": _FEW,
    # The same on differences of frames.
    "few_difference": replace(
        _FEW,
        network="difference",
        network_args={"network": "csn", "arguments": _FEW.network_args},
    ),
    # RMS's supplement, B.1 and table A1.
    "rms_kinetics400": _RMS,
    # The same with batch 64, whose rate is not given: 0.1 is the linear rule's. Mini-Kinetics ran
    # on 4 GPUs, in fp32.
    "rms_minikinetics": replace(
        _RMS, fit=replace(_RMS.fit, batch=64, lr=0.1, warmup_lr=0.05, precision="fp32")
    ),
    # SlowOnly-34 on it: batch 128 and 0.2, as only SlowOnly-50 has the smaller batch; table A1's
    # net.
    "rms_minikinetics_34": replace(
        _RMS, network_args={"depth": 34}, fit=replace(_RMS.fit, precision="fp32")
    ),
    "rms_slowfast": _SLOWFAST,
    # PySlowFast's SLOWFAST_8x8_R50 without RMS, the other side of the four differences of B.1:
    # lateral batch norm, zero gamma, no decay of batch norms, a warm-up of 34 epochs from 0.01.
    # There one vector, the last layer's bias, is decayed; here none is. Frames are spread over 64,
    # as there.
    "slowfast_official": replace(
        _SLOWFAST,
        clip=replace(_SLOWFAST.clip, grid="linspace", reach_end=False),
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
    # it from Kinetics by `init` or `published` (assumption). The batch is SlowFast's, also an
    # assumption.
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
        fit=replace(
            _SGD,
            epochs=300,
            batch=1024,
            lr=0.2,
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
        fit=replace(_SGD, epochs=300, batch=1024, lr=0.4, warmup_epochs=5, workers=16),
    ),
    # MultiTrain's start: 200 epochs from scratch. The released checkpoint is of 32 frames
    # (k400_..._32x3_e200_b512), table 3's 78.8 % of 16.
    "multitrain_k400": _KINETICS,
    "multitrain_k400_16x4": _KINETICS_16,
    # Table 3's 80.6 %: 75 epochs from ImageNet-21K-P. Start it by `init` or `published`. Only the
    # epochs are given; the rest, with the 30 epochs of warm-up, is the file's for training from
    # scratch.
    "multitrain_k400_images": replace(_KINETICS_16, fit=replace(_KINETICS_16.fit, epochs=75)),
}
