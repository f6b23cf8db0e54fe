"""A small line chart as SVG text, for pictures that need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vidbench.view.looks import FONT, RULE, SOFT

WIDE, TALL = 368, 190  # pixels of a chart, two in a row of a notebook
DASHES = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}
BOX = (52, 8, WIDE - 10, TALL - 24)  # left, top, right and bottom of the plot


def chart(
    lines: Mapping[str, tuple[Sequence, Sequence]], looks: Mapping[str, tuple[str, str]]
) -> str:
    """Draw a small line chart as SVG text.

    Args: lines: name -> (xs, ys); NaN leaves a gap. looks: name -> (color, dash).
    """
    xs = [float(x) for one, _ in lines.values() for x in one]
    ys = [float(y) for _, one in lines.values() for y in one if math.isfinite(y)]
    ends = _ends(xs), _ends(ys)
    drawn = [
        _stroke([_place(point, ends) for point in piece], *looks[name])
        for name, (epochs, values) in lines.items()
        for piece in _pieces(epochs, values)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{TALL}" '
        f'font-family="{FONT}" '
        f'font-size="11" fill="{SOFT}"><rect width="{WIDE}" height="{TALL}" fill="#FFFFFF"/>'
        f"{_rules()}{''.join(drawn)}{_words(*ends)}</svg>"
    )


def _place(point: tuple[float, float], ends: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Where a point is drawn, in pixels."""
    (x, y), ((left, right), (low, high)) = point, ends
    across = BOX[0] + (x - left) / (right - left) * (BOX[2] - BOX[0])
    return f"{across:.1f}", f"{BOX[3] - (y - low) / (high - low) * (BOX[3] - BOX[1]):.1f}"


def _stroke(points: Sequence[tuple[str, str]], color: str, dash: str) -> str:
    """A line through points, or a dot if there is only one."""
    if len(points) == 1:
        return f'<circle cx="{points[0][0]}" cy="{points[0][1]}" r="2.4" fill="{color}"/>'
    return (
        f'<polyline points="{" ".join(map(",".join, points))}" fill="none" stroke="{color}" '
        f'stroke-width="1.8" stroke-dasharray="{DASHES[dash]}"/>'
    )


def _rules() -> str:
    """Lines at the top, the middle and the bottom of the plot."""
    return "".join(
        f'<line x1="{BOX[0]}" x2="{BOX[2]}" y1="{y}" y2="{y}" stroke="{RULE}"/>'
        for y in (BOX[1], (BOX[1] + BOX[3]) / 2, BOX[3])
    )


def _words(across: tuple[float, float], up: tuple[float, float]) -> str:
    """The numbers at the ends of both axes and in the middle of the upright one."""
    (left, right), (low, high) = across, up
    words = [
        (BOX[0] - 6, BOX[1] + 4, high, "end"),
        (BOX[0] - 6, (BOX[1] + BOX[3]) / 2 + 4, (low + high) / 2, "end"),
        (BOX[0] - 6, BOX[3] + 4, low, "end"),
        (BOX[0], TALL - 6, left, "start"),
        (BOX[2], TALL - 6, right, "end"),
    ]
    return "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_short(value)}</text>'
        for x, y, value, anchor in words
    )


def _short(value: float) -> str:
    """Three digits, in as many letters as fit next to a chart."""
    text = f"{value:.3g}"
    if len(text.lstrip("-")) <= 7:
        return text
    digits, power = f"{value:.2e}".split("e")
    return f"{digits}e{int(power)}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _pieces(xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
    """Runs of points between the gaps."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]
