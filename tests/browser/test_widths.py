"""Figures, tables, clips and controls in a narrow JupyterLab: nothing has to be scrolled sideways.

At 1000 pixels with the file browser open, an output has 568. On a wide screen a figure stays 760."""

import pytest

from benchmarks.notebook import write
from tests.browser.contrast import OUTPUTS
from tests.browser.tabs import ARTIFACTS, THEME, WIDE, complaints, holds, run
from vidbench.view.looks import WIDTH

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAME = "95_widths"
BOOK = (
    """import numpy as np
from benchmarks.browsing import synthetic
from vidbench.view import clouds, figures, galleries, heatmaps, relations
from vidbench.view.widgets import shown
random = np.random.default_rng(0)
names = [f"a rather long class name {n}" for n in range(6)]
clips = random.integers(0, 255, (2, 8, 48, 64, 3), dtype=np.uint8)
galleries.filmstrip(clips)""",
    """long = {f"infonce with a rather long name {n}": ([1, 2, 3], [0.1 * n, 0.4, 0.5]) for n in range(4)}
title = "R@k of four runs whose names are rather long, on the held-out videos of three toy worlds"
figures.curves(long, "k", "R@k (%)", title, percent=True, levels={"chance": 0.1})""",
    """rows = [figures.Bar(m, g, 0.5, 0.4, 0.6) for m in ("InfoNCE", "CoCLR", "UberNCE")
        for g in ("RGB", "flow", "both", "RGB, probe", "flow, probe")]
figures.bars(rows, "R@1 (%)", title)""",
    "heatmaps.heatmaps({'map': random.random((8, 7, 9)), 'filtered': random.random((8, 7, 9))}, range(8), title)",
    "heatmaps.confusion(np.eye(6), names, title)",
    """scores = random.standard_normal((6, 6))
classes = relations.Classes(names, [f"{one}, other" for one in names], marks=[(names[0], f"{names[1]}, other")])
display(relations.heatmap(scores, classes, title), clouds.against(scores, scores.T, classes, title))""",
    "view = shown(synthetic(160, 40))\nview",
)
PLOTS = 7
WIDTHS = """() => [...document.querySelectorAll(".js-plotly-plot .main-svg:first-child")].map(one => one.clientWidth)"""


def test_outputs_fit_a_narrow_window(desk):
    write(desk[2] / f"{NAME}.ipynb", BOOK)
    with run(desk, NAME, PLOTS) as (tab, trouble):
        assert complaints(tab, trouble, PLOTS) == []
        before = tab.evaluate(WIDTHS)
        tab.set_viewport_size({"width": 1000, "height": 1900})
        holds(tab, f"() => ({WIDTHS})().every(one => one < 600)")
        for theme in ("Dark", "Light"):
            tab.evaluate(THEME, f"JupyterLab {theme}")
            holds(
                tab, "theme => document.body.dataset.jpThemeName === theme", f"JupyterLab {theme}"
            )
            for place, cell in enumerate(tab.locator(".jp-CodeCell").all()):
                cell.screenshot(path=ARTIFACTS / f"{NAME}-{place}-{theme.lower()}.png")
            said = tab.evaluate(WIDE, OUTPUTS)
            assert said == [], "\n".join(said)
        tab.set_viewport_size({"width": 1280, "height": 1900})
        holds(tab, f"before => JSON.stringify(({WIDTHS})()) === JSON.stringify(before)", before)
        assert set(before[:-1]) == {WIDTH}
