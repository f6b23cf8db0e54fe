"""Data sets by name: recognize a folder, read it into a Manifest.

A data set is a row in DATASETS: how to read it, what it is, what its folder holds and how it is
recognized. A reader gives rows (path, label, split, source_video) with the file and line of each;
checks that all share are in `open_dataset`. Readers of lists are in `listfiles`, `youtube`,
`activitynet` and `pathlabel`; those of plain folders in `folders` and `loose`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidbench.data.manifest import COLUMNS, STRINGS, Manifest
from vidbench.data.prepare.outputs import Outputs
from vidbench.data.sets import (
    activitynet,
    folders,
    images,
    listfiles,
    loose,
    opened,
    pathlabel,
    youtube,
)
from vidbench.data.sets.loose import open_files as open_files
from vidbench.data.sets.options import TEXTS, check_options, options_of, plain
from vidbench.data.sets.reading import Found, holding, spelled_on_disk
from vidbench.data.toy import world as toy
from vidbench.system.errors import InputError, MissingError
from vidbench.system.files import write_text

MISSING = ("error", "drop", "keep")
KEPT = ("manifest.csv", "classes.txt", "root.txt")  # what `keep` writes


class DataSet(NamedTuple):
    """A row of DATASETS."""

    read: Callable[..., Found | Manifest]  # (root, **options)
    about: str
    holds: str  # what the folder must hold
    fits: Callable[[Path], bool]


# ---- the table and its door --------------------------------------------------------------------


def _has(*choices: tuple[str, ...]) -> Callable[[Path], bool]:
    """Whether a folder, or one directly in it, has all files of one of the choices."""
    return lambda root: any(holding(root, names) for names in choices)


def _kinetics(number: int, about: str) -> DataSet:
    return DataSet(
        partial(youtube.read_kinetics, number),
        f"Kinetics-{number}: {number} actions, clips of 10 seconds ({about})",
        f"train.csv, val.csv, test.csv or kinetics-{number}_train.csv, ... (those that are "
        "there), and the videos",
        partial(youtube.has_kinetics, number),
    )


DATASETS: dict[str, DataSet] = {
    "csv": DataSet(
        loose.read_csv,
        "a manifest of your own, with or without labels",
        f"manifest.csv with the header {','.join(COLUMNS)} (only path is required)",
        lambda root: root.suffix == ".csv" and root.is_file() or (root / "manifest.csv").is_file(),
    ),
    "ucf101": DataSet(
        listfiles.read_ucf101,
        "UCF101: 101 actions, 13320 clips in 25 groups a class (Soomro et al. 2012)",
        "classInd.txt with trainlist01.txt and testlist01.txt, and the class folders, each there "
        "or one folder below",
        _has(("classInd.txt", "trainlist01.txt")),
    ),
    "hmdb51": DataSet(
        listfiles.read_hmdb51,
        "HMDB51: 51 actions, 6766 clips of films (Kuehne et al. 2011)",
        "brush_hair_test_split1.txt and so on, and the class folders, each there or one folder "
        "below",
        _has(("brush_hair_test_split1.txt",)),
    ),
    "minikinetics200": DataSet(  # before kinetics400, whose lists may be in the same folder
        youtube.read_minikinetics,
        "Mini-Kinetics-200: 80000 and 5000 clips of Kinetics-400 (Xie et al. 2018)",
        "train_ytid_list.txt and val_ytid_list.txt with Kinetics-400's lists, or train_k200.csv "
        "and val_k200.csv",
        lambda root: bool(youtube.mini_lists(root)),
    ),
    "kinetics400": _kinetics(400, "Kay et al. 2017"),
    "kinetics600": _kinetics(600, "Carreira et al. 2018"),
    "kinetics700": _kinetics(700, "Carreira et al. 2019, or the release 700-2020"),
    "arid": DataSet(
        listfiles.read_arid,
        "ARID: actions in the dark (Xu et al. 2020), whole or as the six-class subset",
        "mapping_table.txt with ARID_split1_train.txt or train.txt, and the videos",
        _has(("mapping_table.txt", "train.txt"), ("mapping_table.txt", "ARID_split1_train.txt")),
    ),
    "ssv2": DataSet(
        listfiles.read_ssv2,
        "Something-Something-v2: 174 templates, 220847 videos (Goyal et al. 2017)",
        "something-something-v2-labels.json, -train.json, -validation.json, -test.json, and "
        "<id>.webm or .mp4",
        lambda root: bool(listfiles.ssv2_files(root)),
    ),
    "moments": DataSet(
        listfiles.read_moments,
        "Moments in Time: 339 or (v2) 305 classes of 3-second clips (Monfort et al. 2018)",
        "moments_categories.txt with trainingSet.csv and validationSet.csv, and training/ and "
        "validation/",
        lambda root: listfiles.moments_lists(root) is not None,
    ),
    "activitynet": DataSet(
        activitynet.read_activitynet,
        "ActivityNet 1.3, trimmed to its segments: 200 classes (Caba Heilbron et al. 2015)",
        "activity_net.v1-3.min.json and a file a segment",
        lambda root: activitynet.activitynet_list(root) is not None,
    ),
    "pathlabel": DataSet(
        pathlabel.read_pathlabel,
        "lists of SlowFast, VideoMAE or MMAction2: lines of a path and a class number",
        "train.csv, val.csv or test.csv (or .txt) with lines such as run/a.mp4 0, and the videos",
        lambda root: bool(pathlabel.pathlabel_lists(root)),
    ),
    "cifar100": DataSet(
        images.read_cifar100,
        "CIFAR-100: pictures of 32x32 in 100 classes (Krizhevsky 2009), or some of them",
        "train/<class>/*.png and test/, or cifar-100-python or cifar-100-binary, or their .tar.gz",
        images.has_cifar100,
    ),
    "imagenet": DataSet(
        images.read_imagenet,
        "ImageNet's 1000 classes (Russakovsky et al. 2015), or some of them",
        "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, and LOC_synset_mapping.txt for readable names",
        lambda root: images.imagenet_place(root) is not None,
    ),
    "weizmann": DataSet(
        folders.read_weizmann,
        "Weizmann (Blank et al. 2005), MoCoGAN's excerpt: 4 actions, in a fold 1 of 9 actors left "
        "out",
        "0/, 1/, 3/ and 4/ with strips of square frames, numbered 00000000.jpg to 00000071.jpg",
        folders.has_weizmann,
    ),
    "loose": DataSet(
        loose.read_loose,
        "videos without labels",
        "videos, if wanted below train/, validate/ and test/, but in no class folders",
        loose.is_loose,
    ),
    "folder": DataSet(
        folders.read_folder,
        "any folder of class folders, if wanted below train/, validate/ and test/",
        "class folders with videos in them, or with pictures",
        lambda root: root.is_dir() and any("/" in path for path in folders.media_below(root)),
    ),
}


def detect_dataset(root: str | Path) -> str:
    """Recognize the data set in a folder (or of a csv file): the first of DATASETS that fits.

    Raises:
        FileNotFoundError: there is no such folder.
        InputError: no data set fits (the message names what was found), or `root` is empty.
    """
    root = _existing(root)
    for name, row in DATASETS.items():
        if row.fits(root):
            return name
    raise InputError(opened.unknown(root))


def _existing(root: str | Path) -> Path:
    """The path with ~ replaced.

    Raises:
        FileNotFoundError: it does not exist; the message names a built-in data set of that name.
    """
    if isinstance(root, str) and not root.strip():
        raise InputError(
            "a data set must be a folder or a csv; got an empty name. Is a variable of the shell "
            "not set? For the working directory write '.'"
        )
    path = Path(root).expanduser()
    if path.exists():
        return path
    built_in = ["digits", *toy.PRESETS, *(f"{a}-{b}" for a in toy.PRESETS for b in toy.WORLDS)]
    if path.name in built_in:
        raise MissingError(
            f"no such folder: {path}. {path.name!r} is a built-in data set: notebooks and "
            "vidbench.videos take it by its name, without options."
        )
    near = get_close_matches(path.name.lower(), built_in, 1)
    meant = f". Did you mean the built-in data set {near[0]!r}?" if near else ""
    # a path in full cannot be meant as a name
    worlds = "" if path.parent.name else f"\nToy worlds: {', '.join(toy.PRESETS)}."
    raise MissingError(f"no such folder: {path}{meant}{worlds}")


def open_dataset(
    name: str, root: str | Path, *, missing: str = "error", labels: bool = True, **options
) -> Manifest:
    """Read a named data set in a folder.

    Files that are no rows, and what is in more than one split, are named in one warning. A csv of
    your own that puts one source video or one content into two splits is an error, unless its
    option overlap is "warn".

    Args:
        name: A key of DATASETS.
        missing: Listed files that do not exist are an error; with "drop" they are left out and
            reported in a warning; with "keep" they stay rows.
        labels: False reads the videos without labels; folders are then no classes.
        **options: Options of its reader (fold, lists; held_out, seed, into; ...).

    Raises:
        InputError: an unknown name or option, a bad list (with file and line), no videos, or such
            an overlap of splits.
        FileNotFoundError: the folder or listed files do not exist.
    """
    if name == "folder" and not labels:
        name = "loose"
    _check_options(name, missing, options)
    root = _existing(root)
    found = DATASETS[name].read(root, **options)
    if isinstance(found, Manifest):
        manifest, wheres = found, [f"row {row}" for row in range(1, len(found) + 1)]
    else:
        wheres = list(found.where)
        manifest = Manifest.from_rows(
            found.root, found.rows, found.classes, where=wheres.__getitem__
        )
    if not len(manifest):
        raise InputError(
            f"{root} lists no videos for data set {name!r}; wanted {DATASETS[name].holds}"
        )
    if missing != "keep":
        manifest = _present(manifest, wheres, missing)
    if not labels:
        manifest = manifest.without_labels()
    _say_what_was_opened(name, root, manifest, options.get("overlap", "error"))
    return manifest


def _say_what_was_opened(name: str, root: Path, manifest: Manifest, overlap: str) -> None:
    """Warn of files that are no rows and of what is in more than one split.

    Raises:
        ValueError: a csv of the user's own puts one source video or one content into two splits,
            and overlap is "error".
    """
    shared = opened.across_splits(manifest)
    own = name == "csv" and loose.has_splits(root) and not _made_here(root)
    if shared and own and overlap == "error":
        raise InputError(
            f"{root}: {'; '.join(shared)}. Put them into one split, or open it with the option "
            "overlap='warn'"
        )
    plain = name in ("folder", "loose")
    left = opened.left_out(manifest, root, plain) if name != "csv" else []
    same = opened.alike(manifest.classes)
    if left or shared or same:
        said = "; ".join((*(f"left out: {text}" for text in left), *shared, *same))
        warnings.warn(
            f"opened {root} as {name}, {manifest.words}. {said}",
            stacklevel=3,
        )


def _made_here(root: Path) -> bool:
    """Whether `scan`, `store` or `keep` wrote this manifest: its splits are another list's."""
    place = root if root.is_dir() else root.parent
    return any((place / name).is_file() for name in ("scan.csv", "store.json", "origin.json"))


