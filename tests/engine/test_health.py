"""The doctor's checks of versions and numbers, without the hardware."""

from importlib import metadata

import pytest

from vidbench.engine.health import (
    GIB,
    MALLOC,
    cpu_paths,
    cudnn_check,
    disk,
    driver_check,
    locked_memory,
    memory,
    packages,
    threads,
)


@pytest.mark.parametrize(
    ("version", "state", "needed", "says"),
    [
        (90701, "ok", False, "9.7.1"),
        (90800, "missing", True, "9.8.0 gives wrong values"),
        (91002, "missing", True, "9.10.2 gives wrong values"),
        (91100, "warning", False, "9.11.0 is up to 20 times as slow"),
        (91400, "warning", False, "9.14.0 is up to 20 times as slow"),
        (91500, "ok", False, "9.15.0"),
        (92600, "ok", False, "9.26.0"),
        (None, "warning", False, "none"),
    ],
)
def test_a_cudnn_that_is_wrong_or_slow_in_3d_convolutions_is_named(version, state, needed, says):
    check = cudnn_check(version)
    assert (check.state, check.needed) == (state, needed) and check.found.startswith(says)
    assert bool(check.todo) == (state != "ok")


@pytest.mark.parametrize(
    ("kernel", "built", "says"),
    [
        ("535.104.05", "13.0", "CUDA 13.0 needs 580 or later"),
        ("535.104.05", "12.6", "torch sees no GPU"),
        ("580.65", None, "it is built for the CPU"),
    ],
)
def test_a_driver_without_a_gpu_for_torch_is_explained(kernel, built, says):
    check = driver_check(kernel, built)
    assert check.state == "warning" and says in check.found and check.todo


def test_packages_are_compared_with_the_bounds_of_the_metadata():
    core = {one.name: one for one in packages({})}["packages"]
    assert core.state == "missing" and core.needed and "torch" in core.found
    real = {one.name: one for one in packages()}
    assert real["packages"].state == "ok" and real["extra test"].state == "ok"
    assert {f"extra {name}" for name in metadata.metadata("vidbench").get_all("Provides-Extra")} < {
        *real
    }
    old = {"papermill": "1.0", "nbclient": "0.99"} | {
        name: "999" for name in ("jupyterlab", "ipywidgets", "anywidget", "nbconvert")
    }
    lab = {one.name: one for one in packages(old)}["extra lab"]
    assert (lab.state, lab.needed) == ("warning", False)
    assert "papermill 1.0 (<2.8,>=2.6)" in lab.found and "nbclient 0.99" in lab.found


def test_low_memory_disk_and_locks_are_warned_of():
    states = [one.state for one in memory(GIB, 8 * GIB, 64 * 2**20)]
    assert states == ["warning", "warning"]
    assert [one.state for one in memory(4 * GIB, 8 * GIB, None)] == ["ok"]
    assert [disk("runs", free).state for free in (0, GIB, 50 * GIB)] == ["missing", "warning", "ok"]
    assert disk("runs", 0).needed and not disk("runs", GIB).needed
    assert [locked_memory(*one).state for one in ((8, 1), (8, 2), (-1, 2))] == [
        "ok",
        "warning",
        "ok",
    ]


def test_threads_and_the_allocator():
    def states(environ, load=0.0, linux=True):
        return [one.state for one in threads(environ, 2, load, linux)]

    assert states(MALLOC) == ["ok", "ok"]
    assert states({}) == ["ok", "warning"] and states({}, linux=False) == ["ok"]
    assert states(MALLOC, load=3.0) == ["warning", "ok"]
    assert states({**MALLOC, "OMP_NUM_THREADS": "1"}, load=3.0) == ["ok", "ok"]
    assert states({**MALLOC, "OMP_NUM_THREADS": "4"}) == ["warning", "ok"]


def test_slow_instructions_are_warned_of(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for given, state in (
        (("AVX2", True, "x86_64"), "ok"),
        (("DEFAULT", True, "x86_64"), "warning"),
        (("DEFAULT", True, "arm64"), "ok"),
        (("AVX512", False, "x86_64"), "warning"),
    ):
        assert cpu_paths(*given).state == state
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert "Unset ATEN_CPU_CAPABILITY" in cpu_paths("AVX2", True, "x86_64").todo
