"""Functions of notebook 22 about random mean scaling: filter, response, border and noise.

The filter is applied to a clip and to a feature; the noise is that of the random factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vidbench.data.loading.dataset import Clips
from vidbench.data.manifest import Manifest
from vidbench.engine import runs
from vidbench.evaluate.features import load_encoder
from vidbench.methods import classify
from vidbench.tensors.scaling import BORDERS, Filter, random_scaling, taps

LOW, HIGH = "F x, the low part", "x - F x, the high part"
# the arguments of a network with random weights
FRESH: dict[str, Any] = {
    "depth": 34,
    "width": 0.125,
    "blocks": (1, 1, 1, 1),
    "stem_stride": 1,
    "zero_gamma": False,
}
SIZE = 64  # pixels at which a fresh network sees a clip
SIGMAS = (0.5, 0.8, 1.0, 2.0)
SIDES = {"8x14x14, as res4 of SlowOnly at 224 pixels": 14, "8x7x7, as its res5": 7}
LAWS = ((0.0, 2.0), (0.5, 1.5))
DRAWS = 4000  # of the factor


class Subject(NamedTuple):
    """What the filter is applied to: a clip in gray and a feature map."""

    gray: Tensor  # [1,1,T,H,W]
    feature: Tensor  # [1,C,T,H,W], at the end of a residual branch
    channel: int  # the one that varies most
    flat: bool  # whether the run's filter covers a single frame


def subject(place: Path, manifest: Manifest, run: str, row: int, seed: int) -> Subject:
    """Read a video and compute the feature where random mean scaling begins (res4).

    Args:
        place: The folder of the data set's runs.
        manifest: Its videos.
        run: Whose network; empty is a SlowOnly with random weights.
        row: Which video.
        seed: Of the random weights.
    """
    trained = runs.find(place, run) if run else None
    recipe = trained.recipe if trained else classify.PRESETS["rms_tiny"]
    size = recipe.clip.augment.size if trained else SIZE
    spec = replace(
        recipe.clip,
        sampling="spread",
        windows=1,
        resize=size,
        augment=replace(recipe.clip.augment, size=size),
        streams=tuple(dict.fromkeys(("rgb", recipe.stream))),
    )
    clip = Clips(manifest, spec, flow_folder=recipe.flow or place / "flow")[0, row]
    torch.manual_seed(seed)
    encoder = load_encoder(trained) if trained else _fresh()
    feature = _branch(encoder, clip[recipe.stream])
    placed = recipe.regularizer
    flat = bool(trained and placed and placed.kernel == (1, 3, 3))
    channel = int(feature.std(dim=(0, 2, 3, 4)).argmax())
    return Subject(clip["rgb"].mean(dim=1, keepdim=True), feature, channel, flat)


def _fresh() -> nn.Module:
    """A SlowOnly with random weights."""
    recipe = replace(classify.PRESETS["rms_tiny"], network="slowonly", network_args=FRESH)
    return recipe.build_backbone().eval()


@torch.no_grad()
def _branch(encoder: nn.Module, x: Tensor) -> Tensor:
    """The output of the first residual branch of the second-to-last stage."""
    staged: Any = encoder
    for stage in (staged.stem, *staged.stages[:-2]):
        x = stage(x)
    return staged.stages[-2][0].branch(x)


def split(x: Tensor, smoother: Filter) -> dict[str, Tensor]:
    """Return a map x, its low part and its high part, each of the map's shape.

    Args:
        x: [B,C,T,H,W].
        smoother: The filter.
    """
    low = smoother(x)
    return {"x": x, LOW: low, HIGH: x - low}


def energies(maps: Mapping[str, Tensor], smoother: Filter, seed: int) -> list[dict[str, Any]]:
    """List the energy of both parts over that of the whole, also for white noise: rows of a table.

    Args:
        maps: Name -> [1,C,T,H,W].
        smoother: The filter.
        seed: Of the noise.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for name, x in {**maps, "white noise": torch.randn(1, 1, 64, 64, 64, generator=draw)}.items():
        total, parts = float((x**2).sum()), split(x, smoother)
        shares = {key: float((parts[key] ** 2).sum()) / total for key in (LOW, HIGH)}
        rows.append({"of": name, "low part": shares[LOW], "high part": shares[HIGH]})
    return rows


