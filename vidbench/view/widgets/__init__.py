"""Browsers in plain Python, and ipywidgets that control them."""

import os
from collections.abc import Callable
from typing import Any


def shown(thing: Any, *arguments: Any, **options: Any) -> Any:
    """Show the controls of a browser or board to a person; in a headless run, what needs no kernel.

    That is a browser's `html(...)`, or a board's lines and charts. Words in place of a figure, such
    as "no labels: ...", are returned unchanged. A saved notebook keeps about 5 MB of each map among
    the controls, so headless runs set VIDBENCH_HEADLESS=1.

    Args:
        thing: A browser or board.
        *arguments, **options: What a headless run gives to its `html`.

    Returns:
        The controls; in a headless run HTML, or a figure with HTML; `thing` itself if it is text.
    """
    from vidbench.evaluate.board import Board
    from vidbench.view.widgets import (
        behind,
        behind_controls,
        compare,
        controls,
        neighbors,
        pair_controls,
        pairs,
        query,
        training,
    )

    if isinstance(thing, str):
        return thing
    if os.environ.get("VIDBENCH_HEADLESS", "0") not in ("", "0"):
        if isinstance(thing, behind.Behind | compare.Runs):
            return thing.still()  # with its figure, which a page shows, too
        if isinstance(thing, Board):
            return training.still(thing)
        return thing.html(*arguments, **options)

    show: dict[type, Callable[[Any], Any]] = {
        behind.Behind: behind_controls.show,
        compare.Runs: compare.show,
        neighbors.Browser: controls.show,
        pairs.Browser: pair_controls.show,
        query.QueryBox: query.show,
        Board: training.show,
    }
    return show[type(thing)](thing)
