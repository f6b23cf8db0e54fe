"""Relations between two label spaces as figures: a clustered heatmap, the strongest links.

Scores are arrays [C_s,C_t]: what the class of a row, of the source data set, has to do with that of
a column, of the target's; NaN where that is unknown. Figures hold NumPy arrays, never lists, so 400
x 700 classes are drawn at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.view.heatmaps import LETTERS, NAMED, SHARES, SIGNED
from vidbench.view.looks import INK, PALETTE, RULE, SOFT, dress, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Heatmap

# the colors cover this share of the scores: one outlier shall not turn the rest white
FULL = 0.999
CELL, LOW, HIGH = 26, 180, 520  # pixels: a row of a heatmap, its least and its greatest height
LINK, NODE = "66", 22  # a link's opacity, in hex; pixels of a class in a Sankey diagram


@dataclass(frozen=True)
class Classes:
    """The classes that scores [C_s,C_t] relate, and the pairs of them to mark.

    sources, targets: names of the rows and of the columns, each name once. names: of the two data
    sets. marks: (source, target) classes that get a ring, and marked: what these are; without
    marks, the legend has no entry for them."""

    sources: Sequence[str]
    targets: Sequence[str]
    names: tuple[str, str] = ("source", "target")
    marks: Sequence[tuple[str, str]] | None = None
    marked: str = "marked"

    @property
    def legend(self) -> list[str]:
        return [] if self.marks is None else [self.marked]

    def checked(self, scores: np.ndarray, who: str) -> np.ndarray:
        """Check scores: return them as float32 [C_s,C_t], unknown ones NaN.

        Args:
            who: The function that the message names.

        Raises:
            ValueError: they do not fit the names, some are infinite, or a name comes twice.
        """
        scores = np.asarray(scores, dtype=np.float32)
        wanted = len(self.sources), len(self.targets)
        if scores.shape != wanted or not scores.size:
            raise ValueError(
                f"{who}: wanted scores [{wanted[0]},{wanted[1]}], a row for each source class and a "
                f"column for each target class, got {list(scores.shape)}; is the other direction "
                "meant?"
            )
        if np.isinf(scores).any():
            raise ValueError(
                f"{who}: wanted finite scores, or NaN for unknown ones, got "
                f"{int(np.isinf(scores).sum())} infinite ones; look whether the run has diverged"
            )
        for names in (self.sources, self.targets):
            if len(set(names)) < len(names):
                twice = next(name for i, name in enumerate(names) if name in names[:i])
                raise ValueError(
                    f"{who}: wanted a different name for each class, got {twice!r} twice; add its "
                    "number"
                )
        return scores

    def marked_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns [n] of the marked pairs.

        Raises:
            ValueError: a name is unknown.
        """
        rows, columns = (
            {name: i for i, name in enumerate(n)} for n in (self.sources, self.targets)
        )
        marks = self.marks or ()
        wrong = [(s, t) for s, t in marks if s not in rows or t not in columns]
        if wrong:
            raise ValueError(
                f"marks: wanted (source, target) class names, got {wrong[0]}, which is no such pair"
            )
        places = [(rows[s], columns[t]) for s, t in marks]
        first, second = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return first, second


