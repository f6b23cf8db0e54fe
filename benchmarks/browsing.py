"""The browser of neighbors at 10,000 gallery videos: searches and pictures in Python, clicks in
JupyterLab.

A click is timed inside the page, from the click on a clip until the frame after the last picture in
sight is decoded: message to the kernel, search, clips, answer, drawing. "New clips" are made on the
way (24 frames drawn and encoded); "kept clips" were seen before. Rings of the map follow the clips
and are timed apart. Wall time on shared cores."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.notebook import write
from benchmarks.relations import FRAME, LATE, draw, shell

ROOT = Path(__file__).resolve().parents[1]
SIZES, MANY, WIDTH, CLASSES = (10_000, 1_000), 100_000, 128, 101
TRACKER = "@jupyterlab/notebook-extension:tracker"
PRESETS = {  # no news, no dialog over the notebook
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autoStartDefaultKernel": True},
    TRACKER: {"autoStartDefaultKernel": True},
}
# pictures outside the notebook's panel, such as behind the bar at the foot, are not loaded: to wait
# for one lasts without end
SEEN = f"""
    const panel = place.closest(".jp-WindowedPanel-outer").getBoundingClientRect();
    const pictures = [...place.querySelectorAll("img")].filter(one => {{
        const box = one.getBoundingClientRect(); return box.bottom > panel.top + 1 && box.top < panel.bottom - 1; }});
    await Promise.race([Promise.all(pictures.map(one => one.decode())), {LATE}]);
    {FRAME}
