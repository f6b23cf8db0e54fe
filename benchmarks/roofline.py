"""What one H200 could do: each network's training step at the limit of its operations, and measured.

Counted on the meta device (vidbench.models.costs), so no GPU is needed: each operation at the rate of
a large copy or of a large matrix product, whichever is slower. `share`: the measured clips per second
(results/gpu.csv, rms-gpu.csv, multitrain-gpu.csv) over that limit. Rows of kinds say where the time
goes at the limit."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks import measure
from vidbench import models
from vidbench.models.costs import CARDS, count
from vidbench.tensors.regularizers import build_regularizer

KINDS = 5  # the most costly kinds of operation that are shown
CARD = CARDS["H200"]


@dataclass(frozen=True)
class Case:
    """A network at one clip shape [B,3,T,H,W]; file, begin of the row and contestant of its speed."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    file: str
    row: str
    contestant: str


CASES = (
    Case("S3D", lambda: models.build("s3d"), (32, 3, 32, 128, 128), "gpu", "S3D,", "vidbench"),
    Case(
        "SlowOnly-50",
        lambda: models.build("slowonly", depth=50),
        (32, 3, 8, 224, 224),
        "rms-gpu",
        "SlowOnly-50,",
        "without",
    ),
    Case(
        "SlowOnly-50, RMS",
        lambda: models.build("slowonly", build_regularizer("rms"), depth=50),
        (32, 3, 8, 224, 224),
        "rms-gpu",
        "SlowOnly-50,",
        "RMS",
    ),
    Case(
        "SlowFast-50",
        lambda: models.build("slowfast"),
        (32, 3, 32, 224, 224),
        "rms-gpu",
        "SlowFast-50,",
        "without",
    ),
    Case(
        "MViTv2-B",
        lambda: models.build("mvit", preset="seed_b"),
        (8, 3, 32, 224, 224),
        "multitrain-gpu",
        "[8, 1, 3, 32, 224",
        "backbone, one linear head",
    ),
    Case(
        "MViTv2-B, norms autocast",
        lambda: models.build("mvit", preset="seed_b", norms="autocast"),
        (8, 3, 32, 224, 224),
        "multitrain-gpu",
        "[8, 1, 3, 32, 224",
        "backbone with norms autocast, one linear head",
    ),
)


def main() -> list[dict]:
    """Rows of the networks and of their kinds of operation."""
    table = []
    for case in CASES:
        cost, clips = count(case.build, case.shape), case.shape[0]
        seconds = cost.limit(CARD)
        row = {
            "case": case.name,
            "clips": clips,
            "operations": len(cost.operations),
            "GFLOP_per_clip": round(cost.flop / clips / 1e9, 1),
            "GB": round(cost.bytes / 1e9, 1),
            "kept_GiB": round(cost.kept / 2**30, 1),
            "limit_ms": round(1e3 * seconds, 1),
            "limit_clips_per_s": round(clips / seconds),
        }
        if speed := measured(case):
            row |= {"clips_per_s": speed, "share": round(speed * seconds / clips, 2)}
        table.append(row)
        for kind, (whole, limit) in list(cost.kinds(CARD).items())[:KINDS]:
            table.append(
                {
                    "case": f"{case.name}: {kind}",
                    "operations": whole.calls,
                    "GB": round(whole.bytes / 1e9, 1),
                    "limit_ms": round(1e3 * limit, 1),
                }
            )
    return table


def measured(case: Case) -> float | None:
    """Clips per second on the card, from the newest result; None if there is none."""
    file = measure.RESULTS / f"{case.file}.csv"
    with open(file, newline="") as lines:
        for row in csv.DictReader(lines):
            if row["contestant"] == case.contestant and row["case"].startswith(case.row):
                return float(row["clips_per_s"])
    return None
