"""The house keeps its laws: who imports whom, what the README's tree says, one set of dependencies.

Each law is a function from plain text or data to a list of complaints, so that the same function is shown the tree,
which must give none, and a broken example, which must give some.
"""

import ast
import re
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import ROOT

ANY = None
# room -> what of vidbench it may import; "models" covers models.*, and a wing covers itself only where it says so
INSIDE = {
    "tensors": set(), "models": {"models"}, "data": {"data"}, "engine": {"engine"},
    "methods": {"tensors", "models", "data", "engine", "methods.monitor"},  # a method never imports another method
    "features": {"models", "data", "engine", "tensors.regularizers"}, "retrieval": {"tensors.metrics"},
    "neighbours": set(), "indexes": {"neighbours", "retrieval"}, "projections": {"engine.runs", "features"},
    "probe": {"features", "retrieval", "models.heads", "data.manifest", "engine.ranks"},
    "figures": set(), "maps": {"figures"}, "galleries": {"figures"}, "pages": {"figures"},
    "relations": {"figures", "maps"},
    "widgets": {"figures", "galleries", "pages", "relations", "projections", "retrieval", "engine.runs", "data.clips",
                "data.flow", "data.flow_store", "widgets"},
    "report": {"figures", "galleries", "pages", "data", "engine.runs", "retrieval", "features"},
    "tables": {"figures", "pages", "engine.runs"},
    "batch": {"engine"}, "evaluation": {"data.manifest", "engine", "features", "probe", "retrieval"},
    "sweep": {"engine", "methods.classify"},
    "demo": ANY, "replicate_coclr": ANY, "replicate_rms": ANY, "replicate_multitrain": ANY, "headless": ANY,
    "notebook_batch": ANY, "notebook_run": {"notebook_status"}, "notebook_status": set(), "__main__": ANY,
}  # fmt: skip
LATE = {"headless", "__main__"}  # these import vidbench inside functions only
DOORS = {"demo", "replicate_coclr", "replicate_rms", "replicate_multitrain", "headless", "notebook_batch",
         "__main__"}  # nothing below a door imports one  # fmt: skip
# room -> top-level packages of the outside world beside the standard library
OUTSIDE = {
    "tensors": {"torch"}, "models": {"torch", "torchvision", "safetensors"},
    "data": {"torch", "torchvision", "numpy", "decord", "torchcodec", "av", "cv2", "PIL", "pebble", "tqdm",
             "sklearn"},
    "engine": {"torch", "numpy", "safetensors", "tqdm", "psutil"}, "methods": {"torch", "numpy", "tqdm"},
    "features": {"torch", "numpy"}, "probe": {"torch", "numpy", "sklearn", "threadpoolctl"},
    "retrieval": {"faiss", "numpy", "torch"}, "neighbours": {"numpy"}, "indexes": {"faiss", "numpy"},
    "figures": {"numpy", "plotly"}, "maps": {"numpy", "plotly"}, "galleries": {"numpy", "PIL"},
    "pages": {"numpy", "plotly"}, "tables": {"numpy", "plotly"},
    "relations": {"numpy", "plotly", "scipy"},
    "widgets": {"ipywidgets", "anywidget", "traitlets", "plotly", "numpy", "sklearn", "umap"},
    "report": {"numpy"}, "batch": {"tqdm"}, "evaluation": {"numpy", "torch", "tqdm"},
    "demo": {"numpy", "torch", "tqdm"}, "sweep": set(),
    "replicate_coclr": {"numpy", "torch"}, "replicate_rms": {"numpy", "torch", "tqdm"},
    "replicate_multitrain": {"numpy", "torch", "tqdm"}, "projections": {"numpy", "torch"},
    "headless": {"papermill", "nbformat", "click", "yaml"}, "notebook_batch": {"nbformat"},
    "notebook_run": {"papermill", "nbclient", "nbformat", "nbconvert"}, "notebook_status": set(), "__main__": set(),
}  # fmt: skip
CARD = ("torch", "torchvision", "jupyterlab", "ipywidgets", "plotly", "decord", "faiss-cpu", "papermill", "nbval")


# ------------------------------------------------------------------------------------------------------- import law


def package() -> dict[str, str]:
    """Module name -> source, of every module below vidbench/."""
    files = sorted((ROOT / "vidbench").rglob("*.py"))
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    return {name: file.read_text(encoding="utf-8") for name, file in zip(names, files, strict=True)}


