"""A cell that is changed and run again: another run, short errors, a stop without alarm."""

import pytest

from benchmarks.browsing import opened
from benchmarks.notebook import write
from tests.browser.tabs import ARTIFACTS, BOOK_SECONDS, DONE, SIZE, holds, readable, wait

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SETUP = """from pathlib import Path
from vidbench.engine.recipes import RunError
from vidbench.engine.runs import Run, run_name
from vidbench.methods import coclr
from vidbench.data.sets import catalogue
from vidbench.system.errors import calm_stops
from vidbench.system.notices import show_notice
from vidbench.system.signals import Interrupted
from dataclasses import replace
tiny = coclr.PRESETS["tiny"].alone"""
TRAIN = """epochs = {epochs}
recipe = replace(tiny, fit=replace(tiny.fit, epochs=epochs))
run = Run.create(Path("made") / {name}, "coclr", recipe)
print("run", run.folder.name)"""
NAMED = 'run_name("tour", "flow", epochs)'
STOP = """calm_stops(Interrupted)
raise Interrupted("stopped by SIGINT at step 8; saved. The same call resumes it.")"""
WARN = """show_notice("tour: look at this", ["Features collapse: their effective rank is 1.2 and their "
    "spread 0.02 (on a sphere 1). Lower the learning rate, or check that both views are not the same picture."])"""
CELLS = {  # what a cell does -> the first words of each line of its output
    SETUP: [],
    WARN: ["tour: look at this", "Features collapse: "],
    TRAIN.format(epochs=16, name=NAMED): ["run tour-flow-16"],
    TRAIN.format(epochs=24, name=NAMED): ["run tour-flow-24"],
}
STOPPED = """() => [...document.querySelectorAll(".jp-OutputArea-output")].some(
    one => one.innerText.includes("stopped by SIGINT at step 8; saved."))"""
ERROR = '[data-mime-type="application/vnd.jupyter.stderr"]'


@pytest.fixture
def tab_of(desk):
    """Opens a notebook of some cells in a tab, runs it, and waits until it is done."""
    tabs = []

    def tab_of(name: str, *cells: str, until: str = DONE):
        write(desk[2] / f"{name}.ipynb", cells)
        tab, _ = opened(desk[0], desk[1](f"{name}.ipynb"), SIZE)
        tabs.append((name, tab))
        wait(tab, until, BOOK_SECONDS)
        return tab

    yield tab_of
    for name, tab in tabs:
        tab.screenshot(path=ARTIFACTS / f"{name}.png")
        tab.close()


def outputs(tab) -> list[str]:
    return [one.strip() for one in tab.locator(".jp-OutputArea-output").all_inner_texts()]


def test_changed_and_run_again_is_another_run_without_a_red_block(tab_of):
    tab = tab_of("95_again", *CELLS)
    shown = "\n".join(outputs(tab))
    assert all(words in shown for lines in CELLS.values() for words in lines), shown
    assert tab.locator(ERROR).count() == 0
    readable(tab, "95_again")


@pytest.mark.parametrize(
    ("name", "cell", "says"),
    [
        (
            "94_other",
            TRAIN.format(epochs=16, name='"tour"') + "\n" + TRAIN.format(epochs=24, name='"tour"'),
            ["fit.epochs is 16 there, 24 here", "Set the parameter `name`"],
        ),
        (
            "93_data",
            'catalogue.prepare_dataset("made", "tinny")',
            ["Did you mean the built-in data set 'tiny'?", "Toy worlds: tiny, small, large."],
        ),
    ],
)
def test_an_error_has_three_lines(tab_of, name, cell, says):
    tab = tab_of(name, SETUP, cell)
    lines = tab.locator(ERROR).inner_text().strip().splitlines()
    assert len(lines) == 3 and lines[2].startswith("%tb shows"), lines
    assert all(words in line for words, line in zip(says, lines, strict=False)), lines
    readable(tab, name)


def test_a_stop_that_went_well_is_no_red_block_and_ends_run_all(tab_of):
    tab = tab_of("92_stop", SETUP, STOP, 'print("never")', until=STOPPED)
    holds(tab, STOPPED)
    holds(tab, "() => !document.body.innerText.includes('[*]')")
    assert tab.locator(ERROR).count() == 0 and not any("never" == one for one in outputs(tab))
    readable(tab, "92_stop")
