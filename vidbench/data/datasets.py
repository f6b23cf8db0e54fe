"""The named data sets: a table of readers that turn what lies in a folder into a Manifest.

A data set is a row in DATASETS: how to read it, what it is, what its folder holds and how it is recognised. A reader
gives rows (path, label, split, source) with the file and line each stands in; checks that all share are in
`open_dataset`. Sources are what a list or a name says and nothing guessed beyond it:
    folder   the file stem without a trailing clip number (_c01, _clip3); where that ends in a UCF group (_g01) it
             counts within the class; a name without a clip number is a source of its own
    ucf101   class and group: v_Archery_g03_c03 is of v_Archery_g03
    arid     class and scene: Jump_11_1 is of Jump_11; validation clips called 24.mp4 are sources of their own
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidbench.data import toy
from vidbench.data.manifest import COLUMNS, SPLIT_WORDS, Manifest, csv_rows, text_lines

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ogv", ".3gp")
SPLIT_FOLDERS = {word: word for word in SPLIT_WORDS if word != "none"}
CLIP_NUMBER = re.compile(r"_(?:c|clip)\d+$", re.IGNORECASE)
UCF_GROUP = re.compile(r"(?:^|_)g\d+$", re.IGNORECASE)
ARID_SCENE = re.compile(r"^([A-Za-z]+_\d+)_\d+$")
Rows = list[tuple[str, str | None, str, str | None]]


class Found(NamedTuple):
    """What a reader found: rows (path below root, label, split, source), where each stands, and the classes."""

    root: Path
    rows: Rows
    where: list[str]
    classes: Sequence[str] | None


class DataSet(NamedTuple):
    """A row of DATASETS."""

    read: Callable[..., Found]  # (root, **options)
    about: str
    holds: str  # what the folder must hold
    fits: Callable[[Path], bool]


# ---- folders of class folders ------------------------------------------------------------------------------------


def _videos_below(folder: Path) -> list[str]:
    """Video files below a folder, relative with forward slashes, sorted; hidden files and folders are passed over."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith("."):
                found.append((Path(here) / name).relative_to(folder).as_posix())
    return sorted(found)


def _source_of(label: str, stem: str) -> str | None:
    """The long video a clip was cut from, as far as its name says so; None for a source of its own."""
    long_video = CLIP_NUMBER.sub("", stem)
    if long_video == stem:
        return None
    return f"{label}/{long_video}" if UCF_GROUP.search(long_video) else long_video


