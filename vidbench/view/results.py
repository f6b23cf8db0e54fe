"""Result tables, bars and the offline page of all runs, drawn from `evaluate.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.evaluate.published import METRICS, Published, comparable
from vidbench.evaluate.results import (
    BUDGET,
    Folder,
    Number,
    by_task,
    in_words,
    main_metric,
    mixed_commits,
    numbers_of,
    one_protocol,
)
from vidbench.evaluate.streams import SIDES, by_stream
from vidbench.view.figures import Bar, bars
from vidbench.view.html import Section, table, write_page
from vidbench.view.looks import FAINT, FONT, Html, escaped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATES = ("complete", "running", "waiting", "new", "interrupted", "died", "failed")  # in this order


def results_table(numbers: Sequence[Number], title: str = "") -> Html:
    """Draw a table of numbers under one protocol: runs by metrics in percent, with budgets.

    The main metric has intervals, and each metric if there are at most two: six intervals are too
    wide for a page. A sentence below names the commits of vidbench if several measured the rows.

    Args:
        numbers: At least one; if their protocols differ, `one_protocol` raises.
        title: A line above the table.
    """
    one_protocol(numbers)
    metrics = list(dict.fromkeys(number.metric for number in numbers))
    rows: dict[str, dict[str, Any]] = {}
    shown_with_interval = metrics if len(metrics) < 3 else [main_metric(numbers)]
    for number in numbers:
        row = rows.setdefault(
            number.run, {"run": number.run, **dict.fromkeys(metrics), **dict.fromkeys(BUDGET)}
        )
        row[number.metric] = _percent(number, number.metric in shown_with_interval)
        row.update(_shown(number.budget), state=number.state or None)
    best = {metric: "max" for metric in metrics if len(rows) > 1}
    states = ["state"] if any(number.state != "complete" for number in numbers) else []
    made = table(
        list(rows.values()),
        ["run", *metrics, *BUDGET, *states],
        best=best,
        title=title,
        formats=_formats(list(rows.values()), "batch", "iterations", "clips"),
    )
    warning = mixed_commits(numbers)
    return _joined([made, _small(warning)]) if warning else made


def _percent(number: Number, interval: bool) -> float | tuple[float, float, float]:
    if not interval or number.low is None or number.high is None:
        return 100.0 * number.value
    return 100.0 * number.value, 100.0 * number.low, 100.0 * number.high


def _shown(budget: Mapping[str, Any]) -> dict[str, Any]:
    """BUDGET with 20.0 epochs as 20, and None where one is missing."""
    held = {name: budget.get(name) for name in BUDGET}
    return {
        name: int(n) if isinstance(n, float) and n.is_integer() else n for name, n in held.items()
    }


def _formats(rows: Sequence[Mapping[str, Any]], *names: str) -> dict[str, str]:
    """Thousands with commas in the columns that hold whole numbers only."""
    return {
        name: ",d"
        for name in names
        if all(row[name] is None or isinstance(row[name], int) for row in rows)
    }


def results_tables(numbers: Iterable[Number]) -> Html:
    """Draw all tables, task by task, one for each protocol.

    What a task's protocols share is written once, below its tables."""
    pieces = []
    for task, shared, headed in by_task(numbers):
        pieces += [results_table(group, heading) for heading, group in headed]
        alike = f"All {len(headed)} tables of {task}" if len(headed) > 1 else f"The table of {task}"
        pieces += [_small(f"{alike}: {in_words(shared)}.")] if shared else []
    if not pieces:
        return _small(
            "No run below this folder has been evaluated yet. Train one with 10_coclr_alone and "
            "measure it with 42_retrieval, with the same runs_dir and data as here."
        )
    return _joined(
        [
            *pieces,
            _small(
                "Percent, with 95 % intervals (all of them are in the csv); a dash: not measured. "
                "Batch (global), iterations, clips and epochs: the training of a run before it was "
                "measured, with that of the runs it started from."
            ),
        ]
    )


def stream_tables(numbers: Iterable[Number]) -> Html:
    """Draw a table for each protocol that several streams share: a row a method, a column a stream.

    Percent of the main metric, with its interval."""
    pieces = []
    for heading, metric, rows in by_stream(numbers):
        sides = [side for side in SIDES if any(side in row for row in rows)]
        lines = [
            {
                "method": row["method"],
                **{side: _percent(row[side], True) if side in row else None for side in sides},
            }
            for row in rows
        ]
        best = dict.fromkeys(sides, "max") if len(lines) > 1 else {}
        pieces.append(table(lines, title=f"{heading}: {metric}, percent", best=best))
    if not pieces:
        return _small(
            "No two streams were measured under one protocol yet. 42_retrieval with a run of RGB as "
            "`run` and one of flow as `other` measures both, and both together."
        )
    return _joined(pieces)


def charts(numbers: Iterable[Number]) -> list[Figure]:
    """Draw bars of the main metric with intervals, a bar for each run.

    There is a figure for each protocol that several runs share."""
    figures = []
    for heading, group in [pair for _, _, pairs in by_task(numbers) for pair in pairs]:
        metric = main_metric(group)
        rows = [Bar(metric, n.run, n.value, n.low, n.high) for n in group if n.metric == metric]
        if len(rows) > 1:  # a bar by itself says what the table says
            gap = max(0.3, 1 - 0.14 * len(rows))  # and bars are as wide as those of other figures
            figures.append(
                bars(rows, f"{metric}, percent", heading, by_group=True).update_layout(
                    bargap=gap, scattergap=gap
                )
            )
    return figures


