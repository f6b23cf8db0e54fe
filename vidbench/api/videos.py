"""Videos at the front door: a folder, a csv, a list of files or a data set, kept below one folder."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.manifest import SPLITS, Manifest
from vidbench.data.sets import catalogue
from vidbench.data.sets.folders import media_below
from vidbench.data.toy import world as toy
from vidbench.data.video import windows
from vidbench.engine.outside import in_turn
from vidbench.system.errors import InputError
from vidbench.system.processes import without_main
from vidbench.view.clips import playing
from vidbench.view.html import table
from vidbench.view.looks import Html
from vidbench.view.widgets.pieces import video_grid

SHOWN = 4  # clips of a notebook's view
CLASSES = 6  # names of classes in a repr


@dataclass(frozen=True, repr=False)
class Videos:
    """Videos to train on or to search, with the folder where their flow and runs are kept.

    manifest has a row for each video: path, label (-1 if unknown), split and source video. whole:
    of a fold of a cross-validation, the folder of all its videos, where their flow is kept."""

    manifest: Manifest
    folder: Path
    whole: Path | None = None

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def home(self) -> Path:
        """The folder of all videos and of their flow."""
        return self.whole or self.folder

    @property
    def labeled(self) -> bool:
        """Whether any video has a label."""
        return self.manifest.labeled

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; () without labels."""
        return self.manifest.classes

    @cached_property
    def paths(self) -> list[str]:
        """Absolute paths, in the manifest's order."""
        return [str(self.manifest.absolute(row)) for row in range(len(self))]

    @cached_property
    def splits(self) -> list[str]:
        """The split of each video: train, validate or test."""
        return [SPLITS[number] for number in self.manifest.split]

    def of(self, split: str) -> Videos:
        """Return the videos of one split.

        Raises:
            ValueError: There is no such split.
        """
        return replace(self, manifest=self.manifest.select(split=split))

    @property
    def held_out(self) -> Videos:
        """The videos that no training sees: the split test, else validate.

        Raises:
            ValueError: Nothing is held out.
        """
        return self.of(self.manifest.held_out())

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self._counts().items())
        return f"Videos({len(self)} videos ({counts}), {self._label_words()}, in {self.folder})"

    def _repr_html_(self) -> str:
        rows = [{"split": name, "videos": count} for name, count in self._counts().items()]
        note = f"{len(self)} videos, {self._label_words()}. Flow and runs are kept in {self.folder}"
        look = playing(self.manifest)
        tiles = [look(int(row)) for row in windows.spread(len(self), min(SHOWN, len(self)))]
        return Html(table(rows, note=note) + video_grid(tiles, "Some of the videos"))

    def _counts(self) -> dict[str, int]:
        counts = np.bincount(self.manifest.split, minlength=len(SPLITS))
        return {name: int(n) for name, n in zip(SPLITS, counts, strict=True) if n}

    def _label_words(self) -> str:
        if not self.labeled:
            return "no labels"
        names = ", ".join(self.classes[:CLASSES]) + ", ..." * (len(self.classes) > CLASSES)
        unknown = int((self.manifest.label < 0).sum())
        return f"{len(self.classes)} classes: {names}" + f"; {unknown} unlabeled" * bool(unknown)


Source = str | Path | Sequence[str | Path]


@without_main()
def videos(source: Source, *, name: str = "", out: str | Path = "runs", **options: Any) -> Videos:
    """Open videos, and keep their list below `out`, so that training and tests share the splits.

    Args:
        source: A folder (flat, of class folders, or a public data set), a csv with a column `path`,
            a list of files, or a toy world (tiny, small, large). Labels are optional.
        name: Of the folder below `out`; by default it follows from the source.
        out: Folder of all lists, flow stores and runs.
        options: Of the data set's reader, such as fold, held_out, seed.

    Returns:
        The videos. A later call with the same source returns the list that the first one kept.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: No videos are found, or an option is unknown.
    """
    _refuse_nothing(source)
    with in_turn():
        return _kept(source, name, Path(out).expanduser().resolve(), options)


