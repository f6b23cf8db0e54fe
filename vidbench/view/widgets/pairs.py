"""A browser of class relations between data sets: two of them, a read-out, a pair, and clips of
both classes play.

`Browser` is plain Python: what is looked at, the rows, HTML without a kernel or a network. `show`
puts controls on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.evaluate import projections
from vidbench.evaluate.projections import Relation
from vidbench.view import relations
from vidbench.view.clips import QUICK, playing, said, whole
from vidbench.view.galleries import Tile, attributes, clip_html, fitted
from vidbench.view.html import table
from vidbench.view.looks import FAINT, FONT, LINE, Html, escaped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidbench.data.manifest import Manifest

SIDE = 108  # pixels of a clip
EXAMPLES = 3  # clips of a class


class Browser:
    """Which classes of two data sets are related, by several read-outs, and what they look like.

    Args:
        relations: (source, target) -> Relation, in both directions, as `projections.relations`
            gives them.
        clips_of: (data set, class index) -> tiles, called when a class is first looked at. Its
            `whole`, if it has one, makes the viewer's clips, see `Examples`.
        most: Pairs in the table at most.
        shown: Clips of a class at most.

    Raises:
        ValueError: There is nothing to show, a direction is missing, or read-outs differ.
    """

    def __init__(
        self,
        relations: Mapping[tuple[str, str], Relation],
        clips_of: Callable[[str, int], Sequence[Tile]] | None = None,
        *,
        most: int = 20,
        shown: int = 3,
    ):
        lacking = [pair for pair in relations if pair[::-1] not in relations]
        readouts = {tuple(relation.scores) for relation in relations.values()}
        if lacking or len(readouts) != 1 or readouts == {()}:
            raise ValueError(
                "Browser: wanted relations in both directions with the same read-outs, got "
                f"{[*relations]} with {sorted(readouts)}"
            )
        self.relations, self.clips_of, self.most, self.shown = (
            dict(relations),
            clips_of,
            most,
            shown,
        )
        self.readouts = readouts.pop()
        (self.source, self.target), self.readout = next(iter(relations)), self.readouts[0]
        self.selected: tuple[str, str] | None = None
        self._clips: dict[tuple[str, str], list[Tile]] = {}
        self._orders: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}

    # ---- what is looked at

    def look(
        self,
        source: str | None = None,
        target: str | None = None,
        readout: str | None = None,
        most: int | None = None,
    ) -> None:
        """Look at two data sets, by one read-out, at so many pairs; None changes nothing.

        Args:
            source, target: Names of data sets.
            readout: raw, centered, scaled or behavioral.
            most: How many pairs at most.

        Raises:
            ValueError: data sets or a read-out without scores, or fewer than one pair.
        """
        pair = (source or self.source, target or self.target)
        readout, most = readout or self.readout, self.most if most is None else most
        if pair not in self.relations or readout not in self.readouts or most < 1:
            raise ValueError(
                f"look: wanted data sets of {[*self.relations]}, a read-out of {self.readouts} and "
                f"most >= 1; got {pair}, {readout!r}, {most}"
            )
        if pair != (self.source, self.target):
            self.selected = None
        (self.source, self.target), self.readout, self.most = pair, readout, most

    def select(self, source_class: str, target_class: str) -> None:
        """Choose a pair of classes.

        Args:
            source_class, target_class: Names of the classes.

        Raises:
            ValueError: a name is unknown.
        """
        for data, known, name in (
            (self.source, self.there.sources, source_class),
            (self.target, self.there.targets, target_class),
        ):
            if name not in known:
                raise ValueError(
                    f"select: {data} has no class {name!r}; it has {', '.join(known[:5])}, ..."
                )
        self.selected = (source_class, target_class)

    # ---- as data

    @property
    def there(self) -> Relation:
        """The relation that is looked at."""
        return self.relations[self.source, self.target]

    @property
    def back(self) -> Relation:
        """The relation the other way."""
        return self.relations[self.target, self.source]

    def rows(self) -> list[dict[str, Any]]:
        """List the pairs of highest score, see `projections.pairs`."""
        return projections.pairs(self.there, self.back, self.readout, self.most)

    def clips(self, data: str, name: str) -> list[Tile]:
        """Return tiles of a class of one of the two data sets, made once.

        Args:
            data: The data set's name.
            name: The class's name.
        """
        if (data, name) not in self._clips:
            classes = self.there.sources if data == self.source else self.there.targets
            found = self.clips_of(data, classes.index(name)) if self.clips_of else []
            self._clips[data, name] = list(found)[: self.shown]
        return self._clips[data, name]

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the clustered order of rows [C_s] and columns [C_t], computed once a relation."""
        key = (self.source, self.target, self.readout)
        if key not in self._orders:
            self._orders[key] = relations.clustered(self.there.scores[self.readout])
        return self._orders[key]

    # ---- as pictures and HTML

    def figure(self, exact: bool = False) -> Figure:
        """Draw the heatmap, with rings on its strongest mutual-best pairs.

        Args:
            exact: See `relations.heatmap`.
        """
        there, scores = self.there, self.there.scores[self.readout]
        best = np.argwhere(
            projections.mutual(scores, self.back.scores[self.readout]) & np.isfinite(scores)
        )
        best = best[np.argsort(-scores[tuple(best.T)], kind="stable")][: self.most]
        classes = relations.Classes(
            there.sources,
            there.targets,
            (self.source, self.target),
            marks=[(there.sources[s], there.targets[t]) for s, t in best],
            marked="best for each other",
        )
        return relations.heatmap(
            scores,
            classes,
            f"{self.source} → {self.target}, {self.readout}",
            unit=self.readout,
            signed=bool((scores < 0).any()),
            order=self.order(),
            exact=exact,
        )

    def table(self) -> Html:
        """Draw the rows as a table, with the meaning of its columns."""
        lines, count = self.lines(), len(self.there.sources) * len(self.there.targets)
        return table(
            lines,
            formats=dict.fromkeys(self.readouts, ".3f"),
            title=f"{self.source} → {self.target}: pairs by {self.readout}",
            note=f"The {len(lines)} highest of {count:,} pairs by {self.readout}. back rank: of "
            "the "
            f"source class among {self.source}'s for this target class, {self.target} → "
            f"{self.source}; mutual: each is "
            "the other's best",
        )

    def lines(self) -> list[dict[str, Any]]:
        """Return the rows as they are shown; None means NaN.

        A row has both classes, whether they are mutual bests, the rank of the way back, and every
        read-out.
        """
        rows = [
            {
                self.source: row[self.source],
                self.target: row[self.target],
                "mutual": row["mutual"],
                self.readout: row["score"],
                "back rank": row["back rank"],
                **{name: row[name] for name in self.readouts if name != self.readout},
            }
            for row in self.rows()
        ]
        return [
            {name: None if value != value else value for name, value in row.items()} for row in rows
        ]

    def chosen(self) -> Html:
        """Draw clips of both classes of the selected pair, side by side; without a pair, a hint."""
        if self.selected is None:
            return said(
                "Choose a cell of the heatmap, or a row of the table, to see clips of both classes."
            )
        s, t = (
            names.index(name)
            for names, name in zip(
                (self.there.sources, self.there.targets), self.selected, strict=True
            )
        )
        words = [f"{name} {array[s, t]:.3f}" for name, array in self.there.scores.items()]
        return self._pair(*self.selected, " · ".join(words))

    def html(self, pairs: int = 5) -> Html:
        """Draw the table, and below it clips of the first pairs.

        It needs no script, kernel or network.

        Args:
            pairs: How many have clips.
        """
        shown = self.rows()[:pairs] if self.clips_of else []
        blocks = [
            self._pair(
                row[self.source],
                row[self.target],
                f"rank {row['rank']} · {self.readout} {row['score']:.3f} · back rank "
                f"{row['back rank']}" + " · best for each other" * bool(row["mutual"]),
            )
            for row in shown
        ]
        return Html(f'{self.table()}<div style="margin:14px 0 0">{"".join(blocks)}</div>')

    def _pair(self, source_class: str, target_class: str, words: str) -> Html:
        """Clips of two classes, one's left and the other's right."""
        halves = "".join(
            f'<div style="flex:1;min-width:{SIDE}px"><div style="font-size:13px;margin:0 0 '
            '4px"><span style="color:'
            f'{FAINT}">{escaped(data)}</span> <b>{escaped(name)}</b></div><div '
            'style="display:flex;flex-wrap:wrap;'
            f'gap:6px">{"".join(map(_clip, self.clips(data, name))) or _none(self.clips_of)}</div></div>'
            for data, name in ((self.source, source_class), (self.target, target_class))
        )
        return Html(
            f'<div style="font-family:{FONT};line-height:1.35;border-top:1px solid '
            f'{LINE};padding:10px 0">'
            f'<div style="font-size:12px;color:{FAINT};margin:0 0 4px">{escaped(words)}</div>'
            f'<div style="display:flex;gap:18px">{halves}</div></div>'
        )


