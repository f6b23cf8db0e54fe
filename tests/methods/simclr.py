"""SimCLR (Chen et al. 2020) as a fourth method: each clip's other view is its only positive, and the
rest of the batch are negatives."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidbench.data.loading.augmentation import PRESETS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.methods import common
from vidbench.models.heads import mlp


@dataclass(frozen=True)
class Recipe(common.Recipe, method="simclr"):
    """One training run."""

    dim: int = 32
    temperature: float = 0.1
    clip: ClipSpec = ClipSpec(frames=8, stride=2, views=2, augment=PRESETS["toy"])
    manifest: str = ""
    flow: str = ""

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """The videos of the manifest."""
        return (common.DataSet(self.manifest, self.flow, self.clip),)


class SimCLR(nn.Module):
    """A backbone and a projection head.

    forward: batch {stream: [B,2,C,T,H,W]} -> (loss [], numbers)."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe, self.encoder = recipe, recipe.build_backbone()
        width = self.encoder.out_channels
        self.head = mlp(width, width, recipe.dim)

    def forward(self, batch: dict) -> tuple[Tensor, dict]:
        views = batch[self.recipe.stream].transpose(0, 1).flatten(0, 1)  # [2B,C,T,H,W]
        rows = F.normalize(self.head(self.encoder(views).mean(dim=(2, 3, 4))), dim=1)
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        logits = (rows @ rows.T / self.recipe.temperature).masked_fill(own, -torch.inf)
        other = torch.arange(len(rows), device=rows.device).roll(len(rows) // 2)
        accuracy = (logits.argmax(dim=1) == other).float().mean()
        return F.cross_entropy(logits, other), {"accuracy": accuracy.detach()}


def train(recipe: dict, folder: str, progress: str = "auto", threads: int = 0) -> str:
    """Train into a run directory, or resume there. Returns the directory."""
    own = common.read_recipe(Recipe, recipe, threads)
    rows, _ = common.training_rows(own.manifest)
    clips = common.clips_of(rows, own.clip, own.flow, own.fit)
    batches = common.loader(clips, own.fit)
    return common.train(own, folder, {"train": rows}, SimCLR, batches, progress=progress)
