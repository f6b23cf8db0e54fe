"""The board of runs in JupyterLab, live, and its offline page, with made-up logs."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks.notebook import write
from tests.browser.contrast import LINES, LOW, TEXT
from tests.browser.tabs import ARTIFACTS, complaints, holds, readable, run
from vidbench.engine.runs import Run
from vidbench.evaluate.board import Board
from vidbench.methods import coclr
from vidbench.view.board import write_board
from vidbench.view.looks import PALETTE

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PLOT = ".js-plotly-plot"
# name of a run -> (color, dash) of its lines in the first chart that are drawn
DRAWN_LINES = """() => {
    const plot = document.querySelector(".js-plotly-plot");
    return Object.fromEntries(plot._fullData.filter(one => one.visible === true && one.yaxis === "y" &&
        one.opacity === 1).map(one => [one.name, [one.line.color, one.line.dash, one.y.length]]));
}"""
LOOKS = {"coclr-rgb": [PALETTE[1], "solid"], "infonce-flow": [PALETTE[0], "dash"]}


def logged(step, bump=0.3):
    loss = 4 * math.exp(-step / 40) + 0.5 + bump * (step % 3)
    numbers = {"loss": loss, "accuracy": step / 200, "lr": 1e-3 * math.exp(-step / 60)}
    return {"step": step, "epoch": step / 4, **numbers, "seconds": 30.0 * step, "clips": 8 * step}


def some_runs(folder):
    """Runs of several states, whose recipes differ in some fields."""
    alone = coclr.PRESETS["tiny"].alone
    made = {}
    for name, stream, state, rate, value in (
        ("coclr-rgb", "rgb", "complete", 3e-4, 0.5),
        ("infonce-flow", "flow", "running", 1e-3, 0.25),
        ("infonce-rgb", "rgb", "interrupted", 1e-2, None),
    ):
        fit = replace(alone.fit, lr=rate, epochs=40)
        one = Run.create(folder / name, "coclr", replace(alone, stream=stream, fit=fit))
        lines = (json.dumps(logged(step)) + "\n" for step in range(1, 81))
        (one.folder / "metrics.jsonl").write_text("".join(lines))
        for epoch in range(1, 11):
            one.log("monitor", step=8 * epoch, epoch=2.0 * epoch, knn=epoch / 20)
        one.status(state)
        if value:
            protocol = {"stream": stream, "windows": 4, "queries": "24-0badcafe"}
            one.add_result("retrieval", protocol, {"R@1": (value, value - 0.1, value + 0.1)})
        made[name] = one
    (folder / "half").mkdir()
    (folder / "half/environment.json").write_text("{}")
    return made


def lines_are(tab, wanted):
    """The runs that are drawn, each in its color and dash."""
    holds(
        tab,
        f"""wanted => {{
            const drawn = ({DRAWN_LINES})();
            return Object.keys(drawn).sort().join() === Object.keys(wanted).sort().join() &&
                Object.entries(wanted).every(([name, look]) => look.join() === drawn[name].slice(0, 2).join());
        }}""",
        wanted,
    )


ALL = {**LOOKS, "infonce-rgb": [PALETTE[0], "solid"]}


def test_a_board_in_a_notebook(desk, tmp_path):
    made = some_runs(tmp_path / "toy")
    cells = (
        "from vidbench.evaluate import results\nfrom vidbench.evaluate.board import Board\n"
        "from vidbench.view import board as drawn\nfrom vidbench.view.widgets import shown",
        f"board = Board({str(tmp_path / 'toy')!r})\nshown(board)",
        "drawn.compared(board.look(), results.numbers_of(board.results()))",
        "drawn.recipes(board.look())",
    )
    write(desk[2] / "board.ipynb", cells)
    with made["infonce-flow"].lock(), run(desk, "board", plots=2) as (tab, trouble):
        tab.wait_for_selector(".parcoords text")
        lines_are(tab, ALL)
        names = "plot => [plot._fullLayout.xaxis.title.text, plot._fullLayout.yaxis.title.text]"
        plot = tab.locator(PLOT).first
        assert plot.evaluate(names) == ["epoch", "loss"]
        readable(tab, "board")
        one = tab.locator(
            '.widget-checkbox:has(input[title="draw coclr-rgb"]) input, '
            '[title="draw coclr-rgb"] input'
        ).first
        one.click()
        lines_are(tab, {name: look for name, look in ALL.items() if name != "coclr-rgb"})
        one.click()
        lines_are(tab, ALL)
        for label, choice in (("axes", "log y"), ("x", "time")):
            tab.get_by_label(label, exact=True).first.select_option(choice)
        holds(
            tab,
            f"""() => {{ const layout = document.querySelector("{PLOT}")._fullLayout;
            return layout.yaxis.type === "log" && layout.xaxis.title.text === "training time (min)"; }}""",
        )
        before = plot.evaluate("plot => Array.from(plot._fullData[1].y)")
        slider = tab.locator(".widget-slider .noUi-handle").first
        slider.focus()
        for _ in range(6):
            slider.press("PageUp")
        holds(
            tab,
            f"""() => /^loss, EMA 0/.test(
            document.querySelector("{PLOT}")._fullLayout.yaxis.title.text)""",
        )
        after, raw = plot.evaluate("plot => [1, 0].map(i => Array.from(plot._fullData[i].y))")
        assert after != before and raw == before, "the logged line stays behind the smoothed one"
        for step in range(81, 91):
            made["infonce-flow"].log(**logged(step))
        holds(tab, f"() => ({DRAWN_LINES})()['infonce-flow'][2] === 90")
        assert len(plot.evaluate(f"() => ({DRAWN_LINES})()")) == 3
        readable(tab, "board-smooth")
        words = tab.inner_text("body")
        assert "1 running" in words and "broken or incomplete" in words
        said = complaints(tab, trouble, 2)  # which counts no lines of parallel coordinates
        assert [one for one in said if not one.startswith("wanted 2 plots")] == []


def test_the_page_of_a_board(desk, tmp_path):
    some_runs(tmp_path / "toy")
    page = write_board(tmp_path / "board.html", Board(tmp_path / "toy"))
    tab, trouble = desk[0].new_page(viewport={"width": 1000, "height": 1400}), []
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda one: one.url.startswith("http") and trouble.append(one.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector(".parcoords text")
    lines_are(tab, ALL)
    plot = tab.locator(PLOT).first
    tab.screenshot(path=ARTIFACTS / "board-page.png", full_page=True)
    assert tab.evaluate(LOW, ["figure, .piece", TEXT, LINES]) == []
    plot.locator(".legendtoggle").first.click()  # waits for a second click
    lines_are(tab, {name: look for name, look in ALL.items() if name != "coclr-rgb"})
    plot.locator(".legendtoggle").first.click()
    lines_are(tab, ALL)
    plot.locator(".updatemenu-button", has_text="time").click()
    title = f'document.querySelector("{PLOT}")._fullLayout'
    holds(tab, f'() => {title}.xaxis.title.text === "training time (min)"')
    assert plot.evaluate("plot => plot._fullData[1].x[79]") == 40
    plot.locator(".updatemenu-header").last.click()
    plot.locator(".updatemenu-dropdown-button", has_text="log y").first.click()
    holds(tab, f'() => {title}.yaxis.type === "log"')
    before = plot.evaluate("plot => Array.from(plot._fullData[1].y)")
    rail = plot.locator(".slider-rail-touch-rect").bounding_box()
    tab.mouse.click(rail["x"] + 0.6 * rail["width"], rail["y"] + rail["height"] / 2)
    holds(tab, f'() => {title}.yaxis.title.text === "loss, EMA 0.9"')
    after, raw = plot.evaluate("plot => [1, 0].map(i => Array.from(plot._fullData[i].y))")
    assert after != before and raw == before
    tab.screenshot(path=ARTIFACTS / "board-page-smooth.png", full_page=True)
    assert trouble == []
    tab.close()