def _check_options(name: str, missing: str, options: dict[str, Any]) -> None:
    """Raise ValueError for an unknown data set, an unknown option, or another value of missing."""
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if missing not in MISSING:
        raise InputError(f"missing must be one of {', '.join(map(repr, MISSING))}, got {missing!r}")
    check_options(name, DATASETS[name].read, options)


def is_text(option: str) -> bool:
    """Return whether a value of this option is text, so that `-o lists 2020` names a folder."""
    kinds = {options_of(row.read).get(option) for row in DATASETS.values()} - {None}
    return option in ("missing", "name") or bool(kinds) and kinds <= set(TEXTS)


def _present(manifest: Manifest, wheres: list[str], missing: str) -> Manifest:
    """The rows whose files exist. Raises FileNotFoundError if missing is "error" or no file
    exists."""
    there, paths = spelled_on_disk(manifest.root, manifest.path.tolist())
    if paths != manifest.path.tolist():
        manifest = replace(manifest, path=np.array(paths, dtype=STRINGS))
    if there.all():
        return manifest
    first = int(np.argmin(there))
    said = (
        f"{(~there).sum()} of {len(there)} listed videos are missing below {manifest.root}, the "
        f"first is {manifest.path[first]} ({wheres[first]})"
    )
    if missing == "error" or not there.any():
        raise MissingError(f"{said}; check the folder, or leave them out by missing='drop'")
    warnings.warn(f"{said}; they are dropped", stacklevel=3)
    return manifest.select(mask=there)