def inventory(folders: Sequence[Folder]) -> Html:
    """List every run with its state, how often it was evaluated, and its budget.

    Below the list are the numbers of runs by state, and why broken ones are broken.
    """
    broken = [folder for folder in folders if folder.problems]
    if not folders:
        return _small("There is no run below this folder yet.")
    rows = [
        {
            "run": f.run,
            "method": f.method or None,
            "state": f.state or None,
            "evaluated": len({n.protocol for n in f.numbers}),
            **_shown(f.budget),
        }
        for f in folders
        if f.method
    ]
    pieces = [table(rows, formats=_formats(rows, "iterations", "clips"))] if rows else []
    states = ["" if folder.problems else folder.state for folder in folders]
    pieces.append(_small(counted(states)))
    if broken:
        pieces.append(
            table([{"broken or incomplete": f.run, "what": "; ".join(f.problems)} for f in broken])
        )
    return _joined(pieces)


def counted(states: Sequence[str]) -> str:
    """Count runs by state in a sentence; a state that is empty or unreadable is a broken run."""
    named = ["broken or incomplete" if one in ("", "unreadable") else one for one in states]
    order = sorted(
        dict.fromkeys(named), key=lambda one: STATES.index(one) if one in STATES else len(STATES)
    )
    parts = [f"{named.count(one)} {one}" for one in order]
    return f"{len(named)} run folder{'s' * (len(named) != 1)}: {', '.join(parts)}."


def _small(words: str) -> Html:
    return Html(
        f'<div style="font-family:{FONT};font-size:12px;color:{FAINT};margin:6px 0 '
        f'22px">{escaped(words)}</div>'
    )


def _joined(pieces: Sequence[Html]) -> Html:
    return Html("".join(f'<div style="margin:0 0 18px">{piece}</div>' for piece in pieces))


def published_table(rows: Sequence[Published]) -> Html:
    """Draw published numbers: a table for each data set, with methods by tasks or metrics.

    The sources are numbered below."""
    if not rows:
        return _small("Nothing published of the same task, metric, data and stream is known here.")
    notes = [(*row.source.split("; "), *filter(None, [row.note])) for row in rows]
    order = list(dict.fromkeys(words for each in notes for words in each))
    numbers = [{order.index(words) + 1 for words in each} for each in notes]
    pieces = []
    for data in dict.fromkeys(row.data for row in rows):
        held = [(row, each) for row, each in zip(rows, numbers, strict=True) if row.data == data]
        pieces.append(table(_published_on(held), title=f"Published on {data}"))
    numbered = "".join(
        f"<div>{number} {escaped(words)}</div>" for number, words in enumerate(order, 1)
    )
    style = f"font-family:{FONT};font-size:12px;color:{FAINT};columns:2;column-gap:28px"
    said = _small(
        "Percent, as published, of our tasks, metrics and streams. Protocol, backbone and data "
        "differ from ours and from one another's: compare the order, not the digits. A dash: not "
        "said."
    )
    return _joined([*pieces, said, Html(f'<div style="{style}">{numbered}</div>')])


def _published_on(held: Sequence[tuple[Published, set[int]]]) -> list[dict[str, Any]]:
    """The rows of a data set's table, from its published numbers and the numbers of their notes."""
    columns = {_column(row): METRICS.index(row.metric) for row, _ in held}
    lines: dict[tuple, dict[str, Any]] = {}
    noted: dict[tuple, set[int]] = {}
    for row, each in held:
        method = ", ".join(filter(None, (row.method, row.variant)))
        named = {
            "published": method if row.paper == row.method else f"{method} ({row.paper})",
            "pre-training": row.pretrain,
            "stream": row.stream,
            "backbone": row.backbone,
        }
        key = tuple(named.values())
        empty = dict.fromkeys(sorted(columns, key=lambda name: columns[name]))
        line = lines.setdefault(key, {name: words or None for name, words in named.items()} | empty)
        line[_column(row)] = row.value
        noted[key] = noted.get(key, set()) | each
    return [
        {**line, "source, note": ", ".join(map(str, sorted(noted[key])))}
        for key, line in lines.items()
    ]


def _column(row: Published) -> str:
    if row.metric == "top-5":
        return f"{row.task}, top-5"
    return row.metric if row.task == "retrieval" else row.task


def write_report(
    path: str | Path,
    title: str,
    folders: Sequence[Folder],
    published: Sequence[Published] = (),
    task: str = "",
    data: str = "",
) -> Path:
    """Write one offline page of all runs.

    It has a table and bars for each protocol, published numbers, and the inventory.

    Args:
        path: The page's file.
        folders: The run directories, as read.
        task: Part of a task's name; empty: all.
        data: See `published.comparable`.
    """
    numbers = numbers_of(folders, task)
    sections = [
        Section("Numbers", [results_tables(numbers)]),
        Section("Streams side by side", [stream_tables(numbers)]),
        Section("Main metric, run by run", charts(numbers)),
        Section("Published", [published_table(comparable(numbers, published, data))]),
        Section("Runs", [inventory(folders)]),
    ]
    return write_page(path, title, [section for section in sections if section.parts])
