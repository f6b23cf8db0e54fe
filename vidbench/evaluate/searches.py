"""Several runs search the same gallery with the same queries: tables, hits, numbers, differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes
from vidbench.evaluate.differences import difference_words
from vidbench.evaluate.features import PROTOCOLS, Features, Protocol, load_or_extract
from vidbench.evaluate.retrieval import (
    Searchable,
    Tables,
    macro,
    protocol_of,
    retrieve,
    summary,
)
from vidbench.evaluate.search import Neighbors
from vidbench.system.processes import cores

BOTH = "both streams"  # the name of two runs searched together
INTERVAL = tuple[float, float, float]  # value, low, high
MANY = 1000  # videos, from which features are extracted by several processes


@dataclass(frozen=True)
class Searched:
    """What one run, or both streams together, found for every query."""

    sides: tuple[Tables, Tables]  # gallery and queries
    neighbors: Neighbors
    hits: Mapping[str, np.ndarray]  # "R@k" -> bool [Q]; {} without labels
    numbers: Mapping[str, INTERVAL]  # "R@k" -> share with its interval over source videos
    protocol: Mapping[str, Any]

    @property
    def queries(self) -> Features:
        """The queries' table, or the first stream's."""
        side = self.sides[1]
        return side if isinstance(side, Features) else side[0]


def tables_of(
    trained: Mapping[str, Run],
    manifest: Manifest,
    split: str,
    protocol: Protocol = PROTOCOLS["vidbench"],
    *,
    flow: str | Path = "",
    fuse: bool = True,
) -> dict[str, tuple[Tables, Tables]]:
    """Load or extract the features of the training videos and of a split, for every run.

    Args:
        trained: Runs by name.
        manifest: The videos of both sides.
        split: Of the queries.
        protocol: How clips become a feature.
        flow: The flow store of the videos.
        fuse: If the runs are two, of both streams, add BOTH: a table of each stream.

    Returns:
        Name -> (gallery, queries).
    """
    workers = min(16, cores()) if len(manifest) > MANY else 0
    tables: dict[str, tuple[Any, Any]] = {}
    for name, run in trained.items():
        gallery, queries = (
            load_or_extract(run, part, protocol, manifest=manifest, flow=flow, workers=workers)
            for part in ("train", split)
        )
        tables[name] = gallery, queries
    return with_both(tables) if fuse else tables


def with_both(tables: Mapping[str, tuple[Features, Features]]) -> dict[str, tuple[Any, Any]]:
    """Add BOTH, a table of each stream, if the runs are two and of both streams."""
    made: dict[str, tuple[Any, Any]] = dict(tables)
    streams = {gallery.protocol.get("stream") for gallery, _ in tables.values()}
    if len(tables) == 2 and len(streams) == 2:
        one, two = tables.values()
        made[BOTH] = [one[0], two[0]], [one[1], two[1]]
    return made


def search_all(
    tables: Mapping[str, tuple[Tables, Tables]],
    *,
    centering: str = "gallery",
    exclude_source_video: bool = False,
    indexes: Mapping[str, Searchable] | None = None,
) -> dict[str, Searched]:
    """Search the gallery of each entry with its queries.

    Args:
        tables: What `tables_of` returns.
        centering: Whose mean is subtracted first: none, gallery or split.
        exclude_source_video: Leave out the query's own source video.
        indexes: Name -> an index to search instead of the exact search.

    Returns:
        What each found, with 95 % intervals over source videos.
    """
    found = {}
    for name, (gallery, queries) in tables.items():
        how: dict[str, Any] = {
            "centering": centering,
            "exclude_source_video": exclude_source_video,
            "index": (indexes or {}).get(name),
        }
        done = retrieve(gallery, queries, **how)
        first = queries if isinstance(queries, Features) else queries[0]
        numbers = summary(done.hits, by="source_video", source_video=first.source_video)
        protocol = protocol_of(gallery, queries, **how)
        found[name] = Searched((gallery, queries), done.neighbors, done.hits, numbers, protocol)
    return found


def differences(
    found: Mapping[str, Searched], base: str, seed: int = 0
) -> dict[str, dict[str, INTERVAL]]:
    """Subtract `base`'s R@k from every other search's, by query: name -> "R@k" -> interval.

    Args:
        found: Name -> search.
        base: The name of the search to compare with.
        seed: Of the bootstrap.
    """
    first = found[base]
    made = {}
    for name, one in found.items():
        if name != base:
            gaps = {k: 1.0 * one.hits[k] - first.hits[k] for k in first.hits}
            sources = first.queries.source_video
            made[name] = summary(gaps, seed, by="source_video", source_video=sources)
    return made


def difference_lines(
    found: Mapping[str, Searched], base: str, iterations: int = 0, metric: str = "R@1"
) -> str:
    """Say in a line each what every other search gains over `base`; "" without labels.

    Args:
        found: What `search_all` returns.
        base: The search that the others are compared with.
        iterations: Of the shortest training; 0 if it is unknown.
        metric: Such as "R@1".
    """
    first = found[base]
    others = [name for name in found if name != base and metric in first.hits]
    sources = first.queries.source_video
    return "\n".join(
        difference_words(
            (name, base),
            (found[name].hits[metric], first.hits[metric]),
            sources,
            metric,
            iterations,
        )
        for name in others
    )


def keep(
    found: Mapping[str, Searched], trained: Mapping[str, Run], queries: Manifest, data: str
) -> list[str]:
    """Write the numbers and outcomes of each search into its run; those of BOTH into the first run.

    Args:
        queries: The videos that were searched for.
        data: The name of the data set, in the protocol.

    Returns:
        The names of the runs that were written to; none without labels or runs.
    """
    first, written = next(iter(trained), ""), []
    for name, one in found.items():
        if not one.hits or not trained:
            continue
        others = [other for other in trained if other != first]
        extra = {} if name in trained else {"fused_with": ", ".join(others)}
        numbers = {**one.numbers, "macro R@1": macro(one.hits["R@1"], one.queries.label)}
        run = trained.get(name, trained[first])
        protocol = {**one.protocol, **extra, "data": data}
        outcome = outcomes.of_retrieval(one.neighbors, one.hits, protocol, one.sides[0], queries)
        outcomes.add(run, outcome, numbers)
        written.append(run.folder.name)
    return list(dict.fromkeys(written))
