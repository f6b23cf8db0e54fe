"""A recipe (a frozen dataclass of plain values) to JSON's values and back."""

import dataclasses
import json
import os
import types
import typing
from typing import Any, TypeVar

from vidbench.system.errors import Brief

R = TypeVar("R")
PATHS = ("manifest", "flow", "init", "student", "teacher")


class RunError(Brief, RuntimeError):
    """A run directory or recipe that cannot be used; the message says why and what to do."""


def recipe_dict(recipe: Any) -> dict[str, Any]:
    """Convert a recipe (frozen dataclass of plain values, nested ones too) to JSON's own types."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def stored(recipe: Any) -> dict[str, Any]:
    """Return a recipe as a run directory keeps it: `recipe_dict`, with absolute paths.

    Whoever opens the run later may be in another folder. The fields PATHS are paths if such a file
    or folder exists; nested recipes have them too.
    """
    return {name: _absolute(name, value) for name, value in recipe_dict(recipe).items()}


def _absolute(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _absolute(inner, each) for inner, each in value.items()}
    if isinstance(value, list):
        return [_absolute(name, each) for each in value]
    if name in PATHS and isinstance(value, str) and value and os.path.exists(value):
        return os.path.abspath(value)
    return value


def recipe_from(cls: type[R], values: dict[str, Any], where: str = "") -> R:
    """Make the recipe of a class from JSON's values.

    Args:
        values: Field -> JSON value; a missing field has its default.
        where: What the message calls the recipe; its class if empty.

    Raises:
        RunError: `values` is no dictionary, a field is unknown (the message lists the known ones),
            or one without a default is missing.
        ValueError: the class refuses a value, such as one out of range.
    """
    if not isinstance(values, dict):
        raise RunError(
            f"{where or cls.__name__} must have fields with names; got {values!r}. Write it as "
            "{...}, with a name for each value."
        )
    hints = typing.get_type_hints(cls)
    kind: Any = cls
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise RunError(
            f"{where or cls.__name__} has no field {unknown[0]!r}; the known ones are "
            f"{', '.join(known)}."
        )
    made = {}
    for name, value in values.items():
        kinds = (
            typing.get_args(hints[name])
            if isinstance(hints[name], types.UnionType)
            else (hints[name],)
        )
        nested: Any = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if nested and isinstance(value, dict):
            value = recipe_from(nested, value, where=f"{where or cls.__name__}.{name}")
        each: list[Any] = [
            typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple
        ]
        inner: Any = each[0] if each else None
        if hasattr(inner, "__dataclass_fields__") and isinstance(value, list | tuple):
            value = [
                recipe_from(inner, item, where=f"{where or cls.__name__}.{name}") for item in value
            ]
        made[name] = _tuples(value)
    try:
        return cls(**made)
    except TypeError as error:
        raise RunError(
            f"{where or cls.__name__} does not fit: {error}; its fields are {', '.join(known)}."
        ) from error


def changed(recipe: R, changes: dict[str, Any]) -> R:
    """Return the recipe with some fields changed.

    Args:
        changes: Field -> new value. A dictionary for a nested recipe (clip, fit, mix) changes only
            the fields that it names.

    Raises:
        RunError: a field is unknown; the message lists the known ones.
        ValueError: the class refuses a value, such as one out of range.
    """
    nested = {
        name: recipe_dict(changed(getattr(recipe, name), value))
        for name, value in changes.items()
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(recipe, name, None))
    }
    return recipe_from(type(recipe), {**recipe_dict(recipe), **changes, **nested})


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, those within a dictionary too."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def differing(one: dict, other: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """List what differs between two nested dictionaries of plain values.

    Args:
        one, other: The dictionaries.
        prefix: What the dotted names begin with.

    Returns:
        (dotted name, value in `one`, value in `other`), in order of name; the value is "nothing" if
        a dictionary lacks the name.
    """
    found: list[tuple[str, Any, Any]] = []
    for name in sorted(set(one) | set(other)):
        left, right = one.get(name, "nothing"), other.get(name, "nothing")
        if isinstance(left, dict) and isinstance(right, dict):
            found += differing(left, right, f"{prefix}{name}.")
        elif left != right:
            found.append((f"{prefix}{name}", left, right))
    return found


def differences(wanted: dict, found: dict) -> list[str]:
    """Return lines `field: wanted X, found Y` for two nested dictionaries of plain values.

    Args:
        wanted, found: The dictionaries.
    """
    return [f"{name}: wanted {a!r}, found {b!r}" for name, a, b in differing(wanted, found)]
