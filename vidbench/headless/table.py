"""The table of a batch: a YAML or csv file, read into rows, each with its own folder."""

import csv
import io
import itertools
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from vidbench.headless import needs, settings
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
KEYS = ("notebook", "row", "needs", *PARTS)  # of an entry
Entry: TypeAlias = tuple[str, Any, dict[str, str]]


@dataclass(frozen=True)
class Row:
    """One notebook with its parameters, the folder of its executed copy, and the numbers of the
    rows that must be complete before it begins."""

    number: int
    name: str
    notebook: Path
    parameters: dict
    folder: Path
    digest: str
    needs: tuple[int, ...] = ()

    @property
    def copy(self) -> Path:
        return self.folder / self.notebook.name

    def status(self) -> dict:
        """Read the status of the row's copy, as status.read does.

        The state is also `new` if the folder has a run of other contents or parameters."""
        found = read(self.copy)
        if (
            found["state"] in ("running", "orphaned", "damaged")
            or found.get("digest") == self.digest
        ):
            return found
        return {"state": "new"}


@dataclass(frozen=True)
class _Found:
    """A row without its place: `named` are the parameters that name it if `name` is empty."""

    notebook: Path
    parameters: dict[str, Any]
    named: dict[str, Any]
    name: str
    needs: list[str]


def read_table(
    table: str | Path,
    out: str | Path,
    kernel: str = "",
    given: Iterable[tuple[str, str]] = (),
) -> list[Row]:
    """Read the rows of a table, each checked against its notebook.

    A .yaml holds one map or a list of maps:

    - `notebook`: a path from the table's folder
    - `parameters`: names and values. A name with dots is a field of a map: changes.seed
    - `grid`: lists of values; each combination is a row, in order. A name of your own may hold a
      list of maps, settings of several parameters each.
    - `compose`: text made of the row's other parameters, such as
      {name: "{stream}-seed{changes[seed]}"}
    - `row`: the name of the row and its folder
    - `needs`: names of rows that must be complete before this one begins, or patterns with *
    - `each`: lists of values, or of maps of values; each combination is an entry, in whose texts
      {name} is filled

    It may also be a map of `settings`, names and values that fill the texts of all entries, and
    `rows`, the list. A .csv has a column `notebook`, one for each parameter, and if wanted `row`
    and `needs`, names separated by blanks; an empty cell leaves the default. Relative paths are
    relative to the table's folder. A row whose folder exists under another name, since the table
    has grown, keeps it.

    Args:
        table: The file.
        out: The folder of the rows' folders.
        kernel: The name of an installed kernel, in which all run; empty is this interpreter.
        given: (name, text) pairs that replace settings.

    Raises:
        ParameterError: The table, a row or what it needs is wrong.
    """
    table, out = Path(table), Path(out)
    books: dict[Path, Any] = {}
    found: list[_Found] = []
    for where, entry, texts in _entries(table, given):
        try:
            found += _expanded(entry, texts, table.parent, books, kernel)
        except (ValueError, OSError) as error:
            raise ParameterError(f"{table}, {where}: {error}") from None
    if not found:
        raise ParameterError(f"{table} has no rows.")
    rows = _placed(found, out, books)
    try:
        numbers = needs.resolve([row.name for row in rows], [one.needs for one in found])
    except ParameterError as error:
        raise ParameterError(f"{table}: {error}") from None
    return [replace(row, needs=those) for row, those in zip(rows, numbers, strict=True)]


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


def _entries(table: Path, given: Iterable[tuple[str, str]]) -> Iterator[Entry]:
    """Where each entry is in the table, for messages, its content, and parameters yet to read."""
    if table.suffix.lower() == ".csv":
        settings.opened([], given, table.parent)  # it has none
        yield from _csv_entries(table)
        return
    entries, known = settings.opened(load_yaml(table), given, table.parent)
    for number, entry in enumerate(entries, 1):
        try:
            for one in settings.spread(entry, known):
                yield f"entry {number}", one, {}
        except ParameterError as error:
            raise ParameterError(f"{table}, entry {number}: {error}") from None


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
            entry = {"notebook": texts.pop("notebook", ""), "row": texts.pop("row", "")}
            yield f"line {number}", entry | {"needs": texts.pop("needs", "").split()}, texts


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
) -> list[_Found]:
    """The rows of an entry."""
    if not isinstance(entry, dict) or set(entry) - set(KEYS):
        raise ParameterError(
            "wanted a map of notebook, parameters, grid, compose, row, needs, each, the first at "
            f"least; got {entry!r}."
        )
    name, wanted = _name_and_needs(entry)
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
        _Found(path, check(book, absolute(made, folder), path.name), named, name, wanted)
        for made, named in combined
    ]


def _name_and_needs(entry: dict[str, Any]) -> tuple[str, list[str]]:
    """The row's name, empty if its parameters name it, and the names of the rows it needs."""
    name, wanted = entry.get("row") or "", entry.get("needs") or []
    if not isinstance(name, str) or name and (_clean(name) != name or len(name) > LONGEST):
        raise ParameterError(
            f"row must be a name of letters, digits and ._+-, at most {LONGEST}; got {name!r}."
        )
    if not isinstance(wanted, list) or not all(isinstance(one, str) and one for one in wanted):
        raise ParameterError(f"needs must be a list of rows' names; got {wanted!r}.")
    return name, wanted


def _is_name(name: object) -> bool:
    return isinstance(name, str) and all(field.strip() for field in name.split("."))


def _combined(
    parameters: dict[str, Any], grid: dict[str, Any], compose: dict[str, str], book: Any
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The parameters of each combination of a grid, with and without those of `compose`."""
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"grid: {name} needs a list of values; got {values!r}.")
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


def _placed(found: list[_Found], out: Path, books: dict[Path, Any]) -> list[Row]:
    """The rows with their folders: the row's name, or below the notebook's name what distinguishes
    the row from others of it. No two folders differ only in case."""
    digests = [digest_of(books[one.notebook], one.parameters) for one in found]
    _refuse_same(found, digests)
    there = _places(out)
    taken = {str(there[mark]).casefold() for mark in digests if mark in there}
    names = _names([(one.notebook.stem, leaves(one.named)) for one in found])
    rows = []
    for number, one in enumerate(found):
        mark = digests[number]
        inside = Path(one.name) if one.name else Path(one.notebook.stem, names[number])
        folder = there.get(mark) or path_inside(out, inside)
        if mark not in there and str(folder).casefold() in taken:
            folder = folder.with_name(f"{folder.name}-{mark[:8]}")
        taken.add(str(folder).casefold())
        name = one.name or folder.relative_to(out).as_posix()
        rows.append(Row(number, name, one.notebook.resolve(), one.parameters, folder, mark))
    return rows


def _refuse_same(found: list[_Found], digests: list[str]) -> None:
    first: dict[str, int] = {}
    for number, mark in enumerate(digests):
        if first.setdefault(mark, number) != number:
            same = [i for i, other in enumerate(digests) if other == mark]
            one = found[number]
            raise ParameterError(
                f"rows {same} are the same: {one.notebook.name} with {one.parameters}."
            )


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
    """Flatten maps in maps to one map; the names of its keys have dots.

    Args:
        values: Maps in maps.
        prefix: What the names begin with.
    """
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
