"""Notebooks as a person sees them: run in JupyterLab, then clicked on."""

import os
from pathlib import Path

import pytest
from PIL import ImageColor

from benchmarks import measure
from benchmarks.browsing import lab, opened
from benchmarks.notebook import write
from tests.browser.tabs import (
    ARTIFACTS,
    CLICK_SECONDS,
    DRAWN,
    MAP,
    NEIGHBORS,
    PAIRS,
    PLOTS,
    POINTS,
    QUERY,
    QUERY_SHOWN,
    RETRIEVAL,
    SIZE,
    STAR,
    TOUR,
    complaints,
    holds,
    inside,
    picture,
    readable,
    run,
    wait,
)
from vidbench.view.looks import INK

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_tour(desk):
    with run(desk, TOUR) as (tab, trouble):
        assert complaints(tab, trouble, PLOTS[TOUR]) == []
        picture(tab, f"{TOUR}-neighbors", ".jp-OutputArea-output")
        loss = tab.locator(".jp-RenderedPlotly")
        loss.scroll_into_view_if_needed()
        found = loss.evaluate(POINTS)
        spot, (left, top, right, bottom) = found["sides"][0][3], found["frame"]
        tab.mouse.move(spot["x"], spot["y"])
        label = tab.wait_for_selector(".jp-RenderedPlotly .hoverlayer .legend").text_content()
        assert f"tour-flow-16 : {spot['at'][1]:#.4g}" in label, f"hovering over {spot} says {label}"
        picture(tab, f"{TOUR}-hover", ".jp-RenderedPlotly")
        whole = loss.evaluate("plot => plot._fullLayout.xaxis.range.slice()")
        tab.mouse.move(left + 0.5 * (right - left), (top + bottom) / 2)
        tab.mouse.down()
        tab.mouse.move(left + 0.8 * (right - left), (top + bottom) / 2, steps=5)
        tab.mouse.up()
        third = [whole[0] + share * (whole[1] - whole[0]) for share in (0.5, 0.8)]
        near = """([a, b, most]) => {
            const [x, y] = document.querySelector(".jp-RenderedPlotly")._fullLayout.xaxis.range;
            return Math.abs(x - a) < most && Math.abs(y - b) < most; }"""
        holds(tab, near, [*third, 0.02 * (whole[1] - whole[0])])
        tab.mouse.dblclick((left + right) / 2, (top + bottom) / 2)
        holds(tab, near, [*whole, 0.02 * (whole[1] - whole[0])])
        readable(tab, TOUR)
        wait(tab, DRAWN, argument=PLOTS[TOUR])
        assert complaints(tab, trouble, PLOTS[TOUR]) == []


@pytest.mark.parametrize("name", [NEIGHBORS, RETRIEVAL])
def test_neighbors(desk, name):
    with run(desk, name) as (tab, trouble):
        assert complaints(tab, trouble, PLOTS[name]) == []
        picture(tab, f"{name}-browser")
        readable(tab, name)
        tiles_and_back(tab)
        keys(tab)
        point_of_the_map(tab)
        picture(tab, f"{name}-clicked")
        lasso(tab)
        picture(tab, f"{name}-lasso")
        one_class(tab)
        wait(tab, DRAWN, argument=PLOTS[name])
        assert complaints(tab, trouble, PLOTS[name]) == []


def hovered(tab) -> str:
    """What the label at the pointer says, in ink: plotly takes the border's color for words of no
    color."""
    label = tab.wait_for_selector(f"{MAP} .hovertext text")
    assert label.evaluate("words => getComputedStyle(words).fill") == f"rgb{ImageColor.getrgb(INK)}"
    return label.text_content()


def query_name(tab) -> str:
    """The name of the video that is the query."""
    return named(tab.locator(QUERY))


def named(tile) -> str:
    """The whole name of a tile's video, which under the clip may be cut."""
    return tile.locator("span[title]").get_attribute("title")


