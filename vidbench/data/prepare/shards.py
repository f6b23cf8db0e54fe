"""Shards: every n-th video of a data set from the k-th, so that n machines share one output folder.

Each shard has its own lock, journal and record of outputs (flow0of4.jsonl). The shard that ends last
finds all videos in the journals, and writes the manifest of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vidbench.data.prepare.outputs import json_lines
from vidbench.system.errors import InputError

Shard = tuple[int, int]  # (k, n): the k-th of n, from 0
WHOLE: Shard = (0, 1)


def parse(text: str) -> Shard:
    """Read "K/N".

    Raises:
        InputError: K is not below N, or the text is something else.
    """
    numbers = [int(number) for number in text.split("/") if number.isdecimal()]
    if text.count("/") != 1 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise InputError(
            "--shard must be K/N, the K-th of N shards, with K from 0 to N - 1, such as 0/4; got "
            f"{text!r}"
        )
    return numbers[0], numbers[1]


def rows(count: int, shard: Shard) -> range:
    """Return the rows of a shard.

    Args:
        count: Rows of the whole data set.
        shard: (k, n).

    Raises:
        InputError: The shard is not (k, n) with 0 <= k < n.
    """
    if len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard must be (k, n) with 0 <= k < n; got {shard}")
    return range(shard[0], count, shard[1])


def name(shard: Shard) -> str:
    """Return what a shard's files have in their names; empty for the whole."""
    return "" if shard[1] == 1 else f"{shard[0]}of{shard[1]}"


def missing(lacking: Iterable[int], shard: Shard) -> tuple[int, ...]:
    """Return the numbers of the shards to which these rows belong.

    Args:
        lacking: Rows that are missing.
        shard: One of the shards, for their number.
    """
    return tuple(sorted({row % shard[1] for row in lacking}))


def words(lacking: tuple[int, ...], shard: Shard) -> str:
    """Say which shards are missing.

    Args:
        lacking: The numbers of the missing shards.
        shard: One of the shards, for their number.
    """
    numbers = ", ".join(f"{number}/{shard[1]}" for number in lacking)
    return (
        f"no manifest yet: not complete, or made with other options: shard {numbers}. The shard that "
        "ends last writes the manifest; the same command without --shard does the rest, too."
    )


def journaled(folder: Path, stem: str, own: str = "") -> dict[str, dict]:
    """Read the lines of all shards' journals by key.

    Args:
        stem: The beginning of the journals' names.
        own: The shard's part of the name; its lines replace the others'.
    """
    first = folder / f"{stem}{own}.jsonl"
    others = sorted(file for file in folder.glob(f"{stem}*.jsonl") if file != first)
    lines = (line for file in (*others, first) for line in json_lines(file))
    return {key: line for line in lines if isinstance(key := line.pop("key", None), str)}
