"""RMS and its rivals as arms of an experiment, and the experiments: what is trained on what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vidbench.data.sets import catalogue, folders
from vidbench.data.video import clips
from vidbench.evaluate.features import PROTOCOLS, Protocol
from vidbench.methods import classify
from vidbench.tensors.mixing import Mixing
from vidbench.tensors.regularizers import Regularizer


class Arm(NamedTuple):
    """A change of the baseline's recipe."""

    words: str
    regularizer: Regularizer | None = None
    mixing: Mixing | None = None
    decay: float | None = None  # weight decay, if it is not the baseline's


# Filter, border and alpha's law are those of tensors.scaling; sigma 1 of the Gaussian and the
# probability of CutMix (its code's for CIFAR) are assumptions.
ARMS: dict[str, Arm] = {
    "baseline": Arm("baseline"),
    "rms": Arm("RMS, mean", Regularizer("rms")),
    "rms-gauss": Arm("RMS, Gaussian", Regularizer("rms", sigma=1.0)),
    "whole": Arm("whole feature", Regularizer("rms", part="whole")),
    "high": Arm("high-frequency", Regularizer("rms", part="high")),
    "random-drop": Arm("RandomDrop", Regularizer("random_drop")),
    "shake-drop": Arm("ShakeDrop", Regularizer("shake_drop")),
    "cutmix": Arm("CutMix", mixing=Mixing("cutmix", p=0.5)),
    "random-drop-8": Arm("RandomDrop, p_L 0.8", Regularizer("random_drop", last=0.8)),
    "decay": Arm("baseline, weight decay 5e-4", decay=5e-4),
    "rms-valid": Arm("RMS, border valid", Regularizer("rms", border="valid")),
    "rms-replicate": Arm("RMS, border replicate", Regularizer("rms", border="replicate")),
    "rms-half": Arm("RMS, alpha in (0.5, 1.5)", Regularizer("rms", law=(0.5, 1.5))),
}
BASELINE = "baseline"
MAIN = tuple(ARMS)[:8]  # the paper's comparison
RIVALS = (*MAIN, "random-drop-8")
# worlds of size `small` with N training source videos per class
TOY = re.compile(r"toy-([1-9]\d*)")
UNDRAWN = "undrawn"  # the test on videos of the train split that were not drawn


@dataclass(frozen=True)
class Experiment:
    """All arms on one data set.

    data: "toy-N" (a world for each seed, rendered with it) or a folder (the same videos for each
    seed, or the fold of that number with `folds`). source_videos: training source videos per class,
    few enough for a network to memorize; 0 is all. label: its name, if not the data's. few: arm ->
    number of seeds, the first ones, if not all. undrawn: also test on the training videos that were
    not drawn.
    """

    data: str
    recipe: classify.Recipe
    views: Mapping[str, Protocol]
    source_videos: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[str, ...] = MAIN
    folds: bool = False
    label: str = ""
    few: Mapping[str, int] = field(default_factory=dict)
    undrawn: bool = False

    @property
    def toy(self) -> bool:
        """Whether the data are toy worlds."""
        return bool(TOY.fullmatch(self.data))

    @property
    def place(self) -> str:
        """The folder of its videos."""
        return self.data if self.toy else catalogue.name_of(self.data)

    @property
    def name(self) -> str:
        """The experiment's name, of its folder and in tables."""
        return self.label or self.place

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests' names, the main one last."""
        return ((UNDRAWN,) if self.undrawn else ()) + tuple(self.views)

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """List the seeds of an arm."""
        return self.seeds[: self.few.get(arm, len(self.seeds))]


