"""Methods by name: those of this package, and your own from modules that you name.

A method of your own is a module with a `Recipe` (`class Recipe(common.Recipe, method="name")`) and
a function `train(recipe, folder, progress, threads)`. Its run directories store "name", not the
module. So a program that reads such a run must have imported the module, or its caller named it
(trusted.py).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vidbench.engine.recipes import RunError
from vidbench.system import trusted

if TYPE_CHECKING:
    from vidbench.methods.common import Recipe

SHARED = ("common", "monitor", "recipes", "registry")  # modules of this package that are no methods
_recipes: dict[str, type[Recipe]] = {}  # by the name of the method, as modules are imported


def own_methods() -> list[str]:
    """List the methods of this package."""
    found = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return sorted(found - set(SHARED))


def known_methods() -> list[str]:
    """List the methods of this package and those registered by imported modules."""
    return sorted({*own_methods(), *_recipes})


def register(method: str, cls: type[Recipe]) -> None:
    """Make a recipe class known by its method's name; importing its module again replaces it.

    Raises:
        ValueError: Another module has a method of this name.
    """
    other = _recipes.get(method)
    taken = f"{__package__}.{method}" if method in own_methods() else other and other.home
    mains = ("__main__", "__mp_main__")  # `python -m mypackage.mymethod` is that module once more
    if taken and taken != cls.home and not {taken, cls.home} & set(mains):
        raise ValueError(
            f"the method {method!r} of {cls.home} has the name of the method in {taken}. Use "
            "another name: run directories store it."
        )
    _recipes[method] = cls


def recipe_class(method: str) -> type[Recipe]:
    """Return the recipe class of a method by its name.

    Raises:
        RunError: The name is neither a module of vidbench.methods nor registered by a module that
            the program imported or its caller named.
    """
    if method not in _recipes and method in own_methods():
        importlib.import_module(f"{__package__}.{method}")
    if method not in _recipes:
        try:
            trusted.import_named()
        except trusted.CodeError as error:
            raise RunError(str(error)) from error
    if method not in _recipes:
        raise RunError(
            f"the method must be one of {', '.join(known_methods())}; got {method!r}. If it is "
            f"yours, import its module, or for all processes {trusted.how('mypackage.mymethod')}."
        )
    return _recipes[method]


def import_method(name: str) -> ModuleType:
    """Import a method's module: `import_method("coclr").Recipe`.

    The caller names the module, so all processes started from here may import it, too.

    Args:
        name: A method of vidbench ("coclr"), the name that an imported module registered
            ("simclr"), or the module of your own method ("mypackage.mymethod").

    Returns:
        A module with `Recipe`, a frozen dataclass derived from methods.common.Recipe, and
        `train(recipe, folder, progress, threads)`, which takes the recipe in JSON's values.
        `Recipe.method` is the name that its run directories store. PRESETS is optional.

    Raises:
        ValueError: There is no such method or module, its import fails, or it lacks something.
    """
    if name in own_methods():
        return importlib.import_module(f"{__package__}.{name}")
    try:
        if "." not in name:
            trusted.import_named()
        if name in _recipes:
            return importlib.import_module(_recipes[name].home)
        module = trusted.imported(name)
    except trusted.CodeError as error:
        raise ValueError(
            f"the method must be one of {', '.join(known_methods())}, or a module of your own such "
            f"as mypackage.mymethod; got {name!r}. {str(error)[:1].upper()}{str(error)[1:]}"
        ) from error
    _check(module)
    trusted.trust(name)
    return module


def _check(module: ModuleType) -> None:
    """Raise ValueError, naming what a module of the user's own method lacks."""
    where, example = f"the module {module.__name__}", "see assets/docs/extending.md"
    cls = getattr(module, "Recipe", None)
    if not inspect.isclass(cls) or cls not in _recipes.values():
        raise ValueError(
            f'{where} must have `class Recipe(common.Recipe, method="name")`; its Recipe is '
            f"{cls!r}. Add it, {example}."
        )
    if inspect.isabstract(cls):
        raise ValueError(f"{where}: its Recipe must have `data_sets`. Add it, {example}.")
    train: Any = getattr(module, "train", None)
    try:
        inspect.signature(train).bind({}, "folder", "auto", 0)
    except TypeError:  # no function, or other arguments
        raise ValueError(
            f"{where} must have a function train(recipe, folder, progress, threads); it has "
            f"{train!r}. Add it, {example}."
        ) from None
