"""What the objects of one sender have in common in front of their UIDs, compared in one step.

Objects of a series hold the same elements in the same order, mostly with the same lengths. Where the heads of
all elements (tag, VR, length) stand at the same places as in an object that was walked before, the walk would
take the same steps: the UIDs stand where they stood. What differs anywhere is walked.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
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


class _Layout(NamedTuple):
    size: int
    heads: struct.Struct
    expected: tuple[bytes, ...]
    values: struct.Struct
    tags: tuple[int, ...]


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
            if len(data) >= layout.size and layout.heads.unpack_from(data) == layout.expected:
                if number:
                    self._layouts.insert(0, self._layouts.pop(number))
                return dict(zip(layout.tags, layout.values.unpack_from(data), strict=True))
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
    heads: list[bytes] = []
    format_of_heads, format_of_values = ["<"], ["<"]
    tags: list[int] = []
    missing = set(needed)
    at = behind_last = 0
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
        if tag in wanted and (length > MAX_VALUE or tag in tags):
            return None
        heads.append(bytes(data[at : at + head]))
        format_of_heads.append(f"{head}s{length}x")
        if tag in wanted:
            format_of_values.append(f"{at + head - behind_last}x{length}s")
            tags.append(tag)
            behind_last = end
        missing.discard(tag)
        at = end
    formats = (struct.Struct("".join(parts)) for parts in (format_of_heads, format_of_values))
    return _Layout(at, next(formats), tuple(heads), next(formats), tuple(tags))
