"""Features laid out in the plane by PCA, t-SNE or UMAP."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

METHODS = {"pca": "principal components", "t-sne": "t-SNE", "umap": "UMAP"}
COMPONENTS = 50  # principal ones that t-SNE and UMAP start from


def methods() -> tuple[str, ...]:
    """Return the ways to lay videos out that work here: umap needs the extra "umap"."""
    return tuple(name for name in METHODS if name != "umap" or find_spec("umap"))


def lay(vectors: Mapping[str, np.ndarray], method: str) -> dict[str, np.ndarray]:
    """Lay out vectors [N,D] of each side as points float32 [N,2]; the same each time.

    Args:
        vectors: Side -> vectors.
        method: "pca" has the directions of the first side, and projects the others on them; "t-sne"
            and "umap" lay all sides out together, from 50 principal components.

    Raises:
        ValueError: The method is another.
        ImportError: umap-learn is missing; the message names the extra.
    """
    from sklearn.decomposition import PCA

    if method not in METHODS:
        raise ValueError(f"lay: wanted one of {tuple(METHODS)}, got {method!r}")
    if method not in methods():
        raise ImportError(
            "lay: umap needs the package umap-learn, which is not installed. Install it with "
            "`pip install 'vidbench[umap]'`, or choose pca or t-sne."
        )
    first = next(iter(vectors.values()))
    if len(first) < 2:
        return {side: np.zeros((len(values), 2), np.float32) for side, values in vectors.items()}
    width = min(2 if method == "pca" else COMPONENTS, *first.shape)
    solver = "covariance_eigh" if first.shape[1] <= 2048 else "randomized"
    pca = PCA(width, random_state=0, svd_solver=solver).fit(first)
    reduced = {side: pca.transform(values).astype(np.float32) for side, values in vectors.items()}
    if method == "pca":
        return {side: np.pad(points, ((0, 0), (0, 2 - width))) for side, points in reduced.items()}
    together = np.concatenate(list(reduced.values()))
    if method == "umap":
        from umap import UMAP

        laid = UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1).fit_transform(
            together
        )
    else:
        from sklearn.manifold import TSNE

        laid = TSNE(2, perplexity=min(30.0, (len(together) - 1) / 3), random_state=0).fit_transform(
            together
        )
    ends = np.cumsum([len(values) for values in reduced.values()])[:-1]
    return dict(zip(reduced, np.split(np.asarray(laid, np.float32), ends), strict=True))
