"""Recipes as tables: a column a run, a row a field; what differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidbench.view.html import table
from vidbench.view.looks import Html

LEFT_OUT = ("clip", "fit", "manifest", "flow", "init", "student", "teacher", "parts", "mix")
FIT = ("epochs", "batch", "optimizer", "lr", "schedule", "seed")  # of how a method is optimized
EMPTY: tuple[Any, ...] = ("", None, (), {})
FIELDS, RUNS = 6, 3  # columns of a table of differences: fields at most, else runs


def recipe_table(recipes: Mapping[str, Any], *, note: str = "", fit: Sequence[str] = FIT) -> Html:
    """Show what recipes set, without paths and without what is empty in all of them.

    Args:
        recipes: Heading of a column -> recipe.
        note: A line below.
        fit: Fields of how the method is optimized.
    """
    first = next(iter(recipes.values()))
    rows = {
        name: [getattr(one, name) for one in recipes.values()]
        for name in vars(first)
        if name not in LEFT_OUT
    }
    for name in fit:
        rows[f"fit.{name}"] = [getattr(one.fit, name) for one in recipes.values()]
    shown = [
        {"field": name, **dict(zip(recipes, map(str, values), strict=True))}
        for name, values in rows.items()
        if not all(value in EMPTY for value in values)
    ]
    return table(shown, note=note)


def differing(lines: Sequence[Mapping[str, Any]], note: str = "") -> Html:
    """Show what differs between runs: a row a run; if the fields are many, a row a field.

    Args:
        lines: Of each run, its name as "run" and its fields by name.
        note: A line below.
    """
    fields = [name for name in lines[0] if name != "run"]
    if len(fields) <= FIELDS:
        return table(lines, note=note)
    tables = []
    for at in range(0, len(lines), RUNS):
        some = lines[at : at + RUNS]
        rows = [{"field": name, **{str(one["run"]): one[name] for one in some}} for name in fields]
        tables.append(table(rows, note=note if at + RUNS >= len(lines) else ""))
    return Html("".join(tables))
