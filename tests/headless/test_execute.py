"""Notebooks executed headless: what is kept, and what the status says after each way to end.

Real kernels and real signals; both doors, `vidbench run` and `papermill --engine vidbench`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from vidbench.__main__ import main
from vidbench.headless import kernel as kernels
from vidbench.headless import status as statuses
from vidbench.headless import streams as printed
from vidbench.headless.parameters import digest_of
from vidbench.system.progress import Every

PARAMETERS = 'runs_dir: str = "../runs"\nn: int = 2\nlr: float = 0.1\nmore: dict = {}'


TELLS = """import json, os
given = json.loads(os.environ["VIDBENCH_NOTEBOOK"])
print(os.getcwd(), n, runs_dir, given["notebook"], sorted(given["parameters"]))"""


def notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def run(*words) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code


@pytest.fixture(autouse=True)
def handlers():
    """`main` turns SIGTERM into Ctrl-C for its process; the tests after these shall not inherit
    that."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def status(copy: Path) -> dict:
    return json.loads(copy.with_suffix(".status.json").read_text())


def streams(copy: Path) -> list[list[tuple[str, str]]]:
    """Of each code cell its stream outputs."""
    cells = nbformat.read(copy, as_version=4).cells
    return [
        [(o.name, o.text) for o in cell.get("outputs", []) if o.output_type == "stream"]
        for cell in cells
    ]


# ------------------------------------------------------------------------------------ how it ends


RICH = (
    """import sys
for i in range(20):
    print("out", i, flush=True)
    print("err", i, file=sys.stderr, flush=True)
for i in range(5):
    sys.stdout.write(f"\\rstep {i}")
    sys.stdout.flush()
print()""",
    """import plotly.graph_objects as go
go.Figure(go.Scatter(y=[1, 2, 3])).show()""",
    """from ipywidgets import IntSlider
IntSlider()""",
    """import os
print(os.getcwd(), os.environ["VIDBENCH_PROGRESS"], n, lr, more)""",
    """from IPython.display import HTML, display
print("above", flush=True)
print("aside", file=sys.stderr, flush=True)
print("still above", flush=True)
shown = display(HTML("first"), display_id=True)
print("below")""",
    """shown.update(HTML("second"))
raise SystemExit(0)""",
)


def test_a_complete_run_keeps_copy_page_log_and_status(tmp_path, capsys):
    book = notebook(tmp_path / "books" / "rich.ipynb", *RICH)
    (tmp_path / "s.yaml").write_text("n: 3\nlr: 1\nmore: {a: [1, {b: x}]}\n")
    assert (
        run("run", book, "-f", tmp_path / "s.yaml", "-p", "n", "4", "--out", tmp_path / "out") == 0
    )
    copy = tmp_path / "out" / "rich.ipynb"
    said = status(copy)
    assert (said["state"], said["exit"], said["error"], said["cell"], said["cells"]) == (
        "complete",
        0,
        None,
        8,
        8,
    )
    assert said["parameters"] == {"n": 4, "lr": 1.0, "more": {"a": [1, {"b": "x"}]}}
    assert (
        said["notebook"] == str(book)
        and said["begun"] <= said["ended"]
        and said["html"] == "rich.html"
    )
    wanted = [
        ("stdout", "".join(f"out {i}\n" for i in range(20)) + "step 4\n"),
        ("stderr", "".join(f"err {i}\n" for i in range(20))),
    ]
    assert sorted(streams(copy)[2]) == sorted(wanted), "one output a stream, a redrawn line once"
    last = f"{book.parent} lines 4 1.0 {{'a': [1, {{'b': 'x'}}]}}\n"
    assert streams(copy)[5] == [("stdout", last)], "in the notebook's folder, as in JupyterLab"
    shown = [
        o.get("text") or o.data["text/html"]
        for o in nbformat.read(copy, as_version=4).cells[6].outputs
    ]
    assert shown[2:] == ["second", "below\n"], (
        "an output that a later cell changes stays where it is"
    )
    assert sorted(shown[:2]) == ["above\nstill above\n", "aside\n"]
    assert "widgets" not in nbformat.read(copy, as_version=4).metadata
    page = copy.with_suffix(".html").read_text()
    assert "Plotly.newPlot" in page and "out 19" in page and page.count("* plotly.js v") == 1
    (figure,) = nbformat.read(copy, as_version=4).cells[3].outputs
    assert figure.data.keys() == {"application/vnd.plotly.v1+json"}, (
        "the script is in the page alone"
    )
    assert copy.stat().st_size < 100_000
    assert (
        re.findall(
            r"<(?:script|link)[^>]+(?:src|href)=.https?:[^>]*>|import\(?.https?:[^\n]*", page
        )
        == []
    )
    log = copy.with_suffix(".log").read_text().splitlines()
    assert [line for line in log if line.startswith("out")] == [f"out {i}" for i in range(20)]
    assert log.count("step 4") == 1 and last.strip() in log and log[-1] == "[complete]"
    assert "out 19\n" in capsys.readouterr().out
    assert "VIDBENCH_PROGRESS" not in os.environ, "the kernel's environment, not ours"
    assert {path.name for path in copy.parent.iterdir()} == {
        "rich.ipynb",
        "rich.html",
        "rich.log",
        "rich.status.json",
        ".rich.lock",
    }