def is_built_in(data: str) -> bool:
    """Return whether a name means a toy world or the digits, which need no files."""
    size, _, world = str(data).partition("-")
    return data == "digits" or size in toy.PRESETS and (world or "base") in toy.WORLDS


def prepare_dataset(
    runs_dir: str | Path, data: str = "tiny", fold: int = 1, **options
) -> tuple[Path, Manifest]:
    """Open a data set and its folder below `runs_dir`, which holds its videos, flow and runs.

    Args:
        data: A toy world's size (tiny, small, large), which is rendered there, or with the name of
            another world after it (tiny-gym, tiny-street); "digits" (images.digits); or a folder or
            csv, which is recognized and read once (see keep).
        fold: From 1; each beyond the first has its own folder, such as UCF101-fold2.
        **options: See open_dataset; only for a folder or csv.

    Returns:
        The folder and the manifest.

    Raises:
        InputError: see keep, or a built-in data set should give a fold beyond the first.
        FileNotFoundError: no such folder or csv, or listed files do not exist.
        OutputError: see keep.
    """
    size, _, world = str(data).partition("-")
    if is_built_in(data) and not options:
        if fold != 1:
            raise _no_folds(
                f"the built-in data set {data!r}"
                if data == "digits"
                else f"the toy world {data!r}",
                fold,
            )
        folder = Path(runs_dir).resolve() / data
        videos = folder / "videos"
        if data == "digits":
            return folder, images.digits(videos)
        return folder, toy.render(videos, size, world or "base", progress=False)
    root = _existing(data).resolve()
    folder = Path(runs_dir).resolve() / name_of(root, fold)
    return folder, keep(folder / "videos", root, fold, **options)