def imports(name: str, sources: dict[str, str]) -> list[tuple[str, int, bool, bool]]:
    """(module, line, inside a function, for type checkers only) of each import, relative and dynamic ones too."""
    is_package = any(other.startswith(f"{name}.") for other in sources) or name == "vidbench"
    found = []

    def visit(node: ast.AST, late: bool, typed: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, late, typed) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join(up + ([node.module] if node.module else []))
            for alias in node.names:  # `from vidbench.data import clips` means the module, where there is one
                full = f"{base}.{alias.name}"
                found.append((full if full in sources else base, node.lineno, late, typed))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):  # fmt: skip
            found.append((str(node.args[0].value), node.lineno, late, typed))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            found.append(("torch.distributed", node.lineno, late, typed))
        late |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typed |= isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            visit(child, late, typed)

    visit(ast.parse(sources[name]), False, False)
    return found


def import_law(sources: dict[str, str]) -> list[str]:
    """What the table of rooms forbids, each with its line."""
    complaints = []
    for name in sources:
        room = name.split(".")[1] if "." in name else ""
        if room and room not in INSIDE:
            complaints.append(f"{name}: a new room; add its row to INSIDE and OUTSIDE here, and to the README's tree")
            continue
        for target, line, late, _ in imports(name, sources):
            where, top = f"{name}:{line}", target.split(".")[0]
            inner = target.removeprefix("vidbench").lstrip(".")
            if top == "vidbench":
                allowed = set() if not room else INSIDE[room]
                if allowed is not ANY and not any(inner == a or inner.startswith(f"{a}.") for a in allowed):
                    complaints.append(f"{where}: imports {target}; {room or 'the package'} may import"
                                      f" {sorted(allowed) or 'nothing'} from vidbench")  # fmt: skip
                if room in LATE and not late:
                    complaints.append(f"{where}: imports {target} at module level; a door imports inside functions")
                if inner.split(".")[0] in DOORS and room not in DOORS:
                    complaints.append(f"{where}: imports {target}; nothing below a door imports it")
            elif top in ("tests", "benchmarks", "notebooks"):
                complaints.append(f"{where}: imports {target}; nothing in the package imports {top}")
            elif top not in sys.stdlib_module_names and room and top not in OUTSIDE[room]:
                complaints.append(f"{where}: imports {top}; {room} may use {sorted(OUTSIDE[room])} beside the standard"
                                  " library")  # fmt: skip
            if f"{target}.".startswith("torch.distributed.") and room != "engine":
                complaints.append(f"{where}: uses torch.distributed; ask engine.ranks, only it knows processes")
    return complaints


