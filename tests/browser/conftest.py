"""One JupyterLab and one Chromium for all browser tests.

`make test-browser` runs them; `make test` leaves them out. The notebooks are a copy and share its
`runs`, as in a checkout, so that one notebook finds what another trained; each trains what it
misses. Pictures of what was seen go to the folder that VIDBENCH_ARTIFACTS names, or runs/browser.
"""

import shutil

import pytest

from benchmarks import measure
from benchmarks.browsing import lab
from tests import ROOT
from tests.browser.tabs import ARTIFACTS


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """(Chromium, what makes a notebook's name an address, the folder of notebooks): one JupyterLab
    for all."""
    base = tmp_path_factory.mktemp("desk")
    books = shutil.copytree(
        ROOT / "notebooks", base / "notebooks", ignore=shutil.ignore_patterns(".*")
    )
    (base / "assets").symlink_to(
        ROOT / "assets"
    )  # ../assets is where a notebook of the checkout sees it, too
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    try:
        with measure.chromium() as browser, lab(books, base / "lab") as address:
            yield browser, address, books
    except measure.Skip as missing:
        pytest.fail(f"{missing}; `make test-browser` sees to both")
