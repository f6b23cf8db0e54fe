"""The pictures of relations at 400 x 700 classes: building them in Python, drawing them in headless
Chromium.

Drawing is wall time from handing the figure's JSON to plotly.js (its script loaded before) until
the frame after its promise is kept; of the table, from setting the HTML. Hovering is from a move of
the pointer to another cell or point until the frame with its label. Wall time of a browser on
shared cores: extremes are given with medians."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import measure

CLASSES = (400, 700)
MARKED = 20
FRAME = "await new Promise(done => requestAnimationFrame(() => setTimeout(done)));"
LATE = "new Promise((_, no) => setTimeout(() => no(Error('nothing came in 120 seconds')), 120000))"
PLOT = f"""async figure => {{
    const place = document.getElementById("place");
    window.Plotly.purge(place); place.replaceChildren();
    const began = performance.now();
    await window.Plotly.newPlot(place, JSON.parse(figure));
    {FRAME}
    return performance.now() - began;
}}"""
PIECE = f"""async html => {{
    const place = document.getElementById("place");
    window.Plotly.purge(place); place.replaceChildren();
    const began = performance.now();
    place.innerHTML = html;
    {FRAME}
    return performance.now() - began;
}}"""
# the pointer goes to a place that is another one in each round; plotly looks at it at most every 50
# ms, so wait before
HOVER = f"""async share => {{
    const place = document.getElementById("place"), layer = place.querySelector(".nsewdrag");
    if (!layer || !share) return null;
    const box = layer.getBoundingClientRect(), x = place._fullLayout.xaxis, points = place._fullData[0];
    const heat = points.type === "heatmap", i = Math.floor(share * points.x.length), y = place._fullLayout.yaxis;
    const at = heat ? [share * box.width, share * box.height] : [x.d2p(points.x[i]), y.d2p(points.y[i])];
    const move = (dx, dy) => layer.dispatchEvent(new MouseEvent("mousemove", {{
        bubbles: true, clientX: box.left + dx, clientY: box.top + dy}}));
    layer.dispatchEvent(new MouseEvent("mouseover", {{bubbles: true, clientX: box.left + 1, clientY: box.top + 1}}));
    move(1, 1);
    await new Promise(done => setTimeout(done, 120));
    const began = performance.now(), seen = new Promise(done => place.once("plotly_hover", done));
    move(...at);
    await Promise.race([seen, {LATE}]);
    {FRAME}
    return performance.now() - began;
}}"""


def main(rounds: int = 7, classes: tuple[int, int] = CLASSES) -> list[dict]:
    """A row for each picture, and goal P17. Raises Skip where Chromium or playwright is missing."""
    with measure.chromium() as browser, tempfile.TemporaryDirectory() as scratch:
        makes = pictures(*classes)
        built = measure.in_turn(makes, rounds, clock=time.perf_counter)
        made = {name: make() for name, make in makes.items()}
        page = Path(scratch) / "page.html"
        page.write_text(shell())
        drawn, hovered = draw(browser, page, made, rounds)
        program = f"plotly {metadata.version('plotly')}, Chromium {browser.version}"
    table, goals = [], []
    for name, picture in made.items():
        middle, low, high = measure.spread([1e3 * seconds for seconds in built[name]])
        shown, least, most = measure.spread(drawn[name])
        row = {
            "picture": name,
            "classes": "x".join(map(str, classes)),
            "build_ms": middle,
            "build_min": low,
            "build_max": high,
            "draw_ms": shown,
            "draw_min": least,
            "draw_max": most,
        }
        if hovered[name]:
            row |= dict(
                zip(
                    ("hover_ms", "hover_min", "hover_max"),
                    measure.spread(hovered[name]),
                    strict=True,
                )
            )
        table.append(
            row | {"kB": round(len(text_of(picture)) / 1e3), "rounds": rounds, "drawn_by": program}
        )
        goals.append(
            measure.goal(
                "P17",
                f"{name}, {classes[0]} x {classes[1]} classes: built and drawn, seconds",
                "<= 1",
                [s + ms / 1e3 for s, ms in zip(built[name], drawn[name], strict=True)],
            )
        )
    return table + goals


def pictures(sources: int, targets: int) -> dict[str, Callable]:
    """What makes each picture of a synthetic relation with planted blocks, with clusters computed
    each time."""
    from vidbench.evaluate.projections import Relation, pairs
    from vidbench.view import clouds, relations
    from vidbench.view.widgets.pairs import Browser

    random, names = np.random.default_rng(0), ("K400", "K700")
    classes = [
        tuple(f"{name} class {i}" for i in range(count))
        for name, count in zip(names, (sources, targets), strict=True)
    ]
    blocks = [random.integers(0, 20, count) for count in (sources, targets)]
    shape = (sources, targets)
    planted = 0.1 * (blocks[0][:, None] == blocks[1]) * random.random(shape)
    there, back = (
        (planted + 0.02 * random.standard_normal(shape)).astype(np.float32) for _ in range(2)
    )
    both = {
        names: Relation(*names, *classes, {"raw": there}),
        names[::-1]: Relation(*names[::-1], *classes[::-1], {"raw": np.ascontiguousarray(back.T)}),
    }
    marks = [(classes[0][i], classes[1][i]) for i in range(min(MARKED, *shape))]
    marked = relations.Classes(*classes, names, marks)
    heat = partial(relations.heatmap, there, marked, "heatmap", unit="weight")
    bare = relations.Classes(*classes, names)
    return {
        "heatmap": heat,
        "heatmap, 8 bits": partial(heat, exact=False),
        "sankey": lambda: relations.sankey(pairs(*both.values(), most=30), *names, "sankey"),
        "asymmetry": lambda: clouds.asymmetry(there, back.T, bare, "asymmetry"),
        "against": lambda: clouds.against(there, back, bare, "against"),
        "table of 50": lambda: Browser(both, most=50).table(),
    }


def shell() -> str:
    """An offline page with plotly's script and an empty place."""
    from plotly.offline import get_plotlyjs

    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8"><link rel="icon" href="data:,"><script>'
        f'{get_plotlyjs()}</script></head><body><div id="place"></div></body></html>'
    )


def text_of(picture) -> str:
    """What goes to the page: a figure's JSON, or HTML."""
    return picture if isinstance(picture, str) else picture.to_json()


def draw(
    browser, page: Path, made: dict, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of drawing each picture and of hovering in those with axes, a value a round, all
    in turn.

    In a page from a file, after a warm-up.

    Raises AssertionError where the page complains, asks for anything else, or leaves a place empty.
    """
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    said, requests = [], []
    tab.on(
        "console", lambda message: said.append(message.text) if message.type == "error" else None
    )
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on(
        "request",
        lambda request: requests.append(request.url) if request.url.startswith("http") else None,
    )
    tab.goto(page.as_uri())
    times: dict[str, list[float]] = {name: [] for name in made}
    hovers: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 1):
        for name, picture in made.items():
            text = text_of(picture)
            took = tab.evaluate(PIECE if isinstance(picture, str) else PLOT, text)
            there = tab.evaluate(
                "document.querySelectorAll('#place table, #place .main-svg').length"
            )
            assert there, f"{name} drew nothing: {json.dumps(said)}"
            times[name] += [took] * (number > 0)
            moved = None if isinstance(picture, str) else tab.evaluate(HOVER, number / (rounds + 1))
            hovers[name] += [] if moved is None else [moved]
    assert not said and not requests, f"the page said {said} and requests for {requests}"
    tab.close()
    return times, hovers
