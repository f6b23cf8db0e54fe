"""Runs on disk: a line for each, one whole, two compared, and which of them others need."""

import pytest

from tests.evaluate.test_results import measured, trained
from vidbench.engine.runs import RunError
from vidbench.evaluate import inventory


def test_each_run_is_listed_once_broken_ones_too(tmp_path):
    run = measured(tmp_path / "tiny/rgb")
    run.add_result("retrieval", {"stream": "rgb", "windows": 10}, {"R@1": 0.75})
    dead = trained(tmp_path / "tiny/dead", steps=8, state="running")
    with trained(tmp_path / "tiny/runs", state="running").lock():
        broken = trained(tmp_path / "tiny/broken").folder
        (broken / "recipe.json").write_text("{")
        found = {entry.run: entry for entry in inventory.entries(tmp_path)}
    assert list(found) == ["tiny/broken", "tiny/dead", "tiny/rgb", "tiny/runs"]
    states = [entry.state for entry in found.values()]
    assert states == ["", "died", "complete", "running"]
    assert "recipe.json" in found["tiny/broken"].problems[0]
    best, one = found["tiny/rgb"].best, found["tiny/rgb"]
    assert best and (best.metric, best.value) == ("R@1", 0.75)
    assert (one.method, one.stream, one.epochs, one.problems) == ("coclr", "rgb", 2.5, ())
    assert one.time and one.bytes > 500 and one.folder == str(run.folder)
    assert found["tiny/dead"].epochs == 0.5 and found["tiny/dead"].best is None
    assert dead.state == "running", "looking changes nothing"


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder: .*nowhere"):
        inventory.entries(tmp_path / "nowhere")
    assert inventory.entries(tmp_path) == []


def test_one_run_whole(tmp_path):
    run = measured(tmp_path / "tiny/rgb")
    found = inventory.details(run.folder)
    assert found.entry == inventory.entries(run.folder)[0] and found.entry.run == "rgb"
    assert found.recipe["fit"]["batch"] == 16 and found.budget["iterations"] == 40
    assert [number.metric for number in found.numbers] == ["R@1", "R@5"]
    assert "torch" in found.environment["versions"]
    (run.folder / "environment.json").write_text("[")
    assert "environment.json" in inventory.details(run.folder).entry.problems[0]


def test_two_runs_compared(tmp_path):
    one = measured(tmp_path / "tiny/rgb").folder
    other = measured(tmp_path / "tiny/flow", fields={"stream": "flow"}, windows=10).folder
    found = inventory.compare(one, other)
    assert found.recipe == [("stream", "rgb", "flow")]
    measured_in = [(pair.one is not None, pair.other is not None) for pair in found.results]
    assert measured_in == [(False, True)] * 2 + [(True, False)] * 2, "two protocols, two metrics"
    same = inventory.compare(one, one)
    assert same.recipe == [] and all(pair.one == pair.other for pair in same.results)


def test_a_folder_of_runs_names_them(tmp_path):
    for name in "abcdefg":
        trained(tmp_path / "all" / name)
    with pytest.raises(RunError, match="contains 7 of them. Name one: .*/all/a, .* and 2 more"):
        inventory.run_directory(tmp_path / "all")
    with pytest.raises(RunError, match="does not exist"):
        inventory.details(tmp_path / "none")
    with pytest.raises(RunError, match="no recipe.json"):
        inventory.details(tmp_path / "all/a/checkpoints")


def test_runs_that_others_need_are_found_below_the_folder_of_all_runs(tmp_path):
    alone = trained(tmp_path / "runs/tiny/coclr/rgb").folder
    user = trained(tmp_path / "runs/tiny/tuned", student=str(alone)).folder
    assert inventory.users([alone]) == {str(alone): [str(user)]}
    assert inventory.users([user]) == {} and inventory.users([alone, user]) == {}
    assert inventory.users([alone], alone.parent) == {}, "looked through another folder"
    moved = tmp_path / "elsewhere/rgb"
    moved.parent.mkdir()
    alone.rename(moved)
    near = trained(tmp_path / "elsewhere/tuned", student="elsewhere/rgb").folder
    assert inventory.users([moved]) == {str(moved): [str(near)]}


def test_nothing_is_deleted_if_one_of_several_cannot_be(tmp_path):
    one, other = (trained(tmp_path / name) for name in ("one", "other"))
    with other.lock(), pytest.raises(RunError, match="other cannot be deleted"):
        inventory.delete([one.folder, other.folder])
    with pytest.raises(RunError, match="does not exist"):
        inventory.delete([one.folder, tmp_path / "none"])
    assert one.state == "complete"
    done = inventory.delete([one.folder, other.folder])
    assert [deleted.folder for deleted in done] == [str(one.folder), str(other.folder)]
    assert list(tmp_path.iterdir()) == []