def _read_folder(root: Path, *, held_out: float = 0.25, seed: int = 0, into: str = "test") -> Found:
    """class/video, or train/class/video with the split folders' own names.

    Without split folders, the share `held_out` of each class's sources (at least one, if it has two) goes to the split
    `into`, by a hash of seed and source: the same on every machine. Added videos can move others between the splits,
    so a split that was trained on is kept as a manifest (see `keep`).
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is a share in 0..1, got {held_out}")
    videos = [(path, path.split("/")) for path in _videos_below(root)]
    loose = [path for path, parts in videos if len(parts) == 1]
    if loose:
        raise ValueError(f"{root}: {len(loose)} videos lie outside of class folders, the first is {loose[0]}")
    tops = {parts[0] for _, parts in videos}
    splits = {name for name in tops if name.lower() in SPLIT_FOLDERS}
    if splits and splits != tops:
        other = sorted(tops - splits)[0]
        raise ValueError(f"{root} mixes split folders ({', '.join(sorted(splits))}) with others ({other})")
    rows: Rows = []
    for path, parts in videos:
        if splits and len(parts) < 3:
            raise ValueError(f"{root}: {path} lies in a split folder, but in no class folder below it")
        label = parts[1] if splits else parts[0]
        split = SPLIT_FOLDERS[parts[0].lower()] if splits else "none"
        rows.append((path, label, split, _source_of(label, Path(path).stem)))
    if not splits:
        rows = _split_by_source(rows, held_out, seed, into)
    return Found(root, rows, [str(root / row[0]) for row in rows], None)


def _split_by_source(rows: Rows, share: float, seed: int, into: str) -> Rows:
    """The same rows with splits: whole sources go to `into`, class by class, until the share of them is there."""
    by_class: dict[str, dict[str, None]] = {}
    for path, label, _, source in rows:
        by_class.setdefault(label, {})[source or path] = None

    def rank(source: str) -> bytes:
        return hashlib.sha256(f"{seed}/{source}".encode()).digest()

    held: set[str] = set()
    for label in sorted(by_class):
        ordered = sorted(by_class[label], key=rank)
        wanted = max(1, round(share * len(ordered))) if share and len(ordered) > 1 else 0
        missing = wanted - sum(source in held for source in ordered)
        held.update([source for source in ordered if source not in held][: max(0, missing)])
    return [(p, label, into if (source or p) in held else "train", source) for p, label, _, source in rows]


# ---- list files --------------------------------------------------------------------------------------------------


def _read_csv(root: Path) -> Found:
    """manifest.csv of a folder, or a csv itself, as Manifest.load reads it."""
    file = root / "manifest.csv" if root.is_dir() else root
    if not file.is_file():
        raise FileNotFoundError(f"no manifest at {file}: wanted a csv with the header {','.join(COLUMNS)}")
    rows, lines = csv_rows(file)
    listed, recorded = file.parent / "classes.txt", file.parent / "root.txt"
    base = file.parent / text_lines(recorded)[0] if recorded.is_file() else file.parent
    classes = text_lines(listed) if listed.is_file() else None
    return Found(base, rows, [f"{file}, line {line}" for line in lines], classes)


def _holding(root: Path, names: Sequence[str]) -> Path | None:
    """root, or the one folder directly in it, that holds all these files."""
    places = [root, *sorted(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []
    return next((place for place in places if all((place / name).is_file() for name in names)), None)


def _lists(root: Path, lists: str | Path | None, names: Sequence[str]) -> Path:
    place = _holding(Path(lists or root), names)
    if place is None:
        raise FileNotFoundError(f"no lists at {lists or root}: wanted {', '.join(names)} there or one folder below")
    return place


def _numbered(file: Path, separator: str | None, columns: int, what: str) -> list[tuple[list[str], str]]:
    """The lines of a list file, split into columns, with "file, line n" each."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            parts, where = line.rstrip().split(separator), f"{file}, line {number}"
            if len(parts) != columns:
                raise ValueError(f"{where}: wanted {columns} columns ({what}), got {len(parts)}: {line.rstrip()!r}")
            rows.append((parts, where))
    return rows


def _class_list(file: Path, separator: str | None, first: int) -> list[str]:
    """Class names from lines "number name", which must count from `first`."""
    names = []
    for (number, name), where in _numbered(file, separator, 2, "number, class"):
        if number != str(first + len(names)):
            raise ValueError(f"{where}: wanted class number {first + len(names)}, got {number!r}")
        names.append(name)
    return names


def _below(root: Path, paths: Iterable[str], guesses: Sequence[str]) -> str:
    """Where below root the listed paths lie: "" or "folder/", the first guess or any folder that has one of them."""
    folders = [name for name in guesses if (root / name).is_dir()]
    folders += sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in folders)
    some = list(paths)
    for prefix in ["", *(f"{name}/" for name in folders)]:
        tops = {entry.name.lower() for entry in os.scandir(root / prefix)}
        if any(path.split("/")[0].lower() in tops for path in some):
            return prefix
    return ""


