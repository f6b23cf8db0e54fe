"""Where the files are that come with vidbench: notebooks, the demo's results, published numbers, Slurm scripts."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def share(name: str) -> Path:
    """Find a file or folder that comes with vidbench.

    Args:
        name: Its path from the root of the repository, such as "assets/demo".

    Returns:
        Its path in the installed package, else in the checkout. It may be missing.
    """
    installed = PACKAGE / "share"
    return (installed if installed.is_dir() else PACKAGE.parent) / name
