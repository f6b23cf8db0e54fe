"""What must be seen: one block of wrapped lines in a terminal, a box in a notebook."""

import sys
from types import SimpleNamespace

from vidbench.system import notices

LONG = "The loss begins at 0.30, so gradients are small. " * 4


def test_a_terminal_gets_one_block_wrapped_between_words(capsys):
    notices.show_notice("mine: look at this", [LONG, "x" * 150])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mine: look at this" and lines[-1] == f"  - {'x' * 150}"
    assert all(len(line) <= notices.WIDE for line in lines[:-1])
    assert " ".join(" ".join(lines[1:-1]).replace("  - ", "").split()) == LONG.strip()


def test_a_notebook_gets_one_box_and_a_headless_one_text(monkeypatch, capsys):
    shown = []
    shell = SimpleNamespace(kernel=1, display_pub=SimpleNamespace(publish=_kept(shown)))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.delenv("VIDBENCH_HEADLESS", raising=False)
    notices.show_notice("<run>", ["loss < 0.5", LONG])
    assert capsys.readouterr().out == "" and len(shown) == 1
    page = shown[0]["text/html"]
    assert "&lt;run&gt;" in page and page.count("<li") == 2 and "<run>" not in page
    monkeypatch.setenv("VIDBENCH_HEADLESS", "1")
    notices.show_notice("run", ["said"])
    assert capsys.readouterr().out == "run\n  - said\n" and len(shown) == 1


def _kept(shown: list):
    return lambda data: shown.append(data)
