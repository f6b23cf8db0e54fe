"""Every notebook is a short chapter and runs from top to bottom at its tiny defaults, headless.

papermill writes a copy with `runs_dir` set to the folder of its chain, so that 11 and 42 find what 10
left. nbval runs the copy in lax mode (no cell may fail, stored outputs are not compared) in its own
process. Chains do not need one another, so they run in parallel. In a chain each notebook runs
once: choosing 42 alone runs the notebooks before it first. `make test` runs 00, with fewer epochs
than its 16, at which `make test-browser` runs it. The chain of 01 renders its own toy world; the other
chains begin with a copy of the tests' world."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import nbformat
import pytest

from tests import ROOT, copied

NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}
CHAINS = ("00", "01 02 03", "10 11 12 40 41 42 43 90 91", "20 22", "30 31")
NAMED = [
    pytest.param(
        NOTEBOOKS[number],
        chain,
        marks=[pytest.mark.slow] * (number != "00"),
        id=f"{NOTEBOOKS[number].name}@notebooks {chain[:2]}",
    )
    for chain in CHAINS
    for number in chain.split()
]
GIVEN = {  # notebook -> parameters, in its chain
    "00_tour.ipynb": {"epochs": 3},
    "40_linear_probe.ipynb": {"data": "tiny", "run": "infonce-rgb"},  # so that it trains a probe
}
CELL_SECONDS = (
    900  # for one cell, on two busy cores; a notebook as it is should need about a minute
)
BOOK_SECONDS = 1500


def prepare(notebook: Path, folder: Path, runs_dir: Path, given: dict | None = None) -> Path:
    """A copy in `folder` with `runs_dir` and parameters (by default GIVEN) injected after the
    parameters cell, as papermill does it for a real run."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    given = {"runs_dir": str(runs_dir), **(given or GIVEN.get(notebook.name, {}))}
    book = parameterize_notebook(load_notebook_node(str(notebook)), given)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / notebook.name)
    return folder / notebook.name


