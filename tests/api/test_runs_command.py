"""`vidbench runs ls | show | diff | rm`: what a person and a program read, and what is refused."""

import json
import os
import sys
from io import StringIO

import pytest

from tests.evaluate.test_results import measured, trained
from vidbench.__main__ import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with runs/tiny/{rgb, tuned}, as the current folder; `tuned` starts from `rgb`."""
    run = measured(tmp_path / "runs/tiny/rgb")
    measured(tmp_path / "runs/tiny/tuned", fields={"student": str(run.folder)}, windows=10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys):
    """A function: words of a command -> (exit code, stdout, stderr)."""

    def called(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["runs", *map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return called


def test_ls_prints_a_line_for_each_run(here, call):
    (here / "runs/tiny/rgb/status.json").write_text("{")
    code, out, err = call("ls")
    head, first, second = out.splitlines()
    assert code == 0 and head.split() == "run method stream state epochs best date size".split()
    assert first.split()[:5] == ["tiny/rgb", "coclr", "rgb", "broken", "2.5/0"]
    assert second.split()[:5] == ["tiny/tuned", "coclr", "rgb", "complete", "2.5/0"]
    assert "R@1 50.0 % (retrieval)" in second and "kB" in second
    assert err.startswith("tiny/rgb: status.json: ")
    code, out, _ = call("ls", "runs", "--json")
    assert code == 0 and [one["run"] for one in json.loads(out)] == ["tiny/rgb", "tiny/tuned"]
    assert json.loads(out)[1]["best"]["protocol"]["windows"] == 10
    assert call("ls", here / "runs/tiny/rgb/checkpoints")[1].startswith("no runs below ")
    assert call("ls", "nowhere")[::2] == (
        2,
        "vidbench: FileNotFoundError: no such folder: nowhere. Name the folder that your runs are "
        "in.\n",
    )


def test_show_prints_the_run_whole(here, call):
    code, out, _ = call("show", "runs/tiny/tuned")
    assert code == 0
    for line in (
        "state   complete, epoch 2.5 of 0",
        "budget  epochs 5, iterations 80, clips 1280, batch 16, seconds 2 (of rgb > tuned)",
        "  fit.batch  16",
        "    R@1      50.0 % [25.0, 62.5]",
        "    windows    10",
        "  versions.torch ",
    ):
        assert f"\n{line}" in out
    held = json.loads(call("show", "runs/tiny/tuned", "--json")[1])
    assert held["recipe"]["fit"] == {"batch": 16} and held["results"][0]["metric"] == "R@1"
    assert held["budget"]["stages"] == ["rgb", "tuned"] and held["environment"]["python"]
    code, _, err = call("show", "runs/tiny")
    assert code == 2 and "contains 2 of them. Name one: runs/tiny/rgb, runs/tiny/tuned" in err
    assert "none; evaluate the run" in call("show", trained(here / "new").folder)[1]


def test_diff_prints_what_differs(here, call):
    code, out, _ = call("diff", "runs/tiny/rgb", "runs/tiny/tuned")
    recipe, results, one, other = out.split("\n\n")
    assert code == 0 and recipe.splitlines()[1].split()[:2] == ["student", "none"]
    assert results.splitlines()[1].split("  ")[:2] == ["retrieval R@1", "[1]"]
    assert "[2]" in results and "windows 10" in one and "windows 4" in other
    held = json.loads(call("diff", "runs/tiny/rgb", "runs/tiny/tuned", "--json")[1])
    assert [one["field"] for one in held["recipe"]] == ["student"]
    assert [pair[0] is None for pair in held["results"]] == [True, True, False, False]
    assert "the recipes are equal" in call("diff", "runs/tiny/rgb", "runs/tiny/rgb")[1]


def test_rm_waits_for_a_yes(here, call, monkeypatch):
    code, out, err = call("rm", "runs/tiny/tuned")
    assert (code, out) == (2, "") and "nothing was deleted. Use --yes" in err
    for answer, ends in (("n\n", 2), ("", 2), ("y\n", 0)):
        terminal = StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", terminal)
        code, out, err = call("rm", "runs/tiny/tuned")
        assert code == ends and "delete runs/tiny/tuned? [y/N]" in err
    assert out.startswith("deleted runs/tiny/tuned: ") and out.endswith(" bytes freed\n")
    assert os.listdir("runs/tiny") == ["rgb"]


def test_rm_refuses_a_run_that_another_needs(here, call):
    code, _, err = call("rm", "runs/tiny/rgb", "--yes")
    assert code == 2 and "runs/tiny/rgb is needed by " in err and "or use --force" in err
    (here / "runs/tiny/rgb/notes.txt").write_text("mine")
    code, out, err = call("rm", "runs/tiny/rgb", "--yes", "--force", "--json")
    assert code == 0 and "is needed by" in err
    assert json.loads(out)[0]["kept"] == ["notes.txt"]


def test_rm_of_both_at_once_needs_no_force(here, call):
    code, out, _ = call("rm", "runs/tiny/rgb", "runs/tiny/tuned", "--yes")
    assert code == 0 and len(out.splitlines()) == 2 and os.listdir("runs/tiny") == []


@pytest.mark.parametrize("folder", ["runs/tiny", "runs/tiny/rgb/recipe.json", "nowhere", ""])
def test_rm_refuses_what_is_no_run(here, call, folder):
    code, _, err = call("rm", "runs/tiny/tuned", folder, "--yes", "--force")
    assert code == 2 and err.startswith("vidbench: ") and "Error" not in err
    assert sorted(os.listdir("runs/tiny")) == ["rgb", "tuned"]
