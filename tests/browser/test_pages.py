"""Every notebook in JupyterLab as a new user meets it: nothing is broken, its words are readable,
something moves early, and pictures of the whole notebook are kept for those who look.

`make test-long` runs it, or one notebook alone:

    python -m pytest -m long tests/browser/test_pages.py -k 00_tour

Pictures: runs/browser/pages/NOTEBOOK-WIDTH-THEME.png. The file motion.json there has, for each
notebook, the seconds from Run All until something moved, and the CPU seconds of its kernel by then:
on an idle machine the two are about equal."""

import io
import json
import time

import psutil
import pytest
from PIL import Image

from benchmarks.browsing import opened
from tests import ROOT
from tests.browser.contrast import LINES, LOW, OUTPUTS, TEXT
from tests.browser.tabs import (
    ARTIFACTS,
    BOOK_SECONDS,
    CLICK_SECONDS,
    DONE,
    DRAWN,
    SEEN,
    STDERR,
    THEME,
    WIDE,
    complaints,
    holds,
    wait,
)

pytestmark = pytest.mark.long

PAGES = ARTIFACTS / "pages"
NOTEBOOKS = sorted(one.stem for one in (ROOT / "notebooks").glob("*.ipynb"))
WIDTHS, HEIGHT, TALLEST = (1400, 1000), 1500, 24_000
EDGE = 2  # pixels of the border of the notebook's panel
RACE = "/api/kernels?"  # the server may answer 500 while the kernel of the notebook before ends
EARLY = 3  # code cells in which something has to move
CPU_SECONDS = 20  # of the kernel until it does
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"
MOVING = """cells => [...document.querySelectorAll(".jp-CodeCell")].slice(0, cells).flatMap(
    (cell, number) => [...cell.querySelectorAll(".jp-OutputArea img, .jp-OutputArea video")].filter(
        one => one.naturalWidth || one.videoWidth).map(one => (one.dataset.early = number + 1)))"""
IN_SIGHT = """where => {
    const panel = document.querySelector(where).getBoundingClientRect();
    return [...document.querySelectorAll(".jp-OutputArea img[src]")].every(one => {
        const box = one.getBoundingClientRect();
        return one.complete || box.bottom < panel.top || box.top > panel.bottom; });
}"""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_as_a_new_user_meets_it(desk, name):
    browser, address, _ = desk
    PAGES.mkdir(parents=True, exist_ok=True)
    before = {child.pid for child in kernels()}
    tab, trouble = opened(browser, address(f"{name}.ipynb"), (WIDTHS[0], HEIGHT))
    began = time.monotonic()
    tab.set_default_timeout(1e3 * CLICK_SECONDS)
    try:
        cell = first_motion(tab, began + BOOK_SECONDS)
        mine = [one for one in kernels() if one.pid not in before]
        moved = {"cell": cell, "seconds": time.monotonic() - began, "cpu": cpu_seconds(mine)}
        keep_motion(name, moved)
        wait(tab, DONE, 3 * BOOK_SECONDS)
        said = complaints(tab, trouble, drawn(tab))
        said = [one for one in said if RACE not in one]
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": HEIGHT})
            for theme in ("Light", "Dark"):
                said += looked(tab, name, width, theme)
        assert said == [], "\n".join(said)
        assert cell, f"nothing moves in the first {EARLY} code cells"
        assert moved["cpu"] < CPU_SECONDS, moved
    finally:
        tab.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        tab.close()


def drawn(tab) -> int:
    """Wait until all plots are there, and return their number. A widget's plot comes late."""
    count, before = 0, -1
    while count != before:
        before = count
        tab.wait_for_timeout(5000)
        wait(tab, DRAWN, CLICK_SECONDS, 0)
        count = len(tab.evaluate(SEEN, STDERR)["plots"])
    return count


def looked(tab, name: str, width: int, theme: str) -> list[str]:
    """Keep a picture of the whole notebook at a width in a theme. Return what is hard to read."""
    tab.evaluate(THEME, f"JupyterLab {theme}")
    holds(tab, "theme => document.body.dataset.jpThemeName === theme", f"JupyterLab {theme}")
    tab.wait_for_timeout(1000)  # plots follow the new width
    whole(tab).save(PAGES / f"{name}-{width}-{theme.lower()}.png")
    where = f"{width} px, {theme}: "
    low = tab.evaluate(LOW, [OUTPUTS, TEXT, LINES])
    return [where + one for one in low + tab.evaluate(WIDE, OUTPUTS)]


def whole(tab) -> Image.Image:
    """The notebook from its first cell to its last, in one picture, scrolled through as a reader
    does."""
    tab.mouse.move(0, 0)  # nothing is under the pointer
    box = tab.locator(PANEL).bounding_box()
    box |= {"y": box["y"] + EDGE, "height": box["height"] - EDGE}
    height = min(tab.locator(PANEL).evaluate("panel => panel.scrollHeight"), TALLEST)
    sheet = Image.new("RGB", (round(box["width"]), height), "white")
    tops = [*range(0, height - round(box["height"]), round(box["height"]))]
    for top in [*tops, max(0, height - round(box["height"]))]:
        at = tab.locator(PANEL).evaluate(
            "(panel, top) => { panel.scrollTop = top; return panel.scrollTop; }", top
        )
        wait(tab, IN_SIGHT, 20, PANEL)
        tab.wait_for_timeout(300)
        sheet.paste(Image.open(io.BytesIO(tab.screenshot(clip=box))), (0, round(at) + EDGE))
    return sheet


def first_motion(tab, late: float) -> int:
    """The number of the first code cell in whose output something moves; 0 if none of EARLY does
    before all cells ran."""
    while time.monotonic() < late:
        over = tab.evaluate(DONE)
        if tab.evaluate(MOVING, EARLY):
            clip = tab.locator("[data-early]").first
            clip.scroll_into_view_if_needed()
            shots = [clip.screenshot()]
            for _ in range(8):
                tab.wait_for_timeout(200)
                shots.append(clip.screenshot())
                if shots[-1] != shots[0]:
                    return int(clip.get_attribute("data-early"))
        if over:
            return 0
        tab.wait_for_timeout(250)
    return 0


def kernels() -> list[psutil.Process]:
    """Notebook kernels that this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found += [child] * ("ipykernel_launcher" in child.cmdline())
        except psutil.Error:
            continue
    return found


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes and of their children."""
    return sum(sum(one.cpu_times()[:4]) for one in processes)


def keep_motion(name: str, moved: dict) -> None:
    """Add a notebook's line to motion.json."""
    file = PAGES / "motion.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(known | {name: moved}, indent=1, sort_keys=True))
