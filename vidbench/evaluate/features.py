"""Run + manifest to a table with one row of features per video, filled by row index."""

import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vidbench.data.flow import store as flow_store
from vidbench.data.loading.dataset import FIXED, Clips, ClipSpec, FixedSampling, processes
from vidbench.data.loading.transforms import CROPS, Crops
from vidbench.data.manifest import Manifest
from vidbench.data.video.windows import Pad
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError
from vidbench.methods.common import (
    DataSet,
    data_set,
    load_encoder,
    load_head,
    protocol_facts,
)
from vidbench.system.files import written

SECONDS = 30.0  # between two lines about a table that takes long


@dataclass(frozen=True)
class Protocol:
    """How clips become one row of a video; it is stored with every number that comes from it.

    sampling: "spread" (`windows` of them, both ends touched), "sliding" (one every `hop` frames and
    one that touches the end) or "segments" (one clip of the middle frames of equal segments,
    whatever `windows` is); crops: center, three, five or ten; normalize_clips: each clip's feature
    to unit length before the mean over clips; scale: the frame's short side over the training
    crop's size; crop: the test crop's size over it; pad: what a video shorter than a window shows,
    see data.windows."""

    sampling: FixedSampling = "spread"
    windows: int = 4
    hop: int = 15
    crops: Crops = "center"
    normalize_clips: bool = True
    scale: float = 256 / 224
    crop: float = 1.0
    pad: Pad = "last"

    def __post_init__(self) -> None:
        if self.sampling not in FIXED or self.crops not in CROPS:
            raise ValueError(
                f"a protocol has sampling {', '.join(FIXED)} and crops {', '.join(CROPS)}; "
                f"got {self.sampling!r} and {self.crops!r}."
            )
        if not 0 < self.crop <= self.scale or self.scale < 1:
            raise ValueError(
                "scale, the frame's short side over the training crop's size, is at least 1, and "
                "crop, "
                f"the test crop's size over it, at most scale; got {self.scale} and {self.crop}."
            )


# Where the released code of CoCLR leaves out a last window that touches the end, and changes
# colors at random (jitter with p 0.3), these do not.
PROTOCOLS = {
    "vidbench": Protocol(),
    # CoCLR's retrieval and probe, eval/main_classifier.py --retrieval, and dataset/lmdb_dataset.py:
    # windows of 32 every 15 frames, 224 of the stored frame's 240 pixels (UCF101, HMDB51),
    # left-padded.
    "coclr_official": Protocol(sampling="sliding", hop=15, scale=240 / 224, pad="first"),
    # CoCLR's test of classifiers, eval/main_classifier.py --ten_crop.
    "coclr_ten_crop": Protocol(
        sampling="sliding", hop=15, scale=240 / 224, pad="first", crops="ten"
    ),
    # What is watched while training, and pictures' one test: the window in the middle, 224 of 256
    # pixels.
    "one_view": Protocol(windows=1),
    # The usual test of supervised video nets (SlowFast's paper), which RMS's supplement does not
    # name: 10 windows of 3 crops of 256 pixels, by which published top-1 of Kinetics and
    # Something-Something is to be read.
    "thirty_views": Protocol(windows=10, crops="three", crop=256 / 224),
    # IIC, retrieve_clips.py: 10 clips, 112 of 128 pixels, the plain mean.
    "iic": Protocol(windows=10, normalize_clips=False, scale=128 / 112),
    # MultiTrain, supplement: 3 windows of 3 crops at short side 256. Data sets that are sampled by
    # segments give one clip, so 1 x 3 (`fitting`).
    "multitrain": Protocol(windows=3, crops="three"),
    # README of its released code: Kinetics-400 5 x 1, Moments 2 x 3, Something-Something 1 x 3;
    # there the short side is 256 with one crop and 224 with three.
    "multitrain_k400": Protocol(windows=5),
    "multitrain_moments": Protocol(windows=2, crops="three", scale=1.0),
    "multitrain_ssv2": Protocol(sampling="segments", windows=1, crops="three", scale=1.0),
}


@dataclass(frozen=True)
class Features:
    """What a run makes of videos, in manifest order: features float32 [N,D], or class probabilities
    [N,classes].

    label and source_video are int64 [N]; protocol holds what the values depend on besides the run, `rows`
    being the videos' fingerprint."""

    values: np.ndarray
    label: np.ndarray
    source_video: np.ndarray
    classes: tuple[str, ...]
    protocol: dict

    def save(self, path: str | Path) -> None:
        """Write one .npz file, whole or not at all."""
        path = Path(path)
        with written(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                values=self.values,
                label=self.label,
                source_video=self.source_video,
                classes=np.array(self.classes),
                protocol=json.dumps(self.protocol),
            )

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """What `save` wrote."""
        with np.load(path) as held:
            if "source_video" not in held:
                raise ValueError(
                    f"{path} must have the column 'source_video'; it has "
                    f"{', '.join(held)}. Extract the features again."
                )
            return cls(
                held["values"],
                held["label"],
                held["source_video"],
                tuple(map(str, held["classes"])),
                json.loads(str(held["protocol"])),
            )


