"""The rule by which Triton kernels run: by switch, package, device, interpreter."""

import pytest

from vidbench.system import kernels
from vidbench.system.errors import InputError
from vidbench.system.kernels import interpreted, kernels_run


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with triton and without the two variables."""
    monkeypatch.setattr(kernels, "INSTALLED", True)
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_device_decides():
    assert kernels_run((8, 0)) and kernels_run((9, 0)) and kernels_run((12, 1))
    assert not kernels_run((7, 5)) and not kernels_run()


def test_the_interpreter_needs_no_device(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreted() and kernels_run() and kernels_run((7, 5))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not interpreted() and not kernels_run()


@pytest.mark.parametrize("how", ["switched off", "without triton"])
def test_no_kernel_runs(monkeypatch, how):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if how == "switched off":
        monkeypatch.setenv(kernels.SWITCH, "off")
    else:
        monkeypatch.setattr(kernels, "INSTALLED", False)
    assert not kernels_run((9, 0)) and not kernels_run()


def test_another_value_of_the_switch_is_refused(monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "no")
    with pytest.raises(InputError, match="must be on or off; got 'no'"):
        kernels_run()
