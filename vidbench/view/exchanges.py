"""What changed between two searches of the same queries: overlap with a third, neighbors gained and
lost, and whether the third names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vidbench.evaluate.neighbors import chance_overlap, exchanged, overlap, shared
from vidbench.evaluate.retrieval import summary
from vidbench.evaluate.searches import Searched
from vidbench.view.figures import Bar, bars, curves
from vidbench.view.html import table
from vidbench.view.looks import PALETTE, RIGHT, WRONG

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest
    from vidbench.view.looks import Html

DEPTHS = (1, 2, 5, 10, 20, 50)  # neighbors at which lists are compared
RANDOM = "two random lists"
CHANGES = ("kept", "lost", "gained")
Found = Mapping[str, Searched]
Pair = tuple[str, str]  # the search before and the one after


def overlap_curve(found: Found, pair: Pair, teacher: str, gallery: int) -> Figure:
    """Draw the share of neighbors that each of two searches has in common with a third, over k.

    Args:
        found: Name -> search.
        pair: Names of the searches before and after.
        teacher: Name of the third.
        gallery: How many videos are searched.
    """
    depths = [k for k in DEPTHS if k <= found[teacher].neighbors.rows.shape[1]]
    lines = {}
    for name in pair:
        means = [_agreement(found[name], found[teacher], k) for k in depths]
        lines[name] = (depths, *zip(*means, strict=True))
    lines[RANDOM] = (depths, [chance_overlap(k, gallery) for k in depths])
    return curves(
        lines,
        "k",
        f"overlap with {teacher} (%)",
        f"Neighbors shared with {teacher}",
        percent=True,
        colors={RANDOM: PALETTE[6]},
    )


def _agreement(one: Searched, other: Searched, k: int) -> tuple[float, float, float]:
    shares = overlap(one.neighbors.rows, other.neighbors.rows, k)
    return summary({"": shares}, by="source_video", source_video=one.queries.source_video)[""]


def exchange_bars(found: Found, pair: Pair, train: Manifest, queries: Manifest, k: int) -> Figure:
    """Draw how many of the k nearest are kept, lost and gained, right and wrong ones separately.

    Args:
        found: Name -> search.
        pair: Names of the searches before and after.
        train: The gallery. Without labels, right and wrong are one.
        k: How many neighbors of a query count.
    """
    before, after = (found[name].neighbors.rows for name in pair)
    moved = exchanged(before, after, (train.label, queries.label), k)
    means = summary(moved, by="source_video", source_video=queries.source_video)
    words = {"right": "right", "wrong": "wrong"} if train.labeled else {"wrong": "neighbors"}
    made = []
    for change in CHANGES:
        made += [Bar(word, change, *means[f"{change} {kind}"]) for kind, word in words.items()]
    colors = {"right": RIGHT, "wrong": WRONG} if train.labeled else None
    title, y = f"From {pair[0]} to {pair[1]}", f"of the {k} neighbors of a query"
    return bars(made, y, title, percent=False, colors=colors)


def origin_table(
    found: Found, pair: Pair, teacher: str, train: Manifest, queries: Manifest, k: int
) -> Html | str:
    """List how many gained neighbors are right, by whether the teacher's list has them, too.

    Args:
        found: Name -> search.
        pair: Names of the searches before and after.
        teacher: Name of the teacher's search.
        k: How many neighbors of a query count.

    Returns:
        A table, or a sentence if no neighbor was gained.
    """
    before, after, named = (found[name].neighbors.rows for name in (*pair, teacher))
    new, taught = ~shared(after, before, k), shared(after, named, k)
    same = train.label[after[:, :k]] == queries.label[:, None]
    groups = {f"also retrieved by {teacher}": new & taught, "not retrieved by it": new & ~taught}
    rows = [
        {
            "neighbors gained": words,
            "number": int(chosen.sum()),
            "right": same[chosen].mean() if train.labeled else "no labels",
        }
        for words, chosen in groups.items()
        if chosen.any()
    ]
    note = f"among the {k} nearest of {len(queries)} queries"
    return table(rows, formats={"right": ".1%"}, note=note) if rows else "no neighbor was gained"
