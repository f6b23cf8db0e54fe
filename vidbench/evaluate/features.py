"""Run and manifest to a table with one row of features per video, filled by row index."""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidbench.data.flow import store as flow_store
from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.pooling import pooled
from vidbench.evaluate.protocols import PROTOCOLS, Protocol
from vidbench.evaluate.tables import Features, class_words, video_numbers
from vidbench.methods.common import (
    DataSet,
    data_set,
    load_encoder,
    load_head,
    protocol_facts,
)
from vidbench.system.files import stamp

STAMP_THREADS = 8  # that read videos' stamps: on a network disk each waits for its answer
DIGITS = 16  # of a digest in a table's name


@dataclass(frozen=True)
class Inputs:
    """Where clips come from and how they are loaded, as in `extract`."""

    flow: str | Path
    batch: int
    workers: int
    data: str
    faults: dict[int, str] | None = None  # of rows that cannot be read, as in pooling.pooled


def extract(
    run: Run,
    manifest: Manifest,
    protocol: Protocol = PROTOCOLS["vidbench"],
    *,
    flow: str | Path = "",
    batch: int = 32,
    workers: int = 0,
    data: str = "",
    faults: dict[int, str] | None = None,
) -> Features:
    """Compute pooled backbone features [N,D] of every row of a manifest.

    They are taken before the projection head (CoCLR section 4.4). Nothing is random. The clip's
    length, stride, size and stream are those of the run.

    Args:
        flow: The flow store of these videos; empty: the run's own.
        batch: Clips that the network sees at once.
        workers: Processes that read clips.
        data: Of a run on several data sets, the one whose way to cut clips is used.
        faults: See pooling.pooled.

    Raises:
        RunError: a feature is not finite.
    """
    encoder = load_encoder(run).to(ranks.device())

    def rows_of(clips: Tensor) -> Tensor:
        rows = encoder(clips).mean(dim=(2, 3, 4))
        return F.normalize(rows, dim=1) if protocol.normalize_clips else rows

    values = _table(
        run,
        manifest,
        protocol,
        rows_of,
        encoder.out_channels,
        Inputs(flow, batch, workers, data, faults),
    )
    return Features(
        values,
        manifest.label.copy(),
        manifest.source_video.copy(),
        manifest.classes,
        described(run, manifest, protocol, flow, data=data),
        video=video_numbers(manifest),
    )


def predict(
    run: Run,
    manifest: Manifest,
    protocol: Protocol = PROTOCOLS["coclr_ten_crop"],
    *,
    flow: str | Path = "",
    batch: int = 32,
    workers: int = 0,
    data: str = "",
    faults: dict[int, str] | None = None,
) -> Features:
    """Compute class probabilities [N,classes] of every row of a manifest.

    The run is of methods.classify (CoCLR, eval/main_classifier.py), or of methods.multitrain: then
    the head of one data set is used, without maps and expander. The softmax of each clip is
    averaged over windows and crops.

    Args:
        flow, batch, workers, data, faults: As in `extract`.

    Raises:
        RunError: the run has no classifier, or one for other classes than the manifest's.
    """
    classes = data_set(run, data).classes
    if classes and classes != manifest.classes:
        turned = ", in another order" * (set(classes) == set(manifest.classes))
        raise RunError(
            f"{run.folder} tells {class_words(classes)}; the manifest has "
            f"{class_words(manifest.classes)}{turned}. Its scores would be of other classes."
        )
    encoder = load_encoder(run)
    network = nn.ModuleList([encoder, load_head(run, encoder.out_channels, data)]).to(
        ranks.device()
    )

    def probabilities(clips: Tensor) -> Tensor:
        return network[1](network[0](clips).mean(dim=(2, 3, 4))).softmax(dim=1)

    inputs = Inputs(flow, batch, workers, data, faults)
    values = _table(run, manifest, protocol, probabilities, len(manifest.classes), inputs)
    return Features(
        values,
        manifest.label.copy(),
        manifest.source_video.copy(),
        manifest.classes,
        described(run, manifest, protocol, flow, "probabilities", data),
        video=video_numbers(manifest),
    )


MAKERS = {"features": extract, "probabilities": predict}


