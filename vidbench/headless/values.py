"""Text to values, in one place: YAML 1.2 files, and the texts of a command line or a csv cell.

YAML is version 1.2 (ruamel.yaml): `010` is ten, `1:30` and `on` are text, a key that comes twice is
an error. Dates and numbers with underscores are text, as in the core schema of YAML 1.2.
"""

import ast
import json
import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import ClickException

from vidbench.system.errors import Brief

if TYPE_CHECKING:
    from ruamel.yaml import YAML

NULLS = ("~", "null", "Null", "NULL")
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
ESCAPED = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class ParameterError(Brief, ClickException, ValueError):
    """A parameter that the notebook does not have or that has another type, or a bad table."""

    exit_code = 2  # of papermill's command


def value_of(text: str) -> Any:
    """Read a value of a command line or a csv cell.

    It is a Python literal, else a scalar, a [list] or a {map} of YAML 1.2, else the text itself.

    Raises:
        ParameterError: a key comes twice in a map.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _yaml_value(text)
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        keys = [ast.unparse(key) for key in node.keys if key] if isinstance(node, ast.Dict) else []
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ParameterError(f"{text}: the key {twice[0]} comes twice. Give it once.")
    return value


def _yaml_value(text: str) -> Any:
    flow = text.lstrip()[:1] in ("[", "{")
    if "#" in text and not flow:  # a comment to YAML
        return text
    try:
        value = parse_yaml(text)
    except ValueError as error:
        if "duplicate key" in str(error):
            raise ParameterError(f"{text}: {error}") from None
        return text
    if isinstance(value, dict | list) and not flow or value is None and text.strip() not in NULLS:
        return text
    return text if isinstance(value, str) else value


def once(texts: Iterable[tuple[str, str]], kind: str = "parameter") -> dict[str, str]:
    """Make a map of the (name, text) pairs of a command line.

    Args:
        kind: What the message calls a name.

    Raises:
        ParameterError: a name comes twice.
    """
    given: dict[str, str] = {}
    for name, text in texts:
        if name in given:
            raise ParameterError(
                f"{kind} {name!r} is given twice: {given[name]!r} and {text!r}. Give it once."
            )
        given[name] = text
    return given


def load_yaml(path: str | Path) -> Any:
    """Load a YAML 1.2 file of plain values.

    Raises:
        ParameterError: the file is no YAML 1.2, or a key comes twice in a map.
    """
    try:
        return parse_yaml(read_text(path))
    except ValueError as error:
        raise ParameterError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2.

    Raises:
        ValueError: it cannot be read; the message has the line.
    """
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        value = _yaml().load(text)
        json.dumps(value, default=str)  # finds a list or map that contains itself
    except DuplicateKeyError as error:
        said = str(error.problem).split(" with value")[0]
        line = error.problem_mark.line + 1
        raise ValueError(f"line {line}: {said}: a key may come once in a map.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context
        raise ValueError(f"{where}this is no YAML 1.2: {problem}.") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"this is no YAML of plain values: {error}.") from None
    return value


def yaml_text(values: dict[str, Any]) -> str:
    """Write plain values as YAML that `load_yaml` reads back equal."""
    return "".join(f"{_flow(name)}: {_flow(value)}\n" for name, value in values.items()) or "{}\n"


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; line ends stay as they are.

    Raises:
        ParameterError: the file has another encoding.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} must be UTF-8 text; got {error}. Save it as UTF-8.") from None


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        inside = (f"{_flow(name)}: {_flow(item)}" for name, item in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return ESCAPED.sub(
        lambda letter: f"\\u{ord(letter[0]):04x}", json.dumps(value, ensure_ascii=False)
    )


@cache
def _yaml() -> "YAML":
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        """Plain values of the core schema."""

    def text(constructor: Constructor, node: Any) -> str:
        return constructor.construct_scalar(node)

    def integer(constructor: Constructor, node: Any) -> int | str:
        plain = INTEGER.fullmatch(node.value) or constructor.resolver.processing_version == (1, 1)
        return constructor.construct_yaml_int(node) if plain else node.value

    def number(constructor: Constructor, node: Any) -> float | str:
        plain = FLOAT.fullmatch(node.value) or constructor.resolver.processing_version == (1, 1)
        return constructor.construct_yaml_float(node) if plain else node.value

    for tag, construct in (
        ("timestamp", text),
        ("value", text),
        ("int", integer),
        ("float", number),
    ):
        Constructor.add_constructor(f"tag:yaml.org,2002:{tag}", construct)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    yaml.version = (1, 2)
    return yaml
