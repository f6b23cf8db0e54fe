"""What MultiTrain's maps learned: read-outs, pairs of classes, planted pairs found.

Facts: the released code's maps act on raw scores, and their supplement's table 4 lists the largest
weights of each. Raw weights mislead, since adding a number to all weights of a source class leaves
the loss as it is, and a class whose scores spread little needs large weights. So four read-outs
are shown side by side; none is a promise of meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import comb

import numpy as np
import torch

from vidbench.engine.runs import Run, RunError
from vidbench.evaluate.features import Features, Protocol
from vidbench.methods.common import load_head

READOUTS = ("raw", "centered", "scaled", "behavioral")
WORDS = {
    "raw": "the weights as learned (table 4's)",
    "centered": "less the mean over targets of each source class",
    "scaled": "centered, times the deviation of the source score on clips",
    "behavioral": "no weights: the other head's mean probability over a class's clips",
}
READ = Protocol(windows=4, normalize_clips=False)  # of features that read-outs are made of


@dataclass(frozen=True)
class Relation:
    """What one data set's classes are to another's: source and target, their class names, and a
    table [C_s,C_t] a read-out; `raw`, `centered` and `scaled` are missing where the run has no
    maps."""

    source: str
    target: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    scores: Mapping[str, np.ndarray]


def relations(run: Run, tables: Mapping[str, Features]) -> dict[tuple[str, str], Relation]:
    """Compute the relation of each ordered pair of a joint run's data sets, by (source, target).

    Args:
        tables: Data set -> features of its labeled videos, on which scores are computed, made
            without unit length (a protocol with normalize_clips False). The caller chooses the
            videos. A class without videos has NaN as `behavioral`.

    Raises:
        RunError: the run is of one data set.
        ValueError: a table is missing, was made of unit rows, or has other classes than the head.
    """
    recipe = run.recipe
    classes = {one.name: one.classes for one in recipe.data_sets() if one.name}
    names = list(classes)
    if len(names) < 2:
        raise RunError(
            f"{run.folder} was trained on {len(names) or 'no'} named data sets; relations want "
            "two or more."
        )
    for name in names:
        table = tables.get(name)
        if (
            table is None
            or table.classes != classes[name]
            or table.protocol.get("normalize_clips", True)
        ):
            raise ValueError(
                f"relations needs, of {name}, features of that data set's classes without unit length; got "
                f"{'none' if table is None else table.protocol}. Extract them with "
                "normalize_clips=False."
            )
    scores = {(head, data): scored(run, head, tables[data]) for head in names for data in names}
    state = run.weights()
    found = {}
    for source, target in permutations(names, 2):
        weight = state.get(recipe.map_name(source, target))
        made = {} if weight is None else of_weights(weight.numpy().T, scores[source, source])
        made["behavioral"] = behavior(
            scores[target, source], tables[source].label, len(classes[source])
        )
        found[source, target] = Relation(source, target, classes[source], classes[target], made)
    return found


@torch.no_grad()
def scored(run: Run, head: str, table: Features) -> np.ndarray:
    """Compute a head's scores of features: float32 [N,C].

    They are of the mean feature of a video's clips, not clip by clip.

    Args:
        head: Its data set's name.
        table: Features [N,D].
    """
    return load_head(run, table.values.shape[1], head)(torch.from_numpy(table.values)).numpy()


def of_weights(weight: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the three read-outs of a map: raw, centered, scaled, each [C_s,C_t].

    `centered` is what the softmax sees of a source class alone. `scaled` is how much the target's
    scores move when the source's score moves by its standard deviation.

    Args:
        weight: [C_s,C_t].
        scores: The source head's scores [N,C_s] on clips of that head's data set.
    """
    weight = np.asarray(weight, np.float32)
    centered = weight - weight.mean(axis=1, keepdims=True)
    return {"raw": weight, "centered": centered, "scaled": centered * scores.std(axis=0)[:, None]}


