"""Colors, type, a piece of HTML and safe words, which all of view shares."""

from __future__ import annotations

import html
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from vidbench.view.viewer import in_notebook

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Okabe and Ito's colors (Color Universal Design, 2008) without the yellow. Orange, sky and gray
# are moved until a line of theirs has contrast 3 on white and on JupyterLab's dark background.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B47B00", "#3A93C8", "#6E6E6E")
# Classes on a map have their own colors: those of the palette are for methods and their lists.
CLASS_COLORS = ("#4B3FA3", "#A02860", "#1A7A42", "#76761F", "#AA4499", "#83593F", "#3C6F80")
# A method keeps its color in every figure and widget: the longest of these that a name begins with
# decides, in any case of letters. `colors` of a figure overrides it.
METHODS = {
    "infonce": PALETTE[0],
    "coclr": PALETTE[1],
    "ubernce": PALETTE[2],
    "rms": PALETTE[3],
    "joint": PALETTE[4],
    "multitrain": PALETTE[4],
    "random": PALETTE[6],
    "untrained": PALETTE[6],
}
# the stream decides the dash; of names alike in both, the later ones take the next free dash
STREAM_DASHES = {"rgb": "solid", "flow": "dash"}
DASHES = ("solid", "dash", "dot", "dashdot")
# frames and bars: the palette's green and vermilion, darkened until text in them reads on white
RIGHT, WRONG = ("#007E5E", "#BF4600")
INK, SOFT, RULE = "#1F2328", "#5B636D", "#E3E6EA"  # on white: figures and pages
AXIS_LINE = "#8A929C"

# HTML is shown on the background of a page, or of a light or dark theme. Its words inherit the color
# that the theme gives (Jupyter's variables decide it), and other colors are mixed with that one.
# JupyterLab's sanitizer drops such a mixture in an untrusted notebook, and the words are inked.
FAINT = "color-mix(in srgb,currentColor 72%,transparent)"  # of what is said in passing
GOOD, BAD = (f"color-mix(in srgb,{one} 70%,currentColor)" for one in (PALETTE[2], PALETTE[1]))
LINE = "rgba(128,128,128,0.4)"  # between the rows of a table or gallery
BACK = "rgba(128,128,128,0.15)"  # around a clip that is not square
# Words over a picture, and what floats over the page: the theme's colors. A page without a theme has
# the first two, and so has a notebook whose sanitizer drops variables.
CARD = (
    f"background-color:#FFFFFF;color:{INK};background-color:var(--jp-layout-color1,#FFFFFF);"
    f"color:var(--jp-content-font-color1,{INK})"
)
# short on purpose: JupyterLab's sanitiser matches font lists with a slow pattern
FONT = "system-ui, sans-serif"
# Pixels of a figure: at most, and the least at which titles, legends and names fit. The least is the
# place of an output in JupyterLab of 1000 pixels with an open file browser.
WIDTH, NARROW = 760, 560
TITLE_LETTERS = 61  # of a line of a title in the narrowest figure

# the looks of an offline page
CSS = f"""
html {{ background: #fff; color: {INK}; -webkit-text-size-adjust: 100%; }}
body {{ max-width: {WIDTH}px; margin: 0 auto; padding: 44px 24px 72px; font: 16px/1.55 {FONT}; }}
h1 {{ font-size: 30px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 20px; text-wrap: balance; }}
h2 {{ font-size: 21px; line-height: 1.3; margin: 44px 0 10px; }}
p {{ max-width: 66ch; margin: 0 0 14px; overflow-wrap: break-word; }}
figure, .piece {{ margin: 18px 0 22px; overflow-x: auto; font-variant-numeric: tabular-nums; }}
figure > div {{ min-width: {NARROW}px; }}
@media (max-width: 600px) {{ body {{ padding: 20px 14px 48px; }} h1 {{ font-size: 25px; overflow-wrap: break-word; }} }}
@media print {{ body {{ padding: 0; }} h2 {{ break-after: avoid; }} figure, .piece {{ break-inside: avoid; }} }}
"""

AXIS = dict(
    showline=True,
    linecolor=AXIS_LINE,
    ticks="outside",
    tickcolor=AXIS_LINE,
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
            pad=dict(t=14, l=12),
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


# plotly's icons appear under the pointer, without its logo, and without the one that uploads a chart
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["sendChartToCloud"],
    "responsive": True,
}
RENDERERS = ("plotly_mimetype", "jupyterlab", "vscode", "notebook", "notebook_connected")