def cycles(sources: dict[str, str]) -> list[str]:
    """Each ring of modules that import each other, late imports included, those for type checkers not."""
    graph = {
        name: {t for t, _, _, typed in imports(name, sources) if t in sources and t != name and not typed}
        for name in sources
    }
    rings, done = [], set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            rings.append(" -> ".join([*path[path.index(name):], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return rings


def test_rooms_import_what_the_law_allows():
    assert import_law(package()) == []


def test_no_module_imports_itself_in_a_ring():
    assert cycles(package()) == []


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("vidbench.tensors.losses", "from vidbench.tensors import bank", "may import nothing"),
        ("vidbench.tensors.losses", "from . import bank", "may import nothing"),
        ("vidbench.tensors.losses", "def f():\n    from .bank import x", "losses:2"),
        ("vidbench.tensors.losses", "import numpy as np", "may use ['torch']"),
        ("vidbench.tensors.losses", "import torch\nx = torch.distributed.get_rank()", "knows processes"),
        ("vidbench.models.s3d", "import vidbench.data.clips", "may import ['models']"),
        ("vidbench.models", "from ..data import clips", "may import ['models']"),
        ("vidbench.data.flow", "from torch import distributed\nimport torch.distributed as d", "knows processes"),
        ("vidbench.methods.coclr", "from vidbench.methods.classify import x", "may import"),
        ("vidbench.methods.coclr", "import importlib\nm = importlib.import_module('vidbench.figures')", "may import"),
        ("vidbench.retrieval", "from vidbench.tensors import losses", "may import ['tensors.metrics']"),
        ("vidbench.figures", "if True:\n    from vidbench.data.clips import Clip", "figures may import nothing"),
        ("vidbench.engine.loop", "from notebooks import tour", "imports notebooks"),
        ("vidbench.features", "from vidbench import demo", "below a door"),
        ("vidbench.headless", "from vidbench.engine import runs", "inside functions"),
        ("vidbench.attic", "", "a new room"),
        ("vidbench", "from vidbench.data import clips", "the package may import nothing"),
    ],
)
def test_the_import_law_can_be_broken(module, source, says):
    others = "tensors.bank tensors.losses data data.clips models.s3d methods.classify figures engine.runs demo".split()
    sources = {**{f"vidbench.{other}": "" for other in others}, module: source}
    complaints = import_law(sources)
    assert len(complaints) >= 1 and says in " ".join(complaints)


def test_lawful_imports_and_rings_are_told_apart():
    sources = {"vidbench.data": "", "vidbench.data.a": "from . import b\nimport torch, math", "vidbench.data.b": "",
               "vidbench.methods.m": "from vidbench.data.a import thing\nfrom torch import nn"}  # fmt: skip
    assert import_law(sources) == [] and cycles(sources) == []
    ring = {**sources, "vidbench.data.b": "def f():\n    from .a import thing"}
    assert cycles(ring) == ["vidbench.data.a -> vidbench.data.b -> vidbench.data.a"]
    typed = {**sources, "vidbench.data.b": "if TYPE_CHECKING:\n    from vidbench.data.a import thing"}
    assert cycles(typed) == []


# ---------------------------------------------------------------------------------------------------- README's tree


def tree(readme: str) -> dict[str, str | None]:
    """Path -> caption of every entry of the README's tree; None where several names share a line without one."""
    block = next((b for b in re.findall(r"```\w*\n(.*?)```", readme, re.DOTALL) if re.search(r"(?m)^vidbench/", b)), "")
    entries: dict[str, str | None] = {}
    folders: list[tuple[int, str]] = []
    last = None
    for line in block.splitlines():
        indent, words = len(line) - len(line.lstrip()), re.split(r"\s{2,}", line.strip())
        names = []
        while words and re.fullmatch(r"[\w.-]*(\.\w+|/)|[A-Z]\w+", words[0]):
            names.append(words.pop(0))
        if not names:  # a caption that goes on
            if last and line.strip():
                entries[last] = f"{entries[last] or ''} {line.strip()}".strip()
            continue
        folders = [(i, name) for i, name in folders if i < indent]
        paths = ["".join(name for _, name in folders) + name for name in names]
        entries.update(dict.fromkeys(paths, "  ".join(words) or (None if len(names) > 1 else "")))
        last = paths[-1]
        if names[-1].endswith("/"):
            folders.append((indent, names[-1]))
    return entries


def tree_law(readme: str, sources: dict[str, str], exists=lambda path: True) -> list[str]:
    """Where the tree in the README and the modules' first lines say different things."""
    entries = tree(readme)
    if not entries:
        return ["README.md: no tree; add a fenced block with a line `vidbench/` and one line per module: name, caption"]
    complaints = [f"README.md: the tree names {path}, which is not there" for path in entries if not exists(path)]
    folders = {name for name in sources for other in sources if other.startswith(f"{name}.")} | {"vidbench"}
    for name, source in sources.items():
        if name in folders or name.endswith(".__init__"):
            continue
        path, text = name.replace(".", "/") + ".py", ast.get_docstring(ast.parse(source)) or ""
        line = text.split("\n")[0].strip()
        sentence = re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]
        if not line:
            complaints.append(f"{path}: no docstring; its first line says what the module is, in one sentence")
        elif path not in entries:
            complaints.append(f"README.md: the tree lacks {path}; add `{path.split('/')[-1]}   {line.rstrip('.')}`")
        elif entries[path] is not None and entries[path].rstrip(".") not in (line.rstrip("."), sentence.rstrip(".")):
            complaints.append(f"README.md: {path} is captioned {entries[path]!r}; its docstring begins {line!r}")
    return complaints


def test_the_readme_tree_says_what_the_modules_say():
    complaints = tree_law((ROOT / "README.md").read_text(encoding="utf-8"), package(), lambda p: (ROOT / p).exists())
    assert not complaints, "\n" + "\n".join(complaints)


TREE = """# x

```
Makefile          demo, test
vidbench/
  __init__.py     the legend
  tensors/        WING 1: tensors in, tensors out
    losses.py     what we minimise: NCE, and
                  more
    bank.py  metrics.py
  figures.py      arrays in, figure out
```
"""
MODULES = {"vidbench": '"""L."""', "vidbench.tensors": "",
           "vidbench.tensors.losses": '"""what we minimise: NCE, and\nmore."""',
           "vidbench.tensors.bank": '"""Q."""', "vidbench.tensors.metrics": '"""M."""',
           "vidbench.figures": '"""arrays in, figure out. And more."""'}  # fmt: skip


