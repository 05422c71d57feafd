"""Values of DICOM elements as the rules and the series record see them.

A value is a text, an int, a float, or a tuple of these; ``EMPTY`` for an element without a value. Decimal and
integer strings (DS, IS) become :class:`Decimal`, which keeps the text of the file: the original prints that.
"""

from __future__ import annotations

import functools
import logging
import re
import struct
import sys
import warnings
from typing import Literal

from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.valuerep import PersonName

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values, in the log as well
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Unquoted(str):
    """A text that is printed without quotes in a list, like the names of people."""

    __slots__ = ()


class Decimal(Unquoted):
    """A number in the file's own spelling (VR DS or IS)."""

    __slots__ = ()


Scalar = str | int | float
Value = Scalar | tuple[Scalar, ...]
EMPTY: tuple[Scalar, ...] = ()
"""The value of an element that is there but has none."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_TEXT = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UI"))
_LONG_TEXT = frozenset(("LT", "ST", "UT", "UR"))
_CODED = frozenset(("LO", "SH", "UC", "LT", "ST", "UT", "PN"))
_ALONE = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"))
_TEXT_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x09, 0x5C}
MAX_TEXT = 64 * 1024
"""Bytes of a value that are looked at; rules have no use for more."""
_CACHED = 256
"""Decoded values of at most so many bytes are remembered, since most repeat from instance to instance."""
_MAX_REMEMBERED = 65536
_remembered: dict[tuple[str, bytes], Value] = {}


def number(value: object) -> float | None:
    """The finite number that a value is or spells, else ``None``."""
    if isinstance(value, int | float):
        return float(value) if abs(value) <= sys.float_info.max else None
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= 64 and NUMBER.fullmatch(text):
            found = float(text)
            return found if abs(found) <= sys.float_info.max else None
    return None


def printed(value: Value) -> str:
    """A value as the original prints it: ``['ORIGINAL', 'PRIMARY']``, ``[0, 256, 256, 0]``, plain text."""
    if isinstance(value, tuple):
        if value == EMPTY:
            return ""
        return "[" + ", ".join(_printed_element(part) for part in value) + "]"
    return str(value)


def _printed_element(part: Scalar) -> str:
    if isinstance(part, Unquoted):
        return str.__str__(part) or ("None" if isinstance(part, Decimal) else "")
    return repr(part) if isinstance(part, str) else str(part)


def vr_of(tag: int, creator: str, *, signed: bool = False) -> str:
    """The VR that the dictionaries know for a tag, ``UN`` if none do.

    Args:
        tag: group and element.
        creator: private creator of a private element.
        signed: the file's pixels are signed, which decides "US or SS" (PS3.6 section 6).
    """
    if not tag & 0xFFFF:
        return "UL"  # group length
    try:
        if tag >> 16 & 1:
            return private_dictionary_VR(tag, creator) if creator else "UN"
        return "SS" if signed and dictionary_VR(tag) == "US or SS" else dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


@functools.lru_cache(maxsize=256)
def encodings_of(charset: bytes) -> tuple[str, ...]:
    """Python codecs for a Specific Character Set (0008,0005); the default where it is unknown."""
    names = [part.strip() for part in charset.decode("ascii", "replace").strip(" \0").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        try:
            return tuple(convert_encodings(names))
        except (LookupError, ValueError):
            return (default_encoding,)


def decode(vr: str, data: bytes, charset: bytes = b"", *, big: bool = False) -> Value:
    """Decodes the bytes of one element.

    Args:
        vr: value representation; ``UN`` gives the text where it is printable.
        data: the bytes; at most :data:`MAX_TEXT` are looked at.
        charset: bytes of Specific Character Set.
        big: big endian.
    """
    if len(data) > _CACHED:
        return _decode(vr, data[:MAX_TEXT], charset, big)
    return _decode_once(vr, data, charset, big)


def _decode(vr: str, data: bytes, charset: bytes, big: bool) -> Value:
    if vr in _BINARY:
        return _numbers(vr, data, ">" if big else "<")
    if vr == "AT":
        pairs = _numbers("US", data, ">" if big else "<")
        flat = pairs if isinstance(pairs, tuple) else (pairs,)
        tags = [Unquoted(f"({a:04X},{b:04X})") for a, b in zip(flat[::2], flat[1::2], strict=False)]
        return _one_or_many(tags)
    if vr in ("DS", "IS"):
        texts = data.decode("latin-1").strip(" \0").split("\\")
        return _one_or_many([Decimal(part.strip(" \0")) for part in texts])
    if vr == "PN":
        return _one_or_many(
            [Unquoted(_person_name(part, charset)) for part in data.rstrip(b" \0").split(b"\\")]
        )
    if vr in _LONG_TEXT:
        return _one_or_many([_text(data, vr, charset).rstrip(" \0")])
    if vr in _TEXT:
        texts = _text(data, vr, charset).rstrip(" \0").split("\\")
        return _one_or_many([part.strip(" \0") for part in texts])
    return _unknown(data)


_decode_once = functools.lru_cache(maxsize=8192)(_decode)


def recall(element: tuple[str, bytes]) -> Value | None:
    """The value of an element (VR, bytes) that :func:`remember` was told; ``None`` where it was not."""
    return _remembered.get(element)


def remember(element: tuple[str, bytes], value: Value) -> None:
    """Remembers a value if nothing but VR and bytes decides about it: no character set, no byte order.

    Most values repeat from instance to instance.
    """
    vr, data = element
    if len(data) > _CACHED or not (vr in _ALONE or (vr in _CODED and data.isascii() and b"\x1b" not in data)):
        return
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    _remembered[element] = value


def forget() -> None:
    """Forgets the values that are remembered, as when a process starts."""
    _decode_once.cache_clear()
    _remembered.clear()


def _one_or_many(parts: list[Scalar] | list[str] | list[Decimal] | list[Unquoted]) -> Value:
    if len(parts) == 1:
        return parts[0] if parts[0] != "" else EMPTY
    return tuple(parts)


def _numbers(vr: str, data: bytes, order: Literal["<", ">"]) -> Value:
    code = _BINARY[vr]
    size = struct.calcsize(order + code)
    values = struct.unpack(f"{order}{len(data) // size}{code}", data[: len(data) // size * size])
    return values[0] if len(values) == 1 else values


def _text(data: bytes, vr: str, charset: bytes) -> str:
    if data.isascii() and b"\x1b" not in data:
        return data.decode("ascii")
    if vr not in _CODED:
        return data.decode("latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values
        try:
            return decode_bytes(data, list(encodings_of(charset)), _TEXT_DELIMITERS)
        except (LookupError, ValueError):
            return data.decode("latin-1")


def _person_name(data: bytes, charset: bytes) -> str:
    if data.isascii() and b"\x1b" not in data:
        return data.decode("ascii").strip(" \0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(PersonName(data, list(encodings_of(charset)))).strip(" \0")
        except (LookupError, ValueError):
            return data.decode("latin-1").strip(" \0")


def _unknown(data: bytes) -> Value:
    """UN and binary VRs: the text if it is one, else how Python prints the first bytes."""
    text = data.rstrip(b" \0")
    if text.isascii() and all(byte >= 32 or byte in (9, 10, 13) for byte in text):
        return _one_or_many([part.strip(" ") for part in text.decode("ascii").split("\\")])
    return repr(data[:64])