@cache
def configure() -> None:
    """Give plotly's renderers of notebooks `CONFIG`: a figure by itself cannot set it.

    JupyterLab draws figures from JSON, so a saved notebook need not hold them as HTML, too, with
    plotly's script of 5 MB."""
    import plotly.io

    if plotly.io.renderers.default == "plotly_mimetype+notebook" and not os.environ.get(
        "PLOTLY_RENDERER"
    ):
        plotly.io.renderers.default = "plotly_mimetype"
    for name in RENDERERS:
        plotly.io.renderers[name].config.update(CONFIG)


class Html(str):
    """A piece of finished HTML: text to Python, a picture to a notebook."""

    def _repr_html_(self) -> str:
        return in_notebook(str(self))

    # a notebook keeps the repr next to the HTML, so it must not be the same megabytes again
    def __repr__(self) -> str:
        return f"<Html, {len(self)} characters>"


def escaped(value: object) -> str:
    """Return any value as text that is safe in HTML, between tags and in a quoted attribute."""
    return html.escape(str(value), quote=True)


def plain(text: str) -> str:
    """Return text that plotly draws letter by letter: `<b>` as entities, since it obeys tags."""
    return html.escape(str(text), quote=False)


def method_color(name: str) -> str:
    """Return the color of the method that a run's name begins with, "" if it names none.

    Args:
        name: The run's name, or its path.
    """
    last = name.lower().rpartition("/")[2]
    known = [one for one in METHODS if last.startswith(one)]
    return METHODS[max(known, key=len)] if known else ""


def stream_dash(name: str) -> str:
    """Return the dash of the stream that a run's name has as a word: solid unless it is flow."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((STREAM_DASHES[word] for word in words if word in STREAM_DASHES), DASHES[0])


def colors_for(
    names: Sequence[str], colors: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    """Return color and dash of each name, no two of them equal.

    The color is that of `colors`, else of the name's method (`METHODS`), else the palette's next
    free one. The dash is that of the stream; if another name looks the same, the next free dash.

    Args:
        names: In the order of the palette.
        colors: Name -> color.
    """
    given = dict(colors or {})
    known = {name: given.get(name) or method_color(name) for name in dict.fromkeys(names)}
    free = [one for one in PALETTE if one not in known.values()] or list(PALETTE)
    if any(known.values()):  # next to methods, the color of an absent one comes last
        free.sort(key=lambda one: one in METHODS.values())
    fresh = [name for name, color in known.items() if not color]
    known |= {name: free[place % len(free)] for place, name in enumerate(fresh)}
    wanted = {name: (color, stream_dash(name)) for name, color in known.items()}
    kept = dict(zip(reversed(wanted.values()), reversed(wanted), strict=True))  # look -> first name
    spare = {
        name: [(color, dash) for dash in DASHES]
        + [(one, dash) for dash in DASHES for one in PALETTE]
        for name, color in known.items()
        if kept[wanted[name]] != name
    }
    taken = set(wanted.values())
    for name, looks in spare.items():
        wanted[name] = next((look for look in looks if look not in taken), wanted[name])
        taken.add(wanted[name])
    return wanted


def swatch(look: tuple[str, str]) -> Html:
    """Draw a small square before a run's name, in its color; a dashed line's square is hollow."""
    color, dash = look
    border = {"dot": "dotted", "dashdot": "dashed"}.get(dash, "solid")
    filled = f";background-color:{color}" if dash == DASHES[0] else ""
    return Html(
        '<span style="display:inline-block;box-sizing:border-box;width:10px;height:10px;'
        f'margin:0 6px 0 0;border:2px {border} {color}{filled}"></span>'
    )


def dress(figure: Figure, x: str, y: str, title: str, legend: Sequence[str], right: int) -> None:
    """Set titles, template and a top margin that holds title and legend without overlap.

    The figure is as wide as its place, see plots.js.

    Args:
        x, y: Names of the axes.
        legend: The names in the legend; empty: no legend.
        right: Pixels right of the plot.
    """
    configure()
    lines, room = textwrap.wrap(title, TITLE_LETTERS), NARROW - 64 - right - 20
    # pixels; when wrapped, plotly makes them equally wide
    entries = [len(name) * 7.6 + 50 for name in legend]
    rows = (
        math.ceil(len(entries) / max(1, room // max(entries)))
        if sum(entries) > room
        else bool(entries)
    )
    top = 18 + 24 * len(lines) + 23 * rows
    figure.update_layout(
        template=TEMPLATE,
        autosize=True,
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
    """Write lines of text at a place of the figure.

    Args:
        place: x and y in shares of its plot.
        *lines: Plain text.
        size: Pixels of the letters.
        **anchors: Further settings of plotly's annotation, such as xanchor.
    """
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
