"""The tests mirror vidbench/; tests of several rooms are here. ROOT is the checkout."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copied(source: Path, target: Path) -> Path:
    """Copy a folder that tests share, by hard links, for a test that adds or replaces files."""
    return Path(shutil.copytree(source, target, copy_function=os.link))
