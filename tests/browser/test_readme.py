"""The pictures of README.md and assets/docs, taken from today's notebooks.

    python -m pytest -m long tests/browser/test_readme.py
    cp runs/browser/readme/* assets/

Notebooks 00 and 91 train their runs first. The animation is drawn frame by frame: each clip is
decoded in the page and set to the frame that its own clock would show, so it plays at its true
speed however busy the machine is."""

import io
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks.browsing import opened
from tests.browser.tabs import (
    ARTIFACTS,
    BOOK_SECONDS,
    CLICK_SECONDS,
    CONTROLS,
    DONE,
    DRAWN,
    MAP,
    NEIGHBORS,
    PAIRS,
    QUERY,
    QUERY_SHOWN,
    RETRIEVAL,
    TOUR,
    holds,
    wait,
)
from tests.browser.test_notebooks import named
from vidbench.evaluate import searches
from vidbench.evaluate.shipped import MADE, SHIPPED, demo_results
from vidbench.experiments import report
from vidbench.view.html import Section, write_page

pytestmark = pytest.mark.long

PICTURES = ARTIFACTS / "readme"
PANEL = ".jp-WindowedPanel-outer"
SIZE, SCALE = (1600, 1900), 0.7  # of the tab in pixels; of the animation
STEP, MOST = 125, 2_000_000  # milliseconds of a frame; bytes of the animation
# Every clip becomes a canvas that shows the frame of a time; the pointer is drawn, too.
PLAY = """async ([what, milliseconds, x, y]) => {
    window.decoded ??= new Map();
    const decode = async source => {
        const data = await (await fetch(source)).arrayBuffer();
        const kind = source.slice(5, source.indexOf(";"));
        const decoder = new ImageDecoder({data, type: kind}), frames = [];
        await decoder.tracks.ready;
        for (let i = 0; i < decoder.tracks.selectedTrack.frameCount; i++) {
            const {image} = await decoder.decode({frameIndex: i});
            frames.push([await createImageBitmap(image), image.duration / 1e3]);
            image.close();
        }
        return frames;
    };
    const here = kind => [`${what} ${kind}`, `.vidbench-hover ${kind}`].join();
    for (const one of document.querySelectorAll(here('img[src^="data:image/"]'))) {
        if (!one.checkVisibility()) continue;
        if (!window.decoded.has(one.src)) window.decoded.set(one.src, await decode(one.src));
        const canvas = document.createElement("canvas"), frames = window.decoded.get(one.src);
        canvas.width = frames[0][0].width; canvas.height = frames[0][0].height;
        canvas.className = one.className; canvas.style.cssText = one.style.cssText;
        canvas.style.width = `${one.clientWidth}px`; canvas.style.height = `${one.clientHeight}px`;
        canvas.frames = frames;
        one.replaceWith(canvas);
    }
    for (const one of document.querySelectorAll(here("canvas"))) {
        if (!one.frames) continue;
        let left = milliseconds % one.frames.reduce((sum, [, long]) => sum + long, 0), at = 0;
        while (left >= one.frames[at][1] && at < one.frames.length - 1) left -= one.frames[at++][1];
        one.getContext("2d").drawImage(one.frames[at][0], 0, 0);
    }
    let hand = document.querySelector("#hand");
    if (!hand) {
        hand = document.createElement("div"); hand.id = "hand";
        hand.innerHTML = `<svg width="26" height="26" viewBox="0 0 26 26"><path d="M2 2v19l5-5 4 8 4-2-4-7h7z"
            fill="#111" stroke="#fff" stroke-width="1.6"/></svg>`;
        hand.style.cssText = "position:fixed;z-index:99999;pointer-events:none";
        document.body.append(hand);
    }
    hand.style.left = `${x}px`; hand.style.top = `${y}px`;
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
}"""


class Film:
    """Frames of a part of the page, with a pointer that moves through it."""

    def __init__(self, tab, box: dict):
        self.tab, self.box, self.frames = tab, box, []
        self.at = (box["x"] + 0.6 * box["width"], box["y"] + 20)

    def play(self, frames: int, to: tuple[float, float] | None = None) -> None:
        """So many frames more; the pointer moves to a place on the way."""
        (x, y), (left, top) = to or self.at, self.at
        for number in range(1, frames + 1):
            self.at = (left + (x - left) * number / frames, top + (y - top) * number / frames)
            self.tab.mouse.move(*self.at)
            self.tab.evaluate(PLAY, [CONTROLS, STEP * len(self.frames), *self.at])
            shot = Image.open(io.BytesIO(self.tab.screenshot(clip=self.box))).convert("RGB")
            size = (round(SCALE * shot.width), round(SCALE * shot.height))
            self.frames.append(shot.resize(size, Image.Resampling.LANCZOS))

    def save(self, path) -> None:
        first, *others = self.frames
        first.save(
            path, save_all=True, append_images=others, duration=STEP, loop=0, quality=55, method=4
        )


