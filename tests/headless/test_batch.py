"""A table of notebook runs: its rows, what is skipped, what resumes, one bad row among good ones,
stopping, Slurm."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ROOT
from tests.headless.test_execute import handlers, notebook, run, status  # noqa: F401
from vidbench.headless.batch import gpu_shares
from vidbench.headless.parameters import ParameterError
from vidbench.headless.status import read
from vidbench.headless.table import read_table

PARAMETERS = 'runs_dir: str = "../runs"\nstream: str = "rgb"\nepochs: int = 1\nchanges: dict = {}'
# Says that it ran; seed 3 fails the first time, as if it went on from a checkpoint the second.
WORK = """from pathlib import Path
mark = Path(runs_dir, f"{stream}-{changes.get('seed')}")
again = mark.exists()
mark.open("a").write("ran ")
assert again or changes.get("seed") != 3, "out of luck" """
WAIT = """import time
from pathlib import Path
Path(runs_dir, f"begun-{epochs}").touch()
try:
    time.sleep(0 if Path(runs_dir, "go").exists() else 600)
except KeyboardInterrupt:
    Path(runs_dir, f"saved-{epochs}").touch()
    raise"""


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def listed(rows) -> list[tuple[str, dict]]:
    return [(row.name, row.parameters) for row in rows]


def test_rows_of_a_grid(tmp_path):
    notebook(tmp_path / "books" / "book.ipynb", parameters=PARAMETERS)
    rows = read_table(
        table(
            tmp_path / "t.yaml",
            """
notebook: books/book.ipynb
parameters: {runs_dir: /h, changes: {queue: 512}}
grid:
  stream: [rgb, flow]
  changes.seed: [1, 2]
compose: {runs_dir: "/h/{stream}-{changes[seed]}"}
""",
        ),
        tmp_path / "out",
    )
    wanted = []
    for stream in ("rgb", "flow"):
        for seed in (1, 2):
            wanted.append(
                (
                    f"book/changes.seed={seed},stream={stream}",
                    {
                        "runs_dir": f"/h/{stream}-{seed}",
                        "changes": {"queue": 512, "seed": seed},
                        "stream": stream,
                    },
                )
            )
    assert listed(rows) == wanted and [row.number for row in rows] == [0, 1, 2, 3]
    assert (
        len({row.digest for row in rows}) == 4
        and rows[0].notebook == tmp_path / "books" / "book.ipynb"
    )
    assert (
        rows[0].folder == tmp_path / "out" / "book" / "changes.seed=1,stream=rgb"
        and not rows[0].folder.exists()
    )


def test_rows_of_several_entries_of_settings_and_of_a_csv(tmp_path):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    notebook(tmp_path / "other.ipynb", parameters="text: str = ''\nrate: float = 0.5")
    entries = read_table(
        table(
            tmp_path / "t.yaml",
            """
- notebook: book.ipynb
  grid:
    preset: [{stream: rgb, epochs: 2}, {stream: flow, epochs: 3}]
    changes: [{}, {lr: 1e-4}]
