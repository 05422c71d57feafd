"""File meta information (PS3.10 section 7): written for what the network sent, and read back."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from fiona_dagster.dicom.uids import clean_uid
from fiona_dagster.errors import UnreadableDicom

IMPLEMENTATION_CLASS_UID = "2.25.119184157221376131479222996595381719422"
"""Ours, from a UUID (PS3.5 B.2)."""

MAX_META = 1024 * 1024
"""Bytes of file meta information that are read; a private information element may be large."""

_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_HEAD = struct.Struct("<HH2sH")
_LENGTH = struct.Struct("<HH2sHI")
_FRONT = bytes(128) + b"DICM"
_CLASS, _INSTANCE, _SYNTAX = 0x0002, 0x0003, 0x0010


IMPLEMENTATION_VERSION = "FIONA_DAGSTER"
"""Name as peers see it, at most 16 characters (PS3.7 D.3.3.2.3)."""


@dataclass(frozen=True)
class FileMeta:
    """What a file says about its data set.

    Attributes:
        transfer_syntax: TransferSyntaxUID.
        sop_class: MediaStorageSOPClassUID, empty if it says none.
        sop_instance: MediaStorageSOPInstanceUID, empty if it says none.
        data_set_offset: where the data set begins, bytes from the start of the file.
    """

    transfer_syntax: str
    sop_class: str
    sop_instance: str
    data_set_offset: int


def _element(element: int, vr: bytes, value: bytes, pad: bytes = b"\0") -> bytes:
    if len(value) % 2:
        value += pad
    return _HEAD.pack(0x0002, element, vr, len(value)) + value


def build_file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, source_ae: str = "") -> bytes:
    """Preamble, prefix and file meta information for an object that came by C-STORE.

    Args:
        sop_class: Affected SOP Class UID of the command.
        sop_instance: Affected SOP Instance UID of the command.
        transfer_syntax: UID of the accepted transfer syntax.
        source_ae: AE title of the sender, ASCII; left out when empty.
    """
    before, behind = _same_for_all(sop_class, transfer_syntax, source_ae)
    body = before + _element(_INSTANCE, b"UI", sop_instance.encode("ascii", "replace")) + behind
    return _FRONT + _LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(body)) + body


@lru_cache(maxsize=256)
def _same_for_all(sop_class: str, transfer_syntax: str, source_ae: str) -> tuple[bytes, bytes]:
    """What stands before and behind the instance; it is the same for a whole series."""
    before = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1"
    before += _element(_CLASS, b"UI", sop_class.encode("ascii", "replace"))
    behind = _element(_SYNTAX, b"UI", transfer_syntax.encode("ascii", "replace"))
    behind += _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode())
    behind += _element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode(), b" ")
    if source_ae:
        behind += _element(0x0016, b"AE", source_ae.encode("ascii", "replace"), b" ")
    return before, behind


def read_file_meta(file: BinaryIO) -> FileMeta:
    """Reads the file meta information from the start of a file.

    Args:
        file: opened for binary reading, at its start.

    Raises:
        UnreadableDicom: no preamble, no prefix, or broken before the data set; says where and why.
    """
    start = file.read(132)
    if not start:
        raise UnreadableDicom("file is empty")
    if len(start) < 132 or start[128:] != b"DICM":
        raise UnreadableDicom("no DICM prefix after a preamble of 128 bytes")
    offset = 132
    found: dict[int, bytes] = {}
    while header := file.read(8):
        if len(header) < 8:
            raise UnreadableDicom(f"file ends inside the file meta information, byte {offset}")
        group, element, vr, length = struct.unpack("<HH2sH", header)
        if group != 0x0002:
            break
        size = 8
        if vr in _LONG_VRS:
            rest = file.read(4)
            length = struct.unpack("<I", rest)[0] if len(rest) == 4 else MAX_META
            size = 12
        elif not (vr.isalpha() and vr.isupper()):
            raise UnreadableDicom(f"file meta information has no VR at byte {offset + 4}")
        if offset + size + length > MAX_META:
            raise UnreadableDicom(f"file meta information is broken or too long, byte {offset}")
        value = file.read(length)
        if len(value) < length:
            raise UnreadableDicom(f"file ends inside the file meta information, byte {offset}")
        found.setdefault(element, value)
        offset += size + length
    if _SYNTAX not in found:
        raise UnreadableDicom("file meta information has no TransferSyntaxUID")
    return FileMeta(
        transfer_syntax=clean_uid(found[_SYNTAX]),
        sop_class=clean_uid(found.get(_CLASS, b"")),
        sop_instance=clean_uid(found.get(_INSTANCE, b"")),
        data_set_offset=offset,
    )
