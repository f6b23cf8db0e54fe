"""What full runs take on paper: each preset's stages on three machines, and the largest batch by memory.

Counted and estimated (vidbench.api.sizing), not measured: no GPU is needed. assets/docs/sizing.md
shows these rows."""

from __future__ import annotations

from dataclasses import replace

from vidbench.api.sizing import KNOWN, size
from vidbench.methods import classify, coclr
from vidbench.methods.common import Recipe

MACHINES = (("H200", 1), ("H200", 8), ("A100", 8))
FEW = (8, 16)  # batches from which memory is extrapolated
MEMORY = (24, 48, 80, 141)  # GB of common cards
STAGES: dict[str, tuple[str, Recipe]] = {
    "ucf101_paper, InfoNCE": ("ucf101", coclr.PRESETS["ucf101_paper"].alone),
    "ucf101_paper, CoCLR": ("ucf101", coclr.PRESETS["ucf101_paper"].together),
    "finetune_official": ("ucf101", classify.PRESETS["finetune_official"]),
    "k400_paper, InfoNCE": ("k400", coclr.PRESETS["k400_paper"].alone),
    "k400_paper, CoCLR": ("k400", coclr.PRESETS["k400_paper"].together),
    "rms_kinetics400": ("k400", classify.PRESETS["rms_kinetics400"]),
    "rms_slowfast": ("k400", classify.PRESETS["rms_slowfast"]),
    "multitrain_k400": ("k400", classify.PRESETS["multitrain_k400"]),
}


def main() -> list[dict]:
    """A row for each stage and machine, then one for each stage with the batch that fits."""
    table = []
    for name, (data, recipe) in STAGES.items():
        for card, gpus in MACHINES:
            found = size(recipe, KNOWN[data], card, gpus)
            table.append(
                {
                    "case": name,
                    "contestant": f"{gpus} x {card}",
                    "batch": recipe.fit.batch,
                    "epochs": recipe.fit.epochs,
                    "hours": round(found.hours, 1),
                    "GiB": round(found.memory),
                    "clips_per_s": round(found.clips_per_s),
                    "cores": round(found.cores),
                    "disk_GB": round(found.disk),
                }
            )
    return table + [largest(name, data, recipe) for name, (data, recipe) in STAGES.items()]


def largest(name: str, data: str, recipe: Recipe) -> dict:
    """The largest power of two clips on one card of each memory; "-" if not one fits."""
    found = {"case": name, "contestant": "largest batch on one card"}
    some, more = (
        _memory(replace(recipe, fit=replace(recipe.fit, batch=n, accumulate=1)), data) for n in FEW
    )
    each = (more - some) / (FEW[1] - FEW[0])
    fixed = some - FEW[0] * each
    for memory in MEMORY:
        batch = int((memory * 1e9 / 2**30 - fixed) / each)
        found[f"{memory} GB"] = 1 << batch.bit_length() - 1 if batch > 0 else "-"
    return found


def _memory(recipe: Recipe, data: str) -> float:
    return size(recipe, KNOWN[data]).memory
