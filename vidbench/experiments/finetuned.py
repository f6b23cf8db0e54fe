"""Functions of notebook 41: a fine-tuned run tested by several crops and with the other stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidbench.data.loading.transforms import Crops
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import outcomes, probe
from vidbench.evaluate.features import PROTOCOLS, load_or_extract
from vidbench.evaluate.probe import Score
from vidbench.system.processes import cores

CROPS: tuple[Crops, ...] = ("center", "five", "ten")
BOTH = "ten crop, both"  # the test of two streams
MANY = 1000  # with more videos, several processes read them
Found = dict[tuple[str, str], Score]  # (run, test) -> score with its numbers


def tested(run: Run, manifest: Manifest, flow: Path, partner: Run | None) -> Found:
    """Test a run on the held-out videos by one, five and ten crops of every window.

    Args:
        run: The fine-tuned run.
        flow: The flow store of the videos.
        partner: A run of the other stream, tested by ten crops and fused with the first; or None.
    """
    tables = {}
    for number in CROPS:
        tables[run.folder.name, f"{number} crop"] = _probabilities(run, manifest, flow, number)
    if partner:
        mine, theirs = (run.folder.name, "ten crop"), (partner.folder.name, "ten crop")
        tables[theirs] = _probabilities(partner, manifest, flow, "ten")
        tables[run.folder.name, BOTH] = probe.fuse_tables(tables[mine], tables[theirs])
    found = {}
    for key, table in tables.items():
        score = probe.score(table)
        found[key] = replace(score, numbers=probe.numbers(score, by="source_video"))
    return found


def _probabilities(run: Run, manifest: Manifest, flow: Path, crops: Crops) -> Any:
    workers = min(16, cores()) if len(manifest) > MANY else 0
    protocol = replace(PROTOCOLS["coclr_ten_crop"], crops=crops)
    inputs: dict[str, Any] = {"manifest": manifest, "flow": flow, "workers": workers}
    return load_or_extract(run, manifest.held_out(), protocol, what="probabilities", **inputs)


def keep(
    found: Mapping[tuple[str, str], Score], run: Run, partner: Run | None, videos: Manifest
) -> None:
    """Write each number and outcome into its run; the fused test's go into the first run.

    Args:
        videos: Those that were tested.
    """
    for (name, test), score in found.items():
        shelf = partner if partner and name == partner.folder.name else run
        extra = {"fused_with": partner.folder.name} if partner and test == BOTH else {}
        outcomes.add(shelf, outcomes.of_score("finetune", score, videos, extra), score.numbers)
