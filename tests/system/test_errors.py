"""Errors in a notebook: two lines and how to see the rest; a stop is a notice and no error."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from vidbench.data.sets import catalogue
from vidbench.engine.recipes import RunError
from vidbench.system import errors
from vidbench.system.ranges import check_fields
from vidbench.system.signals import Interrupted


@pytest.fixture
def shell(monkeypatch):
    """An IPython shell that counts as a kernel's, and what it shows as tracebacks."""
    monkeypatch.delenv("VIDBENCH_HEADLESS", raising=False)
    shell = InteractiveShell.instance()
    shell.kernel, shell.shown = True, []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, error, stb: shell.shown.append(stb))
    yield shell
    InteractiveShell.clear_instance()


def test_an_error_has_three_lines_and_tb_shows_the_rest(shell):
    shell.run_cell("from vidbench.engine.recipes import RunError\ndef f(): raise RunError('a\\nb')")
    assert not shell.run_cell("f()").success
    assert shell.shown == [["RunError: a", "b", errors.REST]]
    shell.run_cell("%tb")
    whole = "\n".join(shell.shown[1])
    assert "Traceback" in whole and "RunError" in whole and whole.count("\n") > 4


def test_headless_the_whole_traceback_stays(shell, monkeypatch):
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    shell.run_cell("from vidbench.engine.recipes import RunError\nraise RunError('a')")
    assert "Traceback" in "\n".join(shell.shown[0])


def test_outside_of_ipython_the_traceback_is_pythons():
    assert errors.whole(RunError("a"))[-1].endswith("RunError: a\n")


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: catalogue.prepare_dataset("runs", "tinny"), FileNotFoundError, "Did you mean"),
        (lambda: catalogue.open_dataset("ufc", "x"), ValueError, "unknown data set"),
        (lambda: check_fields(_range()), ValueError, "must be"),
    ],
)
def test_what_a_user_can_fix_is_brief(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    lines = caught.value._render_traceback_()
    assert says in lines[0] and 2 <= len(lines) <= 3


def _range():
    from vidbench.engine.optimize import Fit

    fit = Fit()
    object.__setattr__(fit, "batch", "many")
    return fit


def test_unknown_data_is_answered_with_what_was_meant():
    with pytest.raises(FileNotFoundError) as caught:
        catalogue.prepare_dataset("runs", "tinny")
    assert caught.value._render_traceback_() == [
        "MissingError: no such folder: tinny. Did you mean the built-in data set 'tiny'?",
        "Toy worlds: tiny, small, large.",
        errors.REST,
    ]
    with pytest.raises(FileNotFoundError) as caught:
        catalogue.prepare_dataset("runs", "/data/UCF")
    assert "Toy worlds" not in str(caught.value)


def test_a_stop_is_a_notice_and_ends_the_cell(shell, capsys, monkeypatch):
    monkeypatch.setattr(errors, "show_notice", lambda *said, calm: print(*said, calm))
    errors.calm_stops(Interrupted)
    ran = shell.run_cell(
        "from vidbench.system.signals import Interrupted\nraise Interrupted('saved')\nprint('on')"
    )
    out = capsys.readouterr().out
    assert "Stopped ['saved'] True" in out and "on" not in out.split("True")[1]
    assert not ran.success and shell.shown == []
