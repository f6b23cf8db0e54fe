"""Runs that a notebook needs: loaded, resumed, trained on tiny worlds, or named as missing."""

import pytest

from tests import copied
from vidbench.engine.recipes import RunError
from vidbench.experiments import ready


@pytest.fixture
def place(tmp_path, toy_tiny, toy_flow):
    """The folder of the world `tiny`, with its flow."""
    copied(toy_tiny.root, tmp_path / "tiny" / "videos")
    copied(toy_flow, tmp_path / "tiny" / "flow")
    return tmp_path / "tiny"


def test_complete_runs_are_loaded_whatever_their_recipe(place, infonce):
    copied(infonce[0] / "rgb", place / "infonce-rgb")
    (place / "videos" / "toy.json").unlink()  # so nothing may be trained
    found = ready.ready_runs(place, "infonce-rgb", "")
    assert [*found] == ["infonce-rgb"] and found["infonce-rgb"].state == "complete"
    other = str(place / "infonce-rgb")
    assert ready.ready_runs(place, other)[other].folder == place / "infonce-rgb"


def test_missing_runs_of_a_tiny_world_are_trained_with_what_they_need(place, monkeypatch):
    monkeypatch.setattr(ready, "EPOCHS", 0)
    found = ready.ready_runs(place, "coclr-flow", "infonce-rgb")
    assert [one.state for one in found.values()] == ["complete"] * 2
    names = sorted(path.parent.name for path in place.glob("*/recipe.json"))
    assert names == ["coclr-flow", "coclr-rgb", "infonce-flow", "infonce-rgb"]
    recipe = found["coclr-flow"].recipe
    assert recipe.positives == "mined" and recipe.needs == (
        str(place / "infonce-flow"),
        str(place / "coclr-rgb"),
    )
    chosen = ready.choose_cycle(place.parent, "tiny", 1, "auto", "coclr-flow", "auto")
    assert chosen == ("infonce-flow", "coclr-flow", "coclr-rgb")
    chosen = ready.choose_cycle(place.parent, "tiny", 1, "auto", "auto", "mine")
    assert chosen == ("infonce-rgb", "coclr-rgb", "mine")


def test_a_tiny_run_that_was_interrupted_is_resumed_with_its_own_recipe(place, monkeypatch):
    monkeypatch.setattr(ready, "EPOCHS", 0)
    run = ready.ready_runs(place, "infonce-rgb")["infonce-rgb"]
    run.status("interrupted")
    monkeypatch.setattr(ready, "EPOCHS", 9)  # of a run that is missing, which this is not
    again = ready.ready_runs(place, "infonce-rgb")["infonce-rgb"]
    assert again.state == "complete" and again.epochs == 0


def test_what_is_missing_is_named_with_what_is_there_and_what_trains_it(place, infonce):
    copied(infonce[0] / "rgb", place / "infonce-rgb")
    with pytest.raises(RunError, match=r"other is missing; .*tiny has infonce-rgb\. Train it and"):
        ready.ready_runs(place, "other")
    (place / "videos" / "toy.json").unlink()
    with pytest.raises(RunError, match="coclr-rgb is missing.*the notebook 11_coclr_together"):
        ready.ready_runs(place, "coclr-rgb")
    for file in (place / "infonce-rgb" / "checkpoints").iterdir():
        file.rename(place / file.name)
    with pytest.raises(RunError, match="infonce-rgb has no checkpoint yet"):
        ready.ready_runs(place, "infonce-rgb")


def test_runs_that_exist_replace_missing_defaults(tmp_path, infonce, capsys):
    def chosen(data: str, first: str = "auto", second: str = "auto") -> tuple[str, ...]:
        given = {"infonce-rgb": first, "coclr-rgb": second}
        return ready.choose_runs(tmp_path, data, 1, given)

    assert chosen("demo") == chosen("tiny") == ("infonce-rgb", "coclr-rgb")
    assert chosen("mine") == ("infonce-rgb", ""), "whose error names what is there"
    copied(infonce[0] / "flow", tmp_path / "mine" / "a-flow")
    capsys.readouterr()
    assert chosen("mine") == ("a-flow", "")
    assert capsys.readouterr().out.splitlines() == [
        "infonce-rgb is missing; using a-flow instead",
        "coclr-rgb is missing; using no run instead",
    ]
    copied(infonce[0] / "rgb", tmp_path / "mine" / "infonce-rgb-seed1")
    assert chosen("mine") == ("infonce-rgb-seed1", "a-flow")
    assert chosen("mine", "a-flow") == ("a-flow", "infonce-rgb-seed1")
    assert chosen("mine", "missing", "") == ("missing", ""), "a name that is given stays"
    cycle = ready.choose_cycle(tmp_path, "mine", 1, "auto", "auto", "auto")
    assert cycle == ("infonce-rgb", "coclr-rgb", "infonce-flow"), "no run was co-trained"
    broken = tmp_path / "mine" / "a-flow" / "recipe.json"
    broken.unlink()  # a hard link to a run that tests share
    broken.write_text("{")
    assert chosen("mine") == ("infonce-rgb-seed1", ""), "a broken run is left out"


def test_a_joint_run_is_of_the_worlds_in_the_folders_name(place):
    """The second world is a copy: only names and folders count."""
    copied(place, place.parent / "tiny-gym")
    joint = place.parent / "tiny+tiny-gym"
    worlds = ready.tiny_worlds(joint)
    assert [*worlds] == ["tiny", "tiny-gym"]
    recipe = ready._recipe(joint, "multitrain", worlds)
    assert [part.name for part in recipe.parts] == ["tiny", "tiny-gym"] and not recipe.needs
    (place.parent / "tiny-gym" / "videos" / "toy.json").unlink()
    assert ready.tiny_worlds(joint) == {}
    with pytest.raises(RunError, match="multitrain is missing.*no runs.*30_multitrain"):
        ready.ready_runs(joint, "multitrain")
