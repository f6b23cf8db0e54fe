"""What ships of `make demo`: small, whole, and its numbers are those of the run that it names."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from vidbench.data.toy import world as toy
from vidbench.data.video.clips import Video
from vidbench.evaluate import projections, shipped
from vidbench.evaluate.retrieval import retrieve
from vidbench.evaluate.shipped import SHIPPED, demo_relations, demo_results

MADE = json.loads((SHIPPED / "made.json").read_text())


def test_it_is_small_and_names_who_made_it_but_no_folder():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3 * 2**20
    assert MADE["command"] == "make demo" and MADE["dirty"] is False
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", MADE["date"])
    assert re.fullmatch(r"[0-9a-f]{40}", MADE["commit"])
    assert "stopped and resumed" in MADE["note"] and MADE["seconds"]["training"] < 1
    words = [str(value) for run in MADE["runs"].values() for value in run["facts"].values()]
    assert not any("/" in word for word in words) and "host" not in MADE


def test_the_commit_that_is_said_is_in_the_repository(tmp_path):
    """The commit that ran the demo was rebased; `since` is what one can look up."""
    here = ["git", "-C", str(SHIPPED)]
    shallow = subprocess.run([*here, "rev-parse", "--is-shallow-repository"], capture_output=True)
    if shallow.returncode or shallow.stdout.strip() != b"false":
        pytest.skip("no whole git history here")
    said = re.search(r"since commit ([0-9a-f]{7})", demo_results(tmp_path).words).group(1)
    assert MADE["since"].startswith(said)
    added = [*here, "diff-tree", "--no-commit-id", "--name-status", "-r", MADE["since"]]
    files = subprocess.run(added, capture_output=True, text=True, check=True).stdout
    assert "A\tassets/demo/made.json" in files


def test_the_tables_give_the_numbers_of_the_run(tmp_path, capsys):
    results = demo_results(tmp_path)
    assert capsys.readouterr().out == f"{results.words}\n"
    assert results.words.startswith("Results shipped with vidbench, made by `make demo` on ")
    assert results.tables.keys() == set(shipped.RUNS) == results.facts.keys() == MADE["runs"].keys()
    assert results.flow == "" and len(results.manifest) == MADE["videos"] == 960
    for run, sides in results.tables.items():
        hits = retrieve(sides["train"], sides["test"], centering="gallery").hits
        for k in ("R@1", "R@5"):
            wanted = MADE["runs"][run]["numbers"][k][0]
            assert hits[k].mean() == pytest.approx(wanted, abs=0.0051), run
    assert results.facts["infonce-flow"]["stream"] == "flow"
    assert results.titles["coclr-rgb"] == "CoCLR RGB" and "purity" in results.curves["coclr-rgb"]


def test_every_clip_is_there_and_plays(tmp_path):
    results = demo_results(tmp_path)
    rows = range(len(results.manifest))
    assert all(results.manifest.absolute(row).is_file() for row in rows)
    manifests = [results.manifest, *demo_relations(tmp_path).manifests.values()]
    for manifest in manifests:
        with Video(manifest.absolute(len(manifest) // 2)) as video:
            assert video.read(np.arange(video.frames)).frames.shape[1:] == (64, 64, 3)
            assert video.frames >= 12


def test_the_relations_find_planted_pairs(tmp_path):
    related = demo_relations(tmp_path)
    assert {name for pair in related.found for name in pair} == set(related.manifests)
    one = related.found["tiny", "tiny-gym"]
    assert tuple(one.scores) == projections.READOUTS
    assert one.sources == related.manifests["tiny"].classes
    worlds = {name: name.partition("-")[2] or "base" for name in related.manifests}
    truth = {
        pair: projections.truth(toy.correspondence(), each, worlds)
        for pair, each in related.found.items()
    }
    found = projections.recovered_both_ways(related.found, truth)["behavioral", "source"]
    assert found["top-1"].mean() > 0.5 > 3 * found["top-1 by chance"].mean()


@pytest.fixture
def own(tmp_path):
    """A folder of runs with a demo whose results are the shipped ones."""
    shutil.copytree(SHIPPED, tmp_path / "demo" / "small")
    shutil.copytree(SHIPPED / "videos", tmp_path / "demo" / "videos")
    return tmp_path


def test_a_demo_of_ones_own_comes_first(own):
    results, related = demo_results(own), demo_relations(own)
    assert results.words.startswith(f"Results of your demo in {own / 'demo'}, made by `make demo`")
    assert results.manifest.root == own / "demo" / "videos"
    assert results.flow == str(own / "demo" / "flow")
    assert related.manifests["tiny"].root == own / "demo" / "small" / "worlds" / "tiny"


def test_damage_and_other_videos_are_named(own):
    table = shipped.table_path(own / "demo" / "small", "coclr-rgb", "test")
    relations = own / "demo" / "small" / shipped.RELATIONS
    relations.write_bytes(relations.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"relations.npz is not a whole file of relations"):
        demo_relations(own)
    shutil.copy(shipped.table_path(own / "demo" / "small", "coclr-rgb", "train"), table)
    with pytest.raises(ValueError, match=r"coclr-rgb-test.npz is of other videos"):
        demo_results(own)
    table.write_bytes(b"")
    with pytest.raises(ValueError, match=r"coclr-rgb-test.npz is not a whole table"):
        demo_results(own)


def test_nothing_is_unpickled(own, monkeypatch):
    calls = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: calls.append(k) or load(*a, **k))
    demo_results(own), demo_relations(own)
    assert len(calls) == 9 and all(call["allow_pickle"] is False for call in calls)


def test_without_any_results_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "assets")
    with pytest.raises(FileNotFoundError, match="Run `make demo`"):
        demo_results(tmp_path)
