"""InfoNCE, UberNCE, CoCLR: one method, a choice of positives.

Source: Han, Xie, Zisserman, "Self-supervised Co-Training for Video Representation Learning" (NeurIPS 2020), its
supplement (tables 1 and 2, Algorithm 1) and the released code (TengdaHan/CoCLR). The three methods differ only in which
entries of [own key, queue] count as positives:

    self   the own key: the other view of the same clip (InfoNCE)
    label  every entry of the same label (UberNCE, the supervised oracle)
    near   the own key and the `topk` queue slots nearest in the other stream (CoCLR)

Departures, each a field of the recipe: siblings (clips of one source) in the queue are negatives by default, as for
InfoNCE in the released code, which makes them positives for CoCLR (the paper's Algorithm 1 has no such rule);
`self_drop` is 0 in the paper and 0.9 in the code since October 2021. `key_groups` splits the key encoder's batch,
shuffled, into groups that normalise apart: with one process the stand-in for shuffle-BN. With several ranks the keys
are shuffled over them, but batch-norm statistics are those of a rank's part of the batch, so the number of ranks is
then no mere fact of the launch.
"""

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from vidbench import models
from vidbench.data.loading import HANG, Batches, Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.views import SETTINGS as AUGMENTS
from vidbench.data.views import training_worker
from vidbench.engine import ranks
from vidbench.engine.loop import Fit, fit
from vidbench.engine.runs import Run, RunError, recipe_from
from vidbench.tensors.bank import FeatureQueue, masked_topk
from vidbench.tensors.losses import multi_positive_nce, nce_logits
from vidbench.tensors.metrics import purity, topk_hit

OTHER = {"rgb": "flow", "flow": "rgb"}
POSITIVES = ("self", "label", "near")
SIBLINGS = ("positive", "ignore", "negative")


@dataclass(frozen=True)
class Recipe:
    """One stage of CoCLR. Paths name what it reads: a manifest, a flow store, the runs it starts from."""

    stream: str = "rgb"
    positives: str = "self"  # self, label or near
    siblings: str = "negative"  # positive, ignore or negative
    topk: int = 5  # CoCLR table 1
    self_drop: float = 0.0  # 0 in the paper, 0.9 in the released code
    queue: int = 2048  # 2,048 on UCF101, 16,384 on Kinetics-400 (supplement)
    dim: int = 128
    momentum: float = 0.999
    temperature: float = 0.07
    key_groups: int = 1
    network: str = "s3d"
    network_args: dict = field(default_factory=dict)
    clip: ClipSpec = ClipSpec(frames=32, stride=1, views=2, augment=AUGMENTS["vidbench"])
    fit: Fit = Fit(epochs=300, batch=32, schedule="milestones", milestones=(250, 280))
    manifest: str = ""
    flow: str = ""
    student: str = ""  # the run whose encoder starts this one
    teacher: str = ""  # the run of the other stream that mines


_SMALL = {"width": 0.25, "units": (2, 2, 0)}
SETTINGS = {
    # Tests and notebooks as opened: seconds on a CPU, learns next to nothing.
    "tiny": Recipe(queue=64, momentum=0.99, dim=32, network_args={"width": 0.125, "units": (1, 1, 0)},
                   clip=ClipSpec(frames=8, stride=2, views=2, augment=AUGMENTS["toy"]),
                   fit=Fit(epochs=2, batch=16, schedule="cosine", log_every=13)),
    # The toy world `small`: about a minute a stage on one core.
    "toy": Recipe(queue=256, momentum=0.99, key_groups=2, network_args=_SMALL,
                  clip=ClipSpec(frames=8, stride=3, views=2, augment=AUGMENTS["toy"]),
                  fit=Fit(epochs=20, batch=32, log_every=11, schedule="cosine")),
    # UCF101 split 1, 9,537 videos; 4 GPUs of 32 clips in the paper (supplement; README of the released code).
    "ucf101": Recipe(fit=Fit(epochs=300, batch=128, schedule="milestones", milestones=(250, 280), workers=12)),
    # A half-cycle on it: 100 epochs, the rate divided at 80 (README of the released code).
    "ucf101_together": Recipe(positives="near",
                              fit=Fit(epochs=100, batch=128, schedule="milestones", milestones=(80,), workers=12)),
}


