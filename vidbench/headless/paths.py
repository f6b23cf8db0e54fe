"""Parameters that name files and folders: made absolute, and data sets looked at, before a kernel starts.

A relative path is meant from where it was written: a command line from the caller's folder, a
settings file or a table from its own. A default is the notebook's, so the kernel reads it from the
notebook's folder, as in JupyterLab. Which parameters are paths follows from their names:

    data, lists, out, published, truth, and any name that ends in     a file or folder
    _dir, _file, _folder or _path
    after, before, init, other, run, student, teacher                 a run's name; a path if it has a slash

A frozen encoder (`timm:resnet50=FILE`) is such a name; its weights are a path if the file or folder exists.

The rule also holds for each item of a list and each field of a map. `data` may be a built-in data set.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidbench.headless.values import ParameterError

FILES = ("data", "lists", "out", "published", "truth")
ENDS = ("_dir", "_file", "_folder", "_path")
FROZEN = re.compile(r"(\w{2,}:[^=]+)=(.+)")  # library:name=weights
RUNS = ("after", "before", "init", "other", "run", "student", "teacher")


def absolute(values: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Make the paths among parameters absolute.

    Args:
        values: Parameters; those that are no paths stay as they are.
        folder: What relative paths are relative to.

    Raises:
        ParameterError: a value cannot be a path.
    """
    return {name: _absolute(name, value, Path(folder)) for name, value in values.items()}


def _absolute(name: object, value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return absolute(value, folder)
    if isinstance(value, list | tuple):
        return type(value)(_absolute(name, item, folder) for item in value)
    if not isinstance(value, str):
        return value
    if name in RUNS and (frozen := FROZEN.fullmatch(value)):
        weights = (folder / Path(frozen[2]).expanduser()).resolve()
        return f"{frozen[1]}={weights}" if weights.exists() else value
    if not _is_path(name, value):
        return value
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (
        ValueError,
        RuntimeError,
        OSError,
    ) as error:  # a null byte, no such user, a loop of links
        raise ParameterError(f"{name} must be a path; got {value!r}: {error}.") from None


def _is_path(name: object, value: str) -> bool:
    if not isinstance(name, str) or not value:
        return False
    if name == "data":
        from vidbench.data.sets.catalogue import is_built_in

        return not is_built_in(value)
    return name in FILES or name.endswith(ENDS) or name in RUNS and "/" in value


def check_data(where: str, values: Mapping[str, Any], folder: Path) -> None:
    """Look at the data sets that a notebook is given, by its parameter `data`.

    A data set that was read into `runs_dir` before must exist and is not recognized once more.

    Args:
        where: The notebook's name in messages.
        values: All its parameters, those at their defaults too.
        folder: What the defaults are relative to.

    Raises:
        ParameterError: one does not exist, or is no data set.
    """
    given = values.get("data")
    for one in given if isinstance(given, list | tuple) else [given]:
        if isinstance(one, str) and one:
            problem = _problem(one, values, folder)
            if problem:
                raise ParameterError(f"{where}: data: {problem}")


def _problem(data: str, values: Mapping[str, Any], folder: Path) -> str:
    """What is wrong with a data set; empty if nothing is."""
    from vidbench.data.sets import catalogue

    if catalogue.is_built_in(data):
        return ""
    place, runs_dir, fold = folder / data, values.get("runs_dir"), values.get("fold", 1)
    if isinstance(runs_dir, str) and isinstance(fold, int):
        kept = folder / runs_dir / catalogue.name_of(place, fold) / "videos" / "origin.json"
        if place.exists() and kept.is_file():
            return ""
    try:
        catalogue.detect_dataset(place)
    except (ValueError, OSError) as error:
        return str(error)
    return ""
