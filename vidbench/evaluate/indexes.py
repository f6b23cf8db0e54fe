"""Indexes for large galleries, by faiss: exact, in lists of 8-bit codes, or a graph; on disk, mapped.

The numbers that are reported come from `search.search`, which is exact and needs no index: then
recall is the model's and not the index's. An index is for looking at more videos than that takes. A
number that comes from one names it in its protocol (`retrieve` and `protocol` take `index`), and
`recall` says what it misses."""

import contextlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.evaluate.neighbors import shared
from vidbench.evaluate.retrieval import digest
from vidbench.evaluate.search import BLOCK, Neighbors, best, unit
from vidbench.system.files import write_text, written

KINDS = ("flat", "ivf_sq8", "hnsw")
FLAT_TO = 1_000_000  # rows that "auto" searches exactly: 4.1 GB at 1024 numbers a row
LISTS = 2.0  # times the root of the rows: building costs rows x lists
SAMPLE = 64  # rows a list that k-means sees; faiss wants at least 39
# lists that a query looks into; 16 miss much where classes are not far apart
# (benchmarks/indexes.py)
PROBES = 64
LINKS, EF = 32, 64  # of a graph: neighbors a row, and how many candidates a query holds
LENGTH = 1e-3  # that a row may be off unit length by: half precision needs 5e-4
FORMAT = 1


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
        """What a number's protocol says of the index: kind, and the switches that move what it
        finds."""
        if self.kind == "flat":
            return "flat"
        if self.kind == "ivf_sq8":
            return f"ivf_sq8, {self.held.nlist} lists, {min(self.effort, self.held.nlist)} probes, seed {self.seed}"
        return f"hnsw, {LINKS} links, ef {self.effort}, seed {self.seed}"

    def search(self, queries, k: int) -> Neighbors:
        """The k nearest rows of each query, and their cosines: queries [Q,D] of unit length, or a
        table of features.

        Exact in single precision where the index is flat; cosines of ivf_sq8 are those of rounded
        rows. A query whose lists, or whose part of the graph, hold fewer than k rows is compared
        with all. Equal scores: the lower row first. Raises ValueError where k is more than the
        rows, and at queries that do not fit."""
        if not 1 <= k <= self.rows:
            raise ValueError(f"the index has {self.rows} rows; wanted k from 1 to that, got {k}.")
        values = _unit_rows(
            queries, _shaped(queries, "queries", self.width), slice(None), "queries"
        )
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

    def check(self, features) -> None:
        """Raise ValueError where `features` are not the rows that the index was made of."""
        found = fingerprint(features)
        if found != self.fingerprint:
            raise ValueError(
                f"the index is of the table {self.fingerprint}, these features are {found}; build "
                "one of "
                "these, or take the table it was built of."
            )

    def save(self, path: str | Path) -> None:
        """Write the index as one file, and <path>.json with its facts, each whole or not at all.

        A file without its JSON is one whose writing was cut off, and is not loaded.
        """
        import faiss

        path, side = Path(path), _side(path)
        with written(path) as temporary:
            faiss.write_index(self.held, str(temporary))
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
                "faiss": faiss.__version__,
            }
            side.unlink(missing_ok=True)  # an old one would vouch for a new file
        write_text(side, json.dumps(facts, indent=1) + "\n")


def load(path: str | Path, mapped: bool = True, features=None) -> Index:
    """What `save` wrote; features: the table that it has to be of, which costs reading that once.

    mapped: rows stay on disk, opening takes neither time nor memory for them, and pages come as a
    search needs them; a graph's links are read, 264 bytes a row. This is faiss's IO_FLAG_MMAP_IFC:
    its older IO_FLAG_MMAP reads a flat index whole. The file must stay as it is while mapped;
    `save` replaces it and changes nothing in it. Raises ValueError where a file is missing, cut
    off, not what its JSON says, or of another table."""
    import faiss

    path, side = Path(path), _side(Path(path))
    for file in (path, side):
        if not file.is_file():
            raise ValueError(
                f"{file} is not there; an index is two files, written by Index.save. Save it anew."
            )
    facts = json.loads(side.read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT or facts.get("kind") not in KINDS:
        raise ValueError(
            f"{side} describes format {facts.get('format')}, kind {facts.get('kind')!r}; wanted "
            "format "
            f"{FORMAT} and one of {', '.join(KINDS)}. Build the index anew."
        )
    if path.stat().st_size != facts["bytes"]:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, {side.name} says {facts['bytes']}: it was "
            "cut off, "
            "or is another file. Save it anew."
        )
    try:
        held = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise ValueError(
            f"faiss cannot read {path}: {str(error).splitlines()[-1]}. Save it anew."
        ) from error
    found = (_kind(held), held.ntotal, held.d)
    if found != (facts["kind"], facts["rows"], facts["width"]):
        raise ValueError(
            f"{path} holds {found[0]}, {found[1]} rows of {found[2]}; {side.name} says "
            f"{facts['kind']}, "
            f"{facts['rows']} rows of {facts['width']}. It is another index's file."
        )
    index = Index(
        facts["kind"],
        facts["rows"],
        facts["width"],
        facts["seed"],
        facts["effort"],
        facts["fingerprint"],
        held,
    )
    if features is not None:
        index.check(features)
    return index


