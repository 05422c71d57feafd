"""What was done to an object, counted for its report.

Belongs here: numbers and the names under which they stand. Stays out: what is done (``engine``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fiona_dagster.deid.elements import name_of

UNCOUNTED = frozenset(("keep", "sequence", "pixels"))
"""Actions after which an element is as it was, or is counted by what is in it."""


def counted_name(tag: int) -> str:
    """The name under which elements are counted; private ones by group."""
    return f"({tag >> 16:04X},private)" if tag >> 16 & 1 else name_of(tag)


@dataclass
class Tally:
    """What was done: by action, and by attribute.

    Attributes:
        actions: action -> elements.
        tags: ``(gggg,eeee)`` and action -> elements.
        unchecked: what the pixel data hold besides pixels is not known.
    """

    actions: Counter[str] = field(default_factory=Counter)
    tags: Counter[tuple[str, str]] = field(default_factory=Counter)
    unchecked: bool = False

    def add(self, action: str, tag: int) -> None:
        """Counts one element."""
        self.actions[action] += 1
        self.tags[counted_name(tag), action] += 1
