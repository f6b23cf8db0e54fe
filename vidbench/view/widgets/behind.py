"""The clips behind a number: a figure or table whose cells, rows, points or bars lead to videos.

`Behind` is plain Python: cells, pages of clips, HTML without a kernel or a network. `numbers` makes
it from results, `behind_controls.show` adds controls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.system.processes import cores
from vidbench.view.clips import said
from vidbench.view.galleries import Tile, attributes, clip_html, fitted
from vidbench.view.html import table
from vidbench.view.looks import AXIS_LINE, BAD, FAINT, FONT, GOOD, RIGHT, WRONG, Html, escaped
from vidbench.view.widgets.videos import SIDE, Videos

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE = 12  # clips
WIDE = SIDE + 30  # pixels of a tile
HELD = 1000  # clips kept in memory, of about 10 kB each


@dataclass(frozen=True)
class Cell:
    """One number: what it says, and the videos behind it.

    Args:
        words: The number in words, such as "walk taken for kick: 3 of 12 videos".
        rows: The videos, in the order in which they are shown.
        said: A line under the clip of each of them, or none.
        right: Whether each is right; None where that is unknown.
        places: Where the number is in the figure: (trace, point), as a click reports it.
    """

    words: str
    rows: np.ndarray
    said: Sequence[str] = ()
    right: Sequence[bool | None] = ()
    places: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Lines:
    """Numbers as a table: a row for each cell, by its name. options: see html.table."""

    rows: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)


class Behind:
    """Numbers, and the clips behind each of them.

    Args:
        cells: Name -> Cell. The first one is the example of a view without a kernel.
        videos: The videos that the cells' rows count.
        figure: Shows the numbers.
        lines: The numbers as a table. A number may be in both.
        hint: What to click, a sentence.
        examples: How many cells a view without a kernel shows.

    Raises:
        ValueError: There are no cells, or a cell has other videos than there are.
    """

    def __init__(
        self,
        cells: Mapping[str, Cell],
        videos: Videos,
        *,
        figure: Figure | None = None,
        lines: Lines | None = None,
        hint: str = "",
        examples: int = 1,
    ):
        beyond = [
            name for name, cell in cells.items() if len(cell.rows) and max(cell.rows) >= len(videos)
        ]
        if not cells or beyond:
            raise ValueError(
                f"Behind needs cells whose rows are numbers of its {len(videos)} videos; got "
                f"{len(cells)} cells, other rows in {beyond[:3]}. Take both from one manifest."
            )
        self.cells, self.videos, self.hint, self.examples = dict(cells), videos, hint, examples
        self.figure, self.lines = figure, lines
        self.key = f"vidbench-{uuid.uuid4().hex[:12]}"  # by which a page finds the figure
        if figure is not None:
            figure.update_layout(meta={"vidbench": self.key})

    @cached_property
    def places(self) -> dict[tuple[Any, ...], str]:
        """What a click in the figure chooses: (trace, point) -> name of a cell."""
        return {place: name for name, cell in self.cells.items() for place in cell.places}

    @cached_property
    def _tile(self) -> Callable[[int], Tile]:
        kind = next(iter(self.videos.clips))
        return lru_cache(HELD)(lambda row: self.videos.tile(kind, row))

    def tiles(self, name: str, page: int = 0) -> list[Tile]:
        """Return one page of the clips of a cell, each with whether it is right.

        Args:
            name: The cell's name.
            page: Number of the page, from 0.
        """
        cell, shown = self.cells[name], slice(page * PAGE, (page + 1) * PAGE)
        with ThreadPoolExecutor(min(8, cores())) as pool:
            made = list(pool.map(self._tile, [int(row) for row in cell.rows[shown]]))
        rights = list(cell.right[shown]) or [None] * len(made)
        return [
            replace(tile, right=None if right is None else bool(right))
            for tile, right in zip(made, rights, strict=True)
        ]

    def clips(self, name: str, page: int = 0) -> Html:
        """Draw one page of the clips of a cell under its words, with a line for each clip.

        Args:
            name: The cell's name.
            page: Number of the page, from 0.
        """
        cell = self.cells[name]
        head = f'<div style="font-size:13px;margin:0 0 6px"><b>{escaped(cell.words)}</b></div>'
        tiles, words = self.tiles(name, page), cell.said[page * PAGE : (page + 1) * PAGE]
        words = list(words) or [""] * len(tiles)
        drawn = "".join(_clip(tile, line) for tile, line in zip(tiles, words, strict=True))
        drawn = drawn or said("No video is behind this number.")
        return Html(
            f'<div style="font-family:{FONT};line-height:1.35">{head}<div '
            f'style="display:flex;flex-wrap:wrap;gap:10px">{drawn}</div></div>'
        )

    def pages(self, name: str) -> int:
        """Return how many pages the clips of a cell fill, at least 1."""
        return max(1, -(-len(self.cells[name].rows) // PAGE))

    def table(self, picks: bool = False) -> Html:
        """Draw the numbers as a table; "" without lines.

        Args:
            picks: The first cell of each row is a button, see `behind_controls`.
        """
        if self.lines is None:
            return Html("")
        rows = [dict(row) for row in self.lines.rows.values()]
        first = next(iter(rows[0]))
        for name, row in zip(self.lines.rows, rows, strict=True):
            row[first] = _button(name, str(row[first])) if picks else str(row[first])
        return table(rows, **self.lines.options)

    def html(self) -> Html:
        """Draw the table, and the clips of the first cells: no script, no kernel, no network."""
        blocks = [self.clips(name) for name in list(self.cells)[: self.examples]]
        first = f"the first {self.examples}" if self.examples > 1 else "the first"
        left = f"{len(self.cells)} numbers have clips; below are those of {first}."
        note = said(left) if len(self.cells) > self.examples else ""
        clips = "".join(f'<div style="margin:0 0 16px">{block}</div>' for block in blocks)
        return Html(f'{self.table()}<div style="margin:10px 0 0">{note}{clips}</div>')

    def still(self) -> Still:
        """Return figure and clips as they are kept in an executed notebook or page."""
        return Still(self.figure, self.html())


@dataclass(frozen=True)
class Still:
    """A figure and, below, HTML, such as the clips of an example."""

    figure: Figure | None
    clips: Html

    @property
    def parts(self) -> list[Any]:
        """The parts of a page's section."""
        return [part for part in (self.figure, self.clips) if part is not None]

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for part in self.parts:
            display(part)


