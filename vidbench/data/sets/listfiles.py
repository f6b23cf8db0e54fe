"""List files of UCF101, HMDB51, ARID, Something-Something and Moments in Time as manifest rows.

A reader gets the folder `root` that has the videos below it, and options. `lists` is the folder of the
list files if they are elsewhere; they are searched in it and one folder below. Lists may begin
with a BOM and end their lines with CRLF. A list that is another data set's stops at its first line
that does not fit. Sources (the long video that clips share) are what a list or a name says and
nothing guessed beyond it:
    ucf101   class and group: v_Archery_g03_c03 is of v_Archery_g03
    hmdb51   the film, which is the name up to the action: TrumanShow_wave_f_nm_np1_fr_med_26 is of TrumanShow, as are
             the film's clips in other classes, which may be on the other side of a fold
    arid     class and scene: Jump_11_1 is of Jump_11; validation clips called 24.mp4 are sources of their own
    ssv2     none is known: each video is its own
    moments  the name without its last number (an assumption): yt-5of6ffo6-Bw_205 is of yt-5of6ffo6-Bw
`youtube` reads Kinetics, `activitynet` reads ActivityNet: their clips are named by video and time.
`images` reads ImageNet and CIFAR-100."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vidbench.data.sets.reading import (
    CLIP_NUMBER,
    Found,
    Rows,
    Stems,
    below,
    class_list,
    count_classes,
    files_below,
    holding,
    lists_in,
    numbered,
    one_of,
    places,
    read_json,
)
from vidbench.system.errors import InputError, MissingError

ARID_SCENE = re.compile(r"^([A-Za-z]+_\d+)_\d+$")
HMDB_SPLITS = {"1": "train", "2": "test", "0": "none"}
MOMENTS_NUMBER = re.compile(r"_\d+$")
MOMENTS_CATEGORIES = ("moments_categories.txt", "category_momentsv2.txt")


def read_ucf101(root: Path, *, fold: int = 1, lists: str | Path | None = None) -> Found:
    """Read UCF101's lists (classInd.txt, trainlist0N.txt, testlist0N.txt) over class folders.

    Names are matched without regard to case: the class HandstandPushups has files called
    v_HandStandPushups, and copies of the data set differ in which spelling their folders have. The
    manifest holds the spelling on disk. Copies with other suffixes, or with class folders below
    train/ and test/, are read too; the lists say which video is in which split.

    Args:
        fold: 1, 2 or 3.
        lists: The folder of the lists, if it is not root.

    Raises:
        InputError: there is no such fold, or a list has other classes or lines.
        MissingError: there are no lists (a FileNotFoundError).
    """
    one_of("UCF101's fold", fold, (1, 2, 3))
    names = ("classInd.txt", f"trainlist{fold:02d}.txt", f"testlist{fold:02d}.txt")
    place = lists_in(root, lists, names)
    classes = class_list(place / names[0], None, 1)
    count_classes("UCF101", classes, (101,), place / names[0])
    entries: list[tuple[str, str, str]] = []
    for (path, number), where in numbered(
        place / names[1], None, 2, "2 columns (path, class number)"
    ):
        label = path.split("/")[0]
        if (
            not number.isdigit()
            or not 1 <= int(number) <= len(classes)
            or classes[int(number) - 1] != label
        ):
            raise InputError(
                f"{where}: class number {number} is not that of {label!r} in {place / names[0]}"
            )
        entries.append((path, "train", where))
    entries += [
        (path, "test", where)
        for (path,), where in numbered(place / names[2], None, 1, "1 column (path)")
    ]
    prefix = below(root, (path for path, _, _ in entries), ("UCF-101", "videos"))
    videos = Stems(root)
    rows: Rows = []
    for path, split, _ in entries:
        label, stem = path.split("/")[0], Path(path).stem
        rows.append((videos.find(path, prefix), label, split, CLIP_NUMBER.sub("", stem)))
    return Found(root, rows, [where for _, _, where in entries], classes)


def read_hmdb51(root: Path, *, fold: int = 1, lists: str | Path | None = None) -> Found:
    """Read HMDB51's 51 lists <class>_test_splitN.txt over class folders.

    Lines are "name 1|2|0": 1 is train, 2 is test, 0 is a clip that this fold does not use and so a
    row of no split. A file on disk may have another suffix than the listed .avi, and be in a folder
    of its class within another (brush_hair/brush_hair), as archives unpacked into folders of their
    names leave it.

    Args:
        fold: 1, 2 or 3.
        lists: The folder of the lists, if it is not root.

    Raises:
        InputError: there is no such fold, or a list has other lines.
        MissingError: there are no lists (a FileNotFoundError).
    """
    one_of("HMDB51's fold", fold, (1, 2, 3))
    tail = f"_test_split{fold}.txt"
    place = lists_in(root, lists, [f"brush_hair{tail}"])
    names = (file.name for file in place.glob(f"*{tail}"))
    # ._NAME is what macOS adds to a file on other disks
    classes = sorted(name.removesuffix(tail) for name in names if not name.startswith("."))
    count_classes("HMDB51", classes, (51,), place / f"*{tail}")
    prefix = below(root, classes, ("hmdb51_org", "hmdb51", "videos"))
    videos = Stems(root)
    rows: Rows = []
    wheres: list[str] = []
    for label in classes:
        clip = re.compile(rf"(.+)_{re.escape(label)}_[a-z]_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.avi")
        for (name, number), where in numbered(
            place / f"{label}{tail}", None, 2, "2 columns (name, 0|1|2)"
        ):
            film = clip.fullmatch(name)
            if film is None or number not in HMDB_SPLITS:
                raise InputError(
                    f"{where}: wanted film_{label}_..._0.avi and 0, 1 or 2, got {name!r} and "
                    f"{number!r}"
                )
            path = videos.find(f"{label}/{name}", prefix)
            rows.append((path, label, HMDB_SPLITS[number], film[1]))
            wheres.append(where)
    return Found(root, rows, wheres, classes)


def read_arid(root: Path, *, fold: int = 1, lists: str | Path | None = None) -> Found:
    """Read ARID's lists.

    They are mapping_table.txt with ARID_splitN_train, _test and maybe _other.txt, or with train.txt
    and validate.txt. Lines of a split are index, class number and path, separated by tabs. The
    second form (a common six-class subset) has its videos below train/ and validate/. Clips of an
    "other" list are in no split.

    Args:
        fold: 1, 2 or 3; the six-class subset has only 1.
        lists: The folder of the lists, if it is not root.

    Raises:
        InputError: there is no such fold, or a list has other lines.
        MissingError: there are no lists (a FileNotFoundError).
    """
    one_of("ARID's fold", fold, (1, 2, 3))
    full = [
        (f"ARID_split{fold}_{word}.txt", split)
        for word, split in (("train", "train"), ("test", "test"))
    ]
    short = [("train.txt", "train"), ("validate.txt", "validate")]
    files = (
        short
        if holding(Path(lists or root), ["mapping_table.txt", *(name for name, _ in short)])
        else full
    )
    if files is short and fold != 1:
        raise InputError(
            f"{lists or root} holds ARID's six-class subset, which has no fold {fold}: take fold 1 "
            "or the full lists, ARID_split1_train.txt and so on"
        )
    place = lists_in(root, lists, ["mapping_table.txt", *(name for name, _ in files)])
    if files is full and (place / f"ARID_split{fold}_other.txt").is_file():
        files = [*full, (f"ARID_split{fold}_other.txt", "none")]
    classes = class_list(place / "mapping_table.txt", "\t", 0)
    rows: Rows = []
    wheres: list[str] = []
    for name, split in files:
        for (_, number, path), where in numbered(
            place / name, "\t", 3, "3 columns (index, class number, path)"
        ):
            if not number.isdigit() or int(number) >= len(classes):
                raise InputError(f"{where}: class number {number} is not in mapping_table.txt")
            label = classes[int(number)]
            if "/" in path and path.split("/")[0] != label:
                raise InputError(
                    f"{where}: class number {number} is {label!r}, but the path is {path!r}"
                )
            scene = ARID_SCENE.match(Path(path).stem)
            folder = f"{split}/" if files is short else ""
            rows.append((folder + path, label, split, scene[1] if scene else None))
            wheres.append(where)
    prefix = below(root, (row[0] for row in rows), ("clips_v1", "clips", "videos"))
    return Found(root, [(prefix + row[0], *row[1:]) for row in rows], wheres, classes)


def ssv2_files(root: Path) -> dict[str, Path]:
    """Find Something-Something-v2's list files in a folder or one below.

    Returns:
        Those that exist by name: labels, train, validation, test, test-answers. {} if labels, or
        both train and validation, are missing.
    """
    for place in places(root):
        for head in ("something-something-v2-", ""):
            names = {
                "labels": "json",
                "train": "json",
                "validation": "json",
                "test": "json",
                "test-answers": "csv",
            }
            files = {word: place / f"{head}{word}.{suffix}" for word, suffix in names.items()}
            files = {word: file for word, file in files.items() if file.is_file()}
            if "labels" in files and files.keys() & {"train", "validation"}:
                return files
    return {}


def read_ssv2(root: Path, *, lists: str | Path | None = None) -> Found:
    """Read Something-Something-v2's json lists over <id>.webm or .mp4.

    The lists have 20BN's names, or Qualcomm's, which lack the prefix something-something-v2-.
    labels is {"Putting something on a surface": "0", ...}; its numbers order the classes. train and
    validation are lists of {id, label, template, placeholders}, where the label of a row is the
    template without its square brackets. test is a list of {id} and has no labels, unless
    test-answers.csv ("id;label") is next to it.

    Args:
        lists: The folder of the lists, if it is not root.

    Raises:
        InputError: a list is damaged.
        MissingError: there are no lists (a FileNotFoundError).
    """
    files = ssv2_files(Path(lists or root))
    if not files:
        raise MissingError(
            f"no lists at {lists or root}: wanted something-something-v2-labels.json with -train "
            "or -validation.json (or labels.json, ...) there or one folder below"
        )
    classes = _ssv2_classes(files["labels"])
    answers: dict[str, str] = {}
    if "test-answers" in files:
        pairs = numbered(files["test-answers"], ";", 2, "2 columns (id;label)")
        answers = {video: label for (video, label), _ in pairs}
    on_disk = {Path(path).stem: path for path in files_below(root)}
    rows: Rows = []
    wheres: list[str] = []
    for split in ("train", "validation", "test"):
        for video, template, where in _ssv2_entries(files[split]) if split in files else ():
            if template is None and split != "test":
                raise InputError(f"{where}: wanted an object with id and template, got id {video}")
            label = answers.get(video) if split == "test" else template
            path = on_disk.get(video, f"20bn-something-something-v2/{video}.webm")
            rows.append((path, label, split, None))
            wheres.append(where)
    return Found(root, rows, wheres, classes)


def _ssv2_classes(file: Path) -> list[str]:
    """The templates in the order of their numbers, which must count from 0."""
    numbers = {name: str(number) for name, number in read_json(file, dict).items()}
    classes = sorted(numbers, key=lambda name: numbers[name].zfill(9))
    order = {name: i for i, name in enumerate(classes)}
    for name, number in numbers.items():
        if number != str(order[name]):
            raise InputError(
                f"{file}: classes count from 0, but {name!r} has {number!r}, not {order[name]}"
            )
    count_classes("Something-Something-v2", classes, (174,), file)
    return classes


def _ssv2_entries(file: Path) -> Iterator[tuple[str, str | None, str]]:
    """(id, template without its square brackets or None, where) of each entry of a list."""
    for number, entry in enumerate(read_json(file, list), 1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict) or "id" not in entry:
            raise InputError(
                f"{where}: wanted an object with id and template (test: id), got {entry!r}"
            )
        template = entry.get("template")
        if template is not None:
            template = str(template).replace("[", "").replace("]", "")
        yield str(entry["id"]), template, where


def moments_lists(root: Path) -> tuple[Path, Path] | None:
    """Find Moments in Time's csv lists in a folder or one below.

    Returns:
        Their folder and the category file, or None.
    """
    for place in places(root):
        categories = next(
            (place / name for name in MOMENTS_CATEGORIES if (place / name).is_file()), None
        )
        if categories and any(
            (place / name).is_file() for name in ("trainingSet.csv", "validationSet.csv")
        ):
            return place, categories
    return None


def read_moments(root: Path, *, lists: str | Path | None = None) -> Found:
    """Read Moments in Time (or Mini): trainingSet.csv and validationSet.csv over class folders.

    The folders are training/<class>/ and validation/<class>/. Lines are path and label, or path,
    label, workers who agreed, workers who did not; there is no header. The classes are in
    moments_categories.txt ("label,number"; v1 has 339, Mini 200) or category_momentsv2.txt (one a
    line; v2 has 305).

    Args:
        lists: The folder of the lists, if it is not root.

    Raises:
        InputError: a list has other lines.
        MissingError: there are no lists (a FileNotFoundError).
    """
    found = moments_lists(Path(lists or root))
    if found is None:
        raise MissingError(
            f"no lists at {lists or root}: wanted {' or '.join(MOMENTS_CATEGORIES)} with "
            "trainingSet.csv or validationSet.csv there or one folder below"
        )
    place, categories = found
    classes: list[str] = []
    for (name, *number), where in numbered(categories, ",", (1, 2), "a class, or class,number"):
        if number and number[0].strip() != str(len(classes)):
            raise InputError(f"{where}: wanted class number {len(classes)}, got {number[0]!r}")
        classes.append(name)
    count_classes("Moments in Time", classes, (339, 305, 200), categories)
    rows: Rows = []
    wheres: list[str] = []
    prefix = below(root, ("training", "validation"), ())
    for word, split in (("training", "train"), ("validation", "validate")):
        file = place / f"{word}Set.csv"
        what = "path,label or path,label,agree,disagree"
        for (path, label, *_), where in numbered(file, ",", (2, 4), what) if file.is_file() else ():
            rows.append(
                (f"{prefix}{word}/{path}", label, split, MOMENTS_NUMBER.sub("", Path(path).stem))
            )
            wheres.append(where)
    return Found(root, rows, wheres, classes)
