"""From a number to its clips, and two runs compared, as a person clicks and types."""

import pytest

from benchmarks.notebook import write
from tests.browser.tabs import complaints, holds, picture, readable, run

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLASSES = """import numpy as np
from pathlib import Path
from tests import makes
from vidbench.data.manifest import Manifest
from vidbench.evaluate.tables import Features
from vidbench.view.widgets import numbers, shown
classes, label = ("bow", "clap", "wave"), np.repeat([0, 1, 2], 6)
names = [f"{classes[one]}-{row}" for row, one in enumerate(label)]
folder = Path(runs_dir).resolve() / "behind"
for row, name in enumerate(names):
    folder.joinpath(f"{name}.mp4").exists() or makes.encode(
        folder / f"{name}.mp4", makes.texture(10, (48, 64), (2.0, -1.0), row))
rows = Manifest(folder, classes, [f"{one}.mp4" for one in names], label, np.ones(18), np.arange(18) // 2)
"""
TABLE = """values = np.full((18, 3), 0.1, np.float32)
predicted = label.copy()
predicted[[0, 2, 7]] = [1, 1, 2]
values[np.arange(18), predicted] = 0.8
table = Features(values, label, np.arange(18) // 2, classes, {"rows": rows.fingerprint()})
"""
BEHIND = (
    CLASSES,
    f"{TABLE}shown(numbers.confusion(table, rows, 'a run, test'))",
    "from vidbench.evaluate import probe\nshown(numbers.score_classes({'a run': probe.score(table)}, rows))",
    "shown(numbers.doubts(table, rows))",
    """from tests.evaluate.test_searches import tables
from vidbench.evaluate import searches
found = searches.search_all({"a": tables(0.3), "b": tables(9.0)})
shown(numbers.hubs(found, rows))""",
)
COMPARE = (
    CLASSES,
    """import json
from vidbench.engine.runs import Run, recipe_dict
from vidbench.evaluate import outcomes
from vidbench.methods import coclr
def kept(name, wrong):
    place = folder / name
    place.mkdir(exist_ok=True)
    held = {"method": "coclr", "recipe": recipe_dict(coclr.PRESETS["tiny"].alone)}
    (place / "recipe.json").write_text(json.dumps(held))
    right = ~np.isin(np.arange(18), wrong)
    one = outcomes.Outcome("retrieval", {"stream": "rgb"}, rows, {"R@1": right}, np.where(right, label, 0),
                           np.full(18, 0.5))
    outcomes.add(Run(place), one, {"R@1": (float(right.mean()), 0.0, 1.0)})
    return place
folders = [kept("coclr-rgb", [1, 8, 9]), kept("infonce-rgb", [1, 2, 3, 12])]""",
    """from vidbench.view.widgets.compare import Runs
shown(Runs(folders))""",
)
SHOWN = """([place, wanted]) => JSON.stringify([...document.querySelectorAll(".vidbench-behind")][place]
    .innerText.match(/(?:bow|clap|wave)-\\d+/g)) === JSON.stringify(wanted)"""
HEARD = "where => document.querySelector(where)?.classList.contains('vidbench-heard')"
PLOT = ".js-plotly-plot, .jp-RenderedPlotly"
CELL = """([row, column]) => {
    const plot = document.querySelector(".js-plotly-plot, .jp-RenderedPlotly"), {xaxis, yaxis} = plot._fullLayout;
    const frame = plot.querySelector(".nsewdrag").getBoundingClientRect(), {x, y} = plot._fullData[0];
    return [frame.left + xaxis.d2p(x[column]), frame.top + yaxis.d2p(y[row])];
}"""


def test_a_cell_and_a_class_row_show_the_clips_of_exactly_their_videos(desk):
    name = "95_behind"
    write(desk[2] / f"{name}.ipynb", BEHIND)
    with run(desk, name, 2) as (tab, trouble):
        assert complaints(tab, trouble, 2) == []
        holds(tab, SHOWN, [0, ["bow-0", "bow-2"]])
        holds(tab, HEARD, PLOT)
        tab.locator(PLOT).first.scroll_into_view_if_needed()
        tab.mouse.click(*tab.evaluate(CELL, [1, 2]))
        holds(tab, SHOWN, [0, ["clap-7"]])
        tab.mouse.click(*tab.evaluate(CELL, [0, 0]))
        holds(tab, SHOWN, [0, ["bow-1", "bow-3", "bow-4", "bow-5"]])
        picture(tab, f"{name}-cell", ".jp-CodeCell >> nth=2")
        by_keys(tab)
        picture(tab, f"{name}-rows", ".jp-CodeCell >> nth=3")
        of_two_curves(tab)
        readable(tab, name)
        assert complaints(tab, trouble, 2) == []


