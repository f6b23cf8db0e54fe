"""What notebooks 40 and 41 do: probes of stored features, tests of a trained classifier."""

import numpy as np
import pytest

from tests import copied
from tests.view.test_scores import CLASSES
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes
from vidbench.evaluate.features import PROTOCOLS
from vidbench.evaluate.tables import Features
from vidbench.experiments import finetuned, probes


def features(stream: str, seed: int):
    """Features of a train and a test split of three classes that are easy to separate."""
    rng, made = np.random.default_rng(seed), []
    for side in range(2):
        label = np.arange(36) % 3
        values = np.eye(8)[label] + 0.2 * rng.standard_normal((36, 8))
        protocol = {"stream": stream, "rows": f"side {side}"}
        source = np.arange(36) // 3 + 100 * side
        made.append(Features(values.astype(np.float32), label, source, CLASSES, protocol))
    return tuple(made)


@pytest.fixture(scope="module")
def found():
    return probes.stored({"a": features("rgb", 0), "b": features("flow", 1)})


def test_stored_features_are_probed_in_two_ways_and_fused(found):
    assert [*found] == [("a", "logistic"), ("a", "released"), ("b", "logistic"), ("b", "released")]
    assert all(one.accuracy > 0.9 and "top-1" in one.numbers for one in found.values())
    both = probes.fused(found, "a", "b")
    assert [*both] == [("a + b", "logistic"), ("a + b", "released")]
    rows = probes.trial_rows(found["a", "released"])
    assert {"rate", "decay 0.001"} <= set(rows[0])


def test_a_classifier_is_tested_and_its_numbers_are_kept(classifier, toy_three, tmp_path):
    run = Run(copied(classifier[0], tmp_path / "scratch"))
    manifest = Manifest.load(toy_three)
    tests = probes.tested({"a": run}, manifest, PROTOCOLS["one_view"], tmp_path)
    assert [*tests] == [("a", probes.END)]
    assert [*probes.training_curves({"a": run})] == ["a, training", "a, held out"]
    probes.keep(tests, {"a": run}, {"a": run}, manifest.select(split="test"))
    assert [one.task for one in run.results().values()] == ["probe"]
    assert probes.end_to_end({"a": run}, tmp_path, "", tune=False) == ({}, [])


def test_a_finetuned_run_is_tested_by_crops_and_each_video_is_kept(classifier, toy_three, tmp_path):
    run = Run(copied(classifier[0], tmp_path / "scratch"))
    manifest = Manifest.load(toy_three)
    found = finetuned.tested(run, manifest, tmp_path, None)
    assert [test for _, test in found] == ["center crop", "five crop", "ten crop"]
    finetuned.keep(found, run, None, manifest.select(split="test"))
    kept = outcomes.read(run.folder)
    assert [one.task for one in kept] == ["finetune"] * 3 and len(run.results()) == 3
    for outcome, score in zip(kept, found.values(), strict=True):
        assert np.array_equal(outcome.hits["top-1"], score.right)
