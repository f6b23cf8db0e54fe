"""Optional packages: found, or an error that names the extra which installs them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any


def check_installed(package: str, extra: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        extra: Of pyproject.toml, which installs it.

    Raises:
        ImportError: It is missing; the message says how to install it.
    """
    if find_spec(package) is None:
        raise ImportError(_words(package, extra))


def needed(package: str, extra: str) -> Any:
    """Import an optional package.

    Args:
        extra: Of pyproject.toml, which installs it.

    Raises:
        ImportError: It is missing; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(_words(package, extra)) from error


def _words(package: str, extra: str) -> str:
    return (
        f"this needs the package {package}, which is missing. Install the extra {extra!r}: "
        f"pip install 'vidbench[{extra}]'."
    )
