"""Exact cosine search with faiss, which double precision decides where cosines are close."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vidbench.system.progress import Progress, Style

# gallery rows normalized and searched at once: an index would hold a second copy of a large gallery
BLOCK = 16_384
SPARE = 4  # rows that faiss proposes beyond k
DOUBT = 2e-6  # more than single precision gets the difference of two cosines wrong by
HELD = 1 << 24  # numbers gathered at once: 64 MB in single precision
CENTERINGS = ("none", "gallery", "split")
# source ids of gallery [N] and queries [Q]
SourceVideos: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Neighbors:
    """Gallery rows [Q,k] of each query, the most similar first, and their similarities [Q,k].

    The similarity is the cosine, or with several streams the sum of their cosines. Exact ties: the
    lower row first."""

    rows: np.ndarray
    scores: np.ndarray


def unit(
    values: np.ndarray, center: np.ndarray | None = None, who: str = "features", first: int = 0
) -> np.ndarray:
    """Scale rows to unit length: float32 [N,D].

    Args:
        values: [N,D].
        center: [D], subtracted first.
        who: What the rows are, for the message.
        first: The number of the first row, for the message.

    Raises:
        ValueError: values are not finite, or a row is zero and has no direction.
    """
    values = np.asarray(values, dtype=np.float32)
    if center is not None:
        values = values - center.astype(np.float32)
    norm = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    bad = ~np.isfinite(norm)
    if bad.any():
        raise ValueError(
            f"{who}: row {first + int(bad.argmax())} contains NaN or infinity, and "
            f"{int(bad.sum()) - 1} more do; look at the run's log before searching in them."
        )
    if len(norm) and norm.min() < 1e-12:
        after = "zero" if center is None else "zero after the mean is subtracted"
        raise ValueError(
            f"{who}: row {first + int(norm.argmin())} is {after}, so it has no direction; check "
            "whether the network is dead, or center in another way."
        )
    return np.ascontiguousarray(values / norm)


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def search(
    gallery: np.ndarray | Sequence[np.ndarray],
    queries: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    centering: str = "none",
    source_videos: SourceVideos | None = None,
) -> Neighbors:
    """Search by exact cosine: the k nearest gallery rows of each query.

    Two streams come as lists of two arrays: their cosines are summed, each stream centered by
    itself (CoCLR's merge_2stream_prob.py), as in the concatenation of their unit vectors. faiss
    proposes, double precision decides between close cosines: blocks, threads and order of rows
    change no neighbor.

    Args:
        gallery, queries: [N,D] and [Q,D], or a list of those, one per stream.
        centering: "none" (IIC, RSPNet, TCLR), "gallery" (subtract the gallery's mean from both
            sides) or "split" (each side's own mean, as CoCLR's released code; it uses statistics of
            the queries).
        source_videos: Source ids of gallery [N] and queries [Q]; rows of a query's own source are
            then not among its neighbors.

    Raises:
        ValueError: a query has fewer than k rows to choose from, or shapes or values do not fit.
    """
    gallery, queries = (
        [np.asarray(part) for part in (side if isinstance(side, list | tuple) else [side])]
        for side in (gallery, queries)
    )
    shapes = [[part.shape for part in side] for side in (gallery, queries)]
    flat = all(len(shape) == 2 for side in shapes for shape in side)
    if (
        not flat
        or any(len({n for n, _ in side}) != 1 for side in shapes)
        or [d for _, d in shapes[0]] != [d for _, d in shapes[1]]
    ):
        raise ValueError(
            "search needs gallery [N,D] and queries [Q,D], or a list of those, one a stream, on "
            f"both sides; got {shapes[0]} and {shapes[1]}."
        )
    if centering not in CENTERINGS:
        raise ValueError(f"centering is one of {CENTERINGS}; got {centering!r}.")
    room = room_of(len(gallery[0]), len(queries[0]), source_videos)
    if not 1 <= k <= room.min(initial=k):
        raise ValueError(
            f"{too_few(room, len(gallery[0]))}, fewer than k = {k}; use a smaller k or add videos."
            if k > 0
            else f"k counts neighbors from 1; got {k}."
        )
    return _Search(gallery, queries, centering, source_videos, room).nearest(k)


def directions(
    gallery: Sequence[np.ndarray], queries: Sequence[np.ndarray], centering: str
) -> tuple[np.ndarray, np.ndarray]:
    """Make unit rows for an index: their inner product is the mean of the streams' cosines.

    `search` sums these cosines. Both sides are centered as in `search`, each stream is scaled to
    unit length, and the streams are concatenated, D in total.

    Args:
        gallery, queries: An array [N,D] and [Q,D] for each stream.

    Returns:
        Gallery [N,D] and queries [Q,D], float32.
    """
    wide = np.float32(math.sqrt(len(gallery)))
    own, theirs = centers(gallery, queries, centering)
    sides = (gallery, own, "gallery"), (queries, theirs, "queries")
    made = [
        _side_by_side([unit(part, at, who) / wide for part, at in zip(parts, places, strict=True)])
        for parts, places, who in sides
    ]
    return made[0], made[1]


def centers(
    gallery: Sequence[np.ndarray], queries: Sequence[np.ndarray], centering: str
) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
    """Return what is subtracted from each stream of gallery and queries: [D] each, or None.

    Args:
        gallery, queries: An array [N,D] and [Q,D] for each stream.
        centering: See `search`.
    """
    means: list[np.ndarray | None] = [
        None if centering == "none" else part.mean(0, dtype=np.float64) for part in gallery
    ]
    if centering != "split":
        return means, means
    return means, [part.mean(0, dtype=np.float64) for part in queries]


def siblings(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Count the gallery rows of each query's own source: [Q].

    Args:
        gallery, queries: Source ids [N] and [Q].
    """
    ids, counts = np.unique(gallery, return_counts=True)
    place = np.minimum(np.searchsorted(ids, queries), len(ids) - 1)
    return np.where(ids[place] == queries, counts[place], 0)


def room_of(rows: int, queries: int, source_videos: SourceVideos | None) -> np.ndarray:
    """Count the rows that each query may find: [Q].

    Args:
        rows: The number of gallery rows.
        queries: The number of queries.
        source_videos: Ids of both sides, if a query must not find its own source.

    Raises:
        ValueError: the numbers of ids differ from rows and queries.
    """
    if source_videos is None:
        return np.full(queries, rows)
    if (len(source_videos[0]), len(source_videos[1])) != (rows, queries):
        raise ValueError(
            f"wanted a source for each of {rows} gallery rows and {queries} queries; got "
            f"{len(source_videos[0])} and {len(source_videos[1])}."
        )
    return rows - siblings(*source_videos)


def too_few(room: np.ndarray, rows: int) -> str:
    """Say how many of the gallery's rows the most limited query may find, for errors.

    Args:
        room: [Q], from `room_of`.
        rows: The number of gallery rows.
    """
    worst = int(room.argmin())
    return (
        f"the gallery has {rows} rows"
        if room[worst] == rows
        else f"query {worst} has {room[worst]} of the gallery's {rows} rows left outside of its "
        "source"
    )


class _Search:
    """What one search works on: raw gallery, its centers, unit queries with their streams side by
    side."""

    def __init__(
        self,
        gallery: list,
        queries: list,
        centering: str,
        source_videos: SourceVideos | None,
        room: np.ndarray,
    ) -> None:
        self.gallery, self.source_videos, self.room = gallery, source_videos, room
        self.centers, own = centers(gallery, queries, centering)
        self.queries = _side_by_side(
            [unit(part, center, "queries") for part, center in zip(queries, own, strict=True)]
        )

    def nearest(self, k: int) -> Neighbors:
        rows, scores = self._proposed(min(k + SPARE, len(self.gallery[0])))
        # a row not proposed is no nearer than the last one proposed; if that is too near the k-th,
        # look at all rows
        unsure = np.flatnonzero(
            (scores[:, -1] > scores[:, k - 1] - DOUBT) & (rows.shape[1] < self.room)
        )
        close = np.flatnonzero((-np.diff(scores[:, : k + 1]) < DOUBT).any(axis=1))
        for part in _parts(len(close), max(1, HELD // (rows.shape[1] * self.queries.shape[1]))):
            query_rows = close[part]
            held = self._unit(rows[query_rows].ravel()).reshape(*rows[query_rows].shape, -1)
            exact = np.einsum("qkd,qd->qk", held, self.queries[query_rows], dtype=np.float64)
            scores[query_rows] = np.where(
                np.isneginf(scores[query_rows]), scores[query_rows], exact
            )
        rows, scores = best(rows, scores, k)
        for part in _parts(len(unsure), max(1, HELD // BLOCK)):
            rows[unsure[part]], scores[unsure[part]] = self._scanned(unsure[part], k)
        return Neighbors(rows, scores)

    def _unit(self, which: slice | np.ndarray, first: int = 0) -> np.ndarray:
        return _side_by_side(
            [
                unit(part[which], center, "gallery", first)
                for part, center in zip(self.gallery, self.centers, strict=True)
            ]
        )

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers and unit vectors of the gallery, block by block."""
        for part in _parts(len(self.gallery[0]), BLOCK):
            yield np.arange(part.start, part.stop), self._unit(part, part.start)

    def _barred(self, query_rows: np.ndarray | slice, rows: np.ndarray) -> np.ndarray:
        """Where gallery rows [q,n] are of the queries' source videos [q]."""
        if self.source_videos is None:
            return np.zeros(rows.shape, bool)
        return (
            np.asarray(self.source_videos[0])[rows]
            == np.asarray(self.source_videos[1])[query_rows, None]
        )

    def _proposed(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """faiss's k nearest [Q,k] and their cosines, which are -inf where a query has fewer."""
        rows, scores = (
            np.empty((len(self.queries), 0), np.int64),
            np.empty((len(self.queries), 0), np.float32),
        )
        total = len(self.gallery[0])
        shown: Style = "auto" if total > BLOCK else "none"  # a bar costs more than a small search
        what = f"search by {len(self.queries)} queries"
        with Progress(what, total, "gallery row", shown, late=True) as bar:
            for numbers, block in self._blocks():
                rows, scores = self._nearer(numbers, block, (rows, scores), k)
                bar.add(len(block))
        return rows, scores

    def _nearer(
        self, numbers: np.ndarray, block: np.ndarray, held: tuple[np.ndarray, np.ndarray], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of those held and of one block of the gallery."""
        import faiss

        own = (
            0
            if self.source_videos is None
            else siblings(np.asarray(self.source_videos[0])[numbers], self.source_videos[1]).max()
        )
        near, at = faiss.knn(
            self.queries, block, min(k + int(own), len(block)), metric=faiss.METRIC_INNER_PRODUCT
        )
        near[self._barred(slice(None), numbers[at])] = -np.inf
        rows, scores = held
        return best(np.concatenate([rows, numbers[at]], 1), np.concatenate([scores, near], 1), k)

    def _scanned(self, query_rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of some queries, all cosines taken in double precision."""
        rows, scores = (
            np.empty((len(query_rows), 0), np.int64),
            np.empty((len(query_rows), 0), np.float32),
        )
        for numbers, block in self._blocks():
            near = (
                self.queries[query_rows].astype(np.float64) @ block.T.astype(np.float64)
            ).astype(np.float32)
            at = np.broadcast_to(numbers, near.shape)
            near[self._barred(query_rows, at)] = -np.inf
            rows, scores = best(np.concatenate([rows, at], 1), np.concatenate([scores, near], 1), k)
        return rows, scores


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows with the largest scores, and those scores: both [Q,k].

    Of equal scores the lower row comes first.

    Args:
        rows, scores: [Q,n].
    """
    first = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, first, 1), np.take_along_axis(scores, first, 1)


def _parts(n: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
