"""The board of runs while they train: a real run in another process is read while it writes, dies
and is resumed."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests import ROOT, stages
from tests.view.test_galleries import HOSTILE, Skeleton
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, recipe_dict
from vidbench.evaluate import results
from vidbench.evaluate.board import Board
from vidbench.system.files import is_locked, lock_folder
from vidbench.view import runs, widgets
from vidbench.view.looks import PALETTE
from vidbench.view.widgets.training import BoardControls

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


def held(folder):
    return is_locked(folder / ".lock")


def words(view):
    """What the board's rows say, and what it counts."""
    return "".join(one.value for one in [*view._rows.values(), view.counts])


def drawn(view, column=0):
    """The smoothed lines of the figure: run -> y, of the column-th chart."""
    traces = view._plot.data[1::2]
    axis = list(dict.fromkeys(trace.yaxis for trace in traces))[column]
    return {trace.name: trace for trace in traces if trace.yaxis == axis}


def test_a_folder_of_runs_is_all_runs_in_it(tmp_path):
    board = Board(tmp_path)
    assert [one.state for one in board.look()] == ["waiting"]
    for name in ("b", "a"):
        made(tmp_path / name)
    (tmp_path / "videos").mkdir()
    assert [(one.name, one.state) for one in board.look()] == [("a", "complete"), ("b", "complete")]
    made(tmp_path / "c")
    assert [one.name for one in board.look()] == ["a", "b", "c"]
    assert len(drawn(BoardControls(board))) == 3
    assert [one.name for one in Board([tmp_path, tmp_path / "a"]).look()][-2:] == [
        f"{tmp_path.name}/c",
        "a",
    ]


def test_a_board_sees_a_run_begin_train_die_and_resume(tmp_path):
    folder = tmp_path / "later"
    board = Board(folder)
    view = BoardControls(board, every=0.1)
    assert board.look()[0].state == "waiting" and "no run in" in words(view)
    code = f"from tests import stages; stages.regress({recipe_dict(FIT)!r}, {str(folder)!r}, pause=0.05)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        until(lambda: "epoch" in words(view) and "running" in words(view))
        assert held(folder) and board.look()[0].state == "running"
        first = board.look()[0].last("step")
        until(lambda: (board.look()[0].last("step") or 0) > first + 2)
        until(lambda: view._plot is not None)
        assert "left" in words(view) and len(drawn(view)) == 1
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    until(lambda: not view.thread.is_alive())
    assert (
        "died" in words(view)
        and "no process holds its lock" in words(view)
        and not view.watching.value
    )
    assert Run(folder).state == "running", "status.json does not know"
    stages.regress(recipe_dict(FIT), str(folder))
    view.watching.value = True  # the button: the thread looks once more and ends, for all is over
    until(lambda: "complete" in words(view) and not view.thread.is_alive())
    seen = board.look()[0]
    assert (seen.state, seen.over, seen.last("epoch"), seen.epochs) == ("complete", True, 40, 40)
    assert seen.logs["metrics"]["step"].tolist() == list(range(1, 241))


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
    view = BoardControls(board)
    html = words(view)
    assert seen["whole"].state == "complete" and "whole" in html and "whole" in drawn(view)
    if file != "results.json":  # which a board does not read
        assert seen["bad"].state == "unreadable" and str(bad) in seen["bad"].said
        assert list(drawn(view)) == ["whole"]
        assert str(bad) in html and "2 run folders: 1 complete, 1 broken or incomplete" in html


@pytest.mark.parametrize(
    ("state", "over"), [("new", False), ("complete", True), ("interrupted", True), ("failed", True)]
)
def test_states_are_those_of_the_run(tmp_path, state, over):
    made(tmp_path / "run", state, error="ValueError: <b>no</b>" if state == "failed" else "")
    seen = Board(tmp_path / "run").look()[0]
    assert (seen.state, seen.over) == (state, over)
    html = runs.rows(Board(tmp_path / "run").look())
    assert ("&lt;b&gt;no" in html) == (state == "failed")


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

    monkeypatch.setattr(results, "is_locked", ends)
    assert Board(run.folder).look()[0].state == "complete"


