"""Query one table of features with another: R@k, its protocol and its intervals."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from vidbench.evaluate.search import Neighbors, room_of, search, too_few
from vidbench.evaluate.tables import Features
from vidbench.system.errors import InputError
from vidbench.tensors.metrics import bootstrap_interval, recall_at

KS = (1, 5, 10, 20, 50)  # CoCLR table 3
DRAWS = 2000  # of the bootstrap over sources, as of the one over videos

# a table, or one of each stream
Tables: TypeAlias = Features | Sequence[Features]


class Searchable(Protocol):
    """An index over a gallery, as `indexes` makes them."""

    @property
    def words(self) -> str:
        """Kind and switches in a protocol."""

    def check(self, features: Features) -> None:
        """Check that the index is of this table.

        Raises:
            ValueError: it is of another one.
        """

    def search(self, queries: Features, k: int) -> Neighbors:
        """Find the k nearest rows of each query.

        Args:
            k: At most the number of rows.
        """


@dataclass(frozen=True)
class Retrieved:
    """What a retrieval found: the neighbors of each query, and hits "R@k" -> bool [Q].

    Tables without labels have no hits."""

    neighbors: Neighbors
    hits: dict[str, np.ndarray]


def retrieve(
    gallery: Tables,
    queries: Tables,
    *,
    centering: str = "none",
    ks: tuple[int, ...] | None = None,
    exclude_source_video: bool = False,
    index: Searchable | None = None,
) -> Retrieved:
    """Query the gallery of one table with another (CoCLR section 4.4).

    If no row of both sides has a label, neighbors are found and nothing is counted.

    Args:
        gallery, queries: A table of features, or a list of one table per stream (see `search`).
        centering: See `search`.
        ks: None takes those of KS that the gallery has room for; `protocol_of` names the others.
        exclude_source_video: Neighbors of the query's own source do not count, for a gallery that
            contains them.
        index: One of `indexes` over this gallery, searched instead of the exact search, for one
            stream without centering and exclusion.

    Raises:
        InputError: R@k would be no number: a query is in the gallery itself, the gallery has one
            class, a query's class is not in it, some rows have no label, or a k exceeds the rows
            that a query may find. Or tables, or index and gallery, do not belong together.
        ValueError: see `search`.
    """
    gallery, queries = _sides(gallery, queries)
    labeled = bool((gallery[0].label >= 0).any() or (queries[0].label >= 0).any())
    if labeled:
        _countable(gallery[0], queries[0])
        _findable(gallery[0], queries[0], exclude_source_video)
    if not exclude_source_video:
        refuse_shared(gallery[0], queries[0], "gallery", "exclude_source_video=True")
    ks = _room_for(gallery[0], queries[0], ks, exclude_source_video)
    if index is not None:
        if len(gallery) > 1 or centering != "none" or exclude_source_video:
            raise InputError(
                f"an index holds one stream's cosines as they are; got {len(gallery)} streams, "
                f"centering {centering!r}, exclude_source_video {exclude_source_video}. Leave "
                "index away: exact search does these."
            )
        index.check(gallery[0])
        found = index.search(queries[0], max(ks))
    else:
        sources = (gallery[0].source_video, queries[0].source_video)
        found = search(
            [table.values for table in gallery],
            [table.values for table in queries],
            max(ks),
            centering=centering,
            source_videos=sources if exclude_source_video else None,
        )
    labels = torch.from_numpy(gallery[0].label[found.rows])
    hits = recall_at(labels, torch.from_numpy(queries[0].label), ks) if labeled else {}
    return Retrieved(found, {f"R@{k}": hit.numpy() for k, hit in hits.items()})


def refuse_shared(train: Features, test: Features, where: str, instead: str = "") -> None:
    """Check that no video of one table is in another: it would be its own nearest neighbor.

    If a table has no names (`Features.video`), rows with equal features, label and source video are
    the same video.

    Args:
        where: What `train` is, for the message.
        instead: Another remedy, for the message.

    Raises:
        InputError: they share videos.
    """
    if train.video is not None and test.video is not None:
        shared = int(np.isin(test.video, train.video).sum())
    else:
        known = set(_contents(train))
        shared = sum(row in known for row in _contents(test))
    if shared:
        raise InputError(
            f"{shared} of the {len(test.label)} query videos are in the {where} themselves, so the "
            f"score would be near 100 % whatever the features. Take two splits"
            f"{f', or {instead}' if instead else ''}."
        )


def _contents(table: Features) -> Iterator[tuple[int, int, bytes]]:
    values = np.ascontiguousarray(table.values)
    for label, source, row in zip(table.label, table.source_video, values, strict=True):
        yield int(label), int(source), row.tobytes()


def _countable(gallery: Features, queries: Features) -> None:
    """Raise ValueError at rows without label, and at a gallery of one class."""
    for part, table in (("gallery", gallery), ("queries", queries)):
        if unlabeled := int((table.label < 0).sum()):
            raise InputError(
                f"{unlabeled} rows of the {part} have no label; an unknown label would match "
                "itself. Select the labeled rows."
            )
    if len(found := np.unique(gallery.label)) < 2 and found[0] in queries.label:
        raise InputError(
            f"the gallery has one class only ({gallery.classes[found[0]]!r}), so R@k would be "
            "100 % whatever the features. Add videos of other classes."
        )


def protocol_of(
    gallery: Tables,
    queries: Tables,
    *,
    centering: str = "none",
    ks: tuple[int, ...] | None = None,
    exclude_source_video: bool = False,
    index: Searchable | None = None,
) -> dict[str, Any]:
    """Return each switch that changes the numbers of `retrieve`, as plain values.

    `Run.add_result` accepts them as they are.

    Args:
        gallery, queries, centering, ks, exclude_source_video, index: As in `retrieve`.

    Returns:
        The protocol of the features (rgb+flow and the like if streams differ), centering,
        exclude_source_video, fingerprints of gallery and queries; ks_left_out if the gallery is too
        small for some of KS; index, its kind and switches, unless the search is exact.

    Raises:
        InputError: tables do not belong together, or a k exceeds the rows that a query may find.
    """
    gallery, queries = _sides(gallery, queries)
    made: dict[str, Any] = {}
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


def digest(table: Features) -> str:
    """Return the fingerprint of a table's videos, else `rows-digest` of labels and sources."""
    columns = np.stack([table.label, table.source_video]).astype("<i8")
    return table.protocol.get("rows") or f"{len(table.label)}-{zlib.crc32(columns.tobytes()):08x}"


