"""Two runs compared on the same videos: tables, a figure of classes, gained and lost clips, a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.view.figures import Bar, whiskers
from vidbench.view.html import Section, table, write_page
from vidbench.view.looks import (
    FONT,
    RIGHT,
    SOFT,
    WRONG,
    Html,
    colors_for,
    escaped,
    swatch,
)
from vidbench.view.widgets.behind import Behind, Cell
from vidbench.view.widgets.videos import Videos

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.evaluate.outcomes import Outcome
    from vidbench.evaluate.paired import Difference, Paired

ENDS = 20  # classes at each end of the figure
CLASSES_NOTE = (
    "A - B with 95 % paired bootstrap intervals over source videos; a class of one source video has "
    "none. Of {count} classes, expect about {false} to exclude 0 by chance."
)
HINT = "Click a class, or choose here, to see what it gained and lost. The frame judges A."
TITLE = "Comparison"  # with which the title of the page begins
SEED_NOTE = (
    "Paired bootstrap over source videos, 95 %. It says nothing about another training seed."
)


def headline(pair: Paired) -> Html:
    """Draw the sentence that says what differs, with a colored square before each run."""
    looks = colors_for(list(pair.names))
    squares = " · ".join(
        f'<span style="white-space:nowrap">{swatch(looks[name])}{letter}: {escaped(name)}</span>'
        for letter, name in zip("AB", pair.names, strict=True)
    )
    return Html(
        f'<div style="font-family:{FONT};font-size:14px"><div style="margin:0 0 4px">{squares}</div>'
        f"<b>{escaped(pair.sentence)}</b></div>"
    )


def metrics_table(pair: Paired) -> Html:
    """Draw what both runs reach in each metric, and A - B with its interval."""
    names = {"A": pair.names[0], "B": pair.names[1]}
    return table(
        [_line("metric", one) for one in pair.metrics],
        formats=_formats(),
        note=f"{pair.one.task}, {len(pair.one.videos)} videos. A is {names['A']}, B is "
        f"{names['B']}. {SEED_NOTE}",
    )


def classes_table(pair: Paired) -> Html:
    """Draw each class's shares of A and B and their difference, the largest gain first."""
    count = len(pair.classes)
    known = sum(one.significant is not None for one in pair.classes)
    note = CLASSES_NOTE.format(count=count, false=f"{0.05 * known:.1f}")
    return table([_line("class", one) for one in pair.classes], formats=_formats(), note=note)


def classes_figure(pair: Paired) -> Figure:
    """Draw A - B of each class with its interval; of many classes both ends."""
    shown = _shown(pair)
    rows = [
        Bar(one.name, "A - B", one.gap, *((one.low, one.high) if one.low is not None else ()))
        for one in shown
    ]
    title = f"{pair.names[0]} - {pair.names[1]}, {pair.metric} of each class"
    left_out = len(pair.classes) - len(shown)
    axis = (
        f"A - B in points{f'; {left_out} classes in the middle are not shown' if left_out else ''}"
    )
    figure = whiskers(rows, axis, title).update_layout(showlegend=False)
    figure.data[0].marker.color = [
        RIGHT if one.gap > 0 else WRONG if one.gap < 0 else SOFT for one in shown
    ]
    return figure.update_traces(error_x_color=SOFT)


def behind(pair: Paired, videos: Videos | None = None, sentence: str = "") -> Behind:
    """Put clips behind a comparison: gained and lost, all of them and class by class.

    Args:
        videos: How the clips are made; by default from the files that the outcome names.
        sentence: What the hint begins with.
    """
    moved, said = pair.moved(), _said(pair)
    right = pair.one.hits[pair.metric]
    a, b = pair.names
    words = {
        "gained": f"gained: {a} is right, {b} is wrong",
        "lost": f"lost: {a} is wrong, {b} is right",
        "both wrong": "both are wrong",
        "both right": "both are right",
    }
    cells = {
        name: _cell(f"{text}: {len(moved[name])} videos", moved[name], said, right)
        for name, text in words.items()
    }
    for place, one in enumerate(_shown(pair)):
        of_class = pair.one.videos.label == pair.one.videos.classes.index(one.name)
        here = {name: rows[of_class[rows]] for name, rows in moved.items()}
        rows = np.concatenate([here["gained"], here["lost"], here["both wrong"]])
        text = f"{one.name}: {len(here['gained'])} gained, {len(here['lost'])} lost of {one.videos}"
        cells[f"class {one.name}"] = _cell(text, rows, said, right, ((0, place),))
    return Behind(
        cells,
        videos or Videos.of(pair.one.videos),
        figure=classes_figure(pair),
        hint=f"{sentence} {HINT}".strip(),
        examples=2,
    )


