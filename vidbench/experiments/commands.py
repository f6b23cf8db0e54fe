"""The commands `vidbench demo` and `vidbench replicate-...`: their options and experiments."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from vidbench.system.door import at_the_door
from vidbench.system.usage import Commands, add_command


def add_all(commands: Commands) -> None:
    """Add the demo and the three replications."""
    for add in (_add_demo, _add_coclr, _add_rms, _add_multitrain):
        add(commands)


def _add(commands: Commands, name: str, words: str, example: str) -> argparse.ArgumentParser:
    command = add_command(commands, name, words, example, "The same command resumes.")
    out = "the folder of all results (%(default)s)"
    command.add_argument("--out", default=f"runs/{name}", help=out)
    return command


def _add_replication(
    commands: Commands, name: str, words: str, example: str, quick: str, seeds: int = 3
) -> argparse.ArgumentParser:
    command, usual = _add(commands, name, words, example), [*range(1, seeds + 1)]
    of = f"seeds of runs and toy worlds ({' '.join(map(str, usual))})"
    command.add_argument("--seeds", type=int, nargs="+", default=usual, help=of)
    command.add_argument("--quick", action="store_true", help=quick)
    return command


def _add_demo(commands: Commands) -> None:
    words = "videos to an HTML report: flow, InfoNCE, CoCLR, retrieval, gallery"
    command = _add(commands, "demo", words, "vidbench demo --out runs/demo")
    data = "a folder of class folders, or with list files; default: toy videos"
    command.add_argument("--data", default="", help=data)
    command.add_argument("--seed", type=int, default=0)


def _add_coclr(commands: Commands) -> None:
    words = "CoCLR's claim: all methods at equal clip budgets"
    quick = "one seed or fold, one cycle, a quarter of the clips"
    example = "vidbench replicate-coclr --data toy-mixed --seeds 1 2 3 4 5"
    command = _add_replication(commands, "replicate-coclr", words, example, quick)
    data = "a data set's folder, or toy-mixed; default: a toy world for each seed, with ablations"
    command.add_argument("--data", default="", help=data)
    folds = "folds of the data set, instead of seeds"
    command.add_argument("--folds", type=int, nargs="+", default=[], help=folds)
    clips = "views that a stage trains on (%(default)s)"
    command.add_argument("--clips", type=int, default=14_000, help=clips)
    command.add_argument(
        "--cycles", type=int, default=2, help="cycles of co-training (%(default)s)"
    )


def _add_rms(commands: Commands) -> None:
    words = "RMS's claim: RMS and its rivals on the same data, several seeds"
    quick = "one seed, a quarter of the epochs, RMS and its ablations; with a plan, a tenth"
    example = "vidbench replicate-rms --plan video"
    command = _add_replication(commands, "replicate-rms", words, example, quick)
    data = "toy-N, worlds with N training sources per class, or folders (toy-5 toy-10)"
    command.add_argument("--data", nargs="+", default=["toy-5", "toy-10"], help=data)
    plan = (
        "cifar: three lengths on the first folder of --data, under two hours on two cores; "
        "cifar-whole: the same with every arm and seed, 4.5 hours; video: toy-10 at three times "
        "the epochs. The plan sets seeds, epochs and arms."
    )
    choices = ("cifar", "cifar-whole", "video")
    command.add_argument("--plan", choices=choices, default=None, help=plan)
    command.add_argument("--longer", type=int, default=1, help="multiply the epochs (%(default)s)")
    arms = "arms besides the baseline, such as rms cutmix; default: the paper's"
    command.add_argument("--arms", nargs="+", default=None, help=arms)


def _add_multitrain(commands: Commands) -> None:
    words = "MultiTrain's claims: one net for several data sets"
    quick = "one seed, a tenth of the steps"
    example = "vidbench replicate-multitrain --quick"
    command = _add_replication(commands, "replicate-multitrain", words, example, quick, seeds=5)
    regimes = "power (few videos) and disagree (label spaces, an unseen world); default: both"
    command.add_argument("--regimes", nargs="+", default=["power", "disagree"], help=regimes)


def _demo(given: argparse.Namespace) -> int:
    from vidbench.experiments.demo import demo, settings_for

    settings = settings_for(given.data, given.seed)
    at_the_door(_check_data, given.data, "the demo's report")
    at_the_door(_claim_results, given.out)
    demo(given.out, settings)
    return 0


def _replicate_coclr(given: argparse.Namespace) -> int:
    from vidbench.experiments.coclr import replicate, settings_for, toy_world

    parts: dict[str, Any] = {"seeds": tuple(given.seeds), "folds": tuple(given.folds)}
    sizes: dict[str, Any] = {"clips": given.clips, "cycles": given.cycles, "quick": given.quick}
    settings = settings_for(given.data, **parts, **sizes)
    if not toy_world(given.data):
        at_the_door(_check_data, given.data, "replicate-coclr")
    at_the_door(_claim_results, given.out, "page.md")
    path = replicate(given.out, settings)
    print(f"report: {path}")
    return 0


def _replicate_rms(given: argparse.Namespace) -> int:
    from vidbench.experiments import arms
    from vidbench.experiments.rms import replicate

    if given.plan:
        whole = given.plan == "cifar-whole"
        one = given.data[0]
        found = (
            arms.long_video() if given.plan == "video" else at_the_door(arms.pictures, one, whole)
        )
        found = arms.shorter(found) if given.quick else found
    else:
        chosen = given.arms or arms.MAIN
        found = [
            at_the_door(arms.experiment, data, given.seeds, given.quick, given.longer, chosen)
            for data in given.data
        ]
    at_the_door(_claim_results, given.out, "page.md")
    print(f"report: {replicate(given.out, found)}")
    return 0


def _replicate_multitrain(given: argparse.Namespace) -> int:
    from vidbench.experiments.multitrain import books, regimes, replicate

    chosen = at_the_door(regimes, given.regimes, given.quick)
    seeds = given.seeds[:1] if given.quick else given.seeds
    at_the_door(books, given.out, chosen)
    at_the_door(_claim_results, given.out, "results.md")
    print(f"report: {replicate(given.out, chosen, seeds)}")
    return 0


def _check_data(data: str, what: str) -> None:
    """Refuse a folder that cannot be opened or has no labels before anything is written."""
    from vidbench.data.sets import catalogue

    if data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experiment opens it again, and warns
            manifest = catalogue.open_dataset(catalogue.detect_dataset(data), data)
        manifest.need_labels(what)


def _claim_results(out: str, *more: str) -> None:
    """Refuse to replace a report or numbers that no experiment of vidbench wrote.

    Args:
        out: The experiment's folder.
        more: Names of further files that it writes.
    """
    from vidbench.data.prepare.outputs import Outputs

    made, names = Outputs(Path(out)), ("numbers.json", "numbers.csv", "report.html", *more)
    numbers = Path(out, "numbers.json")
    ours = numbers.is_file() and '"environment"' in numbers.read_text("utf-8", errors="replace")
    if made.known or not ours:
        made.refuse_others(names)
    made.claim(names)


COMMANDS = {
    "demo": _demo,
    "replicate-coclr": _replicate_coclr,
    "replicate-rms": _replicate_rms,
    "replicate-multitrain": _replicate_multitrain,
}
