"""Estimates of a stage: against what one H200 measured, and how they scale."""

import csv
from dataclasses import replace

import pytest

from benchmarks.measure import RESULTS
from vidbench.api.sizing import KNOWN, LOADER_MS, ON_DEVICE, REACHED, STORE_KB, size
from vidbench.methods import classify, coclr
from vidbench.models import costs

PAPER = coclr.PRESETS["ucf101_paper"]


def rows(name):
    with open(RESULTS / f"{name}.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def of_batch(recipe, batch):
    return replace(recipe, fit=replace(recipe.fit, batch=batch))


@pytest.mark.parametrize("name", ("InfoNCE", "CoCLR"))
def test_the_estimate_is_near_what_the_card_measured(name):
    recipe = of_batch(PAPER.alone if name == "InfoNCE" else PAPER.together, 32)
    found = size(recipe, KNOWN["ucf101"])
    seen = next(row for row in rows("gpu") if row["contestant"] == name)
    clips = float(seen["clips_per_s"]) * (2 if name == "InfoNCE" else 4)
    assert 0.75 < clips / found.clips_per_s < 1.25
    assert 0.75 < float(seen["GiB"]) / found.memory < 1.25


def test_the_numbers_are_those_of_the_benchmarks():
    shares = {row["case"]: row["share"] for row in rows("roofline") if row["share"]}
    cases = {"s3d": "S3D", "slowonly": "SlowOnly-50", "slowfast": "SlowFast-50", "mvit": "MViTv2-B"}
    assert {name: float(shares[case]) for name, case in cases.items()} == REACHED
    loader = {row["contestant"]: row["ms"] for row in rows("loader") if "Kinetics" in row["case"]}
    assert {form: float(loader[f"vidbench, store {form}"]) for form in LOADER_MS} == LOADER_MS
    stores = {row["contestant"]: row["kB_per_second"] for row in rows("store")}
    assert {form: float(stores[f"store, {form}"]) for form in STORE_KB} == STORE_KB
    workers = [row for row in rows("augment") if row["contestant"] == "workers"]
    gains = {row["case"]: row["over_ours"] for row in workers}
    case = "vidbench, {} store of short side 128"
    assert {form: float(gains[case.format(form)]) for form in ON_DEVICE} == ON_DEVICE


def test_more_cards_share_the_time_and_the_memory(monkeypatch):
    videos, recipe = KNOWN["ucf101"], classify.PRESETS["finetune_official"]
    one, four = (size(recipe, videos, "H200", gpus) for gpus in (1, 4))
    assert one.steps == four.steps == videos.rows // recipe.fit.batch * recipe.fit.epochs
    assert one.hours / four.hours == pytest.approx(4, rel=0.05)
    assert four.clips_per_s / one.clips_per_s == pytest.approx(4, rel=0.05)
    assert one.memory > four.memory
    there = size(replace(recipe, fit=replace(recipe.fit, augment_on="device")), videos)
    assert one.cores / there.cores == pytest.approx(ON_DEVICE["jpeg"])
    assert size(recipe, videos, "A100").hours > 2 * one.hours
    small = costs.Card(1e12, 1e14, 1e9)
    monkeypatch.setitem(costs.CARDS, "H200", small)
    assert "it has 1: lower fit.batch" in one.words("H200")


def test_the_page_shows_the_results():
    page = (RESULTS.parents[1] / "assets" / "docs" / "sizing.md").read_text("utf-8")
    for row in rows("sizing"):
        cells = [value for name, value in row.items() if value and name != "contestant"]
        machine = [row["contestant"]] if row["hours"] else []
        assert "| " + " | ".join([cells[0], *machine, *cells[1:]]) + " |" in page


@pytest.mark.parametrize("card, gpus", (("H100", 1), ("H200", 3)))
def test_what_cannot_be_sized_is_refused(card, gpus):
    with pytest.raises(ValueError, match="sizing knows H200, A100"):
        size(of_batch(PAPER.alone, 32), KNOWN["ucf101"], card, gpus)
