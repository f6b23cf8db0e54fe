"""A table of features at the front door: a vector for each video, and a linear probe on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidbench.data.manifest import SPLITS, Manifest
from vidbench.evaluate import probe as probes
from vidbench.evaluate.exchange import save_table, to_frame
from vidbench.evaluate.tables import Features
from vidbench.view.html import table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Probe:
    """Top-1 of a linear probe: fitted on the train split, tested on the held-out split.

    top1, low and high are shares; low and high are the ends of a 95 % bootstrap interval over
    source videos. protocol names all that the number depends on."""

    top1: float
    low: float
    high: float
    videos: int
    chance: float
    protocol: dict

    def __repr__(self) -> str:
        return (
            f"Probe(top-1 {self.top1:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.videos} "
            f"held-out videos; chance {self.chance:.1%})"
        )


@dataclass(frozen=True, repr=False)
class Table:
    """A vector for each video: features in the order of the manifest, float32 [N,D]."""

    features: Features
    manifest: Manifest
    run: str  # the run that made the features

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def vectors(self) -> np.ndarray:
        """The features, float32 [N,D]."""
        return self.features.values

    @cached_property
    def paths(self) -> list[str]:
        """Absolute paths of the videos."""
        return [str(self.manifest.absolute(row)) for row in range(len(self))]

    @cached_property
    def labels(self) -> list[str]:
        """Names of the videos' classes, empty where a label is unknown."""
        return [self.manifest.names(row)["label"] for row in range(len(self))]

    @cached_property
    def splits(self) -> list[str]:
        """The split of each video: train, validate or test."""
        return [SPLITS[number] for number in self.manifest.split]

    def of(self, split: str) -> Table:
        """Return the rows of one split.

        Raises:
            ValueError: There is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
        return self._rows(self.manifest.split == SPLITS.index(split))

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with the columns id, path, label, split, source_video and vector."""
        return to_frame(self.features, self.manifest)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the table to a .parquet, .csv or .npz file.

        Args:
            overwrite: Replace a file that is not a table of vidbench.

        Raises:
            ValueError: The file has another ending.
            FileExistsError: The file exists and is not a table of vidbench, unless `overwrite`.
        """
        target = Path(path).expanduser()
        return save_table(self.features, self.manifest, target, overwrite=overwrite)

    def probe(self, seed: int = 0) -> Probe:
        """Fit a linear probe on the labeled train split and test it once on the held-out split.

        Args:
            seed: Of the probe's cross-validation.

        Raises:
            ValueError: There are no labels, no held-out split, or fewer than two classes.
        """
        if not self.manifest.labeled:
            raise ValueError(
                f"a probe needs labels; got {len(self)} videos without any. Open them as class "
                "folders, or from a csv with the columns path and label."
            )
        known = self._rows(self.manifest.label >= 0)
        train, test = (known.of(name).features for name in ("train", known.manifest.held_out()))
        score = probes.logistic(train, test, seed=seed)
        top1, low, high = probes.numbers(score, seed, by="source_video")["top-1"]
        chance = 1 / len(self.manifest.classes)
        return Probe(top1, low, high, len(score.right), chance, score.protocol)

    def __repr__(self) -> str:
        labels = "no labels"
        if self.manifest.labeled:
            labels = f"{len(self.manifest.classes)} classes"
        rows, width = self.vectors.shape
        return f"Table({rows} videos x {width} features of {self.run}; {labels})"

    def _repr_html_(self) -> str:
        shown = [self.manifest.names(row) for row in range(min(5, len(self)))]
        rows = [
            {**names, "vector": ", ".join(f"{x:.2g}" for x in vector[:4]) + ", ..."}
            for names, vector in zip(shown, self.vectors, strict=False)
        ]
        return table(rows, note=f"{self!r}; the first {len(rows)} rows") if rows else repr(self)

    def _rows(self, mask: np.ndarray) -> Table:
        """The rows where the mask [N] is true."""
        manifest, old = self.manifest.select(mask=mask), self.features
        features = replace(
            old,
            values=old.values[mask],
            label=old.label[mask],
            source_video=old.source_video[mask],
            video=None if old.video is None else old.video[mask],
            protocol={**old.protocol, "rows": manifest.fingerprint()},
        )
        return Table(features, manifest, self.run)