def _clip(tile: Tile, line: str) -> str:
    """A framed clip; under it its verdict and class, what is said of it, its name."""
    color, sign = AXIS_LINE, ""
    if tile.right is not None:
        color = RIGHT if tile.right else WRONG
        look = GOOD if tile.right else BAD
        sign = f'<b style="color:{look}">{"✓" if tile.right else "✗"}</b> '
    verdict = {True: "right", False: "wrong", None: ""}[tile.right]
    title = ", ".join(filter(None, (f"video {tile.label}".strip(), verdict, line, tile.caption)))
    small = f"font-size:11px;color:{FAINT};overflow-wrap:anywhere"
    return (
        f'<div title="{escaped(title)}" style="width:{WIDE}px;font-size:12px"{attributes(tile)}>'
        f'<div style="display:inline-block;border:3px solid {color}">'
        f"{clip_html(tile.clip, title, SIDE)}</div>"
        f"<div>{sign}{escaped(tile.label)}</div>"
        f'<div style="{small}">{escaped(line)}</div>'
        f'<div style="{small}">{escaped(fitted(tile.caption, WIDE))}</div></div>'
    )


def _button(name: str, text: str) -> Html:
    """A button in a table: a click, Enter or Space chooses a cell."""
    look = "text-decoration:underline;text-underline-offset:3px;padding:2px 0"
    keys = 'tabindex="0" role="button" data-lm-suppress-shortcuts="true"'
    return Html(f'<span data-pick="{escaped(name)}" {keys} style="{look}">{escaped(text)}</span>')
