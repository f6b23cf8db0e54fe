"""`vb.train`: every stage of a method on videos, by one call that resumes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vidbench.api import sizing
from vidbench.api.recipes import fitted, label, with_changes
from vidbench.api.trained import Trained, load
from vidbench.api.videos import Videos
from vidbench.api.videos import videos as open_videos
from vidbench.data.flow import store as flow_store
from vidbench.engine import outside, ranks, stages
from vidbench.engine.runs import recipe_dict
from vidbench.methods import classify, coclr, common, multitrain
from vidbench.methods.registry import import_method
from vidbench.system.processes import without_main
from vidbench.system.trusted import trust

CONTRASTIVE = {"infonce": "instance", "ubernce": "class", "coclr": "instance"}  # -> positives
METHODS = (*CONTRASTIVE, "classify", "multitrain")
LEARN_LABELS = ("ubernce", "classify", "multitrain")
DEFAULT = "toy"  # the preset
SMALL = ("tiny", "toy", "few", "few_difference")  # presets for small frames and a quick flow
SHORT_SIDE = 64  # pixels at which these decode videos that are no toy world
OPTIONAL = ("epochs", "network", "network_args")  # their empty values leave the preset's


@dataclass(frozen=True)
class _Job:
    """One call of `train`: what it was given, checked."""

    sets: Sequence[Videos]
    method: str
    preset: str
    seed: int
    flow: str
    changes: Mapping[str, Any]

    @property
    def videos(self) -> Videos:
        return self.sets[0]

    @property
    def size(self) -> int | None:
        """The short side to decode at; None is the videos' own."""
        toy = all((one.home / "videos" / "toy.json").is_file() for one in self.sets)
        return SHORT_SIDE if self.preset in SMALL and not toy else None

    def store_of(self, videos: Videos) -> Path:
        """Return the flow store of the videos."""
        name = "flow" if self.size is None else f"flow-{self.size}"
        folder = videos.home / name
        if self.flow and (folder / "flow.json").is_file():
            if flow_store.settings_of(folder).method != self.flow:
                return videos.home / f"{name}-{self.flow}"
        return folder


@without_main()
def train(
    videos: Videos | str | Path | Sequence[Videos],
    method: str = "coclr",
    *,
    preset: str = DEFAULT,
    seed: int = 0,
    flow: str = "",
    out: str | Path = "",
    nproc: int = 0,
    processes: int = 2,
    **changes: Any,
) -> Trained:
    """Train all stages of a method. The same call resumes; a complete one returns at once.

    coclr, infonce and multitrain's toy presets fit batch and queue to few videos, and say so.
    Labels never enter the training of coclr and infonce. If torchrun, accelerate or srun started
    several ranks, each of them makes this call.

    Args:
        videos: What `vb.videos` returned, or its source; several `Videos` for multitrain.
        method: infonce, ubernce, coclr, classify, multitrain, or the name of your own module, such
            as "mypackage.mymethod" (assets/docs/extending.md).
        preset: Of the method (assets/docs/presets.md): tiny, toy, ucf101_paper, ...
        seed: Of weights, batches and views.
        flow: How to compute flow, if a stage reads it: dis, tvl1, tvl1_torch, ... By default the
            store that exists, else DIS for the presets tiny and toy, TV-L1 for the others.
        out: Folder of the runs. By default it is below the videos' folder, and its name carries
            method, preset, changes and seed.
        nproc: Ranks of each stage; 0 is one for each GPU, or VIDBENCH_NPROC.
        processes: Stages that train side by side on a CPU, and workers that compute flow; 0 does
            all in this process. A single stage always trains in it.
        changes: Fields of the recipe by plain or dotted names: epochs=40, lr=1e-3, stream="flow",
            network="slowonly", network_args={"depth": 18}, **{"clip.frames": 16}. Of epochs and
            network an empty value leaves the preset's.

    Returns:
        The last RGB run; its `streams` has the last run of each stream.

    Raises:
        ValueError: A method, preset or field is unknown, labels are missing, or videos are too few.
        RunError: `out` holds runs of other recipes.
    """
    job = _job(videos, method, preset, seed, flow, changes)
    name = label(method, preset, seed, {**job.changes, **({"flow": flow} if flow else {})})
    joint = job.videos.folder.with_name("+".join(one.folder.name for one in job.sets))
    folder = Path(out).expanduser().resolve() if out else joint / name
    recipes, said = _stages(job, folder)
    with outside.in_turn() as first:
        open_ = not all(stages.complete(folder / one, recipe) for one, recipe in recipes.items())
        if open_ and first:
            print(
                "\n".join([f"{folder}: {len(recipes)} runs, {', '.join(recipes)}", *said]),
                flush=True,
            )
            _complete_flow(job, recipes, processes)
    if open_:
        _run(recipes, folder, nproc, processes)
    return load(folder)