"""
CLICK = f"""async ([what, number]) => {{
    const place = document.querySelector(".vidbench-tiles"), plot = document.querySelector(".js-plotly-plot");
    const tile = what === "back" ? [...document.querySelectorAll("button")].find(one => one.innerText.trim() === "back")
        : place.querySelectorAll('div[title^="rank "]')[number];
    const changed = new Promise(done => new MutationObserver((_, self) => {{ self.disconnect(); done(); }}).observe(
        place, {{childList: true, subtree: true}}));
    const ringed = new Promise(done => plot.once("plotly_afterplot", done));
    const began = performance.now();
    tile.click();
    const rings = ringed.then(() => performance.now() - began);
    await Promise.race([changed, {LATE}]);
    {SEEN}
    return [performance.now() - began, await Promise.race([rings, {LATE}])];
}}"""
CHOOSE = f"""async ([option, name]) => {{
    const plot = document.querySelector(".js-plotly-plot");
    const choice = [...document.querySelectorAll("select")].find(one => [...one.options].some(o => o.text === option));
    const drawn = new Promise(done => plot.once("plotly_afterplot", done));
    const began = performance.now();
    choice.value = name;
    choice.dispatchEvent(new Event("change", {{bubbles: true}}));
    await Promise.race([drawn, {LATE}]);
    {FRAME}
    return performance.now() - began;
}}"""
# where in the page the gallery's video is that is nearest to the map's middle, which itself may be empty
MIDDLE = """() => {
    const plot = document.querySelector(".js-plotly-plot"), {xaxis, yaxis} = plot._fullLayout;
    const frame = plot.querySelector(".nsewdrag").getBoundingClientRect(), {x, y} = plot._fullData[0];
    const off = i => Math.hypot(xaxis.d2p(x[i]) - frame.width / 2, yaxis.d2p(y[i]) - frame.height / 2);
    let best = 0;
    for (let i = 1; i < x.length; i++) if (off(i) < off(best)) best = i;
    return [frame.left + xaxis.d2p(x[best]), frame.top + yaxis.d2p(y[best])];
}"""
WATCH = """() => {  // before a lasso: the grid's clips are other ones after it
    const place = document.querySelectorAll(".vidbench-tiles")[1], old = place.querySelector("img");
    const other = () => place.querySelector("img") && place.querySelector("img") !== old;
    window.filled = new Promise(done => new MutationObserver(
        (_, self) => other() && (self.disconnect(), done())).observe(place, {childList: true, subtree: true}));
}"""
LASSO = f"""async () => {{
    const place = document.querySelectorAll(".vidbench-tiles")[1];
    await Promise.race([window.filled, {LATE}]);
    {SEEN}
    return place.querySelectorAll("img").length;
}}"""
SELECTED = """() => !!document.querySelectorAll(".vidbench-tiles")[1].querySelector("img")"""
FIRST = """() => [...document.querySelectorAll(".vidbench-tiles img")].some(one => one.complete && one.naturalWidth)"""
DRAWN = "() => document.querySelector('.js-plotly-plot .nsewdrag')"


def main(rounds: int = 9, sizes: tuple[int, int] = SIZES, many: int = MANY) -> list[dict]:
    """A row for each act, and goal P18. Raises Skip where Chromium or playwright is missing."""
    with (
        measure.chromium() as browser,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
    ):
        times = acts(synthetic(*sizes), rounds)
        page = Path(scratch) / "page.html"
        page.write_text(shell())
        maps = {"map": synthetic(*sizes).map(), "large": synthetic(many, sizes[1], 2).map()}
        drawn, hovered = draw(browser, page, maps, rounds)
        times |= {
            "Chromium: map drawn in a page": drawn["map"],
            "Chromium: point hovered": hovered["map"],
            f"Chromium: map of {many} drawn": drawn["large"],
            f"Chromium: point of {many} hovered": hovered["large"],
        }
        times |= clicks(browser, Path(scratch) / "usual", sizes, rounds)
        times |= crowd(browser, Path(scratch) / "crowd", (many, sizes[1]))
        program = f"JupyterLab {metadata.version('jupyterlab')}, Chromium {browser.version}"
    table = []
    for what, milliseconds in times.items():
        middle, low, high = measure.spread(milliseconds)
        table.append(
            {
                "act": what,
                "gallery": many if str(many) in what else sizes[0],
                "queries": sizes[1],
                "ms": middle,
                "min": low,
                "max": high,
                "rounds": len(milliseconds),
                "in": program if "Lab" in what or "Chromium" in what else "Python",
            }
        )
    for act, most in (("click, new clips", 0.5), ("click, kept clips", 0.25), ("map redrawn", 1.0)):
        table.append(
            measure.goal(
                "P18",
                f"{act}, {sizes[0]} gallery videos, seconds",
                f"<= {most}",
                [ms / 1e3 for ms in times[f"Lab: {act}"]],
            )
        )
    return table


def synthetic(gallery: int, queries: int, k: int = 10):
    """A Browser over random clusters of two streams, whose clips are drawn when they are looked
    at."""
    from vidbench.view.widgets.neighbors import Browser

    random = np.random.default_rng(0)
    centers, sides, features = random.standard_normal((CLASSES, WIDTH)), [], {"rgb": [], "flow": []}
    for count, name in ((gallery, "train"), (queries, "test")):
        label = random.integers(0, CLASSES, count)
        sides.append(videos(name, label))
        rgb = centers[label] + 2 * random.standard_normal((count, WIDTH))
        features["rgb"].append(rgb.astype(np.float32))
        features["flow"].append((rgb + random.standard_normal((count, WIDTH))).astype(np.float32))
    return Browser(*sides, features, k=k)


def videos(name: str, label: np.ndarray):
    """Videos with these labels; each one's clip is a block that crosses it, in its own
    colors."""
    from vidbench.view.galleries import Tile, encode
    from vidbench.view.widgets.videos import Videos

    classes = tuple(f"class {number}" for number in range(CLASSES))

    def clip_of(row: int) -> Tile:
        shades = np.random.default_rng(row).integers(0, 255, (2, 3), dtype=np.uint8)
        frames = np.empty((24, 84, 112, 3), np.uint8)
        frames[:] = shades[0]
        for number in range(len(frames)):
            frames[number, 30:54, 4 * number : 4 * number + 20] = shades[1]
        return Tile(encode(frames, 12), classes[label[row]], f"{name} {row}")

    ids = np.array([f"{name}/{classes[one]}/{name}_{row:05}.mp4" for row, one in enumerate(label)])
    return Videos(ids, label, np.arange(len(label)), classes, {"pictures": clip_of})


def acts(browser, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of what the kernel does, a value a round; another query each time."""
    from vidbench.evaluate import layout
    from vidbench.view.galleries import gallery
    from vidbench.view.looks import Html

    units = {side: browser.spaces["rgb"].units(side) for side in browser.sides}
    outward, times = np.random.default_rng(1).permutation(len(browser.sides["queries"])), {}

    def timed(name: str, call) -> None:
        began = time.perf_counter()
        call()
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - began))

    browser.map()  # imports and coordinates
    browser.rows()
    for query in outward[:rounds]:
        browser.select(int(query))
        browser._lists.clear()
        timed("both searches of a query", browser.rows)
        timed("its 20 tiles, new clips", browser.shown)
        timed(
            "the same, kept clips",
            lambda: Html(gallery({n: [row] for n, row in browser.shown().items()})),
        )
        timed("all queries searched for failures", lambda: browser.right("rgb"))
        timed("PCA of both sides", lambda: layout.lay(units, "pca"))
        timed("the map's figure", browser.map)
    return {f"Python: {name}": values for name, values in times.items()}


