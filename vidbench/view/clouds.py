"""Two scores of the same class pairs against each other, the strongest pairs named.

Scores are arrays [C_s,C_t] as in `relations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vidbench.view.looks import INK, NARROW, PALETTE, SOFT, dress, plain, say
from vidbench.view.relations import Classes, rings, shortened

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

# of points not drawn
SHADE = ((0, "rgba(91,99,109,0)"), (1e-6, "rgba(91,99,109,0.08)"), (1, "rgba(91,99,109,0.5)"))
TALL = 440  # pixels of a cloud of points
BINS = 64  # of the shade, each way
LINE, LETTER = 16, 6.6  # pixels of a label: its height, the width of a letter


def asymmetry(
    forward: np.ndarray,
    backward: np.ndarray,
    classes: Classes,
    title: str = "",
    *,
    unit: str = "score",
    drawn: int = 2000,
    labels: int = 8,
) -> Figure:
    """Draw each pair's score in one direction against that in the other.

    A pair far off the diagonal may be parent and child.

    Args:
        forward: [C_s,C_t].
        backward: [C_t,C_s].
        unit: What the scores are.
        drawn, labels: See `against`.

    Raises:
        ValueError: see `against`.
    """
    turned = Classes(classes.targets, classes.sources)
    backward = turned.checked(backward, "asymmetry, backward").T
    scores = classes.checked(forward, "asymmetry"), backward
    words = [f"{unit}, {a} → {b}" for a, b in (classes.names, classes.names[::-1])]
    figure = _cloud(scores, classes, words, title, drawn, labels, alike=True)
    low, high = figure.layout.xaxis.range
    figure.add_shape(
        type="line",
        x0=low,
        x1=high,
        y0=low,
        y1=high,
        layer="below",
        line=dict(color=SOFT, width=1.4, dash="dot"),
    )
    return figure


def against(
    x: np.ndarray,
    y: np.ndarray,
    classes: Classes,
    title: str = "",
    *,
    names: tuple[str, str] = ("weight", "behavior"),
    drawn: int = 2000,
    labels: int = 8,
) -> Figure:
    """Draw two scores of the same pairs against each other.

    A line below gives Spearman's rank correlation of all pairs.

    Args:
        x, y: [C_s,C_t].
        classes: Their names; marked pairs are drawn in any case.
        names: What the two scores are.
        drawn: How many of the highest by either score are points; the others are a shade, and a
            line below gives their number.
        labels: How many of the strongest are named at most; names do not overlap.

    Raises:
        ValueError: shapes do not fit, names come twice, marks are unknown, scores are infinite, or
            no pair has both scores.
    """
    from scipy.stats import spearmanr

    x, y = (classes.checked(scores, "against") for scores in (x, y))
    both = [scores[np.isfinite(x + y)] for scores in (x, y)]
    # ranks of equal numbers say nothing
    still = min(np.ptp(scores) if len(scores) else 0 for scores in both) == 0
    rank = "not defined" if still else f"{spearmanr(*both).statistic:.2f}"
    said = f"Spearman's rank correlation of all {len(both[0]):,} pairs: {rank}"
    return _cloud((x, y), classes, names, title, drawn, labels, said=[said])


def _cloud(
    scores: tuple[np.ndarray, np.ndarray],
    classes: Classes,
    words: Sequence[str],
    title: str,
    drawn: int,
    labels: int,
    *,
    alike: bool = False,
    said: Sequence[str] = (),
) -> Figure:
    """Draw the strongest pairs by either score as points, the others as a shade; name some."""
    import plotly.graph_objects as go

    x, y = scores
    ringed = np.ravel_multi_index(classes.marked_places(), x.shape)
    kept, left = _split(x, y, drawn, ringed, title)
    points = [x.ravel()[kept], y.ravel()[kept]]
    places = zip(*np.unravel_index(kept, x.shape), strict=True)
    pairs = [(classes.sources[s], classes.targets[t]) for s, t in places]
    figure = go.Figure(_dots(points, pairs))
    if classes.marks is not None:
        rings(figure, x.ravel()[ringed], y.ravel()[ringed], classes.marked)
    ends = [_ends(np.concatenate(scores))] * 2 if alike else [_ends(x), _ends(y)]
    if len(left):
        said = [
            *said,
            f"Points: the {len(kept):,} pairs that are highest by either; shade: the other "
            f"{len(left):,}",
        ]
        _shade(figure, x.ravel()[left], y.ravel()[left], ends)
    dress(figure, words[0], words[1], title, classes.legend, 24)
    _lay_out(figure, ends, said)
    texts = [" → ".join(map(shortened, pair)) for pair in pairs]
    _label(figure, points, texts, ends, (NARROW - 64 - 24, TALL), labels)
    return figure


# ----------------------------------------------------------------------------------------- pieces


def _split(
    x: np.ndarray, y: np.ndarray, drawn: int, ringed: np.ndarray, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the pairs that become points, and of the others.

    Raises ValueError if no pair has both scores."""
    known = np.flatnonzero(np.isfinite(x + y))
    if not len(known):
        raise ValueError(
            f"{title or 'a cloud'}: wanted pairs of which both scores are known, got none"
        )
    kept = np.unique(np.concatenate([_highest(x, drawn), _highest(y, drawn), ringed]))
    kept = np.intersect1d(kept, known, assume_unique=True)
    return kept, np.setdiff1d(known, kept, assume_unique=True)


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Flat indices of the highest scores."""
    count = min(count, scores.size)
    return np.argpartition(-np.nan_to_num(scores, nan=-np.inf), count - 1, axis=None)[:count]


def _dots(points: Sequence[np.ndarray], pairs: Sequence[tuple[str, str]]) -> Scatter:
    """The points, with both classes as hover text."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=points[0],
        y=points[1],
        mode="markers",
        showlegend=False,
        marker=dict(size=5, opacity=0.75, color=PALETTE[0]),
        text=["<br>→ ".join(map(plain, pair)) for pair in pairs],
        hovertemplate="%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
    )


