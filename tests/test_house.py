"""The house keeps its laws: who imports whom, what vidbench/README.md says, one set of
dependencies.

Each law is a function from plain text or data to a list of complaints. Each function is run on the
project, which must give none, and on broken examples, which must give some. The rooms' law and the
tree are read from vidbench/README.md."""

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import ROOT

PIN = r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)"  # a line of the lock
UNLOCKED = {"frozen", "track"}  # extras of heavy peers, which tests import or skip
HOUSE = ROOT / "vidbench" / "README.md"
DOORS = {"__init__", "__main__", "api"}  # the only modules in the root
ARROWS = (
    34  # between top-level rooms, at most; what the doors __init__ and __main__ open is not counted
)
CARD = (
    "torch",
    "torchvision",
    "jupyterlab",
    "ipywidgets",
    "plotly",
    "decord",
    "faiss-cpu",
    "papermill",
    "nbval",
)


# ------------------------------------------------------------------------------------- import law


@dataclass(frozen=True)
class Room:
    """What a room may import from vidbench: prefixes such as "data.video", or anything but the ones
    in `but`."""

    allowed: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()  # inside functions only
    anything: bool = False
    but: frozenset[str] = frozenset()

    def may(self, inner: str, late: bool) -> bool:
        if self.anything:
            return not _below(inner, self.but)
        return _below(inner, self.allowed) or (
            late and ("anything" in self.late or _below(inner, self.late))
        )


@dataclass(frozen=True)
class Law:
    """The two blocks of the section "Import law": rooms, and packages of the outside world with
    their homes."""

    rooms: dict[str, Room]
    homes: dict[str, frozenset[str]]  # package -> the rooms that may import it
    only: dict[str, frozenset[str]]  # room -> the packages it may import


def _below(inner: str, prefixes) -> bool:
    return any(inner == prefix or inner.startswith(f"{prefix}.") for prefix in prefixes)


def law_of(readme: str) -> Law:
    """Parse the section "Import law". Raises ValueError at a line of another form."""
    rooms, homes, only = {}, {}, {}
    for block in re.findall(r"```\n(.*?)```", readme.partition("## Import law")[2], re.DOTALL):
        for line in block.splitlines():
            names, arrow, right = line.partition("->")
            packages, among, where = line.partition("only in")
            room, uses, few = line.partition("uses only")
            if arrow:
                rooms |= dict.fromkeys(names.split(), _room(right))
            elif among:
                homes |= dict.fromkeys(packages.split(), frozenset(where.split()))
            elif uses:
                only[room.strip()] = frozenset(few.split())
            else:
                raise ValueError(
                    f"a line of the law has no `->`, `only in` or `uses only`: {line!r}"
                )
    return Law(rooms, homes, only)


def _room(right: str) -> Room:
    plain, _, late = right.partition("inside functions")
    words, late = plain.replace(";", " ").split(), frozenset(late.split())
    if words[:2] == ["anything", "but"]:
        return Room(anything=True, but=frozenset(words[2:]))
    return Room(frozenset(words) - {"nothing"}, late)


def package() -> dict[str, str]:
    """Module name -> source, of every module below vidbench/."""
    files = sorted((ROOT / "vidbench").rglob("*.py"))
    names = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files
    ]
    return {name: file.read_text(encoding="utf-8") for name, file in zip(names, files, strict=True)}


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def imports(name: str, sources: dict[str, str]) -> list[tuple[str, int, bool, bool]]:
    """(module, line, inside a function, for type checkers only) of each import, relative and
    dynamic ones too."""
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
            for alias in node.names:  # `from vidbench.data.video import clips` means the module
                full = f"{base}.{alias.name}"
                found.append((full if full in sources else base, node.lineno, late, typed))
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", ""))
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append((str(node.args[0].value), node.lineno, late, typed))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            found.append(("torch.distributed", node.lineno, late, typed))
        late |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typed |= isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        )
        for child in ast.iter_child_nodes(node):
            visit(child, late, typed)

    visit(ast.parse(sources[name]), False, False)
    return found