def test_only_lines_that_changed_are_sent_and_new_columns_come(tmp_path):
    one, two = made(tmp_path / "one"), made(tmp_path / "two", state="running")
    with two.lock():
        view = BoardControls(Board(tmp_path), every=60)
        view.stop()
        figure, sent = view._plot, []
        figure.observe(lambda change: sent.append(change["new"]), "_py2js_update")
        view.draw()
        assert sent == [] and list(drawn(view)["two"].y) == pytest.approx([1, 0.5, 0.33333])
        two.log(step=4, epoch=2.0, loss=0.25, lr=0.01, clips=32, seconds=4.0)
        view.draw()
        assert view._plot is figure and list(drawn(view)["two"].y)[3] == 0.25
        (update,) = [one for one in sent if one]
        names = {figure.data[number].name for number in update["style_traces"]}
        assert names == {"two"}, "the other run's lines stay in the page"
        two.log("monitor", step=4, epoch=2.0, knn=0.5)
        view.draw()
        assert view._plot is not figure and list(drawn(view, 2)) == ["two"]
        assert "read in" in view.when.value and "drawn in" in view.when.value
    assert one.state == "complete"


def test_a_run_is_switched_off_and_on_and_keeps_its_color(tmp_path):
    for name in ("infonce-rgb", "coclr-rgb"):
        made(tmp_path / name)
    view = BoardControls(Board(tmp_path))
    assert drawn(view)["coclr-rgb"].line.color == PALETTE[1]
    view.switches["coclr-rgb"].value = False
    assert [trace.visible for trace in view._plot.data if trace.name == "coclr-rgb"] == [False] * 4
    assert drawn(view)["infonce-rgb"].visible is True
    made(tmp_path / "multitrain")
    view.draw()  # another figure: a run came
    assert drawn(view)["coclr-rgb"].visible is False and view._names[-1] == "multitrain"
    view._switch_all(True)
    assert drawn(view)["coclr-rgb"].visible is True
    assert drawn(view)["coclr-rgb"].line.color == PALETTE[1]


def test_smoothing_scale_and_axis_change_the_lines_and_their_names(tmp_path):
    made(tmp_path / "run")
    view = BoardControls(Board(tmp_path))
    view.smoothing.value = 0.5
    faint, line = view._plot.data[:2]
    assert list(line.y) == pytest.approx([1, 0.66667, 0.47619]) and faint.y[1] == 0.5
    assert view._plot.layout.yaxis.title.text == "loss, EMA 0.5"
    view.axis.value = "seconds"
    assert list(line.x) == [1, 2, 3]
    assert view._plot.layout.xaxis2.title.text == "training time (s)"
    view.scale.value = "log y"
    assert (view._plot.layout.yaxis.type, view._plot.layout.xaxis.type) == ("log", "linear")
    view.scale.value, view.smoothing.value = "linear", 0
    assert view._plot.layout.yaxis.type == "linear" and list(line.y) == list(faint.y)


def test_names_are_escaped_and_must_differ(tmp_path):
    run = made(tmp_path / "run")
    text = runs.rows(Board({HOSTILE: run.folder}).look())
    assert "<script" not in text and any(word == HOSTILE for word in Skeleton(text).words)
    for wrong in ([], [tmp_path / "a" / "x", tmp_path / "b" / "x"]):
        with pytest.raises(ValueError, match="each with another name"):
            Board(wrong)
    assert len(Board({"a": tmp_path / "a" / "x", "b": tmp_path / "b" / "x"}).look()) == 2


def test_the_time_left_follows_the_pace(tmp_path):
    run = made(tmp_path / "run", lines=4, fit=replace(FIT, epochs=10))  # 2 epochs in 4 seconds
    assert Board(run.folder).look()[0].left() == pytest.approx(16)
    assert [runs._time(seconds) for seconds in (16, 600, 36_000)] == [
        "16 s",
        "10 min",
        "10.0 h",
    ]


def test_a_view_stops_and_headless_runs_get_figure_and_lines(tmp_path, monkeypatch):
    run = made(tmp_path / "run", "running")
    with run.lock():
        view = BoardControls(Board([run.folder]), every=0.05)
        assert view.watching.value and view.thread.is_alive()
        run.log(step=9, epoch=4.5, loss=0.0625)
        until(lambda: re.search(r"epoch 4.5 of 40", words(view)))
        thread = view.thread
        view.stop()
        assert not thread.is_alive() and not view.watching.value
        monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
        figure, html = widgets.shown(view.board).parts
        assert figure.layout.updatemenus and "run" in html
    with pytest.raises(ValueError, match="above 0 seconds"):
        BoardControls(Board(run.folder), every=0)


def test_a_view_says_what_goes_wrong_and_looks_again(tmp_path):
    run = made(tmp_path / "run", "running")
    with run.lock():
        (run.folder / "status.json").write_text("{}")
        view = BoardControls(Board(run.folder), every=0.05)
        assert "status.json is damaged" in words(view)
        run.status("running")
        until(lambda: "epoch 1.5 of 40" in words(view))
        view.stop()