def load_or_extract(
    run: Run,
    split: str,
    protocol: Protocol = PROTOCOLS["vidbench"],
    *,
    manifest: Manifest | None = None,
    flow: str | Path = "",
    what: str = "features",
    workers: int = 0,
    data: str = "",
) -> Features:
    """Read the table of one split from <run>/features/ if it fits, else make and keep it.

    A table fits when all that it was made from is unchanged: the checkpoint, the videos or their
    stored flow (by the stamps of the files), the settings, and the manifest's rows. Tables of many
    data sets and protocols coexist. A damaged table is made again.

    Args:
        manifest, flow: those of another data set than the run's own (a run of Kinetics tested on
            UCF101), of which `split` is taken.
        what: "features" (extract) or "probabilities" (predict).

    Raises:
        RunError: What `extract` and `predict` raise, or training wrote a checkpoint meanwhile.
    """
    rows = (manifest or Manifest.load(data_set(run, data).manifest)).select(split=split)
    inputs = inputs_of(run, rows, spec_of(run, protocol, data), flow, data)
    wanted = described(run, rows, protocol, flow, what, data)

    def make() -> Features:
        return MAKERS[what](run, rows, protocol, flow=flow, workers=workers, data=data)

    return kept(run, rows, run.folder / "features", (what, wanted, inputs), make)


def kept(
    run: Run,
    rows: Manifest,
    folder: Path,
    facts: tuple[str, dict, object],
    make: Callable[[], Features],
) -> Features:
    """Read a table from a folder if it fits, else make it and keep it there.

    A table with rows that are not finite, those of unreadable videos, is returned and not kept.

    Args:
        rows: The videos of the table.
        facts: What its values are ("features"), its protocol (`described`), and what else it
            depends on, as plain values.

    Raises:
        RunError: What `make` raises, or training wrote a checkpoint meanwhile.
    """
    what, wanted, _ = facts
    checkpoint = run.checkpoint_stamp()
    made_from = _made_from(checkpoint, list(facts))
    kind = f"{what}-{wanted['rows']}-{wanted['sampling']}-{wanted['crops']}"
    path = folder / f"{kind}-{made_from[:DIGITS]}.npz"
    if ranks.any_rank(not _fits(path, made_from, rows)):
        made = make()
        if run.checkpoint_stamp() != checkpoint:
            raise RunError(
                f"{run.folder}: training wrote another checkpoint while the features were made. "
                "Run the same again."
            )
        if not np.isfinite(made.values).all():
            return made
        if ranks.rank() == 0:
            replace(made, made_from=made_from).save(path)
        ranks.barrier()
    return Features.load(path)


def _fits(path: Path, made_from: str, rows: Manifest) -> bool:
    """Whether a stored table is of these inputs and rows; a damaged one is reported and is not."""
    if not path.exists():
        return False
    try:
        found = Features.load(path)
    except ValueError as error:
        if ranks.rank() == 0:
            print(f"{error} It is made again now.", flush=True)
        return False
    return (
        found.made_from == made_from
        and found.classes == rows.classes
        and np.array_equal(found.label, rows.label)
        and np.array_equal(found.source_video, rows.source_video)
    )


