"""A network of one's own: only what the caller named is imported, and what is wrong with it is said."""

import json
import os
import sys

import pytest
import torch

from vidbench import models
from vidbench.methods import coclr, common
from vidbench.models import own
from vidbench.system import trusted

NET = """
import torch
from torch import nn
from vidbench.models import Backbone

class Net(Backbone):
    def __init__(self, width: int = 4, stride: int = 2):
        super().__init__()
        self.out_channels = width
        self.conv = nn.Conv3d(3, width, 3, stride, 1)

    def forward(self, clips):
        return self.conv(clips).relu()

def small(width: int = 2) -> "Backbone":
    return Net(width)

def loose(width: int = 2):
    return Net(width)

def anything(**arguments) -> Net:
    return Net(**arguments)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function (text, module) -> its importable name, in a package that the test alone sees."""
    monkeypatch.setenv(trusted.VARIABLE, "")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package").mkdir()

    def write(text: str = NET, module: str = "mine") -> str:
        (tmp_path / "own_package" / f"{module}.py").write_text(text)
        return f"own_package.{module}"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "own_package"]:
        del sys.modules[name]


def test_a_class_and_a_function_build_by_their_names(package):
    trusted.trust(package())
    net = models.build("own_package.mine:Net", width=5)
    assert net(torch.zeros(1, 3, 4, 8, 8)).shape == (1, 5, 2, 4, 4)
    assert models.build("own_package.mine:small").out_channels == 2
    assert models.build("own_package.mine:anything", width=3).out_channels == 3
    own.check_trainable("own_package.mine:Net", net, 4, 16)
    with pytest.raises(
        ValueError, match=r"unknown \['widht'\]; its arguments are \['stride', 'wid"
    ):
        models.build("own_package.mine:Net", widht=5)
    with pytest.raises(ValueError, match="no place for a regularizer"):
        models.build("own_package.mine:Net", regularizer=lambda site: torch.nn.Identity())


def test_the_check_draws_no_random_number_and_changes_nothing(package):
    trusted.trust(package(NET.replace("nn.Conv3d(3, width, 3, stride, 1)", NORMED)))
    net = models.build("own_package.mine:Net")
    before, drawn = {n: v.clone() for n, v in net.state_dict().items()}, torch.get_rng_state()
    own.check_trainable("own_package.mine:Net", net, 4, 16)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(value.grad is None for value in net.parameters())


NORMED = "nn.Sequential(nn.Conv3d(3, width, 3, stride, 1), nn.BatchNorm3d(width), nn.Dropout(0.5))"


@pytest.mark.parametrize("imported", [False, True])
def test_a_name_is_loaded_only_if_its_module_was_imported_or_named(package, imported, tmp_path):
    place = package()
    name = f"{place}:Net"
    recipe = coclr.Recipe(network=name, network_args={"width": 3})
    folder = tmp_path / "run"
    run = common.Run.create(folder, "coclr", recipe)
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["network"] == name
    assert run.recipe == recipe  # a recipe is read without the network
    with pytest.raises(common.RunError) as raised:
        common.load_encoder(run)
    assert place not in sys.modules
    for said in (
        f"{folder}: the network '{name}'",
        "not imported",
        f"--import {place}",
        f"={place}",
    ):
        assert said in str(raised.value)
    __import__(place) if imported else trusted.trust(place)
    run.save(1, {f"encoder.{n}": v for n, v in recipe.build_backbone().state_dict().items()}, {})
    assert common.load_encoder(run).out_channels == 3
    assert os.environ[trusted.VARIABLE] == ("" if imported else place)