ENDS = {
    "failed": (1, ("print('before')", "1 / 0", "x = 1"), 4, "ZeroDivisionError: division by zero"),
    "timed out": (
        124,
        ("print('before')", "import time\ntime.sleep(600)", "x = 1"),
        4,
        "its 5 seconds were up",
    ),
    "kernel died": (
        138,
        ("print('before')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "x = 1"),
        4,
        "the kernel died of SIGKILL; out of memory?",
    ),
}


@pytest.mark.parametrize("state", ENDS)
def test_the_status_is_true_however_it_ends(tmp_path, capsys, state):
    code, sources, cell, error = ENDS[state]
    book = notebook(tmp_path / "book.ipynb", *sources)
    after = notebook(tmp_path / "after.ipynb", "x = 1")
    began = time.monotonic()
    assert run("run", book, after, "-p", "n", 3, "--timeout", 5, "--out", tmp_path / "out") == code
    assert time.monotonic() - began < 300
    copy = tmp_path / "out" / "book.ipynb"
    said = status(copy)
    assert (said["state"], said["exit"], said["cell"], said["error"]) == (state, code, cell, error)
    assert statuses.read(copy) == said and said["ended"]
    assert error in capsys.readouterr().err
    assert ("stdout", "before\n") in [stream for cell in streams(copy) for stream in cell]
    cells = [c for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code"]
    assert [c.metadata.papermill.status for c in cells][2:] == ["completed", "failed", "pending"]
    assert (
        error in copy.with_suffix(".log").read_text()
        and "before" in copy.with_suffix(".html").read_text()
    )
    assert not (tmp_path / "out" / "after.ipynb").exists(), (
        "the first that does not complete is the last"
    )


@pytest.mark.slow
def test_a_cell_deaf_to_interrupts_is_ended_after_the_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "GRACE", 0.5)
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun')\ntime.sleep(600)"
    book = notebook(tmp_path / "deaf.ipynb", deaf)
    began = time.monotonic()
    assert run("run", book, "--timeout", 3, "--out", tmp_path / "out") == 124
    assert time.monotonic() - began < 300
    copy = tmp_path / "out" / "deaf.ipynb"
    assert status(copy)["state"] == "timed out" and streams(copy)[1] == [("stdout", "begun\n")]


SAVING = """import os, time
from pathlib import Path
Path(runs_dir, "begun").write_text(str(os.getpid()))
try:
    time.sleep(600)
except KeyboardInterrupt:
    Path(runs_dir, "saved").touch()
    raise"""


@pytest.mark.parametrize(
    ("door", "number", "code", "state"),
    [
        pytest.param("papermill", signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
        ("vidbench", signal.SIGTERM, 130, "interrupted"),
        pytest.param(
            "papermill", signal.SIGKILL, -signal.SIGKILL, "killed", marks=pytest.mark.slow
        ),
    ],
)
def test_signals_to_a_running_notebook(tmp_path, door, number, code, state):
    book, copy = notebook(tmp_path / "slow.ipynb", SAVING, "x = 1"), tmp_path / "out" / "slow.ipynb"
    copy.parent.mkdir()
    words = {
        "papermill": ["papermill", "--engine", "vidbench", book, copy],
        "vidbench": ["vidbench", "run", book, "--out", copy.parent],
    }[door]
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words, "-p", "runs_dir", tmp_path],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "begun").exists():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        running = statuses.read(copy)
        assert (running["state"], running["cell"], running["pid"]) == ("running", 3, process.pid)
        if number == signal.SIGKILL:
            assert run("run", book, "--out", copy.parent) == 2, (
                "another process executes into the copy"
            )
        process.send_signal(number)
        assert process.wait(120) == code, said.read_text()
    finally:
        process.kill()
    kernel = int((tmp_path / "begun").read_text())
    if number == signal.SIGKILL:
        assert status(copy)["state"] == "running" and status(copy)["exit"] is None
        assert str(process.pid) in statuses.read(copy)["error"]
        deadline = time.monotonic() + 60
        while (
            Path(f"/proc/{kernel}").exists() and time.monotonic() < deadline
        ):  # it looks for its parent now and then
            time.sleep(0.2)
    else:
        assert status(copy)["exit"] == 130 and status(copy)["error"] == signal.Signals(number).name
        assert (tmp_path / "saved").exists(), "the cell got its time to save"
        assert (
            copy.with_suffix(".html").exists()
            and nbformat.read(copy, as_version=4).cells[2].outputs
        )
    assert statuses.read(copy)["state"] == state and statuses.read(copy)["cell"] == 3
    assert not Path(f"/proc/{kernel}").exists(), "no kernel is left"


