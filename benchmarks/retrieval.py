"""Exact search, one thread: evaluate.search.search compared with a bare matrix product with top-k, and
faiss as installed.

UCF101's size: 10,000 gallery rows of 1024, 4,000 queries, 10 nearest by cosine. The bare product
gets rows of unit length; ours normalizes them itself, and so does faiss's contestant (normalize_L2
on a copy, then IndexFlatIP). All must find the same rows, up to scores that differ in rounding.
Memory: the largest resident size of a fresh process during a search, over that before it made the
gallery, of UCF101's and of Kinetics-400's size."""

from __future__ import annotations

import resource
import sys
from multiprocessing import get_context

import numpy as np

from benchmarks import measure

IN_SETS = True
K, OURS, BARE, FAISS = 10, "vidbench", "torch matmul + topk", "faiss IndexFlatIP"
SIZES = {
    "10,000 x 1024, 4,000 queries": (10_000, 4_000),
    "240,000 x 1024, 500 queries": (240_000, 500),
}


def main(
    rounds: int = 9, sizes: dict[str, tuple[int, int]] = SIZES, width: int = 1024
) -> list[dict]:
    """A row for each contestant and each size's memory, and goal P8."""
    memory = [footprint(name, *size, width) for name, size in sizes.items()]
    measure.one_thread()
    (name, (rows, count)), *_ = sizes.items()
    gallery, queries = features(rows, count, width)
    ways = contestants()
    found = {way: call(gallery, queries) for way, call in ways.items()}
    for way, (near, scores) in found.items():
        differ = near != found[BARE][0]
        if np.abs(scores - found[BARE][1]).max() > 1e-5 or differ.mean() > 1e-3:
            raise AssertionError(f"{way} finds others than {BARE}: {differ.sum()} of {differ.size}")
    seconds = measure.in_turn(
        {way: lambda call=call: call(gallery, queries) for way, call in ways.items()}, rounds
    )
    table = measure.rows(seconds, OURS, case=name)
    for row in table:
        row["others_in_top_10"] = int((found[row["contestant"]][0] != found[BARE][0]).sum())
    goals = [
        measure.goal(
            "P8",
            "search: our time over torch matmul + topk",
            "<= 1.1",
            measure.ratios(seconds[OURS], seconds[BARE]),
        ),
        measure.goal(
            "P8",
            "search: our time over faiss's as installed",
            "<= 1.0",
            measure.ratios(seconds[OURS], seconds[FAISS]),
        ),
        *(
            measure.goal(
                "P8",
                f"search: GiB besides the gallery, {row['case']}",
                "<= 0.5",
                row["GiB_beside_gallery"],
            )
            for row in memory
        ),
    ]
    return table + memory + goals


def features(rows: int, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gallery and queries of unit length."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal((n, width), np.float32) for n in (rows, count)]
    for part in made:
        part /= np.sqrt(np.einsum("nd,nd->n", part, part))[
            :, None
        ]  # in place: a copy would count as a search's memory
    return made


def contestants() -> dict:
    """name -> function of gallery and queries that returns rows [Q,k] and scores [Q,k]."""
    import faiss
    import torch

    from vidbench.evaluate.search import search

    faiss.omp_set_num_threads(1)

    def bare(gallery, queries):
        found = (torch.from_numpy(queries) @ torch.from_numpy(gallery).T).topk(K)
        return found.indices.numpy(), found.values.numpy()

    def flat(gallery, queries):
        gallery, queries = gallery.copy(), queries.copy()
        faiss.normalize_L2(gallery), faiss.normalize_L2(queries)
        index = faiss.IndexFlatIP(gallery.shape[1])
        index.add(gallery)
        return index.search(queries, K)[::-1]

    def ours(gallery, queries):
        found = search(gallery, queries, K)
        return found.rows, found.scores

    return {OURS: ours, BARE: bare, FAISS: flat}


def footprint(name: str, rows: int, count: int, width: int) -> dict:
    """A row: memory of a search at its peak, in a separate process."""
    with get_context("spawn").Pool(1) as pool:
        more, gallery = pool.apply(peak, (rows, count, width))
    return {
        "case": name,
        "contestant": f"{OURS}, memory",
        "GiB_beside_gallery": more,
        "gallery_GiB": gallery,
    }


def peak(rows: int, count: int, width: int) -> tuple[float, float]:
    """GiB at the peak beyond gallery and queries, and GiB of the gallery."""
    call = contestants()[OURS]
    call(*features(K, K, width))  # libraries make their buffers
    before = resident()
    gallery, queries = features(rows, count, width)
    held = gallery.nbytes + queries.nbytes
    call(gallery, queries)
    return round((resident() - before - held) / 2**30, 3), round(gallery.nbytes / 2**30, 3)


def resident() -> int:
    """The largest resident size of this process so far, bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
