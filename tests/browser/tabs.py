"""A notebook in a tab of JupyterLab in headless Chromium: run, waited for, checked, pictured."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from benchmarks.browsing import opened
from tests import ROOT
from tests.browser.contrast import LINES, LOW, OUTPUTS, TEXT

ARTIFACTS = Path(os.environ.get("VIDBENCH_ARTIFACTS") or ROOT / "runs" / "browser")
BOOK_SECONDS, CLICK_SECONDS = 600, 60  # at most, on a busy machine
SIZE = (1280, 1900)  # pixels of the tab: a whole browser of neighbors with its map
TOUR, NEIGHBORS, PAIRS, RETRIEVAL = (
    "00_tour",
    "12_coclr_neighbours",
    "31_multitrain_projections",
    "43_neighbors",
)
PLOTS = {
    TOUR: 1,
    NEIGHBORS: 6,
    PAIRS: 5,
    RETRIEVAL: 2,
}  # plotly figures, those among controls with them
# anywidget says this of a module that took over two seconds, which vidbench's get over
LATE = "[anywidget] Failed to initialize model."
CONTROLS = ".jp-OutputArea-output:has(.vidbench-plot .js-plotly-plot)"
MAP = ".vidbench-plot .js-plotly-plot"
QUERY = '.vidbench-tiles div[title^="query"]'
QUERY_SHOWN = (
    "([where, name]) => document.querySelector(where).querySelector('span[title]').title === name"
)
PROMPTS = """() => [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")].map(
    one => one.innerText.trim())"""
STDERR = '[data-mime-type="application/vnd.jupyter.stderr"]'  # where JupyterLab shows errors, too
DONE = f"""() => {{
    const all = ({PROMPTS})();
    return all.every(one => /^\\[\\d+\\]:$/.test(one)) || document.querySelector(".jp-Dialog") ||
        document.querySelector('{STDERR}') && !all.includes("[*]:");
}}"""
# All pictures and so many plots are there. A picture out of sight loads late, so this requests all
# first; a plot has axes and in them something drawn.
DRAWN = """wanted => {
    const pictures = [...document.querySelectorAll(".jp-OutputArea img[src]")];
    pictures.forEach(one => { one.loading = "eager"; });
    const plots = [...document.querySelectorAll(".jp-RenderedPlotly, .jupyter-widgets .js-plotly-plot")];
    return pictures.every(one => one.complete) && !document.body.innerText.includes("Loading widget") &&
        plots.length >= wanted &&
        plots.every(one => one.querySelector(".point, .js-line, .hm image, .sankey-node, .y-axis"));
}"""
SEEN = """stderr => {
    const of = what => [...document.querySelectorAll(what)];
    return {
        errors: of(stderr).map(one => one.innerText),
        dialogs: of(".jp-Dialog").map(one => one.innerText),
        widgets: of(".jp-OutputArea-output").map(one => one.innerText).filter(text =>
            /^(Loading widget|Error displaying widget|FigureWidget\\()/.test(text.trim())),
        pictures: of(".jp-OutputArea img[src]").filter(one => !one.naturalWidth).map(
            one => one.alt || one.src.slice(0, 60)),
        plots: of(".jp-RenderedPlotly, .jupyter-widgets .js-plotly-plot").map(one =>
            one.querySelectorAll(".point, .js-line, .hm image, .sankey-node, .y-axis").length),
    };
}"""
THEME = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
# what is wider than its place (tables of eight columns or more scroll), and words of a plot that are
# cut off at its edges
WIDE = """where => [
    ...[...document.querySelectorAll(`${where}, ${where} *`)].filter(one => !one.closest("svg, pre, select, style")
        && one.clientWidth && one.scrollWidth > one.clientWidth + 2 && !one.querySelector("tr > :nth-child(8)")
        && ["auto", "scroll"].includes(getComputedStyle(one).overflowX)).map(
        one => `${one.scrollWidth} of ${one.clientWidth} px: ${one.innerText.slice(0, 60)}`),
    ...[...document.querySelectorAll(".js-plotly-plot")].flatMap(plot => {
        const place = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("text")].filter(one => {
            const box = one.getBoundingClientRect();
            return box.width && (box.left < place.left - 1 || box.right > place.right + 1);
        }).map(one => `cut off: ${one.textContent.slice(0, 60)}`);
    })]"""
STAR = "plot => (star => [star.x[0], star.y[0]])(plot._fullData.find(one => one.name === 'query'))"
# where the points of the first traces are in the page, their words, and the plot's frame
POINTS = """plot => {
    const frame = plot.querySelector(".nsewdrag").getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
    const sides = plot._fullData.slice(0, 2).map(side => Array.from(side.x, (x, i) => ({
        x: frame.left + xaxis.d2p(x), y: frame.top + yaxis.d2p(side.y[i]), at: [x, side.y[i]],
        says: side.text ? side.text[i] : "" })));
    return {sides, frame: [frame.left, frame.top, frame.right, frame.bottom]};
}"""


@contextmanager
def run(
    desk, name: str, plots: int | None = None, seconds: float = CLICK_SECONDS, script: str = ""
):
    """A tab in which the notebook has run, and its list of troubles; its last picture is kept
    whatever happens.

    plots: how many to wait for; those of PLOTS unless given. seconds: for pictures and plots to
    come after the last cell. script: runs in the page before its own scripts.
    """
    browser, address, _ = desk
    tab, trouble = opened(browser, address(f"{name}.ipynb"), SIZE, script)
    tab.set_default_timeout(1e3 * CLICK_SECONDS)
    try:
        wait(tab, DONE, BOOK_SECONDS)
        wait(tab, DRAWN, seconds, PLOTS[name] if plots is None else plots)
        yield tab, trouble
    finally:
        tab.screenshot(path=ARTIFACTS / f"{name}-end.png")
        tab.close()


def wait(tab, condition: str, seconds: float = CLICK_SECONDS, argument=None) -> None:
    """Until a condition holds in the page. What does not come is left to what is then looked at."""
    from playwright.sync_api import TimeoutError

    try:
        tab.wait_for_function(condition, arg=argument, timeout=1e3 * seconds, polling=100)
    except TimeoutError:
        pass


def complaints(tab, trouble: list[str], plots: int) -> list[str]:
    """What is wrong with a page whose notebook has run, in words."""
    numbers, seen = tab.evaluate(PROMPTS), tab.evaluate(SEEN, STDERR)
    said = [
        f"cell {place} has no number but {text!r}"
        for place, text in enumerate(numbers, 1)
        if not text.strip("[]:").isdigit()
    ]
    said += [f"an error, or words on stderr: {text}" for text in seen["errors"]]
    said += [f"a dialog: {text}" for text in seen["dialogs"]]
    said += [f"a widget is words: {text[:80]}" for text in seen["widgets"]]
    said += [f"a picture is not shown: {text}" for text in seen["pictures"]]
    if len(seen["plots"]) != plots or 0 in seen["plots"]:
        said.append(f"wanted {plots} plots with something in them; got the parts {seen['plots']}")
    return said + [text for text in trouble if LATE not in text]


def picture(tab, name: str, what: str = CONTROLS) -> None:
    """Keep a picture of a part of the page for those who look."""
    tab.locator(what).last.scroll_into_view_if_needed()
    tab.locator(what).last.screenshot(path=ARTIFACTS / f"{name}.png")


def holds(tab, condition: str, argument=None) -> None:
    """The condition comes to hold in the page. Raises AssertionError with it where it does not."""
    wait(tab, condition, argument=argument)
    assert tab.evaluate(condition, argument), (
        f"{condition} never came to hold of {json.dumps(argument)}"
    )


def readable(tab, name: str) -> None:
    """All words and lines of outputs have enough contrast in JupyterLab's dark and light theme."""
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        tab.evaluate(THEME, theme)
        holds(tab, "theme => document.body.dataset.jpThemeName === theme", theme)
        tab.screenshot(path=ARTIFACTS / f"{name}-{theme.split()[1].lower()}.png")
        low = tab.evaluate(LOW, [OUTPUTS, TEXT, LINES])
        assert low == [], f"{name}, {theme}:\n" + "\n".join(low)


def inside(
    left: float, top: float, right: float, bottom: float, point: dict, room: float = 0
) -> bool:
    return left - room < point["x"] < right + room and top - room < point["y"] < bottom + room
