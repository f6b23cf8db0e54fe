"""InfoNCE, UberNCE and CoCLR: one method with a choice of positives.

Source: Han, Xie, Zisserman, "Self-supervised Co-Training for Video Representation Learning"
(NeurIPS 2020), its supplement (tables 1 and 2, Algorithm 1) and the released code
(TengdaHan/CoCLR). The three methods differ only in which entries of [own key, queue] count as
positives (`Recipe.positives`):

    instance  the own key: the other view of the same clip (InfoNCE)
    class     the own key and every slot of the same label (UberNCE, the supervised oracle)
    mined     the own key and the `topk` slots nearest in the other stream (CoCLR)

The loss of a query is -log(sum over positives of exp s / sum over all of exp s), s = q . k / t (see
tensors.losses; UberNCE takes the mean outside the log). The key encoder is not trained; after each
step it follows: key <- m key + (1 - m) query.

`drop_own_key`, the siblings (clips of one source video) and the schedule differ between paper and
released code, so both are presets. Departures: `key_groups` shuffles the key encoder's global batch
and splits it into groups with batch-norm statistics each, like shuffle-BN on as many GPUs. Fewer
ranks share the groups; more ranks make more groups. Each stage starts from the previous stage's
last checkpoint, not from the best by training accuracy, which in a CoCLR stage falls before it
rises (issue 14 of the released code).

Example: one forward pass on four pairs of views.

>>> method = CoCLR(PRESETS["tiny"].alone)
>>> batch = {"rgb": torch.rand(4, 2, 3, 8, 32, 32), "label": torch.arange(4)}
>>> loss, numbers = method(batch | {"source_video": torch.arange(4)})
>>> loss.shape, method.queue.slots
(torch.Size([]), 64)
"""

import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from vidbench.data.loading.dataset import ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.engine.runs import Run, RunError
from vidbench.methods import common
from vidbench.methods.monitor import Monitor
from vidbench.methods.recipes.coclr import (  # noqa: F401
    OTHER,
    PRESETS,
    Preset,
    Recipe,
    fitted,
    fitted_words,
    graph,
    half_cycle,
)
from vidbench.system.errors import InputError
from vidbench.system.progress import Style
from vidbench.tensors.bank import FeatureQueue, masked_topk
from vidbench.tensors.losses import multi_positive_nce, nce_logits
from vidbench.tensors.metrics import purity, topk_hit


@dataclass(frozen=True)
class LoadedWeights:
    """The weights that a stage loaded from another run; as text, a sentence."""

    part: str  # student or teacher
    run: str
    stream: str
    epochs: float
    step: int
    tensors: int

    def __str__(self) -> str:
        taken = f"{self.run} ({self.stream}, its last checkpoint, epoch {self.epochs:g}, step {self.step})"
        whole = f"all {self.tensors} tensors of query encoder and head"
        if self.part == "teacher":
            return f"teacher, frozen, in eval mode: {whole} of {taken}"
        return f"student: {whole} of {taken}, into query and key alike; queue, optimizer and rate start fresh"


