"""Objects to send, made from a seed: headers as long as real ones, with sequences and private blocks."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from fiona_dagster.dicom import build_file_meta

EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.10.1513"
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")


def _element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2) if vr in (b"UI", b"OB", b"OW", b"SQ") else b" " * (len(value) % 2)
    head = struct.pack("<HH2s", group, number, vr)
    if vr in _LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _references(sop_class: str, number: int) -> bytes:
    items = b""
    for count in range(3):
        body = _element(0x0008, 0x1150, b"UI", sop_class.encode())
        body += _element(0x0008, 0x1155, b"UI", f"{ROOT}.9.{number}.{count}".encode())
        items += struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
    return _element(0x0008, 0x1140, b"SQ", items)


def data_set(
    sop_class: str,
    study: str,
    series: str,
    instance: str,
    *,
    number: int,
    pixels: bytes,
    chance: random.Random,
) -> bytes:
    """One explicit VR little endian data set of about 190 elements."""
    modality = b"CT" if sop_class == CT else b"MR"
    out = _element(0x0008, 0x0005, b"CS", b"ISO_IR 100")
    out += _element(0x0008, 0x0008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL")
    out += _element(0x0008, 0x0016, b"UI", sop_class.encode())
    out += _element(0x0008, 0x0018, b"UI", instance.encode())
    for tag in (0x0020, 0x0021, 0x0022, 0x0023):
        out += _element(0x0008, tag, b"DA", b"20261125")
    for tag in (0x0030, 0x0031, 0x0032, 0x0033):
        out += _element(0x0008, tag, b"TM", b"101112.000000")
    out += _element(0x0008, 0x0050, b"SH", b"") + _element(0x0008, 0x0060, b"CS", modality)
    for tag in (0x0070, 0x0080, 0x0081, 0x0090, 0x1010, 0x1030, 0x103E, 0x1050, 0x1090):
        out += _element(0x0008, tag, b"LO", f"benchmark value {tag:04x}".encode())
    out += _references(sop_class, number)
    for tag in (0x0010, 0x0020, 0x0030, 0x0040, 0x1010, 0x1030, 0x21B0):
        out += _element(0x0010, tag, b"LO", f"benchmark {tag:04x}".encode())
    for tag in range(0x0010, 0x00A0, 2):
        out += _element(0x0018, tag, b"DS", f"{chance.random():.6f}".encode())
    out += _element(0x0020, 0x000D, b"UI", study.encode()) + _element(0x0020, 0x000E, b"UI", series.encode())
    out += _element(0x0020, 0x0010, b"SH", b"1") + _element(0x0020, 0x0013, b"IS", str(number).encode())
    for tag in range(0x0032, 0x0060, 2):
        out += _element(0x0020, tag, b"DS", b"1.0\\0.0\\0.0")
    for tag, value in ((0x0002, 1), (0x0010, 512), (0x0011, 512), (0x0100, 16), (0x0101, 12), (0x0102, 11)):
        out += _element(0x0028, tag, b"US", struct.pack("<H", value))
    out += _element(0x0029, 0x0010, b"LO", b"BENCHMARK HEADER")
    out += _element(0x0029, 0x1010, b"OB", chance.randbytes(4096))
    return out + _element(0x7FE0, 0x0010, b"OW", pixels)


def make(folder: Path, kind: str, count: int, pixel_bytes: int) -> list[Path]:
    """Writes one study.

    Args:
        folder: made if it is missing.
        kind: ``ct`` or ``mr``.
        count: instances.
        pixel_bytes: size of the pixel data of each.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"{kind} {count} {pixel_bytes}")  # noqa: S311 - test data
    sop_class = CT if kind == "ct" else MR
    study, series = f"{ROOT}.{kind == 'ct':d}.{count}", f"{ROOT}.{kind == 'ct':d}.{count}.1"
    pixels = chance.randbytes(min(pixel_bytes, 1 << 20))
    pixels = (pixels * (pixel_bytes // len(pixels) + 1))[:pixel_bytes]
    files = []
    for number in range(1, count + 1):
        instance = f"{series}.{number}"
        path = folder / f"{number:05}.dcm"
        data = data_set(sop_class, study, series, instance, number=number, pixels=pixels, chance=chance)
        path.write_bytes(build_file_meta(sop_class, instance, EXPLICIT) + data)
        files.append(path)
    return files
