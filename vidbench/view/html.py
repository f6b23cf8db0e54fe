"""Tables, and one offline HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.system.files import write_text
from vidbench.view.looks import CSS, FAINT, FONT, LINE, Html, escaped
from vidbench.view.viewer import with_viewer

FIGURE_SPACE = "\u2007"  # as wide as a digit
PAD = "padding:5px 12px 5px 0"


@dataclass(frozen=True)
class Section:
    """One section of a page; parts are plain text (a paragraph), `Html`, or plotly figures."""

    heading: str
    parts: Sequence[Any]


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    formats: Mapping[str, str] | None = None,
    best: Mapping[str, str] | None = None,
    title: str = "",
    note: str = "",
) -> Html:
    """Draw a table of numbers with aligned decimals.

    Args:
        rows: Column -> value: text, `Html`, a number, (value, low, high), or None for a dash.
        columns: Which columns, in this order; default: all of the first row's.
        formats: Column -> format, such as ".1f", ".1%".
        best: Column -> "max" or "min", which is set in bold.
        title: A line above the table.
        note: A line below it, such as how the numbers were measured.

    Raises:
        ValueError: no rows, an unknown column, or a `best` that is neither.
    """
    if not rows:
        raise ValueError("table: wanted at least one row, got none")
    columns, formats, best = list(columns or rows[0]), formats or {}, best or {}
    known = {name for row in rows for name in row}
    unknown = {*columns, *formats, *best} - known
    if unknown or set(best.values()) - {"max", "min"}:
        raise ValueError(
            f"table: wanted columns among {sorted(known)} and best 'max' or 'min'; got "
            f"{unknown or best}"
        )
    body = [[row.get(name) for row in rows] for name in columns]
    cells = [
        _cells(values, formats.get(name), best.get(name))
        for name, values in zip(columns, body, strict=True)
    ]
    sides = [_side(values) for values in body]
    head = _row("th", map(escaped, columns), sides, "font-weight:600;border-bottom:1px solid")
    rule = f"border-bottom:1px solid {LINE}"
    lines = "".join(_row("td", row, sides, rule) for row in zip(*cells, strict=True))
    caption = _line(title, "font-size:15px;font-weight:600;margin:0 0 4px")
    foot = _line(note, f"font-size:12px;color:{FAINT};margin:6px 0 0")
    return Html(
        f'<div style="font-family:{FONT};overflow-x:auto">{caption}<table '
        'style="border-collapse:collapse;font-size:14px;margin:0;border-top:1px solid">'
        f"<thead>{head}</thead><tbody>{lines}</tbody></table>{foot}</div>"
    )


def _side(values: Sequence[Any]) -> str:
    """The CSS of a column: numbers to the right, text to the left; both break if they have no room."""
    numbers = any(_number(value) is not None for value in values)
    return f"text-align:{'right' if numbers else 'left'};white-space:normal"


def _row(tag: str, cells: Iterable[str], sides: Sequence[str], looks: str) -> str:
    """One row of a table; tag: "th" or "td"."""
    made = (
        f'<{tag} style="{PAD};{side};{looks}">{cell}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    # JupyterLab shades every second row
    return f'<tr style="background-color:transparent">{"".join(made)}</tr>'


def _line(text: str, looks: str) -> str:
    return f'<div style="{looks}">{escaped(text)}</div>' if text else ""


def _number(value: Any) -> float | None:
    """The number of a cell: itself, or the first of (value, low, high); None for text and None."""
    value = value[0] if isinstance(value, tuple) and len(value) == 3 else value
    return (
        float(value)
        if isinstance(value, int | float | np.number) and not isinstance(value, bool)
        else None
    )


def _cells(values: Sequence[Any], spec: str | None, best: str | None) -> list[str]:
    """The HTML of one column's cells; figure spaces before the intervals let decimals meet."""
    firsts = [v[0] if isinstance(v, tuple) and len(v) == 3 else v for v in values]
    numbers = [_number(v) for v in values]
    whole = all(
        isinstance(f, int | np.integer)
        for f, n in zip(firsts, numbers, strict=True)
        if n is not None
    )
    spec = spec or ("d" if whole else ".1f")
    real = [n for n in numbers if n is not None and math.isfinite(n)]
    top = {"max": max, "min": min}[best](real) if best and real else None
    ends = [
        [format(end, spec) for end in v[1:]] if v is not f else []
        for v, f in zip(values, firsts, strict=True)
    ]
    widest = max((end for pair in ends for end in pair), key=len, default="")
    cells = []
    for first, number, pair in zip(firsts, numbers, ends, strict=True):
        text = "–" if first is None else escaped(first if number is None else format(first, spec))
        text = first if isinstance(first, Html) else text
        text = f"<b>{text}</b>" if top is not None and number == top else text
        if widest:  # a cell without an interval keeps its room, hidden
            low, high = pair or (widest, widest)
            interval = f"[{low}, {high}]".rjust(2 * len(widest) + 4, FIGURE_SPACE)
            shown = f"color:{FAINT}" if pair else "visibility:hidden"
            text += f' <span style="{shown};white-space:nowrap">{escaped(interval)}</span>'
        cells.append(text)
    return cells


