"""The table of a batch: a YAML or csv file, read into rows, each with its own folder."""

import csv
import io
import itertools
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from vidbench.headless.parameters import (
    check,
    check_kernel,
    digest_of,
    known_parameters,
    look_at_data,
    read_book,
    spoken,
)
from vidbench.headless.paths import absolute
from vidbench.headless.status import read, read_file
from vidbench.headless.values import ParameterError, load_yaml, read_text
from vidbench.system.files import path_inside

LONGEST = 100  # letters of a folder's name
PARTS = ("parameters", "grid", "compose")
Entry: TypeAlias = tuple[str, Any, dict[str, str]]


@dataclass(frozen=True)
class Row:
    """One notebook with its parameters, and the folder of its executed copy."""

    number: int
    name: str
    notebook: Path
    parameters: dict
    folder: Path
    digest: str

    @property
    def copy(self) -> Path:
        return self.folder / self.notebook.name

    def status(self) -> dict:
        """As status.read; state `new` also if the folder holds a run of other contents or
        parameters."""
        found = read(self.copy)
        if found["state"] in ("running", "damaged") or found.get("digest") == self.digest:
            return found
        return {"state": "new"}


def read_table(table: str | Path, out: str | Path, kernel: str = "") -> list[Row]:
    """The rows of a table, each checked against its notebook.

    A .yaml holds one map or a list of maps: `notebook`, a path from the table's folder;
    `parameters`; `grid`, each combination of whose lists is a row, in order; `compose`, text made
    of the row's other parameters, such as {name: "{stream}-seed{changes[seed]}"}. A name with dots
    is a field of a map: changes.seed. In a grid a name of your own may hold a list of maps,
    settings of several parameters each. A .csv has a column `notebook` and one for each parameter,
    an empty cell being one not given. Relative paths are relative to the table's folder. A row whose
    folder exists under another name, since the table has grown, keeps it. kernel: the name of an installed
    one, in which all run. Raises ParameterError."""
    table, out = Path(table), Path(out)
    books: dict[Path, Any] = {}
    found = []
    for where, entry, texts in _entries(table):
        try:
            found += _expanded(entry, texts, table.parent, books, kernel)
        except (ValueError, OSError) as error:
            raise ParameterError(f"{table}, {where}: {error}") from None
    if not found:
        raise ParameterError(f"{table} has no rows.")
    return _placed(found, out, books)


def check_rows(rows: Sequence[Row]) -> None:
    """Look at the data sets of the rows that are not complete.

    Raises:
        ParameterError: one does not exist, or is no data set.
    """
    looked: set[str] = set()
    for row in rows:
        given = {n: row.parameters[n] for n in ("data", "runs_dir", "fold") if n in row.parameters}
        key = f"{row.notebook} {given}"
        if key in looked or row.status()["state"] == "complete":
            continue
        try:
            look_at_data(row.notebook, given, row.notebook)
        except ParameterError as error:
            raise ParameterError(f"row {row.number}: {error}") from None
        looked.add(key)


def _entries(table: Path) -> Iterator[Entry]:
    """Where each entry is in the table, for messages, its content, and parameters yet to read."""
    if table.suffix.lower() == ".csv":
        yield from _csv_entries(table)
        return
    loaded = load_yaml(table)
    for number, entry in enumerate(loaded if isinstance(loaded, list) else [loaded], 1):
        yield f"entry {number}", entry, {}


def _csv_entries(table: Path) -> Iterator[Entry]:
    lines = _csv_lines(table)
    _, names = next(lines, (0, []))
    twice = [name for name in names if names.count(name) > 1]
    if "notebook" not in names or not all(name.strip() for name in names) or twice:
        raise ParameterError(
            f"{table}, line 1: wanted a column notebook and different names over all others,"
            f" separated by commas; got {','.join(names)!r}."
        )
    for number, cells in lines:
        if len(cells) != len(names):
            raise ParameterError(
                f"{table}, line {number}: wanted {len(names)} cells; got {len(cells)}: {cells}."
            )
        texts = {name: text for name, text in zip(names, cells, strict=True) if text}
        if texts:
            yield f"line {number}", {"notebook": texts.pop("notebook", "")}, texts


