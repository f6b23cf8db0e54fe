"""Small importable stages for the engine's tests: ranks are spawned, so they cannot live in a test
function."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vidbench.data.loading.dataset import Batches
from vidbench.data.loading.transforms import training_worker
from vidbench.engine import ranks
from vidbench.engine.loop import Fit, fit
from vidbench.engine.runs import Run, recipe_from


class Points(Dataset):
    """Row i is a fixed random point, shifted by noise that follows from (epoch, row) alone, as
    clips' views do."""

    def __init__(self, poison: int = -1):
        self.x = torch.randn(48, 6, generator=torch.Generator().manual_seed(7))
        self.poison = poison

    def __getitem__(self, key):
        epoch, row = key
        noise = torch.randn(6, generator=torch.Generator().manual_seed(1000 * epoch + row))
        x = self.x[row] + 0.1 * noise + (float("nan") if row == self.poison else 0)
        return {"x": x, "row": row, "y": self.x[row].sum()}


class Regression(nn.Module):
    """A net with dropout (so that random state matters) but no batch norm (so that the number of
    ranks does not)."""

    def __init__(self, dropout: float):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1)
        )
        self.pause = 0.0

    def forward(self, batch):
        time.sleep(self.pause)
        return (self.encoder(batch["x"]).squeeze(1) - batch["y"]).square().mean(), {}


class Torn(Regression):
    """The last rank raises, is killed or hangs in its tenth step, once: where the file `mark` is
    there it resumes."""

    def __init__(self, dropout: float, mark: str, how: str):
        super().__init__(dropout)
        self.mark, self.how, self.seen = Path(mark), how, 0

    def forward(self, batch):
        self.seen += 1
        if ranks.rank() == ranks.world() - 1 and self.seen == 10 and not self.mark.exists():
            self.mark.touch()
            fails(self.how)
        return super().forward(batch)


def fails(how: str):
    """raises, killed (as for want of memory) or hangs."""
    if how == "raises":
        raise RuntimeError("the clip on shelf 42 is torn")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def regress(
    recipe: dict,
    folder: str,
    dropout: float = 0.0,
    poison: int = -1,
    pause: float = 0.0,
    torn: tuple = (),
    progress: str = "none",
):
    """A whole stage, as the methods' `train` functions are."""
    recipe = recipe_from(Fit, recipe)
    return regress_as("regress", recipe, recipe, folder, dropout, poison, pause, torn, progress)


def regress_as(
    stage: str,
    held,
    recipe: Fit,
    folder: str,
    dropout: float = 0.0,
    poison: int = -1,
    pause: float = 0.0,
    torn: tuple = (),
    progress: str = "none",
):
    """The same under another stage's name and with the recipe `held` in its run folder."""
    run = Run.create(folder, stage, held) if ranks.rank() == 0 else None
    ranks.barrier()
    run = run or Run(folder)
    torch.manual_seed(recipe.seed)
    method = Torn(dropout, *torn) if torn else Regression(dropout)
    method.pause = pause
    batches = Batches(48, recipe.batch, seed=recipe.seed, rank=ranks.rank(), world=ranks.world())
    workers = recipe.workers
    loader = DataLoader(
        Points(poison),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=training_worker,
        multiprocessing_context="spawn" if workers else None,
    )
    fit(method, loader, recipe, run, progress)
    return folder


def says_and_trains(word: str, runs: list[tuple[dict, str, float]]):
    """`says`, then a training for each (recipe, folder, dropout)."""
    words_of = says(word)
    for recipe, folder, dropout in runs:
        regress(recipe, folder, dropout)
    return words_of


def fails_on_rank_1(how: str):
    """Rank 1 fails while rank 0 waits for it."""
    if ranks.rank() == 1:
        fails(how)
    ranks.barrier()


def says(word: str):
    """Each rank prints; rank 0 returns."""
    print(f"{word} from {ranks.rank()} of {ranks.world()}", flush=True)
    return int(ranks.gather(torch.tensor([ranks.rank()])).sum())