def _read_ucf101(root: Path, *, fold: int = 1, lists: str | Path | None = None) -> Found:
    """UCF101's lists (classInd.txt, trainlist0N.txt, testlist0N.txt; CRLF or LF) over a folder of class folders.

    Names are matched without regard to case: the class HandstandPushups has files called v_HandStandPushups, and copies
    of the data set differ in which spelling their folders have. The manifest holds the spelling on disk.
    """
    names = ("classInd.txt", f"trainlist{fold:02d}.txt", f"testlist{fold:02d}.txt")
    place = _lists(root, lists, names)
    classes = _class_list(place / names[0], None, 1)
    entries: list[tuple[str, str, str]] = []
    for (path, number), where in _numbered(place / names[1], None, 2, "path, class number"):
        label = path.split("/")[0]
        if not number.isdigit() or not 1 <= int(number) <= len(classes) or classes[int(number) - 1] != label:
            raise ValueError(f"{where}: class number {number} is not that of {label!r} in {place / names[0]}")
        entries.append((path, "train", where))
    entries += [(path, "test", where) for (path,), where in _numbered(place / names[2], None, 1, "path")]
    prefix = _below(root, (path for path, _, _ in entries), ("UCF-101", "videos"))
    videos = _videos_below(root / prefix)
    on_disk = {path.lower(): path for path in videos} | {path: path for path in videos}  # the exact name comes first
    rows: Rows = []
    for path, split, _ in entries:
        label, stem = path.split("/")[0], Path(path).stem
        name_on_disk = prefix + on_disk.get(path, on_disk.get(path.lower(), path))
        rows.append((name_on_disk, label, split, CLIP_NUMBER.sub("", stem)))
    return Found(root, rows, [where for _, _, where in entries], classes)


def _read_arid(root: Path, *, fold: int = 1, lists: str | Path | None = None) -> Found:
    """ARID's lists, mapping_table.txt beside ARID_splitN_train, _test and _other.txt, or train.txt and validate.txt.

    Lines are index, class number and path, separated by tabs. The second form (the six-class subset that is handed
    around) has its videos below train/ and validate/. Clips of an "other" list are in no split.
    """
    full = [(f"ARID_split{fold}_{word}.txt", split) for word, split in (("train", "train"), ("test", "test"))]
    short = [("train.txt", "train"), ("validate.txt", "validate")]
    base = Path(lists or root)
    files = short if _holding(base, ["mapping_table.txt", *(name for name, _ in short)]) else full
    place = _lists(root, lists, ["mapping_table.txt", *(name for name, _ in files)])
    if files is full and (place / f"ARID_split{fold}_other.txt").is_file():
        files = [*full, (f"ARID_split{fold}_other.txt", "none")]
    classes = _class_list(place / "mapping_table.txt", "\t", 0)
    rows, wheres = [], []
    for name, split in files:
        for (_, number, path), where in _numbered(place / name, "\t", 3, "index, class number, path"):
            if not number.isdigit() or int(number) >= len(classes):
                raise ValueError(f"{where}: class number {number} is not in mapping_table.txt")
            label = classes[int(number)]
            if "/" in path and path.split("/")[0] != label:
                raise ValueError(f"{where}: class number {number} is {label!r}, but the path is {path!r}")
            scene = ARID_SCENE.match(Path(path).stem)
            folder = f"{split}/" if files is short else ""
            rows.append((folder + path, label, split, scene and scene[1]))
            wheres.append(where)
    prefix = _below(root, (row[0] for row in rows), ("clips_v1", "clips", "videos"))
    return Found(root, [(prefix + path, *rest) for path, *rest in rows], wheres, classes)


# ---- the table and its door --------------------------------------------------------------------------------------


def _has_arid(root: Path) -> bool:
    return any(_holding(root, ["mapping_table.txt", name]) for name in ("train.txt", "ARID_split1_train.txt"))


DATASETS: dict[str, DataSet] = {
    "csv": DataSet(
        _read_csv, "a manifest of your own", f"manifest.csv with the header {','.join(COLUMNS)} (path is a must)",
        lambda root: root.suffix == ".csv" and root.is_file() or (root / "manifest.csv").is_file()),
    "ucf101": DataSet(
        _read_ucf101, "UCF101: 101 actions, 13320 clips in 25 groups a class (Soomro et al. 2012)",
        "classInd.txt with trainlist01.txt and testlist01.txt, and the class folders, each there or one folder below",
        lambda root: _holding(root, ["classInd.txt", "trainlist01.txt"]) is not None),
    "arid": DataSet(
        _read_arid, "ARID: actions in the dark (Xu et al. 2020), whole or as the six-class subset",
        "mapping_table.txt with ARID_split1_train.txt or train.txt, and the videos", _has_arid),
    "folder": DataSet(
        _read_folder, "any folder of class folders, if wanted below train/, validate/ and test/",
        "class folders with videos in them", lambda root: root.is_dir() and any("/" in v for v in _videos_below(root))),
}  # fmt: skip


