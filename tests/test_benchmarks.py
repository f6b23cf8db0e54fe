"""The benchmarks: how they measure and judge, and each one's pieces once on tiny inputs. No speed
is judged here."""

import csv
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import (
    augment,
    flow,
    footage,
    loader,
    measure,
    memory,
    notebook,
    overhead,
    reader,
    retrieval,
    rms,
    roofline,
    s3d,
    startup,
    switches,
    travel,
)
from benchmarks import indexes as galleries
from benchmarks import relations as pictures
from benchmarks import store as stores
from benchmarks import views as augmentation
from vidbench import models
from vidbench.data.loading.augmentation import PRESETS, draw
from vidbench.data.toy import world as toy
from vidbench.data.video import clips
from vidbench.methods import coclr
from vidbench.models.planes import SplitMaxPool3d
from vidbench.system import kernels


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Benchmarks keep to one core and one thread for their process; the tests after these shall
    not."""
    monkeypatch.setattr(measure, "one_thread", lambda: None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two encoded clips of each kind; no real data is looked for."""
    folder = tmp_path_factory.mktemp("footage")
    kinds = {footage.KINETICS: "mp4", footage.UCF: "avi"}
    return {
        kind: [footage.encode(folder / f"{i}.{end}", i, 48) for i in range(2)]
        for kind, end in kinds.items()
    }


def test_a_goal_can_be_missed(capsys):
    reached = measure.goal("P1", "reader", ">= 1.2", [1.0, 1.43, 1.5])
    assert (reached["got"], reached["min"], reached["max"], reached["verdict"]) == (
        1.43,
        1.0,
        1.5,
        "reached",
    )
    assert (
        capsys.readouterr().out
        == "goal P1: reader: wanted >= 1.2, got 1.43, 1.0 to 1.5 (reached)\n"
    )
    for wanted, values in ((">= 1.2", [1.1, 1.1, 9.0]), ("<= 1.2", 1.3), ("<= 0", [0.001])):
        assert measure.goal("P1", "reader", wanted, values)["verdict"] == "MISSED"
    assert measure.goal("P9", "memory", "<= 5", 5)["verdict"] == "reached"
    assert "got 5.0 (reached)" in capsys.readouterr().out.splitlines()[-1]