def extract(
    run: Run,
    manifest: Manifest,
    protocol: Protocol = Protocol(),
    *,
    flow: str | Path = "",
    batch: int = 32,
    workers: int = 0,
    data: str = "",
) -> Features:
    """Pooled backbone features of every row of `manifest` (CoCLR section 4.4: no projection head),
    without randomness.

    The clip's length, stride, size and stream are those of the run; flow: the flow store of these
    videos, the run's own where empty; batch: clips that the network sees at once; data: of a run on
    several data sets, as whose videos these are seen. Raises RunError where a feature
    is not finite."""
    encoder = load_encoder(run).to(ranks.device())

    def pooled(clips: Tensor) -> Tensor:
        rows = encoder(clips).mean(dim=(2, 3, 4))
        return F.normalize(rows, dim=1) if protocol.normalize_clips else rows

    values = _table(
        run, manifest, protocol, pooled, encoder.out_channels, flow, batch, workers, data
    )
    return Features(
        values,
        manifest.label.copy(),
        manifest.source_video.copy(),
        manifest.classes,
        described(run, manifest, protocol, flow, data=data),
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
) -> Features:
    """Class probabilities [N,classes] of every row by a run of methods.classify (CoCLR,
    eval/main_classifier.py), or by the head of one data set of a run of methods.multitrain; its
    maps and expander have no part in it.

    The softmax of each clip, then its mean over windows and crops; the rest is as in `extract`.
    Raises RunError where the run has no classifier, or one for other classes than the manifest's.
    """
    classes = data_set(run, data).classes
    if classes and classes != manifest.classes:
        turned = ", in another order" * (set(classes) == set(manifest.classes))
        raise RunError(
            f"{run.folder} tells {class_words(classes)}; the manifest has "
            f"{class_words(manifest.classes)}"
            f"{turned}. Its scores would be of other classes."
        )
    encoder = load_encoder(run)
    network = nn.ModuleList([encoder, load_head(run, encoder.out_channels, data)]).to(
        ranks.device()
    )

    def probabilities(clips: Tensor) -> Tensor:
        return network[1](network[0](clips).mean(dim=(2, 3, 4))).softmax(dim=1)

    values = _table(
        run, manifest, protocol, probabilities, len(manifest.classes), flow, batch, workers, data
    )
    return Features(
        values,
        manifest.label.copy(),
        manifest.source_video.copy(),
        manifest.classes,
        described(run, manifest, protocol, flow, "probabilities", data),
    )


MAKERS = {"features": extract, "probabilities": predict}


def load_or_extract(
    run: Run,
    split: str,
    protocol: Protocol = Protocol(),
    *,
    manifest: Manifest | None = None,
    flow: str | Path = "",
    what: str = "features",
    batch: int = 32,
    workers: int = 0,
    data: str = "",
) -> Features:
    """A table of one split, read from <run>/features/ where it fits, else made and kept there.

    manifest, flow: those of another data set than the run's own (a run of Kinetics tested on
    UCF101), of which `split` is taken. what: "features" (extract) or "probabilities" (predict).
    Tables of many data sets and protocols lie side by side; one fits when protocol, videos, labels
    and sources are the same and no checkpoint is newer. Raises what `extract` and `predict` raise.
    """
    rows = (manifest or Manifest.load(data_set(run, data).manifest)).select(split=split)
    wanted, checkpoint = described(run, rows, protocol, flow, what, data), run.checkpoint()
    digest = zlib.crc32(json.dumps(wanted, sort_keys=True).encode())
    name = f"{what}-{wanted['rows']}-{protocol.sampling}-{protocol.crops}-{digest:08x}.npz"
    path = run.folder / "features" / name
    fits = bool(path.exists() and checkpoint and path.stat().st_mtime >= checkpoint.stat().st_mtime)
    if fits:
        found = Features.load(path)
        fits = (
            found.protocol == wanted
            and found.classes == rows.classes
            and np.array_equal(found.label, rows.label)
            and np.array_equal(found.source_video, rows.source_video)
        )
    if ranks.any_rank(not fits):
        made = MAKERS[what](run, rows, protocol, flow=flow, batch=batch, workers=workers, data=data)
        if ranks.rank() == 0:
            made.save(path)
        ranks.barrier()
    return Features.load(path)