def import_law(law: Law, sources: dict[str, str]) -> list[str]:
    """What the law forbids, each with its line."""
    complaints = []
    for name in sources:
        room, inner = room_of(name), name.removeprefix("vidbench").lstrip(".")
        if room not in law.rooms:
            complaints.append(
                f"{name}: a new room; name it in the law of vidbench/README.md, or use another room"
            )
            continue
        if inner == room and room not in DOORS and not _holds(name, sources):
            complaints.append(f"{name}: a module in the root; only {sorted(DOORS)} may be there")
        for target, line, late, typed in imports(name, sources):
            late |= typed  # for type checkers only, so it never runs
            where, top = f"{name}:{line}", target.split(".")[0]
            if top == "vidbench":
                complaints += _within(
                    law, room, target.removeprefix("vidbench").lstrip("."), late, where
                )
            elif top in ("tests", "benchmarks", "notebooks"):
                complaints.append(
                    f"{where}: imports {target}; nothing in the package imports {top}"
                )
            elif not typed:
                complaints += _outside(law, room, inner, target, where)
    return complaints


def _holds(name: str, sources: dict[str, str]) -> bool:
    return any(other.startswith(f"{name}.") for other in sources)


def _within(law: Law, room: str, target: str, late: bool, where: str) -> list[str]:
    own = room != "methods" and _below(target, {room})
    if own or law.rooms[room].may(target, late):
        return []
    inside = "" if late else ", at module level"
    return [
        f"{where}: imports {target or 'the root'}{inside}; vidbench/README.md does not allow "
        f"{room} to"
    ]


def _outside(law: Law, room: str, inner: str, target: str, where: str) -> list[str]:
    top, complaints = target.split(".")[0], []
    if room in law.only and top not in sys.stdlib_module_names and top not in law.only[room]:
        complaints.append(f"{where}: imports {top}; {room} uses only {sorted(law.only[room])}")
    for package_, homes in law.homes.items():
        if _below(target, {package_}) and not _below(inner, homes):
            complaints.append(f"{where}: imports {package_}; it is only in {sorted(homes)}")
    return complaints


