"""What made a run or a number: the version of vidbench, the notebook or command, the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vidbench.system.processes import cores
from vidbench.system.version import version

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "decord",
    "av",
    "opencv-contrib-python-headless",
    "faiss-cpu",
)
DECODERS = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec"}  # name -> package
NOTEBOOK = "VIDBENCH_NOTEBOOK"  # set for kernels by headless.kernel: JSON with notebook, parameters
CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia/version")


@cache
def made_by() -> dict[str, Any]:
    """Return vidbench's version, its commit, and whether files differ from that (`dirty`).

    The commit is None if it is unknown, as for a wheel; `dirty` is then None, too. Git is called
    once per process (system.version).
    """
    running = version()
    commit = running.commit or None
    return {
        "version": running.package,
        "commit": commit,
        "dirty": running.dirty if commit else None,
    }


def environment(decoder: str = "") -> dict[str, Any]:
    """Return what a number depends on besides the recipe.

    Args:
        decoder: The decoder of the run's videos, if it has one.
    """
    versions = {name: _version(name) for name in PACKAGES}
    cuda = torch.cuda.is_available()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    named = {"name": decoder, "version": _version(DECODERS.get(decoder, decoder))}
    return {
        "vidbench": made_by(),
        **_begun_by(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": cores(),
        "device": gpus[0] if gpus else "cpu",
        "gpus": gpus,
        "driver": driver() if gpus else None,
        "decoder": named if decoder else None,
        "versions": versions,
    }


def _begun_by() -> dict[str, Any]:
    """The notebook with its parameters, or the command. What is unknown is null.

    A kernel's command line says nothing of its notebook. `vidbench run` and papermill's engine name
    it and its parameters, JupyterLab its path."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    given = _from_runner()
    if not given and not words[0].startswith(("ipykernel", "colab_kernel")):
        return {"notebook": None, "parameters": None, "command": words}
    session = Path(os.environ.get("JPY_SESSION_NAME", "")).name
    return {
        "notebook": given.get("notebook") or session or "notebook",
        "parameters": given.get("parameters"),
        "command": None,
    }


def _from_runner() -> dict[str, Any]:
    try:
        given = json.loads(os.environ.get(NOTEBOOK, "{}"))
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return "absent"


def _cpu() -> str:
    """The processor's model, on which rounding depends; the architecture if the system hides it."""
    try:
        found = re.search(r"model name\s*: (.+)", CPUINFO.read_text(encoding="utf-8"))
    except OSError:
        return platform.machine()
    return found[1].strip() if found else platform.machine()


def driver() -> str | None:
    """Return the version of NVIDIA's kernel driver; None if the system does not show it."""
    try:
        found = re.search(r"Kernel Module .*?\b(\d+\.[\d.]+)", DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None
