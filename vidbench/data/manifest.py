"""The manifest: one row per video (path, label, split, source video), a csv on disk."""

from __future__ import annotations

import csv
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidbench.data.tables import (
    COLUMNS,
    SCANNED,
    SPLIT_WORDS,
    SPLITS,
    check_row,
    manifest_rows,
    same_path,
    spelled_twice,
    text_lines,
    tidy_name,
)
from vidbench.system.errors import InputError, MissingError
from vidbench.system.files import written

STRINGS = np.dtypes.StringDType()


@dataclass(frozen=True, eq=False)
class Manifest:
    """The videos of a data set as columns.

    A row's number is the video's identity, in tables and in samples. Columns are arrays: small in a
    loader's worker, whether it is forked or gets a pickled copy. Source ids count from 0 in order
    of first appearance; `select` keeps them."""

    root: Path  # videos are below it
    classes: tuple[str, ...]
    path: np.ndarray  # [N] strings, relative to root, with forward slashes
    label: np.ndarray  # [N] int64 index into classes, -1 where unknown
    split: np.ndarray  # [N] int8 index into SPLITS
    source_video: np.ndarray  # [N] int64; siblings (clips cut from one long video) share one
    # [S] strings, a source video's name by its id; empty: the ids
    source_videos: np.ndarray = field(default_factory=lambda: np.array([], dtype=STRINGS))
    # what `scan` found, or None: frames that decode, frame rate, pixels as shown
    frames: np.ndarray | None = None  # [N] int32
    fps: np.ndarray | None = None  # [N] float32
    height: np.ndarray | None = None  # [N] int32
    width: np.ndarray | None = None  # [N] int32

    def __post_init__(self) -> None:
        n = len(self.path)
        kinds: dict[str, Any] = {
            "path": STRINGS,
            "label": np.int64,
            "split": np.int8,
            "source_video": np.int64,
            **SCANNED,
        }
        for name, kind in kinds.items():
            if getattr(self, name) is None and name in SCANNED:
                continue
            column = np.asarray(getattr(self, name), dtype=kind)
            if column.shape != (n,):
                raise InputError(
                    f"manifest column {name} must have shape ({n},) like path, got {column.shape}"
                )
            object.__setattr__(self, name, column)
        if n and not len(self.source_videos):
            names = [str(i) for i in range(int(self.source_video.max()) + 1)]
            object.__setattr__(self, "source_videos", np.array(names, dtype=STRINGS))
        object.__setattr__(self, "root", Path(self.root))
        classes = tuple(tidy_name(name, "the class list", "class") for name in self.classes)
        object.__setattr__(self, "classes", classes)
        if n and not (-1 <= self.label.min() and self.label.max() < len(self.classes)):
            have = f"{self.label.min()}..{self.label.max()}"
            raise InputError(f"labels must be in -1..{len(self.classes) - 1}, got {have}")
        if n and not (0 <= self.split.min() and self.split.max() < len(SPLITS)):
            raise InputError(
                f"splits are indices into {SPLITS}, got {self.split.min()}..{self.split.max()}"
            )
        if n and not (
            0 <= self.source_video.min() and self.source_video.max() < len(self.source_videos)
        ):
            raise InputError(
                f"source ids must be in 0..{len(self.source_videos) - 1}, got {self.source_video.max()}"
            )

    @classmethod
    def from_rows(
        cls,
        root: str | Path,
        rows: Iterable[Sequence[str | None]],
        classes: Sequence[str] | None = None,
        where: Callable[[int], str] | None = None,
    ) -> Manifest:
        """Make the columns from rows of (path, label or None, split, source video or None).

        A row without a source video is its own source video.

        Args:
            root: The folder that paths start from.
            classes: Their names in order; default: the labels that occur, sorted.
            where: where(row) names the file and line of a row in errors.

        Raises:
            InputError: at the first label outside the class list, unknown split, empty or repeated
                path, or if the class list names a class twice (a ValueError).
        """
        where = where or (lambda i: f"row {i}")
        rows = [tuple(row) for row in rows]
        written = [(row[1], where(i)) for i, row in enumerate(rows) if len(row) == 4 and row[1]]
        for said in spelled_twice(written):
            warnings.warn(f"two spellings of one label: {said}", stacklevel=2)
        if classes is None:
            classes = sorted({tidy_name(name, place) for name, place in written} - {""})
        classes = [tidy_name(name, "the class list", "class") for name in classes]
        number = {name: i for i, name in enumerate(classes)}
        if len(number) != len(classes):
            raise InputError(f"the class list names a class twice: {_first_repeated(classes)!r}")
        seen: dict[str, int] = {}
        ids: dict[str, int] = {}
        paths: list[str] = []
        label = np.empty(len(rows), np.int64)
        split = np.empty(len(rows), np.int8)
        source_video = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            path, name, part, origin = check_row(row, number, where(i))
            first = seen.setdefault(same_path(path), i)
            if first != i:
                raise InputError(
                    f"{where(i)}: {row[0]!r} is listed twice, first in {where(first)}"
                    + (f" as {rows[first][0]!r}" if rows[first][0] != row[0] else "")
                )
            paths.append(path)
            label[i] = number[name] if name else -1
            split[i] = SPLIT_WORDS[part]
            source_video[i] = ids.setdefault(origin or path, len(ids))
        texts, names = (np.array(list(column), dtype=STRINGS) for column in (paths, ids))
        return cls(Path(root), tuple(classes), texts, label, split, source_video, names)

    def __len__(self) -> int:
        return len(self.path)

    @property
    def labeled(self) -> bool:
        """Whether any video has a label."""
        return bool((self.label >= 0).any())

    @property
    def words(self) -> str:
        """How many videos and classes, such as "24 videos in 3 classes"."""
        missing = int((self.label < 0).sum())
        if not self.labeled:
            return f"{len(self)} videos without labels"
        some = f", {missing} of them without a label" if missing else ""
        return f"{len(self)} videos in {len(self.classes)} classes{some}"

    def need_labels(self, what: str) -> None:
        """Check that some video has a label.

        Args:
            what: What needs labels, for the message.

        Raises:
            InputError: no video has one.
        """
        if not self.labeled:
            raise InputError(
                f"{what} needs labels; got {self.words} in {self.root}. Use class folders, or a "
                "csv with a column label."
            )

    @property
    def countable(self) -> Manifest:
        """The videos that have a label, or all videos if none has one."""
        return self.select(mask=self.label >= 0) if self.labeled else self

    def without_labels(self) -> Manifest:
        """Return the same videos with no classes and label -1 everywhere."""
        return replace(self, classes=(), label=np.full(len(self), -1))

    def absolute(self, row: int) -> Path:
        """Return the video file of a row."""
        return self.root / str(self.path[row])

    def names(self, row: int) -> dict[str, str]:
        """Return one row in words: path, label ("" if unknown), split and source video."""
        label = int(self.label[row])
        return {
            "path": str(self.path[row]),
            "label": self.classes[label] if label >= 0 else "",
            "split": SPLITS[int(self.split[row])],
            "source_video": str(self.source_videos[int(self.source_video[row])]),
        }

    def select(self, split: str | None = None, mask: np.ndarray | None = None) -> Manifest:
        """Select the rows of one split, of a mask, or of both, in the given order.

        Classes and source ids are kept, so labels and sources of two selections can be compared.
        Rows are numbered from 0 again.

        Args:
            split: train, validate, test or none.
            mask: Bool [N], or numbers of rows.

        Raises:
            InputError: an unknown split.
            IndexError: a mask of another length.
        """
        rows = np.arange(len(self))
        if mask is not None:
            rows = rows[np.asarray(mask)]
        if split is not None:
            if split not in SPLIT_WORDS:
                raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")
            rows = rows[self.split[rows] == SPLIT_WORDS[split]]
        columns: dict[str, Any] = {
            name: getattr(self, name)[rows] for name in (*COLUMNS, *self.scanned())
        }
        return replace(self, **columns)

    def scanned(self) -> dict[str, np.ndarray]:
        """Return the columns that a scan added, by name; {} before one."""
        return {name: getattr(self, name) for name in SCANNED if getattr(self, name) is not None}

    def held_out(self) -> str:
        """Return the split of queries or test videos: test if there is one, else validate.

        Raises:
            InputError: there is neither.
        """
        for split in ("test", "validate"):
            if (self.split == SPLITS.index(split)).any():
                return split
        raise InputError(
            f"the manifest of {self.root} must have a test or validate split; got none. Add a "
            "split column to its csv, or remove the column: then a share goes to test."
        )

    def fingerprint(self) -> str:
        """Return `rows-digest` of paths and labels.

        Two scores are of the same videos if their fingerprints are equal.
        """
        text = "\n".join(
            f"{path} {label}" for path, label in zip(self.path, self.label, strict=True)
        )
        return f"{len(self)}-{zlib.crc32(text.encode()):08x}"

    def hold_out(self, share: float, seed: int = 0) -> tuple[Manifest, Manifest]:
        """Split the videos into two parts, the second with about `share` of the source videos.

        Whole source videos go to one part, about the same share of each class. Videos without label
        count as one class. A class keeps at least one source video in the first part. The second
        part serves to choose and to watch during training, so that the test videos stay unseen.

        Args:
            share: Between 0 and 1, both excluded.
            seed: Of the random choice.

        Raises:
            InputError: share is not between 0 and 1, or no class has two source videos.
        """
        if not 0 < share < 1:
            raise InputError(f"hold_out needs a share between 0 and 1, got {share}")
        rng, taken = np.random.default_rng([seed, 7]), []
        for label in np.unique(self.label):
            source_videos = rng.permutation(np.unique(self.source_video[self.label == label]))
            taken += list(
                source_videos[
                    : min(len(source_videos) - 1, max(1, round(share * len(source_videos))))
                ]
            )
        held = np.isin(self.source_video, taken)
        if not held.any():
            of = "no class has" if self.labeled else "the videos without labels do not have"
            raise InputError(
                f"nothing to hold out of {len(self)} videos: {of} two source videos. Use share 0, "
                "name the source videos, or open the videos without labels."
            )
        return self.select(mask=~held), self.select(mask=held)

    def save(self, folder: str | Path) -> Path:
        """Write the manifest into a folder; return its csv.

        The files are manifest.csv (names, not numbers), classes.txt, and root.txt if `root` is
        another folder. Columns of a scan are written too. All files are on disk before the first
        gets its name, so a full disk leaves the old ones, or none.
        """
        folder = Path(folder)
        texts = {"classes.txt": "".join(f"{name}\n" for name in self.classes)}
        if folder.resolve() != self.root.resolve():
            texts["root.txt"] = f"{self.root.resolve()}\n"
        with ExitStack() as all_written:  # the manifest gets its name last
            table = all_written.enter_context(written(folder / "manifest.csv"))
            self._write_rows(table)
            for name, text in texts.items():
                made = all_written.enter_context(written(folder / name))
                made.write_text(text, encoding="utf-8", newline="")
        if "root.txt" not in texts:
            (folder / "root.txt").unlink(missing_ok=True)
        return folder / "manifest.csv"

    def _write_rows(self, path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            scanned = self.scanned()
            writer.writerow([*COLUMNS, *scanned])
            for i in range(len(self)):
                writer.writerow(
                    [*self.names(i).values(), *(column[i] for column in scanned.values())]
                )

    @classmethod
    def load(cls, place: str | Path, root: str | Path | None = None) -> Manifest:
        """Read manifest.csv of a folder, or a csv by its own name.

        Columns are path, label, split and source_video, and those of a scan; only path is required.
        Classes come from classes.txt next to it (one name a line), else from the labels.

        Args:
            root: The folder that paths start from; default: root.txt next to the csv, else its
                folder.

        Raises:
            MissingError: there is no csv (a FileNotFoundError).
            InputError: the csv has a bad line, or root.txt not exactly one line (a ValueError).
        """
        place = Path(place)
        file = place / "manifest.csv" if place.is_dir() else place
        if not file.is_file():
            raise MissingError(
                f"no manifest at {file}: wanted a csv with the header {','.join(COLUMNS)}"
            )
        listed, recorded = file.parent / "classes.txt", file.parent / "root.txt"
        classes = text_lines(listed) if listed.is_file() else None
        rows, lines, columns = manifest_rows(file, classes)
        scanned: dict[str, Any] = {**columns}
        if root is None:
            root = file.parent / (_recorded_root(recorded) if recorded.is_file() else "")
        manifest = cls.from_rows(root, rows, classes, where=lambda i: f"{file}, line {lines[i]}")
        return replace(manifest, **scanned)


def _recorded_root(recorded: Path) -> str:
    lines = text_lines(recorded)
    if len(lines) != 1:
        raise InputError(
            f"{recorded} must have one line, the folder of the videos; got {len(lines)} lines. "
            f"Write that line, or delete the file if the paths start at {recorded.parent}"
        )
    return lines[0]


def _first_repeated(names: Iterable[str]) -> str | None:
    counts = Counter(names)
    return next((name for name, count in counts.items() if count > 1), None)
