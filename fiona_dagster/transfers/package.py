"""One ZIP a study: written reproducibly behind the gate, verified offline.

Belongs here: what lies in the ZIP, the manifest, checksums beside it.
Stays out: names inside (``transfers.layout``), bytes of ZIP headers (``transfers.zipformat``), checking a
package again (``transfers.verify``), where packages go (``transfers.targets``), verification (``deid``).

A package is ``manifest.json``, ``report.json``, then the DICOM files in sorted order. Its ZIP comment is a
SHA-256 over every byte before the digest itself, so that checking it needs nothing beside the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from fiona_dagster.errors import NotVerified, StorageFull, UsageError
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.layout import arcnames
from fiona_dagster.transfers.verify import CHUNK, FORMAT, MANIFEST, REPORT, read_manifest, verify_package
from fiona_dagster.transfers.zipformat import Entry

__all__ = [
    "PackageInfo",
    "arcnames",
    "build_package",
    "read_manifest",
    "require_records",
    "software_version",
    "verify_package",
]

REQUIRED = (
    "project",
    "participant",
    "event",
    "StudyInstanceUID",
    "generation",
    "key_fingerprint",
    "software",
)
"""What the caller says about a package; ``StudyInstanceUID`` is the mapped one, never the original."""

WHOLE = 16 << 20
"""Files up to this size are read once into memory; larger ones are read twice."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackageInfo:
    """A package on disk.

    Attributes:
        path: the ZIP; ``<path>.md5`` and ``<path>.sha256`` stand beside it.
        size: bytes.
        md5: hexadecimal digest of the whole ZIP.
        sha256: hexadecimal digest of the whole ZIP.
        files: number of DICOM files inside.
    """

    path: Path
    size: int
    md5: str
    sha256: str
    files: int


def software_version() -> str:
    """Name and version of what writes the package, for manifest and report."""
    try:
        return f"fiona-dagster {version('fiona-dagster')}"
    except PackageNotFoundError:
        return "fiona-dagster (not installed)"


