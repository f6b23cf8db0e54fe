"""The commands `vidbench notebooks ls | copy` and `vidbench lab`: the numbered notebooks without a checkout."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from vidbench.api.runs import add_command
from vidbench.system.door import at_the_door
from vidbench.system.errors import MissingError
from vidbench.system.extras import check_installed
from vidbench.system.files import written
from vidbench.system.printing import aligned, as_json, printable, show
from vidbench.system.share import share
from vidbench.system.usage import Commands

FIRST = "notebooks/00_tour.ipynb"
# what notebooks name as ../assets/..., scripts for clusters, and tables of runs
ASSETS = ("assets/published.csv", "assets/demo/toy.webp", "assets/*.sh", "assets/*.yaml")


def add_notebooks(commands: Commands) -> None:
    """Add the commands `notebooks` and `lab`."""
    notebooks = commands.add_parser(
        "notebooks", help="list and copy the numbered notebooks", description="The notebooks."
    )
    inner = notebooks.add_subparsers(dest="action", required=True)
    add_command(inner, "ls", "list the notebooks that come with vidbench", "vidbench notebooks ls")
    one = add_command(
        inner,
        "copy",
        "copy the notebooks, and the files that they name, into a folder",
        "vidbench notebooks copy work",
        "They are in DIR/notebooks, with DIR/assets next to it. A file that you changed stays.",
    )
    one.add_argument("folder", metavar="DIR", help="a new or existing folder")
    one = add_command(
        commands,
        "lab",
        "open JupyterLab on this machine, with the first notebook",
        "vidbench lab work",
        "Copy the notebooks there first: vidbench notebooks copy DIR.",
    )
    one.add_argument("folder", metavar="DIR", nargs="?", default=".", help="default: this folder")
    one.add_argument("--no-browser", action="store_true", help="print the address only")


def notebooks(given: argparse.Namespace) -> int:
    """List or copy the notebooks; returns the exit code."""
    if given.action == "ls":
        titles = {path.name: _title(path) for path in at_the_door(shipped_notebooks)}
        show(as_json(titles) if given.json else aligned(list(titles.items())))
        return 0
    made, kept = at_the_door(copy_notebooks, given.folder)
    if given.json:
        names = {"copied": made, "kept": kept}
        show(as_json({name: [str(one) for one in files] for name, files in names.items()}))
        return 0
    for one in kept:
        show(printable(f"kept: {one} differs from vidbench's. Delete it to get that one."))
    show(
        printable(
            f"{len(made)} files copied into {given.folder}. Next: vidbench lab {given.folder}"
        )
    )
    return 0


def lab(given: argparse.Namespace) -> int:
    """Start JupyterLab and wait for its end; returns its exit code."""
    command = at_the_door(lab_command, given.folder, browser=not given.no_browser)
    return subprocess.run(command).returncode


def shipped_notebooks() -> list[Path]:
    """List the numbered notebooks, in order.

    Raises:
        MissingError: This installation has none (a FileNotFoundError).
    """
    found = sorted(share("notebooks").glob("*.ipynb"))
    if not found:
        raise MissingError(f"no notebooks in {share('notebooks')}: install vidbench again.")
    return found


def copy_notebooks(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Copy the notebooks, and the assets that they name, without replacing a changed file.

    Returns:
        The files that are copied, and those that differ and stay.

    Raises:
        FileNotFoundError: This installation has no notebooks.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. Name a folder.")
    files = shipped_notebooks()
    for pattern in ASSETS:
        files += sorted(share("assets").parent.glob(pattern))
    made, kept = [], []
    for file in files:
        copy = folder / file.relative_to(share("assets").parent)
        if not copy.exists():
            with written(copy) as temporary:
                shutil.copyfile(file, temporary)
            made.append(copy)
        elif copy.read_bytes() != file.read_bytes():
            kept.append(copy)
    return made, kept


def lab_command(folder: str | Path, browser: bool = True) -> list[str]:
    """Return the command that opens JupyterLab at a folder, on the loopback interface only.

    Args:
        browser: Whether it opens a browser.

    Raises:
        MissingError: No notebooks are in the folder (a FileNotFoundError).
        ImportError: JupyterLab is not installed.
    """
    if not (Path(folder) / FIRST).is_file():
        raise MissingError(
            f"{Path(folder) / FIRST} does not exist. Run `vidbench notebooks copy {folder}` first."
        )
    check_installed("jupyterlab", "lab")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return [
        *(sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"),
        *(f"--notebook-dir={folder}", str(Path(folder) / FIRST)),
        *(() if browser else ("--no-browser",)),
        *(("--allow-root",) if root else ()),
    ]


def _title(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
