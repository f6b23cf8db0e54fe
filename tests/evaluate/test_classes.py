"""Class probabilities of any videos: by a run's classifier, and by the probe of a run without one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import copied
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate import classes as module
from vidbench.evaluate import probe
from vidbench.evaluate.classes import classify
from vidbench.evaluate.features import PROTOCOLS, load_or_extract, predict
from vidbench.evaluate.tables import Features

FAST = replace(PROTOCOLS["vidbench"], windows=1)


@pytest.fixture
def run(infonce, toy_three, tmp_path) -> Run:
    """A self-supervised run on three classes: a probe of nine takes a minute."""
    run = Run(copied(infonce[0], tmp_path / "runs") / "rgb")
    run.values["manifest"] = str(toy_three)
    return run


def loose(*files: Path) -> Manifest:
    return Manifest.from_rows("/", [(str(file), None, "test", None) for file in files])


def test_the_probe_of_a_run_is_logistic_s_and_is_kept(run, toy_three, monkeypatch):
    test = Manifest.load(toy_three).select(split="test")
    train = load_or_extract(run, "train", FAST)
    wanted = probe.logistic(train, load_or_extract(run, "test", FAST)).probabilities
    files = [test.absolute(row) for row in range(4)]
    table = classify(run, loose(*files), protocol=FAST).table
    np.testing.assert_allclose(table.values, wanted[:4], atol=2e-3)
    assert table.classes == test.classes and (table.label == -1).all()
    assert sorted(file.name for file in (run.folder / "probe").iterdir()) == [
        "logistic.json",
        "logistic.safetensors",
    ]
    monkeypatch.setattr(module, "load_or_extract", lambda *_, **__: pytest.fail("fitted again"))
    again = classify(run, test, protocol=FAST).table
    assert np.array_equal(again.label, test.label)  # labels of the run's classes are kept
    np.testing.assert_allclose(again.values, wanted, atol=1e-5)
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        classify(run, loose(*files), protocol=replace(FAST, windows=2))


def test_a_damaged_probe_is_fitted_again(run, toy_tiny, capsys):
    query = loose(toy_tiny.absolute(0))
    before = classify(run, query, protocol=FAST).table.values
    for name in ("logistic.safetensors", "logistic.json"):
        (run.folder / "probe" / name).write_bytes(b"{")
        assert np.array_equal(classify(run, query, protocol=FAST).table.values, before)
        assert "It is fitted again now" in capsys.readouterr().out


def test_two_classes_and_a_class_without_rows():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 2], 20)
    values = (rng.normal(size=(40, 5)) + label[:, None]).astype(np.float32)
    columns = label, np.arange(40), ("a", "b", "c"), {}
    half = np.arange(40) % 2 == 0
    train, test = (Features(values, *columns).select(part, "") for part in (half, ~half))
    wanted = probe.logistic(train, test).probabilities
    found = probe.linear(train).probabilities(test.values)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (found[:, 1] == 0).all()


def test_a_run_without_labels_says_what_to_do(run, toy_tiny, tmp_path):
    bare = replace(toy_tiny, classes=(), label=np.full(len(toy_tiny), -1))
    bare.save(tmp_path / "bare")
    run.values["manifest"] = str(tmp_path / "bare")
    with pytest.raises(RunError, match="videos with no labels, .* Use search"):
        classify(run, loose(toy_tiny.absolute(0)), protocol=FAST)


def test_a_classifier_predicts_loose_files(classifier, toy_three, tmp_path):
    run = Run(copied(Path(classifier[0]), tmp_path / "run"))
    test = Manifest.load(toy_three).select(split="test").select(mask=np.arange(3))
    wanted = predict(run, test, FAST).values
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    done = classify(
        run, loose(test.absolute(0), torn, test.absolute(1), test.absolute(2)), protocol=FAST
    )
    np.testing.assert_allclose(done.table.values, wanted, atol=1e-6)
    assert [Path(file).name for file, _ in done.failed] == ["torn.mp4"]
    with pytest.raises(RunError, match="The video cannot be read"):
        classify(run, loose(torn), protocol=FAST)
    assert not (run.folder / "probe").exists()
