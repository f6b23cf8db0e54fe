"""Several data sets in one stream of batches, planned before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from vidbench.data.loading.dataset import Batches, Clips

Kind = Literal["natural", "balanced", "fixed"]
MIXES = get_args(Kind)


@dataclass(frozen=True)
class Mix:
    """How often each data set is drawn from; MultiTrain's released loader is "natural" with repeats
    of 1.

    "natural": the data sets one after another, each `repeats` times, shuffled as a whole.
    "balanced": each clip's data set is drawn with a probability that goes with its size to the
    power `temperature`: 1 is natural, 0 all alike. "fixed": every batch has `shares` of each,
    rounded to whole clips. In the latter two an epoch has as many steps as all videos fill, a small
    data set comes around again, and its videos are all seen before one is seen twice."""

    kind: Kind = "natural"
    repeats: tuple[int, ...] = ()  # of each data set; empty is 1
    temperature: float = 0.5
    shares: tuple[float, ...] = ()  # of each data set; empty is equal

    def __post_init__(self) -> None:
        if self.kind not in MIXES:
            raise ValueError(f"a mix is one of {', '.join(MIXES)}; got {self.kind!r}")
        if any(not isinstance(n, int) or n < 1 for n in self.repeats) or any(
            not share > 0 for share in self.shares
        ):
            raise ValueError(
                f"repeats are whole numbers from 1, shares above 0; got {self.repeats}, "
                f"{self.shares}"
            )


class Joint(torch.utils.data.Dataset):
    """Samples of several data sets by (epoch, row), rows counted through all of them.

    A sample is that of its data set's Clips, with "dataset", its number, and "row" and "source_video"
    made unique over all. Raises ValueError where the parts do not give clips of one shape."""

    def __init__(self, parts: Sequence[Clips]) -> None:
        shapes = {
            (part.spec.frames, part.spec.augment.size, part.spec.views, part.spec.streams)
            for part in parts
        }
        if len(shapes) != 1:
            raise ValueError(
                "joint data sets want the same frames, size, views and streams, or no batch could "
                f"hold their clips; got {sorted(map(str, shapes))}"
            )
        self.parts = list(parts)
        self.first = np.cumsum([0, *(len(part) for part in parts)])
        self.source_videos = np.cumsum(
            [0, *(int(part.manifest.source_video.max()) + 1 for part in parts)]
        )

    def __len__(self) -> int:
        return int(self.first[-1])

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, row = key
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not among the {len(self)} videos")
        number = int(np.searchsorted(self.first, row, side="right")) - 1
        sample = self.parts[number][epoch, row - int(self.first[number])]
        return {
            **sample,
            "row": row,
            "dataset": number,
            "source_video": sample["source_video"] + int(self.source_videos[number]),
        }


class JointBatches(Batches):
    """`Batches` over the rows of a Joint, mixed as a Mix says; the order depends on (seed, epoch)
    only."""

    def __init__(
        self,
        sizes: Sequence[int],
        batch: int,
        mix: Mix = Mix(),
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sizes, self.mix = tuple(sizes), mix
        self.repeats = mix.repeats or (1,) * len(self.sizes)
        for name, values in (("repeats", self.repeats), ("shares", mix.shares or self.repeats)):
            if len(values) != len(self.sizes):
                raise ValueError(
                    f"{name} needs a value for each of the {len(self.sizes)} data sets, got "
                    f"{values}"
                )
        super().__init__(epoch_clips(sizes, mix), batch, seed=seed, rank=rank, world=world)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows [n] of an epoch in their order; those of small data sets may repeat."""
        rng = np.random.default_rng([self.seed, epoch])
        first = np.cumsum([0, *self.sizes[:-1]])
        if self.mix.kind == "natural":
            blocks = [
                np.tile(start + np.arange(size), times)
                for start, size, times in zip(first, self.sizes, self.repeats, strict=True)
            ]
            return rng.permutation(np.concatenate(blocks))
        count = self.total * self.batch
        if self.mix.kind == "balanced":
            chosen = rng.choice(len(self.sizes), count, p=shares(self.sizes, self.mix))
        else:
            each = np.repeat(
                np.arange(len(self.sizes)), whole(shares(self.sizes, self.mix), self.batch)
            )
            chosen = np.concatenate([rng.permutation(each) for _ in range(self.total)])
        rows = np.empty(count, np.int64)
        for number, (start, size) in enumerate(zip(first, self.sizes, strict=True)):
            here = np.flatnonzero(chosen == number)
            rounds = [rng.permutation(size) for _ in range(-(-len(here) // size))]
            rows[here] = start + np.concatenate([np.empty(0, np.int64), *rounds])[: len(here)]
        return rows


def epoch_clips(sizes: Sequence[int], mix: Mix) -> int:
    """Count the videos of an epoch, an incomplete last batch included.

    Args:
        sizes: Videos of each data set.
    """
    repeats = mix.repeats or (1,) * len(sizes)
    return (
        sum(size * times for size, times in zip(sizes, repeats, strict=True))
        if mix.kind == "natural"
        else sum(sizes)
    )


def shares(sizes: Sequence[int], mix: Mix) -> np.ndarray:
    """Compute the probability that a clip comes from each data set: [D].

    Args:
        sizes: Videos of each data set.
    """
    match mix.kind:
        case "natural":
            weights = np.asarray(sizes, float) * (mix.repeats or 1)
        case "balanced":
            weights = np.asarray(sizes, float) ** mix.temperature
        case _:
            weights = np.asarray(mix.shares or (1.0,) * len(sizes))
    return weights / weights.sum()


def whole(parts: np.ndarray, batch: int) -> np.ndarray:
    """Round shares to whole numbers of clips [D] that sum to the batch (largest remainder).

    Args:
        parts: Shares [D] that sum to 1.
        batch: Clips in a batch.

    Raises:
        ValueError: a data set would have no clip.
    """
    exact = parts * batch
    counts = np.floor(exact).astype(int)
    for number in np.argsort(counts - exact, kind="stable")[: batch - counts.sum()]:
        counts[number] += 1
    if (counts < 1).any():
        raise ValueError(
            f"a batch of {batch} has no clip of data set {int(np.argmin(counts))} at shares "
            f"{np.round(parts, 3).tolist()}; make the batch larger or the shares more even"
        )
    return counts


def plan_batches(
    names: Sequence[str], sizes: Sequence[int], batch: int, mix: Mix = Mix(), epochs: int = 1
) -> list[dict]:
    """Return what training will see, before it runs: a row of a table for each data set.

    Args:
        names: The data sets' names.
        sizes: Videos of each.
        batch: Clips in a batch.
        epochs: Epochs of the training, for "seen".

    Returns:
        Rows of "data", "videos", "share", "a step" (clips expected), "an epoch", "seen" (how often
        each video in all epochs), "mixed with ..." (the share of this data set's clips whose random
        partner is of that data set).
    """
    parts, steps = shares(sizes, mix), epoch_clips(sizes, mix) // batch
    counts = whole(parts, batch) if mix.kind == "fixed" else parts * batch
    rows = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        # a permutation's partner is any clip of the batch; of the others, independent draws are of
        # each by its share
        mates = {
            f"mixed with {other}": float(
                (counts[k] if mix.kind == "fixed" else parts[k] * (batch - 1) + (k == number))
                / batch
            )
            for k, other in enumerate(names)
        }
        rows.append(
            {
                "data": name,
                "videos": int(size),
                "share": float(counts[number] / batch),
                "a step": float(counts[number]),
                "an epoch": round(float(counts[number] * steps)),
                "seen": float(counts[number] * steps * epochs / size),
                **mates,
            }
        )
    return rows