def test_the_tree_law_can_be_broken():
    assert tree(TREE)["vidbench/tensors/losses.py"] == "what we minimise: NCE, and more"
    assert tree(TREE)["vidbench/tensors/metrics.py"] is None and tree(TREE)["Makefile"] == "demo, test"
    assert tree_law(TREE, MODULES) == []
    for readme, modules, says in (
        ("# nothing", MODULES, "no tree"),
        (TREE, {**MODULES, "vidbench.figures": '"""Arrays in, figure out."""'}, "captioned 'arrays in"),
        (TREE, {**MODULES, "vidbench.pages": '"""Pages."""'}, "lacks vidbench/pages.py; add `pages.py   Pages`"),
        (TREE, {**MODULES, "vidbench.figures": ""}, "no docstring"),
        (TREE.replace("arrays in, figure out", ""), MODULES, "captioned ''"),
    ):
        complaints = tree_law(readme, modules)
        assert len(complaints) == 1 and says in complaints[0]
    gone = tree_law(TREE, MODULES, lambda path: path != "vidbench/tensors/bank.py")
    assert gone == ["README.md: the tree names vidbench/tensors/bank.py, which is not there"]


# ---------------------------------------------------------------------------------------------------- dependencies


def dependency_law(pyproject: str, lock: str, environment: str) -> list[str]:
    """Where pyproject.toml, requirements.lock and environment.yml disagree."""
    project, complaints, pins = tomllib.loads(pyproject)["project"], [], {}
    extras = project.get("optional-dependencies", {})
    for line in filter(str.strip, lock.splitlines()):
        if match := re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)", line):
            pins[canonicalize_name(match[1])] = match[2]
        else:
            complaints.append(f"requirements.lock: {line!r}; wanted name==version and nothing else; run `make lock`")
    wanted = [Requirement(text) for group in (project["dependencies"], *extras.values()) for text in group]
    for requirement in wanted:
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            complaints.append(f"requirements.lock: has {pin}, pyproject.toml wants {requirement}; run `make lock`")
    named = {canonicalize_name(requirement.name) for requirement in wanted}
    complaints += [f"pyproject.toml: {name} is missing" for name in CARD if name not in named]
    listed = yaml.safe_load(environment)["dependencies"]
    conda = [entry for entry in listed if isinstance(entry, str)]
    for entry in conda:
        name, span = re.fullmatch(r"([\w.-]+)\s*(.*)", entry).groups()
        if name == "python":
            if SpecifierSet(span) != SpecifierSet(project["requires-python"]):
                complaints.append(f"environment.yml: python{span}; pyproject.toml says {project['requires-python']}")
        elif canonicalize_name(name) in pins.keys() | named:
            complaints.append(f"environment.yml: names {name}; Python packages are named in pyproject.toml alone")
    if not any(entry.startswith("python") for entry in conda):
        complaints.append("environment.yml: no python range")
    pip = [line for entry in listed if isinstance(entry, dict) for line in entry.get("pip", [])]
    match = re.fullmatch(r"-e \.\[([\w,-]+)\]", pip[0]) if len(pip) == 1 else None
    if not match or set(match[1].split(",")) - set(extras):
        complaints.append(f"environment.yml: pip has {pip}; wanted one line `-e .[...]`, extras of {sorted(extras)}")
    return complaints


def test_dependency_files_agree():
    files = ("pyproject.toml", "requirements.lock", "environment.yml")
    assert dependency_law(*((ROOT / name).read_text(encoding="utf-8") for name in files)) == []


def test_the_dependency_law_can_be_broken():
    cards = ", ".join(f'"{name}>=1"' for name in CARD)
    project = f'[project]\nrequires-python = ">=3.11"\ndependencies = [{cards}]\n'
    project += 'optional-dependencies.test = ["pytest>=8"]\n'
    lock = "".join(f"{name}==1.5\n" for name in CARD) + "pytest==8.1\n"
    conda = "dependencies:\n  - python>=3.11\n  - pip\n  - ffmpeg\n  - pip:\n      - -e .[test]\n"
    assert dependency_law(project, lock, conda) == []
    for arguments, says in (
        ((project, lock.replace("torch==1.5", "torch==0.9"), conda), "has 0.9"),
        ((project, lock.replace("pytest==8.1\n", ""), conda), "has None"),
        ((project, lock + "--no-deps\n", conda), "name==version and nothing else"),
        ((project, lock + "loose>=1\n", conda), "name==version and nothing else"),
        ((project.replace('"nbval>=1"', '"x>=1"'), lock + "x==1.5\n", conda), "nbval is missing"),
        ((project, lock, conda.replace(">=3.11", ">=3.10")), "python>=3.10"),
        ((project, lock, conda.replace("  - python>=3.11\n", "")), "no python range"),
        ((project, lock, conda.replace("- ffmpeg", "- plotly")), "names plotly"),
        ((project, lock, conda.replace("[test]", "[speed]")), "extras of"),
        ((project, lock, conda + "      - plotly\n"), "one line"),
    ):  # fmt: skip
        complaints = dependency_law(*arguments)
        assert len(complaints) == 1 and says in complaints[0]
