"""Plain folders of class folders, and Weizmann's strips, read as rows of a manifest.

Sources are what a name says and nothing guessed beyond it:
    videos    the file stem without a trailing clip number (_c01, _clip3); where that ends in a UCF group (_g01) it
              counts within the class; a name without a clip number is its own source
    pictures  each is its own, but those in a folder below a class folder, as frames of a video are, share it
    weizmann  the actor, who is in every class: siblings may be of other classes there
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from vidbench.data.manifest import SPLIT_WORDS
from vidbench.data.sets.reading import (
    CLIP_NUMBER,
    VIDEO_SUFFIXES,
    Found,
    Rows,
    files_below,
    one_of,
)
from vidbench.data.video.clips import PICTURES
from vidbench.system.errors import InputError, MissingError

SPLIT_FOLDERS = tuple(word for word in SPLIT_WORDS if word != "none")
UCF_GROUP = re.compile(r"(?:^|_)g\d+$", re.IGNORECASE)
# (folder, number % 8 // 2) of MoCoGAN's excerpt -> action; Weizmann's own names are wave2, wave1,
# jack and bend
WEIZMANN = {
    ("1", 0): "two-hand wave",
    ("0", 1): "one-hand wave",
    ("3", 2): "jumping jack",
    ("4", 3): "bend",
}
WEIZMANN_ACTORS = 9


def media_below(root: Path) -> list[str]:
    """List the videos below a folder, or the pictures if it has no videos.

    Thumbnails next to videos are no samples.
    """
    return files_below(root, VIDEO_SUFFIXES) or files_below(root, PICTURES)


def source_of(label: str, path: str, inside: list[str]) -> str | None:
    """Return what a sample was cut from, as far as its path shows it; None if it is its own source.

    Args:
        label: The class folder of the sample.
        path: The path of the sample.
        inside: The folders between the class folder and the file.
    """
    if path.lower().endswith(PICTURES):
        return os.path.dirname(path) if inside else None
    stem = Path(path).stem
    long_video = CLIP_NUMBER.sub("", stem)
    if long_video == stem:
        return None
    return f"{label}/{long_video}" if UCF_GROUP.search(long_video) else long_video


def read_folder(root: Path, *, held_out: float = 0.25, seed: int = 0, into: str = "test") -> Found:
    """Read class/video, or split/class/video such as train/run/a.mp4.

    A folder without videos is read as one of pictures. Without split folders whole sources are held
    out by a hash of seed and source: the same on every machine. Added videos can move others
    between the splits, so a split that was trained on is kept as a manifest (see `keep`).

    Args:
        held_out: The share of each class's sources (at least one, if it has two) that is held out.
        seed: Another seed holds out other sources.
        into: The split that they go to.

    Raises:
        InputError: videos are outside of class folders, or only some folders are splits.
    """
    videos = [(path, path.split("/")) for path in media_below(root)]
    loose = [path for path, parts in videos if len(parts) == 1]
    if loose:
        folders = sorted({parts[0] for _, parts in videos if len(parts) > 1})
        found = f"class folders ({_some(folders)})" if folders else "no class folders"
        raise InputError(
            f"{root} must have all videos in class folders; got {found} and {len(loose)} files "
            f"outside of class folders ({_some(loose)}). Move these into class folders, or open "
            "all without labels: labels=False, or by the name 'loose'."
        )
    splits = split_folders(root, [parts for _, parts in videos])
    rows: Rows = []
    for path, parts in videos:
        if splits and len(parts) < 3:
            raise InputError(
                f"{root}: {path} is in a split folder, but in no class folder below it. Move it "
                "into one, or open all without labels: labels=False, or by the name 'loose'."
            )
        split, label, *inside = parts[:-1] if splits else ["none", *parts[:-1]]
        rows.append((path, label, split.lower(), source_of(label, path, inside)))
    if not splits:
        rows = split_by_source(rows, held_out, seed, into)
    return Found(root, rows, [str(root / row[0]) for row in rows], None)


def split_folders(root: Path, videos: list[list[str]]) -> bool:
    """Return whether the folders directly below root are the splits, and nothing else.

    Args:
        videos: The parts of each path, the file name last.

    Raises:
        InputError: some of the folders are splits and others are not.
    """
    tops = {parts[0] if len(parts) > 1 else "" for parts in videos}
    splits = {name for name in tops if name.lower() in SPLIT_FOLDERS}
    if splits and splits != tops:
        other = sorted(tops - splits)[0] or "files outside of folders"
        raise InputError(
            f"{root} mixes split folders ({', '.join(sorted(splits))}) with others ({other}). "
            "Move or rename the others."
        )
    return bool(splits)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def split_by_source(rows: Rows, share: float, seed: int = 0, into: str = "test") -> Rows:
    """Assign splits: whole source videos go to `into`, class by class, until it has its share.

    Args:
        share: The share of each class's source videos that goes to `into`; the rest is train. It
            is at least one of two or more, unless the share is 0.
        seed: Another seed chooses other source videos.
        into: A split's name.

    Raises:
        InputError: the share is below 0, or 1 or more.
    """
    if not 0 <= share < 1:
        raise InputError(f"held_out is a share in 0..1, got {share}")
    by_class: dict[str, dict[str, None]] = {}
    for path, label, _, source_video in rows:
        by_class.setdefault(label or "", {})[source_video or path] = None

    def rank(source_video: str) -> bytes:
        return hashlib.sha256(f"{seed}/{source_video}".encode()).digest()

    held: set[str] = set()
    for label in sorted(by_class):
        ordered = sorted(by_class[label], key=rank)
        wanted = max(1, round(share * len(ordered))) if share and len(ordered) > 1 else 0
        missing = wanted - sum(source_video in held for source_video in ordered)
        held.update(
            [source_video for source_video in ordered if source_video not in held][
                : max(0, missing)
            ]
        )
    return [
        (p, label, into if (source_video or p) in held else "train", source_video)
        for p, label, _, source_video in rows
    ]


def _weizmann(path: str) -> tuple[str, int] | None:
    """(action, actor from 1) of a strip by its path, such as 0/00000002.jpg; None where it is none
    of Weizmann's."""
    folder, _, name = path.rpartition("/")
    number = int(name[:8]) if re.fullmatch(r"[0-9]{8}\.\w+", name) else -1
    label = WEIZMANN.get((folder, number % 8 // 2))
    return (label, number // 8 + 1) if label and 0 <= number < 8 * WEIZMANN_ACTORS else None


def has_weizmann(root: Path) -> bool:
    """Return whether all folders in a folder have Weizmann's numbers, and only its pictures."""
    folders = {place.name for place in root.iterdir() if place.is_dir()} if root.is_dir() else set()
    if not folders or not folders <= {folder for folder, _ in WEIZMANN}:
        return False
    files = files_below(root, PICTURES)
    return bool(files) and all(map(_weizmann, files))


def read_weizmann(root: Path, *, fold: int = 1) -> Found:
    """Read four actions of Weizmann's nine actors as strips, as MoCoGAN has them.

    In <folder>/<number>.jpg, n // 8 counts the actors (here from 1) and n % 8 // 2 is the action,
    as the folder is. An odd n is the mirror image of the number before, pixel for pixel: MoCoGAN
    has 72 files, 36 of them as they were shot.

    Args:
        fold: The actor that is left out for testing, 1 to 9.

    Raises:
        InputError: an unknown fold, a file of another name, or no video on one side of the fold.
        MissingError: there are no strips (a FileNotFoundError).
    """
    one_of("Weizmann's fold, the actor to leave out,", fold, range(1, WEIZMANN_ACTORS + 1))
    rows: Rows = []
    for path in files_below(root, PICTURES):
        known = _weizmann(path)
        if known is None:
            raise InputError(
                f"{root / path}: none of Weizmann's; wanted an eight-digit number n below 72 in "
                "folder 1, 0, 3 or 4 for n % 8 // 2 of 0, 1, 2 or 3"
            )
        rows.append((path, known[0], "test" if known[1] == fold else "train", f"actor{known[1]}"))
    if not rows:
        raise MissingError(
            f"no Weizmann strips in {root}: wanted 0/00000002.jpg, 1/00000000.jpg and so on, as in "
            "data/actions of sergeytulyakov/mocogan"
        )
    if {split for _, _, split, _ in rows} != {"train", "test"}:
        there = ", ".join(sorted({str(source_video) for *_, source_video in rows}))
        raise InputError(
            f"{root}: fold {fold} tests on actor{fold} and trains on the others; there is {there}"
        )
    return Found(root, rows, [str(root / row[0]) for row in rows], list(WEIZMANN.values()))
