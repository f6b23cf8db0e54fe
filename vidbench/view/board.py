"""The board of runs as figures and tables: curves with buttons that need no kernel, what differs in
the recipes, and one offline page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidbench.evaluate.board import (
    LOGS,
    TITLES,
    Board,
    Curve,
    RunState,
    charted,
    curves,
    recipe_differences,
)
from vidbench.evaluate.results import Number, main_metric, numbers_of
from vidbench.evaluate.streams import STREAMS, alike_but_stream
from vidbench.view.html import Section, write_page
from vidbench.view.looks import INK, NARROW, RULE, TEMPLATE, Html, colors_for, configure, plain
from vidbench.view.parallel import parallel
from vidbench.view.recipes import differing
from vidbench.view.results import results_tables, stream_tables
from vidbench.view.runs import rows, said

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SMOOTHINGS = (0.0, 0.3, 0.6, 0.9, 0.97, 0.99)  # of the slider that needs no kernel
SCALES = {  # which axes are logarithmic: x, y
    "linear": (False, False),
    "log y": (False, True),
    "log x": (True, False),
    "log x and y": (True, True),
}
UNITS = (("h", 3600.0, 3 * 3600.0), ("min", 60.0, 180.0), ("s", 1.0, 0.0))  # unit, seconds, from
TALL, GAP, BELOW, BUTTONS = 176, 88, 54, 84  # pixels: a chart, between rows, below all, controls
RAW = 0.2  # opacity of a line as it was logged, behind the smoothed one


class Look(NamedTuple):
    """How curves are drawn: over which axis, how smooth, on which scales."""

    axis: str = "epoch"
    smoothing: float = 0.0
    scale: str = "linear"


DEFAULT = Look()

# ----------------------------------------------------------------------------------------- curves


def figure(
    states: Sequence[RunState], look: Look = DEFAULT, *, controls: bool = True
) -> Figure | None:
    """Draw every column of the runs' logs as a chart, in one figure; None if nothing is logged yet.

    Each run has a line as it was logged, faint, and the smoothed one over it; they coincide without
    smoothing. A click on a run in the legend switches it off and on in all charts.

    Args:
        controls: With legend, buttons and slider of plotly, which need no kernel.
    """
    from plotly.subplots import make_subplots

    configure()
    lines = curves(states)
    if not lines:
        return None
    charts = charted(states)
    wide, rows = 1 + (len(charts) > 1), math.ceil(len(charts) / 2)
    tall = rows * TALL + (rows - 1) * GAP
    made = make_subplots(
        rows,
        wide,
        specs=[
            [{} if r * wide + c < len(charts) else None for c in range(wide)] for r in range(rows)
        ],
        subplot_titles=[chart_title(*chart) for chart in charts],
        horizontal_spacing=0.15,
        vertical_spacing=GAP / tall if rows > 1 else 0,
    )
    names, unit = list(dict.fromkeys(line.run for line in lines)), time_unit(lines)
    looks = colors_for([one.name for one in states])
    legended: set[str] = set()
    for line in lines:
        place = charts.index((line.log, line.column))
        cell = {"row": place // wide + 1, "col": place % wide + 1}
        for trace in _pair(line, looks[line.run], look, unit):
            made.add_trace(trace, **cell)
        made.data[-1].showlegend = line.run not in legended
        legended.add(line.run)
    legend = 24 * math.ceil(sum(8 * len(name) + 56 for name in names) / (NARROW - 90))
    top = (BUTTONS + legend if controls else 0) + 34
    made.update_layout(
        template=TEMPLATE,
        autosize=True,
        height=tall + top + BELOW,
        margin=dict(l=62, r=16, t=top, b=BELOW),
        showlegend=controls,
        legend=dict(y=1 + 30 / tall, groupclick="togglegroup"),
        hovermode="x",
        uirevision="board",  # a zoom stays when points come
    )
    made.update_annotations(font=dict(size=14, color=INK), yshift=2)
    made.update_layout(axis_layout(charts, look, unit, lines))
    if controls:
        _add_controls(made, lines, charts, look, (top - 34, tall))
    return made


def chart_title(log: str, column: str) -> str:
    """Name a chart: the column in words, and what its log measures on.

    Args:
        log: metrics or monitor.
        column: A column of the log.
    """
    return plain(f"{TITLES.get(column, column)} ({LOGS[log]})")


def _pair(line: Curve, style: tuple[str, str], look: Look, unit: tuple[str, float]) -> list[Any]:
    """The line as it was logged, and the smoothed one."""
    import plotly.graph_objects as go

    color, dash = style
    x, raw, smooth = values(line, look, unit)
    common = {"name": plain(line.run), "legendgroup": line.run, "x": x}
    mode = "lines+markers" if len(x) < 3 else "lines"  # a single point is no line
    faint = go.Scatter(
        **common,
        y=raw,
        mode=mode,
        line=dict(color=color, width=1.2),
        opacity=RAW,
        hoverinfo="skip",
        showlegend=False,
    )
    main = go.Scatter(
        **common,
        y=smooth,
        customdata=raw,
        mode=mode,
        line=dict(color=color, width=2, dash=dash),
        marker=dict(color=color, size=6),
        hovertemplate=hover(look.smoothing),
    )
    return [faint, main]


def values(
    line: Curve, look: Look, unit: tuple[str, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y as logged and y smoothed of a curve [n], five digits each.

    Args:
        unit: Name and seconds of the unit of time.
    """
    return _x(line, look.axis, unit), _digits(line.y), _digits(line.smooth(look.smoothing))