def behavior(scores: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Compute S(a->b), the target head's mean probability of b over clips of a: float32 [C_s,C_t].

    After Uijlings et al. 2022. A class without videos has NaN.

    Args:
        scores: Of the target head on the source's videos [N,C_t].
        label: [N].
        classes: C_s.
    """
    chances = torch.from_numpy(scores).softmax(dim=1).numpy()
    made = np.full((classes, scores.shape[1]), np.nan, np.float32)
    for number in np.unique(label[label >= 0]):
        made[number] = chances[label == number].mean(axis=0)
    return made


def pairs(there: Relation, back: Relation, readout: str = "raw", most: int = 5) -> list[dict]:
    """List the largest scores of a read-out from source to target.

    The form is that of the supplement's table 4.

    Args:
        there: From source to target.
        back: From target to source.
        readout: raw, centered, scaled or behavioral.
        most: The number of rows.

    Returns:
        Rows of "rank", source's name: class, target's name: class, "score", "back" (the score from
            target to source), "back rank" (of the source class among all for this target class),
            "mutual" (each is the other's best), and the other read-outs' scores by name.

    Raises:
        ValueError: the run has no such read-out.
    """
    if readout not in there.scores:
        raise ValueError(f"this run has the read-outs {', '.join(there.scores)}; got {readout!r}.")
    forward, reverse = there.scores[readout], back.scores[readout]
    # [C_t,C_s]
    ranks = 1 + (-reverse).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    best = mutual(forward, reverse)
    order = np.argsort(-np.nan_to_num(forward, nan=-np.inf), axis=None, kind="stable")[:most]
    rows = []
    for place, (a, b) in enumerate(zip(*np.unravel_index(order, forward.shape), strict=True), 1):
        others = {
            name: float(table[a, b]) for name, table in there.scores.items() if name != readout
        }
        rows.append(
            {
                "rank": place,
                there.source: there.sources[a],
                there.target: there.targets[b],
                "score": float(forward[a, b]),
                "back": float(reverse[b, a]),
                "back rank": int(ranks[b, a]),
                "mutual": "yes" if best[a, b] else "",
                **others,
            }
        )
    return rows


def mutual(forward: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    """Return where source and target class are each other's best: bool [C_s,C_t]; NaN never is.

    Args:
        forward: [C_s,C_t].
        reverse: [C_t,C_s].
    """
    known = np.isfinite(forward) & np.isfinite(reverse).T
    forward, reverse = (np.nan_to_num(table, nan=-np.inf) for table in (forward, reverse))
    best = forward == forward.max(axis=1, keepdims=True)
    return known & best & (reverse == reverse.max(axis=1, keepdims=True)).T


# ---- planted pairs -----------------------------------------------------------------------------


def truth(
    rows: Sequence[Mapping[str, str]], relation: Relation, worlds: Mapping[str, str]
) -> np.ndarray:
    """Return which target classes match each source class: bool [C_s,C_t].

    Args:
        rows: Of a toy world's correspondence.csv.
        worlds: Data set -> its toy world.
    """
    made = np.zeros((len(relation.sources), len(relation.targets)), bool)
    for row in rows:
        if (row["world"], row["other_world"]) == (worlds[relation.source], worlds[relation.target]):
            for match in filter(None, row["matches"].split(";")):
                made[relation.sources.index(row["class"]), relation.targets.index(match)] = True
    return made


def recovered(scores: np.ndarray, matches: np.ndarray) -> dict[str, np.ndarray]:
    """Measure how well scores rank the match of each source class that has one.

    A tie counts as lost; a row of NaN counts as chance.

    Args:
        scores: [C_s,C_t].
        matches: bool [C_s,C_t].

    Returns:
        float [n] each: "top-1" (whether the largest score is a match), "reciprocal rank" (one over
            the rank of the first match), and what guessing gives, "top-1 by chance" and so on.
    """
    queries = np.flatnonzero(matches.any(axis=1))
    count, right = matches.shape[1], matches[queries].sum(axis=1)
    guess = {
        "top-1": right / count,
        "reciprocal rank": np.array([_reciprocal(int(m), count) for m in right]),
    }
    best = np.where(matches, scores, -np.inf).max(axis=1)[queries]
    rank = 1.0 + (np.where(matches, -np.inf, scores)[queries] >= best[:, None]).sum(axis=1)
    known = np.isfinite(scores[queries]).all(axis=1)
    found = {
        "top-1": np.where(known, rank == 1, guess["top-1"]),
        "reciprocal rank": np.where(known, 1 / rank, guess["reciprocal rank"]),
    }
    return {**found, **{f"{name} by chance": value for name, value in guess.items()}}


def recovered_both_ways(
    found: Mapping[tuple[str, str], Relation], matches: Mapping[tuple[str, str], np.ndarray]
) -> dict:
    """Apply `recovered` to each pair of data sets with known matches, per read-out and side.

    Args:
        found: (source, target) -> relation.
        matches: (source, target) -> bool [C_s,C_t].

    Returns:
        (read-out, side) -> the arrays of `recovered`, all pairs concatenated. Side "source" ranks
        target classes of a source class, which no centering or scaling by source class changes;
        "target" ranks source classes of a target class, which both change.
    """
    held: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for pair, true in matches.items():
        for readout, scores in found[pair].scores.items():
            held.setdefault((readout, "source"), []).append(recovered(scores, true))
            held.setdefault((readout, "target"), []).append(recovered(scores.T, true.T))
    return {
        key: {name: np.concatenate([one[name] for one in each]) for name in each[0]}
        for key, each in held.items()
    }


def _reciprocal(matches: int, count: int) -> float:
    """The mean of one over the first match's rank, in a random order of `count` with so many
    matches."""
    return sum(
        comb(count - rank, matches - 1) / rank for rank in range(1, count - matches + 2)
    ) / comb(count, matches)
