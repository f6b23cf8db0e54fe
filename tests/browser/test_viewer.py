"""The clip viewer in an offline page and in JupyterLab, by pointer and by keyboard."""

import re
import time

import psutil
import pytest

from benchmarks.notebook import write
from tests.browser.contrast import LINES, LOW, TEXT
from tests.browser.tabs import ARTIFACTS, holds, readable, run, wait
from vidbench.view import cards, clips, html
from vidbench.view.galleries import Row, gallery

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = {"width": 390, "height": 844}
NOW = "() => document.querySelector('.vidbench-viewer .now').textContent"
FRAME = re.compile(r"frame (\d+) of (\d+) · (\d+\.\d+) s")
# the mean of the pixels that are seen, in each pane
SEEN = """() => [...document.querySelectorAll(".vidbench-viewer canvas")].map(one => {
    const {data} = one.getContext("2d").getImageData(0, 0, one.width, one.height);
    return data.reduce((sum, value, i) => sum + value * (1 + i % 977), 0); })"""
ASKED_OTHER = """name => document.querySelector('.vidbench-tiles div[title^="query"] span[title]').title
    !== name"""
PATH = "() => document.querySelector('.vidbench-viewer .path').textContent"
OPEN = "() => Boolean(document.querySelector('dialog.vidbench-viewer[open] canvas'))"


@pytest.fixture
def page(desk, toy_tiny, tmp_path):
    """(an offline page's tab, its complaints): two queries, each with five clips."""
    look = clips.playing(toy_tiny)
    rows = [Row(look(query), [look(query + place) for place in range(1, 6)]) for query in (0, 40)]
    wide = html.table([{f"a long name of column {i}": 1.5 for i in range(6)}])
    parts = ["Words of a paragraph. " * 20, wide, gallery(rows)]
    file = html.write_page(tmp_path / "page.html", "A page", [html.Section("Clips", parts)])
    context, trouble = desk[0].new_context(viewport={"width": 1000, "height": 900}), []
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert trouble == []


def now(tab) -> tuple[int, int, float]:
    """Frame, frames of the video and seconds, as the viewer says them."""
    frame, of, seconds = FRAME.search(tab.evaluate(NOW)).groups()
    return int(frame), int(of), float(seconds)


def steps(tab) -> None:
    """Space pauses, the keys step by one frame, each with another picture and a later time."""
    tab.keyboard.press(" ")
    at, seen = now(tab), tab.evaluate(SEEN)
    tab.wait_for_timeout(400)
    assert now(tab) == at and "play" in tab.locator(".vidbench-viewer .play").inner_text()
    tab.keyboard.press(",")
    tab.keyboard.press(".")
    tab.keyboard.press(".")
    wait(tab, f"seen => JSON.stringify(({SEEN})()) !== JSON.stringify(seen)", argument=seen)
    after = now(tab)
    assert after != at and tab.evaluate(SEEN) != seen
    tab.keyboard.press("ArrowLeft")
    assert now(tab)[0] < after[0] and now(tab)[2] < after[2]


def test_a_page_by_pointer(page):
    tile = page.locator("[data-clip]").nth(2)
    tile.hover()
    page.screenshot(path=ARTIFACTS / "viewer-hover.png")
    tile.locator(".vidbench-enlarge").click()
    holds(page, OPEN)
    first = page.evaluate(NOW)
    holds(page, f"first => ({NOW})() !== first", first)  # it plays
    page.select_option(".vidbench-viewer .speed", "0.25")
    page.locator(".vidbench-viewer .bright").fill("3")
    look = "() => document.querySelector('.vidbench-viewer canvas').style.filter"
    assert page.evaluate(look) == "brightness(3)"
    page.locator(".vidbench-viewer .play").click()
    page.locator(".vidbench-viewer .frame").fill("4")
    seen, frame = page.evaluate(SEEN), now(page)
    page.locator(".vidbench-viewer .after").click()
    assert now(page)[0] > frame[0] and now(page)[2] > frame[2]
    holds(page, f"seen => JSON.stringify(({SEEN})()) !== JSON.stringify(seen)", seen)
    page.locator(".vidbench-viewer .copy").click()
    holds(page, "() => document.querySelector('.vidbench-viewer .said').textContent")
    copied = page.evaluate("navigator.clipboard.readText()")
    path = page.locator(".vidbench-viewer .path").inner_text()
    assert path.endswith(".mp4") and copied.startswith(f"{path}, frame {now(page)[0]} of ")
    assert page.evaluate(LOW, [".vidbench-viewer", TEXT, LINES]) == []
    page.screenshot(path=ARTIFACTS / "viewer-page.png")
    page.locator(".vidbench-viewer .close").click()
    holds(page, "() => document.activeElement === document.querySelectorAll('[data-clip]')[2]")


