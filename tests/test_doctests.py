"""The examples in the docstrings of the modules that hold the papers' ideas."""

import doctest
import importlib

import pytest

MODULES = (
    *("tensors.losses", "tensors.bank", "tensors.scaling", "methods.coclr", "methods.multitrain"),
    *("data.flow.tvl1", "engine.ranks", "engine.runs"),
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(f"vidbench.{name}"))
    assert found.attempted >= 2 and not found.failed
