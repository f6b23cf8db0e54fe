"""pages: aligned tables, and a report that opens without a network and looks as it should in a real
browser."""

import re
import shutil

import numpy as np
import pytest

from tests.view.test_galleries import HOSTILE, KEPT, Skeleton, clip, rows, styles
from vidbench.view import figures, galleries, looks
from vidbench.view.figures import Bar
from vidbench.view.html import FIGURE_SPACE, Section, page, table, write_page
from vidbench.view.looks import Html

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)
ROWS = [
    {"method": "InfoNCE", "R@1": (33.12, 31.0, 35.25), "loss": 1.41, "epochs": 300},
    {"method": "CoCLR", "R@1": (51.8, 49.9, 53.8), "loss": 1.12, "epochs": np.int64(500)},
    {"method": "random", "R@1": (8.1, 7.2, 10.0), "loss": None, "epochs": 0},
    {"method": "frozen", "R@1": 9.0, "loss": float("nan"), "epochs": 0},
]


def cells(text):
    """The table's cells as words, row by row, tags gone."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", text)
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line)]
        for line in lines
    ]


def test_table_aligns_decimals_and_marks_the_best():
    text = table(
        ROWS,
        best={"R@1": "max", "loss": "min"},
        formats={"loss": ".3f"},
        title="T",
        note="10 windows",
    )
    head, first, second, third, fourth = cells(text)
    assert head == ["method", "R@1", "loss", "epochs"]
    assert first == ["InfoNCE", "33.1 [31.0, 35.2]", "1.410", "300"]
    assert second == ["CoCLR", "51.8 [49.9, 53.8]", "1.120", "500"]
    assert third == ["random", f"8.1 {FIGURE_SPACE}[7.2, 10.0]", "–", "0"]
    assert fourth[2] == "nan" and re.search(r"9.0 <span style=\"visibility:hidden[^>]*>\[", text)
    assert re.findall(r"<b>(.*?)</b>", text) == ["51.8", "1.120"]
    assert text.count("text-align:right") == 3 * 5 and text.index("10 windows") > text.index(
        "</table>"
    )


def test_table_chooses_columns_and_refuses_unknown_ones():
    assert cells(table(ROWS, ["epochs", "method"]))[1] == ["300", "InfoNCE"]
    assert cells(table([{"a": 0.5}], formats={"a": ".1%"}))[1] == ["50.0%"]
    for arguments, says in (
        ({"columns": ["speed"]}, "speed"),
        ({"best": {"loss": "least"}}, "least"),
        ({"formats": {"speed": ".1f"}}, "speed"),
    ):
        with pytest.raises(ValueError, match=says):
            table(ROWS, **arguments)
    with pytest.raises(ValueError, match="at least one row"):
        table([])


def test_a_table_without_room_breaks_words_and_keeps_intervals_whole():
    text = table([{"words": "many words " * 9, "n": (1.0, 0.5, 2.0)}])
    assert re.findall(r"<t[hd][^>]*white-space:(\w+)", text) == ["normal"] * 4
    assert re.findall(r"<span[^>]*white-space:(\w+)", text) == ["nowrap"]


def test_table_survives_an_untrusted_notebook_and_hostile_words():
    text = table([{HOSTILE: HOSTILE, "b": 1.0}], title=HOSTILE, note=HOSTILE)
    assert Skeleton(text).tags == Skeleton(table([{"a": "x", "b": 1.0}], title="t", note="n")).tags
    assert styles(table(ROWS, title="t", note="n")) <= KEPT


def report(word="plain"):
    curves = figures.curves(
        {word: ([0, 1], [0.1, 0.5]), word + " 2": ([0, 1], [0.2, 0.3])},
        word,
        word,
        word,
        levels={word: 0.2},
    )
    bars = figures.bars([Bar(word, word, 0.5, 0.4, 0.6), Bar("b", word, 0.2)], word, word)
    return [
        Section(word, [word, curves, bars, table([{"method": word, "R@1": 3.0}], note=word)]),
        Section(
            "Clips",
            [
                galleries.gallery({word: rows(word, word)}, word),
                galleries.filmstrip([clip()], [word]),
            ],
        ),
    ]


def test_page_holds_everything_and_the_script_once():
    text = page("A report", report())
    assert text.count("plotly.js v") == 1 and 4e6 < len(text) < 7e6
    assert "plotly.js v" not in page("A report", [Section("a", ["words"])])
    assert text.count('class="plotly-graph-div"') == 2 and text == page("A report", report())
    outside = [
        value
        for _, name, value in Skeleton(text).attributes
        if name in ("src", "href", "poster") and not value.startswith("data:")
    ]
    assert outside == [] and "<script src" not in text


def test_page_escapes_every_word():
    assert Skeleton(page(HOSTILE, report(HOSTILE))).tags == Skeleton(page("plain", report())).tags
    assert "<p>&lt;b&gt;" in page("t", [Section("h", ["<b>"])]) and "<b>kept</b>" in page(
        "t", [Section("h", [Html("<b>kept</b>")])]
    )


def test_page_refuses_parts_it_cannot_show():
    with pytest.raises(TypeError, match="ndarray"):
        page("t", [Section("h", [np.zeros(3)])])
    with pytest.raises(ValueError, match="at least one Section"):
        page("t", [])


def test_write_page_replaces_whole_files_only(tmp_path):
    path = tmp_path / "deep" / "report.html"
    assert write_page(path, "one", [Section("a", ["first"])]) == path
    with pytest.raises(TypeError):
        write_page(path, "two", [Section("a", [object()])])
    assert "first" in path.read_text() and [p.name for p in path.parent.iterdir()] == [
        "report.html"
    ]
    write_page(path, "two", [Section("a", ["second"])])
    assert "second" in path.read_text() and [p.name for p in path.parent.iterdir()] == [
        "report.html"
    ]


BOXES = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
  const box = name => { const e = plot.querySelector(name); if (!e) return null;
    const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  return [box('.gtitle'), box('.legend'), box('.plot, .gridlayer'), plot.querySelector('.legendtext').textContent,
          plot.getBoundingClientRect().right]; })"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)")
def test_a_browser_shows_the_page_as_meant(tmp_path):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser extra is not installed"
    )
    long = {f"a method with a rather long name {i}": ([0, 1], [0.1 * i, 0.5]) for i in range(5)}
    title, levels = "A title that never ends, " * 5, {"l" * 16: 0.1}
    crowded = figures.curves(long, "k", "R@k (%)", title, percent=True, levels=levels)
    sections = [*report(HOSTILE), Section("crowded", [crowded])]
    path, said, requests = write_page(tmp_path / "report.html", HOSTILE, sections), [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=[f"--{flag}" for flag in FLAGS],
            viewport={"width": 900, "height": 900},
        )
        tab = browser.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append("a script ran"), dialog.dismiss()))
        tab.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        tab.goto(path.as_uri())
        boxes = tab.evaluate(BOXES)
        for image in tab.query_selector_all("img"):
            image.scroll_into_view_if_needed()
            tab.wait_for_function(
                "image => image.complete && image.naturalWidth > 0", arg=image, timeout=5000
            )
        moving = tab.query_selector("img")
        moving.scroll_into_view_if_needed()
        seen = set()
        for _ in range(10):
            seen.add(moving.screenshot())
            tab.wait_for_timeout(60)
        sideways = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
        browser.close()
    assert said == [] and set(requests) <= {"file", "data", "blob"}
    assert len(seen) > 1, "the clip does not move"
    assert sideways <= 0 and len(boxes) == 3
    assert boxes[0][3] == HOSTILE  # the legend shows tags as the letters they are
    for title, legend, plot, _, right in boxes:
        assert title[3] <= legend[1] + 2 and legend[3] <= plot[1] + 4, (
            "title, legend and plot must not meet"
        )
        assert legend[2] <= right and title[2] <= right


def test_pages_share_the_look_of_figures():
    assert f"color: {looks.INK}" in looks.CSS and f"max-width: {looks.WIDTH}px" in looks.CSS
    assert looks.CSS in page("t", [Section("h", ["words"])])
