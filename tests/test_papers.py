"""Checks that the pages on the papers name homes that exist, with the values they state.

Each code span in the last column of a table is a pointer of one of these forms:

    methods/coclr.py:CoCLR.after_step    a name in a file of vidbench, or of the repository
    tensors/mixing.py:cutmix(beta=1.0)   an argument, and its default
    models/s3d.py:LIMIT = 3              a constant, or the default of a dataclass's field
    coclr:k400_paper.alone.queue = 16384 a field of a preset (the tables are in PRESETS below)
    published.csv[K400 alone; R@1] = 33  the one row with these cells
    notebooks/30_multitrain.ipynb:91.0   a notebook that contains these words
"""

import ast
import csv
import importlib
import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest

from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.evaluate.protocols import PROTOCOLS
from vidbench.methods.recipes import classify, coclr, multitrain
from vidbench.models import mvit, slowfast

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "assets" / "docs"
PAGES = ("papers-coclr.md", "papers-rms.md", "papers-multitrain.md")
PRESETS = {
    "coclr": coclr.PRESETS,
    "classify": classify.PRESETS,
    "multitrain": multitrain.PRESETS,
    "augment": AUGMENTS,
    "protocol": PROTOCOLS,
    "mvit": mvit.PRESETS,
    "slowfast": slowfast.PRESETS,
}
# what a row without a pointer must begin with
REASONS = ("not implemented:", "not available:", "context:")
# what each supplement contains, and the other sources of each paper
PARTS = {
    "papers-coclr.md": "1.1,Table 1,1.2,Table 2,1.3,2,Algorithm 1,3,Figure 1,Digest",
    "papers-rms.md": "Table A1,A,B.1,B.2,B.3,C,Eq. 1,D,Eq. 2,Eq. 3,Eq. 4,Abstract",
    "papers-multitrain.md": (
        "1,Eq. 1,Figure 1,2.1,2.2,Table 1,Table 2,2.3,Table 3,2.4,Table 4,Release"
    ),
}


def rows_of(text):
    """(line, cells) of each row of the page's tables that have the columns where, says, home."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells == ["where", "what it says", "home in vidbench"]:
            inside = True
        elif inside and not set(line) <= set("|- "):
            yield number, cells


def value_of(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise AssertionError(f"{text!r} is no plain value") from None


def step(thing, name):
    """What an attribute, a key or a place of a tuple holds."""
    if isinstance(thing, dict):
        return thing[name]
    return thing[int(name)] if name.isdigit() else getattr(thing, name)


def of_preset(table, path, wanted):
    found = PRESETS[table]
    for name in path.split("."):
        found = step(found, name)
    assert wanted is None or found == value_of(wanted), f"is {found!r}"


def of_row(cells, wanted):
    with open(ROOT / "assets" / "published.csv", newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if set(cells) <= set(row.values())]
    assert len(found) == 1, f"{len(found)} rows have these cells"
    assert float(found[0]["value"]) == value_of(wanted), f"is {found[0]['value']}"


@cache
def words_of_notebook(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return " ".join("".join("".join(cell["source"]) for cell in cells).split())


def of_file(path, name, wanted):
    file = next((one for one in (ROOT / path, ROOT / "vidbench" / path) if one.is_file()), None)
    assert file is not None, "no such file"
    if file.suffix == ".ipynb":
        assert not name or name in words_of_notebook(file), f"{name!r} is not in the notebook"
    elif name and file.suffix != ".py":
        assert name in file.read_text(encoding="utf-8"), f"{name!r} is not in the file"
    elif name.startswith("test_"):
        assert f"\ndef {name}(" in file.read_text(encoding="utf-8"), "no such test"
    elif name:
        parts = file.relative_to(ROOT).with_suffix("").parts
        in_module(importlib.import_module(".".join(parts)), name, wanted)


def in_module(thing, name, wanted):
    path, _, argument = name.removesuffix(")").partition("(")
    *above, last = path.split(".")
    for part in above:
        thing = step(thing, part)
    field = {one.name: one for one in fields(thing)}.get(last) if is_dataclass(thing) else None
    if field is not None:
        found = field.default if field.default is not MISSING else field.default_factory()
    elif inspect.isclass(thing) and last in getattr(thing, "__annotations__", {}):
        found = None  # a buffer, named in the class's body
    else:
        found = step(thing, last)
    assert wanted is None or found == value_of(wanted), f"is {found!r}"
    if argument:
        known, _, default = argument.partition("=")
        parameter = inspect.signature(found).parameters[known]
        assert not default or parameter.default == value_of(default), f"is {parameter.default!r}"


def check(pointer):
    """Raise an error that says what is wrong if a pointer does not resolve."""
    if row := re.fullmatch(r"published\.csv\[(.+)\] = (\S+)", pointer):
        return of_row(row[1].split("; "), row[2])
    place, _, wanted = pointer.partition(" = ")
    if table := re.fullmatch(rf"({'|'.join(PRESETS)}):(.+)", place):
        return of_preset(table[1], table[2], wanted or None)
    path, _, name = place.partition(":")
    return of_file(path, name, wanted or None)


def complaint(pointer):
    try:
        check(pointer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_statement_has_a_home_that_exists(page):
    complaints, rows = [], list(rows_of((DOCS / page).read_text(encoding="utf-8")))
    for line, cells in rows:
        if len(cells) != 3:
            complaints.append(f"line {line}: {len(cells)} cells, not 3")
            continue
        pointers = re.findall(r"`([^`]+)`", cells[2])
        if not pointers and not cells[2].startswith(REASONS):
            complaints.append(f"line {line}: neither a pointer nor a reason: {cells[2]!r}")
        wrong = ((pointer, complaint(pointer)) for pointer in pointers)
        complaints += [f"line {line}: `{pointer}` {words}" for pointer, words in wrong if words]
    assert complaints == []
    assert set(PARTS[page].split(",")) <= {cells[0] for _, cells in rows}


def test_the_index_counts_the_rows_of_each_page():
    index = (DOCS / "papers.md").read_text(encoding="utf-8")
    for page in PAGES:
        homes = [cells[-1] for _, cells in rows_of((DOCS / page).read_text(encoding="utf-8"))]
        counts = (
            len(homes),
            sum(home.startswith("assumption") for home in homes),
            sum(home.startswith("differs") for home in homes),
            sum(home.startswith(REASONS[:2]) for home in homes),
        )
        row = next(line for line in index.splitlines() if f"]({page})" in line)
        assert tuple(int(cell) for cell in row.strip("| ").split(" | ")[1:]) == counts


@pytest.mark.parametrize(
    "pointer",
    [
        "models/nothing.py",
        "models/s3d.py:S4D",
        "models/s3d.py:S3D(depth)",
        "tensors/mixing.py:cutmix(beta=0.5)",
        "methods/multitrain.py:RELEASED_CLASSES = 400",
        "coclr:k400_paper.alone.queue = 2048",
        "coclr:k400_paper.alone.tail",
        "published.csv[CoCLR; UCF101] = 51.8",
        "published.csv[MultiTrain; MiT; 2 x 3 views; 305 classes] = 51.8",
        "notebooks/30_multitrain.ipynb:an untold word",
        "tests/test_papers.py:test_nothing",
        "queue of 2,048",
    ],
)
def test_a_pointer_that_is_not_true_is_named(pointer):
    assert complaint(pointer)
