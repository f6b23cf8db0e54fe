"""Several searches of one gallery: numbers, differences, results that are kept."""

import numpy as np
import pytest

from tests import copied
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes, searches
from vidbench.evaluate.tables import Features

LABEL = np.repeat(np.arange(3), 6)


def tables(noise: float, labels: bool = True, seed: int = 0):
    """A gallery and queries of three classes, better separated with less noise."""
    rng, made = np.random.default_rng(seed), []
    for side in range(2):
        values = np.eye(3)[LABEL] + noise * rng.standard_normal((18, 3))
        label = LABEL if labels else np.full(18, -1)
        source = np.arange(18) // 3 + 100 * side
        protocol = {"stream": "rgb", "windows": 4, "rows": f"side {side}"}
        classes = ("a", "b", "c") if labels else ()
        made.append(Features(values.astype(np.float32), label, source, classes, protocol))
    return tuple(made)


def test_searches_differ_query_by_query():
    found = searches.search_all({"good": tables(0.01), "bad": tables(9.0)})
    assert found["good"].numbers["R@1"][0] == 1.0 > found["bad"].numbers["R@1"][0]
    assert found["good"].protocol["centering"] == "gallery"
    gaps = searches.differences(found, "bad")
    assert [*gaps] == ["good"] and gaps["good"]["R@1"][0] == pytest.approx(
        1 - found["bad"].numbers["R@1"][0]
    )
    assert gaps["good"]["R@1"][1] > 0


def test_both_streams_are_searched_together_and_kept_with_the_first(infonce, toy_tiny, tmp_path):
    folder = copied(infonce[0], tmp_path / "runs")
    trained = {name: Run(folder / name) for name in ("rgb", "flow")}
    some = toy_tiny.select(mask=toy_tiny.label < 2)
    flow = trained["flow"].recipe.flow
    made = searches.tables_of(trained, some, "test", flow=flow)
    assert [*made] == ["rgb", "flow", searches.BOTH] and len(made[searches.BOTH][0]) == 2
    assert searches.BOTH not in searches.tables_of(trained, some, "test", flow=flow, fuse=False)
    found = searches.search_all(made)
    queries = some.select(split="test")
    assert searches.keep(found, trained, queries, "tiny") == ["rgb", "flow"]
    for outcome, name in zip(outcomes.read(folder / "rgb"), ("rgb", searches.BOTH), strict=True):
        assert np.array_equal(outcome.hits["R@1"], found[name].hits["R@1"])
        assert np.array_equal(outcome.predicted == queries.label, outcome.hits["R@1"])
    kept = [one.protocol.get("fused_with") for one in trained["rgb"].results().values()]
    assert kept == [None, "flow"]
    (one,) = trained["flow"].results().values()
    assert one.protocol["data"] == "tiny" and {"R@1", "macro R@1"} <= set(one.numbers)


def test_without_labels_nothing_is_counted_or_kept(infonce, tmp_path):
    run = Run(copied(infonce[0] / "rgb", tmp_path / "rgb"))
    found = searches.search_all({"rgb": tables(1.0, labels=False)})
    assert found["rgb"].hits == {} and found["rgb"].neighbors.rows.shape[0] == 18
    assert searches.keep(found, {"rgb": run}, None, "own") == [] and run.results() == {}
