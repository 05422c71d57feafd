"""Predicates of the rule language: one tag, one operator, one value (behaviour reference, section 1.4).

The meaning is the repaired one: a missing tag fails, an element without value exists and fails every other
comparison, ``negate`` inverts the verdict, and nothing raises for what stands in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from fiona_dagster.config.patterns import Pattern
from fiona_dagster.studies.values import EMPTY, Decimal, Scalar, Value, number, printed

DEFAULT_TOLERANCE = 1e-4
"""``approx`` without ``approxLevel``."""


@dataclass(frozen=True)
class Reference:
    """A tag reference: ``[name]``, ``[group, element]`` or ``[group, element, index]``.

    ``tag`` is ``None`` for keys that belong to the series and for names that nothing knows.
    """

    text: str
    tag: int | None
    name: str = ""
    index: int | None = None


class View(Protocol):
    """What predicates look at: one instance in its series."""

    def resolve(self, reference: Reference) -> Value | None:
        """The value; ``None`` when it is missing."""


@dataclass(frozen=True)
class Predicate:
    """One condition of a ruleset."""

    tag: Reference
    operator: str
    value: Value | Reference
    negate: bool = False
    tolerance: float = DEFAULT_TOLERANCE
    pattern: Pattern | None = None
    line: int = 0

    def holds(self, view: View) -> bool:
        """Whether the instance satisfies this condition.

        Raises:
            PatternTooSlow: its regular expression takes too long for the value.
        """
        return self._verdict(view) is not self.negate

    def _verdict(self, view: View) -> bool:
        found = view.resolve(self.tag)
        if self.operator == "exist":
            return found is not None
        if self.operator == "notexist":
            return found is None
        if found is None or found == EMPTY:
            return False
        wanted = view.resolve(self.value) if isinstance(self.value, Reference) else self.value
        if wanted is None or wanted == EMPTY:
            return False
        if self.operator == "regexp":
            return _search(self.pattern or re.compile(re.escape(printed(wanted))), found)
        if self.operator == "approx":
            return _approx(found, wanted, self.tolerance)
        return COMPARISONS[self.operator](found, wanted)


def _parts(value: Value) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else (value,)


def _search(pattern: Pattern | re.Pattern[str], found: Value) -> bool:
    """Searches the printed value, then each element."""
    if pattern.search(printed(found)):
        return True
    return isinstance(found, tuple) and any(pattern.search(str(part)) for part in found)


def same(one: Scalar, other: Scalar) -> bool:
    """Equal as numbers where both are numbers, else equal as texts."""
    left, right = number(one), number(other)
    if left is not None and right is not None:
        return left == right
    return str(one) == str(other)


def _all_pairs(found: Value, wanted: Value, compare: Callable[[Scalar, Scalar], bool]) -> bool:
    """Element against element; one wanted value stands for all."""
    left, right = _parts(found), _parts(wanted)
    if len(right) == 1:
        return all(map(compare, left, repeat(right[0])))
    return len(left) == len(right) and all(map(compare, left, right))


def _equal(found: Value, wanted: Value) -> bool:
    return _all_pairs(found, wanted, same)


def _differs(found: Value, wanted: Value) -> bool:
    return not _equal(found, wanted)


def _contains(found: Value, wanted: Value) -> bool:
    """A text contains a text; a multi-value contains elements, each of the wanted ones."""
    if isinstance(found, str) and not isinstance(found, Decimal):
        return all(str(part) in found for part in _parts(wanted))
    return all(any(same(part, each) for each in _parts(found)) for part in _parts(wanted))


def _in(found: Value, wanted: Value) -> bool:
    return all(any(same(part, each) for each in _parts(wanted)) for part in _parts(found))


def _approx(found: Value, wanted: Value, tolerance: float) -> bool:
    def near(one: Scalar, other: Scalar) -> bool:
        left, right = number(one), number(other)
        return left is not None and right is not None and abs(left - right) <= tolerance

    return _all_pairs(found, wanted, near)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[Value, Value], bool]:
    def check(one: Scalar, other: Scalar) -> bool:
        left, right = number(one), number(other)
        return left is not None and right is not None and compare(left, right)

    return lambda found, wanted: _all_pairs(found, wanted, check)


COMPARISONS: dict[str, Callable[[Value, Value], bool]] = {
    "==": _equal,
    "!=": _differs,
    "<": _ordered(lambda left, right: left < right),
    ">": _ordered(lambda left, right: left > right),
    "<=": _ordered(lambda left, right: left <= right),
    ">=": _ordered(lambda left, right: left >= right),
    "contains": _contains,
    "in": _in,
}
OPERATORS = frozenset({"regexp", "exist", "notexist", "approx", *COMPARISONS})
ALIASES = {"exists": "exist", "notexists": "notexist"}
"""Other spellings; the original's readme writes "exists"."""
