"""The clip viewer: one script, `viewer.js`, for notebooks and offline pages.

The script gives each tile of a gallery a button that opens a dialog: a larger view, pause, single
frames, speed, brightness, the video's path and time. It adds the button itself, so a page without
scripts shows no control that does nothing. Browsers pause the looping pictures out of sight on
their own (Chromium does, see tests/browser/test_viewer.py), so nothing here watches the scrolling."""

from __future__ import annotations

from pathlib import Path

SCRIPT = Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")
MARK = ' data-clip="'  # of a tile; escaped text cannot contain its quote


def with_viewer(page: str) -> str:
    """Return HTML with the viewer's script behind it, if it contains a tile."""
    return f"{page}<script>{SCRIPT}</script>" if MARK in page else page