def _made_from(checkpoint: str, inputs: object) -> str:
    """Two digests, of the inputs and of the checkpoint, as rank 0 sees them.

    Nodes may have their own copies of the videos, whose stamps differ."""
    parts = (json.dumps(inputs, sort_keys=True), checkpoint)
    digests = [hashlib.blake2b(part.encode(), digest_size=DIGITS // 2).digest() for part in parts]
    mine = torch.tensor(list(b"".join(digests)), dtype=torch.uint8, device=ranks.device())
    text = bytes(ranks.gather(mine[None])[0].tolist()).hex()
    return f"{text[:DIGITS]}-{text[DIGITS:]}"


def inputs_of(run: Run, rows: Manifest, spec: ClipSpec, flow: str | Path, data: str) -> dict:
    """Return what a table's values depend on besides protocol and checkpoint, as plain values.

    These are the run's recipe, how clips are read, and the stamps of the files that are read.

    Args:
        rows: The table's videos.
        spec: From `spec_of`.
        flow: The flow store; empty: the run's own.
        data: One of several data sets.
    """
    facts: dict[str, object] = {"recipe": run.values, "spec": asdict(spec)}
    timed = spec.target_fps is not None
    if timed and rows.fps is not None:
        facts["fps"] = rows.fps.tolist()
    if "rgb" in spec.streams or (timed and rows.fps is None):
        facts["videos"] = stamps(rows.absolute(row) for row in range(len(rows)))
    if "flow" in spec.streams:
        store = flow or data_set(run, data).flow
        settings = flow_store.settings_of(store)
        facts["flow"] = asdict(settings)
        facts["flow files"] = stamps(
            flow_store.flow_path(store, str(path), settings.format) for path in rows.path
        )
    return facts


def stamps(files: Iterable[Path]) -> list[str]:
    """Read the stamps of many files (system.files.stamp), "missing" for one that cannot be read."""

    def one(file: Path) -> str:
        try:
            return stamp(file)
        except OSError:
            return "missing"

    with ThreadPoolExecutor(STAMP_THREADS) as pool:
        return list(pool.map(one, files))


def described(
    run: Run,
    manifest: Manifest,
    protocol: Protocol,
    flow: str | Path = "",
    what: str = "features",
    data: str = "",
) -> dict:
    """Return what a table depends on besides the run's weights, as plain values.

    Tables with equal values may be compared. For probabilities the values include how the
    classifier was trained, on which videos, and by what rule it was selected.

    Args:
        flow: The flow store; empty: the run's own.
        what: features or probabilities.
        data: One of several data sets.
    """
    part, recipe = data_set(run, data), run.recipe
    clip = part.clip
    facts = {
        **asdict(protocol),
        "stream": recipe.stream,
        "frames": clip.frames,
        "stride": f"{clip.target_fps} fps" if clip.target_fps else clip.stride,
        "size": clip.augment.size,
        "rows": manifest.fingerprint(),
    }
    for name, usual in (("reach_end", True), ("cut_first", False)):
        if facts[name] == usual:  # so that earlier numbers stay comparable
            del facts[name]
    if clip.grid != "stride":
        facts["grid"] = clip.grid
    if protocol.sampling == "segments":
        facts |= {"windows": 1, "stride": "whole"}
    if clip.augment.pad:  # trained on windows of frames as they are, so tested on them, too
        facts["scale"] = "as it is"
    if clip.decode_size is not None and recipe.stream == "rgb":
        facts["decode_size"] = clip.decode_size
    if recipe.stream == "flow":
        facts["flow"] = _flow_words(flow_store.settings_of(flow or part.flow))
    if part.name:
        facts["data"] = part.name
    if what == "probabilities":
        facts.pop("normalize_clips")
        facts |= protocol_facts(run, part)
    return facts


def _flow_words(settings: flow_store.Settings) -> str:
    """A store's flow in a protocol: the method, and bound and size if they are not the usual."""
    usual = flow_store.Settings()
    bound = f", bound {settings.bound:g}" if settings.bound != usual.bound else ""
    size = f", size {settings.size}" if settings.size != usual.size else ""
    return f"{settings.method}{bound}{size}"


def _table(
    run: Run,
    manifest: Manifest,
    protocol: Protocol,
    function: Callable[[Tensor], Tensor],
    width: int,
    inputs: Inputs,
) -> np.ndarray:
    """`pooling.pooled` of the run's clips, float32 [N,width], checked: every number is finite,
    except in rows with a fault."""
    if len(manifest) == 0:
        raise RunError(
            "no videos to extract features of: the split is empty in the manifest of "
            f"{manifest.root}."
        )
    store = inputs.flow or data_set(run, inputs.data).flow or None
    clips = Clips(manifest, spec_of(run, protocol, inputs.data), flow_folder=store)
    values = pooled(
        clips,
        function,
        width,
        name=run.folder.name,
        batch=inputs.batch,
        workers=inputs.workers,
        faults=inputs.faults,
    )
    bad = np.setdiff1d(np.flatnonzero(~np.isfinite(values).all(axis=1)), list(inputs.faults or ()))
    if len(bad):
        raise RunError(
            f"{run.folder}: {len(bad)} rows are not finite, first row {bad[0]} "
            f"({manifest.path[bad[0]]})."
        )
    return values


def fitting(protocol: Protocol, data: DataSet) -> Protocol:
    """Adapt a protocol to a data set.

    A data set that is trained on segments of whole videos (Something-Something) is tested on the
    middles of segments, one clip a video (MultiTrain's released code).

    Args:
        data: One of the run's data sets.
    """
    if data.clip.sampling == "random_segments":
        return replace(protocol, sampling="segments")
    return protocol


def spec_of(run: Run, protocol: Protocol, data: str = "") -> ClipSpec:
    """Return the run's clips of one data set, cut as the protocol says.

    Args:
        data: One of several data sets.
    """
    clip = data_set(run, data).clip
    size = clip.augment.size
    return replace(
        clip,
        streams=(run.recipe.stream,),
        sampling=protocol.sampling,
        windows=protocol.windows,
        hop=protocol.hop,
        crops=protocol.crops,
        pad=protocol.pad,
        reach_end=protocol.reach_end,
        cut_first=protocol.cut_first,
        resize=None if clip.augment.pad else round(size * protocol.scale),
        augment=replace(clip.augment, size=round(size * protocol.crop)),
    )
