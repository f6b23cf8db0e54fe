"""The site of all pages (`make docs`): built without a warning, whole without a network."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.makes import ROOT

EXECUTED = """{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1,
 "source": "1 + 1", "outputs": [{"output_type": "stream", "name": "stdout", "text": "made here"}]}],
 "metadata": {}, "nbformat": 4, "nbformat_minor": 5}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, with one executed notebook."""
    folder, executed = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("executed")
    (executed / "00_tour.ipynb").write_text(EXECUTED)
    words = "build --quiet --strict --config-file assets/mkdocs.yml --site-dir".split()
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words, folder],
        cwd=ROOT,
        env={**os.environ, "EXECUTED": str(executed), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page_and_needs_no_network(site):
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {"index.html", "notebooks/43_neighbors.html", "api/tensors.html"} <= pages
    assert "multi_positive_nce" in (site / "api" / "tensors.html").read_text()
    assert "made here" in (site / "notebooks" / "00_tour.executed.html").read_text()
    for name in pages - {"404.html", "notebooks/00_tour.executed.html"}:
        text = (site / name).read_text()
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//', text), name
        for target in re.findall(r'(?:href|src)="([^"#]+)', text):
            path = unescape(target).split("?")[0]
            if not re.match(r"[a-z]+:", path):
                assert (site / name).parent.joinpath(path).exists(), f"{name}: {target}"
