"""results.json under several writers, and after damage."""

import json
import subprocess
import sys

import pytest

from tests import ROOT
from vidbench.engine.runs import Run, RunError
from vidbench.methods import classify

EACH = 40
WRITER = """
import sys
from vidbench.engine.runs import Run
import vidbench.methods.common
run = Run(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    run.add_result("probe", {"writer": "other", "number": number}, {"top-1": 0.5})
"""


def run_in(folder) -> Run:
    return Run.create(folder, classify.Recipe.method, classify.Recipe())


def test_two_processes_lose_no_result(tmp_path):
    run = run_in(tmp_path / "run")
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(run.folder), str(EACH)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("go\n")
    other.stdin.flush()
    for number in range(EACH):
        run.add_result("probe", {"writer": "this", "number": number}, {"top-1": 0.5})
    other.communicate()
    assert other.returncode == 0
    assert len(run.results()) == 2 * EACH


@pytest.mark.parametrize("damage", ['{"probe": {"ta', "[1, 2]", "\udcff", "null"])
def test_damaged_results_name_the_file_and_the_way_out_and_are_not_overwritten(tmp_path, damage):
    run = run_in(tmp_path / "run")
    path = run.folder / "results.json"
    path.write_bytes(damage.encode(errors="surrogateescape"))
    before = path.read_bytes()
    for use in (run.results, lambda: run.add_result("probe", {}, {"top-1": 0.5})):
        with pytest.raises(
            RunError, match=r"results\.json is damaged.*or delete it and evaluate the run again"
        ):
            use()
    assert path.read_bytes() == before
    path.unlink()
    run.add_result("probe", {}, {"top-1": 0.5})
    assert json.loads(path.read_text()).keys() == {"probe"}


def test_an_entry_that_lacks_a_field_is_named_and_stays_on_disk(tmp_path):
    run = run_in(tmp_path / "run")
    whole = run.add_result("probe", {}, {"top-1": 0.5})
    older = {"task": "retrieval", "numbers": {"R@1": 0.5}}
    path = run.folder / "results.json"
    path.write_text(json.dumps({**run.records(), "older": older}))
    with pytest.raises(RunError, match=r"results\.json: 'older': wanted task, protocol, .*again"):
        run.results()
    run.add_result("probe", {"head": "linear"}, {"top-1": 0.5})
    assert run.records()["older"] == older and whole in run.records()
    path.write_text(json.dumps({whole: {**run.records()[whole], "of a later version": 1}}))
    assert run.results()[whole].numbers == {"top-1": 0.5}
