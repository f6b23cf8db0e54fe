"""Features by row, search against a full sort, protocols, probe."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.features import Features, Protocol, extract, kept, linear_probe
from vidbench.methods import coclr
from vidbench.retrieval import retrieve, search, summary


def table(values, label, classes=("a", "b", "c"), source=None):
    label = np.asarray(label)
    source = np.arange(len(label)) if source is None else source
    return Features(np.asarray(values, np.float32), label, source, classes, {})


@pytest.mark.parametrize("centring", ["none", "gallery", "split"])
def test_search_is_a_full_sort_of_cosines(centring):
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(1, 1, (60, 9)), rng.normal(1, 1, (7, 9))
    found = search(gallery, queries, 5, centring=centring)
    off = {"none": (0, 0), "gallery": (gallery.mean(0),) * 2, "split": (gallery.mean(0), queries.mean(0))}[centring]
    for i, query in enumerate(queries - off[1]):
        cosines = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in gallery - off[0]]
        best = sorted(range(60), key=lambda j: -cosines[j])[:5]
        assert found.rows[i].tolist() == best
        np.testing.assert_allclose(found.scores[i], [cosines[j] for j in best], atol=1e-5)


def test_recall_on_a_toy_matrix():
    gallery = table(np.eye(4), [0, 0, 1, 2])
    queries = table([[1, 0.9, 0, 0], [0, 0, 0.4, 1], [0.1, 0, 1, 0.2]], [0, 1, 1])
    found, hits = retrieve(gallery, queries, ks=(1, 2, 50))
    assert found.rows[:, 0].tolist() == [0, 3, 2]
    assert hits["R@1"].tolist() == [True, False, True] and hits["R@2"].tolist() == [True, True, True]
    assert "R@50" not in hits


def test_search_refuses_what_would_give_a_false_number():
    good = np.ones((3, 2))
    with pytest.raises(ValueError, match="fewer than k = 4"):
        search(good, good, 4)
    with pytest.raises(ValueError, match="NaN"):
        search(np.full((3, 2), np.nan), good, 1)
    with pytest.raises(ValueError, match=r"\[Q,D\]"):
        search(good, np.ones((3, 5)), 1)
    with pytest.raises(ValueError, match="centring"):
        search(good, good, 1, centring="mean")
    with pytest.raises(ValueError, match="1 rows of the queries have no label"):
        retrieve(table(np.eye(2), [0, 1]), table(np.eye(2), [0, -1]))
    with pytest.raises(ValueError, match="'c' of the queries is nowhere"):
        retrieve(table(np.eye(2), [0, 1]), table(np.eye(2), [0, 2]))


def test_probe_separates_what_is_linear_and_stays_at_chance_on_noise():
    rng = np.random.default_rng(1)
    label = np.arange(240) % 3
    signal = rng.normal(0, 1, (240, 8))
    signal[np.arange(240), label] += 4
    noise = rng.normal(0, 1, (240, 8))
    cut = slice(0, 160), slice(160, 240)
    for values, low, high in ((signal, 0.9, 1.0), (noise, 0.15, 0.55)):
        found = linear_probe(*(table(values[part], label[part]) for part in cut))
        assert low <= found["accuracy"] <= high and found["right"].mean() == found["accuracy"]
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(table(noise, label * 0), table(noise, label))


def test_features_file_round_trip(tmp_path):
    made = replace(table(np.eye(3), [0, 1, -1]), protocol={"windows": 2})
    made.save(tmp_path / "f.npz")
    read = Features.load(tmp_path / "f.npz")
    assert np.array_equal(read.values, made.values) and read.classes == made.classes and read.protocol == {"windows": 2}


@pytest.fixture(scope="module")
def run(toy_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    toy_tiny.save(folder / "videos")
    tiny = coclr.SETTINGS["tiny"]
    recipe = replace(tiny, manifest=str(folder / "videos"), fit=replace(tiny.fit, epochs=0))
    coclr.train(recipe_dict(recipe), str(folder / "run"), "none")
    return Run(folder / "run")


def test_features_do_not_depend_on_batch_or_row_order(run, toy_tiny):
    few = toy_tiny.select(mask=np.arange(len(toy_tiny)) % 20 == 0)
    protocol = Protocol(windows=2)
    whole = extract(run, few, protocol, batch=16)
    again = extract(run, few, protocol, batch=5)
    np.testing.assert_allclose(whole.values, again.values, atol=1e-5)
    picked = few.select(mask=np.arange(len(few)) % 2 == 1)
    np.testing.assert_allclose(extract(run, picked, protocol).values, whole.values[1::2], atol=1e-5)
    assert whole.protocol == {"windows": 2, "crops": "centre", "normalise_clips": True, "scale": 256 / 224,
                              "stream": "rgb", "frames": 8, "stride": 2, "size": 48}


def test_features_of_nothing_and_of_nan_are_errors(run, toy_tiny, monkeypatch):
    with pytest.raises(RunError, match="split is empty"):
        extract(run, toy_tiny.select(mask=np.zeros(len(toy_tiny), dtype=bool)))
    broken = {name: torch.full_like(value, float("nan")) if value.is_floating_point() else value
              for name, value in run.weights().items()}
    monkeypatch.setattr(Run, "weights", lambda self: broken)
    with pytest.raises(RunError, match="not finite"):
        extract(run, toy_tiny.select(mask=np.arange(len(toy_tiny)) < 2), Protocol(windows=1))


def features_on_ranks(folder: str, manifest: str, out: str):
    """A stage for two ranks: rank 0 keeps the table."""
    from vidbench.data.manifest import Manifest

    rows = Manifest.load(manifest)
    made = extract(Run(folder), rows.select(mask=np.arange(len(rows)) < 11), Protocol(windows=1))
    if ranks.rank() == 0:
        made.save(out)


def test_two_ranks_fill_one_processes_table(run, toy_tiny, tmp_path):
    manifest = run.recipe["manifest"]
    features_on_ranks(str(run.folder), manifest, str(tmp_path / "one.npz"))
    out = str(tmp_path / "two.npz")
    ranks.launch("tests.test_retrieval:features_on_ranks", str(run.folder), manifest, out, nproc=2)
    one, two = Features.load(tmp_path / "one.npz"), Features.load(tmp_path / "two.npz")
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_kept_features_are_read_back_only_where_they_fit(run):
    protocol, path = Protocol(windows=1), run.folder / "features-test.npz"
    first = kept(run, "test", protocol)
    assert len(first.values) == len(Manifest.load(run.recipe["manifest"]).select(split="test"))
    replace(first, values=first.values + 1).save(path)  # a mark
    assert np.array_equal(kept(run, "test", protocol).values, first.values + 1)
    os.utime(run.checkpoint())  # trained on since
    os.utime(path, (0, 0))
    assert np.array_equal(kept(run, "test", protocol).values, first.values)
    assert kept(run, "test", Protocol(windows=2)).protocol["windows"] == 2


def test_summary_is_shares_inside_their_intervals():
    hits = {"R@1": np.arange(40) < 10, "R@5": np.ones(40, dtype=bool)}
    share, low, high = summary(hits)["R@1"]
    assert share == 0.25 and 0.08 < low < 0.25 < high < 0.42
    assert summary(hits)["R@5"] == (1.0, 1.0, 1.0) and summary(hits, seed=3) == summary(hits, seed=3)
