"""Browsers in plain Python, and ipywidgets that control them."""

import os
from collections.abc import Callable
from typing import Any


def shown(thing: Any, *arguments: Any, **options: Any) -> Any:
    """The controls of a browser or board where a person is there, its `html(...)` where a notebook
    runs headless.

    A saved notebook keeps about 5 MB of each map among the controls, so headless runs set
    VIDBENCH_HEADLESS=1. The arguments are those of its `html`."""
    if os.environ.get("VIDBENCH_HEADLESS", "0") not in ("", "0"):
        return thing.html(*arguments, **options)
    from vidbench.view.widgets import controls, neighbors, pair_controls, pairs, training

    show: dict[type, Callable[[Any], Any]] = {
        neighbors.Browser: controls.show,
        pairs.Browser: pair_controls.show,
        training.Board: training.show,
    }
    return show[type(thing)](thing)
