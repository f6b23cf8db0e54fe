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

from vidbench import models
from vidbench.data.flow import store as flow_store
from vidbench.data.loading.dataset import FIXED, Clips, ClipSpec, processes
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_from
from vidbench.models.heads import mlp
from vidbench.system.files import written
from vidbench.tensors.regularizers import placed

CROPS = {"centre": 1, "three": 3, "five": 5, "ten": 10}
DECODED = 16  # windows that are decoded together; of a long video no more is in memory at once
SECONDS = 30.0  # between two lines about a table that takes long


@dataclass(frozen=True)
class Protocol:
    """How clips become one row of a video; it is stored with every number that comes from it.

    sampling: "spread" (`windows` of them, both ends touched), "sliding" (one every `hop` frames and
    one that touches the end) or "segments" (one clip of the middle frames of equal segments,
    whatever `windows` is); crops: centre, three, five or ten; normalise_clips: each clip's feature
    to unit length before the mean over clips; scale: the frame's short side over the training
    crop's size; crop: the test crop's size over it; pad: what a video shorter than a window shows,
    see data.windows."""

    sampling: str = "spread"
    windows: int = 4
    hop: int = 15
    crops: str = "centre"
    normalise_clips: bool = True
    scale: float = 256 / 224
    crop: float = 1.0
    pad: str = "last"

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
# colours at random (jitter with p 0.3), these do not.
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
    "iic": Protocol(windows=10, normalise_clips=False, scale=128 / 112),
    # MultiTrain, supplement: 3 windows of 3 crops at short side 256. Data sets that are sampled by
    # segments give one clip, so 1 x 3 (`for_part`).
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

    label and source are int64 [N]; protocol holds what the values depend on besides the run, `rows`
    being the videos' fingerprint."""

    values: np.ndarray
    label: np.ndarray
    source: np.ndarray
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
                source=self.source,
                classes=np.array(self.classes),
                protocol=json.dumps(self.protocol),
            )

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """What `save` wrote."""
        with np.load(path) as held:
            return cls(
                held["values"],
                held["label"],
                held["source"],
                tuple(map(str, held["classes"])),
                json.loads(str(held["protocol"])),
            )


def load_encoder(run: Run) -> nn.Module:
    """The run's backbone in eval mode, clips [B,3,T,H,W] -> map [B,D,T',H',W']. Raises RunError if
    it does not fit."""
    regularizer = run.recipe.get("regularizer")  # some scale in evaluation, too
    branches = placed(**regularizer) if regularizer else None
    encoder = models.build(
        run.recipe["network"], regularizer=branches, **run.recipe["network_args"]
    )
    run.load_into(encoder, "encoder.")
    return encoder.eval()


def part_of(run: Run, data: str = "") -> dict:
    """What a run's recipe says of one data set: {"classes", "manifest", "flow", "clip" (what
    differs)} and more.

    data: the name of one of several that a run of methods.multitrain was trained on; it may be left
    out where there is one. Raises RunError, which lists the names, where there is none of that
    name."""
    parts = {part["name"]: part for part in run.recipe.get("parts", ())}
    if not parts and not data:
        return {
            "classes": (),
            "clip": {},
            **{
                name: run.recipe[name]
                for name in ("classes", "manifest", "flow")
                if name in run.recipe
            },
        }
    if data not in parts and (data or len(parts) > 1):
        raise RunError(
            f"{run.folder} was trained on {', '.join(parts) or 'one data set without a name'}; "
            f"got data={data!r}. Say which of them is meant."
        )
    return parts[data] if data else next(iter(parts.values()))