def test_a_page_by_keyboard(page):
    for _ in range(2):
        page.keyboard.press("Tab")
    place = "() => [...document.querySelectorAll('[data-clip]')].indexOf(document.activeElement)"
    at = page.evaluate(place)
    assert at >= 0
    page.keyboard.press("v")
    holds(page, OPEN)
    steps(page)
    page.keyboard.press("Escape")
    holds(page, f"at => ({place})() === at", at)
    page.keyboard.press("Enter")  # a tile that nothing else listens to opens by Enter, too
    holds(page, OPEN)


def test_a_page_on_a_phone(page):
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.screenshot(path=ARTIFACTS / "viewer-phone-page.png", full_page=True)
    page.locator("[data-clip]").nth(1).click()
    holds(page, OPEN)
    inside = """() => [...document.querySelectorAll(".vidbench-viewer *")].every(
        one => one.getBoundingClientRect().right <= innerWidth)"""
    assert page.evaluate(inside)
    page.screenshot(path=ARTIFACTS / "viewer-phone.png")


def test_an_older_browser_loops_the_clip_and_says_so(page):
    page.evaluate("() => { delete globalThis.ImageDecoder; }")
    page.locator("[data-clip]").first.click()
    holds(page, "() => document.querySelector('.vidbench-viewer[open] img')?.naturalWidth > 0")
    assert "newer browser" in page.locator(".vidbench-viewer .said").inner_text()
    assert page.locator(".vidbench-viewer .play").is_disabled()
    page.keyboard.press("Escape")
    holds(page, "() => !document.querySelector('.vidbench-viewer[open]')")


def test_clips_out_of_sight_do_not_play(desk, toy_tiny):
    """Chromium pauses them by itself: the CPU time of its processes says so."""
    look = clips.playing(toy_tiny, side=192)
    tiles = [look(row) for row in range(0, 48, 2)]
    shown = gallery([Row(tiles[0], tiles[1:])], side=192)

    def busy() -> float:
        each = psutil.Process().children(recursive=True)
        return sum(sum(one.cpu_times()[:2]) for one in each if "chrom" in one.name())

    spent = []
    tab = desk[0].new_page(viewport={"width": 1200, "height": 900})
    tab.set_content(f"{shown}<div style='height:9000px'></div>")
    for top in (0, 8000):
        tab.evaluate("top => scrollTo(0, top)", top)
        tab.wait_for_timeout(1000)
        began = busy()
        time.sleep(2)
        spent.append(busy() - began)
    tab.close()
    assert spent[1] < 0.3 * spent[0], f"seconds of CPU in sight and out of sight: {spent}"