def test_papermill_refuses_what_vidbench_run_refuses_and_does_the_same(
    tmp_path, capsys, monkeypatch
):
    from papermill.cli import papermill

    book = notebook(tmp_path / "books" / "book.ipynb", TELLS)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)

    def call(*words) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            papermill.main(
                [
                    "--engine",
                    "vidbench",
                    "books/book.ipynb",
                    "out/book.ipynb",
                    "--no-progress-bar",
                    *words,
                ]
            )
        return ended.value.code, capsys.readouterr().err

    for words, says in (
        (("-p", "nn", "3"), "has no parameter 'nn'; the known ones are runs_dir"),
        (("-p", "n", "3.5"), "n needs int"),
        (("-y", "more: 3"), "more needs dict"),
    ):
        code, said = call(*words)
        assert code == 2 and says in said and list((tmp_path / "out").iterdir()) == []
    paths = ("-p", "runs_dir", "here")
    assert call("-p", "n", "3", *paths, "--inject-paths")[0] == 0
    assert run("run", book, "-p", "n", "3", *paths, "--out", tmp_path / "other") == 0
    ours, theirs = tmp_path / "other" / "book.ipynb", tmp_path / "out" / "book.ipynb"
    said = f"{book.parent} 3 {tmp_path}/here {book} ['n', 'runs_dir']\n"
    assert streams(ours)[2] == streams(theirs)[2] == [("stdout", said)]
    same = ("state", "exit", "cell", "cells", "parameters", "digest", "notebook", "html")
    assert {name: status(ours)[name] for name in same} == {
        name: status(theirs)[name] for name in same
    }
    source = nbformat.read(book, as_version=4)
    here = {"runs_dir": f"{tmp_path}/here"}
    same_values = digest_of(source, {"n": 3, "lr": 0.1, **here})
    assert status(ours)["digest"] == same_values, "defaults said or not"
    others = [digest_of(source, here), digest_of(source, {"n": 4, **here})]
    source.cells[1].source += "  # "
    assert status(ours)["digest"] not in (*others, digest_of(source, {"n": 3, **here}))


