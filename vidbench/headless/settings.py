"""The settings of a table: named values that fill its texts, and the combinations of `each`."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from vidbench.headless.paths import absolute
from vidbench.headless.values import ParameterError, once, value_of

NAME = re.compile(r"\{(\w+)\}")


def opened(loaded: Any, texts: Iterable[tuple[str, str]], folder: Path) -> tuple[list, dict | None]:
    """Take a table apart.

    Args:
        loaded: A map of `settings` and `rows`, or the entries themselves.
        texts: (name, value) pairs of a command line, which replace settings. Relative paths among
            them are relative to the working directory.
        folder: The table's, to which paths among its own settings are relative.

    Returns:
        The entries, and the settings; None if the table has none.

    Raises:
        ParameterError: The map has other keys, or a pair names no setting.
    """
    given = once(texts, "setting")
    settings = None
    if isinstance(loaded, dict) and "rows" in loaded:
        settings, wrong = loaded.get("settings") or {}, loaded.keys() - {"settings", "rows"}
        if wrong or not isinstance(settings, dict):
            raise ParameterError(
                f"a table with rows must be a map of settings and rows; got {[*loaded]}."
            )
        loaded, settings = loaded["rows"], absolute(settings, folder)
    for name in given:
        if name not in (settings or {}):
            known = ", ".join(f"{key} = {value!r}" for key, value in (settings or {}).items())
            raise ParameterError(
                f"-p must name a setting of the table; got {name!r}. It has {known or 'none'}."
            )
    given = {name: _typed(text, (settings or {})[name]) for name, text in given.items()}
    entries = loaded if isinstance(loaded, list) else [loaded]
    return entries, None if settings is None else settings | absolute(given, Path.cwd())


def _typed(text: str, default: Any) -> Any:
    """The value of a text, which stays text if the default is text and the value is not."""
    value = value_of(text)
    return text if isinstance(default, str) and not isinstance(value, str) else value


def spread(entry: Any, settings: Mapping[str, Any] | None) -> Iterator[Any]:
    """Make an entry for each combination of its lists in `each`, its texts filled.

    An item of such a list may be a map, whose fields then fill the texts. An entry without `each`
    in a table without settings stays unchanged.

    Args:
        entry: An entry of a table.
        settings: Names and values that fill texts; None if the table has none.

    Raises:
        ParameterError: `each` is no map of lists, or a text has a name that is none of these.
    """
    if not isinstance(entry, dict) or settings is None and "each" not in entry:
        yield entry
        return
    known = dict(settings or {})
    lists = filled(entry.get("each") or {}, known)
    if not isinstance(lists, dict) or not all(isinstance(one, list) for one in lists.values()):
        raise ParameterError(f"each must be a map of names to lists of values; got {lists!r}.")
    rest = {key: value for key, value in entry.items() if key not in ("each", "compose")}
    for values in itertools.product(*lists.values()):
        fields = dict(known)
        for name, value in zip(lists, values, strict=True):
            fields |= value if isinstance(value, dict) else {name: value}
        made = filled(rest, fields)
        yield made | ({"compose": entry["compose"]} if "compose" in entry else {})


def filled(value: Any, known: Mapping[str, Any]) -> Any:
    """Fill {name} in all texts of a value; a text that is only {name} becomes the value itself.

    Args:
        known: Name -> value.

    Raises:
        ParameterError: A name is unknown.
    """
    if isinstance(value, dict):
        return {key: filled(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    if not isinstance(value, str):
        return value
    for name in NAME.findall(value):
        if name not in known:
            raise ParameterError(
                f"{{{name}}} in {value!r} must be a name of settings or each; known are "
                f"{', '.join(known) or 'none'}."
            )
    whole = NAME.fullmatch(value)
    if whole:
        return deepcopy(known[whole[1]])
    return NAME.sub(lambda found: str(known[found[1]]), value)
