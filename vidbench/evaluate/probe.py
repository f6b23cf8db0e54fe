"""Linear probes on features; top-1, two-stream fusion and confusions of class probabilities."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from vidbench.data.manifest import Manifest
from vidbench.engine import ranks
from vidbench.evaluate.confusions import check_labeled
from vidbench.evaluate.retrieval import refuse_shared, summary
from vidbench.evaluate.tables import Features, class_words
from vidbench.models.heads import build_head

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C of logistic regression, an inverse regularization


@dataclass(frozen=True)
class Released:
    """The probe of eval/feature_linear_probe.py in CoCLR's released code: SGD with momentum 0.9 on
    stored features.

    The script has rate 1.0 and decay 1e-3 and reports the best test accuracy of its epochs; its
    README says to tune 0.1 to 1.0 and 1e-4 to 1e-1 per data set. Here they are chosen on `held_out`
    of train's sources (that share is an assumption), where there is more than one of each to choose
    from, and the last epoch counts."""

    batch_norm: bool = True  # --final_bn of the README's command
    lrs: tuple[float, ...] = (0.1, 0.3, 1.0)
    decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    epochs: int = 100
    batch: int = 1024  # rows at most; the batches of an epoch differ by a row at most
    milestones: tuple[int, ...] = (60, 80)
    held_out: float = 0.2


@dataclass(frozen=True)
class Score:
    """What class probabilities come to against the labels."""

    table: Features  # the probabilities [N,classes], with labels and protocol
    right: np.ndarray  # the first guess, bool [N]
    top5: np.ndarray  # the first five guesses, bool [N]
    chosen: Mapping[str, float] = field(default_factory=dict)  # settings that a probe selected
    trials: Sequence[Mapping[str, float]] = ()  # all settings that it tried
    # top-1 and top-5 with intervals over sources, as far as they were computed
    numbers: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Top-1."""
        return float(self.right.mean())

    @property
    def probabilities(self) -> np.ndarray:
        """Class probabilities [N,classes]."""
        return self.table.values

    @property
    def protocol(self) -> dict:
        """What the numbers depend on."""
        return self.table.protocol


# ---- probes ------------------------------------------------------------------------------------


def logistic(train: Features, test: Features, seed: int = 0) -> Score:
    """Fit a standardized logistic regression (scikit-learn) on stored features, and test it once.

    Its regularization is chosen by cross-validation on train, with folds split by source video.
    `chosen` has C.

    Args:
        train, test: Tables of the same run and protocol.
        seed: Of the folds.

    Raises:
        ValueError: unlabeled rows, fewer than two classes or sources in train, or tables that do
            not belong together.
    """
    _check(train, test, "logistic")
    search, rule = _searched(train, seed)
    with threadpool_limits(1):
        known = search.predict_proba(test.values)
    values = np.zeros((len(test.label), len(test.classes)), np.float32)
    values[:, search.classes_] = known  # a class that train lacks is never predicted
    return _result(
        train,
        test,
        values,
        {"head": "logistic regression, standardized", "selection": rule},
        {"C": search.best_params_["logisticregression__C"]},
    )


@dataclass(frozen=True)
class Linear:
    """A fitted linear classifier: class probabilities are the softmax of values @ weight.T + bias.

    weight is float64 [L,D] and bias [L]; a class that train lacks has a bias of minus infinity."""

    weight: np.ndarray
    bias: np.ndarray
    facts: Mapping[str, float | str]  # C, and the rule by which it was selected

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """Features [N,D] -> class probabilities float32 [N,L]."""
        scores = torch.from_numpy(values.astype(np.float64) @ self.weight.T + self.bias)
        return scores.softmax(dim=1).float().numpy()


def linear(train: Features, seed: int = 0) -> Linear:
    """Fit the classifier of `logistic` on all rows of a table, to keep it.

    Args:
        seed: Of the folds.

    Raises:
        ValueError: unlabeled rows, or fewer than two classes or sources.
    """
    _check_train(train, "linear")
    search, rule = _searched(train, seed)
    scaler, model = (step for _, step in search.best_estimator_.steps)
    weight, bias = model.coef_, model.intercept_
    if len(search.classes_) == 2:  # scikit-learn has one row of scores, the second class's
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
    weight = weight / scaler.scale_
    whole = np.zeros((len(train.classes), weight.shape[1]))
    start = np.full(len(train.classes), -np.inf)
    whole[search.classes_], start[search.classes_] = weight, bias - weight @ scaler.mean_
    chosen = float(search.best_params_["logisticregression__C"])
    return Linear(whole, start, {"C": chosen, "selection": rule})


