"""Map, table and clips linked, as a person sees them: lasso, rows, pages, tags, csv, colors, hover."""

import csv
import re

import pytest

from benchmarks.notebook import write
from tests.browser.contrast import LINES, LOW, TEXT
from tests.browser.tabs import (
    ARTIFACTS,
    MAP,
    POINTS,
    THEME,
    complaints,
    holds,
    picture,
    readable,
    run,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAME = "95_selection"
BOOK = (
    """import numpy as np
from benchmarks.browsing import synthetic
from vidbench.view.widgets import shown
browser = synthetic(160, 40)
browser.add_column("brightness", np.linspace(0, 1, 160), np.linspace(0, 1, 40))""",
    "view = shown(browser)\nview",
    """print("chosen", len(view.selection), sorted({tag for row in view.selection.rows for tag in row["tags"]}))
if len(view.selection) > 30:
    browser.selection = view.selection.ids[:5]""",
)
# the clips' heading counts as many videos as the map shows selected
COUNTED = """map => {
    const lit = document.querySelector(map)._fullData.slice(0, 2).reduce(
        (sum, one) => sum + (one.selectedpoints?.length ?? 0), 0);
    return lit && document.querySelectorAll(".vidbench-tiles")[1].innerText.startsWith(`${lit} videos`);
}"""
PANE = ".vidbench-tiles >> nth=1"
SHEET = "table:has([data-act])"


def test_lasso_pages_tag_csv_and_python(desk):
    write(desk[2] / f"{NAME}.ipynb", BOOK)
    with run(desk, NAME, 1) as (tab, trouble):
        assert complaints(tab, trouble, 1) == []
        readable(tab, NAME)
        lassos(tab)
        lasso(tab)
        pages(tab)
        tagged_and_saved(tab, desk[2])
        table(tab)
        colors(tab)
        hover(tab)
        keys(tab)
        picture(tab, f"{NAME}-all")
        readable(tab, f"{NAME}-used")
        read_in_a_cell(tab)
        assert complaints(tab, trouble, 1) == []


def choose(tab, what: str, value: str) -> None:
    tab.locator(f".widget-dropdown:has(label:text-is('{what}')) select").select_option(value)


def lit(tab) -> int:
    """How many points the map shows as selected."""
    count = "plot => plot._fullData.slice(0, 2).reduce((sum, one) => sum + (one.selectedpoints?.length ?? 0), 0)"
    return tab.locator(MAP).evaluate(count)


def lassos(tab) -> None:
    """Lassos drawn in a row each replace the selection; one around the same points keeps it."""
    seen = []
    for share in (0.5, 0.7, 0.7, 0.3):
        draw(tab, share)
        tab.wait_for_timeout(300)
        holds(tab, COUNTED, MAP)
        seen.append(tab.locator(PANE).inner_text().split(" videos")[0])
    assert seen[1] == seen[2] and len({*seen}) == 3, seen


def lasso(tab) -> None:
    """A lasso around all points selects all videos."""
    draw(tab)
    tab.locator(PANE).locator("img").first.wait_for()
    holds(tab, COUNTED, MAP)
    assert tab.locator(PANE).inner_text().startswith("200 videos, 1 to 24") and lit(tab) == 200


def draw(tab, share: float = 1) -> None:
    """Draw a lasso around this left share of the map."""
    tab.locator(MAP).scroll_into_view_if_needed()
    left, top, right, bottom = tab.locator(MAP).evaluate(POINTS)["frame"]
    right = left + share * (right - left)
    tab.mouse.move(left + 3, top + 3)
    tab.mouse.down()
    for x, y in (
        (right - 3, top + 3),
        (right - 3, bottom - 3),
        (left + 3, bottom - 3),
        (left + 3, top + 5),
    ):
        tab.mouse.move(x, y, steps=8)
    tab.mouse.up()


def pages(tab) -> None:
    """The buttons lead through all clips, by mouse and by keyboard."""
    first = tab.locator(PANE).locator("[data-pick]").first.get_attribute("data-pick")
    after = tab.locator("button[title='next page']").first
    after.click()
    holds(
        tab,
        "() => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith('200 videos, 25 to 48')",
    )
    assert tab.locator(PANE).locator("[data-pick]").first.get_attribute("data-pick") != first
    after.focus()
    for page in range(3, 10):
        tab.keyboard.press("Enter")
        words = f"200 videos, {24 * page - 23} to {min(200, 24 * page)}"
        holds(
            tab,
            "words => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith(words)",
            words,
        )
    assert after.is_disabled()
    picture(tab, f"{NAME}-lasso")


def tagged_and_saved(tab, folder) -> None:
    """A tag is in the csv, and a second csv gets another name."""
    tab.locator("input[placeholder='tag']").fill("odd")
    tab.keyboard.press("Enter")
    tab.locator("button:text-is('tag')").click()
    tab.locator("text=200 videos have the tag 'odd'").wait_for()
    for name in ("selection.csv", "selection-2.csv"):
        tab.locator("button:has-text('save csv')").last.click()
        tab.locator(f"text=/200 videos are in .*{name}/").wait_for()
        rows = list(csv.DictReader(open(folder / name, encoding="utf-8")))
        assert len(rows) == 200 and {row["tags"] for row in rows} == {"odd"}
        assert {"path", "class", "source video", "right", "score", "brightness"} <= set(rows[0])


def table(tab) -> None:
    """The table filters, sorts and turns; its rows replace the lasso's selection, map included."""
    tab.locator("button:has-text('clear')").click()
    tab.locator(PANE).locator("text=Draw around").wait_for()
    assert lit(tab) == 0
    tab.locator("button:has-text('table of all videos')").click()
    tab.locator(SHEET).wait_for()
    tab.locator("input[placeholder='part of a path, class or tag']").fill("odd test/")
    tab.locator("button:text-is('select all 40')").wait_for()
    tab.locator("[data-act='sort score']").click()
    tab.locator("th[aria-sort='ascending']").wait_for()
    tab.locator("[data-act='sort score']").click()
    tab.locator("th[aria-sort='descending']").wait_for()
    scores = [
        float(text)
        for text in tab.locator(f"{SHEET} tbody tr").evaluate_all(
            """rows => rows.map(row => row.children[[...document.querySelectorAll('th')].findIndex(
            one => one.innerText.startsWith('score'))].innerText)"""
        )
    ]
    assert len(scores) == 15 and scores == sorted(scores, reverse=True)
    boxes = tab.locator(f"{SHEET} input[type=checkbox]")
    boxes.nth(1).focus()
    tab.keyboard.press("Space")
    holds(
        tab, "() => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith('1 video')"
    )
    holds(tab, "() => document.activeElement.matches('input[type=checkbox]:checked')")
    boxes.nth(4).click(modifiers=["Shift"])
    holds(
        tab,
        "() => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith('4 videos')",
    )
    assert lit(tab) == 4
    picture(tab, f"{NAME}-table")


def colors(tab) -> None:
    """Source videos are words with a rest; a number has a scale; class comes back."""
    shown = "plot => plot._fullData.filter(one => one.showlegend && one.visible === true).map(one => one.name)"
    choose(tab, "color", "source video")
    holds(
        tab,
        "where => document.querySelector(where)._fullLayout.title.text.endsWith('color by source video')",
        MAP,
    )
    names = tab.locator(MAP).evaluate(shown)
    assert "source 0" in names and any(name.startswith("other (") for name in names)
    assert lit(tab) == 4
    choose(tab, "color", "right")
    holds(
        tab,
        "where => document.querySelector(where)._fullLayout.title.text.endsWith('color by right')",
        MAP,
    )
    assert {"right", "no value"} <= set(tab.locator(MAP).evaluate(shown))
    choose(tab, "color", "brightness")
    tab.locator(f"{MAP} .cbaxis").first.wait_for()
    picture(tab, f"{NAME}-brightness")


def hover(tab) -> None:
    """A point under the pointer shows its clip, which is kept for the next time."""
    tab.locator(MAP).scroll_into_view_if_needed()
    found = tab.locator(MAP).evaluate(POINTS)
    spot = found["sides"][0][7]
    tab.mouse.move(spot["x"] - 3, spot["y"])
    tab.mouse.move(spot["x"], spot["y"])
    clip = tab.locator(".vidbench-hover img")
    clip.wait_for()
    assert clip.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    tab.screenshot(path=ARTIFACTS / f"{NAME}-hover.png")
    tab.mouse.move(found["frame"][0] - 30, found["frame"][1] - 30)
    tab.locator(".vidbench-hover").wait_for(state="hidden")


def read_in_a_cell(tab) -> None:
    """A cell reads the selection, and sets another."""
    tab.locator("button:text-is('select all 40')").click()
    holds(
        tab,
        "() => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith('40 videos')",
    )
    tab.locator(".jp-CodeCell").last.locator(".cm-content").click()
    tab.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    tab.locator("text=chosen 40 ['odd']").wait_for()
    holds(
        tab,
        "() => document.querySelectorAll('.vidbench-tiles')[1].innerText.startsWith('5 videos')",
    )
    assert lit(tab) == 5


POINT = "() => document.querySelector('.vidbench-steps').getAttribute('aria-label')"
RING = """() => { const {outlineStyle, outlineWidth} = getComputedStyle(document.querySelector(".vidbench-steps"));
    return outlineStyle === "solid" && parseFloat(outlineWidth) >= 2; }"""
MARK = """() => { const {left, top, width} = document.querySelector(".vidbench-at").getBoundingClientRect();
    return [left + width / 2, top + width / 2]; }"""


def keys(tab) -> None:
    """Tab reaches the map, arrows go from point to point, Enter makes the point the query; its card
    has the colors of the theme."""
    tab.evaluate(THEME, "JupyterLab Dark")
    tab.locator(".widget-dropdown:has(label:text-is('color')) select").focus()
    for _ in range(3):  # the button of the table, then the map
        tab.keyboard.press("Tab")
        if tab.evaluate("() => document.activeElement.matches('.vidbench-steps')"):
            break
    holds(tab, "() => document.activeElement.matches('.vidbench-steps')")
    holds(tab, RING)
    first = tab.evaluate(POINT)
    assert " of 200" in first, "it says which video"
    x, y = tab.evaluate(MARK)
    tab.keyboard.press("ArrowRight")
    holds(tab, f"first => ({POINT})() !== first", first)
    right, level = tab.evaluate(MARK)
    assert right > x and abs(level - y) <= right - x + 1
    tab.keyboard.press("Home")
    holds(tab, f"() => ({POINT})().includes('gallery, video 1 of 200')")
    tab.keyboard.press("PageDown")
    holds(tab, f"() => ({POINT})().includes('gallery, video 2 of 200')")
    spot = tab.locator(MAP).evaluate(POINTS)["sides"][0][1]
    assert tab.evaluate(MARK) == pytest.approx([spot["x"], spot["y"]], abs=1.5)
    tab.locator(".vidbench-hover img").wait_for()
    assert tab.evaluate(LOW, [".vidbench-hover", TEXT, LINES]) == []
    back = "() => getComputedStyle(document.querySelector('.vidbench-hover')).backgroundColor"
    assert max(map(int, re.findall(r"\d+", tab.evaluate(back))[:3])) < 100, (
        "a card as dark as the theme"
    )
    tab.screenshot(path=ARTIFACTS / f"{NAME}-keys.png")
    tab.keyboard.press("Enter")
    chosen = "said => [...document.querySelectorAll('.widget-html')].some(one => one.innerText.includes(`${said} · `))"
    holds(tab, chosen, tab.evaluate(POINT).split(", ")[1])
    holds(tab, "() => document.activeElement.matches('.vidbench-steps')")
    tab.keyboard.press("Tab")
    holds(tab, "() => document.querySelector('.vidbench-hover').style.display === 'none'")
    uploads = "() => document.querySelectorAll('.modebar-btn[data-title^=Share]').length"
    assert tab.evaluate(uploads) == 0, "no button uploads a chart"