def _with_folds() -> list[str]:
    """The names of the data sets whose readers take a fold."""
    return [name for name, row in DATASETS.items() if "fold" in options_of(row.read)]


def _no_folds(what: str, fold: int) -> ValueError:
    return InputError(
        f"{what} has no folds; got fold {fold}. Use fold 1, which is all of it; "
        f"{', '.join(_with_folds())} have several"
    )


def name_of(root: str | Path, fold: int = 1) -> str:
    """Name a data set by its folder or csv.

    A folder that `scan` or `store` wrote is named with the folder above it. A fold beyond the first
    is in the name.

    Args:
        fold: From 1.
    """
    root = Path(root).resolve()
    made_here = (root / "scan.csv").is_file() or (root / "store.json").is_file()
    name = (
        f"{root.parent.name}-{root.name}"
        if made_here
        else root.stem
        if root.suffix == ".csv"
        else root.name
    )
    return name if fold == 1 else f"{name}-fold{fold}"


def keep(folder: str | Path, data: str | Path, fold: int | None = None, **options) -> Manifest:
    """Recognize and read a data set once; later calls load the manifest that the first one kept.

    So training and test videos stay the same, whatever is added to the data set later.

    Args:
        folder: Where the manifest is kept.
        data: The data set's folder or csv.
        fold: From 1; None means the fold that was kept, or the first.
        **options: See open_dataset.

    Raises:
        InputError: see open_dataset. Or `folder` has the manifest of another data set, fold or
            options. Or a data set without folds should give a fold beyond the first.
        FileNotFoundError: the data set or listed files do not exist.
        OutputError: `folder` has files of the same names that vidbench did not make.
    """
    folder, root = Path(folder), Path(data).expanduser().resolve()
    options = plain(options)
    origin = folder / "origin.json"
    wanted: dict[str, Any] = {"data": str(root), "options": options}
    # fold 1 is the readers' default, and what folders made without a fold hold
    if fold not in (None, 1):
        wanted["options"] = {**options, "fold": fold}
    if origin.is_file():
        kept = json.loads(origin.read_text(encoding="utf-8"))
        there = dict(kept["options"])
        same_fold = there.pop("fold", 1) == fold or fold is None
        if kept["data"] != wanted["data"] or options and there != options or not same_fold:
            want = wanted if same_fold else {**wanted, "fold": fold}
            raise InputError(
                f"{folder} holds the manifest of {kept}, wanted {want}: take another runs_dir, or "
                "delete it"
            )
        return Manifest.load(folder)
    name = detect_dataset(root)
    if fold not in (None, 1) and name not in _with_folds():
        raise _no_folds(f"{root} ({name})", fold)
    manifest = open_dataset(name, root, **wanted["options"])
    made = Outputs(folder)
    made.refuse_others(KEPT)
    made.claim(KEPT)
    manifest.save(folder)
    write_text(origin, json.dumps(wanted))
    return manifest
