"""A table with one row of features per video, and its file."""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from vidbench.data.manifest import Manifest
from vidbench.system.files import written

# what a file contains: the kind of each array's numbers, and its dimensions
ARRAYS = {
    "values": ("f", 2),
    "label": ("i", 1),
    "source_video": ("i", 1),
    "classes": ("U", 1),
    "protocol": ("U", 0),
    "made_from": ("U", 0),
    "video": ("i", 1),
}


@dataclass(frozen=True)
class Features:
    """What a run makes of videos, in manifest order: features float32 [N,D], or class probabilities
    [N,classes].

    label and source_video are int64 [N]; label is -1 where it is unknown. protocol holds what the
    values depend on in addition to the run, `rows` being the videos' fingerprint. made_from is the digest
    of the files that a stored table was made from (`features.load_or_extract`), else empty. video
    int64 [N] identifies each row's video by its path (`video_numbers`), or is None.

    Raises:
        ValueError: the columns do not fit each other, or a label is not in the class list.
    """

    values: np.ndarray
    label: np.ndarray
    source_video: np.ndarray
    classes: tuple[str, ...]
    protocol: dict
    made_from: str = ""
    video: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = [np.shape(part) for part in (self.values, self.label, self.source_video)]
        if len(shapes[0]) != 2 or shapes[1:] != [shapes[0][:1]] * 2:
            raise ValueError(
                "a table has values [N,D], label [N] and source_video [N]; got shapes "
                f"{', '.join(str(list(shape)) for shape in shapes)}."
            )
        if self.video is not None and np.shape(self.video) != shapes[1]:
            raise ValueError(f"video must have shape {shapes[1]}; got {np.shape(self.video)}.")
        label = np.asarray(self.label)
        if len(label) and not -1 <= label.min() <= label.max() < len(self.classes):
            raise ValueError(
                f"labels must be in -1..{len(self.classes) - 1}, numbers of "
                f"{class_words(self.classes)}; got {label.min()}..{label.max()}. Take table and "
                "class list from one manifest."
            )

    def select(self, rows: np.ndarray, fingerprint: str) -> "Features":
        """Select rows of the table.

        Args:
            rows: Numbers, or a mask [N].
            fingerprint: Of the selected videos.
        """
        return replace(
            self,
            values=self.values[rows],
            label=self.label[rows],
            source_video=self.source_video[rows],
            protocol={**self.protocol, "rows": fingerprint},
            made_from="",
            video=None if self.video is None else self.video[rows],
        )

    def save(self, path: str | Path) -> None:
        """Write one .npz file, whole or not at all."""
        path = Path(path)
        with written(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                values=self.values,
                label=self.label,
                source_video=self.source_video,
                classes=np.array(self.classes, np.str_),
                protocol=json.dumps(self.protocol),
                made_from=self.made_from,
                video=np.zeros(0, np.int64) if self.video is None else self.video,
            )

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """Read what `save` wrote.

        Kinds, shapes and sizes are checked before an array is read.

        Raises:
            ValueError: the file is missing, damaged, or not a table of features.
        """
        try:
            check_arrays(path, ARRAYS)
            with np.load(path, allow_pickle=False) as held:
                parts = {name: held[name] for name in ARRAYS}
            return cls(
                parts["values"],
                parts["label"],
                parts["source_video"],
                tuple(map(str, parts["classes"])),
                dict(json.loads(str(parts["protocol"]))),
                str(parts["made_from"]),
                parts["video"] if len(parts["video"]) or not len(parts["label"]) else None,
            )
        except (
            Exception
        ) as error:  # on damaged bytes zipfile, zlib, numpy and json raise many kinds
            raise ValueError(
                f"{path} is not a whole table of features ({type(error).__name__}: {error}). "
                "Extract the features again."
            ) from error


def check_arrays(path: str | Path, arrays: Mapping[str, tuple[str, int]]) -> None:
    """Compare what the headers in a .npz file promise with what must be in it, and with its bytes.

    Args:
        arrays: Name -> kind of the numbers (numpy's dtype.kind) and number of dimensions.

    Raises:
        ValueError: An array is missing, of another kind, or of another size than its bytes.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if sorted(names) != sorted(arrays):
            raise ValueError(f"wanted the arrays {', '.join(arrays)}; it has {', '.join(names)}")
        for name, (kind, dimensions) in arrays.items():
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                read = (
                    np.lib.format.read_array_header_1_0
                    if old
                    else (np.lib.format.read_array_header_2_0)
                )
                shape, _, dtype = read(file)
                size = file.tell() + math.prod(shape) * dtype.itemsize
            if dtype.kind != kind or len(shape) != dimensions:
                raise ValueError(
                    f"{name} must be of kind {kind!r} with {dimensions} dimensions; got {dtype} "
                    f"{list(shape)}"
                )
            if entry.compress_type != zipfile.ZIP_STORED or size != entry.file_size:
                raise ValueError(
                    f"{name} {list(shape)} needs {size} bytes, it has {entry.file_size}"
                )


def video_numbers(manifest: Manifest) -> np.ndarray:
    """Numbers that identify videos across manifests: int64 [N], a digest of each absolute path."""
    root = manifest.root.resolve()
    digests = [blake2b(str(root / str(path)).encode(), digest_size=8) for path in manifest.path]
    return np.array([int.from_bytes(one.digest(), "little", signed=True) for one in digests], "i8")


def class_words(classes: Sequence[str]) -> str:
    """Name a list of classes in a few words, for errors."""
    first = ", ".join(list(classes)[:4])
    return f"{len(classes)} classes ({first}{', ...' if len(classes) > 4 else ''})"
