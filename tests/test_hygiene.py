"""What is in git is clean: notebooks without outputs and with thin cells, no index address, no
path of one machine.

As in test_house, each law is a function that is shown the tree and broken examples.
"""

import ast
import json
import re
import subprocess
from pathlib import Path
from statistics import median

import pytest

from tests import ROOT

# In pieces: no index, no address of one and no option that names one is written out, not even here.
INDEXES = ("pypi", "pythonhosted", "anaconda")
PAGE, OPTION, LINKS = "simple", "-".join(("index", "url")), "-".join(("find", "links"))


def notebook_law(name: str, text: str) -> list[str]:
    """What a notebook in git may not hold, and what its parameters cell must."""
    book = json.loads(text)
    cells = book["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    ids, complaints = [cell.get("id", "") for cell in cells], []
    say = complaints.append
    if any(cell.get("outputs") or cell.get("execution_count") is not None for cell in code):
        say("has outputs or execution counts; run `make clean-notebooks`")
    if set(book["metadata"]) - {"kernelspec", "language_info"}:
        say(f"metadata {sorted(book['metadata'])}; keep kernelspec and language_info only")
    if book["metadata"].get("kernelspec", {}).get("name") != "python3":
        say("kernelspec is not python3, the name every environment has")
    if (
        not all(ids)
        or len(set(ids)) < len(ids)
        or (book["nbformat"], book["nbformat_minor"]) < (4, 5)
    ):
        say("wanted nbformat 4.5 and a unique cell id in every cell")
    for cell in code:
        source, where = "".join(cell["source"]), f"cell {cell.get('id')}"
        lines = [line for line in source.splitlines() if line.strip()]
        if len(lines) > 12:
            say(f"{where} has {len(lines)} lines; at most 12, the rest belongs in the library")
        if any(re.match(r"\s*[!%]", line) for line in lines):
            say(f"{where} holds a shell or magic line")
        elif any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
            for node in ast.walk(ast.parse(source))
        ):
            say(f"{where} defines a function or a class; put it into the library")
        if "NBVAL_" in source:
            say(f"{where} holds an nbval marker; every cell is run and none is excused")
        tags = set(cell["metadata"].get("tags", []))
        if tags - {"parameters", "train"}:
            say(
                f"{where} has tags {cell['metadata']['tags']}; only `parameters` and `train` are "
                "used, so that every cell is tested"
            )
        if (
            re.search(r"ranks\.launch\(|vb\.train\(|train_all\(|end_to_end\(", source)
            and "train" not in tags
        ):
            say(
                f"{where} trains; tag it `train`, the last of which ends `vidbench run --train-only`"
            )
    if code and median(len("".join(cell["source"]).splitlines()) for cell in code) > 4:
        say("the median cell has more than 4 lines")
    return [f"{name}: {complaint}" for complaint in complaints + parameters_law(code)]


def parameters_law(code: list[dict]) -> list[str]:
    """The parameters cell: one, first, at most eight typed plain literals, `runs_dir` before the
    others."""
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", [])]
    if tagged != [0]:
        return [f"wanted one cell tagged parameters, the first code cell; got code cells {tagged}"]
    try:
        body = ast.parse("".join(code[0]["source"])).body
        values = {
            node.target.id: ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.AnnAssign)
        }
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        return [f"parameters cell: wanted `name: type = literal` lines; got {error}"]
    complaints = []
    if len(values) < len(body) or len(values) > 9:
        complaints.append(
            f"parameters cell: wanted at most 9 lines `name: type = literal`; got {len(body)} "
            "statements"
        )
    if next(iter(values.items()), None) != ("runs_dir", "../runs"):
        complaints.append(
            'parameters cell: wanted `runs_dir: str = "../runs"` first, the folder of everything '
            "written"
        )
    return complaints