def sizes(
    videos: Videos | str | Path | Sequence[Videos],
    method: str = "coclr",
    *,
    preset: str = DEFAULT,
    card: str = "H200",
    gpus: int = 1,
    **changes: Any,
) -> dict[str, sizing.Size]:
    """Estimate each stage of `train` with the same arguments, by its name; nothing is written.

    Args:
        card: H200 or A100.
        gpus: That share a batch.
        changes: As of `train`.

    Raises:
        ValueError: As of `train`, or the card is unknown, or the GPUs cannot share the batch.
    """
    recipes, _ = _stages(_job(videos, method, preset, 0, "", changes), Path())
    found = {}
    for name, recipe in recipes.items():
        held = getattr(recipe, "held_out", 0.0)
        parts = [common.training_rows(one.manifest, held)[0] for one in recipe.data_sets()]
        found[name] = sizing.size(recipe, sizing.videos_of(parts), card, gpus)
    return found


def _job(
    videos: Videos | str | Path | Sequence[Videos],
    method: str,
    preset: str,
    seed: int,
    flow: str,
    changes: Mapping[str, Any],
) -> _Job:
    sets = _sets(videos)
    kept = {name: value for name, value in changes.items() if value or name not in OPTIONAL}
    if ":" in str(kept.get("network", "")):
        trust(kept["network"].partition(":")[0])
    return _Job(sets, method, preset, seed, flow, kept)


def _sets(videos: Videos | str | Path | Sequence[Videos]) -> list[Videos]:
    if isinstance(videos, str | Path):
        return [open_videos(videos)]
    found = [videos] if isinstance(videos, Videos) else list(videos)
    if not found or not all(isinstance(one, Videos) for one in found):
        raise ValueError(f"videos must be what vb.videos returned, or several; got {videos!r}.")
    return found


# ---- recipes -----------------------------------------------------------------------------------


def _stages(job: _Job, folder: Path) -> tuple[dict[str, common.Recipe], list[str]]:
    """The recipes by name of their runs, and what to say about them."""
    if job.method in LEARN_LABELS:
        for one in job.sets:
            if not one.labeled:
                raise ValueError(
                    f"{job.method} learns labels; {one.folder.name} has {len(one)} videos without "
                    "labels. Use infonce or coclr, or give labels: class folders, or a csv with "
                    "the columns path and label."
                )
    if job.method != "multitrain" and len(job.sets) > 1:
        raise ValueError(
            f"only multitrain trains on several data sets; got {len(job.sets)} for {job.method}."
        )
    if job.method in CONTRASTIVE:
        return _contrastive(job, folder)
    try:
        module = import_method(job.method)
    except ValueError as error:
        raise ValueError(f"{error} vb.train also knows {', '.join(METHODS)}.") from error
    recipe = with_changes(_sized(_preset(module, job), job), job.changes)
    recipe = replace(recipe, fit=replace(recipe.fit, seed=job.seed))
    if job.method == "multitrain":
        recipe = replace(recipe, parts=tuple(_part(job, one, recipe) for one in job.sets))
    else:
        store = str(job.store_of(job.videos)) if recipe.stream == "flow" else ""
        recipe = replace(recipe, manifest=str(job.videos.folder / "videos"), flow=store)
    if isinstance(recipe, classify.Recipe):  # as its run stores them
        recipe = replace(recipe, classes=job.videos.classes)
    held = getattr(recipe, "held_out", 0.0)
    rows = sum(len(common.training_rows(part.manifest, held)[0]) for part in recipe.data_sets())
    recipe, said = fitted(recipe, rows)
    return {f"{job.method.rpartition('.')[2]}-{recipe.stream}": recipe}, said


