"""Parameters of notebooks: unknown and mistyped ones are refused before anything starts."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.headless.test_execute import PARAMETERS, handlers, notebook, run  # noqa: F401
from vidbench.headless import parameters
from vidbench.headless.parameters import ParameterError


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"nn": 1},
            "book.ipynb has no parameter 'nn'; the known ones are runs_dir = '../runs', n = 2, lr = "
            "0.1, more = {}",
        ),
        ({"n": 2.0}, "n needs int such as 2; got 2.0, which is float"),
        ({"n": True}, "n needs int such as 2; got True, which is bool"),
        ({"n": "2"}, "which is str"),
        ({"lr": "1e-3"}, "lr needs float"),
        ({"runs_dir": None}, "runs_dir needs str"),
        ({"more": [1]}, "more needs dict"),
        ({"more": {1: 2}}, "a map's keys are text"),
        ({"more": {"x": {1, 2}}}, "set is none of its types"),
    ],
)
def test_what_the_parameters_cell_does_not_know_is_refused(tmp_path, values, says):
    book = notebook(tmp_path / "book.ipynb")
    with pytest.raises(ParameterError, match=re.escape(says)):
        parameters.check(book, values)


def test_values_fit_the_cell(tmp_path):
    book = notebook(tmp_path / "book.ipynb")
    assert parameters.known_parameters(book) == {
        "runs_dir": "../runs",
        "n": 2,
        "lr": 0.1,
        "more": {},
    }
    checked = parameters.check(book, {"lr": 1, "more": {"a": (1, [None, {"b": 2.5}])}})
    assert (
        checked == {"lr": 1.0, "more": {"a": [1, [None, {"b": 2.5}]]}}
        and type(checked["lr"]) is float
    )
    spoken = parameters.spoken(
        book, {"runs_dir": "2024", "n": "3", "lr": "1e-3", "more": "{'a': 1}"}
    )
    assert spoken == {"runs_dir": "2024", "n": 3, "lr": 0.001, "more": {"a": 1}}
    wide = "a: int | None = None\nb = 3\nc: list[int] = [1]\nd: tuple = ()"
    wide = notebook(tmp_path / "wide.ipynb", parameters=wide)
    assert parameters.check(wide, {"a": 4, "b": 5, "c": [2], "d": (3, 4)}) == {
        "a": 4,
        "b": 5,
        "c": [2],
        "d": [3, 4],
    }
    assert parameters.check(wide, {"a": None}) == {"a": None}
    with pytest.raises(ParameterError, match="a needs None or int"):
        parameters.check(wide, {"a": "x"})
    with pytest.raises(ParameterError, match="needs lines `name: type = literal`; got 'x = f"):
        parameters.check(notebook(tmp_path / "odd.ipynb", parameters="x = f(1)"), {"x": 1})


def test_a_settings_file_is_a_map_and_reads_numbers_as_they_look(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("lr: 1e-3\nbig: 2E5\nday: 2024-01-02\nname: 1e-3x\nmore: {a: [1, {b: 2}]}\n")
    wanted = {
        "lr": 0.001,
        "big": 200000.0,
        "day": "2024-01-02",
        "name": "1e-3x",
        "more": {"a": [1, {"b": 2}]},
    }
    assert parameters.settings(path) == wanted
    for text in ("- 1\n- 2\n", "3: 4\n", "", "a: [1,\n"):
        path.write_text(text)
        with pytest.raises(ParameterError, match="settings.yaml"):
            parameters.settings(path)


def test_nothing_starts_before_all_are_checked(tmp_path, capsys):
    first = notebook(tmp_path / "first.ipynb", "x = 1")
    other = notebook(tmp_path / "other.ipynb", "x = 1", parameters="m: int = 1")
    (tmp_path / "s.yaml").write_text("n: 3\n")
    for words, says in (
        (
            (first, other, "-f", tmp_path / "s.yaml"),
            "other.ipynb has no parameter 'n'; the known ones are m = 1",
        ),
        ((first, "-p", "n", "3.5"), "n needs int"),
        ((first, tmp_path / "none.ipynb"), "none.ipynb"),
        ((first, "-f", tmp_path / "none.yaml"), "none.yaml"),
        ((first, first), "two notebooks are called first.ipynb"),
    ):
        assert run("run", *words, "--out", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert says in said and "Traceback" not in said
    assert run("run", first, "--out", tmp_path) == 2 and "would replace" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_numbers_of_numpy_and_paths_are_plain_values(tmp_path):
    book = notebook(tmp_path / "book.ipynb", parameters=PARAMETERS + "\nflag: bool = False")
    given = {
        "flag": np.bool_(True),
        "n": np.int64(3),
        "lr": np.float32(0.5),
        "runs_dir": Path("runs"),
        "more": {"a": [np.float64(2), np.array(1)]},
    }
    checked = parameters.check(book, given)
    assert checked == {
        "flag": True,
        "n": 3,
        "lr": 0.5,
        "runs_dir": "runs",
        "more": {"a": [2.0, 1]},
    }
    assert [type(value) for value in checked.values()] == [bool, int, float, str, dict]
    with pytest.raises(ParameterError, match="n needs int such as 2; got True, which is bool"):
        parameters.check(book, {"n": np.bool_(True)})
    with pytest.raises(ParameterError, match="ndarray is none of its types"):
        parameters.check(book, {"more": {"a": np.ones(2)}})
