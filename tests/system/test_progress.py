"""Bars for persons, few lines for logs, and no number before there is one."""

import sys
from types import SimpleNamespace

import IPython
import pytest

from vidbench.system import progress
from vidbench.system.progress import Every, Progress, style, words


def test_a_bar_for_a_person_lines_for_a_log(monkeypatch):
    monkeypatch.delenv("VIDBENCH_PROGRESS", raising=False)
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    for person in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda person=person: person, raising=False)
        assert style() == ("bar" if person else "lines")
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=1))
    assert style() == "bar"
    monkeypatch.setenv("VIDBENCH_PROGRESS", "lines")
    assert (style(), style("bar"), style("none")) == ("lines", "lines", "none")


def test_a_number_that_does_not_exist_yet_is_not_said():
    assert words({"loss": float("nan"), "lr": 0.01, "top1": None}) == "lr 0.01"
    assert words({"loss": 0.12345}, ".3f") == "loss 0.123"


@pytest.mark.parametrize("first", [True, False])
def test_a_log_gets_few_lines_and_the_last(monkeypatch, capsys, first):
    monkeypatch.setenv("VIDBENCH_PROGRESS", "lines")
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("scan", 30, "video", first=first) as bar:
        for _ in range(30):
            now[0] += 1
            bar.add(text="0 failed")
        bar.note("half a day to go")
    said = capsys.readouterr().out.splitlines()
    assert f"scan: {22 if first is False else 23} of 30 videos, 0 failed, 1/s, about " in said[-3]
    assert said[-3].endswith(f"{8 if first is False else 7} s left")
    assert said[-2:] == ["scan: 30 of 30 videos, 0 failed, 1/s", "half a day to go"]
    numbers = [int(line.split()[1]) for line in said[:-1]]
    assert numbers == ([1, 12, 23, 30] if first else [11, 22, 30])


def test_a_bar_shows_where_it_is(monkeypatch, capsys):
    monkeypatch.setenv("VIDBENCH_PROGRESS", "bar")
    with Progress("scan", 4, "video") as bar:
        bar.show(3, "1 failed")
    assert "scan" in (err := capsys.readouterr().err) and "3/4" in err and "1 failed" in err


def test_a_resumed_job_starts_where_it_was(monkeypatch, capsys):
    monkeypatch.setenv("VIDBENCH_PROGRESS", "bar")
    with Progress("train", 88, "step") as bar:
        bar.resume(88)
    assert "88/88" in capsys.readouterr().err.splitlines()[-1].rpartition("\r")[2]
    monkeypatch.setenv("VIDBENCH_PROGRESS", "lines")
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 100, "step") as bar:
        bar.resume(80)
        now[0] += 20
        bar.show(90)
    assert capsys.readouterr().out == "train: 90 of 100 steps, 0.5/s, about 20 s left\n"


def test_none_says_nothing(monkeypatch, capsys):
    monkeypatch.delenv("VIDBENCH_PROGRESS", raising=False)
    with Progress("scan", 1, "video", "none") as bar:
        bar.add()
        bar.note("x")
    assert capsys.readouterr() == ("", "")


def test_every_is_true_at_most_once_in_so_many_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    due, found = Every(10, first=True), []
    for _ in range(25):
        found.append(due())
        now[0] += 1
    assert [i for i, one in enumerate(found) if one] == [0, 11, 22]


def test_a_quick_job_says_nothing_and_a_long_one_its_end(monkeypatch, capsys):
    monkeypatch.setenv("VIDBENCH_PROGRESS", "lines")
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("features of a", 2, "video", late=True) as bar:
        bar.show(2)
    assert capsys.readouterr().out == ""
    with Progress("features of a", 7200, "video", late=True) as bar:
        now[0] += 11
        bar.show(11)
        bar.show(7200)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "features of a: 11 of 7200 videos, 1/s, about 2 h left"
    assert last.startswith("features of a: 7200 of 7200 videos, ")
