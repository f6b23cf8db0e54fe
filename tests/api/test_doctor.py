"""`vb.doctor()` and `vidbench doctor`."""

import json

import pytest

import vidbench as vb
from vidbench.__main__ import main
from vidbench.api import health
from vidbench.engine.health import Check
from vidbench.methods import coclr


def test_the_doctor_looks_at_this_machine_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = vb.doctor(seconds=0.2)
    named = {one.name: one for one in found.checks}
    assert {"pyav", "decord", "torchcodec", "GPU", "CPU", "disk", "Chromium"} <= set(named)
    assert "reads the shipped clip, 20 frames" in named["pyav"].found
    assert "the shipped toy clips" in named["reading"].found and found.works
    assert str(found).count("\n") == len(found.checks) - 1
    assert not list(tmp_path.iterdir())


def test_the_command_prints_json_and_fails_only_for_what_prevents_work(
    toy_tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(health, "SECONDS", 0.0)
    toy_tiny.save(tmp_path / "videos")
    optional = [Check("Chromium", "missing", "not on PATH")]
    for more, code in ((optional, 0), ([Check("disk", "missing", "0", "Free it.", True)], 1)):
        monkeypatch.setattr(health, "machine", lambda more=more: more)
        assert main(["doctor", "--json", "--data", str(tmp_path / "videos")]) == code
        said = json.loads(capsys.readouterr().out)
        assert said["works"] == (code == 0) and said["checks"][-1]["name"] == more[0].name


def test_what_cannot_be_measured_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="preset must be one of tiny, toy"):
        vb.doctor(preset="huge")
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--data", str(tmp_path / "none")])
    assert "none" in capsys.readouterr().err


def test_reading_is_measured_and_compared(toy_tiny):
    recipe = coclr.PRESETS["tiny"].alone
    assert health.read_rate(toy_tiny, recipe.clip, 0.1) > 0
    assert health.step_rate(recipe, 0.1) > 0
    slow = health.reading_check("x", needed=100.0, one_core=10.0, usable=4)
    assert slow.state == "warning" and "Use 10 cores" in slow.todo
    assert health.reading_check("x", needed=30.0, one_core=10.0, usable=4).state == "ok"
