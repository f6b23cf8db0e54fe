"""The board's figure: a faint and a smoothed line a run, buttons that hold all they need; the page."""

import json
import math
import re

import numpy as np
import pytest

from tests.evaluate.test_results import PROTOCOL, text, trained
from vidbench.__main__ import main
from vidbench.evaluate.board import Board, curves, recipe_differences
from vidbench.evaluate.results import numbers_of
from vidbench.view import board as view
from vidbench.view.looks import PALETTE
from vidbench.view.parallel import parallel


def run_of(folder, lines=5, state="complete", value=None, **fields):
    """A run with a log of both kinds and, if a value is given, an R@1."""
    run = trained(folder, steps=1, state=state, **fields)
    (run.folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {"step": i, "epoch": i / 2, "loss": 4 / i, "shift": i - 2.0, "seconds": 90.0 * i}
            )
            + "\n"
            for i in range(1, lines + 1)
        )
    )
    run.log("monitor", step=2, epoch=1.0, knn=0.25)
    run.log("monitor", step=4, epoch=2.0, knn=0.5)
    if value is not None:
        protocol = {**PROTOCOL, "stream": fields.get("stream", "rgb")}
        run.add_result("retrieval", protocol, {"R@1": (value, value / 2, 1.0)})
    return run


@pytest.fixture
def runs(tmp_path):
    run_of(tmp_path / "coclr-rgb", value=0.5, student="")
    run_of(tmp_path / "infonce-flow", value=0.25, stream="flow")
    run_of(tmp_path / "infonce-rgb", 7, state="interrupted")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/environment.json").write_text("{}")
    return tmp_path


def titles(figure, axis):
    return [one.title.text for one in getattr(figure, f"select_{axis}")()]


def test_each_run_is_a_faint_line_and_a_smoothed_one_in_its_color(runs):
    states = Board(runs).look()
    figure = view.figure(states, view.Look("epoch", 0.5, "log y"))
    assert len(figure.data) == 2 * 3 * 3, "loss, shift and R@1 of three runs, two lines each"
    faint, main_line = figure.data[:2]
    assert list(faint.y) == [4, 2, 1.3333, 1, 0.8] and faint.opacity == view.RAW
    assert (
        main_line.y[1] == pytest.approx((4 / 4 + 2 / 2) / (1 / 4 + 1 / 2), abs=1e-3)
        and not main_line.opacity
    )
    assert list(main_line.customdata) == list(faint.y) and "logged" in main_line.hovertemplate
    looks = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data[1::2]}
    assert looks["coclr-rgb"] == (PALETTE[1], "solid")
    assert looks["infonce-flow"] == (PALETTE[0], "dash")
    assert {trace.legendgroup for trace in figure.data} == set(looks)
    assert sum(trace.showlegend is True for trace in figure.data) == 3, "once a run"
    assert titles(figure, "yaxes") == ["loss, EMA 0.5", "shift, EMA 0.5", "R@1, EMA 0.5"]
    assert titles(figure, "xaxes") == ["epoch"] * 3
    assert [one.type for one in figure.select_yaxes()] == ["log", "linear", "log"], (
        "values below 0 have no logarithm"
    )


def test_buttons_hold_what_they_show(runs):
    states = Board(runs).look()
    figure = view.figure(states)
    over, scales = figure.layout.updatemenus
    step, _, took = over.buttons
    assert [one.label for one in over.buttons] == ["step", "epoch", "time"]
    assert list(step.args[0]["x"][0]) == [1, 2, 3, 4, 5] and len(step.args[0]["x"]) == 18
    assert list(took.args[0]["x"][0]) == [1.5, 3, 4.5, 6, 7.5]
    assert took.args[1]["xaxis2.title.text"] == "training time (min)"
    monitor = [i for i, trace in enumerate(figure.data) if list(trace.x) == [1, 2]]
    assert list(took.args[0]["x"][monitor[0]]) == [3, 6], "held-out lines take training's seconds"
    assert [one.label for one in scales.buttons] == list(view.SCALES)
    assert scales.buttons[1].args[0]["yaxis.type"] == "log"
    (slider,) = figure.layout.sliders
    assert [one.label for one in slider.steps] == ["0", "0.3", "0.6", "0.9", "0.97", "0.99"]
    again = view.figure(states, view.Look(smoothing=0.9))
    restyle, named, which = slider.steps[3].args
    assert list(which) == list(range(1, 18, 2))
    for place, values in zip(which, restyle["y"], strict=True):
        assert list(values) == pytest.approx(list(again.data[place].y))
    assert named["yaxis.title.text"] == "loss, EMA 0.9"
    assert "updatemenus" not in view.figure(states, controls=False).to_plotly_json()["layout"]
    json.dumps(figure.to_plotly_json()["layout"]["sliders"], allow_nan=False)


def test_a_board_without_a_log_has_no_figure(tmp_path):
    run = trained(tmp_path / "new", steps=1)
    (run.folder / "metrics.jsonl").unlink()
    assert view.figure(Board(tmp_path).look()) is None
    assert "at least two recipes" in view.recipes(Board(tmp_path).look())