def _x(line: Curve, axis: str, unit: tuple[str, float]) -> NDArray[np.float64]:
    places = line.x[axis]
    return _digits(places / unit[1]) if axis == "seconds" else places


def _digits(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Five digits: more of them are not seen, and make a page larger."""
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.floor(np.log10(np.abs(numbers)))
    scale = 10.0 ** (4 - np.where(np.isfinite(power), power, 0))
    return np.round(numbers * scale) / scale


def hover(smoothing: float) -> str:
    """Write the label at the pointer: the value and, if it is smoothed, the logged one."""
    return "%{y:.4g}" + " (logged %{customdata:.4g})" * bool(smoothing)


def time_unit(lines: Iterable[Curve]) -> tuple[str, float]:
    """Choose the unit of the time axis, and how many seconds it has."""
    longest = max(
        (np.nanmax(x, initial=0) for line in lines if len(x := line.x["seconds"])), default=0
    )
    return next((name, seconds) for name, seconds, least in UNITS if longest >= least)


def axis_layout(
    charts: Sequence[tuple[str, str]], look: Look, unit: tuple[str, float], lines: Sequence[Curve]
) -> dict[str, Any]:
    """Return titles and scales of all axes for plotly's `update_layout`: xaxis2_type -> "log".

    Args:
        charts: Log and column of each.
        unit: Name and seconds of the unit of time.
        lines: The curves; a y axis is logarithmic only if all values of its chart are positive.
    """
    made: dict[str, Any] = {}
    named = x_name(look.axis, unit)
    log_x, log_y = SCALES[look.scale]
    for number, chart in enumerate(charts):
        key = str(number + 1) if number else ""
        made[f"xaxis{key}_title_text"] = named
        made[f"yaxis{key}_title_text"] = y_name(chart[1], look.smoothing)
        made[f"xaxis{key}_type"] = "log" if log_x else "linear"
        made[f"yaxis{key}_type"] = "log" if log_y and _positive(lines, chart) else "linear"
        made[f"yaxis{key}_exponentformat"] = "power"
    return made


def x_name(axis: str, unit: tuple[str, float]) -> str:
    """Name the x axis.

    Args:
        axis: step, epoch or seconds.
        unit: Name and seconds of the unit of time.
    """
    return f"training time ({unit[0]})" if axis == "seconds" else axis


def y_name(column: str, smoothing: float) -> str:
    """Name a y axis, with the smoothing if there is any.

    Args:
        column: A column of a log.
        smoothing: Weight of the exponential moving average; 0: none.
    """
    return plain(TITLES.get(column, column)) + (f", EMA {smoothing:g}" if smoothing else "")


def _positive(lines: Sequence[Curve], chart: tuple[str, str]) -> bool:
    """Whether a chart's values can be on a logarithmic axis."""
    return all(np.nanmin(line.y) > 0 for line in lines if (line.log, line.column) == chart)


def _add_controls(
    made: Figure,
    lines: Sequence[Curve],
    charts: Sequence[tuple[str, str]],
    look: Look,
    room: tuple[int, int],
) -> None:
    """Add plotly's own controls: x, scales, smoothing. They only exchange data that the figure has."""
    unit, top = time_unit(lines), 1 + (room[0] + 26) / room[1]
    looks = dict(bgcolor="white", bordercolor="#8A929C", font=dict(size=12, color=INK))
    place = dict(y=top, yanchor="top", xanchor="left", pad=dict(t=0, b=0))
    menus = [
        dict(
            **looks,
            **place,
            type="buttons",
            direction="right",
            x=0,
            active=list(X_WORDS).index(look.axis),
            showactive=True,
            buttons=[_x_button(lines, charts, axis, unit) for axis in X_WORDS],
        ),
        dict(
            **looks,
            **place,
            x=0.36,
            active=list(SCALES).index(look.scale),
            buttons=[
                _scale_button(charts, look._replace(scale=scale), unit, lines) for scale in SCALES
            ],
        ),
    ]
    levels = sorted({*SMOOTHINGS, look.smoothing})
    slider = dict(
        **looks | {"bgcolor": RULE},
        **place | {"pad": dict(t=0, b=0, l=0, r=0)},
        x=0.64,
        len=0.36,
        active=levels.index(look.smoothing),
        tickcolor="#8A929C",
        currentvalue=dict(prefix="smoothing (EMA) ", font=dict(size=12, color=INK)),
        steps=[_smoothing_step(lines, charts, level) for level in levels],
    )
    made.update_layout(updatemenus=menus, sliders=[slider])


X_WORDS = {"step": "step", "epoch": "epoch", "seconds": "time"}


def _x_button(
    lines: Sequence[Curve], charts: Sequence[Any], axis: str, unit: tuple[str, float]
) -> dict[str, Any]:
    places = [_plain_list(_x(line, axis, unit)) for line in lines for _ in range(2)]
    named = {f"{key}.title.text": x_name(axis, unit) for key in _keys("xaxis", charts)}
    return dict(label=X_WORDS[axis], method="update", args=[{"x": places}, named])


def _scale_button(
    charts: Sequence[Any], look: Look, unit: tuple[str, float], lines: Sequence[Curve]
) -> dict[str, Any]:
    types = {
        key.replace("_", "."): value
        for key, value in axis_layout(charts, look, unit, lines).items()
        if key.endswith("_type")
    }
    auto = {key.replace(".type", ".autorange"): True for key in types}
    return dict(label=look.scale, method="relayout", args=[types | auto])


def _smoothing_step(
    lines: Sequence[Curve], charts: Sequence[tuple[str, str]], level: float
) -> dict[str, Any]:
    smooth = [_plain_list(_digits(line.smooth(level))) for line in lines]
    named = {
        f"{key}.title.text": y_name(column, level)
        for key, (_, column) in zip(_keys("yaxis", charts), charts, strict=True)
    }
    second = list(range(1, 2 * len(lines), 2))
    style = {"y": smooth, "hovertemplate": hover(level)}
    return dict(label=f"{level:g}", method="update", args=[style, named, second])


def _keys(axis: str, charts: Sequence[Any]) -> list[str]:
    return [f"{axis}{number + 1 if number else ''}" for number in range(len(charts))]


def _plain_list(numbers: NDArray[np.float64]) -> list[float | None]:
    """Numbers as JSON has them: plotly decodes no arrays in the arguments of buttons."""
    return [None if math.isnan(one) else one for one in numbers.tolist()]


# ---------------------------------------------------------------------------------------- recipes


def recipes(states: Sequence[RunState]) -> Html:
    """Draw the fields in which the recipes differ: a row a run, or a row a field if there are many."""
    found = recipe_differences(states)
    if not found:
        known = sum(bool(one.recipe) for one in states)
        return said(
            "The recipes are equal." if known > 1 else "A comparison needs at least two recipes."
        )
    known_runs = list(next(iter(found.values())))
    lines = [
        {"run": run, **{name: _word(values[run]) for name, values in found.items()}}
        for run in known_runs
    ]
    note = f"Fields that differ: {len(found)}. The others are equal in all runs."
    return differing(lines, note)


def _word(value: Any) -> str | None:
    if value in ("", None):
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


def compared(states: Sequence[RunState], numbers: Sequence[Number]) -> Figure | Html:
    """Draw all runs as parallel coordinates: what differs in their recipes, and what came out.

    Args:
        numbers: Numbers of the same runs, by the same names.
    """
    fields: Mapping[str, Mapping[str, Any]] = recipe_differences(states)
    if len([one for one in states if one.recipe]) < 2:
        return said("Parallel coordinates need two runs.")
    return parallel([one.name for one in states if one.recipe], fields, outcomes(states, numbers))


def outcomes(
    states: Sequence[RunState], numbers: Sequence[Number]
) -> dict[str, dict[str, float | None]]:
    """Return the runs' results: the last loss, and of each task the main metric in percent.

    If a task has several protocols, the one that most runs share counts; RGB and flow count as one.

    Args:
        numbers: Numbers of these runs.

    Returns:
        Result -> run -> value, None if unknown.
    """
    found: dict[str, dict[str, float | None]] = {
        "last loss": {one.name: one.last("loss") for one in states}
    }
    single = [number for number in numbers if number.stream in STREAMS]
    groups = [group for _, group in alike_but_stream(single)]
    groups.sort(key=lambda group: -len({number.run for number in group}))
    for group in groups:
        metric = main_metric(group)
        name = f"{group[0].task} {metric} (%)"
        values = {n.run: 100 * n.value for n in group if n.metric == metric}
        found.setdefault(name, dict(values))
    return {name: each for name, each in found.items() if any(v is not None for v in each.values())}


# ------------------------------------------------------------------------------------------- page


def write_board(path: str | Path, board: Board, title: str = "Board of runs") -> Path:
    """Write one offline page of all runs: states, curves, recipes, numbers.

    Its buttons need no kernel.

    Args:
        path: The page's file.
        title: The page's title.
    """
    began = time.perf_counter()
    states = board.look()
    numbers = numbers_of(board.results())
    curves_drawn = figure(states)
    parts: list[Any] = [said("Nothing is logged yet.")] if curves_drawn is None else []
    if curves_drawn is not None:
        words = (
            "Click a run in the legend to switch it off and on, double-click it to show only that run. The "
            "faint line is what was logged; the other one is its exponential moving average."
        )
        parts = [words, curves_drawn]
    took = time.perf_counter() - began
    sections = [
        Section(
            "Runs",
            [
                rows(states),
                said(f"Read and drawn in {took:.1f} s, {time.strftime('%Y-%m-%d %H:%M')}."),
            ],
        ),
        Section("Curves", parts),
        Section("What differs in the recipes", [recipes(states), compared(states, numbers)]),
        Section("Numbers, each with its protocol", [results_tables(numbers)]),
        Section("Streams side by side", [stream_tables(numbers)]),
    ]
    return write_page(path, title, sections)