def _searched(train: Features, seed: int) -> tuple[Any, str]:
    """The fitted search for C of logistic regression (scikit-learn), and the rule in words."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    source_videos = len(np.unique(train.source_video))
    if source_videos < 2:
        raise ValueError(
            "logistic chooses by sources held out of train, and train has only one; name the "
            "sources."
        )
    parts = min(4, source_videos)
    folds = GroupKFold(parts, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(model, {"logisticregression__C": list(STRENGTHS)}, cv=folds)
    # matrices this small are 40 times slower where BLAS threads wait for each other
    with threadpool_limits(1):
        search.fit(train.values, train.label, groups=train.source_video)
    strengths = ", ".join(f"{c:g}" for c in STRENGTHS)
    return search, f"C of {strengths} by {parts}-fold cross-validation over train's sources"


def released(
    train: Features, test: Features, recipe: Released = Released(), seed: int = 0
) -> Score:
    """Fit the released code's linear classifier on stored features, and test it once.

    If `recipe` has several rates or decays, each pair is trained on train without its held-out
    sources and tested on these. The best (by accuracy there, then by loss) is fitted again on the
    whole of train. The same seed gives the same result. `chosen` has lr, weight_decay and the
    accuracy there, `trials` all of them.

    Args:
        train, test: Tables of the same run and protocol.
        recipe: Rates, decays, epochs; see `Released`.
        seed: Of the held-out sources and the order of batches.

    Raises:
        ValueError: see `logistic`.
    """
    _check(train, test, "released")
    grid = list(product(recipe.lrs, recipe.decays))
    trials: list[dict[str, float]] = []
    rule = f"rate {grid[0][0]:g}, decay {grid[0][1]:g}, fixed"
    best: dict[str, float] = {"lr": grid[0][0], "weight_decay": grid[0][1]}
    if len(grid) > 1:
        trials = _trials(train, recipe, seed)
        best = max(trials, key=_order)
        rates, decays = (", ".join(f"{one:g}" for one in of) for of in (recipe.lrs, recipe.decays))
        rule = (
            f"rate of {rates} x decay of {decays} by the accuracy on {recipe.held_out:.0%} of "
            "train's sources"
        )
    scores = _fitted(train, test.values, recipe, best["lr"], best["weight_decay"], seed)
    head = (
        f"{'batch norm, ' * recipe.batch_norm}linear; SGD, {recipe.epochs} epochs of batch "
        f"{recipe.batch}"
    )
    facts = {"head": head, "selection": f"{rule}; last epoch"}
    return _result(train, test, scores.softmax(1).numpy(), facts, best, trials)


def _trials(train: Features, recipe: Released, seed: int) -> list[dict[str, float]]:
    """Fit every rate and decay without the held-out sources, and score it on these."""
    held = held_out(train, recipe.held_out)
    label = torch.from_numpy(train.label[held])
    kept = replace(
        train,
        values=train.values[~held],
        label=train.label[~held],
        source_video=train.source_video[~held],
        video=None,
    )
    trials = []
    for lr, decay in product(recipe.lrs, recipe.decays):
        scores = _fitted(kept, train.values[held], recipe, lr, decay, seed)
        loss = float(F.cross_entropy(scores, label))
        accuracy = float((scores.argmax(1) == label).float().mean())
        trials.append({"lr": lr, "weight_decay": decay, "loss": loss, "accuracy": accuracy})
    return trials


def held_out(table: Features, share: float, seed: int = 0) -> np.ndarray:
    """Choose rows to hold out, bool [N]: whole source videos, of each class in proportion.

    Args:
        share: See Manifest.hold_out.
    """
    numbers = np.arange(len(table.label))
    split = np.zeros(len(numbers), np.int8)
    rows = Manifest(
        Path(), table.classes, numbers.astype(str), table.label, split, table.source_video
    )
    mask = np.zeros(len(numbers), bool)
    mask[rows.hold_out(share, seed)[1].path.astype(np.int64)] = True
    return mask


def _order(trial: dict) -> tuple[float, float]:
    return trial["accuracy"], -trial["loss"] if math.isfinite(trial["loss"]) else -math.inf


def _check(train: Features, test: Features, who: str) -> None:
    """Raise where a number would be meaningless."""
    _check_train(train, who)
    check_labeled(test, who)
    if train.classes != test.classes:
        raise ValueError(
            f"{who}: the classes differ, {class_words(train.classes)} in train and "
            f"{class_words(test.classes)} in test."
        )
    refuse_shared(train, test, "training table")
    if _how(train) != _how(test):
        raise ValueError(
            f"{who}: train and test features were made differently, {_how(train)} and "
            f"{_how(test)}; make both by one protocol."
        )


def _check_train(train: Features, who: str) -> None:
    check_labeled(train, who)
    if len(np.unique(train.label)) < 2:
        raise ValueError(f"{who} needs at least two classes among the training labels.")


def _how(table: Features) -> dict:
    return {name: value for name, value in table.protocol.items() if name != "rows"}


def _fitted(
    train: Features, test: np.ndarray, recipe: Released, lr: float, decay: float, seed: int
) -> torch.Tensor:
    """Scores [N_test,classes] of one fit, on the CPU."""
    device = ranks.device()
    values, wanted, inputs = (
        torch.from_numpy(np.ascontiguousarray(part)).to(device)
        for part in (train.values, train.label, test)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_head(
            "bn_linear" if recipe.batch_norm else "linear", values.shape[1], len(train.classes)
        ).to(device)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = lr * 0.1 ** sum(epoch >= at for at in recipe.milestones)
        shuffled = torch.randperm(len(values), generator=order).to(device)
        for rows in shuffled.tensor_split(math.ceil(len(values) / recipe.batch)):
            loss = F.cross_entropy(head(values[rows]), wanted[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return head.eval()(inputs).float().cpu()


# ---- what probabilities come to ----------------------------------------------------------------


def _result(
    train: Features, test: Features, values: np.ndarray, facts: dict, chosen: dict, trials=()
) -> Score:
    protocol = {**test.protocol, "train_rows": train.protocol.get("rows"), **facts}
    table = replace(test, values=values, protocol=protocol)
    return replace(score(table), chosen=chosen, trials=trials)


def score(table: Features) -> Score:
    """Compare class probabilities [N,classes] with the labels.

    Raises:
        ValueError: Rows without label, or values that are no probabilities.
    """
    check_labeled(table, "score")
    if len(table.classes) < 2 or not len(table.label):
        raise ValueError(
            f"score needs videos and at least two classes, else top-1 is no number; got "
            f"{len(table.label)} videos of {class_words(table.classes)}."
        )
    _probabilities(table.values, (len(table.label), len(table.classes)), "score")
    best = np.argsort(-table.values, axis=1, kind="stable")[:, :5]
    top5 = (best == table.label[:, None]).any(axis=1)
    return Score(table, best[:, 0] == table.label, top5)


def numbers(
    scored: Score, seed: int = 0, *, by: str = "video"
) -> dict[str, tuple[float, float, float]]:
    """Return {"top-1": (share, low, high), "top-5": ...} with 95 % bootstrap intervals.

    Args:
        seed: Of the bootstrap.
        by: What is drawn: videos or whole sources (retrieval.summary).
    """
    hits = {"top-1": scored.right, "top-5": scored.top5}
    return summary(hits, seed, by=by, source_video=scored.table.source_video)


def fuse(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Average the class probabilities of two streams, without weights: [N,classes].

    CoCLR does so in eval/merge_2stream_prob.py.

    Args:
        left, right: [N,classes] of the same videos in the same order, as `fuse_tables` checks.

    Raises:
        ValueError: the shapes differ, or values are no probabilities.
    """
    if left.shape != right.shape:
        raise ValueError(
            f"fuse needs the same videos and classes twice; got {left.shape} and {right.shape}."
        )
    for values in (left, right):
        _probabilities(values, left.shape, "fuse")
    return (left + right) / 2


