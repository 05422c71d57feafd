"""Numbers of binary values (PS3.5 section 6.2)."""

from __future__ import annotations

import struct

NUMBER_FORMATS = {
    "FL": "f",
    "FD": "d",
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}
"""VRs of numbers as `struct` calls them."""
WIDE_NUMBERS = NUMBER_FORMATS.keys() - {"SS", "US"}
"""Those with room for an id or a date."""


def numbers_of(vr: str, value: bytes, little: bool) -> tuple[int | float, ...] | None:
    """The numbers of a binary value; None if its VR is none of numbers, or its length does not fit.

    Args:
        vr: value representation.
        value: as it stands in the file.
        little: its byte order is little endian.
    """
    code = NUMBER_FORMATS.get(vr)
    size = struct.calcsize(code) if code else 0
    if not code or len(value) % size:
        return None
    return struct.unpack(f"{'<' if little else '>'}{len(value) // size}{code}", value)
