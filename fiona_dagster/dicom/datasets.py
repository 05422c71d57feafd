"""Small data sets of requests and answers (queries, storage commitment), without pydicom.

Belongs here: what a C-FIND or N-ACTION carries, some dozens of elements. Stays out: images.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache

from fiona_dagster.dicom.uids import encoding_of
from fiona_dagster.dicom.walker import BytesSource, Walk
from fiona_dagster.errors import UnreadableDicom

Values = Mapping[int, "str | Sequence[Values]"]
"""Tag -> text, or the items of a sequence."""

_LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_ITEM = struct.Struct("<HHI")
_MAX_DEPTH = 8


@cache
def _tags() -> dict[str, int]:
    from fiona_dagster.dicom.dictionary import ATTRIBUTES

    return {entry[4]: tag for tag, entry in ATTRIBUTES.items()}


def tag_of(keyword: str) -> int:
    """The tag of a keyword of the data dictionary (PS3.6).

    Raises:
        KeyError: no such keyword.
    """
    return _tags()[keyword]


def encode(values: Values, *, explicit: bool) -> bytes:
    """A data set, little endian, elements in the order of their tags.

    Args:
        values: text in ASCII; VRs are those of the data dictionary.
        explicit: explicit VR (else implicit).
    """
    from fiona_dagster.dicom.dictionary import dictionary_vr

    out = b""
    for tag, value in sorted(values.items()):
        vr = dictionary_vr(tag)
        if isinstance(value, str):
            raw = value.encode("ascii", "replace")
            raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
        else:
            items = [encode(item, explicit=explicit) for item in value]
            raw = b"".join(_ITEM.pack(0xFFFE, 0xE000, len(item)) + item for item in items)
        out += _head(tag, vr, len(raw), explicit=explicit) + raw
    return out


def _head(tag: int, vr: str, length: int, *, explicit: bool) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if not explicit:
        return _ITEM.pack(group, element, length)
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHI", group, element, vr.encode(), 0, length)
    return struct.pack("<HH2sH", group, element, vr.encode(), length)


def decode(data: bytes, transfer_syntax: str, wanted: Sequence[int]) -> dict[int, str]:
    """Texts of some elements of the top level, without padding; those that are not there are left out.

    Args:
        data: the encoded data set.
        transfer_syntax: its UID; not deflated.
        wanted: tags.

    Raises:
        UnreadableDicom: it is broken.
    """
    encoding = encoding_of(transfer_syntax)
    tags = frozenset(wanted)
    walk = Walk(
        BytesSource(data),
        explicit=encoding.explicit is not False,
        big=encoding.big_endian,
        max_depth=_MAX_DEPTH,
        is_sequence=lambda _: False,
    )
    found: dict[int, str] = {}
    for element in walk:
        if element.depth == 0 and element.tag in tags and element.length < len(data):
            found[element.tag] = walk.value(element).decode("latin-1").strip("\0 ")
    if walk.problem is not None:
        raise UnreadableDicom(f"data set of an answer is broken: {walk.problem.reason}")
    return found