# ---------------------------------------------------------------------------------------- streams


def screen(text: str) -> str:
    """What a terminal shows in the end, as a plain loop: a carriage return begins the line again."""
    shown, line, begin = "", "", False
    for letter in text:
        if letter == "\n":
            shown, line, begin = shown + line + "\n", "", False
        elif letter == "\r":
            begin = True
        else:
            line, begin = ("" if begin else line) + letter, False
    return shown + line


def test_streams_in_any_pieces_become_what_a_terminal_shows(tmp_path):
    text = "one\n 10%\r 20%\r\n50%\r100%\n\rlast\rend\nopen"
    for size in range(1, 12):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        shown = ""
        for piece in pieces:
            shown = printed.redrawn(shown, piece)
        assert shown.replace("\r", "") == screen(text)
        with (tmp_path / "log").open("w") as file:
            lines = printed.Lines([file])
            lines.due["stdout"] = Every()  # no line between
            for piece in pieces:
                lines.write("stdout", piece)
            lines.flush()
        assert (tmp_path / "log").read_text() == screen(text) + "\n"


def test_a_stream_is_put_together_when_it_is_needed():
    """For each message would take time squared: 200,000 lines took minutes."""
    output = nbformat.v4.new_output("stream", name="stdout", text="")
    growing = printed.Streams()
    for number in range(1000):
        growing.add(output, f"line {number}\nhalf")
        growing.add(output, "\rdone\n")
        assert number > 500 or output.text == ""
        if number == 500:
            growing.settle()  # the copy is saved now and then
    growing.close()
    assert output.text == "".join(f"line {number}\ndone\n" for number in range(1000))
    assert not growing.growing


def test_a_long_bar_is_said_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(printed, "Every", lambda first: lambda: True)
    with (tmp_path / "log").open("w") as file:
        lines = printed.Lines([file])
        for step in ("\r1/3", "\r2/3", "\r3/3", "\n"):
            lines.write("stderr", step)
            time.sleep(0.001)
    assert (tmp_path / "log").read_text().split() == ["1/3", "2/3", "3/3", "3/3"]


def test_a_bar_is_said_as_it_ends_and_not_if_it_was_removed(tmp_path):
    with (tmp_path / "log").open("w") as file:
        lines = printed.Lines([file])
        for name, text in (("a", "1/3"), ("b", "1/9"), ("a", "3/3"), ("b", "")):
            lines.due[name] = Every()  # no line between
            lines.redraw(name, text)
        lines.flush()
    assert (tmp_path / "log").read_text() == "3/3\n"


def test_a_run_goes_on_where_nobody_reads_its_lines_any_more(tmp_path):
    book = notebook(
        tmp_path / "book.ipynb",
        "for line in range(3000):\n    print('line', line)",
        "print('the end')",
    )
    command = [sys.executable, "-m", "vidbench", "run", str(book), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(120) == 0, errors
    assert "the end" in (tmp_path / "out" / "book.log").read_text() and "BrokenPipe" not in errors
    assert status(tmp_path / "out" / "book.ipynb")["state"] == "complete"


# -------------------------------------------------------------------------- notebooks as they come


def test_a_kernel_that_is_not_installed_is_refused_before_anything_starts(tmp_path, capsys):
    book = notebook(tmp_path / "book.ipynb", "x = 1")
    (tmp_path / "t.csv").write_text("notebook\nbook.ipynb\n")
    for words in (("run", book), ("batch", tmp_path / "t.csv")):
        assert run(*words, "--out", tmp_path / "out", "--kernel", "my-lab-env") == 2
        said = capsys.readouterr().err
        assert "--kernel must be an installed kernel; got 'my-lab-env'. Installed: " in said
        assert "python3" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["kernelspec", "language_info"])
