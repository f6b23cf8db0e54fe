"""Tables of batches: what a row's folder may be called, csv files as they come, many rows."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from tests.headless.test_batch import PARAMETERS, table
from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from vidbench.headless import parameters
from vidbench.headless import table as tables
from vidbench.headless.parameters import ParameterError
from vidbench.headless.table import read_table

BAD_NAMES = (
    "../x",
    "/tmp/x",
    "a/../../b",
    "..\\x",
    "a\\..\\..\\b",
    "c:\\x",
    "a\nb",
    "a\x1b[0m",
    "..",
)


@pytest.mark.parametrize("bad", [*BAD_NAMES, "", " ", ".", "é" * 100, "con", "x" * 300])
def test_no_name_leads_a_row_out_of_the_folder(tmp_path, bad):
    """The values that name a row, and the fields of maps that do."""
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    entries = [
        {"notebook": "book.ipynb", "parameters": {"stream": bad}},
        {"notebook": "book.ipynb", "parameters": {"changes": {bad: 1}}},
        {"notebook": "book.ipynb", "parameters": {"changes": {bad: {bad: bad}}}},
        {"notebook": "book.ipynb"},
    ]
    out = tmp_path / "out"
    rows = read_table(table(tmp_path / "t.yaml", json.dumps(entries)), out)
    for row in rows:
        assert row.folder.resolve().is_relative_to(out.resolve() / "book")
        assert re.fullmatch(r"[A-Za-z0-9._+=,-]+", row.folder.name) and len(row.folder.name) < 120
    assert len({str(row.folder).casefold() for row in rows}) == 4


def test_rows_whose_names_differ_only_in_case_or_by_what_is_cleaned_have_different_folders(
    tmp_path,
):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    notebook(tmp_path / "Book.ipynb", "x = 2", parameters=PARAMETERS)
    grid = {"stream": ["rgb", "RGB", "r/g", "r g", "r\\g", "-r-g-", "x" * 200, "x" * 201]}
    entries = [{"notebook": name, "grid": grid} for name in ("book.ipynb", "Book.ipynb")]
    rows = read_table(table(tmp_path / "t.yaml", json.dumps(entries)), tmp_path / "out")
    assert len({str(row.folder).casefold() for row in rows}) == len(rows) == 16


def test_a_notebooks_name_leads_no_row_out_of_the_folder(tmp_path):
    notebook(tmp_path / "...ipynb", parameters=PARAMETERS)  # its stem is two dots
    path = table(tmp_path / "t.yaml", "notebook: ...ipynb\ngrid: {epochs: [1, 2]}\n")
    with pytest.raises(ValueError, match="does not name a place inside"):
        read_table(path, tmp_path / "out")


@pytest.mark.parametrize("bad", [*BAD_NAMES, "a/../b", "\x00"])
def test_a_run_name_that_leaves_its_folder_is_refused(tmp_path, capsys, bad):
    """The parameter `name` names the run's folder in all notebooks, however it comes."""
    book = notebook(tmp_path / "book.ipynb", parameters='name: str = ""\nstream: str = "rgb"')
    with pytest.raises(ParameterError, match="name .* does not name a place inside"):
        parameters.check(book, {"name": bad})
    composed = {"notebook": "book.ipynb", "parameters": {"stream": bad}}
    composed |= {"compose": {"name": "{stream}"}}
    path = table(tmp_path / "t.yaml", json.dumps(composed))
    assert run("batch", path, "--out", tmp_path / "out") == 2
    assert run("run", book, "-p", "name", bad, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.count("does not name a place inside") == 2 and "Traceback" not in said
    assert not (tmp_path / "out").exists()
    fine = {"name": "long/rgb-1.5", "stream": bad}
    assert parameters.check(book, fine) == fine and parameters.check(book, {"name": ""})


# --------------------------------------------------------------------------------- csv and yaml


def csv(folder: Path, text: str | bytes) -> Path:
    notebook(folder / "n.ipynb", parameters='b: str = "x"\ne: float = 1e-3\nf: bool = False')
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "t.csv").write_bytes(content)
    return folder / "t.csv"


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfnotebook,b\nn.ipynb,rgb\n",
        b"notebook,b\r\nn.ipynb,rgb\r\n",
        b'"notebook","b"\n"n.ipynb","rgb"',
        b"notebook,b,e\nn.ipynb,rgb,\n,,\n\n",
    ],
    ids=["bom", "crlf", "quoted", "blank rows"],
)
def test_a_csv_as_spreadsheets_write_it(tmp_path, text):
    rows = read_table(csv(tmp_path, text), tmp_path / "out")
    assert [row.parameters for row in rows] == [{"b": "rgb"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("notebook,b,b\nn.ipynb,rgb,flow\n", "line 1: wanted a column notebook and different"),
        ("notebook,notebook\nn.ipynb,n.ipynb\n", "line 1: wanted a column notebook and different"),
        (",notebook,b\n0,n.ipynb,rgb\n", "line 1: wanted a column notebook and different names"),
        ("notebook;b\nn.ipynb;rgb\n", "line 1: wanted a column notebook"),
        ("", "line 1: wanted a column notebook"),
        ("notebook,b\nn.ipynb,rgb\nn.ipynb,flow,2\n", "line 3: wanted 2 cells; got 3"),
        ("notebook,b\nn.ipynb\n", "line 2: wanted 2 cells; got 1"),
        ("notebook,b\n,rgb\n", "line 2: notebook must be the path"),
        ("notebook,b\n  ,rgb\n", "line 2: notebook must be the path"),
        ('notebook,b\nn.ipynb,rgb\nn.ipynb,"flow\nn.ipynb,x\n', "line 3: a cell's quotes must be"),
        ('notebook,b\nn.ipynb,"rgb\nn.ipynb,flow"\n', "line 2: a cell's quotes must be closed"),
        ('notebook,b\nn.ipynb,"rgb"x\n', "line 2: a cell's quotes must be closed"),
        ("notebook,e\nn.ipynb,nan\n", "line 2: n.ipynb: e needs float"),
        ("notebook,e\nn.ipynb,.nan\n", "line 2: n.ipynb: e needs what YAML can hold; got nan"),
        ("notebook,f\nn.ipynb,on\n", "line 2: n.ipynb: f needs bool"),
        ("notebook,b \nn.ipynb,rgb\n", "line 2: n.ipynb has no parameter 'b '"),
        ("notebook,b\n", "has no rows"),
        (b"notebook,b\nn.ipynb,\xe9\n", "must be UTF-8"),
    ],
)
def test_a_csv_that_would_be_misread_is_refused_with_the_line(tmp_path, capsys, text, says):
    path = csv(tmp_path, text)
    assert run("batch", path, "--out", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said and "t.csv" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("notebook: n.ipynb\ngrid:\n  b: [rgb]\n  e: [0.1]\n  b: [flow]\n", "line 5: found dupl"),
        ("notebook: n.ipynb\nparameters: {f: on}", "f needs bool such as False; got 'on'"),
        ("notebook: n.ipynb\nparameters: {e: 1:30}", "e needs float"),
        ("notebook:", "from the table's folder; got None"),
        ("notebook: 3", "from the table's folder; got 3"),
        ("notebook: ' '", "from the table's folder; got ' '"),
        ("notebook: n.ipynb\nparameters: {1: 2}", "are maps of names"),
        ("notebook: n.ipynb\nparameters: {'': 2}", "are maps of names"),
        ("notebook: n.ipynb\ngrid: {c.: [2]}", "are maps of names"),
        ("notebook: n.ipynb\ngrid: {x: [{1: 2}]}", "a parameter's name is text; got 1"),
        ("notebook: n.ipynb\ncompose: {b: 3}", "AttributeError"),
        ("notebook: n.ipynb\ntexts: {b: x}", "wanted a map of notebook"),
        ("notebook: t.yaml", "t.yaml is no notebook"),
        ("[null]", "wanted a map of notebook"),
        ("", "wanted a map of notebook"),
    ],
)
def test_a_yaml_that_would_be_misread_is_refused(tmp_path, capsys, text, says):
    csv(tmp_path, "")
    path = table(tmp_path / "t.yaml", text)
    assert run("batch", path, "--out", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said and "t.yaml" in said and "Traceback" not in said


def test_infinity_reaches_the_notebook_as_it_was_given(tmp_path):
    csv(tmp_path, "")
    path = table(tmp_path / "t.yaml", "notebook: n.ipynb\nparameters: {e: .inf, b: '010'}\n")
    (row,) = read_table(path, tmp_path / "out")
    from vidbench.headless.batch import _prepared

    _prepared(row)
    assert parameters.settings(row.folder / "settings.yaml") == {"e": float("inf"), "b": "010"}


def test_the_work_for_a_table_grows_with_its_rows_and_not_with_their_square(tmp_path, monkeypatch):
    """Counts calls, comparisons of rows included: ten times the rows, ten times the work."""
    import sys

    def lines(rows: int) -> int:
        folder = tmp_path / str(rows)
        texts = "".join(f"n.ipynb,s{number},{number / 7}\n" for number in range(rows))
        path = csv(folder, "notebook,b,e\n" + texts)
        count = 0

        def note(frame, event, _):
            nonlocal count
            count += 1
            return note if frame.f_code.co_filename == tables.__file__ else None

        before = sys.gettrace()
        sys.settrace(note)
        try:
            assert len(read_table(path, folder / "out")) == rows
        finally:
            sys.settrace(before)
        return count

    lines(2)  # imports
    few, many = lines(20), lines(200)
    assert many < 12 * few
    read = []
    monkeypatch.setattr(
        nbformat, "read", lambda *a, real=nbformat.read, **k: read.append(1) or real(*a, **k)
    )
    lines(20)
    assert len(read) == 1, "a notebook is read once a table"