def arrows(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(room, room it imports) of all pairs of top-level rooms."""
    pairs = {
        (room_of(name), room_of(target))
        for name in sources
        for target, *_ in imports(name, sources)
        if target.split(".")[0] == "vidbench"
    }
    return {(one, other) for one, other in pairs if one != other}


def cycles(sources: dict[str, str]) -> list[str]:
    """Each ring of modules that import each other, late imports included, those for type checkers
    not."""
    graph = {
        name: {
            t
            for t, _, _, typed in imports(name, sources)
            if t in sources and t != name and not typed
        }
        for name in sources
    }
    rings, done = [], set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            rings.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return rings


def test_rooms_import_what_the_law_allows():
    assert import_law(law_of(HOUSE.read_text(encoding="utf-8")), package()) == []


def test_no_module_imports_itself_in_a_ring():
    assert cycles(package()) == []


def test_few_arrows_lead_from_room_to_room():
    found = {pair for pair in arrows(package()) if not set(pair) & {"__init__", "__main__"}}
    assert ("view", "evaluate") in found and len(found) <= ARROWS, sorted(found)


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        (
            "vidbench.tensors.losses",
            "from vidbench.data.video import clips",
            "losses:1: imports data.video.clips",
        ),
        ("vidbench.tensors.losses", "from ..models import s3d", "imports models.s3d"),
        ("vidbench.tensors.losses", "def f():\n    from ..models.s3d import x", "losses:2"),
        (
            "vidbench.tensors.losses",
            "import torch\nx = torch.distributed.get_rank()",
            "only in ['engine']",
        ),
        ("vidbench.models.s3d", "import vidbench.data.video.clips", "does not allow models"),
        ("vidbench.models", "from ..data import video", "does not allow models"),
        (
            "vidbench.data.flow",
            "from torch import distributed\nimport torch.distributed as d",
            "only in ['engine']",
        ),
        ("vidbench.data.video.clips", "import sklearn.svm", "only in ['data.sets', 'evaluate']"),
        ("vidbench.system.files", "import numpy", "system uses only"),
        (
            "vidbench.methods.coclr",
            "from vidbench.methods.classify import x",
            "does not allow methods",
        ),
        (
            "vidbench.methods.coclr",
            "import importlib\nm = importlib.import_module('vidbench.view.html')",
            "view.html",
        ),
        (
            "vidbench.evaluate.probe",
            "from vidbench.methods import classify",
            "does not allow evaluate",
        ),
        ("vidbench.evaluate.probe", "from vidbench.view import html", "does not allow evaluate"),
        ("vidbench.evaluate.probe", "import plotly.graph_objects", "only in ['view']"),
        (
            "vidbench.view.html",
            "if True:\n    from vidbench.data.loading import dataset",
            "does not allow view",
        ),
        ("vidbench.view.html", "from vidbench.engine import loop", "does not allow view"),
        ("vidbench.view.html", "def f():\n    import ipywidgets", "only in ['view.widgets']"),
        ("vidbench.engine.loop", "from notebooks import tour", "imports notebooks"),
        (
            "vidbench.evaluate.probe",
            "from vidbench.experiments import demo",
            "does not allow evaluate",
        ),
        (
            "vidbench.experiments.demo",
            "from vidbench.headless import kernel",
            "does not allow experiments",
        ),
        ("vidbench.headless.kernel", "from vidbench.engine import ranks", "at module level"),
        (
            "vidbench.headless.kernel",
            "def f():\n    from vidbench.engine import runs",
            "does not allow headless",
        ),
        ("vidbench.__main__", "from vidbench.engine import ranks", "at module level"),
        ("vidbench.attic.box", "", "a new room"),
        ("vidbench.api.box", "from vidbench.headless import kernel", "does not allow api"),
        ("vidbench", "from vidbench.data import manifest", "at module level"),
    ],
)
def test_the_import_law_can_be_broken(module, source, says):
    others = (
        "tensors.bank models.s3d data.video.clips data.loading.dataset data.manifest "
        "methods.classify view.html "
        "engine.runs engine.ranks engine.loop evaluate.probe experiments.demo headless.kernel"
    ).split()
    sources = {
        **{f"vidbench.{other}": "" for other in others},
        "vidbench.data.video": "",
        module: source,
    }
    complaints = import_law(law_of(HOUSE.read_text(encoding="utf-8")), sources)
    assert len(complaints) >= 1 and says in " ".join(complaints)


def test_lawful_imports_and_rings_are_told_apart():
    law = law_of(
        "## Import law\n```\ndata a -> nothing\nmethods -> data; inside functions a\n```\n"
    )
    sources = {
        "vidbench.data": "",
        "vidbench.data.a": "from . import b\nimport torch, math",
        "vidbench.data.b": "",
        "vidbench.methods.m": "from vidbench.data.a import thing\nfrom torch import nn",
    }
    assert (
        import_law(law, sources) == []
        and cycles(sources) == []
        and arrows(sources) == {("methods", "data")}
    )
    late = {
        **sources,
        "vidbench.a.c": "",
        "vidbench.methods.m": "def f():\n    from vidbench.a import c",
    }
    assert import_law(law, late) == []
    assert "a module in the root" in import_law(law, {**sources, "vidbench.a": ""})[0]
    ring = {**sources, "vidbench.data.b": "def f():\n    from .a import thing"}
    assert cycles(ring) == ["vidbench.data.a -> vidbench.data.b -> vidbench.data.a"]
    typed = {
        **sources,
        "vidbench.data.b": "if TYPE_CHECKING:\n    from vidbench.data.a import thing",
    }
    assert cycles(typed) == []
    with pytest.raises(ValueError, match="no `->`"):
        law_of("## Import law\n```\ndata imports nothing\n```\n")


# ------------------------------------------------------------------------------------------- tree


def tree(readme: str) -> dict[str, str]:
    """Path -> caption of every line of the block that begins with `vidbench/`."""
    found = re.search(r"```\n(vidbench/\n.*?)```", readme, re.DOTALL)
    entries, folders = {}, []
    for line in found[1].splitlines() if found else ():
        indent = len(line) - len(line.lstrip())
        name, _, caption = line.strip().partition(" ")
        folders = [(i, folder) for i, folder in folders if i < indent]
        entries["".join(folder for _, folder in folders) + name] = caption.strip()
        if name.endswith("/"):
            folders.append((indent, name))
    return entries


def tree_law(readme: str, sources: dict[str, str], exists=lambda path: True) -> list[str]:
    """Where the tree and the modules differ, and modules without a docstring."""
    entries = tree(readme)
    if not entries:
        return [
            "vidbench/README.md: no tree; add a fenced block that begins with `vidbench/`, a line "
            "per file"
        ]
    page, complaints = "vidbench/README.md", []
    for path, caption in entries.items():
        if not exists(path):
            complaints.append(f"{page}: the tree names {path}, which is missing")
        if not caption and path != "vidbench/":
            complaints.append(f"{page}: {path} has no caption")
    for name, source in sources.items():
        path = name.replace(".", "/") + ("/" if _holds(name, sources) else ".py")
        if name != "vidbench" and path not in entries:
            complaints.append(f"{page}: the tree lacks {path}")
        if not ast.get_docstring(ast.parse(source)):
            complaints.append(f"{path}: no docstring; say in one line what the module is")
    return complaints


def test_the_tree_names_every_module():
    complaints = tree_law(
        HOUSE.read_text(encoding="utf-8"), package(), lambda path: (ROOT / path).exists()
    )
    assert not complaints, "\n" + "\n".join(complaints)


TREE = """# x

```
vidbench/
  __init__.py     The legend
  tensors/        Tensors in, tensors out
    losses.py     What training minimizes
    augmentation.py Settings
```
"""
MODULES = {
    "vidbench": '"""L."""',
    "vidbench.tensors": '"""T."""',
    "vidbench.tensors.losses": '"""W."""',
    "vidbench.tensors.augmentation": '"""S."""',
}


def test_the_tree_law_can_be_broken():
    assert tree(TREE)["vidbench/tensors/losses.py"] == "What training minimizes"
    assert tree(TREE)["vidbench/tensors/augmentation.py"] == "Settings"
    assert tree_law(TREE, MODULES) == []
    for readme, modules, says in (
        ("# nothing", MODULES, "no tree"),
        (TREE, {**MODULES, "vidbench.pages": '"""Pages."""'}, "lacks vidbench/pages.py"),
        (
            TREE,
            {**MODULES, "vidbench.view": '"""V."""', "vidbench.view.x": '"""X."""'},
            "lacks vidbench/view/",
        ),
        (TREE, {**MODULES, "vidbench.tensors.losses": ""}, "losses.py: no docstring"),
        (TREE.replace("What training minimizes", ""), MODULES, "losses.py has no caption"),
    ):
        assert says in " ".join(tree_law(readme, modules))
    gone = tree_law(TREE, MODULES, lambda path: path != "vidbench/tensors/losses.py")
    assert gone == [
        "vidbench/README.md: the tree names vidbench/tensors/losses.py, which is missing"
    ]


# ----------------------------------------------------------------------------------- dependencies


def dependency_law(pyproject: str, lock: str, environment: str) -> list[str]:
    """Where pyproject.toml, requirements.lock and environment.yml disagree."""
    project, complaints, pins = tomllib.loads(pyproject)["project"], [], {}
    extras = project.get("optional-dependencies", {})
    for line in filter(str.strip, lock.splitlines()):
        pin, _, marker = line.partition(" ; ")
        if (match := re.fullmatch(PIN, pin)) and (not marker or Requirement(f"x ; {marker}")):
            pins[canonicalize_name(match[1])] = match[2]
        else:
            complaints.append(
                f"requirements.lock: {line!r}; wanted name==version and its marker; run `make lock`"
            )
    locked = [group for name, group in extras.items() if name not in UNLOCKED]
    wanted = [Requirement(text) for group in (project["dependencies"], *locked) for text in group]
    for requirement in wanted:
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            complaints.append(
                f"requirements.lock: has {pin}, pyproject.toml needs {requirement}; run `make lock`"
            )
    named = {canonicalize_name(requirement.name) for requirement in wanted}
    complaints += [f"pyproject.toml: {name} is missing" for name in CARD if name not in named]
    listed = yaml.safe_load(environment)["dependencies"]
    conda = [entry for entry in listed if isinstance(entry, str)]
    for entry in conda:
        name, span = re.fullmatch(r"([\w.-]+)\s*(.*)", entry).groups()
        if name == "python":
            if SpecifierSet(span) != SpecifierSet(project["requires-python"]):
                complaints.append(
                    f"environment.yml: python{span}; pyproject.toml says "
                    f"{project['requires-python']}"
                )
        elif canonicalize_name(name) in pins.keys() | named:
            complaints.append(
                f"environment.yml: names {name}; Python packages are named in pyproject.toml alone"
            )
    if not any(entry.startswith("python") for entry in conda):
        complaints.append("environment.yml: no python range")
    pip = [line for entry in listed if isinstance(entry, dict) for line in entry.get("pip", [])]
    match = re.fullmatch(r"-r requirements\.lock\n-e \.\[([\w,-]+)\]", "\n".join(pip))
    if not match or set(match[1].split(",")) - set(extras):
        complaints.append(
            f"environment.yml: pip has {pip}; wanted two lines, `-r requirements.lock` and "
            f"`-e .[...]` with extras of {sorted(extras)}"
        )
    return complaints


def test_dependency_files_agree():
    files = ("pyproject.toml", "requirements.lock", "environment.yml")
    assert dependency_law(*((ROOT / name).read_text(encoding="utf-8") for name in files)) == []


def test_the_lock_has_what_tests_import():
    """Packages by the names that tests import, against the distributions of the lock."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lock.splitlines()}
    known = packages_distributions()
    ours = {"vidbench", "tests", "benchmarks"}
    missing = set()
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            tops = {name.partition(".")[0] for name in names}
            missing |= {
                f"{file.name}: {top}"
                for top in tops - sys.stdlib_module_names - ours
                if not pinned & {canonicalize_name(name) for name in known.get(top, ())}
            }
    assert missing == set()


def test_the_dependency_law_can_be_broken():
    cards = ", ".join(f'"{name}>=1"' for name in CARD)
    project = f'[project]\nrequires-python = ">=3.11"\ndependencies = [{cards}]\n'
    project += 'optional-dependencies.test = ["pytest>=8"]\n'
    lock = "".join(f"{name}==1.5\n" for name in CARD) + "pytest==8.1\n"
    conda = "dependencies:\n  - python>=3.11\n  - pip\n  - ffmpeg\n  - pip:\n"
    conda += "      - -r requirements.lock\n      - -e .[test]\n"
    assert dependency_law(project, lock, conda) == []
    for arguments, says in (
        ((project, lock.replace("torch==1.5", "torch==0.9"), conda), "has 0.9"),
        ((project, lock.replace("pytest==8.1\n", ""), conda), "has None"),
        ((project, lock + "--no-deps\n", conda), "name==version and its marker"),
        ((project, lock + "loose>=1\n", conda), "name==version and its marker"),
        ((project.replace('"nbval>=1"', '"x>=1"'), lock + "x==1.5\n", conda), "nbval is missing"),
        ((project, lock, conda.replace(">=3.11", ">=3.10")), "python>=3.10"),
        ((project, lock, conda.replace("  - python>=3.11\n", "")), "no python range"),
        ((project, lock, conda.replace("- ffmpeg", "- plotly")), "names plotly"),
        ((project, lock, conda.replace("[test]", "[speed]")), "extras of"),
        ((project, lock, conda + "      - plotly\n"), "two lines"),
        ((project, lock, conda.replace("      - -r requirements.lock\n", "")), "two lines"),
    ):
        complaints = dependency_law(*arguments)
        assert len(complaints) == 1 and says in complaints[0]
