"""What is remembered from object to object on the fast way (``rewriting``): of a person, and of a header.

Belongs here: data. Stays out: how they come about (``passage``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fiona_dagster.deid.elements import DicomFile, Element, Reader, text
from fiona_dagster.deid.engine import Task
from fiona_dagster.deid.identities import Told
from fiona_dagster.deid.leftovers import Leftovers
from fiona_dagster.deid.rows import Counted, Rows
from fiona_dagster.deid.stretches import Hint, Stretches, Suspect

ROOM = 4 << 20
"""Bytes that may be remembered of a person."""
_ENTRY = 200
"""Bytes that an entry takes besides its own."""


@dataclass(slots=True)
class Outcome:
    """What became of an element, and what it told."""

    written: bytes
    counted: list[Counted]
    told: list[Hint]
    suspects: list[Suspect]
    originals: set[str]


@dataclass
class Person:
    """What identified the person of some objects, and what was learned about values since.

    Attributes:
        key: from what it follows; objects that tell the same have the same person.
        charset: Specific Character Set (0008,0005) of these objects.
        leftovers: searches values.
        task: the exact engine for one element.
        inserted: tag, bytes and ``Insertion.unless`` of what is assigned, and a last one behind all.
        plan: rows of the top level.
        told: what these objects tell.
        harmless, uids, outcomes, stretches: what is remembered of values, UIDs, elements and several of them.
        remembered: bytes of it, about.
    """

    key: tuple[object, ...]
    charset: bytes
    leftovers: Leftovers
    task: Task
    inserted: list[tuple[int, bytes, str]]
    plan: Rows
    told: frozenset[Told]
    harmless: set[tuple[int, bytes]] = field(default_factory=set)
    uids: dict[tuple[bytes, object], tuple[bytes, set[str]]] = field(default_factory=dict)
    outcomes: dict[tuple[int, bytes], Outcome] = field(default_factory=dict)
    stretches: Stretches = field(default_factory=Stretches)
    remembered: int = 0

    def remembers(self, size: int) -> None:
        """Makes sure that so many bytes more may be remembered; forgets all others if need be."""
        self.remembered += size + _ENTRY
        if self.remembered > ROOM:
            self.harmless.clear()
            self.uids.clear()
            self.outcomes.clear()
            self.stretches.forget()
            self.remembered = size + _ENTRY


class Header(DicomFile):
    """What stands before the pixel data, element by element when asked."""

    def __init__(self, data: bytes, reader: Reader, transfer_syntax: str) -> None:
        super().__init__(transfer_syntax, [], "")
        self._data, self._reader = memoryview(data), reader
        self.places: dict[int, int] = {}
        self._found: dict[int, Element] = {}

    def find(self, tag: int) -> Element | None:
        """The top-level element of that tag."""
        found = self._found.get(tag)
        if found is None and (pos := self.places.get(tag)) is not None:
            _, _, length = self._reader.tag_long(self._data, pos)
            found = self._reader.element(pos, len(self._data), tag, length, 0)[1]
            self._found[tag] = found
        return found

    def text(self, tag: int) -> str:
        """A top-level value as text."""
        found = self.find(tag)
        return text(found.value) if found else ""