def run(notebook: Path, cell_seconds: float = CELL_SECONDS) -> tuple[str, float]:
    """What went wrong ("" when nothing did) and the seconds it took; the kernel works in the
    notebook's folder."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        f"--nbval-cell-timeout={cell_seconds}",
        "-p",
        "no:cacheprovider",
        "-q",
        "-x",
        "--color=no",
        "-c",
        os.devnull,
        f"--rootdir={notebook.parent}",
        str(notebook),
    ]
    # no user profile, no shared history, one place for sockets: what is run here depends on nothing
    # outside
    private = {
        name: str(notebook.parent / f".{name.lower()}")
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")
    }
    private["OMP_NUM_THREADS"] = "1"  # threads on busy cores wait for one another
    private["VIDBENCH_HEADLESS"] = "1"  # no controls, megabytes each, where no one clicks
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=notebook.parent,
            env={**os.environ, **private},
            timeout=BOOK_SECONDS,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired as late:
        return f"not done after {BOOK_SECONDS} s:\n{late.stdout}", time.monotonic() - began
    return "" if done.returncode == 0 else done.stdout, time.monotonic() - began


@pytest.fixture(scope="module")
def bench(tmp_path_factory, request):
    """A function (chain) -> a folder like the checkout, whose `shared` holds the toy world."""

    @cache
    def made(chain: str) -> Path:
        base = tmp_path_factory.mktemp("bench")
        (base / "assets").symlink_to(ROOT / "assets")  # notebooks read ../assets
        if not chain.startswith("01"):
            toy, place = request.getfixturevalue("toy_tiny").root, base / "shared/tiny/videos"
            copied(toy / "videos", place / "videos")
            shutil.copy(toy / "toy.json", place)
        return base

    return made


@pytest.fixture(scope="module")
def outcome(bench):
    """A function (notebook, chain) -> what went wrong, after the notebooks before it in its
    chain."""

    @cache
    def result(notebook: Path, chain: str) -> str:
        before = chain.split()[: chain.split().index(notebook.name[:2])]
        failed = [number for number in before if result(NOTEBOOKS[number], chain)]
        base = bench(chain)
        trouble, _ = run(prepare(notebook, base / "notebooks", base / "shared"))
        return trouble and f"{notebook.name} (failed before it: {failed or 'none'})\n{trouble}"

    return result


def test_every_notebook_is_in_one_chain():
    assert sorted(" ".join(CHAINS).split()) == list(NOTEBOOKS)


@pytest.mark.parametrize(("notebook", "chain"), NAMED)
def test_notebook_runs(notebook, chain, outcome, bench):
    trouble = outcome(notebook, chain)
    assert not trouble, trouble
    assert not (bench(chain) / "runs").exists(), (
        f"{notebook.name} wrote to ../runs, the default of `runs_dir`, not to the `runs_dir` it got"
    )


@pytest.mark.slow
def test_the_probe_notebook_shows_the_demo(bench):
    base = bench("00")
    trouble, _ = run(prepare(NOTEBOOKS["40"], base / "demo", base / "none", {"tune": False}))
    assert not trouble, trouble


def scratch(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / "00_scratch.ipynb")
    return folder / "00_scratch.ipynb"


def test_the_runner_sees_what_a_notebook_does_and_that_it_fails(tmp_path):
    write = "from pathlib import Path\nPath(runs_dir).mkdir()\nPath(runs_dir, 'here').write_text(str(Path.cwd()))"
    fail = "raise OSError('the disk is made of cheese')"
    source = scratch(tmp_path / "source", 'runs_dir: str = "../runs"', write, fail)
    trouble, seconds = run(prepare(source, tmp_path / "copy", tmp_path / "elsewhere"))
    assert "made of cheese" in trouble and seconds > 0
    assert (
        Path((tmp_path / "elsewhere" / "here").read_text()).resolve()
        == (tmp_path / "copy").resolve()
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import time\ntime.sleep(600)", "Timeout of 3 seconds"),
        ("import os\nos._exit(1)", "Failed to interrupt kernel"),  # when its time is up
    ],
)
def test_the_runner_reports_a_hanging_and_a_dying_cell(cell, says, tmp_path):
    source = scratch(tmp_path, 'runs_dir: str = "../runs"', cell, "x = 1")
    trouble, took = run(source, 3)
    assert says in trouble and took < 300


def missing_names(source: str) -> list[str]:
    """What a notebook's code takes from vidbench that does not exist."""
    tree, found, missing = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vidbench"):
            package = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(package, alias.name):
                    with suppress(ImportError):
                        importlib.import_module(f"{node.module}.{alias.name}")
                if hasattr(package, alias.name):
                    found[alias.asname or alias.name] = getattr(package, alias.name)
                else:
                    missing.append(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = found.get(node.value.id)
            if owner is not None and not hasattr(owner, node.attr):
                missing.append(f"{node.value.id}.{node.attr}")
    return missing


def test_notebooks_take_only_names_that_exist():
    """Cells that the tiny defaults skip are covered, too."""
    assert missing_names("from vidbench.engine import ranks, nothing\nranks.lanch") == [
        "vidbench.engine.nothing",
        "ranks.lanch",
    ]
    for path in NOTEBOOKS.values():
        cells = nbformat.read(path, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        assert missing_names(source) == [], path.name


MOST = 14  # code cells
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# what draws a figure or plays clips: a sentence before it says what to see
FIGURES = {
    *("curves", "bars", "confusion", "heatmaps", "slider", "figure", "map", "shown"),
    *("sankey", "asymmetry", "against", "filmstrip", "wall", "samples", "neighbors_gallery"),
    *("recall_curve", "hub_curve", "class_bars", "score_bars", "overlap_curve", "exchange_bars"),
}
MOVES = {"samples", "wall", "shipped", "open"}  # a call, or the cell of that id, that plays clips


def drawing(call: ast.Call) -> bool:
    """Whether it is no `Run.curves(...)`, which has at most one argument."""
    return getattr(call.func, "attr", "") != "curves" or len(call.args) > 1


def called(tree: ast.AST) -> set[str]:
    """The names of all functions that are called, without their modules."""
    # a run's own `curves` are numbers
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and drawing(node))
    return {getattr(one, "attr", getattr(one, "id", "")) for one in calls}


def chapter_law(cells: list[dict]) -> list[str]:
    """What a notebook's cells lack of a chapter: few of them, imports first, plain code, a figure
    with a sentence before it, and clips that play near the start."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    trees = [ast.parse("".join(cell["source"])) for cell in code]
    complaints = [f"{len(code)} code cells; at most {MOST}"] * (len(code) > MOST)
    imports = [
        number
        for number, tree in enumerate(trees)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
    ]
    if imports not in ([1], [1, 2]):
        complaints.append(
            f"imports in code cells {imports}; wanted one after the parameters, or two"
        )
    for cell, tree in zip(code, trees, strict=True):
        for node in ast.walk(tree):
            inner = [one for one in ast.walk(node) if isinstance(one, LOOPS)]
            if isinstance(node, LOOPS) and (len(inner) > 1 or len(node.generators) > 1):
                complaints.append(f"cell {cell['id']}: a comprehension in a comprehension")
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell["cell_type"] == "code" and FIGURES & called(ast.parse("".join(cell["source"]))):
            said = re.sub(r"^#.*$", "", "".join(before["source"]), flags=re.M)
            if before["cell_type"] != "markdown" or not re.search(r"\w[.;!?:)]", said):
                complaints.append(f"cell {cell['id']}: a figure without a sentence before it")
    first = code[1 : 3 + len(imports)]
    names = {cell["id"] for cell in first}.union(
        *(called(tree) for tree in trees[1 : 3 + len(imports)])
    )
    if not MOVES & names:
        complaints.append("nothing plays in the first three cells after parameters and imports")
    return complaints


def test_every_notebook_is_a_chapter():
    for path in NOTEBOOKS.values():
        assert chapter_law(nbformat.read(path, as_version=4).cells) == [], path.name


def test_the_chapter_law_can_be_broken():
    def book(*sources: str) -> list[dict]:
        kinds = {"#": "markdown"}
        return [
            {"cell_type": kinds.get(source[0], "code"), "id": str(number), "source": source}
            for number, source in enumerate(sources)
        ]

    good = ("x = 1", "import cards", "# Videos\n\nThey play.", "cards.samples(x)")
    assert chapter_law(book(*good)) == []
    for sources, says in (
        ((*good, *["x"] * 14), "17 code cells; at most 14"),
        ((*good, "import late"), "imports in code cells [1, 3]"),
        ((*good, "[a for b in c for a in b]"), "a comprehension in"),
        ((*good, "{a: [b for b in a] for a in c}"), "a comprehension in"),
        ((*good, "figures.curves(x, y)"), "cell 4: a figure without a sentence"),
        (
            (*good, "# Only a heading", "figures.curves(x, y)"),
            "cell 5: a figure without a sentence",
        ),
        (("x = 1", "import cards", "x", "x", "x", *good[2:]), "nothing plays"),
    ):
        assert says in " ".join(chapter_law(book(*sources))), says
