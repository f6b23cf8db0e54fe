"""ActivityNet 1.3, trimmed to its segments: one row and one file a segment.

`youtube` finds the files, as it does for Kinetics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

from vidbench.data.sets.reading import Found, Rows, count_classes, places, read_json
from vidbench.data.sets.youtube import SPLITS, Clip, Tree
from vidbench.data.tables import text_lines
from vidbench.system.errors import InputError, MissingError


def activitynet_list(root: Path) -> Path | None:
    """Find ActivityNet 1.3's json (activity_net.v1-3.min.json) in a folder or one folder below."""
    return next(
        (file for place in places(root) for file in sorted(place.glob("activity_net.v1-3*.json"))),
        None,
    )


def read_activitynet(
    root: Path,
    *,
    lists: str | Path | None = None,
    classes: str | Path | None = None,
    pattern: str = "v_{id}_{start:.2f}_{end:.2f}",
) -> Found:
    """Read ActivityNet 1.3 trimmed, from activity_net.v1-3.min.json: a row and a file a segment.

    A segment with several labels is one row with the first, as in MultiTrain. Segments that do not
    end after they begin are left out and counted. Untrimmed videos are refused. The testing subset
    has no segments and so no rows.

    Args:
        lists: The folder of the json file, or the file.
        classes: A file with a class a line, if their order matters; default: the labels, sorted.
        pattern: The name of a trimmed file (an assumption: no release has them) in any folder and
            with any suffix. It has {id}, {start} and {end} in seconds, and {n}, the number of the
            segment in its video from 0. If there is no such file, the nearest one named
            <id>_<start>_<end> or v_<id>_<start>_<end> is taken, if both times are within a second
            of the segment's.

    Raises:
        MissingError: there are no lists (a FileNotFoundError).
        InputError: a list, the pattern or the files do not fit.
    """
    place = Path(lists or root)
    file = place if place.is_file() else activitynet_list(place)
    if file is None:
        raise MissingError(
            f"no list at {lists or root}: wanted activity_net.v1-3.min.json there or one below"
        )
    clips = _with_length(list(_segments(file)), file)
    listed = (
        sorted({clip.label for _, clip in clips if clip.label})
        if classes is None
        else text_lines(Path(classes))
    )
    count_classes("ActivityNet 1.3", listed, (200,), file if classes is None else Path(classes))
    named: dict[str, Clip] = {}
    for n, clip in clips:
        try:
            name = pattern.format(id=clip.video, start=clip.start, end=clip.end, n=n)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"pattern {pattern!r}: wanted {{id}}, {{start}}, {{end}} and {{n}} ({error!r})"
            ) from None
        named.setdefault(name, clip)
    tree = Tree(root)
    # all exact names first, so that no neighboring segment takes its file
    exact = {name: tree.take(tree.stems[name]) for name in named if name in tree.stems}
    paths = [
        exact.get(name) or tree.near(clip, 1.0) or f"{name}.mp4" for name, clip in named.items()
    ]
    if not tree.taken:
        _refuse_untrimmed(root, tree, {clip.video for clip in named.values()})
    rows: Rows = [
        (path, clip.label, clip.split, clip.video)
        for path, clip in zip(paths, named.values(), strict=True)
    ]
    return Found(root, rows, [clip.where for clip in named.values()], listed)


def _with_length(clips: list[tuple[int, Clip]], file: Path) -> list[tuple[int, Clip]]:
    """The segments that last longer than nothing; the others are counted in a warning."""
    kept = [(n, clip) for n, clip in clips if 0 <= clip.start < clip.end < math.inf]
    if len(kept) < len(clips):
        _, bad = next(pair for pair in clips if pair not in kept)
        warnings.warn(
            f"{file}: {len(clips) - len(kept)} of {len(clips)} segments do not end after they begin "
            f"and are left out, the first is [{bad.start:g}, {bad.end:g}] ({bad.where})",
            stacklevel=3,
        )
    return kept


def _refuse_untrimmed(root: Path, tree: Tree, wanted: set[str]) -> None:
    """Raise ValueError if a folder has the list's videos, but whole."""
    whole = sorted(
        path
        for video in wanted & tree.videos.keys()
        for start, _, path in tree.videos[video]
        if start is None
    )
    if whole:
        raise InputError(
            f"{root} must have a file for each segment; got {len(whole)} untrimmed videos, the first "
            f"is {whole[0]}. Cut them into segments named v_ID_START_END.mp4, in seconds (ffmpeg -ss "
            "START -to END), or name them by the option pattern"
        )


def _segments(file: Path) -> Iterator[tuple[int, Clip]]:
    """(its number in the video, the clip) of each segment, the first label only. Raises ValueError
    with the video."""
    database = read_json(file, dict).get("database")
    if not isinstance(database, dict):
        raise InputError(
            f'{file}: wanted an object with "database": {{id: {{subset, annotations}}}}'
        )
    for video, entry in database.items():
        seen = set()
        subset = entry.get("subset")
        if subset not in SPLITS:
            raise InputError(
                f"{file}, video {video}: wanted a subset of {', '.join(SPLITS)}, got {subset!r}"
            )
        for n, annotation in enumerate(entry.get("annotations", ())):
            where = f"{file}, video {video}, annotation {n}"
            try:
                label, (start, end) = annotation["label"], map(float, annotation["segment"])
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"{where}: wanted label and segment [start, end], got {annotation!r}"
                ) from None
            if (start, end) not in seen:
                seen.add((start, end))
                yield n, Clip(label, video, start, end, SPLITS[subset], where)