def clustered(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order rows and columns so that similar ones are neighbors: indices [C_s] and [C_t].

    Average linkage by cosine distance, leaves in the optimal order (SciPy). NaN counts as 0; rows
    or columns without any other number come last.

    Args:
        scores: [C_s,C_t].

    Raises:
        ValueError: scores have another shape, or are infinite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or np.isinf(scores).any():
        raise ValueError(
            f"clustered: wanted scores [C_s,C_t], none infinite, got shape {scores.shape}"
        )
    scores = np.nan_to_num(scores)
    return _leaves(scores), _leaves(scores.T)


def _leaves(rows: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    lengths = np.linalg.norm(rows, axis=1)
    some, none = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    if len(some) < 3:
        return np.concatenate([some, none])
    units = rows[some] / lengths[some, None]
    apart = np.clip(1 - units @ units.T, 0, 2)  # from the product: pdist goes pair by pair
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return np.concatenate([some[leaves_list(tree)], none])


# ---------------------------------------------------------------------------------------- figures


def heatmap(
    scores: np.ndarray,
    classes: Classes,
    title: str = "",
    *,
    unit: str = "",
    signed: bool = True,
    order: tuple[np.ndarray, np.ndarray] | None = None,
    exact: bool = True,
) -> Figure:
    """Draw scores as colors, rows and columns in clusters.

    Names are shown on hover, and on the axes if there are few. Colors reach to the 99.9th
    percentile; unknown scores are gray.

    Args:
        scores: [C_s,C_t].
        unit: What the scores are.
        signed: White is 0, blue above, vermilion below. If False, scores are probabilities, from
            white to dark blue.
        order: Indices of rows and columns, such as those of another read-out; default: `clustered`.
        exact: Keep numbers in single precision. If False, each is stored in 8 bits, as whole
            percent of the strongest color, which takes a third of the size in a saved notebook. If
            any is NaN, all stay exact.

    Raises:
        ValueError: shapes do not fit, names come twice, marks are unknown, scores are infinite, or
            negative although not signed.
    """
    import plotly.graph_objects as go

    scores = classes.checked(scores, "heatmap")
    if not signed and (scores < 0).any():
        raise ValueError(f"heatmap: signed=False needs scores from 0 up, got {np.nanmin(scores):g}")
    rows, columns = clustered(scores) if order is None else order
    down, across = [classes.sources[s] for s in rows], [classes.targets[t] for t in columns]
    x, y, gaps = list(map(plain, across)), list(map(plain, down)), bool(np.isnan(scores).any())
    cells = _cells(scores[np.ix_(rows, columns)], x, y, unit, signed, exact or gaps)
    figure = go.Figure(cells)
    if classes.marks is not None:
        s, t = classes.marked_places()
        names = [plain(classes.targets[i]) for i in t], [plain(classes.sources[i]) for i in s]
        rings(figure, *names, classes.marked)
    axes = [
        f"{name}, {len(side)} classes" for name, side in zip(classes.names, (y, x), strict=True)
    ]
    dress(figure, axes[1], axes[0], title, classes.legend, 24)
    room = _named_axis(figure.update_xaxes, x, across, range=[-0.5, len(x) - 0.5])
    _named_axis(figure.update_yaxes, y, down, range=[len(y) - 0.5, -0.5])
    tall = max(LOW, min(HIGH, CELL * len(y)))
    return figure.update_layout(
        height=figure.layout.margin.t + tall + 52 + room,
        hovermode="closest",
        plot_bgcolor=RULE if gaps else "white",  # what is unknown is gray
    )


def _cells(
    shown: np.ndarray, x: list[str], y: list[str], unit: str, signed: bool, exact: bool
) -> Heatmap:
    """The colored cells of a heatmap, in the order given, and their color bar."""
    import plotly.graph_objects as go

    full, largest = _full(shown), float(np.abs(np.nan_to_num(shown)).max())
    words = plain(unit) + (f"<br>up to {largest:.2g}" if largest > full else "")
    title = dict(text=words, side="top", font_size=12)
    bar = dict(thickness=12, outlinewidth=0, xpad=14, nticks=6, title=title)
    top, value = full, "%{z:.3g}"
    if not exact:  # a hover text counts in what is stored
        shown = np.clip(100 * shown / full, -127, 127).round().astype(np.int8)
        top, value = 100, f"%{{z}} % of {full:.3g}"
        ticks = np.arange(-75 if signed else 0, 76, 25)
        bar |= dict(tickvals=ticks, ticktext=[f"{full * tick / 100:.2g}" for tick in ticks])
    gap = int(max(len(x), len(y)) <= NAMED)
    return go.Heatmap(
        z=shown,
        x=x,
        y=y,
        zmin=-top if signed else 0,
        zmax=top,
        colorscale=SIGNED if signed else SHARES,
        colorbar=bar,
        xgap=gap,
        ygap=gap,
        hovertemplate=f"%{{y}}<br>→ %{{x}}: {value}<extra></extra>",
    )


def sankey(
    pairs: Sequence[Mapping[str, Any]],
    source_name: str,
    target_name: str,
    title: str = "",
    *,
    links: int = 30,
    unit: str = "score",
) -> Figure:
    """Draw the strongest links between two label spaces, as wide as their scores.

    Args:
        pairs: Rows with a class under the name of each data set, and its score, see
            `projections.pairs`.
        source_name, target_name: Names of the data sets.
        links: How many are drawn at most.
        unit: What the scores are.

    Raises:
        ValueError: no score is positive; a width has no sign.
    """
    import plotly.graph_objects as go

    flows = sorted(
        ((row[source_name], row[target_name], row["score"]) for row in pairs if row["score"] > 0),
        key=lambda flow: -flow[2],
    )[:links]
    if not flows:
        raise ValueError(
            f"sankey: wanted pairs with positive scores, got none among {len(pairs)}; center the "
            "scores"
        )
    sources, targets = (list(dict.fromkeys(flow[side] for flow in flows)) for side in (0, 1))
    colors = len(PALETTE) - 1  # gray is for the targets
    hues = {name: PALETTE[i % colors] for i, name in enumerate(sources)}
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            textfont=dict(size=12, color=INK, shadow="none"),
            node=_nodes([*sources, *targets], [*hues.values(), *[SOFT] * len(targets)]),
            link=_links(flows, sources, targets, hues),
        )
    )
    dress(figure, "", "", title, [], 24)
    top = figure.layout.margin.t + 20
    over = dict(xref="paper", y=1, yref="paper", yanchor="bottom", yshift=6, showarrow=False)
    for text, x, side in ((source_name, 0, "left"), (f"{target_name}, {unit}", 1, "right")):
        figure.add_annotation(text=f"<b>{plain(text)}</b>", x=x, xanchor=side, **over)
    tall = max(120, NODE * max(len(sources), len(targets)))
    return figure.update_layout(height=top + tall + 20, margin=dict(l=8, r=8, t=top, b=20))


