"""What the rows of a batch need: names matched to rows, and an order in which rows can run."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter

from vidbench.headless.values import ParameterError

NAMED = 10  # names that a message lists


def resolve(names: Sequence[str], needs: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """Find the rows that each row needs.

    Args:
        names: The rows' names.
        needs: Of each row the names of those it needs; in these, * and ? match letters of the
            names of other rows.

    Returns:
        Of each row the numbers of the rows it needs, ascending.

    Raises:
        ParameterError: Two rows have one name, no row has a name that is needed, or rows need each
            other in a circle.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        same = [number for number, name in enumerate(names) if name == twice]
        raise ParameterError(
            f"each row must have another name; rows {same} are all {twice!r}. Put what differs "
            "into `row`, such as {seed}."
        )
    found = []
    for number, wanted in enumerate(needs):
        rows = [
            [numbers[name]] if name in numbers else _matches(names, number, name) for name in wanted
        ]
        found.append(tuple(sorted(set().union(*rows))))
    try:
        TopologicalSorter(dict(enumerate(found))).prepare()
    except CycleError as error:
        circle = " needs ".join(names[number] for number in reversed(error.args[1]))
        raise ParameterError(
            f"rows must not need each other in a circle; {circle}. Take one of these needs out."
        ) from None
    return found


def _matches(names: Sequence[str], number: int, wanted: str) -> list[int]:
    """The rows other than `number` that match a pattern."""
    rows = [n for n, name in enumerate(names) if n != number and fnmatchcase(name, wanted)]
    if rows:
        return rows
    more = ", ..." if len(names) > NAMED else ""
    raise ParameterError(
        f"row {number}, {names[number]}: needs must name rows of the table; got {wanted!r}. The "
        f"rows are {', '.join(names[:NAMED])}{more}"
    )


def in_order(needs: Sequence[Collection[int]]) -> Iterable[int]:
    """Return the numbers of all rows, each after those it needs."""
    return TopologicalSorter(dict(enumerate(needs))).static_order()


def groups(
    needs: Sequence[Collection[int]], left: Collection[int]
) -> list[tuple[list[int], list[int]]]:
    """Group rows for job arrays: those of one group need the same rows.

    Args:
        needs: Of each row those it needs.
        left: The rows that are still to run; needs outside them are met.

    Returns:
        (rows, rows that these need), each group after those it needs.
    """
    made: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    depths: dict[int, int] = {}
    for row in in_order(needs):
        if row in left:
            missing = tuple(need for need in needs[row] if need in left)
            depths[row] = 1 + max((depths[need] for need in missing), default=-1)
            made.setdefault((depths[row], missing), []).append(row)
    return [(sorted(made[key]), list(key[1])) for key in sorted(made)]