def response(kernel: int, sigma: float, periods: np.ndarray) -> np.ndarray:
    """Compute the filter's gain for a wave of each period, along one axis.

    Args:
        kernel: Positions of the filter.
        sigma: Of the Gaussian; 0 is the mean.
        periods: In positions [N].

    Returns:
        Gains [N].
    """
    waves = np.cos((np.arange(kernel) - kernel // 2)[:, None] * 2 * np.pi / periods)
    return np.array(taps(kernel, sigma or None)) @ waves


def responses(kernel: int, periods: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute the response of the mean and of Gaussians: lines of a figure.

    Args:
        kernel: Positions of the filter.
        periods: In positions [N].

    Returns:
        Name -> (periods [N], gains [N]).
    """
    lines = {f"mean of {kernel}": (periods, response(kernel, 0.0, periods))}
    for sigma in SIGMAS:
        lines[f"Gaussian, sigma {sigma:g}"] = periods, response(kernel, sigma, periods)
    return lines


def borders(kernel: int, sigma: float) -> dict[str, dict[str, np.ndarray]]:
    """Filter a constant 1 by each rule of the border: map -> rule -> [8,H,W].

    Args:
        kernel: Positions of the filter.
        sigma: Of the Gaussian; 0 is the mean.
    """
    made = {}
    for name, side in SIDES.items():
        one = torch.ones(1, 1, 8, side, side)
        gains = {rule: Filter(kernel, sigma or None, rule)(one)[0, 0].numpy() for rule in BORDERS}
        made[name] = gains
    return made


def middles(gains: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the middle frame of each map of `borders`, a picture per rule: map -> [rules,H,W]."""
    return {name: np.stack([one[4] for one in maps.values()]) for name, maps in gains.items()}


def border_rows(gains: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """List means and the corner value of `borders`: rows of a table."""
    large, small = gains.values()
    return [
        {
            "border": rule,
            "mean, 8x14x14": float(large[rule].mean()),
            "mean, 8x7x7": float(small[rule].mean()),
            "corner": float(large[rule][0, 0, 0]),
        }
        for rule in BORDERS
    ]


def scaled(gray: Tensor, smoother: Filter) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scale the low part of the middle frame by 0 to 2.

    Args:
        gray: [1,1,T,H,W].
        smoother: The filter.

    Returns:
        Factor -> frame [H,W], and the frame's middle row [W] of x and of F x.
    """
    at, line = gray.shape[2] // 2, gray.shape[3] // 2
    frame, low = gray[0, 0, at].numpy(), smoother(gray)[0, 0, at].numpy()
    steps = {f"{alpha:g}": alpha * low + frame - low for alpha in np.arange(0, 2.25, 0.25)}
    return steps, {"x": frame[line], "F x": low[line]}


def noise_rows(feature: Tensor, smoother: Filter, seed: int) -> list[dict[str, Any]]:
    """List the noise that a random factor adds, measured and by the formula: rows of a table.

    Args:
        feature: [1,C,T,H,W].
        smoother: The filter.
        seed: Of the draws.
    """
    few, draw = feature[:, :2, :2], torch.Generator().manual_seed(seed)
    low = smoother(few)
    kept = {"low": low, "high": few - low, "whole": few}
    rows = []
    for part, held in kept.items():
        for law in LAWS:
            many = few.expand(DRAWS, -1, -1, -1, -1)
            noisy = random_scaling(many, True, smoother, part, law, generator=draw)
            measured = float(((noisy - few) ** 2).sum() / DRAWS)
            variance = (law[1] - law[0]) ** 2 / 12
            formula = variance * float((held**2).sum())
            row = {"scaled": part, "α from": law[0], "to": law[1], "Var(α)": variance}
            row |= {"formula": formula, "measured": measured}
            rows.append({**row, "measured / formula": measured / formula})
    return rows


def relatives(answer: np.ndarray, periods: np.ndarray) -> dict[str, dict[str, tuple]]:
    """Compute the gain of RMS and its relatives: what is scaled -> lines of a figure.

    Args:
        answer: What `response` returns [N].
        periods: [N].
    """
    every = np.ones_like(answer)
    shares = {
        "low, which is RMS": (answer, 1 - answer),
        "high": (1 - answer, answer),
        "whole": (every, 0 * every),
    }
    made: dict[str, dict[str, tuple]] = {}
    for part, (moved, left) in shares.items():
        made[part] = {f"α = {a:g}": (periods, a * moved + left) for a in (0, 0.5, 1.5, 2)}
    return made
