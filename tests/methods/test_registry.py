"""Methods by name: a user's own module is found and checked, and its name is unique."""

import os
import sys
from dataclasses import dataclass

import pytest

from vidbench.methods import coclr, common
from vidbench.methods.registry import import_method
from vidbench.system import trusted

RECIPE = """
from dataclasses import dataclass
from vidbench.methods import common

@dataclass(frozen=True)
class Recipe(common.Recipe, method="{name}"):
    def data_sets(self):
        return ()
"""
TRAIN = "\ndef train(recipe, folder, progress='auto', threads=0):\n    return folder\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function (module, text) -> its importable name, in a package that the test alone sees."""
    monkeypatch.setenv(trusted.VARIABLE, "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("vidbench.methods.registry._recipes", {"coclr": coclr.Recipe})
    (tmp_path / "own_package").mkdir()

    def write(module: str, text: str) -> str:
        (tmp_path / "own_package" / f"{module}.py").write_text(text)
        return f"own_package.{module}"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "own_package"]:
        del sys.modules[name]


def test_a_method_is_found_by_its_name_and_by_its_module(package):
    assert import_method("coclr") is coclr and import_method("classify").Recipe.method == "classify"
    name = package("mine", RECIPE.format(name="simple") + TRAIN)
    module = import_method(name)
    assert module.Recipe.method == "simple" and common.recipe_class("simple") is module.Recipe
    assert import_method("simple") is module
    assert os.environ[trusted.VARIABLE] == name


def test_a_module_that_the_caller_named_registers_its_method(package, monkeypatch):
    name = package("named", RECIPE.format(name="later") + TRAIN)
    with pytest.raises(common.RunError, match="got 'later'. If it is yours, import its module"):
        common.recipe_class("later")
    monkeypatch.setenv(trusted.VARIABLE, name)
    assert common.recipe_class("later").__module__ == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import no_such_package",
            "ModuleNotFoundError: No module named 'no_such_.*mine.py, line 1",
        ),
        (
            "x = 1\ny = 1 / 0",
            r"failed with ZeroDivisionError: division by zero \(mine.py, line 2\)",
        ),
        ("def f(:", r"failed with SyntaxError: invalid syntax \(mine.py, line 1\)"),
        ("raise SystemExit(0)", "failed with SystemExit: 0"),
        ("", "must have `class Recipe.*its Recipe is None. Add it, see assets/docs/extending"),
        ("class Recipe: pass", "must have `class Recipe"),
        ("from vidbench.methods.common import Recipe", "must have `class Recipe"),
        (RECIPE.format(name="bare").partition("    def")[0] + "    pass", "must have `data_sets`"),
        (RECIPE.format(name="bare"), r"a function train\(recipe, folder, progress, threads\)"),
        (RECIPE.format(name="bare") + "def train(recipe): pass", "must have a function train"),
        (RECIPE.format(name="coclr"), "has the name of the method in vidbench.methods.coclr"),
    ],
)
def test_what_is_wrong_with_a_module_is_said(package, text, says):
    name = package("mine", text)
    with pytest.raises(ValueError, match=says):
        import_method(name)
    assert os.environ[trusted.VARIABLE] == ""


@pytest.mark.parametrize(
    "name", ["cocrl", "common", "monitor", "a b", "x.py/y", "", "..engine", "os"]
)
def test_a_wrong_name_lists_the_known_methods(package, name):
    with pytest.raises(ValueError, match="must (be one of baseline, classify|have `class Recipe)"):
        import_method(name)


def test_two_modules_cannot_share_a_name(package):
    import_method(package("one", RECIPE.format(name="same") + TRAIN))
    with pytest.raises(ValueError, match="'same' of own_package.two has the name of the method in"):
        import_method(package("two", RECIPE.format(name="same") + TRAIN))
    with pytest.raises(ValueError, match="has the name of the method in vidbench.methods.coclr"):

        @dataclass(frozen=True)
        class Recipe(common.Recipe, method="coclr"):
            pass
