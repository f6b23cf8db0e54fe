"""Runs as lines of HTML: color, state, progress and pace; their count by state."""

from __future__ import annotations

from collections.abc import Sequence

from vidbench.evaluate.board import RunState
from vidbench.view.looks import BAD, FAINT, FONT, GOOD, LINE, Html, colors_for, escaped, swatch
from vidbench.view.results import counted

SIGNS = {
    "complete": ("✓", GOOD),
    "failed": ("✗", BAD),
    "died": ("✗", BAD),
    "unreadable": ("✗", BAD),
}


def rows(states: Sequence[RunState]) -> Html:
    """Draw a line for each run (color, state, progress, pace), and count the runs by state."""
    looks = colors_for([one.name for one in states])
    lines = "".join(row(one, looks[one.name]) for one in states)
    return Html(f'<div style="font-family:{FONT};line-height:1.4">{lines}{count(states)}</div>')


def count(states: Sequence[RunState]) -> Html:
    """Count the runs by state in a line."""
    words = counted([one.state for one in states])
    return Html(f'<div style="font-size:12px;color:{FAINT};margin:6px 0 0">{escaped(words)}</div>')


def row(one: RunState, look: tuple[str, str]) -> Html:
    """Draw a run's line: its color, state, progress, pace.

    Args:
        look: Color and dash, see `looks.colors_for`.
    """
    sign, color = SIGNS.get(one.state, ("", "inherit"))
    epoch, facts = one.last("epoch"), []
    if epoch is not None:
        facts.append(f"epoch {epoch:.4g}" + f" of {one.epochs}" * bool(one.epochs))
    clips, seconds, left = one.last("clips"), one.last("seconds"), one.left()
    if clips and seconds:
        facts.append(f"{clips / seconds:.3g} clips/s")
    if one.state == "running" and left is not None:
        facts.append(f"{_time(left)} left")
    facts += filter(None, [one.said])
    share = min(1.0, epoch / one.epochs) if epoch and one.epochs else 0.0
    bar = (
        f'<div style="width:90px;height:6px;background-color:{LINE}"><div '
        f'style="width:{round(90 * share)}px;'
        f'height:6px;background-color:{look[0]}"></div></div>'
    )
    cut = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    line = f"display:flex;gap:12px;align-items:center;font-size:13px;padding:4px 0;border-bottom:1px solid {LINE}"
    return Html(
        f'<div style="{line};font-family:{FONT}"><b style="width:190px;{cut}" title="{escaped(one.name)}">'
        f'{swatch(look)}{escaped(one.name)}</b>{bar}<b style="width:104px;{cut};color:{color}">{sign} '
        f"{escaped(one.state)}</b>"
        f'<span style="flex:1;color:{FAINT}">{escaped(" · ".join(facts))}</span></div>'
    )


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{round(seconds)} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )


def said(words: str) -> Html:
    """Draw a sentence in small type."""
    return Html(
        f'<div style="font-family:{FONT};font-size:13px;color:{FAINT};margin:6px 0">{escaped(words)}</div>'
    )