def by_keys(tab) -> None:
    """The list of cells and the rows of classes answer to the keyboard alone."""
    choice = tab.locator(".widget-dropdown select").first
    choice.focus()
    tab.keyboard.press("Home")
    holds(tab, SHOWN, [0, ["bow-0", "bow-2"]])
    row = tab.locator("[data-pick][role=button]:has-text('clap')")
    row.focus()
    tab.keyboard.press("Enter")
    holds(tab, SHOWN, [1, ["clap-7", "clap-6", "clap-8", "clap-9", "clap-10", "clap-11"]])
    tab.locator("[data-pick][role=button]:has-text('wave')").click()
    holds(tab, SHOWN, [1, [f"wave-{row}" for row in range(12, 18)]])


def test_two_runs_are_compared(desk):
    name = "94_compare"
    write(desk[2] / f"{name}.ipynb", COMPARE)
    with run(desk, name, 1) as (tab, trouble):
        assert complaints(tab, trouble, 1) == []
        assert "coclr-rgb - infonce-rgb = +5.6 points R@1 [" in tab.inner_text(".jp-Notebook")
        assert "]: not significant." in tab.inner_text(".jp-Notebook")
        holds(tab, SHOWN, [0, ["bow-2", "bow-3", "wave-12"]])
        holds(tab, HEARD, PLOT)
        tab.locator(PLOT).first.scroll_into_view_if_needed()
        at = """() => { const plot = document.querySelector(".js-plotly-plot, .jp-RenderedPlotly"),
            {xaxis, yaxis} = plot._fullLayout, {x, y} = plot._fullData[0],
            frame = plot.querySelector(".nsewdrag").getBoundingClientRect();
            return [frame.left + xaxis.d2p(x[2]), frame.top + yaxis.d2p(y[2])]; }"""
        tab.mouse.click(*tab.evaluate(at))
        holds(tab, SHOWN, [0, ["clap-8", "clap-9"]])
        picture(tab, f"{name}-class", ".jp-CodeCell >> nth=3")
        readable(tab, name)
        assert complaints(tab, trouble, 1) == []


# of each curve, where its point is whose height differs most from the other's, and that height
APART = """() => {
    const plot = [...document.querySelectorAll(".js-plotly-plot, .jp-RenderedPlotly")].at(-1);
    const {xaxis, yaxis} = plot._fullLayout, frame = plot.querySelector(".nsewdrag").getBoundingClientRect();
    const [a, b] = ["a", "b"].map(name => plot._fullData.find(one => one.name === name));
    const gaps = Array.from(a.y, (y, i) => Math.abs(y - b.y[i])), at = gaps.indexOf(Math.max(...gaps));
    return [a, b].map(one => [frame.left + xaxis.d2p(one.x[at]), frame.top + yaxis.d2p(one.y[at]), one.y[at]]);
}"""


def of_two_curves(tab) -> None:
    """A click on the hub curve of two runs means the run whose curve is at the pointer."""
    tab.locator(PLOT).last.scroll_into_view_if_needed()
    holds(
        tab,
        "where => [...document.querySelectorAll(where)].at(-1).matches('.vidbench-heard')",
        PLOT,
    )
    chosen = """words => [...document.querySelectorAll(".widget-dropdown select")].at(-1)
        .selectedOptions[0].text.startsWith(words)"""
    for place, name in ((1, "b"), (0, "a")):
        x, y, times = tab.evaluate(APART)[place]
        tab.mouse.click(x, y)
        holds(
            tab,
            f"words => ({chosen})(words.run) && document.body.innerText.includes(words.said)",
            {"run": f"{name}:", "said": f"found {times} times"},
        )
    picture(tab, "95_behind-hubs", ".jp-CodeCell >> nth=5")
