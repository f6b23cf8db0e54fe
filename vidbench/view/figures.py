"""Arrays in, plotly figures out: curves, bars, differences, ranks.

Everything here is a plain function of plain data. Every text from outside is escaped on its way in.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vidbench.view.looks import DASHES, INK, NARROW, SOFT, colors_for, dress, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# what a dash is on a bar and on a dot
FILLS, DOTS = ("", "/", ".", "x"), ("circle", "circle-open", "diamond", "diamond-open")


class Bar(NamedTuple):
    """One bar: what was measured (group), by which method, and its interval when there is one."""

    method: str
    group: str
    value: float
    low: float | None = None
    high: float | None = None


# ---------------------------------------------------------------------------------------- figures


def curves(
    series: Mapping[str, tuple[Sequence[float], ...]],
    x: str,
    y: str,
    title: str = "",
    *,
    levels: Mapping[str, float] | None = None,
    percent: bool = False,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Draw lines over a common axis, one per name (training curves, R@k over k).

    Args:
        series: Name -> (xs, ys), two sequences of one length each, or (xs, ys, lows, highs) for a
            band of intervals; a NaN leaves a gap.
        x, y: Names of the axes.
        levels: Name -> height of a dotted line across the figure (chance, a published number).
        percent: ys and levels are fractions and are drawn times 100.
        colors: Name -> color; default: see `looks.colors_for`.

    Raises:
        ValueError: no series, an empty one, lengths that differ, or a "fraction" above 1.
    """
    import plotly.graph_objects as go

    if not series:
        raise ValueError("curves: wanted at least one series, got none; pass {name: (xs, ys)}")
    styles, scale = colors_for(list(series), colors), 100.0 if percent else 1.0
    figure = go.Figure()
    for name, sequences in series.items():
        xs, *lines = _checked_series(name, sequences, percent)
        if len(lines) == 3:
            _add_band(figure, name, xs, lines[1] * scale, lines[2] * scale, styles[name][0])
        figure.add_scatter(
            x=xs,
            y=lines[0] * scale,
            name=plain(name),
            mode="lines+markers" if len(xs) <= 30 else "lines",
            line=dict(color=styles[name][0], width=2.2, dash=styles[name][1]),
            marker=dict(color=styles[name][0], size=6),
            hovertemplate="%{y:.4g}",
        )
    dress(figure, x, y, title, list(series), _right_margin(levels))
    _levels(figure, {name: v * scale for name, v in (levels or {}).items()})
    return figure


def _checked_series(
    name: str, sequences: tuple[Sequence[float], ...], percent: bool
) -> list[np.ndarray]:
    """A series' xs and lines as arrays. Raises ValueError where `curves` cannot draw them."""
    first, *rest = sequences
    xs, lines = np.asarray(first), [np.asarray(line, dtype=np.float64) for line in rest]
    fit = all(xs.shape == line.shape for line in lines)
    if len(lines) not in (1, 3) or xs.ndim != 1 or not fit or not len(xs):
        raise ValueError(
            f"curves: series {name!r} wanted xs and ys [n], n > 0, and lows and highs [n] or none; "
            f"got {xs.shape} and {', '.join(str(line.shape) for line in lines)}; give one y per x"
        )
    if percent:
        for line in lines:
            _fractions(line, f"curves: series {name!r}")
    return [xs, *lines]


def _add_band(
    figure: Figure, name: str, xs: np.ndarray, lows: np.ndarray, highs: np.ndarray, color: str
) -> None:
    """Add a band of intervals: its outline runs along the lows and back along the highs."""
    figure.add_scatter(
        x=np.concatenate([xs, xs[::-1]]),
        y=np.concatenate([lows, highs[::-1]]),
        fill="toself",
        fillcolor=color,
        opacity=0.15,
        line_width=0,
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        name=plain(name),
    )
    # a click on the legend would hide the line and leave the band
    figure.update_layout(legend=dict(itemclick=False, itemdoubleclick=False))


