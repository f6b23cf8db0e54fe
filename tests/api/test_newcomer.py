"""The script of assets/docs/api.md, in an empty folder with 24 unlabeled videos and a 25th."""

import os
import re
import subprocess
import sys

import pytest

from tests import ROOT

EPOCHS = "epochs=40"  # of the script; fewer here


@pytest.mark.slow
def test_the_script_of_the_page_runs_twice_and_trains_once(toy_tiny, tmp_path):
    page = (ROOT / "assets" / "docs" / "api.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert EPOCHS in script and len([line for line in script.splitlines() if line]) <= 10
    (tmp_path / "script.py").write_text(script.replace(EPOCHS, "epochs=3"))
    (tmp_path / "clips").mkdir()
    for number in range(25):
        target = tmp_path / (f"clips/{number:02d}.mp4" if number < 24 else "new.mp4")
        os.link(toy_tiny.absolute(number * 11), target)
    before = {path.name for path in tmp_path.iterdir()}
    first, second = (run(tmp_path) for _ in range(2))
    assert "24 videos (train 18, test 6), no labels" in first
    assert "changed to fit" in first and "changed to fit" not in second
    assert first.count("no label") == second.count("no label") and "  5. " in second
    made = {path.name for path in tmp_path.iterdir()} - before
    assert made == {"runs", "found.html", "clips.parquet", ".made.jsonl", "export"}
    assert (tmp_path / "found.html").read_text().count("data:image/webp") == 6
    assert (tmp_path / "export" / "backbone.safetensors").is_file()


def run(folder) -> str:
    """What the script prints."""
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
