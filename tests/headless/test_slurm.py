"""`vidbench slurm`: the shipped scripts with a job's arguments, run by bash."""

import os
import re
import subprocess
import sys

import pytest

from tests import ROOT
from vidbench.__main__ import main
from vidbench.headless.kernel import last_training_cell

NOTEBOOK = str(ROOT / "notebooks" / "10_coclr_alone.ipynb")


def settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.M))


def printed(capsys, *words: str) -> str:
    assert main(["slurm", *words]) == 0
    return capsys.readouterr().out


def test_a_notebooks_script_calls_run_with_its_arguments_on_each_node(tmp_path, capsys):
    options = "--nodes 2 --gpus 4 --cores 32 --time 1-00:00:00 --account lab --partition a100"
    words = [NOTEBOOK, "-p", "data", "/data/k 400", "--out", "runs/x"]
    text = printed(capsys, *options.split(), *words)
    wanted = {"nodes": "2", "gpus-per-node": "4", "cpus-per-task": "32", "time": "1-00:00:00"}
    wanted |= {"account": "lab", "partition": "a100", "ntasks-per-node": "1"}
    assert wanted.items() <= settings(text).items()

    programs = {
        "srun": 'shift\nfor SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "scontrol": "echo n7",
        "vidbench": 'echo "${VIDBENCH_TRAIN_ONLY:-0}" "$(printf "[%s]" "$@")"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_NNODES": "2"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("VIDBENCH_PORT", None)
    ran = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    given = "".join(f"[{word}]" for word in words)
    assert ran.stdout.splitlines() == [
        f"{number} [run]{given}[--endpoint][n7:20345][--nnodes][2][--node][node{number}]"
        for number in range(2)
    ], ran.stderr


def test_a_tables_script_has_an_array_of_its_rows(tmp_path, capsys):
    table = tmp_path / "t.yaml"
    table.write_text(f"notebook: {NOTEBOOK}\ngrid: {{epochs: [1, 2, 3]}}\n")
    text = printed(capsys, "--gpus", "0", str(table), "runs/out")
    assert settings(text)["array"] == "0-2" and "gpus-per-node" not in settings(text)
    assert f"set -- {table} runs/out\n" in text


@pytest.mark.parametrize(
    "words, says",
    [
        (["--account", "a b", NOTEBOOK], "--account must be one word"),
        (["nowhere.yaml"], "no such file: nowhere.yaml"),
        (["--nodes", "2", "TABLE"], "--nodes is for a notebook"),
    ],
)
def test_what_slurm_refuses(tmp_path, capsys, words, says):
    table = tmp_path / "t.yaml"
    table.write_text(f"notebook: {NOTEBOOK}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["slurm", *(str(table) if word == "TABLE" else word for word in words)])
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_with_train_only_a_notebook_ends_after_its_last_training_cell(tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell
    cells = [cell("epochs: int = 1"), cell("print('trains')"), cell("print('draws')")]
    cells[0].metadata["tags"], cells[1].metadata["tags"] = ["parameters"], ["train"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    assert last_training_cell(book) == 1
    nbformat.write(book, tmp_path / "book.ipynb")
    words = ["run", str(tmp_path / "book.ipynb"), "--out", str(tmp_path / "out"), "--train-only"]
    ran = subprocess.run(
        [sys.executable, "-m", "vidbench", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    log = (tmp_path / "out" / "book.log").read_text()
    assert "trains" in log and "draws" not in log and "[complete]" in log
