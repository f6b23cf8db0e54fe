"""Checks that each public function's docstring says what it takes, gives and raises.

`complaints` is a function from a module's source to a list of complaints. It sees the library's
modules, which must give none, and broken examples, which must give some.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "vidbench").rglob("*.py"))
# A summary that begins so names a thing; a function's summary says what to do: "Return the ..."
NOUNS = set(
    "A All An Each Every How It One That The These This What Where Whether Which Who".split()
)
ARRAY = re.compile(r"\b(Tensor|ndarray)\b")
DICT = re.compile(r"dict\[[^\]]*\]")  # of tensors of several shapes
SHAPE = re.compile(r"\[[^\]]*\]|\b(shape|scalar|same size)\b")


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield public functions and methods; properties read like attributes and are left out."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(each).split(".")[-1] for each in node.decorator_list}
            if not decorators & {"property", "cached_property", "setter", "overload"}:
                yield node


def arguments(function: ast.FunctionDef) -> list[str]:
    """List the names of the arguments without self and cls, stars included."""
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    return [each.arg for each in named if each is not None and each.arg not in ("self", "cls")]


def section(docstring: str, name: str) -> str | None:
    """Return the indented lines below `name:`; None if the docstring has no such section."""
    found = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.M)
    return found and found[1]


def entries(text: str) -> list[str]:
    """List the names that a section explains: `name: ...` or `one, two: ...`."""
    deepest = min(len(line) - len(line.lstrip()) for line in text.splitlines() if line.strip())
    heads = re.findall(rf"^[ \t]{{{deepest}}}(\S[^:\n]*):(?:\s|$)", text, re.M)
    return [name.strip(" *`") for head in heads for name in head.split(",")]


def own_raises(function: ast.FunctionDef) -> set[str]:
    """Name the exceptions that the function's own lines raise, nested functions left out."""
    names, nodes = set(), list(ast.iter_child_nodes(function))
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            names.add(ast.unparse(node.exc.func).split(".")[-1])
        nodes.extend(ast.iter_child_nodes(node))
    classes = {name for name in names if name[:1].isupper()}
    return classes - {"NotImplementedError", "SystemExit"}


def complaints(name: str, source: str) -> list[str]:
    """Complain about each public function whose docstring leaves something out."""
    found = []
    for function in public_functions(ast.parse(source)):
        place = f"{name}:{function.lineno}: {function.name}"
        docstring = ast.get_docstring(function) or ""
        if not docstring:
            found.append(f"{place} has no docstring")
            continue
        taken, explained = arguments(function), section(docstring, "Args")
        if len(taken) > 1 and explained is None:
            found.append(f"{place} takes {', '.join(taken)}: add a section Args")
        stale = set(entries(explained or "x")) - set(taken)
        if explained is not None and stale:
            found.append(f"{place} explains {', '.join(sorted(stale))}, which it does not take")
        raised, warned = own_raises(function), section(docstring, "Raises")
        if raised and not (warned and raised & set(entries(warned))):
            found.append(f"{place} raises {', '.join(sorted(raised))}: add a section Raises")
        if docstring.split()[0].strip("`,:") in NOUNS:
            found.append(f"{place} begins with {docstring.split()[0]!r}: begin with a verb")
        returned = ast.unparse(function.returns) if function.returns else ""
        if ARRAY.search(DICT.sub("", returned)) and not SHAPE.search(docstring):
            found.append(f"{place} returns {returned}: give its shape")
    return found


@pytest.mark.parametrize("name", FILES)
def test_public_functions_say_what_they_take_give_and_raise(name):
    assert complaints(name, (ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "broken, says",
    [
        ("def f(a): pass", "has no docstring"),
        ('def f(a, b):\n    """Add."""', "takes a, b: add a section Args"),
        ('def f(a, *, b):\n    """Add.\n\n    Args:\n        c: Gone.\n    """', "explains c"),
        ('def f():\n    """Add."""\n    raise ValueError("x")', "raises ValueError"),
        (
            'def f():\n    """Add.\n\n    Raises:\n        TypeError: Never.\n    """\n'
            '    raise ValueError("x")',
            "raises ValueError",
        ),
        ('def f():\n    """The sum."""', "begin with a verb"),
        ('class C:\n    def f(self) -> Tensor:\n        """Add."""', "give its shape"),
    ],
)
def test_the_law_can_be_broken(broken, says):
    assert says in " ".join(complaints("a.py", broken))


def test_the_law_allows_what_is_complete():
    fine = '''
class C:
    @property
    def size(self):
        """The width."""

    def add(self, a, *b, c=1) -> torch.Tensor:
        """Add them.

        Args:
            a, b: Summands [N]: floats.
            c: How often.

        Returns:
            The sum [N].

        Raises:
            ValueError: c is below 1.
        """
        raise ValueError(c)

    def _hidden(self, a, b): ...


def whole(one) -> int:
    """Return the whole part."""
'''
    assert complaints("a.py", fine) == []
