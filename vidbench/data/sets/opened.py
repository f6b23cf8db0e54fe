"""What opening a data set must say: files that are no rows, and what is in more than one split."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vidbench.data.manifest import SPLITS, Manifest
from vidbench.data.sets.reading import VIDEO_SUFFIXES, walk
from vidbench.data.video.clips import PICTURES

# videos and pictures that no reader takes
OTHER_MEDIA = tuple(
    ".mts .m2ts .ts .m2t .gif .y4m .vob .asf .rm .rmvb .divx .f4v .m2v .qt .mxf .dv .heic .avif "
    ".apng .hevc .h264 .264 .265 .yuv".split()
)
LISTS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".xml", ".parquet")
SAMPLE = 1 << 14  # bytes at the beginning, the middle and the end of a file
MOST = 50_000  # files to read in part, to find equal content; a minute on a network disk


def left_out(manifest: Manifest, root: Path, any_list: bool) -> list[str]:
    """Say which files below a folder are no rows and why, with counts.

    Args:
        manifest: The rows that were read.
        root: The folder that was opened.
        any_list: Whether list files (csv, txt, json) were not read either.
    """
    found = walk(root)
    used = set(manifest.path.tolist())
    unused = [path for path in found.files if path not in used]
    suffixes = (*OTHER_MEDIA, *(LISTS if any_list else ()))
    said = [
        _said(len(found.odd), "names that a manifest cannot hold", found.odd),
        _said(len(found.closed), "folders that could not be entered", found.closed),
        _said(len(found.again), "links to folders that were already read", found.again),
    ]
    unlisted = [path for path in unused if path.lower().endswith(VIDEO_SUFFIXES)]
    said.append(_said(len(unlisted), "videos that no list names", unlisted))
    pictures = [path for path in unused if path.lower().endswith(PICTURES)]
    if any_list:
        said.append(_said(len(pictures), "pictures next to videos", pictures))
    elif str(manifest.path[0]).lower().endswith(PICTURES):
        said.append(_said(len(pictures), "pictures that are no rows", pictures))
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in unused:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in suffixes:
            kinds[suffix].append(path)
    for suffix, paths in sorted(kinds.items()):
        what = "list files" if suffix in LISTS else "files"
        said.append(_said(len(paths), f"{suffix} {what} that were not understood", paths))
    return [text for text in said if text]


def _said(count: int, what: str, examples: Iterable[str]) -> str:
    shown = [repr(path) for path, _ in zip(examples, range(3), strict=False)]
    more = ", ..." if count > len(shown) else ""
    return f"{count} {what}: {', '.join(shown)}{more}" if count else ""


def alike(classes: Sequence[str]) -> list[str]:
    """Say which classes differ only in capitals, blanks, underscores and what one cannot see."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        seen = unicodedata.normalize("NFKC", name).casefold().replace("_", " ")
        groups["".join(c for c in "".join(seen.split()) if unicodedata.category(c) != "Cf")].append(
            name
        )
    pairs = [" = ".join(same) for same in groups.values() if len(same) > 1]
    return [text] if (text := _said(len(pairs), "groups of classes with one name", pairs)) else []


def unknown(root: Path) -> str:
    """Say in three lines that no data set fits a folder or file, what is there and what to do."""
    found = walk(root) if root.is_dir() else None
    files = found.files if found else [root.name]
    kinds = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in files)
    some = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no files"
    more = ", ..." if len(kinds) > 4 else ""
    videos = sum(path.lower().endswith(VIDEO_SUFFIXES) for path in files)
    none = "" if videos or not files else ", no videos"
    return (
        f"no data set recognized in {root}: {some}{more}{none}.\nName a folder with videos "
        f"({', '.join(VIDEO_SUFFIXES[:4])}, ...) or a csv with a column path.\nLayouts of all data "
        "sets: table in notebooks/01_manifests.ipynb, assets/docs/data.md."
    )


def across_splits(manifest: Manifest) -> list[str]:
    """Say how many source videos, and files of equal content, are in more than one split.

    The splits are train, validate and test. Missing files equal nothing.
    """
    rows = np.flatnonzero(manifest.split != SPLITS.index("none"))
    if len(np.unique(manifest.split[rows])) < 2:
        return []
    said = []
    pairs = np.unique(np.stack([manifest.source_video[rows], manifest.split[rows]], 1), axis=0)
    ids, counts = np.unique(pairs[:, 0], return_counts=True)
    names = [str(name) for name in manifest.source_videos[ids[counts > 1]]]
    said.append(_said(len(names), "source videos are in more than one split", names))
    said.append(_equal_content(manifest, rows))
    return [text for text in said if text]


def _equal_content(manifest: Manifest, rows: np.ndarray) -> str:
    """Compare the files of equal sizes by samples of their bytes, then whole if those are equal."""
    groups = _across(manifest, rows.tolist(), lambda path: (path.stat().st_size,))
    groups = {size: same for size, same in groups.items() if size[0]}
    candidates = [row for same in groups.values() for row in same]
    if len(candidates) > MOST:
        return (
            f"{len(candidates)} files have the size of a file in another split: too many to "
            "compare their content"
        )
    alike = _across(manifest, candidates, _content)
    groups = _across(manifest, [row for same in alike.values() for row in same], _digest)
    paths = [" = ".join(str(manifest.path[row]) for row in same[:3]) for same in groups.values()]
    count = sum(map(len, groups.values()))
    said = _said(count, "files have equal content and are in more than one split", paths)
    return said if len(paths) > 3 else said.removesuffix(", ...")  # `count` is of files


def _across(
    manifest: Manifest, rows: list[int], key: Callable[[Path], tuple[int, ...]]
) -> dict[tuple[int, ...], list[int]]:
    """Rows whose files have equal keys, where they are in more than one split."""

    def of(row: int) -> tuple[int, ...]:
        try:
            return key(manifest.absolute(row))
        except OSError:  # a missing file; the reader of videos names it
            return (0,)

    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    with ThreadPoolExecutor(8) as pool:  # a network disk answers several questions at once
        for row, one in zip(rows, pool.map(of, rows), strict=True):
            groups[one].append(row)
    return {
        one: same
        for one, same in groups.items()
        if len(same) > 1 and len({int(manifest.split[row]) for row in same}) > 1
    }


def _content(path: Path) -> tuple[int, ...]:
    """The size of a file and a checksum of three samples of it."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # not a crc32: PNG files of one size share it, as each part of them ends with its own
        check = hashlib.blake2b(digest_size=8)
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            file.seek(max(0, start))
            check.update(file.read(SAMPLE))
    return size, int.from_bytes(check.digest())


def _digest(path: Path) -> tuple[int, ...]:
    """A checksum of a whole file."""
    with open(path, "rb") as file:
        return (int.from_bytes(hashlib.file_digest(file, "blake2b").digest()[:16]),)
