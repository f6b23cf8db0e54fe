"""Recipes of MultiTrain: its data sets, how their clips differ, and the presets.

Sources: the supplement of Liang et al. (NeurIPS 2022), and the two YAML files of the released code
(JunweiLiang/MultiTrain). The files use three data sets, the paper four.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec, Sampling
from vidbench.data.loading.joint import Mix
from vidbench.engine.loop import Fit
from vidbench.methods import common
from vidbench.models.heads import mlp
from vidbench.models.published import PublishedWeights
from vidbench.system.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, BELOW_1, SHARE
from vidbench.tensors.mixing import Mixing


@dataclass(frozen=True)
class ClipChange:
    """The fields in which a data set's clips differ from the recipe's `clip`; None changes nothing.

    A stride replaces the recipe's frame rate, and a frame rate its stride. Segments of whole videos
    have neither. flip is the augmentation's, because Something-Something's labels have directions.
    """

    sampling: Sampling | None = None
    stride: Annotated[int | None, AT_LEAST_1] = None
    target_fps: Annotated[float | None, ABOVE_0] = None
    decode_size: Annotated[int | None, AT_LEAST_1] = None
    flip: Annotated[float | None, SHARE] = None

    def applied(self, clip: ClipSpec) -> ClipSpec:
        """Return the clip with these fields changed."""
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
    the flow store if the stream is flow.
    """

    name: str
    manifest: str
    classes: tuple[str, ...] = ()
    flow: str = ""
    clip: ClipChange = ClipChange()
    weight: Annotated[float, ABOVE_0] = 1.0  # of the losses with its labels


@dataclass(frozen=True)
class Recipe(common.Recipe, method="multitrain", home="vidbench.methods.multitrain"):
    """One joint training. Defaults are the released configuration's unless a comment differs."""

    parts: tuple[Part, ...] = ()
    network: str = "mvit"
    hidden: Annotated[int, AT_LEAST_1] = 2048  # of each head
    dropout: Annotated[float, BELOW_1] = 0.5  # after both layers of a head
    projection: Annotated[float, AT_LEAST_0] = 1.0  # weight of the maps' losses; 0: no maps
    informative: Annotated[float, AT_LEAST_0] = 0.1  # weight of that loss; 0: no expander
    variance: Annotated[float, AT_LEAST_0] = 25.0
    covariance: Annotated[float, AT_LEAST_0] = 1.0
    # hidden and out; the supplement has 2,048 hidden
    expander: Annotated[tuple[int, int], AT_LEAST_1] = (4096, 768)
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
    selection: str = ""  # what was chosen on which videos; stored with every number

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """Return the parts."""
        return tuple(
            common.DataSet(part.manifest, part.flow, spec_of(self, part), part.classes, part.name)
            for part in self.parts
        )

    @property
    def parent(self) -> str:
        """The run whose backbone starts this one."""
        return self.init

    def build_head(self, width: int, data: common.DataSet) -> common.Head:
        """Build a part's head, for evaluation (without dropout).

        Args:
            width: The backbone's features, D.
            data: One of `data_sets`.
        """
        head = mlp(width, self.hidden, len(data.classes))
        return common.Head(head, f"heads.{data.name}.")

    def classifier_facts(self) -> dict[str, str]:
        """Say how the heads were trained, which is the same for all."""
        head = f"mlp of {self.hidden}"
        return common.classifier_words(
            self.fit, head, self.dropout, "1.0 of the rate", self.selection
        )

    def map_name(self, source: str, target: str) -> str:
        """Return the checkpoint's name of the map's weight between two parts; "" without maps.

        Args:
            source, target: Names of parts.
        """
        return f"maps.{between(source, target)}.weight" if self.projection else ""


def spec_of(recipe: Recipe, part: Part) -> ClipSpec:
    """Return the part's clips: the recipe's with the part's changes.

    Args:
        part: One of the recipe's parts.
    """
    return replace(part.clip.applied(recipe.clip), streams=(recipe.stream,))


def between(source: str, target: str) -> str:
    """Return the name of the map from one data set's scores to another's labels.

    Args:
        source, target: Names of parts.
    """
    return f"{source}>{target}"


def alone(recipe: Recipe, part: Part) -> Recipe:
    """Return the recipe on one part alone, to compare with joint training: no maps, no expander.

    Args:
        part: One of the recipe's parts.
    """
    return replace(recipe, parts=(part,), projection=0.0, informative=0.0)


# Supplement: Mixup and RandAugment, crops of 224 after a short side of 256 to 320, expander 2,048
# wide, AdamW, batch 512, 2e-4 by a cosine after a linear warm-up from 2e-6, 50 epochs. Not given,
# so taken from the release: magnitude and layers of RandAugment, label smoothing 0.1, two clips of
# each video (an assumption). Start it from a Kinetics run by `init`.
_PAPER = Recipe(
    expander=(2048, 768),
    mixing=(Mixing("mixup", beta=0.8),),
    clip=ClipSpec(frames=32, target_fps=10.0, views=2, augment=AUGMENTS["multitrain_supplement"]),
)
# The release's two YAML files: RandAugment, random erasing, Mixup or CutMix for each batch, two
# augmented views of one window, frames spread over it, segments and quirks as in its code, 64
# videos by 8 parts. Its code multiplies the rate by the number of machines, so its README's run on
# two machines used 4e-4.
_RELEASED = replace(
    _PAPER,
    expander=(4096, 768),
    released=True,
    clip=replace(
        _PAPER.clip,
        augment=AUGMENTS["multitrain"],
        one_window=True,
        grid="linspace",
        reach_end=False,
    ),
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
    # As notebook 30 opens: a net that learns within a minute.
    "tiny": replace(
        _TOY,
        **_CSN,
        hidden=64,
        expander=(64, 64),
        clip=replace(_TOY.clip, stride=2),
        fit=replace(_TOY.fit, batch=16, lr=3e-3),
    ),
    "toy": _TOY,  # the toy worlds `small`
    # a net that learns them on RGB
    "toy_rgb": replace(_TOY, **_CSN, stream="rgb", fit=replace(_TOY.fit, lr=3e-3)),
    "paper": _PAPER,
    "released": _RELEASED,
}
SEGMENTS = ClipChange(sampling="random_segments", flip=0.0)
# What differs for a data set, by its name in the catalogue. Something-Something has segments of the
# whole video and no flip (supplement), as its labels have directions.
OF_DATA = {"ssv2": SEGMENTS}
