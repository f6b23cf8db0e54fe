"""Ranges of a dataclass's fields: written in the annotation, checked when the dataclass is made.

    @dataclass(frozen=True)
    class Recipe:
        epochs: Annotated[int, AT_LEAST_0] = 1
        momentum: Annotated[float, SHARE] = 0.999

        def __post_init__(self) -> None:
            check_fields(self)

The type is checked, too: a whole number is no text, a Literal is one of its values, and no number
anywhere in the value is nan or infinite."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from vidbench.system.errors import InputError

KINDS = {
    bool: "True or False",
    str: "text",
    int: "a whole number",
    float: "a finite number",
    dict: "a map of names to values",
}


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `above` and `below` exclude the end itself."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


AT_LEAST_0, AT_LEAST_1, ABOVE_0 = Range(0), Range(1), Range(0, above=True)
SHARE, BELOW_1 = Range(0, 1), Range(0, 1, below=True)


def check_fields(value: Any, where: str = "") -> None:
    """Check every field of a dataclass, those of nested dataclasses too.

    Args:
        where: What the message calls the dataclass; its class if empty.

    Raises:
        InputError: A field has another type, a number outside its range, or one that is not finite.
    """
    try:
        _check_nested(value, "")
    except ValueError as error:
        raise InputError(f"{where or type(value).__name__}: {error}") from None


def _check_nested(value: Any, prefix: str) -> None:
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        _check(getattr(value, name), hint, f"{prefix}{name}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check(value: Any, hint: Any, name: str) -> None:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        _check(value, args[0], name)
        for number in value if isinstance(value, list | tuple) else (value,):
            for allowed in args[1:]:
                if number is not None and number not in allowed:
                    raise InputError(f"{name} must be {allowed}; got {value!r}.")
    elif origin is typing.Literal:
        if value not in args:
            raise InputError(f"{name} must be one of {', '.join(map(str, args))}; got {value!r}.")
    elif origin in (typing.Union, types.UnionType):
        _check_any(value, args, name)
    elif dataclasses.is_dataclass(value):
        _check_nested(value, f"{name}.")
    elif dataclasses.is_dataclass(hint):
        raise InputError(f"{name} must be of {getattr(hint, '__name__', hint)}; got {value!r}.")
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be several values in parentheses; got {value!r}.")
        each = args[:1] * len(value) if args[1:] == (...,) else args
        if len(each) != len(value):
            raise InputError(f"{name} must have {len(each)} values; got {value!r}.")
        for item, kind in zip(value, each, strict=True):
            _check(item, kind, name)
    elif (kind := origin or hint) in KINDS and not _fits(value, kind):
        raise InputError(f"{name} must be {KINDS[kind]}; got {value!r}.")
    else:
        _check_finite(value, name)


def _check_any(value: Any, hints: tuple, name: str) -> None:
    """One of several types must fit; the message is of the first that is not None."""
    wrong = []
    for hint in hints:
        if hint is type(None):
            if value is None:
                return
            continue
        try:
            return _check(value, hint, name)
        except ValueError as error:
            wrong.append(error)
    raise wrong[0]


def _fits(value: Any, kind: type) -> bool:
    if kind in (bool, str, dict):
        return isinstance(value, kind)
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral if kind is int else Real) and math.isfinite(value)


def _check_finite(value: Any, name: str) -> None:
    """Look for nan and infinity in lists and dictionaries, whatever else they contain."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_finite(item, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be a finite number; got {value!r}.")