def build_package(
    files: Sequence[tuple[str, Path]],
    target_zip: Path,
    manifest_extra: Mapping[str, Any],
    expected: Mapping[str, str],
    *,
    report: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PackageInfo:
    """Packs verified files; every byte that goes in is compared with the verification record.

    Args:
        files: pairs of name inside the ZIP (see :func:`arcnames`) and de-identified file.
        target_zip: where the ZIP shall stand; replaced atomically.
        manifest_extra: at least :data:`REQUIRED` (``software`` is filled in); nothing from the original.
        expected: SHA-256 of every verified file, keyed by its name inside the ZIP; exactly the
            given files.
        report: the de-identification report, stored as ``report.json``.
        progress: called with (bytes packed, bytes in all).

    Returns:
        What was written.

    Raises:
        NotVerified: a file differs from its record, or the sets of files differ. Nothing appears.
        StorageFull: no room for the package.
        UsageError: an unsafe or repeated name, or a lacking manifest entry.
    """
    require_records([name for name, _ in files], expected)
    content = sorted(((name, path, expected[name]) for name, path in files), key=lambda item: item[0])
    _check_names([name for name, _, _ in content])
    sizes = [_size(path) for _, path, _ in content]
    documents = _documents(content, sizes, manifest_extra, report)
    part = target_zip.with_name(f".{target_zip.name}.part")
    sides = {kind: target_zip.with_name(f"{target_zip.name}.{kind}") for kind in ("md5", "sha256")}
    try:
        with _no_room(target_zip.parent), _written(part) as stream:
            writer = _Writer(stream)
            for name, data in documents:
                writer.add(name, data)
            total = sum(sizes)
            for (name, path, digest), size in zip(content, sizes, strict=True):
                _pack(writer, name, path, size, digest)
                if progress is not None:
                    progress(writer.offset, total)
            writer.finish()
        info = PackageInfo(
            target_zip, writer.offset, writer.md5.hexdigest(), writer.sha256.hexdigest(), len(content)
        )
        with _no_room(target_zip.parent):
            for kind, digest in (("md5", info.md5), ("sha256", info.sha256)):
                with _written(_part_of(sides[kind])) as stream:
                    stream.write(f"{digest}  {target_zip.name}\n".encode())
        for side in sides.values():
            _part_of(side).replace(side)
        part.replace(target_zip)
        _sync_folder(target_zip.parent)
    finally:
        for leftover in (part, *(_part_of(side) for side in sides.values())):
            leftover.unlink(missing_ok=True)
    return info


def require_records(keys: Sequence[str], expected: Mapping[str, str]) -> None:
    """Half of the gate: what is in hand must be exactly what the verification record names.

    Args:
        keys: how the files in hand are called in the record.
        expected: SHA-256 by that key.

    Raises:
        NotVerified: nothing in hand, a file without a record, a record without a file, or a file given twice.
    """
    if not keys or len(set(keys)) != len(keys) or set(keys) != set(expected):
        raise NotVerified(
            f"{len(keys)} files in hand are not the {len(expected)} of the verification record; "
            "de-identify and verify the study again"
        )


def _check_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if not zipformat.is_safe_name(name):
            raise UsageError(f"file {index + 1} of the package: its name inside the ZIP is not safe")
    if len({name.lower() for name in (*names, MANIFEST, REPORT)}) != len(names) + 2:
        raise UsageError("two files of the package have the same name inside the ZIP")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        raise NotVerified("a verified file has vanished before it was packed; de-identify again") from None


def _documents(
    content: Sequence[tuple[str, Path, str]],
    sizes: Sequence[int],
    extra: Mapping[str, Any],
    report: Mapping[str, Any] | None,
) -> list[tuple[str, bytes]]:
    head = {"software": software_version(), **extra}
    missing = [key for key in REQUIRED if key not in head]
    if missing:
        raise UsageError(f"manifest: {', '.join(missing)} missing")
    report_bytes = _json(report or {})
    listed = [{"name": REPORT, "size": len(report_bytes), "sha256": hashlib.sha256(report_bytes).hexdigest()}]
    for (name, _, digest), size in zip(content, sizes, strict=True):
        listed.append({"name": name, "size": size, "sha256": digest})
    manifest = {"format": FORMAT, **head, "files": listed}
    return [(MANIFEST, _json(manifest)), (REPORT, report_bytes)]


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")


class _Writer:
    """Appends entries; hashes everything that is written, so that the package is never read again."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.offset = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self.entries: list[Entry] = []

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self.md5.update(data)
        self.sha256.update(data)
        self.offset += len(data)

    def begin(self, name: str, size: int, crc: int) -> None:
        entry = Entry(name, size, crc, self.offset)
        self.entries.append(entry)
        self.write(zipformat.local_header(entry))

    def add(self, name: str, data: bytes) -> None:
        self.begin(name, len(data), zlib.crc32(data))
        self.write(data)

    def finish(self) -> None:
        start = self.offset
        for entry in self.entries:
            self.write(zipformat.directory_header(entry))
        self.write(zipformat.end_records(len(self.entries), start, self.offset - start))
        self.write(zipformat.COMMENT_PREFIX)
        self.write(self.sha256.hexdigest().encode())


def _pack(writer: _Writer, name: str, path: Path, size: int, digest: str) -> None:
    try:
        with path.open("rb") as source:
            if size <= WHOLE:
                # What was hashed is what is written: the same bytes in memory.
                data = source.read(size + 1)
                if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
                    raise _changed()
                writer.add(name, data)
                return
            crc, first = _digest(source, size)
            if first != digest:
                raise _changed()
            source.seek(0)
            writer.begin(name, size, crc)
            if _digest(source, size, writer.write)[1] != digest:
                raise _changed()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NotVerified("a verified file can't be read while it is packed; de-identify again") from None


def _digest(source: BinaryIO, size: int, sink: Callable[[bytes], None] | None = None) -> tuple[int, str]:
    crc, sha256, done = 0, hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        done += len(chunk)
        if done > size:
            raise _changed()
        crc = zlib.crc32(chunk, crc)
        sha256.update(chunk)
        if sink is not None:
            sink(chunk)
    if done != size:
        raise _changed()
    return crc, sha256.hexdigest()


def _changed() -> NotVerified:
    return NotVerified("a file differs from its verification record; de-identify and verify the study again")


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=CHUNK) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _no_room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{folder}: no room for a package; free space and try again") from None
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
