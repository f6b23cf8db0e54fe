"""What a search and a prediction return at the front door: text, a notebook's view, a data frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.evaluate.query import Hits
from vidbench.evaluate.tables import Features
from vidbench.system.extras import needed
from vidbench.system.printing import aligned
from vidbench.view.clips import neighbors_gallery
from vidbench.view.html import Section, table, write_page
from vidbench.view.looks import Html

if TYPE_CHECKING:
    import pandas

LINES = 20  # of a text
SHOWN = 12  # queries of a page
TOP = 3  # classes of a prediction's text


@dataclass(frozen=True, repr=False)
class Found:
    """The nearest videos of each query, nearest first.

    hits: the manifests of both sides, and rows and scores [Q,k] of the neighbors."""

    hits: Hits

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """One dictionary a hit: query, rank, path, score, label."""
        return self.hits.records()

    @property
    def paths(self) -> list[str]:
        """The path of each hit, query by query."""
        return [str(line["path"]) for line in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with the columns query, rank, path, score and label."""
        return needed("pandas", "table").DataFrame(self.records)

    def save_html(self, path: str | Path) -> Path:
        """Write a page on which the clips of queries and hits play, offline; returns its path."""
        target = Path(path).expanduser().resolve()
        heading = f"{len(self.hits.queries)} queries, by {' + '.join(self.hits.runs)}"
        return write_page(target, "Nearest videos", [Section(heading, [self._gallery()])])

    def __repr__(self) -> str:
        lines: list[str] = []
        for hit in self.records[:LINES]:
            if hit["rank"] == 1:
                lines.append(str(hit["query"]))
            label = hit["label"] or "no label"
            lines.append(f"  {hit['rank']}. {hit['score']:+.3f}  {label}  {hit['path']}")
        more = len(self) - LINES
        return "\n".join(lines + [f"  ... and {more} more"] * (more > 0))

    def _repr_html_(self) -> str:
        return self._gallery()

    def _gallery(self) -> Html:
        hits = self.hits
        names = {" + ".join(hits.runs): hits.neighbors}
        deep = hits.neighbors.rows.shape[1]
        return neighbors_gallery(hits.gallery, hits.queries, names, shown=SHOWN, results=deep)


@dataclass(frozen=True, repr=False)
class Predicted:
    """Class probabilities of videos.

    features: the probabilities, float32 [N,L], with the classes' names."""

    features: Features
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, L of them."""
        return self.features.classes

    @property
    def probabilities(self) -> np.ndarray:
        """Float32 [N,L]; each row sums to 1."""
        return self.features.values

    @cached_property
    def labels(self) -> list[str]:
        """The most probable class of each video."""
        return [self.classes[number] for number in self.probabilities.argmax(axis=1)]

    def top(self, k: int = TOP) -> list[dict[str, Any]]:
        """Return one dictionary for each video and class: path, rank, label, probability."""
        lines = []
        for row, values in enumerate(self.probabilities):
            path = str(self.manifest.absolute(row))
            for rank, number in enumerate(np.argsort(-values, kind="stable")[:k], 1):
                found = {"label": self.classes[number], "probability": float(values[number])}
                lines.append({"path": path, "rank": rank, **found})
        return lines

    def __len__(self) -> int:
        return len(self.manifest)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with a row for each video and class, the most probable first."""
        return needed("pandas", "table").DataFrame(self.top(len(self.classes)))

    def __repr__(self) -> str:
        rows: dict[str, list[str]] = {}
        for line in self.top():
            said = f"{line['label']} {line['probability']:.1%}"
            rows.setdefault(line["path"], []).append(said)
        cells = [[path, ", ".join(said)] for path, said in rows.items()]
        more = len(cells) - LINES
        return aligned(cells[:LINES]) + f"\n... and {more} more" * (more > 0)

    def _repr_html_(self) -> str:
        rows = [
            {"video": Path(line["path"]).name, **{n: line[n] for n in ("label", "probability")}}
            for line in self.top()
        ]
        return table(rows[: LINES * TOP], formats={"probability": ".1%"})
