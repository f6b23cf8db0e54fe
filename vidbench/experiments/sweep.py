"""Try learning rates and other settings of a supervised recipe; train the best on all of train."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, recipe_dict, recipe_from
from vidbench.methods.classify import Recipe
from vidbench.system.files import write_text
from vidbench.system.progress import Style


@dataclass(frozen=True)
class Trial:
    """Some fields of `fit`, and their last numbers on held-out rows; loss is None if not finite."""

    chosen: dict[str, float]
    accuracy: float
    loss: float | None

    @property
    def row(self) -> dict[str, float | None]:
        """The trial as a row of a table."""
        return {**self.chosen, "accuracy": self.accuracy, "loss": self.loss}

    @property
    def order(self) -> tuple[float, float]:
        """Accuracy, then minus the loss: the best trial has the largest."""
        return self.accuracy, -float("inf") if self.loss is None else -self.loss


@dataclass(frozen=True)
class Swept:
    """All trials, the fields of the best one, and the run directory that was trained with them."""

    trials: tuple[Trial, ...]
    best: dict[str, float]
    run: str


def sweep(
    recipe: Recipe,
    grid: dict[str, Sequence[float]],
    folder: str | Path,
    *,
    epochs: int = 0,
    nproc: int = 1,
    progress: Style = "auto",
) -> Swept:
    """Try every combination of some fields of the recipe's `fit`; train the best on all of train.

    A trial's score is its last accuracy on the held-out share of train; ties are decided by the
    loss. A trial whose loss is not finite scores 0. The test split is not read. Complete trials are
    not trained again.

    Args:
        grid: Field -> values, such as {"lr": (0.1, 1.0), "weight_decay": (1e-4, 1e-3)} (README of
            the released code: 0.1 to 1.0, 1e-4 to 1e-1).
        folder: Gets <field>-<value>-.../ for each trial, best/ and sweep.json.
        epochs: Of a trial; 0 takes the recipe's. Milestones shrink with them.
        nproc: Processes of a training, as in ranks.launch.

    Raises:
        ValueError: The recipe has no held-out share.
        RunError: `grid` names an unknown field; and what `classify.train` raises.
    """
    if not recipe.held_out:
        raise ValueError(
            "a sweep chooses on a held-out part of train; give the recipe a share such as "
            "held_out=0.2."
        )
    folder, trials = Path(folder), []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        place = folder / "-".join(f"{key}-{value}" for key, value in chosen.items())
        trials.append(_tried(_shortened(recipe, chosen, epochs), chosen, place, nproc, progress))
    best = max(trials, key=lambda trial: trial.order).chosen
    words = " x ".join(f"{name} of {', '.join(map(str, values))}" for name, values in grid.items())
    rule = f"{words} by the accuracy on {recipe.held_out:.0%} of train's sources; last epoch"
    fit = recipe_from(Fit, {**recipe_dict(recipe.fit), **best})
    final = replace(recipe, held_out=0.0, selection=rule, fit=fit)
    _train(final, folder / "best", nproc, progress)
    found = Swept(tuple(trials), best, str(folder / "best"))
    record = {"trials": [one.row for one in trials], "best": best, "run": found.run}
    write_text(folder / "sweep.json", json.dumps(record, indent=1))
    return found


def _shortened(recipe: Recipe, chosen: dict[str, float], epochs: int) -> Recipe:
    """A trial's recipe."""
    epochs = epochs or recipe.fit.epochs
    milestones = tuple(round(at * epochs / recipe.fit.epochs) for at in recipe.fit.milestones)
    values = {**recipe_dict(recipe.fit), "epochs": epochs, "milestones": milestones, **chosen}
    return replace(recipe, fit=recipe_from(Fit, values))


def _tried(
    recipe: Recipe, chosen: dict[str, float], folder: Path, nproc: int, progress: Style
) -> Trial:
    """Train one trial and read its numbers on the held-out rows."""
    try:
        _train(recipe, folder, nproc, progress)
    except (FloatingPointError, ranks.RankError) as error:
        if "FloatingPointError" not in f"{type(error).__name__} {error}":
            raise
        return Trial(chosen, 0.0, None)
    last = Run(folder).metrics("monitor")[-1]
    return Trial(chosen, last["accuracy"] or 0.0, last["loss"])


def _train(recipe: Recipe, folder: Path, nproc: int, progress: Style) -> None:
    given = recipe_dict(recipe), str(folder), progress
    ranks.launch("vidbench.methods.classify:train", *given, nproc=nproc)
