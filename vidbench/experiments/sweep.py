"""Trials of a supervised recipe, the best by a held-out part of train; that one then trains on the
whole of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from vidbench.engine import ranks
from vidbench.engine.loop import Fit
from vidbench.engine.runs import Run, recipe_dict, recipe_from
from vidbench.methods.classify import Recipe
from vidbench.system.files import write_text


def sweep(
    recipe: Recipe,
    grid: dict[str, Sequence[float]],
    folder: str | Path,
    *,
    epochs: int = 0,
    nproc: int = 1,
    progress: str = "auto",
) -> dict:
    """Try every combination of some fields of the recipe's `fit`, and train the best one on the
    whole of train.

    grid: field -> values, such as {"lr": (0.1, 1.0), "weight_decay": (1e-4, 1e-3)} (README of the
    released code: 0.1 to 1.0, 1e-4 to 1e-1). A trial trains for `epochs` (0: the recipe's own;
    milestones shrink with them) and is scored by its last accuracy on the share `held_out` of
    train, ties by the loss; a trial whose loss is not finite scores 0. The test split is not looked
    at. Folders: <folder>/<field>-<value>-.../ and <folder>/best/; what is complete is not trained
    again. Returns {"trials": rows of a table, "best": {field: value}, "run": <folder>/best}, also
    in sweep.json. Raises ValueError without a held-out share, RunError on an unknown field, and
    what `train` raises."""
    if not recipe.held_out:
        raise ValueError(
            "a sweep chooses on a held-out part of train; give the recipe a share such as "
            "held_out=0.2."
        )
    folder, trial = Path(folder), partial(_trial, recipe, epochs=epochs)
    tried: list[tuple[dict[str, float], dict[str, float | None]]] = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        name = "-".join(f"{key}-{value}" for key, value in chosen.items())
        tried.append((chosen, _tried(trial(chosen), folder / name, nproc, progress)))
    best, _ = max(tried, key=lambda one: _order(one[1]))
    words = " x ".join(f"{name} of {', '.join(map(str, values))}" for name, values in grid.items())
    rule = f"{words} by the accuracy on {recipe.held_out:.0%} of train's sources; last epoch"
    final = replace(
        recipe,
        held_out=0.0,
        selection=rule,
        fit=recipe_from(Fit, {**recipe_dict(recipe.fit), **best}),
    )
    ranks.launch(
        "vidbench.methods.classify:train",
        recipe_dict(final),
        str(folder / "best"),
        progress,
        nproc=nproc,
    )
    trials = [{**chosen, **result} for chosen, result in tried]
    found = {"trials": trials, "best": best, "run": str(folder / "best")}
    write_text(folder / "sweep.json", json.dumps(found, indent=1))
    return found


def _order(result: dict[str, float | None]) -> tuple[float, float]:
    """The accuracy, then the smaller loss; a loss that was not finite is None."""
    accuracy, loss = result["accuracy"], result["loss"]
    return accuracy or 0.0, -float("inf") if loss is None else -loss


def _trial(recipe: Recipe, chosen: dict[str, float], *, epochs: int) -> Recipe:
    epochs = epochs or recipe.fit.epochs
    milestones = tuple(round(at * epochs / recipe.fit.epochs) for at in recipe.fit.milestones)
    values = {**recipe_dict(recipe.fit), "epochs": epochs, "milestones": milestones, **chosen}
    return replace(recipe, fit=recipe_from(Fit, values))


def _tried(recipe: Recipe, folder: Path, nproc: int, progress: str) -> dict[str, float | None]:
    """Accuracy and loss of one trial on the held-out rows, the loss None where it was not
    finite."""
    try:
        ranks.launch(
            "vidbench.methods.classify:train",
            recipe_dict(recipe),
            str(folder),
            progress,
            nproc=nproc,
        )
    except (FloatingPointError, ranks.RankError) as error:
        if "FloatingPointError" not in f"{type(error).__name__} {error}":
            raise
        return {"accuracy": 0.0, "loss": None}
    last = Run(folder).metrics("monitor")[-1]
    return {"accuracy": last["accuracy"], "loss": last["loss"]}
