"""GE's user data block (0043,xx2A): the flags of the phase encoding stay, everything else becomes zero.

The block is a dump of the scanner's raw data header: besides flags it holds date and time of the scan, the
number of the examination and initials. Layout of what stays: as dcm2niix reads it.
"""

from __future__ import annotations

import struct

from fiona_dagster.deid.elements import Element
from fiona_dagster.deid.plan import Context

USER_DATA = (0x0043002A, "GEMS_PARM_01")
"""Group and element within the block, creator."""
_START = 24
"""Where an unsigned number of two bytes says where the raw data header begins."""
_OLDEST, _NEWEST, _MOVED = 5.0, 40.0, 25.002
"""Versions of the raw data header; since the last one it has another part before the flags."""
_FLAGS = ((0x30, 0x0004), (0x3A, 0x0800))
"""Places of flags behind the header's start, and the bits that stay: polarity, echo planar imaging."""
_VIEW_ORDER = 0x394


def flags_only(element: Element, context: Context) -> Element | None:
    """The block with its flags alone, as long as before; ``None`` for one that is built in another way."""
    kept = _flags(bytes(element.value)) if element.items is None else None
    return None if kept is None else Element(element.tag, "OB", kept)


def is_flags_only(data: bytes) -> bool:
    """Whether a block is one that holds its flags alone."""
    return _flags(data) == data


def _flags(data: bytes) -> bytes | None:
    made = bytearray(len(data))
    if len(data) < _START + 2:
        return None
    (start,) = struct.unpack_from("<H", data, _START)
    if not _START + 2 <= start <= len(data) - 4:
        return None
    (version,) = struct.unpack_from("<f", data, start)
    if not _OLDEST <= version <= _NEWEST:
        return None
    struct.pack_into("<H", made, _START, start)
    struct.pack_into("<f", made, start, version)
    base, order = (start + 0x4C, _VIEW_ORDER - 0x8C) if version >= _MOVED else (start, _VIEW_ORDER)
    if base + order + 2 > len(data):
        return None
    for place, bits in _FLAGS:
        (value,) = struct.unpack_from("<H", data, base + place)
        struct.pack_into("<H", made, base + place, value & bits)
    (value,) = struct.unpack_from("<h", data, base + order)
    struct.pack_into("<h", made, base + order, value if 0 <= value <= 9 else 0)
    return bytes(made)
