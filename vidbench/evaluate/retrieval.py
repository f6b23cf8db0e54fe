"""The table to a faiss index, the search, the protocols, R@k."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vidbench.tensors.metrics import bootstrap_interval, recall_at

KS = (1, 5, 10, 20, 50)  # CoCLR table 3
# gallery rows normalized and searched at once: an index would hold a second copy of a large gallery
BLOCK = 16_384
SPARE = 4  # rows that faiss proposes beyond k
DOUBT = 2e-6  # more than single precision gets the difference of two cosines wrong by
HELD = 1 << 24  # numbers gathered at once: 64 MB in single precision
DRAWS = 2000  # of the bootstrap over sources, as of the one over videos
CENTERINGS = ("none", "gallery", "split")


@dataclass(frozen=True)
class Neighbors:
    """For each query the gallery rows [Q,k] in order of falling similarity, and those similarities
    [Q,k].

    The similarity is the cosine, or with several streams the sum of their cosines. Exact ties: the
    lower row first."""

    rows: np.ndarray
    scores: np.ndarray


# ---- search ------------------------------------------------------------------------------------


def unit(
    values: np.ndarray, center: np.ndarray | None = None, who: str = "features", first: int = 0
) -> np.ndarray:
    """Rows [N,D] of unit length, float32, with `center` [D] taken off first; errors count the rows
    of `who` from first.

    Raises ValueError at values not finite, and at a row that is zero and so points nowhere.
    """
    values = np.asarray(values, dtype=np.float32)
    if center is not None:
        values = values - center.astype(np.float32)
    norm = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    bad = ~np.isfinite(norm)
    if bad.any():
        raise ValueError(
            f"{who}: row {first + int(bad.argmax())} holds NaN or infinity, and "
            f"{int(bad.sum()) - 1} more "
            "do; look at the run's log before searching in them."
        )
    if len(norm) and norm.min() < 1e-12:
        after = "zero" if center is None else "zero once the mean is off"
        raise ValueError(
            f"{who}: row {first + int(norm.argmin())} is {after}, so it is near to nothing; look "
            "whether "
            "the network is dead, or center in another way."
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
    source_videos: tuple[np.ndarray, np.ndarray] | None = None,
) -> Neighbors:
    """Exact cosine search: gallery [N,D], queries [Q,D] -> the k nearest gallery rows of each
    query.

    Two streams come as lists of two arrays: their cosines are summed, each stream centered by itself
    (CoCLR's merge_2stream_prob.py); that is the search in their unit vectors put side by side.
    centering: "none" (IIC, RSPNet, TCLR), "gallery" (the gallery's mean off both sides) or "split"
    (each side's own mean, as CoCLR's released code; it uses statistics of the queries). sources: of
    gallery [N] and queries [Q]; rows of a query's own source are then none of its neighbors. faiss
    proposes, double precision decides where cosines are close: blocks, threads and order of rows
    move no neighbor. Raises ValueError where a query has fewer than k rows to choose from, and at
    shapes or values that do not fit."""
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
            "search wants gallery [N,D] and queries [Q,D], or a list of those, one a stream, on "
            "both "
            f"sides; got {shapes[0]} and {shapes[1]}."
        )
    if centering not in CENTERINGS:
        raise ValueError(f"centering is one of {CENTERINGS}; got {centering!r}.")
    room = _room(len(gallery[0]), len(queries[0]), source_videos)
    if not 1 <= k <= room.min(initial=k):
        raise ValueError(
            f"{_few(room, len(gallery[0]))}, fewer than k = {k}; ask for fewer or add videos."
            if k > 0
            else f"k counts neighbors from 1; got {k}."
        )
    return _Search(gallery, queries, centering, source_videos, room).nearest(k)


def siblings(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """How many gallery rows are of each query's own source: source ids [N] and [Q] -> [Q]."""
    ids, counts = np.unique(gallery, return_counts=True)
    place = np.minimum(np.searchsorted(ids, queries), len(ids) - 1)
    return np.where(ids[place] == queries, counts[place], 0)


def _room(
    rows: int, queries: int, source_videos: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """Rows that each query may find [Q]."""
    if source_videos is None:
        return np.full(queries, rows)
    if (len(source_videos[0]), len(source_videos[1])) != (rows, queries):
        raise ValueError(
            f"wanted a source for each of {rows} gallery rows and {queries} queries; got "
            f"{len(source_videos[0])} and {len(source_videos[1])}."
        )
    return rows - siblings(*source_videos)


def _few(room: np.ndarray, rows: int) -> str:
    worst = int(room.argmin())
    return (
        f"the gallery has {rows} rows"
        if room[worst] == rows
        else f"query {worst} has {room[worst]} of the gallery's {rows} rows left outside of its "
        "own source"
    )


class _Search:
    """What one search works on: raw gallery, its centers, unit queries with their streams side by
    side."""

    def __init__(
        self, gallery: list, queries: list, centering: str, source_videos, room: np.ndarray
    ):
        self.gallery, self.source_videos, self.room = gallery, source_videos, room
        self.centers = [
            None if centering == "none" else part.mean(0, dtype=np.float64) for part in gallery
        ]
        own = (
            [part.mean(0, dtype=np.float64) for part in queries]
            if centering == "split"
            else self.centers
        )
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
        """Where gallery rows [q,n] are of the source of the queries asked [q]."""
        if self.source_videos is None:
            return np.zeros(rows.shape, bool)
        return (
            np.asarray(self.source_videos[0])[rows]
            == np.asarray(self.source_videos[1])[query_rows, None]
        )

    def _proposed(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """faiss's k nearest [Q,k] and their cosines, which are -inf where a query has fewer."""
        import faiss

        rows, scores = (
            np.empty((len(self.queries), 0), np.int64),
            np.empty((len(self.queries), 0), np.float32),
        )
        for numbers, block in self._blocks():
            own = (
                0
                if self.source_videos is None
                else siblings(
                    np.asarray(self.source_videos[0])[numbers], self.source_videos[1]
                ).max()
            )
            near, at = faiss.knn(
                self.queries,
                block,
                min(k + int(own), len(block)),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            near[self._barred(slice(None), numbers[at])] = -np.inf
            rows, scores = best(
                np.concatenate([rows, numbers[at]], 1), np.concatenate([scores, near], 1), k
            )
        return rows, scores

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
    """The k rows of the largest scores, of rows and scores [Q,n], the lower row first where they
    tie."""
    first = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, first, 1), np.take_along_axis(scores, first, 1)


def _parts(n: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


# ---- tables, R@k and what they depend on -------------------------------------------------------


def retrieve(
    gallery,
    queries,
    *,
    centering: str = "none",
    ks: tuple[int, ...] | None = None,
    exclude_source_video: bool = False,
    index=None,
) -> tuple[Neighbors, dict[str, np.ndarray]]:
    """Query the gallery of one Features table with another: neighbors and {"R@k": bool [Q]} (CoCLR
    section 4.4).

    A table of each stream, in a list, is two-stream retrieval (see search). exclude_source_video:
    neighbors of the query's own source do not count, for a gallery that holds them. ks None: those
    of KS that the gallery has room for; `protocol` says which are left out. index: one of `indexes`
    over this gallery, searched instead of the exact search, for one stream without centering and
    exclusion. Raises ValueError where a k is larger than the rows a query may find, a query's class
    is nowhere among them, a row has no label, or tables, or index and gallery, do not belong
    together."""
    gallery, queries = _sides(gallery, queries)
    for part, held in (("gallery", gallery[0]), ("queries", queries[0])):
        if (held.label < 0).any():
            raise ValueError(
                f"{int((held.label < 0).sum())} rows of the {part} have no label; an unknown "
                "label would "
                "match itself. Select the labeled rows."
            )
    _findable(gallery[0], queries[0], exclude_source_video)
    source_videos = (
        (gallery[0].source_video, queries[0].source_video) if exclude_source_video else None
    )
    ks = _room_for(gallery[0], queries[0], ks, exclude_source_video)
    if index is None:
        found = search(
            [t.values for t in gallery],
            [t.values for t in queries],
            max(ks),
            centering=centering,
            source_videos=source_videos,
        )
    elif len(gallery) > 1 or centering != "none" or exclude_source_video:
        raise ValueError(
            f"an index holds one stream's cosines as they are; got {len(gallery)} streams, "
            "centering "
            f"{centering!r}, exclude_source_video {exclude_source_video}. Leave index away: exact search does "
            "these."
        )
    else:
        index.check(gallery[0])
        found = index.search(queries[0], max(ks))
    hits = recall_at(
        torch.from_numpy(gallery[0].label[found.rows]), torch.from_numpy(queries[0].label), ks
    )
    return found, {f"R@{k}": hit.numpy() for k, hit in hits.items()}


def protocol_of(
    gallery,
    queries,
    *,
    centering: str = "none",
    ks: tuple[int, ...] | None = None,
    exclude_source_video: bool = False,
    index=None,
) -> dict:
    """Each switch that moves the numbers of `retrieve`, called with the same arguments, as plain
    values.

    The protocol of the features (rgb+flow and the like where streams differ), centering,
    exclude_source_video, and fingerprints of gallery and queries; ks_left_out where the gallery has no
    room for some of KS; index, its kind and switches, where the search was not the exact one.
    Run.add_result takes it as it is."""
    gallery, queries = _sides(gallery, queries)
    made = {}
    for name in dict.fromkeys(
        name for table in gallery for name in table.protocol if name != "rows"
    ):
        values = [table.protocol[name] for table in gallery if name in table.protocol]
        joined = name == "stream" or any(value != values[0] for value in values)
        made[name] = "+".join(map(str, values)) if joined else values[0]
    left_out = sorted(
        set(ks or KS) - set(_room_for(gallery[0], queries[0], ks, exclude_source_video))
    )
    return {
        **made,
        "centering": centering,
        "exclude_source_video": exclude_source_video,
        "gallery": digest(gallery[0]),
        "queries": digest(queries[0]),
        **({"ks_left_out": ",".join(map(str, left_out))} if left_out else {}),
        **({} if index is None else {"index": index.words}),
    }


def digest(table) -> str:
    """The fingerprint of a table's videos, or where its protocol has none `rows-digest` of labels
    and sources."""
    columns = np.stack([table.label, table.source_video]).astype("<i8")
    return table.protocol.get("rows") or f"{len(table.label)}-{zlib.crc32(columns.tobytes()):08x}"


def _sides(gallery, queries) -> tuple[tuple, tuple]:
    """Tables of each side, one a stream. Raises ValueError where they are not of the same videos or
    the same kind."""
    sides = [
        tuple(side) if isinstance(side, list | tuple) else (side,) for side in (gallery, queries)
    ]
    for part, tables in zip(("gallery", "queries"), sides, strict=True):
        if not tables or not len(tables[0].label):
            raise ValueError(f"there are no rows in the {part}; is the split empty?")
        if any(
            digest(table) != digest(tables[0])
            or not np.array_equal(table.source_video, tables[0].source_video)
            or not np.array_equal(table.label, tables[0].label)
            for table in tables
        ):
            rows = " and ".join(map(digest, tables))
            raise ValueError(
                f"the streams' tables of the {part} are of different videos ({rows}); extract "
                "both from "
                "one split of one manifest."
            )
    if sides[0][0].classes != sides[1][0].classes:
        raise ValueError(
            "gallery and queries have other class lists, so their labels cannot be compared; take "
            "both "
            "from one manifest."
        )
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"wanted a table of each stream on both sides; got {len(sides[0])} of the gallery and "
            f"{len(sides[1])} of the queries."
        )
    for one, two in zip(*sides, strict=True):
        common = one.protocol.keys() & two.protocol.keys() - {"rows"}
        other = sorted(name for name in common if one.protocol[name] != two.protocol[name])
        if other:
            raise ValueError(
                f"features of gallery and queries were made differently: {other[0]} is "
                f"{one.protocol[other[0]]!r} and {two.protocol[other[0]]!r}; extract both with one "
                "Protocol."
            )
    return sides[0], sides[1]


def _room_for(
    gallery, queries, ks: tuple[int, ...] | None, exclude_source_video: bool
) -> tuple[int, ...]:
    """The ks asked for, or those of KS that fit. Raises ValueError where one asked for does not, or
    none fits."""
    source_videos = (gallery.source_video, queries.source_video) if exclude_source_video else None
    room = _room(len(gallery.label), len(queries.label), source_videos)
    fits = tuple(k for k in ks or KS if 1 <= k <= room.min())
    if not fits or ks and fits != tuple(ks):
        beyond = next(k for k in ks or KS if k not in fits)
        raise ValueError(
            f"R@{beyond}: {_few(room, len(gallery.label))}, fewer than k = {beyond}; leave ks "
            "away to "
            "take those that fit, or add videos."
        )
    return fits


def _findable(gallery, queries, exclude_source_video: bool) -> None:
    """Raise ValueError where a query's class is nowhere among the rows it may find."""
    pairs = np.unique(np.stack([gallery.label, gallery.source_video], 1), axis=0)
    source_videos = np.bincount(pairs[:, 0], minlength=len(queries.classes))[
        queries.label
    ]  # with the query's class
    if exclude_source_video:
        held = set(map(tuple, pairs.tolist()))
        source_videos = source_videos - [
            pair in held
            for pair in zip(queries.label.tolist(), queries.source_video.tolist(), strict=True)
        ]
    if (source_videos == 0).any():
        name = queries.classes[int(queries.label[int((source_videos == 0).argmax())])]
        where = " outside of a query's own source" if exclude_source_video else ""
        raise ValueError(
            f"class {name!r} of the queries is nowhere in the gallery{where}; its R@k would be 0 "
            "whatever "
            "the features."
        )


def summary(
    hits: dict[str, np.ndarray],
    seed: int = 0,
    *,
    by: str = "video",
    source_video: np.ndarray | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Means with 95 % bootstrap intervals: {"R@1": bool or numbers [Q]} -> {"R@1": (mean, low,
    high)}.

    by: what is drawn with replacement: "video" takes videos for independent; "source_video" draws whole
    sources (ids [Q] in `source`), for clips of one long video stand and fall together (cluster
    bootstrap, Davison and Hinkley 1997, 3.8). Differences of two runs' hits on the same queries are
    numbers, too: a paired comparison."""
    if by == "video":
        return {
            name: (
                float(hit.mean()),
                *bootstrap_interval(torch.from_numpy(np.asarray(hit)), seed=seed),
            )
            for name, hit in hits.items()
        }
    if by != "source_video" or source_video is None:
        raise ValueError(
            'summary draws by "video", or by "source_video" with the source of each query; got '
            f"by={by!r} and "
            f"{'no sources' if source_video is None else 'sources'}."
        )
    wrong = [name for name, hit in hits.items() if len(hit) != len(source_video)]
    if wrong:
        raise ValueError(
            f"summary: {len(source_video)} sources, but {len(hits[wrong[0]])} values of {wrong[0]}; "
            "wanted one "
            "a query."
        )
    which = np.unique(source_video, return_inverse=True)[1]
    clips = np.bincount(which)
    made = {}
    for name, hit in hits.items():
        sums, rng = np.bincount(which, weights=hit), np.random.default_rng(seed)
        drawn = (rng.integers(len(clips), size=len(clips)) for _ in range(DRAWS))
        means = [sums[draw].sum() / clips[draw].sum() for draw in drawn]
        low, high = np.quantile(means, (0.025, 0.975))
        made[name] = (float(np.mean(hit)), float(low), float(high))
    return made


def per_class(
    hit: np.ndarray, label: np.ndarray, classes: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """Each class's share of hits and its number of queries, classes without queries left out.

    hit bool [Q] (one of `retrieve`'s), label [Q]. Their mean over classes, each counting the same,
    is `macro`."""
    label = np.asarray(label)
    counts, right = (
        np.bincount(label, minlength=len(classes)),
        np.bincount(label, hit, minlength=len(classes)),
    )
    return {
        str(classes[c]): (float(right[c] / counts[c]), int(counts[c]))
        for c in np.flatnonzero(counts).tolist()
    }


def macro(hit: np.ndarray, label: np.ndarray) -> float:
    """Mean over classes of their shares of hits: a class counts the same however many queries it
    has."""
    counts = np.bincount(label)
    return float((np.bincount(label, hit)[counts > 0] / counts[counts > 0]).mean())
