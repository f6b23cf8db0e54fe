"""Figures of arrays with two axes: confusion matrices, small multiples, a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vidbench.view.looks import (
    AXIS_LINE,
    INK,
    NARROW,
    PALETTE,
    SOFT,
    WIDTH,
    colors_for,
    dress,
    plain,
    say,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# white to dark blue, steep at first: what is often confused is a few percent of a class
SHARES = (
    (0, "#FFFFFF"),
    (0.02, "#DEEBF7"),
    (0.1, "#C6DBEF"),
    (0.3, "#6BAED6"),
    (0.6, "#2171B5"),
    (1, "#08306B"),
)
GRAYS = ((0, "#000000"), (1, "#FFFFFF"))
SIGNED = ((0, PALETTE[1]), (0.5, "#FFFFFF"), (1, PALETTE[0]))  # white is 0
# classes; of more there is no room for their names, and for numbers in cells
NAMED, NUMBERED = (40, 14)
LETTERS = 22  # of a name on an axis
# pixels between pictures, over a row of them, and at the right for the scales
GAP, HEAD, EDGE = (6, 24, 110)
# pixels: a picture of many at most, a slider's
PICTURE, SIDE = (150, 300)


def confusion(shares: np.ndarray, classes: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix as shares of each row; correct predictions are on the diagonal.

    Whole names are shown on hover; the axes shorten them, and leave out those of many classes.

    Args:
        shares: [class, predicted class]. A row of NaN, a class without videos, stays empty.
        classes: Their names.

    Raises:
        ValueError: another shape, or shares outside of 0..1.
    """
    import plotly.graph_objects as go

    shares, count = np.asarray(shares, dtype=np.float32), len(classes)
    if (
        shares.shape != (count, count)
        or not count
        or not (np.isnan(shares) | (shares >= 0) & (shares < 1.001)).all()
    ):
        raise ValueError(
            f"confusion: wanted shares in 0..1 [{count},{count}] for {count} classes, got "
            f"{shares.shape}"
        )
    percent, names = (100 * shares).round(), [plain(name) for name in classes]
    figure = go.Figure(
        go.Heatmap(
            z=percent if np.isnan(percent).any() else percent.astype(np.uint8),
            x=names,
            y=names,
            zmin=0,
            zmax=100,
            colorscale=SHARES,
            texttemplate="%{z:.0f}" if count <= NUMBERED else None,
            xgap=int(count <= NAMED),
            ygap=int(count <= NAMED),
            hovertemplate="%{y}<br>predicted %{x}: %{z:.0f} %<extra></extra>",
            colorbar=dict(thickness=12, outlinewidth=0, xpad=14),
        )
    )
    dress(figure, "predicted class, % of a row", "true class", title, [], 24)
    figure.update_layout(
        height=figure.layout.margin.t + min(660, 160 + 34 * count), hovermode="closest"
    )
    _name_classes(figure, classes)
    return figure