def test_the_browser_in_use(desk):
    """Clips play, a click makes one the query, a lasso on the map shows the clips inside."""
    with shown(desk, RETRIEVAL) as tab:
        tab.locator(CONTROLS).last.evaluate("place => place.scrollIntoView()")
        box = tab.locator(CONTROLS).last.bounding_box()
        film = Film(tab, box | {"width": min(box["width"], 1120)})
        film.play(10)
        tile = tab.locator('.vidbench-tiles div[title^="rank 2"]').last
        name = named(tile)
        film.play(6, middle(tile.bounding_box()))
        film.play(2)
        tab.mouse.click(*film.at)
        holds(tab, QUERY_SHOWN, [QUERY, name])
        wait(tab, DRAWN, argument=1)
        film.play(14)
        plot = tab.locator(f"{MAP} .nsewdrag").first.bounding_box()
        left, top = plot["x"] + 0.05 * plot["width"], plot["y"] + 0.68 * plot["height"]
        film.play(5, (left, top))
        tab.mouse.down()
        for x, y in ((0.4, 0), (0.4, 0.3), (0, 0.3), (0, 0.02)):
            film.play(3, (left + x * plot["width"], top + y * plot["height"]))
        tab.mouse.up()
        grid = tab.locator(".vidbench-tiles").nth(1)
        grid.locator("img").first.wait_for()
        wait(tab, DRAWN, argument=1)
        film.play(6)  # the clip of the point below the pointer
        film.play(4, middle(grid.locator("[data-pick]").nth(6).bounding_box()))
        film.play(20)
        film.save(PICTURES / "lab-browser.webp")
    kept = Image.open(PICTURES / "lab-browser.webp")
    assert kept.n_frames > 40
    assert (PICTURES / "lab-browser.webp").stat().st_size < MOST


def test_the_tour(desk):
    with shown(desk, TOUR) as tab:
        tab.set_viewport_size({"width": 1400, "height": SIZE[1]})
        words = tab.locator(".jp-CodeCell").nth(11).locator(".jp-OutputArea-output").first
        picture(tab, "lab-tour", words, (1000, 726))


def test_neighbors_with_a_lasso(desk):
    with shown(desk, NEIGHBORS) as tab:
        place = tab.locator(CONTROLS).last
        place.evaluate("place => place.scrollIntoView()")
        plot = tab.locator(f"{MAP} .nsewdrag").first.bounding_box()
        left, top = plot["x"] + 0.05 * plot["width"], plot["y"] + 0.68 * plot["height"]
        tab.mouse.move(left, top)
        tab.mouse.down()
        for x, y in ((0.4, 0), (0.4, 0.3), (0, 0.3), (0, 0.02)):
            tab.mouse.move(left + x * plot["width"], top + y * plot["height"], steps=4)
        tab.mouse.up()
        tab.locator(".vidbench-tiles").nth(1).locator("img").first.wait_for()
        wait(tab, DRAWN, argument=1)
        picture(tab, "lab-neighbors", place, (1180, 1640))


def test_pairs(desk):
    with shown(desk, PAIRS) as tab:
        row = tab.locator(".jupyter-widgets .widget-hbox:has(button)").nth(2)
        row.locator("button").first.click()
        wait(tab, DRAWN, argument=1)
        picture(tab, "lab-pairs", tab.locator(CONTROLS).last, (1080, 980))


def test_the_board(desk):
    """After the tour, whose two runs it shows."""
    with shown(desk, TOUR), shown(desk, "91_board") as tab:
        board = tab.locator(".jp-CodeCell").nth(3).locator(".jp-OutputArea-output").last
        runs = board.locator(".widget-checkbox").first  # below the line with this machine's times
        picture(tab, "lab-board", runs, (800, 676))


def test_the_demos_report(desk):
    """The report's figure and gallery, of the results that ship with vidbench."""
    found = demo_results("nowhere")
    numbers = json.loads((SHIPPED / MADE).read_text())["runs"]
    train, queries = (found.manifest.select(split=split) for split in ("train", "test"))
    bars = report._bars(
        [SimpleNamespace(run=run, numbers=numbers[run]["numbers"]) for run in found.tables],
        len(train.classes),
    )
    searched = searches.search_all(
        {run: (tables["train"], tables["test"]) for run, tables in found.tables.items()}
    )
    near = report._neighbors(train, queries, searched)
    parts = [Section("Numbers", [bars]), Section("Neighbors", near)]
    page = write_page(PICTURES / "demo.html", "vidbench demo: from video files to neighbors", parts)
    tab = desk[0].new_page(viewport={"width": 880, "height": 1700})
    tab.goto(page.as_uri())
    tab.locator(".main-svg").first.wait_for()
    wait(tab, "() => [...document.images].slice(0, 16).every(one => one.complete)")
    shot = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    shot.quantize(256, dither=Image.Dither.NONE).save(PICTURES / "demo.png", optimize=True)
    tab.close()
    page.unlink()


class shown:
    """A tab whose notebook has run, without the file browser; its kernel ends with it."""

    def __init__(self, desk, name: str):
        self.desk, self.name = desk, name

    def __enter__(self):
        PICTURES.mkdir(parents=True, exist_ok=True)
        browser, address, _ = self.desk
        self.tab, _ = opened(browser, address(f"{self.name}.ipynb"), SIZE)
        self.tab.set_default_timeout(1e3 * CLICK_SECONDS)
        wait(self.tab, DONE, 3 * BOOK_SECONDS)
        wait(self.tab, DRAWN, CLICK_SECONDS, 1)
        return self.tab

    def __exit__(self, *_):
        self.tab.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        self.tab.close()


def picture(tab, name: str, first, most: tuple[int, int]) -> None:
    """Keep the page from a part's upper left corner, so many pixels at most, in 256 colors."""
    first.evaluate("place => place.scrollIntoView()")
    tab.mouse.move(0, 0)
    tab.wait_for_timeout(1500)
    box, panel = first.bounding_box(), tab.locator(PANEL).bounding_box()
    wide = min(most[0], panel["x"] + panel["width"] - box["x"] - 12)
    high = min(most[1], panel["y"] + panel["height"] - box["y"])
    shot = tab.screenshot(clip={"x": box["x"], "y": box["y"], "width": wide, "height": high})
    small = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)


def middle(box: dict) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