def tiles_and_back(tab) -> None:
    """A click on a neighbor makes it the query, with its star on the map; `back` leads to the
    first one."""
    first, back = query_name(tab), tab.locator("button:has-text('back')")
    assert back.is_disabled()
    star = tab.locator(MAP).evaluate(STAR)
    tile = tab.locator('.vidbench-tiles div[title^="rank 2"]').first
    name = named(tile)
    assert name and name != first
    tile.click()
    holds(tab, QUERY_SHOWN, [QUERY, name])
    holds(
        tab,
        f"([where, ...at]) => ({STAR})(document.querySelector(where)).join() !== at.join()",
        [MAP, *star],
    )
    back.click()
    holds(tab, QUERY_SHOWN, [QUERY, first])
    holds(
        tab,
        f"([where, ...at]) => ({STAR})(document.querySelector(where)).join() === at.join()",
        [MAP, *star],
    )
    assert back.is_disabled()


def keys(tab) -> None:
    """Arrows move between tiles, Enter picks one, and the focus stays where it was."""
    tiles = tab.locator(".vidbench-tiles").first.locator("[data-pick]")
    first, name = query_name(tab), named(tiles.nth(1))
    tiles.first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    holds(tab, QUERY_SHOWN, [QUERY, name])
    at = """() => [...document.querySelectorAll(".vidbench-tiles [data-pick]")].indexOf(
        document.activeElement) === 1"""
    holds(tab, at)
    tab.locator("button:has-text('back')").click()
    holds(tab, QUERY_SHOWN, [QUERY, first])


def point_of_the_map(tab) -> None:
    """A click on the point farthest from all others makes its video the query, and the
    star goes there."""
    tab.locator(MAP).scroll_into_view_if_needed()
    found = tab.locator(MAP).evaluate(POINTS)
    every = [point for side in found["sides"] for point in side]

    def lonely(one: dict) -> float:
        return min(
            (one["x"] - other["x"]) ** 2 + (one["y"] - other["y"]) ** 2
            for other in every
            if other is not one
        )

    spot = max(found["sides"][0], key=lonely)
    tab.mouse.move(spot["x"], spot["y"])
    assert hovered(tab) == spot["says"].replace("<br>", "")
    tab.mouse.click(spot["x"], spot["y"])
    name = Path(spot["says"].split("<br>")[1]).stem
    holds(tab, QUERY_SHOWN, [QUERY, name])
    holds(
        tab,
        f"([where, ...at]) => ({STAR})(document.querySelector(where)).join() === at.join()",
        [MAP, *spot["at"]],
    )


def lasso(tab) -> None:
    """Videos within a lasso, counted here as well, fill the grid; a click on one of its clips makes
    it the query."""
    tab.locator(MAP).scroll_into_view_if_needed()
    # plotly's own listeners, of which one event overwrites the other, are gone; the clip at the
    # pointer has one
    assert tab.locator(MAP).evaluate("plot => plot._ev.listenerCount('plotly_hover')") == 1
    found = tab.locator(MAP).evaluate(POINTS)
    every, (left, top, right, bottom) = [p for side in found["sides"] for p in side], found["frame"]
    boxes = [
        (left + x, top + y, left + x + wide, top + y + wide)
        for wide in (60, 80, 100, 120)
        for x in range(10, int(right - left) - wide, 7)
        for y in range(10, int(bottom - top) - wide, 7)
    ]
    # with some points in it, and none so near to its edge that a pixel would decide
    clear = (
        box
        for box in boxes
        if 4
        <= sum(inside(*box, p, -4) for p in every)
        == sum(inside(*box, p, 4) for p in every)
        <= 24
    )
    a, b, c, d = next(clear)
    names = {Path(p["says"].split("<br>")[1]).stem for p in every if inside(a, b, c, d, p)}
    tab.mouse.move(a, b)
    tab.mouse.down()
    for x, y in ((c, b), (c, d), (a, d), (a, b + 1)):
        tab.mouse.move(x, y, steps=6)
    tab.mouse.up()  # at once, while the kernel may still be busy: nothing of the pointer gets lost
    grid = tab.locator(".vidbench-tiles").nth(1)
    grid.locator("img").first.wait_for()
    shown = [
        title.split(", ")[-1]
        for title in grid.locator('div[title^="video "]').evaluate_all(
            "tiles => tiles.map(one => one.title)"
        )
    ]
    assert sorted(shown) == sorted(names) and f"{len(names)} videos" in grid.inner_text()
    other = next(place for place, name in enumerate(shown) if name != query_name(tab))
    grid.locator('div[title^="video "]').nth(other).click()
    holds(tab, QUERY_SHOWN, [QUERY, shown[other]])


