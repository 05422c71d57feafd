"""The one form of ZIP that packages have: stored, fixed times, ZIP64 where needed.

Belongs here: bytes of headers (PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 to 4.3.16) and reading them
back. Stays out: what lies in a package. One file list has exactly one sequence of header bytes, so
that verification can rebuild them and compare: nothing in a package is free to be changed.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

LIMIT_32 = 0xFFFFFFFF
LIMIT_16 = 0xFFFF
DATE_1980_01_01 = 0x0021
"""DOS date of 1980-01-01, the earliest that ZIP knows; DOS time is 0."""
MADE_BY_UNIX = 3 << 8
FILE_ATTRIBUTES = 0o100600 << 16
"""A plain file that only its owner may read and write."""

END_SIZE = 22


@dataclass(frozen=True)
class Form:
    """What the comment at the end of a package seals it with.

    Attributes:
        number: of the package's format.
        signed: whether an Ed25519 signature follows the SHA-256.
    """

    number: int
    signed: bool

    @property
    def prefix(self) -> bytes:
        """What stands before the SHA-256; covered by it."""
        return f"FIONA package {self.number} sha256:".encode()

    @property
    def seal_length(self) -> int:
        """Bytes behind the prefix."""
        return 64 + (len(SIGNATURE_PREFIX) + 128 if self.signed else 0)

    @property
    def comment_length(self) -> int:
        """Bytes of the whole comment."""
        return len(self.prefix) + self.seal_length


SIGNATURE_PREFIX = b" ed25519:"
UNSIGNED = Form(1, signed=False)
"""How packages were made up to 2026-11; still verified."""
SIGNED = Form(2, signed=True)

_SAFE_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]{0,199}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One file of an archive.

    Attributes:
        name: path inside the archive with ``/`` between components.
        size: bytes of content.
        crc: CRC-32 of the content.
        offset: position of the local header.
    """

    name: str
    size: int
    crc: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Position of the first byte of content."""
        return self.offset + len(local_header(self))

    @property
    def end(self) -> int:
        """Position behind the last byte of content."""
        return self.data_offset + self.size


def is_safe_name(name: str) -> bool:
    """Whether a name may stand in a package: relative, plain ASCII, no ``..``, no device names of Windows."""
    parts = name.split("/")
    return len(name) <= 400 and all(
        _SAFE_COMPONENT.fullmatch(part) and not part.endswith(".") and not _DEVICE.fullmatch(part)
        for part in parts
    )


def local_header(entry: Entry) -> bytes:
    """Local file header (APPNOTE 4.3.7), with a ZIP64 field for 4 GiB and more (4.5.3)."""
    name = entry.name.encode("ascii")
    if entry.size < LIMIT_32:
        version, size, extra = 20, entry.size, b""
    else:
        version, size = 45, LIMIT_32
        extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.size)
    fixed = struct.pack(
        "<4sHHHHHIIIHH",
        b"PK\x03\x04", version, 0, 0, 0, DATE_1980_01_01, entry.crc, size, size, len(name), len(extra),
    )  # fmt: skip
    return fixed + name + extra


def directory_header(entry: Entry) -> bytes:
    """Central directory header (APPNOTE 4.3.12)."""
    name = entry.name.encode("ascii")
    wide = b""
    size, offset = entry.size, entry.offset
    if size >= LIMIT_32:
        wide += struct.pack("<QQ", size, size)
        size = LIMIT_32
    if offset >= LIMIT_32:
        wide += struct.pack("<Q", offset)
        offset = LIMIT_32
    version = 45 if wide else 20
    extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
    fixed = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\x01\x02", MADE_BY_UNIX | version, version, 0, 0, 0, DATE_1980_01_01, entry.crc, size, size,
        len(name), len(extra), 0, 0, 0, FILE_ATTRIBUTES, offset,
    )  # fmt: skip
    return fixed + name + extra


def end_records(count: int, start: int, size: int, form: Form = SIGNED) -> bytes:
    """End of central directory, with the ZIP64 records where needed (APPNOTE 4.3.14 to 4.3.16), no comment.

    Args:
        count: number of entries.
        start: position of the central directory.
        size: bytes of the central directory.
        form: of the comment that follows.
    """
    wide = b""
    if count >= LIMIT_16 or start >= LIMIT_32 or size >= LIMIT_32:
        wide = struct.pack(
            "<4sQHHIIQQQQ",
            b"PK\x06\x06", 44, MADE_BY_UNIX | 45, 45, 0, 0, count, count, size, start,
        )  # fmt: skip
        wide += struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    short = min(count, LIMIT_16)
    end = struct.pack(
        "<4sHHHHIIH",
        b"PK\x05\x06", 0, 0, short, short, min(size, LIMIT_32), min(start, LIMIT_32),
        form.comment_length,
    )  # fmt: skip
    return wide + end


class DamagedError(ValueError):
    """The archive's own structure can't be followed; says where."""


def find_form(stream: BinaryIO, length: int) -> Form:
    """Which form of package the end of the file is.

    Args:
        stream: the archive, seekable.
        length: its size in bytes.

    Raises:
        DamagedError: none.
    """
    for form in (SIGNED, UNSIGNED):
        start = length - form.comment_length - END_SIZE
        if start >= 0:
            stream.seek(start)
            end = stream.read(END_SIZE)
            if end[:4] == b"PK\x05\x06" and end[-2:] == struct.pack("<H", form.comment_length):
                return form
    raise DamagedError("end of archive: changed, cut off, something stands behind it, or no package")


def read_directory(stream: BinaryIO, length: int) -> tuple[list[Entry], int]:
    """Entries of the central directory and its position; only sizes, names and offsets are believed.

    Args:
        stream: the archive, seekable.
        length: its size in bytes.

    Raises:
        DamagedError: the end records or the directory can't be followed.
    """
    end = length - find_form(stream, length).comment_length - END_SIZE
    stream.seek(end)
    count, size, start = _read_end(stream.read(END_SIZE))
    if LIMIT_32 in (size, start) or count == LIMIT_16 or end != start + size:
        count, size, start = _read_wide_end(stream, end)
        end -= 56 + 20
    if start + size != end:
        raise DamagedError("end of archive: the central directory does not end where the end records begin")
    stream.seek(start)
    return _parse_directory(stream.read(size), count), start


def _read_end(record: bytes) -> tuple[int, int, int]:
    _, disk, first, here, count, size, start, _ = struct.unpack("<4sHHHHIIH", record)
    if (disk, first) != (0, 0) or here != count:
        raise DamagedError("end of archive: changed")
    return count, size, start


def _read_wide_end(stream: BinaryIO, end: int) -> tuple[int, int, int]:
    if end < 76:
        raise DamagedError("end of archive: positions don't fit the file")
    stream.seek(end - 76)
    record = stream.read(76)
    if record[:4] != b"PK\x06\x06" or record[56:60] != b"PK\x06\x07":
        raise DamagedError("end of archive: positions don't fit the file")
    count, size, start = struct.unpack("<QQQ", record[32:56])
    return count, size, start


def _parse_directory(data: bytes, count: int) -> list[Entry]:
    entries: list[Entry] = []
    position = 0
    while position < len(data):
        where = f"central directory: entry {len(entries) + 1}"
        if len(data) - position < 46 or data[position : position + 4] != b"PK\x01\x02":
            raise DamagedError(f"{where}: changed")
        crc, _, size, name_length, extra_length = struct.unpack_from("<IIIHH", data, position + 16)
        (offset,) = struct.unpack_from("<I", data, position + 42)
        extra = data[position + 46 + name_length : position + 46 + name_length + extra_length]
        try:
            name = data[position + 46 : position + 46 + name_length].decode("ascii")
            size, offset = _wide_values(extra, size, offset)
        except (UnicodeDecodeError, struct.error):
            raise DamagedError(f"{where}: changed") from None
        entry = Entry(name, size, crc, offset)
        if not is_safe_name(name):
            raise DamagedError(f"{where}: the name is not one that a package may have")
        if directory_header(entry) != data[position : position + 46 + name_length + extra_length]:
            raise DamagedError(f"{name}: its entry in the central directory was changed")
        entries.append(entry)
        position += 46 + name_length + extra_length
    if len(entries) != count:
        raise DamagedError("end of archive: number of entries differs from the central directory")
    return entries


def _wide_values(extra: bytes, size: int, offset: int) -> tuple[int, int]:
    wide = extra[4:]
    if size == LIMIT_32:
        (size,) = struct.unpack_from("<Q", wide)
        wide = wide[16:]
    if offset == LIMIT_32:
        (offset,) = struct.unpack_from("<Q", wide)
    return size, offset
