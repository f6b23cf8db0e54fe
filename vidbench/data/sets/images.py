"""Data sets of pictures: ImageNet's folders of classes, CIFAR-100's archives or PNG files.

A picture is a video of one frame (`clips`), so these are rows of a manifest like any others; each
is its own source video. Also the digits that come with scikit-learn, for which nothing is
downloaded."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidbench.data.manifest import Manifest, text_lines
from vidbench.data.sets.reading import Found, Rows, files_below
from vidbench.data.video.clips import PICTURES
from vidbench.system.errors import InputError, MissingError
from vidbench.system.files import written, written_in_steps

LARGEST = 1 << 29  # bytes of a member of an archive; the largest of CIFAR-100 has 155 MB
WNID = re.compile(r"n\d{8}")
CIFAR100 = tuple(
    """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
""".split()
)  # in the order of the official label numbers
FLAT = (
    "is in no class folder: move each picture into {split}/<wnid>/. For ImageNet's own "
    "validation pictures torchvision.datasets.ImageNet(root, split='val') does it, from "
    "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz in root "
    "(ILSVRC2012_validation_ground_truth.txt alone is not enough: its numbers are the devkit's, in "
    "the order of its meta.mat)"
)

# scikit-learn's digits: the row each form begins with, as the labels show; every form requests the
# same row of digits
FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)


# ---- ImageNet ----------------------------------------------------------------------------------


def imagenet_place(root: Path) -> Path | None:
    """Return the folder with train/ or val/ of class folders named like n01440764.

    It is root, or Kaggle's ILSVRC/Data/CLS-LOC.
    """
    for place in (root, root / "ILSVRC/Data/CLS-LOC"):
        for split in ("train", "val"):
            if (place / split).is_dir() and any(
                WNID.fullmatch(name) for name in os.listdir(place / split)
            ):
                return place
    return None


def read_imagenet(root: Path, *, lists: str | Path | None = None) -> Found:
    """Read ImageNet, or some of its classes, as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG.

    Classes are in the order of their wnids. Labels are wnids, or the names in
    LOC_synset_mapping.txt (lines "n01440764 tench, Tinca tinca") if it exists; a name that two
    wnids have (crane) is followed by the wnid. Each picture is its own source video.

    Args:
        lists: The folder of LOC_synset_mapping.txt, if it is not root.

    Raises:
        MissingError: there is no ImageNet (a FileNotFoundError).
        InputError: a picture is in no class folder, or a class folder has another name.
    """
    place = imagenet_place(root)
    if place is None:
        raise MissingError(
            f"no ImageNet in {root}: wanted train/<wnid>/*.JPEG, with a wnid like n01440764"
        )
    names = _synset_names(Path(lists or root) / "LOC_synset_mapping.txt")
    prefix = "" if place == root else f"{place.relative_to(root).as_posix()}/"
    rows, known = [], set(names)
    for split in ("train", "val"):
        for path in files_below(place / split, PICTURES):
            wnid = path.split("/")[0]
            if wnid == path:
                raise InputError(f"{place / split / path}: {FLAT.format(split=split)}")
            if not WNID.fullmatch(wnid) or known and wnid not in known:
                raise InputError(
                    f"{place / split / path}: class {wnid!r} is no wnid like n01440764, or not in "
                    f"{'LOC_synset_mapping.txt' if names else 'train'}"
                )
            rows.append((f"{prefix}{split}/{path}", names.get(wnid, wnid), split, None, wnid))
        known = known or {wnid for *_, wnid in rows}  # val has no class that train has not
    classes = [names.get(wnid, wnid) for wnid in sorted({wnid for *_, wnid in rows})]
    return Found(root, [row[:4] for row in rows], [str(root / row[0]) for row in rows], classes)


def _synset_names(file: Path) -> dict[str, str]:
    """Readable names by wnid, each of one wnid only; none without the file."""
    names: dict[str, str] = {}
    for line in text_lines(file) if file.is_file() else ():
        wnid, _, name = line.partition(" ")
        if not WNID.fullmatch(wnid) or not name.strip():
            raise InputError(f"{file}: wanted lines like 'n01440764 tench', got {line!r}")
        names[wnid] = name.strip()
    several = [name for name, count in Counter(names.values()).items() if count > 1]
    return {wnid: f"{name} ({wnid})" if name in several else name for wnid, name in names.items()}


# ---- CIFAR-100 ---------------------------------------------------------------------------------


def cifar100_source(root: Path) -> Path | None:
    """Find CIFAR-100 in a folder: the folder with train/ or test/, else an archive, else None."""
    kinds = ("cifar-100-python", "cifar-100-binary")
    folders = [
        p
        for p in (root / "cifar100-png", root)
        if any((p / split).is_dir() for split in ("train", "test"))
    ]
    archives = [root] if root.name in kinds else []
    archives += [root / kind for kind in (*kinds, *(f"{kind}.tar.gz" for kind in kinds))]
    return next((place for place in (*folders, *archives) if place.exists()), None)


def has_cifar100(root: Path) -> bool:
    """Return whether a folder has CIFAR-100: an archive, or only its classes in the splits."""
    place = cifar100_source(root)
    if place is None or place.name.startswith("cifar-100-"):
        return place is not None
    names = [
        name
        for split in ("train", "test")
        if (place / split).is_dir()
        for name in os.listdir(place / split)
    ]
    names = [name for name in names if not name.startswith(".")]
    return bool(names) and all(name in CIFAR100 for name in names)


def read_cifar100(root: Path) -> Found:
    """Read CIFAR-100, or some of its classes, as train/<class>/*.png and test/<class>/*.png.

    If the folder has only cifar-100-python or cifar-100-binary (unpacked, or the .tar.gz), their
    pictures are first written to cifar100-png/<split>/<class>/<number in the archive>.png below
    root, once; an interrupted run resumes, and the folder has its name only when it is complete.
    One process at a time.

    Raises:
        MissingError: there is no CIFAR-100 (a FileNotFoundError).
        InputError: a picture is in no folder of one of the 100 classes, or an archive is damaged.
    """
    place = cifar100_source(root)
    if place is None:
        raise MissingError(
            f"no CIFAR-100 in {root}: wanted train/<class>/*.png and test/, cifar-100-python or "
            "cifar-100-binary (or either .tar.gz)"
        )
    if place.name.startswith("cifar-100-"):
        place = _unpack_cifar100(place, root / "cifar100-png")
    prefix = "" if place == root else f"{place.name}/"
    rows: Rows = []
    for path in files_below(place, (".png",)):
        split, *inside, _ = path.split("/")
        if split in ("train", "test"):
            if len(inside) != 1 or inside[0] not in CIFAR100:
                raise InputError(
                    f"{place / path}: wanted {split}/<class>/*.png with one of CIFAR-100's 100 "
                    f"classes ({', '.join(CIFAR100[:3])}, ...)"
                )
            rows.append((prefix + path, inside[0], split, None))
    occur = {label for _, label, _, _ in rows}
    return Found(
        root,
        rows,
        [str(root / row[0]) for row in rows],
        [name for name in CIFAR100 if name in occur],
    )


def _unpack_cifar100(archive: Path, target: Path) -> Path:
    """Write an archive's pictures below target; returns target."""
    with written_in_steps(target) as partial:
        for split in ("train", "test"):
            for number, (label, pixels) in enumerate(_cifar100_pictures(archive, split)):
                file = partial / split / label / f"{number:05d}.png"
                if not file.exists():
                    picture = Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
                    with written(file, sync=False) as temporary:
                        picture.save(temporary, format="png")
    return target


def _cifar100_pictures(archive: Path, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """(class, pixels uint8 [3072], the red plane first) of each picture. Raises ValueError on
    another's archive."""
    read = _opener(archive)
    if "python" in archive.name:
        names = _unpickle(read("meta"), archive).get("fine_label_names", [])
        labels, pixels = _labelled_pixels(_unpickle(read(split), archive), archive)
    else:
        names, raw = read("fine_label_names.txt").decode().split(), read(f"{split}.bin")
        if len(raw) % 3074:
            raise InputError(
                f"{archive}: {split}.bin is {len(raw)} bytes, no multiple of a picture's 3074"
            )
        # coarse label, fine label, 3 planes of 32 x 32
        records = np.frombuffer(raw, np.uint8).reshape(-1, 3074)
        labels, pixels = records[:, 1].tolist(), records[:, 2:]
    for number, (got, wanted) in enumerate(zip_longest(names, CIFAR100)):
        if got != wanted:
            raise InputError(f"{archive}: label {number} is {got!r}, CIFAR-100's is {wanted!r}")
    if len(labels) != len(pixels):
        raise InputError(f"{archive}: {len(labels)} labels for {len(pixels)} pictures in {split}")
    for label, picture in zip(labels, pixels, strict=True):
        if type(label) is not int or not 0 <= label < len(CIFAR100):
            raise InputError(f"{archive}: a label must be a number in 0..99, got {label!r}")
        yield CIFAR100[label], picture


def _opener(archive: Path) -> Callable[[str], bytes]:
    """Read a member of an unpacked archive, or of the .tar.gz as it was downloaded."""
    if archive.is_dir():
        return partial(_member, archive)

    def read(name: str) -> bytes:
        try:
            with tarfile.open(archive) as tar:
                member = tar.getmember(f"{archive.name.removesuffix('.tar.gz')}/{name}")
                content = tar.extractfile(member) if member.size <= LARGEST else None
                if content is None:
                    raise InputError(
                        f"{archive}: {name} must be a file of at most {LARGEST} bytes, got "
                        f"{member.size}"
                    )
                return content.read()
        except (tarfile.TarError, zlib.error, EOFError, KeyError) as error:
            raise InputError(
                f"{archive}: cannot read {name} ({error}); download it again"
            ) from None

    return read


def _member(archive: Path, name: str) -> bytes:
    """Read a file of an unpacked archive. Raises FileNotFoundError if it is missing."""
    try:
        return (archive / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        there = ", ".join(sorted(os.listdir(archive))[:5]) or "no files"
        raise MissingError(
            f"{archive} must contain {name}; got {there}. Unpack the archive again, or delete the "
            f"folder and put {archive.name}.tar.gz in its place"
        ) from None


class _Kind:
    """Stand-in for a pickled dtype: only uint8, the one that CIFAR-100 has."""

    def __init__(self, kind: str, *_: object) -> None:
        if kind not in ("u1", "|u1"):
            raise pickle.UnpicklingError(f"its array must be of uint8 (u1), got {kind!r}")

    def __setstate__(self, state: object) -> None:
        """The state of uint8 says nothing more."""


class _Pixels:
    """Stand-in for a pickled array. numpy itself builds nothing from the file."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty((0, 3072), np.uint8)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("its array has no state of 5 parts")
        _, shape, kind, columns_first, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(kind, _Kind) or columns_first or not isinstance(data, bytes):
            raise pickle.UnpicklingError("its array must be of uint8, row by row, in bytes")
        if shape != (len(data) // 3072, 3072) or len(data) % 3072:
            raise pickle.UnpicklingError(
                f"its array must have the shape (pictures, 3072), got {shape!r} and "
                f"{len(data)} bytes"
            )
        self.array = np.frombuffer(data, np.uint8).reshape(-1, 3072)


def _as_bytes(text: str, _: str = "latin1") -> bytes:
    """How Python 3 writes bytes in an old protocol."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Pixels,
    ("numpy._core.multiarray", "_reconstruct"): _Pixels,
    ("numpy", "ndarray"): _Pixels,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _as_bytes,
}


class _Plain(pickle._Unpickler):
    """Unpickles numbers, strings, lists, dicts and arrays of pixels; anything else is an error.

    It is the one in Python. That in C takes memory for as many objects as a file of 20 bytes says:
    up to 34 GB."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only arrays, lists and dicts are read"
            )
        return _ALLOWED[module, name]


def _unpickle(data: bytes, archive: Path) -> dict[str, Any]:
    """A file of the archive as a dict. Raises ValueError for anything else, whatever the bytes."""
    try:
        found = _Plain(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise nearly every error there is
        raise InputError(
            f"{archive}: not a CIFAR-100 pickle ({str(error) or type(error).__name__}). Download it "
            "again"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{archive}: wanted a pickled dict, got {type(found).__name__}")
    return found


def _labelled_pixels(batch: dict[str, Any], archive: Path) -> tuple[list[int], np.ndarray]:
    """The fine labels and the pixels [N, 3072] of a pickled split."""
    labels, pixels = batch.get("fine_labels"), batch.get("data")
    if not isinstance(pixels, _Pixels) or not isinstance(labels, list):
        raise InputError(
            f"{archive}: wanted an array `data` and a list `fine_labels`, got "
            f"{type(pixels).__name__} and {type(labels).__name__}"
        )
    return labels, pixels.array


# ---- digits ------------------------------------------------------------------------------------


def digits(folder: Path) -> Manifest:
    """Write the 1,797 handwritten digits of scikit-learn as PNG files, with their manifest.

    Optical Recognition of Handwritten Digits, its test part (Alpaydin and Kaynak 1998; UCI Machine
    Learning Repository, CC BY 4.0): 8x8 pixels of 17 gray levels, written here four times as large,
    pixel for pixel, to fit nets for 32 pixels. They are in class folders. A source is one of 14
    filled-in forms (see FORMS). Every second form is test (899 pictures), the others are train
    (898), because digits by a known hand are recognized more easily (nearest neighbor: 99 % instead
    of 96 %). Nothing is downloaded. Files are written whole or not at all; existing ones are read.
    """
    if (folder / "manifest.csv").is_file():
        return Manifest.load(folder)
    from sklearn.datasets import load_digits

    found = load_digits()
    rows = []
    try:
        with written(folder, sync=False) as partial:
            for number, (label, values) in enumerate(zip(found.target, found.images, strict=True)):
                form = int(np.searchsorted(FORMS, number, side="right"))  # from 1
                split = "train" if form % 2 else "test"
                file = partial / split / str(label) / f"{number:04d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                levels = (values * (255 / 16)).round().astype(np.uint8)
                Image.fromarray(levels.repeat(4, axis=0).repeat(4, axis=1)).save(file)
                rows.append(
                    (file.relative_to(partial).as_posix(), str(label), split, f"form{form:02d}")
                )
            Manifest.from_rows(partial, rows).save(partial)
    except OSError:
        if not (folder / "manifest.csv").is_file():  # no other process was faster
            raise
    return Manifest.load(folder)
