"""Tables of features for other programs: a pandas DataFrame, or a .parquet, .csv or .npz file.

One row a video, in the order of the manifest:

    id             the video's number in the manifest, from 0
    path           the absolute file
    label          the class, empty if it is unknown
    split          train, validate or test
    source_video   the long video that the clip was cut from
    x, y           (files only) the first two principal components of the vectors
    vector         the features, float32 [D]; in a .csv a JSON list, which DuckDB reads as a list

So Embedding Atlas opens a file as it is. It takes the plane from two columns, or makes its own by UMAP
from the vectors (its option --vector, documented for .parquet):

    embedding-atlas clips.parquet --x x --y y
    embedding-atlas clips.parquet --vector vector

Reading one back:

    pandas.read_parquet("clips.parquet")["vector"]              # numpy rows
    numpy.load("clips.npz")["vector"]                           # float32 [N,D]

Packages: pandas for DataFrames and .csv, pandas and pyarrow for .parquet (extra "table"). A .npz
needs neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.data.prepare.outputs import OutputError, Outputs
from vidbench.evaluate.layout import lay
from vidbench.evaluate.tables import Features, video_numbers
from vidbench.system.extras import needed
from vidbench.system.files import written

if TYPE_CHECKING:
    import pandas

SUFFIXES = (".parquet", ".csv", ".npz")
PLANE = ("x", "y")  # columns of a file that a DataFrame does not have


def to_frame(table: Features, manifest: Manifest) -> pandas.DataFrame:
    """Turn a table and its manifest into a pandas DataFrame, one row a video.

    Args:
        manifest: Of the table's videos, in its order.

    Returns:
        Columns id, path, label, split, source_video and vector (a float32 array [D] a row).

    Raises:
        ValueError: The table is not of these videos.
        ImportError: pandas is missing; the message names the extra.
    """
    frame = needed("pandas", "table").DataFrame(_columns(table, manifest))
    frame["vector"] = list(table.values)
    return frame


def save_table(
    table: Features, manifest: Manifest, path: str | Path, *, overwrite: bool = False
) -> Path:
    """Write a table as .parquet, .csv or .npz, whole or not at all.

    A file that an earlier call wrote, and that is unchanged since, is replaced. The folder's
    `.made.jsonl` records which files these are.

    Args:
        overwrite: Replace any other file, too.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is unknown, or the table is not of these videos.
        FileExistsError: vidbench did not write the file that is there.
        ImportError: A package is missing; the message names the extra.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"a table is saved as {', '.join(SUFFIXES)}; got {path.name!r}. Give the name one of "
            "these endings."
        )
    columns = _columns(table, manifest)
    points = lay({"": table.values}, "pca")[""]
    columns |= {name: points[:, axis] for axis, name in enumerate(PLANE)}
    for package in _packages(path.suffix):
        needed(package, "table")
    made = Outputs(path.parent)
    if not overwrite:
        try:
            made.refuse_others((path.name,))
        except OutputError as error:
            raise FileExistsError(f"{error}, or pass overwrite=True") from error
    with made.writing((path.name,)), written(path) as temporary:
        _WRITERS[path.suffix](columns, table, temporary)
    return path


def _packages(suffix: str) -> tuple[str, ...]:
    return {".parquet": ("pandas", "pyarrow"), ".csv": ("pandas",)}.get(suffix, ())


def _columns(table: Features, manifest: Manifest) -> dict[str, Any]:
    """All columns but the vectors. Raises ValueError if the table is of other videos."""
    same = len(table.label) == len(manifest)
    if same and table.video is not None:
        same = np.array_equal(table.video, video_numbers(manifest))
    if not same:
        raise ValueError(
            f"the table has {len(table.label)} rows and the manifest {len(manifest)} videos of "
            f"{manifest.root}, which are others or in another order. Take the manifest that the "
            "table was made of."
        )
    names = [manifest.names(row) for row in range(len(manifest))]
    return {
        "id": np.arange(len(manifest)),
        "path": [str(manifest.absolute(row)) for row in range(len(manifest))],
        **{name: [one[name] for one in names] for name in ("label", "split", "source_video")},
    }


def _parquet(columns: dict[str, Any], table: Features, file: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    width = table.values.shape[1]
    numbers = np.ascontiguousarray(table.values, np.float32).ravel()
    ends = np.arange(0, len(numbers) + 1, width, dtype=np.int64)
    # a list and not a fixed-size list: Embedding Atlas, DuckDB and pandas read both, but pandas
    # writes lists
    vector = pyarrow.LargeListArray.from_arrays(ends, numbers)
    facts = {"protocol": json.dumps(table.protocol), "classes": json.dumps(table.classes)}
    held = pyarrow.table({**columns, "vector": vector}).replace_schema_metadata(facts)
    parquet.write_table(held, file)


def _csv(columns: dict[str, Any], table: Features, file: Path) -> None:
    import pandas

    rows = table.values.tolist()  # float32 in its shortest decimals is read back as it was
    shown = ["[" + ", ".join(str(np.float32(one)) for one in row) + "]" for row in rows]
    pandas.DataFrame({**columns, "vector": shown}).to_csv(file, index=False)


def _npz(columns: dict[str, Any], table: Features, file: Path) -> None:
    texts: dict[str, Any] = {
        name: np.array(column, np.str_) if isinstance(column, list) else column
        for name, column in columns.items()
    }
    with open(file, "wb") as stream:
        np.savez(stream, vector=table.values, protocol=json.dumps(table.protocol), **texts)


_WRITERS = {".parquet": _parquet, ".csv": _csv, ".npz": _npz}
