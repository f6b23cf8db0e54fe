"""The clips behind the numbers of classifiers and retrievals: what `behind.Behind` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vidbench.evaluate import confusions
from vidbench.evaluate.tables import Features
from vidbench.view import figures, heatmaps
from vidbench.view.looks import PALETTE, RIGHT, WRONG, dress, plain
from vidbench.view.widgets.behind import Behind, Cell, Lines
from vidbench.view.widgets.videos import Videos

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest
    from vidbench.evaluate.retrieval import Retrieved

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
    table: Features, videos: Manifest | Videos, before: Features | None = None, title: str = ""
) -> Behind:
    """Put clips behind the rows of a table of classes, the worst class first.

    Args:
        table: Probabilities of the videos, in their order.
        before: Those of another run on the same videos, to show what each class gains.

    Raises:
        ValueError: Rows have no label, or the videos are others.
    """
    predicted = table.values.argmax(axis=1)
    hits = {"right": predicted == table.label}
    confusions.check_labeled(table, "classes")
    if before is not None:
        hits["before"] = before.values.argmax(axis=1) == before.label
    return class_rows(hits, table.label, table.classes, guesses(table), videos, title)


def class_rows(
    hits: Mapping[str, np.ndarray],
    label: np.ndarray,
    names: Sequence[str],
    said: Sequence[str],
    videos: Manifest | Videos,
    title: str = "",
) -> Behind:
    """Put clips behind the rows of a table of classes, by hits of one run or several.

    Args:
        hits: Column -> whether each video is right [N]. The first one orders the rows, the worst
            class first, and judges the clips.
        label: Index of each video's class [N].
        said: A line under each video's clip [N].

    Raises:
        ValueError: There are no hits, or the videos are others.
    """
    if not hits:
        raise ValueError("class_rows needs hits of at least one run; got none. Add labels.")
    label = np.asarray(label)
    main = np.asarray(next(iter(hits.values())), bool)
    cells, lines = {}, {}
    for number in np.unique(label[label >= 0]).tolist():
        here = np.flatnonzero(label == number)
        rows = np.concatenate([here[~main[here]], here[main[here]]])
        wrong = int((~main[here]).sum())
        words = f"{names[number]}: {wrong} of {len(here)} videos wrong"
        cells[str(number)] = _cell(words, rows, said, main)
        shares = {column: float(np.mean(hit[here])) for column, hit in hits.items()}
        lines[str(number)] = {"class": names[number], "videos": len(here), **shares}
    column = next(iter(hits))
    order = sorted(cells, key=lambda name: (lines[name][column], lines[name]["class"]))
    options = {"formats": dict.fromkeys(hits, ".0%"), "title": title}
    table = Lines({name: lines[name] for name in order}, options)
    hint = "Choose a class to see its clips, the wrong ones first."
    ordered = {name: cells[name] for name in order}
    return Behind(ordered, _fitting(videos, len(label)), lines=table, hint=hint)


def recalls(
    found: Mapping[str, Retrieved],
    numbers: Mapping[str, Mapping[str, tuple[float, float, float]]],
    gallery: Manifest,
    queries: Manifest,
    levels: Mapping[str, float] | None = None,
) -> Behind:
    """Put the queries without a right neighbor behind each point of the curves of R@k.

    Args:
        found: Run -> what it retrieved. numbers: run -> R@k with its interval.
        levels: See figures.curves.

    Raises:
        ValueError: The videos have no labels.
    """
    metrics = {name: list(one.hits) for name, one in found.items()}
    if not all(metrics.values()):
        raise ValueError("recalls counts labels, and the videos have none. Use class folders.")
    series: dict[str, tuple[Sequence[float], ...]] = {
        name: (
            [int(metric[2:]) for metric in metrics[name]],
            *zip(*(numbers[name][metric] for metric in metrics[name]), strict=True),
        )
        for name in found
    }
    figure = figures.curves(
        series, "k", "R@k (%)", "With 95 % intervals", percent=True, levels=levels
    )
    traces = {trace.name: i for i, trace in enumerate(figure.data) if trace.showlegend is not False}
    cells = {}
    for name, one in found.items():
        lines = nearest(one, gallery)
        for place, metric in enumerate(metrics[name]):
            hit = one.hits[metric]
            rows = np.flatnonzero(~hit)
            words = f"{name}, {metric}: {len(rows)} of {len(hit)} queries find none of their class"
            places = ((traces[plain(name)], place),)
            cells[f"{name} {metric}"] = _cell(words, rows, lines, hit, places)
    hint = "Click a point of a curve, or choose it here, to see the queries that miss."
    return Behind(cells, _fitting(queries, len(hit)), figure=figure, hint=hint)


def nearest(found: Retrieved, gallery: Manifest) -> list[str]:
    """Say of each query what its nearest neighbor is."""
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
            words = f"{kind}, sure by {span}: {len(rows)} videos"
            cells[f"{kind}-{place}"] = _cell(words, rows, lines, right, ((trace, place),))
    order = sorted(cells, key=lambda name: not name.startswith("wrong"))
    hint = "Click a bar, or choose it here, to see its clips."
    figure = _histogram(counts, title)
    ordered = {name: cells[name] for name in order}
    return Behind(ordered, _fitting(videos, len(sure)), figure=figure, hint=hint)


def doubts(table: Features, videos: Manifest | Videos, most: int = 48) -> Behind:
    """List the videos that a classifier has most wrong and is least sure of.

    Args:
        table: Probabilities of the videos, in their order. If no label is known, nothing is wrong
            and the list "least sure" is the only one.
        most: Videos of each list.
    """
    said = {
        "most wrong": "wrong, the surest first",
        "least sure": "the first two classes nearly even, the closest first",
    }
    lines, right = guesses(table), rights(table)
    cells = {
        name: _cell(f"{name}: {said[name]}", rows[:most], lines, right)
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
