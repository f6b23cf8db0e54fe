"""Runs that a notebook needs: loaded by name; on the tiny toy worlds, missing ones are trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.sets.catalogue import name_of
from vidbench.data.toy import world as toy
from vidbench.engine import ranks
from vidbench.engine.recipes import RunError
from vidbench.engine.runs import Run, find, recipe_dict
from vidbench.methods import baseline, coclr, multitrain
from vidbench.methods.common import Recipe

AUTO = "auto"  # as a run's name: choose a run that exists
DEMO = "demo"  # as `data`: the results of `make demo`, the user's own or those shipped
EPOCHS = 8  # of InfoNCE and CoCLR if they are trained here, as in notebooks 10 and 11
JOINT = "multitrain"
NOTEBOOKS = {  # the notebook that trains a run, by the first word of the run's name
    "infonce": "10_coclr_alone",
    "ubernce": "10_coclr_alone",
    "coclr": "11_coclr_together",
    "multitrain": "30_multitrain",
    "alone": "30_multitrain",
    "probe": "40_linear_probe",
    "finetune": "41_finetune",
    "scratch": "41_finetune",
    "csn": "20_rms",
    "resnet": "20_rms",
}


def ready_runs(place: str | Path, *names: str) -> dict[str, Run]:
    """Load runs by name; train those that are missing if the data is a tiny toy world.

    A tiny world's runs take seconds: InfoNCE and CoCLR of both streams, and the joint run of
    several worlds. There, an incomplete run is resumed with its own recipe. Any other run must
    exist with a checkpoint.

    Args:
        place: The folder of a data set's runs, or of the runs of several, named "tiny+tiny-gym".
        names: Names of runs in it, or paths with a slash; empty ones are left out. A frozen encoder
            is "torchvision:s3d", or "timm:resnet50=FILE" with its weights. It gets the clips of the
            first run among the others, so that both have one protocol; alone, those of its weights.

    Returns:
        The runs by these names.

    Raises:
        RunError: A run is missing and cannot be trained here, or it has no checkpoint.
        FileNotFoundError, ImportError, ValueError: A frozen encoder cannot be read, or does not
            take these clips.
    """
    place = Path(place).resolve()
    frozen = [name for name in names if baseline.is_baseline(name)]
    worlds = tiny_worlds(place)
    for world in worlds.values():
        rows = Manifest.load(world / "videos")
        flow_store.complete(rows, world / "flow", "dis", workers=2)
    trained = [name for name in names if name and name not in frozen]
    for name in trained:
        _ready(place, name, worlds)
    found = {name: find(place, name) for name in trained}
    clip = next(iter(found.values())).recipe.clip if found else None
    for name in frozen:
        source, _, weights = name.partition("=")
        found[name] = baseline.make(source, weights, str(place / "videos"), place, clip=clip)
    return {name: found[name] for name in names if name}


def choose_runs(
    runs_dir: str | Path, data: str, fold: int, given: Mapping[str, str]
) -> tuple[str, ...]:
    """Replace AUTO by runs that exist, and print the choice if it is not the default.

    A default that exists is chosen. Otherwise it is a run of CoCLR whose name begins with the
    default, such as infonce-rgb-seed1, or else any other one. The demo always has the defaults, and
    so do tiny toy worlds, where missing runs are trained.

    Args:
        runs_dir: The folder of everything written.
        data: The notebooks' parameter.
        fold: Of a data set that has several.
        given: Default -> what the user named, or AUTO. The first is needed; the others become ""
            if no run is left.

    Returns:
        Names in the order of `given`.
    """
    place = Path(runs_dir).resolve() / (DEMO if data == DEMO else name_of(data, fold))
    trains = data == DEMO or data.partition("-")[0] == "tiny" or bool(tiny_worlds(place))
    free = [name for name in _embedded(place, data) if name not in given.values()]
    chosen: list[str] = []
    for default, name in given.items():
        if name == AUTO:
            near = [one for one in free if one == default or one.startswith(f"{default}-")]
            last_resort = default if trains or not chosen else ""
            name = next(iter(near or ([] if trains else free)), last_resort)
            free = [one for one in free if one != name]
            if name != default:
                print(f"{default} is missing; using {name or 'no run'} instead")
        chosen.append(name)
    return tuple(chosen)


def choose_cycle(
    runs_dir: str | Path, data: str, fold: int, before: str, after: str, teacher: str
) -> tuple[str, ...]:
    """Replace AUTO by existing runs of one half-cycle.

    Args:
        runs_dir: The folder of everything written.
        data: The notebooks' parameter.
        fold: Of a data set that has several.
        before, after: The student before and after the half-cycle.
        teacher: The teacher; AUTO is the one in the recipe of `after`.

    Returns:
        The names of before, after and teacher.
    """
    place = Path(runs_dir).resolve() / name_of(data, fold)
    if after == AUTO:
        mined = [
            name
            for name, run in _embedded(place, data).items()
            if run.values.get("positives") == "mined"
        ]
        near = [name for name in mined if name.startswith("coclr-rgb")]
        after = next(iter(near or mined), "coclr-rgb")
    made = data != DEMO and (place / after / "recipe.json").is_file()
    values = find(place, after).values if made else {}
    parents = {"infonce-rgb": values.get("student"), "infonce-flow": values.get("teacher")}
    names = {
        default: (Path(run).name if Path(run).parent == place else run) if run else default
        for default, run in parents.items()
    }
    before = names["infonce-rgb"] if before == AUTO else before
    teacher = names["infonce-flow"] if teacher == AUTO else teacher
    return before, after, teacher


def _embedded(place: Path, data: str) -> dict[str, Run]:
    """CoCLR's runs with weights in a folder of runs, by name; none of the demo's."""
    found = {}
    for path in sorted(place.glob("*/recipe.json")) if data != DEMO else ():
        with suppress(RunError):  # notebook 91 and `runs ls` show broken runs
            run = Run(path.parent)
            if run.method == "coclr" and run.checkpoint():
                found[path.parent.name] = run
    return found


def tiny_worlds(place: Path) -> dict[str, Path]:
    """Return the tiny toy worlds of a folder of runs by name; {} if it has other data, too."""
    names = [place.name] if (place / "videos").exists() else place.name.split("+")
    worlds = {name: place.parent / name for name in names}
    return worlds if all(map(_is_tiny, worlds.values())) else {}


def _is_tiny(folder: Path) -> bool:
    card = folder / "videos" / "toy.json"
    return (
        card.is_file()
        and asdict(toy.PRESETS["tiny"]).items() <= json.loads(card.read_text()).items()
    )


def _ready(place: Path, name: str, worlds: Mapping[str, Path]) -> None:
    """Train or resume a run of tiny worlds, or check that the run exists."""
    folder = place / name
    if "/" in name or not worlds:
        _check(place, name)
    elif (folder / "recipe.json").exists():
        held = Run(folder)
        if held.state != "complete":
            ranks.launch(f"{held.recipe.home}:train", held.values, str(folder), nproc=0)
    elif recipe := _recipe(place, name, worlds):
        ranks.launch(f"{recipe.home}:train", recipe_dict(recipe), str(folder), nproc=0)
    else:
        _check(place, name)


def _recipe(place: Path, name: str, worlds: Mapping[str, Path]) -> Recipe | None:
    """The recipe of a run that can be trained on tiny worlds; None if the name is no such run's."""
    method, _, stream = name.partition("-")
    if name == JOINT and len(worlds) > 1:
        parts = tuple(
            multitrain.Part(one, str(at / "videos"), flow=str(at / "flow"))
            for one, at in worlds.items()
        )
        return multitrain.rows_of(replace(multitrain.PRESETS["tiny"], parts=parts))[1]
    if len(worlds) > 1 or stream not in coclr.OTHER or method not in ("infonce", "coclr"):
        return None
    preset, (world,) = coclr.PRESETS["tiny"], worlds.values()
    if method == "infonce":
        return replace(
            preset.alone,
            stream=stream,
            manifest=str(world / "videos"),
            flow=str(world / "flow"),
            fit=replace(preset.alone.fit, epochs=EPOCHS),
        )
    # as in the paper's cycle: first RGB is mined by flow alone, then flow by the new RGB
    parents = {"rgb": ("infonce-rgb", "infonce-flow"), "flow": ("infonce-flow", "coclr-rgb")}
    for parent in parents[stream]:
        _ready(place, parent, worlds)
    together = replace(preset.together, fit=replace(preset.together.fit, epochs=EPOCHS))
    return coclr.half_cycle(together, *(str(place / parent) for parent in parents[stream]))


def _check(place: Path, name: str) -> None:
    """Raise RunError if a run is missing or has no weights yet."""
    run = Path(name).expanduser() if "/" in name else place / name
    if (run / "recipe.json").exists():
        if Run(run).checkpoint():
            return
        wrong = f"the run {name} has no checkpoint yet (state: {Run(run).state})"
    else:
        held = sorted(path.parent.name for path in place.glob("*/recipe.json"))
        wrong = f"the run {name} is missing; {place} has {', '.join(held) or 'no runs'}"
    book = NOTEBOOKS.get(run.name.partition("-")[0])
    way = f"Train it with the notebook {book}" if book else "Train it"
    raise RunError(f"{wrong}. {way} and the same `runs_dir` and `data`, or name another run.")