CELLS = (
    """import numpy as np
from IPython.display import display
from vidbench.data.flow import store
from vidbench.data.toy.world import render
from vidbench.view.galleries import Row, gallery
from vidbench.view import clips
from vidbench.view.widgets import controls, neighbors
some = render(f"{runs_dir}/viewer-toy", preset="tiny", world="base", seed=0, workers=1, progress=False)
some = some.select(mask=np.arange(8) * 12)
flow = f"{runs_dir}/viewer-flow"
store.extract(some, flow, method="dis", workers=0, progress=False)""",
    """from vidbench.view.figures import curves
curves({"infonce": ([1, 2], [0.5, 0.25])}, "epoch", "loss", "The loss of a run")""",
    """look = clips.playing(some)
gallery([Row(look(0), [look(1), look(2)])])""",
    """vectors = np.random.default_rng(0).standard_normal((8, 16)).astype("float32")
lists = {"rgb": (vectors, vectors[:3])}
controls.show(neighbors.Browser(some, some.select(mask=np.arange(3)), lists, k=2, flow_folder=flow))""",
)


def test_jupyterlab(desk):
    write(desk[2] / "95_viewer.ipynb", CELLS)
    with run(desk, "95_viewer", 2) as (tab, trouble):
        plain = tab.locator(".jp-OutputArea-output:not(:has(.jupyter-widgets)) [data-clip]")
        plain.nth(1).focus()
        tab.keyboard.press("v")
        holds(tab, OPEN)
        steps(tab)
        tab.keyboard.press("Escape")
        holds(tab, "() => document.activeElement.dataset.clip?.includes('path')")
        assert tab.locator(".jp-Cell").count() == 5, "JupyterLab took a key of the viewer"
        heading = '.vidbench-tiles div[title^="query"] span[title]'
        query = tab.locator(heading).get_attribute("title")
        tile = tab.locator(".vidbench-tiles [data-pick]").nth(1)
        tile.hover()
        tile.locator(".vidbench-enlarge").click()
        holds(tab, "() => document.querySelectorAll('.vidbench-viewer[open] canvas').length === 2")
        frames = "() => document.querySelector('.vidbench-viewer .frame').max"
        assert int(tab.evaluate(frames)) + 1 == now(tab)[1], "every frame of the video"
        steps(tab)
        named = "plot => [plot.getAttribute('role'), plot.getAttribute('aria-label')]"
        plots = [["img", "The loss of a run"], ["group", "rgb: principal components"]]
        assert [one.evaluate(named) for one in tab.locator(".js-plotly-plot").all()] == plots
        assert tab.locator(heading).get_attribute("title") == query, (
            "the button is no click on the tile"
        )
        readable(tab, "95_viewer")
        tab.keyboard.press("Escape")
        holds(tab, "() => document.activeElement.matches('.vidbench-tiles [data-pick]')")
        holds(tab, "() => !document.querySelector('[data-whole]')")
        tab.keyboard.press("n")  # the next query of which all neighbors are wrong
        holds(tab, ASKED_OTHER, query)
        holds(tab, "() => document.activeElement.matches('.vidbench-tiles [data-pick]')")
        assert trouble == []


QUERY_SHOWN = (
    """import numpy as np
from pathlib import Path
from vidbench.api.answers import Found
from vidbench.data.sets.catalogue import open_files
from vidbench.data.toy.world import render
from vidbench.evaluate.query import Hits
from vidbench.evaluate.search import Neighbors
from vidbench.view.widgets import shown
from vidbench.view.widgets.query import QueryBox
some = render(f"{runs_dir}/viewer-toy", preset="tiny", world="base", seed=0, workers=1, progress=False)
some = some.select(mask=np.arange(12) * 9)
def search(rows, path):
    near = Neighbors(np.array([rows]), np.array([[0.91, 0.52, 0.4, 0.33, 0.1]]))
    return Hits(open_files([path]), some, near, ("infonce-rgb",))""",
    """queries = some.select(mask=np.array([2, 9]))
near = Neighbors(np.arange(10).reshape(2, 5), np.linspace(1, 0, 10).reshape(2, 5))
Found(Hits(queries, some, near, ("coclr-rgb", "coclr-flow")))""",
    """lists = {"coclr-rgb": [1, 2, 3, 4, 5], "coclr-flow": [6, 2, 0, 7, 8]}
searches = {name: (lambda path, rows=rows: search(rows, path)) for name, rows in lists.items()}
shown(QueryBox(searches, f"{runs_dir}/queries"))""",
)


