"""A fourth method needs one module: SimCLR is trained, evaluated and shown by code that does not know
it, and a run directory cannot choose what is imported."""

import json
import sys
from dataclasses import replace

import pytest

from tests.examples import mymethod as simclr
from vidbench.data.loading.augmentation import PRESETS
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate import results
from vidbench.evaluate.evaluate import evaluate
from vidbench.evaluate.features import Protocol, predict
from vidbench.view.results import inventory, results_tables


def test_simclr_is_trained_evaluated_and_shown(toy_tiny, tmp_path):
    toy_tiny.select(mask=toy_tiny.label < 3).save(tmp_path / "videos")
    recipe = simclr.Recipe(
        network_args={"width": 0.125, "units": (1, 0, 0)},
        fit=Fit(epochs=1, batch=18),
        manifest=str(tmp_path / "videos"),
    )
    recipe = replace(
        recipe, clip=replace(recipe.clip, frames=4, augment=replace(PRESETS["toy"], size=32))
    )
    folder = tmp_path / "runs" / "simclr"
    simclr.train(recipe_dict(recipe), str(folder), "none")
    run = Run(folder)
    assert (run.method, run.state, run.recipe) == ("simclr", "complete", recipe)
    assert run.metrics()[-1]["step"] == 3 and run.budget()["clips"] == 54
    found = evaluate(folder, "test", Protocol(windows=1))
    assert {"R@1", "R@5", "probe"} <= set(found.numbers)
    folders = results.collect(tmp_path / "runs")
    assert [(one.method, one.problems) for one in folders] == [("simclr", ())]
    assert "simclr" in inventory(folders)
    assert "R@1" in results_tables(results.numbers_of(folders))
    with pytest.raises(RunError, match="a run of simclr, without a classifier"):
        predict(run, toy_tiny)


@pytest.mark.parametrize(
    "name", ["tests.evil", "antigravity", "common", "monitor", "..engine.runs", "coclr.x", ""]
)
def test_a_run_directory_cannot_choose_what_is_imported(name, tmp_path):
    held = {"method": name, "recipe": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(held))
    with pytest.raises(RunError, match=r"must be one of .*classify, coclr, .*; got") as raised:
        _ = Run(tmp_path).recipe
    assert "common" not in str(raised.value).split("; got")[0]
    assert not {"antigravity", "tests.evil"} & set(sys.modules)


def test_an_old_run_is_refused_in_a_sentence_that_names_the_fields(tmp_path):
    held = {"method": "simclr", "recipe": {"width": 32}}
    (tmp_path / "recipe.json").write_text(json.dumps(held))
    with pytest.raises(RunError, match=r"no field 'width'; the known ones are stream, .*, dim, "):
        _ = Run(tmp_path).recipe