def tracked() -> list[Path]:
    """The files git holds or would take, the notebooks among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [
        ROOT / name
        for name in listed.stdout.decode().split("\0")
        if name and (ROOT / name).is_file()
    ]


def address_law(name: str, text: str, here: Path) -> list[str]:
    """Addresses of package indexes and paths of one machine, `here` being the folder that this
    checkout is in."""
    patterns = {
        "a package index": "|".join(rf"{name}[.]org" for name in INDEXES)
        + rf"|https?:/{{2}}[^\s\"'<>]*/{PAGE}\b",
        "an index option": rf"(?<!no-emit-)(?:extra-)?{OPTION}\b|(?<!no-emit-){LINKS}\b",
        "a home folder": r"(?<![\w.$}~])/(?:home|Users)/\w+|(?<![\w.])/root/\w|\b[A-Z]:\\+Users\\",
    }
    if here != Path(here.anchor):
        patterns["this checkout's own folder"] = rf"(?<![\w.$}}~/-]){re.escape(here.as_posix())}/\w"
    return [
        f"{name}: holds {what}: {match[0]!r}"
        for what, pattern in patterns.items()
        if (match := re.search(pattern, text))
    ]


def test_notebooks_are_clean():
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [c for b in books for c in notebook_law(b.name, b.read_text(encoding="utf-8"))] == []


def test_tracked_files_name_no_index_and_no_machine():
    complaints = []
    for path in tracked():
        found = address_law(
            str(path.relative_to(ROOT)), path.read_bytes().decode(errors="ignore"), ROOT.parent
        )
        if path == Path(__file__).resolve():  # this file holds failing examples of paths
            found = [complaint for complaint in found if "index" in complaint]
        complaints += found
    assert complaints == []


def book(*sources: str, **changes) -> str:
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": s,
        }
        for i, s in enumerate(('runs_dir: str = "../runs"', *sources))
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    cells[-1].update(changes)
    metadata = {"kernelspec": {"name": "python3"}}
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": metadata})


def test_the_notebook_law_can_be_broken():
    assert notebook_law("n", book("x = 1", "x")) == []
    for text, says in (
        (book("x", outputs=[{"output_type": "stream"}]), "outputs"),
        (book("x", execution_count=3), "execution counts"),
        (book("x", id="c0"), "unique cell id"),
        (book("x").replace('"python3"', '"mine"'), "kernelspec"),
        (
            book("x").replace(
                '"metadata": {"kernelspec"', '"metadata": {"widgets": {}, "kernelspec"'
            ),
            "keep kernelspec",
        ),
        (book("x\n" * 13, "x", "x"), "13 lines"),
        (book("x\n" * 5, "x\n" * 5), "median"),
        (book("def f():\n    pass"), "defines a function"),
        (book("class A: pass"), "defines a function"),
        (book("f = lambda x: x"), "defines a function"),
        (book("!ls"), "shell"),
        (book("# NBVAL_SKIP\nx"), "none is excused"),
        (book("%pip install x"), "shell"),
        (book("x", metadata={"tags": ["parameters"]}), "one cell tagged"),
        (book("x", metadata={"tags": ["nbval-skip"]}), "only `parameters` and `train`"),
        (
            book("x").replace('runs_dir: str = \\"../runs\\"', 'runs_dir = \\"../runs\\"'),
            "name: type = literal",
        ),
        (book("x").replace('runs_dir: str = \\"../runs\\"', "size: int = 3"), "first"),
        (book("x").replace('runs_dir: str = \\"../runs\\"', "runs_dir: str = f()"), "literal"),
    ):
        assert says in " ".join(notebook_law("n", text)), says


def test_the_address_law_can_be_broken():
    here = Path("/space/checkouts")
    fine = f"../shared/data, $HOME/x, ~/y, https://example.org/a, --no-emit-{OPTION}, a/space/checkouts/b, /dev/null"
    assert address_law("f", fine, here) == [] and address_law("f", "/x/y", Path("/")) == []
    for text in (
        f"{INDEXES[0]}.org",
        f"http://a.example/b/{PAGE}",
        f"--{OPTION} x",
        f"--extra-{OPTION} x",
        f"--{LINKS} y",
        "open('/home/ann/x')",
        "/Users/ann/x",
        "/root/x",
        "C:\\Users\\ann",
        "'/space/checkouts/vidbench/x'",
    ):
        assert len(address_law("f", text, here)) >= 1, text
