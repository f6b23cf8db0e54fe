"""Videos without class folders: a folder of loose videos, a list of files, a csv of one's own.

Labels are optional. Without splits, a share of the source videos goes to test, as in `folders`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidbench.data.manifest import Manifest
from vidbench.data.sets.folders import (
    SPLIT_FOLDERS,
    media_below,
    source_of,
    split_by_source,
    split_folders,
)
from vidbench.data.sets.reading import Found, Rows, files_below
from vidbench.data.tables import columns_of
from vidbench.system.errors import InputError, MissingError


def is_loose(root: Path) -> bool:
    """Return whether a folder has videos and none of them is in a class folder.

    They are in the folder itself, or directly in its split folders.
    """
    videos = [path.split("/") for path in files_below(root)] if root.is_dir() else []
    deepest = max(map(len, videos), default=0)
    in_splits = all(parts[0].lower() in SPLIT_FOLDERS for parts in videos if len(parts) > 1)
    return deepest == 1 or deepest == 2 and in_splits and min(map(len, videos)) == 2


def read_loose(root: Path, *, held_out: float = 0.25, seed: int = 0, into: str = "test") -> Found:
    """Read all videos below a folder, without labels; or pictures, if there are no videos.

    Folders are no classes. Folders named train, validate and test are the splits; else a share of
    all source videos is held out as in `folders.read_folder`.

    Args:
        held_out, seed, into: See `folders.read_folder`.

    Raises:
        InputError: only some of the folders are splits, or held_out is not a share.
    """
    videos = [(path, path.split("/")) for path in media_below(root)]
    splits = split_folders(root, [parts for _, parts in videos])
    sources = loose_sources([path for path, _ in videos], frames=True)
    rows: Rows = [
        (path, None, parts[0].lower() if splits else "none", source)
        for (path, parts), source in zip(videos, sources, strict=True)
    ]
    if not splits:
        rows = split_by_source(rows, held_out, seed, into)
    return Found(root, rows, [str(root / row[0]) for row in rows], ())


def loose_sources(paths: Sequence[str], frames: bool = False) -> list[str | None]:
    """Return the source video of each file, as far as its path shows it, or None.

    If all names say one source video, nothing could be held out: then each file is its own source.

    Args:
        frames: Pictures in one folder are frames of one video.
    """
    folders = [path.split("/")[:-1] for path in paths]
    named = [
        source_of(inside[-1] if inside else "", path, inside if frames else [])
        for path, inside in zip(paths, folders, strict=True)
    ]
    return named if None in named or len(set(named)) > 1 else [None] * len(paths)


def open_files(
    paths: Sequence[str | Path],
    labels: Sequence[str | None] | None = None,
    *,
    held_out: float = 0.25,
    seed: int = 0,
) -> Manifest:
    """Make the manifest of any video files, in the given order.

    Args:
        paths: The files, N of them. The manifest's root is the folder that all of them share.
        labels: The name of each video's class, None if it is unknown; None: no labels.
        held_out: The share of source videos that goes to the split test.
        seed: Of that choice.

    Raises:
        FileNotFoundError: a file does not exist.
        InputError: there are no paths, one is a folder, two are the same file, or labels has
            another length.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files = [Path(os.path.abspath(Path(path).expanduser())) for path in paths]
    if not files or labels is not None and len(labels) != len(files):
        found = "no paths" if not files else f"{len(files)} paths and {len(labels or ())} labels"
        raise InputError(f"open_files needs files, and one label for each; got {found}.")
    for file in files:
        if file.is_dir():
            raise InputError(f"open_files needs files; got the folder {file}. Use open_dataset.")
        if not file.is_file():
            raise MissingError(f"no such file: {file}")
    root = Path(os.path.commonpath([file.parent for file in files]))
    names = [file.relative_to(root).as_posix() for file in files]
    columns = names, labels or [None] * len(files), loose_sources(names)
    rows: Rows = [
        (name, label, "none", source) for name, label, source in zip(*columns, strict=True)
    ]
    rows = split_by_source(rows, held_out, seed)
    return Manifest.from_rows(root, rows, where=lambda row: f"path {row + 1}")


def read_csv(
    root: Path,
    *,
    overlap: str = "error",
    held_out: float | None = None,
    seed: int = 0,
    into: str = "test",
) -> Manifest:
    """Read manifest.csv of a folder, or a csv itself, with the columns that a scan added.

    Args:
        overlap: A source video or a content in two splits of the csv is an error, or with "warn" a
            warning.
        held_out: Without a column split, the share (0.25) of all source videos that goes to `into`.
        seed, into: See `folders.read_folder`.

    Raises:
        InputError: a line cannot be used, or held_out is given although there is a column split.
        MissingError: there is no csv (a FileNotFoundError).
    """
    if overlap not in ("error", "warn"):
        raise InputError(f"overlap must be 'error' or 'warn', got {overlap!r}")
    manifest, columns = Manifest.load(root), _columns(root)
    if "split" not in columns:
        share = 0.25 if held_out is None else held_out
        return _split(manifest, "source_video" not in columns, share, seed, into)
    if held_out is not None:
        raise InputError(
            f"{root} must have no column split if held_out is given; got both. Leave held_out "
            "away, or remove the column."
        )
    return manifest


def has_splits(root: Path) -> bool:
    """Return whether a csv has a column split."""
    return "split" in _columns(root)


def _columns(root: Path) -> list[str]:
    return columns_of(root / "manifest.csv" if root.is_dir() else root)


def _split(
    manifest: Manifest, unnamed: bool, share: float, seed: int = 0, into: str = "test"
) -> Manifest:
    """The manifest with a share of its source videos in `into`, and the others in train.

    unnamed: the csv has no column source_video, so clip numbers in file names say which clips are
    of one source video."""
    listed = [manifest.names(row) for row in range(len(manifest))]
    sources: list[str | None] = [row["source_video"] for row in listed]
    if unnamed:
        sources = loose_sources([row["path"] for row in listed])
    rows: Rows = [
        (row["path"], row["label"] or None, "none", source)
        for row, source in zip(listed, sources, strict=True)
    ]
    rows = split_by_source(rows, share, seed, into)
    made = Manifest.from_rows(manifest.root, rows, manifest.classes)
    scanned: dict[str, Any] = {**manifest.scanned()}
    return replace(made, **scanned)