def sections(pairs: Sequence[Paired]) -> list[Section]:
    """Make the sections of a page: each measurement with its numbers, classes and clips."""
    made = []
    for pair in pairs:
        parts: list[Any] = [headline(pair), metrics_table(pair)]
        parts += behind(pair).still().parts
        parts += [classes_table(pair), _switches(pair)]
        made.append(Section(heading(pair, pairs), parts))
    return made


def write(path: str | Path, pairs: Sequence[Paired]) -> Path:
    """Write a comparison as one offline page, whole or not at all.

    Args:
        path: The page's file.
        pairs: The measurements of both runs.

    Raises:
        ValueError: There are no measurements.
        OSError: The file cannot be written.
    """
    if not pairs:
        raise ValueError("compare: the page needs at least one measurement; got none.")
    return write_page(path, f"{TITLE} of {' and '.join(pairs[0].names)}", sections(pairs))


def heading(pair: Paired, among: Sequence[Paired]) -> str:
    """Name a measurement: its task and, if others are of the same task, the switches that differ.

    Args:
        among: All measurements of the page.
    """
    others = [one for one in among if one.one.task == pair.one.task and one is not pair]
    held = pair.one.protocol
    apart = [name for name in held if any(held[name] != o.one.protocol.get(name) for o in others)]
    words = ", ".join(f"{name} {held[name]}" for name in apart)
    return f"{pair.one.task}{f' ({words})' if words else ''}"


def _switches(pair: Paired) -> Html:
    """How both were measured, and what of the runs themselves differs."""
    held = {name: (value, value) for name, value in pair.one.protocol.items()} | dict(pair.own)
    rows = [{"switch": name, "A": str(a), "B": str(b)} for name, (a, b) in held.items()]
    return table(rows, note="How it was measured. Only switches of the runs themselves may differ.")


def _line(what: str, one: Difference) -> dict[str, Any]:
    ends = () if one.low is None or one.high is None else (one.low, one.high)
    scaled = tuple(100 * part for part in (one.gap, *ends))
    verdict = {True: "significant", False: "not significant", None: "no interval"}
    return {
        what: one.name,
        "videos": one.videos,
        "A": one.one,
        "B": one.other,
        "A - B (points)": scaled if ends else scaled[0],
        "": verdict[one.significant],
    }


def _formats() -> Mapping[str, str]:
    return {"A": ".1%", "B": ".1%", "A - B (points)": "+.1f"}


def _shown(pair: Paired) -> Sequence[Difference]:
    """The classes that a figure has room for: all, or both ends."""
    classes = pair.classes
    return classes if len(classes) <= 2 * ENDS else [*classes[:ENDS], *classes[-ENDS:]]


def _said(pair: Paired) -> list[str]:
    """What both runs say of each video."""
    return [
        f"A: {one}; B: {other}"
        for one, other in zip(_predicted(pair.one), _predicted(pair.other), strict=True)
    ]


def _predicted(outcome: Outcome) -> list[str]:
    names = [*outcome.videos.classes, "unknown"]
    return [
        f"{names[number]} {score:.2f}"
        for number, score in zip(outcome.predicted, outcome.score, strict=True)
    ]


def _cell(
    words: str,
    rows: np.ndarray,
    said: Sequence[str],
    right: np.ndarray,
    places: tuple[tuple[int, ...], ...] = (),
) -> Cell:
    return Cell(
        words, rows, [said[row] for row in rows], [bool(right[row]) for row in rows], places
    )
