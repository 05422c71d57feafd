"""Small DICOM objects made byte by byte, independent of the code under test."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TypedDict, Unpack

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
STUDY = "1.2.3.100"
SERIES = "1.2.3.100.1"


def element(tag: int, vr: bytes, value: bytes | str) -> bytes:
    """One explicit VR little endian element."""
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) % 2:
        raw += b"\0" if vr == b"UI" else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, len(raw)) + raw
    return head + struct.pack("<H", len(raw)) + raw


class Values(TypedDict, total=False):
    """What :func:`data_set` takes by keyword."""

    study: str
    series: str
    sop_class: str
    modality: str
    pixels: bytes
    name: str


def data_set(
    instance: str,
    *,
    study: str = STUDY,
    series: str = SERIES,
    sop_class: str = CT,
    modality: str = "CT",
    pixels: bytes = b"\1\2" * 64,
    name: str = "Planted^Patient",
) -> bytes:
    """An explicit VR little endian data set; an empty UID leaves its element out."""
    parts = [
        element(0x00080016, b"UI", sop_class) if sop_class else b"",
        element(0x00080018, b"UI", instance) if instance else b"",
        element(0x00080060, b"CS", modality) if modality else b"",
        element(0x00100010, b"PN", name),
        element(0x0020000D, b"UI", study) if study else b"",
        element(0x0020000E, b"UI", series) if series else b"",
        element(0x7FE00010, b"OW", pixels),
    ]
    return b"".join(parts)


def part10(data: bytes, instance: str, *, sop_class: str = CT, syntax: str = EXPLICIT, pad: int = 0) -> bytes:
    """A file around a data set; ``pad`` fills the preamble."""
    meta = element(0x00020001, b"OB", b"\0\1")
    meta += element(0x00020002, b"UI", sop_class) if sop_class else b""
    meta += element(0x00020003, b"UI", instance) if instance else b""
    meta += element(0x00020010, b"UI", syntax) if syntax else b""
    group = element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    return bytes([pad]) * 128 + b"DICM" + group + meta + data


def write_object(folder: Path, instance: str, **keywords: Unpack[Values]) -> Path:
    """A complete file; keywords as for :func:`data_set`."""
    path = folder / f"{instance}.dcm"
    sop_class = keywords.get("sop_class", CT)
    path.write_bytes(part10(data_set(instance, **keywords), instance, sop_class=sop_class))
    return path