def _csv_lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a csv with their numbers. A cell cannot go over a line's end: a quote that is
    opened and not closed would take in the lines after it."""
    for number, line in enumerate(io.StringIO(read_text(table), newline=None), 1):
        try:
            cells = next(csv.reader([line.rstrip("\n")], strict=True), [])
        except csv.Error as error:
            raise ParameterError(
                f"{table}, line {number}: a cell's quotes must be closed in its line, and it has at"
                f" most {csv.field_size_limit():,} characters; got {line.rstrip()[:80]!r} ({error})."
                " For text with line breaks use a .yaml table."
            ) from None
        if cells:
            yield number, cells


def _expanded(
    entry: Any, texts: dict[str, str], folder: Path, books: dict[Path, Any], kernel: str
) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """(notebook, parameters, those that name the row) of each row of an entry."""
    if not isinstance(entry, dict) or set(entry) - {*PARTS, "notebook"}:
        raise ParameterError(
            f"wanted a map of notebook, parameters, grid, compose, the first at least; got {entry!r}."
        )
    notebook = entry.get("notebook")
    if not isinstance(notebook, str) or not notebook.strip():
        raise ParameterError(
            "notebook must be the path of an .ipynb file, from the table's folder; got "
            f"{notebook!r}. Write notebook: NAME.ipynb"
        )
    path = folder / notebook
    if path not in books:
        books[path] = read_book(path)
        check_kernel(books[path], path, kernel)
    book = books[path]
    maps = [entry.get(part) or {} for part in PARTS]
    if not all(isinstance(part, dict) and all(map(_is_name, part)) for part in maps):
        raise ParameterError(f"parameters, grid and compose are maps of names; got {entry!r}.")
    parameters, grid, compose = maps
    parameters = parameters | spoken(book, texts)
    combined = _combined(parameters, grid, compose, book)
    return [
        (path, check(book, absolute(made, folder), path.name), named) for made, named in combined
    ]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and all(field.strip() for field in name.split("."))


def _combined(
    parameters: dict[str, Any], grid: dict[str, Any], compose: dict[str, str], book: Any
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The parameters of each combination of a grid, with and without those of `compose`."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"grid: {name} wants a list of values; got {values!r}.")
    known = known_parameters(book) if parameters or grid or compose else {}
    for values in itertools.product(*grid.values()):
        made = _fields(parameters)
        for name, value in zip(grid, values, strict=True):
            bundle = isinstance(value, dict) and name.split(".")[0] not in known
            _fields(value if bundle else {name: value}, made)
        named = deepcopy(made)
        try:
            _fields({name: text.format(**made) for name, text in compose.items()}, made)
        except (LookupError, ValueError, AttributeError, TypeError) as error:
            raise ParameterError(
                f"compose {compose} of {named}: {type(error).__name__}: {error}"
            ) from None
        yield made, named


def _fields(values: dict, into: dict | None = None) -> dict[str, Any]:
    """Set names with dots as fields of maps.

    Raises:
        ParameterError: two of the names set the same field.
    """
    into = {} if into is None else into
    for name in values:
        if not _is_name(name):
            raise ParameterError(f"a parameter's name is text; got {name!r} in {values!r}.")
        above = [name[:at] for at, letter in enumerate(name) if letter == "."]
        if any(short in values for short in above):
            raise ParameterError(f"{name} is set twice, by itself and by {above[0]}: {values!r}.")
    for name, value in values.items():
        *maps, last = name.split(".")
        place = into
        for field in maps:
            place = place.setdefault(field, {})
            if not isinstance(place, dict):
                raise ParameterError(f"{name}: {field} is no map but {place!r}.")
        place[last] = deepcopy(value)
    return into


def _placed(
    found: list[tuple[Path, dict[str, Any], dict[str, Any]]], out: Path, books: dict[Path, Any]
) -> list[Row]:
    """The rows with their folders: below the notebook's name, what distinguishes the row from
    others of it. No two folders differ only in case."""
    digests = [digest_of(books[notebook], parameters) for notebook, parameters, _ in found]
    _refuse_same(found, digests)
    there = _places(out)
    taken = {str(there[mark]).casefold() for mark in digests if mark in there}
    names = _names([(notebook.stem, leaves(named)) for notebook, _, named in found])
    rows = []
    for number, (notebook, parameters, _) in enumerate(found):
        mark = digests[number]
        folder = there.get(mark) or path_inside(out, Path(notebook.stem, names[number]))
        if mark not in there and str(folder).casefold() in taken:
            folder = folder.with_name(f"{folder.name}-{mark[:8]}")
        taken.add(str(folder).casefold())
        name = folder.relative_to(out).as_posix()
        rows.append(Row(number, name, notebook.resolve(), parameters, folder, mark))
    return rows


def _refuse_same(found: list, digests: list[str]) -> None:
    first: dict[str, int] = {}
    for number, mark in enumerate(digests):
        if first.setdefault(mark, number) != number:
            same = [i for i, other in enumerate(digests) if other == mark]
            notebook, parameters, _ = found[number]
            raise ParameterError(f"rows {same} are the same: {notebook.name} with {parameters}.")


def _places(out: Path) -> dict[str, Path]:
    """The folder of each run below `out`, by digest. A damaged status file is reported and left."""
    places = {}
    for path in sorted(out.rglob("*.status.json")):
        facts = read_file(path)
        if facts["state"] == "damaged":
            print(f"vidbench: {facts['error']}.", file=sys.stderr)
        elif "digest" in facts:
            places[facts["digest"]] = path.parent
    return places


def leaves(values: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten maps in maps to one map; the names of its keys have dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _names(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """For each (group, values) what differs from others of the group, as name=value; empty if
    nothing does. It is safe as a part of a path."""
    known: dict[str, set[str]] = defaultdict(set)  # of each group, all names
    sizes, shared = Counter(group for group, _ in rows), Counter[tuple[str, str, str]]()
    for group, values in rows:
        known[group].update(values)
        shared.update((group, name, _key(value)) for name, value in values.items())
    names = []
    for group, values in rows:
        words = [
            f"{_clean(name)}={_clean(value)}"
            for name, value in values.items()
            if shared[group, name, _key(value)] < sizes[group]
        ]
        plain = "plain" if known[group] - values.keys() else ""
        names.append((",".join(words) or plain)[:LONGEST].rstrip("."))
    return names


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _clean(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value)).strip("-")
