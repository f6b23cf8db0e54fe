"""A notebook's parameters: found in its tagged cell, checked before anything starts, read from text
and YAML."""

import ast
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from click import ClickException

from vidbench.headless.status import INJECTED, digest

if TYPE_CHECKING:
    from nbformat import NotebookNode

Book: TypeAlias = Union[str, Path, "NotebookNode"]  # a notebook, or its path

PLAIN = {"str", "int", "float", "bool", "list", "dict", "tuple", "NoneType"}
PAPERMILLS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # its options inject them unasked


class ParameterError(ClickException, ValueError):
    """A parameter the notebook does not have, or of another type; the message lists the known
    ones."""

    exit_code = 2  # of papermill's command


def known_parameters(notebook: Book) -> dict[str, Any]:
    """Name to default of the cell tagged `parameters` of a notebook or the one at that path, plain
    literals all."""
    return {name: default for name, (default, _) in _declared(notebook).items()}


def check(notebook: Book, values: dict) -> dict[str, Any]:
    """The values as the notebook (or the one at that path) wants them.

    Raises ParameterError at an unknown name, another type, or what papermill cannot write into a
    notebook. int goes for float, and a tuple as a list."""
    known = _declared(notebook) if values else {}
    return {name: _checked(_named(notebook), name, value, known) for name, value in values.items()}


def spoken(notebook: Book, texts: dict[str, str]) -> dict[str, Any]:
    """Values of a command line or a csv: Python literals where the notebook wants them, else the
    text as it is."""
    values: dict[str, Any] = {}
    known = known_parameters(notebook) if texts else {}
    for name, text in texts.items():
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        values[name] = (
            text if isinstance(known.get(name), str) and not isinstance(value, str) else value
        )
    return values


def digest_of(book: "NotebookNode", values: dict) -> str:
    """Names what a notebook would do with these values: status.digest, values that are the defaults
    being the same as none."""
    try:
        defaults = known_parameters(book)
    except ParameterError:  # it takes none
        defaults = {}
    return digest(book.cells, defaults | values)


def settings(path: str | Path) -> dict:
    """The parameters in a YAML file: one map. Raises ParameterError where it is something else."""
    found = load_yaml(path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(
            f"{path}: wanted a map of parameter names to values; got {type(found).__name__}."
        )
    return found


def load_yaml(path: str | Path) -> Any:
    """A YAML file's plain values; 1e-3 is a number and a date is text, which YAML 1.1 reads the
    other way round.

    Raises ParameterError where it is no YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    kept = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.yaml_implicit_resolvers = kept
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is no YAML: {error}") from None


def plan(
    notebooks: Sequence[str | Path],
    out: str | Path,
    files: Iterable[str | Path] = (),
    texts: Iterable[tuple[str, str]] = (),
) -> list[tuple[Path, dict]]:
    """(notebook, its parameters) of each, all checked before the first starts.

    files: YAML files of parameters, of which the last wins; texts: (name, value) pairs of a command
    line, which win over files. Each notebook must know all of them, or a slip would pass. Raises
    ParameterError."""
    import nbformat

    filed: dict[str, Any] = {}
    planned: list[tuple[Path, dict]] = []
    for file in files:
        filed |= settings(file)
    for notebook in map(Path, notebooks):
        nbformat.read(notebook, as_version=4)  # it is there, and a notebook
        planned.append((notebook, check(notebook, filed | spoken(notebook, dict(texts)))))
        if notebook.resolve().parent == Path(out).resolve():
            raise ParameterError(f"the executed copy would replace {notebook}; name another --out.")
        if [other.name for other, _ in planned].count(notebook.name) > 1:
            raise ParameterError(
                f"two notebooks are called {notebook.name}; their copies want two calls, two --out."
            )
    return planned


def injected(nb: "NotebookNode") -> dict[str, Any]:
    """The parameters that papermill put in, or that an executed copy which is executed again
    brought along."""
    given = json.loads(
        json.dumps(nb.metadata.papermill.get("parameters") or {})
    )  # plain dicts again
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
    import nbformat

    where = _named(notebook)
    read = isinstance(notebook, str | Path)
    book: Any = nbformat.read(notebook, as_version=4) if read else notebook
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                return dict(_assigned(node, where) for node in ast.parse(cell.source).body)
            except SyntaxError as error:
                raise ParameterError(
                    f"{where}: its parameters cell is no Python: {error}"
                ) from None
    raise ParameterError(f"{where} has no cell tagged `parameters`, so it takes none.")


def _named(notebook: Book) -> str:
    return Path(notebook).name if isinstance(notebook, str | Path) else "the notebook"


def _assigned(node: Any, where: str) -> tuple[str, tuple]:
    """(name, (default, types)) of a line `name: type = literal` or `name = literal`."""
    try:
        target: Any = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        name, default = target.id, ast.literal_eval(node.value)
    except (AttributeError, ValueError, TypeError):
        raise ParameterError(
            f"{where}: its parameters cell wants lines `name: type = literal`; got"
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
    kind = type(value).__name__
    try:
        value = _plain(value)
    except TypeError as error:
        raise ParameterError(
            f"{where}: {name} wants what YAML can hold; got {value!r}: {error}."
        ) from None
    if kind == "int" and "float" in types and "int" not in types:
        return float(value)
    if not types or kind in types or {kind, *types} == {"list", "tuple"}:
        return value
    wanted = " or ".join(sorted(types)).replace("NoneType", "None")
    raise ParameterError(
        f"{where}: {name} wants {wanted} such as {default!r}; got {value!r}, which is {kind}."
    )


def _plain(value):
    """As papermill can write it into a notebook: tuples, of which it would make text, as lists."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a map's keys are text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is none of its types")
