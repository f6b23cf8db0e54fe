"""A notebook's parameters: found in its tagged cell, checked before anything starts."""

import ast
import json
import math
import os
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from vidbench.headless.paths import absolute, check_data
from vidbench.headless.status import INJECTED, copy_name, digest
from vidbench.headless.values import ParameterError, load_yaml, once, value_of
from vidbench.system.errors import MissingError
from vidbench.system.files import path_inside

if TYPE_CHECKING:
    from nbformat import NotebookNode

Book: TypeAlias = Union[str, Path, "NotebookNode"]  # a notebook, or its path

PLAIN = {"str", "int", "float", "bool", "list", "dict", "tuple", "NoneType"}
PAPERMILLS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # its options inject them unasked


def known_parameters(notebook: Book) -> dict[str, Any]:
    """Return the parameters that a notebook declares: name -> default, plain literals.

    They are the assignments of its cell tagged `parameters`.

    Args:
        notebook: A notebook, or its path.

    Raises:
        ParameterError: it has no such cell, or the cell has other lines.
    """
    return {name: deepcopy(default) for name, (default, _) in _declared(notebook).items()}


def check(notebook: Book, values: dict, where: str = "") -> dict[str, Any]:
    """Check values against the parameters of a notebook, and convert them.

    int is accepted for float, and a tuple for a list.

    Args:
        notebook: A notebook, or its path.
        values: Name -> value.
        where: The notebook's name in messages; by default that of its file.

    Returns:
        Name -> value of a declared type.

    Raises:
        ParameterError: a name is unknown, a value has another type, or papermill cannot write it
            into a notebook.
    """
    known = _declared(notebook) if values else {}
    where = where or _named(notebook)
    return {name: _checked(where, name, value, known) for name, value in values.items()}


def spoken(notebook: Book, texts: dict[str, str]) -> dict[str, Any]:
    """Read the texts of a command line or a csv (`values.value_of`).

    A text stays text if the parameter may be a text, but not of the type that was read.

    Args:
        notebook: A notebook, or its path.
        texts: Name -> text.

    Returns:
        Name -> value, not yet checked.

    Raises:
        ParameterError: the notebook declares no parameters, or a key comes twice in a map.
    """
    values: dict[str, Any] = {}
    known = _declared(notebook) if texts else {}
    for name, text in texts.items():
        types = known[name][1] if name in known else set()
        value = value_of(text)
        keep = "str" in types and type(value).__name__ not in types
        values[name] = text if keep else value
    return values


def digest_of(book: "NotebookNode", values: dict) -> str:
    """Compute status.digest of a notebook with these values.

    A value equal to the default gives the same digest as none.

    Args:
        book: The notebook.
        values: Its parameters.
    """
    try:
        defaults = known_parameters(book)
    except ParameterError:  # it takes none
        defaults = {}
    return digest(book.cells, defaults | values)