def load_or_build(features, kind: str, folder: str | Path) -> Index:
    """Load the index of a table from a folder. If none is there, build it and save it.

    Args: features: table or rows, as `build` takes them. kind: see `build`. folder: holds a file
        for each kind and table; the table's fingerprint is in its name.
    """
    path = Path(folder) / f"{kind}-{fingerprint(features)}.faiss"
    if not _side(path).is_file():  # written last, so it vouches for the whole file
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


def build(features, kind: str = "auto", seed: int = 0) -> Index:
    """An index of a table of features, whose rows are brought to unit length, or of rows [N,D] that
    are of unit length.

    kind: "flat" is exact; "ivf_sq8" sorts rows into lists by k-means and keeps 8 bits a number, a
    quarter of the memory; "hnsw" links each row to its near ones, as much memory as flat and the
    longest to build; "auto" is flat to FLAT_TO rows and ivf_sq8 beyond. Rows may be a memory-mapped
    array of any float type: they are read in blocks, and k-means sees SAMPLE rows a list. seed: of
    k-means and its sample, or of the graph's levels. One thread builds, so the index depends on rows
    and seed alone. Raises ValueError at a row that is not finite, zero, or of rows as they are not
    of unit length."""
    if kind not in ("auto", *KINDS):
        raise ValueError(f"kind is auto or one of {', '.join(KINDS)}; got {kind!r}.")
    values = _shaped(features, "features")
    rows, width = values.shape
    if not rows or not width:
        raise ValueError(
            f"an index wants at least one row with at least one number; got [{rows},{width}]."
        )
    blocks = [slice(start, start + BLOCK) for start in range(0, rows, BLOCK)]
    for (
        block
    ) in blocks:  # a bad row in the last block is to be said before k-means, not an hour after
        _unit_rows(features, values, block, "features")
    if kind == "auto":
        kind = "flat" if rows <= FLAT_TO else "ivf_sq8"
    with _one_thread():
        held = _MAKERS[kind](features, values, seed)
        for block in blocks:
            held.add(_unit_rows(features, values, block, "features"))
    effort = {"flat": 0, "ivf_sq8": PROBES, "hnsw": EF}[kind]
    return Index(kind, rows, width, seed, effort, fingerprint(features), held)


def _flat(features, values: np.ndarray, seed: int):
    import faiss

    return faiss.IndexFlatIP(values.shape[1])


def _ivf_sq8(features, values: np.ndarray, seed: int):
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
    held.train(_unit_rows(features, values, which, "features"))
    return held


def _hnsw(features, values: np.ndarray, seed: int):
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


def fingerprint(features) -> str:
    """A checksum of values in single precision, and of a table's videos: what tells one table of
    features from others.

    Rows of one network are of other values than another's of the same videos, so both count.
    """
    values, crc = _shaped(features, "features"), 0
    for start in range(0, len(values), BLOCK):
        crc = zlib.crc32(np.ascontiguousarray(values[start : start + BLOCK], "<f4").data, crc)
    rows = digest(features) if _is_table(features) else len(values)
    return f"{rows}x{values.shape[1]}-{crc:08x}"


def _is_table(features) -> bool:
    return hasattr(features, "protocol")


def _shaped(features, who: str, width: int | None = None) -> np.ndarray:
    """The values [N,D] of a table or an array, not copied. Raises ValueError at other shapes, or
    another width."""
    values = features.values if _is_table(features) else np.asanyarray(features)
    if values.ndim != 2 or width not in (None, values.shape[1]):
        raise ValueError(
            f"{who}: wanted rows [N,{width or 'D'}], got {list(values.shape)}; gallery and "
            "queries come "
            "from one network."
        )
    return values


def _unit_rows(features, values: np.ndarray, which: slice | np.ndarray, who: str) -> np.ndarray:
    """Some rows as float32 of unit length. Raises ValueError at what has no direction, and at
    arrays of other length.

    Rows of a table have whatever length the network gave them; of an array that is not of unit
    length nobody knows whether cosine was meant."""
    first = which.start or 0 if isinstance(which, slice) else 0
    part = np.asarray(values[which], np.float32)
    made = unit(part, who=who, first=first)
    if not _is_table(features):
        off = np.abs(np.sqrt(np.einsum("nd,nd->n", part, part)) - 1)
        if off.max(initial=0) > LENGTH:
            i, more = int((off > LENGTH).argmax()), int((off > LENGTH).sum()) - 1
            raise ValueError(
                f"{who}: row {first + i} has length {np.linalg.norm(part[i]):.4g}, and {more} "
                "more are "
                "not of length 1; an index holds cosines. Take a table of features, or "
                "search.unit(rows)."
            )
    return made


# ---- what an index misses ----------------------------------------------------------------------


def recall(approximate: Index, exact: Index, queries, k: int) -> float:
    """Return the share of the exact k nearest rows that an approximate index finds among its k.

    Raises: ValueError: the two indexes are of different tables.
    """
    if approximate.fingerprint != exact.fingerprint:
        raise ValueError(
            f"recall compares two indexes of one table; got {approximate.fingerprint} and "
            f"{exact.fingerprint}."
        )
    found, wanted = (index.search(queries, k).rows for index in (approximate, exact))
    return float(shared(found, wanted, k).mean())
