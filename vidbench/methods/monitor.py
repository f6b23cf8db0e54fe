"""Held-out measures between epochs of contrastive training, and signs of known failures.

Test data is not read, and nothing is random: fixed windows, center crops, the whole queue. Labels
are for monitoring only; training does not see them. Without labels, the numbers that need them are
missing.
"""

import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vidbench.data.loading.dataset import Clips, ClipSpec, processes
from vidbench.data.manifest import Manifest
from vidbench.data.video import windows
from vidbench.engine import ranks
from vidbench.engine.runs import Run
from vidbench.models.backbone import Backbone
from vidbench.system.notices import show_notice
from vidbench.tensors.bank import FeatureQueue, masked_topk
from vidbench.tensors.metrics import effective_rank, recall_at, spread

WINDOWS = 2  # of each video: one for the query encoder, one for the key encoder
SCALE = 256 / 224  # the frame's short side over the crop, as in tests
BLOCK = 1024  # slots that are queries at a time
MOST = 16  # videos at a time
# Share of all steps, steps, held-out rows: below these, a sound run may look like a failure, so no
# warning is printed.
LEAST_SHARE, LEAST_STEPS, LEAST_ROWS = 0.1, 200, 100
SHORT = 1000  # steps; in a shorter run a warning adds that this is expected
CEILING = 0.9  # a share that cannot rise much


class Contrastive(Protocol):
    """A contrastive method's module, as far as the monitor uses it: coclr.CoCLR."""

    recipe: Any
    encoder: Backbone
    queue: FeatureQueue

    def eval(self) -> Any:
        """Switch to eval mode."""
        ...

    def __call__(self, batch: dict) -> tuple[Tensor, dict]: ...


class Monitor:
    """Measures of a contrastive run; the loop calls it with the epoch.

    A call returns a dict of numbers, the same on every rank. On the held-out rows, these are `knn`,
    R@1 of backbone features (mean of two windows, cosine, minus the gallery's mean) with a part of
    the training rows as gallery, if both have labels; and `rank` and `spread` of those features.
    Once the queue is full: `loss` and `accuracy` of the contrastive task, `key_rank`, the effective
    rank of the keys, and, with a teacher, the numbers of `mining`.
    """

    def __init__(
        self,
        method: Contrastive,
        train: Manifest,
        held: Manifest,
        spec: ClipSpec,
        run: Run,
        flow: str | None = None,
    ):
        recipe = method.recipe
        rows, workers = recipe.monitor_rows, min(recipe.fit.workers, 4)
        self.method, self.run, self.batch, self.workers = method, run, MOST, workers
        self.train = train.select(mask=windows.spread(len(train), rows))
        self.held = held.select(mask=windows.spread(len(held), rows))
        spec = replace(
            spec,
            sampling="spread",
            windows=WINDOWS,
            crops="center",
            resize=round(spec.augment.size * SCALE),
        )
        cache = 1 << 28 if workers == 0 else 0
        self.held_clips = Clips(self.held, spec, flow_folder=flow, cache_bytes=cache)
        spec = replace(spec, streams=(method.recipe.stream,))
        self.train_clips = Clips(self.train, spec, flow_folder=flow, cache_bytes=cache)

    @torch.no_grad()
    def __call__(self, epoch: float) -> dict[str, float]:
        self.method.eval()
        queries, sums = self._look(self.held_clips, self.method.queue.full)
        gallery, _ = self._look(self.train_clips, False)
        numbers = {"rank": effective_rank(queries), "spread": spread(queries)}
        if self.train.labeled and self.held.labeled:
            numbers["knn"] = _knn(gallery, queries, self.train.label, self.held.label)
        queue, recipe = self.method.queue, self.method.recipe
        if queue.full:
            numbers |= {name: total / len(self.held) for name, total in sums.items()}
            numbers["key_rank"] = effective_rank(queue.features)
            if queue.other is not None:
                numbers |= mining(queue, recipe.topk, recipe.mine_siblings)
        return numbers

    def conclude(self) -> None:
        """Print signs of known failures once, after training."""
        warned = health(self.run.metrics("monitor"), self.method.recipe, len(self.held))
        if warned and ranks.rank() == 0:
            show_notice(f"{self.run.folder.name}: look at this", list(warned.values()))

    def _look(self, clips: Clips, task: bool) -> tuple[Tensor, dict[str, float]]:
        """Pooled features [N,D] of all rows and sums of the task's numbers; ranks share the rows."""
        device, stream = ranks.device(), self.method.recipe.stream
        features = torch.zeros(len(clips), self.method.encoder.out_channels, device=device)
        sums = torch.zeros(2, device=device)
        loader = DataLoader(_Part(clips), batch_size=self.batch, **processes(self.workers))
        for batch in loader:
            batch = {name: value.to(device) for name, value in batch.items()}
            views = batch[stream]
            pooled = self.method.encoder(views.flatten(0, 1)).mean(dim=(2, 3, 4))
            features[batch["row"]] = pooled.unflatten(0, views.shape[:2]).mean(dim=1)
            if task:
                loss, numbers = self.method(batch)
                sums += torch.stack([loss, numbers["accuracy"]]) * len(views)
        features, sums = (ranks.mean(part) * ranks.world() for part in (features, sums))
        return features.cpu(), dict(
            zip(("loss", "accuracy"), sums.tolist(), strict=True)
        ) if task else {}


def _knn(gallery: Tensor, queries: Tensor, gallery_label: np.ndarray, label: np.ndarray) -> float:
    center = gallery.mean(dim=0)
    gallery, queries = (
        nn.functional.normalize(part - center, dim=1) for part in (gallery, queries)
    )
    nearest = torch.from_numpy(gallery_label)[(queries @ gallery.T).argmax(dim=1)]
    known = torch.from_numpy(label) >= 0
    return float(
        recall_at(nearest[:, None], torch.from_numpy(label), (1,))[1][known].float().mean()
    )


