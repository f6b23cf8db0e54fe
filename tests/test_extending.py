"""assets/docs/extending.md is true: its examples are short and run, on two ranks, too."""

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests import ROOT
from tests.examples import mine, mymethod
from vidbench import models
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks, stages
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate.evaluate import evaluate_all
from vidbench.evaluate.features import Protocol, extract
from vidbench.methods import common
from vidbench.methods.registry import import_method
from vidbench.models import own
from vidbench.system import trusted

PAGE = (ROOT / "assets/docs/extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
METHOD, NETWORK = "tests.examples.mymethod", "tests.examples.mine:Net"


def test_the_examples_are_short():
    for file in (mine, mymethod):
        lines = len((ROOT / file.__file__).read_text(encoding="utf-8").splitlines())
        assert lines <= 90, f"{file.__name__} has {lines} lines; at most 90, as the page is read"


def test_what_the_page_imports_exists():
    known = {"mypackage": "tests.examples"}
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(known.get(node.module, node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{module.__name__}.{alias.name}")


def test_the_data_set_of_the_page_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[0], {})
    made = Manifest.load(tmp_path / "lists/sports")
    assert made.classes == ("dive", "swim") and made.split.tolist() == [0, 2, 0]


def test_the_networks_keep_the_contract():
    found: dict = {}
    exec(BLOCKS[1], found)
    for name, net in (
        (NETWORK, models.build(NETWORK, width=4)),
        ("tests.examples.mine:tiny", models.build("tests.examples.mine:tiny", blocks=3)),
        ("tests.examples.mine:R3D", models.build("tests.examples.mine:R3D")),
        ("mypackage.mine:Net", found["Net"](width=8)),
    ):
        own.check_trainable(name, net, frames=8, size=32)
    assert import_method(METHOD) is mymethod and import_method("simclr") is mymethod


def recipe_of(toy_tiny, folder) -> mymethod.Recipe:
    """A recipe of the own method with the own network on a few toy videos."""
    toy_tiny.select(mask=toy_tiny.label < 3).save(folder / "videos")
    recipe = mymethod.Recipe(
        network=NETWORK,
        network_args={"width": 4, "blocks": 2},
        fit=Fit(epochs=2, batch=18),
        manifest=str(folder / "videos"),
    )
    augment = replace(recipe.clip.augment, size=32)
    return replace(recipe, clip=replace(recipe.clip, frames=4, augment=augment))


@pytest.mark.slow
def test_both_examples_train_on_two_ranks_and_their_runs_are_read_by_the_rule(
    toy_tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv(trusted.VARIABLE, "")
    recipe, folder = recipe_of(toy_tiny, tmp_path), tmp_path / "runs" / "ranks"
    arguments = (recipe_dict(recipe), str(folder), "none")
    ranks.launch(f"{METHOD}:train", *arguments, nproc=2, log_dir=tmp_path / "logs")
    stages.run_all({"alone": recipe, "ranks": recipe}, tmp_path / "runs")  # one is complete
    for name in ("alone", "ranks"):
        run = Run(tmp_path / "runs" / name)
        assert (run.method, run.state, run.recipe) == ("simclr", "complete", recipe)
        assert torch.isfinite(common.load_encoder(run)(torch.zeros(1, 3, 4, 32, 32))).all()
    assert extract(run, toy_tiny, Protocol(windows=1)).values.shape == (len(toy_tiny), 8)
    runs = [tmp_path / "runs" / name for name in ("alone", "ranks")]
    found = evaluate_all(runs, "test", Protocol(windows=1))  # in processes of their own
    assert {"R@1", "probe"} <= set(found["ranks"].numbers)
    assert_a_stranger_must_name_them(folder)


def assert_a_stranger_must_name_them(folder) -> None:
    """A program that imported neither method nor network reads the run only if both are named."""
    code = (
        "import sys; from vidbench.methods.common import load_encoder, Run\n"
        f"print(load_encoder(Run({str(folder)!r})).out_channels)"
    )
    for named, said in (
        ("", "the method must be one of classify, coclr, multitrain; got 'simclr'"),
        (METHOD, f"the network '{NETWORK}' is code outside vidbench"),
        (f"{METHOD}, tests.examples.mine", ""),
    ):
        environment = {**os.environ, trusted.VARIABLE: named}
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert said in ended.stderr and (ended.stdout == "8\n") == (not said), ended.stderr


def test_a_network_that_breaks_the_contract_leaves_no_run_directory(toy_tiny, tmp_path):
    recipe = recipe_of(toy_tiny, tmp_path)
    squeezed = replace(recipe, network_args={"blocks": 7}, clip=replace(recipe.clip, frames=4))
    for refused, says in (
        (
            replace(recipe, network="tests.examples.mine:Block"),
            "Networks in .*: Backbone, Net, R3D",
        ),
        (replace(recipe, network="tests.examples.none:Net"), "has not imported it"),
        (replace(squeezed, network_args={"depth": 3}), r"unknown \['depth'\]"),
    ):
        with pytest.raises(ValueError, match=says):
            mymethod.train(recipe_dict(refused), str(tmp_path / "run"), "none")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_network_is_no_start(toy_tiny, tmp_path):
    recipe = recipe_of(toy_tiny, tmp_path)
    brief = replace(recipe, fit=Fit(epochs=0, batch=18))
    run = Run(mymethod.train(recipe_dict(brief), str(tmp_path / "run"), "none"))
    module = mymethod.SimCLR(replace(recipe, network_args={"width": 8}))
    with pytest.raises(RunError, match="network_args.width: wanted 8, found 4"):
        common.load_init(run, module)
    module = mymethod.SimCLR(recipe)
    assert common.load_init(run, module) == "backbone from run"