def _sides(gallery: Tables, queries: Tables) -> tuple[tuple[Features, ...], tuple[Features, ...]]:
    """Tables of each side, one a stream. Raises ValueError where they are not of the same videos or
    the same kind."""
    sides = [(side,) if isinstance(side, Features) else tuple(side) for side in (gallery, queries)]
    for part, tables in zip(("gallery", "queries"), sides, strict=True):
        if not tables or not len(tables[0].label):
            raise InputError(f"there are no rows in the {part}; is the split empty?")
        if any(
            digest(table) != digest(tables[0])
            or not np.array_equal(table.source_video, tables[0].source_video)
            or not np.array_equal(table.label, tables[0].label)
            for table in tables
        ):
            rows = " and ".join(map(digest, tables))
            raise InputError(
                f"the streams' tables of the {part} are of different videos ({rows}); extract both "
                "from one split of one manifest."
            )
    if sides[0][0].classes != sides[1][0].classes:
        raise InputError(
            "gallery and queries have other class lists, so their labels cannot be compared; take "
            "both from one manifest."
        )
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"wanted a table of each stream on both sides; got {len(sides[0])} of the gallery and "
            f"{len(sides[1])} of the queries."
        )
    for one, two in zip(*sides, strict=True):
        common = one.protocol.keys() & two.protocol.keys() - {"rows"}
        other = sorted(name for name in common if one.protocol[name] != two.protocol[name])
        if other:
            raise InputError(
                f"features of gallery and queries were made differently: {other[0]} is "
                f"{one.protocol[other[0]]!r} and {two.protocol[other[0]]!r}; extract both with one "
                "Protocol."
            )
    return sides[0], sides[1]


