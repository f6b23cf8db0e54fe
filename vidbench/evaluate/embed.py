"""Embeddings of any videos: those of a run's data set, another data set, one file from elsewhere.

A video outside of the run's data set has no stored flow. A flow run computes it with the settings of
the flow it was trained on, into a cache that is by default inside the run directory:

    <run>/outside/flow-<method>-<checksum of the settings>/    flow, by absolute path
    <run>/outside/features/                                    tables of KEEP_FROM or more videos

Nothing is written into the folder of the videos. The flow is a store like any other: files are
whole, a stopped call resumes, and a video whose stamp changed is computed again."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import STRINGS, Manifest
from vidbench.data.prepare import jobs
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.features import MAKERS, described, inputs_of, kept, spec_of
from vidbench.evaluate.protocols import PROTOCOLS, Protocol
from vidbench.evaluate.tables import Features, video_numbers
from vidbench.methods.common import DataSet, data_set

KEEP_FROM = 16  # videos; making a smaller table again costs less than a file for each query
NAMED = 3  # unreadable videos that a message names


@dataclass(frozen=True)
class Embedded:
    """A table of the videos that could be read, their manifest, and the others with reasons.

    failed: (file, reason) of each video that is left out."""

    table: Features
    manifest: Manifest
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Part:
    """Rows of a manifest that are read alike: from one flow store, or without flow.

    manifest: these rows by the names that the store has for them."""

    rows: np.ndarray  # [n] of the whole manifest
    manifest: Manifest
    flow: str = ""


def embed(
    run: Run,
    manifest: Manifest,
    protocol: Protocol = PROTOCOLS["vidbench"],
    *,
    cache: str | Path = "",
    workers: int = 0,
    data: str = "",
    what: str = "features",
) -> Embedded:
    """Embed the videos of a manifest that can be read, whether the run's data set contains them or not.

    A row equals the row that `features.load_or_extract` stores for the same file, up to the
    rounding of convolutions in batches of another size. Other videos are named with their reasons.

    One damaged file among thousands does not stop the rest. If no video can be read, that is an
    error, so a single query that cannot be read always raises.

    Args:
        cache: Folder of the flow and the tables of videos outside; empty is <run>/outside.
        workers: Processes that decode and that compute flow; 0 does both in this process.
        data: Of a run on several data sets, the one whose clip settings are used.
        what: "features", or "probabilities" of a run with a classifier, whose classes must be
            those of the manifest.

    Raises:
        RunError: There is no video, or none can be read.
    """
    if not len(manifest):
        raise RunError(f"there are no videos to embed below {manifest.root}. Name at least one.")
    cache = Path(cache) if str(cache) else run.folder / "outside"
    faults = _missing(manifest)
    parts, own = _parts(run, manifest, cache, workers, data, faults)
    wanted = described(run, manifest, protocol, "", what, data)

    def make() -> Features:
        each = partial(MAKERS[what], run, protocol=protocol, workers=workers, data=data)
        values = _values(parts, len(manifest), each, faults)
        columns = manifest.label.copy(), manifest.source_video.copy(), manifest.classes
        return Features(values, *columns, wanted, video=video_numbers(manifest))

    if faults or len(manifest) < KEEP_FROM:
        return _readable(make(), manifest, faults)
    spec = spec_of(run, protocol, data)
    inputs = [inputs_of(run, part.manifest, spec, part.flow, data) for part in parts]
    folder = (run.folder if own else cache) / "features"
    facts = what, wanted, inputs[0] if own else inputs  # own: as load_or_extract keeps it
    return _readable(kept(run, manifest, folder, facts, make), manifest, faults)


def left_out(failed: Sequence[tuple[str, str]], of: int) -> str:
    """Say which videos cannot be read and why: a sentence for a single one, else their number.

    Args:
        failed: File and reason of each.
        of: How many videos there are.
    """
    said = [why if file in why else f"{file}: {why}" for file, why in failed[:NAMED]]
    named = "; ".join(one.rstrip(".") for one in said)
    if of == 1:
        return f"The video cannot be read. {named}."
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return f"{len(failed)} of {of} videos cannot be read: {named}{more}."


# ---- which rows are read from where ------------------------------------------------------------


def _missing(manifest: Manifest) -> dict[int, str]:
    """The rows whose file does not exist: a stored flow must not answer for it."""
    rows = (row for row in range(len(manifest)) if not manifest.absolute(row).is_file())
    return dict.fromkeys(rows, "there is no such file; check the path")


def _parts(
    run: Run,
    manifest: Manifest,
    cache: Path,
    workers: int,
    data: str,
    faults: dict[int, str],
) -> tuple[list[_Part], bool]:
    """The rows without fault in parts, and whether all of them are of the run's own data set.

    The flow of videos outside is computed here; where that fails, `faults` gets the reason."""
    part = data_set(run, data)
    files = _absolute(manifest)
    names = _own_names(part)
    rows = np.array([row for row in range(len(manifest)) if row not in faults], np.int64)
    flow = run.recipe.stream == "flow"
    settings = _flow_settings(run, part) if flow else None
    parts: list[_Part] = []
    inside = [
        row
        for row in rows.tolist()
        if files[row] in names and (not flow or _fresh(part.flow, names[files[row]], files[row]))
    ]
    if settings is None:
        if len(rows):
            parts.append(_Part(rows, manifest.select(mask=rows)))
        return parts, len(inside) == len(manifest)
    own = np.array(inside, np.int64)
    outside = np.setdiff1d(rows, own)
    if len(own):
        stored = [names[files[row]] for row in inside]
        parts.append(_Part(own, _renamed(manifest, own, stored), part.flow))
    if len(outside):
        parts += _computed(manifest, outside, settings, cache, workers, faults)
    return parts, len(own) == len(manifest)


def _computed(
    manifest: Manifest,
    rows: np.ndarray,
    settings: flow_store.Settings,
    cache: Path,
    workers: int,
    faults: dict[int, str],
) -> list[_Part]:
    """Compute the flow of some rows into the cache, unless it is there and of the same videos."""
    folder = cache / f"flow-{settings.method}-{jobs.digest(asdict(settings))}"
    files = _absolute(manifest)
    absolute = _renamed(manifest, rows, [files[row] for row in rows.tolist()])
    report = flow_store.complete(absolute, folder, settings=settings, workers=workers)
    failed = dict(report.failed)
    there = np.array([str(path) not in failed for path in absolute.path], bool)
    for row in rows[~there].tolist():
        faults[row] = f"its flow cannot be computed: {failed[files[row]]}"
    return [_Part(rows[there], absolute.select(mask=there), str(folder))] if there.any() else []


def _absolute(manifest: Manifest) -> list[str]:
    """The file of each row, with an absolute path."""
    root = manifest.root.resolve()
    return [Path(os.path.normpath(root / str(path))).as_posix() for path in manifest.path]


def _own_names(part: DataSet) -> dict[str, str]:
    """What the run's data set calls each of its files; nothing if its manifest is gone."""
    try:
        own = Manifest.load(part.manifest)
    except FileNotFoundError:
        return {}
    return dict(zip(_absolute(own), map(str, own.path), strict=True))


