"""Layouts of features in the plane."""

import numpy as np
import pytest

from vidbench.evaluate import layout

# numba compiles UMAP when it is first used
UMAP = pytest.param("umap", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", ["pca", "t-sne", UMAP])
def test_layouts_keep_clusters_apart_and_are_the_same_each_time(method):
    centers = np.random.default_rng(0).standard_normal((3, 20)) * 6
    label = np.arange(60) % 3
    sides = {
        "gallery": centers[label] + np.random.default_rng(1).standard_normal((60, 20)),
        "queries": centers[label[:9]] + np.random.default_rng(2).standard_normal((9, 20)),
    }
    laid = layout.lay(sides, method)
    assert {side: points.shape for side, points in laid.items()} == {
        "gallery": (60, 2),
        "queries": (9, 2),
    }
    middles = np.stack([laid["gallery"][label == one].mean(0) for one in range(3)])
    for points, known in ((laid["gallery"], label), (laid["queries"], label[:9])):
        distances = np.linalg.norm(points[:, None] - middles, axis=2)
        assert (distances.argmin(1) == known).all()
    again = layout.lay(sides, method)
    assert all(np.array_equal(laid[side], again[side]) for side in laid)


def test_one_video_is_a_point_and_other_methods_are_refused():
    assert layout.lay({"one": np.ones((1, 5))}, "pca")["one"].shape == (1, 2)
    with pytest.raises(ValueError, match="lay: wanted one of"):
        layout.lay({"one": np.ones((2, 5))}, "magic")


def test_umap_without_its_package_names_the_extra(monkeypatch):
    assert layout.methods() == ("pca", "t-sne", "umap")
    monkeypatch.setattr(layout, "find_spec", lambda name: None)
    assert layout.methods() == ("pca", "t-sne")
    with pytest.raises(ImportError, match=r"vidbench\[umap\]"):
        layout.lay({"one": np.ones((3, 5))}, "umap")