- {notebook: other.ipynb, parameters: {text: "a/b c"}}
- notebook: other.ipynb
""",
        ),
        tmp_path / "out",
    )
    assert [row.parameters for row in entries] == [
        {"stream": "rgb", "epochs": 2, "changes": {}},
        {"stream": "rgb", "epochs": 2, "changes": {"lr": 1e-4}},
        {"stream": "flow", "epochs": 3, "changes": {}},
        {"stream": "flow", "epochs": 3, "changes": {"lr": 1e-4}},
        {"text": "a/b c"},
        {},
    ]
    assert [row.name for row in entries[4:]] == ["other/text=a-b-c", "other/plain"]
    assert len({row.folder for row in entries}) == 6
    lines = read_table(
        table(
            tmp_path / "t.csv",
            "notebook,stream,epochs,text,rate\nbook.ipynb,rgb,2,,\n"
            "book.ipynb,flow,,,\nother.ipynb,,,12,1\n",
        ),
        tmp_path / "out",
    )
    assert listed(lines) == [
        ("book/stream=rgb,epochs=2", {"stream": "rgb", "epochs": 2}),
        ("book/stream=flow", {"stream": "flow"}),
        ("other", {"text": "12", "rate": 1.0}),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "notebook: book.ipynb\ngrid: {epoch: [1, 2]}",
            "has no parameter 'epoch'; the known ones are runs_dir",
        ),
        ("notebook: book.ipynb\ngrid: {epochs: [1, two]}", "epochs needs int"),
        ("notebook: book.ipynb\ngrid: {epochs: 3}", "epochs needs a list"),
        (
            "notebook: book.ipynb\ngrids: {epochs: [3]}",
            "wanted a map of notebook, parameters, grid, compose",
        ),
        ("notebook: none.ipynb", "none.ipynb"),
        ("- {notebook: book.ipynb}\n- {notebook: book.ipynb}", "rows [0, 1] are the same"),
        ("notebook: book.ipynb\ncompose: {runs_dir: '{nothing}'}", "KeyError"),
        ("notebook: book.ipynb\nparameters: {stream.x: 1, stream: rgb}", "stream.x is set twice"),
        ("[]", "has no rows"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path, capsys, text, says):
    notebook(tmp_path / "book.ipynb", parameters=PARAMETERS)
    path = table(tmp_path / "t.yaml", text)
    with pytest.raises((ParameterError, OSError)):
        read_table(path, tmp_path / "out")
    assert run("batch", path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_a_batch_skips_resumes_and_sums_up(tmp_path, capsys):
    book, out = notebook(tmp_path / "book.ipynb", WORK, parameters=PARAMETERS), tmp_path / "out"
    (tmp_path / "runs_dir").mkdir()
    text = f"notebook: book.ipynb\nparameters: {{runs_dir: {tmp_path / 'runs_dir'}}}\ngrid: {{changes.seed: [1, 3]}}\n"
    words = ("batch", table(tmp_path / "t.yaml", text), "--out", out, "--processes", 2)

    def ran() -> dict[str, int]:
        return {
            path.name: path.read_text().count("ran") for path in (tmp_path / "runs_dir").iterdir()
        }

    def summary() -> list[tuple]:
        with (out / "summary.csv").open() as file:
            return [
                (
                    line["name"],
                    line["state"],
                    line["exit"],
                    line["parameter changes.seed"],
                    line["error"],
                )
                for line in csv.DictReader(file)
            ]

    assert run(*words) == 1 and ran() == {"rgb-1": 1, "rgb-3": 1}
    said = capsys.readouterr().out
    assert "row 0, book/changes.seed=1: complete\n" in said
    assert (
        "row 1, book/changes.seed=3: failed in cell 3 of 3: AssertionError: out of luck\n" in said
    )
    bad = ("book/changes.seed=3", "failed", "1", "3", "AssertionError: out of luck")
    assert summary() == [("book/changes.seed=1", "complete", "0", "1", ""), bad]

    assert run(*words) == 0 and ran() == {"rgb-1": 1, "rgb-3": 2}, (
        "the complete row is not run again"
    )
    assert "2 rows: 1 complete" in capsys.readouterr().out
    assert [line[1] for line in summary()] == ["complete", "complete"]

    # The table grows: what was complete keeps its folder; one row runs alone, as in a job array.
    table(tmp_path / "t.yaml", text.replace("[1, 3]}", "[1, 3], stream: [rgb, flow]}"))
    assert run(*words, "--list") == 1, "as the batch: some rows are not complete"
    states = [line.split()[1:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert states == [
        ["book/changes.seed=1", "complete"],
        ["book/changes.seed=1,stream=flow", "new"],
        ["book/changes.seed=3", "complete"],
        ["book/changes.seed=3,stream=flow", "new"],
    ]
    assert (
        run(*words, "--row", 1) == 0
        and run(*words, "--row", 3) == 1
        and run(*words, "--row", 4) == 2
    )
    assert ran() == {"rgb-1": 1, "rgb-3": 2, "flow-1": 1, "flow-3": 1}
    assert run(*words, "--row", 1) == 0 and ran()["flow-1"] == 1

    # Other contents of the notebook: nothing of it is complete.
    notebook(book, WORK + "\n# changed", parameters=PARAMETERS)
    assert {row.status()["state"] for row in read_table(tmp_path / "t.yaml", out)} == {"new"}


@pytest.mark.slow
def test_rows_at_one_time_have_gpus_of_their_own(tmp_path, monkeypatch):
    assert gpu_shares(list("0123"), 2) == [["0", "1"], ["2", "3"]]
    assert gpu_shares(list("01234"), 3) == [["0"], ["1", "2"], ["3", "4"]]
    assert gpu_shares(list("01"), 3) == [["0"], ["1"], ["0"]] and gpu_shares([], 2) == [[], []]
    code = """import os, time
