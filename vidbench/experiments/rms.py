"""RMS's claim: RMS and its rivals on the same data with the same seeds, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidbench.data.manifest import SPLITS, Manifest
from vidbench.data.sets import catalogue
from vidbench.data.toy import world as toy
from vidbench.engine.environment import made_by
from vidbench.engine.runs import recipe_dict
from vidbench.experiments import compare
from vidbench.experiments.arms import BASELINE, UNDRAWN, Experiment, with_arm
from vidbench.experiments.compare import Measured
from vidbench.experiments.effects import page, report
from vidbench.experiments.paired import Number, Paired, plain, spread
from vidbench.experiments.records import Book, Record, mark, source_videos
from vidbench.methods import classify

SEEN = "train"  # the metric: top-1 of training videos, one view
LOSS, CALIBRATION = "cross-entropy", "calibration error"  # of a test, in nats and as a share
SEEN_LOSS = "train cross-entropy"
LEARNED = 0.5  # a run has learned if the top-1 of its main test is at least this


def replicate(out: str | Path, experiments: Sequence[Experiment], processes: int = 2) -> Path:
    """Train and test every arm on every data set below `out`; return the report's path. Resumable.

    After each seed the tested runs are added to `out`/runs.csv. Runs in that file are not trained
    again, so the file alone resumes on another machine.

    Args:
        out: The experiment's folder.
    """
    job = compare.Replication(out)
    book = Book(job.out / "runs.csv")
    # a seed of every arm and data set first, so that an early stop leaves whole comparisons
    for seed in sorted({seed for one in experiments for seed in one.seeds}):
        _train(job, book, [one for one in experiments if seed in one.seeds], seed, processes)
    numbers, facts = [], []
    for one in experiments:
        numbers += outcome(one, book)
        facts.append(
            {
                "name": one.name,
                "place": one.place,
                "seeds": one.seeds,
                "recipe": recipe_dict(one.recipe),
                "tests": one.tests,
                "test_videos": len(book.at(one.name, one.tests[-1])[one.seeds[0], BASELINE].hits),
                "steps": int(max(record.numbers["steps"] for record in book.of(one.name))),
                "classes": classes(one, book),
            }
        )
    title = "vidbench: random mean scaling and its rivals"
    records = [record for one in experiments for record in book.of(one.name)]
    runs = {record.run: record.numbers.get("seconds", 0.0) for record in records}
    words = page({"experiments": facts}, numbers, records)
    return job.write(
        title, {"experiments": facts}, numbers, report, training=sum(runs.values()), page=words
    )


def _train(
    job: compare.Replication,
    book: Book,
    experiments: Sequence[Experiment],
    seed: int,
    processes: int,
) -> None:
    """Train and test the runs of a seed that the book lacks, and add them."""
    wanted: dict[tuple[str, str], tuple[Experiment, classify.Recipe]] = {}
    for one in experiments:
        arms = [arm for arm in one.arms if seed in one.seeds_of(arm)]
        for arm in arms:
            if (one.name, seed, arm) in book:
                book.check((one.name, seed, arm), recipe_mark(one, arm, seed))
        missing = [arm for arm in arms if (one.name, seed, arm) not in book]
        recipes = stages(one, job.out, seed) if missing else {}
        wanted |= {(one.name, arm): (one, recipes[arm]) for arm in missing}
    if not wanted:
        return
    job.train(
        {f"{name}/seed-{seed}/{arm}": recipe for (name, arm), (_, recipe) in wanted.items()},
        processes,
    )
    jobs = {
        (name, arm): (
            str(job.out / name / f"seed-{seed}" / arm),
            one.views,
            "",
            _apart(one, recipe),
        )
        for (name, arm), (one, recipe) in wanted.items()
    }
    found = compare.tested_all(jobs, processes, f"tests of seed {seed}")
    for (name, arm), (one, _) in wanted.items():
        book.add(records(one, seed, arm, found[name, arm]))


# ---- runs --------------------------------------------------------------------------------------


def videos(one: Experiment, out: Path, seed: int) -> Path:
    """Make a seed's manifest if it is missing: the chosen sources of train, and all test videos.

    Args:
        out: The experiment's folder.
    """
    folder = out / one.place / (f"seed-{seed}" if one.toy or one.folds else "data")
    if one.toy:
        rows = toy.render(folder / "videos", "small", seed=seed, progress=False)
    else:
        rows = catalogue.keep(folder / "videos", one.data, seed if one.folds else None)
    if not one.source_videos:
        return folder / "videos"
    few = folder / f"few-{one.source_videos}"
    if not (few / "manifest.csv").exists():
        fewer(rows, one.source_videos).save(few)
    if one.undrawn and not (few / UNDRAWN / "manifest.csv").exists():
        undrawn(rows, one.source_videos).save(few / UNDRAWN)
    return few


def fewer(rows: Manifest, source_videos: int, seed: int = 0) -> Manifest:
    """Keep so many source videos of each class in train, and all rows of other splits.

    Args:
        source_videos: How many per class.
        seed: Of the draw, not of training: all runs share the draw.
    """
    train = rows.split == SPLITS.index("train")
    return rows.select(mask=~train | np.isin(rows.source_video, _drawn(rows, source_videos, seed)))


def undrawn(rows: Manifest, source_videos: int, seed: int = 0) -> Manifest:
    """Keep the training videos that `fewer` drops, as a test split.

    Args:
        source_videos, seed: As in `fewer`.
    """
    train = rows.split == SPLITS.index("train")
    rest = rows.select(mask=train & ~np.isin(rows.source_video, _drawn(rows, source_videos, seed)))
    return replace(rest, split=np.full(len(rest), SPLITS.index("test"), np.int8))


def _drawn(rows: Manifest, source_videos: int, seed: int) -> list[int]:
    train, rng = rows.select(split="train"), np.random.default_rng([seed, 11])
    kept: list[int] = []
    for label in np.unique(train.label):
        kept.extend(
            rng.permutation(np.unique(train.source_video[train.label == label]))[:source_videos]
        )
    return kept


def stages(one: Experiment, out: Path, seed: int) -> dict[str, classify.Recipe]:
    """Return the recipes of a seed by arm, with the same first weights and order of clips.

    Args:
        out: The experiment's folder.
    """
    place = videos(one, out, seed)
    names = Manifest.load(place).classes
    arms = [arm for arm in one.arms if seed in one.seeds_of(arm)]
    return {
        arm: replace(_recipe(one, arm, seed), manifest=str(place), classes=names) for arm in arms
    }


def _recipe(one: Experiment, arm: str, seed: int) -> classify.Recipe:
    return with_arm(replace(one.recipe, fit=replace(one.recipe.fit, seed=seed)), arm)


def recipe_mark(one: Experiment, arm: str, seed: int) -> str:
    """Compute the checksum of a run's recipe and number of source videos, without paths.

    Args:
        arm: A name in ARMS.
    """
    return mark(_recipe(one, arm, seed), one.source_videos)


def _apart(one: Experiment, recipe: classify.Recipe) -> dict[str, str]:
    return {UNDRAWN: str(Path(recipe.manifest) / UNDRAWN)} if one.undrawn else {}


def records(one: Experiment, seed: int, arm: str, run: Measured) -> list[Record]:
    """Return the records of a tested run, one per test.

    Args:
        run: Its measures.
    """
    made = []
    commit = (made_by()["commit"] or "")[:10]
    for test in one.tests:
        numbers = {
            "steps": run.steps,
            "seconds": run.seconds,
            "top-1": float(run.hits[test].mean()),
            LOSS: run.loss[test],
            CALIBRATION: run.calibration[test],
            SEEN: run.train,
            SEEN_LOSS: run.train_loss,
        }
        own = recipe_mark(one, arm, seed)
        found = Record(one.name, seed, arm, test, own, run.hits[test], numbers, commit=commit)
        if arm == BASELINE:
            names = np.array(run.table.classes)[run.labels[test]]
            found = replace(found, labels=names, source_videos=run.sources[test])
        made.append(found)
    return made


# ---- numbers -----------------------------------------------------------------------------------


def outcome(one: Experiment, book: Book) -> list[Number]:
    """Compare all arms: means over seeds and paired differences to the baseline, by each test.

    All seeds of a real data set have the same test videos, which the interval takes into account.
    Further numbers of each arm: of each test cross-entropy and calibration error, and those minus
    the baseline's; top-1 and cross-entropy of training videos; training minus test top-1; training
    time over the baseline's; the share of seeds that learned.

    Args:
        book: The records.
    """
    made: list[Number] = []
    shared = not one.toy and not one.folds
    for test in one.tests:
        found = book.at(one.name, test)
        for arm in one.arms:
            seeds = one.seeds_of(arm)
            pair = dict.fromkeys((arm, BASELINE))
            hits = [{name: found[seed, name].hits for name in pair} for seed in seeds]
            groups = [source_videos([found[seed, BASELINE]]) for seed in seeds]
            paired = Paired(hits, groups, test, data=one.name, shared=shared)
            made.append(paired.mean(arm))
            if arm != BASELINE:
                made.append(paired.difference(arm, BASELINE))
            made += _measures(one, arm, test, found)
    main = book.at(one.name, one.tests[-1])
    for arm in one.arms:
        runs = [main[seed, arm].numbers for seed in one.seeds_of(arm)]
        base = [main[seed, BASELINE].numbers for seed in one.seeds_of(arm)]
        gaps = [run[SEEN] - run["top-1"] for run in runs]
        # a record of a run that shared its cores with other work has no seconds
        pairs = [(run, one) for run, one in zip(runs, base, strict=True) if "seconds" in run]
        times = [run["seconds"] / first["seconds"] for run, first in pairs]
        made.append(plain(one.name, arm, SEEN, [run[SEEN] for run in runs]))
        made.append(spread(one.name, arm, SEEN_LOSS, [run[SEEN_LOSS] for run in runs]))
        made.append(plain(one.name, arm, f"{SEEN} - test", gaps))
        made += [plain(one.name, arm, "time", times)] if times else []
        made.append(plain(one.name, arm, "learned", [run["top-1"] >= LEARNED for run in runs]))
    return made


def _measures(
    one: Experiment, arm: str, test: str, found: Mapping[tuple[int, str], Record]
) -> list[Number]:
    """Cross-entropy and calibration error of an arm, and those minus the baseline's."""
    made = []
    for name in (LOSS, CALIBRATION):
        own, base = (
            np.array([found[seed, which].numbers[name] for seed in one.seeds_of(arm)])
            for which in (arm, BASELINE)
        )
        made.append(spread(one.name, arm, f"{test}, {name}", own))
        if arm != BASELINE:
            made.append(spread(one.name, arm, f"{test}, {name}", own - base, BASELINE))
    return made


def classes(one: Experiment, book: Book) -> list[dict]:
    """List what each class gains by RMS in the main test, mean over seeds, largest gain first.

    Args:
        book: The records.
    """
    found = book.at(one.name, one.tests[-1])
    each: dict[str, list[tuple[float, float]]] = {}
    for seed in one.seeds_of("rms") if "rms" in one.arms else ():
        base, labels = found[seed, BASELINE], found[seed, BASELINE].labels
        assert labels is not None, "a baseline's record lacks its labels"
        for label in np.unique(labels).tolist():
            before, after = (run.hits[labels == label] for run in (base, found[seed, "rms"]))
            each.setdefault(label, []).append((float(before.mean()), float(after.mean())))
    rows = []
    for label, pairs in each.items():
        before, after = np.mean(pairs, axis=0).tolist()
        rows.append({"action": label, "before": before, "after": after, "gain": after - before})
    return sorted(rows, key=lambda row: -row["gain"])
