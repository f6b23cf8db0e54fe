"""Search by example, against the sum of cosines as plain loops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import copied
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.features import PROTOCOLS, load_or_extract
from vidbench.evaluate.query import search

FAST = replace(PROTOCOLS["vidbench"], windows=2)


@pytest.fixture(scope="module")
def runs(infonce, tmp_path_factory) -> list[Run]:
    folder = copied(infonce[0], tmp_path_factory.mktemp("query") / "runs")
    return [Run(folder / stream) for stream in ("rgb", "flow")]


def loose(*files: Path) -> Manifest:
    return Manifest.from_rows("/", [(str(file), None, "test", None) for file in files])


def summed(runs: list[Run], centering: str) -> np.ndarray:
    """Scores [test,train], one pair of videos at a time."""
    total = 0.0
    for run in runs:
        gallery, queries = (load_or_extract(run, part, FAST).values for part in ("train", "test"))
        mean = {"none": (0, 0), "gallery": (gallery.mean(0), gallery.mean(0))}[centering]
        gallery, queries = gallery - mean[0], queries - mean[1]
        total = total + np.array(
            [
                [q @ g / np.linalg.norm(q) / np.linalg.norm(g) for g in gallery.astype(float)]
                for q in queries.astype(float)
            ]
        )
    return total


@pytest.mark.parametrize(
    "streams, centering, index",
    [
        ((0,), "none", "exact"),
        ((0, 1), "gallery", "exact"),
        ((0,), "gallery", "flat"),
        ((0, 1), "none", "flat"),
        ((0, 1), "gallery", "ivf_sq8"),
        ((0, 1), "gallery", "hnsw"),
    ],
)
def test_search_is_the_sorted_sum_of_cosines(runs, toy_tiny, streams, centering, index):
    chosen = [runs[i] for i in streams]
    test = toy_tiny.select(split="test")
    hits = search(chosen, test, k=4, protocol=FAST, index=index, centering=centering)
    wanted = summed(chosen, centering)
    found = np.take_along_axis(wanted, hits.neighbors.rows, axis=1)
    # 8 bits a number; else what single precision loses of features that are close to their mean
    loss = 0.02 if index == "ivf_sq8" else 1e-4
    np.testing.assert_allclose(hits.neighbors.scores, found, atol=loss)
    np.testing.assert_allclose(found, -np.sort(-wanted, axis=1)[:, :4], atol=2 * loss)
    assert hits.runs == tuple(run.folder.name for run in chosen)
    assert hits.index.partition(",")[0] == index


def test_records_name_files_and_a_known_query_finds_itself(runs, toy_tiny):
    train = toy_tiny.select(split="train")
    hits = search(runs, loose(train.absolute(3)), k=2, protocol=FAST)
    first, second = hits.records()
    file = str(train.absolute(3))
    assert first == {
        "query": file,
        "rank": 1,
        "path": file,
        "score": pytest.approx(2.0, abs=1e-4),
        "label": train.names(3)["label"],
    }
    assert second["rank"] == 2 and second["score"] < 1.99 and hits.index == "exact"


def test_a_gallery_without_labels_smaller_than_k(runs, toy_tiny, capsys):
    files = [toy_tiny.absolute(row) for row in range(4)]
    hits = search(runs[:1], loose(files[0]), loose(*files), k=9, protocol=FAST)
    assert "the gallery has 4 videos, fewer than k = 9" in capsys.readouterr().out
    assert len(hits.records()) == 4 and {line["label"] for line in hits.records()} == {""}


def test_unreadable_videos_are_left_out_of_both_sides(runs, toy_tiny, tmp_path, capsys):
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(toy_tiny.absolute(0).read_bytes()[:300])
    files = [toy_tiny.absolute(row) for row in range(4)]
    gallery = loose(files[0], torn, *files[1:])
    hits = search(runs, loose(torn, files[2]), gallery, k=1, protocol=FAST, cache=tmp_path)
    said = capsys.readouterr().out
    assert "queries: 1 of 2 videos cannot be read" in said
    assert "gallery videos: 1 of 5 videos cannot be read" in said
    assert [line["path"] for line in hits.records()] == [str(files[2])]
    assert [Path(file).name for file, _ in hits.failed] == ["torn.mp4"] * 2
    with pytest.raises(RunError, match=r"The video cannot be read. .*torn\.mp4"):
        search(runs, loose(torn), gallery, k=1, protocol=FAST, cache=tmp_path)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"k": 0}, "k counts videos from 1; got 0"),
        ({"index": "annoy"}, "index must be one of auto, exact, flat, ivf_sq8, hnsw"),
        ({"centering": "mean"}, "centering must be one of none, gallery, split"),
        ({"centering": "split"}, "leaves nothing of a single query"),
    ],
)
def test_arguments_are_checked_before_work_starts(runs, toy_tiny, wrong, says):
    with pytest.raises(ValueError, match=says):
        search(runs, loose(toy_tiny.absolute(0)), **wrong)
    with pytest.raises(RunError, match="at least one run"):
        search([], loose(toy_tiny.absolute(0)))