def one_class(tab) -> None:
    """The queries of one class only: fewer are left, and the map lights up its points before the
    others."""
    left = "() => [...document.querySelectorAll('.widget-html')].map(one => /([0-9]+) of ([0-9]+) queries/.exec("
    left += "one.innerText)).find(one => one)?.slice(1).map(Number)"
    before, every = tab.evaluate(left)
    tab.locator(".widget-dropdown:has-text('class') select").first.select_option("walk")
    holds(
        tab,
        "where => typeof document.querySelector(where)._fullData[0].marker.opacity === 'object'",
        MAP,
    )
    names, opacity = tab.locator(MAP).evaluate(
        "plot => (one => [Array.from(one.text), Array.from(one.marker.opacity)])(plot._fullData[0])"
    )
    assert [round(float(one), 2) for one in opacity] == [
        0.9 if name.startswith("walk<") else 0.06 for name in names
    ]
    after, same = tab.evaluate(left)
    assert 0 <= after < before and same == every and (before < every or after == every / 12)


def test_pairs(desk):
    with run(desk, PAIRS) as (tab, trouble):
        assert complaints(tab, trouble, PLOTS[PAIRS]) == []
        readable(tab, PAIRS)
        pair = tab.locator(MAP)
        pair.scroll_into_view_if_needed()
        found = pair.evaluate("""plot => {
            const frame = plot.querySelector(".nsewdrag").getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
            const {x, y} = plot._fullData[0], row = 3, column = 1;
            return {names: [y[row], x[column]], at: [frame.left + xaxis.d2p(x[column]), frame.top + yaxis.d2p(y[row])]};
        }""")
        tab.mouse.move(*found["at"])
        assert hovered(tab).startswith(" → ".join(found["names"]).replace(" ", "", 1))
        tab.mouse.click(*found["at"])
        chosen = """names => JSON.stringify(names) === JSON.stringify(
            [...document.querySelectorAll(".jupyter-widgets b")].map(one => one.innerText))"""
        holds(tab, chosen, found["names"])
        alts = tab.locator(".jupyter-widgets img").evaluate_all(
            "clips => clips.map(one => one.alt.split(', ')[0])"
        )
        assert alts == [
            name for name in found["names"] for _ in range(2)
        ]  # that ship of each class
        holds(
            tab, "where => document.querySelector(where)._fullLayout.shapes.length === 2", MAP
        )  # the cross-hair
        wait(tab, DRAWN, argument=PLOTS[PAIRS])
        picture(tab, f"{PAIRS}-cell")
        row = tab.locator(".jupyter-widgets .widget-hbox:has(button)").nth(1)
        names = [text.strip() for text in row.locator("span").all_inner_texts()[:2]]
        assert names != found["names"]
        row.locator("button").click()
        holds(tab, chosen, names)
        picture(tab, f"{PAIRS}-row")
        tab.locator(".widget-dropdown:has-text('read-out') select").select_option("scaled")
        holds(
            tab,
            "where => document.querySelector(`${where} .gtitle`).textContent.includes('scaled')",
            MAP,
        )
        picture(tab, f"{PAIRS}-scaled")
        wait(tab, DRAWN, argument=PLOTS[PAIRS])
        assert complaints(tab, trouble, PLOTS[PAIRS]) == []


SLOW = (
    """import numpy as np
from vidbench.evaluate.projections import Relation
from vidbench.view.widgets import pair_controls, pairs
names = {"a": tuple(f"a{i}" for i in range(40)), "b": tuple(f"b{i}" for i in range(30))}""",
    """def between(s, t):
    raw = np.random.default_rng(0).standard_normal((len(names[s]), len(names[t])))
    return Relation(s, t, names[s], names[t], {"raw": raw})
browser = pairs.Browser({("a", "b"): between("a", "b"), ("b", "a"): between("b", "a")})
controls = pair_controls.show(browser)
controls""",
    "controls.select('a3', 'b4')",
)
# anywidget drops a widget's updates if its module takes over 2 seconds to load. Here each module
# of at least so many bytes takes 3 seconds more, as on a slow machine: plotly's, or every one.
TARDY = """
const real = URL.createObjectURL.bind(URL), wait = "await new Promise(done => setTimeout(done, 3000));";
URL.createObjectURL = blob => real(blob.size < %d ? blob : new Blob([wait, blob], { type: blob.type }));
"""