def described(
    run: Run,
    manifest: Manifest,
    protocol: Protocol,
    flow: str | Path = "",
    what: str = "features",
    data: str = "",
) -> dict:
    """What a table depends on besides the run's weights, as plain values; tables of equal ones may
    be compared.

    Of probabilities also how the classifier was trained, on which videos, and by what rule it was
    selected."""
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
    if protocol.sampling == "segments":
        facts |= {"windows": 1, "stride": "whole"}
    if clip.augment.pad:  # trained on windows of frames as they are, so tested on them, too
        facts["scale"] = "as it is"
    if clip.decode_size is not None and recipe.stream == "rgb":
        facts["decode_size"] = clip.decode_size
    if recipe.stream == "flow":
        facts["flow"] = flow_store.settings_of(flow or part.flow).method
    if part.name:
        facts["data"] = part.name
    if what == "probabilities":
        facts.pop("normalize_clips")
        facts |= protocol_facts(run, part)
    return facts


def class_words(classes) -> str:
    """A list of classes in a few words, for errors."""
    return f"{len(classes)} classes ({', '.join(list(classes)[:4])}{', ...' if len(classes) > 4 else ''})"


@torch.no_grad()
def _table(
    run: Run,
    manifest: Manifest,
    protocol: Protocol,
    function: Callable[[Tensor], Tensor],
    width: int,
    flow: str | Path,
    batch: int,
    workers: int,
    data: str,
) -> np.ndarray:
    """The mean of `function` ([n,C,T,H,W] -> [n,width]) over the clips of each video: float32
    [N,width].

    Rows are shared out over ranks and filled in by row index, so neither rank order nor padding
    matters. Memory follows `batch` and dataset.DECODED, not the number of windows of a video."""
    if len(manifest) == 0:
        raise RunError(
            "no videos to extract features of: the split is empty in the manifest of "
            f"{manifest.root}."
        )
    store = flow or data_set(run, data).flow or None
    clips = Clips(manifest, spec_of(run, protocol, data), flow_folder=store)
    device, mine = ranks.device(), list(range(ranks.rank(), len(manifest), ranks.world()))
    loader = DataLoader(_Share(clips, mine, batch), batch_size=None, **processes(workers))
    sums = torch.zeros(len(manifest), width + 1)  # the last column counts clips
    said, began = time.monotonic(), time.monotonic()
    for views, rows in _batches(loader, batch):
        made = function(views.to(device)).float().cpu()
        sums.index_add_(0, rows, torch.cat([made, torch.ones(len(rows), 1)], dim=1))
        if ranks.rank() == 0 and time.monotonic() - said > SECONDS:
            said, done = time.monotonic(), int((sums[:, -1] > 0).sum())
            left = (said - began) * (len(mine) - done) / done
            print(
                f"{run.folder.name}: {done} of {len(mine)} videos, about {left:.0f} s left",
                flush=True,
            )
    sums = (ranks.mean(sums.to(device)) * ranks.world()).cpu()
    values = (sums[:, :-1] / sums[:, -1:]).numpy()
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise RunError(
            f"{run.folder}: {len(bad)} rows are not finite, first row {bad[0]} "
            f"({manifest.path[bad[0]]})."
        )
    return values


def fitting(protocol: Protocol, data: DataSet) -> Protocol:
    """The protocol as it fits a data set.

    A data set that is trained on segments of whole videos (Something-Something) is tested on the
    middles of segments, one clip a video (MultiTrain's released code)."""
    if data.clip.sampling == "random_segments":
        return replace(protocol, sampling="segments")
    return protocol


def spec_of(run: Run, protocol: Protocol, data: str = "") -> ClipSpec:
    """The run's clips of one data set, cut as the protocol says."""
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
        resize=None if clip.augment.pad else round(size * protocol.scale),
        augment=replace(clip.augment, size=round(size * protocol.crop)),
    )


class _Share(IterableDataset):
    """(views [n,C,T,H,W], row) of some rows, each worker its part of them."""

    def __init__(self, clips: Clips, rows: list[int], most: int):
        self.clips, self.rows, self.most = clips, rows, most

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        for row in self.rows[worker.id :: worker.num_workers] if worker else self.rows:
            for views in self.clips.test_views(row, self.most):
                yield views, row


def _batches(pieces, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces (views [n,...], row) put together, or cut, to at most `batch` clips, with the row of
    each clip [n]."""
    held: list[Tensor] = []
    rows: list[int] = []
    for views, row in pieces:
        if held and len(rows) + len(views) > batch:
            yield torch.cat(held), torch.tensor(rows)
            held, rows = [], []
        for part in views.split(batch):
            held.append(part)
            rows += [row] * len(part)
            if len(rows) >= batch:
                yield torch.cat(held), torch.tensor(rows)
                held, rows = [], []
    if held:
        yield torch.cat(held), torch.tensor(rows)
