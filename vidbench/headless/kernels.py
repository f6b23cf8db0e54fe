"""Which kernel a notebook runs in: an installed one by name, or the interpreter of the caller.

A notebook names the kernel of the machine on which it was saved, such as `my-lab-env`, and
`python3` may be another environment's. So notebooks in Python run in the interpreter that runs
vidbench, unless the caller names a kernel. papermill's own command chooses as papermill does."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vidbench.headless.values import ParameterError

if TYPE_CHECKING:
    from nbformat import NotebookNode

PYTHON = ("", "python", "python3", "ipython")  # languages and names of kernels


class Kernel(NamedTuple):
    """A kernel's name and language, for papermill; own: it is the interpreter that runs this."""

    name: str = "python3"
    language: str = "python"
    own: bool = True


THIS = Kernel()


def named(name: str) -> Kernel:
    """Return the installed kernel of that name; without a name the interpreter that runs this.

    Raises:
        ParameterError: no such kernel is installed.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    if not name:
        return THIS
    try:
        return Kernel(name, KernelSpecManager().get_kernel_spec(name).language, own=False)
    except NoSuchKernel:
        raise ParameterError(
            f"--kernel must be an installed kernel; got {name!r}. Installed: {_installed()}. Leave "
            f"--kernel out for notebooks in Python: they run in {sys.executable}."
        ) from None


def check_language(book: "NotebookNode", path: Path, name: str) -> None:
    """Warn if a notebook names another kernel than the one it runs in.

    Args:
        book: The notebook.
        path: Its path.
        name: The kernel that the caller named, or "".

    Raises:
        ParameterError: the notebook is not in Python, and no kernel is named.
    """
    if name:
        return
    saved = book.metadata.get("kernelspec", {})
    language = saved.get("language") or book.metadata.get("language_info", {}).get("name", "")
    if str(language).lower() not in PYTHON:
        raise ParameterError(
            f"{path} must be a notebook in Python, unless --kernel names a kernel; got {language}. "
            f"Installed: {_installed()}."
        )
    if saved.get("name", "") not in PYTHON:
        warnings.warn(
            f"{path} was saved with the kernel {saved['name']!r}; it runs in {sys.executable}. To "
            "choose an installed kernel, use --kernel NAME",
            stacklevel=2,
        )


def _installed() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    return ", ".join(sorted(KernelSpecManager().find_kernel_specs())) or "none"
