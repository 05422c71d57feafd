"""Regular expressions that a site wrote: they mean what Python's ``re`` says, and none can run for ever.

``(a+)+$`` against sixty letters takes ``re`` longer than anyone lives, and every other thread of the process
stands still meanwhile. So a search that can take many steps goes to the package ``regex``, which means the
same by an expression and takes a time limit; all others, which is nearly every one, go to ``re`` (ADR 61).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from math import comb
from typing import Any

from fiona_dagster.errors import PatternTooSlow

NO_PATTERN = (re.error, OverflowError, RecursionError)
"""What compiling raises: wrong, with too large numbers, with too many brackets within each other."""
STEPS = 5_000_000
"""What ``re`` may take at worst: about a tenth of a second."""
FIRST_LIMIT, LAST_LIMIT = 0.4, 0.01
"""Seconds of processor time for a search that is guarded. Harmless values need microseconds; an expression
that ran out of time gets half as much the next time, since thousands of studies may wait for their turn."""
_LONGEST = 1 << 20
_SKIPPED = re.compile(r"\\N\{[^}]*\}|\\[^0-9]|\\0[0-7]{0,2}|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""Escapes (but for references to groups) and sets: one character each."""
_UNCLEAR = re.compile(r"\\[1-9]|\(\?P=|\(\?\(|\(\?#|\(\?[a-zA-Z]*x")
"""References and conditions take their own time; comments could hide anything from us."""
_PART = re.compile(r"\((?:\?(?:P?<?\w+>|[-\w]*[:)]|<?[=!>]))?|\)|\||\?|[*+{][?+]?")
"""What opens a group, closes it, parts alternatives, makes optional, repeats."""
_OTHERWISE_READ = re.compile(r"(\\N\{[^}]*\}|\\.)|\{(?!\d*,?\d*\})|(?<=\[):|(?<=\[\^):", re.DOTALL)
"""What ``regex`` takes for fuzzy matching and POSIX classes, and ``re`` for plain characters."""


class Pattern:
    """A compiled regular expression with the methods of ``re.Pattern`` that FIONA uses.

    Args:
        pattern: in Python's syntax.
        where: file, key and number of the rule, for messages.

    Raises:
        NO_PATTERN: it is no regular expression.
    """

    def __init__(self, pattern: str, where: str = "") -> None:
        self.pattern, self.where = pattern, where
        self._plain = re.compile(pattern)
        self.groups = self._plain.groups
        self.groupindex = self._plain.groupindex
        self._longest = longest_unguarded(pattern)
        self._limit = FIRST_LIMIT

    def __repr__(self) -> str:
        return f"Pattern({self.pattern!r}, {self.where!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and (other.pattern, other.where) == (self.pattern, self.where)

    def __hash__(self) -> int:
        return hash((self.pattern, self.where))

    def __reduce__(self) -> tuple[type[Pattern], tuple[str, str]]:
        return Pattern, (self.pattern, self.where)

    def search(self, text: str) -> Any:
        """As ``re.Pattern.search``. Raises PatternTooSlow: it takes too long for this text."""
        return self._plain.search(text) if len(text) <= self._longest else self._within("search", text)

    def match(self, text: str) -> Any:
        """As ``re.Pattern.match``. Raises PatternTooSlow: it takes too long for this text."""
        return self._plain.match(text) if len(text) <= self._longest else self._within("match", text)

    def fullmatch(self, text: str) -> Any:
        """As ``re.Pattern.fullmatch``. Raises PatternTooSlow: it takes too long for this text."""
        return self._plain.fullmatch(text) if len(text) <= self._longest else self._within("fullmatch", text)

    def sub(self, made: Callable[[Any], str], text: str) -> str:
        """As ``re.Pattern.sub``. Raises PatternTooSlow: it takes too long for this text."""
        if len(text) <= self._longest:
            return self._plain.sub(made, text)
        return str(self._within("sub", made, text))

    @cached_property
    def _guarded(self) -> Any:
        import regex  # seldom needed

        escaped = _OTHERWISE_READ.sub(lambda found: found[1] or "\\" + found[0], self.pattern)
        return regex.compile(escaped, regex.VERSION0)

    def _within(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._guarded, method)(*arguments, timeout=self._limit)
        except TimeoutError:
            self._limit = max(self._limit / 2, LAST_LIMIT)
            why = "takes too long for a value"
        except MemoryError:
            why = "takes too much memory for a value"
        except re.error:
            why = "can't be held to a time limit"
        # raised here, not in the handler: what was searched stands in its frames
        raise PatternTooSlow(
            f"{self.where or 'a pattern'}: the regular expression {why}; write it without repetitions "
            "within repetitions, such as (a+)+, and alternatives that begin alike, such as (a|ab)*"
        )


@lru_cache(maxsize=1024)
def site_pattern(pattern: str, where: str = "") -> Pattern:
    """As :class:`Pattern`; the same one for the same words, so that a slow one is known as slow."""
    return Pattern(pattern, where)


def longest_unguarded(pattern: str) -> int:
    """How long a text may be so that ``re`` certainly ends soon; -1: no text is short enough.

    Without repetitions within repetitions the steps are at most those of placing every repetition, and the
    beginning of the search, anywhere in the text, for each choice of alternatives.

    Args:
        pattern: a sound regular expression.
    """
    bare = _SKIPPED.sub("a", pattern)
    if _UNCLEAR.search(pattern) or (counted := _choices(bare)) is None:
        return -1
    choices, repetitions = counted
    longest, step = 0, _LONGEST
    while step:
        if comb(longest + step + repetitions + 1, repetitions + 1) * choices <= STEPS:
            longest += step
        step //= 2
    return longest


def _choices(bare: str) -> tuple[int, int] | None:
    """Choices of alternatives and repetitions on the way through an expression; None: repetitions nest."""
    open_groups: list[tuple[int, int, int, int]] = []
    others, most, choices, repetitions = 0, 0, 1, 0  # alternatives before this one, and this one
    for part in _PART.finditer(bare):
        text = part[0]
        if text.startswith("(") and not text.endswith(")"):
            open_groups.append((others, most, choices, repetitions))
            others, most, choices, repetitions = 0, 0, 1, 0
        elif text == "|":
            others, most, choices, repetitions = others + choices, max(most, repetitions), 1, 0
        elif text == ")":
            inside, deepest = others + choices, max(most, repetitions)
            if bare[part.end() : part.end() + 1] in ("*", "+", "{"):
                return None
            others, most, choices, repetitions = open_groups.pop()
            choices, repetitions = choices * inside, repetitions + deepest
        elif text == "?":
            choices *= 2
        elif not text.startswith("("):
            repetitions += 1
    return others + choices, max(most, repetitions)