def clicks(browser, scratch: Path, sizes: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Milliseconds from acts in JupyterLab to what one then sees, a value a round after a warm-up.

    Raises AssertionError where the page complains or asks for anything outside.
    """
    times: dict[str, list[float]] = {}
    with book(scratch, sizes) as address, opening(browser, address, times, "") as tab:
        for number in range(rounds + 1):
            new, rings = tab.evaluate(CLICK, ["tile", 1 + number % 8])
            kept, _ = tab.evaluate(CLICK, ["back", 0])
            redrawn = tab.evaluate(CHOOSE, ["rgb", ("flow", "rgb")[number % 2]])
            colored = tab.evaluate(CHOOSE, ["side", ("source video", "class")[number % 2]])
            tab.evaluate(
                CLICK, ["tile", 1 + number % 8]
            )  # on from here: another query in each round
            for what, took in (
                ("click, new clips", new),
                ("its rings on the map", rings),
                ("click, kept clips", kept),
                ("map redrawn", redrawn),
                ("map colored by another column", colored),
            ):
                times.setdefault(f"Lab: {what}", []).extend([took] * (number > 0))
            times.setdefault("Lab: lasso to its grid of clips", []).extend(
                [lassoed(tab)] * (number > 0)
            )
    return times


def crowd(browser, scratch: Path, sizes: tuple[int, int]) -> dict[str, list[float]]:
    """Milliseconds of opening a browser with many points on its map, and of a lasso there."""
    times: dict[str, list[float]] = {}
    with (
        book(scratch, sizes) as address,
        opening(browser, address, times, f" of {sizes[0]}") as tab,
    ):
        times[f"Lab: lasso among {sizes[0]} to its grid of clips"] = [lassoed(tab)]
    return times


@contextmanager
def book(scratch: Path, sizes: tuple[int, int]) -> Iterator[str]:
    """The address of a notebook that shows a synthetic browser, in a JupyterLab."""
    cells = (
        "from benchmarks.browsing import synthetic\nfrom vidbench.view.widgets.controls import "
        "show\n"
        f"browser = synthetic{sizes}",
        "show(browser)",
    )
    books = scratch / "books"
    books.mkdir(parents=True)
    write(books / "book.ipynb", cells)
    with lab(books, scratch / "lab") as address:
        yield address("book.ipynb")


@contextmanager
def opening(browser, address: str, times: dict[str, list[float]], of: str) -> Iterator:
    """A tab whose browser of neighbors is drawn. `times` gets the milliseconds from Run All, with
    imports and data, until the first clip and until the map.

    Raises AssertionError where the page complains or asks for anything outside.
    """
    tab, trouble = opened(browser, address)
    began = time.perf_counter()
    for what, condition in (("first clip", FIRST), ("map", DRAWN)):
        tab.wait_for_function(condition, timeout=600_000, polling=20)
        times[f"Lab: Run All to the {what}{of}"] = [1e3 * (time.perf_counter() - began)]
    tab.locator(".vidbench-tiles").first.evaluate("place => place.scrollIntoView()")
    tab.wait_for_timeout(1500)
    yield tab
    assert not trouble, f"the page complained or sent requests outside: {json.dumps(trouble)}"
    tab.close()


def lassoed(tab) -> float:
    """Milliseconds from letting go of a lasso on the map until the clips in sight are shown, with no
    clips before: a lasso around the same videos as the last one changes nothing that one could wait
    for."""
    if tab.evaluate(SELECTED):
        tab.locator("button:text-is('clear')").click()
        tab.wait_for_function(f"() => !({SELECTED})()")
    tab.locator(".js-plotly-plot .nsewdrag").first.scroll_into_view_if_needed()
    left, top = (at - 20 for at in tab.evaluate(MIDDLE))
    tab.mouse.move(left, top)
    tab.mouse.down()
    for x, y in ((40, 0), (40, 40), (0, 40), (-4, 4)):
        tab.mouse.move(left + x, top + y, steps=4)
    tab.evaluate(WATCH)
    began = time.perf_counter()
    tab.mouse.up()
    assert tab.evaluate(LASSO) > 0
    return 1e3 * (time.perf_counter() - began)


@contextmanager
def lab(books: Path, scratch: Path, windowing: str = "none") -> Iterator[Callable[[str], str]]:
    """JupyterLab on a free port of loopback over a folder of notebooks; what it keeps for itself
    is in scratch. windowing: which cells are in the page, "" for JupyterLab's own default.

    Gives what makes a notebook's name an address. Kernels have this Python and find vidbench and
    benchmarks. Raises RuntimeError with the end of its log where it ends or answers nothing in five
    minutes."""
    presets = {name: dict(values) for name, values in PRESETS.items()}
    if windowing:
        presets[TRACKER]["windowingMode"] = windowing
    config = scratch / "config" / "labconfig"
    config.mkdir(parents=True)
    (config / "default_setting_overrides.json").write_text(json.dumps(presets))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {
        f"JUPYTER_{name}_DIR": str(scratch / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    places |= {
        f"JUPYTERLAB_{name}_DIR": str(scratch / name.lower()) for name in ("SETTINGS", "WORKSPACES")
    }
    environment = (
        os.environ | places | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(scratch / "ipython")}
    )
    environment.pop("VIDBENCH_HEADLESS", None)
    token, base = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--allow-root",
        "--no-browser",
        "--LabApp.expose_app_in_browser=True",  # for commands of it, such as another theme
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={books}",
    ]
    with open(scratch / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        answered(server, f"{base}/api?token={token}", scratch / "log")
        yield lambda name: f"{base}/lab/tree/{name}?token={token}&reset"
    finally:
        request = urllib.request.Request(f"{base}/api/shutdown?token={token}", method="POST")
        try:
            urllib.request.urlopen(request)  # it may not end on a plain terminate signal
            server.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            server.kill()
            server.wait()


def answered(server: subprocess.Popen, address: str, log: Path, seconds: float = 300) -> None:
    """Wait for a server's first answer. Raises RuntimeError where it ends before, or the time
    does."""
    late = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < late:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(
        f"JupyterLab gave no answer, exit code {server.poll()}; its log ends: "
        f"{log.read_text()[-2000:]}"
    )


def opened(
    browser,
    address: str,
    size: tuple[int, int] = (1280, 1400),
    script: str = "",
    slowdown: float = 1,
) -> tuple:
    """A tab with the notebook, all cells started, and the list that its complaints and requests
    outside go to. script: runs in the page before its own scripts. slowdown: how many times slower
    than this machine the page runs the cells."""
    tab, trouble = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True))), []
    inside = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")

    def outward(request) -> None:
        if not request.url.startswith(inside):
            trouble.append(f"requested {request.url}")

    tab.on(
        "console",
        lambda said: (
            trouble.append(f"console: {said.text} {said.location['url']}".strip())
            if said.type == "error"
            else None
        ),
    )
    tab.on("pageerror", lambda error: trouble.append(f"error of the page: {error}"))
    tab.on("request", outward)
    tab.on("websocket", outward)
    if script:
        tab.add_init_script(script)
    tab.goto(address)
    tab.wait_for_selector(".jp-Cell", timeout=60_000)
    tab.wait_for_selector(
        "text=/[|] Idle/", timeout=120_000
    )  # what is run before the kernel is there gets lost
    if slowdown > 1:
        devtools = tab.context.new_cdp_session(tab)
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    tab.click("text=Run >> nth=0")
    tab.click("text=Run All Cells")
    return tab, trouble
