"""A few sentences that must be seen: a box in a notebook, one block of wrapped lines elsewhere."""

from __future__ import annotations

import html
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

WIDE = 100  # letters of a line in a terminal
BOX = (
    "border:1px solid rgba(128,128,128,.4);padding:8px 14px;margin:6px 0;max-width:70ch;"
    "font:14px/1.5 system-ui, sans-serif;overflow-wrap:break-word;border-left:4px solid "
)
ALARM, CALM = "#D55E00", "rgba(128,128,128,.7)"  # of the bar at the left


def show_notice(title: str, sentences: Sequence[str], calm: bool = False) -> None:
    """Show sentences under a title, once: HTML in a notebook that a person watches, else text.

    A notebook without a browser gets text, which its log keeps.

    Args:
        title: The line above them.
        calm: True if nothing is wrong: the box's bar is gray.
    """
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel") and os.environ.get("VIDBENCH_HEADLESS") != "1":
        both = {"text/html": box(title, sentences, calm), "text/plain": block(title, sentences)}
        shell.display_pub.publish(data=both)
    else:
        print(block(title, sentences), flush=True)


def block(title: str, sentences: Sequence[str]) -> str:
    """Wrap title and sentences into lines of at most WIDE letters.

    Args:
        title: The first line, which is not broken.
        sentences: A list item each.
    """
    lines = [title]
    for one in sentences:
        lines += textwrap.wrap(
            one, WIDE, initial_indent="  - ", subsequent_indent="    ", break_long_words=False
        )
    return "\n".join(lines)


def box(title: str, sentences: Sequence[str], calm: bool = False) -> str:
    """Return title and sentences as HTML whose words have the theme's color.

    Args:
        title: In bold.
        sentences: A list item each.
        calm: True if nothing is wrong: the box's bar is gray.
    """
    items = "".join(f'<li style="margin:4px 0">{html.escape(one)}</li>' for one in sentences)
    return (
        f'<div style="{BOX}{CALM if calm else ALARM}"><b>{html.escape(title)}</b>'
        f'<ul style="margin:4px 0 0;padding-left:20px">{items}</ul></div>'
    )
