"""Indexes of 1024 numbers a row, one thread: building, searching, recall@10 against flat, files,
memory when opened.

Rows are synthetic, on disk in half precision; queries are drawn the same way. "clustered": classes
of 100 (10^6: 1,000) around random centers, spread half as far as a center is long along 64
directions that all share, the spread falling from one to the next, and noise in all 1024.
"diffuse": the same without centers, so that near rows are in many lists. Features of a network are
somewhere between; what an index misses there, indexes.recall says. Goals are of clustered rows.

10^4 and 10^5 rows; with --scale 10^6 clustered ones, without a graph, which takes longest to build.
Each index is built in its own process, and all are opened in another, mapped and read.
peak_MB: the largest resident size while building and saving, over that with libraries loaded, the
pages of the rows' file included. Seconds and milliseconds are CPU time, those of opening wall time.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.retrieval import resident

K, WIDTH, AT_ONCE, SINGLE = 10, 1024, 200, 5  # queries in a batch; queries that come one by one
QUICK, SCALE = (10_000, 100_000), (1_000_000,)
CLASSES, DIRECTIONS, NOISE = 1000, 64, 0.3
DATA = {
    "clustered": (1.0, 0.5),
    "diffuse": (0.0, 1.0),
}  # how long a center is, and the spread around it
PROBES = (16, 64, 256)  # lists that a query looks into; 64 is the library's
BLOCK = 16_384
GRAPH_TO = {"clustered": 100_000, "diffuse": 10_000}  # rows


def main(
    rounds: int = 5, sizes: tuple[int, ...] = QUICK, scale: bool = False, width: int = WIDTH
) -> list[dict]:
    """A row for each size and index, and goal P19."""
    table, goals = [], []
    for rows in SCALE if scale else sizes:
        for data in ("clustered",) if scale else DATA:
            with tempfile.TemporaryDirectory() as scratch:
                part = case(Path(scratch), data, rows, width, min(rounds, 2) if scale else rounds)
            print(measure.show(part), flush=True)  # the next size takes ten times as long
            table += part
    for row in table:
        if row["data"] == "clustered" and "MB_mapped" in row:
            name = f"{row['rows']:,} rows, {row['index']}"
            goals.append(measure.goal("P19", f"{name}: recall@{K}", ">= 0.95", row["recall"]))
            goals.append(
                measure.goal(
                    "P19", f"{name}: MB that opening it mapped adds", "<= 16", row["MB_mapped"]
                )
            )
    return table + goals


def case(folder: Path, data: str, rows: int, width: int, rounds: int) -> list[dict]:
    """A row of the table for each index, and for each number of probes."""
    from vidbench.evaluate import indexes

    measure.one_thread()
    vectors, queries = write(folder / "rows.npy", rows, width, *DATA[data])
    kinds = indexes.KINDS if rows <= GRAPH_TO[data] else ("flat", "ivf_sq8")
    facts = {kind: alone(built, vectors, kind, folder / kind) for kind in kinds}
    vectors.unlink()
    opened = alone(grown, [folder / kind for kind in kinds], queries)
    facts = {kind: own | more for (kind, own), more in zip(facts.items(), opened, strict=True)}
    held = {kind: indexes.load(folder / kind, mapped=False) for kind in facts}
    others = [replace(held["ivf_sq8"], effort=probes) for probes in PROBES]
    ways = {
        index.words: index for index in (*others, *held.values())
    }  # few lists: the same words, the same search
    ways = dict(sorted(ways.items(), key=lambda way: way[1].kind))
    table = []
    for words, speed in searched(ways, queries, rounds).items():
        own = facts[ways[words].kind] if ways[words] in held.values() else {}
        table.append({"data": data, "rows": rows, "width": width, "index": words, **speed, **own})
    return table


def searched(ways: dict, queries: np.ndarray, rounds: int) -> dict[str, dict]:
    """Recall of each index, and its milliseconds a query of batches and of single queries, all in
    turn."""
    import faiss

    from vidbench.evaluate.neighbors import shared

    faiss.omp_set_num_threads(1)
    found = {words: index.search(queries, K).rows for words, index in ways.items()}
    batch = measure.in_turn(
        {words: lambda index=index: index.search(queries, K) for words, index in ways.items()},
        rounds,
        warm_up=False,
    )
    single = measure.in_turn(
        {
            words: lambda index=index: [index.search(query[None], K) for query in queries[:SINGLE]]
            for words, index in ways.items()
        },
        rounds,
    )
    made = {}
    for words in ways:
        made[words] = {"recall": round(float(shared(found["flat"], found[words], K).mean()), 4)}
        for way, seconds, count in (("single", single, SINGLE), ("batch", batch, len(queries))):
            spread = measure.spread([1e3 * s / count for s in seconds[words]])
            made[words] |= dict(zip((f"{way}_ms", f"{way}_min", f"{way}_max"), spread, strict=True))
            made[words][f"{way}_over_flat"] = measure.spread(
                measure.ratios(seconds[words], seconds["flat"])
            )[0]
        made[words] |= {"queries": len(queries), "rounds": rounds}
    return made


def write(
    path: Path, rows: int, width: int, center: float, spread: float
) -> tuple[Path, np.ndarray]:
    """Rows [N,D] in half precision on disk, written block by block, and queries [QUERIES,D]; all of
    unit length."""
    rng = np.random.default_rng(0)
    classes = max(1, min(CLASSES, rows // 100))
    centers, directions = (
        rng.standard_normal((n, width), np.float32) / np.float32(np.sqrt(width))
        for n in (classes, DIRECTIONS)
    )
    centers *= np.float32(center)
    falling = np.linspace(1, 0, DIRECTIONS, endpoint=False, dtype=np.float32)
    falling *= np.float32(spread / np.linalg.norm(falling))

    def drawn(count: int) -> np.ndarray:
        made = centers[rng.integers(classes, size=count)]
        made += (falling * rng.standard_normal((count, DIRECTIONS), np.float32)) @ directions
        made += np.float32(NOISE / np.sqrt(width)) * rng.standard_normal((count, width), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    queries = drawn(AT_ONCE)
    held = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, BLOCK):
        held[start : start + BLOCK] = drawn(min(BLOCK, rows - start))
    held.flush()
    return path, queries


def alone(function, *arguments):
    """What a function returns in a separate process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def built(vectors: Path, kind: str, path: Path) -> dict[str, float]:
    """CPU seconds of building an index that is then saved, MB at the peak of it, MB of the file."""
    from vidbench.evaluate import indexes

    measure.one_thread()
    indexes.build(np.eye(2))  # libraries make their buffers
    before, values = peak(), np.load(vectors, mmap_mode="r")
    began = time.process_time()
    index = indexes.build(values, kind)
    seconds = time.process_time() - began
    index.save(path)
    return {
        "build_s": round(seconds, 2),
        "peak_MB": round((peak() - before) / 1e6),
        "file_MB": round(path.stat().st_size / 1e6, 1),
    }


def peak() -> int:
    """The largest resident size of this process, bytes; if the system reports it, without what its
    parent used."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resident()
    return next(
        int(line.split()[1]) * 1024
        for line in status.read_text().splitlines()
        if line.startswith("VmHWM")
    )


def grown(paths: list[Path], queries: np.ndarray) -> list[dict[str, float]]:
    """MB that this process grows by when it opens each index, mapped, searched for a batch, and
    read; ms to open."""
    import psutil

    from vidbench.evaluate import indexes

    measure.one_thread()
    indexes.build(np.eye(2)).search(np.eye(2), 1)  # libraries make their buffers
    process, held, made = psutil.Process(), [], []  # what is held is not given back and taken again

    def size() -> float:
        return process.memory_info().rss / 1e6

    for path in paths:
        row = {}
        for way in ("mapped", "read"):
            before, began = size(), time.perf_counter()
            held.append(indexes.load(path, mapped=way == "mapped"))
            row[f"open_ms_{way}"] = round(1e3 * (time.perf_counter() - began), 2)
            row[f"MB_{way}"] = round(size() - before, 1)
            if way == "mapped":
                held[-1].search(queries, K)
                row["MB_mapped_and_searched"] = round(size() - before, 1)
        made.append(row)
    return made
