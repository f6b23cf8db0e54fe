"""The selected videos as clips in pages, with what one does to them: tag, save, clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vidbench.view.clips import said
from vidbench.view.widgets import plane
from vidbench.view.widgets.selection import CSV
from vidbench.view.widgets.videos import GRID

if TYPE_CHECKING:
    from ipywidgets import Button, Dropdown

    from vidbench.view.widgets.neighbors import Browser

BARE = {"description_width": "initial"}
LINE = {"flex_flow": "row wrap", "align_items": "center"}  # of controls


class Pages:
    """Buttons through the pages of something.

    Args:
        turned: Is called when the page changes.
    """

    def __init__(self, turned: Callable[[], None]):
        import ipywidgets as w

        self.page, self.pages, self._turned = 0, 1, turned
        self.before = button("", "chevron-left", "38px", "previous page")
        self.after = button("", "chevron-right", "38px", "next page")
        self.words = w.HTML()
        self.box = w.HBox([self.before, self.words, self.after], layout=LINE)
        self.before.on_click(lambda _: self._turn(-1))
        self.after.on_click(lambda _: self._turn(1))

    def fit(self, pages: int) -> None:
        """Set how many pages exist; the page stays if it is one of them."""
        self.pages = max(1, pages)
        self.page = min(self.page, self.pages - 1)
        self.before.disabled, self.after.disabled = self.page == 0, self.page == self.pages - 1
        self.words.value = said(f"page {self.page + 1} of {self.pages}")
        self.box.layout.display = "flex" if self.pages > 1 else "none"

    def _turn(self, step: int) -> None:
        self.page += step
        self._turned()


class Pane:
    """The clips of a browser's selection.

    First it is one line of words; buttons appear when videos are selected."""

    def __init__(self, browser: Browser):
        import ipywidgets as w

        self.browser = browser
        self.clips, self.said = w.HTML(), w.HTML()
        self.clips.add_class("vidbench-tiles")
        self.clips.layout = {"max_height": f"{plane.TALL}px", "overflow": "auto"}
        self.pages = Pages(self.draw)
        self.word = w.Text(
            placeholder="tag", layout={"width": "110px"}, continuous_update=False, tooltip="a word"
        )
        self.tag = button("tag", "tag", "66px", "give the selected videos this tag")
        self.untag = button("untag", "", "66px", "remove this tag from the selected videos")
        self.save = button("save csv", "download", "96px", f"to a new {CSV} in this folder")
        self.clear = button("clear", "times", "72px", "select no video")
        self.acts = w.HBox([self.word, self.tag, self.untag, self.save, self.clear], layout=LINE)
        self.box = w.VBox([self.pages.box, self.clips, self.acts, self.said])
        self.box.layout = {"flex": "1 1 220px", "margin": "0 0 0 12px"}
        self.tag.on_click(lambda _: self._tagged(True))
        self.untag.on_click(lambda _: self._tagged(False))
        self.save.on_click(lambda _: self._saved())
        self.clear.on_click(lambda _: self._cleared())
        self.draw()

    def renew(self) -> None:
        """Show the first page of another selection."""
        self.pages.page, self.said.value = 0, ""
        self.draw()

    def draw(self) -> None:
        """Show the page of now."""
        ids = self.browser.selection.ids
        self.pages.fit(-(-len(ids) // GRID))
        self.clips.value = str(self.browser.grid(ids, self.pages.page, picks=True))
        self.acts.layout.display = "flex" if ids else "none"

    def _tagged(self, on: bool) -> None:
        chosen, word = self.browser.selection, self.word.value
        try:
            (chosen.tag if on else chosen.untag)(word)
        except ValueError:
            self.said.value = said("Write a word without a comma, then press tag or untag.")
            return
        verb = "have" if on else "do not have"
        self.said.value = said(f"{len(chosen)} videos {verb} the tag {word.strip()!r}.")

    def _saved(self) -> None:
        chosen = self.browser.selection
        self.said.value = said(f"{len(chosen)} videos are in {chosen.csv(CSV).resolve()}")

    def _cleared(self) -> None:
        self.browser.selection = ()


def choice(options: Sequence, value: object, description: str, width: str) -> Dropdown:
    """Make a list from which one value is chosen.

    Args:
        value: The option that is chosen at first.
        description: Words before the list.
        width: CSS width, such as 200px.
    """
    import ipywidgets

    return ipywidgets.Dropdown(
        options=options,
        value=value,
        description=description,
        layout={"width": width},
        style=BARE,
    )


def button(words: str, icon: str, width: str, tooltip: str) -> Button:
    """Make a button; its tooltip names a button without words.

    Args:
        icon: A name of Font Awesome; empty: no icon.
        width: CSS width, such as 200px.
    """
    import ipywidgets

    return ipywidgets.Button(description=words, icon=icon, layout={"width": width}, tooltip=tooltip)
