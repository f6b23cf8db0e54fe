"""Indexes against plain loops: what approximate ones find, files, mapped ones, the protocol of a
number."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vidbench.evaluate import indexes, retrieval, search
from vidbench.evaluate.features import Features
from vidbench.evaluate.indexes import build, fingerprint, load, recall

BOUND = {"flat": 1.0, "ivf_sq8": 0.95, "hnsw": 0.97}  # recall@10 of 4,000 clustered rows of 48


def clustered(rows, seed, width=48, clusters=40):
    """Unit rows around centers that are the same for each seed."""
    centers = np.random.default_rng(0).normal(0, 1, (clusters, width))
    rng = np.random.default_rng(seed)
    return search.unit(
        centers[rng.integers(0, clusters, rows)] + 0.5 * rng.normal(0, 1, (rows, width))
    )


def plain(gallery, queries, k):
    """The k nearest of each query: a sort of all cosines in double precision, equal ones in the
    gallery's order."""
    cosines = queries.astype(np.float64) @ gallery.astype(np.float64).T
    return [sorted(range(len(gallery)), key=lambda j, row=row: (-row[j], j))[:k] for row in cosines]


def table(values, label=None, rows="a"):
    label = np.arange(len(values)) % 3 if label is None else label
    return Features(
        np.asarray(values, np.float32),
        label,
        np.arange(len(values)),
        ("a", "b", "c"),
        {"rows": rows},
    )


@pytest.fixture(scope="module")
def made():
    """Rows, queries, and an index of each kind."""
    gallery, queries = clustered(4000, 1), clustered(100, 2)
    return gallery, queries, {kind: build(gallery, kind, seed=3) for kind in indexes.KINDS}


@pytest.mark.parametrize("kind", indexes.KINDS)
def test_each_kind_finds_what_a_full_sort_finds(made, kind):
    gallery, queries, built = made
    wanted, found = plain(gallery, queries, 10), built[kind].search(queries, 10)
    share = np.mean(
        [
            len(set(one) & set(two.tolist())) / 10
            for one, two in zip(wanted, found.rows, strict=True)
        ]
    )
    assert share >= BOUND[kind]
    assert recall(built[kind], built["flat"], queries, 10) == pytest.approx(share)
    cosines = np.einsum("qkd,qd->qk", gallery[found.rows], queries)
    np.testing.assert_allclose(found.scores, cosines, atol=5e-3 if kind == "ivf_sq8" else 1e-5)
    assert (np.diff(found.scores) <= 0).all()
    if kind == "flat":
        assert found.rows.tolist() == wanted


def test_effort_buys_recall_and_the_bound_can_be_missed(made):
    _, queries, built = made
    for kind in ("ivf_sq8", "hnsw"):
        least = recall(replace(built[kind], effort=1), built["flat"], queries, 10)
        assert least < BOUND[kind] <= recall(built[kind], built["flat"], queries, 10)
    every = replace(built["ivf_sq8"], effort=10_000)  # all lists: what is left are the eight bits
    assert recall(every, built["flat"], queries, 10) >= recall(
        built["ivf_sq8"], built["flat"], queries, 10
    )


def test_rows_and_seed_alone_make_the_index(made):
    import faiss

    gallery, _, built = made
    before = faiss.omp_get_max_threads()
    for kind in ("ivf_sq8", "hnsw"):
        faiss.omp_set_num_threads(before + 1)
        again, other = build(gallery.copy(), kind, seed=3), build(gallery, kind, seed=4)
        assert faiss.omp_get_max_threads() == before + 1
        faiss.omp_set_num_threads(before)
        first, second, third = (
            faiss.serialize_index(one.held) for one in (built[kind], again, other)
        )
        assert np.array_equal(first, second) and not np.array_equal(first, third)


def test_auto_goes_by_the_number_of_rows(monkeypatch):
    monkeypatch.setattr(indexes, "FLAT_TO", 100)
    assert [build(clustered(rows, 1), "auto").kind for rows in (100, 101)] == ["flat", "ivf_sq8"]