def _renamed(manifest: Manifest, rows: np.ndarray, names: list[str]) -> Manifest:
    """Some rows by other names, which are relative to a store or absolute."""
    return replace(manifest.select(mask=rows), path=np.array(names, dtype=STRINGS))


def _fresh(store: str, name: str, file: str) -> bool:
    """Whether a store holds the flow of a video as the video is now."""
    try:
        flow_store.meta(store, name, source=file)
    except flow_store.FlowError:
        return False
    return True


def _flow_settings(run: Run, part: DataSet) -> flow_store.Settings:
    """The settings of the run's own flow store.

    Raises:
        RunError: The store is gone, and with it the settings of the run's flow.
    """
    try:
        return flow_store.settings_of(part.flow)
    except flow_store.FlowError as error:
        raise RunError(
            f"{run.folder} needs flow as it was trained on, and its own flow store cannot be read "
            f"({error}). Restore the folder {part.flow}; flow.json in it is enough for new videos."
        ) from error


# ---- tables ------------------------------------------------------------------------------------


def _values(
    parts: Sequence[_Part],
    rows: int,
    make: Callable[..., Features],
    faults: dict[int, str],
) -> np.ndarray:
    """Rows of all parts in the order of the manifest [rows,D]; NaN where there is a fault."""
    values = np.full((rows, 1), np.nan, np.float32)
    for part in parts:
        bad: dict[int, str] = {}
        made = make(manifest=part.manifest, flow=part.flow, faults=bad).values
        if values.shape[1] != made.shape[1]:
            values = np.full((rows, made.shape[1]), np.nan, np.float32)
        values[part.rows] = made
        faults |= {int(part.rows[row]): why for row, why in bad.items()}
    return values


def _readable(table: Features, manifest: Manifest, faults: dict[int, str]) -> Embedded:
    """The rows without a fault. Raises RunError if there is none."""
    if not faults:
        return Embedded(table, manifest)
    failed = tuple((str(manifest.absolute(row)), faults[row]) for row in sorted(faults))
    rows = np.array([row for row in range(len(manifest)) if row not in faults], np.int64)
    if not len(rows):
        raise RunError(left_out(failed, len(manifest)))
    whole = manifest.select(mask=rows)
    return Embedded(table.select(rows, whole.fingerprint()), whole, failed)
