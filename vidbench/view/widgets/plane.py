"""A map of videos: points in the plane, colored by a column, some of them ringed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vidbench.view.looks import AXIS_LINE, DASHES, INK, colors_for, dress, plain
from vidbench.view.widgets.hues import Hues, legend, marked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

RINGS = ("circle", "square", "diamond", "hexagon")  # by the dash of a list
MANY = 2000  # points from which on they are drawn by WebGL, which not every browser has
WIDE, TALL, LEGEND_WIDTH = 640, 540, 150  # pixels of a map at most, and of its legend: 26 lines


class Layer(NamedTuple):
    """Some videos of a map: points [N,2], their classes ("" if unknown) and ids [N]."""

    points: np.ndarray
    names: np.ndarray
    ids: np.ndarray


def faded(names: np.ndarray, lit: str) -> float | np.ndarray:
    """Return the opacity of points: a number for all, or [N] if one class is highlighted.

    Args:
        names: Class of each point [N].
        lit: The highlighted class, or empty.
    """
    return np.where(names == lit, 0.9, 0.06).astype(np.float32) if lit else 0.85


def scatter(
    layers: Mapping[str, Layer],
    hues: Hues,
    rings: Mapping[str, tuple],
    title: str = "",
    lit: str = "",
    looks: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """Draw layers of points with open shapes after the first layer, and rings over them.

    Traces are the layers, then the rings, then those of `hues.legend`.

    Args:
        layers: A layer for each side of `hues`.
        hues: Colors and shapes, see `hues.by_column`.
        rings: Name -> (xs, ys). The last is a star, over the others near it and before them in the
            legend.
        lit: See `faded`.
        looks: Ring -> color and dash, see `looks.colors_for`; the dash decides the ring's shape.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    draw = go.Scattergl if sum(len(layer.ids) for layer in layers.values()) > MANY else go.Scatter
    for name, layer in layers.items():
        figure.add_trace(draw(_points(name, layer, marked(hues, name), bool(figure.data), lit)))
    for place, (ring, (x, y)) in enumerate(rings.items()):
        # drawn as the points are: plotly draws WebGL above all else
        look = (looks or colors_for(list(rings))).get(ring, (INK, DASHES[0]))
        figure.add_trace(draw(_ring(ring, x, y, place, look, star=place == len(rings) - 1)))
    for entry in legend(hues):
        figure.add_scatter(x=[None], y=[None], mode="markers", **entry)
    dress(figure, "", "", title, [], LEGEND_WIDTH)
    return _framed(figure)


def _points(
    name: str, layer: Layer, marker: dict[str, Any], hollow: bool, lit: str
) -> dict[str, Any]:
    """A layer's trace; hollow: with open shapes."""
    return dict(
        x=layer.points[:, 0],
        y=layer.points[:, 1],
        mode="markers",
        name=plain(name),
        showlegend=False,
        marker=dict(
            **marker, size=5, line_width=1 if hollow else 0, opacity=faded(layer.names, lit)
        ),
        text=[
            f"{plain(one)}<br>{plain(id.rpartition('/')[2])}"
            for one, id in zip(layer.names, layer.ids.tolist(), strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        selected=dict(marker=dict(size=7)),
        unselected=dict(marker=dict(opacity=0.15)),
    )


def _ring(
    name: str, x: np.ndarray, y: np.ndarray, place: int, look: tuple[str, str], *, star: bool
) -> dict[str, Any]:
    """A trace of rings, wider from place to place, or of a star."""
    color, dash = look
    ring = dict(
        symbol=f"{RINGS[DASHES.index(dash)]}-open",
        size=13 + 4 * place,
        color=color,
        line=dict(width=3, color=color),
    )
    return dict(
        x=x,
        y=y,
        mode="markers",
        name=plain(name),
        hoverinfo="skip",
        unselected=dict(marker=dict(opacity=1)),
        marker=dict(symbol="star", size=17, color=INK, line=dict(width=1.5, color="#FFFFFF"))
        if star
        else ring,
        legendrank=1 if star else None,
    )


def _framed(figure: Figure) -> Figure:
    """The figure without axes, its legend at the right."""
    bare = dict(
        showgrid=False,
        showticklabels=False,
        ticks="",
        showline=True,
        mirror=True,
        linecolor=AXIS_LINE,
        zeroline=False,
    )
    return figure.update_layout(
        height=TALL,
        hovermode="closest",
        dragmode="lasso",
        showlegend=True,
        xaxis=bare,
        yaxis=bare,
        margin=dict(l=2, b=8),
        legend=dict(
            orientation="v",
            x=1.02,
            y=1,
            yanchor="top",
            font_size=12,
            itemclick=False,
            itemdoubleclick=False,
        ),
    )