def load_head(run: Run, width: int, data: str = "") -> nn.Module:
    """A classifier of a run in eval mode, features [B,D] -> scores: that of methods.classify, or of
    methods.multitrain the head of the data set `data`. Raises RunError on other runs."""
    part = part_of(run, data)
    if not part["classes"] or not {"head", "parts"} & set(run.recipe):
        raise RunError(
            f"{run.folder} is a run of {run.stage}, without a classifier; train one with "
            "methods.classify."
        )
    if "parts" in run.recipe:
        head, prefix = (
            mlp(width, run.recipe["hidden"], len(part["classes"])),
            f"heads.{part['name']}.",
        )
    else:
        head, prefix = models.build_head(run.recipe["head"], width, len(part["classes"])), "head."
    run.load_into(head, prefix)
    return head.eval()


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
    several data sets, as whose videos these are seen (`part_of`). Raises RunError where a feature
    is not finite."""
    encoder = load_encoder(run).to(ranks.device())

    def pooled(clips: Tensor) -> Tensor:
        rows = encoder(clips).mean(dim=(2, 3, 4))
        return F.normalize(rows, dim=1) if protocol.normalise_clips else rows

    values = _table(
        run, manifest, protocol, pooled, encoder.out_channels, flow, batch, workers, data
    )
    return Features(
        values,
        manifest.label.copy(),
        manifest.source.copy(),
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
    classes = tuple(part_of(run, data)["classes"])
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
        manifest.source.copy(),
        manifest.classes,
        described(run, manifest, protocol, flow, "probabilities", data),
    )


MAKERS = {"features": extract, "probabilities": predict}


def kept(
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
    rows = (manifest or Manifest.load(part_of(run, data)["manifest"])).select(split=split)
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
            and np.array_equal(found.source, rows.source)
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
    part, stream = part_of(run, data), run.recipe["stream"]
    clip = {**run.recipe["clip"], **part["clip"]}
    facts = {
        **asdict(protocol),
        "stream": stream,
        "frames": clip["frames"],
        "stride": f"{clip['target_fps']} fps" if clip["target_fps"] else clip["stride"],
        "size": clip["augment"]["size"],
        "rows": manifest.fingerprint(),
    }
    if protocol.sampling == "segments":
        facts |= {"windows": 1, "stride": "whole"}
    if clip["augment"].get(
        "pad"
    ):  # trained on windows of frames as they are, so tested on them, too
        facts["scale"] = "as it is"
    if clip["decode_size"] is not None and stream == "rgb":
        facts["decode_size"] = clip["decode_size"]
    if stream == "flow":
        facts["flow"] = flow_store.settings_of(flow or part["flow"]).method
    if "name" in part:
        facts["data"] = part["name"]
    if what == "probabilities":
        facts.pop("normalise_clips")
        facts |= _training(run, part)
    return facts


def _training(run: Run, part: dict) -> dict:
    """How a classifier came about, as far as its probabilities are to be compared with those of
    others."""
    recipe, seen = run.recipe, run.folder / "rows.json"
    fit, dropout = recipe.get("fit", {}), recipe.get("dropout")
    head = f"mlp of {recipe['hidden']}" if "parts" in recipe else recipe.get("head")
    fixed = f"rate {fit.get('lr')}, decay {fit.get('weight_decay')}, fixed; last epoch"
    return {
        "head": f"{head}{f', dropout {dropout}' if dropout else ''}",
        "backbone": "frozen"
        if recipe.get("freeze")
        else f"{recipe.get('backbone_lr', 1.0)} of the rate",
        "training": f"{fit.get('optimizer')}, {fit.get('epochs')} epochs of batch "
        f"{fit.get('batch')}",
        "selection": recipe.get("selection") or fixed,
        "train_rows": json.loads(seen.read_text())[part.get("name", "train")]
        if seen.exists()
        else None,
    }


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
    matters. Memory follows `batch` and DECODED, not the number of windows of a video."""
    if len(manifest) == 0:
        raise RunError(
            "no videos to extract features of: the split is empty in the manifest of "
            f"{manifest.root}."
        )
    store = flow or part_of(run, data)["flow"] or None
    clips = _Windows(manifest, _spec(run, protocol, data), flow_folder=store)
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


def for_part(protocol: Protocol, part: dict) -> Protocol:
    """The protocol as it fits a data set: one that is trained on segments of whole videos
    (Something-Something) is tested on the middles of segments, one clip a video (MultiTrain's
    released code)."""
    return (
        replace(protocol, sampling="segments")
        if part["clip"].get("sampling") == "random_segments"
        else protocol
    )


def _spec(run: Run, protocol: Protocol, data: str = "") -> ClipSpec:
    """The run's clips of one data set, cut as the protocol says."""
    clip = {**run.recipe["clip"], **part_of(run, data)["clip"]}
    spec = recipe_from(
        ClipSpec,
        {
            **clip,
            "streams": (run.recipe["stream"],),
            "sampling": protocol.sampling,
            "windows": protocol.windows,
            "hop": protocol.hop,
            "crops": protocol.crops,
            "pad": protocol.pad,
        },
    )
    size = spec.augment.size
    return replace(
        spec,
        resize=None if spec.augment.pad else round(size * protocol.scale),
        augment=replace(spec.augment, size=round(size * protocol.crop)),
    )


class _Windows(Clips):
    """Clips of a video that come a few windows at a time, so that a long one takes no more memory
    than a short one."""

    def parts(self, row: int, most: int) -> Iterator[Tensor]:
        """All test views of a row, float32 [n,C,T,size,size] each, n at most `most` (or one
        window's crops)."""
        rng, (stream,) = np.random.default_rng(0), self.spec.streams  # nothing is drawn
        step = max(1, most // CROPS[self.spec.crops])
        self._first, self._all = 0, 1
        while self._first < self._all:
            frames = self._frames(row, rng)[stream]
            for few in frames.split(step):
                yield self._test_views({stream: few}, rng)[stream]
            self._first += DECODED

    def _windows(self, length: int, stride, rng: np.random.Generator) -> np.ndarray:
        chosen = super()._windows(length, stride, rng)
        self._all = len(chosen)
        return chosen[self._first : self._first + DECODED]


class _Share(IterableDataset):
    """(views [n,C,T,H,W], row) of some rows, each worker its part of them."""

    def __init__(self, clips: _Windows, rows: list[int], most: int):
        self.clips, self.rows, self.most = clips, rows, most

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        for row in self.rows[worker.id :: worker.num_workers] if worker else self.rows:
            for views in self.clips.parts(row, self.most):
                yield views, row


def _batches(pieces, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces (views [n,...], row) put together, or cut, to at most `batch` clips, with the row of
    each clip [n]."""
    held, rows = [], []
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
