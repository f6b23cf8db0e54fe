"""`vb.doctor()`: what this machine has, what is missing, what to do.

Nothing is written and nothing listens. The reading speed is that of one core of this process: a
loader with N processes gives at most N times as many clips."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch

from vidbench.data.loading.dataset import Clips, ClipSpec
from vidbench.data.manifest import Manifest
from vidbench.data.sets import catalogue
from vidbench.data.video import clips
from vidbench.data.video.decoders import DECODERS, check_decoder
from vidbench.engine import ranks
from vidbench.engine.health import Check, machine
from vidbench.methods import coclr
from vidbench.system.errors import InputError
from vidbench.system.printing import aligned
from vidbench.system.processes import cores
from vidbench.system.share import share
from vidbench.system.version import version

SHIPPED = "assets/demo/videos"  # toy clips, VP9
SECONDS = 10.0  # of the measurement
INSTALL = {
    "pyav": "pip install av",
    "decord": "Optional: pip install decord, or decord2 where decord has no wheel.",
    "torchcodec": "Optional: pip install 'vidbench[torchcodec]', and FFmpeg's shared libraries.",
}
PACKAGES = {"pyav": ("av",), "decord": ("decord", "decord2"), "torchcodec": ("torchcodec",)}


@dataclass(frozen=True)
class Health:
    """What the doctor found, a check for each line."""

    checks: tuple[Check, ...]

    @property
    def works(self) -> bool:
        """Whether nothing prevents work."""
        return not any(check.needed and check.state == "missing" for check in self.checks)

    def __str__(self) -> str:
        lines = [(one.state, one.name, f"{one.found}. {one.todo}".strip()) for one in self.checks]
        return aligned(lines)

    __repr__ = __str__


def doctor(data: str | Path = "", *, preset: str = "", seconds: float | None = None) -> Health:
    """Look at this machine: decoders, GPU, packages, memory, and whether reading keeps up.

    Args:
        data: A store, or videos, to measure the reading of; by default the shipped toy clips.
        preset: Of CoCLR, whose clips and network are measured. By default "ucf101_paper" with a
            GPU, else "toy".
        seconds: Of the measurement (10); 0 leaves it out.

    Returns:
        The checks; print them.

    Raises:
        InputError: the preset is unknown.
        ValueError: `data` is no data set.
    """
    if preset and preset not in coclr.PRESETS:
        raise InputError(f"preset must be one of {', '.join(coclr.PRESETS)}; got {preset!r}.")
    seconds = SECONDS if seconds is None else seconds
    manifest = _opened(data)
    checks = [Check("vidbench", "ok", str(version())), *map(_decoder, DECODERS), *machine()]
    if not any(one.name == "pyav" and one.state == "ok" for one in checks):
        return Health(tuple(checks))
    if seconds:
        gpus = torch.cuda.device_count()
        chosen = preset or ("ucf101_paper" if gpus else "toy")
        recipe = coclr.PRESETS[chosen].alone
        what = f"{chosen}, {data or 'the shipped toy clips (--data measures yours)'}"
        try:
            one_core = read_rate(manifest, recipe.clip, 0.6 * seconds)
        except (OSError, ValueError, RuntimeError) as error:
            checks.append(Check("reading", "missing", f"{what}: {error}", "Run `vidbench scan`."))
            return Health(tuple(checks))
        needed = step_rate(recipe, 0.4 * seconds) * max(1, gpus)
        checks.append(reading_check(what, needed, one_core, cores()))
    return Health(tuple(checks))


def _opened(data: str | Path) -> Manifest:
    if not data:
        return Manifest.load(share(SHIPPED))
    found = catalogue.open_dataset(catalogue.detect_dataset(data), data)
    train = found.select(split="train")
    return train if len(train) else found


def _decoder(name: str) -> Check:
    """Load a decoder and read a shipped clip by it."""
    needed = name == "pyav"
    try:
        check_decoder(name)
    except ImportError as error:
        said = str(error.__cause__ or error).splitlines()[0].partition(". ")[0]
        return Check(name, "missing", f"does not load: {said}", INSTALL[name], needed)
    manifest = Manifest.load(share(SHIPPED))
    try:
        with clips.Video(manifest.absolute(0), name) as video:
            frames = video.read().frames
    except (OSError, ValueError, RuntimeError) as error:
        said = f"does not read the shipped clip: {error}"
        return Check(name, "missing", said, INSTALL[name], needed)
    said = f"{_installed(name)} reads the shipped clip, {len(frames)} frames"
    return Check(name, "ok", said + (f"; {_ffmpeg()}" if needed else ""))


def _ffmpeg() -> str:
    """The FFmpeg inside PyAV's wheel."""
    import av

    return f"FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _installed(decoder: str) -> str:
    for package in PACKAGES[decoder]:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return decoder


# ---- does reading keep up? ---------------------------------------------------------------------


def read_rate(manifest: Manifest, spec: ClipSpec, seconds: float) -> float:
    """Measure how many samples (all their views) one core reads and augments per second.

    Args:
        spec: What a sample is; only rgb is read.
        seconds: Of the measurement.

    Raises:
        ValueError, OSError: A video cannot be read.
    """
    dataset = Clips(manifest, replace(spec, streams=("rgb",)))
    kept = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process
    try:
        return _rate(lambda number: dataset[(0, number % len(dataset))], 1, seconds)
    finally:
        torch.set_num_threads(kept)


def step_rate(recipe: coclr.Recipe, seconds: float) -> float:
    """Measure how many samples InfoNCE trains on per second, forward and backward.

    The batch is small on a CPU, so that a step is short.

    Args:
        recipe: Whose network and clips are measured.
        seconds: Of the measurement.
    """
    device = ranks.device()
    batch = 32 if device.type == "cuda" else 2
    recipe = replace(recipe, queue=64, key_groups=1, fit=replace(recipe.fit, batch=batch))
    spec, size = recipe.clip, recipe.clip.augment.size
    with torch.random.fork_rng(devices=[]):
        method = coclr.CoCLR(recipe).to(device).train()
    views = torch.zeros(batch, 2, 3, spec.frames, size, size, device=device)
    given = {name: torch.arange(batch, device=device) for name in ("label", "source_video", "row")}

    def step(_: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = method({recipe.stream: views, **given})
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return _rate(step, batch, seconds)


def _rate(call: Callable[[int], object], each: int, seconds: float) -> float:
    """How many per second, after one call that warms up."""
    call(0)
    began, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - began < seconds:
        calls += 1
        call(calls)
    return each * calls / (time.perf_counter() - began)


def reading_check(what: str, needed: float, one_core: float, usable: int) -> Check:
    """Compare the samples that training takes with those that the cores read.

    Args:
        what: Preset and videos.
        needed: Samples per second of all GPUs, or of the CPU.
        one_core: Samples per second that one core reads.
        usable: Cores of this process.
    """
    wanted = math.ceil(needed / one_core)
    said = (
        f"{what}: training takes {needed:.3g} samples/s, one core reads {one_core:.3g}, "
        f"{usable} cores at most {usable * one_core:.3g}"
    )
    if wanted > usable:
        todo = f"Use {wanted} cores, or a smaller format: `vidbench store --format jpeg`."
        return Check("reading", "warning", said, todo)
    return Check("reading", "ok", said)
