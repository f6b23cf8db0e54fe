"""The table of a batch: a YAML or csv file, read into rows, each with its own folder."""

import csv
import itertools
import json
import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidbench.headless.parameters import (
    ParameterError,
    check,
    digest_of,
    known_parameters,
    load_yaml,
    spoken,
)
from vidbench.headless.status import read

LONGEST = 100  # letters of a folder's name


@dataclass(frozen=True)
class Row:
    """One notebook with its parameters, and the folder that its executed copy lies in."""

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
        """As status.read; state `new` also where the folder holds a run of other contents or
        parameters."""
        found = read(self.copy)
        return (
            found
            if found.get("digest") == self.digest or found["state"] == "running"
            else {"state": "new"}
        )


def read_table(table: str | Path, out: str | Path) -> list[Row]:
    """The rows of a table, each checked against its notebook.

    A .yaml holds one map or a list of maps: `notebook`, a path from the table's folder;
    `parameters`; `grid`, each combination of whose lists is a row, in order; `compose`, text made
    of the row's other parameters, such as {name: "{stream}-seed{changes[seed]}"}. A name with dots
    is a field of a map: changes.seed. In a grid a name of your own may hold a list of maps,
    settings of several parameters each. A .csv has a column `notebook` and one for each parameter,
    an empty cell being one not given. A row whose folder exists under another name, since the table
    has grown, keeps it. Raises ParameterError."""
    table, out = Path(table), Path(out)
    entries = _csv_entries(table) if table.suffix == ".csv" else load_yaml(table)
    entries = entries if isinstance(entries, list) else [entries]
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found += _expanded(entry, table.parent)
        except (ParameterError, OSError) as error:
            raise ParameterError(f"{table}, entry {number}: {error}") from None
    if not found:
        raise ParameterError(f"{table} has no rows.")
    return _placed(found, out)


def _csv_entries(table: Path) -> list[dict]:
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    entries = []
    for line in lines:
        given = {name: text for name, text in line.items() if text not in ("", None)}
        if None in given or "notebook" not in given:
            raise ParameterError(
                f"{table}: wanted a column notebook and a name over every other; got {line}."
            )
        notebook = given.pop("notebook")
        entries.append({"notebook": notebook, "parameters": spoken(table.parent / notebook, given)})
    return entries


def _expanded(entry, folder: Path) -> list[tuple[Path, dict, dict]]:
    """(notebook, parameters, those that name the row) of each row of an entry."""
    if (
        not isinstance(entry, dict)
        or "notebook" not in entry
        or set(entry) - {"notebook", "parameters", "grid", "compose"}
    ):
        raise ParameterError(
            "wanted a map of notebook, parameters, grid, compose, the first at least; got "
            f"{entry!r}."
        )
    parameters, grid, compose = (
        entry.get(part) or {} for part in ("parameters", "grid", "compose")
    )
    if not all(isinstance(part, dict) for part in (parameters, grid, compose)):
        raise ParameterError(f"parameters, grid and compose are maps; got {entry!r}.")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"grid: {name} wants a list of values; got {values!r}.")
    notebook = folder / entry["notebook"]
    known = known_parameters(notebook) if parameters or grid or compose else {}
    rows = []
    for values in itertools.product(*grid.values()):
        made = _fields(parameters)
        for name, value in zip(grid, values, strict=True):
            bundle = isinstance(value, dict) and name.split(".")[0] not in known
            _fields(value if bundle else {name: value}, made)
        named = deepcopy(made)
        try:
            _fields({name: text.format(**made) for name, text in compose.items()}, made)
        except (LookupError, ValueError, AttributeError) as error:
            raise ParameterError(
                f"compose {compose} of {named}: {type(error).__name__}: {error}"
            ) from None
        rows.append((notebook, check(notebook, made), named))
    return rows


def _fields(values: dict, into: dict | None = None) -> dict:
    """Set names with dots as fields of maps."""
    into = {} if into is None else into
    for name, value in values.items():
        *maps, last = name.split(".")
        place = into
        for field in maps:
            place = place.setdefault(field, {})
            if not isinstance(place, dict):
                raise ParameterError(f"{name}: {field} is no map but {place!r}.")
        place[last] = deepcopy(value)
    return into


def _placed(found: list[tuple[Path, dict, dict]], out: Path) -> list[Row]:
    """The rows with their folders: below the notebook's name, what distinguishes the row from
    others of it."""
    import nbformat

    books = {notebook: nbformat.read(notebook, as_version=4) for notebook, _, _ in found}
    digests = [digest_of(books[notebook], parameters) for notebook, parameters, _ in found]
    twice = next((d for i, d in enumerate(digests) if d in digests[:i]), None)
    if twice:
        same = [i for i, d in enumerate(digests) if d == twice]
        raise ParameterError(
            f"rows {same} are the same: {found[same[0]][0].name} with {found[same[0]][1]}."
        )
    there = {
        json.loads(path.read_text()).get("digest"): path.parent
        for path in out.rglob("*.status.json")
    }
    taken = {there[d] for d in digests if d in there}
    rows = []
    for number, ((notebook, parameters, named), mark) in enumerate(
        zip(found, digests, strict=True)
    ):
        others = [leaves(other) for book, _, other in found if book.stem == notebook.stem]
        folder = there.get(mark) or out / notebook.stem / _name(leaves(named), others)
        if mark not in there and folder in taken:
            folder = folder.with_name(f"{folder.name}-{mark[:8]}")
        taken.add(folder)
        rows.append(
            Row(
                number,
                folder.relative_to(out).as_posix(),
                notebook.resolve(),
                parameters,
                folder,
                mark,
            )
        )
    return rows


def leaves(values: dict, prefix: str = "") -> dict[str, Any]:
    """Flatten maps in maps to one map; the names of its keys have dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _name(own: dict, others: list[dict]) -> str:
    """What differs, as name=value; empty where nothing does."""
    differing = [
        name
        for name, value in own.items()
        if any(other.get(name, ...) != value for other in others)
    ]
    words = [
        f"{name}={re.sub(r'[^A-Za-z0-9._+-]+', '-', str(own[name])).strip('-')}"
        for name in differing
    ]
    text = ",".join(words)
    if not text and any(set(other) - set(own) for other in others):
        text = "plain"
    return text[:LONGEST]
