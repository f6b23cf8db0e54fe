"""What a stage takes on GPUs before it runs: hours, memory, cores for the loader, disk.

The GPU's time follows from the operations (models/costs.py) and the share of that limit which each
network reached on one H200. Everything else is a measurement on one core of a CPU or an assumption,
named here. Several GPUs are assumed to share a batch without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from vidbench.data.manifest import Manifest
from vidbench.methods import common
from vidbench.models.costs import CARDS, count

Form = Literal["mp4", "jpeg", "raw"]

# Shares of the limit on one H200 with torch 2.11 (benchmarks/results/roofline.csv). Networks without
# a measurement are assumed to reach the lowest one.
REACHED = {"s3d": 0.17, "slowonly": 0.37, "slowfast": 0.17, "mvit": 0.19}
# Milliseconds of one core for a clip of 32 frames of 128 pixels from a store, augmented
# (benchmarks/results/loader.csv). Assumption: they grow with frames and pixels.
LOADER_MS = {"mp4": 8.89, "jpeg": 7.88, "raw": 3.94}
MEASURED_AT = 32 * 128 * 128
# How many times as many clips a core gives if the device augments them, without RandAugment
# (benchmarks/results/augment.csv); raw was not measured.
ON_DEVICE = {"jpeg": 1.7, "mp4": 1.58}
# Kilobytes of a second of video at short side 128 (benchmarks/results/store.csv); of its flow as mp4,
# 4.2 % of two bytes a pixel (benchmarks/results/flow.csv), at 25 frames of 170x128 a second.
STORE_KB = {"mp4": 59, "jpeg": 249, "raw": 1975}
FLOW_KB = 46
# Assumption: allocator, libraries and what is not kept for the backward pass, over what is.
OVERHEAD = 1.3
LAUNCH = 1e-5  # assumption: seconds between two operations of a network too small to fill a GPU


@dataclass(frozen=True)
class Videos:
    """How many videos are trained on, and their length in seconds."""

    rows: int
    seconds: float


UNKNOWN = 10.0
# Training videos of split 1 (Soomro et al. 2012: 27 hours in 13,320 videos); of Kinetics-400 with
# its clips of 10 seconds (Kay et al. 2017; the number of CoCLR's paper).
KNOWN = {"ucf101": Videos(9537, 7.3), "k400": Videos(220_000, 10.0)}


def videos_of(parts: Sequence[Manifest]) -> Videos:
    """Count the rows of manifests. Videos that no scan measured count as UNKNOWN seconds each."""
    seconds = 0.0
    for part in parts:
        if part.frames is None or part.fps is None:
            seconds += UNKNOWN * len(part)
        else:
            seconds += float((part.frames / part.fps.clip(min=1)).sum())
    rows = sum(map(len, parts))
    return Videos(rows, seconds / max(1, rows))


@dataclass(frozen=True)
class Size:
    """What one stage takes.

    hours: of training on all GPUs together. memory: GiB of each GPU. clips_per_s: that the GPUs
    consume, all streams. cores: of a CPU, to load and augment as many. disk: GB of stores that the
    stage reads.
    """

    steps: int
    hours: float
    memory: float
    clips_per_s: float
    cores: float
    disk: float

    def words(self, card: str) -> str:
        """Return one line; it says so if the memory does not suffice."""
        fits = self.memory <= CARDS[card].memory / 2**30
        return (
            f"{self.steps:,} steps, {self.hours:,.1f} h, {self.memory:.0f} GiB of each {card}"
            f"{'' if fits else f' (it has {CARDS[card].memory / 2**30:.0f}: lower fit.batch)'}, "
            f"{self.clips_per_s:,.0f} clips/s from {self.cores:.0f} cores, {self.disk:,.0f} GB"
        )


def size(
    recipe: common.Recipe, videos: Videos, card: str = "H200", gpus: int = 1, form: Form = "jpeg"
) -> Size:
    """Estimate a stage.

    Args:
        videos: What it trains on, of all its data sets.
        card: H200 or A100.
        gpus: They share the batch.
        form: Of the store that the loader reads.

    Raises:
        ValueError: The card is unknown, or the batch is not divisible by the GPUs.
    """
    fit, clip = recipe.fit, recipe.clip
    if card not in CARDS or fit.batch % (gpus * fit.accumulate):
        raise ValueError(
            f"sizing knows {', '.join(CARDS)}, and GPUs x accumulation parts must divide the batch of "
            f"{fit.batch}; got {card!r} and {gpus} x {fit.accumulate}."
        )
    views = 1 if recipe.more_forwards else clip.views  # contrastive: one view, the rest below
    shape = (fit.batch * views // gpus // fit.accumulate, 3, clip.frames, *[clip.augment.size] * 2)
    cost = count(recipe.build_backbone, shape)
    limit = cost.limit(CARDS[card]) + recipe.more_forwards * cost.limit(CARDS[card], forward=True)
    limit /= REACHED.get(recipe.network, min(REACHED.values()))
    step = fit.accumulate * max(limit, LAUNCH * len(cost.operations))
    steps = videos.rows // fit.batch * fit.epochs
    streams = 2 if recipe.more_forwards > 1 else 1  # a teacher reads the other stream
    clips = fit.batch * clip.views * streams / step
    load = LOADER_MS[form] / 1e3 * clip.frames * clip.augment.size**2 / MEASURED_AT
    if fit.augment_on == "device":
        load /= ON_DEVICE.get(form, 1.0)
    flow = FLOW_KB if streams > 1 or recipe.stream == "flow" else 0
    rgb = STORE_KB[form] if streams > 1 or recipe.stream == "rgb" else 0
    # weights, gradients, two moments of the optimizer, a copy for each further backbone; clips in
    # float32 as they come and as they are shuffled or augmented
    states = cost.weights * (4 + recipe.more_forwards)
    states += 2 * 4 * prod(shape) * clip.views // views * streams
    return Size(
        steps,
        steps * step / 3600,
        (OVERHEAD * cost.kept + states) / 2**30,
        clips,
        clips * load,
        videos.rows * videos.seconds * (rgb + flow) / 1e6,
    )
