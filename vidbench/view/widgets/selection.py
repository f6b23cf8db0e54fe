"""The videos that a person or a notebook selected: read in Python, tagged, saved."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vidbench.system.files import unused, written
from vidbench.view.widgets.rows import TAGS, VideoRows

CSV = "selection.csv"


class Selection:
    """Selected videos of a browser, in the order in which they were selected.

    Args:
        videos: All videos of the browser.
        ids: Of the selected ones, as `Videos.ids` has them: paths below the data set's folder.
        changed: Is called with "tags" after a tag was set or removed.

    Raises:
        ValueError: An id is none of the videos'.
    """

    def __init__(
        self,
        videos: VideoRows,
        ids: Iterable[str] = (),
        changed: Callable[[str], None] = lambda what: None,
    ):
        self._videos, self._changed = videos, changed
        if isinstance(ids, str):
            ids = [ids]
        self.ids = tuple(dict.fromkeys(str(one) for one in ids))
        unknown = [one for one in self.ids if one not in videos.row]
        if unknown:
            near = difflib.get_close_matches(unknown[0], videos.ids[:20_000], 1) or videos.ids[:1]
            raise ValueError(
                f"selection: wanted ids of the browser's {len(videos)} videos, such as {near[0]!r}; "
                f"got {unknown[0]!r}" + f" and {len(unknown) - 1} more" * (len(unknown) > 1)
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, one: object) -> bool:
        return one in self.ids

    def __repr__(self) -> str:
        shown = ", ".join(self.ids[:3]) + ", ..." * (len(self) > 3)
        return f"<Selection of {len(self)} videos{': ' if len(self) else ''}{shown}>"

    @property
    def paths(self) -> list[Path]:
        """The files of the videos."""
        return [self._videos.file(one) for one in self.ids]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each video: path, class, split, source video, right, score, tags, and all else
        that the table of videos shows."""
        return self._videos.lines(self._videos.row[one] for one in self.ids)

    def tag(self, word: str) -> None:
        """Tag the videos with a word.

        Raises:
            ValueError: The word is empty or holds a comma, which separates tags.
        """
        word = _checked(word)
        for one in self.ids:
            held = self._videos.tags.get(one, ())
            self._videos.tags[one] = held if word in held else (*held, word)
        self._changed("tags")

    def untag(self, word: str) -> None:
        """Remove a tag from the videos; those without it stay as they are."""
        word = _checked(word)
        for one in self.ids:
            left = tuple(tag for tag in self._videos.tags.pop(one, ()) if tag != word)
            if left:
                self._videos.tags[one] = left
        self._changed("tags")

    def csv(self, path: str | Path = CSV) -> Path:
        """Write the rows to a new csv file. An old file stays: the new one gets the next number.

        Args:
            path: Of the file; `selection.csv` becomes `selection-2.csv` if it exists.

        Returns:
            The path that was written.
        """
        path = unused(path)
        with (
            written(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, self._videos.names, lineterminator="\n")
            table.writeheader()
            table.writerows({**row, TAGS: ", ".join(row[TAGS])} for row in self.rows)
        return path


def _checked(word: str) -> str:
    """A tag without blanks around it. Raises ValueError on an empty one, or one with a comma."""
    if not word.strip() or "," in word:
        raise ValueError(f"tag: wanted a word without a comma; got {word!r}")
    return word.strip()
