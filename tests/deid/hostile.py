"""Data sets put together byte by byte, as no careful writer would."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from tests.deid.phantoms import CT, EXPLICIT, IMPLICIT, ROOT, SERIES, STUDY

LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
UNDEFINED = 0xFFFFFFFF
PIXELS = bytes(range(64)) * 2


class Maker:
    """Makes elements of one transfer syntax."""

    def __init__(self, syntax: str = EXPLICIT) -> None:
        self.syntax, self.implicit = syntax, syntax == IMPLICIT

    def element(
        self, tag: int, vr: str, value: bytes = b"", *, length: int = -1, reserved: bytes = b"\0\0"
    ) -> bytes:
        """One element; its value is not padded, its length as told."""
        size = len(value) if length < 0 else length
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if self.implicit:
            return head + struct.pack("<I", size) + value
        if vr in LONG:
            return head + vr.encode() + reserved + struct.pack("<I", size) + value
        return head + vr.encode() + struct.pack("<H", size & 0xFFFF) + value

    def sequence(self, tag: int, *items: bytes, vr: str = "SQ", defined: bool = True) -> bytes:
        """A sequence; lengths are told or left open."""
        if defined:
            made = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)
            return self.element(tag, vr, made)
        made = b"".join(
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + item + b"\xfe\xff\x0d\xe0" + bytes(4) for item in items
        )
        return self.element(tag, vr, made + b"\xfe\xff\xdd\xe0" + bytes(4), length=UNDEFINED)

    def image(self, *more: tuple[int, bytes], number: int = 1, name: bytes = b"Quisling^Wendelin ") -> bytes:
        """The data set of a small image, with other elements in their places; empty bytes remove one."""
        e = self.element
        parts = {
            0x00080016: e(0x00080016, "UI", _uid(CT)),
            0x00080018: e(0x00080018, "UI", _uid(f"{ROOT}.3.{number}")),
            0x00080020: e(0x00080020, "DA", b"20180503"),
            0x00080060: e(0x00080060, "CS", b"CT"),
            0x00100010: e(0x00100010, "PN", name),
            0x00100020: e(0x00100020, "LO", b"ZX83015577"),
            0x0020000D: e(0x0020000D, "UI", _uid(STUDY)),
            0x0020000E: e(0x0020000E, "UI", _uid(SERIES)),
            0x00280002: e(0x00280002, "US", b"\1\0"),
            0x00280004: e(0x00280004, "CS", b"MONOCHROME2 "),
            0x00280010: e(0x00280010, "US", b"\x08\0"),
            0x00280011: e(0x00280011, "US", b"\x08\0"),
            0x00280100: e(0x00280100, "US", b"\x10\0"),
            0x00280101: e(0x00280101, "US", b"\x0c\0"),
            0x00280102: e(0x00280102, "US", b"\x0b\0"),
            0x00280103: e(0x00280103, "US", b"\0\0"),
            0x7FE00010: e(0x7FE00010, "OW", PIXELS),
        }
        parts.update(more)
        return b"".join(parts[tag] for tag in sorted(parts))

    def file(self, path: Path, data_set: bytes, *, meta: Iterable[bytes] = ()) -> Path:
        """A file with a data set."""
        explicit = Maker()
        elements = explicit.element(0x00020010, "UI", _uid(self.syntax)) + b"".join(meta)
        length = explicit.element(0x00020000, "UL", struct.pack("<I", len(elements)))
        path.write_bytes(bytes(128) + b"DICM" + length + elements + data_set)
        return path


def _uid(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) & 1)