def recognise(root: str | Path) -> str:
    """The name of the data set in a folder (or of a csv file), by looking at it; the first of DATASETS that fits.

    Raises FileNotFoundError where there is no such folder, ValueError, with what was looked for, where none fits.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no such folder: {root}")
    for name, row in DATASETS.items():
        if row.fits(root):
            return name
    looked = "; ".join(f"{name}: {row.holds}" for name, row in DATASETS.items())
    raise ValueError(f"no data set recognised in {root}; looked for {looked}")


def open_dataset(name: str, root: str | Path, *, missing: str = "error", **options) -> Manifest:
    """The Manifest of a named data set in a folder; options go to its reader (fold, lists; held_out, seed, into).

    missing: listed files that are not there are an error, or with "drop" are left out and reported in a warning. Raises
    ValueError on an unknown name, a bad list (with file and line) or no videos, FileNotFoundError on missing files.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if missing not in ("error", "drop"):
        raise ValueError(f"missing must be 'error' or 'drop', got {missing!r}")
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"no such folder: {root}")
    found = DATASETS[name].read(root, **options)
    if not found.rows:
        raise ValueError(f"{root} lists no videos for data set {name!r}; wanted {DATASETS[name].holds}")
    manifest = Manifest.from_rows(found.root, found.rows, found.classes, where=found.where.__getitem__)
    there = _there(manifest)
    if there.all():
        return manifest
    first = int(np.argmin(there))
    said = (f"{(~there).sum()} of {len(there)} listed videos are missing below {found.root}, the first is "
            f"{manifest.path[first]} ({found.where[first]})")  # fmt: skip
    if missing == "error" or not there.any():
        raise FileNotFoundError(f"{said}; check the folder, or go on without them by missing='drop'")
    warnings.warn(f"{said}; they are dropped", stacklevel=2)
    return manifest.select(mask=there)


def at_home(home: str | Path, data: str = "tiny", **options) -> tuple[Path, Manifest]:
    """The folder below `home` where a data set's videos, flow and runs are kept together, and its manifest.

    data: a toy world's size (tiny, small, large), which is rendered there, or a folder or csv, which is recognised and
    read with `options` (see open_dataset), once (see keep).
    """
    if data in toy.SETTINGS and not options:
        folder = Path(home).resolve() / data
        return folder, toy.render(folder / "videos", data, progress=False)
    root = Path(data).resolve()
    folder = Path(home).resolve() / (root.stem if root.suffix == ".csv" else root.name)
    return folder, keep(folder / "videos", root, **options)


def keep(folder: str | Path, data: str | Path, **options) -> Manifest:
    """Recognise and read a data set once; later calls load the manifest that the first one kept in `folder`.

    So what was trained on and what is tested on never part, whatever is added to the data set in between. Raises what
    open_dataset raises, and ValueError where the folder holds another data set's, or other options were used.
    """
    folder, root = Path(folder), Path(data).resolve()
    origin, wanted = folder / "origin.json", {"data": str(root), "options": options}
    if origin.is_file():
        kept = json.loads(origin.read_text(encoding="utf-8"))
        if kept["data"] != wanted["data"] or options and kept != wanted:
            raise ValueError(f"{folder} holds the manifest of {kept}, wanted {wanted}: take another home, or delete it")
        return Manifest.load(folder)
    manifest = open_dataset(recognise(root), root, **options)
    manifest.save(folder)
    origin.write_text(json.dumps(wanted), encoding="utf-8")
    return manifest


def _there(manifest: Manifest) -> np.ndarray:
    """Which rows' files exist [N]: one listing a folder instead of a question a file, which network disks mind."""
    names: dict[str, set[str]] = {}
    there = np.zeros(len(manifest), bool)
    for i in range(len(manifest)):
        folder, file = os.path.split(manifest.absolute(i))
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        there[i] = file in names[folder]
    return there
