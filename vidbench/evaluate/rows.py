"""Rows as an index takes them: of a table or an array, checked, of unit length, with a fingerprint."""

import zlib
from typing import TypeAlias

import numpy as np

from vidbench.evaluate.retrieval import digest
from vidbench.evaluate.search import BLOCK, unit
from vidbench.evaluate.tables import Features

LENGTH = 1e-3  # that a row may be off unit length by: half precision needs 5e-4
# a table of features, or rows [N,D]
Rows: TypeAlias = Features | np.ndarray


def fingerprint(features: Rows) -> str:
    """Compute a checksum of values in single precision, and of a table's videos.

    Two networks give different values on the same videos, so both are part of it.
    """
    values, crc = shaped(features, "features"), 0
    for start in range(0, len(values), BLOCK):
        crc = zlib.crc32(np.ascontiguousarray(values[start : start + BLOCK], "<f4").data, crc)
    rows = digest(features) if isinstance(features, Features) else len(values)
    return f"{rows}x{values.shape[1]}-{crc:08x}"


def shaped(features: Rows, who: str, width: int | None = None) -> np.ndarray:
    """Return the values [N,D] of a table or an array, not copied.

    Args:
        who: What the rows are, for the message.
        width: D, if it is known.

    Raises:
        ValueError: another shape or width.
    """
    values = features.values if isinstance(features, Features) else np.asanyarray(features)
    if values.ndim != 2 or width not in (None, values.shape[1]):
        raise ValueError(
            f"{who}: wanted rows [N,{width or 'D'}], got {list(values.shape)}; gallery and queries "
            "come from one network."
        )
    return values


def unit_rows(
    features: Rows, values: np.ndarray, which: slice | np.ndarray, who: str
) -> np.ndarray:
    """Return some rows as float32 [n,D] of unit length.

    Rows of a table may have any length. Of an array that is not of unit length it is unknown
    whether cosine was meant.

    Args:
        features: A table or an array.
        values: Its values [N,D].
        which: The rows.
        who: What they are, for the message.

    Raises:
        ValueError: a row is zero or not finite, or an array is not of unit length.
    """
    first = which.start or 0 if isinstance(which, slice) else 0
    part = np.asarray(values[which], np.float32)
    made = unit(part, who=who, first=first)
    if not isinstance(features, Features):
        off = np.abs(np.sqrt(np.einsum("nd,nd->n", part, part)) - 1)
        if off.max(initial=0) > LENGTH:
            i, more = int((off > LENGTH).argmax()), int((off > LENGTH).sum()) - 1
            raise ValueError(
                f"{who}: row {first + i} has length {np.linalg.norm(part[i]):.4g}, and {more} more "
                "are not of length 1; an index holds cosines. Take a table of features, or "
                "search.unit(rows)."
            )
    return made
