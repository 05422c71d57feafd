"""The original's triple of a series (behaviour reference, 5.1): ``<Study>_<Series>.tgz`` and what is beside.

Belongs here: these three files, from verified bytes, reproducibly. Stays out: which series and where to.
The tar is wrapped in gzip without compression (RFC 1952): pixel data barely shrink, and compressors of
different versions write different bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers.documents import record_json, series_records
from fiona_dagster.transfers.layout import PackedFile, PackedSeries, require_unchanged
from fiona_dagster.transfers.pictures import stored_blocks
from fiona_dagster.transfers.writing import changed, write_synced

DAY_ONE = 315532800
"""1980-01-01, UTC: the time of every member, as in the ZIP."""
_BLOCK = 65535
_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""gzip without name, time and operating system."""


def write_triples(
    laid_out: Sequence[PackedSeries],
    verified: Mapping[str, str],
    folder: Path,
    types: Mapping[str, Sequence[str]],
) -> list[Path]:
    """Writes the three files of every series; the new UIDs are their names.

    Args:
        laid_out: the series of a study.
        verified: SHA-256 of each file by its name in the verification record.
        folder: where they shall stand; made if missing.
        types: new SeriesInstanceUID -> types that the site's rules gave the series.

    Returns:
        The files of all series.

    Raises:
        NotVerified: a file differs from its record; that series does not appear.
    """
    if {file.record for series in laid_out for file in series.files} != set(verified):
        raise NotVerified("the files in hand are not those of the verification record; de-identify again")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for series, record in zip(laid_out, series_records(laid_out, types), strict=True):
        header = series.files[0].header
        base = folder / f"{header.study}_{header.series}"
        text = record_json(record)
        archive = base.with_name(f"{base.name}.tgz")
        part = archive.with_name(f".{archive.name}.part")
        try:
            md5 = _write(part, series.files, verified, text)
            require_unchanged(series.files)
            write_synced(base.with_name(f"{base.name}.json"), text)
            write_synced(base.with_name(f"{base.name}.md5sum"), f"{md5} *{archive.name}\n".encode())
            part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
        written += [archive, base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.md5sum")]
    return written


def _write(part: Path, files: Sequence[PackedFile], verified: Mapping[str, str], record: bytes) -> str:
    header = files[0].header
    inside = f"{header.study}/{header.series}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        wrapped = _StoredGzip(stream)
        with tarfile.open(mode="w|", fileobj=cast(IO[bytes], wrapped), format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(_member(f"{inside}.json", len(record)), io.BytesIO(record))
            for file in sorted(files, key=lambda each: each.header.sop_instance):
                _add(tar, f"{inside}/{file.header.sop_instance}", file, verified[file.record])
        wrapped.finish()
        stream.flush()
        os.fsync(stream.fileno())
    return str(wrapped.md5.hexdigest())


def _add(tar: tarfile.TarFile, name: str, file: PackedFile, expected: str) -> None:
    try:
        with file.path.open("rb") as stream:
            source = _Hashed(stream)
            tar.addfile(_member(name, file.header.size), cast(IO[bytes], source))
            if stream.read(1) or source.sha256.hexdigest() != expected:
                raise changed()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        with from_copy():  # also tarfile's word for a file that became shorter, which has no number
            raise


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, DAY_ONE, 0o600
    return member


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        return data


class _StoredGzip:
    """Takes what tarfile writes, and wraps it in a gzip member of stored blocks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._crc = self._size = 0
        self.md5: Any = hashlib.md5(usedforsecurity=False)
        self._out(_HEAD)

    def _out(self, data: bytes) -> None:
        self.md5.update(data)
        self._stream.write(data)

    def write(self, data: bytes) -> int:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._waiting += data
        whole = len(self._waiting) - len(self._waiting) % _BLOCK
        if whole > 16 * _BLOCK:
            self._out(stored_blocks(bytes(self._waiting[:whole]), last=False))
            del self._waiting[:whole]
        return len(data)

    def finish(self) -> None:
        self._out(
            stored_blocks(bytes(self._waiting)) + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)
        )
