"""`vidbench compare` on two trained runs: evaluated once, then compared from what was kept."""

import json

import pytest

from tests import copied
from vidbench.__main__ import main
from vidbench.engine.runs import Run


@pytest.fixture(scope="module")
def pair(infonce, tmp_path_factory):
    """Folders of the InfoNCE runs `rgb` and `flow`, copied and evaluated by the command."""
    folder = copied(infonce[0], tmp_path_factory.mktemp("pair") / "runs")
    folders = [str(folder / stream) for stream in ("rgb", "flow")]
    assert main(["compare", *folders, "--evaluate", "test"]) == 0
    return folders


def call(capsys, *words) -> tuple[int, str, str]:
    try:
        code = main(["compare", *map(str, words)])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_comparison_needs_no_features_and_writes_a_page(pair, capsys, tmp_path, monkeypatch):
    # neither a network nor a table of features is read
    monkeypatch.setattr("vidbench.evaluate.features.kept", None)
    page = tmp_path / "compared.html"
    code, out, _ = call(capsys, *pair, "--html", page)
    assert code == 0 and "retrieval: rgb - flow = " in out and "probe: rgb - flow = " in out
    assert "the runs differ in stream rgb and flow" in out and f"-> {page}" in out
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") and "<title>Comparison of rgb and flow" in text
    assert text.count("data:image/webp") > 4 and "cannot be shown" not in text
    code, _, err = call(capsys, *pair, "--html", tmp_path / "none" / "x.html")
    assert code == 2 and "a folder that exists" in err
    foreign = tmp_path / "mine.html"
    foreign.write_text("mine")
    code, _, err = call(capsys, *pair, "--html", foreign)
    assert code == 2 and "no page of a comparison" in err and foreign.read_text() == "mine"
    assert call(capsys, *pair, "--html", page)[0] == 0, "its own page is written again"


def test_json_has_differences_classes_and_clips(pair, capsys):
    code, out, _ = call(capsys, *pair, "--json", "--task", "retrieval")
    (found,) = json.loads(out)["results"]
    assert code == 0 and found["task"] == "retrieval" and found["metric"] == "R@1"
    shares = [Run(folder).results() for folder in pair]
    wanted = [next(one for one in each.values() if one.task == "retrieval") for each in shares]
    (first,) = [one for one in found["metrics"] if one["name"] == "R@1"]
    for side, result in zip("ab", wanted, strict=True):
        assert first[side] == pytest.approx(result.numbers["R@1"][0])
    gap = (len(found["gained"]) - len(found["lost"])) / first["videos"]
    assert first["difference"] == pytest.approx(gap) and first["low"] <= gap <= first["high"]
    assert sum(one["videos"] for one in found["classes"]) == first["videos"]
    assert all(path.endswith(".mp4") for path in found["gained"] + found["lost"])


def test_what_cannot_be_compared_is_refused(infonce, capsys, tmp_path):
    one, other = infonce[0] / "rgb", infonce[0] / "flow"
    code, _, err = call(capsys, one, tmp_path)
    assert code == 2 and "is no run directory" in err
    code, _, err = call(capsys, one, other)
    assert code == 2 and "rgb keeps no predictions of single videos" in err and "--evaluate" in err