def settings(path: str | Path) -> dict:
    """Read the parameters of a YAML file: one map.

    Raises:
        ParameterError: the file has something else, or is no YAML.
    """
    found = load_yaml(path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(
            f"{path}: wanted a map of parameter names to values; got {type(found).__name__}."
        )
    return found


def plan(
    notebooks: Sequence[str | Path],
    out: str | Path,
    files: Iterable[str | Path] = (),
    texts: Iterable[tuple[str, str]] = (),
    kernel: str = "",
) -> list[tuple[Path, dict]]:
    """List the notebooks with their parameters, all checked before the first starts.

    Relative paths in files are relative to the file, those of `texts` to the working directory.
    Each notebook must know all parameters; otherwise a misspelled name would pass.

    Args:
        notebooks: Their paths.
        out: The folder of the executed copies.
        files: YAML files of parameters, of which the last wins.
        texts: (name, text) pairs of a command line, which win over files.
        kernel: The name of an installed kernel, in which all run; empty is this interpreter.

    Returns:
        (path of the notebook, its parameters) of each.

    Raises:
        ParameterError: a parameter or a kernel does not fit, `data` is no data set, two notebooks
            would have the same copy, or a copy would replace its notebook.
        FileNotFoundError: a notebook does not exist.
        ValueError: the node's name is no file name (status.copy_name).
    """
    filed: dict[str, Any] = {}
    planned: list[tuple[Path, dict]] = []
    taken: set[str] = set()
    for file in files:
        filed |= absolute(settings(file), Path(file).parent)
    given = once(texts)
    for notebook in map(Path, notebooks):
        named = check(notebook, filed | absolute(spoken(notebook, given), Path.cwd()))
        look_at_data(notebook, named, notebook)
        if notebook.resolve().parent == Path(out).resolve():
            raise ParameterError(f"the executed copy would replace {notebook}; name another --out.")
        copy = copy_name(notebook).casefold()  # some disks ignore case
        if copy in taken:
            raise ParameterError(
                f"two notebooks are called {notebook.name}; their copies want two calls, two --out."
            )
        taken.add(copy)
        planned.append((notebook, named))
    for notebook, _ in planned:  # last: nbformat and jupyter_client take seconds to import
        check_kernel(read_book(notebook), notebook, kernel)
    return planned


def look_at_data(book: Book, values: dict[str, Any], path: Path) -> None:
    """Look at the data sets among a notebook's checked values (see paths.check_data).

    Args:
        book: A notebook, or its path.
        values: Checked parameters.
        path: The notebook's path; relative paths among the defaults are relative to its folder.

    Raises:
        ParameterError: one does not exist, or is no data set.
    """
    if "data" in values:
        check_data(path.name, known_parameters(book) | values, path.resolve().parent)


def read_book(path: str | Path) -> Any:
    """Read a notebook, in nbformat's version 4.

    Raises:
        FileNotFoundError: it is missing.
        ParameterError: it is no notebook.
    """
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            cell.cell_type, cell.source, cell.metadata  # noqa: B018
    except FileNotFoundError:
        raise MissingError(f"no such notebook: {path}. Name an .ipynb file") from None
    except IsADirectoryError:
        raise ParameterError(f"{path} is no notebook but a folder. Name an .ipynb file.") from None
    except OSError:
        raise
    except Exception as error:  # nbformat raises many types
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ParameterError(
            f"{path} is no notebook: it must be JSON with nbformat and cells; got "
            f"{_beginning(Path(path))} ({said}). Open it in JupyterLab, and save it."
        ) from None
    return book


def _beginning(path: Path) -> str:
    """The first letters of a file, for messages."""
    with path.open("rb") as file:
        text = file.read(60).decode(errors="replace")
    return repr(text.strip()) if text.strip() else "an empty file"


def check_kernel(book: "NotebookNode", path: Path, name: str = "") -> None:
    """Check that a notebook can run in the kernel of that name, or else in this interpreter.

    Args:
        path: The notebook's path, for messages.
        name: An installed kernel; empty is this interpreter.

    Raises:
        ParameterError: no such kernel is installed; or none is named, and the notebook is not in
            Python.
    """
    from vidbench.headless.kernels import check_language, named

    named(name)
    check_language(book, path, name)


def injected(nb: "NotebookNode") -> dict[str, Any]:
    """Return the parameters that papermill wrote into a notebook, now or in an earlier execution.

    Those that papermill injects on its own (PAPERMILLS) are left out.
    """
    # plain dicts again
    given = json.loads(json.dumps(nb.metadata.papermill.get("parameters") or {}))
    cell = next((cell for cell in nb.cells if INJECTED in cell.metadata.get("tags", [])), None)
    if cell is not None and not given:
        given = {
            name: default
            for name, (default, _) in (
                _assigned(node, "the cell of injected parameters")
                for node in ast.parse(cell.source).body
            )
        }
    return {name: value for name, value in given.items() if name not in PAPERMILLS}


def _declared(notebook: Book) -> dict[str, tuple]:
    """Name -> default and the names of the types it may have, empty where anything goes."""
    where = _named(notebook)
    cells = _cells(notebook) if isinstance(notebook, str | Path) else notebook.cells
    for cell in cells:
        if "parameters" in cell["metadata"].get("tags", []):
            return _parsed("".join(cell["source"]), where)
    raise ParameterError(f"{where} has no cell tagged `parameters`, so it takes none.")


def _cells(path: str | Path) -> Any:
    """The cells of a notebook, without nbformat if it is of version 4."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            "".join(cell["source"]), "parameters" in cell["metadata"].get("tags", [])
        return cells
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return read_book(path).cells


@lru_cache(32)  # a table reads the same cell for each of its rows
def _parsed(source: str, where: str) -> dict[str, tuple]:
    try:
        return dict(_assigned(node, where) for node in ast.parse(source).body)
    except SyntaxError as error:
        raise ParameterError(f"{where}: its parameters cell is no Python: {error}") from None


def _named(notebook: Book) -> str:
    return Path(notebook).name if isinstance(notebook, str | Path) else "the notebook"


def _assigned(node: Any, where: str) -> tuple[str, tuple]:
    """(name, (default, types)) of a line `name: type = literal` or `name = literal`."""
    try:
        target: Any = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        name, default = target.id, ast.literal_eval(node.value)
    except (AttributeError, ValueError, TypeError):
        raise ParameterError(
            f"{where}: its parameters cell needs lines `name: type = literal`; got"
            f" {ast.unparse(node)!r}."
        ) from None
    words = (
        ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
    )
    types = {word.split("[")[0].strip().replace("None", "NoneType") for word in words.split("|")}
    if not types <= PLAIN:
        types = {type(default).__name__}
    return name, (default, types if types != {"NoneType"} else set())


def _checked(where: str, name: str, value, known: dict):
    if name not in known:
        listed = ", ".join(f"{n} = {default!r}" for n, (default, _) in known.items())
        raise ParameterError(f"{where} has no parameter {name!r}; the known ones are {listed}.")
    default, types = known[name]
    try:
        value = _plain(value)
    except TypeError as error:
        raise ParameterError(
            f"{where}: {name} needs what YAML can hold; got {value!r}: {error}."
        ) from None
    kind = type(value).__name__
    if name == "name" and kind == "str" and value:
        _named_folder(where, value)
    if kind == "int" and "float" in types and "int" not in types:
        return float(value)
    if not types or kind in types or {kind, *types} == {"list", "tuple"}:
        return value
    wanted = " or ".join(sorted(types)).replace("NoneType", "None")
    raise ParameterError(
        f"{where}: {name} needs {wanted} such as {default!r}; got {value!r}, which is {kind}."
    )


def _named_folder(where: str, value: str) -> None:
    """Check the parameter `name`, which names a run's folder in all notebooks."""
    try:
        path_inside("the folder of runs", value)
    except ValueError as error:
        raise ParameterError(f"{where}: name {error}.") from None


def _plain(value: Any) -> Any:
    """As papermill can write it into a notebook: tuples, of which it would make text, as lists; a
    number of NumPy or PyTorch as Python's; a path as text."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a map's keys are text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise TypeError("nan equals nothing, not even itself")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is none of its types")