@pytest.mark.parametrize("least", [1_000_000, 0])
def test_a_slow_machine_draws_and_updates(desk, least):
    write(desk[2] / "97_slow.ipynb", SLOW)
    with run(desk, "97_slow", 1, script=TARDY % least) as (tab, trouble):
        crossed = "where => document.querySelector(where)?._fullLayout?.shapes.length === 2"
        holds(tab, crossed, MAP)
        assert complaints(tab, trouble, 1) == []


BUSY = (
    "from benchmarks.browsing import synthetic\nfrom vidbench.view.widgets.controls import show",
    "show(synthetic(400, 40))",
)
LISTENING = "() => getComputedStyle(document.querySelector('[data-pick]')).cursor === 'pointer'"
SHOWN = """() => {
    const seen = one => one.complete && one.naturalWidth && one.checkVisibility();
    return [...document.querySelectorAll(".vidbench-tiles img")].some(seen);
}"""


def test_a_page_six_times_slower_shows_tiles_that_one_clicks(desk, tmp_path):
    """With JupyterLab's own choice of which cells are in the page. Twice: it once came up empty."""
    books = tmp_path / "books"
    books.mkdir()
    write(books / "96_busy.ipynb", BUSY)
    with lab(books, tmp_path / "lab", windowing="") as address:
        for number in range(2):
            tab, _ = opened(desk[0], address("96_busy.ipynb"), SIZE, slowdown=6)
            tab.set_default_timeout(1e3 * CLICK_SECONDS)
            try:
                tab.wait_for_function(SHOWN, timeout=30_000, polling=100)
                tile = tab.locator(".vidbench-tiles [data-pick]").nth(1)
                name = named(tile)
                tab.wait_for_function(LISTENING, timeout=1e3 * CLICK_SECONDS, polling=100)
                tile.click()
                holds(tab, QUERY_SHOWN, [QUERY, name])
                wait(tab, DRAWN, argument=1)
                star = tab.locator(MAP).evaluate(STAR)
                tab.locator("button:has-text('back')").click()
                moved = f"([where, ...at]) => ({STAR})(document.querySelector(where)).join() !== at.join()"
                holds(tab, moved, [MAP, *star])  # the map's updates come, too
            finally:
                tab.screenshot(path=ARTIFACTS / f"96_busy-{number}.png")
                tab.close()


CRACKS = {  # what a cell does -> what must be said of it
    'HTML(\'<img src="http://outside.invalid/x.png" alt="far">\')': "requested http://outside.invalid/x.png",
    'HTML(\'<img src="data:image/png;base64,AAAA" alt="torn">\')': "a picture is not shown: torn",
    "Javascript('console.error(\"a crack in the wall\")')": "console: a crack in the wall",
    "Javascript('setTimeout(() => { throw Error(\"a stone fell\"); })')": "error of the page: a "
    "stone fell",
    "print('smoke', file=sys.stderr)": "words on stderr: smoke",
    "display({'application/vnd.plotly.v1+json': {'data': [], 'layout': {}}}, raw=True)": "something in them; got",
}


def test_what_is_wrong_is_seen(desk):
    write(
        desk[2] / "98_cracks.ipynb",
        ("import sys\nfrom IPython.display import HTML, Javascript, display", *CRACKS),
    )
    with run(desk, "98_cracks", 1, seconds=5) as (tab, trouble):
        said = complaints(tab, trouble, 1)
    for cell, words in CRACKS.items():
        assert any(words in line for line in said), f"nothing was said of {cell}: {said}"


def test_a_cell_that_fails_is_seen(desk):
    write(
        desk[2] / "99_failing.ipynb",
        ("1 + 1", "raise OSError('the disk is made of cheese')", "1 + 2"),
    )
    with run(desk, "99_failing", 0) as (tab, trouble):
        said = complaints(tab, trouble, 0)
    assert any("made of cheese" in line for line in said) and any(
        "cell 4 has no number" in line for line in said
    )


def test_a_browser_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(measure.Skip, match="no Chromium; install"), measure.chromium():
        pass
