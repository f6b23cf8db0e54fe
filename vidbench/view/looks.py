"""Colors, type, a piece of HTML and safe words, which all of view shares."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe and Ito's colors (Color Universal Design, 2008) without the yellow, lost on white; gray
# replaces black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5F5F5F")
# One method, one color, in every figure; the `colors` argument of a figure adds to this and
# overrides it.
COLORS = {
    "InfoNCE": PALETTE[0],
    "CoCLR": PALETTE[1],
    "UberNCE": PALETTE[2],
    "random init": PALETTE[6],
}
DASHES = ("solid", "dash", "dot", "dashdot")  # the next round of the palette differs by the dash
RIGHT, WRONG = (
    "#00795A",
    "#BF4600",
)  # the palette's green and vermilion, darkened until text in them reads on white
INK, SOFT, RULE = "#1F2328", "#5B636D", "#E3E6EA"
# short on purpose: JupyterLab's sanitiser matches font lists with a slow pattern
FONT = "system-ui, sans-serif"
WIDTH = 760  # pixels

AXIS = dict(
    showline=True,
    linecolor="#8A929C",
    ticks="outside",
    tickcolor="#8A929C",
    ticklen=4,
    zeroline=False,
    gridcolor=RULE,
    automargin=True,
    title=dict(standoff=10, font=dict(size=14)),
    tickfont=dict(size=13),
)
TEMPLATE = dict(
    layout=dict(
        font=dict(family=FONT, size=13, color=INK),
        paper_bgcolor="white",
        plot_bgcolor="white",
        colorway=list(PALETTE),
        title=dict(
            x=0,
            xref="container",
            xanchor="left",
            y=1,
            yref="container",
            yanchor="top",
            pad=dict(t=14, l=0),
            font=dict(size=17),
        ),
        legend=dict(
            orientation="h",
            x=0,
            xref="paper",
            xanchor="left",
            y=1.01,
            yanchor="bottom",
            font=dict(size=13),
            itemclick="toggle",
            bgcolor="rgba(255,255,255,0)",
        ),
        xaxis={**AXIS, "showgrid": False},
        yaxis=AXIS,
        hovermode="x unified",
        hoverlabel=dict(
            font=dict(family=FONT, size=13, color=INK), bgcolor="white", bordercolor=RULE
        ),
    )
)


class Html(str):
    """A piece of finished HTML: text to Python, a picture to a notebook."""

    def _repr_html_(self) -> str:
        return str(self)

    # a notebook keeps the repr next to the HTML, so it must not be the same megabytes again
    def __repr__(self) -> str:
        return f"<Html, {len(self)} characters>"


def escaped(value: object) -> str:
    """Any value as text that is safe inside HTML, between tags and in a quoted attribute alike."""
    return html.escape(str(value), quote=True)


def plain(text: str) -> str:
    """Text that plotly draws letter by letter: it reads tags in names, so `<b>` must come as
    entities."""
    return html.escape(str(text), quote=False)


def colors_for(
    names: Sequence[str], colors: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    """Color and dash of each name: its own where `COLORS` or `colors` knows it, else the
    palette's next free one."""
    known = {**COLORS, **(colors or {})}
    taken = {known[name] for name in names if name in known}
    free = [c for c in PALETTE if c not in taken] or list(PALETTE)
    fresh = [name for name in dict.fromkeys(names) if name not in known]
    styles = {name: (known[name], DASHES[0]) for name in names if name in known}
    for i, name in enumerate(fresh):
        styles[name] = (free[i % len(free)], DASHES[i // len(free) % len(DASHES)])
    return styles


def dress(figure: Figure, x: str, y: str, title: str, legend: Sequence[str], right: int) -> None:
    """Titles, template and a top margin that holds title and legend, so that neither meets the
    other or the plot."""
    lines, room = textwrap.wrap(title, 84), WIDTH - 64 - right - 20
    entries = [
        len(name) * 7.6 + 50 for name in legend
    ]  # pixels; when wrapped, plotly makes them equally wide
    rows = (
        math.ceil(len(entries) / max(1, room // max(entries)))
        if sum(entries) > room
        else bool(entries)
    )
    top = 18 + 24 * len(lines) + 23 * rows
    figure.update_layout(
        template=TEMPLATE,
        width=WIDTH,
        height=300 + top,
        showlegend=bool(legend),
        xaxis_title_text=plain(x),
        yaxis_title_text=plain(y),
        margin=dict(l=64, r=right, t=top + 8, b=52),
    )
    if lines:
        figure.update_layout(title_text="<br>".join(map(plain, lines)))


def say(
    figure: Figure, place: tuple[float, float], *lines: str, size: int, color: str, **anchors: Any
) -> None:
    """Write lines of text at a place of the figure, in shares of its plot."""
    figure.add_annotation(
        text="<br>".join(map(plain, lines)),
        xref="paper",
        yref="paper",
        x=place[0],
        y=place[1],
        showarrow=False,
        font=dict(size=size, color=color),
        **anchors,
    )
