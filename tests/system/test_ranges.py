"""Ranges in the annotations of a dataclass."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from vidbench.system.ranges import ABOVE_0, AT_LEAST_1, BELOW_1, SHARE, check_fields


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, AT_LEAST_1] = 1
    rate: Annotated[float, ABOVE_0] = 1.0
    part: Annotated[float, SHARE] = 0.0
    held: Annotated[float, BELOW_1] = 0.0
    pair: Annotated[tuple[int, int], AT_LEAST_1] = (1, 2)
    many: tuple[Inner, ...] = ()
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    size: Annotated[int | None, AT_LEAST_1] = None
    either: int | tuple[int, int] = 3
    more: dict | None = None
    name: str = ""
    on: bool = False


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 0}, "count must be at least 1; got 0"),
        ({"count": 1.5}, "count must be a whole number; got 1.5"),
        ({"count": True}, "count must be a whole number; got True"),
        ({"rate": 0}, "rate must be above 0; got 0"),
        ({"rate": math.nan}, "rate must be a finite number; got nan"),
        ({"rate": "1"}, "rate must be a finite number; got '1'"),
        ({"part": -0.1}, "part must be at least 0 and at most 1"),
        ({"held": 1}, "held must be at least 0 and below 1; got 1"),
        ({"pair": (1, 0)}, r"pair must be at least 1; got \(1, 0\)"),
        ({"pair": (1,)}, "pair must have 2 values"),
        ({"many": (Inner(), Inner(math.inf))}, "many.share must be a finite number; got inf"),
        ({"many": 3}, "many must be several values in parentheses; got 3"),
        ({"inner": {"share": 1}}, "inner must be of Inner; got"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"inner": Inner(math.nan)}, "inner.share must be a finite number"),
        ({"size": 0}, "size must be at least 1"),
        ({"either": "x"}, "either must be a whole number; got 'x'"),
        ({"more": {"a": [1, math.inf]}}, r"more\['a'\] must be a finite number; got inf"),
        ({"more": 3}, "more must be a map of names to values; got 3"),
        ({"name": 3}, "name must be text; got 3"),
        ({"on": "no"}, "on must be True or False; got 'no'"),
    ],
)
def test_a_field_outside_its_type_or_range_is_named(change, says):
    with pytest.raises(ValueError, match=f"^Outer: {says}"):
        check_fields(Outer(**change))


def test_what_fits_passes():
    check_fields(Outer(rate=1, part=1, size=4, inner=Inner(1), either=(1, 2), more={"a": None}))
