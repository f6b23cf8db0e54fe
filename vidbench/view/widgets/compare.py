"""The comparison of two runs with controls: which runs, which measurement, gained and lost clips."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidbench.evaluate.chance import no_labels
from vidbench.evaluate.outcomes import of_retrieval
from vidbench.evaluate.paired import Paired, compare, paired
from vidbench.view import compare as pages
from vidbench.view.looks import Html, escaped
from vidbench.view.widgets.behind import Behind, Still
from vidbench.view.widgets.behind_controls import BehindControls
from vidbench.view.widgets.videos import Videos

if TYPE_CHECKING:
    from vidbench.data.manifest import Manifest
    from vidbench.evaluate.searches import Searched


class Runs:
    """Run directories to compare, two at a time.

    Args:
        folders: Run directories, A and B first; each keeps what it found of single videos
            (evaluate.outcomes).
        task: Only this task; "" takes all that both have.

    Raises:
        ValueError: There are fewer than two.
    """

    def __init__(self, folders: Sequence[str | Path], task: str = ""):
        self.folders, self.task = [Path(one) for one in folders], task
        if len(self.folders) < 2:
            raise ValueError(f"Runs needs at least two run directories; got {len(self.folders)}.")

    def pairs(self, one: int = 0, other: int = 1) -> list[Paired]:
        """Compare two of the runs, by their numbers.

        Args:
            one, other: Numbers of the runs, from 0.

        Raises:
            RunError: See paired.compare.
        """
        return compare(self.folders[one], self.folders[other], self.task)

    def still(self) -> Still:
        """Return the first comparison as it is kept in an executed notebook or page."""
        pair = self.pairs()[0]
        shown = pages.behind(pair).still()
        return Still(
            shown.figure, Html(f"{pages.headline(pair)}{pages.metrics_table(pair)}{shown.clips}")
        )


def of_searches(
    found: Mapping[str, Searched], one: str, other: str, queries: Manifest, flow: str | Path = ""
) -> Behind | str:
    """Compare two searches of the same queries: gained and lost clips, class by class.

    Args:
        found: The searches by name.
        one, other: A and B.
        queries: Their videos.
        flow: A flow store, see `Videos.of`.

    Returns:
        A sentence instead, if there are no labels or no second search.
    """
    if not found[one].hits:
        return no_labels("R@1 of each class")
    if other not in found:
        return "one search only: nothing to compare"
    a, b = (
        of_retrieval(made.neighbors, made.hits, made.protocol, made.sides[0], queries)
        for made in (found[one], found[other])
    )
    pair = paired(a, b, (one, other))
    return pages.behind(pair, Videos.of(queries, flow_folder=flow), pair.sentence)


class CompareControls:
    """Controls over `Runs`: A, B, the measurement; sentence, numbers, figure and clips."""

    def __init__(self, runs: Runs):
        import ipywidgets

        self.runs, self.pairs = runs, [*runs.pairs()]
        names = [(name, place) for place, name in enumerate(_names(runs.folders))]
        wide = {"width": "420px", "max_width": "100%"}
        self.one, self.other = (
            ipywidgets.Dropdown(options=names, value=place, description=letter, layout=wide)
            for place, letter in enumerate("AB")
        )
        self.which = ipywidgets.Dropdown(description="measured", layout=wide)
        self.head, self.figure = ipywidgets.HTML(), ipywidgets.Output()
        self.body = ipywidgets.VBox()
        choices = ipywidgets.HBox([self.one, self.other, self.which])
        choices.layout.flex_flow = "row wrap"
        self.box = ipywidgets.VBox([choices, self.head, self.figure, self.body])
        self.which.observe(self._draw, "value")
        self._list()
        for control in (self.one, self.other):
            control.observe(self._moved, "value")

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def _moved(self, _: Any) -> None:
        """Compare the two runs that are chosen now, or say why they cannot be compared."""
        try:
            self.pairs = self.runs.pairs(self.one.value, self.other.value)
        except (ValueError, OSError, RuntimeError) as error:
            self.pairs = []
            self.head.value = f"<b>{escaped(error)}</b>"
        self._list()

    def _list(self) -> None:
        """List the measurements that both runs have, and show the first."""
        self.which.unobserve(self._draw, "value")
        self.which.options = [
            (pages.heading(pair, self.pairs), place) for place, pair in enumerate(self.pairs)
        ]
        self.which.index = 0 if self.pairs else None
        self.which.observe(self._draw, "value")
        self._draw(None)

    def _draw(self, _: Any) -> None:
        """Show one measurement."""
        if self.which.value is None:
            self.figure.outputs, self.body.children = (), ()
            return
        pair = self.pairs[self.which.value]
        self.head.value = f"{pages.headline(pair)}{pages.metrics_table(pair)}"
        shown = BehindControls(pages.behind(pair))
        assert shown.behind.figure is not None, "a comparison has a figure"
        drawn = json.loads(shown.behind.figure.to_json())
        plot = {"output_type": "display_data", "metadata": {}}
        self.figure.outputs = ({**plot, "data": {"application/vnd.plotly.v1+json": drawn}},)
        self.body.children = [shown.open()]


def _names(folders: Sequence[Path]) -> list[str]:
    """The run directories below the folder that contains them all."""
    whole = [folder.expanduser().resolve() for folder in folders]
    above = Path(os.path.commonpath([folder.parent for folder in whole]))
    return [folder.relative_to(above).as_posix() for folder in whole]


def show(runs: Runs) -> CompareControls:
    """Put controls on the comparison of runs, for a notebook with a kernel."""
    return CompareControls(runs)
