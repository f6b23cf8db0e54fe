"""The table of all videos: filtered by text, sorted by a column, in pages, with rows to select."""

from __future__ import annotations

import uuid
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.view.clips import said
from vidbench.view.looks import BACK, BAD, FAINT, FONT, GOOD, Html, escaped
from vidbench.view.looks import LINE as RULE
from vidbench.view.widgets.pane import BARE, LINE, Pages
from vidbench.view.widgets.rows import PATH, SCORE, VERDICT

if TYPE_CHECKING:
    from anywidget import AnyWidget

    from vidbench.view.widgets.neighbors import Browser

ROWS = 15  # of a page
# A listener to the table's buttons and boxes, as `pieces.CLICKS` is to tiles: it needs no answer of
# the kernel. The focus stays at the same control when the table is drawn again.
ACTS = """
export default { initialize({ model }) {
  const place = `.${model.get("key")}`, acts = `${place} [data-act]`, style = document.createElement("style");
  style.textContent = `${acts} { cursor: pointer; }
    ${acts}:focus-visible { outline: 3px solid var(--jp-brand-color1, #0072B2); outline-offset: 1px; }`;
  document.head.append(style);
  const click = event => {
    const one = event.target.closest?.(acts);
    if (!one) return;
    const sheet = one.closest(place), act = one.dataset.act;
    const watch = new MutationObserver(() => {
      const again = [...sheet.querySelectorAll("[data-act]")].find(other => other.dataset.act === act);
      if (again) { watch.disconnect(); again.focus({ preventScroll: true }); }
    });
    watch.observe(sheet, { childList: true, subtree: true });
    model.send({ act, on: one.checked ?? false, shift: event.shiftKey });
  };
  document.addEventListener("click", click);
  return () => { style.remove(); document.removeEventListener("click", click); };
} };
"""
PLAIN = "background:none;border:0;padding:0;margin:0;font:inherit;font-weight:600;color:inherit"
CELL = f"padding:2px 10px 2px 0;border-bottom:1px solid {RULE};text-align:left;vertical-align:top"
HEAD = f"{CELL};border-bottom-color:{FAINT};white-space:nowrap"


