"""Compare lists of neighbors (overlap, gained, lost) and count the gallery's hubs."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Hubness:
    """How unevenly a gallery is retrieved (Radovanovic, Nanopoulos and Ivanovic 2010).

    counts [N]: N_k, in how many queries' k nearest a row is; skewness of N_k, 0 where all are found
    as often; never: share of rows in no list (antihubs); hub: the row most often found, lowest
    number first; hub_share of the queries."""

    counts: np.ndarray
    skewness: float
    never: float
    hub: int
    hub_share: float


def hubness(rows: np.ndarray, gallery: int, k: int) -> Hubness:
    """Count how often each gallery row is among the first k neighbors (N_k), and its skewness.

    With within-source exclusion no query can find every row; N_k of a row still counts the queries
    that found it.

    Args:
        rows: Neighbors [Q,n].
        gallery: Its number of rows.
        k: At most n.

    Raises:
        ValueError: k exceeds n, or a neighbor is no row of the gallery.
    """
    rows = _first(rows, k, "hubness")
    if rows.min() < 0 or rows.max() >= gallery:
        raise ValueError(
            f"hubness: neighbors are rows {rows.min()} to {rows.max()}, the gallery has "
            f"{gallery} rows."
        )
    counts = np.bincount(rows.ravel(), minlength=gallery)
    apart, deviation = counts - counts.mean(), counts.std()
    skewness = float((apart**3).mean() / deviation**3) if deviation else 0.0
    return Hubness(
        counts,
        skewness,
        float((counts == 0).mean()),
        int(counts.argmax()),
        float(counts.max() / len(rows)),
    )


def shared(one: np.ndarray, two: np.ndarray, k: int) -> np.ndarray:
    """Return which of the first k neighbors in `one` are among the first k in `two`: bool [Q,k].

    Their ranks do not matter.

    Args:
        one, two: Neighbors [Q,n] and [Q,m] of the same queries.
        k: At most n and m.

    Raises:
        ValueError: The queries are not equally many, or k is too large.
    """
    one, two = _first(one, k, "shared"), _first(two, k, "shared")
    if len(one) != len(two):
        raise ValueError(
            f"wanted two lists of neighbors of the same queries; got {len(one)} and {len(two)} "
            "queries."
        )
    return (one[:, :, None] == two[:, None, :]).any(axis=2)


def overlap(one: np.ndarray, two: np.ndarray, k: int) -> np.ndarray:
    """Compute the Jaccard index of the first k neighbors of each query in two searches: [Q].

    It is the number of neighbors in both over the number in either, from 0 to 1.

    Args:
        one, two: Neighbors [Q,n] and [Q,m] of the same queries.
        k: At most n and m.
    """
    both = shared(one, two, k).sum(axis=1)
    return both / (2 * k - both)


def chance_overlap(k: int, room: int) -> float:
    """Compute the mean Jaccard index of two independent random sets of k among `room` rows.

    By the hypergeometric distribution.

    Args:
        k: At most `room`.
        room: Rows to draw from.

    Raises:
        ValueError: k is below 1 or above `room`.
    """
    if not 1 <= k <= room:
        raise ValueError(f"chance_overlap: wanted 1 <= k <= room; got k = {k} and room = {room}.")
    ways = (
        Fraction(math.comb(k, both) * math.comb(room - k, k - both) * both, 2 * k - both)
        for both in range(k + 1)
    )
    return float(sum(ways) / math.comb(room, k))


def exchanged(
    before: np.ndarray, after: np.ndarray, right: tuple[np.ndarray, np.ndarray], k: int
) -> dict:
    """Count neighbors kept, gained and lost between two searches, right and wrong ones separately.

    A query gains as many neighbors as it loses.

    Args:
        before, after: Neighbors [Q,n].
        right: Labels of gallery [N] and queries [Q]. A neighbor is right if both are equal; an
            unknown label, -1, never is.
        k: At most n.

    Returns:
        "kept right", "kept wrong", "gained right", ... "lost wrong" -> counts int [Q].
    """
    gallery, label = right
    counts = {}
    for name, rows, other, there in (
        ("kept", after, before, True),
        ("gained", after, before, False),
        ("lost", before, after, False),
    ):
        moved = shared(rows, other, k) == there
        same = (gallery[rows[:, :k]] == label[:, None]) & (label >= 0)[:, None]
        counts[f"{name} right"], counts[f"{name} wrong"] = (
            (moved & same).sum(axis=1),
            (moved & ~same).sum(axis=1),
        )
    return counts


def _first(rows: np.ndarray, k: int, who: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2 or not 1 <= k <= rows.shape[1]:
        raise ValueError(
            f"{who}: wanted neighbors [Q,n] and 1 <= k <= n; got {list(rows.shape)} and k = {k}; "
            "search for more."
        )
    return rows[:, :k]