def test_a_notebook_in_another_language_wants_a_kernel(tmp_path, capsys, where):
    book = notebook(tmp_path / "book.ipynb", "x <- 1")
    made = json.loads(book.read_text())
    made["metadata"] = {where: {"name": "R", "display_name": "R", "language": "R"}}
    book.write_text(json.dumps(made))
    assert run("run", book, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "must be a notebook in Python, unless --kernel names a kernel; got R" in said


@pytest.mark.parametrize("content", ["", "no json", "{}", "[]", '{"nbformat": 4}', '"x"'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, capsys, content):
    (tmp_path / "book.ipynb").write_text(content)
    assert run("run", tmp_path / "book.ipynb", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "book.ipynb is no notebook: it must be JSON with nbformat and cells; got " in said
    assert "Open it in JupyterLab, and save it." in said and said.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(tmp_path, capsys):
    book = notebook(tmp_path / "book.ipynb", "x = 1")
    (tmp_path / "file").touch()
    (tmp_path / "t.csv").write_text("notebook\nbook.ipynb\n")
    for words in (("run", book), ("batch", tmp_path / "t.csv")):
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            assert run(*words, "--out", out) == 2
            said = capsys.readouterr().err
            assert "file" in said and "Traceback" not in said
    for words in (("--processes", 0), ("--timeout", -1), ("--row", 1), ("--row", -1)):
        assert run("batch", tmp_path / "t.csv", "--out", tmp_path / "out", *words) == 2


WIDGETS = (
    """import ipywidgets
from IPython.display import display
out = ipywidgets.Output()
with out:
    print("inside")
display(ipywidgets.IntSlider(), out)""",
    """from tqdm.auto import tqdm
for i in tqdm(range(5), desc="<outer>"):
    for j in tqdm(range(3), desc="inner", leave=False):
        pass
for i in tqdm(iter("abc")):
    pass""",
    """bar = ipywidgets.IntProgress(max=4, description="own")
display(ipywidgets.VBox([ipywidgets.Label("label"), bar]))
bar.value = 3
import sys
print(sys.executable, n)""",
)


def test_a_notebook_of_another_machine_with_widgets_and_bars(tmp_path):
    """One kernel for what people's own notebooks bring along: a kernel of another machine, an odd
    name, an Output widget, tqdm's bars as widgets."""
    book = notebook(tmp_path / "a {b} c" / "mein caf\u00e9 {x} b\u00f6se.ipynb", *WIDGETS)
    text = book.read_text().replace('"name": "python3"', '"name": "my-lab-env"')
    book.write_text(text)
    before = set(psutil.Process().children())  # such as multiprocessing's
    with pytest.warns(UserWarning, match="saved with the kernel 'my-lab-env'; it runs in"):
        assert run("run", book, "-p", "n", "5", "--out", tmp_path / "{out} \u00e9") == 0
    assert set(psutil.Process().children()) <= before, "the kernel has ended"
    copy = tmp_path / "{out} \u00e9" / book.name
    log = copy.with_suffix(".log").read_text()
    assert status(copy)["state"] == "complete" and "inside\n" in log
    assert ("stdout", "inside\n") in streams(copy)[2]
    assert streams(copy)[4] == [("stdout", f"{sys.executable} 5\n")]
    shown = [
        [o.data["text/plain"] for o in cell.outputs if "data" in o]
        for cell in nbformat.read(copy, as_version=4).cells
        if cell.cell_type == "code"
    ]
    outer, *inner, endless = shown[3]
    assert outer.startswith(
        "<outer>: 100%|\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588| 5/5 ["
    )
    assert inner == [""] * 5 and endless.startswith(" 3/? [")
    assert shown[4] == ["labelown |\u2588\u2588\u2588\u2588\u2588\u2588\u2588\u2588  |"]
    assert f"{outer}\n" in log and "5/5 [" in copy.with_suffix(".html").read_text()
