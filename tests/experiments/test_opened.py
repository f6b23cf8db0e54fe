"""Runs opened for a look: from the demo's results, or from runs of your own."""

import shutil

import pytest

from tests import copied
from vidbench.engine.runs import Run
from vidbench.evaluate import searches
from vidbench.evaluate.shipped import SHIPPED
from vidbench.experiments import opened


def test_runs_of_your_own_come_with_features_facts_and_curves(
    toy_tiny, toy_flow, infonce, tmp_path
):
    copied(toy_tiny.root, tmp_path / "tiny" / "videos")
    copied(toy_flow, tmp_path / "tiny" / "flow")
    for stream in ("rgb", "flow"):
        copied(infonce[0] / stream, tmp_path / "tiny" / f"infonce-{stream}")
    names = ("infonce-rgb", "infonce-flow", "")
    found = opened.open_runs(tmp_path, "tiny", names)
    assert [*found.tables] == ["infonce-rgb", "infonce-flow", searches.BOTH]
    assert [row["stream"] for row in found.rows] == ["rgb", "flow"] and found.iterations > 0
    assert [*found.runs] == ["infonce-rgb", "infonce-flow"] and found.curves["infonce-rgb"]["loss"]
    assert (len(found.train), len(found.queries)) == (216, 72)
    lines = searches.difference_lines(searches.search_all(found.tables), "infonce-rgb", 10)
    first, second = lines.splitlines()
    assert first.startswith("infonce-flow - infonce-rgb = ") and "points R@1 [" in first
    assert second.startswith("both streams - infonce-rgb = ")


def test_the_demo_names_what_it_has_not(tmp_path):
    for changed, says in (
        ({"names": ["other"]}, "run of the demo's results must be one of infonce-rgb"),
        ({"split": "validate"}, "split of the demo's results must be one of train, test"),
        ({"protocol": "iic"}, "protocol of the demo's results must be one of vidbench"),
    ):
        given = {"names": ["coclr-rgb"], **changed}
        with pytest.raises(ValueError, match=says):
            opened.open_runs(tmp_path, "demo", given.pop("names"), **given)


def test_the_demo_shows_coclr_working(tmp_path, capsys):
    found = opened.open_runs(tmp_path, "demo", ("infonce-rgb-long", "coclr-rgb"))
    assert "Results shipped with vidbench" in capsys.readouterr().out
    assert not found.runs and not found.folders
    done = searches.search_all(found.tables)
    gain = searches.difference_lines(done, "infonce-rgb-long")
    assert gain.startswith("coclr-rgb - infonce-rgb-long = +") and gain.endswith("significant.")
    assert searches.keep(done, found.runs, found.queries, "demo") == []


def test_a_demo_of_your_own_has_networks_to_search_with(infonce, tmp_path, capsys):
    shutil.copytree(SHIPPED, tmp_path / "demo" / "small")
    shutil.copytree(SHIPPED / "videos", tmp_path / "demo" / "videos")
    copied(infonce[0] / "rgb", tmp_path / "demo" / "runs" / "infonce-rgb")
    found = opened.open_runs(tmp_path, "demo", ("infonce-rgb", "coclr-rgb"))
    assert "Results of your demo" in capsys.readouterr().out
    assert found.folders == {"infonce-rgb": tmp_path / "demo" / "runs" / "infonce-rgb"}
    assert Run(found.folders["infonce-rgb"]).state == "complete"


def test_the_demos_relations_come_with_videos(tmp_path):
    found, videos = opened.open_relations(tmp_path, ["demo"], "multitrain", "train")
    assert set(videos) == {name for pair in found for name in pair}
    assert all(len(one) for one in videos.values())
