"""assets/docs/extending.md is true: its examples are short and run, on two ranks, too."""

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests import ROOT
from tests.examples import mine, mymethod
from vidbench import models
from vidbench.__main__ import main
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks, stages
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, RunError, recipe_dict
from vidbench.evaluate.evaluate import evaluate
from vidbench.evaluate.export import export, load_exported
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
def test_both_examples_train_on_two_ranks_and_their_run_is_read_by_the_rule(
    toy_tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv(trusted.VARIABLE, "")
    recipe, folder = recipe_of(toy_tiny, tmp_path), tmp_path / "runs" / "own"
    arguments = (recipe_dict(recipe), str(folder), "none")
    ranks.launch(f"{METHOD}:train", *arguments, nproc=2, log_dir=tmp_path / "logs")
    stages.run_all({"own": recipe}, folder.parent)  # it is complete
    run = Run(folder)
    assert (run.method, run.state, run.recipe) == ("simclr", "complete", recipe)
    assert extract(run, toy_tiny, Protocol(windows=1)).values.shape == (len(toy_tiny), 8)
    found = evaluate(folder, "test", Protocol(windows=1))
    assert {"R@1", "probe"} <= set(found.numbers)
    exported = load_exported(export(run, tmp_path / "exported"))
    assert isinstance(exported, mine.Net) and exported.out_channels == 8
    said = subprocess.run(
        [sys.executable, "-c", STRANGER, folder, METHOD, f"{METHOD},tests.examples.mine"],
        env={**os.environ, trusted.VARIABLE: ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert (
        "the method must be one of baseline, classify, coclr, multitrain; got 'simclr'" in said[0]
    )
    assert f"the network '{NETWORK}' is code outside vidbench" in said[1]
    assert said[2:] == ["8"]


STRANGER = """
import os, sys
from vidbench.methods.common import load_encoder, Run, RunError
folder, *named = sys.argv[1:]
for modules in ("", *named):
    os.environ["VIDBENCH_IMPORT"] = modules
    try:
        print(load_encoder(Run(folder)).out_channels)
    except RunError as error:
        print(error)
"""


def test_processes_are_started_only_for_code_that_this_one_may_import(toy_tiny, tmp_path):
    recipe = replace(recipe_of(toy_tiny, tmp_path), network="tests.examples.none:Net")
    with pytest.raises(trusted.UntrustedError, match="has not imported it"):
        stages.run_all({"run": recipe}, tmp_path / "runs")
    with pytest.raises(trusted.UntrustedError, match="has not imported it"):
        ranks.launch(f"{METHOD}:train", recipe_dict(recipe), str(tmp_path / "run"), nproc=2)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_what_this_process_uses_is_handed_on(monkeypatch):
    monkeypatch.setenv(trusted.VARIABLE, "")
    trusted.spread("s3d", "vidbench.methods.coclr", "__main__")
    assert trusted.named() == ()
    trusted.spread(NETWORK, METHOD)
    trusted.spread(NETWORK, METHOD)
    assert trusted.named() == (METHOD, "tests.examples.mine")


def test_a_network_that_breaks_the_contract_leaves_no_run_directory(
    toy_tiny, tmp_path, monkeypatch
):
    recipe = recipe_of(toy_tiny, tmp_path)
    monkeypatch.setattr(mine.Net, "forward", lambda self, clips: self.blocks(clips).mean((2, 3, 4)))
    for change, says in (
        ({"network": "tests.examples.mine:Block"}, "Networks in .*: Backbone, Net, R3D"),
        ({"network_args": {"depth": 3}}, r"unknown \['depth'\]"),
        ({}, r"got \[2, 8\]. Remove its pooling and classifier, or return rows"),
    ):
        with pytest.raises(ValueError, match=says):
            mymethod.train(recipe_dict(replace(recipe, **change)), str(tmp_path / "run"), "none")
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


def test_a_command_imports_what_it_is_given(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(trusted.VARIABLE, "")
    assert main(["runs", "ls", "--import", METHOD, str(tmp_path)]) in (0, 1)
    assert trusted.named() == (METHOD,)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--import", "no.such", "10_coclr"])
    assert "there is no module 'no' on Python's path; got 'no.such'" in capsys.readouterr().err
