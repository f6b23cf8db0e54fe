"""Recipes as a table: a column a run, a row a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidbench.view.html import table

if TYPE_CHECKING:
    from vidbench.view.looks import Html

LEFT_OUT = ("clip", "fit", "manifest", "flow", "init", "student", "teacher", "parts", "mix")
FIT = ("epochs", "batch", "optimizer", "lr", "schedule", "seed")  # of how a method is optimized
EMPTY: tuple[Any, ...] = ("", None, (), {})


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
