"""Values from Siemens' own headers: CSA elements (SV10 and the older layout) and the Phoenix protocol.

Only the few values that the record names are looked for, by name; a header of 100 kB is not taken apart.
Sources: behaviour reference section 2.1; the layout as nibabel documents it (``nicom/siemens_csa``).
"""

from __future__ import annotations

import re
import struct

_FOUR = struct.Struct("<4I")
_TAG = struct.Struct("<I4s3I")
_DELIMITERS = (77, 205)
_NAME_BYTES, _TAG_BYTES = 64, 84
_MAX_ITEMS, _MAX_VALUE = 200, 64 * 1024
_BEGIN, _END = b"### ASCCONV BEGIN", b"### ASCCONV END"
_MAX_PROTOCOL = 2**20

IMAGE_NAMES = {
    "PhaseEncodingDirectionPositive": "PhaseEncodingDirectionPositive",
    "B_value": "B_value",
    "DiffusionDirectionality": "DiffusionDirectionality",
    "DiffusionGradientDirection": "DiffusionGradientDirection",
}
"""Key -> CSA element of the image header."""

PROTOCOL_NAMES = {
    "siemensUUID": ("sWipMemBlock.tFree", "sWiPMemBlock.tFree"),
    "NumSlices": ("sGroupArray.asGroup[0].nSize",),
    "MeasID": ("SequenceID",),
    "BaselineString": ("sProtConsistencyInfo.tBaselineString", "sProtConsistencyInfo.tMeasuredBaselineString"),
}
"""Key -> entries of the protocol, the first that is there counts."""


def is_csa(data: bytes) -> bool:
    """Whether these bytes look like a CSA header of either layout."""
    return data[:4] == b"SV10" or (len(data) > _TAG_BYTES + 8 and data[4:8] == b"M\0\0\0")


def csa_values(data: bytes, name: str) -> list[str]:
    """The values of one CSA element, without padding; empty if it is not there or broken.

    Args:
        data: the whole header, SV10 or the older layout.
        name: of the element, as ``B_value``.
    """
    key = name.encode("ascii") + b"\0"
    at = data.find(key)
    while at >= 0:
        found = _values_at(data, at)
        if found is not None:
            return found
        at = data.find(key, at + 1)
    return []


def _values_at(data: bytes, at: int) -> list[str] | None:
    """The values of the element whose name begins at ``at``; ``None`` if no element begins there."""
    if at + _TAG_BYTES > len(data) or (at % 4 and not data.startswith(b"SV10")):
        return None
    multiplicity, vr, _, count, delimiter = _TAG.unpack_from(data, at + _NAME_BYTES)
    letters = vr.partition(b"\0")[0]
    if delimiter not in _DELIMITERS or len(letters) != 2 or not letters.isalpha() or count > _MAX_ITEMS:
        return None
    first = 0 if data.startswith(b"SV10") else _first_count(data)
    position, values = at + _TAG_BYTES, []
    for _ in range(count):
        if position + _FOUR.size > len(data):
            break
        numbers = _FOUR.unpack_from(data, position)
        position += _FOUR.size
        length = numbers[1] if data.startswith(b"SV10") else numbers[0] - first
        if length < 0 or length > _MAX_VALUE or position + length > len(data):
            break
        text = data[position : position + length].partition(b"\0")[0].decode("latin-1").strip()
        if text:
            values.append(text)
        position += (length + 3) & ~3
    return values[: multiplicity or None]


def _first_count(data: bytes) -> int:
    """In the older layout lengths are counted from the first element's number of items."""
    return int(_TAG.unpack_from(data, 8 + _NAME_BYTES)[3])


def image_values(data: bytes) -> dict[str, str | list[str]]:
    """What the record needs of an image header; a list where there are several values."""
    found: dict[str, str | list[str]] = {}
    for key, name in IMAGE_NAMES.items():
        values = csa_values(data, name)
        if values:
            found[key] = values[0] if len(values) == 1 else values
    return found


def protocol_values(data: bytes) -> dict[str, str]:
    """What the record needs of a Phoenix protocol, wherever in ``data`` it stands.

    Args:
        data: a CSA series header, or the value of (0021,xx19) of *SIEMENS MR SDS 01*.
    """
    begin = data.find(_BEGIN)
    if begin < 0:
        return {}
    end = data.find(_END, begin, begin + _MAX_PROTOCOL)
    text = data[begin : end if end >= 0 else begin + _MAX_PROTOCOL]
    found = {}
    for key, names in PROTOCOL_NAMES.items():
        for name in names:
            match = _entry(name).search(text)
            if match:
                value = match.group(1).decode("latin-1").strip().strip('"').strip()
                if value:
                    found[key] = value
                    break
    baseline = found.pop("BaselineString", "")
    if "N4_" in baseline:
        found["OSLevel"] = baseline.partition("N4_")[2]
    return found


def _entry(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"\n[ \t]*" + re.escape(name).encode("ascii") + rb"[ \t]*=([^\r\n]{0,4096})")