class Examples:
    """`clips_of` of a Browser: up to EXAMPLES videos of a class, first of different sources.

    Args:
        manifests: Data set -> its videos.
    """

    def __init__(self, manifests: Mapping[str, Manifest]):
        self.manifests = dict(manifests)
        self._rows: dict[str, tuple[str, int]] = {}  # of what was shown, by the tile's path
        self._tiles = {
            name: playing(rows, side=SIDE, with_flow=QUICK) for name, rows in manifests.items()
        }

    def __call__(self, data: str, label: int) -> list[Tile]:
        rows = self.manifests[data]
        here = np.flatnonzero(rows.label == label)
        first = np.unique(rows.source_video[here], return_index=True)[1]
        order = [*first, *np.setdiff1d(np.arange(len(here)), first)][:EXAMPLES]
        return [self._tile(data, int(row)) for row in here[order]] if order else []

    def _tile(self, data: str, row: int) -> Tile:
        """A tile whose path begins with the data set: two of them may have files of one name."""
        tile = self._tiles[data](row)
        path = f"{data}/{tile.source.path}"
        self._rows[path] = data, row
        return replace(tile, source=replace(tile.source, path=path))

    def whole(self, path: str) -> list[Tile]:
        """Return the clips that the viewer shows of a tile, by its path: RGB and flow."""
        data, row = self._rows[path]
        return whole(self.manifests[data], row, flow_folder=QUICK)


def _clip(tile: Tile) -> str:
    name = ", ".join(filter(None, (tile.label, tile.caption)))
    style = f"font-size:11px;color:{FAINT};width:{SIDE}px;overflow:hidden;white-space:nowrap"
    caption = f'<div style="{style}">{escaped(fitted(tile.caption, SIDE))}</div>'
    return (
        f'<div title="{escaped(name)}"{attributes(tile)}>{clip_html(tile.clip, name, SIDE)}'
        f"{caption if tile.caption else ''}</div>"
    )


def _none(name: object) -> str:
    words = "no labeled clips of this class" if name else "no clips here"
    return f'<span style="font-size:13px;color:{FAINT}">{words}</span>'
