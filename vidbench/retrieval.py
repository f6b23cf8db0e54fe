"""The table to a faiss index, the search, the protocols, R@k."""

from dataclasses import dataclass

import numpy as np
import torch

from vidbench.tensors.metrics import bootstrap_interval, recall_at

KS = (1, 5, 10, 20, 50)  # CoCLR table 3
BLOCK = 16_384  # gallery rows normalised and searched at once: an index would hold a second copy of a large gallery
CENTRINGS = ("none", "gallery", "split")


@dataclass(frozen=True)
class Neighbours:
    """For each query the gallery rows [Q,k] in order of falling cosine similarity, and those similarities [Q,k]."""

    rows: np.ndarray
    scores: np.ndarray


def unit(values: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Rows of unit length, float32, with `centre` [D] taken off first. Raises ValueError at values not finite."""
    values = np.asarray(values, dtype=np.float32)
    if centre is not None:
        values = values - centre
    if not np.isfinite(values).all():
        raise ValueError("features hold NaN or infinity; look at the run's log before searching in them.")
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.maximum(norm, 1e-12), dtype=np.float32)


def search(gallery: np.ndarray, queries: np.ndarray, k: int, *, centring: str = "none") -> Neighbours:
    """Exact cosine search with faiss, block by block: gallery [N,D], queries [Q,D] -> k nearest of each query.

    centring: "none" (IIC, RSPNet, TCLR), "gallery" (the gallery's mean off both) or "split" (each side's own mean, as
    CoCLR's released code; it uses statistics of the queries). Raises ValueError where k exceeds the gallery.
    """
    import faiss

    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise ValueError(f"search wants gallery [N,D] and queries [Q,D]; got {gallery.shape} and {queries.shape}.")
    if k > len(gallery):
        raise ValueError(f"the gallery has {len(gallery)} rows, fewer than k = {k}; ask for fewer or add videos.")
    if centring not in CENTRINGS:
        raise ValueError(f"centring is one of {CENTRINGS}; got {centring!r}.")
    centre = None if centring == "none" else gallery.mean(0)
    queries = unit(queries, queries.mean(0) if centring == "split" else centre)
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(gallery), BLOCK):
        block = unit(gallery[start:start + BLOCK], centre)
        near, at = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.concatenate([scores, near], 1), np.concatenate([rows, at + start], 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return Neighbours(rows, scores)


def retrieve(gallery, queries, *, centring: str = "none", ks: tuple[int, ...] = KS) -> tuple[Neighbours, dict]:
    """Query the gallery of one Features table with another: neighbours and {"R@k": bool [Q]} (CoCLR section 4.4).

    ks beyond the gallery's size are left out. Raises ValueError where a query's class is nowhere in the gallery.
    """
    for part, held in (("gallery", gallery), ("queries", queries)):
        if (held.label < 0).any():
            raise ValueError(f"{int((held.label < 0).sum())} rows of the {part} have no label; an unknown label would "
                             "match itself. Select the labelled rows.")
    missing = sorted(set(queries.label.tolist()) - set(gallery.label.tolist()))
    if missing:
        raise ValueError(f"class {queries.classes[missing[0]]!r} of the queries is nowhere in the gallery; "
                         "its R@k would be 0 whatever the features.")
    ks = tuple(k for k in ks if k <= len(gallery.values))
    found = search(gallery.values, queries.values, max(ks), centring=centring)
    hits = recall_at(torch.from_numpy(gallery.label[found.rows]), torch.from_numpy(queries.label), ks)
    return found, {f"R@{k}": hit.numpy() for k, hit in hits.items()}


def summary(hits: dict[str, np.ndarray], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Shares of hits with 95 % bootstrap intervals over videos: {"R@1": bool [Q]} -> {"R@1": (share, low, high)}."""
    return {name: (float(hit.mean()), *bootstrap_interval(torch.from_numpy(hit), seed=seed))
            for name, hit in hits.items()}
