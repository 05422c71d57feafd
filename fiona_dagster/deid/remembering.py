"""Where terms stand in values that come again in every slice of a study.

Stays out: finding them (``terms``).
"""

from __future__ import annotations

from fiona_dagster.deid.spread import Hit
from fiona_dagster.deid.terms import Terms

_LONGEST, _MOST = 1 << 10, 1 << 14
"""Length of a value that is remembered, and how many of them; then all are forgotten."""


class RememberedTerms:
    """The answers of :class:`Terms` to which nothing is added any more.

    Args:
        terms: of one study.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._hits: dict[bytes, tuple[Hit, ...]] = {}
        self._found: dict[tuple[str, bool], tuple[Hit, ...]] = {}

    def hits(self, data: bytes) -> list[Hit]:
        """See :meth:`Terms.hits`."""
        known = self._hits.get(data)
        if known is None:
            known = tuple(self._terms.hits(data))
            if len(data) <= _LONGEST:
                if len(self._hits) >= _MOST:
                    self._hits.clear()
                self._hits[data] = known
        return list(known)

    def find(self, text: str, thorough: bool = False) -> list[Hit]:
        """See :meth:`Terms.find`."""
        key = (text, thorough)
        known = self._found.get(key)
        if known is None:
            known = tuple(self._terms.find(text, thorough))
            if len(text) <= _LONGEST:
                if len(self._found) >= _MOST:
                    self._found.clear()
                self._found[key] = known
        return list(known)