class Sheet:
    """The table of a browser's videos, and what sets it: filter, order, page, rows to select."""

    def __init__(self, browser: Browser):
        import ipywidgets as w

        self.browser, self.by, self.down, self.last = browser, "", False, ""
        self.filter = w.Text(
            placeholder="part of a path, class or tag",
            description="filter",
            layout={"width": "300px"},
            style=BARE,
        )
        self.every = w.Button(layout={"width": "170px"}, tooltip="select all rows of the filter")
        self.table, self.pages = w.HTML(), Pages(self.draw)
        self.key = f"vidbench-{uuid.uuid4().hex[:12]}"
        self.table.add_class(self.key)
        self.box = w.VBox(
            [w.HBox([self.filter, self.every, self.pages.box], layout=LINE), self.table]
        )
        self.filter.observe(lambda _: self._turned(), "value")
        self.every.on_click(lambda _: self._all())
        self.open = False

    def show(self) -> None:
        """Draw the table, and listen to it from the first time on."""
        if not self.open:
            self.open = True
            listener = _listener()(key=self.key)
            listener.on_msg(lambda _, message, __: self.act(**message))
            self.box.children = (*self.box.children, listener)
        self.draw()

    def rows(self) -> np.ndarray:
        """Return the rows [n] that the filter leaves, in their order."""
        left = self.browser.videos.matching(self.filter.value)
        return self.browser.videos.ordered(left, self.by, self.down) if self.by else left

    def draw(self) -> None:
        """Draw the present page, unless the table was never opened."""
        if not self.open:
            return
        rows = self.rows()
        self.pages.fit(-(-len(rows) // ROWS))
        self.every.description = f"select all {len(rows)}"
        self.every.disabled = not len(rows)
        page = rows[ROWS * self.pages.page :][:ROWS]
        self.shown = [self.browser.videos.ids[row] for row in page]
        self.table.value = str(
            table(
                self.browser.videos.lines(page),
                self.browser.videos.names,
                set(self.browser.selection.ids),
                (self.by, self.down),
            )
            if len(rows)
            else said("No path, class or tag contains this text.")
        )

    def act(self, act: str, on: bool = False, shift: bool = False) -> None:
        """Do what the page requests: "sort COLUMN" or "row ID".

        Args:
            act: The request.
            on: Whether the row is to be selected; else it is removed from the selection.
            shift: Whether this also holds for the rows between it and the row clicked before.
        """
        kind, _, name = act.partition(" ")
        if kind == "sort":
            # up, down, then the videos' own order
            down = self.by == name and not self.down
            self.by, self.down = ("", False) if self.by == name and self.down else (name, down)
            browser = self.browser
            if self.by in (VERDICT, SCORE) and not browser.searched(browser.videos.judge):
                count = len(browser.sides["queries"])
                self.table.value = said(
                    f"Searching with all {count:,} queries to sort by {name} ..."
                )
            self._turned()
            return
        several = [name]
        if shift and self.last in self.shown and name in self.shown:
            first, last = sorted((self.shown.index(self.last), self.shown.index(name)))
            several = self.shown[first : last + 1]
        self.last = name
        kept = [one for one in self.browser.selection.ids if one not in several]
        self.browser.selection = [*kept, *several] if on else kept

    def _turned(self) -> None:
        """Show the first page of other rows, or of another order."""
        self.pages.page = 0
        self.draw()

    def _all(self) -> None:
        self.browser.selection = [self.browser.videos.ids[row] for row in self.rows()]


def table(
    lines: list[dict[str, Any]],
    names: tuple[str, ...],
    chosen: set[str],
    order: tuple[str, bool] = ("", False),
) -> Html:
    """Draw rows of videos, each with a box that selects it; a click on a path makes it the query.

    Args:
        lines: As `VideoRows.lines` returns them.
        names: The columns.
        chosen: The ids of selected videos.
        order: The column of the order, and whether it goes down.
    """
    head = "".join(_head(name, order) for name in names)
    body = "".join(_row(line, names, line[PATH] in chosen) for line in lines)
    return Html(
        f'<div style="font:13px/1.35 {FONT};overflow-x:auto" data-lm-suppress-shortcuts="true">'
        f'<table style="border-collapse:collapse;background:none"><thead><tr><th style="{HEAD}">'
        f"</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _head(name: str, order: tuple[str, bool]) -> str:
    """A column's head, a button that sorts by it."""
    sign, state = "", "none"
    if order[0] == name:
        sign, state = (" ▼", "descending") if order[1] else (" ▲", "ascending")
    return (
        f'<th style="{HEAD}" aria-sort="{state}">'
        f'<button data-act="sort {escaped(name)}" style="{PLAIN}">{escaped(name)}{sign}</button></th>'
    )


def _row(line: dict[str, Any], names: tuple[str, ...], chosen: bool) -> str:
    """A video's row."""
    id = escaped(line[PATH])
    ticked = " checked" * chosen
    box = (
        f'<input type="checkbox" data-act="row {id}" aria-label="select {id}" '
        f'style="margin:2px 4px"{ticked}>'
    )
    path = (
        f'<span data-pick="{id}" tabindex="0" role="button" title="make this video the query" '
        f'style="overflow-wrap:anywhere">{id}</span>'
    )
    cells = [path if name == PATH else _said(name, line[name]) for name in names]
    inside = "".join(f'<td style="{CELL}">{one}</td>' for one in (box, *cells))
    back = f' style="background:{BACK}"' * chosen
    return f"<tr{back}>{inside}</tr>"


def _said(name: str, value: Any) -> str:
    """A cell's value in words."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"
    if name == VERDICT and value:
        color, sign = (GOOD, "✓") if value == "right" else (BAD, "✗")
        return f'<b style="color:{color}">{sign}</b> {escaped(value)}'
    return escaped(", ".join(value) if isinstance(value, tuple) else value)


@cache
def _listener() -> type[AnyWidget]:
    import anywidget
    import traitlets

    class Listener(anywidget.AnyWidget):
        _esm = ACTS
        key = traitlets.Unicode().tag(sync=True)

    return Listener