def _kept(source: Source, name: str, place: Path, options: dict[str, Any]) -> Videos:
    """Read the list that is kept below `place`, or make it."""
    if not isinstance(source, str | Path):
        return _kept_files(source, place, name, options)
    if _built_in(str(source)):
        if name:
            raise ValueError(f"the toy world {str(source)!r} has its own name; got name={name!r}")
        folder, manifest = catalogue.prepare_dataset(place, str(source), **options)
        return Videos(manifest, folder)
    root = Path(source).expanduser().resolve()
    if root.is_file() and root.suffix.lower() != ".csv":
        return _kept_files([root], place, name, options)
    fold = options.pop("fold", 1)
    folder = place / (name or catalogue.name_of(root, fold))
    if not name and _others(folder / "videos", root, options):
        folder = folder.with_name(f"{folder.name}-{_digest([root, sorted(options.items())])}")
    known = (folder / "videos" / "origin.json").is_file()
    manifest = catalogue.keep(folder / "videos", root, fold, **options)
    if known:
        _say_what_is_new(root, manifest, folder)
    return Videos(manifest, folder)


def opened(source: Source | Videos | Manifest) -> Manifest:
    """Open videos without keeping anything: `Videos`, a path, a list of paths or a folder.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There are no videos in it.
    """
    if isinstance(source, Videos):
        return source.manifest
    if isinstance(source, Manifest):
        return source
    _refuse_nothing(source)
    if isinstance(source, str | Path):
        root = Path(source).expanduser().resolve()
        if root.is_dir() or root.suffix.lower() == ".csv":
            return catalogue.open_dataset(catalogue.detect_dataset(root), root)
        source = [root]
    return catalogue.open_files(source)


def _refuse_nothing(source: Source) -> None:
    """Raise ValueError for an empty name, which would mean the working directory, or no files."""
    if not (str(source).strip() if isinstance(source, str | Path) else len(source)):
        raise InputError(f"source must be a folder, a csv or files; got {source!r}.")


def _built_in(source: str) -> bool:
    """Whether it names a toy world, or the digits."""
    size, _, world = source.partition("-")
    return source == "digits" or size in toy.PRESETS and (world or "base") in toy.WORLDS


def _others(folder: Path, root: Path, options: dict[str, Any]) -> bool:
    """Whether a folder keeps the list of another source, or of other options."""
    if not (folder / "origin.json").is_file():
        return False
    kept = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    held = {key: value for key, value in kept["options"].items() if key != "fold"}
    return kept["data"] != str(root) or bool(options) and held != options


def _say_what_is_new(root: Path, manifest: Manifest, folder: Path) -> None:
    """Name the videos of a plain folder that its kept list lacks, because they came later."""
    if manifest.root != root or catalogue.detect_dataset(root) not in ("folder", "loose"):
        return
    new = sorted(set(media_below(root)) - set(map(str, manifest.path)))
    if new:
        print(
            f"{len(new)} videos in {root} are not in the list that {folder} keeps, the first is "
            f"{new[0]}. To use them, open the folder under another name: name='...'.",
            flush=True,
        )


def _kept_files(
    files: Sequence[str | Path], place: Path, name: str, options: dict[str, Any]
) -> Videos:
    """The list of files, kept in a folder that is named after them."""
    manifest = catalogue.open_files(files, **options)
    facts = [manifest.path.tolist(), manifest.root, sorted(options.items())]
    folder = place / (name or f"files-{_digest(facts)}")
    kept = folder / "videos"
    if not (kept / "manifest.csv").is_file():
        manifest.save(kept)
    found = Manifest.load(kept)
    if found.fingerprint() != manifest.fingerprint() or found.root != manifest.root:
        raise ValueError(
            f"{folder} keeps another list of {len(found)} videos; got {len(manifest)}. "
            "Use another name."
        )
    return Videos(found, folder)


def _digest(value: object) -> str:
    return f"{zlib.crc32(repr(value).encode()):08x}"
