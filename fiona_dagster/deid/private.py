"""Private attributes that may stay: table E.3.10-1 of PS3.15 and the project's own list, by creator."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.config.deid import tag_pattern
from fiona_dagster.deid import ge

_LOW = 0xFFFF00FF
"""Of a private tag: the group, and the element within its block."""


@lru_cache(maxsize=1)
def safe_table() -> dict[tuple[int, str], str]:
    """Table E.3.10-1: (tag without block, creator) -> VR ("" where the table says none)."""
    content = (files(__package__) / "data" / "safe_private.csv").read_text("utf-8")
    return {
        (int(row["element"].replace("x", "0"), 16), row["creator"]): row["vr"]
        for row in csv.DictReader(content.splitlines())
    }


class SafePrivate:
    """What a project keeps of private attributes; ``own`` is its own list, without blocks.

    Args:
        listed: the project's own list, elements by creator; empty: the standard's table alone.
    """

    def __init__(self, listed: Mapping[str, Sequence[str]] | None = None) -> None:
        self.own = {
            (tag_pattern(element).value & _LOW, creator.strip())
            for creator, elements in (listed or {}).items()
            for element in elements
        }
        self._tags = {tag for tag, _ in (*safe_table(), *self.own, ge.USER_DATA)}

    @property
    def creators(self) -> frozenset[str]:
        """Private creators that the standard's table and the project's list name."""
        return frozenset(creator for _, creator in (*safe_table(), *self.own))

    def touches(self, tag: int) -> bool:
        """Whether some creator's element of this tag stays."""
        return tag & _LOW in self._tags

    def find(self, tag: int, creator: str) -> tuple[str, str] | None:
        """VR ("": the file's own) and reason of an element that stays; ``None``: it goes."""
        key = (tag & _LOW, creator)
        if not creator or not tag & 0xFF00:
            return None
        vr = safe_table().get(key)
        if vr is not None:
            return vr, "table E.3.10-1, retain_safe_private"
        return ("", "project's list, retain_safe_private") if key in self.own else None

    def __repr__(self) -> str:
        return f"SafePrivate({sorted(self.own)})"
