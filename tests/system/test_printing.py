"""What a command prints: only the result on stdout, whoever reads it and whatever names contain."""

import json
import math
import subprocess
import sys

from vidbench.system.printing import aligned, as_json


def run(program: str, reader: str = "cat") -> subprocess.CompletedProcess:
    lines = f"from vidbench.system.printing import *\nimport subprocess, sys\n{program}\n"
    command = f'"{sys.executable}" -c "$PROGRAM"; echo "exit $?" >&2'
    return subprocess.run(
        ["sh", "-c", f"({command}) | {reader}"],
        env={"PROGRAM": lines, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_notes_of_this_process_and_of_its_children_go_to_stderr():
    done = run(
        "with notes_to_stderr():\n"
        "    print('note'); subprocess.run(['echo', 'from a child'])\n"
        "show('result')"
    )
    assert done.stdout == "result\n" and done.stderr == "note\nfrom a child\nexit 0\n"


def test_a_reader_may_stop_early():
    done = run("show('line\\n' * 100000); show('more')", "head -n 1")
    assert done.stdout == "line\n" and done.stderr == "exit 0\n"


def test_json_is_strict_and_any_name_can_be_written():
    value = {"a": [math.nan, -math.inf, 1.5], 3: ("ü", "\udcff")}
    assert as_json(value).isascii()
    assert json.loads(as_json(value)) == {"a": [None, None, 1.5], "3": ["ü", "\udcff"]}


def test_columns_are_aligned_and_names_are_one_line():
    rows = [("name", "size"), ("a\nb\x1b[31m\udcff", 3)]
    assert aligned(rows, right=(1,)) == "name       size\na?b?[31m?     3"
    assert aligned([]) == ""
