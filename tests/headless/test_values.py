"""Text to values: YAML 1.2 files, values of a command line, and what is written is read back."""

import re
import subprocess
import sys

import pytest

from tests.headless.test_execute import handlers, notebook, run  # noqa: F401
from vidbench.headless import parameters
from vidbench.headless.values import ParameterError, load_yaml, parse_yaml, value_of, yaml_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1f", 31),
        ("1:30", "1:30"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("~", None),
        ("1e-3", 0.001),
        ("2E5", 200000.0),
        (".inf", float("inf")),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)
def test_yaml_is_version_1_2(text, value):
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 'line 3: found duplicate key "a"'),
        ("x: {a: 1, a: 1}\n", 'line 1: found duplicate key "a"'),
        ("a: 1\nb: [1,\n", "line 3: this is no YAML 1.2"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: !!python/name:os.system\n", "line 1: this is no YAML 1.2: could not determine"),
        ("a: &x [*x]\n", "Circular"),
        ("[" * 5000, "recursion"),
        ("{[1]: 2}", "keys must be"),
    ],
)
def test_a_file_that_is_no_yaml_1_2_is_refused_with_the_line(tmp_path, text, says):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ParameterError, match=re.escape(says)) as refused:
        load_yaml(tmp_path / "s.yaml")
    assert str(tmp_path / "s.yaml") in str(refused.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_bytes("a: é".encode("utf-16"))
    with pytest.raises(ParameterError, match="s.yaml must be UTF-8 text"):
        load_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("(1, 2)", (1, 2)),
        ("None", None),
        ("null", None),
        ("true", True),
        ("010", 10),
        ("on", "on"),
        ("1:30", "1:30"),
        ("#fff", "#fff"),
        ("a: b", "a: b"),
        ("- a", "- a"),
        ("*x", "*x"),
        ("", ""),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("{[1]: 2}", "{[1]: 2}"),
    ],
)
def test_a_value_of_a_command_line(text, value):
    assert value_of(text) == value and type(value_of(text)) is type(value)


@pytest.mark.parametrize("text", ["{'a': 1, 'a': 2}", "{a: 1, a: 2}", "[{'x': {1: 1, 1: 2}}]"])
def test_a_key_twice_in_a_value_is_refused(text):
    with pytest.raises(ParameterError, match="twice|duplicate key"):
        value_of(text)


def test_what_is_written_is_read_back_equal():
    odd = "é😀\x85\u2028\n\t\"'\x7f\x00\x1b\ufeff\ud83d\xa0"
    values = {"a": "010", "b": "on", "c": "2024-01-01", "d": "1_000", "e": odd, "f": "x" * 3000}
    values |= {"g": 1e-5, "h": 1e20, "i": 1e16, "j": float("-inf"), "k": -0.0, "l": 10**30}
    values |= {"m": [None, True, {"on": "~", "#q: ": "- a"}], "n": {}, "o": "", "p": []}
    back = parse_yaml(yaml_text(values))
    assert back == values
    assert [type(value) for value in back.values()] == [type(value) for value in values.values()]
    assert parse_yaml(yaml_text({})) == {}


def test_a_declared_text_stays_text_also_if_it_may_be_none(tmp_path):
    book = notebook(
        tmp_path / "book.ipynb", parameters="a: str | None = None\nb: bool = False\nc: dict = {}"
    )
    assert parameters.spoken(book, {"a": "2024", "b": "true"}) == {"a": "2024", "b": True}
    assert parameters.spoken(book, {"a": "None", "c": "{x: 1}"}) == {"a": None, "c": {"x": 1}}
    with pytest.raises(ParameterError, match="b needs bool"):
        parameters.check(book, parameters.spoken(book, {"b": "on"}))
    with pytest.raises(ParameterError, match="nan"):
        parameters.check(book, {"c": {"x": float("nan")}})


def test_a_parameter_or_option_given_twice_is_refused(tmp_path, capsys):
    book = notebook(tmp_path / "book.ipynb")
    words = ("run", book, "--out", tmp_path / "out", "-p", "n", 1, "-p", "n", 2)
    assert run(*words) == 2
    assert "parameter 'n' is given twice: '1' and '2'" in capsys.readouterr().err
    (tmp_path / "videos").mkdir()
    assert run("scan", tmp_path / "videos", "-o", "fold", 1, "-o", "fold", 2) == 2
    assert "option 'fold' is given twice" in capsys.readouterr().err


def test_the_help_needs_no_papermill():
    code = (
        "import sys\nfrom vidbench.__main__ import _parser\n_parser()\n"
        "print([n for n in ('papermill', 'nbformat', 'torch', 'ruamel') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