def experiment(
    data: str,
    seeds: Sequence[int] = (1, 2, 3),
    quick: bool = False,
    longer: int = 1,
    arms: Sequence[str] = MAIN,
) -> Experiment:
    """Plan the experiment on toy worlds ("toy-5") or on the pictures or videos of a folder.

    The recipes are those of notebook 20 with more epochs. The number was chosen with the baseline
    alone, on held-out training videos. Weizmann, with 4 test videos per fold, has its nine folds
    instead of seeds.

    Args:
        data: "toy-N" or a folder.
        seeds: Ignored for Weizmann.
        quick: One seed, a quarter of the epochs, only the baseline, RMS and its ablations.
        longer: Multiplies the epochs.
        arms: Names in ARMS; the baseline is always added.

    Raises:
        ValueError: An arm is unknown.
    """
    if set(arms) - set(ARMS) or set(arms) <= {BASELINE}:
        raise ValueError(
            f"arms must be among {', '.join(ARMS)}, with one besides {BASELINE}; got "
            f"{', '.join(arms)}."
        )
    toy_world = TOY.fullmatch(data)
    name = "toy" if toy_world else catalogue.detect_dataset(data)
    pictures = name not in ("toy", "weizmann") and of_pictures(data)
    recipe = classify.PRESETS["rms_tiny_image" if pictures else "rms_tiny"]
    clip, fit, source_videos = recipe.clip, recipe.fit, 0
    if pictures:
        recipe = replace(recipe, network_args={"depth": 14})
        fit, source_videos = replace(fit, epochs=45), 100
    elif toy_world:
        source_videos = int(toy_world[1])
        clip = replace(clip, stride=3)
        fit = replace(fit, epochs=max(1, round(200 / source_videos)))  # 9,600 clips
    else:
        stride, size = (3, None) if name == "weizmann" else (4, 64)
        clip, fit = replace(clip, stride=stride, decode_size=size), replace(fit, epochs=60)
    views = {"one view": PROTOCOLS["one_view"]}
    if not pictures:
        views["4 views"] = Protocol(windows=4)
    seeds = tuple(range(1, folders.WEIZMANN_ACTORS + 1)) if name == "weizmann" else tuple(seeds)
    fit = replace(fit, epochs=longer * fit.epochs)
    arms = tuple(arm for arm in ARMS if arm in {BASELINE, *arms})
    if quick:
        seeds, fit, arms = seeds[:1], replace(fit, epochs=fit.epochs // 4), arms[:5]
    recipe = replace(recipe, clip=clip, fit=replace(fit, save_every=fit.epochs))
    return Experiment(data, recipe, views, source_videos, seeds, arms, folds=name == "weizmann")


def of_pictures(data: str) -> bool:
    """Return whether a folder's data set contains pictures."""
    rows = catalogue.open_dataset(catalogue.detect_dataset(data), data, missing="keep")
    return str(rows.path[0]).lower().endswith(clips.PICTURES)


# CIFAR: (epochs, seeds, seeds of the arms other than baseline and RMS). An epoch has 15 steps.
LENGTHS = ((40, 6, 3), (120, 12, 3), (240, 4, 0))
PER_CLASS = 50  # training pictures


def pictures(data: str, whole: bool = False) -> list[Experiment]:
    """Plan RMS's CIFAR experiment at three lengths on a folder of pictures of 32 pixels.

    A network of 1, 1 and 4 blocks, with RMS in the last 4, trains on 50 pictures per class by SGD
    (rate 0.1, batch 32, cosine). The recipe is a small version of the supplement's. Nothing is
    selected. The baseline and RMS have 6, 12 and 4 seeds. The other arms have 3 at 40 and 120
    epochs, so that two cores need less than two hours. A baseline with weight decay 5e-4 has 3
    seeds at 120 epochs.

    Args:
        whole: Train every arm at every length with all seeds, which takes 2.7 times as long.

    Raises:
        ValueError: The folder contains no pictures.
    """
    if not of_pictures(data):
        raise ValueError(f"the CIFAR experiment needs a folder of pictures; {data} has videos.")
    recipe = classify.PRESETS["rms_tiny_image"]
    recipe = replace(recipe, network_args={"blocks": (1, 1, 4)})
    made = []
    for epochs, seeds, others in LENGTHS:
        fit = replace(recipe.fit, epochs=epochs, save_every=epochs, batch=32, lr=0.1)
        rivals = RIVALS if whole or others else RIVALS[:2]
        few = {} if whole else dict.fromkeys(rivals[2:], others)
        if epochs == 120:
            rivals, few = (*rivals, "decay"), {**few, "decay": 3}
        made.append(
            Experiment(
                data,
                replace(recipe, fit=fit),
                {"one view": PROTOCOLS["one_view"]},
                source_videos=PER_CLASS,
                seeds=tuple(range(1, seeds + 1)),
                arms=rivals,
                label=f"cifar-{epochs}",
                few=few,
                undrawn=True,
            )
        )
    return made


def long_video() -> list[Experiment]:
    """Plan RMS on toy-10 at three times the epochs, with variants of its border and of its law.

    RMS has 8 seeds, the variants 3.
    """
    variants = ("rms-valid", "rms-replicate", "rms-half")
    one = experiment("toy-10", range(1, 9), longer=3, arms=("rms", *variants))
    return [replace(one, label="toy-10-long", few=dict.fromkeys(variants, 3))]


def shorter(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Return the same experiments with one seed and a tenth of the epochs."""
    made = []
    for one in experiments:
        epochs = max(1, one.recipe.fit.epochs // 10)
        fit = replace(one.recipe.fit, epochs=epochs, save_every=epochs)
        made.append(replace(one, seeds=one.seeds[:1], recipe=replace(one.recipe, fit=fit)))
    return made


def with_arm(recipe: classify.Recipe, arm: str) -> classify.Recipe:
    """Replace the recipe's regularizer and mixing by those of an arm.

    RMS and its ablations keep the stages and the kernel of the recipe's own RMS; RandomDrop and
    ShakeDrop are in every block, as published.

    Args:
        arm: A name in ARMS.

    Raises:
        ValueError: The arm is unknown, or the recipe has no RMS to take stages from.
    """
    if arm not in ARMS:
        raise ValueError(f"an arm must be one of {', '.join(ARMS)}; got {arm!r}.")
    _, regularizer, mixing, decay = ARMS[arm]
    if regularizer and regularizer.name == "rms":
        own = recipe.regularizer
        if own is None or not own.stages:
            raise ValueError(
                f"the recipe has no RMS whose stages {arm} could keep; give it a regularizer such "
                'as Regularizer("rms", stages=(4, 5)).'
            )
        regularizer = replace(regularizer, stages=own.stages, kernel=own.kernel)
    if decay is not None:
        recipe = replace(recipe, fit=replace(recipe.fit, weight_decay=decay))
    return replace(recipe, regularizer=regularizer, mixing=mixing)
