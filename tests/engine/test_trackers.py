"""Trackers follow a run's log: what they wrote is read back, resumed runs continue, failures warn."""

import json
import struct
import warnings
from pathlib import Path

import pytest

from tests import stages
from tests.engine.test_ranks import RECIPE
from vidbench.__main__ import main
from vidbench.engine import trackers
from vidbench.engine.runs import Run
from vidbench.system.errors import InputError


def of_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loader.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert "recipe/text_summary" in found.Tags()["tensors"]
    named = {name: found.Scalars(name) for name in found.Tags()["scalars"]}
    return {name: {one.step: one.value for one in events} for name, events in named.items()}


def of_mlflow(folder: Path) -> dict[str, dict[int, float]]:
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("vidbench").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["epochs"] == "3"
    histories = {
        name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics
    }
    return {name: {one.step: one.value for one in held} for name, held in histories.items()}


def of_wandb(folder: Path) -> dict[str, dict[int, float]]:
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: dict[str, dict[int, float]] = {}
    names = set()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = proto.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                names.add(record.run.run_id)
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                held = found.setdefault(key, {})
                held[record.history.step.num] = json.loads(item.value_json)
    assert len(names) == 1, "a resumed run has the same id"
    return found


def records(data: bytes):
    """The records of LevelDB's log format, in which wandb writes after a header of 7 bytes."""
    at, part = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield part
            part = b""


READERS = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "wandb": of_wandb}


def logged(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in Run(folder).metrics()}


@pytest.mark.parametrize(
    "name",
    ["tensorboard", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlflow", "wandb"))],
)
def test_a_tracker_has_the_runs_lines_after_a_failure_and_a_replay_has_them_too(
    name, tmp_path, monkeypatch, capsys
):
    pytest.importorskip({"mlflow": "mlflow.tracking"}.get(name, name))
    monkeypatch.setenv("VIDBENCH_TRACK", name)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run, torn = tmp_path / "runs" / "run", (str(tmp_path / "torn"), "raises")
    with pytest.raises(RuntimeError, match="shelf 42"):
        stages.regress(RECIPE, str(run), 0.2, torn=torn)
    stages.regress(RECIPE, str(run), 0.2, torn=torn)
    wanted = logged(run)
    found = READERS[name](run)
    assert len(wanted) > 2 and found["train/loss"] == pytest.approx(wanted, rel=1e-6)
    assert {"train/lr", "train/epoch"} <= set(found)

    monkeypatch.delenv("VIDBENCH_TRACK")
    words = ["runs", "export", "--to", name, str(tmp_path / "out"), str(run)]
    assert main(words) == 0
    again = READERS[name](tmp_path / "out" / "run")
    assert again["train/loss"] == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"out/run/{name} already exists" in capsys.readouterr().err


def test_a_tracker_that_fails_warns_once_and_training_ends_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDBENCH_TRACK", "mlflow")  # without the package, or without this server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stages.regress(RECIPE, str(tmp_path / "run"))
    ours = [str(one.message) for one in said if "mlflow failed" in str(one.message)]
    assert len(ours) == 1 and "Training continues without it" in ours[0]
    assert Run(tmp_path / "run").state == "complete" and len(logged(tmp_path / "run")) > 2


def test_an_unknown_tracker_is_refused_at_the_door(monkeypatch, capsys):
    assert trackers.chosen("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    with pytest.raises(InputError, match="tensorboard, wandb, mlflow.*got 'visdom'"):
        trackers.chosen("visdom")
    monkeypatch.setenv("VIDBENCH_TRACK", "visdom")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "nowhere"])
    assert "got 'visdom'" in capsys.readouterr().err
