"""Ranks that torchrun or srun started: recognized, refused, and equal to those of our own launch."""

import os
import subprocess
import sys

import pytest

from tests import ROOT
from tests.engine.test_ranks import MAIN, RECIPE, ends, free_port, listened, node
from vidbench.engine import outside, ranks
from vidbench.engine.outside import Place
from vidbench.engine.runs import Run
from vidbench.system.errors import InputError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
}


def without(variables: dict, *names: str, **changed: str) -> dict:
    return {name: text for name, text in variables.items() if name not in names} | changed


def test_places_of_ranks():
    assert outside.found(TORCHRUN) == Place("torchrun", 3, 4, 1, 2, "10.0.0.1", 29500)
    port = outside.PORTS[77 * 101]
    assert outside.found(SRUN) == Place("srun", 3, 4, 1, 2, "gpu003", port)
    chosen = SRUN | {"MASTER_ADDR": "ib0", "MASTER_PORT": "7"}
    assert outside.found(chosen) == Place("srun", 3, 4, 1, 2, "ib0", 7)
    alone = without(SRUN, "SLURM_STEP_NODELIST", SLURM_STEP_TASKS_PER_NODE="4")
    assert outside.found(alone).one_node and not outside.found(SRUN).one_node
    assert outside.found(SRUN | TORCHRUN).launcher == "torchrun", "one torchrun in each srun task"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "77"},
        {"MASTER_ADDR": "10.0.0.1", "LOCAL_RANK": "0"},
        TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},  # a shell on an allocation
        without(SRUN, "SLURM_STEP_ID"),  # the batch script itself
        SRUN | {"VIDBENCH_NNODES": "2"},  # assets/slurm_nodes.sh
        SRUN | {"VIDBENCH_HEADLESS": "1"},
        TORCHRUN | {"TORCHELASTIC_RUN_ID": "vidbench-4f-1"},  # a rank of our own launch
    ],
)
def test_a_process_is_alone_without_several_ranks(variables):
    assert outside.found(variables) is None


@pytest.mark.parametrize(
    "variables, says",
    [
        ({"RANK": "0"}, "WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        (TORCHRUN | {"RANK": "4"}, "RANK must be less than WORLD_SIZE; got RANK=4, WORLD_SIZE=4"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK must be less than LOCAL_WORLD_SIZE"),
        (TORCHRUN | {"RANK": "-1"}, "RANK must be a number from 0 on; got '-1'"),
        (TORCHRUN | {"MASTER_ADDR": ""}, "MASTER_ADDR is missing"),
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_PORT is missing"),
        (without(TORCHRUN, "LOCAL_RANK"), "LOCAL_RANK is missing"),
        (TORCHRUN | {"VIDBENCH_NNODES": "2"}, "VIDBENCH_NNODES starts ranks, but 4 of them run"),
        (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID is missing"),
        (SRUN | {"SLURM_PROCID": "4"}, "SLURM_PROCID must be less than SLURM_STEP_NUM_TASKS"),
        (without(SRUN, "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST is missing"),
    ],
)
def test_incomplete_and_contradictory_variables_are_refused(variables, says):
    with pytest.raises(InputError, match=says):
        outside.found(variables)


def test_gpus_and_the_number_of_processes_must_fit():
    torchrun, srun = outside.found(TORCHRUN), outside.found(SRUN)
    assert [outside.gpu(torchrun, count) for count in (0, 2)] == [0, 1]
    assert outside.gpu(srun, 1) == 0, "srun shows a task its own GPU only"
    with pytest.raises(InputError, match="2 ranks and 1 GPUs"):
        outside.gpu(torchrun, 1)
    outside.check_size(torchrun, 2)
    with pytest.raises(InputError, match="nproc is 4, but torchrun started 2 ranks"):
        outside.check_size(torchrun, 4)


def test_the_first_node_of_slurms_list():
    lists = ["a", "a,b", "gpu[003-005,9],cpu1", "r1n[7],r2n1", "x-[01,03]"]
    assert [outside.first_node(names) for names in lists] == ["a", "a", "gpu003", "r1n7", "x-01"]


LAUNCH = (
    "import sys; from vidbench.engine import outside, ranks\n"
    "with outside.in_turn() as first: print('first' if first else 'not first', flush=True)\n"
    f"ranks.launch('tests.stages:regress', {RECIPE!r}, sys.argv[1], 0.2)\n"
    f"ranks.launch('tests.stages:regress', {RECIPE!r}, sys.argv[1] + '-again', 0.2)"
)


@pytest.mark.slow
def test_two_tasks_of_srun_equal_our_own_launch_and_listen_on_loopback(tmp_path):
    ranks.launch("tests.stages:regress", RECIPE, str(tmp_path / "own"), 0.2, nproc=2)
    step = without(SRUN, SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="2")
    step["MASTER_PORT"] = str(free_port())
    tasks = [
        node(LAUNCH, tmp_path / "srun", **step | {"SLURM_PROCID": number, "SLURM_LOCALID": number})
        for number in "01"
    ]
    places = listened(tasks)
    said = ends(tasks, 1)
    assert [one.returncode for one in tasks] == [0, 0], said
    assert said[0].startswith("first") and said[1] == "", "rank 1 is silent"
    assert places and {ip for each in places.values() for ip in each} == {"127.0.0.1"}
    for run in ("srun", "srun-again"):
        assert curve(tmp_path / run) == curve(tmp_path / "own")


@pytest.mark.slow
def test_torchrun_trains_as_our_own_launch_does(tmp_path, toy_three):
    words = ["train", toy_three, "--method", "classify", "--preset", "tiny", "--epochs", "1"]
    words += ["-c", "network_args", "{width: 0.0625, units: [1, 0, 0]}", "--out"]
    own = node(MAIN, *words, tmp_path / "own", "--nproc", "2")
    (said,) = ends([own], 300)
    assert own.returncode == 0, said
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["-m", "vidbench", *map(str, words), str(tmp_path / "torchrun")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("complete") == 1, "only rank 0 speaks"
    assert ran.stderr.count("torchrun's store listens on port") == 1
    left, right = (
        curve(next((tmp_path / name).rglob("recipe.json")).parent) for name in ("own", "torchrun")
    )
    assert left and left == right, "bit for bit"


def curve(folder) -> list[tuple]:
    """Step and loss of every logged line, and the last weights' stamp."""
    run = Run(folder)
    lines = [(line["step"], line["loss"]) for line in run.metrics()]
    return [*lines, run.checkpoint_stamp()]


def test_other_commands_are_refused_under_torchrun(monkeypatch, capsys):
    from vidbench.__main__ import main

    for name, text in TORCHRUN.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit, match="2"):
        main(["runs", "ls"])
    assert "vidbench runs must be one process; got 4 ranks" in capsys.readouterr().err