def test_blocks_and_float_types_make_no_other_index(tmp_path, monkeypatch):
    gallery, queries = clustered(300, 1).astype(np.float16), clustered(9, 2)
    whole = build(gallery)
    np.save(tmp_path / "rows.npy", gallery)
    monkeypatch.setattr(indexes, "BLOCK", 7)
    parted = build(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert np.array_equal(parted.search(queries, 5).rows, whole.search(queries, 5).rows)
    assert (
        whole.fingerprint
        == parted.fingerprint
        == fingerprint(gallery)
        == fingerprint(gallery.astype(np.float64))
    )


def test_equal_rows_stand_in_order_and_a_short_list_is_filled():
    rng = np.random.default_rng(0)
    some = search.unit(rng.normal(0, 1, (3, 8)))
    gallery = np.repeat(some, 60, axis=0)  # a list, and a part of a graph, that only copies are in
    for kind in indexes.KINDS:
        index = replace(build(gallery, kind), effort=1)
        found = index.search(some, 180)
        for rows, query in zip(found.rows, some, strict=True):
            assert sorted(rows.tolist()) == list(range(180))
            nearest = int((some @ query).argmax())
            assert rows[:60].tolist() == list(range(60 * nearest, 60 * nearest + 60))


@pytest.mark.parametrize("kind", indexes.KINDS)
@pytest.mark.parametrize("mapped", [True, False])
def test_a_saved_index_finds_the_same(made, kind, mapped, tmp_path):
    gallery, queries, built = made
    built[kind].save(str(tmp_path / "x.faiss"))
    found = load(tmp_path / "x.faiss", mapped=mapped, features=gallery)
    assert (
        replace(found, held=None) == replace(built[kind], held=None)
        and found.words == built[kind].words
    )
    for count in (1, 100):  # faiss goes another way for many queries
        one, two = found.search(queries[:count], 10), built[kind].search(queries[:count], 10)
        assert np.array_equal(one.rows, two.rows) and np.array_equal(one.scores, two.scores)
    found.save(tmp_path / "x.faiss")  # over the file that it is read from
    assert np.array_equal(found.search(queries, 10).rows, built[kind].search(queries, 10).rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.faiss", "x.faiss.json"]
    facts = json.loads((tmp_path / "x.faiss.json").read_text())
    assert facts["metric"] == "cosine" and (facts["kind"], facts["rows"], facts["width"]) == (
        kind,
        4000,
        48,
    )


OPENED = """
import sys
from vidbench.evaluate import indexes
import faiss

def allocated():  # without pages of files, which the kernel takes back when it needs
    with open("/proc/self/status") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmSwap")))

held = []
for path in sys.argv[1:]:
    for mapped in (True, False):
        before = allocated()
        held.append(indexes.load(path, mapped=mapped))
        print(allocated() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_opening_a_mapped_index_costs_no_memory(tmp_path):
    for kind, rows in (("flat", 8000), ("ivf_sq8", 24_000), ("hnsw", 3000)):
        build(clustered(rows, 1, width=512), kind).save(tmp_path / kind)
    said = subprocess.run(
        [sys.executable, "-c", OPENED, *(tmp_path / kind for kind in indexes.KINDS)],
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        # Each array has its own mapping, so none fits into memory that an import has freed.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_MMAP_MAX_": "100000"},
    ).stdout
    grown = np.array(said.split(), int).reshape(3, 2)  # kB: mapped, read
    for kind, (mapped, read) in zip(indexes.KINDS, grown, strict=True):
        size = (tmp_path / kind).stat().st_size / 1024
        assert size > 6000 and mapped < 0.3 * size < 0.8 * size < read, kind


def test_a_number_from_an_index_says_so():
    rng = np.random.default_rng(5)
    gallery, queries = (
        table(5 * rng.normal(0, 1, (200, 16))),
        table(3 * rng.normal(0, 1, (20, 16)), rows="b"),
    )
    index = build(gallery)
    by_index = retrieval.retrieve(gallery, queries, index=index)
    exactly = retrieval.retrieve(gallery, queries)
    assert np.array_equal(by_index.neighbors.rows, exactly.neighbors.rows)
    assert np.array_equal(by_index.hits["R@5"], exactly.hits["R@5"])
    said = retrieval.protocol_of(gallery, queries)
    assert "index" not in said and retrieval.protocol_of(gallery, queries, index=index) == {
        **said,
        "index": "flat",
    }
    for kind, words in (
        ("ivf_sq8", "ivf_sq8, 5 lists, 5 probes, seed 7"),
        ("hnsw", "hnsw, 32 links, ef 64, seed 7"),
    ):
        assert (
            retrieval.protocol_of(gallery, queries, index=build(gallery, kind, seed=7))["index"]
            == words
        )
    less = replace(build(gallery, "ivf_sq8", seed=7), effort=1)
    assert "1 probes" in retrieval.protocol_of(gallery, queries, index=less)["index"]
    assert not np.array_equal(
        retrieval.retrieve(gallery, queries, index=less).neighbors.rows, exactly.neighbors.rows
    )
    for switches in ({"centering": "gallery"}, {"exclude_source_video": True}):
        with pytest.raises(ValueError, match="an index holds one stream's cosines as they are"):
            retrieval.retrieve(gallery, queries, index=index, **switches)
    with pytest.raises(ValueError, match="got 2 streams"):
        retrieval.retrieve([gallery] * 2, [queries] * 2, index=index)
    trained = replace(gallery, values=gallery.values + 1)  # the same videos, another run
    with pytest.raises(ValueError, match="these features are"):
        retrieval.retrieve(trained, queries, index=index)


def test_what_tells_tables_apart():
    one = table(np.eye(4))
    others = [
        table(np.eye(4), rows="b"),
        table(np.eye(4)[::-1]),
        table(2 * np.eye(4)),
        table(np.eye(4)[:3]),
    ]
    assert len({fingerprint(each) for each in (one, *others)}) == 5
    assert fingerprint(one) == fingerprint(table(np.eye(4)))


def test_rows_that_would_give_a_false_number_are_refused(monkeypatch):
    good = clustered(40, 1)
    index = build(good)
    monkeypatch.setattr(indexes, "BLOCK", 16)
    for value, says in (
        (np.nan, "row 37 contains NaN or infinity, and 0 more"),
        (0.0, "row 37 is zero, so"),
        (0.5, "row 37 has length 3.464, and 0 more are not of length 1"),
    ):
        bad = good.copy()
        bad[37] = value
        for kind in indexes.KINDS:
            with pytest.raises(ValueError, match=f"features: {says}"):
                build(bad, kind)
        with pytest.raises(ValueError, match=f"queries: {says}"):
            index.search(bad, 1)
    found = build(table(7 * good)).search(
        table(3 * good), 1
    )  # a table's rows are brought to unit length
    assert found.rows[:, 0].tolist() == list(range(40)) and np.allclose(found.scores, 1)
    for wrong in (np.eye(47), good[0], good[None]):
        with pytest.raises(ValueError, match=r"queries: wanted rows \[N,48\], got"):
            index.search(wrong, 1)
    for wrong in (good[0], np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match=r"features: wanted rows \[N,D\]"):
            build(wrong)
    for k in (0, 41):
        with pytest.raises(
            ValueError, match=f"the index has 40 rows; wanted k from 1 to that, got {k}"
        ):
            index.search(good, k)
    for arguments, says in (
        ((good, "pq"), "kind is auto or one of flat, ivf_sq8, hnsw; got 'pq'"),
        ((good[:0],), r"at least one row with at least one number; got \[0,48\]"),
    ):
        with pytest.raises(ValueError, match=says):
            build(*arguments)
    for other in (good[1:], good[::-1]):
        with pytest.raises(ValueError, match="two indexes of one table; got"):
            recall(index, build(other), good, 1)


def test_an_index_is_built_once_for_each_table_and_kind(tmp_path, monkeypatch):
    gallery, made = table(clustered(300, 1)), []
    monkeypatch.setattr(indexes, "build", lambda *given: made.append(given[1]) or build(*given))
    folder = tmp_path / "features"
    for kind in ("flat", "hnsw", "flat"):
        index = indexes.load_or_build(gallery, kind, folder)
        index.check(gallery)
        assert index.kind == kind
    assert made == ["flat", "hnsw"]
    other = table(clustered(300, 2))  # as after more training
    indexes.load_or_build(other, "flat", folder).check(other)
    for side in folder.glob("hnsw*.json"):
        side.unlink()  # a writing that was cut off
    indexes.load_or_build(gallery, "hnsw", folder)
    assert made == ["flat", "hnsw", "flat", "hnsw"]
    with pytest.raises(ValueError, match="kind is auto or one of"):
        indexes.load_or_build(gallery, "exact", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    good, path = clustered(40, 1), tmp_path / "x.faiss"
    side = tmp_path / "x.faiss.json"

    def says(text, **arguments):
        with pytest.raises(ValueError, match=text):
            load(path, **arguments)

    says("x.faiss is not there; an index is two files")
    build(good).save(path)
    says("the index is of the table 40x48-.*, these features are 39x48-", features=good[1:])
    facts = json.loads(side.read_text())
    path.write_bytes(path.read_bytes()[:-4])
    says("it was cut off, or is another file")
    path.write_bytes(b"\0" * facts["bytes"])
    says("its bytes do not have the digest")
    side.write_text(json.dumps({**facts, "digest": hashlib.sha256(path.read_bytes()).hexdigest()}))
    says("faiss cannot read")
    build(clustered(48, 1, width=40)).save(path)  # as many bytes
    digest = json.loads(side.read_text())["digest"]
    side.write_text(json.dumps({**facts, "digest": digest}))
    says(
        "holds flat, 48 rows of 40; x.faiss.json says flat, 40 rows of 48. It is another index's "
        "file"
    )
    side.write_text(json.dumps({**facts, "format": 0}))
    says("describes format 0, kind 'flat'; wanted format 2")
    side.write_text(json.dumps({**facts, "rows": "40"}))
    says("rows is '40', wanted int")
    side.write_text("[]")
    says("describes format None")
    side.write_text('{"format": 2')
    says("x.faiss.json is damaged")
    side.unlink()
    says("x.faiss.json is not there")


@pytest.mark.parametrize("kind", indexes.KINDS)
def test_a_damaged_index_is_refused_before_faiss_reads_it_and_built_again(
    tmp_path, monkeypatch, capsys, kind
):
    import faiss

    gallery = table(clustered(300, 1))
    indexes.load_or_build(gallery, kind, tmp_path)
    (path,) = tmp_path.glob("*.faiss")
    data = bytearray(path.read_bytes())
    data[12:20] = b"\xff" * 8  # a number of rows
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss reads it"))
        with pytest.raises(ValueError, match="do not have the digest"):
            load(path)
    indexes.load_or_build(gallery, kind, tmp_path).check(gallery)
    assert "It is built again now." in capsys.readouterr().out


def test_a_writing_that_fails_leaves_the_old_index(tmp_path, monkeypatch):
    import faiss

    good, path = clustered(40, 1), tmp_path / "x.faiss"
    build(good).save(path)

    def full(held, name):
        open(name, "wb").write(b"some")
        raise RuntimeError("no space left")

    monkeypatch.setattr(indexes.json, "dumps", lambda *_, **__: full(None, tmp_path / "other"))
    with pytest.raises(RuntimeError, match="no space left"):
        build(good[::-1]).save(
            path
        )  # cut off between the two files: the old JSON must not vouch for the new rows
    with pytest.raises(ValueError, match="x.faiss.json is not there"):
        load(path)
    monkeypatch.undo()
    (tmp_path / "other").unlink()
    build(good).save(path)
    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OSError, match="faiss could not write the index: no space left"):
        build(good[:9]).save(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.faiss", "x.faiss.json"]
    assert load(path, features=good).rows == 40
