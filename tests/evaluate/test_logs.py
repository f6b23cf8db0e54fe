"""Logs as columns: only new lines are read, damage is named; the moving average is TensorBoard's."""

import json
import time

import numpy as np
import pytest

from vidbench.engine.runs import RunError
from vidbench.evaluate import logs
from vidbench.evaluate.logs import Log, smoothed


def line(step, **numbers):
    return json.dumps({"step": step, "epoch": step / 2, **numbers}) + "\n"


def test_only_new_lines_are_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    assert log.look() == {}
    path.write_text(line(1, loss=1.0) + line(2, loss=0.5, lr=0.1))
    first = log.look()
    assert first["loss"].tolist() == [1, 0.5] and np.isnan(first["lr"][0])
    read, loads = [], json.loads
    monkeypatch.setattr(logs.json, "loads", lambda text: read.append(len(text)) or loads(text))
    log.look()
    assert read == [], "nothing changed"
    with path.open("a") as file:
        file.write(line(3, loss=0.25) + '{"step": 4, "ep')
    second = log.look()
    assert second["loss"].tolist() == [1, 0.5, 0.25] and second["step"].tolist() == [1, 2, 3]
    assert read == [len(line(3, loss=0.25)) + 1], "one line and two brackets"
    assert np.isnan(second["lr"][2]) and len(first["loss"]) == 2, "what was given stays as it was"
    with path.open("a") as file:
        file.write('och": 2, "loss": 0.125}\n')
    assert log.look()["loss"].tolist() == [1, 0.5, 0.25, 0.125]


def test_a_log_that_was_written_again_is_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(i, loss=float(i)) for i in range(5)))
    log = Log(path)
    assert len(log.look()["loss"]) == 5
    path.write_text("".join(line(i, loss=-float(i)) for i in range(9)))  # the same inode, longer
    assert log.look()["loss"].tolist() == [-i for i in range(9)]
    path.write_text(line(1, loss=7.0))
    assert log.look()["loss"].tolist() == [7]
    path.write_text("nonsense\n" + line(1, loss=7.0))
    with pytest.warns(UserWarning, match="1 lines are left out"):
        assert log.look()["loss"].tolist() == [7]
    with path.open("a") as file:
        file.write(line(2, loss=8.0))
    with pytest.warns(UserWarning, match="1 lines are left out"):
        assert log.look()["loss"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (line(1, loss="much") + line(2, loss=1.0), "'loss' must be a number in each line"),
        (line(1, seconds="long"), "'seconds' must be a number"),
        ('{"step": 1, "loss": 1}\n', "each line must have its epoch"),
        ("7\n", "none of its 1 lines"),
        ("\u00ff\u00fe", "none of its 1 lines"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, text, says):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    log = Log(path)
    for _ in range(2):  # and the next look finds it damaged, too
        with pytest.raises(RunError, match=says):
            log.look()
    path.write_text(line(1, loss=1.0, note="words"))
    assert list(log.look()) == ["step", "epoch", "loss"], "words are no curve"


@pytest.mark.parametrize("weight", [0.3, 0.9, 0.99])
def test_the_moving_average_is_the_one_of_tensorboard(weight):
    values = np.random.default_rng(0).standard_normal(1000)
    values[[0, 5, 600]] = np.nan
    last, count, wanted = 0.0, 0, []
    for value in values:
        if np.isfinite(value):
            count += 1
            last = last * weight + (1 - weight) * value
        wanted.append(last / (1 - weight**count) if np.isfinite(value) else np.nan)
    np.testing.assert_allclose(smoothed(values, weight), wanted, rtol=1e-9)
    assert smoothed(np.full(4, 3.0), weight) == pytest.approx(3), "debiased: it starts at once"


def test_smoothing_has_a_range_and_zero_changes_nothing():
    values = np.arange(3.0)
    assert smoothed(values, 0) is values and smoothed(np.empty(0), 0.5).shape == (0,)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="below 1"):
            smoothed(values, wrong)


def test_a_long_log_is_smoothed_quickly():
    values, best = np.random.default_rng(0).standard_normal(100_000), 9.0
    for _ in range(3):
        began = time.process_time()
        smoothed(values, 0.9)
        best = min(best, time.process_time() - began)
    assert best < 0.5
