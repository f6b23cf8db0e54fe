"""Functions of notebook 20: two arms of supervised training on videos or images, and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vidbench.data.flow import store as flow_store
from vidbench.data.loading import transforms
from vidbench.data.loading.dataset import Clips
from vidbench.data.manifest import Manifest
from vidbench.data.video import clips, windows
from vidbench.engine import runs
from vidbench.evaluate.evaluate import VIEWS, classified
from vidbench.evaluate.features import PROTOCOLS, Protocol
from vidbench.evaluate.retrieval import summary
from vidbench.experiments import arms
from vidbench.methods import classify
from vidbench.system.processes import cores
from vidbench.tensors.mixing import Mixing, cutmix
from vidbench.tensors.regularizers import Regularizer

if TYPE_CHECKING:
    from vidbench.evaluate.probe import Score

MANY = 1000  # with more videos, several processes read them
# Arms of this notebook in addition to those of experiments.arms
VARIANTS: dict[str, Regularizer | Mixing] = {
    # RMS's supplement, D: on Mini-Kinetics ShakeDrop converged only with half of beta's range, and
    # does not name the half. The upper one, which changes gradients less, is an assumption.
    "shake-drop-half": Regularizer("shake_drop", beta=(0.5, 1.0)),
    # Every batch, as in the CutMix code for ImageNet; `cutmix` has the code's 0.5 for CIFAR.
    "cutmix-always": Mixing("cutmix", p=1.0),
}


def of_images(manifest: Manifest) -> bool:
    """Return whether the data set contains images, not videos."""
    return str(manifest.path[0]).lower().endswith(clips.PICTURES)


def base_recipe(
    place: Path, manifest: Manifest, preset: str, epochs: int, changes: Mapping[str, Any]
) -> classify.Recipe:
    """Build the recipe that both arms share.

    On the toy world `tiny` the networks see optical flow, which is computed here: there, motion is
    the label. Digits are not mirrored, and have small batches.

    Args:
        place: The folder of the data set's videos, flow and runs.
        manifest: Its videos, with labels.
        preset: A name in classify.PRESETS; empty is rms_tiny for videos and rms_tiny_image for
            images.
        epochs: 0 takes the preset's number.
        changes: Further fields.

    Raises:
        ValueError: The preset or a field is unknown.
    """
    preset = preset or ("rms_tiny_image" if of_images(manifest) else "rms_tiny")
    if preset not in classify.PRESETS:
        raise ValueError(f"preset must be one of {', '.join(classify.PRESETS)}; got {preset!r}.")
    base = replace(
        classify.PRESETS[preset], manifest=str(place / "videos"), flow=str(place / "flow")
    )
    if place.name == "tiny":
        flow_store.complete(manifest, place / "flow", "dis", workers=2)
        base = replace(base, stream="flow")
    if place.name == "digits":
        straight = replace(base.clip, augment=replace(base.clip.augment, flip=0.0))
        base = replace(base, clip=straight, fit=replace(base.fit, batch=16))
    base = runs.changed(base, dict(changes))
    return replace(base, fit=replace(base.fit, epochs=epochs or base.fit.epochs))


def with_arm(recipe: classify.Recipe, arm: str) -> classify.Recipe:
    """Replace the recipe's regularizer and mixing by those of an arm.

    Args:
        recipe: What all arms share.
        arm: A name in `arms.ARMS` or VARIANTS.

    Raises:
        ValueError: The arm is unknown, or the recipe has no RMS to take stages from.
    """
    match VARIANTS.get(arm):
        case Regularizer() as regularizer:
            return replace(recipe, regularizer=regularizer, mixing=None)
        case Mixing() as mixing:
            return replace(recipe, regularizer=None, mixing=mixing)
    if arm not in arms.ARMS:
        raise ValueError(f"arm must be one of {', '.join((*arms.ARMS, *VARIANTS))}; got {arm!r}.")
    return arms.with_arm(recipe, arm)


def sites(recipe: classify.Recipe, classes: tuple[str, ...]) -> list[dict[str, str]]:
    """List what is at the end of each residual branch: rows of a table.

    Args:
        classes: Names of the classes, for the classifier.
    """
    encoder = classify.Classifier(replace(recipe, classes=classes)).encoder
    rows = []
    for path, block in encoder.named_modules():
        if hasattr(block, "branch"):
            nothing = isinstance(block.regularizer, torch.nn.Identity)
            words = "nothing" if nothing else str(block.regularizer)
            rows.append({"block": path, "at the end of its branch": words})
    return rows


def mixed_clips(
    rows: Manifest, recipe: classify.Recipe, most: int = 4
) -> list[tuple[np.ndarray, str]]:
    """Return training clips in RGB, each with a box of another clip pasted in by CutMix.

    Args:
        rows: Training videos.
        recipe: Gives augmentation and seed.
        most: At most so many clips.

    Returns:
        Frames uint8 [T,H,W,3] and the label distribution in words.
    """
    sampled = Clips(rows, replace(recipe.clip, streams=("rgb",)), seed=recipe.fit.seed)
    picked = windows.spread(len(rows), most)
    batch = torch.stack([sampled[0, int(row)]["rgb"][0] for row in picked])  # [B,C,T,H,W]
    draw = torch.Generator().manual_seed(recipe.fit.seed)
    mixed = cutmix(batch, each=True, generator=draw)
    names = [rows.names(row)["label"] for row in picked]
    words = [
        f"{share:.0%} {name}, {1 - share:.0%} {names[other]}"
        for name, other, share in zip(names, mixed.partner, mixed.share, strict=True)
    ]
    frames = transforms.pictures(mixed.clips, recipe.clip.augment)
    return list(zip(frames, words, strict=True))


def views_of(manifest: Manifest, recipe: classify.Recipe) -> dict[str, Protocol]:
    """Choose the tests: one and 30 views of videos, one view of images.

    The view of an image is the whole image if training pads, else its center crop.

    Args:
        recipe: Gives the augmentation.
    """
    if not of_images(manifest):
        return VIEWS
    return {"whole image" if recipe.clip.augment.pad else "center crop": PROTOCOLS["one_view"]}


def tested(
    folders: Mapping[str, Path], manifest: Manifest, views: Mapping[str, Protocol]
) -> dict[tuple[str, str], Score]:
    """Test runs on the held-out videos: (name in `folders`, test) -> score with its numbers.

    Args:
        folders: Name -> run directory.
        views: Test -> protocol.
    """
    workers = min(16, cores()) if len(manifest) > MANY else 0
    found: dict[tuple[str, str], Score] = {}
    for name, folder in folders.items():
        scores = classified(folder, manifest.held_out(), views, workers=workers)
        found |= {(name, view): score for view, score in scores.items()}
    return found


def paired(
    found: Mapping[tuple[str, str], Score], arm: str, other: str
) -> dict[str, tuple[float, float, float]]:
    """Compute top-1 of one arm minus another on the same videos: test -> difference, low, high.

    Args:
        found: What `tested` returns.
        arm, other: The result is `arm` minus `other`.
    """
    gaps = {
        view: 1.0 * score.right - found[other, view].right
        for (name, view), score in found.items()
        if name == arm
    }
    sources = next(iter(found.values())).table.source_video
    return summary(gaps, by="source_video", source_video=sources)