def _nodes(names: Sequence[str], colors: Sequence[str]) -> dict[str, Any]:
    """The classes of a Sankey diagram; the whole name is shown on hover."""
    return dict(
        label=[plain(shortened(name, 2 * LETTERS)) for name in names],
        pad=10,
        thickness=10,
        customdata=[plain(name) for name in names],
        color=colors,
        line_width=0,
        hovertemplate="%{customdata}: %{value:.3g}<extra></extra>",
    )


def _links(
    flows: Sequence[tuple[str, str, float]],
    sources: list[str],
    targets: list[str],
    hues: Mapping[str, str],
) -> dict[str, Any]:
    """The links of a Sankey diagram, (source, target, score) each, in the source's color."""
    ends = [(sources.index(s), len(sources) + targets.index(t)) for s, t, _ in flows]
    source, target = np.array(ends, dtype=np.int16).T
    hover = "%{source.customdata}<br>→ %{target.customdata}: %{value:.3g}<extra></extra>"
    return dict(
        source=source,
        target=target,
        value=np.array([score for *_, score in flows], dtype=np.float32),
        color=[hues[s] + LINK for s, *_ in flows],
        hovertemplate=hover,
    )


# ----------------------------------------------------------------------------------------- pieces


def _full(scores: np.ndarray) -> float:
    """Where the colors end: the FULL quantile of absolute scores; if that is 0, the largest."""
    sizes = np.abs(scores[np.isfinite(scores)])
    if not sizes.size:
        return 1.0
    return float(np.quantile(sizes, FULL, method="higher") or sizes.max() or 1.0)


def shortened(name: str, letters: int = LETTERS) -> str:
    """Cut a name to so many letters.

    Args:
        letters: How many at most, the ellipsis included.
    """
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def rings(figure: Figure, x: Sequence | np.ndarray, y: Sequence | np.ndarray, word: str) -> None:
    """Draw rings at these places, dark on white, visible on any color; the pointer ignores them.

    Args:
        x, y: Places [n], as the axes have them: names or numbers.
        word: What the legend calls them.
    """
    for color, width, shown in (("#FFFFFF", 3.6, False), (INK, 1.6, True)):
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name=plain(word),
            showlegend=shown,
            hoverinfo="skip",
            marker=dict(symbol="circle-open", size=10, color=color, line=dict(width=width)),
        )


def _named_axis(update, drawn: list[str], classes: list[str], **looks) -> int:
    """Dress a class axis, with names if there is room; return the pixels of slanted names."""
    looks |= dict(
        type="category",
        showgrid=False,
        showline=True,
        mirror=True,
        ticks="",
        showticklabels=False,
        categoryorder="array",
        categoryarray=drawn,
        showspikes=True,
        spikemode="across",
        spikethickness=-1,
        spikedash="solid",
        spikecolor=SOFT,
        spikesnap="hovered data",
    )
    short = [shortened(name) for name in classes]
    if len(drawn) > NAMED:
        update(**looks)
        return 0
    looks |= dict(
        showline=False,
        showticklabels=True,
        tickvals=drawn,
        ticktext=[plain(name) for name in short],
        ticklabelstandoff=4,
        tickfont=dict(size=13 if len(drawn) <= 14 else 10),
    )
    slanted = max(map(len, short)) > 4 and looks["range"][0] < looks["range"][1]
    update(**looks, tickangle=-45 if slanted else 0)
    return int(5 * max(map(len, short))) if slanted else 0
