"""What notebook 41 does: a fine-tuned run tested by several crops and with the other stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidbench.data.loading.transforms import Crops
from vidbench.data.manifest import Manifest
from vidbench.engine.runs import Run
from vidbench.evaluate import probe
from vidbench.evaluate.features import PROTOCOLS, load_or_extract
from vidbench.evaluate.probe import Score
from vidbench.system.processes import cores
from vidbench.view.cards import Card, wall
from vidbench.view.clips import playing
from vidbench.view.looks import Html
from vidbench.view.scores import surest_wrong as surest

CROPS: tuple[Crops, ...] = ("center", "five", "ten")
BOTH = "ten crop, both"  # the test of two streams
MANY = 1000  # videos, from which several processes read them
Found = dict[tuple[str, str], Score]  # (run, test) -> score with its numbers


def tested(run: Run, manifest: Manifest, flow: Path, partner: Run | None) -> Found:
    """Test a run on the held-out videos by one, five and ten crops of every window.

    Args:
        run: The fine-tuned run.
        manifest: The videos.
        flow: Their flow store.
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


def keep(found: Mapping[tuple[str, str], Score], run: Run, partner: Run | None) -> None:
    """Write each number into its run with its protocol; that of both streams into the first."""
    for (name, test), score in found.items():
        shelf = partner if partner and name == partner.folder.name else run
        extra = {"fused_with": partner.folder.name} if partner and test == BOTH else {}
        shelf.add_result("finetune", {**score.protocol, **extra}, dict(score.numbers))


def surest_wrong(score: Score, manifest: Manifest, most: int = 4) -> Html | str:
    """Play the videos that are wrong with the highest probability, with both classes."""
    rows = manifest.select(split=manifest.held_out())
    look, cards = playing(rows), []
    for row in surest(score, most):
        chances = score.table.values[row]
        taken = f"taken for {score.table.classes[chances.argmax()]} ({chances.max():.0%})"
        clip = look(row).clip
        assert isinstance(clip, bytes)
        cards.append(Card(clip, rows.names(row)["label"], taken))
    return wall(cards) if cards else "none is wrong"
