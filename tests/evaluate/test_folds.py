"""Numbers of a cross-validation: means over all videos, intervals over source videos."""

import shutil

import numpy as np
import pytest

from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import folds
from vidbench.evaluate.evaluate import evaluate
from vidbench.evaluate.folds import FoldHits, pooled
from vidbench.evaluate.protocols import PROTOCOLS


def fold(root, sources, right, rows="here", task="classes"):
    """A fold's test videos, two of each source video, and what was found of them."""
    names = [(f"{source}-{n}.mp4", "a", "test", source) for source in sources for n in range(2)]
    hits = {"top-1": np.array(right), "top-5": np.ones(len(right), bool)}
    protocol = {"windows": 4, "rows": rows}
    return Manifest.from_rows(root, names, ["a", "b"]), [FoldHits(task, "rgb", hits, protocol)]


def numbered(parts):
    """The folds' manifests with source videos numbered through all of them."""
    made, first = [], 0
    for videos, found in parts:
        numbers = videos.source_video + first
        names = [str(n) for n in range(int(numbers.max()) + 1)]
        columns = (videos.root, videos.classes, videos.path, videos.label, videos.split)
        made.append((Manifest(*columns, numbers, np.array(names)), found))
        first = int(numbers.max()) + 1
    return made


def test_a_number_is_the_mean_over_all_videos_with_each_folds_own(tmp_path):
    parts = numbered(
        [
            fold(tmp_path, "pqr", [True, True, True, True, False, False], "1"),
            fold(tmp_path, "st", [False, False, False, True], "2"),
        ]
    )
    videos, found = zip(*parts, strict=True)
    top1, top5 = pooled(found, videos, "2 by source video, seed 0")
    assert (top1.metric, top1.value, top1.each) == ("top-1", 0.5, (4 / 6, 1 / 4))
    assert (top1.videos, top1.source_videos) == (10, 5)
    assert (top5.value, top5.low, top5.high) == (1.0, 1.0, 1.0)
    assert top1.protocol == {"windows": 4, "folds": "2 by source video, seed 0"}
    assert str(top1).startswith("rgb classes top-1 50.0% [")
    assert str(top1).endswith("of 10 videos from 5 source videos; folds 66.7, 25.0")


def test_the_interval_draws_whole_source_videos(tmp_path):
    """Source videos that are right or wrong as a whole leave more room than single videos do."""
    right = np.repeat([True, False, True, False, True, False], 2)
    parts = numbered([fold(tmp_path, "abcdef", right), fold(tmp_path, "ghijkl", right)])
    videos, found = zip(*parts, strict=True)
    top1 = pooled(found, videos, "")[0]
    deviation = np.sqrt(0.25 / 12)  # of twelve source videos, not of 24 videos
    assert abs((top1.high - top1.low) / (2 * 1.96 * deviation) - 1) < 0.2


def test_folds_that_share_videos_or_differ_are_refused(tmp_path):
    one = fold(tmp_path, "ab", [True] * 4)
    with pytest.raises(ValueError, match="tested in one fold; some are in several"):
        pooled([one[1], one[1]], [one[0], one[0]], "")
    other = fold(tmp_path, "cd", [True] * 4, task="probe")
    videos, found = zip(*numbered([one, other]), strict=True)
    with pytest.raises(ValueError, match="the folds were measured differently"):
        pooled(found, videos, "")


@pytest.mark.slow
def test_runs_without_classifier_are_tested_by_retrieval_and_probe(front_door, tmp_path):
    """Each stream and both together; the fixture's runs are copied, since tests are kept in them."""
    runs = {}
    for stream, one in front_door[1].streams.items():
        copy = shutil.copytree(one.run.folder, tmp_path / one.run.folder.name)
        runs[stream] = Run(copy)
    found = folds.tested(runs, "one_view", PROTOCOLS["one_view"])
    kinds = [(one.task, one.stream) for one in found]
    streams = ("rgb", "flow", "rgb+flow")
    assert kinds == [(task, stream) for stream in streams for task in ("retrieval", "probe")]
    videos = folds.tested_videos(runs["rgb"])
    numbers = pooled([found], [videos], "the data set's own split")
    assert {one.videos for one in numbers} == {len(videos)}
    assert [one.metric for one in numbers][:4] == ["R@1", "R@5", "R@10", "top-1"]
    recall = evaluate(runs["rgb"].folder, "test", PROTOCOLS["one_view"]).numbers["R@1"]
    assert (numbers[0].value, numbers[0].low, numbers[0].high) == recall