def _name_classes(figure: Figure, classes: Sequence[str]) -> None:
    """Dress both axes of a confusion matrix, with names if there is room for them."""
    count, names = len(classes), [plain(name) for name in classes]
    short = [plain(name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…") for name in classes]
    looks = dict(
        type="category", showgrid=False, showline=True, mirror=True, ticks="", showticklabels=False
    )
    if count <= NAMED:
        looks |= dict(
            showline=False,
            showticklabels=True,
            tickvals=names,
            ticktext=short,
            ticklabelstandoff=4,
            tickfont=dict(size=13 if count <= NUMBERED else 10),
        )
    figure.update_xaxes(**looks, tickangle=-45 if max(map(len, short)) > 4 else 0)
    figure.update_yaxes(**looks, autorange="reversed")


def heatmaps(
    rows: Mapping[str, np.ndarray],
    columns: Sequence[str] = (),
    title: str = "",
    *,
    signed: Sequence[str] = (),
    unit: str = "",
    scale: Sequence = GRAYS,
    ends: tuple[float, float] | None = None,
) -> Figure:
    """Draw small multiples: a row of pictures for each name.

    A row has, for example, the frames of a map, or what a filter keeps of them. Scales are drawn
    next to their rows.

    Args:
        rows: Name -> [n,H,W], the same n in all.
        columns: A word under each of the n.
        signed: The rows of differences; they share a scale whose white is 0. The others share one
            from their smallest to their largest value.
        unit: What the numbers are.
        scale: Colors of the rows that are not signed.
        ends: Ends of their scale, instead of the smallest and largest value.

    Raises:
        ValueError: no rows, another number of maps or columns, or values that are not finite.
    """
    import plotly.graph_objects as go

    maps = _checked(rows, columns)
    figure, count = go.Figure(), len(next(iter(maps.values())))
    wide = min(PICTURE, (WIDTH - EDGE - GAP * (count - 1)) // count)
    lefts, width = [column * (wide + GAP) for column in range(count)], (wide + GAP) * count - GAP
    spans, height = _spans(maps, wide)
    for name, values in maps.items():
        over = dict(xanchor="left", yanchor="bottom")
        say(figure, (0, spans[name][1]), name, size=13, color=INK, **over)
        for left, picture in zip(lefts, values, strict=True):
            across = left / width, (left + wide) / width
            _add_picture(figure, picture, name, across, spans[name], name in signed)
    for left, word in zip(lefts, columns, strict=False):
        under = dict(xanchor="center", yanchor="top")
        say(figure, ((left + wide / 2) / width, 0), word, size=12, color=SOFT, **under)
    dress(figure, "", "", title, [], EDGE)
    top, bottom = figure.layout.margin.t, 24 if columns else 8
    full = max(width + EDGE, NARROW)  # room for the title
    figure.update_layout(
        width=None if full > NARROW else full,
        height=height + top + bottom,
        hovermode="closest",
        margin=dict(l=0, r=full - width, t=top, b=bottom),
    )
    if unsigned := [name for name in maps if name not in signed]:
        figure.update_layout(coloraxis=_scale(maps, unsigned, spans, scale, unit, ends))
    if differences := [name for name in maps if name in signed]:
        figure.update_layout(coloraxis2=_scale(maps, differences, spans, SIGNED, unit))
    return figure


def slider(
    steps: Mapping[str, np.ndarray],
    name: str,
    row: int,
    title: str = "",
    *,
    profiles: Mapping[str, np.ndarray],
    unit: str = "value",
) -> Figure:
    """Draw a picture and the profile of one of its rows for each value of a slider.

    The slider needs no kernel.

    Args:
        steps: Value -> [H,W], all on one gray scale; the slider begins in the middle.
        name: What the slider sets.
        row: The row whose profile is drawn, dotted in the picture.
        profiles: Name -> [W], lines that stay.
        unit: What the numbers are.

    Raises:
        ValueError: shapes do not fit.
    """
    import plotly.graph_objects as go

    maps = {value: np.asarray(picture, dtype=np.float32) for value, picture in steps.items()}
    fixed = {label: np.asarray(line, np.float32) for label, line in profiles.items()}
    _check_slider(maps, row, fixed)
    figure, start = go.Figure(), len(maps) // 2
    for number, picture in enumerate(maps.values()):
        _add_step(figure, picture, row, f"with this {plain(name)}", number == start)
    _add_fixed(figure, fixed)
    dress(figure, "column", unit, title, [f"with this {name}", *fixed], 24)
    lines = np.concatenate([*(m[row] for m in maps.values()), *fixed.values()])
    _lay_out_slider(figure, np.stack([*maps.values()]), lines)
    figure.update_layout(
        sliders=[
            dict(
                active=start,
                steps=_states(list(maps), len(fixed)),
                currentvalue=dict(prefix=f"{plain(name)} = ", font_size=14),
                pad=dict(t=52),
                bordercolor="#8A929C",
                tickcolor="#8A929C",
            )
        ],
    )
    dotted = dict(color=PALETTE[4], dash="dot")
    figure.add_shape(type="line", xref="x domain", x0=0, x1=1, y0=row, y1=row, line=dotted)
    return figure


def _check_slider(
    maps: Mapping[str, np.ndarray], row: int, fixed: Mapping[str, np.ndarray]
) -> None:
    """Raise ValueError where a slider's pictures and lines do not fit."""
    shapes = sorted({m.shape for m in maps.values()})
    if (
        len(shapes) != 1
        or not 0 <= row < shapes[0][0]
        or any(line.shape != shapes[0][1:] for line in fixed.values())
    ):
        raise ValueError(
            f"slider: wanted pictures [H,W] of one size with a row {row}, and lines [W]; "
            f"got {shapes} and {[line.shape for line in fixed.values()]}"
        )


def _add_step(figure: Figure, picture: np.ndarray, row: int, name: str, visible: bool) -> None:
    """Add what one value of the slider shows: a picture and the profile of its row."""
    figure.add_heatmap(
        z=picture, coloraxis="coloraxis", hovertemplate="%{z:.3g}<extra></extra>", visible=visible
    )
    figure.add_scatter(
        y=picture[row],
        xaxis="x2",
        yaxis="y2",
        name=name,
        line_width=2.4,
        line_color=INK,
        hovertemplate="%{y:.3g}",
        visible=visible,
    )


def _add_fixed(figure: Figure, fixed: Mapping[str, np.ndarray]) -> None:
    """Add the dotted lines that stay whatever the slider sets."""
    styles = colors_for(list(fixed))
    for label, line in fixed.items():
        figure.add_scatter(
            y=line,
            xaxis="x2",
            yaxis="y2",
            name=plain(label),
            hovertemplate="%{y:.3g}",
            line=dict(color=styles[label][0], width=1.6, dash="dot"),
        )


def _states(values: Sequence[str], fixed: int) -> list[dict]:
    """The slider's steps: each shows its own two traces, and the lines that stay."""
    traces = 2 * len(values)
    return [
        dict(
            label=plain(value),
            method="restyle",
            args=[{"visible": [i // 2 == number for i in range(traces)] + [True] * fixed}],
        )
        for number, value in enumerate(values)
    ]


def _lay_out_slider(figure: Figure, values: np.ndarray, lines: np.ndarray) -> None:
    """Put the picture left and the profile right, on fixed scales."""
    part, reach = SIDE / (WIDTH - 24), 0.05 * float(np.ptp(lines)) or 1.0
    axes = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    figure.update_layout(
        height=figure.layout.margin.t + SIDE + 150,
        margin=dict(l=0, b=150),
        legend_x=part + 0.1,
        hovermode="closest",
        coloraxis=dict(
            cmin=float(values.min()), cmax=float(values.max()), colorscale=GRAYS, showscale=False
        ),
        xaxis=dict(domain=[0, part], visible=False, constrain="domain"),
        yaxis=dict(visible=False, autorange="reversed", scaleanchor="x", constrain="domain"),
        xaxis2=dict(domain=[part + 0.1, 1], anchor="y2", title_text=axes[0]),
        yaxis2=dict(
            anchor="x2", title_text=axes[1], range=[lines.min() - reach, lines.max() + reach]
        ),
    )


def _checked(rows: Mapping[str, np.ndarray], columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows as float32 [n,H,W], n the same in all. Raises ValueError."""
    maps = {name: np.asarray(values, dtype=np.float32) for name, values in rows.items()}
    counts = {
        values.shape[0] if values.ndim == 3 and np.isfinite(values).all() else 0
        for values in maps.values()
    }
    counts |= {len(columns)} if len(columns) else set()
    if len(counts) != 1 or 0 in counts:
        shapes = {name: values.shape for name, values in maps.items()}
        raise ValueError(
            f"heatmaps: wanted rows of n finite maps [n,H,W] and n columns or none; got {shapes} "
            f"and {len(columns)} columns"
        )
    return maps


def _spans(maps: Mapping[str, np.ndarray], wide: int) -> tuple[dict[str, tuple[float, float]], int]:
    """Lower and upper end of each row of pictures, as shares of the height, and that in pixels."""
    talls = [max(1, round(wide * values.shape[1] / values.shape[2])) for values in maps.values()]
    height, down, spans = sum(talls) + HEAD * len(maps), 0, {}
    for name, tall in zip(maps, talls, strict=True):
        top, down = down + HEAD, down + HEAD + tall
        spans[name] = (1 - down / height, 1 - top / height)
    return spans, height


def _add_picture(
    figure: Figure,
    picture: np.ndarray,
    name: str,
    across: tuple[float, float],
    up: tuple[float, float],
    signed: bool,
) -> None:
    """Add one picture of a row in a frame with new axes, at these shares of the figure."""
    number = len(figure.data) + 1
    looks = dict(
        ticks="",
        showticklabels=False,
        showgrid=False,
        mirror=True,
        linecolor=AXIS_LINE,
        automargin=False,
    )
    # in a narrow place, a picture keeps its shape and gets smaller
    looks |= dict(constrain="domain", constraintoward="left")
    x = dict(domain=list(across), anchor=f"y{number}", **looks)
    looks |= dict(constraintoward="top", scaleanchor=f"x{number}", autorange="reversed")
    y = dict(domain=list(up), anchor=f"x{number}", **looks)
    figure.update_layout({f"xaxis{number}": x, f"yaxis{number}": y})
    figure.add_heatmap(
        z=picture,
        xaxis=f"x{number}",
        yaxis=f"y{number}",
        name=plain(name),
        coloraxis="coloraxis2" if signed else "coloraxis",
        hovertemplate="row %{y}, column %{x}: %{z:.3g}",
    )


def _scale(
    maps: Mapping[str, np.ndarray],
    names: Sequence[str],
    spans: Mapping[str, tuple[float, float]],
    colors: Sequence,
    unit: str,
    ends: tuple[float, float] | None = None,
) -> dict:
    """A color axis for these rows, its bar as high as they are; of signed values, white is 0."""
    low = min(float(maps[name].min()) for name in names)
    high = max(float(maps[name].max()) for name in names)
    if ends:
        low, high = ends
    elif colors is SIGNED:
        high = max(-low, high, 1e-12)
        low = -high
    span = min(spans[name][0] for name in names), max(spans[name][1] for name in names)
    return dict(
        cmin=low,
        cmax=high,
        colorscale=colors,
        colorbar=dict(
            x=1.0,
            xpad=10,
            thickness=12,
            outlinewidth=0,
            tickfont_size=12,
            ypad=0,
            nticks=5,
            len=span[1] - span[0],
            y=sum(span) / 2,
            title=dict(text=plain(unit), side="right", font_size=12),
        ),
    )
