"""No text from a caller or a file name becomes a tag or an attribute: every public function that
returns HTML gets hostile words wherever it takes words."""

import importlib
import inspect
import pkgutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import vidbench.view
from tests.view.test_galleries import Skeleton, clip
from vidbench.data.manifest import Manifest
from vidbench.evaluate.board import RunState
from vidbench.evaluate.outcomes import Outcome
from vidbench.evaluate.paired import paired
from vidbench.evaluate.projections import Relation
from vidbench.evaluate.published import Published
from vidbench.evaluate.results import Folder, Number
from vidbench.evaluate.search import Neighbors
from vidbench.view import (
    board,
    cards,
    clips,
    compare,
    figures,
    galleries,
    html,
    looks,
    recipes,
    results,
    retrieval,
    runs,
    scores,
)
from vidbench.view.galleries import Row, Tile
from vidbench.view.widgets import behind, neighbors, pairs, pieces, query, sheet
from vidbench.view.widgets.rows import PATH
from vidbench.view.widgets.videos import Videos

WEBP = galleries.encode(clip(), 12)
HOSTILE = ["<script>alert(1)</script>", "\"onerror=\"alert(1)' x='", "a & &lt;b"]


def tile(words):
    return Tile(WEBP, words, words, 0.5, True, True)


def number(words, run):
    return Number(
        run=run,
        task=words,
        metric=words,
        value=0.5,
        low=0.25,
        high=0.75,
        protocol=words,
        switches={words: words},
        budget={"epochs": words},
        data=words,
        stream=words,
        state=words,
    )


def numbers(words):
    return [number(words, words), number(words, f"{words}2")]


def streams(words):
    both = zip(numbers(words), ("rgb", "flow"), strict=True)
    return [replace(one, stream=stream, metric=words) for one, stream in both]


def searched(words):
    def videos(name):
        clips_of = {"pictures": lambda row: tile(words)}
        ids = np.array([f"{name}/{words}/{row}" for row in range(4)])
        return Videos(ids, np.zeros(4, int), np.arange(4), (words,), clips_of)

    features = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    return neighbors.Browser(videos("a"), videos("b"), {words: tuple(features), "flow": features})


def gained(words):
    browser = searched(words)
    browser.look(compare=(words, "flow"))
    return browser


def related(words):
    def between(source, target):
        scores = {words: np.eye(2, dtype=np.float32)}
        return Relation(source, target, (f"{source}1", "x"), (f"{target}1", "x"), scores)

    a, b = f"{words}a", f"{words}b"
    both = {(a, b): between(a, b), (b, a): between(b, a)}
    browser = pairs.Browser(both, lambda data, label: [tile(words)])
    browser.select(f"{a}1", f"{b}1")
    return browser


def hidden(words):
    videos = Videos(
        np.array([words]),
        np.zeros(1, int),
        np.zeros(1, int),
        (words,),
        {"p": lambda _: tile(words)},
    )
    cells = {words: behind.Cell(words, np.array([0]), (words,), (True,))}
    lines = behind.Lines({words: {words: words}}, {"title": words})
    return behind.Behind(cells, videos, lines=lines)


def compared(words):
    path = np.array([f"{i}.mp4" for i in range(4)])
    rows = Manifest("x", (words, "other"), path, np.arange(4) % 2, np.ones(4), np.arange(4))
    right, protocol = np.array([1, 1, 0, 1], bool), {words: words}
    made = [
        Outcome(words, protocol, rows, {words: hit}, rows.label, np.ones(4))
        for hit in (right, ~right)
    ]
    return paired(*made, (words, "B"))


def unread(words):
    def search(path):
        raise OSError(words)

    return query.QueryBox({words: search}, "x")


def state(words):
    logs = {"metrics": {"epoch": np.array([1.0, 2]), words: np.array([0.5, 0.25])}}
    return RunState(words, words, words, 2, logs, {words: words})


def other(words):
    return RunState(f"{words}2", "complete", recipe={words: f"{words}2"})


def published(words):
    values = {name: words for name in Published.__dataclass_fields__} | {"metric": "R@1"}
    return [Published(**values | {"value": 1.0})]


def clips_gallery(words, monkeypatch):
    class Manifest:
        label, source_video, labeled = np.zeros(2, int), np.arange(2), True

        def absolute(self, row):
            return f"{words}{row}"

        def __len__(self):
            return 2

    monkeypatch.setattr(clips, "playing", lambda manifest, **look: lambda row: tile(words))
    found = Neighbors(np.array([[0, 1]] * 2), np.ones((2, 2)))
    called = {words: f"{words}2", "flow": words}
    both = {words: found, "flow": found}
    return clips.neighbors_gallery(
        Manifest(), Manifest(), both, titles=called, compared={words: "flow"}
    )


def scored(words):
    one = SimpleNamespace(
        numbers=dict.fromkeys(("top-1", "top-5"), (0.5, 0.4, 0.6)),
        protocol={words: words},
        neighbors=Neighbors(np.array([[0, 1]] * 2), np.ones((2, 2))),
        queries=SimpleNamespace(label=np.zeros(2)),
    )
    return {(words, words): one}


def listed(words):
    return Manifest(
        "x", (words,), np.array([words] * 2), np.zeros(2, int), np.ones(2), np.arange(2)
    )


def hubs(words):
    return retrieval.hub_table({words: scored(words)[words, words]}, listed(words))


def switches(words):
    searches = {words: SimpleNamespace(protocol={"sampling": words})}
    return retrieval.protocol_table(searches)


def recipe(words):
    one = SimpleNamespace(network=words, fit=SimpleNamespace(schedule=words))
    return recipes.recipe_table({words: one}, note=words, fit=("schedule",))


