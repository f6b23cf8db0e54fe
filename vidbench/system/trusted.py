"""Code outside vidbench that a name may load, and the one rule on which modules are imported for it.

A run directory and a recipe name code: a method, a network. A directory from elsewhere must not choose
what runs, so a name becomes an import only if the caller named its module: by `trust`, by `--import`
of a command, or in the variable VIDBENCH_IMPORT, which all processes started from here inherit. A
module that the program has already imported may be used as well. Naming a package includes its
submodules.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType

from vidbench.system.errors import Brief

VARIABLE = "VIDBENCH_IMPORT"  # names of modules, separated by commas


class UntrustedError(Brief, ValueError):
    """Code outside vidbench that this program may not import; the message says how to name it."""


class CodeError(Brief, ValueError):
    """Code outside vidbench that cannot be loaded; the message shows the cause and its place."""


def trust(*modules: str) -> list[ModuleType]:
    """Import modules of your own, here and in every process started from here.

    Args:
        modules: Importable names, such as "mypackage.mine".

    Returns:
        The modules.

    Raises:
        CodeError: A name is not a module's, or importing it fails.
    """
    loaded = [imported(name) for name in modules]
    for name in modules:
        if not _among(name, named()):
            os.environ[VARIABLE] = ",".join([*named(), name])
    return loaded


def named() -> tuple[str, ...]:
    """Return the modules that the caller named, in order."""
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def import_named() -> None:
    """Import all modules that the caller named.

    Raises:
        CodeError: A name is not a module's, or importing it fails.
    """
    for name in named():
        imported(name)


def imported(module: str) -> ModuleType:
    """Import a module of the caller's own, without naming it for other processes.

    Raises:
        CodeError: The name is not a module's, or the import fails; it shows the cause and its place.
    """
    try:
        return importlib.import_module(_checked(module))
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise CodeError(
                f"there is no module {error.name!r} on Python's path; got {module!r}. Install its "
                "package (pip install -e FOLDER), or add the folder that contains it to PYTHONPATH."
            ) from error
        raise CodeError(_failure(module, error)) from error
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise CodeError(_failure(module, error)) from error


def load(module: str, what: str) -> ModuleType:
    """Return a module of the caller's own, imported if the caller named it.

    Args:
        what: What needs the module, for the message, such as "network 'mypackage.mine:Net'".

    Raises:
        UntrustedError: The program neither imported the module nor did the caller name it.
        CodeError: Its import fails.
    """
    if _checked(module) not in sys.modules and not _among(module, named()):
        raise UntrustedError(
            f"{what} is code outside vidbench, and this program has not imported it. A run "
            f"directory must not choose what is imported. If you trust {module}, {how(module)}."
        )
    return imported(module)


def how(module: str) -> str:
    """Say how the caller names a module."""
    return (
        f'call vidbench.trust("{module}"), or give the command `--import {module}`, or set '
        f"{VARIABLE}={module}"
    )


def spread(network: str, *modules: str) -> None:
    """Let processes started from here import what this process uses: a network and modules.

    Args:
        network: A recipe's network; only an importable name ("mypackage.mine:Net") has a module.
        modules: Imported modules, such as a method's; those of vidbench need no permission.

    Raises:
        UntrustedError: This process itself may not import the network's module.
        CodeError: Its import fails.
    """
    place, colon, _ = str(network).partition(":")
    if colon:
        load(place, f"the network {network!r}")
        modules = (*modules, place)
    inside = ("vidbench", "__main__", "__mp_main__")
    trust(*(name for name in modules if name.partition(".")[0] not in inside))


def _among(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _checked(module: str) -> str:
    """A dotted name that import_module takes. Raises CodeError if it is none."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise CodeError(
            f"a module's name must be importable, such as mypackage.mine; got {module!r}. Write it "
            "without a folder and without .py."
        )
    return module


def _failure(module: str, error: BaseException) -> str:
    """The cause of a failed import and its last place in the user's own code."""
    return (
        f"importing {module!r} failed with {type(error).__name__}: {error}{place_of(error)}. "
        "Repair it, and try `python -c 'import "
        f"{module}'`."
    )


def place_of(error: BaseException) -> str:
    """Say where the caller's own code raised an error, as ` (mine.py, line 3)`; empty if unknown.

    Frames of installed packages, of Python and of vidbench come last: they show less."""
    if isinstance(error, SyntaxError):
        return ""  # its text has the place
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _installed(frame.filename)] or frames
    return f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""


def _installed(file: str) -> bool:
    ours = os.path.dirname(os.path.dirname(__file__))
    libraries = (ours, os.path.dirname(os.__file__))
    return file.startswith(("<", *(f"{one}{os.sep}" for one in libraries))) or "-packages" in file