def _contrastive(job: _Job, folder: Path) -> tuple[dict[str, common.Recipe], list[str]]:
    """InfoNCE or UberNCE on one stream, or all stages of CoCLR."""
    preset = _preset(coclr, job)
    changes = dict(job.changes)
    if job.method == "coclr" and "stream" in changes:
        raise ValueError(
            "coclr trains both streams, so it takes no stream. Remove it, or use infonce."
        )
    cycles = changes.pop("cycles", preset.cycles) if job.method == "coclr" else 0
    stream = changes.pop("stream", "rgb") if job.method != "coclr" else "rgb"
    place = str(job.videos.folder / "videos")
    said: list[str] = []
    halves = []
    for half in (preset.alone, preset.together)[: 2 if job.method == "coclr" else 1]:
        recipe = replace(with_changes(_sized(half, job), changes), manifest=place)
        recipe, words = fitted(recipe, len(coclr.parts(recipe)[0]))
        said += [word for word in words if word not in said]
        halves.append(recipe)
    store = str(job.store_of(job.videos))
    if job.method == "coclr":
        both = coclr.Preset(halves[0], halves[1], cycles)
        made = coclr.graph(both, folder, manifest=place, flow=store, seed=job.seed)
        return dict(made), said
    recipe = replace(
        halves[0],
        positives=CONTRASTIVE[job.method],
        stream=stream,
        flow=store if stream == "flow" else "",
        fit=replace(halves[0].fit, seed=job.seed),
    )
    return {f"{job.method}-{stream}": recipe}, said


def _preset(module: ModuleType, job: _Job) -> Any:
    """A preset of a method; without presets the recipe's defaults."""
    known: dict[str, Any] = getattr(module, "PRESETS", {})
    if not known and job.preset in ("", DEFAULT):
        return module.Recipe()
    if job.preset not in known:
        raise ValueError(
            f"preset of {job.method} must be one of {', '.join(known) or DEFAULT}; got "
            f"{job.preset!r}."
        )
    return known[job.preset]


def _sized(recipe: Any, job: _Job) -> Any:
    """The recipe decoding at the job's size."""
    if job.size is None or recipe.clip.decode_size is not None:
        return recipe
    return replace(recipe, clip=replace(recipe.clip, decode_size=job.size))


def _part(job: _Job, videos: Videos, recipe: multitrain.Recipe) -> multitrain.Part:
    name = videos.folder.name.replace(".", "_").replace(">", "_")
    store = str(job.store_of(videos)) if recipe.stream == "flow" else ""
    return multitrain.Part(name, str(videos.folder / "videos"), videos.classes, flow=store)


# ---- running -----------------------------------------------------------------------------------


def _complete_flow(job: _Job, recipes: Mapping[str, common.Recipe], processes: int) -> None:
    """Compute the flow that the stages read."""
    if not any(part.flow for recipe in recipes.values() for part in recipe.data_sets()):
        return
    for one in job.sets:
        store = job.store_of(one)
        begun = (store / "flow.json").is_file()
        method = job.flow or ("dis" if job.preset in SMALL else "tvl1")
        held = (
            flow_store.settings_of(store) if begun else flow_store.Settings(method, size=job.size)
        )
        print(f"flow: {held.method} of {len(one)} videos in {store}", flush=True)
        made = flow_store.extract(
            one.manifest,
            store,
            held.method,
            bound=held.bound,
            size=held.size,
            format=held.format,
            decoder=held.decoder,
            workers=processes,
        )
        if made.failed:
            path, reason = made.failed[0]
            raise ValueError(
                f"flow failed on {len(made.failed)} of {len(one)} videos, the first is {path}: "
                f"{reason}. Repair these files, or leave them out."
            )


def _run(recipes: Mapping[str, common.Recipe], folder: Path, nproc: int, processes: int) -> None:
    """Train side by side on a CPU; one after another on ranks, or in this process."""
    named = any(os.environ.get(ranks.VARIABLES[name]) for name in ("nproc", "nnodes"))
    ranked = nproc > 1 or named or outside.found()
    alone = len(recipes) == 1 or not processes
    if not (alone or ranked or torch.cuda.is_available()):
        stages.run_all(recipes, folder, processes)
        return
    for name, recipe in recipes.items():
        if not stages.complete(folder / name, recipe):
            target = f"{recipe.home}:train"
            ranks.launch(target, recipe_dict(recipe), str(folder / name), nproc=nproc)
