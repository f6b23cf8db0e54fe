"""Status files: a damaged one stops no batch, and the message names the file and what to do."""

import json
import os

import pytest

from tests.headless.test_batch import PARAMETERS, table
from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from vidbench.headless.status import copy_name, read
from vidbench.headless.table import read_table

WHOLE = {
    "state": "complete",
    "notebook": "book.ipynb",
    "digest": "0" * 16,
    "parameters": {},
    "cells": 2,
    "cell": 2,
    "pid": 1,
    "host": "h",
    "begun": "2026-01-01T00:00:00+00:00",
    "ended": "2026-01-01T00:00:09+00:00",
    "exit": 0,
    "error": None,
    "html": "book.html",
}
DAMAGED = {
    "empty": b"",
    "half": json.dumps(WHOLE).encode()[:60],
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "no map": b"null",
    "state": json.dumps(WHOLE | {"state": "done"}).encode(),
    "no state": json.dumps({"digest": "0"}).encode(),
    "cells": json.dumps({k: v for k, v in WHOLE.items() if k != "cells"}).encode(),
    "begun": json.dumps(WHOLE | {"begun": "yesterday"}).encode(),
    "error": json.dumps(WHOLE | {"error": 3}).encode(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_status_file_is_a_row_that_is_not_complete(tmp_path, capsys, content):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    path = table(tmp_path / "t.yaml", "notebook: book.ipynb\ngrid: {epochs: [1, 2]}\n")
    out = tmp_path / "out"
    rows = read_table(path, out)
    for row in rows:
        row.folder.mkdir(parents=True)
    good = WHOLE | {"digest": rows[1].digest}
    rows[1].copy.with_suffix(".status.json").write_text(json.dumps(good))
    damaged = rows[0].copy.with_suffix(".status.json")
    damaged.write_bytes(content)

    assert run("batch", path, "--out", out, "--list") == 1
    said = capsys.readouterr()
    assert str(damaged) in said.err and "Delete it and run the same again" in said.err
    assert "Traceback" not in said.err
    assert [line.split()[2] for line in said.out.splitlines()[1:]] == ["damaged", "complete"]
    assert [row.status()["state"] for row in read_table(path, out)] == ["damaged", "complete"]


def test_a_status_file_that_is_a_folder_is_damaged(tmp_path):
    (tmp_path / "book.status.json").mkdir()
    assert read(tmp_path / "book.ipynb")["state"] == "damaged"


@pytest.mark.parametrize("node", ["../x", "/tmp/x", "a/../../b", "a/b", "a\\b", "..", "a\n", "c:x"])
def test_a_nodes_name_leads_no_copy_out_of_the_folder(tmp_path, capsys, monkeypatch, node):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # `run` sets some
    book = notebook(tmp_path / "book.ipynb", "x = 1")
    words = ("run", book, "--out", tmp_path / "out", "--nnodes", 2, "--node", node)
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert repr(node) in said and "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"book.ipynb"}


def test_a_nodes_name_is_in_the_copys(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDBENCH_NNODES", "2")
    monkeypatch.setenv("VIDBENCH_NODE", "gpu1.lab")
    assert copy_name(tmp_path / "book.ipynb") == "book-gpu1.lab.ipynb"