# ------------------------------------------------------------------------------------------ pages

# a browser loads nothing but what the file contains
POLICY = "default-src 'none'; img-src data: blob:; media-src data:; " + "; ".join(
    f"{kind}-src 'unsafe-inline'" for kind in ("style", "script")
)
# kinds of traces for which plotly compiles code in the page; it still loads nothing
COMPILED = {"parcoords", "parcats", "scattergl", "splom", "scatterpolargl"}


def page(title: str, sections: Sequence[Section]) -> str:
    """Return one self-contained HTML file as text.

    It opens without a network; plotly's script is inside once, if needed.

    Args:
        title: The page's title.
        sections: Headings with their parts, at least one.

    Raises:
        TypeError: a part is not text, `Html` or a plotly figure.
        ValueError: there are no sections.
    """
    from plotly.basedatatypes import BaseFigure
    from plotly.offline import get_plotlyjs

    if not sections:
        raise ValueError("page: wanted at least one Section(heading, parts), got none")
    body, drawn, policy = [f"<h1>{escaped(title)}</h1>"], 0, POLICY
    for section in sections:
        body.append(f"<section><h2>{escaped(section.heading)}</h2>")
        for part in section.parts:
            if isinstance(part, BaseFigure):
                drawn += 1
                if COMPILED & {trace.type for trace in part.data}:
                    policy = f"{POLICY} 'unsafe-eval'"
            body.append(_part(part, section.heading, drawn))
        body.append("</section>")
    script = f"<script>{get_plotlyjs()}</script>" if drawn else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta '
        f'charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" '
        'href="data:,">'
        f"<style>{CSS}</style>{script}</head><body><main>\n"
        + with_viewer("\n".join(body))
        + "\n</main></body></html>\n"
    )


def _part(part: Any, heading: str, number: int) -> str:
    """The HTML of a section's part; number: of the figure, if it is one."""
    from plotly.basedatatypes import BaseFigure

    if isinstance(part, Html):
        return f'<div class="piece">{part}</div>'
    if isinstance(part, str):
        return f"<p>{escaped(part)}</p>"
    if not isinstance(part, BaseFigure):
        raise TypeError(
            f"page: wanted text, Html or a plotly figure in {heading!r}, got {type(part)}"
        )
    chart = part.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{number}",
        config={"displaylogo": False, "displayModeBar": False},  # a page is read, not worked on
    )
    label = html.unescape(part.layout.title.text or heading).replace("<br>", " ")
    return f'<figure aria-label="{escaped(label)}">{chart}</figure>'


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write `page` to a file, whole or not at all; return the path.

    Args:
        path: The page's file.
        title, sections: See `page`, also for the errors.
    """
    write_text(path, page(title, sections))
    return Path(path)
