"""Rows that need others: what a table may say, what waits, what a failure stops, a killed batch."""

import csv
import os
import subprocess
import sys

import pytest

from tests import ROOT
from tests.headless.test_batch import PARAMETERS, table, until
from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from vidbench.headless.states import states
from vidbench.headless.table import read_table

SEEDS = """
settings: {place: runs_dir, seeds: [1, 3], rate: 1e-3}
rows:
- notebook: book.ipynb
  each: {seed: "{seeds}", stream: [rgb, flow]}
  row: "{stream}-{seed}"
  parameters: {runs_dir: "{place}", stream: "{stream}", changes: {seed: "{seed}", lr: "{rate}"}}
- notebook: book.ipynb
  each: {seed: "{seeds}"}
  row: both-{seed}
  needs: ["rgb-{seed}", "flow-{seed}"]
  parameters: {runs_dir: "{place}", stream: both, changes: {seed: "{seed}"}}
- {notebook: book.ipynb, row: tables, needs: ["*"], parameters: {runs_dir: "{place}", stream: all}}
"""
# Says that it ran; flow of seed 3 fails until the folder has a file `luck`.
WORK = """from pathlib import Path
name = f"{stream}-{changes.get('seed')}"
assert name != "flow-3" or Path(runs_dir, "luck").exists(), "out of luck"
Path(runs_dir, "order").open("a").write(name + " ")"""


def listed(*words) -> dict[str, str]:
    """The states of a table's rows by name, as --list writes them."""
    run("batch", *words, "--list")
    with (words[2] / "summary.csv").open() as file:
        return {line["name"]: line["state"] for line in csv.DictReader(file)}


def test_settings_fill_texts_and_names_become_rows(tmp_path):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    path = table(tmp_path / "t.yaml", SEEDS)
    rows = read_table(path, tmp_path / "out", given=[("seeds", "[5]"), ("rate", "2")])
    assert [row.name for row in rows] == ["rgb-5", "flow-5", "both-5", "tables"]
    assert [row.needs for row in rows] == [(), (), (0, 1), (0, 1, 2)]
    assert rows[1].folder == tmp_path / "out" / "flow-5"
    assert rows[1].parameters == {
        "runs_dir": str(tmp_path / "runs_dir"),
        "stream": "flow",
        "changes": {"seed": 5, "lr": 2},
    }
    lines = "notebook,row,needs,epochs\nbook.ipynb,a,,1\nbook.ipynb,b,,2\nbook.ipynb,,a b,3\n"
    rows = read_table(table(tmp_path / "t.csv", lines), tmp_path / "out")
    assert [row.name for row in rows] == ["a", "b", "book/epochs=3"] and rows[2].needs == (0, 1)


BAD = {  # the second and third row -> what the message says
    "unknown": (
        "row: b, needs: [c]",
        "row: d",
        "row 1, b: needs must name rows of the table; got 'c'",
    ),
    "pattern": ("row: b, needs: [c*]", "row: d", "got 'c*'. The rows are a, b, d"),
    "twice": ("row: b", "row: b", "rows [1, 2] are all 'b'"),
    "circle": ("row: b, needs: [d]", "row: d, needs: [b]", "must not need each other in a circle"),
    "itself": ("row: b, needs: [b]", "row: d", "circle; b needs b"),
    "no list": ("row: b, needs: a", "row: d", "needs must be a list of rows' names; got 'a'"),
    "no name": ("row: ../b", "row: d", "row must be a name of letters, digits"),
    "each": ("row: b, each: {x: 3}", "row: d", "each must be a map of names to lists"),
    "name": ("row: 'b{y}', each: {x: [3]}", "row: d", "{y} in 'b{y}' must be a name of settings"),
}