class CoCLR(nn.Module):
    """Query and key encoders with heads, the queue and, for CoCLR, a frozen teacher of the other stream.

    forward: batch {stream: [B,2,C,T,H,W] for each stream in use, label [B], source [B]} -> (loss [], numbers).
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        if recipe.positives not in POSITIVES or recipe.siblings not in SIBLINGS:
            raise ValueError(f"CoCLR wants positives from {POSITIVES} and siblings from {SIBLINGS}; "
                             f"got {recipe.positives!r} and {recipe.siblings!r}.")
        if recipe.stream not in OTHER:
            raise ValueError(f"CoCLR: stream is rgb or flow; got {recipe.stream!r}.")
        self.recipe = recipe
        self.encoder = models.build(recipe.network, **recipe.network_args)
        self.head = projection(self.encoder.out_channels, recipe.dim)
        self.key_encoder, self.key_head = _frozen_copy(self.encoder), _frozen_copy(self.head)
        mines = recipe.positives == "near"
        self.teacher = _frozen_copy(nn.Sequential(self.encoder, self.head)) if mines else None
        self.queue = FeatureQueue(recipe.queue, recipe.dim, other_dim=recipe.dim if mines else 0)

    @property
    def ready(self) -> bool:
        """No optimiser step before the queue holds real features only (main_coclr.py)."""
        return self.queue.full

    def train(self, mode: bool = True) -> "CoCLR":
        """The teacher stays in eval mode whatever the student does."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
        recipe, views = self.recipe, batch[self.recipe.stream]
        query = embed(self.encoder, self.head, views[:, 0])
        with torch.no_grad():
            key = self._keys(views[:, 1])
            other = embed(*self.teacher, batch[OTHER[recipe.stream]][:, 1]) if self.teacher is not None else None
            positives, ignored, mined = self._masks(batch, other)
        logits = nce_logits(query, key, self.queue.features.clone(), recipe.temperature)
        form = "outside" if recipe.positives == "label" else "inside"
        loss = multi_positive_nce(logits, self._drop_self(positives), form, ignored).mean()
        seen = logits.detach() if ignored is None else logits.detach().masked_fill(ignored, -torch.inf)
        numbers = {"accuracy": topk_hit(seen, positives).float().mean()}  # the own key counts here, dropped or not
        if mined is not None:
            numbers["purity"] = purity(mined, self.queue.label, batch["label"])
        if self.training:
            self.queue.enqueue(ranks.gather(key), ranks.gather(batch["label"]), ranks.gather(batch["source"]),
                               None if other is None else ranks.gather(other))
        return loss, numbers

    def _masks(self, batch: dict, other: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Positives [B,1+K], ignored [B,1+K] or None, mined slots [B,K] or None."""
        recipe, queue = self.recipe, self.queue
        siblings = batch["source"][:, None] == queue.source[None, :]
        mined = None
        near = torch.zeros_like(siblings)
        if recipe.positives == "label":
            near = (batch["label"][:, None] == queue.label[None, :]) & (batch["label"] >= 0)[:, None]
        elif recipe.positives == "near":
            # Siblings never take one of the k places, whatever their own policy (model/pretrain.py).
            unfilled = (queue.source < 0).expand_as(siblings)
            with torch.autocast(other.device.type, enabled=False):  # in half precision near ones would tie
                near = mined = masked_topk(other @ queue.other.T, recipe.topk, siblings | unfilled)
        if recipe.siblings == "positive":
            near = near | siblings
        ignored = None
        if recipe.siblings == "ignore":
            near, ignored = near & ~siblings, F.pad(siblings, (1, 0))
        return F.pad(near, (1, 0), value=True), ignored, mined

    def _drop_self(self, positives: Tensor) -> Tensor:
        """Take the own key out of rows with another positive; one coin for the global batch, the same on each rank."""
        coin = torch.Generator().manual_seed(int(self.queue.count))
        if not self.training or float(torch.rand((), generator=coin)) >= self.recipe.self_drop:
            return positives
        positives = positives.clone()
        positives[:, 0] = ~positives[:, 1:].any(dim=1)
        return positives

    def _keys(self, clips: Tensor) -> Tensor:
        """Keys [B,dim]; the clips of all ranks are shuffled first, so that no batch-norm group meets its queries."""
        rows = clips.shape[0]
        everything = ranks.gather(clips)
        generator = torch.Generator().manual_seed(int(self.queue.count))  # the same on each rank
        order = torch.randperm(len(everything), generator=generator).to(clips.device)
        part = everything[order[ranks.rank() * rows:(ranks.rank() + 1) * rows]]
        groups = part.chunk(self.recipe.key_groups if self.training else 1)
        shuffled = ranks.gather(torch.cat([embed(self.key_encoder, self.key_head, group) for group in groups]))
        back = torch.empty_like(shuffled)
        back[order] = shuffled
        return back[ranks.rank() * rows:(ranks.rank() + 1) * rows]

    @torch.no_grad()
    def after_step(self) -> None:
        """Momentum update of the key encoder's parameters; its batch-norm statistics are its own (section 3.1)."""
        update = get_ema_multi_avg_fn(self.recipe.momentum)
        for key, query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            update(list(key.parameters()), list(query.parameters()), None)

    def hand_over(self, student: Run | None, teacher: Run | None) -> list[str]:
        """Take the query encoder of `student` into both encoders, that of `teacher` as the frozen miner.

        Queues and optimisers are never handed over; the queue fills anew. Returns what was loaded, in plain words.
        """
        report = []
        if student:
            for pair in ((self.encoder, self.head), (self.key_encoder, self.key_head)):
                load_embedding(student, self.recipe.stream, *pair)
            report.append(f"encoder and head, query and key: from {student.folder.name}")
        if self.teacher is not None:
            if teacher is None:
                raise RunError("CoCLR (positives 'near') wants a teacher: a run of the other stream.")
            load_embedding(teacher, OTHER[self.recipe.stream], *self.teacher)
            report.append(f"teacher, frozen: from {teacher.folder.name}")
        return report


def projection(width: int, dim: int) -> nn.Sequential:
    """The projection head, two layers with bias and no batch norm (supplement, table 1): [B,D] -> [B,dim]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def embed(encoder: nn.Module, head: nn.Module, clips: Tensor) -> Tensor:
    """Clips [B,C,T,H,W] -> unit rows [B,dim]: feature map, global average, head."""
    return F.normalize(head(encoder(clips).mean(dim=(2, 3, 4))).float(), dim=1)


def load_embedding(run: Run, stream: str, encoder: nn.Module, head: nn.Module) -> None:
    """Load a run's query encoder and head. Raises RunError where stream or network are others."""
    if run.recipe["stream"] != stream:
        raise RunError(f"{run.folder} was trained on {run.recipe['stream']}; a run on {stream} is wanted here.")
    run.load_into(encoder, "encoder.")
    run.load_into(head, "head.")


def _frozen_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


def train(recipe: dict, folder: str, progress: str = "auto", threads: int = 0) -> str:
    """Run one stage into a run folder, or go on with it. Plain values in, so that ranks and processes can be handed it.

    recipe: JSON form of a Recipe (runs.recipe_dict). Returns the folder. Raises what fit raises, RunError for a folder
    of another recipe or hand-overs that do not fit, VideoError for a clip that cannot be read.
    """
    recipe = recipe_from(Recipe, recipe)
    if threads:
        torch.set_num_threads(threads)
    run = Run.create(folder, "coclr", recipe) if ranks.rank() == 0 else None
    ranks.barrier()
    run = run or Run(folder)
    torch.manual_seed(recipe.fit.seed)
    method = CoCLR(recipe)
    if run.checkpoint() is None:  # a resumed run holds all it needs, the teacher too
        student, teacher = (Run(path) if path else None for path in (recipe.student, recipe.teacher))
        for line in method.hand_over(student, teacher):
            if ranks.rank() == 0:
                print(f"{run.folder.name}: {line}", flush=True)
    fit(method, loader(recipe), recipe.fit, run, progress)
    return folder


def loader(recipe: Recipe) -> DataLoader:
    """This rank's batches of the recipe's training rows."""
    manifest = Manifest.load(recipe.manifest).select(split="train")
    streams = ("rgb", "flow") if recipe.positives == "near" else (recipe.stream,)
    spec = replace(recipe.clip, streams=streams)
    clips = Clips(manifest, spec, flow_folder=recipe.flow or None, seed=recipe.fit.seed,
                  cache_bytes=1 << 30 if recipe.fit.workers == 0 else 0)
    batches = Batches(len(manifest), recipe.fit.batch, seed=recipe.fit.seed, rank=ranks.rank(), world=ranks.world())
    workers = recipe.fit.workers
    return DataLoader(clips, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0,
                      worker_init_fn=training_worker, timeout=HANG if workers else 0,
                      multiprocessing_context="spawn" if workers else None,
                      pin_memory=ranks.device().type == "cuda")
