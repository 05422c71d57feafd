"""What the objects of one sender have in common in front of their UIDs, compared in one step.

Objects of a series hold the same elements in the same order, mostly with the same lengths. Where the heads of
all elements (tag, VR, length) stand at the same places as in an object that was walked before, the walk would
take the same steps: the UIDs stand where they stood. What differs anywhere is walked.

Most values are the same as well. So what has never differed so far is compared as whole runs of bytes, heads
and values alike. Only when such a run differs are the heads compared one by one, and then the values that
differ are left out of it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_HEAD, _LONG_LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")
_UNDEFINED = 0xFFFFFFFF

MAX_KNOWN = 4
"""Layouts that are kept; the one that fitted last is tried first."""
MAX_LEARNED = 32
"""Layouts that are learned from one sender; whose objects never fit is not worth more."""
MAX_VALUE = 128
"""Bytes of a value that is wanted."""
MAX_BYTES = 64 * 1024
"""Bytes in front of the last UID; longer ones are not kept."""


class _Element(NamedTuple):
    head: int
    value: int
    end: int
    tag: int


class _Layout:
    """One object's elements in front of its UIDs: their places, and what they had in common so far.

    Args:
        front: the bytes of the object that was walked, from its first to the end of its last UID.
        elements: where they stand in it: their heads, their values, and their ends.
        wanted: tags whose values are read.
    """

    def __init__(self, front: bytes, elements: Sequence[_Element], wanted: Collection[int]) -> None:
        self.size = len(front)
        self._elements = elements
        self._wanted = wanted
        self._heads = struct.Struct("<" + "".join(f"{e.value - e.head}s{e.end - e.value}x" for e in elements))
        self._expected = self._heads.unpack(front)
        self._differing: set[_Element] = set()
        self._settle(front)

    def _settle(self, front: bytes) -> None:
        """Takes from an object what all had in common so far, as runs of bytes and as values."""
        runs, at = "<", 0
        for element in sorted(self._differing):
            runs += f"{element.value - at}s{element.end - element.value}x"
            at = element.end
        self._runs = struct.Struct(f"{runs}{len(front) - at}s")
        self._same = self._runs.unpack(front)
        self._last = front
        read = [element for element in self._elements if element.tag in self._wanted]
        self._common = {e.tag: front[e.value : e.end] for e in read if e not in self._differing}
        self._own = [(e.tag, e.value, e.end) for e in read if e in self._differing]

    def read(self, front: bytes) -> dict[int, bytes] | None:
        """The wanted values of another object, from as many of its first bytes; None if its heads differ."""
        if self._runs.unpack(front) != self._same:
            return self._read_anew(front)
        values = self._common.copy()
        for tag, at, end in self._own:
            values[tag] = front[at:end]
        return values

    def _read_anew(self, front: bytes) -> dict[int, bytes] | None:
        if self._heads.unpack(front) != self._expected:
            return None
        for element in self._elements:
            if front[element.value : element.end] != self._last[element.value : element.end]:
                self._differing.add(element)
        self._settle(front)
        return {e.tag: front[e.value : e.end] for e in self._elements if e.tag in self._wanted}


class KnownHeads:
    """The layouts of one association. Belongs to one thread. Explicit VR little endian only."""

    def __init__(self) -> None:
        self._layouts: list[_Layout] = []
        self._learned = 0

    def find(self, data: bytes | memoryview) -> dict[int, bytes] | None:
        """The wanted values of a data set that is laid out like one before.

        Args:
            data: its first bytes.

        Returns:
            Tag -> value as :meth:`learn` was asked for; None if it is laid out in another way.
        """
        for number, layout in enumerate(self._layouts):
            if len(data) < layout.size:
                continue
            values = layout.read(bytes(data[: layout.size]))
            if values is not None:
                if number:
                    self._layouts.insert(0, self._layouts.pop(number))
                return values
        return None

    def learn(self, data: bytes | memoryview, wanted: Collection[int], needed: Collection[int]) -> None:
        """Keeps the layout of a data set that was walked without a complaint.

        Args:
            data: its first bytes.
            wanted: tags whose values are to be found, where they are.
            needed: the walk ended at the last of these.
        """
        if self._learned >= MAX_LEARNED:
            return
        self._learned += 1
        layout = _layout_of(data, wanted, needed)
        if layout is not None:
            self._layouts.insert(0, layout)
            del self._layouts[MAX_KNOWN:]


def _layout_of(data: bytes | memoryview, wanted: Collection[int], needed: Collection[int]) -> _Layout | None:
    elements: list[_Element] = []
    found: set[int] = set()
    missing = set(needed)
    at = 0
    while missing:
        if at + 12 > min(len(data), MAX_BYTES):
            return None
        group, element, vr, length = _HEAD.unpack_from(data, at)
        head = 8
        if vr in _LONG_VRS:
            (length,) = _LONG_LENGTH.unpack_from(data, at + 8)
            head = 12
        elif vr not in _SHORT_VRS:
            return None
        tag, end = group << 16 | element, at + head + length
        if length == _UNDEFINED or group == 0xFFFE or end > len(data):
            return None
        if tag in wanted and (length > MAX_VALUE or tag in found):
            return None
        found.add(tag)
        elements.append(_Element(at, at + head, end, tag))
        missing.discard(tag)
        at = end
    return _Layout(bytes(data[:at]), elements, wanted)
