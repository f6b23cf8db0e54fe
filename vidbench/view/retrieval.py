"""Tables and curves of searches: R@k with intervals, differences, hubs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vidbench.evaluate.chance import chance_level, guess_words, no_labels
from vidbench.evaluate.neighbors import Hubness, hubness
from vidbench.evaluate.searches import Searched, differences
from vidbench.view.figures import curves
from vidbench.view.html import table
from vidbench.view.looks import Html, escaped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest

SWITCHES = (
    *("stream", "sampling", "windows", "crops", "normalize_clips"),
    *("centering", "exclude_source_video", "index"),
)
OVER = "95 % bootstrap over source videos"
NEAREST = 10  # of a query, among which hubs are counted
Found = Mapping[str, Searched]


def numbers_table(found: Found, classes: Sequence[str]) -> Html | str:
    """Draw R@k of each search in percent, a column a search; without labels, a sentence.

    Args:
        found: Name -> search.
    """
    first = next(iter(found.values()))
    if not first.hits:
        return no_labels("R@k")
    rows = [
        {"percent": k, **{name: _percent(found[name], k) for name in found}} for k in first.hits
    ]
    return table(rows, note=f"{OVER}. {guess_words(classes, 'R@1')}")


def _percent(one: Searched, k: str) -> tuple[float, float, float]:
    value, low, high = one.numbers[k]
    return 100 * value, 100 * low, 100 * high


def recall_curve(found: Found, classes: Sequence[str]) -> Figure | str:
    """Draw R@k over k with intervals, a line a search; without labels, a sentence.

    Args:
        found: Name -> search.
    """
    first = next(iter(found.values()))
    if not first.hits:
        return no_labels("R@k")
    ks = [int(name[2:]) for name in first.hits]
    lines = {name: (ks, *zip(*one.numbers.values(), strict=True)) for name, one in found.items()}
    levels = chance_level(classes, "chance at k = 1")
    return curves(lines, "k", "R@k (%)", "With 95 % intervals", percent=True, levels=levels)


def differences_table(found: Found, base: str) -> Html | str:
    """List R@k of every other search minus that of `base`, in points, query by query.

    Args:
        found: Name -> search.
        base: Name of the search that is subtracted.

    Returns:
        A table, or a sentence if there are no labels or no other search.
    """
    if not found[base].hits:
        return no_labels("R@k")
    gaps = differences(found, base)
    if not gaps:
        return "one search only: nothing to compare"
    rows = [
        {"points": k, **{name: tuple(100 * x for x in gap[k]) for name, gap in gaps.items()}}
        for k in found[base].hits
    ]
    return table(rows, formats=dict.fromkeys(gaps, "+.1f"), note=f"R@k - that of {base}; {OVER}")


def protocol_table(found: Found) -> Html:
    """List the switches that change the numbers of each search; a column a run."""
    known = [name for name in SWITCHES if any(name in one.protocol for one in found.values())]
    return table(
        [
            {"switch": name, **{run: str(one.protocol.get(name, "")) for run, one in found.items()}}
            for name in known
        ]
    )


def hub_table(found: Found, train: Manifest) -> Html:
    """Show how unevenly each search finds the gallery.

    Columns are the skewness, the share of videos never found, and the largest hub.

    Args:
        found: Name -> search.
        train: The gallery.
    """
    hubs, k = hubs_of(found, train)
    rows = [
        {
            "run": name,
            "skewness": hub.skewness,
            "never found": hub.never,
            "largest hub": Html(escaped(train.names(hub.hub)["path"]).replace("/", "/<wbr>")),
            "its class": train.names(hub.hub)["label"] or "no label",
            "near to": hub.hub_share,
        }
        for name, hub in hubs.items()
    ]
    note = f"Over the {k} nearest of each query; near to: the share of queries that find the hub"
    formats = {"skewness": ".2f", "never found": ".1%", "near to": ".1%"}
    return table(rows, formats=formats, note=note)


def hub_curve(found: Found, train: Manifest) -> Figure:
    """Draw how often each gallery video is found, the most often found first.

    Args:
        found: Name -> search.
        train: The gallery.
    """
    hubs, k = hubs_of(found, train)
    places = range(1, len(train) + 1)
    lines = {name: (places, np.sort(hub.counts)[::-1].tolist()) for name, hub in hubs.items()}
    queries = len(next(iter(found.values())).queries.label)
    return curves(
        lines,
        "gallery videos, the most often found first",
        "times found",
        f"Among the {k} nearest",
        levels={"all alike": k * queries / len(train)},
    )


def hubs_of(found: Found, train: Manifest) -> tuple[dict[str, Hubness], int]:
    """Compute the hubness of each search over the k nearest of each query, k <= 10.

    Args:
        found: Name -> search.
        train: The gallery.

    Returns:
        Name -> hubness, and k.
    """
    k = min(NEAREST, *(one.neighbors.rows.shape[1] for one in found.values()))
    rows = {name: one.neighbors.rows for name, one in found.items()}
    return {name: hubness(near, len(train), k) for name, near in rows.items()}, k
