"""ZIP archives, entry by entry, bounded in memory, time and bytes whatever they claim.

Only what DICOM media may use is unpacked (PS3.12 annex V): stored and deflated entries without encryption.
Names of entries are labels for people and never become paths.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fiona_dagster.landing.sources import HEAD, kind_of

MAX_ENTRIES = 250_000
"""Entries of one archive; each costs half a kilobyte of memory while the archive is read."""
MAX_DIRECTORY = 64 * 1024 * 1024
"""Bytes of an archive's central directory."""
MAX_RATIO = 200
"""How many times its own size an archive may grow to. CT and MR shrink to a half, empty segmentations to a
hundredth; deflate itself ends at a thousandth (zlib's technical details)."""
FREE_OF_RATIO = 1024**3
"""Bytes that any archive may grow to, however small it is."""

_CHUNK = 1024 * 1024
_STEP = 256 * 1024
_ENTRY_SIGNATURE = b"PK\x01\x02"
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # APPNOTE 4.4.4: bits 0, 6 and 13
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError, OverflowError, IndexError, KeyError),
)
"""What zipfile raises for bytes that are no sound archive."""


class ArchiveRefused(Exception):
    """The archive as a whole can't be taken; says why, without names.

    Attributes:
        code: for the reason in quarantine: ``archive_broken``, ``archive_too_large``, ``archive_encrypted``
            or ``archive_without_dicom``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _DiskFailed(Exception):
    """Reading the archive's own file failed: no fault of the archive, so it is none of ``_BROKEN``."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class EntryDamaged(Exception):
    """An entry ends before its end, or its checksum is wrong; says why, without its name."""


@dataclass(frozen=True)
class Entry:
    """One file in an archive.

    Attributes:
        name: as the archive has it: for people only, may identify a patient.
        size: bytes, as claimed; no more than that are ever given out.
        packed: bytes in the archive, as claimed.
        refusal: why it can't be unpacked at all; empty if it can.
        is_link: a symbolic link; it holds no data.
    """

    name: str
    size: int
    packed: int
    refusal: str
    is_link: bool
    _archive: zipfile.ZipFile
    _info: zipfile.ZipInfo
    _checksum: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes.

        Raises:
            EntryDamaged: after those that could be read.
            OSError: the disk can't be read.
        """
        checksum = count = 0
        try:
            with self._archive.open(self._info) as file:
                while chunk := file.read1(_STEP):  # type: ignore[attr-defined]  # a ZipExtFile has it
                    checksum = zlib.crc32(chunk, checksum)
                    count += len(chunk)
                    yield chunk
        except _DiskFailed as failed:
            raise failed.error from None
        except _BROKEN:
            raise EntryDamaged("entry of the archive is damaged") from None
        if count != self.size or checksum != self._checksum:
            raise EntryDamaged("entry of the archive is cut off or has a wrong checksum")

    def head(self) -> bytes:
        """The first bytes, fewer if it is damaged.

        Raises:
            OSError: the disk can't be read.
        """
        try:
            with self._archive.open(self._info) as file:
                return file.read(HEAD)
        except _DiskFailed as failed:
            raise failed.error from None
        except _BROKEN:
            return b""


class _Bounded:
    """The archive's file, read in pieces that can't exhaust the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.size = file.seek(0, os.SEEK_END)

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self._file.tell(), 0)
        wanted = left if size < 0 else min(size, left)
        if wanted > MAX_DIRECTORY:
            raise ArchiveRefused("archive_too_large", "the archive's directory is too large")
        try:
            data = self._file.read(wanted)
        except OSError as error:
            raise _DiskFailed(error) from None
        if wanted > _CHUNK and data.count(_ENTRY_SIGNATURE) > MAX_ENTRIES:
            raise ArchiveRefused("archive_too_large", f"the archive has more than {MAX_ENTRIES} entries")
        return data


class Archive:
    """An open ZIP archive.

    Args:
        file: opened for binary reading; stays open.
        max_unpacked: bytes that all entries together may have.

    Raises:
        ArchiveRefused: no sound archive, or too large a claim.
        OSError: the disk can't be read.
    """

    def __init__(self, file: BinaryIO, max_unpacked: int) -> None:
        bounded = _Bounded(file)
        try:
            self._zip = zipfile.ZipFile(bounded)
        except _DiskFailed as failed:
            raise failed.error from None
        except _BROKEN:
            raise ArchiveRefused("archive_broken", "the archive is damaged or cut off") from None
        entries = self._zip.infolist()
        self.unpacked = sum(info.file_size for info in entries)
        limit = min(max_unpacked, max(FREE_OF_RATIO, MAX_RATIO * bounded.size))
        if self.unpacked > limit:
            raise ArchiveRefused(
                "archive_too_large",
                f"the archive claims to unpack to {self.unpacked // 2**20} MiB, more than the limit of "
                f"{limit // 2**20} MiB (imports.max_unpacked_gb, and {MAX_RATIO} times its size)",
            )
        self._entries = [(info, info.CRC) for info in entries]
        for info in entries:
            info.CRC = None  # type: ignore[assignment]  # zipfile would keep the bytes of a wrong one to itself

    def entries(self) -> Iterator[Entry]:
        """All entries but folders."""
        for info, checksum in self._entries:
            if info.file_size or not info.filename.endswith("/"):  # is_dir() fails for an empty name
                yield self._entry(info, checksum)

    def must_hold_dicom(self) -> None:
        """Looks at the beginnings of entries until one may be DICOM, or an archive of its own.

        Raises:
            ArchiveRefused: there is none: an office document, a program, or all of it is encrypted. Such an
                archive is one file for quarantine, and not thousands.
        """
        refusal = ""
        for entry in self.entries():
            refusal = refusal or entry.refusal
            if not entry.refusal and not entry.is_link and kind_of(entry.head()):
                return
        if refusal:
            raise ArchiveRefused("archive_encrypted", refusal)
        raise ArchiveRefused("archive_without_dicom", "archive in which nothing is DICOM")

    def _entry(self, info: zipfile.ZipInfo, checksum: int) -> Entry:
        refusal = ""
        if info.flag_bits & _ENCRYPTED:
            refusal = "entry of the archive is encrypted; unpack the archive and import the files"
        elif info.compress_type not in _METHODS:
            refusal = "entry of the archive is compressed in an unusual way; unpack the archive first"
        link = stat.S_ISLNK(info.external_attr >> 16)
        sizes = info.file_size, info.compress_size
        return Entry(info.filename, *sizes, refusal, link, self._zip, info, checksum)

    def close(self) -> None:
        """Forgets the directory; the file stays open."""
        self._zip.close()
