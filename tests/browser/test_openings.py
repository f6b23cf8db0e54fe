"""Twenty openings of the browser of neighbors on a page six times slower than this machine.

    python -m pytest -m long tests/browser/test_openings.py

Trained runs of `tiny`, JupyterLab's own choice of which cells are in the page. The file openings.json
among the artifacts has the seconds of each: from Run All, with imports and features, and from the
start of the cell that shows the browser."""

import json
import time

import pytest

from benchmarks.browsing import lab, opened
from benchmarks.notebook import write
from tests.browser.tabs import ARTIFACTS, BOOK_SECONDS, CLICK_SECONDS, DONE, SIZE, wait

pytestmark = pytest.mark.long

OPENINGS, SECONDS, SLOWDOWN = 20, 30, 6
CELLS = (
    "from vidbench.experiments.opened import open_runs\n"
    "from vidbench.view.widgets import shown\n"
    "from vidbench.view.widgets.neighbors import Browser",
    "opened = open_runs('../runs', 'tiny', ('infonce-rgb', 'coclr-rgb'), split='test')\n"
    "browser = Browser(opened.train, opened.queries, opened.tables, flow_folder=opened.flow)",
    "shown(browser)",
)
# tiles of the widget, or of the static view that takes its place
SHOWN = """() => [...document.querySelectorAll(".jp-OutputArea-output img")].some(
    one => one.complete && one.naturalWidth && one.checkVisibility())"""
# JupyterLab need not have the last cell in the page while the others run
STARTED = """() => [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")].some(
    one => one.innerText.trim() === "[2]:")"""


def test_each_opening_on_a_slow_page_shows_tiles(desk, tmp_path):
    browser, _, base = desk
    books = base.parent / "openings"
    books.mkdir(exist_ok=True)
    write(books / "95_tiny.ipynb", CELLS)
    took = []
    with lab(books, tmp_path / "lab", windowing="") as address:
        for number in range(OPENINGS + 1):
            slowdown = SLOWDOWN if number else 1  # the first one trains what is missing
            tab, _ = opened(browser, address("95_tiny.ipynb"), SIZE, slowdown=slowdown)
            began = time.monotonic()
            tab.set_default_timeout(1e3 * CLICK_SECONDS)
            try:
                wait(tab, STARTED, 3 * BOOK_SECONDS)
                started = time.monotonic()
                wait(tab, SHOWN, 3 * SECONDS)
                ended = time.monotonic()
                good = tab.evaluate(SHOWN)
                if number:
                    took.append({"run_all": ended - began, "cell": ended - started, "shown": good})
                    (ARTIFACTS / "openings.json").write_text(json.dumps(took, indent=1))
                else:
                    wait(tab, DONE, BOOK_SECONDS)
            finally:
                tab.screenshot(path=ARTIFACTS / f"95_tiny-{number}.png")
                tab.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
                tab.close()
    assert len(took) == OPENINGS
    late = [one for one in took if not one["shown"] or one["cell"] > SECONDS]
    assert late == [], f"{len(late)} of {OPENINGS} openings were late or empty: {late}"
