"""`vb.cross_validate`: train and test a method on folds in which each video is tested once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidbench.api.recipes import label
from vidbench.api.trained import Trained
from vidbench.api.training import OPTIONAL, train
from vidbench.api.videos import Source, Videos
from vidbench.api.videos import videos as open_videos
from vidbench.data.manifest import Manifest
from vidbench.data.sets import folds as dealt
from vidbench.engine import outside
from vidbench.engine.environment import made_by
from vidbench.evaluate.folds import FoldNumber, pooled, tested, tested_videos
from vidbench.evaluate.protocols import PROTOCOLS
from vidbench.system.files import write_text
from vidbench.system.processes import without_main
from vidbench.view.html import table


@dataclass(frozen=True, repr=False)
class CrossValidated:
    """A method trained and tested on folds.

    folds has a `Trained` for each fold, numbers what was found of all videos together, file the
    same numbers as JSON, with each fold's run directories."""

    folds: tuple[Trained, ...]
    numbers: tuple[FoldNumber, ...]
    file: Path

    def __repr__(self) -> str:
        return "\n".join([f"{len(self.folds)} folds, in {self.file}", *map(str, self.numbers)])

    def _repr_html_(self) -> str:
        return table(self.rows(), note=f"{len(self.folds)} folds by source video, in {self.file}")

    def rows(self) -> list[dict[str, Any]]:
        """Return the numbers as rows of a table, in percent."""
        return [
            {
                "stream": one.stream,
                "task": one.task,
                "metric": one.metric,
                "%": f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]",
                "folds": ", ".join(f"{100 * share:.1f}" for share in one.each),
                "videos": one.videos,
                "source videos": one.source_videos,
            }
            for one in self.numbers
        ]


@without_main()
def cross_validate(
    videos: Videos | Source,
    method: str = "classify",
    folds: str = "source",
    *,
    fold_seed: int = 0,
    protocol: str = "vidbench",
    preset: str = "toy",
    seed: int = 0,
    **settings: Any,
) -> CrossValidated:
    """Train and test a method on folds by source video. The same call resumes.

    Each video is tested once, by a network that saw no clip of its source video. The splits that
    the videos have are set aside, videos without a label left out. Runs and flow are kept below the
    videos' folder.

    Args:
        videos: What `vb.videos` returned, or its source. They need labels, which the tests count.
        method: As in `vb.train`, of one data set.
        folds: source is five folds, source:9 nine; split is the data set's own split, tested once.
        fold_seed: By which source videos are dealt to folds. Keep it to compare methods and seeds.
        protocol: How clips become a row of a video, a name in evaluate.protocols.
        preset, seed, settings: Of `vb.train`; `out` is not among them.

    Raises:
        ValueError: There are too few source videos, no labels, or `vb.train` refuses the rest.
    """
    if method == "multitrain" or "out" in settings:
        what = "multitrain" if method == "multitrain" else "out"
        raise ValueError(f"cross_validate is for one data set, in its own folder; got {what}.")
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {protocol!r}.")
    outside.refuse("cross-validation")
    wanted = dealt.folds_of(folds, fold_seed)
    whole = videos if isinstance(videos, Videos) else open_videos(videos)
    whole.manifest.need_labels("cross-validation")
    place = whole.folder / wanted.name
    found, parts, runs = [], [], []
    for fold in dealt.write(whole.manifest.countable, place, wanted):
        print(f"{fold.name} of {wanted.count}", flush=True)
        part = Videos(Manifest.load(fold / "videos"), fold, whole.home)
        run = train(part, method, preset=preset, seed=seed, **settings)
        last = {stream: one.run for stream, one in run.streams.items()}
        found.append(tested(last, protocol, PROTOCOLS[protocol]))
        parts.append(tested_videos(run.run))
        runs.append(run)
    numbers = pooled(found, parts, str(wanted))
    empty = (*OPTIONAL, "flow")
    kept = {name: value for name, value in settings.items() if value or name not in empty}
    for name in ("nproc", "processes"):
        kept.pop(name, None)
    file = place / f"{label(method, preset, seed, kept)}-{protocol}.json"
    record = {
        "method": method,
        "folds": str(wanted),
        "runs": [str(one.run.folder) for run in runs for one in run.streams.values()],
        "numbers": [_record(one) for one in numbers],
        "videos": [str(path) for one in parts for path in one.path],
        "source_videos": [int(number) for one in parts for number in one.source_video],
        "made_by": made_by(),
    }
    write_text(file, json.dumps(record, indent=1))
    return CrossValidated(tuple(runs), tuple(numbers), file)


def _record(number: FoldNumber) -> dict[str, Any]:
    """A number as JSON, with the hit of each video as 0 or 1 in one text."""
    hits = "".join(str(int(hit)) for hit in number.hits)
    return asdict(number) | {"hits": hits}
