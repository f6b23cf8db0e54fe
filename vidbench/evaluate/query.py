"""Search videos by example: the nearest of a gallery to each query, without labels.

Both sides may be any videos (see `embed`). Several runs are searched as one: each run's features are
centered and compared by themselves, and their cosines are summed, as in CoCLR's retrieval with two
streams. So the score of S runs is at most S.

A query that is in the gallery finds itself, with the highest score. It is not left out: that score
says that the file is known, and a copy under another name is found in the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import indexes
from vidbench.evaluate.embed import embed, left_out
from vidbench.evaluate.protocols import PROTOCOLS, Protocol
from vidbench.evaluate.search import CENTERINGS, Neighbors, directions
from vidbench.evaluate.search import search as exact_search
from vidbench.evaluate.tables import Features
from vidbench.methods.common import data_set

INDEXES = ("auto", "exact", *indexes.KINDS)


@dataclass(frozen=True)
class Hits:
    """The nearest videos of each query.

    runs: the names of the runs; index: how the gallery was searched ("exact", or the index and its
    switches); failed: (file, reason) of queries and gallery videos that cannot be read, which are
    left out of both manifests."""

    queries: Manifest
    gallery: Manifest
    neighbors: Neighbors  # rows of the gallery [Q,k] and scores [Q,k]
    runs: tuple[str, ...]
    index: str = "exact"
    failed: tuple[tuple[str, str], ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """List the hits as dictionaries, the queries in order and the nearest first.

        Returns:
            query and path (absolute files), rank (from 1), score (the cosine, or the sum of the
            runs' cosines) and label (empty if it is unknown).
        """
        lines: list[dict[str, Any]] = []
        for query, (rows, scores) in enumerate(
            zip(self.neighbors.rows.tolist(), self.neighbors.scores.tolist(), strict=True)
        ):
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
                lines.append(
                    {
                        "query": str(self.queries.absolute(query)),
                        "rank": rank,
                        "path": str(self.gallery.absolute(row)),
                        "score": score,
                        "label": self.gallery.names(row)["label"],
                    }
                )
        return lines


def search(
    runs: Sequence[Run],
    queries: Manifest,
    gallery: Manifest | None = None,
    k: int = 5,
    *,
    protocol: Protocol = PROTOCOLS["vidbench"],
    index: str = "auto",
    centering: str = "gallery",
    cache: str | Path = "",
    data: str = "",
) -> Hits:
    """Find the k nearest videos of the gallery for each query; labels are not used.

    Queries and gallery videos that cannot be read are left out, and a line counts and names them.
    If the gallery has fewer than k videos, all are returned and a line says so.

    Args:
        runs: One run, or several whose cosines are summed: the two streams of CoCLR.
        gallery: None is the split train of the first run's data set.
        index: "exact" compares with every video in double precision where cosines are close. An
            index of `indexes.KINDS` is built over the centered unit vectors of all runs side by
            side and kept below `cache`; its scores are cosines of the same centered vectors.
            "auto" is exact up to indexes.FLAT_TO videos, else "ivf_sq8".
        centering: "gallery" takes the mean of the gallery off both sides, "split" each side's own
            mean, "none" nothing.
        cache: See `embed.embed`; indexes are kept there, too. Empty is <run>/outside of each run.
        data: Of runs on several data sets, the one whose clip settings are used.

    Raises:
        RunError: No run, no query or no gallery video is left.
        ValueError: k, index or centering is out of range, or a feature has no direction.
    """
    _check(runs, k, index, centering, len(queries))
    at = _Place(protocol, str(cache), data)
    if gallery is None:
        gallery = Manifest.load(data_set(runs[0], data).manifest).select(split="train")
        if not len(gallery):
            raise RunError(
                f"the data set of {runs[0].folder} has no split train to search in. Name a gallery."
            )
    wanted, queries, unread = _tables(runs, queries, at, "queries")
    known, gallery, missed = _tables(runs, gallery, at, "gallery videos")
    if k > len(gallery):
        print(f"the gallery has {len(gallery)} videos, fewer than k = {k}: all are returned.")
        k = len(gallery)
    sides = [table.values for table in known], [table.values for table in wanted]
    if index == "auto":
        index = "exact" if len(gallery) <= indexes.FLAT_TO else "ivf_sq8"
    if index == "exact":
        found, words = exact_search(*sides, k, centering=centering), "exact"
    else:
        folder = Path(cache) if str(cache) else runs[0].folder / "outside"
        found, words = _indexed(*sides, k, centering, index, folder / "indexes")
    names = tuple(run.folder.name for run in runs)
    return Hits(queries, gallery, found, names, words, unread + missed)


@dataclass(frozen=True)
class _Place:
    """How both sides are embedded."""

    protocol: Protocol
    cache: str
    data: str


def _check(runs: Sequence[Run], k: int, index: str, centering: str, queries: int) -> None:
    """Raise where the arguments of `search` cannot be used."""
    if not runs:
        raise RunError("search needs at least one run; got none.")
    if k < 1:
        raise ValueError(f"k counts videos from 1; got {k}.")
    if index not in INDEXES:
        raise ValueError(f"index must be one of {', '.join(INDEXES)}; got {index!r}.")
    if centering not in CENTERINGS:
        raise ValueError(f"centering must be one of {', '.join(CENTERINGS)}; got {centering!r}.")
    if centering == "split" and queries == 1:
        raise ValueError(
            "centering 'split' takes the queries' own mean off, which leaves nothing of a single "
            "query. Use 'gallery'."
        )


def _tables(
    runs: Sequence[Run], manifest: Manifest, at: _Place, who: str
) -> tuple[list[Features], Manifest, tuple[tuple[str, str], ...]]:
    """A table of each run, of the videos that every run can read."""
    tables: list[Features] = []
    failed: tuple[tuple[str, str], ...] = ()
    total = len(manifest)
    for run in runs:
        done = embed(run, manifest, at.protocol, cache=at.cache, data=at.data)
        if done.failed:
            left = np.isin(manifest.path, done.manifest.path)
            tables = [table.select(left, done.manifest.fingerprint()) for table in tables]
        tables, manifest, failed = [*tables, done.table], done.manifest, failed + done.failed
    if failed:
        print(f"{who}: {left_out(failed, total)} They are left out.", flush=True)
    return tables, manifest, failed


def _indexed(
    gallery: list[np.ndarray],
    queries: list[np.ndarray],
    k: int,
    centering: str,
    kind: str,
    folder: Path,
) -> tuple[Neighbors, str]:
    """Search with an index, kept in a folder; the scores are sums of cosines as of exact search."""
    rows, wanted = directions(gallery, queries, centering)
    index = indexes.load_or_build(rows, kind, folder)
    found = index.search(wanted, k)
    return Neighbors(found.rows, found.scores * len(gallery)), index.words
