"""A method of your own: SimCLR (Chen et al. 2020), whose only positive is a clip's other view."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidbench.data.loading.augmentation import PRESETS as AUGMENTS
from vidbench.data.loading.dataset import ClipSpec
from vidbench.engine.loop import Fit
from vidbench.methods import common
from vidbench.models.heads import mlp


@dataclass(frozen=True)
class Recipe(common.Recipe, method="simclr"):
    """One training run: the fields of common.Recipe (stream, network, clip, fit) and these."""

    dim: int = 32
    temperature: float = 0.1
    clip: ClipSpec = ClipSpec(frames=8, stride=2, views=2, augment=AUGMENTS["toy"])
    manifest: str = ""
    flow: str = ""

    def data_sets(self) -> tuple[common.DataSet, ...]:
        """The videos of the manifest, of which this method uses no labels."""
        return (common.DataSet(self.manifest, self.flow, self.clip),)


PRESETS = {"toy": Recipe(network_args={"width": 0.25}, fit=Fit(epochs=40, batch=32))}


class SimCLR(nn.Module):
    """A backbone `encoder` and a projection head.

    forward: batch {stream: [B,2,C,T,H,W]} -> (loss [], numbers to log). On several ranks, B is a
    rank's part of the batch, and negatives are those of the part."""

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
    spec = replace(own.clip, streams=(own.stream,))
    batches = common.loader(common.clips_of(rows, spec, own.flow, own.fit), own.fit)
    return common.train(own, folder, {"train": rows}, SimCLR, batches, progress=progress)