def bars(
    rows: Sequence[Bar],
    y: str,
    title: str = "",
    *,
    percent: bool = True,
    levels: Mapping[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
    by_group: bool = False,
) -> Figure:
    """Draw grouped bars with their intervals and numbers (R@1 and probe of each method).

    Args:
        rows: `Bar`s or tuples (method, group, value, low, high). Groups and methods keep the order
            of first appearance.
        y: Name of the axis.
        percent: Values and levels are fractions and are drawn times 100.
        levels: Name -> height of a dotted line (chance, a published number).
        colors: Method -> color, or group -> color with `by_group`; default: see
            `looks.colors_for`.
        by_group: Groups are runs and decide the colors. There is no legend, since the axis names
            them.

    Raises:
        ValueError: no rows, one (method, group) twice, an interval that misses its value, or a
            "fraction" above 1.
    """
    import plotly.graph_objects as go

    rows = [Bar(*row) for row in rows]
    _check_bars(rows, percent)
    scale, methods = 100.0 if percent else 1.0, list(dict.fromkeys(r.method for r in rows))
    fine = percent or any(r.value % 1 for r in rows)
    spec, size = _numbers(len(rows), fine)
    styles, figure = colors_for(methods, colors), go.Figure()
    for method in methods:
        of_method = [r for r in rows if r.method == method]
        _bars_of(figure, of_method, styles[method], scale, (spec, size))
    dress(figure, "", y, title, [] if by_group else methods, _right_margin(levels))
    if by_group:
        looks = colors_for(list(dict.fromkeys(r.group for r in rows)), colors)
        for method, trace in zip(methods, figure.data[::2], strict=True):
            mine = [looks[r.group] for r in rows if r.method == method]
            trace.marker.color = [color for color, _ in mine]
            trace.marker.pattern.shape = [FILLS[DASHES.index(dash)] for _, dash in mine]
    figure.update_layout(
        barmode="group", scattermode="group", bargap=0.3, bargroupgap=0.08, scattergap=0.3
    )
    figure.update_xaxes(
        type="category", categoryarray=list(dict.fromkeys(plain(r.group) for r in rows)), ticks=""
    )
    if min(r.value for r in rows) >= 0:  # headroom for the numbers
        top = max([_interval(r)[1] for r in rows] + list((levels or {}).values()))
        figure.update_yaxes(range=[0, 1.1 * scale * (top or 1.0)])
    _levels(figure, {name: v * scale for name, v in (levels or {}).items()})
    return figure


def _check_bars(rows: Sequence[Bar], percent: bool) -> None:
    """Raise ValueError where `bars` cannot draw these rows."""
    if not rows:
        raise ValueError(
            "bars: wanted at least one row, got none; pass Bar(method, group, value, low, high)"
        )
    if len({(r.method, r.group) for r in rows}) < len(rows):
        raise ValueError(
            "bars: wanted one row per (method, group); some came twice; average them or rename them"
        )
    for r in rows:
        low, high = _interval(r)
        if not (low - 1e-9 <= r.value <= high + 1e-9):
            raise ValueError(
                f"bars: {r.method}, {r.group}: wanted low <= value <= high, got {low}, {r.value}, "
                f"{high}"
            )
    if percent:
        _fractions(np.array([v for r in rows for v in (r.value, *_interval(r))]), "bars")


def _numbers(bars: int, fine: bool) -> tuple[str, int]:
    """The format of the numbers over so many bars and their size in pixels, so that they fit side by
    side into the narrowest figure; fine: with a digit after the point where there is room."""
    room = 0.64 * (NARROW - 88) / bars  # pixels of a bar
    return ".1f" if fine and room > 22 else ".0f", 12 if room > 28 else 10


def _bars_of(
    figure: Figure,
    rows: Sequence[Bar],
    look: tuple[str, str],
    scale: float,
    numbers: tuple[str, int],
) -> None:
    """Add the bars of one method, their intervals and their numbers, see `_numbers`."""
    groups, values = [plain(r.group) for r in rows], np.array([r.value for r in rows]) * scale
    known = any(high > low for low, high in map(_interval, rows))
    shared = dict(name=plain(rows[0].method), offsetgroup=rows[0].method)
    figure.add_bar(
        x=groups,
        y=values,
        marker=dict(color=look[0], line_width=0, pattern_shape=FILLS[DASHES.index(look[1])]),
        **shared,
        hovertemplate="%{y:.1f}",
        error_y=dict(**_intervals(rows, scale), color=INK, thickness=1.3, width=4, visible=known),
    )
    # the numbers are above the whiskers, where no bar or line crosses them
    figure.add_scatter(
        x=groups,
        y=np.array([max(r.value, _interval(r)[1]) for r in rows]) * scale,
        mode="text",
        text=[format(v, numbers[0]) for v in values],
        textposition="top center",
        textfont=dict(size=numbers[1]),
        showlegend=False,
        hoverinfo="skip",
        **shared,
    )


def _intervals(rows: Sequence[Bar], scale: float) -> dict[str, Any]:
    """How far each interval reaches below and above its value, for plotly's error bars."""
    value, (low, high) = np.array([r.value for r in rows]), np.array([_interval(r) for r in rows]).T
    return dict(
        type="data",
        symmetric=False,
        array=np.maximum(high - value, 0) * scale,
        arrayminus=np.maximum(value - low, 0) * scale,
    )


def whiskers(rows: Sequence[Bar], x: str, title: str = "") -> Figure:
    """Draw differences as dots with intervals: methods are lines, groups are colors.

    A vertical line marks 0.

    Args:
        rows: `Bar`s or tuples (method, group, value, low, high), the first method on top. Values
            are fractions and are drawn times 100.
        x: Name of the axis.

    Raises:
        ValueError: no rows, or one (method, group) twice.
    """
    import plotly.graph_objects as go

    rows = [Bar(*row) for row in rows]
    if not rows or len({(r.method, r.group) for r in rows}) < len(rows):
        raise ValueError(
            f"whiskers: wanted rows, one for each method and group; got {len(rows)}, some twice"
        )
    methods = list(dict.fromkeys(r.method for r in rows))
    groups = list(dict.fromkeys(r.group for r in rows))
    styles, figure = colors_for(groups), go.Figure()
    for number, group in enumerate(groups):
        # of a row's height, below each other
        shift = (number - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 2)
        mine = [r for r in rows if r.group == group]
        heights = [methods.index(r.method) + shift for r in mine]
        _dots_of(figure, mine, heights, styles[group])
    dress(figure, x, "", title, groups, 24)
    figure.update_layout(
        height=figure.layout.margin.t + 60 + 52 * len(methods), hovermode="closest"
    )
    figure.update_yaxes(
        tickvals=list(range(len(methods))),
        ticktext=[plain(m) for m in methods],
        ticks="",
        range=[len(methods) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticklabelstandoff=6,
    )
    figure.update_xaxes(
        showgrid=True, zeroline=True, zerolinecolor=INK, zerolinewidth=1.5, showline=False
    )
    return figure


def _dots_of(
    figure: Figure, rows: Sequence[Bar], heights: Sequence[float], look: tuple[str, str]
) -> None:
    """Add the dots of one group and their intervals."""
    color, dash = look
    figure.add_scatter(
        x=np.array([r.value for r in rows]) * 100,
        y=heights,
        mode="markers",
        name=plain(rows[0].group),
        marker=dict(size=9, color=color, symbol=DOTS[DASHES.index(dash)]),
        text=[plain(r.method) for r in rows],
        hovertemplate="%{text}: %{x:+.1f}",
        error_x=dict(**_intervals(rows, 100), color=color, thickness=1.6, width=0),
    )


def _interval(row: Bar) -> tuple[float, float]:
    return (row.value if row.low is None else row.low, row.value if row.high is None else row.high)


def _fractions(values: np.ndarray, who: str) -> None:
    if np.nanmax(values, initial=0.0) > 1 + 1e-9:
        raise ValueError(
            f"{who}: percent=True needs fractions from 0 to 1, got {np.nanmax(values):g}; divide "
            "by 100"
        )


def _right_margin(levels: Mapping[str, float] | None) -> int:
    """Pixels of the right margin, where the levels' names are."""
    return 32 + 7 * max(min(16, len(name)) for name in levels) if levels else 24


def _levels(figure: Figure, levels: Mapping[str, float]) -> None:
    """Dotted lines across the plot, named in the right margin, where no curve runs."""
    for name, height in levels.items():
        figure.add_shape(
            type="line",
            xref="paper",
            x0=0,
            x1=1,
            y0=height,
            y1=height,
            layer="below",
            line=dict(color=SOFT, width=1.4, dash="dot"),
        )
        figure.add_annotation(
            xref="paper",
            x=1,
            xanchor="left",
            xshift=6,
            y=height,
            yanchor="middle",
            align="left",
            showarrow=False,
            font=dict(size=12, color=SOFT),
            text="<br>".join(map(plain, textwrap.wrap(name, 16))),
        )
    if levels:  # a shape does not widen the axis, so an unseen point does
        figure.add_scatter(
            x=[figure.data[0].x[0]] * len(levels),
            y=list(levels.values()),
            mode="markers",
            opacity=0,
            hoverinfo="skip",
            showlegend=False,
        )