def _room_for(
    gallery: Features, queries: Features, ks: tuple[int, ...] | None, exclude_source_video: bool
) -> tuple[int, ...]:
    """The given ks, or those of KS that fit. Raises ValueError where a given one does not fit, or
    none of KS does."""
    source_videos = (gallery.source_video, queries.source_video) if exclude_source_video else None
    room = room_of(len(gallery.label), len(queries.label), source_videos)
    fits = tuple(k for k in ks or KS if 1 <= k <= room.min())
    if not fits or ks and fits != tuple(ks):
        beyond = next(k for k in ks or KS if k not in fits)
        raise InputError(
            f"R@{beyond}: {too_few(room, len(gallery.label))}, fewer than k = {beyond}; leave ks "
            "away to take those that fit, or add videos."
        )
    return fits


def _findable(gallery: Features, queries: Features, exclude_source_video: bool) -> None:
    """Raise ValueError where a query's class is nowhere among the rows it may find."""
    pairs = np.unique(np.stack([gallery.label, gallery.source_video], 1), axis=0)
    # with the query's class
    source_videos = np.bincount(pairs[:, 0], minlength=len(queries.classes))[queries.label]
    if exclude_source_video:
        held = set(map(tuple, pairs.tolist()))
        source_videos = source_videos - [
            pair in held
            for pair in zip(queries.label.tolist(), queries.source_video.tolist(), strict=True)
        ]
    if (source_videos == 0).any():
        name = queries.classes[int(queries.label[int((source_videos == 0).argmax())])]
        where = " outside of a query's own source" if exclude_source_video else ""
        raise InputError(
            f"class {name!r} of the queries is nowhere in the gallery{where}; its R@k would be 0 "
            "whatever the features."
        )


def summary(
    hits: dict[str, np.ndarray],
    seed: int = 0,
    *,
    by: str = "video",
    source_video: np.ndarray | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Compute means with 95 % bootstrap intervals: {"R@1": (mean, low, high)}.

    Differences of two runs' hits on the same queries are numbers, too: a paired comparison.

    Args:
        hits: {"R@1": bool or numbers [Q]}.
        seed: Of the bootstrap.
        by: What is drawn with replacement. "video" assumes independent videos; "source_video" draws
            whole sources, because clips of one long video succeed and fail together (cluster
            bootstrap, Davison and Hinkley 1997, 3.8).
        source_video: Source ids [Q], for by="source_video".

    Raises:
        InputError: an unknown `by`, or ids that are missing or of another number.
    """
    if by == "video":
        return {
            name: (
                float(hit.mean()),
                *bootstrap_interval(torch.from_numpy(np.asarray(hit)), seed=seed),
            )
            for name, hit in hits.items()
        }
    if by != "source_video" or source_video is None:
        raise InputError(
            'summary draws by "video", or by "source_video" with the source of each query; got '
            f"by={by!r} and "
            f"{'no sources' if source_video is None else 'sources'}."
        )
    wrong = [name for name, hit in hits.items() if len(hit) != len(source_video)]
    if wrong:
        raise InputError(
            f"summary: {len(source_video)} sources, but {len(hits[wrong[0]])} values of "
            f"{wrong[0]}; wanted one a query."
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
    """Compute each class's share of hits and its number of queries.

    Classes without queries are left out. The mean over classes with equal weights is `macro`.

    Args:
        hit: bool [Q], one of `retrieve`'s.
        label: [Q].
        classes: Their names.
    """
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
    """Average the shares of hits over classes: each class has the same weight.

    Args:
        hit: bool [Q].
        label: [Q].
    """
    counts = np.bincount(label)
    return float((np.bincount(label, hit)[counts > 0] / counts[counts > 0]).mean())
