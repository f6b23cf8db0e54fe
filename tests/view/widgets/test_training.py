"""The board of runs while they train: a real run in another process is read while it writes, dies
and goes on."""

import base64
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests import ROOT, stages
from tests.view.test_galleries import HOSTILE, KEPT, Skeleton, styles
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, recipe_dict
from vidbench.system.files import lock_folder
from vidbench.view import widgets
from vidbench.view.widgets import chart, training
from vidbench.view.widgets.training import Board, BoardControls, held

FIT = Fit(epochs=40, batch=8, lr=0.01, log_every=1)


def until(condition, seconds=120.0):
    """Wait for something; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def made(folder, state="complete", lines=3, fit=FIT, **facts):
    """A run folder as a run would leave it."""
    run = Run.create(folder, "regress", fit)
    for step in range(1, lines + 1):
        run.log(
            step=step, epoch=step / 2, loss=1 / step, lr=0.01, clips=8 * step, seconds=float(step)
        )
    run.status(state, **facts)
    return run


def pictures(html):
    """The SVG of each chart, parsed."""
    found = [value for _, name, value in Skeleton(html).attributes if name == "src"]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in found)
    return [ElementTree.fromstring(base64.b64decode(value.partition(",")[2])) for value in found]


def lines_of(picture):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in picture.iter("{http://www.w3.org/2000/svg}polyline")
    ]


@pytest.mark.parametrize(
    "value, text",
    [
        (0.000657, "6.57e-4"),
        (-0.000657, "-6.57e-4"),
        (0.0278, "0.0278"),
        (1.234e-12, "1.23e-12"),
        (-0.5, "-0.5"),
        (16384, "1.64e4"),
        (0, "0"),
    ],
)
def test_the_numbers_of_a_chart_are_short(value, text):
    assert chart._short(value) == text


def test_a_folder_of_runs_is_all_runs_in_it(tmp_path):
    board = Board(tmp_path)
    assert [one.state for one in board.look()] == ["waiting"]
    for name in ("b", "a"):
        made(tmp_path / name)
    (tmp_path / "videos").mkdir()
    assert [(one.name, one.state) for one in board.look()] == [("a", "complete"), ("b", "complete")]
    made(tmp_path / "c")
    assert [one.name for one in board.look()] == ["a", "b", "c"]
    assert len(lines_of(pictures(board.html())[0])) == 3
    assert [one.name for one in Board([tmp_path, tmp_path / "a"]).look()][-2:] == [
        f"{tmp_path.name}/c",
        "a",
    ]


def test_a_board_sees_a_run_begin_train_die_and_go_on(tmp_path):
    folder = tmp_path / "later"
    board = Board(folder)
    view = BoardControls(board, every=0.1)
    assert board.look()[0].state == "waiting" and "no run in" in view.html.value
    code = f"from tests import stages; stages.regress({recipe_dict(FIT)!r}, {str(folder)!r}, pause=0.05)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        until(lambda: "epoch" in view.html.value and "running" in view.html.value)
        assert held(folder) and board.look()[0].state == "running"
        first = board.look()[0].last("step")
        until(lambda: (board.look()[0].last("step") or 0) > first + 2)
        assert "left" in view.html.value and len(pictures(view.html.value)) >= 1
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    until(lambda: not view.thread.is_alive())
    assert (
        "died" in view.html.value
        and "no process holds its lock" in view.html.value
        and not view.watching.value
    )
    assert Run(folder).state == "running", "status.json does not know"
    stages.regress(recipe_dict(FIT), str(folder))
    view.watching.value = True  # the button: the thread looks once more and ends, for all is over
    until(lambda: "complete" in view.html.value and not view.thread.is_alive())
    seen = board.look()[0]
    assert (seen.state, seen.over, seen.last("epoch"), seen.epochs) == ("complete", True, 40, 40)
    assert seen.logs["metrics"]["step"] == list(range(1, 241))


def test_a_half_written_line_waits_and_a_broken_log_is_said(tmp_path):
    run = made(tmp_path / "run", lines=3)
    board = Board(run.folder)
    log = run.folder / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 4, "epoch": 2.0, "lo')
    assert board.look()[0].logs["metrics"]["loss"] == [1, 1 / 2, 1 / 3]
    log.write_text(whole + '{"step": 4, "epoch": 2.0, "loss": 0.25}\n')
    assert board.look()[0].logs["metrics"]["loss"] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert board.look()[0].last("lr") == 0.01, "the last that there is"
    log.write_text("nonsense\n" + whole)
    with pytest.warns(UserWarning, match="1 lines are left out, first line 1"):
        seen = board.look()[0]
    assert seen.state != "unreadable" and seen.logs["metrics"]["loss"] == [1, 1 / 2, 1 / 3]
    log.write_text("nonsense\n")
    assert "none of its 1 lines" in board.look()[0].said and "none of its" in board.html()


@pytest.mark.parametrize(
    "file, text",
    [
        ("recipe.json", '{"method": "regress", "rec'),
        ("recipe.json", "[1]"),
        ("recipe.json", '{"method": "regress", "recipe": 7}'),
        ("status.json", '{"state"'),
        ("status.json", "{}"),
        ("metrics.jsonl", "7\n7\n"),
        ("metrics.jsonl", '{"step": 1, "loss": 0.5}\n'),
        ("metrics.jsonl", '{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": "much"}\n'),
        ("metrics.jsonl", '{"epoch": 1, "loss": 0.5, "seconds": "long"}\n'),
        ("metrics.jsonl", b"\xff\xfe"),
        ("results.json", "[1]"),
    ],
)
def test_one_damaged_run_is_named_and_the_others_are_drawn(tmp_path, file, text):
    made(tmp_path / "whole")
    bad = made(tmp_path / "bad").folder / file
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    board = Board(tmp_path)
    seen = {one.name: one for one in board.look()}
    html = board.html()
    assert seen["whole"].state == "complete" and "whole" in html and len(pictures(html)) == 2
    if file != "results.json":  # which a board does not read
        assert seen["bad"].state == "unreadable" and str(bad) in seen["bad"].said
        assert str(bad) in html and board.figure("loss").data[0].name == "whole"


def test_a_log_is_read_again_only_where_it_changed(tmp_path, monkeypatch):
    run, reads = made(tmp_path / "run"), []
    board, curves = Board(run.folder), Run.curves
    monkeypatch.setattr(
        Run, "curves", lambda self, name="metrics": reads.append(name) or curves(self, name)
    )
    board.look()
    board.look()
    assert reads == ["metrics"]
    run.log(step=4, epoch=2.0, loss=0.2)
    assert board.look()[0].last("loss") == 0.2 and reads == ["metrics"] * 2


@pytest.mark.parametrize(
    ("state", "over"), [("new", False), ("complete", True), ("interrupted", True), ("failed", True)]
)
def test_states_are_those_of_the_run(tmp_path, state, over):
    made(tmp_path / "run", state, error="ValueError: <b>no</b>" if state == "failed" else "")
    seen = Board(tmp_path / "run").look()[0]
    assert (seen.state, seen.over) == (state, over)
    assert ("&lt;b&gt;no" in Board(tmp_path / "run").html()) == (state == "failed")


def test_running_is_believed_while_the_lock_is_held_and_looking_does_not_take_it(tmp_path):
    run = made(tmp_path / "run", "running")
    lock = run.lock()
    board = Board(run.folder)
    for _ in range(3):
        assert board.look()[0].state == "running"
    lock.close()
    assert board.look()[0].state == "died"
    run.lock().close()  # raises where a look has kept it
    with lock_folder(run.folder):
        assert held(run.folder)
    (run.folder / ".lock").unlink()
    assert not held(run.folder)


def test_a_run_that_ends_between_two_looks_has_not_died(tmp_path, monkeypatch):
    run = made(tmp_path / "run", "running")

    def ends(folder):
        run.status("complete")
        return False

    monkeypatch.setattr(training, "held", ends)
    assert Board(run.folder).look()[0].state == "complete"


def test_charts_are_pictures_of_each_column_that_an_untrusted_notebook_keeps(tmp_path):
    one = made(tmp_path / "one", lines=3)
    two = made(tmp_path / "two", lines=2)
    one.log(step=4, epoch=2.0, loss=None, lr=0.01)
    one.log(step=5, epoch=2.5, loss=0.5, lr=0.01)
    two.log("monitor", step=2, epoch=1.0, knn=0.25)
    board = Board([one.folder, two.folder])
    assert board.drawn(board.look()) == [("metrics", "loss"), ("metrics", "lr"), ("monitor", "knn")]
    text = board.html()
    assert styles(text) <= KEPT
    assert {tag for tag, _ in Skeleton(text).tags} <= {"div", "span", "b", "img"}
    loss, lr, knn = pictures(text)
    lines = lines_of(loss)
    assert [len(line) for line in lines] == [3, 2], (
        "a gap cuts a line; the single point after it is a dot"
    )
    assert len(list(loss.iter("{http://www.w3.org/2000/svg}circle"))) == 1
    xs, ys = zip(*lines[0], strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2) and ys[0] < ys[1] < ys[2], (
        "down is less"
    )
    share = (ys[1] - ys[0]) / (ys[2] - ys[0])
    assert share == pytest.approx((1 - 1 / 2) / (1 - 1 / 3), abs=0.01)
    assert [point for line in lines_of(lr) for _, point in line] == [lines_of(lr)[0][0][1]] * 7, (
        "a constant is level"
    )
    assert "two 0.25" in text and len(list(knn.iter("{http://www.w3.org/2000/svg}circle"))) == 1


def test_long_logs_are_thinned_to_their_ends(tmp_path):
    run = made(tmp_path / "run", lines=1)
    with open(run.folder / "metrics.jsonl", "w") as file:
        file.writelines(
            json.dumps({"step": i, "epoch": i / 10, "loss": math.sin(i)}) + "\n"
            for i in range(5000)
        )
    board = Board(run.folder)
    xs, ys = board.series(board.look(), "loss")["run"]
    assert len(xs) == 400 and (xs[0], xs[-1], ys[-1]) == (0, 499.9, math.sin(4999))
    assert len(board.html()) < 30_000


def test_figure_draws_a_column_of_all_runs(tmp_path):
    runs = [made(tmp_path / name, lines=lines) for name, lines in (("one", 3), ("two", 5))]
    figure = Board([run.folder for run in runs]).figure("loss")
    assert [list(trace.y) for trace in figure.data] == [
        [1 / i for i in range(1, n + 1)] for n in (3, 5)
    ]
    with pytest.raises(ValueError, match="has 'purity' in metrics.jsonl yet"):
        Board(runs[0].folder).figure("purity")


def test_names_are_escaped_and_must_differ(tmp_path):
    run = made(tmp_path / "run")
    text = Board({HOSTILE: run.folder}).html()
    assert "<script" not in text and any(word == HOSTILE for word in Skeleton(text).words)
    for wrong in ([], [tmp_path / "a" / "x", tmp_path / "b" / "x"]):
        with pytest.raises(ValueError, match="a name of its own"):
            Board(wrong)
    assert len(Board({"a": tmp_path / "a" / "x", "b": tmp_path / "b" / "x"}).look()) == 2


def test_the_time_left_follows_the_pace(tmp_path):
    run = made(tmp_path / "run", lines=4, fit=replace(FIT, epochs=10))  # 2 epochs in 4 seconds
    assert Board(run.folder).look()[0].left() == pytest.approx(16)
    assert [training._time(seconds) for seconds in (16, 600, 36_000)] == [
        "16 s",
        "10 min",
        "10.0 h",
    ]


def test_a_view_stops_when_told_and_headless_runs_get_html(tmp_path, monkeypatch):
    run = made(tmp_path / "run", "running")
    with run.lock():
        view = BoardControls(Board([run.folder]), every=0.05)
        assert view.watching.value and view.thread.is_alive()
        run.log(step=9, epoch=4.5, loss=0.0625)
        until(lambda: re.search(r"epoch 4.5 of 40", view.html.value))
        thread = view.thread
        view.stop()
        assert not thread.is_alive() and not view.watching.value
        monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
        assert widgets.shown(view.board) == view.board.html()
    with pytest.raises(ValueError, match="every > 0"):
        BoardControls(Board(run.folder), every=0)


def test_a_view_says_what_goes_wrong_and_looks_again(tmp_path):
    run = made(tmp_path / "run", "running")
    with run.lock():
        (run.folder / "status.json").write_text("{}")
        view = BoardControls(Board(run.folder), every=0.05)
        assert "status.json is damaged" in view.html.value
        run.status("running")
        until(lambda: "epoch 1.5 of 40" in view.html.value)
        view.stop()