from pathlib import Path
Path(runs_dir, str(epochs)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while len(list(Path(runs_dir).iterdir())) < 2:
    time.sleep(0.1)"""
    notebook(tmp_path / "book.ipynb", code, parameters=PARAMETERS)
    (tmp_path / "runs_dir").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,7")
    rows = f"notebook: book.ipynb\nparameters: {{runs_dir: {tmp_path / 'runs_dir'}}}\ngrid: {{epochs: [1, 2]}}\n"
    assert (
        run("batch", table(tmp_path / "t.yaml", rows), "--out", tmp_path / "out", "--processes", 2)
        == 0
    )
    assert sorted(path.read_text() for path in (tmp_path / "runs_dir").iterdir()) == ["4,5", "6,7"]


def until(there, process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_stops_all_and_says_what_is_left(tmp_path):
    notebook(tmp_path / "book.ipynb", WAIT, parameters=PARAMETERS)
    path = table(
        tmp_path / "t.yaml",
        f"notebook: book.ipynb\nparameters: {{runs_dir: {tmp_path}}}\ngrid: {{epochs: [1, 2, 3]}}\n",
    )
    words = [
        sys.executable,
        "-m",
        "vidbench",
        "batch",
        path,
        "--out",
        tmp_path / "out",
        "--processes",
        "2",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: (tmp_path / "begun-1").exists() and (tmp_path / "begun-2").exists(), process)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (
        "the same call resumes the 3 rows left: book/epochs=1, book/epochs=2, book/epochs=3"
        in errors
    )
    states = [
        read(tmp_path / "out" / "book" / f"epochs={number}" / "book.ipynb")["state"]
        for number in (1, 2, 3)
    ]
    assert states == ["interrupted", "interrupted", "new"] and "interrupted" in said
    assert (
        (tmp_path / "saved-1").exists()
        and (tmp_path / "saved-2").exists()
        and not (tmp_path / "begun-3").exists()
    )


@pytest.mark.slow
def test_a_slurm_task_runs_its_row_saves_itself_before_the_limit_and_goes_on(tmp_path):
    """No Slurm here: bash, its variables, and an scontrol that writes down its arguments."""
    notebook(tmp_path / "book.ipynb", WAIT, parameters=PARAMETERS)
    path = table(
        tmp_path / "t.yaml",
        f"notebook: book.ipynb\nparameters: {{runs_dir: {tmp_path}}}\ngrid: {{epochs: [1, 2, 3]}}\n",
    )
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requests\n')
    vidbench = tmp_path / "bin" / "vidbench"
    vidbench.write_text(f'#!/bin/sh\nexec {sys.executable} -m vidbench "$@"\n')
    for program in (command, vidbench):
        program.chmod(0o755)
    task = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "1"}
    environment = {**os.environ, **task, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    words = ["bash", ROOT / "assets" / "slurm_array.sh", path, tmp_path / "out"]
    copy = tmp_path / "out" / "book" / "epochs=2" / "book.ipynb"
    process = subprocess.Popen(
        words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        until(lambda: (tmp_path / "begun-2").exists(), process)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(120) == 130
    finally:
        process.kill()
    assert (tmp_path / "saved-2").exists() and status(copy)["state"] == "interrupted"
    assert (tmp_path / "requests").read_text() == "requeue 77_1\n"

    (tmp_path / "go").touch()
    done = subprocess.run(words, env=environment, cwd=ROOT, text=True, capture_output=True)
    assert (
        done.returncode == 0 and "[complete]" in done.stdout and status(copy)["state"] == "complete"
    )
    assert (
        not (tmp_path / "begun-1").exists() and (tmp_path / "requests").read_text().count("\n") == 1
    )


def test_a_row_that_cannot_be_started_stops_no_other(tmp_path, capsys):
    notebook(tmp_path / "book.ipynb", "x = epochs", parameters=PARAMETERS)
    path = table(tmp_path / "t.yaml", "notebook: book.ipynb\ngrid: {epochs: [1, 2]}\n")
    first, second = read_table(path, tmp_path / "out")
    first.folder.parent.mkdir(parents=True)
    first.folder.touch()  # a file where its folder must be
    assert run("batch", path, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "row 0, book/epochs=1: not started: FileExistsError" in said
    assert "Traceback" not in said and second.status()["state"] == "complete"
