"""Values from Siemens' own headers: CSA elements (SV10 and the older layout) and the Phoenix protocol.

Only the few values that the record names are looked for, by name; a header of 100 kB is not taken apart.
Sources: behaviour reference section 2.1; the layout as nibabel documents it (``nicom/siemens_csa``).
"""

from __future__ import annotations

import struct

_FOUR = struct.Struct("<4I")
_TAG = struct.Struct("<I4s3I")
_DELIMITERS = (77, 205)
_NAME_BYTES, _TAG_BYTES = 64, 84
_MAX_ITEMS, _MAX_VALUE = 200, 64 * 1024
_BEGIN, _END = b"### ASCCONV BEGIN", b"### ASCCONV END"
_MAX_PROTOCOL, _MAX_LINE = 2**20, 4096

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
    "BaselineString": (
        "sProtConsistencyInfo.tBaselineString",
        "sProtConsistencyInfo.tMeasuredBaselineString",
    ),
}
"""Key -> entries of the protocol, the first that is there counts."""


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


def image_values(data: bytes) -> dict[str, str | tuple[str, ...]]:
    """What the record needs of an image header; a tuple where there are several values."""
    found: dict[str, str | tuple[str, ...]] = {}
    for key, name in IMAGE_NAMES.items():
        values = csa_values(data, name)
        if values:
            found[key] = values[0] if len(values) == 1 else tuple(values)
    return found


def protocol_values(data: bytes) -> dict[str, str | tuple[str, ...]]:
    """What the record needs of a Phoenix protocol, wherever in ``data`` it stands.

    Args:
        data: a CSA series header, or the value of (0021,xx19) of *SIEMENS MR SDS 01*.
    """
    begin = data.find(_BEGIN)
    if begin < 0:
        return {}
    end = data.find(_END, begin, begin + _MAX_PROTOCOL)
    text = data[begin : end if end >= 0 else begin + _MAX_PROTOCOL]
    found: dict[str, str] = {}
    for key, names in PROTOCOL_NAMES.items():
        values = (_entry(text, name) for name in names)
        value = next((value for value in values if value), "")
        if value:
            found[key] = value
    baseline = found.pop("BaselineString", "")
    if "N4_" in baseline:
        found["OSLevel"] = baseline.partition("N4_")[2]
    return dict(found)


def _entry(text: bytes, name: str) -> str:
    """The value of a protocol's line ``name = value``; empty if there is none."""
    key = name.encode("ascii")
    at = text.find(key)
    while at >= 0:
        line = text[at + len(key) : at + len(key) + _MAX_LINE].partition(b"\n")[0]
        before = text[max(0, at - 16) : at].rstrip(b" \t")
        if before.endswith(b"\n") and line.lstrip().startswith(b"="):
            return line.partition(b"=")[2].decode("latin-1").strip().strip('"').strip()
        at = text.find(key, at + 1)
    return ""
