"""Indexes for large galleries, by faiss: exact, in lists of 8-bit codes, or a graph; on disk, mapped.

The numbers that are reported come from `search.search`, which is exact and needs no index: then
recall is the model's and not the index's. An index is for looking at more videos than that takes. A
number that comes from one names it in its protocol (`retrieve` and `protocol` take `index`), and
`recall` says what it misses."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.evaluate.neighbors import shared
from vidbench.evaluate.rows import Rows, fingerprint, shaped, unit_rows
from vidbench.evaluate.search import BLOCK, Neighbors, best
from vidbench.system.files import write_text, written

KINDS = ("flat", "ivf_sq8", "hnsw")
FLAT_TO = 1_000_000  # rows that "auto" searches exactly: 4.1 GB at 1024 numbers a row
LISTS = 2.0  # times the root of the rows: building costs rows x lists
SAMPLE = 64  # rows a list that k-means sees; faiss needs at least 39
# lists that a query looks into; 16 miss much where classes are not far apart
# (benchmarks/indexes.py)
PROBES = 64
LINKS, EF = 32, 64  # of a graph: neighbors a row, and how many candidates a query holds
FORMAT = 2
# what the JSON of an index file contains
FACTS = {
    "kind": str,
    "rows": int,
    "width": int,
    "fingerprint": str,
    "seed": int,
    "effort": int,
    "bytes": int,
    "digest": str,
}


@dataclass(frozen=True)
class Index:
    """Unit rows under cosine, ready to be searched; made by `build` or `load`.

    effort: lists that a query looks into (ivf_sq8) or candidates that it holds (hnsw): more find
    more and cost more, dataclasses.replace(index, effort=64) is the same index, searched harder.
    fingerprint: of the table it was made of; held: faiss's own index."""

    kind: str
    rows: int
    width: int
    seed: int
    effort: int
    fingerprint: str
    held: Any

    @property
    def words(self) -> str:
        """What a protocol says of the index: kind, and the switches that change what it finds."""
        if self.kind == "flat":
            return "flat"
        if self.kind == "ivf_sq8":
            return f"ivf_sq8, {self.held.nlist} lists, {min(self.effort, self.held.nlist)} probes, seed {self.seed}"
        return f"hnsw, {LINKS} links, ef {self.effort}, seed {self.seed}"

    def search(self, queries: Rows, k: int) -> Neighbors:
        """Find the k nearest rows of each query, and their cosines.

        Of equal scores the lower row is first. A flat index is exact in single precision; cosines
        of ivf_sq8 are those of rounded rows. If the lists of a query, or its part of the graph,
        hold fewer than k rows, it is compared with all rows.

        Args:
            queries: [Q,D] of unit length, or a table of features.

        Raises:
            ValueError: k exceeds the number of rows, or the queries do not fit.
        """
        if not 1 <= k <= self.rows:
            raise ValueError(f"the index has {self.rows} rows; wanted k from 1 to that, got {k}.")
        values = unit_rows(queries, shaped(queries, "queries", self.width), slice(None), "queries")
        scores, rows = self._asked(values, k)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            scores[short], rows[short] = self._all(values[short], k)
        return Neighbors(*best(rows, scores, k))

    def _asked(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """faiss's scores and rows [Q,k]; rows are -1 where it found fewer."""
        import faiss

        search_parameters = None
        if self.kind == "ivf_sq8":
            search_parameters = faiss.SearchParametersIVF(nprobe=min(self.effort, self.held.nlist))
        elif self.kind == "hnsw":
            search_parameters = faiss.SearchParametersHNSW(efSearch=self.effort)
        return self.held.search(queries, k, params=search_parameters)

    def _all(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """faiss's scores and rows [Q,k] over all rows: all lists, or what the graph links, one by
        one."""
        import faiss

        if self.kind == "ivf_sq8":
            return self.held.search(
                queries, k, params=faiss.SearchParametersIVF(nprobe=self.held.nlist)
            )
        return self.held.storage.search(queries, k)

    def check(self, features: Rows) -> None:
        """Check that the index was made of these rows.

        Raises:
            ValueError: It was made of others.
        """
        found = fingerprint(features)
        if found != self.fingerprint:
            raise ValueError(
                f"the index is of the table {self.fingerprint}, these features are {found}; build "
                "one of these, or take the table it was built of."
            )

    def save(self, path: str | Path) -> None:
        """Write the index as one file, and <path>.json with its facts, each whole or not at all.

        A file without its JSON is one whose writing was cut off, and is not loaded.

        Raises:
            OSError: The file cannot be written, such as on a full disk.
        """
        import faiss

        path = Path(path)
        side = _side(path)
        with written(path) as temporary:
            _write(self.held, temporary)
            facts = {
                "format": FORMAT,
                "kind": self.kind,
                "rows": self.rows,
                "width": self.width,
                "metric": "cosine",
                "fingerprint": self.fingerprint,
                "seed": self.seed,
                "effort": self.effort,
                "bytes": temporary.stat().st_size,
                "digest": _digest(temporary),
                "faiss": faiss.__version__,
            }
            side.unlink(missing_ok=True)  # with an old one a new file would seem complete
        write_text(side, json.dumps(facts, indent=1) + "\n")


def _write(held: Any, path: Path) -> None:
    """Write faiss's index; its errors are lines of C++, whose last words are the system's."""
    import faiss

    try:
        faiss.write_index(held, str(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].rpartition("failed: ")[2]
        raise OSError(f"faiss could not write the index: {reason}") from None


def load(path: str | Path, mapped: bool = True, features: Rows | None = None) -> Index:
    """Read what `save` wrote.

    The file's digest is compared before faiss reads anything, for faiss trusts the sizes in a file:
    damaged ones end the process. That reads the file once, about 1 s per GB.

    Args:
        mapped: rows stay on disk and take no memory of this process; pages come as a search needs
            them. A graph's links are read, 264 bytes a row. This is faiss's IO_FLAG_MMAP_IFC: its
            older IO_FLAG_MMAP reads a flat index whole. The file must stay as it is while mapped;
            `save` replaces it and changes nothing in it.
        features: the table that the index must be of, which costs reading that once.

    Raises:
        ValueError: A file is missing, damaged, not what its JSON says, or of another table.
    """
    import faiss

    path = Path(path)
    facts = _checked_facts(path)
    try:
        held = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise ValueError(f"faiss cannot read {path}: {reason}. Save it again.") from error
    found = (_kind(held), held.ntotal, held.d)
    if found != (facts["kind"], facts["rows"], facts["width"]):
        raise ValueError(
            f"{path} holds {found[0]}, {found[1]} rows of {found[2]}; {_side(path).name} says "
            f"{facts['kind']}, {facts['rows']} rows of {facts['width']}. It is another index's "
            "file."
        )
    index = Index(
        **{name: facts[name] for name in FACTS if name in Index.__annotations__}, held=held
    )
    if features is not None:
        index.check(features)
    return index


def _checked_facts(path: Path) -> dict[str, Any]:
    """Read the JSON of an index file. Raises ValueError if it does not fit its bytes."""
    side = _side(path)
    for file in (path, side):
        if not file.is_file():
            raise ValueError(
                f"{file} is not there; an index is two files, written by Index.save. Save it again."
            )
    try:
        facts = json.loads(side.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{side} is damaged ({error}). Build the index again.") from error
    facts = facts if isinstance(facts, dict) else {}
    if facts.get("format") != FORMAT or facts.get("kind") not in KINDS:
        raise ValueError(
            f"{side} describes format {facts.get('format')}, kind {facts.get('kind')!r}; wanted "
            f"format {FORMAT} and one of {', '.join(KINDS)}. Build the index again."
        )
    wrong = [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]
    if wrong:
        raise ValueError(
            f"{side}: {wrong[0]} is {facts.get(wrong[0])!r}, wanted {FACTS[wrong[0]].__name__}. "
            "Build the index again."
        )
    if path.stat().st_size != facts["bytes"]:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, {side.name} says {facts['bytes']}: it was "
            "cut off, or is another file. Save it again."
        )
    if _digest(path) != facts["digest"]:
        raise ValueError(
            f"{path} is damaged or another file: its bytes do not have the digest in {side.name}. "
            "Bring back a copy of both, or build the index again."
        )
    return facts


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_or_build(features: Rows, kind: str, folder: str | Path) -> Index:
    """Load the index of a table from a folder. If it is missing or damaged, build and save it.

    Args:
        features: table or rows, as `build` takes them.
        kind: see `build`.
        folder: holds a file for each kind and table; the table's fingerprint is in its name.
    """
    path = Path(folder) / f"{kind}-{fingerprint(features)}.faiss"
    if _side(path).is_file():  # written last, so the file is whole
        try:
            return load(path)
        except ValueError as error:
            print(f"{error} It is built again now.", flush=True)
    index = build(features, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    return load(path)


def _side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _kind(held) -> str:
    """Which of KINDS a faiss index is, or its class."""
    name = type(held).__name__
    return {
        "IndexFlatIP": "flat",
        "IndexIVFScalarQuantizer": "ivf_sq8",
        "IndexHNSWFlat": "hnsw",
    }.get(name, name)


# ---- building ----------------------------------------------------------------------------------


def build(features: Rows, kind: str = "auto", seed: int = 0) -> Index:
    """Build an index of a table of features or of rows; one thread, so rows and seed determine it.

    Args:
        features: A table, whose rows are scaled to unit length, or rows [N,D] of unit length. A
            memory-mapped array of any float type is read in blocks.
        kind: "flat" is exact. "ivf_sq8" sorts rows into lists by k-means (of SAMPLE rows a list)
            and keeps 8 bits a number, a quarter of the memory. "hnsw" links each row to its near
            ones: as much memory as flat, and the longest to build. "auto" is flat up to FLAT_TO
            rows, else ivf_sq8.
        seed: Of k-means and its sample, or of the graph's levels.

    Raises:
        ValueError: A row is not finite, zero, or (of an array) not of unit length.
    """
    if kind not in ("auto", *KINDS):
        raise ValueError(f"kind is auto or one of {', '.join(KINDS)}; got {kind!r}.")
    values = shaped(features, "features")
    rows, width = values.shape
    if not rows or not width:
        raise ValueError(
            f"an index needs at least one row with at least one number; got [{rows},{width}]."
        )
    blocks = [slice(start, start + BLOCK) for start in range(0, rows, BLOCK)]
    for (
        block
    ) in blocks:  # a bad row in the last block is to be said before k-means, not an hour after
        unit_rows(features, values, block, "features")
    if kind == "auto":
        kind = "flat" if rows <= FLAT_TO else "ivf_sq8"
    with _one_thread():
        held = _MAKERS[kind](features, values, seed)
        for block in blocks:
            held.add(unit_rows(features, values, block, "features"))
    effort = {"flat": 0, "ivf_sq8": PROBES, "hnsw": EF}[kind]
    return Index(kind, rows, width, seed, effort, fingerprint(features), held)


def _flat(features: Rows, values: np.ndarray, seed: int):
    import faiss

    return faiss.IndexFlatIP(values.shape[1])


def _ivf_sq8(features: Rows, values: np.ndarray, seed: int):
    """Empty lists around the centers of k-means, which is spherical as faiss's is for inner
    products."""
    import faiss

    rows, width = values.shape
    lists = max(1, min(round(LISTS * math.sqrt(rows)), rows // 39))
    held = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width),
        width,
        lists,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    held.cp.seed = seed
    which = np.sort(
        np.random.default_rng(seed).choice(rows, min(rows, SAMPLE * lists), replace=False)
    )
    held.train(unit_rows(features, values, which, "features"))
    return held


def _hnsw(features: Rows, values: np.ndarray, seed: int):
    import faiss

    held = faiss.IndexHNSWFlat(values.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    held.hnsw.rng = faiss.RandomGenerator(seed)
    return held


_MAKERS = {"flat": _flat, "ivf_sq8": _ivf_sq8, "hnsw": _hnsw}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep faiss to one thread, then restore its number."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


# ---- what an index misses ----------------------------------------------------------------------


def recall(approximate: Index, exact: Index, queries: Rows, k: int) -> float:
    """Return the share of the exact k nearest rows that an approximate index finds among its k.

    Args:
        approximate, exact: Indexes of one table.
        queries: [Q,D] of unit length, or a table of features.
        k: Neighbors of each query.

    Raises:
        ValueError: the two indexes are of different tables.
    """
    if approximate.fingerprint != exact.fingerprint:
        raise ValueError(
            f"recall compares two indexes of one table; got {approximate.fingerprint} and "
            f"{exact.fingerprint}."
        )
    found, wanted = (index.search(queries, k).rows for index in (approximate, exact))
    return float(shared(found, wanted, k).mean())
