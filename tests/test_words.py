"""Checks that all texts use plain words, that pages keep to their length and link to existing files.

Each check is a function from text to a list of complaints. The same function sees the repository's
texts, which must give none, and broken examples, which must give some.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Written with underscores, so that this file passes its own check. A line break counts as a blank.
FORBIDDEN = tuple(
    phrase.replace("_", " ").strip()
    for phrase in """
    _had _beside _anew _told _tells_who _is_told_by _asked _bears _bear _lies _nobody _whose_turn
    _a_must _as_it_came _of_its_own _for_ever _in_plain_words _put_to_the_test _go_on _goes_on
    _goes_on_with _take_up _takes_up _not_to_be_had _could_not_be_had _where_there_is_none
    _stands_beside _lies_beside
    """.split()
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("assets/docs/*.md", "benchmarks/README.md", "notebooks/README.md")
    for path in ROOT.glob(pattern)
)
ANY_FORBIDDEN = re.compile(
    "|".join(
        r"\b" + r"\s+".join(map(re.escape, phrase.split())) + r"\b"
        for phrase in sorted(FORBIDDEN, key=len, reverse=True)
    ),
    re.I,
)
TEXTS = (  # every file that a person reads, the site's and Slurm's scripts included
    *("*.md", "Makefile", "pyproject.toml", "environment.yml", ".ci/run", "notebooks/*"),
    *(
        "assets/*.py",
        "assets/*.sh",
        "assets/*.yaml",
        "assets/*.yml",
        "assets/*.js",
        "assets/docs/*.md",
    ),
    *("benchmarks/*.py", "benchmarks/*.md", "vidbench/**/*.py", "vidbench/**/*.md"),
    *("vidbench/**/*.js", "vidbench/**/*.css", "tests/**/*.py"),
)
FILES = sorted(
    {
        path.relative_to(ROOT).as_posix()
        for pattern in TEXTS
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
)
ALLOWED = {"vidbench/data/sets/images.py": {"_bear".strip("_")}}  # a class of CIFAR-100
LONGEST = {"README.md": 150} | dict.fromkeys(PAGES, 120)  # lines
NEEDED = {
    f"assets/docs/{name}.md"
    for name in (
        *("data", "extending", "headless", "presets", "protocols", "troubleshooting"),
        *("results-demo", "results-coclr", "results-rms", "results-multitrain"),
    )
}


def without_code(text: str) -> str:
    """Blank out a page's code, whose names are not ours to choose here; lines stay lines."""
    text = re.sub(
        r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S
    )
    return re.sub(r"`[^`\n]+`", "``", text)


def words_law(name: str, text: str) -> list[str]:
    """Complain about each forbidden phrase, with its line."""
    text = without_code(text) if name.endswith(".md") else text
    complaints = []
    for found in ANY_FORBIDDEN.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        phrase = " ".join(found[0].lower().split())
        if phrase in ALLOWED.get(name, ()):
            continue
        complaints.append(f"{name}:{line}: forbidden words {phrase!r}; say it plainly")
    return complaints


def shape_law(name: str, text: str, longest: int) -> list[str]:
    """Complain about a page that is too long, or does not say first whom it is for."""
    lines = text.splitlines()
    complaints = []
    if len(lines) > longest:
        complaints.append(f"{name}: {len(lines)} lines; at most {longest}, move the rest to a page")
    if not lines or not lines[0].startswith("# "):
        complaints.append(f"{name}: wanted a title `# ...` in the first line")
    first = next((line for line in lines[1:] if line.strip()), "")
    if name != "README.md" and not first.startswith("For "):
        complaints.append(
            f"{name}: the first line after the title must begin with 'For'; got {first!r}"
        )
    return complaints


def links_law(name: str, text: str, exists) -> list[str]:
    """Complain about each link or picture whose file does not exist. Web addresses are not checked.

    Args:
        exists: says whether a path from the repository's root exists.
    """
    complaints = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        path = target.split("#")[0]
        if not path or re.match(r"[a-z]+:", path):
            continue
        parts: list[str] = []
        for part in [*Path(name).parent.parts, *path.split("/")]:
            if part == ".." and parts:
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        if not exists("/".join(parts)):
            complaints.append(f"{name}: links to {target}, which does not exist")
    return complaints


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_page_of_the_plan_exists():
    assert NEEDED - set(PAGES) == set()
    assert {"benchmarks/README.md", "notebooks/README.md"} <= set(PAGES)


@pytest.mark.parametrize("name", FILES)
def test_all_texts_use_plain_words(name):
    assert words_law(name, read(name)) == []


@pytest.mark.parametrize("name", LONGEST)
def test_pages_are_short_and_their_links_resolve(name):
    text = read(name)
    complaints = shape_law(name, text, LONGEST[name])
    assert complaints + links_law(name, text, lambda path: (ROOT / path).exists()) == []


def test_the_words_law_can_be_broken():
    for phrase in FORBIDDEN:
        for broken in (phrase, phrase.upper(), phrase.replace(" ", "\n")):
            found = words_law("a.md", f"A first line.\nIt {broken}.")
            assert any(f"a.md:2: forbidden words {phrase!r}" in line for line in found), phrase
    word = FORBIDDEN[0]
    fine = f"s{word}ow {word}le\n`a_code {word} b`\n```\nx {word} y\n```\n"
    assert words_law("a.md", fine) == []
    assert len(words_law("a.py", fine)) == 2  # in Python the whole text counts
    after = "```\n\n\n```\n" + FORBIDDEN[0]
    assert words_law("a.md", after) == [f"a.md:5: forbidden words {FORBIDDEN[0]!r}; say it plainly"]


def test_the_shape_law_can_be_broken():
    assert shape_law("p.md", "# T\n\nFor people.", 3) == []
    assert shape_law("README.md", "# T\n\nA thing.", 3) == []
    for text, says in (
        ("# T\n\nFor people.\nx", "4 lines"),
        ("# T\n\nThis page", "must begin with 'For'"),
        ("# T", "must begin with 'For'"),
        ("T\n\nFor people.", "title"),
        ("", "title"),
    ):
        assert says in " ".join(shape_law("p.md", text, 3)), says


def test_the_links_law_can_be_broken():
    known = {"README.md", "assets/a.png", "assets/docs/p.md"}
    fine = "![a](../a.png) [p](p.md#x) [r](../../README.md) [w](https://a.example) [h](#x) `[c](d)`"
    assert links_law("assets/docs/p.md", fine, known.__contains__) == []
    for link in ("![a](a.png)", "[p](../p.md#x)", "[r](README.md)"):
        assert len(links_law("assets/docs/p.md", link, known.__contains__)) == 1, link
