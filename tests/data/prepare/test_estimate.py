"""Estimates: a bounded slice of few videos, near what the work takes, and nothing written."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest

from tests.data.prepare.test_outputs import contents, listed, moving, run
from vidbench.data.flow import cost as flow_cost
from vidbench.data.flow import store as flow_store
from vidbench.data.manifest import Manifest
from vidbench.data.prepare import estimate, scan, store
from vidbench.data.prepare.estimate import Estimator, Pace
from vidbench.system.files import lock_folder

FRAMES = (5, 90, 12, 7)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four videos with a list, of different lengths."""
    folder = tmp_path_factory.mktemp("data")
    listed(folder, [f"{i}.mp4" for i in range(4)])
    for i, frames in enumerate(FRAMES):
        moving(folder / f"{i}.mp4", frames, seed=i)
    return folder


class Clock:
    """A clock that moves only by its own method."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        time = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(estimate, "time", time)
        monkeypatch.setattr(flow_cost, "time", time)


def test_a_slow_method_is_measured_on_as_many_pairs_as_the_time_allows(place, monkeypatch):
    clock = Clock(monkeypatch)

    def slow(method: str):
        def calc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            clock.now += 2.0
            return np.zeros((*first.shape, 2), np.float32)

        return calc

    monkeypatch.setattr(flow_cost, "estimator", slow)
    manifest = Manifest.load(place)
    (cost,) = flow_cost.costs(manifest, place / "flow", ["tvl1"], seconds=10.0).values()
    assert clock.now <= 10.0 + 2.0 and cost.frames == clock.now / 2 <= 6
    pairs = {1: 4, 2: 4 + 89, 3: 4 + 89 + 11, 4: 4 + 89 + 11 + 6}[cost.videos]
    assert cost.seconds == pytest.approx(2.0 * pairs * 4 / cost.videos), "of all, by those measured"
    clock.now = 0.0
    (cost,) = flow_cost.costs(manifest, place / "flow", ["tvl1"], seconds=1e9).values()
    assert (cost.videos, cost.frames) == (4, 4 + estimate.FRAMES + 11 + 6), "of a long one a part"
    assert cost.seconds == pytest.approx(2.0 * (4 + 89 + 11 + 6)) and clock.now == 2.0 * cost.frames


def never(job: object, sample: estimate.Slice) -> Pace:
    """A measurement without an end."""
    while True:
        os.getpid()


def test_a_measurement_without_an_end_is_stopped(tmp_path):
    with Estimator(workers=1, seconds=2.0) as limited:
        cost = limited.cost(never, [1, 2], tmp_path / "no" / "folder")
    assert math.isnan(cost.seconds) and cost.videos == 0
    assert str(cost).startswith("2 to go; no estimate: ")


@pytest.mark.parametrize("command", ["scan", "store", "flow"])
def test_a_dry_run_writes_nothing_and_is_in_nobodys_way(place, tmp_path, capsys, command):
    before = contents(place)
    more = ("--method", "dis") if command == "flow" else ()
    words = (command, place, *more, "--workers", 0, "--out")
    with lock_folder(tmp_path / "busy"):
        locked = contents(tmp_path)
        for out in ("busy", "new"):
            assert run(*words, tmp_path / out, "--dry-run") == 0
        assert contents(tmp_path) == locked and contents(place) == before
    assert not (tmp_path / "new").exists()
    said = capsys.readouterr().out
    assert said.count(": 4 to go: about ") == 2 and said.count(" of 4 videos\n") == 2


def test_every_method_has_a_line_and_another_one_can_still_be_used(place, tmp_path, capsys):
    listed(tmp_path / "data", [str(place / "0.mp4"), str(place / "3.mp4")])
    words = ("flow", tmp_path / "data", "--workers", 0, "--size", 16, "--out", tmp_path / "flow")
    assert run(*words, "--method", "all", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split(":")[0] for line in lines] == [
        f"flow {method}" for method in ("tvl1", "tvl1_fast", "tvl1_torch", "dis")
    ]
    assert run(*words, "--method", "dis") == 0
    capsys.readouterr()
    assert run(*words, "--method", "dis", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "flow dis: 0 to go"
    assert run(*words, "--method", "tvl1_fast", "--dry-run") == 0, "it has other settings"
    assert "flow tvl1_fast: 2 to go: about " in capsys.readouterr().out
    for method, says in (("all", "all needs --dry-run"), ("speed", "got 'speed'")):
        assert run(*words, "--method", method, *["--dry-run"] * (method == "speed")) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("format", ["mp4", "jpeg", "raw"])
def test_the_estimate_of_a_store_is_near_what_it_takes(place, tmp_path, format):
    manifest = scan.scan(Manifest.load(place), tmp_path / "scan", progress=False).manifest
    cost = store.cost(manifest, tmp_path / "store", format, size=32)
    assert (cost.jobs, cost.videos, cost.frames) == (4, 4, 5 + 64 + 12 + 7)
    made = store.store(manifest, tmp_path / "store", format, size=32, progress=False)
    assert cost.bytes == pytest.approx(made.bytes, rel=0.3)
    assert store.cost(manifest, tmp_path / "store", format, size=32).jobs == 0
    assert store.cost(manifest, tmp_path / "store", format, size=16).jobs == 4


@pytest.mark.parametrize("format", ["npz", "mp4"])
def test_the_estimate_of_flow_is_near_what_it_takes(place, tmp_path, format):
    manifest = Manifest.load(place)
    options = {"format": format, "size": 32}
    (cost,) = flow_cost.costs(manifest, tmp_path / "flow", ["dis"], **options).values()
    flow_store.extract(manifest, tmp_path / "flow", "dis", **options, progress=False)
    made = sum(file.stat().st_size for file in (tmp_path / "flow").glob("*.flow.*"))
    assert cost.bytes == pytest.approx(made, rel=0.3)


def test_pairs_of_large_frames_are_measured_on_their_middle(tmp_path):
    rows, columns = flow_cost._middle(1080, 1920)
    kept = (rows.stop - rows.start, columns.stop - columns.start)
    assert kept[0] * kept[1] <= flow_cost.CROP and kept[1] / kept[0] == pytest.approx(16 / 9, 0.02)
    assert (rows.start + rows.stop, columns.start + columns.stop) == pytest.approx((1080, 1920), 1)
    assert flow_cost._middle(100, 200) == (slice(0, 100), slice(0, 200))


def test_videos_that_cannot_be_read_cost_themselves(place, tmp_path, capsys):
    listed(tmp_path / "bad", ["0.mp4", "1.mp4"])
    (tmp_path / "bad/0.mp4").write_bytes(b"no video")
    (tmp_path / "bad/1.mp4").write_bytes((place / "0.mp4").read_bytes())
    words = ("store", tmp_path / "bad", "--workers", 0, "--dry-run")
    assert run(*words) == 0 and "5 frames of 1 video\n" in capsys.readouterr().out
    (tmp_path / "bad/1.mp4").write_bytes(b"nor this")
    assert run(*words) == 2
    assert "store mp4: 2 to go; no estimate: VideoError: " in capsys.readouterr().out