def fuse_tables(left: Features, right: Features) -> Features:
    """Apply `fuse` to two tables.

    Where their protocols differ, the new one has both values, such as stream rgb+flow.

    Args:
        left, right: Tables of class probabilities.

    Raises:
        ValueError: videos, labels or classes differ, or values are no probabilities.
    """
    if left.classes != right.classes:
        raise ValueError(
            f"fuse needs tables of the same classes; got {class_words(left.classes)} and "
            f"{class_words(right.classes)}."
        )
    same = np.array_equal(left.label, right.label) and np.array_equal(
        left.source_video, right.source_video
    )
    rows = left.protocol.get("rows"), right.protocol.get("rows")
    if not same or rows[0] != rows[1]:
        raise ValueError(
            f"fuse needs tables of the same videos in the same order; got {len(left.label)} and "
            f"{len(right.label)} rows, fingerprints {rows[0]} and {rows[1]}."
        )
    protocol = {}
    for name in {**left.protocol, **right.protocol}:
        values = [table.protocol[name] for table in (left, right) if name in table.protocol]
        protocol[name] = (
            values[0] if values.count(values[0]) == len(values) else "+".join(map(str, values))
        )
    return replace(left, values=fuse(left.values, right.values), protocol=protocol)


def _probabilities(values: np.ndarray, shape: tuple[int, ...], who: str) -> None:
    if (
        values.shape != shape
        or not (values >= 0).all()
        or not np.allclose(values.sum(1), 1, atol=1e-3)
    ):
        raise ValueError(
            f"{who} needs class probabilities {list(shape)}, rows that sum to 1; got "
            f"{list(values.shape)} "
            "and other sums. Features are no probabilities: predict or probe first."
        )
