"""The table of CoCLR's paper: its commands name what exists, and it survives a kill."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests import ROOT, copied
from tests.headless.test_batch import until
from tests.headless.test_execute import handlers, run  # noqa: F401
from vidbench.data.flow import estimate
from vidbench.evaluate.features import PROTOCOLS
from vidbench.headless.table import read_table
from vidbench.headless.values import load_yaml
from vidbench.methods import classify, coclr

TABLE = ROOT / "assets" / "coclr.yaml"


def test_the_commands_in_the_table_name_what_exists(tmp_path):
    text = re.sub(r"\\\n#", "", TABLE.read_text())
    commands = [shlex.split(line) for line in re.findall(r"^#   (vidbench batch .*)", text, re.M)]
    assert len(commands) == 2
    for command in commands:
        pairs = [tuple(command[i + 1 : i + 3]) for i, word in enumerate(command) if word == "-p"]
        rows = read_table(TABLE, tmp_path, given=pairs)
        seeds = {row.name[-1] for row in rows if "seed" in row.name}
        assert len(rows) == 2 + 12 * len(seeds) and rows[-1].needs == tuple(range(len(rows) - 1))
        for row in rows:
            given, number = row.parameters, row.notebook.name[:2]
            presets = coclr.PRESETS if number in ("10", "11") else classify.PRESETS
            assert given.get("preset", "tiny") in presets, row.name
            assert given.get("method", "dis") in estimate.METHODS
            assert given.get("protocol", "iic") in PROTOCOLS


@pytest.mark.slow
def test_three_stages_killed_in_the_middle_end_complete(tmp_path, toy_tiny, toy_flow, capsys):
    """Each stream alone, RGB with flow as its teacher, and retrieval, as in the whole table."""
    copied(toy_tiny.root, tmp_path / "runs" / "tiny" / "videos")
    copied(toy_flow, tmp_path / "runs" / "tiny" / "flow")
    whole = load_yaml(TABLE)
    alone, cycles, retrieval = whole["rows"][1:4]
    alone.pop("needs")  # the flow is there
    cycles["each"]["stage"] = cycles["each"]["stage"][:1]
    retrieval["each"]["pair"] = [{"rgb": "coclr-rgb", "flow": "infonce-flow"}]
    for row in (alone, cycles, retrieval):
        row["notebook"] = str(TABLE.parent / row["notebook"])
    path, out = tmp_path / "t.yaml", tmp_path / "out"
    path.write_text(json.dumps(whole | {"rows": [alone, cycles, retrieval]}))
    settings = {"seeds": "[3]", "epochs": "2", "runs_dir": str(tmp_path / "runs")}
    words = [str(path), "--out", str(out), "--processes", "2"]
    for setting in settings.items():
        words += ["-p", *setting]
    student = tmp_path / "runs" / "tiny" / "coclr-rgb-seed3"
    batch = subprocess.Popen(
        [sys.executable, "-m", "vidbench", "batch", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        until(lambda: (student / "recipe.json").exists(), batch, 900)
    finally:
        batch.kill()
        batch.wait()
    assert run("batch", *words) == 0
    said = capsys.readouterr().out
    assert "4 rows: 2 complete" in said
    assert json.loads((student / "status.json").read_text())["state"] == "complete"
    assert json.loads((student / "recipe.json").read_text())["recipe"]["fit"]["seed"] == 3
    assert "retrieval" in (student / "results.json").read_text()
