"""The scripts of notebooks and offline pages: the clip viewer, and names of plots for screen readers.

`viewer.js` gives each tile of a gallery a button that opens a dialog: a larger view, pause, single
frames, speed, brightness, the video's path and time. It adds the button itself, so a page without
scripts shows no control that does nothing. Browsers pause the looping pictures out of sight on
their own (Chromium does, see tests/browser/test_viewer.py), so nothing here watches the scrolling."""

from __future__ import annotations

from pathlib import Path

PLOTS, VIEWER = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("plots.js", "viewer.js")
)
SCRIPT = PLOTS + VIEWER
MARK = ' data-clip="'  # of a tile; escaped text cannot contain its quote


def with_viewer(page: str) -> str:
    """Return HTML with the viewer's script behind it, if it contains a tile."""
    return f"{page}<script>{VIEWER}</script>" if MARK in page else page


def in_notebook(piece: str) -> str:
    """Return a piece of HTML as a notebook shows it: with the viewer, and the script that names plots.

    JupyterLab draws a plot from JSON, which has no place for a script. So pieces of HTML, of which
    every notebook shows some, bring it for all plots of the page.
    """
    return f"{with_viewer(piece)}<script>{PLOTS}</script>"