@torch.no_grad()
def mining(queue: FeatureQueue, topk: int, mine_siblings: bool = False) -> dict[str, float]:
    """Measure what the teacher mines within the queue, with each slot as a query in turn.

    Args:
        topk: Slots mined for each query.
        mine_siblings: Siblings may be mined, as in the recipe.

    Returns:
        purity: the share of mined slots with the query's label. chance: that share among all
        allowed slots. class_recall: the share of a class's slots that its queries mine, median over
        classes (class mining recall of CPR, arXiv 2201.07989). sibling_share: the share of the
        `topk` places that siblings would take if they were allowed. Slots without label count for
        sibling_share only. A measure without anything to count is missing.
    """
    label, source_video, slots = (
        queue.label,
        queue.source_video,
        torch.arange(queue.slots, device=queue.label.device),
    )
    # right, mined, same, allowed; last: no label
    sums = torch.zeros(4, int(label.max()) + 2, device=label.device)
    siblings_mined = places = 0
    assert queue.other is not None, "the queue has no other stream to mine in"
    for rows in slots.split(BLOCK):
        similarity = queue.other[rows] @ queue.other.T
        own, siblings = rows[:, None] == slots, source_video[rows, None] == source_video
        free = masked_topk(similarity, topk, own)
        siblings_mined, places = (
            siblings_mined + int((free & siblings).sum()),
            places + int(free.sum()),
        )
        barred = own if mine_siblings else own | siblings
        mined, same = masked_topk(similarity, topk, barred), (label[rows, None] == label) & ~barred
        counts = torch.stack(
            [(mined & same).sum(1), mined.sum(1), same.sum(1), (~barred).sum(1)]
        ).float()
        sums.index_add_(1, torch.where(label[rows] < 0, sums.shape[1] - 1, label[rows]), counts)
    right, mined, same, allowed = sums[:, :-1]
    recalls = (right / same)[same > 0]
    numbers = {
        "purity": float(right.sum() / mined.sum()),
        "chance": float(same.sum() / allowed.sum()),
        "class_recall": float(recalls.median()) if len(recalls) else math.nan,
        "sibling_share": siblings_mined / max(places, 1),
    }
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def health(epochs: list[dict], recipe: Any, rows: int) -> dict[str, str]:
    """Describe, by kind, curves that look like failures that users of the released code met.

    Nothing is reported before the queue is full, before LEAST_STEPS and LEAST_SHARE of the steps,
    or about fewer than LEAST_ROWS held-out rows. An accuracy that falls at the start of a CoCLR
    stage and rises again is normal and not reported.

    Args:
        epochs: The lines of monitor.jsonl.
        recipe: A coclr.Recipe.
        rows: How many rows were held out.
    """
    late = [line for line in epochs if line.get("loss") is not None]
    if not late or late[-1] is not epochs[-1] or rows < LEAST_ROWS:
        return {}
    last = epochs[-1]
    done = last["epoch"] / max(recipe.fit.epochs, 1)
    if done < LEAST_SHARE or last["step"] < LEAST_STEPS:
        return {}
    said = _of_features(epochs[0], last, done) | _of_the_task(late, recipe, done)
    if last["step"] < SHORT:
        remark = f" This is expected at this size ({last['step']} steps): train longer first."
        said = {kind: words + remark for kind, words in said.items()}
    return said


def _of_features(first: dict, last: dict, done: float) -> dict[str, str]:
    said = {}
    if last["spread"] < 0.1 or last["rank"] < 2:
        said["collapse"] = (
            f"Features collapse: their effective rank is {last['rank']:.1f} and their spread "
            f"{last['spread']:.2f} (on a sphere 1). Lower the learning rate, or check that both "
            "views are not the same picture."
        )
    labeled = last.get("knn") is not None and first.get("knn") is not None
    if labeled and done >= 0.5 and last["knn"] <= first["knn"] < CEILING:
        said["knn"] = (
            f"R@1 of held-out rows is {last['knn']:.1%}, no more than the {first['knn']:.1%} "
            "before the first step: what is learned does not serve the classes. Compare the "
            "views and the other stream."
        )
    return said


def _of_the_task(late: list[dict], recipe: Any, done: float) -> dict[str, str]:
    said, last = {}, late[-1]
    if done >= 0.2 and last["accuracy"] < 0.1:
        said["accuracy"] = (
            f"Contrastive accuracy on held-out rows is {last['accuracy']:.1%} after {done:.0%} "
            "of the epochs. 4 to 5 % was the sign of a broken InfoNCE in the released code's issue "
            "3. Check the views, the queue and the learning rate."
        )
    if recipe.positives != "mined":
        return said
    if late[0]["loss"] < 0.5 and recipe.drop_own_key == 0:
        said["loss"] = (
            f"The loss begins at {late[0]['loss']:.2f}: the own key alone satisfies it, so "
            "gradients are small (issue 43 of the released code). Set drop_own_key=0.9."
        )
    purity, chance = last.get("purity"), last.get("chance")
    if purity is not None and chance is not None:
        if purity < min(1.5 * chance, chance + 0.1 * (1 - chance)) and purity < CEILING:
            said["purity"] = (
                f"Purity is {purity:.1%} and chance {chance:.1%}: the teacher mines at random. "
                "Train it longer, or check that its run is the right one."
            )
    return said


class _Part(Dataset):
    """This rank's share of all rows, in order."""

    def __init__(self, clips: Clips):
        self.clips, self.rows = clips, range(ranks.rank(), len(clips), ranks.world())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict:
        return self.clips[(0, self.rows[position])]