@pytest.mark.parametrize(
    ("named", "module", "allowed"),
    [
        ("own_package.mine", "own_package.mine", True),
        ("other, own_package.mine", "own_package.mine", True),
        ("own_package", "own_package.mine", True),
        ("own_package.min", "own_package.mine", False),
        ("own_package.mine.deeper", "own_package.mine", False),
    ],
)
def test_a_package_that_is_named_includes_its_modules_alone(
    package, monkeypatch, named, module, allowed
):
    package()
    monkeypatch.setenv(trusted.VARIABLE, named)
    if allowed:
        assert models.build(f"{module}:Net").out_channels == 4
    else:
        with pytest.raises(trusted.UntrustedError):
            models.build(f"{module}:Net")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "Net",
            r"needs one of \['cifar_resnet', .*, or your own as 'mypackage.mine:Net'; got 'Net'",
        ),
        ("mine", "or your own as"),
        ("mine:", "must be named as 'package.module:Name'; got 'mine:'"),
        ("a:b:c", "must be named as"),
        ("a:b.c", "must be named as"),
        (":Net", "a module's name must be importable"),
        ("..evil:Net", "a module's name must be importable"),
        ("a/b.py:Net", "a module's name must be importable"),
        ("__main__:Net", "other processes cannot import a cell or a script"),
        ("antigravity:fly", "this program has not imported it"),
        ("os:system", "must be a class derived from .*; system is <built-in function"),
        ("builtins:exec", "exec is <built-in function exec>. Networks in builtins: none"),
        ("subprocess:call", "must be a class derived from"),
        ("torch.nn:Linear", "must be a class derived from"),
        ("torch.hub:load", "must be a class derived from"),
        ("own_package.mine:loose", "a function annotated to return one; loose is <function"),
        ("own_package.mine:net", "net is None. Networks in own_package.mine: Backbone, Net, small"),
        ("own_package.mine:torch", "torch is <module"),
    ],
)
def test_a_name_calls_nothing_but_networks(package, name, says):
    trusted.trust(package())
    with pytest.raises(ValueError, match=says):
        models.build(name, **({"command": "exit"} if name == "os:system" else {}))
    assert "antigravity" not in sys.modules


WIDTH = "self.out_channels = width"
RETURN = "return self.conv(clips).relu()"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (WIDTH, "pass", "must set `self.out_channels`.*got None"),
        (WIDTH, "self.out_channels = 4.0", r"as a whole number; got 4.0"),
        (
            WIDTH,
            "1 / 0",
            r"with {'width': 4}: ZeroDivisionError: division by zero \(mine.py, line 9\)",
        ),
        (
            "width: int = 4",
            "width: int, depth: int",
            "missing 1 required positional argument: 'depth'",
        ),
        ("stride, 1)", "stride, 1).half()", "float32; conv.weight is torch.float16"),
        ("nn.Conv3d(3,", "nn.LazyConv3d(", "conv.weight has no shape yet, as in nn.Lazy"),
        (
            WIDTH,
            f"{WIDTH}; self.a = self.b = nn.Linear(2, 2)",
            "a.weight and b.weight share memory",
        ),
    ],
)
def test_what_a_network_lacks_is_said_when_it_is_built(package, old, new, says):
    trusted.trust(package(NET.replace(old, new)))
    with pytest.raises(ValueError, match=says):
        models.build("own_package.mine:Net", width=4)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            RETURN,
            f"{RETURN}.mean((2, 3, 4))",
            r"got \[2, 4\]. Remove its pooling and classifier, or",
        ),
        (RETURN, f"{RETURN}.mean(2)", r"got \[2, 4, 8, 8\]. Remove its pooling"),
        (RETURN, "return [clips]", "of floats .*; got a list"),
        (RETURN, f"{RETURN}.long()", "of floats .*; got torch.int64"),
        (RETURN, f"{RETURN} / 0", "not finite for random clips"),
        (RETURN, f"{RETURN}.detach()", r"conv.weight and 1 more gets no gradient"),
        (WIDTH, f"{WIDTH}; self.fc = nn.Linear(2, 2)", "fc.weight and 1 more gets no gradient"),
        (WIDTH, "self.out_channels = 8", r"\[2,8,T',H',W'\] of floats .*got \[2, 4, 2, 8, 8\]"),
        (
            "def forward(self, clips)",
            "def forward(self, clips, b, c)",
            "missing 2 required positional",
        ),
        (
            RETURN,
            "return self.conv(clips[0, 0, 0])",
            r"cannot take clips \[2, 3, 4, 16, 16\].*mine.py, line 13",
        ),
        ("width, 3, stride, 1)", "width, 9, 9)", r"cannot take clips .*\(mine.py, line 13"),
    ],
)
def test_what_a_network_does_wrong_is_said_before_training(package, old, new, says):
    trusted.trust(package(NET.replace(old, new)))
    net = models.build("own_package.mine:Net", width=4)
    with pytest.raises(ValueError, match=says):
        own.check_trainable("own_package.mine:Net", net, 4, 16)


def test_a_network_that_computes_a_tensor_when_it_is_made_cannot_be_copied(package):
    trusted.trust(
        package(NET.replace(WIDTH, f"{WIDTH}; self.a = torch.ones(1).requires_grad_() * 2"))
    )
    with pytest.raises(ValueError, match="cannot be copied, which training needs: RuntimeError"):
        own.check_trainable("own_package.mine:Net", models.build("own_package.mine:Net"), 4, 16)


def test_a_method_without_encoder_is_refused():
    with pytest.raises(ValueError, match="Linear must have its backbone as `encoder`; got None"):
        own.encoder_of(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="needs one of"):
        models.build(5)