def test_contestants_run_in_turn_on_the_same_draws():
    seen, now = [], iter(range(100))
    calls = {name: lambda draw, name=name: seen.append((name, draw)) for name in "ab"}
    seconds = measure.in_turn(calls, draws=[3, 4], clock=lambda: next(now))
    assert seen == [("a", 3), ("b", 3), ("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    row = measure.rows({"ours": [1.0, 2.0, 1.0], "theirs": [2.0, 2.0, 3.0]}, "ours")[1]
    assert (row["ms"], row["over_ours"], row["min"], row["max"]) == (2000.0, 2.0, 1.0, 3.0)


def capability() -> list[dict]:
    """What torch may use, and a goal."""
    return [{"torch": torch.backends.cpu.get_cpu_capability()}, measure.goal("P6", "x", ">= 1", 2)]


def test_rows_of_each_instruction_set_come_from_its_process():
    before = dict(os.environ)
    table = measure.in_sets(capability)
    assert dict(os.environ) == before
    ours = torch.backends.cpu.get_cpu_capability()
    found = [(row["set"], row["torch"]) for row in table if "torch" in row]
    assert found == ([("AVX-512", ours), ("AVX2", "AVX2")] if ours == "AVX512" else [(ours, ours)])
    assert [row["set"] for row in table if "goal" in row] == [which for which, _ in found]


def test_results_hold_rows_goals_and_machine(tmp_path):
    table = [
        {"contestant": "a", "ms": 1.0},
        {"ms": 2.0, "more": 3},
        measure.goal("P2", "store", ">= 5", 4),
    ]
    written = json.loads(measure.save("x", table, tmp_path).read_text())
    assert written["rows"] == table[:2] and written["goals"][0]["verdict"] == "MISSED"
    assert {"cpu", "cores", "versions", "command", "date", "vidbench"} <= set(written["machine"])
    assert [row["more"] for row in csv.DictReader(open(tmp_path / "x.csv"))] == ["", "3"]


def test_the_command_runs_each_benchmark_and_says_what_was_missed(tmp_path, monkeypatch, capsys):
    assert {
        "augment",
        "reader",
        "store",
        "loader",
        "views",
        "flow",
        "s3d",
        "overhead",
        "retrieval",
        "memory",
        "startup",
        "notebook",
        "rms",
        "relations",
        "indexes",
        "browsing",
        "multitrain",
        "gpu",
        "roofline",
        "sizing",
    } == set(bench.names())
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(measure.save, "__defaults__", (measure.RESULTS,))
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(
        stores, "main", lambda: [{"ms": 1.0}, measure.goal("P2", "store", ">= 5", 4)]
    )
    assert bench.main(["store"]) == 0
    bench.summary(["store", "flow"], 0)
    assert "1 goals measured, 1 missed" in capsys.readouterr().out

    monkeypatch.setattr(galleries, "main", lambda scale=False: [{"scale": scale}])
    for flags, written in (([], "indexes"), (["--scale"], "indexes-scale")):
        assert bench.main(["indexes", *flags]) == 0
        assert (measure.RESULTS / f"{written}.csv").read_text().split() == [
            "scale",
            str(bool(flags)),
        ]
    assert bench.main(["store", "--scale"]) == 0  # which has no larger sizes

    def skips():
        raise measure.Skip("no such thing here")

    monkeypatch.setattr(stores, "main", skips)
    assert bench.main(["store"]) == 0
    assert "skipped: no such thing here" in capsys.readouterr().out
    for wrong in (["nonsense"], ["gpu", "--part", "nonsense"], ["store", "--part", "flow"]):
        with pytest.raises(SystemExit):
            bench.main(wrong)


def test_footage_is_what_it_stands_for(videos, monkeypatch, tmp_path):
    shapes = {kind: clips.probe(paths[0])[:4] for kind, paths in videos.items()}
    assert shapes == {footage.KINETICS: (48, 30.0, 256, 340), footage.UCF: (48, 25.0, 240, 320)}
    (tmp_path / "real_clips" / "kinetics").mkdir(parents=True)
    for i in range(5):
        (tmp_path / "real_clips" / "kinetics" / f"{i}.mp4").touch()
    monkeypatch.setenv("VIDBENCH_DATA", str(tmp_path))
    assert [path.name for path in footage.files(footage.KINETICS, tmp_path, 3)] == [
        "0.mp4",
        "2.mp4",
        "4.mp4",
    ]


@pytest.mark.parametrize("kind", footage.KINDS)
def test_reader_store_and_loader_once(videos, kind, tmp_path):
    paths = videos[kind]
    seconds, off = reader.compare(paths, 1)
    assert {"vidbench", "decord", reader.LIMIT} <= set(seconds) and seconds["vidbench"].shape == (
        1,
        2,
    )
    assert off["decord"].max() < 3
    made = stores.written(paths, tmp_path / "raw", "raw").manifest
    files = [made.absolute(i) for i in range(2)]
    assert stores.worst(files, paths, [(0, 0), (1, 9)]) == "equal"
    with pytest.raises(AssertionError, match="other pictures"):
        stores.worst(files[::-1], paths, [(0, 0), (1, 9)])
    ways = {**loader.ours(paths, tmp_path / "loader"), loader.PLAIN: loader.plain(paths)}
    seconds = loader.compare(ways, paths, 1)
    assert set(seconds) == set(ways) and loader.fastest(seconds) == loader.PLAIN
    assert loader.fastest({**seconds, "another": [9.0]}) == "another"


def test_the_reader_is_checked_against_a_whole_decode(videos, monkeypatch):
    shifted = reader.ours
    monkeypatch.setattr(reader, "ours", lambda path, start: shifted(path, start and start - 1))
    with pytest.raises(AssertionError, match="other frames"):
        reader.compare(videos[footage.KINETICS], 2)


def test_peers_that_are_not_there_are_named(videos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmaction", None)
    found = loader.peers(videos[footage.UCF][:1])
    assert loader.PLAIN in found and not any(name.startswith("mmaction2") for name in found)
    assert "mmaction2, decord is skipped: ModuleNotFoundError" in capsys.readouterr().out


def test_augmentation_and_s3d_once(monkeypatch):
    toy = replace(PRESETS["toy"], jitter_p=1.0, gray_p=0.0, blur_p=1.0)
    clip = augmentation.moving_clip(2, 32, 40)
    drawn = [draw(toy, 32, 40, 2, np.random.default_rng(0))]
    table, seconds = augmentation.compare("tiny", clip, drawn, toy, 1)
    assert {row["contestant"] for row in table} == set(seconds) and len(seconds) >= 4
    monkeypatch.setattr(augment, "COUNT", 1)
    monkeypatch.setattr(augment, "CASES", {"toy": (64, ("jpeg",))})
    assert [row["contestant"] for row in augment.main(1)] == ["reads", "workers", "device"]
    table = s3d.main(1, {"tiny": (2, 8, 32)})
    assert [row["goal"] for row in table if "goal" in row] == ["P6"] * 3


def test_random_mean_scaling_once(monkeypatch):
    monkeypatch.setattr(rms, "FEATURES", {"tiny": (4, 3, 5, 5)})
    small = {"width": 0.07, "blocks": (1, 1, 1, 1)}
    monkeypatch.setattr(
        rms, "NETS", {"SlowOnly": ("slowonly", small, 4), "SlowFast": ("slowfast", small, 8)}
    )
    table = rms.main(1, clips=2, side=32)
    assert [row["goal"] for row in table if "goal" in row] == ["P15"] * 4 + ["P16"] * 2
    kept = {row["contestant"]: row["kept"] for row in table if "kept" in row}
    assert kept["plain avg_pool3d"] >= 1 and kept["vidbench"] == 0
    assert rms.repeats("slowonly", small, torch.randn(2, 3, 4, 32, 32))
    assert not torch.are_deterministic_algorithms_enabled()


def test_each_switch_of_a_network_once(monkeypatch):
    """On a CPU, where most switches change nothing; none is left switched."""
    small = {"width": 0.07, "blocks": (1, 1, 1, 1)}
    case = roofline.Case(
        "SlowOnly-50", lambda: models.build("slowonly", **small), (2, 3, 4, 32, 32), "", "", ""
    )
    names = {variant.name for variant in switches.VARIANTS if not variant.compiled}
    monkeypatch.setitem(switches.APPLIES, case.name, names)
    monkeypatch.setattr(switches, "WARM_UP", 1)
    before = os.environ.get(kernels.SWITCH), SplitMaxPool3d.devices
    table = switches.main(1, (case,))
    assert {row["contestant"] for row in table} == names and len(table) == len(names)
    assert all(row["clips_per_s"] > 0 and "share_of_limit" in row for row in table)
    assert (os.environ.get(kernels.SWITCH), SplitMaxPool3d.devices) == before


@pytest.mark.slow
def test_clips_for_a_gpu_train_the_stages_of_coclr(tmp_path):
    """As on the machine with a GPU: nothing but the files of `make` is read."""
    megabytes = travel.make(tmp_path / "clips", toy.Preset(32, 15, 24, 2, 1))
    assert 0 < megabytes < 2
    with pytest.raises(measure.Skip, match="benchmarks.travel"):
        travel.many(tmp_path / "none", tmp_path / "x")
    many = travel.many(tmp_path / "clips", tmp_path / "many", 36)
    tiny = coclr.PRESETS["tiny"].alone
    fit = replace(tiny.fit, epochs=3, batch=4, log_every=3, precision="bf16")
    clip = replace(tiny.clip, frames=4, augment=replace(tiny.clip.augment, size=32))
    rows = travel.stages(
        replace(tiny, queue=16, held_out=0.0, fit=fit, clip=clip), many, tmp_path / "runs"
    )
    assert [row["steps"] for row in rows] == [27] * 3
    assert all(row["clips_per_s"] > 0 and 0 <= row["data_share"] <= 1 for row in rows)


def test_parts_of_a_step_are_all_of_it():
    table = overhead.main(2, {"tiny": (replace(coclr.PRESETS["tiny"].alone, positives="mined"), 2)})
    shares = {row["part"]: row["share_of_step"] for row in table if "part" in row}
    assert sum(shares.values()) == pytest.approx(1, abs=0.05) and min(shares.values()) > 0
    assert shares["encoders"] == max(shares.values())


def test_retrieval_contestants_agree_and_a_wrong_one_is_found(monkeypatch):
    monkeypatch.setattr(
        retrieval, "footprint", lambda name, *_: {"case": name, "GiB_beside_gallery": 0.1}
    )
    table = retrieval.main(1, {"tiny": (60, 20)}, 8)
    assert {row["others_in_top_10"] for row in table if "ms" in row} == {0}
    made = retrieval.contestants()
    wrong = {**made, retrieval.OURS: lambda g, q: made[retrieval.OURS](g, q[::-1].copy())}
    monkeypatch.setattr(retrieval, "contestants", lambda: wrong)
    with pytest.raises(AssertionError, match="finds others"):
        retrieval.main(1, {"tiny": (60, 20)}, 8)
    extra, held = retrieval.peak(100, 10, 8)
    assert extra >= -0.01 and held == 0


def test_indexes_once(monkeypatch, tmp_path):
    monkeypatch.setattr(
        galleries, "alone", lambda call, *arguments: call(*arguments)
    )  # a process each takes seconds
    table = galleries.main(1, (1200,), width=16)
    rows = [row for row in table if "goal" not in row]
    kinds = [row["index"].split(",")[0] for row in rows]
    assert kinds == 2 * [
        "flat",
        "hnsw",
        "ivf_sq8",
        "ivf_sq8",
    ]  # of 30 lists 16 are looked into, or all
    assert [row["build_s"] >= 0 for row in rows if "build_s" in row] == [True] * 6
    assert {row["recall"] for row in rows if row["index"] == "flat"} == {1.0}
    assert all(0.5 < row["recall"] <= 1 and row["single_ms"] > 0 for row in rows)
    assert [row["goal"] for row in table if "goal" in row] == ["P19"] * 6
    path, queries = galleries.write(tmp_path / "rows.npy", 300, 16, 1.0, 0.5)
    values = np.load(path).astype(np.float32)
    for part in (values, queries):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-3)
    assert galleries.peak() > values.nbytes


def test_pictures_of_relations_are_made_and_drawn_once(monkeypatch):
    made = pictures.pictures(12, 10)
    assert len(made) == 6 and all(len(pictures.text_of(make())) > 1000 for make in made.values())
    monkeypatch.setattr(measure.shutil, "which", lambda name: None)
    with pytest.raises(measure.Skip, match="no Chromium"):
        pictures.main(1, (12, 10))
    monkeypatch.undo()
    try:
        table = pictures.main(1, (12, 10))
    except measure.Skip as reason:
        pytest.skip(str(reason))
    rows = {row["picture"]: row for row in table if "picture" in row}
    assert list(rows) == list(made) and min(row["draw_ms"] for row in rows.values()) > 0
    assert {name for name, row in rows.items() if "hover_ms" in row} == set(made) - {
        "sankey",
        "table of 50",
    }
    assert [row["goal"] for row in table if "goal" in row] == ["P17"] * 6


def test_memory_visits_clips(videos, tmp_path):
    paths = videos[footage.UCF]
    stores.written(paths, tmp_path / "store", "mp4")
    for case in memory.CASES:
        assert len(memory.resident(case, paths, tmp_path / "store", (1, 3))) == 2


def test_flow_once(videos, tmp_path):
    path = flow.short(videos[footage.KINETICS][0], tmp_path / "world", 0, 4)
    parts = [clips.read(path, [0, 1]).frames]
    table, goals = flow.methods(parts, 1)
    assert table[0]["epe"] == 0 and [goal["goal"] for goal in goals] == ["P5"] * 2
    table, goals = flow.forms(path, tmp_path / "forms")
    assert [row["contestant"] for row in table] == ["raw uint8", "npz", "mp4"] and len(goals) == 2
    assert flow.error(np.zeros((2, 3, 2)), np.full((2, 3, 2), [3.0, 4.0])) == pytest.approx(5)


def test_programs_are_run_and_failures_shown(tmp_path):
    startup.run(["-c", "import vidbench"])
    with pytest.raises(RuntimeError, match="no such luck"):
        startup.run(["-c", "raise SystemExit('no such luck')"])
    before = measure.children()
    startup.run(["-c", "sum(range(1_000_000))"])
    assert measure.children() > before
    notebook.write(tmp_path / "x.ipynb", ("1 + 1",))
    from vidbench.headless.parameters import known_parameters

    assert known_parameters(tmp_path / "x.ipynb") == {"runs_dir": "../runs"}
    compile("\n".join(notebook.SMOKE), "smoke", "exec")
    assert torch.get_num_threads() >= 1