class CoCLR(nn.Module):
    """Query and key encoders with heads, the queue and, for CoCLR, a frozen teacher."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe, self.groups = recipe, groups_of_rank(recipe)
        self.encoder = recipe.build_backbone()
        self.head = projection(self.encoder.out_channels, recipe.dim)
        self.key_encoder, self.key_head = _frozen_copy(self.encoder), _frozen_copy(self.head)
        mines = recipe.positives == "mined"
        self.teacher = _frozen_copy(nn.Sequential(self.encoder, self.head)) if mines else None
        self.queue = FeatureQueue(recipe.queue, recipe.dim, other_dim=recipe.dim if mines else 0)

    @property
    def ready(self) -> bool:
        """Whether optimizer steps may start; with `fill_first`, only once the queue is full."""
        return self.queue.full or not self.recipe.fill_first

    def encoders(self) -> list[nn.Module]:
        """List the networks that `Fit.compile` compiles."""
        teachers = [] if self.teacher is None else [self.teacher[0]]
        return [self.encoder, self.key_encoder, *teachers]

    def train(self, mode: bool = True) -> "CoCLR":
        """Set the mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
        """Compute the loss of a batch of view pairs and, in training, enqueue its keys.

        Args:
            batch: {stream: [B,2,C,T,H,W] for each stream in use, label: [B], source_video: [B]}.

        Returns:
            The loss [], and the numbers accuracy and, with a teacher, purity.
        """
        recipe, views = self.recipe, batch[self.recipe.stream]
        query = embed(self.encoder, self.head, views[:, 0])
        with torch.no_grad():
            key = self._keys(views[:, 1])
            other = None
            if self.teacher is not None:
                encoder, head = self.teacher
                other = embed(encoder, head, batch[OTHER[recipe.stream]][:, 1])
            positives, ignored, mined = self._masks(batch, other)
        logits = nce_logits(query, key, self.queue.features.clone(), recipe.temperature)
        form = "outside" if recipe.positives == "class" else "inside"
        loss = multi_positive_nce(logits, self._drop_own_key(positives), form, ignored).mean()
        ranked = (
            logits.detach() if ignored is None else logits.detach().masked_fill(ignored, -torch.inf)
        )
        # here the own key counts as a positive, dropped or not
        numbers = {"accuracy": topk_hit(ranked, positives).float().mean()}
        if mined is not None:
            numbers["purity"] = purity(mined, self.queue.label, batch["label"])
        if self.training:
            self.queue.enqueue(
                ranks.gather(key),
                ranks.gather(batch["label"]),
                ranks.gather(batch["source_video"]),
                None if other is None else ranks.gather(other),
            )
        return loss, numbers

    def _masks(
        self, batch: dict, other: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Positives [B,1+K], ignored [B,1+K] or None, mined slots [B,K] or None."""
        recipe, queue = self.recipe, self.queue
        siblings = batch["source_video"][:, None] == queue.source_video[None, :]
        mined = None
        near = torch.zeros_like(siblings)
        if recipe.positives == "class":
            near = (batch["label"][:, None] == queue.label[None, :]) & (batch["label"] >= 0)[
                :, None
            ]
        elif other is not None and queue.other is not None:  # "mined"
            barred = (queue.source_video < 0).expand_as(siblings)
            # siblings take none of the k places, whatever `siblings` says (model/pretrain.py)
            if not recipe.mine_siblings:
                barred = barred | siblings
            # in half precision, near neighbors would tie
            with torch.autocast(other.device.type, enabled=False):
                near = mined = masked_topk(other @ queue.other.T, recipe.topk, barred)
        if recipe.siblings == "positive":
            near = near | siblings
        ignored = None
        if recipe.siblings == "ignore":
            near, ignored = near & ~siblings, F.pad(siblings, (1, 0))
        return F.pad(near, (1, 0), value=True), ignored, mined

    def _drop_own_key(self, positives: Tensor) -> Tensor:
        """Remove the own key from rows with another positive, by one coin for the global batch.

        The coin is the same on each rank.
        """
        coin = torch.Generator().manual_seed(self.queue.enqueued)
        if not self.training or float(torch.rand((), generator=coin)) >= self.recipe.drop_own_key:
            return positives
        positives = positives.clone()
        positives[:, 0] = ~positives[:, 1:].any(dim=1)
        return positives

    def _keys(self, clips: Tensor) -> Tensor:
        """Keys [B,dim], in training of shuffled clips of all ranks.

        The batch-norm groups of the keys are then not those of the queries.
        """
        # In evaluation statistics are fixed, and the number and size of batches may differ by rank
        if not self.training:
            return embed(self.key_encoder, self.key_head, clips)
        rows = clips.shape[0]
        generator = torch.Generator().manual_seed(self.queue.enqueued)  # the same on each rank
        order = torch.randperm(rows * ranks.world(), generator=generator)
        groups = ranks.permuted(_halved(clips), order).chunk(self.groups)
        shuffled = ranks.gather(
            torch.cat([embed(self.key_encoder, self.key_head, group) for group in groups])
        )
        back = torch.empty_like(shuffled)
        back[order.to(clips.device, non_blocking=True)] = shuffled
        return back[ranks.rank() * rows : (ranks.rank() + 1) * rows]

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the key encoder's parameters by momentum, but not its batch-norm statistics."""
        update = get_ema_multi_avg_fn(self.recipe.momentum)
        for key, query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            update(list(key.parameters()), list(query.parameters()), None)

    def load_student_and_teacher(
        self, student: Run | None, teacher: Run | None
    ) -> list[LoadedWeights]:
        """Load the student's query encoder into both encoders, the teacher's into the frozen miner.

        Args:
            student, teacher: Complete runs, of which the last checkpoint is read; no student starts
                from random weights. Queue and optimizer start fresh.

        Raises:
            RunError: A run is missing, not complete, of the wrong stream or of another network.
        """
        report = []
        if student:
            for pair in ((self.encoder, self.head), (self.key_encoder, self.key_head)):
                taken = load_embedding(student, "student", self.recipe.stream, *pair)
            report.append(taken)
        if self.teacher is not None:
            if teacher is None:
                raise RunError(
                    "CoCLR (positives 'mined') needs a teacher: a run of the other stream."
                )
            report.append(
                load_embedding(teacher, "teacher", OTHER[self.recipe.stream], *self.teacher)
            )
        return report


def projection(width: int, dim: int) -> nn.Sequential:
    """Build the projection head: two layers with bias and no batch norm (supplement, table 1).

    Args:
        width: Features in, D.
        dim: Features out.
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def embed(encoder: nn.Module, head: nn.Module, clips: Tensor) -> Tensor:
    """Compute unit rows [B,dim]: feature map, global average, head, normalization.

    Args:
        clips: [B,C,T,H,W].
    """
    return F.normalize(head(encoder(clips).mean(dim=(2, 3, 4))).float(), dim=1)


def _halved(clips: Tensor) -> Tensor:
    """Clips in autocast's 16 bits, in which the encoder would read them: half the bytes to move."""
    kind = clips.device.type
    if ranks.world() == 1 or not torch.is_autocast_enabled(kind):
        return clips
    return clips.to(torch.get_autocast_dtype(kind))


def load_embedding(
    run: Run, part: str, stream: str, encoder: nn.Module, head: nn.Module
) -> LoadedWeights:
    """Load a complete run's query encoder and head.

    Args:
        part: "student" or "teacher", for messages.
        stream: The stream that the run must have.
        encoder, head: The modules to load into.

    Raises:
        RunError: The run is of another method, stream or network, or is not complete.
    """
    if run.method != "coclr":
        raise RunError(
            f"{run.folder} is a run of {run.method}, which has no projection head; the {part} of a "
            "CoCLR stage is a run of coclr."
        )
    if run.recipe.stream != stream:
        raise RunError(
            f"{run.folder} was trained on {run.recipe.stream}; the {part} must be one on {stream}."
        )
    if run.state != "complete":
        raise RunError(
            f"{run.folder} is {run.state}, not complete, and cannot be the {part} yet. "
            "Resume it by the call that started it."
        )
    run.load_into(encoder, "encoder.")
    run.load_into(head, "head.")
    last = (run.metrics() or [{"epoch": 0, "step": 0}])[-1]
    tensors = len(encoder.state_dict()) + len(head.state_dict())
    return LoadedWeights(
        part, run.folder.name, stream, round(last["epoch"], 2), last["step"], tensors
    )


Module = TypeVar("Module", bound=nn.Module)


def _frozen_copy(module: Module) -> Module:
    return copy.deepcopy(module).requires_grad_(False)


def train(recipe: dict, folder: str, progress: Style = "auto", threads: int = 0) -> str:
    """Train one stage into a run directory, or resume there. Returns the directory.

    Args:
        recipe: A Recipe in JSON's values (runs.recipe_dict), so that it can be sent to processes.
        folder: The run directory.
        threads: Of this process; 0 leaves torch's choice.

    Raises:
        RunError: The directory holds another recipe or other rows, or a student or teacher does not
            fit.
        VideoError: A clip cannot be read.
    """
    own = common.read_recipe(Recipe, recipe, threads)
    rows, held = parts(own)
    if own.positives == "class":
        rows.need_labels("UberNCE (positives='class')")
    check_budget(own, len(rows))

    def start(method: CoCLR) -> list[LoadedWeights]:
        return method.load_student_and_teacher(
            *(Run(path) if path else None for path in (own.student, own.teacher))
        )

    def watch(method: CoCLR, run: Run) -> Monitor | None:
        if held is None:
            return None
        return Monitor(method, rows, held, _spec(own), run, own.flow or None)

    return common.train(
        own,
        folder,
        {"train": rows, "held_out": held},
        CoCLR,
        loader(own),
        start=start,
        notes=[effort(own, len(rows)), *warnings_of(own, len(rows))],
        watch=watch,
        progress=progress,
    )


def effort(recipe: Recipe, rows: int) -> str:
    """Say in one line what a stage takes: effective batch, iterations, epochs, clips.

    Args:
        rows: How many rows are trained on.
    """
    line = common.budget_line(recipe.fit, rows, rows // recipe.fit.batch)
    count = max(recipe.key_groups, ranks.world())
    fills = "fill the queue without a step"
    if not recipe.fill_first:
        fills = "are trained against random features, too"
    return (
        f"{line}, of which the first {recipe.queue:,} {fills}; keys are "
        f"normalized in {count} {'group' if count == 1 else 'groups'} of "
        f"{recipe.fit.batch // recipe.fit.accumulate // count}"
    )


def groups_of_rank(recipe: Recipe) -> int:
    """Count the groups of a rank's keys that have batch-norm statistics each.

    Raises:
        ValueError: The ranks cannot share the recipe's groups, or a group is not whole clips.
    """
    world, fit = ranks.world(), recipe.fit
    count = max(1, recipe.key_groups // world)
    clips = fit.batch // fit.accumulate // world
    if max(world, recipe.key_groups) % min(world, recipe.key_groups) or clips % count:
        raise ValueError(
            f"recipe of coclr: {world} ranks with {clips} clips each must share key_groups = "
            f"{recipe.key_groups} evenly. Use another number of ranks, or key_groups = {world}."
        )
    return count


def check_budget(recipe: Recipe, rows: int) -> None:
    """Refuse a recipe whose training ends before the queue is full: it would take no step.

    Args:
        rows: How many rows are trained on.

    Raises:
        InputError: The iterations on so many rows do not fill the queue.
    """
    fit = recipe.fit
    clips = rows // fit.batch * fit.batch
    if recipe.fill_first and 0 < clips * fit.epochs < recipe.queue:
        raise InputError(
            f"recipe of coclr: {fit.epochs} epochs of {clips} clips must fill the queue of "
            f"{recipe.queue} slots before the first optimizer step; got {fit.epochs * clips} clips. "
            f"Train at least {-(-recipe.queue // clips) + 1} epochs, or shrink the queue to "
            f"{clips} slots or fewer."
        )


def warnings_of(recipe: Recipe, rows: int) -> list[str]:
    """List sentences about what in a recipe cannot work well.

    Args:
        rows: How many rows are trained on.
    """
    if recipe.queue <= rows or recipe.siblings != "negative" or recipe.positives == "class":
        return []
    return [
        f"warning: the queue's {recipe.queue} slots exceed the {rows} training videos, so a clip's "
        "own older views are among its negatives. Shrink the queue, or set siblings='ignore'."
    ]


def parts(recipe: Recipe) -> tuple[Manifest, Manifest | None]:
    """Return the rows to train on, and the rows of train that are held out and watched, or None."""
    return common.training_rows(recipe.manifest, recipe.held_out)


def _spec(recipe: Recipe) -> ClipSpec:
    return replace(
        recipe.clip, streams=("rgb", "flow") if recipe.positives == "mined" else (recipe.stream,)
    )


def loader(recipe: Recipe) -> DataLoader:
    """Return this rank's loader of the recipe's training batches."""
    rows, _ = parts(recipe)
    clips = common.clips_of(rows, _spec(recipe), recipe.flow, recipe.fit, cache=1 << 30)
    return common.loader(clips, recipe.fit)
