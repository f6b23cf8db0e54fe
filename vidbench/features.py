"""Run + manifest to a table with one row of features per video, filled by row index."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from vidbench import models
from vidbench.data.loading import HANG, Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.views import worker_init
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError, recipe_from


@dataclass(frozen=True)
class Protocol:
    """How clips become one feature of a video; it is stored with every number that comes from it.

    windows: evenly spread windows, both ends touched; crops: centre, three, five or ten; normalise_clips: each clip's
    feature to unit length before the mean, as CoCLR's released retrieval does; scale: the frame's short side over the
    crop's size, 256/224 as CoCLR and most others test, so that things have about the size they had in training.
    """

    windows: int = 4
    crops: str = "centre"
    normalise_clips: bool = True
    scale: float = 256 / 224


@dataclass(frozen=True)
class Features:
    """Backbone features of videos: values float32 [N,D] with label and source [N] int64, in manifest order."""

    values: np.ndarray
    label: np.ndarray
    source: np.ndarray
    classes: tuple[str, ...]
    protocol: dict

    def save(self, path: str | Path) -> None:
        """One .npz file, under a temporary name and then renamed."""
        path = Path(path)
        temporary = path.with_name(f".{path.stem}.tmp.npz")
        np.savez(temporary, values=self.values, label=self.label, source=self.source,
                 classes=np.array(self.classes), protocol=json.dumps(self.protocol))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """What `save` wrote."""
        with np.load(path) as held:
            return cls(held["values"], held["label"], held["source"], tuple(map(str, held["classes"])),
                       json.loads(str(held["protocol"])))


def load_encoder(run: Run) -> torch.nn.Module:
    """The run's backbone in eval mode, clips [B,3,T,H,W] -> map [B,D,T',H',W']. Raises RunError if it does not fit."""
    encoder = models.build(run.recipe["network"], **run.recipe["network_args"])
    run.load_into(encoder, "encoder.")
    return encoder.eval()


@torch.no_grad()
def extract(run: Run, manifest: Manifest, protocol: Protocol = Protocol(), *, batch: int = 16,
            workers: int = 0) -> Features:
    """Pooled backbone features of every row of `manifest` (CoCLR section 4.4: no projection head), without randomness.

    The clip's length, stride, size and stream are those of the run. Rows are shared out over ranks and filled in by row
    index, so neither rank order nor padding matters. Raises RunError where a feature is not finite.
    """
    if len(manifest) == 0:
        raise RunError(f"no videos to extract features of: the split is empty in the manifest of {manifest.root}.")
    spec = recipe_from(ClipSpec, {**run.recipe["clip"], "streams": (run.recipe["stream"],), "sampling": "spread",
                                  "windows": protocol.windows, "crops": protocol.crops})
    spec = replace(spec, resize=round(spec.augment.size * protocol.scale))
    clips = Clips(manifest, spec, flow_folder=run.recipe["flow"] or None)
    device = ranks.device()
    encoder = load_encoder(run).to(device)
    mine = list(range(ranks.rank(), len(manifest), ranks.world()))
    loader = DataLoader(_Rows(clips, mine), batch_size=batch,
                        num_workers=workers, worker_init_fn=worker_init, timeout=HANG if workers else 0,
                        multiprocessing_context="spawn" if workers else None)
    values = torch.zeros(len(manifest), encoder.out_channels, device=device)
    for samples in loader:
        views = samples[run.recipe["stream"]].to(device)
        pooled = encoder(views.flatten(0, 1)).mean(dim=(2, 3, 4))
        if protocol.normalise_clips:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        values[samples["row"].to(device)] = pooled.unflatten(0, views.shape[:2]).mean(dim=1)
    values = ranks.mean(values) * ranks.world()
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values).all(dim=1)).nonzero()[0])
        raise RunError(f"{run.folder}: the feature of row {bad} ({manifest.path[bad]}) is not finite.")
    return Features(values.cpu().numpy(), manifest.label.copy(), manifest.source.copy(), manifest.classes,
                    {**asdict(protocol), "stream": run.recipe["stream"], "frames": spec.frames, "stride": spec.stride,
                     "size": spec.augment.size})


def kept(run: Run, split: str, protocol: Protocol = Protocol(), *, batch: int = 16, workers: int = 0) -> Features:
    """Features of one split of the run's own manifest, from <run>/features-<split>.npz where they fit, else made there.

    They fit when protocol, labels and sources are the same and no checkpoint is newer. Raises what `extract` raises.
    """
    path, checkpoint = run.folder / f"features-{split}.npz", run.checkpoint()
    rows = Manifest.load(run.recipe["manifest"]).select(split=split)
    fits = bool(path.exists() and checkpoint and path.stat().st_mtime >= checkpoint.stat().st_mtime)
    if fits:
        found = Features.load(path)
        fits = (found.protocol.items() >= asdict(protocol).items() and np.array_equal(found.label, rows.label)
                and np.array_equal(found.source, rows.source))
    if ranks.any_rank(not fits):
        made = extract(run, rows, protocol, batch=batch, workers=workers)
        if ranks.rank() == 0:
            made.save(path)
        ranks.barrier()
    return Features.load(path)


class _Rows(torch.utils.data.Dataset):
    """Some rows of Clips by plain position."""

    def __init__(self, clips: Clips, rows: list[int]):
        self.clips, self.rows = clips, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        return self.clips[(0, self.rows[position])]


def linear_probe(train: Features, test: Features, seed: int = 0) -> dict:
    """Accuracy of a linear classifier on stored features: standardised logistic regression (scikit-learn).

    Its regularisation is chosen by cross-validation on train, folds split by source; the test part is looked at once.
    Returns {"accuracy", "right" bool [N_test], "C", "protocol"}. Raises ValueError at fewer than two classes in train.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    if min(train.label.min(), test.label.min()) < 0:
        raise ValueError("linear_probe: some rows have no label; select the labelled ones.")
    if len(np.unique(train.label)) < 2:
        raise ValueError("linear_probe wants at least two classes among the training labels.")
    folds = GroupKFold(min(4, len(np.unique(train.source))), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(model, {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}, cv=folds)
    with threadpool_limits(1):  # matrices this small are 40 times slower where BLAS threads wait for each other
        search.fit(train.values, train.label, groups=train.source)
        right = search.predict(test.values) == test.label
    return {"accuracy": float(right.mean()), "right": right,
            "C": search.best_params_["logisticregression__C"],
            "protocol": "logistic regression on standardised features, C by cross-validation over train's sources"}
