"""The colors of a map's points by any column: few words, many words, numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vidbench.view.looks import CLASS_COLORS, INK, PALETTE, plain
from vidbench.view.widgets.rows import CLASS, SIDE, SOURCE, VideoRows, natural
from vidbench.view.widgets.videos import SIDES

SHAPES = ("circle", "square", "diamond")
COLORS = len(CLASS_COLORS)
LISTED = COLORS * len(SHAPES)  # words that look different and are named in the legend
UNKNOWN = PALETTE[-1]  # of a video without a value, and of the words after the most frequent ones
# Numbers, low to high: darker to lighter, each with contrast 3 on white, none a list's color.
SCALE = ("#1D1148", "#5A2A8A", "#A3357F", "#D4587A")
LEVELS = 255  # of a scale; the last code is of videos without a number
FIXED = {"right": 2, "wrong": 1}  # words that have the same color in every map


class Hues(NamedTuple):
    """How points look.

    Args:
        codes: Side -> a color for each drawn point, as an index into `steps`.
        shapes: Side -> a shape for each, or one for all.
        steps: plotly's colorscale.
        most: The highest code.
        entries: Name, color and shape of each line of the legend.
        bar: Lowest and highest number of a scale, () without one.
        title: What the colors mean.
    """

    codes: dict[str, np.ndarray]
    shapes: dict[str, Any]
    steps: list
    most: int
    entries: list[tuple[str, str, str]]
    bar: tuple[float, float] | tuple[()]
    title: str


def standard(videos: VideoRows) -> str:
    """Return the column that colors a map at first.

    It is the class; without labels the source video, or the side if there is one source video or
    more than LISTED.
    """
    if CLASS in videos.names:
        return CLASS
    return SOURCE if 1 < len(np.unique(videos.column(SOURCE))) <= LISTED else SIDE


def choices(videos: VideoRows) -> list[str]:
    """List the columns that can color a map: all but the path."""
    return list(videos.names[1:])


def by_column(videos: VideoRows, name: str, order: Sequence[str] = ()) -> Hues:
    """Color points by a column: words by color and shape, numbers by a scale.

    A few whole numbers (counts) are colored like words.

    Args:
        name: The column's name.
        order: Words that come first, in this order.

    Raises:
        ValueError: The table has no such column.
    """
    values = videos.column(name)
    if values.dtype.kind != "f":
        return _by_word(videos, values, name, order)
    each = np.unique(values[~np.isnan(values)])
    if len(each) <= COLORS and (each == each.round()).all():  # a few counts are words
        words = np.array(["" if np.isnan(one) else f"{one:.0f}" for one in values])
        return _by_word(videos, words, name, [f"{one:.0f}" for one in each])
    return _by_number(videos, values, name)


def _by_word(videos: VideoRows, values: np.ndarray, name: str, order: Sequence[str]) -> Hues:
    """The words that look different: all of them, or the most frequent ones before "other"."""
    counts = Counter(values.tolist())
    empty = counts.pop("", 0)
    words = [one for one in order if one in counts]
    words += sorted(set(counts) - set(words), key=natural)
    often = [one for one, _ in counts.most_common()]
    rest = set(often[LISTED - 1 :] if len(often) > LISTED else ())
    words = [one for one in words if one not in rest]
    look = {one: FIXED.get(one, place) for place, one in enumerate(words)}
    index = np.array([look.get(one, LISTED) for one in values.tolist()])
    entries = [
        (one, CLASS_COLORS[place % COLORS], SHAPES[place // COLORS]) for one, place in look.items()
    ]
    if rest:
        entries.append((f"other ({len(rest)} more)", UNKNOWN, SHAPES[0]))
    if empty:
        entries.append(("no label" if name == CLASS else "no value", UNKNOWN, SHAPES[0]))
    codes = np.where(index < LISTED, index % COLORS, COLORS).astype(np.uint8)
    shape = np.where(index < LISTED, index // COLORS, 0)
    # one shape as a word is drawn faster than the same word for each point
    shapes = np.array(SHAPES)[shape] if shape.any() else np.array(SHAPES[0])
    steps = [
        [edge, color]
        for place, color in enumerate((*CLASS_COLORS, UNKNOWN))
        for edge in (place / (COLORS + 1), (place + 1) / (COLORS + 1))
    ]
    return Hues(_sides(videos, codes), _shaped(videos, shapes), steps, COLORS, entries, (), name)


def _by_number(videos: VideoRows, values: np.ndarray, name: str) -> Hues:
    """A scale from the lowest number to the highest."""
    empty = np.isnan(values)
    known = values[~empty]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    level = (np.nan_to_num(values) - low) / ((high - low) or 1.0) * (LEVELS - 1)
    codes = np.where(empty, LEVELS, level.clip(0, LEVELS - 1).round()).astype(np.uint8)
    end = (LEVELS - 0.5) / (LEVELS + 1)  # where the color of no number begins
    steps = [[end * place / (len(SCALE) - 1), color] for place, color in enumerate(SCALE)]
    steps += [[end, UNKNOWN], [1, UNKNOWN]]
    shapes = _shaped(videos, np.array(SHAPES[0]))
    entries = [("no value", UNKNOWN, SHAPES[0])] if empty.any() else []
    return Hues(_sides(videos, codes), shapes, steps, LEVELS, entries, (low, high), name)


def _sides(videos: VideoRows, values: np.ndarray) -> dict[str, np.ndarray]:
    """A column's values by side."""
    return dict(zip(SIDES, np.split(values, [len(videos.drawn[SIDES[0]])]), strict=True))


def _shaped(videos: VideoRows, shapes: np.ndarray) -> dict[str, Any]:
    """The shapes of each side's points; those of queries are open."""
    if not shapes.ndim:
        return {SIDES[0]: str(shapes), SIDES[1]: f"{shapes}-open"}
    first, second = _sides(videos, shapes).values()
    return {SIDES[0]: first.tolist(), SIDES[1]: [f"{one}-open" for one in second]}


def marked(hues: Hues, side: str) -> dict[str, Any]:
    """Return the properties of a side's markers that a column decides.

    Args:
        side: queries or gallery.

    Returns:
        Settings of a plotly marker: color, colorscale, cmin, cmax, symbol.
    """
    return dict(
        color=hues.codes[side],
        colorscale=hues.steps,
        cmin=-0.5,
        cmax=hues.most + 0.5,
        symbol=hues.shapes[side],
    )


def legend(hues: Hues) -> list[dict[str, Any]]:
    """Make the traces of the legend and the scale.

    Their number is always the same, so a map in a page can change without new traces.
    """
    lines: list[dict[str, Any]] = [
        dict(
            name=plain(name),
            visible=True,
            marker=dict(size=7, color=color, symbol=shape),
        )
        for name, color, shape in hues.entries
    ]
    lines += [dict(name="", visible=False)] * (LISTED + 2 - len(lines))
    low, high = hues.bar or (0.0, 1.0)
    ticks = dict(font=dict(size=12, color=INK))
    bar = dict(
        title=dict(text=plain(hues.title), **ticks),
        tickfont=ticks["font"],
        **dict(x=1.02, xanchor="left", y=0, yanchor="bottom", len=0.6, thickness=12, nticks=5),
    )
    scale = [[place / (len(SCALE) - 1), color] for place, color in enumerate(SCALE)]
    marker = dict(
        color=[low], colorscale=scale, cmin=low, cmax=max(high, low + 1e-9), showscale=True
    )
    shown = dict(
        name="", visible=bool(hues.bar), showlegend=False, marker=marker | dict(colorbar=bar)
    )
    return [*lines, shown]
