"""24 videos without labels: notebooks 10, 11, 12 and 42 from top to bottom, headless."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from vidbench.data.video import windows
from vidbench.engine.runs import Run
from vidbench.methods import coclr

CHAIN = ("10_coclr_alone", "11_coclr_together", "12_coclr_neighbours", "42_retrieval")
RUNS = ("infonce-rgb", "infonce-flow", "coclr-rgb")


def texts(notebook: Path) -> str:
    """What a person reads in an executed notebook's outputs, figures and pictures left out."""
    read = []
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            page = "".join(data.get("text/html", data.get("text/plain", output.get("text", ""))))
            if "application/vnd.plotly.v1+json" not in data:
                page = re.sub(r"<(script|style).*?</\1>|<img[^>]*>", " ", page, flags=re.DOTALL)
                read.append(html.unescape(re.sub(r"<[^>]+>", " ", page)))
    return "\n".join(read)


def assert_complete_without_labels(runs: Path, books: Path) -> None:
    """Every run is complete and stepped within its first epoch; no number or page counts labels."""
    for name in RUNS:
        run = Run(runs / name)
        rows, batch = len(coclr.parts(run.recipe)[0]), run.recipe.fit.batch
        assert run.state == "complete" and rows == 14
        assert run.recipe.queue <= rows // batch * batch
        lines = [*run.metrics(), *run.metrics("monitor")]
        assert all(value is not None for line in lines for value in line.values())
        assert not {"knn", "purity", "chance"} & {name for line in lines for name in line}
    for name in CHAIN:
        said = texts(books / f"{name}.ipynb")
        assert "no labels: " in said and not re.search(r"\bnan\b", said, re.IGNORECASE)
        if name[:2] in ("10", "11"):
            assert "changed to fit 14 training videos: queue 64 -> 12" in said


@pytest.mark.slow
def test_a_flat_folder_passes_10_11_12_and_42(toy_tiny, tmp_path):
    """10 runs on both streams; every run takes its first step within the first epoch."""
    for number, row in enumerate(windows.spread(len(toy_tiny), 24)):
        target = tmp_path / "clips" / f"clip_{number:02}.mp4"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(toy_tiny.absolute(row), target)
    books = [str(ROOT / "notebooks" / f"{name}.ipynb") for name in CHAIN]
    places = {"data": tmp_path / "clips", "runs_dir": tmp_path / "runs"}
    given = [word for name, value in places.items() for word in ("-p", name, str(value))]
    given += ["--out", str(tmp_path)]
    private = {"IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    for names in ([books[0], "-p", "stream", "flow"], books):
        command = [sys.executable, "-m", "vidbench", "run", *names, *given]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **private}
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert_complete_without_labels(tmp_path / "runs/clips", tmp_path)
