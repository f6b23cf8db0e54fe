"""Numbers of one method's streams side by side: RGB, flow, and both together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from vidbench.engine.runs import protocol_id
from vidbench.evaluate.results import Number, by_task, main_metric

STREAMS = ("rgb", "flow")
SIDES = (*STREAMS, "both")
FUSED = ("stream", "fused_with")  # switches that differ between one stream and both


def by_stream(numbers: Iterable[Number]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Set the main metric of each method's streams side by side, where protocols otherwise agree.

    A method is a run's name without its stream. Where both streams were searched or classified
    together, the runs of both make a row.

    Returns:
        (heading, metric, rows) for each protocol with more than one stream. A row is
        {"method": text, "rgb": Number, "flow": Number, "both": Number} with those that were
        measured.
    """
    made = []
    for heading, group in alike_but_stream(numbers):
        metric = main_metric(group)
        rows = _stream_rows([number for number in group if number.metric == metric])
        if len({stream for row in rows for stream in row if stream != "method"}) > 1:
            made.append((heading, metric, rows))
    return made


def alike_but_stream(numbers: Iterable[Number]) -> list[tuple[str, list[Number]]]:
    """Group numbers that were measured alike but for the stream, each group with its heading."""
    original: dict[int, tuple[Number, Number]] = {}
    for number in numbers:
        switches = {name: value for name, value in number.switches.items() if name not in FUSED}
        protocol = protocol_id(number.task, switches)
        plain = replace(number, switches=switches, protocol=protocol)
        original[id(plain)] = plain, number
    headed = by_task(plain for plain, _ in original.values())
    return [
        (heading, [original[id(plain)][1] for plain in group])
        for _, _, groups in headed
        for heading, group in groups
    ]


def _stream_rows(numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """A row a method, from numbers of one metric that were measured alike but for the stream."""
    single = {n.run: n for n in numbers if n.stream in STREAMS and not _partner(n)}
    rows: dict[str, dict[str, Any]] = {}
    for n in single.values():
        row = rows.setdefault(_method_of(n.run), {"method": _method_of(n.run)})
        if n.stream in row:  # two runs of one stream whose names differ in their stream's place
            row = rows.setdefault(n.run, {"method": n.run})
        row[n.stream] = n
    for n in filter(_partner, numbers):
        pair, other = _pair(n), _partner(n)
        row = rows.setdefault(pair, {"method": pair})
        for one in (single.get(n.run), single.get(other)):
            if one is not None:
                row.setdefault(one.stream, one)
        row["both"] = n
    return sorted(rows.values(), key=lambda row: row["method"])


def _partner(number: Number) -> str:
    """The run of the other stream that a number was measured together with; "" if it is of one."""
    named = str(number.switches.get("fused_with", ""))
    if named and "/" not in named and "/" in number.run:  # as notebooks name a run of one folder
        named = f"{number.run.rpartition('/')[0]}/{named}"
    return named


def _pair(number: Number) -> str:
    one, other = _method_of(number.run), _method_of(_partner(number))
    return one if one == other else f"{number.run} + {_partner(number).rpartition('/')[2]}"


def _method_of(run: str) -> str:
    """A run's name without the word of its stream: `tiny/coclr-rgb` -> `tiny/coclr`."""
    folder, slash, name = run.rpartition("/")
    words = [word for word in re.split(r"[-_ ]", name) if word not in STREAMS]
    return f"{folder}{slash}{'-'.join(words)}" if words else run
