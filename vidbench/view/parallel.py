"""Runs as parallel coordinates: a line a run, an axis for each field that differs and each outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidbench.view.looks import FONT, INK, SOFT, colors_for, configure, plain, say

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TALL = 300  # pixels of the plot
MOST, OUTCOMES = 6, 3  # axes besides that of the runs at most, and outcomes among them
FEW = 8  # values of a numeric field that are each named on its axis
LETTERS = 20  # of a name on an axis
SHORT = 10  # letters of a line over an axis that need no break
NONE = "none"  # on an axis, where a run has no value
STEP_OF_LOG = 20.0  # a field whose largest value is so many times its least has a logarithmic axis


def parallel(
    runs: Sequence[str],
    fields: Mapping[str, Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """Draw runs as parallel coordinates, over the fields with the most values if there are many.

    A range drawn along an axis picks the lines that pass through it. An axis can be moved.

    Args:
        runs: Their names, which are the first axis.
        fields: Name of a field -> run -> value: a number, text, or None.
        outcomes: The same of what came out; these are the last axes.

    Raises:
        ValueError: Fewer than two runs.
    """
    import plotly.graph_objects as go

    if len(runs) < 2:
        raise ValueError(f"parallel: wanted at least two runs, got {list(runs) or 'none'}")
    configure()
    colors = [color for color, _ in colors_for(list(runs)).values()]
    results = dict(list(outcomes.items())[:OUTCOMES])
    kept = _most_different(fields, MOST - len(results))
    columns = {
        "run": {run: run for run in runs},
        **{name: fields[name] for name in kept},
        **results,
    }
    axes = [_axis(name, [values.get(run) for run in runs]) for name, values in columns.items()]
    last = len(runs) - 1
    figure = go.Figure(
        go.Parcoords(
            line=dict(
                color=list(range(len(runs))),
                colorscale=[[place / last, color] for place, color in enumerate(colors)],
                cmin=0,
                cmax=last,
            ),
            dimensions=axes,
            labelfont=dict(size=12, color=INK),
            tickfont=dict(size=11, color=INK),
            rangefont=dict(size=1, color="rgba(0,0,0,0)"),  # the ticks say the ends
            unselected=dict(line=dict(color=SOFT, opacity=0.12)),
        )
    )
    figure.update_layout(
        font=dict(family=FONT, color=INK),
        paper_bgcolor="white",
        autosize=True,
        height=TALL + 120,
        margin=dict(l=16 + 6 * max(len(_cut(run)) for run in runs), r=60, t=76, b=44),
    )
    if len(kept) < len(fields):
        words = f"{len(kept)} of {len(fields)} fields that differ: those with the most values"
        below = dict(xanchor="left", yanchor="top", yshift=-14)
        say(figure, (0, 0), words, size=12, color=SOFT, **below)
    return figure


def _most_different(fields: Mapping[str, Mapping[str, Any]], most: int) -> list[str]:
    """The names of the fields with the most different values, in their own order."""
    order = sorted(fields, key=lambda name: -len({str(one) for one in fields[name].values()}))
    return [name for name in fields if name in order[:most]]


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An axis with its ticks: numeric if all known values are numbers, else a place for each value."""
    known = [value for value in values if value is not None]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    finite = numeric and all(math.isfinite(v) for v in known)
    made = _numeric(values) if known and finite and len(set(known)) > 1 else _named(values)
    return {"label": _label(name), **made}


def _named(values: Sequence[Any]) -> dict[str, Any]:
    words = [NONE if value in (None, "") else _word(value) for value in values]
    order = sorted(dict.fromkeys(words), key=lambda word: (word == NONE, words.index(word)))
    places = list(range(len(order)))
    return {
        "values": [order.index(word) for word in words],
        "tickvals": places,
        "ticktext": [plain(_cut(word)) for word in order],
        "range": [-0.4, len(order) - 0.6],
    }


def _numeric(values: Sequence[float | None]) -> dict[str, Any]:
    known = sorted({float(value) for value in values if value is not None})
    log = known[0] > 0 and known[-1] / known[0] >= STEP_OF_LOG
    place = {value: math.log10(value) if log else value for value in known}
    low, high = place[known[0]], place[known[-1]]
    missing = low - 0.15 * (high - low)  # below the axis' least value
    lacks = None in values
    ticks = _ticks(known, place)
    return {
        "values": [missing if value is None else place[float(value)] for value in values],
        "tickvals": [missing] * lacks + [at for at, _ in ticks],
        "ticktext": [NONE] * lacks + [text for _, text in ticks],
        "range": [missing if lacks else low, high],
    }


def _ticks(known: Sequence[float], place: Mapping[float, float]) -> list[tuple[float, str]]:
    """The values themselves if they are few, else even steps, with room for the words of each."""
    low, high = place[known[0]], place[known[-1]]
    if len(known) <= FEW:
        wanted = [(place[value], f"{value:.4g}") for value in known]
    else:
        log = place[known[-1]] != known[-1]
        steps = [low + share / 4 * (high - low) for share in range(5)]
        wanted = [(at, f"{10**at if log else at:.3g}") for at in steps]
    kept = [wanted[-1]]
    for tick in reversed(wanted[:-1]):
        if kept[-1][0] - tick[0] > 14 / TALL * (high - low):
            kept.append(tick)
    return kept[::-1]


def _label(name: str) -> str:
    """The end of a dotted name, or a name of words, in at most two short lines."""
    parts = name.split(".")[-2:]
    if len(parts) == 1:
        head, _, tail = name.partition(" ")
        parts = [head, tail]
    if len(parts[0]) > SHORT and not parts[1]:
        head, bar, tail = name.rpartition("_")
        parts = [head + bar, tail]
    return "<br>".join(plain(_cut(part)) for part in parts if part)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(word: str) -> str:
    return word if len(word) <= LETTERS else f"{word[:9]}…{word[-12:]}"