def test_many_long_logs_are_thinned_to_their_ends(tmp_path):
    run = trained(tmp_path / "run", steps=1)
    (run.folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": i, "epoch": i / 10, "loss": math.sin(i)}) + "\n"
            for i in range(5000)
        )
    )
    (line,) = curves(Board(tmp_path).look())
    assert len(line.y) == 400 and line.x["epoch"][[0, -1]].tolist() == [0, 499.9]
    assert line.y[-1] == math.sin(4999) and len(line.whole) == 5000
    assert line.smooth(0.9)[-1] == pytest.approx(0, abs=0.2), "of all values, not of the thin ones"


def test_recipes_differ_by_field_and_paths_by_their_last_part(runs):
    found = recipe_differences(Board(runs).look())
    assert found == {"stream": {"coclr-rgb": "rgb", "infonce-flow": "flow", "infonce-rgb": "rgb"}}
    other = trained(runs.parent / "elsewhere/more/coclr-rgb", steps=1)
    both = recipe_differences(Board({"a": runs / "coclr-rgb", "b": other.folder}).look())
    assert both["manifest"]["a"].endswith("/videos"), "whole where the last parts are one"
    seen = text(view.recipes(Board(runs).look()))
    assert seen.startswith("run stream coclr-rgb rgb infonce-flow flow")
    assert "Fields that differ: 1." in seen


def test_runs_are_lines_through_fields_and_results(runs):
    board = Board(runs)
    figure = view.compared(board.look(), numbers_of(board.results()))
    (trace,) = figure.data
    labels = [axis.label.replace("<br>", " ") for axis in trace.dimensions]
    assert labels == ["run", "stream", "last loss", "retrieval R@1 (%)"]
    run, stream, loss, recall = trace.dimensions
    assert list(run.ticktext) == ["coclr-rgb", "infonce-flow", "infonce-rgb"]
    assert list(stream.ticktext) == ["rgb", "flow"] and list(stream.values) == [0, 1, 0]
    assert loss.values[2] == pytest.approx(4 / 7)
    assert list(recall.values) == [50, 25, 21.25] and recall.ticktext[0] == "none", (
        "RGB and flow on one axis; a run that was not measured is below the least value"
    )
    assert [color for _, color in trace.line.colorscale][:2] == [PALETTE[1], PALETTE[0]]


def test_axes_of_numbers_are_logarithmic_where_they_span_much():
    runs = ["a", "b", "c"]
    fields = {
        "fit.lr": {"a": 1e-4, "b": 1e-2, "c": 1e-3},
        "flip": {"a": True, "b": False, "c": True},
        "x": {"a": 1, "b": 1, "c": None},
    }
    _, lr, flip, alike = parallel(runs, fields, {}).data[0].dimensions
    assert lr.label == "fit<br>lr" and list(lr.values) == [-4, -2, -3]
    assert list(lr.ticktext) == ["0.0001", "0.001", "0.01"]
    assert list(flip.ticktext) == ["True", "False"]
    assert list(alike.ticktext) == ["1", "none"]
    with pytest.raises(ValueError, match="at least two runs"):
        parallel(["a"], fields, {})


def test_of_many_fields_those_with_the_most_values_are_axes():
    runs = ["a", "b", "c"]
    fields = {f"f{n}": {"a": 1, "b": 1, "c": 1 + n % 2} for n in range(12)}
    fields["lr"] = {"a": 1, "b": 2, "c": 3}
    drawn = parallel(runs, fields, {"last loss": {"a": 1.0, "b": 2.0, "c": 3.0}})
    assert [one.label for one in drawn.data[0].dimensions] == [
        *("run", "f1", "f3", "f5", "f7", "lr", "last<br>loss")
    ]
    assert "5 of 13 fields" in drawn.layout.annotations[0].text and drawn.layout.width is None


def test_the_command_writes_one_offline_page(runs, capsys):
    page = runs.parent / "board.html"
    assert main(["board", str(runs), "--out", str(page), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(page)
    assert {one["run"]: one["state"] for one in said["runs"]} == {
        "coclr-rgb": "complete",
        "infonce-flow": "complete",
        "infonce-rgb": "interrupted",
        "half": "unreadable",
    }
    html = page.read_text()
    assert html.count("plotly.js v") == 1 and html.count("Plotly.newPlot(") == 2
    assert "default-src 'none'" in html and "'unsafe-eval'" in html
    seen = text(re.sub(r"(?s)<script.*?</script>", "", html))
    for words in (
        "4 run folders: 2 complete, 1 interrupted, 1 broken or incomplete.",
        "half is no run folder",
        "50.0 [25.0, 100.0]",
        "retrieval: R@1, percent method rgb flow",
    ):
        assert words in seen
    (runs / "half/empty").mkdir()
    for wrong, says in (("nothing", "no such folder"), ("half/empty", "no runs below")):
        with pytest.raises(SystemExit):
            main(["board", str(runs / wrong)])
        assert says in capsys.readouterr().err


def test_digits_are_kept_to_five(runs):
    numbers = np.array([123456.0, 0.000123456, 0, -1.234567, np.nan])
    kept = view._digits(numbers)
    assert kept[:4].tolist() == pytest.approx([123460, 0.00012346, 0, -1.2346]) and np.isnan(
        kept[4]
    )
