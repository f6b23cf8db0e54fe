"""Many runs: parents first, complete ones skipped, a failure named, what is finished kept."""

from dataclasses import dataclass

import pytest

from tests import stages
from vidbench.batch import run_all
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError


@dataclass(frozen=True)
class Recipe:
    """Of the stage below: a regression that starts from nothing, but may wait for a parent."""

    fit: Fit = Fit(epochs=1, batch=16)
    student: str = ""
    poison: int = -1


def train(recipe: dict, folder: str, progress: str, threads: int) -> str:
    """What run_all calls: refuses to start before its parent is complete."""
    from vidbench.engine.runs import recipe_from

    made = recipe_from(Recipe, recipe)
    if made.student and Run(made.student).state != "complete":
        raise RunError("started before its parent was complete")
    return stages.regress_as("test_batch", made, made.fit, folder, poison=made.poison)


def test_parents_come_first_and_complete_runs_are_left_alone(tmp_path):
    child = Recipe(student=str(tmp_path / "a" / "parent"))
    recipes = {"a/child": child, "a/parent": Recipe(), "b": Recipe()}
    run_all(recipes, tmp_path, processes=2)
    assert all(Run(tmp_path / name).state == "complete" for name in recipes)
    before = {name: (tmp_path / name / "status.json").stat().st_mtime_ns for name in recipes}
    run_all(recipes, tmp_path, processes=2)
    assert before == {name: (tmp_path / name / "status.json").stat().st_mtime_ns for name in recipes}


def test_a_failure_is_named_and_the_same_call_goes_on(tmp_path):
    recipes = {"good": Recipe(), "bad": Recipe(poison=3, student=str(tmp_path / "good"))}
    with pytest.raises(RuntimeError, match="the run bad failed: .*the loss is nan"):
        run_all(recipes, tmp_path, processes=1)
    assert Run(tmp_path / "good").state == "complete" and Run(tmp_path / "bad").state == "failed"
    with pytest.raises(RunError, match="poison: wanted -1, found 3"):
        run_all({"bad": Recipe(student=str(tmp_path / "good"))}, tmp_path)


def test_runs_that_wait_for_one_another_are_refused(tmp_path):
    ring = {"a": Recipe(student=str(tmp_path / "b")), "b": Recipe(student=str(tmp_path / "a"))}
    with pytest.raises(ValueError, match=r"wait for one another: \['a', 'b'\]"):
        run_all(ring, tmp_path)