def test_a_query_from_outside(desk, toy_tiny):
    write(desk[2] / "94_query.ipynb", QUERY_SHOWN)
    file, folder = toy_tiny.absolute(30), desk[2].parent / "runs" / "queries"
    with run(desk, "94_query", 0) as (tab, trouble):
        found = tab.locator(".jp-OutputArea-output:not(:has(.jupyter-widgets)) [data-clip]")
        assert found.count() == 12
        path = tab.locator(".widget-text input")
        path.fill(str(file.with_name("none.mp4")))
        path.press("Enter")
        holds(tab, "() => document.body.innerText.includes('no such file')")
        path.fill(str(file))
        path.press("Enter")
        lines = "n => document.querySelectorAll('.jupyter-widgets .vidbench-tiles [data-clip]').length === n"
        holds(tab, lines, 11)
        readable(tab, "94_query")
        tab.locator(".jupyter-widgets [data-clip]").first.click()
        holds(tab, OPEN)
        holds(tab, f"path => ({PATH})() === path", str(file))
        tab.keyboard.press("Escape")
        other = toy_tiny.absolute(31)
        tab.locator(".drop input").set_input_files(other)
        holds(
            tab,
            "name => document.querySelector('.widget-text input').value.endsWith(name)",
            f"-{other.name}",
        )
        (kept,) = folder.iterdir()
        assert kept.read_bytes() == other.read_bytes()
        dropped(tab, toy_tiny.absolute(32), folder)
        assert trouble == []


def dropped(tab, file, folder) -> None:
    """A file dragged from outside: the box lights up, what falls next to it leaves the page as it is,
    what falls into it is searched for."""
    mouse, box = tab.context.new_cdp_session(tab), tab.locator(".drop")
    box.scroll_into_view_if_needed()
    held = {"items": [], "files": [str(file)], "dragOperationsMask": 1}

    def drag(kind: str, x: float, y: float) -> None:
        mouse.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": held})

    at = box.bounding_box()
    inside, aside = (at["x"] + 20, at["y"] + 20), (at["x"] + 60, at["y"] - 40)
    page = tab.url
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(kind, *aside)
    tab.wait_for_timeout(500)
    assert tab.url == page and tab.locator(".drop").is_visible(), (
        "no browser's own view of the file"
    )
    for kind in ("dragEnter", "dragOver"):
        drag(kind, *inside)
    holds(tab, "() => document.querySelector('.drop').style.backgroundColor")
    tab.screenshot(path=ARTIFACTS / "94_query-drag.png")
    drag("drop", *inside)
    ends = "name => document.querySelector('.widget-text input').value.endsWith(name)"
    holds(tab, ends, f"-{file.name}")
    assert file.read_bytes() in [one.read_bytes() for one in folder.iterdir()]
    assert not tab.evaluate("document.querySelector('.drop').style.backgroundColor")
    heading = "name => document.querySelector('.jupyter-widgets [title^=query] span[title]')?.title.endsWith(name)"
    holds(tab, heading, file.stem)


def test_a_card_opens_with_its_flow(desk, toy_tiny, tmp_path):
    """Of a wall, which no kernel answers for."""
    parts = [cards.samples(toy_tiny, 3)]
    file = html.write_page(tmp_path / "page.html", "A page", [html.Section("Clips", parts)])
    tab = desk[0].new_page(viewport={"width": 1000, "height": 900})
    tab.goto(file.as_uri())
    tab.locator("[data-clip]").nth(1).focus()
    tab.keyboard.press("Enter")
    holds(tab, "() => document.querySelectorAll('.vidbench-viewer[open] canvas').length === 2")
    steps(tab)
    assert tab.locator(".vidbench-viewer figcaption").all_inner_texts() == ["rgb", "flow"]
    assert tab.evaluate(PATH).endswith(".mp4") and len(set(tab.evaluate(SEEN))) == 2
    tab.screenshot(path=ARTIFACTS / "viewer-card.png")
    tab.close()