def sampled(words, monkeypatch):
    monkeypatch.setattr(clips, "playing", lambda manifest, with_flow: lambda row: tile(words))
    return cards.samples(listed(words))


# take numbers and colors
WORDLESS = {"clips.wheel", "looks.swatch"} | {
    f"manifests.{name}_table" for name in ("split", "size", "length")
}
CASES = {
    "cards.samples": sampled,
    "cards.shipped": cards.shipped,
    "cards.wall": lambda words: cards.wall([cards.Card(tile(words), words, words)], title=words),
    "recipes.recipe_table": recipe,
    "retrieval.hub_table": hubs,
    "retrieval.protocol_table": switches,
    "scores.gap_table": lambda words: scores.gap_table({words: (0.1, 0.0, 0.2)}, words, words),
    "scores.protocol_table": lambda words: scores.protocol_table(scored(words)),
    "scores.score_table": lambda words: scores.score_table(scored(words), (words, "x"), words),
    "widgets.sheet.table": lambda words: sheet.table(
        [{PATH: words, words: words}], (PATH, words), {words}
    ),
    "clips.neighbors_gallery": clips_gallery,
    "clips.said": clips.said,
    "galleries.clip_html": lambda words: galleries.clip_html(WEBP, words, 9, 9),
    "galleries.filmstrip": lambda words: galleries.filmstrip([clip(20)], [words], noun=words),
    "galleries.gallery": lambda words: galleries.gallery(
        {words: [Row(tile(words), [tile(words)], words)]}, words
    ),
    "html.table": lambda words: html.table(
        [{words: words, "n": 1.0}], title=words, note=words, best={"n": "max"}
    ),
    "results.results_table": lambda words: results.results_table(numbers(words), words),
    "results.results_tables": lambda words: results.results_tables(numbers(words)),
    "results.stream_tables": lambda words: results.stream_tables(streams(words)),
    "results.inventory": lambda words: results.inventory(
        [Folder(words, words, words, {"epochs": words}), Folder(words, problems=(words,))]
    ),
    "results.published_table": lambda words: results.published_table(published(words)),
    "compare.headline": lambda words: compare.headline(compared(words)),
    "compare.metrics_table": lambda words: compare.metrics_table(compared(words)),
    "compare.classes_table": lambda words: compare.classes_table(compared(words)),
    "widgets.behind.Behind.clips": lambda words: hidden(words).clips(words),
    "widgets.behind.Behind.table": lambda words: hidden(words).table(picks=True),
    "widgets.behind.Behind.html": lambda words: hidden(words).html(),
    "widgets.neighbors.Browser.html": lambda words: gained(words).html(2, words),
    "widgets.neighbors.Browser.grid": lambda words: searched(words).grid([f"a/{words}/0"]),
    "widgets.pairs.Browser.table": lambda words: related(words).table(),
    "widgets.pairs.Browser.chosen": lambda words: related(words).chosen(),
    "widgets.pairs.Browser.html": lambda words: related(words).html(),
    "widgets.neighbors.Browser.now": lambda words: gained(words).now(picks=True),
    "widgets.pieces.video_grid": lambda words: pieces.video_grid([tile(words)], words),
    "widgets.query.QueryBox.html": lambda words: unread(words).html("a.mp4"),
    "board.recipes": lambda words: board.recipes([state(words), other(words)]),
    "recipes.differing": lambda words: recipes.differing([{"run": words, words: words}], words),
    "runs.rows": lambda words: runs.rows([state(words)]),
    "runs.row": lambda words: runs.row(state(words), ("#123456", "solid")),
    "runs.count": lambda words: runs.count([replace(state(words), state=words)]),
    "runs.said": runs.said,
}


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("name", CASES)
def test_words_are_escaped_exactly_once(name, words, monkeypatch):
    more = (monkeypatch,) if name in ("clips.neighbors_gallery", "cards.samples") else ()
    made = [CASES[name](one, *more).replace("<wbr>", "") for one in (words, "a" * len(words))]
    seen, calm = map(Skeleton, made)
    assert seen.tags == calm.tags
    read = [*seen.words, *(value for _, _, value in seen.attributes)]
    assert any(words in text for text in read), "the words are not shown at all"
    assert not any("&amp;" in text or "&quot;" in text for text in read), "escaped twice"
    assert not any("&lt;" in text for text in read if "&lt;" not in words), "escaped twice"


@pytest.mark.parametrize("words", HOSTILE)
def test_a_page_takes_words_as_words(words):
    def body(one):
        parts = [one, looks.Html("<i>as it is</i>")]
        return Skeleton(html.page(one, [html.Section(one, parts)]))

    seen = body(words)
    assert seen.tags == body("calm").tags and seen.words.count(words) == 4
    drawn = html.page("t", [html.Section("s", [figures.curves({words: ([1], [1])}, words, words)])])
    assert "<script>alert" not in drawn and 'onerror="alert' not in drawn


def test_each_function_that_returns_html_has_a_case():
    found = set()
    for module in pkgutil.walk_packages(vidbench.view.__path__, "vidbench.view."):
        loaded = importlib.import_module(module.name)
        short = module.name.removeprefix("vidbench.view.")
        for name, one in vars(loaded).items():
            if getattr(one, "__module__", "") != module.name:
                continue
            members = vars(one).items() if inspect.isclass(one) else [("", one)]
            for member, function in members:
                given = getattr(function, "__annotations__", {}).get("return", "")
                public = not name.startswith("_") and not member.startswith("_")
                if public and given in ("Html", looks.Html):
                    found.add(".".join(filter(None, (short, name, member))))
    assert found - WORDLESS == set(CASES)