def _lay_out(figure: Figure, ends: Sequence[tuple[float, float]], said: Sequence[str]) -> None:
    """Set the size and both axes, and write the lines `said` below the plot."""
    top, bottom = figure.layout.margin.t, 56 + 18 * len(said)
    figure.update_layout(height=top + TALL + bottom, margin_b=bottom, hovermode="closest")
    for axis, (low, high) in zip((figure.update_xaxes, figure.update_yaxes), ends, strict=True):
        axis(
            range=[low, high],
            showgrid=True,
            zeroline=low < 0 < high,
            zerolinecolor="#8A929C",
            automargin=False,
        )
    if said:
        below = dict(align="left", xanchor="left", yanchor="top", yshift=-48)
        say(figure, (0, 0), *said, size=12, color=SOFT, **below)


def _ends(scores: np.ndarray) -> tuple[float, float]:
    """An axis' range, with a margin for the points."""
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    reach = 0.04 * (high - low) or 1.0
    return low - reach, high + reach


def _shade(
    figure: Figure, x: np.ndarray, y: np.ndarray, ends: Sequence[tuple[float, float]]
) -> None:
    """Shade the plot by the number of pairs, on a logarithmic scale of 8 bits."""
    counts, *edges = np.histogram2d(x, y, BINS, ends)
    levels = np.log1p(counts.T)
    (x0, dx), (y0, dy) = (((edge[0] + edge[1]) / 2, edge[1] - edge[0]) for edge in edges)
    figure.add_heatmap(
        z=(255 * levels / levels.max()).astype(np.uint8),
        x0=x0,
        dx=dx,
        y0=y0,
        dy=dy,
        zmin=0,
        zmax=255,
        colorscale=SHADE,
        showscale=False,
        hoverinfo="skip",
    )


def _label(
    figure: Figure, points, texts: Sequence[str], ends, size: tuple[int, int], most: int
) -> None:
    """Name the strongest points and color them, where there is room."""
    share = np.stack(
        [(p - low) / (high - low) for p, (low, high) in zip(points, ends, strict=True)], axis=1
    )
    best = np.argsort(-share.max(axis=1), kind="stable")[: 6 * most]
    spots = placed(share * size, {int(i): texts[i] for i in best}, size, most)
    named = list(spots)
    figure.add_scatter(
        x=points[0][named],
        y=points[1][named],
        mode="markers",
        hoverinfo="skip",
        showlegend=False,
        marker=dict(size=7, color=PALETTE[1]),
    )
    for i, (side, left, low, right, top) in spots.items():
        across = {"left": left, "right": right}.get(side, (left + right) / 2)
        place = across / size[0], (low + top) / 2 / size[1]
        box = dict(xanchor=side, yanchor="middle", borderpad=0)
        say(figure, place, texts[i], size=12, color=INK, **box)


def placed(
    points: np.ndarray, texts: Mapping[int, str], size: tuple[float, float], most: int
) -> dict[int, tuple[str, float, float, float, float]]:
    """Place the names of points.

    A name is right of its point, left, above or below, where it covers the fewest points, two at
    most, and no other name. Without room it is left out. Widths are estimated from the number of
    letters.

    Args:
        points: [n,2] in pixels.
        texts: Index -> name, the most important first.
        size: Boxes are within (0, 0, *size).
        most: Names at most.

    Returns:
        Index -> which side of the box is at the point; left, low, right, top in pixels.
    """
    found: dict[int, tuple[str, float, float, float, float]] = {}
    for i, text in texts.items():
        (x, y), wide, gap, half = points[i], LETTER * len(text), 7, LINE / 2
        corners = [
            ("left", x + gap, y - half),
            ("right", x - gap - wide, y - half),
            ("center", x - wide / 2, y + gap),
            ("center", x - wide / 2, y - gap - LINE),
        ]
        tries = [(side, left, low, left + wide, low + LINE) for side, left, low in corners]
        free = [
            (_covered(points, box[1:]), box)
            for box in tries
            if min(box[1:3]) >= 0
            and box[3] <= size[0]
            and box[4] <= size[1]
            and not any(_meet(box[1:], other[1:]) for other in found.values())
        ]
        best = min(free, key=lambda one: one[0], default=None)
        if best and best[0] <= 2 and len(found) < most:
            found[i] = best[1]
    return found


def _covered(points: np.ndarray, box: Sequence[float]) -> int:
    """Count the points in a box."""
    return int(((points > box[:2]) & (points < box[2:])).all(axis=1).sum())


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
