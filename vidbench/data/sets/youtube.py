"""Lists and file names of clips cut from YouTube videos: Kinetics and Mini-Kinetics-200.

A clip is a video id of eleven characters and two times in seconds; the source of a clip is its
video's id. Copies of these data sets differ in folders and names, so the tree below `root` is
listed once, and a row's file is found by name:
    <id>_<start>_<end>   in any folder, with or without leading zeros (000012)
    <id> or <id>_raw     if no other row has this id, or if it is in a folder of the row's class
Of several such files one in a folder "replacement..." comes first (corrected copies of corrupt
clips), then one in a folder of the class, then one in a folder of the split. Folders are compared
with classes by letters and digits alone, without case: "passing_American_football_(in_game)" is the
class with blanks. A row whose file is not found, or is an earlier row's, keeps its canonical name,
and so counts as missing: train|val|test/<class>/<id>_000012_000022.mp4."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vidbench.data.sets.reading import (
    Found,
    Rows,
    count_classes,
    files_below,
    holding,
    places,
    read_text,
)
from vidbench.data.tables import csv_lines, text_lines
from vidbench.system.errors import InputError, MissingError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validate",
    "valid": "validate",
    "validate": "validate",
    "validation": "validate",
    "test": "test",
    "testing": "test",
}
KINETICS_LIST = re.compile(
    r"(?:(?:kinetics|k)[-_]?(\d{3})?(?:[-_]2020)?[-_])?(train|val|valid|validate|validation|test)\.(?:csv|txt)"
)
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")
KINETICS_FOLDERS = {"train": "train", "validate": "val", "test": "test"}
CLIP_NAME = re.compile(
    r"(?:v_)?([\w-]{11})(?:_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?))?(?:_raw)?", re.ASCII
)
# of the lists in a manifest; "" is a file named by itself
ORDER = ("train", "validate", "test", "")
TIME = re.compile(r"\d+(\.\d*)?", re.ASCII)
VIDEO_ID = re.compile(r"[\w-]{11}", re.ASCII)
RELEASES = (400, 600, 700)  # classes
MINI_LISTS = (("train_k200.csv", "val_k200.csv"), ("train_ytid_list.txt", "val_ytid_list.txt"))


class Clip(NamedTuple):
    """A line of a list."""

    label: str | None
    video: str
    start: float  # seconds
    end: float
    split: str
    where: str


# ---- finding files -----------------------------------------------------------------------------


class Tree:
    """The videos below a folder by the id in their names, each given to one row only."""

    def __init__(self, root: Path) -> None:
        self.stems: dict[str, str] = {}
        self.videos: dict[str, list[tuple[float | None, float | None, str]]] = {}
        self.taken: set[str] = set()
        for path in files_below(root):
            stem = path[path.rfind("/") + 1 : path.rfind(".")]
            self.stems[stem] = path
            if name := CLIP_NAME.fullmatch(stem):
                times = (float(name[2]), float(name[3])) if name[2] else (None, None)
                self.videos.setdefault(name[1], []).append((*times, path))

    def find(self, clip: Clip, alone: bool) -> str | None:
        """Find the file of a clip, and mark it as used; None if there is none.

        Args:
            alone: No other clip of the list is of this video, so a file of its id is this clip's.
        """
        files = [file for file in self.videos.get(clip.video, ()) if file[2] not in self.taken]
        found = [path for start, end, path in files if (start, end) == (clip.start, clip.end)]
        whole = [path for start, _, path in files if start is None]
        found = found or [path for path in whole if alone or _letters(clip.label) in _folders(path)]
        if not found:
            return None
        return self.take(
            found[0] if len(found) == 1 else max(found, key=lambda path: _fits(path, clip))
        )

    def near(self, clip: Clip, within: float) -> str | None:
        """Find the file with the times nearest to a clip's, and mark it as used, or return None.

        Args:
            within: The most seconds by which each of the two times may differ.
        """
        gaps = [
            (max(abs(start - clip.start), abs(end - clip.end)), path)
            for start, end, path in self.videos.get(clip.video, ())
            if start is not None and end is not None
        ]
        gap, path = min(
            (pair for pair in gaps if pair[1] not in self.taken), default=(within + 1, "")
        )
        return self.take(path) if gap <= within else None

    def take(self, path: str) -> str:
        """Mark a file as used, and return it."""
        self.taken.add(path)
        return path


def _letters(name: str | None) -> str:
    return "".join(c for c in (name or "").lower() if c.isalnum())


def _folders(path: str) -> list[str]:
    return [_letters(folder) for folder in path.split("/")[:-1]]


def _fits(path: str, clip: Clip) -> tuple[bool, bool, bool]:
    folders = _folders(path)
    corrected = any(folder.startswith("replacement") for folder in folders)
    return (
        corrected,
        _letters(clip.label) in folders,
        any(SPLITS.get(folder) == clip.split for folder in folders),
    )


def _rows(root: Path, clips: Iterable[Clip]) -> tuple[Rows, list[str]]:
    """Return rows of clips with the files found below root, and file and line of each clip."""
    clips, tree = list(clips), Tree(root)
    count = Counter(clip.video for clip in clips)
    rows: Rows = []
    for clip in clips:
        path = tree.find(clip, count[clip.video] == 1)
        if path is None:
            folder = "/".join(filter(None, (KINETICS_FOLDERS[clip.split], clip.label)))
            path = f"{folder}/{clip.video}_{_six(clip.start)}_{_six(clip.end)}.mp4"
        rows.append((path, clip.label, clip.split, clip.video))
    return rows, [clip.where for clip in clips]


def _six(seconds: float) -> str:
    """A time as in names of files: whole seconds with six digits."""
    return f"{int(seconds):06d}" if seconds == int(seconds) else f"{seconds:g}"


# ---- Kinetics ----------------------------------------------------------------------------------


def kinetics_lists(root: Path, number: int) -> dict[str, list[Path]]:
    """Return the files by split that are named like lists of Kinetics.

    They are in root or a folder directly in it: the first with files that begin like such a list,
    else the first with such names. A name may hold the number (kinetics-400_val.csv,
    k700_2020_train.csv) or not (train.csv, val.csv or validate.csv, test.csv); if some of a split's
    do, the others are ignored.

    Args:
        number: 400, 600 or 700.
    """
    unlike: dict[str, list[Path]] = {}
    for place in places(root):
        named = [
            (match, place / name)
            for name in sorted(os.listdir(place))
            if (match := KINETICS_LIST.fullmatch(name.lower())) and match[1] in (None, str(number))
        ]
        alike = [(match, file) for match, file in named if _header(file)]
        lists: dict[str, list[Path]] = {}
        for with_number in (True, False):
            found: dict[str, list[Path]] = {}
            for match, file in alike or named:
                if (match[1] is not None) == with_number:
                    found.setdefault(SPLITS[match[2]], []).append(file)
            lists = found | lists
        if alike:
            return lists
        unlike = unlike or lists
    return unlike


def has_kinetics(number: int, root: Path) -> bool:
    """Return whether the lists in a folder are those of Kinetics-<number>.

    The number in a file's name decides, else the count of labels. Fewer labels are a subset of the
    next larger release, if the folder has videos of the list.

    Args:
        number: 400, 600 or 700.
    """
    lists = {
        split: files for split, files in kinetics_lists(root, number).items() if _header(files[0])
    }
    matches = [KINETICS_LIST.fullmatch(files[0].name.lower()) for files in lists.values()]
    if any(match and match[1] for match in matches):
        return True
    for split in ("validate", "train", "test"):
        header = _header(lists[split][0]) if split in lists else []
        if "label" in header:
            at = header.index("label")
            lines = csv_lines(lists[split][0], strict=False)[1:]
            lines = [pair for pair in lines if len(pair[0]) == len(header)]
            count = len({line[at] for line, _ in lines})
            if count in RELEASES or next((m for m in RELEASES if 0 < count < m), 0) != number:
                return count == number
            return _any_below(root, [files[0] for files in lists.values()])
    return False


def _any_below(root: Path, files: list[Path]) -> bool:
    """Whether a video of these lists is below a folder."""
    videos = Tree(root).videos.keys()
    return any(
        not videos.isdisjoint(cells) for file in files for cells, _ in csv_lines(file, False)
    )


def read_kinetics(
    number: int, root: Path, *, lists: str | Path | None = None, classes: str | Path | None = None
) -> Found:
    """Read Kinetics-400, -600 or -700 (also 700-2020) from the official csv lists that exist.

    The header is label, youtube_id, time_start, time_end, split, is_cc, or some of these: 600 and
    700 have no is_cc, test lists may have no label (such rows have none). Files of other layouts
    are found as this module says. Lists of some of the classes are read with a warning.

    Args:
        number: 400, 600 or 700.
        lists: The folder of the lists, or one csv file.
        classes: A file with a class a line, if their order matters or no list has labels. Default:
            the labels of the validation list (or of test, or train), sorted, as in the official
            label maps.

    Raises:
        MissingError: there are no lists (a FileNotFoundError).
        InputError: a list has other columns or classes.
    """
    place = Path(lists or root)
    files = {"": [place]} if place.is_file() else kinetics_lists(place, number)
    if not files:
        raise MissingError(
            f"no lists at {lists or root}: wanted kinetics-{number}_train.csv or train.csv, and "
            "the same of val (or validate) and test, there or one folder below"
        )
    for split, several in files.items():
        if len(several) > 1:
            raise InputError(
                f"two lists of split {split!r}: {several[0]} and {several[1]}; "
                "name the folder or the file of one release by `lists`"
            )
    clips = {
        split: list(_kinetics_clips(files[split][0], split)) for split in ORDER if split in files
    }
    labels = {split: {clip.label for clip in some if clip.label} for split, some in clips.items()}
    labeled = next(
        (split for split in ("validate", "test", "train", "") if labels.get(split)), None
    )
    if classes is not None:
        file, listed = Path(classes), text_lines(Path(classes))
    elif labeled is not None:
        file, listed = files[labeled][0], sorted(labels[labeled])
    else:
        raise InputError(
            f"{files[min(files)][0]} has no labels: name a file with the {number} classes by "
            "`classes`"
        )
    count_classes(f"Kinetics-{number}", listed, range(1, number + 1), file)
    if len(listed) < number:
        warnings.warn(
            f"{file} lists {len(listed)} of Kinetics-{number}'s {number} classes", stacklevel=2
        )
    rows, wheres = _rows(root, (clip for some in clips.values() for clip in some))
    return Found(root, rows, wheres, listed)


def _header(file: Path) -> list[str]:
    """The columns of a Kinetics list; empty if its first line is no such header."""
    with open(file, "rb") as handle:
        line = handle.readline(1000).decode("utf-8-sig", errors="replace")
    header = [name.strip().strip('"') for name in line.split(",")]
    known = set(header) <= set(KINETICS_COLUMNS) and len(set(header)) == len(header)
    return header if known and set(KINETICS_COLUMNS[1:4]) <= set(header) else []


def _kinetics_clips(file: Path, split: str) -> Iterator[Clip]:
    """The clips of a list; split: where its lines have none of their own. Raises ValueError with
    file and line."""
    header = _header(file)
    if not header:
        first = read_text(file).split("\n", 1)[0].strip()
        raise InputError(
            f"{file}, line 1: wanted a header of {','.join(KINETICS_COLUMNS)} or some of these, at "
            f"least {','.join(KINETICS_COLUMNS[1:4])}; got {first[:80]!r}. Lists of path and label, "
            "as SlowFast's, are the data set 'pathlabel'"
        )
    at = [header.index(name) if name in header else len(header) for name in KINETICS_COLUMNS[:5]]
    for line, number in csv_lines(file)[1:]:
        where = f"{file}, line {number}"
        if len(line) != len(header):
            raise InputError(
                f"{where}: wanted {len(header)} columns ({','.join(header)}), got {len(line)}: "
                f"{line}"
            )
        cells = [*line, ""]  # the last is that of a column which is not there
        label, video, start, end, part = (cells[i] for i in at)
        if not VIDEO_ID.fullmatch(video):
            raise InputError(
                f"{where}: wanted a video id of 11 letters, digits, - and _, got {video!r}"
            )
        if not (TIME.fullmatch(start) and TIME.fullmatch(end)):
            raise InputError(f"{where}: wanted times in seconds, got {start!r} and {end!r}")
        if SPLITS.get(part.strip() or split) is None:
            raise InputError(
                f"{where}: wanted one of the splits {', '.join(SPLITS)}, got {part or split!r}"
            )
        yield Clip(
            label or None, video, float(start), float(end), SPLITS[part.strip() or split], where
        )


# ---- Mini-Kinetics-200 -------------------------------------------------------------------------


def mini_lists(root: Path) -> list[Path]:
    """Find Mini-Kinetics-200's lists of train and val in a folder or one below.

    Returns:
        Both files, csv files before plain ids; or [].
    """
    found = [(place, names) for names in MINI_LISTS if (place := holding(root, names))]
    return [found[0][0] / name for name in found[0][1]] if found else []


def read_minikinetics(root: Path, *, lists: str | Path | None = None) -> Found:
    """Read Mini-Kinetics-200 (Xie et al. 2018) over the videos of Kinetics-400.

    `read_kinetics` knows the layouts of the videos.

    The authors' lists train_ytid_list.txt and val_ytid_list.txt hold an id a line; label and times
    are then taken from Kinetics-400's csv lists in the same folder (or one below). Instead of both,
    train_k200.csv and val_k200.csv are their lines in Kinetics-400's own format.

    Args:
        lists: The folder of the lists, if it is not root.

    Raises:
        MissingError: there are no lists (a FileNotFoundError).
        InputError: an id is in no list of Kinetics-400.
    """
    files = mini_lists(Path(lists or root))
    if not files:
        wanted = " or ".join(" and ".join(names) for names in MINI_LISTS)
        raise MissingError(
            f"no lists at {lists or root}: wanted {wanted} there or one folder below"
        )
    clips: list[Clip] = []
    if files[0].suffix == ".csv":
        for file, split in zip(files, ("train", "validate"), strict=True):
            clips += _kinetics_clips(file, split)
    else:
        whole = kinetics_lists(Path(lists or root), 400)
        if not {"train", "validate"} <= whole.keys():
            raise MissingError(
                f"{files[0]} has ids only: put kinetics-400_train.csv and kinetics-400_val.csv "
                f"(or train.csv and val.csv) into {lists or root}"
            )
        for file, split in zip(files, ("train", "validate"), strict=True):
            known = {clip.video: clip for clip in _kinetics_clips(whole[split][0], split)}
            for number, video in enumerate(read_text(file).split("\n"), 1):
                if video.strip():
                    where = f"{file}, line {number}"
                    if video.strip() not in known:
                        raise InputError(f"{where}: {video.strip()!r} is not in {whole[split][0]}")
                    clips.append(known[video.strip()]._replace(where=where))
    classes = sorted({clip.label for clip in clips if clip.label})
    count_classes("Mini-Kinetics-200", classes, (200,), files[0])
    rows, wheres = _rows(root, clips)
    return Found(root, rows, wheres, classes)
