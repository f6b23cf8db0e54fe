"""The clips behind the numbers of classifiers and retrievals: what `behind.Behind` is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vidbench.evaluate import confusions
from vidbench.evaluate.chance import no_labels
from vidbench.evaluate.retrieval import macro, per_class
from vidbench.evaluate.tables import Features
from vidbench.view import heatmaps, retrieval
from vidbench.view.looks import PALETTE, RIGHT, WRONG, dress, plain
from vidbench.view.widgets.behind import Behind, Cell, Lines
from vidbench.view.widgets.videos import Videos

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest
    from vidbench.evaluate.probe import Score
    from vidbench.evaluate.searches import Searched

MOST = 24  # rows of a table of classes
HUBS = 120  # videos behind a point of the hub curve
BINS = 10  # of a histogram of probabilities


def confusion(table: Features, videos: Manifest | Videos, title: str = "") -> Behind:
    """Put clips behind the confusion matrix of class probabilities.

    Args:
        table: Probabilities of the videos, in their order.

    Raises:
        ValueError: Rows have no label, or the videos are others.
    """
    shares = confusions.confusion(table)
    of_class = np.bincount(table.label, minlength=len(table.classes))
    lines, right = guesses(table), rights(table)
    cells = {}
    for (own, other), rows in confusions.cells(table).items():
        count = f"{len(rows)} of {of_class[own]} videos ({shares[own, other]:.0%})"
        verb = "recognized" if own == other else f"taken for {table.classes[other]}"
        words = f"{table.classes[own]} {verb}: {count}"
        cells[f"{own}-{other}"] = _cell(words, rows, lines, right, ((0, own, other),))
    figure = heatmaps.confusion(shares, table.classes, title)
    hint = "Click a cell of the matrix, or choose one here, to see its clips."
    return Behind(cells, _fitting(videos, len(table.label)), figure=figure, hint=hint)


def classes(
    hits: Mapping[str, np.ndarray],
    label: np.ndarray,
    names: Sequence[str],
    said: Sequence[str],
    videos: Manifest | Videos,
) -> Behind:
    """Put clips behind the rows of a table of classes, by hits of one run or several.

    Of more than MOST classes the table has the worst and the best; the list has all.

    Args:
        hits: Column -> whether each video is right [N]. The first one orders the rows, the worst
            class first, and judges the clips.
        label: Index of each video's class [N].
        said: A line under each video's clip [N].

    Raises:
        ValueError: There are no hits, or the videos are others.
    """
    if not hits or (np.asarray(label) < 0).any():
        raise ValueError("classes needs hits of labeled videos; got others. Add labels.")
    main, cells = np.asarray(next(iter(hits.values())), bool), {}
    shares = {column: per_class(hit, label, names) for column, hit in hits.items()}
    first = shares[next(iter(hits))]
    order = sorted(first, key=lambda name: (first[name][0], name))
    for name in order:
        here = np.flatnonzero(label == list(names).index(name))
        rows = np.concatenate([here[~main[here]], here[main[here]]])
        words = f"{name}: {int((~main[here]).sum())} of {len(here)} videos wrong"
        cells[name] = _cell(words, rows, said, main)
    ends = order if len(order) <= MOST else [*order[: MOST // 2], *order[-MOST // 2 :]]
    rows_of = {
        name: {
            "class": name,
            "videos": first[name][1],
            **{column: share[name][0] for column, share in shares.items()},
        }
        for name in ends
    }
    means = ", ".join(f"{column} {macro(hit, label):.1%}" for column, hit in hits.items())
    options = {
        "formats": dict.fromkeys(hits, ".0%"),
        "note": f"Macro mean, in which each class counts the same: {means}.",
    }
    hint = "Choose a class to see its clips, the wrong ones first."
    lines = Lines(rows_of, options)
    return Behind(cells, _fitting(videos, len(label)), lines=lines, hint=hint)


def score_classes(scores: Mapping[str, Score], videos: Manifest | Videos) -> Behind:
    """Put clips behind top-1 of each class, by one run or several on the same videos.

    Args:
        scores: Run -> its score. The first one orders and judges.

    Raises:
        ValueError: There are no scores, or the videos are others.
    """
    hits = {name: one.right for name, one in scores.items()}
    table = next(iter(scores.values())).table
    return classes(hits, table.label, table.classes, guesses(table), videos)


def recalls(
    found: Mapping[str, Searched], gallery: Manifest, queries: Manifest | Videos
) -> Behind | str:
    """Put the queries without a right neighbor behind each point of the curves of R@k.

    Args:
        found: Run -> what it found for each query.

    Returns:
        A sentence instead, if the videos have no labels.
    """
    figure = retrieval.recall_curve(found, gallery.classes)
    if isinstance(figure, str):
        return figure
    traces = {trace.name: i for i, trace in enumerate(figure.data) if trace.showlegend is not False}
    cells, count = {}, 0
    for name, one in found.items():
        lines = nearest(one, gallery)
        for place, (metric, hit) in enumerate(one.hits.items()):
            rows, count = np.flatnonzero(~hit), len(hit)
            words = f"{name}, {metric}: {len(rows)} of {count} queries find none of their class"
            places = ((traces[plain(name)], place),)
            cells[f"{name} {metric}"] = _cell(words, rows, lines, hit, places)
    hint = "Click a point of a curve, or choose it here, to see the queries that miss."
    return Behind(cells, _fitting(queries, count), figure=figure, hint=hint)


def recall_classes(
    found: Mapping[str, Searched], base: str, gallery: Manifest, queries: Manifest | Videos
) -> Behind | str:
    """Put the queries of each class behind R@1 of each class.

    Args:
        found: Name -> search.
        base: The search that orders the classes and judges the queries.

    Returns:
        A sentence instead, if the videos have no labels.
    """
    if not found[base].hits:
        return no_labels("R@1 of each class")
    hits = {name: found[name].hits["R@1"] for name in dict.fromkeys((base, *found))}
    label = found[base].queries.label
    return classes(hits, label, gallery.classes, nearest(found[base], gallery), queries)


def hubs(found: Mapping[str, Searched], gallery: Manifest) -> Behind:
    """Put the gallery videos that are found equally often behind each point of the hub curve.

    Args:
        found: Run -> what it found for each query.
    """
    figure, (counted, k) = retrieval.hub_curve(found, gallery), retrieval.hubs_of(found, gallery)
    traces, cells = {trace.name: i for i, trace in enumerate(figure.data)}, {}
    for name, hub in counted.items():
        order = np.argsort(-hub.counts, kind="stable")  # the curve's points, from left to right
        level = hub.counts[order]
        met = _met(found[name], k, gallery)
        for times in np.unique(level)[::-1].tolist():
            at = np.flatnonzero(level == times)
            rows, many = order[at[:HUBS]], f", the first {HUBS} of them here" * (len(at) > HUBS)
            words = f"{name}: {len(at)} video{'s' * (len(at) > 1)} found {times} times{many}"
            places = tuple((traces[plain(name)], place) for place in at.tolist())
            lines = [met(row) if times else "in no query's list" for row in rows.tolist()]
            cells[f"{name} {times}"] = Cell(words, rows, lines, (), places)
    hint = f"Click a point of a curve to see the videos that so many queries have among their {k} nearest."
    return Behind(cells, _fitting(gallery, len(gallery)), figure=figure, hint=hint)


def _met(found: Searched, k: int, gallery: Manifest) -> Callable[[int], str]:
    """Return what says of a gallery video whose queries find it: their number, their classes."""
    near = found.neighbors.rows[:, :k].ravel()
    order = np.argsort(near, kind="stable")
    ends = np.searchsorted(near[order], np.arange(len(gallery) + 1))
    names, label = np.array([*gallery.classes, ""]), found.queries.label

    def words(row: int) -> str:
        queries = order[ends[row] : ends[row + 1]] // k
        often = Counter(filter(None, names[label[queries]].tolist())).most_common(3)
        of = ", ".join(f"{one} {count}" for one, count in often)
        return f"near to {len(queries)} queries{f': {of}' if of else ''}"

    return words


def nearest(found: Searched, gallery: Manifest) -> list[str]:
    """Describe each query's nearest neighbor: its class and similarity.

    Args:
        gallery: The videos that are found.
    """
    names = np.array([*gallery.classes, "no label"])
    first, scores = found.neighbors.rows[:, 0], found.neighbors.scores[:, 0]
    return [
        f"nearest: {names[gallery.label[row]]}, {score:.2f}"
        for row, score in zip(first, scores, strict=True)
    ]


def sureness(table: Features, videos: Manifest | Videos, title: str = "") -> Behind:
    """Put clips behind a histogram of how sure a classifier is, right and wrong apart.

    Args:
        table: Probabilities of the videos, in their order; labels may be unknown.
    """
    sure, lines, right = table.values.max(axis=1), guesses(table), rights(table)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    labeled = bool((table.label >= 0).any())
    kinds = {"right": True, "wrong": False} if labeled else {"videos": None}
    masks = {kind: np.array([one is is_right for one in right]) for kind, is_right in kinds.items()}
    counts = {kind: np.bincount(bins[mask], minlength=BINS) for kind, mask in masks.items()}
    cells = {}
    for trace, (kind, mask) in enumerate(masks.items()):
        for place in range(BINS - 1, -1, -1):
            rows = np.flatnonzero(mask & (bins == place))
            if not len(rows):
                continue
            rows = rows[np.argsort(-sure[rows], kind="stable")]
            span = f"{100 * place // BINS} to {100 * (place + 1) // BINS} %"
            words = f"{kind}, confidence {span}: {len(rows)} videos"
            cells[f"{kind}-{place}"] = _cell(words, rows, lines, right, ((trace, place),))
    order = sorted(cells, key=lambda name: not name.startswith("wrong"))
    hint = "Click a bar, or choose it here, to see its clips."
    figure = _histogram(counts, title)
    ordered = {name: cells[name] for name in order}
    return Behind(ordered, _fitting(videos, len(sure)), figure=figure, hint=hint)


def doubts(table: Features, videos: Manifest | Videos, title: str = "", most: int = 48) -> Behind:
    """List the videos that a classifier has most wrong and is least sure of.

    Args:
        table: Probabilities of the videos, in their order. If no label is known, nothing is wrong
            and the list "least sure" is the only one.
        title: Of what, before the name of each list.
        most: Videos of each list.
    """
    said = {
        "most wrong": "wrong, most confident first",
        "least sure": "the first two classes nearly even, the closest first",
    }
    of, lines, right = title and f"{title}, ", guesses(table), rights(table)
    cells = {
        name: _cell(f"{of}{name}: {said[name]}", rows[:most], lines, right)
        for name, rows in confusions.notable(table.values, table.label).items()
    }
    hint = "Each clip names its class and the first two guesses."
    return Behind(cells, _fitting(videos, len(table.label)), hint=hint, examples=2)


def guesses(table: Features) -> list[str]:
    """Say of each video the first two classes with their probabilities."""
    order = np.argsort(-table.values, axis=1, kind="stable")[:, :2]
    return [
        ", ".join(f"{table.classes[one]} {values[one]:.0%}" for one in first)
        for first, values in zip(order, table.values, strict=True)
    ]


def rights(table: Features) -> list[bool | None]:
    """Say of each video whether its class is predicted; None where it is unknown."""
    same = table.values.argmax(axis=1) == table.label
    return [bool(one) if known else None for one, known in zip(same, table.label >= 0, strict=True)]


def _cell(
    words: str,
    rows: np.ndarray,
    said: Sequence[str],
    right: Sequence[bool | None] | np.ndarray,
    places: tuple[tuple[int, ...], ...] = (),
) -> Cell:
    return Cell(words, rows, [said[row] for row in rows], [right[row] for row in rows], places)


def _fitting(videos: Manifest | Videos, count: int) -> Videos:
    """The videos as columns. Raises ValueError if they are not as many as there are numbers."""
    columns = videos if isinstance(videos, Videos) else Videos.of(videos)
    if len(columns) != count:
        raise ValueError(
            f"the numbers are of {count} videos; got {len(columns)}. Pass the manifest of the split "
            "that was tested."
        )
    return columns


def _histogram(counts: Mapping[str, np.ndarray], title: str) -> Figure:
    """Stacked bars of how many videos are how sure."""
    import plotly.graph_objects as go

    looks = {"right": RIGHT, "wrong": WRONG, "videos": PALETTE[0]}
    figure, span = go.Figure(), 100 / BINS
    for kind, heights in counts.items():
        figure.add_bar(
            x=[span * (place + 0.5) for place in range(BINS)],
            y=heights,
            width=span * 0.92,
            name=kind,
            marker=dict(color=looks[kind], line_width=0),
            hovertemplate="%{y} videos",
        )
    dress(figure, "probability of the predicted class (%)", "videos", title, list(counts), 24)
    figure.update_layout(barmode="stack")
    return figure.update_xaxes(range=[0, 100])