@pytest.mark.parametrize(("second", "third", "says"), BAD.values(), ids=BAD)
def test_needs_that_cannot_be_met_are_refused(tmp_path, capsys, second, third, says):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    entries = [
        "row: a",
        f"{second}, parameters: {{epochs: 2}}",
        f"{third}, parameters: {{epochs: 3}}",
    ]
    text = "".join(f"- {{notebook: book.ipynb, {entry}}}\n" for entry in entries)
    path = table(tmp_path / "t.yaml", text)
    assert run("batch", path, "--out", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert says in said and "t.yaml" in said and "Traceback" not in said
    assert run("batch", path, "-p", "seed", "1") == 2
    assert "-p must name a setting of the table; got 'seed'" in capsys.readouterr().err


def test_a_failed_row_stops_those_that_need_it_and_no_other(tmp_path, capsys):
    notebook(tmp_path / "book.ipynb", WORK, parameters=PARAMETERS)
    (tmp_path / "runs_dir").mkdir()
    words = (table(tmp_path / "t.yaml", SEEDS), "--out", tmp_path / "out")
    assert run("batch", *words, "--order") == 0
    assert capsys.readouterr().out.splitlines() == ["0,1,2,3 ", "4 0,1", "5 2,3", "6 0,1,2,3,4,5"]
    words = (*words, "-p", "seeds", "[3]")
    assert run("batch", *words, "--row", 2) == 2
    said = capsys.readouterr().err
    assert "row 2, both-3: the rows that it needs must be complete; these are not" in said
    assert "0, rgb-3 (new), 1, flow-3 (new). Run them first" in said

    assert run("batch", *words, "--processes", 2) == 1
    said = capsys.readouterr()
    assert "2 rows did not run" in said.err and said.err.endswith(" both-3, tables\n")
    assert "needs flow-3 (failed), both-3 (need failed)" in said.out
    assert (tmp_path / "runs_dir" / "order").read_text().split() == ["rgb-3"]

    (tmp_path / "runs_dir" / "luck").touch()
    assert run("batch", *words, "--processes", 2) == 0
    ran = (tmp_path / "runs_dir" / "order").read_text().split()
    assert ran == ["rgb-3", "flow-3", "both-3", "all-None"], "the complete row is not run again"

    # A row runs again: what needs it is out of date.
    (tmp_path / "out" / "rgb-3" / "book.status.json").unlink()
    wanted = {"rgb-3": "new", "flow-3": "complete", "both-3": "outdated", "tables": "outdated"}
    assert listed(*words) == wanted
    capsys.readouterr()
    assert run("batch", *words, "--order") == 0
    assert capsys.readouterr().out.splitlines() == ["0 ", "2 0", "3 0,2"]


def test_slurm_arrays_wait_for_the_rows_that_they_need(tmp_path):
    """No Slurm here: an sbatch that writes down its arguments and counts jobs from 100."""
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    path = table(tmp_path / "t.yaml", SEEDS)
    programs = {
        "sbatch": f'echo "$@" >> {tmp_path}/submitted; echo $((99 + $(wc -l < {tmp_path}/submitted)))";c1"',
        "vidbench": f'exec {sys.executable} -m vidbench "$@"',
    }
    for name, line in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    script, out = ROOT / "assets" / "slurm_table.sh", tmp_path / "out"
    words = ["bash", script, path, out, "-p", "rate", "0.5", "--", "--account=lab"]
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=environment, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "job 101: rows 4 after rows 0,1"
    ends = f"--account=lab {script.parent}/slurm_array.sh {path} {out} -p rate 0.5"
    waits = "--dependency=afterok:{} --kill-on-invalid-dep=yes"
    first, second = waits.format("100_0:100_1"), waits.format("100_2:100_3")
    last = waits.format("100_0:100_1:100_2:100_3:101_4:102_5")
    assert (tmp_path / "submitted").read_text().splitlines() == [
        f"--parsable --array=0,1,2,3 {ends}",
        f"--parsable --array=4 {first} {ends}",
        f"--parsable --array=5 {second} {ends}",
        f"--parsable --array=6 {last} {ends}",
    ]


STUBBORN = """import time
from pathlib import Path
Path(runs_dir, "begun").open("a").write(stream)
try:
    time.sleep(0 if Path(runs_dir, "go").exists() else 600)
except KeyboardInterrupt:
    time.sleep(20)
    raise"""


@pytest.mark.slow
def test_the_rows_of_a_killed_batch_end_and_the_next_call_completes_them(tmp_path, capsys):
    """The row takes 20 s to save itself; meanwhile it is orphaned, and the next call waits."""
    notebook(tmp_path / "book.ipynb", STUBBORN, parameters=PARAMETERS)
    text = f"""
- {{notebook: book.ipynb, row: a, parameters: {{runs_dir: {tmp_path}, stream: a}}}}
- {{notebook: book.ipynb, row: b, needs: [a], parameters: {{runs_dir: {tmp_path}, stream: b}}}}
"""
    words = (table(tmp_path / "t.yaml", text), "--out", tmp_path / "out")
    batch = subprocess.Popen([sys.executable, "-m", "vidbench", "batch", *words])
    try:
        until(lambda: (tmp_path / "begun").exists(), batch)
        assert listed(*words) == {"a": "running", "b": "waits"}
        found, _ = states(read_table(*words[::2]))
        who = f"process {found['pid']} on {found['host']}, of the batch {batch.pid}"
        assert found["error"] == who
    finally:
        batch.kill()
        batch.wait()
    assert listed(*words) == {"a": "orphaned", "b": "waits"}
    (tmp_path / "go").touch()
    capsys.readouterr()
    assert run("batch", *words) == 0
    assert "2 rows: 0 complete, 1 run elsewhere, 1 to do" in capsys.readouterr().out
    assert (tmp_path / "begun").read_text() == "aab", "one after the other"
